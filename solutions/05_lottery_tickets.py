# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Lab 05 · Lottery tickets
#
# **You will** find small subnetworks that train as well as the whole, ask with controls what makes them special, and stop the
# search early.
# **Time:** 90 minutes to work through; it runs in one to three minutes, by processor.
#
# Lab 04 pruned trained networks. Could one have trained the small network in the first place? For whole channels nearly, as lab 04
# found; for single weights usually not: it ends up worse. The lottery ticket hypothesis (彩票假设; Frankle and Carbin 2019) says: it depends on *where it starts*.
#
# > A dense network contains a subnetwork that, trained alone **from its own initial weights**, matches the dense network in at
# > most as many steps.

# %%
import copy
import itertools
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from compresslab.lab import (
    Table,
    adopt,
    agreement,
    begin,
    check,
    claim,
    evaluate,
    explore,
    fit,
    load,
    mean_sd,
    models,
    predict,
    seed_everything,
    usable_cores,
    use_style,
)
from compresslab.techniques import scores
from compresslab.techniques.prune import KeepMask, Mask
from compresslab.techniques.tickets import EarlyBird, Trial, run_all

use_style()
SEEDS = begin()
data = load(size=16, train_size=8_000, seed=SEEDS[0])
CLASSES, EPOCHS, LR = len(data.classes), 8, 0.1

# %% [markdown]
# ## A hook: the same small network, twice
#
# One in eight weights stays. Two networks have *the same connections*; one starts from the weights it had when it was
# part of the dense network, the other from fresh ones.
#
# The five steps: (1) initialise, (2) train, (3) remove the smallest weights that are left, (4) rewind the others (权重回退) to
# where they began, (5) repeat.
#
# ### Exercise 1 · The next mask (2 points, about 5 lines)
#
# `remaining` is a share of *all* weights: keep `n - round((1 - remaining) * n)` of n, the largest magnitudes (of equals, the
# last in order). What an earlier mask removed stays removed.
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def next_mask_spec(weight, mask, remaining):
#     places = [
#         (abs(float(w)) if kept else -1.0, i)
#         for i, (w, kept) in enumerate(zip(weight.ravel(), mask.ravel()))
#     ]
#     stays = np.ones(weight.size, bool)
#     for _, i in sorted(places)[: round((1 - remaining) * weight.size)]:
#         stays[i] = False
#     return stays.reshape(weight.shape)
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "tickets-next_mask", "locked": false, "schema_version": 3, "solution": true, "task": false}
def next_mask(weight, mask, remaining):
    """float32 [...], bool [...], a share of all weights -> bool [...]: what stays."""
    ### BEGIN SOLUTION
    size = np.where(mask, np.abs(weight), -1).ravel()
    keep = np.ones(size.size, bool)
    keep[np.argsort(size, kind="stable")[: round((1 - remaining) * size.size)]] = False
    return keep.reshape(weight.shape)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "tickets-next_mask-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(next_mask, "tickets.next_mask")

# %%
next_mask = adopt(next_mask, "tickets.next_mask")

# %% [markdown]
# ### Exercise 2 · Back to the start (1 point, about 1 line)
#
# The ticket's weights go back to what they were before training; all others are 0. (`trained` is there to be left alone.)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def rewind_spec(initial, trained, mask):
#     out = np.zeros_like(initial)
#     for place in np.ndindex(mask.shape):
#         if mask[place]:
#             out[place] = initial[place]
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "tickets-rewind", "locked": false, "schema_version": 3, "solution": true, "task": false}
def rewind(initial, trained, mask):
    """float32 [...] twice, bool [...] -> the ticket's weights before its own training."""
    ### BEGIN SOLUTION
    return initial * mask
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "tickets-rewind-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(rewind, "tickets.rewind")

# %%
rewind = adopt(rewind, "tickets.rewind")

# %% [markdown]
# Your two functions run the search, on all layers in one list, halving the weights three times.

# %%
first = predict(
    "The same connections at one weight in eight: own initial weights against fresh ones. The "
    "difference?",
    ["under 5 points", "5 to 20 points", "more than 20 points"],
)


# %%
def flat(model):
    return np.concatenate(
        [m.weight.detach().numpy().ravel() for m in scores.prunable(model).values()]
    )


