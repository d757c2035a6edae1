"""The test suite for models: seeded defects are caught by their check, good models raise no alarm, numbers are right."""

import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline

from model_store import toy
from nbops import evaluation, intervals, ledger, onnx_models, registry, releases, suite
from nbops.base import InputError
from nbops.config import Gates, Project, Source, Target, load_project
from nbops.evaluation import Check, Verdict, calibration_error, check_table, paired_difference
from nbops.gates import Behaviour, Budget, Slices
from nbops.properties import consistency_checks, model_columns
from nbops.slices import slice_checks
from nbops.tracking import log_candidate, open_tracking
from nbops.training import fit_model, predict_scores
from small_project import change, command, environment, make_project

KINDS = ["binary", "multiclass", "regression"]
TOWN = 'it\'s a "town" ö'


def make(kind="binary", **more):
    target = Target(column="y", kind=kind, positive=1 if kind == "binary" else None)
    about = {"name": "toy", "title": "Toy", "root": Path.cwd(), "table": "rows", "key": ["id"]}
    return Project(**about, sources={"rows": Source(path="-")}, target=target, **more)


def rows_of(kind="binary", rows=1500, seed=0, days=30):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"_id": [f"{i:05d}" for i in range(rows)], "größe (cm)": rng.normal(size=rows)})
    table["age"] = np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows))
    table[TOWN] = rng.choice(["Köln", "東京", "", None], rows)
    if days:
        table.insert(1, "_time", pd.date_range("2024-01-01", periods=rows, freq=f"{days * 86400 // rows}s", tz="UTC"))
    signal = 1.5 * table["größe (cm)"] + table["age"].fillna(0) + rng.logistic(size=rows)
    made = {"binary": (signal > 0).astype(float), "regression": signal}
    table["_label"] = made.get(kind, np.select([signal < -1, signal < 1], ["low", "mid"], "höch"))
    return table


class Twisted(ClassifierMixin, BaseEstimator):
    """An estimator with a defect: what the inner one says goes through a function."""

    def __init__(self, inner=None, twist=None):
        self.inner, self.twist = inner, twist

    def __sklearn_is_fitted__(self):
        return True

    @property
    def classes_(self):
        return self.inner.classes_

    def fit(self, X, y):
        raise NotImplementedError("its inner estimator is fitted")

    def predict(self, X):
        return self.inner.predict(X)

    def predict_proba(self, X):
        return self.twist(self.inner.predict_proba(X), X)


def twisted(model, twist):
    """The model with a defect in what it answers."""
    return Pipeline([model.steps[0], ("model", Twisted(model.steps[-1][1], twist))])


def yes(p):
    return np.column_stack([1 - p, p])


@pytest.fixture(scope="module")
def binary():
    """A fitted model, what it learned from, and held-out rows."""
    table = rows_of(rows=3000)
    learned, held = table.iloc[:1500], table.iloc[1500:]
    return fit_model(make(), "linear", learned, seed=0), learned, held


def judged(project, model, held, **more):
    """What each check ended with, by name."""
    areas = more.pop("areas", ("data", "performance", "consistency", "behaviour", "calibration", "budget"))
    about = {"period": "all", "digest": "ab", "seed": 0, "areas": areas}
    verdict = suite.test_model(project, model, held, **about, **more)
    return verdict, {one.name + (f"[{one.slice}]" if one.slice else ""): one.status for one in verdict.checks}


def failed(found):
    return {name for name, status in found.items() if status == "fail"}


# A defect is caught by its check, and by no other that it does not touch


def test_a_worse_model_fails_floor_and_gain(binary):
    model, _, held = binary
    noisy = twisted(model, lambda p, X: yes(np.clip(p[:, 1] * 0.2 + 0.8 * np.abs(np.sin(1e4 * X[:, 0])), 0, 1)))
    verdict, found = judged(make(gates=Gates(min_metric=0.75)), noisy, held, champion=model)
    assert {"floor", "gain"} <= failed(found) and not verdict.passed
    gain = next(one for one in verdict.checks if one.name == "gain")
    assert gain.high < 0 and gain.champion > 0.75
    assert judged(make(gates=Gates(min_metric=0.75)), model, held, champion=noisy)[0].passed


