"""A small GPT: a decoder that predicts each token from those before it, and writes text one token at a time.

    x = words[token] + positions[place]
    x = x + attention(norm(x)),   x = x + feedforward(norm(x))          in every layer
    logits = norm(x) words^T                                            the words' table serves twice

after Radford et al. 2019 (GPT-2), with norms first. Attention is causal: token i sees tokens 0..i.

While writing, the keys and values of earlier tokens are kept (`Cache`), so that a step computes one token and
not all of them again. Every step then reads each weight once for one multiply-add: its speed is the bytes of
the weights over the memory's bandwidth, which is why fewer bits are more tokens a second.

Left out: dropout (the course's model sees too little text to remember it), rotary positions, several
sequences of different length in one batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.models import SelfAttention
from compresslab.shorter import most_passages


class Cache:
    """Keys and values of the tokens so far, of one layer: [n, heads, length, width / heads] each."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Args: two tensors with room for all tokens."""
        self.keys, self.values, self.filled = keys, values, 0

    def append(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep new ones; returns all so far."""
        last = self.filled + k.shape[2]
        self.keys[:, :, self.filled : last], self.values[:, :, self.filled : last] = k, v
        self.filled = last
        return self.keys[:, :, :last], self.values[:, :, :last]


class CausalAttention(SelfAttention):
    """softmax(Q K^T / sqrt(d)) V over the tokens so far, by torch's fused kernel."""

    def forward(self, x: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        """[n, length, width] -> the same; with a cache, x continues what is in it."""
        n, length, width = x.shape
        shape = (n, length, 3, self.heads, width // self.heads)
        q, k, v = self.qkv(x).view(shape).permute(2, 0, 3, 1, 4)
        before = 0
        if cache is not None:
            before = cache.filled
            k, v = cache.append(k, v)
        seen = None
        if before and length > 1:
            seen = torch.ones(length, before + length, dtype=torch.bool).tril(before)
        mixed = F.scaled_dot_product_attention(q, k, v, seen, is_causal=before == 0 and length > 1)
        return self.out(mixed.transpose(1, 2).reshape(n, length, width))

    def macs(self, output: torch.Tensor) -> int:
        """The two products of tokens with the tokens before them."""
        _, length, width = output.shape
        return length * (length + 1) * width


class Block(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        """Args: width of the tokens, heads; the feed-forward layer is four times as wide."""
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), CausalAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        """[n, length, width] -> the same."""
        x = x + self.attention(self.norm1(x), cache)
        return x + self.feedforward(self.norm2(x))


class GPT(nn.Module):
    """Tokens int64 [n, length] -> logits of the next token, float32 [n, length, words]."""

    def __init__(
        self, words: int, length: int, width: int = 128, layers: int = 4, heads: int = 4
    ) -> None:
        """Args: vocabulary, the most tokens that it can look at, sizes."""
        super().__init__()
        self.words, self.positions = nn.Embedding(words, width), nn.Embedding(length, width)
        self.layers = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head: nn.Linear | None = None
        with torch.no_grad():
            self.words.weight.mul_(0.02)
            self.positions.weight.mul_(0.02)

    @property
    def length(self) -> int:
        """The most tokens that it can look at."""
        return self.positions.num_embeddings

    def forward(self, tokens: torch.Tensor, caches: list[Cache] | None = None) -> torch.Tensor:
        """Logits; with caches, `tokens` continue the sequence in them.

        Raises:
            ValueError: for another shape, or more tokens than there are positions.
        """
        if tokens.ndim != 2:
            raise ValueError(f"tokens must be [n, length], got {list(tokens.shape)}")
        first = caches[0].filled if caches else 0
        last = first + tokens.shape[1]
        if last > self.length:
            raise ValueError(f"tokens must be at most {self.length} in a row, got {last}")
        x = self.words(tokens) + self.positions.weight[first:last]
        for index, layer in enumerate(self.layers):
            x = layer(x, caches[index] if caches else None)
        x = self.norm(x)
        return F.linear(x, self.words.weight) if self.head is None else self.head(x)

    def own_head(self) -> None:
        """Give the model a head that does not share the words' table, in place; it computes the same."""
        if self.head is None:
            self.head = nn.Linear(*self.words.weight.shape[::-1], bias=False, device="meta")
            words = self.words.weight
            self.head.weight = nn.Parameter(words.detach().clone(), words.requires_grad)
            self.head.train(self.training)

    def caches(self, n: int = 1, length: int | None = None) -> list[Cache]:
        """Empty caches for `n` sequences of up to `length` tokens (all that it can look at), one a layer."""
        heads = self.layers[0].attention.heads
        shape = (n, heads, length or self.length, self.words.embedding_dim // heads)
        dtype = next((p.dtype for p in self.parameters()), torch.float32)
        room = [torch.zeros(shape, dtype=dtype) for _ in range(2 * len(self.layers))]
        return [Cache(*pair) for pair in zip(room[::2], room[1::2], strict=True)]


@torch.no_grad()
def generate(
    model: GPT, prompt: torch.Tensor, count: int, temperature: float = 0.0, seed: int = 0
) -> torch.Tensor:
    """Continue a sequence by `count` tokens.

    Args:
        model: in evaluation mode; a `real.Llama` as well.
        prompt: int64 [length], at least one token.
        count: new tokens; prompt and new ones together at most model.length.
        temperature: 0 takes the likeliest token; else tokens are drawn from softmax(logits / temperature).
        seed: of the draws.

    Returns:
        int64 [length + count].

    Raises:
        ValueError: if the prompt is empty or there are too many tokens.
    """
    if prompt.ndim != 1 or len(prompt) == 0:
        raise ValueError(f"prompt must be [length], at least one token, got {list(prompt.shape)}")
    if len(prompt) + count > model.length or temperature < 0:
        raise ValueError(
            f"prompt and count must be at most {model.length} tokens and temperature >= 0, "
            f"got {len(prompt)} + {count} and {temperature}"
        )
    generator = torch.Generator().manual_seed(seed)
    caches, tokens, latest = model.caches(1, len(prompt) + count), [prompt], prompt[None]
    for _ in range(count):
        logits = model(latest, caches)[0, -1]
        if temperature == 0:
            latest = logits.argmax()[None, None]
        else:
            odds = (logits / temperature).softmax(0)
            latest = torch.multinomial(odds, 1, generator=generator)[None]
        tokens.append(latest[0])
    return torch.cat(tokens)


def next_token_loss(model: nn.Module, batch: object) -> torch.Tensor:
    """The mean negative log-likelihood of the tokens that came: a loss for `training.fit`."""
    return F.cross_entropy(model(batch.x).flatten(0, 1), batch.y.flatten())


@dataclass(frozen=True)
class Divergence:
    """How far a model's next words are from another's.

    Attributes:
        mean: of the Kullback-Leibler divergence over all tokens, nats.
        tail: that of the token that one in a hundred exceeds, nats.
        changed: the share of tokens whose likeliest next word is another one.
    """

    mean: float
    tail: float
    changed: float


@torch.no_grad()
def divergence(
    model: nn.Module, reference: nn.Module, passages: object, batch_size: int = 16
) -> Divergence:
    """KL(p || q) = sum_w p(w) (log p(w) - log q(w)) at every token; p of the reference, q of the model.

    Perplexity asks one word of each distribution, the one that came: what a change costs there, and what it
    wins elsewhere, cancel. This asks all of them and is 0 only for equal ones. Kullback and Leibler 1951.

    Args:
        model: tokens [n, length] -> logits [n, length, words], in evaluation mode.
        reference: what it was made from, the same.
        passages: with `x`, from `data.corpus`.
        batch_size: passages at a time.

    Raises:
        ValueError: if there is no passage.
    """
    if len(passages) == 0:
        raise ValueError("passages must hold at least one, got 0")
    found, other = [], 0
    for x in passages.x[: most_passages()].split(batch_size):
        p, q = (m(x).double().log_softmax(-1) for m in (reference, model))
        found.append((p.exp() * (p - q)).sum(-1).flatten())
        other += int((p.argmax(-1) != q.argmax(-1)).sum())
    each = torch.cat(found)
    tail = float(each.quantile(0.99)) if len(each) > 1 else float(each[0])
    return Divergence(float(each.mean()), tail, other / len(each))


@torch.no_grad()
def losses_read_in_steps(
    model: nn.Module,
    passages: object,
    caches: Callable[[int], list[Cache]],
    step: int = 32,
    batch_size: int = 16,
) -> torch.Tensor:
    """The mean loss at every place of a passage that is read some tokens at a time, float64 [length].

    Args:
        model: takes `model(tokens, caches)`, in evaluation mode.
        passages: with `x` and `y`, from `data.corpus`.
        caches: makes empty ones for so many passages.
        step: tokens at a time; each step sees those before it through the caches.
        batch_size: passages at a time.

    Raises:
        ValueError: if there is no passage, or a step of none.
    """
    if len(passages) == 0 or step < 1:
        raise ValueError(f"passages and step must be 1 or more, got {len(passages)} and {step}")
    kept = passages.x[: most_passages()], passages.y[: most_passages()]
    total = torch.zeros(kept[0].shape[1], dtype=torch.float64)
    for x, y in zip(*(k.split(batch_size) for k in kept), strict=True):
        memory = caches(len(x))
        logits = torch.cat([model(part, memory) for part in x.split(step, 1)], 1).double()
        total += F.cross_entropy(logits.transpose(1, 2), y, reduction="none").sum(0)
    return total / len(kept[0])


@torch.no_grad()
def perplexity(model: nn.Module, passages: object, batch_size: int = 16) -> float:
    """The exponential of the mean loss a token: among how many equally likely tokens the model still wavers.

    Where COMPRESSLAB_STEPS is set, that of the first passages only (`shorter`).

    Args:
        model: tokens [n, length] -> logits [n, length, words], in evaluation mode.
        passages: with `x` and `y`, from `data.corpus`.
        batch_size: passages at a time.

    Raises:
        ValueError: if there is no passage.
    """
    if len(passages) == 0:
        raise ValueError("passages must hold at least one, got 0")
    total, tokens, following = 0.0, passages.x[: most_passages()], passages.y[: most_passages()]
    for x, y in zip(tokens.split(batch_size), following.split(batch_size), strict=True):
        # In half precision a sum of thousands would be rounded to one of 256 numbers between powers of two.
        logits = model(x).flatten(0, 1).double()
        total += float(F.cross_entropy(logits, y.flatten(), reduction="sum"))
    return float(torch.tensor(total / following.numel(), dtype=torch.float64).exp())