def as_mask(model, kept):
    """A flat bool array as a Mask of the model's layers."""
    named, place, keep = scores.prunable(model), 0, {}
    for name, layer in named.items():
        count = layer.weight.numel()
        keep[name] = torch.from_numpy(kept[place : place + count]).reshape(layer.weight.shape)
        place += count
    return Mask(keep)


def with_weights(model, values):
    """A copy with these weights; biases are the model's."""
    model, place = copy.deepcopy(model), 0
    for layer in scores.prunable(model).values():
        count = layer.weight.numel()
        part = torch.from_numpy(values[place : place + count].copy())
        layer.weight.data = part.reshape(layer.weight.shape)
        place += count
    return model


# %%
def train(model, mask=None, label="training"):
    hooks = [KeepMask(mask)] if mask else []
    fit(model, data.train, EPOCHS, LR, hooks=hooks, label=label, seed=SEEDS[0])
    return model


# %%
seed_everything(SEEDS[0])
start = models.MLP(data.shape, CLASSES)
kept, network = np.ones(flat(start).size, bool), train(copy.deepcopy(start), label="dense")
dense_accuracy = evaluate(network, data.test)
dense_network = network
for remaining in (0.5, 0.25, 0.125):
    kept = next_mask(flat(network), kept, remaining)
    ticket = with_weights(start, rewind(flat(start), flat(network), kept))
    network = train(ticket, as_mask(start, kept), f"{100 * remaining:.3g} % left")
winner = evaluate(network, data.test)
seed_everything(SEEDS[0] + 500)
stranger = evaluate(
    train(models.MLP(data.shape, CLASSES), as_mask(start, kept), "fresh weights"), data.test
)
gap = winner - stranger

# %%
first.reveal(
    "under 5 points" if gap < 5 else "5 to 20 points" if gap <= 20 else "more than 20 points"
)
claim(
    "With one weight in eight the ticket is within 3 points of the dense network",
    3 - (dense_accuracy - winner),
    "points",
)
claim(
    "The same connections with fresh weights are more than 10 points worse", gap - 10, "points"
)
print(
    f"dense {dense_accuracy:.1f} %, ticket {winner:.1f} %, same connections, fresh weights "
    f"{stranger:.1f} %"
)

# %% [markdown]
# Which connections stay? For every pixel of the letter, the share of its 300 connections that a mask keeps, drawn at once from
# the dense network:

# %%
seed_everything(SEEDS[0])
full = train(copy.deepcopy(start), label="dense")


def draw_pixels(share):
    mask = as_mask(start, next_mask(flat(full), np.ones(flat(full).size, bool), share))
    kept_by_pixel = mask.keep["1"].float().mean(0).reshape(data.shape[1:]).numpy()
    figure, axes = plt.subplots(figsize=(4.2, 3.2))
    picture = axes.imshow(100 * kept_by_pixel, cmap="cividis", vmin=0)
    figure.colorbar(picture, label="connections kept, %")
    axes.set(title=f"{100 * share:.0f} % of all weights left", xticks=[], yticks=[])
    axes.grid(False)


explore(draw_pixels, share=(0.02, 1.0, 0.02))

# %%
kept_by_pixel = as_mask(start, kept).keep["1"]  # of the ticket itself
kept_by_pixel = kept_by_pixel.float().mean(0).reshape(data.shape[1:])
corners = torch.cat(
    [
        kept_by_pixel[:2, :2],
        kept_by_pixel[:2, -2:],
        kept_by_pixel[-2:, :2],
        kept_by_pixel[-2:, -2:],
    ]
)
ink = data.train.x.mean((0, 1))
claim(
    "Letters have less ink in the corners than in the middle",
    float(ink[6:10, 6:10].mean() - ink[:2, :2].mean()),
    "of full ink",
)
claim(
    "Pixels in the corners keep fewer connections than those in the middle",
    float(kept_by_pixel[6:10, 6:10].mean() - corners.mean()),
    "of the connections",
)

