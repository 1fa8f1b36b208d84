"""Files that an earlier version wrote are read by this one, and answer as they did then."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from compresslab import models
from compresslab.runtime import files

FILES = Path(__file__).parents[1] / "files"
ANSWERS = load_file(FILES / "answers.safetensors")
SHAPE = (1, 8, 8)
LIKE = {
    "pruned": lambda: models.VGGLike(SHAPE, 10, (4, 6, 8)),
    "shared": lambda: models.VGGLike(SHAPE, 10, (4, 6, 8)),
    "packed": lambda: models.MLP(SHAPE, 10, (16,)),
    "dynamic": lambda: models.MLP(SHAPE, 10, (16,)),  # from before a layer's inputs were written
}


@pytest.mark.parametrize("name", sorted(set(ANSWERS) - {"images"}))
def test_a_file_of_an_earlier_version_answers_as_it_did(name):
    like = LIKE[name]() if name in LIKE else None
    network = files.load(FILES / f"{name}.safetensors", like)
    with torch.no_grad():
        found = network(ANSWERS["images"])
    # Integers are the same on every processor; floats are summed in another order.
    assert torch.allclose(found, ANSWERS[name], atol=1e-4)


@pytest.mark.parametrize("name", ["int8-vgg", "int4-resnet", "int8-depthwise", "bits"])
def test_what_is_written_today_says_the_same(name, tmp_path):
    """The same steps in the same words, the same tensors; safetensors orders its metadata as it likes."""
    network = files.load(FILES / f"{name}.safetensors")
    files.save(network, tmp_path / "n.safetensors")
    paths = (tmp_path / "n.safetensors", FILES / f"{name}.safetensors")
    described, tensors = [], []
    for path in paths:
        with safe_open(path, "pt") as file:
            described.append(json.loads(file.metadata()["steps"]))
        tensors.append(load_file(path))
    assert described[0] == described[1]
    assert sorted(tensors[0]) == sorted(tensors[1])
    assert all(torch.equal(tensor, tensors[1][key]) for key, tensor in tensors[0].items())
