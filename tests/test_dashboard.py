"""The monitoring page: on made-up stores of every kind, and in a real browser in front of a real Voila server."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from nbops import dashboard, pages
from report_store import write_report

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "voila/render/monitoring.ipynb"
MONTHS = tuple(f"{2012 + i // 12}-{i % 12 + 1:02d}" for i in range(24))


def parts(widget):
    """A widget and everything inside it."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from parts(child)


def text_of(widget):
    """The HTML and the button texts of a page."""
    return " ".join(f"{getattr(part, 'value', '')} {getattr(part, 'description', '')}" for part in parts(widget))


# ---------------------------------------------------------------- without a browser


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "ROC AUC"),
        ({"kind": "multiclass"}, "ROC AUC"),
        ({"kind": "regression"}, "Mean absolute error"),
        ({"periods": ("all",)}, "Performance is not known yet"),
        ({"periods": ("2013-04",), "champion": False}, "No model serves yet"),
        ({"features": tuple(f"feature_{i}" for i in range(40)), "periods": MONTHS}, "Show all 40 features"),
        ({"title": "<script>alert(1)</script>"}, "&lt;script&gt;"),
    ],
)
def test_every_kind_of_report_makes_a_page(tmp_path, options, expected):
    write_report(tmp_path, **options)
    page = dashboard.monitoring_page(tmp_path)
    assert len(page.children) == 6
    text = text_of(page)
    assert expected in text
    assert "<script" not in text and ">nan" not in text and " nan" not in text


def test_newest_period_with_a_report_is_shown(tmp_path):
    write_report(tmp_path, periods=("2013-04", "2013-05"))
    write_report(tmp_path, periods=("2013-04", "2013-05", "2013-06"))
    (tmp_path / "products" / "2013-07" / "95_report").mkdir(parents=True)
    assert dashboard.newest_report(tmp_path).parts[-2] == "2013-06"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("drift.parquet", b"not parquet", "drift.parquet in .* is not a readable Parquet file"),
        ("drift.parquet", None, "drift.parquet is missing"),
        ("summary.json", b'{"format": 1', "summary.json in .* is not readable as JSON"),
        ("summary.json", b'{"format": 9}', "has format 9, this page reads format 1"),
        ("summary.json", b'{"format": 1}', "has no champion, decision"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, content, message):
    folder = write_report(tmp_path)
    (folder / name).write_bytes(content) if content is not None else (folder / name).unlink()
    with pytest.raises(dashboard.ReportError, match=message):
        dashboard.read_report(folder)
    notice = dashboard.monitoring_page(tmp_path).value
    assert name in notice and "make run" in notice and "Traceback" not in notice


def test_no_visitor_sees_a_traceback_of_an_unexpected_report(tmp_path, monkeypatch):
    folder = write_report(tmp_path)
    (folder / "summary.json").write_text((folder / "summary.json").read_text().replace('"headline"', '"head"'))
    with pytest.raises(KeyError):
        dashboard.monitoring_page(tmp_path)
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5")
    assert "does not have the expected content (KeyError)" in dashboard.monitoring_page(tmp_path).value


def test_the_store_is_found_from_any_folder_inside_the_project(tmp_path, monkeypatch):
    monkeypatch.delenv("NBOPS_STORE", raising=False)
    (tmp_path / "project.yaml").touch()
    (tmp_path / "reports" / "deep").mkdir(parents=True)
    assert pages.find_store(tmp_path / "reports" / "deep") == tmp_path / "store"
    monkeypatch.setenv("NBOPS_STORE", "elsewhere")
    assert pages.find_store(tmp_path / "reports") == tmp_path / "elsewhere"


