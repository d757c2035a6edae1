"""settings.ini, pyproject.toml, environment.yml and requirements.lock say the same."""

import configparser
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
PINS = re.sub(r" \\\n\s+--hash=\S+", "", LOCK).splitlines()
PINS = [Requirement(line) for line in PINS if line and not line.startswith("#")]
PYTHONS = ["3.11", "3.12", "3.13"]


def settings():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "settings.ini")
    return parser["DEFAULT"]


def direct():
    return PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]


def missing_or_outside(requirements, pins, python):
    """Requirements that the pins do not meet for a Python version."""
    target = default_environment() | {"python_version": python, "python_full_version": f"{python}.9"}
    valid = {
        canonicalize_name(pin.name): str(pin.specifier)[2:]
        for pin in pins
        if not pin.marker or pin.marker.evaluate(target)
    }
    wanted = [(text, Requirement(text)) for text in requirements]
    found = [(text, valid.get(canonicalize_name(one.name)), one.specifier) for text, one in wanted]
    return [text for text, version, allowed in found if version is None or version not in allowed]


def test_settings_say_what_pyproject_says():
    ini = settings()
    assert ini["requirements"].split() == PROJECT["dependencies"]
    assert ini["dev_requirements"].split() == PROJECT["optional-dependencies"]["dev"]
    assert (ini["lib_name"], ini["version"], ini["description"]) == (
        PROJECT["name"],
        PROJECT["version"],
        PROJECT["description"],
    )
    assert PROJECT["requires-python"] == f">={ini['min_python']}"
    assert dict([ini["console_scripts"].split("=")]) == PROJECT["scripts"]


def test_conda_says_what_pyproject_says():
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert pip["pip"] == [*direct(), "-e ."]
    assert conda[0].startswith(f"python{PROJECT['requires-python']}")


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_meets_every_direct_requirement(python):
    assert missing_or_outside(direct(), PINS, python) == [], "run: make lock"


def test_lock_pins_exactly_with_hashes_and_names_no_index():
    assert [str(pin) for pin in PINS if not re.fullmatch(r"==[\w.+!]+", str(pin.specifier)) or pin.url] == []
    assert LOCK.count("--hash=sha256:") >= len(PINS)
    assert re.findall(r"https?://\S+|file:\S+|^-.*", LOCK, re.M) == []
    assert len(LOCK) < 2**20


def test_lock_check_sees_a_missing_an_old_and_a_conditional_pin():
    pins = list(map(Requirement, ("pandas==1.0", "scipy==1.17.1 ; python_full_version < '3.12'", "Types_PyYAML==6.0")))
    wanted = ["numpy", "pandas>=2", "scipy", "types-pyyaml"]
    assert missing_or_outside(wanted, pins, "3.11") == ["numpy", "pandas>=2"]
    assert missing_or_outside(wanted, pins, "3.12") == ["numpy", "pandas>=2", "scipy"]
