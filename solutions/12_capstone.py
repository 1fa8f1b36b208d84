# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Lab 12 · Combine, choose, deploy
#
# **You will** put one network into as small a file as it will go at less than a point, find out why the order of the steps matters, lay everything from this course on one map, and choose with it: for a microcontroller, a phone and a server.
# **Time:** 145 minutes to work through, the project not counted; it runs in two to four minutes, by processor.
#
# Every lab so far had one technique. In practice they are combined, and what they save does not simply multiply. (All times below are this computer's: no phone was measured.)

# %%
import copy
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from compresslab.advisor import Advisor, Candidate, Scenario
from compresslab.classroom import leaderboard

# %%
from compresslab.lab import (
    COLOURS,
    MARKERS,
    Hook,
    Table,
    TrainingDiverged,
    adopt,
    agreement,
    begin,
    built,
    check,
    claim,
    compared,
    evaluate,
    explore,
    fit_all,
    in_bytes,
    instruction_set,
    load,
    logits,
    mean_and_sd,
    mean_sd,
    models,
    plain_log_ticks,
    predict,
    race_networks,
    side_by_side,
    trained,
    use_style,
)

# %%
from compresslab.numerics import codebook, entropy
from compresslab.numerics import gaps as zero_runs
from compresslab.runtime import deep_compression, emulator, export, files, peers, tensorrt
from compresslab.runtime.arena import lives_of
from compresslab.runtime.c_source import to_c
from compresslab.runtime.convert import convert
from compresslab.stages import (
    CutChannels,
    Distill,
    LowRank,
    Material,
    Prune,
    Quantize,
    Share,
    run,
)
from compresslab.techniques import scores, sharing
from compresslab.techniques.prune import select
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig

# %%
use_style()
SEEDS = begin()
data = load(size=16, train_size=3_000, seed=SEEDS[0])
WIDTHS, CLASSES = (32, 64, 128), len(data.classes)
print(data)


def build(widths=WIDTHS):
    return models.VGGLike(data.shape, CLASSES, widths).to(memory_format=torch.channels_last)


networks = trained("vgg-combine", data, SEEDS)
start = mean_and_sd([evaluate(n, data.test) for n in networks])
float_bytes = files.size(networks[0])
print(f"float: {mean_sd(*start)} %, {in_bytes(float_bytes)}")

# %% [markdown]
# ## A hook: how small?
#
# Lab 01 stored a weight in four bits, lab 02 in eight, lab 03 in two. How far can this network's file go, at less than two points?

# %%
guess = predict(
    "All steps together, within two points: how many times smaller does the file become?",
    ["10 times", "15 times", "20 times or more"],
)

# %% [markdown]
# Four things follow, and each removes bits that the one before has left: *pruning* (lab 04) removes weights, *weight sharing* (权重共享: lab 01's palette, not lab 07's shared layers) gives those that stay few values, *gaps* say where they are, and *Huffman coding* (霍夫曼编码) writes what is common in few bits. Together they are *Deep Compression* (Han et al. 2016).
#
# ## 1 · Few values
#
# A uniform grid has its levels at equal distances. *k-means* puts them where the weights are: each weight belongs to its nearest *centroid* (质心), each centroid is the mean of its weights, alternating until nothing moves.
#
# ### Exercise 1 · A step of k-means (2 points, about 5 lines)
#
# Give every value the code of its nearest centroid, then move each centroid to the mean of its values. A centroid that no value is nearest to stays where it is. (Centroids come in ascending order; a value half-way between two goes to the lower one.)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def move_centroids_spec(values, centroids):
#     codes = np.zeros(len(values), np.uint8)
#     for i in range(len(values)):
#         for k in range(len(centroids)):
#             if abs(values[i] - centroids[k]) < abs(
#                 values[i] - centroids[codes[i]]
#             ):
#                 codes[i] = k
#     moved = centroids.copy()
#     for k in range(len(centroids)):
#         total = count = 0
#         for i in range(len(values)):
#             if codes[i] == k:
#                 total, count = total + values[i], count + 1
#         if count:
#             moved[k] = total / count
#     return moved, codes
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "combine-move_centroids", "locked": false, "schema_version": 3, "solution": true, "task": false}
def move_centroids(values, centroids):
    """float32 [n], float32 [K] ascending -> moved centroids float32 [K], codes uint8 [n]."""
    ### BEGIN SOLUTION
    codes = np.abs(values[:, None] - centroids).argmin(1).astype(np.uint8)
    means = centroids.copy()
    for k in np.unique(codes):
        means[k] = values[codes == k].mean()
    return means, codes
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "combine-move_centroids-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(move_centroids, "combine.move_centroids")

# %%
move_centroids = adopt(move_centroids, "combine.move_centroids")
layer = networks[0][2][0].weight.detach().flatten().numpy()


def draw_palette(colours, steps):
    values = layer[::8]
    centroids = np.linspace(values.min(), values.max(), colours).astype(np.float32)
    for _ in range(steps):
        centroids, codes = move_centroids(values, centroids)
    if not steps:
        codes = codebook.nearest(values, centroids)
    figure, axes = plt.subplots(figsize=(7, 2.8))
    axes.hist(values, 120, color="0.75", label="weights of the second convolution")
    axes.vlines(centroids, 0, axes.get_ylim()[1], color="#D55E00", lw=1, label="centroids")
    rounded = np.square(values - centroids[codes]).mean() / np.square(values).mean()
    axes.set(
        xlabel="weight",
        ylabel="how many",
        title=f"{colours} values, {steps} steps: {100 * rounded:.2f} % of the energy lost",
    )
    axes.legend(fontsize=9, frameon=True, framealpha=1)
    plt.show()


explore(draw_palette, colours=(2, 32), steps=(0, 40))

# %% [markdown]
# ## 2 · Values that are trained
#
# The codes stay; the centroids are parameters. If several weights are one value, what is its gradient? By the chain rule, for $w_i = c_{k_i}$: $\;\partial L / \partial c_k = \sum_{i: k_i = k} \partial L / \partial w_i$.
#
# ### Exercise 2 · The gradient of a shared value (1 point, about 3 lines)
#
# Code 0 is a pruned weight: it is zero, no parameter, and gets no gradient. Colour k has code k, from 1 to `colours`.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def centroid_gradient_spec(gradient, codes, colours):
#     total = np.zeros(colours, np.float32)
#     for g, code in zip(gradient.flat, codes.flat):
#         if code > 0:
#             total[code - 1] += g
#     return total
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "combine-centroid_gradient", "locked": false, "schema_version": 3, "solution": true, "task": false}
def centroid_gradient(gradient, codes, colours):
    """float32 of any shape, uint8 codes of the same, how many colours -> float32 [colours]."""
    ### BEGIN SOLUTION
    sums = np.bincount(codes.ravel(), weights=gradient.ravel(), minlength=colours + 1)
    return sums.astype(np.float32)[1:]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "combine-centroid_gradient-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(centroid_gradient, "combine.centroid_gradient")

# %%
centroid_gradient = adopt(centroid_gradient, "combine.centroid_gradient")
shared_once = sharing.share_weights(networks[0], 7)
first = sharing.shared_layers(shared_once)["2.0"]
plain = sharing.unshared(shared_once)
for network in (shared_once, plain):
    torch.nn.functional.cross_entropy(
        network(data.train.x[:200]), data.train.y[:200]
    ).backward()
by_weight = plain.get_submodule("2.0").weight.grad.numpy()
claim(
    "What the library's centroids get is your sum, divided by how many weights share each",
    agreement(
        centroid_gradient(np.ascontiguousarray(by_weight), first.codes.numpy(), 7),
        first.centroids.grad.numpy() * np.bincount(first.codes.flatten())[1:],
        rtol=1e-3,
        atol=1e-6,
    ),
    "tolerances",
    yours=centroid_gradient,
)

# %% [markdown]
# A sum over thousands of weights can be thousands of times as large as one weight's gradient. The library divides each sum by how many weights share the value. That is the mean of the steps that its weights would take one by one, and the usual learning rates hold. (Control below: the sums as they are, at the same rate.)
#
# Where should k-means begin? The paper tries centroids evenly over the *range* (linear), evenly over the sorted weights (density), and drawn at random, and recommends the first: large weights are few and matter most. Here are seven values a layer, nothing pruned, before and after one epoch of training them.

