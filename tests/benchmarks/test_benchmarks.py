"""Benchmarks run and say what they must; how fast is not a test's business."""

import json
import math

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import threads
from benchmarks.harness import race, records

KEYS = {
    *("kernel", "shape", "threads", "isa", "ours_ms", "peer", "peer_ms", "ratio"),
    "fraction_of_limit",
}


@pytest.fixture
def app():
    import typer

    app = typer.Typer()
    app.command()(command.main)
    return app


@pytest.mark.parametrize("family", command.FAMILIES)
def test_a_family_writes_its_records(family, app, tmp_path):
    target = tmp_path / "records.json"
    arguments = ["--only", family, "--json", str(target), "--scale", "64"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    written = json.loads(target.read_text())
    assert written
    for record in written:
        assert set(record) == KEYS
        assert record["ratio"] == pytest.approx(record["peer_ms"] / record["ours_ms"])
        limit = record["fraction_of_limit"]
        assert limit is None or (math.isfinite(limit) and limit > 0)
        assert record["threads"] >= 1


def test_an_unknown_family_is_refused(app):
    result = CliRunner().invoke(app, ["--only", "nothing"])
    assert result.exit_code == 2
    assert "must be one of" in result.output


def test_a_race_runs_everybody_equally_often_in_turn():
    order = []
    race({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b"] * 4


def test_a_limit_is_no_peer():
    made = records("k", "1", {"ours": 2.0, "peer": 6.0, "copy": 1.0}, limits=("copy",))
    assert [(r.peer, r.ratio) for r in made] == [("peer", 3.0)]


@pytest.mark.parametrize(
    "most,columns", [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_threads_are_counted_in_powers_of_two_up_to_all(most, columns):
    assert threads.counts(most) == columns


def test_every_kernel_is_timed_on_more_threads_and_torch_is_left_with_one():
    lines = str(threads.scaling(2, scale=32, rounds=3)).splitlines()
    assert "2 threads, times" in lines[0]
    assert len(lines) == 2 + len(threads.kernels(32))
    assert torch.get_num_threads() == 1
