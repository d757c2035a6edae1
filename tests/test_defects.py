"""What a careful user found wrong: each defect with the smallest case that shows it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nbops import evaluation, intervals, suite
from nbops.comparison import weighted_metric
from nbops.config import Gates, Project, Source, Target
from nbops.training import fit_model


def make(kind="binary", **more):
    target = Target(column="y", kind=kind, positive=1 if kind == "binary" else None)
    about = {"name": "toy", "title": "Toy", "root": Path.cwd(), "table": "rows", "key": ["id"]}
    return Project(**about, sources={"rows": Source(path="-")}, target=target, **more)


def rows_of(kind="binary", rows=600, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"_id": [f"{i:05d}" for i in range(rows)], "größe (cm)": rng.normal(size=rows)})
    table["age"], table["town"] = rng.normal(size=rows), rng.choice(["Köln", "東京", None], rows)
    signal = 2 * table["größe (cm)"] + table["age"] + rng.logistic(size=rows)
    made = {"binary": (signal > 0).astype(float), "regression": signal}
    table["_label"] = made.get(kind, np.select([signal < -1, signal < 1], ["low", "mid"], "höch"))
    return table


def verdict_of(project, model, held, **more):
    about = {"period": "all", "digest": "ab", "seed": 0, "areas": ("performance", "calibration")} | more
    verdict = suite.test_model(project, model, held, **about)
    return verdict, {one.name: one for one in verdict.checks}


# Rows of a class that the model has never seen


def test_rows_of_a_class_never_learned_count_and_fail_when_they_are_many():
    table = rows_of("multiclass")
    learned, held = table.head(400), table.tail(200).copy()
    model = fit_model(make("multiclass"), "linear", learned, seed=0)
    before = verdict_of(make("multiclass"), model, held)[1]
    held.iloc[:82, held.columns.get_loc("_label")] = "new"
    verdict, found = verdict_of(make("multiclass", gates=Gates(min_metric=0.6)), model, held)
    assert not verdict.passed and found["unseen_classes"].status == "fail"
    assert "'new' 41.0%" in found["unseen_classes"].detail and before["unseen_classes"].status == "pass"
    assert found["floor"].value < before["floor"].value - 0.1 and found["floor"].rows == 200
    held.iloc[1:82, held.columns.get_loc("_label")] = "low"
    one = verdict_of(make("multiclass"), model, held)[1]["unseen_classes"]  # one row may be chance
    assert one.status == "abstain" and "'new' 0.5%" in one.detail
    assert verdict_of(make("multiclass", gates=Gates(strict=True)), model, held)[1]["unseen_classes"].status == "fail"


def test_a_champion_that_does_not_know_the_new_class_is_behind_on_the_same_rows():
    table = rows_of("multiclass")
    table.loc[np.arange(600) % 3 == 0, "_label"] = "new"
    table.loc[table["_label"] == "new", "age"] += 9
    learned, held = table.head(400), table.tail(200)
    candidate = fit_model(make("multiclass"), "linear", learned, seed=0)
    champion = fit_model(make("multiclass"), "linear", learned[learned["_label"] != "new"], seed=0)
    gain = verdict_of(make("multiclass"), candidate, held, champion=champion)[1]["gain"]
    assert gain.status == "pass" and gain.low > 0.05
    turned = verdict_of(make("multiclass"), champion, held, champion=candidate)[1]["gain"]
    assert turned.status == "fail" and turned.value == pytest.approx(-gain.value)


def test_every_metric_of_several_classes_counts_the_same_rows():
    rng = np.random.default_rng(0)
    truth = pd.Series(rng.choice(["a", "b", "new"], 90))
    scores = pd.DataFrame(rng.dirichlet([1, 1, 1], 90), columns=["a", "b", "never"])
    whole = evaluation.metrics("multiclass", truth, scores)
    weights = np.ones((1, 90))
    assert evaluation._weighted_metric("multiclass", truth, scores, weights)[0] == pytest.approx(whole["roc_auc"])
    assert weighted_metric("multiclass", scores.assign(_label=truth), weights)[0] == pytest.approx(whole["roc_auc"])
    value, influence = intervals.metric_influence("multiclass", truth, scores)
    assert value == pytest.approx(whole["roc_auc"]) and abs(influence.sum()) < 1e-9
    assert whole["accuracy"] == (truth == scores.idxmax(axis=1)).mean() and whole["log_loss"] > 5
