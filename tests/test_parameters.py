"""Parameters are held against their declarations; a secret leaves no trace, however it is written and cut into pieces."""

import base64
import copy
import html
import io
import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.parse import quote, quote_plus

import nbformat
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nbops import secrets as nbops_secrets
from nbops.base import InputError
from nbops.parameters import check_parameters, read_parameters
from nbops.secrets import (
    MASK,
    PIECE,
    Redactor,
    Secret,
    log_filter,
    redact_notebook,
    redact_output,
    redactor_for,
    references,
    resolve,
    secret,
)

ROOT = Path(__file__).parents[1]


def notebook(source, *more):
    """A notebook with a parameters cell, and further cells of code."""
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(one) for one in more]
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    return json.loads(nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})))


# ---------------------------------------------------------------- declarations


@pytest.mark.parametrize(
    ("line", "allowed", "default", "meaning"),
    [
        ("x = 3  # type: int rows to read", "int", 3, "rows to read"),
        ("x = 3  # type: float metres", "float", 3, "metres"),
        ("x = -1.5", "float", -1.5, ""),
        ("x = True", "bool", True, ""),
        ("x = None", "any", None, ""),
        ("x = {'a': 1}  # settings", "dict", {"a": 1}, ""),
        ("x = (1, 2)", "list", (1, 2), ""),
        ("x = None  # type: int | None rows, None for all", "int | None", None, "rows, None for all"),
        ("x = None  # type: str day (local time) to score", "str", None, "day (local time) to score"),
        ("x = 'a#b'  # type: str (a#b | c) colour", "str (a#b | c)", "a#b", "colour"),
        ("x = 'very slow'  # type: str (fast | 'very slow') how", "str (fast | very slow)", "very slow", "how"),
        ("x = 2  # type: int (1 | 2 | 4) workers", "int (1 | 2 | 4)", 2, "workers"),
        ("x = 0  # type: int (0 ..) rows", "int (0 ..)", 0, "rows"),
        ("x = -1  # type: float (.. 0.5) loss", "float (.. 0.5)", -1, "loss"),
        ("x = ['a']  # type: list[str] (a | b) columns", "list[str] (a | b)", ["a"], "columns"),
        ("x = [  # what follows\n    1,  # one\n    2,\n]  # type: list[int] sizes", "list[int]", [1, 2], "sizes"),
        ("x = 'data'  # type: path folder", "path", "data", "folder"),
        ("x = 1  # type: int | None (1 .. 9) digit", "int | None (1 .. 9)", 1, "digit"),
        ("x = 3  # type: ignore", "int", 3, ""),
        (r"x = '\d'  # type: str pattern", "str", r"\d", "pattern"),
    ],
)
def test_declaration(line, allowed, default, meaning):
    found = read_parameters(notebook(f"upstream = None\nproduct = None\n{line}"))
    assert list(found) == ["x"]
    assert (found["x"].allowed, found["x"].default, found["x"].meaning) == (allowed, default, meaning)


