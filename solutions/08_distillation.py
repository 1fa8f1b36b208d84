# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Lab 08 · Distillation
#
# **You will** train a small network on what a large one says, write its loss and its gradient, and find out when the large one is worth
# listening to.
# **Time:** 115 minutes to work through; it runs in one to three minutes, by processor.
#
# A label says "this is a Q". A trained network says more: it could be an O, hardly a T. Knowledge distillation (知识蒸馏) teaches a small *student* (学生)
# with the answers of a large *teacher* (教师).

# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
import torch

from compresslab.baselines import baseline_of

# %%
from compresslab.lab import (
    Batch,
    Examples,
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
    count_layers,
    cross_entropy,
    disk_bytes,
    evaluate,
    explore,
    fit_all,
    in_bytes,
    in_units,
    load,
    logits,
    mean_sd,
    models,
    predict,
    race_networks,
    trained,
    use_style,
)

# %%
from compresslab.techniques import distill

use_style()
SEEDS = begin()

# %% [markdown]
# ## A hook: what the teacher knows beside the answer
#
# Four images of which it is less sure than of others:

# %%
data = load(size=16, train_size=8_000, seed=SEEDS[0])
CLASSES, EPOCHS = len(data.classes), 7


few = Examples(data.train.x[6500:], data.train.y[6500:])  # what the teacher has not seen
(teacher,) = trained("teacher", data, SEEDS[:1])
answers = logits(teacher, data.val.x)
unsure = answers.softmax(1).max(1).values.argsort()[:200]
right = unsure[(answers[unsure].argmax(1) == data.val.y[unsure])]
SHOWN = [int(right[int(share * len(right))]) for share in (0.05, 0.25, 0.5, 0.75)]


def draw_answers(temperature):
    figure, axes = plt.subplots(2, 4, figsize=(9, 3.6), height_ratios=(1, 1.4))
    for column, index in enumerate(SHOWN):
        soft = torch.softmax(answers[index] / temperature, 0)
        axes[0, column].imshow(data.val.x[index, 0], cmap="gray_r", vmin=0, vmax=1)
        axes[0, column].set_axis_off()
        best = soft.argsort(descending=True)[:5]
        axes[1, column].bar(
            [data.classes[i] for i in best], soft[best].numpy(), color="#0072B2"
        )
        axes[1, column].set(ylim=(0, 1), ylabel="probability" if column == 0 else "")


explore(draw_answers, temperature=(1.0, 10.0, 0.5))

# %% [markdown]
# ## 1 · Soft targets (软目标)
#
# The small probabilities hold the knowledge, and near 0 they hardly count. A temperature (温度) T brings them out: $p_i = e^{z_i/T} / \sum_j e^{z_j/T}$.
#
# ### Exercise 1 · Soft targets (1 point, about 3 lines)
#
# For every row of logits. Beware of large ones: $e^{800}$ is infinite, and taking a constant off all of a row changes nothing.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def soft_targets_spec(logits, temperature):
#     out = np.zeros_like(logits)
#     for i, row in enumerate(logits):
#         row = [float(z) / temperature for z in row]
#         powers = [np.exp(z - max(row)) for z in row]
#         out[i] = [p / sum(powers) for p in powers]
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "distill-soft_targets", "locked": false, "schema_version": 3, "solution": true, "task": false}
def soft_targets(logits, temperature):
    """float32 [n, classes], a number above 0 -> float32 [n, classes], rows that add up to 1."""
    ### BEGIN SOLUTION
    scaled = logits / np.float32(temperature)
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "distill-soft_targets-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(soft_targets, "distill.soft_targets")

# %%
soft_targets = adopt(soft_targets, "distill.soft_targets")
entropy = {
    t: float(-(p * np.log(np.maximum(p, 1e-30))).sum(1).mean())
    for t in (1, 2, 4, 8)
    for p in [soft_targets(answers.numpy(), float(t))]
}
claim(
    "The hotter, the more evenly the teacher's answers are spread",
    min(entropy[2] - entropy[1], entropy[4] - entropy[2], entropy[8] - entropy[4]),
    "nats",
)

