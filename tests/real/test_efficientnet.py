"""A network trained on ImageNet, as it comes from the package index: held against ONNX Runtime's own int8."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import compresslab as cl
from compresslab.real import efficientnet
from compresslab.real.packages import installed
from compresslab.runtime import files, peers

needs_weights = pytest.mark.skipif(
    installed("efficientnet") is None, reason="compresslab real efficientnet"
)


def images(count, size=96):
    """Spots and grain, in -1..1: nothing that the network has seen, but nothing flat either."""
    generator = torch.Generator().manual_seed(0)
    spots = torch.rand(count, 3, 4, 4, generator=generator)
    grain = torch.rand(count, 3, 24, 24, generator=generator)
    mixed = F.interpolate(spots, size=size, mode="bicubic") + F.interpolate(grain, size=size)
    return (2 * mixed - 2).clamp(-1, 1)


@needs_weights
def test_our_integers_are_nearer_to_the_float_network_than_onnx_runtimes():
    """14 of its 49 layers have dead channels, and depthwise layers lose most; biases are corrected."""
    network, x = efficientnet.efficientnet_lite0(), images(112)
    calibration, test = x[:64], x[64:]
    ours = cl.compress(network, [cl.Quantize(8)], calibration)
    theirs = peers.onnxruntime_int8(network, calibration)
    with torch.no_grad():
        wanted, one, other = (m(test) for m in (network, ours, theirs))
    spread = (wanted - wanted.mean(0)).square().mean()
    errors = [float((found - wanted).square().mean() / spread) for found in (one, other)]
    assert errors[0] < errors[1]
    assert errors[0] < 0.05
    agrees = [float((f.argmax(1) == wanted.argmax(1)).double().mean()) for f in (one, other)]
    assert agrees[0] > 0.75
    assert agrees[0] >= agrees[1] - 0.05
    assert files.size(ours) < len(theirs.file)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="does not hold the weights of EfficientNet-Lite0"):
        efficientnet.efficientnet_lite0(tmp_path / "w.pth")


def test_parameters_and_multiplications_are_those_that_torch_counts():
    network = efficientnet.architecture()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(4.65e6, rel=0.01)
    with torch.device("meta"):
        network, x = efficientnet.architecture().eval(), torch.empty(1, 3, 224, 224)
    # torch counts a multiplication and an addition as two.
    with FlopCounterMode(display=False) as counter:
        network(x)
    counted = sum(layer.macs for layer in cl.inspect(network, x).layers)
    assert 2 * counted == counter.get_total_flops()
