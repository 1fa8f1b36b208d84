"""The built site in a browser: nothing is wider than the screen, all words can be read, nothing is asked for.

`make site` runs this when it has built the pages; without them there is nothing to look at.
"""

import re
from pathlib import Path

import pytest

from tests.browser.test_contrast import TEXTS

SITE = Path(__file__).parents[2] / "site"
PAGES = (
    "index",
    "readme",
    "glossary",
    "labs/01_numbers",
    "labs/11_llm_weights",
    "labs-zh/01_numbers",
)
SHOWN = TEXTS.replace(".jp-OutputArea-output", ".cell_output .output")
CHOSEN = "localStorage.setItem('mode', '{0}'); localStorage.setItem('theme', '{0}')"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (SITE / "index.html").is_file(), reason="the site is not built: make site"
    ),
]


@pytest.fixture
def looked_at(chromium):
    """Opens a page of the site, of a width and in a mode; closes it afterwards."""
    contexts = []

    def look(name, width, mode):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=mode)
        contexts.append(context)
        context.add_init_script(CHOSEN.format(mode))
        page, asked = context.new_page(), []
        page.on("request", lambda r: asked.append(r.url))
        page.goto((SITE / f"{name}.html").as_uri())
        page.wait_for_function("document.documentElement.dataset.theme")
        return page, asked

    yield look
    for context in contexts:
        context.close()


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_every_word_of_an_output_has_enough_contrast(looked_at, name, mode):
    page, asked = looked_at(name, 1400, mode)
    assert page.evaluate("document.documentElement.dataset.theme") == mode
    pale = {words: round(ratio, 2) for words, ratio in page.evaluate(SHOWN) if ratio < 4.5}
    assert not pale
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_the_screen_and_every_picture_has_words(looked_at, name, width):
    page, _ = looked_at(name, width, "light")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width + 1
    bare = "[...document.querySelectorAll('article img')].filter(i => !i.alt).length"
    assert page.evaluate(bare) == 0


def test_links_lead_to_pages_and_places_that_are_there():
    """All pages, without a browser: files, and anchors in them."""
    pages = {p: p.read_text(encoding="utf-8") for p in SITE.rglob("*.html")}
    places = {p: set(re.findall(r'\bid="([^"]+)"', text)) for p, text in pages.items()}
    lost = []
    for path, text in pages.items():
        for target in re.findall(r'<a\b[^>]*?\bhref="([^"]+)"', text):
            if re.match(r"[a-z]+:|//|\?", target):
                continue
            file, _, place = target.partition("#")
            there = (path.parent / file).resolve() if file else path
            if there.suffix != ".html":
                missing = not there.exists()
            else:
                missing = there not in pages or (place and place not in places[there])
            if missing:
                lost.append(f"{path.relative_to(SITE)}: {target}")
    assert lost == []


def test_chinese_pages_say_their_language():
    text = (SITE / "labs-zh" / "01_numbers.html").read_text(encoding="utf-8")
    assert re.search(r'<html[^>]* lang="zh-CN"', text)
    assert re.search(r'<html[^>]* lang="en"', (SITE / "index.html").read_text(encoding="utf-8"))
