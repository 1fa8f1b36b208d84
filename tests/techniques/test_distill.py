"""Distillation: the losses against torch and closed forms, the gradients' limits, who learns from whom."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compresslab import models
from compresslab.data import load
from compresslab.data.text import Sequences
from compresslab.techniques import distill as d
from compresslab.training import Batch, evaluate, fit, logits, seed_everything


def pair(n=5, classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, classes, generator=generator), torch.randn(
        n, classes, generator=generator
    )


def batch(n=5, classes=7):
    return Batch(torch.rand(n, 3), torch.arange(n) % classes, torch.arange(n))


@given(st.integers(1, 6), st.integers(2, 9), st.floats(0.5, 20), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_the_soft_loss_is_the_kullback_leibler_divergence_times_t_squared(n, classes, t, seed):
    student, teacher = pair(n, classes, seed)
    p, q = (torch.softmax(v.double() / t, 1) for v in (teacher, student))
    expected = t * t * float((p * (p.log() - q.log())).sum(1).mean())
    assert float(d.soft_loss(student, teacher, t)) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_cross_entropy_differs_by_the_teachers_entropy_and_has_the_same_gradient():
    student, teacher = pair()
    gradients = []
    for distance in ("kl", "cross_entropy"):
        s = student.clone().requires_grad_()
        d.soft_loss(s, teacher, 3.0, distance).backward()
        gradients.append(s.grad)
    assert torch.allclose(*gradients, atol=1e-6)
    p = torch.softmax(teacher / 3, 1)
    entropy = -(p * p.log()).sum(1).mean() * 9
    difference = d.soft_loss(student, teacher, 3.0, "cross_entropy") - d.soft_loss(
        student, teacher, 3.0
    )
    assert float(difference) == pytest.approx(float(entropy), rel=1e-4)


def test_the_gradient_is_t_times_the_difference_of_the_softened_answers():
    student, teacher = pair()
    s = student.clone().requires_grad_()
    d.soft_loss(s, teacher, 2.0).backward()
    expected = 2.0 * (torch.softmax(student / 2, 1) - torch.softmax(teacher / 2, 1)) / len(student)
    assert torch.allclose(s.grad, expected, atol=1e-6)


def test_at_high_temperature_it_matches_centred_logits():
    """Hinton et al. 2015, equation 4: with logits of mean 0 the loss is half their mean square distance."""
    student, teacher = ((v - v.mean(1, keepdim=True)).double() for v in pair())
    hot = d.soft_loss(student, teacher, 1e3)
    assert float(hot) == pytest.approx(
        float(d.soft_loss(student, teacher, distance="mse")), rel=1e-3
    )


def test_no_gradient_flows_into_the_teacher():
    student, teacher = (v.requires_grad_() for v in pair())
    d.soft_loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_the_whole_loss_is_hinton_s():
    student, teacher = pair()
    loss = d.Distillation(lambda b: teacher[b.index], alpha=0.3, temperature=4.0)
    b = batch()
    expected = 0.3 * F.cross_entropy(student, b.y) + 0.7 * d.soft_loss(student, teacher, 4.0)
    assert torch.allclose(loss.of_logits(student, b), expected)
    only_hard = d.Distillation(lambda b: 1 / 0, alpha=1.0)
    assert torch.allclose(only_hard.of_logits(student, b), F.cross_entropy(student, b.y))


def test_without_the_hard_part_labels_are_not_looked_at():
    student, teacher = pair()
    loss = d.Distillation(lambda b: teacher, alpha=0.0)
    unlabelled = Batch(torch.rand(5, 3), torch.full((5,), -1), torch.arange(5))
    assert torch.isfinite(loss.of_logits(student, unlabelled))


def small(seed=0):
    seed_everything(seed)
    return models.MLP((1, 8, 8), 10, (16,))


def test_cached_answers_are_those_of_the_example_wherever_it_lies_in_the_batch():
    data, teacher = load("digits"), small()
    answers = d.cached(teacher, data.train.x)
    index = torch.tensor([7, 3, 11])
    found = answers(Batch(data.train.x[index], data.train.y[index], index))
    assert torch.allclose(found, logits(teacher, data.train.x[index]), atol=1e-5)
    assert torch.allclose(
        found, d.online(teacher)(Batch(data.train.x[index], None, None)), atol=1e-5
    )


def test_a_student_becomes_its_teacher_without_a_single_label():
    data = load("digits")
    teacher = small()
    fit(teacher, data.train, 20, 0.2, progress=False)
    student = small(1)
    loss = d.Distillation(d.cached(teacher, data.train.x), alpha=0.0)
    before = evaluate(student, data.test)
    fit(student, data.train, 20, 0.05, loss=loss, progress=False)
    assert before < 30
    assert evaluate(student, data.test) > 90


def test_the_temperature_falls_over_the_whole_training():
    schedule = d.falling(8, 2)
    assert [schedule(0.0), schedule(0.5), schedule(1.0)] == pytest.approx([8, 4, 2])
    data, teacher = load("digits"), small()
    seen = []

    class Spy(d.Distillation):
        def __call__(self, model, batch):
            seen.append(self.temperature)
            return super().__call__(model, batch)

    loss = Spy(d.cached(teacher, data.train.x), temperature=schedule)
    for _ in range(2):
        seen.clear()
        fit(small(1), data.train, 1, 0.1, loss=loss, hooks=[loss], progress=False)
        assert seen[0] == 8
        assert seen[-1] == pytest.approx(2, rel=0.2)
        assert seen == sorted(seen, reverse=True)


def test_smoothing_is_a_teacher_that_knows_nothing():
    """KL to (1 - e) one-hot + e uniform differs from it by a constant: the same gradient."""
    student = pair()[0].requires_grad_()
    b = batch()

    class Fixed(nn.Module):
        def forward(self, x):
            return student

    d.smoothed(0.1)(Fixed(), b).backward()
    target = 0.9 * F.one_hot(b.y, 7) + 0.1 / 7
    expected = (torch.softmax(student, 1) - target) / len(student)
    assert torch.allclose(student.grad, expected, atol=1e-6)


def test_mutual_learners_pull_at_each_other_and_not_at_themselves():
    one, two = pair()
    cohort = d.Cohort([_Says(one), _Says(two)])
    b = batch()
    loss = d.mutual(2.0)(cohort, b)
    expected = (
        F.cross_entropy(one, b.y)
        + F.cross_entropy(two, b.y)
        + d.soft_loss(one, two, 2.0)
        + d.soft_loss(two, one, 2.0)
    )
    assert torch.allclose(loss, expected)
    loss.backward()
    for student, other, mine in ((cohort.students[0], two, one), (cohort.students[1], one, two)):
        alone = mine.clone().requires_grad_()
        (F.cross_entropy(alone, b.y) + d.soft_loss(alone, other, 2.0)).backward()
        assert torch.allclose(student.answer.grad, alone.grad, atol=1e-6)


class _Says(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = nn.Parameter(answer.clone())

    def forward(self, x):
        return self.answer


# ---- what is inside --------------------------------------------------------------------------------
def test_layer_maps():
    assert d.layer_map(3, 12) == [3, 7, 11]
    assert d.layer_map(6, 12, "skip") == [0, 2, 4, 6, 8, 10]
    assert d.layer_map(2, 5, "first") == [0, 1]
    assert d.layer_map(2, 5, "last") == [3, 4]
    assert d.layer_map(4, 4) == d.layer_map(4, 4, "skip") == [0, 1, 2, 3]


def test_the_attention_map_is_where_the_energy_is():
    features = torch.zeros(1, 2, 2, 2)
    features[0, :, 0, 1] = torch.tensor([3.0, -1.0])
    features[0, 0, 1, 1] = 2.0
    energy = torch.tensor([0.0, 5.0, 0.0, 2.0])
    assert torch.allclose(d.attention_map(features)[0], energy / energy.norm())


def conv(widths, seed=0):
    seed_everything(seed)
    return models.VGGLike((1, 8, 8), 10, widths)


@pytest.mark.parametrize("kind", d.FEATURES)
def test_hints_bring_the_features_together(kind):
    data = load("digits")
    data = type(data)("digits", data.train.first(400), data.val, data.test, data.classes)
    teacher = conv((8, 16))
    fit(teacher, data.train, 3, 0.2, progress=False)

    def distance(weight):
        student = conv((4, 8), 1)
        soft = d.Distillation(d.cached(teacher, data.train.x))
        hints = d.Hints(teacher, {"2": "2"}, soft, kind, weight)
        fit(student, data.train, 4, 0.1, loss=hints, hooks=[hints], progress=False)
        assert set(hints.projections) == (set() if kind == "attention" else {"2"})
        projections = [p for layer in hints.projections.values() for p in layer.parameters()]
        held = [p for g in hints.run.optimizer.param_groups for p in g["params"]]
        assert all(any(p is h for h in held) for p in projections)
        x = data.train.x[:100]
        with torch.no_grad(), d.Tap(student, ["2"]) as mine, d.Tap(teacher, ["2"]) as theirs:
            student(x), teacher(x)
            projected = hints._projected("2", mine["2"], theirs["2"])
            return float(d.FEATURES[kind](projected, theirs["2"]))

    assert distance(5.0) < distance(1e-6)


@pytest.mark.parametrize("kind", d.FEATURES)
def test_hints_reach_the_student(kind):
    """Without labels and answers, and with equal widths, only the hint can bring the features together."""
    data = load("digits")
    teacher, student = conv((8, 16)), conv((8, 16), 1)
    fit(teacher, data.train, 2, 0.2, progress=False)
    x = data.train.x[:200]

    def apart():
        with torch.no_grad(), d.Tap(student, ["2"]) as mine, d.Tap(teacher, ["2"]) as theirs:
            student.eval()(x), teacher(x)
            return float(d.FEATURES[kind](mine["2"], theirs["2"]))

    class Nothing(d.Distillation):
        def of_logits(self, student, batch):
            return 0.0 * student.sum()

    hints = d.Hints(teacher, {"2": "2"}, Nothing(None), kind)
    before = apart()
    fit(student, data.train, 4, 0.1, loss=hints, hooks=[hints], progress=False)
    assert apart() < 0.8 * before


def test_hints_can_be_used_for_a_second_student():
    data = load("digits")
    teacher = conv((8, 16))
    hints = d.Hints(teacher, {"2": "2"}, d.Distillation(d.cached(teacher, data.train.x)))
    for widths in ((4, 8), (4, 6)):
        student = conv(widths)
        fit(student, data.train, 0.5, 0.1, loss=hints, hooks=[hints], progress=False)
        held = [p for g in hints.run.optimizer.param_groups for p in g["params"]]
        assert any(p is hints.projections["2"].weight for p in held)


def test_states_of_tokens_are_compared_along_their_width():
    seed_everything(0)
    teacher = models.Encoder(20, 3, 6, width=16, layers=1, heads=2)
    student = models.Encoder(20, 3, 6, width=8, layers=1, heads=2)
    tokens = torch.randint(1, 20, (12, 6))
    data = Sequences(tokens, torch.zeros(12, dtype=torch.int64))
    soft = d.Distillation(d.cached(teacher, tokens))
    for kind in d.FEATURES:
        hints = d.Hints(teacher, {"layers.0": "layers.0"}, soft, kind)
        fit(student, data, 1, 0.01, loss=hints, hooks=[hints], progress=False)
        if kind != "attention":
            assert hints.projections["layers.0"].weight.shape == (16, 8, 1)


def encoders():
    seed_everything(0)
    return [models.Encoder(20, 3, 6, width=8, layers=1, heads=2) for _ in range(2)]


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_padding_does_not_count_where_only_words_are_kept(kind):
    teacher, student = encoders()
    tokens = torch.randint(1, 20, (5, 6))
    tokens[1, 3:] = 0
    tokens[4, :2] = 0
    batch = Batch(tokens, torch.zeros(5, dtype=torch.int64), torch.arange(5))
    layers = {"layers.0": "layers.0", "layers.0.attention.scores": "layers.0.attention.scores"}
    hints = d.Hints(teacher, layers, None, kind, keep=lambda batch: batch.x != 0)
    with torch.no_grad(), d.Tap(student, layers) as mine, d.Tap(teacher, layers) as theirs:
        student(tokens), teacher(tokens)
    pairs = []
    for n, length in ((0, range(6)), (1, range(3)), (2, range(6)), (3, range(6)), (4, range(2, 6))):
        pairs += [(n, a, b) for a in length for b in length]
    found = [f["layers.0.attention.scores"] for f in (mine, theirs)]
    scores = [torch.stack([f[n, :, a, b] for n, a, b in pairs]) for f in found]
    words = [f["layers.0"][tokens != 0] for f in (mine, theirs)]

    def distance(a, b):
        if kind == "mse":
            return (a - b).square().mean()
        return (1 - (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)).mean()

    expected = distance(*words) + distance(*scores)
    assert hints(student, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_cached_features_are_those_of_the_examples_in_the_batch():
    teacher, student = encoders()
    tokens = torch.randint(1, 20, (9, 6))
    layers = {"layers.0": "layers.0", "layers.0.attention.scores": "layers.0.attention.scores"}
    index = torch.tensor([4, 0, 7])
    batch = Batch(tokens[index], torch.zeros(3, dtype=torch.int64), index)
    asked = d.Hints(teacher, layers, None)(student, batch)
    looked_up = d.Hints(teacher, layers, None, cached_on=tokens)(student, batch)
    assert asked.item() == pytest.approx(looked_up.item(), rel=1e-5)


def test_features_alone_teach_without_answers():
    teacher, student = encoders()
    tokens = torch.randint(1, 20, (40, 6))
    hints = d.Hints(teacher, {"layers.0": "layers.0"}, None)
    data = Sequences(tokens, torch.zeros(40, dtype=torch.int64))
    run = fit(student, data, 60, 0.05, 20, hints, [hints], progress=False)
    assert run.losses[-1] < 0.7 * run.losses[0]


def test_a_schedule_that_nobody_moves_is_refused():
    data, teacher = load("digits"), small()
    loss = d.Distillation(d.cached(teacher, data.train.x), temperature=d.falling(8, 1))
    with pytest.raises(ValueError, match="hooks must have this loss"):
        fit(small(1), data.train, 1, 0.1, loss=loss, progress=False)


@pytest.mark.parametrize("temperature", [1e3, 1e5, 1e7])
def test_very_high_temperatures_lose_no_digits(temperature):
    student, teacher = pair()
    exact = d.soft_loss(student.double(), teacher.double(), 1e3)
    assert float(d.soft_loss(student, teacher, temperature)) == pytest.approx(
        float(exact), rel=5e-3
    )


def test_a_tap_closes_again():
    model = small()
    with d.Tap(model, ["1"]) as found:
        model(torch.rand(2, 1, 8, 8))
    kept = found["1"]
    model(torch.rand(2, 1, 8, 8))
    assert found["1"] is kept
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    "call,text",
    [
        (lambda: d.soft_loss(torch.rand(2, 3), torch.rand(2, 4)), "must both be"),
        (lambda: d.soft_loss(*pair(), 0), "temperature must be above 0"),
        (lambda: d.soft_loss(*pair(), math.nan), "temperature must be above 0"),
        (lambda: d.soft_loss(*pair(), 1.0, "l1"), "distance must be one of"),
        (lambda: d.Distillation(None, alpha=1.5), "alpha must lie in"),
        (lambda: d.Distillation(None, distance="l1"), "distance must be one of"),
        (lambda: d.soft_loss(*pair(), math.inf), "temperature must be above 0 and finite"),
        (lambda: d.soft_loss(torch.zeros(0, 3), torch.zeros(0, 3)), "n of 1 or more"),
        (lambda: d.Distillation(None, temperature=-1), "temperature must be above 0"),
        (lambda: d.falling(0, 1), "high must be above 0"),
        (lambda: d.falling(1, math.inf), "low must be above 0 and finite"),
        (lambda: d.layer_map(5, 4), "student must be 1 to 4 layers"),
        (lambda: d.layer_map(2, 4, "middle"), "kind must be one of"),
        (lambda: d.Cohort([small()]), "students must be at least 2"),
        (lambda: d.Tap(small(), ["9"]), "got 9"),
        (lambda: d.Hints(small(), {}, None, "l1"), "kind must be one of"),
        (
            lambda: d.Hints(small(), {}, None, "attention", keep=lambda b: b.x != 0),
            "keep must be None",
        ),
        (
            lambda: d.kept(torch.rand(2, 3, 5), torch.ones(2, 4, dtype=torch.bool)),
            "a place for every",
        ),
    ],
)
def test_bad_input_is_answered(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_features_of_different_size_are_refused():
    data = load("digits")
    soft = d.Distillation(d.cached(conv((4, 8)), data.train.x))
    hints = d.Hints(conv((4, 8)), {"0": "2"}, soft)
    with pytest.raises(ValueError, match="features of the same size"):
        fit(conv((4, 8)), data.train, 1, loss=hints, hooks=[hints], progress=False)
