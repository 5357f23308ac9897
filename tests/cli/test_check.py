"""``rinsc check``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.fingerprints import fingerprint
from rinsc.spec import model_spec
from rinsc.syntax import canonical, parse, schedule_fingerprint
from tests.cli.command_line import run_cli


def facts(*args: str) -> list[dict[str, object]]:
    status, out, err = run_cli("check", *args, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    return found if isinstance(found, list) else [found]


def test_it_prints_spelling_and_fingerprint() -> None:
    status, out, err = run_cli("check", "(A^3)B")
    assert (status, err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert rows == {
        "signature": "(A^3)B",
        "canonical": "A^3B",
        "fingerprint": schedule_fingerprint(parse("AAAB")),
        "blocks": "2: A B",
        "visits": "4",
    }


def test_one_model_under_two_spellings() -> None:
    left, right, other = facts("AAAB", "(Q^{3})R", "A^2B")
    assert left["fingerprint"] == right["fingerprint"] != other["fingerprint"]
    assert left["canonical"] == right["canonical"] == canonical(parse("A^3B"))


def test_with_dimensions_it_is_the_model_that_has_the_fingerprint() -> None:
    (found,) = facts("A^3B", "--preset", "small")
    assert found["fingerprint"] == fingerprint(model_spec("A^3B", preset="small"))
    assert found["fingerprint_of"] == "model"
    assert found["layers"] == {"A": 4, "B": 4}


def test_free_exponents_are_bound() -> None:
    (found,) = facts("A^rB^s", "--set", "r=3", "--set", "s=2")
    assert found["signature"] == "A^3B^2"


def test_each_model_is_given_the_exponents_that_it_has(tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_text('signature = "A^sB"\npreset = "tiny"\nbind = { s = 7 }\n')
    found = facts("A^rB", "AB", "A^r(AB)^s", str(path), "--set", "r=3", "--set", "s=2")
    assert [each["signature"] for each in found] == ["A^3B", "AB", "A^3(AB)^2", "A^2B"]


def test_names_that_no_model_has_are_reported_together() -> None:
    status, out, err = run_cli(
        "check", "A^rB", "AB", "--set", "p=1", "--set", "r=2", "--set", "q=1"
    )
    assert (status, out) == (1, "")
    assert err.count("error[unknown-exponent]") == 2
    assert "'p'" in err
    assert "'q'" in err
    assert "free exponents here: r" in err


def test_a_run_folder_is_a_model(run: Path) -> None:
    (found,) = facts(str(run))
    assert found["fingerprint"] == fingerprint(model_spec(run / "model.toml"))


def test_a_file_is_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_text('signature = "A^rB"\npreset = "tiny"\nbind = { r = 2 }\n')
    (found,) = facts(str(path), "--layers", "4")
    assert found["layers"] == {"A": 2, "B": 2}
    assert found["signature"] == "A^2B"


def test_many_blocks_stay_on_one_line() -> None:
    out = run_cli("check", "".join(f"A{number}" for number in range(500))).out
    assert "… and 484 more" in out


@given(st.text(max_size=30))
def test_no_text_escapes(text: str) -> None:
    status, out, err = run_cli("check", "--", text)
    assert status in (0, 1)
    assert (status == 0) == (out != "") == (not err.startswith("error["))
    assert status == 0 or err.startswith("error[")


@pytest.mark.parametrize(
    "command",
    [
        ("check", "A3B"),
        ("show", "A3B"),
        ("cost", "A3B"),
        ("diff", "AB", "A3B"),
        ("compile", "A3B", "--to", "torch", "-o", "OUT"),
    ],
)
def test_a_block_that_looks_like_a_power_is_noted_and_refused_if_strict(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    args = [str(tmp_path / "model.py") if arg == "OUT" else arg for arg in command]
    done = run_cli(*args)
    assert done.status == 0
    assert done.err.count("note: A3 is a block; for A three times write A^3\n") == 1
    refused = run_cli(*args, "--strict")
    assert refused.status == 1
    assert "error[lone-number]" in refused.err


def test_the_notes_are_in_the_json() -> None:
    (note,) = json.loads(run_cli("check", "A3B", "--json").out)["notes"]
    assert note.startswith("A3 is a block")
