"""Makes a small project around a made-up table: the repository's own stages, other configuration."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

ROOT = Path(__file__).parents[1]
TYPES = {"i": "integer", "u": "integer", "f": "number", "b": "boolean", "M": "timestamp", "O": "string"}


def make_table(kind="multiclass", *, time=None, rows=240, seed=7):
    """A table with something to learn in it, missing values, and names that are not plain ASCII words."""
    rng = np.random.default_rng(seed)
    height, weight = rng.normal(0, 1, rows), rng.normal(0, 1, rows)
    place = rng.choice(["Köln", "São Paulo", "東京"], rows)
    signal = 2 * height + (place == "東京") + rng.normal(0, 0.4, rows)
    target = {
        "multiclass": np.select([signal < -0.7, signal < 1.2], ["small", "middle"], "large"),
        "binary": np.where(signal > 0, "yes", "no"),
        "regression": signal.round(3),
    }[kind]
    table = pd.DataFrame(
        {"number": np.arange(rows), "größe": height.round(3), "weight kg": np.where(rng.random(rows) < 0.1, np.nan, weight.round(3)),
         "place": np.where(rng.random(rows) < 0.1, None, place), "outcome": target}
    )  # fmt: skip
    if time:
        span = {"day": 3, "week": 21, "month": 90, "quarter": 270}[time] * 24 * 60
        minutes = np.sort(rng.integers(0, span, rows))
        table.insert(1, "when", pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(minutes, unit="min"))
    return table


def make_project(
    folder, *, kind="multiclass", time=None, table=None, rows=240, delay=0, file="rows.csv", stages=12, **settings
):
    """Writes a project with its table into a folder; `settings` replace keys of project.yaml. Gives the folder."""
    folder = Path(folder)
    (folder / "notebooks").mkdir(parents=True)
    table = make_table(kind, time=time, rows=rows) if table is None else table
    (table.to_parquet if file.endswith(".parquet") else table.to_csv)(folder / file, index=False)
    source = {"path": file} | ({"time": "when"} if time else {})
    project = {
        "name": "small", "title": "A small project", "sources": {"things": source}, "table": "things", "key": ["number"],
        "target": {"column": "outcome", "kind": kind} | ({"positive": "yes"} if kind == "binary" else {}),
    } | ({"time": {"period": time, "label_delay_hours": delay}} if time else {}) | settings  # fmt: skip
    columns = [
        {
            "name": name,
            "logicalType": TYPES[table[name].dtype.kind],
            "required": name in ("number", "when"),
            "primaryKey": name == "number",
        }
        for name in table
    ]
    contract = {
        "apiVersion": "v3.1.0", "kind": "DataContract", "id": "small", "version": "1.0.0", "status": "active",
        "schema": [{"name": "things", "properties": columns}],
    }  # fmt: skip
    pipeline = yaml.safe_load((ROOT / "pipeline.yaml").read_text())
    pipeline["tasks"] = pipeline["tasks"][:stages]
    env = yaml.safe_load((ROOT / "env.yaml").read_text()) | {"period": "2024-01" if time else "all"}
    for name, content in {"project": project, "contract": contract, "pipeline": pipeline, "env": env}.items():
        write_yaml(folder / f"{name}.yaml", content)
    shutil.copytree(ROOT / "notebooks/stages", folder / "notebooks/stages")
    return folder


def write_yaml(file, content):
    file.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")


def change(file, **values):
    """Replaces top-level keys of a YAML file."""
    write_yaml(file, yaml.safe_load(file.read_text(encoding="utf-8")) | values)


def command(folder, *words, program="nbops"):
    """Runs a console script of this environment in a folder."""
    script = Path(sys.executable).with_name(program)
    return subprocess.run([script, *words], cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)


def environment():
    return os.environ | {"PLOOMBER_STATS_ENABLED": "false", "DO_NOT_TRACK": "true", "OMP_NUM_THREADS": "1"}
