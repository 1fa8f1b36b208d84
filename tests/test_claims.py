"""Claims: what is printed, what stops, what is kept; margins of agreement against NumPy's own."""

import functools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from compresslab import claims, shorter
from compresslab.claims import ClaimFailed, agreement, claim


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch):
    monkeypatch.delenv(claims.STRICT, raising=False)
    monkeypatch.delenv(claims.RECORD, raising=False)
    for variable in (shorter.SEEDS, shorter.STEPS):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def strict(monkeypatch):
    monkeypatch.setenv(claims.STRICT, "1")


def test_a_claim_that_holds_is_printed_word_for_word(capsys):
    claim("water is wet", True)
    claim("so is rain", np.bool_(True))
    claim("it rains for an hour", np.float32(0.5), "hours")
    assert capsys.readouterr().out == "✔ water is wet\n✔ so is rain\n✔ it rains for an hour\n"


@pytest.mark.parametrize("margin", [0, 0.0, -0.3, math.nan, -math.inf, np.float64(-1e-9)])
def test_a_margin_that_is_not_above_zero_does_not_hold(margin, strict):
    with pytest.raises(ClaimFailed, match="not borne out here: fire is cold"):
        claim("fire is cold", margin, "degrees")


def test_a_learner_s_lab_goes_on_and_is_told_by_how_much_and_how_often(capsys, monkeypatch):
    found = claims.Finding("04", "fire is cold", "degrees", 14, 13, 2.0, 0.5)
    monkeypatch.setattr(claims, "findings", lambda: {"fire is cold": found})
    claim("fire is cold", -0.25, "degrees")
    claim("ice is hot", False)
    assert capsys.readouterr().out == (
        "✘ not in this run: fire is cold (by 0.25 degrees); held in 13 of 14 runs of ours "
        "(docs/findings.md)\n✘ not in this run: ice is hot\n"
    )


def test_where_findings_are_tested_a_claim_that_fails_stops_and_says_by_how_much(strict):
    with pytest.raises(ClaimFailed, match=r"not borne out here: fire is cold \(by 2 degrees\)"):
        claim("fire is cold", -2, "degrees")
    with pytest.raises(ClaimFailed, match="not borne out here: ice is hot"):
        claim("ice is hot", False)


def test_a_claim_about_time_never_stops(strict, capsys):
    claim("fire is slow", -1.0, "times", timed=True)
    claim("fire is fast", 1.0, "times", timed=True)
    said = capsys.readouterr().out
    assert said.startswith("✘ not on this machine, in this run: fire is slow (by 1 times)")
    assert said.endswith("✔ fire is fast\n")


@pytest.mark.parametrize("ours", [claim, functools.partial(claim, "a"), (len, claim)])
def test_what_is_said_of_your_answer_is_not_said_of_the_librarys(ours, capsys, monkeypatch):
    monkeypatch.setenv(claims.STRICT, "1")
    claim("your answer is right", -1.0, "points", yours=ours)
    assert capsys.readouterr().out.startswith(
        "· not asked before the exercise is done: your answer"
    )


def test_what_is_said_of_your_answer_is_asked_of_yours(capsys):
    claim("your answer is right", 1.0, "points", yours=(lambda: 1, functools.partial(len, "a")))
    assert capsys.readouterr().out == "✔ your answer is right\n"


def test_a_claim_that_is_not_asked_here_says_so_and_is_not_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(claims.RECORD, str(tmp_path / "claims"))
    claim("with wings it flies", -1.0, "metres", timed=True, asked=False)
    assert capsys.readouterr().out == "· not asked here: with wings it flies\n"
    assert not (tmp_path / "claims").exists()


def test_on_other_data_nothing_stops(strict, monkeypatch, capsys):
    monkeypatch.setenv("COMPRESSLAB_DATASET", "mnist")
    claim("Two is more than three", -1, "apples")
    assert (
        capsys.readouterr().out
        == "✘ not on mnist, in this run: Two is more than three (by 1 apples)\n"
    )


def test_the_default_data_named_in_the_environment_is_no_other_data(strict, monkeypatch):
    monkeypatch.setenv("COMPRESSLAB_DATASET", "glyphs")
    with pytest.raises(ClaimFailed):
        claim("Two is more than three", False)


