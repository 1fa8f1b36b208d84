"""A question in JupyterLab: asked for before its experiment, locked in by a key, there when reopened."""

import json
import time

import nbformat
import pytest

from tests.browser.test_in_a_browser import NOTEBOOK, SHOTS, opened, run_all, run_cell

CELLS = (
    "from compresslab.classroom import predict",
    "guess = predict('How many bits has a byte?', ['seven', 'eight', 'nine'])",
    "print('measured: 8')\nguess.reveal('eight')",
    "print('the end')",
)


@pytest.fixture
def notebook(course):
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    name = "predicting.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), course / "labs" / name)
    yield name
    progress = course / "progress.json"
    if progress.is_file():
        stored = json.loads(progress.read_text(encoding="utf-8"))
        stored.pop("predictions", None)
        progress.write_text(json.dumps(stored), encoding="utf-8")


def shown(page):
    return page.inner_text(f"{NOTEBOOK} .jp-Notebook")


def test_a_prediction_is_asked_for_locked_in_and_kept(notebook, course, jupyter, page):
    opened(page, jupyter, notebook)
    run_cell(page, 0)
    run_cell(page, 1)
    time.sleep(2)
    asked = run_cell(page, 2)
    assert "Predict first: How many bits has a byte?" in asked
    assert "measured" not in asked
    # By keyboard: into the choices, on to the second, on to the button.
    page.locator(f"{NOTEBOOK} input[type=radio]").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.wait_for_selector(f"{NOTEBOOK} button:enabled:has-text('Lock in')")
    page.locator(f"{NOTEBOOK} button:enabled:has-text('Lock in')").focus()
    page.keyboard.press("Space")
    page.wait_for_selector(f"{NOTEBOOK} >> text=Locked in: ")
    page.screenshot(path=SHOTS / "locked_in.png")
    chosen = json.loads((course / "progress.json").read_text(encoding="utf-8"))["predictions"]
    (choice,) = chosen.values()
    said = run_cell(page, 2)
    assert "measured: 8" in said
    assert ("as you predicted" if choice == "eight" else f"You predicted: {choice}") in said
    assert page.locator(f"{NOTEBOOK} input[type=radio]:enabled").count() == 0
    page.keyboard.press("Escape")
    page.keyboard.press("Control+s")
    time.sleep(1)
    opened(page, jupyter, notebook)
    page.wait_for_selector(f"{NOTEBOOK} >> text=Locked in: {choice}")
    assert "measured: 8" in shown(page)


def test_a_run_of_all_cells_asks_nobody(notebook, jupyter, page):
    opened(page, jupyter, notebook)
    run_all(page)
    assert "the end" in shown(page)
    assert "You made no prediction" in shown(page)
    assert "Predict first" not in shown(page)
