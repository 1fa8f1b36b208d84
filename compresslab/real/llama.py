"""SmolLM2-135M-Instruct: a decoder of the Llama kind, small and trained on two trillion tokens.

    x = words[token]
    x = x + attention(norm(x)),   x = x + down(silu(gate(norm(x))) * up(norm(x)))       30 times
    logits = norm(x) words^T                                                            the head is tied

    words   width   layers   heads   keys and values   feed-forward   weights
    49152     576       30       9                 3           1536     134.5 M, 28.3 M of them words

(Ben Allal et al. 2025, arXiv:2502.02737; Touvron et al. 2023, arXiv:2302.13971, section 2.2, for its kind.)
Norms divide by the root of the mean square. Positions are rotations: the numbers 2i and 2i + 1 of a query and
a key are turned by position * base^(-2i/d), which is the order of the GGUF file (Hugging Face's files have i
and i + d/2 together). Several queries share a key (grouped heads, Ainslie et al. 2023, arXiv:2305.13245).

The weights are read from the GGUF of the package, where they have 4 bits, as floats; `tokenizer_from` is the
file's own vocabulary. Left out: dropout, several sequences of different length in one batch.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn

from compresslab.gpt import Cache
from compresslab.real.gguf import Gguf, GgufError, read_gguf
from compresslab.real.packages import weights_of

LAYERS = {
    "attn_norm": "norm1",
    "attn_q": "attention.query",
    "attn_k": "attention.key",
    "attn_v": "attention.value",
    "attn_output": "attention.out",
    "ffn_norm": "norm2",
    "ffn_gate": "feedforward.gate",
    "ffn_up": "feedforward.up",
    "ffn_down": "feedforward.down",
}
"""A GGUF's names inside of `blk.N`, and the module's."""
CONTROL = 3
"""The type of tokens that are marks and no text, in a GGUF."""


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V over the tokens so far; heads / kv_heads queries share a key."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, width // heads
        self.query = nn.Linear(width, heads * self.size, bias=False)
        self.key = nn.Linear(width, kv_heads * self.size, bias=False)
        self.value = nn.Linear(width, kv_heads * self.size, bias=False)
        self.out = nn.Linear(heads * self.size, width, bias=False)

    def forward(
        self, x: torch.Tensor, turns: torch.Tensor, cache: Cache | None = None
    ) -> torch.Tensor:
        """[n, length, width], their `rotations` -> the same; with a cache, x continues what is in it."""
        n, length, _ = x.shape
        before = cache.filled if cache is not None else 0
        q = self.query(x).view(n, length, self.heads, self.size).transpose(1, 2)
        k = self.key(x).view(n, length, self.kv_heads, self.size).transpose(1, 2)
        v = self.value(x).view(n, length, self.kv_heads, self.size).transpose(1, 2)
        q, k = rotate(q, turns), rotate(k, turns)
        if cache is not None:
            k, v = cache.append(k, v)
        seen = None
        if before and length > 1:
            seen = torch.ones(length, before + length, dtype=torch.bool).tril(before)
        causal = before == 0 and length > 1
        mixed = F.scaled_dot_product_attention(q, k, v, seen, is_causal=causal, enable_gqa=True)
        return self.out(mixed.transpose(1, 2).reshape(n, length, -1))


def rotations(first: int, last: int, size: int, base: float) -> torch.Tensor:
    """Cosines and sines of positions first..last - 1, float32 [2, positions, size / 2]."""
    speeds = base ** (-torch.arange(0, size, 2) / size)
    angles = torch.arange(first, last)[:, None] * speeds
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Each pair (2i, 2i + 1) of [..., positions, size] turned by its angle."""
    even, odd = x[..., ::2], x[..., 1::2]
    cosine, sine = turns
    turned = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1)
    return turned.flatten(-2).to(x.dtype)


