"""Scoring files: every row once and in order, whatever is in them, and whoever kills it."""

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nbops import batch_scoring, predictors
from nbops.base import InputError
from nbops.batch_scoring import cut_text, open_table, read_part, score_files
from nbops.compute import open_cluster
from nbops.config import Family, find_root
from nbops.ledger import records
from nbops.training import predict_scores
from serving_store import COLUMNS, SPREADING, make_project, make_rows, make_version
from small_project import ROOT, command
from small_project import make_project as make_small
from test_compute import Dask


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def boosted(store):
    project, table = make_project(store), make_rows()
    return project, *make_version(project, store, "hist_gradient_boosting", table)


@pytest.fixture(scope="module")
def rows():
    return make_rows(rows=5000, seed=9).drop(columns="_label")


def read(output):
    files = sorted(output.glob("part-*.parquet"))
    return pd.concat([pd.read_parquet(one) for one in files], ignore_index=True)


SMALL = {"size": 4000, "rows": 700, "released": False, "cores": 1}


@pytest.mark.parametrize("seed", range(12))
def test_a_text_cut_anywhere_has_every_row_once(tmp_path, seed):
    rng = random.Random(seed)
    words = ["plain", "", 'quo"te', "line\nbreak", "both\r\n,\"x\"", '"', '""', "ö€東", "\n", " "]  # fmt: skip
    lines = [[rng.choice(words) for _ in range(3)] for _ in range(300)]
    text = io.StringIO()
    csv.writer(text, delimiter=rng.choice(",;\t|"), lineterminator=rng.choice(["\n", "\r\n"]),
               quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])).writerows([["a", 'b "c"', "d\nd"], *lines])  # fmt: skip
    file = tmp_path / "rows.csv"
    file.write_bytes(rng.choice([b"", b"\xef\xbb\xbf"]) + text.getvalue().encode().rstrip(b"\r\n" if seed % 2 else b""))
    table = open_table(make_project(tmp_path), file)
    parts = cut_text(table.file, table.mark, size=rng.choice([1, 50, 700, 10**6]))
    assert [end for _, end in parts[:-1]] == [begin for begin, _ in parts[1:]] and parts[-1][1] == file.stat().st_size
    found = [
        list(row.values())
        for part in parts
        for batch in read_part(table, *part, table.names, ["\0"])[1]
        for row in batch.to_pylist()
    ]
    assert found == lines


def test_a_quote_inside_a_value_keeps_the_file_whole(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text('a,b\n1,5" pipe\n2,"two\nlines"\n3,x\n')
    assert cut_text(file, ",", size=1) == [(4, file.stat().st_size)]
    file.write_text("a,b\n")
    assert cut_text(file, ",") == []


@pytest.mark.parametrize("form", ["parquet", "csv", "csv.gz"])
def test_scores_are_those_of_the_service_in_the_order_of_the_rows(store, boosted, rows, tmp_path, form):
    project, model, version = boosted
    (tmp_path / "in").mkdir()
    for part, begin in enumerate(range(0, 5000, 2500)):
        file, some = tmp_path / f"in/{part}.{form}", rows.iloc[begin : begin + 2500]
        some.to_parquet(file, row_group_size=300) if form == "parquet" else some.to_csv(file, index=False)
    made = score_files(
        project, store, version, batch_scoring.find_inputs(["in/*"], tmp_path), tmp_path / "out", **SMALL
    )
    found = read(tmp_path / "out")
    assert found["_id"].astype(str).tolist() == rows["_id"].tolist() and list(found) == ["_id", "version", "score"]
    predictor = predictors.open_predictor(
        store / "serving" / version.digest, predictors.expected_form(store, version.digest)
    )
    online = predictor.predict_rows(rows.to_dict("records"))
    assert predictor.form == "onnx" and (found["score"].to_numpy() == online).all()
    np.testing.assert_allclose(online, predict_scores("binary", model, rows)["score"], rtol=0, atol=1e-6)
    assert made["rows"] == made["scored_now"] == 5000 and len(made["parts"]) >= 6
    kept = json.loads((tmp_path / "out/manifest.json").read_text())
    assert kept["model"]["digest"] == version.digest and sum(one["rows"] for one in kept["parts"]) == 5000
    assert any(one["payload"]["rows"] == 5000 for one in records(store, "batch_scores"))


def test_again_does_nothing_and_a_broken_part_is_made_again(store, boosted, rows, tmp_path):
    project, _, version = boosted
    rows.to_parquet(tmp_path / "rows.parquet", row_group_size=500)
    what = (project, store, version, [tmp_path / "rows.parquet"], tmp_path / "out")
    first = score_files(*what, **SMALL)
    before = read(tmp_path / "out")
    (tmp_path / "out/part-00001.parquet").write_bytes(b"PAR1 half")
    (tmp_path / "out/part-00002.parquet").unlink()
    (tmp_path / "out/.part-00002.parquet.77.partial").write_bytes(b"half")
    again = score_files(*what, **SMALL)
    assert again["scored_now"] == sum(one["rows"] for one in first["parts"][1:3])
    assert again["parts"] == first["parts"] and before.equals(read(tmp_path / "out"))
    assert not list((tmp_path / "out").glob(".*.partial"))
    assert score_files(*what, **SMALL)["scored_now"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 2])
