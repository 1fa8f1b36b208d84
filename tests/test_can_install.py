"""What cannot be installed is said before anything is downloaded; what can is not hindered."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "docs" / "can_install.py"
SPEC = importlib.util.spec_from_file_location("can_install", PLACE)
can_install = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(can_install)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("minor", range(8, 17))
def test_pythons_are_those_that_the_package_takes(minor):
    takes = SpecifierSet(PROJECT["project"]["requires-python"]).contains(f"3.{minor}.0")
    said = can_install.obstacle((3, minor), "Linux", "x86_64")
    assert (said == "") == takes
    assert takes or f"3.{minor}" in said


@pytest.mark.parametrize(
    "system,machine,can",
    [
        ("Darwin", "x86_64", False),
        ("Darwin", "arm64", True),
        ("Linux", "x86_64", True),
        ("Linux", "aarch64", True),
        ("Windows", "AMD64", True),
    ],
)
def test_intel_macs_are_told_where_else_to_work(system, machine, can):
    said = can_install.obstacle((3, 11), system, machine)
    assert (said == "") == can
    assert can or "devcontainer" in said


def test_this_machine_can():
    done = subprocess.run([sys.executable, str(PLACE)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_make_asks_before_it_downloads():
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("$(VENV)/bin/python:\n")[1]
    first, second = recipe.split("\n")[:2]
    assert "docs/can_install.py" in first
    assert "-m venv" in second


def test_uv_takes_torch_without_cuda_on_linux():
    uv = PROJECT["tool"]["uv"]
    (source,) = uv["sources"]["torch"]
    (index,) = uv["index"]
    assert source["index"] == index["name"]
    assert source["marker"] == "sys_platform == 'linux'"
    assert index["explicit"]
    assert index["url"].endswith("/cpu")