# %% [markdown]
# The loss (Hinton et al. 2015) holds the student to the labels and to the teacher's softened answers. KL is the divergence
# $\sum p \log (p/q)$, which is 0 only where both distributions are equal:
#
# $$L = \alpha\,\mathrm{CE}(\text{student}, \text{label}) + (1-\alpha)\,T^2\,\mathrm{KL}(p^{\text{teacher}}_T \,\|\, p^{\text{student}}_T)$$
#
# ### Exercise 2 · The loss (3 points, about 6 lines)
#
# Mean over the examples, of both parts; the labels are compared at temperature 1.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def distillation_loss_spec(student, teacher, labels, alpha, temperature):
#     def log_softmax(row):
#         return row - max(row) - np.log(sum(np.exp(z - max(row)) for z in row))
#
#     total = 0.0
#     for s, t, label in zip(
#         student.astype(float), teacher.astype(float), labels
#     ):
#         hard = -log_softmax(s)[label]
#         log_q, log_p = (
#             log_softmax(s / temperature),
#             log_softmax(t / temperature),
#         )
#         divergence = sum(
#             np.exp(log_p[i]) * (log_p[i] - log_q[i]) for i in range(len(s))
#         )
#         total += alpha * hard + (1 - alpha) * temperature**2 * divergence
#     return float(total / len(labels))
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "distill-distillation_loss", "locked": false, "schema_version": 3, "solution": true, "task": false}
def distillation_loss(student, teacher, labels, alpha, temperature):
    """float32 [n, classes] twice, int64 [n], two numbers -> a float."""
    ### BEGIN SOLUTION
    rows = torch.from_numpy(student).double(), torch.from_numpy(teacher).double()
    hard = torch.nn.functional.cross_entropy(rows[0], torch.from_numpy(labels))
    log_q, log_p = (torch.log_softmax(z / temperature, 1) for z in rows)
    divergence = (log_p.exp() * (log_p - log_q)).sum(1).mean()
    return float(alpha * hard + (1 - alpha) * temperature**2 * divergence)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "distill-distillation_loss-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check(distillation_loss, "distill.distillation_loss")

# %% [markdown]
# Why $T^2$? The gradient of $\mathrm{KL}(p \| q)$ in the student's logits is, with $q = \mathrm{softmax}(z/T)$,
#
# $$\frac{\partial}{\partial z_i}\Big(-\sum_j p_j \log q_j\Big) = \frac{1}{T}(q_i - p_i), \qquad\text{and for large } T \text{ and centred logits}\quad q_i - p_i \approx \frac{z_i - v_i}{N T}$$
#
# with the teacher's logits v and N classes. The derivative gives one factor 1/T and the softened difference another: without $T^2$ the soft part would fade as T grows. With it, a very hot student just matches logits.
#
# ### Exercise 3 · What the student feels (2 points, about 2 lines)
#
# The gradient of the soft part, $T^2\,\mathrm{KL}$ as a mean over n examples, in the student's logits. (The spec goes by differences.)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def soft_gradient_spec(student, teacher, temperature):
#     def soft(z):
#         log_q, log_p = (
#             torch.log_softmax(torch.from_numpy(v) / temperature, 1)
#             for v in (z, teacher.astype(float))
#         )
#         return float(
#             temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1).mean()
#         )
#
#     out, step = np.zeros_like(student), 1e-5
#     for place in np.ndindex(student.shape):
#         up, down = student.astype(float), student.astype(float)
#         up[place] += step
#         down[place] -= step
#         out[place] = (soft(up) - soft(down)) / (2 * step)
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "distill-soft_gradient", "locked": false, "schema_version": 3, "solution": true, "task": false}
def soft_gradient(student, teacher, temperature):
    """float32 [n, classes] twice, a number -> float32 [n, classes]."""
    ### BEGIN SOLUTION
    rows = torch.from_numpy(student), torch.from_numpy(teacher)
    mine, theirs = (torch.softmax(z / temperature, 1).numpy() for z in rows)
    return np.float32(temperature) * (mine - theirs) / len(student)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "distill-soft_gradient-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(soft_gradient, "distill.soft_gradient")

# %%
distillation_loss = adopt(distillation_loss, "distill.distillation_loss")
soft_gradient = adopt(soft_gradient, "distill.soft_gradient")
generator = np.random.default_rng(SEEDS[0])
z, v = (generator.normal(0, 2, (4, CLASSES)).astype(np.float32) for _ in range(2))
library = distill.Distillation(lambda batch: torch.from_numpy(v), alpha=0.3, temperature=4.0)
labels = np.arange(4)
theirs = library.of_logits(torch.from_numpy(z), Batch(None, torch.from_numpy(labels), None))
claim(
    "The library's loss, on which the students below train, is yours",
    agreement(distillation_loss(z, v, labels, 0.3, 4.0), float(theirs), atol=1e-4),
    "tolerances",
    yours=distillation_loss,
)
centred = (z - z.mean(1, keepdims=True)) - (v - v.mean(1, keepdims=True))
hot = soft_gradient(z, v, 3000.0)
claim(
    "At a very high temperature the gradient is that of matching centred logits",
    agreement(hot, centred / CLASSES / len(z), atol=2e-4),
    "tolerances",
)

# %%
gain_guess = predict(
    "A student with less than a tenth of the teacher's parameters: how much does the teacher "
    "give it at T = 4?",
    ["nothing", "less than 2 points", "2 points or more"],
)

# %% [markdown]
# ## 2 · The same student, the same steps
#
# Everybody sees the same 1,500 images, which the teacher has never seen, with three seeds each. Controls: hard labels; label smoothing (标签平滑: 0.9 for the right letter, the rest spread over all), a teacher who knows nothing;
# the teacher at T = 1.

# %%
offline = distill.cached(teacher, few.x)


def student_network(widths=(8, 16, 32)):
    return models.VGGLike(data.shape, CLASSES, widths)


