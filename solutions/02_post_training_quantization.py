# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Lab 02 · Post-training quantization
#
# **You will** turn trained networks into integer ones without training them again, see what breaks first and
# mend it, spend a byte budget layer by layer, and run the result on integer kernels.
# **Time:** 105 minutes to work through; it runs in one to three minutes, by processor.
#
# Post-training quantization (PTQ, 训练后量化) needs a trained network and a few images without labels. It is
# the first thing to try: it takes a second.

# %%
import copy
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import nn

# %%
from compresslab.lab import (
    Table,
    accuracy,
    adopt,
    agreement,
    begin,
    built,
    check,
    claim,
    compared,
    disk_bytes,
    evaluate,
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
    side_by_side,
    time_call,
    track,
    trained,
    use_style,
)

# %%
from compresslab.classroom.live.budget import plans_of, spend_bytes
from compresslab.numerics import affine, observers
from compresslab.numerics.error import sqnr_db
from compresslab.numerics.grid import IntGrid
from compresslab.runtime import peers, storage
from compresslab.runtime.convert import convert
from compresslab.techniques.folding import equalize, fold_batch_norms
from compresslab.techniques.mixed import search, sensitivity, with_bits
from compresslab.techniques.ptq import correct_bias, quantize_post_training
from compresslab.techniques.quantizer import QuantConfig

use_style()
SEEDS = begin()

# %% [markdown]
# ## A hook: over three times smaller, and nothing trained
#
# Two kinds of networks, three seeds each: one like VGG with ordinary 3x3 convolutions, and one with
# *depthwise* convolutions, which save parameters by giving each channel its own little kernel.

# %%
data = load(size=16, train_size=8_000, seed=SEEDS[0])
classes, calibration = len(data.classes), data.train.x[:500]
vggs, depthwises = trained("vgg", data, SEEDS), trained("depthwise", data, SEEDS)
networks = {"VGG-like": vggs, "depthwise": depthwises}


def accuracies(networks, change):
    """Mean and sd of the test accuracy of `change(network)` over the seeds."""
    return accuracy([change(network) for network in networks], data.test)


def quantized(**options):
    """A change that quantizes a network after training, with these options."""
    config = QuantConfig(**options)
    return lambda network: quantize_post_training(network, config, calibration)


fp32 = {name: accuracies(seeds, lambda network: network) for name, seeds in networks.items()}
int8 = {name: accuracies(seeds, quantized()) for name, seeds in networks.items()}
sizes = {}
for name, seeds in networks.items():
    with tempfile.TemporaryDirectory() as folder:
        size = storage.save(convert(quantized()(seeds[0])), Path(folder) / "int8.safetensors")
    sizes[name] = disk_bytes(seeds[0]), size

# %%
claim("The files are more than three times smaller", all(a > 3 * b for a, b in sizes.values()))
claim(
    "8 bits cost less than 0.3 points",
    min(0.3 - (fp32[n][0] - int8[n][0]) for n in networks),
    "points",
)
Table(
    ["network", "fp32, %", "int8, %", "fp32 file", "int8 file"],
    [
        [n, mean_sd(*fp32[n]), mean_sd(*int8[n]), in_bytes(sizes[n][0]), in_bytes(sizes[n][1])]
        for n in networks
    ],
)

# %% [markdown]
# Not four times, because scales, biases and the file's list of steps stay. The file holds integer weights and biases and a few float scales; from layer to layer the network passes integer codes only. How?
#
# ## 1 · Activations: which range?
#
# Weights can be looked at; activations (激活) depend on the image. So we show the network some images and
# *observe* (calibration, 校准). The simplest observer keeps the extremes. Here is an activation with a few
# outliers (离群值), as large networks have them.

# %%
generator = torch.Generator().manual_seed(SEEDS[0])
activation = torch.randn(20_000, generator=generator)
activation[:20] = 25 + torch.rand(20, generator=generator) * 5
grid = IntGrid(4, signed=False)


# %%
def observed(name, x, bits):
    watcher = observers.observer(name, IntGrid(bits, signed=False))
    watcher.update(x)
    return watcher.range()


def draw_observer(bits, observer):
    lo, hi = observed(observer, activation, bits)
    params = affine.choose_qparams(lo, hi, IntGrid(bits, signed=False))
    back = affine.quantize(activation, params).dequantize()
    bulk = slice(20, None)
    figure, axes = plt.subplots(figsize=(8, 3))
    axes.hist(activation.numpy(), 200, color="#0072B2", log=True)
    axes.axvspan(float(lo), float(hi), color="#E69F00", alpha=0.3, label="covered")
    axes.set(
        xlabel="activation",
        ylabel="how many",
        title=(
            f"{observer}, {bits} bits: all {sqnr_db(activation, back):.1f} dB, "
            f"without the outliers {sqnr_db(activation[bulk], back[bulk]):.1f} dB"
        ),
    )
    axes.legend()


explore(draw_observer, bits=(3, 8), observer=list(observers.OBSERVERS))

# %% [markdown]
# Wide steps for everybody, or a few clipped numbers? *minmax* clips nothing; *average* follows the extremes slowly;
# *percentile* leaves out a fixed share of the numbers; *mse* seeks the least mean squared error over all
# numbers, the outliers included; *entropy* keeps the histogram's shape (the least KL divergence, KL 散度, a measure of how far two distributions are apart) and
# gives outliers up; clipping (截断) is what all but the first do. (With a single batch *average* equals *minmax*.) Which number in the title matters depends on the network: if its outliers carry the answer, the first;
# if not, the second. For the mean square we can look for the least ourselves.
#
# ### Exercise 1 · Where to clip (2 points, about 4 lines)
#
# Codes are `-high..high`, the scale is $s = t / q_\max$. Return the *index* of the threshold with the least
# mean squared error (of equals, the first).
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def best_threshold_spec(values, thresholds, high):
#     errors = []
#     for t in thresholds.tolist():
#         scale, total = np.float32(t) / np.float32(high), 0.0
#         for x in values.tolist():
#             code = max(-high, min(high, round(x / float(scale))))
#             total += (x - code * float(scale)) ** 2
#         errors.append(total)
#     return errors.index(min(errors))
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "ptq-best_threshold", "locked": false, "schema_version": 3, "solution": true, "task": false}
def best_threshold(values, thresholds, high):
    """float32 [n], float32 [candidates], int -> index of the best candidate, an int."""
    ### BEGIN SOLUTION
    scale = (thresholds / high)[:, None]
    back = (values[None] / scale).round().clamp(-high, high) * scale
    return int((back - values).square().mean(1).argmin())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "ptq-best_threshold-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(best_threshold, "ptq.best_threshold")

