"""A sentence is text everywhere, and in a notebook a box that shows it as it is."""

import nbformat
import pytest

from compresslab.classroom.release import client_of
from compresslab.notice import EDGES, Notice, marked, tell


@pytest.mark.parametrize("kind", EDGES)
def test_it_is_printed_word_for_word_outside_of_a_notebook(kind, capsys):
    tell("3 < 4 & so on", kind)
    assert capsys.readouterr().out == "3 < 4 & so on\n"


def test_in_a_notebook_it_is_a_box_and_the_words(tmp_path):
    code = "from compresslab.claims import claim\nclaim('3 < 4 & so on', True)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    client_of(notebook, tmp_path, 120).execute()
    (output,) = notebook.cells[0].outputs
    assert output.data["text/plain"] == "✔ 3 < 4 & so on"
    assert "3 &lt; 4 &amp; so on" in output.data["text/html"]
    assert EDGES["held"] in output.data["text/html"]


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind must be one of held, open, answer, note, got 'x'"):
        Notice("words", "x")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("Use `rank`, *not* shape", "Use <code>rank</code>, <em>not</em> shape"),
        ("**Both** of 2 * 3 * 4", "<b>Both</b> of 2 * 3 * 4"),
        ("(q - z) * s and a*b*c", "(q - z) * s and a*b*c"),
        ("x < `y` & z", "x &lt; <code>y</code> &amp; z"),
        ("`<script>` *", "<code>&lt;script&gt;</code> *"),
        ("是**先**舍入", "是<b>先</b>舍入"),
    ],
)
def test_code_and_emphasis_are_shown_as_such(words, shown):
    assert marked(words) == shown
