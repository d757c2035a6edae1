"""Families, folds, comparison and calibration, on tables that nobody has seen before."""

import os
import subprocess
import sys
from itertools import product as pairs_of

import numpy as np
import pandas as pd
import pytest

from nbops.base import InputError
from nbops.calibration import calibrate_model, choose_calibration, fit_curves
from nbops.comparison import choose_family, compare_families, weighted_metric
from nbops.config import Project, Source, Target, Time, Training
from nbops.evaluation import primary_metric
from nbops.families import FAMILIES, find_family
from nbops.folds import folds
from nbops.onnx_models import predict_onnx, to_onnx
from nbops.tracking import load_model, model_digest, save_model
from nbops.training import fit_model, predict_scores, split_newest


def product(*parts):
    return list(pairs_of(*parts))


KINDS = ["binary", "multiclass", "regression"]


def project(root, kind="binary", *, time=True, features=None, **training):
    training = {"families": ["hist_gradient_boosting", "linear"]} | training
    return Project(
        name="odd", title="Odd", root=root, table="rows", key=["id"],
        sources={"rows": Source(path="-", time="t" if time else None)}, time=Time() if time else None,
        target=Target(column="y", kind=kind, positive=1 if kind == "binary" else None), training=Training(**training),
        features=features or {},
    )  # fmt: skip


def rows(kind="binary", n=400, *, time=True, seed=0, noise=0.5):
    """A feature table with names and values that nobody expects."""
    rng = np.random.default_rng(seed)
    size, place = rng.normal(size=n) * 1e6, rng.choice(["Köln", "東京", 'it\'s "q"', ""], n)
    signal = size / 1e6 + (place == "東京") + rng.normal(0, noise, n)
    table = pd.DataFrame(
        {"_id": [f"{one:06d}" for one in range(n)],
         "size (cm), 'ö'": np.where(rng.random(n) < 0.1, np.nan, size), "Ort; \"é\"": np.where(rng.random(n) < 0.1, None, place),
         "flag": rng.random(n) < 0.5}
    )  # fmt: skip
    table["_label"] = {
        "binary": (signal > 0.3).astype(float),
        "multiclass": np.select([signal < -0.7, signal < 0.8], ["klein", "mittel"], "groß"),
        "regression": signal,
    }[kind]
    if time:
        table.insert(1, "_time", pd.date_range("2024-03-01", periods=n, freq="3h", tz="UTC"))
    return table


# ---------------------------------------------------------------- folds


@pytest.mark.parametrize(("kind", "time", "n"), product(KINDS, [True, False], [12, 60, 400]))
def test_folds_judge_with_two_outcomes_on_both_sides(tmp_path, kind, time, n):
    table = rows(kind, n, time=time)
    shuffled = table.sample(frac=1, random_state=3)
    made = folds(project(tmp_path, kind, time=time), table, seed=1)
    again = folds(project(tmp_path, kind, time=time), shuffled, seed=1)
    assert 1 <= len(made) <= 3
    seen = set()
    for (learn, judge), (_, other) in zip(made, again, strict=True):
        assert table["_label"].iloc[learn].nunique() > 1 and table["_label"].iloc[judge].nunique() > 1
        assert not set(learn) & set(judge) and not seen & set(judge)
        if time or kind != "regression":
            assert time is False or set(table["_id"].iloc[judge]) == set(shuffled["_id"].iloc[other])
        seen |= set(judge)
        if time:
            assert table["_time"].iloc[learn].max() < table["_time"].iloc[judge].min()
    assert time or seen == set(range(n))


