"""Search: repeatable, resumed after kill -9, honest about failures, the same in one go as in pieces."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nbops.base import InputError
from nbops.compute import Cluster
from nbops.config import Project, Source, Target, Time
from nbops.evaluation import primary_metric
from nbops.parts import Search
from nbops.search import open_journal, search, search_spaces, suggest
from small_project import command, environment, make_project

HERE = Path(__file__).parent
pytestmark = pytest.mark.filterwarnings("ignore:'n_jobs' has no effect:FutureWarning")
WITHOUT_TIME = ["seconds"]  # the one column that is not the same twice


def make(folder, kind="binary", *, timed=True, trained=("linear", "decision_tree"), **settings):
    time_part = {"time": Time()} if timed else {}
    return Project(
        name="toy", title="Toy", root=folder, sources={"rows": Source(path="-", time="t" if timed else None)}, table="rows",
        key=["id"], target=Target(column="y", kind=kind, positive=1 if kind == "binary" else None),
        training={"families": list(trained)}, search=Search(**({"trials": 24} | settings)), **time_part,
    )  # fmt: skip


def rows(kind="binary", n=300, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({
        "_id": [f"{i:05d}" for i in range(n)], "_time": pd.date_range("2024-01-01", periods=n, freq="3h", tz="UTC"),
        "größe (cm)": rng.normal(size=n), 'a "b" c': rng.normal(size=n), "東京": rng.choice(["ja", "nein", None], n),
    })  # fmt: skip
    table.loc[::7, "größe (cm)"] = np.nan
    signal = table["größe (cm)"].fillna(0) ** 2 + 0.5 * (table["東京"] == "ja") + rng.normal(0, 0.5, n)
    labels = {"binary": (signal > 1).astype(float), "regression": signal,
              "multiclass": pd.Series(np.select([signal < 0.5, signal < 1.5], ["a", "b"], "c"))}  # fmt: skip
    return table.assign(_label=labels[kind])


def metric_of(kind):
    import functools

    return functools.partial(primary_metric, kind)


def run(project, store, table=None, *, kind="binary", seed=3, **more):
    table = rows(kind) if table is None else table
    return search(project, table, metric=metric_of(kind), store=store, seed=seed, **more)


def same(one, other):
    pd.testing.assert_frame_equal(one.trials.drop(columns=WITHOUT_TIME), other.trials.drop(columns=WITHOUT_TIME))
    assert one.params == other.params


@pytest.mark.slow
def test_same_seed_same_trials_and_another_seed_others(tmp_path):
    project = make(tmp_path, trials=18)
    first, again = run(project, tmp_path / "a"), run(project, tmp_path / "b")
    same(first, again)
    other = run(project, tmp_path / "c", seed=4)
    assert other.trials["params"].tolist() != first.trials["params"].tolist()
    assert (first.trials["state"] == "pruned").any()
    tree = first.trials[(first.trials["family"] == "decision_tree") & (first.trials["state"] == "complete")]
    assert tree["score"].max() >= tree["score"].iloc[0]  # never worse than the defaults, which are the first trial
    assert first.trials["best"].dropna().is_monotonic_increasing


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "timed"), [("multiclass", False), ("regression", True)])
def test_other_targets(tmp_path, kind, timed):
    table = rows(kind) if timed else rows(kind).drop(columns="_time")
    found = run(make(tmp_path, kind, timed=timed, trials=8), tmp_path, table, kind=kind)
    assert set(found.params) == {"linear", "decision_tree"} and (found.trials["state"] == "complete").all()


@pytest.mark.slow
def test_more_trials_continue_the_same_search(tmp_path):
    short, long = make(tmp_path, trials=4, batch=2), make(tmp_path, trials=8, batch=2)
    whole = run(long, tmp_path / "whole")
    begun = run(short, tmp_path / "parts")
    finished = run(long, tmp_path / "parts")
    assert begun.journal == finished.journal
    same(finished, whole)
    assert len(run(short, tmp_path / "parts").trials) == 4  # a smaller budget sees no more than it would have computed


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
import nbops.search as module
import test_search as tests
real = module.score_fold
def slow(*arguments):
    time.sleep(0.05)
    return real(*arguments)
module.score_fold = slow
from pathlib import Path
tests.run(tests.make(Path({folder!r})), {store!r})
"""


