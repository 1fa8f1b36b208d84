"""`python -m benchmarks [--only NAME] [--json FILE] [--page]`: race every family of kernels, or one.

`--page` keeps the records of the whole race in docs/results/kernels.json and writes docs/benchmarks.md with
its plot from them (`make bench`).
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from benchmarks import affine, bitpack, int8, lowbit, sparse, xnor
from benchmarks.harness import Record
from benchmarks.page import write_benchmarks
from benchmarks.results import RECORDS, machine
from compresslab.report import Table

RACED = (affine, bitpack, int8, lowbit, xnor, sparse)
FAMILIES = {module.__name__.split(".")[-1]: module for module in RACED}


def main(
    only: Annotated[str | None, typer.Option(help=f"one of {', '.join(FAMILIES)}")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the records here")] = None,
    scale: Annotated[int, typer.Option(help="divide the sizes, for a quick look")] = 1,
    page: Annotated[bool, typer.Option("--page", help="write docs/benchmarks.md")] = False,
    out: Annotated[Path, typer.Option(help="folder of the page's records")] = RECORDS,
) -> None:
    """Race our kernels against their peers and print the ratios."""
    if only is not None and only not in FAMILIES:
        raise typer.BadParameter(f"--only must be one of {', '.join(FAMILIES)}, got {only!r}")
    if page and only is not None:
        raise typer.BadParameter(f"--page takes every family, not --only {only}")
    torch.set_num_threads(1)
    records: list[Record] = []
    with threadpool_limits(1):
        for name in tqdm([only] if only else list(FAMILIES), desc="families", leave=False):
            records += FAMILIES[name].run(scale)
    typer.echo(as_table(records))
    if json_file is not None:
        text = json.dumps([dataclasses.asdict(r) for r in records], indent=1)
        json_file.write_text(text, encoding="utf-8")
    if page:
        content = {"machine": machine(), "records": [dataclasses.asdict(r) for r in records]}
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=1) + "\n"
        (out / "kernels.json").write_text(text, encoding="utf-8")
        write_benchmarks(out)


def as_table(records: list[Record]) -> Table:
    """The records as people read them."""
    rows = [
        [
            r.kernel,
            r.shape,
            r.peer,
            f"{r.ours_ms:.3g}",
            f"{r.peer_ms:.3g}",
            f"{r.ratio:.2f}",
            "-" if r.fraction_of_limit is None else f"{100 * r.fraction_of_limit:.0f} %",
        ]
        for r in records
    ]
    headings = ["kernel", "shape", "peer", "ours, ms", "peer, ms", "peer / ours", "of the limit"]
    threads = "/".join(str(t) for t in sorted({r.threads for r in records}))
    caption = f"{threads} thread(s), {records[0].isa}; medians of process CPU time, interleaved"
    return Table(headings, rows, caption, text_columns=3)


if __name__ == "__main__":
    typer.run(main)
