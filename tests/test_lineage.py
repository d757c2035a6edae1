"""Lineage: events that upstream's own classes accept, delivered or kept; columns followed to features; a graph that answers."""

import importlib
import json
import multiprocessing
import pkgutil
import re
import signal
import subprocess
import sys
import threading
import time
import typing
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import attr
import duckdb
import jsonschema
import nbformat
import pandas as pd
import pytest

from nbops import lineage
from nbops.base import InputError
from nbops.column_lineage import Untraceable, builder_lineage, experiment, query_lineage
from nbops.config import load_project
from nbops.lineage_drawing import draw
from nbops.lineage_graph import build_graph, find_subject, part_of, walk
from small_project import change, command, environment, make_project

# --- The standard: JSON schemas made from the classes that upstream generates from its published schemas -------------


def facet_classes():
    """Upstream's facet classes by the address of their schema."""
    import openlineage.client.generated as generated

    modules = [
        importlib.import_module(f"{generated.__name__}.{one.name}") for one in pkgutil.iter_modules(generated.__path__)
    ]
    found = [
        one for module in modules for one in vars(module).values() if attr.has(one) and hasattr(one, "_get_schema")
    ]
    return {one._get_schema(): one for one in found}


def schema_of(kind, inside=()):
    """A JSON schema of a class or a type: what is needed, what is known, and of which type each is."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    plain = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    if kind in plain:
        return {"type": plain[kind]}
    if origin is list:
        return {"type": "array", "items": schema_of(inner[0], inside)}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(inner[1], inside)}
    if inner:  # what may be left out is left out, not null
        return {"anyOf": [schema_of(one, inside) for one in inner if one is not type(None)]}
    if not attr.has(kind) or kind in inside:  # the second: a field of a field of a field
        return {}
    hints = typing.get_type_hints(kind)
    fields = [
        one
        for one in attr.fields(kind)
        if not one.name.startswith("_") or one.name in ("_producer", "_schemaURL", "_deleted")
    ]
    formats = {
        "runId": "uuid",
        "eventTime": "date-time",
        "nominalStartTime": "date-time",
        "nominalEndTime": "date-time",
        "uri": "uri",
    }
    properties = {
        one.name: schema_of(hints[one.name], (*inside, kind))
        | ({"format": formats[one.name]} if one.name in formats else {})
        for one in fields
    }
    needed = [one.name for one in fields if one.default is attr.NOTHING]
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


CLASSES = facet_classes()
KEYS = {
    "ColumnLineageDatasetFacet": "columnLineage",
    "DataQualityAssertionsDatasetFacet": "dataQualityAssertions",
    "DataQualityMetricsInputDatasetFacet": "dataQualityMetrics",
    "DatasetVersionDatasetFacet": "version",
    "DatasourceDatasetFacet": "dataSource",
    "ErrorMessageRunFacet": "errorMessage",
    "JobTypeJobFacet": "jobType",
    "NominalTimeRunFacet": "nominalTime",
    "OutputStatisticsOutputDatasetFacet": "outputStatistics",
    "ParentRunFacet": "parent",
    "ProcessingEngineRunFacet": "processing_engine",
    "SchemaDatasetFacet": "schema",
}
FACET = {"type": "object", "required": ["_producer", "_schemaURL"],
         "properties": {"_producer": {"type": "string", "format": "uri"}, "_schemaURL": {"type": "string", "format": "uri"}}}  # fmt: skip


def check_event(event):
    """Fails unless the event is one that the standard allows."""
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER

    def check(value, schema):
        jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator, format_checker=checker)

    def facets(found):
        for name, facet in found.items():
            check(facet, FACET)
            kind = CLASSES[facet["_schemaURL"]]
            assert name.startswith("nbops_") or KEYS[kind.__name__] == name
            if not name.startswith("nbops_"):
                inner = schema_of(kind)
                inner["properties"] |= FACET["properties"]
                check(facet, inner)

    assert {*event} == {"eventType", "eventTime", "producer", "schemaURL", "run", "job", "inputs", "outputs"}
    assert event["eventType"] in ("START", "COMPLETE", "FAIL", "ABORT") and re.fullmatch(
        r"https://openlineage.io/spec/2-[0-9]+-[0-9]+/OpenLineage.json#/\$defs/RunEvent", event["schemaURL"]
    )
    assert isinstance(event["inputs"], list) and isinstance(event["outputs"], list)
    check(event["eventTime"], {"type": "string", "format": "date-time"})
    check(event["producer"], {"type": "string", "format": "uri"})
    assert str(uuid.UUID(event["run"]["runId"])) == event["run"]["runId"]
    facets(event["run"]["facets"])
    facets(event["job"]["facets"])
    for one in [event["job"], *event["inputs"], *event["outputs"]]:
        assert one["namespace"] and one["name"] and isinstance(one["namespace"], str) and isinstance(one["name"], str)
    for side, extra in (("inputs", "inputFacets"), ("outputs", "outputFacets")):
        for one in event[side]:
            assert {*one} <= {"namespace", "name", "facets", extra}
            facets(one["facets"] | one.get(extra, {}))


# --- Events ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path):
    make_project(tmp_path / "shop", kind="binary", time="month")
    return load_project(tmp_path / "shop")


def fake_stage(folder, name="30_features", upstream=()):
    """What the emitter needs of a stage."""
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"_id": ["1"], "weight kg": [1.5], "größe": [None]}).to_parquet(folder / "rows.parquet")
    products = {"rows": folder / "rows.parquet"}
    return SimpleNamespace(
        name=name, products=products, upstream=[*upstream], parameters={}, notebook=None, record=folder / "none.json"
    )


def send(project, store, *states, message=""):
    """Emits events of one stage; gives what was told."""
    told, stage = [], fake_stage(store / "stage")
    with lineage.Emitter(project, store, "2024-01", tell=told.append) as emitter:
        for state in states:
            emitter.note(state, {stage.name: stage}, stage.name, message if state != "START" else "")
    return told


def test_a_checker_that_finds_what_is_wrong(shop, tmp_path):
    send(shop, tmp_path, "START", "COMPLETE")
    event = list(lineage.read_events(tmp_path))[2]
    check_event(event)
    for spoil in (
        lambda one: one["run"].update(runId="1"),
        lambda one: one["outputs"][0]["facets"]["schema"].update(fields=[{"type": "int"}]),
        lambda one: one["outputs"][0]["outputFacets"]["outputStatistics"].update(rowCount="1"),
        lambda one: (
            one["outputs"][0]["facets"]["version"].pop("_producer", None)
            or one["job"]["facets"]["jobType"].pop("integration")
        ),
        lambda one: one["job"]["facets"]["jobType"].update(invented=1),
        lambda one: one["job"].update(namespace=7),
        lambda one: one.update(inputs={}),
        lambda one: one.update(schemaURL=one["job"]["facets"]["jobType"]["_schemaURL"]),
        lambda one: one["outputs"][0]["outputFacets"]["outputStatistics"].update(rowCount=None),
        lambda one: one["run"]["facets"].update(foo=one["run"]["facets"]["nominalTime"]),
    ):
        wrong = json.loads(json.dumps(event))
        wrong["outputs"][0]["facets"].setdefault("version", dict(wrong["job"]["facets"]["jobType"]))
        spoil(wrong)
        with pytest.raises((jsonschema.ValidationError, ValueError, AssertionError)):
            check_event(wrong)


def test_each_way_that_a_stage_can_end(shop, tmp_path):
    assert send(shop, tmp_path, "START", "FAIL", message="stage failed: ValueError: no rows") == []
    events = list(lineage.read_events(tmp_path))
    for event in events:
        check_event(event)
    assert [one["eventType"] for one in events] == ["START", "START", "FAIL", "COMPLETE"]
    assert events[2]["run"]["facets"]["errorMessage"]["message"].endswith("no rows")
    assert events[1]["run"]["runId"] == events[2]["run"]["runId"] != events[0]["run"]["runId"]
    assert events[2]["run"]["facets"]["parent"]["run"]["runId"] == events[0]["run"]["runId"]
    with pytest.raises(KeyboardInterrupt), lineage.Emitter(shop, tmp_path, "2024-01") as emitter:
        stage = fake_stage(tmp_path / "stage")
        emitter.note("START", {stage.name: stage}, stage.name, "")
        raise KeyboardInterrupt
    assert list(lineage.read_events(tmp_path))[-1]["eventType"] == "ABORT"


def test_a_run_that_does_nothing_says_nothing(shop, tmp_path):
    assert send(shop, tmp_path) == [] and not lineage.events_file(tmp_path).exists()


def test_a_file_that_cannot_be_written_costs_a_note(shop, tmp_path):
    lineage.events_file(tmp_path).parent.mkdir(parents=True)
    lineage.events_file(tmp_path).mkdir()
    [note] = send(shop, tmp_path, "START", "COMPLETE")
    assert "an event could not be written" in note["message"]


def write_many(store, word, count):
    for number in range(count):
        lineage.append_event(store, {"eventType": "START", "word": word, "number": number, "long": word * 20_000})


def test_lines_of_runs_at_the_same_time_are_not_mixed(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_many, args=(tmp_path, word, 60)) for word in "abcd"]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    lines = lineage.events_file(tmp_path).read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert all(one["long"] == one["word"] * 20_000 for one in found)
    assert sorted((one["word"], one["number"]) for one in found) == [
        (word, number) for word in "abcd" for number in range(60)
    ]


@pytest.mark.parametrize(
    "path",
    ["postgresql+psycopg://ada:hunter2@db:5432/shop?password=hunter2", "https://u:hunter2@host/a.csv?sig=hunter2"],
)
def test_secrets_of_a_source_stay_out(shop, path):
    source = shop.sources["things"].model_copy(update={"path": path})
    found = lineage._sources(shop.model_copy(update={"sources": {"things": source}}), {})
    assert "hunter2" not in json.dumps(found) and "ada" not in json.dumps(found)


@pytest.mark.parametrize(
    "given",
    [
        {"path": "s3://my-bucket/my data/größe [0-9]*.csv"},
        {"path": "https://[::1]:8080/a b%20c.csv"},
        {"url": "postgresql+psycopg://db:5432/shop", "table": "größe €"},
        {"url": "sqlite:///my data/x.db", "table": "t"},
        {"url": "env:SHOP", "table": "my table"},
    ],
)
def test_the_address_of_a_source_is_a_uri(shop, tmp_path, given):
    sources = {"things": shop.sources["things"].model_copy(update={"path": None, "url": None, **given})}
    [found] = lineage._sources(shop.model_copy(update={"sources": sources}), {})
    send(shop, tmp_path, "START", "COMPLETE")
    event = list(lineage.read_events(tmp_path))[2]
    check_event(event | {"inputs": [found]})
    assert " " not in found["facets"]["dataSource"]["uri"] and "%2520" not in found["facets"]["dataSource"]["uri"]


# --- The endpoint: a real server on loopback ------------------------------------------------------------------------------


class Endpoint:
    """An HTTP server that keeps what it gets, and answers as told."""

    def __init__(self):
        self.got, self.status, self.wait = [], 201, threading.Event()
        self.wait.set()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.wait.wait(20)
                status = endpoint.status(json.loads(body)) if callable(endpoint.status) else endpoint.status
                if status < 300:
                    endpoint.got.append((self.path, self.headers.get("Authorization"), json.loads(body)))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_):
                """Stays quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.wait.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def endpoint():
    one = Endpoint()
    yield one
    one.stop()


