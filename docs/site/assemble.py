"""Gather what the site is made of into one folder: executed labs, pages, the reference, a table of contents.

    python docs/site/assemble.py FOLDER [--answers]

Labs are the executed solutions. Answers are left out (the cell stands there as it is handed out) unless
`--answers` asks for the instructor's build, where they are folded, and which has the rubrics and the test's
answers besides. Widgets need a kernel: their still pictures stay, they themselves are left out. Links between
pages are made to fit the folder.
"""

import argparse
import copy
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
OWN = Path(__file__).parent
sys.path.insert(0, str(OWN))

sys.path.insert(0, str(ROOT))

import chinese  # noqa: E402
import for_instructors  # noqa: E402
import reference  # noqa: E402

from compresslab.classroom.course import read_labs  # noqa: E402
from compresslab.classroom.glossary import Term, explained_in, read_terms  # noqa: E402
from compresslab.classroom.still import without_widgets  # noqa: E402

PAGES = (
    "architectures",
    "articles",
    "benchmarks",
    "classroom",
    "cluster",
    "findings",
    "glossary",
    "hints",
    "instructor",
    "longer",
    "own",
    "results",
    "times",
)
TEACHING = ("syllabus", "labs", "test")
"""Pages of docs/teaching, which stand beside the others as teaching_NAME."""
CHINESE_GLOSSARY = "glossary.ipynb"


def lab(solution: NotebookNode, handed_out: NotebookNode, answers: bool) -> NotebookNode:
    """An executed lab for reading.

    Args:
        solution: as it was executed.
        handed_out: the lab with its empty answers.
        answers: whether answers stay, folded.
    """
    empty = {_grade_id(c): c.source for c in handed_out.cells if _grade_id(c)}
    found = copy.deepcopy(solution)
    for cell in found.cells:
        if cell.cell_type != "code":
            continue
        tags = [t for t in cell.metadata.get("tags", []) if t]
        is_answer = "BEGIN SOLUTION" in cell.source
        if is_answer and answers:
            cell.source = re.sub(r" *### (BEGIN|END) SOLUTION\n?", "", cell.source)
            tags.append("hide-input")
        elif is_answer:
            cell.source = empty[_grade_id(cell)]
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            tags.append("hide-input")
        cell.metadata["tags"] = sorted(set(tags))
        cell.outputs = without_widgets(cell.outputs)
    found.metadata.pop("widgets", None)
    return found


def _grade_id(cell: NotebookNode) -> str:
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def page(text: str, labs: str = "labs") -> str:
    """A Markdown page with its links fitted: what is a page here leads there, other files are named alone.

    Args:
        text: as it stands in the repository.
        labs: the folder of the labs that it speaks of.
    """

    def fitted(match: re.Match) -> str:
        label, target = match[1], match[2]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        name = Path(path).name
        if match[0].startswith("!"):
            return f"![{label}](images/{name})"
        places = {f"{p}.md": f"{p}.md" for p in PAGES}
        places |= {f"{p}.md": f"teaching_{p}.md" for p in TEACHING}
        places |= {f"{p}.md": f"{p.lower()}.md" for p in ("README", "README.zh", "CONTRIBUTING")}
        places |= {p.name: f"{labs}/{p.name}" for p in (ROOT / "solutions").glob("[0-9]*.ipynb")}
        if name in places:
            return f"[{label}]({places[name]}{'#' + anchor if anchor and name.endswith('.md') else ''})"
        return label if label.startswith("`") else f"{label} (`{path}`)"

    return re.sub(r"!?\[([^\]]*)\]\(([^)\s]+)\)", fitted, text)


def elsewhere(repository: str) -> str:
    """How to work through the labs without installing anything, where the repository is known; else ""."""
    host, _, path = repository.removeprefix("https://").rstrip("/").partition("/")
    if host != "github.com" or path.count("/") != 1:
        return ""
    return (
        f"Without installing: a [machine of your own in the browser](https://codespaces.new/{path}) with "
        "everything in it (`make lab` starts JupyterLab). In Colab, run "
        f"`%pip install git+{repository}` in a first cell.\n"
    )


