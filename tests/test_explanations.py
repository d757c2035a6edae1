"""Explanations hold against SHAP's own functions and against every coalition of features, on tables nobody made for them."""

import dataclasses
import itertools
import math
import time

import numpy as np
import pandas as pd
import pytest
from sklearn import calibration, compose, ensemble, linear_model, neighbors, pipeline, preprocessing

from nbops import explanations, training
from nbops.base import InputError
from nbops.config import Project, Source, Target
from nbops.features import model_input
from nbops.trust import Explanations, Fairness

NUMBERS, WORDS = ['größe "cm"', "a & <b>", "constant"], ["place_of x", "farbe"]


def project(kind="binary", **more):
    target = Target(column="y", kind=kind, positive=1 if kind == "binary" else None)
    return Project(
        name="toy",
        title="Toy",
        root=".",
        sources={"rows": Source(path="-")},
        table="rows",
        key=["id"],
        target=target,
        **more,
    )


def rows(kind="binary", n=240, seed=1):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {"_id": [f"r{i}" for i in range(n)], NUMBERS[0]: rng.normal(size=n), NUMBERS[1]: rng.normal(size=n)}
    )
    table.loc[rng.random(n) < 0.15, NUMBERS[0]] = np.nan
    table[NUMBERS[2]] = 3.0
    table[WORDS[0]] = rng.choice(["東京", "a_b", None], n)
    table[WORDS[1]] = rng.choice(["x", "y", "z", "ü"], n)
    signal = (
        table[NUMBERS[0]].fillna(0)
        - table[NUMBERS[1]]
        + 2 * (table[WORDS[0]] == "東京")
        + rng.normal(scale=0.3, size=n)
    )
    levels = {"binary": (signal > 0).astype(float), "regression": signal}
    table["_label"] = levels.get(kind, pd.Series(np.select([signal < -0.5, signal < 1], ["low", "mid"], "high")))
    return table


def inside_out(estimator, table):
    """A pipeline as training makes it, around another estimator."""
    encode = preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    numbers = pipeline.make_pipeline(training_imputer(), preprocessing.StandardScaler())
    prepare = compose.ColumnTransformer([("numeric", numbers, NUMBERS), ("categorical", encode, WORDS)])
    return pipeline.Pipeline([("prepare", prepare), ("model", estimator)]).fit(
        model_input(table, NUMBERS, WORDS), table["_label"]
    )


def training_imputer():
    from sklearn.impute import SimpleImputer

    return SimpleImputer(strategy="median", add_indicator=True)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("family", ["linear", "hist_gradient_boosting"])
def test_values_are_finite_complete_and_add_up(kind, family):
    table = rows(kind)
    model = training.fit_model(project(kind), family, table, seed=0)
    found = explanations.explain(project(kind), model, table, seed=0)
    outputs = 3 if kind == "multiclass" else 1
    assert found.values.shape == (240, 5, outputs) and set(found.features) == {*NUMBERS, *WORDS}
    assert np.isfinite(found.values).all() and found.gap < 1e-9
    assert found.unit == ("unit of the target" if kind == "regression" else "log-odds")
    sizes = explanations.importance(found).set_index("feature")["importance"]
    assert sizes["constant"] == pytest.approx(0, abs=1e-9) and sizes.idxmax() in (NUMBERS[0], NUMBERS[1], WORDS[0])
    said = found.values.sum(axis=1) + found.base
    scores = training.predict_scores(kind, model, table).to_numpy(float)
    if kind == "binary":
        scores = np.log(scores / (1 - scores))
    if kind != "multiclass":
        assert np.allclose(said, scores)
    else:
        odds = np.exp(said - said.max(axis=1, keepdims=True))
        assert np.allclose(odds / odds.sum(axis=1, keepdims=True), scores)


def test_linear_values_are_those_of_shap():
    import shap

    table = rows()
    model = training.fit_model(project(), "linear", table, seed=0)
    prepared = model.named_steps["prepare"].transform(model_input(table, NUMBERS, WORDS))
    prepared = np.asarray(prepared.toarray() if hasattr(prepared, "toarray") else prepared)
    theirs = shap.LinearExplainer(
        model.named_steps["model"], shap.maskers.Independent(prepared, max_samples=1000)
    ).shap_values(prepared)
    found = explanations.explain(project(), model, table, seed=0).values[:, :, 0]
    assert np.allclose(found[:, :3], theirs[:, :3])
    words = 3  # (missing), a_b and 東京 are three columns, and x, y, z, ü four
    assert np.allclose(found[:, 3], theirs[:, 3 : 3 + words].sum(axis=1))
    assert np.allclose(found[:, 4], theirs[:, 3 + words :].sum(axis=1)) and theirs.shape[1] == 3 + words + 4


