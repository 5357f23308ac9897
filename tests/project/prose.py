"""Sentences of a Markdown page, as a reader counts them."""

from __future__ import annotations

import re

MAX_WORDS = 30

# A code span, a link's target and a number with a dot hold no end of a sentence.
_CODE_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CODE = re.compile(r"`+[^`]*`+")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_ABBREVIATION = re.compile(r"\b(e\.g|i\.e|arXiv)\.")
_END = re.compile(r"(?<=[.!?:])[\"')*]*\s+")
_UNIT = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.)\s)|\n(?=\||#)|\|")


def sentences(page: str) -> list[str]:
    """Every sentence, item of a list, cell of a table and heading; code blocks are none."""
    text = _COMMENT.sub("", _CODE_BLOCK.sub("\n\n", page))
    text = _LINK.sub(r"\1", _CODE.sub("code", text))
    text = _ABBREVIATION.sub(lambda match: match[1].replace(".", ""), text)
    found = []
    for unit in _UNIT.split(text):
        for part in _END.split(" ".join(unit.split())):
            if re.search(r"\w", part):
                found.append(part)
    return found


def long_sentences(page: str) -> list[str]:
    """Those of more than `MAX_WORDS` words; a colon ends one, a semicolon does not."""
    return [text for text in sentences(page) if len(re.findall(r"[\w'’-]+", text)) > MAX_WORDS]