def taught(
    loss, label, images=few, epochs=EPOCHS, make=student_network, rate=0.1, in_turn=False
):
    """Three students of a loss, or of one loss for each seed (one that keeps a state: a
    Hook)."""
    losses = loss if isinstance(loss, list) else [loss] * len(SEEDS)
    return fit_all(
        built(make, SEEDS),
        *(images, epochs, rate),
        seeds=SEEDS,
        label=label,
        batch_size=64,
        loss=losses,
        hooks=lambda index: [losses[index]] if isinstance(losses[index], Hook) else [],
        in_turn=in_turn,
    )


def mean_and_sd(networks, examples=data.test):
    return accuracy(networks, examples)


# %%
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
lessons = {"hard labels": cross_entropy, "label smoothing": distill.smoothed(0.1)}
for temperature in TEMPERATURES:
    lessons[f"teacher, T = {temperature:.0f}"] = distill.Distillation(offline, 0.1, temperature)
students, reached = {}, {}
for name, loss in lessons.items():
    students[name] = taught(loss, name)
    reached[name] = mean_and_sd(students[name])
warm = {t: mean_and_sd(students[f"teacher, T = {t}"], data.val)[0] for t in (2, 4, 8)}
chosen = max(warm, key=warm.get)
twice = {
    "hard labels": mean_and_sd(taught(cross_entropy, "hard labels, twice the rate", rate=0.2)),
    "teacher": mean_and_sd(
        taught(
            distill.Distillation(offline, 0.1, float(chosen)),
            "teacher, twice the rate",
            rate=0.2,
        )
    ),
}

# %%
hard = reached["hard labels"]
by_temperature = [reached[f"teacher, T = {t:.0f}"] for t in TEMPERATURES]
figure, axes = plt.subplots(figsize=(7, 3.2))
axes.errorbar(TEMPERATURES, *zip(*by_temperature), marker="o", capsize=3, label="teacher")
for name, style in (("hard labels", "--"), ("label smoothing", ":")):
    axes.axhline(reached[name][0], ls=style, color="black", lw=1, label=name)
axes.set(xlabel="temperature T", ylabel="test accuracy, %", xticks=TEMPERATURES)
axes.legend(fontsize=9)
plt.show()
best = reached[f"teacher, T = {chosen}"][0]
four = reached["teacher, T = 4"][0] - hard[0]

# %%
gain_guess.reveal(
    "nothing" if four < 0.5 else "less than 2 points" if four < 2 else "2 points or more"
)

# %%
parameters = {
    n: sum(p.numel() for p in m.parameters())
    for n, m in (("teacher", teacher), ("student", students["hard labels"][0]))
}

# %%
claim(
    "The student has less than a tenth of the teacher's parameters",
    parameters["student"] < parameters["teacher"] / 10,
)
claim(
    "With a temperature between 2 and 8, chosen on validation images, it gains more than a "
    "point over hard labels",
    best - hard[0] - 1,
    "points",
)
claim(
    "At twice the learning rate the teacher is no worse than the labels, to within a point",
    twice["teacher"][0] - (twice["hard labels"][0] - 1),
    "points",
)
claim("At T = 1 it gains less", best - reached["teacher, T = 1"][0], "points")
claim("Smoothing alone does not do it", best - reached["label smoothing"][0] - 0.5, "points")
Table(
    ["lesson", "test accuracy, %"],
    [
        *([n, mean_sd(*r)] for n, r in reached.items()),
        *([f"twice the rate: {n}", mean_sd(*r)] for n, r in twice.items()),
    ],
    f"{EPOCHS} epochs of 1,500 images, {len(SEEDS)} seeds, teacher "
    f"{evaluate(teacher, data.test):.1f} %; by validation T = {chosen}",
)

# %%
images = data.test.x.contiguous(memory_format=torch.channels_last)
pair = {"teacher": teacher, "student": students["teacher, T = 4"][0]}
cost = {}
times = {batch: race_networks(pair, images[:batch]) for batch in (1, 64)}
for name, network in pair.items():
    macs = sum(c.macs for c in count_layers(network, data.shape))
    cost[name] = (
        parameters[name],
        disk_bytes(network),
        macs,
        *(1e3 * times[b][name] for b in (1, 64)),
    )
faster = [cost["teacher"][i] / cost["student"][i] for i in (3, 4)]
claim(
    "The student is more than twice as fast for one image, and three times for 64",
    min(faster[0] - 2, faster[1] - 3),
    "times",
    timed=True,
)
Table(
    ["", "parameters", "file", "MACs", "ms, batch 1", "ms, batch 64"],
    [
        [n, in_units(p), in_bytes(d), in_units(m), f"{one:.3f}", f"{many:.2f}"]
        for n, (p, d, m, one, many) in cost.items()
    ],
    "one thread, torch, channels last",
)

# %% [markdown]
# ## 3 · Labels are dear, answers are cheap
#
# About ten labels a class and many images without any: the teacher's answers need no labels (alpha = 0).

