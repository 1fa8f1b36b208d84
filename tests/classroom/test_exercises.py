"""Every exercise of the course: right answers pass, known mistakes are named, nonsense earns nothing."""

import copy
import functools

import numpy as np
import pytest
import torch

from compresslab.classroom import compare
from compresslab.classroom.exercises import EXERCISES, LABS, exercise
from compresslab.classroom.exercises.builds import today as turned
from compresslab.classroom.judge import fastest, judge

every = pytest.mark.parametrize("e", EXERCISES.values(), ids=lambda e: e.id)
WARM_UPS = [e for e in EXERCISES.values() if e.kind == "warm-up"]
OPEN = [e for e in EXERCISES.values() if e.kind == "open"]
warm_up = pytest.mark.parametrize("e", WARM_UPS, ids=lambda e: e.id)
build = pytest.mark.parametrize(
    "e", [e for e in EXERCISES.values() if e.kind == "build"], ids=lambda e: e.id
)
# Another seed of the open exercises, which train, is graded with the model answers (`grading/test_grade.py`).
REPEATS = {"warm-up": 5, "build": 5, "open": 1}
SEEDS = [(e, s) for e in EXERCISES.values() for s in range(REPEATS[e.kind])]
MISTAKES = [
    (e, m, f, s)
    for e in EXERCISES.values()
    for m in e.mistakes
    for f in m.forms
    for s in range(3)
    if e.kind != "open"
]


judged = functools.cache(judge)
"""Of a known mistake, which two tests look at."""


@pytest.mark.parametrize("e,seed", SEEDS, ids=lambda v: getattr(v, "id", str(v)))
def test_the_reference_passes_with_any_seed(e, seed):
    result = judge(e.reference, e, seed)
    assert result.passed
    assert result.points == e.points


@every
def test_there_are_three_mistakes_with_hints_and_several_cases(e):
    assert len(e.mistakes) >= 3
    assert len({m.name for m in e.mistakes}) == len(e.mistakes)
    assert all(len(m.hint) > 20 for m in e.mistakes)
    assert len(e.cases(np.random.default_rng(0))) >= (1 if e.medals else 4)
    assert e.points >= 1
    assert e.lines >= 1


@pytest.mark.parametrize(
    "e,mistake,form,seed", MISTAKES, ids=lambda v: getattr(v, "id", getattr(v, "name", ""))
)
def test_every_mistake_is_rejected_under_its_own_name(e, mistake, form, seed):
    result = judged(form, e, seed)
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
    result = judge(stub, e)
    assert result.status == "not done"
    assert result.points == 0
    heads = [head.split(" ")[0] for head, _ in result.facts]
    wanted = {"warm-up": "gives", "build": "stages", "open": "bronze,"}[e.kind]
    assert heads.count(wanted) == (2 if e.kind == "warm-up" else 1)


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


@pytest.mark.parametrize("name", NOTHINGS)
@every
def test_no_ops_and_constants_earn_nothing(e, name):
    result = judge(NOTHINGS[name], e)
    assert not result.passed
    assert result.points == 0


@pytest.mark.parametrize("thing", [None, 3, "answer", object()])
@every
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


@pytest.mark.parametrize("twist", [wrong_dtype, wrong_shape, all_nan], ids=lambda f: f.__name__)
@warm_up
def test_right_numbers_in_the_wrong_form_are_rejected(e, twist):
    if e.harness and e.id == "numbers.quantize_loop" and twist is not all_nan:
        pytest.skip("writes into an array whose dtype and shape are given")
    assert not judge(twisted(e, lambda value: change(value, twist)), e).passed


@every
def test_objects_that_claim_to_be_equal_are_rejected(e):
    assert not judge(lambda *arguments: AlwaysEqual(), e).passed
    assert not judge(lambda *arguments: np.zeros(3).view(Liar), e).passed


@warm_up
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


@warm_up
def test_a_small_error_in_one_value_is_seen(e):
    assert not judge(twisted(e, lambda value: change(value, nudge)), e).passed


def test_ids_are_unique_and_an_unknown_one_names_the_nearest():
    with pytest.raises(ValueError, match=r"nearest: numbers\.quantize"):
        exercise("numbers.quantise")


