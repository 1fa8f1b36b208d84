# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Lab 14 · The fault clinic
#
# **You will** meet ten people whose compressed network does something that it should not, find out why with the instruments of the course, name the cause, and mend it in a few lines.
# **Time:** 100 minutes to work through; it runs in about half a minute.
#
# Nothing new is taught here. Every fault is one that users report, of many libraries. Most of them say nothing: the code runs, and the numbers are wrong.
#
# Each patient comes in the same order: what was written to us, the code, a measurement, and an exercise. An answer hands back **two things**: the cause, one word of this list, and what the mended code gives. Some words are right for none.

# %%
import copy
import io

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import display
from torch import nn
from torch.nn.utils import prune

import compresslab as cl
from compresslab.classroom.exercises.builds.clinic import CAUSES, ill_chain
from compresslab.lab import (
    Table,
    adopt,
    agreement,
    begin,
    check,
    claim,
    evaluate,
    in_bytes,
    load,
    memory_bytes,
    predict,
    race,
    trained,
    use_style,
)

# %%
from compresslab.numerics.error import sqnr_db
from compresslab.runtime import files
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig

use_style()
SEEDS = begin()
data = load(size=16, train_size=8_000, seed=SEEDS[0])
networks = trained("vgg", data, SEEDS)
Table(
    ["cause", "what it means"],
    list(CAUSES.items()),
    "fourteen words, ten patients",
    text_columns=2,
)

# %% [markdown]
# ## 1 · An eighth of the bytes, many times slower
#
# > "I packed my layer into 4 bits, two codes in a byte. The file is an eighth of what it was. But a prediction takes many times as long! I thought that quantized networks are faster?"

# %%
generator = np.random.default_rng(SEEDS[0])
SIDE = 2048
codes = generator.integers(-8, 8, (SIDE, SIDE)).astype(np.int8)
packed = ((codes[:, 0::2] & 15) | (codes[:, 1::2] << 4)).astype(np.uint8)
scale = generator.uniform(0.01, 0.02, (SIDE, 1)).astype(np.float32)
one_example = generator.normal(0, 1, (1, SIDE)).astype(np.float32)


def unpack(words):
    """Two codes out of each byte: uint8 [rows, columns / 2] -> int8 [rows, columns]."""
    pairs = np.stack([words & 15, words >> 4], axis=-1).reshape(len(words), -1)
    return (pairs.astype(np.int8) ^ 8) - 8


def patients_layer(packed, scale, unpack):
    def layer(x):
        return x @ (unpack(packed) * scale).T

    return layer


slow, floats = patients_layer(packed, scale, unpack), (codes * scale).T.copy()
took = race(
    {
        "floats": lambda: one_example @ floats,
        "the patient's layer": lambda: slow(one_example),
        "unpack alone": lambda: unpack(packed),
    },
    seconds=1.0,
)

# %%
Table(
    [f"one example, {SIDE} x {SIDE}", "µs", "floats = 1"],
    [[n, f"{1e6 * s:.0f}", f"{s / took['floats']:.1f}"] for n, s in took.items()],
)

# %% [markdown]
# ### Exercise 1 · An eighth of the bytes, many times slower (build, 3 points, about 2 lines)
#
# `slow_layer(packed, scale, unpack)` hands back the cause and a layer: a function from x [examples, columns] to [examples, rows]. It may keep what it likes.


# %% nbgrader={"grade": false, "grade_id": "clinic-slow_layer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def slow_layer(packed, scale, unpack):
    """uint8 [rows, columns / 2], float32 [rows, 1], a function -> cause, a function of x."""
    ### BEGIN SOLUTION
    weight = (unpack(packed) * scale).T
    return "repeated", lambda x: x @ weight
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "clinic-slow_layer-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(slow_layer, "clinic.slow_layer")

# %%
slow_layer = adopt(slow_layer, "clinic.slow_layer")
mended = slow_layer(packed, scale, unpack)[1]
linear = nn.Linear(SIDE, SIDE, bias=False)
with torch.no_grad():
    linear.weight.copy_(torch.from_numpy(floats.T))
kernel = cl.compress(nn.Sequential(linear), [cl.Weights(4)], torch.from_numpy(one_example))
took = race(
    {
        "floats": lambda: one_example @ floats,
        "the patient's layer": lambda: slow(one_example),
        "mended": lambda: mended(one_example),
        "on packed codes, by a kernel": lambda: kernel(torch.from_numpy(one_example)),
    },
    seconds=1.0,
)

# %%
claim(
    "A layer that unpacks at every call takes more than twice as long as one that has unpacked",
    took["the patient's layer"] / took["mended"] - 2,
    "times",
    timed=True,
)
held = {
    "floats": floats.nbytes,
    "the patient's layer": packed.nbytes + scale.nbytes,
    "mended": floats.nbytes,
    "on packed codes, by a kernel": memory_bytes(kernel),
}
Table(
    [f"one example, {SIDE} x {SIDE}", "µs", "bytes a weight in memory"],
    [[n, f"{1e6 * s:.0f}", f"{held[n] / codes.size:.2f}"] for n, s in took.items()],
)

# %% [markdown]
# Look at the last column. The cure has bought its time with memory: the weights are floats again as soon as the layer is made. A kernel (算子) that unpacks a few codes in registers while it multiplies keeps the bytes (lab 11); on a matrix that does not fit in the cache it can win time as well, on a small one the floats are quicker.
#
# ## 2 · Pruned, and the file is as large as before
#
# > "85 % of my weights are exactly 0. I checked. `torch.save` writes the same number of bytes as before. Is pruning a hoax?"

