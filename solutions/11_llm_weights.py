# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Lab 11 · The weights of a language model
#
# **You will** press a language model's weights into 8, 4, 3 and 2 bits, round them so that each makes up for the others' errors, move outliers out of the way, write a kernel for 4-bit weights, and let the library's write text.
# **Time:** 130 minutes to work through; it runs in one to three minutes, by processor.
#
# A language model (语言模型) predicts the next token (词元) from those before it. Writing goes one token at a time, and every token needs *every* weight once. So what a large model costs is, first of all, bytes.

# %%
import copy
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from numba import njit

from compresslab import pretrained, published
from compresslab.classroom.live import click_columns
from compresslab.data import corpus

# %%
from compresslab.gpt import GPT, generate, next_token_loss, perplexity
from compresslab.kernels import lowbit
from compresslab.lab import (
    Table,
    adopt,
    agreement,
    begin,
    built,
    check,
    claim,
    disk_bytes,
    explore,
    fit,
    in_bytes,
    instruction_set,
    machine_limits,
    mean_sd,
    predict,
    race,
    seed_everything,
    side_by_side,
    use_style,
)
from compresslab.network.select import linear_layers, matrix, set_matrix
from compresslab.runtime import weight_only as packed_files
from compresslab.runtime.dynamic import convert_dynamic
from compresslab.runtime.weight_only import convert_weights
from compresslab.techniques import gptq, lora, ptq, smoothing, weight_only
from compresslab.techniques.quantizer import QuantConfig
from compresslab.techniques.weight_only import WeightConfig

# %%
use_style()
SEEDS = begin()
model = pretrained.language_model()
test = corpus.load("python", "test").some(128, SEEDS[0])
base = perplexity(model, test)
print(
    f"{sum(p.numel() for p in model.parameters()):,} parameters, made with "
    f"{pretrained.facts(pretrained.LANGUAGE)}"
)
print(
    f"{len(test)} passages of {corpus.LENGTH} tokens, drawn from files that it has not seen: perplexity {base:.2f}\n"
)
prompt = corpus.encode(["def read(self, path):\n    "])
print(corpus.decode(generate(model, prompt, 60, temperature=0.7)))

# %% [markdown]
# The model is a small GPT (four layers, 128 wide) that learned Python's standard library (`compresslab checkpoint gpt` makes it). Its *perplexity* (困惑度) is the exponential of the mean
# loss: a perplexity of N means that it is as unsure of the next token as of a throw of a die with N faces. The vocabulary has 1,024 tokens.
#
# ## A hook: 175 billion weights
#
# GPT-3 has 175 billion. To write one token, a processor reads them all; the memory's bandwidth (带宽) says how long that takes, however fast it multiplies.

# %%
# Larger than caches are.
limits = machine_limits(megabytes=512)
token_guess = predict(
    "One core of this machine, all of GPT-3's weights in its memory as 16-bit floats. A token "
    "takes about:",
    ["under a second", "some seconds", "half a minute", "minutes"],
)

# %%
# Bytes read and bytes written, per second; one thread, so less than lab 00 found.
READ = limits.bytes_per_second
rows, waits = [], {}
for bits in (32, 16, 8, 4, 3, 2):
    rows.append([f"{bits} bits"])
    for weights in (175e9, 7e9, 1e9):
        size = weights * bits / 8
        waits[weights, bits] = size / READ
        rows[-1].append(f"{size / 1e9:,.1f} GB, {size / READ:,.2f} s")
wait = waits[175e9, 16]

# %%
token_guess.reveal(
    "under a second"
    if wait < 1
    else "some seconds"
    if wait < 12
    else "half a minute"
    if wait < 120
    else "minutes"
)

# %%
Table(
    ["weights", "175 billion", "7 billion", "1 billion"],
    rows,
    f"bytes (scales not included), and seconds a token at the {READ / 1e9:.0f} GB/s that one "
    "thread moves here",
)

# %% [markdown]
# (Beside the weights stand the keys and values of earlier tokens, the KV cache (键值缓存): for one reader and a few thousand tokens a small part, for many readers at once the larger one.)
#
# Activations may stay floats: there is one of them for thousands of weights. So weights alone are quantized (仅权重量化), W4A16 in the usual shorthand (weights 4 bits, activations 16; ours are floats of 32).
#
# ## 1 · Rounding, in groups
#
# Rounding to nearest (就近舍入, RTN) needs no data. One scale (缩放因子) for a row of thousands of weights is ruled by its largest. So every `group` neighbours of a row have a scale and a zero point (零点) of their own:
#
# $$q=\mathrm{clip}\big(\mathrm{rint}(w/s)+z,\;0,\;2^b-1\big),\qquad w'=(q-z)\,s$$
#
# ### Exercise 1 · Rounding in groups (2 points, about 8 lines)
#
# The range of a group reaches from its smallest weight to its largest and holds 0. The scale is stored as a 16-bit float, so it is rounded to one before codes are chosen.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def round_groups_spec(weight, bits, group):
#     out = np.zeros_like(weight)
#     for n in range(weight.shape[0]):
#         for first in range(0, weight.shape[1], group):
#             w = weight[n, first : first + group]
#             lo, hi = min(w.min(), 0), max(w.max(), 0)
#             s = np.float32(np.float16((hi - lo) / (2**bits - 1)))
#             if s == 0:  # nothing but zeros
#                 continue
#             z = np.rint(-lo / s)
#             for k in range(group):
#                 q = np.rint(w[k] / s) + z
#                 out[n, first + k] = (min(max(q, 0), 2**bits - 1) - z) * s
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "llm-round_groups", "locked": false, "schema_version": 3, "solution": true, "task": false}
def round_groups(weight, bits, group):
    """float32 [outputs, inputs], two numbers
    -> the weights that the codes stand for, float32 [outputs, inputs]."""
    ### BEGIN SOLUTION
    w = weight.reshape(len(weight), -1, group)
    lo, hi = np.minimum(w.min(2, keepdims=True), 0), np.maximum(w.max(2, keepdims=True), 0)
    s = ((hi - lo) / (2**bits - 1)).astype(np.float16).astype(np.float32)
    s[s == 0] = 1
    z = np.rint(-lo / s)
    q = np.clip(np.rint(w / s) + z, 0, 2**bits - 1)
    return ((q - z) * s).astype(np.float32).reshape(weight.shape)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "llm-round_groups-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(round_groups, "llm.round_groups")

# %%
round_groups = adopt(round_groups, "llm.round_groups")


def with_weights(change, network=model):
    """A copy of the model with each linear layer's matrix changed."""
    changed = copy.deepcopy(network)
    for name, layer in linear_layers(changed).items():
        set_matrix(layer, change(name, matrix(layer)))
    return changed


def lost(network):
    """How much perplexity went up, in per cent."""
    return 100 * (perplexity(network, test) / base - 1)


mine = lost(with_weights(lambda _, w: torch.from_numpy(round_groups(w.numpy(), 4, 64))))
library = lost(weight_only.quantize(model, WeightConfig(4, 64)).model)
claim(
    "The library's rounding to nearest, which is used from here on, is yours",
    0.02 - abs(mine / library - 1),
    "of the loss",
    yours=round_groups,
)

# %%
bits_guess = predict(
    "Rounding to nearest, one scale a row, going down from 8 bits: where is perplexity first "
    "up by more than a tenth?",
    ["8", "4 or so", "3", "2"],
)

# %%
GROUPS = {"a row": None, "128": 128, "64": 64, "32": 32}
nearest = {
    (bits, name): weight_only.quantize(model, WeightConfig(bits, group))
    for bits in (8, 4, 3, 2)
    for name, group in GROUPS.items()
}
rtn = dict(zip(nearest, side_by_side(lost, [codes.model for codes in nearest.values()])))
first_over = max((bits for bits in (8, 4, 3, 2) if rtn[bits, "a row"] > 10), default=2)

