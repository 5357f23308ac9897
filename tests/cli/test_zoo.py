"""``rinsc zoo``: entries, enumerations and families as tables, as lines and as JSON."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from rinsc.cli import main
from rinsc.extras import zoo_dir
from rinsc.scalars import rounded_count
from rinsc.spec import model_spec
from rinsc.syntax import parse, visit_count
from rinsc.variants.enumerate import family, variants
from rinsc.variants.zoo import figures, zoo_entries, zoo_entry
from tests.cli.command_line import run_cli

ROOT = Path(__file__).resolve().parents[2]
BASE = model_spec("A", preset="tiny")
ENUMERATE = ("enumerate", "--letters", "2", "--length", "3")


class Terminal(io.StringIO):
    """A standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def at_a_terminal(*args: str) -> str:
    """What a command prints where standard output is a terminal, without its colours."""
    shown = Terminal()
    with redirect_stdout(shown):
        assert main(args) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue())


def test_list_has_a_row_for_each_entry() -> None:
    status, out, err = run_cli("zoo", "list")
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    for entry in zoo_entries():
        found = figures(entry)
        assert rounded_count(found.parameters) in rows[entry.name]
        assert rows[entry.name].split()[-1] == (entry.source.arxiv or "-")
        assert f"{found.cost_ratio:.3f}" in rows[entry.name]
    assert "R 33" in rows["huginn"]
    assert "A 1.5" in rows["rins-skip-adapters"]


def test_list_fits_a_page() -> None:
    lines = run_cli("zoo", "list").out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 100


@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for args in (["list"], ["family", "rins"], ["enumerate", "--letters", "2", "--length", "9"]):
        lines = at_a_terminal("zoo", *args).splitlines()
        assert max(len(line.rstrip()) for line in lines) <= columns
        assert len(lines) == len({line.split()[0] for line in lines}), "a row has wrapped"


def test_signatures_get_the_room_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert "A^3{inject=concat, adapter=li…" in at_a_terminal("zoo", "list")
    monkeypatch.setenv("COLUMNS", "80")
    assert "A^3{inject…" in at_a_terminal("zoo", "list")


def test_list_as_json() -> None:
    rows = json.loads(run_cli("zoo", "list", "--json").out)
    assert [row["name"] for row in rows] == sorted(path.stem for path in zoo_dir().glob("*.toml"))
    huginn = next(row for row in rows if row["name"] == "huginn")
    assert huginn["parameters"] == figures(zoo_entry("huginn")).parameters
    assert huginn["expected_rounds"] == {"R": 33}
    assert huginn["source"]["arxiv"] == "2502.05171"
    assert huginn["baseline"] == "P[2]R[4]C[2]{kind=huginn_coda}"


@pytest.mark.parametrize("name", ["huginn", "rins-skip-adapters", "albert-base", "gpt2"])
def test_show_has_the_claims_beside_our_figures_and_the_drawing(name: str) -> None:
    status, out, err = run_cli("zoo", "show", name)
    assert (status, err) == (0, "")
    entry = zoo_entry(name)
    assert entry.source.title in out.replace("\n", " ")
    assert f"{entry.expect.parameters:,}" in out
    assert f"{figures(entry).parameters:,}" in out
    assert "DIFFERS" not in out
    assert "expected  " in out
    assert f"{figures(entry).cost_ratio:.3f} against {figures(entry).baseline}" in out
    assert run_cli("show", str(entry.path)).out.rstrip() in out


def test_show_as_json() -> None:
    found = json.loads(run_cli("zoo", "show", "etd", "--json").out)
    assert found["expect"]["executed_layers"] == found["executed_layers"] == 20
    assert all(claim["holds"] for claim in found["claims"])
    assert [claim["name"] for claim in found["claims"]] == [
        *("parameters", "layers executed", "training FLOPs against E[7] T[4] D[5]")
    ]


def test_a_claim_that_does_not_hold_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (zoo_dir() / "etd.toml").read_text(encoding="utf-8")
    wrong = text.replace("executed_layers = 20", "executed_layers = 21")
    (tmp_path / "etd.toml").write_text(wrong, encoding="utf-8")
    monkeypatch.setattr("rinsc.variants.zoo.zoo_dir", lambda: tmp_path)
    assert run_cli("zoo", "show", "etd").out.count("DIFFERS") == 1


