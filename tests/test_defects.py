"""What a careful user found wrong: each defect with the smallest case that shows it."""

import errno
import functools
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from nbops import evaluation, intervals, suite
from nbops.base import InputError
from nbops.comparison import compare_families, weighted_metric
from nbops.config import Gates, Project, Source, Target
from nbops.execution import Execution, run_notebook
from nbops.parts import Search
from nbops.search import search
from nbops.subjects import run_suite
from nbops.tracking import load_model, model_digest, save_model, trusted_types
from nbops.training import fit_model, predict_scores
from nbops.trust import Fairness


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


# A lead within the noise is no gain


def test_a_lead_within_the_noise_is_not_called_a_gain():
    table = rows_of(rows=1200)
    learned, held = table.head(600), table.tail(600)
    model = fit_model(make(), "linear", learned, seed=0)
    twin = fit_model(make(), "linear", learned.head(500), seed=0)
    bad = fit_model(make(), "linear", learned.assign(**{"größe (cm)": 0.0}), seed=0)
    near = [
        verdict_of(make(), *pair, champion=other)[1]["gain"]
        for pair, other in [((model, held), twin), ((twin, held), model)]
    ]
    assert {one.status for one in near} == {"pass", "fail"}
    words = {one.status: one.detail for one in near}
    assert words["pass"].startswith("not worse: ") and words["fail"].startswith("no gain: ")
    assert all("within the noise" in one and "rows would tell" in one for one in words.values())
    assert verdict_of(make(), model, held, champion=bad)[1]["gain"].detail.startswith("better: ")
    assert verdict_of(make(), bad, held, champion=model)[1]["gain"].detail.startswith("worse: ")
    asked = verdict_of(make(gates=Gates(min_gain=0.5)), model, held, champion=bad)[1]["gain"]
    assert asked.status == "fail" and "asked for more than +0.500" in asked.detail


# Few rows, and models that guess


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_an_interval_of_three_rows_is_unknown_and_not_a_point(kind):
    table = rows_of(kind, rows=400)
    model = fit_model(make(kind), "linear", table.head(300), seed=0)
    held = (
        table.tail(100).groupby("_label").head(1)
        if kind == "multiclass"
        else table.tail(100).sort_values("_label").iloc[[0, 50, 99]]
    )
    verdict, found = verdict_of(make(kind, gates=Gates(min_metric=0.4)), model, held)
    floor = found["floor"]
    assert (
        floor.value >= 0.5 and floor.low is None and floor.status == "abstain" == found["better_than_guessing"].status
    )
    assert "interval unknown" in floor.detail and "too few rows" in floor.detail and "would do" in floor.detail
    assert verdict.passed
    strict = verdict_of(make(kind, gates=Gates(min_metric=0.5, strict=True)), model, held)[1]
    assert strict["floor"].status == "fail" == strict["better_than_guessing"].status


def test_a_ranking_without_a_mistake_is_not_certain():
    labels = pd.Series([1.0] * 20 + [0.0] * 40)
    low, high = intervals.metric_estimate("binary", labels, labels.to_frame("score"))[0].bounds()
    assert high == 1 and low == pytest.approx(0.05 ** (1 / 20))
    assert intervals.metric_estimate("binary", labels, labels.to_frame("score"))[0].bounds(questions=10)[0] < low
    other = pd.DataFrame({"score": labels * 2})
    found = evaluation.paired_difference("binary", labels, labels.to_frame("score"), other, blocks=range(60), seed=0)
    assert found[0] == 0 and np.isnan(found[1:]).all()


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_a_model_that_guesses_is_refused_without_any_gate(kind):
    table = rows_of(kind).assign(**{"größe (cm)": 1.0, "age": 2.0, "town": "x"})
    model = fit_model(make(kind), "linear", table.head(400), seed=0)
    verdict, found = verdict_of(make(kind), model, table.tail(200))
    assert not verdict.passed and found["better_than_guessing"].status == "fail"
    assert "guessing" in found["better_than_guessing"].detail
    good = rows_of(kind)
    model = fit_model(make(kind), "linear", good.head(400), seed=0)
    assert verdict_of(make(kind), model, good.tail(200))[1]["better_than_guessing"].status == "pass"


