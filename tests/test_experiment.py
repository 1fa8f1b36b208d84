"""Seeds, networks side by side, and the trained starts that the package carries."""

import threading
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

from compresslab import baselines, experiment, models, seeds, shorter
from compresslab.data import load
from compresslab.experiment import built, fit_all, mean_and_sd, side_by_side
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig
from compresslab.training import Hook, evaluate, fit, seed_everything


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(experiment, "usable_cores", lambda: 2)


# ---- seeds ---------------------------------------------------------------------------------------
def test_one_variable_shifts_every_seed(monkeypatch):
    monkeypatch.delenv(seeds.VARIABLE, raising=False)
    assert seeds.seeds(3) == (0, 1, 2)
    monkeypatch.setenv(seeds.VARIABLE, "2")
    assert seeds.seeds(3) == (2000, 2001, 2002)
    assert experiment.begin() == (2000, 2001, 2002)


def test_one_variable_makes_them_fewer_and_never_more(monkeypatch):
    monkeypatch.setenv(shorter.SEEDS, "1")
    assert seeds.seeds(3) == (0,)
    monkeypatch.setenv(seeds.VARIABLE, "2")
    assert experiment.begin() == (2000,)
    monkeypatch.setenv(shorter.SEEDS, "7")
    assert experiment.begin() == (2000, 2001, 2002)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "one", "٣", "1001"])
def test_a_number_of_seeds_that_is_none_is_named(monkeypatch, value):
    monkeypatch.setenv(shorter.SEEDS, value)
    with pytest.raises(
        ValueError, match="COMPRESSLAB_SEEDS must be a whole number from 1 to 1,000"
    ):
        seeds.seeds(1)


@pytest.mark.parametrize("value", ["-1", "1.5", "one", "٣", "10000000"])
def test_a_shift_that_is_no_number_is_named(monkeypatch, value):
    monkeypatch.setenv(seeds.VARIABLE, value)
    with pytest.raises(ValueError, match="COMPRESSLAB_SEED must be a whole number"):
        seeds.seeds(1)


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_a_count_of_seeds_has_its_limits(count):
    with pytest.raises(ValueError, match="count must be 1 to 1000"):
        seeds.seeds(count)


def test_numpys_threads_do_not_spin_in_a_lab(monkeypatch):
    monkeypatch.delenv(experiment.THREADS, raising=False)
    with threadpool_limits(2, user_api="blas"):  # puts back what it found
        experiment.begin()
        found = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        assert found
        assert set(found) == {1}


def test_a_lab_begins_on_one_thread_with_the_generator_seeded(monkeypatch):
    monkeypatch.delenv(experiment.THREADS, raising=False)
    monkeypatch.delenv(seeds.VARIABLE, raising=False)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        experiment.begin()
        first = torch.rand(3)
        assert torch.get_num_threads() == 1
        monkeypatch.setenv(experiment.THREADS, "2")
        experiment.begin()
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.rand(3), first)
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setenv(experiment.THREADS, "none")
    with pytest.raises(ValueError, match="COMPRESSLAB_THREADS must be a whole number from 1"):
        experiment.begin()


# ---- side by side --------------------------------------------------------------------------------
def test_results_come_in_the_order_of_the_arguments(two_cores):
    assert side_by_side(lambda a, b: a * b, range(9), range(9)) == [n * n for n in range(9)]
    assert side_by_side(str, []) == []


def test_calls_run_at_the_same_time_on_one_torch_thread_each():
    threads = torch.get_num_threads()
    meeting = threading.Barrier(2, timeout=20)  # passes only if two calls wait at once
    try:
        torch.set_num_threads(2)
        found = side_by_side(
            lambda _: (meeting.wait(), torch.get_num_threads())[1], range(2), workers=2
        )
        assert found == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_torch_keeps_the_threads_that_were_asked_for(two_cores, monkeypatch):
    monkeypatch.setenv(experiment.THREADS, "2")
    threads = torch.get_num_threads()
    try:
        experiment.begin()
        assert side_by_side(lambda _: torch.get_num_threads(), range(2)) == [2, 2]
    finally:
        torch.set_num_threads(threads)


def test_an_error_of_a_call_is_raised_and_threads_are_put_back(two_cores):
    def fail(number):
        if number == 1:
            raise ZeroDivisionError("number one")
        return number

    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError, match="number one"):
        side_by_side(fail, range(4))
    assert torch.get_num_threads() == before


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="workers must be at least 1"):
        side_by_side(str, range(2), workers=0)
    with pytest.raises(ValueError, match="shorter"):
        side_by_side(max, range(3), range(2))


def test_a_network_is_not_traced_beside_others(two_cores, digits):
    networks = built(lambda: models.VGGLike(digits.shape, 10, (4, 8)), (0, 1))

    def quantize(network):
        return quantize_post_training(network, QuantConfig(), digits.train.x[:8])

    with pytest.raises(RuntimeError, match="cannot be traced inside side_by_side"):
        side_by_side(quantize, networks)
    assert len(side_by_side(quantize, networks, in_turn=True)) == 2


# ---- training side by side -----------------------------------------------------------------------
def small(digits):
    return models.VGGLike(digits.shape, len(digits.classes), (4, 8))


