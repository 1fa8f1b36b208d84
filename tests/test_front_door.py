"""The front door: cheap to open, six lines for every technique, and what it says before anything is done."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import compresslab as cl
from benchmarks.handwritten import HANDWRITTEN
from compresslab.debugging import decibels
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data():
    return cl.data.load("digits")


@pytest.fixture(scope="module")
def network(data):
    torch.manual_seed(0)
    return cl.fit(cl.models.VGGLike(data, widths=(8, 16, 16)), data, epochs=3, progress=False)


def test_the_door_opens_without_torch():
    code = "import sys, compresslab; print('torch' in sys.modules, 'numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


SLOW_TO_LOAD = {"nbformat", "jsonschema", "sklearn", "pandas", "transformers"}
"""What takes a lab's first cell seconds and is wanted by few cells, if by any."""


def test_a_lab_begins_without_what_few_cells_want():
    code = "import sys; from compresslab.lab import begin; begin(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert SLOW_TO_LOAD & set(done.stdout.split()) == set()


def test_every_name_of_the_door_is_there():
    for name in cl.__all__:
        assert getattr(cl, name) is not None
        assert name in dir(cl)
    with pytest.raises(AttributeError, match="has no attribute 'compres'"):
        cl.compres  # noqa: B018
    for name in ("measure", "compress", "inspect", "debug", "table", "fit"):
        assert callable(getattr(cl, name))


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPRESSLAB_DATASET", "digits")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(import compresslab as cl\n.*?)```", text, re.DOTALL)
    assert len(example.splitlines()) <= 15
    namespace = {}
    exec(compile(example, "README.md", "exec"), namespace)
    assert (tmp_path / "small.safetensors").stat().st_size > 1000


# ---- inspect -------------------------------------------------------------------------------------
def test_every_layer_is_there_with_its_counts(network, data):
    found = cl.inspect(network, data.test.x[:1])
    assert [layer.kind for layer in found.layers] == ["Conv2d"] * 3 + ["Linear"]
    assert found.layers[0].outputs == (8, 8, 8)
    assert sum(layer.macs for layer in found.layers) == cl.measure(network, data, batches=()).macs
    total = found.others + sum(layer.parameters for layer in found.layers)
    assert total == sum(p.numel() for p in network.parameters())
    assert all(found.can(technique) for technique in found.obstacles)
    assert found.coverage("packed weights") < 0.2 < found.coverage("integers")
    assert "Conv2d" in str(found)
    assert "integers" in found._repr_html_()
    with pytest.raises(ValueError, match="technique must be one of integers"):
        found.can("magic")


def test_all_obstacles_are_named_at_once_with_the_way_out(data):
    odd = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softmax2d(), nn.LocalResponseNorm(2), nn.Flatten())
    found = cl.inspect(odd, data.test.x[:1])
    assert not found.can("integers")
    said = " ".join(found.obstacles["integers"])
    assert "Softmax2d" in said
    assert "LocalResponseNorm" in said
    assert "sigmoid" in said
    assert found.coverage("integers") == 0
    assert not found.can("packed weights")
    assert "nothing" not in said


@pytest.mark.parametrize("name", ["MobileNetV3", "U-Net, bilinear", "two heads", "DenseNet"])
def test_what_is_promised_is_kept(name):
    torch.manual_seed(0)
    network, images = HANDWRITTEN[name]().eval(), torch.rand(8, 3, 32, 32)
    assert cl.inspect(network, images[:1]).can("integers")
    cl.compress(network, [cl.Quantize(8)], images)


def test_any_number_of_inputs_and_dictionaries_are_taken():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(50, 8), nn.Linear(8, 3)

        def forward(self, ids, mask=None):
            x = self.words(ids)
            return {"logits": self.head(x if mask is None else x * mask[..., None])}

    ids = torch.randint(0, 50, (2, 7))
    for example in (ids, (ids, torch.ones(2, 7)), {"ids": ids, "mask": torch.ones(2, 7)}):
        found = cl.inspect(Tokens(), example)
        assert [layer.name for layer in found.layers] == ["words", "head"]
        assert [layer.inputs for layer in found.layers] == [(7,), (7, 8)]
        assert [layer.macs for layer in found.layers] == [0, 7 * 8 * 3]
        assert found.others == 0
        assert found.coverage("packed weights") == 1
        assert found.coverage("low rank") == pytest.approx(27 / 427)
    with pytest.raises(ValueError, match="network does not run on the example"):
        cl.inspect(Tokens(), torch.rand(2, 3, 4))


