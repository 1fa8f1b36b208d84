"""A search that evolves finds tops, and keeps its rules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compresslab.techniques.evolution import evolve

START = [(0, 0), (1, 0), (0, 1), (1, 1)]


def around(shape):
    x, y = shape
    return [(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)]


def inside(shape):
    return all(0 <= i < 10 for i in shape)


def searched(looks, seed, start=START):
    visits = []

    def worth(shape):
        visits.append(shape)
        return -((shape[0] - 7) ** 2 + (shape[1] - 6) ** 2)

    return evolve(start, around, inside, worth, looks, np.random.default_rng(seed)), visits


@given(st.integers(4, 100), st.integers(0, 1000))
def test_every_look_is_at_another_shape_that_fits(looks, seed):
    best, visits = searched(looks, seed)
    assert len(visits) == len(set(visits)) <= looks
    ended = not any(inside(s) and s not in visits for v in visits[-4:] for s in around(v))
    assert len(visits) == looks or ended
    assert all(map(inside, visits))
    assert best == max(visits, key=lambda s: -((s[0] - 7) ** 2 + (s[1] - 6) ** 2))


def test_it_finds_the_top_of_a_hill_with_half_of_the_looks_that_drawing_needs():
    found = [searched(50, seed)[0] for seed in range(20)]
    assert sum(best == (7, 6) for best in found) > 15  # drawing 50 of 100 shapes: about 10


def test_it_ends_where_nobody_has_a_new_neighbour():
    _, visits = searched(1000, 0)
    assert 10 < len(visits) <= 100
    assert not any(inside(s) and s not in visits for v in visits[-4:] for s in around(v))


@pytest.mark.parametrize("start,looks", [([(0, 0)], 5), (START, 3), ([], 5)])
def test_what_cannot_be_is_refused(start, looks):
    with pytest.raises(ValueError, match="start must hold from 2 to"):
        searched(looks, 0, start)
