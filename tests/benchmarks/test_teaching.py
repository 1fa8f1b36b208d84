"""The instructor's pages say what the labs, the exercises and the questions say."""

import re

import pytest

from benchmarks import teaching
from compresslab.classroom.exercises import EXERCISES, LABS


@pytest.mark.parametrize("path", teaching.pages(), ids=lambda p: p.name)
def test_the_pages_are_those_of_their_sources(path):
    assert path.read_text(encoding="utf-8") == teaching.pages()[path], (
        "run python -m benchmarks.teaching"
    )


def test_every_lab_has_a_guide_and_every_heading_that_is_named_is_there():
    guides = teaching.guides()
    assert sorted(guides) == sorted(name[:2] for name in LABS)
    for name in LABS:
        headings = re.findall(r"^# ## (.+)$", teaching.text_of(name), re.MULTILINE)
        for stop in guides[name[:2]]["stop"]:
            assert stop["at"] in headings, f"{name}: {stop['at']}"
            assert stop["ask"].endswith(("?", "."))
        assert len(guides[name[:2]]["stop"]) >= 2


def test_every_exercise_stands_in_the_guides_with_its_mistakes():
    text = teaching.labs_page()
    for e in EXERCISES.values():
        assert e.title in text
        assert all(m.name in text for m in e.mistakes)


def test_the_test_has_twenty_questions_in_two_forms_of_four_choices():
    found = teaching.questions()
    assert len(found) == 20
    for question in found:
        assert question["lab"] in {name[:2] for name in LABS}
        for form in teaching.FORMS:
            asked = question[form]
            assert len(set(asked["choices"])) == 4, asked["ask"]
        assert question["a"]["ask"] != question["b"]["ask"]


def test_no_letter_is_right_too_often_and_the_page_does_not_tell():
    letters = []
    for number, question in enumerate(teaching.questions(), 1):
        for form in teaching.FORMS:
            choices = question[form]["choices"]
            letters.append(teaching.shuffled(choices, number, form).index(choices[0]))
    assert max(map(letters.count, range(4))) <= 16
    assert "why" not in teaching.questions_page()
    for question in teaching.questions():
        assert question["why"] not in teaching.questions_page()
        assert question["why"] in teaching.questions_page(answers=True)


def test_answers_that_can_be_computed_are_right():
    """By hand once more, from the formulas of the labs."""
    asked = {q[form]["ask"]: q[form]["choices"][0] for q in teaching.questions() for form in "ab"}

    def answer(part):
        (found,) = [right for ask, right in asked.items() if part in ask]
        return found

    assert answer("512 inputs and 256") == f"{512 * 256:,}"
    assert answer("16 input and 32 output") == f"{9 * 16 * 32 * 64:,}"
    assert answer("writes one token") == f"{1000 // 20} ms"
    assert float(answer("from -1 to 1")) == round(2 / 254, 4)
    assert float(answer("from 0 to 6")) == round(6 / 255, 4)
    assert answer("20 dB") == f"{20 + 2 * 6} dB"
    assert answer("a bit for each of 1,000,000") == f"{125 + 400} kB"
    rank = int(answer("100 by 300"))
    assert rank * 400 < 30_000 <= (rank + 1) * 400
    assert answer("LoRA of rank 8") == f"{8 * 2048:,}"
    assert int(answer("from 64 to 64")) == round(9 * 64 / (9 + 64))
    assert int(answer("64 signs agree in 40")) == 40 - 24
    assert int(answer("product of 128 signs is 0")) == 64
    assert float(answer("groups of 32 with a float16")) == 4 + 16 / 32


def test_references_become_links_and_keep_their_words():
    text = (
        "# **References.** A 2015, *B*, arXiv:1409.1556 · C 2009,\n"
        "# doi:10.1145/1498765.1498785 · D\n\n# no"
    )
    assert teaching.references(text) == (
        "A 2015, *B*, [arXiv:1409.1556](https://arxiv.org/abs/1409.1556) · C 2009, "
        "[doi:10.1145/1498765.1498785](https://doi.org/10.1145/1498765.1498785) · D"
    )


def test_a_lab_without_references_is_refused():
    with pytest.raises(ValueError, match="References"):
        teaching.references("# nothing\n")
