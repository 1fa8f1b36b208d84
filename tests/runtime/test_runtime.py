"""Integer networks: the same as simulated, in files that cannot lie, as operators torch can see."""

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from compresslab import measure, models
from compresslab.data import load
from compresslab.kernels import panels
from compresslab.runtime import ops, storage
from compresslab.runtime.convert import ConversionError, convert, convert_dynamic
from compresslab.runtime.dynamic import DynamicInt8Linear
from compresslab.runtime.program import Line, Program
from compresslab.runtime.steps.integer import IntConv2d, IntDepthwiseConv2d, IntLinear, IntLogits
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import ActivationQuantizer, QuantConfig
from compresslab.training import fit, logits, seed_everything

NETWORKS = [models.MLP, models.VGGLike, models.ResNet8, models.DepthwiseNet]


@pytest.fixture(scope="module")
def data():
    return load("digits", size=16)


@pytest.fixture(scope="module")
def trained(data):
    networks = {}
    for network in NETWORKS:
        seed_everything(0)
        networks[network] = network(data.shape, 10)
        fit(networks[network], data.train, epochs=1, lr=0.1, batch_size=64, progress=False)
    return networks


def simulated(model, data, **options):
    return quantize_post_training(model, QuantConfig(**options), data.train.x[:200])


# ---- conversion ------------------------------------------------------------------------------------
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "options",
    [{}, {"weight_bits": 4, "sharing": "tensor"}, {"weight_bits": 3, "activation_bits": 6}],
)
def test_the_integer_network_predicts_what_the_simulation_predicts(network, options, trained, data):
    prepared = simulated(trained[network], data, **options)
    program = convert(prepared)
    one, other = logits(prepared, data.test.x), logits(program, data.test.x)
    assert float((one - other).square().mean()) < 2e-3 * float(one.square().mean())
    assert float((one.argmax(1) == other.argmax(1)).double().mean()) > 0.98


@pytest.mark.parametrize("network", NETWORKS)
def test_each_integer_layer_is_within_one_code_of_its_simulation(network, trained, data):
    """Feed each simulated layer's own input codes to the integer layer and compare output codes."""
    prepared = simulated(trained[network], data)
    program = convert(prepared)
    seen = {}
    for name, module in prepared.named_modules():
        if isinstance(module, ActivationQuantizer):
            module.register_forward_hook(
                lambda m, _i, out, n=name: seen.__setitem__(
                    n, torch.round(out / m.scale + m.zero_point)
                )
            )
    x = data.test.x[:64]
    with torch.no_grad():
        prepared(x)
    results = {"image": x}
    checked = 0
    for step, layer in zip(program.steps, program.layers, strict=True):
        out = layer(*(results[name] for name in step.inputs))
        results[step.name] = out
        if step.name in seen:
            wanted = seen[step.name]
            wanted = wanted.permute(0, 2, 3, 1) if wanted.ndim == 4 else wanted
            assert (out.float() - wanted).abs().max() <= 1, step.name
            results[step.name] = wanted.to(torch.uint8).contiguous()
            checked += 1
    assert checked == len(seen)


def test_nothing_is_left_in_floats(trained, data):
    for network in NETWORKS:
        program = convert(simulated(trained[network], data))
        x = data.test.x[:2]
        kinds = []
        for layer in program.layers:
            layer.register_forward_hook(lambda _m, _i, out, k=kinds: k.append(out.dtype))
        program(x)
        assert kinds == [torch.uint8] * (len(kinds) - 1) + [torch.float32]


def test_a_norm_that_turns_a_channel_off_or_over_is_converted(trained, data):
    import copy

    model = copy.deepcopy(trained[models.VGGLike])
    with torch.no_grad():
        model[0][1].weight[0] = 0
        model[2][1].weight[1] *= -1
    prepared = simulated(model, data)
    one, other = logits(prepared, data.test.x), logits(convert(prepared), data.test.x)
    assert float((one - other).square().mean()) < 2e-3 * float(one.square().mean())


class Odd(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.conv, self.layer = nn.Conv2d(1, 4, 3), layer
        self.head = nn.Linear(4 * 14 * 14, 10)

    def forward(self, x):
        return self.head(torch.flatten(self.layer(self.conv(x)), 1))


@pytest.mark.parametrize(
    "model,words",
    [
        (
            lambda: nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.Softmax2d(), nn.Flatten(), nn.Linear(784, 10)
            ),
            "node '_1' .Softmax2d.",
        ),
        (lambda: Odd(nn.LocalResponseNorm(2)), "layer"),
        (
            lambda: nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.MaxPool2d(3, 1, 0, 2), nn.Flatten(), nn.Linear(400, 10)
            ),
            "dilation",
        ),
        (
            lambda: nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4), nn.LPPool2d(2, 2), nn.Flatten()
            ),
            "InstanceNorm2d.*LPPool2d",
        ),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(14, 10)), "rows of an image"),
    ],
)
def test_what_has_no_integer_form_is_refused_by_name(model, words, data):
    with pytest.raises(ConversionError, match=words):
        convert(simulated(model(), data))


