"""Sliders draw again when they move, and leave a still picture behind."""

import matplotlib.pyplot as plt
import nbformat
import pytest

from compresslab.classroom import still
from compresslab.classroom.release import client_of
from compresslab.classroom.widgets import explore

CELL = """
import matplotlib.pyplot as plt
from compresslab import alternative_text
from compresslab.classroom import explore
alternative_text.carry()

def draw(bits):
    figure, axes = plt.subplots()
    axes.plot(range(bits), label="codes")
    axes.set_title("Codes")
    SHOW

explore(draw, bits=(1, 8))
"""


def test_moving_a_control_draws_again_with_its_value(monkeypatch):
    drawn, shown = [], []
    monkeypatch.setattr("compresslab.classroom.still.display", shown.append)
    explore(lambda bits, method: drawn.append((bits, method)), bits=(1, 8), method=["a", "b"])
    slider, menu = shown[0].children[:2]
    shown[0].update()
    slider.value = 3
    menu.value = "b"
    assert (3, "a") in drawn
    assert drawn[-1] == (3, "b")
    plt.close("all")


@pytest.fixture(scope="module", params=["pass", "plt.show()"])
def explored(tmp_path_factory, request):
    """A notebook with one figure under a slider, which may show itself, run by a kernel."""
    source = CELL.replace("SHOW", request.param)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    client_of(notebook, tmp_path_factory.mktemp("explored")).execute()
    return notebook.cells[0].outputs


def test_a_slider_carries_a_still_picture_of_its_figure(explored):
    (output,) = [o for o in explored if still.VIEW in o.get("data", {})]
    page = output.data["text/html"]
    assert page.count("<img") == 1
    assert "Codes" in page.split('alt="')[1].split('"')[0]
    assert "bits = 4" in page  # the middle of 1 to 8, where ipywidgets begins


def test_where_no_widget_runs_the_picture_stands_in_its_place(explored):
    kept = still.without_widgets(explored)
    assert [o.data["text/html"].count("<img") for o in kept if "data" in o] == [1]
    assert all(still.VIEW not in o.get("data", {}) for o in kept)


def test_a_widget_without_a_picture_is_left_out():
    bare = nbformat.v4.new_output("display_data", {still.VIEW: {"model_id": "x"}})
    words = nbformat.v4.new_output("stream", text="hello")
    assert still.without_widgets([bare, words]) == [words]
