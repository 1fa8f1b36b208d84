"""Tables and fronts."""

import math

import matplotlib.pyplot as plt
import pytest

from compresslab.measure import Measurement, Timing
from compresslab.report import (
    Table,
    compared,
    in_bytes,
    in_units,
    mean_sd,
    pareto,
    pareto_front,
    table,
)


def row(name, disk, *accuracies):
    timing = {1: Timing(0.001, 0.0009, 0.0012, 5, 2)}
    return Measurement(name, 1000, 900, 4000, disk, 5000, 5_120_000, 1.5, timing, accuracies)


@pytest.mark.parametrize(
    "count,text",
    [(0, "0 B"), (999, "999 B"), (1536, "1.54 kB"), (999_900, "1 MB"), (3.5e11, "350 GB")],
)
def test_bytes_in_three_digits(count, text):
    assert in_bytes(count) == text


def test_units_have_no_trailing_blank():
    assert (in_units(12), in_units(110_000)) == ("12", "110 k")


def test_a_mean_without_spread_has_no_sd():
    assert (mean_sd(97.44, 0.12), mean_sd(97.44, math.nan), mean_sd(math.nan, 1)) == (
        "97.4 ± 0.1",
        "97.4",
        "-",
    )


def test_the_table_shows_every_measurement_in_text_and_html():
    made = table([row("a <b>", 2000, 90.0, 91.0), row("c", 3000)])
    assert "90.5 ± 0.7" in str(made)
    assert "2 thread(s)" in str(made)
    page = made._repr_html_()
    assert "a &lt;b&gt;" in page
    assert "<b>" not in page
    assert len({len(line) for line in str(made).splitlines()[:3]}) == 1, "columns line up"


def test_ragged_rows_are_refused():
    with pytest.raises(ValueError, match="rows must have 2 cells, got 1"):
        Table(["a", "b"], [["1"]])


def test_the_front_keeps_what_no_other_beats():
    points = [(1, 50), (2, 60), (3, 55), (2, 58), (4, 60), (5, 61), (1, 40)]
    front = pareto_front(points)

    def dominated(p):
        return any(q[0] <= p[0] and q[1] >= p[1] and q != p for q in points)

    assert sorted(points[i] for i in front) == sorted(p for p in points if not dominated(p))


def test_the_pareto_plot_names_every_network_and_its_axes():
    axes = pareto(
        [row("one", 2000, 90.0, 91.0), row("two", 4000, 95.0)], lambda m: m.bytes_disk, "bytes"
    )
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["one", "two"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("bytes", "test accuracy, %")
    plt.close(axes.figure)


def test_a_comparison_says_whether_the_bands_part():
    assert compared("A", (72.0, 0.5), "B", (71.0, 0.4)) == (
        "A 72.0 ± 0.5 %, B 71.0 ± 0.4 %: A is better than B by 1.0 points"
    )
    assert compared("A", (71.0, 0.1), "B", (72.0, 0.1)).endswith("B is better than A by 1.0 points")
    assert compared("A", (72.0, 0.6), "B", (71.0, 0.5)).endswith("no difference beyond the seeds")
    assert compared("A", (math.nan, 0.1), "B", (72.0, 0.1)).endswith("beyond the seeds")