def test_days_and_moments_are_never_cut(tmp_path):
    table = rows(n=400)
    table["_time"] = table["_time"].dt.floor("D") + pd.Timedelta("5h")
    for learn, judge in folds(project(tmp_path), table, seed=0):
        assert not set(table["_time"].iloc[learn]) & set(table["_time"].iloc[judge])
    one_day = rows(n=40).assign(
        _time=pd.Timestamp("2024-03-01", tz="UTC") + pd.to_timedelta(np.arange(40) // 8, unit="h")
    )
    made = folds(project(tmp_path), one_day, seed=0)
    assert made and all(
        one_day["_time"].iloc[learn].max() < one_day["_time"].iloc[judge].min() for learn, judge in made
    )
    assert (
        len(folds(project(tmp_path), rows(n=40).assign(_time=one_day["_time"].iloc[0]), seed=0)) == 3
    )  # time orders nothing


def test_a_rare_class_and_a_huge_day(tmp_path):
    table = rows(n=300).assign(_label=0.0)
    table.loc[[10, 150, 151, 280], "_label"] = 1.0
    for learn, judge in folds(project(tmp_path), table, seed=0):
        assert table["_label"].iloc[learn].sum() and table["_label"].iloc[judge].sum()
    assert len(folds(project(tmp_path, time=False), table.drop(columns="_time"), seed=0)) == 3
    table = rows(n=300)
    table.loc[20:, "_time"] = table["_time"].iloc[20]  # nearly all rows at one moment
    for learn, judge in folds(project(tmp_path), table, seed=0):
        assert table["_time"].iloc[learn].max() < table["_time"].iloc[judge].min()


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_is_never_on_both_sides(tmp_path, kind):
    table = rows(kind, 300, time=False).assign(patient=np.random.default_rng(1).integers(0, 25, 300))
    grouped = project(tmp_path, kind, time=False, group="patient")
    pairs = [(table.iloc[learn], table.iloc[judge]) for learn, judge in folds(grouped, table, seed=0)]
    for learn, judge in [*pairs, split_newest(grouped, table, seed=0)]:
        assert not set(learn["patient"]) & set(judge["patient"]) and 0.1 < len(judge) / 300 < 0.6
    model = fit_model(grouped, "linear", table, seed=0)
    assert "patient" not in model.named_steps["prepare"].transformers[0][2]
    with pytest.raises(InputError, match='did you mean "patient"'):
        folds(project(tmp_path, kind, time=False, group="patiend"), table, seed=0)
    with pytest.raises(InputError, match="at least two groups"):
        folds(grouped, table.assign(patient=1), seed=0)


# ---------------------------------------------------------------- families


@pytest.mark.parametrize(("kind", "family"), product(KINDS, FAMILIES))
def test_every_family_learns_every_kind_and_survives_what_it_never_saw(tmp_path, kind, family):
    if family in ("lightgbm", "xgboost"):
        pytest.importorskip(family)
    asked, table = project(tmp_path, kind), rows(kind, 300)
    model = fit_model(asked, family, table, seed=0)
    strange = table.head(5).assign(
        **{"size (cm), 'ö'": [np.inf, -np.inf, np.nan, 1e300, 0], 'Ort; "é"': "never seen", "flag": None}
    )
    assert np.isfinite(predict_scores(kind, model, strange).to_numpy()).all()
    scores = predict_scores(kind, model, table)
    assert primary_metric(kind, table["_label"], scores) > 0.6
    assert list(model.named_steps) == ["prepare", "model"]
    again = fit_model(asked, family, table, seed=0)
    pd.testing.assert_frame_equal(predict_scores(kind, again, table), scores)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("linaer", 'did you mean "linear"'),
        ({"name": "own", "estimator": "os.system"}, "training.packages"),
        ({"name": "own", "estimator": "subprocess.Popen"}, "training.packages"),
        ({"name": "own", "estimator": "sklearn.ensemble.ExtraTreesClasifier"}, 'did you mean "ExtraTreesClassifier"'),
        ({"name": "own", "estimator": "sklearn.nothing.Here"}, "cannot be imported"),
        ({"name": "own", "estimator": "sklearn.linear_model.Ridge"}, "is a regressor"),
        ({"name": "own", "estimator": "sklearn.multiclass.OutputCodeClassifier"}, "gives no probabilities"),
        ({"name": "own", "estimator": "sklearn.metrics.roc_auc_score"}, "no estimator"),
        ({"name": "linear", "params": {"max_itre": 3}}, 'did you mean "max_iter"'),
    ],
)
def test_a_family_that_cannot_be_is_named(tmp_path, family, message):
    asked = project(tmp_path, families=[family])
    with pytest.raises(InputError, match=message) as caught:
        fit_model(asked, asked.training.families[0], rows(n=60), seed=0)
    assert "\n" not in str(caught.value)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "xgboost", None)
    monkeypatch.setattr(
        "importlib.import_module", lambda name: (_ for _ in ()).throw(ModuleNotFoundError("no", name="xgboost"))
    )
    with pytest.raises(InputError, match="pip install xgboost-cpu"):
        find_family("binary", "xgboost")


