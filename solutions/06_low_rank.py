# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Lab 06 · Low rank
#
# **You will** write a layer as two thinner ones, choose how thin, let the inputs have a say, split convolutions, and teach a
# frozen network something new with two per cent of its weights.
# **Time:** 145 minutes to work through; it runs in one to three minutes, by processor.
#
# A matrix of rank k is a product of two thin ones. A trained layer is *nearly* of low rank; low-rank factorization (低秩分解)
# keeps the nearest such matrix and drops the rest.

# %%
import copy
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_sample_image

# %%
from compresslab.lab import (
    Examples,
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
    evaluate,
    explore,
    fit,
    fit_all,
    in_bytes,
    in_units,
    load,
    mean_sd,
    models,
    predict,
    race_networks,
    seed_everything,
    side_by_side,
    trained,
    use_style,
)

# %%
from compresslab.techniques import lora, lowrank, scores
from compresslab.techniques.prune import prune_and_tune

use_style()
SEEDS = begin()

# %% [markdown]
# ## A hook: a picture in a few lines
#
# Any matrix is $W = U S V^\top$: directions of the output, directions of the input, and how strongly each pair is joined (singular values,
# 奇异值, largest first). Keep k of them:

# %%
picture = load_sample_image("china.jpg").mean(axis=2) / 255
picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
U, S, VT = np.linalg.svd(picture, full_matrices=False)


def draw_picture(rank):
    kept = U[:, :rank] * S[:rank] @ VT[:rank]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    for axis, image in zip(axes, (picture, kept)):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)
        axis.set_axis_off()
    share = rank * sum(picture.shape) / picture.size
    axes[0].set_title(f"{picture.size:,} numbers")
    axes[1].set_title(f"rank {rank}: {100 * share:.0f} % of the numbers")


explore(draw_picture, rank=(1, 120, 1))

# %% [markdown]
# ## 1 · Two thin layers for one
#
# $$W \approx B A,\qquad A = \sqrt{S_k}\,V_k^\top\;[k, n],\qquad B = U_k\sqrt{S_k}\;[m, k]$$
#
# No other matrix of rank k is nearer to W, and the squared error is the sum of the squared singular values left out (Eckart and
# Young 1936). The square root goes to both sides so that both factors train at the same pace.
#
# ### Exercise 1 · Two thin factors (2 points, about 3 lines)
#
# Give A, then B. `np.linalg.svd(weight, full_matrices=False)` gives U, S (a vector), V transposed.


# %% nbgrader={"grade": false, "grade_id": "low_rank-svd_factors", "locked": false, "schema_version": 3, "solution": true, "task": false}
def svd_factors(weight, rank):
    """float32 [m, n], int -> A [rank, n] and B [m, rank], both float32."""
    ### BEGIN SOLUTION
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    half = np.sqrt(s[:rank])
    return half[:, None] * vt[:rank], u[:, :rank] * half
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "low_rank-svd_factors-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(svd_factors, "low_rank.svd_factors")

# %%
svd_factors = adopt(svd_factors, "low_rank.svd_factors")

# %% [markdown]
# Are trained weights special? A network, trained, and the same network as it began:

# %%
data = load(size=16, train_size=8_000, seed=SEEDS[0])
CLASSES, EPOCHS, TUNE = len(data.classes), 10, 3  # EPOCHS: what the networks were trained for


def on_test(networks, examples=None):
    return accuracy(networks, data.test if examples is None else examples)


def adam(rate):
    """The optimizer of a network, for `fit_all`."""
    return lambda n: torch.optim.Adam([p for p in n.parameters() if p.requires_grad], rate)


networks = trained("mlp", data, SEEDS)
beginnings = built(lambda: models.MLP(data.shape, CLASSES), SEEDS)
dense = on_test(networks)


def energy_kept(network, name):
    squared = lowrank.spectrum(network.get_submodule(name)).square()
    return (squared.cumsum(0) / squared.sum()).numpy()


# %%
half_energy = {}
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
for axis, name in zip(axes, ("1", "3")):
    for label, found, style in (("trained", networks, "-"), ("as it began", beginnings, "--")):
        curves = np.stack([energy_kept(n, name) for n in found])
        axis.plot(np.arange(1, curves.shape[1] + 1), 100 * curves.mean(0), style, label=label)
        half_energy[name, label] = int((curves.mean(0) < 0.5).sum()) + 1
    outputs, inputs = networks[0].get_submodule(name).weight.shape
    axis.axvline(
        lowrank.break_even(outputs, inputs),
        color="black",
        lw=1,
        ls=":",
        label="break-even rank",
    )
    axis.set(xlabel="rank", title=f"layer {name}: {outputs} x {inputs}", ylim=(0, 102))
axes[0].set_ylabel("energy kept, %")
axes[0].legend(fontsize=9)
plt.show()
claim(
    "The trained hidden layers' energy lies in far fewer directions: half of it in at most "
    "half as many",
    min(half_energy[n, "as it began"] / 2 - half_energy[n, "trained"] for n in ("1", "3")),
    "directions",
)

# %% [markdown]
# Two factors have $k(m+n)$ numbers, the matrix $mn$.
#
# ### Exercise 2 · When does it pay? (1 point, about 2 lines)
#
# The largest rank whose factors have *fewer* numbers than the matrix; 0 if there is none.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def worthwhile_rank_spec(outputs, inputs):
#     rank = 0
#     while (rank + 1) * (outputs + inputs) < outputs * inputs:
#         rank += 1
#     return rank
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "low_rank-worthwhile_rank", "locked": false, "schema_version": 3, "solution": true, "task": false}
def worthwhile_rank(outputs, inputs):
    """Two ints -> an int."""
    ### BEGIN SOLUTION
    return (outputs * inputs - 1) // (outputs + inputs)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "low_rank-worthwhile_rank-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(worthwhile_rank, "low_rank.worthwhile_rank")

