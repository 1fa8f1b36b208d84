# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Lab 04 · Pruning
#
# **You will** remove most of a network's weights, find out which of them mattered and who can tell, and see what zeros do to the file and to the clock.
# **Time:** 125 minutes to work through; it runs in one to three minutes, by processor.
#
# Pruning (剪枝) sets weights to zero and leaves them there. Three decisions make a method: a *score* (how much
# does a weight matter?), a *granularity* (what falls together: single weights, blocks, whole channels?) and a
# *schedule* (all at once, in rounds, or while training?).

# %%
import copy
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from numba import njit
from torch.nn.utils import prune as torch_prune

# %%
from compresslab.kernels import sparse
from compresslab.lab import (
    Table,
    accuracy,
    adopt,
    agreement,
    begin,
    built,
    check,
    claim,
    count_layers,
    disk_bytes,
    evaluate,
    explore,
    fit,
    fit_all,
    in_bytes,
    in_units,
    instruction_set,
    load,
    mean_and_sd,
    mean_sd,
    models,
    predict,
    side_by_side,
    time_call,
    track,
    trained,
    use_style,
)

# %%
from compresslab.runtime import sparse as sparse_files
from compresslab.techniques import scores
from compresslab.techniques.prune import Mask, PruneGradually, prune_and_tune, rounds, select
from compresslab.techniques.regularize import l1, penalized, slimming
from compresslab.techniques.surgery import channels_of, shrink, silence

use_style()
SEEDS = begin()

# %% [markdown]
# ## A hook: half of it is not needed
#
# The smaller half of a trained network's weights is set to zero, and nothing else is done.

# %%
data = load(size=16, train_size=8_000, seed=SEEDS[0])
CLASSES, TUNE = len(data.classes), 2
networks = trained("mlp", data, SEEDS)


def on_test(networks):
    return accuracy(networks, data.test)


dense = on_test(networks)
halved = [select(scores.magnitude(n), 0.5).apply(copy.deepcopy(n)) for n in networks]
half = on_test(halved)
weights = torch.cat(
    [m.weight.detach().flatten() for m in scores.prunable(networks[0]).values()]
)
border = float(weights.abs().median())
figure, axes = plt.subplots(figsize=(7, 3))
axes.hist(weights.numpy(), 200, color="#0072B2")
axes.axvspan(
    -border, border, color="#E69F00", alpha=0.4, label="the smaller half of the weights"
)
axes.set(xlabel="weight", ylabel="how many", title="A trained network: most weights are small")
axes.legend()
plt.show()
claim(
    "Without its smaller half the network loses less than 2 points, untuned",
    2 - (dense[0] - half[0]),
    "points",
)
print(f"dense {mean_sd(*dense)} %, half of the weights at 0: {mean_sd(*half)} %")

# %% [markdown]
# ## 1 · Who may go?
#
# *Magnitude* is the simplest score (magnitude pruning, 幅值剪枝): small weights do little. All layers compete in one list (*global* pruning), since a
# share that suits one layer cripples another. What stays is a *mask* (掩码), a yes or no for every weight; the share of zeros is the *sparsity* (稀疏度).
#
# ### Exercise 1 · The smallest weights of the whole network (3 points, about 6 lines)
#
# Of all n weights, `round(sparsity * n)` go, those of the smallest magnitude first (of equals, the first in order).
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def global_mask_spec(weights, sparsity):
#     places = [
#         (abs(float(v)), i, j)
#         for i, w in enumerate(weights)
#         for j, v in enumerate(w.ravel())
#     ]
#     masks = [np.ones(w.size, bool) for w in weights]
#     for _, i, j in sorted(places)[: round(sparsity * len(places))]:
#         masks[i][j] = False
#     return tuple(m.reshape(w.shape) for m, w in zip(masks, weights))
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "prune-global_mask", "locked": false, "schema_version": 3, "solution": true, "task": false}
def global_mask(weights, sparsity):
    """A tuple of float32 arrays, a share
    -> a tuple of bool arrays of the same shapes; True stays."""
    ### BEGIN SOLUTION
    sizes = np.concatenate([np.abs(w).ravel() for w in weights])
    keep = np.ones(sizes.size, bool)
    keep[np.argsort(sizes, kind="stable")[: round(sparsity * sizes.size)]] = False
    cuts = np.cumsum([w.size for w in weights])[:-1]
    return tuple(k.reshape(w.shape) for k, w in zip(np.split(keep, cuts), weights))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "prune-global_mask-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(global_mask, "prune.global_mask")

# %%
global_mask = adopt(global_mask, "prune.global_mask")

# %%
layers = scores.prunable(networks[0])
yours = global_mask(tuple(m.weight.detach().numpy() for m in layers.values()), 0.9)
mask = Mask({name: torch.from_numpy(keep) for name, keep in zip(layers, yours)})
claim("The mask holds nine tenths of all weights at 0", abs(mask.sparsity - 0.9) < 1e-4)
figure, axes = plt.subplots(figsize=(7, 2.6))
axes.bar(list(mask.of_layers()), [100 * s for s in mask.of_layers().values()], color="#0072B2")
axes.axhline(90, color="#D55E00", ls="--", label="all together")
axes.set(xlabel="layer, by its name", ylabel="zeros, %", ylim=(0, 130))
axes.set_title("One list for all: layers give different shares")
axes.legend(loc="upper right")
plt.show()

# %% [markdown]
# Torch can do it too. Four calls, on a copy: prune, look at the mask it keeps, make it permanent; and a mask of our own
# handed over.

# %%
copied = copy.deepcopy(networks[0])
parameters = [(layer, "weight") for layer in scores.prunable(copied).values()]
torch_prune.global_unstructured(parameters, torch_prune.L1Unstructured, amount=0.9)
claim(
    "torch.nn.utils.prune finds the same mask",
    all(torch.equal(Mask.from_torch(copied).keep[name], mask.keep[name]) for name in mask.keep),
)
print(
    "what torch keeps in a layer:",
    [name for name, _ in copied[1].named_buffers()],
    [n for n, _ in copied[1].named_parameters()],
)
for layer, name in parameters:
    torch_prune.remove(layer, name)
ours_in_torch = mask.to_torch(copy.deepcopy(networks[0]))
claim(
    "Made permanent, both are the same network",
    torch.equal(copied(data.test.x[:50]), ours_in_torch(data.test.x[:50])),
)

