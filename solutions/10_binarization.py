# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Lab 10 · Binarization
#
# **You will** squeeze 64 numbers into one machine word, multiply them with XNOR and a population count, train
# networks whose weights (and then activations too) are single bits, and run one on bits from its first sign to its last binary layer.
# **Time:** 120 minutes to work through; it runs in one to three minutes, by processor.
#
# Binarization (二值化) is the end of the road that labs 01 to 03 went down: one bit. It is also where the
# arithmetic changes its nature. There is nothing left to multiply.

# %%
import copy
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

# %%
import torch.nn.functional as F
from numba import njit
from torch import nn

from compresslab.kernels import xnor
from compresslab.kernels.simd import popcount
from compresslab.lab import (
    Table,
    accuracy,
    adopt,
    agreement,
    begin,
    built,
    check,
    claim,
    disk_bytes,
    explore,
    fit_all,
    in_bytes,
    instruction_set,
    load,
    logits,
    mean_sd,
    models,
    plain_log_ticks,
    predict,
    time_call,
    trained,
    use_style,
)

# %%
from compresslab.classroom.live import click_signs
from compresslab.runtime import storage
from compresslab.runtime.bits import convert_xnor
from compresslab.techniques.binarize import (
    BINARY_CONNECT,
    BINARY_WEIGHTS,
    XNOR,
    BinaryConfig,
    ClipWeights,
    XnorNet,
    binarize,
    ternarize,
)
from compresslab.techniques.norms import reestimated

use_style()
SEEDS = begin()

# %% [markdown]
# ## A hook: the same product, twice
#
# Two matrices of nothing but -1 and +1. Torch multiplies them as floats; our kernel as bits.

# %%
fair = predict(
    "A product of signs as bits: against which opponent will it be more than 40 times faster "
    "here?",
    ["a plain loop over floats", "a good BLAS", "both", "neither"],
)

# %%
generator = np.random.default_rng(SEEDS[0])
left, right = (
    np.where(generator.random((1024, 1024)) < 0.5, -1, 1).astype(np.float32) for _ in "ab"
)
floats = torch.from_numpy(left), torch.from_numpy(right)
words, weight = xnor.pack_signs(left), xnor.pack_weight(xnor.pack_signs(right), 1024)

as_floats = time_call(lambda: torch.mm(floats[0], floats[1].T))
as_bits = time_call(lambda: xnor.matmul(words, weight))

# %%
claim(
    "The product of bits gives the float product's numbers, to the last one",
    np.array_equal(torch.mm(floats[0], floats[1].T).numpy(), xnor.matmul(words, weight)),
)
claim("A sign takes a thirty-second of the room of a float", 32 * words.nbytes == left.nbytes)
claim(
    "The product of bits is the faster one",
    as_floats.median / as_bits.median - 1,
    "times",
    timed=True,
)
Table(
    ["product of 1024 x 1024 signs", "one operand", "time, median (quartiles)", "ratio"],
    [
        ["float32, torch", in_bytes(left.nbytes), str(as_floats), "1"],
        [
            "bits, ours",
            in_bytes(words.nbytes),
            str(as_bits),
            f"{as_floats.median / as_bits.median:.1f}",
        ],
    ],
    f"one thread, {instruction_set()}; the operands are packed already",
)

# %% [markdown]
# ## 1 · XNOR and popcount
#
# Let bit 1 stand for +1 and bit 0 for -1. Two equal bits multiply to +1, two different ones to -1, so the product of
# signs is XNOR (同或, "equal?"). A dot product of $K$ signs adds up $K - d$ times +1 and $d$ times -1, where $d$ counts the
# places in which they differ:
#
# $$a \cdot b = (K - d) - d = K - 2\,\text{popcount}(a \oplus b)$$
#
# A processor compares 64 places in one XOR and counts them in one *popcount* (置位计数). That needs signs in words.
# Here are sixteen of each row. Click signs: what is the smallest step of the dot product, and when is it 0?

# %%
click_signs(left[0, :16], right[0, :16])

