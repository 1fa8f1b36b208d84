"""Pipelines and the advisor: stages do what they say, reports are of written files, constraints hold."""

import copy
import math

import pytest
import torch

from compresslab import models, pipeline
from compresslab.advisor import INT8, W4, Advisor, Candidate, Scenario
from compresslab.data import load
from compresslab.measure import working_bytes
from compresslab.pipeline import Material
from compresslab.runtime import files, peers
from compresslab.runtime.program import Program
from compresslab.techniques import sharing
from compresslab.techniques.binarize import XnorNet
from compresslab.techniques.ptq import quantize_post_training
from compresslab.training import evaluate, fit, seed_everything

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
    "prune": lambda m, d: pipeline.prune(m, 0.5),
    "cut": lambda m, d: pipeline.cut_channels(m, 0.5),
    "low rank": lambda m, d: pipeline.low_rank(m, 0.5),
    "share": lambda m, d: pipeline.share(m, 7),
    "student": lambda m, d: pipeline.student(m, lambda: models.MLP(d.shape, 10, (8,)), 1),
    "int8": lambda m, d: pipeline.quantize(m, INT8),
    "4 bits, tuned": lambda m, d: pipeline.quantize(m, W4, epochs=1),
    "binary": lambda m, d: pipeline.binary(m, lambda: XnorNet(d.shape, 10, (16, 16, 32)), 1),
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())
def test_no_stage_changes_the_network_that_it_is_given(stage, network, material, data):
    before = copy.deepcopy(network.state_dict())
    stage(material, data)(network)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())
def test_every_stage_gives_a_network_that_can_be_reported(stage, network, material, data):
    found = pipeline.report("x", stage(material, data)(network), data.val)
    assert found.bytes_disk < files.size(network)
    assert found.seconds > 0
    assert 0 <= found.accuracy <= 100


@pytest.mark.parametrize("train", [True, False])
def test_pruning_leaves_the_share_that_was_asked_for(train, network, material, data):
    material = material if train else Material(material.images)
    pruned = pipeline.prune(material, 0.75)(network)
    weights = sum(p.numel() for p in pruned.parameters() if p.ndim > 1)
    assert zeros(pruned) == pytest.approx(0.75 * weights, abs=2)


def test_cutting_half_of_the_channels_leaves_half(network, material):
    small = pipeline.cut_channels(material, 0.5)(network)
    widths = [m.out_channels for m in small.modules() if isinstance(m, torch.nn.Conv2d)]
    assert widths == [w // 2 for w in WIDTHS]


def test_reports_follow_the_stages_in_order(network, material, data):
    stages = {
        "prune": pipeline.prune(material, 0.5),
        "int8": pipeline.quantize(material, INT8),
        "integers": pipeline.integers(),
    }
    reports = pipeline.run(stages, network, data.val)
    assert [r.stage for r in reports] == ["start", "prune", "int8", "integers"]
    assert reports[0].accuracy == evaluate(network, data.val)
    assert isinstance(reports[-1].network, Program)
    assert reports[-1].bytes_disk == files.size(reports[-1].network)
    # A simulation has no file: its row is that of the integers it stands for.
    assert reports[-2].bytes_disk == reports[-1].bytes_disk
    assert reports[-2].accuracy == reports[-1].accuracy


def test_zeros_survive_sharing_and_rounding(network, material):
    pruned = pipeline.prune(material, 0.6)(network)
    shared = sharing.unshared(pipeline.share(material, 5)(pruned))
    simulated = pipeline.quantize(material, INT8)(pruned)
    for name, layer in pruned.named_modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            gone = layer.weight == 0
            assert bool((shared.get_submodule(name).weight[gone] == 0).all())
            rounded = simulated.get_submodule(name)
            assert bool((rounded.weight_quantizer(rounded.layer.weight)[gone] == 0).all())


def test_a_stage_that_must_learn_needs_something_to_learn_from(data):
    nothing = Material(data.train.x[:10])
    with pytest.raises(ValueError, match="material must have train for a student"):
        pipeline.student(nothing, lambda: models.MLP(data.shape, 10), 1)
    with pytest.raises(ValueError, match="material must have train for a binary"):
        pipeline.binary(nothing, lambda: XnorNet(data.shape, 10), 1)


def test_without_training_material_nothing_is_trained(network, data):
    nothing = Material(data.train.x[:50])
    for stage in (pipeline.quantize(nothing, INT8, epochs=5), pipeline.low_rank(nothing, 0.5)):
        one, other = (stage(network) for _ in range(2))
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


def test_a_stage_that_runs_once_is_run_again_for_another_network(network):
    calls = []
    stage = pipeline.once(lambda model: calls.append(model) or copy.deepcopy(model))
    other = copy.deepcopy(network)
    assert stage(network) is stage(network)
    stage(other)
    assert calls == [network, other]


def test_own_answers_are_the_networks(network, data):
    found = pipeline.own_answers(network, data.train.x[:30])
    assert evaluate(network, found) == 100


# ---- working memory ------------------------------------------------------------------------------
def test_working_memory_is_the_largest_input_and_output():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 10)
    )
    assert working_bytes(network, (1, 6, 6)) == 4 * (4 * 36 + 4 * 36)