# %% [markdown]
# ## 1 · What makes a ticket win?
#
# A ticket is a *mask* and a *start* (weights and biases). Controls change one and keep the other:
#
# | | mask | start |
# |---|---|---|
# | winning | found | own initial weights |
# | re-initialised (重新初始化) | found | new initial weights |
# | random ticket | random, as many in each layer | own initial weights |
# | signs only | found | own signs, one magnitude a layer |
#
# A control that differs in two things says nothing about either. That is why the random ticket must have *exactly as many weights in
# every layer*.
#
# ### Exercise 3 · A fair control (2 points, about 4 lines)
#
# For each layer, keep as many weights as its mask keeps: those with the smallest noise (of equals, the first).
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def random_ticket_spec(masks, noise):
#     chosen = []
#     for mask, values in zip(masks, noise):
#         order = sorted(
#             range(values.size), key=lambda i: (float(values.ravel()[i]), i)
#         )
#         keep = np.zeros(values.size, bool)
#         for i in order[: int(mask.sum())]:
#             keep[i] = True
#         chosen.append(keep.reshape(mask.shape))
#     return tuple(chosen)
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "tickets-random_ticket", "locked": false, "schema_version": 3, "solution": true, "task": false}
def random_ticket(masks, noise):
    """Tuples of bool and float32 arrays of the same shapes -> a tuple of bool arrays."""
    ### BEGIN SOLUTION
    out = []
    for mask, values in zip(masks, noise):
        keep = np.zeros(values.size, bool)
        keep[np.argsort(values.ravel(), kind="stable")[: int(mask.sum())]] = True
        out.append(keep.reshape(mask.shape))
    return tuple(out)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "tickets-random_ticket-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check(random_ticket, "tickets.random_ticket")

# %%
random_ticket = adopt(random_ticket, "tickets.random_ticket")
found = as_mask(start, kept)
noise = tuple(torch.rand(m.shape).numpy() for m in found.keep.values())
random = random_ticket(tuple(m.numpy() for m in found.keep.values()), noise)
random = Mask({name: torch.from_numpy(keep) for name, keep in zip(found.keep, random)})
claim(
    "Your random ticket has as many weights in every layer",
    random.of_layers() == found.of_layers(),
    yours=random_ticket,
)
seed_everything(SEEDS[0])
lost = evaluate(train(models.MLP(data.shape, CLASSES), random, "random ticket"), data.test)
claim(
    "With the winner's start and a random mask it is far worse: the mask matters too",
    winner - 10 - lost,
    "points",
)
print(f"random ticket {lost:.1f} %, winning {winner:.1f} % (one seed; three below)")

# %% [markdown]
# ### Exercise 4 · Only the signs (1 point, about 1 line)
#
# Zhou et al. (2019) asked what of the start matters. Keep each weight's sign, and give all of a layer one magnitude: its root mean square (over all of its weights, those that will
# be pruned too).
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def signs_only_spec(initial):
#     size = (sum(float(w) ** 2 for w in initial.ravel()) / initial.size) ** 0.5
#     out = np.empty_like(initial)
#     for place in np.ndindex(initial.shape):
#         out[place] = size if initial[place] > 0 else -size
#     return out
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "tickets-signs_only", "locked": false, "schema_version": 3, "solution": true, "task": false}
def signs_only(initial):
    """float32 [...], none of them 0
    -> float32 [...]: the signs, at the layer's root mean square."""
    ### BEGIN SOLUTION
    return np.sign(initial) * np.sqrt(np.square(initial).mean())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "tickets-signs_only-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(signs_only, "tickets.signs_only")

# %%
signs_only = adopt(signs_only, "tickets.signs_only")
before = start[1].weight.detach().numpy()
claim(
    "Signs and the sum of squares stay what they were",
    bool((np.sign(signs_only(before)) == np.sign(before)).all())
    and np.isclose(np.square(signs_only(before)).sum(), np.square(before).sum()),
)

# %%
signs = predict(
    "Own signs at one magnitude, 6 % of the weights left: nearer to the winning or to the "
    "re-initialised ticket?",
    ["to the winning one", "to the re-initialised one", "in the middle"],
)

# %% [markdown]
# Now in earnest: three seeds, from half of the weights down to 4 %, every variant. Each seed is a task of its own
# for a pool of processes, one a core. `run_all` keeps each seed's results in a folder: with one that lasts, an interrupted run goes on
# where it stopped. (The same call takes a cluster's executor.)

