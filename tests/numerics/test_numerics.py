"""Formats against torch's casts, grids against two's complement, error against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compresslab.numerics import affine, error, formats
from compresslab.numerics.affine import QParams, QTensor
from compresslab.numerics.grid import IntGrid

FLOATS = st.floats(width=32)
FINITE = st.floats(-(2.0**100), 2.0**100, width=32)


# ---- formats -------------------------------------------------------------------------------------
@given(st.lists(FLOATS, min_size=1, max_size=50))
@pytest.mark.parametrize("form", formats.FORMATS.values(), ids=lambda f: f.name)
def test_cast_is_torchs_cast(form, values):
    x = torch.tensor(values, dtype=torch.float32)
    ours, theirs = formats.cast(x, form), x.to(form.dtype).float()
    assert np.array_equal(ours.numpy(), theirs.numpy(), equal_nan=True)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_bf16_bits_are_torchs(values):
    x = torch.tensor(values, dtype=torch.float32)
    bits = x.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    theirs = x.bfloat16().view(torch.int16).to(torch.int64) & 0xFFFF
    assert torch.equal(formats.to_bf16_bits(bits), theirs)


@pytest.mark.parametrize("form", formats.FORMATS.values(), ids=lambda f: f.name)
def test_limits_are_torchs(form):
    info = torch.finfo(form.dtype)
    assert (form.bits, form.largest, form.smallest_normal) == (info.bits, info.max, info.tiny)
    assert float(formats.spacing(torch.tensor(1.0), form)) == info.eps


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_spacing_is_numpys(dtype):
    form = {np.float16: formats.FP16, np.float32: formats.FP32}[dtype]
    x = np.array([1e-7, 3e-5, 0.1, 1, 1.5, 2, 1000, 60000], dtype)
    ours = formats.spacing(torch.from_numpy(x.astype(np.float32)), form)
    assert np.array_equal(ours.numpy(), np.spacing(x).astype(np.float64))


# ---- grids ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("bits", range(2, 9))
def test_signed_codes_are_twos_complement(bits):
    grid = IntGrid(bits)
    assert (grid.low, grid.high, grid.levels) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 2**bits)
    narrow = IntGrid(bits, narrow=True)
    assert (narrow.low, narrow.high) == (-narrow.high, grid.high)


@pytest.mark.parametrize("bits", range(1, 9))
def test_unsigned_codes_start_at_zero(bits):
    grid = IntGrid(bits, signed=False)
    assert (grid.low, grid.high, grid.dtype) == (0, 2**bits - 1, torch.uint8)


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"bits": 0}, "bits must be an integer from 1 to 8, got 0"),
        ({"bits": 9}, "got 9"),
        ({"bits": 4.0}, "got 4.0"),
        ({"bits": True}, "got True"),
        ({"bits": 1}, "bits must be 2 to 8 for a signed grid, got 1"),
        ({"signed": False, "narrow": True}, "narrow must be False"),
    ],
)
def test_grids_without_meaning_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        IntGrid(**arguments)


# ---- scales --------------------------------------------------------------------------------------
@given(FINITE, FINITE, st.integers(1, 8))
def test_asymmetric_ranges_put_zero_on_a_code_and_reach_both_ends(a, b, bits):
    lo, hi = min(a, b), max(a, b)
    grid = IntGrid(bits, signed=False)
    p = affine.choose_qparams(torch.tensor(lo), torch.tensor(hi), grid)
    scale, zero = float(p.scale), int(p.zero_point)
    assert grid.low <= zero <= grid.high
    lo, hi = min(lo, 0), max(hi, 0)
    assert (grid.low - zero) * scale <= lo + scale * 0.501
    assert (grid.high - zero) * scale >= hi - scale * 0.501


@given(FINITE, FINITE, st.integers(2, 8), st.booleans())
def test_symmetric_ranges_have_zero_point_zero_and_reach_the_largest(a, b, bits, narrow):
    lo, hi = min(a, b), max(a, b)
    grid = IntGrid(bits, narrow=narrow)
    p = affine.choose_qparams(torch.tensor(lo), torch.tensor(hi), grid, symmetric=True)
    assert int(p.zero_point) == 0
    largest = max(abs(min(lo, 0)), abs(max(hi, 0)))
    assert float(p.scale) * grid.high == pytest.approx(max(largest, 1.17e-38 * grid.high), rel=1e-5)


def test_a_torch_observer_chooses_the_same_parameters():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) + 0.7
    observer = torch.ao.quantization.MinMaxObserver(dtype=torch.quint8)
    observer(x)
    scale, zero = observer.calculate_qparams()
    ours = affine.choose_qparams(*affine.minmax(x), IntGrid(8, signed=False))
    assert float(ours.scale) == pytest.approx(float(scale), rel=1e-6)
    assert int(ours.zero_point) == int(zero)


@pytest.mark.parametrize(
    "lo,hi,words",
    [
        (float("nan"), 1.0, "must be finite"),
        (0.0, float("inf"), "must be finite"),
        (2.0, 1.0, "reversed range"),
    ],
)
def test_impossible_ranges_are_refused(lo, hi, words):
    with pytest.raises(ValueError, match=words):
        affine.choose_qparams(torch.tensor(lo), torch.tensor(hi), IntGrid(8))


def test_negative_numbers_need_a_signed_symmetric_grid():
    with pytest.raises(ValueError, match="lo must be >= 0"):
        affine.choose_qparams(torch.tensor(-1.0), torch.tensor(1.0), IntGrid(8, False), True)


# ---- quantized tensors ---------------------------------------------------------------------------
@pytest.mark.parametrize("sharing", [{}, {"axis": 0}, {"axis": 1}, {"group": 4}])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_round_trip_through_packed_bytes_changes_nothing(bits, sharing):
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(bits))
    q = affine.quantize_minmax(x, IntGrid(bits), False, **sharing)
    back = affine.unpacked(q.packed(), tuple(q.codes.shape), q.qparams)
    assert torch.equal(back.codes, q.codes)
    assert q.packed().numel() == (48 * bits + 7) // 8
    scales = q.qparams.scale.reshape(1, 1) if not sharing else q.qparams.scale
    widest = float(scales.max())
    assert (x - q.dequantize()).abs().max() <= widest * 0.5001


def test_bytes_count_codes_scales_and_zero_points():
    x = torch.rand(4, 8) + 0.5
    assert affine.quantize_minmax(x, IntGrid(4), True, axis=0).nbytes == 16 + 16
    assert affine.quantize_minmax(-x, IntGrid(4), False, axis=0).nbytes == 16 + 16 + 4


def test_codes_outside_the_grid_are_refused():
    p = QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), IntGrid(4))
    with pytest.raises(ValueError, match=r"codes must lie in -8\.\.7"):
        QTensor(torch.tensor([9], dtype=torch.int8), p)
    with pytest.raises(ValueError, match=r"codes must be torch\.int8"):
        QTensor(torch.tensor([1], dtype=torch.uint8), p)


def test_scales_of_another_shape_are_refused():
    p = QParams(torch.ones(3), torch.zeros(3, dtype=torch.int32), IntGrid(4), axis=0)
    with pytest.raises(ValueError, match=r"scale must have shape \(4,\)"):
        QTensor(torch.zeros(4, 2, dtype=torch.int8), p)
    with pytest.raises(ValueError, match="scale must have shape"):
        affine.quantize(torch.zeros(4, 2), p)


@pytest.mark.parametrize("x", [torch.zeros(3, dtype=torch.float64), [1.0], torch.zeros(3).int()])
def test_only_float32_tensors_are_quantized(x):
    p = QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), IntGrid(4))
    with pytest.raises(ValueError, match="x must be a float32 tensor"):
        affine.quantize(x, p)


# ---- error ---------------------------------------------------------------------------------------
def test_evenly_spread_numbers_have_noise_s_squared_over_12():
    x = torch.linspace(-1, 1, 1_000_001)
    q = affine.quantize_minmax(x, IntGrid(8))
    scale = float(q.qparams.scale)
    assert error.mse(x, q.dequantize()) == pytest.approx(error.uniform_noise(scale), rel=1e-3)
    assert float((x - q.dequantize()).abs().max()) <= scale / 2 * 1.0001


def test_decibels_of_known_ratios():
    x = torch.tensor([3.0, 4.0])
    assert error.sqnr_db(x, x * 0.9) == pytest.approx(20.0, abs=1e-4)
    assert error.sqnr_db(x, x) == math.inf


@pytest.mark.parametrize(
    "x,y,words",
    [
        (torch.ones(2), torch.ones(3), "must have x's shape"),
        (torch.ones(0), torch.ones(0), "must not be empty"),
        (torch.zeros(2), torch.ones(2), "must not be all zero"),
    ],
)
def test_error_of_nothing_is_refused(x, y, words):
    with pytest.raises(ValueError, match=words):
        error.sqnr_db(x, y)
