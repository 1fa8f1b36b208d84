# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Lab 09 · Distilling transformers
#
# **You will** halve a small BERT, narrow it, let easy examples leave it early, and turn it into a recurrent network; each against its control.
# **Time:** 115 minutes to work through; it runs in one to three minutes, by processor.
#
# Four recipes made BERT small: DistilBERT, TinyBERT, FastBERT, and BERT to BiLSTM. Their papers began with BERT-base's 110 million parameters (the last with BERT-large). Here the teacher
# has some 0.37 million, and the task is one whose data every Python carries: *which keyword was here?* A window of 24 tokens
# around a masked Python keyword; which of 24 keywords was it? `<name>` stands for a name outside the vocabulary, `<line 2>` for a
# new line with indentation 2.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from compresslab import pretrained, published
from compresslab.data import keywords, sst2

# %%
from compresslab.data.text import Sequences
from compresslab.lab import (
    Batch,
    Hook,
    Table,
    accuracy,
    adopt,
    agreement,
    begin,
    built,
    check,
    claim,
    compared,
    cross_entropy,
    disk_bytes,
    evaluate,
    explore,
    fit,
    fit_all,
    in_bytes,
    in_units,
    logits,
    mean_sd,
    models,
    predict,
    race_networks,
    seed_everything,
    use_style,
)
from compresslab.techniques import distill, early_exit, inherit

# %%
use_style()
SEEDS = begin()
data = keywords.load(train_size=1500, seed=SEEDS[0])
teacher = pretrained.keyword_teacher()
print(data)
print(f"teacher: {len(teacher.layers)} layers, made with {pretrained.facts()}")
for row in data.test.x[:3]:
    print("\n", data.text(row))

# %% [markdown]
# The teacher (a transformer encoder, 编码器; `compresslab checkpoint keywords` makes it) was trained on all windows of the training files; validation and test come from other files. The students have 1,500 of those windows.
#
# ## A hook: what do the layers do?
#
# A *token* is a word or a sign, its *embedding* (词嵌入) a learned vector. Every layer *adds* to these vectors, the *states*. In its
# *attention* (注意力) each token makes a query Q and a key K of d numbers; $QK^T/\sqrt d$ says how much it looks at every other
# token; several such *attention heads* work side by side. A small *classifier* on the state of the mask gives the answer. Since
# layers only add, the teacher's own classifier can read the states behind any layer, untrained for it.

# %%
depth_guess = predict(
    "The classifier is put behind layer 3 of 6, and nothing is trained. It keeps of the "
    "teacher's accuracy:",
    ["hardly more than guessing", "about half", "all but 10 points", "all but 3 points"],
)

# %%
by_depth = []
with torch.no_grad():
    states, nothing = teacher.embed(data.test.x)
    for layer in teacher.layers:
        states = layer(states, nothing)
        right = teacher.classify(states, nothing).argmax(1) == data.test.y
        by_depth.append(100 * float(right.double().mean()))
figure, axes = plt.subplots(figsize=(6.5, 2.8))
axes.plot(range(1, 7), by_depth, marker="o")
axes.axhline(
    100 * float(data.test.y.bincount().max()) / len(data.test.y),
    color="0.5",
    ls=":",
    label="the most frequent keyword",
)
axes.legend()
axes.set(xlabel="layers passed before the classifier", ylabel="test accuracy, %", ylim=(0, 100))
plt.show()
full = by_depth[-1]
lost = full - by_depth[2]

# %%
depth_guess.reveal(
    "all but 3 points"
    if lost < 3
    else "all but 10 points"
    if lost < 10
    else "about half"
    if lost < full * 0.6
    else "hardly more than guessing"
)
claim(
    "Half of the layers do nearly all of the work: 3 of 6 lose less than 3 points",
    3 - lost,
    "points",
)
claim("The first layer alone does not", full - 10 - by_depth[0], "points")

# %% [markdown]
# ## 1 · Half of the layers: DistilBERT
#
# DistilBERT (Sanh et al. 2019) keeps the width and begins with every second layer of the teacher. (In the paper it then reads ordinary text, with labels that the text gives; here it goes straight to the task, and the teacher's answers replace the labels.)
#
# ### Exercise 1 · Which layers (1 point, about 1 line)
#
# The teacher's layers are cut into as many parts as the student has layers, as evenly as whole numbers allow (part i begins at i · teacher / student, rounded down); the student gets the first layer of each. Layers are counted from 0.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def inherited_layers_spec(student, teacher):
#     chosen = []
#     for layer in range(teacher):
#         begins = [part * teacher // student == layer for part in range(student)]
#         if any(begins):
#             chosen.append(layer)
#     return chosen
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "transformers-inherited_layers", "locked": false, "schema_version": 3, "solution": true, "task": false}
def inherited_layers(student, teacher):
    """Two numbers of layers, student <= teacher -> list of `student` numbers."""
    ### BEGIN SOLUTION
    return [i * teacher // student for i in range(student)]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "transformers-inherited_layers-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(inherited_layers, "transformers.inherited_layers")

# %% [markdown]
# Beside soft targets, the student's last states are to point where the teacher's point. Sentences are padded (填充) to one length with token 0, and what a network thinks of padding is nobody's business.
#
# ### Exercise 2 · The same direction (2 points, about 4 lines)
#
# The mean of 1 − cos(student, teacher) over all places of the batch whose token is not 0 (the mask and unknown words count). The cosine (余弦) of two vectors is their dot product over the product of their lengths.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def token_cosine_spec(student, teacher, tokens):
#     found = []
#     for sentence in range(len(tokens)):
#         for place in range(tokens.shape[1]):
#             if tokens[sentence, place] != 0:
#                 s, t = (
#                     v[sentence, place].astype(float) for v in (student, teacher)
#                 )
#                 found.append(1 - sum(s * t) / (sum(s * s) * sum(t * t)) ** 0.5)
#     return float(np.mean(found))
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "transformers-token_cosine", "locked": false, "schema_version": 3, "solution": true, "task": false}
def token_cosine(student, teacher, tokens):
    """float32 [n, length, width] twice, int64 [n, length] -> a float."""
    ### BEGIN SOLUTION
    s, t = (v[tokens != 0].astype(np.float64) for v in (student, teacher))
    lengths = np.linalg.norm(s, axis=1) * np.linalg.norm(t, axis=1)
    return float(1 - ((s * t).sum(1) / lengths).mean())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "transformers-token_cosine-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(token_cosine, "transformers.token_cosine")