# %%
best_threshold = adopt(best_threshold, "ptq.best_threshold")
thresholds = torch.linspace(1, float(activation.abs().max()), 60)
figure, axes = plt.subplots(figsize=(7, 3.2))
best = {}
for bits, style in zip((8, 6, 4, 3), ("-", "--", "-.", ":")):
    high = IntGrid(bits, narrow=True).high
    best[bits] = float(thresholds[best_threshold(activation, thresholds, high)])
    noise = []
    for t in thresholds:
        back = (activation / (t / high)).round().clamp(-high, high) * (t / high)
        noise.append(float((back - activation).square().mean()))
    axes.semilogy(thresholds, noise, style, label=f"{bits} bits, best at {best[bits]:.1f}")
axes.set(
    xlabel="clipping threshold", ylabel="mean squared error", title="Fewer bits: clip earlier"
)
axes.legend()
plt.show()
claim(
    "The fewer the bits, the tighter the best threshold: at 4 bits than at 8, at 3 than at 4",
    min(best[8] - best[4], best[4] - best[3]),
    "units of the activation",
)

# %% [markdown]
# ### How many images? Fixed or fresh ranges?
#
# *Static* (静态) ranges are fixed after calibration. *Dynamic* (动态) ranges are taken from each tensor as it
# comes: nothing to calibrate, but somebody has to compute them on every run.

# %%
enough = predict(
    "How many calibration images until 8-bit activations lose less than half a point?",
    ["one", "about 5", "about 50", "about 500"],
)

# %%
COUNTS = (1, 5, 10, 50, 500)
curves = {bits: [] for bits in (8, 4)}
for count in track(COUNTS, "calibrating"):
    for bits, curve in curves.items():
        config = QuantConfig(8, bits)
        curve.append(
            accuracies(vggs, lambda n: quantize_post_training(n, config, data.train.x[:count]))
        )
dynamic = {
    bits: accuracies(vggs, quantized(activation_bits=bits, dynamic=True)) for bits in (8, 4)
}
figure, axes = plt.subplots(figsize=(7, 3.2))
for index, (bits, curve) in enumerate(curves.items()):
    mean, sd = zip(*curve)
    axes.errorbar(
        COUNTS, mean, sd, marker="os"[index], capsize=3, label=f"{bits}-bit activations, static"
    )
    axes.axhline(
        dynamic[bits][0], linestyle="--", color=f"C{index}", label=f"{bits} bits, dynamic"
    )
axes.axhline(fp32["VGG-like"][0], color="0.5", linestyle=":", label="fp32")
axes.set(xscale="log", xlabel="calibration images", ylabel="test accuracy, %")
plain_log_ticks(axes.xaxis)
axes.legend(fontsize=8)
plt.show()
first = next(c for c, (mean, _) in zip(COUNTS, curves[8]) if fp32["VGG-like"][0] - mean < 0.5)

# %%
enough.reveal(
    "one"
    if first == 1
    else "about 5"
    if first <= 10
    else "about 50"
    if first <= 50
    else "about 500"
)
claim(
    "Ten images are enough for 8-bit activations",
    0.5 - (fp32["VGG-like"][0] - curves[8][COUNTS.index(10)][0]),
    "points",
)
claim(
    "At 8 bits, dynamic ranges are as good as static ones to within half a point",
    0.5 - abs(dynamic[8][0] - curves[8][-1][0]),
    "points",
)

# %% [markdown]
# At 4 bits more images can make it *worse*: the extremes of more images lie further out, and every step grows with
# them. (Dynamic ranges here are those of the images that are tested at once.)
#
# ## 2 · Weights: who shares a scale?
#
# Lab 01 asked that of the VGG-like network. Does the answer hold for a network of *depthwise* convolutions, whose weights are
# few and see one channel each?

# %%
shared = {}
for bits in track((8, 4, 3, 2), "weights"):
    for sharing in ("tensor", "channel"):
        shared[bits, sharing] = accuracies(
            depthwises, quantized(weight_bits=bits, activation_bits=None, sharing=sharing)
        )
claim(
    "At 3 bits, one scale per channel beats one scale per tensor by more than 3 points",
    shared[3, "channel"][0] - (shared[3, "tensor"][0] + 3),
    "points",
)
claim(
    "At 2 bits, min-max ranges lose more than 20 points either way",
    min(fp32["depthwise"][0] - shared[2, s][0] - 20 for s in ("tensor", "channel")),
    "points",
)
print(
    "At 4 bits:",
    compared("scale per channel", shared[4, "channel"], "per tensor", shared[4, "tensor"]),
)
Table(
    ["weight bits", "one scale a tensor, %", "one scale a channel, %"],
    [
        [str(b), mean_sd(*shared[b, "tensor"]), mean_sd(*shared[b, "channel"])]
        for b in (8, 4, 3, 2)
    ],
    f"depthwise, activations in fp32, {len(SEEDS)} seeds; fp32: {mean_sd(*fp32['depthwise'])} "
    "%",
)

# %% [markdown]
# ## 3 · Who breaks first?
#
# Two networks get the same four bits. First your guess.

# %%
fragile = predict(
    "W4A4: weights and activations at 4 bits, min-max ranges, one weight scale a tensor: who "
    "loses more?",
    ["VGG-like", "depthwise", "about the same"],
)

# %%
recipes = {
    "W4A4, scale a tensor": dict(weight_bits=4, activation_bits=4, sharing="tensor"),
    "W4A4, scale a channel": dict(weight_bits=4, activation_bits=4),
    "W4A4, channel, MSE ranges": dict(
        weight_bits=4, activation_bits=4, weight_range="mse", activation_range="mse"
    ),
    "W4A4, channel, weights MSE, activations 99.9 %": dict(
        weight_bits=4, activation_bits=4, weight_range="mse", activation_range="percentile"
    ),
    "W4A4, channel, weights MSE, activations entropy": dict(
        weight_bits=4, activation_bits=4, weight_range="mse", activation_range="entropy"
    ),
    "W3A3, scale a channel": dict(weight_bits=3, activation_bits=3),
    "W3A3, channel, MSE ranges": dict(
        weight_bits=3, activation_bits=3, weight_range="mse", activation_range="mse"
    ),
}
results = {}
for recipe, options in track(recipes.items(), "recipes", "recipe"):
    for name, seeds in networks.items():
        results[recipe, name] = accuracies(seeds, quantized(**options))
