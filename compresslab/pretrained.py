"""Networks that the package carries because training them takes longer than a lab may.

    file                     network                                         made by
    keywords.safetensors     the six-layer encoder of the keyword task       compresslab checkpoint keywords

Weights are stored as float16 and computed in float32. The file's metadata says how it came to be: seed,
epochs, last training loss, validation accuracy. Training again follows the same recipe and does not give the
same bits: the corpus and the order of sums differ from one machine to the next.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from compresslab.data import keywords
from compresslab.models import Encoder
from compresslab.training import evaluate, fit, seed_everything

FOLDER = Path(__file__).with_name("checkpoints")
KEYWORDS = FOLDER / "keywords.safetensors"
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
    model = keyword_encoder()
    with _opened(path) as file:
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    model.load_state_dict(state)
    return model.eval()


def facts(path: Path = KEYWORDS) -> dict[str, object]:
    """How the checkpoint came to be.

    Raises:
        FileNotFoundError: as in `keyword_teacher`.
    """
    with _opened(path) as file:
        return json.loads(file.metadata()["made"])


def _opened(path: Path) -> safe_open:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: make it by `compresslab checkpoint keywords`")
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
    made = {
        "seed": seed,
        "epochs": epochs,
        "examples": len(data.train),
        "loss": round(float(np.mean(run.losses[-100:])), 4),
        "validation accuracy, %": round(evaluate(model, data.val), 2),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: t.detach().half().contiguous() for name, t in model.state_dict().items()}
    save_file(state, path, metadata={"made": json.dumps(made)})
    path.chmod(0o644)
    return made
