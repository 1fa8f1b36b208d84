# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Lab 03 · Quantization-aware training and fine-tuning
#
# **You will** give rounding a gradient, train networks of 3 and 2 bits, let them learn their own step sizes,
# and hold every gain against the control that costs the same.
# **Time:** 110 minutes to work through; it runs in one to three minutes, by processor.
#
# Lab 02 stopped where post-training quantization breaks. If there is training data, the network can learn
# to live with its rounding: quantization-aware training (QAT, 量化感知训练) from scratch, or quantization-aware fine-tuning (QAF,
# 量化感知微调) of a trained network. (QAT is also said of both together; in the tables here it means from scratch.) Both train
# through *fake quantization* (伪量化): round to the grid and back to floats.

# %%
import copy
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

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
    cross_entropy,
    disk_bytes,
    evaluate,
    explore,
    fit_all,
    in_bytes,
    load,
    logits,
    mean_sd,
    models,
    predict,
    trained,
    use_style,
)
from compresslab.runtime import storage
from compresslab.runtime.convert import convert
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.qat import optimizer_of, toward_teacher, with_quantized_gradients
from compresslab.techniques.quantizer import ActivationQuantizer, QuantConfig, Quantized

# %%
use_style()
SEEDS = begin()

# %% [markdown]
# ## A hook: two bits
#
# Networks trained in floats are rounded to fewer and fewer bits, as in lab 02; nothing is trained after that.

# %%
data = load(size=16, train_size=8_000, seed=SEEDS[0])
classes, calibration = len(data.classes), data.train.x[:500]
FLOAT_EPOCHS = 4  # that the networks were trained for
EDGES = 8  # bits of the image, the first and the last layer, as in the LSQ paper
networks = trained("vgg", data, SEEDS)


def build():
    return models.VGGLike(data.shape, classes, (16, 32, 64))


def mean_and_sd(networks):
    return accuracy(networks, data.test)


fp32 = mean_and_sd(networks)
after = {}
for bits in (8, 4, 3, 2):
    config = QuantConfig(bits, bits, edge_bits=EDGES)
    after[bits] = mean_and_sd(
        [quantize_post_training(n, config, calibration) for n in networks]
    )
claim("After training, 2 bits cost more than 20 points", fp32[0] - after[2][0] - 20, "points")
Table(
    ["bits of weights and activations", "post-training, %"],
    [[str(b), mean_sd(*after[b])] for b in after],
    f"fp32: {mean_sd(*fp32)} %, {len(SEEDS)} seeds; min-max ranges, first and last layer 8 "
    "bits",
)

# %% [markdown]
# A 2-bit weight is one of -1, 0, +1 times a scale (the grid without its lowest code, so that it is symmetric; where a
# figure below shows codes from $-2^{b-1}$ on, it is the full one). The network above was never asked to work with that. Let us ask.
#
# ## 1 · The gradient of a staircase
#
# Training needs $\partial x'/\partial x$ of $x' = \text{round}(x/s)\,s$. That is a staircase: its derivative is 0
# almost everywhere, so nothing would ever learn. The straight-through estimator (STE, 直通估计器; Bengio et al. 2013)
# takes the staircase's *trend* instead: slope 1 as long as $x$ rounds to a code there is, so up to half a step beyond the last one, and slope 0 where it is
# clipped.


# %%
def draw_staircase(bits, scale):
    high = 2 ** (bits - 1) - 1
    x = torch.linspace(-2, 2, 800)
    inside = (x / scale).round().abs() <= high
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.8))
    axes[0].plot(x, (x / scale).round().clamp(-high, high) * scale, label="forward")
    axes[0].plot(
        x,
        x.clamp(-(high + 0.5) * scale, (high + 0.5) * scale),
        "--",
        color="#D55E00",
        label="what backward sees",
    )
    axes[0].set(xlabel="x", ylabel="x'")
    axes[0].legend()
    axes[1].plot(x, torch.zeros_like(x), label="true derivative (almost everywhere)")
    axes[1].plot(x, inside.float(), "--", color="#D55E00", label="straight through")
    axes[1].set(xlabel="x", ylabel="derivative", ylim=(-0.1, 1.4))
    axes[1].legend(fontsize=9)


explore(draw_staircase, bits=(2, 6), scale=(0.05, 0.45, 0.05))

# %% [markdown]
# ### Exercise 1 · The straight-through gradient (2 points, about 2 lines)
#
# "Inside" means that the *rounded* code lies in `low..high`. Use `x * (1 / scale)`.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def ste_gradient_spec(x, scale, low, high, grad):
#     out = torch.zeros_like(grad)
#     for i, value in enumerate((x * (1 / torch.tensor(scale))).tolist()):
#         if low <= round(value) <= high:
#             out[i] = grad[i]
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "qat-ste_gradient", "locked": false, "schema_version": 3, "solution": true, "task": false}
def ste_gradient(x, scale, low, high, grad):
    """float32 [n], float, int, int, float32 [n] -> the gradient that reaches x, float32 [n]."""
    ### BEGIN SOLUTION
    code = torch.round(x * (1 / scale))
    return grad * ((code >= low) & (code <= high))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "qat-ste_gradient-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(ste_gradient, "qat.ste_gradient")

