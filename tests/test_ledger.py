"""The ledger: nobody can change history without being named, writers never fork it, and what goes wrong is one message."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbops import ledger
from nbops.base import InputError

FIELDS = ("time", "actor", "kind", "subject", "payload", "prev_hash", "hash")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("NBOPS_LEDGER", "NBOPS_ACTOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fast():
    """A folder in memory where there is one: these tests count records, and wait for no disk."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def server(postgres, monkeypatch):
    """URL of the server, with no ledger on it, as NBOPS_LEDGER."""
    engine = sqlalchemy.create_engine(postgres)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE IF EXISTS ledger"))
    monkeypatch.setenv("NBOPS_LEDGER", postgres)
    yield engine
    engine.dispose()


def fill(store, count):
    with ledger.appending(store) as add:
        for number in range(1, count + 1):
            payload = {"n": number, "digest": f"{number:064x}"}
            add(f"kind{number % 3}", subject=f'größe "{number}"', payload=payload, actor="ada")


@contextlib.contextmanager
def unguarded(store):
    """The database as somebody opens it who has no respect for triggers."""
    with contextlib.closing(sqlite3.connect(store / "nbops.db", isolation_level=None)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        yield connection


def rows_of(store):
    with unguarded(store) as connection:
        return [list(row) for row in connection.execute("SELECT * FROM ledger ORDER BY seq")]


def put(store, rows):
    """Makes the table hold exactly these rows."""
    with unguarded(store) as connection:
        connection.execute("BEGIN")
        connection.execute("DELETE FROM ledger")
        connection.executemany("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("COMMIT")


def rehash(row):
    row[7] = ledger.chain_hash(row[6], *row[:6])


def renumber(rows):
    for number, row in enumerate(rows, start=1):
        row[0] = number


# ---------------------------------------------------------------- what is written


def test_a_record_can_be_checked_with_sha256sum(tmp_path):
    ledger.record(tmp_path, "approval", subject="flights", payload={"wer": "Zoë", "a\n": 1}, actor="ada")
    ledger.record(tmp_path, "approval", subject="flights", payload={})
    before = ""
    for _, row in enumerate(rows_of(tmp_path)):
        text = "\n".join([before, *map(str, row[:6])])
        found = subprocess.run(["sha256sum"], input=text.encode(), capture_output=True, check=True).stdout.decode()
        assert found.split()[0] == row[7] and row[6] == before
        before = row[7]


def test_the_actor_is_said_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("NBOPS_ACTOR", "Ada <ada@example.org>")
    ledger.record(tmp_path, "run", subject="a", payload={})
    ledger.record(tmp_path, "run", subject="a", payload={}, actor="bob")
    monkeypatch.delenv("NBOPS_ACTOR")
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(KeyError("no such user")))
    ledger.record(tmp_path, "run", subject="a", payload={})
    assert [one["actor"] for one in ledger.records(tmp_path)] == ["Ada <ada@example.org>", "bob", f"uid {os.getuid()}"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": ""}, "the kind of a ledger record is ''"),
        ({"subject": "a\nb"}, "allowed: a text on one line"),
        ({"actor": "ada\x00"}, "the actor"),
        ({"subject": "\ud800"}, "the subject"),
        ({"payload": {"x": float("inf")}}, "no JSON"),
        ({"payload": {"x": Path("a")}}, "no JSON"),
        ({"payload": {"x": "\ud800"}}, "no JSON"),
        ({"payload": {1: 2, "a": 3}}, "no JSON"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_nothing_is_written(tmp_path, wrong, said):
    with pytest.raises(InputError, match=said):
        ledger.record(tmp_path, **{"kind": "k", "subject": "s", "payload": {}} | wrong)
    assert ledger.records(tmp_path) == [] and ledger.record(tmp_path, "k", subject="s", payload={}) == 1


def test_filters(tmp_path):
    fill(tmp_path, 9)
    rows = rows_of(tmp_path)
    for number, row in enumerate(rows, start=1):
        row[1] = f"2024-0{number}-15T00:00:00.000+00:00"
    put(tmp_path, rows)
    assert [one["seq"] for one in ledger.scan(tmp_path, since="2024-03", until="2024-05-15")] == [3, 4]
    assert [one["seq"] for one in ledger.scan(tmp_path, "kind0", newest=True, first=4)] == [9, 6]
    assert [one["seq"] for one in ledger.scan(tmp_path, subject='größe "5"')] == [5]
    assert list(ledger.scan(tmp_path, actor="bob")) == [] == list(ledger.scan(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_read_only_copy_can_be_verified(small_disk):
    disk, _ = small_disk
    fill(disk / "store", 5)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert ledger.verify(disk / "store") is None and len(ledger.records(disk / "store")) == 5


# ---------------------------------------------------------------- tampering


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET payload = '{}' WHERE seq = 2",
        "DELETE FROM ledger WHERE seq = 3",
        "DELETE FROM ledger",
        "INSERT OR REPLACE INTO ledger SELECT seq, time, 'eve', kind, subject, payload, prev_hash, hash FROM ledger WHERE seq = 2",
        "INSERT INTO ledger SELECT 9, time, actor, kind, subject, payload, prev_hash, hash FROM ledger WHERE seq = 2",
        "INSERT INTO ledger SELECT 4, time, actor, kind, subject, payload, prev_hash, hash FROM ledger WHERE seq = 2",
    ],
)
def test_triggers_refuse_to_rewrite_history(tmp_path, statement):
    fill(tmp_path, 3)
    with ledger.connect(tmp_path) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    assert ledger.verify(tmp_path) is None and len(ledger.records(tmp_path)) == 3


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    store = tmp_path_factory.mktemp("chain")
    fill(store, 12)
    return rows_of(store)


def shift(rows, at, change):
    """Applies a change of the list and renumbers."""
    change(rows, at)
    renumber(rows)


def insert(rows, at):
    """A record put in between that follows the one before it, as a careful forger makes it."""
    made = [at + 1, rows[at][1], "eve", "approval", "flights", "{}", rows[at - 1][7] if at else "", ""]
    rehash(made)
    rows.insert(at, made)


CASES = {
    "edited": lambda rows: rows[4].__setitem__(5, '{"n":99}'),
    "another actor": lambda rows: rows[4].__setitem__(2, "eve"),
    "a field moved into the next": lambda rows: rows[4].__setitem__(slice(2, 4), ["ad", "akind2"]),
    "rewritten with its hash": lambda rows: (rows[4].__setitem__(2, "eve"), rehash(rows[4])),
    "removed": lambda rows: rows.pop(4),
    "removed and renumbered": lambda rows: shift(rows, 4, list.pop),
    "renumbered": lambda rows: [row.__setitem__(0, row[0] + 10) for row in rows[4:]],
    "swapped": lambda rows: (rows.__setitem__(slice(4, 6), rows[5:3:-1]), renumber(rows)),
    "inserted": lambda rows: shift(rows, 4, insert),
    "a copy inserted": lambda rows: shift(rows, 4, lambda rows, at: rows.insert(at, [*rows[1]])),
    "no text": lambda rows: rows[4].__setitem__(2, b"eve"),
    "text that is none": lambda rows: rows[4].__setitem__(1, 7),
}


@pytest.mark.parametrize("name", CASES)
def test_each_kind_of_tampering_is_named(tmp_path, chain, name):
    fill(tmp_path, 1)
    rows = [[*row] for row in chain]
    CASES[name](rows)
    put(tmp_path, rows)
    found = ledger.find_tampering(tmp_path)
    assert found and found.seq == 5, found
    words = {"rewritten with its hash": "rewritten", "removed": "missing", "renumbered": "renumbered", "swapped": "moved",
             "inserted": "inserted", "a copy inserted": "inserted", "removed and renumbered": "missing"}  # fmt: skip
    assert words.get(name, "edited") in str(found), found


def test_a_zero_a_negative_number_and_broken_utf8_are_named(tmp_path, chain):
    fill(tmp_path, 1)
    put(tmp_path, [[-3, *chain[0][1:]], *chain])
    assert ledger.verify(tmp_path) == -3
    put(tmp_path, chain)
    with unguarded(tmp_path) as connection:
        connection.execute("UPDATE ledger SET actor = CAST(x'ff61' AS TEXT) WHERE seq = 5")
    assert ledger.verify(tmp_path) == 5


letters = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
edits = st.tuples(st.just("edit"), st.integers(0, 11), st.sampled_from(range(1, 8)), letters)
rewrites = st.tuples(st.just("rewrite"), st.integers(0, 10), st.sampled_from(range(1, 6)), letters)
removals = st.tuples(st.just("remove"), st.integers(0, 10), st.integers(1, 4), st.booleans())
swaps = st.tuples(st.just("swap"), st.integers(0, 11), st.integers(0, 11), st.none())
inserts = st.tuples(st.just("insert"), st.integers(0, 11), st.none(), st.none())
moves = st.tuples(st.just("renumber"), st.integers(0, 11), st.integers(1, 2000), st.none())


def tamper(rows, what, at, more, last):
    """Changes the rows; gives the number of the first that is not as it was written, or None if nothing changed."""
    if what == "edit":
        before, rows[at][more] = rows[at][more], last
        return None if before == last else at + 1
    if what == "rewrite":
        before, rows[at][more] = rows[at][more], last
        rehash(rows[at])
        return None if before == last else at + 1
    if what == "remove":
        del rows[at : min(at + more, 11)]
        if last:
            renumber(rows)
        return at + 1 if at < 11 else None
    if what == "swap":
        rows[at], rows[more] = rows[more], rows[at]
        renumber(rows)
        return None if at == more else min(at, more) + 1
    if what == "insert":
        shift(rows, at, insert)
        return at + 1
    for row in rows[at:]:
        row[0] += more
    return at + 1


@given(first=st.one_of(edits, rewrites, removals, swaps, inserts, moves), later=st.none() | edits)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_tampering_is_found_and_the_first_record_named(chain, fast, first, later):
    if not (fast / "nbops.db").exists():
        fill(fast, 1)
    rows = [[*row] for row in chain]
    expected = tamper(rows, *first)
    if expected and later and first[0] == "edit" and later[1] > first[1]:
        tamper(rows, *later)  # a second one behind the first changes nothing about the first
    put(fast, rows)
    found = ledger.find_tampering(fast)
    assert (found and found.seq) == expected, (found, first)


# ---------------------------------------------------------------- many writers

WRITER = """
import sys
from nbops import ledger
store, number, count, one_by_one = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "record"
sys.stdin.readline()  # all begin at once
if one_by_one:
    for i in range(count):
        ledger.record(store, "alert", subject=f"writer {number}", payload={"i": i})
else:
    with ledger.appending(store) as add:
        for i in range(count):
            add("alert", subject=f"writer {number}", payload={"i": i})
"""


def write_at_once(store, *, writers, count, how):
    command = [sys.executable, "-c", WRITER, str(store)]
    started = [
        subprocess.Popen(
            [*command, str(one), str(count), how], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for one in range(writers)
    ]
    for one in started:
        one.stdin.write("go\n")
        one.stdin.flush()
    for one in started:
        _, said = one.communicate(timeout=300)
        assert one.returncode == 0, said
    assert ledger.verify(store) is None
    found = ledger.records(store)
    assert [one["seq"] for one in found] == list(range(1, writers * count + 1))
    for one in range(writers):  # each in its own order, and nothing lost
        assert [row["payload"]["i"] for row in found if row["subject"] == f"writer {one}"] == list(range(count))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["record", "appending"])
def test_eight_writers_never_fork_the_chain(fast, how):
    write_at_once(fast, writers=8, count=1000, how=how)


@pytest.mark.slow
def test_eight_writers_on_a_server_never_fork_the_chain(server, fast):
    write_at_once(fast, writers=8, count=1000, how="record")
    assert list(fast.iterdir()) == []  # nothing of the ledger is in the store


def test_a_new_database_can_be_made_by_many_at_once(fast):
    write_at_once(fast, writers=6, count=1, how="record")


def test_threads_share_nothing(fast):
    import threading

    threads = [threading.Thread(target=fill, args=(fast, 50)) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert ledger.verify(fast) is None and ledger.last_record(fast)[0] == 200


# ---------------------------------------------------------------- what breaks

ENDLESS = """
import sys
from nbops import ledger
with ledger.appending(sys.argv[1]) as add:
    while True:
        print(add("alert", subject="s", payload={"text": "x" * 500}), flush=True)
"""


@pytest.mark.slow
def test_killed_in_the_middle_of_writing_nothing_is_lost_or_broken(tmp_path):
    for attempt in range(20):
        with subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE) as writer:
            first = int(writer.stdout.readline())
            time.sleep(random.Random(attempt).random() * 0.05)
            writer.send_signal(signal.SIGKILL)
            said = [int(line) for line in writer.stdout.read().split(b"\n")[:-1]]
        assert ledger.verify(tmp_path) is None
        last = ledger.last_record(tmp_path)[0]
        promised = said[-1] if said else first
        assert promised <= last <= promised + 1, "what was acknowledged is there, and at most one more"
    assert ledger.missing_guards(tmp_path) == []


def test_a_full_disk_is_said_and_the_chain_stays_whole(small_disk):
    disk, leave = small_disk
    fill(disk / "store", 50)
    leave(400)
    with pytest.raises(OSError, match="No space left"), ledger.appending(disk / "store") as add:
        for number in range(10_000):
            add("alert", subject="s", payload={"text": "x" * 2000, "n": number})
    (disk / "filler").unlink()
    assert ledger.verify(disk / "store") is None
    last = ledger.last_record(disk / "store")[0]
    assert last >= 50 and ledger.record(disk / "store", "alert", subject="s", payload={}) == last + 1


@pytest.mark.parametrize("at", [0, 4096 * 3])
def test_a_damaged_database_is_said(tmp_path, at):
    fill(tmp_path, 200)
    content = bytearray((tmp_path / "nbops.db").read_bytes())
    content[at : at + 4096] = b"\xa5" * 4096
    (tmp_path / "nbops.db").write_bytes(content)
    with pytest.raises(RuntimeError, match=r"nbops.db cannot be used: .*Restore it from a copy"):
        ledger.find_tampering(tmp_path)
        raise AssertionError("not noticed")


def test_a_ledger_of_another_format_is_not_taken_for_tampering(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "nbops.db")) as connection:
        connection.execute("CREATE TABLE ledger (seq INTEGER PRIMARY KEY, hash TEXT)")
        connection.execute("INSERT INTO ledger VALUES (1, '')")
        connection.commit()
    for call in (ledger.verify, ledger.records, lambda store: ledger.record(store, "k", subject="s", payload={})):
        with pytest.raises(RuntimeError, match="format.*begin with another store"):
            call(tmp_path)


# ---------------------------------------------------------------- PostgreSQL


def test_a_server_gives_the_same_as_sqlite(server, tmp_path, monkeypatch):
    fill(tmp_path, 7)
    on_server = [{**one, "time": ""} for one in ledger.scan(tmp_path, newest=True)]
    assert ledger.record(tmp_path, "kind1", subject='größe "7"', payload={"n": 7, "digest": f"{7:064x}"}, repeat=False) == 7  # fmt: skip
    assert ledger.verify(tmp_path) is None and ledger.missing_guards(tmp_path) == []
    assert ledger.find_tampering(tmp_path, after=5) is None and ledger.find_tampering(tmp_path, after=9).seq == 9
    monkeypatch.delenv("NBOPS_LEDGER")
    assert ledger.records(tmp_path) == []
    fill(tmp_path, 7)
    in_store = [{**one, "time": ""} for one in ledger.scan(tmp_path, newest=True)]
    hashes = {"hash": "", "prev_hash": ""}  # they hold the time
    assert [one | hashes for one in on_server] == [one | hashes for one in in_store]


def test_a_server_refuses_to_change_and_tells_when_it_was_made_to(server, tmp_path):
    fill(tmp_path, 9)
    for statement in ("UPDATE ledger SET actor = 'eve'", "DELETE FROM ledger WHERE seq = 3", "TRUNCATE ledger"):
        with server.connect() as connection, pytest.raises(sqlalchemy.exc.DBAPIError, match="append-only"):
            connection.execute(sqlalchemy.text(statement))
    with server.begin() as connection:
        connection.execute(sqlalchemy.text("ALTER TABLE ledger DISABLE TRIGGER ledger_change"))
        connection.execute(sqlalchemy.text("UPDATE ledger SET actor = 'eve' WHERE seq = 4"))
    assert ledger.verify(tmp_path) == 4 and ledger.missing_guards(tmp_path) == ["ledger_change"]


def test_a_role_that_may_only_insert_and_read_can_write(server, postgres, tmp_path, monkeypatch):
    fill(tmp_path, 2)
    with server.begin() as connection:
        for statement in (
            "DROP ROLE IF EXISTS clerk",
            "CREATE ROLE clerk LOGIN PASSWORD 'paper-Clip'",
            "GRANT SELECT, INSERT ON ledger TO clerk",
        ):
            connection.execute(sqlalchemy.text(statement))
    url = sqlalchemy.make_url(postgres).set(username="clerk", password="paper-Clip")
    monkeypatch.setenv("CLERK", url.render_as_string(hide_password=False).replace("+psycopg", ""))
    monkeypatch.setenv("NBOPS_LEDGER", "env:CLERK")
    assert ledger.record(tmp_path, "k", subject="s", payload={}) == 3 and ledger.verify(tmp_path) is None
    with server.begin() as connection:
        connection.execute(sqlalchemy.text("REVOKE ALL ON ledger FROM clerk"))
    with pytest.raises(RuntimeError, match="permission denied") as error:
        ledger.record(tmp_path, "k", subject="s", payload={})
    assert "paper-Clip" not in str(error.value) and "***" in str(error.value)
    with server.begin() as connection:
        connection.execute(sqlalchemy.text("DROP ROLE clerk"))


def test_a_wrong_password_and_no_server_are_said_without_the_password(server, postgres, tmp_path, monkeypatch):
    url = sqlalchemy.make_url(postgres)
    for wrong in (url.set(password="wrong-Horse"), url.set(port=1, password="wrong-Horse")):
        monkeypatch.setenv("NBOPS_LEDGER", wrong.render_as_string(hide_password=False))
        with pytest.raises(RuntimeError, match="NBOPS_LEDGER names it") as error:
            ledger.records(tmp_path)
        assert "wrong-Horse" not in str(error.value)


def test_a_connection_that_the_server_closed_is_opened_again(server, tmp_path):
    fill(tmp_path, 1)
    with server.connect() as connection:
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'me'"
        connection.execute(sqlalchemy.text(kill))
    assert ledger.record(tmp_path, "k", subject="s", payload={}) == 2


# ---------------------------------------------------------------- size


def fill_fast(store, count):
    """A whole chain of many records, made in one transaction."""
    with ledger.connect(store) as connection:
        previous, made = "", []
        for seq in range(1, count + 1):
            row = (seq, "2024-01-01T00:00:00.000+00:00", "ada", "alert", "flights", json.dumps({"digest": "ab" * 32}))
            previous, before = hashlib.sha256("\n".join([previous, *map(str, row)]).encode()).hexdigest(), previous
            made.append((*row, before, previous))
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?)", made)
        connection.execute("COMMIT")


@pytest.mark.slow
def test_a_million_records_are_verified_in_seconds_and_flat_memory(fast):
    fill_fast(fast, 200_000)
    tracemalloc.start()
    ledger.verify(fast)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    start = time.process_time()
    assert ledger.verify(fast) is None
    seconds = (time.process_time() - start) * 5
    assert seconds < 10 and peak < 5e6, (seconds, peak)