# %% [markdown]
# ### Exercise 3 · How many directions? (1 point, about 2 lines)
#
# The smallest rank that keeps at least `share` of the energy, the sum of the *squared* singular values (allow for rounding: 1e-12).
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def rank_for_energy_spec(singular_values, share):
#     total = sum(float(s) ** 2 for s in singular_values)
#     kept = 0.0
#     for rank, s in enumerate(singular_values, start=1):
#         kept += float(s) ** 2
#         if kept >= (share - 1e-12) * total:
#             return rank
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "low_rank-rank_for_energy", "locked": false, "schema_version": 3, "solution": true, "task": false}
def rank_for_energy(singular_values, share):
    """float64 [n], falling; a share in (0, 1] -> an int, at least 1."""
    ### BEGIN SOLUTION
    kept = np.cumsum(singular_values**2)
    return int(np.argmax(kept >= (share - 1e-12) * kept[-1])) + 1
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "low_rank-rank_for_energy-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(rank_for_energy, "low_rank.rank_for_energy")

# %%
worthwhile_rank = adopt(worthwhile_rank, "low_rank.worthwhile_rank")
rank_for_energy = adopt(rank_for_energy, "low_rank.rank_for_energy")
Table(
    ["layer", "shape", "worthwhile up to", "for 90 % of the energy", "for 99 %"],
    [
        [
            name,
            " x ".join(map(str, layer.weight.shape)),
            str(worthwhile_rank(*layer.weight.shape)),
            *(
                str(rank_for_energy(lowrank.spectrum(layer).numpy(), share))
                for share in (0.9, 0.99)
            ),
        ]
        for name, layer in lowrank.factorizable(networks[0]).items()
    ],
    "seed 0",
)

# %%
start = predict(
    "Rank 8 in every layer, then three epochs: how much better than the same thin network "
    "trained from scratch, all epochs?",
    ["more than 10 points", "1 to 10 points", "less than 1 point"],
)

# %% [markdown]
# The sweep: accuracy before and after tuning, and three controls of the same size, each with as many epochs in all: the same thin
# layers *from scratch*, a *smaller* ordinary network from scratch, and the network *pruned* to as many weights (their places not counted). Each
# has the optimizer and the rate that did well for it in trials.

# %%
RANKS = (32, 16, 8)


def thin(network, rank):
    """Every layer at that rank with your factors (the last at most at 20, its break-even
    is near)."""
    small = copy.deepcopy(network)
    for name, layer in lowrank.factorizable(network).items():
        first, second = svd_factors(
            layer.weight.detach().numpy(),
            min(rank, 20 if layer.out_features == CLASSES else rank),
        )
        pair = torch.nn.Sequential(
            torch.nn.Linear(first.shape[1], len(first), bias=False),
            torch.nn.Linear(len(first), len(second)),
        )
        pair[0].weight.data, pair[1].weight.data = (
            torch.from_numpy(first.copy()),
            torch.from_numpy(second.copy()),
        )
        pair[1].bias.data = layer.bias.detach().clone()
        small[int(name)] = pair
    return small


def parameters(network):
    return sum(p.numel() for p in network.parameters())


# %%
def begun_anew(network, seed):
    seed_everything(seed + 10)
    fresh = copy.deepcopy(network)
    for layer in fresh.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.reset_parameters()
    return fresh


