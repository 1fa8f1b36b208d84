"""Slides of every lab, from what the lab, its findings and the teacher's guide already say: `make slides`.

    python docs/slides/write.py FOLDER

    the executed solution      questions to predict, figures with their text, what each section claims
    compresslab/findings.csv   how often each of these held
    docs/teaching/labs.toml    purpose, what to draw, where to stop and what to ask
        -> FOLDER/NN.md and its pictures; Sphinx (sphinx-revealjs) makes slides of them, without a network

Slides follow the lab: where a cell asks, its question comes before its figures, and what held comes last.
What only the lecturer sees (key S) holds what to ask, what to draw and what goes wrong. Nothing is run, and
nothing is written twice: a lab or a guide that is changed changes its slides.
"""

import ast
import base64
import contextlib
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from itertools import groupby
from pathlib import Path

import nbformat

from compresslab.claims import findings

ROOT = Path(__file__).parents[2]
LEFT_OUT = ("Written question", "Recap", "What the papers say", "Longer than a lab")
"""Sections that are read, not shown."""
MOST = 5
"""Findings on a slide."""
BLANK = "____"
IMAGE = re.compile(r'<img\b[^>]*?src="data:image/png;base64,([^"]+)"[^>]*>')
ALT = re.compile(r'\balt="([^"]*)"')


@dataclass(frozen=True)
class Question:
    """What a learner predicts, and the answers to choose from (none for a number)."""

    text: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A PNG file's bytes, and what it shows in words."""

    content: bytes
    text: str


@dataclass
class Section:
    """A part of a lab and what it has to show, in the lab's order."""

    heading: str
    steps: list[Question | Picture | str] = field(default_factory=list)
    """Questions, pictures, and findings (a sentence each)."""


def sections_of(notebook: nbformat.NotebookNode) -> Iterator[Section]:
    """The sections of an executed lab."""
    section = Section("")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for heading in re.findall(r"^## (.+)$", cell.source, re.MULTILINE):
                yield section
                section = Section(heading)
        else:
            section.steps += _questions(cell.source)
            section.steps += [picture for output in cell.outputs for picture in _pictures(output)]
            section.steps += _claims(cell.source)
    yield section


def shown(notebook: nbformat.NotebookNode) -> list[Section]:
    """Those with something to show, without the ones that are read."""
    found = [section for section in sections_of(notebook) if section.steps]
    return [s for s in found if s.heading and not s.heading.startswith(LEFT_OUT)]


def _calls(source: str, name: str) -> Iterator[tuple[str, list]]:
    """Of each call of a name its text, a number that the lab fills in as a blank, and a list that follows."""
    calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]
    for node in sorted(calls, key=lambda n: n.lineno):
        if getattr(node.func, "id", "") == name:
            first, second = (*node.args, None, None)[:2]
            parts = first.values if isinstance(first, ast.JoinedStr) else [first]
            text = "".join(p.value if isinstance(p, ast.Constant) else BLANK for p in parts)
            listed = isinstance(second, ast.List | ast.Tuple)
            yield text, _elements(second) if listed else []


def _elements(node: ast.expr | None) -> list:
    """The elements of a list that stand there; of one that is put together, those of its parts."""
    if isinstance(node, ast.Starred):
        return _elements(node.value)
    if isinstance(node, ast.List | ast.Tuple):
        return [value for element in node.elts for value in _elements(element)]
    with contextlib.suppress(ValueError, TypeError):
        return [] if node is None else [ast.literal_eval(node)]
    return []


def _questions(source: str) -> list[Question]:
    return [Question(text, tuple(map(str, found))) for text, found in _calls(source, "predict")]


def _claims(source: str) -> list[str]:
    """Findings; one that the lab puts together is several, and not shown."""
    return [text for text, _ in _calls(source, "claim") if BLANK not in text]


