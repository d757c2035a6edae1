"""`nbops check-notebook`: seeded bugs are found, and what only looks odd is left alone."""

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from nbformat import v4

from nbops import cli, hygiene
from nbops.base import InputError

ROOT = Path(__file__).parents[1]
OURS = sorted([*ROOT.glob("notebooks/*/*.ipynb"), *ROOT.glob("reports/*.ipynb"), *ROOT.glob("examples/**/*.ipynb")])


@dataclass(frozen=True)
class Cell:
    """A code cell as it was saved: its source, its execution count, what it printed, and other outputs."""

    source: str
    count: int | None = None
    prints: str = ""
    outputs: tuple = ()
    tags: tuple = ()

    def node(self):
        stream = [v4.new_output("stream", name="stdout", text=self.prints)] if self.prints else []
        node = v4.new_code_cell(self.source, outputs=[*stream, *self.outputs], execution_count=self.count)
        node.metadata.update({"tags": list(self.tags)} if self.tags else {})
        return node


def notebook(*cells, **metadata):
    """A notebook of cells; plain text is a cell that has not been run."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nodes = [(cell if isinstance(cell, Cell) else Cell(cell)).node() for cell in cells]
    return v4.new_notebook(cells=nodes, metadata={"kernelspec": kernel, **metadata})


def saved(folder, *cells, **metadata):
    """The notebook in a file."""
    path = folder / "analysis.ipynb"
    nbformat.write(notebook(*cells, **metadata), path)
    return path


def shows(text, **other):
    """A value that a cell ended with."""
    return v4.new_output("execute_result", {"text/plain": text, **other})


# ---------------------------------------------------------------- bugs that reading finds: (name, kind, cell, cells)

READ = [
    ("name used before its cell", "early", 1, ["print(rate)", "rate = 3"]),
    ("defining cell was deleted", "undefined", 1, ["model.fit(1)"]),
    ("variable was renamed", "undefined", 2, ["prices = [1]", "sum(price)"]),
    ("import is missing", "undefined", 1, ["table = pd.DataFrame()"]),
    ("import stands further down", "early", 1, ["math.pi", "import math"]),
    ("function relies on a deleted global", "undefined", 1, ["def area(r):\n    return PI * r**2"]),
    ("function is called before its global is set", "early", 2, ["def area(r):\n    return PI * r", "area(1)", "PI = 3"]),
    ("function calls one that comes later", "early", 2, ["def a():\n    return b()", "a()", "def b():\n    return 1"]),
    ("lambda is called too early", "early", 2, ["area = lambda r: PI * r", "area(1)", "PI = 3"]),
    ("coroutine is awaited too early", "early", 2, ["async def f():\n    return rate", "await f()", "rate = 1"]),
    ("instance is made before its global is set", "early", 2,
     ["class A:\n    def __init__(self):\n        self.x = size", "A()", "size = 1"]),
    ("used after `del`", "deleted", 3, ["x = 1", "del x", "print(x)"]),
    ("global of a function was deleted", "deleted", 3, ["PI = 3\ndef area():\n    return PI", "del PI", "area()"]),
    ("everything was reset", "deleted", 3, ["x = 1", "%reset -f", "x"]),
    ("a table that only feeds on itself", "early", 1, ["table = table.dropna()"]),
    ("sum without a start", "undefined", 1, ["for i in range(3):\n    total += i"]),
    ("comprehension over a name from below", "early", 1, ["[x * rate for x in [1, 2]]", "rate = 2"]),
    ("comprehension's own name used outside", "undefined", 2, ["[i for i in range(3)]", "print(i)"]),
    ("default argument from below", "early", 1, ["def f(x=rate):\n    return x", "rate = 1"]),
    ("decorator from below", "early", 1, ["@timed\ndef f(): ...", "def timed(f):\n    return f"]),
    ("base class from below", "early", 1, ["class B(A): ...", "class A: ..."]),
    ("f-string with a deleted name", "undefined", 1, ["print(f'{score:.3f}')"]),
    ("loading cell switched off", "undefined", 2, ["if False:\n    data = load()", "len(data)"]),
    ("loading cell switched off by a magic", "undefined", 2, ["%%script false\ndata = [1]", "len(data)"]),
    ("name set only while it was timed", "undefined", 2, ["%%timeit\nresult = 1 + 1", "result"]),
    ("magic reads a name from below", "early", 1, ["%time y = x + 1", "x = 1"]),
    ("half an edit", "syntax", 1, ["x = (1,"]),
    ("cells swapped after they ran", "order", 2, [Cell("x = 1", 2), Cell("y = 1", 1)]),
    ("cell run again after the next one", "order", 2, [Cell("x = 1", 5), Cell("y = 1", 4), Cell("z = 1", 6)]),
    ("cell edited in between, not run", "not run", 2, [Cell("x = 1", 1), Cell("x = 2"), Cell("print(x)", 2, "1\n")]),
]  # fmt: skip


def once(*cells):
    """Cells with execution counts 1, 2, …, as after a clean run."""
    return [Cell(c.source, i, c.prints, c.outputs, c.tags) if isinstance(c, Cell) else Cell(c, i)
            for i, c in enumerate(cells, 1)]  # fmt: skip


PICTURE = v4.new_output("display_data", {"text/plain": "<Figure>", "image/png": "iVBORw0KGgo="})

# ---------------------------------------------------------------- bugs that only a run finds

RUN = [
    ("cell was run twice", "differs", 2, once("x = 1", Cell("x += 1\nprint(x)", prints="3\n"))),
    ("cell above was edited after", "differs", 2, once("rate = 2", Cell("rate * 10", outputs=(shows("50"),)))),
    ("cell itself was edited, not run", "differs", 1, once(Cell("print('mean')", prints="median\n"))),
    ("output was edited by hand", "differs", 1, once(Cell("print('accuracy', 0.713)", prints="accuracy 0.913\n"))),
    ("no seed", "differs", 1, once(Cell("import random\nrandom.random()", outputs=(shows("0.8444218515250481"),)))),
    ("order of a set of strings", "differs", 1,
     once(Cell("print(*{'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'})", prints="b d h g a c f e\n"))),
    ("dict filled by a cell that ran twice", "differs", 2,
     once("seen = {}", Cell("seen[len(seen)] = 'x'\nseen", outputs=(shows("{0: 'x', 1: 'x'}"),)))),
    ("list grew", "differs", 2, once("rows = []", Cell("rows.append(1)\nprint(len(rows))", prints="4\n"))),
    ("generator was used up", "differs", 2, once("g = (i for i in range(3))", Cell("list(g)", outputs=(shows("[]"),)))),
    ("builtin was shadowed by a cell further down", "differs", 1,
     once(Cell("print(sum([1, 2]))", prints="99\n"), "sum = lambda values: 99")),
    ("state in a class", "differs", 2,
     once("class A:\n    made = 0\n    def __init__(self):\n        A.made += 1", Cell("A(); A.made", outputs=(shows("2"),)))),
    ("state in a default argument", "differs", 2,
     once("def add(x, to=[]):\n    to.append(x)\n    return to", Cell("print(add(1))", prints="[1, 1]\n"))),
    ("global set by a call that was deleted", "fails", 2,
     once("def setup():\n    global path\n    path = 'x'", Cell("print(path)", prints="x\n"))),
    ("module changed by a deleted cell", "differs", 2, once("import math", Cell("print(math.pi)", prints="3\n"))),
    ("environment set by a deleted cell", "fails", 2, once("import os", Cell("print(os.environ['SEED_OF_RUN'])", prints="1\n"))),
    ("name in a string", "fails", 1, once(Cell("print(eval('rate * 2'))", prints="4\n"))),
    ("cache keeps the old value", "differs", 3,
     once("rate = 2", "import functools\n@functools.cache\ndef f(x):\n    return x * rate", Cell("print(f(1))", prints="1\n"))),
    ("folder changed by a deleted cell", "fails", 1, once(Cell("print(open('only/in/data.txt').read())", prints="x\n"))),
    ("history by number", "fails", 2, once("x = 1", Cell("print(Out[7])", prints="2\n"))),
    ("file left by a later cell", "leftover file", 1,
     once(Cell("print(open('model.txt').read())", prints="v1"), "print('v1', end='', file=open('model.txt', 'w'))")),
    ("file renamed into place by a later cell", "leftover file", 1,
     once(Cell("print(open('model.txt').read())", prints="v1"), "import os\nprint('v1', end='', file=open('new', 'w'))\n"
          "os.replace('new', 'model.txt')")),
    ("picture is gone", "differs", 1, once(Cell("1 + 1;", outputs=(PICTURE,)))),
    ("table shows other rows", "differs", 2,
     once("n = 3", Cell("from IPython.display import HTML\nHTML(f'<b>{n} rows</b>')",
                        outputs=(shows("<IPython.core.display.HTML object>", **{"text/html": "<b>4 rows</b>"}),)))),
    ("expected error did not come", "differs", 1,
     once(Cell("x = 1", outputs=(v4.new_output("error", ename="ValueError", evalue="no", traceback=[]),), tags=("raises-exception",)))),
    ("stripped notebook that does not run", "fails", 2, ["x = {}", "x['key']"]),
]  # fmt: skip


def names(bugs):
    return [bug[0] for bug in bugs]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """Nothing from outside makes a run repeatable, or says where a kernel is."""
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    monkeypatch.delenv("SEED_OF_RUN", raising=False)


def test_there_are_enough_bugs():
    assert len(set(names(READ + RUN))) == len(READ + RUN) >= 30


@pytest.mark.parametrize(("_", "kind", "cell", "cells"), READ, ids=names(READ))
def test_reading_finds(_, kind, cell, cells, tmp_path):
    found = hygiene.check_notebook(saved(tmp_path, *cells), run=False)
    assert [(one.kind, one.cell) for one in found] == [(kind, cell)], found


@pytest.mark.slow
@pytest.mark.parametrize(("_", "kind", "cell", "cells"), RUN, ids=names(RUN))
def test_running_finds(_, kind, cell, cells, tmp_path):
    (tmp_path / "model.txt").write_text("v1")
    path = saved(tmp_path, *cells)
    assert hygiene.check_notebook(path, run=False) == []  # it takes a run
    before = path.read_bytes()
    found = hygiene.check_notebook(path)
    assert [(one.kind, one.cell) for one in found] == [(kind, cell)], found
    assert path.read_bytes() == before


# ---------------------------------------------------------------- no false alarms

FINE = {
    "history": """