def smaller(size):
    """Ordinary networks of about that many parameters, as they begin."""
    width = min(range(6, 300), key=lambda w: abs(parameters_of_widths(w) - size))
    return built(lambda: models.MLP(data.shape, CLASSES, (width, width // 3)), SEEDS)


def parameters_of_widths(width):
    inputs, third = data.shape[1] * data.shape[2], width // 3
    return (inputs + 1) * width + (width + 1) * third + (third + 1) * CLASSES


def pruned(network, seed, share):
    copied, settings = copy.deepcopy(network), {"seed": seed, "progress": False}
    prune_and_tune(copied, data.train, [1 - share], TUNE, scores.magnitude, **settings)
    return copied


def fitted(networks, epochs, rate, label, **options):
    return fit_all(networks, data.train, epochs, rate, seeds=SEEDS, label=label, **options)


# %%
found, sizes = {}, {}
for rank in RANKS:
    cut = [thin(n, rank) for n in networks]
    size = sizes[rank] = parameters(cut[0])
    share = size / parameters(networks[0])
    anew = [begun_anew(n, s) for n, s in zip(cut, SEEDS)]
    found[rank, "before tuning"] = on_test(cut)
    by_adam = {"optimizer": adam(0.01)}
    found[rank, "tuned"] = on_test(fitted(cut, TUNE, 0.01, f"rank {rank}", **by_adam))
    found[rank, "same shape from scratch"] = on_test(
        fitted(anew, EPOCHS + TUNE, 0.01, f"rank {rank} from scratch", **by_adam)
    )
    found[rank, "smaller network"] = on_test(
        fitted(smaller(size), EPOCHS + TUNE, 0.15, f"smaller than rank {rank}")
    )
    found[rank, "pruned to the same size"] = on_test(
        side_by_side(partial(pruned, share=share), networks, SEEDS, label="pruning")
    )
longer = on_test(
    fitted(copy.deepcopy(networks), TUNE, 0.003, "dense, longer", optimizer=adam(0.003))
)

# %%
kinds = list(dict.fromkeys(kind for _, kind in found))
figure, axes = plt.subplots(figsize=(9, 3.6))
for kind, marker in zip(kinds, "osD^v"):
    mean, sd = (np.array(v) for v in zip(*(found[rank, kind] for rank in RANKS)))
    axes.errorbar(
        [sizes[r] / 1000 for r in RANKS], mean, sd, marker=marker, capsize=3, label=kind
    )
axes.axhline(
    longer[0],
    color="black",
    ls=":",
    label=f"dense ({in_units(parameters(networks[0]))}), trained as long",
)
axes.set(
    xlabel="parameters, thousands",
    ylabel="test accuracy, %",
    xscale="log",
    xticks=[sizes[r] / 1000 for r in RANKS],
)
axes.set_xticks([], minor=True)
axes.set_xticklabels([f"{sizes[r] / 1000:.0f}\n(rank {r})" for r in RANKS])
axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
gain = {r: found[r, "tuned"][0] - found[r, "same shape from scratch"][0] for r in RANKS}

# %%
start.reveal(
    "less than 1 point"
    if gain[8] < 1
    else "1 to 10 points"
    if gain[8] <= 10
    else "more than 10 points"
)
claim(
    "With a third of the parameters less than half a point is lost after tuning",
    0.5 - (longer[0] - found[32, "tuned"][0]),
    "points",
)
claim(
    "At rank 16 starting from the SVD beats the same shape from scratch by more than a point",
    gain[16] - 1,
    "points",
)
print(
    "At rank 8:",
    compared(
        *("a start from the SVD", found[8, "tuned"]),
        *("one from scratch", found[8, "same shape from scratch"]),
    ),
)

# %%
Table(
    ["rank", "parameters", *kinds],
    [[str(r), in_units(sizes[r]), *(mean_sd(*found[r, k]) for k in kinds)] for r in RANKS],
    f"test accuracy, %, {len(SEEDS)} seeds; dense {mean_sd(*dense)}, trained as long "
    f"{mean_sd(*longer)}",
)

# %% [markdown]
# A detail with a price: the layer's *bias* stays, in the second factor. One of the articles behind this course has code for the singular value decomposition (SVD) that drops
# it. Tuning would hide that, so look before tuning.


# %%
def without_biases(network):
    """A copy whose factored layers have lost their biases."""
    copied = copy.deepcopy(network)
    for pair in copied:
        if isinstance(pair, torch.nn.Sequential):
            torch.nn.init.zeros_(pair[1].bias)
    return copied


untuned = [thin(network, 32) for network in networks]
with_bias, no_bias = on_test(untuned), on_test([without_biases(n) for n in untuned])
print(f"rank 32, before tuning: {mean_sd(*with_bias)} %, without biases {mean_sd(*no_bias)} %")
claim("Dropping the biases costs more than a point", with_bias[0] - no_bias[0] - 1, "points")

# %% [markdown]
# Where the SVD keeps most of the network, it is a head start; at the lowest rank tuning ends about where a start from scratch ends. Look along
# that row for what is best *there*.
#
# ## 2 · The inputs have a say
#
# The plain SVD treats all inputs alike. But what counts is the error of the layer's *output*, $\mathbb E\,|(W - BA)x|^2$. With the
# inputs' second moment $C = \mathbb E[xx^\top] = LL^\top$ (Cholesky) and $M = W - BA$:
#
# $$\mathbb E\,|Mx|^2 = \operatorname{tr}(M C M^\top) = \operatorname{tr}(M L L^\top M^\top) = |ML|_F^2$$
#
# So: cut the SVD of $WL$, then multiply by $L^{-1}$ from the right.
#
# ### Exercise 4 · The best rank for these inputs (2 points, about 4 lines)
#
# Give the product BA. Any L with $LL^T = C$ will do: `np.linalg.cholesky`, or the symmetric root through the eigenvalues.


# %% nbgrader={"grade": false, "grade_id": "low_rank-whitened_product", "locked": false, "schema_version": 3, "solution": true, "task": false}
def whitened_product(weight, rank, moment):
    """float64 [m, n], int, float64 [n, n] -> float64 [m, n] of that rank."""
    ### BEGIN SOLUTION
    root = np.linalg.cholesky(moment)
    u, s, vt = np.linalg.svd(weight @ root, full_matrices=False)
    cut = (u[:, :rank] * s[:rank]) @ vt[:rank]
    return cut @ np.linalg.inv(root)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "low_rank-whitened_product-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(whitened_product, "low_rank.whitened_product")

# %%
whitened_product = adopt(whitened_product, "low_rank.whitened_product")


def with_products(network, rank, product):
    """The network with every weight replaced by a matrix of that rank, untuned."""
    moments = lowrank.input_moments(network, data.train.x[:2000])
    changed = copy.deepcopy(network)
    for name, layer in lowrank.factorizable(changed).items():
        moment = moments[name].numpy() + 1e-6 * np.eye(layer.in_features)
        new = product(layer.weight.detach().double().numpy(), rank, moment)
        layer.weight.data = torch.from_numpy(new).float()
    return changed


def plain_product(weight, rank, _moment):
    first, second = svd_factors(weight.astype(np.float32), rank)
    return second @ first


aware = {}
for rank in RANKS:
    for label, product in (("plain", plain_product), ("for the inputs", whitened_product)):
        aware[rank, label] = on_test(
            [with_products(n, min(rank, CLASSES), product) for n in networks]
        )

# %%
claim(
    "Untuned, the SVD that knows the inputs is better, on average over the ranks",
    float(np.mean([aware[r, "for the inputs"][0] - aware[r, "plain"][0] for r in RANKS])),
    "points",
)
Table(
    ["untuned", *(f"rank {min(r, CLASSES)}" for r in RANKS)],
    [[k, *(mean_sd(*aware[r, k]) for r in RANKS)] for k in ("plain", "for the inputs")],
    f"test accuracy, %, {len(SEEDS)} seeds; moments from 2,000 training images without "
    "labels; the last layer is whole at rank 26 (20 in the sweep); here the first column is "
    "rank 26 for all layers, in the sweep it was 32",
)

# %% [markdown]
# Where nobody can afford to tune, as for a large language model (Wang et al. 2024), this is the version to take.
#
# ## 3 · Convolutions
#
# A 3x3 convolution from c to m channels is, at every position, a matrix [m, c·9] on a patch. Cut to rank k it becomes k filters of 3x3 and
# a 1x1 convolution that mixes them (*by channel*).
#
# ### Exercise 5 · A convolution in two (2 points, about 4 lines)
#
# Flatten the weight to that matrix, cut it as in exercise 1, and shape both factors as kernels again.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def split_convolution_spec(weight, rank):
#     m, c, h, w = weight.shape
#     u, s, vt = np.linalg.svd(weight.reshape(m, c * h * w), full_matrices=False)
#     thin, mix = (
#         np.zeros((rank, c, h, w), np.float32),
#         np.zeros((m, rank, 1, 1), np.float32),
#     )
#     for k in range(rank):
#         for column in range(c * h * w):
#             i, j, l = column // (h * w), column // w % h, column % w
#             thin[k, i, j, l] = np.sqrt(s[k]) * vt[k, column]
#         mix[:, k, 0, 0] = np.sqrt(s[k]) * u[:, k]
#     return thin, mix
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "low_rank-split_convolution", "locked": false, "schema_version": 3, "solution": true, "task": false}
def split_convolution(weight, rank):
    """float32 [m, c, h, w], int -> thin [rank, c, h, w] and mix [m, rank, 1, 1]."""
    ### BEGIN SOLUTION
    outputs = len(weight)
    u, s, vt = np.linalg.svd(weight.reshape(outputs, -1), full_matrices=False)
    half = np.sqrt(s[:rank])
    thin = (half[:, None] * vt[:rank]).reshape(rank, *weight.shape[1:])
    return thin, (u[:, :rank] * half).reshape(outputs, rank, 1, 1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "low_rank-split_convolution-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(split_convolution, "low_rank.split_convolution")

# %%
split_convolution = adopt(split_convolution, "low_rank.split_convolution")
fewer = predict(
    "A convolutional network at a third of its multiplications: how many times faster at "
    "batch 1?",
    ["about 3 times", "about 2 times", "hardly faster, or slower"],
)

# %% [markdown]
# Another cut of the same weight is *spatial* (3x1, then 1x3; Jaderberg et al. 2014). A third, Tucker (1x1, 3x3, 1x1; Kim et al. 2016), is in
# the library: `lowrank.Factoring("tucker")`.

# %%
few = data.train.first(3000)
CONV_EPOCHS = 5  # that the wide networks were trained for


def arranged(network):
    """Channels last in memory: the order in which torch's convolutions are fastest here."""
    return network.to(memory_format=torch.channels_last)


def with_split_convolutions(network, ranks):
    small = copy.deepcopy(network)
    for name, rank in ranks.items():
        old = small.get_submodule(name)
        thin_weight, mix_weight = split_convolution(
            old.weight.detach().contiguous().numpy(), rank
        )
        first = torch.nn.Conv2d(old.in_channels, rank, 3, padding=1, bias=False)
        second = torch.nn.Conv2d(rank, old.out_channels, 1, bias=False)
        first.weight.data, second.weight.data = (
            torch.from_numpy(thin_weight.copy()),
            torch.from_numpy(mix_weight.copy()),
        )
        parent, _, child = name.rpartition(".")
        setattr(small.get_submodule(parent), child, torch.nn.Sequential(first, second))
    return small


# %%
def on_few(networks, epochs, rate, label):
    return fit_all(networks, few, epochs, rate, seeds=SEEDS, label=label)


def tuned(networks, label):
    return on_few(networks, 2, 0.05, f"tuning: {label}")


wide = trained("vgg-wide", data, SEEDS)
INNER = [name for name, layer in scores.prunable(wide[0], last=False).items()][1:]
SLIMMER = tuple(round(0.58 * w) for w in (32, 64, 96))
in_one_run = {
    name: on_few(
        built(lambda w=widths: models.VGGLike(data.shape, CLASSES, w), SEEDS),
        CONV_EPOCHS + 2,
        0.2,
        name,
    )
    for name, widths in (("dense", (32, 64, 96)), ("narrow", SLIMMER))
}

# %%
versions = {"dense, trained as long": tuned(copy.deepcopy(wide), "tuned on")}
before = {}
for kind in ("channel", "spatial"):
    ranks = {
        n: r for n, r in lowrank.ranks_by_budget(wide[0], 0.33, kind).items() if n in INNER
    }
    if kind == "channel":
        small = [arranged(with_split_convolutions(n, ranks)) for n in wide]
    else:
        small = [arranged(lowrank.factorize(n, ranks, lowrank.Factoring(kind))) for n in wide]
    before[kind] = on_test(small)
    versions[kind] = tuned(small, kind)
versions["narrow, in one run"] = in_one_run["narrow"]
versions["dense, in one run"] = in_one_run["dense"]

# %%
firsts = {name: candidates[0] for name, candidates in versions.items()}
images = data.test.x.contiguous(memory_format=torch.channels_last)
milliseconds = {
    batch: {n: 1e3 * t for n, t in race_networks(firsts, images[:batch]).items()}
    for batch in (1, 64)
}
rows = {}
for name, first in firsts.items():
    macs = sum(layer.macs for layer in count_layers(first, data.shape))
    rows[name] = (
        parameters(first),
        macs,
        milliseconds[1][name],
        milliseconds[64][name],
        on_test(versions[name]),
    )
whole, split = rows["dense, trained as long"], rows["channel"]
single = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 1))
perceptrons = {"whole": networks[0], "rank 16": thin(networks[0], 16), "one output": single}
mlp_times = [1e3 * t for t in race_networks(perceptrons, images[:1]).values()]
times_faster = whole[2] / split[2]

# %%
fewer.reveal(
    "about 3 times"
    if times_faster > 2.5
    else "about 2 times"
    if times_faster > 1.6
    else "hardly faster, or slower"
)

# %%
claim(
    "At about a third of the multiplications both cuts stay within two points of the network "
    "trained as long",
    2 - max(whole[4][0] - rows["spatial"][4][0], whole[4][0] - split[4][0]),
    "points",
)
claim(
    "Time falls by less than half of what multiplications fall by",
    whole[1] / split[1] / 2 - times_faster,
    "times",
    timed=True,
)
claim(
    "The MLP at rank 16 is slower than the whole one for a single image",
    mlp_times[1] / mlp_times[0] - 1,
    "times",
    timed=True,
)
claim(
    "A layer with a single output costs a tenth of the whole MLP's time or more",
    mlp_times[2] / mlp_times[0] - 0.1,
    "times",
    timed=True,
)

# %%
Table(
    [
        "convolutions",
        "parameters",
        "MACs",
        "ms, batch 1",
        "ms, batch 64",
        "before tuning, %",
        "after, %",
    ],
    [
        [
            k,
            in_units(r[0]),
            in_units(r[1]),
            f"{r[2]:.3f}",
            f"{r[3]:.2f}",
            mean_sd(*before[k]) if k in before else "-",
            mean_sd(*r[4]),
        ]
        for k, r in rows.items()
    ],
    f"one thread, torch, channels last; {len(SEEDS)} seeds; the MLP at batch 1: whole "
    f"{mlp_times[0]:.3f} ms, rank 16 {mlp_times[1]:.3f} ms, a layer with one output "
    f"{mlp_times[2]:.3f} ms",
)

# %% [markdown]
# Every call has a price of its own, whatever it computes, and the intermediate image is written and read again: a count of MACs shows neither.
# And look at the last two rows: a narrow ordinary network has as few MACs as the cuts, and may be more accurate than they are. It was trained
# in one run, whose rate falls once; *dense, trained as long* was trained, and then tuned for two epochs more at a small rate. Compare the narrow
# network with the dense one *in one run*, or a schedule looks like a technique. Measure the time, and set it beside something simple.
#
# ## 4 · LoRA: a small change of a large matrix
#
# To teach a network something new, perhaps the *change* of each weight may be of low rank. LoRA (低秩适配; Hu et al. 2021) freezes
# $W$ and trains only A and B beside it; $B = 0$ at first, so that nothing changes:
#
# $$y = Wx + \frac{\alpha}{r} B A x$$
#
# ### Exercise 6 · A correction of low rank (2 points, about 1 line)
#
# The formula for a batch, with x in rows; `down` is A, `up` is B.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def lora_output_spec(x, weight, down, up, alpha):
#     out = np.zeros((len(x), len(weight)), np.float32)
#     for i, row in enumerate(x):
#         inner = [
#             sum(down[k, j] * row[j] for j in range(len(row)))
#             for k in range(len(down))
#         ]
#         for o in range(len(weight)):
#             plain = sum(weight[o, j] * row[j] for j in range(len(row)))
#             out[i, o] = plain + alpha / len(down) * sum(
#                 up[o, k] * inner[k] for k in range(len(down))
#             )
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "low_rank-lora_output", "locked": false, "schema_version": 3, "solution": true, "task": false}
def lora_output(x, weight, down, up, alpha):
    """float32 x [n, inputs], W [outputs, inputs], A [r, inputs], B [outputs, r], a number
    -> float32 [n, outputs]."""
    ### BEGIN SOLUTION
    return x @ weight.T + np.float32(alpha / len(down)) * (x @ down.T @ up.T)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "low_rank-lora_output-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(lora_output, "low_rank.lora_output")