# %% [markdown]
# ### Better informed than by size?
#
# The loss itself should know. To first order, removing $w$ changes it by $-w\,\partial L/\partial w$ (Taylor 泰勒; Molchanov et
# al. 2016).
#
# ### Exercise 2 · What the loss says about a weight (2 points, about 1 line)
#
# `gradients[b]` is the gradient of batch b. A change in either direction counts, and gradients of different batches would cancel
# in a sum: so the score is the mean of $|w\,g_b|$ over the batches.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def taylor_score_spec(weight, gradients):
#     out = np.zeros_like(weight)
#     for place in np.ndindex(weight.shape):
#         out[place] = sum(
#             abs(weight[place] * g[place]) for g in gradients
#         ) / len(gradients)
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "prune-taylor_score", "locked": false, "schema_version": 3, "solution": true, "task": false}
def taylor_score(weight, gradients):
    """float32 [...], float32 [batches, ...] -> float32 [...]."""
    ### BEGIN SOLUTION
    return np.abs(weight) * np.abs(gradients).mean(axis=0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "prune-taylor_score-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(taylor_score, "prune.taylor_score")

# %%
taylor_score = adopt(taylor_score, "prune.taylor_score")
batches = list(zip(data.train.x[:1024].split(128), data.train.y[:1024].split(128)))


def taylor(model):
    """The score on every layer of a network, over eight batches."""
    named = scores.prunable(model)
    parameters = [m.weight for m in named.values()]
    losses = (torch.nn.functional.cross_entropy(model(x), y) for x, y in batches)
    by_batch = [torch.autograd.grad(loss, parameters) for loss in losses]
    stacked = [torch.stack(g).numpy() for g in zip(*by_batch)]
    weights = [p.detach().numpy() for p in parameters]
    return {n: torch.from_numpy(taylor_score(w, g)) for n, w, g in zip(named, weights, stacked)}


# %%
best_score = predict(
    "90 % of the weights removed at once, then two epochs of training: which score does best?",
    ["magnitude", "Taylor", "no difference beyond the seeds", "mean activation"],
)

# %% [markdown]
# Every score prunes every network once (*one shot*), and the survivors train on for two epochs. Random scores are the
# control: how much of it is the score, how much the training? Another control: the dense network, trained as much longer.

# %%
SHARES = (0.5, 0.8, 0.9, 0.95)


def hidden(found):
    """Scores of all layers but the last: a score of whole neurons would remove whole
    classes there."""
    return dict(list(found.items())[:-1])


SCORES = {
    "magnitude": scores.magnitude,
    "magnitude, each layer alone": scores.magnitude,
    "Taylor": taylor,
    "mean activation, each layer alone": lambda n: hidden(
        scores.activation(n, data.train.first(1000))
    ),
    "random": lambda n: scores.random(n, SEEDS[0]),
}


def one_shot(name, share, index):
    pruned = copy.deepcopy(networks[index])
    scope = "layer" if "alone" in name else "global"
    settings = {"scope": scope, "seed": SEEDS[index], "progress": False}
    prune_and_tune(pruned, data.train, [share], TUNE, SCORES[name], **settings)
    return evaluate(pruned, data.test)


# %%
cases = [
    (name, share, index) for name in SCORES for share in SHARES for index in range(len(SEEDS))
]
reached = side_by_side(lambda case: one_shot(*case), cases, label="scores")
results = {
    (name, share): mean_and_sd(
        a for case, a in zip(cases, reached) if case[:2] == (name, share)
    )
    for name in SCORES
    for share in SHARES
}
longer = on_test(
    fit_all(copy.deepcopy(networks), data.train, TUNE, 0.05, seeds=SEEDS, label="dense, longer")
)

# %%
figure, axes = plt.subplots(figsize=(9, 3.6))
for name, marker in zip(SCORES, "osD^v"):
    mean, sd = (np.array(v) for v in zip(*(results[name, s] for s in SHARES)))
    axes.errorbar([100 * s for s in SHARES], mean, sd, marker=marker, capsize=3, label=name)
axes.axhline(longer[0], color="black", ls=":", label="dense, trained as much longer")
axes.set(
    xlabel="weights removed, %",
    ylabel="test accuracy, %",
    xticks=[100 * s for s in SHARES],
    ylim=(0, 100),
)
axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
at90 = {name: results[name, 0.9][0] for name in SCORES}
spread = max(results[n, 0.9][1] for n in ("magnitude", "Taylor"))
choices = {
    "magnitude": at90["magnitude"],
    "Taylor": at90["Taylor"],
    "mean activation": at90["mean activation, each layer alone"],
}
second, first = sorted(choices.values())[1:]

# %%
best_score.reveal(
    "no difference beyond the seeds"
    if first - second < 2 * spread
    else max(choices, key=choices.get)
)
claim(
    "80 % zeros cost less than 3 points against the dense network trained as long",
    3 - (longer[0] - results["magnitude", 0.8][0]),
    "points",
)
claim(
    "At 90 %, random pruning is more than 30 points worse than magnitude",
    at90["magnitude"] - at90["random"] - 30,
    "points",
)

# %%
claim(
    "At 90 % and above, one list for all layers beats the same share of each",
    min(
        results["magnitude", s][0] - results["magnitude, each layer alone", s][0]
        for s in (0.9, 0.95)
    ),
    "points",
)
claim(
    "A neuron's mean activation says less about it than the size of its weights",
    min(
        results["magnitude, each layer alone", s][0]
        - results["mean activation, each layer alone", s][0]
        for s in (0.8, 0.9)
    ),
    "points",
)
claim(
    "No score here beats magnitude by more than a point",
    1 - (max(at90.values()) - at90["magnitude"]),
    "points",
)
Table(
    ["score", *(f"{100 * s:.0f} %" for s in SHARES)],
    [[name, *(mean_sd(*results[name, s]) for s in SHARES)] for name in SCORES],
    f"one shot, {TUNE} epochs of tuning, {len(SEEDS)} seeds; dense {mean_sd(*dense)}, trained "
    f"longer {mean_sd(*longer)} %",
)

# %% [markdown]
# Magnitude is the score to beat, and hard to beat. Activations score whole neurons: those go all or not at all.
#
# ## 2 · When?
#
# All at once may be too much. *Iterative* pruning takes the same share of what is left in every round and trains in between;
# *gradual* pruning follows a curve while training goes on (Zhu and Gupta 2017):
#
# $$s_t = s - s\left(1 - \frac{t}{T}\right)^3$$
#
# ### Exercise 3 · Much at first, little at the end (1 point, about 2 lines)
#
# After step T the sparsity stays at `final`.


# %% nbgrader={"grade": false, "grade_id": "prune-cubic_sparsity", "locked": false, "schema_version": 3, "solution": true, "task": false}
def cubic_sparsity(step, steps, final):
    """Two ints and a share -> the share of weights removed at that step."""
    ### BEGIN SOLUTION
    done = min(step / steps, 1)
    return final - final * (1 - done) ** 3
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "prune-cubic_sparsity-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(cubic_sparsity, "prune.cubic_sparsity")

# %%
cubic_sparsity = adopt(cubic_sparsity, "prune.cubic_sparsity")


def draw_schedules(final, rounds_made):
    steps = np.arange(0, 101)
    figure, axes = plt.subplots(figsize=(7, 2.8))
    axes.plot(
        steps,
        [100 * cubic_sparsity(int(t), 60, final) for t in steps],
        label="gradual, until 60 %",
    )
    levels = [0, *rounds(final, rounds_made)]
    axes.step(
        np.linspace(0, 100, len(levels)),
        [100 * v for v in levels],
        "--",
        where="post",
        label="rounds",
    )
    axes.axhline(100 * final, color="black", lw=0.8, ls=":", label="one shot")
    axes.set(xlabel="training done, %", ylabel="weights removed, %", ylim=(0, 105))
    axes.legend(loc="lower right")


explore(draw_schedules, final=(0.5, 0.99, 0.01), rounds_made=(2, 8))

# %%
schedule = predict(
    "99 % removed, four epochs of tuning for everybody: how much do rounds gain over one shot?",
    ["nothing", "1 to 10 points", "more than 10 points"],
)

# %%
BUDGET = 4


def in_schedule(kind, share, index):
    pruned, settings = (
        copy.deepcopy(networks[index]),
        {"seed": SEEDS[index], "progress": False},
    )
    if kind == "gradual":
        fit(pruned, data.train, BUDGET, 0.05, hooks=[PruneGradually(share)], **settings)
    else:
        levels = [share] if kind == "one shot" else rounds(share, BUDGET)
        prune_and_tune(pruned, data.train, levels, BUDGET, scores.magnitude, **settings)
    return evaluate(pruned, data.test)


KINDS = ("one shot", "rounds", "gradual")
cases = [(kind, share, i) for share in (0.9, 0.99) for kind in KINDS for i in range(len(SEEDS))]

# %%
reached = side_by_side(lambda case: in_schedule(*case), cases, label="schedules")
timing = {
    (kind, share): mean_and_sd(
        a for case, a in zip(cases, reached) if case[:2] == (kind, share)
    )
    for kind in KINDS
    for share in (0.9, 0.99)
}
as_long = on_test(
    fit_all(
        copy.deepcopy(networks), data.train, BUDGET, 0.05, seeds=SEEDS, label="dense, as long"
    )
)
gain = timing["rounds", 0.99][0] - timing["one shot", 0.99][0]

# %%
schedule.reveal(
    "nothing" if gain < 1 else "1 to 10 points" if gain <= 10 else "more than 10 points"
)
claim("At 99 %, rounds beat one shot at the same budget", gain, "points")
claim(
    "At 99 %, gradual pruning beats one shot at the same budget",
    timing["gradual", 0.99][0] - timing["one shot", 0.99][0],
    "points",
)

# %%
Table(
    ["schedule", "90 % removed", "99 % removed"],
    [[k, *(mean_sd(*timing[k, s]) for s in (0.9, 0.99))] for k in KINDS],
    f"{BUDGET} epochs of tuning in all, {len(SEEDS)} seeds, magnitude, global; dense, trained "
    f"as long: {mean_sd(*as_long)} %. "
    "(Each round begins its own learning-rate cycle: that, too, is part of the method.)",
)

# %% [markdown]
# Compare the columns: schedules are worth most when nearly everything goes. At 90 % one shot, with all its epochs in one piece,
# need not be worse.
#
# ## 3 · Zeros and time
#
# Fewer numbers are left to multiply. Does that save time? First your guess.

# %%
quick = predict(
    "torch multiplies with a weight of which 90 % are 0, stored as usual. How much faster "
    "than without zeros?",
    ["10 times", "2 to 5 times", "not at all"],
)

# %%
SIDE = 1024
generator = np.random.default_rng(SEEDS[0])


def with_zeros(share, block=(1, 1)):
    kept = generator.random((SIDE // block[0], SIDE // block[1])) >= share
    made = generator.normal(0, 1, (SIDE, SIDE)) * np.kron(kept, np.ones(block))
    return made.astype(np.float32)


inputs = torch.randn(SIDE, 32)
full, holes = torch.from_numpy(with_zeros(0.0)), torch.from_numpy(with_zeros(0.9))
pair = [time_call(lambda w=w: w @ inputs, repeats=101).median for w in (full, holes)]
ratio = pair[0] / pair[1]

# %%
quick.reveal("not at all" if ratio < 2 else "2 to 5 times" if ratio <= 5 else "10 times")
claim(
    "A dense product takes its time, whatever the numbers are",
    min(ratio - 0.5, 2 - ratio),
    "times",
    timed=True,
)

# %% [markdown]
# Zeros are multiplied like any other number. To skip them one must *know where the others are*: in CSR (compressed sparse rows,
# 压缩稀疏行) each row lists its nonzeros, `values[starts[n] : starts[n + 1]]`, each with its column.
#
# ### Exercise 4 · Multiply the nonzeros only (3 points, about 6 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def csr_matvec_spec(starts, columns, values, x):
#     dense = np.zeros((len(starts) - 1, len(x)), np.float32)
#     for n in range(len(dense)):
#         for p in range(starts[n], starts[n + 1]):
#             dense[n, columns[p]] = values[p]
#     return (dense @ x).astype(np.float32)
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "prune-csr_matvec", "locked": false, "schema_version": 3, "solution": true, "task": false}
@njit
def csr_matvec(starts, columns, values, x):
    """int64 [N + 1], int32 [nonzeros], float32 [nonzeros], float32 [K] -> float32 [N]."""
    ### BEGIN SOLUTION
    out = np.zeros(len(starts) - 1, np.float32)
    for n in range(len(out)):
        for p in range(starts[n], starts[n + 1]):
            out[n] += values[p] * x[columns[p]]
    return out
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "prune-csr_matvec-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(csr_matvec, "prune.csr_matvec")

# %%
csr_matvec = adopt(csr_matvec, "prune.csr_matvec")

# %% [markdown]
# A middle way that graphics processors like is 2:4: two of every four neighbours stay (of equals, the first; Mishra et al. 2021). The place of a nonzero then
# takes two bits, and every row has equally many.
#
# ### Exercise 5 · Two of every four (2 points, about 5 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def two_of_four_spec(weight):
#     keep = np.zeros(weight.shape, bool)
#     for n in range(weight.shape[0]):
#         for first in range(0, weight.shape[1], 4):
#             group = [
#                 (-abs(float(weight[n, k])), k) for k in range(first, first + 4)
#             ]
#             for _, k in sorted(group)[:2]:
#                 keep[n, k] = True
#     return keep
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "prune-two_of_four", "locked": false, "schema_version": 3, "solution": true, "task": false}
def two_of_four(weight):
    """float32 [N, K], K a multiple of 4
    -> bool [N, K]: the two largest magnitudes of every four."""
    ### BEGIN SOLUTION
    groups = np.abs(weight).reshape(len(weight), -1, 4)
    best = np.argsort(-groups, axis=2, kind="stable")[..., :2]
    keep = np.zeros(groups.shape, bool)
    np.put_along_axis(keep, best, True, axis=2)
    return keep.reshape(weight.shape)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "prune-two_of_four-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(two_of_four, "prune.two_of_four")

# %%
two_of_four = adopt(two_of_four, "prune.two_of_four")

# %% [markdown]
# Now the race, over the share of zeros: CSR, blocks of 8 x 16 that are zero as a whole, and 2:4, all against the dense product.
# The library's loops run (yours, which takes one input at a time, is held against them). Where is break-even?

# %%
LEVELS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def times_faster(batch):
    x = generator.normal(0, 1, (SIDE, batch)).astype(np.float32)
    dense_w, xt = torch.from_numpy(with_zeros(0.0)), torch.from_numpy(x)
    rows = xt.T.contiguous()
    ways = (lambda: dense_w @ xt, lambda: rows @ dense_w.T)  # torch may prefer either
    yardstick = min(time_call(way, repeats=31).median for way in ways)
    curves = {"CSR": [], "blocks 8 x 16": []}
    for share in LEVELS:
        csr, blocks = (
            sparse.Csr.of(with_zeros(share)),
            sparse.Blocks.of(with_zeros(share, (8, 16))),
        )
        for name, weight in zip(curves, (csr, blocks)):
            curves[name].append(
                yardstick / time_call(lambda w=weight: sparse.matmul(w, x), repeats=15).median
            )
    weight = with_zeros(0.0)
    pairs = sparse.TwoOfFour.of(weight * two_of_four(weight))
    curves["2:4"] = yardstick / time_call(lambda: sparse.matmul(pairs, x), repeats=15).median
    return curves


# %%
curves = {batch: times_faster(batch) for batch in track((1, 32, 256), "batches", "batch")}
figure, panels = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True)
for axes, (batch, curve) in zip(panels, curves.items()):
    for name, marker in (("CSR", "o"), ("blocks 8 x 16", "s")):
        axes.semilogy([100 * s for s in LEVELS], curve[name], marker=marker, ms=4, label=name)
    axes.semilogy(50, curve["2:4"], "D", color="#009E73", label="2:4")
    axes.axhline(1, color="black", lw=1)
    axes.set(
        xlabel="zeros, %",
        title=f"batch {batch}",
        yticks=[0.25, 0.5, 1, 2, 4, 8],
        yticklabels=["¼", "½", "1", "2", "4", "8"],
    )
    axes.minorticks_off()
