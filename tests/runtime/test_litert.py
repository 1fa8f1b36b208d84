"""LiteRT files against torch's own answers; what can be refused without the converter is refused."""

import pytest
import torch

from compresslab import models
from compresslab.runtime import litert
from compresslab.training import logits, seed_everything

needs_litert = pytest.mark.skipif(
    not litert.available(), reason=f"the extra is not installed: {litert.INSTALL}"
)


@pytest.fixture
def network():
    seed_everything(0)
    return models.VGGLike((1, 16, 16), 10, (8, 16, 16)).eval()


def test_other_widths_are_refused(network, tmp_path):
    with pytest.raises(ValueError, match="width must be one of float32, float16, int8, got 'int4'"):
        litert.export_litert(network, (1, 16, 16), tmp_path / "m.tflite", "int4")


@pytest.mark.parametrize("images", [None, torch.zeros(0, 1, 16, 16)])
def test_int8_needs_images(network, tmp_path, images):
    with pytest.raises(ValueError, match="images must hold at least one example"):
        litert.export_litert(network, (1, 16, 16), tmp_path / "m.tflite", "int8", images)


@pytest.mark.skipif(litert.available(), reason="the extra is installed")
def test_without_the_extra_it_says_how_to_install_it(network, tmp_path):
    with pytest.raises(ModuleNotFoundError, match=r"pip install compresslab\[litert\]"):
        litert.export_litert(network, (1, 16, 16), tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


@needs_litert
@pytest.mark.parametrize("width,near,of_float", [("float32", 1e-4, 1.1), ("float16", 1e-2, 0.7)])
def test_float_files_answer_as_torch_does(network, tmp_path, width, near, of_float):
    path, images = tmp_path / "m.tflite", torch.rand(5, 1, 16, 16)
    size = litert.export_litert(network, (1, 16, 16), path, width)
    back = litert.LiteRtModel(path)
    assert torch.allclose(back(images), logits(network, images), atol=near)
    assert size < of_float * 4 * sum(p.numel() for p in network.parameters()) + 8000


@needs_litert
def test_an_int8_file_is_near_the_float_network(network, tmp_path):
    path, images = tmp_path / "m.tflite", torch.rand(40, 1, 16, 16)
    litert.export_litert(network, (1, 16, 16), path, "int8", images)
    expected = logits(network, images)
    error = (litert.LiteRtModel(path)(images) - expected).abs().max()
    assert error < 0.1 * (expected.max() - expected.min())
