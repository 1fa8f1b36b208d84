"""The doctor finds what is broken on purpose, says how to mend it, and has nothing against a sound place."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from compresslab import doctor
from compresslab.cli import app
from compresslab.doctor import FINE, NOTE, WRONG, examine, writable
from compresslab.experiment import usable_cores
from compresslab.kernels import sparse
from compresslab.kernels.problems import PROBLEMS


@pytest.fixture(autouse=True)
def sound_place(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COMPRESSLAB_DATA", raising=False)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def findings(what, state):
    return [f for f in examine() if f.what == what and f.state == state]


def test_a_sound_installation_has_nothing_to_mend():
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "Nothing to mend" in result.output
    assert "✘" not in result.output


def test_what_is_wrong_makes_the_command_fail(monkeypatch):
    monkeypatch.setenv("COMPRESSLAB_DATASET", "imagenet")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "'imagenet'" in result.output
    assert "1 to mend" in result.output


@pytest.mark.parametrize(
    "requirement, told",
    [
        ("no-such-package>=1", "no-such-package>=1 is not installed"),
        ("numpy<1", "the course wants <1"),
        ("torch==1.0", "the course wants ==1.0"),
    ],
)
def test_a_package_that_does_not_fit_is_named(requirement, told, monkeypatch):
    monkeypatch.setattr(doctor.metadata, "requires", lambda _name: [requirement, "numba"])
    (finding,) = findings("packages", WRONG)
    assert told in finding.found
    assert "constraints.txt" in finding.mend


def test_packages_of_extras_are_not_asked_for(monkeypatch):
    monkeypatch.setattr(
        doctor.metadata, "requires", lambda _name: ['no-such-package; extra == "test"', "numba"]
    )
    assert not findings("packages", WRONG)


def test_a_python_the_course_was_not_made_for(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    (finding,) = findings("python", WRONG)
    assert "3.9.1" in finding.found


def test_a_kernel_of_jupyter_that_runs_another_python(tmp_path, monkeypatch):
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {
        "argv": ["/elsewhere/python", "-m", "ipykernel"],
        "display_name": "x",
        "language": "python",
    }
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    (finding,) = findings("jupyter", WRONG)
    assert "/elsewhere/python" in finding.found


@pytest.mark.parametrize("program", ["python3", str(Path(sys.executable).parent / "python3")])
def test_a_kernel_of_jupyter_that_runs_this_python_under_another_name(
    program, tmp_path, monkeypatch
):
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {"argv": [program, "-m", "ipykernel"], "display_name": "x", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert findings("jupyter", FINE)


def test_a_kernel_that_fails_does_not_hide_the_others(monkeypatch):
    def broken(_random):
        raise ImportError("DLL load failed")

    monkeypatch.setitem(PROBLEMS, "affine.quantize", broken)
    monkeypatch.setitem(PROBLEMS, "xnor.matmul", lambda _random: (np.zeros(2), np.ones(2)))
    told = [finding.found for finding in findings("kernels", WRONG)]
    assert [text.split()[0] for text in told] == ["affine.quantize", "xnor.matmul"]


def test_a_folder_is_looked_for_without_an_error_where_path_exists_raises(monkeypatch, tmp_path):
    def refuse(*_arguments, **_options):
        raise PermissionError("no")

    monkeypatch.setattr(Path, "exists", refuse)
    assert writable(tmp_path / "below")


@pytest.mark.parametrize(
    "variable,value", [("COMPRESSLAB_THREADS", "2"), ("OMP_WAIT_POLICY", "ACTIVE")]
)
def test_settings_that_make_labs_slow(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    (finding,) = findings("threads", NOTE)
    assert finding.found == f"{variable}={value.lower()} is set"
    assert f"unset {variable}" in finding.mend


def test_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: usable_cores() + 1)
    (finding,) = findings("threads", WRONG)
    assert f"OMP_NUM_THREADS={usable_cores()}" in finding.mend


def test_a_kernel_that_computes_something_else(monkeypatch):
    monkeypatch.setattr(sparse, "matmul", lambda weight, x: np.zeros((weight.shape[0], x.shape[1])))
    (finding,) = findings("kernels", WRONG)
    assert finding.found == "sparse.matmul does not give what NumPy gives"


def test_a_check_that_breaks_is_a_finding(monkeypatch):
    def broken(_name):
        raise ImportError("DLL load failed")

    monkeypatch.setattr(doctor.metadata, "requires", broken)
    (finding,) = findings("packages", WRONG)
    assert "DLL load failed" in finding.found


def test_no_place_for_compiled_kernels(monkeypatch):
    monkeypatch.setattr(doctor, "writable", lambda _folder: False)
    (finding,) = findings("cache", NOTE)
    assert "NUMBA_" in finding.mend
    assert findings("progress", NOTE)
    assert findings("data", NOTE)


def test_folders_of_data_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSLAB_DATA", str(tmp_path / "nowhere"))
    (finding,) = findings("data", WRONG)
    assert "nowhere" in finding.found


def test_data_at_hand_are_named(tmp_path, monkeypatch):
    from compresslab.data import mnist

    (tmp_path / "mnist").mkdir()
    for name in mnist.MD5:
        (tmp_path / "mnist" / name).touch()
    monkeypatch.setenv("COMPRESSLAB_DATA", str(tmp_path))
    assert any("mnist" in f.found for f in findings("data", FINE))


def test_a_folder_is_writable_if_the_one_above_it_is(tmp_path):
    assert writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    assert not writable(tmp_path / "file" / "below")