# %%
lora_output = adopt(lora_output, "low_rank.lora_output")
layer = lora.LoRA(copy.deepcopy(networks[0][1]), rank=4, alpha=8)
torch.nn.init.normal_(layer.up.weight)
images = data.test.x[:20].flatten(1)
plain = [
    t.detach().numpy() for t in (images, layer.base.weight, layer.down.weight, layer.up.weight)
]
yours = lora_output(*plain, layer.alpha) + layer.base.bias.numpy()
claim(
    "Your formula and the library's layer agree",
    agreement(yours, layer(images), atol=1e-3),
    "tolerances",
    yours=lora_output,
)
kept = layer.base.weight.clone()
layer.merge()
claim(
    "Merged, one plain matrix computes the same",
    agreement(yours, layer.base(images), atol=1e-3),
    "tolerances",
)
layer.unmerge()
claim(
    "Unmerged, the base is back to within a millionth",
    agreement(layer.base.weight, kept, atol=1e-6),
    "tolerances",
)

# %%
if data.name != "glyphs":  # on other data: this section adapts a network that knows capitals
    data = load("glyphs", size=16, train_size=8_000, seed=SEEDS[0])
    networks = trained("mlp", data, SEEDS)
    dense = on_test(networks)

# %% [markdown]
# Two new tasks for the networks that know capitals:
#
# - *ruled paper*: the same letters behind lines of random strength, in one of four positions;
# - *lower case*: 26 new shapes.


