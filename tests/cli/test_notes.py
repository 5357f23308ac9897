"""Warnings on the command line: ours are notes, those of others stay as they are."""

from __future__ import annotations

import warnings

import pytest

from rinsc.backends.onnx.run.providers import ProviderWarning
from rinsc.cli.output import warnings_as_notes


def test_a_warning_of_ours_is_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings_as_notes():
        warnings.warn(ProviderWarning("running on the CPU"), stacklevel=1)
    assert capsys.readouterr().err == "note: running on the CPU\n"


def test_a_warning_of_others_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: seen.append(str(message)))
    before = warnings.showwarning
    with warnings_as_notes():
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert seen == ["old"]
    assert warnings.showwarning is before


def test_what_is_turned_into_an_error_stays_one() -> None:
    with warnings_as_notes():
        warnings.simplefilter("error")
        with pytest.raises(ProviderWarning):
            warnings.warn(ProviderWarning("x"), stacklevel=1)
