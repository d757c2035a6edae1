"""How notebooks and modules are written here, as rules a program can check: each gives a list of problems."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path

HEAVY = {"evidently", "great_expectations", "mlflow", "shap", "feast", "ploomber", "papermill"}
OWNERS = {"ploomber": {"dag"}, "papermill": {"execution", "bench"}} | dict.fromkeys(
    ("fastapi", "starlette", "uvicorn"), {"serving"}
)
VAGUE = {"utils", "util", "helpers", "common", "misc"}


# What is checked


@dataclass(frozen=True)
class Cell:
    kind: str
    source: str
    tags: tuple = ()
    outputs: tuple = ()
    count: int | None = None

    @property
    def directives(self):
        """nbdev's directives, such as `export` or `default_exp config`."""
        return re.findall(r"^#\|\s*(.+?)\s*$", self.source, re.M) if self.kind == "code" else []

    @property
    def lines(self):
        """Lines that are neither empty nor a directive."""
        return [line for line in self.source.splitlines() if line.strip() and not line.startswith("#|")]

    @property
    def tree(self):
        """Parsed code, without Jupyter's magics."""
        return ast.parse(re.sub(r"^\s*[%!].*$", "", self.source, flags=re.M))


@dataclass(frozen=True)
class Notebook:
    path: Path
    cells: tuple

    @property
    def number(self):
        return self.path.stem.partition("_")[0]

    @property
    def name(self):
        return self.path.stem.partition("_")[2]

    @property
    def code(self):
        return [cell for cell in self.cells if cell.kind == "code"]

    @property
    def exports(self):
        return [cell for cell in self.code if "export" in cell.directives]


def read(path):
    """Notebook in a file."""
    cells = json.loads(Path(path).read_text())["cells"]
    return Notebook(
        Path(path),
        tuple(
            Cell(
                c["cell_type"],
                "".join(c["source"]),
                tuple(c["metadata"].get("tags", ())),
                tuple(map(str, c.get("outputs", ()))),
                c.get("execution_count"),
            )
            for c in cells
        ),
    )


def at(cell):
    """Where a cell is, in words: its first line."""
    return f"in the cell that starts with {(cell.lines or [cell.source])[0][:60]!r}"


