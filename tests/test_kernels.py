"""Forked kernels: nothing tells them from fresh ones, they end with those who asked for them, and their server looks after itself."""

import array
import asyncio
import contextlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbclient
import nbformat
import psutil
import pytest
from click.testing import CliRunner
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

from nbops import cli, forkserver, kernels
from nbops.forkserver import ForkedProcess, ForkserverError

# Event loops that jupyter_client leaves to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SMALL = ("json",)  # a server that is ready in less than a second
SELF = {"env": dict(os.environ), "cwd": "/"}


def until(condition, seconds=20):
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)
    return found


def gone(pid):
    """Whether a process has ended; a zombie has."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module", autouse=True)
def runtime():
    """A runtime folder of these tests' own, with a short name; their servers are stopped at the end."""
    folder = tempfile.mkdtemp(dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        patch.delenv("NBOPS_KERNELS", raising=False)
        patch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        yield Path(folder) / f"nbops-{os.getuid()}"
        pids = [one["server"] for one in forkserver.servers(stop=True)]
        until(lambda: all(map(gone, pids)))
    shutil.rmtree(folder)


@pytest.fixture
def own_runtime(monkeypatch):
    """A runtime folder for one test, for a server of its own."""
    folder = tempfile.mkdtemp(dir="/tmp")
    monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
    yield Path(folder) / f"nbops-{os.getuid()}"
    with contextlib.suppress(ForkserverError):
        for one in forkserver.servers():
            for pid in (one["server"], *one["children"]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder)


@pytest.fixture
def small(tmp_path):
    """A folder whose kernels come from the small server."""
    (tmp_path / "project.yaml").write_text(f"engine: {{preload: [{', '.join(SMALL)}]}}\n")
    return tmp_path


class Kernel:
    """A running kernel and a client for it."""

    def __init__(self, folder, **options):
        self.manager = KernelManager(kernel_name="python3")
        env = {
            name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"
        }  # ipykernel looks for it
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.manager.start_kernel(cwd=str(folder), env=env, **{**quiet, **options})
        self.connect()

    def connect(self):
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self.manager.context.destroy(linger=0)

    @property
    def process(self):
        return self.manager.provisioner.process

    @property
    def pid(self):
        return self.manager.provisioner.pid

    @property
    def forked(self):
        return isinstance(self.process, ForkedProcess)

    def run(self, code, **options):
        """Runs code; gives the reply, and the messages it sent."""
        said = []
        reply = self.client.execute_interactive(
            code, output_hook=said.append, timeout=60, **{"allow_stdin": False, **options}
        )
        return reply["content"], said

    def text(self, code, stream="stdout", **options):
        """What code prints; it may not fail."""
        reply, said = self.run(code, **options)
        assert reply["status"] == "ok", "\n".join(reply["traceback"])
        return "".join(
            one["content"]["text"] for one in said if one["msg_type"] == "stream" and one["content"]["name"] == stream
        )

    def value(self, expression, **options):
        """The value of an expression, as JSON brings it over."""
        return json.loads(self.text(f"import json; print(json.dumps({expression}))", **options))

    def shown(self, code):
        """What code displays, by type."""
        reply, said = self.run(code)
        assert reply["status"] == "ok", "\n".join(reply["traceback"])
        return [one["content"]["data"] for one in said if one["msg_type"] in ("display_data", "execute_result")]


def call(entry, *args, folder="/", **options):
    """A program in a process of its own that asks for a forked call; gives the finished process."""
    code = f"""import sys; from nbops.forkserver import run_forked
sys.exit(run_forked({entry!r}, {list(args)!r}, program="x", preload={SMALL!r}))"""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60, **options
    )


def server_of(kernel):
    """The process that a kernel was forked from."""
    return psutil.Process(kernel.pid).ppid()


# ---------------------------------------------------------------- as fresh as a fresh one


