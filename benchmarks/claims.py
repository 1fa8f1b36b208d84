"""Findings, replicated: `python -m benchmarks.claims [LAB ...] --runs 10` runs the labs again and again.

A run is one lab, from top to bottom, under one *setting*:

    setting      changes                                            by
    seed n       every seed, of data and of training                COMPRESSLAB_SEED
    threads      torch's threads                                    COMPRESSLAB_THREADS
    isa          instructions of torch, oneDNN and the kernels      ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA,
                                                                    NUMBA_CPU_NAME, NUMBA_CPU_FEATURES

Every claim's margin is kept in `docs/results/claims/LAB.json`, one entry per run, with the machine, the
seconds, and for each claim a hash of its margin's expression and one of the statements it rests on
(`basis.py`). What is there for the present code is not run again, so an interrupted replication goes on
where it stopped. Records of other machines stand next to ours (`--add FILE`). After each run
docs/findings.md and compresslab/findings.csv are written anew. A change in the library is not noticed: run
with `--fresh` after one that matters.

Runs are independent: two by two here, one core each, or on a cluster (`--scheduler`, as in grading).
"""

import ast
import contextlib
import csv
import datetime
import functools
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import filelock
import typer
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from benchmarks.basis import claims_of, code_of, sentence_of
from compresslab.claims import COLUMNS, FINDINGS, RECORD
from compresslab.classroom.grading.executors import open_executor
from compresslab.classroom.release import client_of, read_solution
from compresslab.experiment import THREADS
from compresslab.longer.stored import machine
from compresslab.seeds import VARIABLE as SEED
from compresslab.syntax import dump
from compresslab.writing import write_whole

ROOT = Path(__file__).parents[1]
SOLUTIONS = ROOT / "solutions"
RECORDS = ROOT / "docs" / "results" / "claims"
PAGE = ROOT / "docs" / "findings.md"
CELL_TIMEOUT = 900
# AVX2 and no more: torch by its own name, oneDNN by its own, Numba by a processor that has just that.
ISAS = {
    "native": {},
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "",
    },
}
FEWEST = 4
"""Runs on one kind of machine that are judged by themselves."""
ENOUGH = 3.0
"""Standard deviations of the margin over runs that a claim without a clock must stand above zero."""


@dataclass(frozen=True, order=True)
class Setting:
    """What one run changes."""

    seed: int = 0
    threads: int = 1
    isa: str = "native"

    def environment(self) -> dict[str, str]:
        """The variables that bring it about."""
        # Threads that wait must not keep the core from the lab that runs next to this one.
        waiting = {"OMP_WAIT_POLICY": "PASSIVE"} if self.threads > 1 else {}
        return {SEED: str(self.seed), THREADS: str(self.threads), **waiting, **ISAS[self.isa]}

    def __str__(self) -> str:
        """Such as "seed 3, 1 thread, AVX2"."""
        return f"seed {self.seed}, {self.threads} thread{'s' * (self.threads > 1)}, {self.isa}"


def settings(runs: int) -> list[Setting]:
    """The first `runs` settings.

    Among the first nine the shipped seeds (0) run with every kind; from the tenth on every one has a seed of
    its own.
    """
    two, avx2 = {"threads": 2}, {"isa": "AVX2"}
    first = [
        *(Setting(0), Setting(1), Setting(2), Setting(0, **avx2), Setting(3, **avx2)),
        *(Setting(4, **two), Setting(5), Setting(6), Setting(0, **two)),
    ]
    kinds = ({}, avx2, {}, two)
    others = [Setting(n, **kinds[n % 4]) for n in range(7, 7 + runs)]
    return [*first, *others][:runs]


def solution(name: str) -> Path:
    """A lab's solution by its number."""
    return next(SOLUTIONS.glob(f"{name}_*.py"))


# ---- one run -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Asked:
    """A claim as the lab's code has it: its sentence (None and a pattern where it is put together), and the
    hashes of its margin and of what it rests on.
    """  # noqa: D205

    text: str | None
    sentence: re.Pattern
    margin: str
    basis: str
    everywhere: bool