def _pictures(output: nbformat.NotebookNode) -> Iterator[Picture]:
    for found in IMAGE.finditer(output.get("data", {}).get("text/html", "")):
        alternative = ALT.search(found[0])
        text = " ".join(unescape(alternative[1]).split()) if alternative else ""
        yield Picture(base64.b64decode(found[1]), text)


# ---- as Markdown ---------------------------------------------------------------------------------
def held(lab: str) -> dict[str, str]:
    """How often each finding of a lab held, such as "20 of 20", by its sentence."""
    return {f.sentence: f"{f.held} of {f.runs}" for f in findings().values() if f.lab == lab}


def slides(number: str, notebook: nbformat.NotebookNode, guide: dict, folder: Path) -> str:
    """A lab's slides as Markdown; its pictures are written into the folder.

    Args:
        number: of the lab, such as "04".
        notebook: its solution, executed.
        guide: its part of docs/teaching/labs.toml.
        folder: where the pictures go.
    """
    title = re.search(r"^# (.+)$", notebook.cells[0].source, re.MULTILINE)[1]
    drawn = f"{guide['board']}\n\nCareful: {guide['careful']}"
    parts = [f"# {title}", guide["purpose"], _notes(f"On the board: {drawn}")]
    rates, asked = held(number), {stop["at"]: stop["ask"] for stop in guide["stop"]}
    pictures = 0
    for section in shown(notebook):
        parts += [f"# {section.heading}"]
        if section.heading in asked:
            parts += [_notes(f"Stop together, and ask: {asked[section.heading]}")]
        for kind, steps in groupby(section.steps, type):
            if kind is str:
                parts += _findings(section.heading, list(steps), rates)
                continue
            for step in steps:
                if isinstance(step, Question):
                    parts += [
                        f"## Before you look: {section.heading}",
                        step.text,
                        *(f"- {c}" for c in step.choices),
                    ]
                    continue
                pictures += 1
                name = f"{number}-{pictures:02d}.png"
                (folder / name).write_bytes(step.content)
                parts += [f"## What came out: {section.heading}"]
                parts += [f"```{{image}} {name}\n:alt: {step.text}\n```", _notes(step.text)]
    parts += [*_last(notebook), "# To read", guide["papers"]]
    return "\n\n".join(parts) + "\n"


def _findings(heading: str, sentences: list[str], rates: dict[str, str]) -> Iterator[str]:
    """Slides of findings, each with how often it held."""
    for start in range(0, len(sentences), MOST):
        yield f"## In our runs: {heading}"
        for sentence in sentences[start : start + MOST]:
            rate = f" ({rates[sentence]} runs)" if sentence in rates else ""
            yield f"- {sentence}{rate}"


def _last(notebook: nbformat.NotebookNode) -> list[str]:
    """The recap without the ways back and on, and without the references."""
    recap = next(c.source for c in reversed(notebook.cells) if "## Recap" in c.source)
    kept = recap.split("## Recap")[1].split("**Back:**")[0].split("**References")[0]
    return ["# To take home", kept.strip()]


def _notes(text: str) -> str:
    """What only the lecturer sees."""
    return f"```{{revealjs-notes}}\n{text}\n```"


def write(folder: Path) -> None:
    """Write the slides of every lab, their pictures, and a list of them."""
    folder.mkdir(parents=True, exist_ok=True)
    guides = tomllib.loads((ROOT / "docs" / "teaching" / "labs.toml").read_text(encoding="utf-8"))
    for number, guide in guides.items():
        notebook = nbformat.read(next((ROOT / "solutions").glob(f"{number}_*.ipynb")), 4)
        text = slides(number, notebook, guide, folder)
        (folder / f"{number}.md").write_text(text, encoding="utf-8")
    entries = "\n".join(guides)
    index = (
        "# compresslab\n\nSlides of the labs. Arrows lead on, **S** opens the lecturer's view, **F** fills "
        f"the screen.\n\n```{{toctree}}\n{entries}\n```\n"
    )
    (folder / "index.md").write_text(index, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
