"""The docs: links lead somewhere, sentences are short, and what they show is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.project.prose import MAX_WORDS, long_sentences, sentences

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "examples").rglob("README.md")),
]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(((?!https?:|#)[^)#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_sentence_is_long(page: Path) -> None:
    assert long_sentences(page.read_text(encoding="utf-8")) == []


def test_a_long_sentence_is_found() -> None:
    words = " ".join(["word"] * MAX_WORDS)
    assert long_sentences(f"Short one. {words}.\n") == []
    assert long_sentences(f"A {words},\nand on.\n") == [f"A {words}, and on."]
    assert long_sentences(f"| cell | {words} and on |\n")
    assert long_sentences(f"- {words} and on\n- next\n")
    assert long_sentences(f"```\n{words} and on\n```\n") == []


def test_what_a_sentence_is() -> None:
    text = "One, e.g. `a. b`. Two: [a link](x.md)! Three?\n\n- Four\n- Five\n  goes on\n\n# Six\n"
    assert len(sentences(text)) == 7


def test_every_page_is_reachable_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        for target in re.findall(r"\]\(((?!https?:|#)[^)#]+\.md)", page.read_text("utf-8")):
            waiting.append((page.parent / target).resolve())
    assert {page for page in PAGES if page not in seen} == set()


def test_the_readme_is_short_and_the_glossary_too() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\| (?!Word|---)([^|]+) \|", glossary, re.MULTILINE)
    assert 0 < len(words) <= 40
    assert words == sorted(words)