# %%
pruned = copy.deepcopy(networks[0])
convolutions = [m for m in pruned.modules() if isinstance(m, nn.Conv2d)]
with torch.no_grad():
    border = torch.cat([m.weight.abs().flatten() for m in convolutions]).quantile(0.85)
    for layer in convolutions:
        layer.weight[layer.weight.abs() < border] = 0


def saved(network):
    """Bytes that torch writes for a network."""
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    return len(file.getvalue())


none = sum(int((m.weight == 0).sum()) for m in convolutions)
every_weight = sum(m.weight.numel() for m in convolutions)
Table(
    ["VGG-like", "zeros in convolutions", "torch.save"],
    [
        ["as trained", "0 %", in_bytes(saved(networks[0]))],
        ["pruned", f"{100 * none / every_weight:.0f} %", in_bytes(saved(pruned))],
    ],
)

# %% [markdown]
# ### Exercise 2 · Pruned, and the file is as large as before (build, 3 points, about 2 lines)
#
# `pruned_file(weight)` hands back the cause and what should be written: `(bits, values)`, where `bits` has one *bit* for each weight in its order (`np.packbits`), set where the weight is not 0, and `values` are those weights, in their order.


# %% nbgrader={"grade": false, "grade_id": "clinic-pruned_file", "locked": false, "schema_version": 3, "solution": true, "task": false}
def pruned_file(weight):
    """float32 of any shape -> cause, (uint8 [bits / 8], float32 [not 0])."""
    ### BEGIN SOLUTION
    kept = weight != 0
    return "zeros", (np.packbits(kept), weight[kept])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "clinic-pruned_file-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(pruned_file, "clinic.pruned_file")

# %%
pruned_file = adopt(pruned_file, "clinic.pruned_file")
dense_bytes = sum(4 * m.weight.numel() for m in convolutions)
parts = [pruned_file(m.weight.detach().numpy())[1] for m in convolutions]
sparse_bytes = sum(bits.nbytes + values.nbytes for bits, values in parts)
claim(
    "With a bit for every weight, 85 % zeros leave less than a fifth of the bytes",
    0.2 - sparse_bytes / dense_bytes,
    "of the bytes",
)
Table(
    ["weights of all convolutions", "bytes"],
    [
        ["floats, zeros among them", in_bytes(dense_bytes)],
        ["a bit for each and the values", in_bytes(sparse_bytes)],
        ["the library's file of this network, all of it", in_bytes(files.size(pruned))],
    ],
)

# %% [markdown]
# A zero is a number like any other, to a file and to a product, until a format and a kernel leave it out (lab 04). The library's file does by itself what you wrote.
#
# ## 3 · One layer is to blame
#
# > "In floats my network is fine. With int8 weights, one scale a layer, it guesses. Answers are made in the last layer, so I left that one in floats. It did not help."
#
# The patient's network has a channel that is always 0 after its ReLU, and one weight of the layer behind it, which only that channel ever meets, has become very large. In floats nobody notices: large times 0 is 0.

# %%
ill = copy.deepcopy(networks[0])
behind = [m for m in ill.modules() if isinstance(m, nn.Conv2d)][2]
norm = [m for m in ill.modules() if isinstance(m, nn.BatchNorm2d)][1]
with torch.no_grad():
    silent = int(behind.weight.abs().sum((0, 2, 3)).argmin())
    norm.weight[silent], norm.bias[silent] = 0, -1
    behind.weight[0, silent, 1, 1] = 100 * behind.weight.abs().max()
calibration = data.train.x[:500]
ill_int8 = quantize_post_training(ill, QuantConfig(sharing="tensor"), calibration)
Table(
    ["the patient", "test accuracy, %"],
    [
        ["in floats", f"{evaluate(ill, data.test):.1f}"],
        ["int8, one scale a layer", f"{evaluate(ill_int8, data.test):.1f}"],
    ],
)

# %%
codes_guess = predict(
    "int8 has 255 codes for weights. All weights of the ill layer but the large one have, "
    "together, about:",
    ["3 of them", "20 of them", "100 of them", "all of them"],
)

# %% [markdown]
# `cl.debug` runs both networks and gives the error of each layer in decibels (lab 01): by its weights **alone**, on inputs that are right, and **accumulated**, with everything before it rounded as well.

# %%
diagnosis = cl.debug(ill, ill_int8, data.test.x[:200])
display(diagnosis)

# %%
culprit = next(name for name, module in ill.named_modules() if module is behind)
layer = ill_int8.get_submodule(culprit)
with torch.no_grad():
    rounded_weight = layer.weight_quantizer(layer.layer.weight)
    used = len(rounded_weight.unique()) - 1
limits = {10: "3 of them", 50: "20 of them", 200: "100 of them"}

# %%
codes_guess.reveal(
    next((text for limit, text in limits.items() if used < limit), "all of them")
)

