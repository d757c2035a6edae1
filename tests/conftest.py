"""What several tests share."""

import os
import shutil
import signal
import subprocess
import tempfile
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


@pytest.fixture(scope="session")
def flights_run(tmp_path_factory):
    """`make run` in a store of its own: what it printed, and the store. Takes minutes; only slow tests ask for it."""
    store = tmp_path_factory.mktemp("flights") / "store"
    done = subprocess.run(["make", "run", f"STORE={store}"], cwd=ROOT, capture_output=True, text=True, timeout=1500)
    return done, store