@pytest.mark.parametrize(
    "options,words",
    [
        ({"dynamic": True}, "dynamic"),
        ({"activation_bits": None}, "not quantized"),
        ({"sharing": "group", "group": 16}, "groups"),
    ],
)
def test_configurations_without_an_integer_form_are_refused(options, words, trained, data):
    with pytest.raises(ConversionError, match=words):
        convert(simulated(trained[models.MLP], data, **options))


def test_a_grouped_convolution_is_converted(data):
    seed_everything(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 10),
    )
    prepared = simulated(model, data)
    one, other = logits(prepared, data.test.x), logits(convert(prepared), data.test.x)
    assert float((one - other).abs().max()) < 0.05 * float(one.abs().max())


def test_a_measurement_counts_the_integer_network(trained, data):
    model = trained[models.VGGLike]
    program = convert(simulated(model, data))
    row = measure.measure(program, data, "int8", batches=(1,))
    fp32 = measure.measure(model, data.shape, batches=())
    assert row.macs == fp32.macs
    assert row.bops == row.macs * 64
    assert row.bytes_disk < 0.3 * fp32.bytes_disk
    assert row.energy < 0.3 * fp32.energy


# ---- dynamic layers ----------------------------------------------------------------------------------
def test_dynamic_layers_replace_linear_layers_anywhere():
    encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        changed = convert_dynamic(encoder)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    kinds = [type(m) for m in changed.modules()]
    assert kinds.count(DynamicInt8Linear) == 2
    assert not any(isinstance(m, DynamicInt8Linear) for m in encoder.modules())
    layer, x = nn.Linear(48, 20), torch.randn(3, 7, 48)
    fast = DynamicInt8Linear(layer)
    assert fast(x).shape == (3, 7, 20)
    assert (fast(x) - layer(x)).abs().max() < 0.05


def test_a_dynamic_layer_refuses_nan():
    with pytest.raises(ValueError, match="NaN"):
        DynamicInt8Linear(nn.Linear(4, 3))(torch.tensor([[1.0, float("nan"), 0, 0]]))


# ---- torch operators -----------------------------------------------------------------------------------
def packed(n, k, runs=1):
    codes = np.random.default_rng(0).integers(-127, 128, (n, k)).astype(np.int8)
    weight = panels.pack_weight(codes, runs)
    epilogue = weight.requantize(3, None, np.full(n, 1e-3, np.float32), 4, 0, 255)
    tensors = (weight.panels, epilogue.start, epilogue.factor)
    return weight, [torch.from_numpy(t.copy()) for t in tensors]


def test_operators_pass_torchs_own_checks():
    weight, tensors = packed(20, 24)
    rows = torch.randint(0, 256, (5, 24), dtype=torch.uint8)
    torch.library.opcheck(ops.int8_linear, (rows, *tensors, 24, 20, weight.width, 4, 0, 255))
    weight, tensors = packed(20, 27, runs=3)
    image = torch.randint(0, 256, (2, 6, 5, 3), dtype=torch.uint8)
    arguments = (image, *tensors, [3, 3, 2, 1], 3, 20, weight.width, 4, 0, 255)
    torch.library.opcheck(ops.int8_conv2d, arguments)
    layer = DynamicInt8Linear(nn.Linear(24, 20))
    arguments = (
        torch.randn(5, 24),
        layer.panels,
        layer.sums,
        layer.scale,
        layer.bias,
        layer.packed.width,
    )
    torch.library.opcheck(ops.dynamic_int8_linear, arguments)


def test_operators_and_modules_give_the_same_numbers(trained, data, monkeypatch):
    program = convert(simulated(trained[models.VGGLike], data))
    x = data.test.x[:20]
    direct = program(x)
    monkeypatch.setattr(ops, "plain", lambda _x: False)
    assert torch.equal(program.step_by_step(x), direct)
    layer, rows = DynamicInt8Linear(nn.Linear(24, 20)), torch.randn(5, 24)
    through_operator = layer(rows)
    monkeypatch.undo()
    assert torch.equal(layer(rows), through_operator)


# ---- files -----------------------------------------------------------------------------------------------
@pytest.fixture
def saved(trained, data, tmp_path):
    program = convert(simulated(trained[models.DepthwiseNet], data, weight_bits=5))
    path = tmp_path / "net.safetensors"
    size = storage.save(program, path)
    return program, path, size


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_a_file_gives_the_same_network_back(network, bits, trained, data, tmp_path):
    program = convert(simulated(trained[network], data, weight_bits=bits))
    size = storage.save(program, tmp_path / "net.safetensors")
    assert size == (tmp_path / "net.safetensors").stat().st_size == measure.disk_bytes(program)
    back = storage.load(tmp_path / "net.safetensors")
    assert torch.equal(logits(back, data.test.x), logits(program, data.test.x))