# %%
def ruled(examples, seed):
    """Letters on ruled paper: every fourth row darker, from one of four positions."""
    generator = torch.Generator().manual_seed(seed)
    position = torch.randint(0, 4, (len(examples),), generator=generator)
    strength = 0.2 + 0.6 * torch.rand(len(examples), generator=generator)
    height = examples.x.shape[2]
    lines = (torch.arange(height)[None] % 4 == position[:, None]).float()
    return Examples(
        (examples.x + (strength[:, None] * lines)[:, None, :, None]).clamp(max=1), examples.y
    )


small_letters = load("lowercase", size=16, train_size=3000, seed=SEEDS[0])
TASKS = {
    "ruled paper": (
        ruled(data.train.first(1000), SEEDS[0]),
        ruled(data.val, SEEDS[0] + 1),
        ruled(data.test, SEEDS[0] + 2),
        15,
    ),
    "lower case": (small_letters.train, small_letters.val, small_letters.test, 6),
}
figure, axes = plt.subplots(2, 10, figsize=(9, 2))
for row, (name, task) in zip(axes, TASKS.items()):
    for axis, image in zip(row, task[0].x):
        axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
        axis.set_axis_off()
    row[0].set_title(name, fontsize=10, loc="left")
plt.show()

# %%
winner = predict(
    "1,000 letters on ruled paper to learn from, rates tuned for everybody: what does best?",
    [
        *("full fine-tuning", "the last layer only", "LoRA with 2 % of the parameters"),
        "LoRA and full fine-tuning alike",
    ],
)