# %%
inherited_layers = adopt(inherited_layers, "transformers.inherited_layers")
token_cosine = adopt(token_cosine, "transformers.token_cosine")


def words(batch):
    """True where there is a word."""
    return batch.x != 0


x = data.test.x[:200]
with torch.no_grad(), distill.Tap(teacher, ["layers.2", "layers.5"]) as found:
    teacher(x)
mine = token_cosine(found["layers.2"].numpy(), found["layers.5"].numpy(), x.numpy())
theirs = distill.FEATURES["cosine"](
    *(distill.kept(f.transpose(1, 2), x != 0) for f in found.values())
)
claim(
    "The library's cosine loss, on which the students below train, is yours",
    agreement(mine, float(theirs), atol=1e-4),
    "tolerances",
    yours=token_cosine,
)

# %% [markdown]
# Students of three layers: random weights, with labels or with the teacher's answers and states; the teacher's layers, with labels, with its answers, or with both answers and states, the whole recipe. Beside them, other layers to begin with.

# %%
inherit_guess = predict(
    "Which does more for a student of three layers and 1,500 examples?",
    [
        "the teacher's answers and states",
        "the teacher's layers to begin with",
        "both about the same",
    ],
)

# %%
EPOCHS = {"random": 4, "inherited": 2}
answers = distill.cached(teacher, data.train.x)
half = {"width": 64, "layers": 3}


# The teacher's answers alone, without labels, at temperature 1.
soft = distill.Distillation(answers, alpha=0.0, temperature=1.0)


# %%
def answers_and_direction():
    return distill.Hints(
        teacher, {"layers.2": "layers.5"}, soft, "cosine", keep=words, cached_on=data.train.x
    )


def begun_with(layers):
    return lambda: inherit.inherit(pretrained.keyword_encoder(**half), teacher, layers)


def from_scratch():
    return pretrained.keyword_encoder(**half)


def fitted(make, loss, label, sentences=data.train, epochs=5, rate=0.004, in_turn=False):
    """One student for each seed; a loss that keeps a state comes as a function that makes
    one."""
    losses = [loss() if callable(loss) and not isinstance(loss, Hook) else loss for _ in SEEDS]
    return fit_all(
        built(make, SEEDS),
        *(sentences, epochs, rate),
        seeds=SEEDS,
        label=label,
        batch_size=64,
        loss=[lesson or cross_entropy for lesson in losses],
        hooks=lambda index: [losses[index]] if losses[index] else [],
        optimizer=lambda n: torch.optim.AdamW(n.parameters(), rate, weight_decay=0.05),
        in_turn=in_turn,
    )


# %%
def mean_and_sd(networks):
    return accuracy(networks, data.test)


every_second = inherited_layers(3, 6)
recipes = {
    "random start, labels": (from_scratch, None, "random"),
    "random start, answers and direction": (from_scratch, answers_and_direction, "random"),
    "every second layer, labels": (begun_with(every_second), None, "inherited"),
    "every second layer, answers": (begun_with(every_second), soft, "inherited"),
    "every second layer, answers and direction": (
        begun_with(every_second),
        answers_and_direction,
        "inherited",
    ),
}
RATES = {"random": 0.004, "inherited": 0.001}
halves = {
    name: fitted(build, loss, name, epochs=EPOCHS[start], rate=RATES[start])
    for name, (build, loss, start) in recipes.items()
}
reached = {name: mean_and_sd(found) for name, found in halves.items()}
untrained = {
    "every second layer": begun_with(every_second)(),
    "the first three layers": begun_with([0, 1, 2])(),
    "layers 0, 3 and 5": begun_with([0, 3, 5])(),
    "the last layer of each pair (1, 3, 5)": begun_with(distill.layer_map(3, 6, "uniform"))(),
}

# %%
scratch, taught, begun, _, distilbert = (reached[name][0] for name in recipes)
by_answers, by_layers = taught - scratch, begun - scratch

# %%
inherit_guess.reveal(
    "both about the same"
    if abs(by_answers - by_layers) < 1
    else "the teacher's answers and states"
    if by_answers > by_layers
    else "the teacher's layers to begin with"
)
claim(
    "DistilBERT's recipe keeps 97 % of the teacher's accuracy and more",
    distilbert - 0.97 * full,
    "points",
)
claim(
    "DistilBERT's recipe is more than 8 points above the same network from scratch",
    distilbert - scratch - 8,
    "points",
)

# %%
claim("Most of that comes from the layers it begins with", by_layers - 2 * by_answers, "points")
claim(
    "The teacher's answers and states add to the layers that DistilBERT's recipe begins with",
    distilbert - begun,
    "points",
)
start = {name: evaluate(network.eval(), data.test) for name, network in untrained.items()}
claim(
    "The first three layers, without a step of training, lose less than 4 points against the "
    "whole recipe",
    start["the first three layers"] - (distilbert - 4),
    "points",
)
claim(
    "With layer 0 in the place of layer 1 the last layers of the pairs gain more than 20 "
    "points: it has to come first",
    start["layers 0, 3 and 5"] - (start["the last layer of each pair (1, 3, 5)"] + 20),
    "points",
)
Table(
    ["student of 3 layers", "test accuracy, %"],
    [
        *([name, mean_sd(*value)] for name, value in reached.items()),
        *([f"{name}, not trained at all", f"{value:.1f}"] for name, value in start.items()),
        ["teacher, 6 layers", f"{full:.1f}"],
    ],
    f"{len(data.train):,} examples, {len(SEEDS)} seeds; epochs {EPOCHS}, learning rates "
    f"{RATES}",
)

