"""The Deep Compression file, and the one way to write and read any network: round trips and hostile files."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import compresslab as cl
from compresslab import models
from compresslab.runtime import deep_compression, files, sparse
from compresslab.runtime.convert import convert
from compresslab.runtime.peers import onnxruntime_available
from compresslab.runtime.weight_only import convert_weights
from compresslab.techniques import sharing, weight_only
from compresslab.techniques.prune import select
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig
from compresslab.techniques.scores import magnitude
from compresslab.training import logits, seed_everything
from compresslab.writing import FileError

SHAPE = (1, 8, 8)


def build():
    return models.VGGLike(SHAPE, 5, (4, 6, 40))


@pytest.fixture
def network():
    seed_everything(0)
    return build().eval()


@pytest.fixture
def shared(network):
    select(magnitude(network), 0.7).apply(network)
    return sharing.share_weights(network, 7).eval()


def state_equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(v, other[k]) for k, v in one.items())


@pytest.mark.parametrize("huffman", [True, False])
def test_what_comes_back_has_the_same_weights_bit_for_bit(shared, tmp_path, huffman):
    path = tmp_path / "m.safetensors"
    size = deep_compression.save(shared, path, huffman)
    assert size == path.stat().st_size
    back = deep_compression.load(path, build()).eval()
    assert state_equal(back.state_dict(), sharing.unshared(shared).state_dict())
    x = torch.rand(9, *SHAPE)
    assert torch.allclose(back(x), shared(x), atol=1e-5)


def test_each_step_is_smaller(shared, tmp_path):
    plain = sharing.unshared(shared)
    sizes = [
        files.size(build()),
        sparse.save(plain, tmp_path / "a"),
        deep_compression.save(shared, tmp_path / "b", huffman=False),
        deep_compression.save(shared, tmp_path / "c"),
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 9),
    columns=st.integers(1, 70),
    zeros=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    colours=st.sampled_from([1, 2, 15, 255]),
)
def test_any_linear_layer_survives(tmp_path, seed, rows, columns, zeros, colours):
    seed_everything(seed)
    layer = nn.Sequential(nn.Linear(columns, rows))
    with torch.no_grad():
        layer[0].weight.mul_(torch.rand(rows, columns) >= zeros)
    shared = sharing.share_weights(layer, colours)
    deep_compression.save(shared, tmp_path / "m")
    back = deep_compression.load(tmp_path / "m", nn.Sequential(nn.Linear(columns, rows)))
    assert state_equal(back.state_dict(), sharing.unshared(shared).state_dict())


def test_layers_that_are_not_shared_are_kept_as_they_are(network, tmp_path):
    some = sharing.share_weights(network, {"2.0": 3})
    deep_compression.save(some, tmp_path / "m")
    back = deep_compression.load(tmp_path / "m", build())
    assert state_equal(back.state_dict(), sharing.unshared(some).state_dict())


class Pair(nn.Module):
    """One layer under two names."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = self.a

    def forward(self, x):
        return self.b(self.a(x))


@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(6, 5), Pair], ids=["a layer alone", "two names"]
)
def test_odd_names_survive(make, tmp_path):
    shared = sharing.share_weights(make(), 3)
    deep_compression.save(shared, tmp_path / "m")
    back, x = deep_compression.load(tmp_path / "m", make()), torch.rand(4, 6)
    assert torch.allclose(back(x), shared(x), atol=1e-6)


def test_two_tensors_are_not_read_into_one(tmp_path):
    def apart():
        return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    tied = apart()
    tied[1].weight = tied[0].weight
    deep_compression.save(sharing.share_weights(apart(), 3), tmp_path / "m")
    with pytest.raises(FileError, match="are one tensor in the model, and differ in the file"):
        deep_compression.load(tmp_path / "m", tied)


def test_a_model_without_shared_layers_is_refused(network, tmp_path):
    with pytest.raises(ValueError, match="model must have layers from share_weights, got none"):
        deep_compression.save(network, tmp_path / "m")
    assert not list(tmp_path.iterdir())