# %%
unlabelled_guess = predict(
    "A student of 260 labels, and one of the teacher's answers on 1,500 images without any "
    "label: how good is the second?",
    [
        "like the first",
        "between it and 1,500 labels",
        "as good as 1,500 labels, to within a point",
        "better than 1,500 labels",
    ],
)

# %%
LABELLED = data.train.first(260)
STEPS = EPOCHS * len(few) / len(LABELLED)
no_labels = Examples(few.x, torch.full_like(few.y, -1))
scarce = {
    "260 labels": mean_and_sd(taught(cross_entropy, "260 labels", LABELLED, STEPS)),
    "1,500 images, teacher, no label": mean_and_sd(
        taught(distill.Distillation(offline, 0.0, 4.0), "no labels", no_labels)
    ),
    "1,500 labels": hard,
}
free = scarce["1,500 images, teacher, no label"][0]

# %%
unlabelled_guess.reveal(
    "better than 1,500 labels"
    if free > hard[0] + 1
    else "as good as 1,500 labels, to within a point"
    if free > hard[0] - 1
    else "between it and 1,500 labels"
    if free > scarce["260 labels"][0] + 2
    else "like the first"
)
claim(
    "Answers on unlabelled images are worth more than 20 points",
    free - scarce["260 labels"][0] - 20,
    "points",
)
claim(
    "Answers on unlabelled images are no worse than all the labels",
    free - (hard[0] - 1),
    "points",
)

# %%
Table(
    ["lesson", "test accuracy, %"],
    [[n, mean_sd(*r)] for n, r in scarce.items()],
    f"as many images seen, {len(SEEDS)} seeds",
)

# %% [markdown]
# The teacher has seen labels, of course: 6,500 of other images. Distillation moves knowledge; it does not make any.
#
# ## 4 · Who makes a good teacher?
#
# The student stays the same, the teacher changes: a modest one, one of the student's own kind, and one who is always wrong. First your guess.

# %%
teacher_guess = predict(
    "A teacher who says the next letter (B for A, C for B …), and a tenth of the weight on "
    "true labels: the student ends",
    ["as with hard labels", "a little worse", "worse than guessing"],
)

# %%
(modest,) = trained("modest-teacher", data, SEEDS[:1])
teacher_logits = logits(teacher, few.x)
schools = {
    "modest teacher": distill.cached(modest, few.x),
    "itself, a generation before": [distill.cached(n, few.x) for n in students["hard labels"]],
    "teacher of the next letter": lambda batch: teacher_logits.roll(1, 1)[batch.index],
}
for name, source in schools.items():
    losses = (
        [distill.Distillation(s, 0.1, 4.0) for s in source]
        if isinstance(source, list)
        else distill.Distillation(source, 0.1, 4.0)
    )
    students[name] = taught(losses, name)
    reached[name] = mean_and_sd(students[name])
wrong = reached["teacher of the next letter"][0]
next_letter = Examples(data.test.x, (data.test.y + 1) % CLASSES)
says_next = mean_and_sd(students["teacher of the next letter"], next_letter)

# %%
teacher_guess.reveal(
    "worse than guessing"
    if wrong < 100 / CLASSES
    else "as with hard labels"
    if wrong > hard[0] - 1
    else "a little worse"
)

# %% [markdown]
# And a student that is too small?

# %%
tiny = {
    "hard labels": taught(
        cross_entropy, "tiny, hard labels", make=lambda: student_network((4, 8, 16))
    ),
    "teacher, T = 4": taught(
        distill.Distillation(offline, 0.1, 4.0),
        "tiny, T = 4",
        make=lambda: student_network((4, 8, 16)),
    ),
    "modest teacher": taught(
        distill.Distillation(distill.cached(modest, few.x), 0.1, 4.0),
        "tiny, modest teacher",
        make=lambda: student_network((4, 8, 16)),
    ),
}
tiny_reached = {n: mean_and_sd(found) for n, found in tiny.items()}

# %%
claim(
    "A modest teacher is worth something, too: on average over both sizes of student",
    (
        reached["modest teacher"][0]
        - hard[0]
        + tiny_reached["modest teacher"][0]
        - tiny_reached["hard labels"][0]
    )
    / 2,
    "points",
)
claim(
    "The best teacher's students gain less than four points over the modest one's, on average "
    "over both sizes",
    4
    - (
        reached["teacher, T = 4"][0]
        - reached["modest teacher"][0]
        + tiny_reached["teacher, T = 4"][0]
        - tiny_reached["modest teacher"][0]
    )
    / 2,
    "points",
)