# %%
begin_guess = predict(
    "Seven values for each layer, trained for an epoch: how far apart are the three starts?",
    ["two points or more", "about a point", "less than half a point"],
)

# %%
material = {
    seed: Material(data.train.x[:500], data.train, seed=seed, progress=False) for seed in SEEDS
}
START_NAMES = dict(
    zip(
        codebook.STARTS,
        ("evenly over the range", "evenly over the sorted weights", "drawn at random"),
    )
)


class RawSums(Hook):
    """Each value's gradient as the sum, not the mean."""

    def after_backward(self, run):
        for layer in sharing.shared_layers(run.model).values():
            layer.centroids.grad *= torch.bincount(layer.codes.flatten().int())[1:]


def epoch_of_values(network, seed, hooks=()):
    try:
        material[seed].tune(network, epochs=1, lr=0.1, hooks=hooks)
    except TrainingDiverged:
        return 100 / CLASSES
    return evaluate(network, data.test)


# %%
cases = [(begin, i, ()) for begin in codebook.STARTS for i in range(len(SEEDS))]
cases += [("raw sums", i, [RawSums()]) for i in range(len(SEEDS))]
shared = [
    sharing.share_weights(networks[i], 7, "linear" if name == "raw sums" else name)
    for name, i, _ in cases
]
before = side_by_side(lambda network: evaluate(network, data.test), shared)
after = side_by_side(
    lambda network, case: epoch_of_values(network, SEEDS[case[1]], case[2]),
    *(shared, cases),
    label="values",
)


def by_start(values):
    names = dict.fromkeys(name for name, _, _ in cases)
    return {n: mean_and_sd(v for v, case in zip(values, cases) if case[0] == n) for n in names}


untuned, tuned = by_start(before), by_start(after)
sums = tuned.pop("raw sums")
del untuned["raw sums"]
spread = max(t[0] for t in tuned.values()) - min(t[0] for t in tuned.values())

# %%
begin_guess.reveal(
    "less than half a point"
    if spread < 0.5
    else "about a point"
    if spread < 2
    else "two points or more"
)

# %%
claim(
    "Training the values brings back more than half of what seven values lose, on average "
    "over the starts",
    float(
        np.mean([(tuned[b][0] - untuned[b][0]) / (start[0] - untuned[b][0]) for b in untuned])
    )
    - 0.5,
    "of the loss",
)
claim("After an epoch the three starts are within a point of each other", 1 - spread, "points")
claim(
    "With the sums as they are, at the same rate, the network is worse than without any "
    "training",
    min(u[0] for u in untuned.values()) - sums[0],
    "points",
)
Table(
    ["centroids begin", "untuned, %", "after one epoch, %"],
    [
        *([START_NAMES[b], mean_sd(*untuned[b]), mean_sd(*tuned[b])] for b in untuned),
        ["evenly over the range, raw sums", mean_sd(*untuned["linear"]), mean_sd(*sums)],
    ],
    f"7 values a layer, nothing pruned; float {mean_sd(*start)}; {len(SEEDS)} seeds",
)

# %% [markdown]
# ## 3 · Where the weights are
#
# After pruning, the file has to say *which* weights stayed. A bit for every weight is one way; with one in ten left, that is ten bits for each of them. Distances are another.
#
# ### Exercise 3 · Distances instead of a mask (2 points, about 8 lines)
#
# For each weight that is kept, in order: how many zeros lie between it and the one before. Symbols have `bits` bits (8 at most), and the largest of them, $L = 2^b - 1$, is a *bridge*: L zeros, with no weight after them. So a gap of exactly L is written as L, 0. After the last weight nothing is written.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def gaps_spec(keep, bits):
#     largest, symbols, zeros = 2**bits - 1, [], 0
#     for i in range(len(keep)):
#         if not keep[i]:
#             zeros += 1
#             continue
#         while zeros >= largest:
#             symbols.append(largest)
#             zeros -= largest
#         symbols.append(zeros)
#         zeros = 0
#     return np.array(symbols, np.uint8)
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "combine-gaps", "locked": false, "schema_version": 3, "solution": true, "task": false}
def gaps(keep, bits):
    """bool [n], int -> uint8 [kept weights + bridges]."""
    ### BEGIN SOLUTION
    largest, symbols, before = 2**bits - 1, [], -1
    for place in np.flatnonzero(keep):
        bridges, rest = divmod(int(place) - before - 1, largest)
        symbols += [largest] * bridges + [rest]
        before = int(place)
    return np.array(symbols, dtype=np.uint8)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "combine-gaps-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(gaps, "combine.gaps")

# %%
gaps = adopt(gaps, "combine.gaps")
generator = np.random.default_rng(SEEDS[0])
keep = generator.random(20_000) < 0.1
claim(
    "From your gaps the library finds every weight's place",
    np.array_equal(zero_runs.positions(gaps(keep, 5), 5), np.flatnonzero(keep)),
    yours=gaps,
)
counts = np.bincount(gaps(keep, 5), minlength=32)
figure, axes = plt.subplots(figsize=(6, 2.2))
axes.bar(range(32), counts, color="#0072B2")
axes.set(
    xlabel="gap (31: a bridge)",
    ylabel="how often",
    title="one weight in ten is left, at random",
)
plt.show()

# %% [markdown]
# Short gaps are commoner than long ones, and the last step exploits that.
#
# ## 4 · Fewer bits for what is common
#
# A code in which no word begins another (a *prefix code*, 前缀码) can be read without separators. For symbols that are independent and coded one at a time, the *entropy* $H = -\sum p_i \log_2 p_i$ (lab 09's, now in bits and not divided by log N) bounds them: no such code needs fewer bits a
# symbol on average (Shannon 1948), and Huffman's construction comes within a bit of it, usually far nearer: **merge the two rarest symbols into one, again and again; each merge makes the codes of all symbols in it one bit longer.**
#
# ### Exercise 4 · Huffman's lengths (3 points, about 9 lines)
#
# From how often each symbol occurs, the length of its code. Symbols that never occur have length 0; a lone symbol has 1. Where counts tie, any choice is right: the checker compares the bits of the whole text and the sum of all $2^{-length}$, which is 1 for a code without gaps. (`heapq`, or sorting again each time.)


# %% nbgrader={"grade": false, "grade_id": "combine-code_lengths", "locked": false, "schema_version": 3, "solution": true, "task": false}
def code_lengths(counts):
    """int [symbols] -> int [symbols], the bits of each symbol's code."""
    ### BEGIN SOLUTION
    bits = np.zeros(len(counts), dtype=int)
    heap = [(int(n), [symbol]) for symbol, n in enumerate(counts) if n]
    if len(heap) == 1:
        bits[heap[0][1]] = 1
    while len(heap) > 1:
        heap.sort()
        (few, one), (more, other) = heap.pop(0), heap.pop(0)
        bits[one + other] += 1
        heap.append((few + more, one + other))
    return bits
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "combine-code_lengths-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(code_lengths, "combine.code_lengths")

# %%
code_lengths = adopt(code_lengths, "combine.code_lengths")


def mean_bits(symbols):
    """Bits a symbol with your lengths."""
    counts = np.bincount(symbols)
    return float((counts * code_lengths(counts)).sum() / counts.sum())


densities = np.array([0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5])
of_mask, coded_gaps, coded_bits = [], [], []
for density in densities:
    keep = generator.random(40_000) < density
    least = entropy.entropy(np.bincount(keep))
    symbols = gaps(keep, 7)
    of_mask.append(least)
    coded_gaps.append(mean_bits(symbols) * len(symbols) / keep.size)
    coded_bits.append(mean_bits(keep.astype(np.uint8)))
figure, axes = plt.subplots(figsize=(6.5, 3))
axes.plot(100 * densities, coded_bits, "^-", label="a bit a weight, Huffman-coded")
axes.plot(100 * densities, coded_gaps, "s-", label="gaps, Huffman-coded")
axes.plot(100 * densities, of_mask, "k:", label="entropy of the mask")
axes.set(
    xlabel="weights that are left, %", ylabel="bits a weight, for the places", ylim=(0, 1.1)
)
axes.legend(fontsize=9)
plt.show()