FACTS = """
import asyncio, contextlib, ctypes, decimal, faulthandler, gc, json, locale, logging, multiprocessing.process, os, resource
import signal, socket, sys, tempfile, threading, time, tracemalloc, warnings
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
wanted = "Umask SigBlk SigIgn SigCgt NoNewPrivs Groups CapEff Cpus_allowed"
locale_of = (library := ctypes.CDLL(None)).setlocale
locale_of.restype = ctypes.c_char_p
facts = {
    "environment": dict(os.environ), "path": sys.path, "cwd": os.getcwd(), "argv": sys.argv[1:-1], "flags": str(sys.flags),
    "options": sys._xoptions, "executable": sys.executable, "prefix": sys.prefix, "bytecode": sys.dont_write_bytecode,
    "status": {one: status[one] for one in wanted.split()},
    "limits": {one: resource.getrlimit(getattr(resource, one)) for one in dir(resource) if one.startswith("RLIMIT")},
    "priority": os.getpriority(os.PRIO_PROCESS, 0), "leader": os.getpgrp() == os.getsid(0) == os.getpid(),
    "locale": [locale.setlocale(locale.LC_ALL), str(locale_of(6, None)), locale.getencoding(), sys.getfilesystemencoding()],
    "zone": time.tzname, "temporary": tempfile.gettempdir(), "workers": multiprocessing.process.ORIGINAL_DIR,
    "start": multiprocessing.get_start_method(allow_none=True),
    "signals": {one.name: str(signal.getsignal(one)).split(" at ")[0] for one in signal.Signals},
    "warnings": [str(one) for one in warnings.filters], "show": [warnings.showwarning.__module__, warnings.formatwarning.__module__],
    "logging": [str(logging.root.handlers), logging.root.level, logging.root.manager.disable, logging.raiseExceptions,
                logging.getLoggerClass().__name__, logging._warnings_showwarning is None],
    "hooks": [str(one).split(" at ")[0] for one in (sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook)],
    "main": sorted(one for one in vars(sys.modules["__main__"]) if one.startswith("__")),
    "collector": [gc.isenabled(), gc.get_threshold(), gc.get_debug()], "recursion": sys.getrecursionlimit(),
    "switch": sys.getswitchinterval(), "timeout": socket.getdefaulttimeout(), "faults": faulthandler.is_enabled(),
    "traced": [str(sys.gettrace()), str(sys.getprofile()), tracemalloc.is_tracing()], "decimals": str(decimal.getcontext()),
    "streams": [(one.encoding, one.errors) for one in (sys.__stdin__, sys.__stdout__, sys.__stderr__)],
    "loop": type(asyncio.get_running_loop()).__name__, "policy": type(asyncio.get_event_loop_policy()).__name__,
    "killed_first": open("/proc/self/oom_score_adj").read(),
    "threads": sorted(one.name.split("-")[0].split(" ")[0] for one in threading.enumerate()),
}
print(json.dumps(facts, default=str))
"""

LIBRARIES = """
import json, matplotlib, matplotlib.pyplot, numpy, pandas, plotly.io, pyarrow, sklearn
print(json.dumps({
    "numpy": [numpy.get_printoptions(), numpy.geterr()], "sklearn": sklearn.get_config(),
    "matplotlib": {k: str(v) for k, v in matplotlib.rcParams.items()}, "rc": matplotlib.matplotlib_fname(),
    "figures": matplotlib.pyplot.get_fignums(), "plotly": [plotly.io.renderers.default, plotly.io.templates.default],
    "pandas": pandas._config.config._global_config, "arrow": [pyarrow.cpu_count(), pyarrow.io_thread_count()],
}, default=str))
"""

ALLOWED = {  # stock → forked; everything else has to be equal
    "environment.JPY_PARENT_PID": "a forked kernel watches its client itself",
    "environment.NBOPS_KERNELS": "what makes it stock",
    "environment.KMP_DUPLICATE_LIB_OK": "scikit-learn sets it when it is imported",
    "environment.KMP_INIT_AT_FORK": "scikit-learn sets it when it is imported",
    "threads": "the poller of the parent is another thread",
    "status.SigCgt": "asyncio's child watcher",
    "pandas.display.encoding": "UTF-8 and utf-8",
}


def flat(facts, prefix=""):
    """Facts, one by one."""
    for name, value in facts.items():
        yield from flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]


@pytest.mark.slow
def test_a_forked_kernel_is_told_from_a_fresh_one_by_nothing_that_matters(tmp_path, monkeypatch):
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 3.25\n")
    (tmp_path / "here").mkdir()
    with Kernel(tmp_path) as first:  # the server is older than all that follows
        assert first.forked
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("SOMETHING", "of the requester")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ.get("PYTHONPATH", ""), "here", str(tmp_path)]))
    monkeypatch.chdir(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    umask, found = os.umask(0o027), {}
    handler = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 777), hard))
    try:
        for kind in ("stock", "forked"):
            monkeypatch.setenv("NBOPS_KERNELS", kind)
            with Kernel(".") as kernel:
                assert kernel.forked == (kind == "forked")
                found[kind] = json.loads(kernel.text(FACTS)) | json.loads(
                    (kernel.run("import matplotlib.pyplot as plt; plt.figure(); plt.close()"), kernel.text(LIBRARIES))[
                        1
                    ]
                )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.umask(umask)
        signal.signal(signal.SIGUSR1, handler)
    stock, forked = dict(flat(found["stock"])), dict(flat(found["forked"]))
    different = {
        name: (stock.get(name), forked.get(name))
        for name in stock | forked
        if stock.get(name) != forked.get(name) and name not in ALLOWED
    }
    assert different == {}
    assert forked["environment.SOMETHING"] == "of the requester" and forked["status.Umask"] == "0027"
    assert forked["zone"] == ["JST", "JST"] and forked["limits.RLIMIT_NOFILE"][0] == min(soft, 777)
    assert forked["temporary"] == forked["workers"] == str(tmp_path) and str(tmp_path / "here") in forked["path"]
    assert float(forked["matplotlib.lines.linewidth"]) == 3.25


