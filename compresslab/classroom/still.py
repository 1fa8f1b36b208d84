"""A widget with a still picture of itself, for where no widget runs.

One output carries both: JupyterLab shows the widget, and an exported page, a site or a viewer the HTML that
stands in its place (`without_widgets`).
"""

from collections.abc import Callable

import ipywidgets
from IPython.display import display

from compresslab.notice import in_notebook

VIEW = "application/vnd.jupyter.widget-view+json"
"""The kind of output that shows a widget."""


def with_still(widget: ipywidgets.Widget, still: str) -> Callable[[str], None]:
    """Display a widget whose output also holds HTML that can be read without it.

    Returns:
        What puts other HTML in its place.
    """
    if not in_notebook():
        display(widget)
        return lambda _: None
    bundle = widget._repr_mimebundle_()
    handle = display({**bundle, "text/html": still}, raw=True, display_id=True)
    return lambda other: handle.update({**bundle, "text/html": other}, raw=True)


def without_widgets(outputs: list[dict]) -> list[dict]:
    """A cell's outputs with each widget replaced by its still picture; those without one are left out."""
    return [kept for output in outputs if (kept := _without_widget(output)) is not None]


def _without_widget(output: dict) -> dict | None:
    data = output.get("data", {})
    if VIEW not in data:
        return output
    if "text/html" not in data:
        return None
    # Of the class that they are of: a notebook's nodes give their items as attributes.
    return type(output)(
        {**output, "data": type(data)({k: v for k, v in data.items() if k != VIEW})}
    )
