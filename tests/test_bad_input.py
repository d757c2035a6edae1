"""What goes wrong for a person: one message with the way out, the right exit code, nothing half-written, and the next run is fine."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from nbops import cli, comparison, contracts, engine, features, snapshots, sources
from nbops.base import InputError
from nbops.config import load_project
from small_project import change, environment, make_project, make_table, write_yaml


def run(folder, *words):
    """`nbops run` in this process; gives exit code and what a person sees."""
    with contextlib.chdir(folder):
        done = CliRunner().invoke(cli.main, ["run", *words])
    assert isinstance(done.exception, SystemExit | None), repr(
        done.exception
    )  # anything else is a traceback on the screen
    return done.exit_code, done.output


def half_written(folder):
    """Files that a run left unfinished."""
    return [file.name for file in folder.rglob("*") if file.suffix == ".partial" or file.name.endswith(".tmp")]


def edit(name, old, new):
    return lambda folder: (folder / name).write_text(
        (folder / name).read_text(encoding="utf-8").replace(old, new), encoding="utf-8"
    )


def put(name, content):
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def source(path, content=b"not that"):
    """A project whose table is another file."""
    return lambda folder: (
        put(Path(path).name, content)(folder),
        edit("project.yaml", "path: rows.csv", f"path: {path}")(folder),
    )


# ---------------------------------------------------------------- before the first stage


MISTAKES = {
    "missing file": (lambda folder: (folder / "rows.csv").rename(folder / "rowz.csv"), 'did you mean "rowz.csv"'),
    "missing folder": (edit("project.yaml", "path: rows.csv", "path: data/rows.csv"), "data does not exist"),
    "missing package": (edit("project.yaml", "path: rows.csv", "path: package://no.such/rows.csv"), "is not installed"),
    "empty file": (put("rows.csv", ""), "rows.csv"),
    "header only": (put("rows.csv", "number,when,outcome\n"), "has no rows"),
    "not a table": (put("rows.csv", bytes(range(256)) * 40), "rows.csv cannot be read"),
    "not utf-8": (put("rows.csv", "number,when,größe\n1,2024-01-01,2\n".encode("latin1")), "no text in UTF-8"),
    "broken gzip": (source("rows.csv.gz"), "rows.csv.gz cannot be read"),
    "broken zip": (source("rows.zip"), "rows.zip"),
    "broken parquet": (source("rows.parquet"), "rows.parquet cannot be read"),
    "unknown kind": (source("rows.xls"), "allowed: csv"),
    "no such time": (edit("project.yaml", "time: when", "time: wen"), 'did you mean "when"'),
    "time is no time": (edit("rows.csv", "2024-0", "in month "), "rows.csv has no rows with a time"),
    "unknown key": (edit("project.yaml", "table:", "trainnig: {}\ntable:"), 'did you mean "training"'),
    "unknown key inside": (
        edit("project.yaml", "table:", "training: {famlies: []}\ntable:"),
        'did you mean "families"',
    ),
    "key is a number": (edit("project.yaml", "table:", "1: 2\ntable:"), "unknown key"),
    "no family": (edit("project.yaml", "table:", "training: {families: []}\ntable:"), "training.families"),
    "unknown family": (edit("project.yaml", "table:", "training: {families: [linaer]}\ntable:"), "linear"),
    "no project file": (put("project.yaml", ""), "holds"),
    "broken project file": (put("project.yaml", "name: ["), "cannot be read as YAML"),
    "project file not utf-8": (put("project.yaml", "title: Größe".encode("latin1")), "cannot be read as YAML"),
    "broken env.yaml": (put("env.yaml", "store: ["), "env.yaml cannot be read as YAML"),
    "env.yaml is a list": (put("env.yaml", "- 1"), "env.yaml holds"),
    "env.yaml not utf-8": (put("env.yaml", "store: größe".encode("latin1")), "env.yaml cannot be read as YAML"),
    "no store": (put("env.yaml", "store: null"), "env.yaml"),
    "broken pipeline": (put("pipeline.yaml", "tasks: ["), "pipeline.yaml"),
    "no pipeline": (lambda folder: (folder / "pipeline.yaml").unlink(), "pipeline.yaml"),
    "no stage": (lambda folder: (folder / "notebooks/stages/10_ingest.ipynb").unlink(), "10_ingest.ipynb"),
    "no contract": (lambda folder: (folder / "contract.yaml").unlink(), "contract.yaml is missing"),
    "broken contract": (put("contract.yaml", "schema: ["), "contract.yaml cannot be read as YAML"),
    "empty contract": (put("contract.yaml", ""), "contract.yaml holds"),
    "contract type": (edit("contract.yaml", "logicalType: number", "logicalType: numbr"), 'did you mean "number"'),
    "no builder module": (
        edit("project.yaml", "table:", "features: {builder: 'no.such:thing'}\ntable:"),
        "cannot be imported",
    ),
    "no builder function": (
        edit("project.yaml", "table:", "features: {builder: 'json:thing'}\ntable:"),
        "has no function 'thing'",
    ),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("bad") / "template", kind="regression", time="month", rows=60, stages=1)


@pytest.fixture
def project(template, tmp_path):
    return Path(shutil.copytree(template, tmp_path / "project"))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_before_anything_runs(project, name):
    spoil, message = MISTAKES[name]
    spoil(project)
    code, output = run(project)
    assert code == 2
    assert output.startswith("nbops: ") and message in output and "Traceback" not in output
    assert not (project / "store/products").exists()


@pytest.mark.parametrize(
    ("period", "message"),
    [
        ("soon", "allowed: a month such as"),
        ("2031-01", "covers 2024-01 to 2024-03"),
        ("2001-01", "covers 2024-01 to 2024-03"),
    ],
)
def test_a_period_that_cannot_be_run_is_named(project, period, message):
    code, output = run(project, "--period", period)
    assert code == 2 and output.startswith("nbops: period ") and message in output


def test_outside_a_project_the_way_in_is_named(tmp_path):
    code, output = run(tmp_path)
    assert code == 2 and "Change to that folder" in output


def test_an_empty_env_yaml_means_the_defaults(project):
    (project / "env.yaml").write_text("")
    assert engine.parameters(load_project(project), "2024-01")["store"] == "store"


def test_a_store_that_cannot_be_written_is_named(project):
    code, output = run(project, "--store", "rows.csv")
    assert code in (1, 2) and "rows.csv" in output and "--store" in output


def test_a_damaged_state_database_is_named(project):
    (project / "store").mkdir()
    (project / "store/nbops.db").write_text("not a database " * 1000)
    code, output = run(project)
    assert code in (1, 2) and "nbops.db" in output


# ---------------------------------------------------------------- what stages meet


def test_a_file_that_is_not_as_promised_leaves_no_snapshot(project):
    edit("rows.csv", "weight kg", "weigth kg")(project)
    types = contracts.column_types(contracts.load_contract(project))
    with pytest.raises(InputError) as caught:
        snapshots.take_snapshot(load_project(project), "2024-01", store=project / "store", types=types)
    message = "column 'weight kg' is missing (did you mean \"weigth kg\"?)"
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not half_written(project)


def test_a_target_with_one_class_cannot_be_learned(tmp_path):
    project = load_project(make_project(tmp_path / "project", kind="binary", rows=40))
    table = make_table("binary", rows=40).drop(columns="outcome").assign(_id="", _label=1.0)
    with pytest.raises(
        InputError, match="'outcome' has the same value in all .* rows to learn from .* at least two different"
    ):
        comparison.compare_families(project, table, seed=1)


@pytest.mark.parametrize(("column", "message"), [("outcom", 'did you mean "outcome"'), ("outcome", "never is 'yes'")])
def test_a_target_that_is_not_there_is_named(tmp_path, column, message):
    target = {"column": column, "kind": "binary", "positive": "yes"}
    folder = make_project(tmp_path / "project", table=make_table("binary", rows=40).replace("yes", "ja"), target=target)
    project = load_project(folder)
    snapshot = snapshots.take_snapshot(project, "all", store=folder / "store")
    with pytest.raises(InputError, match=message):
        features.build_features(
            project, features.open_tables({"things": snapshot.files(folder / "store", "things")}), period="all"
        )


@pytest.mark.slow
def test_an_empty_period_stops_at_ingest_and_the_next_run_is_fine(project):
    rows = pd.read_csv(project / "rows.csv")
    rows[~rows["when"].str.startswith("2024-02")].to_csv(project / "rows.csv", index=False)
    code, output = run(project, "--period", "2024-02")
    assert code == 2 and "has no rows in period 2024-02; it covers 2024-01 to 2024-03" in output
    assert {file.name for file in (project / "store/products").rglob("*") if file.is_file()} <= {
        "10_ingest.failed.ipynb"
    }
    assert run(project, "--period", "2024-03")[0] == 0


@pytest.mark.slow
def test_too_many_bad_rows_stop_the_run_and_can_be_looked_at(tmp_path):
    table = make_table("regression", rows=60)
    table.loc[:9, "outcome"] = 1e6
    folder = make_project(tmp_path / "project", kind="regression", table=table, stages=2)
    contract = yaml.safe_load((folder / "contract.yaml").read_text(encoding="utf-8"))
    contract["schema"][0]["properties"][-1]["logicalTypeOptions"] = {"maximum": 1000}
    write_yaml(folder / "contract.yaml", contract)
    code, output = run(folder)
    assert code == 2 and '10 of 60 rows (16.7%), most often "outcome is at most 1000"' in output
    products = folder / "store/products/all/20_validate"
    quarantine = pd.read_parquet(products / "20_validate.failed/quarantine.parquet")
    assert list(quarantine["row"]) == list(range(10)) and json.loads(quarantine["record"][0])["number"] == "0"
    assert not (products / "20_validate.ipynb").exists() and not (products / "valid.json").exists()
    change(folder / "project.yaml", validation={"max_quarantined": 0.2})
    assert run(folder)[0] == 0 and (products / "valid.json").exists() and not (products / "20_validate.failed").exists()


# ---------------------------------------------------------------- a stage that is stopped


STOPPING = [
    ("parameters", "upstream = None\nproduct = None"),
    ("", "import pathlib, time"),
    ("", "pathlib.Path('started').touch()\nwhile not pathlib.Path('go').exists():\n    time.sleep(0.05)"),
    ("", "assert not pathlib.Path('fail').exists(), 'a reason'\npathlib.Path('text.txt').write_text('done')"),
]


@pytest.fixture
def waiting(project):
    """A pipeline as Ploomber's users write it: one task, one product. It waits for the file `go`; a file `fail` makes it fail."""
    cells = [nbformat.v4.new_code_cell(code, metadata={"tags": [tag]} if tag else {}) for tag, code in STOPPING]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), project / "wait.ipynb")
    product = "{{store}}/products/{{period}}/wait/wait.ipynb"
    write_yaml(project / "pipeline.yaml", {"tasks": [{"name": "wait", "source": "wait.ipynb", "product": product}]})
    return project


