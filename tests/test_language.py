"""What a learner reads, in Chinese: sentences, values in them, plots, and what chooses the language."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compresslab import claims, language, shown_words
from compresslab.classroom import check, predict
from compresslab.classroom.exercises import EXERCISES
from compresslab.language import CHINESE, catalogue, chosen, has_words, pattern_of, translated
from compresslab.report import Table


@pytest.fixture
def chinese(monkeypatch):
    monkeypatch.setenv(language.VARIABLE, CHINESE)


def han(text):
    return any("\u4e00" <= sign <= "\u9fff" for sign in text)


# ---- which language ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("variable", "folder", "locale", "language_chosen"),
    [
        ("", "labs", "C.UTF-8", "en"),
        ("", "labs", "zh_CN.UTF-8", "zh"),
        ("", "labs-zh", "en_GB.UTF-8", "zh"),
        ("en", "labs-zh", "zh_CN.UTF-8", "en"),
        ("zh", "labs", "en_GB.UTF-8", "zh"),
    ],
)
def test_a_variable_comes_before_the_folder_and_that_before_the_locale(
    variable, folder, locale, language_chosen, monkeypatch, tmp_path
):
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", locale)
    monkeypatch.setenv(language.VARIABLE, variable)
    assert chosen() == language_chosen


def test_a_language_that_there_is_not_is_refused_by_name(monkeypatch):
    monkeypatch.setenv(language.VARIABLE, "fr")
    with pytest.raises(ValueError, match=r"COMPRESSLAB_LANG must be one of en, zh, got 'fr'"):
        translated("layer")


# ---- sentences -----------------------------------------------------------------------------------
@given(text=st.text())
def test_english_is_left_as_it_is(text):
    assert translated(text, "en") == text


@given(text=st.text(st.characters(exclude_categories=["L"])))
def test_what_has_no_words_is_left_as_it_is(text):
    assert translated(text, CHINESE) == text


@given(text=st.text(alphabet="abz :;,.{}()%\n·é漢1", max_size=40))
def test_any_text_is_answered(text):
    assert isinstance(translated(text, CHINESE), str)


@given(
    values=st.lists(
        st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), max_size=9),
        min_size=2,
        max_size=2,
    )
)
def test_a_message_finds_its_values_again(values):
    one, two = values
    pattern = pattern_of("expected {{x}} ({one}), got {two}")
    found = pattern.fullmatch(f"expected {{x}} ({one}), got {two}")
    assert found
    assert "expected {{x}} ({one}), got {two}".format(**found.groupdict()) == found.string


def test_values_are_translated_in_their_turn(chinese):
    said = translated("value 2 of 3: expected an integer, got float")
    assert han(said)
    assert not {"value", "expected", "integer", "got"} & set(said.split())


def test_a_sentence_that_nobody_knows_stays_whole(chinese):
    """It may fit a message by chance, "{one} of {all}" above all, and must not come out half translated."""
    text = "This sentence of mine is known to no catalogue, and it is a list of many words"
    assert translated(text) == text


def test_space_around_a_text_is_kept(chinese):
    said = translated("  layer\n")
    assert said.startswith("  ")
    assert said.endswith("\n")
    assert han(said)


def test_the_notebooks_own_lab_comes_first():
    both = {
        n: catalogue(CHINESE, n).plain["the same"]
        for n in ("07_slim_by_design", "13_real_networks")
    }
    assert len(set(both.values())) == 2


# ---- where it is shown ---------------------------------------------------------------------------
def unfinished(weight, rank):
    raise NotImplementedError("not done yet")


def test_a_check_speaks_chinese(chinese, monkeypatch, tmp_path):
    monkeypatch.setenv("COMPRESSLAB_PROGRESS", str(tmp_path / "progress.json"))
    exercise = EXERCISES["low_rank.svd_factors"]
    wrong = exercise.mistakes[0].forms[0]
    for function in (exercise.mistakes[0].forms[0], unfinished, lambda w, k: 1 / 0):
        result = check(function, exercise.id)
        lines = str(result).splitlines()
        assert len(lines) > 1
        code = ("ZeroDivisionError", "  weight: ", "  rank: ")  # the error, the arguments' names
        assert all(han(line) for line in lines if not any(c in line for c in code)), lines
    hint = check(wrong, exercise.id)
    assert hint.mistake == exercise.mistakes[0].name, "records stay in one language"
    assert "提示" in hint._repr_html_()
    assert "Hint" not in hint._repr_html_()


def test_the_names_of_arguments_are_code(chinese, monkeypatch, tmp_path):
    monkeypatch.setenv("COMPRESSLAB_PROGRESS", str(tmp_path / "progress.json"))
    assert han(translated("share"))
    shown = str(check(lambda values, share: 0, "low_rank.rank_for_energy"))
    assert "  share: " in shown


@pytest.mark.parametrize("id", sorted(EXERCISES))
def test_every_hint_and_title_has_its_chinese(id, chinese):
    exercise = EXERCISES[id]
    assert han(translated(exercise.title))
    for mistake in exercise.mistakes:
        assert han(translated(mistake.hint)), mistake.hint
    if exercise.medals:
        assert han(translated(exercise.medals.unit))


def test_claims_tables_and_predictions_speak_chinese(chinese, capsys):
    sentence = "100,000 overflows fp16 and not bf16"
    claims.claim(sentence, True)
    claims.claim("8 bits cost less than 0.3 points", -0.2, "points")
    told = capsys.readouterr().out.splitlines()
    assert all(han(line) for line in told)
    assert "8 bits cost" not in told[1]
    shown = Table(["layer", "bits"], [["layer", "4"]], "test accuracy, %")
    assert str(shown).count("层") == 2
    assert "layer" not in shown._repr_html_()
    question = predict("Rank 8?", ["less than 1 point", "more than 10 points"])
    assert all(han(label) for label, _ in question.radio.options)
    question.radio.value = "less than 1 point"
    capsys.readouterr()
    question.reveal("less than 1 point")
    assert "less" not in capsys.readouterr().out


def test_a_table_of_numbers_keeps_them(chinese):
    shown = Table(["layer", "numbers"], [["x", "1,024"], ["y", "97.4 ± 0.1"]])
    assert "1,024" in str(shown)
    assert "97.4 ± 0.1" in str(shown)


# ---- plots and print -----------------------------------------------------------------------------
def test_plots_stay_english_without_a_font(chinese, monkeypatch):
    monkeypatch.setattr(shown_words, "chinese_font", lambda: None)
    shown_words.speak()
    axes = plt.figure().add_subplot(title="test accuracy, %")
    assert axes.get_title() == "test accuracy, %"


def test_plots_speak_chinese_with_one(chinese, monkeypatch):
    monkeypatch.setattr(shown_words, "chinese_font", lambda: "Noto Sans CJK SC")
    monkeypatch.setitem(plt.rcParams, "font.family", ["sans-serif"])
    monkeypatch.setattr("matplotlib.text.Text.set_text", shown_words._plain)
    shown_words.speak()
    assert plt.rcParams["font.family"][-1] == "Noto Sans CJK SC"
    figure, axes = plt.subplots()
    axes.plot([0, 1], np.zeros(2), label="dense, longer")
    axes.set_title("test accuracy, %")
    legend = axes.legend()
    assert han(axes.get_title())
    assert han(legend.get_texts()[0].get_text())
    plt.close(figure)


def test_print_is_spoken_for(chinese, capsys):
    shown_words.say("At 3 bits:", 4, "unknown words", sep="|")
    assert capsys.readouterr().out == "3 位时：|4|unknown words\n"


def test_words_are_two_letters():
    assert [has_words(t) for t in ("", "a 1 b", "µ", "ab", "4.0 ms")] == [
        False,
        False,
        False,
        True,
        True,
    ]
