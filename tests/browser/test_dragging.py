"""A figure without a kernel, in a page of its own: by keyboard and by mouse it says what the library says."""

import math
import re

import numpy as np
import pytest
import torch

from compresslab.classroom.exercises.llm import gptq_row
from compresslab.classroom.live import (
    best_of,
    click_bits,
    click_codes,
    click_columns,
    click_signs,
    decibels,
    drag_grid,
)
from compresslab.classroom.live.budget import spend_bytes
from compresslab.kernels import bitpack, xnor
from compresslab.techniques import gptq


@pytest.fixture(scope="module")
def weights():
    return torch.randn(400, generator=torch.Generator().manual_seed(0)) / 8


@pytest.fixture
def figure(page, weights):
    page.set_content(f"<!doctype html><html><body>{drag_grid(weights, 3).page}</body></html>")
    return page.locator(".compresslab-live")


STEP = 0.005
"""Of the width of the figure, for a press of an arrow key."""


def ends(figure):
    return [float(h.get_attribute("aria-valuenow")) for h in figure.locator(".handle").all()]


def shown(figure):
    return float(figure.get_attribute("data-decibels"))


def test_its_decibels_are_the_librarys_at_every_number_of_bits(figure, weights):
    low, high = float(weights.min()), float(weights.max())
    for bits in (3, 2, 5, 8):
        figure.locator("input").fill(str(bits))
        assert shown(figure) == pytest.approx(decibels(weights, bits, low, high), abs=0.02)
        assert f"{2**bits} codes" in figure.locator("[role=status]").inner_text()


def test_arrow_keys_move_an_end_by_a_step_and_the_target_is_reached(figure, weights):
    low, high = float(weights.min()), float(weights.max())
    step = 2 * 1.05 * float(weights.abs().max()) * STEP
    places = [(a, b) for a in range(0, 60, 3) for b in range(0, 60, 3)]
    best, a, b = max(
        (decibels(weights, 3, low + a * step, high - b * step), a, b) for a, b in places
    )
    assert best > best_of(weights.numpy(), 3)[0] - 0.5
    for handle, key, presses in zip(
        figure.locator(".handle").all(), ("ArrowRight", "ArrowLeft"), (a, b), strict=True
    ):
        handle.focus()
        for _ in range(presses):
            handle.press(key)
    assert ends(figure) == pytest.approx([low + a * step, high - b * step], abs=1e-3)
    assert shown(figure) == pytest.approx(best, abs=0.02)
    assert "Within half a decibel" in figure.locator("[role=status]").inner_text()
    figure.locator("button").click()
    assert ends(figure) == pytest.approx([low, high], abs=1e-3)
    assert "A search found" in figure.locator("[role=status]").inner_text()


def test_the_mouse_drags_an_end_and_clipping_is_said(figure):
    handle = figure.locator(".handle").nth(1).locator("path")
    box = handle.bounding_box()
    page = figure.page
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] - 120, box["y"] + 20, steps=8)
    page.mouse.up()
    clipped = re.search(r"clipping (\d+) per cent", figure.locator("[role=status]").inner_text())
    assert int(clipped[1]) > 20


def test_alive_it_drops_its_still_picture_and_without_a_script_it_keeps_it(page, weights):
    made = drag_grid(weights, 3).page
    page.set_content(made)
    assert not page.locator("img").count()
    assert page.locator("svg").is_visible()
    page.set_content(re.sub("<script.*</script>", "", made, flags=re.DOTALL))
    assert page.locator("img").get_attribute("alt").startswith("Plot")
    assert not page.locator("svg").is_visible()


# ---- a number's bits -----------------------------------------------------------------------------
@pytest.fixture
def number(page):
    page.set_content(f"<!doctype html><html><body>{click_bits(0.1).page}</body></html>")
    return page.locator(".compresslab-live")


def half_of(value):
    return int(torch.tensor([value]).bfloat16().view(torch.int16)) & 0xFFFF


