"""Tickets: what is gone stays gone, what is rewound is where it was, and work survives an interruption."""

import itertools
import json
from concurrent.futures import Executor, Future

import pytest
import torch

from compresslab import models
from compresslab.data import load
from compresslab.techniques import tickets as t
from compresslab.techniques.prune import Mask
from compresslab.techniques.scores import magnitude, prunable
from compresslab.training import fit, seed_everything

QUICK = {"dataset": "digits", "size": 8, "train_size": 600, "epochs": 6, "remaining": (0.5, 0.2)}


class Here(Executor):
    """Runs everything at once, in this process; counts, and can be made to fail."""

    def __init__(self, fail_after=10**9):
        self.ran, self.fail_after = 0, fail_after

    def submit(self, function, *arguments):
        future = Future()
        self.ran += 1
        if self.ran > self.fail_after:
            future.set_exception(KeyboardInterrupt("stopped"))
        else:
            future.set_result(function(*arguments))
        return future


def network(seed=0):
    seed_everything(seed)
    return models.MLP((1, 8, 8), 10, (30, 20))


def test_masks_are_nested_and_have_the_shares_asked_for():
    data, start = load("digits"), network().state_dict()

    def train(model, hooks):
        fit(model, data.train, 1, 0.1, hooks=hooks, progress=False)

    found = list(
        t.search(network, train, (0.6, 0.36, 0.1), {k: v.clone() for k, v in start.items()})
    )
    assert found[0][:2] == (1.0, None)
    masks = [mask for _, mask, _ in found[1:]]
    for _, mask, trained in found[1:]:
        assert all((m.weight[~mask.keep[n]] == 0).all() for n, m in prunable(trained).items())
    for mask, share in zip(masks, (0.6, 0.36, 0.1), strict=True):
        assert 1 - mask.sparsity == pytest.approx(share, abs=0.001)
    for early, late in itertools.pairwise(masks):
        assert all((late.keep[n] <= early.keep[n]).all() for n in early.keep)


def test_the_next_mask_keeps_the_largest_of_what_is_left():
    model = network()
    first = t.next_mask(model, None, 0.5)
    with torch.no_grad():
        # What is gone grows; it must not come back.
        for name, layer in prunable(model).items():
            layer.weight[~first.keep[name]] = 100
    second = t.next_mask(model, first, 0.25)
    sizes = torch.cat([s[first.keep[n]] for n, s in magnitude(model).items()])
    kept = torch.cat([second.keep[n][first.keep[n]] for n in first.keep])
    assert all((second.keep[n] <= first.keep[n]).all() for n in first.keep)
    assert sizes[kept].min() >= sizes[~kept].max()


def test_a_shuffled_mask_keeps_each_layers_count_and_nothing_else():
    mask = t.next_mask(network(), None, 0.3)
    other = t.shuffled(mask, 0)
    assert mask.of_layers() == other.of_layers()
    assert t.mask_distance(mask, other) > 0.3
    assert t.mask_distance(mask, mask) == 0


def test_signs_stay_and_magnitudes_become_one_a_layer():
    state = network().state_dict()
    got = t.with_signs_only(state, prunable(network()))["1.weight"]
    assert torch.equal(got.sign(), state["1.weight"].sign())
    assert got.abs().unique().numel() == 1
    assert got.square().mean().sqrt() == pytest.approx(
        float(state["1.weight"].square().mean().sqrt())
    )
    assert torch.equal(state["1.weight"], network().state_dict()["1.weight"])


def test_mask_distance_is_the_share_of_differing_weights():
    one = Mask({"a": torch.tensor([True, True, False]), "b": torch.tensor([True])})
    other = Mask({"a": torch.tensor([True, False, True]), "b": torch.tensor([True])})
    assert t.mask_distance(one, other) == 0.5


def test_an_early_bird_stops_when_its_masks_have_settled():
    bird = t.EarlyBird(0.3, limit=0.5, patience=2)
    data, model = load("digits"), network()
    fit(model, data.train, 4, 0.05, hooks=[bird], progress=False)
    assert len(bird.masks) == 4
    assert len(bird.distances) == 3
    assert bird.found == 3
    assert t.EarlyBird(0.3, limit=0.0).found is None


def test_every_variant_runs_and_is_repeatable():
    trial = t.Trial(1, variants=t.VARIANTS, **QUICK)
    results = t.run_trial(trial)
    assert list(results) == ["dense", *t.VARIANTS]
    assert all([share for share, _ in results[kind]] == [0.5, 0.2] for kind in t.VARIANTS)
    assert results["dense"][0][1] > 50
    assert results == t.run_trial(trial)


def test_controls_change_what_their_names_say_and_nothing_else():
    lab = t._Laboratory(t.Trial(3, **QUICK), load("digits"))
    mask = t.next_mask(lab.build(), None, 0.5)
    model, kept = lab.control("random", mask)
    assert all(map(torch.equal, model.state_dict().values(), lab.start.values()))
    assert kept.of_layers() == mask.of_layers()
    assert t.mask_distance(kept, mask) > 0.3
    model, kept = lab.control("reinitialised", mask)
    assert kept is mask
    assert not torch.equal(model.state_dict()["1.weight"], lab.start["1.weight"])
    model, kept = lab.control("signs", mask)
    assert kept is mask
    assert torch.equal(model.state_dict()["1.weight"].sign(), lab.start["1.weight"].sign())


@pytest.mark.parametrize(
    "values,words",
    [
        ({"variants": ("lucky",)}, "variants must be"),
        ({"remaining": (0.5, 0.6)}, "remaining must fall"),
    ],
)
def test_a_trial_that_cannot_be_run_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        t.Trial(**({"seed": 0, "remaining": (0.5,)} | values))


def test_work_goes_on_where_it_was_interrupted(tmp_path):
    trials = [t.Trial(seed, **QUICK) for seed in (0, 1, 2)]
    with pytest.raises(KeyboardInterrupt):
        t.run_all(trials, tmp_path, Here(fail_after=2), progress=False)
    assert 1 <= len(list(tmp_path.glob("*.json"))) <= 2
    written = len(list(tmp_path.glob("*.json")))
    executor = Here()
    results = t.run_all(trials, tmp_path, executor, progress=False)
    assert executor.ran == 3 - written
    assert list(results) == trials
    assert t.run_all(trials, tmp_path, Here(fail_after=0), progress=False) == results


def test_a_torn_file_is_run_again(tmp_path):
    trial = t.Trial(0, **QUICK)
    results = t.run_all([trial], tmp_path, Here(), progress=False)
    path = tmp_path / trial.file_name
    assert json.loads(path.read_text())["trial"]["seed"] == 0
    path.write_text(path.read_text()[:20])
    executor = Here()
    assert t.run_all([trial], tmp_path, executor, progress=False) == results
    assert executor.ran == 1
