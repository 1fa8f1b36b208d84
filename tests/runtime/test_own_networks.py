"""Networks that we did not choose: simulated as torch computes, run on integers as simulated, and saved."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.handwritten import HANDWRITTEN, conv_norm
from compresslab import models
from compresslab.network.graph import TracingError
from compresslab.network.normal import normal_form
from compresslab.runtime import export, peers, storage
from compresslab.runtime.convert import ConversionError, convert
from compresslab.techniques.ptq import prepare, quantize_post_training
from compresslab.techniques.quantizer import QuantConfig

# Images of few large spots, so that their means differ and so do the answers of untrained networks.
SPOTS = torch.rand(48, 3, 3, 3, generator=torch.Generator().manual_seed(1))
IMAGES = F.interpolate(SPOTS, size=32, mode="bilinear")


LABELS = IMAGES.mean((1, 2, 3)).argsort().argsort() * 10 // len(IMAGES)


@functools.cache
def settled(build):
    """A network that has begun to tell images by their brightness."""
    torch.manual_seed(0)
    network = build().train()
    adam = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(30):
        adam.zero_grad()
        F.cross_entropy(together(network(IMAGES)).flatten(1)[:, :10], LABELS).backward()
        adam.step()
    return network.eval()


def together(answers):
    return torch.cat([a.flatten(1) for a in answers], 1) if isinstance(answers, tuple) else answers


def error(found, wanted):
    """Root mean square, as a share of the outputs' own spread around their means."""
    spread = (wanted - wanted.mean(0)).square().mean().sqrt()
    return float((found - wanted).square().mean().sqrt() / spread)


@pytest.mark.parametrize("name", HANDWRITTEN)
def test_a_network_of_somebody_elses_runs_on_integers(name, tmp_path):
    network = settled(HANDWRITTEN[name])
    before = {k: v.clone() for k, v in network.state_dict().items()}
    simulated = quantize_post_training(network, QuantConfig(), IMAGES)
    program = convert(simulated)
    with torch.no_grad():
        wanted, imitated, found = (together(m(IMAGES)) for m in (network, simulated, program))
    assert error(imitated, wanted) < 0.1
    assert error(found, imitated) < 0.03
    storage.save(program, tmp_path / "n.safetensors")
    assert torch.equal(together(storage.load(tmp_path / "n.safetensors")(IMAGES)), found)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("name", HANDWRITTEN)
def test_the_normal_form_answers_as_the_network_does(name):
    network = settled(HANDWRITTEN[name])
    form = normal_form(network, IMAGES[:1])
    with torch.no_grad():
        assert torch.allclose(together(form(IMAGES)), together(network(IMAGES)), atol=1e-5)
    known = [n for n in form.graph.nodes if n.op in ("call_method", "get_attr")]
    assert not known


@pytest.mark.parametrize("name", HANDWRITTEN)
def test_onnx_runtime_computes_the_same_integers(name, tmp_path):
    pytest.importorskip("onnxruntime")
    simulated = quantize_post_training(settled(HANDWRITTEN[name]), QuantConfig(), IMAGES)
    export.export_int8(simulated, (3, 32, 32), tmp_path / "n.onnx")
    theirs = together(peers.OnnxModel(tmp_path / "n.onnx", 1, exact=True)(IMAGES)).flatten(1)
    ours = together(convert(simulated)(IMAGES)).flatten(1)
    assert error(ours, theirs) < 0.01


def one(layer, *more):
    return lambda: nn.Sequential(conv_norm(3, 8, 3, 2), layer, *more, nn.Conv2d(8, 4, 1))


