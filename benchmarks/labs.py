"""The labs on other data: `python -m benchmarks.labs --data mnist [NAME ...]`.

The labs' findings were made on the generated glyphs. On photographs or handwritten digits a lab must go
through without an error; its claims may come out otherwise. Both are recorded in docs/results/labs.json:
how many claims held, the sentences that did not, the errors. A claim about time counts where it held and is
left out where it did not.
"""

import dataclasses
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import nbformat
import typer
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from benchmarks.results import RECORDS
from compresslab.classroom.release import client_of

SOLUTIONS = Path(__file__).parents[1] / "solutions"
LABS = {
    "mnist": ("00", "01", "02", "03", "04", "05", "06", "07", "08", "10", "12"),
    "cifar10": ("02", "04", "08", "10"),
}
CELL_TIMEOUT = 900


@dataclass(frozen=True)
class LabRun:
    """A lab on a data set: seconds, claims that held, sentences of those that did not, errors of cells."""

    lab: str
    data: str
    seconds: float
    held: int
    not_held: list[str]
    errors: list[str]


def run(path: Path, data: str) -> LabRun:
    """Execute a solution's notebook on a data set, past errors."""
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        settings = {
            "COMPRESSLAB_DATASET": data,
            "COMPRESSLAB_PROGRESS": str(Path(scratch) / "progress.json"),
            "OMP_NUM_THREADS": "1",
        }
        client = client_of(notebook, path.parent, CELL_TIMEOUT, allow_errors=True)
        broken = ""
        try:
            client.execute(env={**os.environ, **settings})
        except (CellTimeoutError, DeadKernelError) as error:
            broken = f"{type(error).__name__}: {error}"
    done = summary(notebook, path.stem, data, time.perf_counter() - start)
    return dataclasses.replace(done, errors=[*done.errors, broken]) if broken else done


def summary(notebook: NotebookNode, lab: str, data: str, seconds: float) -> LabRun:
    """What an executed notebook printed of its claims, and which cells failed."""
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    lines = "".join(
        o.text for o in outputs if o.output_type == "stream" and o.name == "stdout"
    ).splitlines()
    otherwise = f"✘ not on {data}, in this run: "
    return LabRun(
        lab,
        data,
        round(seconds, 1),
        sum(line.startswith("✔ ") for line in lines),
        [line.removeprefix(otherwise) for line in lines if line.startswith(otherwise)],
        [f"{o.ename}: {o.evalue}" for o in outputs if o.output_type == "error"],
    )


def main(
    names: Annotated[list[str] | None, typer.Argument(help="such as 04; default: all")] = None,
    data: Annotated[str, typer.Option(help=f"one of {', '.join(LABS)}")] = "mnist",
    out: Annotated[Path, typer.Option(help="folder of the records")] = RECORDS,
) -> None:
    """Run labs on a data set, record what came out, and write docs/results.md anew."""
    from benchmarks.page import write_results

    if data not in LABS:
        raise typer.BadParameter(f"--data must be one of {', '.join(LABS)}, got {data!r}")
    unknown = set(names or ()) - set(LABS[data])
    if unknown:
        raise typer.BadParameter(f"on {data} run {', '.join(LABS[data])}, not {', '.join(unknown)}")
    target = out / "labs.json"
    known = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else []
    for number in names or LABS[data]:
        done = run(next(SOLUTIONS.glob(f"{number}_*.ipynb")), data)
        typer.echo(f"{done.lab} on {data}: {done.held} held, {len(done.not_held)} did not")
        for line in (*done.not_held, *done.errors):
            typer.echo(f"    {line}")
        known = [r for r in known if (r["lab"], r["data"]) != (done.lab, data)]
        known.append(dataclasses.asdict(done))
        known.sort(key=lambda r: (list(LABS).index(r["data"]), r["lab"]))
        out.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_results(out)


if __name__ == "__main__":
    typer.run(main)