@functools.cache
def asked(path: Path) -> tuple[Asked, ...]:
    """The claims of a lab, read from its code.

    A claim is not asked everywhere if it stands under an `if` (an extra may be missing) or has `asked=`.
    """
    found = []
    for node, basis, guarded in claims_of(code_of(path)):
        first, margin = node.args[0], dump(node.args[1])
        always = not guarded and not any(k.arg == "asked" for k in node.keywords)
        key = hashlib.sha256(margin.encode()).hexdigest()[:8]
        fixed = first.value if isinstance(first, ast.Constant) else None
        found.append(Asked(fixed, sentence_of(node), key, basis, always))
    return tuple(found)


def known(path: Path, sentence: str) -> dict[str, str | None]:
    """The hashes that a sentence is recorded with; None where the lab does not say it."""
    said = next((a for a in asked(path) if a.sentence.fullmatch(sentence)), None)
    return {"expression": said and said.margin, "basis": said and said.basis}


def run(name: str, setting: Setting) -> dict[str, object]:
    """Execute a solution under a setting, past errors: its claims, seconds, and what broke."""
    path = solution(name)
    notebook = read_solution(path).solution
    asked(path)  # now: the file may be edited while it runs
    start = time.perf_counter()
    errors: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        claims = Path(scratch) / "claims.jsonl"
        own = {
            RECORD: str(claims),
            "COMPRESSLAB_PROGRESS": str(Path(scratch) / "progress.json"),
            "COMPRESSLAB_STRICT": "",
            "COMPRESSLAB_DATASET": "",
        }
        client = client_of(notebook, path.parent, CELL_TIMEOUT, allow_errors=True)
        try:
            client.execute(env={**os.environ, **own, **setting.environment()})
        except (CellTimeoutError, DeadKernelError) as error:
            errors.append(f"{type(error).__name__}: {error}"[:300])
        lines = claims.read_text(encoding="utf-8").splitlines() if claims.is_file() else []
    errors += [
        f"{o.ename}: {o.evalue}"[:300]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for o in cell.outputs
        if o.output_type == "error"
    ]
    return {
        **asdict(setting),
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.perf_counter() - start, 1),
        "errors": errors,
        "claims": [
            said | known(path, said["sentence"]) for said in (json.loads(line) for line in lines)
        ],
    }


@contextlib.contextmanager
def own_core(wanted: bool) -> Iterator[int | None]:
    """A core that no other bound run holds for as long as the block lasts; None if none is wanted, or free.

    A lock on a file tells: whichever process takes the next run takes the core that is free then.
    """
    held = None
    for core in sorted(os.sched_getaffinity(0)) if wanted else []:
        name = f"compresslab-{os.getuid()}-core-{core}.lock"
        lock = filelock.FileLock(Path(tempfile.gettempdir()) / name, timeout=0)
        with contextlib.suppress(filelock.Timeout, OSError):
            lock.acquire()
            held = lock
            break
    try:
        yield core if held else None
    finally:
        if held:
            held.release()


def run_apart(name: str, setting: Setting, bound: bool = False) -> dict[str, object]:
    """`run` in a process of its own, which holds no earlier state, on a core of its own if bound."""
    code = (
        "import json, sys; from benchmarks.claims import Setting, run; "
        f"print(json.dumps(run({name!r}, Setting(**{asdict(setting)!r}))))"
    )
    command = [sys.executable, "-c", code]
    with own_core(bound) as core:
        bind = (lambda: os.sched_setaffinity(0, {core})) if core is not None else None
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=bind
        )
    if done.returncode:
        raise RuntimeError(f"lab {name}, {setting}: {done.stderr[-2000:]}")
    # Asked here: bound to one core, the run sees no others.
    return json.loads(done.stdout.splitlines()[-1]) | {"machine": machine()}


# ---- what is kept --------------------------------------------------------------------------------
def read_runs(name: str) -> list[dict]:
    """A lab's runs, as they were recorded; none if there is no file."""
    path = RECORDS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def write_runs(name: str, runs: list[dict]) -> None:
    """Write a lab's runs, a line each."""
    ordered = sorted(runs, key=lambda r: (r["machine"], r["seed"], r["threads"], r["isa"]))
    lines = [json.dumps(_compact(r), ensure_ascii=False) for r in ordered]
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    write_whole(RECORDS / f"{name}.json", lambda path: path.write_text(text, encoding="utf-8"))


