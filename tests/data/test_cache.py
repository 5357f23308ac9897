"""The cache of tokens: equal to tokenizing in memory, never half there, never made twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rinsc.data import batches as encode
from rinsc.data import cache as learned
from rinsc.data import cache as module
from rinsc.data.batches import TokenizedCorpus, tokenize
from rinsc.data.cache import cache_key, prepare
from rinsc.data.corpora import TOKENIZER_BYTES, load, open_corpus, training_texts
from rinsc.data.documents import Document, Source
from rinsc.data.sealed import RECORD
from rinsc.data.tokenizer import BytePairTokenizer, train_tokenizer
from rinsc.errors import DataError, OutputError
from rinsc.storage.files import short_digest

ROOT = Path(module.__file__).parents[2]
LINE = "Verse {0}: the lark at break of day arising {0} times.\n"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Some files of text, and the same as rows."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(11):
        text = "".join(LINE.format(number * 100 + line) for line in range(20 + number))
        (folder / f"{number}.txt").write_text(text)
    rows = (json.dumps({"text": LINE.format(n) * 3}) for n in range(150))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def small() -> BytePairTokenizer:
    return train_tokenizer([LINE.format(n) for n in range(40)], 280)


@pytest.fixture(params=["text", "jsonl"])
def source(request: pytest.FixtureRequest, texts: Path) -> Source:
    return open_corpus(
        f"text:{texts}" if request.param == "text" else f"jsonl:{texts.parent}/rows.jsonl"
    )


def same(one: TokenizedCorpus, other: TokenizedCorpus) -> bool:
    names = ("train", "held_out", "token_bytes", "held_out_bytes", "train_starts")
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
    return arrays and one.record == other.record and one.vocab_size == other.vocab_size


def test_the_files_hold_what_tokenizing_in_memory_gives(
    source: Source, small: BytePairTokenizer, tmp_path: Path
) -> None:
    made = prepare(source, small, folder=tmp_path / "tokens")
    assert isinstance(made.train, np.memmap)
    assert same(made, tokenize(load(source), small))
    assert len(made.train_starts) == sum(part == "train" for part, _ in source.documents())


def test_the_comparison_can_fail(
    source: Source, small: BytePairTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "encode_documents", _without_the_last)
    made = prepare(source, small, folder=tmp_path / "tokens")
    assert not same(made, tokenize(load(source), small))


def test_batches_of_another_size_change_nothing(
    source: Source, small: BytePairTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare(source, small, folder=tmp_path / "one")
    monkeypatch.setattr(encode, "BATCH_BYTES", 700)
    assert same(made, prepare(source, small, folder=tmp_path / "two"))


def test_nothing_is_tokenized_twice(
    source: Source, small: BytePairTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare(source, small, folder=tmp_path / "tokens")
    monkeypatch.setattr(module, "encode_documents", _refuse)
    assert same(made, prepare(source, small, folder=tmp_path / "tokens"))
    os.utime(next((tmp_path / "texts").iterdir()), ns=(1, 1))
    (tmp_path / "rows.jsonl").write_text('{"text": "new"}')
    with pytest.raises(AssertionError):
        prepare(source, small, folder=tmp_path / "tokens")


def test_the_key_depends_on_all_that_the_tokens_depend_on(
    texts: Path, small: BytePairTokenizer
) -> None:
    rows = texts.parent / "rows.jsonl"
    other = train_tokenizer([LINE.format(n) for n in range(40)], 281)
    names = (f"text:{texts}", f"jsonl:{rows}", f"jsonl:{rows}?field=x", f"jsonl:{rows}?bytes=9")
    keys = [cache_key(open_corpus(name), small) for name in names]
    keys.append(cache_key(open_corpus(f"text:{texts}"), other))
    rows.write_text(rows.read_text() + " ")
    keys.append(cache_key(open_corpus(f"jsonl:{rows}"), small))
    assert len(set(keys)) == len(keys)
    assert cache_key(open_corpus(f"text:{texts}"), small) == keys[0]


def test_a_file_changed_behind_its_time_of_change(texts: Path, small: BytePairTokenizer) -> None:
    """As where archives give all files one time, or a copy keeps the time of another file."""
    file = texts / "3.txt"
    before, key = file.stat(), cache_key(open_corpus(f"text:{texts}"), small)
    file.write_text(file.read_text().replace("lark", "wren"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert cache_key(open_corpus(f"text:{texts}"), small) != key


@pytest.mark.parametrize(
    "name", ["train", "held_out", "held_out_bytes", "train_starts", RECORD, "all of it"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_made_anew(
    texts: Path, small: BytePairTokenizer, tmp_path: Path, name: str, damage: str
) -> None:
    source = open_corpus(f"text:{texts}")
    folder = tmp_path / "tokens"
    made = prepare(source, small, folder=folder)
    whole = tokenize(load(source), small)
    del made
    place = folder / cache_key(source, small)
    if name == "all of it":
        shutil.rmtree(place)
    elif damage == "remove":
        (place / name).unlink()
    else:
        data = bytearray((place / name).read_bytes())
        data[len(data) // 2] ^= 0x55
        (place / name).write_bytes(data if damage == "flip" else data[: len(data) // 2])
    assert same(prepare(source, small, folder=folder), whole)


def test_ids_beyond_the_vocabulary_in_a_large_file(
    texts: Path, small: BytePairTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of large files there are samples alone, between which an id can change."""
    monkeypatch.setattr("rinsc.data.sealed.WHOLE_DIGEST_BYTES", 10)
    monkeypatch.setattr("rinsc.storage.files.SAMPLE_BYTES", 4)
    source, folder = open_corpus(f"text:{texts}"), tmp_path / "tokens"
    prepare(source, small, folder=folder)
    path = folder / cache_key(source, small) / "train"
    data = bytearray(path.read_bytes())
    data[10:12] = b"\xff\xff"
    path.write_bytes(bytes(data))
    assert same(prepare(source, small, folder=folder), tokenize(load(source), small))


