# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Lab 01 · Numbers
#
# **You will** take floats apart, lay real numbers onto integer grids, measure what that costs, and pack the
# result into a file that is really smaller.
# **Time:** 95 minutes to work through; it runs in half a minute.
#
# Quantization (量化) replaces real numbers by codes from a small set of integers. Everything in labs 02, 03,
# 10 and 11 rests on the five lines of arithmetic that you write here.

# %%
import copy
import math
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from numba import njit

# %%
from safetensors.torch import load_file, save_file
from sklearn.cluster import MiniBatchKMeans
from torch import nn

from compresslab.classroom.live import click_bits, click_codes, drag_grid
from compresslab.lab import (
    Table,
    adopt,
    begin,
    check,
    claim,
    compared,
    evaluate,
    explore,
    fair_time,
    in_bytes,
    load,
    mean_and_sd,
    mean_sd,
    plain_log_ticks,
    predict,
    side_by_side,
    trained,
    use_style,
)
from compresslab.numerics import affine, error, formats
from compresslab.numerics.grid import IntGrid

use_style()
SEEDS = begin()

# %% [markdown]
# ## A hook: when 1 does not count
#
# In three formats, 1 is added to a total again and again, until the total no longer changes.

# %%
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    total, steps = torch.tensor(0, dtype=dtype), 0
    while steps < 5000 and total + 1 != total:
        total, steps = total + 1, steps + 1
    print(
        f"{dtype!s:>16}: counting up by ones stops at {int(total)}"
        + " (we stopped)" * (steps == 5000)
    )

# %% [markdown]
# Nothing overflowed: between two neighbouring numbers of a 16-bit format there is simply no room for $+1$
# any more. So where are the numbers of a format?
#
# ## 1 · Floating point: range against spacing
#
# A floating-point number (浮点数) is $\pm 1.m \cdot 2^e$. The exponent (指数) bits set the *range*; the $p$ mantissa
# (尾数) bits set the *spacing*: between $2^e$ and $2^{e+1}$ there are $2^p$ numbers, $2^{e-p}$ apart. Below the
# smallest normal number the spacing stays as it is there, down to 0 (subnormals 次正规数).

# %%
Table(
    ["format", "bits", "exponent", "mantissa", "largest", "smallest normal", "next after 1"],
    [
        [
            f.name,
            str(f.bits),
            str(f.exponent),
            str(f.mantissa),
            f"{f.largest:.6g}",
            f"{f.smallest_normal:.3g}",
            f"1 + {2.0**-f.mantissa:.3g}",
        ]
        for f in formats.FORMATS.values()
    ],
)

# %%
wide = predict(
    "fp16 and bf16 both take 16 bits. Which one holds the number 100,000, and which one is "
    "finer around 1?",
    [
        "bf16 holds it, fp16 is finer",
        "fp16 holds it, bf16 is finer",
        "both hold it, fp16 is finer",
    ],
)

# %%
x = torch.logspace(-9, 6, 2000, dtype=torch.float64)
figure, axes = plt.subplots()
for form in formats.FORMATS.values():
    inside = x[(x <= form.largest) & (x >= 2.0 ** (form.smallest_exponent - form.mantissa))]
    axes.loglog(inside, formats.spacing(inside, form), label=form.name)
axes.loglog(x[x <= 1], torch.full((int((x <= 1).sum()),), 1 / 127), "--", label="int8 on -1..1")
axes.set(
    xlabel="|x|",
    ylabel="distance to the next number",
    title="Floats: relative spacing. Integers: absolute",
)
axes.legend()
plt.show()
holds = {
    f.name: math.isfinite(float(formats.cast(torch.tensor(1e5), f)))
    for f in formats.FORMATS.values()
}
finer = formats.FP16.mantissa > formats.BF16.mantissa

# %%
wide.reveal(
    "bf16 holds it, fp16 is finer"
    if holds["bf16"] and not holds["fp16"] and finer
    else "both hold it, fp16 is finer"
)
claim("100,000 overflows fp16 and not bf16", holds["bf16"] and not holds["fp16"])
claim(
    "Around 1, fp16 is eight times as fine as bf16",
    float(
        formats.spacing(torch.tensor(1.0), formats.BF16)
        / formats.spacing(torch.tensor(1.0), formats.FP16)
    )
    == 8,
)
claim(
    "Our casts agree with torch's on a million random numbers",
    all(
        torch.equal(formats.cast(sample, f), sample.to(f.dtype).float())
        for sample in [torch.randn(1_000_000) * torch.logspace(-6, 6, 1_000_000)]
        for f in (formats.BF16, formats.FP16)
    ),
)

# %% [markdown]
# (One of the articles behind this course has it the other way round, and calls fp16 the coarser of the two.)
#
# bf16 is the upper half of fp32: the same sign and exponent, the first 7 of 23 mantissa bits. So casting is
# bit surgery. Cutting alone rounds towards zero, with up to twice the error; hardware rounds to the nearest, and
# a tie (a lower half of exactly `0x8000`) to the *even* neighbour, so that errors do not all point one way.
#
# ### Exercise 1 · fp32 to bf16 by bits (2 points, about 2 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def to_bf16_bits_spec(bits):
#     out = torch.empty_like(bits)
#     for i, pattern in enumerate(bits.tolist()):
#         upper, lower = pattern >> 16, pattern & 0xFFFF
#         above_half = lower > 0x8000
#         tie_and_odd = lower == 0x8000 and upper % 2 == 1
#         out[i] = upper + 1 if above_half or tie_and_odd else upper
#     return out
# ```
#
# </details>
#
# Yours has no loop: what must be added *before* the shift, so that the carry does the rounding?