def test_a_dashboard_loads_no_heavy_library():
    code = (
        "import sys; from nbops import dashboard; "
        "print([m for m in ('evidently', 'mlflow', 'great_expectations', 'sklearn', 'shap') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], env=_environment(), capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# ---------------------------------------------------------------- in a browser


def _environment(**extra):
    """This process's environment, with the library of this tree first."""
    path = os.pathsep.join(filter(None, (str(ROOT / "lib"), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path} | extra


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store whose content each test writes; pages read it when they are opened."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def server(store, tmp_path_factory):
    """Address of a Voila server as `make dashboards` starts it, with one kernel waiting."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("voila") / "log"
    command = [str(Path(sys.executable).parent / "voila"), "reports", "--Voila.config_file_paths=reports/theme"]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, f"--port={port}", "--Voila.port_retries=0"],
            cwd=ROOT, env=_environment(NBOPS_STORE=str(store)), stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        _wait(lambda: "pool of monitoring.ipynb is filled" in log.read_text(), process, log)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait(condition, process, log, seconds=90):
    """Return when the condition holds; fail with the server's log."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            pytest.fail(f"Voila did not start:\n{log.read_text()}")
        time.sleep(0.1)


@pytest.fixture(scope="module")
def browser(chromium):
    """Headless Chromium, alone with this machine."""
    from playwright.sync_api import sync_playwright

    quiet = "--no-sandbox --disable-gpu --disable-quic --no-first-run"
    quiet += " --disable-background-networking --disable-component-update --disable-sync"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=quiet.split())
        yield opened
        opened.close()


def visit(browser, server, ready):
    """Open the page, note everything it asks for and complains about, and wait until `ready` is visible."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page.seen = {"requests": [], "failed": [], "errors": []}
    page.on("request", lambda request: page.seen["requests"].append(request.url))
    page.on("requestfailed", lambda request: page.seen["failed"].append(request.url))
    page.on("response", lambda answer: page.seen["failed"].append(answer.url) if answer.status >= 400 else None)
    page.on("console", lambda line: page.seen["errors"].append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: page.seen["errors"].append(str(error)))
    page.set_default_timeout(90_000)
    page.goto(server + ADDRESS)
    page.wait_for_selector(ready)
    return page


@pytest.fixture(scope="module")
def report(browser, server, store):
    """The page of an ordinary report, written after the kernel that shows it had started."""
    shutil.rmtree(store / "products", ignore_errors=True)
    write_report(store)
    page = visit(browser, server, ".nb-page .nb-figure .main-svg")
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 8")
    yield page
    page.close()


@pytest.mark.browser
def test_the_page_answers_the_first_questions(report):
    assert report.locator("h1:visible").inner_text() == report.title() == "Flight delay"
    assert "Version 2 still performs" in report.inner_text(".nb-health")
    assert report.locator(".nb-kpi").count() == 5
    assert report.locator(".nb-card:visible").count() == 7
    assert report.locator(".js-plotly-plot:visible").count() == 4
    assert "Score January 2014" in report.inner_text(".nb-next")


@pytest.mark.browser
def test_nothing_leaves_the_machine_and_nothing_fails(report, server):
    hosts = {urlsplit(url).netloc for url in report.seen["requests"] if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(server).netloc}
    assert report.seen["failed"] == []
    assert report.seen["errors"] == []


@pytest.mark.browser
def test_the_text_is_set_in_the_bundled_font(report):
    assert report.evaluate("document.fonts.check('600 16px Inter')")
    assert any("inter-latin.woff2" in url for url in report.seen["requests"])


@pytest.mark.browser
def test_a_filter_changes_the_figure(report):
    feature, period = (report.get_by_role("combobox", name=name) for name in ("Feature", "Period"))
    card = report.locator(".nb-card", has=feature)
    bars = "[...document.querySelectorAll('.js-plotly-plot')].map(p => p.data).find(d => d[0].type == 'bar').map(t => [...t.y])"
    title, before = card.locator("h2").inner_text(), report.evaluate(bars)
    feature.select_option("temp")
    report.wait_for_function(f"document.body.innerText.includes('temp:') && JSON.stringify({bars}) != {str(before)!r}")
    after = report.evaluate(bars)
    assert card.locator("h2").inner_text() != title and after != before
    period.select_option("Sep 2013")
    report.wait_for_function(
        "document.body.innerText.includes('Sep 2013') && document.querySelector('.nb-controls .nb-act')"
    )
    assert report.evaluate(bars) != after


@pytest.mark.browser
def test_every_feature_can_be_shown(report):
    rows = "[...document.querySelectorAll('.js-plotly-plot')].map(p => p.data).find(d => d[0].type == 'heatmap')[0].y.length"
    assert report.evaluate(rows) == 12
    report.get_by_role("button", name="Show all 14 features").click()
    report.wait_for_function(f"{rows} == 14")
    report.get_by_role("button", name="Show the 12 most drifted").click()
    report.wait_for_function(f"{rows} == 12")


@pytest.mark.browser
def test_figures_and_controls_have_names(report):
    report.wait_for_function(
        "[...document.querySelectorAll('.js-plotly-plot')].every(p => p.getAttribute('aria-label'))"
    )
    assert report.get_by_role("img", name="ROC AUC").count() >= 1
    assert report.get_by_role("combobox", name="Feature").count() == 1
    assert report.locator("main").count() == 1 and report.locator("h1:visible").count() == 1


@pytest.mark.browser
def test_dark_and_light(report):
    look = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('.xtick text')).fill]"
    light = report.evaluate(look)
    report.emulate_media(color_scheme="dark")
    dark = report.evaluate(look)
    assert light[0] != dark[0] and light[1] != dark[1]
    report.get_by_role("button", name="Use light colours").click()
    assert report.evaluate(look) == light
    report.get_by_role("button", name="Use dark colours").click()
    report.emulate_media(color_scheme="light")
    assert report.evaluate(look) == dark
    report.emulate_media(media="print")
    assert report.evaluate(look) == ["rgb(255, 255, 255)", light[1]]
    report.emulate_media(media="null")


@pytest.mark.browser
def test_it_prints_on_two_pages(report):
    assert len(re.findall(rb"/Type /Page\b", report.pdf(prefer_css_page_size=True))) == 2


@pytest.mark.browser
def test_an_empty_store_says_what_to_do(browser, server, store):
    shutil.rmtree(store / "products", ignore_errors=True)
    page = visit(browser, server, ".nb-notice")
    assert "There is no report yet" in page.inner_text(".nb-notice") and "make run" in page.inner_text(".nb-notice")
    assert page.seen["errors"] == [] and page.seen["failed"] == []
    page.close()


@pytest.mark.browser
def test_a_corrupt_report_gives_one_sentence(browser, server, store):
    (write_report(store) / "quality.parquet").write_bytes(b"PAR1 and no more")
    page = visit(browser, server, ".nb-notice")
    assert "quality.parquet" in page.inner_text(".nb-notice")
    assert "Traceback" not in page.content() and "File " not in page.inner_text("body")
    page.close()


@pytest.mark.browser
def test_the_server_gives_pages_only(server):
    with urllib.request.urlopen(server) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        index = answer.read().decode()
    assert "Monitoring" in index and "://" not in index.replace("http://www.w3.org", "")
    for path in ("voila/files/monitoring.ipynb", "voila/files/theme/voila.py", "voila/render/absent.ipynb"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(server + path)


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_of_the_real_run(browser, server, store, flights_run):
    shutil.rmtree(store / "products", ignore_errors=True)
    shutil.copytree(flights_run[1] / "products" / "2013-04", store / "products" / "2013-04")
    page = visit(browser, server, ".nb-page .nb-figure .main-svg")
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 8")
    assert page.title() == "Late arrivals from New York"
    assert "version 2 takes over from version 1" in page.inner_text(".nb-health")
    assert {urlsplit(url).hostname for url in page.seen["requests"] if url.startswith("http")} == {"127.0.0.1"}
    assert page.seen["failed"] == page.seen["errors"] == []
    page.close()
