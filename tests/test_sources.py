"""Sources of every kind give the same snapshot; whatever is wrong with one is a clear error or a rejected row, and nothing is lost."""

# ruff: noqa: E501  (tables of cases)

import functools
import gzip
import http.server
import json
import os
import sqlite3
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import duckdb
import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy

from nbops.base import InputError
from nbops.config import Project, Source, Target, Time, load_project
from nbops.contracts import check_snapshot, column_types, load_contract, require_quality
from nbops.microbatches import stream_folder, write_batch
from nbops.snapshots import coverage, take_snapshot
from nbops.sources import source_state
from small_project import make_project

TYPES = {
    "number": "BIGINT",
    "größe €": "DOUBLE",
    'a "b"': "VARCHAR",
    "when": "TIMESTAMP WITH TIME ZONE",
    "ok": "BOOLEAN",
    "day": "DATE",
}
ROWS = pd.DataFrame(
    {
        "number": [1, 2, 3],
        "größe €": [0.1, None, -7.25],
        'a "b"': ['x, "y"\nz', "007", None],
        "when": pd.to_datetime(
            ["2024-01-05T10:00:00Z", "2024-02-01T00:00:00.5Z", "2024-02-29T23:59:59Z"], format="ISO8601"
        ),
        "ok": [True, None, False],
        "day": [pd.Timestamp("2024-01-05").date(), None, pd.Timestamp("2024-02-29").date()],
    }
)


def project(folder, source, **more):
    source = Source(**source) if isinstance(source, dict) else Source(path=source)
    return Project(
        name="shop", title="Shop", root=folder, sources={"rows": source}, table="rows", key=["number"],
        target=Target(column="ok", kind="binary", positive=True), **more,
    )  # fmt: skip


def snapshot(folder, source, types=TYPES, formats=None, period="all", **more):
    """The table and the rejected rows of a snapshot."""
    made = project(folder, source, **more)
    taken = take_snapshot(
        made, period, store=folder / "store", types={"rows": types}, formats={"rows": formats} if formats else None
    )
    table = taken.tables["rows"]
    parts = [pq.read_table(folder / "store" / piece.file) for piece in table.pieces]
    rejected = pq.read_table(folder / "store" / table.rejected.file).to_pylist() if table.rejected else []
    return pa.concat_tables(parts) if parts else None, rejected


def plain(table):
    return [tuple(row.values()) for row in table.to_pylist()]


# ---------------------------------------------------------------- the same rows from everywhere


