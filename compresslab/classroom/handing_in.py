"""A lab as one HTML file: what was run, for somebody who has no Jupyter.

Widgets become their still pictures, folded code is left out, pictures lie in the file. Nothing is run: cells
that were not run have no output there either. To be graded, a lab is handed in as the notebook that it is.
"""

from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from compresslab.classroom.still import without_widgets
from compresslab.writing import write_whole


def write_html(path: Path, target: Path) -> Path:
    """Write a notebook as one HTML file.

    Args:
        path: the notebook, as it was saved.
        target: the file; a folder gets one of the notebook's name.

    Returns:
        The file that was written.

    Raises:
        ValueError: if that is no notebook.
        OSError: if it is not there, or nothing can be written.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is no notebook: {error}") from error
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = without_widgets(cell.outputs)
            if cell.metadata.get("jupyter", {}).get("source_hidden"):
                cell.metadata["transient"] = {"remove_source": True}
    notebook.metadata.pop("widgets", None)
    page, _ = HTMLExporter(embed_images=True).from_notebook_node(
        notebook, {"metadata": {"name": path.stem, "path": str(path.parent)}}
    )
    target = target / f"{path.stem}.html" if target.is_dir() else target
    write_whole(target, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return target
