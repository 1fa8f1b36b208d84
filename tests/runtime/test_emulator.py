"""A network's C file on an emulated Cortex-M3: the same answers as here."""

import numpy as np
import pytest
import torch
from torch import nn

from compresslab.runtime import emulator
from compresslab.runtime.c_source import to_c
from compresslab.runtime.convert import convert
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig
from tests.runtime.test_c_source import COURSE, simple

needs_board = pytest.mark.skipif(
    bool(emulator.missing()), reason=f"not installed: {', '.join(emulator.missing())}"
)


@needs_board
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", COURSE)
def test_twenty_images_have_the_programs_logits(name, bits):
    program, images = simple(COURSE[name], bits)
    found = emulator.run(to_c(program, (3, 16, 16)), images[:20].numpy())
    wanted = program(images[:20]).numpy()
    np.testing.assert_allclose(found.logits, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())
    assert found.logits.argmax(1).tolist() == wanted.argmax(1).tolist()


@needs_board
def test_instructions_lie_between_one_and_a_hundred_for_each_multiplication():
    """Of a network whose multiplications can be counted by hand."""
    program, images = simple(COURSE["VGG-like"], 8)
    found = emulator.run(to_c(program, (3, 16, 16)), images[:3].numpy()).instructions
    macs = 16 * 16 * 27 * 16 + 8 * 8 * 144 * 32 + 4 * 4 * 288 * 64
    assert found.shape == (3,)
    assert (found > macs).all()
    assert (found < 100 * macs).all()
    # Plain loops do nearly the same for every image.
    assert np.ptp(found) < 0.05 * found.mean()


@needs_board
def test_sizes_are_those_that_the_file_promises_and_some_code():
    program, _ = simple(COURSE["ResNet-8"], 4)
    source = to_c(program, (3, 16, 16))
    found = emulator.sizes(source)
    assert source.flash <= found.constants < source.flash + 1024
    assert source.arena <= found.ram < source.arena + 64
    assert 500 < found.code < 20_000
    assert found.flash == found.constants + found.code


@needs_board
def test_instructions_are_counted_beyond_the_timers_24_bits():
    """A product of n x n images is about n^2 times the work: by 4 in each direction, 16 times and no less."""
    counts = {}
    for size in (24, 96):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU()]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
        images = torch.rand(4, 3, size, size)
        program = convert(quantize_post_training(network.eval(), QuantConfig(), images))
        found = emulator.run(to_c(program, (3, size, size)), images[:1].numpy())
        counts[size] = int(found.instructions[0])
    assert 14 < counts[96] / counts[24] < 18
    assert counts[96] > 2**24 * emulator.INSTRUCTIONS_A_TICK


def test_warnings_of_the_emulator_are_passed_over():
    told = "qemu: warning: nic\n00000001 00000002 3f800000 40000000\n"
    found = emulator._read(told, 1, 2)
    assert found.logits.tolist() == [[1.0, 2.0]]
    assert found.instructions.tolist() == [(2**24 + 2) * 40]
    with pytest.raises(RuntimeError, match="answered otherwise"):
        emulator._read(told, 2, 2)


OTHERS = [
    np.zeros((0, 3, 16, 16), np.float32),
    np.zeros((1, 3, 16, 16)),
    np.float32([1]),
    np.zeros((2, 1, 16, 16), np.float32),
    np.zeros((1, 3, 17, 16), np.float32),
    np.zeros((1200, 3, 16, 16), np.float32),
    torch.zeros(1, 3, 16, 16),
]


@needs_board
@pytest.mark.parametrize("images", OTHERS, ids=lambda a: f"{type(a).__name__} {list(a.shape)}")
def test_images_of_another_kind_are_refused(images):
    program, _ = simple(COURSE["VGG-like"], 8)
    with pytest.raises(ValueError, match="images must be"):
        emulator.run(to_c(program, (3, 16, 16)), images)


@needs_board
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    program, images = simple(COURSE["VGG-like"], 8)
    bad = images[:1].clone()
    bad[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="images must be finite"):
        emulator.run(to_c(program, (3, 16, 16)), bad.numpy())


def test_what_is_missing_is_said_with_the_packages(monkeypatch):
    monkeypatch.setattr(emulator.shutil, "which", lambda _name: None)
    program, images = simple(COURSE["VGG-like"], 8)
    source = to_c(program, (3, 16, 16))
    for call in (lambda: emulator.sizes(source), lambda: emulator.run(source, images.numpy())):
        with pytest.raises(FileNotFoundError, match="apt install gcc-arm-none-eabi"):
            call()
    assert len(emulator.missing()) == 3