# %%
ste_gradient = adopt(ste_gradient, "qat.ste_gradient")

# %% [markdown]
# With autograd it is shorter to write the forward pass so that torch finds this gradient by itself: `detach()`
# makes a constant, so `y + (round(y) - y).detach()` *is* `round(y)` and *differentiates* like `y`.
#
# ### Exercise 2 · Fake quantization that can be trained (3 points, about 3 lines)
#
# Value and gradient are both checked, the gradient for the loss `(value * [1, 2, 3, ...]).sum()`, so that number i gets i, or 0
# where the *rounded* code is outside.


# %% nbgrader={"grade": false, "grade_id": "qat-fake_quantize", "locked": false, "schema_version": 3, "solution": true, "task": false}
def fake_quantize(x, scale, low, high):
    """float32 tensor, float, two ints
    -> the quantized numbers, differentiable straight through."""
    ### BEGIN SOLUTION
    steps = x * (1 / scale)
    inside = (steps.round() >= low) & (steps.round() <= high)
    y = torch.where(inside, steps, steps.clamp(low, high).detach())
    return (y + (y.round() - y).detach()) * scale
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "qat-fake_quantize-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(fake_quantize, "qat.fake_quantize")

# %%
fake_quantize = adopt(fake_quantize, "qat.fake_quantize")
x = torch.randn(1000, generator=torch.Generator().manual_seed(SEEDS[0] + 2), requires_grad=True)
(by_autograd,) = torch.autograd.grad(fake_quantize(x, 0.3, -4, 3).sum(), x)
by_rule = ste_gradient(x.detach(), 0.3, -4, 3, torch.ones(1000))
claim(
    "Autograd finds the gradient of exercise 1",
    agreement(by_autograd, by_rule, rtol=1e-4, atol=1e-6),
    "tolerances",
)

# %% [markdown]
# Does it learn? A line fitted with weights of 3 bits: once straight through, once with the true derivative.


# %%
def fit_line(quantize, steps=150):
    generator = torch.Generator().manual_seed(SEEDS[0])
    x = torch.randn(256, 8, generator=generator)
    goal = torch.linspace(-1, 1, 8)
    weight, losses = torch.zeros(8, requires_grad=True), []
    for _ in range(steps):
        loss = (x @ quantize(weight) - x @ goal).square().mean()
        (gradient,) = torch.autograd.grad(loss, weight, allow_unused=True)
        losses.append(loss.item())
        with torch.no_grad():
            weight -= 0.05 * (0 if gradient is None else gradient)
    return losses


# %%
through = fit_line(lambda w: fake_quantize(w, 0.3, -4, 3))
true = fit_line(lambda w: (w / 0.3).round().clamp(-4, 3) * 0.3)
plain = fit_line(lambda w: w)
figure, axes = plt.subplots(figsize=(7, 2.8))
for losses, label, style in (
    (through, "3 bits, straight through", "-"),
    (true, "3 bits, true derivative", "--"),
    (plain, "fp32", ":"),
):
    axes.plot(losses, style, label=label)
axes.set(xlabel="training step", ylabel="mean squared error")
axes.legend()
plt.show()
claim("With the true derivative nothing is learned at all", true[-1] == true[0])
claim(
    "Straight through, more than nine tenths of the error go away",
    0.1 - through[-1] / through[0],
    "of the error",
)

# %% [markdown]
# ## 2 · Fixed steps
#
# Quantizers go into the trained network, calibrated as in lab 02; then one epoch of training through them.
# The contestants, and two controls. PTQ has the trained network only; QAF and the controls get one more epoch; QAT gets as many
# epochs as QAF in all:
#
# - **PTQ**: nothing trained. **QAF**: trained network, one more epoch through the quantizers.
# - **QAT**: from scratch, *all* epochs through the quantizers (it joins in section 3, with learned steps).
# - **Controls**: the fp32 network after one more epoch in fp32, and *that* network quantized (PTQ). If these gained as much, training
#   through the quantizers would have nothing to do with it.

# %%
control = predict(
    "One more epoch in plain fp32: what does it gain?",
    ["under half a point", "1 to 3 points", "more"],
)

# %%
EPOCHS = 1


def through_quantizers(networks, epochs, lr, bits, label, loss=cross_entropy, **options):
    """Quantized copies, calibrated one after the other, then trained side by side."""
    config = QuantConfig(bits, bits, edge_bits=EDGES, **options)
    quantized = [quantize_post_training(n, config, calibration) for n in networks]
    settings = {"loss": loss, "optimizer": lambda n: optimizer_of(n, lr)}
    return fit_all(quantized, data.train, epochs, lr, seeds=SEEDS, label=label, **settings)