# %% [markdown]
# The control that DistilBERT's paper does not show: the first layers alone, without a step of training. Always try the cut before you train.
#
# Inherited layers carry what the teacher learned from many more labels than the student sees: part of their worth is that.
#
# ## 2 · Narrower: TinyBERT
#
# A student of half the width cannot begin with the teacher's layers. TinyBERT (Jiao et al. 2020) has it copy what is inside: states, through a learned projection, and the attention scores (注意力分数) $QK^T/\sqrt d$.
#
# ### Exercise 3 · Who looks at whom (2 points, about 4 lines)
#
# The mean squared difference of the scores, over heads and those pairs in which both tokens are words.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def attention_loss_spec(student, teacher, tokens):
#     n, heads, length, _ = student.shape
#     found = []
#     for i in range(n):
#         for head in range(heads):
#             for a in range(length):
#                 for b in range(length):
#                     if tokens[i, a] != 0 and tokens[i, b] != 0:
#                         found.append(
#                             (
#                                 float(student[i, head, a, b])
#                                 - float(teacher[i, head, a, b])
#                             )
#                             ** 2
#                         )
#     return float(sum(found) / len(found))
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "transformers-attention_loss", "locked": false, "schema_version": 3, "solution": true, "task": false}
def attention_loss(student, teacher, tokens):
    """float32 [n, heads, length, length] twice, int64 [n, length] -> a float."""
    ### BEGIN SOLUTION
    word = tokens != 0
    pairs = word[:, None, :, None] & word[:, None, None, :]
    counts = np.broadcast_to(pairs, student.shape)
    return float(np.square(student.astype(np.float64) - teacher)[counts].mean())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "transformers-attention_loss-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(attention_loss, "transformers.attention_loss")

# %% [markdown]
# A teacher can answer for sentences that nobody wrote. TinyBERT makes twenty from each, replacing words by similar ones (data augmentation, 数据增强). Ours come from the teacher's own embedding, whose neighbours stand in
# like places and often mean something else. That is why the teacher must answer again:

# %%
near = inherit.nearest_words(teacher.words.weight, 10)
for word in ("self", "if", "except", "print"):
    if word in data.words:
        print(f"{word:8}", ", ".join(data.words[i] for i in near[data.words.index(word)][:6]))

# %% [markdown]
# ### Exercise 4 · Other words, another sentence (2 points, about 3 lines)
#
# Where a roll is below `share`, the word gives way to its neighbour in the column that `picks` says. Tokens 0, 1 and 2 (nothing, unknown, mask) stay.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def replace_words_spec(tokens, near, rolls, picks, share):
#     out = tokens.copy()
#     for i in range(tokens.shape[0]):
#         for j in range(tokens.shape[1]):
#             if tokens[i, j] > 2 and rolls[i, j] < share:
#                 out[i, j] = near[tokens[i, j]][picks[i, j]]
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "transformers-replace_words", "locked": false, "schema_version": 3, "solution": true, "task": false}
def replace_words(tokens, near, rolls, picks, share):
    """int64 [n, length], int64 [words, neighbours], float64 and int64 [n, length], a number
    -> int64 [n, length]."""
    ### BEGIN SOLUTION
    changed = (rolls < share) & (tokens >= 3)
    return np.where(changed, near[tokens, picks], tokens)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "transformers-replace_words-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(replace_words, "transformers.replace_words")

# %%
attention_loss = adopt(attention_loss, "transformers.attention_loss")
replace_words = adopt(replace_words, "transformers.replace_words")
generator = np.random.default_rng(SEEDS[0])
COPIES, SHARE = 3, 0.3
made = [data.train.x.numpy()]
for _ in range(COPIES):
    rolls = generator.random(made[0].shape)
    picks = generator.integers(0, near.shape[1], made[0].shape)
    made.append(replace_words(made[0], near.numpy(), rolls, picks, SHARE))
sentences = torch.from_numpy(np.concatenate(made))
more = Sequences(
    sentences, torch.zeros(len(sentences), dtype=torch.int64)
)  # labels nobody looks at
more_answers = distill.cached(teacher, more.x)
with distill.Tap(teacher, (tapped := [f"layers.{i}.attention.scores" for i in (1, 2)])) as seen:
    teacher(data.test.x[:50])
one, other = (seen[name].detach() for name in tapped)
are_words = data.test.x[:50] != 0
theirs = torch.nn.functional.mse_loss(
    distill.kept(one, are_words), distill.kept(other, are_words)
)

# %%
claim(
    "The library's loss on attention scores, which the students below learn by, is yours",
    agreement(
        attention_loss(one.numpy(), other.numpy(), data.test.x[:50].numpy()),
        theirs.item(),
        rtol=1e-4,
    ),
    "tolerances",
    yours=attention_loss,
)
print("one sentence and what became of it:\n")
for copy in made:
    print(data.text(torch.from_numpy(copy[0])), "\n")
said = {
    name: source(Batch(None, None, slice(None))).argmax(1)
    for name, source in (("old", answers), ("all", more_answers))
}
same = float((said["all"][len(data.train) :] == said["old"].repeat(COPIES)).double().mean())
claim(
    "The new sentences are not the old ones with old answers: the teacher says something else "
    "of more than a tenth",
    90 - 100 * same,
    "%",
)

