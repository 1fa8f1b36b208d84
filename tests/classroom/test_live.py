"""Figures without a kernel: what they carry, what they refuse, that nothing leaves its place."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compresslab.classroom.live import (
    MOST,
    Live,
    best_of,
    click_bits,
    click_codes,
    click_columns,
    click_signs,
    decibels,
    drag_grid,
)
from compresslab.classroom.live.budget import plans_of, spend_bytes
from compresslab.classroom.live.words import (
    BitWords,
    BudgetWords,
    CodeWords,
    ColumnWords,
    GridWords,
    SignWords,
    spoken,
)
from compresslab.numerics.grid import IntGrid


def test_the_still_picture_stands_first_with_its_words():
    page = drag_grid(torch.randn(3, 5))._repr_html_()
    assert page.index("<img alt=") < page.index("<svg") < page.index("<script")
    assert "Across: value of a weight." in repr(drag_grid(torch.randn(9)))


def test_two_figures_of_a_notebook_have_names_of_their_own():
    names = {re.search('id="(live-[0-9a-f]+)"', drag_grid(torch.randn(9)).page)[1] for _ in "ab"}
    assert len(names) == 2


def test_a_large_layer_is_drawn_by_some_of_its_weights():
    page = drag_grid(torch.randn(64, 1000)).page
    values = re.search(r'"values": \[([^\]]*)\]', page)[1].split(",")
    assert len(values) == MOST


@pytest.mark.parametrize(
    "weights", [torch.empty(0), torch.zeros(4), torch.tensor([1.0, np.nan]), np.array([np.inf])]
)
def test_weights_without_a_range_are_refused(weights):
    with pytest.raises(ValueError, match="weights must be finite numbers, at least one"):
        drag_grid(weights)


@pytest.mark.parametrize("bits", [1, 9, 2.5, "3"])
def test_other_bits_are_refused(bits):
    with pytest.raises(ValueError, match=r"bits must be 2 to 8, got"):
        drag_grid(torch.randn(4), bits=bits)


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_the_range_to_beat_is_that_of_a_search_with_torch(bits):
    x = torch.randn(500, generator=torch.Generator().manual_seed(0))
    best, low, high = best_of(x.numpy(), bits)
    grid = IntGrid(bits, signed=False)
    scale = (high - low) / (grid.levels - 1)
    back = torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, grid.high)
    noise = (x - back).square().mean()
    assert best == pytest.approx(float(10 * (x.square().mean() / noise).log10()), abs=0.01)
    assert best > decibels(x, bits, float(x.min()), float(x.max()))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e39])
def test_a_number_without_bits_to_round_is_refused(number):
    with pytest.raises(ValueError, match="number must be finite in float32, got"):
        click_bits(number)


def test_a_numbers_still_picture_has_its_bits():
    assert "00111101110011001100110011001101 = 0.1" in repr(click_bits(0.1))


@given(st.text())
def test_no_text_ends_the_script(text):
    import matplotlib.pyplot as plt

    figure = plt.figure()
    plt.close(figure)
    page = Live("grid.html", figure, {"words": text + "</script>"}).page
    assert page.count("</script>") == 1


def test_its_words_are_in_the_learners_language(monkeypatch):
    monkeypatch.setenv("COMPRESSLAB_LANG", "zh")
    kinds = (GridWords, BitWords, SignWords, CodeWords, ColumnWords, BudgetWords)
    words = {text for kind in kinds for text in spoken(kind()).values()} - {"float32"}
    assert not [text for text in words if not re.search("[\u4e00-\u9fff]", text)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: click_codes(16, 0),
        lambda: click_codes(0, -1),
        lambda: click_codes(1.5, 0),
        lambda: click_signs(np.ones(15), np.ones(16)),
        lambda: click_signs(np.ones(16), np.full(16, np.nan)),
        lambda: click_signs(np.ones((4, 4)), np.ones(16)),
        lambda: click_signs(np.ones(16), 1j * np.ones(16)),
        lambda: click_columns(np.ones(8), np.eye(8)),
        lambda: click_columns(np.ones(1), np.eye(1)),
        lambda: click_columns(np.ones(3), np.eye(4)),
        lambda: click_columns(np.full(3, np.inf), np.eye(3)),
        lambda: click_columns(np.ones(3), np.full((3, 3), np.nan)),
        lambda: click_columns(np.ones(3), np.eye(3), bits=3),
    ],
)
def test_what_has_no_such_bits_is_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


@pytest.mark.parametrize(
    "make", [lambda v: v[::-1], lambda v: torch.from_numpy(v.copy()).bfloat16(), lambda v: v > 0]
)
def test_signs_of_views_tensors_and_truths_are_taken(make):
    values = np.random.default_rng(0).normal(size=16)
    assert "signs of a: " in repr(click_signs(make(values), values))


# ---- a byte budget -------------------------------------------------------------------------------
LOSS, SIZE = np.array([[0, 1, 5.0], [0, 2, 9]]), np.array([[80, 40, 20], [60, 30, 15]])
PLANS = (["a", "b"], [8, 4, 2], LOSS, SIZE, np.arange(9.0), 100)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, ["a"]),
        (1, [8, 4]),
        (2, LOSS * np.nan),
        (3, SIZE[:, :2]),
        (4, np.arange(8.0)),
        (4, np.full(9, np.inf)),
        (5, 34),
    ],
)
def test_a_budget_of_other_sizes_is_refused(place, value):
    with pytest.raises(ValueError, match="must be"):
        spend_bytes(*PLANS[:place], value, *PLANS[place + 1 :])


def test_more_plans_than_are_measured_in_a_lab_are_refused():
    many = np.zeros((6, 4))
    with pytest.raises(ValueError, match=r"2 to 1,024 plans"):
        spend_bytes(list("abcdef"), [8, 4, 3, 2], many, many, np.zeros(4**6), 1)


def test_plans_come_in_the_order_of_their_numbers():
    assert plans_of(2, 3) == [(a, b) for a in range(3) for b in range(3)]
