"""Recurrent layers (循环层) written out in linear layers, so that what is done to those is done to them.

    LSTM   i, f, g, o = W x_t + U h     c = s(f) c + s(i) tanh(g),  h = s(o) tanh(c)   (projected: h = V h)
    GRU    r, z = s(W x_t + U h)        n = tanh(W x_t + r U h),    h = (1 - z) n + z h
    RNN    h = tanh(W x_t + U h)        or ReLU in the place of tanh

torch's layers hold W and U as plain parameters inside of one operation, which no technique can reach into.
`Recurrent` holds them as nn.Linear, "inputs" and "hidden", for each layer and direction, and computes the
same step by step: the products with the inputs of all steps at once, those with the state in a loop of
Python. In floats that is slower than torch's own; on int8 or packed weights the products are what is
compressed.

    layer k, direction d:    inputs[directions * k + d], hidden[...], projections[...]

Left out: training on it with dropout equals torch's in distribution, not number by number.
"""

from collections import Counter
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from compresslab.network.edit import replaced

LAYERS = (nn.LSTM, nn.GRU, nn.RNN)
CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
State = tuple[torch.Tensor, ...]


def recurrent_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Torch's recurrent layers and cells by name; none with a forward or weights that are not its own."""
    modules = list(model.named_modules())
    uses = Counter(id(p) for _, m in modules for p in m._parameters.values() if p is not None)
    return {
        name: module
        for name, module in modules
        if _is_one_of(module, (*LAYERS, *CELLS))
        and all(uses[id(p)] == 1 for p in module._parameters.values() if p is not None)
    }


def unrolled(model: nn.Module, only: Iterable[str] | None = None) -> nn.Module:
    """The model with its recurrent layers written out: a copy, or itself where there is none.

    Args:
        model: any module tree; not changed.
        only: names of recurrent layers; if None, all.
    """
    found = recurrent_layers(model)
    chosen = found if only is None else {name: found[name] for name in only}
    if not chosen:
        return model
    return replaced(model, {name: written_out(layer) for name, layer in chosen.items()})


def written_out(layer: nn.Module) -> nn.Module:
    """One of torch's recurrent layers or cells as linear layers; its numbers are copied.

    Raises:
        ValueError: for any other module.
    """
    if _is_one_of(layer, CELLS):
        return RecurrentCell(layer)
    if _is_one_of(layer, LAYERS):
        return Recurrent(layer)
    raise ValueError(f"layer must be one of torch's recurrent layers, got {type(layer).__name__}")


