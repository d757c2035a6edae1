"""Messages become rows: nothing is lost and nothing is read twice, whoever is killed, and whatever is sent."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from nbops.base import InputError
from nbops.config import load_project
from nbops.contracts import check_table, load_contract, rules
from nbops.messages import Message, form_of, judge
from nbops.microbatches import list_batches, read_stream, remove_partials, roll_up, stream_folder, write_batch
from nbops.streams import consume, prepare, take_batch

COLUMNS = [
    {"name": "number", "logicalType": "integer", "required": True, "primaryKey": True},
    {"name": "weight kg", "logicalType": "number", "logicalTypeOptions": {"minimum": 0, "maximum": 100}},
    {"name": "größe", "logicalType": "string", "enum": [{"value": "S"}, {"value": "M"}]},
    {"name": 'the "code"', "logicalType": "string", "logicalTypeOptions": {"pattern": r"^\w{2}$", "maxLength": 5}},
    {"name": "when", "logicalType": "timestamp"},
    {"name": "ready", "logicalType": "boolean"},
]


def make(folder, table="orders", columns=COLUMNS, **settings):
    """A project that takes messages, without stages."""
    folder.mkdir(parents=True, exist_ok=True)
    project = {
        "name": "shop", "title": "Orders", "sources": {table: {"path": f"stream://{table}"}}, "table": table, "key": ["number"],
        "target": {"column": "ready", "kind": "binary", "positive": True},
        "stream": {"table": table, "batch_rows": 500, "batch_seconds": 0.2, "redeliver_seconds": 1.5} | settings,
    }  # fmt: skip
    contract = {
        "apiVersion": "v3.1.0", "kind": "DataContract", "id": "shop", "version": "1.0.0", "status": "active",
        "schema": [{"name": table, "properties": columns}],
    }  # fmt: skip
    for name, content in {"project": project, "contract": contract}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return folder


def start(folder, *words):
    """`nbops stream` in the background."""
    script = Path(sys.executable).with_name("nbops")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([script, "stream", "--json", "--log-format", "json", *words], cwd=folder, **pipes)


def finish(process, code=0, timeout=60):
    """What it printed, and the events it told."""
    out, errors = process.communicate(timeout=timeout)
    assert process.returncode == code, errors
    return json.loads(out), [json.loads(line) for line in errors.splitlines()]


def order(number, **values):
    return json.dumps({"number": number, "weight kg": number % 100, "größe": "S", **values}).encode()


def read(folder, kind="rows", table="orders", **how):
    with duckdb.connect() as connection:
        return read_stream(connection, table, folder / "store", kind=kind, **how).df()


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


def written(folder, kind="rows"):
    return list((stream_folder("orders", folder / "store") / kind).glob("[!.]*.parquet"))


# Nothing is lost, nothing is twice


@pytest.mark.slow
def test_killed_ten_times_under_load(nats, tmp_path):
    folder, ended, sent = make(tmp_path / "shop", url=nats.url, batch_rows=1000), threading.Event(), []

    def numbers():
        number = 0
        while not ended.is_set() or number < 20_000:
            number += 1
            yield order(number)

    load = threading.Thread(target=lambda: sent.append(asyncio.run(nats.publishing("orders", numbers(), pause=0.05))))
    load.start()
    try:
        for _ in range(10):
            before = len(written(folder))
            process = start(folder)
            until(
                lambda before=before: len(written(folder)) > before + 1
            )  # in the middle of a batch, or of its acknowledgement
            process.kill()
            process.communicate()
    finally:
        ended.set()
        load.join()
    done, _ = finish(start(folder, "--until-empty"))
    assert done["ended"] == "nothing left" and done["dead_letters"] == 0
    assert read(folder)["number"].tolist() == list(range(1, sent[0] + 1)), "in order, each once"
    on_disk = sum(pq.read_metadata(file).num_rows for file in written(folder))
    assert on_disk > sent[0], "no kill came between writing and acknowledging: the test has tested nothing"
    assert not list(folder.glob("store/streams/orders/**/.*.partial"))


@pytest.mark.slow
def test_the_broker_goes_away_and_comes_back(nats, tmp_path):
    folder = make(tmp_path / "shop", url=nats.url)
    nats.publish("orders", map(order, range(1, 3001)))
    process = start(folder)
    until(lambda: len(written(folder)) >= 2)
    nats.kill()
    time.sleep(1.5)  # it really is away for a while
    nats.start()
    nats.publish("orders", map(order, range(3001, 6001)))
    until(lambda: len(read(folder)) == 6000)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    done, events = finish(process)
    assert time.monotonic() - asked < 5 and done["ended"] == "stopped"
    assert [event["event"] for event in events if event["event"] in ("lost", "back")] == ["lost", "back"]
    assert read(folder)["number"].tolist() == list(range(1, 6001))


def test_a_broker_that_is_not_there(tmp_path, nats):
    from nats_server import NatsServer

    project = load_project(make(tmp_path / "shop", url="nats://me:secret@127.0.0.1:1"))
    begun = time.monotonic()
    with pytest.raises(InputError, match="no broker at nats://…@127.0.0.1:1 within 0.5 s.*Start one") as error:
        consume(project, store=tmp_path / "store", wait=0.5)
    assert time.monotonic() - begun < 5 and "secret" not in str(error.value)
    with pytest.raises(InputError, match="no broker at 127.0.0.1:1 within 0.5 s"):
        consume(project, store=tmp_path / "store", url="kafka://127.0.0.1:1", wait=0.5)
    plain = NatsServer(nats.command[0], tmp_path / "plain", jetstream=False).start()
    try:
        with pytest.raises(InputError, match="keeps no streams. Start it with JetStream"):
            consume(project, store=tmp_path / "store", url=plain.url)
    finally:
        plain.kill()


@pytest.mark.slow
def test_stops_while_it_waits_for_a_broker(tmp_path):
    process = start(make(tmp_path / "shop", url="nats://127.0.0.1:1"))
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    done, _ = finish(process, code=130)
    assert time.monotonic() - begun < 5 and "interrupted" in done["error"]


def test_two_commands_share_the_work(nats, tmp_path):
    project = load_project(make(tmp_path / "shop", url=nats.url))
    nats.publish("orders", map(order, range(1, 4001)))
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(consume(project, store=tmp_path / "shop/store", until_empty=True)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one["messages"] for one in found) >= 4000
    assert read(tmp_path / "shop")["number"].tolist() == list(range(1, 4001))


def test_a_stream_that_was_made_anew_starts_to_count_again(nats, tmp_path):
    async def forget():
        import nats as client

        connection = await client.connect(nats.url)
        await connection.jetstream().delete_stream("orders")
        await connection.close()

    project = load_project(make(tmp_path / "shop", url=nats.url))
    for numbers in (range(1, 101), range(101, 151)):
        nats.publish("orders", map(order, numbers))
        consume(project, store=tmp_path / "shop/store", until_empty=True)
        asyncio.run(forget())
    assert sorted(read(tmp_path / "shop")["number"]) == list(range(1, 151))
    roll_up("orders", tmp_path / "shop/store", grace=0)
    assert sorted(read(tmp_path / "shop")["number"]) == list(range(1, 151))


# Poison

POISON = {
    b"": "empty",
    b"no json": "no JSON",
    b'{"number": 1': "no JSON",
    b'{"number": 1} and more': "no JSON",
    b"\xff\xfe{": "no JSON",
    b'{"number": 1, "gr\xc3\xb6\xc3\x9fe": "\\ud800"}': "no JSON",
    b"[1, 2]": "Expected object, got array",
    b"null": "Expected object, got null",
    b'{"number": "1"}': "Expected int | null, got str - at $.number",
    b'{"number": 1.5}': "Expected int | null, got float - at $.number",
    b'{"number": true}': "Expected int | null, got bool - at $.number",
    b'{"number": 9223372036854775808}': "$.number",
    b'{"number": 1e30}': "$.number",
    b'{"number": 1, "weight kg": NaN}': "no JSON",
    b'{"number": 1, "weight kg": -Infinity}': "no JSON",
    b'{"number": 1, "weight kg": 1e400}': "Number out of range - at $.weight kg",
    b'{"number": 1, "number": 2}': "key 'number' stands twice",
    b'{"number": 1, "extra": {"a": 1, "a": 2}}': "key 'a' stands twice",
    b'{"number": 1, "when": "2024-02-30T00:00:00Z"}': "$.when",
    b'{"number": 1, "when": "01.02.2024"}': "$.when",
    b'{"number": 1, "extra": ' + b"[" * 200_000 + b"]" * 200_000 + b"}": "nested too deeply",
    b'{"number": 1, "weight kg": -1}': "weight kg is 0 to 100 (received '-1.0')",
    b'{"weight kg": 1}': "number is not missing",
    b'{"number": null, "gr\xc3\xb6\xc3\x9fe": "XL"}': "größe is one of S, M (received 'XL')",
    b'{"number": 1, "the \\"code\\"": "' + b"x" * 10_000_000 + b'"}': "bytes; allowed: 1048576",
}  # fmt: skip


def test_poison_becomes_dead_letters_and_the_stream_goes_on(nats, tmp_path):
    folder = make(tmp_path / "shop", url=nats.url)
    payloads = [order(0), *(data for poison in POISON for data in (poison, order(1)))]
    nats.publish("orders", payloads)
    done = consume(load_project(folder), store=folder / "store", until_empty=True)
    assert (done["rows"], done["dead_letters"]) == (len(POISON) + 1, len(POISON))
    dead = read(folder, "dead", positions=True)
    assert [bytes(data) for data in dead["message"]] == list(POISON), "original bytes, in order"
    for line, reason in zip(dead.itertuples(), POISON.values(), strict=True):
        assert reason in line.reason and len(line.reason) <= 1000, (line.message[:40], line.reason)
    assert dead["_sequence"].tolist() == list(range(2, len(payloads) + 1, 2))
    assert (datetime.now(UTC) - dead["time"].max().to_pydatetime()).total_seconds() < 60


def test_what_is_only_unusual_is_kept(tmp_path):
    form = form_of(load_contract(make(tmp_path)), "orders")
    sent = [
        b'{"number": 3.0, "weight kg": 7, "when": "2024-05-01T12:00:00+02:00"}',
        b' {"number": -0, "ready": false, "when": "2024-05-01T12:00:00"}\n',
        '{"number": 9223372036854775807, "the \\"code\\"": "\\u0416ш", "colour": {"rgb": [1]}}'.encode(),
        b'{"number": 5, "when": "0001-01-01T00:00:00+14:00"}',
    ]
    judged = judge(form, [Message(data, "s", 0, place, 0) for place, data in enumerate(sent)], now=datetime(2026, 1, 1))
    assert not judged.dead.num_rows, judged.dead.to_pylist()
    table = judged.rows
    assert table["number"].to_pylist() == [3, 0, 2**63 - 1, 5]
    assert table["when"].cast(pa.int64()).to_pylist()[:2] == [1_714_557_600_000_000, 1_714_564_800_000_000]
    assert [None if one is None else json.loads(one) for one in table["_more"].to_pylist()] == [
        None,
        None,
        {"colour": {"rgb": [1]}},
        None,
    ]


# The same rules as the contract's


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_judges_as_great_expectations_does(tmp_path, seed):
    columns = [
        {"name": "a b", "logicalType": "integer", "required": True, "logicalTypeOptions": {"minimum": -5, "maximum": 7.5}},
        {"name": "ä", "logicalType": "number", "logicalTypeOptions": {"maximum": 0.25}, "required": True},
        {"name": "n", "logicalType": "integer", "enum": [{"value": 1}, {"value": 3}, {"value": "5"}]},
        {"name": 'q"', "logicalType": "string", "enum": [{"value": "x"}, {"value": "é"}, {"value": 7}]},
        {"name": "p", "logicalType": "string", "logicalTypeOptions": {"pattern": r"(?<!a)\d$", "minLength": 2, "maxLength": 4}},
        {"name": "d", "logicalType": "boolean", "required": True},
    ]  # fmt: skip
    contract = load_contract(make(tmp_path, columns=columns))
    rng = np.random.default_rng(seed)

    def some(values, rows=300):
        return [None if rng.random() < 0.1 else values[rng.integers(len(values))] for _ in range(rows)]

    table = pd.DataFrame(
        {
            "a b": pd.array(some(range(-9, 12)), dtype="Int64"),
            "ä": pd.array(some([0.25, 0.250001, -1e300, 3.0, 0.0]), dtype="Float64"),
            "n": pd.array(some(range(7)), dtype="Int64"),
            'q"': some(["x", "é", "e\u0301", "7", "", "X"]),
            "p": some(["1", "a1", "bb1", "1\n", "٣٣", "語語語1", "12345", "", "b1"]),
            "d": some([True, False]),
        }
    )
    lines = [
        {key: value for key, value in row.items() if value is not pd.NA and value is not None}
        for row in table.to_dict("records")
    ]
    sent = [json.dumps(row, default=int).encode() for row in lines]
    form = form_of(contract, "orders")
    assert not form.later
    judged = judge(form, [Message(data, "s", 0, place, 0) for place, data in enumerate(sent)], now=datetime(2026, 1, 1))
    plain = table.astype(
        {"a b": "float64", "ä": "float64", "n": "float64"}
    )  # as the validation stage reads it from Parquet
    _, failures, _ = check_table(plain, rules(contract, "orders"))
    assert judged.dead["_sequence"].to_pylist() == sorted(set(failures["row"]))
    for line in judged.dead.to_pylist():
        expected = set(failures.loc[failures["row"] == line["_sequence"], "rule"])
        assert {reason.rpartition(" (received")[0] for reason in line["reason"].split("; ")} == expected
    assert 0 < judged.rows.num_rows < 300


# Files


def rows_of(first, last, stream="nats:orders", at=0, **columns):
    numbers = list(range(first, last + 1))
    published = pa.array([at + number for number in numbers], pa.timestamp("us", "UTC"))
    place = {
        "_stream": [stream] * len(numbers),
        "_partition": [0] * len(numbers),
        "_sequence": numbers,
        "_published": published,
    }
    return pa.table({"number": numbers, "_more": pa.nulls(len(numbers), pa.string()), **columns, **place})


@pytest.mark.slow
def test_rolling_up_may_be_killed_at_any_moment(tmp_path):
    store, rng = tmp_path / "store", np.random.default_rng(5)
    folder, expected = stream_folder("orders", store) / "rows", 0
    code = "import sys; from nbops.microbatches import roll_up\nwhile True: roll_up('orders', sys.argv[1], rows=3000, grace=0)"
    for _ in range(6):
        for _ in range(12):
            first = max(1, expected - int(rng.integers(0, 300)))  # some come again
            write_batch(rows_of(first, expected + 200), folder)
            expected += 200
        process = subprocess.Popen([sys.executable, "-c", code, str(store)])
        time.sleep(0.4 + rng.random() * 0.4)
        assert process.poll() is None
        process.kill()
        process.wait()
        assert read(tmp_path)["number"].tolist() == list(range(1, expected + 1))
    remove_partials(store)
    assert not list(folder.glob(".*.partial"))
    roll_up("orders", store, grace=0)
    roll_up("orders", store, grace=0)
    assert (
        read(tmp_path)["number"].tolist() == list(range(1, expected + 1)) and len(list(folder.glob("*.parquet"))) == 1
    )


def test_a_reader_that_listed_files_before_a_roll_up_still_finds_them(tmp_path):
    folder = stream_folder("orders", tmp_path / "store") / "rows"
    for first in range(1, 1000, 100):
        write_batch(rows_of(first, first + 99), folder)
    with duckdb.connect() as connection:
        relation = read_stream(connection, "orders", tmp_path / "store")
        roll_up("orders", tmp_path / "store")
        assert len(relation.fetchall()) == 1000
    assert len(list_batches(folder)[0]) == 1 and len(list_batches(folder)[1]) == 10
    assert len(read(tmp_path)) == 1000


def test_columns_that_came_later_and_wider_types(tmp_path):
    folder = stream_folder("orders", tmp_path / "store") / "rows"
    write_batch(rows_of(1, 3, price=[1, 2, 3]), folder)
    write_batch(rows_of(4, 5, price=[1.5, 2.5], **{'a "b"': ["x", "y"]}), folder)
    for _ in range(2):
        table = read(tmp_path)
        assert table["price"].tolist() == [1, 2, 3, 1.5, 2.5] and table['a "b"'].tolist()[3:] == ["x", "y"]
        assert list(table) == ["number", "price", 'a "b"']
        roll_up("orders", tmp_path / "store", grace=0)


def test_the_same_rows_in_the_same_order_before_and_after_a_roll_up(tmp_path):
    folder = stream_folder("orders", tmp_path / "store") / "rows"
    for first, last in [(500, 600), (1, 120), (100, 501), (90, 130)]:
        write_batch(rows_of(first, last), folder)
    before = read(tmp_path, positions=True)
    roll_up("orders", tmp_path / "store", grace=0)
    pd.testing.assert_frame_equal(before, read(tmp_path, positions=True))


def test_many_small_files_are_rolled_up_while_messages_come(nats, tmp_path, monkeypatch):
    monkeypatch.setattr("nbops.streams.ROLL_UP_FILES", 5)
    folder, told = make(tmp_path / "shop", url=nats.url, batch_rows=50), []
    nats.publish("orders", map(order, range(1, 2001)))
    consume(load_project(folder), store=folder / "store", seconds=2, tell=told.append)
    assert sum(event.get("segments", 0) for event in told if event["event"] == "rolled_up") > 0
    assert read(folder)["number"].tolist() == list(range(1, 2001))
    assert len(list_batches(stream_folder("orders", folder / "store") / "rows")[0]) < 40


# Feature store

DEFINITIONS = """
from datetime import timedelta