panels[0].set_ylabel("times faster than dense")
panels[0].legend(fontsize=9)
plt.show()


def break_even(curve):
    """The first share of zeros at which sparse is not slower, in per cent."""
    return next((f"{100 * s:.0f} %" for s, r in zip(LEVELS, curve) if r >= 1), "never")


x = generator.normal(0, 1, (SIDE, 1)).astype(np.float32)
csr = sparse.Csr.of(with_zeros(0.9))

# %%
claim(
    "The loop computes what the dense product does",
    agreement(
        csr_matvec(csr.starts, csr.columns, csr.values, x[:, 0]),
        csr.dense() @ x[:, 0],
        atol=1e-3,
    ),
    "tolerances",
)
claim(
    "With no zeros at all CSR loses, at every batch",
    min(1 - c["CSR"][0] for c in curves.values()),
    "times",
    timed=True,
)
claim(
    "With 90 % zeros it wins, at every batch",
    min(c["CSR"][LEVELS.index(0.9)] - 1 for c in curves.values()),
    "times",
    timed=True,
)
claim(
    "At 30 % zeros it still loses at batch 32 and 256, if the processor has AVX2 and no more",
    min(1 - curves[b]["CSR"][LEVELS.index(0.3)] for b in (32, 256)),
    "times",
    timed=True,
    asked="AVX-512" not in instruction_set(),
)

