"""The two pages beside the labs: where to begin (labs/start.ipynb) and the glossary, made from the labs.

The start page is written in solutions/start.py; `{labs}` in it becomes the table of the labs. It is
executed with nobody's progress, so that whoever opens it sees the map. The glossary is one text, once as a
notebook for JupyterLab and once as docs/glossary.md for the web.
"""

import hashlib
import inspect
import os
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from compresslab.classroom import course, course_map, glossary
from compresslab.classroom.course import LabPage, labs_table, read_labs
from compresslab.classroom.opening import START
from compresslab.classroom.release import KERNEL, clean, client_of, stored_hash, write_if_new
from compresslab.language import ENGLISH

GLOSSARY = "glossary.ipynb"


def start_page(source: Path, labs: list[LabPage], language: str = ENGLISH) -> NotebookNode:
    """The start page without outputs, from its script and the labs, with their table in a language."""
    notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    for position, cell in enumerate(notebook.cells):
        cell.source = cell.source.replace("{labs}", labs_table(labs, language)).strip("\n")
        cell.id = f"start-{position + 1:02d}"
        cell.metadata = NotebookNode()
    # The picture depends on the code that draws it.
    drawn = [inspect.getsource(module) for module in (course, course_map)]
    text = "\n".join([*(cell.source for cell in notebook.cells), *drawn])
    digest = hashlib.sha256(text.encode()).hexdigest()
    return _notebook(notebook.cells, compresslab={"source_hash": digest})


def glossary_text(labs: list[LabPage], folder: str = "") -> str:
    """The glossary as Markdown; `folder` leads from the page to the labs."""
    table = glossary.markdown(glossary.read_terms(), labs, folder)
    start = f"[Start page]({folder}{START})"
    return f"# Glossary 术语表\n\nThe lab named is the one that explains the term. {start}\n\n{table}\n"


def _notebook(cells: list[NotebookNode], **metadata: object) -> NotebookNode:
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(KERNEL), **metadata)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def glossary_page(labs: list[LabPage]) -> NotebookNode:
    """The glossary as a notebook of one cell."""
    return glossary_notebook(glossary_text(labs))


def glossary_notebook(text: str) -> NotebookNode:
    """A text as the glossary's notebook."""
    return _notebook([nbformat.v4.new_markdown_cell(text.strip("\n"), id="glossary")])


def write_pages(solutions: Path, labs: Path, force: bool = False) -> list[Path]:
    """Write both pages anew where they changed; returns the files that did.

    Args:
        solutions: folder of start.py.
        labs: folder of the labs; the glossary also goes to docs/ beside it, if that is there.
        force: execute the start page even if nothing has changed.

    Raises:
        ValueError: for a lab without its form, or a term that no lab explains.
    """
    pages = read_labs(labs)
    changed = write_if_new(labs / GLOSSARY, nbformat.writes(glossary_page(pages)) + "\n")
    documents = labs.parent / "docs"
    if documents.is_dir():
        changed += write_if_new(documents / "glossary.md", glossary_text(pages, "../labs/"))
    start = start_page(solutions / "start.py", pages)
    if force or stored_hash(labs / START) != start.metadata.compresslab["source_hash"]:
        changed += write_if_new(labs / START, nbformat.writes(executed(start, labs)) + "\n")
    return changed


def executed(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """A page run in a folder, with nobody's progress."""
    client = client_of(notebook, folder)
    with tempfile.TemporaryDirectory() as scratch:
        nobodys = str(Path(scratch) / "progress.json")
        client.execute(env={**os.environ, "COMPRESSLAB_PROGRESS": nobodys})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            clean(cell)
    metadata = notebook.metadata
    return _notebook(notebook.cells, compresslab=metadata["compresslab"])