def test_a_project_may_name_packages_of_its_own(tmp_path):
    own = {"name": "own", "estimator": "nbops.estimators.CodedClassifier"}
    with pytest.raises(InputError, match="training.packages"):
        find_family("binary", Training(families=[own]).families[0])
    assert find_family("binary", Training(families=[own]).families[0], packages=["nbops"]).__name__ == "CodedClassifier"


@pytest.mark.parametrize("encode", ["ordinal", "onehot", "target"])
def test_five_thousand_categories(tmp_path, encode):
    rng = np.random.default_rng(0)
    table = rows(n=6000).assign(**{"Straße №": [f"street {one}" for one in rng.integers(0, 5000, 6000)]})
    for name in ("linear", "hist_gradient_boosting"):
        asked = project(tmp_path, families=[{"name": name, "encode": encode}])
        model = fit_model(asked, name, table, seed=0)
        assert model[:-1].transform(table.head(1).assign(**{"Straße №": "new", "flag": 1.0})).shape[1] < 120
        assert primary_metric("binary", table["_label"], predict_scores("binary", model, table)) > 0.7


# ---------------------------------------------------------------- comparison


@pytest.mark.parametrize("kind", KINDS)
def test_the_weighted_metric_is_the_metric(kind):
    rng, table = np.random.default_rng(0), rows(kind, 500)
    scores = pd.DataFrame({"score": table["_label"] + rng.normal(size=500)}) if kind == "regression" else None
    if kind == "binary":
        scores = pd.DataFrame({"score": (rng.random(500) + table["_label"]).round(1)})  # with ties
    if kind == "multiclass":
        scores = pd.DataFrame(rng.dirichlet([1, 1, 1], 500), columns=["groß", "klein", "mittel"])
    times = rng.integers(0, 3, 500)
    drawn = np.repeat(np.arange(500), times)
    found = weighted_metric(kind, scores.assign(_label=table["_label"]), np.stack([np.ones(500), times]).astype(float))
    expected = [primary_metric(kind, table["_label"].iloc[i], scores.iloc[i]) for i in (np.arange(500), drawn)]
    assert np.allclose(found, expected)


def test_intervals_cover_the_truth():
    """Of 60 tables with independent rows, the 90 % interval holds the score of endless data in about nine of ten."""
    from nbops.comparison import _draws, _interval
    from nbops.folds import resamples

    truth = 0.7602  # area under the curve of two normals one standard deviation apart
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        label = (rng.random(600) < 0.5).astype(float)
        judged = pd.DataFrame(
            {"_label": label, "score": label + rng.normal(size=600), "_fold": 0, "_block": np.arange(600)}
        )
        low, high = _interval(_draws("binary", judged, resamples(judged["_block"].to_numpy(), seed=seed))[1])
        hits += low <= truth <= high
    assert 46 <= hits <= 60