@pytest.mark.parametrize("margin", ["yes", None, torch.tensor(True), np.array([True]), 1 + 1j])
def test_a_margin_must_be_a_number_or_a_truth_value(margin):
    with pytest.raises(TypeError, match="margin must be a number, or True or False"):
        claim("something", margin, "units")


@pytest.mark.parametrize("margin,unit", [(0.5, None), (True, "points"), (np.bool_(False), "x")])
def test_a_number_needs_a_unit_and_an_exact_statement_has_none(margin, unit):
    with pytest.raises(TypeError, match="needs"):
        claim("something", margin, unit)


def test_every_claim_is_kept_with_its_margin_unit_and_place(tmp_path, monkeypatch):
    monkeypatch.setenv(claims.RECORD, str(tmp_path / "claims"))
    claim("one", 0.5, "points")
    claim("two", False)
    claim("three", -1.5, "times", timed=True)
    kept = [json.loads(line) for line in (tmp_path / "claims").read_text("utf-8").splitlines()]
    assert [(k["sentence"], k["margin"], k["unit"], k["holds"], k["timed"]) for k in kept] == [
        ("one", 0.5, "points", True, False),
        ("two", False, None, False, False),
        ("three", -1.5, "times", False, True),
    ]
    assert all(k["place"].startswith("test_claims.py, line ") for k in kept)


def test_findings_are_read_by_sentence_and_a_missing_file_says_nothing(tmp_path):
    table = tmp_path / "findings.csv"
    table.write_text(
        ",".join(claims.COLUMNS) + '\n04,"zeros, many, cost little",points,14,13,1.5,0.25\n',
        "utf-8",
    )
    assert claims.findings(table) == {
        "zeros, many, cost little": claims.Finding(
            "04", "zeros, many, cost little", "points", 14, 13, 1.5, 0.25
        )
    }
    assert claims.findings(tmp_path / "none.csv") == {}


floats = npst.arrays(
    np.float32,
    npst.array_shapes(min_dims=0, max_dims=3, max_side=5),
    elements=st.floats(-1e6, 1e6, width=32) | st.just(np.nan) | st.just(np.inf),
)


@given(floats, st.floats(0, 2), st.sampled_from([(1e-3, 0), (0, 1e-2), (1e-4, 1e-4)]), st.data())
def test_agreement_is_above_zero_where_numpy_finds_the_arrays_close(x, size, tolerances, data):
    rtol, atol = tolerances
    signs = data.draw(npst.arrays(np.float64, x.shape, elements=st.sampled_from([-1.0, 0.0, 1.0])))
    with np.errstate(invalid="ignore"):
        moved = np.where(np.isfinite(x), x + signs * size * (atol + rtol * np.abs(x)), x)
    margin = agreement(moved, x, rtol, atol)
    if abs(margin) > 1e-3:  # at the very border rounding decides
        assert (margin > 0) == np.allclose(
            moved, x.astype(np.float64), rtol=rtol, atol=atol, equal_nan=True
        )


def test_agreement_by_hand():
    assert agreement([1.0, 2.0], [1.0, 2.0], atol=1.0) == 1
    assert agreement([1.5, 2.0], [1.0, 2.0], atol=1.0) == 0.5
    assert agreement(torch.tensor([3.0], requires_grad=True), [1.0], atol=1.0) == -1
    assert agreement([], [], rtol=1e-3) == 1
    assert agreement([1.0], [1.0, 1.0], atol=1.0) == -math.inf
    assert agreement([math.nan], [1.0], atol=1.0) == -math.inf
    assert agreement([1.0], [0.0], rtol=1e-3) == -math.inf
    with pytest.raises(ValueError, match="rtol and atol must be >= 0 and one of them > 0"):
        agreement([1.0], [1.0])


@pytest.mark.parametrize("variable", [shorter.SEEDS, shorter.STEPS])
def test_in_a_lab_that_was_made_shorter_a_finding_stops_nothing(
    strict, monkeypatch, capsys, variable
):
    monkeypatch.setenv(variable, "1")
    claim("the sky is green", -1.0, "hues")
    assert capsys.readouterr().out.startswith("✘ not in so short a run: the sky is green")
