"""ONNX files, run by ONNX Runtime: the float network's answers, and our integers."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compresslab import models
from compresslab.runtime import export, peers, tensorrt
from compresslab.runtime.convert import ConversionError, convert
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig
from compresslab.training import logits, seed_everything

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None or not peers.onnxruntime_available(),
    reason="ONNX Runtime is not installed: pip install compresslab[peers]",
)
SHAPE = (1, 12, 12)


class Functional(nn.Module):
    """ReLU as a function, an addition, two norms in a row, a bias."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(1, 6, 3, padding=1)
        self.norm, self.again = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.two = nn.Conv2d(6, 6, 3, 2, 1, groups=2)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu(self.again(self.norm(self.one(x))))
        return self.head(torch.flatten(self.pool(self.two(x)), 1))


NETWORKS = {
    "MLP": lambda: models.MLP(SHAPE, 5, (20, 10)),
    "VGG-like": lambda: models.VGGLike(SHAPE, 5, (4, 8, 8)),
    "ResNet-8": lambda: models.ResNet8(SHAPE, 5, (4, 8, 8)),
    "depthwise": lambda: models.DepthwiseNet(SHAPE, 5, (4, 8, 8)),
}


def trained(build):
    """A network whose norms have seen images; some gains negative, one nearly 0."""
    seed_everything(0)
    network = build()
    for _ in range(3):
        network(torch.rand(60, *SHAPE))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            with torch.no_grad():
                module.weight.uniform_(-1.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
                module.weight[0] = 0
    return network.eval()


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys())
def network(request):
    return trained(request.param)


def images(n=80):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(3))


def test_the_float_file_answers_as_torch_does(network, tmp_path):
    path = tmp_path / "m.onnx"
    assert export.export_float(network, SHAPE, path) == path.stat().st_size
    found = peers.OnnxModel(path, 1)(images())
    assert torch.allclose(found, logits(network, images()), atol=1e-4)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_int8_file_computes_our_integers(network, tmp_path, bits):
    simulated = quantize_post_training(network, QuantConfig(weight_bits=bits), images())
    export.export_int8(simulated, SHAPE, tmp_path / "m.onnx")
    theirs = logits(peers.OnnxModel(tmp_path / "m.onnx", 1, exact=True), images())
    ours = logits(convert(simulated), images())
    reach = float(ours.max() - ours.min())
    # A tie that is rounded another way moves a code by one, and what is behind it a little.
    assert (theirs - ours).abs().max() < 0.03 * reach
    assert (theirs - ours).abs().mean() < 0.005 * reach


def test_the_file_holds_codes_and_says_nothing_of_its_author(tmp_path):
    import onnx

    network = trained(lambda: models.VGGLike(SHAPE, 5, (32, 64, 64)))
    simulated = quantize_post_training(network, QuantConfig(), images())
    int8 = export.export_int8(simulated, SHAPE, tmp_path / "int8.onnx")
    assert int8 < export.export_float(network, SHAPE, tmp_path / "float.onnx") / 2
    graph = onnx.load(tmp_path / "int8.onnx").graph
    kinds = {onnx.TensorProto.DataType.Name(t.data_type) for t in graph.initializer if t.dims}
    assert "INT8" in kinds
    weights = [t for t in graph.initializer if len(t.dims) > 1]
    assert {onnx.TensorProto.DataType.Name(t.data_type) for t in weights} == {"INT8"}
    assert not any(node.metadata_props for node in graph.node)
    assert b".py" not in (tmp_path / "int8.onnx").read_bytes()


def test_engines_fuse_what_is_written(tmp_path):
    import onnx
    import onnxruntime

    network = trained(NETWORKS["VGG-like"])
    simulated = quantize_post_training(network, QuantConfig(), images())
    export.export_int8(simulated, SHAPE, tmp_path / "m.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert kinds.count("QLinearConv") == 3
    assert "Conv" not in kinds


def test_the_batch_may_have_any_size(tmp_path):
    network = trained(NETWORKS["MLP"])
    export.export_float(network, SHAPE, tmp_path / "m.onnx")
    runner = peers.OnnxModel(tmp_path / "m.onnx", 1)
    assert [len(runner(images(n))) for n in (1, 2, 7)] == [1, 2, 7]


def test_functions_two_norms_and_groups_are_exported(tmp_path):
    network = trained(Functional)
    simulated = quantize_post_training(network, QuantConfig(), images())
    export.export_int8(simulated, SHAPE, tmp_path / "m.onnx")
    found = logits(peers.OnnxModel(tmp_path / "m.onnx", 1, exact=True), images())
    expected = logits(simulated, images())
    assert (found - expected).abs().max() < 0.05 * (expected.max() - expected.min())


class Twice(nn.Module):
    """One convolution, used twice, with another norm behind it each time."""

    def __init__(self):
        super().__init__()
        self.first, self.conv = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.one, self.two = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 5)
        self.flat = nn.Flatten()

    def forward(self, x):
        x = F.relu(self.one(self.conv(F.relu(self.first(x)))))
        return self.head(self.flat(self.pool(F.relu(self.two(self.conv(x))))))


