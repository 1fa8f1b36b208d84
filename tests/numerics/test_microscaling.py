"""4-bit floats in blocks against ml_dtypes' own, against the standard's rule, and against what must hold."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compresslab.numerics import microscaling as ms

# Below 1e-30 a scale would be no normal float32 any more.
NUMBERS = st.floats(-1e4, 1e4, width=32).map(lambda v: v if abs(v) > 1e-30 else 0.0)


def theirs(x):
    """E2M1 by ml_dtypes, which saturates nothing itself."""
    return np.clip(x, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)


@given(arrays(np.float32, st.integers(1, 40), elements=st.floats(-9, 9, width=32)))
def test_a_number_goes_to_the_element_that_ml_dtypes_finds(x):
    found = ms.elements(ms.nearest_codes(torch.from_numpy(x)))
    assert np.array_equal(found.numpy(), theirs(x))


def test_halves_go_to_the_even_code():
    middle = [(a + b) / 2 for a, b in zip(ms.ELEMENTS, ms.ELEMENTS[1:], strict=False)]
    codes = ms.nearest_codes(torch.tensor([*middle, *(-m for m in middle)])) & 7
    assert codes.tolist() == [0, 2, 2, 4, 4, 6, 6] * 2


def test_an_element_is_its_own_code():
    codes = torch.arange(16, dtype=torch.uint8)
    assert torch.equal(ms.nearest_codes(ms.elements(codes)), codes)


@given(arrays(np.float32, (2, 64), elements=NUMBERS))
def test_mxfp4_is_the_standards_rule(x):
    """OCP MX v1.0, section 6.3: the exponent of the largest, less that of 6; then every element."""
    blocks = ms.quantize(torch.from_numpy(x), ms.MXFP4)
    for row in range(2):
        for b in range(2):
            part = x[row, 32 * b : 32 * (b + 1)]
            top = np.abs(part).max()
            exponent = (
                int(np.clip(np.floor(np.log2(np.float64(top))) - 2, -126, 127)) if top else -126
            )
            assert float(blocks.scales[row, b]) == 2.0**exponent
            expected = theirs(part / np.float32(2.0**exponent)) * np.float32(2.0**exponent)
            assert np.array_equal(blocks.dequantize()[row, 32 * b : 32 * (b + 1)].numpy(), expected)


@given(arrays(np.float32, (3, 32), elements=NUMBERS))
def test_nvfp4s_scales_are_eight_bit_floats_and_its_largest_number_stays(x):
    blocks = ms.quantize(torch.from_numpy(x), ms.NVFP4)
    scales = blocks.scales.numpy()
    assert np.array_equal(scales.astype(ml_dtypes.float8_e4m3fn).astype(np.float32), scales)
    back = blocks.dequantize().numpy()
    assert abs(np.abs(back).max() - np.abs(x).max()) <= 1e-3 * np.abs(x).max()
    # An element is off by at most 1 (between 4 and 6), a scale by a sixteenth, or by half of the smallest.
    top = np.abs(x.reshape(3, 2, 16)).max(2)
    slack = top / 6 * (1 + 0.5) + 6 * float(blocks.tensor) * 2.0**-10
    assert (np.abs(back - x).reshape(3, 2, 16).max(2) <= slack + 1e-30).all()


@pytest.mark.parametrize("form", ms.FORMATS.values(), ids=ms.FORMATS)
def test_a_second_rounding_changes_nothing(form):
    x = torch.randn(8, 96, generator=torch.Generator().manual_seed(0))
    once = ms.quantize(x, form).dequantize()
    if form.powers:
        assert torch.equal(ms.quantize(once, form).dequantize(), once)
    else:
        again = ms.quantize(once, form).dequantize()
        assert float((again - once).abs().max()) <= 0.07 * float(once.abs().max())


@pytest.mark.parametrize("form", ms.FORMATS.values(), ids=ms.FORMATS)
def test_zeros_tiny_and_huge_numbers_stay_finite(form):
    for x in (torch.zeros(1, 32), torch.full((1, 32), 1e-44), torch.full((2, 32), 3e38)):
        back = ms.quantize(x, form).dequantize()
        assert bool(back.isfinite().all())
        if float(x[0, 0]) == 0:
            assert not back.any()
    mixed = torch.zeros(2, 64)
    mixed[0, :32], mixed[1, 40] = 1e30, 1e-30
    assert bool(ms.quantize(mixed, form).dequantize().isfinite().all())


def test_bits_of_a_number_are_those_of_the_standards():
    assert (ms.MXFP4.bits, ms.NVFP4.bits) == (4.25, 4.5)


@pytest.mark.parametrize(
    ("x", "form", "words"),
    [
        (torch.zeros(2, 33), ms.MXFP4, "multiple of 32"),
        (torch.zeros(2, 24), ms.NVFP4, "multiple of 16"),
        (torch.zeros(32), ms.MXFP4, "rows, columns"),
        (torch.zeros(0, 32), ms.MXFP4, "rows, columns"),
        (torch.zeros(2, 32, dtype=torch.float64), ms.MXFP4, "float32"),
        (torch.full((1, 32), torch.nan), ms.NVFP4, "finite"),
        (torch.full((1, 32), torch.inf), ms.MXFP4, "finite"),
        (torch.zeros(2, 32), "mxfp4", "MXFP4 or NVFP4"),
    ],
    ids=["33", "24", "a row", "none", "float64", "NaN", "infinite", "a name"],
)
def test_what_is_no_matrix_of_blocks_is_refused(x, form, words):
    with pytest.raises(ValueError, match=words):
        ms.quantize(x, form)