# %% nbgrader={"grade": false, "grade_id": "numbers-to_bf16_bits", "locked": false, "schema_version": 3, "solution": true, "task": false}
def to_bf16_bits(bits):
    """int64 tensor of 32-bit patterns -> int64 tensor of 16-bit patterns."""
    ### BEGIN SOLUTION
    odd = (bits >> 16) & 1
    return (bits + 0x7FFF + odd) >> 16
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "numbers-to_bf16_bits-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(to_bf16_bits, "numbers.to_bf16_bits")

# %%
to_bf16_bits = adopt(to_bf16_bits, "numbers.to_bf16_bits")
values = torch.tensor([1.0, math.pi, -0.1, 1 / 3])
patterns = values.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
back = (to_bf16_bits(patterns) << 16).to(torch.int32).view(torch.float32)
Table(
    ["fp32", "its bits", "bf16 value"],
    [[f"{v:.7f}", f"{p:032b}", f"{b:.7f}"] for v, p, b in zip(values, patterns, back)],
)

# %% [markdown]
# Click bits, or choose a number, and watch the carry. Which bits of fp32 decide whether it goes up? What happens to 255.9, and what to the largest numbers of all?

# %%
click_bits(0.1)

# %% [markdown]
# ## 2 · A picture in few bits
#
# The same question for pixels: with $b$ bits a channel there are $2^b$ levels. Evenly spaced levels (a
# *uniform* grid) are simple; levels placed where the values are (a *palette* 调色板, found by k-means, k 均值) are
# better *for the same number of colours*, and need a table. (A palette of $2^{3b}$ colours spends the same bits on a pixel as
# three channels of $b$ bits; above 2 bits we stop at 256 colours, so there it spends fewer.) We make the picture, so that
# nothing has to be downloaded.


# %%
def make_picture(size=96):
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    sky = np.stack([0.95 - 0.55 * y, 0.55 - 0.25 * y, 0.45 + 0.4 * y], -1)
    sun = np.exp(-((x - 0.68) ** 2 + (y - 0.3) ** 2) / 0.01)[..., None] * [1.0, 0.85, 0.3]
    hills = (y > 0.72 + 0.08 * np.sin(9 * x) + 0.03 * np.sin(31 * x))[..., None]
    ground = np.stack([0.1 + 0.15 * x, 0.25 + 0.3 * (1 - y), 0.15 + 0 * x], -1)
    return np.where(hills, ground, np.clip(sky + sun, 0, 1)).astype(np.float32)


def uniform_levels(picture, bits):
    steps = 2**bits - 1
    return np.rint(picture * steps) / steps


# %%
def palette_levels(picture, bits):
    pixels = picture.reshape(-1, 3)
    colours = min(2 ** (3 * bits), 256)
    model = MiniBatchKMeans(colours, n_init=1, random_state=SEEDS[0], batch_size=4096).fit(
        pixels
    )
    return model.cluster_centers_[model.labels_].reshape(picture.shape)


picture = make_picture()


def draw_picture(bits, method):
    reduce = uniform_levels if method == "uniform" else palette_levels
    reduced = reduce(picture, bits)
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.4))
    for axis, image, title in zip(
        axes, (picture, reduced), ("original", f"{bits} bits a channel, {method}")
    ):
        axis.imshow(image)
        axis.set_title(title)
        axis.axis("off")
    figure.suptitle(f"error (MSE): {np.mean((picture - reduced) ** 2):.2e}", fontsize=10)


explore(draw_picture, bits=(1, 8), method=["uniform", "k-means palette"])

# %%
figure, axes = plt.subplots(2, 4, figsize=(9, 4.6))
errors = {}
for column, bits in enumerate((8, 4, 2, 1)):
    for row, (name, reduce) in enumerate(
        {"uniform": uniform_levels, "palette": palette_levels}.items()
    ):
        reduced = reduce(picture, bits)
        errors[name, bits] = float(np.mean((picture - reduced) ** 2))
        axes[row, column].imshow(reduced)
        colours = len(np.unique(reduced.reshape(-1, 3), axis=0))
        title = f"{name}, {bits} bits\n{colours} colours, MSE {errors[name, bits]:.1e}"
        axes[row, column].set_title(title, fontsize=9)
        axes[row, column].axis("off")
plt.show()
claim(
    "At 1 and 2 bits a channel, a k-means palette of as many colours has less than half the "
    "error of "
    "uniform levels",
    min(0.5 - errors["palette", b] / errors["uniform", b] for b in (1, 2)),
    "times the error",
)

# %% [markdown]
# Palettes for weights come back in lab 12.
#
# ## 3 · The affine grid, step by step
#
# For arithmetic we want the uniform grid: sums and products of codes then mean something. Two numbers
# describe it, the *scale* $s$ (缩放因子) and the *zero point* $z$ (零点):
#
# $$q = \operatorname{clip}\big(\operatorname{round}(x / s) + z,\ q_\min,\ q_\max\big) \qquad \hat x = (q - z)\,s$$
#
# $s$ is the distance between neighbours; $z$ is the code that means exactly 0.0. To cover $lo \dots hi$ with
# all codes, $lo$ must land on $q_\min$ and $hi$ on $q_\max$:
#
# $$s = \frac{hi - lo}{q_\max - q_\min} \qquad z = \operatorname{round}(q_\min - lo / s)$$
#
# Zero is special: padding, ReLU and pruned weights are zeros, and a zero that is not exact is an error in
# every product. So the range is widened to hold it, $lo \le 0 \le hi$.
#
# ### Exercise 2 · Scale and zero point (2 points, about 4 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def affine_qparams_spec(lo, hi, low, high):
#     scale, zero_point = (
#         torch.empty_like(lo),
#         torch.empty(lo.shape, dtype=torch.int32),
#     )
#     for i in np.ndindex(tuple(lo.shape)):
#         smallest, largest = min(float(lo[i]), 0.0), max(float(hi[i]), 0.0)
#         scale[i] = (largest - smallest) / (high - low)
#         candidates = range(
#             low, high + 1
#         )  # the one with which code `low` comes closest to `smallest`
#         zero_point[i] = min(
#             candidates,
#             key=lambda z: abs((low - z) * float(scale[i]) - smallest),
#         )
#     return scale, zero_point
# ```
#
# </details>
#
# Yours works on whole tensors `lo`, `hi` of any shape. `zero_point` is an int32 tensor.


