"""LSTM, GRU and RNN on int8 and packed weights: near the floats, near torch's own, and back from a file."""

import pytest
import torch
from torch import nn

import compresslab as cl
from compresslab.models import BiLSTM
from compresslab.network.recurrent import Recurrent
from compresslab.runtime.dynamic import DynamicInt8Linear, convert_dynamic
from compresslab.techniques import weight_only
from compresslab.techniques.ptq import prepare_layers
from compresslab.techniques.quantizer import QuantConfig

WORDS, CLASSES, LENGTH = 50, 5, 12


@pytest.fixture
def network():
    torch.manual_seed(0)
    return BiLSTM(WORDS, CLASSES, width=32, hidden=48).eval()


@pytest.fixture
def tokens():
    return torch.randint(1, WORDS, (6, LENGTH))


class Gated(nn.Module):
    """A recurrent network as people write them: with a state that is handed on."""

    def __init__(self, kind, **options):
        super().__init__()
        self.rnn = kind(8, 12, num_layers=2, **options)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        self.rnn.flatten_parameters()
        out, state = self.rnn(x)
        again, _ = self.rnn(x, state)
        return self.head(out + again)[-1]


def decibels(x, got):
    return 10 * torch.log10(x.square().mean() / (x - got).square().mean())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@torch.no_grad()
def test_int8_is_near_the_floats(kind):
    torch.manual_seed(1)
    network, x = Gated(kind).eval(), torch.randn(7, 4, 8)
    small = convert_dynamic(network)
    assert sum(isinstance(m, DynamicInt8Linear) for m in small.modules()) == 5
    assert decibels(network(x), small(x)) > 30


@torch.no_grad()
def test_as_near_as_torchs_own_dynamic_lstm(network, tokens):
    theirs = torch.ao.quantization.quantize_dynamic(network, {nn.Linear, nn.LSTM}, torch.qint8)
    wanted = network(tokens)
    assert decibels(wanted, convert_dynamic(network)(tokens)) > decibels(wanted, theirs(tokens)) - 3


@pytest.mark.parametrize("stage", [cl.Dynamic(), cl.Weights(4), cl.Weights(8)])
@torch.no_grad()
def test_file_and_back(network, tokens, stage, tmp_path):
    small = cl.compress(network, [stage], tokens)
    size = cl.save(small, tmp_path / "lstm.safetensors")
    again = cl.load(tmp_path / "lstm.safetensors", like=BiLSTM(WORDS, CLASSES, width=32, hidden=48))
    assert torch.equal(small(tokens), again(tokens))
    assert isinstance(network.lstm, nn.LSTM)
    plain = cl.save(network, tmp_path / "plain.safetensors")
    assert size < plain / 2.5
    assert isinstance(cl.load(tmp_path / "plain.safetensors", like=network).lstm, nn.LSTM)


def test_a_file_in_floats_of_a_written_out_network(network, tokens, tmp_path):
    codes = weight_only.quantize(network, weight_only.WeightConfig(8))
    cl.save(codes.model, tmp_path / "floats.safetensors")
    again = cl.load(tmp_path / "floats.safetensors", like=network)
    assert isinstance(again.lstm, Recurrent)
    assert torch.equal(codes.model(tokens), again(tokens))


def test_the_same_operations_as_torchs_layer(network, tokens):
    before = cl.measure(network, tokens[0], batches=())
    after = cl.measure(convert_dynamic(network), tokens[0], batches=())
    assert after.macs == before.macs
    assert after.parameters == before.parameters


def test_inspect_says_that_they_can_be_packed(network, tokens):
    found = cl.inspect(network, tokens)
    does = {layer.name: layer.does for layer in found.layers}
    assert does["lstm"]["dynamic int8"] == does["lstm"]["packed weights"] == "yes"
    assert does["lstm"]["cut channels"] == "LSTM is not followed"
    for technique in ("prune", "low rank", "share", "packed weights", "dynamic int8"):
        assert does["lstm"][technique] == "yes"
    assert found.coverage("dynamic int8") == 1.0


@pytest.mark.parametrize("stage", [cl.Prune(0.8), cl.LowRank(0.5), cl.Share(15)])
def test_what_reaches_linear_layers_reaches_those_inside(network, tokens, stage, tmp_path):
    small = cl.compress(network, [stage], tokens, epochs=0, progress=False)
    held = cl.measure(small, tokens[0], batches=())
    before = cl.measure(network, tokens[0], batches=())
    recurrent = sum(p.numel() for p in network.lstm.parameters())
    if isinstance(stage, cl.Prune):
        assert held.nonzeros < before.nonzeros - 0.7 * recurrent
    if isinstance(stage, cl.LowRank):
        assert held.parameters < before.parameters - 0.35 * recurrent
    assert held.bytes_disk < 0.75 * before.bytes_disk
    cl.save(small, tmp_path / "n.safetensors")
    again = cl.load(tmp_path / "n.safetensors", like=BiLSTM(WORDS, CLASSES, width=32, hidden=48))
    with torch.no_grad():
        torch.testing.assert_close(again(tokens), small(tokens))


