"""Ways of visiting a block, shared parts and blocks of different kinds, against plain loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rinsc.backends.torch import CompiledModule, to_torch
from rinsc.errors import SignatureError
from rinsc.spec import ModelSpec
from tests.onnx.models import lively_model, small_spec

IDS = torch.randint(53, (2, 7), generator=torch.Generator().manual_seed(0))


def by_layers(model: CompiledModule, schedule: list[str]) -> torch.Tensor:
    """The layers named, one after the other: ``A.0`` twice is the same layer twice."""
    own: Any = model
    x = own.embedding(IDS)
    for path in schedule:
        x = model.get_submodule(path)(x, own.cos[:7], own.sin[:7])
    logits: torch.Tensor = own.head(own.final_norm(x))
    return logits


@pytest.mark.parametrize(
    ("signature", "schedule"),
    [
        ("A[3]{each=2}B[1]", "A.0 A.0 A.1 A.1 A.2 A.2 B.0"),
        ("A[3]A{reverse}B[1]", "A.0 A.1 A.2 A.2 A.1 A.0 B.0"),
        ("A[2]{each=3, reverse}A B[2]", "A.1 A.1 A.1 A.0 A.0 A.0 A.0 A.1 B.0 B.1"),
        ("(A[2]{reverse}B[2])^2", "A.1 A.0 B.0 B.1 A.1 A.0 B.0 B.1"),
        ("A[2]{reverse}^2 B[2]{each=2}", "A.1 A.0 A.1 A.0 B.0 B.0 B.1 B.1"),
    ],
)
def test_visits_run_the_layers_that_they_say(signature: str, schedule: str) -> None:
    layers = sum(int(c) for c in signature if c.isdigit() and f"[{c}]" in signature)
    paths = schedule.split()
    model = lively_model(small_spec(signature, layers=len(set(paths))))
    assert layers
    assert torch.allclose(model(IDS), by_layers(model, paths), atol=1e-5)
    assert not torch.allclose(model(IDS), by_layers(model, paths[::-1]), atol=1e-3)


@pytest.mark.parametrize("part", ["attention", "mlp"])
def test_a_tied_part_is_stored_once_and_used_by_every_layer(part: str) -> None:
    tied = lively_model(small_spec(f"A[3]{{tie={part}}}B[1]"))
    loose = to_torch(small_spec("A[3]B[1]"))
    shared = {n.split(".", 2)[2] for n in tied.state_dict() if n.startswith("A.tied.")}
    assert shared
    untied: dict[str, torch.Tensor] = {}
    for name, tensor in tied.state_dict().items():
        if name.startswith("A.tied."):
            untied |= {f"A.{index}.{name.split('.', 2)[2]}": tensor for index in range(3)}
        else:
            untied[name.replace("A.layers.", "A.")] = tensor
    loose.load_state_dict(untied)
    expected = loose(IDS)
    assert torch.allclose(tied(IDS), expected, atol=1e-5)
    tied(IDS).square().sum().backward()
    expected.square().sum().backward()
    for name in shared:
        parts = [loose.get_parameter(f"A.{index}.{name}").grad for index in range(3)]
        total = torch.stack([part for part in parts if part is not None]).sum(0)
        found = tied.get_parameter(f"A.tied.{name}").grad
        assert found is not None
        assert torch.allclose(found, total, rtol=1e-4, atol=1e-3 * float(total.abs().max()))


def test_blocks_of_two_kinds_stand_in_one_model() -> None:
    model = lively_model(small_spec("A[3]B[1]{kind=gpt}"))
    own: Any = model
    x = own.embedding(IDS)
    for layer in own.A:
        x = layer(x, own.cos[:7], own.sin[:7])
    assert "GptLayer" in type(own.B[0]).__name__
    expected = own.head(own.final_norm(own.B[0](x)))
    assert torch.allclose(model(IDS), expected, atol=1e-5)


def test_a_kind_of_its_own_brings_the_side_values_that_it_needs() -> None:
    model = lively_model(small_spec("A[3]B[1]{kind=llama}", kind="gpt"))
    assert {"cos", "sin", "positions.weight"} <= {
        *dict(model.named_buffers()),
        *dict(model.named_parameters()),
    }
    assert torch.isfinite(model(IDS)).all()


def spec_without_parts() -> ModelSpec:
    return small_spec("A[2]{tie=mlp}B[2]")


def test_a_part_that_a_kind_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    from rinsc.layers import LayerKind, llama, trace_programs
    from rinsc.layers.mixing import rotary_sides
    from rinsc.ops import Add, Linear
    from rinsc.ops.program import Builder, Value

    def layer(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
        with b.part("mixing"):
            return b(Add(), x, b(Linear(spec.width), x, name="mix"))

    kind = LayerKind(llama.embed, layer, llama.head, rotary_sides)
    monkeypatch.setattr("rinsc.layers.llama.KIND", kind)
    trace_programs.cache_clear()
    try:
        with pytest.raises(SignatureError) as caught:
            to_torch(spec_without_parts())
    finally:
        trace_programs.cache_clear()
    assert caught.value.code == "nothing-to-tie"
    span = caught.value.problems[0].span
    assert span is not None
    assert "A[2]{tie=mlp}B[2]"[span.start : span.end] == "tie=mlp"