# %%
alone = {error.name: error.weights for error in diagnosis.layers}
claim(
    "By its weights alone, the layer with the large weight is the worst",
    min(alone, key=alone.get) == culprit,
)
spared = copy.deepcopy(ill_int8)
spared.set_submodule(culprit, layer.layer)
last = diagnosis.layers[-1].name
patients_way = copy.deepcopy(ill_int8)
patients_way.set_submodule(last, patients_way.get_submodule(last).layer)
well = {
    "int8, one scale a layer": ill_int8,
    "the last layer in floats": patients_way,
    "the layer to blame in floats": spared,
    "a scale for each channel": quantize_post_training(ill, QuantConfig(), calibration),
    "in floats": ill,
}
reached = {name: evaluate(network, data.test) for name, network in well.items()}
whole_loss = reached["in floats"] - reached["int8, one scale a layer"]
won_back = reached["the layer to blame in floats"] - reached["int8, one scale a layer"]
claim(
    "One layer less in int8 wins back more than four fifths of what was lost",
    won_back / whole_loss - 0.8,
    "of the points",
)
Table(["the patient", "test accuracy, %"], [[n, f"{a:.1f}"] for n, a in reached.items()])

# %% [markdown]
# A scale for each channel helps here since the large weight belongs to one output; had each output such a weight at the silent input, every channel would be stretched. Now write the instrument.
#
# ### Exercise 3 · One layer is to blame (build, 3 points, about 6 lines)
#
# A chain of layers, each `relu(x @ weight.T)`. `layer_to_blame(weights, rounded, x)` gets the weights in floats and rounded, in order, and inputs of the first layer. It hands back the cause and the number of the layer (0 is the first) that is most wrong. A layer's error is taken on inputs that are right, before its ReLU: the squared error of all outputs over their squared size. Outputs (3, 4) that became (3, 3) are wrong by 1/25.


# %% nbgrader={"grade": false, "grade_id": "clinic-layer_to_blame", "locked": false, "schema_version": 3, "solution": true, "task": false}
def layer_to_blame(weights, rounded, x):
    """Matrices [outputs, inputs] in order, twice, and float32 [n, inputs]
    -> cause, a layer's number."""
    ### BEGIN SOLUTION
    errors = []
    for weight, other in zip(weights, rounded, strict=True):
        right = x @ weight.T
        wrong = x @ other.T - right
        errors.append((wrong**2).sum() / (right**2).sum())
        x = np.maximum(right, 0)
    return "outlier", int(np.argmax(errors))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "clinic-layer_to_blame-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(layer_to_blame, "clinic.layer_to_blame")

# %%
layer_to_blame = adopt(layer_to_blame, "clinic.layer_to_blame")


def loud_weight(weights, rounded, x):
    """What a first look would say: the layer with the largest weight."""
    return int(np.argmax([np.abs(weight).max() for weight in weights]))


caught = {"the outputs' errors": 0, "the largest weight": 0}
for _ in range(40):
    ill_one, loud, decoy = 1, 2, 3
    chain = ill_chain(generator, (24, 18, 22, 16, 20), ill_one, loud, decoy)
    caught["the outputs' errors"] += layer_to_blame(*chain)[1] == ill_one
    caught["the largest weight"] += loud_weight(*chain) == ill_one
claim(
    "The outputs' errors find the layer in more chains than the largest weight does, by more "
    "than half of them",
    (caught["the outputs' errors"] - caught["the largest weight"]) / 40 - 0.5,
    "of the chains",
)
Table(
    ["chains of four layers, one of them ill", "found, of 40"],
    [[name, str(count)] for name, count in caught.items()],
)

# %% [markdown]
# ## 4 · Right weights, wrong products
#
# > "I round my weights with a scale for each channel, and they come back almost unchanged. But the product of the integers, times the scales, is nonsense. The shapes fit!"

# %%
sizes = 2.0 ** generator.integers(-3, 4, (1, 64))
square = (generator.normal(0, 1, (64, 64)) * sizes).astype(np.float32)
patients_scale = np.abs(square).max(axis=0) / 127
patients_codes = np.round(square / patients_scale)
whole_numbers = generator.integers(-127, 128, (20, 64)).astype(np.float32)
right_product = whole_numbers @ square.T
patients_product = (whole_numbers @ patients_codes.T) * patients_scale


def nearness(wanted, found):
    """Decibels of two arrays."""
    return float(sqnr_db(torch.from_numpy(wanted), torch.from_numpy(found.astype(np.float32))))


Table(
    ["a layer with 64 inputs and 64 outputs", "dB"],
    [
        ["weights and back", f"{nearness(square, patients_codes * patients_scale):.1f}"],
        ["product", f"{nearness(right_product, patients_product):.1f}"],
    ],
)

# %% [markdown]
# An output is $y_o=\sum_i x_i\,w_{oi}$. If $w_{oi}=s_o\,c_{oi}$, the scale stands in front of the sum, and the sum is of integers. If $w_{oi}=s_i\,c_{oi}$, it cannot leave the sum: the scales of 64 inputs were multiplied with 64 outputs here, which NumPy does gladly.
#
# ### Exercise 4 · Right weights, wrong products (build, 3 points, about 3 lines)
#
# `channel_rounding(weight, bits)` hands back the cause and the weight, rounded and multiplied back, with the scale that a product needs: the largest magnitude over $2^{bits-1}-1$. For matrices [outputs, inputs] and convolutions [outputs, inputs, height, width].