# %%
inside_guess = predict(
    "The narrow student learns from answers on all sentences. Copying states and attention as "
    "well brings:",
    ["more than 2 points", "less than 2 points either way", "a loss of more than 2 points"],
)

# %%
LONGER = 5
tiny = {"width": 32, "layers": 2, "hidden": 128}
layers = distill.layer_map(2, 6)
inside = {f"layers.{i}": f"layers.{j}" for i, j in enumerate(layers)}

# %%
inside |= {f"{i}.attention.scores": f"{j}.attention.scores" for i, j in list(inside.items())}


def narrow():
    return pretrained.keyword_encoder(**tiny)


more_soft = distill.Distillation(more_answers, alpha=0.0, temperature=1.0)
one_lesson = distill.Hints(
    teacher, inside, more_soft, "mse", weight=0.1, keep=words, cached_on=more.x
)
same_steps = LONGER / (1 + COPIES)
lessons = {
    "labels": (None, data.train, LONGER),
    "answers": (soft, data.train, LONGER),
    "answers, words replaced": (more_soft, more, same_steps),
    "answers, words replaced, states and scores (TinyBERT's kind)": (
        one_lesson,
        more,
        same_steps,
    ),
}
# Projections to the teacher's width are drawn while training, and the lesson holds them: one after the other.
tinies = {
    name: fitted(narrow, loss, name, on, epochs, in_turn=loss is one_lesson)
    for name, (loss, on, epochs) in lessons.items()
}
reached_tiny = {name: mean_and_sd(found) for name, found in tinies.items()}

# %%
labels, by_answers, by_words, tinybert = (reached_tiny[name][0] for name in lessons)
gain = tinybert - by_words

# %%
inside_guess.reveal(
    "more than 2 points"
    if gain > 2
    else "a loss of more than 2 points"
    if gain < -2
    else "less than 2 points either way"
)

# %%
for lesson in list(lessons)[1:]:
    print(compared(lesson, reached_tiny[lesson], "labels", reached_tiny["labels"]))
claim("States and scores change less than 4 points here", 4 - abs(gain), "points")
Table(
    ["student of 2 layers, half as wide", "test accuracy, %"],
    [[name, mean_sd(*value)] for name, value in reached_tiny.items()],
    f"the same steps for all, {len(SEEDS)} seeds; TinyBERT compares what is inside first and "
    "answers after, and embeddings as well; ours does both at once",
)

# %% [markdown]
# The lines above the table compare each lesson with the labels; where the bands of the seeds overlap, they say so. In TinyBERT's own ablation (section 4 of
# the paper) the layers inside bring most of the gain. Their teacher had read far more text than the task holds, and their students
# copied from it on all of that first. Two more suspects: our teacher reads its answer at one token, so nothing shaped what its last layer leaves at the others; and the weight of these losses
# was not tuned. This lab cannot tell which it is. Keep the row without the extra losses in your own tables.
#
# ## 3 · Leave when you are sure: FastBERT
#
# Not every example needs all layers. FastBERT (Liu et al. 2020) freezes the trained network, puts a small classifier behind each layer (early exit, 提前退出), and teaches it the last one's answers.
# Who is sure enough leaves. Sureness is measured by the entropy (熵) of the answer, $u = -\sum_i p_i \log p_i \,/\, \log N$, with
# p the softmax of the logits and N classes; a probability of 0 adds 0. (Logits may be in the hundreds.)
#
# ### Exercise 5 · How sure is it? (2 points, about 4 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def uncertainty_spec(logits):
#     found = []
#     for row in logits.astype(float):
#         powers = [np.exp(z - max(row)) for z in row]
#         p = [v / sum(powers) for v in powers]
#         entropy = -sum(v * np.log(v) for v in p if v > 0)
#         found.append(entropy / np.log(len(row)))
#     return np.array(found, dtype=np.float32)
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "transformers-uncertainty", "locked": false, "schema_version": 3, "solution": true, "task": false}
def uncertainty(logits):
    """float32 [n, classes] -> float32 [n], 0 sure, 1 knows nothing."""
    ### BEGIN SOLUTION
    shifted = logits - logits.max(1, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    logs = np.log(np.where(p > 0, p, 1))
    return (-(p * logs).sum(1) / np.log(logits.shape[1])).astype(np.float32)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "transformers-uncertainty-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(uncertainty, "transformers.uncertainty")

# %% [markdown]
# ### Exercise 6 · Who leaves where (2 points, about 3 lines)
#
# From the uncertainty at every exit: how many layers does each example pass? It leaves at the first exit where its uncertainty is strictly below `speed`, at the last one in any case. (FastBERT's name for this threshold: the higher, the sooner an example leaves;
# above 1 all leave at the first exit.)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def exit_layers_spec(uncertain, speed):
#     n, layers = uncertain.shape
#     passed = np.zeros(n, dtype=np.int64)
#     for i in range(n):
#         for layer in range(layers):
#             passed[i] = layer + 1
#             if uncertain[i, layer] < speed:
#                 break
#     return passed
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "transformers-exit_layers", "locked": false, "schema_version": 3, "solution": true, "task": false}
def exit_layers(uncertain, speed):
    """float32 [n, layers], a number -> int64 [n], 1 to layers."""
    ### BEGIN SOLUTION
    leaves = uncertain < speed
    leaves[:, -1] = True
    return leaves.argmax(1) + 1
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "transformers-exit_layers-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(exit_layers, "transformers.exit_layers")

