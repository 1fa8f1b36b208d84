"""Lines of Python are counted alike on every machine."""

import sys
import time

import numpy as np
import pytest

from compresslab.classroom.exercises import EXERCISES
from compresslab.classroom.judge import judge
from compresslab.classroom.steps import MOST_LINES, Lines, TooManyLinesError


def loop(count):
    total = 0
    for number in range(count):
        total += number
    return total


def test_a_loop_runs_two_lines_for_every_number():
    with Lines(loop) as lines:
        assert loop(1000) == 499_500
    # `total = 0`, the loop's line once more at its end, and the return.
    assert lines.run == 2 * 1000 + 3
    assert not lines.too_many


def test_whole_arrays_run_a_handful_whatever_their_size():
    def small(x):
        return np.where(np.apply_along_axis(np.sort, 1, x) > 0, 1.0, -1.0)

    counts = []
    for rows in (2, 2000):
        with Lines(small) as lines:
            small(np.ones((rows, 3)))
        counts.append(lines.run)
    assert counts == [1, 1]


@pytest.mark.parametrize(
    "way",
    [
        lambda x: [v * v for v in x],
        lambda x: sum(v * v for v in x),
        lambda x: {v: v * v for v in x},
        lambda x: list(map(lambda v: v * v, x)),  # noqa: C417
        lambda x: np.vectorize(lambda v: v * v)(np.array(x)),
    ],
    ids=["a list", "a generator", "a dictionary", "map", "numpy.vectorize"],
)
def test_every_way_to_write_a_loop_is_counted(way):
    with Lines(way, most=1000) as lines:
        way(range(2000))
    assert lines.too_many


def test_it_ends_at_the_limit_and_not_after_the_loop():
    def endless():
        while True:
            pass

    start = time.monotonic()
    with Lines(endless) as lines:
        endless()
    assert lines.too_many
    assert time.monotonic() - start < 60


def test_code_that_catches_the_error_is_known_all_the_same():
    def stubborn():
        try:
            return loop(10_000)
        except BaseException:
            return 1

    with Lines(stubborn, most=100) as lines:
        assert stubborn() == 1
    assert lines.too_many


def test_other_errors_go_through_and_a_debuggers_trace_comes_back():
    def wrong():
        raise KeyError("k")

    def trace(frame, event, argument):
        return None

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        with pytest.raises(KeyError), Lines(wrong):
            wrong()
        found = sys.gettrace()
    finally:
        sys.settrace(before)
    assert found is trace
    assert not issubclass(TooManyLinesError, Exception)


def test_a_built_in_function_is_called_and_not_counted():
    with Lines(len) as lines:
        assert len("abc") == 3
    assert lines.run == 0


def test_a_loop_that_is_quick_enough_for_the_clock_is_told_with_its_lines():
    """A list of four million numbers takes half a second: it was once full marks on a quick machine."""

    def signs_only(initial):
        scale = float(np.sqrt(np.mean(initial.astype(float) ** 2)))
        found = [scale if value > 0 else -scale for value in initial.ravel().tolist()]
        return np.array(found, np.float32).reshape(initial.shape)

    exercise = EXERCISES["tickets.signs_only"]
    case = exercise.large(np.random.default_rng(0))
    with Lines(signs_only) as lines:
        exercise.driven(signs_only)(*case.args)
    assert lines.run == MOST_LINES + 1


def test_the_verdict_names_lines_and_the_way_out():
    exercise = EXERCISES["prune.taylor_score"]

    def looped(weight, gradients):
        means = np.abs(gradients).mean(axis=0).ravel().tolist()
        pairs = zip(weight.ravel().tolist(), means, strict=True)
        return np.array([abs(w) * g for w, g in pairs], np.float32).reshape(weight.shape)

    result = judge(looped, exercise)
    assert (result.status, result.points) == ("slow", exercise.points / 2), result
    assert dict(result.facts)["yours ran"] == "more than 100,000 lines of Python"
    assert "no `for`" in result.hint