def fine_tuned(bits, **options):
    return through_quantizers(networks, EPOCHS, 0.05, bits, f"{bits} bits", **options)


trained_longer = fit_all(
    copy.deepcopy(networks), data.train, EPOCHS, 0.05, seeds=SEEDS, label="fp32 longer"
)
more = mean_and_sd(trained_longer)
longer_then_ptq = {
    bits: mean_and_sd(
        [
            quantize_post_training(n, QuantConfig(bits, bits, edge_bits=EDGES), calibration)
            for n in trained_longer
        ]
    )
    for bits in (3, 2)
}
qaf = {bits: mean_and_sd(fine_tuned(bits)) for bits in (3, 2)}
gain = more[0] - fp32[0]

# %%
control.reveal("under half a point" if gain < 0.5 else "1 to 3 points" if gain <= 3 else "more")
claim("The control: training longer in fp32 gains less than a point", 1 - gain, "points")
claim(
    "At 3 and 2 bits, an epoch through the quantizers beats an epoch in fp32 and then PTQ",
    min(qaf[bits][0] - longer_then_ptq[bits][0] for bits in qaf),
    "points",
)
claim("At 2 bits it gains more than 20 points", qaf[2][0] - after[2][0] - 20, "points")
claim(
    "At 2 bits, with fixed min-max steps, it stays more than 4 points below fp32",
    fp32[0] - qaf[2][0] - 4,
    "points",
)

# %%
Table(
    ["bits", "PTQ, %", "fp32 longer, then PTQ, %", "QAF with fixed steps, %"],
    [[str(b), mean_sd(*after[b]), mean_sd(*longer_then_ptq[b]), mean_sd(*qaf[b])] for b in qaf],
    f"{EPOCHS} epoch, {len(SEEDS)} seeds; fp32 {mean_sd(*fp32)}, fp32 trained longer "
    f"{mean_sd(*more)} %",
)

# %% [markdown]
# ## 3 · Learned steps
#
# At 2 bits min-max is a poor scale: the few extreme weights set it, and most weights round to 0. The scale, which this literature
# calls *step size*, can be a parameter (learned step size, 可学习步长, LSQ; Esser et al. 2020). With $v = x/s$ and $x' = \text{round}(v)\,s$, the product rule and the
# straight-through estimator give inside the range
#
# $$\frac{\partial x'}{\partial s} = \text{round}(v) + s\,\frac{\partial\,\text{round}(v)}{\partial v}\cdot\frac{-x}{s^2} = \text{round}(v) - v$$
#
# and where $x$ is clipped, $x' = q_\min s$ or $q_\max s$, so the slope is $q_\min$ or $q_\max$ (`low` or `high`, also in the spec). All $n$ numbers pull on
# one step, so the sum is scaled by $g = 1/\sqrt{n\,q_\max}$.
#
# ### Exercise 3 · The gradient of a learned step (3 points, about 6 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def lsq_gradient_spec(x, scale, low, high, grad):
#     total = 0.0
#     for value, incoming in zip(
#         (x * (1 / torch.tensor(scale))).tolist(), grad.tolist()
#     ):
#         code = round(value)
#         slope = low if code < low else high if code > high else code - value
#         total += incoming * slope
#     return torch.tensor(total / math.sqrt(len(x) * high))
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "qat-lsq_gradient", "locked": false, "schema_version": 3, "solution": true, "task": false}
def lsq_gradient(x, scale, low, high, grad):
    """float32 [n], float, int, int, float32 [n]
    -> the gradient that reaches the scale, a scalar tensor."""
    ### BEGIN SOLUTION
    v = x * (1 / scale)
    code = torch.round(v)
    inside = (code >= low) & (code <= high)
    slope = torch.where(inside, code - v, code.clamp(low, high))
    return (grad * slope).sum() / math.sqrt(x.numel() * high)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "qat-lsq_gradient-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(lsq_gradient, "qat.lsq_gradient")

# %%
lsq_gradient = adopt(lsq_gradient, "qat.lsq_gradient")

# %% [markdown]
# Gradient descent on the step alone, with your gradient: it should find what a search finds.

# %%
x = torch.randn(2000, generator=torch.Generator().manual_seed(SEEDS[0] + 1))
LOW, HIGH = -2, 1
steps = torch.linspace(0.2, 2.5, 60)
errors = [float(((x / s).round().clamp(LOW, HIGH) * s - x).square().mean()) for s in steps]
step, path = 2.2, []
for _ in range(200):
    path.append(step)
    back = (x / step).round().clamp(LOW, HIGH) * step
    slope = float(lsq_gradient(x, step, LOW, HIGH, 2 * (back - x) / len(x))) * math.sqrt(
        len(x) * HIGH
    )
    step -= 0.1 * slope