# %%
uncertainty = adopt(uncertainty, "transformers.uncertainty")
exit_layers = adopt(exit_layers, "transformers.exit_layers")
seed_everything(SEEDS[0])
many = early_exit.EarlyExit(pretrained.keyword_teacher())
exits = [p for p in many.parameters() if p.requires_grad]
fit(
    many,
    more,
    1.5,
    0.004,
    64,
    early_exit.self_distillation,
    seed=SEEDS[0],
    optimizer=torch.optim.AdamW(exits, 0.004),
    label="exits",
)
at_exits = logits(many, data.test.x)
doubt = np.stack([uncertainty(at_exits[:, i].numpy()) for i in range(at_exits.shape[1])], 1)
passed = exit_layers(doubt.copy(), 0.2)
library = many.answer(data.test.x, 0.2)
claim(
    "By your rule everybody leaves where the library lets them leave (but for rounding at the "
    "threshold)",
    100 * float((passed == library.layers.numpy()).mean()) - 99.9,
    "%",
    yours=exit_layers,
)

# %%
speed_guess = predict(
    "How much faster may a batch be answered, at a loss of less than one point over the test "
    "set?",
    ["not at all", "up to 1.5 times", "1.5 to 2 times", "more than 2 times"],
)

# %%
BATCH = 500
SPEEDS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 1.1)


def run_all(speed):
    return [many.answer(part, speed) for part in data.test.x.split(BATCH)]


def on_validation(speed):
    found = many.answer(data.val.x, speed)
    return 100 * float((found.logits.argmax(1) == data.val.y).double().mean())


class AtSpeed(torch.nn.Module):
    """The network with exits at one speed, to be raced like any other."""

    def __init__(self, speed):
        super().__init__()
        self.speed = speed

    def forward(self, tokens):
        return many.answer(tokens, self.speed).logits


took = race_networks(
    {"teacher": teacher} | {speed: AtSpeed(speed) for speed in SPEEDS},
    data.test.x[:BATCH],
    rounds=5,
)

# %%
curve = []
for speed in SPEEDS:
    found = run_all(speed)
    right = torch.cat([f.logits for f in found]).argmax(1) == data.test.y
    mean_layers = float(torch.cat([f.layers for f in found]).double().mean())
    curve.append(
        (speed, 100 * float(right.double().mean()), mean_layers, took["teacher"] / took[speed])
    )
# Chosen on validation sentences, with a margin: the fastest that loses no more than 0.8 points.
whole = on_validation(0.0)
chosen = max(s for s in SPEEDS if on_validation(s) > whole - 0.8)
picked = next(row for row in curve if row[0] == chosen)
times_faster, point_loss = picked[3], full - picked[1]
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.2))
axes[0].plot([row[3] for row in curve], [row[1] for row in curve], marker="o")
for row in curve[1::3]:
    axes[0].annotate(
        f"speed {row[0]}",
        (row[3], row[1]),
        textcoords="offset points",
        xytext=(4, 5),
        fontsize=8,
    )
axes[0].axhline(full, color="black", lw=1, ls="--", label="teacher")
axes[0].set(xlabel="times faster than the teacher (measured)", ylabel="test accuracy, %")
axes[0].legend(fontsize=9)
left = np.bincount(torch.cat([f.layers for f in run_all(chosen)]).numpy(), minlength=7)[1:]
axes[1].bar(range(1, 7), 100 * left / left.sum(), color="#0072B2")
axes[1].set(xlabel=f"left after layer (speed {chosen})", ylabel="% of the examples")
plt.show()

# %%
speed_guess.reveal(
    "not at all"
    if times_faster < 1.05
    else "up to 1.5 times"
    if times_faster < 1.5
    else "1.5 to 2 times"
    if times_faster < 2
    else "more than 2 times"
)
claim(
    "With exits, the network is more than twice as fast by the clock",
    times_faster - 2,
    "times",
    timed=True,
)
claim("With exits, less than two points are lost", 2 - point_loss, "points")
claim(
    "Exits that nobody takes cost less than a third of the speed",
    curve[0][3] - 0.67,
    "times",
    timed=True,
)

# %%
Table(
    ["speed", "test accuracy, %", "layers, mean", "times faster"],
    [[f"{s}", f"{a:.1f}", f"{n:.2f}", f"{t:.2f}"] for s, a, n, t in curve],
    f"batches of {BATCH}, one thread, against the teacher in the same race; chosen on "
    f"validation: {chosen}",
)

# %% [markdown]
# Look at what the first exit is surest of (rank 0), and least (rank 100):

# %%
surest = torch.from_numpy(doubt[:, 0]).argsort()


def draw_example(rank):
    index = int(surest[round(rank / 100 * (len(surest) - 1))])
    print(data.text(data.test.x[index]).replace("<line", "\n<line"))
    figure, axes = plt.subplots(figsize=(6, 2.3))
    axes.plot(range(1, 7), doubt[index], marker="o")
    axes.set(
        xlabel="exit",
        ylabel="uncertainty",
        ylim=(0, 1),
        title=f"it was: {data.classes[int(data.test.y[index])]}; last exit says: {data.classes[int(at_exits[index, -1].argmax())]}",
    )
    plt.show()


explore(draw_example, rank=(0, 100, 10))

# %% [markdown]
# ## 4 · Into another shape: BERT to BiLSTM
#
# A student need not be a transformer. Tang et al. (2019) taught a one-layer BiLSTM (双向长短期记忆网络) to match the logits of BERT-large, on sentences with words masked and replaced. Ours matches answers by their divergence, as above.


# %%
def recurrent():
    return models.BiLSTM(
        keywords.WORDS, len(keywords.CLASSES), width=48, hidden=64, place=keywords.BEFORE
    )


