"""Lab 14, the fault clinic: five patients with a fault in a run: calibrating, loading, solving, choosing."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.classroom.exercises.builds.clinic import (
    STAGES,
    in_stages,
    misread,
    numbers_of,
    seen,
    without_stage,
)

f32 = np.float32


# ---- calibrated in training mode -----------------------------------------------------------------
def calibrated_range(network: nn.Module, batches: list[torch.Tensor]) -> tuple[str, float]:
    """The largest output in evaluation mode; the network as it was."""
    still = copy.deepcopy(network).eval()
    with torch.no_grad():
        return "batch", max(float(still(x).abs().max()) for x in batches)


def with_norm(function: Callable) -> Callable:
    """The answer gets a small network with a batch norm; what became of it is handed back too.

    It stands by itself: grading sends it into the sandbox as text.
    """

    def run(
        weight: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
        batches: np.ndarray,
        training: bool,
        frozen: bool,
        stage: str,
    ) -> object:
        outputs, inputs = weight.shape
        network = torch.nn.Sequential(
            torch.nn.Linear(inputs, outputs, bias=False), torch.nn.BatchNorm1d(outputs)
        )
        with torch.no_grad():
            network[0].weight.copy_(torch.from_numpy(weight.copy()))
            network[1].running_mean.copy_(torch.from_numpy(mean.copy()))
            network[1].running_var.copy_(torch.from_numpy(variance.copy()))
        network.train(training)
        if frozen:
            network[1].eval()
        modes = [m.training for m in network.modules()]
        out = function(network, [torch.from_numpy(b.copy()) for b in batches])
        if type(out) not in (tuple, list) or len(out) != 2:
            return 0
        if stage == "the cause":
            return out[0], 0
        if not isinstance(out[1], int | float | np.floating | torch.Tensor):
            return out[0], "no number"
        after = network[1].running_mean.numpy().copy(), network[1].running_var.numpy().copy()
        same = [m.training for m in network.modules()] == modes
        return out[0], (same, *after, float(out[1]))

    return run


def _calibrated(
    weight: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    batches: np.ndarray,
    training: bool,
    frozen: bool,
) -> tuple[bool, np.ndarray, np.ndarray, float]:
    normed = (batches @ weight.T - mean) / np.sqrt(variance + 1e-5)
    return True, mean, variance, float(np.abs(normed).max())


def _calibration_cases(generator: np.random.Generator) -> list[Case]:
    def network(
        inputs: int, outputs: int, batches: int, training: bool, frozen: bool = False
    ) -> tuple:
        mean = numbers_of(generator, outputs)
        variance = generator.uniform(0.5, 2, outputs).astype(f32)
        x = numbers_of(generator, batches, 6, inputs) * f32(3)
        return numbers_of(generator, outputs, inputs), mean, variance, x, training, frozen

    return in_stages(
        ("left in training mode", *network(3, 2, 2, True)),
        ("a wider one in training mode", *network(6, 4, 3, True)),
        ("in evaluation mode already", *network(4, 3, 2, False)),
        ("one batch", *network(5, 4, 1, True)),
        ("a frozen norm in a network in training mode", *network(4, 3, 2, True, True)),
    )


def _calibrating(ways: str) -> Callable:
    """Calibration as the patient did it, or mended in one way or another."""

    def calibrate(network, batches):
        before, was = copy.deepcopy(network.state_dict()), network.training
        watched = copy.deepcopy(network) if "copy" in ways else network
        if "eval" in ways:
            watched.eval()
        if "train" in ways:
            watched.train()
        with torch.no_grad():
            found = max(float(watched(x).abs().max()) for x in batches)
        if "back" in ways:
            network.train(was)
        if "restore" in ways:
            network.load_state_dict(before)
        return "batch", found

    return calibrate


CALIBRATED_RANGE = Exercise(
    id="clinic.calibrated_range",
    title="It was better before it was calibrated",
    points=3,
    reference=calibrated_range,
    cases=_calibration_cases,
    harness=with_norm,
    look=seen(
        "batch",
        _calibrated,
        1e-4,
        (
            "every module in the mode that it came in",
            "running means afterwards",
            "running variances afterwards",
            "the range",
        ),
    ),
    lines=5,
    stages=STAGES,
    mistakes=(
        misread(
            calibrated_range,
            "outlier",
            "A large value makes a range wide, and leaves the network as it was. This network has changed: "
            "in what?",
        ),
        misread(
            calibrated_range,
            "noise",
            "It is the same network on the same test images, and it has lost points each time. What did "
            "the calls change?",
        ),
        misread(
            calibrated_range,
            "leak",
            "No figure was chosen by anything here. Compare the network before and after: parameters, "
            "and what else?",
        ),
        Mistake(
            "one mode for all",
            _calibrating("eval back"),
            "Modules may differ in their mode: a norm may be frozen, in evaluation mode, inside of a network "
            "that trains. Each has to be in its own again.",
        ),
        Mistake(
            "no gradients, and still in training mode",
            _calibrating(""),
            "`no_grad` stops gradients, not batch norms: in training mode each call moves their running "
            "statistics.",
        ),
        Mistake(
            "the mode is not put back",
            _calibrating("eval"),
            "The range is right. But the network was in training mode when it came, and is not now.",
        ),
        Mistake(
            "a range of the batch",
            _calibrating("copy"),
            "The network is safe now. But the range is of outputs which no deployed network gives: they were "
            "normalised by the batch.",
            also=(_calibrating("restore"),),
        ),
    ),
)


# ---- other names ---------------------------------------------------------------------------------
def plain_state(state: dict[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    """Wrappers' prefixes off, pruned weights multiplied with their masks."""
    return "names", _masked({_unwrapped(name): value for name, value in state.items()})