def test_a_computed_default_is_left_to_the_kernel():
    found = read_parameters(notebook("x = 1 + 1\ny = 2 * 3  # type: int six"))
    assert (found["x"].allowed, found["x"].computed, found["y"].allowed) == ("any", True, "int")
    check_parameters("10_a", notebook("y = 2 * 3  # type: int six"), {})
    with pytest.raises(InputError, match="y is 1.5, of type float; allowed: int"):
        check_parameters("10_a", notebook("y = 2 * 3  # type: int six"), {"y": 1.5})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1  # type: integer rows", "x: no type integer (did you mean \"int\"?); allowed: str, int"),
        ("x = 1  # type: int (0..9) rows", "the limits (0..9) cannot be read; allowed: (1 .. 9) or (1 | 2)"),
        ("x = 1  # type: int (minutes)", "A remark in parentheses goes after"),
        ("x = 1  # type: int (9 .. 0) rows", "limits"),
        ("x = 'a'  # type: str (a .. b)", "allowed: (one | other)"),
        ("x = 1  # type: int (1 | 2.5)", "limits"),
        ("x = 1  # type: int (1 | __import__('os'))", "cannot be read"),
        ("x = {}  # type: dict (a | b)", "allowed: none for this type"),
        ("x = 'a'  # type: str (a | b) | None", "cannot be read; allowed: `# type: TYPE meaning`"),
        ("x = 'a'  # type: int | str", "cannot be read"),
        ("x = []  # type: list[secret]", "no type list[secret]"),
        ("x = 1  # type: int[str]", "no type int[str]"),
        ("x = 1  # type:", "cannot be read"),
        ("x = 'fats'  # type: str (fast | slow) how", "x is 'fats' (did you mean \"fast\"?); allowed: str (fast | slow). "
                                                      "This is its default."),
        ("x = '1'  # type: int rows", "x is '1', of type str; allowed: int."),
        ("x: int = 3", "`x: int = 3` has an annotation, on which Ploomber's check fails. Write `x = 3  # type: int`"),
        ("import os", "line 1: `import os` is no parameter"),
        ("a, b = 1, 2", "is no parameter"),
        ("a = b = 1", "is no parameter"),
        ("x = 1\nx += 1", "line 2: `x += 1` is no parameter"),
        ("x = 1\nx = 2", "line 2: x is set twice"),
        ("x = 1; y = 2  # type: int", "line 1: y is set twice, or shares its line"),
        ("# type: int\nx = 1", "line 1: `# type: int` stands alone"),
        ("x = [  # type: list\n 1]", "stands alone"),
        ("x = = 1", "line 1 of the parameters cell is no Python: `x = = 1` (invalid syntax)"),
        ("x = 1\n%load_ext autoreload", "line 2 of the parameters cell is no Python: `%load_ext autoreload`"),
        ("x = (1,\n", "line 1 of the parameters cell is no Python: `x = (1,`"),
        ("x = '\0'", "no Python"),
    ],
)  # fmt: skip
def test_a_wrong_cell_is_refused_with_the_line_and_the_way_out(source, message):
    with pytest.raises(InputError) as error:
        read_parameters(notebook(source))
    assert message in str(error.value)
    with pytest.raises(InputError) as error:
        check_parameters("10_a", notebook(source), {})
    assert str(error.value).startswith("stage 10_a cannot start:") and message in str(error.value)


def test_exactly_one_cell_has_the_parameters():
    two = notebook("x = 1")
    two["cells"] *= 2
    with pytest.raises(InputError, match=r"2 code cells are tagged `parameters`; allowed: exactly one\. Join them"):
        read_parameters(two)
    text = notebook("x = 1")
    text["cells"][0]["cell_type"] = "markdown"
    for none in ({"cells": []}, {}, text):
        with pytest.raises(InputError, match=r"0 code cells .* Give the tag to the code cell"):
            read_parameters(none)


def test_the_stages_declare_what_the_pipeline_gives():
    for task in yaml.safe_load((ROOT / "pipeline.yaml").read_text())["tasks"]:
        stage = json.loads((ROOT / task["source"]).read_text())
        assert list(read_parameters(stage)) == list(task["params"]), task["name"]
        check_parameters(task["name"], stage, {"product": {}, "upstream": None})


# ---------------------------------------------------------------- values

