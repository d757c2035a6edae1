"""Write a made-up store whose report folder has the shape stage 95_report writes, for tests of the dashboard."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

FLIGHTS_FEATURES = (
    "dep_hour", "carrier", "origin", "dest", "distance", "plane_age", "wind_gust", "visibility", "precip", "temp",
    "day_of_week", "late_share_origin_7d", "late_share_carrier_7d", "previous_leg_delay",
)  # fmt: skip
CATEGORICAL = {"carrier", "origin", "dest", "day_of_week"}
METRICS = {
    "binary": (
        "roc_auc",
        "average_precision",
        "brier",
        "log_loss",
        "mean_prediction",
        "positive_rate",
        "calibration_gap",
    ),
    "multiclass": ("roc_auc", "log_loss", "accuracy"),
    "regression": ("r2", "mae", "rmse", "bias"),
}


def write_report(
    store,
    *,
    periods=("2013-04", "2013-05", "2013-06", "2013-07", "2013-08", "2013-09", "2013-10", "2013-11", "2013-12"),
    features=FLIGHTS_FEATURES,
    kind="binary",
    champion=True,
    status="watch",
    title="Flight delay",
    seed=7,
):
    """Write products/<last period>/95_report under `store` and return that folder."""
    rng = np.random.default_rng(seed)
    folder = Path(store) / "products" / periods[-1] / "95_report"
    folder.mkdir(parents=True, exist_ok=True)
    metric = METRICS[kind][0]
    performance = (
        _performance(periods, kind, rng)
        if champion and len(periods) > 1
        else _performance(periods[:1], kind, rng).iloc[:0]
    )
    drift = _drift(periods[1:] if champion else (), features, rng)
    tables = {
        "performance": performance,
        "drift": drift,
        "distributions": _distributions(drift, rng),
        "quality": _quality(periods, rng),
        "decisions": _decisions(periods, champion),
        "versions": _versions(periods, metric, champion, rng),
    }
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    summary = _summary(periods, kind, metric, champion, status, title, len(features), drift)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    run = {"stages": {"10_ingest": {"seconds": 3.1}, "50_monitor": {"seconds": 9.8}, "70_train": {"seconds": 41.5}}}
    (folder.parent / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return folder


def _performance(periods, kind, rng):
    """One row per period and model; the newest period's labels are only partly there."""
    rows = []
    late = [0.288, 0.227, 0.315, 0.322, 0.246, 0.137, 0.176, 0.181, 0.335]
    for i, period in enumerate(periods):
        for model in ("champion", "first"):
            decay = 0.004 * i if model == "first" else 0.0
            level = 0.742 - decay - (0.03 if model == "champion" and i == 3 else 0) + rng.normal(0, 0.006)
            rate = late[i % 9]
            values = {
                "roc_auc": level, "average_precision": level - 0.25, "brier": 0.17 + rng.normal(0, 0.01),
                "log_loss": 0.52 + rng.normal(0, 0.02), "accuracy": level - 0.06, "mean_prediction": rate - 0.03,
                "positive_rate": rate, "calibration_gap": -0.03 + rng.normal(0, 0.012),
                "r2": level - 0.3, "mae": 14.2 + decay * 200, "rmse": 31.0 + decay * 300, "bias": rng.normal(0, 0.8),
            }  # fmt: skip
            last = i == len(periods) - 1
            row = {
                "period": period, "model": model, "version": 1 if model == "first" or i < 4 else 2, "rows": 27_000 + 150 * i,
                "labelled": 16_500 if last else 27_000 + 150 * i, "coverage": 0.61 if last else 1.0, "complete": not last,
            }  # fmt: skip
            row |= {name: values[name] for name in METRICS[kind]}
            primary = values[METRICS[kind][0]] - level + 0.742
            rows.append(row | {"reference": primary, "limit": primary - 0.02})
    return pd.DataFrame(rows)