# %% [markdown]
# ### Exercise 1 · Sixty-four signs in a word (2 points, about 4 lines)
#
# Element $64w + b$ of a row is bit $b$ of word $w$, least significant first; unused bits of the last word are 0.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def pack_signs_spec(x):
#     rows, count = x.shape
#     words = np.zeros((rows, -(-count // 64)), np.uint64)
#     for m in range(rows):
#         for k in range(count):
#             if x[m, k] >= 0:
#                 words[m, k // 64] |= np.uint64(1) << np.uint64(k % 64)
#     return words
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "binary-pack_signs", "locked": false, "schema_version": 3, "solution": true, "task": false}
def pack_signs(x):
    """float32 [M, K] -> uint64 [M, ceil(K / 64)]."""
    ### BEGIN SOLUTION
    bits = np.zeros((len(x), -(-x.shape[1] // 64) * 64), np.uint8)
    bits[:, : x.shape[1]] = x >= 0
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint64)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "binary-pack_signs-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(pack_signs, "binary.pack_signs")

# %%
pack_signs = adopt(pack_signs, "binary.pack_signs")

# %% [markdown]
# Now the product, compiled. `popcount(word)` is imported above and works inside `@njit`; it becomes one instruction.
# It takes one word, not an array, so write the loops; the result is int32. (The spec below goes bit by bit, and is many times
# slower: use popcount.)
#
# ### Exercise 2 · A matrix product of bits (3 points, about 7 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def xnor_matmul_spec(a, b, count):
#     out = np.zeros((len(a), len(b)), np.int32)
#     for m in range(len(a)):
#         for n in range(len(b)):
#             for k in range(count):
#                 one = (int(a[m, k // 64]) >> (k % 64)) & 1
#                 two = (int(b[n, k // 64]) >> (k % 64)) & 1
#                 out[m, n] += 1 if one == two else -1
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "binary-xnor_matmul", "locked": false, "schema_version": 3, "solution": true, "task": false}
@njit
def xnor_matmul(a, b, count):
    """uint64 [M, W], uint64 [N, W], K -> int32 [M, N]: the dot products of K signs."""
    ### BEGIN SOLUTION
    out = np.empty((a.shape[0], b.shape[0]), np.int32)
    for m in range(a.shape[0]):
        for n in range(b.shape[0]):
            different = 0
            for w in range(a.shape[1]):
                different += popcount(a[m, w] ^ b[n, w])
            out[m, n] = count - 2 * different
    return out
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "binary-xnor_matmul-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(xnor_matmul, "binary.xnor_matmul")

# %%
xnor_matmul = adopt(xnor_matmul, "binary.xnor_matmul")

# %% [markdown]
# The XNOR-Net paper reports a convolution **58 times** faster. Than what? Let us race products of signs.

# %%
SIDE = 512


@njit
def naive_matmul(x, w):
    out = np.zeros((x.shape[0], w.shape[0]), np.float32)
    for m in range(x.shape[0]):
        for n in range(w.shape[0]):
            total = np.float32(0)
            for k in range(x.shape[1]):
                total += x[m, k] * w[n, k]
            out[m, n] = total
    return out


# %%
x, w = left[:SIDE, :SIDE].copy(), right[:SIDE, :SIDE].copy()
x_words, w_words = pack_signs(x), pack_signs(w)
packed = xnor.pack_weight(w_words, SIDE)
scale = xnor.scales(packed)
xt, wt = torch.from_numpy(x), torch.from_numpy(w)
race = {
    "float, plain loop": time_call(lambda: naive_matmul(x, w), warmup=1, repeats=3),
    "float, torch's BLAS": time_call(lambda: torch.mm(xt, wt.T)),
    "bits, the short loop": time_call(lambda: xnor_matmul(x_words, w_words, SIDE), repeats=7),
    "int8, torch": time_call(lambda: torch._int_mm(xt.to(torch.int8), wt.T.to(torch.int8))),
    "bits, the library": time_call(lambda: xnor.matmul(x_words, packed)),
    "the library from floats: sign, pack, multiply, scale": time_call(
        lambda: xnor.linear(x, packed, scale)
    ),
}
ours = race["bits, the library"].median
naive_ratio, blas_ratio = (
    race[n].median / ours for n in ("float, plain loop", "float, torch's BLAS")
)

# %%
fair.reveal(
    {(True, False): "a plain loop over floats", (False, True): "a good BLAS"}.get(
        (naive_ratio > 40, blas_ratio > 40), "both" if blas_ratio > 40 else "neither"
    )
)
claim(
    "The short loop gives the library's numbers",
    np.array_equal(xnor_matmul(x_words, w_words, SIDE), xnor.matmul(x_words, packed)),
)
claim(
    "Against a plain loop the bits win by more than 58 times",
    naive_ratio - 58,
    "times",
    timed=True,
)
claim(
    "Against a good BLAS they win by less than that, but they win",
    min(blas_ratio - 1, naive_ratio - blas_ratio),
    "times",
    timed=True,
)

# %%
Table(
    ["512 x 512 x 512 signs", "milliseconds", "times the library's bits"],
    [[name, f"{1e3 * t.median:.3f}", f"{t.median / ours:.1f}"] for name, t in race.items()],
    f"one thread, {instruction_set()}; int8 with the conversion from float",
)

# %% [markdown]
# So "58x" says little until the opponent is named. A count of instructions explains the rest: with 512-bit registers a
# processor does 16 float multiply-adds in an instruction, or 512 bit products in three (XOR, popcount, add).
# That is about a factor of ten against floats at the machine's peak. What you see above that is the float product falling short
# of its peak; what you see below it, our loop of its own.
#
# Small products lose even that: packing, and the call itself, cost more than they save. Where is break-even?

# %%
BATCH, SIZES = 64, (16, 32, 64, 128, 256, 512, 1024)
gains = []
for size in SIZES:
    inputs, layer = torch.randn(BATCH, size), nn.Linear(size, size, bias=False)
    packed = xnor.pack_weight(pack_signs(layer.weight.detach().numpy()), size)
    scale, rows = xnor.scales(packed), inputs.numpy()
    with torch.inference_mode():
        float_time = time_call(lambda: layer(inputs), repeats=51).median
    gains.append(
        float_time / time_call(lambda: xnor.linear(rows, packed, scale), repeats=51).median
    )
figure, axes = plt.subplots(figsize=(7, 3))
axes.loglog(SIZES, gains, "o-")
axes.set_xticks(SIZES, [str(size) for size in SIZES])
axes.minorticks_off()
axes.axhline(1, color="black", lw=1)
axes.text(SIZES[-1], 1.05, "break-even", ha="right", va="bottom")
axes.set(xlabel="inputs and outputs of the layer", ylabel="times faster than float")
plain_log_ticks(axes.yaxis)
axes.set_title(f"A binary linear layer, floats in and out, batch {BATCH}")
plt.show()
claim("A layer of 16 is faster in floats", 1 - gains[0], "times", timed=True)
claim("A layer of 1024 is faster in bits", gains[-1] - 1, "times", timed=True)

# %% [markdown]
# ## 2 · The best scale
#
# $W \approx \alpha\, s$ with $s = \text{sign}(W)$. Which $\alpha$? Minimise
#
# $$J(\alpha) = \lVert W - \alpha s\rVert^2 = W{\cdot}W - 2\alpha\, W{\cdot}s + \alpha^2 n
# \qquad J'(\alpha) = 0 \;\Rightarrow\; \alpha = \frac{W \cdot s}{n}$$
#
# ### Exercise 3 · The best scale for a row of signs (1 point, about 1 line)
#
# One scale for each output, that is for each `weight[n]`.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def best_scale_spec(weight):
#     out = np.zeros(len(weight), np.float32)
#     for n in range(len(weight)):
#         values = weight[n].ravel().tolist()
#         out[n] = sum(v * (1 if v >= 0 else -1) for v in values) / len(values)
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "binary-best_scale", "locked": false, "schema_version": 3, "solution": true, "task": false}
def best_scale(weight):
    """float32 [N, ...] -> float32 [N]."""
    ### BEGIN SOLUTION
    return np.abs(weight).reshape(len(weight), -1).mean(axis=1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "binary-best_scale-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(best_scale, "binary.best_scale")

# %%
best_scale = adopt(best_scale, "binary.best_scale")

# %%
normal = generator.normal(0, 1, (1, 100_000)).astype(np.float32)


def share_lost(scale, signs):
    """What part of the energy of the weights is lost."""
    return float(np.square(normal - scale * signs).sum() / np.square(normal).sum())


def draw_scale(scale):
    scales = np.linspace(0, 2, 101)
    figure, axes = plt.subplots(figsize=(7, 3))
    axes.plot(scales, [100 * share_lost(s, np.sign(normal)) for s in scales])
    axes.plot(scale, 100 * share_lost(scale, np.sign(normal)), "o", ms=9, label="the slider")
    axes.axvline(float(best_scale(normal)[0]), color="#009E73", ls="--", label="mean |W|")
    axes.set(xlabel="scale α", ylabel="energy lost, %", title="Normal weights, one bit each")
    axes.legend()


# %%
explore(draw_scale, scale=(0.0, 2.0, 0.05))
one_bit = share_lost(float(best_scale(normal)[0]), np.sign(normal))
ternary_signs, ternary_scale = (t.numpy() for t in ternarize(torch.from_numpy(normal)))
three_values = share_lost(float(ternary_scale[0]), ternary_signs)
print(f"energy lost: one bit {100 * one_bit:.1f} %, three values {100 * three_values:.1f} %")
claim(
    "One bit loses 1 - 2/π of the energy of normal weights, a third or so",
    0.01 - abs(one_bit - (1 - 2 / math.pi)),
    "of the energy",
)
claim(
    "A third value, 0, halves the loss or nearly (ternary weights, 三值)",
    0.6 * one_bit - three_values,
    "of the energy",
)

# %% [markdown]
# If weights are roughly normal, a third of the energy (the sum of squares) is gone. Such weights must be *trained* to be good.
#
# ## 3 · Training what has no gradient
#
# The sign is a staircase with one step; its derivative is 0. As in lab 03 the straight-through estimator pretends
# the slope is 1, and here it must stop where $|x| > 1$ (clipped STE; Hubara et al. 2016).
#
# ### Exercise 4 · A sign that can be trained (2 points, about 2 lines)
#
# Value and gradient are both checked. `clamp` has the gradient you want, and `detach()` makes a constant.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def binary_sign_spec(x):
#     class Slow(torch.autograd.Function):
#         @staticmethod
#         def forward(ctx, x):
#             ctx.save_for_backward(x)
#             return torch.tensor(
#                 [1.0 if v >= 0 else -1.0 for v in x.flatten()]
#             ).reshape(x.shape)
#
#         @staticmethod
#         def backward(ctx, grad):
#             return grad * (ctx.saved_tensors[0].abs() <= 1)
#
#     return Slow.apply(x)
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "binary-binary_sign", "locked": false, "schema_version": 3, "solution": true, "task": false}
def binary_sign(x):
    """float32 tensor -> -1.0 or +1.0 of its shape, differentiable straight through."""
    ### BEGIN SOLUTION
    slope = x.clamp(-1, 1)
    return slope + (torch.where(x >= 0, 1.0, -1.0) - slope).detach()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "binary-binary_sign-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(binary_sign, "binary.binary_sign")

