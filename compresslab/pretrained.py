"""Networks that the package carries because training them takes longer than a lab may.

    file                     network                                         made by
    keywords.safetensors     the six-layer encoder of the keyword task       compresslab checkpoint keywords
    gpt.safetensors          the four-layer language model of lab 11         compresslab checkpoint gpt

Weights are stored as float16 and computed in float32. The file's metadata says how it came to be: seed,
epochs, last training loss, what was reached on validation. Training again follows the same recipe and does
not give the same bits: the corpus and the order of sums differ from one machine to the next.
"""

import json
from collections.abc import Sized
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from compresslab.data import corpus, keywords
from compresslab.gpt import GPT, next_token_loss, perplexity
from compresslab.models import Encoder
from compresslab.training import Hook, Run, evaluate, fit, seed_everything
from compresslab.writing import write_whole

FOLDER = Path(__file__).with_name("checkpoints")
KEYWORDS = FOLDER / "keywords.safetensors"
LANGUAGE = FOLDER / "gpt.safetensors"
Model = TypeVar("Model", bound=nn.Module)
ENCODER = {"width": 64, "layers": 6, "heads": 4}


def keyword_encoder(**sizes: int) -> Encoder:
    """A fresh encoder for the keyword task, which reads its answer at the mask.

    Args:
        sizes: width, layers, heads, hidden; by default the teacher's.
    """
    length = keywords.BEFORE + 1 + keywords.AFTER
    options = {**ENCODER, **sizes}
    return Encoder(keywords.WORDS, len(keywords.CLASSES), length, place=keywords.BEFORE, **options)


def keyword_teacher(path: Path = KEYWORDS) -> Encoder:
    """The trained teacher, in evaluation mode.

    Raises:
        FileNotFoundError: if there is no such file, with the command that makes it.
    """
    return _loaded(keyword_encoder(), path, "keywords")


def language_model(path: Path = LANGUAGE) -> GPT:
    """The trained model of Python's source, in evaluation mode; its tokens are `data.corpus`'s.

    Raises:
        FileNotFoundError: if there is no such file, with the command that makes it.
    """
    return _loaded(GPT(corpus.WORDS, corpus.LENGTH), path, "gpt")


def _loaded(model: Model, path: Path, name: str) -> Model:
    with _opened(path, name) as file:
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    model.load_state_dict(state)
    return model.eval()


def facts(path: Path = KEYWORDS) -> dict[str, object]:
    """How the checkpoint came to be.

    Raises:
        FileNotFoundError: as in `keyword_teacher`.
    """
    with _opened(path, path.stem) as file:
        return json.loads(file.metadata()["made"])


def _opened(path: Path, name: str) -> safe_open:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: make it by `compresslab checkpoint {name}`")
    return safe_open(path, "pt")


def make_keyword_teacher(
    path: Path = KEYWORDS, epochs: float = 6, train_size: int = 100_000, seed: int = 0
) -> dict[str, object]:
    """Train the teacher on all of the library's training files and write it.

    Returns:
        The facts that the file carries.
    """
    data = keywords.load(train_size, seed)
    seed_everything(seed)
    model = keyword_encoder()
    optimizer = torch.optim.AdamW(model.parameters(), 0.003, weight_decay=0.05)
    run = fit(model, data.train, epochs, 0.003, seed=seed, optimizer=optimizer, label="keywords")
    # What is measured is what is kept: the rounded weights.
    model.half().float()
    return _written(
        model, path, seed, epochs, data.train, run, {"accuracy, %": evaluate(model, data.val)}
    )


def make_language_model(
    path: Path = LANGUAGE, epochs: float = 5, tokens: int | None = None, seed: int = 0
) -> dict[str, object]:
    """Train the language model on the standard library's training files and write it.

    The matrices of the layers are trained by Muon (Jordan et al. 2024), which is what gets a model this small
    so far in minutes; all else by AdamW.

    Returns:
        The facts that the file carries.
    """
    train, val = corpus.load("python", "train", tokens), corpus.load("python", "val", tokens)
    seed_everything(seed)
    model = GPT(corpus.WORDS, corpus.LENGTH)
    matrices = [p for p in model.layers.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if all(p is not m for m in matrices)]
    muon = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    also = AlsoStep(torch.optim.AdamW(rest, lr=0.005, weight_decay=0.01), muon)
    options = {
        "optimizer": muon,
        "hooks": [also],
        "loss": next_token_loss,
        "label": "language model",
    }
    run = fit(model, train, epochs, 0.01, batch_size=32, seed=seed, **options)
    model.half().float()
    return _written(model, path, seed, epochs, train, run, {"perplexity": perplexity(model, val)})


class AlsoStep(Hook):
    """A second optimizer for the parameters that the first does not train; its rates follow the first's."""

    def __init__(self, optimizer: torch.optim.Optimizer, first: torch.optim.Optimizer) -> None:
        """Args: the second, at its highest rates, and the first, at its highest rate."""
        self.optimizer = optimizer
        self.shares = [g["lr"] / first.param_groups[0]["lr"] for g in optimizer.param_groups]

    def after_step(self, run: Run) -> None:
        """Step as well."""
        rate = run.optimizer.param_groups[0]["lr"]
        for group, share in zip(self.optimizer.param_groups, self.shares, strict=True):
            group["lr"] = rate * share
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _written(
    model: nn.Module,
    path: Path,
    seed: int,
    epochs: float,
    train: Sized,
    run: Run,
    reached: dict[str, float],
) -> dict[str, object]:
    """Write weights and facts; returns the facts."""
    made = {
        "seed": seed,
        "epochs": epochs,
        "examples": len(train),
        "loss": round(float(np.mean(run.losses[-100:])), 4),
        **{f"validation {name}": round(value, 2) for name, value in reached.items()},
    }
    state = {name: t.detach().half().contiguous() for name, t in model.state_dict().items()}
    about = {"made": json.dumps(made)}
    write_whole(path, lambda temporary: save_file(state, temporary, metadata=about))
    path.chmod(0o644)
    return made