best = float(steps[int(np.argmin(errors))])
figure, axes = plt.subplots(figsize=(7, 2.8))
axes.plot(steps, errors, label="error of every step size")
axes.plot(
    path[::10],
    [float(((x / s).round().clamp(LOW, HIGH) * s - x).square().mean()) for s in path[::10]],
    "o",
    label="gradient descent",
)
axes.set(
    xlabel="step size s",
    ylabel="mean squared error",
    title="2-bit codes -2..1 for a normal distribution",
)
axes.legend()
plt.show()

# %%
claim(
    "Gradient descent ends within a quarter of the best step",
    0.25 - abs(step / best - 1),
    "of the step",
)

# %%
learned = predict(
    "2 bits, one epoch, learned steps: how close to fp32?",
    ["within 2 points", "2 to 6 points below", "more than 6 points below"],
)

# %%
good_start = {"weight_range": "mse", "activation_range": "mse"}
contest = {
    "PTQ, min-max": after[2],
    "PTQ, MSE ranges": mean_and_sd(
        [
            quantize_post_training(
                n, QuantConfig(2, 2, edge_bits=EDGES, **good_start), calibration
            )
            for n in networks
        ]
    ),
    "QAF, fixed min-max steps": qaf[2],
    "QAF, fixed MSE steps": mean_and_sd(fine_tuned(2, **good_start)),
    "QAF, learned steps from min-max": mean_and_sd(fine_tuned(2, learned=True)),
    "QAF, learned steps from MSE": mean_and_sd(
        lsq_networks := fine_tuned(2, learned=True, **good_start)
    ),
}
ALL_EPOCHS = FLOAT_EPOCHS + EPOCHS
scratch = through_quantizers(
    built(build, SEEDS), ALL_EPOCHS, 0.2, 2, "QAT from scratch", learned=True, **good_start
)
contest["QAT from scratch, learned steps, all epochs"] = mean_and_sd(scratch)
lsq = contest["QAF, learned steps from MSE"]
distance = fp32[0] - lsq[0]

# %%
learned.reveal(
    "within 2 points"
    if distance <= 2
    else "2 to 6 points below"
    if distance <= 6
    else "more than 6 points below"
)
claim("Two learned bits, one epoch: within 6 points of fp32", 6 - distance, "points")

# %%
claim(
    "With fixed min-max steps, an epoch stays more than 6 points below fp32",
    fp32[0] - contest["QAF, fixed min-max steps"][0] - 6,
    "points",
)
starts = contest["QAF, fixed MSE steps"][0] - contest["QAF, fixed min-max steps"][0]
learning = (
    contest["QAF, learned steps from min-max"][0] - contest["QAF, fixed min-max steps"][0]
)
claim(
    "In one epoch, a good start gains more than learning the steps from a bad one",
    starts - learning,
    "points",
)
claim(
    "From scratch, with as many epochs in all, QAT stays below QAF",
    lsq[0] - contest["QAT from scratch, learned steps, all epochs"][0],
    "points",
)
claim(
    "Learned steps from a good start beat fixed min-max steps",
    lsq[0] - contest["QAF, fixed min-max steps"][0],
    "points",
)
Table(
    ["2-bit weights and activations", "accuracy, %", "below fp32"],
    [[n, mean_sd(*r), f"{fp32[0] - r[0]:.1f}"] for n, r in contest.items()],
    f"{len(SEEDS)} seeds; fp32 {mean_sd(*fp32)} %, trained longer {mean_sd(*more)} %; QAF "
    f"{EPOCHS} epoch, QAT {ALL_EPOCHS} epochs",
)

# %% [markdown]
# Compare the rows in pairs: within one epoch, where the steps *start* matters more than whether they are learned.
# Steps that start at min-max learn too slowly to catch up. (The LSQ paper starts at $2\,\overline{|w|}/\sqrt{q_\max}$,
# a good start too, and trains for ninety epochs.) Neither a good start nor a learned step costs anything at run time. And starting
# from a trained network beats starting from nothing in as many epochs. (One of the articles behind this course says the reverse, that
# few bits are best trained from the start. With more epochs that may come true: the end of this lab tries it.)

# %% [markdown]
# ## 4 · Does a teacher help?
#
# The float network knows more than the labels: which letters *resemble* each other. Training the quantized network
# toward its outputs is distillation (蒸馏). The control has the same steps without the teacher.


# %%
lessons = [toward_teacher(network, data.train) for network in networks]
taught = fine_tuned(2, loss=lessons, learned=True, **good_start)
with_teacher = mean_and_sd(taught)
difference = with_teacher[0] - lsq[0]
verdict = (
    "helps"
    if difference > max(lsq[1], with_teacher[1])
    else "makes no difference beyond the seeds' spread"
    if difference > -max(lsq[1], with_teacher[1])
    else "hurts"
)
print(
    f"2 bits, learned steps: labels {mean_sd(*lsq)} %, teacher {mean_sd(*with_teacher)} %: "
    f"here the teacher {verdict}."
)
claim(
    "With or without a teacher: both are nearer to each other than to the run with fixed "
    "min-max steps",
    lsq[0] - contest["QAF, fixed min-max steps"][0] - abs(difference),
    "points",
)