# %%
binary_sign = adopt(binary_sign, "binary.binary_sign")

# %% [markdown]
# BinaryConnect (Courbariaux et al. 2015) trains with two copies of a weight: the sign, used forward and backward, and a
# real number, which takes the step and remembers it. The real one is clipped to $[-1, 1]$ *after* the step.
#
# ### Exercise 5 · A step of BinaryConnect (1 point, about 1 line)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def connect_step_spec(weight, gradient, lr):
#     out = weight.clone()
#     for i in range(weight.numel()):
#         moved = weight.view(-1)[i] - lr * gradient.view(-1)[i]
#         out.view(-1)[i] = max(-1.0, min(1.0, float(moved)))
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "binary-connect_step", "locked": false, "schema_version": 3, "solution": true, "task": false}
def connect_step(weight, gradient, lr):
    """Real weights, the gradient that reached their signs, the learning rate
    -> new real weights."""
    ### BEGIN SOLUTION
    return (weight - lr * gradient).clamp(-1, 1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "binary-connect_step-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(connect_step, "binary.connect_step")

# %%
connect_step = adopt(connect_step, "binary.connect_step")

# %% [markdown]
# Your two functions train a classifier with 640 one-bit weights. The control keeps no real weights: its signs
# take the step themselves, and are signs again. A step below 1 cannot turn a sign, so the control also gets larger rates.

# %%
digits = load("digits", seed=SEEDS[0])
pixels = digits.train.x.flatten(1)


def train_bits(step, steps=150, lr=0.05):
    real = torch.rand(10, 64, generator=torch.Generator().manual_seed(SEEDS[0])) * 2 - 1
    accuracies = []
    for _ in range(steps):
        real.requires_grad_(True)
        # 0.5 and 20 set how far apart the logits are and how fast it learns; any values near
        # do.
        loss = F.cross_entropy(0.5 * pixels @ binary_sign(real).T, digits.train.y)
        (gradient,) = torch.autograd.grad(loss, real)
        real = step(real.detach(), 20 * gradient, lr)
        guesses = (digits.test.x.flatten(1) @ binary_sign(real).T).argmax(1)
        accuracies.append(100 * float((guesses == digits.test.y).float().mean()))
    return accuracies


def signs_step(real, gradient, lr):
    """The control: the sign itself moves, and is a sign again."""
    return binary_sign(binary_sign(real) - lr * gradient).detach()


# %%
with_memory = train_bits(connect_step)
without = {rate: train_bits(signs_step, lr=rate) for rate in (0.05, 0.5, 2.5, 5.0)}
best_rate = max(without, key=lambda rate: without[rate][-1])
figure, axes = plt.subplots(figsize=(9.5, 3))
axes.plot(with_memory, label="real weights remember (BinaryConnect)")
axes.plot(without[best_rate], "--", label=f"signs only, best of four rates ({best_rate})")
axes.plot(without[0.05], ":", label="signs only, BinaryConnect's rate")
axes.set(xlabel="step", ylabel="test accuracy, %", ylim=(0, 100), title="Digits, 640 bits")
axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
claim("640 bits tell more than half of the digits apart", with_memory[-1] - 50, "points")
claim(
    "At the same rate signs alone learn nothing: hardly a step is large enough to turn one",
    5 - abs(without[0.05][-1] - without[0.05][0]),
    "points",
)
print(
    f"One seed: with memory {with_memory[-1]:.1f} %, signs only at the best of four rates "
    f"{without[best_rate][-1]:.1f} %"
)

# %% [markdown]
# ## 4 · Networks of bits
#
# Now the convolutional network of the earlier labs, on the course's generated letters (glyphs). `BINARY_CONNECT` below means sign(W)
# alone, `BINARY_WEIGHTS` sign(W) times $\alpha$, and `ClipWeights` is the clipping of exercise 5. **BinaryConnect**: the weights of all inner layers are bits,
# activations stay float. **XNOR-Net** (Rastegari et al. 2016): activations too, so that the kernel of section 1 does the
# work. Its blocks have another order, *batch norm → sign → convolution → pooling*: the norm centres what the
# sign will cut. The first layer (one input channel) and the last (26 outputs) stay float.

# %%
guess = predict(
    "Weights of one bit, then activations too: how much accuracy does each cost?",
    ["each under 3 points", "weights under 3, both more than 3", "each more than 3"],
)

# %%
data = load(size=16, train_size=4_000, seed=SEEDS[0])
EPOCHS, WIDTHS = 6, (32, 64, 128)
FLOAT_RATE, BINARY_RATE = (
    0.005,
    0.02,
)  # of Adam; the float network gets its best recipe, SGD at 0.2


# %%
def float_network():
    return models.VGGLike(data.shape, len(data.classes), WIDTHS)


def xnor_network(config=XNOR, **options):
    return XnorNet(data.shape, len(data.classes), WIDTHS, config, **options)


def fitted(make, rate, epochs, label, hooks=None, examples=data.train):
    """The same network from every seed, by Adam."""
    return fit_all(
        built(make, SEEDS),
        *(examples, epochs, rate),
        seeds=SEEDS,
        label=label,
        hooks=hooks,
        optimizer=lambda n: torch.optim.Adam(n.parameters(), rate),
    )


def on_test(networks):
    return accuracy(networks, data.test)


float_networks = trained("vgg-wider", data, SEEDS)

# %%
connected = fitted(
    lambda: binarize(float_network(), BINARY_CONNECT),
    BINARY_RATE,
    EPOCHS,
    "BinaryConnect",
    lambda _: [ClipWeights()],
)

# %%
xnor_networks = fitted(xnor_network, BINARY_RATE, EPOCHS, "XNOR-Net")
glyphs = {
    "float": on_test(float_networks),
    "BinaryConnect": on_test(connected),
    "XNOR-Net": on_test(xnor_networks),
}
weights_cost = glyphs["float"][0] - glyphs["BinaryConnect"][0]
both_cost = glyphs["float"][0] - glyphs["XNOR-Net"][0]

# %%
guess.reveal(
    "each more than 3"
    if weights_cost > 3
    else "each under 3 points"
    if both_cost < 3
    else "weights under 3, both more than 3"
)
claim("One-bit weights cost less than two points", 2 - weights_cost, "points")
claim("One-bit weights and activations cost less than 5 points", 5 - both_cost, "points")

# %%
Table(
    ["network", "bits of a weight", "bits of an activation", "test accuracy, %"],
    [
        [name, bits, activation, mean_sd(*glyphs[name])]
        for name, bits, activation in (
            ("float", "32", "32"),
            ("BinaryConnect", "1", "32"),
            ("XNOR-Net", "1", "1"),
        )
    ],
    f"glyphs, {EPOCHS} epochs, {len(SEEDS)} seeds; first and last layer float",
)

# %% [markdown]
# ### What of it matters?
#
# A third of the epochs, one change at a time, always three seeds: a quarter of the learning rate, no scale $\alpha$, the
# paper's second scale, the map $\mathcal{K}$ (the mean magnitude of the inputs under the window), and the first and last layer binary
# like the rest. Beside it the float network with both learning rates, all with Adam.

# %%
culprit = predict(
    "Which change hurts most?",
    ["a quarter of the learning rate", "no α", "binary first and last layers"],
)

# %%
SHORT = EPOCHS // 3
controls = {
    "XNOR-Net": on_test(fitted(xnor_network, BINARY_RATE, SHORT, "XNOR-Net")),
    "a quarter of the learning rate": on_test(
        fitted(xnor_network, FLOAT_RATE, SHORT, "smaller rate")
    ),
    "no α": on_test(
        fitted(lambda: xnor_network(BinaryConfig(alpha=False)), BINARY_RATE, SHORT, "no α")
    ),
    "α and the map": on_test(
        fitted(
            lambda: xnor_network(BinaryConfig(positions=True)),
            BINARY_RATE,
            SHORT,
            "α and the map",
        )
    ),
    "binary first and last layers": on_test(
        fitted(lambda: xnor_network(binary_edges=True), BINARY_RATE, SHORT, "binary edges")
    ),
}
float_rates = {
    rate: on_test(fitted(float_network, rate, SHORT, f"float, Adam {rate}"))
    for rate in (FLOAT_RATE, BINARY_RATE)
}
base = controls["XNOR-Net"][0]
losses = {name: base - mean for name, (mean, _) in controls.items()}

# %%
culprit.reveal(max(culprit.choices, key=losses.get))
claim(
    "Three times the epochs bring XNOR-Net more than a point nearer",
    glyphs["XNOR-Net"][0] - base - 1,
    "points",
)
claim(
    "A quarter of the learning rate costs XNOR-Net more than 3 points",
    losses["a quarter of the learning rate"] - 3,
    "points",
)

# %%
claim(
    "A quarter of the learning rate costs the float network less than it costs XNOR-Net",
    losses["a quarter of the learning rate"]
    - (float_rates[BINARY_RATE][0] - float_rates[FLOAT_RATE][0]),
    "points",
)
claim(
    "Binary first and last layers cost more than 5 points",
    losses["binary first and last layers"] - 5,
    "points",
)
claim(
    "Leaving out α or adding the map moves the result by less than half of what the learning "
    "rate does",
    losses["a quarter of the learning rate"] / 2
    - max(abs(losses["no α"]), abs(losses["α and the map"])),
    "points",
)
Table(
    ["change", "test accuracy, %", "against XNOR-Net"],
    [
        [name, mean_sd(*controls[name]), f"{-losses[name]:+.1f}" if losses[name] else ""]
        for name in controls
    ]
    + [[f"float, Adam at {rate}", mean_sd(*float_rates[rate]), ""] for rate in float_rates],
    f"{SHORT} epochs, {len(SEEDS)} seeds; XNOR-Net with Adam at {BINARY_RATE}",
)

# %% [markdown]
# A bit turns only when its real weight crosses 0: small steps take long to get there, which is why the rate matters. As for
# $\alpha$: every binary layer here stands before a batch norm, whose own scale is trained, so $\alpha$ is one number too
# many. (The map differs from place to place, so a norm cannot replace it; here it matters little. The paper's table 3a asks
# another question, a computed scale against a learned one, and finds ten points on
# ImageNet.) An ablation belongs to its network.
#
# ### Why train at all?
#
# What if a trained float network is binarized afterwards? Its weights change by a third of their energy or so, and the
# batch norms' statistics no longer hold. Those can be re-estimated from images without labels.

# %%
afterwards = [binarize(network, BINARY_WEIGHTS) for network in float_networks]
collapsed = on_test(afterwards)
mended = on_test([reestimated(network, data.train.x, 500) for network in afterwards])
both = on_test([reestimated(binarize(n, XNOR), data.train.x, 500) for n in float_networks])
lost, regained = glyphs["float"][0] - collapsed[0], mended[0] - collapsed[0]
claim("Binarized after training, the network loses more than 10 points", lost - 10, "points")
claim(
    "New batch-norm statistics alone bring back more than half of that",
    regained / lost - 0.5,
    "of the loss",
)
claim(
    "With binary activations new statistics do not help: behind a ReLU, which is never "
    "negative, all signs are +1",
    20 - both[0],
    "points",
)
Table(
    ["binarized after training", "test accuracy, %"],
    [
        ["float", mean_sd(*glyphs["float"])],
        ["weights", mean_sd(*collapsed)],
        ["weights, norms re-estimated", mean_sd(*mended)],
        ["weights and activations, norms re-estimated", mean_sd(*both)],
        ["weights, trained so (BinaryConnect)", mean_sd(*glyphs["BinaryConnect"])],
    ],
)

# %% [markdown]
# ## 5 · No float in between
#
# Between two binary convolutions stand a pooling, a batch norm and a sign. All of them are monotone in the integer
# dot product $d$, so their result is a comparison:
#
# $$\text{sign}\!\left(\gamma\,\frac{\alpha d - \mu}{\sigma} + \beta\right) = +1 \iff
# \begin{cases} d \ge b & \gamma > 0\\ d \le b & \gamma < 0\end{cases}\qquad b = \frac{\mu - \beta\sigma/\gamma}{\alpha}$$
#
# $d$ is whole, so $b$ becomes a whole threshold $t$. One comparison must do, so the second case is written as
# *not* ($d \ge t$): `flip` says where.
#
# ### Exercise 6 · A batch norm and a sign in one comparison (3 points, about 5 lines)
#
# `deviation` is $\sigma$; no gain is 0, $\alpha > 0$, and every border lies within $\pm K$. `count` is $K$, the number of
# products: the spec needs it, you do not.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def sign_threshold_spec(alpha, gain, shift, mean, deviation, count):
#     first, flip = np.zeros(len(alpha), np.int64), np.zeros(len(alpha), bool)
#     for n in range(len(alpha)):
#         signs = [
#             gain[n] * (alpha[n] * d - mean[n]) / deviation[n] + shift[n] >= 0
#             for d in range(-count, count + 1)
#         ]
#         flip[n] = signs[
#             0
#         ]  # +1 for the lowest dot product: the gain is negative
#         first[n] = signs.index(not flip[n]) - count
#     return first, flip
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "binary-sign_threshold", "locked": false, "schema_version": 3, "solution": true, "task": false}
def sign_threshold(alpha, gain, shift, mean, deviation, count):
    """Five float64 [N], int
    -> (int64 [N] thresholds, bool [N] flips): +1 where (d >= t) != flip."""
    ### BEGIN SOLUTION
    border = (mean - shift * deviation / gain) / alpha
    flip = gain < 0
    first = np.where(flip, np.floor(border) + 1, np.ceil(border))
    return first.astype(np.int64), flip
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "binary-sign_threshold-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(sign_threshold, "binary.sign_threshold")