def test_the_project_s_own_modules_are_read_anew_by_every_kernel(small):
    for number in (1, 2):
        (small / "mine.py").write_text(f"number = {number}\n{'#' * number}")
        with Kernel(small) as kernel:
            assert kernel.forked and kernel.value("__import__('mine').number") == number
            assert kernel.value("'nbops' in __import__('sys').modules") is False


@pytest.mark.slow
def test_random_numbers_of_siblings_differ_and_a_seed_gives_the_known_sequence(small):
    (small / "project.yaml").write_text("engine: {preload: [numpy]}\n")
    code = "(lambda r, n, u: [r.random(), n.random.rand(), n.random.default_rng().random(), u.uuid4().hex])"
    drawn = []
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            kernel = stack.enter_context(Kernel(small))
            assert kernel.forked
            drawn.append(kernel.value(f"{code}(*map(__import__, ['random', 'numpy', 'uuid']))"))
        assert all(len(set(column)) == 4 for column in zip(*drawn, strict=True))
        kernel.run("import numpy, random; numpy.random.seed(0); random.seed(0)")
        assert kernel.value("[numpy.random.rand(), random.random()]") == [0.5488135039273248, 0.8444218515250481]


# ---------------------------------------------------------------- output, input, plots


def test_output_of_every_kind_arrives(small):
    with Kernel(small) as kernel:
        code = "import os, sys; print('a'); sys.stderr.write('b'); os.write(1, b'c'); os.write(2, b'd'); os.system('echo e')"
        code += "; import subprocess; subprocess.run(['echo', 'f']); import time; sys.stdout.flush(); time.sleep(0.5)"
        _, said = kernel.run(code)
        found = {name: "".join(m["content"]["text"] for m in said if m["content"].get("name") == name)
                 for name in ("stdout", "stderr")}  # fmt: skip
        assert set("acef") <= set(found["stdout"]) and set("bd") <= set(found["stderr"])
        reply, _ = kernel.run("input('name? ')")
        assert reply["ename"] == "StdinNotImplementedError"

        def answer(message):
            assert message["content"]["prompt"] == "name? "
            kernel.client.input("Ada")

        assert kernel.text("print(input('name? ') + '!')", allow_stdin=True, stdin_hook=answer) == "Ada!\n"
        assert kernel.text("import asyncio; await asyncio.sleep(0); print('awaited')") == "awaited\n"


@pytest.mark.slow
def test_plots_tables_and_widgets_are_shown(tmp_path):
    with Kernel(tmp_path) as kernel:
        assert kernel.forked
        assert "image/png" in kernel.shown("import matplotlib.pyplot as plt; plt.plot([1, 2]);")[-1]
        assert len(kernel.shown("plt.plot([2, 1]); plt.show()")) == 1  # not again after the cell
        assert "application/vnd.plotly.v1+json" in kernel.shown("import plotly.express as px; px.line(y=[1, 2])")[-1]
        assert (
            "application/vnd.jupyter.widget-view+json" in kernel.shown("import ipywidgets; ipywidgets.IntSlider()")[0]
        )
        table = kernel.shown("import pandas as pd; pd.DataFrame([range(50)])")[0]["text/html"]
        assert "..." in table and "50 columns" in table
        assert "a warning" in kernel.text(
            "import mlflow, logging; logging.getLogger('mlflow').warning('a warning')", "stderr"
        )


@pytest.mark.slow
def test_threads_of_libraries_work(tmp_path):
    with Kernel(tmp_path) as kernel:
        assert kernel.forked
        assert kernel.value("(lambda a: float((a @ a)[0, 0]))(__import__('numpy').ones((900, 900)))") == 900
        kernel.text("""
import duckdb, numpy as np, pandas as pd, pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq
from concurrent.futures import ThreadPoolExecutor
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits
X = np.random.default_rng(0).normal(size=(2000, 4)); y = X[:, 0] > 0
for threads in (1, 2):
    with threadpool_limits(threads):
        assert HistGradientBoostingClassifier(max_iter=3).fit(X, y).score(X, y) > 0.9
        np.linalg.svd(X)
pa.set_cpu_count(4)
table = pa.table({"a": np.arange(200_000), "b": np.arange(200_000) % 7})
pq.write_table(table, "t.parquet", row_group_size=10_000)
assert pc.sum(pq.read_table("t.parquet", use_threads=True)["a"]).as_py() == 199999 * 100000
assert table.group_by("b", use_threads=True).aggregate([("a", "sum")]).num_rows == 7
duckdb.sql("set threads = 4")
assert duckdb.sql("select count(distinct b) from 't.parquet'").fetchall() == [(7,)]
with ThreadPoolExecutor(4) as pool:
    assert list(pool.map(lambda n: n * n, range(9))) == [n * n for n in range(9)]
""")