# %%
claim(
    "The student of the wrong teacher has learned well: on most images it says the next letter",
    says_next[0] - 60,
    "points",
)
claim(
    "Here no teacher makes up for the tiny student's missing width: it stays below the small "
    "one on hard labels",
    hard[0] - max(r[0] for r in tiny_reached.values()),
    "points",
)
Table(
    ["teacher", "student", "test accuracy, %"],
    [
        *(
            [n, "small", mean_sd(*reached[n])]
            for n in ("hard labels", "teacher, T = 4", *schools)
        ),
        *([n, "tiny", mean_sd(*r)] for n, r in tiny_reached.items()),
    ],
    "T = 4; students see few steps, and so did the generation before; modest teacher "
    f"{evaluate(modest, data.test):.1f} %, {len(SEEDS)} seeds; chance {100 / CLASSES:.1f} %",
    text_columns=2,
)

# %% [markdown]
# ## 5 · Hot early, cool late?
#
# A temperature may change during training: soft answers first, the decision at the end.
#
# ### Exercise 4 · Hot early, cool late (1 point, about 1 line)
#
# From `high` at step 0 to `low` at step `steps`, by the same factor at every step.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def falling_temperature_spec(step, steps, high, low):
#     factor = (low / high) ** (1 / steps)
#     temperature = high
#     for _ in range(step):
#         temperature *= factor
#     return temperature
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "distill-falling_temperature", "locked": false, "schema_version": 3, "solution": true, "task": false}
def falling_temperature(step, steps, high, low):
    """Two ints, two numbers above 0 -> the temperature at that step."""
    ### BEGIN SOLUTION
    return high * (low / high) ** (step / steps)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "distill-falling_temperature-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(falling_temperature, "distill.falling_temperature")

# %%
falling_temperature = adopt(falling_temperature, "distill.falling_temperature")


def cooling(done):
    return falling_temperature(round(1000 * done), 1000, 8.0, 2.0)


# A loss whose temperature falls remembers where it is: each student needs one of its own.
schedules = [distill.Distillation(offline, 0.1, cooling) for _ in SEEDS]
reached["T falls from 8 to 2"] = mean_and_sd(taught(schedules, "falling T"))
print(
    compared(
        *("T falls from 8 to 2", reached["T falls from 8 to 2"]),
        *(f"teacher, T = {chosen}", reached[f"teacher, T = {chosen}"]),
    )
)

# %%
claim(
    "A temperature that falls gains less than two points over the best fixed one of three",
    2
    - reached["T falls from 8 to 2"][0]
    + max(reached[f"teacher, T = {t}"][0] for t in (2, 4, 8)),
    "points",
)
Table(
    ["temperature", "test accuracy, %"],
    [
        [n, mean_sd(*reached[n])]
        for n in ("teacher, T = 2", "teacher, T = 4", "teacher, T = 8", "T falls from 8 to 2")
    ],
    f"{EPOCHS} epochs, {len(SEEDS)} seeds",
)

# %% [markdown]
# ## 6 · Online
#
# Cached answers are for fixed images. If images are changed at random, the teacher must be asked anew (*online*). And in deep mutual
# learning (Zhang et al. 2018) there is no teacher: two untrained students teach each other. Look in the table how much it matters that the answers
# are for the image as it was moved.


# %%
def shifted(batch, most=3):
    """Every image moved by up to three pixels, another way each time; the edge is drawn out."""
    n, _, height, width = batch.x.shape
    rows = (torch.arange(height) + torch.randint(-most, most + 1, (n, 1))).clamp(0, height - 1)
    columns = (torch.arange(width) + torch.randint(-most, most + 1, (n, 1))).clamp(0, width - 1)
    moved = batch.x[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return Batch(moved.permute(0, 3, 1, 2), batch.y, batch.index)


def with_shifts(loss):
    return lambda model, batch: loss(model, shifted(batch))


moved = {
    "hard labels": with_shifts(cross_entropy),
    "answers cached for the unmoved image": with_shifts(
        distill.Distillation(offline, 0.1, 4.0)
    ),
    "the teacher asked anew": with_shifts(
        distill.Distillation(distill.online(teacher), 0.1, 4.0)
    ),
}

# %%
# Moving images draws from torch's global generator: these students learn one after the other.
online = {
    n: mean_and_sd(taught(loss, f"moved: {n}", in_turn=True)) for n, loss in moved.items()
}
cohorts = taught(
    distill.mutual(2.0),
    "mutual",
    make=lambda: distill.Cohort([student_network(), student_network()]),
)
mutual = mean_and_sd([cohort.students[0] for cohort in cohorts])
claim(
    "On moved images, too, a teacher who sees them is worth something",
    online["the teacher asked anew"][0] - online["hard labels"][0],
    "points",
)
claim(
    "Two students that teach each other stay behind the one with a teacher",
    best - mutual[0],
    "points",
)
Table(
    ["lesson", "test accuracy, %"],
    [
        *([f"moved images: {n}", mean_sd(*r)] for n, r in online.items()),
        ["two students, each other's teacher", mean_sd(*mutual)],
        ["one student, hard labels", mean_sd(*hard)],
    ],
    f"T = 4 (mutual: 2), {EPOCHS} epochs of 1,500 images, {len(SEEDS)} seeds",
)

# %% [markdown]
# ## 7 · Hints from inside
#
# A teacher can also show *where it looks*: the attention map (注意力图) of a layer (Zagoruyko and Komodakis 2017) is the mean square over channels at every
# position, scaled to length 1. The squared distance of the student's and the teacher's maps at three layers joins the loss. (FitNets, Romero et al.
# 2015, compare the features themselves, through a learned projection: `distill.Hints(..., "mse")`.)
#
# ### Exercise 5 · Where does it look? (2 points, about 3 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def attention_map_spec(features):
#     out = np.zeros((len(features), features[0, 0].size), np.float32)
#     for i, image in enumerate(features):
#         energy = np.zeros(image[0].shape)
#         for channel in image:
#             energy += channel.astype(float) ** 2 / len(image)
#         out[i] = (energy / np.sqrt((energy**2).sum())).ravel()
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "distill-attention_map", "locked": false, "schema_version": 3, "solution": true, "task": false}
def attention_map(features):
    """float32 [n, channels, h, w] -> float32 [n, h * w], rows of length 1."""
    ### BEGIN SOLUTION
    energy = np.square(features).mean(axis=1).reshape(len(features), -1)
    return energy / np.sqrt(np.square(energy).sum(axis=1, keepdims=True))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "distill-attention_map-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(attention_map, "distill.attention_map")

