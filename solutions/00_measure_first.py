# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Lab 00 · Measure first
#
# **You will** count parameters, bytes and multiplications, time a network fairly, and say what limits it.
# **Time:** 75 minutes to work through; it runs in half a minute.
#
# Model compression (模型压缩) makes a trained network smaller, faster or less hungry without making it
# noticeably worse. The numbers of every later lab are these: bytes on disk, parameters, multiplications,
# milliseconds, accuracy. Here we build the table that holds them, and learn to distrust it.

# %%
import copy
import time

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compresslab import measure
from compresslab.lab import (
    Table,
    adopt,
    begin,
    check,
    claim,
    explore,
    in_bytes,
    in_units,
    load,
    models,
    pareto,
    plain_log_ticks,
    predict,
    table,
    trained,
    use_style,
)

# %%
use_style()
SEEDS = begin()

# %% [markdown]
# ## Why bother? One picture
#
# GPT-3 has 175 billion parameters (Brown et al. 2020). How much memory do its weights take, and who has
# that much?

# %%
GPT3 = 175_000_000_000
memory = {"phone": 8e9, "laptop": 16e9, "one 80 GB accelerator": 80e9, "eight of them": 640e9}
figure, axes = plt.subplots(figsize=(7, 2.6))
sizes = {"GPT-3 in fp32": 4 * GPT3, **memory}
axes.plot([size / 1e9 for size in sizes.values()], list(sizes), "o", markersize=9)
axes.plot(sizes["GPT-3 in fp32"] / 1e9, "GPT-3 in fp32", "o", markersize=9, color="#D55E00")
axes.invert_yaxis()
axes.set(xscale="log", xlabel="gigabytes (logarithmic)")
plain_log_ticks(axes.xaxis)
plt.show()

# %% [markdown]
# Four needs meet in every deployment, and each has its own number:
#
# | need | number | unit |
# |---|---|---|
# | size (存储大小) | bytes of the file and in memory | B |
# | compute (计算量) | multiply-accumulates, MACs (乘加次数) | per example |
# | energy (能耗) | arithmetic plus memory traffic | µJ per example |
# | quality (准确率) | accuracy on data never trained on | % ± sd over seeds |
#
# Latency (延迟), the milliseconds a user waits, follows from size, compute and the machine, in ways that nobody
# can work out on paper. It is the one that must be *measured*.

# %% [markdown]
# ## 1 · Size
#
# A parameter of $b$ bits takes $b/8$ bytes. Files have whole bytes, and packed parameters share them.
#
# ### Exercise 1 · Bytes of packed parameters (1 point, about 1 line)
#
# The slow, obvious version. It would take hours on a language model; yours needs no loop.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def parameter_bytes_spec(parameters, bits):
#     full, used = 0, 0  # whole bytes, and bits in the byte being filled
#     for _ in range(parameters * bits):
#         used += 1
#         if used == 8:
#             full, used = full + 1, 0
#     return full + (1 if used else 0)  # a byte that is only partly filled counts
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "measuring-parameter_bytes", "locked": false, "schema_version": 3, "solution": true, "task": false}
def parameter_bytes(parameters, bits):
    """Whole bytes that `parameters` numbers take at `bits` bits each, packed without gaps."""
    ### BEGIN SOLUTION
    return (parameters * bits + 7) // 8
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "measuring-parameter_bytes-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(parameter_bytes, "measuring.parameter_bytes")

# %%
parameter_bytes = adopt(parameter_bytes, "measuring.parameter_bytes")

# %%
fits = predict(
    "At which width do GPT-3's weights first fit into one accelerator of 80 GB?",
    ["16 bits", "8 bits", "4 bits", "3 bits", "2 bits"],
)

# %%
widths = {bits: parameter_bytes(GPT3, bits) for bits in (32, 16, 8, 4, 3, 2)}
first_fit = next(bits for bits, size in widths.items() if size <= 80e9)

# %%
fits.reveal(f"{first_fit} bits")
claim("In fp16, GPT-3's weights take 350 GB", widths[16] == 350e9)
claim(
    "At 16 bits five accelerators of 80 GB (A100) hold them, and four do not",
    4 < widths[16] / 80e9 <= 5,
)
claim("4 bits a weight are still too many for one accelerator of 80 GB", widths[4] > 80e9)