loss = {key: fp32[key[1]][0] - value[0] for key, value in results.items()}
gap = loss["W4A4, scale a tensor", "depthwise"] - loss["W4A4, scale a tensor", "VGG-like"]

# %%
fragile.reveal("depthwise" if gap > 1 else "VGG-like" if gap < -1 else "about the same")

# %%
Table(
    ["recipe", *networks],
    [[r, *(mean_sd(*results[r, n]) for n in networks)] for r in recipes],
    f"test accuracy in %, {len(SEEDS)} seeds; fp32: "
    + ", ".join(f"{n} {mean_sd(*fp32[n])}" for n in networks),
)

# %%
claim(
    "At W3A3 the depthwise network loses more than the VGG-like one",
    loss["W3A3, scale a channel", "depthwise"] - loss["W3A3, scale a channel", "VGG-like"],
    "points",
)
claim(
    "At W3A3, MSE ranges are worth more than 5 points to the depthwise network, with one "
    "weight scale per channel in both",
    loss["W3A3, scale a channel", "depthwise"]
    - loss["W3A3, channel, MSE ranges", "depthwise"]
    - 5,
    "points",
)

# %% [markdown]
# A mean does not say *which* letters it lost. Here are some that one depthwise network reads correctly in floats but no longer at W4A4 (one scale a tensor), and the letters that it takes for another one most often.

# %%
floats = networks["depthwise"][0]
rough = quantized(**recipes["W4A4, scale a tensor"])(floats)
was, now = (logits(network, data.test.x).argmax(1) for network in (floats, rough))
lost = ((was == data.test.y) & (now != was)).nonzero().flatten().tolist()
letter = data.classes
figure, axes = plt.subplots(1, 10, figsize=(10, 1.5))
for axis in axes:
    axis.axis("off")
for axis, index in zip(axes, lost, strict=False):
    axis.imshow(data.test.x[index, 0], cmap="gray_r", vmin=0, vmax=1)
    axis.set_title(f"{letter[was[index]]}, now {letter[now[index]]}", fontsize=9)
figure.suptitle("read correctly in floats, and as what at W4A4", fontsize=9, y=1.1)
plt.show()
mixed_up = Counter((letter[was[i]], letter[now[i]]) for i in lost)
Table(
    ["letter", "taken for", "times"],
    [[*pair, str(count)] for pair, count in mixed_up.most_common(5)],
    f"{len(lost)} of {len(data.test)} test images, one network; {len(mixed_up)} such pairs",
    text_columns=2,
)

# %% [markdown]
# Why does the depthwise network lose more? One likely reason: a depthwise filter has nine weights and its channel sees nothing else, so errors average less than over
# many inputs. Another is that channels differ in range, the largest $|w|$ of a channel. Look at the ranges once the norms
# are folded in.
#
# ## 4 · Fold (批归一化折叠), then even out
#
# In evaluation mode a batch norm (批归一化) is a line, $y = g\,(x - m)/\sqrt{v + \epsilon} + b$. A line after a
# convolution is part of the convolution: one multiplication and addition less at run time.
#
# ### Exercise 2 · Fold a batch norm into its convolution (2 points, about 3 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def fold_batch_norm_spec(weight, bias, gain, shift, mean, variance, epsilon):
#     new_weight, new_bias = weight.clone(), bias.clone()
#     for channel in range(len(weight)):
#         deviation = math.sqrt(float(variance[channel]) + epsilon)
#         new_weight[channel] = weight[channel] * gain[channel] / deviation
#         new_bias[channel] = (bias[channel] - mean[channel]) * gain[
#             channel
#         ] / deviation + shift[channel]
#     return new_weight, new_bias
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "ptq-fold_batch_norm", "locked": false, "schema_version": 3, "solution": true, "task": false}
def fold_batch_norm(weight, bias, gain, shift, mean, variance, epsilon):
    """weight [outputs, ...], all others [outputs]
    -> (weight, bias) of the one layer that does both."""
    ### BEGIN SOLUTION
    factor = gain / torch.sqrt(variance + epsilon)
    shape = (-1, *[1] * (weight.ndim - 1))
    return weight * factor.reshape(shape), (bias - mean) * factor + shift
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "ptq-fold_batch_norm-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(fold_batch_norm, "ptq.fold_batch_norm")

# %%
fold_batch_norm = adopt(fold_batch_norm, "ptq.fold_batch_norm")
network = depthwises[0]
conv, norm = network[1][0], network[1][1]
weight, bias = fold_batch_norm(
    conv.weight,
    torch.zeros(len(conv.weight)),
    norm.weight,
    norm.bias,
    norm.running_mean,
    norm.running_var,
    norm.eps,
)

# %%
image = torch.rand(4, conv.in_channels, 8, 8, generator=generator)
with torch.no_grad():
    one = nn.functional.conv2d(
        image, weight, bias, conv.stride, conv.padding, groups=conv.groups
    )
    claim(
        "One folded convolution computes what convolution and norm computed",
        agreement(one, norm(conv(image)), atol=1e-4),
        "tolerances",
    )
folded = [fold_batch_norms(n) for n in depthwises]
figure, axes = plt.subplots(figsize=(8, 3))
for index, (label, w) in enumerate(
    {"as trained": conv.weight, "norm folded in": weight}.items()
):
    ranges = w.detach().flatten(1).abs().amax(1)
    axes.bar(np.arange(len(ranges)) + 0.4 * index, ranges / ranges.max(), 0.4, label=label)
axes.set(
    xlabel="channel of the first depthwise layer",
    ylabel="range / largest",
    title="A fair share of the scale?",
    ylim=(0, 1.25),
)
axes.legend(ncols=2, loc="upper right")
plt.show()