def _compact(entry: dict) -> dict:
    def short(claim: dict) -> dict:
        margin = claim["margin"]
        return claim | {"margin": margin if isinstance(margin, bool) else float(f"{margin:.5g}")}

    return entry | {"claims": [short(c) for c in entry["claims"]]}


def same_run(one: dict, other: dict) -> bool:
    """Whether two records are of the same setting on the same machine."""
    return all(one[k] == other[k] for k in ("machine", "seed", "threads", "isa"))


# ---- what came out -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Outcome:
    """A claim over its runs; mean and sd are of its margins (1 and 0 for exact statements)."""

    lab: str
    sentence: str
    unit: str
    timed: bool
    since: str
    margins: tuple[float, ...]
    held: int
    sets: tuple[str, ...] = ()
    """The instruction set of each run."""
    machines: tuple[str, ...] = ()
    """What each run's machine has: a library may use more of it than a run was told to."""

    @property
    def mean(self) -> float:
        """Of the margins."""
        return statistics.fmean(self.margins)

    @property
    def sd(self) -> float:
        """Sample standard deviation of the margins; 0 for a single one."""
        return statistics.stdev(self.margins) if len(self.margins) > 1 else 0.0

    @property
    def stands(self) -> bool:
        """Never failed, and its mean at least three standard deviations above zero, on each kind of machine.

        Another instruction set may make a margin several times as large, which is no doubt about either.
        """
        kinds = [self._on(kind) for kind in sorted(set(self.machines))]
        judged = [margins for margins in kinds if len(margins) >= FEWEST]
        few = [m for margins in kinds if len(margins) < FEWEST for m in margins]
        judged = [*judged, *([few] if few else [])] or [list(self.margins)]
        far = [
            statistics.fmean(m) >= ENOUGH * (statistics.stdev(m) if len(m) > 1 else 0)
            for m in judged
        ]
        pooled = self.mean >= ENOUGH * self.sd
        return self.held == len(self.margins) and (pooled or all(far))

    def _on(self, kind: str) -> list[float]:
        return [m for m, own in zip(self.margins, self.machines, strict=True) if own == kind]


def outcomes(name: str, runs: list[dict]) -> list[Outcome]:
    """The claims of the lab as it stands, in the order of the lab, over all runs of what they rest on.

    A claim is known by its margin's expression, so that a sentence may be worded anew; one whose sentence is
    put together when the lab runs counts as several, by their sentences.
    """
    path = solution(name)
    recorded = [(entry, said) for entry in runs for said in entry["claims"]]
    found = []
    for claim in asked(path):
        seen = [pair for pair in recorded if _is_of(pair[1], claim)]
        if claim.text is not None:
            same = [a for a in asked(path) if (a.margin, a.basis) == (claim.margin, claim.basis)]
            if len(same) > 1:  # two sentences of one expression, such as `True`
                seen = [pair for pair in seen if pair[1]["sentence"] == claim.text]
            found += [_outcome(name, claim.text, seen)] if seen else []
            continue
        for sentence in dict.fromkeys(pair[1]["sentence"] for pair in seen):
            if claim.sentence.fullmatch(sentence):
                of = [pair for pair in seen if pair[1]["sentence"] == sentence]
                found.append(_outcome(name, sentence, of))
    return found


def _is_of(said: dict, claim: Asked) -> bool:
    return (said["expression"], said["basis"]) == (claim.margin, claim.basis)


def _outcome(name: str, sentence: str, seen: list[tuple[dict, dict]]) -> Outcome:
    first = seen[0][1]
    return Outcome(
        name,
        sentence,
        first["unit"] or "exact",
        first["timed"],
        min(entry["date"] for entry, _ in seen),
        tuple(float(claim["margin"]) for _, claim in seen),
        sum(claim["holds"] for _, claim in seen),
        tuple(_instructions(entry) for entry, _ in seen),
        tuple(entry["machine"].split(", ")[1] for entry, _ in seen),
    )


