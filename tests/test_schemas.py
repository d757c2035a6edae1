"""Schemas and profiles: every rule for readers, the pipeline that stops and goes on, and numbers held against pandas."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nbops.base import InputError, parse_yaml
from nbops.config import load_project
from nbops.contracts import column_types, load_contract
from nbops.profiles import Profile, profile_change, profile_files, profile_snapshot, worth_telling
from nbops.schemas import (
    Column,
    Evolution,
    Schema,
    diff_schemas,
    read_schema,
    schema_of_contract,
    schema_of_snapshot,
    snapshot_before,
    type_change,
)
from nbops.snapshots import take_snapshot
from nbops.sources import write_json
from small_project import change, command, environment, make_project, make_table

ROOT = Path(__file__).parents[1]


def schema(*columns, table="things"):
    return Schema(tables={table: list(columns)})


def column(name="größe", type="number", **more):
    return Column(name=name, type=type, **more)


# --- the rules for readers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "kind", "breaking"),
    [
        ({"type": "integer 32 bit"}, {"type": "integer"}, "type widened", False),
        ({"type": "number 32 bit"}, {"type": "number"}, "type widened", False),
        ({"type": "decimal(10,2)"}, {"type": "decimal(12,2)"}, "type widened", False),
        ({"type": "integer"}, {"type": "number"}, "type widened", True),
        ({"type": "date"}, {"type": "timestamp"}, "type widened", True),
        ({"type": "integer"}, {"type": "string"}, "type widened", True),
        ({"type": "number"}, {"type": "integer"}, "type narrowed", True),
        ({"type": "integer"}, {"type": "integer 32 bit"}, "type narrowed", True),
        ({"type": "integer"}, {"type": "unsigned integer 64 bit"}, "type changed", True),
        ({"type": "decimal(10,2)"}, {"type": "decimal(10,4)"}, "type changed", True),
        ({"type": "string"}, {"type": "integer"}, "type narrowed", True),
        ({"type": "boolean"}, {"type": "integer"}, "type changed", True),
        ({"nullable": False}, {"nullable": True}, "made optional", True),
        ({"nullable": True}, {"nullable": False}, "made required", False),
        ({"unit": "min"}, {"unit": "s"}, "unit changed", True),
        ({"unit": "min"}, {}, "unit changed", True),
        ({}, {"unit": "min"}, "unit stated", False),
        ({"categories": ["a"]}, {"categories": ["a", "b"]}, "category added", True),
        ({"categories": ["a", "b"]}, {"categories": ["a"]}, "category removed", False),
        ({"categories": ["a"]}, {}, "categories opened", True),
        ({}, {"categories": ["a"]}, "categories closed", False),
    ],
)
def test_every_rule(before, after, kind, breaking):
    found = diff_schemas(schema(column(**before)), schema(column(**after)))
    assert [(one.kind, one.breaking) for one in found] == [(kind, breaking)]
    assert "things.größe" in found[0].sentence


def test_columns_and_tables_that_come_and_go():
    old = Schema(tables={"a": [column("x"), column("y", "string")], "gone": []})
    new = Schema(tables={"a": [column("x"), column("z q", "date")], "new": []})
    found = {(one.kind, one.table, one.column): one.breaking for one in diff_schemas(old, new)}
    assert found == {
        ("column removed", "a", "y"): True, ("column added", "a", "z q"): False,
        ("table removed", "gone", None): True, ("table added", "new", None): False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "renamed"),
    [
        ("depDelay", "dep_delay", True),
        ("weight kg", "weight", True),
        ("Preis", "price", True),  # the only one that changed, and in the same place
        ("preis", "", False),
        ("東京", "São Paulo", False),
    ],
)
def test_a_new_name_is_recognized(old, new, renamed):
    others = [column("number", "integer"), column("place", "string")]
    more = [] if renamed else [column("one more")]
    changes = diff_schemas(schema(column(old), *others), schema(*more, column(new), *others))
    kinds = {one.kind for one in changes}
    assert kinds == ({"column renamed"} if renamed else {"column removed", "column added"})
    assert any(one.breaking for one in changes)


def test_a_renamed_column_may_be_changed_too():
    found = diff_schemas(schema(column("dep_delay", unit="min")), schema(column("depDelay", unit="s")))
    assert [one.kind for one in found] == ["column renamed", "unit changed"]


def test_a_change_of_type_is_not_a_new_name():
    found = diff_schemas(schema(column("dep_delay")), schema(column("depDelay", "string")))
    assert {one.kind for one in found} == {"column removed", "column added"}


def test_nothing_differs_exactly_where_the_digests_are_equal():
    rng = np.random.default_rng(3)
    types = ["integer", "integer 32 bit", "number", "string", "decimal(9,2)", "date", "bigint[]"]
    made = []
    for _ in range(40):
        columns = [
            column(
                name, str(rng.choice(types)), nullable=bool(rng.integers(2)), unit=[None, "m"][rng.integers(2)],
                categories=[None, ["a"], ["a", "b"]][rng.integers(3)], description=str(rng.random()),
            )
            for name in rng.permutation(["a", "b b", "ç"])[: rng.integers(1, 4)]
        ]  # fmt: skip
        made.append(schema(*columns))
    for old in made:
        assert diff_schemas(old, schema(*reversed(old.tables["things"]))) == []
        for new in made:
            assert (diff_schemas(old, new) == []) == (old.digest == new.digest)


def test_widening_is_the_reverse_of_narrowing():
    words = ["integer 8 bit", "integer 32 bit", "integer", "unsigned integer 8 bit", "number", "number 32 bit", "decimal(9,2)", "date",
             "timestamp", "timestamp without zone", "string", "boolean"]  # fmt: skip
    turned = {"type widened": "type narrowed", "type narrowed": "type widened", "type changed": "type changed"}
    for before in words:
        for after in words:
            if before != after:
                assert type_change(after, before)[0] == turned[type_change(before, after)[0]], (before, after)


# --- where schemas come from -----------------------------------------------------------------------------------------


def test_a_schema_is_read_back_and_an_edited_one_is_refused(tmp_path):
    old = schema(column(categories=["ä", "b"], unit="€"), column("number", "integer", nullable=False))
    file = write_json(old, tmp_path / "schema.json")
    assert read_schema(str(file)) == old
    facts = json.loads(file.read_text())
    facts["tables"]["things"][0]["unit"] = "$"
    file.write_text(json.dumps(facts))
    with pytest.raises(InputError, match="it was edited"):
        read_schema(str(file))
    file.write_text(json.dumps(facts | {"format": 2}))
    with pytest.raises(InputError, match="format 1"):
        read_schema(str(file))


FORMAT_1 = """{"format": 1, "tables": {"orders": [{"name": "price", "type": "number", "nullable": true, "categories": null, "unit": "EUR",
"description": ""}]}, "digest": "%s"}"""


def test_a_schema_of_format_1_can_be_read(tmp_path):
    """Golden: written by hand, as the first version of this module wrote it."""
    right = schema(column("price", unit="EUR"), table="orders")
    (tmp_path / "old.json").write_text(FORMAT_1 % right.digest)
    assert read_schema(str(tmp_path / "old.json")) == right
    assert right.digest.startswith("8b9241cc7701")


def test_contract_and_snapshot_of_a_csv_agree(tmp_path):
    project = load_project(make_project(tmp_path / "p", time="month"))
    contract = load_contract(project.root)
    snapshot = take_snapshot(project, "2024-01", store=tmp_path / "store", types=column_types(contract))
    assert diff_schemas(schema_of_contract(contract), schema_of_snapshot(snapshot, contract)) == []
    manifest = write_json(snapshot, tmp_path / "snapshot.json")
    assert read_schema(str(manifest), project) == schema_of_snapshot(snapshot, contract)
    assert read_schema(str(project.root / "contract.yaml")).digest == schema_of_contract(contract).digest


def test_units_and_categories_of_the_contract(tmp_path):
    text = (ROOT / "contract.yaml").read_text()
    old = read_schema(str(ROOT / "contract.yaml"))
    assert next(one for one in old.tables["flights"] if one.name == "origin").categories == ["EWR", "JFK", "LGA"]
    minutes = "{name: air_time, logicalType: integer, customProperties: [{property: unit, value: %s}]}"
    line = next(one for one in text.splitlines() if "name: air_time" in one)
    for unit in ("minutes", "seconds"):
        (tmp_path / f"{unit}.yaml").write_text(text.replace(line.strip().removeprefix("- "), minutes % unit))
    found = diff_schemas(*(read_schema(str(tmp_path / f"{unit}.yaml")) for unit in ("minutes", "seconds")))
    assert [(one.column, one.kind, one.breaking) for one in found] == [("air_time", "unit changed", True)]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read"), ("[]", "cannot be read"), ('{"tables": 3}', "cannot be read"), ('{"as_of": null}', "cannot be read")],
)  # fmt: skip
def test_what_is_no_schema(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_schema(str(tmp_path / "x.json"))


def test_no_such_period(tmp_path):
    write_json(schema(column()), tmp_path / "products/2024-01/10_ingest/schema.json")
    assert read_schema("2024-01", None, tmp_path) == schema(column())
    for word in ("2024-1", "../2024-01", "none.yaml"):
        with pytest.raises(InputError, match="recorded periods: 2024-01"):
            read_schema(word, None, tmp_path)


def test_what_lies_before_a_period(tmp_path):
    assert snapshot_before(tmp_path, "2024-01") == "nothing"
    for period, name in {"2024-01": "a", "2024-03": "b"}.items():
        write_json(schema(column(name)), tmp_path / f"products/{period}/10_ingest/schema.json")
    first, second = snapshot_before(tmp_path, "2024-03"), snapshot_before(tmp_path, "2024-04")
    assert snapshot_before(tmp_path, "2024-01") == "nothing"
    assert (first[:8], second[:8]) == ("2024-01:", "2024-03:") and first == snapshot_before(tmp_path, "2024-02")
    write_json(schema(column("c")), tmp_path / "products/2024-01/10_ingest/schema.json")
    assert snapshot_before(tmp_path, "2024-03") != first


# --- the pipeline ----------------------------------------------------------------------------------------------------


def evolution(folder, period):
    file = folder / f"store/products/{period}/10_ingest/schema_changes.json"
    return Evolution.model_validate_json(file.read_text(encoding="utf-8"))


def ledger(folder, period):
    from nbops.ledger import records

    return [one["payload"]["verdict"] for one in records(folder / "store", "schema") if one["subject"].endswith(period)]


@pytest.mark.slow
def test_a_compatible_change_is_noted_and_a_breaking_one_stops(tmp_path):
    table = make_table("binary", time="month")
    folder = make_project(
        tmp_path / "p", kind="binary", time="month", table=table, stages=1, file="rows.parquet"
    )  # a text file would keep what nobody declared as text
    assert command(folder, "run", "--period", "2024-01").returncode == 0
    assert evolution(folder, "2024-01").verdict == "first"

    table.assign(**{'the "colour"': "red"}).to_parquet(folder / "rows.parquet", index=False)
    noted = command(folder, "run", "--period", "2024-02")
    assert noted.returncode == 0 and "readers can go on" in noted.stderr, noted.stderr
    found = evolution(folder, "2024-02")
    assert (found.verdict, found.previous) == ("compatible", "2024-01")
    assert found.undeclared == ['things.the "colour"'] and [one.kind for one in found.changes] == ["column added"]

    table.assign(**{'the "colour"': 7}).to_parquet(folder / "rows.parquet", index=False)  # a text became a number
    stopped = command(folder, "run", "--period", "2024-03")
    assert stopped.returncode == 2, stopped.stderr
    assert 'things.the "colour" was string, is integer (type narrowed)' in stopped.stderr
    assert "Traceback" not in stopped.stderr and "accept: ['" in stopped.stderr
    assert not (folder / "store/products/2024-03/10_ingest/schema.json").exists()
    assert ledger(folder, "2024-03") == ["breaking"]
    digest = stopped.stderr.partition("accept: ['")[2].partition("'")[0]
    change(folder / "project.yaml", schemas={"accept": ["0" * 12, digest]})
    accepted = command(folder, "run", "--period", "2024-03")
    assert accepted.returncode == 0, accepted.stderr
    assert evolution(folder, "2024-03").verdict == "accepted" and ledger(folder, "2024-03") == ["breaking", "accepted"]
    assert (
        "0 of 1 stages ran" in command(folder, "run", "--period", "2024-03").stdout
    )  # nothing depends on what ran before

    why = json.loads(command(folder, "why", "10_ingest", "--period", "2024-02", "--json").stdout)
    leaves = [one["leaf"] for one in why["stages"]["10_ingest"]]
    assert leaves and not any("accept" in leaf for leaf in leaves), (
        leaves
    )  # the source changed, what is accepted counts where it was asked

    table.drop(columns="weight kg").to_parquet(
        folder / "rows.parquet", index=False
    )  # and a digest accepts one schema only
    contract = json.loads(
        json.dumps(__import__("yaml").safe_load((folder / "contract.yaml").read_text(encoding="utf-8")))
    )
    contract["schema"][0]["properties"] = [
        one for one in contract["schema"][0]["properties"] if one["name"] != "weight kg"
    ]
    change(folder / "contract.yaml", schema=contract["schema"])
    gone = command(folder, "run", "--period", "2024-03", "--json")
    assert gone.returncode == 2 and "weight kg (number) is gone" in gone.stdout + gone.stderr
    # the failed run left the accepted one in place
    assert evolution(folder, "2024-03").verdict == "accepted"


@pytest.mark.slow
def test_the_page_of_the_period_tells_of_both(tmp_path):
    table = make_table("binary", time="month", rows=400)
    folder = make_project(tmp_path / "p", kind="binary", time="month", table=table, training={"families": ["linear"]})
    tasks = parse_yaml((folder / "pipeline.yaml").read_text(encoding="utf-8"))["tasks"]
    change(folder / "pipeline.yaml", tasks=[one for one in tasks if one["name"] != "55_drift"])
    for stage in ("10_ingest", "20_validate", "25_profile"):
        assert command(folder, "run", "--period", "2024-01", "--only", stage).returncode == 0
    late = table["when"] >= "2024-02-01"
    table["größe"] += np.where(late, 5, 0)
    table.assign(**{"<colour>": "red"}).to_csv(folder / "rows.csv", index=False)
    result = command(folder, "run", "--period", "2024-02")
    assert result.returncode == 0, result.stderr
    page = (folder / "store/products/2024-02/95_report/index.html").read_text(encoding="utf-8")
    assert "things.&lt;colour&gt; (string) is new" in page and "things.größe: mean" in page and "<colour>" not in page
    summary = json.loads((folder / "store/products/2024-02/95_report/summary.json").read_text(encoding="utf-8"))
    assert {"The schema changed"} <= {one["title"] for one in summary["health"]["attention"]}


# --- profiles --------------------------------------------------------------------------------------------------------


def odd_table(rows, seed=5):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "id": np.arange(rows),
            'the "number"': np.where(rng.random(rows) < 0.2, np.nan, rng.normal(3, 10, rows)),
            "größe; drop": rng.integers(-3, 4, rows),
            "東京": rng.choice(["", "a", "ß", "it's"], rows, p=[0.4, 0.3, 0.2, 0.1]),
            "nothing": pd.Series([None] * rows, dtype="object").astype("string"),
            "huge": rng.choice([np.inf, -np.inf, 1e200, 0.0, 1.0], rows),
            "yes": rng.random(rows) < 0.3,
            "when": pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(rng.permutation(rows), unit="h"),
        }
    )
    return table


KINDS = {"id": "BIGINT", 'the "number"': "DOUBLE", "größe; drop": "BIGINT", "東京": "VARCHAR", "nothing": "VARCHAR", "huge": "DOUBLE",
         "yes": "BOOLEAN", "when": "TIMESTAMP WITH TIME ZONE"}  # fmt: skip


def described(table, tmp_path, name="t", kinds=None):
    table.to_parquet(tmp_path / f"{name}.parquet", coerce_timestamps="us", allow_truncated_timestamps=True)
    found = profile_files([str(tmp_path / f"{name}.parquet")], kinds or KINDS, rows=len(table))
    return found.set_index("column")


@pytest.mark.parametrize("rows", [1, 12, 3000, 150_000])
def test_a_profile_says_what_pandas_says(tmp_path, rows):
    table = odd_table(rows)
    found = described(table, tmp_path)
    exact = rows <= 100_000
    for name in ("id", 'the "number"', "größe; drop"):
        values, line = table[name].dropna(), found.loc[name]
        assert line["missing"] == table[name].isna().sum() and line["rows"] == rows
        if len(values):
            assert [line["minimum"], line["maximum"]] == [values.min(), values.max()]
            assert line["mean"] == pytest.approx(values.mean(), rel=1e-9)
            assert line["negative_share"] == pytest.approx((values < 0).mean()) and line["zeros"] == (values == 0).sum()
            quartiles = line[["quartile_1", "median", "quartile_3"]].astype(float)
            spread = 1e-9 if exact else 0.02 * (values.max() - values.min())
            assert np.allclose(quartiles, values.quantile([0.25, 0.5, 0.75]), atol=spread)
        if len(values) > 1:
            assert line["sd"] == pytest.approx(values.std(), rel=1e-9)
        assert line["distinct"] == pytest.approx(values.nunique(), rel=0.15)
    counts = table["東京"].value_counts()
    top = json.loads(found.loc["東京", "top"])
    assert dict(top) == {value: count for value, count in counts.items() if count > 1}
    assert [found.loc["東京", "shortest"], found.loc["東京", "longest"]] == [
        *table["東京"].str.len().agg(["min", "max"])
    ]
    assert found.loc["nothing", "missing_share"] == 1 and json.loads(found.loc["nothing", "top"]) == []
    finite = table["huge"][np.isfinite(table["huge"])]
    assert found.loc["huge", "infinite"] == rows - len(finite)
    assert not len(finite) or found.loc["huge", "maximum"] == finite.max()
    assert found.loc["yes", "mean"] == pytest.approx(table["yes"].mean())
    assert pd.Timestamp(found.loc["when", "high"]) == table["when"].max()


def test_an_empty_table_and_types_that_hold_others(tmp_path):
    table = pd.DataFrame({"list": [[1, 2], None, [3]], "pair": [{"a": 1}, {"a": 2}, None]})
    found = described(table, tmp_path, kinds={"list": "BIGINT[]", "pair": "STRUCT(a BIGINT)"})
    assert found["missing"].tolist() == [1, 1] and found["distinct"].tolist() == [2, 2]
    nothing = profile_files([], KINDS, rows=0)
    assert nothing["rows"].eq(0).all() and nothing["missing_share"].eq(0).all()
    assert described(odd_table(0), tmp_path)["rows"].eq(0).all()


def snapshot_of(tmp_path, table, name, period="all", **settings):
    folder = make_project(tmp_path / name, table=table, file="rows.parquet", **settings)
    project = load_project(folder)
    snapshot = take_snapshot(project, period, store=folder / "store", types={})
    return profile_snapshot(snapshot, store=folder / "store", keys={"things": ["number"]}), snapshot


def test_chance_does_not_stand_out_in_small_tables(tmp_path):
    kinds = {"number": "BIGINT", "größe": "DOUBLE", "weight kg": "DOUBLE", "place": "VARCHAR", "outcome": "VARCHAR"}
    told = []
    for seed in range(12):
        pair = []
        for number in (seed, seed + 100):
            columns = described(make_table(rows=12, seed=number), tmp_path, kinds=kinds).reset_index()
            facts = {"table": "t", "scope": "snapshot", "rows": 12, "key": '["number"]', "duplicates": 0.0}
            pair.append(Profile(columns.assign(table="t", scope="snapshot"), pd.DataFrame([facts])))
        told += worth_telling(profile_change(*pair))["sentence"].tolist()
    assert len(told) <= 2, told  # of 60 columns


def test_planted_changes_stand_out(tmp_path):
    table = make_table("binary", rows=600)
    before, snapshot = snapshot_of(tmp_path, table, "a")
    now = table.assign(**{"größe": table["größe"] * 60, "extra": 1}).drop(columns="outcome")
    now["weight kg"] = now["weight kg"].where(np.arange(600) % 2 == 0)
    now["place"] = now["place"].replace("東京", "Tokyo")
    now["outcome"] = table["outcome"]
    now.loc[500:, "number"] = 7
    after, _ = snapshot_of(tmp_path, now.iloc[:599], "b")
    told = worth_telling(profile_change(before, after)).set_index("column")["measure"].to_dict()
    assert told.pop(None) == "duplicates"
    assert {"größe", "weight kg", "place", "extra"} == set(told) and told["extra"] == "column", told
    same = profile_snapshot(snapshot, store=tmp_path / "a/store", keys={"things": ["number"]})
    assert same.columns.equals(before.columns) and len(profile_change(before, same)) == 0


def test_the_rows_of_the_period_are_described_alone(tmp_path):
    table = make_table("binary", time="month", rows=400)
    found, snapshot = snapshot_of(tmp_path, table, "a", "2024-02", kind="binary", time="month")
    month = table["when"].dt.month
    assert found.tables.set_index("scope")["rows"].to_dict() == {
        "snapshot": (month <= 2).sum(),
        "period": (month == 2).sum(),
    }
    last = table.loc[month == 2, "when"].max()
    hours = found.tables.set_index("scope").loc["period", "freshness_hours"]
    assert hours == pytest.approx((pd.Timestamp("2024-03-01", tz="UTC") - last).total_seconds() / 3600)


WIDE = """
import duckdb, sys
def pick(seed, count):
    return f"(hash(i * 7 + {seed}) % {count})::BIGINT"