# %%
claim(
    "Below a third of the weights, gaps come within 2 % of the mask's entropy",
    min(1.02 * h - c for (c, h, d) in zip(coded_gaps, of_mask, densities) if d < 0.33),
    "bits",
)
claim(
    "Coding zeros and ones one by one saves nothing: no code is shorter than a bit",
    all(c == 1 for c in coded_bits),
)

# %% [markdown]
# (Above 40 % most gaps are 0 or 1 and cost a whole bit or two each: there gaps win nothing. And these masks are random; real ones have patterns that a cleverer code could use.)
#
# ## 5 · Deep Compression, step by step
#
# Now all of it on three networks: 85 % of the weights go, gradually, in four epochs; those that stay share 15 values a layer, tuned for one; then both streams are coded. After each step the network is *written to a file*, and the last file is read back. Control: the float network trained for those five epochs as well.


# %%
def error(rounded, network, name):
    """The squared error of a layer's rounded weight."""
    layer = rounded.get_submodule(name)
    weight = (
        layer.weight
        if isinstance(layer, sharing.Shared)
        else layer.weight_quantizer(layer.layer.weight)
    )
    return float((weight - network.get_submodule(name).weight).detach().square().sum())


# %%
SHARE, COLOURS_KEPT = 0.85, 15


def pruned_and_shared(network, seed):
    """After four epochs of gradual pruning, and after one of tuning the shared values."""
    pruned = Prune(SHARE)(network, material[seed])
    return pruned, Share(COLOURS_KEPT)(pruned, material[seed])


def trained_longer(network, seed):
    """The control."""
    return material[seed].tune(copy.deepcopy(network), epochs=5)


# Six trainings side by side; what follows them reads and writes files.
jobs = [(pruned_and_shared, n, s) for n, s in zip(networks, SEEDS)]
jobs += [(trained_longer, n, s) for n, s in zip(networks, SEEDS)]
done = side_by_side(lambda job: job[0](*job[1:]), jobs, label="pruning, sharing, control")
compressed, goal, steps, rounded, nearer = [], [], [], [], []

kept_files = tempfile.TemporaryDirectory()
folder = Path(kept_files.name)

# %%
for network, (pruned, shared), longer in zip(networks, done[: len(SEEDS)], done[len(SEEDS) :]):
    even = quantize_post_training(
        pruned,
        QuantConfig(weight_bits=4, activation_bits=None, sharing="tensor"),
        data.train.x[:10],
    )
    by_kmeans = sharing.share_weights(pruned, COLOURS_KEPT)
    rounded.append([evaluate(even, data.test), evaluate(by_kmeans, data.test)])
    nearer.append(
        all(
            error(by_kmeans, pruned, n) < error(even, pruned, n)
            for n in scores.prunable(pruned)
        )
    )
    sizes = [
        float_bytes,
        files.save(pruned, folder / "pruned.safetensors"),
        deep_compression.save(shared, folder / "shared.safetensors", huffman=False),
        deep_compression.save(shared, folder / "deep.safetensors"),
    ]
    again = deep_compression.load(folder / "deep.safetensors", build()).eval()
    same = torch.equal(
        logits(again, data.test.x).argmax(1),
        logits(sharing.unshared(shared), data.test.x).argmax(1),
    )
    compressed.append(shared)
    goal.append(evaluate(longer, data.test))
    steps.append(
        (sizes, [evaluate(n, data.test) for n in (network, pruned, shared, again)], same)
    )

# %%
sizes = np.array([s for s, _, _ in steps], float)
accuracies = np.array([a for _, a, _ in steps])
goal, reached = mean_and_sd(goal), mean_and_sd(accuracies[:, -1])
smaller = float_bytes / sizes[:, -1]

# %%
guess.reveal(
    "20 times or more"
    if smaller.mean() >= 20
    else "15 times"
    if smaller.mean() >= 12.5
    else "10 times"
)
claim(
    "The file is more than 20 times smaller, on average over the seeds",
    float(smaller.mean()) - 20,
    "times",
)
claim(
    "Deep Compression loses less than two points against the float network trained as long",
    2 - (goal[0] - reached[0]),
    "points",
)
claim(
    "Every step makes the file smaller, for every seed",
    bool((np.diff(sizes, axis=1) < 0).all()),
)

# %%
even, by_kmeans = (mean_and_sd(column) for column in zip(*rounded))

# %%
claim(
    "15 values found by k-means leave less error than 15 evenly spaced ones, in every layer",
    all(nearer),
)
claim(
    "The file, read back, gives the same predictions on every test image",
    all(same for _, _, same in steps),
)
NAMES = (
    "float32",
    "pruned: a mask of one bit a weight, and what stays in float32",
    "shared: gaps, codes, palette",
    "Huffman-coded",
)
Table(
    ["step", "file", "times smaller", "bits a weight", "accuracy, %"],
    [
        [
            n,
            in_bytes(s.mean()),
            f"{(float_bytes / s).mean():.1f}",
            f"{8 * s.mean() / (float_bytes / 4):.2f}",
            mean_sd(*mean_and_sd(a)),
        ]
        for n, s, a in zip(NAMES, sizes.T, accuracies.T)
    ],
    f"float trained five epochs more: {mean_sd(*goal)}; 15 values before tuning: evenly "
    f"spaced {mean_sd(*even)}, k-means {mean_sd(*by_kmeans)}; {len(SEEDS)} seeds",
)

# %%
palettes = {n: m.palette for n, m in sharing.shared_layers(compressed[0]).items()}
parts = {"which value": [], "where (gaps)": [], "palette and code tables": []}
within = {"codes": [], "gaps": []}
for palette in palettes.values():
    codes = palette.codes.numpy()
    which, where = codes[codes != 0] - 1, gaps((codes != 0).ravel(), 6)
    for name, symbols in (("codes", which), ("gaps", where)):
        within[name].append(
            (mean_bits(symbols), entropy.entropy(np.bincount(symbols)), len(symbols))
        )
    parts["which value"].append(mean_bits(which) * len(which) / 8)
    parts["where (gaps)"].append(mean_bits(where) * len(where) / 8)
    parts["palette and code tables"].append(5 * len(palette.centroids) + 64)
rest = sizes[0, -1] - sum(sum(p) for p in parts.values())
figure, axes = plt.subplots(figsize=(7, 2.8))
bottom = np.zeros(len(palettes) + 1)
LAYERS = ("convolution 1", "convolution 2", "convolution 3", "linear")
labels = [*LAYERS, "norms, biases,\nthe file's header"]
for colour, (name, heights) in zip(COLOURS, parts.items()):
    axes.bar(labels, [h / 1e3 for h in [*heights, 0]], bottom=bottom, color=colour, label=name)
    bottom += np.array([*heights, 0]) / 1e3
axes.bar(labels[-1], rest / 1e3, color="0.6")
axes.set(
    ylabel="kilobytes in the file",
    title=f"norms, biases and header are {100 * rest / sizes[0, -1]:.0f} % of the file",
)
axes.legend(fontsize=9)
plt.show()

# %%
largest = list(palettes).index("4.0")
over = {
    name: [100 * (bits / least - 1) for bits, least, _ in rows] for name, rows in within.items()
}
kept = [float((p.codes != 0).double().mean()) for p in palettes.values()]
claim(
    "In the largest layer Huffman's codes are within 5 % of the entropy, both of them",
    5 - max(o[largest] for o in over.values()),
    "%",
)
claim(
    "Gaps are furthest from it where most weights were kept: nearly all gaps are 0, and no "
    "code is shorter than a bit",
    int(np.argmax(over["gaps"])) == int(np.argmax(kept)),
)
Table(
    ["layer", "weights kept", *(f"{n}: bits, entropy, above it" for n in within)],
    [
        [
            LAYERS[i],
            f"{100 * k:.0f} %",
            *(
                f"{within[w][i][0]:.2f}, {within[w][i][1]:.2f}, {over[w][i]:.1f} %"
                for w in within
            ),
        ]
        for i, k in enumerate(kept)
    ],
)

