"""A page of HTML for people: it holds no script, loads nothing, and says so to the browser."""

import html
import unicodedata
from pathlib import Path

TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""What Unicode has for text in two directions (its annex 9): with it a file `gnp.exe` reads `exe.png`."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222;"
    "overflow-wrap:anywhere}"
    "table{border-collapse:collapse}td,th{padding:4px 12px;text-align:left;vertical-align:baseline}"
    "tr{border-bottom:1px solid #ddd}.n{text-align:right;white-space:nowrap}"
    ".bar{background:#0072B2;height:0.8em;display:inline-block}pre{white-space:pre-wrap}"
    "@media(max-width:600px){td,th{padding:4px}}"
)


def escaped(words: str) -> str:
    """Plain text as HTML; signs that steer a terminal or turn the direction of writing as their escapes.

    What joins letters or keeps them apart (U+200C, U+200D) stays: names are written with it.
    """
    return html.escape("".join(repr(c)[1:-1] if _steers(c) else c for c in words))


def _steers(sign: str) -> bool:
    """Whether a character moves what stands around it: a control character, or one for both directions."""
    if sign in "\n\t":
        return False
    return unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") or sign in TURNS


def is_page(path: Path, title: str = "") -> bool:
    """Whether a file is a page of ours, of that title where one is given."""
    head = path.read_bytes()[: 10_000 + len(STYLE)].decode("utf-8", "replace")
    return POLICY in head and (not title or f"<title>{escaped(title)}</title>" in head)


def html_page(title: str, body: str, language: str = "en") -> str:
    """The whole page.

    Args:
        title: plain text.
        body: HTML, in which whatever comes from elsewhere was escaped.
        language: as HTML names it, such as "zh".
    """
    return (
        f"<!DOCTYPE html>\n<html lang='{language}'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
