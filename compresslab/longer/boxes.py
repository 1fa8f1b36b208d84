"""A task without a softmax: where on the page is the letter? A student of a box regression.

A page is a grey field of 32x32 pixels with one letter of the glyphs at a random place and in one of three
sizes; the answer is the box (left, top, width, height in shares of the page). There are no classes, so no
soft targets: the student is held to the teacher's *numbers* by their squared difference (Chen et al. 2017,
"Learning efficient object detection models with knowledge distillation", section 3.3, adds that the
teacher's numbers count only where they are better than the student's; here they always count). What the
teacher adds is boxes for pages that nobody labelled. Measured by intersection over union (IoU, 交并比).
"""

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.data import Examples, load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.models import VGGLike
from compresslab.training import Batch, logits

PAGE, EPOCHS, RATE, LABELLED = 32, 16, 0.003, 8
SIZES = (8, 12, 16)


def pages(letters: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Letters [n, 1, 16, 16] -> pages [n, 1, 32, 32] with noise, and boxes [n, 4] in shares of the page."""
    generator = torch.Generator().manual_seed(seed)
    page = 0.15 * torch.rand(len(letters), 1, PAGE, PAGE, generator=generator)
    boxes = torch.empty(len(letters), 4)
    for index, letter in enumerate(letters):
        side = SIZES[int(torch.randint(len(SIZES), (), generator=generator))]
        left, top = torch.randint(0, PAGE - side + 1, (2,), generator=generator).tolist()
        drawn = F.interpolate(letter[None], (side, side), mode="area")[0]
        page[index, :, top : top + side, left : left + side] += drawn
        boxes[index] = torch.tensor([left, top, side, side]) / PAGE
    return page.clamp(0, 1), boxes


def overlap(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Intersection over union of boxes [n, 4] (left, top, width, height)."""
    low = torch.maximum(one[:, :2], other[:, :2])
    high = torch.minimum(one[:, :2] + one[:, 2:], other[:, :2] + other[:, 2:])
    both = (high - low).clamp(min=0).prod(1)
    return both / (one[:, 2:].clamp(min=0).prod(1) + other[:, 2:].prod(1) - both).clamp(min=1e-9)


def network(*widths: int) -> nn.Module:
    """A VGG-like network whose head sees where things are, with four numbers at its end."""
    body = list(VGGLike((1, PAGE, PAGE), 4, widths).children())[:-3]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(widths[-1] * 16, 4))


def toward(boxes: torch.Tensor) -> object:
    """The squared difference to boxes, found by an example's place."""
    return lambda model, batch: _squared(model, batch, boxes)


def _squared(model: nn.Module, batch: Batch, boxes: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(model(batch.x), boxes[batch.index])


def run(seed: int, size: int) -> Rows:
    """A teacher and its students; an eighth of the student's pages has boxes, the rest only the teacher's."""
    data = load("glyphs", train_size=size, seed=seed)
    half = size // 2
    x, boxes = pages(data.train.x, seed)
    test, truth = pages(data.test.x[:2000], seed + 500)
    nothing = torch.zeros(size, dtype=torch.int64)
    teacher = grow(
        lambda: network(24, 48, 96),
        *(Examples(x[:half], nothing[:half]), EPOCHS, RATE, seed),
        loss=toward(boxes[:half]),
        optimizer=_adam,
    )
    rest, labelled = x[half:], half // LABELLED
    answered = logits(teacher, rest)
    lessons = {
        "student, labelled boxes": (labelled, boxes[half:]),
        "student, the teacher's boxes on the same pages": (labelled, answered),
        "student, the teacher's boxes on all pages": (half, answered),
    }
    rows = {"teacher": {"IoU, %": _iou(teacher, test, truth)}}
    for name, (count, targets) in lessons.items():
        examples = Examples(rest[:count], nothing[:count])
        student = grow(
            lambda: network(4, 8, 16),
            *(examples, EPOCHS * half / (4 * count), RATE, seed),
            loss=toward(targets),
            optimizer=_adam,
            batch_size=64,
        )
        rows[name] = {"IoU, %": _iou(student, test, truth)}
    return rows


def _adam(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), RATE)


def _iou(model: nn.Module, x: torch.Tensor, truth: torch.Tensor) -> float:
    return 100 * float(overlap(logits(model, x), truth).mean())


LABELS, SAME = "student, labelled boxes", "student, the teacher's boxes on the same pages"
IOU = "IoU, %"

EXPERIMENT = Experiment(
    question="Four numbers instead of classes: is there anything to distil where there is no softmax?",
    run=run,
    size=4_000,
    findings=(
        Finding(
            "On the same pages the teacher's boxes are worth less than a point more than the labels",
            lambda r: 1 - (r[SAME][IOU] - r[LABELS][IOU]),
            "points",
        ),
        Finding(
            "No lesson brings the small student within 10 points of its teacher",
            lambda r: r["teacher"][IOU] - max(r[name][IOU] for name in r if name != "teacher") - 10,
            "points",
        ),
    ),
    note="An eighth of the pages is labelled. What all pages bring differs widely from seed to seed.",
)