lstms = {
    "labels": fitted(recurrent, None, "BiLSTM, labels", epochs=5),
    "answers": fitted(recurrent, soft, "BiLSTM, answers", epochs=5),
    "answers, words replaced": fitted(
        recurrent, more_soft, "BiLSTM, more sentences", sentences=more, epochs=5 / (1 + COPIES)
    ),
}
reached_lstm = {name: mean_and_sd(found) for name, found in lstms.items()}
for lesson in list(lstms)[1:]:
    print(compared(lesson, reached_lstm[lesson], "labels", reached_lstm["labels"]))
claim(
    "A Transformer's answers change the BiLSTM's accuracy by less than four points, against "
    "labels",
    4 - abs(reached_lstm["answers"][0] - reached_lstm["labels"][0]),
    "points",
)
Table(
    ["BiLSTM", "test accuracy, %"],
    [[name, mean_sd(*value)] for name, value in reached_lstm.items()],
    f"the same steps, {len(SEEDS)} seeds",
)

# %% [markdown]
# ## Build it · Layer against layer, by hooks
#
# ### Exercise 7 · Layer against layer, by hooks (build, 16 points, about 20 lines)
#
# TinyBERT and its relatives compare *inner* layers, which no `forward` hands back. `hidden_loss(student, teacher, pairs, x)` runs both networks once and hands back the
# student's output and a loss: the mean over `pairs` (names of a student's and a teacher's layer, as in `named_modules()`) of the mean squared difference
# between both layers' outputs.
#
# 1. *One pair*: `register_forward_hook` on `get_submodule(name)` sees `(layer, inputs, output)`. The teacher answers in eval mode, without
#    dropout; the student runs in the mode that it is in.
# 2. *Several pairs*: their mean.
# 3. *The gradient* reaches the student alone.
# 4. *As they were*: no hook stays and both modes are as before, **also when a network stops with an error**.


# %% nbgrader={"grade": false, "grade_id": "transformers-hidden_loss", "locked": false, "schema_version": 3, "solution": true, "task": false}
def hidden_loss(student, teacher, pairs, x):
    """Two modules, ((student's name, teacher's name), ...), a batch
    -> (student's output, loss)."""
    ### BEGIN SOLUTION
    kept, handles, training = {}, [], teacher.training

    def watch(model, name, key):
        layer = model.get_submodule(name)
        handles.append(
            layer.register_forward_hook(lambda _, inputs, output: kept.update({key: output}))
        )

    try:
        for number, (one, other) in enumerate(pairs):
            watch(student, one, ("student", number))
            watch(teacher, other, ("teacher", number))
        teacher.eval()
        with torch.no_grad():
            teacher(x)
        output = student(x)
    finally:
        for handle in handles:
            handle.remove()
        teacher.train(training)
    losses = [
        (kept["student", i] - kept["teacher", i]).square().mean() for i in range(len(pairs))
    ]
    return output, sum(losses) / len(losses)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "transformers-hidden_loss-check", "locked": true, "points": 16, "schema_version": 3, "solution": false, "task": false}
check(hidden_loss, "transformers.hidden_loss")

# %%
hidden_loss = adopt(hidden_loss, "transformers.hidden_loss")

# %%
torch.manual_seed(SEEDS[0])
wide = torch.nn.Sequential(
    torch.nn.Linear(16, 32),
    torch.nn.Tanh(),
    torch.nn.Linear(32, 32),
    torch.nn.Tanh(),
    torch.nn.Linear(32, 4),
)
pupil = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
inputs, distances = torch.randn(256, 16), []
optimizer = torch.optim.Adam(pupil.parameters(), 0.01)
for _ in range(100):
    _, loss = hidden_loss(pupil, wide, (("1", "3"),), inputs)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    distances.append(float(loss.detach()))
claim(
    "A layer learns what two layers say",
    distances[0] - distances[-1],
    "of the squared distance",
)
print(
    f"mean squared distance: {distances[0]:.3f} at first, {distances[-1]:.3f} after a hundred "
    "steps"
)

# %% [markdown]
# ### Exercise 8 · What a transformer can do without (open, 12 points, about 6 lines)
#
# An *open* exercise has no right answer: what you hand back is measured, here and again while grading, on numbers that your code does not see. The teacher has 24 attention heads and 1,536 neurons in its
# feed-forward layers. Most of them can go, and no training comes after it: which ones stay? Every head and every neuron is multiplied by a gate that stands at 1 (Michel et al. 2019, section 4.1).
# You are given, for 1,200 sentences, the gradient of *that sentence's* loss at every gate; closing a gate adds minus its gradient to the loss, to first order. Three budgets count, from 8 to 18 % of the weights.
# Bronze is above ranking by the gradient of the mean loss, gold is what our best ranking reached.
#
# `gradients` are float32 [sentences, units], `sizes` int64 [units] the weights of each unit (heads and neurons), `budget` how many weights may stay; hand back bool [units].


# %% nbgrader={"grade": false, "grade_id": "transformers-units_to_keep", "locked": false, "schema_version": 3, "solution": true, "task": false}
def units_to_keep(gradients, sizes, budget):
    """float32 [sentences, units], int64 [units], int
    -> bool [units]: the heads and neurons that stay."""
    ### BEGIN SOLUTION
    # What matters to some sentences matters, whatever the sign: the mean square, for each
    # weight.
    worth = (gradients.astype(np.float64) ** 2).mean(0) / sizes
    kept = np.zeros(len(sizes), bool)
    for unit in np.argsort(-worth):
        if sizes[unit] <= budget:
            kept[unit] = True
            budget -= sizes[unit]
    return kept
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "transformers-units_to_keep-check", "locked": true, "points": 12, "schema_version": 3, "solution": false, "task": false}
check(units_to_keep, "transformers.units_to_keep")

# %%
units_to_keep = adopt(units_to_keep, "transformers.units_to_keep")

