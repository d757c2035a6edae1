"""The engine's promises: never a stale result, never a half-made one, one clear message; on toy pipelines, with real kernels."""

# ruff: noqa: E501  (cells of notebooks, each in one piece)

import contextlib
import gc
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jupyter_client.kernelspec import KernelSpecManager

from nbops import cli, dag, engine, periods
from nbops.base import InputError
from nbops.config import load_project
from nbops.inputs import Digests
from small_project import change, environment, make_project, write_yaml

# ---------------------------------------------------------------- toy pipelines


@pytest.fixture(scope="module", autouse=True)
def threads():
    """The command line's environment, so that all tests share one kernel server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = make_project(tmp_path_factory.mktemp("engine") / "toy", kind="regression", rows=20, stages=1)
    shutil.rmtree(folder / "notebooks")
    return folder


@pytest.fixture
def project(template, tmp_path):
    """A project without stages yet."""
    return Path(shutil.copytree(template, tmp_path / "project")).resolve()


def stage(folder, name, *cells, upstream=None, parameters="", products=("text",), params=None, kernel="python3"):
    """Writes a stage's notebook and gives its task. A cell is code, or a ready cell."""
    first = f"upstream = {upstream!r}\nproduct = None" + (f"\n{parameters}" if parameters else "")
    made = [nbformat.v4.new_code_cell(first, metadata={"tags": ["parameters"]})]
    made += [nbformat.v4.new_code_cell(one) if isinstance(one, str) else one for one in cells]
    spec = {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=made, metadata=spec)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    (folder / f"{name}.ipynb").write_text(nbformat.writes(notebook))
    place = f"{{{{store}}}}/products/{{{{period}}}}/{name}"
    files = {"nb": f"{place}/{name}.ipynb"} | {key: f"{place}/{key}.txt" for key in products}
    return {"name": name, "source": f"{name}.ipynb", "product": files} | ({"params": params} if params else {})


def pipeline(folder, *tasks):
    write_yaml(folder / "pipeline.yaml", {"tasks": list(tasks)})


def write(code):
    """A cell that writes the product."""
    return f"from pathlib import Path\nPath(product['text']).write_text(str({code}))"


def build(folder, selection=None, **env):
    """Runs the pipeline in this process; gives seconds by stage, None for one that did not run."""
    env = {"store": "store", "period": "all", **env}
    return dag.build(load_project(folder), env, store=folder / "store", tell=lambda one: None, selection=selection)


def ran(folder, selection=None, **env):
    """Names of the stages that ran."""
    return [name for name, seconds in build(folder, selection, **env).items() if seconds is not None]


def product(folder, name, key="text"):
    return folder / f"store/products/all/{name}/{key}.txt"


def command(folder, *words):
    """A command in this process: exit code, standard output, standard error."""
    with contextlib.chdir(folder):
        done = CliRunner().invoke(cli.main, [*words])
    assert isinstance(done.exception, SystemExit | None), repr(
        done.exception
    )  # anything else is a traceback on the screen
    assert "Traceback" not in done.output
    return done.exit_code, done.stdout, done.stderr


def unfinished(folder):
    """What a run must never leave."""
    return [one for one in folder.rglob("*") if one.name.endswith((".running", ".partial", ".tmp"))]