1 + 1
# %%
_
# %%
__, _1, In[0], Out
# %%
get_ipython().user_ns['z'] = 1
# %%
z
""",
    "magics": """
%matplotlib inline
# %%
%time x = 1
# %%
x
# %%
files = !ls
# %%
files
# %%
!echo {x}
# %%
x?
# %%
%%time
y = x
z = y
# %%
z
# %%
%%capture out
print(1)
# %%
out
# %%
%%html
<b>{{nothing}}</b>
# %%
%timeit -n 1 -r 1 x
# %%
%%timeit -n 1 -r 1 start = x
start + 1
# %%
%%bash --out said
echo hi
# %%
said
# %%
%env HOME
# %%
pwd
""",
    "await": """
import asyncio
# %%
await asyncio.sleep(0)
# %%
async def f():
    return rate
# %%
rate = 1
# %%
await f()
# %%
async def g():
    yield 1
# %%
[i async for i in g()]
# %%
async for i in g():
    pass
# %%
i
# %%
coroutine = f()
# %%
await coroutine
""",
    "comprehensions": """
[x for x in range(3) if x]
# %%
{k: v for k, v in {1: 2}.items()}
# %%
[y for x in [[1]] for y in x]
# %%
sum(i for i in range(3))
# %%
any((hit := i) > 1 for i in range(3)); hit
# %%
class A:
    n = 2
    squares = [i for i in range(n)]