@pytest.mark.parametrize(("kind", "time"), product(KINDS, [True, False]))
def test_families_are_compared_on_the_same_rows(tmp_path, kind, time):
    asked, table = project(tmp_path, kind, time=time), rows(kind, 400, time=time)
    found = compare_families(asked, table, seed=0)
    lines = found.table.set_index("family")
    assert (lines["low"] < lines["score"]).all() and (lines["score"] < lines["high"]).all()
    assert (lines[["fit_seconds", "predict_seconds", "bytes"]] > 0).all().all() and lines["chosen"].sum() == 1
    assert (lines["behind"] <= 0).all() and np.allclose(lines["gap"], lines["train_score"] - lines["score"])
    one, other = found.judged.values()
    assert (one.index == other.index).all() and (one["_label"] == other["_label"]).all()
    scores = one[[name for name in one if not name.startswith("_")]]
    expected = [
        primary_metric(kind, one["_label"][one["_fold"] == k], scores[one["_fold"] == k]) for k in one["_fold"].unique()
    ]
    assert np.isclose(lines.loc[next(iter(found.judged)), "score"], np.mean(expected))
    again = compare_families(asked, table, seed=0).table.drop(columns=["fit_seconds", "predict_seconds", "bytes"])
    pd.testing.assert_frame_equal(again, found.table.drop(columns=["fit_seconds", "predict_seconds", "bytes"]))


def test_noise_is_not_crowned(tmp_path):
    table = rows(n=300)
    lines = pd.DataFrame({"family": ["hist_gradient_boosting", "linear"], "score": [0.8, 0.79], "error": "", "rows": 9})
    for prefer, high, expected in [
        ("simpler", 0.01, "linear"),
        ("best", 0.01, "hist_gradient_boosting"),
        ("first", 0.01, "hist_gradient_boosting"),
        ("first", -0.01, "hist_gradient_boosting"),
        ("simpler", -0.01, "hist_gradient_boosting"),
    ]:
        name, why = choose_family(project(tmp_path, prefer=prefer), lines.assign(behind_high=[0.0, high]))
        assert name == expected and ("told apart" in why) == (high > 0)
    turned = project(tmp_path, prefer="first", families=["linear", "hist_gradient_boosting"])
    assert choose_family(turned, lines.assign(behind_high=[0.0, 0.01]))[0] == "linear"
    strong = table.assign(_label=(table["size (cm), 'ö'"].fillna(0).abs() < 7e5).astype(float))  # no line can say this
    assert compare_families(project(tmp_path), strong, seed=0).best == "hist_gradient_boosting"


def test_an_estimator_that_raises_is_a_line_and_all_that_raise_are_an_error(tmp_path):
    broken = {"name": "broken", "estimator": "sklearn.neighbors.KNeighborsClassifier", "params": {"n_neighbors": -3}}
    found = compare_families(project(tmp_path, families=["linear", broken]), rows(n=100), seed=0)
    line = found.table.set_index("family").loc["broken"]
    assert "n_neighbors" in line["error"] and np.isnan(line["score"]) and found.best == "linear"
    with pytest.raises(InputError, match="none could be fitted.*n_neighbors"):
        compare_families(project(tmp_path, families=[broken]), rows(n=100), seed=0)


@pytest.mark.parametrize(("kind", "time"), product(KINDS, [True, False]))
def test_twelve_rows(tmp_path, kind, time):
    found = compare_families(project(tmp_path, kind, time=time), rows(kind, 12, time=time), seed=0)
    assert found.best in ("linear", "hist_gradient_boosting") and found.note
    calibration = choose_calibration(
        project(tmp_path, kind, time=time), found.judged.get(found.best, pd.DataFrame()), seed=0
    )
    assert calibration.method == "none" and calibration.note.startswith("not calibrated")


def test_nothing_can_be_compared_but_something_can_be_fitted(tmp_path):
    table = rows(n=40).assign(_label=0.0)
    table.loc[39, "_label"] = 1.0  # the newest row: no model has seen a yes before
    found = compare_families(project(tmp_path), table, seed=0)
    assert found.best == "linear" and "too few" in found.note and found.table["score"].isna().all()