# %%
def last_layer_only(network):
    copied = copy.deepcopy(network).requires_grad_(False)
    copied[-1].requires_grad_(True)
    return copied


METHODS = {
    "full fine-tuning": copy.deepcopy,
    "the last layer only": last_layer_only,
    "LoRA, rank 2, every layer": lambda n: lora.add_lora(n, 2),
    "LoRA, rank 8, every layer": lambda n: lora.add_lora(n, 8),
    "LoRA, rank 4, first layer": lambda n: lora.add_lora(n, 4, layers=["1"]),
}
# A small change takes small steps, a new task large ones, and few parameters larger ones still.
RATES = {
    "ruled paper": dict.fromkeys(METHODS, (0.001, 0.003, 0.01))
    | {"full fine-tuning": (0.0001, 0.0003, 0.001), "the last layer only": (0.01, 0.03, 0.1)},
    "lower case": dict.fromkeys(METHODS, (0.01, 0.03, 0.1))
    | {"full fine-tuning": (0.003, 0.01, 0.03), "the last layer only": (0.1, 0.3, 1.0)},
}


def prepared(method):
    """The networks, each with what the method adds; what it draws depends on the
    network's seed."""
    made = []
    for network, seed in zip(networks, SEEDS):
        seed_everything(seed)
        made.append(METHODS[method](network))
    return made


# %%
def adapted(task, cases, label):
    """For every (method, rate) the networks that it adapts to a task, all side by side."""
    made = {case: prepared(case[0]) for case in cases}

    def learn(network, seed, rate):
        settings = {"seed": seed, "progress": False, "optimizer": adam(rate)(network)}
        fit(network, task[0], task[3], rate, **settings)

    rows = [(n, s, rate) for (_, rate), found in made.items() for n, s in zip(found, SEEDS)]
    side_by_side(learn, *zip(*rows), label=label)
    return made


results, best, rates = {}, {}, {}
for name, task in TASKS.items():
    results[name, "untouched"] = on_test(networks, task[2]), dense
    tried = adapted(task, [(m, rate) for m in METHODS for rate in RATES[name][m]], name)
    for method in METHODS:
        by_validation = {
            rate: on_test(tried[method, rate], task[1])[0] for rate in RATES[name][method]
        }
        rate = rates[name, method] = max(by_validation, key=by_validation.get)
        chosen = best[name, method] = tried[method, rate]
        results[name, method] = on_test(chosen, task[2]), on_test(chosen)

# %%
share = {
    m: sum(p.numel() for p in best["ruled paper", m][0].parameters() if p.requires_grad)
    / parameters(networks[0])
    for m in METHODS
}
on_paper = {m: results["ruled paper", m][0][0] for m in METHODS}
small_lora = [m for m in METHODS if m.startswith("LoRA") and share[m] < 0.03]
lora_best = max(on_paper[m] for m in small_lora)
others = {m: on_paper[m] for m in ("full fine-tuning", "the last layer only")}

# %%
ahead = lora_best - others["full fine-tuning"]
winner.reveal(
    "LoRA and full fine-tuning alike"
    if abs(ahead) < 1
    else "LoRA with 2 % of the parameters"
    if ahead > 0
    else max(others, key=others.get)
)

# %%
few_first = "LoRA, rank 4, first layer"
lower_best = max(results["lower case", m][0][0] for m in small_lora)
claim(
    "On ruled paper LoRA with about 2 % of the parameters is as good as full fine-tuning, to "
    "within two and a half points",
    2.5 - abs(on_paper[few_first] - on_paper["full fine-tuning"]),
    "points",
)
claim(
    "On ruled paper LoRA beats the last layer alone by more than 3 points",
    on_paper[few_first] - on_paper["the last layer only"] - 3,
    "points",
)
claim(
    "For lower case it is the other way round: full fine-tuning wins by more than 5 points",
    min(
        results["lower case", "full fine-tuning"][0][0] - results["lower case", m][0][0] - 5
        for m in small_lora
    ),
    "points",
)

# %%
claim(
    "Full fine-tuning on lower case forgets more than half of the capitals",
    dense[0] / 2 - results["lower case", "full fine-tuning"][1][0],
    "points",
)


# %%
def at_edge(task, method):
    tried, rate = RATES[task][method], rates[task, method]
    return f"{rate}*" if rate in (tried[0], tried[-1]) else str(rate)


Table(
    [
        "method",
        "trained",
        "ruled paper, %",
        "capitals, after ruled paper",
        "lower case, %",
        "capitals, after lower case",
        "rates",
    ],
    [
        [
            *(m, f"{100 * share[m]:.1f} %" if m in share else "-"),
            *(mean_sd(*v) for n in TASKS for v in results[n, m]),
            " / ".join(at_edge(n, m) for n in TASKS) if m in share else "-",
        ]
        for m in ("untouched", *METHODS)
    ],
    f"test accuracy, %, {len(SEEDS)} seeds; Adam, the best of each method's rates by validation "
    "images; *: the smallest or largest that was tried, a better one may lie beyond",
)

# %% [markdown]
# **The rates have a say.** Look at the last column: is the best rate of full fine-tuning on ruled paper among those that LoRA was given? If everybody had been given these, what would the table say? A control that is not tuned as widely as what it is compared with is no control.
#
# A line across the paper is one direction in the space of images (except where ink is under it: the sum is cut off at 1). Four
# positions give at most four directions. Their sum darkens all rows alike, and the network has learned to look past grey
# backgrounds; so three directions may do. So little has to change in the first layer:

