"""What is wrong with an installation, and how to mend it: `compresslab doctor`.

    check        asks
    python       is it a version that the course was made for?
    packages     is every required package here, in a version that fits?
    jupyter      would a notebook run on this very Python?
    threads      how many threads and cores do torch and the labs use, and does a setting make them slow?
    processor    which vector instructions do the kernels find?
    kernels      does every kernel give what NumPy gives?
    cache        is there a place to keep compiled kernels?
    data         where do data sets come from, and can they be kept?
    progress     can what was passed be remembered?
    extras       what is installed beside the course, for comparisons and grading?

A check that breaks is a finding too, so nothing here is imported before it is needed. It takes about five
seconds; the first time on a machine longer, since kernels are compiled. Nothing is changed but the caches.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

FINE, NOTE, WRONG = "fine", "note", "wrong"
SIGNS = {FINE: "✔", NOTE: "·", WRONG: "✘"}
REINSTALL = (
    f'install again: "{sys.executable}" -m pip install --constraint constraints.txt --editable .'
)


@dataclass(frozen=True)
class Finding:
    """One answer: what was asked, how it stands (FINE, NOTE or WRONG), what was found, how to mend it."""

    what: str
    state: str
    found: str
    mend: str = ""

    def __str__(self) -> str:
        """A line, and one below it with the way out."""
        line = f"{SIGNS[self.state]} {self.what:<10} {self.found}"
        return f"{line}\n  {'':<10} -> {self.mend}" if self.mend else line


def examine() -> Iterator[Finding]:
    """Every check's findings, as they come; a check that raises is WRONG with its error."""
    for check in CHECKS:
        try:
            yield from check()
        except Exception as error:  # a broken installation breaks in any way it likes
            name = check.__name__.strip("_")
            yield Finding(name, WRONG, f"{type(error).__name__}: {error}", REINSTALL)


def _python() -> Iterator[Finding]:
    from packaging.specifiers import SpecifierSet

    version = ".".join(map(str, sys.version_info[:3]))
    wanted = metadata.metadata("compresslab")["Requires-Python"]
    if SpecifierSet(wanted).contains(version):
        yield Finding("python", FINE, f"{version}, {sys.executable}")
    else:
        mend = f"make the environment anew with a Python {wanted}"
        yield Finding("python", WRONG, f"{version}, the course wants {wanted}", mend)


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in metadata.requires("compresslab") or []]
    wanted = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    unfit = [complaint for r in wanted if (complaint := _unfit(r))]
    for complaint in unfit:
        yield Finding("packages", WRONG, complaint, REINSTALL)
    if not unfit:
        versions = ", ".join(
            f"{name} {metadata.version(name)}" for name in ("torch", "numba", "numpy")
        )
        yield Finding("packages", FINE, f"all {len(wanted)} fit; {versions}")