terms = [f"{pick(k, 10007)} / 7.0 - 500 AS n{k}" for k in range(14)]
terms += [f"{pick(k + 20, 10 ** (k % 5 + 1))} - 5 AS i{k}" for k in range(6)]
terms += [f"'w' || {pick(k + 40, 10 ** (k % 4 + 1))} AS t{k}" for k in range(6)]
terms += ["i % 3 = 0 AS b", "i AS id", "'user-' || hash(i) AS uid"]
terms += ["TIMESTAMPTZ '2024-01-01 00:00:00Z' + to_seconds(i) AS moment"]
query = f"SELECT {', '.join(terms)} FROM range(1000000) made(i)"
with duckdb.connect() as connection:
    connection.execute(f"COPY ({query}) TO '{sys.argv[1]}' (FORMAT parquet, COMPRESSION zstd)")
"""
MEASURE = """
import duckdb, json, sys, time
from nbops.profiles import profile_files
with duckdb.connect() as connection:
    kinds = connection.execute("DESCRIBE SELECT * FROM read_parquet($1)", [sys.argv[1]]).fetchall()
start = time.process_time()
found = profile_files([sys.argv[1]], {name: kind for name, kind, *_ in kinds}, rows=1_000_000)
mine = time.process_time() - start
memory = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])  # ru_maxrss begins with the parent's
start = time.process_time()
with duckdb.connect() as connection:
    connection.execute("SET threads = 1")
    connection.execute("SUMMARIZE SELECT * FROM read_parquet($1)", [sys.argv[1]]).fetchall()
