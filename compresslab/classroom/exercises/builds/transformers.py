"""Lab 09: what a student's layers lose against its teacher's, read off by hooks."""

import itertools
from collections.abc import Callable

import numpy as np
import torch

from compresslab.classroom.exercise import RIGHT, Case, Exercise, Mistake

ONE, SEVERAL, GRADIENT, LEFT = "one pair", "several pairs", "the gradient", "as they were"


def hidden_loss(
    student: torch.nn.Module, teacher: torch.nn.Module, pairs: tuple, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The student's output, and the mean over pairs of the squared distance of both layers' outputs."""
    return _built()(student, teacher, pairs, x)


def _built(
    detached: bool = True,
    evaluating: bool = True,
    back: bool = True,
    removed: bool = True,
    mean: bool = True,
    root: bool = False,
    safe: bool = True,
) -> Callable:
    """The loss, with one thing or another done differently."""

    def hidden_loss(student, teacher, pairs, x):
        kept, handles, mode = {}, [], teacher.training

        def watch(model, name, whose):
            def keep(layer, inputs, output):
                kept[whose, name] = output

            handles.append(model.get_submodule(name).register_forward_hook(keep))

        def run():
            if evaluating:
                teacher.eval()
            if detached:
                with torch.no_grad():
                    teacher(x)
            else:
                teacher(x)
            return student(x)

        for one, other in pairs:
            watch(student, one, "student")
            watch(teacher, other, "teacher")
        try:
            output = run()
        finally:
            if removed and safe:
                for handle in handles:
                    handle.remove()
            if back and safe:
                teacher.train(mode)
        if removed:
            for handle in handles:
                handle.remove()
        if back:
            teacher.train(mode)
        losses = []
        for one, other in pairs:
            s, t = kept["student", one], kept["teacher", other]
            loss = (s - t).square().mean()
            losses.append(loss.sqrt() if root else loss)
        return output, sum(losses) / (len(losses) if mean else 1)

    return hidden_loss


def at_work(function: Callable) -> Callable:
    """What comes of it for two networks that are made here, and how they were left."""

    def made(widths, weights, drop):
        nn, layers = torch.nn, []
        for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):  # noqa: RUF007
            block = nn.Sequential(nn.Linear(inputs, outputs), nn.Tanh())
            layers += [block, nn.Dropout(drop)]
        network = nn.Sequential(*layers)
        with torch.no_grad():
            for parameter, values in zip(network.parameters(), weights, strict=True):
                parameter.copy_(torch.from_numpy(values))
        return network

    def run(stage, widths, deep, student_weights, teacher_weights, pairs, x):
        student, teacher = made(widths, student_weights, 0.0), made(deep, teacher_weights, 0.5)
        student.train()
        teacher.train()
        inputs = torch.from_numpy(x)
        if stage == "as they were":

            def hooks():
                modules = [*student.modules(), *teacher.modules()]
                return sum(len(m._forward_hooks) for m in modules)

            function(student, teacher, pairs, inputs)
            first = hooks(), bool(teacher.training), bool(student.training)
            try:  # noqa: SIM105
                function(student, teacher, pairs, inputs[:, :-1])
            except RuntimeError:
                pass
            return "left", *first, hooks(), bool(teacher.training)
        output, loss = function(student, teacher, pairs, inputs)
        if stage != "the gradient":
            return "loss", output.detach().numpy(), float(loss.detach())
        loss.backward()
        own = [
            np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy()
            for p in student.parameters()
        ]
        reached = any(p.grad is not None for p in teacher.parameters())
        return "gradient", reached, tuple(own)

    return run


def _forward(widths: tuple, weights: tuple, x: np.ndarray) -> list[np.ndarray]:
    """Each block's output, in NumPy."""
    found = []
    for number in range(len(widths) - 1):
        x = np.tanh(x @ weights[2 * number].T + weights[2 * number + 1])
        found.append(x)
    return found


def seen(
    value: tuple,
    stage: str,
    widths: tuple,
    deep: tuple,
    own: tuple,
    others: tuple,
    pairs: tuple,
    x: np.ndarray,
) -> str:
    """One sentence about a stage; the loss and its gradient in closed form, by NumPy."""
    kind, *found = value
    if kind == "left":
        hooks, teacher, student, after, still = found
        if hooks:
            return "hooks are left on the networks"
        if not teacher or not student:
            return "a network is in another mode than before"
        if after:
            return "hooks are left when a network stops with an error"
        return RIGHT if still else "the teacher's mode is another one after an error"
    mine, theirs = _forward(widths, own, x), _forward(deep, others, x)
    places = [(int(s.split(".")[0]) // 2, int(t.split(".")[0]) // 2) for s, t in pairs]
    wanted = float(np.mean([np.square(mine[s] - theirs[t]).mean() for s, t in places]))
    if kind == "loss":
        output, loss = found
        if not np.allclose(output, mine[-1], atol=1e-4):
            return "the output is not the student's"
        if np.isclose(loss, wanted, rtol=1e-3):
            return RIGHT
        if np.isclose(loss, wanted * len(pairs), rtol=1e-3):
            return "the loss is the sum over the pairs"
        return "the loss is another number"
    reached, gradients = found
    if reached:
        return "a gradient reaches the teacher"
    expected = _gradients(widths, own, x, mine, theirs, places)
    same = all(np.allclose(g, e, atol=1e-4) for g, e in zip(gradients, expected, strict=True))
    return RIGHT if same else "the student's gradient is another one"


def _gradients(widths, own, x, mine, theirs, places):
    """By the chain rule, from the last block to the first."""
    found, flow = [], np.zeros_like(mine[-1])
    for number in reversed(range(len(widths) - 1)):
        for s, t in places:
            if s == number:
                flow = flow + 2 * (mine[s] - theirs[t]) / mine[s].size / len(places)
        inner = flow * (1 - mine[number] ** 2)
        before = mine[number - 1] if number else x
        found += [inner.sum(0), inner.T @ before]
        flow = inner @ own[2 * number]
    return found[::-1]


def _cases(generator: np.random.Generator) -> list[Case]:
    def case(stage: str, label: str, widths: tuple, deep: tuple, pairs: tuple) -> Case:
        def weights(of: tuple) -> tuple:
            shapes = itertools.pairwise(of)
            return tuple(
                generator.normal(0, 0.7, shape).astype(np.float32)
                for i, o in shapes
                for shape in ((o, i), (o,))
            )

        x = generator.normal(0, 1, (5, widths[0])).astype(np.float32)
        args = (stage, widths, deep, weights(widths), weights(deep), pairs, x)
        return Case(f"{stage}: {label}", args, stage)

    two, four = (4, 6, 3), (4, 6, 6, 5, 3)
    ends = (("2", "6"),)
    inside = (("0.1", "2.1"), ("2.1", "6.1"))
    return [
        case(ONE, "the last blocks", two, four, ends),
        case(ONE, "one layer inside of a block", two, four, (("0.1", "0.1"),)),
        case(SEVERAL, "two pairs", two, four, inside),
        case(
            SEVERAL,
            "three of five layers",
            (4, 6, 6, 3),
            (4, 6, 6, 6, 6, 3),
            (("0", "2"), ("2", "6"), ("4", "8")),
        ),
        case(GRADIENT, "of two pairs", two, four, inside),
        case(GRADIENT, "of one inside", two, four, (("0", "2"),)),
        case(LEFT, "after one pair", two, four, ends),
        case(LEFT, "after two pairs", two, four, inside),
    ]


HIDDEN_LOSS = Exercise(
    id="transformers.hidden_loss",
    title="Layer against layer, by hooks",
    points=16,
    reference=hidden_loss,
    cases=_cases,
    harness=at_work,
    look=seen,
    lines=20,
    stages=((ONE, 4), (SEVERAL, 4), (GRADIENT, 4), (LEFT, 4)),
    mistakes=(
        Mistake(
            "the teacher in training mode",
            _built(evaluating=False),
            "The teacher's dropout is at work: its layers say something else every time. Run it in eval "
            "mode, and "
            "set the mode back.",
        ),
        Mistake(
            "the sum instead of the mean",
            _built(mean=False),
            "The loss is the mean over the pairs, so that more pairs do not weigh more.",
        ),
        Mistake(
            "the distance instead of its square",
            _built(root=True),
            "Each pair counts with its mean *squared* difference, without a root.",
        ),
        Mistake(
            "the teacher learns, too",
            _built(detached=False),
            "The teacher is not trained: run it under `torch.no_grad()`.",
        ),
        Mistake(
            "hooks are left",
            _built(removed=False),
            "`register_forward_hook` hands back a handle: call its `remove()`, or every later pass keeps "
            "tensors.",
        ),
        Mistake(
            "the teacher left in eval mode",
            _built(back=False),
            "The teacher was in training mode when you were given it.",
        ),
        Mistake(
            "nothing is cleared up after an error",
            _built(safe=False),
            "When a forward pass stops with an error, the lines behind it do not run: put what clears up "
            "into "
            "`finally:`.",
        ),
    ),
)

EXERCISES = (HIDDEN_LOSS,)
