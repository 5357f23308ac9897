"""The sample of held-out text, against the corpus itself."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.data import corpora
from rinsc.data.corpora import load_corpus
from rinsc.data.names import note_named, require_named
from rinsc.errors import DataError
from rinsc.training.heldout import SAMPLE_BYTES, first_lines, held_out_sample
from rinsc.training.run_folder import RunFolder
from tests.cli.command_line import run_cli


@given(st.text(alphabet="aé€😀\n", max_size=40), st.integers(0, 60))
def test_whole_lines_that_fit(text: str, most: int) -> None:
    found = first_lines(text, most)
    assert text.startswith(found)
    size = len(found.encode())
    assert size <= most
    rest = text[len(found) :]
    if rest and found.endswith("\n"):
        line = rest[: rest.find("\n") + 1] or rest
        assert size + len(line.encode()) > most  # not one line more would fit
    elif rest:
        assert "\n" not in text.encode()[:most].decode("utf-8", "ignore")
        assert size + len(rest[0].encode()) > most  # nor one character


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """As much of a run as says which text it was trained on."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(30):
        lines = [f"{number}: für jede Zeile {line}" for line in range(2000)]
        (texts / f"{number}.txt").write_text("\n".join(lines), encoding="utf-8")
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    record = {"corpus": load_corpus(f"text:{texts}").record()}
    run.data_record.write_text(json.dumps(record))
    note_named(f"text:{texts}")
    return run


def test_the_sample_is_the_beginning_of_the_held_out_part(folder: RunFolder) -> None:
    sample = held_out_sample(folder)
    corpus = load_corpus(f"text:{folder.path.parent / 'texts'}")
    assert "".join(document.text for document in corpus.held_out).startswith(sample)
    assert SAMPLE_BYTES - 100 < len(sample.encode()) <= SAMPLE_BYTES
    assert sample.endswith("\n")
    assert not any(sample[:1000] in document.text for document in corpus.train)


def test_a_corpus_that_does_not_fit_into_memory(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = held_out_sample(folder)
    monkeypatch.setattr(corpora, "MAX_LOADED_BYTES", 10)
    assert held_out_sample(folder) == whole


def test_another_text_is_refused(folder: RunFolder) -> None:
    texts = folder.path.parent / "texts"
    record = json.loads(folder.data_record.read_text())
    changed = texts / record["corpus"]["held_out"]["files"][-1]
    changed.write_text(changed.read_text().replace("1999", "1998"))
    with pytest.raises(DataError) as caught:
        held_out_sample(folder)
    assert caught.value.code == "other-text"


@pytest.mark.parametrize("content", [None, "", "[]", '{"corpus": 3}', "{}"])
def test_a_run_that_does_not_say(folder: RunFolder, content: str | None) -> None:
    folder.data_record.unlink()
    if content is not None:
        folder.data_record.write_text(content)
    with pytest.raises(DataError) as caught:
        held_out_sample(folder)
    assert caught.value.code == "no-text"


def test_a_name_that_the_user_never_gave_opens_nothing(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "a.txt").write_text("word\n" * 9000)
    here = tmp_path / "here"
    here.mkdir()
    (here / "secret.txt").write_text("mine\n" * 9000)  # below the folder that the user stands in
    (folder.path / "secret.txt").write_text("its own\n" * 9000)
    touched: list[str] = []
    watched = [True]

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watched and event in ("open", "os.listdir", "os.scandir"):
            touched.append(str(arguments[0]))

    sys.addaudithook(watch)
    (here / "link.txt").symlink_to(secret / "a.txt")
    (here / "linked").symlink_to(secret)
    monkeypatch.chdir(here)
    record = json.loads(folder.data_record.read_text())
    paths = [secret, secret / "a.txt", "../secret", "link.txt", "linked", "linked/a.txt", ".", "*"]
    paths += ["secret.txt", "./secret.txt", folder.path / "secret.txt"]
    names = [f"{kind}:{path}" for kind in ("text", "jsonl", "parquet", "hf") for path in paths]
    for name in [*names, "hf:somebody/something", "text:~", f"jsonl:{secret}?field=x"]:
        record["corpus"]["name"] = name
        folder.data_record.write_text(json.dumps(record))
        with pytest.raises(DataError) as caught:
            held_out_sample(folder)
        assert caught.value.code == "unknown-data"
        assert name in (caught.value.problems[0].hint or "")
    watched.clear()
    assert not [path for path in touched if "secret" in path or "link" in path]


def test_a_name_is_known_once_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINSC_DATA", str(tmp_path / "data"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("The rain fell on the river.\n" * 500)
    monkeypatch.chdir(tmp_path)
    name = f"text:{tmp_path / 'texts'}"
    train = ("train", "AB", "--preset", "tiny", "--layers", "2", "--data", name)
    done = run_cli(*train, "--steps", "1", "--batch", "2", "--seq", "32", "-o", "run")
    assert done.status == 0, done.err
    assert run_cli("eval", "run", "--windows", "2").status == 0
    monkeypatch.setenv("RINSC_DATA", str(tmp_path / "of another user"))
    unknown = run_cli("eval", "run", "--windows", "2")
    assert unknown.status != 0
    assert "error[unknown-data]" in unknown.err
    assert f"--data {name}" in unknown.err
    exported = run_cli("compile", "run", "--to", "onnx", "--held-out", "-o", "model/")
    assert exported.status == 0, exported.err
    assert not (tmp_path / "model/heldout.txt").exists()
    assert run_cli("eval", "run", "--data", name, "--windows", "2").status == 0
    assert run_cli("eval", "run", "--windows", "2").status == 0
    monkeypatch.setenv("RINSC_DATA", str(tmp_path / "prepared"))
    assert run_cli("data", "prepare", name, "--vocab-size", "270").status == 0
    require_named(name, tmp_path)
    monkeypatch.setenv("RINSC_DATA", str(tmp_path / "of another user"))
    monkeypatch.chdir("texts")  # the same place in other words
    require_named("text:../texts", tmp_path)
    with pytest.raises(DataError, match="unknown-data"):
        require_named("text:../run", tmp_path)
    with pytest.raises(DataError, match="unknown-data"):
        require_named("text:a.txt", tmp_path)  # a file of a folder that was named, by itself
    require_named("plays", tmp_path)
    os.chmod(tmp_path / "of another user", 0o500)
    note_named("text:elsewhere")  # cannot be written, and is no error