# %%
lazy = (i * late for i in range(3))
# %%
late = 2
# %%
list(lazy)
""",
    "global": """
def setup():
    global path
    path = 'x'
# %%
setup()
# %%
path
# %%
n = 0
def count():
    global n
    n += 1
# %%
count(); n
# %%
def outer():
    k = 0
    def inner():
        nonlocal k
        k += 1
    inner()
    return k
# %%
outer()
""",
    "optional import": """
try:
    import nothing_like_it as fast
except ImportError:
    fast = None
# %%
fast
# %%
try:
    unicode
except NameError:
    unicode = str
# %%
unicode
# %%
import contextlib
with contextlib.suppress(NameError):
    del never
""",
    "walrus": """
if (n := len('abc')) > 2:
    print(n)
# %%
n
# %%
while (k := n) > 5:
    pass
# %%
k
""",
    "match": """
match {'a': [1, 2, 3], 'b': 2}:
    case {'a': [first, *others], **rest}:
        pass
    case str() as text:
        text
    case other:
        other
# %%
first, others, rest
""",
    "annotations": """
from typing import Any
# %%
x: int = 1
# %%
y: Any
# %%
def f(a: Any, *b: int, c: 'Later' = None, **d) -> list[int]:
    k: Unknown = a
    return k
# %%
f(1), x
# %%
class Later: ...
""",
    "decorators": """
import functools
# %%
def twice(f):
    @functools.wraps(f)
    def inner(*a, **k):
        return f(f(*a, **k))
    return inner
