"""Checkpoints find what a chain cannot show; `nbops audit` says so with the right exit code; every run leaves its record."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from nbops import checkpoints, cli, engine, ledger, signing
from nbops.base import InputError
from nbops.config import load_project
from small_project import make_project


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("NBOPS_LEDGER", "NBOPS_ACTOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def keys(tmp_path):
    """Two signers: name -> (reference, public key)."""
    files = {name: tmp_path / f"{name}.key" for name in ("ada", "eve")}
    return {name: (f"file:{file}", signing.make_key(file)) for name, file in files.items()}


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    with ledger.appending(folder) as add:
        for number in range(1, 11):
            add("alert", subject="flights", payload={"n": number})
    return folder


def forge(store, change):
    """Rewrites the whole ledger as somebody can who owns the file: triggers away, all hashes made anew."""
    with contextlib.closing(sqlite3.connect(store / "nbops.db", isolation_level=None)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        rows = [list(row[1:6]) for row in connection.execute("SELECT * FROM ledger ORDER BY seq")]
        change(rows)
        connection.execute("DELETE FROM ledger")
        last = ""
        for seq, row in enumerate(rows, start=1):
            last, before = ledger.chain_hash(last, seq, *row), last
            connection.execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (seq, *row, before, last))


# ---------------------------------------------------------------- keys


def test_private_keys_are_for_their_owner_and_never_shown(tmp_path, keys):
    file = tmp_path / "ada.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = file.read_text().splitlines()[1]
    for key in (file.read_text(), secret):  # given by value
        with pytest.raises(InputError, match="by reference") as error:
            signing.sign(b"", key=key)
        assert secret not in str(error.value)
    (tmp_path / "half.key").write_text(file.read_text()[:60])
    with pytest.raises(InputError, match="no private key") as error:
        signing.sign(b"", key=f"file:{tmp_path}/half.key")
    assert secret[:20] not in str(error.value)
    with pytest.raises(InputError, match="there already"):
        signing.make_key(file)


def test_other_kinds_of_keys_are_refused_by_name(tmp_path):
    openssl = shutil.which("openssl") or pytest.skip("no openssl here")
    for words, said in {
        ("RSA",): "kind RSA",
        ("EC", "-pkeyopt", "ec_paramgen_curve:P-256"): "kind EC",
        ("ed25519", "-aes256", "-pass", "pass:hello"): "locked with a passphrase",
    }.items():
        file = tmp_path / f"{words[0]}.pem"
        subprocess.run([openssl, "genpkey", "-algorithm", *words, "-out", file], check=True, capture_output=True)
        with pytest.raises(InputError, match=said):
            signing.public_key(f"file:{file}")
    file = tmp_path / "good.pem"
    subprocess.run([openssl, "genpkey", "-algorithm", "ed25519", "-out", file], check=True, capture_output=True)
    assert signing.is_signed(b"a", signing.sign(b"a", key=f"file:{file}"), by=signing.public_key(f"file:{file}"))


def test_a_key_may_come_from_a_variable_with_escaped_line_ends(tmp_path, keys, monkeypatch):
    monkeypatch.setenv("LEDGER_KEY", (tmp_path / "ada.key").read_text().replace("\n", "\\n"))
    assert signing.public_key("env:LEDGER_KEY") == keys["ada"][1]


# ---------------------------------------------------------------- what a chain cannot show


def test_an_end_that_was_cut_off_is_found(tmp_path, store, keys):
    checkpoints.make_checkpoint(store, key=keys["ada"][0], copies=[tmp_path / "copy.jsonl"])
    forge(store, lambda rows: rows.__delitem__(slice(7, None)))
    assert ledger.verify(store) is None, "the chain alone is whole"
    found = checkpoints.verify_ledger(store)
    assert found.tampering.seq == 8 and "is missing" in str(found.tampering) and found.signed == 0
    assert checkpoints.verify_since(store) == found.tampering
    (store / checkpoints.FILE).unlink()  # the forger removes that as well
    assert checkpoints.verify_ledger(store).tampering is None
    assert checkpoints.verify_ledger(store, files=[tmp_path / "copy.jsonl"]).tampering.seq == 8
    shutil.rmtree(store)
    assert checkpoints.verify_ledger(store, files=[tmp_path / "copy.jsonl"]).tampering.seq == 1
    assert not store.exists()


def test_a_chain_that_was_made_anew_is_found(store, keys):
    checkpoints.make_checkpoint(store, key=keys["ada"][0])
    ledger.record(store, "alert", subject="flights", payload={"n": 99})
    checkpoints.make_checkpoint(store, key=keys["ada"][0])
    forge(store, lambda rows: rows[11].__setitem__(4, '{"n":0}'))  # record 12, between the two
    assert ledger.verify(store) is None
    found = checkpoints.verify_ledger(store).tampering
    assert found.seq == 11 and "or one after it, up to 12" in found.reason and "rewritten" in found.reason
    assert checkpoints.verify_since(store) is not None


def test_a_forger_who_signs_anew_is_no_trusted_signer(store, keys):
    checkpoints.make_checkpoint(store, key=keys["ada"][0])
    forge(store, lambda rows: (rows[2].__setitem__(1, "eve"), rows.pop()))
    (store / checkpoints.FILE).unlink()
    checkpoints.make_checkpoint(store, key=keys["eve"][0])
    found = checkpoints.verify_ledger(store, keys=[keys["ada"][1]])
    assert found.signed == 0 and found.signers == () and any("not among the trusted" in note for note in found.notes)
    assert checkpoints.verify_ledger(store).signers == (keys["eve"][1],)


def test_a_changed_checkpoint_counts_for_nothing_and_is_told(store, keys):
    checkpoints.make_checkpoint(store, key=keys["ada"][0])
    file = store / checkpoints.FILE
    for number, line in enumerate([file.read_text().replace('"seq":10', '"seq":7'), '{"seq": 1', '[]\n"x"']):
        file.write_text(line)
        forge(store, lambda rows: None)
        found = checkpoints.verify_ledger(store)
        assert found.tampering is None and "proves nothing" in " ".join(found.notes), number
    assert found.signed == 10, "the one in the ledger still counts"


def test_nothing_is_signed_over_a_broken_chain(store, keys):
    forge(store, lambda rows: None)
    with contextlib.closing(sqlite3.connect(store / "nbops.db")) as connection, connection:
        connection.execute("UPDATE ledger SET actor = 'eve' WHERE seq = 3")
    with pytest.raises(RuntimeError, match="nothing was signed: record 3 was edited"):
        checkpoints.make_checkpoint(store, key=keys["ada"][0])
    assert not (store / checkpoints.FILE).exists()


def test_the_quick_way_proves_the_records_that_are_needed(store, keys):
    checkpoints.make_checkpoint(store, key=keys["ada"][0])
    ledger.record(store, "alert", subject="flights", payload={})
    forge(store, lambda rows: None)
    with contextlib.closing(sqlite3.connect(store / "nbops.db")) as connection, connection:
        connection.execute("UPDATE ledger SET payload = '{}' WHERE seq = 4")
    assert checkpoints.verify_since(store) is None, "before the checkpoint, and nobody needs it"
    assert checkpoints.verify_since(store, needed=[7]) is None
    assert checkpoints.verify_since(store, needed=[7, 4]).seq == 4
    with contextlib.closing(sqlite3.connect(store / "nbops.db")) as connection, connection:
        connection.execute("UPDATE ledger SET payload = '{\"n\":1}' WHERE seq = 12")
    assert checkpoints.verify_since(store).seq == 12


def test_checkpoints_of_a_ledger_on_a_server(postgres, store, keys, monkeypatch):
    import sqlalchemy

    server = sqlalchemy.create_engine(postgres)
    with server.begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE IF EXISTS ledger"))
    monkeypatch.setenv("NBOPS_LEDGER", postgres)
    for number in range(5):
        ledger.record(store, "alert", subject="flights", payload={"n": number})
    checkpoints.make_checkpoint(store, key=keys["ada"][0])
    assert checkpoints.verify_ledger(store, keys=[keys["ada"][1]]).signed == 5
    with server.begin() as connection:
        connection.execute(sqlalchemy.text("ALTER TABLE ledger DISABLE TRIGGER USER"))
        connection.execute(sqlalchemy.text("DELETE FROM ledger WHERE seq > 3"))
    found = checkpoints.verify_ledger(store)
    assert found.tampering.seq == 4 and "dropped triggers" in found.notes[0]
    server.dispose()


# ---------------------------------------------------------------- the commands


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("audit") / "template", kind="binary", time="month", rows=60, stages=1)


@pytest.fixture
def project(template, tmp_path):
    return Path(shutil.copytree(template, tmp_path / "project"))


def call(folder, *words):
    """Exit code and output of a command; a machine's result for --json."""
    with contextlib.chdir(folder):
        done = CliRunner().invoke(cli.main, [*words])
    assert isinstance(done.exception, SystemExit | None), repr(done.exception)
    return done.exit_code, json.loads(done.stdout.splitlines()[0]) if "--json" in words else done.output


