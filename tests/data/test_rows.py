"""Corpora of rows: JSON lines, Parquet and datasets against a loop over the texts written."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.data import rows
from rinsc.data.corpora import load_corpus, open_corpus
from rinsc.data.documents import HELD_OUT_SHARE, part_of
from rinsc.data.rows import as_documents
from rinsc.errors import DataError, MissingExtraError

TEXTS = [f"Verse {n}: all the world is a stage, and é is a letter.\n" * 5 for n in range(211)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same texts in every form."""
    place = tmp_path_factory.mktemp("rows")
    lines = "".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(TEXTS))
    (place / "all.jsonl").write_text(lines)
    (place / "all.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (place / "body.jsonl").write_text(lines.replace('"text"', '"body"'))
    for name in ("hub", "parts"):
        (place / name).mkdir()
    table = pyarrow.table({"id": list(range(len(TEXTS))), "text": TEXTS})
    half = len(TEXTS) // 2
    for number, part in enumerate((table.slice(0, half), table.slice(half))):
        pyarrow.parquet.write_table(part, place / "parts" / f"{number}.parquet", row_group_size=17)
    for name, content in (
        ("train.jsonl", lines.encode()),
        ("train.json", b"\xef\xbb\xbf" + lines.encode()),
        ("train.jsonl.gz", gzip.compress(lines.encode())),
        ("train.jsonl.bz2", bz2.compress(lines.encode())),
        ("array.json", json.dumps([{"text": text} for text in TEXTS]).encode()),
    ):
        (place / f"hub of {name}").mkdir()
        (place / f"hub of {name}" / name).write_bytes(content)
    pyarrow.parquet.write_table(table, place / "hub" / "train.parquet")
    pyarrow.parquet.write_table(table.slice(0, 50), place / "hub" / "test.parquet")
    return place


@pytest.mark.parametrize(
    "name",
    [
        "jsonl:{}/all.jsonl",
        "jsonl:{}/all.jsonl.gz",
        "jsonl:{}/body.jsonl?field=body",
        "jsonl:{}/all.json?",
        "parquet:{}/parts",
        "parquet:{}/parts/*.parquet",
        "hf:{}/hub",
        "hf:{}/hub?split=train",
        "hf:{}/hub of train.jsonl",
        "hf:{}/hub of train.json?split=train",
        "hf:{}/hub of train.jsonl.gz",
        "hf:{}/hub of train.jsonl.bz2",
        "hf:{}/hub of array.json",
    ],
)
def test_every_form_gives_the_same_texts(folder: Path, name: str) -> None:
    corpus = load_corpus(name.format(folder))
    held_out = [text for text in TEXTS if _is_held_out(text)]
    assert [document.text for document in corpus.held_out] == held_out
    assert [document.text for document in corpus.train] == [t for t in TEXTS if t not in held_out]
    record = corpus.record()["held_out"]
    assert isinstance(record, dict)
    assert record["documents"] == len(held_out)
    assert record["sha256"] == hashlib.sha256("".join(held_out).encode()).hexdigest()


def test_another_split_of_a_dataset(folder: Path) -> None:
    source = open_corpus(f"hf:{folder}/hub?split=test")
    assert [document.text for _, document in source.documents()] == TEXTS[:50]


@given(st.lists(st.sampled_from(["", " ", "a", "bb", "ccc", "é"]), max_size=20), st.integers(1, 20))
def test_a_limit_in_bytes(texts: list[str], most: int) -> None:
    expected, total = [], 0
    for text in texts:
        if text.strip():
            total += len(text.encode())
            if total > most:
                break
            expected.append(text)
    assert [document.text for _, document in as_documents(iter(texts), most)] == expected


@given(st.text())
def test_equal_documents_are_in_one_part(text: str) -> None:
    assert (part_of(text) == "held_out") == _is_held_out(text)


def test_about_a_tenth_is_held_out() -> None:
    parts = [part_of(f"document {n}") for n in range(20_000)]
    assert parts.count("held_out") / len(parts) == pytest.approx(HELD_OUT_SHARE, abs=0.01)


def test_a_stream_is_not_read_to_its_end() -> None:
    read = []

    def texts() -> object:
        for number in range(10**9):
            read.append(number)
            yield f"document {number}"

    assert len(list(as_documents(texts(), 1000))) < 100  # type: ignore[arg-type]
    assert len(read) < 100


def test_a_mark_of_the_byte_order_is_no_text(tmp_path: Path) -> None:
    lines = b"".join(b'{"text": "%d%s"}\n' % (day, 99 * b" rain") for day in range(99))
    plain, marked = tmp_path / "plain.jsonl", tmp_path / "marked.jsonl"
    plain.write_bytes(lines)
    marked.write_bytes(b"\xef\xbb\xbf" + lines)
    found = [load_corpus(f"jsonl:{path}") for path in (plain, marked)]
    assert found[0].train == found[1].train
    assert found[0].held_out == found[1].held_out


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b'{"text": "a"}\n{"text": \n', "bad-json", "line 2"),
        (b'{"text": "a"}\n[1]\n', "bad-json", "line 2"),
        (b"[" * 100_000, "bad-json", "line 1"),
        (b'{"text": "\\ud800"}\n', "bad-json", "half a character"),
        (b'{"text": "a"}\n{"text": "caf\xe9"}\n', "not-utf8", "byte 27 is"),
        (b'{"body": "a", "id": 1}\n', "no-such-field", "those there are: body, id"),
        (b'{"texts": "a"}\n', "no-such-field", "did you mean 'texts'?"),
        (b'{"text": 3}\n', "not-text", "holds a int"),
        (b"", "too-little-text", "0 bytes to train on"),
        (b'{"text": null}\n\n', "too-little-text", "0 bytes to train on"),
    ],
)
def test_bad_lines(tmp_path: Path, content: bytes, code: str, said: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_corpus(f"jsonl:{path}")
    assert caught.value.code == code
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["jsonl.gz", "parquet"])
def test_a_torn_file(folder: Path, tmp_path: Path, kind: str) -> None:
    whole = folder / ("all.jsonl.gz" if kind == "jsonl.gz" else "hub/train.parquet")
    torn = tmp_path / f"torn.{kind}"
    data = whole.read_bytes()
    for end in (len(data) // 2, len(data) - 2, 3):
        torn.write_bytes(data[:end])
        with pytest.raises(DataError) as caught:
            load_corpus(f"{kind.partition('.')[0]}:{torn}")
        assert caught.value.code == "damaged-file"
        assert str(torn) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ("?field=txt", "no-such-field", "those there are: id, text"),
        ("?split=trian", "bad-option", "trian"),
        ("?config=other", "bad-option", "other"),
    ],
)
def test_a_dataset_without_what_is_asked_for(
    folder: Path, options: str, code: str, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        load_corpus(f"hf:{folder}/hub{options}")
    assert caught.value.code == code
    assert said in str(caught.value)


@pytest.mark.parametrize("form", ["parquet", "jsonl.gz", "jsonl"])
def test_a_dataset_with_a_torn_file(folder: Path, tmp_path: Path, form: str) -> None:
    whole = folder / ("hub/train.parquet" if form == "parquet" else f"all.{form}")
    data = whole.read_bytes()
    (tmp_path / f"train.{form}").write_bytes(data[: 3 * len(data) // 4 + 1])
    with pytest.raises(DataError) as caught:
        load_corpus(f"hf:{tmp_path}")
    is_of_lines = form == "jsonl"
    assert caught.value.code == ("bad-json" if is_of_lines else "cannot-read")
    assert (": line 159" if is_of_lines else "cannot be read") in str(caught.value)


@pytest.mark.parametrize("name", ["hf:{}/hub", "parquet:{}/parts"])
def test_without_the_library(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets" if name.startswith("hf") else "pyarrow", None)
    with pytest.raises(MissingExtraError) as caught:
        load_corpus(name.format(folder))
    assert caught.value.hint == "pip install 'rinsc[data]'"


def _is_held_out(text: str) -> bool:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(("日本" * 900, '🙂\\"\n' * 800, "a" * 9000, "\ud83d" * 700)),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["text", "a", ""]), inner),
    max_leaves=8,
)


@given(
    value=VALUES | st.fixed_dictionaries({"a": VALUES, "text": VALUES}),
    ascii_only=st.booleans(),
    cut=st.none() | st.integers(0, 200),
    put=st.sampled_from([b"", b",", b"\xff", b'"', b"\\", b"]", b"}", b"1", b"[", b"\x01", b" "]),
)
def test_a_giant_row_is_read_as_the_parser_reads_it(
    value: object, ascii_only: bool, cut: int | None, put: bytes
) -> None:
    line = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if cut is not None:
        line = line[:cut] + put + line[cut + 1 :]
    assert _read(line, 0) == _read(line, 1 << 20)


def _read(line: bytes, wide: int) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "WIDE_LINE_BYTES", wide)
        try:
            text = rows._json_text(line, "text", "line 1", 0)
        except DataError as error:
            said = error.problems[0].message
            return error.problems[0].code, said.partition("not JSON")[0]
    return text if isinstance(text, bytes) else text.encode()