BETWEEN = {
    "max, overlap and padding": nn.MaxPool2d(3, 2, 1),
    "max, oblong": nn.MaxPool2d((2, 3), (1, 2), (1, 0)),
    "max, ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "mean, overlap and padding": nn.AvgPool2d(3, 2, 1),
    "mean, without padding": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "mean, ceil": nn.AvgPool2d((3, 2), 2, (1, 0), ceil_mode=True),
    "zero padding": nn.ZeroPad2d((1, 2, 0, 3)),
    "mirrored": nn.ReflectionPad2d((1, 2, 3, 0)),
    "repeated": nn.ReplicationPad2d(2),
    "upsampled": nn.Upsample(scale_factor=(2, 3)),
    "shuffled": nn.ChannelShuffle(4),
    "sigmoid": nn.Sigmoid(),
    "leaky": nn.LeakyReLU(0.2),
    "slopes": nn.PReLU(8, 0.3),
    "clipped": nn.Hardtanh(-0.3, 0.6),
    "free norm": nn.Sequential(nn.Identity(), nn.MaxPool2d(2), nn.BatchNorm2d(8)),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_stands_between_layers_runs_as_it_was_simulated(name):
    network = settled(one(BETWEEN[name]))
    simulated = quantize_post_training(network, QuantConfig(), IMAGES)
    program = convert(simulated)
    with torch.no_grad():
        assert error(program(IMAGES), simulated(IMAGES)) < 0.03


class Spelled(nn.Module):
    def __init__(self, spelling):
        super().__init__()
        self.conv, self.spelling = nn.Conv2d(3, 6, 3), spelling
        self.linear = nn.LazyLinear(4)

    def forward(self, x):
        return self.linear(self.spelling(self.conv(x)))


SPELLINGS = {
    "flatten": lambda x: torch.flatten(x, 1),
    "method": lambda x: x.flatten(start_dim=1),
    "view": lambda x: x.view(x.size(0), -1),
    "shape": lambda x: x.view(x.shape[0], -1),
    "len": lambda x: x.reshape((x.shape[0], -1)),
    "literal": lambda x: x.view(-1, 6 * 30 * 30),
    "computed": lambda x: x.view(-1, x.shape[1] * x.shape[2] * x.shape[3]),
    "pooled": lambda x: F.adaptive_max_pool2d(x, 1).squeeze(-1).squeeze(-1),
    "mean": lambda x: x.mean((2, 3)),
    "back to an image": lambda x: x.mean((2, 3)).view(-1, 2, 3, 1).relu().flatten(1),
    "added per channel": lambda x: (x + x.mean((2, 3), keepdim=True)).flatten(1),
    "gated per pixel": lambda x: (x * x[:, :1].sigmoid()).flatten(1),
    "mean, kept": lambda x: x.mean([-1, -2], keepdim=True)[:, :, 0, 0],
    "split": lambda x: torch.cat([p.relu() for p in torch.split(x, [2, 4], 1)], 1).flatten(1),
    "chunk": lambda x: sum(torch.chunk(x, 2, dim=1)).flatten(1),
    "slice": lambda x: (x[:, :3] * x[:, 3:]).flatten(1),
    "shuffle": lambda x: (
        x.view(x.size(0), 2, 3, 30, 30).transpose(1, 2).contiguous().view(x.size(0), 6, 30, 30)
    ).flatten(1),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_spelling_is_understood(name):
    torch.manual_seed(0)
    network = Spelled(SPELLINGS[name])
    network(IMAGES[:1])
    program = convert(quantize_post_training(network.eval(), QuantConfig(), IMAGES))
    with torch.no_grad():
        assert error(program(IMAGES), network(IMAGES)) < 0.1


def last(x):
    return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    "spelling",
    [
        lambda x: last(x).flatten(1),
        lambda x: F.conv2d(last(x), torch.ones(4, 30, 1, 1)).flatten(1),
        lambda x: torch.cat([last(x), last(x)], 1).flatten(1),
        lambda x: last(x)[:, :3].flatten(1),
        lambda x: (x * torch.arange(30.0)).flatten(1),
    ],
    ids=["flattened", "convolved", "joined", "sliced", "scaled by column"],
)
def test_axes_that_are_no_channels_are_refused(spelling):
    torch.manual_seed(0)
    network = Spelled(spelling)
    network(IMAGES[:1])
    simulated = quantize_post_training(network.eval(), QuantConfig(), IMAGES)
    with pytest.raises(ConversionError, match=r"channels come last|columns of an image"):
        convert(simulated)


def test_a_decision_that_depends_on_values_is_refused_with_its_line():
    class Deciding(nn.Module):
        def forward(self, x):
            if x.sum() > 0:
                return x
            return -x

    with pytest.raises(TracingError, match=r"test_own_networks.*if x.sum\(\) > 0.*convert_dynamic"):
        normal_form(Deciding())


def test_a_network_that_answers_by_the_size_of_the_batch_is_refused():
    class Counting(nn.Module):
        def forward(self, x):
            return x.flatten(1) * (len(x) if isinstance(x, torch.Tensor) else 1)

    with pytest.raises((TracingError, ValueError)):
        quantize_post_training(Counting(), QuantConfig(), IMAGES)


READER = models.Encoder(words=50, classes=3, length=12, width=16, layers=1, heads=2)
SEER = nn.Sequential(conv_norm(1, 4), nn.Flatten(), nn.Linear(256, 3))


@pytest.mark.parametrize(
    ("network", "example", "said"),
    [
        (SEER, torch.zeros(1, 2, 8, 8), "to have 1 channels, but got 2"),
        (SEER, torch.zeros(1, 1, 9, 9), "cannot be multiplied"),
        (SEER, torch.zeros(1, 1, 8, 8).double(), "type"),
        (READER, torch.ones(2, 3, dtype=torch.long), r"tokens must be \[n, 12\], got \[3, 3\]"),
        (READER, torch.full((2, 12), 50), "index out of range"),
        (READER, torch.ones(2, 12), "Long, Int; but got"),
        (nn.Bilinear(3, 3, 2), torch.ones(2, 3), "missing 1 required positional argument"),
    ],
    ids=["channels", "size", "dtype", "length", "vocabulary", "float words", "inputs"],
)
def test_an_example_that_does_not_fit_is_said_in_the_networks_own_words(
    network, example, said, capfd
):
    with pytest.raises(ValueError, match=f"example must be a batch that the network takes.*{said}"):
        normal_form(network, example)
    assert capfd.readouterr() == ("", "")


def test_several_obstacles_are_named_in_one_error():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Softmax2d(), nn.LocalResponseNorm(2), nn.Flatten()
    )
    with pytest.raises(ConversionError, match=r"Softmax2d.*LocalResponseNorm.*convert_dynamic"):
        convert(quantize_post_training(network, QuantConfig(), IMAGES))


