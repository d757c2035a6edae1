"""Snapshots: kept by digest, pushed to a DVC remote once, pulled into another clone, and used again bit for bit."""

import functools
import hashlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from nbops import ledger, remotes, versions
from nbops.base import InputError
from nbops.config import load_project
from nbops.snapshots import Snapshot, Table, write_pieces
from nbops.sources import write_json
from small_project import change, command, environment, make_project, make_table

FIRST, SECOND = "2024-01", "2024-02"
slow = pytest.mark.slow


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def product(folder, period, name):
    return next((folder / "store/products" / period).glob(f"*/{name}"))


def objects(remote):
    """The objects in a remote, without temporary files of transfers that were killed."""
    return [one for one in remote.rglob("*") if one.is_file() and not one.name.endswith(".tmp")]


def clone(folder, target):
    """What `git clone` would bring: everything but the store."""
    return shutil.copytree(folder, target, ignore=shutil.ignore_patterns("store"))


# ---------------------------------------------------------------- the story, with real runs


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Two periods are run and pushed; then a source changes. Gives the project and the remote."""
    base = tmp_path_factory.mktemp("story")
    remote = base / "remote"
    remote.mkdir()
    folder = make_project(
        base / "project",
        kind="binary",
        time="month",
        stages=4,
        versions={"remote": "../remote"},
        training={"min_rows": 4},
    )
    for period in (FIRST, SECOND):
        done = command(folder, "run", "--period", period)
        assert done.returncode == 0, done.stderr
    assert not (folder / "data").exists()  # a run makes nothing that git would see
    done = command(folder, "data", "push")
    assert done.returncode == 0, done.stderr
    assert "2 snapshots pushed" in done.stdout.splitlines()[-1]
    kept = {
        (period, name): sha256(product(folder, period, name))
        for period in (FIRST, SECOND)
        for name in ("snapshot.json", "training.parquet", "rows.parquet")
    }
    table = make_table("binary", time="month", seed=8)
    table.to_csv(folder / "rows.csv", index=False)
    return folder, remote, kept


@slow
def test_an_old_period_is_repeated_bit_for_bit_on_another_clone(story, tmp_path):
    folder, _, kept = story
    other = clone(folder, tmp_path / "project")
    change(other / "project.yaml", versions={"remote": str(folder.parent / "remote")})
    done = command(other, "data", "pull", FIRST)
    assert done.returncode == 0, done.stderr
    done = command(other, "data", "restore", FIRST)
    assert done.returncode == 0 and "the next run uses snapshot" in done.stdout, done.stderr
    (other / "rows.csv").unlink()  # nothing reads it
    done = command(other, "run", "--period", FIRST)
    assert done.returncode == 0, done.stderr
    again = {key: sha256(product(other, *key)) for key in kept if key[0] == FIRST}
    assert again == {key: value for key, value in kept.items() if key[0] == FIRST}

    notebook = product(other, FIRST, "10_ingest.ipynb").read_text()
    digest = json.loads(product(other, FIRST, "snapshot.json").read_text())["digest"]
    assert f"snapshot {digest}, restored from the store" in notebook and f'restored = \\"{digest}\\"' in notebook
    store, subject = other / "store", f"small@{FIRST}"
    assert ledger.records(store, "restore", subject=subject)[-1]["payload"] == {"snapshot": digest}
    assert ledger.records(store, "snapshot", subject=subject)[-1]["payload"] == {"digest": digest, "restored": True}
    assert ledger.records(store, "run", subject=subject)[-1]["payload"]["parameters"]["restored"] == digest
    assert ledger.verify(store) is None


@slow
def test_restored_here_and_released_again(story):
    folder, _, kept = story
    changed = command(folder, "run", "--period", FIRST)
    assert changed.returncode == 0, changed.stderr
    assert sha256(product(folder, FIRST, "rows.parquet")) != kept[FIRST, "rows.parquet"]

    done = command(folder, "data", "restore", FIRST)  # the old snapshot is still in the store: no remote is asked
    assert done.returncode == 0, done.stderr
    why = command(folder, "why", "10_ingest", "--period", FIRST)
    assert 'parameter restored: "nothing" →' in why.stdout
    listed = json.loads(command(folder, "data", "list", "--remote", "--json").stdout)["snapshots"]
    here = [one for one in listed if one["period"] == FIRST]
    assert [(one["used"], one["pointer"], one["restored"], one["remote"]) for one in here] in (
        [(False, True, True, True), (True, False, False, False)],
        [(True, False, False, False), (False, True, True, True)],
    )
    done = command(folder, "run", "--period", FIRST)
    assert done.returncode == 0, done.stderr
    assert sha256(product(folder, FIRST, "training.parquet")) == kept[FIRST, "training.parquet"]

    assert command(folder, "data", "restore", FIRST, "--release").returncode == 0
    why = command(folder, "why", "10_ingest", "--period", FIRST)
    assert '→ "nothing"' in why.stdout and len(why.stdout.splitlines()) == 3  # this, and nothing else
    assert command(folder, "run", "--period", FIRST, "--only", "10_ingest").returncode == 0
    assert "taken from the sources" in product(folder, FIRST, "10_ingest.ipynb").read_text()
    assert sha256(product(folder, FIRST, "snapshot.json")) != kept[FIRST, "snapshot.json"]


@slow
def test_plain_dvc_reads_the_pointers(story, tmp_path):
    from dvc.repo import Repo

    folder, remote, kept = story
    shutil.copytree(folder / "data", tmp_path / "data")
    Repo.init(str(tmp_path), no_scm=True)
    settings = {
        "core": {"remote": "r", "site_cache_dir": str(tmp_path / "cache")},
        "remote": {"r": {"url": str(remote)}},
    }
    Repo(str(tmp_path), config=settings).pull(targets=[str(tmp_path / f"data/{FIRST}.dvc")])
    assert sha256(tmp_path / f"data/{FIRST}/snapshot.json") == kept[FIRST, "snapshot.json"]
    snapshot = Snapshot.model_validate_json((tmp_path / f"data/{FIRST}/snapshot.json").read_text())
    assert versions.damaged(snapshot, tmp_path / f"data/{FIRST}") == []


@slow
def test_a_project_that_knows_nothing_of_it_runs_as_before(tmp_path):
    folder = make_project(tmp_path / "project", kind="regression", rows=12, stages=1)
    for name, old, new in [
        ("pipeline.yaml", "    restored: '{{restored}}'\n", ""),
        ("env.yaml", "restored: auto\n", ""),
        ("notebooks/stages/10_ingest.ipynb", r"restored = \"auto\"  # type: str ", "# "),
        ("notebooks/stages/10_ingest.ipynb", "home, restored, period", r"home, \"nothing\", period"),
    ]:
        text = (folder / name).read_text()
        assert old in text, name
        (folder / name).write_text(text.replace(old, new))
    done = command(folder, "run")
    assert done.returncode == 0, done.stderr
    refused = command(folder, "data", "restore", "all")
    assert refused.returncode == 2 and "gives no stage the parameter `restored`" in refused.stderr


# ---------------------------------------------------------------- without runs: a store as the ingest stage leaves it


def add_period(folder, period, rows, *, seed=1, rest=()):
    """A snapshot of one more period: its own rows, and the pieces of the periods before."""
    store, noise = folder / "store", np.random.default_rng(seed)
    names = pa.array([f'„größe" {one}' for one in range(rows)])
    table = pa.table({'a "b" ü': noise.random(rows), "name": names, "_period": [period] * rows})
    pieces = [*rest, *write_pieces(table, store)]
    tables = {"things": Table(columns={'a "b" ü': "DOUBLE", "name": "VARCHAR"}, pieces=pieces)}
    digest = ledger.digest({"period": period, "tables": {name: one.model_dump() for name, one in tables.items()}})
    snapshot = Snapshot(period=period, as_of=None, digest=digest, tables=tables)
    write_json(snapshot, store / f"products/{period}/10_ingest/snapshot.json")
    versions.keep_manifest(snapshot, store)
    return snapshot


def small(folder, **settings):
    """A project with three months in its store, and no run."""
    make_project(folder, kind="binary", time="month", rows=12, stages=1, **settings)
    rest = []
    for number in (1, 2, 3):
        rest = add_period(folder, f"2024-0{number}", 4000, seed=number, rest=rest).tables["things"].pieces
    return folder


@pytest.fixture
def pair(tmp_path):
    """A project and its clone, with a remote between them; nothing is pushed yet."""
    (tmp_path / "remote").mkdir()
    folder = small(tmp_path / "one", versions={"remote": "../remote"})
    return folder, clone(folder, tmp_path / "two"), tmp_path / "remote"


def push(folder, *periods, **options):
    return remotes.push(load_project(folder), periods, store=folder / "store", **options)


def pull(folder, *periods):
    return remotes.pull(load_project(folder), periods, store=folder / "store")


def share_pointers(folder, other):
    shutil.copytree(folder / "data", other / "data", dirs_exist_ok=True)


def test_identical_content_is_stored_once(pair):
    folder, other, remote = pair
    before = {one.relative_to(folder) for one in folder.rglob("*") if "store" not in one.parts}
    store_before = sum(one.stat().st_size for one in (folder / "store").rglob("*.parquet"))
    done = push(folder)
    assert [one["uploaded"] for one in done] == [2, 2, 2]  # a month's own piece, and its manifest
    held = sum(one.stat().st_size for one in objects(remote) if one.stat().st_size > 10_000)
    assert held == sum(one.stat().st_size for one in (folder / "store/snapshots").rglob("*.parquet"))
    assert len(objects(remote)) == 3 * 3  # piece, manifest and list of files of each month
    assert sum(one.stat().st_size for one in (folder / "store").rglob("*.parquet")) == store_before
    assert not [one for one in (folder / "store/dvc").rglob("*") if one.is_file() and one.stat().st_size > 300_000]
    new = {one.relative_to(folder) for one in folder.rglob("*") if "store" not in one.parts} - before
    assert {str(one) for one in new} == {"data", *(f"data/2024-0{number}.dvc" for number in (1, 2, 3))}

    marks = {one: one.stat().st_mtime_ns for one in [*objects(remote), *(folder / "data").iterdir()]}
    assert [one["uploaded"] for one in push(folder)] == [0, 0, 0]
    assert {one: one.stat().st_mtime_ns for one in marks} == marks and len(objects(remote)) == 9

    share_pointers(folder, other)
    assert [one["downloaded"] for one in pull(other)] == [1, 1, 1]
    pieces = {one.name: sha256(one) for one in (other / "store/snapshots").rglob("*.parquet")}
    assert pieces == {f"{digest}.parquet": digest for digest in pieces.values()} and len(pieces) == 3
    assert pull(other)[0]["downloaded"] == 0


def test_a_damaged_local_piece_is_fetched_again_and_never_pushed(pair):
    folder, other, remote = pair
    push(folder)
    share_pointers(folder, other)
    pull(other)
    piece = next((other / "store/snapshots").rglob("*.parquet"))
    os.truncate(piece, 500)
    (remote / "copy").mkdir()
    change(other / "project.yaml", versions={"remote": str(remote / "copy")})
    for period in (FIRST, SECOND, "2024-03"):
        manifest = versions.manifest_file(other / "store", versions.read_pointers(other)[period].snapshot)
        target = other / f"store/products/{period}/10_ingest/snapshot.json"
        target.parent.mkdir(parents=True)
        shutil.copy(manifest, target)
    with pytest.raises(remotes.RemoteError, match="missing or damaged in this store"):
        push(other, "2024-03")
    change(other / "project.yaml", versions={"remote": str(remote)})
    with pytest.raises(InputError, match="missing or damaged in this store"):
        project = load_project(other)
        versions.restore(project, "2024-03", versions.read_pointers(other)["2024-03"].snapshot, store=other / "store")
    assert sum(one["downloaded"] for one in pull(other)) == 1
    assert piece.stem == sha256(piece)


@pytest.mark.parametrize("harm", ["truncated", "flipped", "gone", "list truncated", "list gone", "manifest of another"])
def test_a_damaged_remote_is_an_error_and_leaves_nothing_half_written(pair, harm):
    folder, other, remote = pair
    push(folder)
    share_pointers(folder, other)
    lists = [one for one in objects(remote) if one.name.endswith(".dir")]
    if "list" in harm:
        listed = versions.read_pointers(folder)["2024-03"].md5
        victim = next(one for one in lists if one.parent.name + one.name == listed)
    else:
        by_size = sorted((one for one in objects(remote) if one not in lists), key=lambda one: one.stat().st_size)
        victim = by_size[0 if "manifest" in harm else -1]
    content = victim.read_bytes()
    victim.chmod(0o644)
    if "gone" in harm:
        victim.unlink()
    elif "truncated" in harm:
        victim.write_bytes(content[: len(content) // 2])
    elif harm == "flipped":
        victim.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    else:
        victim.write_bytes(by_size[1].read_bytes())
    if victim.exists():
        victim.chmod(0o444)  # as DVC leaves it
    with pytest.raises(remotes.RemoteError, match="is not there" if "gone" in harm else "is damaged") as caught:
        pull(other)
    assert "--again" in str(caught.value) and "\n" not in str(caught.value)
    pieces = list((other / "store/snapshots").rglob("*")) if (other / "store/snapshots").exists() else []
    assert all(sha256(one) == one.stem for one in pieces if one.is_file())
    for manifest in (other / "store").glob("manifests/*.json"):
        assert versions.damaged(versions.read_manifest(manifest.read_bytes(), name=""), other / "store") == []
    assert not list((other / "store/dvc/incoming").iterdir())

    push(folder, again=True)
    assert len(pull(other)) == 3


def test_a_manifest_cannot_write_elsewhere(pair):
    """A pointer from a stranger, to a list and a manifest that fit each other."""
    folder, other, _ = pair
    text = (folder / "store/products/2024-01/10_ingest/snapshot.json").read_text()
    evil = text.replace('"snapshots/', '"../../snapshots/')
    (folder / "store/products/2024-01/10_ingest/snapshot.json").write_text(evil)
    with pytest.raises(InputError, match="allowed: snapshots/ab/<SHA-256>.parquet"):
        push(folder, "2024-01")
    (folder / "data").mkdir()
    pointer = {"outs": [{"md5": "../../x", "size": 1, "nfiles": 1, "hash": "md5", "path": FIRST}]}
    facts = {"format": 1, "period": FIRST, "snapshot": "ab", "manifest": "ab", "rows": {}}
    (folder / f"data/{FIRST}.dvc").write_text(yaml.safe_dump(pointer | {"meta": {"nbops": facts}}))
    with pytest.raises(InputError, match="no complete pointer"):
        pull(folder)


# ---------------------------------------------------------------- killed in the middle

PACE = """
import shutil, sys, time
import dvc_objects.fs.local as local
def slowly(source, target, *args, **more):
    half = open(source, "rb").read()
    open(target, "wb").write(half[:len(half) // 2])
    print("half a file", flush=True)
    time.sleep(0.15)
    shutil.copyfile(source, target)
local.copyfile = slowly
from nbops.cli import main
main(sys.argv[1:])
"""


@slow
def test_killed_push_and_pull_go_on_with_the_same_command(pair):
    folder, other, remote = pair
    kills = 0
    for where, what in ((folder, "push"), (other, "pull")):
        for after in (1, 3):
            process = subprocess.Popen(
                [sys.executable, "-c", PACE, "data", what],
                cwd=where,
                env=environment(),
                text=True,
                stdout=subprocess.PIPE,
            )
            for _ in range(after):
                assert process.stdout.readline() == "half a file\n"
            process.send_signal(signal.SIGKILL)
            kills += process.wait(20) == -signal.SIGKILL
            process.stdout.close()
            for one in objects(remote):  # what has a name is whole
                if not one.name.endswith(".dir"):
                    md5 = hashlib.md5(one.read_bytes()).hexdigest()
                    assert one.parent.name + one.name == md5
            for one in (where / "store/snapshots").rglob("*.parquet"):
                assert sha256(one) == one.stem
        done = command(where, "data", what)
        assert done.returncode == 0, done.stderr
        share_pointers(folder, other)
    assert kills == 4
    assert len(objects(remote)) == 9 and all(
        one.local for one in versions.versions(load_project(other), store=other / "store")
    )


def test_two_at_once_wait_for_each_other(pair):
    folder, other, remote = pair
    script = [Path(sys.executable).with_name("nbops"), "data", "push"]
    both = [subprocess.Popen(script, cwd=folder, env=environment(), stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [one.wait(60) for one in both] == [0, 0]
    share_pointers(folder, other)
    assert len(objects(remote)) == 9 and [one["downloaded"] for one in pull(other)] == [1, 1, 1]


# ---------------------------------------------------------------- another kind of remote


class Shelf(http.server.BaseHTTPRequestHandler):
    """Keeps what is PUT, gives it back; asks for a password."""

    def __init__(self, *args, shelf, **more):
        self.shelf = shelf
        super().__init__(*args, **more)

    def answer(self, code, body=b""):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self):
        size = self.headers.get("Content-Length")
        body = self.rfile.read(int(size)) if size else b"".join(self.chunks())
        if self.headers.get("X-Key") != "a-long-password":
            return self.answer(403)
        self.shelf[self.path] = body
        self.answer(201)

    def chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def do_GET(self):
        allowed = self.headers.get("X-Key") == "a-long-password"
        self.answer(200, self.shelf[self.path]) if allowed and self.path in self.shelf else self.answer(404)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def shelf():
    held = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Shelf, shelf=held))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/data", held
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_remote_behind_http_with_a_password(shelf, tmp_path, monkeypatch, capfd):
    url, held = shelf
    options = {"method": "PUT", "auth": "custom", "custom_auth_header": "X-Key", "password": "env:SHELF_KEY"}
    folder = small(tmp_path / "one", versions={"remote": url, "options": options})
    other = clone(folder, tmp_path / "two")
    monkeypatch.setenv("SHELF_KEY", "a-long-password")
    assert [one["uploaded"] for one in push(folder)] == [2, 2, 2] and len(held) == 9
    share_pointers(folder, other)
    assert [one["downloaded"] for one in pull(other)] == [1, 1, 1]
    assert [one["uploaded"] for one in push(folder)] == [0, 0, 0]
    texts = [one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()]
    assert not [one for one in texts if b"a-long-password" in one]

    name = max(held, key=lambda one: len(held[one]))
    held[name] = held[name][:-10]
    shutil.rmtree(other / "store")
    with pytest.raises(remotes.RemoteError, match="is damaged"):
        pull(other)
    monkeypatch.setenv("SHELF_KEY", "a-wrong-password")
    with pytest.raises(remotes.RemoteError) as caught:
        push(folder, again=True)
    assert "a-wrong-password" not in str(caught.value) + "".join(capfd.readouterr())


# ---------------------------------------------------------------- what a person can get wrong


@pytest.mark.parametrize(
    ("words", "settings", "code", "says"),
    [
        (["push"], None, 2, "versions: {remote:"),
        (["pull"], None, 2, "no remote is configured"),
        (["push"], {"remote": "../nowhere"}, 2, "is not there. Mount it, or make it: mkdir -p"),
        (["push", "2024-1"], {"remote": "."}, 2, "did you mean"),
        (["pull", "2031-05"], {"remote": "."}, 2, "none of that name has a pointer"),
        (["restore", "2031-05"], {"remote": "."}, 2, "no snapshot of period '2031-05'"),
        (["restore", "May"], {"remote": "."}, 2, "May"),
        (["restore", FIRST, "--snapshot", "zz"], {"remote": "."}, 2, "0 snapshots begin with 'zz'"),
        (["restore", FIRST, "--snapshot", "ab", "--release"], {"remote": "."}, 2, "Give one of them"),
        (["push"], {"remote": "http://127.0.0.1:9/x"}, 1, "did not take"),
        (["push"], {"remote": "s3://bucket/x"}, 2, "pip install dvc-s3"),
        (["push"], {"remote": "gopher://x"}, 2, "Unsupported URL type"),
        (["push"], {"remote": ".", "options": {"pasword": "env:HOME"}}, 2, "versions.options.pasword"),
        (["push"], {"remote": ".", "options": {"password": "hunter2"}}, 2, "env:NAME or file:PATH"),
        (["push"], {"remote": "https://me:hunter2@host/x"}, 2, "holds a password"),
        (["push"], {"remot": "."}, 2, 'did you mean "remote"'),
    ],
)
def test_bad_input_is_one_message(tmp_path, words, settings, code, says, monkeypatch):
    from click.testing import CliRunner

    from nbops.cli import main

    folder = small(tmp_path / "project", **({"versions": settings} if settings else {}))
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(main, ["data", *words])
    assert done.exit_code == code and says in done.output, done.output
    assert "hunter2" not in done.output and "Traceback" not in done.output
    assert not (folder / "data").exists()


def test_other_peoples_dvc_files_are_left_alone(pair):
    folder, _, _ = pair
    (folder / "data").mkdir()
    (folder / "data/photos.dvc").write_text("outs:\n- md5: 0123\n  path: photos\n")
    (folder / f"data/{SECOND}.dvc").write_text("outs:\n- md5: 0123\n  path: 2024-02\n")
    assert versions.read_pointers(folder) == {}
    with pytest.raises(InputError, match="was not written by nbops"):
        push(folder, SECOND)
    assert "0123" in (folder / f"data/{SECOND}.dvc").read_text()


def test_a_stored_snapshot_must_fit(pair):
    folder, _, _ = pair
    project, store = load_project(folder), folder / "store"
    digest = versions.choose_snapshot(project, FIRST, store=store)
    versions.restore(project, FIRST, digest, store=store)
    change(
        folder / "project.yaml", sources={"things": {"path": "rows.csv", "time": "when"}, "more": {"path": "more.csv"}}
    )
    with pytest.raises(InputError, match="it has no table 'more'"):
        versions.read_restored(load_project(folder), store, "auto", period=FIRST)
    assert versions.restored_digest(project, store, SECOND) is None


def test_a_manifest_that_was_edited_is_not_used(pair):
    folder, _, _ = pair
    project, store = load_project(folder), folder / "store"
    digest = versions.choose_snapshot(project, SECOND, store=store)
    file = versions.manifest_file(store, digest)
    manifest = json.loads(file.read_text())
    manifest["tables"]["things"]["pieces"].pop(0)  # every piece that is left is whole
    file.write_text(json.dumps(manifest))
    for use in (lambda: versions.restore(project, SECOND, digest, store=store), lambda: push(folder, SECOND)):
        with pytest.raises(InputError, match="was changed after it was written"):
            use()


def test_an_older_store_without_manifests(pair):
    folder, _, _ = pair
    shutil.rmtree(folder / "store/manifests")
    project, store = load_project(folder), folder / "store"
    assert [one.local for one in versions.versions(project, store=store)] == [True] * 3
    versions.restore(project, FIRST, versions.choose_snapshot(project, FIRST, store=store), store=store)
    assert versions.read_restored(project, store, "auto", period=FIRST).period == FIRST


def test_listing_needs_neither_dvc_nor_a_remote(pair, monkeypatch):
    folder, _, _ = pair
    code = "import sys; from nbops.cli import main; main(['data', 'list'], standalone_mode=False); print('dvc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "False" and lines[-2] == "3 snapshots, 3 here, 0 pushed", done.stderr
    assert "4,000" in lines[0] and "12,000" in lines[2]
