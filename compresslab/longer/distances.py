"""How should a student be held to its teacher? Divergence, cross-entropy, or the squared difference of logits.

    kl              T^2 KL(teacher || student) at temperature T         Hinton et al. 2015
    cross entropy   the same gradient: the teacher's entropy is a constant
    mse             half the mean squared difference of logits          Ba and Caruana 2014: the limit of high T

The control is labels. The teacher's own training is counted beside: images that it saw.
"""

import torch

from compresslab.data import Examples, load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.models import ResNet8, VGGLike
from compresslab.techniques import distill
from compresslab.training import cross_entropy, evaluate

EPOCHS, TEACHING, TEMPERATURE = 7, 5, 4.0


def run(seed: int, size: int) -> Rows:
    """A teacher on one part of the images, and a student on the rest for each lesson."""
    data = load("glyphs", train_size=size, seed=seed)
    half = 3 * size // 4
    seen = data.train.first(half)
    few = Examples(data.train.x[half:], data.train.y[half:])
    teacher = grow(lambda: ResNet8(data), seen, TEACHING, 0.2, seed)
    answers = distill.cached(teacher, few.x)
    lessons = {"labels": cross_entropy} | {
        name: distill.Distillation(answers, 0.0, TEMPERATURE, distance)
        for name, distance in (
            ("divergence", "kl"),
            ("cross-entropy", "cross_entropy"),
            ("squared difference of logits", "mse"),
        )
    }
    rows = {
        "the teacher": {
            "images seen, thousands": TEACHING * half / 1e3,
            "test accuracy, %": evaluate(teacher, data.test),
        }
    }
    for name, loss in lessons.items():
        student = grow(
            lambda: VGGLike(data, widths=(8, 16, 32)),
            few,
            EPOCHS,
            0.1,
            seed,
            loss=loss,
            batch_size=64,
        )
        taught = 0 if name == "labels" else TEACHING * half
        rows[f"student, {name}"] = {
            "images seen, thousands": (EPOCHS * len(few) + taught) / 1e3,
            "test accuracy, %": evaluate(student, data.test),
        }
    return rows


def _reached(rows: Rows, lesson: str) -> float:
    return rows[f"student, {lesson}"]["test accuracy, %"]


EXPERIMENT = Experiment(
    question="Divergence, cross-entropy, squared difference: does it matter how a student is held to its teacher?",
    run=run,
    size=8_000,
    findings=(
        Finding(
            "Cross-entropy with the teacher's answers is the divergence: less than half a point apart",
            lambda r: 0.5 - abs(_reached(r, "cross-entropy") - _reached(r, "divergence")),
            "points",
        ),
        Finding(
            "Each of the three is better than labels",
            lambda r: (
                min(
                    _reached(r, n)
                    for n in ("divergence", "cross-entropy", "squared difference of logits")
                )
                - _reached(r, "labels")
            ),
            "points",
        ),
    ),
    note="A student's images count those of its teacher's training.",
)