def missing(name: str, wanted: list[Setting], here: str) -> list[Setting]:
    """Settings without a record of every present claim on this machine."""
    claims = [a for a in asked(solution(name)) if a.everywhere]
    done = set()
    for entry in read_runs(name):
        said = [any(_is_of(c, a) for c in entry["claims"]) for a in claims]
        broke = entry["errors"] and any(said)
        if entry["machine"] == here and (all(said) or broke):
            done.add(Setting(entry["seed"], entry["threads"], entry["isa"]))
    return [s for s in wanted if s not in done]


# ---- pages ---------------------------------------------------------------------------------------
def labs() -> list[str]:
    """The numbers of all labs."""
    return sorted(path.stem[:2] for path in SOLUTIONS.glob("[0-9][0-9]_*.py"))


def write_pages(page: Path = PAGE, table: Path = FINDINGS) -> None:
    """docs/findings.md for readers, compresslab/findings.csv for `claim`."""
    runs = {name: read_runs(name) for name in labs()}
    found = {name: outcomes(name, runs[name]) for name in runs}
    write_whole(page, lambda path: path.write_text(page_of(runs, found), encoding="utf-8"))

    def write_table(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for outcome in (o for many in found.values() for o in many):
                numbers = len(outcome.margins), outcome.held
                spread = f"{outcome.mean:.4g}", f"{outcome.sd:.4g}"
                writer.writerow([outcome.lab, outcome.sentence, outcome.unit, *numbers, *spread])

    write_whole(table, write_table)


INTRODUCTION = """# Findings, replicated

Every lab states its findings as sentences that are checked while it runs (`claim`). This page says how often
each of them held, and by how much, when the labs were run again with other seeds (of data and training
alike), with one and two threads of torch, and with other instruction sets. It is generated by
`python -m benchmarks.claims`; the records are in `docs/results/claims/`.

*Margin* is the distance from the sentence's threshold, in the unit that is named: mean ± standard deviation
over the runs. A finding that does not rest on a clock must have held every time, its mean margin at least
three standard deviations above zero; a mark (!) says where that is not so. An exact statement has no margin.
Findings about time belong to a machine: they are listed by instruction set and may fail on a busy one.

The thresholds of some sentences were chosen after a look at runs that are counted here, and the margins of
those runs were moved by the difference. For such sentences "held" is no independent test; new seeds are.

"""


def page_of(runs: dict[str, list[dict]], found: dict[str, list[Outcome]]) -> str:
    """The page as Markdown."""
    parts = [INTRODUCTION, _machines(runs)]
    untimed = [o for many in found.values() for o in many if not o.timed]
    weak = [o for o in untimed if not o.stands]
    parts.append(
        f"\n{len(untimed)} findings that rest on no clock; {len(weak)} of them do not stand three standard "
        "deviations above zero or have failed.\n"
    )
    for name, many in found.items():
        path = solution(name)
        title = re.search(r"^# # (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)[1]
        parts.append(f"\n## {title}\n\n")
        parts.append("| finding | held | margin | since |\n|---|---:|---:|---|\n")
        parts += [_row(o) for o in many if not o.timed]
        timed = [o for o in many if o.timed]
        if timed:
            parts.append(_timed_table(timed))
    return "".join(parts)


def _row(outcome: Outcome) -> str:
    mark = "" if outcome.stands else " (!)"
    margin = "exact"
    if outcome.unit != "exact":
        margin = f"{outcome.mean:.3g} ± {outcome.sd:.2g} {outcome.unit}"
    held = f"{outcome.held} of {len(outcome.margins)}"
    return f"| {_cell(outcome.sentence)}{mark} | {held} | {margin} | {outcome.since} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _timed_table(timed: list[Outcome]) -> str:
    """Held and margin of the timed claims, a column for each instruction set."""
    sets = sorted({name for outcome in timed for name in outcome.sets})
    lines = [
        "\n| finding about time | " + " | ".join(sets) + " |\n",
        "|---|" + "---:|" * len(sets) + "\n",
    ]
    for outcome in timed:
        cells = " | ".join(_timed_cell(outcome, name) for name in sets)
        lines.append(f"| {_cell(outcome.sentence)} | {cells} |\n")
    return "".join(lines)


def _instructions(entry: dict) -> str:
    """The instruction set of a run: the machine's, or the one that it was held to."""
    return entry["machine"].split(", ")[1] if entry["isa"] == "native" else entry["isa"]


def _timed_cell(outcome: Outcome, name: str) -> str:
    margins = [m for m, where in zip(outcome.margins, outcome.sets, strict=True) if where == name]
    if not margins:
        return "not asked"
    held = f"{sum(m > 0 for m in margins)} of {len(margins)}"
    if outcome.unit == "exact":
        return held
    sd = statistics.stdev(margins) if len(margins) > 1 else 0.0
    return f"{held}; {statistics.fmean(margins):.2g} ± {sd:.2g} {outcome.unit}"


def _machines(runs: dict[str, list[dict]]) -> str:
    lines = ["| machine | runs | labs |\n|---|---:|---|\n"]
    names = sorted({entry["machine"] for entries in runs.values() for entry in entries})
    for name in names:
        of = {n: sum(e["machine"] == name for e in entries) for n, entries in runs.items()}
        lines.append(
            f"| {name} | {sum(of.values())} | {', '.join(n for n, k in of.items() if k)} |\n"
        )
    return "".join(lines)


# ---- the command ---------------------------------------------------------------------------------
def todo(names: list[str], runs: int, here: str) -> Iterator[tuple[str, Setting]]:
    """Runs that are missing: every lab's first setting, then every lab's second, and so on."""
    lacking = {name: missing(name, settings(runs), here) for name in names}
    for index in range(max((len(v) for v in lacking.values()), default=0)):
        for name, waiting in lacking.items():
            if index < len(waiting):
                yield name, waiting[index]


def keep(name: str, entry: dict) -> None:
    """Add a run to its lab's records, in the place of an older one of the same setting and machine."""
    kept = [r for r in read_runs(name) if not same_run(r, entry)]
    write_runs(name, [*kept, entry])


def main(
    names: Annotated[list[str] | None, typer.Argument(help="such as 04; default: all")] = None,
    runs: Annotated[int, typer.Option(help="settings a lab", min=1)] = 10,
    workers: Annotated[int, typer.Option(help="runs at once", min=1)] = os.cpu_count() or 1,
    scheduler: Annotated[str | None, typer.Option(help="a Dask scheduler's address")] = None,
    add: Annotated[
        list[Path] | None, typer.Option(help="records of another machine, LAB.json, to add")
    ] = None,
    fresh: Annotated[bool, typer.Option(help="run again what is recorded")] = False,
    page_only: Annotated[bool, typer.Option(help="run nothing, write the pages")] = False,
) -> None:
    """Replicate the labs' findings, and write docs/findings.md."""
    unknown = set(names or ()) - set(labs())
    if unknown:
        raise typer.BadParameter(f"labs are {', '.join(labs())}, not {', '.join(sorted(unknown))}")
    for path in add or ():
        for entry in json.loads(path.read_text(encoding="utf-8")):
            keep(path.stem, entry)
    if not page_only:
        _replicate(names or labs(), runs, workers, scheduler, fresh)
    write_pages()


def _replicate(
    names: list[str], runs: int, workers: int, scheduler: str | None, fresh: bool
) -> None:
    waiting = list(todo(names, runs, "" if fresh else machine()))
    typer.echo(f"{len(waiting)} runs to do")
    # One core for each of several runs at once: their Python threads would fight for the same ones.
    bound = hasattr(os, "sched_getaffinity") and scheduler is None and workers > 1
    with open_executor(workers, scheduler) as executor:
        pending: dict[Future, tuple[str, Setting]] = {}
        for name, setting in waiting:
            own = bound and setting.threads == 1
            pending[executor.submit(run_apart, name, setting, own)] = name, setting
        for done in as_completed(pending):
            name, setting = pending[done]
            try:
                entry = done.result()
            except (RuntimeError, OSError) as error:  # one run that breaks costs no other
                typer.echo(f"{name}, {setting}: not kept: {error}")
                continue
            keep(name, entry)
            write_pages()
            fails = [c["sentence"] for c in entry["claims"] if not c["holds"]]
            typer.echo(f"{name}, {setting}: {entry['seconds']:.0f} s, {len(fails)} did not hold")
            for line in (*fails, *entry["errors"]):
                typer.echo(f"    {line}")


if __name__ == "__main__":
    typer.run(main)
