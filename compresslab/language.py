"""What a learner reads, in their language: English as it is written, or a catalogue's words for it.

    translated("The answer: half, as you predicted.")  ->  答案：一半，和你预测的一样。

A sentence is looked up as it stands; then as a message with values in it ("The answer: {answer}, as you
predicted."), whose values are looked up in turn; then as a list of texts that are all known. What no
catalogue has stays English. The catalogues are gettext's `.po` files under locale/, one for each lab and each
part of the library; `classroom.catalogue` makes them from the sources. Where two labs have the same English
for two things, that of the notebook comes first (Jupyter's JPY_SESSION_NAME says which it is).

The language is English unless it is chosen, by the first of these that is there:

    COMPRESSLAB_LANG=zh       a variable, "en" or "zh"
    labs-zh/                  the folder that the notebook lies in
    LANG=zh_CN.UTF-8          the locale (LC_ALL, LC_MESSAGES, LANG)

Left out: errors that the library raises, which a search engine knows in English; plural forms, which Chinese
has not.
"""

import os
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

LOCALE = Path(__file__).with_name("locale")
ENGLISH, CHINESE = "en", "zh"
LANGUAGES = (ENGLISH, CHINESE)
VARIABLE = "COMPRESSLAB_LANG"
FIELD = re.compile(r"\{(\w+)\}")
WORD = re.compile(r"[A-Za-z]{2,}")
JOINED = {": ": "：", "; ": "；", ", ": "，", " and ": "和", " · ": " · "}
"""How texts are joined, in English and in Chinese."""
SIGNS = ("✔ ", "✘ ", "○ ", "· ")
"""What may stand in front of a sentence and says its kind."""
LONGEST = 3
"""Words of a value that may stay as it is: a name, a number with its unit. A sentence that nobody knows is
no value, and the message fits by chance; so does "{one} of {all}", unless its values are single words."""


def chosen() -> str:
    """The learner's language, "en" or "zh" (see the module).

    Raises:
        ValueError: if COMPRESSLAB_LANG names a language that there is not.
    """
    named = os.environ.get(VARIABLE, "")
    if named:
        if named not in LANGUAGES:
            raise ValueError(f"{VARIABLE} must be one of {', '.join(LANGUAGES)}, got {named!r}")
        return named
    if _folder_of_notebook().endswith(f"-{CHINESE}"):
        return CHINESE
    locale = next((v for n in ("LC_ALL", "LC_MESSAGES", "LANG") if (v := os.environ.get(n))), "")
    return CHINESE if locale.startswith("zh") else ENGLISH


def _folder_of_notebook() -> str:
    try:
        return Path.cwd().name
    except OSError:  # the folder has been removed
        return ""


def translated(text: str, language: str | None = None) -> str:
    """The text in a language, the learner's if none is named; as it is where no catalogue has it."""
    language = language or chosen()
    if language == ENGLISH:
        return text
    notebook = Path(os.environ.get("JPY_SESSION_NAME", "")).stem
    return _translated(text, language, notebook)


@lru_cache(maxsize=4096)
def _translated(text: str, language: str, notebook: str) -> str:
    bare = text.strip()
    if not has_words(bare):
        return text
    if bare[:2] in SIGNS:
        return text.replace(bare, bare[:2] + _translated(bare[2:], language, notebook))
    known = catalogue(language, notebook)
    if bare in known.plain:
        return text.replace(bare, known.plain[bare])
    for pattern, target, most in known.patterns:
        found = pattern.fullmatch(bare)
        if found:
            values = found.groupdict()
            said = {name: _translated(v, language, notebook) for name, v in values.items()}
            unknown = [v for name, v in values.items() if said[name] == v]
            if all(len(WORD.findall(value)) <= most for value in unknown):
                return target.format(**said)
    for sign, other in JOINED.items():
        parts = bare.split(sign)
        if len(parts) > 1:
            said = [_translated(part, language, notebook) for part in parts]
            same = [part for part, other in zip(parts, said, strict=True) if part == other]
            if not any(has_words(part) and part.strip() not in known.plain for part in same):
                return text.replace(bare, other.join(said))
            # The rest may be known as a whole: "plain, half, from scratch".
            first, rest = parts[0], sign.join(parts[1:])
            if len(parts) > 2 and first in known.plain and rest in known.plain:
                return text.replace(bare, other.join([known.plain[first], known.plain[rest]]))
    return text


def has_words(text: str) -> bool:
    """Whether there are two letters beside one another."""
    return bool(WORD.search(text))


@dataclass(frozen=True)
class Catalogue:
    """A language's words: for texts as they stand, and for those with values, the longest first.

    A pattern comes with the words that an unknown value may have.
    """

    plain: dict[str, str]
    patterns: list[tuple[re.Pattern, str, int]]


@cache
def catalogue(language: str, notebook: str = "") -> Catalogue:
    """All catalogues of a language in one, that of a notebook before others; empty where there is none."""
    import polib

    plain, patterns = {}, []
    # A lab's own words, and those of its exercises.
    own = {notebook, notebook.partition("_")[2]}
    paths = sorted((LOCALE / language).rglob("*.po"))
    for path in sorted(paths, key=lambda path: path.stem in own):
        for entry in polib.pofile(str(path)):
            if not entry.msgstr:
                continue
            if "python-brace-format" in entry.flags:
                patterns.append((entry.msgid, entry.msgstr))
            else:
                text, said = entry.msgid.strip(), entry.msgstr.strip()
                if said == text and text in plain and path.stem not in own:
                    continue  # a name in one lab, a word in another
                plain[text] = said
                if text.startswith(", "):  # it is joined to what stands before
                    plain[text[2:]] = said.lstrip("，、 ")
                if text.endswith(":"):  # what follows is joined to it
                    plain[text[:-1]] = said.rstrip("：: ")
    patterns.sort(key=lambda pair: -len(FIELD.sub("", pair[0])))
    return Catalogue(
        plain,
        [
            (pattern_of(text.strip()), to.strip(), LONGEST if _has_two_words(text) else 1)
            for text, to in patterns
        ],
    )


def _has_two_words(message: str) -> bool:
    return len(WORD.findall(FIELD.sub(" ", message))) > 1


def pattern_of(message: str) -> re.Pattern:
    """What finds a message with any values in it.

    Args:
        message: with `{name}` for a value and `{{` for a brace.
    """
    parts = FIELD.split(message)
    literal = [re.escape(p.replace("{{", "{").replace("}}", "}")) for p in parts[::2]]
    fields = [f"(?P<{name}>.*?)" for name in parts[1::2]]
    ordered = [piece for pair in zip(literal, [*fields, ""], strict=True) for piece in pair]
    return re.compile("".join(ordered), re.DOTALL)