# %% [markdown]
# ## Longer than a lab · Each recipe taken apart
#
# What follows takes minutes for each seed: it was run over several seeds, and its rows are kept beside the code (`compresslab/longer/triple_loss.py`). With `COMPRESSLAB_LONGER=1` in the environment a cell runs one seed here as well; `compresslab longer triple_loss` runs them all anew.
#
# DistilBERT's loss has three parts. In its paper (table 4) the teacher's answers matter most and the masked word least. (Besides every second layer it drops BERT's token types, which tell a pair's two sentences apart, and the pooler on the first token; our encoder never had them.) Dynamic masking hides other words in every batch, which RoBERTa found better than hiding them once.

# %%
from compresslab.longer import show_longer

show_longer("triple_loss")

# %% [markdown]
# TinyBERT learns in two stages: what is inside on general text first, embeddings included, then the task. General text is here windows of the same files, without their answers. The control takes as many steps on the task's answers.

# %%
show_longer("tinybert_stages")

# %% [markdown]
# FastBERT rests on an assumption: the lower the uncertainty, the more often the answer is right. Sort the test windows by uncertainty, cut them into tenths, and look. (FastBERT's divergence is $\mathrm{KL}(p_{\text{exit}} \| p_{\text{last}})$; the lab's exits learn by Hinton's direction, the last one's distribution first. Both are in the table.)

# %%
show_longer("uncertainty")

# %% [markdown]
# And the BiLSTM that BERT teaches, can it be put in eight bits as a whole? `quantize_dynamic` of torch takes linear and recurrent layers; ours writes a recurrent layer out in its linear ones.

# %%
show_longer("recurrent_int8")

# %% [markdown]
# ## What the papers say, what we measured
#
# First, the published networks themselves. Parameters and milliseconds do not depend on the weights, so they can be built from their configurations and measured, with random weights, on this processor.

# %%
big, sentence = {}, torch.randint(5, 30_000, (1, 128))

# %%
if published.available():
    networks = {name: published.bert(name) for name in published.BERTS}
    took = race_networks(networks, sentence, rounds=5)
    big = {
        name: (sum(p.numel() for p in network.parameters()), 1e3 * took[name])
        for name, network in networks.items()
    }
    base = big["BERT-base"]
    fewer = 1 - big["DistilBERT"][0] / base[0]
    claim("DistilBERT has 40 % fewer parameters, as its paper says", 0.38 < fewer < 0.42)
    claim(
        "TinyBERT-4 is 7.5 times smaller, as its paper says",
        7 < base[0] / big["TinyBERT-4"][0] < 8,
    )
    claim(
        "DistilBERT is at least 1.5 times as fast",
        base[1] / big["DistilBERT"][1] - 1.5,
        "times",
        timed=True,
    )
    claim(
        "TinyBERT-4 is more than 8 times as fast",
        base[1] / big["TinyBERT-4"][1] - 8,
        "times",
        timed=True,
    )
    del networks
else:
    print(f"Not built: transformers is missing ({published.INSTALL}).")

# %%
Table(
    ["published network", "parameters", "times smaller", "ms", "times faster", "paper"],
    [
        [
            name,
            in_units(p),
            f"{big['BERT-base'][0] / p:.2f}",
            f"{ms:.1f}",
            f"{big['BERT-base'][1] / ms:.1f}",
            said,
        ]
        for (name, (p, ms)), said in zip(
            big.items(),
            (
                "",
                "40 % fewer, 60 % faster",
                "1.6 times smaller, 2 times faster",
                "7.5 times smaller, 9.4 times faster",
            ),
        )
    ],
    "one sentence of 128 tokens, one thread, torch float32; TinyBERT's times are from a "
    "graphics card",
    text_columns=1,
)

# %%
ours = {
    "teacher": (teacher, full),
    "DistilBERT's recipe": (halves["every second layer, answers and direction"][0], distilbert),
    "the first 3 layers, untrained (control)": (
        untrained["the first three layers"].eval(),
        start["the first three layers"],
    ),
    "TinyBERT's recipe": (
        tinies["answers, words replaced, states and scores (TinyBERT's kind)"][0],
        tinybert,
    ),
    "BiLSTM": (lstms["answers, words replaced"][0], reached_lstm["answers, words replaced"][0]),
}
controls = {
    "DistilBERT's recipe": scratch,
    "TinyBERT's recipe": labels,
    "BiLSTM": reached_lstm["labels"][0],
}

# %%
took = race_networks(
    {name: network for name, (network, _) in ours.items()}, data.test.x[:BATCH], rounds=9
)
claims = {
    "teacher": "",
    "the first 3 layers, untrained (control)": "not shown",
    "DistilBERT's recipe": "1.7 times smaller, 1.6 times faster, 97 %",
    "TinyBERT's recipe": "7.5 times smaller, 9.4 times faster, 96.8 %",
    "BiLSTM": "100 times smaller and 15 times faster than ELMo, comparable",
}
rows, all_parameters = [], {}
for name, (network, right) in ours.items():
    all_parameters[name] = sum(p.numel() for p in network.parameters())
    control = f"{controls[name]:.1f}" if name in controls else ""
    rows.append(
        [
            name,
            in_units(all_parameters[name]),
            in_bytes(disk_bytes(network)),
            f"{all_parameters['teacher'] / all_parameters[name]:.1f}",
            f"{took['teacher'] / took[name]:.1f}",
            f"{right:.1f}",
            f"{100 * right / full:.0f} %",
            control,
            claims[name],
        ]
    )
depth = max(1, round(picked[2]))  # of a plain cut, as deep as the exits are in the mean