# %% [markdown]
# Folding is free in floats. What it does to a scale that all channels share depends on the network: a channel
# whose norm was small now has small weights, and gets few of the codes. But ranges can be traded between
# neighbouring layers, because $\text{ReLU}(a x) = a\,\text{ReLU}(x)$ for $a > 0$: divide channel $c$ of the first (weights and bias) by $t_c$, multiply its weights in the second by $t_c$, and the function is the same. If $r_1, r_2$ are the channel's
# ranges in both,
#
# $$t_c = \sqrt{r_1 / r_2} \quad\Rightarrow\quad r_1 / t_c = r_2\, t_c = \sqrt{r_1 r_2}$$
#
# (cross-layer equalisation 跨层均衡; Nagel et al. 2019). The same paper's second idea: rounding a layer's few weights
# shifts the *mean* of its outputs; measure the shift on the calibration images and take it out of the bias.
#
# ### Exercise 3 · Even out two layers (1 point, about 2 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def equalizing_factors_spec(range_first, range_second):
#     t = torch.ones(len(range_first))
#     for c in range(len(range_first)):
#         r1, r2 = float(range_first[c]), float(range_second[c])
#         if r1 > 0 and r2 > 0:              # a dead channel is left alone
#             t[c] = math.sqrt(r1 * r2) / r2
#     return t
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "ptq-equalizing_factors", "locked": false, "schema_version": 3, "solution": true, "task": false}
def equalizing_factors(range_first, range_second):
    """float32 [channels] twice -> t, float32 [channels]; 1 where either range is 0."""
    ### BEGIN SOLUTION
    alive = (range_first > 0) & (range_second > 0)
    return torch.where(
        alive, torch.sqrt(range_first / range_second), torch.ones_like(range_first)
    )
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "ptq-equalizing_factors-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(equalizing_factors, "ptq.equalizing_factors")

# %%
equalizing_factors = adopt(equalizing_factors, "ptq.equalizing_factors")
_, first, second = (network[i][0] for i in range(3))
r1 = weight.detach().flatten(1).abs().amax(1)
r2 = second.weight.detach().abs().amax((0, 2, 3))
t = equalizing_factors(r1, r2)
claim(
    "Divided and multiplied by your factors, both ranges are the same",
    agreement(r1 / t, r2 * t, rtol=1e-4),
    "tolerances",
    yours=equalizing_factors,
)

# %%
mended = predict(
    "Depthwise network, 4-bit weights, one scale a tensor: how much of the loss of the folded "
    "network do evening out and bias correction win back together, without any training?",
    ["less than a quarter", "about half", "more than three quarters"],
)

# %%
even = [equalize(n) for n in folded]
W4 = QuantConfig(4, 8, "tensor")
ways = {
    "norms apart": [quantize_post_training(n, W4, calibration) for n in depthwises],
    "folded": [quantize_post_training(n, W4, calibration) for n in folded],
    "folded, evened out": [quantize_post_training(n, W4, calibration) for n in even],
    "folded, evened out, biases corrected": [
        correct_bias(quantize_post_training(n, W4, calibration), n, calibration) for n in even
    ],
    "folded, one scale a channel": [
        quantize_post_training(n, QuantConfig(4, 8), calibration) for n in folded
    ],
}
reached = {way: accuracies(seeds, lambda n: n) for way, seeds in ways.items()}
points_lost = {way: fp32["depthwise"][0] - result[0] for way, result in reached.items()}
share = 1 - points_lost["folded, evened out, biases corrected"] / points_lost["folded"]

# %%
mended.reveal(
    "less than a quarter"
    if share < 0.25
    else "about half"
    if share < 0.75
    else "more than three quarters"
)

# %%
same = max(
    float((logits(a, data.test.x[:500]) - logits(b, data.test.x[:500])).abs().max())
    for a, b in zip(folded, even)
)
claim("Evening out does not change the float function", 0.001 - same, "logits")
claim(
    "Evening out and correcting biases win back more than half of the loss",
    share - 0.5,
    "of the loss",
)
print(compared(*(part for way in list(ways)[3:1:-1] for part in (way, reached[way]))))
Table(
    ["depthwise, W4A8, one scale a tensor unless said", "accuracy, %"],
    [[w, mean_sd(*r)] for w, r in reached.items()],
    f"{len(SEEDS)} seeds; fp32: {mean_sd(*fp32['depthwise'])} %",
)

# %% [markdown]
# Compare the first two rows as well: folding alone may help or hurt, by the network and its seed, because it changes which
# channels are large. Evening out and correcting together help on average; no step helps every network.
#
# ## 5 · Bits where they matter: mixed precision (混合精度)
#
# Quantize one layer at a time and measure (on *validation* images: the test set is for reporting).

# %%
network, base = vggs[0], evaluate(vggs[0], data.val)
scan = sensitivity(network, lambda n: evaluate(n, data.val), bits=(8, 4, 3, 2))
names = list(dict.fromkeys(entry.layer for entry in scan))
figure, axes = plt.subplots(figsize=(7, 3))
for index, bits in enumerate((4, 3, 2)):
    lost = [
        base - next(e.quality for e in scan if (e.layer, e.bits) == (n, bits)) for n in names
    ]
    axes.bar(np.arange(len(names)) + 0.27 * index, lost, 0.27, label=f"{bits} bits")
axes.set_xticks(np.arange(len(names)) + 0.27, [f"layer {n}" for n in names])
axes.set_yscale("symlog", linthresh=1)
axes.set_yticks([0, 1, 3, 10, 30, 100], ["0", "1", "3", "10", "30", "100"])
axes.set(
    xlabel="the only quantized layer, by its name in the network",
    ylabel="points lost (validation)",
    title="Not all layers are equal (one network; below 0: better by chance)",
    ylim=(-1, 130),
)
axes.legend()
plt.show()

# %% [markdown]
# ### Exercise 4 · Spend a byte budget where it hurts least (3 points, about 6 lines)
#
# `loss[l, w]` is what layer `l` loses at its width number `w`, `size[l, w]` the bytes it takes there. Choose a
# width for every layer: least total loss, total size at most `budget`. (That losses of single layers add up is an assumption;
# the table below tests it.) There are few layers: try everything
# (`itertools.product`). Of equals, the first in order.


# %% nbgrader={"grade": false, "grade_id": "ptq-spend_budget", "locked": false, "schema_version": 3, "solution": true, "task": false}
def spend_budget(loss, size, budget):
    """loss, size [layers, widths], int
    -> int64 [layers]: the chosen width's number for each layer."""
    ### BEGIN SOLUTION
    import itertools

    layers = np.arange(len(loss))
    choices = itertools.product(range(loss.shape[1]), repeat=len(loss))
    fitting = [c for c in choices if size[layers, c].sum() <= budget]
    return np.array(min(fitting, key=lambda c: loss[layers, c].sum()), np.int64)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "ptq-spend_budget-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(spend_budget, "ptq.spend_budget")

# %%
spend_budget = adopt(spend_budget, "ptq.spend_budget")

# %% [markdown]
# **The task:** weights in at most 3.5 bits each on average (scales included), accuracy within 2 points of fp32.
# Your search against one width for all, and against the library's greedy search.

