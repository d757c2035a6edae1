"""Safe model files, MLflow in the store and on a server, and what is refused when a model is loaded."""

import json
import os
import pickle
import shutil
import sqlite3
import subprocess
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler, TargetEncoder

from model_store import forge, make_version, toy
from nbops import ledger, registry, releases, tracking
from nbops.approvals import Refused
from nbops.base import InputError
from nbops.config import load_project
from small_project import command, make_project

RNG = np.random.default_rng(3)
X = pd.DataFrame({"größe": RNG.normal(size=80), "a b": RNG.normal(size=80), "place": RNG.choice(["Köln", "東京"], 80)})
Y, CLASSES = (
    (X["größe"] > 0).astype(int),
    np.where(X["größe"] > 0.5, "hoch", np.where(X["größe"] < -0.5, "tief", "mittel")),
)


def prepare(encoder):
    numeric = make_pipeline(SimpleImputer(), StandardScaler())
    return ColumnTransformer([("numeric", numeric, ["größe", "a b"]), ("categorical", encoder, ["place"])])


# ---------------------------------------------------------------- model files


def estimators():
    yield "linear", LogisticRegression()
    yield "ridge", Ridge()
    yield "boosting", HistGradientBoostingClassifier(max_iter=5)
    yield "forest", RandomForestClassifier(n_estimators=3)
    yield "extra trees", ExtraTreesRegressor(n_estimators=3)
    yield "neighbours", KNeighborsClassifier()
    yield "network", MLPClassifier(max_iter=5)
    yield "network, sgd", MLPClassifier(max_iter=5, solver="sgd")
    yield "sigmoid", CalibratedClassifierCV(HistGradientBoostingClassifier(max_iter=5), cv=2)
    yield "isotonic", CalibratedClassifierCV(RandomForestClassifier(n_estimators=3), method="isotonic", cv=2)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "encoder", [OneHotEncoder(), OrdinalEncoder(), TargetEncoder(cv=2)], ids=["onehot", "ordinal", "target"]
)
@pytest.mark.parametrize(("name", "estimator"), list(estimators()), ids=[name for name, _ in estimators()])
def test_what_is_supported_is_trusted_and_comes_back_the_same(tmp_path, name, estimator, encoder):
    model = make_pipeline(prepare(encoder), estimator).fit(X, Y)
    again = tracking.load_model(tracking.save_model(model, tmp_path / "model.skops"))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


@pytest.mark.parametrize(("package", "name"), [("lightgbm", "LGBM"), ("xgboost", "XGB")])
def test_boosting_libraries(tmp_path, package, name):
    library = pytest.importorskip(package)
    quiet = {"verbose": -1} if package == "lightgbm" else {}
    for kind, target in (("Classifier", Y), ("Regressor", X["a b"])):
        made = getattr(library, name + kind)(n_estimators=3, n_jobs=1, **quiet)
        model = make_pipeline(prepare(OrdinalEncoder()), made).fit(X, target)
        file = tracking.save_model(model, tmp_path / "model.skops")
        np.testing.assert_array_equal(tracking.load_model(file).predict(X), model.predict(X))


class Own(LogisticRegression):
    """A project's own estimator."""


def test_a_type_that_is_not_trusted_is_named_and_a_project_may_trust_it(tmp_path):
    file = tracking.save_model(Own().fit(X[["a b"]], Y), tmp_path / "own.skops")
    with pytest.raises(InputError, match=r"not trusted: test_registry\.Own\. .*training\.trusted_types"):
        tracking.load_model(file)
    project = toy(tmp_path, training={"trusted_types": ["test_registry.Own"]})
    assert isinstance(tracking.load_model(file, trusted=tracking.trusted_types(project)), Own)


