"""GGUF: every type against the format's own package, and files that lie."""

import struct

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from compresslab.real.gguf import KINDS, GgufError, read_gguf

BLOCKS = {kind.name: kind for kind in KINDS.values()}


def written(path, tensors, **metadata):
    """A file by the format's own package: arrays, or pairs of bytes [rows, n] and their type."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in metadata.items():
        writer.add_key_value(f"our.{name}", value, gguf.GGUFValueType.get_type(value))
    for name, value in tensors.items():
        if isinstance(value, tuple):
            writer.add_tensor(name, value[0], raw_dtype=value[1])
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_blocks(kind, rows, blocks, seed):
    """Bytes of a type, all of them random but for the float16 scales, which stay finite."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (rows, blocks, kind.bytes), dtype=np.uint8)
    floats = {"F32": 4, "F16": 2, "BF16": 2}.get(kind.name)
    if floats:
        number = rng.standard_normal((rows, blocks)).astype(np.float32)
        if kind.name == "BF16":
            return (number.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return number.astype(np.float16 if floats == 2 else np.float32).view(np.uint8)
    places = {"Q6_K": (208,), "Q4_0": (0,), "Q5_0": (0,), "Q8_0": (0,)}.get(kind.name, (0, 2))
    for place in places:
        scale = rng.standard_normal((rows, blocks, 1)).astype(np.float16)
        data[:, :, place : place + 2] = scale.view(np.uint8)
    return data.reshape(rows, -1)


@pytest.mark.parametrize("name", BLOCKS)
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 4), blocks=st.integers(1, 3), seed=st.integers(0, 10**6))
def test_a_type_means_what_the_formats_own_package_says(name, tmp_path_factory, rows, blocks, seed):
    kind, type_ = BLOCKS[name], Type[name]
    data = random_blocks(kind, rows, blocks, seed)
    wanted = gguf.quants.dequantize(data, type_)
    path = tmp_path_factory.mktemp("gguf") / "one.gguf"
    file = read_gguf(written(path, {"w": (data, type_)}))
    assert file.tensors["w"].shape == wanted.shape == (rows, blocks * kind.weights)
    assert file.tensors["w"].kind.name == name
    np.testing.assert_array_equal(file.read("w"), wanted)


def test_shapes_are_turned_and_places_are_found(tmp_path):
    arrays = {
        "scalar": np.float32([3]),
        "cube": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "half": np.ones((3, 5), np.float16),
    }
    file = read_gguf(written(tmp_path / "k.gguf", arrays, words=["a", "ü"], n=7, x=0.5, yes=True))
    for name, array in arrays.items():
        np.testing.assert_array_equal(file.read(name), array.astype(np.float32))
    assert file.metadata["general.architecture"] == "llama"
    assert file.metadata["our.words"] == ["a", "ü"]
    assert (file.metadata["our.n"], file.metadata["our.x"], file.metadata["our.yes"]) == (7, 0.5, 1)
    file.read("cube")[0, 0, 0] = 5  # what is read is the caller's own
    with pytest.raises(KeyError):
        file.read("other")


def head(version=3, tensors=0, entries=0, magic=b"GGUF"):
    return magic + struct.pack("<IQQ", version, tensors, entries)


def named(name, *rest):
    return struct.pack("<Q", len(name)) + name + b"".join(rest)


def tensor(name=b"w", shape=(32,), kind=0, offset=0):
    return named(name, struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))


ARRAYS = struct.pack("<IQ", 9, 1) * 8
"""An array of an array of an array ..."""


@pytest.mark.parametrize(
    "data,words",
    [
        (b"", "it has 0 bytes"),
        (head(magic=b"GGML"), "does not begin with GGUF"),
        (head(version=1), "version must be 2 or 3, found 1"),
        (head(version=1 << 24), "version must be 2 or 3"),
        (head(tensors=1 << 60), "promises"),
        (head(entries=1 << 60), "promises"),
        (head(entries=1) + struct.pack("<Q", 1 << 50) + bytes(9), "middle of its head"),
        (head(entries=1) + named(b"\xff\xfe", struct.pack("<IB", 0, 1)), "no whole GGUF"),
        (head(entries=1) + named(b"a", struct.pack("<I", 99), bytes(8)), "unknown type 99"),
        (head(entries=1) + named(b"a", struct.pack("<IIQ", 9, 0, 1 << 40)), "promises"),
        (head(entries=1) + named(b"a", struct.pack("<I", 9), ARRAYS), "nested too deeply"),
        (head(tensors=1) + tensor(kind=10), "type Q2_K, which is not read here"),
        (head(tensors=1) + tensor(kind=77), "type 77, which"),
        (head(tensors=1) + tensor(kind=2, shape=(33,)), "33 is no multiple of 32"),
        (head(tensors=1) + tensor(shape=(2,) * 5), "at most 4 axes, found 5"),
        (head(tensors=1) + tensor(shape=(1 << 40, 1 << 40)), "behind the file's end"),
        (head(tensors=1) + tensor(offset=1 << 63) + bytes(200), "behind the file's end"),
        (head(tensors=2) + tensor(shape=(1,)) * 2 + bytes(200), "stands there twice"),
    ],
)
def test_files_that_lie_are_refused(data, words, tmp_path):
    path = tmp_path / "k.gguf"
    path.write_bytes(data)
    with pytest.raises(GgufError, match=words):
        read_gguf(path)


def test_every_cut_of_a_file_is_refused_or_read_whole(tmp_path):
    path = written(tmp_path / "k.gguf", {"w": np.ones((4, 32), np.float32)}, n=7)
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(GgufError):
            read_gguf(path)


def test_no_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_gguf(tmp_path / "none.gguf")