# ---- hostile files -------------------------------------------------------------------------------
def rewritten(shared, path, change):
    """A file with other layers' entries or tensors."""
    deep_compression.save(shared, path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    about = json.loads(metadata["layers"])
    change(about, tensors, metadata)
    if metadata.get("layers") is not None and metadata["layers"] != "[" * 50_000:
        metadata["layers"] = json.dumps(about)
    save_file(tensors, path, metadata)
    return path


def entry(key, value):
    return lambda about, tensors, metadata: about["4.0"].update({key: value})


def cut(name):
    def change(about, tensors, metadata):
        tensors[name] = tensors[name][:-3].clone()

    return change


def lengths_of_ones(about, tensors, metadata):
    packed, colours = tensors["4.0.weight"].clone(), about["4.0"]["colours"]
    packed[4 * colours : 5 * colours] = 1
    tensors["4.0.weight"] = packed


def nan_centroid(about, tensors, metadata):
    packed = tensors["4.0.weight"].clone()
    packed[:4] = torch.tensor([0, 0, 192, 127], dtype=torch.uint8)
    tensors["4.0.weight"] = packed


HOSTILE = {
    "a gap fewer": lambda a, t, m: a["4.0"].update(gaps=a["4.0"]["gaps"] - 1),
    "no gaps at all": entry("gaps", 0),
    "a longer gap stream": lambda a, t, m: a["4.0"].update(gap_bytes=a["4.0"]["gap_bytes"] + 1),
    "bytes behind the end": lambda a, t, m: t.update(
        {"4.0.weight": torch.cat([t["4.0.weight"], torch.zeros(9, dtype=torch.uint8)])}
    ),
    "no colours but gaps": lambda a, t, m: (
        a["4.0"].update(colours=0, gap_bytes=0),
        t.update({"4.0.weight": torch.zeros(0, dtype=torch.uint8)}),
    ),
    "no colours and floats": lambda a, t, m: (
        a["4.0"].update(colours=0, gap_bytes=0, gaps=0),
        t.update({"4.0.weight": torch.zeros(0)}),
    ),
    "a centroid that is no number": nan_centroid,
    "a norm that is no number": lambda a, t, m: t.update({"0.1.bias": torch.full((4,), torch.nan)}),
    "another format": lambda a, t, m: m.update(format="other"),
    "another version": lambda a, t, m: m.update(version="99"),
    "nesting without end": lambda a, t, m: m.update(layers="[" * 50_000),
    "no description": lambda a, t, m: a["4.0"].pop("shape"),
    "another shape": entry("shape", [6, 40, 3, 3]),
    "a shape that takes the memory": entry("shape", [2**30, 2**30]),
    "a shape of words": entry("shape", ["4", 4]),
    "too many colours": entry("colours", 256),
    "fewer colours than codes": entry("colours", 2),
    "gaps of 9 bits": entry("gap_bits", 9),
    "other gaps": entry("gap_bits", 3),
    "a count that takes the memory": entry("gaps", 2**39),
    "a negative count": entry("gaps", -1),
    "a count that is none": entry("gaps", True),
    "streams that end elsewhere": entry("gap_bytes", 2),
    "a cut tensor": cut("4.0.weight"),
    "a table that is no code": lengths_of_ones,
    "a tensor of floats": lambda a, t, m: t.update({"4.0.weight": torch.zeros(900)}),
    "a tensor missing": lambda a, t, m: t.pop("8.bias"),
    "a tensor too many": lambda a, t, m: t.update(extra=torch.zeros(2)),
    "a norm of another size": lambda a, t, m: t.update({"0.1.bias": torch.zeros(3)}),
    "a norm of another kind": lambda a, t, m: t.update({"0.1.bias": torch.zeros(4).double()}),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_that_contradicts_itself_is_refused(shared, tmp_path, change):
    path = rewritten(shared, tmp_path / "m.safetensors", change)
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(FileError, match="does not hold this model"):
        deep_compression.load(path, model)
    assert state_equal(before, model.state_dict())


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(shared, tmp_path, kept):
    path = tmp_path / "m.safetensors"
    deep_compression.save(shared, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FileError):
        deep_compression.load(path, build())


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_gives_a_whole_network(shared, tmp_path, place, value):
    path = tmp_path / "m.safetensors"
    deep_compression.save(shared, path)
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content)
    try:
        back = deep_compression.load(path, build())
    except FileError:
        return
    assert {k: v.shape for k, v in back.state_dict().items()} == {
        k: v.shape for k, v in build().state_dict().items()
    }


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        deep_compression.load(tmp_path / "nothing", build())


# ---- one way to write any network ----------------------------------------------------------------
def forms(network):
    images = torch.rand(40, *SHAPE)
    pruned = select(magnitude(network), 0.8).apply(build())
    return {
        "floats": network,
        "pruned": pruned,
        "shared": sharing.share_weights(network, 7),
        "integers": convert(quantize_post_training(network, QuantConfig(), images)),
        "weight-only": convert_weights(
            weight_only.quantize(network, weight_only.WeightConfig(4, 40))
        ),
    }


@pytest.mark.parametrize("form", ["floats", "pruned", "shared", "integers", "weight-only"])
def test_any_form_comes_back_from_its_file(network, tmp_path, form):
    model, x = forms(network)[form], torch.rand(6, *SHAPE)
    path = tmp_path / "m.safetensors"
    assert files.save(model, path) == path.stat().st_size == files.size(model)
    back = files.load(path, like=build())
    assert torch.allclose(logits(back, x), logits(model, x), atol=1e-5)


def test_a_simulation_is_not_saved(network, tmp_path):
    simulated = quantize_post_training(network, QuantConfig(), torch.rand(10, *SHAPE))
    with pytest.raises(ValueError, match="model must be converted to integers before it is saved"):
        files.save(simulated, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_weights_without_an_architecture_need_one(network, tmp_path):
    files.save(network, tmp_path / "m")
    with pytest.raises(ValueError, match="like must be a network of the same architecture"):
        files.load(tmp_path / "m")


def test_floats_of_another_architecture_are_refused(network, tmp_path):
    files.save(network, tmp_path / "m")
    with pytest.raises(FileError, match="does not hold this model"):
        files.load(tmp_path / "m", like=models.MLP(SHAPE, 5))


def test_a_refused_file_leaves_the_network_as_it_was(network, tmp_path):
    tensors = {k: v + 1 for k, v in network.state_dict().items()}
    tensors["8.bias"] = torch.zeros(3)
    save_file(tensors, tmp_path / "m")
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(FileError, match=r"8\.bias must be \[5\] torch\.float32"):
        files.load(tmp_path / "m", like=model)
    assert state_equal(before, model.state_dict())


def test_codes_are_not_read_as_floats(network, tmp_path):
    save_file({k: v.to(torch.int8) for k, v in network.state_dict().items()}, tmp_path / "m")
    with pytest.raises(FileError, match=r"found .* torch\.int8"):
        files.load(tmp_path / "m", like=build())


def test_a_format_of_ours_that_is_not_known_is_refused(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "m", {"format": "compresslab.deep.v9"})
    with pytest.raises(FileError, match=r"format 'compresslab\.deep\.v9', known are"):
        files.load(tmp_path / "m", like=build())


def test_other_peoples_metadata_do_no_harm(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "m", {"format": "pt"})
    assert state_equal(files.load(tmp_path / "m", like=build()).state_dict(), network.state_dict())


@pytest.mark.skipif(not onnxruntime_available(), reason="ONNX Runtime is not installed")
def test_what_is_no_onnx_file_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"hello")
    with pytest.raises(FileError, match="is no ONNX file"):
        files.load(tmp_path / "m.onnx")


def test_what_is_no_safetensors_file_is_refused(tmp_path):
    (tmp_path / "m").write_bytes(b"hello")
    with pytest.raises(FileError, match="is no safetensors file"):
        files.load(tmp_path / "m", like=build())
    with pytest.raises(FileNotFoundError):
        files.load(tmp_path / "nothing")


def test_a_network_of_shared_weights_is_looked_at_and_its_own_file_read_into_it(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    x = torch.randn(20, 32)
    shared = cl.compress(network, [cl.Share(15)], x, epochs=0, progress=False)
    cl.save(shared, tmp_path / "s.safetensors")
    with torch.no_grad():
        again = cl.load(tmp_path / "s.safetensors", like=shared)
        torch.testing.assert_close(again(x), shared(x))
    assert cl.inspect(shared, x[:2]).can("prune")