# %%
bits_guess.reveal({8: "8", 4: "4 or so", 3: "3", 2: "2"}[first_over])

# %%
figure, axes = plt.subplots(figsize=(6.5, 3.2))
for bits in (8, 4, 3, 2):
    points = [(nearest[bits, name].bits, rtn[bits, name]) for name in GROUPS]
    axes.plot(*zip(*points), marker="o", label=f"{bits} bits")
axes.set(
    title="left to right: groups of a row, 128, 64, 32",
    xlabel="bits a weight, scales and zero points included",
    ylabel="perplexity up by, %",
    yscale="symlog",
    ylim=(-0.2, 2e4),
)
axes.legend()
plt.show()
claim("8 bits are free: less than 0.5 %", 0.5 - max(abs(rtn[8, name]) for name in GROUPS), "%")
claim(
    "At 4 bits, groups of 32 lose less than three quarters of what rows lose",
    0.75 * rtn[4, "a row"] - rtn[4, "32"],
    "%",
)

# %%
claim(
    "Groups of 32 cost half a bit a weight more than rows",
    nearest[4, "32"].bits - nearest[4, "a row"].bits > 0.45,
)
claim(
    "3 bits lose more than three times as much as 4, whatever the group",
    min(rtn[3, name] - 3 * rtn[4, name] for name in GROUPS),
    "%",
)
claim(
    "At 2 bits rounding collapses: perplexity is more than five times what it was",
    min(rtn[2, name] for name in GROUPS) - 400,
    "%",
)
Table(
    ["perplexity lost, %", *(f"groups: {name}" for name in GROUPS)],
    [
        [
            f"{bits} bits",
            *(
                f"{rtn[bits, name]:.1f} ({nearest[bits, name].bits:.2f} bits)"
                for name in GROUPS
            ),
        ]
        for bits in (8, 4, 3, 2)
    ],
    "rounding to nearest; in brackets the bits a weight really takes",
)

# %% [markdown]
# And what does a model of such a perplexity write? The same beginning, continued by each of them (groups of 64, the likeliest token every time):

# %%
for name, network in {
    "floats": model,
    **{f"{bits} bits": nearest[bits, "64"].model for bits in (8, 4, 3, 2)},
}.items():
    written = corpus.decode(generate(network, prompt, 24))
    print(f"{name}:\n{written}\n")

# %% [markdown]
# Smaller groups help and cost: 16 bits of scale and a zero point each. Mind which you compare: 4 bits in groups of 32 are more than four and a half. (In most layers of this small model a row *is* 128 weights; only the second feed-forward layer has 512.)
#
# ## 2 · Which weights matter?
#
# Here is what reaches three of the layers:

# %%
calibration = corpus.load("python", "train", 400_000).some(32)
inputs = list(calibration.x.split(16))
reaching = {}
hooks = [
    layer.register_forward_pre_hook(
        lambda _, x, name=name: reaching.setdefault(name, []).append(x[0].flatten(0, -2))
    )
    for name, layer in linear_layers(model).items()
]
with torch.no_grad():
    for batch in inputs:
        model(batch)
for hook in hooks:
    hook.remove()
reaching = {name: torch.cat(parts) for name, parts in reaching.items()}
figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), sharey=True)
for axis, name in zip(
    axes, ("layers.0.attention.qkv", "layers.2.attention.out", "layers.0.feedforward.2")
):
    magnitude = reaching[name].abs().mean(0)
    axis.bar(range(len(magnitude)), magnitude / magnitude.median(), width=1.0)
    axis.set(title=name, xlabel="input channel")
axes[0].set_ylabel("mean |x|, median = 1")
plt.show()

# %% [markdown]
# ### Exercise 2 · The columns that matter (1 point, about 4 lines)
#
# Weights that meet large activations are called *salient* (显著). A share of a layer's inputs stays in float: those with the largest mean magnitude of activations; share · inputs of them, rounded, and at least one.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def salient_columns_spec(x, weight, share):
#     inputs = x.shape[1]
#     size = [
#         float(np.mean([abs(value) for value in x[:, k]])) for k in range(inputs)
#     ]
#     order = sorted(range(inputs), key=lambda k: -size[k])
#     keep = np.zeros(inputs, dtype=bool)
#     for k in order[: max(1, round(share * inputs))]:
#         keep[k] = True
#     return keep
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "llm-salient_columns", "locked": false, "schema_version": 3, "solution": true, "task": false}
def salient_columns(x, weight, share):
    """Activations float32 [n, inputs], weights float32 [outputs, inputs], a number in 0..1
    -> bool [inputs]."""
    ### BEGIN SOLUTION
    size = np.abs(x).mean(axis=0)
    count = max(1, round(share * len(size)))
    keep = np.zeros(len(size), dtype=bool)
    keep[np.argsort(-size)[:count]] = True
    return keep
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "llm-salient_columns-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(salient_columns, "llm.salient_columns")

# %%
salient_columns = adopt(salient_columns, "llm.salient_columns")
salient_guess = predict(
    "3 bits, one scale a row, and one per cent of the columns left in float (one of 128). Of "
    "what rounding lost, that brings back:",
    ["about one per cent", "about 5 per cent", "about a fifth", "nearly all"],
)

# %%
CONFIG = WeightConfig(3, None)


def partly_rounded(choose, share=0.01):
    """Every layer rounded, but for the columns that are chosen."""

    def change(name, w):
        keep = torch.from_numpy(choose(name, w, share))
        return torch.where(keep, w, weight_only.round_to_nearest(w, CONFIG).dequantize())

    return lost(with_weights(change))


def at_random(seed):
    generator = np.random.default_rng(seed)
    return lambda name, w, share: np.isin(
        np.arange(w.shape[1]),
        generator.permutation(w.shape[1])[: max(1, round(share * w.shape[1]))],
    )


# %%
nothing_kept = rtn[3, "a row"]
SHARES = (0.01, 0.05)


def by_activations(name, w, share):
    return salient_columns(reaching[name].numpy(), w.numpy(), share)


def by_size(name, w, share):
    return salient_columns(w.numpy(), w.numpy(), share)


salient = dict(zip(SHARES, side_by_side(partly_rounded, [by_activations] * 2, SHARES)))
by_weight = dict(zip(SHARES, side_by_side(partly_rounded, [by_size] * 2, SHARES)))
random_kept = {
    share: side_by_side(
        partly_rounded, [at_random(SEEDS[0] + i) for i in range(5)], [share] * 5
    )
    for share in SHARES
}
brought_back = {share: 1 - salient[share] / nothing_kept for share in salient}
by_chance = {share: 1 - np.mean(random_kept[share]) / nothing_kept for share in salient}
back = 100 * brought_back[0.01]

# %%
salient_guess.reveal(
    "about one per cent"
    if back < 2.5
    else "about 5 per cent"
    if back < 10
    else "about a fifth"
    if back < 50
    else "nearly all"
)

# %%
claim(
    "One per cent of the columns, chosen by their activations, brings back more than a tenth "
    "of what was lost",
    brought_back[0.01] - 0.1,
    "of the loss",
)
claim(
    "More than three times as much as random columns do",
    brought_back[0.01] - 3 * by_chance[0.01],
    "of the loss",
)
claim(
    "Columns with large weights bring back less than half as much",
    0.5 * (nothing_kept - salient[0.01]) - (nothing_kept - by_weight[0.01]),
    "%",
)
Table(
    ["left in float", "perplexity lost, %: 1 %", "5 % of the columns"],
    [
        ["nothing", f"{nothing_kept:.1f}", f"{nothing_kept:.1f}"],
        ["at random", *(mean_sd(np.mean(v), np.std(v, ddof=1)) for v in random_kept.values())],
        ["largest weights", *(f"{v:.1f}" for v in by_weight.values())],
        ["largest activations", *(f"{v:.1f}" for v in salient.values())],
    ],
    "3 bits, one scale a row, rounded to nearest; random: 5 draws",
)