@pytest.fixture
def loopback(tmp_path):
    """A folder, and the address under which an HTTP server shows it."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def to_csv(file, rows=ROWS, **options):
    rows.to_csv(file, index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ", **options)


def to_zip(file):
    to_csv(file.with_suffix(""))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file.with_suffix(""), "rows.csv")


def to_zst(file):
    to_csv(file.with_suffix(""))
    with pa.CompressedOutputStream(str(file), "zstd") as packed:
        packed.write(file.with_suffix("").read_bytes())
    file.with_suffix("").unlink()


FILES = {
    "rows.csv": to_csv,
    "rows.tsv": functools.partial(to_csv, sep="\t"),
    "semicolons.csv": functools.partial(to_csv, sep=";"),
    "bom.csv": functools.partial(to_csv, encoding="utf-8-sig"),
    "windows.csv": functools.partial(to_csv, lineterminator="\r\n"),
    "rows.csv.gz": to_csv,
    "rows.csv.bz2": to_csv,
    "rows.csv.zst": to_zst,
    "rows.csv.zip": to_zip,
    "rows.parquet": lambda file: ROWS.to_parquet(file, index=False),
    "rows.jsonl": lambda file: ROWS.astype({"day": str}).replace({"None": None}).to_json(
        file, orient="records", lines=True, date_format="iso", date_unit="us", force_ascii=False
    ),
}  # fmt: skip


@pytest.fixture
def expected(tmp_path):
    ROWS.to_parquet(tmp_path / "expected.parquet", index=False)
    table, rejected = snapshot(tmp_path, "expected.parquet")
    assert rejected == [] and table.num_rows == 3
    assert [str(one) for one in table.schema.types] == ["int64", "double", "string", "timestamp[us, tz=UTC]", "bool", "date32[day]"]  # fmt: skip
    return plain(table)


@pytest.mark.parametrize("name", FILES)
def test_files_of_every_kind_give_the_same_rows(tmp_path, expected, name):
    FILES[name](tmp_path / name)
    windows = {"lineterminator"} if name == "windows.csv" else set()
    table, rejected = snapshot(tmp_path, name)
    assert rejected == [] and plain(table) == expected, windows


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "iso-8859-15"])
def test_other_encodings_are_said(tmp_path, expected, encoding):
    to_csv(tmp_path / "rows.csv", encoding=encoding)
    table, rejected = snapshot(tmp_path, {"path": "rows.csv", "encoding": encoding})
    assert rejected == [] and plain(table) == expected
    with pytest.raises(InputError, match="say its `encoding` in project.yaml"):
        snapshot(tmp_path, "rows.csv")
    with pytest.raises(InputError, match=r"encoding is 'cp1251252'; allowed: a name that Python knows"):
        snapshot(tmp_path, {"path": "rows.csv", "encoding": "cp1251252"})


def test_several_files_with_their_columns_in_another_order(tmp_path, expected):
    to_csv(tmp_path / "part1.csv", ROWS[:1])
    to_csv(tmp_path / "part2.csv", ROWS[1:][ROWS.columns[::-1]], sep=";")
    table, rejected = snapshot(tmp_path, "part*.csv")
    assert rejected == [] and plain(table) == expected


def test_an_object_store(tmp_path, expected):
    to_csv(tmp_path / "rows.csv")
    store = fsspec.filesystem("memory")
    for name in ("one", "two"):
        store.pipe(f"/bucket-{tmp_path.name}/{name}.csv", (tmp_path / "rows.csv").read_bytes())
    table, _ = snapshot(tmp_path, f"memory://bucket-{tmp_path.name}/*.csv")
    assert plain(table) == expected * 2
    with pytest.raises(InputError, match="no such object"):
        snapshot(tmp_path, f"memory://bucket-{tmp_path.name}/none.csv")


def test_an_http_server(tmp_path, loopback, expected):
    folder, address = loopback
    to_csv(folder / "rows.csv.gz")
    table, _ = snapshot(tmp_path, f"{address}/rows.csv.gz")
    assert plain(table) == expected
    to_csv(folder / "rows.csv.gz", ROWS[:1])
    os.utime(folder / "rows.csv.gz", (1, 1))
    assert snapshot(tmp_path, f"{address}/rows.csv.gz")[0].num_rows == 1  # another state: fetched again
    for wrong in (f"{address}/none.csv", "http://127.0.0.1:1/rows.csv"):
        with pytest.raises(InputError, match=r"no such object|cannot be reached|cannot be fetched"):
            snapshot(tmp_path, wrong)


def fill(url, rows=ROWS):
    engine = sqlalchemy.create_engine(url)
    rows.to_sql("rows of 2024", engine, index=False, if_exists="replace")
    engine.dispose()


def test_sqlite(tmp_path, expected, monkeypatch):
    fill(f"sqlite:///{tmp_path}/shop.db")
    by_table, rejected = snapshot(tmp_path, {"url": "sqlite:///shop.db", "table": "rows of 2024"})
    assert rejected == [] and plain(by_table) == expected
    monkeypatch.setenv("SHOP_DB", f"sqlite:///{tmp_path}/shop.db")
    query = 'SELECT * FROM "rows of 2024" WHERE number > 1'
    assert plain(snapshot(tmp_path, {"url": "env:SHOP_DB", "query": query})[0]) == expected[1:]
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute('INSERT INTO "rows of 2024" (number, "größe €") VALUES (\'four\', 1)')  # SQLite allows it
    table, rejected = snapshot(tmp_path, {"url": "env:SHOP_DB", "table": "rows of 2024"})
    assert plain(table) == expected
    assert [(line["column"], line["value"], line["rule"]) for line in rejected] == [
        ("number", "four", "number is a whole number")
    ]


@pytest.mark.slow
def test_postgresql(tmp_path, expected, postgres, monkeypatch):
    monkeypatch.setenv("SHOP_DB", postgres)
    fill(postgres)
    source = {"url": "env:SHOP_DB", "table": "public.rows of 2024", "time": "when"}
    table, rejected = snapshot(tmp_path, {**source, "time": None})
    assert rejected == [] and plain(table) == expected
    monthly = project(tmp_path, source, time=Time(period="month"))
    assert coverage(monthly) == ("2024-01", "2024-02")
    first = take_snapshot(monthly, "2024-01", store=tmp_path / "store", types={"rows": TYPES})
    assert first.tables["rows"].rows == 1
    again = take_snapshot(monthly, "2024-01", store=tmp_path / "store", types={"rows": TYPES})
    assert again == first  # the same rows are the same snapshot, wherever they come from
    for wrong, message in [
        ({"url": "env:SHOP_DB", "table": "nowhere"}, "cannot be read"),
        ({"url": "env:SHOP_DB", "query": "SELEKT 1"}, "cannot be read"),
        ({"url": postgres, "table": "x"}, "holds a password"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            snapshot(tmp_path, wrong)
        assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_ten_million_rows_in_two_gigabytes(tmp_path):
    rows = "SELECT i AS number, (i * 7919) % 1000 / 10 AS \"größe €\", 'name ' || i % 9973 AS \"a \"\"b\"\"\", " \
           "TIMESTAMPTZ '2024-01-01 00:00:00Z' + INTERVAL (i % 5184000) SECOND AS \"when\", i % 3 = 0 AS ok, " \
           "DATE '2024-01-01' + (i % 60)::INT AS day FROM range(10000000) AS t(i)"  # fmt: skip
    duckdb.sql("SET threads = 2")
    duckdb.sql(f"COPY ({rows}) TO '{tmp_path / 'rows.csv'}' (HEADER)")
    code = f"""
