"""For everybody: headings in order, links that say where they lead, contrast, tables with headings.

After the checklist of the project Notebooks for All (STScI, 2023) and WCAG 2.2, as far as they can be read
off a file; what a browser shows is tested there.
"""

import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

from compresslab.classroom import result
from compresslab.classroom.exercises import EXERCISES
from compresslab.classroom.grading import learner_page
from compresslab.notice import EDGES, Notice
from compresslab.report import Table

ROOT = Path(__file__).parents[1]
FOLDERS = ("labs", "labs-zh", "light", "light-zh", "solutions")
NOTEBOOKS = [path for name in FOLDERS for path in sorted((ROOT / name).glob("*.ipynb"))]
LABS = [
    path for path in NOTEBOOKS if path.parent.name in ("labs", "labs-zh") and path.stem[0].isdigit()
]
GLOSSARY = (ROOT / "compresslab/classroom/terms.csv").read_text(encoding="utf-8")
NAMES = {
    *("ALBERT", "BERT", "GPT", "GPTQ", "VGG", "V2", "V3", "MNIST", "SST"),
    *("AMX", "ARM", "AVX2", "GPU", "NVIDIA", "VNNI", "XOR"),
    *("GELU", "GGUF", "ONNX", "GB", "KB", "MB", "NF4", "W4A4", "W8A8"),
    *("BA", "NP"),  # a product of two matrices; how hard a problem is
}
"""Of networks, data, instructions, makers, functions, files, units: they are looked up as they stand."""
SPEAK_FOR_THEMSELVES = ("## So far", "## 目前的进度")
LIGHT, DARK = "#FFFFFF", "#111111"
"""JupyterLab's pages."""


def words_of(path):
    """The Markdown of a notebook, without code."""
    cells = nbformat.read(path, as_version=4).cells
    text = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """WCAG 2.2, "contrast ratio"."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_is_wcags():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)


# ---- notebooks -----------------------------------------------------------------------------------
@pytest.fixture(params=NOTEBOOKS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def words(request):
    return words_of(request.param)


def test_a_notebook_has_one_title_and_leaves_out_no_level(words):
    levels = [len(found) for found in re.findall(r"^(#+) ", words, re.MULTILINE)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_a_link_says_where_it_leads(words):
    texts = re.findall(r"(?<!!)\[([^\]]*)\]\(", words)
    assert not {
        t for t in texts if t.strip().lower() in ("", "here", "link", "this", "click here", "这里")
    }


def test_a_picture_in_the_text_has_alternative_text(words):
    assert not re.findall(r"!\[\s*\]\(", words)
    assert not re.findall(r"<img(?![^>]*\balt=\"[^\"]+\")", words)


def test_a_table_in_the_text_has_headings(words):
    for table in re.findall(r"(?:^\|.*\|\s*$\n?)+", words, re.MULTILINE):
        first, rule = table.splitlines()[:2]
        assert re.fullmatch(r"\|[\s:|-]+\|\s*", rule), first
        # The corner may be empty, a column's heading not.
        assert all(cell.strip() for cell in first.strip().strip("|").split("|")[1:]), first


# The checklist's table of contents and dates are not in the text: JupyterLab and the site show the headings
# of a notebook beside it, and the repository knows when it was changed.
def test_a_notebook_says_after_its_title_what_it_is_for(words):
    title, _, rest = words.partition("\n")
    introduction = re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]
    assert title.startswith("# ")
    assert len(introduction.strip()) > 20


@pytest.mark.parametrize("path", LABS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_lab_says_beside_its_title_how_long_it_takes(path):
    first = nbformat.read(path, as_version=4).cells[0].source
    assert re.search(r"\*\*(Time:|时间：)\*\*", first)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_code_is_introduced_before_it_appears(path):
    """Behind a heading stands a sentence, then code."""
    heading = ""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not heading
        else:
            last = cell.source.strip().rpartition("\n\n")[2]
            alone = last.startswith("#") and "\n" not in last
            heading = last if alone and last not in SPEAK_FOR_THEMSELVES else ""


@pytest.mark.parametrize("path", LABS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_what_is_abbreviated_is_in_the_glossary_or_spelled_out(path):
    text = re.split(r"\*\*(?:References|参考文献)", words_of(path))[0]
    text = re.sub(r"\$\$.*?\$\$|\$[^$]+\$|\]\([^)]*\)", "", text, flags=re.DOTALL)
    short = {word.rstrip("s") for word in re.findall(r"(?<![-\w])[A-Z][A-Z0-9]+s?(?![-\w])", text)}
    in_glossary = set(re.findall(r"[A-Z][A-Z0-9]+", GLOSSARY))
    # "FLOPs (floating-point operations)", "the multilayer perceptron (MLP)", "compressed sparse rows, CSR"
    spelled = {
        word for word in short if re.search(rf"\b{word}s?\*? ?[(（]|[(（,，] ?\*?{word}\b", text)
    }
    assert short - in_glossary - NAMES - spelled == set()


# ---- what the course draws -----------------------------------------------------------------------
EDGED = {**EDGES, **result.COLOURS, "failed": result.FAILED}


@pytest.mark.parametrize("page", [LIGHT, DARK])
@pytest.mark.parametrize("colour", EDGED.values(), ids=EDGED)
def test_the_edge_of_a_box_is_seen_on_a_page(colour, page):
    assert contrast(colour, page) >= 3


@pytest.mark.parametrize("colour", [*learner_page.STATES.values(), learner_page.OTHERWISE])
def test_coloured_words_of_a_feedback_page_can_be_read(colour):
    assert contrast(colour, LIGHT) >= 4.5


@pytest.mark.parametrize("kind", EDGES)
def test_words_in_a_box_have_the_pages_own_colour(kind):
    assert not re.search(
        r"(?<![-\w])(?:color|background)\s*:", Notice("It holds", kind)._repr_html_()
    )


def test_a_check_has_the_pages_own_colour_and_names_its_rows():
    facts = (("case", "12"), ("got", "3"))
    exercise = next(iter(EXERCISES.values()))
    page = result.CheckResult(exercise, "failed", facts, hint="Look again.")._repr_html_()
    assert not re.search(r"(?<![-\w])(?:color|background)\s*:", page)
    assert page.count("<th scope='row'") == len(facts)


def test_a_table_names_its_rows_and_columns():
    page = Table(["network", "bytes", "ms"], [["a", "1", "2"], ["b", "3", "4"]])._repr_html_()
    assert page.count("<th scope=col") == 3
    assert page.count("<th scope=row") == 2
    assert page.count("<td") == 4
    assert re.search("<thead>.*</thead><tbody>.*</tbody>", page)
