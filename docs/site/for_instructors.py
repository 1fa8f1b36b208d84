"""What only the instructor's build of the site holds besides the labs' answers: rubrics, the test's answers.

    solutions/written.toml  +  the labs' questions  ->  written.md
    solutions/test_answers.md                       ->  test_answers.md

Text is the author's own, from this repository: it is put into the pages as it stands.
"""

from pathlib import Path

from compresslab.classroom.grading.written import Rubric, questions, read_rubrics

PAGES = ("written", "test_answers")
CAPTION = "For the instructor alone"


def write(root: Path, folder: Path) -> None:
    """Both pages into the site's folder, and their entry in its table of contents.

    Args:
        root: the repository.
        folder: of the site, whose index.md is there.
    """
    (folder / "written.md").write_text(written(root), encoding="utf-8")
    answers = (root / "solutions" / "test_answers.md").read_text(encoding="utf-8")
    (folder / "test_answers.md").write_text(answers, encoding="utf-8")
    index = folder / "index.md"
    entry = ["", "```{toctree}", f":caption: {CAPTION}", ":maxdepth: 1", "", *PAGES, "```", ""]
    index.write_text(index.read_text(encoding="utf-8") + "\n".join(entry), encoding="utf-8")


def written(root: Path) -> str:
    """The page of the written questions, lab by lab.

    Raises:
        KeyError: if a question has no rubric.
    """
    rubrics = read_rubrics(root / "solutions" / "written.toml")
    parts = ["# Written questions", "", "Not for learners: rubrics, model answers and samples.", ""]
    for lab in sorted((root / "labs").glob("[0-9]*.ipynb")):
        for id, (question, points) in questions(lab).items():
            parts += [
                f"## Lab {lab.stem[:2]}: {id.removeprefix('written-')} ({points:g} points)",
                "",
            ]
            parts += [_quoted(question), "", *_guide(rubrics[id])]
    return "\n".join(parts)


def _guide(rubric: Rubric) -> list[str]:
    return [
        *("### Rubric: a quarter of the points each", ""),
        *(f"1. {line}" for line in rubric.rubric),
        *("", "### A model answer", "", _quoted(rubric.model), "", "### Samples", ""),
        *(f"- **{points:g} points**: {text}" for points, text in rubric.samples),
        *("", "### To ask", "", *(f"- {line}" for line in rubric.oral), ""),
    ]


def _quoted(text: str) -> str:
    """As a quotation, whose headings are lines of it and not of the page."""
    return "\n".join(
        f"> {line.lstrip('#').strip() if line.startswith('#') else line}"
        for line in text.split("\n")
    )