SMALL = notebook(
    "upstream = None\nproduct = None\nseed = 1  # type: int seed\nshare = 1.0  # type: float (0 .. 1) share\n"
    "kind = 'fast'  # type: str (fast | slow) how\ndays = [1]  # type: list[int] (1 .. 7) days\n"
    "limit = None  # type: int | None limit\nname = 'a'  # type: str name\nfree = None\nwhere = '.'  # type: path folder",
    "print(seed, share, kind, days, limit, name, free, where)",
)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"seed": -(10**30)},
        {"share": 0},
        {"share": 1},
        {"limit": None},
        {"limit": 3},
        {"days": []},
        {"days": (1, 7)},
        {"free": {"a": [1]}},
        {"free": None},
        {"name": ""},
        {"name": "env:DB_TOKEN"},
        {"upstream": {"a": 1}, "product": "x"},
    ],
)
def test_good_values_pass(values):
    check_parameters("10_a", SMALL, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": True}, "seed is True, of type bool; allowed: int."),
        ({"seed": 3.0}, "seed is 3.0, of type float; allowed: int. Write 3."),
        (
            {"seed": "3"},
            "seed is '3', of type str; allowed: int. Text is not converted; write the value without quotes.",
        ),
        ({"seed": None}, "seed has no value; allowed: int. Give one."),
        ({"share": float("nan")}, "share is nan, which is too small"),
        ({"share": 1.01}, "share is 1.01, which is too large; allowed: float (0 .. 1)."),
        ({"kind": "FAST"}, "kind is 'FAST'; allowed: str (fast | slow)."),
        ({"kind": "env:KIND"}, "allowed: str (fast | slow)."),
        ({"days": [1, 8]}, "days has the item 8, which is too large; allowed: list[int] (1 .. 7)."),
        ({"days": [1, "2"]}, "days has the item '2', of type str"),
        ({"days": "12"}, "days is '12', of type str; allowed: list[int] (1 .. 7)."),
        ({"name": 2013}, "name is 2013, of type int; allowed: str. Write it in quotes; where it comes through {{…}}"),
        ({"where": ""}, "where is '', of type str; allowed: path."),
        ({"name": ["x" * 99]}, "name is ['" + "x" * 57 + "…"),
        ({"sead": 3}, 'sead: no such parameter (did you mean "seed"?); allowed: seed, share, kind'),
        ({7: 3}, "7: no such parameter; allowed: seed"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(InputError) as error:
        check_parameters("10_a", SMALL, values)
    assert message in str(error.value)


def test_all_problems_are_listed():
    stage = notebook("a = 1\nb = 'x'  # type: text\nc = None  # type: str day")
    with pytest.raises(InputError) as error:
        check_parameters("10_a", stage, {"a": "1", "d": 2})
    assert [line.partition(" ")[0] for line in str(error.value).replace("  - ", "").splitlines()[1:]] == [
        "b:",
        "d:",
        "a",
        "c",
    ]


def test_a_secret_that_was_given_itself_is_refused_and_not_repeated(monkeypatch, tmp_path):
    for source, values in (
        ("token = None  # type: secret token", {"token": "hunter2-Zebra"}),
        ("token = None  # type: secret token", {"token": "mysql:hunter2-Zebra"}),
        ("token = None  # type: secret token", {"token": ["hunter2-Zebra"]}),
        ("token = 'hunter2-Zebra'  # type: secret token", {}),
        ("token = None", {"tokem": "hunter2-Zebra"}),
    ):
        with pytest.raises(InputError) as error:
            check_parameters("10_a", notebook(source), values, root=tmp_path)
        assert "hunter2" not in str(error.value)
    stage = notebook("token = 'env:DB_TOKEN'  # type: secret token\nother = None  # type: secret | None token")
    check_parameters("10_a", stage, {})
    monkeypatch.delenv("DB_TOKEN", raising=False)
    with pytest.raises(InputError, match="token: env:DB_TOKEN: the environment variable DB_TOKEN is not set"):
        check_parameters("10_a", stage, {}, root=tmp_path)
    monkeypatch.setenv("DB_TOKEN", "hunter2-Zebra")
    check_parameters("10_a", stage, {}, root=tmp_path)


# ---------------------------------------------------------------- the tools that read the same cell


def test_papermill_reads_the_same_cell(tmp_path):
    import papermill

    nbformat.write(nbformat.from_dict(SMALL), tmp_path / "a.ipynb")
    found = papermill.inspect_notebook(tmp_path / "a.ipynb")
    ours = read_parameters(SMALL)
    assert list(found) == ["upstream", "product", *ours]
    for name, one in ours.items():
        if name != "free":
            assert one.allowed.startswith(found[name]["inferred_type_name"]), name
            assert found[name]["help"].endswith(one.meaning), name


@pytest.mark.slow
def test_ploomber_reads_the_same_cell(tmp_path):
    nbformat.write(nbformat.from_dict(SMALL), tmp_path / "a.ipynb")
    values = {name: one.default for name, one in read_parameters(SMALL).items()}
    task = {"source": "a.ipynb", "static_analysis": "strict", "product": {"nb": "out.ipynb"}, "params": values}

    def status():
        (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump({"tasks": [task]}))
        quiet = {**os.environ, "PLOOMBER_STATS_ENABLED": "false"}
        command = [Path(sys.executable).with_name("ploomber"), "status"]
        return subprocess.run(command, cwd=tmp_path, env=quiet, capture_output=True, text=True)

    assert status().returncode == 0, status().stderr
    task["params"] = {name: value for name, value in values.items() if name != "seed"}
    assert "Missing params: 'seed'" in status().stderr  # it did look


# ---------------------------------------------------------------- where secrets are


def test_variables_and_files_are_resolved(tmp_path, monkeypatch):
    monkeypatch.setenv("DB_TOKEN", "hunter2-Zebra\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("env:DB_TOKEN") == "hunter2-Zebra\n"  # a variable is taken as it is
    (tmp_path / "a file").write_bytes(b"hunter2-Zebra\r\n")
    (tmp_path / "two").write_bytes(b"hunter2\nZebra\n\n")
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbfhunter2")
    (tmp_path / "link").symlink_to("marked")
    (tmp_path / "a file").chmod(0o444)
    assert resolve("file:a file", tmp_path) == "hunter2-Zebra"
    assert resolve("file:two", tmp_path) == "hunter2\nZebra\n"  # one line end only
    assert resolve("file:link", tmp_path) == resolve(f"file:{tmp_path}/marked") == resolve("file:~/marked") == "hunter2"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("hunter2", "what was given is neither"),
        ("vault:hunter2", "what was given is neither"),
        ("env:hunter2 Zebra", "what was given is neither"),
        ("", "what was given is neither"),
        (None, "what was given is neither"),
        ("file:a\0b", "what was given is neither"),
        ("env:NBOPS_TOKN", 'NBOPS_TOKN is not set (did you mean "NBOPS_TOKEN"?)'),
        ("env:EMPTY", "env:EMPTY: the secret is empty"),
        ("env:PIN", "fewer than 4 characters"),
        ("env:SPACES", "fewer than 4 characters"),
        ("env:BELL", "control characters"),
        ("file:none", "none cannot be read: No such file or directory"),
        ("file:.", "is no file"),
        ("file:/dev/null", "is no file"),
        ("file:binary", "no text in UTF-8"),
        ("file:long", "that is a file, not a secret"),
        ("file:longer", "that is a file, not a secret"),
    ],
)
def test_what_cannot_be_a_secret_is_refused(reference, message, tmp_path, monkeypatch):
    for name, value in {"NBOPS_TOKEN": "x", "EMPTY": "", "PIN": "123", "SPACES": "  123  ", "BELL": "hunt\aer"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x80hunter2")
    (tmp_path / "long").write_text("x" * (nbops_secrets.LONGEST + 1))
    (tmp_path / "longer").write_text("x" * 10**6)
    with pytest.raises(InputError) as error:
        secret(reference, tmp_path)
    assert message in str(error.value) and "hunter2" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    (tmp_path / "token").write_text("hunter2")
    (tmp_path / "token").chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        resolve("file:token", tmp_path)


def test_a_file_that_everybody_may_write_is_worth_a_warning(tmp_path):
    (tmp_path / "token").write_text("hunter2")
    (tmp_path / "token").chmod(0o666)
    with pytest.warns(UserWarning, match="everybody may write to the secret file .*; run: chmod o-w"):
        assert secret("file:token", tmp_path).reveal() == "hunter2"
    redactor_for({"token": "file:token"}, root=tmp_path)  # the engine is silent: warnings are errors here


# ---------------------------------------------------------------- what a Secret shows

HIDDEN = Secret("env:DB_TOKEN", "hunter2-Zebra")


def test_a_secret_shows_its_reference_only(caplog):
    import pandas as pd
    from IPython.core.formatters import DisplayFormatter

    logging.getLogger("nbops.test").warning("%s %r", HIDDEN, [HIDDEN])
    shown = [
        f"{HIDDEN} {HIDDEN!r} {HIDDEN!s} {HIDDEN:>40}",
        str([HIDDEN, {"a": HIDDEN}]),
        pd.DataFrame({"a": [HIDDEN]}).to_html(),
        json.dumps([DisplayFormatter().format(HIDDEN)]),
        caplog.text,
    ]
    for text in shown:
        assert "secret env:DB_TOKEN" in text and "hunter2" not in text
    assert HIDDEN.reveal() == "hunter2-Zebra"


def test_a_secret_is_not_written_down():
    for write in (pickle.dumps, lambda one: pickle.dumps({"a": [one]}, protocol=0)):
        with pytest.raises(TypeError, match="<secret env:DB_TOKEN> is not pickled"):
            write(HIDDEN)
    for use in (json.dumps, lambda one: "a" + one, lambda one: "".join([one]), hash, dict, len):
        with pytest.raises(TypeError) as error:
            use(HIDDEN)
        assert "hunter2" not in str(error.value)
    assert copy.copy(HIDDEN) is copy.deepcopy({"a": HIDDEN})["a"] is HIDDEN
    assert not hasattr(HIDDEN, "__dict__")


def test_secrets_are_compared_by_value():
    assert Secret("file:a", "hunter2-Zebra") == HIDDEN == "hunter2-Zebra"
    assert HIDDEN != Secret("env:DB_TOKEN", "other") and HIDDEN != "hunter" and HIDDEN != 3 and HIDDEN != "\ud800"


# ---------------------------------------------------------------- redaction

CANARIES = {
    "word": "kn1f",
    "token": "Zq8vXw3T-pL0_ab9",
    "long": "ghp_R4nd0mT0kenW1thM0reThan50Characters/abcdefghijklm+nopqrs==",
    "wild": 'p&ss<w>rd "it\'s" \\n/ä東😀',
    "lines": "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nAASCBKcwggSjAgEAAoIBAQC7VJTU\n-----END KEY-----",
    "digits": "8140277735",
}


def spellings(value):
    """Ways to write a secret, made without the library."""
    data = value.encode()
    texts = [
        value,
        json.dumps(value),
        json.dumps(json.dumps(value)),
        json.dumps(value, ensure_ascii=False),
        repr(value),
    ]
    texts += [ascii(value), str(data), repr({"it's": f'"{value}"'}), html.escape(value), html.escape(json.dumps(value))]
    texts += [
        quote(value),
        quote(value, safe=""),
        quote_plus(value),
        quote(quote(value)),
        data.hex(),
        data.hex().upper(),
    ]
    for before in range(4):
        for after in range(3):
            padded = b"u" * before + data + b"v" * after
            texts += [base64.b64encode(padded).decode(), base64.urlsafe_b64encode(padded).decode()]
    texts += [base64.encodebytes(data).decode(), quote_plus(base64.b64encode(data).decode())]
    return texts


def parts(value):
    """What must not be left of a secret: its two halves, or the whole of a short one."""
    half = len(value) // 2
    return [value] if half < 4 else [value[:half], value[half:]]


@pytest.mark.parametrize("name", CANARIES)
def test_every_spelling_is_hidden(name):
    value = CANARIES[name]
    redactor = Redactor([value])
    for text in spellings(value):
        clean = redactor.redact(f"before {text} after")
        assert clean.startswith("before ") and clean.endswith(" after") and MASK in clean, text
        left = clean.replace(MASK, "").removeprefix("before ").removesuffix(" after")
        assert len(left) <= 14, (text, left)  # quotes, padding, the neighbours' base64
        assert not any(part in clean for part in parts(value))
    assert redactor.redact("nothing to hide") == "nothing to hide"
    assert value not in repr(redactor) and redactor.redact(redactor.redact(value)) == MASK


def test_parts_of_a_long_secret_are_hidden():
    value = CANARIES["long"]
    redactor = Redactor([value])
    assert redactor.redact(f"{value[:47]}...") == f"{MASK}..."  # a wide column in pandas
    assert redactor.redact("\n".join(textwrap.wrap(value, 20))) == f"{MASK}\n{MASK}\n{MASK}\n{value[60:]}"
    assert redactor.redact(value[:PIECE]) == MASK and redactor.redact(value[: PIECE - 1]) != MASK
    key = Redactor([CANARIES["lines"]])
    told = key.redact("".join(f"> {line}\n" for line in CANARIES["lines"].splitlines()))
    assert told.replace("\n", "") == f"> {MASK}" * 4  # a line's end may go with it


def test_overlapping_secrets_are_hidden_together():
    redactor = Redactor(["abcdef", "defghi", "hunter"])
    assert redactor.redact("abcdefghi") == MASK and redactor.redact("xdefghi") == f"x{MASK}"
    assert redactor.redact("hunterhunter") == MASK + MASK
    assert Redactor(["0000"]).redact("1" + "0" * 50 + "1") == f"1{MASK}1"


def test_colours_do_not_hide_a_secret_and_survive():
    redactor = Redactor(["hunter2-Zebra"])
    assert (
        redactor.redact("\x1b[31mhunter2\x1b[39m-\x1b[1;32mZebra\x1b[0m!")
        == f"\x1b[31m{MASK}\x1b[39m\x1b[1;32m\x1b[0m!"
    )


def test_a_redactor_refuses_what_it_cannot_hide():
    for bad in ("", "abc", "   \n", "a\x1b[31mbcd"):
        with pytest.raises(InputError) as error:
            Redactor(["good one", bad])
        assert not bad.strip() or bad not in str(error.value)
    assert Redactor([]).redact("abc") == Redactor([]).feed("abc") == "abc"


LETTERS = "abA1/ é\n'"
SECRET = st.text(LETTERS, min_size=4, max_size=40).filter(lambda text: not nbops_secrets._unfit(text))


@st.composite
def streams(draw):
    """Secrets, and a text with some of their spellings in it, cut into pieces."""
    secrets = draw(st.lists(SECRET, min_size=1, max_size=2))
    told = [one for value in secrets for one in (value, value[:17], value[2:], *spellings(value))]
    parts = draw(
        st.lists(st.sampled_from([*told, "\x1b[31m", "\x1b[", "\x1b[0m"]) | st.text(LETTERS, max_size=5), max_size=6)
    )
    text = "".join(parts)
    if draw(st.booleans()):
        text = "\x1b[1m".join(text)  # a colour after every character
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return secrets, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@settings(max_examples=100, deadline=None)
@given(streams())
@example((["aaaa"], ["a"] * 9))
@example((["aaaa", "aaab"], ["aa", "aab", "aaa"]))
@example((["abcd"], ["ab\x1b", "[3", "1mcd"]))
@example((["abcd"], ["abc", "\x1b[31", "9999"]))
def test_a_stream_in_pieces_is_the_whole(case):
    secrets, pieces = case
    redactor = Redactor(secrets)
    whole = redactor.redact("".join(pieces))
    shown = "".join([*map(redactor.feed, pieces), redactor.flush()])
    assert shown == whole
    assert not any(value in nbops_secrets.COLOUR.sub("", shown) for value in secrets)
    assert redactor.redact(whole) == whole


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=7), SECRET, st.binary(max_size=7))
def test_base64_is_hidden_wherever_it_stands(before, value, after):
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        clean = Redactor([value]).redact(encode(before + value.encode() + after).decode())
        at = len(before) * 8 // 6
        assert MASK in clean and clean.index(MASK) <= at + 1
        assert len(clean.rpartition(MASK)[2]) <= len(after) * 8 // 6 + 4


