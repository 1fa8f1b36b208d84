"""A figure in words: its numbers are those drawn, and every notebook's pictures carry them."""

import html
import math
import os
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbclient import NotebookClient

from compresslab.alternative_text import LISTED, UNKNOWN, as_html, description

ROOT = Path(__file__).parents[1]


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_a_line_is_said_with_its_axes_and_points(axes):
    axes.plot([2, 3, 8], [31.25, 5, 0.1], label="min-max")
    axes.set(title="Error by bits", xlabel="bits a weight", ylabel="points lost", yscale="log")
    assert description(axes.figure).splitlines() == [
        'Plot "Error by bits".',
        "Across: bits a weight.",
        "Upwards: points lost (logarithmic).",
        'Line "min-max", 3 points: 2: 31.2; 3: 5; 8: 0.1.',
    ]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3 * LISTED))
def test_every_number_of_a_short_line_is_said_and_the_extremes_of_a_long_one(values):
    figure, axes = plt.subplots()
    axes.plot(values)
    said = {float(v) for v in re.findall(r": (-?[\d.]+(?:e[+-]\d+)?)(?=[;.])", description(figure))}
    plt.close(figure)
    wanted = values if len(values) <= LISTED else [values[0], values[-1], min(values), max(values)]
    assert said == {float(f"{v:.3g}") for v in wanted}


@pytest.mark.parametrize("draw", ["bar", "barh"])
def test_bars_are_said_by_their_names_in_either_direction(axes, draw):
    getattr(axes, draw)(["VGG-like", "ResNet-8"], [12.5, -3], label="int8")
    assert '2 bars "int8": VGG-like: 12.5; ResNet-8: -3.' in description(axes.figure)


def test_names_and_dates_on_an_axis_are_said(axes):
    axes.plot([700.0, 8.0], ["GPT-3", "phone"], "o")
    assert "Line, 2 points: 700: GPT-3; 8: phone." in description(axes.figure)
    other = axes.figure.add_subplot()
    other.plot(np.array(["2026-01-01", "2026-01-02"], "datetime64[D]"), [1, 2])
    assert "2 points" in description(other.figure)


def test_what_cannot_be_put_into_words_is_shown_all_the_same(axes, monkeypatch):
    monkeypatch.setattr("compresslab.alternative_text._of_axes", lambda axes: 1 / 0)
    assert f'alt="{UNKNOWN}" src="data:image/png;base64,' in as_html(axes.figure)


KINDS = {
    "boxplot": lambda a: a.boxplot([[1, 2, 3], [2, 3, 4]]),
    "contour": lambda a: a.contourf(np.eye(4)),
    "hexbin": lambda a: a.hexbin(np.arange(9.0), np.arange(9.0)),
    "masked": lambda a: a.plot(np.ma.masked_less(np.arange(5.0), 2)),
    "pie": lambda a: a.pie([1, 2]),
    "quiver": lambda a: a.quiver([0], [0], [1], [1]),
    "stem": lambda a: a.stem([1, 2, 3]),
    "table": lambda a: a.table([["1"]]),
    "twin": lambda a: a.twinx().plot([1, 2]),
    "violin": lambda a: a.violinplot([[1, 2, 3]]),
}


@pytest.mark.parametrize("draw", KINDS.values(), ids=KINDS)
def test_any_kind_of_plot_has_words(axes, draw):
    draw(axes)
    assert "plot" in description(axes.figure)


@pytest.mark.parametrize("projection", ["3d", "polar"])
def test_other_axes_have_words_too(projection):
    figure, axes = plt.subplots(subplot_kw={"projection": projection})
    axes.plot([0, 1, 2], [1, 2, 3])
    axes.scatter([0, 1], [1, 2])
    assert "points" in description(figure)
    plt.close(figure)


def test_error_bars_bounds_clouds_steps_areas_and_notes_are_said(axes):
    axes.errorbar([1, 2], [3, 4], [0.1, 0.2], label="five seeds")
    axes.axhline(0.5, label="half")
    axes.axvline(7)
    axes.scatter([1], [9], label="best")
    axes.stairs([4, 6], [0, 1, 2])
    axes.fill_between([0, 1], [0, 1], label="sd")
    axes.annotate("here", (1, 9))
    axes.hist([1, 1, 2], bins=[0.5, 1.5, 2.5], label="digits")
    said = description(axes.figure)
    for line in (
        'Line "five seeds", 2 points: 1: 3; 2: 4.',
        'A level line "half" at 0.5.',
        "An upright line at 7.",
        '1 separate points "best": 1: 9.',
        "Steps, 2 of them: 0.5: 4; 1.5: 6.",
        'An area "sd".',
        '2 bars "digits": 1: 2; 2: 1.',
        "Written in it: here.",
    ):
        assert line in said


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([0.5, 0.5, 0.5], "Error bars of ±0.5."),
        ([0.5, 2, 0], "Error bars of ±0.5 to ±2."),
        ([0.5, math.nan, 2], "Error bars of ±0.5 to ±2."),
        ([[0, 0, 1], [1, 3, 1]], "Error bars, 1 to 3 long."),
    ],
)
def test_error_bars_are_said_by_their_length_and_their_caps_not_at_all(axes, errors, said):
    axes.errorbar([1, 2, 3], [3, 4, 5], yerr=errors, capsize=3)
    text = description(axes.figure)
    assert said in text
    assert text.count("Line") == 1