@given(
    values=st.lists(VALUES, max_size=5),
    style=st.sampled_from([{}, {"indent": 1}, {"ensure_ascii": False}, {"separators": (",", ":")}]),
    read_bytes=st.sampled_from([1, 2, 7, 1 << 18]),
    cut=st.none() | st.integers(0, 200),
    put=st.sampled_from([b"", b",", b'"', b"\\", b"]", b"}", b"[", b"{", b"1", b" "]),
)
def test_an_array_is_cut_into_what_the_parser_reads(
    values: list[object], style: Any, read_bytes: int, cut: int | None, put: bytes
) -> None:
    data = json.dumps(values, **style).encode("utf-8", "surrogatepass")
    if cut is not None:
        data = data[:cut] + put + data[cut + 1 :]
    try:
        parsed = json.loads(data.decode("utf-8", "surrogatepass"))
    except ValueError:
        parsed = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "READ_BYTES", read_bytes)
        try:
            cuts = [(start, row[0]) for start, row in rows.elements_of_array(io.BytesIO(data))]
            elements = [json.loads(row.decode("utf-8", "surrogatepass")) for _, row in cuts]
        except ValueError:
            elements, cuts = None, []
    assert repr(elements) == (
        repr(parsed) if isinstance(parsed, list) else "None"
    )  # NaN is not NaN
    assert all(data[start:].startswith(row) for start, row in cuts)