@pytest.mark.parametrize(
    ("kind", "spoil", "message"),
    [
        ("binary", lambda t: t.assign(_label=1.0), "same value in all"),
        ("binary", lambda t: t.assign(_label=t["_label"].where(t.index > 3)), "is missing in 4 of the 60"),
        (
            "regression",
            lambda t: t.assign(_label=np.where(t.index < 2, np.inf, t["_label"])),
            "is infinite in 2 of the 60",
        ),
        ("multiclass", lambda t: t.assign(_label=None), "is missing in 60"),
        (
            "binary",
            lambda t: t.drop(columns=['Ort; "é"']).assign(**{"size (cm), 'ö'": np.nan, "flag": np.nan}),
            "no feature has a value",
        ),
    ],
)
def test_what_cannot_be_learned_is_named(tmp_path, kind, spoil, message):
    with pytest.raises(InputError, match=message):
        compare_families(project(tmp_path, kind), spoil(rows(kind, 60)), seed=0)


def test_columns_that_say_nothing_do_no_harm(tmp_path):
    table = rows(n=200).assign(
        constant=1.0, nothing=np.nan, wild=np.where(np.arange(200) % 7 == 0, np.inf, 1.0), same="x"
    )
    found = compare_families(project(tmp_path), table, seed=0)
    assert (found.table["error"] == "").all() and (found.table["score"] > 0.7).all()


def test_a_class_that_training_has_not_seen(tmp_path):
    table = rows("multiclass", 300)
    table.loc[280:, "_label"] = np.where(np.arange(20) % 2, "neu", "klein")
    found = compare_families(project(tmp_path, "multiclass"), table, seed=0)
    assert (found.table["error"] == "").all() and (found.judged["linear"]["neu"] == 0).all()
    assert choose_calibration(project(tmp_path, "multiclass"), found.judged["linear"], seed=0).method in (
        "none",
        "sigmoid",
    )


CORES = """
import sys, tempfile; sys.path.insert(0, {tests!r})
from pathlib import Path
import test_training as t
asked, table = t.project(Path("."), "multiclass", families=["hist_gradient_boosting", "linear", "random_forest"]), t.rows("multiclass", 300)
t.sys.modules["nbops.training"].MANY_ROWS = 0
found = t.compare_families(asked, table, seed=0)
with tempfile.TemporaryDirectory() as place:
    fitted = [t.fit_model(asked, one.name, table, seed=0) for one in asked.training.families]
    digests = [t.model_digest(t.save_model(one, place + "/m.skops")) for one in fitted]
print(found.best, found.table[["family", "score", "low", "high"]].to_json(double_precision=15), digests)
"""


@pytest.mark.slow
def test_one_core_or_two_make_no_difference():
    code = CORES.format(tests=os.path.dirname(__file__))
    said = [
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"LOKY_MAX_CPU_COUNT": cores}, capture_output=True, text=True
        )
        for cores in "12"
    ]
    assert said[0].returncode == 0, said[0].stderr
    assert said[0].stdout == said[1].stdout


# ---------------------------------------------------------------- calibration


