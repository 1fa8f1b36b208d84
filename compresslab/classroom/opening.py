"""What is made ready before JupyterLab opens: a start page that knows the learner, and notebooks at rest.

JupyterLab writes into a notebook which kernel it runs on, as soon as it is open, and then asks whether to
save a page that nobody has touched. So that is written before. Nothing else of a learner's notebook changes;
a file that is no notebook, or may not be written, is left alone.
"""

import contextlib
from pathlib import Path

import nbformat
from ipykernel.ipkernel import IPythonKernel
from nbformat import NotebookNode
from nbformat.sign import NotebookNotary

from compresslab.classroom.course_map import CourseMap
from compresslab.writing import write_whole

START = "start.ipynb"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def make_ready(folder: Path) -> list[Path]:
    """Write the map into the start page, and the kernel into every notebook of a folder.

    Returns:
        The files that changed.
    """
    changed = []
    for path in sorted(folder.glob("*.ipynb")):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            notebook = nbformat.read(path, as_version=4)
            before = nbformat.writes(notebook)
            notebook.metadata.update(kernelspec=KERNEL, language_info=IPythonKernel.language_info)
            if path.name == START:
                _draw(notebook, folder)
            if nbformat.writes(notebook) != before:
                _write(notebook, path)
                changed.append(path)
    return changed


def _draw(notebook: NotebookNode, folder: Path) -> None:
    """Put the map as it is now where the page's cell would show it."""
    shown = CourseMap(folder)
    data = {"text/html": shown._repr_html_(), "text/plain": repr(shown)}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("display_data", data)]
            return


def _write(notebook: NotebookNode, path: Path) -> None:
    text = nbformat.writes(notebook) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    if path.name == START:  # what it shows is ours, and is shown as it is
        with contextlib.suppress(Exception):
            NotebookNotary().sign(notebook)