# %%
WIDTHS = (8, 4, 3, 2)
by_place = {(e.layer, e.bits): e for e in scan}
loss = np.array([[max(0.0, base - by_place[n, b].quality) for b in WIDTHS] for n in names])
size = np.array([[by_place[n, b].size for b in WIDTHS] for n in names])
weights = sum(
    m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)
)
budget = int(3.5 * weights / 8)
yours = {n: WIDTHS[w] for n, w in zip(names, spend_budget(loss, size, budget))}
greedy = search(scan, budget, base)
plans = {
    "the search": yours,
    "greedy search": greedy,
    "3 bits everywhere (the widest single width that fits)": dict.fromkeys(names, 3),
}
rows, outcome = [], {}
for plan, bits in plans.items():
    runs = accuracies(vggs, quantized(activation_bits=8, weight_range="mse", layers=bits))
    total = sum(by_place[n, b].size for n, b in bits.items())
    outcome[plan] = runs[0], total
    rows.append(
        [plan, ", ".join(str(b) for b in bits.values()), in_bytes(total), mean_sd(*runs)]
    )

# %%
claim("The mixed plan fits the budget", outcome["the search"][1] <= budget)
claim(
    "The mixed plan loses less than 4 points",
    4 - (fp32["VGG-like"][0] - outcome["the search"][0]),
    "points",
)
plan_loss = {plan: fp32["VGG-like"][0] - found[0] for plan, found in outcome.items()}
claim(
    "The mixed plan loses less than two thirds of what 3 bits everywhere lose, on all seeds' "
    "mean",
    2 / 3
    - plan_loss["the search"]
    / plan_loss["3 bits everywhere (the widest single width that fits)"],
    "of the loss",
)
Table(
    ["plan", "bits of each layer, first to last", "weights", "accuracy, %"],
    rows,
    f"budget {in_bytes(budget)}; planned on one network's validation images, tested on "
    f"{len(SEEDS)} networks",
    text_columns=2,
)

# %% [markdown]
# Now by hand. A click on a layer gives it the next width; the dot says what the single losses add up to, the button what this plan really loses: every plan there is was measured before (weights alone, on 500 validation images). Find one that fits and loses least. Where does the sum promise too much?

# %%
FEW, few = (4, 3, 2), data.val.first(500)
every, floats = plans_of(len(names), len(FEW)), evaluate(network, few)
alone = [{name: bits} for name in names for bits in FEW]
together = [{name: FEW[width] for name, width in zip(names, plan)} for plan in every]
reached = side_by_side(
    lambda plan: floats - evaluate(with_bits(network, plan), few),
    [*alone, *together],
    label="every plan",
)
single = np.array(reached[: len(alone)]).reshape(len(names), len(FEW))
bytes_of = np.array([[by_place[n, bits].size for bits in FEW] for n in names])
spend_bytes(names, FEW, single, bytes_of, reached[len(alone) :], budget)

# %% [markdown]
# ## 6 · Integers all the way
#
# Everything so far *simulated* integers in floats. Now for real. With $x = s_x (q_x - z_x)$ and $w = s_w q_w$ it is
#
# $$y = \sum_k x_k w_k + b = s_x s_w \Big(\underbrace{\sum_k (q_{x,k} - z_x)\, q_{w,k} + \text{round}\tfrac{b}{s_x s_w}}_{\text{integers: acc}}\Big)$$
#
# but for the rounding of the bias. (Weights are symmetric, so they have no zero point; $s_w$ is one number an output channel.)
#
# ### Exercise 5 · A matrix product of integers (3 points, about 7 lines)
#
# Write the loop in Numba: `x` is uint8, `weight` int8, `bias` and the result int32. Bytes overflow in NumPy arrays;
# Numba widens single numbers, but say `np.int32(...)` all the same: it is what you mean.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def integer_matmul_spec(x, zero_point, weight, bias):
#     rows, outputs = x.shape[0], weight.shape[0]
#     acc = np.zeros((rows, outputs), np.int32)
#     for m in range(rows):
#         for n in range(outputs):
#             acc[m, n] = int(bias[n]) + sum(
#                 (a - zero_point) * b
#                 for a, b in zip(x[m].tolist(), weight[n].tolist())
#             )
#     return acc
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "ptq-integer_matmul", "locked": false, "schema_version": 3, "solution": true, "task": false}
@njit
def integer_matmul(x, zero_point, weight, bias):
    """uint8 [M, K], int, int8 [N, K], int32 [N] -> int32 [M, N]."""
    ### BEGIN SOLUTION
    acc = np.empty((x.shape[0], weight.shape[0]), np.int32)
    for m in range(x.shape[0]):
        for n in range(weight.shape[0]):
            total = bias[n]
            for k in range(x.shape[1]):
                total += (np.int32(x[m, k]) - np.int32(zero_point)) * np.int32(weight[n, k])
            acc[m, n] = total
    return acc
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "ptq-integer_matmul-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(integer_matmul, "ptq.integer_matmul")

# %%
integer_matmul = adopt(integer_matmul, "ptq.integer_matmul")

# %% [markdown]
# The next layer wants codes again (requantization, 重新量化): $q_y = \text{round}(\text{acc} \cdot \tfrac{s_x s_w}{s_y}) + z_y$, clipped. A ReLU costs
# nothing: it is a larger lower limit.
#
# ### Exercise 6 · From sums to the next layer's codes (2 points, about 2 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def requantize_spec(acc, multiplier, zero_point, low, high):
#     codes = np.empty(acc.shape, np.uint8)
#     for m in range(acc.shape[0]):
#         for n in range(acc.shape[1]):
#             real = np.float32(acc[m, n]) * multiplier[n]
#             codes[m, n] = max(low, min(high, round(float(real)) + zero_point))
#     return codes
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "ptq-requantize", "locked": false, "schema_version": 3, "solution": true, "task": false}
def requantize(acc, multiplier, zero_point, low, high):
    """int32 [M, N], float32 [N], three ints -> uint8 [M, N]; ties to even, saturating."""
    ### BEGIN SOLUTION
    code = np.rint(acc.astype(np.float32) * multiplier) + zero_point
    return np.clip(code, low, high).astype(np.uint8)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "ptq-requantize-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(requantize, "ptq.requantize")

# %%
requantize = adopt(requantize, "ptq.requantize")

# %% [markdown]
# `convert` puts these two steps, fused into one kernel, behind every layer: a *program* of integer modules. Its predictions may
# differ from the simulation's only where a sum lies on the edge between two codes.

