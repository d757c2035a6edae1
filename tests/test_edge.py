"""A folder for a device: asked in an environment that has onnxruntime and numpy, and nothing else."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nbops.base import InputError
from nbops.config import Family
from nbops.edge import build_edge
from nbops.training import predict_scores
from serving_store import COLUMNS, SPREADING, make_project, make_rows, make_version, strange_rows


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def device(folder):
    """A folder of packages that holds onnxruntime and numpy, and nothing else."""
    folder.mkdir()
    for name in ("onnxruntime", "numpy"):
        place = Path(importlib.util.find_spec(name).origin).parent
        (folder / name).symlink_to(place)
        libraries = place.with_name(f"{name}.libs")
        if libraries.is_dir():
            (folder / libraries.name).symlink_to(libraries)
    return folder


def ask(packages, folder, *words, lines=""):
    """Runs run.py where only those packages can be imported; the last line names what was imported besides."""
    code = (
        "import sys, runpy; sys.path = [one for one in sys.path if 'site-packages' not in one]\n"
        f"sys.path.append({str(packages)!r}); sys.argv = sys.argv[1:]\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n    print([m for m in ('nbops', 'sklearn', 'pandas', 'pyarrow', 'skops', 'yaml') if m in sys.modules], file=sys.stderr)"
    )
    process = [sys.executable, "-S", "-I", "-c", code, str(folder / "run.py"), *words]
    return subprocess.run(process, input=lines, capture_output=True, text=True, cwd="/")


@pytest.mark.parametrize(
    ("kind", "family"), [("binary", "hist_gradient_boosting"), ("multiclass", "linear"), ("regression", "linear")]
)
def test_ten_thousand_rows_get_the_same_scores_where_nothing_else_is_installed(store, tmp_path, kind, family):
    project, table = make_project(store, kind), make_rows(kind)
    model, version = make_version(project, store, family, table, period=f"{kind}-{family}")
    manifest = build_edge(project, store, version, tmp_path / "device", rows=300, released=False)
    assert manifest["proof"].startswith("300 rows")
    packages = device(tmp_path / "packages")
    checked = ask(packages, tmp_path / "device", "--check")
    assert checked.returncode == 0 and checked.stderr.strip() == "[]", checked.stderr
    odd = strange_rows(make_rows(kind, rows=10_000, seed=9), 10_000)[COLUMNS]
    rows = odd.astype(object).where(odd.notna(), None).to_dict("records")
    lines = "\n".join(json.dumps(row) for row in rows)
    done = ask(packages, tmp_path / "device", lines=lines)
    assert done.stderr.strip() == "[]", done.stderr
    told = np.array([json.loads(line)["score"] for line in done.stdout.splitlines()])
    asked = predict_scores(kind, model, odd).to_numpy()
    asked = asked if kind == "multiclass" else asked[:, 0]
    assert told.shape == asked.shape and len(told) == 10_000
    assert np.abs(told - asked).max() <= 1e-5 * (np.std(asked) if kind == "regression" else 1)


@pytest.fixture(scope="module")
def folder(store, tmp_path_factory):
    project, table = make_project(store), make_rows(seed=3)
    _, version = make_version(project, store, "linear", table, period="plain")
    where = tmp_path_factory.mktemp("edge") / "device"
    build_edge(project, store, version, where, rows=50, released=False)
    return where


def run(folder, *words, lines=""):
    process = [sys.executable, "-I", str(folder / "run.py"), *words]
    return subprocess.run(process, input=lines, capture_output=True, text=True)


def test_the_runner_is_short_and_the_folder_is_complete(folder):
    assert len((folder / "run.py").read_text().splitlines()) <= 90
    assert len([line for line in (folder / "run.py").read_text().splitlines() if line.strip()]) <= 60
    made = json.loads((folder / "manifest.json").read_text())
    assert {*made["files"], "manifest.json"} == {one.name for one in folder.iterdir()}
    assert made["parity_on_real_rows"]["agrees"]


def test_no_line_of_the_proof_is_a_training_row(folder):
    real = {tuple(map(str, line)) for line in make_rows(seed=3)[COLUMNS].itertuples(index=False)}
    lines = [json.loads(line)["row"] for line in (folder / "proof.jsonl").read_text().splitlines()]
    assert len(lines) == 50 and not any(tuple(map(str, line.values())) in real for line in lines)


@pytest.mark.parametrize(
    ("row", "message"),
    [({COLUMNS[0]: 1}, "is missing"), (dict.fromkeys(COLUMNS, "abc"), "allowed: a number")],
)  # fmt: skip
def test_the_runner_refuses_bad_rows_in_one_line(folder, row, message):
    done = run(folder, lines=json.dumps(row))
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def test_a_changed_graph_or_a_changed_proof_is_noticed(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    proof = (copied / "proof.jsonl").read_text().splitlines()
    first = json.loads(proof[0])
    proof[0] = json.dumps(first | {"score": first["score"] + 0.01})
    (copied / "proof.jsonl").write_text("\n".join(proof))
    assert run(copied, "--check").returncode == 1
    (copied / "model.onnx").write_bytes((copied / "model.onnx").read_bytes() + b" ")
    done = run(copied, "--check")
    assert done.returncode == 1 and "not the file that was proven" in done.stderr


def test_a_model_without_a_graph_and_a_full_folder_are_refused(store, tmp_path):
    project, table = make_project(store), make_rows(rows=120)
    _, version = make_version(project, store, Family(**SPREADING), table, period="spreading")
    with pytest.raises(InputError, match="LabelSpreading"):
        build_edge(project, store, version, tmp_path / "new", released=False)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        build_edge(project, store, version, tmp_path, released=False)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