# %%
claim(
    "Two of four gains next to nothing, though half of its weights are zeros, if the processor "
    "has AVX2 and no more",
    min(1.3 - c["2:4"] for c in curves.values()),
    "times",
    timed=True,
    asked="AVX-512" not in instruction_set(),
)
claim(
    "At batch 256 blocks win more than single weights do",
    curves[256]["blocks 8 x 16"][LEVELS.index(0.7)] - curves[256]["CSR"][LEVELS.index(0.7)],
    "times",
    timed=True,
)
Table(
    ["form", *(f"break-even, batch {b}" for b in curves), "90 % zeros, batch 32"],
    [
        [
            name,
            *(break_even(c[name]) for c in curves.values()),
            f"{curves[32][name][LEVELS.index(0.9)]:.1f} times",
        ]
        for name in ("CSR", "blocks 8 x 16")
    ],
    f"1024 x 1024, one thread, {instruction_set()}, dense: torch; 2:4 at batch 1, 32, 256: "
    + ", ".join(f"{c['2:4']:.2f}" for c in curves.values())
    + " times dense",
)

# %% [markdown]
# CSR loads a row of inputs for every single weight; a dense kernel reuses what it loads. Before anything is gained,
# that reuse must be made up for. (A break-even of 0 % means that the kernel is as fast as torch's with no zeros at all.) Two of
# four removes just half, and a processor has no instruction for it; graphics processors
# have one.
#
# ## 4 · Channels really removed
#
# Whole channels (structured pruning 结构化剪枝) leave a smaller dense network: no format, no kernel. But then everybody who
# reads a channel must be cut too.
#
# ### Exercise 6 · Channels really removed (2 points, about 3 lines)
#
# A convolution, its norm (gain and shift), a flatten, and a linear layer. Flattened, a channel is several neighbouring
# features.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def cut_channels_spec(first, gain, shift, second, keep):
#     pixels = second.shape[1] // len(keep)
#     channels = [c for c in range(len(keep)) if keep[c]]
#     features = [c * pixels + p for c in channels for p in range(pixels)]
#     return first[channels], gain[channels], shift[channels], second[:, features]
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "prune-cut_channels", "locked": false, "schema_version": 3, "solution": true, "task": false}
def cut_channels(first, gain, shift, second, keep):
    """float32 [N, C, h, w], [N], [N], [M, N * pixels], bool [N]
    -> the first four without some channels."""
    ### BEGIN SOLUTION
    wide = np.repeat(keep, second.shape[1] // len(keep))
    return first[keep], gain[keep], shift[keep], second[:, wide]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "prune-cut_channels-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(cut_channels, "prune.cut_channels")

# %%
cut_channels = adopt(cut_channels, "prune.cut_channels")

# %% [markdown]
# `silence` makes channels zero, `shrink` follows the network's graph and cuts them out, residual additions and norms included.
# On a convolutional network: 65 % of the channels of every convolution go, chosen by magnitude or at random; then
# four epochs. A third way is *slimming* (Liu et al. 2017): the dense network is trained with a penalty on the gains of its batch norms,
# and the channels with the smallest gains go. Controls: the dense network, trained as long; the same slim network from scratch, with those four epochs, and with *all* epochs
# that pruning has used.

# %%
chosen = predict(
    "Two thirds of the channels gone, four epochs of tuning: what matters most?",
    [
        "the score",
        "starting from the trained network",
        "neither: from scratch with all epochs is as good",
    ],
)

# %%
SHAPE, WIDE, DENSE_EPOCHS, SLIM_EPOCHS = data.shape, (32, 64, 96), 5, 4
few = data.train.first(3000)


def vgg(widths=WIDE):
    return models.VGGLike(SHAPE, CLASSES, widths)


vggs = trained("vgg-wide", data, SEEDS)
vgg_dense = on_test(vggs)


def fitted(networks, epochs, rate, label, **options):
    return fit_all(networks, few, epochs, rate, seeds=SEEDS, label=label, **options)


vgg_longer = on_test(fitted(copy.deepcopy(vggs), SLIM_EPOCHS, 0.15, "dense, longer"))


def slimmed(network, score, share=0.65):
    """A smaller network without the least important channels of every layer but the last."""
    inner = scores.prunable(network, last=False)
    wanted = {name: s for name, s in score(network).items() if name in inner}
    mask = select(wanted, share, "channel", "layer")
    small = shrink(silence(copy.deepcopy(network), channels_of(mask)))
    return small.to(memory_format=torch.channels_last)


def tuned(networks):
    return fitted(networks, SLIM_EPOCHS, 0.15, "tuning")


# %%
structured, untuned = {}, {}
for name, score in {
    "magnitude": scores.magnitude,
    "random channels": lambda n: scores.random(n, SEEDS[0]),
}.items():
    small = [slimmed(n, score) for n in vggs]
    untuned[name] = on_test(small)
    structured[name] = tuned(small)

# %%
slim_widths = tuple(
    m.out_channels
    for m in structured["magnitude"][0].modules()
    if isinstance(m, torch.nn.Conv2d)
)
for name, epochs in (
    ("from scratch, the tuning's epochs", SLIM_EPOCHS),
    ("from scratch, all epochs", DENSE_EPOCHS + SLIM_EPOCHS),
):
    structured[name] = fitted(built(lambda: vgg(slim_widths), SEEDS), epochs, 0.2, name)
sharpened = fitted(
    built(vgg, SEEDS), DENSE_EPOCHS, 0.2, "slimming", loss=penalized(slimming, 0.005)
)
small = [slimmed(n, scores.norm_scale) for n in sharpened]
untuned["slimming: norms trained towards 0"] = on_test(small)
structured["slimming: norms trained towards 0"] = tuned(small)
reached = {name: on_test(found) for name, found in structured.items()}


# %%
def latency_ms(network):
    images = data.test.x[:64].contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return 1e3 * time_call(lambda: network(images), repeats=31).median


slim = structured["magnitude"][0]
before, after = latency_ms(vggs[0]), latency_ms(slim)
macs = [sum(c.macs for c in count_layers(n, SHAPE)) for n in (vggs[0], slim)]
scores_apart = abs(reached["magnitude"][0] - reached["random channels"][0])
scratch_wins = reached["from scratch, all epochs"][0] - reached["magnitude"][0]
start_gain = reached["magnitude"][0] - reached["from scratch, the tuning's epochs"][0]

# %%
chosen.reveal(
    "neither: from scratch with all epochs is as good"
    if scratch_wins > -max(reached["from scratch, all epochs"][1], reached["magnitude"][1])
    else "the score"
    if scores_apart > start_gain
    else "starting from the trained network"
)
claim(
    "The slim network costs less than 6 points against the dense one trained as long",
    6 - (vgg_longer[0] - reached["magnitude"][0]),
    "points",
)
claim(
    "The slim network takes at most two thirds of the dense one's time, on one thread",
    before / after - 1.5,
    "times",
    timed=True,
)
claim(
    "The slim network's time falls by less than its MACs",
    macs[0] / macs[1] - before / after,
    "times",
    timed=True,
)
claim(
    "Random channels do as well as the largest ones, to within 2 points",
    2 - scores_apart,
    "points",
)

# %%
claim(
    "Given all epochs, the same network from scratch makes up more than a third of its "
    "distance",
    reached["from scratch, all epochs"][0]
    - reached["from scratch, the tuning's epochs"][0]
    - start_gain / 3,
    "points",
)
Table(
    ["slim network", "before tuning, %", "after, %", "below dense, trained as long"],
    [
        [
            n,
            mean_sd(*untuned[n]) if n in untuned else "-",
            mean_sd(*r),
            f"{vgg_longer[0] - r[0]:.1f}",
        ]
        for n, r in reached.items()
    ],
    f"channels {WIDE} to {slim_widths}; MACs {in_units(macs[0])} to {in_units(macs[1])}; "
    "batch 64 on one thread "
    f"{before:.2f} to {after:.2f} ms ({before / after:.1f} times); file "
    f"{in_bytes(disk_bytes(vggs[0]))} to "
    f"{in_bytes(disk_bytes(slim))}; dense {mean_sd(*vgg_dense)}, trained as long "
    f"{mean_sd(*vgg_longer)} %, {len(SEEDS)} seeds; "
    f"guessing: {100 / CLASSES:.1f} %",
)

# %% [markdown]
# Before tuning little is left: without its small channels the network is near guessing, unlike the one without its small
# weights. And the score hardly matters: random channels do nearly as well. Compare the rows "from scratch" with the first. Liu et al. (2019) found on ImageNet that with the whole budget the slim network from
# scratch is *as good*: what structured pruning finds is an architecture, not better weights. How much of the distance goes away
# here depends on the data (let `few` be all of it and see). Pruning is the cheaper way when a trained network is already there.
# And small layers are mostly overhead, which no MAC counts.
#
# ## 5 · The other road: training towards zero
#
# Instead of removing weights after the fact, make the loss want zeros: L1 (Lasso) pulls every weight towards 0 with the same
# force however small it is; L2 (weight decay, which `fit` always has a little of) lets go of small ones.

# %%
pulled = fit_all(
    built(lambda: models.MLP(data.shape, CLASSES), SEEDS),
    *(data.train, 10, 0.1),  # epochs and rate of the networks above
    seeds=SEEDS,
    label="L1",
    loss=penalized(l1, 2e-4),
)


def smallest(network, share=0.9):
    return on_test(
        [select(scores.magnitude(n), share).apply(copy.deepcopy(n)) for n in network]
    )


# %%
roads = {"L2 only (weight decay)": smallest(networks), "L1 as well": smallest(pulled)}
claim(
    "At 90 %, untuned, a network trained with L1 loses less than one without",
    dense[0]
    - roads["L2 only (weight decay)"][0]
    - (on_test(pulled)[0] - roads["L1 as well"][0]),
    "points",
)
Table(
    ["trained with", "dense, %", "90 % removed, untuned, %"],
    [
        ["L2 only (weight decay)", mean_sd(*dense), mean_sd(*roads["L2 only (weight decay)"])],
        ["L1 as well", mean_sd(*on_test(pulled)), mean_sd(*roads["L1 as well"])],
    ],
    f"{len(SEEDS)} seeds; the same number of epochs",
)

# %% [markdown]
# L1 costs accuracy before anything is pruned; compare with what two epochs of tuning after pruning gave in section 1.
#
# ## 6 · Your task: a quarter of the file
#
# **The multilayer perceptron (MLP) in at most 25 % of its bytes, within one point of the dense network trained as long.** A sparse file stores one bit
# a weight and the nonzeros. How much may go, how does each layer bear it, and how long must
# it train? The settings below come near it, not there: find better ones. Choose on the validation images; the test comes once, at the end.


# %%
def sensitivity(network, share=0.9):
    """Points lost if one layer alone loses that share (validation images)."""
    base, lost = evaluate(network, data.val), {}
    for name, score in scores.magnitude(network).items():
        pruned = select({name: score}, share).apply(copy.deepcopy(network))
        lost[name] = base - evaluate(pruned, data.val)
    return lost


lost = sensitivity(networks[0])
figure, axes = plt.subplots(figsize=(6, 2.6))
axes.bar(list(lost), list(lost.values()), color="#0072B2")
axes.set(
    xlabel="the only pruned layer, by its name",
    ylabel="points lost",
    title="90 % of one layer removed, untuned",
)
plt.show()
print(
    "the list of section 1 took: "
    + ", ".join(f"{100 * s:.0f} % of layer {n}" for n, s in mask.of_layers().items())
)

# %%
# Change these: the share removed, the epochs, and the part of them after which it is reached.
SHARE, MORE, UNTIL = 0.8, 6, 0.5
candidates, same_budget = (
    fit_all(
        copy.deepcopy(networks), data.train, MORE, 0.1, seeds=SEEDS, label=name, hooks=hooks
    )
    for name, hooks in (
        ("pruned", lambda _: [PruneGradually(SHARE, until=UNTIL)]),
        ("dense, as long", None),
    )
)
tried = {"pruned": candidates, "dense, as long": same_budget}
for name, found in tried.items():
    print(f"validation, {name}: {np.mean([evaluate(n, data.val) for n in found]):.1f} %")
goal, found = on_test(same_budget), on_test(candidates)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "pruned.safetensors"
    size = sparse_files.save(candidates[0], path)
    back = sparse_files.load(path, models.MLP(data.shape, CLASSES))

# %%
claim(
    "The sparse file holds the network exactly",
    evaluate(back, data.test) == evaluate(candidates[0], data.test),
)
claim(
    "The sparse file takes at most a quarter of the dense one's bytes",
    size <= disk_bytes(networks[0]) / 4,
)
claim(
    "With the settings above, the sparse network is within 3 points of the dense one trained "
    "as long",
    3 - (goal[0] - found[0]),
    "points",
)
print(
    f"{in_bytes(disk_bytes(networks[0]))} -> {in_bytes(size)}; dense {mean_sd(*goal)} %, "
    f"pruned {mean_sd(*found)} %"
)

# %% [markdown]
# ## Build it · The loop that prunes while it trains
#
# ### Exercise 7 · The loop that prunes while it trains (build, 16 points, about 20 lines)
#
# All schedules of this lab are one loop: choose which weights stay, train a step, keep the zeros at zero. Write it for any network. `tune_pruned(network, batches, fractions, lr)`
# trains the network in place, one step for each batch `(x, y)`, with cross-entropy and one `torch.optim.SGD` of momentum 0.9 for all steps, biases included. `fractions` has a
# number for each batch. It returns the masks of the last batch, `{parameter's name: bool tensor}`, `True` where a weight stays.
#
# For each batch: choose the masks, set what is pruned to 0, compute the loss, step, and set what is pruned to 0 again.
#
# 1. *The smallest go*: `round(fraction * count)` of the weights of **all layers together**, those of the smallest absolute values. Weights are the parameters with
#    `p.ndim > 1`, in a convolution as in a linear layer; biases are not pruned.
# 2. *Zeros stay zeros*: after a step, too, for momentum moves every weight.
# 3. *The others learn* from a forward pass in which the pruned weights are 0 already.
# 4. *The fraction rises*: the masks are chosen again for each batch, from the weights as they are at that moment.
#
# The calls of `torch.nn.utils.prune` may be used; the network must have the same parameters in the end.


# %% nbgrader={"grade": false, "grade_id": "prune-tune_pruned", "locked": false, "schema_version": 3, "solution": true, "task": false}
def tune_pruned(network, batches, fractions, lr):
    """A module, [(x, y), ...], a fraction for each batch, the rate -> {name: bool tensor}."""
    ### BEGIN SOLUTION
    weights = {name: p for name, p in network.named_parameters() if p.ndim > 1}
    optimizer = torch.optim.SGD(network.parameters(), lr, momentum=0.9)
    masks = {}

    def hold():
        with torch.no_grad():
            for name, keep in masks.items():
                weights[name] *= keep

    for (x, y), fraction in zip(batches, fractions):
        sizes = torch.cat([w.detach().abs().flatten() for w in weights.values()])
        keep = torch.ones(len(sizes), dtype=torch.bool)
        keep[sizes.argsort(stable=True)[: round(fraction * len(sizes))]] = False
        parts = keep.split([w.numel() for w in weights.values()])
        masks = {n: part.view(w.shape) for (n, w), part in zip(weights.items(), parts)}
        hold()
        loss = torch.nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        hold()
    return masks
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "prune-tune_pruned-check", "locked": true, "points": 16, "schema_version": 3, "solution": false, "task": false}
check(tune_pruned, "prune.tune_pruned")