def test_a_giant_row_nests_no_deeper_than_another() -> None:
    deep = b'{"a": ' + b"[" * 600 + b"]" * 600 + b', "text": "x"}'
    for wide in (0, 1 << 20):
        assert _read(deep, wide) == ("bad-json", "")
    assert _read(deep.replace(b"[" * 500, b"").replace(b"]" * 500, b""), 0) == b"x"


ARROW_TYPES = [
    pyarrow.string(),
    pyarrow.large_string(),
    pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
]


@pytest.mark.parametrize("kind", ARROW_TYPES, ids=str)
@pytest.mark.parametrize("form", ["parquet", "hf"])
def test_every_type_of_text_in_arrow(form: str, kind: pyarrow.DataType, tmp_path: Path) -> None:
    """Long and short rows, none and empty ones, in row groups and pages of several sizes."""
    texts = [None, "", "é\n", "a" * 300_000, None, "b\0" * 5000, "\U0001f642" * 90_000]
    texts += [*TEXTS[:9], None]
    table = pyarrow.table({"n": range(len(texts)), "text": pyarrow.array(texts).cast(kind)})
    for size in (1, 4, 100):
        folder = tmp_path / str(size)
        folder.mkdir()
        path = folder / "train.parquet"
        pyarrow.parquet.write_table(table, path, row_group_size=size, data_page_size=1 << 12)
        documents = open_corpus(f"{form}:{folder}").documents()
        assert [document.text for _, document in documents] == [text for text in texts if text]


def test_rows_of_a_dataset_that_lack_the_field_are_blank(tmp_path: Path) -> None:
    rows_of_json = [{"text": text, "id": 1} for text in TEXTS]
    lines = [json.dumps(row) for row in (*rows_of_json[:9], {"id": 2}, *rows_of_json[9:])]
    (tmp_path / "train.jsonl").write_text("\n".join([*lines, '{"text": null}']))
    source = open_corpus(f"hf:{tmp_path}")
    assert [document.text for _, document in source.documents()] == TEXTS
    with pytest.raises(DataError, match="no-such-field"):
        load_corpus(f"hf:{tmp_path}?field=body")
    (tmp_path / "train.jsonl").write_text("\n".join([*lines, '{"text": 3']))
    with pytest.raises(DataError, match="bad-json"):
        load_corpus(f"hf:{tmp_path}")
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.json").write_text(f"\n [\n{{}},{', '.join(lines)}]\n")
    assert [document.text for _, document in open_corpus(f"hf:{tmp_path}").documents()] == TEXTS
    for torn in (",", ', {"text": 3}]', "] []", ",]"):
        (tmp_path / "train.json").write_text(f"[{', '.join(lines)}{torn}")
        with pytest.raises(DataError, match=rf"row {len(lines) + 1}\b"):
            load_corpus(f"hf:{tmp_path}")