def definitions(feast, folder):
    size = feast.Entity(name="size", join_keys=["größe"], value_type=feast.ValueType.STRING)
    times = {"timestamp_field": "when", "created_timestamp_column": "_published"}
    source = feast.FileSource(name="weighed", path=f"{folder}/weighed.parquet", **times)
    fields = [feast.Field(name="größe", dtype=feast.types.String), feast.Field(name="weight kg", dtype=feast.types.Float64)]
    weighed = feast.PushSource(name="weighed_now", batch_source=source)
    return [size, feast.FeatureView(name="latest", entities=[size], ttl=timedelta(days=9), schema=fields, source=weighed)]
"""


def order_at(number, moment, **more):
    return json.dumps({"number": number, "when": moment, **more}).encode()


def test_rows_are_pushed_online_before_they_are_acknowledged(nats, tmp_path, monkeypatch):
    import nbops.onlinestore

    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/sizes.py").write_text(DEFINITIONS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "shop")
    folder = make(tmp_path / "shop", url=nats.url, push=["latest"])
    settings = yaml.safe_load((folder / "project.yaml").read_text(encoding="utf-8"))
    (folder / "project.yaml").write_text(
        yaml.safe_dump(settings | {"feature_store": {"definitions": "sizes:definitions"}}, allow_unicode=True),
        encoding="utf-8",
    )
    nats.publish(
        "orders",
        [
            order_at(1, "2024-05-02T10:00:00Z", größe="S", **{"weight kg": 2.5}),
            b"?",
            order_at(2, "2024-05-01T10:00:00Z", größe="S", **{"weight kg": 1.5}),  # late: replaces nothing newer
            order_at(3, "2024-05-01T10:00:00Z", größe="M", **{"weight kg": 7}),
        ],
    )
    project, store = load_project(folder), folder / "store"
    with monkeypatch.context() as patch:
        patch.setattr(nbops.onlinestore, "_write", lambda *_, **__: 1 / 0)
        with pytest.raises(RuntimeError, match="not acknowledged, so it comes again"):
            consume(project, store=store, until_empty=True)
    assert consume(project, store=store, until_empty=True)["messages"] == 4
    online = nbops.onlinestore.read_online(project, [{"größe": "S"}, {"größe": "M"}], store=store)
    assert [one["weight kg"] for one in online] == [2.5, 7.0]
    assert len(read(folder)) == 3 and len(read(folder, "dead")) == 1


def test_push_without_a_feature_store_is_refused_at_once(tmp_path):
    with pytest.raises(InputError, match="project.yaml has no feature_store"):
        prepare(load_project(make(tmp_path, push=["customer"])), store=tmp_path / "store")


# Kafka


@pytest.fixture
def kafka():
    """librdkafka's own cluster in this process: real groups, offsets and loopback connections."""
    from confluent_kafka import Producer

    producer = Producer({"test.mock.num.brokers": 1})
    broker = next(iter(producer.list_topics("orders", timeout=10).brokers.values()))  # makes the topic
    address = f"{broker.host}:{broker.port}"
    yield producer, f"kafka://{address}"


