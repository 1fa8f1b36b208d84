"""Entropy, Huffman's code, gaps and k-means, against SciPy's formula, brute force and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import entropy as scipy_entropy
from sklearn.cluster import KMeans

from compresslab.numerics import codebook, entropy, gaps

COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any)


# ---- entropy and Huffman -------------------------------------------------------------------------
@given(COUNTS)
def test_entropy_is_scipys(counts):
    assert math.isclose(
        entropy.entropy(np.array(counts)), scipy_entropy(counts, base=2), abs_tol=1e-9
    )


@given(COUNTS)
def test_huffman_is_within_a_bit_of_the_entropy(counts):
    counts = np.array(counts)
    assume(np.count_nonzero(counts) > 1)
    mean = (counts * entropy.code_lengths(counts)).sum() / counts.sum()
    assert entropy.entropy(counts) - 1e-9 <= mean < entropy.entropy(counts) + 1


@given(COUNTS)
def test_lengths_fill_the_tree_and_only_what_occurs_has_one(counts):
    counts = np.array(counts)
    lengths = entropy.code_lengths(counts).astype(float)
    assert ((lengths > 0) == (counts > 0)).all()
    if np.count_nonzero(counts) > 1:
        assert (2 ** -lengths[lengths > 0]).sum() == 1


@pytest.mark.parametrize(
    "counts", [(1, 1, 1, 1), (9, 1, 1), (5, 4, 3, 2, 1), (40, 1, 1, 1, 1), (3, 0, 3, 8)]
)
def test_no_prefix_code_is_shorter(counts):
    used = [n for n in counts if n]
    every = itertools.product(range(1, len(used) + 1), repeat=len(used))
    best = min(
        sum(n * length for n, length in zip(used, lengths, strict=True))
        for lengths in every
        if sum(2.0**-length for length in lengths) <= 1
    )
    found = entropy.code_lengths(np.array(counts))
    assert int((np.array(counts) * found).sum()) == best


@given(COUNTS)
def test_no_code_begins_another(counts):
    lengths = entropy.code_lengths(np.array(counts))
    codes = entropy.canonical_codes(lengths)
    words = [format(int(c), f"0{n}b") for c, n in zip(codes, lengths, strict=True) if n]
    assert not any(b.startswith(a) for a, b in itertools.permutations(words, 2))


@given(COUNTS)
def test_codes_ascend_by_length_and_symbol(counts):
    lengths = entropy.code_lengths(np.array(counts))
    codes = entropy.canonical_codes(lengths)
    order = [s for s in np.argsort(lengths, kind="stable") if lengths[s]]
    longest = int(lengths.max())
    left = [int(codes[s]) << (longest - int(lengths[s])) for s in order]
    assert left == sorted(set(left))


def test_ties_give_the_same_code_everywhere():
    one, two = (entropy.code_lengths(np.array([2, 1, 2, 1, 2])) for _ in range(2))
    assert one.tolist() == two.tolist()


@pytest.mark.parametrize("fixed", [False, True])
@given(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=3, max_side=9), elements=st.integers(0, 14)))
def test_what_is_encoded_is_decoded(fixed, symbols):
    coded = entropy.encode(symbols, 15, fixed)
    assert np.array_equal(entropy.decode(coded), symbols.reshape(-1))
    assert coded.lengths.size == 15


def test_pairs_come_within_a_hundredth_of_the_entropy():
    generator = np.random.default_rng(0)
    p = np.exp(-np.abs(np.arange(15) - 7) / 3.0)
    symbols = generator.choice(15, 60_000, p=p / p.sum()).astype(np.uint8)
    pairs = symbols[::2] * np.uint8(15) + symbols[1::2]
    bits = 8 * entropy.encode(pairs).stream.size / symbols.size
    assert bits < 1.01 * entropy.entropy(np.bincount(symbols))


@pytest.mark.parametrize("counts", [np.zeros(3, int), np.array([-1, 2]), np.array([0.5])])
def test_what_is_no_count_is_refused(counts):
    with pytest.raises(ValueError, match="counts must"):
        entropy.entropy(counts)
    with pytest.raises(ValueError, match="counts must"):
        entropy.code_lengths(counts)


def test_counts_beyond_what_integers_hold_have_an_entropy():
    assert entropy.entropy(np.array([2**62, 2**62])) == 1
    assert entropy.entropy(np.array([2**63, 2**63], np.uint64)) == 1


def test_codes_too_deep_for_the_kernel_are_refused():
    counts = [1, 1]
    while len(counts) < 88:
        counts.append(counts[-1] + counts[-2])
    with pytest.raises(ValueError, match="more than 56 bits, got 87"):
        entropy.code_lengths(np.array(counts))


@pytest.mark.parametrize("alphabet", [0, -1, 257, 2.5])
def test_other_alphabets_are_refused(alphabet):
    with pytest.raises(ValueError, match="alphabet must be an integer from 1 to 256"):
        entropy.fixed_lengths(alphabet)
    with pytest.raises(ValueError, match="alphabet must be an integer from 1 to 256"):
        entropy.encode(np.zeros(3, np.uint8), alphabet)


def test_more_than_256_symbols_are_refused():
    with pytest.raises(ValueError, match="at most 256 symbols, got 257"):
        entropy.code_lengths(np.ones(257, int))


@pytest.mark.parametrize("symbols", [np.zeros(0, np.uint8), np.zeros(3), [1, 2]])
def test_what_cannot_be_encoded_is_refused(symbols):
    with pytest.raises(ValueError, match="symbols must be one uint8 or more"):
        entropy.encode(symbols)


def test_symbols_outside_of_the_alphabet_are_refused():
    with pytest.raises(ValueError, match="symbols must be below alphabet = 4, got 7"):
        entropy.encode(np.array([1, 7], np.uint8), 4)


# ---- gaps ----------------------------------------------------------------------------------------
def by_hand(keep, bits):
    largest, out, zeros = 2**bits - 1, [], 0
    for kept in keep.reshape(-1):
        if not kept:
            zeros += 1
            continue
        out += [largest] * (zeros // largest) + [zeros % largest]
        zeros = 0
    return out


@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=1, max_dims=3, max_side=40)), st.integers(1, 8)
)
def test_gaps_are_counted_zeros_and_lead_back(keep, bits):
    symbols = gaps.gaps(keep, bits)
    assert symbols.tolist() == by_hand(keep, bits)
    assert np.array_equal(gaps.positions(symbols, bits), np.flatnonzero(keep))


def test_a_long_run_takes_as_many_bridges_as_it_needs():
    keep = np.zeros(1000, bool)
    keep[999] = True
    assert gaps.gaps(keep, 8).tolist() == [255, 255, 255, 234]


def test_coded_gaps_come_near_the_entropy_of_the_mask():
    generator = np.random.default_rng(0)
    for density in (0.05, 0.1, 0.15, 0.2):
        keep = generator.random(200_000) < density
        coded = entropy.encode(gaps.gaps(keep, 8))
        bits = entropy.entropy(np.bincount(keep)) * keep.size
        assert bits < 8 * coded.stream.size < 1.02 * bits


@pytest.mark.parametrize("bits", [0, 9, 2.0, True])
def test_other_widths_of_gaps_are_refused(bits):
    for function, argument in (
        (gaps.gaps, np.ones(3, bool)),
        (gaps.positions, np.zeros(2, np.uint8)),
    ):
        with pytest.raises(ValueError, match="bits must be an integer from 1 to 8"):
            function(argument, bits)


def test_a_bridge_that_leads_nowhere_is_refused():
    with pytest.raises(ValueError, match="symbols must end with a weight's gap"):
        gaps.positions(np.array([1, 7], np.uint8), 3)


def test_a_mask_of_numbers_is_refused():
    with pytest.raises(ValueError, match="keep must have dtype bool"):
        gaps.gaps(np.ones(4), 3)


def test_a_gap_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="symbols must be at most 7 for 3 bits, got 9"):
        gaps.positions(np.array([1, 9], np.uint8), 3)


# ---- k-means -------------------------------------------------------------------------------------
@given(st.integers(0, 2**32 - 1), st.integers(2, 9))
def test_kmeans_is_scikit_learns_from_the_same_start(seed, colours):
    values = np.random.default_rng(seed).normal(0, 1, 300).astype(np.float32)
    start = np.linspace(values.min(), values.max(), colours)
    theirs = KMeans(colours, init=start[:, None], n_init=1, max_iter=300, tol=0).fit(
        values[:, None]
    )
    centroids, codes = codebook.kmeans(values, colours, rounds=300)
    # scikit-learn moves a centroid without values elsewhere, at the start as well; ours stays.
    at_first = codebook.nearest(values, start.astype(np.float32))
    assume(len(np.unique(at_first)) == len(np.unique(codes)) == colours)
    ours = np.square(values - centroids[codes]).sum()
    assert ours <= theirs.inertia_ * 1.02


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from(codebook.STARTS))
def test_at_the_end_codes_are_nearest_and_centroids_are_means(seed, colours, start):
    values = np.random.default_rng(seed).standard_t(3, 400).astype(np.float32)
    centroids, codes = codebook.kmeans(values, colours, start, rounds=1000)
    distances = np.abs(values[:, None].astype(np.float64) - centroids[None])
    chosen = np.take_along_axis(distances, codes[:, None].astype(int), 1)[:, 0]
    assert np.allclose(chosen, distances.min(1), atol=1e-6)
    for k in np.unique(codes):
        assert np.isclose(values[codes == k].mean(dtype=np.float64), centroids[k], atol=1e-5)


def test_as_many_colours_as_values_are_exact():
    values = np.array([3, -1, 3, 0.5, -1], np.float32)
    centroids, codes = codebook.kmeans(values, 16)
    assert centroids.tolist() == [-1, 0.5, 3]
    assert np.array_equal(centroids[codes], values)


@given(st.integers(0, 2**32 - 1))
def test_zeros_stay_zeros_and_take_no_part(seed):
    generator = np.random.default_rng(seed)
    weight = generator.normal(5, 1, (6, 7)).astype(np.float32) * (generator.random((6, 7)) < 0.5)
    palette = codebook.share(torch.from_numpy(weight), 3)
    back = palette.dequantize().numpy()
    assert ((back == 0) == (weight == 0)).all()
    assert palette.centroids[0] == 0
    # Means of the others: none is drawn towards the zeros, below the smallest of them.
    if (weight != 0).any():
        assert back[weight != 0].min() >= weight[weight != 0].min() - 1e-6


def test_a_tensor_of_zeros_has_an_empty_palette():
    palette = codebook.share(torch.zeros(3, 4), 7)
    assert palette.centroids.tolist() == [0]
    assert palette.dequantize().tolist() == torch.zeros(3, 4).tolist()


def test_a_transposed_weight_keeps_its_places():
    weight = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    one, other = codebook.share(weight.T, 4), codebook.share(weight, 4)
    assert torch.equal(one.dequantize(), other.dequantize().T)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="must be finite"):
        codebook.share(torch.tensor([[1.0, bad]]), 4)


@pytest.mark.parametrize("colours", [0, 256, 4.0, True])
def test_other_numbers_of_colours_are_refused(colours):
    with pytest.raises(ValueError, match="colours must be an integer from 1 to 255"):
        codebook.share(torch.ones(2, 2), colours)


def test_another_start_is_refused():
    with pytest.raises(ValueError, match="start must be linear, density, random, got 'best'"):
        codebook.share(torch.ones(2, 2), 4, "best")


def test_another_start_is_refused_even_where_none_is_needed():
    with pytest.raises(ValueError, match="start must be"):
        codebook.kmeans(np.ones(1, np.float32), 4, "foo")


def test_integers_are_no_weights():
    with pytest.raises(ValueError, match=r"weight must be of floats, got torch\.int64"):
        codebook.share(torch.ones(2, 2, dtype=torch.int64), 4)


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        codebook.kmeans(np.zeros(0, np.float32), 4)


def test_a_centroid_that_nothing_is_near_stays_where_it_was():
    # From -4, 0 and 4 on: nothing is near 0, so it must not move (to 0 / 1, or anywhere).
    values = np.array([-4, -3.9, -3.8, 6, 6.1, 6.2], np.float32)
    centroids, codes = codebook.kmeans(values, 3)
    middle = (values[0] + values[-1]) / 2
    assert np.allclose(centroids, [-3.9, middle, 6.1], atol=1e-5)
    assert codes.tolist() == [0, 0, 0, 2, 2, 2]


def test_half_way_goes_to_the_lower_centroid():
    centroids = np.array([0, 1, 4], np.float32)
    values = np.array([0.5, 2.5, 0.50001, 2.4999, -9, 9], np.float32)
    assert codebook.nearest(values, centroids).tolist() == [0, 1, 1, 1, 0, 2]