# %% [markdown]
# Columns in float beside columns in 3 bits make a slow kernel. Two ways out follow: let the other weights make up for an error (GPTQ), or make salient columns *larger* before rounding, so that their error is smaller (AWQ, activation-aware weight quantization).
#
# ## 3 · GPTQ: the rest makes up for it
#
# What an error $\delta w$ costs is not its size but what it does to outputs: $\lVert X\delta w\rVert^2=\delta w\,H\,\delta w^T$ with $H=X^TX$. Fix weight $j$ at its code, $\delta w_j=q_j-w_j$, and ask which other changes cost least. With a multiplier for the fixed one:
#
# $$H\,\delta w^T=\lambda e_j\;\Rightarrow\;\delta w=\lambda\,[H^{-1}]_{j,:}\;\Rightarrow\;\lambda=\frac{q_j-w_j}{[H^{-1}]_{jj}}\;\Rightarrow\;\delta w=-\frac{w_j-q_j}{[H^{-1}]_{jj}}\,[H^{-1}]_{j,:}$$
#
# GPTQ (Frantar et al. 2022) takes the columns from left to right. What remains of $H^{-1}$ once the columns before $j$ are fixed is, in its first row, $U_{jj}\,U_{j,:}$ (and so $U_{jj}^2$ on the diagonal), with the Cholesky factor $H^{-1}=U^TU$, $U$ upper triangular. One factor serves all columns and all rows:
#
# $$\mathrm{err}=\frac{w_j-q_j}{U_{jj}},\qquad w_k\leftarrow w_k-\mathrm{err}\cdot U_{jk}\quad\text{for } k>j$$
#
# ### Exercise 3 · GPTQ on one row (3 points, about 7 lines)
#
# ($H$ is damped first: a hundredth of its mean diagonal is added to it, for directions that the samples do not show.) A code stands for (q − zero) · scale. Return the row as its codes stand for it; the row given stays as it is.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def gptq_row_spec(row, factor, scale, zero, bits):
#     w = row.copy()
#     out = np.zeros(len(row))
#     for j in range(len(row)):
#         q = min(max(np.rint(w[j] / scale) + zero, 0), 2**bits - 1)
#         out[j] = (q - zero) * scale
#         err = (w[j] - out[j]) / factor[j, j]
#         for k in range(j + 1, len(row)):
#             w[k] = w[k] - err * factor[j, k]
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "llm-gptq_row", "locked": false, "schema_version": 3, "solution": true, "task": false}
def gptq_row(row, factor, scale, zero, bits):
    """float64 [inputs], U float64 [inputs, inputs], three numbers -> float64 [inputs]."""
    ### BEGIN SOLUTION
    work, out = row.copy(), np.empty(len(row))
    for j in range(len(row)):
        code = np.clip(np.rint(work[j] / scale) + zero, 0, 2**bits - 1)
        out[j] = (code - zero) * scale
        work[j + 1 :] -= (work[j] - out[j]) / factor[j, j] * factor[j, j + 1 :]
    return out
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "llm-gptq_row-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(gptq_row, "llm.gptq_row")

# %% [markdown]
# A row of seven weights at 2 bits has $4^7$ codes: few enough to try them all. How close does GPTQ come to the best?

# %%
gptq_row = adopt(gptq_row, "llm.gptq_row")
every_code = np.stack(np.meshgrid(*[np.arange(4.0)] * 7), -1).reshape(-1, 7)
costs = []
sample = reaching["layers.1.attention.qkv"].numpy()
for row in range(160):
    generator = np.random.default_rng(SEEDS[0] + row)
    columns = generator.choice(sample.shape[1], 7, replace=False)
    h = gptq.hessian(torch.from_numpy(sample[:, columns]))
    row, scale, zero = generator.normal(size=7), 1.0, 1
    factor = gptq.inverse_factor(h).numpy()

    def cost(quantized):
        error = quantized - row
        return ((error @ h.numpy()) * error).sum(-1)

    plain = (np.clip(np.rint(row / scale) + zero, 0, 3) - zero) * scale
    costs.append(
        (
            cost(plain),
            cost(gptq_row(row, factor, scale, zero, 2)),
            cost((every_code - zero) * scale).min(),
        )
    )
by_rounding, by_gptq, by_force = np.mean(costs, axis=0)

# %%
claim(
    "No row is better than the best of all codes",
    all(g >= best * (1 - 1e-9) for _, g, best in costs),
)
claim("GPTQ costs less than rounding, on average", by_rounding - by_gptq, "of output error")
Table(
    ["", "output error"],
    [
        ["rounding to nearest", f"{by_rounding:.3f}"],
        ["GPTQ", f"{by_gptq:.3f}"],
        ["best of all 16,384 codes", f"{by_force:.3f}"],
    ],
    "160 rows of seven weights, 2 bits, inputs of a layer's attention",
)

# %% [markdown]
# Here is the row on which GPTQ is furthest from the best. Let it choose weight by weight and watch the others move; then begin again, and do better by hand.

# %%
hard = int(np.argmax([found - best for _, found, best in costs]))
generator = np.random.default_rng(SEEDS[0] + hard)
columns = generator.choice(sample.shape[1], 7, replace=False)
click_columns(
    generator.normal(size=7), gptq.hessian(torch.from_numpy(sample[:, columns])), bits=2
)

# %%
gptq_guess = predict(
    "The whole model at 3 bits, groups of 64: of what rounding loses, GPTQ loses about",
    ["nine tenths", "two thirds", "a third", "a twentieth"],
)

# %%
cases = [(bits, name) for bits in (4, 3, 2) for name in ("a row", "64", "32")]
optimized = dict(
    zip(
        cases,
        side_by_side(
            lambda case: gptq.quantize(model, inputs, WeightConfig(case[0], GROUPS[case[1]])),
            cases,
            label="GPTQ",
        ),
    )
)
compensated = dict(zip(cases, side_by_side(lambda case: lost(optimized[case].model), cases)))
narrower = [(bits, "64") for bits in (4, 3, 2)]


def drawn_in(case):
    """With the ends of the range drawn in: by GPTQ, and by rounding."""
    config = WeightConfig(case[0], 64, "mse")
    by_gptq = gptq.quantize(model, inputs, config).model
    return lost(by_gptq), lost(weight_only.quantize(model, config).model)


both = dict(zip(narrower, side_by_side(drawn_in, narrower)))
ends_drawn_in, rounded_inside = ({case: pair[i] for case, pair in both.items()} for i in (0, 1))
in_order = {
    (3, "64"): lost(gptq.quantize(model, inputs, WeightConfig(3, 64), order=True).model)
}
ratio = compensated[3, "64"] / rtn[3, "64"]

# %%
gptq_guess.reveal(
    "nine tenths"
    if ratio > 0.8
    else "two thirds"
    if ratio > 0.5
    else "a third"
    if ratio > 0.12
    else "a twentieth"
)
claim(
    "At 4 bits GPTQ loses less than half of what rounding does, whatever the group",
    min(0.5 * rtn[4, n] - compensated[4, n] for n in ("a row", "64", "32")),
    "%",
)
claim(
    "At 3 bits, too",
    min(0.5 * rtn[3, n] - compensated[3, n] for n in ("a row", "64", "32")),
    "%",
)
claim(
    "At 2 bits it is still several times better, and still of no use: perplexity is up by "
    "more than half",
    min(
        rtn[2, "32"] / 3 - compensated[2, "32"],
        min(*(v for (bits, _), v in compensated.items() if bits == 2), ends_drawn_in[2, "64"])
        - 50,
    ),
    "%",
)

