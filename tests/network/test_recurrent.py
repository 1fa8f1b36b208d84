"""Recurrent layers as linear ones compute what torch's do, however they are called."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from compresslab.network.recurrent import (
    Recurrent,
    RecurrentCell,
    recurrent_layers,
    unrolled,
    written_out,
)

KINDS = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "tanh": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}


def close(one, other):
    """Equal up to rounding, tuples part by part."""
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(close, one, other))
    return one.shape == other.shape and torch.allclose(one, other, atol=1e-5)


@given(
    kind=st.sampled_from(sorted(KINDS)),
    layers=st.integers(1, 3),
    both=st.booleans(),
    bias=st.booleans(),
    batch_first=st.booleans(),
    projection=st.sampled_from([0, 2]),
    started=st.booleans(),
    n=st.integers(0, 3),
    steps=st.integers(1, 4),
)
def test_computes_what_torch_computes(
    kind, layers, both, bias, batch_first, projection, started, n, steps
):
    torch.manual_seed(layers)
    options = {
        "num_layers": layers,
        "bidirectional": both,
        "bias": bias,
        "batch_first": batch_first,
    }
    if kind == "LSTM":
        options["proj_size"] = projection
    layer = KINDS[kind](3, 5, **options).eval()
    if n == 0:  # torch refuses an empty batch in some versions: ours gives one back
        out, _ = written_out(layer)(torch.randn(*((0, steps) if batch_first else (steps, 0)), 3))
        assert out.shape[0 if batch_first else 1] == 0
        return
    x = torch.randn(*((n, steps) if batch_first else (steps, n)), 3)
    hx = None
    if started:
        h = torch.randn(layers * (1 + both), n, options.get("proj_size") or 5)
        hx = (h, torch.randn(layers * (1 + both), n, 5)) if kind == "LSTM" else h
    with torch.no_grad():
        assert close(layer(x, hx), written_out(layer)(x, hx))


@pytest.mark.parametrize("kind", KINDS)
def test_one_sequence_without_a_batch(kind):
    layer = KINDS[kind](3, 5, bidirectional=True).eval()
    x = torch.randn(4, 3)
    assert close(layer(x), written_out(layer)(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_order", [True, False])
def test_sequences_of_several_lengths(kind, in_order):
    layer = KINDS[kind](3, 5, num_layers=2, bidirectional=True, batch_first=True).eval()
    lengths = [4, 3, 1] if in_order else [1, 4, 3]
    packed = pack_padded_sequence(
        torch.randn(3, 4, 3), lengths, batch_first=True, enforce_sorted=in_order
    )
    expected, got = layer(packed), written_out(layer)(packed)
    assert close(tuple(pad_packed_sequence(expected[0])), tuple(pad_packed_sequence(got[0])))
    assert close(expected[1], got[1])


@pytest.mark.parametrize("make", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("shape", [(4, 3), (3,)])
def test_cells(make, shape):
    cell = make(3, 5)
    mine = written_out(cell)
    x = torch.randn(shape)
    first = cell(x)
    assert close(first, mine(x))
    assert close(cell(x, first), mine(x, first))


def test_gradients_reach_every_weight():
    layer = nn.LSTM(3, 5, num_layers=2, bidirectional=True)
    mine = written_out(layer)
    x = torch.randn(4, 2, 3)
    layer(x)[0].sum().backward()
    mine(x)[0].sum().backward()
    torch.testing.assert_close(mine.hidden[1].weight.grad, layer.weight_hh_l0_reverse.grad)
    assert all(p.grad is not None for p in mine.parameters())


def test_a_model_is_copied_and_others_stay():
    model = nn.ModuleDict(
        {"words": nn.Embedding(7, 3), "lstm": nn.LSTM(3, 5), "head": nn.Linear(5, 2)}
    )
    written = unrolled(model)
    assert isinstance(model["lstm"], nn.LSTM)
    assert isinstance(written["lstm"], Recurrent)
    assert list(recurrent_layers(model)) == ["lstm"]
    assert unrolled(nn.Linear(2, 2)) is not None
    model = nn.Linear(2, 2)
    assert unrolled(model) is model


def test_a_layer_with_a_forward_of_its_own_is_left():
    class Odd(nn.LSTM):
        def forward(self, x):
            return super().forward(2 * x)

    assert recurrent_layers(Odd(3, 5)) == {}
    with pytest.raises(ValueError, match="layer must be one of torch's recurrent layers, got Odd"):
        written_out(Odd(3, 5))


@pytest.mark.parametrize("bad", [torch.zeros(2, 4, 2), torch.zeros(0, 4, 3)])
def test_bad_inputs_are_answered(bad):
    with pytest.raises(ValueError, match="x must"):
        written_out(nn.LSTM(3, 5))(bad)
    assert isinstance(written_out(nn.GRUCell(3, 5)), RecurrentCell)


def test_many_sorted_sequences_of_equal_lengths_keep_their_places():
    layer = nn.GRU(3, 4)
    lengths = torch.randint(1, 5, (60,)).sort(descending=True)[0]
    packed = pack_padded_sequence(torch.randn(60, 4, 3), lengths, batch_first=True)
    assert close(layer(packed)[0].data, written_out(layer)(packed)[0].data)
    shuffled = pack_padded_sequence(
        torch.randn(4, 60, 3), lengths[torch.randperm(60)], enforce_sorted=False
    )
    got, wanted = written_out(layer)(shuffled), layer(shuffled)
    assert close(pad_packed_sequence(wanted[0])[0], pad_packed_sequence(got[0])[0])
    assert close(wanted[1], got[1])


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.RNNCell])
def test_a_subclass_may_be_more_than_its_kind(kind):
    class Mine(kind):
        pass

    assert recurrent_layers(Mine(3, 5)) == {}


@pytest.mark.parametrize(
    "x,hx,words",
    [
        (torch.zeros(4, 2, 3), torch.zeros(1, 1, 5), r"hx must hold states of \[\[1, 2, 5\]\]"),
        (torch.zeros(4, 2, 3), torch.zeros(3, 2, 5), r"hx must hold states of \[\[1, 2, 5\]\]"),
        (
            torch.zeros(4, 3),
            torch.zeros(1, 4),
            r"hx must hold states of \[\[1, 5\]\], got \[\[1, 4\]\]",
        ),
        (torch.zeros(3), None, "x must have 2 or 3 dimensions, got 1"),
    ],
)
def test_states_that_do_not_fit_are_refused(x, hx, words):
    with pytest.raises(ValueError, match=words):
        written_out(nn.GRU(3, 5))(x, hx)