def with_url(project, url, **more):
    return project.model_copy(update={"lineage": project.lineage.model_copy(update={"url": url, **more})})


def test_an_endpoint_gets_every_event_in_order(shop, tmp_path, endpoint):
    lineage.append_event(tmp_path, {"eventType": "START", "old": True})  # from before there was an endpoint
    stage = fake_stage(tmp_path / "stage")
    with lineage.Emitter(with_url(shop, endpoint.url), tmp_path, "2024-01", api_key="s3cret-key") as emitter:
        emitter.note("START", {stage.name: stage}, stage.name, "")
        emitter.note("COMPLETE", {stage.name: stage}, stage.name, "")
    assert [one for _, _, one in endpoint.got] == list(lineage.read_events(tmp_path)) and len(endpoint.got) == 5
    assert {(path, key) for path, key, _ in endpoint.got} == {("/api/v1/lineage", "Bearer s3cret-key")}
    assert "s3cret-key" not in "".join(file.read_text() for file in (tmp_path / "lineage").glob("*") if file.is_file())


def test_an_endpoint_that_is_down_costs_one_note_and_no_event(shop, tmp_path, endpoint):
    endpoint.stop()
    [note] = send(with_url(shop, endpoint.url), tmp_path, "START", "COMPLETE")
    assert "cannot be reached" in note["message"] and "The run goes on" in note["message"]
    assert len(list(lineage.read_events(tmp_path))) == 4
    again = Endpoint()
    try:
        sent, problem = lineage.deliver(tmp_path, again.url)
        assert (sent, problem) == (4, "") and lineage.deliver(tmp_path, again.url) == (0, "")
        assert [one for _, _, one in again.got] == list(lineage.read_events(tmp_path))
    finally:
        again.stop()