# %%
claim(
    "3 bits by GPTQ in groups of 32 lose less than 1.5 times what 4 bits lose by rounding in "
    "rows",
    1.5 * rtn[4, "a row"] - compensated[3, "32"],
    "%",
)
Table(
    [
        "perplexity lost, %",
        "RTN",
        "RTN, narrower range",
        "GPTQ",
        "GPTQ, narrower range",
        "GPTQ, largest activations first",
    ],
    [
        *(
            [
                f"{bits} bits, groups: {name}",
                *(
                    f"{found[bits, name]:.1f}" if (bits, name) in found else "-"
                    for found in (rtn, rounded_inside, compensated, ends_drawn_in, in_order)
                ),
            ]
            for bits, name in compensated
        )
    ],
    f"{len(calibration)} passages for calibration; narrower range: the ends of a group drawn "
    "in to the least squared error; first: columns with large activations",
)

# %% [markdown]
# The narrower range without GPTQ is the control for GPTQ with it: compare the two columns before you give GPTQ the credit.
#
# How many passages does it need? Calibration (校准) estimates $H$, a matrix of 512 × 512 for the widest layer.

# %%
few = {
    n: lost(
        gptq.quantize(model, list(calibration.first(n).x.split(16)), WeightConfig(3, 64)).model
    )
    for n in (1, 4, 16)
}
few[len(calibration)] = compensated[3, "64"]
figure, axes = plt.subplots(figsize=(5.5, 2.6))
axes.plot([n * corpus.LENGTH for n in few], list(few.values()), marker="o", label="GPTQ")
axes.axhline(rtn[3, "64"], linestyle="--", color="gray", label="RTN: no data")
axes.set(
    xlabel="tokens for calibration", ylabel="perplexity up by, %", xscale="log", ylim=(0, None)
)
axes.minorticks_off()
axes.set_xticks([n * corpus.LENGTH for n in few], [f"{n * corpus.LENGTH:,}" for n in few])
axes.legend()
plt.show()
claim("A single passage is too few: more than twice the loss of 32", few[1] - 2 * few[32], "%")
claim(
    "16 passages, 2,000 tokens, lose at most half more than 32 do",
    1.5 - few[16] / few[32],
    "times",
)

# %% [markdown]
# ## 4 · A scale in front of the rounding: AWQ
#
# $y=(W\,\mathrm{diag}(s))(\mathrm{diag}(s)^{-1}x)$ whatever $s$. A column times 2 is rounded on a grid that is, for it, half as coarse, as long as the group's range does not grow with it (that is why more is not always better, and a search is needed); the norm in front of the layer takes the $1/2$ into its gain. AWQ (Lin et al. 2023) takes $s_j=\overline{|x_j|}^{\,\alpha}$ and tries values of $\alpha$.
#
# ### Exercise 4 · A scale found by trying (3 points, about 10 lines)
#
# Try α = 0, 0.05, ..., 0.95; keep the scale with the least error in the layer's *outputs*. `rounding` turns a weight into what is left of it.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def search_scale_spec(x, weight, rounding):
#     inputs = x.shape[1]
#     best, chosen = float("inf"), None
#     for step in range(20):
#         size = [
#             max(float(np.mean([abs(value) for value in x[:, k]])), 1e-5)
#             ** (step / 20)
#             for k in range(inputs)
#         ]
#         middle = float(
#             np.prod([value ** (1 / inputs) for value in size])
#         )  # only differences between inputs count
#         s = np.array([value / middle for value in size], dtype=np.float32)
#         scaled = np.zeros_like(weight)
#         for k in range(inputs):
#             scaled[:, k] = weight[:, k] * s[k]
#         left, error = rounding(scaled), 0.0
#         for row in x:
#             for n in range(len(weight)):
#                 # What meets a row of x: the norm has divided it by s.
#                 error += (sum(row / s * left[n]) - sum(row * weight[n])) ** 2
#         if error < best:
#             best, chosen = error, s
#     return np.asarray(chosen)
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "llm-search_scale", "locked": false, "schema_version": 3, "solution": true, "task": false}
def search_scale(x, weight, rounding):
    """float32 [n, inputs], float32 [outputs, inputs], a function of such a weight
    -> float32 [inputs]."""
    ### BEGIN SOLUTION
    magnitude = np.maximum(np.abs(x).mean(axis=0), np.float32(1e-5))
    found = []
    for step in range(20):
        s = magnitude ** np.float32(step / 20)
        s /= np.exp(np.log(s).mean())
        left = rounding(weight * s) / s
        found.append((float(np.square(x @ (left - weight).T).mean()), step, s))
    return min(found, key=lambda one: one[:2])[2]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "llm-search_scale-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(search_scale, "llm.search_scale")

# %% [markdown]
# Does it help here? Large models (from some seven billion weights on in every layer) have a few channels, behind their norms, whose activations are up to twenty times larger than the rest (outliers, 离群值; Dettmers et al. 2022). Of our three pictures only the first layer, qkv, is fed by a norm, and it has none; the third, behind the GELU, has loud channels,
# but no norm stands before it to take a scale. So the same model once more, with outliers *planted* without changing what it computes: three channels of every norm's gain times 20, the next weights' columns divided by 20. (These are the kindest outliers: exactly what planted them can take them away. Real ones come with columns of ordinary size.)

# %%
search_scale = adopt(search_scale, "llm.search_scale")
planted = smoothing.plant_outliers(model, inputs[:1], [5, 77, 100], 20.0)
awq_config = WeightConfig(4, 128)
feed = smoothing.feeds(planted, inputs)[0]
own = search_scale(
    feed.x[::8].numpy(),
    matrix(planted.get_submodule(feed.readers[0])).numpy(),
    lambda w: round_groups(np.ascontiguousarray(w, np.float32), 4, 128),
)
channels = np.argsort(-own)[:3]
claim(
    "Your search makes the planted channels' columns the largest",
    set(channels.tolist()) == {5, 77, 100},
    yours=search_scale,
)


# %%
def three_ways(network, bits):
    """Rounded, scaled and rounded, and by GPTQ: what is lost."""
    config = WeightConfig(bits, 128)
    scaled = smoothing.search_scales(network, inputs, config)
    return tuple(
        lost(codes.model)
        for codes in (
            weight_only.quantize(network, config),
            weight_only.quantize(scaled, config),
            gptq.quantize(network, inputs, config),
        )
    )


kinds = {"as it is": model, "with outliers": planted}
jobs = [(name, bits) for name in kinds for bits in (4, 3)]
awq = dict(zip(jobs, side_by_side(three_ways, *zip(*((kinds[n], bits) for n, bits in jobs)))))

# %%
claim("Planting changed nothing in float", 0.1 - abs(lost(planted)), "%")
claim(
    "At 4 bits, with outliers, rounding loses more than twice as much; the searched scale "
    "wins nearly all of that back",
    min(
        awq["with outliers", 4][0] - 2 * awq["as it is", 4][0],
        1.4 * awq["as it is", 4][0] - awq["with outliers", 4][1],
    ),
    "%",
)
claim(
    "Without outliers it gains next to nothing at 4 bits: less than a fifth either way",
    0.2 - abs(awq["as it is", 4][1] / awq["as it is", 4][0] - 1),
    "of the loss",
)
Table(
    ["perplexity lost, %", "RTN", "AWQ-style scale, then RTN", "GPTQ"],
    [
        [f"{name}, {bits} bits", *(f"{v:.1f}" for v in values)]
        for (name, bits), values in awq.items()
    ],
    "groups of 128; searched scales in front of the layers that a norm feeds",
)

