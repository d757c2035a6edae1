"""Every command in the README is run by a test, and what it shows is what is printed."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from sklearn.datasets import load_wine

from nbops.base import InputError
from nbops.config import load_project
from test_make import wait_for

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Where each command is run for real. `make test` is what runs these tests.
RUN_BY = {
    "make run": "conftest.py::flights_run",
    "make test": "../.ci/run::make test",
    "make dashboards": "test_readme.py::test_make_dashboards_serves_the_page",
    "make lab": "test_make.py::test_lab_lists_the_notebooks",
    ".venv/bin/nbops run": "test_readme.py::nbops run",
    ".venv/bin/nbops status": "test_loop.py::test_status_says_what_comes_next",
    ".venv/bin/nbops replay --from 2013-02 --to 2013-12": "../Makefile::nbops replay --from",
    "mkdir -p ~/wine/notebooks && cp -r notebooks/stages ~/wine/notebooks/ && cp pipeline.yaml env.yaml ~/wine/": (
        "test_readme.py::test_own_data_as_the_readme_says"
    ),
    "source .venv/bin/activate && cd ~/wine": "test_readme.py::test_own_data_as_the_readme_says",
    ".venv/bin/nbops why 70_train": "test_loop.py::test_why_says_that_nothing_changed",
    ".venv/bin/nbops run --from 70_train": "test_loop.py::test_run_from_a_stage",
    ".venv/bin/nbops debug 70_train": "test_loop.py::test_debug_leaves_the_kernel_alive",
    ".venv/bin/nbops check-notebook notebooks/stages/70_train.ipynb": "test_loop.py::test_check_notebook_finds_nothing",
    ".venv/bin/nbops engine status": "test_bench.py::test_engine_status",
    ".venv/bin/nbops bench engine": "test_bench.py::test_ratios_to_the_stock_tools",
    ".venv/bin/nbops contract infer rows.csv --out contract.yaml": "test_contracts.py::test_flights_are_proposed_and_checked",
    ".venv/bin/nbops contract check rows.csv": "test_contracts.py::test_the_commands_verdict",
    ".venv/bin/nbops contract diff 2013-02 2013-03": "test_schemas.py::test_the_command_that_compares",
    ".venv/bin/nbops data push 2013-03": "test_versions.py::test_an_old_period_is_repeated_bit_for_bit",
    ".venv/bin/nbops data restore 2013-03": "test_versions.py::test_an_old_period_is_repeated_bit_for_bit",
    ".venv/bin/nbops stream": "test_streams.py::test_the_command_says_what_it_did",
    ".venv/bin/nbops features materialize": "test_featurestore.py::def test_commands",
    ".venv/bin/nbops lineage champion --draw lineage.html": "test_lineage.py::def test_the_command",
    "nbops contract infer wine.csv --key bottle --time tasted --out contract.yaml": "test_readme.py::wine.csv",
    ".venv/bin/nbops test champion": "test_suite.py::def test_the_three_ways_say_the_same",
    ".venv/bin/nbops explain champion": "test_loop.py::def test_explain_champion",
    ".venv/bin/nbops models": "test_approvals.py::def test_the_commands",
    ".venv/bin/nbops approve 3": "test_approvals.py::def test_the_commands",
    ".venv/bin/nbops rollback": "test_approvals.py::def test_the_commands",
    ".venv/bin/nbops champion --at 2013-03": "test_approvals.py::def test_the_commands",
    ".venv/bin/nbops card champion --html card.html": "test_cards.py::def test_commands_write_pages_and_answer_as_data",
    ".venv/bin/nbops compliance champion --html ai.html": "test_cards.py::def test_commands_write_pages_and_answer_as_data",
    ".venv/bin/nbops audit verify": "test_checkpoints.py::def test_the_commands_one_after_the_other",
    ".venv/bin/nbops search --trials 40": "test_loop.py::def test_search_goes_on",
    ".venv/bin/nbops score --input rows.parquet --output scores": "test_batch_scoring.py::def test_the_commands_score_and_edge_build",
    ".venv/bin/nbops edge build --output device": "test_batch_scoring.py::def test_the_commands_score_and_edge_build",
    ".venv/bin/ploomber status": "test_readme.py::test_ploomber_reads_the_same_pipeline",
}


def commands():
    blocks = re.findall(r"```sh\n(.*?)```", README, re.S)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_every_command_is_run_by_a_test():
    assert set(commands()) == set(RUN_BY)
    for command, place in RUN_BY.items():
        file, text = place.split("::")
        assert text in (ROOT / "tests" / file).read_text(), f"{command}: no {text} in {file}"


def test_every_file_it_names_exists():
    named = {name for name in re.findall(r"`([\w./-]+)`", README) if "/" in name or name.endswith((".yaml", ".ipynb"))}
    missing = [name for name in named if not name.startswith("store/") and not (ROOT / name).exists()]
    assert not missing
    assert (ROOT / "reports/images/monitoring.png").is_file()


def test_the_error_it_shows_is_the_error_that_is_printed(tmp_path):
    text = (ROOT / "project.yaml").read_text().replace("kind: binary", "knid: binary")
    (tmp_path / "project.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        load_project(tmp_path)
    shown = re.search(r"nbops: (project\.yaml is not valid:.*?)```", README, re.S)[1].strip()
    assert str(error.value).replace(f"{tmp_path}/", "") == shown


@pytest.mark.slow
def test_ploomber_reads_the_same_pipeline():
    ploomber = Path(sys.executable).with_name("ploomber")
    done = subprocess.run([ploomber, "status"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for path in sorted((ROOT / "notebooks/stages").glob("*.ipynb")):
        assert path.stem in done.stdout


@pytest.mark.slow
def test_make_dashboards_serves_the_page(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"NBOPS_STORE": str(tmp_path), "NBOPS_DASHBOARD_POOL": "0"}
    with (tmp_path / "log").open("w") as log:
        options = ["make", "dashboards", f"VOILA=--port={port} --Voila.port_retries=0"]
        server = subprocess.Popen(options, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/", server)
    finally:
        server.terminate()
        server.wait(timeout=30)
    assert "0.0.0.0" not in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_own_data_as_the_readme_says(tmp_path):
    """The commands and files of the section, to the letter, on a table that the project has never seen."""
    wine = load_wine(as_frame=True).frame.rename(columns={"target": "cultivar"}).sample(frac=1, random_state=1)
    wine["cultivar"] = wine["cultivar"].map({0: "Barolo", 1: "Grignolino", 2: "Barbera"})
    wine["tasted"] = pd.date_range("2024-01-01", periods=len(wine), freq="8h").strftime("%Y-%m-%d %H:%M")
    wine.loc[wine.index[::9], "ash"] = None
    wine.insert(0, "bottle", range(1, len(wine) + 1))
    environment = os.environ | {"HOME": str(tmp_path)}
    lines = [line for line in commands() if "~/wine" in line]
    subprocess.run(["bash", "-c", lines[0]], cwd=ROOT, env=environment, check=True)
    folder = tmp_path / "wine"
    for text in re.findall(r"```yaml\n(.*?)```", README, re.S):
        (folder / re.match(r"# (\S+\.yaml)", text)[1]).write_text(text)
    wine.to_csv(folder / "wine.csv", index=False)
    infer = next(line for line in commands() if "infer wine.csv" in line)
    run = f"{lines[1]} && {infer} >/dev/null && nbops run && nbops status"
    done = subprocess.run(["bash", "-c", run], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2024-01: The first model is released: version 1. 12 of 12 stages ran")
    assert done.stdout.strip().endswith("1 period run, champion v1; next: nbops run --period 2024-02")
    assert (folder / "store/products/2024-01/95_report/index.html").is_file()