def test_enumerate_prints_a_signature_a_line_where_there_is_no_terminal() -> None:
    args = ("--letters", "3", "--length", "4", "--degree", "2")
    status, out, err = run_cli("zoo", "enumerate", *args)
    assert status == 0
    assert err.startswith("note: 6 variants split the layers unevenly")  # 12 layers over 9 parts
    assert out.splitlines() == [variant.signature for variant in variants(BASE, 3, 4, 2)]


def test_enumerate_prints_costs_at_a_terminal() -> None:
    lines = at_a_terminal("zoo", "enumerate", "--letters", "2", "--length", "3").splitlines()
    assert lines[0].split() == ["signature", "parameters", "layers", "ratio"]
    for line, variant in zip(lines[1:], variants(BASE, 2, 3), strict=True):
        assert line.split()[0] == variant.signature
        assert line.split()[-2:] == [str(variant.executed_layers), f"{variant.cost_ratio:.3f}"]


def test_enumerate_as_json_with_filters_and_dimensions() -> None:
    args = ("--letters", "3", "--length", "5", "--layers", "9", "--min-cost-ratio", "1.3")
    more = ("--max-cost-ratio", "1.6", "--max-layers-executed", "14", "--limit", "7")
    out = run_cli("zoo", "enumerate", *args, *more, "--json").out
    rows = json.loads(out)
    assert len(rows) == 7
    for row in rows:
        assert 1.3 <= row["cost_ratio"] <= 1.6
        assert row["executed_layers"] <= 14


@pytest.mark.parametrize("limit", ["1e30", "9e99"])
def test_a_limit_beyond_any_number_is_none(limit: str) -> None:
    status, out, err = run_cli("zoo", *ENUMERATE, "--limit", limit)
    assert (status, err) == (0, "")
    assert out == run_cli("zoo", *ENUMERATE).out


def test_strict_leaves_words_out() -> None:
    args = ("enumerate", "--letters", "3", "--length", "4", "--layers", "5")
    out = run_cli("zoo", *args, "--strict").out
    assert out.splitlines() == ["A", "A^2", "A^3", "A^4"]
    assert len(run_cli("zoo", *args).out.splitlines()) > 4


def test_an_enumeration_of_nothing_ends() -> None:
    args = ("enumerate", "--letters", "8", "--length", "16", "--max-parameters", "10")
    assert run_cli("zoo", *args) == (0, "", "")


def test_a_long_enumeration_can_be_cut_short() -> None:
    command = f"{sys.executable} -m rinsc zoo enumerate --letters 8 --length 16 --degree 3"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["A", "A^2", "A^3"]
    assert done.stderr == ""
    assert done.returncode == 141


def test_a_family() -> None:
    status, out, err = run_cli("zoo", "family", "rins")
    assert (status, err) == (0, "")
    assert out.splitlines() == [member.signature for member in family("rins")]
    rows = json.loads(run_cli("zoo", "family", "rins", "--json").out)
    assert len(rows) >= 60
    assert all(row["idea"] and row["cost_ratio"] >= 1 for row in rows)


def test_a_family_at_a_terminal() -> None:
    assert "repeat-all-over" in at_a_terminal("zoo", "family", "rins")


def test_members_that_few_layers_make_equal_are_left_out() -> None:
    status, out, err = run_cli("zoo", "family", "rins", "--layers", "9")
    assert status == 0
    same = err.count("is the same model as")
    assert len(out.splitlines()) + same == len(family("rins"))
    assert "A^2BCD is the same model as A^2BC" in err


def parts_of(signature: str) -> int:
    """How many parts a member's layers are split over, from its letters and its degree."""
    letters = len(set(re.findall("[A-D]", signature)))
    parts: int = letters ** int(signature.partition("@")[2] or 1)
    return parts


@pytest.mark.parametrize("layers", [4, 7, 12, 16])
@pytest.mark.parametrize("strict", [False, True])
def test_members_that_do_not_fit_the_layers_are_left_out_or_marked(
    layers: int, strict: bool
) -> None:
    args = ("zoo", "family", "rins", "--layers", str(layers), *(["--strict"] if strict else []))
    status, out, err = run_cli(*args, "--json")
    assert status == 0
    rows = {row["signature"]: row for row in json.loads(out)}
    equal = re.findall(r"layers (\S+) is the same model", err)
    for member in family("rins"):
        parts = parts_of(member.signature)
        fits = layers >= parts and (not strict or layers % parts == 0)
        assert (member.signature in rows) == (fits and member.signature not in equal)
        assert fits or f"{member.signature}, " in err
    for signature, row in rows.items():
        is_even = layers % parts_of(signature) == 0
        visits = visit_count(parse(signature))
        wanted = None if is_even else pytest.approx(visits * layers / parts_of(signature))
        assert row["layers_if_even"] == wanted
        assert not is_even or row["executed_layers"] == visits * layers / parts_of(signature)