def test_answers_of_an_endpoint(tmp_path, endpoint):
    for number in range(3):
        lineage.append_event(tmp_path, {"eventType": "START", "number": number})
    with open(lineage.events_file(tmp_path), "a") as torn:
        torn.write('{"torn": ')
    lineage.append_event(tmp_path, {"eventType": "START", "number": 3})
    endpoint.status = lambda event: 503 if event["number"] == 1 else 201
    assert lineage.deliver(tmp_path, endpoint.url) == (1, f"{endpoint.url}/api/v1/lineage answers with HTTP 503")
    endpoint.status = lambda event: 422 if event["number"] == 2 else 201
    sent, problem = lineage.deliver(tmp_path, endpoint.url)
    assert sent == 2 and problem.endswith("refused an event (HTTP 422)")
    assert [one["number"] for _, _, one in endpoint.got] == [0, 1, 3]


def test_an_endpoint_that_hangs_is_left_after_the_time_given(shop, tmp_path, endpoint):
    endpoint.wait.clear()
    begin = time.monotonic()
    [note] = send(with_url(shop, endpoint.url, timeout_seconds=0.3), tmp_path, "START", "COMPLETE")
    assert "timed out" in note["message"] and time.monotonic() - begin < 5


@pytest.mark.parametrize("settings, said", [
    ({"url": "ftp://host"}, "lineage.url"), ({"url": "http://me:secret@host"}, "lineage.url"), ({"api_key": "s3cret"}, "lineage.api_key"),
    ({"uri": "http://host"}, 'did you mean "url"'),
])  # fmt: skip
def test_wrong_settings(tmp_path, settings, said):
    folder = make_project(tmp_path / "p", lineage=settings)
    with pytest.raises(InputError, match=said.replace(".", r"\.")):
        load_project(folder)