def _unwrapped(name: str) -> str:
    while name.startswith(("module.", "_orig_mod.")):
        name = name.partition(".")[2]
    return name


def _masked(found: dict) -> dict:
    found = dict(found)
    for name in [n for n in found if n.endswith("_orig")]:
        plain = name.removesuffix("_orig")
        found[plain] = found.pop(name) * found.pop(f"{plain}_mask")
    return found


def as_dictionary(function: Callable) -> Callable:
    """The answer gets and gives a dictionary; its entries are handed back in the order of their names.

    It stands by itself: grading sends it into the sandbox as text.
    """

    def run(names: tuple[str, ...], tensors: tuple, stage: str) -> object:
        out = function({n: t.copy() for n, t in zip(names, tensors, strict=True)})
        if type(out) not in (tuple, list) or len(out) != 2:
            return 0
        if stage == "the cause":
            return out[0], 0
        if not isinstance(out[1], dict):
            return out[0], "no dictionary"
        ordered = sorted((str(name), value) for name, value in out[1].items())
        return out[0], (tuple(n for n, _ in ordered), tuple(t for _, t in ordered))

    return run


def _plain(names: tuple[str, ...], tensors: tuple) -> tuple:
    found = plain_state(dict(zip(names, tensors, strict=True)))[1]
    ordered = sorted(found.items())
    return tuple(n for n, _ in ordered), tuple(t for _, t in ordered)


def _state_cases(generator: np.random.Generator) -> list[Case]:
    def state(*names: str) -> tuple:
        return names, tuple(
            (generator.random(3) < 0.5).astype(f32)
            if n.endswith("_mask")
            else numbers_of(generator, 3)
            for n in names
        )

    return in_stages(
        ("trained on two cards", *state("module.0.weight", "module.0.bias")),
        ("compiled", *state("_orig_mod.0.weight", "_orig_mod.1.bias")),
        ("pruned by torch", *state("0.weight_orig", "0.weight_mask", "0.bias")),
        ("nothing to do", *state("0.weight", "head.bias")),
        ("a layer that is called module", *state("encoder.module.weight", "submodule.bias")),
        (
            "all at once",
            *state("module.a.weight_orig", "module.a.weight_mask", "module.submodule.weight"),
        ),
        ("compiled, then on two cards", *state("module._orig_mod.0.weight")),
        (
            "on two cards, then compiled",
            *state("_orig_mod.module.0.weight", "_orig_mod.module.0.bias"),
        ),
    )


def _stated(strip: Callable, mask: Callable) -> Callable:
    def mended(state):
        found = {strip(name): value for name, value in state.items()}
        return "names", mask(found)

    return mended


def _unmasked(found: dict) -> dict:
    return {n.removesuffix("_orig"): v for n, v in found.items() if not n.endswith("_mask")}


