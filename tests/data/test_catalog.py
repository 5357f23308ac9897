"""Corpora that packages carry: every entry is complete, and no other text gets in."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import io
import json
import platform
import re
import sqlite3
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from rinsc.data import add as module
from rinsc.data import corpora, packages
from rinsc.data.add import READERS, add, read_html
from rinsc.data.corpora import (
    RECORD,
    Entry,
    added,
    added_folder,
    catalog,
    entry,
    folder_sha256,
    load,
    load_corpus,
    open_corpus,
    state,
    training_texts,
)
from rinsc.data.pairs.sets import picture_sets
from rinsc.data.tokenizer import load_tokenizer, train_tokenizer
from rinsc.errors import DataError, MissingExtraError
from tests.cli.command_line import run_cli

LINE = "It is a truth universally acknowledged, that a text wants readers.\n"


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RINSC_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize("name", catalog())
def test_an_entry_is_complete(name: str) -> None:
    found = entry(name)
    assert found.get in ("pip", "debian", "python")
    assert found.reader in READERS
    assert found.licence
    assert found.title
    assert found.bytes > 4_000_000
    for version, sha256 in found.sha256.items():
        assert version
        assert re.fullmatch(r"[0-9a-f]{64}", sha256)


def test_no_text_is_carried_by_this_package() -> None:
    folder = Path(module.__file__).parent
    assert sum(path.stat().st_size for path in folder.glob("*") if path.is_file()) < 150_000


def test_the_standard_library_is_added_and_can_be_read() -> None:
    found = catalog()["stdlib"]
    if platform.python_version() not in found.sha256:
        with pytest.raises(DataError, match="no sha256 is known"):
            add(found)
        return
    assert state("stdlib") == "not here"
    done = add(found)
    assert done.sha256 == found.sha256[done.version]
    assert (state("stdlib"), added("stdlib")) == ("added", done)
    source = open_corpus("stdlib")
    texts = {document.name: document.text for _, document in source.documents()}
    assert texts["dataclasses.py"] == Path(dataclasses.__file__).read_text()
    assert not any(name.startswith("test/") for name in texts)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip finds one package, in a folder."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "few_words-1.0-py3-none-any.whl", "w") as wheel:
        for number in range(9):
            wheel.writestr(f"few_words/{number}.md", f"# Title\n{LINE * (20 + number)}")
        wheel.writestr("few_words-1.0.dist-info/METADATA", "Name: few-words\nVersion: 1.0\n")
        wheel.writestr("few_words-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        wheel.writestr("few_words-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def words(sha256: str) -> Entry:
    plays = catalog()["plays"]
    changed = {"package": "few-words", "files": ("few_words/*.md",), "sha256": {"1.0": sha256}}
    return dataclasses.replace(plays, name="kjv", **changed)  # type: ignore[arg-type]


def test_a_package_of_pip_is_read_compared_and_kept(index: Path) -> None:
    lines = []
    for number in range(9):
        text = f"Title\n{LINE * (20 + number)}".encode()
        lines.append(f"{hashlib.sha256(text).hexdigest()}  {number}.md.txt\n")
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    found = add(words(expected))
    assert found.files == 9
    assert folder_sha256(added_folder("kjv"))[0] == expected
    corpus = load_corpus("kjv")
    assert sorted(d.name for d in (*corpus.train, *corpus.held_out))[0] == "0.md"


def test_another_text_is_refused_and_the_old_one_kept(index: Path, data_folder: Path) -> None:
    folder = added_folder("kjv")
    folder.mkdir(parents=True)
    (folder / "old.txt").write_text("old")
    with pytest.raises(DataError) as caught:
        add(words("0" * 64))
    assert caught.value.code == "other-text"
    assert _files(data_folder) == ["old.txt"]


def test_a_package_that_unpacks_to_too_much(
    index: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "MAX_UNPACKED_BYTES", 9 * 20 * len(LINE))
    with pytest.raises(DataError) as caught:
        add(words("0" * 64))
    assert caught.value.code == "too-much-text"
    assert _files(data_folder) == []


@pytest.mark.parametrize("place", ["../..", ""])
def test_a_source_package_that_reaches_out_of_its_folder(tmp_path: Path, place: str) -> None:
    archive, inside = tmp_path / "few_words-1.0.tar.gz", tmp_path / "a" / "b"
    name = f"{place or tmp_path}/out.md"
    with tarfile.open(archive, "w:gz") as source:
        member = tarfile.TarInfo(name)
        member.size = len(LINE)
        source.addfile(member, io.BytesIO(LINE.encode()))
    with suppress(DataError):
        packages._unpacked(archive, inside)
    assert not (tmp_path / "out.md").exists()


def _source_package(archive: Path, files: dict[str, str]) -> str:
    """A .tar.gz; its SHA-256."""
    with tarfile.open(archive, "w:gz") as source:
        for name, text in files.items():
            member = tarfile.TarInfo(f"few_words-1.0/{name}")
            member.size = len(text)
            source.addfile(member, io.BytesIO(text.encode()))
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def test_the_code_of_a_source_package_does_not_run(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wheel in index.iterdir():
        wheel.unlink()
    witness = tmp_path / "ran"
    setup = f"open({str(witness)!r}, 'w')\nfrom setuptools import setup\nsetup(name='few_words')\n"
    _source_package(index / "few_words-1.0.tar.gz", {"setup.py": setup})
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # which pip reads as: no isolation
    with pytest.raises(DataError) as caught:
        add(words("0" * 64))
    assert caught.value.code == "download-failed"
    assert not witness.exists()


def test_no_code_of_the_folder_where_you_are_runs(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "pip.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(here)
    with pytest.raises(DataError) as caught:
        add(words("0" * 64))
    assert caught.value.code == "other-text"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", ["html", "json"])
def test_a_package_without_a_wheel_is_fetched_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    name, folder = "few_words-1.0.tar.gz", tmp_path / "simple" / "few-words"
    folder.mkdir(parents=True)
    texts = {f"few_words/{number}.md": LINE * (20 + number) for number in range(9)}
    sha256 = _source_package(folder / name, texts)
    link = f'"url": "{(folder / name).as_uri()}"' if form == "json" else f'<a href="{name}#x">'
    (folder / "index.html").write_text(link)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    files = ("few_words-1.0/few_words/*.md",)
    known = dataclasses.replace(words("0" * 64), files=files, source_archive={name: sha256})
    with pytest.raises(DataError) as caught:
        add(known)
    assert caught.value.code == "other-text"  # it was unpacked and read
    found = re.search(r"[0-9a-f]{64}", caught.value.message)
    assert found
    assert add(dataclasses.replace(known, sha256={"1.0": found[0]})).files == 9
    changed = dataclasses.replace(known, source_archive={name: "0" * 64})
    with pytest.raises(DataError) as caught:
        add(changed)
    assert caught.value.code == "other-archive"


def test_a_database_that_names_a_file_elsewhere(tmp_path: Path) -> None:
    base = sqlite3.connect(tmp_path / "Bible.db")
    base.execute("CREATE TABLE Books (TestamentID, BookID, ShortName, LongName)")
    base.execute("CREATE TABLE Bible (TestamentID, BookID, ChapterID, VerseID, Passage1, Passage2)")
    base.execute("INSERT INTO Books VALUES (1, 1, '/../../../out', 'Out')")
    base.commit()
    base.close()
    part = tmp_path / "a" / "b"
    part.mkdir(parents=True)
    found = dataclasses.replace(catalog()["kjv"], files=("Bible.db",))
    with pytest.raises(DataError, match="outside"):
        module._write_texts(found, "1.0", tmp_path, part)
    assert not list(tmp_path.rglob("*.txt"))


def test_what_pip_cannot_get(index: Path, data_folder: Path) -> None:
    for path in index.iterdir():
        path.unlink()
    with pytest.raises(DataError) as caught:
        add(words("0" * 64))
    assert caught.value.code == "download-failed"
    assert _files(data_folder) == []


def test_a_debian_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = dataclasses.replace(catalog()["gcide"], package="no-such-package")
    with pytest.raises(DataError) as caught:
        add(missing)
    if caught.value.code != "not-debian":
        assert "apt-get install --no-install-recommends no-such-package" in str(caught.value)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match="no dpkg here"):
        add(missing)


def test_a_corpus_that_was_not_added() -> None:
    with pytest.raises(DataError) as caught:
        load_corpus("gcide")
    assert (caught.value.code, caught.value.hint) == ("corpus-not-added", "rinsc data add gcide")


def test_plays_that_were_added_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = load_corpus("plays")
    folder = added_folder("plays")
    for document in (*installed.train, *installed.held_out):
        path = folder / f"{document.name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document.text, newline="\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError):
        load_corpus("plays")
    sha256, files, size = folder_sha256(folder)
    record = {"version": "3.0.0", "files": files, "bytes": size, "sha256": sha256}
    (folder / RECORD).write_text(json.dumps(record))
    assert sha256 == catalog()["plays"].sha256["3.0.0"]
    assert load(open_corpus("plays")).record() == installed.record()


def test_html_becomes_text(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(
        "<html><head><title>T</title></head><body><h1>A &amp; B</h1><script>x()</script>"
        "<p>one\n two<br>three</p><ul><li>four</li></ul></body></html>"
    )
    assert list(read_html(path)) == [("", "A & B\n\none two\nthree\n\nfour\n")]


def test_the_commands(tmp_path: Path) -> None:
    listed = run_cli("data", "list", "--json")
    assert [row["name"] for row in json.loads(listed.out)] == [*catalog(), *picture_sets()]
    assert {row["state"] for row in json.loads(listed.out)} <= {
        "installed",
        "not here",
    }
    assert "GPL-2.0" in run_cli("data", "list").out
    wrong = run_cli("data", "add", "gcidd")
    assert wrong.status == 2
    assert "did you mean 'gcide'?" in wrong.err
    path = tmp_path / "words.txt"
    path.write_text("".join(f"{number}: {LINE}" for number in range(300)))
    name = f"text:{path}"
    neither = run_cli("data", "prepare", name)
    assert neither.status == 2
    assert "--vocab-size" in neither.err
    first, second = (run_cli("data", "prepare", name, "--vocab-size", "260") for _ in range(2))
    assert first.status == second.status == 0, first.err
    assert first.out == second.out
    assert "tokenized" in first.err
    assert "tokenized" not in second.err
    as_json = run_cli("data", "prepare", name, "--vocab-size", "260", "--json")
    facts = json.loads(as_json.out)
    assert Path(facts["folder"]).is_dir()
    assert facts["corpus"]["held_out"] == load_corpus(name).record()["held_out"]


def test_the_tokenizer_is_that_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "words.txt"
    path.write_text("".join(f"{number}: {LINE}" for number in range(300)))
    monkeypatch.setattr(corpora, "TOKENIZER_BYTES", 5001)
    name = f"text:{path}"
    assert run_cli("data", "prepare", name, "--vocab-size", "300").status == 0
    dimensions = ("--layers", "2", "--width", "8", "--heads", "1", "--kv-heads", "1")
    sizes = ("--mlp-width", "8", "--context", "16", "--vocab-size", "300", "--steps", "1")
    where = ("--device", "cpu", "-o", str(tmp_path / "run"))
    done = run_cli("train", "AB", *dimensions, *sizes, "--batch", "1", "--data", name, *where)
    assert done.status == 0, done.err
    assert "tokenized" not in done.err
    learned = load_tokenizer(tmp_path / "run")
    beginning = "".join(training_texts(open_corpus(name), 5001))
    assert len(beginning) == 5001
    assert learned.to_json() == train_tokenizer([beginning], 300).to_json()


def _files(folder: Path) -> list[str]:
    """All but the locks, which stay."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in paths if path.suffix != ".lock"]
