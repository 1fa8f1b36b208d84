"""How long a lab runs: `python -m benchmarks.times [LAB ...]` on a quiet machine.

    column                what is measured
    alone                 the lab by itself, on all cores, kernels compiled before
    first run             the same with an empty cache of kernels (NUMBA_CACHE_DIR)
    beside another lab    the lab while its neighbour runs as well, on the same cores

Whole seconds of the wall clock, the kernel's start included, of one run each: good to some ten per cent.
Records are kept in `docs/results/times.json`, the page is docs/times.md.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Annotated

import typer

from benchmarks.claims import ROOT, labs, machine
from compresslab.report import Table
from compresslab.writing import write_whole

RECORDS = ROOT / "docs" / "results" / "times.json"
PAGE = ROOT / "docs" / "times.md"
KINDS = ("alone", "first run", "beside another lab")
Record = dict[str, dict[str, dict[str, float]]]
"""Seconds by machine, lab and kind."""


def seconds(name: str, extra: dict[str, str] | None = None) -> float:
    """Wall-clock seconds of a lab's answered version, from the start of its kernel to its end.

    Raises:
        RuntimeError: if a cell fails.
    """
    code = (
        "from benchmarks.claims import Setting, run; "
        f"import sys; sys.exit('; '.join(run({name!r}, Setting())['errors']) or 0)"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS",)}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**environment, **(extra or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"lab {name}: {done.stderr[-1000:]}")
    return time.perf_counter() - start


def first_run(name: str) -> float:
    """The lab with an empty cache of compiled kernels."""
    with tempfile.TemporaryDirectory() as folder:
        return seconds(name, {"NUMBA_CACHE_DIR": folder})


def pair(one: str, other: str) -> tuple[float, float]:
    """Both labs at once; the shorter one is started again until the longer one has ended."""
    with ThreadPoolExecutor(2) as pool:
        first = [pool.submit(seconds, name) for name in (one, other)]
        wait(first, return_when=FIRST_COMPLETED)
        short = one if first[0].done() else other
        while not all(f.done() for f in first):
            pool.submit(seconds, short).result()
        return first[0].result(), first[1].result()


def page(record: Record) -> str:
    """docs/times.md from the record."""
    return (
        "# How long a lab runs\n\nSeconds of the wall clock for a lab's answered version from top to "
        "bottom, its kernel's start included: alone; the first time, while kernels are compiled; and while "
        "another lab runs on the same cores. Labs run torch on one thread and train their seeds side by "
        "side, one on each core. The machines were otherwise idle. Made by `python -m benchmarks.times`.\n"
        + "".join(_section(here, record[here]) for here in sorted(record))
    )


def _section(here: str, of_labs: dict[str, dict[str, float]]) -> str:
    rows = [
        [name, *(f"{times[kind]:.0f}" if kind in times else "-" for kind in KINDS), _factor(times)]
        for name, times in sorted(of_labs.items())
    ]
    table = Table(["lab", *KINDS, "beside / alone"], rows)
    head = "| " + " | ".join(table.headings) + " |\n|---|" + "---:|" * (len(table.headings) - 1)
    body = "\n".join("| " + " | ".join(row) + " |" for row in table.rows)
    alone = [times["alone"] for times in of_labs.values() if "alone" in times]
    said = (
        f"Median alone: {statistics.median(alone):.0f} s of {len(alone)} labs.\n" if alone else ""
    )
    return f"\n## {here}\n\n{said}\n{head}\n{body}\n"


def _factor(times: dict[str, float]) -> str:
    if "alone" not in times or "beside another lab" not in times:
        return "-"
    return f"{times['beside another lab'] / times['alone']:.1f}"


def keep(name: str, kind: str, value: float) -> None:
    """Add a time to this machine's part of the record, and write the page anew."""
    record = json.loads(RECORDS.read_text(encoding="utf-8")) if RECORDS.is_file() else {}
    of_labs = record.setdefault(machine(), {})
    of_labs.setdefault(name, {})[kind] = round(value, 1)
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    write_whole(RECORDS, lambda path: path.write_text(text, encoding="utf-8"))
    write_whole(PAGE, lambda path: path.write_text(page(record), encoding="utf-8"))
    typer.echo(f"{name}, {kind}: {value:.0f} s")


def main(
    names: Annotated[list[str] | None, typer.Argument(help="such as 04; default: all")] = None,
    kinds: Annotated[list[str] | None, typer.Option("--kind", help=", ".join(KINDS))] = None,
) -> None:
    """Time labs, and write docs/times.md."""
    chosen, wanted = names or labs(), kinds or list(KINDS)
    unknown = (set(chosen) - set(labs())) | (set(wanted) - set(KINDS))
    if unknown:
        raise typer.BadParameter(f"no such lab or kind: {', '.join(sorted(unknown))}")
    if "alone" in wanted:
        for name in chosen:
            keep(name, "alone", seconds(name))
    if "first run" in wanted:
        for name in chosen:
            keep(name, "first run", first_run(name))
    if "beside another lab" in wanted:
        everyone = labs()
        for name in chosen[::2]:
            other = chosen[chosen.index(name) + 1] if name != chosen[-1] else everyone[0]
            for lab, value in zip((name, other), pair(name, other), strict=True):
                if lab in chosen:
                    keep(lab, "beside another lab", value)


if __name__ == "__main__":
    typer.run(main)