# --- Columns -------------------------------------------------------------------------------------------------------------

ODD = {
    "my table": {"_id": "VARCHAR", 'a "b"': "DOUBLE", "größe": "DOUBLE", "x.y": "VARCHAR"},
    "other": {"x.y": "VARCHAR", "Value": "DOUBLE"},
}


def sql_builder(query, *before):
    def build(connection):
        for one in before:
            connection.execute(one)
        return connection.sql(query).df()

    return build


@pytest.mark.parametrize("query, column, expected", [
    ('SELECT "a ""b""" + größe AS s FROM "my table"', "s",
     {("my table", 'a "b"'): {"TRANSFORMATION"}, ("my table", "größe"): {"TRANSFORMATION"}}),
    ('SELECT o.value FROM "my table" m LEFT JOIN other o ON m."x.y" = o."x.y"', "Value",
     {("other", "Value"): {"IDENTITY"}, ("my table", "x.y"): {"JOIN"}, ("other", "x.y"): {"JOIN"}}),
    ('SELECT größe AS v FROM "my table" UNION ALL SELECT value FROM other', "v",
     {("my table", "größe"): {"IDENTITY"}, ("other", "Value"): {"IDENTITY"}}),
    ('WITH c AS (SELECT max(value) AS top FROM other) SELECT größe / (SELECT top FROM c) AS v FROM "my table"', "v",
     {("my table", "größe"): {"TRANSFORMATION"}, ("other", "Value"): {"AGGREGATION"}}),
    ('SELECT avg(größe) OVER (PARTITION BY "x.y") AS v FROM "my table"', "v",
     {("my table", "größe"): {"AGGREGATION"}, ("my table", "x.y"): {"WINDOW"}}),
    ('SELECT count(*) AS v FROM "my table" WHERE größe > 1', "v", {("my table", "größe"): {"FILTER"}}),
    ('SELECT * EXCLUDE (größe) FROM "my table"', 'a "b"', {("my table", 'a "b"'): {"IDENTITY"}}),
])  # fmt: skip
def test_queries_are_read(query, column, expected):
    with duckdb.connect() as connection:  # the query is one that DuckDB takes
        for name, columns in ODD.items():
            typed = ", ".join('"' + one.replace('"', '""') + f'" {kind}' for one, kind in columns.items())
            connection.execute(f'CREATE TABLE "{name}" ({typed})')
        connection.sql(query)
    found = builder_lineage(sql_builder(query), ODD)
    assert {how: found[how] for how in found if how.lower() == column.lower()} == {column: expected}


