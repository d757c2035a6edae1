"""One predictor: the same numbers as scikit-learn, opened only if it is what the ledger knows, and quickly asked."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from nbops import features, onnx_models, predictors
from nbops.approvals import Refused
from nbops.base import InputError
from nbops.config import Family
from nbops.ledger import records
from nbops.training import fit_model, predict_scores
from serving_store import COLUMNS, NEIGHBOURS, SPREADING, make_project, make_rows, make_version, strange_rows


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def boosted(store):
    """Project, rows, model, version."""
    project, table = make_project(store), make_rows()
    return project, table, *make_version(project, store, "hist_gradient_boosting", table)


def opened(project, store, version, **more):
    folder = predictors.serving_form(project, store, version, released=False, **more)
    return predictors.open_predictor(folder, predictors.expected_form(store, version.digest))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "family"),
    [("binary", "hist_gradient_boosting"), ("binary", "linear"), ("multiclass", "hist_gradient_boosting"), ("multiclass", "linear"),
     ("regression", "hist_gradient_boosting"), ("regression", "linear"), ("regression", "random_forest"), ("binary", "lightgbm")],
)  # fmt: skip
def test_the_graph_says_what_scikit_learn_says(store, kind, family):
    project, table = make_project(store, kind), make_rows(kind)
    model, version = make_version(project, store, family, table, period=f"{kind}-{family}")
    predictor, odd = opened(project, store, version), strange_rows(table)
    asked = predict_scores(kind, model, odd).to_numpy()
    asked = asked if kind == "multiclass" else asked[:, 0]
    told = predictor.predict_rows(odd.to_dict("records"))
    assert (predictor.form, predictor.reason, told.dtype) == ("onnx", "", np.float64)
    scale = np.std(asked) if kind == "regression" else 1
    assert told.shape == asked.shape and np.abs(told - asked).max() <= 1e-5 * scale
    alone = np.concatenate([predictor.predict_rows([row]) for row in odd.to_dict("records")])
    np.testing.assert_allclose(alone, told, rtol=0, atol=1e-12 * scale)
    assert predictor.predict_rows([]).shape == (0, *told.shape[1:])


def test_rows_by_name_are_the_blocks_of_a_feature_table(boosted):
    project, table, _, version = boosted
    texts = dict.fromkeys(("name", "digest", "form", "reason"), "")
    about = {"version": 1, "kind": "regression", "classes": [], "types": {}, "examples": []}
    asked = predictors.Predictor(**texts, **about, numeric=COLUMNS[:3], categorical=COLUMNS[3:])
    odd = strange_rows(table, 200)
    numbers, texts = asked.blocks(odd.to_dict("records"))
    given = features.model_input(odd, COLUMNS[:3], COLUMNS[3:])
    np.testing.assert_array_equal(numbers, given[COLUMNS[:3]].to_numpy())
    assert (texts == given[COLUMNS[3:]].to_numpy()).all()


def test_a_whole_number_is_one_category_with_and_without_gaps():
    whole, gaps = pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 2, None]})
    assert features.model_input(whole, [], ["a"])["a"].tolist() == ["1", "2"]
    assert features.model_input(gaps, [], ["a"])["a"].tolist() == ["1", "2", "(missing)"]
    assert features.model_input(gaps.astype("Int64"), [], ["a"])["a"].tolist() == ["1", "2", "(missing)"]


def test_the_form_is_made_once_and_tells_what_a_server_needs(store, boosted):
    project, table, _, version = boosted
    folder = predictors.serving_form(project, store, version, released=False)
    before = (folder / "form.json").stat().st_mtime_ns
    assert predictors.serving_form(project, store, version, released=False) == folder
    assert (folder / "form.json").stat().st_mtime_ns == before
    about = json.loads((folder / "form.json").read_text())
    assert about["types"] == dict(zip(COLUMNS, ["number", "number", "boolean", "text", "number"], strict=True))
    assert about["parity"]["rows"] == len(table) + 3 and about["parity"]["max_difference"] <= 1e-5
    assert [set(one) for one in about["examples"]] == [set(COLUMNS)] * 2 and about["classes"] == ["0", "1"]
    (kept,) = records(store, "serving_form", subject=version.digest)
    assert kept["payload"]["form"] == predictors.form_digest(folder)
    assert kept["payload"]["onnx_sha256"] == about["onnx_sha256"]


def test_a_changed_form_is_refused_and_made_again(store, boosted):
    project, _, _, version = boosted
    folder = predictors.serving_form(project, store, version, released=False)
    expected = predictors.expected_form(store, version.digest)
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(InputError, match="not the one that was checked"):
        predictors.open_predictor(folder, expected)
    told = (folder / "form.json").read_text()
    (folder / "form.json").write_text(told.replace('"binary"', '"regression"'))
    with pytest.raises(InputError, match="expected is"):
        predictors.open_predictor(folder, expected)
    again = predictors.serving_form(project, store, version, released=False)
    assert predictors.open_predictor(again, predictors.expected_form(store, version.digest)).kind == "binary"


def test_a_version_that_was_not_released_has_no_form_unless_asked(store, boosted):
    project, _, _, version = boosted
    with pytest.raises(Refused, match="never released"):
        predictors.serving_form(project, store, version)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # far from all rows it says nothing
@pytest.mark.parametrize(
    ("family", "why"), [(SPREADING, "no form in ONNX: LabelSpreading"), (NEIGHBOURS, "cannot run the graph")]
)
def test_a_family_without_a_graph_serves_through_scikit_learn(store, family, why):
    project, table = make_project(store), make_rows(rows=120)
    model, version = make_version(project, store, Family(**family), table, period=family["name"])
    predictor, odd = opened(project, store, version), strange_rows(table)
    assert predictor.form == "sklearn" and why in predictor.reason
    asked = predict_scores("binary", model, odd)["score"].to_numpy()
    np.testing.assert_array_equal(predictor.predict_rows(odd.to_dict("records")), asked)


def test_a_graph_that_says_something_else_does_not_serve(store, monkeypatch):
    project, table = make_project(store), make_rows(seed=5)
    model, version = make_version(project, store, "linear", table, period="wrong")
    rows = make_rows()
    rows.loc[0, "_label"] = 1 - rows.loc[0, "_label"]
    other = onnx_models.to_onnx(fit_model(project, "linear", rows, seed=0))
    monkeypatch.setattr(onnx_models, "to_onnx", lambda model: other)
    predictor = opened(project, store, version)
    assert predictor.form == "sklearn" and "differs from scikit-learn" in predictor.reason
    asked = predict_scores("binary", model, table)["score"].to_numpy()
    assert (predictor.predict_rows(table.to_dict("records")) == asked).all()


def test_without_its_rows_nothing_proves_a_graph(store):
    project, table = make_project(store), make_rows(seed=6)
    _, version = make_version(project, store, "linear", table, period="gone", rows_kept=False)
    predictor = opened(project, store, version)
    assert predictor.form == "sklearn" and "training rows are gone" in predictor.reason


def test_a_row_without_a_column_is_refused(store, boosted):
    project, table, _, version = boosted
    row = table[COLUMNS].iloc[0].to_dict()
    row["place"] = row.pop(COLUMNS[3])
    with pytest.raises(InputError, match="place; or"):
        opened(project, store, version).predict_rows([row])


def test_opening_a_form_needs_neither_scikit_learn_nor_mlflow_nor_pandas(store, boosted):
    project, _, _, version = boosted
    folder = predictors.serving_form(project, store, version, released=False)
    heavy = "'sklearn', 'mlflow', 'pandas', 'duckdb', 'pydantic', 'skl2onnx'"
    code = (
        "import sys; from nbops.predictors import open_predictor; p = open_predictor(*sys.argv[1:]);"
        f"print(p.form, p.predict_rows(p.examples).shape, *[m for m in ({heavy}) if m in sys.modules])"
    )
    words = [sys.executable, "-c", code, str(folder), predictors.expected_form(store, version.digest)]
    found = subprocess.run(words, capture_output=True, text=True, env=os.environ)
    assert found.stdout.split() == ["onnx", "(2,)"], found.stdout + found.stderr


def cpu(call, times=60, rounds=5):
    """The least CPU seconds of a call."""
    best = np.inf
    for _ in range(rounds):
        begin = time.process_time()
        for _ in range(times):
            call()
        best = min(best, (time.process_time() - begin) / times)
    return best


@pytest.mark.slow
def test_a_hundred_rows_by_name_cost_at_most_twice_the_call(store, boosted):
    project, table, model, version = boosted
    predictor = opened(project, store, version)
    rows = table.head(100)[COLUMNS].to_dict("records")
    numbers, texts = predictor.blocks(rows)
    call = cpu(lambda: predictor.ask(numbers, texts))
    assert cpu(lambda: predictor.predict_rows(rows)) <= 2 * call
    assert (
        cpu(lambda: predictor.predict(numbers[:1], texts[:1]))
        <= cpu(lambda: predict_scores("binary", model, table.head(1)), 5) / 60
    )
