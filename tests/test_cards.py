"""Model cards and compliance files: every number has its evidence, tampering shows, what is missing is named."""

import json
import os
import shutil
import sqlite3
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from markdown_it import MarkdownIt
from sklearn.linear_model import LinearRegression, LogisticRegression

from nbops.base import InputError
from nbops.card_pages import card_html, card_markdown
from nbops.cards import model_card
from nbops.checkpoints import make_checkpoint, verify_since
from nbops.compliance import ask, compliance, compliance_html, compliance_markdown
from nbops.config import Project, Source, Target, load_project
from nbops.controls import ANNEX, NIST, SUBCATEGORIES, uncovered
from nbops.evidence import gather, note_card, run_facts
from nbops.intent import Intent
from nbops.ledger import digest, record, records
from nbops.plots import metric_label
from nbops.registry import register
from nbops.signing import make_key
from nbops.sources import write_json, write_table
from nbops.tracking import log_candidate, open_tracking
from small_project import command, make_project

HOSTILE = '<script>alert("1")</script>'
STATED = {"intended_use": "Sort parcels.", "risks": ["A parcel is late.", "A parcel is lost."], "licence": "Apache-2.0"}


class Page(HTMLParser):
    """What a program sees of a page: numbers with their evidence, links, anchors, elements, texts."""

    def __init__(self, text):
        super().__init__()
        self.numbers, self.links, self.anchors, self.elements, self.texts = [], [], set(), [], []
        self.open = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.elements.append((tag, found))
        self.anchors |= {found["id"]} if "id" in found else set()
        self.links += [found["href"]] if "href" in found else []
        if tag not in ("meta", "br"):
            self.open.append((tag, found.get("data-refs")))
        value = found.get("value") if tag == "data" else found.get("data-value")
        if value is not None:
            refs = next((refs for _, refs in reversed(self.open) if refs is not None), "")
            self.numbers += [(float(one), refs.split()) for one in value.split()]

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, text):
        self.texts.append(text)


def numbers_in(value):
    """All numbers in data, and texts that are numbers."""
    if isinstance(value, dict):
        return [number for one in value.values() for number in numbers_in(one)]
    if isinstance(value, list | tuple):
        return [number for one in value for number in numbers_in(one)]
    if isinstance(value, bool) or value is None:
        return []
    try:
        return [float(value)]
    except (TypeError, ValueError):
        return []


def evidence_numbers(found, key):
    """The numbers that a piece of evidence holds, read here without the card's own code."""
    one = found.evidence[key]
    if one.source == "ledger":
        with sqlite3.connect(found.store / "nbops.db") as connection:
            query = "SELECT payload, hash FROM ledger WHERE seq = ?"
            payload, own = connection.execute(query, (int(key[1:]),)).fetchone()
        assert own == one.digest
        return numbers_in(json.loads(payload))
    if one.source == "mlflow":
        run = open_tracking(found.project, found.store).get_run(found.version.run_id)
        return numbers_in([dict(run.data.params), dict(run.data.metrics)])
    if one.name == "project.yaml":
        return numbers_in(yaml.safe_load((found.project.root / one.name).read_text()))
    file = found.files[one.name]
    if file.suffix == ".parquet":
        return [
            float(x) for column in pd.read_parquet(file).select_dtypes("number") for x in pd.read_parquet(file)[column]
        ]
    tables = json.loads(file.read_text())["tables"].values()  # the snapshot: what the card counts is counted again
    sums = [[sum(piece["rows"] for piece in one["pieces"]), len(one["pieces"]), len(one["columns"])] for one in tables]
    return [float(number) for several in sums for number in several]


def holds_together(text, found):
    """Every number is in its evidence, every link resolves, nothing is loaded. Gives the page."""
    page = Page(text)
    for value, refs in page.numbers:
        assert refs, f"{value} has no evidence"
        assert any(value in evidence_numbers(found, key) for key in refs), f"{value} is in none of {refs}"
    assert {link.removeprefix("#") for link in page.links} <= page.anchors
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not [found for _, found in page.elements if {"src", "srcset", "onload", "onerror", "onclick"} & set(found)]
    assert "url(" not in text and "@import" not in text and "://" not in text.replace("file://", "")
    return page


