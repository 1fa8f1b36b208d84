"""The C file of an integer network: the Program's own answers, from a compiler that we did not write."""

import functools
import itertools
import shutil
import subprocess

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.handwritten import HANDWRITTEN
from compresslab.models import DepthwiseNet, ResNet8, VGGLike
from compresslab.runtime import c_text
from compresslab.runtime.arena import Life, places
from compresslab.runtime.c_source import to_c, write_c
from compresslab.runtime.c_text import NotForC
from compresslab.runtime.convert import ConversionError, convert
from compresslab.runtime.program import Line, Program
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig
from tests.runtime.test_own_networks import BETWEEN, IMAGES, LastChannels, Outer, one, settled

COMPILER = shutil.which("cc") or shutil.which("gcc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
SANITIZED = ["-fsanitize=undefined,address", "-fno-sanitize-recover=all", "-g", "-O1"]
MAIN = """
#include <stdio.h>
int compresslab_run(const float *image, float *logits);
static float image[{inputs}], logits[{outputs}];
int main(void) {{
    while (fread(image, sizeof image, 1, stdin) == 1) {{
        if (compresslab_run(image, logits)) return 3;
        fwrite(logits, sizeof logits, 1, stdout);
    }}
    return 0;
}}
"""


def compiled(folder, source, inputs, outputs, flags=("-O2",)):
    """A program that reads images and writes logits."""
    (folder / "network.c").write_text(source.text, encoding="ascii")
    (folder / "main.c").write_text(MAIN.format(inputs=inputs, outputs=outputs), encoding="ascii")
    built = folder / "network"
    command = [COMPILER, *STRICT, *flags, "network.c", "main.c", "-o", str(built)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]
    return built


def answers(built, images, outputs):
    done = subprocess.run([built], input=images.tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr.decode()[:2000])
    return np.frombuffer(done.stdout, np.float32).reshape(len(images), outputs)


def held_against_the_program(program, images, folder, flags=("-O2",)):
    images = images.contiguous()
    wanted = program(images).flatten(1).numpy()
    source = to_c(program, tuple(images.shape[1:]))
    built = compiled(folder, source, images[0].numel(), wanted.shape[1], flags)
    found = answers(built, images.numpy(), wanted.shape[1])
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())
    return source


@functools.cache
def simple(build, bits):
    torch.manual_seed(0)
    network = build().eval()
    images = torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    simulated = quantize_post_training(network, QuantConfig(weight_bits=bits), images)
    return convert(simulated), images


COURSE = {
    "VGG-like": lambda: VGGLike((3, 16, 16), 10),
    "ResNet-8": lambda: ResNet8((3, 16, 16), 10),
    "depthwise": lambda: DepthwiseNet((3, 16, 16), 10),
}


@needs_compiler
@pytest.mark.parametrize("bits", [8, 5, 4, 2])
@pytest.mark.parametrize("name", COURSE)
def test_a_network_of_the_course_answers_as_its_program(name, bits, tmp_path):
    program, images = simple(COURSE[name], bits)
    held_against_the_program(program, images, tmp_path)


@needs_compiler
@pytest.mark.parametrize("name", COURSE)
def test_nothing_is_read_or_written_outside_and_nothing_undefined_happens(name, tmp_path):
    program, images = simple(COURSE[name], 4)
    held_against_the_program(program, images[:8], tmp_path, SANITIZED)


@needs_compiler
@pytest.mark.parametrize("name", BETWEEN)
def test_what_stands_between_layers_is_the_programs(name, tmp_path):
    simulated = quantize_post_training(settled(one(BETWEEN[name])), QuantConfig(), IMAGES)
    held_against_the_program(convert(simulated), IMAGES[:8], tmp_path, SANITIZED)


WITHOUT = {
    "two heads": "one input and one output, got 1 and 2",
    "digits, log-softmax": "float_softmax",
    "digits, ReLU behind pooling": "float_softmax",
    "U-Net, bilinear": "float_upsample",
    "group norms": "float_group_norm",
}
"""Hand-written networks that have no C file, and why."""


