"""A teacher that is still learning itself: student and large network trained together, from nothing.

In online distillation nobody is finished: the student learns from the labels and from a large network that
trains beside it on the same batches (Zhang et al. 2018, deep mutual learning, equation 8). Controls: the
student alone, beside a second student, and with the large network's answers after *its* training.
"""

import torch

from compresslab.data import load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow, reached
from compresslab.models import ResNet8, VGGLike
from compresslab.techniques import distill
from compresslab.training import evaluate

EPOCHS, RATE = 7, 0.1


def run(seed: int, size: int) -> Rows:
    """The same student in four companies, each for the same steps on the same images."""
    data = load("glyphs", train_size=size, seed=seed)
    options = {"batch_size": 64}

    def small() -> torch.nn.Module:
        return VGGLike(data, widths=(8, 16, 32))

    def together(other: type | object) -> distill.Cohort:
        return grow(
            lambda: distill.Cohort([small(), other()]),
            *(data.train, EPOCHS, RATE, seed),
            loss=distill.mutual(2.0),
            **options,
        )

    alone = grow(small, data.train, EPOCHS, RATE, seed, **options)
    large = grow(lambda: ResNet8(data), data.train, EPOCHS, RATE, seed, **options)
    after = grow(
        small,
        *(data.train, EPOCHS, RATE, seed),
        loss=distill.Distillation(distill.cached(large, data.train.x), 0.1, 2.0),
        **options,
    )
    pair, mixed = together(small), together(lambda: ResNet8(data))
    found = {
        "student alone": alone,
        "student beside a student": pair.students[0],
        "student beside the large network": mixed.students[0],
        "student after the large network": after,
        "large network alone": large,
        "large network beside the student": mixed.students[1],
    }
    return {
        name: {"test accuracy, %": evaluate(network, data.test)} for name, network in found.items()
    }


EXPERIMENT = Experiment(
    question="Can a student learn from a large network that is still learning itself?",
    run=run,
    size=3_000,
    findings=(
        Finding(
            "A large network that learns beside it is worth more to the student than another student",
            lambda r: (
                reached(r, "student beside the large network")
                - reached(r, "student beside a student")
            ),
            "points",
        ),
    ),
)