def registered(folder, kind="binary", *, rows=60, checks=None, column="a", **settings):
    """A project with one registered version in its store, without running stages. Gives project and store."""
    rng = np.random.default_rng(3)
    X = pd.DataFrame({column: rng.normal(size=rows)})
    signal = X[column].to_numpy()
    y = {"binary": signal > 0, "regression": signal * 2, "multiclass": np.digitize(signal, [-0.5, 0.5])}[kind]
    model = (LinearRegression() if kind == "regression" else LogisticRegression()).fit(X, y)
    target = Target(column="y", kind=kind, positive=1 if kind == "binary" else None)
    about = {
        "name": "toy",
        "title": "Toy",
        "sources": {"rows": Source(path="rows.csv")},
        "table": "rows",
        "key": ["id"],
    }
    project = Project(**(about | settings), root=folder, target=target)
    (folder / "project.yaml").write_text("name: toy\n")
    store, metric = folder / "store", {"regression": "r2"}.get(kind, "roc_auc")
    logged = log_candidate(
        project,
        store,
        model,
        name="linear",
        train=X,
        data_digest="0" * 64,
        params={"seed": 5},
        metrics={metric: 0.5},
        tags={},
    )
    record(store, "snapshot", subject="toy@all", payload={"digest": "ab" * 32, "restored": False})
    verdict = {"digest": logged["digest"], "rows": rows, "passed": True, "checks": checks or []}
    record(store, "verdict", subject="toy@all", payload=verdict)
    facts = dict(family="linear", trained_from=None, trained_until=None, rows=rows, metric=metric, value=0.5)
    register(project, store, {**logged, **facts}, period="all")
    products = store / "products/all"
    write_json({"candidate": logged}, products / "70_train/candidate.json")
    order = pd.DataFrame(
        {"feature": [column, "other"], "importance": [0.4, 0.1], "share": [0.8, 0.2], "unit": "log-odds"}
    )
    write_table(order, products / "80_evaluate/explanations.parquet")
    return project, store


def check(**facts):
    """A check as a verdict holds it."""
    return {"area": "performance", "name": "floor", "status": "pass", "detail": "as it should be"} | facts


def promoted(store, version, period, model):
    """Puts a release in the ledger, backed by the verdict that is there."""
    payload = {
        "version": version,
        "digest": model,
        "period": period,
        "verdict": digest(records(store, "verdict")[0]["payload"]),
    }
    record(store, "promotion", subject=f"toy@{period}", payload=payload)


