# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Lab 07 · Slim by design
#
# **You will** swap the blocks of one network for cheaper ones, one at a time, and find out which of them are cheaper only on paper.
# **Time:** 95 minutes to work through; it runs in one to three minutes, by processor.
#
# Instead of shrinking a trained network one can draw a slim one (轻量化网络设计): depthwise-separable convolutions (深度可分离卷积), groups
# (分组卷积), factorised kernels, bottlenecks, pooled heads, shared parameters (参数共享). Each has a formula for its weights and its
# multiplications. No formula knows your processor.

# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

# %%
from compresslab.lab import (
    COLOURS,
    MARKERS,
    Table,
    accuracy,
    adopt,
    agreement,
    begin,
    built,
    check,
    claim,
    compared,
    count_layers,
    disk_bytes,
    explore,
    fit_all,
    in_bytes,
    in_units,
    load,
    mean_sd,
    models,
    pareto_front,
    plain_log_ticks,
    predict,
    race_networks,
    use_style,
)
from compresslab.techniques import blocks

# %%
use_style()
SEEDS = begin()

# %% [markdown]
# ## A hook: far fewer multiplications, and the clock?
#
# One 3x3 convolution, 64 to 64 channels on an 8x8 image, and its separable twin: a 3x3 filter for each channel alone
# (*depthwise*), then a 1x1 convolution that mixes channels (*pointwise*).


# %%
def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


def arranged(network):
    """Channels last in memory: the order in which torch's convolutions are fastest here."""
    return network.to(memory_format=torch.channels_last)


pair = {
    "standard": arranged(blocks.Standard(64, 64)),
    "separable": arranged(blocks.Separable(64, 64)),
}
hook_macs = {n: sum(c.macs for c in count_layers(m, (64, 8, 8))) for n, m in pair.items()}
hook_time = race_networks(pair, channels_last(torch.rand(1, 64, 8, 8)))
fewer, faster = (
    hook_macs["standard"] / hook_macs["separable"],
    hook_time["standard"] / hook_time["separable"],
)
figure, axes = plt.subplots(figsize=(6, 2))
axes.barh(["multiplications", "time, one image"], [fewer, faster], color=["#0072B2", "#D55E00"])
axes.axvline(1, color="black", lw=1)
axes.set(xlabel="standard block over separable block (beyond 1: the separable one takes less)")
plt.show()
claim(
    "Seven times fewer multiplications do not make a single image even twice as fast",
    2 - faster,
    "times",
    timed=True,
)

# %% [markdown]
# ## 1 · What it costs on paper
#
# A standard convolution from c to m channels with k x k kernels has $k^2cm$ weights and uses each of them at every position of the output.
#
# ### Exercise 1 · What a separable convolution costs (1 point, about 2 lines)
#
# Weights (no norms, no biases) and MACs on an output of `height` x `width`.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def separable_cost_spec(inputs, outputs, kernel, height, width):
#     weights = macs = 0
#     for channel in range(inputs):
#         for _ in range(kernel * kernel):
#             weights, macs = weights + 1, macs + height * width
#     for _ in range(inputs):
#         for _ in range(outputs):
#             weights, macs = weights + 1, macs + height * width
#     return weights, macs
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "slim-separable_cost", "locked": false, "schema_version": 3, "solution": true, "task": false}
def separable_cost(inputs, outputs, kernel, height, width):
    """Five ints -> weights, MACs."""
    ### BEGIN SOLUTION
    weights = inputs * (kernel**2 + outputs)
    return weights, weights * height * width
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "slim-separable_cost-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(separable_cost, "slim.separable_cost")

# %%
separable_cost = adopt(separable_cost, "slim.separable_cost")
counted = sum(c.macs for c in count_layers(blocks.Separable(24, 40), (24, 8, 6)))
claim(
    "Your formula is what the counter counts",
    separable_cost(24, 40, 3, 8, 6)[1] == counted,
    yours=separable_cost,
)


def draw_saving(outputs, kernel):
    widths = np.arange(8, 257, 8)
    shares = [
        100 * separable_cost(int(c), outputs, kernel, 1, 1)[0] / (kernel**2 * c * outputs)
        for c in widths
    ]
    figure, axes = plt.subplots(figsize=(6, 2.8))
    axes.plot(widths, shares)
    axes.axhline(100 / kernel**2, color="black", ls=":", lw=1, label="1 / k²")
    axes.set(xlabel="input channels", ylabel="of the standard cost, %", ylim=(0, 60))
    axes.legend()


explore(draw_saving, outputs=(8, 256, 8), kernel=(3, 7, 2))