def _unfit(requirement: object) -> str:
    """What is wrong with one requirement; empty if nothing is."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement} is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} is {version}, the course wants {requirement.specifier}"


def _jupyter() -> Iterator[Finding]:
    from jupyter_client.kernelspec import KernelSpecManager

    program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    # JupyterLab puts its own interpreter in the place of these; python and python3 of one folder are one.
    bare = {"python", "python3", f"python3.{sys.version_info[1]}"}
    if program in bare or Path(program).absolute().parent == Path(sys.executable).absolute().parent:
        yield Finding("jupyter", FINE, f"JupyterLab {metadata.version('jupyterlab')}")
    else:
        mend = "jupyter kernelspec remove python3, or choose another kernel in the notebook's menu"
        yield Finding("jupyter", WRONG, f"the kernel 'Python 3' runs {program}", mend)


def _threads() -> Iterator[Finding]:
    import torch

    from compresslab.experiment import THREADS, usable_cores

    threads, cores = torch.get_num_threads(), usable_cores()
    found = (
        f"torch would use {threads} of {cores} cores; labs run it on one thread and train networks side "
        f"by side, one on each of {cores}"
    )
    if threads > cores:
        mend = f"start with OMP_NUM_THREADS={cores}: threads without a core wait for each other"
        yield Finding("threads", WRONG, found, mend)
    else:
        yield Finding("threads", FINE, found)
    asked = os.environ.get(THREADS) or "1"
    if asked != "1":
        mend = f"unset {THREADS}: beside other work, a lab on several threads takes several times as long"
        yield Finding("threads", NOTE, f"{THREADS}={asked} is set", mend)
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "active":
        mend = "unset OMP_WAIT_POLICY: threads that wait would keep their cores busy"
        yield Finding("threads", NOTE, "OMP_WAIT_POLICY=active is set", mend)


def _processor() -> Iterator[Finding]:
    from compresslab.kernels.simd import instruction_set, tiles_available

    found = instruction_set()
    tiles = ", int8 tiles usable" if tiles_available() else ""
    if found == "baseline":
        mend = "kernels work, several times slower; is NUMBA_CPU_NAME set?"
        yield Finding("processor", NOTE, "no vector instructions that the kernels know", mend)
    else:
        yield Finding("processor", FINE, f"{found}{tiles}")


# ---- kernels -------------------------------------------------------------------------------------
def _kernels() -> Iterator[Finding]:
    import numpy as np

    from compresslab.kernels.problems import PROBLEMS, agrees

    wrong = {}
    for name, problem in PROBLEMS.items():
        try:
            if not agrees(*problem(np.random.default_rng(0))):
                wrong[name] = "does not give what NumPy gives"
        except Exception as error:
            wrong[name] = f"fails: {type(error).__name__}: {error}"
    for name, what in wrong.items():
        mend = (
            "delete __pycache__ in compresslab/kernels; if it stays, report processor and versions"
        )
        yield Finding("kernels", WRONG, f"{name} {what}", mend)
    if not wrong:
        yield Finding("kernels", FINE, f"{len(PROBLEMS)} kernels give what NumPy gives")


# ---- folders -------------------------------------------------------------------------------------
def writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, or in the first folder above it that is there."""
    # os.path, since Path.exists raises below a folder that may not be entered.
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _cache() -> Iterator[Finding]:
    from compresslab.kernels.affine import quantize_runs

    where = getattr(getattr(quantize_runs, "_cache", None), "cache_path", None)
    if where and writable(Path(where)):
        yield Finding("cache", FINE, f"compiled kernels are kept in {where}")
    elif os.environ.get("NUMBA_DISABLE_JIT"):
        mend = "unset NUMBA_DISABLE_JIT"
        yield Finding("cache", NOTE, "kernels run uncompiled, hundreds of times slower", mend)
    else:
        mend = "name a folder that can be written in NUMBA_CACHE_DIR"
        found = "no place for compiled kernels: every start compiles them anew"
        yield Finding("cache", NOTE, found, mend)


def _data() -> Iterator[Finding]:
    from compresslab.data import SOURCES, cifar10, files, mnist

    chosen = os.environ.get("COMPRESSLAB_DATASET")
    if chosen and chosen not in SOURCES:
        mend = f"unset COMPRESSLAB_DATASET, or one of {', '.join(SOURCES)}"
        yield Finding("data", WRONG, f"COMPRESSLAB_DATASET is {chosen!r}", mend)
    given = os.environ.get("COMPRESSLAB_DATA")
    if given and not Path(given).is_dir():
        yield Finding("data", WRONG, f"COMPRESSLAB_DATA is {given!r}, no folder", "name the folder")
    here = [n for n, found in (("mnist", mnist.found()), ("cifar10", cifar10.found())) if found]
    yield Finding(
        "data", FINE, f"glyphs, digits: always; also at hand: {', '.join(here) or 'nothing'}"
    )
    folder = files.cache_folder()
    if writable(folder):
        yield Finding("data", FINE, f"kept in {folder}")
    else:
        mend = "name a folder that can be written in COMPRESSLAB_CACHE"
        found = f"{folder} cannot be written: glyphs are drawn anew each time"
        yield Finding("data", NOTE, found, mend)


def _progress() -> Iterator[Finding]:
    from compresslab.classroom.progress import progress_file

    path = progress_file()
    if writable(path.parent):
        yield Finding("progress", FINE, f"kept in {path}")
    else:
        mend = "name a file that can be written in COMPRESSLAB_PROGRESS"
        yield Finding("progress", NOTE, f"{path} cannot be written: nothing is remembered", mend)


EXTRAS = {
    "onnxruntime": ("ONNX Runtime, to race against", "peers"),
    "transformers": ("published networks", "hf"),
    "nbgrader": ("nbgrader", "instructor"),
}


def _extras() -> Iterator[Finding]:
    here = [what for package, (what, _) in EXTRAS.items() if find_spec(package)]
    lacking = [f"{what} (extra {extra})" for p, (what, extra) in EXTRAS.items() if not find_spec(p)]
    found = ", ".join(here) or "none"
    yield Finding(
        "extras", NOTE, f"{found}; not needed and not here: {', '.join(lacking) or 'nothing'}"
    )


CHECKS = (
    *(_python, _packages, _jupyter, _threads, _processor, _kernels, _cache, _data, _progress),
    _extras,
)