class FeedForward(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202, SwiGLU)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., width] -> the same."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x))."""

    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int, epsilon: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width, epsilon), nn.RMSNorm(width, epsilon)
        self.attention = Attention(width, heads, kv_heads)
        self.feedforward = FeedForward(width, hidden)

    def forward(
        self, x: torch.Tensor, turns: torch.Tensor, cache: Cache | None = None
    ) -> torch.Tensor:
        """[n, length, width] -> the same."""
        x = x + self.attention(self.norm1(x), turns, cache)
        return x + self.feedforward(self.norm2(x))


class Llama(nn.Module):
    """Tokens int64 [n, length] -> logits of the next token, float32 [n, length, words].

    Args:
        words: the vocabulary.
        length: the most tokens that it was trained to look at.
        width, layers, heads, kv_heads, hidden: sizes.
        base: of the rotations.
        epsilon: of the norms.
    """

    def __init__(
        self,
        words: int,
        length: int,
        width: int = 576,
        layers: int = 30,
        heads: int = 9,
        kv_heads: int = 3,
        hidden: int = 1536,
        base: float = 100_000.0,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        self.length, self.base = length, base
        self.words = nn.Embedding(words, width)
        sizes = (width, heads, kv_heads, hidden, epsilon)
        self.layers = nn.ModuleList(Block(*sizes) for _ in range(layers))
        self.norm = nn.RMSNorm(width, epsilon)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: torch.Tensor, caches: list[Cache] | None = None) -> torch.Tensor:
        """Logits; with caches, `tokens` continue the sequence in them.

        Raises:
            ValueError: for another shape, or more tokens than it was trained to look at.
        """
        if tokens.ndim != 2:
            raise ValueError(f"tokens must be [n, length], got {list(tokens.shape)}")
        first = caches[0].filled if caches else 0
        last = first + tokens.shape[1]
        if last > self.length:
            raise ValueError(f"tokens must be at most {self.length} in a row, got {last}")
        turns = rotations(first, last, self.layers[0].attention.size, self.base)
        x = self.words(tokens)
        for index, layer in enumerate(self.layers):
            x = layer(x, turns, caches[index] if caches else None)
        return self.head(self.norm(x))

    def caches(self, n: int = 1, length: int | None = None) -> list[Cache]:
        """Empty caches for `n` sequences of up to `length` tokens (all that it can look at), one a layer."""
        attention = self.layers[0].attention
        shape = (n, attention.kv_heads, length or self.length, attention.size)
        dtype = next((p.dtype for p in self.parameters()), torch.float32)
        room = torch.empty((2 * len(self.layers), *shape), dtype=dtype)
        return [Cache(*pair) for pair in zip(room[::2], room[1::2], strict=True)]


def smollm2(path: Path | None = None) -> Llama:
    """SmolLM2-135M-Instruct in evaluation mode, its weights as floats.

    Args:
        path: a GGUF file of a Llama; if None, that of the installed package.

    Raises:
        ModuleNotFoundError: without the package, with the command that installs it.
        GgufError: for a file of another kind of network.
    """
    return llama_from(read_gguf(path or weights_of("smollm2"))).eval()


@torch.no_grad()
def llama_from(file: Gguf) -> Llama:
    """The network that a GGUF of the Llama kind holds.

    Raises:
        GgufError: for another architecture, or tensors that do not fit.
    """
    network = _architecture(file)
    names = {_ours(name): name for name in file.tensors}
    wanted = dict(network.named_parameters())
    if set(names) != set(wanted):
        differ = ", ".join(sorted(set(names) ^ set(wanted))[:5])
        raise GgufError(f"{file.path} holds another network: {differ}")
    for name, parameter in wanted.items():
        shape = file.tensors[names[name]].shape
        if shape != tuple(parameter.shape):
            raise GgufError(f"{names[name]} must be {list(parameter.shape)}, found {list(shape)}")
    network = network.to_empty(device="cpu")
    if "head.weight" not in wanted:
        network.head.weight = network.words.weight  # `to_empty` made two of them
    for name, parameter in network.named_parameters():
        parameter.copy_(torch.from_numpy(file.read(names[name])))
    return network


