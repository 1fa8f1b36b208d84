"""Stages and the advisor: stages do what they say, reports are of written files, constraints hold."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from compresslab import models, stages
from compresslab.advisor import Advisor, Candidate, Scenario
from compresslab.data import load
from compresslab.measure import deployed, working_bytes
from compresslab.runtime import files, peers
from compresslab.runtime.convert import ConversionError, convert, convert_dynamic
from compresslab.runtime.dynamic import DynamicInt8Linear
from compresslab.runtime.program import Program
from compresslab.runtime.steps.integer import IntegerLayer, IntLogits
from compresslab.stages import (
    Binary,
    CutChannels,
    Distill,
    Dynamic,
    LowRank,
    Material,
    Once,
    Prune,
    Quantize,
    Share,
    Stage,
    Weights,
)
from compresslab.stages import stage as stage_module
from compresslab.techniques import qat, sharing
from compresslab.techniques.binarize import XnorNet
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig
from compresslab.training import evaluate, fit, logits, seed_everything

WIDTHS = (16, 16, 32)


@pytest.fixture(scope="module")
def data():
    return load("digits")


@pytest.fixture(scope="module")
def network(data):
    seed_everything(0)
    network = models.VGGLike(data.shape, 10, WIDTHS)
    fit(network, data.train, 6, 0.1, batch_size=32, progress=False)
    return network


@pytest.fixture(scope="module")
def material(data):
    return Material(data.train.x[:100], data.train.first(400), epochs=1)


def zeros(model):
    return sum(int((p == 0).sum()) for p in model.parameters() if p.ndim > 1)


STAGES = {
    "prune": lambda d: Prune(0.5),
    "cut": lambda d: CutChannels(0.5),
    "low rank": lambda d: LowRank(0.5),
    "share": lambda d: Share(7),
    "student": lambda d: Distill(lambda: models.MLP(d.shape, 10, (8,)), 1),
    "int8": lambda d: Quantize(8),
    "4 bits, tuned": lambda d: Quantize(4, epochs=1),
    "binary": lambda d: Binary(lambda: XnorNet(d.shape, 10, (16, 16, 32)), 1),
    "weights": lambda d: Weights(4, group=2),
    "weights, GPTQ": lambda d: Weights(4, 2, "gptq"),
    "dynamic": lambda d: Dynamic(),
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())
def test_no_stage_changes_the_network_that_it_is_given(stage, network, material, data):
    before = copy.deepcopy(network.state_dict())
    stage(data)(network, material)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())
def test_every_stage_is_measured_by_the_same_numbers(stage, network, material, data):
    found = stages.report("x", stage(data)(network, material), data.val).measurement
    whole = stages.report("float", network, data.val).measurement
    assert found.bytes_disk < files.size(network)
    assert 0 < found.nonzeros <= found.parameters
    assert found.latency[1].median > 0
    assert 0 <= found.accuracy <= 100
    assert found.macs > 0
    if isinstance(stage(data), Prune | Share | Quantize | Weights | Dynamic):
        weights = [p.numel() for p in network.parameters() if p.ndim > 1]
        # Norms are folded into integer layers, so only the weights are comparable.
        assert sum(weights) <= found.parameters <= whole.parameters + 200


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())
def test_what_a_stage_left_comes_back_from_its_file(stage, network, material, data, tmp_path):
    kept = deployed(stage(data)(network, material))
    if any(isinstance(m, DynamicInt8Linear) for m in kept.modules()):
        like = convert_dynamic(network)
    elif isinstance(stage(data), Distill):
        like = models.MLP(data.shape, 10, (8,))
    else:
        like = models.VGGLike(data.shape, 10, WIDTHS)
    before = copy.deepcopy(like.state_dict())
    files.save(kept, tmp_path / "n")
    back = files.load(tmp_path / "n", like)
    # Layouts may differ, and with them the order of sums.
    assert torch.allclose(logits(back, data.val.x), logits(kept, data.val.x), atol=1e-4)
    assert all(torch.equal(v, like.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize("train", [True, False])
def test_pruning_leaves_the_fraction_that_was_asked_for(train, network, material, data):
    material = material if train else Material(material.images)
    pruned = Prune(0.75)(network, material)
    weights = sum(p.numel() for p in pruned.parameters() if p.ndim > 1)
    assert zeros(pruned) == pytest.approx(0.75 * weights, abs=2)


def test_cutting_half_of_the_channels_leaves_half(network, material):
    small = CutChannels(0.5)(network, material)
    widths = [m.out_channels for m in small.modules() if isinstance(m, torch.nn.Conv2d)]
    assert widths == [w // 2 for w in WIDTHS]


def test_reports_follow_the_stages_in_order(network, material, data):
    reports = stages.run([Prune(0.5), Quantize(8)], network, material, data.val)
    assert [r.stage for r in reports] == ["start", "Prune(0.5)", "Quantize(8)"]
    assert reports[0].measurement.accuracy == evaluate(network, data.val)
    # A simulation has no file: its row is that of the integers it stands for.
    program = deployed(reports[-1].network)
    assert isinstance(program, Program)
    assert reports[-1].measurement.bytes_disk == files.size(program)
    assert reports[-1].measurement.accuracy == evaluate(program, data.val)


def test_zeros_survive_sharing_and_rounding(network, material):
    pruned = Prune(0.6)(network, material)
    shared = sharing.unshared(Share(5)(pruned, material))
    simulated = Quantize(8)(pruned, material)
    for name, layer in pruned.named_modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            gone = layer.weight == 0
            assert bool((shared.get_submodule(name).weight[gone] == 0).all())
            rounded = simulated.get_submodule(name)
            assert bool((rounded.weight_quantizer(rounded.layer.weight)[gone] == 0).all())


def test_a_stage_that_must_learn_needs_something_to_learn_from(network, data):
    nothing = Material(data.train.x[:10])
    with pytest.raises(ValueError, match="material must have train for a student"):
        Distill(lambda: models.MLP(data.shape, 10), 1)(network, nothing)
    with pytest.raises(ValueError, match="material must have train for a binary"):
        Binary(lambda: XnorNet(data.shape, 10), 1)(network, nothing)


def test_without_training_material_nothing_is_trained(network, data):
    nothing = Material(data.train.x[:50])
    for stage in (Quantize(8, epochs=5), LowRank(0.5)):
        one, other = (stage(network, nothing) for _ in range(2))
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


def test_a_stage_that_runs_once_is_run_again_for_another_network(network, material):
    calls = []

    class Counted(Stage):
        def __call__(self, model, _material):
            calls.append(model)
            return copy.deepcopy(model)

    stage = Once(Counted())
    other = copy.deepcopy(network)
    assert stage(network, material) is stage(network, material)
    stage(other, material)
    assert calls == [network, other]


def test_own_answers_are_the_networks(network, data):
    found = stages.own_answers(network, data.train.x[:30])
    assert evaluate(network, found) == 100


def test_stages_print_themselves_as_they_are_written():
    stages = [Prune(0.85), Quantize(4), Quantize(4, epochs=0), Share(15, lr=0.05), Dynamic()]
    assert repr(stages) == (
        "[Prune(0.85), Quantize(4), Quantize(4, epochs=0), Share(15, lr=0.05), Dynamic()]"
    )
    assert repr(Dynamic(words=None)) == "Dynamic(words=None)"


@pytest.mark.parametrize(
    "build,words",
    [
        (lambda: Prune(1.0), "fraction must be a number between 0 and 1, got 1.0"),
        (lambda: Prune(True), "fraction must be"),
        (lambda: CutChannels(0), "fraction must be a number between 0 and 1, got 0"),
        (lambda: Quantize(1), "weight_bits must be an integer from 2 to 8, got 1"),
        (lambda: Quantize(4, activation_bits=9), "activation_bits must be"),
        (lambda: Weights(4, method="magic"), "method must be nearest or gptq, got 'magic'"),
    ],
)
def test_settings_that_mean_nothing_are_refused_when_they_are_written(build, words):
    with pytest.raises(ValueError, match=words):
        build()


# ---- compress ------------------------------------------------------------------------------------
def test_a_list_of_stages_gives_what_runs(network, data):
    few = replace(data, train=data.train.first(300))
    small = stages.compress(
        network, [Prune(0.5), Quantize(4, epochs=1)], few, epochs=1, progress=False
    )
    assert isinstance(small, Program)
    assert files.size(small) < files.size(network) / 4
    codes = [s.codes() for s in small.layers if isinstance(s, IntegerLayer | IntLogits)]
    gone = sum(int((c == 0).sum()) for c in codes) / sum(c.size for c in codes)
    assert gone >= 0.5


@pytest.mark.parametrize(
    "after",
    [
        *(Quantize(8), Quantize(4, epochs=0), Quantize(4, epochs=2), Quantize(3, epochs=2)),
        *(Quantize(4, epochs=0, rounding="learned"), Prune(0.5)),
    ],
    ids=repr,
)
def test_what_one_stage_has_pruned_no_later_one_brings_back(network, data, after):
    """Nothing to choose by: the tuned network is taken, whether it is better or not."""
    few = replace(data, train=data.train.first(300), val=data.val.first(0))
    small = stages.compress(network, [Prune(0.8), after], few, epochs=1, progress=False)
    if isinstance(small, Program):
        layers = [s for s in small.layers if isinstance(s, IntegerLayer | IntLogits)]
        found = [torch.from_numpy(s.codes().astype("int32")) for s in layers]
    else:
        found = [p.detach() for p in small.parameters() if p.ndim > 1]
    gone = sum(int((w == 0).sum()) for w in found) / sum(w.numel() for w in found)
    assert gone >= 0.8 - 1e-4


@pytest.mark.parametrize("method", ["nearest", "gptq"])
def test_packed_weights_keep_the_zeros_too(data, method):
    seed_everything(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
    fit(network, data.train, 3, 0.1, batch_size=32, progress=False)
    pruned = stages.compress(network, [Prune(0.8)], data, epochs=1, progress=False)
    packed = stages.compress(pruned, [Weights(4, method=method)], data, progress=False)
    rows = torch.eye(64)
    with torch.no_grad():
        first = packed[1](rows) - packed[1](torch.zeros(1, 64))
    # The bias is added to each product, and taken off again: what is left of 0 is rounding.
    assert float(first.T[pruned[1].weight == 0].abs().max()) < 1e-5


def test_a_layer_that_was_made_of_zeros_learns(data):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(network[1].weight)
    tuned = qat.tune(network, QuantConfig(4, 8), data.train, 1, 0.05, progress=False)
    assert sum(int((p != 0).sum()) for p in tuned.parameters() if p.ndim > 1) > 300


def test_a_tuning_that_harms_is_not_kept_and_that_is_said(network, data, capsys):
    few = replace(data, train=data.train.first(300))
    kept = stages.compress(network, [Prune(0.3)], few, epochs=1, lr=30.0, progress=False)
    assert evaluate(kept, data.val) > evaluate(network, data.val) - 10
    assert "the untuned network is kept" in capsys.readouterr().out


def test_answers_that_are_far_from_the_float_networks_are_said(network, data, capsys):
    stages.compress(network, [Quantize(8)], data.train.x[:60])
    assert "dB from those of the network before" not in capsys.readouterr().out
    stages.compress(network, [Quantize(2)], data.train.x[:60])
    assert "dB from those of the network before" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change,words",
    [
        ({"stages": []}, "stages must be a list of stages such as Prune.0.85., got an empty list"),
        ({"stages": ["prune"]}, "stages must be a list of stages .*, got 'prune'"),
        ({"stages": [Prune]}, "stages must be a list"),
        ({"data": 3}, "data must be a data set, examples or a tensor of inputs"),
        ({"data": torch.rand(0, 1, 8, 8)}, "data must be"),
        ({"data": torch.rand(4, 3, 8, 8)}, "does not take inputs of shape"),
        ({"network": "half"}, "network must be in float32, .* is torch.float16: network.float"),
        ({"network": "meta"}, "network must be on the CPU"),
        ({"network": None}, "network must be a network, a torch.nn.Module, got None"),
    ],
)
def test_what_cannot_be_compressed_is_refused_and_nothing_is_changed(change, words, network, data):
    made = {"half": lambda n: n.half(), "meta": lambda n: n.to("meta")}
    given = {"network": copy.deepcopy(network), "stages": [Prune(0.5)], "data": data} | change
    if isinstance(given["network"], str):
        given["network"] = made[given["network"]](copy.deepcopy(network))
    with pytest.raises(ValueError, match=words):
        stages.compress(**given)


def test_what_a_later_stage_refuses_is_refused_before_anything_is_trained(data, monkeypatch):
    monkeypatch.setattr(stage_module, "train_in_place", lambda *a, **o: pytest.fail("trained"))
    odd = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.Softmax2d(), torch.nn.Flatten(), torch.nn.Linear(144, 10)
    )
    with pytest.raises(ConversionError, match="Softmax2d"):
        stages.compress(odd, [Prune(0.5), Quantize(8)], data)


def test_a_network_in_training_mode_stays_in_it(network, data):
    training = copy.deepcopy(network).train()
    stages.compress(training, [Quantize(8)], data.train.x[:50])
    assert all(m.training for m in training.modules())


# ---- working memory ------------------------------------------------------------------------------
def test_working_memory_is_the_largest_input_and_output():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 10)
    )
    assert working_bytes(network, (1, 6, 6)) == 4 * (4 * 36 + 4 * 36)


def test_integers_work_in_a_byte_each(network, data):
    program = convert(quantize_post_training(network, QuantConfig(), data.train.x[:50]))
    # The quantizer's floats come in; behind it 16 channels of 8x8 codes are read and written.
    pooled = 16 * 64 + 16 * 16
    assert working_bytes(program, data.shape) == max(64 * 5, 64 + 16 * 64, pooled)


def test_what_waits_for_an_addition_counts_in_an_integer_network():
    """At the addition there are an image, what a layer made of it, and the sum: three times 16 x 64 codes."""

    class Skip(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Conv2d(1, 16, 3, padding=1)
            self.other = torch.nn.Conv2d(16, 16, 3, padding=1)
            self.last = torch.nn.Linear(16 * 64, 2)

        def forward(self, x):
            x = torch.relu(self.one(x))
            return self.last((x + self.other(x)).flatten(1))

    program = stages.compress(Skip().eval(), [Quantize(8)], torch.randn(20, 1, 8, 8))
    assert working_bytes(program, (1, 8, 8)) == 3 * 16 * 64


# ---- the advisor ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def advised(network, data):
    return Advisor(network, data, train=400, epochs=1, widths=WIDTHS)


def names(found):
    return {c.name for c in found if "ONNX" not in c.name}


def test_rules_propose_more_the_more_presses(advised):
    size = advised.float_bytes
    assert names(advised.candidates(Scenario("easy"))) == {"int8"}
    assert names(advised.candidates(Scenario("5 x", max_bytes=size / 5))) == {
        "int8",
        "4 bits, trained",
        "half the channels, int8",
        "pruned, shared",
    }
    tight = names(advised.candidates(Scenario("12 x", max_bytes=size / 12)))
    assert tight >= {"2 bits, trained", "half the channels, 4 bits", "binary"}
    fast = names(advised.candidates(Scenario("fast", min_speedup=2)))
    assert fast == {"int8", "half the channels, int8", "student of half the width, int8"}
    good = names(advised.candidates(Scenario("good", max_points_lost=0)))
    assert good == {"int8", "int8, trained", "student of its own width, int8"}


def test_a_microcontroller_is_offered_integers_only(advised):
    tight = Scenario("small", max_bytes=advised.float_bytes / 12, hardware="microcontroller")
    assert not {"binary", "pruned, shared"} & {c.name for c in advised.candidates(tight)}
    assert not any("ONNX" in c.name for c in advised.candidates(tight))


def test_nothing_is_trained_where_nothing_may_be(advised, monkeypatch):
    monkeypatch.setattr(stage_module, "train_in_place", lambda *a, **o: pytest.fail("trained"))
    frozen = Scenario("frozen", max_bytes=advised.float_bytes / 5, may_train=False)
    advice = advised.advise(frozen)
    assert names(advice.verdicts) == {"int8", "4 bits", "pruned a little, shared"}


def test_labels_are_not_looked_at_where_there_are_none(network, data):
    wrong = replace(data.train, y=torch.zeros_like(data.train.y))
    blind = Advisor(network, replace(data, train=wrong), train=300, epochs=1)
    scenario = Scenario("no labels", labels=False)
    assert evaluate(network, blind.material(scenario).train) == 100
    assert torch.equal(blind.material(Scenario("labels")).train.y, wrong.y[:300])


def test_every_verdict_is_that_of_the_network_it_names(advised, network, data):
    scenario = Scenario("some", max_bytes=advised.float_bytes / 5, max_points_lost=3)
    advice = advised.advise(scenario)
    for verdict in advice.verdicts:
        assert verdict.points_lost == pytest.approx(
            evaluate(network, data.val) - evaluate(verdict.network, data.val), abs=1e-9
        )
        worst = verdict.points_lost + verdict.standard_error
        expected = {"bytes": verdict.bytes > scenario.max_bytes, "lost": worst > 3}
        told = {"bytes": any("B are allowed" in f for f in verdict.failed)}
        told["lost"] = any("points lost" in f for f in verdict.failed)
        assert told == expected
    failures = [len(v.failed) for v in advice.verdicts]
    assert failures == sorted(failures)
    assert (advice.best is None) == (failures[0] > 0)


def test_speed_is_measured_and_held_against_the_wish(advised):
    advice = advised.advise(Scenario("impossible", min_speedup=1e6, batch=8))
    assert advice.best is None
    assert all(v.speedup > 0 for v in advice.verdicts)
    assert all(any("of 1e+06 times faster" in f for f in v.failed) for v in advice.verdicts)


def test_on_a_microcontroller_activations_count(advised, data):
    scenario = Scenario("mcu", max_bytes=20_000, max_points_lost=50, hardware="microcontroller")
    for verdict in advised.advise(scenario).verdicts:
        assert isinstance(verdict.network, Program)
        assert verdict.bytes == files.size(verdict.network) + working_bytes(
            verdict.network, data.shape
        )
        assert math.isnan(verdict.speedup)


def test_a_candidate_of_ones_own_is_judged_beside_the_others(advised, material):
    class Nothing(Stage):
        def __call__(self, model, _material):
            return copy.deepcopy(model)

    mine = Candidate("mine", "it changes nothing", [Nothing()])
    advice = advised.advise(Scenario("easy", max_bytes=10_000), also=[mine])
    found = next(v for v in advice.verdicts if v.name == "mine")
    assert found.points_lost == 0
    assert found.failed
    floats_only = Scenario("mcu", hardware="microcontroller", max_points_lost=1)
    advice = advised.advise(floats_only, also=[mine])
    found = next(v for v in advice.verdicts if v.name == "mine")
    assert "needs floating point" in found.failed


def test_a_name_of_the_rules_is_not_taken_twice(advised):
    for taken in (["int8"], ["mine", "mine"], [""]):
        own = [Candidate(name, "", []) for name in taken]
        with pytest.raises(ValueError, match="also must have names of its own"):
            advised.advise(Scenario("easy"), also=own)


def test_a_candidate_of_ones_own_does_not_pose_as_a_rules_later(advised, data):
    class Other(Stage):
        def __call__(self, _model, _material):
            return models.MLP(data.shape, 10, (300, 300))

    fake = Candidate("4 bits, trained", "", [Other()])
    advised.advise(Scenario("easy"), also=[fake])
    tight = advised.advise(Scenario("5 x", max_bytes=advised.float_bytes / 5))
    found = next(v for v in tight.verdicts if v.name == "4 bits, trained")
    assert isinstance(found.network, Program)


def test_a_program_with_steps_in_floats_is_not_for_a_microcontroller(advised, material, data):
    binary = Binary(lambda: XnorNet(data.shape, 10, (16, 16, 32)), 0.1)
    mine = Candidate("bits", "", [binary])
    scenario = Scenario("mcu", max_points_lost=200, hardware="microcontroller")
    found = next(v for v in advised.advise(scenario, also=[mine]).verdicts if v.name == "bits")
    assert found.failed == ("needs floating point",)


def test_what_cannot_be_built_stays_in_the_table_with_the_reason(advised):
    class Refuse(Stage):
        def __call__(self, model, _material):
            raise ValueError("layer 'x' has no integer counterpart")

    advice = advised.advise(Scenario("easy"), also=[Candidate("mine", "", [Refuse()])])
    assert advice.verdicts[-1].failed == ("cannot be built: layer 'x' has no integer counterpart",)
    assert "has no integer counterpart" in str(advice.table())
    assert advice.best is not None


def test_the_callers_network_is_not_touched(data):
    seed_everything(1)
    network = models.VGGLike(data.shape, 10, (8, 8, 8)).train()
    strides = [p.stride() for p in network.parameters()]

    class Spoil(Stage):
        def __call__(self, model, _material):
            for p in model.parameters():
                p.data.zero_()
            return model

    adviser = Advisor(network, data, train=50, epochs=0.1)
    before = evaluate(adviser.network, data.val)
    adviser.advise(Scenario("easy"), also=[Candidate("spoiled", "", [Spoil()])])
    assert evaluate(adviser.network, data.val) == before
    assert network.training
    assert [p.stride() for p in network.parameters()] == strides


def test_a_batch_of_more_images_than_there_are_is_refused(advised):
    with pytest.raises(ValueError, match="batch must be at most"):
        advised.advise(Scenario("many", batch=10**6, min_speedup=1))


def test_shared_weights_are_made_plain_before_another_technique(network, material):
    shared = Share(5)(network, material)
    for stage in (Prune(0.5), CutChannels(0.5), LowRank(0.5), Quantize(8), Share(3), Dynamic()):
        assert stage(shared, material) is not shared


def test_the_table_says_what_failed(advised):
    text = str(advised.advise(Scenario("impossible", max_bytes=10)).table())
    assert "where 10 B are allowed" in text
    assert "all constraints hold" not in text
    assert "all constraints hold" in str(advised.advise(Scenario("x", max_points_lost=99)).table())


@pytest.mark.parametrize(
    "options,what",
    [
        ({"hardware": "toaster"}, "hardware must be one of cpu, microcontroller, got 'toaster'"),
        ({"max_bytes": 0}, "max_bytes must be > 0"),
        ({"max_bytes": math.nan}, "max_bytes must be > 0"),
        ({"min_speedup": -1}, "min_speedup >= 0"),
        ({"batch": 0}, "batch must be an integer of 1 or more, got 0"),
        ({"batch": 1.5}, "batch must be an integer of 1 or more, got 1.5"),
        ({"labels": "no"}, "labels must be True or False, got 'no'"),
        ({"max_points_lost": math.nan}, "max_points_lost must be a number"),
        ({"hardware": "microcontroller", "min_speedup": 2}, "min_speedup must be 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(options, what):
    with pytest.raises(ValueError, match=what):
        Scenario("x", **options)


@pytest.mark.skipif(not peers.onnxruntime_available(), reason="ONNX Runtime is not installed")
def test_another_engine_is_a_candidate_and_has_a_file(advised, tmp_path):
    advice = advised.advise(Scenario("easy"))
    found = next(v for v in advice.verdicts if "ONNX" in v.name)
    path = tmp_path / "m.onnx"
    assert files.save(found.network, path) == found.bytes
    back = files.load(path)
    x = torch.rand(3, *advised.data.shape)
    assert torch.equal(back(x), found.network(x))