def test_a_dead_channel_does_not_stop_a_network():
    """Weights of almost nothing and a norm without variance, as EfficientNet-Lite0 has in 14 layers."""
    conv, norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, eps=1e-3)
    layers = [conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    network = settled(lambda: nn.Sequential(*layers))
    with torch.no_grad():
        conv.weight[0], norm.running_var[0], norm.bias[0] = 5e-8, 0.0, 5.0
        conv.weight[1], norm.running_var[1], norm.bias[1] = 5e-8, 0.0, -7.0
    program = convert(quantize_post_training(network, QuantConfig(), IMAGES))
    with torch.no_grad():
        assert error(program(IMAGES), network(IMAGES)) < 0.1


def test_two_inputs_have_a_name_each(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(8, 3)

        def forward(self, x, y):
            return self.c(F.relu(self.a(x)) + F.relu(self.b(y)))

    network, x = Two().eval(), torch.randn(200, 12)
    prepared = prepare(network, QuantConfig())
    prepared(x, x.flip(0))
    for module in prepared.modules():
        if hasattr(module, "freeze"):
            module.freeze()
    program = convert(prepared)
    assert error(program(x, x.flip(0)), network(x, x.flip(0))) < 0.05
    storage.save(program, tmp_path / "two.safetensors")
    again = storage.load(tmp_path / "two.safetensors")
    assert torch.equal(again(x, x.flip(0)), program(x, x.flip(0)))
    with pytest.raises(ValueError, match="expected 2 inputs, got 1"):
        program(x)


class LastChannels(nn.Module):
    """Takes images as most libraries that read them give them: [b, h, w, c]."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        return self.linear(self.conv(x.permute(0, 3, 1, 2)).relu().mean((2, 3)))


class Outer(LastChannels):
    """A map of one channel times one pixel of all channels."""

    def forward(self, x):
        y = self.conv(x.permute(0, 3, 1, 2)).relu()
        return self.linear((y[:, :1] * y.mean((2, 3), keepdim=True)).mean((2, 3)))


@pytest.mark.parametrize("build", [LastChannels, Outer])
def test_images_whose_channels_come_last_are_taken_as_they_lie(build, tmp_path):
    torch.manual_seed(0)
    images = IMAGES[:16].permute(0, 2, 3, 1).contiguous()
    simulated = quantize_post_training(build().eval(), QuantConfig(), images)
    program = convert(simulated)
    with torch.no_grad():
        assert error(program(images), simulated(images)) < 0.03
    storage.save(program, tmp_path / "n.safetensors")
    assert torch.equal(storage.load(tmp_path / "n.safetensors")(images), program(images))


class TwoLayouts(LastChannels):
    """Reads the input turned, and its last axis as it is."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Linear(3, 4)

    def forward(self, x):
        return super().forward(x) + self.rows(x).permute(0, 3, 1, 2).mean((2, 3))


def test_an_input_that_is_read_in_two_layouts_is_refused():
    images = IMAGES[:16].permute(0, 2, 3, 1).contiguous()
    with pytest.raises(ConversionError, match="turns an input that something else reads as it is"):
        convert(quantize_post_training(TwoLayouts().eval(), QuantConfig(), images))