def _architecture(file: Gguf) -> Llama:
    """The network without memory for its weights, which are held against the file's first."""
    about = file.metadata
    if about.get("general.architecture") != "llama":
        found = about.get("general.architecture")
        raise GgufError(f"{file.path} must hold a llama, found {found!r}")
    try:
        with torch.device("meta"):
            network = _of_sizes(about)
        size = network.layers[0].attention.size
    except (KeyError, TypeError, ValueError, RuntimeError, ZeroDivisionError, IndexError) as error:
        raise GgufError(f"{file.path} does not say its sizes: {error}") from error
    if "output.weight" in file.tensors:
        network.head.weight = nn.Parameter(torch.empty_like(network.words.weight))
    _refuse_other_settings(file, size)
    return network


def _of_sizes(about: Mapping[str, object]) -> Llama:
    base = about["llama.rope.freq_base"]
    epsilon = about["llama.attention.layer_norm_rms_epsilon"]
    if not (0 < base < math.inf and 0 < epsilon < math.inf):
        raise ValueError(f"base and epsilon must be positive, found {base} and {epsilon}")
    length = about["llama.context_length"]
    if type(length) is not int or length < 1:
        raise ValueError(f"context_length must be a positive integer, found {length!r}")
    return Llama(
        len(about["tokenizer.ggml.tokens"]),
        length,
        about["llama.embedding_length"],
        about["llama.block_count"],
        about["llama.attention.head_count"],
        about["llama.attention.head_count_kv"],
        about["llama.feed_forward_length"],
        base,
        epsilon,
    )


def _refuse_other_settings(file: Gguf, size: int) -> None:
    """Settings of other Llamas, which would be another network if they were passed over."""
    plain = {"rope.scaling.type": "none", "rope.scaling.factor": 1.0, "rope.dimension_count": size}
    plain |= dict.fromkeys(("embedding_scale", "residual_scale", "logit_scale"), 1.0)
    plain |= {"expert_count": 0, "attention.sliding_window": 0}
    for key, wanted in plain.items():
        found = file.metadata.get(f"llama.{key}", wanted)
        if found != wanted:
            raise GgufError(
                f"{file.path}: llama.{key} must be {wanted!r} or missing, found {found!r}"
            )
    if "llama.attention.scale" in file.metadata:
        raise GgufError(f"{file.path}: llama.attention.scale must be missing")


def _ours(name: str) -> str:
    """The module's name of a tensor of the file."""
    others = {"token_embd": "words", "output_norm": "norm", "output": "head"}
    stem, _, kind = name.rpartition(".")
    if stem in others:
        return f"{others[stem]}.{kind}"
    block, _, part = stem.removeprefix("blk.").partition(".")
    return f"layers.{block}.{LAYERS.get(part, part)}.{kind}"


def tokenizer_from(file: Gguf) -> Tokenizer:
    """The byte-level pairs of a GGUF's vocabulary (digits one by one, as SmolLM2 has them).

    Raises:
        GgufError: if the file has another kind of vocabulary.
    """
    about = file.metadata
    kind = (about.get("tokenizer.ggml.model"), about.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise GgufError(f"{file.path} must have the vocabulary of SmolLM2, found {kind}")
    words, kinds = about["tokenizer.ggml.tokens"], about.get("tokenizer.ggml.token_type", [])
    pairs = [tuple(pair.split(" ")) for pair in about.get("tokenizer.ggml.merges", [])]
    if len(kinds) != len(words) or any(len(pair) != 2 for pair in pairs):
        raise GgufError(f"{file.path} must have a kind for each token, and merges of two parts")
    made = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, pairs))
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(False)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([w for w, k in zip(words, kinds, strict=True) if k == CONTROL])
    return made
