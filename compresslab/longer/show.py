"""A longer experiment in a lab: its stored rows and findings, and, if asked, one seed run here.

longer.show("learning_together")

COMPRESSLAB_LONGER=1     runs the seed of COMPRESSLAB_SEED here as well, and shows its rows beside the stored
"""

import os

from compresslab.language import translated
from compresslab.longer.experiment import Experiment
from compresslab.longer.stored import Run, experiment_of, over_seeds, read, replicated, run_once
from compresslab.notice import tell
from compresslab.report import Table
from compresslab.seeds import shift

SWITCH = "COMPRESSLAB_LONGER"


def show_longer(name: str) -> Table:
    """Say what a longer experiment asked and found, and give its table.

    Args:
        name: of the experiment, a module of this package.

    Raises:
        ValueError: for an unknown experiment.
        FileNotFoundError: if no runs are stored for its present code, with the command that makes them.
    """
    experiment, runs = experiment_of(name), read(name)
    if not runs:
        raise FileNotFoundError(
            f"no runs of {name!r} are stored for its present code: make them by `compresslab longer {name}`"
        )
    tell(experiment.question)
    for finding in experiment.findings:
        held, mean, sd = replicated(finding, runs)
        kind, sign = ("held", "✔") if held == len(runs) else ("open", "✘")
        margin, unit = f"{mean:.3g} ± {sd:.2g}", translated(finding.unit)
        said = translated(f"(held in {held} of {len(runs)}; margin {margin} {unit})")
        tell(f"{sign} {translated(finding.sentence)} {said}", kind)
    if not experiment.findings:
        tell("No difference beyond the seeds.", "open")
    return table(experiment, runs, _here(name))


def _here(name: str) -> list[Run]:
    """A run made now, if it is asked for and what it needs is installed."""
    if os.environ.get(SWITCH, "0") in ("", "0"):
        return []
    try:
        return [run_once(name, shift())]
    except ModuleNotFoundError as missing:
        tell(f"Not run here: {missing}", "open")
        return []


def table(experiment: Experiment, runs: list[Run], here: list[Run] = ()) -> Table:
    """The stored rows as mean ± sd over their seeds; beside them those of a run made here."""
    stored, digits = over_seeds(runs), experiment.digits
    columns = list(next(iter(stored.values())))
    cells = []
    for row, numbers in stored.items():
        line = [row, *(f"{mean:.{digits}f} ± {sd:.{digits}f}" for mean, sd in numbers.values())]
        cells.append(line + [f"{run.rows[row][c]:.{digits}f}" for run in here for c in columns])
    machines = "; ".join(sorted({run.machine for run in runs}))
    seconds = sum(run.seconds for run in runs) / len(runs)
    said = translated(
        f"Stored: {len(runs)} seeds of {runs[0].size:,} training examples, mean ± sd; "
        f"{seconds:.0f} s a seed"
    )
    caption = f"{said}: {machines}. {translated(experiment.note)}"
    headings = [
        "",
        *columns,
        *(f"{translated(c)}, {translated('here')}" for _ in here for c in columns),
    ]
    return Table(headings, cells, caption.rstrip())