# %% nbgrader={"grade": false, "grade_id": "numbers-affine_qparams", "locked": false, "schema_version": 3, "solution": true, "task": false}
def affine_qparams(lo, hi, low, high):
    """float32 tensors lo <= hi, not both 0, and codes low..high
    -> (scale, zero_point), each of lo's shape."""
    ### BEGIN SOLUTION
    lo, hi = lo.clamp(max=0.0), hi.clamp(min=0.0)
    scale = (hi - lo) / (high - low)
    zero_point = torch.round(low - lo / scale).clamp(low, high)
    return scale, zero_point.to(torch.int32)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "numbers-affine_qparams-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(affine_qparams, "numbers.affine_qparams")

# %%
affine_qparams = adopt(affine_qparams, "numbers.affine_qparams")

# %% [markdown]
# ### Exercise 3 · Real numbers to codes (2 points, about 2 lines)
#
# The spec tries every code and keeps the one whose value is nearest; on a tie, the one that is an even
# number of steps from zero (its `np.clip` only keeps differences exact far outside). Yours computes it, as $x \cdot (1/s)$ with
# `np.float32`: that is how the library's compiled loops, its *kernels* (算子), do it, and how ties then fall.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def quantize_spec(x, scale, zero_point, low, high):
#     codes = np.empty(x.shape, np.int32)
#     steps = x * (np.float32(1) / np.float32(scale))  # x in units of the scale
#     for i in np.ndindex(x.shape):
#
#         def distance(code):
#             return abs(
#                 float(np.clip(steps[i], -1000, 1000)) - (code - zero_point)
#             )
#
#         codes[i] = min(
#             range(low, high + 1),
#             key=lambda code: (distance(code), (code - zero_point) % 2),
#         )
#     return codes
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "numbers-quantize", "locked": false, "schema_version": 3, "solution": true, "task": false}
def quantize(x, scale, zero_point, low, high):
    """float32 array
    -> int32 array of codes low..high; ties to even, everything outside saturates."""
    ### BEGIN SOLUTION
    code = np.rint(x * (np.float32(1) / np.float32(scale))) + zero_point
    return np.clip(code, low, high).astype(np.int32)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "numbers-quantize-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(quantize, "numbers.quantize")

# %%
quantize = adopt(quantize, "numbers.quantize")

# %% [markdown]
# Now in one picture: the real numbers, what comes back from their codes, and the error,
# a sawtooth between $-s/2$ and $s/2$ inside the range that grows without bound outside.


# %%
def draw_steps(bits, lo, hi):
    grid = IntGrid(bits, signed=False)
    x = np.linspace(-2, 2, 801, dtype=np.float32)
    scale, zero = affine_qparams(torch.tensor(lo), torch.tensor(hi), grid.low, grid.high)
    codes = quantize(x, float(scale), int(zero), grid.low, grid.high)
    back = (codes - int(zero)) * float(scale)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    axes[0].plot(x, x, color="0.7", label="x")
    axes[0].plot(x, back, label=r"$\hat x$")
    axes[0].set(
        xlabel="x",
        ylabel=r"$\hat x$",
        title=f"{grid.levels} codes, s = {float(scale):.3g}, z = {int(zero)}",
    )
    axes[0].legend()
    axes[1].plot(x, x - back, color="#D55E00")
    axes[1].set(
        xlabel="x", ylabel=r"error $x - \hat x$", title="rounding inside, clipping outside"
    )
    plt.show()


explore(draw_steps, bits=(2, 8), lo=(-2.0, 0.0, 0.1), hi=(0.1, 2.0, 0.1))

# %%
draw_steps(3, -1.0, 1.5)
grid = IntGrid(8, signed=False)
x = np.random.default_rng(SEEDS[0]).uniform(-1, 1.5, 100_000).astype(np.float32)
scale, zero = affine_qparams(torch.tensor(-1.0), torch.tensor(1.5), grid.low, grid.high)
codes = quantize(x, float(scale), int(zero), grid.low, grid.high)
back = ((codes - int(zero)) * np.float32(scale)).astype(np.float32)
measured = error.mse(torch.from_numpy(x), torch.from_numpy(back))
claim(
    "Zero comes back as exactly zero",
    (quantize(np.zeros(1, np.float32), float(scale), int(zero), 0, 255)[0] - int(zero)) == 0,
)
claim(
    "Inside the range no error exceeds half a step",
    0.5 * (1 + 1e-3) - float(np.abs(x - back).max()) / float(scale),
    "steps",
)
claim(
    "For evenly spread numbers the mean squared error is s²/12 within two per cent",
    0.02 - abs(measured / error.uniform_noise(float(scale)) - 1),
    "of s²/12",
)
claim(
    "torch's fake_quantize gives the same numbers",
    torch.equal(
        torch.fake_quantize_per_tensor_affine(
            torch.from_numpy(x), float(scale), int(zero), 0, 255
        ),
        affine.quantize(torch.from_numpy(x), affine.QParams(scale, zero, grid)).dequantize(),
    ),
)