from pathlib import Path
from nbops.snapshots import take_snapshot
from test_sources import TYPES, project
from nbops.config import Time
folder = Path({str(tmp_path)!r})
made = project(folder, {{"path": "rows.csv", "time": "when"}}, time=Time(period="month"))
taken = take_snapshot(made, "2024-02", store=folder / "store", types={{"rows": TYPES}})
print([piece.rows for piece in taken.tables["rows"].pieces], int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024)  # ru_maxrss begins with the parent's
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr
    counts, _, megabytes = done.stdout.strip().rpartition(" ")
    assert sum(json.loads(counts)) == 10_000_000 and int(megabytes) < 2048, done.stdout


# ---------------------------------------------------------------- what is wrong with a value


@pytest.mark.parametrize(
    ("column", "values", "kept", "rejected"),
    [
        ("number", ["1", " 2", "3.0", "1e3", "+5", "-6", ""], [1, 2, 3, 1000, 5, -6, None], []),
        ("number", ["1.5", "-0.5", "seven", "99999999999999999999", "1,000", "0x1g"], [], ["1.5", "-0.5", "seven", "99999999999999999999", "1,000", "0x1g"]),
        ("größe €", ["1", "1e-3", "nan", "NaN", ""], [1, 0.001, None, None, None], []),
        ("größe €", ["inf", "-Infinity", "1e999", "low", "1,5"], [], ["inf", "-Infinity", "1e999", "low", "1,5"]),
        ("ok", ["true", "F", "yes", "n", "1", "0"], [True, False, True, False, True, False], []),
        ("ok", ["ja", "2"], [], ["ja", "2"]),
        ("day", ["2024-02-29", "2024-1-5"], ["2024-02-29", "2024-01-05"], []),
        ("day", ["2023-02-29", "31/12/2020", "yesterday"], [], ["2023-02-29", "31/12/2020", "yesterday"]),
        ('a "b"', ["007", "1e5", "x" * 10_000, "二 行", " "], ["007", "1e5", "x" * 10_000, "二 行", " "], []),
        ("when", ["2024-05-01 12:00", "2024-05-01T12:00:00Z", "2024-05-01T12:00:00+05:30"],
         ["2024-05-01T10:00", "2024-05-01T12:00", "2024-05-01T06:30"], []),
        ("when", ["12:00", "1714557600", "2024-13-01"], [], ["12:00", "1714557600", "2024-13-01"]),
    ],
)  # fmt: skip
def test_a_value_is_what_the_contract_says_or_its_row_is_set_aside(tmp_path, column, values, kept, rejected):
    rows = pd.DataFrame({"id": range(len(values) + 1), column: [*values, ""]})
    made = {"id": "VARCHAR", column: TYPES[column]}
    berlin = Time(zone="Europe/Berlin", period="year")
    rows["moment"] = "2024-01-01T12:00"
    rows.to_csv(tmp_path / "rows.csv", index=False)
    table, lines = snapshot(tmp_path, {"path": "rows.csv", "time": "moment"}, made, period="Y2024", time=berlin)
    found = table[column].to_pylist()
    if column in ("day", "when"):
        found = [one if one is None else pd.Timestamp(one).tz_localize(None).isoformat()[: len(want)] for one, want in zip(found, [*kept, None], strict=True)]  # fmt: skip
    assert found == [*kept, None]
    assert [line["value"] for line in lines] == rejected
    assert all(json.loads(line["record"])[column] == line["value"] for line in lines)  # nothing is lost


