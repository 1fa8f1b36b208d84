"""A page of HTML for people: it holds no script, loads nothing, and says so to the browser."""

import html

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
    """Plain text as HTML."""
    return html.escape(words)


def html_page(title: str, body: str) -> str:
    """The whole page.

    Args:
        title: plain text.
        body: HTML, in which whatever comes from elsewhere was escaped.
    """
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
