"""Runs of the longer experiments, kept beside their code: results/NAME.json.

    {"code": the experiment's fingerprint,
     "runs": [{"seed": 0, "size": 4000, "seconds": 31.2, "machine": ..., "rows": {...}}, ...]}

A file whose fingerprint is not the present one is of other code: it is not shown, and all of its seeds are
run again.
"""

import importlib
import json
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import torch

from compresslab.experiment import mean_and_sd, usable_cores
from compresslab.kernels.simd import instruction_set
from compresslab.longer.experiment import Experiment, Finding, Rows, check_rows, fingerprint
from compresslab.training import seed_everything
from compresslab.writing import write_whole

FOLDER = Path(__file__).with_name("results")
MACHINERY = ("__init__", "experiment", "stored", "show")
SEEDS = 5


@dataclass(frozen=True)
class Run:
    """What one seed gave, where, and how long it took."""

    seed: int
    size: int
    seconds: float
    machine: str
    rows: Rows


def names() -> tuple[str, ...]:
    """All longer experiments, by alphabet."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    return tuple(name for name in found if name not in MACHINERY)


def module_of(name: str) -> ModuleType:
    """The module of an experiment.

    Raises:
        ValueError: if there is none of this name.
    """
    if name not in names():
        raise ValueError(f"name must be one of {', '.join(names())}, got {name!r}")
    return importlib.import_module(f"compresslab.longer.{name}")


def experiment_of(name: str) -> Experiment:
    """An experiment by its name; raises as `module_of`."""
    return module_of(name).EXPERIMENT


def machine() -> str:
    """The processor, its instructions for byte products, cores, Python and torch."""
    name = platform.processor() or platform.machine()
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="ascii"))
        name = found[1].strip() if found else name
    except (OSError, ValueError):
        pass
    python = platform.python_version()
    return (
        f"{name}, {instruction_set()}, {usable_cores()} cores, Python {python}, "
        f"torch {torch.__version__.partition('+')[0]}"
    )


# ---- reading and writing -------------------------------------------------------------------------
def read(name: str, folder: Path = FOLDER) -> list[Run]:
    """The stored runs of the present code, by seed; none if there is no file, or one of other code.

    Raises:
        ValueError: for an unknown experiment, or a file that cannot be read as runs.
    """
    code, path = fingerprint(module_of(name)), folder / f"{name}.json"
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["code"] != code:
            return []
        runs = [Run(**run) for run in found["runs"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must hold runs of {name!r}: {error}") from error
    return sorted(runs, key=lambda run: run.seed)


def write(name: str, runs: list[Run], folder: Path = FOLDER) -> Path:
    """Write an experiment's runs, whole or not at all."""
    path = folder / f"{name}.json"
    content = {"code": fingerprint(module_of(name)), "runs": [asdict(run) for run in runs]}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_whole(path, lambda target: target.write_text(text, encoding="utf-8"))
    return path


def run_once(name: str, seed: int, size: int | None = None) -> Run:
    """Run an experiment for one seed; nothing is written.

    Args:
        name: of the experiment.
        seed: of data and training alike.
        size: training examples; if None, the experiment's own.

    Raises:
        ValueError: for an unknown experiment, or rows that are none.
    """
    experiment = experiment_of(name)
    size = experiment.size if size is None else size
    seed_everything(seed)
    started = time.perf_counter()
    rows = check_rows(experiment.run(seed, size))
    return Run(seed, size, round(time.perf_counter() - started, 1), machine(), rows)


def run_missing(name: str, seeds: int = SEEDS, folder: Path = FOLDER) -> Iterator[Run]:
    """Run the seeds 0 to `seeds` - 1 that are not stored yet, and write each when it is done."""
    runs = read(name, folder)
    for seed in sorted(set(range(seeds)) - {run.seed for run in runs}):
        runs = sorted([*runs, found := run_once(name, seed)], key=lambda run: run.seed)
        write(name, runs, folder)
        yield found


# ---- over the runs -------------------------------------------------------------------------------
def over_seeds(runs: list[Run]) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and sd of every number, by row and column."""
    first = runs[0].rows
    return {
        row: {c: mean_and_sd([run.rows[row][c] for run in runs]) for c in first[row]}
        for row in first
    }


def replicated(finding: Finding, runs: list[Run]) -> tuple[int, float, float]:
    """In how many runs a finding held, and the mean and sd of its margin."""
    margins = [finding.margin(run.rows) for run in runs]
    return (sum(margin > 0 for margin in margins), *mean_and_sd(margins))