@needs_compiler
@pytest.mark.parametrize("name", HANDWRITTEN)
def test_a_network_of_somebody_elses_is_written_or_refused_by_name(name, tmp_path):
    program = convert(quantize_post_training(settled(HANDWRITTEN[name]), QuantConfig(), IMAGES))
    if name in WITHOUT:
        with pytest.raises(NotForC, match=WITHOUT[name]):
            to_c(program, tuple(IMAGES.shape[1:]))
        return
    held_against_the_program(program, IMAGES[:8], tmp_path)


@needs_compiler
def test_an_image_with_nan_is_answered_by_one_and_the_logits_stay(tmp_path):
    program, images = simple(COURSE["VGG-like"], 8)
    built = compiled(tmp_path, to_c(program, (3, 16, 16)), images[0].numel(), 10)
    bad = images[:1].clone()
    bad[0, 1, 3, 3] = torch.nan
    done = subprocess.run([built], input=bad.numpy().tobytes(), capture_output=True, check=False)
    assert done.returncode == 3
    assert done.stdout == b""


@needs_compiler
def test_infinite_pixels_take_the_last_code_as_the_program_has_it(tmp_path):
    program, images = simple(COURSE["VGG-like"], 8)
    wild = images[:4].clone()
    wild[0, 0, 0, 0], wild[1, 1] = torch.inf, -torch.inf
    wild[2] *= 1e30
    held_against_the_program(program, wild, tmp_path)


# ---- bytes -----------------------------------------------------------------------------------------
@needs_compiler
def test_flash_and_arena_are_those_of_the_compilers_object_file(tmp_path):
    size = shutil.which("size")
    if size is None:
        pytest.skip("no size")
    program, _ = simple(COURSE["ResNet-8"], 4)
    source = to_c(program, (3, 16, 16))
    (tmp_path / "n.c").write_text(source.text, encoding="ascii")
    command = [COMPILER, *STRICT, "-O2", "-c", "n.c", "-o", "n.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(
        [size, "-A", tmp_path / "n.o"], capture_output=True, text=True, check=True
    )
    found = {}
    for row in done.stdout.splitlines():
        parts = row.split()
        if len(parts) == 3 and parts[0].startswith("."):
            name = "." + parts[0].split(".")[1]
            found[name] = found.get(name, 0) + int(parts[1])
    assert found.get(".data", 0) == 0  # constants stay in flash
    assert source.arena <= found[".bss"] < source.arena + 64
    assert source.flash <= found[".rodata"] < source.flash + 1024


def test_four_bits_take_half_of_the_weights_bytes_and_two_a_quarter():
    flash = {}
    for bits in (8, 4, 2):
        program, _ = simple(COURSE["VGG-like"], bits)
        flash[bits] = to_c(program, (3, 16, 16)).flash
    weights = (flash[8] - flash[4]) * 2
    assert flash[4] - flash[2] == pytest.approx(weights / 4, rel=0.01)


LIVES = st.lists(
    st.tuples(st.integers(1, 60), st.integers(0, 8), st.integers(0, 5)).map(
        lambda t: Life(t[0], t[1], t[1] + t[2])
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(LIVES)
def test_activations_that_live_at_the_same_time_never_overlap(lives):
    starts, arena = places(lives)
    moments = range(max((life.last for life in lives), default=0) + 1)
    for moment in moments:
        alive = [
            (s, s + life.bytes)
            for s, life in zip(starts, lives, strict=True)
            if life.first <= moment <= life.last
        ]
        ends = sorted(alive)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ends))
        assert all(a >= 0 and b <= arena for a, b in alive)
        assert arena >= sum(b - a for a, b in alive)  # no arena is smaller
    assert arena <= sum(life.bytes for life in lives)


def test_a_chain_needs_its_two_largest_neighbours_and_no_more():
    chain = [Life(b, i, i + 1) for i, b in enumerate((16, 64, 32, 32, 8))]
    assert places(chain)[1] == 96


# ---- what is refused -------------------------------------------------------------------------------
def test_a_network_that_is_no_program_is_refused():
    with pytest.raises(NotForC, match=r"network must be an integer Program, .* got Linear"):
        to_c(nn.Linear(2, 2), (2,))