def processes(folder, *names):
    """Processes of ours that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text().strip() in names and os.readlink(process / "cwd") == str(folder):
                found.append(int(process.name))
    return found


def wait_until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


# ---------------------------------------------------------------- incremental runs are sound: a model of what must be


KERNELS = {"python3": "usual", "other": "another"}
START = {
    "words": "one two", "rows": (1, 2), "data": {"a": "x"}, "lazy": 1, "deep": 2, "shadow": None, "optional": None, "word": "ho",
    "notes": "n", "days": 14, "title": "Toy", "constants": (1, 1, 1, 1), "off": False, "kernel": "python3", "hidden": 1,
    "comment": 0, "layout": 0, "prose": 0, "tag": False, "watch": 0.1, "beside": None,
}  # fmt: skip
HELPERS = '''
import importlib

def answer():
    """Looks things up late."""
    import pack.deep
    from lazy import K
    try:
        import optional
        return K * pack.deep.value() + optional.MORE
    except ImportError:
        return K * pack.deep.value()

def notes():
    return [importlib.import_module("pack.plain").read(name) for name in ["note.txt"]]
'''
PLAIN = 'def read(name):\n    with open("notes/" + name) as stream:\n        return stream.read()\n'


def lay_out(folder, state):
    """Writes everything that a state of the toy project says; only what differs from what is there."""
    remark = f"  # {state['comment']}" if state["comment"] else ""
    blank = "\n" * state["layout"]
    files = {
        "words.txt": state["words"],
        "rows.csv": "\n".join(["number,y", *(f"{n},{y}" for n, y in enumerate(state["rows"]))]) + "\n",
        "notes/note.txt": state["notes"],
        "helpers.py": HELPERS.replace("return K", f"return ({blank}K", 1).replace("MORE", "MORE)", 1) + remark,
        "pack/__init__.py": remark,
        "pack/deep.py": f"N = {state['deep']}{remark}\n{blank}\ndef value():\n    from . import inner\n    return N + inner.ONE\n",
        "pack/inner.py": f"{blank}ONE = 1{remark}\n",
        "pack/plain.py": f"{remark}\n{PLAIN}",
        "lazy.py": f"{blank}K = {state['lazy']}{remark}\n",
        "lazy/__init__.py": None if state["shadow"] is None else f"K = {state['shadow']}\n",
        "optional.py": None if state["optional"] is None else f"MORE = {state['optional']}\n",
        "beside.py": state["beside"],
        **{f"data/{name}.txt": state["data"].get(name) for name in "abc"},
    }
    for name, text in files.items():
        put(folder / name, text)
    change_if(folder / "project.yaml", title=state["title"], training={"holdout_days": state["days"]},
              monitoring={"psi_watch": state["watch"]})  # fmt: skip
    one, two, three, four = state["constants"]
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    prose = markdown(f"Text {state['prose']}.")
    switch = (
        markdown("extra = 10") if state["off"] else code("extra = 10", metadata={"tags": ["t"] if state["tag"] else []})
    )
    tasks = [
        stage(folder, "collect", prose, "import pandas as pd", "extra = 0", switch,
              "words = open('words.txt').read()\ntotal = pd.read_csv('rows.csv')['y'].sum()",
              "from pathlib import Path\nfound = [one.read_text() for one in sorted(Path('data').glob('*.txt'))]",
              write(f"f'{{words}}|{{total}}|{{found}}|{{extra}}|{one}'") + remark),
        stage(folder, "compute", "import helpers, os", write(f"f'{{word}}|{{helpers.answer()}}|{{helpers.notes()}}|{two}|{{os.environ.get(\"TOY\")}}'"),
              parameters="word = ''  # type: str a word", params={"word": "{{word}}"}, kernel=state["kernel"]),
        stage(folder, "configure", "from nbops.config import load_project\nproject = load_project()",
              f"{blank}{write(f'f{chr(39)}{{project.title}}|{{project.training.holdout_days}}|{three}{chr(39)}')}", prose),
        stage(folder, "join", write("'+'.join(Path(upstream[one]['text']).read_text() for one in "
                                    f"['collect', 'compute', 'configure']) + '{four}'").replace("from pathlib import Path", f"from pathlib import Path{remark}"),
              upstream=["collect", "compute", "configure"]),
    ]  # fmt: skip
    change_if(folder / "pipeline.yaml", tasks=tasks)


def put(file, text):
    """Writes a file only if it is to be another; no text means no file."""
    if text is None:
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            shutil.rmtree(file.parent) if file.parent.name == "lazy" else None
        return
    file.parent.mkdir(exist_ok=True)
    if not file.is_file() or file.read_text() != text:
        file.write_text(text)


def change_if(file, **values):
    before = file.read_text()
    change(file, **values)
    after = file.read_text()
    file.write_text(before) if before == after else None


def model(state):
    """The products that the state must give: the same rules, once more and without any engine."""
    one, two, three, four = state["constants"]
    factor = state["lazy"] if state["shadow"] is None else state["shadow"]  # a package is found before a module
    answer = factor * (state["deep"] + 1) + (state["optional"] or 0)
    found = [state["data"][name] for name in "abc" if name in state["data"]]
    made = {
        "collect": f"{state['words']}|{sum(state['rows'])}|{found}|{0 if state['off'] else 10}|{one}",
        "compute": f"{state['word']}|{answer}|{[state['notes']]}|{two}|{KERNELS[state['kernel']]}",
        "configure": f"{state['title']}|{state['days']}|{three}",
    }
    return made | {"join": "+".join(made.values()) + str(four)}


HARMLESS = {
    "comment": [0, 1, 2],
    "layout": [0, 1, 3],
    "prose": [0, 1, 2],
    "watch": [0.1, 0.2],
    "beside": [None, "x = 1", "x = 2"],
}
MATTERS = {
    "words": ["one two", "three", "six"], "rows": [(1, 2), (2, 1), (4, 4), (2, 1, 5)], "lazy": [1, 2, 3], "deep": [2, 4, 5],
    "data": [{"a": "x"}, {"a": "y"}, {"a": "x", "b": "y"}, {"b": "x"}, {}, {"a": "x", "c": "x"}], "shadow": [None, None, 5, 7],
    "optional": [None, 3, 4], "word": ["ho", "hey"], "notes": ["n", "m"], "days": [14, 15], "title": ["Toy", "Tot"],
    "constants": [(1, 1, 1, 1), (2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2)], "off": [False, True], "tag": [False, True],
    "kernel": ["python3", "other"],
}  # fmt: skip
SPOILED = ["delete", "truncate", "overwrite", "no record", "broken record", "no notebook"]
TOUCHED = ["words.txt", "rows.csv", "lazy.py", "pack/deep.py", "project.yaml", "collect.ipynb", "data/a.txt"]
STEPS = st.one_of(
    *[st.tuples(st.just("set"), st.just(key), st.sampled_from(values)) for key, values in (MATTERS | HARMLESS).items()],
    st.tuples(st.just("spoil"), st.sampled_from(SPOILED), st.sampled_from(["collect", "compute", "configure", "join"])),
    st.tuples(st.just("touch"), st.sampled_from(TOUCHED), st.none()),
    st.tuples(st.just("revert"), st.integers(1, 3), st.none()),
)


def spoil(folder, how, name):
    """Damages what a stage has made."""
    file = product(folder, name)
    record = file.with_name(f"{name}.inputs.json")
    target = {"no record": record, "broken record": record, "no notebook": file.with_name(f"{name}.ipynb")}.get(
        how, file
    )
    if how in ("delete", "no record", "no notebook"):
        target.unlink()
    else:
        text = target.read_text()
        target.write_text(
            {"truncate": text[:-1], "overwrite": text[:-1] + "?", "broken record": text[: len(text) // 2]}[how]
        )


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """Two kernelspecs that differ in an environment variable."""
    folder = tmp_path_factory.mktemp("jupyter")
    spec = json.loads((Path(KernelSpecManager().get_kernel_spec("python3").resource_dir) / "kernel.json").read_text())
    for name, value in KERNELS.items():
        (folder / "kernels" / name).mkdir(parents=True)
        (folder / "kernels" / name / "kernel.json").write_text(json.dumps(spec | {"env": {"TOY": value}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        yield


COUNT = {"mutations": 0, "stale": 0, "needless": 0, "runs": 0}


@pytest.mark.slow
def test_two_hundred_mutations_and_no_stale_result(template, tmp_path, kernels):
    @settings(
        max_examples=10,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(STEPS, min_size=21, max_size=21))
    def live_through(steps):
        folder = tmp_path / f"toy-{COUNT['mutations']}"
        shutil.copytree(template, folder)
        shutil.copy(template / "rows.csv", folder / "rows.csv")
        past = [START]
        lay_out(folder, START)
        build(folder, word=START["word"])
        for kind, what, value in steps:
            state = past[-1] | {what: value} if kind == "set" else past[-1]
            state = past[max(0, len(past) - 1 - what)] if kind == "revert" else state
            lay_out(folder, state)
            if kind == "spoil":
                spoil(folder, what, value)
            if kind == "touch" and (folder / what).exists():
                os.utime(folder / what)
            names = ran(folder, word=state["word"])
            made = {name: product(folder, name).read_text() for name in model(state)}
            COUNT["mutations"] += 1
            COUNT["runs"] += len(names)
            same = model(state) == model(past[-1]) and state["tag"] == past[-1]["tag"]
            same &= all(state[one] == past[-1][one] for one in ("rows", "shadow", "optional"))  # they show only in part
            assert made == model(state), f"stale after {kind} {what} {value}"
            assert kind == "spoil" or not same or not names, f"{names} ran for nothing after {kind} {what} {value}"
            assert ran(folder, word=state["word"]) == [], f"not up to date after {kind} {what} {value}"
            past.append(state)

    live_through()

    assert COUNT["mutations"] >= 200


LEAVES = [
    ({"lazy": 2}, {"compute": "file lazy.py"}),
    ({"shadow": 5}, {"compute": "module lazy"}),
    ({"optional": 3}, {"compute": "module optional"}),
    ({"notes": "m"}, {"compute": "file notes/note.txt"}),
    ({"word": "hey"}, {"compute": 'parameter word: "ho" → "hey"'}),
    ({"days": 15}, {"configure": "project.yaml training.holdout_days: 14 → 15"}),
    ({"rows": (3, 3)}, {"collect": "file rows.csv"}),
    ({"data": {"a": "x", "b": "y"}}, {"collect": "glob data/*.txt"}),
    ({"constants": (1, 1, 1, 2)}, {"join": "code"}),
    ({"kernel": "other"}, {"compute": "code"}),
    ({"comment": 1, "layout": 1, "prose": 1, "watch": 0.2, "beside": "x = 1"}, {}),
]


@pytest.fixture(scope="module")
def settled(template, tmp_path_factory, kernels):
    """The toy project, up to date."""
    folder = Path(shutil.copytree(template, tmp_path_factory.mktemp("settled") / "toy"))
    lay_out(folder, START)
    build(folder, word="ho")
    return folder


def reasons(folder, **env):
    """What speaks against each stage."""
    project = load_project(folder)
    with contextlib.chdir(folder):
        stages = dag.load_stages(project, {"store": "store", "period": "all", **env})
        found = {name: [str(one) for one in dag.reasons(project, stages, name, Digests())] for name in stages}
    return {name: why for name, why in found.items() if why}


@pytest.mark.parametrize(("values", "expected"), LEAVES, ids=[", ".join(values) for values, _ in LEAVES])
def test_why_names_the_leaf_that_changed_and_nothing_else(settled, values, expected):
    state = START | values
    lay_out(settled, state)
    try:
        found = reasons(settled, word=state["word"])
        assert found.keys() == expected.keys()
        assert all(
            len(why) == 1 and why[0].startswith(expected[name]) and " → " in why[0] for name, why in found.items()
        ), found
    finally:
        lay_out(settled, START)
    assert reasons(settled, word="ho") == {}


def test_a_damaged_product_is_the_reason(settled):
    file = product(settled, "join")
    text = file.read_text()
    file.write_text(text + " ")
    assert [one.split(":")[0] for one in reasons(settled, word="ho")["join"]] == ["product text"]
    file.write_text(text)
    assert reasons(settled, word="ho") == {}


def test_another_version_of_a_package_is_a_reason(project, monkeypatch):
    site = project / "site"
    (site / "toypackage-1.0.dist-info").mkdir(parents=True)
    (site / "toypackage-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: toypackage\nVersion: 1.0\n")
    (site / "toypackage.py").write_text("ONE = 1\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    pipeline(
        project, stage(project, "one", "def late():\n    import toypackage\n    return toypackage.ONE", write("late()"))
    )
    assert (ran(project), ran(project)) == (["one"], [])
    (site / "toypackage-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: toypackage\nVersion: 2.0\n")
    (site / "toypackage-1.0.dist-info").rename(site / "toypackage-2.0.dist-info")
    assert reasons(project) == {"one": ["package toypackage: 1.0 → 2.0"]}
    assert ran(project) == ["one"]


READS = {
    "listed": ("import os\nx = sorted(os.listdir('data'))", "data/new.txt"),
    "walked": ("import os\nx = [files for *_, files in os.walk('data')]", "data/new.txt"),
    "rglob": ("from pathlib import Path\nx = len(list(Path('data').rglob('*.txt')))", "data/deep/new.txt"),
    "iterdir": ("from pathlib import Path\nx = len(list(Path('data').iterdir()))", "data/new.txt"),
    "DuckDB": ("import duckdb\nx = duckdb.sql(\"select count(*) from 'rows.csv'\").fetchall()", "rows.csv"),
    "DuckDB in a module": ("import counting\nx = counting.count()", "rows.csv"),
    "pattern for DuckDB": ("import duckdb\nx = duckdb.sql(\"select * from read_text('data/*.txt')\").fetchall()", "data/new.txt"),
    "read and write": ("with open('words.txt', 'r+') as stream:\n    x = stream.read()", "words.txt"),
    "not there yet": ("try:\n    x = open('late.txt').read()\nexcept OSError:\n    x = 0", "late.txt"),
    "project.yaml itself": ("x = open('project.yaml').read()", "project.yaml"),
    "hidden": ("x = open('.env').read()", ".env"),
    "plug-in": ("import importlib\nx = importlib.import_module('plug').X", "plug.py"),
    "package": ("import pkgutil\nx = [one.name for one in pkgutil.iter_modules(['data'])]", "data/new.py"),
    "outside": ("x = open(word).read()", "outside"),
}  # fmt: skip


@pytest.mark.slow
def test_everything_that_a_stage_reads_counts(project, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "nbops.inputs.tempfile", SimpleNamespace(gettempdir=lambda: "/nowhere")
    )  # pytest's folders are scratch otherwise
    (project / "data/deep").mkdir(parents=True)
    for name in ("data/a.txt", "words.txt", ".env"):
        (project / name).write_text("text")
    (project / "plug.py").write_text("X = 1\n")
    (project / "counting.py").write_text(
        "import duckdb\n\ndef count():\n    return duckdb.read_csv('rows.csv').fetchall()\n"
    )
    (tmp_path / "outside").write_text("text")
    names = {name: f"read_{number}" for number, name in enumerate(READS)}
    parameter = {"parameters": "word = ''  # type: str a path", "params": {"word": str(tmp_path / "outside")}}
    pipeline(
        project, *(stage(project, names[name], code, write("x"), **parameter) for name, (code, _) in READS.items())
    )
    assert len(ran(project)) == len(READS) and ran(project) == []
    for name, (_, changed) in READS.items():
        file = project / changed if changed != "outside" else tmp_path / "outside"
        before = file.read_text() if file.exists() else None
        texts = {"plug.py": "X = 2\n", "project.yaml": (before or "").replace("A small", "Another")}
        file.write_text(texts.get(changed, (before or "") + "\n21,1.0,1.0,here,1.0\n"))
        assert names[name] in reasons(project), f"{name}: a change of {changed} goes unnoticed"
        file.unlink() if before is None else file.write_text(before)
    assert reasons(project) == {}


def test_a_package_installed_while_a_kernel_waits_is_a_reason(project, monkeypatch):
    pipeline(
        project, stage(project, "one", "import yaml", write("1")), stage(project, "two", write("2"), upstream=["one"])
    )
    with monkeypatch.context() as patch:
        patch.setattr(dag, "packages_changed", lambda: 1)
        assert ran(project) == ["one", "two"]
    assert reasons(project) == {"one": ["package pyyaml: changed while the stage ran"]} or reasons(project)["one"]
    assert ran(project) == ["one"] and ran(project) == []


def test_an_edit_within_the_same_second_and_of_the_same_length_is_seen(project):
    pipeline(project, stage(project, "one", "import fast", write("fast.X")))
    for value in (1, 2, 3):
        (project / "fast.py").write_text(f"X = {value}\n")
        os.utime(project / "fast.py", (1_700_000_000, 1_700_000_000))  # as a copy that keeps the time
        build(project)
        assert product(project, "one").read_text() == str(value)


@pytest.mark.parametrize("then", ["stays", "is taken back"])
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("words.txt", "one", "two"), ("late.py", "X = 1", "X = 2"), ("project.yaml", "A small", "Another")],
)
def test_what_changes_while_a_stage_runs_is_read_again(project, file, old, new, then):
    (project / "words.txt").write_text("one")
    (project / "late.py").write_text("X = 1\n")
    text = (project / file).read_text()
    edit = f"from pathlib import Path\nif Path('go').exists():\n    Path('go').unlink()\n    Path({file!r}).write_text({text.replace(old, new)!r})"
    read = (
        "from nbops.config import load_project\nimport late\nx = late.X, open('words.txt').read(), load_project().title"
    )
    pipeline(project, stage(project, "one", edit, read, write("x")))
    (project / "go").touch()
    build(project)
    if then == "is taken back":
        (project / file).write_text(text)
    build(project)
    expected = (1, "one", "A small project")
    if then == "stays":
        expected = {"words.txt": (1, "two", "A small project"), "late.py": (2, "one", "A small project")}.get(
            file, (1, "one", "Another project")
        )
    assert product(project, "one").read_text() == str(expected)
    assert ran(project) == []


def test_what_a_stage_reads_of_another_besides_its_product_counts(project):
    """Its executed notebook, and a file that it wrote beside the product."""
    (project / "words.txt").write_text("one")
    beside = (
        "from pathlib import Path\nPath(product['text']).with_name('beside.txt').write_text(open('words.txt').read())"
    )
    shown = "import json\nx = [one['outputs'] for one in json.load(open(upstream['one']['nb']))['cells'][-1:]]"
    pipeline(
        project,
        stage(project, "one", beside, write("1"), "print(open('words.txt').read())"),
        stage(project, "two", "from pathlib import Path\nx = Path(upstream['one']['text']).with_name('beside.txt').read_text()", write("x"), upstream=["one"]),
        stage(project, "three", shown, write("x"), upstream=["one"]),
    )  # fmt: skip
    build(project)
    (project / "words.txt").write_text("two")
    assert ran(project) == ["one", "two", "three"] and ran(project) == []
    assert product(project, "two").read_text() == "two" and "two" in product(project, "three").read_text()


# ---------------------------------------------------------------- nothing half-done


def toy(folder, *names, seconds=0.0):
    """A chain of small stages."""
    cells = [
        f"import time\ntime.sleep({seconds})",
        "import random\nfrom pathlib import Path",
        "Path(product['other']).write_text('x' * 200_000)",
    ]
    tasks = [
        stage(folder, name, *cells, write(f"'{name}' * 1000"), products=("text", "other"), upstream=[names[number - 1]] if number else None)
        for number, name in enumerate(names)
    ]  # fmt: skip
    pipeline(folder, *tasks)


def digests(folder):
    """What the stages made: bytes of the products, and which notebooks are there."""
    files = sorted((folder / "store/products/all").rglob("*"))
    texts = {
        one.name + one.parent.name: hashlib.sha256(one.read_bytes()).hexdigest()
        for one in files
        if one.suffix == ".txt"
    }
    return texts, [one.name for one in files if one.suffix in (".ipynb", ".json")]


def start(folder, *words):
    """`nbops` as a terminal starts it."""
    script = Path(sys.executable).with_name("nbops")
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [script, *words], cwd=folder, env=environment(), text=True, start_new_session=True, **streams
    )


@pytest.mark.slow
def test_fifty_kills_leave_nothing_half_done(project):
    toy(project, "one", "two", "three")
    start(project, "run").communicate()
    clean = digests(project)
    begin = time.monotonic()
    assert start(project, "run", "--force").communicate()[0].startswith("all: done 3 of 3 stages ran")
    whole, chance, killed = time.monotonic() - begin, random.Random(7), 0
    while killed < 50:
        running = start(project, "run", "--force")
        time.sleep(chance.uniform(0.02, whole))
        workers = processes(project, "nbops")  # the command's own process only waits for this one
        victim = chance.choice([running.pid, *workers])
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        running.communicate()
        killed += running.returncode != 0
        wait_until(lambda: not processes(project, "nbops", "nbops-kernel"), seconds=5)
        selection = dag.Selection(force=killed % 10 == 0)
        engine.run_period(load_project(project), "all", selection=selection)
        assert digests(project) == clean and not unfinished(project)
    assert start(project, "run", "--force").communicate()[0].startswith("all: done 3 of 3 stages ran")
    assert digests(project) == clean and not unfinished(project) and not processes(project, "nbops-kernel")


def test_a_failed_cell_keeps_the_old_products_and_its_own_notebook(project):
    good = stage(project, "one", write("'good'"))
    pipeline(project, good)
    build(project)
    was = digests(project)
    stage(project, "one", write("'half'"), "Path(product['text']).write_text('half')\nraise ValueError('a reason')")
    with pytest.raises(
        dag.StageError,
        match=r"a reason \(cell 4, line 2: `raise .*`\)\. See .*one\.failed\.ipynb, .*: nbops debug one\.",
    ):
        build(project)
    failed = project / "store/products/all/one/one.failed.ipynb"
    assert "a reason" in failed.read_text() and digests(project)[0]["text.txtone"] == was[0]["text.txtone"]
    assert (failed.parent / "one.failed/text.txt").read_text() == "half" and not unfinished(project)
    assert reasons(project)["one"][0].startswith("code: ")
    stage(project, "one", write("'good'"))  # taken back: what is there is right
    assert ran(project) == [] and product(project, "one").read_text() == "good"


def test_a_run_shows_its_parameters_as_they_are(project):
    pipeline(project, stage(project, "one", write("1")))
    assert ran(project) == ["one"]
    notebook = json.loads((project / "store/products/all/one/one.ipynb").read_text())
    injected = next(cell for cell in notebook["cells"] if "injected-parameters" in cell["metadata"].get("tags", []))
    assert "".join(injected["source"]).count("product = ") == 1
    assert ".running" not in json.dumps(notebook)


def test_debug_says_that_the_kernel_died(project):
    pipeline(project, stage(project, "one", "import os\nos._exit(3)"))
    code, out, err = command(project, "debug", "one", "--period", "all")
    assert code == 1 and "the kernel itself died" in out + err


def test_an_edit_that_is_killed_and_taken_back_leaves_the_right_result(project):
    pipeline(
        project,
        stage(project, "one", write("'good'")),
        stage(project, "two", write("open(upstream['one']['text']).read()"), upstream=["one"]),
    )
    build(project)
    stage(project, "one", write("'bad'"), "Path('at work').touch()\nimport time\ntime.sleep(30)")
    running = start(project, "run")
    wait_until((project / "at work").exists)
    running.kill()
    running.communicate()
    wait_until(lambda: not processes(project, "nbops", "nbops-kernel"), seconds=5)
    stage(project, "one", write("'good'"))
    build(project)
    assert [product(project, name).read_text() for name in ("one", "two")] == ["good", "good"] and not unfinished(
        project
    )


def test_the_choice_of_stages(project):
    toy(project, "one", "two", "three")
    assert ran(project) == ["one", "two", "three"]
    assert ran(project, dag.Selection(force=True)) == ["one", "two", "three"]
    assert ran(project, dag.Selection(start="two")) == ["two", "three"]
    assert ran(project, dag.Selection(only="two")) == ["two"]
    assert ran(project) == []  # what two made is what it had made
    with pytest.raises(
        InputError, match=r"there is no stage 'tow' \(did you mean \"two\"\?\); allowed: one, two, three"
    ):
        build(project, dag.Selection(only="tow"))


def test_the_choice_of_stages_on_the_command_line(project):
    toy(project, "one", "two", "three")
    assert json.loads(command(project, "run", "--json")[1])["stages"].keys() == {"one", "two", "three"}
    chosen = json.loads(command(project, "run", "--from", "two", "--json")[1])["stages"]
    assert chosen.keys() == {"two", "three"} and None not in chosen.values()
    assert json.loads(command(project, "run", "--only", "one", "--json")[1])["stages"].keys() == {"one"}
    for words in (["--from", "tree"], ["--only", "tree"]):
        code, _, said = command(project, "run", *words)
        assert code == 2 and said.strip().endswith(
            "there is no stage 'tree' (did you mean \"three\"?); allowed: one, two, three."
        )
    code, out, _ = command(project, "why", "two")
    assert code == 0 and "up to date" in out
    (project / "one.ipynb").write_text((project / "one.ipynb").read_text().replace("200_000", "200_001"))
    code, out, _ = command(project, "why", "one")
    assert "code: " in out and " → " in out and "1 stage of 1 out of date" in out
    code, _, said = command(project, "why", "tree")
    assert code == 2 and "there is no stage 'tree'" in said


# ---------------------------------------------------------------- many at once, and many times


@pytest.mark.slow
def test_independent_stages_run_one_wave_per_core(project):
    cores = os.cpu_count()
    pipeline(
        project, *(stage(project, f"wait_{number}", "import time\ntime.sleep(1)", write("1")) for number in range(6))
    )
    begin, at_work, most = time.monotonic(), set(), 0

    def note(event):
        nonlocal most
        at_work.add(event["stage"]) if event["event"] == "stage" else None
        at_work.discard(event["stage"]) if event["event"] == "stage_done" else None
        most = max(most, len(at_work))

    dag.build(load_project(project), {"store": "store", "period": "all"}, store=project / "store", tell=note)
    waves = -(-6 // cores)
    assert most == min(6, cores) and waves <= time.monotonic() - begin


LONG = os.environ.get("NBOPS_LONG") == "1"  # make nightly
AT_ONCE, REPEATS, RUNS = (100, 20, 250) if LONG else (30, 1, 14)


@pytest.mark.slow
def test_stock_kernels_get_ready_ahead_too_and_leave_nothing_behind(project, monkeypatch):
    monkeypatch.setenv("NBOPS_KERNELS", "stock")
    one = stage(project, "one", "import time\ntime.sleep(3)", write("1"))
    pipeline(project, one, stage(project, "two", write("2"), upstream=["one"]))
    began, ready = {}, {}

    def note(event):
        if event["event"] == "stage":
            began[event["stage"]] = time.monotonic()
        if event["event"] == "cell":
            ready.setdefault(event["stage"], time.monotonic() - began[event["stage"]])

    dag.build(load_project(project), {"store": "store", "period": "all"}, store=project / "store", tell=note)
    assert ready["two"] < ready["one"] / 2, ready
    assert product(project, "two").read_text() == "2"
    assert not [one for one in psutil.process_iter(["cmdline", "cwd"]) if _is_kernel_in(one, project)]


def _is_kernel_in(process, folder):
    return "ipykernel_launcher" in " ".join(process.info["cmdline"] or []) and process.info["cwd"] == str(folder)


def test_a_reader_that_has_had_enough_is_no_error():
    read, write = os.pipe()
    os.close(read)
    command = [Path(sys.executable).parent / "nbops", "run", "--help"]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert ended.returncode == 1 and not ended.stderr


def test_many_notebooks_at_once(project):
    change(project / "project.yaml", engine={"parallel": AT_ONCE})
    pipeline(project, *(stage(project, f"one_{number}", write(number)) for number in range(AT_ONCE)))
    for _ in range(REPEATS):
        assert len(ran(project, dag.Selection(force=True))) == AT_ONCE
        made = [product(project, f"one_{number}").read_text() for number in range(AT_ONCE)]
        assert made == [str(number) for number in range(AT_ONCE)] and not processes(project, "nbops-kernel")


@pytest.mark.slow
def test_many_runs_in_one_process_need_no_more_and_more(project):
    pipeline(project, *(stage(project, name, write("1")) for name in ("one", "two")))
    process, seen = psutil.Process(), []
    for number in range(RUNS):
        build(project, dag.Selection(force=True))
        gc.collect()
        if number in (3, RUNS - 1):
            seen.append((process.num_fds(), process.num_threads(), process.memory_info().rss / 1e6))
    (fds, threads, memory), (fds_then, threads_then, memory_then) = seen
    assert fds_then <= fds and threads_then <= threads and memory_then - memory < 20, seen


def test_what_lies_beside_the_products_stays(project):
    aside = (
        "folder = Path(product['text']).parent / 'plots'\nfolder.mkdir(exist_ok=True)\n(folder / f'{name}.png').touch()"
    )
    tasks = [stage(project, name, write("1"), f"name = {name!r}\n{aside}") for name in ("one", "two")]
    for name, task in zip(("one", "two"), tasks, strict=True):  # both write into one folder
        task["product"] = {"nb": f"{{{{store}}}}/here/{name}.ipynb", "text": f"{{{{store}}}}/here/{name}.txt"}
    pipeline(project, *tasks)
    mine = project / "store/here/failed/mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert ran(project) == ["one", "two"] and ran(project, dag.Selection(force=True)) == ["one", "two"]
    assert mine.read_text() == "mine"
    assert sorted(file.name for file in (project / "store/here/plots").iterdir()) == ["one.png", "two.png"]


def test_what_a_shell_cell_reads_counts(project):
    for name in ("first.txt", "second.txt"):
        (project / name).write_text("1")
    pipeline(project, stage(project, "one", "%%bash\ncat first.txt", "found = !cat second.txt", write("found[0]")))
    assert ran(project) == ["one"] and ran(project) == []
    (project / "first.txt").write_text("2")
    assert ran(project) == ["one"]
    (project / "second.txt").write_text("2")
    assert ran(project) == ["one"] and product(project, "one").read_text() == "2" and ran(project) == []


# ---------------------------------------------------------------- without a head


def events(said):
    """The JSON lines of a log: every line must be one."""
    return [one for one in map(json.loads, said.splitlines()) if one["event"] != "note"]


def test_the_log_has_an_event_for_every_cell(project):
    bar = "import sys\nfor number in range(200):\n    print(f'\\r{number} of 200', end='', file=sys.stderr, flush=True)"
    pipeline(project, stage(project, "one", bar, write("1")))
    code, out, said = command(project, "run", "--log-format", "json")
    begin, *found = events(said)
    assert begin["event"] == "begin" and begin["stages"] == ["one"]
    assert code == 0 and all(one.keys() >= {"event", "stage", "period", "time"} for one in found)
    names = [one["event"] for one in found if one["event"] != "output"]
    assert names == [
        "stage",
        *["cell", "cell_done"] * 4,
        "stage_done",
    ]  # the parameters, what is given for them, two more
    assert {one["period"] for one in found} == {"all"} and {one["stage"] for one in found} == {"one"}
    assert all("\r" not in one["text"] for one in found if one["event"] == "output")
    done = nbformat.read(project / "store/products/all/one/one.ipynb", as_version=4)
    assert [one["text"] for cell in done.cells for one in cell.get("outputs", []) if one.output_type == "stream"] == [
        "199 of 200"
    ]
    assert events(command(project, "run", "--log-format", "json")[2])[1]["event"] == "stage_up_to_date"


def test_the_exit_code_says_how_it_ended(project, monkeypatch):
    task = stage(project, "one", write("1"))
    pipeline(project, task)
    assert command(project, "run")[0] == 0
    line = {
        "period": "all",
        "decision": "retrain → refused",
        "champion": None,
        "metric": None,
        "never_retrained": None,
        "why": "",
    }
    with monkeypatch.context() as patch:
        patch.setattr(periods, "outcomes", lambda *_, **__: [line])
        assert command(project, "run")[0] == 3
    stage(project, "one", "1 / 0")
    code, out, said = command(project, "run", "--log-format", "json")
    failed, error = events(said)[-2:]
    assert code == 1 and failed["event"] == "stage_failed" and "ZeroDivisionError" in failed["message"]
    assert (error["event"], error["exit_code"]) == ("error", 1)
    assert error["message"].startswith(
        "stage one failed: ZeroDivisionError: division by zero (cell 3, line 1: `1 / 0`). See "
    )
    code, out, said = command(project, "run", "--json")
    assert code == 1 and json.loads(out)["exit_code"] == 1 and said.startswith("nbops: stage one failed")
    change(project / "project.yaml", key=[])
    pipeline(project, task | {"params": {"nothing": 1}})
    assert command(project, "run")[0] == 2


@pytest.mark.slow
def test_a_polite_kill_ends_a_run_within_seconds(project):
    pipeline(
        project,
        stage(
            project,
            "one",
            "from pathlib import Path\nPath('at work').touch()",
            "import time\ntime.sleep(60)",
            write("1"),
        ),
    )
    running = start(project, "run", "--log-format", "json")
    wait_until((project / "at work").exists)
    begin = time.monotonic()
    running.terminate()
    said = running.communicate(timeout=20)[1]
    assert time.monotonic() - begin < 5 and running.returncode == 130 and "Traceback" not in said
    assert events(said)[-1]["message"].startswith("interrupted") and not processes(project, "nbops", "nbops-kernel")
    assert not unfinished(project) and not product(project, "one").exists()


CANARY = "canary-7f3a/é & more"


@pytest.mark.parametrize("fails", [False, True])
def test_a_secret_is_nowhere(project, monkeypatch, fails):
    monkeypatch.setenv("TOY_TOKEN", CANARY)
    use = "from nbops.secrets import secret\nvalue = secret(token).reveal()"
    tell = "import sys, base64\nprint(value)\nprint(value[:9], end='', flush=True)\nprint(value[9:], file=sys.stdout)\nprint(value, file=sys.stderr)\nvalue"
    coded = "print(base64.b64encode(value.encode()).decode())\nimport json\nprint(json.dumps(value))"
    end = "raise ValueError(f'no entry with {value}')" if fails else write("1")
    parameter = {"parameters": "token = None  # type: secret for the service", "params": {"token": "env:TOY_TOKEN"}}
    pipeline(project, stage(project, "one", use, tell, coded, end, **parameter))
    code, out, said = (
        command(project, "--debug", "run", "--log-format", "json") if not fails else command(project, "run")
    )
    assert code == int(fails)
    kept = {str(one): one.read_bytes() for one in project.rglob("*") if one.is_file()} | {
        "printed": (out + said).encode()
    }
    text = CANARY.encode()
    for name, content in kept.items():
        for spelled in (text, text[:8], json.dumps(CANARY)[1:-1].encode(), CANARY.encode("unicode_escape")):
            assert spelled not in content, name
    assert any(("•" * 4).encode() in content or b"\\u2022" in content for content in kept.values())


@pytest.mark.parametrize(
    ("parameters", "params", "message"),
    [
        (
            "rows = 3  # type: int (1 .. 9) of the table",
            {"rows": "many"},
            "rows is 'many', of type str; allowed: int (1 .. 9)",
        ),
        ("rows = 3  # type: int (1 .. 9) of the table", {"rows": 10}, "rows is 10, which is too large"),
        ("rows = 3  # type: int of the table", {"rows": 1, "row": 2}, "row: no such parameter"),
        ("kind = 'a'  # type: str (apple | pear) of fruit", {"kind": "pears"}, 'did you mean "pear"'),
        ("token = None  # type: secret", {"token": "env:NOT_THERE_AT_ALL"}, "NOT_THERE_AT_ALL"),
        ("rows = None  # type: int of the table", {}, "rows has no value"),
    ],
)
def test_parameters_are_checked_before_any_kernel_starts(project, monkeypatch, parameters, params, message):
    pipeline(project, stage(project, "first", write("1")),
             stage(project, "one", write("1"), parameters=parameters, params=params, upstream=["first"]))  # fmt: skip
    monkeypatch.setattr(dag, "run_stage", lambda *_: pytest.fail("a stage was started"))
    code, _, said = command(project, "run")
    assert code == 2 and said.count("nbops:") == 1 and message in said and "stage one" in said
    assert not (project / "store/products").exists()


# ---------------------------------------------------------------- the command line


def modules(folder, *words):
    """What a command has imported at its end."""
    code = f"""
