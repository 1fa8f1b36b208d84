"""The pages of `compresslab feedback` and `written` in a browser: whole, readable, narrow too, and inert."""

from pathlib import Path

import pytest

from compresslab.classroom.exercises import EXERCISES
from compresslab.classroom.grading import feedback, written
from compresslab.classroom.grading.grade import exercises_of
from compresslab.classroom.grading.mark import Mark
from compresslab.classroom.grading.results import Results

ROOT = Path(__file__).parents[2]
LAB = "12_capstone"
EVIL = (
    "<script>document.title = 'gone'</script><img src=x onerror=\"document.title = 'gone'\">"
    "<a href=\"javascript:document.title='gone'\">x</a>\u202e" + "long" * 200
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A class of two, one of whom attacks with everything that a page shows."""
    out = tmp_path_factory.mktemp("feedback")
    marks = []
    for learner, words in (("Ada", "got 3"), (f"eve {EVIL}"[:150], EVIL)):
        for e in exercises_of(LAB):
            mistake = EXERCISES[e.id].mistakes[0].name
            mark = Mark(learner, e.id, 0.5, e.points, mistake, "failed", words)
            marks.append(mark)
    results = Results(LAB, 7, tuple(marks))
    asked = written.questions(ROOT / "labs" / f"{LAB}.ipynb")
    rubrics = written.read_rubrics(ROOT / "solutions" / "written.toml")
    (id,) = asked
    answers = [
        written.WrittenAnswer(w, id, t, None, 2, asked=asked[id][0])
        for w, t in (("Ada", "Prune first."), (f"eve {EVIL}"[:150], EVIL))
    ]
    written.write_pages(answers, asked, out / "written", rubrics)
    feedback.write_feedback(results, out, written.read_folder(out / "written"))
    return sorted(out.rglob("*.html"))


@pytest.mark.attack("pages")
@pytest.mark.parametrize("width", [1300, 390])
def test_every_page_is_readable_and_runs_nothing(pages, page, width):
    said, outside = [], []
    page.on("dialog", lambda d: said.append(d.message))
    page.on("request", lambda r: outside.append(r.url) if not r.url.startswith("file:") else None)
    page.set_viewport_size({"width": width, "height": 900})
    assert len(pages) >= 4
    for path in pages:
        page.goto(path.as_uri())
        page.wait_for_timeout(100)
        assert page.title() != "gone", path.name
        assert page.locator("h1").first.is_visible()
        assert page.locator("script, img, a").count() == 0
        # Nothing is wider than the window: no word is cut off, nobody scrolls sideways.
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 1, f"{path.name} is {wide} pixels too wide at {width}"
    assert (said, outside) == ([], [])


def test_a_learners_page_says_points_hints_and_what_is_still_to_be_marked(pages, page):
    ada = next(path for path in pages if path.name.startswith("Ada"))
    page.goto(ada.as_uri())
    text = page.inner_text("body")
    assert "Hint." in text
    assert "__ of 2 points" in text
    assert "A quarter of the points each" in text
