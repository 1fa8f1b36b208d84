"""A plan answers as its steps do one by one, bit for bit, and makes way where somebody watches them."""

import copy
import dataclasses
import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compresslab import models
from compresslab.kernels.simd import tiles_available
from compresslab.measure import latency
from compresslab.network.taps import tapped
from compresslab.runtime import files
from compresslab.runtime.convert import convert
from compresslab.runtime.plan import Plan
from compresslab.runtime.plan_rows import ROWS, NoPlanError
from compresslab.runtime.program import MOST_PLANS, suits
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig


class Mixture(nn.Module):
    """Operations that the course's own networks have not."""

    def __init__(self, channels, size):
        super().__init__()
        c = channels
        self.start = nn.Conv2d(3, 2 * c, 3, padding=1)
        self.each = nn.PReLU(c)
        self.wide = nn.Conv2d(c, c, (3, 3), padding=1, groups=c)
        self.border = nn.ZeroPad2d((1, 0, 2, 1))
        self.back = nn.ConvTranspose2d(2 * c, c, 3, stride=2, padding=1, output_padding=1)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.mean = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.larger = nn.Upsample(scale_factor=2)
        self.gate = nn.Sequential(nn.Conv2d(c, c, 1), nn.Hardsigmoid())
        self.mix = nn.Conv2d(c, 5, 1)
        self.last = nn.LazyLinear(4)

    def forward(self, x):
        left, right = self.start(x).chunk(2, 1)
        left, right = self.each(left), torch.relu(self.wide(right))
        both = self.pool(self.border(torch.cat([left, right], 1)))
        x = torch.nn.functional.hardswish(self.back(both))
        x = x * self.gate(x.mean((2, 3), keepdim=True))
        x = self.mean(self.larger(self.mean(x)))
        return self.last(torch.relu(self.mix(x)).flatten(1))


class Twice(nn.Module):
    """One output handed back twice, and another between."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
        self.one, self.other = nn.Linear(36, 3), nn.Linear(36, 2)

    def forward(self, x):
        x = self.body(x)
        one = self.one(x)
        return one, self.other(x), one


class Ends(nn.Module):
    """Two outputs, one of them an image; rows that become images on the way."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(20, 48), nn.ReLU(), nn.Unflatten(1, (3, 4, 4)))
        self.image = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.row = nn.Linear(6, 2)

    def forward(self, x):
        image = self.image(self.first(x)) + 0.0
        return image, self.row(image.mean((2, 3)))


def integers(network, shape, bits=8):
    torch.manual_seed(0)
    images = torch.randn(40, *shape)
    network.eval()(images[:2])
    simulated = quantize_post_training(network, QuantConfig(bits), images)
    return convert(simulated).eval()


def examples():
    torch.manual_seed(0)
    yield "vgg", models.VGGLike((1, 12, 12), 10, (5, 24, 70)), (1, 12, 12)
    yield "residual", models.ResNet8((3, 16, 16), 7), (3, 16, 16)
    yield "depthwise", models.DepthwiseNet((1, 14, 14), 10), (1, 14, 14)
    yield "rows", models.MLP((1, 5, 5), 3, (33,)), (1, 5, 5)
    yield "mixture", Mixture(6, 11), (3, 11, 9)
    yield "wide mixture", Mixture(20, 8), (3, 8, 8)
    yield "ends", Ends(), (20,)
    yield "twice", Twice(), (1, 5, 5)


NETWORKS = {name: (integers(network, shape), shape) for name, network, shape in examples()}


def same(found, wanted):
    found, wanted = (r if isinstance(r, tuple) else (r,) for r in (found, wanted))
    assert [t.shape for t in found] == [t.shape for t in wanted]
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("count", [0, 1, 2, 7, 65])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_plan_answers_as_its_steps(name, count, threads):
    program, shape = NETWORKS[name]
    images = torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))
    found = Plan(program, shape)(images, threads)
    wanted = program.step_by_step(images)
    assert same(found, wanted)


