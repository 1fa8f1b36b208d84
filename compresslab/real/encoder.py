"""all-MiniLM-L6-v2: an encoder whose vectors of two sentences are near each other if they mean the same.

    x = norm(words[token] + positions[place] + kinds[0])
    x = norm(x + attention(x)),   x = norm(x + narrow(gelu(wide(x))))       6 times, norms behind (BERT)
    vector = mean of x over the sentence's tokens, divided by its length

    words   width   layers   heads   feed-forward   weights
    30522     384        6      12           1536     22.7 M, 11.7 M of them words

(Wang et al. 2020, arXiv:2002.10957; Devlin et al. 2019, arXiv:1810.04805; Reimers and Gurevych 2019,
arXiv:1908.10084, for the mean.) The weights are read from the package's safetensors file, the vocabulary from
its tokenizer.json. Left out: the pooler, which the vectors do not use, and kinds of sentences other than the
first.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from compresslab.real.packages import weights_of

EPSILON, LONGEST = 1e-12, 128
PARTS = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "wide",
    "output.dense": "narrow",
    "output.LayerNorm": "norm2",
}
TABLES = {
    "word_embeddings": "words",
    "position_embeddings": "positions",
    "token_type_embeddings": "kinds",
    "LayerNorm": "norm",
}


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V over the tokens that the mask shows."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        """[n, length, width], bool [n, 1, 1, length] -> [n, length, width]."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, seen)
        return self.out(mixed.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """Attention and feed-forward, each added and then normed."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm1, self.norm2 = nn.LayerNorm(width, EPSILON), nn.LayerNorm(width, EPSILON)
        self.wide, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        """[n, length, width] -> the same."""
        x = self.norm1(x + self.attention(x, seen))
        return self.norm2(x + self.narrow(F.gelu(self.wide(x))))


class SentenceEncoder(nn.Module):
    """Tokens int64 [n, length] and their mask -> vectors of length 1, float32 [n, width].

    Args:
        words: the vocabulary.
        width, layers, heads, hidden: sizes.
        length: the most tokens of a sentence.
    """

    def __init__(
        self,
        words: int = 30_522,
        width: int = 384,
        layers: int = 6,
        heads: int = 12,
        hidden: int = 1536,
        length: int = 512,
    ) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(words, width), nn.Embedding(length, width)
        self.kinds, self.norm = nn.Embedding(2, width), nn.LayerNorm(width, EPSILON)
        self.layers = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))

    def states(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """What stands behind the last layer, [n, length, width].

        Raises:
            ValueError: for tokens of another shape, more than there are positions, or another mask.
        """
        if tokens.ndim != 2 or (mask is not None and mask.shape != tokens.shape):
            shape = None if mask is None else list(mask.shape)
            raise ValueError(
                f"tokens and mask must be [n, length], got {list(tokens.shape)} and {shape}"
            )
        if tokens.shape[1] > self.positions.num_embeddings:
            longest = self.positions.num_embeddings
            raise ValueError(f"tokens must be at most {longest} in a row, got {tokens.shape[1]}")
        places = torch.arange(tokens.shape[1])
        kinds = torch.zeros_like(tokens)
        x = self.norm(self.words(tokens) + self.kinds(kinds) + self.positions(places))
        seen = None if mask is None else mask.bool()[:, None, None]
        for layer in self.layers:
            x = layer(x, seen)
        return x

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """The vectors; a sentence of the mask's zeros alone has the vector 0."""
        states = self.states(tokens, mask)
        weight = torch.ones_like(tokens) if mask is None else mask
        total = (states * weight[..., None]).sum(1)
        return F.normalize(total / weight.sum(1, keepdim=True).clamp(min=1), dim=1)


def minilm(path: Path | None = None) -> SentenceEncoder:
    """all-MiniLM-L6-v2 in evaluation mode.

    Args:
        path: a safetensors file of it; if None, that of the installed package.

    Raises:
        ModuleNotFoundError: without the package, with the command that installs it.
        ValueError: for weights of another network.
    """
    path = path or weights_of("minilm")
    try:
        return load_bert_(SentenceEncoder(), load_file(path)).eval()
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} does not hold the weights of all-MiniLM-L6-v2: {error}"
        ) from error


def load_bert_(network: SentenceEncoder, tensors: Mapping[str, torch.Tensor]) -> SentenceEncoder:
    """Take the weights of a BERT by their names there; returns the network, which is changed.

    Raises:
        RuntimeError: if they do not fit, as `load_state_dict` does.
    """
    ours = {}
    for name, tensor in tensors.items():
        known = _ours(name)
        if known is not None:
            ours[known] = tensor
    network.load_state_dict(ours)
    return network


def _ours(name: str) -> str | None:
    """The module's name of a BERT's tensor; None for what is not used here."""
    stem, _, kind = name.removeprefix("bert.").rpartition(".")
    place, _, part = stem.partition(".")
    if place == "embeddings":
        return f"{TABLES[part]}.{kind}" if part in TABLES else None
    if place != "encoder":
        return None
    _, index, part = part.split(".", 2)
    return f"layers.{index}.{PARTS.get(part, part)}.{kind}"


def tokenizer(path: Path | None = None) -> Tokenizer:
    """The vocabulary that stands beside the weights, as the encoder was trained with it."""
    made = Tokenizer.from_file(str((path or weights_of("minilm")).with_name("tokenizer.json")))
    made.enable_truncation(LONGEST)
    made.enable_padding()
    return made


def tokens_of(sentences: Sequence[str], made: Tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask of some sentences, int64 [n, length] each, filled up to the longest.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(sentences, str) or not sentences:
        found = "a single text" if sentences else "none"
        raise ValueError(f"sentences must be a list of at least one, got {found}")
    found = made.encode_batch(list(sentences))
    return torch.tensor([f.ids for f in found]), torch.tensor([f.attention_mask for f in found])
