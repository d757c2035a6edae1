"""What several tests share."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
for name in (
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
):  # a test's `make` is a person's: not a part of the `make test` around it
    os.environ.pop(name, None)
# A shell turns Ctrl-C off for what it starts in the background; commands that tests start shall feel it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Kernels are forked from servers of the tests' own; a developer's go on. Paths of sockets must be short.
os.environ["XDG_RUNTIME_DIR"] = RUNTIME = tempfile.mkdtemp(prefix="nb-", dir="/tmp")


def pytest_sessionfinish():
    """Ends the servers that tests have started."""
    from nbops.forkserver import servers

    servers(stop=True)
    shutil.rmtree(RUNTIME, ignore_errors=True)


def open_files():
    """What this process has open, where the system tells."""
    found = []
    for one in os.listdir("/proc/self/fd") if Path("/proc/self/fd").exists() else []:
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found.append(os.readlink(f"/proc/self/fd/{one}"))
    return found


@pytest.fixture(scope="module", autouse=True)
def few_open_files():
    """No file of tests leaves many files open: those of all add up, and a process may often have 1,024."""
    before = len(open_files())
    yield
    left = sorted(open_files())
    assert len(left) <= before + 100, f"{len(left) - before} more files are open than before: {left}"


@pytest.fixture(scope="session")
def chromium():
    """Path of a browser for Playwright's `executable_path`; without one the test is skipped, and fails in CI."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path:
        return path
    reason = "no chromium here; `make test` installs it where it may (Debian: apt install chromium)"
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@pytest.fixture
def nats(tmp_path):
    """A real NATS server with JetStream, on a free port and in a folder of its own; skipped without one, failed in CI."""
    from nats_server import NatsServer

    program = shutil.which("nats-server")
    if program is None:
        reason = "no nats-server here; `make test` installs it where it may (Debian: apt install nats-server)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    server = NatsServer(program, tmp_path / "jetstream")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def mlflow_server(tmp_path):
    """A real `mlflow server` on loopback: its address, and the functions `start` and `stop` (as kill -9 stops it)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, folder, running = f"http://127.0.0.1:{port}", tmp_path / "mlflow server", []
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
             "--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "kept")]  # fmt: skip

    def start():
        folder.mkdir(exist_ok=True)
        with open(folder / "log", "a") as log:
            program = Path(sys.executable).with_name("mlflow")
            running.append(subprocess.Popen([program, *words], stdout=log, stderr=log, start_new_session=True))
        for _ in range(600):
            try:
                return urllib.request.urlopen(f"{address}/health", timeout=1).read()
            except OSError:
                time.sleep(0.1)
        pytest.fail((folder / "log").read_text()[-2000:])

    def stop():
        while running:
            os.killpg(running[-1].pid, signal.SIGKILL)
            running.pop().wait()

    start()
    yield address, start, stop
    stop()


@pytest.fixture(scope="session")
def flights_run(tmp_path_factory):
    """`make run` in a store of its own: what it printed, and the store. Takes minutes; only slow tests ask for it."""
    store = tmp_path_factory.mktemp("flights") / "store"
    done = subprocess.run(["make", "run", f"STORE={store}"], cwd=ROOT, capture_output=True, text=True, timeout=1500)
    return done, store


@pytest.fixture(scope="session")
def postgres():
    """URL of a real PostgreSQL server of the tests' own; without one the test is skipped, and fails in CI."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin")) + [
        Path(found).parent for found in [shutil.which("initdb")] if found
    ]
    if not programs:
        reason = "no PostgreSQL here; `make test` installs it where it may (Debian: apt install postgresql)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    folder = Path(
        tempfile.mkdtemp(prefix="nb-", dir="/tmp")
    )  # somebody else must get there, and paths of sockets are short
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    somebody = []
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "nobody")
        somebody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]

    def run(words):
        done = subprocess.run(words, capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stderr

    (folder / "password").write_text("hunter2-Zebra")
    options = ["-U", "me", "-A", "scram-sha-256", f"--pwfile={folder}/password", "-E", "UTF8", "--locale=C"]
    run([*somebody, programs[-1] / "initdb", "-D", folder / "data", *options])
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [*somebody, programs[-1] / "pg_ctl", "-D", folder / "data", "-w"]
    run([*control, "-o", options, "-l", folder / "log", "start"])
    try:
        yield f"postgresql+psycopg://me:hunter2-Zebra@127.0.0.1:{port}/postgres"
    finally:
        run([*control, "-m", "immediate", "stop"])
        shutil.rmtree(folder)


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 8 MiB; gives the folder and a function that leaves so many KiB free."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True).returncode:
        reason = "mounting a small disk needs root"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    try:
        yield disk, lambda free: (disk / "filler").write_bytes(bytes((8192 - free) * 1024))
    finally:
        subprocess.run(["umount", disk], check=True)