def test_non_inferiority_within_a_margin(binary):
    model, _, held = binary
    slightly = twisted(model, lambda p, X: yes(np.clip(p[:, 1] + 0.02 * np.sin(1e4 * X[:, 0]), 0, 1)))
    assert failed(judged(make(), slightly, held, champion=model)[1]) == {"gain"}
    assert not failed(judged(make(gates=Gates(min_gain=-0.02)), slightly, held, champion=model)[1])
    assert not failed(judged(make(gates=Gates(min_gain=-0.02, strict=True)), slightly, held, champion=model)[1])


def test_a_model_that_ignores_a_column_or_follows_the_wrong_one(binary):
    model, learned, held = binary
    blind = fit_model(make(), "linear", learned.assign(**{"größe (cm)": 0.0}), seed=0)
    wanted = make(
        behaviour=Behaviour(increasing=[{"column": "größe (cm)"}], invariant=[{"column": TOWN, "tolerance": 0.1}])
    )
    assert failed(judged(wanted, model, held)[1]) == set()
    verdict, found = judged(wanted, blind, held)
    assert failed(found) == {"responds: größe (cm)"}
    assert "ignores" in next(one.detail for one in verdict.checks if one.status == "fail")
    wrong = make(
        behaviour=Behaviour(decreasing=[{"column": "größe (cm)", "by": 1.0}], invariant=[{"column": "größe (cm)"}])
    )
    expected = {"decreasing: größe (cm)", "responds: größe (cm)", "invariant: größe (cm)"}
    assert failed(judged(wrong, model, held)[1]) == expected


def test_an_answer_that_depends_on_other_rows(binary):
    model, _, held = binary
    by_place = twisted(model, lambda p, X: yes(np.clip(p[:, 1] + 1e-6 * np.arange(len(p)), 0, 1)))
    assert {"permuted_rows", "one_by_one", "duplicated_rows"} <= failed(judged(make(), by_place, held)[1])
    by_batch = twisted(model, lambda p, X: yes(np.argsort(np.argsort(p[:, 1])) / len(p)))
    found = failed(judged(make(), by_batch, held)[1])
    assert "one_by_one" in found and "repeated" not in found


def test_a_random_answer(binary):
    model, _, held = binary
    rng = np.random.default_rng(0)
    dice = twisted(model, lambda p, X: yes(np.clip(p[:, 1] + rng.normal(0, 1e-3, len(p)), 0, 1)))
    assert "repeated" in failed(judged(make(), dice, held)[1])


@pytest.mark.parametrize("broken", [lambda p, X: p * np.nan, lambda p, X: p * 3, lambda p, X: 1 / 0])
def test_answers_that_are_none(binary, broken):
    model, _, held = binary
    found = consistency_checks(make(), twisted(model, broken), held, seed=0)
    assert "answers" in {one.name for one in found if one.status == "fail"}
    verdict, found = judged(make(), twisted(model, broken), held, champion=model)
    assert not verdict.passed and found["answers"] == "fail" and "floor" not in found


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_swapped_classes(kind):
    table = rows_of(kind)
    model = fit_model(make(kind), "hist_gradient_boosting", table.head(1000), seed=0)
    found = consistency_checks(make(kind), twisted(model, lambda p, X: np.roll(p, 1, axis=1)), table.tail(500), seed=0)
    assert {one.name for one in found if one.status == "fail"} == {"class_order"}


def test_miscalibrated(binary):
    model, _, held = binary
    gates = Gates(max_calibration_error=0.05, max_calibration_gap=0.05)
    shy = twisted(model, lambda p, X: yes(p[:, 1] ** 3))
    assert failed(judged(make(gates=gates), shy, held)[1]) == {"calibration", "calibration_error"}
    assert failed(judged(make(gates=gates), model, held)[1]) == set()


def test_too_slow_and_too_large(binary):
    model, _, held = binary
    slow = twisted(model, lambda p, X: (time.sleep(0.04), p)[1])
    project = make(budget=Budget(ms_per_1000_rows=30, mb=0.000001))
    verdict, found = judged(project, slow, held, areas=("budget",), file=__file__)
    assert failed(found) == {"ms_per_1000_rows", "mb"}
    generous = make(budget=Budget(ms_per_1000_rows=5000, mb=10))
    assert set(judged(generous, model, held, areas=("budget",))[1].values()) == {"pass"}
    assert judged(make(), model, held, areas=("budget",))[1] == {"budget": "abstain"}


@pytest.mark.slow
def test_too_slow_for_single_rows(binary):
    model, _, held = binary
    for limit, status in [(0.01, "fail"), (5000, "pass")]:
        assert judged(make(budget=Budget(p99_ms_per_row=limit)), model, held, areas=("budget",))[1] == {
            "p99_ms_per_row": status
        }


