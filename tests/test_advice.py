"""What an advisor makes of losses that are uncertain: standard errors, limits, ties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compresslab import models
from compresslab.advisor import Advisor, Scenario, Verdict
from compresslab.advisor.advice import lost_points, ranked
from compresslab.data import load
from compresslab.training import evaluate, right_answers, seed_everything

answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60)


@given(answers)
def test_the_standard_error_is_that_of_paired_differences(pairs):
    before, after = (torch.tensor(side) for side in zip(*pairs, strict=True))
    lost, error = lost_points(before, after)
    difference = before.double().numpy() - after.double().numpy()
    assert lost == pytest.approx(100 * difference.mean())
    assert error == pytest.approx(100 * difference.std(ddof=1) / math.sqrt(len(pairs)))


def test_one_image_says_nothing_of_how_sure_a_loss_is():
    assert lost_points(torch.tensor([True]), torch.tensor([False])) == (100, math.inf)


def test_two_networks_that_err_on_other_images_are_further_from_each_other_than_their_losses():
    before = torch.ones(1000, dtype=torch.bool)
    one, other = before.clone(), before.clone()
    one[:50], other[50:100] = False, False
    assert lost_points(one, other)[0] == 0
    assert lost_points(one, other)[1] == pytest.approx(1, rel=0.01)  # 100 sqrt(0.1 / 1000)
    assert lost_points(one, one) == (0, 0)


def verdict(name, wrong, size, failed=()):
    right = torch.ones(1000, dtype=torch.bool)
    right[list(wrong)] = False
    lost, error = lost_points(torch.ones(1000, dtype=torch.bool), right)
    return Verdict(name, "", size, math.nan, lost, error, tuple(failed), nn.Identity(), (), right)


def first(*verdicts):
    return [v.name for v in ranked(verdicts)]


def test_of_two_within_a_standard_error_the_smaller_is_recommended():
    large = verdict("large", range(10), 100)
    small = verdict("small", range(500, 512), 50)  # 0.2 points behind, 0.47 of standard error
    assert first(large, small) == first(small, large) == ["small", "large"]


def test_what_loses_more_than_a_standard_error_more_stays_behind_however_small_it_is():
    large = verdict("large", range(10), 100)
    assert first(verdict("tiny", range(10, 40), 1), large) == ["large", "tiny"]
    # On the same images and four more, each of them counts: 0.4 points with an error of 0.2.
    assert first(verdict("tiny", range(14), 1), large) == ["large", "tiny"]


def test_ties_are_with_the_best_alone_and_form_no_chain():
    best = verdict("best", range(10), 100)
    near = verdict("near", range(100, 114), 50)
    far = verdict("far", range(200, 219), 10)
    assert lost_points(near.right, far.right)[0] < lost_points(near.right, far.right)[1]
    assert first(far, near, best) == ["near", "best", "far"]


def test_what_misses_a_constraint_is_no_tie():
    best = verdict("best", range(10), 100)
    missed = verdict("missed", range(10), 1, ["1 B where 0 B are allowed"])
    unbuilt = Verdict("unbuilt", "", 0, math.nan, math.nan, math.nan, ("cannot be built",), None)
    assert first(unbuilt, missed, best) == ["best", "missed", "unbuilt"]
    assert first(unbuilt, missed) == ["missed", "unbuilt"]
    assert first() == []


def test_a_loss_below_the_limit_whose_standard_error_reaches_above_it_fails():
    data = load("glyphs", train_size=100, seed=0)
    seed_everything(0)
    adviser = Advisor(models.MLP(data, hidden=(8,)), data, train=50, epochs=0.1)
    asked = {"max_bytes": adviser.float_bytes / 5, "may_train": False}
    verdicts = adviser.advise(Scenario("any", max_points_lost=99, **asked)).verdicts
    exactly = max(verdicts, key=lambda v: v.standard_error)
    limit = exactly.points_lost + exactly.standard_error
    assert exactly.standard_error > 0
    for above, holds in ((1e-6, True), (-1e-6, False)):
        advice = adviser.advise(Scenario("tight", max_points_lost=limit + above, **asked))
        found = next(v for v in advice.verdicts if v.name == exactly.name)
        assert (not any("points lost" in line for line in found.failed)) == holds
    assert f"standard error of {exactly.standard_error:.2f}" in found.failed[-1]
    assert f"± {exactly.standard_error:.2f}" in str(advice.table())


def test_accuracy_is_the_mean_of_the_right_answers():
    data = load("glyphs", train_size=100, seed=0)
    network = models.MLP(data, hidden=(8,))
    right = right_answers(network, data.val)
    with torch.no_grad():
        expected = network(data.val.x).argmax(1) == data.val.y
    assert right.dtype == torch.bool
    assert np.array_equal(right.numpy(), expected.numpy())
    assert evaluate(network, data.val) == pytest.approx(100 * expected.double().mean().item())