def test_every_kind_of_row_is_among_the_networks():
    kinds = {step.kind for program, _ in NETWORKS.values() for step in program.layers}
    assert kinds == set(ROWS)


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(5, 15), st.integers(2, 8), st.data())
def test_networks_of_any_width_size_and_bits(first, second, size, bits, data):
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    stride, kernel = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 2, 3, 5]))
    network = nn.Sequential(
        nn.Conv2d(2, first, kernel, stride, padding=kernel // 2),
        nn.ReLU(),
        nn.Conv2d(first, first, 3, padding=1, groups=first),
        nn.BatchNorm2d(first),
        nn.ReLU6(),
        nn.Conv2d(first, second, 1),
        nn.Flatten(),
        nn.LazyLinear(3),
    )
    program = integers(network, (2, size, size), bits)
    images = torch.randn(data.draw(st.integers(1, 9)), 2, size, size)
    assert same(Plan(program, (2, size, size))(images), program.step_by_step(images))


def test_forward_runs_the_plan_and_makes_way_for_who_watches():
    program, shape = NETWORKS["vgg"]
    image, seen = torch.randn(1, *shape), []
    wanted = program(image)
    assert torch.equal(program(image), wanted)
    assert isinstance(program.plans[image.shape[1:]], Plan)
    named = dict(program.layers.named_children())
    with tapped(named, after=lambda name, *_: seen.append(name)):
        assert torch.equal(program(image), wanted)
    assert seen == list(named)


def test_another_step_in_ones_place_is_the_one_that_runs():
    program, shape = copy.deepcopy(NETWORKS["vgg"][0]), NETWORKS["vgg"][1]
    image = torch.randn(2, *shape)
    before = program(image)
    assert torch.equal(program(image), before)
    last = program.layers[-1]
    numbers = (last.weight_bits, 2 * last.scale.numpy(), 2 * last.bias.numpy(), last.zero_point)
    program.layers[-1] = type(last)(last.codes(), *numbers)
    for _ in range(2):
        assert torch.allclose(program(image), 2 * before)


def test_copies_and_files_make_plans_of_their_own(tmp_path):
    program, shape = NETWORKS["depthwise"]
    image = torch.randn(3, *shape)
    wanted = program(image)
    for other in (copy.deepcopy(program), pickled(program)):
        assert not other.plans
        for _ in range(2):
            assert torch.equal(other(image), wanted)
    files.save(program, tmp_path / "network.safetensors")
    assert torch.equal(files.load(tmp_path / "network.safetensors")(image), wanted)


def pickled(program):
    held = io.BytesIO()
    torch.save(program, held)
    held.seek(0)
    return torch.load(held, weights_only=False)


@pytest.mark.parametrize("place", [(0, 0, 3, 4), (4, 0, 11, 11)])
def test_an_image_with_nan_is_refused_wherever_it_is(place):
    program, shape = NETWORKS["vgg"]
    images = torch.randn(5, *shape)
    images[place] = float("nan")
    for _ in range(3):  # step by step, while a plan is made, and in it
        with pytest.raises(ValueError, match="must not contain NaN"):
            program(images)


def test_images_that_are_views_or_want_gradients():
    program, shape = NETWORKS["residual"]
    images = torch.randn(6, *shape)
    wanted = program.step_by_step(images)
    turned = images.contiguous(memory_format=torch.channels_last)
    wide = torch.randn(6, 3, 16, 32)
    wide[..., ::2] = images
    program(images)
    for view in (turned, wide[..., ::2], images.clone().requires_grad_()):
        assert torch.equal(program(view), wanted)
    assert torch.equal(program(images[1::2]), wanted[1::2])


@pytest.mark.parametrize(
    "images,words",
    [
        (torch.randn(1, 2, 16, 16), "weight|shape|channels"),
        (torch.randn(1, 3, 16, 16).double(), "float32"),
    ],
)
def test_images_that_do_not_fit_are_refused_as_ever(images, words):
    program, _ = NETWORKS["residual"]
    with pytest.raises((ValueError, RuntimeError), match=words):
        program(images)


def test_each_size_of_image_has_its_plan():
    program = integers(
        nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        ),
        (1, 9, 9),
    )
    for size in (9, 5, 9, 21, 5, 21):
        image = torch.randn(1, 1, size, size)  # of one: on matrix tiles more go step by step
        assert torch.equal(program(image), program.step_by_step(image))
    assert sum(isinstance(plan, Plan) for plan in program.plans.values()) == 3


def test_what_has_no_row_is_named_and_runs_step_by_step():
    norm = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(196, 2))
    program = integers(norm, (1, 9, 9))
    with pytest.raises(NoPlanError, match="float_group_norm"):
        Plan(program, (1, 9, 9))
    image = torch.randn(1, 1, 9, 9)
    for _ in range(2):
        assert torch.equal(program(image), program.step_by_step(image))
    assert program.plans[image.shape[1:]] is None


def test_a_step_that_waits_is_not_overwritten():
    """Greedy placing gives a skip connection's bytes to nobody before the addition has read them."""
    program, shape = NETWORKS["residual"]
    plan = Plan(program, shape)
    lives = {}
    for index, line in enumerate(program.steps):
        for name in line.inputs:
            lives[name] = index
    for i, line in enumerate(program.steps):
        if line.name in program.outputs:
            continue
        size = int(np.prod(plan.sheet.sizes[line.name]))
        mine = range(plan.sheet.at[line.name], plan.sheet.at[line.name] + size)
        for other in program.steps[:i]:
            if other.name in program.outputs or lives[other.name] < i:
                continue
            begin = plan.sheet.at[other.name]
            its = range(begin, begin + int(np.prod(plan.sheet.sizes[other.name])))
            assert mine.stop <= its.start or its.stop <= mine.start, (line, other)