# %% [markdown]
# ## 4 · Decibels: what one bit is worth
#
# An error is large or small only beside the signal. The signal-to-quantization-noise ratio (信号量化噪声比) is
#
# $$\text{SQNR} = 10 \log_{10} \frac{\operatorname{mean}(x^2)}{\operatorname{mean}((x - \hat x)^2)} \ \text{dB}$$
#
# One more bit halves $s$ (nearly: the number of steps goes from $2^b - 1$ to $2^{b+1} - 1$), so it quarters $s^2/12$: that is
# $10\log_{10} 4 = 6.02$ dB.
#
# ### Exercise 4 · Signal-to-quantization-noise ratio (1 point, about 3 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def sqnr_db_spec(x, approximation):
#     signal = noise = 0.0
#     for a, b in zip(x.flatten().tolist(), approximation.flatten().tolist()):
#         signal += a * a
#         noise += (a - b) ** 2
#     if noise == 0:
#         return math.inf
#     return 10 * (math.log10(signal) - math.log10(noise))
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "numbers-sqnr_db", "locked": false, "schema_version": 3, "solution": true, "task": false}
def sqnr_db(x, approximation):
    """Two float32 tensors of one shape -> float, in dB; infinite if they are equal."""
    ### BEGIN SOLUTION
    signal = float(x.square().mean())
    noise = float((x - approximation).square().mean())
    return math.inf if noise == 0 else 10 * math.log10(signal / noise)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "numbers-sqnr_db-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(sqnr_db, "numbers.sqnr_db")

# %%
sqnr_db = adopt(sqnr_db, "numbers.sqnr_db")

# %% [markdown]
# ## 5 · Real weights: who shares a scale?
#
# We train a network and quantize its weights. The scale may be shared by the whole tensor, by each output
# channel (逐通道), or by a group of consecutive weights (分组; here 16; a layer whose number of weights per output channel is no
# multiple of 16 uses one scale a channel). Finer sharing costs more scales and fits better.
#
# ### Exercise 5 · One scale for each output channel (1 point, about 1 line)
#
# Symmetric (对称) quantization has $z = 0$ and $s = \max|w| / q_\max$; its grid is *narrow*, without the most negative code, so that
# codes run from $-q_\max$ to $q_\max$. An *asymmetric* grid has a zero point of its own, as in section 3. The output channel
# is axis 0.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def channel_scales_spec(weight, high):
#     scales = torch.empty(weight.shape[0])
#     for channel in range(weight.shape[0]):
#         largest = 0.0
#         for w in weight[channel].reshape(-1).tolist():
#             largest = max(largest, abs(w))
#         scales[channel] = largest / high
#     return scales
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "numbers-channel_scales", "locked": false, "schema_version": 3, "solution": true, "task": false}
def channel_scales(weight, high):
    """float32 tensor [outputs, ...] -> float32 tensor [outputs]."""
    ### BEGIN SOLUTION
    return weight.abs().flatten(1).amax(1) / high
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "numbers-channel_scales-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(channel_scales, "numbers.channel_scales")

# %%
channel_scales = adopt(channel_scales, "numbers.channel_scales")

# %%
data = load(size=16, train_size=8_000, seed=SEEDS[0])
networks = trained("vgg", data, SEEDS)
fp32 = mean_and_sd(evaluate(network, data.test) for network in networks)
print(f"fp32 accuracy: {mean_sd(*fp32)} %")


# %%
def weights_of(network):
    return {n: m for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}


layers = weights_of(networks[0])
sample = list(layers)[2]
weight = layers[sample].weight.detach()
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
axes[0].hist(weight.flatten().numpy(), 80, color="#0072B2")
axes[0].set(xlabel="weight", ylabel="how many", title=f"layer {sample}")
axes[1].bar(range(len(weight)), channel_scales(weight, 127).numpy())
axes[1].axhline(
    float(weight.abs().max() / 127), color="#D55E00", linestyle="--", label="whole tensor"
)
axes[1].set(
    xlabel="output channel", ylabel="scale", title="One scale a channel against one for all"
)
axes[1].legend()
plt.show()

# %% [markdown]
# The orange line is what every channel must use if they share one scale: most would like a finer one.
#
# And where should the two ends of a grid lie? From the smallest to the largest weight nothing is clipped, and the codes are far apart. Move the ends (with the mouse, or with Tab and the arrow keys) and find the smallest error: at 3 bits first, then at 2 and at 8. When is it worth clipping (截断)? This figure needs no kernel; lab 02 lets an observer choose such a range.

# %%
drag_grid(weight, bits=3)

# %%
better = predict(
    "At 4 bits: how many dB does one scale a channel gain over one for the tensor, in this "
    "layer?",
    ["less than 1 dB", "1 to 6 dB", "more than 6 dB"],
)


# %%
def quantized(weight, bits, sharing, symmetric=True):
    """The weight after a round trip through codes, and the bytes it takes."""
    grid = IntGrid(bits, narrow=symmetric)
    rows = weight.reshape(len(weight), -1)
    if sharing == "channel" and symmetric:  # your function
        scale = channel_scales(rows, grid.high)
        params = affine.QParams(scale, torch.zeros(len(scale), dtype=torch.int32), grid, axis=0)
        q = affine.quantize(rows, params)
    else:
        axis = 0 if sharing == "channel" else None
        group = 16 if sharing == "group" and rows.shape[1] % 16 == 0 else None
        axis = 0 if sharing == "group" and group is None else axis
        q = affine.quantize_minmax(rows, grid, symmetric, axis, group)
    return q.dequantize().reshape(weight.shape), q.nbytes