# %%
Table(
    ["bits a weight", "GPT-3's weights", "accelerators of 80 GB"],
    [[str(b), in_bytes(size), str(int(-(-size // 80e9)))] for b, size in widths.items()],
)

# %% [markdown]
# ## 2 · Compute
#
# One multiply-accumulate (MAC) is $a \leftarrow a + w\,x$. Papers that count FLOPs (floating-point operations) usually count it as two.
# A linear layer with $I$ inputs and $O$ outputs does $I\cdot O$; applied to a text, it does so at every *position*
# (every word). A
# convolution (卷积) uses each of its weights once at every *output* position:
#
# $$\text{MACs} = k_h\,k_w \cdot \frac{C_\text{in}}{g} \cdot C_\text{out} \cdot H_\text{out}\,W_\text{out}$$
#
# with $g$ groups (分组): each output channel sees only $C_\text{in}/g$ input channels.
#
# ### Exercise 2 · MACs of a linear layer (1 point, about 1 line)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def linear_macs_spec(inputs, outputs, positions):
#     macs = 0
#     for position in range(positions):
#         for output in range(outputs):
#             macs += inputs             # y[output] = sum of inputs products
#     return macs
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "measuring-linear_macs", "locked": false, "schema_version": 3, "solution": true, "task": false}
def linear_macs(inputs, outputs, positions=1):
    """MACs of one example through a linear layer that is applied at every position."""
    ### BEGIN SOLUTION
    return positions * inputs * outputs
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "measuring-linear_macs-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(linear_macs, "measuring.linear_macs")

# %%
linear_macs = adopt(linear_macs, "measuring.linear_macs")

# %% [markdown]
# ### Exercise 3 · MACs of a convolution (2 points, about 2 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def conv2d_macs_spec(inputs, outputs, kernel, output_size, groups):
#     macs = 0
#     for channel in range(outputs):
#         for y in range(output_size[0]):
#             for x in range(output_size[1]):
#                 for seen in range(inputs // groups):
#                     macs += kernel[0] * kernel[1]
#     return macs
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "measuring-conv2d_macs", "locked": false, "schema_version": 3, "solution": true, "task": false}
def conv2d_macs(inputs, outputs, kernel, output_size, groups=1):
    """MACs of one image; `kernel` and `output_size` are (height, width)."""
    ### BEGIN SOLUTION
    weights = kernel[0] * kernel[1] * (inputs // groups) * outputs
    return weights * output_size[0] * output_size[1]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "measuring-conv2d_macs-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(conv2d_macs, "measuring.conv2d_macs")

# %%
conv2d_macs = adopt(conv2d_macs, "measuring.conv2d_macs")

# %% [markdown]
# ### Count a real one: VGG-16
#
# VGG-16 (Simonyan and Zisserman 2015) is the classic heavyweight. On torch's *meta* device a network has
# shapes but no memory, so we can build it here and count it with your two functions.

# %%
heavy = predict(
    "Which layers of VGG-16 hold most of its parameters?",
    ["the first convolutions", "the last convolutions", "the first linear layer"],
)

# %%
with torch.device("meta"):
    vgg16 = models.VGG16()
layers, sizes = [], {}


def remember_size(layer, inputs, output):
    sizes[layer] = tuple(output.shape[-2:])


for layer in vgg16:
    layer.register_forward_hook(remember_size)

# %%
vgg16(torch.zeros(1, 3, 224, 224, device="meta"))
for layer in vgg16:
    parameters = sum(p.numel() for p in layer.parameters())
    if isinstance(layer, nn.Conv2d):
        macs = conv2d_macs(
            layer.in_channels, layer.out_channels, layer.kernel_size, sizes[layer]
        )
        layers.append((f"conv {layer.out_channels}", parameters, macs))
    elif isinstance(layer, nn.Linear):
        macs = linear_macs(layer.in_features, layer.out_features)
        layers.append((f"linear {layer.out_features}", parameters, macs))

names, parameters, macs = zip(*layers)
figure, axes = plt.subplots(figsize=(8, 3.6))
places = np.arange(len(names))
axes.bar(places - 0.2, 100 * np.array(parameters) / sum(parameters), 0.4, label="parameters")
axes.bar(places + 0.2, 100 * np.array(macs) / sum(macs), 0.4, label="MACs", hatch="//")
axes.set_xticks(places, names, rotation=60, ha="right", fontsize=9)
axes.set(ylabel="share of the network, %", title="VGG-16: weights sit here, work sits there")
axes.legend()
plt.show()

# %%
with FlopCounterMode(display=False) as torch_counter:
    vgg16(torch.zeros(1, 3, 224, 224, device="meta"))
linear_share = sum(p for n, p in zip(names, parameters) if n.startswith("linear")) / sum(
    parameters
)
conv_work = sum(m for n, m in zip(names, macs) if n.startswith("conv")) / sum(macs)
heaviest = names[int(np.argmax(parameters))]

# %%
heavy.reveal("the first linear layer" if heaviest == "linear 4096" else "the last convolutions")
claim(
    "torch's own counter finds the same total", torch_counter.get_total_flops() == 2 * sum(macs)
)
claim("VGG-16 has 138 million parameters", round(sum(parameters) / 1e6) == 138)
claim(
    "VGG-16's parameters take more than 500 MB in fp32",
    parameter_bytes(sum(parameters), 32) > 500e6,
)
claim("One image costs between 30 and 32 GFLOPs", 30e9 < 2 * sum(macs) < 32e9)
claim("More than 80 % of the weights are in linear layers", linear_share > 0.8)
claim("More than 95 % of the work is in convolutions", conv_work > 0.95)

# %% [markdown]
# So "compress *VGG-16*" is two questions (and other networks answer them otherwise: count first). To shrink the *file*, go for
# the linear layers; to save
# *work*, go for the convolutions.

# %% [markdown]
# ## 3 · Quality: the baselines
#
# The course's data are *glyphs*: letters in 22 fonts, five of which appear only in the test set. Accuracy
# is reported as mean ± standard deviation over seeds (随机种子), because one run proves little. The networks below were trained
# for different numbers of epochs, at rates that suit them: three points to measure, not a fair race of architectures. The
# package carries them, so that every machine measures the same weights.

# %%
data = load(size=16, train_size=8_000, seed=SEEDS[0])
print(data)
figure, axes = plt.subplots(2, 12, figsize=(9, 1.9))
for index, axis in enumerate(axes.flat):
    part = data.train if index < 12 else data.test
    image = part.x[index].permute(1, 2, 0).squeeze()
    axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    axis.set_title(data.classes[part.y[index]], fontsize=9, pad=2)
    axis.axis("off")
figure.suptitle("above: training, below: test (other fonts)", fontsize=10)
plt.show()

# %%
networks = {
    "MLP": trained("mlp", data, SEEDS),
    "VGG-like, small": trained("vgg", data, SEEDS),
    "depthwise": trained("depthwise-small", data, SEEDS),
}

# %% [markdown]
# ## 4 · Time
#
# Timing looks easy and is not. The first calls fill caches and compile things; now and then something
# else takes the processor. Look at 300 calls of the same network on the same input.

# %%
network, batch = networks["VGG-like, small"][0], data.test.x[:1]
with torch.inference_mode():
    times = 1e3 * np.array(measure.call_times(lambda: network(batch), warmup=0, repeats=300))
figure, axes = plt.subplots(figsize=(7, 3))
axes.plot(times, ".", markersize=4, label="one call")
axes.axhline(np.mean(times), color="#D55E00", linestyle="--", label="mean")
axes.axhline(np.median(times), color="#009E73", label="median")
axes.set(
    xlabel="call",
    ylabel="milliseconds",
    yscale="log",
    title="One network, one image, 300 calls",
)
plain_log_ticks(axes.yaxis)
axes.legend()
plt.show()
print(
    f"median {np.median(times):.3f} ms, mean {np.mean(times):.3f} ms, "
    f"slowest {times.max():.3f} ms: a few slow calls pull the mean up, and leave the median "
    "alone"
)

# %% [markdown]
# ### Exercise 4 · A fair timing loop (2 points, about 7 lines)
#
# Write the loop: `warmup` calls that are not timed, then `repeats` timed ones, each between two readings of
# `clock()`; return the *median*. (The check hands you a clock of its own, so nothing depends on luck.)


# %% nbgrader={"grade": false, "grade_id": "measuring-fair_time", "locked": false, "schema_version": 3, "solution": true, "task": false}
def fair_time(call, clock, warmup, repeats):
    """Median duration of `call()`, after `warmup` calls that do not count."""
    ### BEGIN SOLUTION
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        times.append(clock() - start)
    return float(np.median(times))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "measuring-fair_time-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(fair_time, "measuring.fair_time")

# %%
fair_time = adopt(fair_time, "measuring.fair_time")

# %%
cheaper = predict(
    "64 images in one batch, against 64 times one image: how much cheaper is an image in the "
    "batch?",
    ["slower", "less than twice", "at least twice"],
)

# %%
per_image = {}
for size in (1, 4, 16, 64):
    images = data.test.x[:size]
    with torch.inference_mode():
        seconds = fair_time(lambda: network(images), time.perf_counter, 3, 21)
    per_image[size] = 1e6 * seconds / size
ratio = per_image[1] / per_image[64]

# %%
cheaper.reveal("at least twice" if ratio >= 2 else "less than twice" if ratio > 1 else "slower")
claim("An image is cheaper in a batch of 64 than alone", ratio - 1, "times", timed=True)

# %%
Table(
    ["batch", "µs per image"],
    [[str(size), f"{micro:.0f}"] for size, micro in per_image.items()],
    f"{torch.get_num_threads()} thread(s)",
)

# %% [markdown]
# One reason is that each layer has a fixed cost (calling it, checking shapes), which a batch shares; another, that large
# products use the processor better. So every latency in this course names its batch, and its threads (线程), which change
# it too; and fewer MACs do not always mean less time.

# %% [markdown]
# ## 5 · What is the limit? The roofline
#
# A layer must do its MACs, and must move its weights, inputs and outputs. Both happen at once, so it takes at least
#
# $$t \ge \max\left(\frac{\text{MACs}}{\text{MACs per second}},\ \frac{\text{bytes}}{\text{bytes per second}}\right)$$
#
# If the first is larger, it is *compute-bound* (计算受限), else *memory-bound* (访存受限). Compression in
# bits helps the second; fewer or cheaper operations help the first. Williams et al. (2009) call the
# picture of it a roofline (屋顶线).
#
# ### Exercise 5 · Memory-bound or compute-bound? (2 points, about 3 lines)
#
# Give the least time in seconds, and `"compute"` or `"memory"`; where both take as long, `"compute"`.


# %% nbgrader={"grade": false, "grade_id": "measuring-roofline", "locked": false, "schema_version": 3, "solution": true, "task": false}
def roofline(macs, bytes_moved, macs_per_second, bytes_per_second):
    """Least seconds a layer can take, and "compute" or "memory" for what decides (a tie:
    "compute")."""
    ### BEGIN SOLUTION
    compute, memory = macs / macs_per_second, bytes_moved / bytes_per_second
    return max(compute, memory), "compute" if compute >= memory else "memory"
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "measuring-roofline-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(roofline, "measuring.roofline")

# %%
roofline = adopt(roofline, "measuring.roofline")

# %% [markdown]
# Two numbers describe this machine, and we measure both: a large matrix product and a large copy. Then we
# time one big linear layer, 2048 to 2048, at growing batch sizes and hold it against its bound.

# %%
bound_at_1 = predict(
    "A 2048 x 2048 linear layer on a single input: what limits it?", ["compute", "memory"]
)

# %%
limits = measure.machine_limits()
print(
    f"this machine, {limits.threads} thread(s): {limits.macs_per_second / 1e9:.0f} GMAC/s in "
    "fp32, "
    f"{limits.bytes_per_second / 1e9:.0f} GB/s"
)
SIDE, BATCHES = 2048, (1, 2, 4, 8, 16, 32, 64, 128, 256)
weights = [
    torch.randn(SIDE, SIDE) for _ in range(8)
]  # taken in turn, so that no cache holds them all
measured, bounds, kinds = [], [], []
for size in BATCHES:
    x, turn = torch.randn(size, SIDE), iter(range(10**9))
    seconds = fair_time(lambda: x @ weights[next(turn) % 8].T, time.perf_counter, 2, 9)
    moved = 4 * (SIDE * SIDE + 2 * size * SIDE)
    bound, kind = roofline(
        size * SIDE * SIDE, moved, limits.macs_per_second, limits.bytes_per_second
    )
    measured.append(seconds)
    bounds.append(bound)
    kinds.append(kind)

# %%
bound_at_1.reveal(kinds[0])
claim(
    "By the bound, one input through a large linear layer waits for memory",
    kinds[0] == "memory",
    timed=True,
)
claim(
    "By the bound, 256 inputs through it wait for arithmetic",
    kinds[-1] == "compute",
    timed=True,
)
claim(
    "No batch is answered faster than its bound (but for a third that clocks may be off)",
    min(m / b for m, b in zip(measured, bounds)) - 0.67,
    "times",
    timed=True,
)

# %%
figure, axes = plt.subplots(figsize=(7, 3.6))
axes.loglog(BATCHES, 1e3 * np.array(measured), "o-", label="measured")
axes.loglog(BATCHES, 1e3 * np.array(bounds), "--", color="#D55E00", label="roofline bound")
knee = kinds.index("compute")
axes.axvspan(BATCHES[0], BATCHES[knee - 1], alpha=0.12, color="#E69F00", label="memory-bound")
axes.set(
    xlabel="batch size", ylabel="milliseconds", title=f"Linear layer {SIDE} x {SIDE}, fp32"
)
plain_log_ticks(axes.xaxis)
plain_log_ticks(axes.yaxis)
axes.legend()
plt.show()

# %% [markdown]
# On the left the *bound* is flat: reading the weights alone takes that long. The measured line lies above it, and may rise
# earlier, because no real product reaches both limits at once. The bound says what cannot be beaten, not what you get.
# Where it is flat, weights of a quarter of the bytes take at best a quarter of the time: the case of a language model
# that writes one word after another (lab 11).
#
# Where does the knee move on another machine? Try it: the measured numbers of this one are the start.


# %%
def draw_knee(gmacs_per_second, gbytes_per_second, bits):
    batches = 2.0 ** np.arange(0, 11)
    compute = batches * SIDE * SIDE / (gmacs_per_second * 1e9)
    memory = np.full_like(batches, SIDE * SIDE * bits / 8 / (gbytes_per_second * 1e9))
    figure, axes = plt.subplots(figsize=(7, 3))
    axes.loglog(batches, 1e3 * compute, label="arithmetic")
    axes.loglog(batches, 1e3 * memory, label="weights read")
    axes.loglog(batches, 1e3 * np.maximum(compute, memory), "k:", linewidth=3, label="bound")
    axes.set(xlabel="batch size", ylabel="milliseconds", ylim=(1e-4, 1e2))
    axes.legend()


explore(
    draw_knee,
    gmacs_per_second=ipywidgets.IntSlider(round(limits.macs_per_second / 1e9), 10, 1000, 10),
    gbytes_per_second=ipywidgets.IntSlider(round(limits.bytes_per_second / 1e9), 5, 400, 5),
    bits=[32, 16, 8, 4, 2, 1],
)

# %% [markdown]
# ## 6 · The table
#
# `measure` counts, weighs, times and tests. Bytes are those of a file really written; energy is an
# *estimate* from published figures per operation (Horowitz 2014; the memory read as in Han et al. 2015), good for
# comparing, not for billing. BOPs (位运算数) weigh each MAC by the bits of its two operands; *non-zero* counts the
# parameters that pruning (lab 04) has left.

# %%
rows = [measure.measure(found, data, name) for name, found in networks.items()]
table(rows)

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
pareto(rows, lambda m: m.bytes_disk / 1e3, "file, kB", axes[0])
pareto(rows, lambda m: 1e3 * m.latency[1].median, "latency at batch 1, ms", axes[1])
plt.show()

# %% [markdown]
# Compare energy with MACs: a network may do the fewest multiplications and still take the most energy, because fetching its
# weights from memory costs more than multiplying with them. These are the prices of the estimate:

# %%
Table(
    ["operation", "energy, pJ"],
    [[name, f"{price:g}"] for name, price in measure.energy.PICOJOULES.items()],
    "45 nm, 0.9 V: Horowitz 2014, figure 1.1.9; the byte from DRAM: Han et al. 2015, table 1",
)

# %%
by_name = {m.name: m for m in rows}
mlp, depthwise = by_name["MLP"], by_name["depthwise"]
claim(
    "The convolutional networks are more accurate than the MLP",
    min(m.accuracy for m in rows if m is not mlp) - mlp.accuracy,
    "points",
)
claim(
    "The convolutional networks have smaller files than the MLP",
    all(m.bytes_disk < mlp.bytes_disk for m in rows if m is not mlp),
)
claim("The MLP does the fewest multiplications", mlp.macs == min(m.macs for m in rows))
claim(
    "And by the estimate it takes the most energy: fetching its weights costs more than "
    "multiplying with them",
    mlp.energy == max(m.energy for m in rows),
)
claim(
    "The smallest file is not the fastest: the MLP, with the largest, answers sooner at batch "
    "1 than the "
    "depthwise network",
    depthwise.latency[1].median / mlp.latency[1].median - 1,
    "times",
    timed=True,
)

# %% [markdown]
# **The control.** A difference between two networks means something only beside the difference between
# two *seeds* of one network. Here are both.

# %%
between = by_name["VGG-like, small"].accuracy - mlp.accuracy
within = max(m.accuracy_sd for m in rows)
print(f"between networks: {between:.1f} points; largest sd over seeds: {within:.1f} points")
claim(
    "VGG-like and MLP differ by more than three standard deviations over seeds",
    between - 3 * within,
    "points",
)

# %% [markdown]
# **The cheapest compression that there is** is a cast of every weight to 16 bits (半精度, half precision). It halves the file; whether it saves time depends on the processor. The table compares the multilayer perceptron (MLP) with its casts; lab 01 says where the two formats differ.

# %%
halves = [
    measure.measure(
        [copy.deepcopy(n).to(dtype) for n in networks["MLP"]], data, f"MLP, {name}: a cast"
    )
    for name, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16))
]
table([mlp, *halves])

# %% [markdown]
# ## Build it · Count any network
#
# `measure` counts whatever runs, and so can you. A *build* is judged in stages: each has a point, a later one counts only when those
# before it are right, and the check says which stage is next.
#
# ### Exercise 6 · Count any network (build, 12 points, about 18 lines)
#
# Hand back the number of parameters (all of them, each once) and the MACs of **one** example, whatever the batch.
#
# 1. *Linear layers*: inputs x outputs for each.
# 2. *Convolutions*: as in exercise 3, with strides and groups; the output's size is known only when the network runs. `register_forward_hook`
#    calls your function with `(layer, inputs, output)` and hands back a handle.
# 3. *Layers that run twice* work twice, and have their parameters once. Layers that never run work not at all.
# 4. *As it was*: no hook stays, the mode is as before, and the running means of batch norms have not moved.
#
# Only `nn.Linear` and `nn.Conv2d` multiply here.


# %% nbgrader={"grade": false, "grade_id": "measuring-count_network", "locked": false, "schema_version": 3, "solution": true, "task": false}
def count_network(network, x):
    """A module and a batch that it takes -> (parameters, MACs of one example), both int."""
    ### BEGIN SOLUTION
    macs = 0

    def count(layer, inputs, output):
        nonlocal macs
        if isinstance(layer, nn.Linear):
            macs += layer.in_features * output[0].numel()
        else:
            seen = layer.in_channels // layer.groups * layer.weight[0, 0].numel()
            macs += seen * output[0].numel()

    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    training = network.training
    network.eval()
    with torch.no_grad():
        network(x)
    network.train(training)
    for handle in handles:
        handle.remove()
    return sum(p.numel() for p in network.parameters()), macs
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "measuring-count_network-check", "locked": true, "points": 12, "schema_version": 3, "solution": false, "task": false}
check(count_network, "measuring.count_network")

# %%
count_network = adopt(count_network, "measuring.count_network")

# %%
rows = []
for name, made in networks.items():
    weights, products = count_network(made[0], data.test.x[:3])
    rows.append([name, f"{weights:,}", f"{products:,}", f"{products / weights:.0f}"])
Table(["network", "parameters", "MACs", "MACs / parameter"], rows, "one image")

# %% [markdown]
# ### Exercise 7 · A clock that lies (open, 9 points, about 8 lines)
#
# An *open* exercise has no right answer: what you choose is measured, here and again while grading, on numbers that your code does not see. Here it is four hundred
# pairs of functions that were timed in turn: a call of the first, a call of the second, and again. The machine is simulated, so that the true times are known, and it does
# what machines do: the first calls are slow, the frequency falls and rises for both alike, every time is a little off, and now and then something else runs in between, which
# only adds. How many times faster is the first function of each pair? Counted are ratios within a hundredth of the true one. Bronze is clearly above the ratio of two
# smallest times, gold is what looking for the densest place of the ratios reached.
#
# `one` and `other` are float64 [pairs, calls] in seconds; a column holds calls that followed one another.


# %% nbgrader={"grade": false, "grade_id": "measuring-times_faster", "locked": false, "schema_version": 3, "solution": true, "task": false}
def times_faster(one, other):
    """Seconds float64 [pairs, calls] twice
    -> float64 [pairs]: how many times faster the first one is."""
    ### BEGIN SOLUTION
    logs = np.log(other[:, 5:] / one[:, 5:])
    middle = np.median(logs, axis=1, keepdims=True)
    for width in (0.13, 0.08, 0.07):
        near = np.exp(-(((logs - middle) / width) ** 2) / 2)
        middle = (logs * near).sum(1, keepdims=True) / near.sum(1, keepdims=True)
    return np.exp(middle[:, 0])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "measuring-times_faster-check", "locked": true, "points": 9, "schema_version": 3, "solution": false, "task": false}