def test_answers_that_are_not_finite_and_states_of_recurrent_layers_do_not_stop_an_inspection():
    network = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 3))
    with torch.no_grad():
        network[0].weight[5, 0] = float("nan")
    assert len(cl.inspect(network, torch.tensor([[5, 5, 7]])).layers) == 2
    recurrent = nn.Sequential(nn.Embedding(50, 8), nn.GRU(8, 4))
    found = cl.inspect(recurrent, torch.randint(0, 50, (2, 7)))
    assert "examples as their first axis" in found.obstacles["cut channels"][0]
    assert found.can("packed weights")
    with pytest.raises(ValueError, match="examples as their first axis"):
        cl.compress(recurrent, [cl.Weights(8)], torch.randint(0, 50, (2, 7)))


def test_what_reads_weights_by_name_is_an_obstacle():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = nn.Sequential(nn.Embedding(50, 8), nn.TransformerEncoder(layer, 1)).eval()
    tokens = torch.randint(0, 50, (2, 7))
    found = cl.inspect(network, tokens)
    for technique, stage in (("packed weights", cl.Weights(8)), ("dynamic int8", cl.Dynamic())):
        assert "TransformerEncoderLayer" in found.obstacles[technique][0]
        with pytest.raises(ValueError, match="TransformerEncoderLayer"):
            cl.compress(network, [cl.Prune(0.5), stage], tokens)


def test_layers_that_are_packed_already_are_said():
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)).eval()
    for first in (cl.Weights(4, group=8), cl.Dynamic()):
        with pytest.raises(ValueError, match="packed or on int8 already"):
            cl.compress(network, [first, cl.Weights(4, group=8)], torch.randn(4, 8))


def test_a_tied_weight_is_counted_once():
    network = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 8), nn.Linear(8, 50, bias=False))
    network[2].weight = network[0].weight
    found = cl.inspect(network, torch.randint(0, 50, (2, 7)))
    assert [layer.parameters for layer in found.layers] == [400, 72, 0]
    assert found.others == 0


def test_what_cannot_be_followed_is_said_with_its_line():
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            if float(x.sum()) > 0:
                x = -x
            return self.a(x)

    found = cl.inspect(Deciding(), torch.rand(2, 4))
    assert "test_front_door" in found.obstacles["integers"][0]
    assert found.can("dynamic int8")


# ---- debug ---------------------------------------------------------------------------------------
def test_the_spoiled_layer_is_named_first(network, data):
    simulated = quantize_post_training(network, QuantConfig(), data.train.x[:200])
    worst = "2.0"
    with torch.no_grad():
        simulated.get_submodule(worst).weight_quantizer.scale.mul_(40)
    found = cl.debug(network, simulated, data.val.x[:50])
    assert found.worst[0].name == worst
    assert found.worst[0].weights < 15 < min(e.weights for e in found.worst[1:])
    # From there on it is lost for all that follow.
    places = [e.name for e in found.layers]
    after = [e.accumulated for e in found.layers[places.index(worst) :]]
    assert max(after) < 20
    assert "dB" in str(found)
    assert len(found.plot().lines) == 3


def test_only_the_answers_of_a_converted_network_are_compared(network, data):
    simulated = quantize_post_training(network, QuantConfig(), data.train.x[:200])
    found = cl.debug(network, cl.convert(simulated), data.val.x[:50])
    assert found.layers == ()
    assert found.answers > 20
    with pytest.raises(ValueError, match="at least one"):
        cl.debug(network, simulated, data.val.x[:0])


def test_decibels_are_those_of_the_definition():
    y = torch.tensor([3.0, 4.0])
    assert decibels(y, y) == float("inf")
    # 25 / 1: a hundred would be 20 dB.
    assert decibels(y, torch.tensor([3.0, 5.0])) == pytest.approx(13.979, abs=1e-3)
    with pytest.raises(ValueError, match="found must have shape"):
        decibels(y, torch.ones(3))


def test_a_table_takes_rows_one_by_one_or_in_a_list(network, data):
    row = cl.measure(network, data.shape, "a row", batches=())
    assert str(cl.table(row)) == str(cl.table([row]))
    with pytest.raises(ValueError, match="must come from `measure`"):
        cl.table([network])


def test_fit_trains_a_copy(data):
    torch.manual_seed(0)
    start = cl.models.MLP(data, hidden=(8,))
    before = [p.clone() for p in start.parameters()]
    trained = cl.fit(start, data, epochs=1, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, start.parameters(), strict=True))
    assert cl.evaluate(trained, data.test) > cl.evaluate(start, data.test)
    with pytest.raises(ValueError, match="classes must be given with a shape"):
        cl.models.MLP((1, 8, 8))


def test_the_page_of_your_own_network_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "own.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) >= 4
    namespace = {}
    for number, example in enumerate(examples):
        exec(compile(example, f"docs/own.md, example {number}", "exec"), namespace)
