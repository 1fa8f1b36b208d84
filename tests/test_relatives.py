"""Near what users of such libraries reported: the right value, or a refusal with the way out."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

import compresslab as cl
from compresslab.stages.bits import OnnxRuntime
from compresslab.stages.pipeline import refuse_order
from compresslab.stages.stage import Stage
from compresslab.techniques.lowrank import factorize
from compresslab.techniques.norms import reestimated
from compresslab.writing import FileError

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
IMAGES = torch.rand(32, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def seeded(build):
    torch.manual_seed(0)
    return build().eval()


def mlp():
    return seeded(
        lambda: nn.Sequential(
            nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)
        )
    )


def near(network, compressed, x=X):
    with torch.no_grad():
        wanted, found = network(x), compressed(x)
    error = (wanted - found).pow(2).mean() / wanted.var()
    return -10 * math.log10(float(error) + 1e-12)


def convolution(kernel):
    head = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return nn.Sequential(nn.Conv2d(3, 8, kernel, padding=kernel // 2), *head)


@pytest.mark.parametrize(
    "own,other",
    [
        (lambda: convolution(3), lambda: convolution(5)),
        (
            lambda: nn.Sequential(nn.Conv1d(4, 8, 3)),
            lambda: nn.Sequential(nn.Conv1d(4, 8, 5)),
        ),
        (lambda: nn.Sequential(nn.LayerNorm(4)), lambda: nn.Sequential(nn.LayerNorm(8))),
    ],
)
def test_a_file_of_another_architecture_is_no_cut_one(own, other, tmp_path):
    cl.save(seeded(own), tmp_path / "a.safetensors")
    with pytest.raises(FileError, match="does not hold this model"):
        cl.load(tmp_path / "a.safetensors", other())


def own_forward(layer):
    layer.forward = lambda z: 2 * F.linear(z, layer.weight, layer.bias)


CHANGES = {
    "a hook before": lambda m: m.register_forward_pre_hook(lambda _, a: (2 * a[0],)),
    "a hook behind": lambda m: m.register_forward_hook(lambda _, a, out: 2 * out),
    "a forward of its own": own_forward,
}


@pytest.mark.parametrize("change", CHANGES)
def test_low_rank_leaves_a_layer_that_computes_more_than_its_class(change):
    network = mlp()
    CHANGES[change](network[2])
    with pytest.raises(ValueError, match="ranks must name 0, 4; got 2"):
        factorize(network, {"2": 4})
    small = factorize(network, {"0": 8})
    with torch.no_grad():
        behind = network[2](torch.relu(small[0](X)))
        assert torch.allclose(small[2](torch.relu(small[0](X))), behind)


def test_low_rank_leaves_a_head_that_is_tied_to_a_table():
    class Writer(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.middle = nn.Embedding(500, 32), nn.Linear(32, 32)
            self.head = nn.Linear(32, 500, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens):
            return self.head(torch.relu(self.middle(self.table(tokens))).mean(1))

    network = seeded(Writer)
    small = cl.compress(network, [cl.LowRank(0.5)], torch.randint(0, 500, (32, 7)))
    assert small.head.weight is small.table.weight
    count = [sum(p.numel() for p in n.parameters()) for n in (network, small)]
    assert count[1] < count[0]


@pytest.mark.parametrize(
    "stages",
    [
        [cl.CutChannels(0.4), cl.LowRank(0.5)],
        [cl.LowRank(0.5), cl.CutChannels(0.4)],
        [cl.CutChannels(0.4), cl.Prune(0.5)],
        [cl.LowRank(0.5), cl.Weights(8)],
        [cl.LowRank(0.5), cl.Dynamic()],
        [cl.CutChannels(0.4), cl.Dynamic()],
        [cl.LowRank(0.5), cl.CutChannels(0.4), cl.Dynamic()],
        [cl.CutChannels(0.4), cl.Prune(0.5), cl.Dynamic()],
    ],
    ids=str,
)
def test_what_two_stages_made_is_read_back_from_the_architecture(stages, tmp_path):
    small = cl.compress(mlp(), stages, X)
    cl.save(small, tmp_path / "a.safetensors")
    back = cl.load(tmp_path / "a.safetensors", mlp())
    assert torch.equal(back(X), small(X))


def test_the_linear_layer_behind_cut_convolutions_is_read_back_on_int8(tmp_path):
    network = seeded(lambda: cl.models.VGGLike((1, 16, 16), 10, (8, 12, 16)))
    images = torch.rand(8, 1, 16, 16)
    small = cl.compress(network, [cl.CutChannels(0.4), cl.Dynamic()], images)
    cl.save(small, tmp_path / "a.safetensors")
    again = cl.load(tmp_path / "a.safetensors", network)
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in small.state_dict().items())
    # Equal weights may lie otherwise in memory, and torch's convolutions then sum in another order.
    with torch.no_grad():
        assert torch.allclose(again(images), small(images), atol=1e-3)


@pytest.mark.parametrize(
    "said",
    ["-3", "0", "2147483647", "17", "1.5", "true", "null", '"16"', "[16]", '{"0": ', "[" * 9999],
    ids=lambda text: text[:10],
)
def test_a_number_of_inputs_that_is_none_is_a_broken_file(said, tmp_path):
    network = seeded(mlp)
    cl.save(cl.compress(network, [cl.Dynamic()], X), tmp_path / "a.safetensors")
    tensors = load_file(tmp_path / "a.safetensors")
    for text in (said, f'{{"0": {said}}}'):
        save_file(tensors, tmp_path / "a.safetensors", {"int8_inputs": text})
        with pytest.raises(FileError):
            cl.load(tmp_path / "a.safetensors", network)


def test_weights_on_int8_keep_the_names_of_their_tensors():
    """A state that torch.save wrote before the files said the number of inputs is loaded strictly."""
    small = cl.compress(mlp(), [cl.Dynamic()], X)
    leaves = {name.rpartition(".")[2] for name in small.state_dict()}
    assert leaves == {"panels", "sums", "scale", "bias"}


@pytest.mark.parametrize("like", [mlp, lambda: cl.compress(mlp(), [cl.Dynamic()], X)])
def test_int8_layers_are_read_into_floats_and_into_int8(like, tmp_path):
    small = cl.compress(mlp(), [cl.Dynamic()], X)
    cl.save(small, tmp_path / "a.safetensors")
    assert torch.equal(cl.load(tmp_path / "a.safetensors", like())(X), small(X))


def test_buffers_of_a_users_own_are_no_int8_layer(tmp_path):
    class Own(nn.Linear):
        def __init__(self):
            super().__init__(16, 4)
            self.register_buffer("panels", torch.arange(3))
            self.register_buffer("columns", torch.arange(3))

    network = seeded(Own)
    cl.save(network, tmp_path / "a.safetensors")
    assert torch.equal(cl.load(tmp_path / "a.safetensors", seeded(Own)).columns, network.columns)


def test_a_network_that_is_one_layer_is_read_back_on_int8(tmp_path):
    network = seeded(lambda: nn.Linear(16, 4))
    small = cl.compress(network, [cl.Dynamic()], X)
    cl.save(small, tmp_path / "a.safetensors")
    assert torch.equal(cl.load(tmp_path / "a.safetensors", network)(X), small(X))


@pytest.mark.parametrize(
    "first,second",
    [
        *((a, b) for a in (cl.Weights(8), cl.Dynamic()) for b in (cl.Quantize(8), cl.Prune(0.5))),
        *(
            (cl.Quantize(8), b)
            for b in (cl.CutChannels(0.4), cl.LowRank(0.5), cl.Share(8), cl.Quantize(4))
        ),
        (cl.Quantize(8), cl.Dynamic()),
        (cl.Dynamic(), cl.Weights(4)),
    ],
    ids=str,
)
def test_a_stage_that_would_find_nothing_is_refused_before_any_is_done(first, second):
    network = mlp()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match="as the last that changes weights"):
        cl.compress(network, [first, second], X)
    assert all(torch.equal(v, before[n]) for n, v in network.state_dict().items())


@pytest.mark.parametrize("second", [cl.Weights(8), cl.Dynamic()], ids=str)
def test_shared_and_packed_weights_are_two_forms(second):
    with pytest.raises(ValueError, match="not both"):
        cl.compress(mlp(), [cl.Share(8), second], X)


def test_zeros_may_still_be_made_in_a_network_that_simulates_integers():
    small = cl.compress(mlp(), [cl.Quantize(8), cl.Prune(0.5)], X)
    assert type(small).__name__ == "Program"


@pytest.mark.parametrize("second", [cl.Prune(0.5), cl.Dynamic(), cl.LowRank(0.5)], ids=str)
def test_what_is_done_after_sharing_names_the_way_out(second):
    from compresslab.techniques import sharing

    shared = cl.compress(mlp(), [cl.Share(8)], X)
    with pytest.raises(ValueError, match=r"sharing\.unshared\(network\)"):
        cl.compress(shared, [second], X)
    cl.compress(sharing.unshared(shared), [second], X)


def test_an_integer_network_within_another_is_not_written(tmp_path):
    inner = cl.compress(mlp(), [cl.Quantize(8)], X)
    with pytest.raises(ValueError, match="'0' is an integer network within another"):
        cl.save(nn.Sequential(inner, nn.Softmax(1)), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("name", ["times", "plus", "less", "turned", "through"])
def test_a_number_that_is_a_buffer_is_a_number(name, shape):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 4)
            self.register_buffer("number", torch.full(shape, 0.5))

        def forward(self, x):
            y, b = self.layer(x), self.number
            ways = {"times": y * b, "plus": torch.add(y, b, alpha=2), "less": y - b}
            return ways[name] if name in ways else b - y if name == "turned" else y / b

    network = seeded(Scaled)
    assert not cl.inspect(network, X[:2]).obstacles["integers"]
    assert near(network, cl.compress(network, [cl.Quantize(8)], X)) > 25


def test_a_number_with_more_axes_is_no_number():
    class Deeper(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 4)
            self.register_buffer("number", torch.full((1, 1, 1), 0.5))

        def forward(self, x):
            return (self.layer(x) * self.number)[0]

    network = seeded(Deeper)
    assert cl.inspect(network, X[:2]).obstacles["integers"]
    with pytest.raises(ValueError, match=r"cannot run on integers|no integer"):
        cl.compress(network, [cl.Quantize(8)], X)


def test_a_layer_whose_weight_alone_is_used_is_quantized():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.decode = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x):
            return F.linear(torch.relu(self.encode(x)), self.decode.weight)

    network = seeded(Tied)
    assert near(network, cl.compress(network, [cl.Quantize(8)], X)) > 25


def test_a_subclass_with_a_parameter_of_its_own_keeps_it():
    class Gain(nn.Conv2d):
        def __init__(self, inputs, outputs, size):
            super().__init__(inputs, outputs, size)
            self.gain = nn.Parameter(torch.linspace(1, 3, outputs).reshape(-1, 1, 1))

        def forward(self, x):
            return super().forward(x) * self.gain

    tail = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    network = seeded(lambda: nn.Sequential(Gain(3, 8, 3), *tail))
    assert not cl.inspect(network, IMAGES[:2]).obstacles["integers"]
    small = cl.compress(network, [cl.Quantize(8)], IMAGES)
    assert near(network, small, IMAGES) > 15


def test_a_state_that_is_no_tensor_is_named(tmp_path):
    class Configured(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 4)

        def forward(self, x):
            return self.layer(x)

        def get_extra_state(self):
            return {"scale": 2}

        def set_extra_state(self, state):
            pass

    with pytest.raises(ValueError, match=r"no tensor \(get_extra_state\)"):
        cl.save(Configured(), tmp_path / "a.safetensors")


def test_what_a_forward_keeps_is_put_back():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 4)
            self.register_buffer("mean", torch.zeros(16))

        def forward(self, x):
            self.mean.lerp_(x.detach().mean(0), 0.1)
            return self.layer(x - self.mean)

    network = seeded(Centred)
    for look in (
        lambda: cl.compress(network, [cl.Dynamic()], X),
        lambda: cl.inspect(network, X[:2]),
        lambda: cl.measure(network, X[0], batches=(1,)),
        lambda: cl.debug(network, copy.deepcopy(network), X[:4]),
    ):
        look()
        assert not network.mean.any()


def test_a_lazy_layer_of_the_callers_stays_lazy():
    network = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(4))
    small = cl.compress(network, [cl.Dynamic()], X)
    assert small(X).shape == (64, 4)
    assert isinstance(network[0], nn.LazyLinear)


def test_norms_of_a_subclass_are_estimated_anew():
    class NormAndRelu(nn.BatchNorm2d):
        def forward(self, x):
            return torch.relu(super().forward(x))

    network = seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), NormAndRelu(8)))
    anew = reestimated(network, IMAGES)
    wanted = network[0](IMAGES).mean((0, 2, 3))
    assert torch.allclose(anew[1].running_mean, wanted, atol=1e-5)
    assert not network[1].running_mean.any()


def test_a_session_of_onnx_runtime_and_a_stage_of_ones_own_may_follow():
    class Own(Stage):
        def __call__(self, network, material):
            return network

    refuse_order([cl.Quantize(8), OnnxRuntime()])
    refuse_order([cl.Dynamic(), Own(), cl.Distill(mlp)])