# %% nbgrader={"grade": false, "grade_id": "clinic-channel_rounding", "locked": false, "schema_version": 3, "solution": true, "task": false}
def channel_rounding(weight, bits):
    """float32 [outputs, ...], bits -> cause, float32 of the same shape."""
    ### BEGIN SOLUTION
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
    scale = np.where(largest > 0, largest, 1) / (2 ** (bits - 1) - 1)
    return "axis", (np.round(weight / scale) * scale).astype(np.float32)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "clinic-channel_rounding-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(channel_rounding, "clinic.channel_rounding")

# %%
channel_rounding = adopt(channel_rounding, "clinic.channel_rounding")
mended_product = whole_numbers @ channel_rounding(square, 8)[1].T
products = {
    "scales along the inputs": nearness(right_product, patients_product),
    "scales along the outputs": nearness(right_product, mended_product),
}
claim(
    "With scales along the outputs the product is more than 15 dB nearer",
    products["scales along the outputs"] - products["scales along the inputs"] - 15,
    "dB",
)
Table(["product of integers", "dB"], [[n, f"{near:.1f}"] for n, near in products.items()])

# %% [markdown]
# Had the layer had another number of inputs than of outputs, NumPy would have refused. Faults of this kind hide in square layers, and in tests that use them: test with odd shapes.
#
# ## 5 · Cannot reshape
#
# > "Groups of 32 work for all my layers but one: `ValueError: cannot reshape array`. I cut the weight to a length that divides, and now the shapes of the next layer do not fit."

# %%
spread = 2.0 ** generator.integers(-2, 3, (64, 100))
odd = (generator.normal(0, 1, (64, 100)) * spread).astype(np.float32)
try:
    odd.reshape(64, -1, 32)
except ValueError as error:
    print(f"ValueError: {error}")

# %% [markdown]
# ### Exercise 5 · Cannot reshape (build, 3 points, about 6 lines)
#
# `grouped_rounding(weight, group, bits)` hands back the cause and the weight rounded with a scale for each `group` inputs of a row, from the first on; the last group of a row has what is left. A scale is the largest magnitude over $2^{bits-1}-1$. For (4, 1, 8, 2, 6) and groups of 2 the largest magnitudes are 4, 8 and 6.


# %% nbgrader={"grade": false, "grade_id": "clinic-grouped_rounding", "locked": false, "schema_version": 3, "solution": true, "task": false}
def grouped_rounding(weight, group, bits):
    """float32 [rows, columns], columns in a group, bits -> cause, float32 of the same shape."""
    ### BEGIN SOLUTION
    out = np.empty_like(weight)
    for start in range(0, weight.shape[1], group):
        part = weight[:, start : start + group]
        largest = np.abs(part).max(axis=1, keepdims=True)
        scale = np.where(largest > 0, largest, 1) / (2 ** (bits - 1) - 1)
        out[:, start : start + group] = np.round(part / scale) * scale
    return "group", out
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "clinic-grouped_rounding-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(grouped_rounding, "clinic.grouped_rounding")

# %%
grouped_rounding = adopt(grouped_rounding, "clinic.grouped_rounding")
ways = {"groups of 32, the last of 4": 32, "one scale a row": 100}
by_group = {
    name: nearness(odd, grouped_rounding(odd, size, 4)[1]) for name, size in ways.items()
}
claim(
    "Groups are more than half a decibel finer than rows",
    by_group["groups of 32, the last of 4"] - by_group["one scale a row"] - 0.5,
    "dB",
)
Table(["4 bits, 100 inputs", "dB"], [[n, f"{near:.1f}"] for n, near in by_group.items()])

# %% [markdown]
# ## 6 · It was better before it was calibrated
#
# > "I ran my 256 calibration images through the network, eight at a time, to see the range of its outputs. Under `torch.no_grad()`, of course. Since then the float network itself is worse, although I have trained nothing."
#
# The patient's images were the first 256 of a folder that is sorted by class: all of one class. And the network was as the training loop had left it.

# %%
calibration_guess = predict(
    "Calibrating changes no weight. What it did to this network costs:",
    ["nothing", "less than a point", "two to five points", "more than five points"],
)

# %%
one_class = data.train.x[data.train.y == data.train.y[0]][:256]
mixed = data.train.x[:256]


@torch.no_grad()
def patients_range(network, batches):
    return max(float(network(part).abs().max()) for part in batches)


def points_lost(images, size, training=True):
    """Of each network, by looking at images in batches of a size."""
    lost = []
    for network in networks:
        patient = copy.deepcopy(network).train(training)
        patients_range(patient, images.split(size))
        lost.append(evaluate(network, data.test) - evaluate(patient, data.test))
    return lost


lost = {
    "one class, eight at a time": points_lost(one_class, 8),
    "all classes, eight at a time": points_lost(mixed, 8),
    "one class, 256 at once": points_lost(one_class, 256),
    "one class, in evaluation mode": points_lost(one_class, 8, training=False),
}
Table(
    ["what was looked at", *(f"points lost, seed {seed}" for seed in SEEDS)],
    [[name, *(f"{p:.1f}" for p in points)] for name, points in lost.items()],
)

# %%
per_class = [points_lost(data.train.x[data.train.y == k][:256], 8) for k in range(5)]
least = min(map(min, per_class))
steps = (5, "more than five points"), (1, "two to five points"), (0.05, "less than a point")

# %%
calibration_guess.reveal(next((text for limit, text in steps if least > limit), "nothing"))
claim(
    "Calibrated in training mode on one class, the networks lose more than five points, five "
    "classes on average",
    float(np.mean(per_class)) - 5,
    "points",
)
claim(
    "On mixed images the same fault costs less than a point",
    1 - max(lost["all classes, eight at a time"]),
    "points",
)