def test_relations_are_followed():
    def build(connection):
        connection.table("other").filter("Value > 1").create_view("big")
        return connection.table("big").project('"x.y" AS name, Value * 2 AS twice').df()

    assert builder_lineage(build, ODD)["twice"] == {("other", "Value"): {"TRANSFORMATION", "FILTER"}}


@pytest.mark.parametrize("build, reason", [
    (lambda connection: connection.sql("SELECT value FROM other").df() * 2, "goes on in Python"),
    (lambda connection: pd.DataFrame({"a": [1]}), "goes on in Python"),
    (sql_builder("SELECT value FROM other", "DELETE FROM other"), "changes a table"),
    (sql_builder("SELECT nothing FROM other"), "does not run on empty tables"),
    (lambda connection: connection.read_csv("x.csv").df(), "brings in data"),
])  # fmt: skip
def test_what_cannot_be_read_is_said(build, reason):
    with pytest.raises(Untraceable, match=reason):
        builder_lineage(build, ODD)


def test_a_statement_that_is_no_sql():
    with pytest.raises(Untraceable, match="cannot be read"):
        query_lineage([], "SELECT FROM WHERE ((", {})


def test_an_experiment_finds_nothing_that_the_query_does_not_say(tmp_path):
    rows = pd.DataFrame(
        {"n": range(40), "a": [i * 7 % 11 for i in range(40)], "b": list("xyzw") * 10, "c": [i % 5 for i in range(40)]}
    )
    rows.to_parquet(tmp_path / "t.parquet")
    pd.DataFrame({"b": list("xyz"), "w": [1.0, 2.5, 4.0], "unused": 1}).to_parquet(tmp_path / "d.parquet")
    build = sql_builder(
        "SELECT n AS _id, a * w AS aw, sum(a) OVER (PARTITION BY b ORDER BY n) AS run, usual "
        "FROM t LEFT JOIN d USING (b) LEFT JOIN m USING (c)",
        "CREATE VIEW m AS SELECT c, avg(a) AS usual FROM t WHERE a < 9 GROUP BY c",
    )
    typed = {
        "t": {"n": "BIGINT", "a": "BIGINT", "b": "VARCHAR", "c": "BIGINT"},
        "d": {"b": "VARCHAR", "w": "DOUBLE", "unused": "BIGINT"},
    }
    read = builder_lineage(build, typed)
    tried, untold = experiment(build, {name: [str(tmp_path / f"{name}.parquet")] for name in "td"}, times={})
    assert untold == ["t.n"]  # the key
    assert {*tried["aw"]} == {*read["aw"]} and {*tried["usual"]} == {*read["usual"]}
    assert {("t", "a"), ("t", "b")} == {*tried["run"]} < {*read["run"]}
    assert ("d", "unused") not in {one for found in (read, tried) for how in found.values() for one in how}


