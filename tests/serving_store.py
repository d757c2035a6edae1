"""Makes registered versions of real models in a store, with the rows that they learned from; and tables that are not easy."""

import numpy as np
import pandas as pd

from nbops import registry, tracking, training
from nbops.config import Project

COLUMNS = ["größe (€)", "it's", 'a "b"', "place; or\tso", "grade"]
SPREADING = {"name": "spreading", "estimator": "sklearn.semi_supervised.LabelSpreading"}  # not known to skl2onnx
NEIGHBOURS = {
    "name": "near",
    "estimator": "sklearn.neighbors.RadiusNeighborsClassifier",
    "params": {"radius": 50.0, "outlier_label": "most_frequent"},
}  # a graph that does not run


def make_rows(kind="binary", rows=400, seed=0):
    """A feature table with odd names, gaps, a category that is a number, and one that is true or false."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=rows), rng.normal(size=rows)
    place = rng.choice(["Köln", "東京", "São, Paulo", 'x"y', "two\nlines"], rows)
    table = pd.DataFrame(
        {"_id": [str(i) for i in range(rows)], COLUMNS[0]: np.where(rng.random(rows) < 0.1, np.nan, first), COLUMNS[1]: second,
         COLUMNS[2]: rng.random(rows) < 0.5, COLUMNS[3]: np.where(rng.random(rows) < 0.1, None, place),
         COLUMNS[4]: np.where(rng.random(rows) < 0.1, np.nan, rng.integers(1, 6, rows))}
    )  # fmt: skip
    signal = first + 2 * (place == "東京") + second * table[COLUMNS[2]] + rng.normal(0, 0.3, rows)
    table["_label"] = {
        "binary": (signal > 0.5).astype(float),
        "multiclass": np.select([signal < 0, signal < 1], ["small", "middle"], "große"),
        "regression": 100 * signal,
    }[kind]
    return table


def make_project(root, kind="binary", **parts):
    """A project for such rows."""
    target = {"column": "y", "kind": kind} | ({"positive": "yes"} if kind == "binary" else {})
    told = {"name": f"odd-{kind}", "title": "Odd", "sources": {"rows": {"path": "-"}}, "table": "rows", "key": ["_id"]}
    features = {"numeric": COLUMNS[:3], "categorical": COLUMNS[3:]}
    return Project(**told | {"target": target, "features": features} | parts, root=root)


def make_version(project, store, family, table, *, period="all", rows_kept=True):
    """A fitted model, and its registered version."""
    model = training.fit_model(project, family, table, seed=0)
    given = table[COLUMNS].head(5)
    about = {"train": training.model_input(given, COLUMNS[:3], COLUMNS[3:]), "data_digest": "0" * 64}
    name = family if isinstance(family, str) else family.name
    logged = tracking.log_candidate(project, store, model, name=name, **about, params={}, metrics={}, tags={})
    facts = {
        "family": name,
        "trained_from": None,
        "trained_until": None,
        "rows": len(table),
        "metric": "x",
        "value": 0.9,
    }
    version = registry.register(project, store, {**logged, **facts}, period=period)
    folder = store / "products" / period / "30_features"
    if rows_kept:
        folder.mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / "training.parquet")
    return model, version


def strange_rows(table, rows=40):
    """Rows of a table, and some with values that nobody has seen."""
    odd = table.head(6).copy().astype({COLUMNS[2]: object})
    odd[COLUMNS[0]] = [np.inf, -1e200, np.nan, 0.0, -0.0, 1e30]
    odd[COLUMNS[3]] = ["never seen", None, "", "(missing)", "a" * 500, "👍"]
    odd[COLUMNS[4]] = [99, None, 1, 1.5, -3, 5]
    return pd.concat([odd, table.iloc[6:rows].astype({COLUMNS[2]: object})], ignore_index=True)[["_id", *COLUMNS]]