class NormBehindAddition(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.conv = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.pool, self.flat, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.head(self.flat(self.pool(F.relu(self.norm(self.conv(x) + x)))))


def zero_rows():
    """Weights of whole outputs are 0, and norms shift them."""
    network = models.VGGLike(SHAPE, 5, (6, 8, 8))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            with torch.no_grad():
                module.weight[::3] = 0
    return network


@pytest.mark.parametrize("build", [Twice, zero_rows, lambda: plain_norms()])
def test_unusual_networks_compute_the_same_here_and_there(build, tmp_path):
    network = trained(build)
    simulated = quantize_post_training(network, QuantConfig(), images())
    export.export_int8(simulated, SHAPE, tmp_path / "m.onnx")
    expected = logits(simulated, images())
    reach = float(expected.max() - expected.min())
    for found in (
        logits(peers.OnnxModel(tmp_path / "m.onnx", 1, exact=True), images()),
        logits(convert(simulated), images()),
    ):
        assert (found - expected).abs().max() < 0.05 * reach


def plain_norms():
    """Norms without gain and shift."""
    network = models.VGGLike(SHAPE, 5, (6, 8, 8))
    for stage in (0, 2, 4):
        network[stage][1] = nn.BatchNorm2d(network[stage][1].num_features, affine=False)
    return network


def test_a_norm_that_belongs_to_no_layer_is_a_table_per_channel():
    simulated = quantize_post_training(trained(NormBehindAddition), QuantConfig(), images())
    expected, found = logits(simulated, images()), logits(convert(simulated), images())
    assert (found - expected).abs().max() < 0.02 * (expected.max() - expected.min())


def test_a_norm_without_statistics_is_refused():
    network = trained(NETWORKS["VGG-like"])
    network[0][1] = nn.BatchNorm2d(4, track_running_stats=False)
    simulated = quantize_post_training(network, QuantConfig(), images())
    with pytest.raises(ConversionError, match="without running statistics"):
        convert(simulated)


def test_the_mode_of_the_network_stays(tmp_path):
    network = trained(NETWORKS["VGG-like"]).train()
    export.export_float(network, SHAPE, tmp_path / "m.onnx")
    assert all(module.training for module in network.modules())


def test_the_simulation_is_not_changed(tmp_path):
    network = trained(NETWORKS["ResNet-8"])
    simulated = quantize_post_training(network, QuantConfig(), images())
    before = logits(simulated, images())
    export.export_int8(simulated, SHAPE, tmp_path / "m.onnx")
    assert torch.equal(logits(simulated, images()), before)


@pytest.mark.parametrize(
    "options,what",
    [
        ({"activation_bits": 4}, "of 4 bits: QDQ needs 8 bits"),
        ({"dynamic": True}, "is dynamic"),
        ({"activation_bits": None}, "is not quantized: prepare with activation_bits=8"),
        ({"sharing": "group", "group": 12}, "scales of groups"),
    ],
)
def test_what_has_no_such_form_is_refused_by_name(tmp_path, options, what):
    network = trained(NETWORKS["MLP"])
    simulated = quantize_post_training(network, QuantConfig(**options), images())
    with pytest.raises(ConversionError, match=what):
        export.export_int8(simulated, SHAPE, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


# ---- signed codes, as TensorRT wants them --------------------------------------------------------
def decibels(wanted, got):
    return float(10 * torch.log10(wanted.square().mean() / (wanted - got).square().mean()))


def test_a_signed_file_has_nothing_that_tensorrt_refuses(network, tmp_path):
    simulated = quantize_post_training(network, QuantConfig(), images())
    export.export_int8(simulated, SHAPE, tmp_path / "signed.onnx", signed=True)
    assert tensorrt.obstacles(tmp_path / "signed.onnx") == []
    export.export_int8(simulated, SHAPE, tmp_path / "m.onnx")
    refused = tensorrt.obstacles(tmp_path / "m.onnx")
    assert any("codes are uint8, not int8" in line for line in refused)
    assert any("codes are int32, not int8" in line for line in refused)


def test_a_signed_file_answers_nearly_as_the_floats_do(network, tmp_path):
    simulated = quantize_post_training(network, QuantConfig(), images())
    export.export_int8(simulated, SHAPE, tmp_path / "signed.onnx", signed=True)
    x, wanted = images(30), logits(network, images(30))
    signed = logits(peers.OnnxModel(tmp_path / "signed.onnx", 1, exact=True), x)
    # Behind a ReLU one bit less: six decibels for each of a few layers' roundings.
    assert decibels(wanted, signed) > decibels(wanted, logits(convert(simulated), x)) - 9
    assert decibels(wanted, signed) > 15


def test_a_signed_files_nodes_are_what_torch_says(tmp_path):
    x = torch.tensor([-300.0, -1.26, 0.0, 0.4, 0.6, 250.0])
    scale, zero = torch.tensor(0.5), torch.tensor(0, dtype=torch.int8)
    theirs = torch.fake_quantize_per_tensor_affine(x, 0.5, 0, -128, 127)
    assert torch.equal(export.qdq(x, scale, zero), theirs)


@pytest.mark.parametrize(
    "change,words",
    [
        ({"zero": 3}, "its zero point is not 0"),
        ({"scale": 0.0}, "its scale is no positive constant"),
        ({"weight": -128}, "a weight is -128"),
        ({"scales": 2}, "activations must have one scale"),
    ],
)
def test_every_kind_of_obstacle_is_named(change, words, tmp_path):
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    count = change.get("scales", 1)
    scale = np.full(count if count > 1 else (), change.get("scale", 0.1), np.float32)
    zero = np.full(scale.shape, change.get("zero", 0), np.int8)
    weight = np.full((2, 2), change.get("weight", 5), np.int8)
    constants = {"s": scale, "z": zero, "w": weight, "ws": np.float32(1), "wz": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["d"]),
    ]
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])]
    graph = helper.make_graph(
        nodes,
        "g",
        values,
        [],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    (line,) = tensorrt.obstacles(tmp_path / "m.onnx")
    assert words in line