def produce(producer, numbers):
    for number in numbers:
        producer.produce("orders", order(number), key=str(number))
        producer.poll(0)
    assert producer.flush(30) == 0


@pytest.mark.slow
def test_kafka_goes_on_after_a_kill(kafka, tmp_path):
    producer, url = kafka
    folder = make(tmp_path / "shop", url=url)
    produce(producer, range(1, 6001))
    process = start(folder)
    until(lambda: len(written(folder)) >= 2)
    process.kill()
    process.communicate()
    produce(producer, range(6001, 8001))
    done, _ = finish(start(folder, "--until-empty"), timeout=90)
    assert done["ended"] == "nothing left" and 0 < done["messages"] < 8000, "it goes on; it does not begin again"
    table = read(folder, positions=True)
    assert sorted(table["number"]) == list(range(1, 8001))
    assert table["_partition"].nunique() > 1 and set(table["_stream"]) == {"kafka:orders"}


def test_a_kafka_topic_that_is_not_there(kafka, tmp_path):
    project = load_project(make(tmp_path / "shop", url=kafka[1], subject="ordres"))
    with pytest.raises(InputError, match="topic 'ordres' is not at .*; it has orders"):
        consume(project, store=tmp_path / "store")


# The command


@pytest.mark.slow
def test_the_command_says_what_it_did(nats, tmp_path):
    folder = make(tmp_path / "shop", url="env:BROKER")
    nats.publish("orders", [order(1), order(2), b"{", order(3)])
    (folder / "store/streams/orders/rows").mkdir(parents=True)
    host = os.uname().nodename.partition(".")[0]
    leftover = folder / f"store/streams/orders/rows/.x.parquet.{host}.999999999.partial"
    leftover.touch()
    script, env = Path(sys.executable).with_name("nbops"), os.environ | {"BROKER": nats.url}
    done = subprocess.run(
        [script, "stream", "--until-empty"], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "nothing left: 4 messages in" in done.stdout and "1 dead letter in" in done.stdout
    assert "most often: no JSON" in done.stdout and not leftover.exists()
    assert f"taking orders at {nats.url}" in done.stderr
    done = subprocess.run(
        [script, "stream", "--compact"], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "rolled up" in done.stdout


def test_a_batch_holds_a_message_once(tmp_path):
    work = prepare(load_project(make(tmp_path / "shop")), store=tmp_path / "shop/store")
    twice = Message(order(1), "s", 0, 1, 5)
    take_batch(work, [twice, Message(order(2), "s", 0, 2, 6), twice])
    assert work.messages == 2 and len(read(tmp_path / "shop")) == 2


@pytest.mark.slow
def test_the_benchmark_measures_rows_that_are_there(nats):
    from nbops.streambench import bench_streams

    (found,) = bench_streams(messages=3000, repeats=1)
    assert found.ours > 0 and found.peer > 0 and "2997 rows, 3 dead letters" in found.note
