"""A prediction is locked in, kept with the progress, asked for once, and held against the measurement."""

import json
import os
from queue import Empty

import jupyter_client
import pytest

from compresslab.claims import STRICT
from compresslab.classroom import predict, progress


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    path = tmp_path / "progress.json"
    monkeypatch.setenv("COMPRESSLAB_PROGRESS", str(path))
    return path


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


def test_what_is_locked_in_cannot_be_changed_and_is_there_the_next_time(kept):
    first = predict("Which?", ["a", "b"])
    assert first.button.disabled
    first.radio.value = "b"
    assert not first.locked
    assert not first.button.disabled
    first.button.click()
    assert first.locked
    assert "Locked in: b" in first.state.value
    assert json.loads(kept.read_text(encoding="utf-8"))["predictions"] == {"Which?": "b"}
    again = predict("Which?", ["a", "b"])
    assert again.locked
    assert again.choice == "b"
    assert "Locked in: b" in again.state.value


def test_what_is_locked_in_stands_in_the_still_picture():
    prediction, drawn = predict("Which?", ["a", "b"]), []
    prediction.redraw = drawn.append
    prediction.radio.value = "b"
    assert drawn == []
    prediction.lock()
    assert len(drawn) == 1
    assert "Locked in: b" in drawn[0]


def test_what_was_chosen_stands_once_the_answer_is_known():
    prediction = predict("Which?", ["a", "b"])
    prediction.radio.value = "b"
    prediction.reveal("a")
    assert prediction.locked
    assert progress.predicted("Which?") == "b"


def test_a_choice_that_there_is_no_longer_is_forgotten():
    progress.predict("Which?", "c")
    prediction = predict("Which?", ["a", "b"])
    assert prediction.choice is None
    assert not prediction.locked


def test_predictions_stand_beside_the_exercises(kept):
    progress.predict("Which?", "b")
    progress.record("measuring.linear_macs", "passed", None, 1)
    assert progress.predicted("Which?") == "b"
    assert progress.read()["measuring.linear_macs"]["passed"]
    assert progress.summary().rows
    kept.write_text('{"predictions": {"Which?": 3}}', encoding="utf-8")
    assert progress.predicted("Which?") is None


def test_choices_with_signs_of_html_are_shown_as_they_are():
    prediction = predict("Which?", ["<b>a</b>", "c"])
    prediction.radio.value = "<b>a</b>"
    prediction.lock()
    assert "&lt;b&gt;a" in prediction.state.value
    assert "<li>&lt;b&gt;a" in prediction.still()


# ---- the first cell behind a question -------------------------------------------------------------
ASK = "from compresslab.classroom import predict\nguess = predict('Which?', ['a', 'b'])"
EXPERIMENT = "done = True\nprint('measured')\nguess.reveal('a')"


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A kernel without our variables, for all tests."""
    scratch = str(tmp_path_factory.mktemp("kernel") / "progress.json")
    own = {k: v for k, v in os.environ.items() if k != STRICT} | {"COMPRESSLAB_PROGRESS": scratch}
    manager, client = jupyter_client.manager.start_new_kernel(env=own)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(started):
    """Runs a cell as JupyterLab does, `after` seconds after the one before; returns what it shows."""
    client = started

    def run(code, after=0.0, metadata=None):
        if after:
            client.execute(f"import time; time.sleep({after})", silent=True)
        message = client.session.msg(
            "execute_request",
            {"code": code, "silent": False, "store_history": True, "stop_on_error": True},
            metadata={"cellId": "x"} if metadata is None else metadata,
        )
        client.shell_channel.send(message)
        return shown(client, message["header"]["msg_id"])

    forget = "import os, pathlib\npathlib.Path(os.environ['COMPRESSLAB_PROGRESS']).unlink(missing_ok=True)\n"
    run(f"%reset -f\n{forget}os.environ.pop({STRICT!r}, None)\n{ASK}")
    return run


def shown(client, id):
    text = ""
    while True:
        try:
            message = client.get_iopub_msg(timeout=60)
        except Empty:
            raise AssertionError("the kernel does not answer") from None
        if message["parent_header"].get("msg_id") != id:
            continue
        content = message["content"]
        if content.get("execution_state") == "idle":
            return text
        text += content.get("text", "") + content.get("data", {}).get("text/plain", "")
        text += content.get("evalue", "")


def test_an_experiment_is_not_run_before_a_person_has_predicted_and_the_second_time_it_is(kernel):
    first = kernel(EXPERIMENT, after=2)
    assert "Predict first: Which?" in first
    assert "measured" not in first
    assert "'done' is not defined" in kernel("done")
    assert "measured" in kernel(EXPERIMENT, after=2)


def test_in_a_run_of_all_cells_nobody_is_asked(kernel):
    assert "measured" in kernel(EXPERIMENT)


def test_a_program_that_runs_the_notebook_is_not_asked(kernel):
    assert "measured" in kernel(EXPERIMENT, after=2, metadata={})


def test_who_has_chosen_is_not_asked(kernel):
    kernel("guess.radio.value = 'b'")
    said = kernel(EXPERIMENT, after=2)
    assert "measured" in said
    assert "You predicted: b" in said


def test_definitions_and_checks_between_question_and_experiment_are_run(kernel):
    assert "Predict first" not in kernel("def f():\n    return 1\nimport math", after=2)
    assert "Predict first" not in kernel("check = print\ncheck('x')", after=2)
    assert "Predict first" in kernel(EXPERIMENT, after=2)


def test_releases_and_tests_are_never_asked(kernel):
    kernel(f"import os; os.environ[{STRICT!r}] = '1'")
    assert "measured" in kernel(EXPERIMENT, after=2)


def test_a_question_that_was_run_twice_is_asked_once(kernel):
    kernel(ASK)
    assert kernel(EXPERIMENT, after=2).count("Predict first") == 1