def test_killed_again_and_again_no_row_is_missing_and_none_stands_twice(store, boosted, tmp_path, cores):
    project, _, version = boosted
    table = pd.concat([make_rows(rows=5000, seed=one).drop(columns="_label") for one in range(24)], ignore_index=True)
    table = table.assign(_id=[str(one) for one in range(len(table))])
    table.to_parquet(tmp_path / "rows.parquet", row_group_size=2000)
    predictors.serving_form(project, store, version, released=False)
    code = (
        "import sys\nfrom pathlib import Path\nfrom nbops.batch_scoring import score_files\nfrom nbops.registry import find_version\n"
        "from serving_store import make_project\n"
        "if __name__ == '__main__':\n"
        "    store, folder = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "    project = make_project(store)\n"
        f"    found = score_files(project, store, find_version(project, store, {version.version}), [folder / 'rows.parquet'],\n"
        f"                        folder / 'out', rows=2000, cores={cores}, released=False)\n"
        "    print(found['rows'], found['scored_now'])\n"
    )
    (tmp_path / "run.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "lib", ROOT / "tests")))}
    start = [sys.executable, str(tmp_path / "run.py"), str(store), str(tmp_path)]
    known, stamps = 0, {}
    for wanted in (3, 9, 20):
        process = subprocess.Popen(start, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 60
        while len(list((tmp_path / "out").glob("part-*.parquet"))) < wanted and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        stamps = {one: one.stat().st_mtime_ns for one in sorted((tmp_path / "out").glob("part-*.parquet"))}
        known = len(stamps)
    assert wanted <= known < 60, "killed too late to prove anything"
    time.sleep(1)  # workers of a killed process end within half a second
    stamps = {one: one.stat().st_mtime_ns for one in sorted((tmp_path / "out").glob("part-*.parquet"))}
    done = subprocess.run(start, env=environment, capture_output=True, text=True)
    total, now = map(int, done.stdout.split())
    assert total == len(table) and now == total - 2000 * len(stamps), done.stderr
    assert all(one.stat().st_mtime_ns == stamp for one, stamp in stamps.items())  # what was there was not scored again
    assert read(tmp_path / "out")["_id"].tolist() == table["_id"].tolist()


@pytest.mark.slow
def test_two_processes_write_what_one_writes(store, boosted, rows, tmp_path):
    project, _, version = boosted
    rows.to_csv(tmp_path / "rows.csv", index=False)
    for cores in (1, 2):
        what = SMALL | {"cores": cores, "size": 40_000}
        score_files(project, store, version, [tmp_path / "rows.csv"], tmp_path / f"out{cores}", **what)
    one, two = (sorted((tmp_path / f"out{cores}").glob("part-*")) for cores in (1, 2))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two] and len(one) > 3


@pytest.mark.parametrize(
    ("kind", "family"), [("multiclass", "linear"), ("regression", "linear"), ("binary", Family(**SPREADING))]
)
def test_other_kinds_of_target_and_a_model_without_a_graph(store, tmp_path, kind, family):
    project, table = make_project(store, kind), make_rows(kind, rows=200)
    model, version = make_version(project, store, family, table, period=f"{kind}-batch")
    table.to_csv(tmp_path / "rows.csv", index=False)
    made = score_files(
        project, store, version, [tmp_path / "rows.csv"], tmp_path / "out", **SMALL, keep=["_id", COLUMNS[3]]
    )
    found, asked = read(tmp_path / "out"), predict_scores(kind, model, table)
    if kind == "multiclass":
        assert list(found)[3:] == ["prediction", *(f"score:{name}" for name in asked.columns)]
        assert found["prediction"].tolist() == asked.columns.to_numpy()[asked.to_numpy().argmax(axis=1)].tolist()
        found = found[[f"score:{name}" for name in asked.columns]]
    else:
        found = found[["score"]]
    np.testing.assert_allclose(found.to_numpy(), asked.to_numpy(), atol=1e-5 * (100 if kind == "regression" else 1))
    assert made["serving"] == ("sklearn" if kind == "binary" else "onnx")


def changed(rows, file, **columns):
    rows.head(20).assign(**columns).to_csv(file, index=False)
    return file


def test_bad_input_says_what_is_wrong_and_leaves_no_part(store, boosted, rows, tmp_path):
    project, _, version = boosted
    ask = lambda *files, **more: score_files(project, store, version, files, tmp_path / "out", **SMALL | more)  # noqa: E731
    rows.head(20).drop(columns=COLUMNS[0]).to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(InputError, match="column 'größe .€.' is missing"):
        ask(tmp_path / "less.csv")
    with pytest.raises(InputError, match="unknown kind of file"):
        ask(changed(rows, tmp_path / "rows.xlsx"))
    with pytest.raises(InputError, match="named twice"):
        batch_scoring.find_inputs(["less.csv", "less.csv"], tmp_path)
    with pytest.raises(InputError, match="no such file.*less.csv"):
        batch_scoring.find_inputs(["les.csv"], tmp_path)
    with pytest.raises(InputError, match="'nowhere' is missing"):
        ask(changed(rows, tmp_path / "rows.csv"), keep=["nowhere"])
    assert not (tmp_path / "out/plan.json").exists()
    with pytest.raises(InputError, match="holds 'n/a'; allowed: a number"):
        ask(changed(rows, tmp_path / "text.csv", **{COLUMNS[1]: "n/a"}))
    assert not list((tmp_path / "out").glob("*part-*"))
    with pytest.raises(InputError, match="another batch, with other inputs"):
        ask(tmp_path / "rows.csv")
    made = score_files(
        project, store, version, [tmp_path / "text.csv"], tmp_path / "gaps", **SMALL, missing=["n/a", ""]
    )
    assert made["rows"] == 20
    (tmp_path / "ragged.csv").write_text((tmp_path / "rows.csv").read_text() + "1,2,3\n")
    with pytest.raises(InputError, match="ragged.csv: .*columns"):
        score_files(project, store, version, [tmp_path / "ragged.csv"], tmp_path / "ragged", **SMALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'notes.txt'"):
        score_files(project, store, version, [tmp_path / "rows.csv"], tmp_path / "mine", **SMALL)
    moment = pa.array([0], pa.timestamp("us"))
    file = pa.table({name: moment if name == COLUMNS[0] else ["x"] for name in COLUMNS})
    pq.write_table(file, tmp_path / "times.parquet")
    with pytest.raises(InputError, match="is of type timestamp"):
        score_files(project, store, version, [tmp_path / "times.parquet"], tmp_path / "times", **SMALL)


def test_a_file_without_rows_gives_no_rows(store, boosted, rows, tmp_path):
    project, _, version = boosted
    rows.head(0).to_csv(tmp_path / "none.csv", index=False)
    rows.head(0).to_parquet(tmp_path / "none.parquet")
    files = [tmp_path / "none.csv"]
    assert score_files(project, store, version, files, tmp_path / "out", **SMALL)["rows"] == 0
    assert score_files(project, store, version, [tmp_path / "none.parquet"], tmp_path / "other", **SMALL)["rows"] == 0


def test_a_second_batch_waits_for_nobody(store, boosted, rows, tmp_path):
    project, _, version = boosted
    with batch_scoring._held(tmp_path / "out"), pytest.raises(InputError, match="another nbops score"):
        score_files(project, store, version, [changed(rows, tmp_path / "rows.csv")], tmp_path / "out", **SMALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_cluster_writes_what_this_machine_writes(store, boosted, rows, tmp_path):
    pytest.importorskip("distributed")
    project, _, version = boosted
    rows.to_csv(tmp_path / "rows.csv", index=False)
    score_files(project, store, version, [tmp_path / "rows.csv"], tmp_path / "here", **SMALL)
    dask = Dask(tmp_path)
    try:
        with open_cluster(make_project(store, compute={"scheduler": dask.address})) as cluster:
            score_files(project, store, version, [tmp_path / "rows.csv"], tmp_path / "there", **SMALL, cluster=cluster)
            assert len(cluster.client.run(os.getpid)) == 2
    finally:
        dask.end()
    here, there = (sorted((tmp_path / name).glob("part-*")) for name in ("here", "there"))
    assert [file.read_bytes() for file in here] == [file.read_bytes() for file in there] and len(here) > 10


@pytest.mark.slow
def test_the_commands_score_and_edge_build(tmp_path):
    folder = make_small(tmp_path / "small", kind="binary", rows=400)
    assert command(folder, "run").returncode == 0
    training = next((find_root(folder) / "store/products").glob("*/30_features/training.parquet"))
    pd.read_parquet(training).to_csv(folder / "batch.csv", index=False)
    done = command(folder, "score", "--input", "batch.csv", "--output", "scores", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["rows"] == len(read(folder / "scores")) and told["serving"] == "onnx"
    again = command(folder, "score", "--input", "batch.csv", "--output", "scores")
    assert again.returncode == 0 and "0 of them now" in again.stdout.splitlines()[-1]
    wrong = command(folder, "score", "--input", "batch.cs", "--output", "scores")
    assert wrong.returncode == 2 and 'did you mean "batch.csv"' in wrong.stderr and "Traceback" not in wrong.stderr
    built = command(folder, "edge", "build", "--output", "device", "--proof-rows", "100")
    assert built.returncode == 0 and "its proof: 100 rows" in built.stdout, built.stderr
    assert command(folder, "edge", "build", "--output", "device").returncode == 2