@pytest.mark.parametrize(
    ("estimator", "unit"),
    [
        (ensemble.RandomForestClassifier(20, random_state=0), "probability"),
        (ensemble.GradientBoostingClassifier(n_estimators=20, random_state=0), "log-odds"),
        (ensemble.HistGradientBoostingClassifier(max_iter=20, random_state=0), "log-odds"),
    ],
)
def test_tree_values_are_those_of_shap(estimator, unit):
    import shap

    table = rows()
    model = inside_out(estimator, table)
    found = explanations.explain(project(), model, table, seed=0)
    prepared = model.named_steps["prepare"].transform(model_input(table, NUMBERS, WORDS))
    theirs = np.asarray(shap.TreeExplainer(model.named_steps["model"]).shap_values(prepared, check_additivity=False))
    theirs = theirs[:, :, 1] if theirs.ndim == 3 else theirs
    assert found.unit == unit and found.gap < 1e-6
    assert np.allclose(
        found.values[:, 0, 0], theirs[:, 0] + theirs[:, 3]
    )  # the number, and the flag that it is missing
    assert np.allclose(found.values[:, 1:3, 0], theirs[:, 1:3]) and np.allclose(found.values[:, 3:, 0], theirs[:, 4:])


def test_lightgbm():
    lightgbm = pytest.importorskip("lightgbm")
    table = rows("multiclass")
    model = inside_out(lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, min_child_samples=5), table)
    found = explanations.explain(project("multiclass"), model, table, seed=0)
    assert found.unit == "log-odds" and found.gap < 1e-6 and found.values.shape == (240, 5, 3)


@pytest.mark.slow
def test_any_other_model_comes_near_every_coalition():
    """Against the definition: the mean over all coalitions, and over the same background rows."""
    table = rows(n=60)[["_id", *NUMBERS[:2], WORDS[0], "_label"]]
    names = [*NUMBERS[:2], WORDS[0]]
    encode = preprocessing.OrdinalEncoder()
    prepare = compose.ColumnTransformer(
        [("numeric", training_imputer(), NUMBERS[:2]), ("categorical", encode, WORDS[:1])]
    )
    model = pipeline.Pipeline([("prepare", prepare), ("model", neighbors.KNeighborsClassifier(15))])
    given = model_input(table, NUMBERS[:2], WORDS[:1])
    model.fit(given, table["_label"])
    settings = project(explanations=Explanations(rows=50))
    whole = table.sample(50, random_state=0).sort_index()
    found = explanations.explain(settings, model, table, seed=0)
    assert found.unit == "probability" and "exchanged" in found.note and found.gap < 1e-9
    background = model_input(whole, NUMBERS[:2], WORDS[:1])
    exact = np.zeros((6, 3))
    for r in range(6):
        for i, name in enumerate(names):
            others = [one for one in names if one != name]
            for size in range(3):
                for group in itertools.combinations(others, size):
                    weight = math.factorial(size) * math.factorial(2 - size) / math.factorial(3)
                    with_it, without = background.copy(), background.copy()
                    for one in group:
                        with_it[one] = without[one] = found.rows[one].iloc[r]
                    with_it[name] = found.rows[name].iloc[r]
                    difference = model.predict_proba(with_it)[:, 1].mean() - model.predict_proba(without)[:, 1].mean()
                    exact[r, i] += weight * difference
    assert np.abs(found.values[:6, :, 0] - exact).mean() < 0.03 and np.abs(exact).mean() > 0.05


def test_trees_that_shap_gets_wrong_are_asked_from_outside():
    table = rows(n=80)
    native = ensemble.HistGradientBoostingClassifier(max_iter=10, categorical_features=[3, 4], random_state=0)
    encode = preprocessing.OrdinalEncoder()
    prepare = compose.ColumnTransformer([("numeric", "passthrough", NUMBERS), ("categorical", encode, WORDS)])
    model = pipeline.Pipeline([("prepare", prepare), ("model", native)]).fit(
        model_input(table, NUMBERS, WORDS), table["_label"]
    )
    found = explanations.explain(project(explanations=Explanations(rows=10)), model, table, seed=0)
    assert found.unit == "probability" and found.gap < 1e-9