def test_the_commands_one_after_the_other(project, tmp_path, monkeypatch):
    monkeypatch.setenv("NBOPS_ACTOR", "Zoë")
    assert call(project, "audit", "verify")[1].strip() == "the ledger has no records"
    code, key = call(project, "audit", "keygen", str(tmp_path / "k.key"), "--json")
    assert code == 0 and key["public_key"].startswith("ed25519:")
    for number in range(3):
        ledger.record(
            project / "store", "promotion", subject=f"small@2024-0{number + 1}", payload={"digest": f"{number}" * 64}
        )
    ledger.record(project / "store", "alert", subject="small@2024-03", payload={"of": "v2:" + "1" * 12, "psi": 0.4})
    code, said = call(project, "audit", "checkpoint", "--key", f"file:{tmp_path}/k.key", "--to", str(tmp_path / "copy"))
    assert code == 0 and "record 4 and all before it are signed" in said
    code, said = call(project, "audit", "verify", "--key", key["public_key"], "--checkpoints", str(tmp_path / "copy"))
    assert code == 0 and "5 records intact; signed up to record 4" in said and "nobody vouches" not in said
    assert [
        one["seq"] for one in call(project, "audit", "list", "--subject", "small@*-03", "--json")[1]["records"]
    ] == [3, 4]
    assert [one["seq"] for one in call(project, "audit", "list", "--digest", "11111", "--json")[1]["records"]] == [2, 4]
    assert [one["seq"] for one in call(project, "audit", "list", "--last", "2", "--json")[1]["records"]] == [4, 5]
    assert (
        "Zoë" in call(project, "audit", "list")[1]
        and "no such record" in call(project, "audit", "list", "--actor", "x")[1]
    )
    assert '"psi": 0.4' in call(project, "audit", "show", "4")[1]
    code, said = call(project, "audit", "export", str(tmp_path / "out.jsonl"), "--kind", "promotion")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert code == 0 and "3 records" in said and lines == ledger.records(project / "store", "promotion")
    forge(project / "store", lambda rows: rows.__delitem__(slice(2, None)))
    code, found = call(project, "audit", "verify", "--json")
    assert code == 1 and found["intact"] is False and found["tampering"]["seq"] == 3
    code, said = call(project, "audit", "verify")
    assert code == 1 and "TAMPERED: record 3 is missing" in said and "dropped triggers" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["verify", "--key", "bob"], "ed25519: and 44 letters"),
        (["verify", "--checkpoints", "nowhere"], "nowhere cannot be read"),
        (["checkpoint"], "nbops audit keygen FILE"),
        (["checkpoint", "--key", "hunter2"], "by reference"),
        (["keygen", "store/a.key"], "is in the store"),
        (["show", "12"], "there is no record 12"),
        (["list", "--since", "soon"], "--since is 'soon'"),
        (["list", "--digest", "XYZ"], "hexadecimal"),
    ],
)
def test_bad_input_is_one_message(project, words, said):
    code, output = call(project, "audit", *words)
    assert code == 2 and said in output and "hunter2" not in output and "Traceback" not in output


