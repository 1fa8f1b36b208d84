"""Observers: what they cover, that they beat min-max where they should, and what they refuse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compresslab.classroom.exercises.ptq import best_threshold
from compresslab.numerics import affine, observers
from compresslab.numerics.grid import IntGrid

GRID = IntGrid(8, signed=False)


def heavy_tailed(count=5000, outliers=20):
    x = torch.randn(count, generator=torch.Generator().manual_seed(0))
    return torch.cat([x, torch.full((outliers,), 40.0)])


def error(x, lo, hi, bits):
    q = affine.quantize(x, affine.choose_qparams(lo, hi, IntGrid(bits, signed=False)))
    return float((x - q.dequantize()).square().mean())


def observed(name, *tensors, bits=8):
    watcher = observers.observer(name, IntGrid(bits, signed=False))
    for x in tensors:
        watcher.update(x)
    return tuple(float(v) for v in watcher.range())


@given(
    st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20), min_size=1, max_size=5
    )
)
def test_minmax_covers_everything_seen(lists):
    tensors = [torch.tensor(values, dtype=torch.float32) for values in lists]
    everything = torch.cat(tensors)
    assert observed("minmax", *tensors) == (float(everything.min()), float(everything.max()))


def test_average_moves_a_tenth_of_the_way():
    assert observed("average", torch.tensor([0.0, 10.0]), torch.tensor([-10.0, 20.0])) == (
        -1.0,
        11.0,
    )


def test_percentile_is_numpys_quantile():
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(1))
    lo, hi = observers.percentile_range(x, GRID)
    assert float(lo) == pytest.approx(np.quantile(x.numpy(), 0.001), rel=1e-5)
    assert float(hi) == pytest.approx(np.quantile(x.numpy(), 0.999), rel=1e-5)
    assert observers.percentile_range(x.relu(), GRID)[0] == 0


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_mse_is_never_worse_than_minmax_on_what_it_saw(bits):
    x = heavy_tailed()
    best = observed("mse", x, bits=bits)
    assert error(x, *best, bits) <= error(x, *observed("minmax", x), bits)
    for fraction in (0.3, 0.6, 0.9):
        lo, hi = (fraction * v for v in observed("minmax", x))
        assert error(x, *best, bits) <= error(x, lo, hi, bits) * 1.05


def test_entropy_cuts_a_far_tail_and_keeps_a_body():
    lo, hi = observers.entropy_range(heavy_tailed(100_000, 20), GRID)
    assert 2 < hi < 20
    assert lo == -hi
    body = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    assert observed("entropy", body)[1] > 0.9


@given(st.integers(2, 8))
def test_best_threshold_is_the_best_of_all(bits):
    high = IntGrid(bits, narrow=True).high
    x, thresholds = heavy_tailed(300, 3), torch.linspace(0.5, 40, 30)

    def mse(t):
        back = (x / (t / high)).round().clamp(-high, high) * (t / high)
        return float((back - x).square().mean())

    chosen = best_threshold(x, thresholds, high)
    assert mse(thresholds[chosen]) == pytest.approx(min(mse(t) for t in thresholds))


@pytest.mark.parametrize("sharing", [{}, {"axis": 0}, {"group": 8}])
@pytest.mark.parametrize("bits", [4, 2])
def test_mse_ranges_of_weights_beat_minmax_ranges(sharing, bits):
    weight = torch.randn(6, 32, generator=torch.Generator().manual_seed(2)).pow(3)
    grid = IntGrid(bits, narrow=True)

    def loss(method):
        lo, hi = observers.weight_range(weight, grid, method, **sharing)
        params = affine.choose_qparams(lo, hi, grid, symmetric=True, **sharing)
        return float((affine.quantize(weight, params).dequantize() - weight).square().mean())

    assert loss("mse") < loss("minmax")


@pytest.mark.parametrize("name", observers.OBSERVERS)
@pytest.mark.parametrize(
    "x,words",
    [
        (torch.zeros(0), "must not be empty"),
        (torch.tensor([1.0, float("nan")]), "must be finite"),
        (torch.tensor([float("inf")]), "must be finite"),
    ],
)
def test_what_has_no_range_is_refused(name, x, words):
    watcher = observers.observer(name, GRID)
    with pytest.raises(ValueError, match=words):
        watcher.update(x)
    with pytest.raises(ValueError, match="at least one tensor"):
        watcher.range()


@pytest.mark.parametrize("name", observers.OBSERVERS)
def test_constants_and_zeros_have_a_range(name):
    for value in (0.0, 3.0, -2.0):
        lo, hi = observed(name, torch.full((50,), value))
        q = affine.choose_qparams(torch.tensor(lo), torch.tensor(hi), GRID)
        back = affine.quantize(torch.full((4,), value), q).dequantize()
        assert torch.allclose(back, torch.full((4,), value), rtol=0.02)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="observer must be one of minmax"):
        observers.observer("median", GRID)
    with pytest.raises(ValueError, match="method must be minmax or mse"):
        observers.weight_range(torch.ones(2, 2), IntGrid(4), "entropy")