# %% [markdown]
# (The loss: seven tenths the teacher's answers at temperature 4, three tenths the labels.) The papers that report gains from a
# teacher train for long. One explanation of what came out here, not tested: in one epoch a 2-bit student is still finding
# codes that work at all. Lab 08 is about when a teacher does help.
#
# ## 5 · Gradients, too
#
# The backward pass has numbers that can be rounded, too. First your guess.

# %%
survive = predict(
    "Gradients of 4 bits, rounded to the nearest or up and down at random: which trains the "
    "network to within 10 points of fp32?",
    ["both", "only at random", "neither"],
)

# %% [markdown]
# Weights and activations make inference cheap. Training also moves *gradients*. We round what flows back into every layer; the
# weights' gradients are computed from that. Gradients are different: most are tiny, few are large, and rounding to the nearest
# would turn most into 0, so that the many small ones are lost together. Rounding at random (stochastic rounding, 随机舍入), up
# with the probability of the fraction, is right on average:
#
# $$\mathbb{E}\,\lfloor x + u \rfloor = x \qquad u \sim U[0, 1)$$
#
# ### Exercise 4 · Rounding that is right on average (1 point, about 1 line)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def stochastic_round_spec(x, noise):
#     out = np.empty_like(x)
#     for i in range(x.size):
#         whole = math.floor(x[i])
#         fraction = x[i] - whole
#         out[i] = whole + 1 if noise[i] >= 1 - fraction else whole
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "qat-stochastic_round", "locked": false, "schema_version": 3, "solution": true, "task": false}
def stochastic_round(x, noise):
    """float32 [n], float32 [n] uniform in [0, 1) -> float32 [n], whole numbers."""
    ### BEGIN SOLUTION
    return np.floor(x + noise)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "qat-stochastic_round-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(stochastic_round, "qat.stochastic_round")

# %%
stochastic_round = adopt(stochastic_round, "qat.stochastic_round")
generator = np.random.default_rng(SEEDS[0])
tiny = np.full(100_000, 0.2, np.float32)
averages = (
    np.rint(tiny).mean(),
    stochastic_round(tiny, generator.random(tiny.size, np.float32)).mean(),
)
claim(
    "Rounded to the nearest, a fifth is 0 on average; rounded at random, it is a fifth",
    min(0.01 - abs(averages[0]), 0.01 - abs(averages[1] - 0.2)),
    "of the average",
)

# %%
gradient_runs = {}
small = data.train.first(3000)
for name, bits, random_rounding in (
    ("fp32 gradients", None, True),
    ("8 bits, at random", 8, True),
    ("4 bits, at random", 4, True),
    ("4 bits, nearest", 4, False),
):
    runs = built(build, SEEDS)
    if bits is not None:
        runs = [with_quantized_gradients(n, bits, random_rounding) for n in runs]
    # Rounding at random draws from torch's global generator: such networks train one after the
    # other.
    in_turn = bits is not None and random_rounding
    fit_all(runs, small, 2, 0.1, seeds=SEEDS, label=name, in_turn=in_turn)
    gradient_runs[name] = mean_and_sd(runs)
reference = gradient_runs["fp32 gradients"][0]
trains = {n: reference - r[0] < 10 for n, r in gradient_runs.items()}

# %%
survive.reveal(
    "both"
    if trains["4 bits, nearest"] and trains["4 bits, at random"]
    else "only at random"
    if trains["4 bits, at random"]
    else "neither"
)
claim(
    "Gradients of 8 bits, rounded at random, cost less than 3 points",
    3 - (reference - gradient_runs["8 bits, at random"][0]),
    "points",
)
claim(
    "At 4 bits, rounding at random beats rounding to the nearest",
    gradient_runs["4 bits, at random"][0] - gradient_runs["4 bits, nearest"][0],
    "points",
)

# %%
Table(
    ["gradients", "accuracy, %"],
    [[n, mean_sd(*r)] for n, r in gradient_runs.items()],
    f"gradients of the layers' outputs; 2 epochs on {len(small):,} images, {len(SEEDS)} "
    "seeds; weights and "
    f"activations in fp32; guessing: {100 / len(data.classes):.1f} %",
)

