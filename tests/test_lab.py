"""A stage in a real JupyterLab, as a data scientist sees it: open, Run All, look; edit, Run All, look again."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest

from nbops.lab import StageContents
from small_project import ROOT, command, environment, make_project

pytestmark = [pytest.mark.slow, pytest.mark.browser]
STAGE = "notebooks/stages/30_features.ipynb"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project of which one period was run."""
    folder = make_project(tmp_path_factory.mktemp("lab") / "project", kind="binary", time="month").resolve()
    done = command(folder, "run")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def lab(project, tmp_path_factory):
    """Address of a JupyterLab in the project's folder, as `make lab` sets it up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    home = tmp_path_factory.mktemp("home")
    words = [f"--port={address.rpartition(':')[2]}", "--no-browser", "--IdentityProvider.token=test", "--allow-root"]
    env = environment() | {"HOME": str(home), "JUPYTER_CONFIG_PATH": str(ROOT / ".jupyter")}
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [Path(sys.executable).with_name("jupyter-lab"), *words], cwd=project, env=env, stdout=log, stderr=log
        )
    try:
        until(lambda: answers(f"{address}/api/status?token=test"), (home / "log"))
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def answers(url):
    try:
        return urlopen(url).close() is None
    except URLError:
        return False


def until(true, log=None, seconds=90):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, log.read_text() if log else "it takes too long"
        time.sleep(0.1)


def kernels(folder):
    """How many forked kernels work in a folder or below."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            here = Path(os.readlink(process / "cwd")).is_relative_to(folder)
            found += here and (process / "comm").read_text() == "nbops-kernel\n"
        except OSError:
            continue  # it has just ended
    return found


def show_and_save(folder, path):
    """Opens a notebook and saves it, as JupyterLab asks its server to; gives how it was shown."""
    contents = StageContents(root_dir=str(folder))

    async def both():
        shown = await contents.get(path)
        cells = len(shown["content"]["cells"])
        await contents.save(shown, path)
        return cells

    return asyncio.run(both())


def test_a_notebook_that_is_no_stage_keeps_its_outputs(project):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1", execution_count=7)])
    notebook.cells[0].outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "2"}, execution_count=7)]
    nbformat.write(notebook, project / "own.ipynb")
    assert show_and_save(project, "own.ipynb") == 1
    assert nbformat.read(project / "own.ipynb", 4).cells == notebook.cells


@pytest.mark.parametrize("broken", ["tasks: [", "tasks: nothing", "other: 1", None])
def test_a_broken_pipeline_shows_the_notebook_as_it_is(project, broken):
    pipeline = project / "pipeline.yaml"
    before, cells = pipeline.read_text(), len(nbformat.read(project / STAGE, 4).cells)
    assert show_and_save(project, STAGE) == cells + 1
    try:
        pipeline.unlink() if broken is None else pipeline.write_text(broken)
        assert show_and_save(project, STAGE) == cells
    finally:
        pipeline.write_text(before)


def test_run_all_runs_on_the_last_inputs_and_writes_nothing_into_the_notebook(project, lab, chromium):
    from playwright.sync_api import sync_playwright

    before = (project / STAGE).read_bytes()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = opened.new_page(viewport={"width": 1280, "height": 2400})
        page.goto(f"{lab}/lab/tree/{STAGE}?token=test&reset")
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=60_000)
        page.wait_for_selector("#jp-main-statusbar >> text=| Idle", timeout=60_000)
        assert kernels(project) == 1
        page.locator(".lm-MenuBar-item:has-text('Run')").first.click()
        page.locator(".lm-Menu-itemLabel").get_by_text("Run All Cells", exact=True).click()
        page.wait_for_selector(".jp-OutputArea-output:has-text('rows to score')", timeout=60_000)  # of the last cell
        page.wait_for_function("!document.querySelector('.jp-NotebookPanel').innerText.includes('[*]')")
        page.wait_for_selector(".jp-NotebookPanel .js-plotly-plot", timeout=60_000)
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
        page.keyboard.press("Control+S")
        page.wait_for_timeout(2000)
        opened.close()
    assert (project / STAGE).read_bytes() == before
    assert (project / "store/by_hand/2024-01/30_features/rows.parquet").is_file()
    products = project / "store/products/2024-01/30_features"
    assert {file.name for file in products.iterdir()} >= {
        "30_features.ipynb",
        "rows.parquet",
        "30_features.inputs.json",
    }
    assert "0 of 12 stages ran" in command(project, "run", "--period", "2024-01").stdout