# %%
BITS = (8, 7, 6, 5, 4, 3, 2)
curves = {
    "tensor, symmetric": ("tensor", True),
    "tensor, asymmetric": ("tensor", False),
    "channel, symmetric": ("channel", True),
    "groups of 16, symmetric": ("group", True),
}
figure, axes = plt.subplots()
decibels = {}
for index, (name, (sharing, symmetric)) in enumerate(curves.items()):
    decibels[name] = [
        sqnr_db(weight, quantized(weight, b, sharing, symmetric)[0]) for b in BITS
    ]
    axes.plot(BITS, decibels[name], "os^D"[index] + "-", label=name)
axes.set(
    xlabel="bits a weight", ylabel="SQNR, dB", title=f"Weights of layer {sample}: 6 dB a bit"
)
axes.legend()
plt.show()
at4 = BITS.index(4)
gain = decibels["channel, symmetric"][at4] - decibels["tensor, symmetric"][at4]

# %%
better.reveal("less than 1 dB" if gain < 1 else "1 to 6 dB" if gain <= 6 else "more than 6 dB")

# %%
slope = np.polyfit(BITS[:5], decibels["channel, symmetric"][:5], 1)[0]
claim(
    "From 8 to 4 bits, each bit is worth between 5.5 and 6.9 dB",
    min(slope - 5.5, 6.9 - slope),
    "dB",
)
few = [decibels["channel, symmetric"][BITS.index(bits)] for bits in (4, 3, 2)]
claim(
    "From 4 to 2 bits, each bit is worth more than 6.02 dB", (few[0] - few[2]) / 2 - 6.02, "dB"
)
claim(
    "Finer sharing is better at every width",
    min(
        min(c - t, g - c)
        for (t, c, g) in zip(
            decibels["tensor, symmetric"],
            decibels["channel, symmetric"],
            decibels["groups of 16, symmetric"],
        )
    ),
    "dB",
)

# %% [markdown]
# On the channel curve the slope is steeper than 6 dB where there are few codes: a symmetric grid of $b$ bits has $2^b - 1$, and
# the one that is missing is a larger share of few than of many. One scale for the whole tensor flattens instead: nearly
# every weight becomes 0, and the ratio can only approach 0 dB. The asymmetric grid wins where a layer's weights reach
# further to one side than to the other.
#
# ### Does it matter for accuracy?
#
# Decibels are a proxy. The test is the network's accuracy, over seeds, with nothing retrained.


# %%
def with_quantized_weights(network, bits, sharing):
    changed = copy.deepcopy(network)
    total = 0
    with torch.no_grad():
        for layer in weights_of(changed).values():
            back, size = quantized(layer.weight, bits, sharing)
            layer.weight.copy_(back)
            total += size
    return evaluate(changed, data.test), total


tried = [
    (bits, sharing) for bits in (8, 6, 4, 3, 2) for sharing in ("tensor", "channel", "group")
]
runs = side_by_side(
    lambda case: [with_quantized_weights(network, *case) for network in networks],
    tried,
    label="quantizing",
)
results = {case: (mean_and_sd(a for a, _ in run), run[0][1]) for case, run in zip(tried, runs)}
Table(
    ["bits", "tensor", "channel", "groups of 16", "bytes: tensor", "channel", "groups of 16"],
    [
        [str(bits)]
        + [mean_sd(*results[bits, s][0]) for s in ("tensor", "channel", "group")]
        + [in_bytes(results[bits, s][1]) for s in ("tensor", "channel", "group")]
        for bits in (8, 6, 4, 3, 2)
    ],
    f"accuracy in %, {len(SEEDS)} seeds; fp32: {mean_sd(*fp32)}",
)

# %%
mean = {case: accuracy[0] for case, (accuracy, _) in results.items()}
claim(
    "8-bit weights cost less than 0.3 points, however the scale is shared",
    min(0.3 - (fp32[0] - mean[8, s]) for s in ("tensor", "channel", "group")),
    "points",
)
claim(
    "At 3 bits, one scale per channel loses less than three quarters of what one for the "
    "tensor does",
    0.75 - (fp32[0] - mean[3, "channel"]) / (fp32[0] - mean[3, "tensor"]),
    "of the loss",
)
claim(
    "At 2 and 3 bits, on average, groups of 16 are better than one scale per channel",
    (mean[2, "group"] - mean[2, "channel"] + mean[3, "group"] - mean[3, "channel"]) / 2,
    "points",
)
print(
    "At 3 bits:",
    compared("groups of 16", results[3, "group"][0], "channel", results[3, "channel"][0]),
)
claim(
    "At 2 bits, one scale for the tensor loses more than 30 points",
    fp32[0] - mean[2, "tensor"] - 30,
    "points",
)
claim(
    "Groups of 16 at 3 bits take more bytes than channels at 4",
    results[3, "group"][1] > results[4, "channel"][1],
)

# %% [markdown]
# The last line is the control that is easily forgotten: a 32-bit scale for 16 weights is two more bits a
# weight. Compare at equal *bytes*, not at equal bits.

# %%
figure, axes = plt.subplots()
for index, sharing in enumerate(("tensor", "channel", "group")):
    points = [(results[b, sharing][1] / 1e3, mean[b, sharing]) for b in (8, 6, 4, 3, 2)]
    axes.plot(*zip(*points), "os^"[index] + "-", label=f"one scale per {sharing}")
axes.axhline(fp32[0], color="0.5", linestyle=":", label="fp32")
axes.set(
    xscale="log",
    xlabel="bytes of weights and scales, kB",
    ylabel="test accuracy, %",
    title="At equal bytes",
)
plain_log_ticks(axes.xaxis)
axes.legend()
plt.show()

