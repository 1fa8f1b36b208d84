"""One training loop for the whole course.

    for each batch:   w <- w - lr(t) * v,   v <- momentum * v + gradient of the loss

with the one-cycle schedule (Smith and Topin 2018, https://arxiv.org/abs/1708.07120): the learning rate
rises to its maximum over the first part of the steps and falls to nearly zero by the last, which trains
small networks well in a few epochs. Batches are drawn from tensors in memory, without loader workers.

Whatever a technique adds to training, a `loss` says or a `Hook` does: masks after a step, penalties
after the backward pass, distillation from another network's logits.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.arguments import check_labelled, check_network, kind
from compresslab.data import Examples
from compresslab.narrow_convolutions import lay_out_safely_
from compresslab.precision import as_taken
from compresslab.progress_bar import Bar
from compresslab.shorter import most_examples, most_steps


@dataclass(frozen=True)
class Batch:
    """Images, labels, and where in the training set they lie (to look up cached teacher logits)."""

    x: torch.Tensor
    y: torch.Tensor
    index: torch.Tensor


Loss = Callable[[nn.Module, Batch], torch.Tensor]


def cross_entropy(model: nn.Module, batch: Batch) -> torch.Tensor:
    """The mean negative log-likelihood of the labels.

    Raises:
        ValueError: for a network that answers with something else than one tensor [n, classes], and labels
            that are none of them.
    """
    answers = one_tensor(model(batch.x))
    _check_answers(answers, batch.y)
    return F.cross_entropy(answers, batch.y)


def _check_answers(answers: torch.Tensor, labels: torch.Tensor) -> None:
    """Refuse answers that are no row of logits for each example, and labels that none of them is of."""
    if answers.ndim != 2 or len(answers) != len(labels) or answers.shape[1] < 2:
        raise ValueError(
            f"a network must answer {len(labels)} examples with [{len(labels)}, classes], two classes or "
            f"more, got {list(answers.shape)}"
        )
    if len(labels) and int(labels.min()) < 0:
        raise ValueError(f"labels must be 0 or more, got {int(labels.min())}")
    if len(labels) and int(labels.max()) >= answers.shape[1]:
        raise ValueError(
            f"labels must be 0 to {answers.shape[1] - 1} for a network of {answers.shape[1]} classes, got "
            f"{int(labels.max())}: do they begin at 1?"
        )


def one_tensor(answer: object) -> torch.Tensor:
    """A network's answer, if it is one tensor: labels are held against nothing else.

    Raises:
        ValueError: if it is not, with the way out.
    """
    if not isinstance(answer, torch.Tensor):
        raise ValueError(
            f"a network must answer with one tensor to be tested or trained on labels, got "
            f"{type(answer).__name__}: wrap it in a module that returns the logits"
        )
    return answer


@dataclass
class Run:
    """A training run as hooks see it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    step: int = 0
    epoch: int = 0
    losses: list[float] = field(default_factory=list)


class Hook:
    """Called by `fit` at four moments; override those that matter."""

    def before_training(self, run: Run) -> None:
        """Once, before the first step."""

    def after_backward(self, run: Run) -> None:
        """Every step, once gradients are there and before they are used."""

    def after_step(self, run: Run) -> None:
        """Every step, once the weights have changed."""

    def after_epoch(self, run: Run) -> None:
        """After every pass over the data."""


class TrainingDiverged(RuntimeError):  # noqa: N818
    """The loss became NaN or infinite."""


def seed_everything(seed: int) -> None:
    """Make weights and batches drawn from here on repeatable."""
    torch.manual_seed(seed)


def fit(
    model: nn.Module,
    data: Examples,
    epochs: float = 4,
    lr: float = 0.1,
    batch_size: int = 128,
    loss: Loss = cross_entropy,
    hooks: Sequence[Hook] = (),
    seed: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
    weight_decay: float = 5e-4,
    label: str = "training",
    progress: bool = True,
) -> Run:
    """Train a model in place and leave it in evaluation mode.

    Args:
        model: any module that maps [n, ...] to logits [n, classes].
        data: what to train on.
        epochs: passes over the data; a fraction is allowed, 0 leaves the model as it is. (COMPRESSLAB_STEPS
            makes them shorter: see `shorter`.)
        lr: the maximum learning rate of the one-cycle schedule.
        batch_size: examples a step.
        loss: loss(model, batch), a scalar tensor.
        hooks: called in their order at each moment.
        seed: the order of the batches depends on it (weights are drawn by whoever built the model).
        optimizer: if None, SGD with Nesterov momentum 0.9; given, its rates follow the schedule too.
        weight_decay: of the default optimizer.
        label: what the progress bar says.
        progress: whether to show the bar.

    Returns:
        The Run with the loss of every step.

    Raises:
        ValueError: for no data or something else than examples with labels, no network, a negative number of
            epochs, or a learning rate that is not positive.
        TrainingDiverged: at the first loss that is not finite.
    """
    check_network(model, "model")
    check_labelled(data)
    if len(data) == 0:
        raise ValueError("data must hold at least one example, got 0")
    _check_numbers(epochs, lr, batch_size, weight_decay, seed)
    batch_size, seed = int(batch_size), int(seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            "model must have a parameter to train, got none that is not frozen: model.requires_grad_(True)"
        )
    steps = steps_of(epochs, len(data), batch_size)
    if optimizer is None:
        optimizer = torch.optim.SGD(
            parameters, lr, momentum=0.9, nesterov=True, weight_decay=weight_decay
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held & {id(p) for p in parameters}:
        raise ValueError(
            "optimizer must hold parameters of the model that is trained, got those of another network"
        )
    run = Run(model, optimizer, steps)
    for hook in hooks:
        hook.before_training(run)
    try:
        if steps:
            with torch.inference_mode(False), torch.enable_grad():
                _train(run, data, epochs, lr, batch_size, loss, hooks, seed, label, progress)
    finally:
        model.eval()  # interrupted as well: in training mode answers depend on the batch
    return run


def steps_of(epochs: float, count: int, batch_size: int) -> int:
    """How many steps a training over `count` examples takes, as COMPRESSLAB_STEPS allows."""
    return round(epochs * _batches_an_epoch(epochs, count, batch_size))


def _batches_an_epoch(epochs: float, count: int, batch_size: int) -> int:
    batches, most = math.ceil(count / batch_size), most_steps()
    if most is None or epochs * batches <= most:
        return batches
    # Shorter epochs, and as many: what happens at the end of each still happens.
    return max(1, int(most / max(epochs, 1)))


def _check_numbers(
    epochs: object, lr: object, batch_size: object, weight_decay: object, seed: object
) -> None:
    given = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "weight_decay": weight_decay}
    for name, value in (given | {"seed": seed}).items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError(f"{name} must be a number, got {kind(value)}")
    whole = isinstance(batch_size, Integral) and isinstance(seed, Integral)
    fine = 0 <= epochs < math.inf and 0 < lr < math.inf and 0 <= weight_decay < math.inf
    if not (whole and fine and batch_size >= 1):
        said = ", ".join(f"{name}={value}" for name, value in given.items())
        raise ValueError(
            "epochs must be >= 0, lr > 0, weight_decay >= 0, all finite, batch_size an integer >= 1 and seed "
            f"one, got {said}, seed={seed}"
        )