# %%
ADAPTER_RANKS = (1, 2, 3, 4, 6, 8)
for rank in ADAPTER_RANKS:
    METHODS[rank] = partial(lora.add_lora, rank=rank, layers=["1"])
paper = TASKS["ruled paper"]
probes = adapted(paper, [(rank, 0.01) for rank in ADAPTER_RANKS], "ranks")
by_rank = {rank: on_test(found, paper[2]) for (rank, _), found in probes.items()}
figure, axes = plt.subplots(figsize=(6, 3))
axes.errorbar(ADAPTER_RANKS, *zip(*by_rank.values()), marker="o", capsize=3)
axes.axvline(4, color="black", ls=":", lw=1)
axes.set(
    xlabel="rank of the correction, first layer", ylabel="ruled paper, %", xticks=ADAPTER_RANKS
)
plt.show()
claim(
    "On ruled paper LoRA of rank three beats rank one by more than a point",
    by_rank[3][0] - by_rank[1][0] - 1,
    "points",
)
claim(
    "On ruled paper LoRA of more than rank three changes less than two points",
    2 - abs(max(by_rank[r][0] for r in (4, 6, 8)) - by_rank[3][0]),
    "points",
)

# %%
task_file = disk_bytes(
    torch.nn.ModuleList(
        [
            lora.corrections(best["ruled paper", few_first][0])["1"].down,
            lora.corrections(best["ruled paper", few_first][0])["1"].up,
        ]
    )
)
print(
    f"one base of {in_bytes(disk_bytes(networks[0]))} and {in_bytes(task_file)} for each "
    "further task"
)
claim(
    "A task's file is less than a twentieth of the network's",
    task_file < disk_bytes(networks[0]) / 20,
)

# %% [markdown]
# ## Build it · A LoRA layer, and ranks under a budget
#
# ### Exercise 7 · A LoRA layer that trains and merges (build, 12 points, about 20 lines)
#
# `lora_layer(layer, rank, alpha)` takes an `nn.Linear` and hands back an `nn.Module` (define its class inside of the function) that computes
# $Wx + b + \frac{\alpha}{r} B A x$.
#
# 1. *Trains alone*: its trainable parameters are A and B and nothing else; the layer's weight and bias never change.
# 2. *Starts as it was*: before training it gives what the layer gives.
# 3. *Learns*: with these starting values an optimizer can reduce the loss. (What if A *and* B were 0?)
# 4. *Merges*: `module.merged()` hands back a **new** `nn.Linear` that gives the same as the module; the layer that was given stays as it is.


# %% nbgrader={"grade": false, "grade_id": "low_rank-lora_layer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def lora_layer(layer, rank, alpha):
    """nn.Linear, int, float -> nn.Module with forward(x) and merged()."""

    ### BEGIN SOLUTION
    class LoRALayer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer.requires_grad_(False)
            first = torch.randn(rank, layer.in_features) / layer.in_features**0.5
            self.down = torch.nn.Parameter(first)
            self.up = torch.nn.Parameter(torch.zeros(layer.out_features, rank))
            self.scale = alpha / rank

        def forward(self, x):
            return self.layer(x) + self.scale * (x @ self.down.T @ self.up.T)

        @torch.no_grad()
        def merged(self):
            new = torch.nn.Linear(layer.in_features, layer.out_features)
            new.weight.copy_(layer.weight + self.scale * (self.up @ self.down))
            new.bias.copy_(layer.bias)
            return new

    return LoRALayer()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "low_rank-lora_layer-check", "locked": true, "points": 12, "schema_version": 3, "solution": false, "task": false}
check(lora_layer, "low_rank.lora_layer")

# %%
lora_layer = adopt(lora_layer, "low_rank.lora_layer")

# %%
adapted = copy.deepcopy(networks[0])
for index, layer in enumerate(adapted):
    if isinstance(layer, torch.nn.Linear):
        adapted[index] = lora_layer(layer, 4, 8.0)
tuned = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
merged = copy.deepcopy(networks[0])
for index, layer in enumerate(adapted):
    if hasattr(layer, "merged"):
        merged[index] = layer.merged()
print(
    f"{tuned:,} numbers to train instead of "
    f"{sum(p.numel() for p in networks[0].parameters()):,}"
)
claim(
    "Merged before any training the network is what it was",
    evaluate(merged, data.test) == evaluate(networks[0], data.test),
)

# %% [markdown]
# ### Exercise 8 · Ranks under a budget (open, 9 points, about 15 lines)
#
# An *open* exercise has no right answer: what you choose is measured, here and again while grading, on images that your code does not see. Three networks are
# to be factored to **about a tenth** of their numbers, to one less, one more than the others. A layer [m, n] of rank k takes k (m + n) numbers, or m n where that is less. The factors are whitened as in
# exercise 4; you choose the ranks. Bronze is clearly above the same fraction for every layer, gold is what a search reached that tries ranks on the images.
#
# You are given weights and biases (ReLU between the layers), 2,000 training images [n, 256] labels, and the budget. You have 20 seconds of processor time.