# %%
attention_map = adopt(attention_map, "distill.attention_map")
LAYERS = {"0": "1", "2": "2", "4": "3"}
hints = [
    distill.Hints(
        teacher,
        LAYERS,
        distill.Distillation(offline, 0.1, 4.0),
        "attention",
        weight=1.0,
        cached_on=few.x,
    )
    for _ in SEEDS
]
shown_by_hints = taught(hints, "hints")
reached["and hints from inside"] = mean_and_sd(shown_by_hints)


# %%
def distance_of_maps(network):
    """How far the student's maps are from the teacher's, on test images."""
    x = data.test.x[:200]
    with (
        torch.no_grad(),
        distill.Tap(network, list(LAYERS)) as mine,
        distill.Tap(teacher, list(LAYERS.values())) as theirs,
    ):
        network(x), teacher(x)
    maps = [
        (attention_map(mine[a].numpy()), attention_map(theirs[b].numpy()))
        for a, b in LAYERS.items()
    ]
    return float(np.mean([np.square(a - b).sum(1).mean() for a, b in maps]))


# %%
apart = {
    n: float(np.mean([distance_of_maps(s) for s in found]))
    for n, found in (
        ("without hints", students["teacher, T = 4"]),
        ("with hints", shown_by_hints),
    )
}
x = data.test.x[:8]
figure, axes = plt.subplots(4, 8, figsize=(9, 4.4))
rows = {"image": x[:, 0]}
for name, network, layer in (
    ("teacher", teacher, "2"),
    ("without", students["teacher, T = 4"][0], "2"),
    ("with hints", shown_by_hints[0], "2"),
):
    with torch.no_grad(), distill.Tap(network, [layer]) as found:
        network(x)
    side = found[layer].shape[2]
    rows[name] = attention_map(found[layer].numpy()).reshape(-1, side, side)
for row, (name, pictures) in zip(axes, rows.items()):
    for axis, picture in zip(row, pictures):
        axis.imshow(picture, cmap="gray_r" if name == "image" else "viridis")
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
    row[0].set_ylabel(name, fontsize=9)
plt.show()

# %%
claim(
    "With hints the student looks more where the teacher looks",
    apart["without hints"] - apart["with hints"],
    "of squared distance",
)
claim(
    "In accuracy the hints change less than 2.5 points",
    2.5 - abs(reached["and hints from inside"][0] - reached["teacher, T = 4"][0]),
    "points",
)
Table(
    ["", "distance of the maps", "test accuracy, %"],
    [
        ["answers only", f"{apart['without hints']:.3f}", mean_sd(*reached["teacher, T = 4"])],
        [
            "answers and hints",
            f"{apart['with hints']:.3f}",
            mean_sd(*reached["and hints from inside"]),
        ],
    ],
    f"{len(SEEDS)} seeds",
)

# %% [markdown]
# ## Build it · The loop in which a student learns
#
# ### Exercise 6 · The loop in which a student learns (build, 12 points, about 18 lines)
#
# The lab's `fit` hides what you have seen so far in parts. Write the whole loop: `teach(student, teacher, batches, temperature, alpha, lr)` trains the student in
# place, one step for each batch `(x, y)`, with one `torch.optim.SGD` of momentum 0.9 for all steps. It returns the loss of every step, as it is before that step: a list of floats.
#
# 1. *The loss* of Exercise 2: `alpha` times the cross-entropy with the labels, plus `1 - alpha` times $T^2\,\mathrm{KL}(p^{\text{teacher}}_T \,\|\, p^{\text{student}}_T)$, both averaged
#    over the examples.
# 2. *The teacher without dropout*: it answers in evaluation mode, and without gradients.
# 3. *The student learns*, in training mode.
# 4. *As it was*: the teacher's parameters have not moved, and it is in the mode in which you were given it, whichever that is.


