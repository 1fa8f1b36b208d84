"""Streams of codes of different length, against a reader that walks a dictionary of bit strings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compresslab.kernels import huffman
from compresslab.numerics import entropy


@st.composite
def texts(draw):
    alphabet = draw(st.integers(1, 12) | st.sampled_from([200, 256]))
    count = draw(st.integers(1, 40) | st.sampled_from([255, 1000]))
    skew = draw(st.sampled_from([0.05, 0.3, 1.0, 5.0]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return generator.choice(alphabet, count, p=generator.dirichlet(np.full(alphabet, skew))).astype(
        np.uint8
    )


def as_bits(symbols, codes, lengths):
    return "".join(format(int(codes[s]), f"0{lengths[s]}b") for s in symbols.reshape(-1))


@given(texts())
def test_the_stream_is_the_codes_one_after_another(symbols):
    lengths = entropy.code_lengths(np.bincount(symbols))
    codes = entropy.canonical_codes(lengths)
    bits = as_bits(symbols, codes, lengths)
    stream = huffman.write(symbols, codes, lengths)
    assert "".join(f"{byte:08b}" for byte in stream).rstrip("0") == bits.rstrip("0")
    assert stream.size == -(-len(bits) // 8)


@given(texts())
def test_reading_brings_the_symbols_back(symbols):
    lengths = entropy.code_lengths(np.bincount(symbols))
    stream = huffman.write(symbols, entropy.canonical_codes(lengths), lengths)
    assert np.array_equal(huffman.read(stream, lengths, symbols.size), symbols)


def test_the_example_of_the_docstring():
    lengths = np.array([1, 2, 3, 3], np.uint8)
    assert entropy.canonical_codes(lengths).tolist() == [0b0, 0b10, 0b110, 0b111]
    symbols = np.array([0, 1, 2, 3], np.uint8)
    stream = huffman.write(symbols, entropy.canonical_codes(lengths), lengths)
    assert stream.tolist() == [0b01011011, 0b10000000]


def test_codes_of_the_greatest_length_survive():
    # Fibonacci's counts make the deepest tree: 50 symbols, codes of up to 49 bits.
    counts = [1, 1]
    while len(counts) < 50:
        counts.append(counts[-1] + counts[-2])
    lengths = entropy.code_lengths(np.array(counts))
    assert lengths.max() == 49
    symbols = np.arange(50, dtype=np.uint8).repeat(3)
    stream = huffman.write(symbols, entropy.canonical_codes(lengths), lengths)
    assert np.array_equal(huffman.read(stream, lengths, symbols.size), symbols)


def test_a_view_is_read_in_its_own_order():
    symbols = (np.arange(60, dtype=np.uint8) % 5).reshape(6, 10)
    lengths = entropy.fixed_lengths(5)
    codes = entropy.canonical_codes(lengths)
    for view in (symbols.T, symbols[::2], symbols[:, 1::3]):
        stream = huffman.write(view, codes, lengths)
        assert np.array_equal(huffman.read(stream, lengths, view.size), view.reshape(-1))


def test_nothing_is_an_empty_stream():
    lengths = np.array([1], np.uint8)
    empty = np.zeros(0, np.uint8)
    assert huffman.write(empty, np.zeros(1, np.uint64), lengths).size == 0
    assert huffman.read(empty, lengths, 0).size == 0


@pytest.mark.parametrize("symbol", [1, 4, 200])
def test_a_symbol_without_a_code_is_refused(symbol):
    lengths = np.array([1, 0, 1], np.uint8)
    with pytest.raises(ValueError, match=f"symbols must have a code each, got {symbol}"):
        huffman.write(np.array([0, symbol], np.uint8), entropy.canonical_codes(lengths), lengths)


def test_a_stream_that_ends_too_early_is_refused():
    symbols = np.arange(16, dtype=np.uint8)
    lengths = entropy.fixed_lengths(16)
    stream = huffman.write(symbols, entropy.canonical_codes(lengths), lengths)
    with pytest.raises(ValueError, match=r"stream must hold 16 codes, got 14"):
        huffman.read(stream[:-1], lengths, 16)


@pytest.mark.parametrize("more", [b"\x00", b"\x01"])
def test_a_stream_that_goes_on_is_refused(more):
    lengths = entropy.fixed_lengths(16)
    stream = huffman.write(np.arange(16, dtype=np.uint8), entropy.canonical_codes(lengths), lengths)
    longer = np.concatenate([stream, np.frombuffer(more, np.uint8)])
    with pytest.raises(ValueError, match="must end with its 16 codes and zeros"):
        huffman.read(longer, lengths, 16)


def test_unused_bits_are_zeros():
    # Five codes of a bit: three bits are left.
    lengths = np.array([1, 1], np.uint8)
    assert huffman.read(np.array([0b10110000], np.uint8), lengths, 5).tolist() == [1, 0, 1, 1, 0]
    with pytest.raises(ValueError, match="must end with its 5 codes and zeros"):
        huffman.read(np.array([0b10110001], np.uint8), lengths, 5)


def test_a_code_longer_than_it_says_is_refused():
    with pytest.raises(ValueError, match="codes must fit their lengths"):
        huffman.write(np.zeros(2, np.uint8), np.array([255], np.uint64), np.array([1], np.uint8))


def test_a_stream_that_holds_no_code_is_refused():
    # Two codes, 00 and 01: nothing begins with 1.
    with pytest.raises(ValueError, match="stream must hold 2 codes, got 0"):
        huffman.read(np.array([0b11000000], np.uint8), np.array([2, 2], np.uint8), 2)


@pytest.mark.parametrize("count", [9, 2**40])
def test_more_symbols_than_bits_are_refused_before_anything_is_allocated(count):
    with pytest.raises(ValueError, match="count must be at most 8"):
        huffman.read(np.zeros(1, np.uint8), np.array([1, 1], np.uint8), count)


def test_lengths_that_are_no_prefix_code_are_refused():
    with pytest.raises(ValueError, match="lengths must be those of a prefix code"):
        huffman.read(np.zeros(4, np.uint8), np.array([1, 1, 1], np.uint8), 3)


@pytest.mark.parametrize("lengths", [np.full(257, 9, np.uint8), np.array([57], np.uint8)])
def test_other_tables_of_lengths_are_refused(lengths):
    with pytest.raises(ValueError, match="lengths must be at most 256 numbers from 0 to 56"):
        huffman.read(np.zeros(4, np.uint8), lengths, 3)


@pytest.mark.parametrize("symbols", [[1, 2], np.zeros(3), np.zeros(3, np.int64)])
def test_other_kinds_of_symbols_are_refused(symbols):
    with pytest.raises(ValueError, match="symbols must"):
        huffman.write(symbols, np.zeros(2, np.uint64), np.ones(2, np.uint8))
