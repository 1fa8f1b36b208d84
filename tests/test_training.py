"""The training loop: it learns, repeats, obeys its hooks, and stops when it diverges."""

import math

import pytest
import torch
from torch import nn

from compresslab import models, shorter
from compresslab.data import Examples, corpus, load
from compresslab.experiment import fit_all
from compresslab.gpt import GPT, perplexity
from compresslab.measure import race
from compresslab.training import Hook, TrainingDiverged, evaluate, fit, logits, seed_everything


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def mlp(data, seed=0):
    seed_everything(seed)
    return models.MLP(data.shape, len(data.classes), (32,))


def test_it_learns_the_digits(digits):
    model = mlp(digits)
    before = evaluate(model, digits.test)
    fit(model, digits.train, epochs=20, lr=0.1, batch_size=64, progress=False)
    assert before < 30
    assert evaluate(model, digits.test) > 90
    assert not model.training


def test_a_run_repeats_for_its_seed_and_differs_for_another(digits):
    def losses(seed):
        return fit(mlp(digits), digits.train, epochs=1, seed=seed, progress=False).losses

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


def test_one_variable_makes_every_epoch_shorter_and_none_longer(digits, monkeypatch):
    class Epochs(Hook):
        count = 0

        def after_epoch(self, run):
            self.count += 1

    def trained(data, epochs, hooks=()):
        return len(fit(mlp(digits), data, epochs, hooks=hooks, progress=False).losses)

    monkeypatch.setenv(shorter.STEPS, "6")
    assert trained(digits.train, 1) == 6
    assert trained(digits.train, 0.5) <= 6
    few = digits.train.first(200)
    assert trained(few, 1) == 2
    seen = Epochs()
    assert trained(digits.train, 3, [seen]) == 6
    assert seen.count == 3
    assert trained(digits.train, 20, [more := Epochs()]) == more.count == 20
    networks = [mlp(digits), mlp(digits, 1)]
    assert len(fit_all(networks, digits.train, 1, 0.1, seeds=[0, 1], label="two")) == 2
    monkeypatch.setenv(shorter.STEPS, "none")
    with pytest.raises(ValueError, match="COMPRESSLAB_STEPS must be a whole number from 1 to"):
        fit(mlp(digits), few, progress=False)


def test_the_same_variable_measures_accuracy_and_perplexity_on_the_first_ones_and_races_once(
    digits, monkeypatch
):
    network, data = mlp(digits), digits.test
    writer = GPT(10, 4, width=16, layers=1, heads=2).eval()
    tokens = torch.randint(10, (7, 5), generator=torch.Generator().manual_seed(0))
    passages = corpus.Passages(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    wanted = evaluate(network, data.first(60)), perplexity(writer, passages.first(1))
    assert wanted != (evaluate(network, data), perplexity(writer, passages))
    rounds = []
    monkeypatch.setenv(shorter.STEPS, "6")
    assert (evaluate(network, data), perplexity(writer, passages)) == wanted
    race({"it": lambda: rounds.append(0)}, rounds=9)
    assert len(rounds) == 2  # one that does not count


def test_hooks_are_called_at_their_moments(digits):
    seen = []

    class Watch(Hook):
        def before_training(self, run):
            seen.append("before")

        def after_backward(self, run):
            assert all(p.grad is not None for p in run.model.parameters())
            seen.append("backward")

        def after_step(self, run):
            seen.append("step")

        def after_epoch(self, run):
            seen.append("epoch")

    data = digits.train.first(100)
    fit(mlp(digits), data, epochs=2, batch_size=50, hooks=[Watch()], progress=False)
    assert seen == [
        "before",
        *["backward", "step"] * 2,
        "epoch",
        *["backward", "step"] * 2,
        "epoch",
    ]


def test_a_loss_sees_the_images_their_labels_and_their_places(digits):
    data, places = digits.train.first(90), []

    def loss(model, batch):
        assert torch.equal(batch.x, data.x[batch.index])
        assert torch.equal(batch.y, data.y[batch.index])
        places.extend(batch.index.tolist())
        return model(batch.x).square().mean()

    fit(mlp(digits), data, epochs=1, batch_size=40, loss=loss, progress=False)
    assert sorted(places) == list(range(90))


def test_a_fraction_of_an_epoch_is_a_fraction_of_the_steps(digits):
    run = fit(mlp(digits), digits.train.first(100), epochs=0.5, batch_size=10, progress=False)
    assert len(run.losses) == 5


def test_no_epochs_change_nothing(digits):
    model = mlp(digits)
    before = [p.clone() for p in model.parameters()]
    fit(model, digits.train, epochs=0, progress=False)
    assert all(map(torch.equal, before, model.parameters()))


def test_divergence_is_reported_at_its_step(digits):
    data = digits.train.first(64)
    spoilt = Examples(data.x * math.nan, data.y)
    with pytest.raises(TrainingDiverged, match=r"became nan at step 1 of 1 .*lower lr"):
        fit(mlp(digits), spoilt, epochs=1, progress=False)


@pytest.mark.parametrize(
    "arguments", [{"lr": 0}, {"lr": math.nan}, {"epochs": -1}, {"batch_size": 0}]
)
def test_impossible_settings_are_named(digits, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        fit(mlp(digits), digits.train, progress=False, **arguments)


def test_no_data_is_refused(digits):
    empty = digits.train.first(0)
    with pytest.raises(ValueError, match="at least one example"):
        fit(mlp(digits), empty, progress=False)
    with pytest.raises(ValueError, match="at least one example"):
        evaluate(mlp(digits), empty)


def test_frozen_parameters_stay(digits):
    model = mlp(digits)
    model[1].weight.requires_grad_(False)
    before = model[1].weight.clone()
    fit(model, digits.train.first(100), epochs=1, progress=False)
    assert torch.equal(before, model[1].weight)


def test_evaluation_counts_right_answers_and_puts_training_mode_back():
    class Parrot(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot(x[:, 0, 0, 0].long(), 4).float()

    x = torch.tensor([0.0, 1, 2, 3]).reshape(4, 1, 1, 1)
    model = Parrot().train()
    assert evaluate(model, Examples(x, torch.tensor([0, 1, 2, 0]))) == 75
    assert model.training
    assert logits(model, x, batch_size=3).shape == (4, 4)
