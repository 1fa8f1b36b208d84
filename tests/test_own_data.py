"""Inputs that are no images: tables, series, signals, tokens, with labels, through compress and measure."""

import pytest
import torch
from torch import nn

import compresslab as cl
from compresslab.data import Examples, Features, Sequences, Split, labelled
from compresslab.measure import measure
from compresslab.stages import CutChannels, own_answers
from compresslab.training import evaluate, fit


class Recurrent(nn.Module):
    def __init__(self, whole=False):
        super().__init__()
        self.rnn, self.head, self.whole = nn.GRU(6, 12, batch_first=True), nn.Linear(12, 3), whole

    def forward(self, x):
        outputs, state = self.rnn(x)
        answer = self.head(outputs[:, -1])
        return (answer, state) if self.whole else answer


def table_network():
    return nn.Sequential(
        nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)
    )


def signal_network():
    return nn.Sequential(
        *(nn.Conv1d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8 * 18, 3)),
    )


KINDS = {
    "table": (table_network, (9,)),
    "series": (Recurrent, (5, 6)),
    "signal": (signal_network, (2, 20)),
}
every = pytest.mark.parametrize("kind", KINDS)


def data_of(kind, n=240):
    """Three classes that lie apart, so that there is something to learn."""
    generator = torch.Generator().manual_seed(3)
    y = torch.randint(0, 3, (n,), generator=generator)
    shape = KINDS[kind][1]
    centres = torch.randn(3, *shape, generator=generator)
    x = centres[y] + 0.3 * torch.randn(n, *shape, generator=generator)
    parts = [Features(x[i::3].contiguous(), y[i::3].contiguous()) for i in range(3)]
    return Split(kind, *parts, ("a", "b", "c"))


@pytest.fixture(scope="module")
def trained():
    found = {}
    for kind, (build, _) in KINDS.items():
        torch.manual_seed(0)
        data = data_of(kind)
        network = build()
        fit(network, data.train, 12, lr=0.02, batch_size=16, progress=False)
        found[kind] = network, data
    return found


@every
def test_a_row_of_the_table_and_its_accuracy(trained, kind):
    network, data = trained[kind]
    row = measure(network, data, batches=(1,))
    assert row.accuracy == evaluate(network, data.test) > 60
    assert row.parameters == sum(p.numel() for p in network.parameters())
    assert row.macs > 0
    assert measure(network, data.test, batches=(1,)).accuracy == row.accuracy
    assert "x".join(map(str, data.shape)) in repr(data)


@every
@pytest.mark.parametrize(
    "stage",
    [cl.Prune(0.4), cl.LowRank(0.9), cl.Share(15), cl.Weights(8, group=None), cl.Dynamic()],
    ids=lambda s: type(s).__name__,
)
def test_what_needs_no_image_takes_them_and_stays_as_good(trained, kind, stage, tmp_path):
    network, data = trained[kind]
    small = cl.compress(network, [stage], data, epochs=6, progress=False)
    assert evaluate(small, data.test) > evaluate(network, data.test) - 15
    before, after = (measure(m, data, batches=(1,)) for m in (network, small))
    assert after.nonzeros < before.nonzeros or after.bytes_disk < before.bytes_disk


@pytest.mark.parametrize("stage", [cl.Quantize(8), cl.Quantize(4), cl.CutChannels(0.4)], ids=repr)
def test_a_network_for_tables_becomes_integers_or_narrow(trained, stage):
    network, data = trained["table"]
    small = cl.compress(network, [stage], data, epochs=6, progress=False)
    runs = cl.convert(small) if isinstance(stage, cl.Quantize) else small
    assert evaluate(runs, data.test) > evaluate(network, data.test) - 15


@pytest.mark.parametrize("kind", ["series", "signal"])
def test_what_has_no_channels_to_cut_says_so(trained, kind):
    network, data = trained[kind]
    with pytest.raises(ValueError, match="no layer but the last has channels that can be cut"):
        cl.compress(network, [CutChannels(0.5)], data, progress=False)


def test_a_network_that_answers_with_more_than_logits_is_refused_before_it_is_trained():
    network, data = Recurrent(whole=True), data_of("series")
    before = {n: t.clone() for n, t in network.state_dict().items()}
    words = "must answer with one tensor .* got tuple: wrap it in a module that returns the logits"
    for call in (
        lambda: cl.compress(network, [cl.Prune(0.5)], data, progress=False),
        lambda: fit(network, data.train, 1, progress=False),
        lambda: evaluate(network, data.test),
        lambda: measure(network, data, batches=(1,)),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())
    # Without labels it is calibrated on nothing that needs one tensor.
    assert isinstance(cl.compress(network, [cl.Prune(0.5)], data.train.x)(data.test.x), tuple)


def test_images_that_are_none_are_told_what_they_are():
    x, y = torch.rand(4, 7), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"got torch.float32 2-d: .* use Features, .* Sequences"):
        Examples(x, y)
    assert isinstance(labelled(x, y), Features)
    assert isinstance(labelled(torch.rand(4, 1, 8, 8), y), Examples)
    assert isinstance(labelled(torch.zeros(4, 5, dtype=torch.int64), y), Sequences)


@pytest.mark.parametrize(
    "x",
    [torch.ones(4), torch.ones(4, 3).double(), torch.zeros(4, 3, dtype=torch.int32)],
    ids=["one axis", "float64", "integers"],
)
def test_features_are_floats_with_the_examples_first(x):
    with pytest.raises(ValueError, match=r"x must be float32 \[n, \.\.\.\]"):
        Features(x, torch.zeros(4, dtype=torch.int64))


@every
def test_a_networks_own_answers_are_labels_of_the_same_kind(trained, kind):
    network, data = trained[kind]
    own = own_answers(network, data.test.x)
    assert isinstance(own, Features)
    assert evaluate(network, own) == 100


def test_with_two_answers_what_trains_nothing_takes_labels_as_well():
    """Labels are held against one tensor; where none is, nothing is refused for them."""

    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.one, self.other = nn.Linear(9, 16), nn.Linear(16, 3), nn.Linear(16, 2)

        def forward(self, x):
            y = torch.relu(self.body(x))
            return self.one(y), self.other(y)

    network, data = TwoHeads(), data_of("table")
    small = cl.compress(network, [cl.Quantize(8)], data, progress=False)
    for wanted, found in zip(network(data.test.x), cl.convert(small)(data.test.x), strict=True):
        assert float((wanted - found).abs().max()) < 0.1 * float(wanted.abs().max())
