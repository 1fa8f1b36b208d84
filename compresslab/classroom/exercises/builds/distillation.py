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
    "as it was",
)


def teach(
    student: torch.nn.Module,
    teacher: torch.nn.Module,
    batches: list,
    temperature: float,
    alpha: float,
    lr: float,
) -> list[float]:
    """Train the student in place, a batch a step, on labels and answers; each step's loss."""
    return _built()(student, teacher, batches, temperature, alpha, lr)


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
    learning: bool = True,
    given: bool = True,
) -> Callable:
    """The loop, with one thing or another done differently."""

    def divergence(own, theirs, temperature):
        p, q = (torch.log_softmax(v / temperature, 1) for v in (theirs, own))
        p, q = (p, q) if forward else (q, p)
        terms = p.exp() * (p - q)
        loss = terms.sum(1).mean() if by_example else terms.mean()
        return loss * temperature**2 if squared else loss

    def teach(student, teacher, batches, temperature, alpha, lr):
        mode, losses = teacher.training, []
        if evaluating:
            teacher.eval()
        student.train(learning)
        learned = [*student.parameters(), *([] if detached else teacher.parameters())]
        optimizer = torch.optim.SGD(learned, lr, 0.9 if momentum else 0.0)
        for x, y in batches:
            with torch.set_grad_enabled(not detached):
                theirs = teacher(x)
            own = student(x)
            hard = own / temperature if hot_labels else own
            labels = torch.nn.functional.cross_entropy(hard, y)
            answers = divergence(own, theirs, temperature)
            share = 1 - alpha if swapped else alpha
            loss = share * labels + (1 - share) * answers
            if cleared:
                optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        if back:
            teacher.train(mode if given else True)
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

    def run(
        stage, widths, student, deep, teacher, drop, mode, images, labels, temperature, alpha, lr
    ):
        pupil, master = made(widths, student, 0.0), made(deep, teacher, drop)
        master.train(mode)
        pupil.eval()
        seen = []
        pupil.register_forward_pre_hook(lambda module, _inputs: seen.append(module.training))
        batches = [
            (torch.from_numpy(x), torch.from_numpy(y)) for x, y in zip(images, labels, strict=True)
        ]
        torch.manual_seed(0)
        losses = function(pupil, master, batches, temperature, alpha, lr)
        if not isinstance(losses, list | tuple) or not all(isinstance(n, float) for n in losses):
            kinds = (
                {type(n).__name__ for n in losses} if isinstance(losses, list | tuple) else set()
            )
            found = f"a list of {', '.join(sorted(kinds))}" if kinds else type(losses).__name__
            raise TypeError(f"teach must return a list of floats, got {found}")
        learned = tuple(p.detach().numpy() for p in pupil.parameters())
        if stage == "the student learns":
            return tuple(losses), learned, all(seen)
        if stage != "as it was":
            return tuple(losses), learned
        kept = tuple(p.detach().numpy() for p in master.parameters())
        graded = any(p.grad is not None for p in master.parameters())
        modes = all(bool(module.training) == mode for module in master.modules())
        return kept, graded, modes

    return run


def _cases(generator: np.random.Generator) -> list[Case]:
    def case(
        stage: str,
        label: str,
        steps: int,
        lr: float,
        drop: float = 0.0,
        alpha: float = 0.3,
        mode: bool = True,
    ) -> Case:
        widths, deep = (5, 4, 3), (5, 8, 8, 3)

        def parameters(of: tuple) -> tuple:
            pairs = itertools.pairwise(of)
            shapes = [shape for i, o in pairs for shape in ((o, i), (o,))]
            return tuple(generator.normal(0, 1, shape).astype(np.float32) for shape in shapes)

        images = generator.normal(0, 1, (steps, 6, widths[0])).astype(np.float32)
        labels = generator.integers(0, widths[-1], (steps, 6))
        temperature = float(generator.uniform(2, 5))
        networks = (widths, parameters(widths), deep, parameters(deep), drop, mode)
        args = (stage, *networks, tuple(images), tuple(labels), temperature, alpha, lr)
        return Case(f"{stage}: {label}", args, stage)

    return [
        case(LOSS, "labels and answers", 1, 0.0),
        case(LOSS, "answers alone", 1, 0.0, alpha=0.0),
        case(LOSS, "labels alone", 1, 0.0, alpha=1.0),
        case(TEACHER, "half of its units dropped", 2, 0.0, drop=0.5),
        case(TEACHER, "and answers alone", 2, 0.0, drop=0.5, alpha=0.0),
        case(LEARNS, "one step", 1, 0.2),
        case(LEARNS, "five steps", 5, 0.1),
        case(LEARNS, "more on labels", 4, 0.1, alpha=0.7),
        case(LEFT, "after two steps", 2, 0.1),
        case(LEFT, "with dropout", 2, 0.1, drop=0.5),
        case(LEFT, "given in evaluation mode", 2, 0.1, drop=0.5, mode=False),
    ]


TEACH = Exercise(
    id="distill.teach",
    title="The loop in which a student learns",
    points=12,
    reference=teach,
    cases=_cases,
    harness=at_work,
    lines=18,
    tolerance=1e-4,
    returns="the losses and the student's parameters; in stage 3 whether it was in training mode; in stage 4 "
    "the teacher's parameters, whether it has gradients, whether all of it is in the mode as given",
    stages=((LOSS, 3), (TEACHER, 3), (LEARNS, 3), (LEFT, 3)),
    mistakes=(
        Mistake(
            "the temperature is not squared",
            _built(squared=False),
            "Gradients of the soft part shrink by 1 / T^2: multiply it by T^2, so that `alpha` means the "
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
            "`alpha` weighs the labels, `1 - alpha` the teacher's answers, as in Exercise 2.",
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
            "the student in eval mode",
            _built(learning=False),
            "The student learns in training mode: call its `train()` before the first step.",
        ),
        Mistake(
            "the teacher left in training mode",
            _built(given=False),
            "The teacher was in eval mode when you were given it: keep `teacher.training` and set that back.",
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
