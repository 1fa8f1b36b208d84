# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Lab 15 · A language model of today
#
# **You will** measure what perplexity hides, round weights to the four-bit floats of today's accelerators, turn a network until no channel stands out, keep the memory of a long text in few bits, and take half of the weights out without training.
# **Time:** 120 minutes to work through; it runs in one to three minutes, by processor.
#
# Lab 11 pressed the weights of a language model (语言模型) into few bits. Here is what came after, each with its control: formats that processors of today multiply as they are, rotations (旋转), the memory of earlier tokens (键值缓存), and pruning (剪枝) for models that are too large to train again.

# %%
import copy
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from compresslab import pretrained
from compresslab.data import corpus
from compresslab.gpt import divergence, losses_read_in_steps, perplexity
from compresslab.kernels import lowbit
from compresslab.kernels import microscaling as block_kernels

# %%
from compresslab.lab import (
    Table,
    adopt,
    agreement,
    begin,
    check,
    claim,
    in_bytes,
    instruction_set,
    predict,
    race,
    side_by_side,
    use_style,
)
from compresslab.network.select import linear_layers, matrix, set_matrix
from compresslab.network.taps import tapped
from compresslab.numerics import microscaling
from compresslab.numerics.microscaling import MXFP4, NVFP4, BlockFormat
from compresslab.runtime import weight_only as packed_files
from compresslab.runtime.weight_only import convert_weights
from compresslab.techniques import gptq, key_values, one_shot, rotation, weight_only
from compresslab.techniques.dynamic_inputs import round_inputs
from compresslab.techniques.weight_only import WeightConfig

# %%
use_style()
SEEDS = begin()
model = pretrained.language_model()
test = corpus.load("python", "test").some(64, SEEDS[0])
calibration = list(corpus.load("python", "train", 400_000).some(32, SEEDS[0]).x.split(16))
base = perplexity(model, test)
print(
    f"{sum(p.numel() for p in model.parameters()):,} parameters; perplexity {base:.2f} on "
    f"{len(test)} passages of {corpus.LENGTH} tokens"
)

