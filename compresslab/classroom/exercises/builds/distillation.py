"""Lab 08: the loop in which a student learns from a teacher's answers and from labels."""

import itertools
from collections.abc import Callable

import numpy as np
import torch

from compresslab.classroom.exercise import Case, Exercise, Mistake

LOSS, TEACHER, LEARNS, LEFT = (
    "the loss",
    "the teacher without dropout",
    "the student learns",
    "as they were",
)


def teach(
    student: torch.nn.Module,
    teacher: torch.nn.Module,
    batches: list,
    temperature: float,
    weight: float,
    lr: float,
) -> list[float]:
    """Train the student in place, a batch a step, on answers and labels; each step's loss."""
    return _built()(student, teacher, batches, temperature, weight, lr)


def _built(
    squared: bool = True,
    forward: bool = True,
    by_example: bool = True,
    swapped: bool = False,
    hot_labels: bool = False,
    evaluating: bool = True,
    detached: bool = True,
    back: bool = True,
    momentum: bool = True,
    cleared: bool = True,
) -> Callable:
    """The loop, with one thing or another done differently."""

    def divergence(own, theirs, temperature):
        p, q = (torch.log_softmax(v / temperature, 1) for v in (theirs, own))
        p, q = (p, q) if forward else (q, p)
        terms = p.exp() * (p - q)
        loss = terms.sum(1).mean() if by_example else terms.mean()
        return loss * temperature**2 if squared else loss

    def teach(student, teacher, batches, temperature, weight, lr):
        mode, losses = teacher.training, []
        if evaluating:
            teacher.eval()
        student.train()
        learned = [*student.parameters(), *([] if detached else teacher.parameters())]
        optimizer = torch.optim.SGD(learned, lr, 0.9 if momentum else 0.0)
        for x, y in batches:
            with torch.set_grad_enabled(not detached):
                theirs = teacher(x)
            own = student(x)
            hard = own / temperature if hot_labels else own
            labels = torch.nn.functional.cross_entropy(hard, y)
            answers = divergence(own, theirs, temperature)
            share = 1 - weight if swapped else weight
            loss = share * answers + (1 - share) * labels
            if cleared:
                optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        if back:
            teacher.train(mode)
        return losses

    return teach


def at_work(function: Callable) -> Callable:
    """What comes of it for two networks that are made here: losses, parameters, and how they were left."""

    def made(widths, parameters, drop):
        nn, layers = torch.nn, []
        for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):  # noqa: RUF007
            layers += [nn.Linear(inputs, outputs), nn.Tanh(), nn.Dropout(drop)]
        network = nn.Sequential(*layers[:-2])
        with torch.no_grad():
            for parameter, values in zip(network.parameters(), parameters, strict=True):
                parameter.copy_(torch.from_numpy(values))
        return network

    def run(stage, widths, own, deep, theirs, drop, images, labels, temperature, weight, lr):
        student, teacher = made(widths, own, 0.0), made(deep, theirs, drop)
        teacher.train()
        student.train()
        batches = [
            (torch.from_numpy(x), torch.from_numpy(y)) for x, y in zip(images, labels, strict=True)
        ]
        torch.manual_seed(0)
        losses = function(student, teacher, batches, temperature, weight, lr)
        learned = tuple(p.detach().numpy() for p in student.parameters())
        if stage != "as they were":
            return tuple(float(loss) for loss in losses), learned
        kept = tuple(p.detach().numpy() for p in teacher.parameters())
        graded = any(p.grad is not None for p in teacher.parameters())
        return kept, graded, bool(teacher.training), bool(student.training)

    return run


def _cases(generator: np.random.Generator) -> list[Case]:
    def case(
        stage: str, label: str, steps: int, lr: float, drop: float = 0.0, weight: float = 0.7
    ) -> Case:
        widths, deep = (5, 4, 3), (5, 8, 8, 3)

        def parameters(of: tuple) -> tuple:
            pairs = itertools.pairwise(of)
            shapes = [shape for i, o in pairs for shape in ((o, i), (o,))]
            return tuple(generator.normal(0, 1, shape).astype(np.float32) for shape in shapes)

        images = generator.normal(0, 1, (steps, 6, widths[0])).astype(np.float32)
        labels = generator.integers(0, widths[-1], (steps, 6))
        temperature = float(generator.uniform(2, 5))
        networks = (widths, parameters(widths), deep, parameters(deep), drop)
        args = (stage, *networks, tuple(images), tuple(labels), temperature, weight, lr)
        return Case(f"{stage}: {label}", args, stage)

    return [
        case(LOSS, "answers and labels", 1, 0.0),
        case(LOSS, "answers alone", 1, 0.0, weight=1.0),
        case(LOSS, "labels alone", 1, 0.0, weight=0.0),
        case(TEACHER, "half of its units dropped", 2, 0.0, drop=0.5),
        case(TEACHER, "and answers alone", 2, 0.0, drop=0.5, weight=1.0),
        case(LEARNS, "one step", 1, 0.2),
        case(LEARNS, "five steps", 5, 0.1),
        case(LEARNS, "more on labels", 4, 0.1, weight=0.3),
        case(LEFT, "behind two steps", 2, 0.1),
        case(LEFT, "with dropout", 2, 0.1, drop=0.5),
    ]


TEACH = Exercise(
    id="distill.teach",
    title="The loop in which a student learns",
    points=4,
    reference=teach,
    cases=_cases,
    harness=at_work,
    lines=18,
    tolerance=1e-4,
    returns="each step's loss and the student's parameters; at last the teacher's, and both networks' modes",
    stages=((LOSS, 1), (TEACHER, 1), (LEARNS, 1), (LEFT, 1)),
    mistakes=(
        Mistake(
            "the temperature is not squared",
            _built(squared=False),
            "Gradients of the soft part shrink by 1 / T^2: multiply it by T^2, so that `weight` means the "
            "same at every temperature.",
        ),
        Mistake(
            "the divergence the other way round",
            _built(forward=False),
            "The teacher's distribution stands in front: sum p (log p - log q) with p the teacher's.",
        ),
        Mistake(
            "a mean over classes",
            _built(by_example=False),
            "A divergence is a *sum* over classes; the mean is over examples (`reduction='batchmean'`).",
        ),
        Mistake(
            "the weights exchanged",
            _built(swapped=True),
            "`weight` is that of the teacher's answers, `1 - weight` that of the labels.",
        ),
        Mistake(
            "labels at the temperature",
            _built(hot_labels=True),
            "The temperature is for answers alone: labels are compared with the student's plain logits.",
        ),
        Mistake(
            "the teacher in training mode",
            _built(evaluating=False),
            "The teacher's dropout is at work: its answers are others every time. Run it in eval mode.",
        ),
        Mistake(
            "the teacher learns, too",
            _built(detached=False),
            "The teacher is not trained: its answers come without gradients, and its parameters are not the "
            "optimizer's.",
        ),
        Mistake(
            "the teacher left in eval mode",
            _built(back=False),
            "The teacher was in training mode when you were given it: set the mode back.",
        ),
        Mistake(
            "no momentum",
            _built(momentum=False),
            "The optimizer is SGD with momentum 0.9, one for all batches.",
        ),
        Mistake(
            "gradients add up",
            _built(cleared=False),
            "`backward` adds to what is there: clear the gradients in each step.",
        ),
    ),
)

EXERCISES = (TEACH,)