def test_a_stream_is_shown_without_delay_and_apart_from_others():
    redactor = Redactor(["hunter2-Zebra/42"])
    assert redactor.feed("step 1 of 9\n") == "step 1 of 9\n"
    assert redactor.feed("hunter2-", "stdout") + redactor.feed("Zebra-42\n", "stderr") == "Zebra-42\n"
    assert redactor.feed("Zebra/42.", "stdout") == f"{MASK}." and redactor.flush("stderr") == redactor.flush() == ""
    assert redactor.feed("hunter") == "" and redactor.flush() == "hunter"


# ---------------------------------------------------------------- notebooks


def canary_notebook(value):
    """A notebook with a secret in all its corners, in every spelling, as lists of lines and as text."""
    texts, cells = spellings(value), []
    for number, text in enumerate(texts):
        lines = text.splitlines(keepends=True)
        half = len(text) // 2
        coloured = "".join(f"\x1b[3{at % 8}m{letter}" for at, letter in enumerate(text))
        data = {"text/plain": lines, "text/html": f"<b>{text}</b>", "image/svg+xml": [f"<svg>{text}</svg>"],
                "application/json": {text: [text, {"deep": text}]}, "text/latex": text}  # fmt: skip
        outputs = [
            {"output_type": "stream", "name": "stdout", "text": [text[:half]]},
            {"output_type": "stream", "name": "stderr", "text": lines},
            {"output_type": "stream", "name": "stdout", "text": f"{text[half:]}\n"},
            {"output_type": "display_data", "data": data, "metadata": {"text/html": {text: text}}},
            {"output_type": "execute_result", "execution_count": 1, "data": data, "metadata": {}},
            {"output_type": "error", "ename": text, "evalue": text, "traceback": [*lines, coloured, f"E: {text}"]},
        ]
        cell = {"cell_type": "code", "id": f"cell-{number}", "execution_count": 1, "metadata": {"tags": [text], "a": [text]},
                "source": [f"x = 1\ny = {text}\n"], "outputs": outputs}  # fmt: skip
        cells.append(cell)
        cells.append({"cell_type": "markdown", "id": f"note-{number}", "metadata": {text: 1}, "source": text,
                      "attachments": {f"{text}.txt": {"text/plain": text}}})  # fmt: skip
    kernel = {"name": "python3", "display_name": "python3"}
    metadata = {"kernelspec": kernel, "papermill": {"parameters": {"token": value}, "path": f"{value}/a.ipynb"}}
    metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {value: {"value": value}}}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def traces(value):
    """Whatever would give a secret away in a notebook's file."""
    inner = [base64.b64encode(b"u" * shift + value.encode()).decode()[4:-4] for shift in range(3)]
    found = {value, *(text for text in spellings(value)[:16]), *inner, *parts(value)}
    found |= {text.replace("+", "-").replace("/", "_") for text in inner}
    return {text for text in found if len(text) >= 4} | {json.dumps(text)[1:-1] for text in found if len(text) >= 4}