# %% [markdown]
# The model is the small GPT of lab 11. What is found here on it was found by others on models a thousand times as large; where ours is different, it is said.
#
# ## 1 · What perplexity hides
#
# Perplexity (困惑度) asks one question at every token: how likely was the word that *came*? A compressed model that finds this word a little likelier here and a little less likely there has the same perplexity, and is another model. The Kullback-Leibler divergence (KL 散度) compares all words of both distributions:
#
# $$D(p\,\Vert\,q)=\sum_w p(w)\,\big(\log p(w)-\log q(w)\big)$$
#
# with $p$ of the model as it was and $q$ of the compressed one. It is never negative, and 0 only if nothing changed.
#
# ### Exercise 1 · How far apart two models are (2 points, about 5 lines)
#
# Logits of both models, a row for each token. The softmax of large logits overflows, and the logarithm of a probability that has become 0 is infinite: subtract each row's own largest first, and keep to logarithms. The answer is the mean over the rows, in nats (natural logarithms).
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def mean_divergence_spec(reference, logits):
#     total = 0.0
#     for r, x in zip(reference.astype(float), logits.astype(float)):
#         log_r = max(r) + np.log(sum([np.exp(value - max(r)) for value in r]))
#         log_x = max(x) + np.log(sum([np.exp(value - max(x)) for value in x]))
#         for a, b in zip(r, x):
#             total += np.exp(a - log_r) * ((a - log_r) - (b - log_x))
#     return total / len(reference)
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "today-mean_divergence", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mean_divergence(reference, logits):
    """Two arrays float32 [tokens, words]
    -> the mean divergence over tokens, a number in nats."""

    ### BEGIN SOLUTION
    def log_softmax(x):
        x = x.astype(np.float64) - x.max(axis=1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    p, q = log_softmax(reference), log_softmax(logits)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "today-mean_divergence-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(mean_divergence, "today.mean_divergence")

# %%
mean_divergence = adopt(mean_divergence, "today.mean_divergence")


def compare(network):
    """Perplexity lost, %, the mean divergence, nats, and likeliest words changed, %."""
    far = divergence(network, model, test)
    return 100 * (perplexity(network, test) / base - 1), far.mean, 100 * far.changed


rounded = {
    bits: weight_only.quantize(model, WeightConfig(bits, None)).model for bits in (8, 6, 4, 3)
}
with torch.no_grad():
    answers = [m(test.x[:4]).flatten(0, 1).numpy() for m in (model, rounded[4])]
mine, library = mean_divergence(*answers), divergence(rounded[4], model, test.first(4)).mean
claim(
    "The library's divergence, which is used from here on, is yours",
    1e-3 - abs(mine / library - 1),
    "of it",
    yours=mean_divergence,
)
eight_guess = predict(
    "8 bits a weight, one scale a row: perplexity moves by less than 0.3 %. Of a hundred "
    "likeliest next words, how many are other ones?",
    ["none", "one or two", "about ten"],
)

# %%
found = dict(zip(rounded, side_by_side(compare, rounded.values(), label="rounded models")))
changed = found[8][2]

# %%
eight_guess.reveal("none" if changed < 0.4 else "one or two" if changed < 4 else "about ten")
claim("8 bits move perplexity by less than 0.3 %", 0.3 - abs(found[8][0]), "%")
claim("And they change more than one likeliest word of two hundred", changed - 0.5, "%")
claim(
    "From 8 to 6 to 4 bits the divergence grows more than sevenfold each time",
    min(found[6][1] / found[8][1], found[4][1] / found[6][1]) - 7,
    "times",
)
Table(
    ["bits", "perplexity lost, %", "divergence, nats", "likeliest words changed, %"],
    [[bits, f"{p:.2f}", f"{d:.4f}", f"{c:.1f}"] for bits, (p, d, c) in found.items()],
    f"rounding to nearest, one scale a row; {test.x.numel():,} tokens",
)

# %% [markdown]
# A task that reads the likeliest word (a class, a yes or no) sees the last column. For whoever compresses a model that others have tested, the question is not whether it is good but whether it is *the same*: divergence from the original is the measure that tools of today report.
#
# ## 2 · Four bits as floats
#
# Accelerators of today multiply four-bit *floats*: a sign, two bits of exponent, one of mantissa (E2M1). The numbers are 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives. Neighbours along a row share a scale: microscaling formats (微缩放格式).
#
# | format | block | scale of a block | bits a number |
# |---|---:|---|---:|
# | MXFP4 | 32 | a power of two, $2^{\lfloor\log_2\max\lvert x\rvert\rfloor-2}$, in 8 bits | 4.25 |
# | NVFP4 | 16 | $\max\lvert x\rvert/6$ as an 8-bit float, times one float32 for the whole matrix | 4.5 |
# | integers of lab 11 | 32 | float16, and a zero point of 4 bits | 4.625 |
#
# ### Exercise 2 · Four-bit floats that share a scale (3 points, about 8 lines)
#
# MXFP4. The exponent of a block's largest number is rounded *down* and lowered by 2, since $6=1.5\cdot2^2$. The number over the scale goes to the nearest element; what is larger than 6 becomes 6. A number half-way between two elements goes to the one whose code (0 to 7 in the order above) is even: between $2^e$ and $2^{e+1}$ elements lie $2^{e-1}$ apart, and never nearer than 0.5; in units of this gap `np.rint` does it. A block of zeros stays zeros.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def round_mxfp4_spec(weight):
#     elements = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
#     out = np.zeros_like(weight)
#     for n in range(weight.shape[0]):
#         for first in range(0, weight.shape[1], 32):
#             block = weight[n, first : first + 32]
#             top = float(max(abs(block)))
#             if top == 0:
#                 continue
#             scale = 2.0 ** (np.floor(np.log2(top)) - 2)
#             for k in range(32):
#                 size = min(abs(block[k]) / scale, 6)
#                 near = [abs(size - e) for e in elements]
#                 best = [c for c in range(8) if near[c] == min(near)]
#                 code = best[0] if best[0] % 2 == 0 else best[-1]
#                 out[n, first + k] = np.sign(block[k]) * elements[code] * scale
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "today-round_mxfp4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def round_mxfp4(weight):
    """float32 [outputs, inputs], inputs a multiple of 32
    -> the weights that the codes stand for, float32 [outputs, inputs]."""
    ### BEGIN SOLUTION
    x = weight.reshape(len(weight), -1, 32)
    top = np.abs(x).max(axis=2, keepdims=True)
    scale = np.where(top > 0, 2.0 ** (np.frexp(top)[1] - 3), 1).astype(np.float32)
    size = np.minimum(np.abs(x / scale), 6)
    gap = 2.0 ** (np.maximum(np.frexp(size)[1] - 1, 0) - 1)
    element = np.rint(size / gap) * gap
    return (np.sign(x) * element * scale).astype(np.float32).reshape(weight.shape)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "today-round_mxfp4-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(round_mxfp4, "today.round_mxfp4")

# %%
round_mxfp4 = adopt(round_mxfp4, "today.round_mxfp4")
weight = matrix(linear_layers(model)["layers.1.feedforward.0"])
mine = round_mxfp4(weight.numpy())
claim(
    "The library's MXFP4 is yours",
    np.array_equal(mine, microscaling.quantize(weight, MXFP4).dequantize().numpy()),
    yours=round_mxfp4,
)
format_guess = predict(
    "This model's weights, four bits each and a quarter or so for scales: MXFP4, or integers "
    "in groups of 64. What loses least?",
    ["MXFP4", "integers with a zero point", "no difference"],
)

# %%
# The control for the scale: MXFP4's block with NVFP4's kind of scale.
FINER = BlockFormat("MXFP4's block, NVFP4's scale", 32, powers=False)
SYMMETRIC = "integers, groups of 32, no zero point"
formats = {
    **{f"integers, groups of {g}": WeightConfig(4, g) for g in (64, 32, 16)},
    "MXFP4": MXFP4,
    FINER.name: FINER,
    "NVFP4": NVFP4,
}
pressed = {
    name: weight_only.quantize_blocks(model, form)
    if isinstance(form, BlockFormat)
    else weight_only.quantize(model, form)
    for name, form in formats.items()
}
four = dict(
    zip(pressed, side_by_side(compare, [p.model for p in pressed.values()], label="formats"))
)


# %%
def without_zero_point(w):
    """Codes -7 to 7 with a float16 scale for every 32 neighbours."""
    groups = w.unflatten(-1, (-1, 32))
    scale = (groups.abs().amax(-1, keepdim=True) / 7).half().float().clamp(min=1e-8)
    return ((groups / scale).round() * scale).flatten(-2)


symmetric = copy.deepcopy(model)
for layer in linear_layers(symmetric).values():
    set_matrix(layer, without_zero_point(matrix(layer)))
four[SYMMETRIC] = compare(symmetric)
integers, floats = four["integers, groups of 64"], four["MXFP4"]

# %%
format_guess.reveal(
    "no difference"
    if abs(integers[1] / floats[1] - 1) < 0.1
    else "MXFP4"
    if floats[1] < integers[1]
    else "integers with a zero point"
)
claim(
    "NVFP4 diverges less than three quarters as far as MXFP4",
    0.75 - four["NVFP4"][1] / four["MXFP4"][1],
    "of MXFP4's",
)
claim(
    "A finer scale alone, with MXFP4's block, brings at least a third of that",
    (four["MXFP4"][1] - four[FINER.name][1]) / (four["MXFP4"][1] - four["NVFP4"][1]) - 0.33,
    "of the difference",
)
claim(
    "Integers in groups of 32 diverge less than NVFP4, for an eighth of a bit more",
    0.95 - four["integers, groups of 32"][1] / four["NVFP4"][1],
    "of NVFP4's",
)

# %%
Table(
    [
        "four bits",
        "bits a weight",
        "perplexity lost, %",
        "divergence, nats",
        "words changed, %",
    ],
    [
        [
            name,
            f"{pressed[name].bits if name in pressed else 4.5:.2f}",
            f"{p:.2f}",
            f"{d:.4f}",
            f"{c:.1f}",
        ]
        for name, (p, d, c) in four.items()
    ],
    "rounding to nearest",
)

# %% [markdown]
# The row without a zero point is the control: it tells how much of the integers' advantage the zero point is, which moves the sixteen codes to where a group's weights are. And a scale that is a power of two lets the largest number of a block land anywhere from 4 to 8: below 5 the code of 6 is never used, above 6 the largest is cut.
#
# Then why floats? Because of the multiplier: for two such elements it is a tiny circuit, and a scale that is a power of two costs nothing. That is an argument for a processor that has one. Here is one that has not; our kernel makes a float of every code first:

# %%
WIDE = 2048
random = torch.Generator().manual_seed(SEEDS[0])
dense = torch.randn(WIDE, WIDE, generator=random) / WIDE**0.5
one_row = torch.randn(1, WIDE, generator=random)
as_blocks = microscaling.quantize(dense, MXFP4)
blocks = block_kernels.pack_weight(
    as_blocks.codes.numpy(), as_blocks.block_scales.numpy(), MXFP4.block
)
as_integers = weight_only.round_to_nearest(dense, WeightConfig(4, 32))
params = as_integers.qparams
packed = lowbit.pack_weight(
    as_integers.codes.numpy(), params.scale.numpy(), params.zero_point.float().numpy(), 4, 32
)
row = one_row.numpy()
seconds = race(
    {
        "torch, float32": lambda: torch.nn.functional.linear(one_row, dense),
        "MXFP4": lambda: block_kernels.matmul(row, blocks),
        "integers, groups of 32": lambda: lowbit.matmul(row, packed),
    },
    rounds=60,
    seconds=2,
)

# %%
claim(
    "By our kernels integers of four bits are multiplied faster than floats of four bits, if "
    "the processor has byte dot products (VNNI)",
    seconds["MXFP4"] / seconds["integers, groups of 32"] - 1,
    "times",
    timed=True,
    asked="VNNI" in instruction_set(),
)
Table(
    ["one row times 2048 x 2048", "weights", "milliseconds", "times torch"],
    [
        [
            name,
            in_bytes(size),
            f"{1e3 * seconds[name]:.2f}",
            f"{seconds['torch, float32'] / seconds[name]:.1f}",
        ]
        for name, size in (
            ("torch, float32", dense.nbytes),
            ("MXFP4", blocks.nbytes),
            ("integers, groups of 32", packed.nbytes),
        )
    ],
    f"{instruction_set()}, one thread, process CPU time; in memory each scale takes 32 bits",
)

# %% [markdown]
# And as a file, read back:

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "nvfp4.safetensors"
    running = convert_weights(pressed["NVFP4"])
    written = packed_files.save(running, path)
    again = packed_files.load(path, model)
    with torch.no_grad():
        difference = float((again(test.x[:2]) - running(test.x[:2])).abs().max())
    moved = float(
        (running(test.x[:2]) - pressed["NVFP4"].model(test.x[:2])).detach().abs().max()
    )
print(f"{in_bytes(written)}; the kernel's logits differ from the simulation's by {moved:.1e}")
claim(
    "Read from its file, the model of four-bit floats computes the same bits", difference == 0
)

# %% [markdown]
# ## 3 · Turned until nothing stands out
#
# Large models have outliers (离群值): a few channels of the activations are many times as large as the others, and one scale for all has few codes left for the rest. SmoothQuant (lab 11) moves them into the weights. The other way is to turn the axes: for an orthogonal $Q$
#
# $$y = W x = (W Q)\,(Q^\top x)$$
#
# and $Q^\top x$ spreads a lone number over all channels. The best spreader has entries of one magnitude, $\pm1/\sqrt n$: a Hadamard matrix (哈达玛矩阵), which needs additions and one factor at the end ($H_1=1$):
#
# $$H_{2n}=\frac1{\sqrt2}\begin{pmatrix}H_n&H_n\\H_n&-H_n\end{pmatrix}$$
#
# ### Exercise 3 · The fast Hadamard transform (2 points, about 7 lines)
#
# For `half` = 1, 2, 4 ... n / 2: the numbers of a row that lie `half` apart in a run of 2 · `half` become $(a+b,\;a-b)$, in their places. At the end all is divided by $\sqrt n$. That is $n\log_2 n$ additions in place of $n^2$ multiplications. (A product with the whole matrix is right, too; it is what the transform saves.)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def hadamard_spec(x):
#     y = x.astype(np.float64)
#     n = y.shape[1]
#     for row in y:
#         half = 1
#         while half < n:
#             for start in range(0, n, 2 * half):
#                 for i in range(start, start + half):
#                     a, b = row[i], row[i + half]
#                     row[i], row[i + half] = a + b, a - b
#             half *= 2
#     return (y * n**-0.5).astype(np.float32)
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "today-hadamard", "locked": false, "schema_version": 3, "solution": true, "task": false}
def hadamard(x):
    """float32 [rows, n], n a power of two
    -> every row times the Hadamard matrix, float32 [rows, n]."""
    ### BEGIN SOLUTION
    rows, n = x.shape
    y, half = x.astype(np.float64), 1
    while half < n:
        pairs = y.reshape(rows, -1, 2, half)
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        y, half = np.stack([a + b, a - b], axis=2).reshape(rows, n), 2 * half
    return (y / np.sqrt(n)).astype(np.float32)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "today-hadamard-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(hadamard, "today.hadamard")

