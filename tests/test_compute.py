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
from small_project import ROOT, command, make_project
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


def certificate(folder, name, *, signer=None):
    """Writes a certificate and its key, signed by `signer` (a certificate and its key), else by itself as an authority."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, today = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    mine = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder().subject_name(mine).issuer_name(signer[0].subject if signer else mine)
    made = (
        made.public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(address, critical=False)
    )
    made = made.not_valid_before(today - timedelta(days=1)).not_valid_after(today + timedelta(days=1))
    made = made.add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
    made = made.sign(signer[1] if signer else key, hashes.SHA256())
    plain, pem = serialization.NoEncryption(), serialization.Encoding.PEM
    (folder / f"{name}.pem").write_bytes(made.public_bytes(pem))
    (folder / f"{name}.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return made, key


def test_over_tls_who_has_the_certificate_gets_results_and_nobody_else(tmp_path):
    certificate(tmp_path, "me", signer=certificate(tmp_path, "authority"))
    certificate(tmp_path, "stranger", signer=certificate(tmp_path, "another"))
    files = {"authority": tmp_path / "authority.pem", "certificate": tmp_path / "me.pem", "key": tmp_path / "me.key"}
    options = ["--tls-ca-file", files["authority"], "--tls-cert", files["certificate"], "--tls-key", files["key"]]
    dask = Dask(tmp_path, options=["--protocol", "tls", *map(str, options)])
    try:
        assert dask.address.startswith("tls://127.0.0.1:")
        project = on(make(tmp_path), dask, tls=Tls(**{name: file.name for name, file in files.items()}))
        both_workers(project)
        with open_cluster(project) as cluster:
            assert run_all(cluster, _slow_add, [(one,) for one in range(4)], shared=[10]) == [10, 11, 12, 13]
        strange = Tls(authority="authority.pem", certificate="stranger.pem", key="stranger.key")
        for tls in (strange, strange.model_copy(update={"authority": "another.pem"})):
            settings = project.compute.model_copy(update={"tls": tls, "timeout_seconds": 2})
            refused = project.model_copy(update={"compute": settings})
            with pytest.raises(InputError, match="nothing answers at tls://"), open_cluster(refused):
                pass
    finally:
        dask.end()


def test_a_forest_is_the_same_though_a_worker_is_killed_while_it_grows(tmp_path, dask):
    big = {"name": "random_forest", "params": {"n_estimators": 240}}
    project, table = on(make(tmp_path, trained=[big]), dask), rows(n=4000)
    both_workers(project)
    killed = []

    def fit():
        threading.Timer(1.0, lambda: killed.append(kill(dask.workers[0]))).start()
        return fit_model(project, "random_forest", table, seed=0)

    with open_cluster(project) as cluster:
        there = fit_on(cluster, fit)
        assert killed and cluster.client is not None and len(cluster.client.scheduler_info()["workers"]) == 1
    here = fit_model(project, "random_forest", table, seed=0)
    one, other = (model_digest(save_model(model, tmp_path / f"{id(model)}.skops")) for model in (here, there))
    assert one == other


@pytest.mark.parametrize("fallback", ["error", "local"])
def test_a_forest_without_its_scheduler_is_an_error_or_grows_here(tmp_path, dask, fallback):
    big = {"name": "random_forest", "params": {"n_estimators": 240}}
    project, table = on(make(tmp_path, trained=[big]), dask, fallback=fallback), rows(n=4000)
    both_workers(project)

    def fit():
        if dask.scheduler.poll() is None:
            threading.Timer(1.0, kill, [dask.scheduler]).start()
        return fit_model(project, "random_forest", table, seed=0)

    with open_cluster(project) as cluster:
        if fallback == "error":
            with pytest.raises(ClusterLost, match="the scheduler( is gone)?$"):
                fit_on(cluster, fit)
        else:
            assert len(fit_on(cluster, fit).named_steps["model"].estimators_) == 240 and cluster.client is None


def _who(seconds):
    time.sleep(seconds)
    return os.getpid()


def test_a_worker_that_comes_later_does_its_share(tmp_path):
    dask = Dask(tmp_path, workers=1)
    try:
        with open_cluster(on(make(tmp_path), dask)) as cluster:
            threading.Timer(0.5, dask.start_worker).start()
            found = run_all(cluster, _who, [(0.4,) for _ in range(40)])
        assert {found[0], dask.processes[-1].pid} == {*found} and len(dask.processes) == 3
    finally:
        dask.end()


@pytest.mark.parametrize("strange", ["without nbops", "other code"])
def test_a_strange_worker_that_comes_later_is_refused_and_spoils_no_result(tmp_path, strange):
    folder = tmp_path / "strange" / "nbops"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    for file in (ROOT / "lib/nbops").glob("*.py") if strange == "other code" else ():
        (folder / file.name).write_text(file.read_text() + "\n")
    dask, noted = Dask(tmp_path, workers=1), []
    try:
        project = on(make(tmp_path, trained=["random_forest"]), dask)
        with open_cluster(project) as cluster:
            dask.environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "strange"), str(ROOT / "tests")])
            dask.start_worker()
            cluster.client.wait_for_workers(2, timeout=60)
            about = {"keep_errors": True, "done": lambda place, result: noted.append(result)}
            if strange == "without nbops":  # it cannot even read what it is sent, and leaves; the others do its share
                run_all(cluster, _who, [(0.2,) for _ in range(12)], **about)
                assert len(noted) == 12 and len(cluster.client.scheduler_info(n_workers=-1)["workers"]) == 1
            else:
                with pytest.raises(InputError, match="has nbops .* and this process .*: results would differ"):
                    run_all(cluster, _who, [(0.2,) for _ in range(12)], **about)
                with pytest.raises(InputError, match="has nbops .* and this process"):  # a fit asks its workers, too
                    fit_on(cluster, lambda: fit_model(project, "random_forest", rows(n=1000), seed=0))
        assert {*noted} <= {dask.workers[0].pid}
    finally:
        dask.end()


def test_a_run_with_a_cluster_makes_the_champion_of_a_run_without(tmp_path, dask):
    settings = {"search": {"trials": 6}, "training": {"families": ["random_forest", "linear"]}}
    there = {"compute": {"scheduler": dask.address}}
    both_workers(on(make(tmp_path), dask))
    found = []
    for name, more in (("here", {}), ("there", there)):
        folder = make_project(tmp_path / name, kind="binary", rows=160, **settings, **more)
        done = command(folder, "run")
        assert done.returncode == 0, done.stderr
        release = json.loads((folder / "store/products/all/90_release/release.json").read_text())
        trials = (folder / "store/search").glob("*.jsonl")
        found.append((release["digest"], release["champion"], [file.name for file in trials]))
    assert found[0] == found[1] and found[0][1] == 1