def test_workers_of_a_kernel(small):
    (small / "worker.py").write_text("def double(n): return 2 * n\n")
    with Kernel(small) as kernel:
        for method in ("fork", "spawn"):
            code = f"multiprocessing.get_context({method!r}).Pool(2)"
            kernel.text(f"import multiprocessing, worker\nwith {code} as pool: print(pool.map(worker.double, [1, 2]))")
        assert kernel.value("multiprocessing.get_context('spawn').Pool(1).map(worker.double, [4])") == [8]


def test_the_debugger_attaches(small):
    with Kernel(small) as kernel:

        def ask(command, **arguments):
            content = {"type": "request", "seq": 1, "command": command, "arguments": arguments}
            kernel.client.control_channel.send(kernel.client.session.msg("debug_request", content))
            return kernel.client.get_control_msg(timeout=30)["content"]

        assert ask("debugInfo")["success"] and ask("initialize", clientID="t", adapterID="t")["success"]
        assert ask("attach", justMyCode=False).get("success", True)
        file = ask("dumpCell", code="x = 1\ny = 2\n")["body"]["sourcePath"]
        breakpoint_ = ask("setBreakpoints", source={"path": file}, breakpoints=[{"line": 2}])["body"]["breakpoints"]
        assert breakpoint_[0]["verified"]


# ---------------------------------------------------------------- signals and ends


BUSY = {
    "python": "while True: pass",
    "sleep": "import time; time.sleep(60)",
    "numpy": "import numpy as np; a = np.ones((300, 300))\nwhile True: a @ a",
    "subprocess": "import subprocess; subprocess.run(['sleep', '60'])",
}


@pytest.mark.slow
def test_interrupt_and_restart(small):
    with Kernel(small) as kernel:
        for code in BUSY.values():
            timer = threading.Timer(0.5, kernel.manager.interrupt_kernel)
            timer.start()
            assert kernel.run(code)[0]["ename"] == "KeyboardInterrupt"
            timer.join()
        before, info = kernel.pid, kernel.manager.get_connection_info()
        kernel.run("kept = 1")
        kernel.manager.restart_kernel(now=False, stdout=subprocess.DEVNULL)
        kernel.client.wait_for_ready(timeout=60)
        assert kernel.forked and kernel.pid != before and gone(before)
        assert kernel.manager.get_connection_info() == info and kernel.value("'kept' in globals()") is False


ENDS = {
    "import os; os._exit(7)": 7,
    "import ctypes; ctypes.string_at(0)": -signal.SIGSEGV,
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": -signal.SIGKILL,
    "import os; os.abort()": -signal.SIGABRT,
}


@pytest.mark.parametrize("code", ENDS)
def test_the_client_learns_how_a_kernel_ended(small, code):
    with Kernel(small) as kernel:
        process = kernel.process
        kernel.client.execute(code)
        assert process.wait(20) == ENDS[code]
        assert not kernel.manager.is_alive() and process.poll() == ENDS[code]
        process.kill()  # does nothing to a process that has ended


def test_a_kernel_that_is_told_to_end_saves_what_is_open(small):
    (small / "keeper.py").write_text("file = open('kept', 'w')\n")
    with Kernel(small) as kernel:
        kernel.run("""import atexit, keeper
keeper.file.write('written')
class Last:
    def __del__(self): open('deleted', 'w').close()
last, file, raw = Last(), open('text', 'w'), open('bytes', 'wb')
file.write('written'); raw.write(b'written')
atexit.register(lambda: open('exited', 'w').close())""")
        process = kernel.process
        kernel.manager.request_shutdown()
        assert process.wait(20) == 0
    assert [(small / one).read_text() for one in ("text", "bytes", "kept")] == ["written"] * 3
    assert (small / "exited").exists() and (small / "deleted").exists()


CALLS = [
    ("sys.exit(3)", 3, "", ""),
    ("sys.exit()", 0, "", ""),
    ("sys.exit('no')", 1, "", "no\n"),
    ("print(sys.argv, os.getcwd()); sys.stderr.write('e')", 0, "['x', 'a b'] {folder}\n", "e"),
    ("raise ValueError('bad')", 1, "", "ValueError: bad\n"),
    ("os.kill(os.getpid(), signal.SIGTERM)", 128 + signal.SIGTERM, "", ""),
    ("os.kill(os.getpid(), signal.SIGINT)", 128 + signal.SIGINT, "", "KeyboardInterrupt\n"),
    ("open('written', 'w').write('all')", 0, "", ""),
    ("print(signal.getsignal(signal.SIGHUP))", 0, "1\n", ""),
    ("print('now'); os._exit(0)", 0, "now\n", ""),
    ("print(os.environ['HERE'], 'THERE' in os.environ)", 0, "yes False\n", ""),
]