# %%
big = fit_all(
    built(lambda: models.VGGLike(data.shape, classes), SEEDS[:1]),
    *(data.train, 1, 0.2),
    seeds=SEEDS[:1],
    label="wider VGG-like",
)[0]
simulated = quantize_post_training(big, QuantConfig(), calibration)
program = convert(simulated)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "network.safetensors"
    file_size = storage.save(program, path)
    reloaded = storage.load(path)
agree = (
    (logits(simulated, data.test.x).argmax(1) == logits(program, data.test.x).argmax(1))
    .double()
    .mean()
)
claim(
    "Simulation and integers agree on more than 99.5 % of all test images",
    100 * float(agree) - 99.5,
    "%",
)
claim(
    "The file, read back, gives the same logits bit for bit",
    torch.equal(logits(reloaded, data.test.x), logits(program, data.test.x)),
)

# %%
claim(
    "The integer network's file is at least 3.5 times smaller than that of fp32",
    disk_bytes(big) / file_size > 3.5,
)

codes, layer = (
    program.layers[0](data.test.x[:4]),
    program.layers[1],
)  # the first convolution's input
bordered = F.pad(codes.permute(0, 3, 1, 2).float(), [1] * 4, value=layer.zero_point)
patches = F.unfold(bordered, 3).transpose(1, 2).flatten(0, 1).to(torch.uint8).numpy()
kernels = layer.codes().transpose(0, 3, 1, 2).reshape(layer.shape[0], -1)
sums = integer_matmul(patches, layer.zero_point, kernels, layer.bias.numpy())
mine = requantize(
    sums, layer.multiplier.numpy(), layer.out.zero_point, layer.out.low, layer.out.high
)
claim(
    "Your two functions give the first convolution's codes, every one of them",
    np.array_equal(mine, layer(codes).numpy().reshape(mine.shape)),
    yours=(integer_matmul, requantize),
)
Table(
    ["step", "module", "takes"],
    [
        [s.name, type(m).__name__, ", ".join(s.inputs)]
        for s, m in zip(program.steps, program.layers)
    ],
    text_columns=3,
)

# %%
runners = {
    "torch fp32": big,
    "torch fp32, norms folded": fold_batch_norms(big),
    "ours, int8": program,
    "ours, int8, step by step": program.step_by_step,
    "torch int8 (x86)": peers.torch_int8(copy.deepcopy(big), calibration),
}
file_sizes = {"torch fp32": disk_bytes(big), "ours, int8": file_size}
file_sizes["ours, int8, step by step"] = file_size
if peers.onnxruntime_available():
    runners["ONNX Runtime fp32"] = peers.onnxruntime_float(big, data.shape)
    runners["ONNX Runtime int8"] = peers.onnxruntime_int8(big, calibration)
    file_sizes |= {n: runners[n].bytes_disk for n in runners if n.startswith("ONNX")}
else:
    print(
        "ONNX Runtime is not installed (pip install compresslab[peers]); its rows are left out."
    )
milliseconds = {}
for size in (1, 64):
    images = data.test.x[:size]
    with torch.inference_mode():
        times = {n: [] for n in runners}
        for _ in range(3):  # in turn, so that a disturbance hits all alike
            for n, run in runners.items():
                times[n].append(time_call(lambda: run(images), repeats=9).median)
    milliseconds[size] = {n: 1e3 * float(np.median(t)) for n, t in times.items()}
ours = {
    size: milliseconds[size]["torch fp32"] / milliseconds[size]["ours, int8"]
    for size in milliseconds
}

# %%
claim(
    "In a batch of 64, the integer network is faster than its float self in torch, if the "
    "processor has byte dot products (VNNI)",
    ours[64] - 1,
    "times",
    timed=True,
    asked="VNNI" in instruction_set(),
)

# %%
claim(
    "For one image, one call for all steps takes less than 0.8 of the time of a call for each",
    0.8 - milliseconds[1]["ours, int8"] / milliseconds[1]["ours, int8, step by step"],
    "of the time",
    timed=True,
)
rows = []
for n, run in runners.items():
    with torch.inference_mode():
        right = 100 * float(
            (
                torch.cat([run(part) for part in data.test.x.split(1000)]).argmax(1)
                == data.test.y
            )
            .double()
            .mean()
        )
    rows.append(
        [
            n,
            in_bytes(file_sizes[n]) if n in file_sizes else "-",
            *(f"{milliseconds[s][n]:.3f}" for s in (1, 64)),
            *(f"{milliseconds[s]['torch fp32'] / milliseconds[s][n]:.1f}" for s in (1, 64)),
            f"{right:.1f}",
        ]
    )

# %%
Table(
    [
        "engine",
        "file",
        "ms, batch 1",
        "ms, batch 64",
        "fp32 / this, 1",
        "fp32 / this, 64",
        "accuracy, %",
    ],
    rows,
    f"{torch.get_num_threads()} thread(s); medians of interleaved rounds; one seed",
)

# %% [markdown]
# Read the table both ways. In a large batch arithmetic decides. At batch 1 a small network takes less time than
# Python needs to call its layers, so look at who comes back to Python between layers: torch does, and so does our
# program *step by step*, whose arithmetic is the same. In one call, it is a table of operations that a compiled function walks, as ONNX
# Runtime runs the whole graph in C++: what is saved is calling, not computing. And look at the processor: one with matrix tiles (Intel AMX)
# gives an engine that uses them for convolutions a lead over ours, whose convolutions use vector instructions. And compare each
# engine with its own fp32 row: where it quantizes, re-orders and does not fuse, int8 may cost more than its arithmetic saves.

# %% [markdown]
# ## Build it · A layer of integers
#
# ### Exercise 7 · A layer of integers (build, 16 points, about 18 lines)
#
# Calibrate, quantize, multiply, requantize: exercises 5 and 6 and lab 01 in one piece. `integer_layer(weight, bias, x)` takes a linear layer's floats and
# calibration inputs [n, inputs] and hands back five things: `(scale_x, zero_x), (scale_y, zero_y), codes, bias, run`.
#
# 1. *Ranges*: codes 0 to 255 for the inputs and for the layer's float outputs on them, from minimum to maximum, 0 included.
# 2. *What is stored*: int8 codes, symmetric with a scale $s_o$ for every output (the largest absolute weight is 127), and the bias as int32 in units of
#    $s_x s_o$.
# 3. *Runs on codes*: `run(codes)` from uint8 [m, inputs] to uint8 [m, outputs]: an exact product of integers, scaled by $s_x s_o / s_y$, rounded, shifted,
#    clipped.