# %%
tune_pruned = adopt(tune_pruned, "prune.tune_pruned")

# %% [markdown]
# Your loop at work: four epochs of tuning, in which the cubic schedule of Exercise 3 removes 95 % of a network's weights, compared with the same fraction removed at once and no tuning.

# %%
torch.manual_seed(SEEDS[0])
order = torch.randperm(len(data.train)).split(100)
lessons = [(data.train.x[i], data.train.y[i]) for i in order] * BUDGET
shares = [cubic_sparsity(t, int(0.6 * len(lessons)), 0.95) for t in range(len(lessons))]
at_a_time, in_one_go = copy.deepcopy(networks[0]), copy.deepcopy(networks[0])
held = tune_pruned(at_a_time.train(), lessons, shares, 0.02)
select(scores.magnitude(in_one_go), 0.95).apply(in_one_go)
tuned_here = evaluate(at_a_time.eval(), data.test)
claim(
    "While it trains, your loop saves more than ten points of what 95 % at once cost",
    tuned_here - evaluate(in_one_go, data.test) - 10,
    "points",
    yours=tune_pruned,
)
print(
    f"{100 * (1 - sum(int(k.sum()) for k in held.values()) / sum(k.numel() for k in held.values())):.1f} % "
    f"of the weights are 0; {tuned_here:.1f} %, at once and untuned "
    f"{evaluate(in_one_go, data.test):.1f} %"
)

