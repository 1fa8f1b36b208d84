"""Every lab in a real JupyterLab: it opens, runs undone without an error, and its widgets draw anew.

The short version takes the start page and two labs; COMPRESSLAB_BROWSER=all (`make browser`) takes all.
Screenshots are left in COMPRESSLAB_SCREENSHOTS, else in .pytest_cache/screenshots: to be looked at.
"""

import os
import re
import time
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
LABS = sorted(p.stem for p in (ROOT / "labs").glob("[0-9][0-9]_*.ipynb"))
CHOSEN = LABS if os.environ.get("COMPRESSLAB_BROWSER") == "all" else LABS[:2]
SHOTS = Path(os.environ.get("COMPRESSLAB_SCREENSHOTS", ROOT / ".pytest_cache" / "screenshots"))
RUN_SECONDS, BEGIN_SECONDS = 900, 300
# In the place of a folded cell stands a prompt that never gets a number.
WAITING = """() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt:not(.jp-Placeholder-prompt)')]
    .filter(p => !/\\[\\d+\\]/.test(p.textContent)).length"""
PICTURE = """e => [...e.querySelectorAll('img')].map(i => i.src).join()"""
# JupyterLab keeps notebooks of other tabs in the page: only the visible one counts.
NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden)"
IDLE = f"{NOTEBOOK} .jp-Notebook-ExecutionIndicator[data-status=idle]"


def opened(page, jupyter, name):
    port, token = jupyter
    page.goto(f"http://127.0.0.1:{port}/lab/tree/{name}?reset&token={token}")
    page.wait_for_selector(f"{NOTEBOOK} .jp-Cell")
    # The status bar tells a kernel that is connected from none; the notebook's own sign does not.
    page.wait_for_function("() => document.body.innerText.includes(') | Idle')")


def run_all(page):
    cells = page.evaluate(WAITING)
    page.click("text=Run >> nth=0")
    page.click("text=Run All Cells >> nth=0")
    end, begun = time.monotonic() + RUN_SECONDS, time.monotonic() + BEGIN_SECONDS
    while waiting := page.evaluate(WAITING):
        assert waiting < cells or time.monotonic() < begun, "no cell has begun"
        assert time.monotonic() < end, f"cells still wait after {RUN_SECONDS} seconds"
        time.sleep(0.5)
    page.wait_for_selector(IDLE)


def saved(page, path):
    """The notebook as JupyterLab writes it."""
    before = path.stat().st_mtime_ns
    page.keyboard.press("Escape")
    page.click("text=File >> nth=0")
    page.click("text=/^Save Notebook$/ >> nth=0")
    for _ in range(200):
        time.sleep(0.1)
        if path.stat().st_mtime_ns == before:
            continue
        try:
            return nbformat.read(path, as_version=4)
        except nbformat.reader.NotJSONError:
            continue  # seen while it was being written
    pytest.fail(f"{path.name} was not saved")


def shoot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    for old in SHOTS.glob(f"{name}_*.png"):
        old.unlink()
    area = page.query_selector(f"{NOTEBOOK} .jp-WindowedPanel-outer")
    for number in range(80):
        area.evaluate("(e, y) => { e.scrollTop = y }", 880 * number)
        time.sleep(0.15)
        page.screenshot(path=SHOTS / f"{name}_{number:02d}.png")
        if area.evaluate("e => e.scrollTop + e.clientHeight >= e.scrollHeight - 2"):
            return


def move(control):
    """Another value: some steps of a slider, another entry of a menu."""
    menu = control.locator("select")
    if menu.count():
        count = menu.evaluate("e => e.options.length")
        menu.select_option(index=(menu.evaluate("e => e.selectedIndex") + 1) % count)
        return
    handle = control.locator(".noUi-handle")
    at_the_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
    # Several steps, since one may change nothing that can be seen.
    for _ in range(3):
        handle.press("ArrowLeft" if at_the_end else "ArrowRight")