# %%
hadamard = adopt(hadamard, "today.hadamard")
some = np.random.default_rng(SEEDS[0]).normal(0, 1, (4, 128)).astype(np.float32)
claim(
    "The library's transform is yours",
    agreement(hadamard(some), rotation.turned(torch.from_numpy(some)).numpy(), rtol=1e-4),
    "tolerances",
    yours=hadamard,
)

# %% [markdown]
# The *residual stream* (残差流) of a transformer can be turned once and for all, before the model runs: the table of words writes $xQ$, every layer that reads has $WQ$, every layer that writes $Q^\top W$. A norm in between does not mind, since turning keeps lengths: $\mathrm{RMSNorm}(xQ)=\mathrm{RMSNorm}(x)\,Q$, if its gain has moved into the layers that read it (QuaRot, Ashkboos et al. 2024). At the end of this lab you build that for a small network; here is the library's.
#
# Our model has no outliers to speak of. But what is an outlier? In its *principal axes* (主轴), the eigenvectors of $X^\top X$ of what its layers read, the same model has some: a few directions hold most of the power. All four networks below compute the same; in the first one the axes are as they were, and only the norms' gains have moved.

# %%
WIDTH = model.words.embedding_dim
READERS = ("attention.qkv", "feedforward.0")
unturned = rotation.rotated(model, calibration[:1], torch.eye(WIDTH))


