"""What a lab's own code shows, in the reader's language: the words of plots, and what it prints.

A lab's code says `axis.set_title("rank 8")` and `print("At rank 8:", ...)` in every language. Matplotlib has
no hook for a plot's words, but one gate that all of them pass, `Text.set_text`: titles, labels, legends and
ticks. From `speak` on it looks each text up, and so does the notebook's `print`. Without a font with Chinese
characters plots stay English: a box for every letter helps nobody.
"""

from functools import cache

import matplotlib.pyplot as plt
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

from compresslab.language import ENGLISH, chosen, translated
from compresslab.notice import in_notebook

FONTS = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN"),
    *("Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "Heiti SC", "SimHei", "SimSun"),
    *("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Noto Sans CJK JP", "Arial Unicode MS"),
)
"""Fonts with simplified Chinese characters, the better first."""


@cache
def chinese_font() -> str | None:
    """The first of `FONTS` that this machine has; None if it has none."""
    here = {font.name for font in fontManager.ttflist}
    return next((name for name in FONTS if name in here), None)


def draws() -> bool:
    """Whether plots are drawn in another language than English."""
    return chosen() != ENGLISH and chinese_font() is not None


def speak() -> None:
    """Print in the reader's language from now on, and draw plots in it if there is a font for it."""
    if chosen() == ENGLISH:
        return
    if in_notebook():
        from IPython import get_ipython

        get_ipython().user_ns["print"] = say
    if draws():
        _draw_in_it()


def say(*values: object, **options: object) -> None:
    """As `print`, each text in the reader's language."""
    print(*(translated(v) if isinstance(v, str) else v for v in values), **options)


def _draw_in_it() -> None:
    families = plt.rcParams["font.family"]
    if chinese_font() not in families:
        plt.rcParams["font.family"] = [*families, chinese_font()]
    if Text.set_text is not _set_text:
        Text.set_text = _set_text


_plain = Text.set_text


def _set_text(self: Text, s: object) -> None:
    _plain(self, translated(s) if isinstance(s, str) and draws() else s)