@pytest.mark.parametrize(
    "name", ["builtins.eval", "os.system", "subprocess.Popen", "functools.partial", "operator.methodcaller"]
)
def test_nothing_that_runs_code_can_be_trusted(tmp_path, name):
    with pytest.raises(InputError, match="can run any code"):
        tracking.trusted_types(toy(tmp_path, training={"trusted_types": [name]}))


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("name", ["model.pkl", "model.skops"])
def test_a_pickle_is_refused_and_not_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="is a pickle"):
        tracking.load_model(Path(name))
    assert not Path("exploded").exists()


def test_a_digest_says_the_same_on_any_number_of_cores_and_nothing_hides_in_it(tmp_path):
    made = [
        tracking.save_model(
            RandomForestClassifier(3, random_state=0, n_jobs=n).fit(X[["a b"]], Y), tmp_path / f"{n}.skops"
        )
        for n in (None, 2)
    ]
    assert tracking.model_digest(made[0]) == tracking.model_digest(made[1])
    hidden = tmp_path / "hidden.skops"  # an object where a number of cores belongs
    with zipfile.ZipFile(made[1]) as old, zipfile.ZipFile(hidden, "w") as new:
        for member in old.namelist():
            content = old.read(member)
            if member == "schema.json":
                schema = json.loads(content)
                schema["content"]["content"]["n_jobs"] = schema["content"]["content"]["estimator"]
                content = json.dumps(schema)
            new.writestr(member, content)
    assert tracking.model_digest(hidden) != tracking.model_digest(made[0])