def reads(network, batch, names):
    """What reaches some layers, [tokens, width]."""
    seen, layers = [], {name: network.get_submodule(name) for name in names}
    with (
        torch.no_grad(),
        tapped(layers, before=lambda _, __, x: seen.append(x[0].flatten(0, -2))),
    ):
        network(batch)
    return torch.cat(seen)


names = [name for name in linear_layers(unturned) if name.endswith(READERS)]
x = reads(unturned, calibration[0], names).double()
principal = torch.linalg.eigh(x.T @ x / len(x)).eigenvectors.flip(1).float()

# %%
turns = {
    "in principal axes": principal,
    "from there by Hadamard": principal @ rotation.random_hadamard(WIDTH, SEEDS[0]),
    "from there at random": principal @ rotation.random_orthogonal(WIDTH, SEEDS[0]),
}
networks = {"as it is, gains moved": unturned} | {
    name: rotation.rotated(model, calibration[:1], turn) for name, turn in turns.items()
}
turned = networks["from there by Hadamard"]

turn_guess = predict(
    "Weights and activations of 4 bits (W4A4), one scale a token. In its principal axes the "
    "model diverges more than twice as far as before. Turned by a Hadamard matrix from "
    "there, compared with the model as it was:",
    ["still clearly farther", "about as far, or less"],
)

# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), sharey=True)
peak = {}
for name, network in networks.items():
    sizes = reads(network, test.x[:8], ["layers.1.attention.qkv"]).abs().amax(0)
    peak[name] = float(sizes.max() / sizes.median())
    if len(peak) <= 3:
        axis = axes[len(peak) - 1]
        axis.bar(range(WIDTH), sizes / sizes.median(), width=1.0)
        axis.set(title=name, xlabel="input channel")
axes[0].set_ylabel("largest |x|, median = 1")
plt.show()


# %%
def few_bits(network, weight_bits, activation_bits, sharing="token"):
    """A copy with rounded weights whose layers round what they read, as it comes.

    The head stays as it is: in the model as it was it is the table of words.
    """
    changed, head = copy.deepcopy(network), [n for n in linear_layers(network) if n == "head"]
    for name, layer in linear_layers(changed).items():
        if name not in head:
            codes = weight_only.round_to_nearest(matrix(layer), WeightConfig(weight_bits, None))
            set_matrix(layer, codes.dequantize())
    return round_inputs(changed, activation_bits, sharing, head)


W8A8, W4A4 = "W8A8, a scale a layer", "W4A4, a scale a token"
KINDS = {W8A8: (8, 8, "layer"), W4A4: (4, 4, "token")}
cases = {(n, k): few_bits(m, *kind) for n, m in networks.items() for k, kind in KINDS.items()}
far = dict(zip(cases, side_by_side(compare, cases.values(), label="few bits")))
same = [divergence(m, model, test.first(16)).mean for m in networks.values()]
before, worst, hadamards, at_random = (far[name, W4A4][1] for name in networks)

# %%
turn_guess.reveal(
    "still clearly farther" if hadamards > 1.15 * before else "about as far, or less"
)
claim(
    "In floats all four compute the same: divergence below a thousandth",
    1e-3 - max(same),
    "nats",
)
claim(
    "In principal axes the model of four bits diverges more than twice as far",
    worst / before - 2,
    "times",
)
claim(
    "By Hadamard from there it diverges at most a tenth farther than as it was",
    1.1 - hadamards / before,
    "of it",
)
claim(
    "A random rotation brings more than four fifths of what Hadamard brings",
    (worst - at_random) / (worst - hadamards) - 0.8,
    "of the gain",
)

