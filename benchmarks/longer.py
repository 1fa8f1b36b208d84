"""The longer experiments as a page: `python -m benchmarks.longer` makes docs/longer.md of their stored runs.

`compresslab longer` makes the runs. Each experiment has its question, its table (mean ± sd over seeds), its
findings with their margins, and the lab that shows it.
"""

import re
import sys
from pathlib import Path

from compresslab.longer import stored
from compresslab.longer.experiment import Experiment

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "longer.md"
HEAD = """# Longer than a lab

Experiments that take minutes for each seed. They were run over several seeds, and their rows are kept beside
their code in `compresslab/longer/`; a lab shows them, and with `COMPRESSLAB_LONGER=1` runs one seed as well.
A finding has a margin, the distance from its sentence's threshold, in every run; it must have held in all of
them, its mean margin at least three standard deviations above zero. Made by `python -m benchmarks.longer`
from the runs that `compresslab longer` makes.
"""


def labs() -> dict[str, tuple[str, str]]:
    """By experiment the number of the lab that shows it, and the lab's notebook."""
    notebooks = {p.stem[:2]: p.name for p in (ROOT / "labs").glob("[0-9][0-9]_*.ipynb")}
    found = {}
    for path in sorted((ROOT / "solutions").glob("[0-9][0-9]_*.py")):
        for name in re.findall(
            r'^show_longer\("(\w+)"\)$', path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            found[name] = (path.stem[:2], notebooks[path.stem[:2]])
    return found


def said(name: str, start: str = "") -> list[str]:
    """An experiment's findings, or those that begin so, each with how often it held, and its margin."""
    runs = stored.read(name)
    lines = []
    findings = stored.experiment_of(name).findings
    for finding in (f for f in findings if f.sentence.startswith(start)):
        held, mean, sd = stored.replicated(finding, runs)
        lines.append(
            f"{finding.sentence} ({held} of {len(runs)}; {mean:.3g} ± {sd:.2g} {finding.unit})"
        )
    return lines


def section(name: str, lab: tuple[str, str]) -> str:
    """One experiment."""
    experiment, runs = stored.experiment_of(name), stored.read(name)
    seconds = sum(run.seconds for run in runs) / len(runs)
    machines = "; ".join(sorted({run.machine for run in runs}))
    found = "\n".join(f"- {line}" for line in said(name)) or "No difference beyond the seeds."
    below = (
        f"{len(runs)} seeds of {experiment.size:,} training examples, {seconds:.0f} s a seed; {machines}. "
        f"{experiment.note}"
    )
    where = f"Lab [{lab[0]}](../labs/{lab[1]}), `compresslab/longer/{name}.py`."
    parts = [
        f"## {name}",
        experiment.question,
        found,
        rows(experiment, runs),
        below.rstrip(),
        where,
    ]
    return "\n\n".join(parts)


def rows(experiment: Experiment, runs: list[stored.Run]) -> str:
    """The table of an experiment in Markdown."""
    numbers, digits = stored.over_seeds(runs), experiment.digits
    columns = list(next(iter(numbers.values())))
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for row, cells in numbers.items():
        shown = (f"{mean:.{digits}f} ± {sd:.{digits}f}" for mean, sd in cells.values())
        lines.append(f"| {row} | {' | '.join(shown)} |")
    return "\n".join(lines)


def page() -> str:
    """The page.

    Raises:
        KeyError: for an experiment that no lab shows.
    """
    where = labs()
    return "\n\n".join([HEAD, *(section(name, where[name]) for name in stored.names())]) + "\n"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