def test_a_bad_slice_is_named(binary):
    model, _, held = binary
    town = held[TOWN].to_numpy() == "東京"
    rng, size = np.random.default_rng(0), len(held)
    scores = predict_scores("binary", model, held)
    hurt = scores.assign(score=np.where(town, rng.random(size), scores["score"]))
    project = make(gates=Gates(slices=Slices(min_metric=0.65, max_loss=0.1)))
    bad = [(one.name, one.slice) for one in slice_checks(project, held, hurt, scores) if one.status == "fail"]
    assert bad == [("slice", f"{TOWN} = 東京"), ("slice_gain", f"{TOWN} = 東京")]
    assert not [one for one in slice_checks(project, held, scores, scores) if one.status == "fail"]
    named = make(gates=Gates(slices=Slices(columns=["age"], min_metric=0.65)))
    assert {one.slice.split()[0] for one in slice_checks(named, held, scores)} == {"age"}
    with pytest.raises(InputError, match='did you mean "age"'):
        slice_checks(make(gates=Gates(slices=Slices(columns=["agee"]))), held, scores)


def test_data_that_does_not_fit(binary):
    model, learned, held = binary
    gates = Gates(max_outside=0.05, max_missing_rise=0.05)
    moved = held.assign(age=held["age"].where(np.arange(len(held)) % 2 == 0), **{TOWN: "Rio"})
    assert {"outside", "missing_rise"} <= failed(judged(make(gates=gates), model, moved, learned=learned)[1])
    assert failed(judged(make(gates=gates), model, held, learned=learned)[1]) == set()
    verdict, found = judged(make(), model, held.rename(columns={"age": "aged"}))
    assert found == {"columns": "fail"} and '"aged"' in verdict.checks[0].detail
    words = held.assign(age=held["age"].astype(object).where(held["age"].isna(), "old"))
    assert "types" in failed(judged(make(), model, words)[1])


# A good model raises no alarm; few rows abstain


@pytest.mark.parametrize("seed", range(20))
def test_no_false_alarm(seed):
    kind = KINDS[seed % 3]
    days = 0 if seed % 2 else 20
    table = rows_of(kind, rows=1200, seed=seed, days=days)
    family = "linear" if seed % 4 < 2 else "hist_gradient_boosting"
    column = {
        "column": "größe (cm)",
        "outcome": "höch" if kind == "multiclass" else None,
        "tolerance": 0.2,
        "share": 0.35,
    }
    unmoved = {"column": TOWN, "tolerance": 0.5, "to": ["Köln", "東京"]}
    project = make(
        kind,
        gates=Gates(min_metric=0.3, max_calibration_error=0.3, max_outside=0.2, max_missing_rise=0.2,
                    slices=Slices(min_metric=0.05, max_loss=0.2)),
        behaviour=Behaviour(increasing=[column], invariant=[unmoved]),
    )  # fmt: skip
    model = fit_model(project, family, table.head(800), seed=seed)
    champion = fit_model(project, "linear", table.head(60), seed=seed)
    areas = ("data", "performance", "consistency", "behaviour", "calibration")
    verdict, found = judged(project, model, table.tail(400), champion=champion, learned=table.head(800), areas=areas)
    alarms = failed(found) - {"gain"}  # a candidate must be better than its champion; that is no alarm
    assert not alarms, [one.detail for one in verdict.checks if one.status == "fail"]
    assert found["onnx"] == "pass"


@pytest.mark.parametrize("kind", KINDS)
def test_twelve_rows_abstain(kind):
    table = rows_of(kind, rows=400)
    limits = Gates(slices=Slices(min_metric=0.6, min_rows=2), max_calibration_error=0.01, max_outside=0.01)
    project = make(kind, gates=limits, behaviour=Behaviour(invariant=[{"column": TOWN, "tolerance": 2.0}]))
    model = fit_model(project, "linear", table.head(388), seed=0)
    verdict, found = judged(project, model, table.tail(12), learned=table.head(388))
    assert not [name for name in failed(found) if not name.startswith(("slice", "calibration"))], verdict.checks
    invariant = next(one for one in verdict.checks if one.area == "behaviour")
    assert invariant.status == "abstain" and "rows" in invariant.detail
    assert set(judged(project, model, table.head(0))[1].values()) <= {"pass", "abstain"}


