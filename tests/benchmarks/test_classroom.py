"""A class, graded: what is kept of it shows no point that was not deserved, and none that was lost."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import classroom
from benchmarks.mistakes import mistakes
from compresslab.classroom.exercises import exercise
from compresslab.classroom.grading.grade import exercises_of
from compresslab.classroom.judge import judge

ENTRIES = classroom.read_entries()


def test_the_committed_page_is_that_of_the_records(tmp_path):
    classroom.write_page(ENTRIES, tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == classroom.PAGE.read_text(), "run it with --page"


def test_a_class_of_200_was_graded_and_killed_twenty_times():
    assert any(e.learners >= 200 and e.killed >= 20 and e.hostile > 0 for e in ENTRIES)


def test_two_workers_were_seen_to_grade_a_class_within_four_minutes():
    """Of what was recorded, not of this machine: sixty submissions a minute, of six exercises or more."""
    assert any(
        e.learners >= 200 and e.workers == 2 and not e.cluster and e.a_minute >= 60
        for e in ENTRIES
        if e.answers >= 6 * e.learners
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.lab}, {e.workers} workers")
def test_no_point_was_undeserved_and_none_was_lost(entry):
    assert (entry.undeserved, entry.marked_down, entry.other) == (0, 0, 0)
    assert entry.same or not entry.killed


def test_one_entry_is_kept_for_a_lab_and_a_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(classroom, "RECORDS", tmp_path / "classroom.json")
    monkeypatch.setattr(classroom, "PAGE", tmp_path / "classroom.md")
    monkeypatch.setattr(classroom, "read_entries", lambda: kept)
    kept = [replace(ENTRIES[0], date="before"), replace(ENTRIES[0], lab="77")]
    monkeypatch.setattr(classroom, "write_page", kept.extend)
    classroom.keep(replace(ENTRIES[0], date="now"))
    assert [(e.lab, e.date) for e in kept[2:]] == [
        (ENTRIES[0].lab, "now"),
        ("77", ENTRIES[0].date),
    ]


@pytest.mark.parametrize("hostile", [0.0, 1.0])
def test_a_class_has_as_many_attacks_as_asked_for(tmp_path, hostile):
    made = classroom.make_class(tmp_path, "00_measure_first", 3, 1, hostile)
    kinds = [kind for answers in made.values() for kind in answers.values()]
    assert len(kinds) == 3 * len(exercises_of("00"))
    assert kinds.count("hostile") == hostile * len(kinds)
    assert len(list(tmp_path.glob("*/00_measure_first.ipynb"))) == 3


@pytest.mark.parametrize(
    ("kind", "points", "fine"),
    [
        ("model", 2, True),
        ("model", 1.5, False),
        ("wrong", 1.5, True),
        ("wrong", 2, False),
        ("stub", 0, True),
        ("stub", 0.5, False),
        ("hostile", 0.25, False),
        ("broken", 0, True),
    ],
)
def test_a_mark_other_than_it_has_to_be_is_found(kind, points, fine):
    mark = {"learner": "a", "exercise": "b", "points": points, "out_of": 2}
    assert (classroom.wrong_marks({"marks": [mark]}, {"a": {"b": kind}}) == []) is fine


def test_a_mark_that_is_missing_is_found():
    assert classroom.wrong_marks({"marks": []}, {"a": {"b": "model"}})


@pytest.mark.parametrize("id", ["measuring.roofline", "measuring.parameter_bytes"])
def test_known_mistakes_are_answers_that_stand_by_themselves(id):
    name = id.split(".")[1]
    known = mistakes(id)
    assert len(known) >= 3
    for source in known:
        space = {"np": np, "torch": torch, "math": math}
        exec(source, space)
        result = judge(space[name], exercise(id))
        assert not result.passed, source
        assert result.mistake in {m.name for m in exercise(id).mistakes}


def test_an_exercise_whose_mistakes_need_their_module_has_none():
    assert mistakes("qat.two_by_two") == ()