# %% [markdown]
# The second row is why the fault is found late: on images of all classes it does almost nothing.
#
# ### Exercise 6 · It was better before it was calibrated (build, 3 points, about 5 lines)
#
# `calibrated_range(network, batches)` hands back the cause and the largest magnitude (a float) of the network's output over all batches, as the deployed network will give it. Afterwards the network is as it came: its statistics, and whether each of its modules was in training mode.


# %% nbgrader={"grade": false, "grade_id": "clinic-calibrated_range", "locked": false, "schema_version": 3, "solution": true, "task": false}
def calibrated_range(network, batches):
    """A torch module, tensors [n, inputs] -> cause, float."""
    ### BEGIN SOLUTION
    still = copy.deepcopy(network).eval()
    with torch.no_grad():
        return "batch", max(float(still(x).abs().max()) for x in batches)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "clinic-calibrated_range-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(calibrated_range, "clinic.calibrated_range")

# %%
calibrated_range = adopt(calibrated_range, "clinic.calibrated_range")
once_more = copy.deepcopy(networks[0]).train()
answer_range = calibrated_range(once_more, one_class.split(8))[1]
claim(
    "Calibrated in evaluation mode it loses nothing",
    evaluate(once_more, data.test) == evaluate(networks[0], data.test),
)
print(f"largest output: {answer_range:.1f}")

# %% [markdown]
# A batch norm (批归一化) in training mode takes the batch's statistics, and moves its own towards them at every call, gradients or not. Whatever only looks at a network has to be in evaluation mode, and to leave the mode as it was.
#
# ## 7 · Missing keys, unexpected keys
#
# > "I trained on two cards, pruned with torch, and saved the state dict (状态字典). Loading fails with a page of missing and unexpected keys. With `strict=False` it loads! But then the network guesses."

# %%
small = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
wrapped = nn.ModuleDict({"module": copy.deepcopy(small)})
for part in (wrapped["module"][0], wrapped["module"][2]):
    prune.l1_unstructured(part, "weight", 0.5)
state = {name: value.numpy() for name, value in wrapped.state_dict().items()}
fresh = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
try:
    fresh.load_state_dict({n: torch.from_numpy(v) for n, v in state.items()})
except RuntimeError as error:
    print(error)

# %% [markdown]
# ### Exercise 7 · Missing keys, unexpected keys (build, 3 points, about 8 lines)
#
# `plain_state(state)` hands back the cause and a dictionary as an unwrapped, finished network has it. A name may *begin* with `module.` (torch's `DataParallel`), with `_orig_mod.` (`torch.compile`), or with both, in either order. Where torch has pruned `weight`, there are `weight_orig` and `weight_mask`, and the weight is their product.


# %% nbgrader={"grade": false, "grade_id": "clinic-plain_state", "locked": false, "schema_version": 3, "solution": true, "task": false}
def plain_state(state):
    """Arrays by name -> cause, arrays by name."""
    ### BEGIN SOLUTION
    found = {}
    for name, value in state.items():
        while name.startswith(("module.", "_orig_mod.")):
            name = name.split(".", 1)[1]
        found[name] = value
    for name in [n for n in found if n.endswith("_orig")]:
        plain = name.removesuffix("_orig")
        found[plain] = found.pop(name) * found.pop(plain + "_mask")
    return "names", found
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "clinic-plain_state-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(plain_state, "clinic.plain_state")

# %%
plain_state = adopt(plain_state, "clinic.plain_state")
fresh.load_state_dict({n: torch.from_numpy(v) for n, v in plain_state(state)[1].items()})
some = torch.from_numpy(generator.normal(0, 1, (5, 16)).astype(np.float32))
with torch.no_grad():
    before_saving, after_loading = wrapped["module"](some), fresh(some)
claim("Loaded strictly, it gives the same answers", torch.equal(before_saving, after_loading))

# %% [markdown]
# `strict=False` says "load what fits, and do not tell me what did not". Every layer's weight stayed as it was drawn, so the network guessed.
#
# ## 8 · Not positive definite
#
# > "With 1,000 images GPTQ ran through my network. I may keep only 100 of them, and now it stops at the first layer: `LinAlgError: Matrix is not positive definite` (正定)."

# %%
pixels = data.train.x[:100, 0].flatten(1).double().numpy()
matrix_of_products = pixels.T @ pixels
try:
    np.linalg.cholesky(matrix_of_products)
except np.linalg.LinAlgError as error:
    print(f"LinAlgError: {error}")
eigenvalues = np.linalg.eigvalsh(matrix_of_products)[::-1]
figure, axes = plt.subplots(figsize=(7, 2.6))
axes.semilogy(np.maximum(eigenvalues, 1e-14), ".", color="#0072B2", label="eigenvalues")
axes.axvline(100, color="#D55E00", linestyle="--", label="100 images")
axes.set(xlabel="eigenvalues of the inputs' products, in order", ylabel="size (0: at 10⁻¹⁴)")
axes.legend()
plt.show()
more_pixels = data.train.x[:1000, 0].flatten(1).double().numpy()
more = np.linalg.eigvalsh(more_pixels.T @ more_pixels)[::-1]
Table(
    ["", "100 images", "1,000 images"],
    [
        ["pixels", str(len(eigenvalues)), str(len(more))],
        [
            "eigenvalues below a billionth of the largest",
            *(str(int((v < 1e-9 * v[0]).sum())) for v in (eigenvalues, more)),
        ],
        [
            "pixels that are 0 in every image",
            *(str(int((p == 0).all(0).sum())) for p in (pixels, more_pixels)),
        ],
    ],
)

