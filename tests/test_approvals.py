"""Who may release a model: rules, approvals, rollbacks, and what a forged record is worth."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store import forge, judge, make_version, toy
from nbops import approvals, ledger, registry, releases, tracking
from nbops.approvals import Refused
from nbops.base import InputError
from nbops.signing import make_key
from small_project import change, environment, make_project

PEOPLE = {"ada": {"roles": ["owner"]}, "bob": {"roles": ["owner", "risk"]}, "cleo": {"roles": ["risk"]}}
HUMAN = {"policy": "human", "approvals": [{"role": "owner"}, {"role": "risk"}], "people": PEOPLE}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A store with champion 1, released by itself, and version 2 that passed and waits."""
    store = tmp_path_factory.mktemp("models") / "store"
    os.environ["NBOPS_ACTOR"] = "ci"
    try:
        releases.settle(toy(store), store, make_version(toy(store), store, "2024-01"), period="2024-01")
        make_version(toy(store), store, "2024-02")
    finally:
        del os.environ["NBOPS_ACTOR"]
    return store


@pytest.fixture
def store(original, tmp_path):
    shutil.copytree(original, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def act(monkeypatch):
    """Acts as somebody."""

    def one(name, function, *words, **more):
        monkeypatch.setenv("NBOPS_ACTOR", name)
        return function(*words, **more)

    return one


def champion(project, store):
    return registry.champion_now(project, store).version


# ---------------------------------------------------------------- the rules


@given(
    st.lists(st.sampled_from(["owner", "risk", "any"]), max_size=4),
    st.dictionaries(st.sampled_from("abcde"), st.lists(st.sampled_from(["owner", "risk"]), unique=True), max_size=5),
)
@settings(max_examples=200, deadline=None)
def test_roles_are_matched_as_well_as_by_trying_everything(needed, people):
    def fits(order):
        return sum(
            person is not None and role in ("any", *people[person]) for role, person in zip(needed, order, strict=True)
        )

    names = [*people, *[None] * len(needed)]
    best = (
        max((fits(order) for order in itertools.permutations(names, len(needed))), default=0)
        if len(names) < 8
        else None
    )
    found = approvals.match_roles(needed, people)
    assert len(set(found.values())) == len(found)
    assert all(needed[position] in ("any", *people[person]) for position, person in found.items())
    assert best is None or len(found) == best


def test_auto_with_high_risk_waits_and_with_low_risk_does_not(store):
    version = registry.find_version(toy(store), store, 2)
    done, state, why = releases.settle(toy(store, release={"risk": "high"}), store, version, period="2024-02")
    assert not done and state.missing == ["any"] and "anybody but the author" in why
    assert releases.settle(toy(store), store, version, period="2024-02")[0]


def test_loosening_the_rules_frees_nothing_that_was_made_under_the_old_ones(store, act):
    strict = toy(store, release={"policy": "human"})
    act("ci", approvals.note_rules, strict, store)
    version = act("ci", make_version, strict, store, "2024-03")
    assert act("ci", releases.settle, strict, store, version, period="2024-03")[1].missing == ["any"]
    with pytest.raises(Refused, match="the rules when it was made ask for it"):
        act("eve", releases.promote, toy(store), store, version.version)
    assert ledger.records(store, "policy")[-1]["actor"] == "eve" and champion(toy(store), store) == 1
    assert act("bob", releases.approve, strict, store, version.version)["released"]


def test_a_swapped_file_is_neither_approved_nor_promoted_nor_gone_back_to(store, act):
    project = toy(store)
    act("ci", releases.promote, project, store, 2)
    first, second = (registry.find_version(project, store, number) for number in (1, 2))
    shutil.copy(
        tracking.fetch_model(project, store, second.model_uri), tracking.fetch_model(project, store, first.model_uri)
    )
    with pytest.raises(Refused, match="was changed after registration"):
        releases.rollback(project, store)
    assert champion(project, store) == 2
    third = act("ci", make_version, toy(store, release={"policy": "human"}), store, "2024-03")
    tracking.fetch_model(project, store, third.model_uri).write_bytes(b"PK")
    for work in (releases.approve, releases.promote):
        with pytest.raises(Refused, match="cannot be read"):
            act("bob", work, project, store, third.version)


def test_an_alias_moved_by_hand_is_told(store):
    project = toy(store)
    tracking.open_tracking(project, store).MlflowClient().set_registered_model_alias(project.name, "champion", "2")
    assert releases.moved_aliases(project, store) == {"champion": 2}
    releases.mirror(project, store)
    assert releases.moved_aliases(project, store) == {}


def judge_fairness(project, store, version, status):
    """A verdict that passes, with a check of fairness that ended so."""
    floor = {"area": "performance", "name": "floor", "status": "pass", "detail": "roc_auc 0.9"}
    race = {"area": "fairness", "name": "selection_rate_ratio", "status": status, "detail": f"race: {status}"}
    verdict = {"digest": version.digest, "period": version.period, "passed": True, "checks": [floor, race]}
    ledger.record(store, "verdict", subject=f"{project.name}@{version.period}", payload=verdict)


def test_what_could_not_be_shown_about_fairness_a_person_must_answer_for(store, act):
    project = toy(store)
    version = registry.find_version(project, store, 2)
    judge_fairness(project, store, version, "abstain")
    done, state, why = releases.settle(project, store, version, period="2024-02")
    assert not done and state.passed and state.missing == ["any"]
    assert "fairness is undecided, so a person must answer for it: race: abstain" in why
    line = releases.release_line("2024-02", version, done, state, why, None)
    assert line["waiting"] == ["any"] and "nbops approve 2" in line["what"]
    with pytest.raises(Refused, match="cannot be promoted: approval is missing .*race: abstain"):
        releases.promote(project, store, 2)
    with pytest.raises(Refused, match="never released"):
        registry.load_version(project, store, version)
    assert act("bob", releases.approve, project, store, 2)["released"]
    assert registry.load_version(project, store, version) is not None


@pytest.mark.parametrize(("status", "waived"), [("pass", False), ("abstain", True)])
def test_fairness_that_was_shown_or_a_waiver_on_the_record_needs_nobody(store, status, waived):
    project = toy(store, release={"undecided": "release"} if waived else {})
    version = registry.find_version(project, store, 2)
    judge_fairness(project, store, version, status)
    assert releases.settle(project, store, version, period="2024-02")[0]
    assert ledger.records(store, "policy")[-1]["payload"]["undecided"] == ("release" if waived else "ask")


def test_a_release_by_rules_that_did_not_ask_stays_true_and_a_new_one_is_asked_for(tmp_path, monkeypatch):
    """The rules of an older nbops have no key `undecided`."""
    project, store = toy(tmp_path), tmp_path / "store"
    old = {name: value for name, value in approvals.rules(project).items() if name != "undecided"}
    with monkeypatch.context() as patch:
        patch.setattr(
            registry, "note_rules", lambda project, store: ledger.record(store, "policy", subject="toy", payload=old)
        )
        version = make_version(project, store, "2024-02")
    judge_fairness(project, store, version, "abstain")
    said = {"version": 1, "digest": version.digest, "period": "2024-02", "approvals": [], "rules": ledger.digest(old)}
    verdict = approvals.find_verdict(project, store, version.digest)["id"]
    ledger.record(store, "promotion", subject="toy@2024-02", payload={**said, "verdict": verdict, "signature": None})
    registry.check_release(project, store, version)
    approvals.note_rules(project, store)
    registry.check_release(project, store, version)
    ledger.record(store, "promotion", subject="toy@2024-02", payload={**said, "verdict": verdict, "signature": None})
    with pytest.raises(Refused, match="fairness is undecided"):  # slipped in after today's rules were noted
        registry.check_release(project, store, version)


def test_rules_that_nobody_can_fulfil_are_refused(tmp_path):
    for release, said in [
        (HUMAN | {"approvals": [{"role": "risk", "count": 3}]}, "ask for 3 with the role 'risk', held by bob, cleo"),
        ({"approvals": [{"role": "legal"}]}, "held by nobody"),
        ({"people": {"ada": {"key": "ssh-rsa AAAA"}}}, "key"),
    ]:
        with pytest.raises(ValueError, match=said):
            toy(tmp_path, release=release)


def test_number_role_and_not_the_author(store, act):
    project = toy(store, release=HUMAN | {"people": PEOPLE | {"ci": {"roles": ["owner", "risk"]}}})
    with pytest.raises(Refused, match="ci made version 2; somebody else must approve it: ada, bob, cleo"):
        act("ci", releases.approve, project, store, 2)
    with pytest.raises(Refused, match="mallory is not among the people"):
        act("mallory", releases.approve, project, store, 2)
    assert act("bob", releases.approve, project, store, 2)["missing"] == ["risk"]
    assert act("bob", releases.approve, project, store, 2)["missing"] == ["risk"]  # once is once
    assert champion(project, store) == 1
    done = act("ada", releases.approve, project, store, 2)  # then bob is counted for risk
    assert done["released"] and not done["proven"] and champion(project, store) == 2
    assert registry.load_version(project, store, registry.champion_now(project, store)) is not None


def test_an_approval_is_for_one_verdict_and_a_rejection_closes(store, act):
    project, version = toy(store, release=HUMAN), registry.find_version(toy(store), store, 2)
    act("bob", releases.approve, project, store, 2)
    judge(project, store, version, value=0.8)
    assert act("cleo", releases.approve, project, store, 2)["missing"] == ["owner"]
    state = approvals.standing(project, store, version=2, model=version.digest)
    assert "bob approved another verdict" in state.void[0]
    act("ada", releases.reject, project, store, 2, comment="learned from the test week")
    for function in (releases.approve, releases.promote):
        with pytest.raises(Refused, match="ada rejected it: learned from the test week"):
            act("bob", function, project, store, 2)
    with pytest.raises(Refused, match="is the champion; first go back"):
        act("ada", releases.reject, project, store, 1, comment="no")
    assert champion(project, store) == 1


def test_what_was_released_by_itself_stays_so_when_people_are_asked_from_now_on(store, act):
    project = toy(store, release=HUMAN)
    approvals.note_rules(project, store)
    assert registry.load_version(project, store, registry.find_version(project, store, 1)) is not None
    with pytest.raises(Refused, match="approval is missing from: owner and risk"):
        act("bob", releases.promote, project, store, 2)


# ---------------------------------------------------------------- forged


def promotion(store, version, **more):
    verdict = approvals.find_verdict(toy(store), store, version.digest)["id"]
    return forge(
        store,
        "promotion",
        {"version": version.version, "digest": version.digest, "period": "2024-02", "verdict": verdict} | more,
    )


@pytest.mark.parametrize("soft", [False, True], ids=["alone", "with softer rules slipped in"])
def test_a_promotion_forged_without_approvals_is_refused(store, soft):
    project, version = toy(store, release=HUMAN), registry.find_version(toy(store), store, 2)
    approvals.note_rules(project, store)
    if soft:
        forge(store, "policy", approvals.rules(toy(store)), subject="toy")
    seq = promotion(store, version, approvals=["ada", "bob"])
    if soft:
        forge(store, "policy", approvals.rules(project), subject="toy")
    assert ledger.verify(store) is None and champion(project, store) == 2
    with pytest.raises(Refused, match=rf"record {seq} .*approval is missing from: owner and risk"):
        registry.load_version(project, store, version)


@pytest.fixture
def keys(tmp_path):
    return {name: make_key(tmp_path / f"keys/{name}.key") for name in ("ada", "bob", "ci")}, tmp_path / "keys"


def test_with_keys_a_forged_approval_counts_for_nothing(store, act, keys):
    public, folder = keys
    people = {"ada": {"roles": ["owner"], "key": public["ada"]}, "bob": {"roles": ["risk"], "key": public["bob"]}}
    project, version = toy(store, release=HUMAN | {"people": people}), registry.find_version(toy(store), store, 2)
    approvals.note_rules(project, store)
    verdict = approvals.find_verdict(project, store, version.digest)["id"]
    said = {"version": 2, "digest": version.digest, "verdict": verdict}
    other = approvals.signed(
        project, "approval", said | {"digest": "0" * 64, "person": "ada"}, key=f"file:{folder}/ada.key"
    )
    forge(store, "approval", said | {"person": "ada", "signature": None}, actor="ada")
    forge(store, "approval", said | {"person": "ada", "signature": other["signature"]}, actor="ada")
    forge(
        store,
        "approval",
        approvals.signed(project, "approval", said | {"person": "bob"}, key=f"file:{folder}/ada.key"),
        actor="bob",
    )
    promotion(store, version)
    with pytest.raises(Refused, match="approval is missing from: owner and risk"):
        registry.load_version(project, store, version)
    wrong = [
        (None, "must be signed"),
        (f"file:{folder}/bob.key", "signature is missing or wrong"),
        ("ada.key", "reference"),
    ]
    for key, said in wrong:
        with pytest.raises(InputError, match=said):
            act("ci", releases.approve, project, store, 2, person="ada", key=key)
    for who in ("ada", "bob"):  # the real ones, whoever sits at the keyboard
        done = act("ci", releases.approve, project, store, 2, person=who, key=f"file:{folder}/{who}.key")
        assert done["proven"]
    assert done["released"] and registry.load_version(project, store, version) is not None
    text = json.dumps(ledger.records(store))
    assert "PRIVATE" not in text and str(folder) not in text


def test_a_signed_release_needs_the_releasers_key(store, keys, monkeypatch):
    public, folder = keys
    project, version = toy(store, release={"signer": public["ci"]}), registry.find_version(toy(store), store, 2)
    with pytest.raises(InputError, match="there is no key"):
        releases.settle(project, store, version, period="2024-02")
    monkeypatch.setenv("NBOPS_SIGNING_KEY", f"file:{folder}/ada.key")
    with pytest.raises(InputError, match=r"not the private key of release\.signer"):
        releases.settle(project, store, version, period="2024-02")
    promotion(store, version)
    with pytest.raises(Refused, match="signature of the releaser"):
        registry.load_version(project, store, version)


def test_a_signed_release_loads(store, keys, monkeypatch):
    public, folder = keys
    project, version = toy(store, release={"signer": public["ci"]}), registry.find_version(toy(store), store, 2)
    monkeypatch.setenv("NBOPS_SIGNING_KEY", f"file:{folder}/ci.key")
    assert releases.settle(project, store, version, period="2024-02")[0]
    monkeypatch.delenv("NBOPS_SIGNING_KEY")
    assert registry.load_version(project, store, version) is not None


# ---------------------------------------------------------------- rollback and history


def test_rollback_replay_and_rerun(store, act):
    """History stays as it was; the future is what the person said, until something new is learned."""
    project = toy(store)
    second = registry.find_version(project, store, 2)
    releases.settle(project, store, second, period="2024-02")
    for period in ("2024-03", "2024-04"):
        (store / "products" / period).mkdir(parents=True)
    before = {period: registry.champion_before(project, store, period) for period in ("2024-02", "2024-03", "2024-04")}
    back = act("ada", releases.rollback, project, store, comment="too late")
    assert (back["version"], back["left"], back["period"]) == (1, 2, "2024-04")
    assert {period: registry.champion_before(project, store, period) for period in before} == before
    assert registry.champion_before(project, store, "2024-05").version == champion(project, store) == 1
    # the period that released version 2 is run again, by force: same candidate, same verdict
    again = registry.register(project, store, second.model_dump(exclude={"version", "period"}), period="2024-02")
    done, _, why = releases.settle(project, store, again, period="2024-02")
    assert again == second and not done and why == "ada rolled it back after 2024-04" and champion(project, store) == 1
    assert {period: registry.champion_before(project, store, period) for period in before} == before
    # with other code it makes another version: history of that period changes, as it always did; today does not
    third = make_version(project, store, "2024-03")
    assert releases.settle(project, store, third, period="2024-03")[0] and champion(project, store) == 1
    assert registry.champion_before(project, store, "2024-04") == third
    # a later period learns something new
    fifth = make_version(project, store, "2024-05")
    assert releases.settle(project, store, fifth, period="2024-05")[0] and champion(project, store) == fifth.version
    # and back to any earlier champion, twice
    assert act("ada", releases.rollback, project, store, to=2)["version"] == champion(project, store) == 2
    assert act("ada", releases.rollback, project, store, to=1)["version"] == champion(project, store) == 1
    assert act("ada", releases.promote, project, store, fifth.version)["version"] == champion(project, store)
    with pytest.raises(InputError, match="version 9 was never champion"):
        releases.rollback(project, store, to=9)
    for one in registry.versions(project, store):
        registry.check_evidence(project, store, one)


def test_an_approval_that_comes_late_changes_no_period_that_was_run(store, act):
    project = toy(store, release=HUMAN)
    for period in ("2024-03", "2024-04"):
        (store / "products" / period).mkdir(parents=True)
    act("bob", releases.approve, project, store, 2)
    assert act("cleo", releases.approve, project, store, 2)["released"]
    assert registry.champion_before(project, store, "2024-04").version == 1
    assert registry.champion_before(project, store, "2024-05").version == 2
    done, _, _ = releases.settle(project, store, registry.find_version(project, store, 2), period="2024-02")  # a rerun
    assert done and len(ledger.records(store, "promotion")) == 2


# ---------------------------------------------------------------- at once, and interrupted


def approve_as(name, store, ready, result):
    os.environ["NBOPS_ACTOR"] = name
    ready.wait()
    result.put(releases.approve(toy(store, release=HUMAN), store, 2)["released"])


def test_two_who_approve_at_once_make_one_promotion(store):
    context = multiprocessing.get_context("spawn")
    ready, result = context.Barrier(2), context.Queue()
    processes = [context.Process(target=approve_as, args=(name, store, ready, result)) for name in ("bob", "cleo")]
    for one in processes:
        one.start()
    found = [result.get(timeout=60) for _ in processes]
    for one in processes:
        one.join(60)
    assert sorted(found) == [False, True] and ledger.verify(store) is None
    assert [one["payload"]["version"] for one in ledger.records(store, "promotion")] == [1, 2]


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from model_store import toy
from nbops import releases
releases.mirror = lambda *words, **more: os.kill(os.getpid(), signal.SIGKILL)
releases.{act}
"""


@pytest.mark.parametrize("what", ["rollback(toy(STORE), STORE)", "promote(toy(STORE), STORE, 2)"])
def test_killed_between_record_and_alias_the_same_command_repairs(store, what):
    project = toy(store)
    if what.startswith("rollback"):
        releases.settle(project, store, registry.find_version(project, store, 2), period="2024-02")
    code = KILLED.format(tests=str(Path(__file__).parent), act=what.replace("STORE", repr(str(store))))
    assert subprocess.run([sys.executable, "-c", code], env=environment()).returncode == -signal.SIGKILL
    now = 1 if what.startswith("rollback") else 2
    assert champion(project, store) == now
    with pytest.raises(Refused, match="MLflow's alias 'champion' points to"):
        registry.find_model(project, store, "models:/toy@champion")
    if now == 2:
        releases.promote(project, store, 2)
    else:
        releases.rollback(project, store, to=1)
    assert registry.find_model(project, store, "models:/toy@champion").version == now
    assert len(registry.releases(project, store)) == (3 if now == 1 else 2)


# ---------------------------------------------------------------- a whole project


@pytest.mark.slow
def test_the_commands(tmp_path):
    people = {"owen": {"roles": ["owner"]}, "rita": {"roles": ["risk"]}}
    release = {"policy": "human", "approvals": [{"role": "owner"}, {"role": "risk"}], "people": people}
    folder = make_project(tmp_path / "project", kind="binary", time="month", rows=400, release=release)

    def nbops(*words, who="ci", code=0):
        script = Path(sys.executable).with_name("nbops")
        begin = time.monotonic()
        done = subprocess.run(
            [script, *words], cwd=folder, env=environment() | {"NBOPS_ACTOR": who}, capture_output=True, text=True
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout.strip() + done.stderr.strip() if code else done.stdout.strip(), time.monotonic() - begin

    ran, _ = nbops("run")
    assert "Version 1 passed its checks and waits for approval: owner and risk" in ran
    assert nbops("champion")[0] == "no model is champion yet"
    assert "waits: owner, risk" in nbops("models")[0]
    assert "approval is missing" in nbops("promote", "1", code=3)[0]
    assert "not among the people" in nbops("approve", "1", who="eve", code=3)[0]
    assert "not champion yet" in nbops("approve", "v1", who="owen")[0]
    assert "it is champion" in nbops("approve", "1", "--comment", "good", who="rita")[0]
    shown = json.loads(nbops("models", "--json")[0])["models"]
    assert [(one["version"], one["role"], one["approvals"]) for one in shown] == [(1, "champion", ["owen", "rita"])]
    assert "version 1 served in 2024-02" in nbops("champion", "--at", "2024-02")[0]
    assert "no model served in 2024-01" in nbops("champion", "--at", "2024-01")[0]
    assert nbops("rollback", who="owen", code=2)[0].startswith("nbops: version 1 is the first champion")
    assert "allowed: a number" in nbops("approve", "one", code=2)[0]
    ran, _ = nbops("run", "--period", "2024-01")
    assert "0 of 12 stages ran" in ran, ran  # approvals are no input of a stage: nothing is stale
    always = {"retraining": {"max_metric_drop": -2.0}, "gates": {"min_gain": -1.0}}  # retrain whatever happens
    change(folder / "project.yaml", **always)
    assert "Version 2 passed its checks and waits" in nbops("run", "--period", "2024-02")[0]
    nbops("approve", "2", who="owen")
    assert "it is champion" in nbops("approve", "2", who="rita")[0]
    said, seconds = nbops("rollback", "--comment", "late", who="owen")
    assert (
        said == "version 1 is champion after 2024-02; version 2 is left" and seconds < 4
    )  # 1 s when nobody else is at work
    assert "0 of 12 stages ran" in nbops("run", "--period", "2024-02")[0]
    assert json.loads(nbops("champion", "--json")[0])["champion"]["version"] == 1
    assert "champion v1" in nbops("status")[0]
    assert "v2 is champion" in nbops("promote", "2")[0].replace("version 2", "v2")