@pytest.mark.slow
def test_killed_again_and_again_it_gives_what_it_would_have_given(tmp_path):
    whole = run(make(tmp_path), tmp_path / "whole")
    script = KILLED.format(tests=str(HERE), folder=str(tmp_path), store=str(tmp_path / "killed"))
    for lines in (40, 90, 170):  # lines of the journal after which it is killed: in different generations
        process = subprocess.Popen([sys.executable, "-c", script], env=os.environ, stderr=subprocess.PIPE)
        while process.poll() is None and journal_lines(tmp_path / "killed") < lines:
            time.sleep(0.01)
        assert process.poll() is None, process.stderr.read().decode()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
        before = finished(tmp_path / "killed")
    calls = []
    found = run(make(tmp_path), tmp_path / "killed", tell=calls.append)
    assert before > 4 and len(calls) < 3  # most was done already: three generations in all
    same(found, whole)


def journal_lines(store):
    return sum(file.read_bytes().count(b"\n") for file in store.glob("search/*.jsonl"))


def finished(store):
    (file,) = store.glob("search/*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    return sum(line["op_code"] == 6 for line in lines)


@pytest.mark.slow
def test_a_torn_line_at_the_end_of_the_journal_is_survived(tmp_path):
    whole = run(make(tmp_path, trials=8, batch=2), tmp_path / "whole")
    run(make(tmp_path, trials=4, batch=2), tmp_path / "torn")
    (file,) = (tmp_path / "torn").glob("search/*.jsonl")
    with file.open("ab") as opened:
        opened.write(b'{"op_code":4,"worker_id":"x","study')
    same(run(make(tmp_path, trials=8, batch=2), tmp_path / "torn"), whole)


def test_a_damaged_journal_and_a_second_search_are_refused(tmp_path):
    project = make(tmp_path, trials=4)
    found = run(project, tmp_path)
    with open_journal(found.journal), pytest.raises(InputError, match="another process searches the same thing"):
        run(project, tmp_path)
    text = Path(found.journal).read_text().splitlines(keepends=True)
    Path(found.journal).write_text(text[0] + "{broken\n" + "".join(text[1:]))
    with pytest.raises(InputError, match="is damaged .* delete it to search anew"):
        run(project, tmp_path)


def test_changed_data_space_or_seed_is_another_search(tmp_path):
    base = run(make(tmp_path, trials=2), tmp_path).journal
    table = rows()
    table.loc[5, "größe (cm)"] += 1
    changed = [
        run(make(tmp_path, trials=2), tmp_path, table), run(make(tmp_path, trials=2), tmp_path, seed=4),
        run(make(tmp_path, trials=2, space={"linear": {"C": [0.1, 1.0]}}), tmp_path),
    ]  # fmt: skip
    assert len({base, *(one.journal for one in changed)}) == 4


@pytest.mark.slow
def test_an_estimator_that_raises_in_trial_7_fails_alone(tmp_path):
    def space(trial):
        if trial.number == 7:
            raise ZeroDivisionError("unlucky")
        return {"family": "decision_tree", "max_depth": trial.suggest_int("depth", 1, 6)}

    found = run(make(tmp_path, trials=10, batch=3), tmp_path, space=space)
    assert found.trials["state"].tolist()[7] == "failed" and "ZeroDivisionError: unlucky" in found.trials["error"][7]
    assert (found.trials["state"] == "failed").sum() == 1 and len(found.trials) == 10
    # and one that raises while it is fitted: scikit-learn refuses a depth of 0
    found = run(
        make(tmp_path, trials=6, trained=["decision_tree"], space={"decision_tree": {"max_depth": [0, 3]}}), tmp_path
    )
    failed = found.trials[found.trials["state"] == "failed"]
    assert (
        0 < len(failed) < 6
        and failed["error"].str.contains("max_depth").all()
        and found.params["decision_tree"] in ({}, {"max_depth": 3})
    )


def test_when_all_trials_fail_the_first_reason_is_told(tmp_path):
    project = make(
        tmp_path, trials=4, trained=["decision_tree"], defaults=False, space={"decision_tree": {"max_depth": [0]}}
    )
    with pytest.raises(
        InputError, match=r"all 4 trials of the search failed, the first with InvalidParameterError: .*max_depth"
    ):
        run(project, tmp_path)


@pytest.mark.slow
def test_a_time_budget_stops_and_a_larger_one_goes_on(tmp_path):
    project = make(tmp_path, trials=8, batch=2, minutes=0.00001)
    found = run(project, tmp_path)
    assert "minutes were used up" in found.note and len(found.trials) < 8
    again = run(project, tmp_path)
    assert again.trials.equals(found.trials)  # the budget is spent, whoever asks
    same(run(make(tmp_path, trials=8, batch=2), tmp_path), run(make(tmp_path, trials=8, batch=2), tmp_path / "whole"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": {"linear": {}}}, "the space is empty"),
        ({"space": {"linear": {"C": []}}}, "not a list of at least one"),
        ({"space": {"linear": {"C": {"low": 2, "high": 1}}}}, r"low \(2\) is above high \(1\)"),
        ({"space": {"linear": {"C": {"low": 0, "high": 1, "log": True}}}}, "needs low above 0"),
        ({"space": {"linear": {"C": {"low": "1e-3", "high": 1}}}}, "YAML reads 1e-3 as text"),
        ({"space": {"linear": {"C": {"low": float("nan"), "high": 1}}}}, "finite numbers"),
        ({"space": {"linear": {"C": {"lo": 2, "high": 1}}}}, "neither a range nor a list"),
        ({"space": {"linear": {"C": 3}}}, "neither a range nor a list"),
        ({"trials": 0}, "greater than or equal to 1"),
        ({"minutes": 0}, "greater than 0"),
        ({"families": []}, "at least 1 item"),
        ({"trails": 3}, "Extra inputs"),
    ],
)
def test_a_wrong_space_or_budget_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Search(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"families": ["linaer"]}, r"'linaer' is not trained \(did you mean \"linear\"\?\)"),
        ({"space": {"descision_tree": {"max_depth": [1]}}}, r"did you mean \"decision_tree\""),
        ({"space": {"decision_tree": {"max_deph": [1]}}}, r"no parameter 'max_deph' \(did you mean \"max_depth\"\?\)"),
    ],
)
def test_wrong_names_are_refused_with_the_nearest(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        search_spaces(make(tmp_path, **settings))


def test_too_few_rows_or_trials_and_one_class(tmp_path):
    with pytest.raises(InputError, match="allowed: at least one trial each"):
        run(make(tmp_path, trials=1), tmp_path)
    with pytest.raises(InputError, match="same value in all"):
        run(make(tmp_path), tmp_path, rows().assign(_label=1.0))
    found = run(make(tmp_path, trials=4), tmp_path, rows(n=16))
    assert len(found.trials) == 4


def test_values_are_drawn_as_declared():
    import optuna

    space = {"leaves": {"low": 3, "high": 31}, "rate": {"low": 0.01, "high": 0.3, "log": True}, "size": {"low": 0, "high": 1, "step": 0.25},
             "how": ["a", None, True]}  # fmt: skip
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [suggest(study.ask(), space) for _ in range(40)]
    assert all(isinstance(one["leaves"], int) and 3 <= one["leaves"] <= 31 for one in drawn)
    assert all(0.01 <= one["rate"] <= 0.3 for one in drawn) and np.median([one["rate"] for one in drawn]) < 0.1
    assert {one["size"] for one in drawn} <= {0, 0.25, 0.5, 0.75, 1} and {one["how"] for one in drawn} == {
        "a",
        None,
        True,
    }


@pytest.mark.slow
def test_runs_in_mlflow_are_nested_and_not_logged_twice(tmp_path):
    import mlflow

    for trials in (4, 8):
        run(make(tmp_path, trials=trials, batch=2), tmp_path, tags={"period": "2024-01"})
    runs = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_runs(["1"], max_results=100)
    parents = [one for one in runs if "nbops.search" in one.data.tags]
    children = [one for one in runs if "mlflow.parentRunId" in one.data.tags]
    assert len(parents) == 1 and len(children) == 8 and {one.info.status for one in runs} == {"FINISHED"}
    assert parents[0].data.metrics["best_so_far"] == max(one.data.metrics["roc_auc"] for one in children)


@pytest.mark.slow
def test_a_server_that_is_killed_costs_no_trial_and_gets_what_it_missed(tmp_path, mlflow_server, monkeypatch, caplog):
    import mlflow

    address, start, stop = mlflow_server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    told = []

    def tell(text):
        told.append(text)
        if len(told) == 1:
            stop()

    project = make(tmp_path, trials=8, batch=2)
    begin = time.monotonic()
    found = run(project, tmp_path / "there", tell=tell)
    assert len(told) == 2 and time.monotonic() - begin < 60
    assert (
        len(found.trials) == 8
        and f"MLflow at {address} does not answer: " in found.note
        and caplog.text.count("the search goes on") == 1
    )
    start()
    told.append("")
    again = run(project, tmp_path / "there", tell=tell)
    assert again.trials.equals(found.trials) and "does not answer" not in again.note
    client = mlflow.MlflowClient(address)
    runs = client.search_runs([client.get_experiment_by_name("toy").experiment_id], max_results=100)
    (parent,) = [one for one in runs if "nbops.search" in one.data.tags]
    names = [one.data.tags["nbops.trial"] for one in runs if "nbops.trial" in one.data.tags]
    assert len(names) == len({*names}) == 8 and {one.info.status for one in runs} == {"FINISHED"}
    assert parent.data.metrics["best_so_far"] == found.trials["best"].max()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    same(run(project, tmp_path / "here"), found)
    assert not (tmp_path / "there/mlflow.db").exists()


def count_runs(folder, name):
    """How many runs of a name a server has, asked of its database."""
    with contextlib.closing(sqlite3.connect(folder / "mlflow server/server.db")) as connection:
        return connection.execute("SELECT count(*) FROM runs WHERE name = ?", (name,)).fetchone()[0]


@pytest.mark.slow
def test_a_run_whose_server_is_killed_says_so_once_and_the_same_command_finishes(tmp_path, mlflow_server, monkeypatch):
    address, start, stop = mlflow_server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    settings = {"search": {"trials": 6}, "training": {"families": ["linear", "decision_tree"]}}
    folder = make_project(tmp_path / "project", kind="binary", rows=120, **settings)
    words = [Path(sys.executable).with_name("nbops"), "run"]
    running = subprocess.Popen(words, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    while running.poll() is None and not count_runs(tmp_path, "train all"):  # stage 70 logs what it has compared
        time.sleep(0.02)
    stop()
    output = "".join(running.communicate())
    for code, said in [
        (running.returncode, output),
        told(command(folder, "run")),
    ]:  # killed during the stage, and before
        problem = [line for line in said.splitlines() if line.startswith("nbops: stage")]
        assert code == 1 and len(problem) == 1 and "Traceback" not in said and "HTTPConnectionPool" not in said, said
        assert f"stage 70_train failed: RuntimeError: MLflow at {address} does not answer: " in problem[0]
        assert "when it is back, the same command goes on" in problem[0]
    assert not (folder / "store/products/all/70_train/candidate.json").exists()
    start()
    code, said = told(command(folder, "run"))
    assert code == 0 and "version 1" in said.splitlines()[0], said
    assert "6 trials in" in said and "of 6 trials" not in said  # the search was finished before, and is not done again
    assert not (folder / "store/mlflow.db").exists() and count_runs(tmp_path, "search") == 1
    assert json.loads((folder / "store/products/all/90_release/release.json").read_text())["champion"] == 1


def told(done):
    """Exit code and all that was printed."""
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_an_interrupt_keeps_what_is_finished(tmp_path):
    def tell(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make(tmp_path, trials=8, batch=2), tmp_path / "cut", tell=tell)
    same(
        run(make(tmp_path, trials=8, batch=2), tmp_path / "cut", cluster=Cluster()),
        run(make(tmp_path, trials=8, batch=2), tmp_path / "whole"),
    )