def test_one_class_and_no_outcomes(binary):
    model, _, held = binary
    verdict, found = judged(make(gates=Gates(slices=Slices(min_metric=0.6))), model, held.assign(_label=1.0))
    assert found["floor"] == "abstain" and not failed(found)
    verdict, found = judged(make(), model, held.drop(columns="_label"))
    assert found["performance"] == "abstain" == found["calibration"] and found["onnx"] == "pass"


def test_strict_puts_the_burden_on_the_model(binary):
    model, _, held = binary
    few = held.head(60)
    limit = round(roc_auc_score(few["_label"], predict_scores("binary", model, few)["score"]) - 0.02, 2)
    assert judged(make(gates=Gates(min_metric=limit)), model, few)[1]["floor"] == "pass"
    assert judged(make(gates=Gates(min_metric=limit, strict=True)), model, few)[1]["floor"] == "fail"


# Numbers


def test_the_error_of_an_auc_is_that_of_the_bootstrap():
    rng = np.random.default_rng(0)
    y = (rng.random(800) < 0.4).astype(float)
    p, days = y * 0.8 + rng.normal(size=800), np.repeat(np.arange(40), 20)
    p += np.repeat(rng.normal(0, 0.5, 40), 20)  # days differ
    value, influence = intervals.auc_influence(y, p)
    assert value == pytest.approx(roc_auc_score(y, p))
    members = [np.flatnonzero(days == day) for day in range(40)]
    drawn = [np.concatenate([members[one] for one in rng.integers(0, 40, 40)]) for _ in range(600)]
    by_day = np.std([roc_auc_score(y[rows], p[rows]) for rows in drawn])
    assert intervals.from_influence(value, influence, days).error == pytest.approx(by_day, rel=0.15)