# %% [markdown]
# ## Open · Five weights of a hundred
#
# An *open* exercise has no right answer. What you hand back is measured, here and again while grading, on images that your code does not see: bronze is above
# what a plain way reaches, gold is what our own best answer reaches.
#
# ### Exercise 8 · Five weights of a hundred (open, 12 points, about 25 lines)
#
# You are given a trained perceptron as arrays (weights [outputs, inputs] and biases, ReLU between the layers), 4,000 training images, their labels, and the
# fraction of all weights that may differ from 0. Hand back weights of the same shapes, and biases. Aim at 15 seconds of processor time
# (`time.process_time()`): after 20 the grader stops.
#
# Prune at once or in rounds, over all layers or in each, tune for long or not; torch is at hand (`torch.from_numpy`), the library is not. Nothing that you hand
# back is trusted: the non-zeros are counted, and the accuracy is measured, from your arrays.


# %% nbgrader={"grade": false, "grade_id": "prune-sparse_network", "locked": false, "schema_version": 3, "solution": true, "task": false}
def sparse_network(weights, biases, images, labels, remaining):
    """Tuples of float32 arrays, images [n, 256], labels [n], fraction -> (weights, biases)."""
    ### BEGIN SOLUTION
    torch.manual_seed(0)
    ws = [torch.tensor(w, requires_grad=True) for w in weights]
    bs = [torch.tensor(b, requires_grad=True) for b in biases]
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    epochs, size, rate = 40, 100, 8e-3
    steps, step = epochs * -(-len(x) // size), 0
    optimizer = torch.optim.Adam([*ws, *bs], rate)

    def masks_of(fraction):
        sizes = torch.cat([w.detach().abs().flatten() for w in ws])
        border = sizes.sort(descending=True).values[
            min(int(fraction * len(sizes)), len(sizes) - 1)
        ]
        return [w.detach().abs() > border for w in ws]

    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(size):
            if step % 20 == 0:  # little by little, the last third at the final size
                done = min(1.0, step / (0.7 * steps))
                masks = masks_of(1 - (1 - remaining) * (1 - (1 - done) ** 3))
            with torch.no_grad():
                for w, m in zip(ws, masks, strict=True):
                    w *= m
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps) + 1e-5
            h = x[batch]
            for w, b in zip(ws[:-1], bs[:-1], strict=True):
                h = torch.relu(torch.nn.functional.linear(h, w, b))
            loss = torch.nn.functional.cross_entropy(
                torch.nn.functional.linear(h, ws[-1], bs[-1]), y[batch]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    masks = masks_of(remaining)
    found = tuple((w.detach() * m).numpy() for w, m in zip(ws, masks, strict=True))
    return found, tuple(b.detach().numpy() for b in bs)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "prune-sparse_network-check", "locked": true, "points": 12, "schema_version": 3, "solution": false, "task": false}