def test_hardly_better_than_a_guess_abstains_and_says_how_many_rows_would_do():
    rng = np.random.default_rng(1)
    held = pd.DataFrame({"_label": (rng.random(400) < 0.5).astype(float)})
    scores = pd.DataFrame({"score": held["_label"] + rng.normal(0, 9, 400)})
    verdict = evaluation.judge(make(), held, scores, None, period="all", digest="ab", seed=0)
    check = next(one for one in verdict.checks if one.name == "better_than_guessing")
    assert 0.5 < check.value < 0.56 and check.status == "abstain" and "about" in check.detail


def test_a_verdict_without_a_pass_is_not_called_one():
    unsure = evaluation.Check(name="floor", status="abstain", detail="no limit is given")
    verdict = evaluation.Verdict(period="all", digest="ab", rows=3, checks=[unsure])
    assert suite.in_one_line(verdict) == "nothing failed; 1 could not be judged" and verdict.passed


# What a search and a comparison hide


@pytest.mark.slow
def test_a_search_says_how_many_trials_failed_and_which_family_it_left_out(tmp_path):
    families = ["linear", {"name": "bayes", "estimator": "sklearn.naive_bayes.GaussianNB"}]
    wanted = Search(trials=4, batch=2, defaults=False, space={"linear": {"C": [-1.0, 1.0]}})
    project = make(training={"families": families}, search=wanted)
    score = functools.partial(evaluation.primary_metric, "binary")
    found = search(project, rows_of(rows=200), metric=score, store=tmp_path, seed=0)
    failed = (found.trials["state"] == "failed").sum()
    assert 0 < failed < 4, found.trials["params"].tolist()
    assert "4 trials in" in found.note and f"{failed} of them failed, the first (linear" in found.note
    assert "InvalidParameterError" in found.note and "not searched: bayes" in found.note


def test_why_a_family_failed_is_said_where_the_chosen_one_is():
    broken = {"name": "broken", "estimator": "sklearn.ensemble.ExtraTreesClassifier", "params": {"n_estimators": -1}}
    project = make(training={"families": ["linear", broken]})
    assert "broken failed with InvalidParameterError" in compare_families(project, rows_of(rows=200), seed=0).note


# Classifiers without probabilities


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "multiclass"])
@pytest.mark.parametrize(
    "path",
    [
        "sklearn.svm.SVC",
        "sklearn.svm.LinearSVC",
        "sklearn.linear_model.RidgeClassifier",
        "sklearn.linear_model.SGDClassifier",
    ],
)
def test_a_classifier_with_a_decision_function_alone(kind, path, tmp_path):
    table = rows_of(kind, rows=500)
    project = make(kind, training={"families": [{"name": "own", "estimator": path}]})
    model, again = (fit_model(project, "own", table.head(300), seed=0) for _ in range(2))
    files = [save_model(one, tmp_path / f"{place}.skops") for place, one in enumerate((model, again))]
    assert model_digest(files[0]) == model_digest(files[1])
    opened = load_model(files[0], trusted=trusted_types(project))
    scores = predict_scores(kind, model, table.tail(200))
    assert predict_scores(kind, opened, table.tail(200)).equals(scores)
    verdict, found = verdict_of(project, opened, table.tail(200), areas=evaluation.AREAS)
    assert verdict.passed and found["floor"].value > 0.7, suite.in_one_line(verdict)
    assert found["onnx"].status == "pass" or "no form in ONNX" in found["onnx"].detail
    assert found["finite"].status == "pass" == found["additive"].status, found["finite"].detail
    assert "log-odds" not in found["finite"].detail


def test_a_classifier_with_neither_says_what_is_allowed(monkeypatch):
    class Sides(ClassifierMixin, BaseEstimator):
        """Says a class, and nothing more."""

        def fit(self, X, y):
            return self

        def predict(self, X):
            return np.zeros(len(X))

    monkeypatch.setattr("sklearn.svm.Sides", Sides, raising=False)
    project = make(training={"families": [{"name": "own", "estimator": "sklearn.svm.Sides"}]})
    with pytest.raises(InputError, match="predict_proba.*decision_function.*Name another"):
        fit_model(project, "own", rows_of(), seed=0)


