"""The three real networks where they are installed; elsewhere the same architectures with random weights.

A lab that is run without the packages goes on: bytes, layers and times are those of the real networks, since
the architectures are the same, and answers mean nothing. So do tokens: without a vocabulary they are drawn.

    network(key)            "efficientnet", "minilm" or "smollm2", in evaluation mode
    sentence_tokens(texts)  tokens and mask for the encoder
    passages(part, ...)     tokens of the documentation of Python for the decoder
"""

from collections.abc import Sequence

import torch
from torch import nn

from compresslab.data import corpus
from compresslab.real import inputs
from compresslab.real.efficientnet import architecture, efficientnet_lite0
from compresslab.real.encoder import SentenceEncoder, minilm, tokenizer, tokens_of
from compresslab.real.gguf import read_gguf
from compresslab.real.llama import Llama, smollm2, tokenizer_from
from compresslab.real.packages import PACKAGES, installed, weights_of

WORDS, CONTEXT = 49_152, 8_192
"""SmolLM2's vocabulary, and how many tokens it can look at."""
ENCODER_WORDS, RANDOM_LENGTH = 30_522, 32


def network(key: str) -> nn.Module:
    """A network by its key in `packages.PACKAGES`, trained where its package is installed, else random.

    Raises:
        ValueError: for another key.
    """
    if key not in PACKAGES:
        raise ValueError(f"key must be one of {', '.join(PACKAGES)}, got {key!r}")
    if installed(key) is not None:
        return {"efficientnet": efficientnet_lite0, "minilm": minilm, "smollm2": smollm2}[key]()
    make = {
        "efficientnet": architecture,
        "minilm": SentenceEncoder,
        "smollm2": lambda: Llama(WORDS, CONTEXT),
    }[key]
    return make().eval()


def missing() -> list[str]:
    """The keys of the networks that are not installed."""
    return [key for key in PACKAGES if installed(key) is None]


def sentence_tokens(texts: Sequence[str], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask of sentences, int64 [n, length] each; drawn at random without the vocabulary."""
    if installed("minilm") is not None:
        return tokens_of(texts, tokenizer())
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(ENCODER_WORDS, (len(texts), RANDOM_LENGTH), generator=generator)
    return tokens, torch.ones_like(tokens)


def passages(part: str, count: int, length: int, seed: int = 0) -> corpus.Passages:
    """`count` passages of Python's documentation, in the decoder's tokens, drawn without replacement.

    Args:
        part: "train", "val" or "test".
        count: at least 1; there may be fewer.
        length: tokens of a passage.
        seed: of the choice.

    Raises:
        ValueError: as `corpus.cut` does.
    """
    if installed("smollm2") is None:
        generator = torch.Generator().manual_seed(seed)
        found = torch.randint(WORDS, (count * length + 1,), generator=generator)
    else:
        made = tokenizer_from(read_gguf(weights_of("smollm2")))
        texts = inputs.text(part)
        found = torch.tensor([i for one in made.encode_batch(texts) for i in one.ids])
    return corpus.cut(found, length).some(count, seed)
