"""What is special about flights is in project.yaml, contract.yaml and one module; nothing else names a flight column."""

import ast
from pathlib import Path

import pytest

from nbops.contracts import load_contract
from style import read

ROOT = Path(__file__).parents[1]
ORDINARY = {
    "year",
    "month",
    "day",
    "hour",
    "minute",
    "name",
    "type",
    "seats",
    "speed",
    "origin",
    "distance",
    "flight",
    "engine",
    "model",
    "alt",
    "dst",
    "tz",
}
OWN = {"lib/nbops/flights.py"}
PLACES = [
    path
    for path in [*ROOT.glob("lib/nbops/*.py"), *ROOT.glob("notebooks/stages/*.ipynb")]
    if str(path.relative_to(ROOT)) not in OWN
]


def columns():
    tables = load_contract(ROOT).schema_
    return {column.name for table in tables for column in table.properties} - ORDINARY | {"flights"}


def words(code):
    """Names and texts in code; docstrings and comments explain with flights, and may."""
    tree = ast.parse(code)
    explained = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and ast.get_docstring(node) is not None
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in explained:
            yield node.value


@pytest.mark.parametrize("path", PLACES, ids=lambda path: path.name)
def test_no_flight_column_is_named(path):
    code = path.read_text() if path.suffix == ".py" else "\n".join(cell.source for cell in read(path).code)
    assert not columns() & set(words(code))


def test_the_check_would_see_one():
    assert {"arr_delay", "tailnum"} <= columns() & set(words("table['arr_delay'] + table.tailnum"))