# %% [markdown]
# ## 5 · Activations in 8 bits, too: W8A8
#
# A prompt of a thousand tokens is bound by arithmetic, and there bytes times bytes pay. But now an outlier hurts in another way: *it* sets the activation's one scale, and all other channels share the few codes that are left. SmoothQuant (Xiao et al. 2022) moves half of the difficulty into the weights:
#
# $$s_j=\frac{\max|x_j|^{\alpha}}{\max|W_{:,j}|^{1-\alpha}},\qquad x'=x/s,\quad W'=W\,\mathrm{diag}(s)$$
#
# ### Exercise 5 · Half of the difficulty each (2 points, about 3 lines)
#
# Maxima below 1e-5 count as 1e-5, and so does the scale.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def smoothing_scale_spec(x, weight, alpha):
#     s = np.zeros(x.shape[1], dtype=np.float32)
#     for j in range(x.shape[1]):
#         x_max = max([abs(value) for value in x[:, j]] + [1e-5])
#         w_max = max([abs(value) for value in weight[:, j]] + [1e-5])
#         s[j] = max(x_max**alpha / w_max ** (1 - alpha), 1e-5)
#     return s
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "llm-smoothing_scale", "locked": false, "schema_version": 3, "solution": true, "task": false}
def smoothing_scale(x, weight, alpha):
    """float32 [n, inputs], float32 [outputs, inputs], a number
    -> what to divide inputs by, float32 [inputs]."""
    ### BEGIN SOLUTION
    x_max, w_max = (np.maximum(np.abs(a).max(axis=0), 1e-5) for a in (x, weight))
    return np.maximum(x_max**alpha / w_max ** (1 - alpha), 1e-5).astype(np.float32)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "llm-smoothing_scale-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(smoothing_scale, "llm.smoothing_scale")

# %%
smoothing_scale = adopt(smoothing_scale, "llm.smoothing_scale")
mine = smoothing_scale(
    feed.x.numpy(), matrix(planted.get_submodule(feed.readers[0])).numpy(), 0.5
)
theirs = smoothing.smoothing_scale(
    feed.x, [matrix(planted.get_submodule(feed.readers[0]))], 0.5
).numpy()
claim(
    "The library's smoothing scale is yours",
    agreement(mine, theirs, rtol=1e-4),
    "tolerances",
    yours=smoothing_scale,
)
smooth_guess = predict(
    "W8A8, one fixed scale for all activations of a layer. What do outliers of 20 times cost "
    "in perplexity?",
    ["under 1 %", "some 5 %", "more than 15 %"],
)


# %%
def static(network, activation_bits=8):
    """Weights 8 bits a row; activations on one fixed scale a layer."""
    prepared = ptq.prepare_layers(network, QuantConfig(8, activation_bits))
    return lost(ptq.calibrate(prepared, calibration.x))


networks = {
    "as it is": model,
    "as it is, smoothed": smoothing.smooth(model, inputs),
    "with outliers": planted,
    "with outliers, smoothed": smoothing.smooth(planted, inputs),
}


def in_eight_bits(network):
    return static(network), static(network, 6), lost(convert_dynamic(network))


w8a8 = dict(zip(networks, side_by_side(in_eight_bits, networks.values())))
hurt = w8a8["with outliers"][0]

# %%
smooth_guess.reveal("under 1 %" if hurt < 1 else "some 5 %" if hurt < 15 else "more than 15 %")
claim(
    "The model as it is loses less than 1 %, smoothed or not: there is nothing to mend",
    1 - max(w8a8["as it is"][0], w8a8["as it is, smoothed"][0]),
    "%",
)
claim("Planted outliers cost more than 15 %", hurt - 15, "%")
claim("Smoothing brings that below 1 %", 1 - w8a8["with outliers, smoothed"][0], "%")
claim(
    "A scale for each token, taken as it comes, mends most of it without smoothing",
    0.4 * hurt - w8a8["with outliers"][2],
    "%",
)

# %%
Table(
    [
        "perplexity lost, %",
        "W8A8, fixed scale",
        "W8A6, fixed scale",
        "W8A8, a scale each token (int8 kernels)",
    ],
    [[name, *(f"{v:,.2f}" for v in values)] for name, values in w8a8.items()],
    "weights: 8 bits, a scale each row; the last column runs on the integer kernels of lab 02",
)

# %% [markdown]
# The middle column has the same story with less room: compare its last two rows with its first.

# %%
feed_weight = matrix(planted.get_submodule(feed.readers[0]))


def shares(alpha=0.5):
    """The largest magnitudes of each channel, before and after."""
    s = smoothing.smoothing_scale(feed.x, [feed_weight], alpha)
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.8))
    for axis, what, before, after in (
        (axes[0], "activations", feed.x, feed.x / s),
        (axes[1], "weights", feed_weight, feed_weight * s),
    ):
        axis.plot(before.abs().amax(0), label="before", color="gray")
        axis.plot(after.abs().amax(0), label=f"after, alpha = {alpha:.2f}")
        axis.set(xlabel="input channel", ylabel=f"max |{what}|", yscale="log")
        axis.legend()
    plt.show()


explore(shares, alpha=(0.0, 1.0, 0.05))