def test_what_the_contract_does_not_declare_is_not_guessed(tmp_path):
    (tmp_path / "rows.csv").write_text("number,plz,since,share\n1,01067,2024-01-05,1.50\n2,80331,2024-02-05,2\n")
    table, rejected = snapshot(tmp_path, "rows.csv", {"number": "BIGINT"})
    found = table.select(["number", "plz", "since", "share"]).to_pylist()
    assert not rejected and found == [
        {"number": 1, "plz": "01067", "since": "2024-01-05", "share": "1.50"},
        {"number": 2, "plz": "80331", "since": "2024-02-05", "share": "2"},
    ]
    with pytest.raises(InputError, match="contract.yaml says nothing of table 'rows'.*nbops contract infer"):
        snapshot(tmp_path, "rows.csv", {})


def test_text_in_json_stays_as_it_was_written(tmp_path):
    lines = [
        {"number": 1, "code": "2024-01-05", "at": "2024-01-05T10:00:00", "n": 7},
        {"number": 2, "code": "2024-02-06"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    table, _ = snapshot(tmp_path, "rows.jsonl", {"number": "BIGINT", "code": "VARCHAR"})
    assert table["code"].to_pylist() == ["2024-01-05", "2024-02-06"]
    assert table["at"].to_pylist() == ["2024-01-05T10:00:00", None] and table["n"].to_pylist() == [7, None]


def test_dates_in_the_format_of_the_contract(tmp_path):
    (tmp_path / "rows.csv").write_text("number,day,when\n1,31/12/2020,1.2.2021 7:05\n2,2020-12-31,1.2.2021 17:05\n")
    types = {name: TYPES[name] for name in ("number", "day", "when")}
    table, rejected = snapshot(tmp_path, "rows.csv", types, {"day": "%d/%m/%Y", "when": "%d.%m.%Y %H:%M"})
    assert [str(row["day"]) for row in table.to_pylist()] == ["2020-12-31"]
    assert [(line["column"], line["value"]) for line in rejected] == [("day", "2020-12-31")]


@pytest.mark.parametrize("file", ["rows.parquet", "rows.jsonl"])
def test_wrong_types_in_typed_files(tmp_path, file):
    rows = pd.DataFrame({"number": [1.0, 2.5, None], "größe €": ["1", "x", None], "when": ["2024-01-01", "?", None]})
    rows.to_parquet(tmp_path / file) if file.endswith("parquet") else rows.to_json(
        tmp_path / file, orient="records", lines=True, force_ascii=False
    )
    types = {name: TYPES[name] for name in rows}
    table, rejected = snapshot(tmp_path, file, types)
    assert table["number"].to_pylist() == [1, None] and table["größe €"].to_pylist() == [1.0, None]
    assert [(line["column"], line["value"]) for line in rejected] == [
        ("number", "2.5"),
        ("größe €", "x"),
        ("when", "?"),
    ]


# ---------------------------------------------------------------- what is wrong with a file


@pytest.mark.parametrize(
    ("content", "kept", "why"),
    [
        ("number,ok\n1,true\n2,true,3\n3\n4,false\n", [1, 4], "Expected Number of Columns"),
        ("number,ok\n1,true\n2,\xff\n".encode("latin-1"), [1], "unicode"),
        ('number,ok\n1,true\n2,"true\n', [1], "unterminated quote"),
    ],
)
def test_lines_that_cannot_be_read_are_set_aside(tmp_path, content, kept, why):
    (tmp_path / "rows.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    table, rejected = snapshot(tmp_path, "rows.csv", {"number": "BIGINT", "ok": "VARCHAR"})
    assert table["number"].to_pylist() == kept
    assert rejected and all(why in line["rule"] and json.loads(line["record"])["line"] for line in rejected)


def truncated(file):
    ROWS.to_parquet(file)
    file.write_bytes(file.read_bytes()[:-20])


def damaged_gzip(file):
    with gzip.open(file, "wb") as packed:
        packed.write(os.urandom(10_000))
    file.write_bytes(file.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("rows.csv", lambda file: file.write_text(""), "is empty"),
        ("rows.csv", lambda file: file.write_text("number,ok,number\n1,2,3\n"), "column 'number' stands twice"),
        ("rows.csv", lambda file: file.write_text("numbr,ok\n1,2\n"), 'column \'number\' is missing (did you mean "numbr"?)'),
        ("rows.csv", lambda file: file.write_bytes(bytes(range(256))), "no text in UTF-8"),
        ("rows.csv", lambda file: file.write_text("number,ok,_period\n1,2,3\n"), "a name that nbops uses itself"),
        ("rows.parquet", truncated, "cannot be read"),
        ("rows.csv.gz", damaged_gzip, "cannot be read"),
        ("rows.csv.zip", lambda file: file.write_text("no zip"), "cannot be read"),
        ("rows.xlsx", lambda file: file.write_text("x"), "unknown kind of file 'xlsx'"),
        ("rows.jsonl", lambda file: file.write_text('{"number": 1, "ok"'), "cannot be read"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(InputError) as caught:
        snapshot(tmp_path, name, {"number": "BIGINT", "ok": "BIGINT"})
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.partial")) and not list((tmp_path / "store").rglob("*.parquet"))


def test_a_gzip_bomb_is_stopped(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    block = gzip.compress(b"number,ok\n" + b"1,1\n" * 16_000_000, 9)
    (tmp_path / "rows.csv.gz").write_bytes(block * 20)  # 1.3 GB in 1.3 MB
    with pytest.raises(InputError, match="unpacks to more than 1 GB, two hundred times its size"):
        snapshot(tmp_path, "rows.csv.gz", {"number": "BIGINT"})
    assert sum(file.stat().st_size for file in scratch.rglob("*") if file.is_file()) == 0


def test_a_table_of_nothing_but_missing_values(tmp_path):
    (tmp_path / "rows.csv").write_text("number,ok,more\n1,,\n2,,\n")
    table, rejected = snapshot(tmp_path, "rows.csv", {"number": "BIGINT", "ok": "BOOLEAN"})
    assert rejected == [] and table["ok"].to_pylist() == [None, None] and table["more"].to_pylist() == [None, None]


def test_the_same_rows_are_stored_once(tmp_path):
    """A piece's bytes depend on its rows, and not on what comes after them or on how the file was cut."""
    rows = pd.DataFrame(
        {"number": range(700_000), "when": pd.date_range("2024-01-01", periods=700_000, freq="7s", tz="UTC")}
    )
    rows.to_parquet(tmp_path / "rows.parquet", row_group_size=9999)
    monthly = {"time": Time(period="month")}
    types = {name: TYPES[name] for name in rows}
    one = take_snapshot(project(tmp_path, {"path": "rows.parquet", "time": "when"}, **monthly), "2024-01", store=tmp_path / "store", types={"rows": types})  # fmt: skip
    rows.to_csv(tmp_path / "rows.csv", index=False)
    two = take_snapshot(project(tmp_path, {"path": "rows.csv", "time": "when"}, **monthly), "2024-02", store=tmp_path / "store", types={"rows": types})  # fmt: skip
    assert one.tables["rows"].pieces[0] == two.tables["rows"].pieces[0]
    assert [piece.rows for piece in two.tables["rows"].pieces] == [382_629, 317_371]


def test_nothing_that_fits_is_said(tmp_path):
    (tmp_path / "rows.csv").write_text("number,ok\none,true\ntwo,false\n")
    with pytest.raises(
        InputError, match="has no rows in period all that can be used; 2 values do not fit, for example 'one'"
    ):
        snapshot(tmp_path, "rows.csv", {"number": "BIGINT", "ok": "BOOLEAN"})


# ---------------------------------------------------------------- what becomes of them in a run


def test_rejected_rows_are_quarantined_with_their_reason(tmp_path):
    made = load_project(make_project(tmp_path / "project", kind="regression", time="month", rows=60))
    file = made.root / "rows.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1].replace("0,", "zero,", 1), *lines[2:], "1,2,3"]))
    contract = load_contract(made.root)
    taken = take_snapshot(made, "2024-01", store=tmp_path / "store", types=column_types(contract))
    found = check_snapshot(made, contract, taken, store=tmp_path / "store")
    assert found.quarantine["value"].tolist() == ["zero", "1,2,3"]
    assert json.loads(found.quarantine["key"][0]) == {"number": "zero"}
    quality = found.quality.set_index("table").loc["things"]
    assert quality["quarantined"] == 2 and quality["rows"] == found.valid.tables["things"].rows + 2
    assert "number is a whole number" in set(found.results["rule"])
    with pytest.raises(InputError, match=r"number is a whole number|can be read"):
        require_quality(made, found.quality, found.results)  # two of some thirty rows are more than two per cent


def test_messages_of_a_stream_are_a_source(tmp_path):
    """Rows that `nbops stream` has written; one batch stands there twice, as after a kill."""
    rows = pa.table(
        {"number": [1, 2, 3], "when": ROWS["when"].tolist(), "_more": pa.nulls(3, pa.string()), "_stream": ["s"] * 3,
         "_partition": [0] * 3, "_sequence": [7, 8, 9], "_published": ROWS["when"].tolist()}
    )  # fmt: skip
    folder = stream_folder("orders", tmp_path / "store") / "rows"
    write_batch(rows.slice(0, 2), folder)
    write_batch(rows, folder)
    made = project(tmp_path, {"path": "stream://orders", "time": "when"}, time=Time(period="month"))
    assert coverage(made) == ("2024-01", "2024-02")
    types = {"rows": {"number": "BIGINT", "when": TYPES["when"]}}
    taken = take_snapshot(made, "2024-02", store=tmp_path / "store", types=types).tables["rows"]
    assert [piece.rows for piece in taken.pieces] == [1, 2] and taken.columns == types["rows"]
    before = source_state(made.sources["rows"], tmp_path, str)
    write_batch(rows.set_column(5, "_sequence", pa.array([10, 11, 12])), folder)
    assert source_state(made.sources["rows"], tmp_path, str) != before