def start(folder, *words, background=False):
    """Starts `nbops run` as a terminal does, or as `nbops run &` in a script, and waits until the stage is at work."""
    script = Path(sys.executable).with_name("nbops")
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    streams |= {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)} if background else {}
    running = subprocess.Popen(
        [script, "run", *words], cwd=folder, env=environment(), text=True, start_new_session=True, **streams
    )
    wait_until(lambda: (folder / "started").exists() or running.poll() is not None)
    return running


def wait_until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def kernels(folder):
    """Process numbers of the kernels that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(process / "cwd") == str(folder) and (process / "comm").read_text() == "nbops-kernel\n":
                found.append(int(process.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sign", "code", "background"),
    [
        (signal.SIGINT, 130, False),
        (signal.SIGTERM, 130, False),
        (signal.SIGTERM, 130, True),
        (signal.SIGKILL, -9, False),
    ],
    ids=["Ctrl-C", "kill", "kill in the background", "kill -9"],
)
def test_an_interrupted_run_leaves_nothing_behind_and_goes_on(waiting, sign, code, background):
    running = start(waiting, background=background)
    assert len(kernels(waiting)) == 1
    os.killpg(running.pid, sign) if sign == signal.SIGINT else running.send_signal(
        sign
    )  # Ctrl-C reaches the whole group
    output = running.communicate(timeout=30)[0]
    assert running.returncode == code
    wait_until(lambda: not kernels(waiting), seconds=10)
    if code == 130:
        said = "nbops: interrupted; what was finished is kept, and the same command goes on from there"
        assert [line for line in output.splitlines() if "kernel server" not in line] == [said]
        assert not (waiting / "store/products/2024-01/wait/wait.ipynb").exists()
    assert not half_written(waiting) and not list(waiting.rglob("text.txt"))
    (waiting / "go").touch()
    assert run(waiting)[0] == 0
    assert [file.read_text() for file in waiting.rglob("text.txt")] == ["done"]


@pytest.mark.slow
def test_a_failed_stage_names_its_notebook(waiting):
    (waiting / "go").touch()
    (waiting / "fail").touch()
    code, output = run(waiting)
    kept = waiting / "store/products/2024-01/wait/wait.failed.ipynb"
    assert (
        code == 1
        and "nbops: stage wait failed: AssertionError: a reason (cell 5, line 1: `assert not " in output
        and f". See {kept}, or look around at that cell: nbops debug wait. Correct it" in output
        and "Traceback" not in output
    )
    assert "a reason" in kept.read_text() and not kept.with_name("wait.ipynb").exists()
    (waiting / "fail").unlink()
    assert run(waiting)[0] == 0 and not kept.exists()


@pytest.mark.slow
def test_of_two_runs_at_once_the_second_waits_and_says_so(waiting):
    first = start(waiting)
    script = Path(sys.executable).with_name("nbops")
    with (waiting / "out").open("w") as out, (waiting / "said").open("w") as said:
        second = subprocess.Popen(
            [script, "run", "--period", "2024-01", "--json"], cwd=waiting, env=environment(), stdout=out, stderr=said
        )
    wait_until(
        lambda: f"another run is at work in {waiting / 'store'}; waiting for it" in (waiting / "said").read_text()
    )
    (waiting / "go").touch()
    first.communicate(timeout=60)
    assert (first.returncode, second.wait(timeout=60)) == (0, 0)
    assert json.loads((waiting / "out").read_text())["periods"] == []  # it came to its end as well


def test_the_lock_of_a_store_is_let_go_after_an_error(tmp_path):
    with pytest.raises(KeyError), engine.one_run_at_a_time(tmp_path):
        raise KeyError
    with open(tmp_path / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ---------------------------------------------------------------- a full disk


@pytest.mark.slow
@pytest.mark.parametrize("free", [0, 500], ids=["before the first stage", "in the first stage"])
def test_a_full_disk_is_said_and_after_freeing_space_the_run_goes_on(tmp_path, small_disk, free):
    disk, leave = small_disk
    project = make_project(tmp_path / "project", kind="regression", rows=60_000, stages=1)  # a snapshot of about 1 MiB
    leave(free)
    code, output = run(project, "--store", str(disk / "store"))
    assert code == 1 and "the disk is full" in output and "Free some space, then give the same command" in output
    assert not half_written(disk) and not list(disk.rglob("10_ingest.ipynb"))
    (disk / "filler").unlink()
    code, output = run(project, "--store", str(disk / "store"))
    assert code == 0, output


def test_a_read_only_disk_is_said(project, small_disk):
    disk, _ = small_disk
    sources.write_text("", disk / "store/nbops.db")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    code, output = run(project, "--store", str(disk / "store"))
    assert code in (1, 2) and str(disk / "store") in output and "--store" in output