# %%
sign_threshold = adopt(sign_threshold, "binary.sign_threshold")

# %% [markdown]
# `convert_xnor` does this to a whole network: bits from the first sign to the last binary layer. Max pooling of
# comparisons is a logical *or*, with the flip after it. Your thresholds against the library's, for the network you just trained, with
# every third channel of a norm turned round (its gain negated), so that `flip` has work:

# %%
turned = copy.deepcopy(xnor_networks[0])
turned[5].weight.data[::3] *= -1
layer = next(step for step in convert_xnor(turned).layers if step.kind == "xnor_conv2d_signs")
norm = turned[5]
numbers = (
    best_scale(turned[3].weight.detach().numpy()),
    norm.weight,
    norm.bias,
    norm.running_mean,
)
numbers = [
    np.asarray(v.detach() if isinstance(v, torch.Tensor) else v, np.float64) for v in numbers
]
deviation = np.sqrt(norm.running_var.double().numpy() + norm.eps)
reach = 9 * WIDTHS[0]
thresholds, flips = sign_threshold(*numbers, deviation, reach)

# %%
claim("A third of the comparisons are turned round", bool(flips[::3].all()))
claim(
    "The thresholds are the library's",
    np.array_equal(thresholds.clip(-reach, reach + 1), layer.at_least.numpy())
    and np.array_equal(flips, layer.flip),
)
network = xnor_networks[0]
program = convert_xnor(network)
simulated, on_bits = logits(network, data.test.x), logits(program, data.test.x)
claim(
    "On bits, every prediction of the test set is the simulation's",
    torch.equal(simulated.argmax(1), on_bits.argmax(1)),
)
claim(
    "On bits, the logits agree with the simulation's to 1e-4",
    agreement(on_bits, simulated, atol=1e-4),
    "tolerances",
)

