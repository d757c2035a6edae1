"""The same stages on other tables: other targets, periods, names and sizes, and data that is hard to learn from."""

import json
import resource
import time

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from threadpoolctl import threadpool_limits

from nbops import (
    calibration,
    comparison,
    contracts,
    evaluation,
    features,
    ledger,
    monitoring,
    policy,
    registry,
    snapshots,
    sources,
    tracking,
    training,
)
from nbops.base import InputError
from nbops.calendar import ALL, period_of
from nbops.config import load_project
from small_project import change, command, make_project, make_table, write_yaml

pytestmark = pytest.mark.slow
FIGURE = "application/vnd.plotly.v1+json"


def notebooks(folder, period):
    """The executed notebooks of a period, in run order."""
    return sorted((folder / "store/products" / period).glob("*/[0-9]*.ipynb"))


def figures(notebook):
    outputs = [output for cell in nbformat.read(notebook, as_version=4).cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"], (
        notebook
    )
    return sum(FIGURE in output.get("data", ()) for output in outputs)


# ---------------------------------------------------------------- several classes, no time


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A project after `nbops run`: three classes, no time, missing values, a column with a space and one with an umlaut."""
    folder = make_project(tmp_path_factory.mktemp("classes") / "project")
    done = command(folder, "run")
    assert done.returncode == 0, done.stderr
    assert "12 of 12 stages ran" in done.stdout.splitlines()[-1]
    return folder


def test_every_stage_is_a_notebook_with_a_figure(classes):
    assert [path.parent.name for path in notebooks(classes, ALL)] == [path.stem for path in notebooks(classes, ALL)]
    assert len(notebooks(classes, ALL)) == 12 and all(figures(path) for path in notebooks(classes, ALL))


def test_a_champion_is_released_with_evidence(classes):
    project, store = load_project(classes), classes / "store"
    version = registry.versions(project, store)[0]
    release = json.loads((store / "products/all/90_release/release.json").read_text())
    assert release["released"] and release["champion"] == version.version == 1 and version.value > 0.8
    client = tracking.open_tracking(project, store).MlflowClient()
    assert client.get_model_version_by_alias("small", "champion").tags["digest"] == version.digest
    assert ledger.verify(store) is None
    assert {one["kind"] for one in ledger.records(store)} >= {
        "snapshot",
        "decision",
        "verdict",
        "version",
        "promotion",
        "report",
        "run",
    }


def test_a_second_run_has_nothing_to_do(classes):
    again = json.loads(command(classes, "run", "--json").stdout)  # a project without time has one period, always next
    assert set(again["stages"].values()) == {None} and len(again["stages"]) == 12
    assert again["summary"].startswith("all: ") and "0 of 12 stages ran" in again["summary"]
    assert command(classes, "status").stdout.strip().endswith("when the data has changed: nbops run")


@pytest.mark.slow
def test_without_time_a_new_model_is_held_against_the_one_that_serves(tmp_path):
    folder = make_project(tmp_path / "project")
    assert command(folder, "run").returncode == 0
    settings = yaml.safe_load((folder / "project.yaml").read_text())
    settings["training"] = {"families": [{"name": "guess", "estimator": "sklearn.dummy.DummyClassifier"}]}
    (folder / "project.yaml").write_text(yaml.safe_dump(settings))
    worse = command(folder, "run")
    assert worse.returncode == 3 and "first" not in worse.stdout, worse.stdout
    assert json.loads(command(folder, "champion", "--json").stdout)["champion"]["version"] == 1
    assert set(json.loads(command(folder, "run", "--json").stdout)["stages"].values()) == {None}
    settings["training"] = {"families": ["hist_gradient_boosting"], "prefer": "best"}
    (folder / "project.yaml").write_text(yaml.safe_dump(settings))
    again = command(folder, "run")
    assert "first" not in again.stdout and again.returncode in (0, 3), again.stdout
    assert set(json.loads(command(folder, "run", "--json").stdout)["stages"].values()) == {None}


def test_ploomber_itself_reads_the_same_pipeline(classes):
    listed = command(classes, "status", program="ploomber")
    assert listed.returncode == 0, listed.stderr
    assert all(path.stem in listed.stdout for path in notebooks(classes, ALL))


def test_the_model_is_the_same_in_another_store_and_process(classes):
    seed = yaml.safe_load((classes / "env.yaml").read_text())["seed"]
    assert (
        lifetime(classes, store="second", seed=seed)["digest"]
        == registry.versions(load_project(classes), classes / "store")[0].digest
    )


# ---------------------------------------------------------------- numbers, month after month


def test_the_first_month_by_ploomber_alone_and_the_second_watched_judged_and_refused(tmp_path):
    """Outcomes are ten days late; from the second month on no candidate can pass."""
    table = make_table("regression", time="month", rows=400).rename(columns={"größe": "溫度 °C"})
    folder = make_project(tmp_path / "project", kind="regression", time="month", delay=240, table=table)
    built = command(folder, "build", program="ploomber")
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    change(
        folder / "project.yaml",
        retraining={"max_metric_drop": -1.0},
        gates={"min_gain": 2.0},
        monitoring={"min_coverage": 0.5},
    )
    done = command(folder, "run", "--json")
    assert done.returncode == 3, done.stderr
    (line,) = json.loads(done.stdout)["periods"]
    assert (line["period"], line["decision"], line["champion"]) == ("2024-02", "retrain → refused", 1)
    assert len(notebooks(folder, "2024-02")) == 12 and all(map(figures, notebooks(folder, "2024-02")))
    report = folder / "store/products/2024-02/95_report"
    assert json.loads((report / "summary.json").read_text())["health"]["status"] == "act"
    assert list(pd.read_parquet(report / "versions.parquet")["status"]) == ["rejected", "champion"]
    drift, performance = (pd.read_parquet(report / f"{name}.parquet") for name in ("drift", "performance"))
    assert set(drift["period"]) == {"2024-01", "2024-02"} and "溫度 °C" in set(drift["feature"])
    served = performance.set_index("model").loc["champion"]
    assert served["rows"] == (table["when"].dt.month == 2).sum() and served["r2"] == line["metric"] > 0.8
    assert 0.5 < served["coverage"] < 0.8 and not served["complete"]
    assert ledger.verify(folder / "store") is None


@pytest.mark.slow
def test_an_edited_builder_beside_the_project_makes_its_stages_run_again(tmp_path):
    folder = make_project(tmp_path / "project", features={"builder": "own_features:build"}, stages=4)
    code = "def build(connection):\n    return connection.sql('SELECT number AS _id, outcome, \"größe\" FROM things').df()\n"
    (folder / "own_features.py").write_text(code)
    assert command(folder, "run").returncode == 0
    (folder / "own_features.py").write_text(f"# a comment\n\n{code}")
    assert "0 stages of 4" in command(folder, "why").stdout
    (folder / "own_features.py").write_text(code.replace("größe", "weight kg"))
    found = json.loads(command(folder, "why", "--json").stdout)["stages"]
    assert {name: [one["leaf"] for one in changes] for name, changes in found.items()} == {
        "10_ingest": [],
        "20_validate": [],
        "25_profile": [],
        "30_features": ["file own_features.py"],
    }


# ---------------------------------------------------------------- without kernels: many tables


def lifetime(folder, period=ALL, *, store="store", seed=1):
    """What the stages do up to the verdict, in this process."""
    project = load_project(folder)
    store, kind = project.root / store, project.target.kind
    contract = contracts.load_contract(folder)
    snapshot = snapshots.take_snapshot(project, period, store=store, types=contracts.column_types(contract))
    checked = contracts.check_snapshot(project, contract, snapshot, store=store)
    tables = features.open_tables({name: checked.valid.files(store, name) for name in checked.valid.tables})
    table = features.build_features(project, tables, period=period)
    sources.write_table(table[table["_label"].notna()], store / "training.parquet")
    known = pd.read_parquet(store / "training.parquet")
    learn, held = training.split_newest(project, known, seed=seed)
    with threadpool_limits(1):  # sums in another order give another digest
        compared = comparison.compare_families(project, learn, seed=seed)
        fixed = calibration.choose_calibration(project, compared.judged.get(compared.best, pd.DataFrame()), seed=seed)
        model = calibration.calibrate_model(training.fit_model(project, compared.best, learn, seed=seed), fixed)
    model = tracking.load_model(tracking.save_model(model, store / "model.skops"))
    scores = training.predict_scores(kind, model, held)
    numeric, categorical = features.feature_columns(project, known)
    drift, _ = monitoring.drift(
        project, learn, features.rows_of_period(project, table, period), numeric=numeric, categorical=categorical
    )
    found = {
        "digest": tracking.model_digest(store / "model.skops"),
        "rows": len(table),
        "learn": learn,
        "held": held,
        "scores": scores,
    }
    verdict = evaluation.judge(project, held, scores, scores, period=period, digest=found["digest"], seed=seed)
    decision = policy.decide(project, None, pd.DataFrame(), drift, period=period)
    return found | {
        "checks": verdict.checks,
        "drift": drift.set_index("feature"),
        "decision": decision.action,
        "quality": checked.quality,
    }


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_twelve_rows_are_enough(tmp_path, kind):
    found = lifetime(make_project(tmp_path / "project", kind=kind, rows=12))
    assert found["decision"] == "bootstrap" and len(found["learn"]) + len(found["held"]) == 12
    assert np.isfinite(found["scores"].to_numpy()).all()


def test_nine_rows_are_not_and_the_message_says_how_many_are(tmp_path):
    with pytest.raises(InputError, match="9 rows have a known outcome; allowed: at least 10"):
        lifetime(make_project(tmp_path / "project", rows=9))


def empty(table):
    table["empty"], table["empty word"] = np.nan, pd.Series([None] * len(table), dtype=object)


def constant(table):
    table["constant"], table["large constant"] = 3, 10**18


def many_words(table):
    table["word"] = [f"word {number}" for number in range(len(table))]


def truth(table):
    table["truth"] = table["number"] % 2 == 0
    table["truth or nothing"] = table["truth"].where(table["number"] % 7 > 0)


def twice(table):
    table.loc[1::2, table.columns[1:]] = table.loc[::2, table.columns[1:]].to_numpy()


def infinite(table):
    table.loc[:2, "größe"], table.loc[3:5, "weight kg"] = [np.inf, -np.inf, np.inf], 1.7e308


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
@pytest.mark.parametrize("spoil", [empty, constant, many_words, truth, twice, infinite])
def test_odd_columns_are_learned_from_or_left_out(tmp_path, kind, spoil):
    table = make_table(kind, rows=5000 if spoil is many_words else 300)
    spoil(table)
    found = lifetime(make_project(tmp_path / "project", kind=kind, table=table))
    infinities = 3 if spoil is infinite else 0  # no finite numbers: these rows are set aside
    assert found["rows"] == len(table) - infinities and found["checks"][0].value > 0.8
    assert found["drift"]["psi"].between(0, 0.3).all() and np.isfinite(found["scores"].to_numpy()).all()
    assert set(found["drift"].index) == set(table.columns) - {"number", "outcome"}


def test_odd_columns_are_drawn_for_reading(tmp_path):
    table = make_table("regression", rows=300)
    for spoil in (empty, constant, truth, infinite):
        spoil(table)
    project = load_project(make_project(tmp_path / "project", kind="regression", table=table))
    numeric, categorical = features.feature_columns(project, table.drop(columns=["number"]).assign(_label=0))
    for reference, current in ((table[:200], table[200:]), (table[:1], table[1:]), (table, table[-1:])):
        written = monitoring.write_report(
            project, reference, current, tmp_path / "page.html", numeric=numeric, categorical=categorical, seed=1
        )
        assert written["reference_rows"] == len(reference) and (tmp_path / "page.html").stat().st_size > 1000


def test_nothing_but_empty_columns_is_said(tmp_path):
    table = make_table("regression", rows=30)[["number", "outcome"]].assign(empty=np.nan)
    with pytest.raises(InputError, match="no feature has a value in the .* rows to learn from"):
        lifetime(make_project(tmp_path / "project", kind="regression", table=table))


@pytest.mark.parametrize("name", ["_id", "_time", "_period", "_label"])
def test_a_column_with_a_name_of_ours_is_refused(tmp_path, name):
    folder = make_project(tmp_path / "project", table=make_table(rows=30).rename(columns={"größe": name}))
    with pytest.raises(InputError, match=f"column '{name}' has a name that nbops uses itself. Rename it"):
        lifetime(folder)


def test_a_class_of_one_row_is_learned_or_counted_as_wrong(tmp_path):
    table = make_table()
    table.loc[5, "outcome"] = "once"
    found = lifetime(make_project(tmp_path / "project", table=table))
    assert set(table["outcome"]) == set(found["learn"]["_label"]) | set(found["held"]["_label"])
    assert found["checks"][0].value > 0.8


def test_a_class_that_nobody_has_seen_is_counted_as_wrong(tmp_path):
    table = make_table(time="month")
    table.loc[230:, "outcome"] = "brand new"
    found = lifetime(make_project(tmp_path / "project", time="month", table=table), "2024-03")
    values = evaluation.metrics("multiclass", found["held"]["_label"], found["scores"])
    assert "brand new" not in found["scores"].columns and "brand new" in set(found["held"]["_label"])
    assert values["accuracy"] <= 1 - (found["held"]["_label"] == "brand new").mean() and all(
        map(np.isfinite, values.values())
    )


@pytest.mark.parametrize(("frequency", "period"), [("day", "2024-01-02"), ("week", "2024-W02"), ("quarter", "2024-Q2")])
def test_any_period_holds_its_own_rows_and_none_of_the_future(tmp_path, frequency, period):
    table = make_table("binary", time=frequency)
    folder = make_project(tmp_path / "project", kind="binary", time=frequency, table=table)
    found = lifetime(folder, period)
    periods = table["when"].map(lambda moment: period_of(moment, frequency))
    assert found["rows"] == (periods <= period).sum() and found["quality"]["rows"].iloc[0] == (periods == period).sum()
    assert snapshots.coverage(load_project(folder)) == (periods.min(), periods.max())


def test_a_million_rows(tmp_path):
    """On one of two shared cores: 22 s and 1.4 GiB, with 1 % of the rows quarantined."""
    table = make_table("regression", time="month", rows=1_000_000)
    folder = make_project(tmp_path / "project", kind="regression", time="month", table=table, file="rows.parquet")
    contract = yaml.safe_load((folder / "contract.yaml").read_text(encoding="utf-8"))
    contract["schema"][0]["properties"][2]["logicalTypeOptions"] = {"maximum": 2.326}
    write_yaml(folder / "contract.yaml", contract)
    start = time.perf_counter()
    found = lifetime(folder, "2024-03")
    print(f"{time.perf_counter() - start:.0f} s, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
    assert found["rows"] == (table["größe"] <= 2.326).sum() and 0.009 < found["quality"]["share"].iloc[0] < 0.011
    assert found["checks"][0].value > 0.9 and time.perf_counter() - start < 120