check(sparse_network, "prune.sparse_network")

# %%
sparse_network = adopt(sparse_network, "prune.sparse_network")

# %% [markdown]
# ## The fourth need: energy
#
# Energy (能耗) is estimated: every multiplication and addition at its price in a 45 nm process (Horowitz 2014), and every byte of the file read once from memory, which costs as much as hundreds of additions. Single zeros save bytes but no operation of an engine that multiplies them all the same; channels that are gone save both. Beside them stands the cheapest step of all, a cast to 16 bits (半精度), which any of these networks can take as well.

# %%
import compresslab as cl

vgg_dense = cl.measure(vggs[0], data, "VGG-like, dense")
vgg_slim = cl.measure(slim, data, "VGG-like, slim")
claim(
    "By the estimate the slim network takes less than a quarter of the dense one's energy",
    0.25 - vgg_slim.energy / vgg_dense.energy,
    "of the energy",
)
cl.table(
    cl.measure(networks[0], data, "MLP, dense"),
    cl.measure(candidates[0], data, "MLP, sparse"),
    vgg_dense,
    cl.measure(copy.deepcopy(vggs[0]).half(), data, "VGG-like, float16"),
    cl.measure(copy.deepcopy(vggs[0]).bfloat16(), data, "VGG-like, bfloat16"),
    vgg_slim,
)