def test_what_is_inside_a_calibration_is_explained_and_said():
    table = rows()
    folds = calibration.CalibratedClassifierCV(
        ensemble.HistGradientBoostingClassifier(max_iter=10, random_state=0), cv=3
    )
    found = explanations.explain(project(), inside_out(folds, table), table, seed=0)
    assert "3 models inside the calibration" in found.note and found.unit == "log-odds" and found.gap < 1e-6
    one = calibration.CalibratedClassifierCV(linear_model.LogisticRegression(), cv=3, ensemble=False)
    assert (
        "the model inside the calibration"
        in explanations.explain(project(), inside_out(one, table), table, seed=0).note
    )


class Slow(linear_model.LogisticRegression):
    """Half a millisecond a row, and no way to look inside."""

    coef_ = None

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        time.sleep(0.0005 * len(X))
        chance = 1 / (1 + np.exp(-np.asarray(X, dtype=float)[:, 1]))
        return np.column_stack([1 - chance, chance])


def test_a_big_table_takes_no_longer_than_its_budget():
    table = rows(n=3000)
    model = inside_out(Slow(), table.head(100))
    began = time.monotonic()
    found = explanations.explain(project(explanations=Explanations(seconds=2)), model, table, seed=0)
    assert time.monotonic() - began < 10 and 1 <= len(found.values) < 100 and found.gap < 1e-9
    assert f"{len(found.values)} of 3000 rows, as many as there was time for" in found.note
    model = training.fit_model(project(), "linear", table, seed=0)
    quick = explanations.explain(project(explanations=Explanations(rows=50)), model, table, seed=0)
    assert len(quick.values) == 50 and "50 of 3000 rows (a sample)" in quick.note


def test_same_seed_same_values():
    table, settings = rows(), project(explanations=Explanations(rows=20))
    model = inside_out(neighbors.KNeighborsClassifier(5), table)
    one, other = (explanations.explain(settings, model, table, seed=3) for _ in range(2))
    assert (one.values == other.values).all() and one.rows.equals(other.rows)


def test_one_row_and_twelve():
    table = rows(n=12)
    model = training.fit_model(project(), "linear", table, seed=0)
    effects, one = explanations.explain_row(project(), model, table, "r5", seed=0)
    whole = explanations.explain(project(), model, table, seed=0)
    assert effects["effect"].abs().is_monotonic_decreasing and len(effects) == 5
    assert np.allclose(one.values[0], whole.values[5]) and one.said[0, 0] == pytest.approx(
        effects["effect"].sum() + one.base[0]
    )
    with pytest.raises(InputError, match="no row has the _id 'nobody'"):
        explanations.explain_row(project(), model, table, "nobody", seed=0)
    with pytest.raises(InputError, match="needs column 'farbe'"):
        explanations.explain(project(), model, table.drop(columns="farbe"), seed=0)


def test_checks():
    table = rows()
    kinds = project(explanations=Explanations(forbidden=["farbe"]), fairness=Fairness(columns=[WORDS[0]]))
    trees, linear = (
        training.fit_model(kinds, family, table, seed=0) for family in ("hist_gradient_boosting", "linear")
    )
    found, other = (explanations.explain(kinds, one, table, seed=0) for one in (trees, linear))
    checks = {one.name: one for one in explanations.explanation_checks(kinds, found, other, seed=0)}
    assert [checks[name].status for name in ("finite", "additive", "rank_stability")] == ["pass"] * 3
    assert (
        checks["forbidden_features"].status == "fail" and WORDS[0] in checks["forbidden_features"].detail
    )  # the place decides a lot
    same = explanations.explanation_checks(kinds, found, found, seed=0)[2]
    assert same.value == 1.0 and same.low > 0.8
    order = np.argsort(np.abs(found.values[:, :, 0]).mean(axis=0))
    turned = found.values.copy()
    turned[:, order] = found.values[:, order[::-1]]  # what mattered least matters most
    upside_down = explanations.explanation_checks(kinds, found, dataclasses.replace(found, values=turned), seed=0)[2]
    assert upside_down.status == "fail" and upside_down.low <= upside_down.value <= upside_down.high
    wrong = dataclasses.replace(found, base=found.base + 0.5)
    assert {one.name: one.status for one in explanations.explanation_checks(kinds, wrong, seed=0)}["additive"] == "fail"
