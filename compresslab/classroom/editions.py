"""The course's other editions: labs-zh/ and README.zh.md, made from the English ones and the catalogues.

    labs/06_low_rank.ipynb  +  locale/zh/labs/06_low_rank.po  ->  labs-zh/06_low_rank.ipynb

An edition's notebook has the same cells with the same ids and the same code, byte for byte; its Markdown is
translated. So it is graded as the English one is, and nobody runs it a second time. What the code shows is
translated when it is shown (`compresslab.language`).
"""

from dataclasses import replace
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from compresslab.classroom import glossary, pages
from compresslab.classroom.catalogue import markdown_in, notebook_in, update, words_of
from compresslab.classroom.course import read_labs
from compresslab.classroom.release import read_solution, stored_hash, write_if_new
from compresslab.language import ENGLISH, LANGUAGES, LOCALE

GLOSSARY_HEAD = {
    "zh": (
        "# 术语表 Glossary\n\n“实验”一列是解释该术语的那个实验。[起始页](start.ipynb)\n",
        "| 英文 | 中文 | 一句话解释 | 实验 |",
    )
}


def write_editions(solutions: Path, labs: Path, force: bool = False) -> list[Path]:
    """Renew the catalogues and write every edition anew where it changed; returns the files that did.

    Args:
        solutions: folder of the py:percent scripts.
        labs: folder of the English labs; an edition's folder lies beside it, and its README too.
        force: execute the start page even if nothing has changed.
    """
    changed = []
    for language in LANGUAGES:
        if language != ENGLISH:
            changed += update(solutions, language)
            changed += _write_edition(solutions, labs, language, force)
    return changed


def _write_edition(solutions: Path, labs: Path, language: str, force: bool) -> list[Path]:
    folder, locale = labs.with_name(f"{labs.name}-{language}"), LOCALE / language
    folder.mkdir(exist_ok=True)
    changed = []
    for script in sorted(solutions.glob("[0-9][0-9]_*.py")):
        words = words_of(locale / "labs" / f"{script.stem}.po")
        changed += _write(folder / f"{script.stem}.ipynb", lab_in(script, words))
    translated_labs = read_labs(folder)
    changed += _write(folder / pages.GLOSSARY, _glossary(labs, locale, language))
    start = notebook_in(
        pages.start_page(solutions / "start.py", translated_labs, language),
        words_of(locale / "labs" / "start.po"),
    )
    if force or stored_hash(folder / pages.START) != start.metadata.compresslab["source_hash"]:
        changed += _write(folder / pages.START, pages.executed(start, folder))
    readme = labs.with_name("README.md")
    if readme.is_file():
        text = markdown_in(readme.read_text(encoding="utf-8"), words_of(locale / "readme.po"))
        text = text.replace("](labs/", f"]({folder.name}/")
        changed += write_if_new(readme.with_name(f"README.{language}.md"), text + "\n")
    return changed


def lab_in(script: Path, words: dict[str, str]) -> NotebookNode:
    """A lab with its Markdown translated.

    Args:
        script: the solution.
        words: from messages to translations.
    """
    return notebook_in(read_solution(script).lab, words)


def _glossary(labs: Path, locale: Path, language: str) -> NotebookNode:
    words = words_of(locale / "glossary.po")
    terms = [
        replace(term, sentence=words.get(term.sentence, term.sentence))
        for term in glossary.read_terms()
    ]
    title, headings = GLOSSARY_HEAD[language]
    _, *rows = glossary.markdown(terms, read_labs(labs)).split("\n")
    return pages.glossary_notebook("\n".join([title, headings, *rows]))


def _write(path: Path, notebook: NotebookNode) -> list[Path]:
    return write_if_new(path, nbformat.writes(notebook) + "\n")
