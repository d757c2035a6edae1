"""Makes registered versions in a store quickly: a tiny model, its verdict, its records."""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from nbops import ledger, registry, tracking
from nbops.config import Project


def toy(root, **parts):
    """A small monthly project; `parts` are parts of project.yaml."""
    given = {
        "name": "toy", "title": "Toy", "sources": {"rows": {"path": "-", "time": "t"}}, "table": "rows", "key": ["id"], "time": {},
        "target": {"column": "y", "kind": "binary", "positive": 1},
    }  # fmt: skip
    return Project(**given | parts, root=root)


def model_of(period):
    """A fitted model, another one for each period."""
    X = pd.DataFrame({"a": np.linspace(-1, 1, 40)})
    return LogisticRegression(C=float(period[-2:]) + 0.5).fit(X, (X["a"] > 0).astype(int)), X


def judge(project, store, version, *, passed=True, value=0.9):
    """Records a verdict on a version."""
    value = value if passed else 0.5
    check = {"name": "floor", "value": value, "status": "pass" if passed else "fail", "detail": f"roc_auc {value}"}
    verdict = {"digest": version.digest, "period": version.period, "passed": passed, "checks": [check]}
    ledger.record(store, "verdict", subject=f"{project.name}@{version.period}", payload=verdict, repeat=False)


def make_version(project, store, period, *, passed=True, log=None):
    """A logged and registered version with a verdict; `log`, if given, keeps what was logged for a second try."""
    log = {} if log is None else log
    if not log:
        model, X = model_of(period)
        about = {"train": X, "data_digest": "0" * 64, "params": {}, "metrics": {}, "tags": {}}
        log.update(tracking.log_candidate(project, store, model, name="linear", **about))
    facts = {
        "family": "linear",
        "trained_from": None,
        "trained_until": None,
        "rows": 40,
        "metric": "roc_auc",
        "value": 0.9,
    }
    version = registry.register(project, store, {**log, **facts}, period=period)
    judge(project, store, version, passed=passed)
    return version


def forge(store, kind, payload, *, subject="toy@2024-03", actor="mallory"):
    """Appends a record as somebody would who can write to the database: the hash is right."""
    return ledger.record(store, kind, subject=subject, payload=payload, actor=actor)
