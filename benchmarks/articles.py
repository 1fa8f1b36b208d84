"""From the articles to the labs: `python -m benchmarks.articles` makes docs/articles.md.

The course grew from five articles on model compression. `docs/articles.toml` has what they say, in our words,
with the place that tests it, a section of a lab or an experiment that takes longer than one (`longer`); this
page adds how often each finding held and by how much (`compresslab/findings.csv`, the runs of `compresslab
longer`).
A finding or a section that is not there is an error, so that the page cannot outlive a change of a lab.
"""

import csv
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from benchmarks.longer import said

ROOT = Path(__file__).parents[1]
SOURCE, PAGE = ROOT / "docs" / "articles.toml", ROOT / "docs" / "articles.md"
FINDINGS = ROOT / "compresslab" / "findings.csv"
VERDICTS = ("holds", "in part", "not here", "false")
BEYOND = "out of reach"
KEYS = {"says", "where", "claims", "longer", "verdict", "note"}
HEAD = """# From the articles to the labs

The course grew from five articles on model compression: an overview in Cantonese of four techniques and
their scenarios; quantizing and pruning models of Hugging Face; four techniques with code, lottery tickets and
LoRA; number formats and GPTQ; a survey of compression with DistilBERT, TinyBERT and FastBERT. This page has
what they say, in our words, and what came out when it was run.

*Holds* and *in part* are about the networks and data of this course. *Not here* means that it was run and did
not come out; *false* that it is wrong as it is said; *out of reach* that a laptop cannot show it, and why.
Figures are margins over our runs (see [findings](findings.md) and [the longer experiments](longer.md)): by
how much a finding lies on the right side of its threshold.

"""


def findings() -> list[Mapping[str, str]]:
    """All findings with their margins."""
    with FINDINGS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def sections() -> dict[str, dict[str, str]]:
    """The numbered headings of each lab: lab -> number -> heading."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted((ROOT / "solutions").glob("[0-9][0-9]_*.py")):
        heads = re.findall(r"^# ## (\d+) · (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        found[path.stem[:2]] = dict(heads)
    return found


def files() -> dict[str, str]:
    """The notebook of each lab."""
    return {p.stem[:2]: p.name for p in (ROOT / "labs").glob("[0-9][0-9]_*.ipynb")}


def finding(start: str, labs: set[str], known: list[Mapping[str, str]]) -> Mapping[str, str]:
    """The finding of one of these labs that begins so.

    Raises:
        ValueError: if there is none, or more than one.
    """
    fits = [f for f in known if f["lab"] in labs and f["sentence"].startswith(start)]
    if len(fits) != 1:
        told = "; ".join(f["sentence"] for f in fits) or "none"
        raise ValueError(
            f"one finding of lab {', '.join(sorted(labs))} must begin with {start!r}, found: {told}"
        )
    return fits[0]


def shown(found: Mapping[str, str]) -> str:
    """A finding with how often it held, and its margin."""
    text = f"{found['sentence']} ({found['held']} of {found['runs']}"
    if found["unit"] != "exact":
        deviation = f" ± {float(found['sd']):.2g}" if found["sd"] else ""
        text += f"; {float(found['mean']):.3g}{deviation} {found['unit']}"
    return text + ")"


def page() -> str:
    """The page.

    Raises:
        ValueError: for an unknown verdict, section or finding.
    """
    parts = tomllib.loads(SOURCE.read_text(encoding="utf-8"))["part"]
    known, heads, names = findings(), sections(), files()
    lines, counts = [HEAD], Counter(row["verdict"] for part in parts for row in part["row"])
    total = sum(counts.values())
    told = ", ".join(f"{counts[v]} {v}" for v in (*VERDICTS, BEYOND))
    lines.append(f"{total} statements: {told}.\n")
    for part in parts:
        if part.keys() != {"title", "row"}:
            raise ValueError(f"{part['title']!r} must have rows alone, got {list(part)}")
        lines += [f"\n## {part['title']}\n"]
        lines += ["| it is said | verdict | where | what came out |", "|---|---|---|---|"]
        lines += [_row(row, known, heads, names) for row in part["row"]]
    return "\n".join(lines) + "\n"


def _check(row: Mapping) -> None:
    """A statement rests on something that was run, or says why it cannot be.

    Raises:
        ValueError: for an unknown verdict or key, a statement without findings, or out of reach without a
            reason.
    """
    unknown = row.keys() - KEYS
    if unknown:
        raise ValueError(f"{row['says']!r} has {', '.join(sorted(unknown))}, which no row has")
    if row["verdict"] not in (*VERDICTS, BEYOND):
        known = ", ".join((*VERDICTS, BEYOND))
        raise ValueError(f"verdict must be one of {known}, got {row['verdict']!r}")
    beyond, run = row["verdict"] == BEYOND, row.get("claims") or row.get("longer")
    if not (row.get("note") if beyond else run):
        need = "a note with the reason" if beyond else "claims or longer experiments"
        raise ValueError(f"{row['says']!r} is {row['verdict']}, which needs {need}")


def _row(row: Mapping, known: list, heads: Mapping, names: Mapping) -> str:
    _check(row)
    places, labs = [], set()
    for place in row.get("where", ()):
        lab, _, number = place.partition(" §")
        if number not in heads.get(lab, {}):
            raise ValueError(f"{row['says']!r}: lab {lab} has no section {number}")
        labs.add(lab)
        places.append(f"[{place}](../labs/{names[lab]})")
    places += [f"[{name}](longer.md#{name})" for name in row.get("longer", ())]
    results = [shown(finding(start, labs, known)) for start in row.get("claims", ())]
    results += [line for name in row.get("longer", ()) for line in said(name)]
    results += [row["note"]] if row.get("note") else []
    cells = [row["says"], row["verdict"], ", ".join(places) or "-", "<br>".join(results) or "-"]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main() -> None:
    """Write the page."""
    text = page()
    PAGE.write_text(text, encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