# %%
with tempfile.TemporaryDirectory() as folder:
    xnor_bytes = storage.save(program, Path(folder) / "xnor.safetensors")
float_bytes = disk_bytes(float_networks[0])
binary_weights = sum(
    layer.packed.inputs * layer.packed.outputs
    for layer in program.layers
    if hasattr(layer, "packed")
)
claim("The whole file is more than 8 times smaller", float_bytes > 8 * xnor_bytes)
claim("The whole file is not 32 times smaller", float_bytes < 32 * xnor_bytes)
Table(
    ["", "float", "XNOR-Net", "ratio"],
    [
        [
            "the two binary layers",
            in_bytes(4 * binary_weights),
            in_bytes(binary_weights / 8),
            "32.0",
        ],
        [
            "the whole file",
            in_bytes(float_bytes),
            in_bytes(xnor_bytes),
            f"{float_bytes / xnor_bytes:.1f}",
        ],
    ],
    "the rest: float edges, thresholds, scales, and the file's list of steps",
)

# %%
quicker = predict(
    "End to end at batch 64, how much faster than the float network in its best layout is the "
    "one on bits?",
    ["less than 1.5 times", "1.5 to 10 times", "more than 10 times"],
)

# %%
plain_network = float_network().eval()
plain_network.load_state_dict(float_networks[0].state_dict())


