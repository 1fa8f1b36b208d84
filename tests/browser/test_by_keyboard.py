"""An exercise without a mouse: written, checked, mended and passed; a folded text is opened and closed."""

import nbformat
import pytest

from tests.browser.test_in_a_browser import NOTEBOOK, SHOTS, opened

CELLS = (
    ("code", "from compresslab.classroom import check"),
    (
        "markdown",
        "<details><summary>show a slow version</summary>\n\nOne after the other.\n\n</details>",
    ),
    ("code", "def parameter_bytes(parameters, bits):\n    raise NotImplementedError"),
    ("code", 'check(parameter_bytes, "measuring.parameter_bytes")'),
)
WRONG = "def parameter_bytes(parameters, bits):\n    return parameters * bits"
RIGHT = "def parameter_bytes(parameters, bits):\n    return (parameters * bits + 7) // 8"


@pytest.fixture
def notebook(course):
    cells = [getattr(nbformat.v4, f"new_{kind}_cell")(source) for kind, source in CELLS]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    name = "by_keyboard.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), course / "labs" / name)
    return name


@pytest.fixture
def keys(notebook, jupyter, page):
    """The keyboard of a page whose first cell is chosen; the mouse is never touched."""
    opened(page, jupyter, notebook)
    page.wait_for_selector(f"{NOTEBOOK} .jp-Cell.jp-mod-selected")
    page.wait_for_function(
        "() => document.activeElement.closest('.jp-NotebookPanel:not(.lm-mod-hidden)')"
    )
    page.keyboard.press("Escape")
    return page.keyboard


def written(page, keys, source):
    """Other text in the chosen cell, which is run; the next cell is chosen."""
    keys.press("Enter")
    keys.press("Control+a")
    keys.insert_text(source)
    keys.press("Shift+Enter")


def verdict(page, sign):
    box = page.locator(f"{NOTEBOOK} .jp-OutputArea-output", has_text=sign)
    box.wait_for()
    return box.inner_text()


def test_an_exercise_is_done_by_keyboard(page, keys):
    keys.press("Shift+Enter")
    keys.press("ArrowDown")
    for source, sign in ((None, "○"), (WRONG, "✘"), (RIGHT, "✔")):
        if source is None:
            keys.press("Shift+Enter")
        else:
            written(page, keys, source)
        keys.press("Control+Enter")  # the check, which stays chosen
        verdict(page, sign)
        keys.press("ArrowUp")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / "by_keyboard.png")


def test_a_folded_text_is_opened_and_closed_by_keyboard(page, keys):
    details = page.locator(f"{NOTEBOOK} details")
    assert details.get_attribute("open") is None
    for _ in range(40):  # along everything that takes the focus
        keys.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    keys.press("Enter")
    page.wait_for_selector(f"{NOTEBOOK} details[open]")
    keys.press("Enter")
    page.wait_for_selector(f"{NOTEBOOK} details:not([open])")
