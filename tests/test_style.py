"""The notebooks and modules keep the project's habits, and each rule is seen to fail on something small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import style
from style import Cell, Notebook

ROOT = Path(__file__).parents[1]
STAGES = sorted(ROOT.glob("notebooks/stages/*.ipynb"))
LIBRARY = sorted(ROOT.glob("notebooks/lib/*.ipynb"))
REPORTS = sorted(ROOT.glob("reports/*.ipynb"))
MODULES = sorted(p for p in ROOT.glob("lib/nbops/*.py") if p.stem not in ("__init__", "__main__", "_modidx"))


def check(where, problems):
    """Fail with all problems, one a line."""
    assert not problems, "\n".join(f"{where}: {problem}" for problem in problems)


def names(paths):
    return [path.stem for path in paths]


@pytest.mark.parametrize("path", STAGES + LIBRARY + REPORTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_notebook(path):
    nb = style.read(path)
    rules = style.EVERY + {"stages": style.STAGE, "lib": style.LIBRARY, "reports": style.REPORT}[path.parent.name]
    check(path.relative_to(ROOT), [problem for rule in rules for problem in rule(nb)])


@pytest.mark.parametrize("path", LIBRARY, ids=names(LIBRARY))
def test_library_imports_only_lower_numbers(path):
    numbers = {nb.name: nb.number for nb in map(style.read, LIBRARY)}
    check(path.relative_to(ROOT), style.library_order(style.read(path), numbers))


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_module(path):
    tree = ast.parse(path.read_text())
    check(path.relative_to(ROOT), [problem for rule in style.MODULE for problem in rule(path.stem, tree)])


def test_each_library_notebook_is_one_module():
    check("lib", style.one_to_one([nb.partition("_")[2] for nb in names(LIBRARY)], names(MODULES)))


def test_each_stage_is_one_task_with_its_parameters():
    text = (ROOT / "pipeline.yaml").read_text()
    stages = [style.read(path) for path in STAGES]
    check("pipeline.yaml", style.one_screen(text) + style.stages_are_tasks(stages, yaml.safe_load(text)["tasks"]))


IMPORT_ALL = """
import importlib, pkgutil, sys, nbops
heavy, seen = set(sys.argv[1:]), set()
for module in pkgutil.iter_modules(nbops.__path__):
    importlib.import_module("nbops." + module.name)
    new = heavy & set(sys.modules) - seen
    if new: print("importing nbops." + module.name, "imports", *sorted(new))
    seen |= new