@pytest.mark.parametrize(
    ("key", "value"), [("type", "<f8"), ("type", "|O"), ("type", 5), ("digest", None)]
)
def test_a_record_of_other_numbers_is_made_anew(
    texts: Path, small: BytePairTokenizer, tmp_path: Path, key: str, value: object
) -> None:
    """Signed as a stranger would sign it."""
    source, folder = open_corpus(f"text:{texts}"), tmp_path / "tokens"
    prepare(source, small, folder=folder)
    path = folder / cache_key(source, small) / RECORD
    record = json.loads(path.read_text())
    del record["digest"]
    record["files"]["train"][key] = value
    digest = short_digest(json.dumps(record, sort_keys=True))
    path.write_text(json.dumps({**record, "digest": digest}))
    assert same(prepare(source, small, folder=folder), tokenize(load(source), small))


@pytest.mark.parametrize("content", ["3", "[]", "{}", '{"files": {}}', '{"files": 3}', "digit"])
def test_a_damaged_record_is_made_anew(
    texts: Path, small: BytePairTokenizer, tmp_path: Path, content: str
) -> None:
    source, folder = open_corpus(f"text:{texts}"), tmp_path / "tokens"
    made = prepare(source, small, folder=folder)
    file = folder / cache_key(source, small) / RECORD
    whole = file.read_text()
    digit = json.loads(whole)["corpus"]["held_out"]["sha256"]
    other = digit[:-1] + ("0" if digit[-1] != "0" else "1")
    file.write_text(whole.replace(digit, other) if content == "digit" else content)
    assert same(prepare(source, small, folder=folder), made)
    assert file.read_text() == whole


def test_a_corpus_that_cannot_be_used_leaves_nothing(
    small: BytePairTokenizer, tmp_path: Path, texts: Path
) -> None:
    (texts / "9.txt").write_bytes(b"caf\xe9" * 1000)
    (tmp_path / "few.jsonl").write_text('{"text": "few words"}')
    for name, code in (
        (f"text:{texts}", "not-utf8"),
        (f"jsonl:{tmp_path}/few.jsonl", "too-little-text"),
    ):
        with pytest.raises(DataError) as caught:
            prepare(open_corpus(name), small, folder=tmp_path / "tokens")
        assert caught.value.code == code
    assert _made(tmp_path / "tokens") == []


SCRIPT = """
import os, resource, signal, sys, time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from rinsc.data import cache
from rinsc.data.corpora import open_corpus
from rinsc.data.tokenizer import load_tokenizer
from rinsc.errors import RinscError
name, tokenizer, folder, mode = sys.argv[1:]
add = cache._Writer.add
def slow(writer, encoded):
    with open(folder + ".log", "a") as log:
        log.write(f"{os.getpid()}\\n")
    time.sleep(0.02 if mode == "together" else 0)
    if mode == "killed":
        add(writer, encoded)
        os.kill(os.getpid(), signal.SIGKILL)
    return add(writer, encoded)
cache._Writer.add = slow
if mode == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    found = cache.prepare(open_corpus(name), load_tokenizer(Path(tokenizer)), folder=Path(folder))
except RinscError as error:
    sys.exit(str(error))
print(len(found.train))
"""