def test_a_damaged_database_is_one_message(project):
    ledger.record(project / "store", "alert", subject="small", payload={})
    (project / "store/nbops.db").write_bytes(b"no database at all" * 1000)
    code, output = call(project, "audit", "verify")
    assert code == 1 and "nbops.db cannot be used" in output and "Restore it from a copy" in output


@pytest.mark.parametrize("content", ["'{'", "'[]'", "7", "CAST(x'ff61' AS TEXT)", "x'00'"])
def test_a_payload_that_is_no_json_any_more_is_named_and_no_traceback(project, keys, content):
    for kind in ("version", "report"):
        ledger.record(project / "store", kind, subject="small@2024-01", payload={"period": "2024-01"})
    checkpoints.make_checkpoint(project / "store", key=keys["ada"][0])
    with contextlib.closing(sqlite3.connect(project / "store/nbops.db")) as connection, connection:
        connection.execute("DROP TRIGGER ledger_update")
        connection.execute(f"UPDATE ledger SET payload = {content} WHERE seq > 1")
    code, output = call(project, "audit", "verify")
    assert code == 1 and "TAMPERED: record 2 was edited" in output and "record 3 is no checkpoint" in output
    assert call(project, "audit", "list")[0] == 0 and call(project, "audit", "show", "3")[0] == 0
    code, output = call(project, "status")
    assert code == 1 and "record 2 of the ledger cannot be read" in output and "nbops audit verify" in output


