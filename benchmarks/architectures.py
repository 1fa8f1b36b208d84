"""Which techniques take which networks: `python -m benchmarks.architectures` writes docs/architectures.md.

Networks that nobody here chose: hand-written ones as people write them (`handwritten`), and Hugging Face's
vision and language models, built small from their configurations. Each is put through every operation, and
each result is one of

    works       it ran, and its answers are those of the float network within what the technique loses
    part        it ran, and reached less than half of the parameters; how much is said
    refused     our own error, before anything was trained
    WRONG       it ran, and its answers are far from the float network's
    crash       any other error

Answers are compared on the network's own random inputs, by the root mean square of the difference over the
spread of the float answers between examples.
"""

import contextlib
import functools
import gc
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

import compresslab as cl
from benchmarks.handwritten import HANDWRITTEN
from compresslab.inspection import inspect
from compresslab.network.normal import flat_outputs
from compresslab.runtime.convert import convert_dynamic
from compresslab.runtime.storage import FileError
from compresslab.stages import CutChannels, LowRank, Material, Prune, Quantize, Share, Weights
from compresslab.techniques.surgery import SurgeryError

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
EXAMPLES = 24
FAR, UNTUNED = 0.5, 20.0
"""An error over the answers' spread from which on a result is called wrong. What is cut and not tuned may
answer anything, if only it answers."""


@dataclass(frozen=True)
class Subject:
    """A network, and what it takes."""

    name: str
    family: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], torch.Tensor]


