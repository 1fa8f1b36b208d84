"""The project's row: everything measured on what was read back from the file."""

import copy

import pytest
import torch

from compresslab import models
from compresslab.classroom import leaderboard
from compresslab.data import load
from compresslab.measure import Measurement
from compresslab.runtime import files
from compresslab.techniques import sharing
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig
from compresslab.training import evaluate, fit, seed_everything
from compresslab.writing import FileError


@pytest.fixture(scope="module")
def data():
    return load("digits")


@pytest.fixture(scope="module")
def network(data):
    seed_everything(0)
    network = models.MLP(data.shape, 10, (32,))
    fit(network, data.train, 6, 0.1, batch_size=32, progress=False)
    return network


def test_the_reference_itself_loses_nothing_and_is_as_large(network, data):
    row = leaderboard.row("itself", network, network, data.test)
    assert row.valid
    assert (row.smaller, row.points_lost) == (1, 0)
    assert row.measurement.accuracy == evaluate(network, data.test)


def test_a_shared_network_is_weighed_by_its_file(network, data):
    shared = sharing.share_weights(network, 15)
    row = leaderboard.row("shared", shared, network, data.test)
    assert row.measurement.bytes_disk == files.size(shared)
    assert row.smaller == files.size(network) / files.size(shared)


def test_what_counts_is_what_comes_back_from_the_file(network, data):
    class Cheat(models.MLP):
        """It answers from a table that no file holds."""

        def forward(self, x):
            return torch.nn.functional.one_hot(data.test.y, 10)[: len(x)].float()

    cheat = Cheat(data.shape, 10, (32,))
    assert evaluate(cheat, data.test.first(200)) == 100
    row = leaderboard.row("cheat", cheat, network, data.test.first(200))
    assert row.measurement.accuracy < 50
    assert not row.valid


def test_the_reference_keeps_its_weights(network, data):
    before = copy.deepcopy(network.state_dict())
    other = models.MLP(data.shape, 10, (32,))
    leaderboard.row("other", other, network, data.test)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())


def test_another_architecture_needs_to_be_told(network, data):
    deep = models.MLP(data.shape, 10, (4, 4))
    with pytest.raises(FileError, match=r"pass like=lambda: \.\.\."):
        leaderboard.row("deep", deep, network, data.test)
    with pytest.raises(FileError) as error:
        leaderboard.row("deep", deep, network, data.test, like=lambda: network)
    assert "like" not in str(error.value)
    row = leaderboard.row(
        "deep", deep, network, data.test, like=lambda: models.MLP(data.shape, 10, (4, 4))
    )
    assert row.smaller > 2


def test_fewer_channels_of_the_same_architecture_are_read_from_the_file(network, data):
    narrow = models.MLP(data.shape, 10, (4,))
    assert leaderboard.row("narrow", narrow, network, data.test).smaller > 2


def test_a_simulation_and_a_row_without_a_name_are_refused(network, data):
    simulated = quantize_post_training(network, QuantConfig(), data.train.x[:50])
    with pytest.raises(ValueError, match="converted to integers"):
        leaderboard.row("simulated", simulated, network, data.test)
    with pytest.raises(ValueError, match="name must not be empty"):
        leaderboard.row("  ", network, network, data.test)


def entry(name, size, smaller, faster, accuracy, lost):
    found = Measurement(name, 1, 1, 4, size, 1, 64, 1.0, accuracies=(accuracy,))
    return leaderboard.Row(found, smaller, faster, lost)


@pytest.mark.parametrize("right", range(0, 1001, 7))
def test_exactly_a_point_is_within_a_point(right):
    exact = 100 * ((right + 10) / 1000) - 100 * (right / 1000)
    assert entry("x", 1, 1.0, 1.0, 0.0, exact).valid


@pytest.mark.parametrize("batch", [0, -1, 1.5, 10**6])
def test_batches_that_cannot_be_are_refused(network, data, batch):
    with pytest.raises(ValueError, match="batch must be an integer from 1 to"):
        leaderboard.row("x", network, network, data.test, batch=batch)


def test_crowns_go_to_valid_rows_only():
    rows = [
        entry("tiny and wrong", 10, 100.0, 9.0, 50.0, 40.0),
        entry("small", 100, 10.0, 1.0, 89.5, 0.5),
        entry("fast", 300, 3.0, 4.0, 89.9, 0.1),
        entry("as fast", 310, 2.9, 3.9, 89.9, 0.1),
    ]
    lines = str(leaderboard.table(rows)).splitlines()
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "small",
        "fast",
        "as fast",
        "tiny and wrong",
    ]
    assert "10.0 ★" in lines[1]
    assert "4.00 ★" in lines[2]
    assert "3.90 ★" in lines[3]
    assert "★" not in lines[4]
    assert "more than 1 point lost" in lines[4]


def test_an_empty_board_is_a_table():
    assert "entry" in str(leaderboard.table([]))