def same_weights(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_side_by_side_gives_what_training_in_turn_gives_bit_for_bit(two_cores, digits):
    together = built(lambda: small(digits), (5, 6, 7))
    fit_all(together, digits.train, 1.5, 0.1, seeds=(5, 6, 7), label="")
    for seed, network in zip((5, 6, 7), together, strict=True):
        seed_everything(seed)
        alone = small(digits).to(memory_format=torch.channels_last)
        fit(alone, digits.train, 1.5, 0.1, seed=seed, progress=False)
        assert same_weights(network, alone)
        assert not network.training


def test_every_network_has_its_own_loss_hooks_and_optimizer(two_cores, digits):
    seen = {0: 0, 1: 0}

    class Count(Hook):
        def __init__(self, index):
            self.index = index

        def after_step(self, run):
            seen[self.index] += 1
            assert isinstance(run.optimizer, torch.optim.Adam)

    def loss_of(factor):
        return lambda model, batch: factor * model(batch.x).square().mean()

    networks = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), (0, 1))
    begun = [network[1].weight.detach().clone() for network in networks]
    fit_all(
        networks,
        digits.train,
        1,
        0.01,
        seeds=(0, 1),
        label="",
        loss=[loss_of(1.0), loss_of(0.0)],
        hooks=lambda index: [Count(index)],
        optimizer=lambda n: torch.optim.Adam(n.parameters(), 0.01),
    )
    assert seen[0] == seen[1] > 0
    assert not torch.equal(networks[0][1].weight, begun[0])
    assert torch.equal(networks[1][1].weight, begun[1])


def test_what_draws_from_the_shared_generator_is_said(two_cores, digits):
    def noisy(model, batch):
        return (model(batch.x) + torch.rand(1)).square().mean()

    def train(**options):
        networks = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), (0, 1))
        return fit_all(
            networks, digits.train, 1, 0.01, seeds=(0, 1), label="noisy", loss=noisy, **options
        )

    with pytest.warns(UserWarning, match=r"noisy: training drew .* Pass in_turn=True"):
        train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(in_turn=True)


def test_as_many_seeds_and_losses_as_networks(digits):
    networks = built(lambda: small(digits), (0, 1))
    with pytest.raises(ValueError, match="equally many, got 2, 1 and 2"):
        fit_all(networks, digits.train, 1, 0.1, seeds=(0,), label="")


def test_mean_and_sd_are_numpy_s():
    values = [97.1, 96.4, 98.0]
    assert mean_and_sd(values) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert mean_and_sd(iter([5.0])) == (5.0, 0.0)
    with pytest.raises(ValueError, match="at least one number"):
        mean_and_sd([])


# ---- trained starts ------------------------------------------------------------------------------
def test_the_trained_starts_are_small():
    sizes = [(baselines.FOLDER / f"{n}.safetensors").stat().st_size for n in baselines.BASELINES]
    assert sum(sizes) < 8e6


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_a_trained_start_reaches_what_its_file_says(name, capsys):
    baseline, made = baselines.BASELINES[name], baselines.facts(name)
    data = baseline.data()
    networks = baselines.trained(name, data, baseline.seeds)
    assert "that the package carries" in capsys.readouterr().out
    assert (made["epochs"], made["rate"]) == (baseline.epochs, baseline.lr)
    for seed, network in zip(baseline.seeds, networks, strict=True):
        # Other processors round sums differently: an image or two of 4,000 may tip over.
        recorded = made["seeds"][str(seed)]["test accuracy, %"]
        assert evaluate(network, data.test) == pytest.approx(recorded, abs=0.1)
        assert not network.training


@pytest.mark.slow
def test_a_trained_start_can_be_made_again(tmp_path):
    again = baselines.make("mlp", tmp_path)["seeds"]
    recorded = baselines.facts("mlp")["seeds"]
    for seed in again:
        accuracy = "test accuracy, %"
        assert again[seed][accuracy] == pytest.approx(recorded[seed][accuracy], abs=1.5)
    data = baselines.BASELINES["mlp"].data()
    network = baselines.read("mlp", data, 1, tmp_path)
    assert evaluate(network, data.test) == pytest.approx(again["1"]["test accuracy, %"], abs=1e-3)


def test_other_data_other_seeds_and_fresh_ones_are_trained_here(digits, capsys, monkeypatch):
    quick = baselines.Baseline(small, 8_000, 300, 0.1, 0.1)
    monkeypatch.setitem(baselines.BASELINES, "vgg", quick)
    monkeypatch.setattr(baselines, "read", lambda *_: pytest.fail("a file was read"))
    assert len(baselines.trained("vgg", digits, (0, 1))) == 2
    glyphs = load("glyphs", size=16, train_size=8_000)
    baselines.trained("vgg", glyphs, (1000,))
    baselines.trained("vgg", glyphs, (0,), fresh=True)
    assert capsys.readouterr().out.count("trained here") == 3


def test_changed_weights_and_missing_files_are_refused(tmp_path):
    data = baselines.BASELINES["depthwise-small"].data()
    with pytest.raises(FileNotFoundError, match="compresslab checkpoint depthwise-small"):
        baselines.trained("depthwise-small", data, (0,), folder=tmp_path)
    source = baselines.FOLDER / "depthwise-small.safetensors"
    tensors = load_file(source)
    name = next(n for n in tensors if n.startswith("seed 0.") and n.endswith("weight"))
    tensors[name] = tensors[name] + 1e-6
    made = baselines.json.dumps(baselines.facts("depthwise-small"))
    save_file(tensors, tmp_path / source.name, metadata={"made": made})
    with pytest.raises(ValueError, match="other weights for seed 0 than were recorded"):
        baselines.trained("depthwise-small", data, (0,), folder=tmp_path)
    assert baselines.trained("depthwise-small", data, (1,), folder=tmp_path)
    with pytest.raises(ValueError, match="name must be one of mlp, vgg"):
        baselines.trained("vg", data, (0,))
