"""Nothing breaks in odd places: read-only, without a home, without a network, below a path with 汉字."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compresslab.classroom.grading.sandbox import MISSING, bubblewrap

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "compresslab"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")])

A_LESSON = """
import sys, tempfile
from pathlib import Path
import torch
import compresslab
from compresslab import models
from compresslab.classroom import adopt, check
from compresslab.cli import app
from compresslab.data import load
from compresslab.runtime import files
from compresslab.runtime.convert import convert
from compresslab.runtime.export import export_float
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig
from compresslab.training import evaluate, fit

data = load(size=16, train_size=300)
network = models.VGGLike(data.shape, len(data.classes), (8, 8, 8))
fit(network, data.train, 1, progress=False)
integers = convert(quantize_post_training(network, QuantConfig(), data.train.x[:50]))
with tempfile.TemporaryDirectory(prefix="ein Ordner 模型 ") as folder:
    path = Path(folder) / "мой файл.safetensors"
    files.save(integers, path)
    again = files.load(path)
    torch.testing.assert_close(again(data.test.x[:9]), integers(data.test.x[:9]))
    export_float(network, data.shape, Path(folder) / "плавающий.onnx")
def parameter_bytes(parameters, bits):
    return 0
result = check(parameter_bytes, sys.argv[1])
adopt(parameter_bytes, sys.argv[1])
print("package", Path(compresslab.__file__).parent)
app(["doctor"], standalone_mode=False)
"""
EXERCISE = "measuring.parameter_bytes"


@pytest.mark.skipif(bubblewrap() is None, reason=MISSING)
def test_a_lesson_where_nothing_can_be_written_and_there_is_no_home_and_no_network():
    command = [
        *(
            bubblewrap(),
            "--ro-bind",
            "/",
            "/",
            "--tmpfs",
            "/tmp",
            "--dev",
            "/dev",
            "--proc",
            "/proc",
        ),
        *("--unshare-net", "--die-with-parent", "--clearenv"),
        *(p for f in (sys.base_prefix, sys.prefix, str(ROOT)) for p in ("--ro-bind", f, f)),
        *("--setenv", "HOME", "/nowhere", "--setenv", "PATH", os.environ["PATH"]),
        *("--setenv", "LANG", "C.UTF-8", "--setenv", "OMP_NUM_THREADS", "1"),
        # Nothing can be kept, so all kernels are compiled: as quickly as it goes.
        *("--setenv", "NUMBA_OPT", "0"),
        *("--chdir", str(ROOT)),
        *(sys.executable, "-B", "-c", A_LESSON, EXERCISE),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every start compiles them anew" in done.stdout
    assert "nothing is remembered" in done.stdout
    assert "✘" not in done.stdout.replace("✘ Exercise", "")


def test_a_lesson_from_a_path_with_spaces_and_letters_of_other_alphabets(tmp_path):
    place = tmp_path / "Kurs für kleine 模型"
    # With what was compiled before; the kernels of one module are compiled here.
    shutil.copytree(
        PACKAGE, place / "compresslab", ignore=shutil.ignore_patterns("*.pyc", "affine.*.nb?")
    )
    assert not list((place / "compresslab" / "kernels" / "__pycache__").glob("affine.*"))
    settings = {
        "PYTHONPATH": str(place),
        "COMPRESSLAB_CACHE": str(place / "кэш"),
        "COMPRESSLAB_PROGRESS": str(place / "meine Punkte" / "progress.json"),
        "OMP_NUM_THREADS": "1",
        "JUPYTER_DATA_DIR": str(place / "jupyter"),
    }
    done = subprocess.run(
        [sys.executable, "-c", A_LESSON, EXERCISE],
        capture_output=True,
        encoding="utf-8",
        cwd=place,
        env={**os.environ, **settings, "PYTHONIOENCODING": "utf-8"},
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"package {place / 'compresslab'}" in done.stdout
    assert "Nothing to mend" in done.stdout
    assert list((place / "compresslab" / "kernels" / "__pycache__").glob("affine.*.nbc"))
    assert (place / "meine Punkte" / "progress.json").is_file()
    assert list((place / "кэш").iterdir())


def calls(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_text_files_are_read_and_written_as_utf8_on_every_system(path):
    for call in calls(path):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        given = {keyword.arg for keyword in call.keywords}
        if name in ("read_text", "write_text"):
            assert "encoding" in given, f"{path}:{call.lineno}"
        if name == "open" and _is_files(call.func):
            place = 1 if isinstance(call.func, ast.Name) else 0
            modes = [a.value for a in call.args[place : place + 1] if isinstance(a, ast.Constant)]
            assert "encoding" in given or any("b" in m for m in modes), f"{path}:{call.lineno}"


def _is_files(function):
    """The built-in open, or a path's; not those that know no text (a zip archive's members are bytes)."""
    owner = getattr(getattr(function, "value", None), "id", "")
    return isinstance(function, ast.Name) or owner not in ("os", "tarfile", "archive")


POSIX_ONLY = {"fcntl", "resource", "pwd", "grp", "termios", "pty"}
IN_THE_SANDBOX = {
    "compresslab/classroom/grading/worker.py",
    # Where there is no /proc, nothing of it is asked for.
    "compresslab/classroom/grading/bounds.py",
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_only_the_sandbox_needs_posix(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    if path.relative_to(ROOT).as_posix() not in IN_THE_SANDBOX:
        assert not found & POSIX_ONLY


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_paths_are_joined_by_pathlib(path):
    """No string begins at a root that Windows lacks, and nothing is joined by os.path."""
    if path.relative_to(ROOT).as_posix().startswith("compresslab/classroom/grading/"):
        pytest.skip("bubblewrap's own arguments are Linux's paths")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not node.value.startswith(("/tmp", "/usr", "/home", "~/")), node.lineno
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "join":
            assert not isinstance(node.func.value, ast.Attribute), f"os.path.join, {node.lineno}"