@pytest.mark.parametrize("name", CANARIES)
def test_no_trace_of_a_canary_is_left_in_a_notebook(name):
    value = CANARIES[name]
    before = canary_notebook(value)
    kept = copy.deepcopy(before)
    clean = redact_notebook(before, Redactor([value]))
    for indent, ascii_only in ((None, True), (1, False)):
        text = json.dumps(clean, indent=indent, ensure_ascii=ascii_only)
        assert [trace for trace in traces(value) if trace in text] == []
        assert nbops_secrets.COLOUR.sub("", json.loads(json.dumps(text))).count(value) == 0
    assert any(trace in json.dumps(before) for trace in traces(value))  # they can be found
    assert before == kept and clean["metadata"]["kernelspec"] == before["metadata"]["kernelspec"]
    assert [cell["id"] for cell in clean["cells"]] == [cell["id"] for cell in before["cells"]]
    nbformat.validate(nbformat.from_dict(clean))


def test_a_number_is_text_too_and_pictures_stay():
    redactor = Redactor([CANARIES["digits"], "AAAA"])
    data = {
        "application/json": [8140277735, 81402777350, 1.5, True, None],
        "image/png": "iVBORAAAA",
        "text/plain": "AAAA",
    }
    clean = redact_output({"output_type": "display_data", "data": data, "metadata": {}}, redactor)["data"]
    assert clean["application/json"] == [MASK, 81402777350, 1.5, True, None]
    assert clean["image/png"] == "iVBORAAAA" and clean["text/plain"] == MASK