def test_clustered_errors_and_shares_are_those_of_statsmodels():
    api = pytest.importorskip("statsmodels.api")
    from statsmodels.stats.proportion import proportion_confint

    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(25), 16)
    values = rng.normal(size=400) + np.repeat(rng.normal(size=25), 16)
    fit = api.OLS(values, np.ones(400)).fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})
    ours = intervals.from_influence(values.mean(), (values - values.mean()) / 400, groups)
    assert ours.error == pytest.approx(float(fit.bse[0]) * np.sqrt(25 / 24), rel=1e-9)
    flags = np.arange(200) < 7
    assert intervals.share_bounds(flags)[1:] == pytest.approx(proportion_confint(7, 200, alpha=0.1, method="beta"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_paired_bootstrap_is_that_of_a_plain_loop(kind):
    table, rng = rows_of(kind, rows=300), np.random.default_rng(1)
    one = fit_model(make(kind), "linear", table, seed=0)
    scores = predict_scores(kind, one, table)
    other = scores + rng.normal(0, 0.2, scores.shape) if kind == "regression" else scores.sample(frac=1, random_state=1)
    other = other.set_axis(scores.index)
    days = np.arange(300) // 15
    found = paired_difference(kind, table["_label"], scores, other, blocks=days, seed=3, draws=50)
    again, plain = np.random.default_rng(3), []
    for _ in range(50):
        rows = np.concatenate([np.flatnonzero(days == day) for day in again.integers(0, 20, 20)])
        both = [evaluation.primary_metric(kind, table["_label"].iloc[rows], one.iloc[rows]) for one in (scores, other)]
        plain.append(both[0] - both[1])
    assert found[1:] == pytest.approx(tuple(np.quantile(plain, [0.05, 0.95])), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_influence_is_what_leaving_a_row_out_does(kind):
    table = rows_of(kind, rows=250)
    scores = predict_scores(kind, fit_model(make(kind), "linear", table, seed=0), table)
    value, influence = intervals.metric_influence(kind, table["_label"], scores)
    assert value == pytest.approx(evaluation.primary_metric(kind, table["_label"], scores))
    keep = [np.delete(np.arange(250), row) for row in range(60)]
    left = [value - evaluation.primary_metric(kind, table["_label"].iloc[one], scores.iloc[one]) for one in keep]
    assert np.corrcoef(left, influence[:60])[0, 1] > 0.99


def test_bounds_cover_what_they_promise():
    rng, inside, alarms = np.random.default_rng(0), 0, 0
    for _ in range(150):
        y = (rng.random(300) < 0.4).astype(float)
        p = y + rng.normal(0, 1, 300)
        value, influence = intervals.auc_influence(y, p)
        low, high = intervals.from_influence(value, influence).bounds()
        inside += low < 0.7602 < high  # Phi(1 / sqrt(2)): the true area
        chance = rng.uniform(0.05, 0.95, 300)
        came = pd.Series((rng.random(300) < chance).astype(float))
        alarms += calibration_error("binary", came, pd.DataFrame({"score": chance}), seed=0, draws=100)[1] > 0.0
    assert 0.83 < inside / 150 < 0.97  # 90 % promised
    assert alarms / 150 < 0.08  # a lower bound above 0 where nothing is wrong: 5 % promised


# ONNX


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["linear", "hist_gradient_boosting"])
def test_onnx_gives_the_same_answers(kind, family):
    table = rows_of(kind, rows=900)
    table["größe (cm)"] = table["größe (cm)"] * 1e9 + np.arange(900) % 7  # more digits than 32 bits have
    table["code"] = np.random.default_rng(0).choice([f"k{i}" for i in range(120)], 900)  # rare values share a column
    model = fit_model(make(kind), family, table.head(600), seed=0)
    asked = table.tail(300).assign(**{TOWN: lambda t: t[TOWN].where(np.arange(300) % 5 > 0, "never seen")})
    want = predict_scores(kind, model, asked)
    told = onnx_models.predict_onnx(kind, onnx_models.to_onnx(model), asked)
    assert list(told.columns) == list(want.columns)
    np.testing.assert_allclose(told, want, rtol=1e-6, atol=1e-6)


def test_onnx_that_differs_is_not_used_and_none_abstains_by_name(binary, monkeypatch):
    model, learned, held = binary
    other = onnx_models.to_onnx(fit_model(make(), "hist_gradient_boosting", learned, seed=0))
    named = twisted(model, lambda p, X: p)
    found = {one.name: one for one in consistency_checks(make(), named, held, seed=0)}
    assert found["onnx"].status == "abstain" and "Twisted" in found["onnx"].detail
    for content in (other, b"no graph"):
        monkeypatch.setattr(onnx_models, "to_onnx", lambda model, content=content: content)
        checks = consistency_checks(make(), model, held, seed=0)
        found = {one.name: one for one in checks}
        assert found["onnx"].status == "abstain" and "the scikit-learn model answers instead" in found["onnx"].detail
        assert not [one.name for one in checks if one.status == "fail"]
    assert found["onnx"].value is None


@pytest.mark.slow
def test_numbers_that_32_bits_do_not_tell_apart_cost_lightgbm_its_onnx_form_and_nothing_else(tmp_path):
    """LightGBM's thresholds are written in 32 bits: the release goes on, and the ledger says which form may answer."""
    pytest.importorskip("lightgbm")
    pytest.importorskip("onnxmltools")
    table = rows_of(rows=900, days=None)
    exact, size = {}, table["größe (cm)"]
    for name, values in {"small": (100 * size).round(), "large": 1e9 + (100 * size).round()}.items():
        held = table.assign(**{"größe (cm)": values}).tail(300)
        project = toy(tmp_path, training={"families": ["lightgbm"]})
        model = fit_model(project, "lightgbm", table.assign(**{"größe (cm)": values}).head(600), seed=0)
        checks = consistency_checks(project, model, held, seed=0)
        found = {one.name: one for one in checks}
        assert {one.status for one in checks if one.name != "onnx"} == {"pass"}
        exact[name] = found["onnx"]
        log = log_candidate(project, tmp_path / name, model, name="lightgbm", train=held.head(3)[["größe (cm)", "age", TOWN]],
                            data_digest="0" * 64, params={}, metrics={}, tags={})  # fmt: skip
        facts = {"trained_from": None, "trained_until": None, "rows": 600, "metric": "roc_auc", "value": 0.9}
        version = registry.register(project, tmp_path / name, {**log, **facts, "family": "lightgbm"}, period="2024-01")
        assert registry.onnx_form(project, tmp_path / name, version) == (
            False,
            "the ONNX form was not compared with the model",
        )
        verdict = Verdict(period="2024-01", digest=version.digest, rows=300, checks=checks)
        said = verdict.model_dump() | {"passed": verdict.passed}
        ledger.record(tmp_path / name, "verdict", subject="toy@2024-01", payload=said)
        assert releases.settle(project, tmp_path / name, version, period="2024-01")[0]
        assert registry.onnx_form(project, tmp_path / name, version) == (name == "small", found["onnx"].detail)
        assert (
            registry.load_version(project, tmp_path / name, version)
            .predict(held.head(2)[sum(model_columns(model), [])])
            .size
            == 2
        )
        tags = open_tracking(project, tmp_path / name).MlflowClient().get_model_version("toy", "1").tags
        assert tags["onnx"] == {"small": "exact", "large": "not used"}[name]
    assert exact["small"].status == "pass" and exact["large"].status == "abstain"
    assert exact["large"].value > 0.1 and "'größe (cm)' holds numbers above 2^24" in exact["large"].detail


# Settings, and what a person can get wrong


def test_settings_name_the_nearest_key(tmp_path):
    folder = make_project(
        tmp_path / "p", kind="binary", behaviour={"increasing": [{"column": "größe", "tolerence": 1}]}
    )
    with pytest.raises(InputError, match=r"behaviour.increasing.0.tolerence.*did you mean \"tolerance\""):
        load_project(folder)
    change(folder / "project.yaml", behaviour={"rising": []})
    with pytest.raises(InputError, match="unknown key"):
        load_project(folder)


def test_a_declared_column_must_exist(binary):
    model, _, held = binary
    with pytest.raises(InputError, match='did you mean "age"'):
        judged(make(behaviour=Behaviour(increasing=[{"column": "aeg"}])), model, held)


def test_a_check_of_the_first_format_can_be_read():
    old = {
        "name": "floor",
        "value": 0.7,
        "limit": 0.6,
        "low": None,
        "high": None,
        "champion": None,
        "status": "pass",
        "detail": "",
    }
    verdict = Verdict.model_validate({"format": 1, "period": "2013-02", "digest": "ab", "rows": 9, "checks": [old]})
    assert verdict.passed and check_table(verdict)["area"].tolist() == ["performance"]


def test_junit_escapes_what_xml_has_no_place_for():
    checks = [
        Check(name="slice", slice='a <b> & "c" \x00 ö', status="fail", detail="x \x1b < y"),
        Check(name="n", status="abstain", detail="few"),
    ]
    text = suite.junit(Verdict(period="all", digest="ab", rows=1, checks=checks), "m & m")
    case, other = ElementTree.fromstring(text).iter("testcase")
    assert case.get("classname") == "performance" and case.find("failure").get("message") == "x ? < y"
    assert other.find("skipped").get("message") == "few"


# The three ways


def test_the_plug_in_costs_nothing_when_not_asked():
    told = "import sys, nbops.pytest_plugin; print([m for m in ('pandas', 'numpy', 'pydantic', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], env=environment(), capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.slow
def test_the_three_ways_say_the_same(tmp_path):
    folder = make_project(tmp_path / "p", kind="multiclass", rows=400, gates={"min_metric": 0.6})
    ran = command(folder, "run", "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    stage = json.loads((folder / "store/products/all/80_evaluate/verdict.json").read_text())
    asked = command(folder, "test", "models:/small@champion", "--json", "--junit", str(tmp_path / "r.xml"))
    assert asked.returncode == 0, asked.stdout + asked.stderr
    told = json.loads(asked.stdout)
    assert told["checks"] == stage["checks"] and told["digest"] == stage["digest"]  # the same rows, seed and answers
    report = ElementTree.parse(tmp_path / "r.xml").getroot()[0]
    assert int(report.get("tests")) == len(stage["checks"]) and {one.get("classname") for one in report} >= {
        "data",
        "consistency",
    }
    assert (
        command(folder, "test", "7").returncode == 2
        and command(folder, "test", "1", "--data", "no.csv").returncode == 2
    )

    plug = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "nbops.pytest_plugin",
        "-p",
        "no:cacheprovider",
        "--junit-xml",
        "j.xml",
    ]
    done = subprocess.run([*plug, "--nbops-model", "1"], cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = list(ElementTree.parse(folder / "j.xml").getroot().iter("testcase"))
    assert len(cases) == len(stage["checks"]) and {one.get("classname") for one in cases} >= {"data", "consistency"}
    assert {one.find("skipped") is not None for one in cases} == {True, False}

    change(folder / "project.yaml", gates={"min_metric": 0.999})
    refused = command(folder, "test", "champion")
    assert refused.returncode == 3 and "fail" in refused.stdout.splitlines()[-1]
    done = subprocess.run(
        [*plug, "--nbops-model", "champion", "-k", "floor"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "1 failed" in done.stdout and "Traceback" not in done.stdout, done.stdout
    assert yaml.safe_load((folder / "project.yaml").read_text())["gates"] == {"min_metric": 0.999}