"""


def test_importing_the_library_does_nothing_heavy(tmp_path):
    run = subprocess.run([sys.executable, "-c", IMPORT_ALL, *style.HEAVY], cwd=tmp_path, capture_output=True, text=True)
    check("lib", (run.stdout + run.stderr).splitlines())
    assert list(tmp_path.iterdir()) == [], "importing the library wrote files"


# The rules themselves: each passes on something good and fails on something bad


def md(source):
    return Cell("markdown", source)


def code(source, *tags, **state):
    return Cell("code", source, tags, **state)


DEFAULT = code("#| default_exp toy")
HEAD = md(
    "# toy\n> A toy that shows how a library notebook is built, with words enough for the few lines of code in it."
)
IMPORTS = code("#| export\nimport math")
AREA = code("#| export\ndef area(r):\n    return math.pi * r**2")
SHOW = code("area(1)")
LAST = code("#| hide\nimport nbdev; nbdev.nbdev_export()")
TITLE = md("# Ingest\n\n> Take in rows.\n\n- skip_exec: true")
PARAMETERS = code("upstream = None\nproduct = None\nrows = 3  # type: int rows to read", "parameters")


def library(*cells, name="10_toy"):
    return Notebook(Path(f"{name}.ipynb"), cells or (DEFAULT, HEAD, IMPORTS, AREA, SHOW, LAST))


def stage(*cells, name="10_ingest"):
    return Notebook(Path(f"{name}.ipynb"), cells or (TITLE, PARAMETERS, code("import math"), code("math.pi * rows")))


def test_rules_accept_good_notebooks():
    assert [p for rule in style.EVERY + style.LIBRARY for p in rule(library())] == []
    assert [p for rule in style.EVERY + style.STAGE for p in rule(stage())] == []


BAD = [
    (style.parses, stage(code("1 +")), "invalid syntax"),
    (style.without_outputs, stage(code("1", outputs=("1",))), "make clean"),
    (style.without_outputs, stage(code("1", count=3)), "make clean"),
    (style.without_star_imports, stage(code("from math import *")), "name what you import"),
    (style.stage_title, stage(md("# Ingest\n> Rows.")), "skip_exec"),
    (style.stage_title, stage(md(TITLE.source + "\n\nMore.")), "exactly"),
    (style.stage_parameters, stage(TITLE), "0 cells"),
    (style.stage_parameters, stage(PARAMETERS, PARAMETERS), "2 cells"),
    (style.stage_parameters, stage(code("1"), PARAMETERS), "first code cell"),
    (
        style.stage_parameters,
        stage(code(PARAMETERS.source.replace("rows =", "rows: int ="), "parameters")),
        "without annotation",
    ),
    (style.stage_parameters, stage(code(PARAMETERS.source.replace("3", "1 + len('a')"), "parameters")), "expression"),
    (style.stage_parameters, stage(code("product = None\nupstream = None", "parameters")), "start with"),
    (style.stage_parameters, stage(code(PARAMETERS.source.partition("  #")[0], "parameters")), "# type: T meaning"),
    (style.stage_imports, stage(PARAMETERS, code("1"), code("import math")), "right after the parameters"),
    (style.stage_defines_nothing, stage(code("if 1:\n    def area(): pass")), "move it"),
    (style.stage_size, stage(code("1\n" * 16)), "at most 15"),
    (style.stage_size, stage(*[md("a")] * 31), "at most 30"),
    (style.stage_arrows, stage(code("import papermill as pm")), "only nbops."),
    (style.report_imports, stage(code("from mlflow.client import MlflowClient")), "prepared files"),
    (style.library_names, library(HEAD, HEAD, LAST), "default_exp"),
    (style.library_names, library(DEFAULT, md("# Toy"), LAST), "> purpose"),
    (style.library_names, library(DEFAULT, HEAD), "last cell"),
    (style.library_names, library(name="10_utils"), "says nothing"),
    (style.library_imports, library(IMPORTS, IMPORTS), "2 exported cells"),
    (style.library_imports, library(code("#| export\nimport math\ntau = 2 * math.pi")), "more than imports"),
    (style.library_size, library(*[md("a")] * 61), "at most 60"),
    (style.library_size, library(code("#| export\n" + "1\n" * 41)), "at most 40"),
    (style.library_size, library(code("#| export\ndef a(): ...\ndef b(): ...")), "one each"),
    (style.library_shows, library(AREA), "`area` is not used"),
    (style.library_shows, library(AREA, code("#| hide\narea(1)")), "`area` is not used"),
    (style.library_shows, library(AREA, code("1"), SHOW), "`area` is not used"),
    (style.library_shows, library(code("#| hide\nassert 1")), "move it to tests/"),
    (style.library_prose, library(md("a b"), code("1\n2\n3")), "2 words of prose for 3 lines"),
]


@pytest.mark.parametrize(
    ("rule", "notebook", "message"), BAD, ids=[f"{rule.__name__}-{message}" for rule, _, message in BAD]
)
def test_rule_refuses(rule, notebook, message):
    assert any(message in problem for problem in rule(notebook))


@pytest.mark.parametrize(
    "source", ["from nbops.late import x", "import nbops.late", "def f():\n    from nbops import late"]
)
def test_rule_refuses_an_import_of_a_higher_number(source):
    numbers = {"early": "01", "toy": "10", "late": "11"}
    assert style.library_order(library(code("from nbops.early import x"), code("import nbops.toy")), numbers) == []
    assert "only lower than 10" in style.library_order(library(code(source)), numbers)[0]


@pytest.mark.parametrize(("rule", "source", "message"), [
    (style.module_arrows, "def f():\n    import ploomber.spec", "only ['dag']"),
    (style.module_arrows, "from reports import board", "imports reports"),
    (style.module_statements, "try: f()\nexcept: pass", "bare"),
    (style.module_statements, "assert x", "`assert`"),
    (style.module_statements, "from math import *", "import *"),
    (style.module_docstrings, "def f(): ...", "first line"),
    (style.module_docstrings, f"class F:\n    '{'x' * 90}'", "under 90"),
    (style.module_docstrings, "def f(x):\n    'Gives.'", "`Parameters`"),
    (style.module_docstrings, "def f():\n    'Gives.'\n    if x:\n        return 1", "`Returns`"),
    (style.module_docstrings, "def f():\n    'Gives.'\n    yield 1", "`Yields`"),
])  # fmt: skip
def test_module_rule_refuses(rule, source, message):
    assert any(message in problem for problem in rule("toy", ast.parse(source)))


def test_module_rules_accept_good_modules():
    assert style.module_arrows("dag", ast.parse("import ploomber")) == []
    assert (
        style.module_docstrings(
            "toy",
            ast.parse('''def f(x):
    """Gives x.

    Parameters
    ----------
    x : int
        Anything.

    Returns
    -------
    int
    """
    def inner(): yield 1
    return x

@click.command()
def command(x): "Help."
'''),
        )
        == []
    )


def test_pipeline_rules_refuse():
    task = {"source": "notebooks/stages/10_ingest.ipynb", "params": {"rows": 3}}
    assert style.stages_are_tasks([stage()], [task]) == []
    renamed = style.stages_are_tasks([stage()], [task | {"params": {"row": 3}}])
    assert "only in the notebook ['rows'], only in pipeline.yaml ['row']" in renamed[0]
    orphan = style.stages_are_tasks([stage(), stage(name="20_late")], [task])
    assert "notebooks/stages has ['10_ingest.ipynb', '20_late.ipynb']" in orphan[0]
    assert "at most 100" in style.one_screen("\n" * 101)[0]
    assert len(style.one_to_one(["a", "b"], ["b", "c"])) == 2


def test_heavy_imports_are_seen(tmp_path):
    package = tmp_path / "nbops"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "toy.py").write_text("import feast")
    (tmp_path / "feast.py").touch()
    run = subprocess.run([sys.executable, "-c", IMPORT_ALL, "feast"], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout == "importing nbops.toy imports feast\n"