SHAPES = [(3, 15), (), (0,), (3.0, 16, 16), (1, 16, 16), (3, 2, 2), 9, None, (3, 10**9, 10**9)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_that_the_network_does_not_take_is_refused(shape):
    program, _ = simple(COURSE["VGG-like"], 8)
    with pytest.raises(ValueError, match="shape"):
        to_c(program, shape)


def test_a_float_step_is_named():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    program = convert(quantize_post_training(network.eval(), QuantConfig(), IMAGES))
    with pytest.raises(NotForC, match=r"steps without a C function: .*group_norm"):
        to_c(program, (3, 32, 32))


def test_nothing_is_written_where_a_network_is_refused(tmp_path):
    with pytest.raises(NotForC):
        write_c(nn.Linear(2, 2), (2,), tmp_path / "n.c")
    assert list(tmp_path.iterdir()) == []


def test_every_function_of_the_c_file_stands_between_its_marks():
    text = c_text.STEPS.read_text(encoding="ascii")
    assert text.count("/* BEGIN ") == text.count("/* END */") == len(c_text.functions())
    for name, body in c_text.functions().items():
        assert name == "base" or f" {name}(" in body


class Ends(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 6, 3), end

    def forward(self, x):
        return self.end(self.conv(x))


@needs_compiler
@pytest.mark.parametrize(
    "end",
    [
        lambda x: x.relu().permute(0, 2, 3, 1),
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: torch.nn.functional.max_pool2d(x, 2).permute(0, 2, 3, 1),
        lambda x: torch.nn.functional.max_pool2d(x, 2),
    ],
    ids=["cut and turned", "turned", "pooled and turned", "pooled"],
)
def test_an_answer_comes_in_the_order_that_the_network_gives_it(end, tmp_path):
    program = convert(quantize_post_training(Ends(end).eval(), QuantConfig(), IMAGES))
    held_against_the_program(program, IMAGES[:4], tmp_path)


@needs_compiler
@pytest.mark.parametrize("build", [LastChannels, Outer])
def test_images_whose_channels_come_last_are_read_as_they_lie(build, tmp_path):
    images = IMAGES[:8].permute(0, 2, 3, 1).contiguous()
    program = convert(quantize_post_training(build().eval(), QuantConfig(), images))
    held_against_the_program(program, images, tmp_path, SANITIZED)


@needs_compiler
def test_a_steps_name_never_leaves_its_comment(tmp_path):
    program, images = simple(COURSE["VGG-like"], 8)
    evil = "a */ logits[0] = 42; return 0; /* b\n?\u00e9"
    first = program.steps[0].name
    renamed = [
        Line(
            evil if n.name == first else n.name, tuple(evil if i == first else i for i in n.inputs)
        )
        for n in program.steps
    ]
    held_against_the_program(Program(renamed, list(program.layers)), images[:4], tmp_path)


def test_an_answer_of_codes_is_refused():
    program, _ = simple(COURSE["VGG-like"], 8)
    cut = Program(list(program.steps)[:3], list(program.layers)[:3])
    with pytest.raises(NotForC, match="answer must be floats of its last step"):
        to_c(cut, (3, 16, 16))


def test_a_function_has_a_name_of_its_own_and_no_other():
    program, _ = simple(COURSE["VGG-like"], 8)
    assert "int door(const float *image" in to_c(program, (3, 16, 16), name="door").text
    for name in ("two words", "", "9", "a;b", "é"):
        with pytest.raises(ValueError, match="name must be letters"):
            to_c(program, (3, 16, 16), name=name)


def test_sums_that_32_bits_do_not_hold_are_refused_before_anything_runs():
    """70,000 weights of the largest code times inputs of the largest code: 2.27 billion."""
    network = nn.Sequential(nn.Linear(70_000, 2)).eval()
    with torch.no_grad():
        network[0].weight.fill_(0.5)
    images = torch.ones(4, 70_000)
    with pytest.raises(ConversionError, match="sums may be larger than 32 bits hold"):
        convert(quantize_post_training(network, QuantConfig(), images))