# %% nbgrader={"grade": false, "grade_id": "low_rank-choose_ranks", "locked": false, "schema_version": 3, "solution": true, "task": false}
def choose_ranks(weights, biases, images, labels, budget):
    """Tuples of float32 arrays, images, labels, int -> one rank for each layer."""
    ### BEGIN SOLUTION
    parts, x = [], images
    for w, b in zip(weights, biases, strict=True):
        moment = (x.T @ x / len(x)).astype(float)
        moment += 1e-4 * np.trace(moment) / len(moment) * np.eye(len(moment))
        root = np.linalg.cholesky(moment)
        parts.append((*np.linalg.svd(w @ root, full_matrices=False), np.linalg.inv(root)))
        x = np.maximum(x @ w.T + b, 0)

    def price(ranks):
        return sum(min(k * sum(w.shape), w.size) for k, w in zip(ranks, weights, strict=True))

    def loss(ranks):
        x = images
        for i, ((u, s, vt, back), w, b, k) in enumerate(
            zip(parts, weights, biases, ranks, strict=True)
        ):
            cut = (u[:, :k] * s[:k]) @ (vt[:k] @ back) if k * sum(w.shape) < w.size else w
            x = x @ cut.T + b
            x = np.maximum(x, 0) if i + 1 < len(weights) else x
        x = x - x.max(axis=1, keepdims=True)
        return float((np.log(np.exp(x).sum(axis=1)) - x[np.arange(len(x)), labels]).mean())

    def filled(ranks, i):
        """As much for layer i as the budget leaves."""
        while (
            ranks[i] < min(weights[i].shape)
            and price([*ranks[:i], ranks[i] + 1, *ranks[i + 1 :]]) <= budget
        ):
            ranks = [*ranks[:i], ranks[i] + 1, *ranks[i + 1 :]]
        return ranks

    ranks = [1] * len(weights)
    while price([k + 1 for k in ranks]) <= budget:
        ranks = [k + 1 for k in ranks]
    best, step = loss(ranks), 8
    while step:
        better = None
        for giver in range(len(ranks)):
            for taker in range(len(ranks)):
                if giver != taker and ranks[giver] > step:
                    less = [k - step * (i == giver) for i, k in enumerate(ranks)]
                    now = filled(less, taker)
                    if (found := loss(now)) < best:
                        best, better = found, now
        ranks, step = (better, step) if better else (ranks, step // 2)
    return tuple(ranks)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "low_rank-choose_ranks-check", "locked": true, "points": 9, "schema_version": 3, "solution": false, "task": false}
check(choose_ranks, "low_rank.choose_ranks")

# %%
choose_ranks = adopt(choose_ranks, "low_rank.choose_ranks")

# %% [markdown]
# ## In the course's own measures
#
# What this lab made, with the cheapest step of all in front: a cast to 16 bits (半精度), which halves the file and asks for nothing else. Energy (能耗) is an estimate: operations and the file read once, at the prices of a 45 nm process (Horowitz 2014).

# %%
import compresslab as cl

cl.table(
    cl.measure(networks, data, "float32"),
    cl.measure([copy.deepcopy(n).half() for n in networks], data, "float16, a cast"),
    cl.measure([copy.deepcopy(n).bfloat16() for n in networks], data, "bfloat16, a cast"),
    cl.measure(untuned, data, "rank 32, untuned"),
)

# %% [markdown]
# ## Longer than a lab · Singular values at random
#
# What follows takes longer than a lab should: it was run over several seeds, and its rows are kept beside the code (`compresslab/longer/randomised_svd.py`). With `COMPRESSLAB_LONGER=1` in the environment a cell runs one seed here as well; `compresslab longer randomised_svd` runs them all anew.
#
# An exact SVD finds all directions and throws most of them away. `torch.svd_lowrank` draws a few at random and turns them towards the largest (Halko et al. 2011). One of the articles behind this course cuts its layer so: what does it lose, and what does it save?

# %%
from compresslab.longer import show_longer

show_longer("randomised_svd")

# %% [markdown]
# ## What the papers say, what we measured
#
# The networks, data and machines of the papers are others than ours: compare directions and sizes, not digits.

# %%
Table(
    ["finding", "source", "paper", "here"],
    [
        [
            "convolutions at a fraction of the MACs",
            "Zhang et al. 2016, abstract (VGG-16, 4 times fewer, outputs matched, top-5)",
            "-0.3 points",
            f"{whole[1] / split[1]:.1f} times fewer: {split[4][0] - whole[4][0]:+.1f} points, "
            f"{whole[3] / split[3]:.1f} times faster",
        ],
        [
            "LoRA against full fine-tuning",
            "Hu et al. 2021, table 2 (RoBERTa-base, GLUE mean)",
            "+0.8",
            f"{lora_best - on_paper['full fine-tuning']:+.1f} and "
            f"{lower_best - results['lower case', 'full fine-tuning'][0][0]:+.1f}",
        ],
    ],
    text_columns=2,
)

# %% [markdown] nbgrader={"grade": true, "grade_id": "written-low_rank_written", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# ## Written question (2 points)
#
# A colleague wants to adapt one network to twenty customers' cameras with LoRA, and to a new set of classes as well. Which of the two would you
# advise against, what would you measure first, and with which controls?
#
# *Your answer (double-click here to write it):*

# %% [markdown]
# ## Recap
#
# - Trained layers are nearly of low rank; below break-even two thin layers are smaller, and after tuning a third of the parameters was enough.
# - The start from the SVD is a head start only while it keeps most of the network. Compare with the same shape from scratch.
# - A low-rank *change* is enough where the task's difference is of low rank; where much is new, so few weights were not.
#
# **Do not use it** for speed on small layers or single images, nor at ranks where a smaller ordinary network does as well.
#
# **Back:** [Lab 05 · Lottery tickets](05_lottery_tickets.ipynb) · **Next:** [Lab 07 · Slim by design](07_slim_by_design.ipynb)
#
# **References.** Eckart and Young 1936, *Psychometrika* 1(3) · Jaderberg et al. 2014, arXiv:1405.3866 · Zhang et al. 2016, arXiv:1505.06798 ·
# Kim et al. 2016, arXiv:1511.06530 · Hu et al. 2021, *LoRA*, arXiv:2106.09685 · Wang et al. 2024, *SVD-LLM*, arXiv:2403.07378 · Halko, Martinsson and Tropp 2011, *SIAM Review* 53(2), arXiv:0909.4061