@pytest.mark.parametrize(
    "text", ["1", "-0.1", "1.01171875", "1.00390625", "255.9", "3.4e38", "1e-40", "-0", "Infinity"]
)
def test_a_number_is_rounded_as_torch_rounds_it(number, text):
    number.locator("input").fill(text)
    number.locator("input").press("Enter")
    assert int(number.get_attribute("data-half")) == half_of(float(text.replace("Infinity", "inf")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-Infinity", "-Infinity stays -Infinity: with eight ones in its exponent it is no finite"),
        ("3.4e38", "3.4e+38 becomes Infinity in bfloat16: there is no such large number."),
        ("2", "2 becomes 2 in bfloat16: off by 0.00 thousandths of it."),
    ],
)
def test_what_no_finite_number_becomes_is_said_as_what_it_is(number, text, said):
    number.locator("input").fill(text)
    number.locator("input").press("Enter")
    assert number.get_by_role("status").inner_text().startswith(said)


def test_every_bit_can_be_turned_by_keyboard_and_says_what_it_is(number):
    pattern = int(torch.tensor([0.1]).view(torch.int32))
    for place in (0, 15, 16, 22, 23):
        bit = number.locator(f'button[data-place="{place}"]')
        bit.press("Enter")
        pattern ^= 1 << place
        value = float(torch.tensor([pattern], dtype=torch.int32).view(torch.float32))
        assert int(number.get_attribute("data-half")) == half_of(value)
        assert bit.inner_text() == str(pattern >> place & 1)
        assert bit.evaluate("e => e === document.activeElement")
    assert (
        number.locator('button[data-place="31"]').get_attribute("aria-label")
        == "bit number 31 (sign bit) is 0"
    )


def test_no_number_changes_nothing_and_not_a_number_stays_none(number):
    before = number.get_attribute("data-half")
    for text in ("", "many"):
        number.locator("input").fill(text)
        number.locator("input").press("Enter")
        assert number.get_attribute("data-half") == before
    for place in range(23, 31):  # all ones in the exponent, and a mantissa: not a number
        bit = number.locator(f'button[data-place="{place}"]')
        if bit.inner_text() == "0":
            bit.click()
    assert number.get_by_role("status").inner_text() == (
        "NaN stays NaN: with eight ones in its exponent it is no finite number."
    )
    half = int(number.get_attribute("data-half"))
    assert math.isnan(float(torch.tensor([half << 16]).to(torch.int32).view(torch.float32)))


# ---- bits that share bytes and words -------------------------------------------------------------
def in_a_page(page, live):
    page.set_content(f"<!doctype html><html><body>{live.page}</body></html>")
    return page.locator(".compresslab-live")


def test_two_codes_share_the_byte_that_the_library_packs(page):
    figure = in_a_page(page, click_codes(3, 12))
    codes = np.array([3, 12], np.uint8)
    for row, place in ((0, 0), (0, 3), (1, 1), (1, 1), (0, 2)):
        figure.locator(f'button[data-row="{row}"][data-place="{place}"]').press("Enter")
        codes[row] ^= 1 << place
        byte = int(bitpack.pack(codes, 4)[0])
        assert int(figure.get_attribute("data-result")) == byte
        assert f"= {byte} (0x{byte:02X})" in figure.get_by_role("status").inner_text()


def test_signs_have_the_dot_product_of_their_numbers(page):
    a, b = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    b[0] = 0.0  # a zero counts as positive
    figure = in_a_page(page, click_signs(a, b))
    for row, place in ((0, 0), (1, 15), (1, 7), (0, 7)):
        bit = figure.locator(f'button[data-row="{row}"][data-place="{place}"]')
        bit.click()
        assert bit.evaluate("e => e === document.activeElement")
        (a, b)[row][place] *= -1
        signs = [np.where(v >= 0, 1, -1) for v in (a, b)]
        assert int(figure.get_attribute("data-result")) == signs[0] @ signs[1]
    word = int(xnor.pack_signs(a[None])[0, 0])
    assert f"As words: 0x{word:04X} and" in figure.get_by_role("status").inner_text()


def test_a_bit_says_to_a_screen_reader_whose_it_is(page):
    figure = in_a_page(page, click_codes(3, 12))
    bit = figure.locator('button[data-row="1"][data-place="2"]')
    assert bit.get_attribute("aria-label") == "second code, bit number 2: 1"


@pytest.mark.parametrize(
    "live,bits",
    [(click_codes(), "11000011"), (click_signs(np.ones(16), -np.ones(16)), "0" * 16)],
    ids=["codes", "signs"],
)
def test_without_a_script_its_bits_stand_in_a_picture(page, live, bits):
    assert not in_a_page(page, live).locator("img").count()
    page.set_content(re.sub("<script.*</script>", "", live.page, flags=re.DOTALL))
    assert bits in page.locator("img").get_attribute("alt")


