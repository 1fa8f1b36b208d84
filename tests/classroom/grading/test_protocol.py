"""Values as bytes: what survives, what is refused, whoever wrote them."""

import contextlib
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compresslab.classroom import compare
from compresslab.classroom.grading import protocol
from compresslab.classroom.grading.protocol import Foreign, ProtocolError, pack, unpack

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ARRAYS = hnp.arrays(
    st.sampled_from([np.bool_, np.int8, np.uint64, np.float32, np.float64, np.complex64]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)
VALUES = st.recursive(
    PLAIN | ARRAYS, lambda v: st.tuples(v) | st.lists(v, max_size=4), max_leaves=8
)


@given(VALUES)
def test_what_goes_in_comes_out(value):
    assert compare.identical(unpack(pack(value)), value)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]
)
def test_tensors_keep_their_type(dtype):
    tensor = torch.arange(12).reshape(3, 4).to(dtype).T
    back = unpack(pack(tensor))
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


@pytest.mark.parametrize(
    "value", [np.float32(1.5), np.int64(-3), np.bool_(True), -0.0, math.inf, 2**200]
)
def test_numbers_keep_their_type_to_the_last_bit(value):
    back = unpack(pack(value))
    assert type(back) is type(value)
    assert repr(back) == repr(value)


class Liar(np.ndarray):
    def __eq__(self, other):
        return True


class Evil:
    def __reduce__(self):
        return (print, ("pwned",))


@pytest.mark.parametrize(
    "value",
    [
        Evil(),
        np.zeros(3).view(Liar),
        lambda: 1,
        {"a": 1},
        np.array([Evil()]),
        np.array(["text"]),
        print,
        torch.nn.Parameter(torch.zeros(2)),
        np.zeros(2, [("a", int)]),
        {1, 2},
    ],
)
@pytest.mark.attack("judge")
def test_anything_else_travels_as_its_name_alone(value):
    back = unpack(pack(value))
    assert isinstance(back, Foreign)
    assert type(value).__name__[:20] in repr(back)


def test_what_is_too_deep_or_too_much_is_refused():
    deep = 1
    for _ in range(20):
        deep = (deep,)
    with pytest.raises(ProtocolError, match="nested deeper"):
        pack(deep)
    with pytest.raises(ProtocolError, match="values in one"):
        pack([0] * 20_000)


@given(st.binary(max_size=300))
def test_noise_is_a_value_or_an_error(content):
    with contextlib.suppress(ProtocolError):
        unpack(content)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_is_a_value_or_an_error(place, byte):
    content = bytearray(pack((np.arange(6.0).reshape(2, 3), 5, "text", [None, True])))
    content[place % len(content)] = byte
    with contextlib.suppress(ProtocolError):
        unpack(bytes(content))


def with_header(text):
    """An array whose header says something else than its bytes."""
    stream = io.BytesIO()
    np.save(stream, np.zeros(2))
    content = stream.getvalue()
    start = content.index(b"{")
    padded = text.encode().ljust(len(content) - 16 - start - 1) + b"\n"
    npy = content[:start] + padded + content[-16:]
    tree = b'["array", %d]' % len(npy)
    return len(tree).to_bytes(8, "little") + tree + npy


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-2,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2,)}",
        "__import__('os').system('true')",
    ],
)
@pytest.mark.attack("judge")
def test_an_array_is_believed_only_if_its_bytes_are_there(header):
    with pytest.raises(ProtocolError):
        unpack(with_header(header))


@pytest.mark.parametrize(
    "tree",
    [
        '["array", -1]',
        '["array", 999]',
        '["array", true]',
        '["plain", 5]',
        '["int", "x"]',
        '["tensor"]',
        "[" * 100_000,
        '["tuple", {}]',
        "5",
        '["other", 1]',
        '["float", "nope"]',
        '["int", 5]',
    ],
)
@pytest.mark.attack("judge")
def test_a_tree_that_describes_nothing_is_refused(tree):
    content = tree.encode()
    with pytest.raises(ProtocolError):
        unpack(len(content).to_bytes(8, "little") + content)


def test_bytes_behind_the_value_are_refused():
    with pytest.raises(ProtocolError, match="behind the last"):
        unpack(pack(np.zeros(3)) + b"more")


def test_frames_are_whole_or_none():
    stream = io.BytesIO()
    protocol.write_frame(stream, b"hello")
    content = stream.getvalue()
    assert protocol.read_frame(io.BytesIO(content)) == b"hello"
    for cut in range(len(content)):
        assert protocol.read_frame(io.BytesIO(content[:cut])) is None
    with pytest.raises(ProtocolError, match="a frame of"):
        protocol.read_frame(io.BytesIO((2**60).to_bytes(8, "little")))
