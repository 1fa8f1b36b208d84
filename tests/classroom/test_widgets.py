"""Sliders draw again when they move; predictions answer according to the choice."""

import pytest

from compresslab.classroom import predict
from compresslab.classroom.widgets import explore


def test_moving_a_control_draws_again_with_its_value(monkeypatch):
    drawn, shown = [], []
    monkeypatch.setattr("compresslab.classroom.widgets.display", shown.append)
    explore(lambda bits, method: drawn.append((bits, method)), bits=(1, 8), method=["a", "b"])
    slider, menu = shown[0].children[:2]
    shown[0].update()
    slider.value = 3
    menu.value = "b"
    assert (3, "a") in drawn
    assert drawn[-1] == (3, "b")


@pytest.mark.parametrize(
    "choice,words",
    [(None, "made no prediction"), ("a", "as you predicted"), ("b", "You predicted: b")],
)
def test_a_prediction_is_held_against_the_measurement(choice, words, capsys):
    prediction = predict("Which?", ["a", "b"])
    prediction.radio.value = choice
    capsys.readouterr()
    prediction.reveal("a")
    out = capsys.readouterr().out
    assert "The answer: a" in out
    assert words in out


def test_an_answer_outside_the_choices_is_an_error():
    with pytest.raises(ValueError, match="answer must be one of"):
        predict("Which?", ["a", "b"]).reveal("c")