# %%
REMAINING = (0.5, 0.25, 0.125, 0.06, 0.04)
VARIANTS = ("winning", "signs", "reinitialised", "random")


# The processes stay for the whole lab: starting one costs as much as a short training.
POOL = ProcessPoolExecutor(
    usable_cores(),
    multiprocessing.get_context("spawn"),
    initializer=torch.set_num_threads,
    initargs=(1,),
)


# %%
def run(trials, label):
    with tempfile.TemporaryDirectory() as folder:
        found = run_all(trials, Path(folder), POOL, label)
    return list(found.values())


def band(results, variant):
    """Mean and sd over the seeds at every share."""
    values = np.array([[accuracy for _, accuracy in r[variant]] for r in results])
    return values.mean(0), values.std(0, ddof=1)


trials = [
    Trial(
        seed,
        REMAINING,
        VARIANTS,
        data.name,
        train_size=8_000,
        data_seed=SEEDS[0],
        epochs=EPOCHS,
        lr=LR,
    )
    for seed in SEEDS
]
results = run(trials, "seeds")

# %%
NAMES = {
    "winning": "winning",
    "signs": "signs only",
    "reinitialised": "re-initialised",
    "random": "random ticket",
}


# %%
def draw(results, title, shares=REMAINING):
    figure, axes = plt.subplots(figsize=(7.5, 3.8))
    for colour, ((variant, name), marker) in enumerate(zip(NAMES.items(), "o^sD")):
        if variant in results[0]:
            mean, sd = band(results, variant)
            axes.plot(
                [100 * s for s in shares],
                mean,
                marker=marker,
                ms=5,
                label=name,
                color=f"C{colour}",
            )
            axes.fill_between(
                [100 * s for s in shares], mean - sd, mean + sd, color=f"C{colour}", alpha=0.2
            )
    axes.axhline(band(results, "dense")[0][0], color="black", ls=":", label="dense")
    axes.set(xscale="log", xlabel="weights left, %", ylabel="test accuracy, %", title=title)
    axes.set_xticks([100 * s for s in shares], [f"{100 * s:.3g}" for s in shares])
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.legend(fontsize=9)
    plt.show()


# %%
draw(results, f"{data.name}, {len(SEEDS)} seeds (band: ± sd)")
means = {v: dict(zip(REMAINING, band(results, v)[0])) for v in VARIANTS}
sds = {v: dict(zip(REMAINING, band(results, v)[1])) for v in VARIANTS}
dense = tuple(float(v[0]) for v in band(results, "dense"))
at = {v: means[v][0.06] for v in VARIANTS}
near = (at["winning"] - at["signs"]) / (at["winning"] - at["reinitialised"])

# %%
signs.reveal(
    "to the winning one"
    if near < 1 / 3
    else "to the re-initialised one"
    if near > 2 / 3
    else "in the middle"
)
claim(
    "With a quarter of the weights the winning ticket matches the dense network (within a "
    "point)",
    means["winning"][0.25] - (dense[0] - 1),
    "points",
)
claim(
    "At 6 %, the winning ticket is more than 15 points above the re-initialised one",
    at["winning"] - at["reinitialised"] - 15,
    "points",
)

# %%
claim(
    "At 6 %, the winning ticket is more than 40 points above the random one",
    at["winning"] - at["random"] - 40,
    "points",
)
claim(
    "With half of the weights it is even better than the dense network",
    means["winning"][0.5] - dense[0],
    "points",
)
parted = {
    share: (means["winning"][share] - sds["winning"][share])
    - (means["reinitialised"][share] + sds["reinitialised"][share])
    for share in REMAINING
}
claim(
    "The bands of winning and re-initialised tickets part at every share",
    min(parted.values()),
    "points",
)
claim("Signs alone are worth most of the start", 0.5 - near, "of the start")
Table(
    ["ticket", *(f"{100 * s:.3g} %" for s in REMAINING)],
    [[NAMES[v], *(mean_sd(means[v][s], sds[v][s]) for s in REMAINING)] for v in VARIANTS],
    f"dense {mean_sd(*dense)} %; {EPOCHS} epochs, {len(SEEDS)} seeds",
)

