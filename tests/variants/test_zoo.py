"""Reading entries: every mistake at once, each with its file and a hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from rinsc.errors import RinscError, SignatureError, SpecError
from rinsc.fingerprints import fingerprint
from rinsc.spec import model_spec, with_signature
from rinsc.variants.costed import costed, visited_once
from rinsc.variants.zoo import read_entry, zoo_entries, zoo_entry

GOOD = """
signature = "A^2B"
preset = "tiny"

[source]
title = "A paper"
arxiv = "2502.07503"
year = 2025

[expect]
parameters = 586816
baseline = "AB"
cost_ratio = 1.4
cost_ratio_tolerance = 0
"""


def entry_file(folder: Path, *changes: tuple[str, str]) -> Path:
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "entry.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file(tmp_path: Path) -> None:
    entry = read_entry(entry_file(tmp_path))
    assert entry.name == "entry"
    assert entry.source.reference == "arXiv 2502.07503"
    assert entry.spec == model_spec("A^2B", preset="tiny")
    assert entry.baseline == model_spec("AB", preset="tiny")


@pytest.mark.parametrize(
    ("old", "new", "codes"),
    [
        ("title", "titel", ["unknown-key", "missing-key"]),
        ("year = 2025", "", ["missing-key"]),
        ("year = 2025", 'year = "2025"', ["bad-value"]),
        ("year = 2025", "year = true", ["bad-value"]),
        ("parameters = 586816", "parameters = -1", ["bad-value"]),
        ("parameters = 586816", "parameters = 586816.0", ["bad-value"]),
        ("cost_ratio = 1.4", "cost_ratio = nan", ["bad-value"]),
        ('baseline = "AB"', "", ["missing-key"]),
        ('arxiv = "2502.07503"', "", ["missing-key"]),
        ("[source]", "[sources]", ["missing-table"]),
        ("[expect]", "[expected]", ["missing-table"]),
        ("[source]", "source = 3\n[other]", ["missing-table"]),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, codes: list[str]) -> None:
    path = entry_file(tmp_path, (old, new))
    with pytest.raises(SpecError) as caught:
        read_entry(path)
    assert [problem.code for problem in caught.value.problems] == codes
    for problem in caught.value.problems:
        assert str(path) in str(problem.place)
        assert problem.hint


def test_mistakes_are_told_together(tmp_path: Path) -> None:
    path = entry_file(tmp_path, ("title", "titel"), ("parameters =", "parameter ="))
    with pytest.raises(SpecError) as caught:
        read_entry(path)
    hints = [problem.hint for problem in caught.value.problems]
    assert "did you mean 'title'?" in hints
    assert "did you mean 'parameters'?" in hints


@pytest.mark.parametrize("text", ["", "=", "[source", "a = " + "[" * 3000, "é"])
def test_a_file_that_is_no_entry(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(SpecError):
        read_entry(path)
    with pytest.raises(SpecError, match="spec-not-readable"):
        read_entry(tmp_path / "nowhere.toml")


def test_a_signature_that_is_none_is_told_when_it_is_needed(tmp_path: Path) -> None:
    entry = read_entry(entry_file(tmp_path, ('"A^2B"', '"A^2B("'), ('"AB"', '"A)"')))
    with pytest.raises(SpecError):
        _ = entry.spec
    entry = read_entry(entry_file(tmp_path, ('"AB"', '"A)"')))
    with pytest.raises(RinscError):
        _ = entry.baseline


def test_every_broken_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry_file(tmp_path, ("title", "titel"))
    (tmp_path / "other.toml").write_text("=", encoding="utf-8")
    monkeypatch.setattr("rinsc.variants.zoo.zoo_dir", lambda: tmp_path)
    with pytest.raises(SpecError) as caught:
        zoo_entries()
    assert {problem.code for problem in caught.value.problems} == {
        *("unknown-key", "missing-key", "spec-not-toml")
    }


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'huginn'"):
        zoo_entry("hugin")
    with pytest.raises(SpecError, match="unknown-entry"):
        zoo_entry("../zoo/huginn")


def test_another_word_at_the_same_dimensions() -> None:
    spec = model_spec("A^2B", preset="tiny")
    assert with_signature(spec, "AB").layers == spec.layers
    assert with_signature(spec, "A[3]B[4]").layers == 7
    assert with_signature(spec, "AB").width == spec.width


@pytest.mark.parametrize(
    ("signature", "layers", "once"),
    [
        ("A[12]", 12, "A"),
        ("A^3B", 12, "AB"),
        ("P[1]R[2]^4{inject=add}C[1]", 4, "P[1]R[2]C[1]"),
        ("A{each=2, tie=mlp}A{reverse}", 12, "A{tie=mlp}"),
        ("A^2B{kind=gpt}", 12, "AB{kind=gpt}"),
        ("A^2B@2", 12, "ABCD"),
        ("AAB", 13, "AB"),
    ],
)
def test_the_same_blocks_visited_once(signature: str, layers: int, once: str) -> None:
    found = visited_once(model_spec(signature, preset="tiny", layers=layers))
    assert fingerprint(found) == fingerprint(model_spec(once, preset="tiny", layers=layers))
    sizes = model_spec(signature, preset="tiny", layers=layers).parts.values()
    assert list(found.parts.values()) == list(sizes)


def test_layers_that_do_not_divide_are_refused_on_request() -> None:
    spec = model_spec("A", preset="tiny")
    assert with_signature(spec, "ABCDE").layers == with_signature(spec, "AB", strict=True).layers
    with pytest.raises(SignatureError, match="layers-do-not-split"):
        with_signature(spec, "ABCDE", strict=True)
    with pytest.raises(SignatureError, match="layers-do-not-split"):
        costed(spec, "ABCDE", strict=True)