# %%
Table(
    ["divergence, nats", *KINDS, "largest channel, median = 1"],
    [
        [name, *(f"{far[name, kind][1]:.3f}" for kind in KINDS), f"{peak[name]:.1f}"]
        for name in networks
    ],
    "weights: one scale a row, rounded to nearest; activations rounded as they come",
)

# %% [markdown]
# So an outlier is a matter of axes, and axes are free. (Four bits still cost this small model dearly in any axes.) A random rotation spreads as well; the Hadamard matrix is chosen because it is *fast*, for the places where the turning must run with the model: behind an activation or attention no linear layer in front can absorb it. The second feed-forward layer reads such numbers, and so does attention's last layer; both are turned inside in the second row:

# %%
behind = [n for n in linear_layers(turned) if n.endswith(("feedforward.2", "attention.out"))]
everywhere = rotation.with_turned_inputs(turned, behind)
inner = {"the stream": few_bits(turned, 4, 4), "and inside": few_bits(everywhere, 4, 4)}
inside = dict(zip(inner, side_by_side(compare, inner.values())))
Table(
    ["turned", "perplexity lost, %", "divergence, nats", "words changed, %"],
    [[name, f"{p:.1f}", f"{d:.3f}", f"{c:.1f}"] for name, (p, d, c) in inside.items()],
    "W4A4, a scale a token",
)

# %% [markdown]
# ## 4 · The memory of a long text
#
# While it writes, a model keeps the keys and values of all earlier tokens. Weights cost the same for every length; this memory grows:

# %%
LLAMA = {"layers": 32, "kv_heads": 8, "size": 128}  # Llama 3, 8 billion weights
a_token = 2 * LLAMA["layers"] * LLAMA["kv_heads"] * LLAMA["size"] * 2  # keys, values; two bytes
cache_guess = predict(
    "Llama 3 with 8 billion weights (4 GB at four bits), keys and values at 16 bits. A text of "
    "128,000 tokens takes for them:",
    ["some MB", "about 1 GB", "about 17 GB"],
)

# %%
bytes_of_text = 128_000 * a_token
cache_guess.reveal(
    "some MB" if bytes_of_text < 3e8 else "about 1 GB" if bytes_of_text < 5e9 else "about 17 GB"
)
print(f"{in_bytes(a_token)} a token, {in_bytes(bytes_of_text)} for the text")

# %% [markdown]
# So they are quantized, too. In large models *keys* have channels that are large at every token: a scale for each channel, over a group of tokens. *Values* have not: a scale for each token, over its channels (KIVI, Liu et al. 2024; SmolLM2, at the end of this lab, has such keys). The newest tokens stay floats until a group is full. Here passages are read 32 tokens at a time; each part sees those before it in few bits.

# %%
BITS, AXES = (8, 4, 2), {"keys by channel": "channel", "keys by token": "token"}


def loss_with(bits, keys="channel", values="token"):
    """Mean loss at every place of the passages, earlier tokens in few bits."""
    return losses_read_in_steps(
        model,
        test,
        lambda n: key_values.quantized_caches(model, bits, keys=keys, values=values),
    )


floats = losses_read_in_steps(model, test, model.caches)
jobs = [(bits, keys) for bits in BITS for keys in AXES.values()]
remembered = dict(zip(jobs, side_by_side(loss_with, *zip(*jobs), label="bits of the memory")))
more = {
    job: 100 * (float((loss - floats).mean().exp()) - 1) for job, loss in remembered.items()
}
sizes = {}
with torch.no_grad():
    for bits in BITS:
        caches = key_values.quantized_caches(model, bits)
        model(test.x[:1], caches)
        sizes[bits] = key_values.nbytes(caches) / test.x.shape[1]
    plain = model.caches(1)
    model(test.x[:1], plain)
sixteen = key_values.nbytes(plain) / test.x.shape[1]

# %%
figure, axis = plt.subplots(figsize=(6.5, 3))
for (bits, keys), loss in remembered.items():
    if bits < 8:
        parts = [100 * (float(d.mean().exp()) - 1) for d in (loss - floats).split(32)]
        style = {"channel": "-", "token": "--"}[keys]
        axis.plot(
            range(16, 128, 32), parts, style, marker="o", label=f"{bits} bits, keys by {keys}"
        )
axis.set(xlabel="place in the passage, tokens (32 at a time)", ylabel="perplexity up by, %")
axis.legend()
plt.show()
claim("Keys and values of 4 bits cost less than 0.6 %", 0.6 - more[4, "channel"], "%")
claim(
    "At 2 bits keys by channel cost less than 0.85 of what keys by token cost",
    0.85 - more[2, "channel"] / more[2, "token"],
    "of it",
)
claim(
    "2 bits cost more than five times what 4 bits cost",
    more[2, "channel"] - 5 * more[4, "channel"],
    "%",
)

# %%
Table(
    ["keys and values", "bytes a token", *(f"perplexity up by, %: {name}" for name in AXES)],
    [
        ["16 bits", f"{sixteen:.0f}", "0", "0"],
        *(
            [
                f"{bits} bits",
                f"{sizes[bits]:.0f}",
                *(f"{more[bits, a]:.2f}" for a in AXES.values()),
            ]
            for bits in BITS
        ),
    ],
    "scales included; blocks of 32 tokens, values by token",
)

# %% [markdown]
# A text that is read again and again (a manual, the rules of a game) need not be read twice: its memory is a file.

# %%
prompt = corpus.encode(
    ["import os\n\n\ndef read(path):\n    with open(path) as file:\n        "]
)
with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    path = Path(folder) / "prompt.safetensors"
    caches = key_values.quantized_caches(model, 4, group=8)
    model(prompt[None, :-1], caches)
    written = key_values.save(caches, path)
    logits = [model(prompt[None, -1:], c) for c in (key_values.load(path), caches)]