# A check says why, and by how much


def test_a_check_that_abstains_or_fails_says_why_and_by_how_much():
    table = rows_of()
    model = fit_model(make(), "linear", table.head(400), seed=0)
    champion = fit_model(make(), "linear", table.head(40).sample(frac=1, random_state=0), seed=0)
    areas = ("explainability", "behaviour")
    quiet = verdict_of(make(), model, table.tail(200), champion=champion, areas=areas)[1]["rank_stability"]
    assert quiet.status == "abstain" and "no limit is given (explanations.min_rank_correlation)" in quiet.detail
    wanted = make(behaviour={"decreasing": [{"column": "age"}], "increasing": [{"column": "größe (cm)"}]})
    found = verdict_of(wanted, model, table.tail(200), areas=areas)[1]
    fails, passes = found["responds: age"], found["responds: größe (cm)"]
    assert fails.status == "fail" and " to +" in fails.detail and "below 0" in fails.detail and fails.high < 0
    assert passes.status == "pass" and "above 0" in passes.detail


def test_every_check_that_abstains_gives_a_reason():
    table = rows_of(rows=400)
    model = fit_model(make(), "linear", table.head(300), seed=0)
    other = fit_model(make(), "linear", table.head(60), seed=0)
    verdict, _ = verdict_of(make(), model, table.tail(12), champion=other, areas=evaluation.AREAS)
    reasons = ("no limit is given", "rows to tell", "not known here", "cannot be seen", "only ", "one class")
    unsure = [one for one in verdict.checks if one.status == "abstain"]
    assert len(unsure) > 4 and not [one.detail for one in unsure if not any(why in one.detail for why in reasons)]


# A file that holds the groups itself


def test_groups_of_people_come_from_the_file(tmp_path):
    table = rows_of().assign(sex=np.random.default_rng(0).choice(["f", "m"], 600))
    fair = Fairness(columns=["sex"], limits={"demographic_parity_difference": 0.3})
    project = make(fairness=fair).model_copy(update={"root": tmp_path})
    save_model(fit_model(project, "linear", table.head(300).drop(columns="sex"), seed=0), tmp_path / "here.skops")
    fresh = table.tail(300).rename(columns={"_label": "y"})
    fresh.to_csv(tmp_path / "apps.csv", index=False)
    verdict = run_suite(project, None, str(tmp_path / "here.skops"), data=tmp_path / "apps.csv")[1]
    fairness = [one for one in verdict.checks if one.area == "fairness"]
    assert fairness and fairness[0].rows and fairness[0].status in ("pass", "abstain"), fairness
    fresh.rename(columns={"sex": "sexx"}).to_csv(tmp_path / "apps.csv", index=False)
    with pytest.raises(InputError, match="apps.csv has no column 'sex'.*did you mean.*--area performance"):
        run_suite(project, None, str(tmp_path / "here.skops"), data=tmp_path / "apps.csv")
    asked = {"data": tmp_path / "apps.csv", "areas": ("performance",)}
    assert run_suite(project, None, str(tmp_path / "here.skops"), **asked)[1].passed


# A disk that is full while the executed notebook is written


@pytest.mark.slow
def test_a_notebook_half_written_on_a_full_disk_is_said_to_be_that(small_disk):
    """The error was one about JSON, raised by who wanted to clean up what was half-written."""
    disk, leave = small_disk
    cell = nbformat.v4.new_code_cell("print('x' * 300_000)")
    spec = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata=spec)
    leave(60)
    with pytest.raises(OSError, match="No space left on device") as found:
        run_notebook(notebook, disk / "70_train.ipynb", Execution("toy", lambda text: None))
    assert found.value.errno == errno.ENOSPC and not list(disk.glob("*train*"))
    (disk / "filler").unlink()
    run_notebook(notebook, disk / "70_train.ipynb", Execution("toy", lambda text: None))
    assert (disk / "70_train.ipynb").stat().st_size > 300_000