@pytest.mark.parametrize("errors", [0, math.nan])
def test_error_bars_without_a_length_are_not_said(axes, errors):
    axes.errorbar([1, 2, 3], [3, math.nan, 5], yerr=errors, capsize=3)
    assert "Error bars" not in description(axes.figure)


def test_error_bars_alone_and_those_to_one_side_are_said_by_their_whole_length(axes):
    axes.errorbar([1, 2], [3, 4], yerr=[0.5, 1], fmt="none", label="seeds")
    axes.errorbar([1, 2], [3, 4], yerr=0.25, uplims=True)
    text = description(axes.figure)
    assert 'Error bars "seeds", 1 to 2 long.' in text
    assert "Error bars, 0.25 to 0.25 long." in text


def test_numbers_that_are_written_shorter_on_the_axis_are_said_in_full(axes):
    axes.plot([2.5, 7.5], [1, 2])
    axes.set_xticks([2.5, 7.5])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
    assert "2.5: 1; 7.5: 2." in description(axes.figure)


def test_each_direction_of_error_bars_is_said(axes):
    axes.errorbar([1, 2], [3, 4], yerr=0.5, xerr=[0.1, 0.3], fmt="o")
    assert "Error bars of ±0.1 to ±0.3. Error bars of ±0.5." in description(axes.figure)


@pytest.mark.parametrize("given", ["names", "ticks"])
def test_names_that_look_like_numbers_are_names(axes, given):
    names = ["1", "3", "5"]
    axes.bar(names if given == "names" else range(3), [92.4, 87, 45])
    if given == "ticks":
        axes.set_xticks(range(3), names)
    assert "3 bars: 1: 92.4; 3: 87; 5: 45." in description(axes.figure)


def test_many_upright_lines_are_said_once(axes):
    for place in range(9):
        axes.axvline(place)
    assert description(axes.figure).count("pright line") == 1
    assert "9 upright lines between 0 and 8." in description(axes.figure)


def test_pictures_and_their_colours_are_said(axes):
    shown = axes.imshow(np.arange(6.0).reshape(2, 3))
    axes.figure.colorbar(shown, label="weight")
    said = description(axes.figure)
    assert "A picture, 2 rows of 3 values between 0 and 5." in said
    assert said.endswith("Colours: weight.")


@pytest.mark.parametrize("values", [[], [np.nan] * 3, [np.nan] * 40, [1, np.inf, -np.inf] * 9])
def test_nothing_and_no_number_are_said_too(axes, values):
    axes.plot(values)
    axes.bar(range(len(values)), values)
    assert description(axes.figure).startswith("A plot.")


def test_a_figure_without_a_plot_is_called_empty():
    assert description(plt.figure()) == "An empty figure."


def test_words_cannot_leave_their_attribute(axes):
    axes.set_title('"><script>alert(1)</script>')
    shown = as_html(axes.figure)
    assert "<script" not in shown
    assert html.unescape(shown).count("<script>") == 1


def test_a_notebook_shows_a_figure_once_with_its_description():
    cells = [
        nbformat.v4.new_code_cell("from compresslab.report import use_style; use_style()"),
        nbformat.v4.new_code_cell(
            "import matplotlib.pyplot as plt; plt.plot([1, 2], [3, 4]); plt.title('T'); plt.show()"
        ),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    inherited = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    NotebookClient(notebook, kernel_name="python3").execute(env=inherited)
    (shown,) = notebook.cells[1].outputs
    assert "image/png" not in shown.data
    assert shown.data["text/html"].startswith('<img alt="Plot &quot;T&quot;.\nLine, 2 points: 1: 3')


@pytest.mark.parametrize("path", sorted((ROOT / "solutions").glob("*.ipynb")), ids=lambda p: p.stem)
def test_every_picture_of_an_executed_lab_has_its_words(path):
    notebook = nbformat.read(path, as_version=4)
    outputs = [o for c in notebook.cells for o in c.get("outputs", ())]
    assert not [o.evalue for o in outputs if o.output_type == "error"]
    shown = [o.get("data", {}) for o in outputs]
    assert not any("image/png" in data for data in shown)
    assert not any(
        "<Figure" in data.get("text/plain", "") and "text/html" not in data for data in shown
    )
    assert not any(UNKNOWN in data.get("text/html", "") for data in shown)
    pages = "".join(data.get("text/html", "") for data in shown)
    assert not re.findall(r"<img(?![^>]* alt=\"[^\"]{20,}\")", pages)