# %% [markdown]
# Read upward from one size: a curve that lies to the left or above spends its bytes better. Finer sharing is better at equal
# *bits*; with scales of 32 bits for 16 weights it need not be at equal bytes.
#
# ## 6 · Bytes that are really saved
#
# Those bytes assumed codes without gaps. In memory a 4-bit code still lies in an 8-bit integer; to save the other
# half, two codes must share a byte (bit packing, 位打包): the first in the lower four bits, the second in the upper.
# Click the bits of two codes: what does each do to the byte?

# %%
click_codes(3, 12)

# %% [markdown]
# ### Exercise 6 · Two codes in one byte (2 points, about 3 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def pack4_spec(codes):
#     packed = np.zeros((codes.size + 1) // 2, np.uint8)
#     for i, code in enumerate(codes.tolist()):
#         packed[i // 2] += code if i % 2 == 0 else 16 * code
#     return packed
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "numbers-pack4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def pack4(codes):
    """uint8 codes 0..15, any number of them -> uint8 bytes; an odd end is padded with 0."""
    ### BEGIN SOLUTION
    if codes.size % 2:
        codes = np.append(codes, np.uint8(0))
    return codes[0::2] | (codes[1::2] << 4)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "numbers-pack4-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(pack4, "numbers.pack4")

# %%
pack4 = adopt(pack4, "numbers.pack4")

# %%
shrink = predict(
    "The same network as fp32, as 4-bit codes in bytes, and packed: the packed file is how "
    "much smaller than fp32?",
    ["about 4 times", "about 6 times", "about 8 times"],
)


# %%
def four_bit_tensors(network, packing):
    """Everything the network needs: codes and scales of the weights, the rest in fp32."""
    tensors = {k: v.contiguous() for k, v in network.state_dict().items()}
    for name, layer in weights_of(network).items():
        rows = layer.weight.detach().reshape(len(layer.weight), -1)
        q = affine.quantize_minmax(rows, IntGrid(4, narrow=True), axis=0)
        codes = (q.codes.reshape(-1).numpy() + 8).astype(np.uint8)
        tensors[f"{name}.weight"] = torch.from_numpy(pack4(codes) if packing else codes)
        tensors[f"{name}.scale"] = q.qparams.scale
    return tensors


# %%
files = {
    "fp32": {k: v.contiguous() for k, v in networks[0].state_dict().items()},
    "4-bit codes, one a byte": four_bit_tensors(networks[0], packing=False),
    "4-bit codes, packed": four_bit_tensors(networks[0], packing=True),
}
on_disk = {}
with tempfile.TemporaryDirectory() as folder:
    for name, tensors in files.items():
        path = Path(folder) / f"{len(on_disk)}.safetensors"
        save_file(tensors, path)
        on_disk[name] = path.stat().st_size
        assert load_file(path).keys() == tensors.keys()
times = on_disk["fp32"] / on_disk["4-bit codes, packed"]

# %%
shrink.reveal(
    "about 4 times" if times < 5 else "about 6 times" if times < 7 else "about 8 times"
)
claim(
    "Packing saves more than 35 % of the file of codes",
    on_disk["4-bit codes, packed"] < 0.65 * on_disk["4-bit codes, one a byte"],
)
claim(
    "The packed file is less than 8 times smaller than fp32: scales, norms and names stay",
    4 < times < 8,
)

# %%
Table(
    ["file", "bytes on disk", "fp32 / this"],
    [[n, in_bytes(size), f"{on_disk['fp32'] / size:.1f}"] for n, size in on_disk.items()],
)

# %% [markdown]
# ## 7 · And fast: the loop, compiled
#
# NumPy walks the array five times (multiply, round, add, clip, convert), each time through memory. A compiled
# loop walks it once. Numba turns a plain Python loop into machine code: write the loop as you would in C.
#
# ### Exercise 7 · The quantize loop, compiled (2 points, about 4 lines)
#
# For each `i`: multiply by `inverse` $= 1/s$, round (`np.rint`), add `zero`, keep within `low..high` by
# comparing, store in `codes[i]`. All arguments but the arrays are float32 numbers. `codes` is int8.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def quantize_loop_spec(x, inverse, zero, low, high, codes):
#     codes[...] = np.clip(np.rint(x * inverse) + zero, low, high).astype(np.int8)
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "numbers-quantize_loop", "locked": false, "schema_version": 3, "solution": true, "task": false}
@njit(error_model="numpy")
def quantize_loop(x, inverse, zero, low, high, codes):
    """Write the code of every x[i] into codes[i]; x and codes are one-dimensional."""
    ### BEGIN SOLUTION
    for i in range(x.size):
        code = np.rint(x[i] * inverse) + zero
        code = code if code > low else low
        codes[i] = np.int32(code if code < high else high)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "numbers-quantize_loop-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(quantize_loop, "numbers.quantize_loop")

# %%
quantize_loop = adopt(quantize_loop, "numbers.quantize_loop")

# %%
faster = predict(
    "How much faster than NumPy is the compiled loop on four million numbers?",
    ["not faster", "up to 2 times", "2 to 5 times", "more than 5 times"],
)

# %%
x = np.random.default_rng(SEEDS[0]).normal(0, 1, 4_000_000).astype(np.float32)
codes = np.empty(x.size, np.int8)
arguments = [np.float32(v) for v in (50, 0, -127, 127)]


def in_numpy():
    return np.clip(np.rint(x * arguments[0]) + arguments[1], -127, 127).astype(np.int8)


def in_numba():
    quantize_loop(x, *arguments, codes)


def in_library():
    affine.kernels.quantize(x, np.float32(0.02), 0, -127, 127, out=codes)


def in_torch():
    return torch.clamp(torch.round(torch.from_numpy(x) * 50), -127, 127).to(torch.int8)