# %% [markdown]
# ## 6 · Deploy: where does the batch norm go?
#
# The trained network still has batch norms behind its quantized convolutions. Folding them into the weights now
# would change codes that were trained with care. But the norm multiplies each channel by one number, and so does
# requantization. With gain $g$, shift $b$, mean $m$, variance $v$ of the norm and $t = g/\sqrt{v + \epsilon}$
#
# $$q_y = \text{round}\Big(\underbrace{\tfrac{s_x s_w t}{s_y}}_{\text{multiplier}}\,\big(\text{acc} + \underbrace{\text{round}\tfrac{b - m t}{s_x s_w t}}_{\text{integer bias}}\big)\Big) + z_y$$
#
# ### Exercise 5 · A batch norm as a multiplier and an integer bias (2 points, about 4 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def requantization_spec(
#     scale_x, scale_w, scale_y, gain, shift, mean, variance, epsilon
# ):
#     multiplier, bias = (
#         torch.empty(len(gain)),
#         torch.empty(len(gain), dtype=torch.int32),
#     )
#     for c in range(len(gain)):
#         t = float(gain[c]) / math.sqrt(float(variance[c]) + epsilon)
#         unit = scale_x * float(scale_w[c]) * t
#         multiplier[c] = unit / scale_y
#         bias[c] = round((float(shift[c]) - float(mean[c]) * t) / unit)
#     return multiplier, bias
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "qat-requantization", "locked": false, "schema_version": 3, "solution": true, "task": false}
def requantization(scale_x, scale_w, scale_y, gain, shift, mean, variance, epsilon):
    """-> (multiplier float32 [channels], bias int32 [channels]); scale_x, scale_y,
    epsilon are numbers."""
    ### BEGIN SOLUTION
    t = gain / torch.sqrt(variance + epsilon)
    unit = scale_x * scale_w * t
    bias = torch.round((shift - mean * t) / unit)
    return unit / scale_y, bias.to(torch.int32)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "qat-requantization-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(requantization, "qat.requantization")

# %%
requantization = adopt(requantization, "qat.requantization")
prepared = lsq_networks[0]
outputs = [m for m in prepared.modules() if isinstance(m, ActivationQuantizer)]
layers = [m for m in prepared.modules() if isinstance(m, Quantized)]
norm = next(m for m in prepared.modules() if isinstance(m, torch.nn.BatchNorm2d))
scales = [float(quantizer.qparams().scale) for quantizer in outputs[:2]]
multiplier, bias = requantization(
    scales[0],
    layers[0].weight_quantizer.qparams().scale,
    scales[1],
    *(v.detach() for v in (norm.weight, norm.bias, norm.running_mean, norm.running_var)),
    norm.eps,
)
first_layer = convert(prepared).layers[1]
# Of a channel whose sums cannot move its result by half a code the converter keeps nothing but the bias.
alive = torch.from_numpy(first_layer.codes()).flatten(1).any(1)
print(f"channels: {len(alive)}, dead: {len(alive) - int(alive.sum())}")
claim(
    "Your multipliers and biases are those of the converted network's first layer, in every "
    "channel that lives",
    min(
        agreement(multiplier[alive], first_layer.multiplier[alive], rtol=1e-4),
        agreement(bias[alive], first_layer.bias[alive], rtol=1e-4, atol=1.5),
    ),
    "tolerances",
    yours=requantization,
)


# %%
def answers(network):
    return logits(network, data.test.x).argmax(1)


simulated = {
    "int8 PTQ": quantize_post_training(networks[0], QuantConfig(), calibration),
    "2 bits, learned": lsq_networks[0],
}
float_size, float_right = disk_bytes(networks[0]), evaluate(networks[0], data.test)
rows = [["fp32", in_bytes(float_size), "1.0", f"{float_right:.1f}", "-"]]

# %%
with tempfile.TemporaryDirectory() as folder:
    for name, network in simulated.items():
        program = convert(network)
        size = storage.save(program, Path(folder) / "network.safetensors")
        right = evaluate(program, data.test)
        same = float((answers(network) == answers(program)).double().mean())
        smaller = f"{float_size / size:.1f}"
        rows.append([name, in_bytes(size), smaller, f"{right:.1f}", f"{100 * same:.2f} %"])
        claim(
            f"{name}: the integer program is as accurate as its simulation to within two "
            "points",
            2 - abs(right - evaluate(network, data.test)),
            "points",
        )

# %%
Table(
    ["network", "file", "fp32 / this", "accuracy, %", "same prediction as simulated"],
    rows,
    "one seed",
)

# %% [markdown]
# The file is not 16 times smaller at 2 bits: the first and last layer keep 8 bits, and scales, biases and the list of steps stay.
#
# Some predictions differ from the simulated ones where bits are few. The integer bias is the reason: it is rounded
# (exercise 5), which moves a result by up to half a *multiplier*. At 8 bits that is a small part of a code; with 2-bit
# weights and activations a unit of the sum is a visible part of one, and one code of a 2-bit activation a third of its range.

