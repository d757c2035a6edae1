"""The Makefile's targets are there, and set-up says what to do when it cannot go on."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = ["setup", "run", "test", "nightly", "check", "lab", "dashboards", "lock", "clean"]


def run(*command, cwd=ROOT, **environment):
    path = environment.pop("PATH", "/usr/bin:/bin")
    return subprocess.run(
        command, cwd=cwd, env={"PATH": path, "HOME": str(cwd)} | environment, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def empty_project(tmp_path):
    """A folder with the set-up script and no environment."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/setup", tmp_path / ".ci/setup")
    return tmp_path


def executable(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("target", TARGETS)
def test_target_is_there_and_makes_the_environment_first(target):
    done = run("make", "--dry-run", "--what-if=requirements.lock", target)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(".ci/setup\n")


def test_help_lists_every_target_in_one_line():
    lines = run("make").stdout.splitlines()
    assert [re.match(r"make (\w+) +\S", line)[1] for line in lines] == ["help", *TARGETS]


def test_old_python_is_refused_with_the_way_out(empty_project):
    executable(empty_project / "bin/python3", '[ "$1" = --version ] && echo Python 3.9.18; exit 1')
    done = run(".ci/setup", cwd=empty_project, PATH=f"{empty_project}/bin:/usr/bin:/bin")
    assert done.returncode == 1
    assert "needs Python 3.11, 3.12 or 3.13, but 'python3' is Python 3.9.18" in done.stderr
    assert "make setup PYTHON=python3.12" in done.stderr


def test_missing_python_is_named(empty_project):
    done = run(".ci/setup", cwd=empty_project, PYTHON="python-of-nowhere")
    assert done.returncode == 1
    assert "there is no 'python-of-nowhere' here" in done.stderr


def test_missing_venv_module_is_named(empty_project):
    executable(empty_project / "bin/python3", 'case "$2" in *ensurepip*) exit 1;; esac')
    done = run(".ci/setup", cwd=empty_project, PATH=f"{empty_project}/bin:/usr/bin:/bin")
    assert done.returncode == 1
    assert "apt install python3-venv" in done.stderr


def test_unreachable_index_keeps_the_environment_and_says_what_to_do(empty_project):
    (empty_project / "requirements.lock").write_text("uv==0.0.1\n")
    executable(empty_project / ".venv/bin/python", 'case "$*" in "-m pip install"*) exit 1;; esac')
    done = run(".ci/setup", cwd=empty_project)
    assert done.returncode == 1
    assert "with a mirror set PIP_INDEX_URL" in done.stderr
    assert not (empty_project / ".venv/.ready").exists()


def test_missing_browser_fails_in_ci_and_is_said_elsewhere(tmp_path):
    for name in ("id", "bash", "env"):
        (tmp_path / name).symlink_to(shutil.which(name))
    ci, elsewhere = (run(str(ROOT / ".ci/servers"), PATH=str(tmp_path), CI=value) for value in ("true", ""))
    assert (ci.returncode, elsewhere.returncode) == (1, 0)
    assert "apt-get install chromium nats-server postgresql" in ci.stderr and "listed as skipped" in elsewhere.stderr


@pytest.mark.slow
def test_lab_lists_the_notebooks(tmp_path):
    """Without .jupyter/ this is an HTTP 500: extensions that come with other packages break every listing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"--no-browser --port={port} --ServerApp.port_retries=0 --IdentityProvider.token=test"
    environment = os.environ | {"HOME": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        lab = subprocess.Popen(["make", "lab", f"LAB={options}"], cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/api/status?token=test", lab)
        with urlopen(f"http://127.0.0.1:{port}/api/contents/notebooks/lib?token=test") as answer:
            listed = {entry["name"] for entry in json.load(answer)["content"]}
        assert {path.name for path in ROOT.glob("notebooks/lib/*.ipynb")} <= listed
        with urlopen(f"http://127.0.0.1:{port}/api/contents/notebooks/stages/30_features.ipynb?token=test") as answer:
            cells = json.load(answer)["content"]["cells"]
        shown = next(cell["source"] for cell in cells if "injected-parameters" in cell["metadata"].get("tags", []))
        assert str(ROOT / "store") in shown and "by_hand" in shown
        urlopen(Request(f"http://127.0.0.1:{port}/api/shutdown?token=test", method="POST")).close()
        lab.wait(timeout=30)
    finally:
        lab.terminate()


def wait_for(url, process):
    """Return once the address answers; fail when the process ends first or after a minute."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            return urlopen(url).close()
        except URLError:
            time.sleep(0.1)
    pytest.fail(f"no answer from {url}")
