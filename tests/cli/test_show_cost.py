"""``rinsc show`` and ``rinsc cost``: the same numbers as in Python, laid out."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from rinsc.cost import block_params, cost_report, match_compute
from rinsc.graph import build_graph
from rinsc.graph.draw import FORMATS
from rinsc.spec import model_spec
from tests.cli.command_line import run_cli

SPEC = model_spec("(A^3)B", preset="tiny")
BASELINE = model_spec("AB", preset="tiny")


def test_show_prints_tree_and_schedule() -> None:
    status, out, err = run_cli("show", "(A^3)B")
    assert (status, err) == (0, "")
    assert "3  repeat A" in out
    assert "visits  A    A    A    B" in out


def test_show_writes_every_format(tmp_path: Path) -> None:
    paths = [tmp_path / f"model{suffix}" for suffix in FORMATS]
    status, _, err = run_cli("show", "(A^3)B", *(arg for p in paths for arg in ("-o", str(p))))
    assert status == 0
    assert err.splitlines() == [f"wrote {path}" for path in paths]
    graph = build_graph(SPEC)
    for path in paths:
        assert path.read_text("utf-8") == FORMATS[path.suffix](graph, block_params(graph))


def test_show_json() -> None:
    assert json.loads(run_cli("show", "A^2", "--json").out)["signature"] == "A^2"


def test_cost_json_has_the_exact_numbers() -> None:
    status, out, err = run_cli("cost", "(A^3)B", "--json", "--batch", "3", "--seq", "64")
    assert (status, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(cost_report(SPEC, seq=64, batch=3).as_dict()))


def test_cost_prints_the_same_numbers_and_its_convention() -> None:
    report = cost_report(SPEC, batch=16)
    out = run_cli("cost", "(A^3)B").out
    for number in (
        report.stored_params,
        report.executed_params,
        report.training_flops,
        report.forward_flops_per_token,
        report.memory.activation_bytes,
        *report.params_by_block.values(),
        *report.forward.by_part.values(),
    ):
        assert not number or f"{number:,}" in out
    assert report.convention.name in out


def test_cost_options_reach_the_report() -> None:
    args = ("--causal", "half", "--no-head", "--recompute", "--rounds", "5", "--precision", "bf16")
    data = json.loads(run_cli("cost", "(A^3)B", "--json", *args).out)
    assert "causal half, head out" in data["convention"]
    assert "recompute in" in data["convention"]
    assert data["executed_layers"] == 36
    assert data["memory"]["precision"] == "bf16"
    by_name = json.loads(run_cli("cost", "(A^3)B", "--json", "--rounds", "A=5").out)
    assert by_name["executed_layers"] == 36


def test_the_plan_is_that_of_match_compute() -> None:
    args = ("--baseline", "AB", "--tokens", "10M", "--batch-tokens", "4096")
    plan = json.loads(run_cli("cost", "(A^3)B", "--json", *args).out)["plan"]
    match = match_compute(BASELINE, SPEC, tokens=10**7, batch_tokens=4096)
    assert plan["variant_tokens"] == match.variant_tokens
    assert plan["variant_flops"] + plan["remainder_flops"] == plan["baseline_flops"]
    out = run_cli("cost", "(A^3)B", *args).out
    assert f"{match.variant_tokens:,}" in out
    assert f"{match.remainder_flops:,} FLOPs short" in out


def test_a_baseline_may_be_a_file_or_have_sizes(tmp_path: Path) -> None:
    path = tmp_path / "baseline.toml"
    path.write_text('signature = "AB"\npreset = "tiny"\nlayers = 4\n')
    for baseline in (str(path), "A[1]B[3]"):
        data = json.loads(run_cli("cost", "(A^3)B", "--json", "--baseline", baseline).out)
        assert data["baseline"]["stored_layers"] == 4


def test_the_baseline_has_exponents_of_its_own() -> None:
    args = ("--baseline", "A^sB", "--set", "r=3", "--set", "s=2", "--json")
    data = json.loads(run_cli("cost", "A^rB", *args).out)
    assert data["signature"] == "A^3B"
    assert data["baseline"]["signature"] == "A^2B"


def test_rounds_are_named_where_they_are_not_those_written() -> None:
    assert "rounds A=5\n" in run_cli("cost", "(A^3)B", "--rounds", "5").out
    for args in ([], ["--rounds", "3"]):
        assert "rounds A" not in run_cli("cost", "(A^3)B", *args).out
    assert json.loads(run_cli("cost", "(A^3)B", "--json", "--rounds", "5").out)["rounds"] == {
        "A": 5
    }


def test_the_batch_is_named_where_activations_are() -> None:
    out = run_cli("cost", "(A^3)B", "--baseline", "AB", "--batch", "5", "--seq", "32").out
    assert out.count("activations (estimate), 5 x 32 tokens") == 2


def test_a_run_folder_is_a_model(run: Path) -> None:
    spec = model_spec(run / "model.toml")
    data = json.loads(run_cli("cost", str(run), "--baseline", str(run), "--json").out)
    assert data["stored_params"] == cost_report(spec).stored_params
    assert data["baseline"]["stored_params"] == data["stored_params"]
    assert spec.text in run_cli("show", str(run)).out
    status, _, err = run_cli("cost", str(run), "--width", "32")
    assert status == 2
    assert "has dimensions of its own" in err


@pytest.mark.parametrize(
    ("written", "tokens"), [("3e6", 3_000_000), ("2.5M", 2_500_000), ("4_096_000", 4_096_000)]
)
def test_counts_take_units(written: str, tokens: int) -> None:
    args = ("--baseline", "AB", "--tokens", written, "--json")
    plan = json.loads(run_cli("cost", "(A^3)B", *args).out)["plan"]
    assert plan["baseline_tokens"] == tokens // 2048 * 2048


@pytest.mark.parametrize("columns", [80, 120])
def test_reports_fit_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr("rinsc.cli.output.PIPED_WIDTH", columns)
    for args in (["(A^3)B", "--baseline", "AB"], ["AB", "--preset", "1b", "--baseline", "A"]):
        lines = run_cli("cost", *args).out.splitlines()
        tables = [line for line in lines if not line.startswith("FLOPs counted")]
        assert max(map(len, tables)) <= columns


@pytest.mark.parametrize("columns", [20, 60])
def test_no_digit_is_lost_where_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    args = ("cost", "(A^3)B", "--preset", "1b", "--baseline", "AB", "--tokens", "20T")
    numbers = set(re.findall(r"\d[\d,.]*", run_cli(*args).out))
    monkeypatch.setattr("rinsc.cli.output.PIPED_WIDTH", columns)
    assert set(re.findall(r"\d[\d,.]*", run_cli(*args).out)) == numbers


def test_markup_in_a_signature_is_text() -> None:
    assert "A[4]B[8]" in run_cli("cost", "A[4]B[8]").out


def test_show_writes_pictures_and_says_what_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    png, pdf = tmp_path / "model.PNG", tmp_path / "model.pdf"
    assert run_cli("show", "(A^3)B", "-o", str(png), "-o", str(pdf)).status == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run_cli("show", "(A^3)B", "-o", str(tmp_path / "other.png"))
    assert done.status == 1
    assert "rinsc[draw]" in done.err
    assert not (tmp_path / "other.png").exists()