# %% [markdown]
# ### Exercise 8 · Not positive definite (build, 3 points, about 5 lines)
#
# `damped_factor(x, damping)` hands back the cause and the lower Cholesky factor (`np.linalg.cholesky`) of $H=X^\top X$, after two repairs in this order: an input that is always 0 (here there is none, elsewhere there are) gets 1 on the diagonal, as GPTQ's published code does, and then `damping` times the mean of the diagonal is added to all of the diagonal. With a diagonal of (0, 9) and a damping of 0.1 it becomes (1.5, 9.5).


# %% nbgrader={"grade": false, "grade_id": "clinic-damped_factor", "locked": false, "schema_version": 3, "solution": true, "task": false}
def damped_factor(x, damping):
    """float64 [examples, inputs], a share -> cause, float64 [inputs, inputs]."""
    ### BEGIN SOLUTION
    matrix = x.T @ x
    silent = np.diag(matrix) == 0
    matrix[silent, silent] = 1
    matrix += damping * np.diag(matrix).mean() * np.eye(len(matrix))
    return "singular", np.linalg.cholesky(matrix)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "clinic-damped_factor-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(damped_factor, "clinic.damped_factor")

# %%
damped_factor = adopt(damped_factor, "clinic.damped_factor")
factor = damped_factor(pixels, 0.01)[1]
smallest = float(np.linalg.eigvalsh(factor @ factor.T).min())
claim(
    "Damped, the smallest eigenvalue is more than a millionth of the largest",
    np.log10(smallest / eigenvalues[0]) + 6,
    "decades",
)

# %% [markdown]
# 100 images span at most 100 directions: of the 256 eigenvalues more than half *must* be 0, and what is drawn there is rounding. More images help, unless an input is always 0; damping helps always.
#
# ## 9 · The student learns nothing from its teacher
#
# > "Distillation gives exactly what labels alone give. To the last digit, with every seed. I use the loss of the paper, a tenth of labels and nine tenths of teacher. I have tested `soft`: its numbers are right."


