"""Every exercise of the course: right answers pass, known mistakes are named, nonsense earns nothing."""

import copy

import numpy as np
import pytest
import torch

from compresslab.classroom import compare
from compresslab.classroom.exercises import EXERCISES, exercise
from compresslab.classroom.judge import judge

every = pytest.mark.parametrize("e", EXERCISES.values(), ids=lambda e: e.id)
MISTAKES = [(e, m, f) for e in EXERCISES.values() for m in e.mistakes for f in m.forms]


@every
@pytest.mark.parametrize("seed", range(5))
def test_the_reference_passes_with_any_seed(e, seed):
    assert judge(e.reference, e, seed).passed


@every
def test_there_are_three_mistakes_with_hints_and_several_cases(e):
    assert len(e.mistakes) >= 3
    assert len({m.name for m in e.mistakes}) == len(e.mistakes)
    assert all(len(m.hint) > 20 for m in e.mistakes)
    assert len(e.cases(np.random.default_rng(0))) >= 4
    assert e.points >= 1
    assert e.lines >= 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "e,mistake,form", MISTAKES, ids=lambda v: getattr(v, "id", getattr(v, "name", ""))
)
def test_every_mistake_is_rejected_under_its_own_name(e, mistake, form, seed):
    result = judge(form, e, seed)
    assert result.status == "failed"
    assert result.mistake == mistake.name
    assert result.hint == mistake.hint


@every
def test_the_same_seed_gives_the_same_cases(e):
    one, two = (e.cases(np.random.default_rng(7)) for _ in range(2))
    assert all(compare.identical(a.args, b.args) for a, b in zip(one, two, strict=True))


# ---- sabotage: answers that must earn nothing ------------------------------------------------------
def stub(*arguments):
    raise NotImplementedError("not done yet")


@every
def test_the_stub_is_not_done(e):
    assert judge(stub, e).status == "not done"


def twisted(e, twist):
    """The reference with its result changed by `twist`."""
    if e.harness is None:
        return lambda *arguments: twist(e.reference(*arguments))

    def answer(*arguments):
        result = e.reference(*arguments)
        if result is not None:
            return twist(result)
        out = arguments[-1]
        out[...] = twist(out.copy())
        return None

    return answer


def numbers(value):
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def change(value, f):
    """`f` on every number and array in the value."""
    if isinstance(value, tuple):
        return tuple(change(v, f) for v in value)
    return value if isinstance(value, str) else f(value)


NOTHINGS = {
    "returns None": lambda *arguments: None,
    "returns 0": lambda *arguments: 0,
    "returns 1.0": lambda *arguments: 1.0,
    "returns its first argument": lambda *arguments: arguments[0],
    "returns all its arguments": lambda *arguments: arguments,
    "returns an empty array": lambda *arguments: np.zeros(0),
    "returns a string": lambda *arguments: "right",
    "raises": lambda *arguments: 1 / 0,
    "returns a function": lambda *arguments: print,
}


@every
@pytest.mark.parametrize("name", NOTHINGS)
def test_no_ops_and_constants_earn_nothing(e, name):
    assert not judge(NOTHINGS[name], e).passed


@every
@pytest.mark.parametrize("thing", [None, 3, "answer", object()])
def test_what_is_no_function_is_refused(e, thing):
    assert judge(thing, e).status == "failed"


def wrong_dtype(value):
    if isinstance(value, np.ndarray):
        return value.astype(np.float64 if value.dtype != np.float64 else np.float32)
    if isinstance(value, torch.Tensor):
        return value.double() if value.dtype != torch.float64 else value.float()
    return str(value)


def wrong_shape(value):
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.reshape(1, *value.shape)
    return [value]


def all_nan(value):
    if isinstance(value, np.ndarray):
        return np.full(value.shape, np.nan) if value.dtype.kind == "f" else value - 1
    if isinstance(value, torch.Tensor):
        return value * float("nan") if value.is_floating_point() else value - 1
    return float("nan")


class Liar(np.ndarray):
    """An array that claims to be equal to everything."""

    def __eq__(self, other):
        return np.ones(self.shape, bool)

    __hash__ = None


class AlwaysEqual:
    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    __hash__ = None
    dtype = shape = property(lambda self: AlwaysEqual())


@every
@pytest.mark.parametrize("twist", [wrong_dtype, wrong_shape, all_nan], ids=lambda f: f.__name__)
def test_right_numbers_in_the_wrong_form_are_rejected(e, twist):
    if e.harness and e.id == "numbers.quantize_loop" and twist is not all_nan:
        pytest.skip("writes into an array whose dtype and shape are given")
    assert not judge(twisted(e, lambda value: change(value, twist)), e).passed


@every
def test_objects_that_claim_to_be_equal_are_rejected(e):
    assert not judge(lambda *arguments: AlwaysEqual(), e).passed
    assert not judge(lambda *arguments: np.zeros(3).view(Liar), e).passed


@every
def test_a_changed_input_is_rejected(e):
    def spoil(value):
        if isinstance(value, np.ndarray | torch.Tensor) and compare.size(value):
            value[...] = 1 if (value == 0).all() else 0
            return True
        return False

    cases = e.cases(np.random.default_rng(0))
    if not any(isinstance(a, np.ndarray | torch.Tensor) for case in cases for a in case.args):
        pytest.skip("takes only numbers, which cannot be changed in place")
    if e.id == "measuring.fair_time":
        pytest.skip("the durations are out of the answer's reach")

    def answer(*arguments):
        kept = copy.deepcopy(arguments)
        result = e.reference(*arguments)
        next((a for a in arguments if spoil(a)), None)
        return result if result is not None else kept[-1]

    result = judge(answer, e)
    assert not result.passed
    assert "changed its input" in str(result) or "in-place operation" in str(result)


def nudge(value):
    """The last number one code, or one per cent, away."""
    if isinstance(value, int):
        return value + 1
    if not isinstance(value, np.ndarray | torch.Tensor):
        return value * 1.01
    if compare.size(value) == 0:
        return value
    value = value.copy() if isinstance(value, np.ndarray) else value.clone()
    last = value.reshape(-1)[-1:]
    if value.dtype in (np.float32, torch.float32):
        last *= 1.01
    else:
        last ^= 1
    return value


@every
def test_a_small_error_in_one_value_is_seen(e):
    assert not judge(twisted(e, lambda value: change(value, nudge)), e).passed


def test_ids_are_unique_and_an_unknown_one_names_the_nearest():
    with pytest.raises(ValueError, match=r"nearest: numbers\.quantize"):
        exercise("numbers.quantise")