check(times_faster, "measuring.times_faster")

# %%
times_faster = adopt(times_faster, "measuring.times_faster")

# %% [markdown]
# ## What the papers say, what we measured
#
# The networks, data and machines of the papers are others than ours: compare directions and sizes, not digits.

# %%
Table(
    ["quantity", "source", "says", "here"],
    [
        [
            "VGG-16, parameters",
            "Simonyan & Zisserman 2015, table 2",
            "138 M",
            in_units(sum(parameters)),
        ],
        ["VGG-16, MACs", "Sze et al. 2017, table II", "15.5 G", in_units(sum(macs))],
        [
            "GPT-3 in fp16",
            "Frantar et al. 2023, section 1",
            "326 GiB",
            f"{widths[16] / 2**30:.0f} GiB",
        ],
    ],
    text_columns=2,
)

# %% [markdown] nbgrader={"grade": true, "grade_id": "written-when_not", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# ## Written question (2 points)
#
# A colleague reports: "I pruned 90 % of the weights, so the network is ten times smaller and ten times
# faster." Name three numbers you would ask for, and for each say how you would measure it so that you
# believe it.
#
# *Your answer (double-click here to write it):*

# %% [markdown]
# ## Recap
#
# - Count what can be counted (bytes, MACs), measure what must be (milliseconds), and say how.
# - Weights and work sit in different layers; a layer is limited by memory *or* by arithmetic.
# - No result without its control: seeds first, then the alternative that costs the same.
#
# **Do not** compress before you have counted and timed: what is large is often not what is slow.
#
# **Back:** [Start](start.ipynb) · **Next:** [Lab 01 · Numbers](01_numbers.ipynb): what a bit is worth.
#
# **References.** Brown et al. 2020, *Language models are few-shot learners*, arXiv:2005.14165 · Simonyan and
# Zisserman 2015, arXiv:1409.1556 · Sze et al. 2017, *Efficient processing of deep neural networks*,
# arXiv:1703.09039 · Williams, Waterman and Patterson 2009, *Roofline*, doi:10.1145/1498765.1498785 ·
# Horowitz 2014, *Computing's energy problem*, ISSCC · Han et al. 2015, arXiv:1506.02626 · Frantar et al. 2023, *GPTQ*, arXiv:2210.17323