# ---- three kinds -----------------------------------------------------------------------------------
def test_large_cases_are_the_same_for_the_same_seed_and_leave_their_input():
    for e in (e for e in WARM_UPS if e.large is not None):
        case = e.large(np.random.default_rng(3))
        assert compare.identical(case.args, e.large(np.random.default_rng(3)).args), e.id
        _, outcome = fastest(e.driven(e.reference), case)
        assert outcome.error is None, e.id
        assert not outcome.changed_input, e.id


@build
def test_the_stages_of_a_build_have_all_the_points_and_cases_of_their_own(e):
    names = [name for name, _ in e.stages]
    assert sum(points for _, points in e.stages) == e.points
    assert {case.stage for case in e.cases(np.random.default_rng(0))} == set(names)
    assert len(names) == len(set(names)) >= 3


@build
def test_a_mistake_in_a_stage_keeps_the_points_of_those_before_it(e):
    earned = set()
    for mistake in e.mistakes:
        result = judged(mistake.wrong, e, 0)
        stage = dict(result.facts)["stage"]
        before = int(stage.split(" ")[0]) - 1
        assert result.points == sum(points for _, points in e.stages[:before])
        assert result.points < e.points
        earned.add(result.points)
    assert len(earned) >= 2


@pytest.mark.parametrize("e", OPEN, ids=lambda e: e.id)
def test_an_open_exercise_has_a_plain_way_below_every_medal(e):
    assert e.medals.bronze < e.medals.silver < e.medals.gold
    result = judge(e.medals.plain, e)
    assert result.status == "failed"
    assert result.points == 0
    assert dict(result.facts)["reached"].endswith(e.medals.unit)


@pytest.mark.parametrize("e", OPEN, ids=lambda e: e.id)
def test_known_ways_of_an_open_exercise_are_named_and_win_no_gold(e):
    for mistake in e.mistakes:
        result = judge(mistake.wrong, e)
        assert result.mistake == mistake.name
        assert result.points < e.points


def test_medals_are_thirds():
    medals = OPEN[0].medals
    assert medals.of(medals.gold) == ("gold", 1)
    assert medals.of(medals.silver)[0] == "silver"
    assert medals.of(medals.bronze - 1e-9) == ("", 0)
    assert [medals.of(v)[1] * 3 for v in (medals.bronze, medals.silver)] == [1, 2]


@pytest.mark.parametrize("lab", LABS)
def test_warm_ups_give_at_most_a_third_of_a_labs_points(lab):
    warm = sum(e.points for e in LABS[lab] if e.kind == "warm-up")
    assert 3 * warm <= sum(e.points for e in LABS[lab])


@pytest.mark.parametrize("lab", LABS)
def test_warm_ups_with_nothing_but_small_cases_are_not_all_of_a_lab(lab):
    """Whoever pastes every slow version gets less than the points of the lab."""
    assert any(e.large is not None or e.kind != "warm-up" for e in LABS[lab])


def test_a_network_whose_stream_was_turned_answers_the_same():
    """What the reference hands back is held against the network that it was made from."""
    exercise = EXERCISES["today.turned_stream"]
    for case in exercise.cases(np.random.default_rng(0)):
        words, gains, blocks, head, turn = case.args
        before = turned.logits(words, blocks, head, gains)
        new_words, new_blocks, new_head = exercise.reference(*case.args)
        assert np.allclose(turned.logits(new_words, new_blocks, new_head), before, atol=1e-3)
        assert np.allclose(turn @ turn.T, np.eye(len(turn)), atol=1e-5)


@pytest.mark.parametrize(
    "length",
    [
        lambda x: np.linalg.norm(x, axis=0),
        lambda x: np.sqrt((x**2).sum(0)),
        lambda x: np.sqrt(np.square(x.astype(np.float64)).mean(0)),
    ],
    ids=["norm", "float32", "mean"],
)
def test_wandas_scores_do_not_hang_on_the_last_digit(length):
    """However the length of an input is computed, the same weights stay, in every seed's cases."""
    exercise = EXERCISES["today.wanda"]

    def answer(weight, x, keep, of):
        score = (np.abs(weight) * length(x)).reshape(-1, of)
        stays = np.zeros(score.shape, bool)
        np.put_along_axis(stays, np.argsort(-score, 1)[:, :keep], True, 1)
        return weight * stays.reshape(weight.shape)

    for seed in range(12):
        generator = np.random.default_rng(seed)
        for case in [*exercise.cases(generator), exercise.large(generator)]:
            assert np.array_equal(answer(*case.args), exercise.reference(*case.args)), case.label