contest = {
    "NumPy": in_numpy,
    "torch": in_torch,
    "the loop": in_numba,
    "the library": in_library,
}
rounds = {name: [] for name in contest}

# %%
for _ in range(9):  # in turn, so that a disturbance hits all alike
    for name, run in contest.items():
        rounds[name].append(fair_time(run, time.perf_counter, 1, 1))
medians = {name: float(np.median(values)) for name, values in rounds.items()}
ratio = medians["NumPy"] / medians["the loop"]

# %%
faster.reveal(
    "more than 5 times"
    if ratio > 5
    else "2 to 5 times"
    if ratio >= 2
    else "up to 2 times"
    if ratio > 1
    else "not faster"
)

# %%
in_numba()
by_loop = codes.copy()
in_library()
claim(
    "All of them give the same codes",
    all(np.array_equal(by_loop, other) for other in (in_numpy(), in_torch().numpy(), codes)),
)
claim("The compiled loop is faster than NumPy", ratio - 1, "times", timed=True)
Table(
    ["who", "ms", "numbers in and codes out, GB/s", "NumPy / this"],
    [
        [n, f"{1e3 * t:.2f}", f"{5 * x.size / t / 1e9:.1f}", f"{medians['NumPy'] / t:.1f}"]
        for n, t in medians.items()
    ],
    f"4 M numbers; torch: {torch.get_num_threads()} thread(s), the others 1; medians of 9 "
    "interleaved rounds",
)

# %% [markdown]
# Read `compresslab/kernels/affine.py` beside your loop: the same arithmetic, in explicit vectors, with the check
# for NaN that a library owes its users.

# %% [markdown]
# ## Build it · A file of few bits
#
# Everything is there: scales, codes, packing. Now make it a file format of your own.
#
# ### Exercise 8 · A file of few bits (build, 16 points, about 25 lines)
#
# `tensor_file(bits)` hands back two functions: `write(x)` from a float32 array to `bytes`, and `read(content)` back to a float32 array of the
# same shape. `read` sees nothing but the bytes.
#
# 1. *Small*: at most the packed codes, one float32 scale per row (of the first axis) and 64 bytes for your header.
# 2. *Close*: symmetric, with a scale per row: no value is off by more than half a step of its row.
# 3. *Shapes*: vectors, matrices, kernels; numbers of codes that do not fill the last byte.
# 4. *Zeros and nothing*: a row of zeros, and an array of no rows.
#
# `np.frombuffer` reads numbers out of bytes, `array.tobytes()` writes them, `np.packbits` and `np.unpackbits` handle single bits.


# %% nbgrader={"grade": false, "grade_id": "numbers-tensor_file", "locked": false, "schema_version": 3, "solution": true, "task": false}
def tensor_file(bits):
    """2 to 8 -> (write: float32 array -> bytes, read: bytes -> float32 array)."""
    ### BEGIN SOLUTION
    high = 2 ** (bits - 1) - 1
    places = np.arange(bits)

    def write(x):
        rows = x.reshape(len(x), -1) if x.size else x.reshape(0, 1)
        largest = np.abs(rows).max(axis=1, initial=0)
        scales = np.where(largest > 0, largest / high, 1).astype(np.float32)
        codes = np.rint(rows / scales[:, None]).astype(np.int64) + high
        single = (codes.reshape(-1, 1) >> places) & 1
        header = np.array([x.ndim, *x.shape], np.uint32)
        return (
            header.tobytes() + scales.tobytes() + np.packbits(single.astype(np.uint8)).tobytes()
        )

    def read(content):
        ndim = int(np.frombuffer(content, np.uint32, 1)[0])
        shape = tuple(int(n) for n in np.frombuffer(content, np.uint32, ndim, 4))
        count = math.prod(shape)
        rows, start = (shape[0] if count else 0), 4 + 4 * ndim
        scales = np.frombuffer(content, np.float32, rows, start)
        single = np.unpackbits(np.frombuffer(content, np.uint8, offset=start + 4 * rows))
        codes = single[: count * bits].reshape(-1, bits).astype(np.int64) @ (1 << places) - high
        if not count:
            return np.zeros(shape, np.float32)
        return (codes.reshape(rows, -1) * scales[:, None]).astype(np.float32).reshape(shape)

    return write, read
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "numbers-tensor_file-check", "locked": true, "points": 16, "schema_version": 3, "solution": false, "task": false}
check(tensor_file, "numbers.tensor_file")

# %%
tensor_file = adopt(tensor_file, "numbers.tensor_file")

# %%
rows, original = [], networks[0].state_dict()
for bits in (8, 6, 4, 3, 2):
    write, read = tensor_file(bits)
    copied, size = copy.deepcopy(networks[0]), 0
    state = {}
    for key, value in original.items():
        if value.ndim < 2:
            state[key] = value
            continue
        content = write(np.ascontiguousarray(value.numpy()))
        state[key], size = torch.from_numpy(read(content)), size + len(content)
    copied.load_state_dict(state)
    lost = evaluate(networks[0], data.test) - evaluate(copied, data.test)
    rows.append([bits, f"{size / 1000:.1f}", f"{lost:+.2f}"])
Table(
    ["bits", "weights in the file, kB", "points lost"],
    rows,
    "one network, all weight matrices and kernels",
)

# %% [markdown]
# ### Exercise 9 · Sixteen levels (open, 12 points, about 12 lines)
#
# An *open* exercise has no right answer: what you choose is measured, here and again while grading, on numbers that your code does not see. A code of four bits may
# stand for any sixteen numbers. Every group of 64 weights of a language model is divided by its largest magnitude, each weight goes to the nearest of your levels, and is
# multiplied by the magnitude again. Which levels leave the smallest squared error? Bronze is above evenly spaced ones, gold is what the best levels that we know reach.
#
# `groups` are float32 [groups, 64], as they are; the outcome is taken from other groups of the same model, in decibels.