# %% [markdown]
# (Two symbols coded as one would come nearer, with a larger table.) Look at the grey bar: what a file format wastes is invisible beside the float file, and no longer here.
#
# Less on disk is not less in memory, and not faster: what runs is an ordinary float network again, zeros included; its time is on the map in section 8. (Han et al. built a chip for it.)
#
# ## 6 · Order matters
#
# Pruned, then shared; or shared first, then pruned? Both end at 85 % zeros, begin with 15 values a layer, and get three epochs in all. Control: pruned first, but the weights that stay are *not* tuned; only their values are, as in the other order.

# %%
order_guess = predict(
    "Sharing first, pruning the shared values after: the result is ...",
    ["as good", "up to a point worse", "more than a point worse"],
)


def pruned_after(shared, share):
    """Shared weights with the smallest of them at 0: a palette has no finer order than
    its values."""
    smaller = copy.deepcopy(shared)
    mask = select(scores.magnitude(sharing.unshared(shared)), share)
    for name, layer in sharing.shared_layers(smaller).items():
        layer.codes[~mask.keep[name]] = 0
    return smaller


def values_left(shared):
    """How many different values the largest layer still uses."""
    return len(sharing.shared_layers(shared)["4.0"].weight.unique()) - 1


# %%
ORDERS = ("prune, tune, share", "prune, share (weights not tuned)", "share, prune")


def prune_tune_share(network, m):
    pruned = Prune(SHARE, epochs=2)(network, m)
    return Share(COLOURS_KEPT)(pruned, m)


def prune_share(network, m):
    at_once = select(scores.magnitude(network), SHARE).apply(copy.deepcopy(network))
    return Share(COLOURS_KEPT, epochs=3)(at_once, m)


def share_prune(network, m):
    shared = Share(COLOURS_KEPT)(network, m)
    return m.tune(pruned_after(shared, SHARE), epochs=2, lr=0.1)


jobs = [
    (way, network, material[seed])
    for way in (prune_tune_share, prune_share, share_prune)
    for network, seed in zip(networks, SEEDS)
]
made = side_by_side(lambda job: job[0](*job[1:]), jobs, label="orders")
order = {name: made[len(SEEDS) * i : len(SEEDS) * (i + 1)] for i, name in enumerate(ORDERS)}
order_accuracy = {
    n: mean_and_sd([evaluate(x, data.test) for x in found]) for n, found in order.items()
}
left = {n: np.mean([values_left(x) for x in found]) for n, found in order.items()}
behind = order_accuracy[ORDERS[0]][0] - order_accuracy[ORDERS[2]][0]

# %%
order_guess.reveal(
    "more than a point worse"
    if behind > 1
    else "up to a point worse"
    if behind > 0.2
    else "as good"
)

# %%
for other in ORDERS[1:]:
    print(compared(ORDERS[0], order_accuracy[ORDERS[0]], other, order_accuracy[other]))
claim(
    "Pruning shared weights takes whole values away",
    left[ORDERS[0]] - 2 - left[ORDERS[2]],
    "values",
)
Table(
    ["order", "file", "values left in the largest layer", "accuracy, %"],
    [
        [
            n,
            in_bytes(np.mean([files.size(x) for x in order[n]])),
            f"{left[n]:.0f}",
            mean_sd(*order_accuracy[n]),
        ]
        for n in order
    ],
    f"three epochs in all, {len(SEEDS)} seeds",
)

# %% [markdown]
# Pruning wants to tune the weights that stay: each takes over what its neighbours did. Once they are tied to a few values, those values (and the norms) are all that is left to train; and since weights of one value fall together, pruning removes all weights of a small value at once, and the palette loses it. The rule of thumb, of which one pair was tested here: **first what needs freedom, last what takes it away**: distil, cut, prune, then
# quantize or share, then code.
#
# ## 7 · Choosing: scenarios
#
# An `Advisor` has rules for what to try. It believes none of them: it runs every candidate, writes its file, races it with the float network, tests it on *validation* images, and says what failed.

# %%
advisor = Advisor(networks[0], data, seed=SEEDS[0], widths=WIDTHS)
scenarios = {
    "microcontroller": Scenario(
        "A microcontroller with 32 kB for weights and activations, integers only",
        max_bytes=32_000,
        max_points_lost=4,
        hardware="microcontroller",
    ),
    "phone": Scenario(
        "A phone: three times faster on bursts of 16 images, within two points",
        min_speedup=3,
        batch=16,
        max_points_lost=2,
    ),
    "server": Scenario(
        "A server: twice the throughput in batches of 64, and quality first",
        min_speedup=2,
        batch=64,
        max_points_lost=0.25,
    ),
}
chosen = predict(
    "32 kB for everything, integers only, four points to lose: what will do?",
    [
        *("8 bits", "4 bits", "2 bits", "fewer channels and 8 bits"),
        *("fewer channels and 4 bits", "none of these"),
    ],
)

# %%
advice = {"microcontroller": advisor.advise(scenarios["microcontroller"])}
best = advice["microcontroller"].best
answers = {
    "int8": "8 bits",
    "4 bits, trained": "4 bits",
    "2 bits, trained": "2 bits",
    "half the channels, int8": "fewer channels and 8 bits",
    "half the channels, 4 bits": "fewer channels and 4 bits",
}

# %%
chosen.reveal(answers.get(best.name if best else "", "none of these"))

# %%
advice["microcontroller"].table()

# %%
advice["phone"] = advisor.advise(scenarios["phone"])
advice["phone"].table()

# %%
advice["server"] = advisor.advise(scenarios["server"])
advice["server"].table()

# %%
claim(
    "For the microcontroller something meets every constraint",
    advice["microcontroller"].best is not None,
)
claim(
    "For the phone something meets every constraint",
    advice["phone"].best is not None,
    timed=True,
)
claim(
    "For the server something meets every constraint",
    advice["server"].best is not None,
    timed=True,
)

# %%
claim(
    "Plain int8 is not enough for the microcontroller",
    any(v.name == "int8" and v.failed for v in advice["microcontroller"].verdicts),
)
Table(
    [
        "scenario",
        "recommended",
        "bytes",
        "times faster",
        "validation, points lost",
        "test, points lost",
    ],
    [
        [
            name,
            a.best.name,
            in_bytes(a.best.bytes),
            "-" if np.isnan(a.best.speedup) else f"{a.best.speedup:.2f}",
            f"{a.best.points_lost:+.2f} ± {a.best.standard_error:.2f}",
            f"{evaluate(networks[0], data.test) - evaluate(a.best.network, data.test):+.2f}",
        ]
        if a.best
        else [name, "nothing that was tried", "-", "-", "-", "-"]
        for name, a in advice.items()
    ],
    f"one network; one thread, {instruction_set()}; for the microcontroller activations are "
    "counted in the bytes",
    text_columns=2,
)

# %% [markdown]
# **A loss is a mean over 2,000 images, and not more certain than that.** Behind ± stands its standard error (标准误), from the images on which the two networks disagree. A limit is held against the loss *plus* one standard error; for a network that disagrees with its original on many images the error is large. For which rows of the server's table is it larger than the quarter of a point that is allowed? Among the candidates that meet every constraint the one that loses the fewest points is recommended; those that are no further from it than a standard error are tied, and of these the smallest file is taken. If bytes or speed matter more to you, tighten that constraint.
#
# The last column, on test images, was not looked at for choosing: had it been, it would be no test any more. Compare it with the column before: a difference between them is mostly luck in choosing among several. And look at the server's table: distillation is called the technique for quality. How many standard errors does int8 lose here, which a teacher could win back?
#
# **Your turn.** A pipeline is a list of stages, each with its settings (`help("compresslab.stages")` has them all). The one below meets the microcontroller's constraints. Change it (fractions, bits, order, stages) until it needs less than 20 kB and loses less than half a point.