def test_by_default_all_members_divide_and_uneven_variants_are_counted() -> None:
    rows = json.loads(run_cli("zoo", "family", "rins", "--json").out)
    assert all(row["layers_if_even"] is None for row in rows)
    assert (
        "5 variants split the layers unevenly"
        in run_cli("zoo", "family", "rins", "--preset", "tiny").err
    )
    assert "40.5 layers if even" in at_a_terminal("zoo", "family", "rins", "--preset", "tiny")


@pytest.mark.parametrize(
    ("args", "status", "says"),
    [
        (["show", "hugin"], 2, "did you mean 'huginn'?"),
        (["show"], 2, "NAME requires an argument"),
        (["lst"], 2, "did you mean 'list'?"),
        (["family", "rinz"], 2, "did you mean 'rins'?"),
        (["enumerate", "--letters", "3"], 2, "--length requires an argument"),
        (["enumerate", "--letters", "0", "--length", "3"], 2, "letters must be"),
        (["enumerate", "--letters", "9", "--length", "17", "--degree", "4"], 2, "degree must be"),
        (["enumerate", "--letters", "2.5", "--length", "3"], 2, "--letters"),
        (
            [*ENUMERATE, "--min-parameters", "2M", "--max-parameters", "1M"],
            2,
            "no variant has parameters from 2000000 to 1000000",
        ),
        (
            [*ENUMERATE, "--min-cost-ratio", "nan"],
            2,
            "no variant has cost ratio",
        ),
        ([*ENUMERATE, "--layers", "x"], 2, "--layers"),
        ([*ENUMERATE, "--heads", "5"], 1, "heads"),
    ],
)
def test_mistakes(args: list[str], status: int, says: str) -> None:
    done = run_cli("zoo", *args)
    assert done.status == status
    assert done.out == ""
    assert says in done.err
    assert "hint:" in done.err


def test_without_a_command_it_says_which_there_are() -> None:
    status, out, _ = run_cli("zoo")
    assert status == 0
    assert all(name in out for name in ("list", "show", "enumerate", "family"))


LIST = """
import runpy, sys
sys.argv = ["rinsc", "zoo", "list"]
try:
    runpy.run_module("rinsc", run_name="__main__", alter_sys=True)
except SystemExit as stop:
    assert not stop.code, stop.code
import os
heavy = {"torch", "onnx", "onnx_ir", "onnxruntime", "transformers", "numpy"} & set(sys.modules)
assert not heavy, heavy
assert sum(os.times()[:2]) < 1.0, os.times()
"""


def test_list_is_quick_and_imports_no_backend(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIST],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "huginn" in done.stdout


def test_entries_and_families_are_filtered_too() -> None:
    _, every, _ = run_cli("zoo", "list", "--json")
    _, large, _ = run_cli("zoo", "list", "--json", "--min-parameters", "1B")
    wanted = [row for row in json.loads(every) if row["parameters"] >= 10**9]
    assert json.loads(large) == wanted
    _, cheap, _ = run_cli("zoo", "family", "rins", "--json", "--max-cost-ratio", "1.5")
    _, members, _ = run_cli("zoo", "family", "rins", "--json")
    kept = [row for row in json.loads(members) if row["cost_ratio"] <= 1.5]
    assert json.loads(cheap) == kept
    assert 0 < len(kept) < len(json.loads(members))


@pytest.mark.parametrize("command", ["check", "show", "cost"])
def test_the_name_of_an_entry_stands_for_its_file(command: str) -> None:
    path = str(zoo_dir() / "tinyllama.toml")
    by_name, by_path = run_cli(command, "tinyllama", "--json"), run_cli(command, path, "--json")
    assert by_name == by_path
    assert by_name.status == 0


def test_a_file_of_ones_own_is_held_to_its_claims(tmp_path: Path) -> None:
    text = (zoo_dir() / "tinyllama.toml").read_text(encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('signature = "A"', 'signature = "A^2"'), encoding="utf-8")
    status, out, _ = run_cli("zoo", "show", str(path))
    assert status == 0
    assert out.startswith("mine\n")