def _is_one_of(layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether a layer is one of torch's own kinds, without a hook, a parametrization or a tensor of its own.

    A subclass may have whatever its parent reads: it stays as it is.
    """
    if type(layer) not in kinds or "forward" in vars(layer):
        return False
    if layer._forward_hooks or layer._forward_pre_hooks:
        return False
    known = ("weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh")
    own = all(
        name.startswith(known) and not name.endswith(("_orig", "_g", "_v"))
        for name in layer._parameters
    )
    return own and not layer._buffers and not layer._modules


def _kind(layer: nn.Module) -> str:
    """LSTM, GRU, RNN_TANH or RNN_RELU."""
    name = type(layer).__name__.removesuffix("Cell")
    return f"RNN_{layer.nonlinearity.upper()}" if name == "RNN" else name


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """An nn.Linear with copies of these numbers."""
    new = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    new.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
    if bias is not None:
        new.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return new


def step(kind: str, given: torch.Tensor, kept: torch.Tensor, state: State) -> State:
    """The next state from W x_t, U h, and the state before: (h,), or (h, c) of an LSTM."""
    if kind == "LSTM":
        enter, forget, new, leave = (given + kept).chunk(4, -1)
        cell = forget.sigmoid() * state[1] + enter.sigmoid() * new.tanh()
        return leave.sigmoid() * cell.tanh(), cell
    if kind == "GRU":
        (reset, update, new), parts = given.chunk(3, -1), kept.chunk(3, -1)
        update = (update + parts[1]).sigmoid()
        new = (new + (reset + parts[0]).sigmoid() * parts[2]).tanh()
        return (new + update * (state[0] - new),)
    both = given + kept
    return (both.tanh() if kind == "RNN_TANH" else both.relu(),)


class RecurrentCell(nn.Module):
    """One of torch's cells as two linear layers; called as the cell is."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.kind = _kind(cell)
        self.input_size, self.hidden_size, self.bias = cell.input_size, cell.hidden_size, cell.bias
        self.inputs = _linear(cell.weight_ih, cell.bias_ih)
        self.hidden = _linear(cell.weight_hh, cell.bias_hh)

    def forward(
        self, x: torch.Tensor, hx: torch.Tensor | State | None = None
    ) -> torch.Tensor | State:
        """[n, inputs] or [inputs], and the state or None -> the next state, of an LSTM (h, c).

        Raises:
            ValueError: for inputs of another width.
        """
        _check_width(x, self.input_size)
        single = x.ndim == 1
        rows = x[None] if single else x
        if hx is None:
            states = tuple(
                rows.new_zeros(len(rows), self.hidden_size) for _ in range(_states(self.kind))
            )
        else:
            given = hx if isinstance(hx, tuple | list) else (hx,)
            states = tuple(s[None] if single else s for s in given)
        states = step(self.kind, self.inputs(rows), self.hidden(states[0]), states)
        states = tuple(s[0] for s in states) if single else states
        return states if self.kind == "LSTM" else states[0]


class Recurrent(nn.Module):
    """nn.LSTM, nn.GRU or nn.RNN as linear layers; called as the layer is, packed sequences included."""

    def __init__(self, layer: nn.LSTM | nn.GRU | nn.RNN) -> None:
        super().__init__()
        self.kind = _kind(layer)
        for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout"):
            setattr(self, name, getattr(layer, name))
        self.bidirectional, self.proj_size = layer.bidirectional, layer.proj_size
        ends = [f"l{k}{d}" for k in range(layer.num_layers) for d in self._suffixes()]

        def matrices(kind: str) -> nn.ModuleList:
            weights = [getattr(layer, f"weight_{kind}_{end}") for end in ends]
            biases = [getattr(layer, f"bias_{kind}_{end}", None) for end in ends]
            return nn.ModuleList(map(_linear, weights, biases))

        self.inputs, self.hidden = matrices("ih"), matrices("hh")
        self.projections = matrices("hr") if layer.proj_size else nn.ModuleList()

    def _suffixes(self) -> tuple[str, ...]:
        return ("", "_reverse") if self.bidirectional else ("",)

    def flatten_parameters(self) -> None:
        """Nothing: torch's layers have it for GPUs, and forwards call it."""

    def forward(
        self, x: torch.Tensor | PackedSequence, hx: torch.Tensor | State | None = None
    ) -> tuple[torch.Tensor | PackedSequence, torch.Tensor | State]:
        """As torch's layer: outputs of all steps, and the last state, which of an LSTM is (h, c).

        Raises:
            ValueError: for inputs of another width, or no steps.
        """
        packed, lengths, single = x, None, False
        if isinstance(x, PackedSequence):
            x, lengths = pad_packed_sequence(x, batch_first=True)
        else:
            if x.ndim not in (2, 3):
                raise ValueError(f"x must have 2 or 3 dimensions, got {x.ndim}")
            single = x.ndim == 2
            x = x[None] if single else x if self.batch_first else x.transpose(0, 1)
        _check_width(x, self.input_size)
        if x.shape[1] == 0:
            raise ValueError("x must hold at least one step, got none")
        states = self._states(x, hx, single)
        alive = None
        if lengths is not None:
            alive = torch.arange(x.shape[1])[:, None] < lengths
        ends: list[State] = []
        for k in range(self.num_layers):
            outputs = []
            for d, _ in enumerate(self._suffixes()):
                place = k * len(self._suffixes()) + d
                start = tuple(state[place] for state in states)
                out, end = self._direction(place, x, start, alive, backwards=d == 1)
                outputs.append(out)
                ends.append(end)
            x = torch.cat(outputs, 2)
            if self.training and self.dropout and k + 1 < self.num_layers:
                x = F.dropout(x, self.dropout)
        last = tuple(torch.stack(parts) for parts in zip(*ends, strict=True))
        if isinstance(packed, PackedSequence):
            x = self._repacked(x, lengths, packed)
        elif single:
            x, last = x[0], tuple(state[:, 0] for state in last)
        elif not self.batch_first:
            x = x.transpose(0, 1)
        return x, last if self.kind == "LSTM" else last[0]

    def _states(self, x: torch.Tensor, hx: torch.Tensor | State | None, single: bool) -> State:
        """The states to begin with, [layers * directions, n, width] each."""
        count = self.num_layers * len(self._suffixes())
        widths = (self.proj_size or self.hidden_size, self.hidden_size)[: _states(self.kind)]
        if hx is None:
            return tuple(x.new_zeros(count, len(x), width) for width in widths)
        given = hx if isinstance(hx, tuple | list) else (hx,)
        given = tuple(state[:, None] if single else state for state in given)
        wanted = [(count, len(x), width) for width in widths]
        if [tuple(state.shape) for state in given] != wanted:
            batch = slice(1, 2) if single else slice(0, 0)  # one sequence has no batch to speak of
            found, told = (
                [[n for k, n in enumerate(shape) if k not in range(3)[batch]] for shape in shapes]
                for shapes in ([s.shape for s in given], wanted)
            )
            raise ValueError(f"hx must hold states of {told}, got {found}")
        return given

    def _direction(
        self, place: int, x: torch.Tensor, state: State, alive: torch.Tensor | None, backwards: bool
    ) -> tuple[torch.Tensor, State]:
        """All steps of one layer in one direction: outputs [n, steps, width] and the last state.

        Where a sequence is over its state stays, so that one that is read from its end begins at its own.
        """
        given, hidden = self.inputs[place](x), self.hidden[place]
        outputs = [torch.empty(0)] * x.shape[1]
        for t in reversed(range(x.shape[1])) if backwards else range(x.shape[1]):
            new = step(self.kind, given[:, t], hidden(state[0]), state)
            if len(self.projections):
                new = (self.projections[place](new[0]), *new[1:])
            if alive is not None:
                new = tuple(
                    torch.where(alive[t][:, None], *both) for both in zip(new, state, strict=True)
                )
            state, outputs[t] = new, new[0]
        return torch.stack(outputs, 1), state

    def _repacked(
        self, x: torch.Tensor, lengths: torch.Tensor, packed: PackedSequence
    ) -> PackedSequence:
        """Outputs in the order and with the lengths in which the inputs came."""
        order = packed.sorted_indices
        if order is not None:
            x, lengths = x[order], lengths[order]
        out = pack_padded_sequence(x, lengths, batch_first=True)
        return PackedSequence(out.data, out.batch_sizes, order, packed.unsorted_indices)


def _states(kind: str) -> int:
    return 2 if kind == "LSTM" else 1


def _check_width(x: torch.Tensor, width: int) -> None:
    if x.shape[-1] != width:
        raise ValueError(f"x must have {width} features, got {x.shape[-1]}")
