"""The sample of held-out text, against the corpus itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.data import corpora
from rinsc.data.corpora import load_corpus
from rinsc.errors import DataError
from rinsc.training.heldout import SAMPLE_BYTES, first_lines, held_out_sample
from rinsc.training.run_folder import RunFolder


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
