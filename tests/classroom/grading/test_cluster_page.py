"""The page about clusters: its commands have the options that it gives them, its files can be read."""

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from benchmarks import claims
from compresslab.classroom.grading import executors
from compresslab.cli import app

pytest.importorskip("distributed", reason=f"Dask is not installed: {executors.INSTALL}")
PAGE = (Path(__file__).parents[3] / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = {kind: re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL) for kind in ("bash", "yaml")}


def commands(program):
    """The options of each call of a program on the page, by its first words."""
    called = [line.removeprefix("srun ") for block in BLOCKS["bash"] for line in block.splitlines()]
    called += [shlex.join(map(str, c["command"])) for c in containers()]
    calls = [shlex.split(line.rstrip(" &")) for line in called if line.startswith(program)]
    return [(call, {word for word in call if word.startswith("--")}) for call in calls]


def containers():
    (pods,) = (yaml.safe_load(block) for block in BLOCKS["yaml"])
    return pods["spec"]["template"]["spec"]["containers"]


@pytest.mark.parametrize("what", ["scheduler", "worker"])
def test_dask_knows_every_option(what):
    known = subprocess.run(
        [sys.executable, "-m", "dask", what, "--help"], capture_output=True, text=True, check=True
    ).stdout
    calls = commands(f"dask {what}")
    assert calls
    for _, options in calls:
        assert not {o for o in options if not re.search(rf"{o}\b", known)}


def test_every_worker_has_one_thread():
    for call, options in commands("dask worker"):
        assert "--nthreads" in options
        assert call[call.index("--nthreads") + 1] == "1"


def test_grade_and_claims_know_a_scheduler():
    for call, options in commands("compresslab grade"):
        known = CliRunner().invoke(app, ["grade", "--help"], env={"COLUMNS": "200"}).output
        assert call[1] == "grade"
        assert not {o for o in options if o not in known}
    assert "scheduler" in inspect.signature(claims.main).parameters


def test_the_batch_script_is_one(tmp_path):
    script = next(block for block in BLOCKS["bash"] if block.startswith("#!"))
    path = tmp_path / "grading.sh"
    path.write_text(script, encoding="utf-8")
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    # SLURM reads its lines up to the first that is no comment.
    head, rest = re.split(r"\n(?!#)", script, maxsplit=1)
    assert "#SBATCH" in head
    assert "#SBATCH" not in rest


def test_a_pod_has_its_volumes():
    (pods,) = (yaml.safe_load(block) for block in BLOCKS["yaml"])
    spec = pods["spec"]["template"]["spec"]
    assert {m["name"] for c in spec["containers"] for m in c["volumeMounts"]} == {
        v["name"] for v in spec["volumes"]
    }
    assert pods["spec"]["selector"]["matchLabels"] == pods["spec"]["template"]["metadata"]["labels"]