# %% [markdown]
# ### Exercise 2 · One filter a channel (2 points, about 6 lines)
#
# The depthwise layer itself, without padding.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def depthwise_spec(x, weight):
#     channels, height, width = x.shape
#     k = weight.shape[1]
#     out = np.zeros((channels, height - k + 1, width - k + 1), np.float32)
#     for c, y, z in np.ndindex(out.shape):
#         for i in range(k):
#             for j in range(k):
#                 out[c, y, z] += weight[c, i, j] * x[c, y + i, z + j]
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "slim-depthwise", "locked": false, "schema_version": 3, "solution": true, "task": false}
def depthwise(x, weight):
    """float32 [channels, h, w], float32 [channels, k, k]
    -> float32 [channels, h - k + 1, w - k + 1]."""
    ### BEGIN SOLUTION
    k = weight.shape[1]
    height, width = x.shape[1] - k + 1, x.shape[2] - k + 1
    out = np.zeros((len(x), height, width), np.float32)
    for i in range(k):
        for j in range(k):
            out += weight[:, i, j, None, None] * x[:, i : i + height, j : j + width]
    return out
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "slim-depthwise-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(depthwise, "slim.depthwise")

# %%
depthwise = adopt(depthwise, "slim.depthwise")
image, filters = torch.rand(5, 9, 7), torch.randn(5, 3, 3)
theirs = nn.functional.conv2d(image[None], filters[:, None], groups=5)[0]
claim(
    "Torch's grouped convolution with one group a channel computes the same",
    agreement(depthwise(image.numpy(), filters.numpy()), theirs, atol=1e-4),
    "tolerances",
)

# %% [markdown]
# Why, then, is it no faster? Let the image grow, and time the depthwise layer alone.

# %%
SIDES = (2, 4, 8, 16, 32)
pair["its depthwise layer alone"] = pair["separable"][0]
by_side = {
    side: race_networks(pair, channels_last(torch.rand(1, 64, side, side))) for side in SIDES
}
figure, axes = plt.subplots(figsize=(6, 3))
for name, marker in zip(pair, "os^"):
    axes.plot(SIDES, [1e6 * by_side[side][name] for side in SIDES], marker=marker, label=name)
axes.set(
    xlabel="side of the image, pixels (64 channels, batch 1)",
    ylabel="microseconds",
    xscale="log",
    yscale="log",
    xticks=SIDES,
)
axes.set_xticks([], minor=True)
axes.set_xticklabels(SIDES)
plain_log_ticks(axes.yaxis)
axes.legend(fontsize=9)
plt.show()
grown = by_side[32]["its depthwise layer alone"] / by_side[4]["its depthwise layer alone"]

# %%
claim(
    "From 4x4 to 32x32, 64 times the work, the depthwise layer's time grows less than tenfold",
    10 - grown,
    "times",
    timed=True,
)
claim(
    "The larger the image, the better the separable block does",
    by_side[32]["standard"] / by_side[32]["separable"]
    - by_side[4]["standard"] / by_side[4]["separable"],
    "times",
    timed=True,
)