import atexit, sys
atexit.register(lambda: print("\\n".join(["", "modules", *sys.modules]), flush=True))
from nbops import cli
sys.argv = ["nbops", *{list(words)!r}]
cli.start()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True, timeout=60
    )
    said, _, imported = done.stdout.partition("\nmodules\n")
    assert done.returncode == 0, done.stderr
    return said, set(imported.splitlines())


HEAVY = {
    "pandas",
    "duckdb",
    "ploomber",
    "papermill",
    "mlflow",
    "pyarrow",
    "numpy",
    "sklearn",
    "pydantic",
    "rich",
    "jupyter_client",
}


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_next_to_nothing(project, words):
    said, imported = modules(project, *words)
    assert said and not HEAVY & imported


def test_status_loads_no_data_library(project):
    pipeline(project, stage(project, "one", write("1")))
    said, imported = modules(project, "status")
    assert said and not (HEAVY - {"pydantic"} | {"duckdb", "numpy"}) & imported


# ---------------------------------------------------------------- bad input: one message, nothing half-written, the next run is fine


BROKEN = {
    "syntax error": (["1 / 0", "x = ="], 2, "one.ipynb: invalid syntax, line 1: x = =. Correct it."),
    "os._exit": (["import os\nos._exit(7)"], 1, "its kernel ended by itself with exit code 7, for example by os._exit"),
    "killed": (["import os\nos.kill(os.getpid(), 9)"], 1, "ended by SIGKILL"),
    "input()": (["input('name? ')"], 1, "asks for input(), but nobody is there to answer"),
    "sys.exit": (["import sys\nsys.exit(0)"], 1, "ended without writing text"),
    "no product": (["1"], 1, "ended without writing text; every product must be written"),
    "folder as product": (["from pathlib import Path\nPath(product['text']).mkdir()"], 1, "ended without writing text"),
    "no such module": (["import no_such_module_here"], 1, "ModuleNotFoundError: No module named 'no_such_module_here'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_stage_is_one_message(project, name):
    cells, code, message = BROKEN[name]
    pipeline(project, stage(project, "one", *cells))
    refused(project, code, message)
    stage(project, "one", write("1"))
    assert command(project, "run")[0] == 0 and not list(project.rglob("*.failed.ipynb"))


def refused(folder, code, message):
    """A run that ends with one message and leaves nothing behind."""
    got, out, said = command(folder, "run")
    said = "\n".join(line for line in said.splitlines() if " | " not in line)  # what the stage itself printed
    assert got == code and message in said and out == ""
    assert said.count("nbops: ") == 1 and not re.search(r"(?<![\w-])-9\b", said)
    assert not unfinished(folder) and not product(folder, "one").exists() and not processes(folder, "nbops-kernel")
    return said


def test_ploombers_own_checks_do_not_come_first(project):
    task = stage(project, "one", "x = (1", write("1"), parameters="seed = 1  # type: int a seed")
    pipeline(project, task | {"static_analysis": "strict"})
    assert len(refused(project, 2, "one.ipynb: '(' was never closed, line 1: x = (1. Correct it.").splitlines()) == 1
    task = stage(project, "one", write("1"), parameters="seed = 1  # type: int a seed", params={"sede": 2})
    pipeline(project, task | {"static_analysis": "strict"})
    refused(project, 2, 'sede: no such parameter (did you mean "seed"?)')


def test_stages_that_cannot_be_chosen(project):
    one, two = stage(project, "one", write("1")), stage(project, "two", write("2"), upstream=["one"])
    pipeline(project, one, two)
    code, _, said = command(project, "run", "--period", "all", "--only", "two")
    assert code == 2 and "stage two needs one, not made yet. Run the period first" in said
    assert not (project / "store/products").exists()
    assert command(project, "run")[0] == 0
    assert "allowed is one of them" in command(project, "run", "--only", "two", "--from", "one")[2]
    assert command(project, "run", "--only", "")[0] == 2


def test_a_misspelt_name_in_env_yaml(project):
    pipeline(project, stage(project, "one", write("1"), parameters="word = ''", params={"word": "{{word}}"}))
    change(project / "env.yaml", wrod="x")
    refused(project, 2, "'wrod' is used nowhere in pipeline.yaml (did you mean \"word\"?)")


def test_looking_at_a_store_that_is_not_there_makes_none(project):
    pipeline(project, stage(project, "one", write("1")))
    assert command(project, "status", "--store", "elsewhere")[0] == 0 and not (project / "elsewhere").exists()


def test_a_broken_pipeline_is_one_message(project):
    one, two = stage(project, "one", write("1"), upstream=["two"]), stage(project, "two", write("1"), upstream=["one"])
    pipeline(project, one, two)
    assert "cycle" in refused(project, 2, "pipeline.yaml cannot be used").lower()
    pipeline(project, stage(project, "one", write("1"), upstream=["twoo"]), stage(project, "two", write("1")))
    refused(project, 2, "twoo")
    pipeline(project, stage(project, "one", write("1")))
    notebook = nbformat.read(project / "one.ipynb", as_version=4)
    notebook.cells[0].metadata["tags"] = []
    nbformat.write(notebook, project / "one.ipynb")
    refused(project, 2, "parameters")
    (project / "one.ipynb").write_text("{")
    refused(project, 2, "one.ipynb")
    stage(project, "one", write("1"))
    product(project, "one").mkdir(parents=True)
    assert command(project, "run")[0] == 2
    product(project, "one").rmdir()
    assert command(project, "run")[0] == 0


def test_a_hundred_megabytes_of_output_are_cut(project):
    pipeline(project, stage(project, "one", "for _ in range(100):\n    print('x' * 1_000_000)", write("1")))
    assert command(project, "run", "--json")[0] == 0
    notebook = (project / "store/products/all/one/one.ipynb").read_text()
    assert (
        len(notebook) < 3_000_000
        and "what follows is not kept: more than 1,000,000 characters from one cell" in notebook
    )


def test_a_stage_that_forks_is_as_good_as_any(project):
    child = "import os\nif os.fork() == 0:\n    os._exit(0)\nos.wait()"
    lingering = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\n    os._exit(0)"
    pipeline(project, stage(project, "one", child, write("1")), stage(project, "two", lingering, write("2")))
    begin = time.monotonic()
    assert ran(project) == ["one", "two"] and time.monotonic() - begin < 20
    assert product(project, "two").read_text() == "2"
    wait_until(lambda: not processes(project, "nbops-kernel"), seconds=5)


@pytest.mark.slow
def test_too_much_memory_is_said_with_numbers(project):
    change(project / "project.yaml", engine={"memory_limit_gb": 0.3})
    pipeline(
        project,
        stage(
            project,
            "one",
            "import time\nx = [b'x' * 50_000_000 + bytes([n]) for n in range(20)]\ntime.sleep(30)",
            write("1"),
        ),
    )
    said = refused(project, 1, "its kernel was stopped: it used ")
    assert "GB, allowed are 0.3 (engine.memory_limit_gb)" in said
    stage(project, "one", write("1"))
    assert command(project, "run")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell",
    [
        "import time\ntime.sleep(60)",
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)",
    ],
)
def test_a_cell_that_takes_too_long_is_stopped(project, cell):
    change(project / "project.yaml", engine={"cell_timeout_minutes": 0.02})
    pipeline(project, stage(project, "one", cell, write("1")))
    refused(project, 1, "a cell took more than 0.02 minutes (engine.cell_timeout_minutes)")
    stage(project, "one", write("1"))
    assert command(project, "run")[0] == 0