def images(size: int = 32) -> torch.Tensor:
    """Images of few large spots, whose means differ."""
    spots = torch.rand(EXAMPLES, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(spots, size=size, mode="bilinear")


def tokens(words: int = 100, length: int = 12) -> torch.Tensor:
    """Sentences of random words."""
    shape = (EXAMPLES, length)
    return torch.randint(5, words, shape, generator=torch.Generator().manual_seed(1))


def subjects() -> Iterator[Subject]:
    """Every network of the table."""
    for name, build in HANDWRITTEN.items():
        yield Subject(name, "written by hand", build, images)
    yield from _vision()
    yield from _language()


VISION = {
    "ResNet, basic": (
        "ResNet",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    ),
    "ResNet, bottleneck": (
        "ResNet",
        {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1]},
    ),
    "MobileNetV1": ("MobileNetV1", {"depth_multiplier": 0.25}),
    "MobileNetV2": ("MobileNetV2", {"depth_multiplier": 0.25}),
    "RegNet, y": (
        "RegNet",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
    ),
    "RegNet, x": (
        "RegNet",
        {
            "embedding_size": 8,
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
            "groups_width": 8,
            "layer_type": "x",
        },
    ),
    "EfficientNet": (
        "EfficientNet",
        {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320, "image_size": 64},
    ),
    "ConvNeXt": ("ConvNext", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
    "ConvNeXtV2": ("ConvNextV2", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
    "BiT": ("Bit", {"embedding_size": 32, "hidden_sizes": [128, 256], "depths": [1, 1]}),
    "PoolFormer": ("PoolFormer", {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}),
    "FocalNet": (
        "FocalNet",
        {
            "image_size": 64,
            "embed_dim": 8,
            "depths": [1, 1],
            "focal_levels": [1, 1],
            "focal_windows": [3, 3],
        },
    ),
    "LeViT": (
        "Levit",
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [1, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
    ),
    "MobileViT": (
        "MobileViT",
        {
            "image_size": 64,
            "hidden_sizes": [16, 16, 16],
            "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 32],
        },
    ),
    "PVT": (
        "Pvt",
        {
            "image_size": 64,
            "hidden_sizes": [8, 16, 16, 16],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 1, 1],
            "sequence_reduction_ratios": [4, 2, 1, 1],
        },
    ),
    "Swin": (
        "Swin",
        {"image_size": 64, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": 4},
    ),
    "SegFormer": (
        "Segformer",
        {
            "depths": [1, 1],
            "num_encoder_blocks": 2,
            "hidden_sizes": [8, 16],
            "num_attention_heads": [1, 1],
            "sr_ratios": [2, 1],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 16,
        },
    ),
}
TOKEN_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
"""Transformers on patches: no images between their layers, so nothing for integer convolutions."""


def _vision() -> Iterator[Subject]:
    for name, (kind, settings) in VISION.items():
        yield Subject(
            name,
            "Hugging Face, images",
            functools.partial(_classifier, kind, settings),
            functools.partial(images, 64),
        )
    for name, kind in (("ViT", "ViT"), ("DeiT", "DeiT"), ("BEiT", "Beit"), ("DINOv2", "Dinov2")):
        settings = TOKEN_VISION | {"image_size": 64, "patch_size": 16}
        yield Subject(
            name,
            "Hugging Face, images as patches",
            functools.partial(_classifier, kind, settings),
            functools.partial(images, 64),
        )


def _classifier(kind: str, settings: dict) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{kind}Config")(**settings, num_labels=10)
    return getattr(transformers, f"{kind}ForImageClassification")(config)


SMALL = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = SMALL | {"intermediate_size": 64}
LANGUAGE = {
    "BERT": ("Bert", WIDE),
    "RoBERTa": ("Roberta", WIDE | {"pad_token_id": 1}),
    "ELECTRA": ("Electra", WIDE | {"embedding_size": 32}),
    "ALBERT": ("Albert", WIDE | {"embedding_size": 16}),
    "DistilBERT": (
        "DistilBert",
        {"vocab_size": 100, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    ),
    "MPNet": ("MPNet", WIDE),
    "DeBERTa-v2": ("DebertaV2", WIDE),
    "SqueezeBERT": (
        "SqueezeBert",
        WIDE
        | {
            "q_groups": 1,
            "k_groups": 1,
            "v_groups": 1,
            "post_attention_groups": 1,
            "intermediate_groups": 1,
            "output_groups": 1,
            "embedding_size": 32,
        },
    ),
    "MobileBERT": (
        "MobileBert",
        {
            "vocab_size": 100,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "intra_bottleneck_size": 32,
            "embedding_size": 32,
        },
    ),
    "ModernBERT": (
        "ModernBert",
        WIDE
        | {
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "cls_token_id": 1,
            "sep_token_id": 2,
        },
    ),
    "GPT-2": ("GPT2", {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 2}),
    "GPT-Neo": (
        "GPTNeo",
        {
            "vocab_size": 100,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
        },
    ),
    "GPT-NeoX": ("GPTNeoX", WIDE),
    "OPT": ("OPT", SMALL | {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "BLOOM": ("Bloom", {"vocab_size": 100, "hidden_size": 32, "n_layer": 2, "n_head": 2}),
    "Llama": ("Llama", WIDE),
    "Mistral": ("Mistral", WIDE | {"num_key_value_heads": 1}),
    "Qwen2": ("Qwen2", WIDE | {"num_key_value_heads": 1}),
    "Gemma": ("Gemma", WIDE | {"num_key_value_heads": 1, "head_dim": 16}),
    "Phi": ("Phi", WIDE),
    "StableLM": ("StableLm", WIDE | {"num_key_value_heads": 2}),
    "Falcon": ("Falcon", SMALL),
}


def _language() -> Iterator[Subject]:
    for name, (kind, settings) in LANGUAGE.items():
        yield Subject(
            name, "Hugging Face, text", functools.partial(_reader, kind, settings), tokens
        )


def _reader(kind: str, settings: dict) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{kind}Config")(**settings)
    return transformers.AutoModel.from_config(config)


# ---- operations ----------------------------------------------------------------------------------
REASONS: list[tuple[str, str]] = []
OURS = (ValueError, SurgeryError, FileError)


@dataclass(frozen=True)
class Trial:
    """A network with its inputs and answers."""

    network: nn.Module
    inputs: torch.Tensor
    answers: torch.Tensor

    @property
    def material(self) -> Material:
        """Inputs alone: nothing is trained here."""
        return Material(self.inputs)

    def error(self, network: nn.Module) -> float:
        """Of another network's answers."""
        found = answers_of(network, self.inputs)
        spread = (self.answers - self.answers.mean(0)).square().mean().sqrt()
        # Where all examples are answered alike, what is lost is held against the answers themselves.
        size = torch.maximum(spread, self.answers.square().mean().sqrt() / 20)
        return float((found - self.answers).square().mean().sqrt() / size.clamp(min=1e-9))

    def reached(self, technique: str) -> float:
        """The fraction of the parameters that a technique changes."""
        return inspect(self.network, self.inputs[:2]).coverage(technique)


@torch.no_grad()
def answers_of(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """All answers of a network, as rows."""
    return flat_outputs(_answer(network(inputs)))


def _answer(output: object) -> object:
    if not hasattr(output, "keys"):
        return output
    # States of every layer and caches are no answers.
    return next(output[key] for key in ("logits", "last_hidden_state") if key in output)


def _file(trial: Trial) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        cl.save(trial.network, Path(folder) / "n.safetensors")
        return cl.load(Path(folder) / "n.safetensors", trial.network)


def _measured(trial: Trial) -> nn.Module:
    whole = trial.inputs[0] if not trial.inputs.is_floating_point() else trial.inputs.shape[1:]
    row = cl.measure(
        trial.network, tuple(whole) if isinstance(whole, torch.Size) else whole, batches=()
    )
    if not row.macs > 0:
        raise AssertionError("no multiplications were counted")
    return trial.network


def _integers(trial: Trial) -> nn.Module:
    return cl.compress(trial.network, [Quantize(8)], trial.inputs)


Operation = tuple[Callable[[Trial], nn.Module], float, str]
OPERATIONS: dict[str, Operation] = {
    "file": (_file, 1e-4, ""),
    "measured": (_measured, 1e-4, ""),
    "int8": (_integers, FAR, "integers"),
    "dynamic int8": (lambda t: convert_dynamic(t.network), 0.1, "dynamic int8"),
    "4-bit weights": (lambda t: Weights(4, 8)(t.network, t.material), FAR, "packed weights"),
    "pruned 20 %": (lambda t: Prune(0.2)(t.network, t.material), UNTUNED, "prune"),
    "shared, 63": (lambda t: Share(63)(t.network, t.material), FAR, "share"),
    "channels cut": (lambda t: CutChannels(0.1)(t.network, t.material), UNTUNED, ""),
    "low rank": (lambda t: LowRank(0.9)(t.network, t.material), UNTUNED, ""),
}
"""What is done, up to which error it works, and by which name `inspect` knows it."""


def outcome(trial: Trial, operation: Operation) -> str:
    """One cell of the table."""
    run, far, technique = operation
    try:
        error = trial.error(run(trial).eval())
    except OURS as reason:
        REASONS.append((technique, str(reason)))
        return "refused"
    except Exception as problem:  # the point of the table is to find them
        return f"crash: {type(problem).__name__}"
    if not error <= far:
        return f"WRONG: {error:.2g}"
    reached = trial.reached(technique) if technique else 1.0
    return "works" if reached >= 0.5 else f"part, {100 * reached:.0f} %"


def settled(subject: Subject) -> Trial:
    """The network, trained for a moment if it takes images, and its answers.

    Untrained, it answers all images alike, and whatever a technique loses is large beside that.
    """
    torch.manual_seed(0)
    network, inputs = subject.build().train(), subject.inputs()
    if inputs.is_floating_point():
        _begin_(network, inputs)
    network.eval()
    return Trial(network, inputs, answers_of(network, inputs))


def _begin_(network: nn.Module, inputs: torch.Tensor, steps: int = 25) -> None:
    """Let it tell images by their brightness."""
    labels = inputs.mean((1, 2, 3)).argsort().argsort() * 10 // len(inputs)
    adam = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(steps):
        adam.zero_grad()
        answers = flat_outputs(_answer(network(inputs)))[:, :10]
        nn.functional.cross_entropy(answers, labels).backward()
        adam.step()


def table_of(chosen: list[Subject]) -> dict[tuple[str, str], list[str]]:
    """A row for each network: its family, and a cell for each operation."""
    rows = {}
    for subject in chosen:
        with warnings.catch_warnings(), contextlib.suppress(ModuleNotFoundError):
            warnings.simplefilter("ignore")
            trial = settled(subject)
            cells = [outcome(trial, operation) for operation in OPERATIONS.values()]
            # Two families may have a network of one name.
            rows[subject.name, subject.family] = [subject.family, *cells]
            typer.echo(f"{subject.name}: {', '.join(cells)}")
        gc.collect()
    return rows


def page_of(rows: dict[tuple[str, str], list[str]]) -> str:
    """The page as Markdown."""
    places = list(OPERATIONS)
    images_rows = [r for r in rows.values() if "text" not in r[0] and "patches" not in r[0]]
    taken = sum(r[1 + places.index("int8")] == "works" for r in images_rows)
    bad = sum(c.startswith(("WRONG", "crash")) for r in rows.values() for c in r[1:])
    lines = [
        "# Which techniques take which networks\n",
        f"{len(rows)} architectures, hardly trained, {len(places)} operations each; made by "
        "`python -m benchmarks.architectures`. *works*: its answers are the float network's within what the "
        "technique loses. *part*: less than half of the parameters were changed, as `cl.inspect` says "
        "before. *refused*: an error of ours, before anything is trained, that says why.\n",
        f"Integer networks take {taken} of the {len(images_rows)} networks that compute on images; "
        f"{bad} results are wrong answers or crashes.\n",
    ]
    for family in dict.fromkeys(r[0] for r in rows.values()):
        lines.append(f"\n## {family}\n")
        lines.append(f"| network | {' | '.join(places)} |")
        lines.append("|---|" + "---|" * len(places))
        own = {name: row for (name, of), row in rows.items() if of == family}
        lines += [f"| {name} | {' | '.join(row[1:])} |" for name, row in own.items()]
    return "\n".join(lines) + "\n"


def main(
    only: Annotated[str, typer.Option(help="part of a name")] = "",
    page: Annotated[bool, typer.Option(help="write docs/architectures.md")] = True,
) -> None:
    """Put every network through every operation."""
    torch.set_num_threads(1)
    rows = table_of([s for s in subjects() if only.lower() in s.name.lower()])
    if page and not only:
        PAGE.write_text(page_of(rows), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
