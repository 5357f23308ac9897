"""Names of corpora: one spelling, and an error that helps for every other."""

from __future__ import annotations

from pathlib import Path

import pytest

from rinsc.data.names import HF_BYTES, KEYS, parse_name
from rinsc.errors import DataError

OWN = ("plays", "stdlib")


@pytest.mark.parametrize(
    ("text", "kind", "where", "options"),
    [
        ("plays", "", "plays", {}),
        ("text:a b/c.txt", "text", "a b/c.txt", {}),
        ("text:what?.txt", "text", "what?.txt", {}),
        ("text:a?b=c", "text", "a?b=c", {}),
        ("jsonl:a.jsonl", "jsonl", "a.jsonl", {}),
        ("jsonl:a?.jsonl?field=body", "jsonl", "a?.jsonl", {"field": "body"}),
        ("parquet:d?field=x&bytes=5_000", "parquet", "d", {"field": "x", "bytes": "5_000"}),
        (
            "hf:o/n?config=c&split=s&revision=r",
            "hf",
            "o/n",
            {"config": "c", "split": "s", "revision": "r"},
        ),
    ],
)
def test_a_name_is_taken_apart(text: str, kind: str, where: str, options: dict[str, str]) -> None:
    name = parse_name(text, OWN)
    assert (name.kind, name.where, dict(name.options)) == (kind, where, options)
    assert name.field == options.get("field", "text")


def test_only_streams_are_limited_by_default() -> None:
    limits = {kind: parse_name(f"{kind}:x", OWN).most_bytes for kind in KEYS}
    assert limits == {
        "text": None,
        "jsonl": None,
        "parquet": None,
        "hf": HF_BYTES,
        "pairs": None,
    }
    assert parse_name("jsonl:x?bytes=1_500", OWN).most_bytes == 1500


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("pleys", "unknown-corpus", "did you mean 'plays'?"),
        ("jsnol:x", "unknown-corpus", "did you mean 'jsonl:PATH'?"),
        ("", "unknown-corpus", "one of: plays, stdlib"),
        ("hf:", "unknown-corpus", "hf:NAME"),
        ("jsonl:?field=x", "unknown-corpus", "write jsonl:PATH"),
        ("jsonl:x?feild=y", "unknown-option", "did you mean 'field'?"),
        ("jsonl:x?split=y", "unknown-option", "one of: field, bytes"),
        ("jsonl:x?field=", "bad-option", "write field=VALUE once"),
        ("jsonl:x?field=a&field=b", "bad-option", "write field=VALUE once"),
        ("hf:x?bytes=0", "bad-option", "write a whole number"),
        ("hf:x?bytes=1e6", "bad-option", "write a whole number"),
    ],
)
def test_another_spelling_is_refused(text: str, code: str, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_name(text, OWN)
    assert caught.value.code == code
    assert hint in (caught.value.hint or "")


def test_a_path_alone_is_told_its_kind(tmp_path: Path) -> None:
    kinds = {"a.png b.txt": "pairs", "a.png b.md": "text", "a.jsonl": "jsonl", "a.txt": "text"}
    for number, (names, kind) in enumerate({**kinds, "0.tar": "pairs"}.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in names.split():
            (folder / name).touch()
        with pytest.raises(DataError) as caught:
            parse_name(str(folder), OWN)
        assert f"write {kind}:{folder}" in (caught.value.hint or "")