# %%
@twice
def add(x):
    return x + step
# %%
step = 1
# %%
add(1)
""",
    "late globals": """
def area(r):
    return PI * square(r)
# %%
def square(x):
    return x * x
# %%
PI = 3
# %%
area(2)
# %%
def even(n):
    return n == 0 or odd(n - 1)
# %%
def odd(n):
    return n != 0 and even(n - 1)
# %%
even(4)
# %%
def maybe(loud=False):
    if loud:
        return horn
    return 1
# %%
maybe()
# %%
horn = 1
# %%
def early(x):
    if x:
        return 1
    return tail
# %%
early(1)
# %%
tail = 2
""",
    "star import": """
from math import *
# %%
sin(pi)
# %%
area = pi * 2
# %%
e
# %%
e = 3
""",
    "conditional": """
import sys
if sys.version_info >= (3, 0):
    name = 'new'
else:
    name = 'old'
# %%
name
# %%
if 'model' not in globals():
    model = 1
# %%
model
# %%
x = cached if 'cached' in globals() else 0
# %%
'other' in dir() and other
# %%
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import pandas as pd
def f(x: 'pd.DataFrame'):
    return x
# %%
if True:
    on = 1
# %%
on
""",
    "with": """
import io
# %%
with io.StringIO('a') as f, io.StringIO() as g:
    text = f.read()
# %%
text, f.closed, g
""",
    "for else": """
for i in range(3):
    if i > 0:
        print(before)
    before = i
else:
    ended = True
# %%
i, ended
# %%
while False:
    pass
else:
    done = 1
# %%
done
# %%
for a, (b, *c) in [(1, (2, 3))]:
    pass
c
""",
    "lambda": """
f = lambda x, y=1, *a, **k: (x, y, a, k)
# %%
f(1)
# %%
g = lambda: late
# %%
late = 1
# %%
g()
# %%
sorted([1], key=lambda v: -v)
# %%
(lambda: (lambda z: z)(1))()
""",
    "f-strings": """
width, x = 5, 1.5
# %%
f'{x:{width}.2f} {x!r} {f"{x}"} {[i for i in range(2)]} {{no}}'
""",
    "classes": """
class Node:
    kinds = ['a']
    first = kinds[0]
    def __init__(self, child=None):
        self.child, self.kind = child, Node.kinds
    def method(self):
        return __class__, helper(self)
    @property
    def p(self): return 1
    @p.setter
    def p(self, v): ...
# %%
Node(Node())
# %%
def helper(x):
    return x
# %%
Node().method()
# %%
class Sub(Node):
    def __init__(self):
        super().__init__()
Sub()
""",
    "deleting": """
a, b = 1, [1]
# %%
del a, b[0]
# %%
a = 2
# %%
a
# %%
list = 1
del list
list('ab')
# %%
for i in [1]:
    t = i
    del t
# %%
del (i)
""",
    "errors by name": """
try:
    1 / 0
except ZeroDivisionError as error:
    print(error)
finally:
    closed = 1
# %%
closed
# %%
try:
    pass
except* ValueError as group:
    group
""",
    "written names": """
globals()['made'] = 1
# %%
made
# %%
exec('built = 2')
# %%
built
""",
    "names of Jupyter": """
display(1)
# %%
__name__
# %%
_, x = 1, 2
# %%
x
""",
    "odd layout": """

# %%
# only a comment
# %%
#| default_exp core
# %%
x = 1;
# %%
  y = 2
# %%
print(x,
      y)
# %%
'''
%not magic
'''
# %%
>>> z = 1
# %%
z
""",
    "future annotations": """
from __future__ import annotations
# %%
def f(x: Nowhere) -> Nowhere:
    return x
