"""A figure without a kernel, in a page of its own: by keyboard and by mouse it says what the library says."""

import math
import re

import pytest
import torch

from compresslab.classroom.live import best_of, click_bits, decibels, drag_grid


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
