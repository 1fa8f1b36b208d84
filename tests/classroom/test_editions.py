"""The Chinese edition: complete, faithful, up to date, and the same lab but for its Markdown."""

import shutil
from pathlib import Path

import nbformat
import polib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compresslab.classroom import catalogue, editions, faithful
from compresslab.classroom.glossary import read_terms
from compresslab.classroom.messages import as_message, blocks, has_words, of_code, of_markdown
from compresslab.language import CHINESE, LOCALE

ROOT = Path(__file__).parents[2]
SOLUTIONS = ROOT / "solutions"
SCRIPTS = sorted(SOLUTIONS.glob("[0-9][0-9]_*.py"))
CATALOGUES = sorted((LOCALE / CHINESE).rglob("*.po"))
OTHERWISE = {
    "10_binarization": {"popcount"},  # a function's name in a formula
    "00_measure_first": {"multiply-accumulate (MAC)"},  # one of them, not their number
    "02_post_training_quantization": {"folding"},  # the verb
    "11_llm_weights": {"scale"},  # the name of a variable
    "glossary": {"scale"},  # the verb
}
"""Terms that stand for something else in a page."""


def name(path):
    return path.stem


# ---- complete and up to date ---------------------------------------------------------------------
def test_no_message_is_stale():
    found = catalogue.stale(SOLUTIONS, CHINESE)
    assert not found, "run `make release`, and translate what is new"


def test_no_message_is_missing():
    assert not catalogue.missing(SOLUTIONS, CHINESE)


def test_a_changed_sentence_loses_its_translation_and_no_other_does(tmp_path):
    solutions, locale = tmp_path / "solutions", tmp_path / "locale"
    solutions.mkdir()
    page = "# %% [markdown]\n# One sentence.\n#\n# Another one.\n"
    (solutions / "00_first.py").write_text(page, encoding="utf-8")
    catalogue.update(solutions, CHINESE, locale)
    path = locale / CHINESE / "labs" / "00_first.po"
    file = polib.pofile(str(path))
    for entry in file:
        entry.msgstr = "译文"
    file.save(str(path))
    (solutions / "00_first.py").write_text(page.replace("Another", "A third"), encoding="utf-8")
    assert catalogue.update(solutions, CHINESE, locale)[0] == path
    assert {e.msgid: e.msgstr for e in polib.pofile(str(path))} == {
        "One sentence.": "译文",
        "A third one.": "",
    }
    assert catalogue.missing(solutions, CHINESE, locale)["labs/00_first.po"] == ["A third one."]
    assert catalogue.update(solutions, CHINESE, locale) == []


# ---- faithful ------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", CATALOGUES, ids=name)
def test_what_is_not_words_is_the_same(path):
    for entry in polib.pofile(str(path)):
        found = faithful.flaws(entry.msgid, entry.msgstr, catalogue.TEMPLATE in entry.flags)
        assert not found, f"{entry.msgid!r}: {found}"


@pytest.mark.parametrize("path", CATALOGUES, ids=name)
def test_the_glossarys_terms_are_used(path):
    terms = read_terms()
    for entry in polib.pofile(str(path)):
        if entry.comment != "text" or entry.msgid.startswith("**References"):
            continue
        found = faithful.terms_missing(entry.msgid, entry.msgstr, terms)
        assert {f.split(":")[0] for f in found} <= OTHERWISE.get(path.stem, set()), entry.msgid


@pytest.mark.parametrize(
    ("message", "translation", "flaw"),
    [
        ("Cut `rank` columns.", "截取 `k` 列。", "code spans"),
        ("Of $V$.", "属于 $U$。", "formulas"),
        ("See [lab](a.ipynb).", "见[实验](b.ipynb)。", "links"),
        ("<b>Bold</b>", "粗体", "tags"),
        ("## A heading", "# 标题", "headings"),
        ("- one\n- two", "- 一，二", "list items"),
        ("| a | b |\n|---|---|", "| 甲 |\n|---|", "cells"),
        ("A sentence of many words, which is no name.", "A sentence of many words.", "no Chinese"),
        ("One, two", "一,二", "punctuation"),
        ("**Predict.** How?", "**预测。**如何？", "emphasis"),
    ],
)
def test_each_flaw_is_found(message, translation, flaw):
    found = faithful.flaws(message, translation)
    assert len(found) == 1
    assert flaw in found[0]