# %% [markdown]
# A call of this layer has a price of its own, which a small image cannot earn back; and the block has two layers, norms and activations instead of one.
#
# ## 2 · Groups
#
# Between standard and depthwise lie g groups, each a convolution of its own on its share of the channels; together they have a g-th of the weights. Two such layers in a row
# would never exchange anything across groups. ShuffleNet (Zhang et al. 2018) deals the channels out anew in between: the first channel of every group,
# then the second of every group …
#
# ### Exercise 3 · Groups that meet again (2 points, about 3 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def shuffle_spec(x, groups):
#     out = np.empty_like(x)
#     size = x.shape[1] // groups
#     for group in range(groups):
#         for place in range(size):
#             out[:, place * groups + group] = x[:, group * size + place]
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "slim-shuffle", "locked": false, "schema_version": 3, "solution": true, "task": false}
def shuffle(x, groups):
    """float32 [n, channels, h, w], an int that divides the channels
    -> the same shape, channels dealt out anew."""
    ### BEGIN SOLUTION
    n, channels, *rest = x.shape
    dealt = x.reshape(n, groups, channels // groups, *rest).swapaxes(1, 2)
    return np.ascontiguousarray(dealt).reshape(x.shape)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "slim-shuffle-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(shuffle, "slim.shuffle")

# %%
shuffle = adopt(shuffle, "slim.shuffle")
owners = np.repeat(np.arange(4), 6).reshape(1, 24, 1, 1).astype(np.float32)
figure, axes = plt.subplots(2, 1, figsize=(8, 1.8))
for axis, row, title in zip(
    axes,
    (owners, shuffle(owners, 4)),
    ("channels by the group they come from", "after the shuffle"),
):
    axis.imshow(row.reshape(1, -1), cmap="viridis", aspect="auto")
    for border in (6, 12, 18):
        axis.axvline(border - 0.5, color="white", lw=3)
    axis.set_title(title, fontsize=10)
    axis.set_axis_off()
plt.show()
after = shuffle(owners, 4).reshape(4, 6)
claim(
    "Every group of the next layer now hears from every group of this one",
    all(len(set(row)) == 4 for row in after.tolist()),
)
claim(
    "The shuffle is torch's channel shuffle",
    np.array_equal(shuffle(owners, 4), nn.ChannelShuffle(4)(torch.from_numpy(owners)).numpy()),
)

# %% [markdown]
# ## 3 · What a stack sees
#
# Two 3x3 convolutions see what one 5x5 sees (receptive field, 感受野) with 18 instead of 25 weights a pair of channels (if as many go in as come out); a row of 1xk and a column of
# kx1 see k x k with 2k weights instead of $k^2$. Both come from Inception: V2 and V3 in Szegedy et al. 2016, sections 3.1 and 3.2.
#
# ### Exercise 4 · What a stack sees (2 points, about 4 lines)
#
# How many pixels in a row, from the first to the last, does one output look at? Walk back from it, last layer first: the
# places from a to b behind a layer with kernel k and stride s need those from $a s$ to $b s + k - 1$ before it.


# %% nbgrader={"grade": false, "grade_id": "slim-receptive_field", "locked": false, "schema_version": 3, "solution": true, "task": false}
def receptive_field(kernels, strides):
    """Two tuples of ints, from the first layer to the last -> an int."""
    ### BEGIN SOLUTION
    field, step = 1, 1
    for kernel, stride in zip(kernels, strides):
        field += (kernel - 1) * step
        step *= stride
    return field
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "slim-receptive_field-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(receptive_field, "slim.receptive_field")

# %%
receptive_field = adopt(receptive_field, "slim.receptive_field")
claim(
    "Two 3x3 kernels see what a 5x5 sees, three what a 7x7 sees",
    (receptive_field((3, 3), (1, 1)) == 5 and receptive_field((3, 3, 3), (1, 1, 1)) == 7),
)
slimmest = predict(
    "Six versions of one network, trained alike. Which block gives the fastest network for "
    "one image?",
    ["standard", "grouped", "separable", "bottleneck", "1xk then kx1", "1xk beside kx1"],
)
best_small = predict(
    "A narrow ordinary network with as many multiplications as the separable one: which is "
    "better, and which is faster?",
    [
        *("separable is better, narrow is faster", "narrow is better, separable is faster"),
        *("narrow is better and faster", "separable is better and faster"),
    ],
)

# %% [markdown]
# ## 4 · One at a time
#
# The same network with every inner convolution replaced, the same steps, three seeds. Three blocks have not been explained yet:
# a *bottleneck* (瓶颈) goes down to fewer channels by a 1x1 convolution, has its 3x3 there, and comes back up by another 1x1;
# *1xk then kx1* puts the row and the column of section 3 one behind the other; *1xk beside kx1* takes half of the outputs from
# each. All end in a *pooled head*: the mean of each channel over the image (global average pooling, 全局平均池化; Lin et al. 2013, section 3.2), then one small linear layer. The control: the ordinary network, made *narrow* until it has
# no more multiplications than the separable one.

# %%
data = load(size=16, train_size=2200, seed=SEEDS[0])
CLASSES, EPOCHS, RATE = len(data.classes), 4, 0.4
STEM, WIDTHS = data.shape[0], (16, 32, 64)
POSITIONS = (data.shape[1] // 4) * (data.shape[2] // 4)


def network(block, widths=WIDTHS, kernel=3, head=None):
    first, second, third = widths
    head = head or blocks.PooledHead(third, CLASSES)
    return arranged(
        nn.Sequential(
            *(blocks.Standard(STEM, first), nn.MaxPool2d(2)),
            *(block(first, second, kernel), block(second, second, kernel), nn.MaxPool2d(2)),
            *(block(second, third, kernel), block(third, third, kernel), head),
        )
    )


def fitted(build, label):
    return fit_all(built(build, SEEDS), data.train, EPOCHS, RATE, seeds=SEEDS, label=label)


BUILDERS = {name: (lambda kind=kind: network(kind)) for name, kind in blocks.BLOCKS.items()}
BUILDERS["narrow"] = lambda: network(blocks.Standard, (8, 12, 20))
contestants = {name: fitted(build, name) for name, build in BUILDERS.items()}


# %%
def described(found):
    """Parameters, MACs, milliseconds for 1 and 64 images, mean and sd of the accuracy, by
    name."""
    firsts = {name: networks[0] for name, networks in found.items()}
    times = [race_networks(firsts, channels_last(data.test.x[:batch])) for batch in (1, 64)]
    rows = {}
    for name, networks in found.items():
        parameters = sum(p.numel() for p in firsts[name].parameters())
        macs = sum(c.macs for c in count_layers(firsts[name], data.shape))
        one, many = (1e3 * t[name] for t in times)
        rows[name] = (parameters, macs, one, many, *accuracy(networks, data.test))
    return rows


def as_table(rows, caption):
    headings = ["network", "parameters", "MACs", "ms, batch 1", "ms, batch 64", "accuracy, %"]
    cells = [
        [n, in_units(p), in_units(m), f"{one:.3f}", f"{many:.2f}", mean_sd(mean, sd)]
        for n, (p, m, one, many, mean, sd) in rows.items()
    ]
    return Table(
        headings, cells, f"{caption}; one thread, torch, channels last; {len(SEEDS)} seeds"
    )


# %%
rows = described(contestants)
separable, narrow, standard = rows["separable"], rows["narrow"], rows["standard"]

# %%
slimmest.reveal(min((n for n in rows if n != "narrow"), key=lambda n: rows[n][2]))

# %%
better = "narrow" if narrow[4] > separable[4] else "separable"
quicker = "narrow" if narrow[2] < separable[2] else "separable"

# %%
best_small.reveal(
    f"{better} is better and faster"
    if better == quicker
    else f"{better} is better, {quicker} is faster"
)
claim(
    "For one image the separable network takes longer than the standard one",
    separable[2] / standard[2] - 1,
    "times",
    timed=True,
)
claim(
    "The separable network has less than a fifth of the standard one's multiplications",
    separable[1] < standard[1] / 5,
)

# %%
claim(
    "The bottleneck, of 1x1 convolutions around one 3x3, has less than a third of the standard "
    "one's multiplications",
    rows["bottleneck"][1] < standard[1] / 3,
)
claim(
    "A row and a column of weights (1xk, then kx1) have fewer multiplications than the square",
    rows["1xk then kx1"][1] < standard[1],
)
claim(
    "The narrow network has no more multiplications than the separable one and is faster, for "
    "one image and for 64",
    min(separable[2] / narrow[2], separable[3] / narrow[3]) - 1,
    "times",
    timed=True,
)
print(compared("narrow", narrow[4:6], "separable", separable[4:6]))
claim(
    "In accuracy the standard network beats the separable one",
    standard[4] - separable[4],
    "points",
)

# %%
as_table(rows, f"{EPOCHS} epochs each, rate {RATE}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
for axes, index, label in (
    (left, 1, "MACs, thousands"),
    (right, 2, "milliseconds for one image"),
):
    scale = 1e-3 if index == 1 else 1
    points = [(row[index] * scale, row[4]) for row in rows.values()]
    front = [points[i] for i in pareto_front(points)]
    axes.plot(*zip(*front), color="0.6", lw=1.5, zorder=1)
    for (name, row), (x, y), colour, marker in zip(rows.items(), points, COLOURS, MARKERS):
        axes.errorbar(
            x, y, row[5], capsize=3, color=colour, marker=marker, ls="none", label=name
        )
    axes.set(xlabel=label, xscale="log" if index == 1 else "linear")
plain_log_ticks(left.xaxis)
left.set_ylabel("test accuracy, %")
right.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
on_paper = {list(rows)[i] for i in pareto_front([(r[1], r[4]) for r in rows.values()])}
on_clock = {list(rows)[i] for i in pareto_front([(r[2], r[4]) for r in rows.values()])}

# %%
print(
    f"on the Pareto front by MACs: {', '.join(sorted(on_paper))}; by the clock: "
    f"{', '.join(sorted(on_clock))}"
)
claim(
    "By the clock, fewer blocks are on the front than by MACs",
    len(on_paper) - len(on_clock),
    "networks",
    timed=True,
)
claim(
    "By the clock, the separable network is not on the front",
    "separable" not in on_clock,
    timed=True,
)

# %% [markdown]
# The rate is the same for all and the steps are few: it does not suit the bottlenecks, which have the most layers and have not settled. Is the order a matter of that?
# Let `EPOCHS` be 20 and see. On other machines, with larger images or with code written for it, the clock may say something else: measure.
#
# ### Two 3x3 for a 5x5, and the head
#
# Two older ideas: two small filters in the place of a large one, and what stands behind the last convolution.

# %%
EXTRA = {
    "5x5": lambda: network(blocks.Standard, kernel=5),
    "two 3x3 for each 5x5": lambda: network(
        lambda inputs, outputs, _kernel: blocks.TwoThrees(inputs, outputs)
    ),
    "wide linear head": lambda: network(
        blocks.Standard, head=blocks.FlatHead(WIDTHS[-1], POSITIONS, CLASSES, 128)
    ),
}
others = {"standard (pooled head)": contestants["standard"]}
for name, build in EXTRA.items():
    others[name] = fitted(build, name)
more = described(others)
pooled, wide, five, threes = (
    more["standard (pooled head)"],
    more["wide linear head"],
    more["5x5"],
    more["two 3x3 for each 5x5"],
)

# %%
claim("Two 3x3 have fewer multiplications than the 5x5 they replace", threes[1] < five[1])
claim(
    "Two 3x3 take longer for 64 images than the 5x5, or save less than a tenth of the time",
    threes[3] / five[3] - 0.9,
    "times",
    timed=True,
)
claim("The pooled head has less than two thirds of the parameters", pooled[0] < wide[0] * 2 / 3)
claim(
    "The pooled head is no worse than the wide one, to within half a point",
    pooled[4] - (wide[4] - 0.5),
    "points",
)
with torch.device("meta"):
    vgg = models.VGG16()
    slim_vgg = nn.Sequential(
        *list(vgg)[: next(i for i, m in enumerate(vgg) if isinstance(m, nn.Flatten))],
        blocks.PooledHead(512, 1000),
    )
    vgg_parameters = [sum(p.numel() for p in m.parameters()) for m in (vgg, slim_vgg)]
claim(
    "In VGG-16 the head is almost nine tenths of all parameters",
    vgg_parameters[1] < 0.12 * vgg_parameters[0],
)
print(
    f"VGG-16: {in_units(vgg_parameters[0])} parameters, with a pooled head "
    f"{in_units(vgg_parameters[1])}"
)
as_table(more, f"{EPOCHS} epochs each")

# %% [markdown]
# ## 5 · Shared: stored once, paid every time
#
# ALBERT (Lan et al. 2019) uses one block for all its layers. What does that save?
#
# ### Exercise 5 · Stored once, paid every time (1 point, about 2 lines)
#
# A network as a list of block names and their weights; the same name is the same block. Every block is applied at `positions` positions.
# Give the weights that are stored, each block's once, and all multiplications, one a weight and position each time that a block is used.


# %% nbgrader={"grade": false, "grade_id": "slim-shared_cost", "locked": false, "schema_version": 3, "solution": true, "task": false}
def shared_cost(layers, weights, positions):
    """A tuple of names, a tuple of ints, an int -> weights in the file, MACs of one example."""
    ### BEGIN SOLUTION
    return sum(dict(zip(layers, weights)).values()), positions * sum(weights)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "slim-shared_cost-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(shared_cost, "slim.shared_cost")

# %%
shared_cost = adopt(shared_cost, "slim.shared_cost")
saves = predict(
    "Four equal blocks in a row, or one block four times: what does sharing save?",
    ["bytes and time", "bytes only", "time only"],
)

# %%
TIMES, BODY = 4, 32


def stack(shared, own_norms=True):
    if shared:
        repeated = [blocks.Repeated(blocks.Standard(BODY, BODY), TIMES, own_norms)]
    else:
        repeated = [blocks.Standard(BODY, BODY) for _ in range(TIMES)]
    return arranged(
        nn.Sequential(
            *(
                blocks.Standard(STEM, 16),
                nn.MaxPool2d(2),
                blocks.Standard(16, BODY),
                nn.MaxPool2d(2),
            ),
            *(*repeated, blocks.PooledHead(BODY, CLASSES)),
        )
    )


sharing = {
    "four blocks": fitted(lambda: stack(False), "four blocks"),
    "one block, four times": fitted(lambda: stack(True), "one block, four times"),
    "its batch norm shared, too": fitted(
        lambda: stack(True, own_norms=False), "norms shared, too"
    ),
}

# %%
shared_rows = described(sharing)
separate, shared = shared_rows["four blocks"], shared_rows["one block, four times"]
files = [disk_bytes(networks[0]) for networks in sharing.values()]
ratio = shared[2] / separate[2]

# %%
saves.reveal("bytes only" if ratio > 0.85 else "bytes and time")
claim(
    "One block's weights four times: your formula says so",
    shared_cost(("b",) * TIMES, (9 * BODY**2,) * TIMES, 1)
    == (9 * BODY**2, TIMES * 9 * BODY**2),
    yours=shared_cost,
)
claim("Sharing makes the file less than half as large", files[1] < files[0] / 2)
claim(
    "Sharing saves no time worth the name: less than a quarter of it",
    0.25 - abs(ratio - 1),
    "times",
    timed=True,
)
print(compared("shared", shared[4:6], "with layers of their own", separate[4:6]))
claim(
    "A batch norm must not be shared: that costs more than 5 points",
    shared[4] - shared_rows["its batch norm shared, too"][4] - 5,
    "points",
)

# %%
as_table(shared_rows, f"files {', '.join(in_bytes(f) for f in files)}; {EPOCHS} epochs each")

# %% [markdown]
# A shared batch norm averages over all depths and fits none of them. (ALBERT has layer norms, which keep no averages.)
#
# ALBERT's other saving: words of a vocabulary v into a narrow space e, then into the network's width d, $ve + ed$ instead of $vd$ parameters. That is lab 06's rank e, chosen before training. For BERT-base's 30,522 words, d = 768 and ALBERT's e = 128:

# %%
full, factorised = (
    30_522 * 768,
    blocks.FactorisedEmbedding.cost(30_522, 768, 128, tokens=1).parameters,
)
claim("The factorised embedding has less than a fifth of the parameters", factorised < full / 5)
print(f"{in_units(full)} -> {in_units(factorised)} parameters")

# %% [markdown]
# ## Build it · MobileNetV2's block
#
# ### Exercise 6 · MobileNetV2's block (build, 8 points, about 18 lines)
#
# Sandler et al. 2018 (section 3.3, figure 4d): a 1x1 convolution widens to inputs x expansion channels, a 3x3 depthwise one with the stride filters, a 1x1 one
# makes it narrow again. Each is followed by a batch norm; after the first two norms stands `nn.ReLU6`. `inverted_residual(inputs, outputs, stride,
# expansion)` hands back an `nn.Module` (define its class inside of the function).
#
# 1. *Parameters*: convolutions have no bias; with an expansion of 1 there is nothing to widen, and the first convolution is left out.
# 2. *Shapes*: the stride is the depthwise convolution's, whose padding keeps the image's size.
# 3. *The connection*: the input is added where the stride is 1 **and** both widths are equal, and nowhere else.
# 4. *A linear end*: what is negative comes through the last norm.


# %% nbgrader={"grade": false, "grade_id": "slim-inverted_residual", "locked": false, "schema_version": 3, "solution": true, "task": false}
def inverted_residual(inputs, outputs, stride, expansion):
    """Four int -> nn.Module, from [n, inputs, h, w] to [n, outputs, h / stride, w / stride]."""
    ### BEGIN SOLUTION
    nn, wide = torch.nn, inputs * expansion
    layers = []
    if expansion > 1:
        layers += [nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
    layers += [
        nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU6(),
        nn.Conv2d(wide, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
    ]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(*layers)

        def forward(self, x):
            y = self.body(x)
            return x + y if stride == 1 and inputs == outputs else y

    return Block()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "slim-inverted_residual-check", "locked": true, "points": 8, "schema_version": 3, "solution": false, "task": false}
check(inverted_residual, "slim.inverted_residual")

# %%
inverted_residual = adopt(inverted_residual, "slim.inverted_residual")

# %%
rows = []
for inputs, outputs, stride, expansion in ((16, 16, 1, 6), (16, 24, 2, 6), (24, 24, 1, 3)):
    block = inverted_residual(inputs, outputs, stride, expansion)
    plain = torch.nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    numbers = [sum(p.numel() for p in m.parameters()) for m in (block, plain)]
    rows.append(
        [f"{inputs} to {outputs}, stride {stride}", expansion, *(f"{n:,}" for n in numbers)]
    )
Table(["block", "expansion", "parameters", "of one 3x3 convolution"], rows)

# %% [markdown]
# ## Build it · A search that evolves
#
# So far you chose the shapes. Neural architecture search (神经架构搜索) lets a program choose: a space of shapes, a way to judge one (a *look*, which costs a training), and a way to come to the next. The one that you build evolves (进化搜索; Real et al. 2019, algorithm 1).
#
# ### Exercise 7 · A search that evolves (build, 8 points, about 16 lines)
#
# `evolve(start, neighbours, fits, worth, looks, generator)`: `start` is a list of shapes that fit, all different; `neighbours(shape)` gives a list of the shapes one change away, `fits(shape)` says whether one is within the budget, `worth(shape)` is a look: the higher the better. A shape is a tuple.
#
# 1. *Looks are counted*: first at all of `start`, then at one shape after another, `looks` in all. No shape twice, none that does not fit.
# 2. *The best comes back*: of all that were ever looked at.
# 3. *Children of the last ones*: the population is as large as `start`. Each child is a neighbour of a shape in it, drawn from those that fit and are new; it comes in at the end, and the **oldest** leaves. If nobody in the population has such a neighbour, the search is over.
# 4. *The better of two*: of those in the population that have a new neighbour, `generator` draws two different ones, and the better one is the parent. (If only one has, it is.)


# %% nbgrader={"grade": false, "grade_id": "slim-evolve", "locked": false, "schema_version": 3, "solution": true, "task": false}
def evolve(start, neighbours, fits, worth, looks, generator):
    """List of tuples, three functions of a tuple, int, np.random.Generator
    -> the best tuple that was seen."""
    ### BEGIN SOLUTION
    seen = {shape: worth(shape) for shape in start}
    population = list(start)

    def new(shape):
        return [near for near in neighbours(shape) if fits(near) and near not in seen]

    while len(seen) < looks and any(new(shape) for shape in population):
        parents = [shape for shape in population if new(shape)]
        pair = generator.choice(len(parents), min(2, len(parents)), replace=False)
        around = new(max((parents[i] for i in pair), key=lambda shape: seen[shape]))
        child = around[generator.integers(len(around))]
        seen[child] = worth(child)
        population = [*population[1:], child]
    return max(seen, key=lambda shape: seen[shape])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "slim-evolve-check", "locked": true, "points": 8, "schema_version": 3, "solution": false, "task": false}
check(evolve, "slim.evolve")

# %%
evolve = adopt(evolve, "slim.evolve")

# %% [markdown]
# ### Exercise 8 · Twenty thousand multiplications (open, 6 points, about 35 lines)
#
# An *open* exercise has no right answer: what you hand back is measured, here and again while grading, on numbers that your code does not see. Which shape would you give a network that may
# multiply 20,000 times an image (the perceptron of lab 00 does it five times as often)? You design it, and you train it, in 20 seconds of processor time, with torch; the library is not there while grading.
#
# A network is a tuple of convolutions `(weight, bias, stride, padding)`: weight float32 [out, in / groups, height, width], as many groups as the weight says, ReLU between them, and at the end
# the mean over the positions that are left. A norm is folded into weight and bias. A fully connected layer is a kernel as large as its picture. A layer multiplies as often as its weight has numbers,
# at every output position. Bronze is above 3x3 convolutions whose pictures stay large, gold is what our best shape reached.


# %% nbgrader={"grade": false, "grade_id": "slim-slim_network", "locked": false, "schema_version": 3, "solution": true, "task": false}
def slim_network(images, labels, budget):
    """float32 [4000, 1, 16, 16], int64, int -> tuple of (weight, bias, stride, padding)."""
    ### BEGIN SOLUTION
    # Smaller pictures early, where channels are few; the last map is read by one kernel of its
    # size.
    torch.manual_seed(0)
    shapes = ((1, 4, 5, 2, 2), (4, 8, 3, 2, 1), (8, 52, 4, 1, 0))
    convolutions = [torch.nn.Conv2d(i, o, k, s, p, bias=False) for i, o, k, s, p in shapes]
    norms = [torch.nn.BatchNorm2d(layer.out_channels) for layer in convolutions]
    last = torch.nn.Conv2d(shapes[-1][1], 26, 1)
    blocks = [(c, n, torch.nn.ReLU()) for c, n in zip(convolutions, norms, strict=True)]
    network = torch.nn.Sequential(*(part for block in blocks for part in block), last)
    x, y, epochs = torch.from_numpy(images), torch.from_numpy(labels), 28
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for epoch in range(epochs):
        for batch in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            found = network(x[batch]).mean((2, 3))
            torch.nn.functional.cross_entropy(found, y[batch]).backward()
            optimizer.step()
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - (epoch + 1) / epochs)
    layers = []
    for layer, norm in zip(convolutions, norms, strict=True):
        factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
        weight = (layer.weight * factor[:, None, None, None]).detach().numpy()
        bias = (norm.bias - norm.running_mean * factor).detach().numpy()
        layers.append((weight, bias, layer.stride[0], layer.padding[0]))
    return (*layers, (last.weight.detach().numpy(), last.bias.detach().numpy(), 1, 0))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "slim-slim_network-check", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
check(slim_network, "slim.slim_network")

# %%
slim_network = adopt(slim_network, "slim.slim_network")

# %% [markdown]
# ## In the course's own measures
#
# What this lab made, with the cheapest step of all in front: a cast to 16 bits (半精度), which halves the file and asks for nothing else. Energy (能耗) is an estimate: operations and the file read once, at the prices of a 45 nm process (Horowitz 2014).

# %%
import compresslab as cl

blocks_as_they_are = contestants["standard"]
cl.table(
    cl.measure(blocks_as_they_are, data, "float32"),
    cl.measure([copy.deepcopy(n).half() for n in blocks_as_they_are], data, "float16, a cast"),
    cl.measure(
        [copy.deepcopy(n).bfloat16() for n in blocks_as_they_are], data, "bfloat16, a cast"
    ),
    cl.measure(contestants["separable"], data, "separable"),
    cl.measure(contestants["narrow"], data, "narrow"),
)

# %% [markdown]
# ## Longer than a lab · Searching the shape
#
# What follows takes minutes for each seed: it was run over several seeds, and its rows are kept beside the code (`compresslab/longer/shape_search.py`). With `COMPRESSLAB_LONGER=1` in the environment a cell runs one seed here as well; `compresslab longer shape_search` runs them all anew.
#
# Real shapes now, under a budget of bytes and of time, which a table of single layers predicts: grid, random draws and the search above, each with as many looks. Every search needs such a control: a rule of thumb that looks at as many shapes.

# %%
from compresslab.longer import show_longer

show_longer("shape_search")

# %% [markdown]
# Each look costs a training. A once-for-all network (Cai et al. 2020) trains one set of weights for all widths, of which any can be cut out.

# %%
show_longer("once_for_all")

# %% [markdown]
# Section 5 counted the parameters of a factorised embedding; here it is trained. The control has as many bytes: whole vectors, for the most frequent words only.

# %%
show_longer("factorised_embedding")

# %% [markdown]
# ## What the papers say, what we measured
#
# The networks, data and machines of the papers are others than ours: compare directions and sizes, not digits.

# %%
papers = [
    [
        "separable against standard, accuracy",
        "Howard et al. 2017, table 4 (ImageNet)",
        "-1.1 points",
        f"{separable[4] - standard[4]:+.1f} (after few steps)",
    ],
    ["MACs, standard over separable", "the same", "8.6", f"{standard[1] / separable[1]:.1f}"],
    [
        "time, standard over separable",
        "-",
        "not given",
        f"{standard[2] / separable[2]:.2f} (one image), {standard[3] / separable[3]:.2f} (64)",
    ],
]

# %%
Table(
    ["finding", "source", "paper", "here"],
    [
        *papers,
        [
            "parameters, ALBERT-base over BERT-base",
            "Lan et al. 2019, table 1",
            "12 M / 108 M",
            f"{shared[0] / separate[0]:.2f} of the network",
        ],
        [
            "speed, the same pair",
            "the same, table 2 (training)",
            "1.2 times",
            f"{1 / ratio:.2f} times (inference)",
        ],
    ],
    text_columns=2,
)

# %% [markdown] nbgrader={"grade": true, "grade_id": "written-slim_written", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# ## Written question (2 points)
#
# A paper reports that a new block needs a fifth of the multiplications "and is therefore five times faster". Which measurements on which machine would you ask for,
# and which ordinary network would you set beside it?
#
# *Your answer (double-click here to write it):*

# %% [markdown]
# ## Recap
#
# - Every slim block has a formula for weights and MACs; the clock has another opinion, above all at batch 1.
# - The peer of a slim block is a narrow ordinary network with as many multiplications; here it was the faster of the two.
# - Sharing saves bytes and no time (look what it does to accuracy); a pooled head saves most of an old network's parameters.
#
# **Do not use it** unmeasured: not depthwise layers for single images on a processor like this one, not sharing where time is what you lack.
#
# **Back:** [Lab 06 · Low rank](06_low_rank.ipynb) · **Next:** [Lab 08 · Distillation](08_distillation.ipynb)
#
# **References.** Lin et al. 2013, *Network in network*, arXiv:1312.4400 · Simonyan and Zisserman 2015, arXiv:1409.1556 · He et al. 2016, arXiv:1512.03385 ·
# Szegedy et al. 2016, arXiv:1512.00567 · Howard et al. 2017, *MobileNets*, arXiv:1704.04861 · Zhang et al. 2018, *ShuffleNet*, arXiv:1707.01083 ·
# Lan et al. 2019, *ALBERT*, arXiv:1909.11942