# %% nbgrader={"grade": false, "grade_id": "ptq-integer_layer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def integer_layer(weight, bias, x):
    """float32 [o, i], [o], [n, i]
    -> (scale_x, zero_x), (scale_y, zero_y), codes int8, bias int32, run."""

    ### BEGIN SOLUTION
    def grid(values):
        lo, hi = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
        scale = (hi - lo) / 255
        return scale, round(-lo / scale)

    scale_x, zero_x = grid(x)
    scale_y, zero_y = grid(x @ weight.T + bias)
    scale_w = np.abs(weight).max(axis=1) / 127
    codes = np.rint(weight / scale_w[:, None]).astype(np.int8)
    whole = np.rint(bias / (scale_x * scale_w)).astype(np.int32)
    multiplier = scale_x * scale_w / scale_y

    def run(given):
        sums = (given.astype(np.int32) - zero_x) @ codes.astype(np.int32).T + whole
        return np.clip(np.rint(sums * multiplier) + zero_y, 0, 255).astype(np.uint8)

    return (scale_x, zero_x), (scale_y, zero_y), codes, whole, run
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "ptq-integer_layer-check", "locked": true, "points": 16, "schema_version": 3, "solution": false, "task": false}
check(integer_layer, "ptq.integer_layer")

# %%
integer_layer = adopt(integer_layer, "ptq.integer_layer")

# %%
generator = np.random.default_rng(SEEDS[0])
rows = []
for shift in (0.0, 3.0):
    real = generator.normal(0, 1, (64, 256)).astype(np.float32) / 16
    offset = generator.normal(0, 1, 64).astype(np.float32)
    seen = generator.normal(shift, 1, (500, 256)).astype(np.float32)
    (sx, zx), (sy, zy), stored, whole, run = integer_layer(real, offset, seen)
    given = np.clip(np.rint(seen / sx) + zx, 0, 255).astype(np.uint8)
    wanted = seen @ real.T + offset
    error = np.square((run(given).astype(np.float32) - zy) * sy - wanted).mean() / wanted.var()
    rows.append(
        [
            f"{shift:g}",
            f"{stored.nbytes + whole.nbytes:,}",
            f"{real.nbytes + offset.nbytes:,}",
            f"{-10 * np.log10(error):.1f}",
        ]
    )
Table(
    ["mean of the inputs", "bytes", "bytes of float32", "signal to noise of the outputs, dB"],
    rows,
    "a layer of 256 inputs and 64 outputs",
)

# %% [markdown]
# ### Exercise 8 · Two bits without training (open, 12 points, about 30 lines)
#
# An *open* exercise has no right answer: what you hand back is measured, here and again while grading, on images that your code does not see. Three trained perceptrons are to have weights of **two bits**, without a step of training. A layer [m, n] becomes four arrays: codes 0 to 3 (uint8 [m, n]), for each row a scale and an offset (float32 [m]), and a bias (float32 [m]). The network that is measured has the weights
#
# $$\hat w_{ij} = s_i\,q_{ij} + o_i,$$
#
# with floats everywhere else. Bronze is clearly above the grid from the smallest to the largest weight of each row, silver above clipped ranges with corrected biases. Gold is what a walk through the columns reached that lets each column make up for the errors of those before it (GPTQ, lab 11), with scales fitted to the codes afterwards.
#
# You are given weights and biases (ReLU between the layers) and 1,000 training images [n, 256] without labels. You have 20 seconds of processor time.


# %% nbgrader={"grade": false, "grade_id": "ptq-two_bits", "locked": false, "schema_version": 3, "solution": true, "task": false}
def two_bits(weights, biases, images):
    """Tuples of float32 arrays, images -> for each layer codes, scales, offsets, bias."""

    ### BEGIN SOLUTION
    def ranges(w):
        """For each row the scale and offset of least squared error."""
        best, found = np.full(len(w), np.inf), np.zeros((2, len(w)))
        for below in np.linspace(1, 0.3, 15):
            for above in np.linspace(1, 0.3, 15):
                low, high = below * w.min(axis=1), above * w.max(axis=1)
                tried = np.stack([np.maximum((high - low) / 3, 1e-12), low])
                q = np.clip(np.rint((w - low[:, None]) / tried[0][:, None]), 0, 3)
                error = np.square(q * tried[0][:, None] + low[:, None] - w).sum(axis=1)
                better = error < best
                best, found = np.where(better, error, best), np.where(better, tried, found)
        return found

    layers, x, exact = [], images, images
    for w, b in zip(weights, biases, strict=True):
        moment = (x.T @ x / len(x)).astype(float)
        moment += 0.01 * np.trace(moment) / len(moment) * np.eye(len(moment))
        factor = np.linalg.cholesky(np.linalg.inv(moment)).T
        scale, offset = ranges(w)
        for _ in range(2):
            left, codes = w.astype(float), np.zeros(w.shape, np.uint8)
            for j in range(w.shape[1]):
                codes[:, j] = np.clip(np.rint((left[:, j] - offset) / scale), 0, 3)
                error = (left[:, j] - codes[:, j] * scale - offset) / factor[j, j]
                left[:, j:] -= np.outer(error, factor[j, j:])
            fitted = []
            for row, q in zip(w, codes, strict=True):
                basis = np.stack([q, np.ones(len(q))])
                grams = basis @ moment @ basis.T, basis @ moment @ row
                fitted.append(np.linalg.lstsq(*grams, rcond=None)[0])
            scale, offset = np.array(fitted).T
        scale, offset = scale.astype(np.float32), offset.astype(np.float32)
        rounded = codes * scale[:, None] + offset[:, None]
        wanted = exact @ w.T + b
        bias = (wanted - x @ rounded.T).mean(axis=0).astype(np.float32)
        layers.append((codes, scale, offset, bias))
        x, exact = np.maximum(x @ rounded.T + bias, 0), np.maximum(wanted, 0)
    return tuple(layers)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "ptq-two_bits-check", "locked": true, "points": 12, "schema_version": 3, "solution": false, "task": false}
check(two_bits, "ptq.two_bits")

# %%
two_bits = adopt(two_bits, "ptq.two_bits")

# %% [markdown]
# ## The fourth need: energy
#
# Energy (能耗) is estimated: every multiplication and addition at its price in a 45 nm process (Horowitz 2014), and every byte of the file read once from memory, which costs as much as hundreds of additions. In eight bits both parts shrink. A cast to 16 bits (半精度) halves the file and asks for nothing else; whether it is quicker, the processor decides: see what it multiplies by itself.

# %%
import compresslab as cl

