"""One line for a cell, which a saved notebook keeps; tqdm's bar in a terminal."""

import textwrap
import threading

import nbformat
import pytest

from compresslab import progress_bar
from compresslab.classroom.release import client_of
from compresslab.progress_bar import CLASS, Bar, track


def outputs_of(tmp_path, *cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    client_of(notebook, tmp_path, 120).execute()
    return [cell.outputs for cell in notebook.cells]


def test_a_cell_that_trains_twice_keeps_one_line_and_no_widget(tmp_path):
    training = """
        from compresslab import models
        from compresslab.data import load
        from compresslab.experiment import built, fit_all
        from compresslab.training import fit
        data = load("digits", train_size=256)
        for _ in range(2):
            networks = built(lambda: models.MLP(data.shape, 10, (8,)), (0, 1))
            fit_all(networks, data.train, 1, 0.1, seeds=(0, 1), label="small")
        fit(networks[0], data.train, 1, 0.1)
        """
    first, second = outputs_of(
        tmp_path,
        textwrap.dedent(training),
        "from compresslab.progress_bar import track\nfor _ in track(range(3), 'again'): pass",
    )
    for outputs, words in ((first, "10 steps in "), (second, "3 steps in ")):
        shown = [o for o in outputs if o.output_type == "display_data"]
        assert len(shown) == 1
        assert CLASS in shown[0].data["text/html"]
        assert shown[0].data["text/plain"].startswith(words)
        assert "widget" not in str(outputs)


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


class Handle:
    def __init__(self):
        self.shown = []

    def update(self, value):
        self.shown.append(repr(value))


@pytest.fixture
def line(monkeypatch):
    line = progress_bar._Line(Handle())
    monkeypatch.setattr(progress_bar, "_line_of_this_cell", lambda: line)
    return line


def test_it_says_which_of_how_many_and_how_long(line, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress_bar.time, "perf_counter", clock.perf_counter)
    with Bar(24, "VGG-like", "network") as bar:
        for _ in range(7):
            clock.now += 2
            bar.advance()
    assert line.handle.shown[-2] == "network 8 of 24 · VGG-like · about 34 s left"
    assert line.handle.shown[-1] == "7 networks in 14 s"
    with Bar(0, "unknown") as bar:
        clock.now += 200
        bar.advance()
    assert line.handle.shown[-2] == "step 2 · unknown"
    assert line.handle.shown[-1] == "7 networks, 1 step in 4 minutes"


def test_updates_are_at_most_one_a_second(line, monkeypatch):
    clock = Clock()
    clock.now = 100.0
    monkeypatch.setattr(progress_bar.time, "perf_counter", clock.perf_counter)
    with Bar(1000, "fast") as bar:
        for _ in range(1000):
            clock.now += 0.01
            bar.advance()
    assert len(line.handle.shown) <= 12


def test_threads_may_advance_it(line):
    with Bar(4000, "threads") as bar:
        threads = [
            threading.Thread(target=lambda: [bar.advance() for _ in range(1000)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert bar.done == 4000


def test_a_label_is_text_not_html(line):
    with Bar(1, "<b>") as bar:
        bar.advance()
    assert "&lt;b&gt;" in progress_bar._Html("<b>")._repr_html_()


def test_in_a_terminal_it_is_tqdms_and_nothing_without_a_label(capsys):
    assert list(track(range(3), "counting")) == [0, 1, 2]
    assert "counting" in capsys.readouterr().err
    assert list(track(range(3), "")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_an_error_inside_closes_it(line):
    def broken():
        with Bar(3, "broken") as bar:
            bar.advance()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert line.handle.shown[-1].startswith("1 step in")