def test_images_on_tiles_go_step_by_step():
    assert suits(torch.zeros(1, 1, 4, 4))
    assert suits(torch.zeros(8, 1, 4, 4)) is not tiles_available()
    assert not suits(torch.zeros(1, 1, 4, 4, dtype=torch.float64))
    assert not suits(torch.zeros(1, 4, 4))


def test_a_stream_of_sizes_makes_no_plans_and_few_are_kept():
    program = integers(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), (1, 9, 9)
    )
    for size in range(5, 60):
        program(torch.randn(1, 1, size, 9))
    assert len(program.plans) <= MOST_PLANS + 1
    assert not any(isinstance(plan, Plan) for plan in program.plans.values())


class Doubled(nn.Module):
    """A module of no kind, in a step's place."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def forward(self, x):
        return 255 - self.step(x)


def another_class(step):
    kind = type(
        "Other", (type(step),), {"forward": lambda self, x: 255 - super(kind, self).forward(x)}
    )
    step.__class__ = kind
    return step


def another_forward(step):
    old = step.forward
    step.forward = lambda x: 255 - old(x)
    return step


@pytest.mark.parametrize("change", [Doubled, another_class, another_forward])
def test_a_step_that_computes_in_a_way_of_its_own_is_asked(change):
    program, shape = copy.deepcopy(NETWORKS["vgg"][0]), NETWORKS["vgg"][1]
    image = torch.randn(2, *shape)
    before = program(image)
    program.layers[2] = change(program.layers[2])
    for _ in range(3):
        assert torch.equal(program(image), program.step_by_step(image))
    assert not torch.equal(program(image), before)
    with pytest.raises(NoPlanError):
        Plan(program, shape)


def test_limits_are_those_of_the_step_as_it_is():
    program, shape = copy.deepcopy(NETWORKS["vgg"][0]), NETWORKS["vgg"][1]
    step = program.layers[1]
    step.epilogue = dataclasses.replace(step.epilogue, high=np.float32(step.out.zero_point + 3))
    images = torch.randn(2, *shape)
    assert same(Plan(program, shape)(images), program.step_by_step(images))


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 12, 12).double(), torch.zeros(2, 144)]
)
def test_a_plan_refuses_images_that_are_not_its_own(images):
    program, shape = NETWORKS["vgg"]
    with pytest.raises(ValueError, match=r"float32 of shape \[1, 12, 12\]"):
        Plan(program, shape)(images)


def test_several_outputs_are_whole_tensors_each():
    program, shape = NETWORKS["twice"]
    for part in Plan(program, shape)(torch.randn(3, *shape)):
        assert part.is_contiguous()
        assert part.untyped_storage().nbytes() == 4 * part.numel()


def test_what_is_timed_is_the_plan():
    program, shape = NETWORKS["rows"][0], NETWORKS["rows"][1]
    program.plans.clear()
    assert latency(program, shape, 1).median > 0
    assert isinstance(program.plans[torch.Size(shape)], Plan)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("count", [1, 5])
def test_nothing_is_written_outside_and_what_lies_there_does_not_matter(name, count, monkeypatch):
    """Scratch memory between guards, all of it filled with noise: answers stay, and so do the guards."""
    program, shape = NETWORKS[name]
    plan, guard, held = Plan(program, shape), 4096, []
    sizes = [part.size for part in plan._scratch(count)]
    noise = np.random.default_rng(count)

    def between(size, dtype):
        whole = noise.integers(0, 256, (size + 2 * guard) * dtype.itemsize, dtype=np.uint8)
        held.append((whole.view(dtype), whole.view(dtype).copy(), size))
        return held[-1][0][guard : guard + size]

    kinds = [part.dtype for part in plan._scratch(1)]
    made = tuple(between(n, d) for n, d in zip(sizes, kinds, strict=True))
    monkeypatch.setattr(plan, "_scratch", lambda _group: made)
    plan.group = count
    plan.ones = np.ones(count * plan.sheet.scratch["rows"], np.float32)
    images = torch.randn(count, *shape)
    assert same(plan(images), program.step_by_step(images))
    for now, before, size in held:
        for part in (slice(None, guard), slice(guard + size, None)):
            assert np.array_equal(now[part], before[part])


SCRIPT = """
import torch
from tests.runtime.test_plan import NETWORKS, Plan, same
for name in ("mixture", "ends", "depthwise"):
    program, shape = NETWORKS[name]
    images = torch.randn(2, *shape)
    assert same(Plan(program, shape)(images), program.step_by_step(images)), name
print("within bounds")
"""


@pytest.mark.slow
def test_without_the_jit_no_index_is_behind_the_end():
    """Every single index is NumPy's then, which refuses it; a vector that is cut off has another length."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "within bounds" in done.stdout, done.stderr[-2000:]