as_float = cl.measure(big, data, "float32")
as_half = cl.measure(copy.deepcopy(big).half(), data, "float16, a cast")
as_int8 = cl.measure(program, data, "int8")
claim(
    "By the estimate int8 takes less than a third of the float network's energy",
    1 / 3 - as_int8.energy / as_float.energy,
    "of the energy",
)
claim(
    "A cast to float16 moves the accuracy by less than a fifth of a point",
    0.2 - abs(as_half.accuracy - as_float.accuracy),
    "points",
)
cl.table(
    as_float,
    as_half,
    cl.measure(copy.deepcopy(big).bfloat16(), data, "bfloat16, a cast"),
    as_int8,
)

# %%
per_image = {
    name: cl.measure.joules(lambda: run(data.test.x[:64]))
    for name, run in (("float32", big), ("int8", program))
}
print(
    "Joules by the processor's own counters: this machine does not let them be read."
    if None in per_image.values()
    else "By the processor's own counters, µJ an image (the whole socket, idling included): "
    + ", ".join(f"{name} {1e6 * spent / 64:.0f}" for name, spent in per_image.items())
)

# %% [markdown]
# ## torch's own way, and what became of it
#
# Two of the articles behind this course quantize in torch by `prepare` and `convert` on the network as it is written. That way (*eager mode*) asks for stubs in the network's code that mark where codes begin and end. Without them it converts in silence, and fails at the first image. It is deprecated: ask torch what it says of itself.

# %%
eager = torch.ao.quantization
stubless = copy.deepcopy(big)
stubless.qconfig = eager.get_default_qconfig("x86")
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    observed = eager.prepare(stubless)
    observed(data.train.x[:50])
    converted = eager.convert(observed)
try:
    converted(data.test.x[:1])
    refused = False
except NotImplementedError as error:
    refused = True
    print(str(error).partition(". ")[0])
print(
    next(
        (str(w.message).partition(".\n")[0] for w in warned if "deprecated" in str(w.message)),
        "",
    )
)
claim("Without stubs, what eager mode has converted does not run", refused)

# %% [markdown]
# ## Longer than a lab · Which networks bear few bits
#
# What follows takes minutes for each seed: it was run over several seeds, and its rows are kept beside the code (`compresslab/longer/bears_quantization.py`). With `COMPRESSLAB_LONGER=1` in the environment a cell runs one seed here as well; `compresslab longer bears_quantization` runs them all anew.
#
# It is often said that VGG, ResNet and MobileNet are friendly to quantization, and that Transformers, recurrent networks, very small ones and depthwise layers are sensitive; MobileNet, whose layers are depthwise, stands on both lists. Here seven networks are treated alike. Before you look: which loses most at W4A4, that is, with weights (W) and activations (A) in 4 bits?

# %%
from compresslab.longer import show_longer

show_longer("bears_quantization")

# %% [markdown]
# Which layer is to blame? Two questions: what does it cost *alone* in 4 bits, and what is left of the whole loss if it alone is *spared*? A layer deserves more bits if it costs much alone *and* little is left when it is spared. (Weights only: with activations at 4 bits as well, section 3, the depthwise network loses more.)

# %%
show_longer("layer_to_blame")

# %% [markdown]
# And *inside* a Transformer? At equal bytes, bits can be moved from the feed-forward layers to attention, or the other way.

# %%
show_longer("attention_bits")

# %% [markdown]
# The nearest code is best for a weight alone, and not for the sum that it is part of: two weights that are both rounded up make an error together that one up and one down would not. AdaRound (自适应舍入; Nagel et al. 2020) learns for each weight whether up or down brings the *layer's output* nearer to the float one, from the calibration images alone; `cl.Quantize(3, rounding="learned")` does it. Beside it stands what an epoch of training with labels gives (lab 03).

# %%
show_longer("learned_rounding")

# %% [markdown]
# ## When *not* to
#
# - Below 4 bits, rounded to the nearest code: learn the roundings, or train through them (lab 03).
# - Tiny networks at batch 1: calling costs more than computing; measure first.
# - Layers whose activations have outliers that matter (large language models, lab 11).
#
# ## What the papers say, what we measured
#
# The networks, data and machines of the papers are others than ours: compare directions and sizes, not digits.

# %%
Table(
    ["quantity", "source", "says", "here"],
    [
        [
            "int8, scale a channel: points lost",
            "Nagel et al. 2021, section 3.6 (ResNet-18)",
            "about 0.1",
            f"{fp32['VGG-like'][0] - int8['VGG-like'][0]:.2f}",
        ],
        [
            "depthwise, scale a tensor: points lost, then evened out",
            "Nagel et al. 2019, table 1 (MobileNetV2, 8 bits)",
            "71.6, then 1.8",
            f"{points_lost['folded']:.1f}, then {points_lost['folded, evened out']:.1f} (4 "
            "bits)",
        ],
        [
            "size of int8 against fp32",
            "Jacob et al. 2018, section 1",
            "4x smaller",
            f"{disk_bytes(big) / file_size:.1f}x",
        ],
    ],
    text_columns=2,
)

# %% [markdown] nbgrader={"grade": true, "grade_id": "written-ptq_written", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# ## Written question (2 points)
#
# Your int8 network is exactly as accurate as the float one on the test set, but users report nonsense on photographs
# taken at night. Which step of this lab would you suspect, how would you confirm it, and what are two ways to
# mend it without training?
#
# *Your answer (double-click here to write it):*

# %% [markdown]
# ## Recap
#
# - Ranges decide: a few images, clipped where the error is least, a weight scale a channel.
# - Structure decides who breaks: depthwise first; fold, even out, correct.
# - Spend bits where they matter, and run on integers from first to last: one float multiplier a channel leads on to the next layer.
#
# **Back:** [Lab 01 · Numbers](01_numbers.ipynb) · **Next:** [Lab 03 · Quantization-aware training and fine-tuning](03_quantization_aware_training.ipynb)
#
# **References.** Nagel et al. 2021, *A white paper on neural network quantization*, arXiv:2106.08295 · Nagel et al.
# 2019, *Data-free quantization*, arXiv:1906.04721 · Jacob et al. 2018, arXiv:1712.05877 · Wu et al. 2020, *Integer
# quantization for deep learning inference*, arXiv:2004.09602 · Migacz 2017, *8-bit inference with TensorRT*, GTC ·
# Dong et al. 2019, *HAWQ*, arXiv:1905.03696 · Vanhoucke, Senior and Mao 2011, *Improving the speed of neural networks on CPUs*, NIPS workshop on deep learning (8-bit products on a CPU, before all of these)