def network_time(network, batch, layout=torch.contiguous_format):
    inputs = data.test.x[:batch].contiguous(memory_format=layout)
    with torch.inference_mode():
        return time_call(lambda: network(inputs), repeats=31).median


times = {
    batch: {
        "float": network_time(plain_network, batch),
        "float, channels last": network_time(float_networks[0], batch, torch.channels_last),
        "on bits": network_time(program, batch),
    }
    for batch in (1, 64)
}
best_float = min(times[64]["float"], times[64]["float, channels last"])
end_to_end = best_float / times[64]["on bits"]

# %%
quicker.reveal(
    "less than 1.5 times"
    if end_to_end < 1.5
    else "1.5 to 10 times"
    if end_to_end <= 10
    else "more than 10 times"
)
claim(
    "At batch 64 the network on bits is faster than the float one in its best layout",
    end_to_end - 1,
    "times",
    timed=True,
)

# %%
Table(
    ["network", "batch 1, ms", "batch 64, ms", "times faster than the best float at 64"],
    [
        [
            name,
            f"{1e3 * times[1][name]:.2f}",
            f"{1e3 * times[64][name]:.2f}",
            f"{best_float / times[64][name]:.1f}",
        ]
        for name in times[1]
    ],
    f"one thread, {instruction_set()}; glyphs 16x16, channels {WIDTHS}",
)


# %%
def step_times(layers, inputs):
    """(name, milliseconds) of each layer on what the one before it gives."""
    found, value = [], inputs
    with torch.inference_mode():
        for name, layer in layers:
            found.append((name, 1e3 * time_call(lambda: layer(value), repeats=15).median))
            value = layer(value)
    return found


# %%
inputs = data.test.x[:64]
leaves = [m for m in float_networks[0].modules() if not list(m.children())]
as_float = step_times(
    [(type(m).__name__, m) for m in leaves],
    inputs.contiguous(memory_format=torch.channels_last),
)
as_program = step_times([(m.kind, m) for m in program.layers], inputs)
figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), sharex=True)
for axes, steps, title in zip(
    panels, (as_float, as_program), ("float, channels last", "on bits")
):
    colours = [
        "#0072B2" if "xnor" in name or "signs" in name else "#D55E00" for name, _ in steps
    ]
    axes.barh(
        [f"{i} {name}" for i, (name, _) in enumerate(steps)],
        [t for _, t in steps],
        color=colours,
    )
    axes.invert_yaxis()
    axes.set(
        xlabel="milliseconds at batch 64", title=f"{title}: {sum(t for _, t in steps):.2f} ms"
    )
figure.suptitle(
    "Step by step (blue: on bits, orange: float); each alone, its data still in the cache"
)
plt.show()

# %%
edges = sum(t for name, t in as_program if name.startswith("float")) / sum(
    t for _, t in as_program
)
inner_float = sum(t for name, t in as_float if name == "Conv2d") - as_float[0][1]
inner_bits = sum(t for name, t in as_program if name.startswith("xnor"))
claim(
    "The steps that stay float (first and last layer, pools, norm) take a quarter of the time "
    "or more",
    edges - 0.25,
    "of the time",
    timed=True,
)
claim(
    "The two binary convolutions alone are more than 1.5 times faster than the float ones",
    inner_float / inner_bits - 1.5,
    "times",
    timed=True,
)
print(
    f"Float steps: {100 * edges:.0f} % of the time, {100 * (1 - edges):.0f} % on bits; "
    f"inner convolutions {inner_float / inner_bits:.1f} times faster"
)

# %% [markdown]
# This is Amdahl's law: were the bits free, the float steps would still be there. (`take_signs` is blue and reads floats, too.)
#
# ## 6 · Which tasks lose what
#
# The same three on digits of 8x8 pixels, with half the channels:


