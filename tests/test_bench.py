"""The benchmark measures what it says, on a project it has never seen; how fast is for people to judge."""

import json
import re

import pytest

from small_project import make_project
from test_other_tables import command


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("bench") / "project", kind="binary", time="month", stages=4)


def test_engine_status(small):
    done = command(small, "engine", "status")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].endswith("running")


@pytest.mark.slow
def test_ratios_to_the_stock_tools(small):
    done = command(small, "bench", "engine", "--repeats", "1", "--stage", "30_features", "--json")
    assert done.returncode == 0, done.stderr
    found = {one["name"]: one for one in json.loads(done.stdout)["measurements"]}
    assert len(found) == 7 and all(one["ours"] > 0 and one["peer"] > 0 for one in found.values())
    said = re.fullmatch(
        r"(\d+) products identical; different by nature: great_expectations.json",
        found["one period, all stages"]["note"],
    )
    assert said and int(said[1]) > 10
    assert any(name.startswith("edit 30_features, beyond the work of 1 stage") for name in found)