def other_picture(widget, before):
    """The picture under a widget's controls, once it is another than `before`; "" if it never is."""
    for _ in range(300):
        picture = widget.evaluate(PICTURE)
        if picture and picture != before:
            return picture
        time.sleep(0.1)
    return ""


@pytest.mark.parametrize("lab", CHOSEN)
def test_a_lab_runs_undone_and_its_widgets_draw_anew(lab, course, jupyter, page):
    opened(page, jupyter, f"{lab}.ipynb")
    run_all(page)
    # Locators look again each time: JupyterLab may put other elements in the place of those it had.
    widgets = page.locator(f"{NOTEBOOK} .widget-interact")
    cells = nbformat.read(course / "labs" / f"{lab}.ipynb", as_version=4).cells
    source = "\n".join(c.source for c in cells if c.cell_type == "code")
    expected = len(re.findall(r"^explore\(", source, re.MULTILINE))
    for _ in range(100):  # widgets come after the kernel is idle
        if widgets.count() == expected:
            break
        time.sleep(0.1)
    assert widgets.count() == expected
    for widget in widgets.all():
        widget.scroll_into_view_if_needed()
        controls = widget.locator(".widget-inline-hbox").filter(visible=True)
        assert controls.count()
        for control in controls.all():
            before = other_picture(widget, "")
            assert before
            move(control)
            assert other_picture(widget, before), control.inner_text()
        page.screenshot(path=SHOTS / f"{lab}_widget.png")
    shoot(page, lab)
    notebook = saved(page, course / "labs" / f"{lab}.ipynb")
    errors = [
        (position, output.ename, output.evalue)
        for position, cell in enumerate(notebook.cells)
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "error"
    ]
    assert not errors
    shown = [o.get("data", {}) for c in notebook.cells for o in c.get("outputs", ())]
    assert any("<img alt=" in data.get("text/html", "") for data in shown)
    assert not any("image/png" in data for data in shown)  # it would have no alternative text
    assert not page.locator(f"{NOTEBOOK} .jp-OutputArea-output img:not([alt])").count()
    assert_it_looks_the_same_without_its_kernel(page, jupyter, lab, expected)


def without_kernels(page, jupyter):
    """Leave the notebook, and end every kernel."""
    port, token = jupyter
    page.goto("about:blank")
    api = f"http://127.0.0.1:{port}/api/sessions"
    for session in page.request.get(f"{api}?token={token}").json():
        page.request.delete(f"{api}/{session['id']}?token={token}")


def assert_it_looks_the_same_without_its_kernel(page, jupyter, lab, widgets):
    """Closed, its kernel ended, and opened again: pictures and sliders are there, and no error."""
    without_kernels(page, jupyter)
    opened(page, jupyter, f"{lab}.ipynb")
    interactive = page.locator(f"{NOTEBOOK} .widget-interact")
    for _ in range(100):
        if interactive.count() == widgets:
            break
        time.sleep(0.1)
    shoot(page, f"{lab}_again")
    text = page.inner_text(f"{NOTEBOOK} .jp-Notebook")
    assert "model not found" not in text
    assert "Loading widget" not in text
    assert interactive.count() == widgets
    assert all(other_picture(widget, "") for widget in interactive.all())


def test_the_course_opens_on_its_map_and_leads_into_the_first_lab(course, jupyter, page):
    port, token = jupyter
    page.goto(f"http://127.0.0.1:{port}/?token={token}")
    page.wait_for_selector(f"{NOTEBOOK} .jp-OutputArea-output svg line", state="attached")
    page.locator(f"{NOTEBOOK} .jp-Notebook", has_text="Next: lab 00").wait_for()
    shoot(page, "start")
    for lab in LABS:
        boxes = page.query_selector_all(f'{NOTEBOOK} .jp-OutputArea-output a[href*="{lab}.ipynb"]')
        assert len(boxes) == 1, lab
    # Nobody has touched the page, so nobody is asked to save it.
    page.wait_for_selector(IDLE)
    time.sleep(1)
    assert page.locator(".lm-DockPanel-tabBar .lm-mod-current.jp-mod-dirty").count() == 0
    page.click(f'{NOTEBOOK} a[href*="{LABS[0]}.ipynb"] >> nth=0')
    page.wait_for_selector(f"{NOTEBOOK} h1:has-text('Lab 00')")