# ---------------------------------------------------------------- every run


def kinds(project):
    return [one["kind"] for one in ledger.records(project / "store") if one["kind"] in ("start", "run", "checkpoint")]


@pytest.mark.slow
def test_every_run_is_a_record_and_nothing_to_do_is_none(project, keys):
    settings = yaml.safe_load((project / "project.yaml").read_text())
    settings["audit"] = {"signing_key": keys["ada"][0], "trusted_keys": [keys["ada"][1]]}
    (project / "project.yaml").write_text(yaml.safe_dump(settings))
    code, _ = call(project, "run", "--period", "2024-01")
    assert code == 0 and kinds(project) == ["start", "run", "checkpoint"]
    one = ledger.records(project / "store", "run")[-1]["payload"]
    assert (one["outcome"], one["exit_code"], one["start"]) == ("done", 0, 1) and one["started"] < one["ended"]
    call(project, "run", "--period", "2024-01")
    assert kinds(project) == ["start", "run", "checkpoint"]
    assert "nobody vouches" not in call(project, "audit", "verify")[1]
    kept = project / "kept.jsonl"
    shutil.copytree(project / "store", project / "whole")
    (project / "store" / checkpoints.FILE).rename(kept)
    forge(project / "store", lambda rows: rows.pop())
    code, said = call(project, "audit", "verify")
    assert code == 1 and "NOT PROVEN" in said
    assert call(project, "audit", "verify", "--checkpoints", str(kept))[0] == 0
    shutil.rmtree(project / "store")
    (project / "whole").rename(project / "store")

    Path(project / "contract.yaml").rename(project / "kept.yaml")  # refused before it begins: nothing happened
    assert call(project, "run", "--period", "2024-01", "--force")[0] == 2 and len(kinds(project)) == 3
    (project / "kept.yaml").rename(project / "contract.yaml")

    stage = project / "notebooks/stages/10_ingest.ipynb"
    good = stage.read_text()
    notebook = json.loads(good)
    notebook["cells"][-1]["source"] = ["raise ValueError('hunter2')"]
    stage.write_text(json.dumps(notebook))
    assert call(project, "run", "--period", "2024-01")[0] == 1
    one = ledger.records(project / "store", "run")[-1]["payload"]
    assert (one["outcome"], one["exit_code"], one["failed"]) == ("failed", 1, ["10_ingest"]) and "hunter2" not in str(
        one
    )
    stage.write_text(good)

    (tmp := Path(keys["ada"][0].removeprefix("file:"))).unlink()
    code, said = call(project, "run", "--period", "2024-01", "--force")
    assert code == 0 and "no new checkpoint" in said and str(tmp) in said
    assert kinds(project)[-1] == "run" and ledger.verify(project / "store") is None


@pytest.mark.slow
@pytest.mark.parametrize(("how", "outcome"), [(signal.SIGINT, "interrupted"), (signal.SIGKILL, None)])
def test_a_run_that_was_stopped_leaves_its_beginning(project, how, outcome):
    stage = project / "notebooks/stages/10_ingest.ipynb"
    notebook = json.loads(stage.read_text())
    notebook["cells"][-1]["source"] = ["import time\n", "time.sleep(60)"]
    stage.write_text(json.dumps(notebook))
    code = "from nbops.cli import main; main(['run', '--period', '2024-01'])"
    with subprocess.Popen([sys.executable, "-c", code], cwd=project, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 60
        while not ledger.records(project / "store", "start") and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(0.5)
        os.kill(process.pid, how)
        process.wait(60)
    runs = ledger.records(project / "store", "run")
    assert [one["payload"]["outcome"] for one in runs] == ([outcome] if outcome else [])
    assert kinds(project)[0] == "start" and ledger.verify(project / "store") is None


@pytest.mark.slow
def test_a_run_writes_to_the_server(project, postgres, monkeypatch):
    import sqlalchemy

    server = sqlalchemy.create_engine(postgres)
    with server.begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE IF EXISTS ledger"))
    monkeypatch.setenv("LEDGER_URL", postgres)
    monkeypatch.setenv("NBOPS_LEDGER", "env:LEDGER_URL")
    result = engine.run_period(load_project(project), "2024-01")
    assert result.ran == 1 and {one["kind"] for one in ledger.records(project / "store")} >= {
        "start",
        "snapshot",
        "run",
    }
    assert ledger.verify(project / "store") is None and not (project / "store/nbops.db").exists()
    server.dispose()