# ---------------------------------------------------------------- loading


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A store with two champions, the second in force, and a version that failed."""
    store = tmp_path_factory.mktemp("models") / "store"
    project = toy(store)
    for period, passed in (("2024-01", True), ("2024-02", True), ("2024-03", False)):
        releases.settle(project, store, make_version(project, store, period, passed=passed), period=period)
    return project, store


@pytest.fixture
def models(original, tmp_path):
    project, store = original
    shutil.copytree(store, tmp_path / "store")
    return project, tmp_path / "store"


def test_the_champion_loads_and_loading_is_cheap(models):
    project, store = models
    champion = registry.champion_now(project, store)
    begin = time.process_time()
    model = registry.load_version(project, store, champion)
    assert model.predict(pd.DataFrame({"a": [1.0]})).tolist() == [1] and champion.version == 2
    begin = time.process_time()
    for _ in range(5):
        registry.check_evidence(project, store, champion)
    assert (time.process_time() - begin) / 5 < 0.25  # seconds; the evidence, without the model


def test_a_version_that_failed_is_not_loaded_but_can_be_looked_at(models):
    project, store = models
    third = registry.find_version(project, store, 3)
    with pytest.raises(Refused, match="version 3 was never released .*roc_auc 0.5"):
        registry.load_version(project, store, third)
    assert registry.load_version(project, store, third, released=False) is not None


def test_a_file_that_was_swapped_is_refused(models):
    project, store = models
    first, second = registry.versions(project, store)[:2]
    there = [
        store / "artifacts/models" / one.model_uri.removeprefix("models:/") / "artifacts/model.skops"
        for one in (first, second)
    ]
    shutil.copy(*there)
    with pytest.raises(Refused, match=f"digest {first.digest[:12]}; registered was {second.digest[:12]}"):
        registry.load_version(project, store, second)


def test_an_alias_set_by_hand_is_not_followed(models, monkeypatch):
    project, store = models
    client = tracking.open_tracking(project, store).MlflowClient()
    client.set_registered_model_alias("toy", "champion", "3")
    client.set_model_version_tag("toy", "3", "verdict", "pass")
    client.set_model_version_tag("toy", "3", "release", "champion")
    with pytest.raises(Refused, match="alias 'champion' points to version 3, the ledger says version 2"):
        registry.find_model(project, store, "models:/toy@champion")
    assert registry.find_model(project, store, "champion").version == 2
    with pytest.raises(Refused, match="never released"):
        registry.load_version(project, store, registry.find_version(project, store, 3))
    releases.mirror(project, store)
    assert registry.find_model(project, store, "models:/toy@champion").version == 2
    assert client.get_model_version("toy", "3").tags["verdict"] == "fail"


def edit(store, kind, change):
    """Changes the newest record of a kind, past the guards, with or without a right hash."""
    with sqlite3.connect(store / "nbops.db") as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        seq, text = connection.execute(
            "SELECT seq, payload FROM ledger WHERE kind = ? ORDER BY seq DESC", (kind,)
        ).fetchone()
        payload = json.loads(text)
        change(payload)
        connection.execute("UPDATE ledger SET payload = ? WHERE seq = ?", (ledger.canonical(payload), seq))
    return seq


def test_an_edited_ledger_is_refused(models):
    project, store = models
    seq = edit(store, "verdict", lambda payload: payload.update(passed=True, checks=[]))
    with pytest.raises(Refused, match=rf"the ledger was changed \(record {seq} .*nbops audit verify"):
        registry.load_version(project, store, registry.champion_now(project, store))


@pytest.mark.parametrize(
    "what", ["no verdict", "verdict of another model", "another model's digest", "a verdict that contradicts itself"]
)
def test_a_promotion_forged_at_the_end_is_refused(models, what):
    """The forger knows the format: the record has a right hash, and the chain is whole."""
    project, store = models
    first, _, third = registry.versions(project, store)
    good = registry.releases(project, store)[0]["payload"]["verdict"]
    said = {"version": 3, "digest": third.digest, "period": "2024-03", "verdict": good}
    if what == "no verdict":
        said["verdict"] = "0" * 64
    if what == "another model's digest":
        said["digest"] = first.digest
    if what == "a verdict that contradicts itself":
        lie = {
            "digest": third.digest,
            "passed": True,
            "checks": [{"name": "floor", "status": "fail", "detail": "too low"}],
        }
        said["verdict"] = ledger.digest(lie)
        forge(store, "verdict", lie)
    seq = forge(store, "promotion", said)
    assert ledger.verify(store) is None and registry.champion_now(project, store).version == 3
    with pytest.raises(Refused, match=rf"record {seq} of the ledger makes version 3 champion, but"):
        registry.load_version(project, store, third)


def test_a_rollback_forged_to_what_was_never_champion_is_refused(models):
    project, store = models
    third = registry.find_version(project, store, 3)
    said = {"version": 3, "digest": third.digest, "period": "2024-03", "from": 2, "person": "root", "verdict": "0"}
    forge(store, "rollback", said)
    with pytest.raises(Refused, match="never champion before"):
        registry.load_version(project, store, third)


# ---------------------------------------------------------------- MLflow


def test_a_model_that_mlflow_logged_as_a_pickle_is_refused(models):
    project, store = models
    mlflow = tracking.open_tracking(project, store)
    with mlflow.start_run():
        info = mlflow.sklearn.log_model(
            LogisticRegression().fit(X[["a b"]], Y), name="m", serialization_format="pickle", pip_requirements=[]
        )
    with pytest.raises(InputError, match=r"holds model\.pkl, and no model\.skops.*not opened"):
        tracking.fetch_model(project, store, info.model_uri)


def test_logging_a_model_takes_less_than_a_second(tmp_path):
    """CPU seconds, warm; signature and example stay."""
    project, model = (
        toy(tmp_path),
        make_pipeline(prepare(OrdinalEncoder()), HistGradientBoostingClassifier(max_iter=100)).fit(X, Y),
    )
    seconds = []
    for _ in range(4):
        begin = time.process_time()
        logged = tracking.log_candidate(
            project, tmp_path, model, name="m", train=X, data_digest="0" * 64, params={}, metrics={}, tags={}
        )
        seconds.append(time.process_time() - begin)
    assert min(seconds[1:]) < 1, seconds
    about = tracking.open_tracking(project, tmp_path).models.get_model_info(logged["model_uri"])
    assert about.signature.inputs.input_names() == list(X) and about.saved_input_example_info


def pickles(folder):
    """Files that are pickles, by name or content, also inside of model files."""
    found = []
    for file in (one for one in Path(folder).rglob("*") if one.is_file()):
        starts = [(file.name, file.read_bytes()[:2])]
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                starts += [(f"{file.name}/{name}", archive.read(name)[:2]) for name in archive.namelist()]
        found += [
            name
            for name, start in starts
            if name.endswith((".pkl", ".pickle", ".joblib"))
            or (start[:1] == b"\x80" and start[1:] in (b"\2", b"\3", b"\4", b"\5"))
        ]
    return found


@pytest.mark.slow
def test_a_run_leaves_no_pickle(tmp_path):
    folder = make_project(tmp_path / "project", kind="binary")
    done = command(folder, "run")
    assert done.returncode == 0, done.stderr
    assert pickles(folder / "store") == []
    (folder / "store/x.bin").write_bytes(pickle.dumps({}))
    assert pickles(folder / "store") == ["x.bin"]


@pytest.mark.slow
def test_a_server_keeps_the_models_and_may_go_away(tmp_path, mlflow_server, monkeypatch):
    address, start, stop = mlflow_server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    store, project = tmp_path / "store", toy(tmp_path / "store")
    version = make_version(project, store, "2024-01")
    assert releases.settle(project, store, version, period="2024-01")[0] and not (store / "mlflow.db").exists()
    client = tracking.open_tracking(project, store).MlflowClient()
    assert client.get_model_version_by_alias("toy", "champion").tags["release"] == "champion"
    stop()
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match="does not answer.*the same command goes on"):
        make_version(project, store, "2024-02")
    assert time.monotonic() - begin < 60
    assert [one.version for one in registry.versions(project, store)] == [1]
    assert registry.load_version(project, store, version) is not None  # fetched before: serving needs no server
    start()
    again = make_version(project, store, "2024-02")
    assert again.version == 2 and releases.settle(project, store, again, period="2024-02")[0]
    shutil.rmtree(store / "artifacts")
    assert registry.load_version(project, store, again) is not None  # fetched from the server


def test_a_full_disk_while_logging_is_said_and_nothing_is_half_registered(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True).returncode:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("mounting a small disk needs root")
    try:
        project, store = toy(disk / "store"), disk / "store"
        make_version(project, store, "2024-01")
        left = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(bytes(left - 16 * 1024))
        with pytest.raises(OSError, match="No space left"):
            make_version(project, store, "2024-02")
        (disk / "filler").unlink()
        assert [one.version for one in registry.versions(project, store)] == [1] and ledger.verify(store) is None
        client = tracking.open_tracking(project, store).MlflowClient()
        assert len(client.search_model_versions("name = 'toy'")) == 1
        assert make_version(project, store, "2024-02").version == 2
    finally:
        tracking.open_tracking(project, tmp_path / "elsewhere")
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_version_that_an_interrupted_run_left_in_mlflow_is_used(models, monkeypatch):
    project, store = models
    failed = []

    def interrupted(*words, **more):
        failed.append(words)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_version(project, store, "2024-04", log=(logged := {}))
    version = make_version(project, store, "2024-04", log=logged)
    client = tracking.open_tracking(project, store).MlflowClient()
    assert version.version == 4 and len(client.search_model_versions("name = 'toy'")) == 4 and failed


def test_the_stages_load_by_the_same_way(tmp_path):
    """No other code opens a champion's model file."""
    root = Path(__file__).parents[1]
    for file in [*(root / "lib/nbops").glob("*.py"), *(root / "notebooks/stages").glob("*.ipynb")]:
        text = file.read_text(encoding="utf-8")
        assert "pickle.load" not in text and "joblib.load" not in text and "get_model_version_by_alias" not in text, (
            file
        )
    assert load_project(root).release.policy == "auto"