print(
    f"{len(prompt) - 1} tokens, {in_bytes(written)}: groups of 8, the newest tokens as floats, "
    "a header"
)
claim("From the file it goes on as it would have", torch.equal(*logits))

# %% [markdown]
# ## 5 · The wrong text for calibration
#
# GPTQ and SparseGPT look at activations of some text. (SparseGPT takes weights out as GPTQ rounds them: column by column, and the columns behind make up for it.) Which text? Here are our passages of code, passages of documentation, and tokens drawn at random.

# %%
calibration_guess = predict(
    "GPTQ at 3 bits, calibrated on random tokens in place of code. Compared with rounding to "
    "nearest, which sees no text at all, it is:",
    ["worse", "no better", "clearly better"],
)

# %%
texts = {
    "code": calibration,
    "documentation": list(corpus.load("documentation", "train").some(32, SEEDS[0]).x.split(16)),
    "random tokens": list(
        torch.randint(0, corpus.WORDS, (32, corpus.LENGTH), generator=random).split(16)
    ),
}
THREE = WeightConfig(3, 128)
jobs = [(text, method) for text in texts for method in ("GPTQ, 3 bits", "SparseGPT, half")]


def calibrated(text, method):
    if method.startswith("GPTQ"):
        return compare(gptq.quantize(model, texts[text], THREE).model)
    return compare(one_shot.prune(model, texts[text]))


by_text = dict(zip(jobs, side_by_side(calibrated, *zip(*jobs), label="calibration")))
nearest = compare(weight_only.quantize(model, THREE).model)
wrong = by_text["random tokens", "GPTQ, 3 bits"][1]

# %%
calibration_guess.reveal(
    "worse"
    if wrong > 1.05 * nearest[1]
    else "no better"
    if wrong > 0.9 * nearest[1]
    else "clearly better"
)
claim(
    "Calibrated on random tokens GPTQ is still better than rounding to nearest",
    0.9 - wrong / nearest[1],
    "of its divergence",
)
claim(
    "The wrong text costs both methods: divergence at least a twentieth larger than with code",
    min(by_text[t, m][1] / by_text["code", m][1] - 1.05 for t, m in jobs if t != "code"),
    "times",
)
Table(
    ["divergence, nats, calibrated on", *dict.fromkeys(m for _, m in jobs)],
    [[text, *(f"{by_text[t, m][1]:.3f}" for t, m in jobs if t == text)] for text in texts],
    f"tested on code; rounding to nearest at 3 bits: {nearest[1]:.3f}",
)

# %% [markdown]
# Documentation is made of much the same words: compare its row with that of random tokens. Calibrate on text like that of the service, and test on other text of it.
#
# ## 6 · Half of the weights, without training
#
# Prune and tune (lab 04) needs gradients through the whole model and days of text. Models of billions are pruned in one shot instead, without training. Magnitude alone does badly: a small weight that meets large activations matters. Wanda (Sun et al. 2023) scores a weight by $\lvert w_{ij}\rvert\cdot\lVert x_j\rVert_2$.
#
# ### Exercise 4 · Weights and what they meet (2 points, about 6 lines)
#
# Of every `of` neighbours in a row the `keep` with the largest scores stay as they are, the others become 0. $\lVert x_j\rVert_2$ is the root of the sum of squares of input j over all examples. Of equal scores the first stay.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def wanda_spec(weight, x, keep, of):
#     out = np.zeros_like(weight)
#     squares = [[value**2 for value in x[:, j]] for j in range(x.shape[1])]
#     length = [np.sqrt(sum(column)) for column in squares]
#     for n in range(weight.shape[0]):
#         for first in range(0, weight.shape[1], of):
#             some = range(first, first + of)
#             order = sorted(some, key=lambda j: -abs(weight[n, j]) * length[j])
#             for j in order[:keep]:
#                 out[n, j] = weight[n, j]
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "today-wanda", "locked": false, "schema_version": 3, "solution": true, "task": false}
def wanda(weight, x, keep, of):
    """float32 [outputs, inputs], float32 [examples, inputs], two numbers
    -> the weight with zeros, float32 [outputs, inputs]."""
    ### BEGIN SOLUTION
    score = np.abs(weight) * np.sqrt(np.square(x, dtype=np.float64).sum(axis=0))
    groups = score.reshape(-1, of)
    best = np.argsort(-groups, axis=1, kind="stable")[:, :keep]
    stays = np.zeros(groups.shape, dtype=bool)
    np.put_along_axis(stays, best, True, axis=1)
    return weight * stays.reshape(weight.shape)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "today-wanda-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(wanda, "today.wanda")

# %%
wanda = adopt(wanda, "today.wanda")
x = reads(model, calibration[0], ["layers.1.feedforward.0"])
theirs = one_shot.prune_layer(weight, gptq.hessian(x), "wanda", pattern=(2, 4))
claim(
    "The library's Wanda is yours",
    np.array_equal(wanda(weight.numpy(), x.numpy(), 2, 4), theirs.numpy()),
    yours=wanda,
)
prune_guess = predict(
    "Two of every four weights gone, nothing trained. By magnitude perplexity goes up by a "
    "factor of six or so. By SparseGPT, which lets the rest make up for it:",
    ["about as much", "twice what it was", "a few per cent"],
)

# %%
PATTERNS = {"half of each row": None, "2 of every 4": (2, 4)}
jobs = [(method, name) for method in one_shot.METHODS for name in PATTERNS]


def pruned(method, name):
    network = one_shot.prune(model, calibration, method, 0.5, PATTERNS[name])
    return network, compare(network)