# %% nbgrader={"grade": false, "grade_id": "numbers-sixteen_levels", "locked": false, "schema_version": 3, "solution": true, "task": false}
def sixteen_levels(groups):
    """Weights float32 [groups, 64] -> float32 [16]: the levels, from -1 to 1."""
    ### BEGIN SOLUTION
    largest = np.abs(groups).max(1, keepdims=True)
    x = (groups / largest).ravel()
    counted = np.broadcast_to(largest**2, groups.shape).ravel()
    levels = np.linspace(-1, 1, 16)
    for _ in range(150):
        nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, x)
        total = np.bincount(nearest, counted, 16)
        means = np.bincount(nearest, counted * x, 16) / np.maximum(total, 1e-12)
        levels = np.where(total > 0, means, levels)
    return levels.astype(np.float32)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "numbers-sixteen_levels-check", "locked": true, "points": 12, "schema_version": 3, "solution": false, "task": false}
check(sixteen_levels, "numbers.sixteen_levels")

# %%
sixteen_levels = adopt(sixteen_levels, "numbers.sixteen_levels")

# %% [markdown]
# ## Longer than a lab · Half precision, and how smooth a network is
#
# What follows takes minutes for each seed: it was run over several seeds, and its rows are kept beside the code (`compresslab/longer/half_precision.py`). With `COMPRESSLAB_LONGER=1` in the environment a cell runs one seed here as well; `compresslab longer half_precision` runs them all anew.
#
# The cheapest compression is a cast: fp16 and bf16 halve every file. (A converter of one of the articles behind this course says "8 bits" and writes float16: this is what its user gets.) Whether it is faster, the processor decides: without instructions for a format, every number is converted on the way.

# %%
from compresslab.longer import show_longer

show_longer("half_precision")

# %% [markdown]
# Why may numbers be rounded at all? Because small changes of the weights have small effects: near a minimum the loss changes by $\tfrac12 d^\top H d$ for a change $d$ of the weights (LeCun et al. 1989, equation 1), which is quadratic. The table shows how far that carries.

# %%
show_longer("smoothness")

# %% [markdown]
# ## In the course's own measures
#
# What this lab made, with the cheapest step of all in front: a cast to 16 bits (半精度), which halves the file and asks for nothing else. The last row is the palette of section 2, a palette of 16 colours for each layer, tuned for an epoch. Energy (能耗) is an estimate: operations and the file read once, at the prices of a 45 nm process (Horowitz 2014).

# %%
import compresslab as cl

palette = cl.compress(networks[0], [cl.Share(16)], data)
cl.table(
    cl.measure(networks, data, "float32"),
    cl.measure([copy.deepcopy(n).half() for n in networks], data, "float16, a cast"),
    cl.measure([copy.deepcopy(n).bfloat16() for n in networks], data, "bfloat16, a cast"),
    cl.measure(palette, data, "16 colours a layer"),
)

# %% [markdown]
# ## When *not* to
#
# - Numbers that span many powers of ten (gradients, activations with outliers) do not sit well on
#   a uniform grid: use bf16, or finer groups.
# - Tiny tensors (biases, batch-norm parameters) save nothing and cost accuracy: leave them in floats.
# - Fewer bits in memory are not fewer milliseconds unless a kernel works on the codes: labs 02, 10 and 11.
#
# ## What the papers say, what we measured
#
# The networks, data and machines of the papers are others than ours: compare directions and sizes, not digits.

# %%
Table(
    ["quantity", "source", "says", "here"],
    [
        ["dB per bit", "Widrow & Kollár 2008, ch. 1", "6.02", f"{slope:.2f}"],
        [
            "noise power over s²/12",
            "Bennett 1948",
            "1",
            f"{measured / error.uniform_noise(float(scale)):.3f}",
        ],
        [
            "loss at 8 bits, points (there activations too)",
            "Jacob et al. 2018, table 4.1 (ResNets)",
            "1.4 to 2.1",
            f"{fp32[0] - mean[8, 'channel']:.2f}",
        ],
    ],
    text_columns=2,
)

# %% [markdown] nbgrader={"grade": true, "grade_id": "written-numbers_written", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# ## Written question (2 points)
#
# A tensor of activations after ReLU lies in 0..6, a tensor of weights in -0.4..0.5. For each, would you choose a
# symmetric or an asymmetric grid, signed or unsigned? What does an integer matrix product have to do in
# addition if *both* operands have a zero point that is not 0? (Multiply $(q_x - z_x)(q_w - z_w)$ out.)
#
# *Your answer (double-click here to write it):*

# %% [markdown]
# ## Recap
#
# - Floats spend bits on range, integers on even spacing; a scale and a zero point choose where.
# - A bit is worth 6 dB; who shares a scale matters as much, and scales cost bytes too.
# - Codes must be packed to be small, and looped over once to be fast.
#
# **Back:** [Lab 00 · Measure first](00_measure_first.ipynb) · **Next:** [Lab 02 · Post-training quantization](02_post_training_quantization.ipynb)
#
# **References.** Jacob et al. 2018, *Quantization and training of neural networks for efficient
# integer-arithmetic-only inference*, arXiv:1712.05877 · Nagel et al. 2021, *A white paper on neural network
# quantization*, arXiv:2106.08295 · Kalamkar et al. 2019, *A study of BFLOAT16*, arXiv:1905.12322 · Widrow and
# Kollár 2008, *Quantization Noise* · Bennett 1948, *Spectra of quantized signals*