def test_integers_work_in_a_byte_each(network, data):
    program = pipeline.integers()(quantize_post_training(network, INT8, data.train.x[:50]))
    # The quantizer's floats come in; behind it 16 channels of 8x8 codes are read and written.
    pooled = 16 * 64 + 16 * 16
    assert working_bytes(program, data.shape) == max(64 * 5, 64 + 16 * 64, pooled)


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
    monkeypatch.setattr(pipeline, "fit", lambda *a, **o: pytest.fail("trained"))
    frozen = Scenario("frozen", max_bytes=advised.float_bytes / 5, may_train=False)
    advice = advised.advise(frozen)
    assert names(advice.verdicts) == {"int8", "4 bits", "pruned a little, shared"}


def test_labels_are_not_looked_at_where_there_are_none(network, data):
    from dataclasses import replace

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
        expected = {"bytes": verdict.bytes > scenario.max_bytes, "lost": verdict.points_lost > 3}
        told = {"bytes": any(" of " in f and "B" in f for f in verdict.failed)}
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
    def nothing(model):
        return copy.deepcopy(model)

    mine = Candidate("mine", "it changes nothing", {"nothing": nothing})
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
        own = [Candidate(name, "", {}) for name in taken]
        with pytest.raises(ValueError, match="also must have names of its own"):
            advised.advise(Scenario("easy"), also=own)


def test_a_candidate_of_ones_own_does_not_pose_as_a_rules_later(advised, data):
    fake = Candidate(
        "4 bits, trained", "", {"other": lambda model: models.MLP(data.shape, 10, (300, 300))}
    )
    advised.advise(Scenario("easy"), also=[fake])
    tight = advised.advise(Scenario("5 x", max_bytes=advised.float_bytes / 5))
    found = next(v for v in tight.verdicts if v.name == "4 bits, trained")
    assert isinstance(found.network, Program)


def test_a_program_with_steps_in_floats_is_not_for_a_microcontroller(advised, material, data):
    binary = pipeline.binary(material, lambda: XnorNet(data.shape, 10, (16, 16, 32)), 0.1)
    mine = Candidate("bits", "", {"binary": binary})
    scenario = Scenario("mcu", max_points_lost=200, hardware="microcontroller")
    found = next(v for v in advised.advise(scenario, also=[mine]).verdicts if v.name == "bits")
    assert found.failed == ("needs floating point",)


def test_what_cannot_be_built_stays_in_the_table_with_the_reason(advised):
    def refuse(model):
        raise ValueError("layer 'x' has no integer counterpart")

    advice = advised.advise(Scenario("easy"), also=[Candidate("mine", "", {"refuse": refuse})])
    assert advice.verdicts[-1].failed == ("cannot be built: layer 'x' has no integer counterpart",)
    assert "has no integer counterpart" in str(advice.table())
    assert advice.best is not None


def test_the_callers_network_is_not_touched(data):
    seed_everything(1)
    network = models.VGGLike(data.shape, 10, (8, 8, 8)).train()
    strides = [p.stride() for p in network.parameters()]

    def spoil(model):
        for p in model.parameters():
            p.data.zero_()
        return model

    adviser = Advisor(network, data, train=50, epochs=0.1)
    before = adviser.float_accuracy
    adviser.advise(Scenario("easy"), also=[Candidate("spoiled", "", {"spoil": spoil})])
    assert evaluate(adviser.network, data.val) == before
    assert network.training
    assert [p.stride() for p in network.parameters()] == strides


def test_a_batch_of_more_images_than_there_are_is_refused(advised):
    with pytest.raises(ValueError, match="batch must be at most"):
        advised.advise(Scenario("many", batch=10**6, min_speedup=1))


def test_shared_weights_are_made_plain_before_another_technique(network, material):
    shared = pipeline.share(material, 5)(network)
    for stage in (
        pipeline.prune(material, 0.5),
        pipeline.cut_channels(material, 0.5),
        pipeline.low_rank(material, 0.5),
        pipeline.quantize(material, INT8),
        pipeline.share(material, 3),
    ):
        assert stage(shared) is not shared


def test_the_table_says_what_failed(advised):
    text = str(advised.advise(Scenario("impossible", max_bytes=10)).table())
    assert "of 10 B" in text
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