done = dict(zip(jobs, side_by_side(pruned, *zip(*jobs), label="pruning")))
lost = {job: result[0] for job, (_, result) in done.items()}
times = 1 + lost["sparsegpt", "2 of every 4"] / 100

# %%
prune_guess.reveal(
    "about as much" if times > 3.5 else "twice what it was" if times > 1.3 else "a few per cent"
)
claim(
    "Wanda loses less than three quarters of what magnitude loses, with half of each row gone",
    0.75 - lost["wanda", "half of each row"] / lost["magnitude", "half of each row"],
    "of it",
)
claim(
    "SparseGPT loses less than half of what Wanda loses",
    0.5 - max(lost["sparsegpt", p] / lost["wanda", p] for p in PATTERNS),
    "of it",
)
claim(
    "2 of every 4 loses more than 1.5 times as much as any half",
    min(lost[m, "2 of every 4"] / lost[m, "half of each row"] for m in one_shot.METHODS) - 1.5,
    "times",
)

# %%
Table(
    [
        "half of the weights",
        *(f"{p}: perplexity lost, %" for p in PATTERNS),
        "divergence, nats",
    ],
    [
        [
            method,
            *(f"{lost[method, p]:.0f}" for p in PATTERNS),
            f"{done[method, 'half of each row'][1][1]:.2f}",
        ]
        for method in one_shot.METHODS
    ],
    "all linear layers, nothing trained; divergence with half of each row gone",
)

# %% [markdown]
# Large models lose far less: a 175-billion one nothing worth the name at a half. Compare with lab 11 what four bits cost this model: half of the weights are half of the bytes *at most* (zeros must be found again), four bits are an eighth.
#
# ## When not to
#
# - *Four-bit floats on a processor without them.* Integers in groups are as small, lose less here, and are multiplied faster.
# - *Rotations without outliers.* Look first (lab 13 shows where real ones are): without any there is nothing to spread.
# - *A memory of few bits for short texts.* The weights are nearly all of the bytes then, and restoring codes takes time.
# - *Pruning in one shot where training is possible.* Tuning brings back most (lab 04).
#
# ## Build it · A network in other axes
#
# ### Exercise 5 · Turn the stream of a small network (build, 16 points, about 15 lines)
#
# A network of residual blocks: `x = words[token]`; in every block `x = x + relu(rms(x) * gain @ read.T + offset) @ write.T + shift`; the answer is `rms(x) * last_gain @ head.T`, with `rms(x)` = x over the root of its mean square. You get its numbers and an orthogonal matrix `turn`. Hand back the numbers of a network **without gains** that computes the same while its stream is `x @ turn` everywhere: the words, a tuple of (read, offset, write, shift) for every block, and the head.
#
# 1. *Words and head*: no block, gains of 1.
# 2. *Layers that read and write*: one block, gains of 1, no biases.
# 3. *Gains of norms*: `gains[i]` stands in front of block i, the last one in front of the head.
# 4. *Biases, several blocks*.


# %% nbgrader={"grade": false, "grade_id": "today-turned_stream", "locked": false, "schema_version": 3, "solution": true, "task": false}
def turned_stream(words, gains, blocks, head, turn):
    """[words, width], [blocks + 1, width], a tuple of blocks (read [hidden, width],
    offset [hidden], write [width, hidden], shift [width]), [classes, width], [width, width]
    -> words, a tuple of blocks, head; all float32."""
    ### BEGIN SOLUTION
    new = []
    for gain, (read, offset, write, shift) in zip(gains, blocks):
        new.append(((read * gain) @ turn, offset, turn.T @ write, shift @ turn))
    return words @ turn, tuple(new), (head * gains[-1]) @ turn
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "today-turned_stream-check", "locked": true, "points": 16, "schema_version": 3, "solution": false, "task": false}
check(turned_stream, "today.turned_stream")

# %%
turned_stream = adopt(turned_stream, "today.turned_stream")

# %% [markdown]
# ### Exercise 6 · Half of the weights, as good as you can (open, 12 points, about 20 lines)
#
# An *open* exercise has no right answer: what you choose is measured, here and again while grading, on numbers that your code does not see. Three matrices of the language model lose two of every four neighbours in a row; what stays may take any value. You have $H = X^\top X / n$ of the layer's inputs on training text; the outcome is the outputs' power over their error, in decibels, with $H$ of other text. Bronze is above magnitude (Wanda reaches it), silver is SparseGPT, gold needs a choice that knows what the others can make up for (the inverse of $H$), and values fitted to it.


# %% nbgrader={"grade": false, "grade_id": "today-half", "locked": false, "schema_version": 3, "solution": true, "task": false}
def half(weight, moment):
    """Float32 [rows, inputs], float64 [inputs, inputs]
    -> float32 [rows, inputs], at most two of every four not 0."""
    ### BEGIN SOLUTION
    rows, inputs = weight.shape
    h = moment + 0.01 * np.trace(moment) / inputs * np.eye(inputs)
    inverse = np.repeat(np.linalg.inv(h)[None], rows, axis=0)
    w, gone, row = weight.astype(float), np.zeros(weight.shape, bool), np.arange(rows)
    for _ in range(inputs // 2):
        full = gone.reshape(rows, -1, 4).sum(2) == 2
        diagonal = np.where(gone, 1, np.einsum("rii->ri", inverse))
        price = np.where(gone | np.repeat(full, 4, axis=1), np.inf, w * w / diagonal)
        j = price.argmin(1)
        column, pivot = inverse[row, :, j], inverse[row, j, j]
        w -= (w[row, j] / pivot)[:, None] * column
        inverse -= column[:, :, None] * column[:, None, :] / pivot[:, None, None]
        gone[row, j] = True
        w[gone] = 0
    return w.astype(np.float32)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "today-half-check", "locked": true, "points": 12, "schema_version": 3, "solution": false, "task": false}