def _drift(periods, features, rng):
    """One row per period and feature; a few features leave their bands in the middle and at the end."""
    rows = []
    for i, period in enumerate(periods):
        for j, feature in enumerate(features):
            psi = float(rng.gamma(1.5, 0.018))
            if j in (6, 8, 9):
                psi += max(0.0, 0.34 - 0.11 * abs(i - len(periods) // 2))
            if j == len(features) - 1 and i >= len(periods) - 2:
                psi += 0.22
            status = "drift" if psi >= 0.25 else "watch" if psi >= 0.10 else "stable"
            rows.append((period, feature, _kind(feature), psi, float(rng.uniform(0, 0.02)), 0.01, status))
    columns = ["period", "feature", "kind", "psi", "missing", "missing_reference", "status"]
    return pd.DataFrame(rows, columns=columns)


def _kind(feature):
    """Kind of a made-up feature."""
    return "categorical" if feature in CATEGORICAL else "numeric"


def _distributions(drift, rng):
    """Shares of ten bins (or six levels) per period and feature, further apart where psi is larger."""
    rows = []
    for row in drift.itertuples():
        labels = (
            [f"level {k}" for k in range(6)]
            if row.kind == "categorical"
            else [f"{k * 10}–{k * 10 + 10}" for k in range(10)]
        )
        reference = np.exp(-0.5 * (np.arange(len(labels)) - 3.0) ** 2 / 4)
        current = np.exp(-0.5 * (np.arange(len(labels)) - 3.0 - 4 * row.psi) ** 2 / 4) * rng.uniform(
            0.95, 1.05, len(labels)
        )
        for k, label in enumerate(labels):
            shares = float(current[k] / current.sum()), float(reference[k] / reference.sum())
            rows.append((row.period, row.feature, row.kind, k, label, *shares))
    return pd.DataFrame(rows, columns=["period", "feature", "kind", "position", "bin", "share", "reference_share"])


def _quality(periods, rng):
    """Rows and quarantined rows per period and table."""
    rows = []
    for i, period in enumerate(periods):
        for table, size, rate in (("flights", 28_000, 0.004), ("weather", 2_200, 0.011), ("planes", 3_300, 0.0)):
            quarantined = int(size * rate * rng.uniform(0.5, 1.5) * (4 if i == 3 and table == "weather" else 1))
            rule = (
                None
                if quarantined == 0
                else "wind_speed between 0 and 100"
                if table == "weather"
                else "dep_time is not null"
            )
            rows.append((period, table, size + 37 * i, quarantined, quarantined / (size + 37 * i), 0.02, rule))
    return pd.DataFrame(rows, columns=["period", "table", "rows", "quarantined", "share", "limit", "worst_rule"])


def _decisions(periods, champion):
    """First a bootstrap, one retraining that is released, one that is refused."""
    rows = []
    for i, period in enumerate(periods):
        if i == 0:
            row = ("bootstrap", "no champion yet", None, 1 if champion else None, champion)
        elif i == 3:
            row = ("retrain", "ROC AUC 0.712 is below its limit 0.722", 1, 2, True)
        elif i == 6:
            row = ("retrain", "mean prediction is 4.6 points from the observed rate", 2, 2, False)
        else:
            row = ("keep", "no rule fired", 1 if i < 4 else 2, 1 if i < 4 else 2, False)
        rows.append((period, *row))
    table = pd.DataFrame(rows, columns=["period", "action", "reasons", "version_before", "version_after", "released"])
    return table.astype({"version_before": "Int64", "version_after": "Int64"})


def _versions(periods, metric, champion, rng):
    """The versions those decisions led to, oldest first."""
    made = [(1, 0, "champion" if len(periods) <= 3 else "former champion"), (2, 3, "champion"), (3, 6, "rejected")]
    rows = []
    for version, i, status in made:
        if i >= len(periods):
            break
        if not champion:
            status = "rejected"
        value = 0.742 + rng.normal(0, 0.004) - (0.02 if status == "rejected" else 0)
        other = None if version == 1 else value - (0.018 if status == "champion" else -0.006)
        difference = (None, None) if other is None else (value - other - 0.007, value - other + 0.007)
        rows.append({
            "version": version, "period": periods[i], "family": "hist_gradient_boosting" if version < 3 else "logistic_regression",
            "status": status, "metric": metric, "value": value, "champion_value": other, "difference_low": difference[0],
            "difference_high": difference[1], "trained_from": "2013-01-01T00:00:00+00:00",
            "trained_until": f"{periods[i]}-01T00:00:00+00:00", "rows": 78_000 + 27_000 * i,
            "digest": f"sha256:{rng.bytes(16).hex()}", "verdict": "fail" if status == "rejected" else "pass",
            "created": "2026-11-20T10:12:00+00:00",
        })  # fmt: skip
    return pd.DataFrame(rows)


def _summary(periods, kind, metric, champion, status, title, n_features, drift):
    """The page's top line and lists."""
    last = drift[drift["period"] == periods[-1]]
    drifted = last.loc[last["status"] == "drift", "feature"].tolist()
    attention = [
        {"level": "act", "title": "A feature drifted", "detail": f"{drifted[0]} passed PSI 0.25 in {periods[-1]}."}
        if drifted
        else None,
        {
            "level": "watch",
            "title": "Labels are incomplete",
            "detail": f"61 % of the rows of {periods[-1]} have an outcome so far.",
        },
        {
            "level": "info",
            "title": "Version 3 was refused",
            "detail": "It scored 0.006 below the champion on the same rows.",
        },
        {
            "level": "good",
            "title": "Data quality is inside its limits",
            "detail": "0.4 % of rows were quarantined, 2 % are allowed.",
        },
    ]
    headlines = {
        "good": "Version 2 performs as it did at release, and nothing needs a person.",
        "watch": "Version 2 still performs as it did at release, but one input has shifted.",
        "act": "Performance fell below its limit and a retrained model was refused.",
    }
    return {
        "format": 1,
        "project": {
            "name": "flight_delay", "title": title, "purpose": "Predicts whether a departure will be more than 15 minutes late.",
            "target": "late", "kind": kind, "metric": metric,
        },
        "period": periods[-1], "as_of": "2014-01-01T05:00:00+00:00", "created": "2026-11-23T08:10:00+00:00",
        "health": {
            "status": status,
            "headline": headlines[status] if champion else "No model serves yet: the first candidate did not pass its gates.",
            "attention": [item for item in attention if item] if champion else attention[3:],
        },
        "champion": {
            "version": 2 if len(periods) > 3 else 1, "family": "hist_gradient_boosting", "released_in": periods[min(3, len(periods) - 1)],
            "trained_from": "2013-01-01T00:00:00+00:00", "trained_until": "2013-07-01T00:00:00+00:00", "rows": 159_000,
            "metric": 0.742, "digest": "sha256:9c1f2ab07d",
        } if champion else None,
        "decision": {
            "action": "keep" if champion else "bootstrap",
            "reasons": [
                {"rule": metric, "value": 0.739, "limit": 0.722, "fired": False, "detail": "labelled rows of the last complete period"},
                {"rule": "calibration_gap", "value": -0.028, "limit": 0.04, "fired": False, "detail": "mean prediction against rate"},
            ] if champion else [],
        },
        "release": {"released": False, "version": None, "why": "nothing new was trained"},
        "next": {"period": "2014-01", "what": "Score January 2014 with version 2; retrain if performance falls below its limit."},
    }  # fmt: skip
