"""What small transformers begin with and learn from, held against plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compresslab import models
from compresslab.techniques import distill, inherit
from compresslab.training import seed_everything


def encoder(layers, width=8, seed=0):
    seed_everything(seed)
    return models.Encoder(30, 4, 5, width=width, layers=layers, heads=2)


def test_a_student_with_all_layers_answers_like_its_teacher():
    teacher, student = encoder(4), encoder(4, seed=1)
    tokens = torch.randint(0, 30, (7, 5))
    assert not torch.allclose(student(tokens), teacher(tokens))
    inherit.inherit(student, teacher, range(4))
    assert torch.equal(student(tokens), teacher(tokens))


def test_chosen_layers_are_run_in_their_order_and_are_copies():
    teacher, student = encoder(6), encoder(2, seed=1)
    inherit.inherit(student, teacher, [1, 4])
    tokens = torch.randint(0, 30, (3, 5))
    with torch.no_grad():
        x, nothing = teacher.embed(tokens)
        for index in (1, 4):
            x = teacher.layers[index](x, nothing)
        assert torch.equal(student(tokens), teacher.classify(x, nothing))
        before = teacher(tokens)
        for parameter in student.parameters():
            parameter.add_(1.0)
        assert torch.equal(teacher(tokens), before)


@pytest.mark.parametrize("layers", [[0], [0, 6], [-1, 2], [0, 1, 2]])
def test_layers_that_do_not_exist_or_do_not_fit_are_refused(layers):
    with pytest.raises(ValueError, match=r"layers must be 2 numbers in 0\.\.5"):
        inherit.inherit(encoder(2), encoder(6), layers)


def test_another_width_is_refused_and_nothing_is_changed():
    student = encoder(2, width=4)
    before = {name: t.clone() for name, t in student.state_dict().items()}
    with pytest.raises(ValueError, match="the teacher's shapes"):
        inherit.inherit(student, encoder(6), [0, 1])
    assert all(torch.equal(t, before[name]) for name, t in student.state_dict().items())


@given(st.integers(1, 12), st.integers(0, 12))
def test_the_map_takes_the_first_layer_of_each_equal_part(student, more):
    teacher = student + more
    parts = [layer * student // teacher for layer in range(teacher)]
    floors = [i * teacher // student for i in range(student)]
    assert distill.layer_map(student, teacher, "skip") == floors
    if teacher % student == 0:
        assert floors == [parts.index(i) for i in range(student)]


def test_neighbours_are_those_of_highest_cosine():
    vectors = torch.randn(20, 6)
    near = inherit.nearest_words(vectors, 5)
    for word in range(20):
        cosines = torch.cosine_similarity(vectors[word][None], vectors, dim=1)
        order = [i for i in cosines.argsort(descending=True).tolist() if i != word and i > 2]
        assert near[word].tolist() == order[:5]


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(1, 6), st.floats(0, 1), st.integers(0, 99))
def test_only_words_are_replaced_and_by_neighbours(n, length, share, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 20, (n, length), generator=generator)
    near = inherit.nearest_words(torch.randn(20, 6, generator=generator), 3)
    before = tokens.clone()
    new = inherit.replaced(tokens, near, share, generator)
    assert torch.equal(tokens, before)
    for old, now in zip(tokens.flatten().tolist(), new.flatten().tolist(), strict=True):
        assert now == old or (old > 2 and now in near[old].tolist())


def test_the_share_of_replaced_words_is_as_asked():
    near = inherit.nearest_words(torch.randn(50, 6), 3)
    tokens = torch.randint(3, 50, (400, 20))
    for share in (0.0, 0.3, 1.0):
        new = inherit.replaced(tokens, near, share, torch.Generator().manual_seed(0))
        assert float((new != tokens).double().mean()) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("share", [-0.1, 1.1, np.nan])
def test_a_share_outside_its_range_is_refused(share):
    near = inherit.nearest_words(torch.randn(9, 3), 2)
    with pytest.raises(ValueError, match="share must lie in"):
        inherit.replaced(torch.zeros(1, 1, dtype=torch.int64), near, share, torch.Generator())


@pytest.mark.parametrize("count", [0, 6])
def test_more_neighbours_than_words_are_refused(count):
    with pytest.raises(ValueError, match="count must be 1 to 5"):
        inherit.nearest_words(torch.randn(9, 3), count)