PLAIN_STATE = Exercise(
    id="clinic.plain_state",
    title="Missing keys, unexpected keys",
    points=3,
    reference=plain_state,
    cases=_state_cases,
    harness=as_dictionary,
    look=seen("names", _plain, 1e-6, ("names in order", "tensors in the order of their names")),
    lines=8,
    stages=STAGES,
    mistakes=(
        misread(
            plain_state,
            "axis",
            "The shapes fit, one by one. Print the keys that are missing beside those that were "
            "not expected.",
        ),
        misread(
            plain_state,
            "batch",
            "Nothing was computed from a batch here. Print the keys that are missing beside those that were "
            "not expected.",
        ),
        misread(
            plain_state,
            "zeros",
            "A mask holds zeros, and so it should. Print the keys that are missing beside those that "
            "were not expected.",
        ),
        Mistake(
            "one wrapper only",
            _stated(lambda n: n.removeprefix("module.").removeprefix("_orig_mod."), _masked),
            "One wrapper may stand inside of the other, in either order: take off prefixes until there "
            "is none.",
            also=(
                _stated(lambda n: n.removeprefix("_orig_mod.").removeprefix("module."), _masked),
            ),
        ),
        Mistake(
            "cut out of the middle",
            _stated(lambda n: n.replace("module.", "").replace("_orig_mod.", ""), _masked),
            "A layer may be called `submodule` or `encoder.module`: a wrapper's word stands at the "
            "beginning only.",
        ),
        Mistake(
            "the mask is dropped",
            _stated(_unwrapped, _unmasked),
            "`weight_orig` is the weight before pruning. The weight is what it is times its mask.",
        ),
        Mistake(
            "masks stay",
            _stated(_unwrapped, lambda found: found),
            "The prefixes are gone. A weight that torch has pruned is still two tensors, and the network "
            "wants one.",
        ),
        Mistake(
            "only what fits",
            _stated(
                lambda n: n,
                lambda found: {
                    n: v
                    for n, v in found.items()
                    if n == _unwrapped(n) and n[-5:] not in ("_orig", "_mask")
                },
            ),
            "What did not fit is left out, as `strict=False` does: those layers stay as they were drawn.",
        ),
    ),
)


# ---- a matrix without an inverse -----------------------------------------------------------------
def damped_factor(x: np.ndarray, damping: float) -> tuple[str, np.ndarray]:
    """The lower Cholesky factor of the inputs' products; dead inputs and damping as in GPTQ.

    Frantar et al. 2023, https://arxiv.org/abs/2210.17323, section 3.3, step 2.
    """
    products = x.T @ x
    dead = np.diag(products) == 0
    products[dead, dead] = 1
    products += damping * np.diag(products).mean() * np.eye(len(products))
    return "singular", np.linalg.cholesky(products)


def _factored(
    dead: bool = True,
    damped: bool = True,
    mean: Callable = np.mean,
    upper: bool = False,
    before: bool = False,
):
    def factor(x, damping):
        products = x.T @ x
        silent, first = np.diag(products) == 0, np.diag(products).copy()
        if dead:
            products[silent, silent] = 1
        if damped:
            size = mean(first if before else np.diag(products))
            products = products + damping * size * np.eye(len(products))
        found = np.linalg.cholesky(products)
        return "singular", found.T.copy() if upper else found

    return factor


def _hessian_cases(generator: np.random.Generator) -> list[Case]:
    def inputs(examples: int, width: int, silent: tuple = ()) -> np.ndarray:
        x = generator.normal(0, 2, (examples, width))
        x[:, list(silent)] = 0
        return x

    return in_stages(
        ("an input that is always 0", inputs(8, 4, (2,)), 0.01),
        ("fewer examples than inputs", inputs(3, 5), 0.01),
        ("both", inputs(4, 6, (0, 5)), 0.1),
        ("nothing wrong", inputs(9, 3), 0.01),
    )