# %%
rows.append(
    [
        "FastBERT's exits",
        "",
        "",
        "",
        f"{times_faster:.1f}",
        f"{picked[1]:.1f}",
        f"{100 * picked[1] / full:.0f} %",
        f"cut after {depth}: {by_depth[depth - 1]:.1f}",
        "1 to 12 times faster",
    ]
)
embedding = ours["TinyBERT's recipe"][0].words.weight.numel()
claim(
    "More than half of the smallest student is its embedding, which does not shrink with the "
    "layers",
    embedding > all_parameters["TinyBERT's recipe"] / 2,
)

# %%
claim(
    "TinyBERT's student is more than 5 times smaller",
    all_parameters["teacher"] > 5 * all_parameters["TinyBERT's recipe"],
)
claim(
    "TinyBERT's student is more than 4 times faster",
    took["teacher"] / took["TinyBERT's recipe"] - 4,
    "times",
    timed=True,
)
Table(
    [
        "",
        "parameters",
        "file",
        "times smaller",
        "times faster",
        "accuracy, %",
        "kept",
        "control: labels, random start",
        "paper: size, speed, kept",
    ],
    rows,
    f"batches of {BATCH}, one thread; papers: Sanh et al. 2019 (abstract), Jiao et al. 2020 "
    "(abstract), Tang et al. 2019 (abstract), Liu et al. 2020 (abstract)",
    text_columns=1,
)

# %% [markdown]
# ### A real task, if you have it
#
# SST-2 asks whether a sentence is for or against a film. Put its files into a folder and name it in `COMPRESSLAB_DATA`; then this cell trains, in some minutes, a teacher of six layers on it and two students of three. Nobody here has
# read anything but 6,920 sentences: is there anything that six layers know and three do not?


# %%
def learn_reviews(network, reviews, loss, label, seed, rate):
    hooks = [loss] if isinstance(loss, Hook) else []
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.05)
    fit(network, reviews, 3, rate, 64, loss, hooks, seed, optimizer, label=label)
    return network


STUDENTS = (
    "teacher, 6 layers",
    "its first 3 layers, not trained further",
    "DistilBERT's recipe, 3 layers",
    "3 layers, labels",
)


# %%
def film_reviews():
    films = sst2.load()
    sizes = (len(films.words), len(films.classes), films.length)

    def encoder(layers):
        return models.Encoder(*sizes, layers=layers)

    def learn(network, loss, label, seed, rate=0.001):
        return learn_reviews(network, films.train, loss, label, seed, rate)

    found = []
    for seed in SEEDS:
        seed_everything(seed)
        large = learn(encoder(6), cross_entropy, f"teacher, seed {seed}", seed)
        answers = distill.Distillation(distill.cached(large, films.train.x), 0.0, 1.0)
        hints = distill.Hints(large, {"layers.2": "layers.5"}, answers, "cosine", keep=words)
        cut = inherit.inherit(encoder(3), large, [0, 1, 2]).eval()
        student = inherit.inherit(encoder(3), large, every_second)
        control = learn(encoder(3), cross_entropy, "control", seed)
        learn(student, hints, "student", seed, 0.0005)
        found.append([evaluate(n, films.test) for n in (large, cut, student, control)])
    return Table(
        ["SST-2, no pre-training", "test accuracy, %"],
        [
            [name, mean_sd(float(c.mean()), float(c.std(ddof=1)))]
            for name, c in zip(STUDENTS, np.array(found).T)
        ],
        f"{len(SEEDS)} seeds",
    )


# %%
try:
    outcome = film_reviews()
except FileNotFoundError as missing:
    outcome = None
    print(f"not run: {missing}")
outcome

# %% [markdown]
# ## In the course's own measures
#
# What this lab made, with the cheapest step of all in front: a cast to 16 bits (半精度), which halves the file and asks for nothing else. Energy (能耗) is an estimate: operations and the file read once, at the prices of a 45 nm process (Horowitz 2014).

# %%
import compresslab as cl

cl.table(
    cl.measure(teacher, data, "teacher"),
    cl.measure(pretrained.keyword_teacher().half(), data, "float16, a cast"),
    cl.measure(pretrained.keyword_teacher().bfloat16(), data, "bfloat16, a cast"),
    cl.measure(
        halves["every second layer, answers and direction"], data, "DistilBERT's recipe"
    ),
    cl.measure(
        tinies["answers, words replaced, states and scores (TinyBERT's kind)"],
        data,
        "TinyBERT's recipe",
    ),
    cl.measure(lstms["answers, words replaced"], data, "BiLSTM"),
)

# %% [markdown] nbgrader={"grade": true, "grade_id": "written-transformers_written", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# ## Written question (2 points)
#
# A service answers ten million short texts a day with BERT-base on processors; most are easy. One colleague wants TinyBERT, another FastBERT's exits, a third simply the first six layers. What do you measure first,
# with which controls, and when would each of the three be right?
#
# *Your answer (double-click here to write it):*

# %% [markdown]
# ## Recap
#
# - Where a student can begin with its teacher's layers, try that first; the cut alone, untrained, is a control.
# - A student of another shape learns from answers, also on sentences that nobody labelled.
# - Early exits turn easy examples into time, by the clock and in batches; one network serves every speed, a threshold chooses it.
#
# **Do not use** exits where every answer must take the same time, nor hidden-state losses without the control that leaves them out.
#
# **Back:** [Lab 08 · Distillation](08_distillation.ipynb) · **Next:** [Lab 10 · Binarization](10_binarization.ipynb)
#
# **References.** Sanh et al. 2019, *DistilBERT*, arXiv:1910.01108 · Jiao et al. 2020, *TinyBERT*, arXiv:1909.10351 · Liu et al. 2020, *FastBERT*, arXiv:2004.02178 ·
# Tang et al. 2019, *Distilling task-specific knowledge from BERT into simple neural networks*, arXiv:1903.12136 · Devlin et al. 2019, *BERT*, arXiv:1810.04805
