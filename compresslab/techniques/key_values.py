"""Keys and values of earlier tokens in few bits: the other memory of a language model (键值缓存).

    bytes a token = 2 layers heads size bits / 8 + scales          weights cost the same for every length

A reader of a long text, or many readers at once, need more of these than of weights. Keys have channels that
are large for every token, values have not, so (Liu et al. 2024, KIVI, https://arxiv.org/abs/2402.02750,
section 3)

    keys      a scale and a zero point for each channel, over `group` tokens
    values    a scale and a zero point for each token, over its channels

    q = rint((x - lo) / s),    s = (hi - lo) / (2^b - 1),    x' = q s + lo           s and lo in float16

The latest tokens stay floats until `group` of them are together: a channel's range is known only then. A
cache takes the place of `gpt.Cache` in `GPT` and in `real.Llama`. Every step restores all codes
(`kernels.bitpack`); a product on the codes themselves is left out, so that this saves memory and no time. A
file of caches is a prompt that need not be read again.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from compresslab.arguments import as_path
from compresslab.gpt import Cache
from compresslab.kernels import bitpack
from compresslab.writing import FileError, write_whole

AXES = ("channel", "token")
FORMAT = "compresslab.prompt"
HALF_LARGEST = 65504.0


class QuantizedBlock:
    """Some tokens of one layer in few bits: [n, heads, tokens, size].

    Args:
        x: float32 [n, heads, tokens, size].
        bits: 2 to 8.
        axis: "channel" or "token": what has a scale of its own.

    Raises:
        ValueError: for NaN, an infinity, or numbers beyond those of float16.
    """

    def __init__(self, x: torch.Tensor, bits: int, axis: str) -> None:
        if not bool((x.abs() <= HALF_LARGEST).all()):
            raise ValueError(
                f"keys and values must be finite and at most {HALF_LARGEST:,.0f}, which is float16's largest"
            )
        over = 2 if axis == "channel" else 3
        lo = x.amin(over, keepdim=True).half()
        step = (x.amax(over, keepdim=True) - lo.float()) / (2**bits - 1)
        # Rounded to float16 before a code is chosen; where all numbers are equal any step will do.
        self.step = step.clamp(2.0**-24, HALF_LARGEST).half()
        self.lo, self.bits, self.shape = lo, bits, tuple(x.shape)
        codes = ((x - lo.float()) / self.step.float()).round().clamp(0, 2**bits - 1)
        packed = bitpack.pack(codes.to(torch.uint8).numpy().reshape(-1), bits)
        self.packed = torch.from_numpy(packed)

    @classmethod
    def of(
        cls, parts: Sequence[torch.Tensor], bits: int, shape: tuple[int, ...]
    ) -> "QuantizedBlock":
        """A block from its packed codes, steps and lower ends."""
        block = cls.__new__(cls)
        (block.packed, block.step, block.lo), block.bits, block.shape = parts, bits, shape
        return block

    @property
    def parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Packed codes uint8, steps and lower ends float16."""
        return self.packed, self.step, self.lo

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return sum(p.numel() * p.element_size() for p in self.parts)

    def restored(self) -> torch.Tensor:
        """What the codes stand for, float32 [n, heads, tokens, size]."""
        codes = bitpack.unpack(self.packed.numpy(), self.bits, math.prod(self.shape))
        return torch.from_numpy(codes).view(self.shape) * self.step.float() + self.lo.float()