# %%
def on_digits(make, rate, hooks=None):
    found = fitted(make, rate, 8, "digits", hooks, digits.train)
    return accuracy(found, digits.test)


def small_float():
    return models.VGGLike(digits.shape, 10, (16, 32, 64))


# %%
easy = {
    "float": on_digits(small_float, BINARY_RATE),
    "BinaryConnect": on_digits(
        lambda: binarize(small_float(), BINARY_CONNECT), BINARY_RATE, lambda _: [ClipWeights()]
    ),
    "XNOR-Net": on_digits(lambda: XnorNet(digits.shape, 10, (16, 32, 64)), BINARY_RATE),
}
claim(
    "One-bit weights cost less than 3 points on either task",
    3 - max(easy["float"][0] - easy["BinaryConnect"][0], weights_cost),
    "points",
)
claim(
    "One-bit activations cost the narrow network on digits at most a point less than the wide "
    "one on glyphs",
    easy["float"][0] - easy["XNOR-Net"][0] - both_cost + 1,
    "points",
)
Table(
    ["network", "digits 8x8, %", "glyphs 16x16, %"],
    [[name, mean_sd(*easy[name]), mean_sd(*glyphs[name])] for name in easy],
    f"{len(SEEDS)} seeds; on digits half the channels and 8 short epochs",
)

# %% [markdown]
# Task, width and epochs differ here, so this does not say which it is. Try `(32, 64, 128)` on digits: do more channels make both
# networks better, or does the gap shrink, too?

# %% [markdown]
# ## Build it · XNOR's layer, whole
#
# ### Exercise 7 · XNOR's layer, from packing to output (build, 16 points, about 15 lines)
#
# Rastegari et al. 2016, section 3.2, for a linear layer: $y_{mn} = \beta_m\,\alpha_n\,(\operatorname{sign}x_m\cdot\operatorname{sign}w_n)$, where $\alpha_n$ and
# $\beta_m$ are the mean absolute values of the rows. `xnor_layer(weight)` hands back what is stored and a function.
#
# 1. *What is stored*: words uint64 [outputs, ceil(inputs / 64)], a 1 where the weight is at least 0, input k in bit k % 64 of its word, unused bits 0; and
#    $\alpha$, float32 [outputs].
# 2. *Inputs of +1 and -1*: `run(x)` from float32 [rows, inputs] to float32 [rows, outputs], from the words alone. `np.bitwise_count` counts ones (NumPy 2).
# 3. *Any inputs*: with $\beta$ for each row.