# %% nbgrader={"grade": false, "grade_id": "distill-teach", "locked": false, "schema_version": 3, "solution": true, "task": false}
def teach(student, teacher, batches, temperature, alpha, lr):
    """Two modules, [(x, y), ...], T, the labels' weight, the rate -> [loss of each step]."""
    ### BEGIN SOLUTION
    mode, losses = teacher.training, []
    teacher.eval()
    student.train()
    optimizer = torch.optim.SGD(student.parameters(), lr, momentum=0.9)
    for x, y in batches:
        with torch.no_grad():
            log_p = torch.log_softmax(teacher(x) / temperature, 1)
        answers = student(x)
        log_q = torch.log_softmax(answers / temperature, 1)
        soft = temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1).mean()
        hard = torch.nn.functional.cross_entropy(answers, y)
        loss = alpha * hard + (1 - alpha) * soft
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    teacher.train(mode)
    return losses
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "distill-teach-check", "locked": true, "points": 12, "schema_version": 3, "solution": false, "task": false}
check(teach, "distill.teach")

# %%
teach = adopt(teach, "distill.teach")

# %%
torch.manual_seed(SEEDS[0])
pupil = models.MLP(data.shape, len(data.classes), (24,))
fifties = [
    (data.train.x[i], data.train.y[i])
    for _ in range(5)
    for i in torch.randperm(4_000).split(50)
]
course = teach(pupil, teacher, fifties, 4.0, 0.1, 0.05)
claim(
    "In your loop the loss of the last twenty steps is less than two thirds of that of the "
    "first twenty",
    2 / 3 - sum(course[-20:]) / sum(course[:20]),
    "of the loss",
    yours=teach,
)
print(
    f"loss {sum(course[:20]) / 20:.2f} at first, {sum(course[-20:]) / 20:.2f} at last; "
    f"{evaluate(pupil.eval(), data.test):.1f} % of the test images after {len(course)} steps"
)

# %% [markdown]
# ## Open · A student of 40 kB
#
# An *open* exercise has no right answer. What you hand back is measured, here and again while grading, on images that your code does not see: bronze is above
# what labels alone reach, gold is what our own best answer reaches.
#
# ### Exercise 7 · A student of 40 kB (open, 9 points, about 25 lines)
#
# You are given 6,000 images [n, 256], the teacher's logits for all of them, and labels for **the first 300 only**. Train a perceptron (any number of layers, ReLU
# between them) whose float32 weights and biases take at most `room` bytes, and hand back its weights, each [outputs, inputs], and its biases. Aim at 15 seconds of processor
# time (`time.process_time()`): after 20 the grader stops. torch is at hand, the library is not.


# %% nbgrader={"grade": false, "grade_id": "distill-train_student", "locked": false, "schema_version": 3, "solution": true, "task": false}
def train_student(images, logits, labels, room):
    """float32 [n, 256], float32 [n, 26], int64 [300], int
    -> (weights, biases), tuples of float32 arrays."""
    ### BEGIN SOLUTION
    torch.manual_seed(0)
    classes, inputs = logits.shape[1], images.shape[1]
    hidden = (room // 4 - classes) // (inputs + 1 + classes)
    first, last = torch.nn.Linear(inputs, hidden), torch.nn.Linear(hidden, classes)
    x, temperature = torch.from_numpy(images), 2.0
    soft = torch.softmax(torch.from_numpy(logits) / temperature, 1)
    epochs, size, rate = 60, 100, 7e-3
    steps, step = epochs * -(-len(x) // size), 0
    optimizer = torch.optim.AdamW(
        [*first.parameters(), *last.parameters()], rate, weight_decay=0.01
    )
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(size):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps) + 1e-5
            noisy = x[batch] + 0.15 * torch.randn(len(batch), inputs)
            log_q = torch.log_softmax(last(torch.relu(first(noisy))) / temperature, 1)
            loss = -(soft[batch] * log_q).sum(1).mean() * temperature**2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    layers = (first, last)
    weights = tuple(layer.weight.detach().numpy() for layer in layers)
    return weights, tuple(layer.bias.detach().numpy() for layer in layers)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "distill-train_student-check", "locked": true, "points": 9, "schema_version": 3, "solution": false, "task": false}
check(train_student, "distill.train_student")

# %%
train_student = adopt(train_student, "distill.train_student")

# %% [markdown]
# ## In the course's own measures
#
# What this lab made, with the cheapest step of all in front: a cast to 16 bits (半精度), which halves the file and asks for nothing else. Energy (能耗) is an estimate: operations and the file read once, at the prices of a 45 nm process (Horowitz 2014).

# %%
import compresslab as cl

by_teacher = cl.measure(teacher, data, "teacher")
by_labels = cl.measure(students["hard labels"], data, "student, hard labels")
cl.table(
    by_teacher,
    cl.measure(copy.deepcopy(teacher).half(), data, "float16, a cast"),
    cl.measure(copy.deepcopy(teacher).bfloat16(), data, "bfloat16, a cast"),
    by_labels,
    cl.measure(students[f"teacher, T = {chosen}"], data, "student, taught"),
)