# %%
drawn = {
    name: cl.measure.joules(lambda: run(data.test.x[:64]))
    for name, run in (("dense", vggs[0]), ("slim", slim))
}
print(
    "Joules by the processor's own counters: this machine does not let them be read."
    if None in drawn.values()
    else "By the processor's own counters, µJ an image (the whole socket, idling included): "
    + ", ".join(f"{name} {1e6 * spent / 64:.0f}" for name, spent in drawn.items())
)

# %% [markdown]
# ## Longer than a lab · torch's own calls, shares by search, and generalisation
#
# What follows takes minutes for each seed: it was run over several seeds, and its rows are kept beside the code (`compresslab/longer/torch_prune.py`). With `COMPRESSLAB_LONGER=1` in the environment a cell runs one seed here as well; `compresslab longer torch_prune` runs them all anew.
#
# `torch.nn.utils.prune` has four calls. One of the articles behind this course says that unstructured pruning removes weights at random: compare the first two rows. Their code loops over a network's convolutions with the second call and calls the result structured: look at the column of silent channels.

# %%
from compresslab.longer import show_longer

show_longer("torch_prune")

# %% [markdown]
# One share for all layers, a global cut, or a share for each layer that was searched (AutoML)? Twenty random plans, judged on validation images, all with the same number of weights.

# %%
show_longer("share_search")

# %% [markdown]
# Training can be told to make zeros: L1 (section 5) makes weights small, L0 counts them, by gates that are open or closed (Louizos et al. 2018).

# %%
show_longer("l0")

# %% [markdown]
# A shortcut adds two layers' channels, so that both must lose the same ones. The library follows the graph and cuts them together.

# %%
show_longer("residual_cut")

# %% [markdown]
# And without any tuning? Weights that are gone shift the mean and the variance of every layer's outputs, and the batch norms (批归一化) behind expect the old ones. Their statistics can be taken anew from a few images without labels, no weight is trained (Li et al. 2020). How much of the loss was in the norms? `cl.Prune` does so by itself where it gets images and no labels.

# %%
show_longer("norms_again")

# %% [markdown]
# Pruning takes freedom from a network, so that it should generalise better, it is said. With few images, is it so?

# %%
show_longer("generalisation")

# %% [markdown]
# A network that somebody else wrote is pruned in the same way: a BERT of Hugging Face's library, small and with random weights here, so that nothing has to be fetched.

# %%
from compresslab import published

if published.available():
    import transformers

# %%
if published.available():
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.BertConfig(vocab_size=1000, intermediate_size=128, **size)
    bert = transformers.BertForSequenceClassification(config).eval()
    tokens = torch.randint(0, 1000, (8, 16))
    half = cl.compress(bert, [cl.Prune(0.5)], tokens)
    with tempfile.TemporaryDirectory() as folder:
        cl.save(half, Path(folder) / "half.safetensors")
        again = cl.load(Path(folder) / "half.safetensors", like=bert)
    kept = [float((m.weight != 0).double().mean()) for m in scores.prunable(again).values()]
    with torch.no_grad():
        same = torch.equal(again(tokens).logits, half(tokens).logits)
    print(
        f"{len(kept)} layers, {100 * sum(kept) / len(kept):.0f} % of the weights a layer stay"
    )
    claim(
        "A BERT of Hugging Face: pruned, saved, read back, the same answers",
        same and max(kept) < 1,
    )
else:
    print(f"transformers is not installed ({published.INSTALL}): this cell has nothing to show")

# %% [markdown]
# ## What the papers say, what we measured
#
# The networks, data and machines of the papers are others than ours: compare directions and sizes, not digits.

# %%
Table(
    ["finding", "source", "paper", "here"],
    [
        [
            "weights removed, and what it cost",
            "Han et al. 2015, table 1 (LeNet-300-100)",
            "92 %, nothing",
            f"80 %: {goal[0] - found[0]:.1f} points",
        ],
        [
            "gradual pruning at 87.5 %",
            "Zhu and Gupta 2017, table 1 (InceptionV3, top-1)",
            "-3.5",
            f"90 %: {timing['gradual', 0.9][0] - as_long[0]:.1f}",
        ],
        [
            "slim from scratch against pruned",
            "Liu et al. 2019, table 1",
            "equal or better",
            f"{scratch_wins:+.1f}",
        ],
        [
            "speed of 2:4",
            "Mishra et al. 2021, section 4 (GPU)",
            "up to 2",
            f"{curves[32]['2:4']:.2f} (CPU, batch 32)",
        ],
    ],
    text_columns=2,
)

# %% [markdown] nbgrader={"grade": true, "grade_id": "written-pruning_written", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# ## Written question (2 points)
#
# A vendor offers a network "pruned to 5 % of its weights, 20 times smaller and faster". Name the three numbers you would ask
# for, with their controls, before you believe each of the two words.
#
# *Your answer (double-click here to write it):*

# %% [markdown]
# ## Recap
#
# - Magnitude, one list for all layers: hard to beat, and random pruning shows how much that is worth. Rounds and gradual schedules
#   pay when nearly everything goes.
# - Zeros save bytes in a file that leaves them out; they save time only in the right form, and above break-even.
# - Removing channels needs no special engine. Compare with the same slim network trained from scratch.
#
# **Do not use it** for speed where batch and sparsity lie below break-even, nor structured pruning before you have tried the
# slim network from scratch.
#
# **Back:** [Lab 03 · Quantization-aware training and fine-tuning](03_quantization_aware_training.ipynb) · **Next:** [Lab 05 · Lottery tickets](05_lottery_tickets.ipynb)
#
# **References.** Han et al. 2015, *Learning both weights and connections*, arXiv:1506.02626 · Molchanov et al. 2016, arXiv:1611.06440 ·
# Zhu and Gupta 2017, *To prune, or not to prune*, arXiv:1710.01878 · Liu et al. 2017, *Network slimming*, arXiv:1708.06519 ·
# Liu et al. 2019, *Rethinking the value of network pruning*, arXiv:1810.05270 · Mishra et al. 2021, *Accelerating sparse deep
# neural networks*, arXiv:2104.08378