def run_cell(page, index, source=None):
    """Run one cell, with other text in it if there is any; gives what it shows."""
    cell = page.query_selector_all(f"{NOTEBOOK} .jp-Cell")[index]
    cell.scroll_into_view_if_needed()
    folded = cell.query_selector(".jp-Placeholder-prompt")
    (folded or cell.query_selector(".cm-content")).click()
    if source is not None:
        page.keyboard.press("Control+a")
        page.keyboard.insert_text(source)
    page.keyboard.press("Control+Enter")
    time.sleep(0.5)  # its number may be the one that it had before
    for _ in range(3000):
        prompt = "".join(p.inner_text() for p in cell.query_selector_all(".jp-InputPrompt"))
        if any(c.isdigit() for c in prompt):
            page.wait_for_selector(IDLE)
            return cell.query_selector(".jp-Cell-outputWrapper").inner_text()
        time.sleep(0.1)
    pytest.fail(f"cell {index} did not finish")


def test_a_learner_is_told_the_mistake_and_the_map_remembers(course, jupyter, page):
    cells = nbformat.read(ROOT / "labs" / f"{LABS[0]}.ipynb", as_version=4).cells
    setup = next(i for i, c in enumerate(cells) if c.cell_type == "code")
    answer = next(i for i, c in enumerate(cells) if "def parameter_bytes(" in c.source)
    opened(page, jupyter, f"{LABS[0]}.ipynb")
    run_cell(page, setup)
    verdicts = {}
    for body in ("parameters * bits", "(parameters * bits + 7) // 8"):
        run_cell(page, answer, f"def parameter_bytes(parameters, bits):\n    return {body}")
        verdicts[body] = run_cell(page, answer + 1)
        page.screenshot(path=SHOTS / f"check_{len(verdicts)}.png")
    wrong, right = verdicts.values()
    assert "✔" in right
    assert "✘" in wrong
    assert "hint" in wrong.lower() or "perhaps" in wrong.lower()
    opened(page, jupyter, "start.ipynb")
    assert "Go on with lab 00" not in page.inner_text(f"{NOTEBOOK} .jp-Notebook")
    run_cell(page, next(i for i, c in enumerate(_start()) if c.cell_type == "code"))
    page.locator(f"{NOTEBOOK} .jp-Notebook", has_text="Go on with lab 00").wait_for()


def test_a_mistake_that_nobody_listed_is_named_and_still_stands_there_when_opened_again(
    course, jupyter, page
):
    lab = LABS[0]
    cells = nbformat.read(ROOT / "labs" / f"{lab}.ipynb", as_version=4).cells
    answer = next(i for i, c in enumerate(cells) if "def parameter_bytes(" in c.source)
    opened(page, jupyter, f"{lab}.ipynb")
    run_cell(page, next(i for i, c in enumerate(cells) if c.cell_type == "code"))
    # Another name, another order: it is known by its results alone.
    source = (
        "def parameter_bytes(parameters, bits):\n"
        "    spare = 7\n"
        "    return -(spare - parameters * bits) // 8"
    )
    run_cell(page, answer, source)
    told = run_cell(page, answer + 1)
    said = "a version with - where + belongs"
    assert said in told
    page.screenshot(path=SHOTS / "hint_by_rule.png")
    saved(page, course / "labs" / f"{lab}.ipynb")
    without_kernels(page, jupyter)
    opened(page, jupyter, f"{lab}.ipynb")
    page.locator(f"{NOTEBOOK} .jp-Notebook", has_text=said).wait_for()
    page.screenshot(path=SHOTS / "hint_by_rule_again.png")


def _start():
    return nbformat.read(ROOT / "labs" / "start.ipynb", as_version=4).cells