@pytest.mark.parametrize(("code", "expected", "out", "err"), CALLS, ids=[one[0] for one in CALLS])
def test_a_command_line_ends_as_if_it_had_not_been_forked(tmp_path, code, expected, out, err):
    (tmp_path / "task.py").write_text(f"import os, signal, sys\ndef main():\n    {code}\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "HERE": "yes"}
    env |= {"PYTHONUNBUFFERED": "1"} if "_exit" in code else {}
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)} if "SIGHUP" in code else {}
    done = call("task:main", "a b", folder=tmp_path, env=env, **ignore)
    assert done.returncode == expected, done.stderr
    assert done.stdout == out.format(folder=tmp_path) and done.stderr.endswith(err)


# ---------------------------------------------------------------- a kernel and its client


CLIENT = """
import sys, time
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3", cwd=sys.argv[1])
code = "import subprocess, os; p = subprocess.Popen(['sleep', '300']); print(os.getpid(), p.pid)"
client.execute_interactive(code, output_hook=lambda m: print(m["content"].get("text", ""), end="", flush=True))
time.sleep(300)
"""


@pytest.mark.slow
def test_a_killed_client_takes_its_kernel_and_the_kernel_s_processes_with_it(small):
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(small)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as client:
        pids = [int(one) for one in client.stdout.readline().split()]
        assert len(pids) == 2 and not any(map(gone, pids))
        client.kill()
        until(lambda: all(map(gone, pids)), 5)


def test_private_kernels_leave_nothing_behind(small, runtime):
    async def live():
        manager = kernels.PrivateKernelManager(kernel_name="python3")
        await manager.start_kernel(cwd=str(small))
        assert isinstance(manager.provisioner.process, ForkedProcess)
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=30)
        pid = manager.provisioner.pid
        sockets = list(runtime.glob("kernel-*-ipc-*"))
        await manager.restart_kernel()
        await client.wait_for_ready(timeout=30)
        assert manager.provisioner.pid != pid and gone(pid) and sockets
        client.stop_channels()
        await manager.shutdown_kernel()

    asyncio.run(live())
    assert list(runtime.glob("kernel-*")) == []


def test_waiting_for_a_kernel_while_somebody_polls(small):
    async def live():
        manager = AsyncKernelManager(kernel_name="python3")
        await manager.start_kernel(cwd=str(small))
        provisioner = manager.provisioner
        waiting = asyncio.create_task(provisioner.wait())
        await asyncio.sleep(0.05)
        os.kill(provisioner.pid, signal.SIGKILL)
        process = provisioner.process
        await asyncio.to_thread(process.wait, 10)  # reads the message first
        assert await asyncio.wait_for(waiting, 5) == -signal.SIGKILL
        await manager.cleanup_resources()

    asyncio.run(live())


@pytest.mark.slow
def test_other_tools_get_forked_kernels(small, runtime):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import os; print(os.getppid(), os.getcwd())")])
    (small / "inside").mkdir()
    with contextlib.chdir(small):  # a relative folder, as nbconvert gives it
        nbclient.NotebookClient(book, kernel_name="python3", resources={"metadata": {"path": "inside"}}).execute()
    parent, folder = book.cells[0].outputs[0]["text"].split()
    assert folder == str(small / "inside") and int(parent) in [one["server"] for one in forkserver.servers()]


def test_jupyterlab_and_voila_get_forked_kernels(small):
    async def live():
        manager = AsyncMappingKernelManager(root_dir=str(small))
        number = await manager.start_kernel(path="")
        kernel = manager.get_kernel(number)
        before = kernel.provisioner.process
        await manager.interrupt_kernel(number)
        await manager.restart_kernel(number)
        assert isinstance(before, ForkedProcess) and isinstance(kernel.provisioner.process, ForkedProcess)
        assert gone(before.pid) and kernel.provisioner.process.poll() is None
        await manager.shutdown_all()

    asyncio.run(live())


def test_many_kernels_at_once(small):
    async def one():
        manager = kernels.PrivateKernelManager(kernel_name="python3")
        await manager.start_kernel(cwd=str(small))
        try:
            client = manager.client()
            client.start_channels()
            await client.wait_for_ready(timeout=60)
            client.stop_channels()
            return isinstance(manager.provisioner.process, ForkedProcess)
        finally:
            await manager.shutdown_kernel(now=True)

    async def live():
        return await asyncio.gather(
            *(one() for _ in range(20))
        )  # each has 25 files open; a process may often have 1,024

    assert asyncio.run(live()) == [True] * 20