def test_values_must_be_the_same():
    assert faithful.flaws("{a} of {b}", "{b} 中的 {a}", values=True) == []
    assert "values" in faithful.flaws("{a} of {b}", "{a}，共", values=True)[0]
    assert "unreadable" in faithful.flaws("{a}", "{a 个", values=True)[0]


def test_a_longer_term_covers_the_shorter_one():
    terms = [t for t in read_terms() if t.english in ("pruning", "structured pruning")]
    assert len(terms) == 2
    assert faithful.terms_missing("structured pruning", "结构化剪枝", terms) == []
    assert faithful.terms_missing("pruning", "修剪", terms) == ["pruning: 剪枝"]


# ---- the same lab --------------------------------------------------------------------------------
@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_a_lab_differs_in_its_markdown_alone(script):
    english = nbformat.read(ROOT / "labs" / f"{script.stem}.ipynb", 4).cells
    chinese = nbformat.read(ROOT / "labs-zh" / f"{script.stem}.ipynb", 4).cells
    assert [c.id for c in english] == [c.id for c in chinese]
    for one, other in zip(english, chinese, strict=True):
        assert one.metadata == other.metadata
        if one.cell_type == "code":
            assert one.source == other.source
        elif has_words(one.source):
            assert one.source != other.source


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_it_is_what_a_release_writes(script):
    words = catalogue.words_of(LOCALE / CHINESE / "labs" / f"{script.stem}.po")
    committed = (ROOT / "labs-zh" / f"{script.stem}.ipynb").read_text(encoding="utf-8")
    assert committed == nbformat.writes(editions.lab_in(script, words)) + "\n"


def test_the_chinese_readme_is_the_english_one():
    words = catalogue.words_of(LOCALE / CHINESE / "readme.po")
    text = catalogue.markdown_in((ROOT / "README.md").read_text(encoding="utf-8"), words)
    committed = (ROOT / "README.zh.md").read_text(encoding="utf-8")
    assert committed == text.replace("](labs/", "](labs-zh/") + "\n"


def test_a_submission_of_the_chinese_lab_is_graded_as_any(tmp_path):
    from compresslab.classroom.grading.grade import grade_notebook

    lab = tmp_path / "zoe.ipynb"
    shutil.copy(ROOT / "labs-zh" / "07_slim_by_design.ipynb", lab)
    marks = grade_notebook(lab, "zoe", "07", seed=1)
    english = grade_notebook(ROOT / "labs" / "07_slim_by_design.ipynb", "zoe", "07", seed=1)
    assert [(m.exercise, m.status, m.points) for m in marks] == [
        (m.exercise, m.status, m.points) for m in english
    ]


# ---- messages ------------------------------------------------------------------------------------
@given(
    parts=st.lists(
        st.sampled_from(
            ["A line\nand one.", "- a\n- b", "```python\n\nx = 1\n```", "$$\n\nx\n$$", "## H"]
        ),
        max_size=6,
    )
)
def test_blocks_put_together_are_the_page(parts):
    page = "\n\n".join(parts)
    assert blocks(page) == parts
    assert "\n\n".join(blocks(page)) == page


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_a_page_without_translations_stays_english(script):
    import jupytext

    for cell in jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent").cells:
        if cell.cell_type == "markdown":
            said = catalogue.markdown_in(cell.source, {})
            assert [*map(as_message, blocks(said))] == [*map(as_message, blocks(cell.source))]


def test_wrapping_a_paragraph_anew_changes_no_message():
    assert of_markdown("One\nsentence.\n\n- an ab\n- cd") == ["One sentence.", "- an ab\n- cd"]
    assert of_markdown("$x$ and\n$y$ too") == ["$x$ and $y$ too"]
    assert of_markdown("</details>\n\n$$x$$\n\n```python\nwords in code\n```") == []


def test_texts_are_found_where_they_are_shown():
    code = (
        'claim("It holds", a > b)\n'
        'axes.set(xlabel="rank", xscale="log")\n'
        'print(f"{n} seeds of {len(x)}")\n'
        'kind = "word"\n'
        'raise ValueError("an error of the library")\n'
        'print("By all: " + ", ".join(names))\n'
    )
    assert [(m.text, m.values) for m in of_code(code)] == [
        ("It holds", False),
        ("rank", False),
        ("{n} seeds of {value}", True),
        ("By all: {value}", True),
    ]