# %% [markdown]
# ## 6 · Four bits on a real kernel
#
# But for the last column above, weights were rounded and then used as floats: nothing was smaller or faster. Now they stay packed, eight to a 32-bit word, and are unpacked in registers:
#
# $$y_n=\sum_g s_{ng}\sum_{k\in g}(q_{nk}-z_{ng})\,x_k$$
#
# ### Exercise 6 · A product with packed weights (3 points, about 9 lines)
#
# Code k of row n lies in word k // 8, in the four bits from bit 4 · (k mod 8) on. Write it with loops and compile it; `word >> shift & 15` takes a code out.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def product_4bit_spec(words, x, scale, zero, group):
#     out = np.zeros(len(words), dtype=np.float32)
#     for n in range(len(words)):
#         for k in range(len(x)):
#             bits = format(int(words[n, k // 8]), "032b")[::-1]  # bit 0 first
#             code = int(bits[4 * (k % 8) : 4 * (k % 8) + 4][::-1], 2)
#             out[n] += scale[n, k // group] * (code - zero[n, k // group]) * x[k]
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "llm-product_4bit", "locked": false, "schema_version": 3, "solution": true, "task": false}
@njit
def product_4bit(words, x, scale, zero, group):
    """uint32 [N, K / 8], float32 [K], float32 [N, K / group] twice, an int -> float32 [N]."""
    ### BEGIN SOLUTION
    out = np.zeros(len(words), dtype=np.float32)
    for n in range(len(words)):
        for k in range(len(x)):
            code = words[n, k // 8] >> np.uint32(4 * (k % 8)) & np.uint32(15)
            g = k // group
            out[n] += scale[n, g] * (np.float32(code) - zero[n, g]) * x[k]
    return out
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "llm-product_4bit-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(product_4bit, "llm.product_4bit")

# %% [markdown]
# The library's kernel goes further: it splits each activation into three signed bytes and lets the processor's byte dot product do 64 products at once, exactly (`kernels/lowbit.py`). Yours beside it, and beside torch's own:

# %%
product_4bit = adopt(product_4bit, "llm.product_4bit")
N = K = 2048
generator = np.random.default_rng(SEEDS[0])
codes = generator.integers(0, 16, (N, K), dtype=np.uint8)
scale, zero = np.full((N, K // 128), 0.01, np.float32), np.full((N, K // 128), 8, np.float32)
in_words = (
    codes.reshape(N, -1, 8).astype(np.uint32) << np.arange(0, 32, 4, dtype=np.uint32)
).sum(2, dtype=np.uint32)
library_words = lowbit.pack_weight(codes, scale, zero, 4, 128)
x = generator.normal(size=K).astype(np.float32)
dense = torch.from_numpy((codes - np.float32(8)) * np.float32(0.01))
seconds = race(
    {
        "the short loop": lambda: product_4bit(in_words, x, scale, zero, 128),
        "the library's, 4 bits": lambda: lowbit.matmul(x[None], library_words),
        "torch, float32": lambda: torch.nn.functional.linear(torch.from_numpy(x)[None], dense),
    },
    rounds=15,
)

# %%
claim(
    "Your product on 4-bit weights gives the library's numbers",
    agreement(
        product_4bit(in_words, x, scale, zero, 128),
        lowbit.matmul(x[None], library_words)[0],
        atol=1e-3,
    ),
    "tolerances",
    yours=product_4bit,
)
Table(
    ["one row times 2048 x 2048", "milliseconds", "times torch"],
    [
        [name, f"{1e3 * s:.3f}", f"{seconds['torch, float32'] / s:.2f}"]
        for name, s in seconds.items()
    ],
    f"one thread, process CPU time; weights {in_bytes(library_words.nbytes)} and "
    f"{in_bytes(dense.nbytes)}",
)

# %% [markdown]
# The short loop takes one code at a time: fewer bytes alone do not make a product fast. Now a model that, in float32, no laptop's cache holds:
# two layers, 2,048 wide, 100 million weights (random: speed does not depend on what they are). It writes on one thread.

# %%
speed_guess = predict(
    "Tokens a second with 4-bit weights, against float32:",
    ["the same", "2 to 7 times", "8 times: an eighth of the bytes", "16 times"],
)

# %%
seed_everything(SEEDS[0])
big = GPT(corpus.WORDS, 32, width=2048, layers=2, heads=16).eval()
writers = {"float32, torch": big, "bfloat16, torch": copy.deepcopy(big).bfloat16()}
for bits in (8, 4, 2):
    writers[f"{bits}-bit weights"] = convert_weights(
        weight_only.quantize(big, WeightConfig(bits, 128))
    )
TOKENS = 8
start = torch.zeros(1, dtype=torch.int64)
taken = race(
    {
        name: lambda network=network: generate(network, start, TOKENS)
        for name, network in writers.items()
    },
    rounds=7,
)

# %%
read_bytes = {
    name: sum(t.nbytes for t in network.state_dict().values())
    for name, network in writers.items()
}
per_second = {name: TOKENS / s for name, s in taken.items()}
figure, axes = plt.subplots(figsize=(10, 3.2))
sizes = np.array(sorted(read_bytes.values())) / 1e6
axes.plot(
    sizes, READ / 1e6 / sizes, linestyle="--", color="gray", label="bound: bandwidth / bytes"
)
for name in writers:
    axes.plot(read_bytes[name] / 1e6, per_second[name], "o", label=name)
axes.set(
    xlabel="megabytes read for a token",
    ylabel="tokens a second, one thread",
    xscale="log",
    yscale="log",
)
axes.minorticks_off()
axes.set_xticks([25, 50, 100, 200, 400], ["25", "50", "100", "200", "400"])
axes.set_yticks([25, 50, 100, 200, 400], ["25", "50", "100", "200", "400"])
axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
plt.show()
faster = per_second["4-bit weights"] / per_second["float32, torch"]

# %%
speed_guess.reveal(
    "the same"
    if faster < 1.5
    else "2 to 7 times"
    if faster < 7.5
    else "8 times: an eighth of the bytes"
    if faster < 12
    else "16 times"
)

# %%
# Without an instruction for byte dot products the kernel has to make them up, which is slow: not asked there.
has_bytes = "VNNI" in instruction_set()

# %%
claim(
    "On 4-bit weights it writes at least twice as many tokens a second as torch in float32, "
    "if the processor has byte dot products (VNNI)",
    faster - 2,
    "times",
    timed=True,
    asked=has_bytes,
)
claim(
    "With VNNI, 4-bit weights also write more tokens a second than torch in bfloat16",
    per_second["4-bit weights"] / per_second["bfloat16, torch"] - 1,
    "times",
    timed=True,
    asked=has_bytes,
)
Table(
    ["", "read a token", "tokens a second", "times float32", "GB/s"],
    [
        [
            name,
            in_bytes(read_bytes[name]),
            f"{per_second[name]:.1f}",
            f"{per_second[name] / per_second['float32, torch']:.1f}",
            f"{read_bytes[name] * per_second[name] / 1e9:.1f}",
        ]
        for name in writers
    ],
    f"one thread, {instruction_set()}, process CPU time; attention, norms and the head stay "
    "float",
)

# %% [markdown]
# Four bits are not quite an eighth of the bytes (scales, zero points, the words' table and norms count), and tokens do not quite keep up with bytes: unpacking costs, and the products of attention stay float. With 2 bits the rest weighs more still.
#
# The small model itself, in a file:

# %%
four_bits = convert_weights(optimized[4, "64"])
claim(
    "The packed model computes what its rounded weights do",
    0.2 - abs(lost(four_bits) - compensated[4, "64"]),
    "%",
)
sentence = corpus.encode(["class Reader:\n    def "])
print(corpus.decode(generate(four_bits, sentence, 50, temperature=0.7)))
float_bytes, packed_bytes = disk_bytes(model), disk_bytes(four_bits)
claim(
    "The packed model's file is less than a third of the float one, although words, positions "
    "and norms stay float32",
    packed_bytes < float_bytes / 3,
)
print(f"\n{in_bytes(float_bytes)} in float32, {in_bytes(packed_bytes)} packed")

# %% [markdown]
# ## 7 · A new domain: LoRA and QLoRA
#
# The model knows code; now it is to read the library's *documentation*. Full fine-tuning (微调) changes every weight. LoRA (lab 06) adds a correction of rank 2 beside each matrix; QLoRA (Dettmers et al. 2023) does so on a 4-bit base, whose packed weights are never touched: gradients pass through them. (Our base has the integers of section 3; the paper's has a number format of its own, NF4, and quantizes the scales once more.) Each method has the learning rate that did best on the validation topics.

# %%
lora_guess = predict(
    "Rank 2 trains under 2 % of the parameters. Of what full fine-tuning gains on the "
    "documentation, it gains:",
    ["under a tenth", "a third to nine tenths", "all of it"],
)

# %%
new_train = corpus.load("documentation", "train", 20_000)
new_test = corpus.load("documentation", "test")
names = list(linear_layers(model))
parameters = sum(p.numel() for p in model.parameters())
RATES = {"full": 0.001, "LoRA": 0.01, "QLoRA": 0.01}


def trainable(network):
    return [p for p in network.parameters() if p.requires_grad]


starts = {
    "full": lambda: copy.deepcopy(model),
    "LoRA": lambda: lora.add_lora(model, 2, 4, names),
    "QLoRA": lambda: lora.add_lora(four_bits, 2, 4, names),
}


def tuned_on_documentation(name, network, seed):
    """Perplexity on the new domain and on the old one."""
    rate = RATES[name]
    optimizer = torch.optim.AdamW(trainable(network), rate, weight_decay=0.0)
    options = dict(batch_size=16, loss=next_token_loss, seed=seed, progress=False)
    fit(network, new_train, 2, rate, optimizer=optimizer, **options)
    return perplexity(network, new_test), perplexity(network, test)


# %%
jobs = [(n, net, s) for n, make in starts.items() for net, s in zip(built(make, SEEDS), SEEDS)]
share = {n: sum(p.numel() for p in trainable(net)) / parameters for n, net, _ in jobs}
done = side_by_side(tuned_on_documentation, *zip(*jobs), label="fine-tuning")
tuned = {name: [d for d, job in zip(done, jobs) if job[0] == name] for name in starts}
before_new = perplexity(model, new_test)
means = {name: np.mean(values, axis=0) for name, values in tuned.items()}
spread = {name: np.std(values, axis=0, ddof=1) for name, values in tuned.items()}
gained = {name: before_new - means[name][0] for name in tuned}
part = gained["LoRA"] / gained["full"]

# %%
lora_guess.reveal(
    "under a tenth" if part < 0.1 else "a third to nine tenths" if part < 0.9 else "all of it"
)
claim("LoRA of rank 2 trains less than 2 % of the parameters", share["LoRA"] < 0.02)
claim(
    "LoRA gains more than a third of what full fine-tuning gains, and not all of it",
    min(part - 0.33, 0.95 - part),
    "of the gain",
)

# %%
before_four = perplexity(four_bits, new_test)

# %%
claim(
    "QLoRA ends no further behind LoRA than its 4-bit base was behind the float one",
    before_four / before_new - means["QLoRA"][0] / means["LoRA"][0],
    "times",
)
claim(
    "Full fine-tuning and LoRA forget: perplexity on code goes up by more than 10 %",
    min(means["full"][1], means["LoRA"][1]) - 1.1 * base,
    "of perplexity",
)
Table(
    ["", "trained", "documentation", "code (the old domain)"],
    [
        ["before", "-", f"{before_new:.2f}", f"{base:.2f}"],
        ["before, 4-bit base", "-", f"{before_four:.2f}", f"{perplexity(four_bits, test):.2f}"],
        *(
            [
                name,
                f"{100 * share[name]:.1f} %",
                *(mean_sd(m, s) for m, s in zip(means[name], spread[name])),
            ]
            for name in tuned
        ),
    ],
    f"perplexity; {len(new_train)} passages, 2 epochs, 3 seeds, learning rates {RATES}",
)

# %% [markdown]
# QLoRA starts from a base that has lost something: compare the two gaps, before and after.
#
# What LoRA forgets, taking it off brings back: the base is as it was. At this size rank 2 has to be 2 % of the model; in a model of seven billion it is less than a tenth of a per cent.
#
# ## 8 · Your own model folder
#
# All of this works on any module tree: `linear_layers` finds what to quantize (GPT-2's transposed `Conv1D` included), the norms that feed it are found by running the model. A folder from `save_pretrained` goes the same way; here one is built from its configuration, nothing is fetched.

# %%
if published.available():
    import transformers

# %%
if published.available():
    config = transformers.LlamaConfig(
        vocab_size=corpus.WORDS,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    seed_everything(SEEDS[0])
    with tempfile.TemporaryDirectory() as folder:
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        theirs = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
        quantized = gptq.quantize(theirs, inputs[:1], WeightConfig(4, 64))
        path = Path(folder) / "packed.safetensors"
        written = packed_files.save(convert_weights(quantized), path)
        fresh = transformers.LlamaForCausalLM(config).eval()
        again = packed_files.load(path, fresh)
        with torch.no_grad():
            same = torch.allclose(
                again(test.x[:2]).logits, quantized.model(test.x[:2]).logits, atol=1e-3
            )
        print(f"{len(quantized.layers)} layers in {in_bytes(written)}")
    claim(
        "A Llama with grouped-query attention: quantized by GPTQ, saved, read back, the same "
        "logits",
        same,
    )
else:
    print(f"transformers is not installed ({published.INSTALL}): this cell has nothing to show")

# %% [markdown]
# ## When not to
#
# - *A prompt, or a large batch.* There a weight is read once for many multiplications, and arithmetic is what takes time: W8A8 then, or floats. From some hundred rows on our kernel restores the weights and multiplies in float.
# - *Below 4 bits, on a small model.* The smaller a model, the less it has to spare. (Those that lose next to nothing at 3 bits are the very large ones.)
# - *Perplexity alone.* It says how surprised the model is, not what it can still do. Measure the task.

# %% [markdown]
# ## Build it · GPTQ for a whole layer
#
# ### Exercise 7 · GPTQ for a whole layer (build, 16 points, about 20 lines)
#
# From a weight [outputs, inputs] and the inputs' second moment $C = \frac1n X^\top X$ to a weight on the grid, float32. The rows of exercise 3 share one factor.
#
# 1. *Inputs that have nothing in common*: groups along a row have asymmetric codes 0 to $2^b - 1$ as in exercise 1: the range always includes 0, the scale is
#    rounded to float16, and $z = \operatorname{round}(-lo / s)$.
# 2. *Columns make up for each other*: $U^\top U = (C + 0.01\,\bar c\,I)^{-1}$ with $U$ upper triangular and $\bar c$ the mean of the diagonal; then exercise 3 for all rows at once.
# 3. *Inputs that are always 0* have a 0 on the diagonal: it is set to the mean of the others, which alone make up $\bar c$. Their weights
#    are rounded like all others.
# 4. *Groups*: the scale of a group is taken when its first column's turn comes, from the weights **as they have become**.


# %% nbgrader={"grade": false, "grade_id": "llm-gptq_layer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def gptq_layer(weight, moment, bits, group):
    """float32 [outputs, inputs], [inputs, inputs], int, int
    -> float32 [outputs, inputs] on the grid."""
    ### BEGIN SOLUTION
    moment, high = moment.astype(np.float64), 2**bits - 1
    diagonal = np.diag(moment).copy()
    mean = diagonal[diagonal != 0].mean()
    diagonal[diagonal == 0] = mean
    np.fill_diagonal(moment, diagonal + 0.01 * mean)
    factor = np.linalg.cholesky(np.linalg.inv(moment)).T
    work, out = weight.astype(np.float64), np.zeros(weight.shape, np.float32)
    for j in range(weight.shape[1]):
        if j % group == 0:
            part = work[:, j : j + group]
            lo, hi = np.minimum(part.min(axis=1), 0), np.maximum(part.max(axis=1), 0)
            scale = ((hi - lo) / high).astype(np.float16).astype(np.float64)
            scale[scale == 0] = 1
            zero = np.rint(-lo / scale)
        codes = np.clip(np.rint(work[:, j] / scale) + zero, 0, high)
        out[:, j] = (codes - zero) * scale
        error = (work[:, j] - out[:, j]) / factor[j, j]
        work[:, j + 1 :] -= np.outer(error, factor[j, j + 1 :])
    return out
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "llm-gptq_layer-check", "locked": true, "points": 16, "schema_version": 3, "solution": false, "task": false}
check(gptq_layer, "llm.gptq_layer")

# %%
gptq_layer = adopt(gptq_layer, "llm.gptq_layer")

# %% [markdown]
# ### Exercise 8 · Three bits, as good as you can (open, 12 points, about 25 lines)
#
# An *open* exercise has no right answer: what you choose is measured, here and again while grading, on numbers that your code does not see. Three matrices of the language
# model are to have three bits, with a scale and a zero point for each row: $\hat w = (q - z) s$ with $q$ from 0 to 7. You have the moment $H = X^\top X / n$ of the layer's inputs on
# training text; the outcome is the outputs' power over their error, in decibels, with $H$ of other text. Bronze is above rounding to the nearest, GPTQ alone is silver, gold is
# what narrowed grids, GPTQ and a second walk through the columns reached.


# %% nbgrader={"grade": false, "grade_id": "llm-three_bits", "locked": false, "schema_version": 3, "solution": true, "task": false}
def three_bits(weight, moment):
    """Float32 [rows, inputs], float64 [inputs, inputs]
    -> codes uint8 [rows, inputs], scales, zero points."""
    ### BEGIN SOLUTION
    h = moment + 0.01 * np.trace(moment) / len(moment) * np.eye(len(moment))
    least = np.full(len(weight), np.inf)
    scale, zero = np.ones(len(weight)), np.zeros(len(weight))
    for shrink in np.arange(0.5, 1.01, 0.05):
        s = np.maximum(shrink * (weight.max(1) - weight.min(1)) / 7, 1e-12)
        z = np.clip(np.rint(-shrink * weight.min(1) / s), 0, 7)
        q = np.clip(np.rint(weight / s[:, None] + z[:, None]), 0, 7)
        d = weight - (q - z[:, None]) * s[:, None]
        error = ((d @ h) * d).sum(1)
        better = error < least
        least = np.where(better, error, least)
        scale, zero = np.where(better, s, scale), np.where(better, z, zero)
    factor = np.linalg.cholesky(np.linalg.inv(h)).T
    w, codes = weight.astype(float), np.zeros(weight.shape)
    for j in range(w.shape[1]):
        codes[:, j] = np.clip(np.rint(w[:, j] / scale + zero), 0, 7)
        error = (w[:, j] - (codes[:, j] - zero) * scale) / factor[j, j]
        w[:, j + 1 :] -= error[:, None] * factor[j, j + 1 :]
    for walk in range(8):
        left = weight - (codes - zero[:, None]) * scale[:, None]
        for j in range(w.shape[1]):
            new = np.rint(codes[:, j] + left @ h[:, j] / h[j, j] / scale)
            new = np.clip(new, 0, 7)
            left[:, j] -= (new - codes[:, j]) * scale
            codes[:, j] = new
        if walk in (1, 3, 5):
            c = codes - zero[:, None]
            scale = ((weight @ h) * c).sum(1) / np.maximum(((c @ h) * c).sum(1), 1e-12)
    return codes.astype(np.uint8), scale, zero
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "llm-three_bits-check", "locked": true, "points": 12, "schema_version": 3, "solution": false, "task": false}
check(three_bits, "llm.three_bits")

# %%
three_bits = adopt(three_bits, "llm.three_bits")

# %% [markdown]
# ## Longer than a lab · GPTQ's seconds, and its eight bits
#
# What follows takes minutes for each seed: it was run over several seeds, and its rows are kept beside the code (`compresslab/longer/gptq_eight.py`). With `COMPRESSLAB_LONGER=1` in the environment a cell runs one seed here as well; `compresslab longer gptq_eight` runs them all anew.
#
# At which width is compensating worth the time? Mind the units: the model is small, so its seconds are few; they grow with the width of the layers to the third power. One pass of training over the same passages stands beside them: fine-tuning takes many.

# %%
from compresslab.longer import show_longer

show_longer("gptq_eight")

# %% [markdown]
# ## In the course's own measures
#
# What this lab made, with the cheapest step of all in front: a cast to 16 bits (半精度), which halves the file and asks for nothing else. Seconds are those of a whole passage, not of one token. Energy (能耗) is an estimate: operations and the file read once, at the prices of a 45 nm process (Horowitz 2014).

# %%
import compresslab as cl

weighed = {
    "float32": model,
    "float16, a cast": copy.deepcopy(model).half(),
    "bfloat16, a cast": copy.deepcopy(model).bfloat16(),
    "GPTQ, 4 bits": four_bits,
}
cl.table(*(cl.measure(network, test.x[0], name, (1, 16)) for name, network in weighed.items()))

# %%
Table(
    ["the same networks", "perplexity"],
    [[name, f"{perplexity(network, test):.2f}"] for name, network in weighed.items()],
)

# %% [markdown]
# ## What the papers say, what we measured
#
# The networks, data and machines of the papers are others than ours: compare directions and sizes, not digits.

# %%
papers = [
    [
        "4 bits, RTN against GPTQ",
        "OPT-175B: 10.54 against 8.37, float 8.34 (Frantar et al. 2022, table 3)",
        f"{base * (1 + rtn[4, 'a row'] / 100):.2f} against "
        f"{base * (1 + compensated[4, 'a row'] / 100):.2f}, float {base:.2f}",
    ],
    [
        "3 bits, RTN against GPTQ",
        "OPT-175B: 7.3e3 against 8.68 (the same)",
        f"{base * (1 + rtn[3, 'a row'] / 100):.2f} against "
        f"{base * (1 + compensated[3, 'a row'] / 100):.2f}",
    ],
    [
        "1 % of the columns in float, 3 bits",
        "most of the loss mended by salient ones, nothing by random ones (Lin et al. "
        "2023, table 1)",
        f"{100 * brought_back[0.01]:.0f} % of the loss mended, random "
        f"{100 * by_chance[0.01]:.0f} %",
    ],
]

# %%
Table(
    ["", "the paper", "here"],
    [
        *papers,
        [
            "W8A8 with outliers",
            "OPT-175B: accuracy lost without, kept with smoothing (Xiao et al. 2022, section "
            "5)",
            f"planted ones: {hurt:.0f} % without, {w8a8['with outliers, smoothed'][0]:.1f} % "
            "with smoothing",
        ],
        [
            "writing on packed weights",
            "3 bits, 3.25 to 4.5 times faster than fp16 on graphics cards (Frantar et al. "
            "2022, abstract)",
            f"4 bits, {faster:.1f} times float32, "
            f"{per_second['4-bit weights'] / per_second['bfloat16, torch']:.1f} times bfloat16",
        ],
        [
            "QLoRA",
            "as good as 16-bit LoRA (Dettmers et al. 2023, section 4)",
            f"{mean_sd(means['QLoRA'][0], spread['QLoRA'][0])} against "
            f"{mean_sd(means['LoRA'][0], spread['LoRA'][0])}",
        ],
    ],
    text_columns=3,
)

# %% [markdown]
# Compare how much closer to float the paper's GPTQ is: the largest models are the easiest to quantize, if it is done well. Done badly (RTN) theirs suffers more than ours.
#
# %% [markdown] nbgrader={"grade": true, "grade_id": "written-llm_written", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# ## Written question (2 points)
#
# Your firm serves a model of 13 billion weights to one user at a time on machines with 16 GB of memory. Which bits, which group size, which method, and which data for calibration? Count the bytes, and name one measurement that would make you change your mind.
#
# *Your answer (double-click here to write it):*

# %% [markdown]
# ## Recap
#
# - Writing is bound by the bytes of the weights. 8 bits cost nothing; 4 bits little with GPTQ (rounding costs several times more); 3 bits a tenth or more even with it; 2 bits are of no use here.
# - What matters is what an error does to outputs: GPTQ lets later weights make up for it, AWQ makes columns that meet large activations finer.
# - Outliers break W8A8 with one scale; they can be moved into the weights. Look whether you have any before you mend them.
#
# **Back:** [Lab 10 · Binarization](10_binarization.ipynb) · **Next:** [Lab 12 · Combine, choose, deploy](12_capstone.ipynb)
#
# **References.** Frantar et al. 2022, *GPTQ*, arXiv:2210.17323, sections 3 and 4 · Lin et al. 2023, *AWQ*, arXiv:2306.00978, section 3 · Xiao et al. 2022, *SmoothQuant*, arXiv:2211.10438, section 4 · Dettmers et al. 2022, *LLM.int8()*, arXiv:2208.07339, section 4 · Dettmers et al. 2023, *QLoRA*, arXiv:2305.14314, section 3 · Hassibi and Stork 1993, *Second order derivatives for network pruning: Optimal Brain Surgeon* · Brown et al. 2020, *Language models are few-shot learners* (GPT-3), arXiv:2005.14165