# %% [markdown]
# With half of its weights the winning ticket beats the dense network. Training is short here; try whether the lead is still there
# with three times the epochs. The same half with another start is worse, so it is not the smaller number alone. Two things the picture
# does not say. More epochs narrow the gap (try it): a network that trains for long forgets where it began. And a ticket is no cheaper to find than the dense network: the search trains once a round.
#
# ## 2 · How far down? An easier task
#
# Frankle and Carbin show LeNet-300-100 on MNIST with about 4 % of its weights. Ours on digits (which need more epochs, having fewer
# images):

# %%
DIGITS = (0.3, 0.1, 0.04, 0.02)
variants = ("winning", "reinitialised", "random")
settings = {"size": 8, "train_size": 1200, "data_seed": SEEDS[0], "epochs": 25}
digits = run([Trial(s, DIGITS, variants, "digits", **settings) for s in SEEDS], "digits")
draw(digits, f"Digits 8x8, the same network, {len(SEEDS)} seeds (band: ± sd)", DIGITS)
digit_dense = float(band(digits, "dense")[0][0])
digit_win, digit_random = (dict(zip(DIGITS, band(digits, v)[0])) for v in ("winning", "random"))
claim(
    "At 4 % the winning ticket is within 5 points of the dense network on digits",
    5 - (digit_dense - digit_win[0.04]),
    "points",
)
claim(
    "On the glyphs, at the same share, it is more than 5 points below",
    dense[0] - means["winning"][0.04] - 5,
    "points",
)

# %% [markdown]
# Task, images, epochs and rounds all differ here, so this shows only that 4 % is no law.
#
# ## 3 · Rewinding to a later step
#
# In larger networks tickets rewound to step 0 do *not* win; rewound to an early step $k$ they do (Frankle et al. 2020): the first few
# steps decide into which valley of the loss training falls. That is another search, from a later start. Is it so in ours, which is
# small?

# %%
rewound = predict(
    "Rewound to a quarter of an epoch instead of to the start: better tickets, for this small "
    "network?",
    ["yes, by more than 4 points", "no difference to speak of", "worse, by more than 4 points"],
)

# %%
settings = {"train_size": 8_000, "data_seed": SEEDS[0], "epochs": EPOCHS, "lr": LR}
pairs = run(
    [Trial(s, (0.25, 0.06), ("winning", "rewound"), data.name, **settings) for s in SEEDS],
    "rewinding",
)
wins, backs = (float(band(pairs, v)[0][-1]) for v in ("winning", "rewound"))
difference = backs - wins

# %%
rewound.reveal(
    "yes, by more than 4 points"
    if difference > 4
    else "worse, by more than 4 points"
    if difference < -4
    else "no difference to speak of"
)
claim(
    "Rewinding to a quarter of an epoch moves this small network's ticket by less than 2 "
    "points",
    2 - abs(difference),
    "points",
)
print(
    f"6 % left, found in two rounds: rewound to the start {wins:.1f} %, to a quarter of an "
    f"epoch {backs:.1f} % "
    f"(in four rounds, section 1: {at['winning']:.1f} %: more, smaller rounds find better "
    "tickets)"
)

# %% [markdown]
# ## 4 · Early birds
#
# Must the dense network be trained to the end to see who will win? You et al. (2020) draw the mask after every epoch and stop
# when it has settled: when the Hamming distance (汉明距离) of consecutive masks stays small (here: below 3 % twice in a row). To see what stopping would have cost, we train on and compare the tickets. (The learning rate falls to 0, so a mask must settle at
# some time. The question is how early.)
#
# ### Exercise 5 · How far apart are two masks? (1 point, about 2 lines)
#
# <details><summary>Show a slow version</summary>
#
# ```python
# def mask_distance_spec(one, other):
#     different = total = 0
#     for a, b in zip(one, other):
#         for x, y in zip(a.ravel().tolist(), b.ravel().tolist()):
#             different += x != y
#             total += 1
#     return different / total
# ```
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "tickets-mask_distance", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mask_distance(one, other):
    """Two tuples of bool arrays
    -> the share of places, over all layers, in which they differ."""
    ### BEGIN SOLUTION
    different = sum(int((a ^ b).sum()) for a, b in zip(one, other))
    return different / sum(a.size for a in one)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "tickets-mask_distance-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check(mask_distance, "tickets.mask_distance")