# %% nbgrader={"grade": false, "grade_id": "binary-xnor_layer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def xnor_layer(weight):
    """float32 [outputs, inputs] -> (words uint64, alpha float32 [outputs], run)."""
    ### BEGIN SOLUTION
    inputs = weight.shape[1]

    def packed(x):
        bits = np.zeros((len(x), -(-inputs // 64) * 64), bool)
        bits[:, :inputs] = x >= 0
        return np.packbits(bits, axis=1, bitorder="little").view(np.uint64)

    words = packed(weight)
    alpha = np.abs(weight).mean(axis=1).astype(np.float32)

    def run(x):
        differ = np.bitwise_count(packed(x)[:, None] ^ words[None]).sum(axis=2, dtype=np.int64)
        beta = np.abs(x).mean(axis=1, keepdims=True)
        return (beta * alpha * (inputs - 2 * differ)).astype(np.float32)

    return words, alpha, run
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "binary-xnor_layer-check", "locked": true, "points": 16, "schema_version": 3, "solution": false, "task": false}
check(xnor_layer, "binary.xnor_layer")

# %%
xnor_layer = adopt(xnor_layer, "binary.xnor_layer")

# %%
generator = np.random.default_rng(SEEDS[0])
real = generator.normal(0, 1, (300, 784)).astype(np.float32)
words, alpha, run = xnor_layer(real)
images = generator.normal(0, 1, (64, 784)).astype(np.float32)
exact = images @ real.T
left = np.square(run(images) - exact).sum() / np.square(exact).sum()
print(
    f"{real.nbytes:,} bytes of weights are {words.nbytes + alpha.nbytes:,} now: "
    f"{real.nbytes / (words.nbytes + alpha.nbytes):.0f} times fewer"
)
claim(
    "Random weights and inputs as signs lose more than half of a layer's output energy",
    left - 0.5,
    "of the energy",
)

# %% [markdown]
# ### Exercise 8 · A network of signs (open, 12 points, about 40 lines)
#
# An *open* exercise has no right answer: what you choose is measured, here and again while grading, on numbers that your code does not see. A trained perceptron is to become one of
# signs, the first and the last layer included: $z = s \odot (B x) + b$ with signs $B$ and a scale and a bias for each row; behind a hidden layer stands the sign of $z$. Training is
# allowed, in 20 seconds of processor time, with torch; the library is not there while grading. Bronze is above the best network that was not trained, gold is what training through the
# signs reached.
#
# You are given weights and biases of the float network, 4,000 training images [n, 256] and labels. Hand back a layer each: signs int8 (-1 and 1), scales and bias float32.


# %% nbgrader={"grade": false, "grade_id": "binary-sign_network", "locked": false, "schema_version": 3, "solution": true, "task": false}
def sign_network(weights, biases, images, labels):
    """Tuples of float32 arrays, images, labels -> for each layer (signs, scales, bias)."""

    ### BEGIN SOLUTION
    class Sign(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return torch.where(x < 0, -1.0, 1.0)

        @staticmethod
        def backward(context, gradient):
            (x,) = context.saved_tensors
            return gradient * (x.abs() <= 1)

    ws = [torch.tensor(0.3 * w / np.abs(w).mean(1, keepdims=True)) for w in weights]
    norms = [torch.nn.BatchNorm1d(len(w)) for w in ws]
    learned = [*(w.requires_grad_() for w in ws), *(p for n in norms for p in n.parameters())]
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer, steps = torch.optim.Adam(learned, 1.5e-2), 15 * (len(x) // 100)
    for step in range(steps):
        if step % (len(x) // 100) == 0:
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(step)).split(
                100
            )
        batch = order[step % (len(x) // 100)]
        optimizer.param_groups[0]["lr"] = 1.5e-2 * (1 - step / steps)
        h = x[batch]
        for i, (w, norm) in enumerate(zip(ws, norms, strict=True)):
            h = norm((Sign.apply(h) if i else h) @ Sign.apply(w).T)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(h, y[batch]).backward()
        optimizer.step()
    found, h = [], x
    with torch.no_grad():
        for w, norm in zip(ws, norms, strict=True):
            signs = torch.where(w < 0, -1.0, 1.0)
            z = h @ signs.T
            scale = norm.weight / (z.var(0) + norm.eps).sqrt()
            bias = norm.bias - z.mean(0) * scale
            found.append((signs.numpy().astype(np.int8), scale.numpy(), bias.numpy()))
            h = torch.where(z * scale + bias < 0, -1.0, 1.0)
    return tuple(found)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "binary-sign_network-check", "locked": true, "points": 12, "schema_version": 3, "solution": false, "task": false}
check(sign_network, "binary.sign_network")

# %%
sign_network = adopt(sign_network, "binary.sign_network")

# %% [markdown]
# ## The fourth need: energy
#
# Energy (能耗) is estimated: every multiplication and addition at its price in a 45 nm process (Horowitz 2014), and every byte of the file read once from memory, which costs as much as hundreds of additions. What stays in floats at the ends has most of it.

# %%
import compresslab as cl

in_floats = cl.measure(float_networks, data, "float32")
xnor_row = cl.measure(xnor_networks, data, "on bits")
claim(
    "By the estimate the network on bits takes less than an eighth of the float one's energy",
    1 / 8 - xnor_row.energy / in_floats.energy,
    "of the energy",
)
cl.table(
    in_floats,
    cl.measure([copy.deepcopy(n).half() for n in float_networks], data, "float16, a cast"),
    cl.measure([copy.deepcopy(n).bfloat16() for n in float_networks], data, "bfloat16, a cast"),
    xnor_row,
)

# %%
drawn = {
    name: cl.measure.joules(lambda: run(data.test.x[:64]))
    for name, run in (("float32", float_networks[0]), ("on bits", xnor_networks[0]))
}
print(
    "Joules by the processor's own counters: this machine does not let them be read."
    if None in drawn.values()
    else "By the processor's own counters, µJ an image (the whole socket, idling included): "
    + ", ".join(f"{name} {1e6 * spent / 64:.0f}" for name, spent in drawn.items())
)

# %% [markdown]
# ## Longer than a lab · Words, spoken and written
#
# What follows takes minutes for each seed: it was run over several seeds, and its rows are kept beside the code (`compresslab/longer/spoken_words.py`). With `COMPRESSLAB_LONGER=1` in the environment a cell runs one seed here as well; `compresslab longer spoken_words` runs them all anew.
#
# Binary networks are named for speech on small devices. No recording may be carried along, so the words are made from vowels' formants (Peterson and Barney 1952) and noise, by voices of many pitches; the test voices are lower and higher than those of training.

# %%
from compresslab.longer import show_longer

show_longer("spoken_words")

# %% [markdown]
# And a Transformer on bits? Its linear layers become signs, first the weights, then the activations as well.

# %%
show_longer("binary_transformer")

# %% [markdown]
# ## What the papers say, what we measured
#
# The networks, data and machines of the papers are others than ours: compare directions and sizes, not digits.

# %%
papers = [
    [
        "XNOR convolution, times faster than float",
        "Rastegari et al. 2016, section 4.1",
        "58 (on one CPU)",
        f"{naive_ratio:.0f} (plain loop), {blas_ratio:.1f} (BLAS), products of {SIDE}",
    ],
    [
        "smaller weights",
        "Rastegari et al. 2016, section 4.1",
        "about 32",
        f"32 a layer, {float_bytes / xnor_bytes:.1f} the file",
    ],
    [
        "points lost, weights (negative: gained)",
        "Rastegari et al. 2016, table 1 (AlexNet, BWN)",
        "-0.2",
        f"{weights_cost:.1f}",
    ],
]

# %%
Table(
    ["finding", "source", "paper", "here"],
    [
        *papers,
        [
            "points lost, weights and activations",
            "Rastegari et al. 2016, table 1 (AlexNet)",
            "12.4",
            f"{both_cost:.1f}",
        ],
        [
            "points lost without the computed α",
            "Rastegari et al. 2016, table 3a (a learned scale instead)",
            "10.6",
            f"{losses['no α']:.1f}",
        ],
    ],
    text_columns=2,
)

# %% [markdown] nbgrader={"grade": true, "grade_id": "written-binary_written", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# ## Written question (2 points)
#
# A colleague wants to binarize a network for a microcontroller without a popcount instruction, with 64 KB of flash and
# layers of 24 channels. Name two things from this lab that speak for it, two against, and what you would
# measure first.
#
# *Your answer (double-click here to write it):*

# %% [markdown]
# ## Recap
#
# - A dot product of signs is $K - 2\,\text{popcount}(a \oplus b)$; batch norm and sign fold into a whole-number threshold.
# - Real weights remember small steps; the learning rate matters more than the scale in front of a batch norm.
# - Say *than what* you are faster: a plain loop, a good BLAS (a library of matrix products in floats), or the whole network with its float edges.
#
# **Do not use it** for small layers (break-even above), for a first or last layer, or where 8 bits are fast enough: compare with the int8 row of the race on your processor.
#
# **Back:** [Lab 09 · Distilling transformers](09_distilling_transformers.ipynb) · **Next:** [Lab 11 · The weights of a language model](11_llm_weights.ipynb)
#
# **References.** Courbariaux et al. 2015, *BinaryConnect*, arXiv:1511.00363 · Hubara et al. 2016, *Binarized neural
# networks*, arXiv:1602.02830 · Rastegari et al. 2016, *XNOR-Net*, arXiv:1603.05279 · Li et al. 2016, *Ternary weight
# networks*, arXiv:1605.04711
