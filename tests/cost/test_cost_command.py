"""``rinsc cost`` of repeats with options: expectations, adapters, and what it warns of."""

from __future__ import annotations

import json

import pytest

from rinsc.cost import cost_report
from rinsc.spec import model_spec
from rinsc.spec.presets import PRESETS
from tests.cli.command_line import run_cli


def test_expected_rounds_are_printed_where_they_are_drawn() -> None:
    out = run_cli("cost", "A^4{skip=0.3}B^2").out
    assert "expected rounds in training A=3.1\n" in out
    report = cost_report(model_spec("A^4{skip=0.3}B^2", preset="tiny"))
    assert f"{report.training_flops:,}" in out
    assert "training, per token, expected" in out
    assert "expected" not in run_cli("cost", "A^4B^2").out
    assert "expected" not in run_cli("cost", "A^4{skip=0.3}B^2", "--rounds", "4").out


def test_comparison_and_plan_say_what_is_expected() -> None:
    out = run_cli("cost", "A^3{skip=0.5}B", "--baseline", "AB").out
    assert "training FLOPs per token, expected" in out
    assert "FLOPs a step, expected" in out
    fixed = run_cli("cost", "A^2B", "--baseline", "AB").out
    plans = [text[text.index("steps of") :].splitlines()[0] for text in (out, fixed)]
    assert plans[0].split()[-1] == plans[1].split()[-1]
    plan = json.loads(run_cli("cost", "A^3{skip=0.5}B", "--baseline", "AB", "--json").out)["plan"]
    assert plan["in_expectation"] is True


def test_adapters_are_named_and_heavy_ones_warned_of() -> None:
    status, out, err = run_cli("cost", "A^3{adapter=scale}B")
    light = cost_report(model_spec("A^3{adapter=scale}B", preset="tiny"))
    assert (status, err) == (0, "")
    assert f"parameters, adapters ({100 * light.adapter_share:.2f} %)" in out
    assert f"{light.adapter_params:,}" in out
    assert "repeat A" in out
    status, out, err = run_cli("cost", "A^3{adapter=linear}B", "--json")
    heavy = json.loads(out)
    assert status == 0
    assert heavy["adapter_share"] > 0.01
    assert err.startswith(
        f"note: adapters hold {100 * heavy['adapter_share']:.2f} % of the parameters of "
        "A^3{adapter=linear}B, more than 1 %; with adapter=shared("
    )


@pytest.mark.parametrize("preset", list(PRESETS))
def test_the_adapter_that_is_offered_is_light_and_the_next_larger_one_is_not(preset: str) -> None:
    heavy = model_spec("A^3{adapter=linear}B", preset=preset)
    width, stored = heavy.width, cost_report(heavy).stored_params
    assert 3 * width**2 / stored > 0.01
    bare = stored - 3 * width**2
    err = run_cli("check", "A^3{adapter=linear}B", "--preset", preset).err
    rank = int(err.partition("shared(")[2].partition(")")[0])

    def share(rank: int) -> float:
        own = 2 * rank * width + 3 * rank
        return own / (bare + own)

    assert share(rank) <= 0.01005 < share(2 * rank) or 2 * rank > width
    assert f"{100 * share(rank):.2f} %" in err
    assert f"{preset} (" in run_cli("check", "A^3{adapter=linear}B").err
    for command in ("show", "cost"):
        assert run_cli(command, "A^3{adapter=linear}B", "--preset", preset).err == err
    light = f"A^3{{adapter=shared({rank})}}B"
    assert run_cli("check", light, "--preset", preset).err == ""


def test_what_repeats_do_is_a_part_and_a_row() -> None:
    out = run_cli("cost", "A^3{inject=concat, adapter=lora(2)}B").out
    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert any(words[0] == "inject" for words in lines)
    assert any(words[0] == "adapter" for words in lines)
    assert any(words[:2] == ["repeat", "A"] for words in lines)


@pytest.mark.parametrize("share", [0.0099, 0.01, 0.01004, 0.01006, 0.0103, 0.5])
def test_the_share_that_is_warned_of_reads_as_more_than_it_should_be(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rinsc.cost.report.CostReport.adapter_share", share)
    err = run_cli("cost", "A^3{adapter=scale}B").err
    assert bool(err) == (round(100 * share, 2) > 1)
    if err:
        assert float(err.removeprefix("note: adapters hold ").split(" %")[0]) > 1


def test_rounds_that_cannot_be_trained_are_refused() -> None:
    status, out, err = run_cli("cost", "PA^3{grad=3}C", "--rounds", "5")
    assert (status, out) == (2, "")
    assert err.startswith("error[no-gradient]: ")