# %%
mask_distance = adopt(mask_distance, "tickets.mask_distance")
bird = EarlyBird(remaining=0.125, limit=0.03, patience=2)
seed_everything(SEEDS[0])
watched = copy.deepcopy(start)
fit(watched, data.train, EPOCHS, LR, hooks=[bird], label="watched", seed=SEEDS[0])
arrays = [tuple(k.numpy() for k in m.keep.values()) for m in bird.masks]
distances = [mask_distance(a, b) for a, b in itertools.pairwise(arrays)]
tickets = {}
for epoch, mask in enumerate(bird.masks, 1):
    if epoch in (1, 2, bird.found or EPOCHS, EPOCHS):
        tickets[epoch] = evaluate(
            train(copy.deepcopy(start), mask, f"ticket of epoch {epoch}"), data.test
        )
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
axes[0].plot(range(2, EPOCHS + 1), [100 * d for d in distances], "o-")
axes[0].axhline(100 * bird.limit, color="#D55E00", ls="--", label="settled")
axes[0].set(xlabel="epoch", ylabel="mask differs from last, %", ylim=(0, None))
axes[0].legend()
axes[1].plot(list(tickets), list(tickets.values()), "s")
axes[1].axhline(dense_accuracy, color="black", ls=":", label="dense")
axes[1].set(
    xlabel="epoch in which the ticket was drawn", ylabel="its accuracy, %", title="one seed"
)
axes[1].legend()
plt.show()

# %%
claim("The mask changes less from epoch to epoch", distances[0] - distances[-1], "of the mask")
claim(
    "Your distances are the library's",
    agreement(distances, bird.distances, atol=1e-6),
    "tolerances",
    yours=mask_distance,
)
claim(
    "The early bird's mask settles before training ends",
    EPOCHS - (bird.found or EPOCHS),
    "epochs",
)
claim(
    "The early ticket is as good as the last epoch's, to within 2 points",
    2 - (tickets[EPOCHS] - tickets[bird.found or EPOCHS]),
    "points",
)
print(f"settled in epoch {bird.found} of {EPOCHS}")
POOL.shutdown()

# %% [markdown]
# ## Build it · Find a winning ticket
#
# ### Exercise 6 · Find a winning ticket (build, 8 points, about 18 lines)
#
# The whole search of Frankle and Carbin (2019, section 1): train, prune, rewind, again. `initial` are the layers' weights before training, `train(weights)`
# hands back trained ones. After round $r$ of $R$ the fraction $p^{r/R}$ of *all* weights stays (rounded to a whole number of them), among equal
# magnitudes the earlier ones stay.
#
# 1. *One round*: the largest magnitudes after training stay.
# 2. *Several rounds*: each begins from the initial values under the mask so far; what is gone stays gone, even where training has moved it.
# 3. *Across layers*: magnitudes of all layers compete.
# 4. *As it was*: `train` is called once a round with the right weights, and `initial` is not changed.


# %% nbgrader={"grade": false, "grade_id": "tickets-find_ticket", "locked": false, "schema_version": 3, "solution": true, "task": false}
def find_ticket(initial, train, remaining, rounds):
    """Tuple of float32 arrays, function, fraction, int
    -> tuple of bool arrays: the weights that stay."""
    ### BEGIN SOLUTION
    masks = [np.ones(w.shape, bool) for w in initial]
    total = sum(w.size for w in initial)
    ends = np.cumsum([w.size for w in initial])[:-1]
    for number in range(1, rounds + 1):
        trained = train(tuple(w * m for w, m in zip(initial, masks, strict=True)))
        sizes = [np.where(m, np.abs(w), -1.0) for w, m in zip(trained, masks, strict=True)]
        flat = np.concatenate([s.ravel() for s in sizes])
        stays = np.zeros(total, bool)
        largest = np.argsort(-flat, kind="stable")[
            : round(remaining ** (number / rounds) * total)
        ]
        stays[largest] = True
        parts = np.split(stays, ends)
        masks = [p.reshape(w.shape) for p, w in zip(parts, initial, strict=True)]
    return tuple(masks)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "tickets-find_ticket-check", "locked": true, "points": 8, "schema_version": 3, "solution": false, "task": false}
