"""The page of lab times says what its record says."""

import json

import pytest
import typer

from benchmarks import times
from benchmarks.claims import labs


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(times, "RECORDS", tmp_path / "times.json")
    monkeypatch.setattr(times, "PAGE", tmp_path / "times.md")
    monkeypatch.setattr(times, "machine", lambda: "a lamp")
    return tmp_path


def test_times_are_kept_by_lab_and_kind_and_compared(kept):
    times.keep("02", "alone", 40.04)
    times.keep("01", "alone", 20.0)
    times.keep("02", "beside another lab", 70.0)
    record = json.loads((kept / "times.json").read_text("utf-8"))
    assert record["a lamp"]["02"] == {"alone": 40.0, "beside another lab": 70.0}
    page = (kept / "times.md").read_text("utf-8")
    assert "## a lamp" in page
    assert "Median alone: 30 s of 2 labs." in page
    assert "| 01 | 20 | - | - | - |\n| 02 | 40 | - | 70 | 1.8 |" in page


def test_times_of_another_machine_stand_beside_and_do_not_mix(kept, monkeypatch):
    times.keep("02", "alone", 40.0)
    monkeypatch.setattr(times, "machine", lambda: "a candle")
    times.keep("01", "alone", 90.0)
    record = json.loads((kept / "times.json").read_text("utf-8"))
    assert {here: set(found) for here, found in record.items()} == {
        "a lamp": {"02"},
        "a candle": {"01"},
    }


def test_two_labs_run_at_once_until_both_have_ended(monkeypatch):
    started = []

    def pretend(name, _extra=None):
        started.append(name)
        times.time.sleep(0.05 if name == "short" else 0.4)
        return 0.05 if name == "short" else 0.4

    monkeypatch.setattr(times, "seconds", pretend)
    assert times.pair("short", "long") == (0.05, 0.4)
    assert started.count("short") > 1
    assert started.count("long") == 1


def test_unknown_labs_and_kinds_are_refused():
    for arguments in (["99"], None), (None, ["sometimes"]):
        with pytest.raises(typer.BadParameter, match="no such lab or kind"):
            times.main(*arguments)


def test_the_committed_page_is_that_of_the_committed_record():
    record = json.loads(times.RECORDS.read_text("utf-8"))
    assert times.PAGE.read_text("utf-8") == times.page(record)
    assert all(set(of_labs) <= set(labs()) for of_labs in record.values())
    assert all("alone" in found for of_labs in record.values() for found in of_labs.values())
