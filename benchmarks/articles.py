"""From the articles to the labs: `python -m benchmarks.articles` makes docs/articles.md.

The course grew from five articles on model compression. `docs/articles.toml` has what they say, in our words,
with the findings that test it, of a lab or of an experiment that takes longer than one (`longer`); this page
adds how often each finding held and by how much (`compresslab/findings.csv`, the runs of `compresslab
longer`), and the section of the lab in which it is claimed.
A finding or an experiment that is not there is an error, so that the page cannot outlive a change of a lab.
"""

import ast
import csv
import functools
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.basis import calls, sentence_of
from benchmarks.longer import labs as shown_in
from benchmarks.longer import said
from compresslab.classroom.release import read_solution

ROOT = Path(__file__).parents[1]
SOURCE, PAGE = ROOT / "docs" / "articles.toml", ROOT / "docs" / "articles.md"
FINDINGS = ROOT / "compresslab" / "findings.csv"
VERDICTS = ("holds", "in part", "not here", "false")
BEYOND = "out of reach"
KEYS = {"says", "claims", "longer", "verdict", "note"}
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


class Section(NamedTuple):
    """A section of a lab: "§2" where it is "2 · Compute", else its heading; and what is claimed in it."""

    head: str
    sentences: list[re.Pattern]


class Course(NamedTuple):
    """What the page is made from: the findings, and each lab's sections and notebook."""

    known: list[Mapping[str, str]]
    sections: Mapping[str, Sequence[Section]]
    names: Mapping[str, str]


def findings() -> list[Mapping[str, str]]:
    """All findings with their margins."""
    with FINDINGS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@functools.cache
def sections() -> dict[str, list[Section]]:
    """The sections of each lab, in order."""
    found: dict[str, list[Section]] = {}
    for path in sorted((ROOT / "solutions").glob("[0-9][0-9]_*.py")):
        here = found[path.stem[:2]] = [Section("", [])]
        for cell in read_solution(path).solution.cells:
            if cell.cell_type == "code":
                asked = (n for n in ast.walk(ast.parse(cell.source)) if calls(n, "claim"))
                here[-1].sentences.extend(map(sentence_of, asked))
                continue
            for head in re.findall(r"^## (.+)$", cell.source, re.MULTILINE):
                here.append(Section(re.sub(r"^(\d+) · .*", r"§\1", head), []))
    return found


def files() -> dict[str, str]:
    """The notebook of each lab."""
    return {p.stem[:2]: p.name for p in (ROOT / "labs").glob("[0-9][0-9]_*.ipynb")}


def finding(start: str, known: list[Mapping[str, str]]) -> Mapping[str, str]:
    """The finding that begins so.

    Raises:
        ValueError: if there is none, or more than one.
    """
    fits = [f for f in known if f["sentence"].startswith(start)]
    if len(fits) != 1:
        told = "; ".join(f"{f['sentence']} (lab {f['lab']})" for f in fits) or "none"
        raise ValueError(f"one finding must begin with {start!r}, found: {told}")
    return fits[0]


def place(found: Mapping[str, str], parts: Mapping[str, Sequence[Section]]) -> str:
    """The lab and the section in which a finding's claim stands, such as "02 §6".

    Raises:
        ValueError: if no claim of the lab says it.
    """
    lab, sentence = found["lab"], found["sentence"]
    for section in parts[lab]:
        if any(said.fullmatch(sentence) for said in section.sentences):
            return f"{lab} {section.head}".strip()
    raise ValueError(f"no claim of lab {lab} says {sentence!r}")


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
        ValueError: for an unknown verdict, experiment or finding.
    """
    parts = tomllib.loads(SOURCE.read_text(encoding="utf-8"))["part"]
    course = Course(findings(), sections(), files())
    lines, counts = [HEAD], Counter(row["verdict"] for part in parts for row in part["row"])
    total = sum(counts.values())
    told = ", ".join(f"{counts[v]} {v}" for v in (*VERDICTS, BEYOND))
    lines.append(f"{total} statements: {told}.\n")
    for part in parts:
        if part.keys() != {"title", "row"}:
            raise ValueError(f"{part['title']!r} must have rows alone, got {list(part)}")
        lines += [f"\n## {part['title']}\n"]
        lines += ["| it is said | verdict | where | what came out |", "|---|---|---|---|"]
        lines += [_row(row, course) for row in part["row"]]
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


def _row(row: Mapping, course: Course) -> str:
    _check(row)
    found = [finding(start, course.known) for start in row.get("claims", ())]
    places = sorted({place(one, course.sections) for one in found})
    links = [f"[{p}](../labs/{course.names[p[:2]]})" for p in places]
    results = [shown(one) for one in found]
    for entry in row.get("longer", ()):
        name, _, start = entry.partition(": ")
        lines = said(name, start)
        if not lines:
            raise ValueError(f"no finding of {name} begins with {start!r}")
        number, notebook = shown_in()[name]
        links.append(f"[{number}](../labs/{notebook}): [{name}](longer.md#{name})")
        results += lines
    results += [row["note"]] if row.get("note") else []
    cells = [row["says"], row["verdict"], ", ".join(links) or "-", "<br>".join(results) or "-"]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main() -> None:
    """Write the page."""
    text = page()
    PAGE.write_text(text, encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