DAMPED_FACTOR = Exercise(
    id="clinic.damped_factor",
    title="Not positive definite",
    points=3,
    reference=damped_factor,
    cases=_hessian_cases,
    harness=without_stage,
    look=seen("singular", lambda *arguments: damped_factor(*arguments)[1], 1e-8),
    lines=5,
    stages=STAGES,
    mistakes=(
        misread(
            damped_factor,
            "overflow",
            "The numbers are small. Look at the eigenvalues of the matrix: what is the smallest one?",
        ),
        misread(
            damped_factor,
            "outlier",
            "No input is large here. Look for inputs that are always 0, and count the examples.",
        ),
        Mistake(
            "damped, dead inputs as they are",
            _factored(dead=False),
            "It runs. But an input that is always 0 has a diagonal near 0, and GPTQ divides by it: give it "
            "1 first.",
        ),
        misread(
            damped_factor,
            "zeros",
            "An input of zeros is one way to get there. What is it that the algorithm needs of the "
            "matrix, and has not?",
        ),
        Mistake(
            "the mean before the repair",
            _factored(before=True),
            "The order matters: first the 1 for inputs that are always 0, then the mean of that diagonal.",
        ),
        Mistake(
            "damping of one size",
            _factored(mean=lambda d: 1.0),
            "How much 0.01 is depends on how large the inputs are: take it of the mean of the diagonal.",
        ),
        Mistake(
            "damping by the largest",
            _factored(mean=np.max),
            "One loud input would drown the others: take the mean of the diagonal.",
        ),
        Mistake(
            "the upper one",
            _factored(upper=True),
            "That is the transpose: the text asks for the lower triangle.",
        ),
    ),
)


# ---- a student that learns nothing ---------------------------------------------------------------
def soft_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> tuple[str, torch.Tensor]:
    """T² times the mean divergence of the student's answers from the teacher's, which get no gradient.

    Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2.
    """
    said = F.log_softmax(student / temperature, dim=1)
    wanted = F.log_softmax(teacher.detach() / temperature, dim=1)
    return "direction", temperature**2 * F.kl_div(
        said, wanted, reduction="batchmean", log_target=True
    )


def with_gradients(function: Callable) -> Callable:
    """The answer gets tensors; its loss, and what it teaches student and teacher, are handed back.

    It stands by itself: grading sends it into the sandbox as text.
    """

    def run(student: np.ndarray, teacher: np.ndarray, temperature: float, stage: str) -> object:
        one, other = (torch.from_numpy(z).double().requires_grad_() for z in (student, teacher))
        out = function(one, other, temperature)
        if type(out) not in (tuple, list) or len(out) != 2:
            return 0
        if stage == "the cause":
            return out[0], 0
        if not isinstance(out[1], torch.Tensor) or out[1].numel() != 1:
            return out[0], "no tensor of one number"
        if out[1].requires_grad:
            out[1].sum().backward()
        grads = (torch.zeros_like(z) if z.grad is None else z.grad for z in (one, other))
        return out[0], (float(out[1].detach()), *(g.numpy().copy() for g in grads))

    return run


def _softened_gradients(student: np.ndarray, teacher: np.ndarray, temperature: float) -> tuple:
    """In closed form: the gradient is T / n times the difference of the softened answers."""

    def logs(z: np.ndarray) -> np.ndarray:
        z = z.astype(float) / temperature
        z = z - z.max(axis=1, keepdims=True)
        return z - np.log(np.exp(z).sum(axis=1, keepdims=True))

    said, wanted = logs(student), logs(teacher)
    divergence = (np.exp(wanted) * (wanted - said)).sum(axis=1).mean()
    gradient = temperature / len(student) * (np.exp(said) - np.exp(wanted))
    return float(temperature**2 * divergence), gradient, np.zeros_like(gradient)


def _softened(
    swap: bool = False,
    power: int = 2,
    over_all: bool = False,
    both: bool = True,
    detach: str = "teacher",
) -> Callable:
    """The loss, with one thing or another done differently."""

    def loss(student, teacher, temperature):
        given = {"student": student, "teacher": teacher}
        if detach:
            given[detach] = given[detach].detach()
        first, second = given["student"], given["teacher"]
        if swap:
            first, second = second, first
        said = F.log_softmax(first / (temperature if both else 1), dim=1)
        wanted = F.log_softmax(second / temperature, dim=1)
        found = F.kl_div(said, wanted, reduction="batchmean", log_target=True)
        return "direction", temperature**power * found / (said.shape[1] if over_all else 1)

    return loss


def _soft_cases(generator: np.random.Generator) -> list[Case]:
    def answers(examples: int, classes: int, temperature: float) -> tuple:
        both = (3 * numbers_of(generator, examples, classes) for _ in range(2))
        return *both, temperature

    return in_stages(
        ("one example", *answers(1, 3, 2.0)),
        ("four examples", *answers(4, 5, 4.0)),
        ("at temperature 1", *answers(3, 4, 1.0)),
        ("very soft", *answers(2, 6, 20.0)),
    )


