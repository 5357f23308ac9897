"""``rinsc diff``: the same as in Python, and which of two models gives the dimensions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rinsc.extras import zoo_dir
from rinsc.spec import model_spec
from rinsc.variants.diff import diff
from tests.cli.command_line import run_cli
from tests.cli.test_zoo import at_a_terminal


def test_json_has_the_exact_numbers() -> None:
    status, out, err = run_cli("diff", "A^2B", "AB^2", "--json")
    assert (status, err) == (0, "")
    specs = (model_spec(text, preset="tiny") for text in ("A^2B", "AB^2"))
    assert json.loads(out) == json.loads(json.dumps(diff(*specs).as_dict()))


def test_the_same_model_is_no_failure() -> None:
    status, out, err = run_cli("diff", "ABAB", "A^2")
    assert (status, err) == (0, "")
    assert "are the same model at the rounds written" in out
    assert "Their dials differ: ABAB has none and A^2 has A (2 rounds)." in out


def test_figures_are_shown() -> None:
    out = run_cli("diff", "A^3{skip=0.5}B", "A^3B").out
    assert "different models" in out
    assert "0-5 ×3, 6-11" in out
    assert "A 2" in out
    assert "skip=0.5" in out


def test_tables_fit_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    files = [str(zoo_dir() / f"{name}.toml") for name in ("huginn", "hrm-text-l7h")]
    lines = at_a_terminal("diff", *files).splitlines()
    tables = lines[lines.index("") :]
    assert max(len(line.rstrip()) for line in tables) <= 80


def test_what_is_not_there_is_a_dash_and_the_fingerprint_is_named() -> None:
    rows = {line.split("  ")[0]: line for line in run_cli("diff", "ABAB", "A^2").out.splitlines()}
    assert rows["dials"].split()[1] == "-"
    assert rows["expected rounds"].split()[2] == "-"
    shown = rows["fingerprint (with dimensions)"].split()
    assert shown[-1] == shown[-2]
    assert f"{shown[-1]} (with dimensions)" in run_cli("check", "ABAB", "--preset", "tiny").out


def test_layers_are_counted_as_show_counts_them() -> None:
    shown = run_cli("show", "P[1]A[2]^3C[4]").out.splitlines()[-1].split()[1:]
    out = run_cli("diff", "P[1]A[2]^3C[4]", "P[1]A[2]^2C[4]").out
    assert shown == ["0", "1-2", "1-2", "1-2", "3-6"]
    assert "0, 1-2 ×3, 3-6" in out
    assert "0, 1-2 ×2, 3-6" in out


def test_strict_holds_for_both_sides(tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_text('signature = "ABCDE"\npreset = "tiny"\n', encoding="utf-8")
    for pair in (("AB", "ABCDE"), ("ABCDE", "AB"), ("AB", str(path)), (str(path), "AB")):
        status, out, err = run_cli("diff", *pair, "--strict")
        assert (status, out) == (1, "")
        assert "layers-do-not-split" in err
        assert run_cli("diff", *pair).status == 0
    path.write_text('signature = "AB"\npreset = "tiny"\n', encoding="utf-8")
    assert run_cli("diff", "ABCDE", str(path), "--strict").status == 1


def test_one_model_with_dimensions_gives_them_to_the_other(tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_text('signature = "A^2B"\npreset = "tiny"\nwidth = 128\n', encoding="utf-8")
    for pair in ((str(path), "A^2B"), ("A^2B", str(path))):
        found = json.loads(run_cli("diff", *pair, "--json").out)
        assert found["same_model"] is True
        assert found["dimensions"] == {}
    found = json.loads(run_cli("diff", "A^2B", str(path), "--width", "64", "--json").out)
    assert found["dimensions"] == {"width": [64, 128]}


def test_files_of_the_zoo_and_exponents() -> None:
    files = [str(zoo_dir() / f"rins-a{r}b.toml") for r in (2, 3)]
    found = json.loads(run_cli("diff", *files, "--json").out)
    assert [found[side]["executed_layers"] for side in ("left", "right")] == [36, 48]
    found = json.loads(run_cli("diff", "A^rB", "AAB", "--set", "r=2", "--json").out)
    assert found["same_model"]


def test_a_run_folder_is_a_model(run: Path) -> None:
    found = json.loads(run_cli("diff", str(run), "A^2B", "--json").out)
    assert found["same_model"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["A("], "RIGHT requires an argument"),
        (["A(", "A"], "error"),
        (["A", "B)"], "error"),
        (["A", "nowhere.toml"], "cannot read the spec"),
        (["A", "A", "--layers", "0"], "layers"),
    ],
)
def test_mistakes(args: list[str], says: str) -> None:
    status, out, err = run_cli("diff", *args)
    assert status in (1, 2)
    assert out == ""
    assert says in err
    assert "hint:" in err