# --- Real runs -----------------------------------------------------------------------------------------------------------

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A small project with odd names and a builder, run for two periods with an endpoint that is down."""
    folder = make_project(tmp_path_factory.mktemp("small") / "p", kind="binary", time="month", features={"builder": "built:build"},
                          lineage={"url": "http://127.0.0.1:9", "namespace": "test", "timeout_seconds": 1})  # fmt: skip
    (folder / "built.py").write_text('''
def build(connection):
    """Joins each thing with the mean of its place."""
    connection.execute("CREATE VIEW places AS SELECT place, avg(größe) AS usual FROM things GROUP BY place")
    return connection.sql("""
        SELECT number::VARCHAR AS _id, _time, outcome, größe * 2 AS "double größe", "weight kg", usual
        FROM things LEFT JOIN places USING (place)""").df()
''')
    done = command(folder, "replay", "--from", "2024-01", "--to", "2024-02")
    assert done.returncode == 0, done.stderr
    return folder, done


@slow
def test_every_stage_says_start_and_complete(ran):
    folder, done = ran
    events = list(lineage.read_events(folder / "store"))
    for event in events:
        check_event(event)
    stages = sorted(one.name for one in (folder / "store/products/2024-01").iterdir() if one.is_dir())
    told = {
        (one["run"]["facets"]["nbops_stage"]["period"], one["job"]["name"], one["eventType"])
        for one in events
        if "nbops_stage" in one["run"]["facets"]
    }
    assert told == {
        (period, f"small.{stage}", state)
        for period in ("2024-01", "2024-02")
        for stage in stages
        for state in ("START", "COMPLETE")
    }
    assert (
        done.stderr.count("cannot be reached") == 2 or (done.stdout + done.stderr).count("cannot be reached") == 2
    )  # one a run
    features = next(
        one for one in events if one["job"]["name"] == "small.30_features" and one["eventType"] == "COMPLETE"
    )
    facet = features["outputs"][0]["facets"]["columnLineage"]["fields"]
    [source] = facet["double größe"]["inputFields"]
    assert (source["namespace"], source["name"], source["field"]) == ("test", "20_validate.valid.things", "größe")
    assert {one["field"] for one in facet["usual"]["inputFields"]} == {"größe", "place"} and "outcome" == facet[
        "_label"
    ]["inputFields"][0]["field"]
    done = {one["job"]["name"]: one for one in reversed(events) if one["eventType"] == "COMPLETE"}  # of the first run
    checked, profiled = (done[f"small.{name}"]["inputs"][0]["inputFacets"] for name in ("20_validate", "25_profile"))
    metrics = profiled["dataQualityMetrics"]
    pieces = [
        pd.read_parquet(folder / "store" / one["file"])
        for one in json.loads((folder / "store/products/2024-01/10_ingest/snapshot.json").read_text())["tables"][
            "things"
        ]["pieces"]
    ]
    rows = pd.concat(pieces)
    assert metrics["rowCount"] == len(rows)
    weight = rows["weight kg"]
    found = metrics["columnMetrics"]["weight kg"]
    assert (found["nullCount"], found["min"], found["max"]) == (weight.isna().sum(), weight.min(), weight.max())
    assert all(one["success"] for one in checked["dataQualityAssertions"]["assertions"])


@slow
def test_a_run_with_nothing_to_do_adds_no_event(ran):
    folder, _ = ran
    before = lineage.events_file(folder / "store").read_bytes()
    assert "0 of 12 stages ran" in command(folder, "run", "--period", "2024-02").stdout
    assert lineage.events_file(folder / "store").read_bytes() == before


@slow
def test_the_graph_answers(ran):
    folder, _ = ran
    project, store = load_project(folder), folder / "store"
    graph = build_graph(project, store)
    assert graph.notes == []
    up = part_of(graph, "model:1", [walk(graph, "model:1", up=True)])
    ids = {one["id"] for one in up["nodes"]}
    assert {
        "source:things",
        "column:things.größe",
        "feature:double größe",
        "snapshot:2024-01",
        "training:2024-01",
    } <= ids
    down = {
        one["id"]
        for one in part_of(graph, "column:things.größe", [walk(graph, "column:things.größe", up=False)])["nodes"]
    }
    assert {
        "feature:usual",
        "feature:double größe",
        "model:1",
        "predictions:2024-02",
    } <= down and "feature:weight kg" not in down
    digest = json.loads((store / "products/2024-02/10_ingest/snapshot.json").read_text())["digest"]
    row = pd.read_parquet(store / "products/2024-02/40_score/predictions.parquet")["_id"].iloc[0]
    expected = {"v1": "model:1", "small/1": "model:1", "things.größe": "column:things.größe", "usual": "feature:usual",
                "2024-01": "period:2024-01",
                digest[:10]: "snapshot:2024-02", "30_features": "stage:2024-02/30_features",
                row: f"prediction:{row}", "things": "source:things"}  # fmt: skip
    assert {subject: find_subject(graph, project, subject).id for subject in expected} == expected
    assert {one["id"] for one in walk(graph, f"prediction:{row}", up=True)} >= {"model:1", "valid:2024-02"}
    with pytest.raises(InputError, match='did you mean "things.größe"'):
        find_subject(graph, project, "things.große")
    assert draw(up).count('<g class="node') == len(up["nodes"])


@slow
def test_the_command(ran, tmp_path):
    folder, _ = ran
    done = command(folder, "lineage", "v1", "--draw", str(tmp_path / "v1.html"))
    assert done.returncode == 0 and "double größe  from things.größe (transformation)" in done.stdout, done.stderr
    assert (
        done.stdout.splitlines()[-1].startswith("model v1: ")
        and "<script src" not in (tmp_path / "v1.html").read_text()
    )
    found = json.loads(command(folder, "lineage", "usual", "--up", "--depth", "1", "--json").stdout)
    assert {one["id"] for one in found["nodes"]} == {"feature:usual", "column:things.größe", "column:things.place"}
    wrong = command(folder, "lineage", "usuall")
    assert wrong.returncode == 2 and 'did you mean "usual"' in wrong.stderr and "Traceback" not in wrong.stderr
    assert command(folder, "lineage", "v1", "--draw", "v1.png").returncode == 2


@slow
def test_runs_from_before_there_were_events(ran):
    folder, _ = ran
    file = lineage.events_file(folder / "store")
    kept = file.rename(file.with_suffix(".kept"))
    try:
        graph = build_graph(load_project(folder), folder / "store")
    finally:
        kept.rename(file)
    assert graph.notes == [
        "2024-01, 2024-02: no lineage was recorded for the features; shown is what the feature code does now"
    ]
    assert ("column:things.größe", "feature:double größe", "transformation") in graph.edges
    assert any(edge[:2] == ("training:2024-01", "model:1") for edge in graph.edges)


@slow
def test_a_stage_that_is_interrupted_or_fails(tmp_path):
    folder = make_project(tmp_path / "p", kind="binary", stages=1)
    notebook = folder / "notebooks/stages/10_ingest.ipynb"
    original = nbformat.read(notebook, as_version=4)
    for code, state, number in (
        ("import time\n\ntime.sleep(120)", "ABORT", 130),
        ("raise ValueError('no rows')", "FAIL", 1),
    ):
        changed = nbformat.from_dict(json.loads(json.dumps(original)))
        changed.cells.append(nbformat.v4.new_code_cell(code))
        nbformat.write(changed, notebook)
        run = subprocess.Popen(
            [Path(sys.executable).with_name("nbops"), "run"],
            cwd=folder,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        seen, end = len(list(lineage.read_events(folder / "store"))), time.monotonic() + 60
        while (
            state == "ABORT" and len(list(lineage.read_events(folder / "store"))) < seen + 2 and time.monotonic() < end
        ):
            time.sleep(0.05)
        if state == "ABORT":
            run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=90)
        assert run.returncode == number, said
        events = list(lineage.read_events(folder / "store"))[seen:]
        for event in events:
            check_event(event)
        assert [(one["eventType"], one["job"]["name"]) for one in events] == [
            ("START", "small"),
            ("START", "small.10_ingest"),
            (state, "small.10_ingest"),
            (state, "small"),
        ]
    change(folder / "project.yaml", lineage={"url": "http://127.0.0.1:9", "api_key": "env:NOT_SET"})
    done = command(folder, "run")
    assert done.returncode == 2 and "NOT_SET" in done.stderr  # before anything runs