def tamper(store, *statements):
    """Changes the ledger as somebody with the file could: triggers away, then the statements."""
    with sqlite3.connect(store / "nbops.db") as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for one in statements:
            connection.execute(one)
    connection.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small project of which two periods were run: version 1 is champion, and what the commands said."""
    settings = {
        "gates": {"min_metric": 0.6, "max_calibration_gap": 0.3, "slices": {"min_rows": 5}},
        "fairness": {"columns": ["place"], "min_group": 5, "limits": {"demographic_parity_difference": 1.0}},
        "explanations": {"max_forbidden_share": 1.0},
        "card": STATED,
    }
    folder = make_project(tmp_path_factory.mktemp("cards") / "small", kind="binary", time="month", **settings)
    said = [command(folder, "run", "--period", period) for period in ("2024-01", "2024-02")]
    assert said[0].returncode in (0, 3) and said[1].returncode in (0, 3), said[0].stderr + said[1].stderr
    return folder


@pytest.fixture
def copied(run, tmp_path):
    """A copy of that project, to be spoilt."""
    shutil.copytree(run, tmp_path / "small", symlinks=True)
    return tmp_path / "small"


@pytest.mark.slow
def test_every_number_of_a_real_card_is_in_its_evidence(run):
    project, store = load_project(run), run / "store"
    found = gather(project, store, 1)
    card = model_card(project, store, 1)
    assert card.problems == [] and card.status == "champion"
    page = holds_together(card_html(card), found)
    assert len(page.numbers) > 80
    text = " ".join(page.texts)
    for expected in ("Sort parcels.", "A parcel is lost.", "demographic parity", "São Paulo", "weight kg"):
        assert expected in text
    verdict = records(store, "verdict")[0]["payload"]
    assert all(one["detail"] in text for one in verdict["checks"])
    drawn = {one.kind for section in card.sections for one in section.figures}
    assert drawn == {"bars", "curve"}
    assert holds_together(compliance_html(compliance(project, store, 1)), found)


@pytest.mark.slow
def test_the_report_stage_writes_the_card_and_links_it(run):
    for period in ("2024-01", "2024-02"):
        folder = run / "store/products" / period / "95_report"
        assert 'href="../95_report/card.html"' in (folder / "index.html").read_text()
        assert "Model card" in (folder / "card.html").read_text()
    noted = records(run / "store", "card")
    assert noted[0]["subject"] == "small@2024-01" and "80_evaluate/explanations.parquet" in noted[0]["payload"]["files"]


@pytest.mark.slow
def test_a_card_of_an_old_period_does_not_know_what_came_later(tmp_path):
    project, store = registered(tmp_path)
    own = records(store, "version")[0]["payload"]["digest"]
    assert model_card(project, store, 1).status == "waits for release"
    promoted(store, 1, "2024-01", own)
    first = model_card(project, store, 1, until="2024-01")
    promoted(store, 2, "2024-02", "00" * 32)
    again = model_card(project, store, 1, until="2024-01")
    assert again.status == "champion" and again.section("history") == first.section("history")
    assert model_card(project, store, 1).status == "former champion"
    record(store, "rollback", subject="toy@2024-03", payload={"version": 1, "digest": own, "period": "2024-03"})
    card = model_card(project, store, 1)
    assert card.status == "champion" and [row.cells[2].text for row in card.section("history").tables[0].rows] == [
        "promotion", "promotion", "rollback"
    ]  # fmt: skip


@pytest.mark.slow
def test_commands_write_pages_and_answer_as_data(run, tmp_path):
    html, markdown = tmp_path / "card.html", tmp_path / "README.md"
    done = command(run, "card", "1", "--html", str(html), "--markdown", str(markdown))
    assert done.returncode == 0, done.stderr
    assert html.read_text().startswith("<!doctype html>") and markdown.read_text().startswith(
        "---\nlicense: apache-2.0"
    )
    for name in ("card", "compliance"):
        answer = json.loads(command(run, name, "1", "--json").stdout)
        assert answer["version"] == 1 and answer["problems"] == [] and answer["summary"]
    said = command(run, "compliance", "v1", "--html", str(tmp_path / "evidence.html")).stdout
    assert "no statement of conformity" in said.splitlines()[-1]
    assert "version 1" in command(run, "card", "1").stdout.splitlines()[-1]
    for wrong in ("9", "chamipon"):
        done = command(run, "card", wrong)
        assert done.returncode == 2 and "Traceback" not in done.stderr and wrong in done.stderr


@pytest.mark.slow
def test_a_changed_ledger_shows_at_the_top_and_proves_nothing(copied):
    seq = records(copied / "store", "verdict")[0]["seq"]
    tamper(copied / "store", f"UPDATE ledger SET payload = replace(payload, '\"rows\"', '\"rowz\"') WHERE seq = {seq}")
    done = command(copied, "card", "1", "--html", "card.html")
    assert done.returncode == 1 and f"record {seq}" in done.stdout + done.stderr
    page = (copied / "card.html").read_text()
    assert page.index('role="alert"') < page.index("<main>") and f"record {seq} was edited" in page
    file = compliance(load_project(copied), copied / "store", 1)
    assert file.count("evidence missing") == len(NIST) + len(ANNEX)
    assert "does not hold" in compliance_markdown(file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("80_evaluate/calibration.parquet", "80_evaluate/calibration.parquet was changed"),
        ("10_ingest/snapshot.json", "10_ingest/snapshot.json is not the snapshot"),
    ],
)
def test_a_changed_product_shows(copied, name, said):
    file = copied / "store/products/2024-01" / name
    if file.suffix == ".parquet":
        table = pd.read_parquet(file)
        table.assign(observed=table["predicted"]).to_parquet(file)
    else:
        file.write_text(file.read_text().replace('"rows": ', '"rows": 1'))
    card = model_card(load_project(copied), copied / "store", 1)
    assert any(said in one for one in card.problems) and said in card_html(card)


@pytest.mark.slow
def test_a_lost_product_and_a_swapped_model_show(copied):
    store = copied / "store"
    (store / "products/2024-01/80_evaluate/groups.parquet").unlink()
    files = sorted(store.glob("artifacts/models/*/artifacts/model.skops"))
    own = store / "artifacts/models" / records(store, "version")[0]["payload"]["model_uri"].removeprefix("models:/")
    other = next(one for one in files if own not in one.parents)
    shutil.copy(other, own / "artifacts/model.skops")
    problems = model_card(load_project(copied), store, 1).problems
    assert any("groups.parquet is gone" in one for one in problems)
    assert any("the model's file has the digest" in one for one in problems)


@pytest.mark.slow
def test_a_forged_approval_and_a_forged_release_show(tmp_path):
    project, store = registered(tmp_path)
    own = records(store, "version")[0]["payload"]["digest"]
    said = {"version": 1, "digest": own, "verdict": digest(records(store, "verdict")[0]["payload"])}
    record(store, "approval", subject="toy@all", payload=said | {"person": "ada"}, actor="mallory")
    true = record(store, "approval", subject="toy@all", payload=said | {"person": "ada"}, actor="ada")
    record(store, "rejection", subject="toy@all", payload=said | {"person": "bob"}, actor="mallory")
    card = model_card(project, store, 1)
    assert card.status == "waits for release"
    counts = [row.cells[-1] for row in card.section("approvals").tables[0].rows]
    assert [one.tone for one in counts] == ["act", "good", "act"] and "mallory made it, not ada" in counts[0].text
    lines = {line.number: line for one in compliance(project, store, 1).frameworks for line in one.lines}
    assert [proof.refs for proof in lines["MEASURE 1.3"].proofs] == [[f"L{true}"]]
    record(
        store, "promotion", subject="toy@all", payload={"version": 1, "digest": own, "period": "all", "verdict": "cd"}
    )
    card = model_card(project, store, 1)
    assert "the verdict that it names is not in the ledger" in card.problems[0] and 'role="alert"' in card_html(card)


@pytest.mark.slow
def test_records_cut_off_after_a_signed_checkpoint_show(tmp_path):
    project, store = registered(tmp_path)
    make_key(tmp_path / "signing.key")
    promoted(store, 1, "all", records(store, "version")[0]["payload"]["digest"])
    make_checkpoint(store, key="file:signing.key", root=tmp_path)
    card = model_card(project, store, 1)
    assert card.problems == [] and card.signed and "signed checkpoint" in card_html(card)
    last = records(store)[-1]["seq"]
    tamper(store, f"DELETE FROM ledger WHERE seq >= {last - 1}")  # the checkpoint's record, and the promotion before it
    assert any("ledger is broken" in one for one in model_card(project, store, 1).problems)


@pytest.mark.parametrize(
    "how", ["DELETE FROM ledger WHERE kind = 'rejection'", "UPDATE ledger SET kind = 'note' WHERE kind = 'rejection'"]
)
def test_a_rejection_taken_out_before_a_signed_checkpoint_shows(tmp_path, how):
    """A card states what is not there, so what it rests on is the whole chain, not the records that it shows."""
    project, store = registered(tmp_path)
    model = records(store, "version")[0]["payload"]["digest"]
    said = {"version": 1, "digest": model, "person": "bob", "comment": "no", "signature": None}
    record(store, "rejection", subject="toy@all", payload=said, actor="bob")
    record(store, "report", subject="toy@all", payload={"period": "all"})
    assert model_card(project, store, 1).problems == []
    make_key(tmp_path / "signing.key")
    make_checkpoint(store, key="file:signing.key", root=tmp_path)
    tamper(store, how)
    assert verify_since(store) is None and any(
        "ledger is broken" in one for one in model_card(project, store, 1).problems
    )


@pytest.mark.slow
def test_a_card_from_a_ledger_on_postgresql_is_the_card_from_sqlite(tmp_path, postgres, monkeypatch):
    import sqlalchemy

    server = sqlalchemy.create_engine(postgres)
    with server.begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE IF EXISTS ledger"))
    pages = []
    for place in ("here", "there"):
        if place == "there":
            monkeypatch.setenv("NBOPS_LEDGER", postgres)
        (tmp_path / place).mkdir()
        project, store = registered(tmp_path / place, checks=[check(value=0.9, low=0.8, high=1.0, limit=0.6)])
        promoted(store, 1, "all", records(store, "version")[0]["payload"]["digest"])
        card = model_card(project, store, 1)
        assert card.problems == [] and card.status == "champion", card
        note_card(store, gather(project, store, 1))
        make_key(tmp_path / place / "signing.key")
        make_checkpoint(store, key="file:signing.key", root=tmp_path / place)
        card, file = model_card(project, store, 1), compliance(project, store, 1)
        assert card.signed == card.checked - 1 and card_markdown(card) and compliance_markdown(file)
        parts = [(one.name, one.missing, [len(table.rows) for table in one.tables]) for one in card.sections]
        pages.append((parts, card.status, card.checked))
    assert pages[0] == pages[1] and not (store / "nbops.db").exists()
    with server.begin() as connection:
        connection.execute(sqlalchemy.text("ALTER TABLE ledger DISABLE TRIGGER USER"))
        connection.execute(
            sqlalchemy.text("UPDATE ledger SET payload = replace(payload, '0.9', '0.7') WHERE kind = 'verdict'")
        )
    (problem,) = [one for one in model_card(project, store, 1).problems if "ledger is broken" in one]
    assert "record 2" in problem
    server.dispose()


@pytest.mark.slow
def test_missing_evidence_is_named_with_what_provides_it(copied):
    store = copied / "store"
    shutil.rmtree(store / "products")
    shutil.rmtree(store / "evidence")
    (store / "mlflow.db").unlink()
    card = model_card(load_project(copied), store, 1)
    told = "\n".join(card.missing)
    for gap in (
        "parameters and metrics",
        "quarantined rows",
        "comparison of model families",
        "calibration curve",
        "global importance",
    ):
        assert gap in told
    assert "quarantined rows" in card_html(card) and "**Evidence missing**: comparison" in card_markdown(card)
    assert [one for one in card.problems if "is gone" in one]  # they were noted once
    assert card.section("evaluation").tables  # the ledger still has the verdict


@pytest.mark.slow
def test_products_of_another_model_are_not_shown(tmp_path):
    project, store = registered(tmp_path)
    assert model_card(project, store, 1).section("explanations").figures
    write_json({"candidate": {"digest": "00" * 32}}, store / "products/all/70_train/candidate.json")
    card = model_card(project, store, 1)
    assert not card.section("explanations").figures
    assert "was run again since" in str(card.section("limits").facts)


@pytest.mark.slow
def test_a_card_keeps_what_it_rests_on(tmp_path):
    project, store = registered(tmp_path)
    note_card(store, gather(project, store, 1))
    write_json({"candidate": {"digest": "00" * 32}}, store / "products/all/70_train/candidate.json")
    (store / "products/all/80_evaluate/explanations.parquet").unlink()
    card = model_card(project, store, 1)
    assert card.section("explanations").figures and card.problems == []
    shutil.rmtree(store / "evidence")
    assert any("is gone; record" in one for one in model_card(project, store, 1).problems)


@pytest.mark.slow
def test_hostile_names_are_texts(tmp_path):
    checks = [
        check(slice=f"{HOSTILE} = |x|", value=0.7, limit=0.6, detail=HOSTILE),
        check(name=HOSTILE, status="abstain"),
    ]
    intent = Intent(intended_use=HOSTILE, risks=["a | b\n# c", "*d* [e](javascript:f)"])
    project, store = registered(tmp_path, checks=checks, column=HOSTILE, title=HOSTILE, purpose=HOSTILE, card=intent)
    payload = {"version": 1, "digest": records(store, "version")[0]["payload"]["digest"], "verdict": "cd", "person": HOSTILE,
               "comment": f"</td>{HOSTILE}"}  # fmt: skip
    record(store, "approval", subject="toy@all", payload=payload, actor=HOSTILE)
    card = model_card(project, store, 1)
    page = holds_together(card_html(card), gather(project, store, 1))
    assert "".join(page.texts).count(HOSTILE) >= 8
    holds_together(compliance_html(compliance(project, store, 1)), gather(project, store, 1))
    for text in (card_markdown(card), compliance_markdown(compliance(project, store, 1))):
        shown = MarkdownIt().enable("table").render(text.split("---\n", 2)[2] if text.startswith("---") else text)
        assert "<script" not in shown and "javascript:f)</a>" not in shown and 'href="javascript' not in shown
        rows = [line for line in text.splitlines() if line.startswith("| ")]
        assert len(rows) > 10 and "<table>" in shown


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rows"), [("regression", 60), ("multiclass", 60), ("binary", 12)])
def test_every_kind_of_target_and_tiny_tables(tmp_path, kind, rows):
    name = {"regression": "r2"}.get(kind, "roc_auc")
    checks = [
        check(
            value=0.5, low=None, high=None, limit=None, rows=rows, status="abstain", detail=f"{name} 0.500; {rows} rows"
        )
    ]
    project, store = registered(tmp_path, kind, rows=rows, checks=checks)
    card = model_card(project, store, 1)
    page = holds_together(card_html(card), gather(project, store, 1))
    assert card.status == "waits for release" and metric_label(name) in " ".join(page.texts)
    head = yaml.safe_load(card_markdown(card).split("---\n")[1])
    assert head["pipeline_tag"] == ("tabular-regression" if kind == "regression" else "tabular-classification")
    assert head["model-index"][0]["results"][0]["metrics"][0] == {
        "type": name,
        "name": name,
        "value": 0.5,
        "verified": False,
    }
    assert compliance(project, store, 1).count("evidence in part") > 5


@pytest.mark.slow
def test_mlflow_read_directly_and_through_its_client_agree(tmp_path, monkeypatch):
    project, store = registered(tmp_path)
    run_id = records(store, "version")[0]["payload"]["run_id"]
    direct = run_facts(project, store, run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store / 'mlflow.db'}")
    assert run_facts(project, store, run_id) == direct
    assert run_facts(project, store, "0" * 32) is None
    with pytest.raises(InputError, match="version 7"):
        model_card(project, store, 7)


@pytest.mark.slow
def test_digests_are_noted_once_and_anew_when_a_period_is_run_again(tmp_path):
    project, store = registered(tmp_path)
    first = note_card(store, gather(project, store, 1))
    assert note_card(store, gather(project, store, 1)) == first
    write_table(
        pd.DataFrame({"feature": ["a"], "importance": [1.0]}), store / "products/all/80_evaluate/explanations.parquet"
    )
    assert model_card(project, store, 1).problems
    assert note_card(store, gather(project, store, 1)) > first
    assert model_card(project, store, 1).problems == []


def test_controls_have_real_numbers_and_known_questions(tmp_path):
    names = {f"{function} {category}.{number}" for function, counts in SUBCATEGORIES.items()
             for category, count in enumerate(counts, 1) for number in range(1, count + 1)}  # fmt: skip
    covered = [control[0] for control in NIST]
    assert len(covered) == len(set(covered)) and set(covered) <= names and set(covered) | set(uncovered()) == names
    points = [control[0].partition(",")[0] for control in ANNEX]
    expected = [
        *(f"1({one})" for one in "abcdefgh"),
        *(f"2({one})" for one in "abcdefgh"),
        "3",
        "4",
        "5",
        "6",
        "7",
        "8",
        "9",
    ]
    assert list(dict.fromkeys(points)) == expected
    for _, asked, questions, judge in (*NIST, *ANNEX):
        assert asked and judge.endswith(".") and questions
        assert {one.partition(".")[2] for one in questions.split() if one.startswith("card.")} <= set(
            Intent.model_fields
        )
    with pytest.raises(KeyError):
        ask(None, "no such question")


@pytest.mark.slow
def test_the_compliance_file_claims_nothing(tmp_path):
    project, store = registered(tmp_path, checks=[check(value=0.7)])
    file = compliance(project, store, 1)
    for text in (compliance_html(file), compliance_markdown(file)):
        assert "not a statement of conformity" in text
        assert not [word for word in ("compliant", "fulfilled", "conforms", "certified") if word in text.lower()]
    declaration = next(line for one in file.frameworks for line in one.lines if line.number == "8")
    assert declaration.status == "evidence missing" and "card: {declaration" in declaration.missing[0]


@pytest.mark.slow
@pytest.mark.browser
def test_pages_in_a_browser(run, chromium, tmp_path):
    from playwright.sync_api import sync_playwright

    project, store = load_project(run), run / "store"
    pages = {
        "card": card_html(model_card(project, store, 1)),
        "evidence": compliance_html(compliance(project, store, 1)),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        for name, text in pages.items():
            file, papers = tmp_path / f"{name}.html", set()
            file.write_text(text)
            for scheme in ("light", "dark"):
                for width in (1280, 1920):
                    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                    asked, said = [], []
                    tab.on("request", lambda one, asked=asked: asked.append(one.url))
                    tab.on("console", lambda one, said=said: said.append(one.text))
                    tab.goto(file.as_uri())
                    assert asked == [file.as_uri()] and said == []
                    assert not tab.evaluate("document.documentElement.scrollWidth > innerWidth")
                    papers.add((scheme, tab.evaluate("getComputedStyle(document.body).backgroundColor")))
            assert len(papers) == 2  # one colour for light, another for dark
            assert Path(tmp_path / f"{name}.pdf").write_bytes(tab.pdf()) > 10_000
        browser.close()
