"""`verify` passes for what is right, and fails for what has been broken."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings

import rinsc.verification
from rinsc.backends.onnx import to_onnx
from rinsc.backends.torch import to_torch
from rinsc.errors import LoweringError, SpecError
from rinsc.graph import BlockGraph, unroll
from rinsc.layers import layer_kind
from rinsc.ops import Attention
from rinsc.spec import TowersSpec, model_spec, towers_spec
from rinsc.spec.small import small_copy
from rinsc.verification import VerifyRow, verify
from tests.kinds import KINDS
from tests.specs import tower_specs


def failures(rows: list[VerifyRow]) -> set[str]:
    return {row.measure for row in rows if not row.passed}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("text", ["AB", "(A^3)B", "((A^2)B)^2C", "AAB@2"])
def test_every_form_agrees(text: str, kind: str) -> None:
    rows = verify(model_spec(text, preset="tiny", kind=kind))
    assert failures(rows) == set()
    assert {row.measure for row in rows} == {
        layer_kind(kind).gives,
        "forward FLOPs",
        "training FLOPs",
        "parameters",
    }


@settings(max_examples=8)
@given(tower_specs(max_visits=4))
def test_every_form_of_towers_agrees(spec: TowersSpec) -> None:
    rows = verify(spec)
    assert failures(rows) == set(), [row for row in rows if not row.passed]
    assert {row.right for row in rows if row.measure in ("logits", "embedding")} == {
        *("torch, its signature alone", "torch, weights reloaded"),
        *("ONNX, dial", "ONNX, unrolled"),
    }


@settings(max_examples=3)
@given(tower_specs(max_visits=4, paired=True))
def test_every_form_of_pictures_and_texts_agrees(spec: TowersSpec) -> None:
    """With every option of blocks and repeats in either tower, and blocks that both share."""
    rows = verify(spec)
    assert failures(rows) == set(), [row for row in rows if not row.passed]
    assert {row.right for row in rows if row.measure == "logits"} == {
        "ONNX, dial",
        "ONNX, unrolled",
    }


def test_other_weights_of_a_shared_block_are_seen_in_both_towers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def changed(model: Any, rounds: Any = None) -> Any:
        model = copy.deepcopy(model)
        for parameter in model.image.A.parameters():
            parameter.mul_(2)
        return to_onnx(model, rounds)

    monkeypatch.setattr(rinsc.verification, "to_onnx", changed)
    rows = verify(towers_spec("image: AB, text: AC", preset="tiny"))
    assert {row.left.split(",")[1] for row in rows if not row.passed} == {" image", " text"}


def test_rounds_that_training_draws_are_counted_as_written() -> None:
    for text in ("A^3{sample=uniform(1, 9)}", "A^9{skip=0.5}"):
        assert failures(verify(model_spec(text, preset="tiny"))) == set()


def test_wrong_costs_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attention, "matmul_flops", lambda self, *sizes, causal: 0)
    rows = verify(model_spec("A^2B", preset="tiny"))
    assert failures(rows) == {"forward FLOPs", "training FLOPs"}


def test_a_wrong_schedule_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_round_more(graph: BlockGraph, rounds: Any = None) -> BlockGraph:
        return unroll(graph, 2 if rounds is None else rounds + 1)

    monkeypatch.setattr(rinsc.verification, "unroll", one_round_more)
    assert "logits" in failures(verify(model_spec("A^3B", preset="tiny")))


def test_wrong_weights_in_the_exported_model_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_another_model(model: Any, **options: Any) -> Any:
        return to_onnx(to_torch(model.spec), **options)

    monkeypatch.setattr(rinsc.verification, "to_onnx", of_another_model)
    rows = verify(model_spec("A^2B", preset="tiny"))
    assert failures(rows) == {"logits"}
    assert all("ONNX" in row.right for row in rows if not row.passed)
    assert {"ONNX, cached", "ONNX, cached, dial"} <= {row.right for row in rows if not row.passed}


def test_not_a_number_never_passes() -> None:
    assert not VerifyRow("a", "b", "logits", float("nan"), 1.0).passed


def test_a_schedule_too_long_to_compare_is_refused_at_once() -> None:
    with pytest.raises(LoweringError, match="too-long-to-verify"):
        verify(model_spec("A^300", preset="tiny"))


def test_rounds_that_would_take_too_long_are_left_out() -> None:
    nested = "((((((A[1]^2B[1])^2C[1])^2D[1])^2E[1])^1F[1])^1G[1])^1"
    rows = verify(model_spec(nested, preset="tiny"))
    assert failures(rows) == set()
    assert "torch, 4 rounds" not in {row.left for row in rows}


def test_the_callers_random_numbers_are_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    verify(model_spec("AB", preset="tiny"))
    assert torch.equal(torch.rand(3), expected)


def test_text_is_no_spec() -> None:
    text: Any = "(A^3)B"
    with pytest.raises(SpecError, match="not-a-spec"):
        verify(text)


def test_the_small_copy_keeps_what_matters() -> None:
    spec = model_spec("((A^2)B)^2C", preset="300m")
    small = small_copy(spec)
    assert small.text == spec.text
    assert list(small.parts.values()) == [2, 2, 2]
    assert small.heads // small.kv_heads == spec.heads // spec.kv_heads
    assert small.width <= 128


def test_torchs_default_device_is_no_part_of_a_comparison() -> None:
    spec = model_spec("A^2", preset="tiny", layers=1)
    expected = verify(spec)
    with torch.device("meta"):
        assert verify(spec) == expected
