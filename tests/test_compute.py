"""Compute: a real scheduler and two workers in processes of their own; some of them are killed."""

import json
import logging
import operator
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nbops.base import InputError
from nbops.compute import ClusterLost, fit_on, open_cluster, run_all
from nbops.parts import Compute, Tls
from nbops.registry import Version
from nbops.tracking import model_digest, save_model
from nbops.training import fit_model
from small_project import ROOT
from test_search import make, rows, run, same

pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:'n_jobs' has no effect:FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
DASK = str(Path(sys.executable).with_name("dask"))


class Dask:
    """A scheduler and workers, each a process."""

    def __init__(self, folder, *, workers=2, path=(ROOT / "lib", ROOT / "tests"), options=()):
        self.file, self.options, self.processes = folder / "scheduler.json", list(options), []
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
        start = [
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            str(self.file),
        ]
        self.scheduler = self.start(*start)
        wait_for(self.file.exists)
        wait_for(lambda: self.file.read_text().endswith("}"))
        self.address = json.loads(self.file.read_text())["address"]
        self.workers = [self.start_worker() for _ in range(workers)]

    def start(self, *words):
        process = subprocess.Popen(
            [DASK, *words, *self.options], env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.processes.append(process)
        return process

    def start_worker(self):
        return self.start("worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard")

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def dask(tmp_path):
    found = Dask(tmp_path)
    yield found
    found.end()


def on(project, dask, **more):
    scheduler = more.pop("scheduler", None) or dask.address
    return project.model_copy(update={"compute": Compute(scheduler=scheduler, timeout_seconds=10, **more)})


def both_workers(project):
    """Waits until both workers have come."""
    with open_cluster(project) as cluster:
        cluster.client.wait_for_workers(2, timeout=60)


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_a_search_on_a_cluster_is_the_search_here_though_a_worker_is_killed(tmp_path, dask, caplog):
    project = make(tmp_path, trials=16)
    here = run(project, tmp_path / "here")
    there = on(project, dask)
    both_workers(there)
    told = []

    def tell(text):
        told.append(text)
        if len(told) == 1:  # the next generation has begun when this one is told; it dies in the middle of it
            threading.Timer(0.3, kill, [dask.workers[0]]).start()

    with caplog.at_level(logging.WARNING), open_cluster(there) as cluster:
        found = run(there, tmp_path / "there", cluster=cluster, tell=tell)
        assert cluster.client is not None and len(cluster.client.scheduler_info()["workers"]) == 1
    same(found, here)
    assert len(told) == 2 and Path(found.journal).name == Path(here.journal).name and not caplog.records


def test_killed_workers_lose_no_task_and_errors_stay_in_their_place(tmp_path, dask):
    project = on(make(tmp_path), dask)
    both_workers(project)
    with open_cluster(project) as cluster:
        threading.Timer(0.6, kill, [dask.workers[1]]).start()
        assert run_all(cluster, _slow_add, [(one,) for one in range(8)], shared=[np.arange(3)])[7].tolist() == [7, 8, 9]
        found = run_all(cluster, operator.truediv, [(2,), (0,), (4,)], shared=[8], keep_errors=True)
        assert found[::2] == [4, 2] and isinstance(found[1], ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            run_all(cluster, operator.truediv, [(0,)], shared=[8])


def _slow_add(array, number):
    time.sleep(0.25)
    return array + number


@pytest.mark.parametrize("fallback", ["error", "local"])
def test_a_scheduler_that_dies_is_an_error_or_the_rest_is_computed_here(tmp_path, dask, fallback, caplog, monkeypatch):
    monkeypatch.setenv("SCHEDULER", dask.address)
    project = on(make(tmp_path), dask, scheduler="env:SCHEDULER", fallback=fallback)
    with open_cluster(project) as cluster:
        threading.Timer(0.5, kill, [dask.scheduler]).start()
        if fallback == "local":
            assert run_all(cluster, _slow_add, [(one,) for one in range(6)], shared=[10]) == list(range(10, 16))
            assert "env:SCHEDULER: the scheduler is gone; the rest is computed here" in caplog.text
        else:
            with pytest.raises(ClusterLost, match="env:SCHEDULER: the scheduler is gone"):
                run_all(cluster, _slow_add, [(one,) for one in range(6)], shared=[10])
    assert dask.address.partition("//")[2] not in caplog.text  # a reference stays one


def test_forests_and_batch_scores_are_the_same_to_the_last_bit(tmp_path, dask, monkeypatch):
    from nbops import scoring

    monkeypatch.setattr(scoring, "PART_ROWS", 70)
    project = on(make(tmp_path, trained=["random_forest", "linear"]), dask)
    table = rows()
    version = Version(version=1, period="all", family="", digest="", model_uri="", run_id="", trained_from=None, trained_until=None,
                      rows=300, metric="roc_auc", value=0.5)  # fmt: skip
    for family in ("random_forest", "linear"):
        here = fit_model(project, family, table, seed=0)
        with open_cluster(project) as cluster:
            there = fit_on(cluster, lambda family=family: fit_model(project, family, table, seed=0))
            far = scoring.score_rows(project, table, here, version, role="champion", cluster=cluster)
        digests = {
            model_digest(save_model(one, tmp_path / f"{place}.skops")) for place, one in enumerate((here, there))
        }
        assert len(digests) == 1
        pd.testing.assert_frame_equal(
            far, scoring.score_rows(project, table, here, version, role="champion"), check_exact=True
        )


def test_workers_of_another_environment_are_refused(tmp_path):
    strange = tmp_path / "strange" / "nbops"
    strange.mkdir(parents=True)
    (strange / "__init__.py").touch()
    dask = Dask(tmp_path, workers=1, path=[tmp_path / "strange"])
    try:
        with (
            pytest.raises(InputError, match="cannot run nbops .*Start scheduler and workers in the environment"),
            open_cluster(on(make(tmp_path), dask)),
        ):
            pass
        for file in (ROOT / "lib/nbops").glob("*.py"):
            (strange / file.name).write_text(file.read_text() + "\n")
        kill(dask.workers[0])
        dask.start_worker()
        with (
            pytest.raises(InputError, match="has nbops .* and this process .*: results would differ"),
            open_cluster(on(make(tmp_path), dask)),
        ):
            pass
    finally:
        dask.end()


def test_no_worker_no_scheduler_no_dask(tmp_path, monkeypatch, caplog):
    dask = Dask(tmp_path, workers=0)
    try:
        project = on(make(tmp_path), dask)
        project = project.model_copy(update={"compute": project.compute.model_copy(update={"timeout_seconds": 0.5})})
        with pytest.raises(InputError, match="answers, but has no worker"), open_cluster(project):
            pass
    finally:
        dask.end()
    with pytest.raises(InputError, match="nothing answers at tcp://.*dask scheduler"), open_cluster(project):
        pass
    local = project.model_copy(update={"compute": project.compute.model_copy(update={"fallback": "local"})})
    with open_cluster(local) as cluster:
        assert run_all(cluster, pow, [(2, 3)]) == [8]
    assert "everything is computed here" in caplog.text
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(InputError, match=r"Dask is not installed. Run: pip install 'nbops\[compute\]'"),
        open_cluster(project),
    ):
        pass


@pytest.mark.parametrize("scheduler", ["host:8786", "http://host:1", "tcp://me:secret@host:8786", "tcp://host", ""])
def test_an_address_that_is_none_is_refused(scheduler):
    with pytest.raises(ValueError, match="nor a scheduler such as tcp://host:8786"):
        Compute(scheduler=scheduler)


def test_tls_needs_its_files(tmp_path):
    project = make(tmp_path)
    for compute, message in [
        (Compute(scheduler="tls://127.0.0.1:1"), "a tls:// scheduler needs"),
        (
            Compute(scheduler="tcp://127.0.0.1:1", tls=Tls(authority="a", certificate="b", key="c")),
            "a tcp:// one has none",
        ),
        (Compute(scheduler="tls://127.0.0.1:1", tls=Tls(authority="a", certificate="b", key="c")), "is no file"),
    ]:
        with pytest.raises(InputError, match=message), open_cluster(project.model_copy(update={"compute": compute})):
            pass