# %% [markdown]
# ## Build it · A layer that trains on the grid
#
# The straight-through estimator, the scale, the codes: exercises 1 to 5 in one module.
#
# ### Exercise 6 · A layer that trains on the grid (build, 16 points, about 20 lines)
#
# `quantized_layer(layer, bits)` takes an `nn.Linear` and hands back an `nn.Module` (define its class inside of the function). Its parameters are its own:
# the layer that was given stays as it is, and no row of it is all zeros.
#
# 1. *On the grid*: it computes with the weight rounded to multiples of $s_o$ for every output $o$, where the largest absolute weight of the row
#    is the code $2^{b-1} - 1$; the bias stays real.
# 2. *The gradient passes*: what reaches its parameter is the gradient of the *rounded* weight, straight through the rounding; the scale follows
#    the weight at each call, but no gradient flows through it.
# 3. *Trains*: an optimizer over its parameters lowers the loss.
# 4. *Codes*: `module.codes()` hands back two tensors: int8 codes [outputs, inputs] and float32 scales [outputs], whose product is the weight it computes with.
#    The bias is `module.bias`.


# %% nbgrader={"grade": false, "grade_id": "qat-quantized_layer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def quantized_layer(layer, bits):
    """nn.Linear, int -> nn.Module with forward(x), codes() and bias."""
    ### BEGIN SOLUTION
    high = 2 ** (bits - 1) - 1

    class QuantizedLayer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(layer.weight.detach().clone())
            self.bias = torch.nn.Parameter(layer.bias.detach().clone())

        def codes(self):
            weight = self.weight.detach()
            scale = weight.abs().amax(dim=1).clamp(min=1e-12) / high
            codes = torch.round(weight / scale[:, None]).clamp(-high, high)
            return codes.to(torch.int8), scale

        def forward(self, x):
            codes, scale = self.codes()
            rounded = codes * scale[:, None]
            straight = self.weight + (rounded - self.weight).detach()
            return torch.nn.functional.linear(x, straight, self.bias)

    return QuantizedLayer()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "qat-quantized_layer-check", "locked": true, "points": 16, "schema_version": 3, "solution": false, "task": false}
check(quantized_layer, "qat.quantized_layer")

# %%
quantized_layer = adopt(quantized_layer, "qat.quantized_layer")

# %%
*trunk, head = networks[0]  # the last layer, on what reaches it
with torch.no_grad():
    features = torch.nn.Sequential(*trunk)(data.train.x[:2_000])
    wanted = head(features)
