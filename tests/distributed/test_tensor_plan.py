"""Plans read off programs, against those that the papers of tensor parallelism give by name."""

from __future__ import annotations

import pytest

from rinsc.backends.torch.tensor_plan import tensor_plan
from rinsc.errors import LoweringError
from rinsc.layers import trace_programs
from rinsc.ops import Activation, Add, Linear, RMSNorm
from rinsc.ops.program import Builder, Program, Value, trace
from tests.distributed.training import spec_of

ATTENTION = {"query": "column", "key": "column", "value": "column"}
GATED_MLP = {"gate": "column", "up": "column", "down": "row"}


def layer_of(kind: str, **more: int) -> Program:
    return trace_programs(spec_of("A^2B", kind=kind, **more)).layers["A"][0]


@pytest.mark.parametrize("kind", ["llama", "huginn", "ouro"])
def test_gated_layers(kind: str) -> None:
    assert tensor_plan(layer_of(kind), 2) == ATTENTION | {"output": "row"} | GATED_MLP


@pytest.mark.parametrize("kind", ["gpt", "transformer", "albert"])
def test_plain_layers(kind: str) -> None:
    plan = tensor_plan(layer_of(kind, kv_heads=4), 2)
    assert plan == ATTENTION | {"output": "row", "up": "column", "down": "row"}


def test_a_gate_on_attention_is_cut_like_the_heads() -> None:
    plan = tensor_plan(layer_of("hrm", kv_heads=4), 2)
    assert sorted(plan.values()) == ["column"] * 6 + ["row"] * 2
    assert plan["output"] == plan["down"] == "row"


@pytest.mark.parametrize(
    ("more", "devices", "says"),
    [
        ({"heads": 6, "kv_heads": 2}, 3, "2 heads"),
        ({"heads": 3, "kv_heads": 3}, 2, "3 heads"),
        ({"mlp_width": 37}, 2, "'gate', 37,"),
    ],
)
def test_what_does_not_divide(more: dict[str, int], devices: int, says: str) -> None:
    with pytest.raises(LoweringError) as caught:
        tensor_plan(layer_of("llama", **more), devices)
    assert caught.value.code == "not-divisible"
    assert says in caught.value.message
    assert "kv_heads" in (caught.value.hint or "")


def normed(b: Builder, given: dict[str, Value]) -> dict[str, Value]:
    """A norm needs all channels, so that neither matrix round it can be cut."""
    h = b(RMSNorm(1e-5), b(Linear(8), given["x"], name="up"), name="norm")
    return {"x": b(Linear(4), h, name="down")}


def test_a_layer_whose_form_does_not_allow_it() -> None:
    with pytest.raises(LoweringError) as caught:
        tensor_plan(trace({"x": ("batch", "seq", 4)}, normed), 2)
    assert caught.value.code == "not-tensor-parallel"
    assert caught.value.hint


def test_only_what_must_be_whole_stays_whole() -> None:
    def half(b: Builder, given: dict[str, Value]) -> dict[str, Value]:
        x = normed(b, given)["x"]
        h = b(Activation("silu"), b(Linear(8), x, name="wide"))
        return {"x": b(Add(), x, b(Linear(4), h, name="back"))}

    plan = tensor_plan(trace({"x": ("batch", "seq", 4)}, half), 2)
    assert plan == {"wide": "column", "back": "row"}