# %%
m = material[SEEDS[0]]
mine = Candidate("mine", "my own idea", [CutChannels(0.4), Quantize(4)])
with_mine = advisor.advise(scenarios["microcontroller"], also=[mine])
my_row = next(v for v in with_mine.verdicts if v.name == "mine")
done = my_row.bytes < 20_000 and my_row.points_lost < 0.5
print(
    f"mine: {in_bytes(my_row.bytes)} with activations, {my_row.points_lost:+.2f} ± "
    f"{my_row.standard_error:.2f} points lost: "
    f"{'done' if done else 'not yet'}"
)
Table(
    ["after", "file", "ms, one image", "validation, %"],
    [
        [
            r.stage,
            in_bytes(r.measurement.bytes_disk),
            f"{1e3 * r.measurement.latency[1].median:.2f}",
            f"{r.measurement.accuracy:.2f}",
        ]
        for r in my_row.reports
    ],
    f"{torch.get_num_threads()} threads",
)

# %% [markdown]
# ## 8 · The map
#
# Everything on one picture. Three more pipelines first: *low rank, then int8*, *distil, then train at 4 bits*, and the control that such maps lack: **a network of half the width from scratch**, with all the epochs that the others got, then 4 bits. Who is worth a place?
#
# ### Exercise 5 · Who is dominated (1 point, about 4 lines)
#
# A point is *dominated* (被支配) if another is at least as good in both and better in one. The others are the *Pareto front* (帕累托前沿). True for those on the front.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def pareto_mask_spec(costs, accuracies):
#     on_front = np.ones(len(costs), bool)
#     for i in range(len(costs)):
#         for j in range(len(costs)):
#             no_worse = costs[j] <= costs[i] and accuracies[j] >= accuracies[i]
#             if no_worse and (
#                 costs[j] < costs[i] or accuracies[j] > accuracies[i]
#             ):
#                 on_front[i] = False
#     return on_front
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "combine-pareto_mask", "locked": false, "schema_version": 3, "solution": true, "task": false}
def pareto_mask(costs, accuracies):
    """float32 [n], float32 [n] -> bool [n], True where no other point dominates."""
    ### BEGIN SOLUTION
    no_worse = (costs <= costs[:, None]) & (accuracies >= accuracies[:, None])
    better = (costs < costs[:, None]) | (accuracies > accuracies[:, None])
    return ~(no_worse & better).any(1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "combine-pareto_mask-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(pareto_mask, "combine.pareto_mask")

# %%
pareto_mask = adopt(pareto_mask, "combine.pareto_mask")
more = {
    "low rank, int8": [LowRank(0.5), Quantize(8)],
    "student of half the width, 4 bits": [Distill(lambda: build((16, 32, 64)), 8), Quantize(4)],
}
(small,) = fit_all(
    built(lambda: build((16, 32, 64)), SEEDS[:1]),
    *(data.train, 12, 0.2),
    seeds=SEEDS[:1],
    label="half the width, from scratch",
)

# %%
points = {
    "float": (networks[0], float_bytes),
    "Deep Compression": (
        sharing.unshared(compressed[0]).to(memory_format=torch.channels_last),
        int(sizes[0, -1]),
    ),
}
for (name, _, _), made in advisor.built.items():
    if "ONNX" not in name:
        points[name] = (made.network, made.reports[-1].measurement.bytes_disk)
points["mine"] = (my_row.network, my_row.reports[-1].measurement.bytes_disk)
scratch = convert(Quantize(4)(small, m))
points["half the width from scratch, 4 bits"] = (scratch, files.size(scratch))
for name, stages in more.items():
    network = convert(run(stages, networks[0], m, data.val)[-1].network)
    points[name] = (network, files.size(network))
images = data.test.x[:16].contiguous(memory_format=torch.channels_last)
seconds = race_networks({n: p[0] for n, p in points.items()}, images)
names = list(points)
accuracy = np.array([evaluate(points[n][0], data.test) for n in names], np.float32)
costs = {
    "bytes": np.array([points[n][1] for n in names], np.float32),
    "time": np.array([1e3 * seconds[n] for n in names], np.float32),
}
# Compared in steps of a tenth of a point (four images) and of 5 per cent: smaller differences are noise.
tenths, steps_of = (
    np.round(accuracy, 1),
    {cost: np.round(np.log(c) / 0.05) for cost, c in costs.items()},
)

# %%
fronts = {
    cost: {n for n, on in zip(names, pareto_mask(c.astype(np.float32), tenths)) if on}
    for cost, c in steps_of.items()
}
figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
for axes, (cost, c), label in zip(
    panels, costs.items(), ("file, kB", "16 images, ms (one thread)")
):
    c = c / 1e3 if cost == "bytes" else c
    on = sorted((x, y) for x, y, n in zip(c, accuracy, names) if n in fronts[cost])
    axes.plot(*zip(*on), color="0.6", zorder=1)
    for i, n in enumerate(names):
        axes.plot(
            c[i], accuracy[i], MARKERS[(i + i // 8) % 8], color=COLOURS[i % 8], ms=7, label=n
        )
        if n in fronts[cost]:
            axes.plot(c[i], accuracy[i], "o", ms=14, mfc="none", color="0.5")
    axes.set(xscale="log", xlabel=label)
    plain_log_ticks(axes.xaxis)
panels[0].set_ylabel("test accuracy, %")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
plt.show()
claim(
    "The smallest file on the map is ten times smaller than the float one, or more",
    float_bytes / float(costs["bytes"].min()) - 10,
    "times",
)

# %%
claim(
    "Deep Compression's file is smaller than that of the network in 4 bits",
    float(
        costs["bytes"][names.index("4 bits, trained")]
        / costs["bytes"][names.index("Deep Compression")]
    )
    - 1,
    "times",
)
claim(
    "Deep Compression is slower than int8, if the processor has byte dot products (VNNI)",
    seconds["Deep Compression"] / seconds["int8"] - 1,
    "times",
    timed=True,
    asked="VNNI" in instruction_set(),
)
pairs = [(i, j) for i in range(len(names)) for j in range(i)]
by_bytes, by_time = steps_of["bytes"], steps_of["time"]
against = sum((by_bytes[i] - by_bytes[j]) * (by_time[i] - by_time[j]) < 0 for i, j in pairs)
against = float(against) / len(pairs)
print(f"of two networks the smaller file is the slower one in {against:.0%} of all pairs")
claim(
    "In more than a twentieth of all pairs of networks the one with the smaller file is the "
    "slower one",
    against - 0.05,
    "of the pairs",
    timed=True,
)

# %%
of_its_size = max(
    tenths[names.index(n)]
    for n in ("half the channels, 4 bits", "student of half the width, 4 bits")
)
from_scratch = accuracy[names.index("half the width from scratch, 4 bits")]
print(
    f"Half the width, 4 bits, one seed: from scratch {from_scratch:.1f} %, the better of cut "
    "and taught "
    f"{of_its_size:.1f} %"
)
Table(
    ["pipeline", "file", "ms, 16 images", "accuracy, %", "on the front"],
    [
        [
            n,
            in_bytes(costs["bytes"][i]),
            f"{costs['time'][i]:.2f}",
            f"{accuracy[i]:.2f}",
            " and ".join(c for c in fronts if n in fronts[c]) or "-",
        ]
        for i, n in sorted(enumerate(names), key=lambda item: costs["bytes"][item[0]])
    ],
    f"one seed; compared in steps of 0.1 points and 5 %; one thread, {instruction_set()}; "
    "rings: on the front",
)

# %% [markdown]
# Compare the network from scratch with the two of its size that were cut or taught. Here, with all epochs given to each, the large network's detour is hard to justify at this size by accuracy alone (Liu et al. 2019 found the same on ImageNet, lab 04 nearly so); it pays when a trained network is already there, or when labels are few (lab 08).

# %% [markdown]
# ## 9 · Deploying: other people's engines
#
# What another engine needs is a file it can read. *ONNX* is the usual one: `torch.onnx` writes the float network, and for int8 a float network with pairs of `QuantizeLinear` and `DequantizeLinear` (QDQ) around every integer operation. An engine that knows the pattern runs it in integers.

# %%
onnx_guess = predict(
    "Our integers and ONNX Runtime's, from the same codes: on how many of the test images do "
    "the predictions agree?",
    ["all of them", "all but a few in a thousand", "about 98 %"],
)

# %%
if peers.onnxruntime_available():
    simulated = quantize_post_training(networks[0], QuantConfig(), data.train.x[:500])
    ours = convert(simulated)
    written = {
        "float": export.export_float(networks[0], data.shape, folder / "float.onnx"),
        "int8": export.export_int8(simulated, data.shape, folder / "int8.onnx"),
    }
    theirs = {n: peers.OnnxModel(folder / f"{n}.onnx", threads=1) for n in written}
    as_written = peers.OnnxModel(folder / "int8.onnx", threads=1, exact=True)
    answers = {"float": logits(networks[0], data.test.x), "int8": logits(ours, data.test.x)}
    foreign = {
        "float": logits(theirs["float"], data.test.x),
        "int8": logits(as_written, data.test.x),
        "quick int8": logits(theirs["int8"], data.test.x),
    }
    agree = {
        name: float(
            (answers[name.removeprefix("quick ")].argmax(1) == found.argmax(1)).double().mean()
        )
        for name, found in foreign.items()
    }
else:
    print("ONNX Runtime is missing (pip install compresslab[peers]): nothing to show here.")


# %%
if peers.onnxruntime_available():
    onnx_guess.reveal(
        "all of them"
        if agree["int8"] == 1
        else "all but a few in a thousand"
        if agree["int8"] > 0.99
        else "about 98 %"
    )
    claim(
        "In floats ONNX Runtime agrees with torch on every test image, its logits to 1e-4",
        agreement(foreign["float"], answers["float"], atol=1e-4),
        "tolerances",
    )
    claim(
        "In int8, run as the file writes it, it agrees with our kernels on all but two images "
        "in a thousand",
        0.2 - 100 * (1 - agree["int8"]),
        "%",
    )
    print(f"With its quick integers it agrees on {100 * agree['quick int8']:.1f} % of them")
    claim(
        "The int8 ONNX file is less than a third of the float one",
        written["int8"] < written["float"] / 3,
    )


# %%
onnx_table = None
if peers.onnxruntime_available():
    runners = {
        "float, torch": networks[0],
        "float, ONNX Runtime": theirs["float"],
        "int8, ours": ours,
        "int8, ONNX Runtime": theirs["int8"],
    }
    times = {
        b: race_networks(runners, data.test.x[:b].contiguous(memory_format=torch.channels_last))
        for b in (1, 64)
    }
    size = {
        "float, torch": float_bytes,
        "float, ONNX Runtime": written["float"],
        "int8, ours": files.size(ours),
        "int8, ONNX Runtime": written["int8"],
    }
    onnx_table = Table(
        ["", "file", "one image, µs", "64 images, µs"],
        [[n, in_bytes(size[n]), *(f"{1e6 * times[b][n]:.0f}" for b in times)] for n in runners],
        f"one thread, {instruction_set()}",
    )
onnx_table

# %% [markdown]
# Where a processor has AVX2 and not VNNI, which are two sets of instructions, the quick integers of ONNX Runtime add two products of bytes in 16 bits, where large sums saturate: some predictions differ. Its documentation advises weights of 7 bits there ("Quantize ONNX models", on data types). Our kernels widen first, and give the same integers everywhere.
#
# Compare the two columns. ONNX Runtime walks its graph without Python, and so does our program, which is one compiled call; torch comes back to Python after every layer, which is most of its time for one image. In a batch it is the kernels that decide, and which are faster depends on the processor.
#
# Compression happens on three levels: the *algorithm* (what is pruned or rounded), the *framework* (what turns it into a graph and kernels), and the *hardware* (which products it has). A technique pays where all three go together.
#
# **Elsewhere.** OpenVINO and most compilers of accelerators take the same QDQ file. TensorRT (NVIDIA's engine) does not: it wants signed codes around 0 and biases in floats. `export_int8(..., signed=True)` writes that (behind a ReLU half of such a grid is never used, so activations have 7 bits), `tensorrt.obstacles(file)` says what TensorRT's documentation forbids in a file, and `trtexec --onnx=FILE --stronglyTyped` builds it on an NVIDIA GPU. Phones and microcontrollers have LiteRT, whose converter takes the torch network, in float32, float16 or int8: `compresslab.runtime.litert`, with the extra `[litert]` in an environment of its own.
#
# TensorRT itself cannot be run without its GPU, but its file can be looked at, and run by ONNX Runtime:

# %%
if peers.onnxruntime_available():
    signed = folder / "signed.onnx"
    export.export_int8(simulated, data.shape, signed, signed=True)
    forbidden = [tensorrt.obstacles(path) for path in (folder / "int8.onnx", signed)]
    in_seven_bits = evaluate(peers.OnnxModel(signed, threads=1), data.test)
    print(f"what TensorRT would refuse: {forbidden[0][0]}, and {len(forbidden[0]) - 1} more")
    claim(
        "The signed file holds nothing that TensorRT's documentation forbids, the unsigned "
        "one does",
        bool(forbidden[0]) and not forbidden[1],
    )
    claim(
        "Its 7 bits behind a ReLU cost less than half a point",
        0.5 - (evaluate(ours, data.test) - in_seven_bits),
        "points",
    )

# %% [markdown]
# ### On the chip
#
# A microcontroller has no Python, often no operating system, and no memory to allocate. So the network becomes *one file of C*: weights as constants in flash memory, all activations in one array whose places are reused (an activation needs its bytes only until its last reader has run), and a plain loop for each step. TensorFlow Lite Micro keeps a small interpreter on the chip instead and walks a table of steps; CMSIS-NN has the loops in ARM's own vector instructions. Read the file: its sums and its rescaling are those that you wrote in lab 02.
#
# How large must that array be? An activation of `size` bytes is made by step `first` and read for the last time by step `last`; from `first` to `last`, both included, nobody else may have its bytes. Finding the smallest array is hard in general (it is NP-hard). *Greedy by size* is what TensorFlow Lite Micro does, and it is near the best for most networks (Pisarchyk and Lee 2020): the largest first, each at the lowest place where it overlaps with none of those already placed that are needed at the same time.
#
# ### Exercise 6 · Activations in one arena (build, 6 points, about 12 lines)
#
# From sizes, first and last steps (int64 [n] each) to the byte where each begins. A simulator runs the steps and says who overlaps. The stages: nothing overlaps; places are used again; as small as greedy by size (of two equals, the one that is made first goes first).


# %% nbgrader={"grade": false, "grade_id": "combine-place_activations", "locked": false, "schema_version": 3, "solution": true, "task": false}
def place_activations(sizes, first, last):
    """int64 [n] three times: bytes, step that makes it, last step that reads it
    -> int64 [n], where it begins."""
    ### BEGIN SOLUTION
    starts, done = np.zeros(len(sizes), np.int64), []
    for i in np.lexsort((first, -sizes)):
        met = [j for j in done if first[i] <= last[j] and first[j] <= last[i]]
        start = 0
        for j in sorted(met, key=lambda j: starts[j]):
            if starts[j] >= start + sizes[i]:
                break
            start = max(start, starts[j] + sizes[j])
        starts[i] = start
        done.append(i)
    return starts
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "combine-place_activations-check", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
check(place_activations, "combine.place_activations")

# %%
place_activations = adopt(place_activations, "combine.place_activations")

# %% [markdown]
# The int8 network and the recommended one in C, and yours beside:

# %%
on_chip = {"int8": advisor.built["int8", True, True].network}
on_chip |= {best.name: best.network} if best else {}
sources = {name: to_c(network, data.test.x.shape[1:]) for name, network in on_chip.items()}
twenty = data.test.x[:20]
emulated = {}
chip_rows = []
for chip, source in sources.items():
    chip_row = [chip, in_bytes(source.flash), in_bytes(source.arena)]
    if not emulator.missing():
        emulated[chip] = emulator.run(source, twenty.numpy())
        code = emulator.sizes(source).code
        chip_row += [in_bytes(code), f"{emulated[chip].instructions.mean() / 1e6:.1f} M"]
    chip_rows.append(chip_row if emulated else [*chip_row, "-", "-"])
print("\n".join(sources["int8"].text.splitlines()[:9]))
Table(
    ["in C", "constants", "activations", "code", "instructions an image"],
    chip_rows,
    "compiled for a Cortex-M3 and run on an emulated one"
    if emulated
    else f"{', '.join(emulator.missing())} not installed: bytes only",
)

# %%
activations = lives_of(on_chip["int8"], data.test.x.shape[1:])
lengths = np.array([a.bytes for a in activations])
begins = place_activations(
    lengths, np.array([a.first for a in activations]), np.array([a.last for a in activations])
)
print(
    f"{len(lengths)} activations of {lengths.sum():,} bytes in all, in "
    f"{(begins + lengths).max():,} bytes"
)
claim(
    "Your arena for the int8 network is as small as the library's",
    bool((begins + lengths).max() == sources["int8"].arena),
    yours=place_activations,
)
same_on_chip = [
    np.array_equal(emulated[name].logits.argmax(1), network(twenty).argmax(1).numpy())
    for name, network in on_chip.items()
    if name in emulated
]
claim(
    "On an emulated Cortex-M3 every image gets the answer that it gets here",
    all(same_on_chip),
    asked=bool(same_on_chip),
)
claim(
    "The recommended network's constants and activations fit into 32 kB",
    32_000 - sources[best.name].flash - sources[best.name].arena if best else 0,
    "bytes",
)

# %% [markdown]
# ## 10 · The project
#
# Open-ended, with two prizes: **the smallest file within a point, and the fastest network within a point** (one image at a time). The rules: this lab's 3,000 training images and this float network to be compared with; every technique, any number of epochs, any engine (name it). Choose on validation images. The board measures what is *read back from the file*: replace the entries by yours. A file of weights fits its own architecture alone: where yours has another one, pass `like=` a function that builds it, such as `like=lambda: models.VGGLike(data, widths=(20, 39, 77))`.

# %%
entries = [
    leaderboard.row("float", networks[0], networks[0], data.test),
    leaderboard.row("Deep Compression, 85 %, 15 values", compressed[0], networks[0], data.test),
    leaderboard.row("int8", advisor.built["int8", True, True].network, networks[0], data.test),
    leaderboard.row("mine", my_row.network, networks[0], data.test),
]
leaderboard.table(entries)

# %% [markdown]
# Ideas: how far can 85 % go with more epochs (8? 16?), and with the teacher of lab 08 beside it? Which layers need 15 values, which do with 7? Half the channels *and* Deep Compression? Norms as float16? Two-bit codes, Huffman-coded? What does the fastest network spend its time on, for one image?

# %% [markdown]
# ## Build it · Huffman into bytes and back
#
# ### Exercise 7 · Huffman into bytes and back (build, 8 points, about 25 lines)
#
# Exercise 4 gives lengths; a file needs bits. `huffman_code(lengths)` hands back `write(symbols)`, from uint8 symbols to a uint8 stream, and `read(stream, count)`
# back to the symbols. Codes are canonical, so that the lengths alone say what they are: in order of length, and of the symbol among equal lengths, each code is
# the one before it plus 1, shifted left when the length grows; a length of 0 means that the symbol has none.
#
# 1. *One symbol*: its code, the first bit in the highest place of the byte, zeros behind it.
# 2. *A stream*: code after code without gaps, the last byte filled up with zeros.
# 3. *Back again*: `count` symbols.


# %% nbgrader={"grade": false, "grade_id": "combine-huffman_code", "locked": false, "schema_version": 3, "solution": true, "task": false}
def huffman_code(lengths):
    """uint8 [alphabet]
    -> (write: uint8 symbols -> uint8 stream, read: stream, count -> uint8 symbols)."""
    ### BEGIN SOLUTION
    texts, code, before = {}, 0, 0
    for symbol in np.lexsort((np.arange(len(lengths)), lengths)).tolist():
        length = int(lengths[symbol])
        if length:
            code <<= length - before
            texts[symbol], before = format(code, f"0{length}b"), length
            code += 1
    symbols = {text: symbol for symbol, text in texts.items()}

    def write(values):
        bits = "".join(texts[v] for v in values.tolist())
        return np.packbits(np.array([b == "1" for b in bits], bool))

    def read(stream, count):
        found, part = [], ""
        for bit in np.unpackbits(stream).tolist():
            if len(found) == count:
                break
            part += str(bit)
            if part in symbols:
                found.append(symbols[part])
                part = ""
        return np.array(found, np.uint8)

    return write, read
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "combine-huffman_code-check", "locked": true, "points": 8, "schema_version": 3, "solution": false, "task": false}
check(huffman_code, "combine.huffman_code")

# %%
huffman_code = adopt(huffman_code, "combine.huffman_code")

# %%
generator = np.random.default_rng(SEEDS[0])
counts = np.array([700, 150, 80, 40, 20, 6, 3, 1])
symbols = generator.choice(len(counts), 20_000, p=counts / counts.sum()).astype(np.uint8)
lengths = np.asarray(code_lengths(np.bincount(symbols, minlength=len(counts)))).astype(np.uint8)
write, read = huffman_code(lengths)
stream = write(symbols)
seen = np.bincount(symbols, minlength=len(counts)) / len(symbols)
entropy_bytes = -float((seen[seen > 0] * np.log2(seen[seen > 0])).sum()) * len(symbols) / 8
claim("What was written is read again", np.array_equal(read(stream, len(symbols)), symbols))
claim("The stream is within 15 % of the entropy", 1.15 - len(stream) / entropy_bytes, "of it")
Table(
    ["", "bytes"],
    [
        ["a byte for each symbol", f"{symbols.nbytes:,}"],
        ["3 bits for each", f"{3 * len(symbols) // 8:,}"],
        ["Huffman, as written", f"{len(stream):,}"],
        ["entropy", f"{entropy_bytes:,.0f}"],
    ],
    "20,000 symbols of eight kinds",
)

# %% [markdown]
# ### Exercise 8 · Half a bit a weight (open, 6 points, about 40 lines)
#
# An *open* exercise has no right answer: what you hand back is measured, here and again while grading, on numbers that your code does not see. A trained perceptron is to be written in half a bit a weight, a sixty-fourth
# of its file. A layer is codes and the values that they stand for, at most 256, and takes what a perfect coder would take (Shannon 1948): $n H + 32 v$ bits, with $n$ codes of entropy $H$ and $v$ values. A
# frequent value costs little, and zeros may be very frequent. How many weights stay, how many values do they share, and what is trained when? You have 20 seconds of processor time and torch;
# the library is not there while grading. Bronze is above pruning and sharing without training, gold is what training with the shared values reached.
#
# You are given weights [outputs, inputs] and biases, 4,000 training images [n, 256], labels, and the bits of the whole network. Hand back for each layer (codes uint8 of the weight's shape, values float32, bias
# float32); biases are not counted.


# %% nbgrader={"grade": false, "grade_id": "combine-coded_network", "locked": false, "schema_version": 3, "solution": true, "task": false}
def coded_network(weights, biases, images, labels, budget):
    """Tuples of float32 arrays, images, labels, bits
    -> for each layer (codes, values, bias)."""

    ### BEGIN SOLUTION
    def masks(ws, remaining):
        sizes = torch.cat([w.detach().abs().flatten() for w in ws])
        border = sizes.sort(descending=True).values[int(remaining * len(sizes))]
        return [w.detach().abs() > border for w in ws]

    def clustered(w, values_a_sign=1):
        values = [torch.zeros(1)]
        for side in (w[w > 0], w[w < 0]):
            parts = side.sort().values.tensor_split(values_a_sign)
            values += [part.mean()[None] for part in parts if len(part)]
        values = torch.cat(values)
        for _ in range(4):
            codes = (w[..., None] - values).abs().argmin(-1)
            codes[w == 0] = 0
            sums = torch.zeros_like(values).index_add_(0, codes.flatten(), w.flatten())
            values = sums / torch.bincount(codes.flatten(), minlength=len(values)).clamp(min=1)
        return codes, values

    def shared(w):
        codes, values = clustered(w.detach())
        return w + (values[codes] - w).detach()

    def bits(codes, values):
        p = np.bincount(codes.numpy().ravel()) / codes.numel()
        return -codes.numel() * (p[p > 0] * np.log2(p[p > 0])).sum() + 32 * len(values)

    torch.manual_seed(0)
    ws = [torch.tensor(w, requires_grad=True) for w in weights]
    bs = [torch.tensor(b, requires_grad=True) for b in biases]
    x, y, remaining = torch.from_numpy(images), torch.from_numpy(labels), 0.085
    optimizer = torch.optim.Adam([*ws, *bs])
    # First pruned little by little, then trained on with the values that the codes will stand
    # for.
    for epochs, rate, together in ((14, 8e-3, False), (14, 3e-3, True)):
        steps = epochs * -(-len(x) // 100)
        batches = (b for _ in range(epochs) for b in torch.randperm(len(x)).split(100))
        for step, batch in enumerate(batches):
            if step % 20 == 0:
                part = 1.0 if together else min(1.0, step / (0.7 * steps))
                kept = masks(ws, 1 - (1 - remaining) * (1 - (1 - part) ** 3) - 1e-6)
            with torch.no_grad():
                for w, mask in zip(ws, kept, strict=True):
                    w *= mask
            h = x[batch]
            for number, (w, b) in enumerate(zip(ws, bs, strict=True)):
                h = torch.relu(h) if number else h
                h = torch.nn.functional.linear(h, shared(w) if together else w, b)
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps) + 1e-5
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(h, y[batch]).backward()
            optimizer.step()
    found = [w.detach() for w in ws]
    while True:
        found = [w * mask for w, mask in zip(found, masks(found, remaining), strict=True)]
        coded = [clustered(w) for w in found]
        if sum(bits(*layer) for layer in coded) <= budget:
            break
        remaining *= 0.98
    return tuple(
        (codes.numpy().astype(np.uint8), values.numpy(), b.detach().numpy())
        for (codes, values), b in zip(coded, bs, strict=True)
    )
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "combine-coded_network-check", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
check(coded_network, "combine.coded_network")

# %%
coded_network = adopt(coded_network, "combine.coded_network")

# %% [markdown]
# ## Longer than a lab · The phone's engine
#
# LiteRT, the engine of phones, wants an environment of its own: `make litert` builds it and runs this experiment there; its rows are kept beside the code (`compresslab/longer/litert_engine.py`). Its converter is called with a *type*: one of the articles behind this course sets float16 in a snippet that is to quantize to 8 bits. Compare the files' sizes.

# %%
from compresslab.longer import show_longer

show_longer("litert_engine")

# %% [markdown]
# One scenario of the articles is left: tight resources, on a processor that counts bits, where they send you to binarization. Every candidate of the advisor's for less than an eighth of the bytes, with as little tuning as above:

# %%
show_longer("tight_resources")

# %% [markdown]
# ## The fourth need: energy
#
# Energy (能耗) is estimated: every multiplication and addition at its price in a 45 nm process (Horowitz 2014), and every byte of the file read once from memory, which costs as much as hundreds of additions. Deep Compression saves bytes alone, since it runs as floats; int8 saves both.

# %%
import compresslab as cl

stored_small = cl.measure(compressed[0], data, "Deep Compression")
in_int8 = cl.measure(advisor.built["int8", True, True].network, data, "int8")
claim(
    "Deep Compression's file is more than four times smaller than that of int8",
    in_int8.bytes_disk / stored_small.bytes_disk - 4,
    "times",
)
claim(
    "And yet, by the estimate, it takes more than half of int8's energy: it multiplies floats",
    stored_small.energy / in_int8.energy - 0.5,
    "of the energy",
)
cl.table(
    cl.measure(networks[0], data, "float32"),
    cl.measure(copy.deepcopy(networks[0]).half(), data, "float16, a cast"),
    cl.measure(copy.deepcopy(networks[0]).bfloat16(), data, "bfloat16, a cast"),
    stored_small,
    in_int8,
)

# %%
per_image = {
    name: cl.measure.joules(lambda: run(data.test.x[:64]))
    for name, run in (
        ("float32", networks[0]),
        ("int8", advisor.built["int8", True, True].network),
    )
}
print(
    "Joules by the processor's own counters: this machine does not let them be read."
    if None in per_image.values()
    else "By the processor's own counters, µJ an image (the whole socket, idling included): "
    + ", ".join(f"{name} {1e6 * spent / 64:.0f}" for name, spent in per_image.items())
)

# %% [markdown]
# ## When not to
#
# - *Deep Compression* is for what is sent or stored: an update over the air, an app in a store. It gains nothing in memory or time unless the hardware decodes it.
# - *Long pipelines.* Each stage has settings, and each of them was chosen on the validation set. Stop at the first that meets the constraint.
# - *Compressing a network that is too large for its task.* A small one from scratch is the control that most tables lack.
#
# ## What the papers say, what we measured
#
# The networks, data and machines of the papers are others than ours: compare directions and sizes, not digits.

# %%
papers = [
    [
        "Deep Compression",
        "LeNet-5 39 times, AlexNet 35, VGG-16 49, no accuracy lost (Han et al. 2016, table 1)",
        f"{smaller.mean():.1f} times, {goal[0] - reached[0]:.1f} points below a network "
        "trained as long",
    ],
    [
        "pruning alone",
        "9 times (AlexNet), 12 (LeNet-5): weights (the same, tables 3 and 4)",
        f"{1 / (1 - SHARE):.1f} times fewer weights; the file "
        f"{(float_bytes / sizes[:, 1]).mean():.1f} times smaller",
    ],
]

# %%
Table(
    ["", "the paper", "here"],
    [
        *papers,
        [
            "Huffman coding saves",
            "20 to 30 % of the pruned and quantized network (the same, section 4)",
            f"{100 * (1 - sizes[:, 3] / sizes[:, 2]).mean():.0f} %, tables, norms and header "
            "included",
        ],
        [
            "where k-means begins",
            "evenly over the range is best (the same, section 3.2)",
            "after one epoch: "
            + ", ".join(f"{START_NAMES[b]} {tuned[b][0]:.1f}" for b in tuned),
        ],
    ],
    text_columns=3,
)

# %% [markdown]
# AlexNet has 600 times as many weights as our network, most of them in linear layers: there is more to prune, and norms and header do not count.
#
# %% [markdown] nbgrader={"grade": true, "grade_id": "written-combine_written", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# ## Written question (2 points)
#
# A firm puts a network into a million door locks: 64 kB of flash memory, no floating-point unit, a battery; updates over a radio link that costs per byte. Which pipeline would you build, in which order, what would lie on the device and what would be sent, and which three numbers would you measure before you sign?
#
# *Your answer (double-click here to write it):*

# %% [markdown]
# ## Recap
#
# - Pruning, sharing, gaps and Huffman coding each take what the step before has left. The result is a small file, and an ordinary network once it is read.
# - First what needs freedom, last what takes it away.
# - Rules say what to try. Only a measurement says whether it holds: bytes of a written file, time in a race, accuracy on images that were not used for choosing.
# - A smaller file is not always a faster network, and a small network from scratch belongs on both maps.
#
# **Back:** [Lab 11 · The weights of a language model](11_llm_weights.ipynb) · **Next:** [Lab 13 · Real networks, and yours](13_real_networks.ipynb)
#
# **References.** Pisarchyk and Lee 2020, *Efficient memory management for deep neural net inference*, arXiv:2001.03288 · Han, Mao and Dally 2016, *Deep Compression*, arXiv:1510.00149, sections 2 to 4, tables 1, 3 and 4 · Han et al. 2016, *EIE: Efficient inference engine on compressed deep neural network*, arXiv:1602.01528 · Huffman 1952, *A method for the construction of minimum-redundancy codes*, Proc. IRE 40 · Shannon 1948, *A mathematical theory of communication*, Bell System Technical Journal 27 · Lloyd 1982, *Least squares quantization in PCM*, IEEE Trans. Information Theory 28 · Liu et al. 2019, *Rethinking the value of network pruning*, arXiv:1810.05270 · ONNX operators `QuantizeLinear` and `DequantizeLinear`, onnx.ai/onnx/operators