def _linked(notebook: NotebookNode, glossary: str) -> NotebookNode:
    """The notebook itself, whose links to the course's start page and glossary lead to the site's."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("](glossary.ipynb", f"]({glossary}")
            cell.source = cell.source.replace("](start.ipynb", "](../index.md")
    return notebook


def anchor(term: Term) -> str:
    """The place of a term in the glossary."""
    return f"term-{re.sub(r'[^a-z0-9]+', '-', term.english.lower()).strip('-')}"


def with_terms(notebook: NotebookNode, terms: list[Term]) -> None:
    """Link each term's Chinese name, which stands beside its first use, to its line in the glossary.

    Args:
        notebook: a lab, which is changed.
        terms: those that it explains.
    """
    left = {t.chinese: t for t in sorted(terms, key=lambda t: -len(t.chinese))}
    for cell in notebook.cells:
        if cell.cell_type != "markdown" or not left:
            continue
        lines, fenced = cell.source.split("\n"), False
        for place, line in enumerate(lines):
            fenced ^= line.lstrip().startswith("```")
            if fenced or line.startswith("#") or "`" in line:
                continue
            found = [name for name in left if name in line]
            for name in found:
                if name in re.sub(r"<a .*?</a>", "", lines[place]):  # not inside of a longer one
                    link = f'<a href="../glossary.html#{anchor(left[name])}">{name}</a>'
                    lines[place] = lines[place].replace(name, link, 1)
                    del left[name]
        cell.source = "\n".join(lines)


def with_anchors(text: str, terms: list[Term]) -> str:
    """The glossary, whose lines can be linked to."""
    for term in terms:
        here = f"| {term.english} | "
        if text.count(here) != 1:
            raise ValueError(f"the glossary must have one line that begins with {here!r}")
        text = text.replace(here, f'| <a id="{anchor(term)}"></a>{term.english} | ')
    return text


def assemble(folder: Path, answers: bool) -> None:
    """Everything into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    for place in ("labs", "labs-zh"):
        (folder / place).mkdir(parents=True)
    names = sorted(p.stem for p in (ROOT / "solutions").glob("[0-9]*.ipynb"))
    terms, pages = read_terms(), read_labs(ROOT / "labs")
    explained = {t.english: explained_in(t, pages).file for t in terms}
    for name in names:
        both = (nbformat.read(ROOT / place / f"{name}.ipynb", 4) for place in ("solutions", "labs"))
        made = lab(*both, answers)
        edition = _linked(chinese.in_chinese(made, name), CHINESE_GLOSSARY)
        nbformat.write(edition, folder / "labs-zh" / f"{name}.ipynb")
        with_terms(made, [t for t in terms if explained[t.english] == f"{name}.ipynb"])
        nbformat.write(_linked(made, "../glossary.md"), folder / "labs" / f"{name}.ipynb")
    glossary = nbformat.read(ROOT / "labs-zh" / CHINESE_GLOSSARY, 4)
    nbformat.write(_linked(glossary, CHINESE_GLOSSARY), folder / "labs-zh" / CHINESE_GLOSSARY)
    in_its_words = (ROOT / "README.zh.md").read_text(encoding="utf-8")
    (folder / "readme.zh.md").write_text(page(in_its_words, "labs-zh"), encoding="utf-8")
    for name in PAGES:
        text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        text = with_anchors(text, terms) if name == "glossary" else text
        (folder / f"{name}.md").write_text(page(text), encoding="utf-8")
    for name in TEACHING:
        text = (ROOT / "docs" / "teaching" / f"{name}.md").read_text(encoding="utf-8")
        (folder / f"teaching_{name}.md").write_text(page(text), encoding="utf-8")
    for name in ("README", "CONTRIBUTING"):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
        (folder / f"{name.lower()}.md").write_text(page(text), encoding="utf-8")
    reference.write(ROOT / "compresslab", folder)
    contents = (OWN / "index.md").read_text(encoding="utf-8")
    for word, place in (("CHINESE", "labs-zh"), ("LABS", "labs")):
        contents = contents.replace(word, "\n".join(f"{place}/{name}" for name in names))
    contents = contents.replace(
        "ELSEWHERE", elsewhere(os.environ.get("COMPRESSLAB_REPOSITORY", ""))
    )
    (folder / "index.md").write_text(contents, encoding="utf-8")
    if answers:
        for_instructors.write(ROOT, folder)
    shutil.copytree(ROOT / "docs" / "images", folder / "images")
    (folder / "_static").mkdir()
    shutil.copy(OWN / "compresslab.css", folder / "_static")
    shutil.copy(OWN / "conf.py", folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--answers", action="store_true", help="the instructor's build")
    options = parser.parse_args()
    assemble(options.folder, options.answers)
