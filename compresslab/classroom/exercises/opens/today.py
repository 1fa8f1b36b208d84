"""Lab 15, open: half of a matrix's weights at 0, two of every four, judged by its outputs on other text.

The model answer is Optimal Brain Surgeon without a short cut: every row has an inverse of its own, and loses
one weight after another, always the one that costs least now (Frantar and Alistarh 2022, Optimal Brain
Compression, https://arxiv.org/abs/2208.11580, section 4); then every four choose again while all others stay.
"""

import itertools
from collections.abc import Callable

import numpy as np
import torch

from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise, Medals, Mistake
from compresslab.classroom.exercises.opens.matrices import cases, damped, decibels
from compresslab.techniques import one_shot

KEEP, OF = 2, 4
PAIRS = tuple(itertools.combinations(range(OF), KEEP))


def half(weight: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """One weight after another out of every row, then each four once more, some times over."""
    h = damped(moment)
    return _chosen_again(weight, h, _one_by_one(weight, h)).astype(np.float32)


def _one_by_one(weight: np.ndarray, h: np.ndarray) -> np.ndarray:
    inverse = np.repeat(np.linalg.inv(h)[None], len(weight), 0)
    w, gone, row = (
        weight.astype(np.float64),
        np.zeros(weight.shape, bool),
        np.arange(len(weight)),
    )
    for _ in range(weight.shape[1] * (OF - KEEP) // OF):
        full = gone.reshape(len(weight), -1, OF).sum(2) >= OF - KEEP
        diagonal = np.where(gone, 1, np.einsum("rii->ri", inverse))
        cost = np.where(gone | np.repeat(full, OF, 1), np.inf, w * w / diagonal)
        j = cost.argmin(1)
        column, pivot = inverse[row, :, j], inverse[row, j, j]
        w -= (w[row, j] / pivot)[:, None] * column
        inverse -= column[:, :, None] * column[:, None, :] / pivot[:, None, None]
        gone[row, j] = True
        w[gone] = 0
    return w


def _chosen_again(weight: np.ndarray, h: np.ndarray, w: np.ndarray, times: int = 5) -> np.ndarray:
    """Every four take the pair, and its values, that is best while all others stay."""
    for _, k in itertools.product(range(times), range(0, weight.shape[1], OF)):
        here = slice(k, k + OF)
        own = h[here, here]
        # What the four should be multiplied to, h v = target, if all of them could stay.
        target = w[:, here] @ own - (w - weight) @ h[:, here]
        least = np.full(len(w), np.inf)
        for pair in PAIRS:
            pair = list(pair)
            values = np.linalg.solve(own[np.ix_(pair, pair)], target[:, pair].T).T
            cost = -(values * target[:, pair]).sum(1)
            better = np.flatnonzero(cost < least)
            least[better] = cost[better]
            w[better, here] = 0
            w[np.ix_(better, k + np.array(pair))] = values[better]
    return w


def measured(case: Case, found: object) -> float | str:
    """Decibels of the outputs over their error, on other text; a sentence for what is no such matrix."""
    weight, _ = case.args
    if not isinstance(found, np.ndarray) or found.shape != weight.shape or found.dtype.kind != "f":
        return f"the answer must be floats {weight.shape}, got {compare.show(found)}"
    if not np.isfinite(found).all():
        return "the answer must be finite, got NaN or an infinity"
    most = int((found.reshape(len(found), -1, OF) != 0).sum(2).max())
    if most > KEEP:
        return f"of every {OF} neighbours in a row {KEEP} may stay, got {most}"
    return decibels(weight, found.astype(np.float64), *case.hidden)


# ---- other ways ------------------------------------------------------------------------------------
def _at_once(method: str) -> Callable:
    def prune(weight, moment):
        matrices = (torch.from_numpy(weight), torch.from_numpy(moment))
        return one_shot.prune_layer(*matrices, method, pattern=(KEEP, OF)).numpy()

    return prune


def _refitted(weight, moment):
    """Magnitude chooses, and what stays is fitted by least squares."""
    kept, h = _at_once("magnitude")(weight, moment) != 0, damped(moment)
    out, wanted = np.zeros(weight.shape), weight @ h
    for row, stays in enumerate(kept):
        i = np.flatnonzero(stays)
        out[row, i] = np.linalg.solve(h[np.ix_(i, i)], wanted[row, i])
    return out.astype(np.float32)


def _three_of_four(weight, moment):
    return one_shot.prune_layer(
        torch.from_numpy(weight), torch.from_numpy(moment), "magnitude", pattern=(3, 4)
    ).numpy()


def _half_of_the_row(weight, moment):
    matrices = (torch.from_numpy(weight), torch.from_numpy(moment))
    return one_shot.prune_layer(*matrices, "wanda", 0.5).numpy()


HALF = Exercise(
    id="today.half",
    title="Half of the weights, as good as you can",
    points=12,
    reference=half,
    cases=cases,
    lines=20,
    medals=Medals(
        bronze=9.9,
        silver=13.2,
        gold=14.1,
        measure=measured,
        unit="dB, mean of three layers",
        plain=_at_once("magnitude"),
    ),
    mistakes=(
        Mistake(
            "by magnitude",
            _at_once("magnitude"),
            "The smallest weights go here, whatever they meet. What an input's weight costs stands on H's "
            "diagonal: that is Wanda.",
        ),
        Mistake(
            "Wanda",
            _at_once("wanda"),
            "The choice knows the inputs. What stays is as it was: let it make up for what went. H says how.",
        ),
        Mistake(
            "SparseGPT",
            _at_once("sparsegpt"),
            "The columns behind make up for each weight that goes; those in front could as well. Once the "
            "choice is made, fit what stays by least squares: h restricted to it.",
        ),
        Mistake(
            "by magnitude, then fitted",
            _refitted,
            "Fitting what stays is right. Choose with H, too: a weight that others can make up for may go, "
            "however large it is.",
        ),
        Mistake(
            "half of the row",
            _half_of_the_row,
            "Two of *every four* neighbours may stay, not half of the row.",
        ),
        Mistake(
            "three of four",
            _three_of_four,
            "Two of every four may stay; here there are three.",
        ),
    ),
)

EXERCISES = (HALF,)
