"""The window over the past equals its definition, row by row, and the future never reaches it."""

from datetime import datetime, timedelta

import duckdb
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbops.features import leaks, past_window

NOON = datetime(2024, 1, 1, 12)
MINUTE = st.integers(0, 12).map(lambda minutes: NOON + timedelta(minutes=minutes))  # few moments: many ties
KEY = st.sampled_from(["a", "b", None])
ROWS = st.lists(st.tuples(MINUTE | st.none(), KEY, KEY), max_size=8)
EVENTS = st.lists(st.tuples(MINUTE | st.none(), KEY, KEY, st.integers(-3, 3) | st.none()), max_size=12)
BY = st.sampled_from([[], ["key"], ["key", "other"]])
SPAN = st.sampled_from([1, 4, 100])


@pytest.fixture(scope="module")
def window():
    """Runs `past_window` on lists of tuples: gives {_id: (total, events)}."""
    with duckdb.connect() as connection:

        def run(rows, events, by, minutes):
            connection.execute(
                "CREATE OR REPLACE TABLE rows (_id BIGINT, moment TIMESTAMP, key VARCHAR, other VARCHAR)"
            )
            connection.execute(
                "CREATE OR REPLACE TABLE events (known_at TIMESTAMP, key VARCHAR, other VARCHAR, value BIGINT)"
            )
            for name, lines in (("rows", [(number, *row) for number, row in enumerate(rows)]), ("events", events)):
                if lines:
                    connection.executemany(f"INSERT INTO {name} VALUES (?, ?, ?, ?)", lines)
            found = connection.execute(
                past_window("rows", "events", by=by, at="moment", span=f"{minutes} minutes")
            ).fetchall()
            assert len(found) == len(rows)
            return {number: counts for number, *counts in found}

        yield run


def counted(row, events, by, minutes):
    """The definition: events known before the moment, less than the span ago, that agree in every key."""
    at, *keys = row
    mine = [
        value for known_at, *others, value in events
        if None not in (at, known_at, value) and at - timedelta(minutes=minutes) < known_at < at
        and all(keys[i] is not None and keys[i] == others[i] for i in range(len(by)))
    ]  # fmt: skip
    return [sum(mine), len(mine)]


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, events=EVENTS, by=BY, minutes=SPAN)
def test_a_window_equals_its_definition(window, rows, events, by, minutes):
    assert window(rows, events, by, minutes) == {
        number: counted(row, events, by, minutes) for number, row in enumerate(rows)
    }


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, events=EVENTS, planted=EVENTS, by=BY, minutes=SPAN, now=MINUTE)
def test_what_becomes_known_later_changes_no_earlier_row(window, rows, events, planted, by, minutes, now):
    future = [event for event in planted if event[0] and event[0] >= now]
    before, after = window(rows, events, by, minutes), window(rows, events + future, by, minutes)
    earlier = [number for number, row in enumerate(rows) if row[0] is None or row[0] <= now]
    assert [before[number] for number in earlier] == [after[number] for number in earlier]


def test_a_builder_that_looks_ahead_is_found_out():
    honest = "SELECT _id, _time, sum(value) OVER (ORDER BY _time ROWS UNBOUNDED PRECEDING) AS past FROM things"
    ahead = f"SELECT *, avg(past) OVER () AS level FROM ({honest})"
    true, changed = duckdb.connect(), duckdb.connect()
    times = pd.date_range("2024-01-01", periods=6, freq="D", tz="UTC")
    for connection, late in ((true, 5), (changed, 99)):
        things = pd.DataFrame({"_id": range(6), "_time": times, "value": [1, 2, 3, 4, late, late]})
        connection.register("things", things)
    for query, expected in ((honest, []), (ahead, ["level"])):
        assert (
            leaks(
                lambda connection, query=query: connection.execute(query).df(), true, changed, until=times[3], ignore=[]
            )
            == expected
        )