class QuantizedCache(Cache):
    """Keys and values of the tokens so far, of one layer, in few bits but for the latest.

    Attributes:
        filled: tokens so far.
        blocks: of keys and of values, `group` tokens each.
        latest: keys and values of the tokens since, float32 [n, heads, tokens, size].
    """

    def __init__(
        self,
        bits: int = 4,
        group: int = 32,
        keys: str = "channel",
        values: str = "token",
    ) -> None:
        """An empty cache.

        Args:
            bits: 2 to 8.
            group: tokens that become codes together.
            keys: what has a scale of its own, "channel" or "token".
            values: the same of values.

        Raises:
            ValueError: for settings outside of these.
        """
        if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
            raise ValueError(f"bits must be an integer from 2 to 8, got {bits!r}")
        if isinstance(group, bool) or not isinstance(group, int) or group < 1:
            raise ValueError(f"group must be an integer of 1 or more, got {group!r}")
        for name, axis in (("keys", keys), ("values", values)):
            if axis not in AXES:
                raise ValueError(f"{name} must be {' or '.join(AXES)}, got {axis!r}")
        self.bits, self.group, self.axes, self.filled = bits, group, (keys, values), 0
        self.blocks: tuple[list[QuantizedBlock], list[QuantizedBlock]] = ([], [])
        self.latest: tuple[torch.Tensor, ...] = ()

    def append(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep new ones, [n, heads, tokens, size] each; returns all so far, the older ones restored."""
        new = (k.detach().float(), v.detach().float())
        self.latest = tuple(
            torch.cat(pair, 2)
            for pair in zip(self.latest or (new[0][:, :, :0],) * 2, new, strict=True)
        )
        self.filled += k.shape[2]
        # What is read now is what is kept after this step: the newest tokens still see one another in floats.
        found = tuple(self._all(i).to(k.dtype) for i in range(2))
        while self.latest[0].shape[2] >= self.group:
            for i, (x, axis) in enumerate(zip(self.latest, self.axes, strict=True)):
                self.blocks[i].append(QuantizedBlock(x[:, :, : self.group], self.bits, axis))
            self.latest = tuple(x[:, :, self.group :] for x in self.latest)
        return found

    def _all(self, i: int) -> torch.Tensor:
        return torch.cat([*(block.restored() for block in self.blocks[i]), self.latest[i]], 2)

    @property
    def nbytes(self) -> int:
        """What keys and values take; the latest tokens at 16 bits, as they would be held."""
        floats = sum(2 * x.numel() for x in self.latest)
        return floats + sum(block.nbytes for some in self.blocks for block in some)


def quantized_caches(model: nn.Module, bits: int = 4, **options: object) -> list[QuantizedCache]:
    """Empty caches, one a layer, for a model with `layers` that takes `model(tokens, caches)`.

    Args:
        model: a `GPT` or a `real.Llama`.
        bits: 2 to 8.
        options: `group`, `keys` and `values`, as `QuantizedCache` takes them.
    """
    return [QuantizedCache(bits, **options) for _ in model.layers]


def nbytes(caches: Sequence[Cache]) -> int:
    """What the tokens so far take in all layers; floats at 16 bits."""
    return sum(
        c.nbytes
        if isinstance(c, QuantizedCache)
        else sum(2 * x[:, :, : c.filled].numel() for x in (c.keys, c.values))
        for c in caches
    )


# ---- files ---------------------------------------------------------------------------------------
def save(caches: Sequence[QuantizedCache], path: Path) -> int:
    """Write what a model has read so far; returns the bytes on disk.

    Raises:
        ValueError: if nothing was read, for caches that are not quantized, or of different settings.
    """
    if not caches or not all(isinstance(c, QuantizedCache) and c.filled for c in caches):
        raise ValueError(
            "caches must be QuantizedCaches that hold tokens, got others or empty ones"
        )
    settings = {(c.bits, c.group, c.axes, c.filled) for c in caches}
    if len(settings) > 1:
        raise ValueError(
            f"caches must have the same settings in every layer, got {sorted(settings)}"
        )
    tensors = {}
    for i, cache in enumerate(caches):
        for what, (blocks, latest) in enumerate(zip(cache.blocks, cache.latest, strict=True)):
            # Halves would be enough; the floats are kept so that the text goes on as it would have.
            tensors[f"{i}/{what}/latest"] = latest.contiguous().clone()
            for j, block in enumerate(blocks):
                for name, part in zip(("codes", "step", "lo"), block.parts, strict=True):
                    tensors[f"{i}/{what}/{j}/{name}"] = part.contiguous().clone()
    one = caches[0]
    about = {"bits": one.bits, "group": one.group, "layers": len(caches), "filled": one.filled}
    metadata = {"format": FORMAT, "keys": one.axes[0], "values": one.axes[1]}
    metadata |= {name: str(value) for name, value in about.items()}
    write_whole(as_path(path), lambda temporary: save_file(tensors, temporary, metadata))
    return as_path(path).stat().st_size


def load(path: Path) -> list[QuantizedCache]:
    """Caches from a file, to go on from where they were.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: if it is broken or of another format.
    """
    path = as_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise ValueError(f"expected format {FORMAT!r}, found {about.get('format')!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        caches = [_read(i, about, tensors) for i in range(_count(about, "layers"))]
        if tensors or not caches:
            raise ValueError(f"tensors that belong to no layer: {', '.join(sorted(tensors)[:5])}")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{path} is no whole file of a prompt: {error}") from error
    return caches


def _count(about: dict[str, str], name: str) -> int:
    text = about[name]
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise ValueError(f"{name} must be a whole number, found {text[:20]!r}")
    return int(text)


def _read(i: int, about: dict[str, str], tensors: dict[str, torch.Tensor]) -> QuantizedCache:
    """One layer's cache; its tensors are taken out of `tensors`."""
    cache = QuantizedCache(
        _count(about, "bits"), _count(about, "group"), about["keys"], about["values"]
    )
    cache.filled = _count(about, "filled")
    latest = [tensors.pop(f"{i}/{what}/latest") for what in range(2)]
    n, heads, tokens, size = latest[0].shape
    if not min(n, heads, size) > 0:
        raise ValueError(f"layer {i} must hold numbers, found {list(latest[0].shape)}")
    blocks, rest = divmod(cache.filled, cache.group)
    floats = all(x.dtype == torch.float32 and bool(x.isfinite().all()) for x in latest)
    if latest[1].shape != latest[0].shape or tokens != rest or not floats:
        raise ValueError(f"layer {i} must have {rest} latest tokens, found {list(latest[0].shape)}")
    shape = (n, heads, cache.group, size)
    packed = bitpack.packed_size(math.prod(shape), cache.bits)
    for what, axis in enumerate(cache.axes):
        ends = (n, heads, 1, size) if axis == "channel" else (n, heads, cache.group, 1)
        for j in range(blocks):
            parts = [tensors.pop(f"{i}/{what}/{j}/{name}") for name in ("codes", "step", "lo")]
            fit = parts[0].dtype == torch.uint8 and tuple(parts[0].shape) == (packed,)
            for part in parts[1:]:
                fit &= part.dtype == torch.float16 and tuple(part.shape) == ends
                fit = fit and bool(part.isfinite().all())
            if not fit:
                raise ValueError(f"layer {i}, block {j} does not have the sizes that its file says")
            cache.blocks[what].append(QuantizedBlock.of(parts, cache.bits, shape))
    cache.latest = tuple(latest)
    return cache