# %%
f(1)
""",
}


def cells_of(text):
    """Cells from text with `# %%` between them."""
    return text.strip("\n").split("\n# %%\n")


TAGGED = [
    Cell("missing", tags=("raises-exception",)),
    Cell("missing", tags=("skip-execution",)),
    "#| eval: false\nmissing",
]


@pytest.mark.parametrize("cells", [*map(cells_of, FINE.values()), TAGGED], ids=[*FINE, "tagged"])
def test_reading_leaves_alone(cells, tmp_path):
    assert hygiene.check_notebook(saved(tmp_path, *cells), run=False) == []


@pytest.mark.slow
def test_what_is_left_alone_does_run(tmp_path):
    nodes = [one for cells in [*map(cells_of, FINE.values()), TAGGED] for one in [*cells, "%reset -f"]]
    cells, findings = hygiene.rerun(notebook(*nodes), tmp_path, timeout=60)
    assert findings == [], findings
    assert len(cells) == len(nodes)


@pytest.mark.parametrize("path", OURS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_our_notebooks_are_clean(path):
    assert hygiene.check_notebook(path, run=False) == []


@pytest.mark.parametrize("counts", [(1, 2, 3), (4, 9, 12), (None, None, None), (1, 2, None), (0, 0, 0)])
def test_counts_that_are_fine(counts):
    assert hygiene.check_order(notebook(*(Cell("x = 1", count) for count in counts))) == []


VARIES = [
    "object()",
    "import datetime, time, uuid, tempfile, warnings, sys, random",
    "print(datetime.datetime.now(), time.strftime('%H:%M:%S'), time.time(), datetime.date.today())\ndatetime.datetime.now()",
    "uuid.uuid4()",
    "print(tempfile.mkdtemp())\ntempfile.NamedTemporaryFile().name",
    "%time sum(range(1000))",
    "%timeit -n 1 -r 2 sum(range(1000))",
    "start = time.perf_counter()\nprint(f'took {time.perf_counter() - start:.9f} s')",
    "print(f'\\r 10%|█  | 1/10 [00:00<00:0{random.randint(0, 9)}, {random.random():.1f}it/s]', file=sys.stderr)",
    "warnings.warn(f'careful {random.random()}')",
    "print('a', flush=True)\ntime.sleep(0.05)\nprint('b', file=sys.stderr)\nprint('c')",
    "random.seed(1)\nrandom.random()",
    Cell("# NBVAL_IGNORE_OUTPUT\nimport random as r\nr.seed()\nr.random()"),
    Cell("r.random()", tags=("nbval-ignore-output",)),
    Cell("1 / 0", tags=("raises-exception",)),
    "from IPython.display import HTML\nHTML(f'<style>#T_{r.random()} {{}}</style><table id=\"T_{r.random()}\"><td>3</td></table>')",
    "display({'text/plain': '<Figure>', 'image/png': str(r.random())}, raw=True)",
    "class Lamp:\n    pass\n[Lamp(), lambda: 1]",
    "open('made.txt', 'w').write('x')",
    "open('made.txt').read()",
]


@pytest.mark.slow
def test_a_clean_run_gives_what_was_saved(tmp_path):
    cells, findings = hygiene.rerun(notebook(*once(*VARIES)), tmp_path)
    assert findings == []
    path = tmp_path / "saved.ipynb"
    nbformat.write(v4.new_notebook(cells=cells, metadata=notebook().metadata), path)
    assert hygiene.check_notebook(path) == []


# ---------------------------------------------------------------- what counts as the same


@pytest.mark.parametrize(("old", "new", "same"), [
    ("<A at 0x7f12aa>", "<A at 0x7f34bb>", True),
    ("<A at 0x7f12aa>", "<B at 0x7f12aa>", False),
    ("a   b", "a b", True),
    ("0.1234567890123", "0.1234567890124", True),
    ("0.12345", "0.12346", False),
    ("3 rows", "4 rows", False),
    ("-1.5", "1.5", False),
    ("1e-3", "0.001", True),
    ("nan", "0.5", False),
    ("newest row 2013-03-31 23:00:00", "newest row 2013-04-30 23:00:00", False),
    ("\x1b[31mred\x1b[0m", "red", True),
    ("fit in 12.5ms", "fit in 0.9 s", True),
    ("class s", "class t", False),
    ("", "x", False),
])  # fmt: skip
def test_same_text(old, new, same):
    assert hygiene.same_text(old, new) is same
    assert hygiene.same_text(new, new)


def test_a_moment_outside_the_run_is_a_difference():
    now = datetime.now(UTC)
    earlier, later = f"{now - timedelta(hours=5):%H:%M:%S}", f"{now:%H:%M:%S}"
    assert hygiene.same_text(earlier, later, since=now)
    assert not hygiene.same_text(later, f"{now + timedelta(minutes=30):%H:%M:%S}", since=now)


# ---------------------------------------------------------------- stages, messages, the command

STAGE = Cell("upstream = None\nproduct = None\nperiod = '2013-02'", tags=("parameters",))
INJECTED = Cell("product = {'text': 'x'}\nperiod = '2013-03'", tags=("injected-parameters",))


def command(*words):
    done = CliRunner().invoke(cli.main, ["check-notebook", *map(str, words)])
    assert isinstance(done.exception, SystemExit | None), repr(done.exception)
    return done.exit_code, done.output


def test_a_stage_is_only_read(tmp_path):
    path = saved(tmp_path, STAGE, "open(product['text'])")
    assert command(path) == (
        0,
        "1 notebook checked: nothing found by reading; not run (1 stage only read: the engine runs stages)\n",
    )
    path = saved(tmp_path, STAGE, INJECTED, "print(perod)")
    code, text = command(path)
    assert code == 1 and 'cell 3 (print(perod)): uses `perod`, which no cell defines (did you mean "period"?)' in text


def test_the_command_on_a_clean_notebook_and_one_with_findings(tmp_path):
    clean = saved(tmp_path, Cell("x = 1\nx", 1, outputs=(shows("1"),)))
    assert command(clean) == (0, "1 notebook checked: each cell runs, and gives what was saved\n")
    bad = saved(tmp_path, "def f():\n    return rate", "print(f())", "rate = 1")
    detail = "calls `f`, which uses `rate` before it is defined; cell 3 defines it"
    assert command("--static", bad) == (1, f"{bad}: cell 2 (print(f())): {detail}\n1 finding in 1 of 1 notebook\n")
    code, text = command("--static", "--json", bad)
    where = {"file": str(bad), "cell": 2, "line": "print(f())"}
    assert code == 1 and json.loads(text)["findings"] == [{**where, "kind": "early", "detail": detail}]


def about(**metadata):
    """Text of an empty notebook with this metadata."""
    return nbformat.writes(v4.new_notebook(metadata=metadata))


@pytest.mark.parametrize(("name", "content", "message"), [
    ("none.ipynb", None, "there is no such file"),
    ("text.ipynb", "hello", "is not a Jupyter notebook"),
    ("empty.ipynb", "", "is not a Jupyter notebook"),
    ("list.ipynb", "[]", "is not a Jupyter notebook"),
    ("other.ipynb", "{}", "is not a Jupyter notebook"),
    ("bytes.ipynb", b"\xff\xfe\x00", "is not a Jupyter notebook"),
    ("cells.ipynb", '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [3]}', "is not a Jupyter notebook"),
    ("r.ipynb", about(kernelspec={"name": "ir", "display_name": "R", "language": "R"}), "notebook in R"),
    ("old.ipynb", about(language_info={"name": "python", "version": "2.7.12"}), "notebook in Python 2.7.12"),
    (".", None, "is a folder"),
    ("kernel.ipynb", about(kernelspec={"name": "mars", "display_name": "Mars"}), "asks for the kernel 'mars'"),
])  # fmt: skip
def test_bad_input(name, content, message, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, text = command(path)
    assert code == 2 and message in text and len(text.splitlines()) == 1
    with pytest.raises(InputError, match=message):
        hygiene.check_notebook(path)


def test_small_faults_of_the_file_do_not_matter(tmp_path):
    path = tmp_path / "small.ipynb"
    path.write_text(
        '{"nbformat": 4, "nbformat_minor": 2, "metadata": {}, "cells": [{"cell_type": "code", "source": ["x = 1\\n", "x + y"]}]}'
    )
    assert [one.kind for one in hygiene.check_notebook(path, run=False)] == ["undefined"]
    cells = [
        {
            "cell_type": "code",
            "language": "python",
            "input": ["x"],
            "outputs": [],
            "collapsed": False,
            "prompt_number": 1,
        }
    ]
    path.write_text(
        json.dumps(
            {
                "nbformat": 3,
                "nbformat_minor": 0,
                "metadata": {"name": ""},
                "worksheets": [{"cells": cells, "metadata": {}}],
            }
        )
    )
    assert [one.kind for one in hygiene.check_notebook(path, run=False)] == ["undefined"]


@pytest.mark.slow
def test_a_cell_that_takes_too_long_and_one_that_ends_the_kernel(tmp_path):
    found = hygiene.check_notebook(saved(tmp_path, "import time\ntime.sleep(60)"), timeout=1)
    assert [str(one) for one in found] == ["cell 1 (import time): takes longer than 1 s; --timeout allows more"]
    found = hygiene.check_notebook(saved(tmp_path, "x = 1", "import os\nos._exit(1)"))
    assert [str(one) for one in found] == ["cell 2 (import os): ends the kernel"]


def test_help_stays_fast():
    code = "import sys; from nbops import cli, hygiene; print(*{'IPython', 'nbclient', 'nbformat', 'zmq'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "\n"