# ---- GPTQ by hand --------------------------------------------------------------------------------
@pytest.fixture
def by_hand(page):
    """A row, its H, and every one of its codes with what the outputs are off by."""
    generator = np.random.default_rng(3)
    x = generator.normal(size=(40, 5)) @ generator.normal(size=(5, 5))
    row, h = generator.normal(size=5), torch.from_numpy(x.T @ x / 40)
    every = np.stack(np.meshgrid(*[np.arange(4)] * 5), -1).reshape(-1, 5)
    off = every - 1 - row
    figure = in_a_page(page, click_columns(row, h))
    return figure, row, h, every, ((off @ h.numpy()) * off).sum(1)


def codes_in(figure):
    return [int(code) for code in figure.get_attribute("data-codes").split()]


def test_column_by_column_it_chooses_what_the_library_chooses(by_hand):
    figure, row, h, every, errors = by_hand
    for _ in row:
        figure.locator(".next").click()
    wanted = gptq_row(row, gptq.inverse_factor(h).numpy(), 1.0, 1, 2) + 1
    assert codes_in(figure) == wanted.tolist()
    error = errors[(every == wanted).all(1)][0]
    assert float(figure.get_attribute("data-error")) == pytest.approx(error)
    assert figure.locator(".next").is_disabled()


def test_all_to_the_nearest_code_is_rounding(by_hand):
    figure, row, *_ = by_hand
    figure.locator(".nearest").click()
    assert codes_in(figure) == (row.round() + 1).clip(0, 3).tolist()


def test_the_best_codes_can_be_found_by_keyboard_and_are_called_so(by_hand):
    figure, _, _, every, errors = by_hand
    for place, code in enumerate(every[errors.argmin()]):
        level = figure.locator(f'g[data-at="{place},{code}"]')
        level.press("Enter")
        assert level.evaluate("e => e === document.activeElement")
    said = figure.get_by_role("status").inner_text()
    assert said.endswith("No codes are better.")
    figure.locator(".again").click()
    assert figure.get_by_role("status").inner_text().startswith("0 of 5 weights have a code")


# ---- a byte budget -------------------------------------------------------------------------------
LOSS, SIZE = np.array([[0, 1, 5.0], [0, 2, 9]]), np.array([[80, 40, 20], [60, 30, 15]])
MEASURED = np.array([0, 2.5, 9, 1, 3.5, 11, 6, 8, 15.5])


@pytest.fixture
def budget(page):
    return in_a_page(page, spend_bytes(["0", "3"], [8, 4, 2], LOSS, SIZE, MEASURED, 100))


def test_every_plan_is_reached_by_keyboard_and_says_its_bytes_and_losses(budget):
    for first in range(3):
        for second in range(3):
            assert budget.get_attribute("data-plan") == f"{[8, 4, 2][first]} {[8, 4, 2][second]}"
            expected = LOSS[0, first] + LOSS[1, second]
            bytes_ = SIZE[0, first] + SIZE[1, second]
            assert float(budget.get_attribute("data-expected")) == expected
            assert int(budget.get_attribute("data-bytes")) == bytes_
            said = budget.get_by_role("status").inner_text()
            assert ("That fits the budget." in said) == (bytes_ <= 100)
            budget.locator(".measure").click()
            assert float(budget.get_attribute("data-measured")) == MEASURED[3 * first + second]
            segment = budget.locator('g[data-layer="1"]')
            segment.press("Enter")
            assert segment.evaluate("e => e === document.activeElement")
        budget.locator('g[data-layer="0"]').press("ArrowDown")


def test_a_measured_plan_is_held_against_the_best_that_fits(budget):
    budget.locator('g[data-layer="0"]').click()  # 4 and 8 bits: 100 bytes, one point
    budget.locator(".measure").click()
    assert "No plan within the budget loses less." in budget.get_by_role("status").inner_text()
    budget.locator('g[data-layer="1"]').click()
    assert budget.get_attribute("data-measured") == ""
    budget.locator(".measure").click()
    said = budget.get_by_role("status").inner_text()
    assert "Measured together: 3.5 points; the sum was 0.5 off." in said
    assert "The best plan within the budget loses 1.0 points." in said
    budget.locator(".again").click()
    assert budget.get_attribute("data-plan") == "8 8"