def boastful(kind, n=6000, seed=0):
    """Out-of-fold predictions whose log-odds are too large by half, and what happened."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (n, 2 if kind == "binary" else 3))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    said = np.exp(2.5 * logits) / np.exp(2.5 * logits).sum(axis=1, keepdims=True)
    codes = (rng.random((n, 1)) > chances.cumsum(axis=1)).sum(axis=1).clip(0, chances.shape[1] - 1)
    judged = pd.DataFrame(said, columns=[f"c{one}" for one in range(said.shape[1])])
    judged = (
        judged.assign(_label=[f"c{one}" for one in codes])
        if kind != "binary"
        else pd.DataFrame({"score": said[:, 1], "_label": codes.astype(float)})
    )
    return judged.assign(_fold=np.arange(n) * 3 // n, _block=np.arange(n) // 60), chances


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_a_boastful_model_is_corrected_and_an_honest_one_is_not(tmp_path, kind):
    judged, chances = boastful(kind)
    found = choose_calibration(project(tmp_path, kind), judged, seed=0)
    value = found.scores.pivot(index="score", columns="model", values="value")
    assert found.method != "none" and (value["calibrated"] < value["as fitted"]).all()
    assert value.loc["calibration_error", "calibrated"] < 0.03 < value.loc["calibration_error", "as fitted"]
    honest = (
        judged.assign(score=chances[:, 1])
        if kind == "binary"
        else judged.assign(**{f"c{k}": chances[:, k] for k in range(3)})
    )
    assert choose_calibration(project(tmp_path, kind), honest, seed=0).method == "none"
    assert choose_calibration(project(tmp_path, kind, calibration="none"), judged, seed=0).method == "none"
    assert choose_calibration(project(tmp_path, kind, calibration="isotonic"), judged, seed=0).method == "isotonic"


def test_random_tables_are_hardly_ever_corrected_by_chance(tmp_path):
    changed = 0
    for seed in range(20):
        judged, chances = boastful("binary", 900, seed)
        changed += choose_calibration(project(tmp_path), judged.assign(score=chances[:, 1]), seed=0).method != "none"
    assert changed <= 4


def test_later_folds_never_teach_earlier_ones(tmp_path):
    """With time, the correction that a fold is judged with comes from before it: a change of the last fold changes only the last."""
    from nbops.calibration import _as_chances, _forward

    judged, _ = boastful("binary")
    chances, codes, _ = _as_chances("binary", judged)
    fold = judged["_fold"].to_numpy()
    before = _forward("sigmoid", chances, codes, fold, True)
    flipped = np.where(fold == 2, 1 - codes, codes)
    after = _forward("sigmoid", chances, flipped, fold, True)
    assert np.isnan(before[fold == 0]).all() and np.array_equal(before, after, equal_nan=True)


@pytest.mark.parametrize(
    ("kind", "family", "method"),
    [
        pytest.param(*one, marks=[] if one[1] == "linear" else pytest.mark.slow)  # trees take their time to convert
        for one in pairs_of(
            ["binary", "multiclass"],
            ["linear", "hist_gradient_boosting", "random_forest", "lightgbm"],
            ["sigmoid", "isotonic"],
        )
    ],
)
def test_a_corrected_model_is_stored_digested_and_converted(tmp_path, kind, family, method):
    if family == "lightgbm":
        pytest.importorskip(family)
    asked, table = project(tmp_path, kind), rows(kind, 2500)
    fitted = fit_model(asked, family, table, seed=0)
    scores = predict_scores(kind, fitted, rows(kind, 3000, seed=5))
    chances = scores.to_numpy() if kind == "multiclass" else np.column_stack([1 - scores["score"], scores["score"]])
    codes = pd.factorize(rows(kind, 3000, seed=5)["_label"], sort=True)[0]
    curves = fit_curves(method, chances, codes)
    from nbops.calibration import Calibration

    model = calibrate_model(fitted, Calibration(method, curves))
    unseen = rows(kind, 500, seed=9)
    asked_now = predict_scores(kind, model, unseen)
    if kind == "multiclass":
        assert np.allclose(asked_now.sum(axis=1), 1)
    assert list(model.named_steps) == ["prepare", "model"] and list(model.classes_) == list(fitted.classes_)
    one, other = (
        save_model(model, tmp_path / "a.skops"),
        save_model(
            calibrate_model(fit_model(asked, family, table, seed=0), Calibration(method, curves)), tmp_path / "b.skops"
        ),
    )
    assert model_digest(one) == model_digest(other) != model_digest(save_model(fitted, tmp_path / "c.skops"))
    if family != "lightgbm":  # which skops cannot be trusted with everywhere
        pd.testing.assert_frame_equal(predict_scores(kind, load_model(one), unseen), asked_now)
    told = predict_onnx(kind, to_onnx(model), unseen)
    assert np.abs(told.to_numpy() - asked_now.to_numpy()).max() < 1e-5


def test_very_many_rows_are_thinned_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("nbops.comparison.MOST_ROWS", 50)
    found = compare_families(project(tmp_path), rows(n=400), seed=0)
    assert "folds thinned to 50 rows" in found.note and (found.table["rows"] == 150).all()