def test_a_kernel_starts_though_very_many_files_are_open(small):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.ExitStack() as files:
        files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(min(1100, hard - 100)):  # select() knows 1,024
            files.enter_context(open(os.devnull))
        with Kernel(small) as kernel:
            assert kernel.forked and kernel.value("1 + 1") == 2


# ---------------------------------------------------------------- falling back


def stock_with_one_line(folder, caplog, words):
    """Starts a kernel that should fall back; checks the one line."""
    caplog.clear()
    with Kernel(folder) as kernel:
        assert not kernel.forked and kernel.value("1 + 1") == 2
    (record,) = [one for one in caplog.records if "preloaded" in one.getMessage()]
    assert words in record.getMessage() and "\n" not in record.getMessage()


def test_a_fallback_says_why_in_one_line(small, own_runtime, caplog, monkeypatch):
    own_runtime.mkdir(mode=0o755)
    stock_with_one_line(small, caplog, "is not a folder of this user alone (mode 700)")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    stock_with_one_line(small, caplog, "/nowhere/nbops-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(own_runtime.parent))
    own_runtime.chmod(0o700)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "sched_getaffinity")
    with pytest.raises(ForkserverError, match="forked kernels need Linux; this is darwin"):
        ForkedProcess({"kind": "call", "entry": "os:getpid", "args": [], **SELF}, (0, 1, 2), preload=SMALL)


def test_the_command_line_says_once_that_it_cannot_fork(own_runtime, tmp_path):
    own_runtime.mkdir(mode=0o755)
    nbops = str(Path(sys.executable).parent / "nbops")
    done = subprocess.run([nbops, "why"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr.count("mode 700") == 1 and "starting the kernel server" not in done.stderr
    assert "nothing could be imported ahead" in done.stderr.splitlines()[0] and "Traceback" not in done.stderr


def test_private_kernels_do_without_a_private_folder(small, own_runtime):
    own_runtime.mkdir(mode=0o755)

    async def live():
        manager = kernels.PrivateKernelManager(kernel_name="python3")
        assert manager.transport == "tcp"
        await manager.start_kernel(cwd=str(small))
        assert isinstance(manager.provisioner.process, subprocess.Popen)
        await manager.shutdown_kernel(now=True)

    asyncio.run(live())


def test_sockets_with_long_names_are_not_tried(tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    assert kernels.PrivateKernelManager().transport == "tcp"


def test_stock_kernels_on_request_and_for_other_commands(small, monkeypatch):
    assert kernels._is_ours([sys.executable, "-m", "ipykernel_launcher"])
    assert not kernels._is_ours([sys.executable, "-O", "-m", "ipykernel_launcher"])
    assert not kernels._is_ours(["/usr/bin/python3", "-m", "ipykernel_launcher"])
    assert not kernels._is_ours([sys.executable, "-m", "xeus"])
    monkeypatch.setenv("NBOPS_KERNELS", "stock")
    with Kernel(small) as kernel:
        assert not kernel.forked


def test_a_module_that_cannot_be_imported_is_left_out(small, own_runtime):
    (small / "project.yaml").write_text(
        "engine: {preload: [no_such_module, unittest.__main__, json]}\n"
    )  # the second exits
    with Kernel(small) as kernel:
        assert kernel.forked
    (one,) = forkserver.servers()
    assert (
        sorted(one["failed"]) == ["no_such_module", "unittest.__main__"]
        and "SystemExit" in one["failed"]["unittest.__main__"]
    )
    done = CliRunner().invoke(cli.main, ["engine", "status"])
    assert done.exit_code == 0 and "not imported: no_such_module" in done.output and "1 server running" in done.output


# ---------------------------------------------------------------- the server


def ask(request, preload=SMALL):
    """A raw request; gives the first line of the answer."""
    with forkserver.connect(preload) as connection:
        forkserver._send(connection, request)
        return forkserver._Lines(connection).get(30)


def fork(entry="time:sleep", preload=SMALL, **more):
    """A forked call."""
    request = {"kind": "call", "entry": entry, "args": [], "program": "x", **SELF, "env": dict(os.environ), **more}
    return ForkedProcess(request, (0, 1, 2), preload=preload)


def test_servers_are_shown_and_stopped(own_runtime, monkeypatch):
    child = fork("signal:pause")
    done = CliRunner().invoke(cli.main, ["engine", "status", "--json"])
    (one,) = json.loads(done.stdout)["servers"]
    assert done.exit_code == 0 and one["children"] == [child.pid] and one["threads"] == 1 and one["forks"] == 1
    text = CliRunner().invoke(cli.main, ["engine", "status"]).output
    assert f"process {one['server']}: " in text and f"1 forks, at work: process {child.pid}" in text
    with monkeypatch.context() as patch:
        patch.setattr(sys, "prefix", "/another/environment")
        assert forkserver.servers() == [] and len(forkserver.servers(everywhere=True)) == 1
    stopped = CliRunner().invoke(cli.main, ["engine", "stop"])
    assert stopped.exit_code == 0 and "1 server told to end" in stopped.output
    assert not gone(child.pid) and forkserver.servers() == []  # the child may finish
    child.terminate()
    assert child.wait(10) == -signal.SIGTERM
    until(lambda: gone(one["server"]))
    assert [file.name for file in own_runtime.iterdir()] == ["lock"]


def test_who_is_killed_while_asking_leaves_no_open_file(own_runtime):
    reading, writing = os.pipe()
    for part in (2, 4, 20):  # of the length, after it, of the request
        with forkserver.connect(SMALL) as connection:
            files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writing]))]
            connection.sendmsg([(struct.pack("!I", 100) + b"{" * 50)[:part]], files)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert select.select([pipe], [], [], 10)[0] and pipe.read() == b""