SOFT_LOSS = Exercise(
    id="clinic.soft_loss",
    title="The student learns nothing from its teacher",
    points=3,
    reference=soft_loss,
    cases=_soft_cases,
    harness=with_gradients,
    look=seen(
        "direction",
        _softened_gradients,
        1e-4,
        ("the loss", "the gradient for the student", "the gradient for the teacher"),
    ),
    lines=3,
    stages=STAGES,
    mistakes=(
        misread(
            soft_loss,
            "temperature",
            "At every temperature it is the same. Through which of the two does a gradient come, and which "
            "of them trains?",
        ),
        misread(
            soft_loss,
            "noise",
            "To the last digit, with every seed: that is no noise. Take the gradient for the student's "
            "answers.",
        ),
        Mistake(
            "the other way round",
            _softened(swap=True, detach="student"),
            "This is how far the teacher is from the student, and it is the student that gets no gradient.",
            also=(_softened(swap=True, detach=""), _softened(swap=True)),
        ),
        Mistake(
            "the teacher learns too",
            _softened(detach=""),
            "The value is right. But a gradient flows to the teacher's answers, which are to stay as "
            "they are.",
        ),
        Mistake(
            "the student gets no gradient",
            _softened(detach="student"),
            "The value is right, and teaches nothing: it is the student's answers that are to move.",
        ),
        Mistake(
            "without T²",
            _softened(power=0),
            "Softened by T, gradients shrink with its square: what is missing is the factor that makes "
            "up for it.",
        ),
        Mistake(
            "a mean over classes too",
            _softened(over_all=True),
            '`reduction="mean"` divides by the number of classes as well, which makes the loss tiny.',
        ),
        Mistake(
            "a hard student",
            _softened(both=False),
            "Both are softened, or the student is held against answers that it cannot give.",
        ),
    ),
)


# ---- chosen on the test set ----------------------------------------------------------------------
def chosen_network(validation: np.ndarray, test: np.ndarray) -> tuple[str, tuple[int, float]]:
    """The best on validation data, and what it reaches on test data."""
    best = int(np.argmax(validation))
    return "leak", (best, float(test[best]))


def _chosen_cases(generator: np.random.Generator) -> list[Case]:
    def candidates(count: int) -> tuple:
        while True:
            true = generator.uniform(80, 90, count)
            validation, test = (true + generator.normal(0, 3, count) for _ in range(2))
            chosen = {int(a.argmax()) for a in (validation, test, validation + test)}
            # Each way to choose has another result.
            if len(chosen) == min(count, 3) and (validation + test).argmax() != validation.argmax():
                return validation, test

    return in_stages(
        ("three networks", *candidates(3)),
        ("ten", *candidates(10)),
        ("thirty", *candidates(30)),
        ("two", *candidates(2)),
    )


CHOSEN_NETWORK = Exercise(
    id="clinic.chosen_network",
    title="Better in the notebook than outside",
    points=3,
    reference=chosen_network,
    cases=_chosen_cases,
    harness=without_stage,
    look=seen("leak", lambda *arguments: chosen_network(*arguments)[1], 1e-9),
    lines=2,
    stages=STAGES,
    mistakes=(
        misread(
            chosen_network,
            "noise",
            "Noise goes both ways, and this figure is always too high. By which figure was the network "
            "chosen?",
        ),
        misread(
            chosen_network,
            "batch",
            "Every network is in evaluation mode. By which figure was the network chosen, and by which "
            "reported?",
        ),
        Mistake(
            "chosen and reported on test data",
            lambda v, t: ("leak", (int(np.argmax(t)), float(t.max()))),
            "The best of many on the test images is partly the luckiest on them: choose by other images.",
        ),
        Mistake(
            "reported on validation data",
            lambda v, t: ("leak", (int(np.argmax(v)), float(v.max()))),
            "The choice is honest. The figure is of the images that it was chosen by.",
        ),
        Mistake(
            "chosen by both",
            lambda v, t: ("leak", (int(np.argmax(v + t)), float(t[np.argmax(v + t)]))),
            "The test images have a say in the choice here, so that they cannot judge it.",
        ),
        Mistake(
            "the best figure of each",
            lambda v, t: ("leak", (int(np.argmax(v)), float(t.max()))),
            "The figure is that of another network than the one that was chosen.",
        ),
    ),
)

EXERCISES = (CALIBRATED_RANGE, PLAIN_STATE, DAMPED_FACTOR, SOFT_LOSS, CHOSEN_NETWORK)
