"""One test over all kernels: each of them against slow NumPy, on random problems, and none is left out."""

import importlib
import inspect
import pkgutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core.dispatcher import Dispatcher

from compresslab import kernels
from compresslab.kernels.problems import PROBLEMS, agrees

PREPARES = {
    *("affine.refuse_infinite", "bitpack.packed_size", "int8_conv.pack_taps"),
    "microscaling.pack_weight",
    *("int8_conv.pad", "lowbit.held_bits", "lowbit.words_of_group", "lowbit.pack_weight"),
    *(
        "panels.aligned",
        "panels.in_panels",
        "panels.pack_weight",
        "xnor.words_of",
        "xnor.pack_weight",
    ),
    *("xnor.panels_of", "xnor.scales", "xnor.thresholds", "xnor.flip_words"),
    "xnor_conv.pack_weight",
}
"""What makes arguments for a kernel: it is tried with the kernel that takes them."""
NO_KERNELS = {"epilogue", "plan", "problems", "reference", "simd"}


def public_functions():
    for module in pkgutil.iter_modules(kernels.__path__):
        if module.name.startswith("_") or module.name.endswith("_loops"):
            continue
        if module.name in NO_KERNELS:
            continue
        found = importlib.import_module(f"compresslab.kernels.{module.name}")
        for name, value in vars(found).items():
            compiled = isinstance(value, Dispatcher) or name in LOOPS
            own = inspect.isfunction(value) and value.__module__ == found.__name__
            if own and not compiled and not name.startswith("_"):
                yield f"{module.name}.{name}"


LOOPS = {"quantize_runs", "quantize_rows"}
"""Loops that stand in their kernel's own file; without the JIT they look like other functions."""


def test_every_public_kernel_has_a_problem_and_every_problem_a_kernel():
    assert set(public_functions()) - PREPARES == set(PROBLEMS)


@pytest.mark.parametrize("name", PROBLEMS)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_kernel_gives_what_slow_numpy_gives(name, seed):
    found, expected = PROBLEMS[name](np.random.default_rng(seed))
    assert agrees(found, expected), (found, expected)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_kernel_whose_first_number_is_off_by_one_is_found(name, monkeypatch):
    module_name, function_name = name.split(".")
    module = importlib.import_module(f"compresslab.kernels.{module_name}")
    right = getattr(module, function_name)

    def almost(*arguments, **options):
        given = right(*arguments, **options)
        first = np.array(given[0] if isinstance(given, tuple) else given)
        first.flat[0] += 1
        return (first, *given[1:]) if isinstance(given, tuple) else first

    monkeypatch.setattr(module, function_name, almost)
    found, expected = PROBLEMS[name](np.random.default_rng(0))
    assert not agrees(found, expected)