print(json.dumps({"columns": len(found), "mine": mine, "usual": time.process_time() - start, "megabytes": memory / 1024}))
"""


@pytest.mark.slow
def test_a_million_rows_of_thirty_columns_take_seconds(tmp_path):
    """No more processor time than twice that of DuckDB's SUMMARIZE, which measures half as much, in bounded memory."""
    file = str(tmp_path / "wide.parquet")
    subprocess.run([sys.executable, "-c", WIDE, file], check=True, env=environment())
    result = subprocess.run([sys.executable, "-c", MEASURE, file], capture_output=True, text=True, env=environment())
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["columns"] == 30 and found["mine"] < 2 * found["usual"] and found["megabytes"] < 900, found


# ---------------------------------------------------------------- the command


def test_the_command_that_compares(tmp_path):
    old, wider, narrower = (tmp_path / f"{name}.yaml" for name in ("old", "wider", "narrower"))
    text = (ROOT / "contract.yaml").read_text(encoding="utf-8")
    old.write_text(text, encoding="utf-8")
    wider.write_text(
        text.replace("{name: engine, ", "{name: more, logicalType: string}\n      - {name: engine, "), encoding="utf-8"
    )
    narrower.write_text(
        text.replace("{name: dewp, logicalType: number", "{name: dewp, logicalType: integer"), encoding="utf-8"
    )
    same, added, narrowed, wrong = (
        command(ROOT, "contract", "diff", old, new, "--json") for new in (old, wider, narrower, tmp_path / "none.yaml")
    )
    assert [done.returncode for done in (same, added, narrowed, wrong)] == [0, 0, 1, 2], wrong.stderr
    assert [(one["column"], one["kind"], one["breaking"]) for one in json.loads(added.stdout)["changes"]] == [
        ("more", "column added", False)
    ]
    [change] = json.loads(narrowed.stdout)["changes"]
    assert (change["column"], change["breaking"]) == ("dewp", True)
    assert "dewp" in command(ROOT, "contract", "diff", old, narrower).stdout