rows = []
for bits in (4, 3, 2):
    module = quantized_layer(head, bits)
    errors = [float((module(features) - wanted).square().mean())]
    optimizer = torch.optim.Adam(module.parameters(), 0.0003)
    for _ in range(300):
        loss = (module(features) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    errors.append(float(loss))
    rows.append([bits, *(f"{e:.3f}" for e in errors), f"{errors[0] / errors[1]:.1f}"])
claim(
    "At 2 bits training on the grid leaves less than three quarters of the layer's error",
    0.75 - errors[1] / errors[0],
    "of the error",
)
Table(
    ["bits", "error, rounded", "error, trained", "rounded / trained"],
    rows,
    "mean squared error of the last layer's outputs",
)

# %% [markdown]
# ### Exercise 7 · Two bits for weights and activations (open, 12 points, about 35 lines)
#
# An *open* exercise has no right answer: what you choose is measured, here and again while grading, on numbers that your code does not see. A trained perceptron is to compute
# with two bits throughout. A layer is $z = (q \odot s) x + b$ with codes $q$ from -2 to 1 and a scale $s$ for each row; behind a hidden layer stands $a \cdot \mathrm{clip}(\mathrm{round}(z / a), 0, 3)$ with
# a step $a$ for the layer. Training is allowed, in 20 seconds of processor time, with torch; the library is not there while grading. Bronze is above rounding without training,
# gold is what training of everything together reached.
#
# You are given weights and biases, 4,000 training images [n, 256] and labels. Hand back a layer each: codes int8, scales and bias float32, the step (of the last layer any).


# %% nbgrader={"grade": false, "grade_id": "qat-two_by_two", "locked": false, "schema_version": 3, "solution": true, "task": false}
def two_by_two(weights, biases, images, labels):
    """Tuples of float32 arrays, images, labels
    -> for each layer (codes, scales, bias, step)."""

    ### BEGIN SOLUTION
    def through(v):
        return v + (v.round() - v).detach()

    ws, bs = [torch.tensor(w) for w in weights], [torch.tensor(b) for b in biases]
    scales, steps, x = [1.4 * w.std(1, keepdim=True) for w in ws], [], images
    for w, b in list(zip(weights, biases, strict=True))[:-1]:
        x = np.maximum(x @ w.T + b, 0)
        steps.append(torch.tensor(float(np.quantile(x[x > 0], 0.99)) / 3))
    learned = [p.requires_grad_() for p in (*ws, *bs, *scales, *steps)]

    def logits(x):
        for i, (w, b, s) in enumerate(zip(ws, bs, scales, strict=True)):
            s = s.abs() + 1e-6
            x = x @ (through((w / s).clamp(-2, 1)) * s).T + b
            if i < len(steps):
                step = steps[i].abs() + 1e-6
                x = through((x / step).clamp(0, 3)) * step
        return x

    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer, rounds = torch.optim.Adam(learned, 2e-3), 15 * (len(x) // 100)
    for number in range(rounds):
        if number % (len(x) // 100) == 0:
            order = torch.randperm(
                len(x), generator=torch.Generator().manual_seed(number)
            ).split(100)
        batch = order[number % (len(x) // 100)]
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - number / rounds)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits(x[batch]), y[batch]).backward()
        optimizer.step()
    found, last = [], [float(s.abs() + 1e-6) for s in steps] + [1.0]
    for w, b, s, step in zip(ws, bs, scales, last, strict=True):
        w, b, s = w.detach(), b.detach(), s.detach().abs() + 1e-6
        codes = (w / s).clamp(-2, 1).round().numpy().astype(np.int8)
        found.append((codes, s[:, 0].numpy(), b.numpy(), step))
    return tuple(found)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "qat-two_by_two-check", "locked": true, "points": 12, "schema_version": 3, "solution": false, "task": false}
check(two_by_two, "qat.two_by_two")

# %%
two_by_two = adopt(two_by_two, "qat.two_by_two")

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
    cl.measure([convert(n) for n in lsq_networks], data, "2 bits, learned"),
)

# %% [markdown]
# ## Longer than a lab · More epochs, half precision, and a Transformer
#
# What follows takes minutes for each seed: it was run over several seeds, and its rows are kept beside the code (`compresslab/longer/qat_epochs.py`). With `COMPRESSLAB_LONGER=1` in the environment a cell runs one seed here as well; `compresslab longer qat_epochs` runs them all anew.
#
# In section 3 training in few bits from scratch stayed below fine-tuning. Perhaps it only needs longer?

# %%
from compresslab.longer import show_longer

show_longer("qat_epochs")

# %% [markdown]
# Fine-tuning through quantizers is not for convolutions alone: a Transformer's linear layers take the same simulation, layer by layer, without a graph (`ptq.prepare_layers`), and run on integers afterwards.

# %%
show_longer("encoder_qaf")

# %% [markdown]
# torch has this training as well, as one call (`prepare_qat`; deprecated as all of `torch.ao.quantization`), at 8 bits, where there is little to win back. Its fake quantizers follow moving averages of the ranges; ours begin with calibrated ones.

# %%
show_longer("torch_qat")

# %% [markdown]
# Training itself can be low in precision. In bf16 the products have 8 bits of precision; the weights stay in fp32, because a small step would be rounded away (Kalamkar et al. 2019). The control has its weights in bf16 as well: is the copy needed here?

# %%
show_longer("bf16_training")

# %% [markdown]
# ## When *not* to
#
# - At 8 bits: PTQ loses nothing that training could win back.
# - Without the training data, or with a pipeline that nobody can run any more.
# - Before PTQ with good ranges has been tried: in the contest it gained much for nothing, if not enough at 2 bits.
#
# ## What the papers say, what we measured
#
# The networks, data and machines of the papers are others than ours: compare directions and sizes, not digits.

# %%
Table(
    ["quantity", "source", "says", "here"],
    [
        [
            "2-bit LSQ below fp32, points",
            "Esser et al. 2020, table 1 (ResNet-18, top-1)",
            "2.9",
            f"{distance:.1f}",
        ],
        [
            "distilled 2-bit, gain over labels",
            "Esser et al. 2020, distillation experiment",
            "0.3",
            f"{difference:.1f}",
        ],
    ],
    text_columns=2,
)

# %% [markdown] nbgrader={"grade": true, "grade_id": "written-qat_written", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# ## Written question (2 points)
#
# After quantization-aware training the accuracy in training mode is 95 %, and after conversion to integers 60 %. List
# three places where simulation and integer program could disagree, and a test for each.
#
# *Your answer (double-click here to write it):*

# %% [markdown]
# ## Recap
#
# - Rounding has derivative 0 almost everywhere; straight through takes the staircase's average slope, 1, and 0 where values are clipped.
# - At few bits the step size decides: start it well. Learning it adds little in one epoch.
# - Every gain stands beside its control: longer fp32 training, fixed steps, labels alone.
#
# **Back:** [Lab 02 · Post-training quantization](02_post_training_quantization.ipynb) · **Next:** [Lab 04 · Pruning](04_pruning.ipynb)
#
# **References.** Bengio et al. 2013, *Estimating or propagating gradients through stochastic neurons*, arXiv:1308.3432 ·
# Esser et al. 2020, *Learned step size quantization*, arXiv:1902.08153 · Zhou et al. 2016, *DoReFa-Net*,
# arXiv:1606.06160 · Jacob et al. 2018, arXiv:1712.05877 · Nagel et al. 2021, arXiv:2106.08295