def start(
    name: str, tokenizer: BytePairTokenizer, folder: Path, mode: str
) -> subprocess.Popen[str]:
    """One process that prepares a corpus."""
    path = folder.parent / "tokenizer.json"
    tokenizer.save(path)
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, name, str(path), str(folder), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_killed_process_leaves_nothing_that_is_read(
    texts: Path, small: BytePairTokenizer, tmp_path: Path
) -> None:
    folder, name = tmp_path / "tokens", f"text:{texts}"
    killed = start(name, small, folder, "killed")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert [path.suffix for path in folder.iterdir() if path.is_dir()] == [".part"]
    source = open_corpus(name)
    assert same(prepare(source, small, folder=folder), tokenize(load(source), small))
    assert _made(folder) == [cache_key(source, small)]


def test_two_processes_at_once_do_the_work_once(
    texts: Path, small: BytePairTokenizer, tmp_path: Path
) -> None:
    folder, name = tmp_path / "tokens", f"text:{texts}"
    both = [start(name, small, folder, "together") for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert (
        outputs[0][0] == outputs[1][0] == f"{len(tokenize(load(open_corpus(name)), small).train)}\n"
    )
    workers = Path(f"{folder}.log").read_text().split()
    assert len(set(workers)) == 1
    assert len(workers) == 11
    assert _made(folder) == [cache_key(open_corpus(name), small)]


def test_a_full_disk_is_one_error_and_leaves_nothing(
    texts: Path, small: BytePairTokenizer, tmp_path: Path
) -> None:
    folder = tmp_path / "tokens"
    process = start(f"text:{texts}", small, folder, "full")
    _, said = process.communicate()
    assert process.returncode == 1
    assert said.startswith("error[cannot-write]: cannot write: file too large")
    assert _made(folder) == []


def test_a_folder_that_cannot_be_written(
    texts: Path, small: BytePairTokenizer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        prepare(open_corpus(f"text:{texts}"), small, folder=tmp_path / "file" / "tokens")


def test_memory_holds_a_few_batches_only(
    small: BytePairTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "BATCH_BYTES", 1000)
    text = LINE.format(1)
    taken = 0

    def documents() -> object:
        nonlocal taken
        for number in range(2000):
            taken += 1
            yield "train", Document(str(number), text)

    furthest, done = 0, 0
    for _ in encode.encode_documents(small, documents()):  # type: ignore[arg-type]
        done += 1
        furthest = max(furthest, taken - done)
    assert done == 2000
    assert furthest <= 3 * (1000 // len(text) + 1)


def _made(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_dir()]


def _without_the_last(tokenizer: BytePairTokenizer, documents: Any) -> Iterator[Any]:
    yield from list(encode.encode_documents(tokenizer, documents))[:-1]


def _refuse(*_: object) -> None:
    raise AssertionError("tokenized again")


def test_a_tokenizer_is_learned_once(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found again, equal to one learned anew; damage and another text are noticed."""
    monkeypatch.setenv("RINSC_DATA", str(tmp_path / "data"))
    calls = []

    def counted(texts: Any, vocab_size: int) -> BytePairTokenizer:
        calls.append(vocab_size)
        return train_tokenizer(texts, vocab_size)

    monkeypatch.setattr(learned, "train_tokenizer", counted)
    fresh = train_tokenizer(training_texts(source, TOKENIZER_BYTES), 270)
    for _ in range(2):
        again = learned.learned_tokenizer(source, 270)
        assert again.to_state() == fresh.to_state()
    assert calls == [270]
    learned.learned_tokenizer(source, 280)
    assert calls == [270, 280]
    path = learned.tokenizer_path(source, 270)
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damage in (whole[:middle], whole[:middle] + b"?" + whole[middle + 1 :], b"{}", b""):
        path.write_bytes(damage)
        assert learned.learned_tokenizer(source, 270).to_state() == fresh.to_state()
        assert path.read_bytes() == whole
    assert calls == [270, 280, *[270] * 4]
    changed = next(iter(tmp_path.glob("texts/*.txt")))
    changed.write_text("another text " * 200)
    with (tmp_path / "rows.jsonl").open("a") as rows:
        rows.write('\n{"text": "another text"}')
    monkeypatch.setattr(learned, "train_tokenizer", train_tokenizer)
    now = open_corpus(f"text:{tmp_path / 'texts'}")
    assert learned.tokenizer_path(now, 270) != path
    assert (
        learned.learned_tokenizer(now, 270).sha256
        == train_tokenizer(training_texts(now, TOKENIZER_BYTES), 270).sha256
    )