check(find_ticket, "tickets.find_ticket")

# %%
find_ticket = adopt(find_ticket, "tickets.find_ticket")

# %%
torch.manual_seed(SEEDS[0])
small = torch.nn.Sequential(
    torch.nn.Flatten(),
    torch.nn.Linear(256, 64),
    torch.nn.ReLU(),
    torch.nn.Linear(64, len(data.classes)),
)
if data.train.x[0].numel() != 256:
    small[1] = torch.nn.Linear(data.train.x[0].numel(), 64)
layers = [small[1], small[3]]
start = tuple(layer.weight.detach().numpy().copy() for layer in layers)
kept = []


# %%
def train_small(weights):
    """A hundred steps from these weights; zeros stay zero."""
    masks = [torch.from_numpy(w != 0) for w in weights]
    with torch.no_grad():
        for layer, w in zip(layers, weights, strict=True):
            layer.weight.copy_(torch.from_numpy(w))
            layer.bias.zero_()
    optimizer = torch.optim.SGD(small.parameters(), 0.2, momentum=0.9)
    for step in range(100):
        batch = slice(50 * step % 5_000, 50 * step % 5_000 + 50)
        loss = torch.nn.functional.cross_entropy(
            small(data.train.x[batch]), data.train.y[batch]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for layer, m in zip(layers, masks, strict=True):
                layer.weight *= m
    kept.append([float(m.float().mean()) for m in masks])
    return tuple(layer.weight.detach().numpy().copy() for layer in layers)


# %%
masks = find_ticket(start, train_small, 0.1, 4)
rows = [
    [r, *(f"{100 * k:.0f}" for k in layer)]
    for r, layer in enumerate([*kept, [float(m.mean()) for m in masks]])
]
Table(
    ["after round", "first layer, % left", "last layer, % left"],
    rows,
    "a tenth of all weights after four rounds",
)

# %% [markdown]
# ### Exercise 7 · A ticket before training (open, 6 points, about 25 lines)
#
# An *open* exercise has no right answer: what you choose is measured, here and again while grading, on numbers that your code does not see. Four weights of a hundred may
# stay, and you choose which before the network is trained: from its random start, from gradients, or by training a copy as long as your 20 seconds of processor time allow. The
# checker then trains what is left of the *start*, twelve epochs, always the same way. Bronze is clearly above a random mask, gold is what rounds of training and rewinding reached.
#
# `initial` are the start's weights (256-300-100-26, biases begin at 0), then 3,000 training images [n, 256] and labels, and the fraction that may stay.


# %% nbgrader={"grade": false, "grade_id": "tickets-early_mask", "locked": false, "schema_version": 3, "solution": true, "task": false}
def early_mask(initial, images, labels, remaining):
    """Tuple of float32 arrays, images, labels, fraction
    -> tuple of bool arrays: the weights that stay."""
    ### BEGIN SOLUTION
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    masks, steps = [torch.ones(w.shape) for w in initial], 20 * (len(x) // 100)
    for number in range(1, 4):
        ws = [torch.tensor(w, requires_grad=True) for w in initial]
        bs = [torch.zeros(len(w), requires_grad=True) for w in initial]
        optimizer = torch.optim.Adam([*ws, *bs], 1.2e-2)
        for step in range(steps):
            if step % (len(x) // 100) == 0:
                order = torch.randperm(
                    len(x), generator=torch.Generator().manual_seed(step)
                ).split(100)
            batch = order[step % (len(x) // 100)]
            optimizer.param_groups[0]["lr"] = 1.2e-2 * (1 - step / steps)
            h = x[batch]
            for i, (w, b, m) in enumerate(zip(ws, bs, masks, strict=True)):
                h = torch.nn.functional.linear(torch.relu(h) if i else h, w * m, b)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(h, y[batch]).backward()
            optimizer.step()
        sizes = [w.detach().abs() * m for w, m in zip(ws, masks, strict=True)]
        flat = torch.cat([s.flatten() for s in sizes])
        stay = torch.zeros(len(flat))
        stay[flat.argsort(descending=True)[: int(remaining ** (number / 3) * len(flat))]] = 1
        parts = stay.split([s.numel() for s in sizes])
        masks = [part.view(s.shape) for part, s in zip(parts, sizes, strict=True)]
    return tuple(m.bool().numpy() for m in masks)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "tickets-early_mask-check", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
check(early_mask, "tickets.early_mask")

# %%
early_mask = adopt(early_mask, "tickets.early_mask")

# %% [markdown]
# ## Longer than a lab · A tenth a round
#
# What follows takes minutes for each seed: it was run over several seeds, and its rows are kept beside the code (`compresslab/longer/rounds.py`). With `COMPRESSLAB_LONGER=1` in the environment a cell runs one seed here as well; `compresslab longer rounds` runs them all anew.
#
# This lab cuts the weights by halves. Frankle and Carbin take a fifth a round, one of the articles a tenth: more rounds, each with its training. Is patience paid?

# %%
from compresslab.longer import show_longer

show_longer("rounds")

# %% [markdown]
# ## In the course's own measures
#
# What this lab made, with the cheapest step of all in front: a cast to 16 bits (半精度), which halves the file and asks for nothing else. The winning ticket's zeros are left out of its file (lab 04), but not of its multiplications: it is no faster. Energy (能耗) is an estimate: operations and the file read once, at the prices of a 45 nm process (Horowitz 2014).

# %%
import compresslab as cl

cl.table(
    cl.measure(dense_network, data, "float32"),
    cl.measure(copy.deepcopy(dense_network).half(), data, "float16, a cast"),
    cl.measure(copy.deepcopy(dense_network).bfloat16(), data, "bfloat16, a cast"),
    cl.measure(network, data, "winning ticket"),
)

# %% [markdown]
# ## What the papers say, what we measured
#
# The networks, data and machines of the papers are others than ours: compare directions and sizes, not digits.

# %%
papers = [
    [
        "winning ticket matches dense down to",
        "Frankle and Carbin 2019, figure 3 (LeNet, MNIST)",
        "3.6 %",
        "digits: 4 %, within 3 points"
        if digit_dense - digit_win[0.04] < 3
        else "digits: not at 4 %",
    ],
    [
        "signs suffice",
        "Zhou et al. 2019, section 4",
        "signs matter, not magnitudes",
        f"signs alone: {100 * (1 - near):.0f} % of the way from re-initialised to winning",
    ],
]

# %%
Table(
    ["finding", "source", "paper", "here"],
    [
        *papers,
        [
            "rewinding helps",
            "Frankle et al. 2020 (ResNet-50)",
            "needed",
            f"{difference:+.1f} points",
        ],
        [
            "early bird",
            "You et al. 2020, figure 1 (channels)",
            "first tenth to fifth of the epochs",
            f"epoch {bird.found} of {EPOCHS}",
        ],
    ],
    text_columns=2,
)

# %% [markdown] nbgrader={"grade": true, "grade_id": "written-tickets_written", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# ## Written question (2 points)
#
# Your colleague trains a random ticket with 20 % of the weights *in total* and reports that it is 30 points worse than the
# winning one, "so the mask must be what counts". What two other explanations must be excluded first, and how?
#
# *Your answer (double-click here to write it):*

# %% [markdown]
# ## Recap
#
# - Prune, rewind, repeat: from its own start, what is left trains as well as the whole, down to a share that depends on the task
#   (here about a quarter); further down it falls behind, and stays far above every other start.
# - Each control changes one thing: the start (re-initialised), the mask (random, as many in each layer), the magnitudes (signs only).
# - How far down it goes depends on the task; and finding a ticket costs more than training the dense network.
#
# **Do not use it** to save training time (unless an early bird does), nor to make inference faster: the ticket is unstructured, see lab 04.
#
# **Back:** [Lab 04 · Pruning](04_pruning.ipynb) · **Next:** [Lab 06 · Low rank](06_low_rank.ipynb)
#
# **References.** Frankle and Carbin 2019, *The lottery ticket hypothesis*, arXiv:1803.03635 · Zhou et al. 2019, *Deconstructing
# lottery tickets*, arXiv:1905.01067 · Frankle et al. 2020, *Linear mode connectivity and the lottery ticket hypothesis*, arXiv:1912.05671 ·
# You et al. 2020, *Drawing early-bird tickets*, arXiv:1909.11957