def test_make_and_a_terminal_use_the_same_server():
    assert forkserver.address(env=os.environ | {"PYTHON": ""}) == forkserver.address(env=dict(os.environ))


def test_sigterm_retires_a_server_and_its_children_finish(own_runtime):
    child = fork("signal:pause")
    (one,) = forkserver.servers()
    os.kill(one["server"], signal.SIGTERM)
    until(lambda: forkserver.servers() == [])
    assert not gone(one["server"])
    child.terminate()
    assert child.wait(10) == -signal.SIGTERM
    until(lambda: gone(one["server"]))


def test_an_idle_server_ends(own_runtime, monkeypatch):
    monkeypatch.setenv("NBOPS_SERVER_IDLE", "0.5")
    assert fork("os:getpid").wait(10) > 0
    child = fork("signal:pause")
    pid = psutil.Process(child.pid).ppid()
    child.kill()
    assert child.wait(10) == -signal.SIGKILL
    until(lambda: gone(pid), 10)
    assert [file.name for file in own_runtime.iterdir()] == ["lock"]


def test_two_who_start_a_server_get_the_same(own_runtime):
    code = "from nbops.forkserver import connect; connect(('json',)).close()"
    for one in [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]:
        assert one.wait(30) == 0
    assert len(forkserver.servers()) == 1
    running = [
        one for one in psutil.process_iter(["cmdline"]) if str(own_runtime) in " ".join(one.info["cmdline"] or ())
    ]
    assert len(running) == 1 and running[0].ppid() != os.getpid()


@pytest.mark.slow
def test_a_changed_module_or_package_replaces_the_server_and_loses_no_kernel(small, own_runtime):
    import colorama as victim  # a small package

    (small / "project.yaml").write_text("engine: {preload: [colorama]}\n")
    file = Path(victim.__file__)
    was = file.stat()
    with Kernel(small) as old:
        try:
            os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns - 1_000_000_000))
            time.sleep(0.3)  # changes are looked for four times a second
            with Kernel(small) as new:
                assert old.forked and new.forked and server_of(old) != server_of(new)
                assert old.value("1 + 1") == 2
        finally:
            os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
        process, parent = old.process, server_of(old)
        old.client.execute("import os; os._exit(5)")
        assert process.wait(20) == 5
    until(lambda: gone(parent))


def test_an_installed_package_is_noticed(tmp_path):
    before = {str(tmp_path): (tmp_path.stat().st_mtime_ns, tmp_path.stat().st_size)}
    assert forkserver._changed(before) == [] and set(map(str, sys.path)) & set(forkserver._files())
    (tmp_path / "new.pth").touch()
    assert forkserver._changed(before) == [str(tmp_path)]


@pytest.mark.slow
def test_a_killed_server_takes_no_kernel_with_it(small, own_runtime):
    with Kernel(small) as old:
        os.kill(server_of(old), signal.SIGKILL)
        assert old.value("1 + 1") == 2
        with Kernel(small) as new:
            assert new.forked and server_of(new) != server_of(old)
        assert old.value("2 + 2") == 4
        process = old.process
        old.client.execute("import os; os._exit(0)")
        assert process.wait(20) == -signal.SIGKILL  # nobody is left who could know


def test_nonsense_does_not_end_a_server():
    assert ask({"kind": "cook"})["refused"].startswith("unknown kind of request 'cook'; allowed: kernel, call")
    assert "refused" in ask(["kind"]) and "refused" in ask({})
    for nonsense in (b"\0\0\0\3{{{", b"\0", b"\xff\xff\xff\xff{"):
        with forkserver.connect(SMALL) as connection:
            connection.sendall(nonsense)
    assert fork("os:getpid").wait(20) >= 0