def test_fewer_bits_make_a_smaller_file(trained, data, tmp_path):
    sizes = [
        storage.save(
            convert(simulated(trained[models.MLP], data, weight_bits=b)), tmp_path / "n.safetensors"
        )
        for b in (8, 4, 2)
    ]
    weights = sum(
        p.numel() for n, p in trained[models.MLP].named_parameters() if n.endswith("weight")
    )
    assert sizes[0] > weights
    assert sizes[0] - sizes[1] == pytest.approx(weights / 2, rel=0.01)
    assert sizes[1] - sizes[2] == pytest.approx(weights / 4, rel=0.01)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 2000, -1])
def test_a_truncated_file_is_refused(saved, keep):
    _, path, _ = saved
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(storage.FileError, match=r"net\.safetensors is no whole"):
        storage.load(path)


@pytest.mark.parametrize("length", [0, 1, 2**40, 2**63, 2**64 - 1])
def test_a_header_that_lies_about_its_length_is_refused(saved, length):
    _, path, _ = saved
    content = path.read_bytes()
    path.write_bytes(struct.pack("<Q", length) + content[8:])
    with pytest.raises(storage.FileError):
        storage.load(path)


def rewritten(path, change):
    """The file with its steps changed."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    steps = json.loads(metadata["steps"])
    replaced = change(steps, tensors)
    steps = replaced if isinstance(replaced, list) else steps
    save_file(tensors, path, {**metadata, "steps": json.dumps(steps)})


def first_of(steps, kind):
    return next(s for s in steps if s["kind"] == kind)


LIES = {
    "a shape that needs more bytes": lambda s, t: first_of(s, "conv2d").update(
        shape=[2**30, 3, 3, 1]
    ),
    "a shape that needs fewer": lambda s, t: first_of(s, "conv2d").update(shape=[1, 3, 3, 1]),
    "a shape of another kind": lambda s, t: first_of(s, "logits").update(shape=[10]),
    "a negative size": lambda s, t: first_of(s, "conv2d").update(shape=[-32, 3, 3, 1]),
    "bits": lambda s, t: first_of(s, "conv2d").update(bits=60),
    "a boolean": lambda s, t: first_of(s, "conv2d").update(bits=True),
    "an unknown kind": lambda s, t: s[1].update(kind="exec"),
    "an unknown entry": lambda s, t: s[1].update(code="import os"),
    "a step that reads the future": lambda s, t: s[0].update(inputs=[s[-1]["name"]]),
    "two steps of one name": lambda s, t: s[2].update(name=s[1]["name"]),
    "no steps": lambda s, t: [],
    "a list in place of a step": lambda s, t: [[]],
    "a scale of zero": lambda s, t: s[0].update(scale=0),
    "a scale of infinity": lambda s, t: s[0].update(scale=float("inf")),
    "a zero point": lambda s, t: first_of(s, "conv2d").update(zero_point=300),
    "a stride of zero": lambda s, t: first_of(s, "conv2d").update(stride=0),
    "a missing number": lambda s, t: first_of(s, "conv2d").pop("stride"),
    "a missing tensor": lambda s, t: t.pop(first_of(s, "conv2d")["name"] + "/bias"),
    "a tensor too many": lambda s, t: t.update(stranger=torch.zeros(3)),
    "a bias too short": lambda s, t: t.update(
        {first_of(s, "conv2d")["name"] + "/bias": torch.zeros(3, dtype=torch.int32)}
    ),
    "a weight of floats": lambda s, t: t.update(
        {first_of(s, "conv2d")["name"] + "/weight": torch.zeros(180)}
    ),
    "a NaN": lambda s, t: t[first_of(s, "logits")["name"] + "/scale"].fill_(float("nan")),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_contradicts_itself_is_refused(saved, lie):
    _, path, _ = saved
    rewritten(path, LIES[lie])
    with pytest.raises(storage.FileError, match=r"net\.safetensors"):
        storage.load(path)


def test_other_formats_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(storage.FileError, match="expected format"):
        storage.load(path)
    path.write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(storage.FileError):
        storage.load(path)
    with pytest.raises(FileNotFoundError):
        storage.load(tmp_path / "nothing")


def test_programs_must_build_on_earlier_steps():
    with pytest.raises(ValueError, match="build on earlier ones"):
        Program([Line("a", ("b",))], [nn.Identity()])
    with pytest.raises(ValueError, match="must not be empty"):
        Program([], [])


def test_an_image_with_nan_or_another_dtype_is_refused(saved):
    program, _, _ = saved
    x = torch.zeros(1, 1, 16, 16)
    with pytest.raises(ValueError, match="float32"):
        program(x.double())
    x[0, 0, 3, 3] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        program(x)


def test_kinds_of_layers_are_what_they_should_be(trained, data):
    kinds = {type(m) for m in convert(simulated(trained[models.DepthwiseNet], data)).layers}
    assert {IntConv2d, IntDepthwiseConv2d, IntLogits} <= kinds
    assert IntLinear in {type(m) for m in convert(simulated(trained[models.MLP], data)).layers}
