"""Packed weights as MatMulNBits: ONNX Runtime's answers are those of our kernel."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import compresslab as cl
from compresslab.pretrained import keyword_encoder
from compresslab.runtime.export import export_float
from compresslab.runtime.export_weights import export_weights
from compresslab.runtime.integers import ConversionError

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


def network(*widths, seed=0):
    torch.manual_seed(seed)
    layers = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Linear(inputs, outputs, bias=number % 2 == 0), nn.GELU()]
    return nn.Sequential(*layers[:-1]).eval()


def packed(model, bits, group, x):
    return cl.compress(model, [cl.Weights(bits, group=group, words=None)], x, progress=False)


def answers(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("group", [16, 32])
def test_onnx_runtime_says_what_our_kernel_says(tmp_path, bits, group):
    # 96 inputs in groups of 32 are three: the zero points of a row end in half a byte.
    model, x = network(64, 96, 32, 10), torch.randn(7, 64)
    small = packed(model, bits, group, x)
    export_weights(small, x, tmp_path / "small.onnx")
    for batch in (1, 5):
        with torch.no_grad():
            wanted = small(x[:batch])
        np.testing.assert_allclose(
            answers(tmp_path / "small.onnx", x[:batch]), wanted, rtol=1e-4, atol=1e-5
        )


def test_the_codes_in_the_file_are_ours(tmp_path):
    """Read back by the documented layout, without ONNX Runtime."""
    model, x = network(64, 6), torch.randn(4, 64)
    small = packed(model, 4, 32, x)
    export_weights(small, x, tmp_path / "small.onnx")
    graph = onnx.load(tmp_path / "small.onnx").graph
    (node,) = [n for n in graph.node if n.op_type == "MatMulNBits"]
    held = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    words, scales, zeros = (held[name] for name in node.input[1:4])
    assert words.shape == (6, 2, 16)
    codes = np.stack([words & 15, words >> 4], -1).reshape(6, 2, 32).astype(np.float32)
    zero = np.stack([zeros & 15, zeros >> 4], -1).reshape(6, 2, 1).astype(np.float32)
    weight = ((codes - zero) * scales.reshape(6, 2, 1)).reshape(6, 64)
    np.testing.assert_array_equal(weight, small[0].weight.numpy())
    attributes = {a.name: a.i for a in node.attribute}
    assert (attributes["K"], attributes["N"]) == (64, 6)
    assert (attributes["bits"], attributes["block_size"]) == (4, 32)


def test_the_file_is_smaller_and_the_network_as_it_was(tmp_path):
    model, x = network(256, 256, 256), torch.randn(4, 256)
    small = packed(model, 4, 32, x)
    before = {n: t.clone() for n, t in small.state_dict().items()}
    size = export_weights(small, x, tmp_path / "small.onnx")
    assert size == (tmp_path / "small.onnx").stat().st_size
    assert size < export_float(model, (256,), tmp_path / "floats.onnx") / 5
    assert all(torch.equal(before[n], t) for n, t in small.state_dict().items())
    assert small(x).shape == (4, 256)


def test_a_network_of_words_with_its_table_in_floats(tmp_path):
    torch.manual_seed(0)
    encoder = keyword_encoder(width=32, layers=2).eval()
    tokens = torch.randint(3, 50, (4, 24))
    small = packed(encoder, 4, 16, tokens)
    export_weights(small, tokens, tmp_path / "words.onnx")
    with torch.no_grad():
        wanted = small(tokens[:2])
    np.testing.assert_allclose(
        answers(tmp_path / "words.onnx", tokens[:2]), wanted, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: network(32, 8), "model has no packed layer"),
        (lambda: packed(network(40, 8), 4, 20, torch.randn(4, 40)), "'0' has groups of 20"),
        (
            lambda: cl.compress(
                nn.Sequential(nn.Embedding(40, 32), nn.Linear(32, 32)),
                [cl.Weights(4, group=32, words=4)],
                torch.randint(0, 40, (4, 6)),
                progress=False,
            ),
            "'0' is a packed table of words",
        ),
    ],
    ids=["floats", "a group of 20", "a table"],
)
def test_what_has_no_such_form_is_refused_by_name_and_nothing_is_written(tmp_path, build, words):
    with pytest.raises(ConversionError, match=words):
        export_weights(build(), torch.zeros(2, 32), tmp_path / "none.onnx")
    assert list(tmp_path.iterdir()) == []