# %%
def soft(student, teacher, temperature=4.0):
    """How far the student is from the teacher, whose answers stay as they are."""
    said = F.log_softmax(student / temperature, dim=1)
    wanted = F.softmax(teacher.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(said, wanted, reduction="batchmean")


def patients_loss(student, teacher, y):
    return 0.1 * F.cross_entropy(student, y) + 0.9 * soft(teacher, student)


first_look = predict(
    "What would you look at first?",
    [
        "the loss, step by step",
        "the gradient for the student's answers",
        "the loss at another temperature",
        "twice as many epochs",
    ],
)

# %%
answers, teachers = (
    torch.from_numpy(generator.normal(0, 2, (6, 10)).astype(np.float32)) for _ in range(2)
)
labels = torch.from_numpy(generator.integers(0, 10, 6))


def gradient(loss):
    """Of a loss, for the student's answers."""
    student = answers.clone().requires_grad_()
    loss(student).backward()
    return student.grad


of_both = gradient(lambda s: patients_loss(s, teachers, labels))
of_labels = gradient(lambda s: 0.1 * F.cross_entropy(s, labels))

# %%
first_look.reveal("the gradient for the student's answers")
claim("The patient's gradient is that of the labels alone", torch.equal(of_both, of_labels))

# %%
Table(
    ["gradient for the student's answers", "size"],
    [
        ["the patient's loss", f"{of_both.norm():.4f}"],
        ["a tenth of the labels' loss", f"{of_labels.norm():.4f}"],
    ],
)

# %% [markdown]
# A loss is a number, and this one falls while the labels are learned. Its *gradient* says what is learned from. The divergence (散度) is
#
# $$T^2\sum_c p_c\,(\log p_c-\log q_c)$$
#
# with the teacher's softened answers $p$, which stay as they are, and the student's $q$, which are to move.
#
# ### Exercise 9 · The student learns nothing from its teacher (build, 3 points, about 3 lines)
#
# `soft_loss(student, teacher, temperature)` hands back the cause and that number, a tensor with a gradient for the student: the mean over examples. Both are logits, as tensors; the teacher's get no gradient.


# %% nbgrader={"grade": false, "grade_id": "clinic-soft_loss", "locked": false, "schema_version": 3, "solution": true, "task": false}
def soft_loss(student, teacher, temperature):
    """Tensors [n, classes] twice, a temperature -> cause, a tensor of one number."""
    ### BEGIN SOLUTION
    said = F.log_softmax(student / temperature, dim=1)
    wanted = F.softmax(teacher.detach() / temperature, dim=1)
    divergence = F.kl_div(said, wanted, reduction="batchmean")
    return "direction", temperature**2 * divergence
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "clinic-soft_loss-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(soft_loss, "clinic.soft_loss")

# %%
soft_loss = adopt(soft_loss, "clinic.soft_loss")
of_teacher = gradient(lambda s: soft_loss(s, teachers, 4.0)[1])
towards = F.softmax(answers / 4, dim=1) - F.softmax(teachers / 4, dim=1)
claim(
    "Its gradient is T / n times the difference of the softened answers",
    agreement(of_teacher, 4 / 6 * towards, rtol=1e-3, atol=1e-5),
    "tolerances",
)
temperatures = (1.0, 2.0, 4.0, 8.0, 16.0)
with_square = [
    float(gradient(lambda s, t=t: soft_loss(s, teachers, t)[1]).norm()) for t in temperatures
]
without = [size / t**2 for size, t in zip(with_square, temperatures, strict=True)]
Table(
    ["size of the gradient", *(f"T = {t:g}" for t in temperatures)],
    [
        ["with T²", *(f"{v:.3f}" for v in with_square)],
        ["without", *(f"{v:.4f}" for v in without)],
    ],
)

# %% [markdown]
# ## 10 · Better in the notebook than outside
#
# > "I compressed my network in thirty ways and kept the best: on the test set it beats the float network clearly. In production it does not, week after week. Is production different?"
#
# Before you look for a difference, look at thirty networks that are all equally good.

# %%
luck_guess = predict(
    "Thirty networks, each right on 90 % of all images there are. On 500 test images, the "
    "best of them shows about:",
    ["90 %", "92.5 %", "95 %", "98 %"],
)

# %%
TRUE, IMAGES, CANDIDATES = 90.0, 500, 30
draws = generator.binomial(IMAGES, TRUE / 100, (400, 2, CANDIDATES)) * 100 / IMAGES
on_validation, on_test = draws[:, 0], draws[:, 1]
shown_best = on_test.max(axis=1)
places = np.arange(84.9, 96, 0.4)
figure, axes = plt.subplots(figsize=(7, 2.6))
for values, colour, name in (
    (on_test.ravel(), "#0072B2", "each of the thirty"),
    (shown_best, "#D55E00", "the best of them"),
):
    axes.hist(values, bins=places, density=True, alpha=0.6, color=colour, label=name)
axes.set(xlabel="accuracy on 500 test images, %", ylabel="density")
axes.legend()
plt.show()

# %%
seems = float(shown_best.mean())

# %%
luck_guess.reveal(
    next(
        text for limit, text in ((91, "90 %"), (93.7, "92.5 %"), (101, "95 %")) if seems < limit
    )
)
claim(
    "The best of thirty equal networks seems more than a point better than it is",
    seems - TRUE - 1,
    "points",
)

# %% [markdown]
# ### Exercise 10 · Better in the notebook than outside (build, 3 points, about 2 lines)
#
# `chosen_network(validation, test)` gets the accuracies of all candidates on validation and on test images. It hands back the cause and `(number, accuracy)`: which network you keep (of equals the first), and the figure that you may report.


# %% nbgrader={"grade": false, "grade_id": "clinic-chosen_network", "locked": false, "schema_version": 3, "solution": true, "task": false}
def chosen_network(validation, test):
    """float64 [candidates] twice -> cause, (int, float)."""
    ### BEGIN SOLUTION
    best = int(np.argmax(validation))
    return "leak", (best, float(test[best]))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "clinic-chosen_network-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(chosen_network, "clinic.chosen_network")

# %%
chosen_network = adopt(chosen_network, "clinic.chosen_network")
honest = [chosen_network(v, t)[1][1] for v, t in zip(on_validation, on_test, strict=True)]
claim(
    "Chosen by validation images, it is reported within half a point of what it is, on average",
    0.5 - abs(float(np.mean(honest)) - TRUE),
    "points",
)
Table(
    ["thirty equal networks, each right on 90 %", "reported, %"],
    [
        ["the best on test images", f"{seems:.2f}"],
        ["the best on validation images, on test images", f"{np.mean(honest):.2f}"],
    ],
)

# %% [markdown]
# This is data leakage (数据泄漏) without an image of the one set in the other: the *choice* carries it. It grows with the number of candidates and shrinks with the number of images, and a long search (labs 07 and 12) has many candidates.

# %% [markdown]
# ### Exercise 11 · The ward (open, 3 points, about 30 lines)
#
# An *open* exercise has no right answer: what you hand back is measured, here and again while grading, on numbers that your code does not see. Two hundred and forty quantized layers, and nobody says what they have. Of each you know the inputs, the float
# weight and bias, and what the quantized layer put out, with a little noise of its runtime. A healthy layer has 6 bits a weight and 8 bits an input:
#
# - weight codes $q_w = \mathrm{round}(W / s_w)$ with $s_w = \max |\text{row}| / 31$, one scale for each output;
# - input codes $q_x = \mathrm{round}(x / s_x) + z$ from 0 to 255, with $s_x = (\max x - \min x) / 255$ and $z = \mathrm{round}(-\min x / s_x)$, over all inputs at once (0 is always in the range);
# - outputs $s_w s_x \sum (q_x - z) q_w + b$.
#
# Name the fault by its number: 0 healthy; 1 one scale for all outputs; 2 inputs clipped (the range is 0.4 to 0.9 of what it should be); 3 the zero point left out; 4 the bias left out; 5 input codes read as
# signed bytes (above 127, 256 too few), the zero point unchanged; 6 the outputs' scales in another order; 7 a norm folded with the statistics of another batch: every output has a factor and an offset of
# its own. Bronze is above the size of the error, silver above the faults that leave nothing to choose, gold is what simulating all of them reached.
#
# `patients` is a tuple of (x float32 [samples, inputs], weight float32 [outputs, inputs], bias float32 [outputs], seen float32 [samples, outputs]).


# %% nbgrader={"grade": false, "grade_id": "clinic-diagnose", "locked": false, "schema_version": 3, "solution": true, "task": false}
def diagnose(patients):
    """Tuple of (x, weight, bias, seen) -> int64 [patients]: the fault of each, 0 to 7."""

    ### BEGIN SOLUTION
    def put_out(
        x, weight, bias, clip=1.0, zero_point=True, signed=False, scale=None, one=False
    ):
        largest = np.abs(weight).max(1)
        step_w = (np.full(len(weight), largest.max()) if one else largest) / 31
        codes = np.rint(weight / step_w[:, None])
        low, high = clip * min(0.0, x.min()), clip * max(0.0, x.max())
        step = (high - low) / 255
        zero = np.rint(-low / step)
        inputs = np.clip(np.rint(x / step) + zero, 0, 255)
        inputs = inputs - 256 * (inputs > 127) if signed else inputs
        sums = (inputs - zero * zero_point) @ codes.T
        return sums * (step_w if scale is None else scale) * step + bias

    def candidates(x, weight, bias, seen):
        """Every fault, brought about on purpose; what is unknown about it is tried or
        fitted."""
        healthy = put_out(x, weight, 0 * bias)
        yield 0, healthy + bias
        yield 1, put_out(x, weight, bias, one=True)
        for clip in np.arange(0.35, 0.96, 0.05):
            yield 2, put_out(x, weight, bias, clip=clip)
        yield 3, put_out(x, weight, bias, zero_point=False)
        yield 4, healthy
        yield 5, put_out(x, weight, bias, signed=True)
        scale = np.abs(weight).max(1) / 31
        wanted = scale * (healthy * (seen - bias)).sum(0) / (healthy**2).sum(0)
        moved = np.empty_like(scale)
        moved[wanted.argsort()] = np.sort(scale)
        if (moved != scale).mean() > 0.5:
            yield 6, put_out(x, weight, bias, scale=moved)
        a, b = healthy - healthy.mean(0), seen - seen.mean(0)
        factor = (a * b).sum(0) / (a**2).sum(0)
        if np.abs(factor - 1).mean() > 0.05:
            # What is fitted follows the noise as well: it must be clearly better.
            yield 7, seen + 1.05 * (factor * a - b)

    found = []
    for patient in patients:
        errors = [
            (np.square(output - patient[3]).mean() ** 0.5 * (0.97 if fault == 0 else 1), fault)
            for fault, output in candidates(*patient)
        ]
        found.append(min(errors)[1])
    return np.array(found)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "clinic-diagnose-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(diagnose, "clinic.diagnose")

# %%
diagnose = adopt(diagnose, "clinic.diagnose")

# %% [markdown]
# ## What the papers say, what we measured
#
# The networks, data and machines of the papers are others than ours: compare directions and sizes, not digits.

# %%
Table(
    ["finding", "source", "there", "here"],
    [
        [
            "damping of GPTQ's matrix",
            "Frantar et al. 2022, section 3.3",
            "1 % of the mean of the diagonal",
            f"that too: smallest eigenvalue {max(eigenvalues.min(), 0):.0e} before, "
            f"{smallest:.1e} after",
        ],
        [
            "T² in front of the softened loss",
            "Hinton et al. 2015, section 2",
            "gradients shrink as 1 / T²",
            f"from T = 4 to 16 it shrinks by {without[2] / without[4]:.1f}, with T² by "
            f"{with_square[2] / with_square[4]:.1f}",
        ],
        [
            "one large value",
            "Dettmers et al. 2022, section 4 (inputs of layers)",
            "few outliers decide what int8 costs",
            f"{whole_loss:.0f} points by one weight",
        ],
    ],
    text_columns=2,
)

# %% [markdown] nbgrader={"grade": true, "grade_id": "written-clinic_written", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# ## Written question (2 points)
#
# Choose a fault that raises no error, of this lab or one that you have met. Write it as a letter of three sentences, as a user would, without the cause. Then: what you would measure first, which two causes that measurement tells apart, and an assertion of one line that would have found it on the first day.
#
# *Your answer (double-click here to write it):*

# %% [markdown]
# ## Recap
#
# - Faults that raise no error are found by a control: the same thing with the step left out, the layer alone, the gradient without the term.
# - Name the cause before you mend. `strict=False` and a shorter weight make the message go away, and the fault stays.
# - **Do not** test with square layers, with sorted images, or on the set that you choose by.
# - Instruments: `cl.inspect` before, `cl.debug` after, `race` for time, the bytes of the file for size, gradients for what is learned.
#
# **Back:** [Lab 13 · Real networks, and yours](13_real_networks.ipynb) · **Next:** [Lab 15 · A language model of today](15_language_models_today.ipynb)
#
# **References.** Frantar et al. 2022, *GPTQ*, arXiv:2210.17323 · Hinton et al. 2015, *Distilling the knowledge in a neural network*, arXiv:1503.02531 · Dettmers et al. 2022, *LLM.int8()*, arXiv:2208.07339 · Ioffe and Szegedy 2015, *Batch normalization*, arXiv:1502.03167 · Nagel et al. 2021, *A white paper on neural network quantization*, arXiv:2106.08295