check(half, "today.half")

# %%
half = adopt(half, "today.half")

# %% [markdown]
# ## Longer than a lab · A real model of today
#
# What follows takes minutes for each seed: it was run over several seeds, and its rows are kept beside the code (`compresslab/longer/real_today.py`). With `COMPRESSLAB_LONGER=1` in the environment a cell runs one seed here as well; `compresslab longer real_today` runs them all anew, once `compresslab real` has installed the model.
#
# SmolLM2 has 135 million weights, was trained on two trillion tokens, and has outliers that nobody planted. Compare each line with what our small model did.

# %%
from compresslab.longer import show_longer

show_longer("real_today")

# %% [markdown]
# Turning spreads a *channel* over the others. SmolLM2's largest numbers all belong to one token, the first (lab 13): that token stays large in any axes, and one scale for a layer stays coarse. A scale a token and a turned stream are remedies for two different things.
#
# ## In the course's own measures
#
# The cheapest step of all in front: a cast to 16 bits (半精度), which halves the file and asks for no data. (Time it saves only where the processor multiplies 16-bit floats.) Milliseconds are those of a whole passage, not of one token. Energy (能耗) is an estimate: operations and the file read once, at the prices of a 45 nm process (Horowitz 2014).

# %%
import compresslab as cl

weighed = {
    "float32": model,
    "float16, a cast": copy.deepcopy(model).half(),
    "bfloat16, a cast": copy.deepcopy(model).bfloat16(),
    "integers, groups of 32": convert_weights(pressed["integers, groups of 32"]),
    "NVFP4": running,
    "SparseGPT, half": done["sparsegpt", "half of each row"][0],
}
cl.table(*(cl.measure(network, test.x[0], name, (1, 16)) for name, network in weighed.items()))

# %%
ends = dict(zip(weighed, side_by_side(compare, weighed.values())))
Table(
    ["the same networks", "perplexity lost, %", "divergence, nats", "words changed, %"],
    [[name, f"{p:.2f}", f"{d:.5f}", f"{c:.2f}"] for name, (p, d, c) in ends.items()],
)

# %% [markdown]
# ## What the papers say, what we measured
#
# The networks, data and machines of the papers are others than ours: compare directions and sizes, not digits.

# %%
Table(
    ["", "the paper", "here"],
    [
        [
            "W4A4 on a turned model",
            "Llama-2-7B, all of four bits: perplexity 6.10, floats 5.47 (Ashkboos et al. 2024, "
            "table 1)",
            f"divergence at W4A4 in principal axes: {worst:.2f} nats, turned {hadamards:.2f}",
        ],
        [
            "keys and values of 2 bits",
            "Llama-2-7B: little lost with keys by channel, much with keys by token (Liu et al. "
            "2024, section 3)",
            f"perplexity up by {more[2, 'channel']:.1f} % against {more[2, 'token']:.1f} %",
        ],
        [
            "half of the weights",
            "Llama-7B: magnitude 17.29, Wanda 7.26, SparseGPT 7.22, floats 5.68 (Sun et al. "
            "2023, table 3)",
            ", ".join(
                f"{m} {base * (1 + lost[m, 'half of each row'] / 100):.1f}"
                for m in one_shot.METHODS
            )
            + f", floats {base:.1f}",
        ],
    ],
    text_columns=3,
)

# %% [markdown]
# In the papers Wanda is as good as SparseGPT; on our small model it is far behind, and on SmolLM2 (the table above) less far. One reason may be that a small model has less to spare.
#
# %% [markdown] nbgrader={"grade": true, "grade_id": "written-today_written", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# ## Written question (2 points)
#
# Two hundred people at once ask a model of 8 billion weights about one handbook of 20,000 tokens, in conversations of 1,000 tokens each, on a machine with 24 GB. Count the bytes of weights and of keys and values (131 kB a token at 16 bits), decide what you compress, how far and in which order, and say which measurement would tell you that answers are still those of the original model.
#
# *Your answer (double-click here to write it):*

# %% [markdown]
# ## Recap
#
# - Perplexity can stay while the model changes: divergence and changed words tell. Neither 8 bits a weight nor a cast to bfloat16 is "the same model".
# - Four-bit floats are made for multipliers that have them; elsewhere integers with a zero point are as small and better.
# - Turning the axes spreads outliers at no cost at run time; a fast transform does it where no weight can take it.
# - Long texts and many readers pay for keys and values: 4 bits cost little, keys by channel, the newest in floats.
# - In one shot, without training, the weights that stay must make up for the half that went.
#
# **Back:** [Lab 14 · The fault clinic](14_clinic.ipynb) · **Next:** [Start](start.ipynb)
#
# **References.** Rouhani et al. 2023, *Microscaling data formats for deep learning*, arXiv:2310.10537 · Open Compute Project 2023, *OCP Microscaling Formats (MX) specification*, version 1.0 · NVIDIA 2025, *Pretraining large language models with NVFP4*, arXiv:2509.25149 · Ashkboos et al. 2024, *QuaRot*, arXiv:2404.00456, section 4 · Ashkboos et al. 2024, *SliceGPT*, arXiv:2401.15024, section 3.2 · Tseng et al. 2024, *QuIP#*, arXiv:2402.04396 · Liu et al. 2024, *KIVI*, arXiv:2402.02750, section 3 · Sun et al. 2023, *Wanda*, arXiv:2306.11695, section 3 · Frantar and Alistarh 2023, *SparseGPT*, arXiv:2301.00774, section 3 · Kullback and Leibler 1951, *On information and sufficiency*