def test_a_refused_fork_is_answered(own_runtime, monkeypatch):
    def refuse(*_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(forkserver, "_fork", refuse)
    own_runtime.mkdir(mode=0o700)
    listener, (ours, theirs) = socket.socket(socket.AF_UNIX), socket.socketpair()
    server = forkserver._Server(listener, own_runtime / "x.sock", {"files": {}}, 1, -1, -1, 0)
    with listener, theirs:
        forkserver._send(theirs, {"kind": "call"}, (0, 1, 2))
        forkserver._answer(server, ours)
        assert forkserver._Lines(theirs).get(1) == {"refused": "it cannot fork: Resource temporarily unavailable"}
        assert server.listener is listener and server.children == {} and ours.fileno() == -1


def test_a_server_that_dies_while_it_is_asked(own_runtime, tmp_path):
    (tmp_path / "fatal.py").write_text("import os; os._exit(3)")
    code = """import os
from nbops.forkserver import ForkedProcess, ForkserverError
request = {"kind": "call", "entry": "os:getpid", "args": [], "program": "x", "env": dict(os.environ), "cwd": "/"}
try: ForkedProcess(request, (0, 1, 2), preload=("this_ends_the_server",))
except ForkserverError as error: print(error)"""
    boot = (
        forkserver._source().read_text().replace("importlib.import_module(name)", "name[0] == 't' and os._exit(3)", 1)
    )
    package = tmp_path / "nbops"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "forkserver.py").write_text(boot)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)})  # fmt: skip
    assert "gave no process: it ended while it was asked, " in done.stdout and ".log may say why" in done.stdout


def test_an_early_signal_is_not_lost():
    for _ in range(20):
        child = fork("signal:pause")
        child.terminate()
        assert child.wait(10) == -signal.SIGTERM


def test_a_folder_that_is_not_there_is_said(capfd):
    assert fork("os:getpid", cwd="/no/such/folder").wait(20) == 1
    assert "FileNotFoundError" in capfd.readouterr().err


@pytest.mark.slow
def test_two_hundred_forks_leave_no_trace_in_the_server(runtime):
    fork("gc:disable").wait(20)
    child = fork("signal:pause")
    server = psutil.Process(psutil.Process(child.pid).ppid())
    child.kill()
    until(lambda: server.children() == [])

    def live():
        for _ in range(100):
            fork("gc:disable").wait(20)
        until(lambda: server.children() == [])
        return server.memory_info().rss, server.num_fds()

    memory, files = live()
    grown, _ = live()
    until(lambda: server.num_fds() <= files)
    assert grown - memory < 1_000_000


# ---------------------------------------------------------------- who may ask


def test_the_folder_and_the_sockets_are_private(own_runtime):
    with forkserver.connect(SMALL):
        assert own_runtime.stat().st_mode & 0o777 == 0o700
        (path,) = own_runtime.glob("*.sock")
        assert path.stat().st_mode & 0o777 == 0o600 and path == forkserver.address(SMALL)


@pytest.mark.parametrize("make", [
    lambda folder: folder.mkdir(mode=0o750),
    lambda folder: folder.symlink_to(tempfile.gettempdir()),
    lambda folder: folder.write_text(""),
])  # fmt: skip
def test_a_folder_that_others_may_enter_is_refused(own_runtime, make):
    make(own_runtime)
    own_runtime.is_symlink() or own_runtime.chmod(0o750)
    with pytest.raises(ForkserverError, match="is not a folder of this user alone"):
        forkserver.runtime_folder()


def test_another_user_is_not_served(own_runtime, monkeypatch):
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    forkserver._answer(None, ours)  # closes it unread
    assert theirs.recv(1) == b"" and ours.fileno() == -1
    theirs.close()
    own_runtime.mkdir(mode=0o700)
    with pytest.raises(ForkserverError, match="is not a folder of this user alone"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(own_runtime.parent))
        own_runtime.rename(own_runtime.with_name("nbops-12345"))
        forkserver.runtime_folder()


def test_another_environment_gets_another_server(monkeypatch):
    same = forkserver.address(SMALL)
    for name in ("OMP_NUM_THREADS", "SCIPY_ARRAY_API", "MPLCONFIGDIR", "PYTHONHASHSEED", "LC_ALL"):
        assert forkserver.address(SMALL, {**os.environ, name: "7"}) != same
    for name in ("PYTHONPATH", "PATH", "TZ", "JPY_SESSION_NAME", "MPLBACKEND"):
        assert forkserver.address(SMALL, {**os.environ, name: "7"}) == same
    monkeypatch.setattr(os, "getpriority", lambda *_: 19)
    assert forkserver.address(SMALL) != same