def imported(tree):
    """Full names of the modules a piece of code imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (f"nbops.{name}" for name in names)


def defined(tree, kinds=(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
    """Public functions and classes at the top of a piece of code."""
    return [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def is_import(node):
    return isinstance(node, ast.Import | ast.ImportFrom) or (
        isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    )


# Every notebook


def parses(nb):
    problems = []
    for cell in nb.code:
        try:
            cell.tree  # noqa: B018
        except SyntaxError as error:
            problems.append(f"{error.msg} {at(cell)}")
    return problems


def without_outputs(nb):
    bad = [cell for cell in nb.code if cell.outputs or cell.count is not None]
    return [f"output or execution count {at(cell)}; run: make clean" for cell in bad]


def without_star_imports(nb):
    return [f"`import *` {at(cell)}; name what you import" for cell in nb.code if "*" in "".join(imported(cell.tree))]


EVERY = [parses, without_outputs, without_star_imports]


# Stages


def stage_title(nb):
    lines = [line for line in nb.cells[0].source.splitlines() if line.strip()]
    if (
        nb.cells[0].kind == "markdown"
        and len(lines) == 3
        and re.fullmatch(r"# .+\n> .+\n- skip_exec: true", "\n".join(lines))
    ):
        return []
    return ["the first cell must hold exactly `# Title`, `> one line` and `- skip_exec: true`"]


def stage_parameters(nb):
    tagged = [cell for cell in nb.code if "parameters" in cell.tags]
    if len(tagged) != 1:
        return [f"{len(tagged)} cells are tagged `parameters`; there must be exactly one"]
    problems = [] if tagged[0] is nb.code[0] else ["the cell tagged `parameters` must be the first code cell"]
    for node in tagged[0].tree.body:
        text = ast.unparse(node)
        try:
            assert isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            ast.literal_eval(node.value)
        except (AssertionError, ValueError):
            problems.append(f"parameter `{text}` must be `name = plain value`, without annotation or expression")
    names = parameter_names(nb)
    if names[:2] != ["upstream", "product"]:
        problems.append(f"parameters must start with `upstream`, `product`, not {names[:2]}")
    for name in names[2:]:
        if not re.search(rf"^{name} = .+  # type: \S+ \S+", tagged[0].source, re.M):
            problems.append(f"parameter `{name}` needs `{name} = default  # type: T meaning, unit`")
    return problems


def parameter_names(nb):
    tree = next((cell.tree for cell in nb.code if "parameters" in cell.tags), ast.parse(""))
    return [target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]


def stage_imports(nb):
    bad = [cell for cell in nb.code[:1] + nb.code[2:] if any(map(is_import, cell.tree.body))]
    return [f"import {at(cell)}; imports go in one cell right after the parameters" for cell in bad]


def stage_defines_nothing(nb):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    bad = [node.name for cell in nb.code for node in ast.walk(cell.tree) if isinstance(node, kinds)]
    return [f"`{name}` is defined in a stage; move it to notebooks/lib" for name in bad]


def stage_size(nb):
    problems = [f"{len(cell.lines)} lines {at(cell)}; at most 15" for cell in nb.code if len(cell.lines) > 15]
    return problems + ([f"{len(nb.cells)} cells; at most 30" for _ in [0] if len(nb.cells) > 30])


def stage_arrows(nb):
    bad = {name.partition(".")[0] for cell in nb.code for name in imported(cell.tree)} & OWNERS.keys()
    return [f"imports {name}; only nbops.{'/'.join(OWNERS[name])} may" for name in sorted(bad)]


STAGE = [stage_title, stage_parameters, stage_imports, stage_defines_nothing, stage_size, stage_arrows]


# Reports


def report_imports(nb):
    bad = {name.partition(".")[0] for cell in nb.code for name in imported(cell.tree)} & (HEAVY | OWNERS.keys())
    return [f"imports {name}; a dashboard reads prepared files" for name in sorted(bad)]


REPORT = [report_imports]


# The pipeline


def stages_are_tasks(stages, tasks):
    """Each stage is one task, in order, with the same parameters."""
    sources = [Path(task["source"]).name for task in tasks]
    if sources != sorted(nb.path.name for nb in stages):
        return [f"pipeline.yaml has {sources}, notebooks/stages has {sorted(nb.path.name for nb in stages)}"]
    by_name = {nb.path.name: nb for nb in stages}
    problems = []
    for task, source in zip(tasks, sources, strict=True):
        stage, pipeline = set(parameter_names(by_name[source])[2:]), set(task.get("params") or {}) - {"resources_"}
        if stage != pipeline:
            problems.append(f"{source}: parameters only in the notebook {sorted(stage - pipeline)}, "
                            f"only in pipeline.yaml {sorted(pipeline - stage)}")  # fmt: skip
    return problems


def one_screen(text):
    return [f"pipeline.yaml has {len(text.splitlines())} lines; at most 100"] if len(text.splitlines()) > 100 else []


# Library notebooks


def library_names(nb):
    problems = []
    if f"default_exp {nb.name}" not in nb.cells[0].directives:
        problems.append(f"the first cell must be `#| default_exp {nb.name}`")
    if len(nb.cells) < 2 or not re.match(rf"# {re.escape(nb.name)}\s*\n+> \S", nb.cells[1].source):
        problems.append(f"the second cell must start with `# {nb.name}` and `> purpose`")
    if nb.name in VAGUE:
        problems.append(f"`{nb.name}` says nothing; name the module for what it holds")
    last = nb.cells[-1]
    if "hide" not in last.directives or "nbdev_export()" not in last.source:
        problems.append("the last cell must be hidden and call `nbdev_export()`")
    return problems


def library_imports(nb):
    cells = [cell for cell in nb.exports if any(map(is_import, cell.tree.body))]
    problems = [f"{len(cells)} exported cells import; there must be one"] if len(cells) > 1 else []
    return problems + [f"more than imports {at(cell)}" for cell in cells if not all(map(is_import, cell.tree.body))]


def code_lines(cell):
    """How many lines a cell has without its docstrings: those are as long as they need to be."""
    functions = [node for node in ast.walk(cell.tree) if ast_docstring(node)]
    docstrings = [node.body[0].value.value.splitlines() for node in functions]
    return len(cell.lines) - sum(len([line for line in lines if line.strip()]) for lines in docstrings)


def ast_docstring(node):
    """The docstring of a function or class, if the node is one and has one."""
    return isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node)


def library_size(nb):
    problems = [f"{len(nb.cells)} cells; at most 60, more means two modules"] if len(nb.cells) > 60 else []
    for cell in nb.exports:
        names = [node.name for node in defined(cell.tree)]
        if (count := code_lines(cell)) > 40:
            problems.append(f"{count} lines {at(cell)}; at most 40, docstrings not counted")
        if len(names) > 1:
            problems.append(f"{len(names)} public names {names} {at(cell)}; one each")
    return problems


def library_shows(nb):
    """Every public function and class is used in the very next code cell, which a reader sees."""
    problems = []
    for cell, following in zip(nb.code, [*nb.code[1:], None], strict=True):
        for node in defined(cell.tree) if cell in nb.exports else ():
            shown = following and "hide" not in following.directives and "export" not in following.directives
            if not shown or not re.search(rf"\b{node.name}\b", "\n".join(following.lines)):
                problems.append(f"`{node.name}` is not used in the code cell after it")
    hidden = [
        cell
        for cell in nb.code
        if "hide" in cell.directives and any(isinstance(n, ast.Assert) for n in ast.walk(cell.tree))
    ]
    return problems + [f"hidden check {at(cell)}; show it or move it to tests/" for cell in hidden]


def library_prose(nb):
    words = sum(len(re.findall(r"\w+", cell.source)) for cell in nb.cells if cell.kind == "markdown")
    lines = sum(code_lines(cell) for cell in nb.code)
    return [f"{words} words of prose for {lines} lines of code; at least one a line"] if words < lines else []


def library_order(nb, numbers):
    """Imports only modules with lower numbers; `numbers` maps module to number."""
    used = {
        part[1]
        for cell in nb.code
        for part in (name.split(".") for name in imported(cell.tree))
        if part[0] == "nbops" and part[1:]
    }
    bad = sorted(name for name in used - {nb.name} if numbers.get(name, "00") >= nb.number)
    return [
        f"imports nbops.{name}, which has number {numbers[name]}; only lower than {nb.number}"
        for name in bad
        if name in numbers
    ]


LIBRARY = [library_names, library_imports, library_size, library_shows, library_prose]


# Modules


def module_arrows(name, tree):
    bad = sorted(
        {full.partition(".")[0] for full in imported(tree)} & ({"reports", "stages", "notebooks"} | OWNERS.keys())
    )
    return [f"imports {top}; only {sorted(OWNERS.get(top, ()))} may" for top in bad if name not in OWNERS.get(top, ())]


def module_statements(name, tree):
    problems = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            problems.append(f"line {node.lineno}: bare `except:`; name the errors")
        elif isinstance(node, ast.Assert):
            problems.append(f"line {node.lineno}: `assert`; raise an error that says what to do")
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            problems.append(f"line {node.lineno}: `import *`")
    return problems


def module_docstrings(name, tree):
    """First line under 90 characters; numpydoc sections where a function takes or gives something."""
    problems = []
    for node in defined(tree):
        text = ast.get_docstring(node) or ""
        if not text or len(text.splitlines()[0]) >= 90:
            problems.append(f"`{node.name}`: the docstring's first line must be there and under 90 characters")
        if isinstance(node, ast.ClassDef) or re.search(
            "click|command", " ".join(map(ast.unparse, node.decorator_list))
        ):
            continue  # a command's docstring is its help
        arguments = [a for a in ast.walk(node.args) if isinstance(a, ast.arg)]
        own = list(outside_nested(node))
        gives = any(isinstance(n, ast.Return) and n.value and not is_none(n.value) for n in own)
        yields = any(isinstance(n, ast.Yield | ast.YieldFrom) for n in own)
        for needed, section in ((arguments, "Parameters"), (gives and not yields, "Returns"), (yields, "Yields")):
            if needed and not re.search(rf"^{section}\n-+$", text, re.M):
                problems.append(f"`{node.name}`: the docstring needs a `{section}` section")
    return problems


def is_none(node):
    return isinstance(node, ast.Constant) and node.value is None


def outside_nested(node):
    """Nodes of a function's own body, not of functions inside it."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from outside_nested(child)


MODULE = [module_arrows, module_statements, module_docstrings]


def one_to_one(notebooks, modules):
    """Names of library notebooks and of modules are the same."""
    return [
        f"notebooks/lib has no notebook for lib/nbops/{name}.py" for name in sorted(set(modules) - set(notebooks))
    ] + [
        f"lib/nbops has no {name}.py for its notebook; run: make check"
        for name in sorted(set(notebooks) - set(modules))
    ]