def test_a_message_of_a_kernel_is_cleaned_like_an_output():
    redactor = Redactor([CANARIES["token"]])
    content = {"name": "stdout", "text": f"a {CANARIES['token']}"}
    assert redact_output(content, redactor) == {"name": "stdout", "text": f"a {MASK}"}
    reply = {"status": "error", "ename": "E", "evalue": CANARIES["token"], "traceback": [], "execution_count": 3}
    assert redact_output(reply, redactor) == {**reply, "evalue": MASK}


CODE = """
import base64, json, logging, sys, warnings
from IPython.display import HTML, JSON, display
password = secret(token, root)
value = password.reveal()
print(password, value, repr(value), json.dumps(value), value.encode().hex())
print(value[:9], end="", flush=True); print("x", file=sys.stderr, flush=True); print(value[9:])
print(base64.b64encode(f"me:{value}".encode()).decode(), file=sys.stderr)
logging.basicConfig(); logging.warning("connecting with %s", value)
warnings.warn(value)
display(HTML(f"<b>{value}</b>"), JSON({value: [value]}), {"a": value}, password)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["token", "wild", "lines"])
def test_no_trace_of_a_canary_is_left_after_a_run(name, tmp_path, monkeypatch):
    import papermill

    value = CANARIES[name]
    (tmp_path / "token").write_text(value + "\n")
    source = notebook("token = 'file:token'  # type: secret token\nroot = '.'", "from nbops.secrets import secret",
                      CODE, "def connect(key):\n    raise ValueError('bad key ' + key)\nconnect(value)")  # fmt: skip
    nbformat.write(nbformat.from_dict(source), tmp_path / "a.ipynb")
    kernel = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "plain"}
    (tmp_path / "kernels/plain").mkdir(parents=True)
    (tmp_path / "kernels/plain/kernel.json").write_text(json.dumps(kernel | {"language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "lib"))
    values = {"root": str(tmp_path)}
    with pytest.raises(papermill.PapermillExecutionError) as error:
        papermill.execute_notebook(
            tmp_path / "a.ipynb", tmp_path / "b.ipynb", values, kernel_name="plain", progress_bar=False
        )
    redactor = redactor_for(values, source, root=tmp_path)
    executed = json.loads((tmp_path / "b.ipynb").read_text())
    assert value in "".join(
        "".join(one.get("text", "")) for cell in executed["cells"] for one in cell.get("outputs", [])
    )
    text = json.dumps(redact_notebook(executed, redactor), indent=1, ensure_ascii=False)
    assert [trace for trace in traces(value) if trace in text or trace in redactor.redact(str(error.value))] == []
    assert "<secret file:token>" in text


# ---------------------------------------------------------------- logs, references


@pytest.mark.parametrize("name", CANARIES)
def test_logs_are_clean(name):
    value, stream = CANARIES[name], io.StringIO()
    handler, logger = logging.StreamHandler(stream), logging.Logger("nbops.test")
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s %(extra)s"))
    handler.addFilter(log_filter(Redactor([value])))
    logger.addHandler(handler)
    logger.warning("connecting with %s", value, extra={"extra": {"key": [value]}})
    logger.warning({"key": value}, extra={"extra": value})
    logger.warning("%d of them", f"a {value}", extra={"extra": ""})  # a mistake: still one clean line
    try:
        raise ValueError(value)
    except ValueError:
        logger.exception("failed", extra={"extra": 3})
    text = stream.getvalue()
    assert not any(part in text for part in parts(value)) and text.count(MASK) >= 6
    assert text.count("WARNING") == 3 and "Traceback" in text and "ValueError: " + MASK in text


def test_references_are_found_in_values_and_in_code():
    values = {"a": "env:A", "b": ["x", {"c": "file:/run/key"}], "d": 3, "e": "env:not one", "f": "env:A", "g": None}
    assert references(values) == ["env:A", "file:/run/key"]
    stage = notebook("token = 'env:TOKEN'  # type: secret t", "secret(\"file:it's here\"); secret('env:B')", "# env:C")
    assert references({}, stage) == ["env:B", "env:TOKEN", "file:it's here"]


def test_a_redactor_is_built_from_what_can_be_resolved(tmp_path, monkeypatch):
    monkeypatch.setenv("A", "hunter2-Zebra")
    monkeypatch.setenv("B", "123")
    redactor = redactor_for({"a": "env:A", "b": "env:B", "c": "file:none"}, root=tmp_path)
    assert repr(redactor) == "<Redactor of 1 secrets>" and redactor.redact("hunter2-Zebra") == MASK