@pytest.mark.parametrize("bits", [8, 4])
@torch.no_grad()
def test_simulated_at_any_width(network, tokens, bits):
    images = prepare_layers(network, QuantConfig(bits, bits, dynamic=True))
    assert decibels(network(tokens), images(tokens)) > (25 if bits == 8 else 3)


def test_a_network_of_nothing_but_a_gru():
    network, x = nn.GRU(8, 12).eval(), torch.randn(5, 2, 8)
    with torch.no_grad():
        got, wanted = convert_dynamic(network)(x)[0], network(x)[0]
    assert decibels(wanted, got) > 30


# ---- forwards that read a recurrent layer by its class or by its parts -------------------------------
class AsksForItsClass(nn.Module):
    """The usual code that takes either kind."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(5, 32, 2, batch_first=True)
        self.out = nn.Linear(32, 5)

    def forward(self, x):
        _, h = self.rnn(x)
        if isinstance(self.rnn, nn.LSTM):
            h = h[0]
        return self.out(h[-1])


class ReadsItsWeights(AsksForItsClass):
    def forward(self, x):
        h = x.new_zeros(2, len(x), 32, dtype=self.rnn.weight_hh_l0.dtype)
        return self.out(self.rnn(x, (h, h))[0][:, -1])


class MakesItsState(AsksForItsClass):
    def forward(self, x):
        h = next(self.rnn.parameters()).new_zeros(2, len(x), 32)
        return self.out(self.rnn(x, (h, h))[0][:, -1])


STAGES = [cl.Dynamic(), cl.Weights(8), cl.Prune(0.01), cl.Share(200), cl.Weights(8, method="gptq")]


@pytest.mark.parametrize("kind", [AsksForItsClass, ReadsItsWeights, MakesItsState])
@pytest.mark.parametrize("stage", STAGES, ids=repr)
@torch.no_grad()
def test_a_forward_that_reads_its_recurrent_layer_answers_as_before(kind, stage):
    torch.manual_seed(0)
    network, x = kind().eval(), torch.randn(60, 9, 5)
    small = cl.compress(network, [stage], x, epochs=0, progress=False)
    assert small(x).shape == network(x).shape
    assert decibels(network(x), small(x)) > 20


def test_words_and_a_recurrent_layer_alone_by_gptq():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.rnn = nn.Embedding(50, 32), nn.GRU(32, 5, batch_first=True)

        def forward(self, x):
            return self.rnn(self.words(x))[0][:, -1]

    network, x = Reader().eval(), torch.randint(0, 50, (12, 9))
    small = cl.compress(network, [cl.Weights(4, method="gptq")], x, epochs=0, progress=False)
    with torch.no_grad():
        assert decibels(network(x), small(x)) > 30


def test_a_model_that_takes_other_names_is_refused(tmp_path):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.norm, self.two = nn.Linear(32, 8), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x):
            return self.two(self.norm(self.one(x)))

    class Renames(Plain):
        def load_state_dict(self, state, strict=True, assign=False):
            names = {k[7:]: v for k, v in state.items() if k.startswith("module.")}
            return super().load_state_dict(names, strict)

    network, x = Plain().eval(), torch.randn(6, 32)
    small = cl.compress(network, [cl.Weights(4)], x)
    cl.save(small, tmp_path / "n.safetensors")
    with torch.no_grad():
        assert torch.equal(cl.load(tmp_path / "n.safetensors", like=Renames())(x), small(x))


def test_inspect_counts_cells_and_sequences_packed_together():
    class Cells(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.LSTMCell(8, 12), nn.Linear(12, 3)

        def forward(self, x):
            state = None
            for step in x.unbind(1):
                state = self.cell(step, state)
            return self.head(state[0])

    found = cl.inspect(Cells(), torch.randn(2, 5, 8))
    assert found.coverage("dynamic int8") == 1.0
    (cell,) = [layer for layer in found.layers if layer.name == "cell"]
    assert (cell.macs, cell.does["prune"]) == (4 * 12 * (8 + 12), "yes")

    class OfSeveralLengths(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(8, 12, batch_first=True)

        def forward(self, x):
            lengths = torch.tensor([4, 2])
            return self.rnn(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))[1]

    assert cl.inspect(OfSeveralLengths(), torch.randn(2, 4, 8)).can("dynamic int8")


@pytest.mark.parametrize("stage", [cl.Prune(0.5), cl.Share(15)])
def test_answers_with_a_state_beside_them_are_compared_as_well(stage):
    class WithState(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = nn.LSTM(5, 16, batch_first=True), nn.Linear(16, 3)

        def forward(self, x):
            y, state = self.rnn(x)
            return self.out(y), state

    small = cl.compress(WithState().eval(), [stage], torch.randn(8, 6, 5), epochs=0, progress=False)
    assert isinstance(small.rnn, Recurrent)