# %% [markdown]
# What did each of them cost until it was there? A step of training multiplies about three times as often as an answer does: once forward, once back to the inputs, once for the gradients of the weights. A taught student's bill includes its teacher's training, and the teacher's answers for its images, once.

# %%
schooling = baseline_of("teacher")
training = 3 * by_teacher.macs * schooling.epochs * schooling.first
answering, learning = by_teacher.macs * len(few), 3 * by_labels.macs * EPOCHS * len(few)
whole = training + answering + learning
claim(
    "With its teacher's training on the bill, the taught student costs more than ten times "
    "the multiplications of the one on labels",
    whole / learning - 10,
    "times",
)
Table(
    ["multiplications", "student, hard labels", "student, taught"],
    [
        ["the teacher's training", "-", in_units(training)],
        ["the teacher's answers", "-", in_units(answering)],
        ["the student's training", in_units(learning), in_units(learning)],
        ["all", in_units(learning), f"{in_units(whole)}, {whole / learning:.0f} times as many"],
    ],
    "one student; the teacher is paid once, however many students it has",
)

# %% [markdown]
# ## Longer than a lab · Other distances, other teachers, no softmax
#
# What follows takes minutes for each seed: it was run over several seeds, and its rows are kept beside the code (`compresslab/longer/distances.py`). With `COMPRESSLAB_LONGER=1` in the environment a cell runs one seed here as well; `compresslab longer distances` runs them all anew.
#
# Is the divergence needed, or does the squared difference of the logits do? Mind the column of images: a distilled student's bill includes its teacher's training. The last row is the control that such tables lack as a rule: the same student on all labels that teacher and student have had, for as many images. Where these labels are at hand, they are worth more than the teacher; distillation is for when they are not, or for when the teacher is there already.

# %%
from compresslab.longer import show_longer

show_longer("distances")

# %% [markdown]
# In section 6 two equals taught each other. Here the other one is large, and is learning itself.

# %%
show_longer("learning_together")

# %% [markdown]
# A student learns best from its own kind, it is said. Two teachers of nearly the same accuracy, one plain, one residual, and two students: if kinship counts, like pairs are better than unlike ones.

# %%
show_longer("teacher_family")

# %% [markdown]
# Should the last steps be on labels alone? Both ways take as many steps.

# %%
show_longer("labels_last")

# %% [markdown]
# A task whose answer is four numbers, a box, has no soft targets. What a teacher still can give is answers for pages that nobody labelled. Measured by intersection over union (交并比).

# %%
show_longer("boxes")

# %% [markdown]
# ## What the papers say, what we measured
#
# The networks, data and machines of the papers are others than ours: compare directions and sizes, not digits.

# %%
Table(
    ["finding", "source", "paper", "here"],
    [
        [
            "errors, hard labels to distilled",
            "Hinton et al. 2015, section 3 (MNIST, T = 20)",
            "146 to 74 of 10,000",
            f"{100 - hard[0]:.1f} % to {100 - best:.1f} %",
        ],
        [
            "a student of its own size",
            "Furlanello et al. 2018 (born again)",
            "better than its teacher",
            f"{reached['itself, a generation before'][0] - hard[0]:+.1f} points",
        ],
        [
            "mutual learning",
            "Zhang et al. 2018, table 2 (CIFAR-100)",
            "better than alone",
            f"{mutual[0] - hard[0]:+.1f} points (sd {mutual[1]:.1f})",
        ],
    ],
    text_columns=2,
)

# %% [markdown] nbgrader={"grade": true, "grade_id": "written-distill_written", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# ## Written question (2 points)
#
# Your company has a good teacher, 500 labels, a million unlabelled pictures, and needs a network a tenth as large. Write the plan: which losses, which
# temperatures to try, which controls, and what would make you give up distillation.
#
# *Your answer (double-click here to write it):*

# %% [markdown]
# ## Recap
#
# - Softened answers teach more than labels; the temperature decides how much, and T² keeps the balance.
# - Answers need no labels: a teacher makes unlabelled images useful.
# - A teacher must be right; it lifts a tiny student, too, and does not replace width. Compare with hard labels, same steps, several seeds.
#
# **Do not use it** with a teacher you cannot trust on your data, nor in place of a student that is large enough.
#
# **Back:** [Lab 07 · Slim by design](07_slim_by_design.ipynb) · **Next:** [Lab 09 · Distilling transformers](09_distilling_transformers.ipynb)
#
# **References.** Hinton et al. 2015, *Distilling the knowledge in a neural network*, arXiv:1503.02531 · Romero et al. 2015, *FitNets*, arXiv:1412.6550 ·
# Zagoruyko and Komodakis 2017, arXiv:1612.03928 · Zhang et al. 2018, *Deep mutual learning*, arXiv:1706.00384 · Furlanello et al. 2018, *Born-again
# neural networks*, arXiv:1805.04770