def _train(run, data, epochs, lr, batch_size, loss, hooks, seed, label, progress) -> None:  # noqa: ANN001
    # Below ten steps the schedule has no room to rise: such a run takes the first part of ten.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        run.optimizer, lr, total_steps=max(run.steps, 10), pct_start=0.25, cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(seed)
    laid_out = lay_out_safely_(run.model)
    batches = _batches_an_epoch(epochs, len(data), batch_size)
    run.model.train()
    with Bar(run.steps, label if progress else "") as bar:
        while run.step < run.steps:
            order = torch.randperm(len(data), generator=generator).split(batch_size)
            for index in order[:batches]:
                x = as_taken(run.model, laid_out(data.x[index]))
                batch = Batch(x, data.y[index], index)
                _step(run, batch, loss, hooks)
                schedule.step()
                bar.advance()
                if run.step == run.steps:
                    break
            run.epoch += 1
            for hook in hooks:
                hook.after_epoch(run)


def _step(run: Run, batch: Batch, loss: Loss, hooks: Sequence[Hook]) -> None:
    run.optimizer.zero_grad(set_to_none=True)
    value = loss(run.model, batch)
    if not torch.isfinite(value):
        rate = run.optimizer.param_groups[0]["lr"]
        raise TrainingDiverged(
            f"the loss became {value.item()} at step {run.step + 1} of {run.steps} "
            f"(learning rate {rate:.3g}): lower lr, or look for NaN in the data"
        )
    value.backward()
    for hook in hooks:
        hook.after_backward(run)
    run.optimizer.step()
    for hook in hooks:
        hook.after_step(run)
    run.step += 1
    run.losses.append(value.item())


LIBRARIES = {torch.__name__, __name__.partition(".")[0]}


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; after it every module is in the mode that it was in.

    Tables with `max_norm`, whose rows torch scales in place whenever they are read, have their rows back
    too, and so have the buffers of modules that are neither torch's nor the library's: a forward may keep a
    running mean there in either mode.
    """
    modes = {module: module.training for module in model.modules()}
    scaled = [m for m in modes if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.max_norm]
    before = [(table.weight, table.weight.detach().clone()) for table in scaled]
    # Norms, an author's subclass too, change theirs in training mode alone, and then that is wanted.
    norms = nn.modules.batchnorm._NormBase
    own = [
        m
        for m in modes
        if type(m).__module__.partition(".")[0] not in LIBRARIES and not isinstance(m, norms)
    ]
    kept = [
        (module, name, buffer, buffer.detach().clone())
        for module in own
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for weight, rows in before:
                weight.copy_(rows)
            for module, name, buffer, values in kept:
                module._buffers[name] = buffer
                buffer.copy_(values)


@torch.no_grad()
def logits(model: nn.Module, x: torch.Tensor, batch_size: int = 250) -> torch.Tensor:
    """The model's outputs for all images, in evaluation mode; modes are put back after.

    A network in half precision gets the images so (`precision`).

    Raises:
        ValueError: for a network that answers with something else than one tensor.
    """
    with evaluating(model):
        parts = as_taken(model, x).split(batch_size)
        return torch.cat([one_tensor(model(part)) for part in parts])


def evaluate(model: nn.Module, data: Examples) -> float:
    """Accuracy in per cent (of the first examples only where COMPRESSLAB_STEPS is set: see `shorter`).

    Raises:
        ValueError: as `right_answers`.
    """
    return 100 * float(right_answers(model, data).double().mean())


def right_answers(model: nn.Module, data: Examples) -> torch.Tensor:
    """Which examples are answered with their label, [n] of bool; the examples are those of `evaluate`.

    Raises:
        ValueError: for no examples or something else than examples with labels, no network, or one whose
            answers hold NaN.
    """
    check_network(model, "model")
    check_labelled(data)
    if len(data) == 0:
        raise ValueError("data must hold at least one example, got 0")
    x, y = data.x[: most_examples()], data.y[: most_examples()]
    answers = logits(model, x)
    _check_answers(answers, y)
    if answers.isnan().any():
        raise ValueError("model must answer with numbers, got NaN")
    return answers.argmax(1) == y
