"""What the options of a repeat do in PyTorch, against a plain loop: logits and gradients."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rinsc.backends.torch import CompiledModule, to_torch
from tests.onnx.models import lively_model, small_spec

ADAPTERS = [None, "linear", "lora(3)", "shared(3)", "scale", "embed", "gate"]
INJECTIONS = [None, "add", "gate", "concat"]
STARTS = ["carry", "zero", "noise", "learned"]
CLOSE = 2e-5


def plain_logits(
    model: CompiledModule, input_ids: torch.Tensor, rounds: int, options: dict[str, Any]
) -> torch.Tensor:
    """``A^r{...}B`` written by hand over the weights of ``model``."""
    own: dict[str, Any] = {}
    if hasattr(model, "loop_A"):
        own = dict(model.get_submodule("loop_A").named_parameters())
    blocks: Any = model
    x = blocks.embedding(input_ids)
    cos, sin = blocks.cos[: input_ids.shape[1]], blocks.sin[: input_ids.shape[1]]
    entry, inject, adapter = x, options.get("inject"), options.get("adapter")
    match options.get("init", "carry"):
        case "zero":
            x = torch.zeros_like(entry)
        case "noise":
            x = type(model).forward.__globals__["noise_like"](entry, 7)
        case "learned":
            x = own["start.weight"].expand_as(entry)
    for t in range(rounds):
        kept = t >= rounds - options.get("grad", rounds)
        with nullcontext() if kept else torch.no_grad():
            if inject == "add":
                x = x + entry
            elif inject == "gate":
                x = x + own["inject.weight"] * entry
            elif inject == "concat":
                x = torch.cat([x, entry], dim=-1) @ own["inject.weight"].T
            wanted = t if options.get("adapter_by", "round") == "round" else rounds - 1
            weights = {name: table[min(wanted, len(table) - 1)] for name, table in own.items()}
            if adapter == "linear":
                x = x + x @ weights["adapter.weight"].T
            elif adapter == "lora(3)":
                x = x + x @ weights["adapter_down.weight"].T @ weights["adapter_up.weight"].T
            elif adapter == "shared(3)":
                down, up = own["adapter_down.weight"], own["adapter_up.weight"]
                x = x + ((x @ down.T) * weights["adapter.weight"]) @ up.T
            elif adapter == "scale":
                x = x * (1 + weights["adapter.weight"])
            elif adapter == "embed":
                x = x + weights["adapter.weight"]
            given_x = x
            x = blocks.A(x, cos, sin)
            if adapter == "gate":
                x = given_x + (1 + weights["adapter.weight"]) * (x - given_x)
    x = blocks.B(x, cos, sin)
    logits: torch.Tensor = blocks.head(blocks.final_norm(x))
    return logits


def gradients(model: CompiledModule, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()  # type: ignore[no-untyped-call]
    named = model.named_parameters()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in named}


def signature(options: dict[str, Any]) -> str:
    text = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"A^3{{{text}}}B" if text else "A^3B"


@st.composite
def repeat_options(draw: st.DrawFn) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if adapter := draw(st.sampled_from(ADAPTERS)):
        options |= {"adapter": adapter, "adapter_by": draw(st.sampled_from(["round", "count"]))}
    if inject := draw(st.sampled_from(INJECTIONS)):
        options |= {"inject": inject, "init": draw(st.sampled_from(STARTS))}
        if draw(st.booleans()):
            options["grad"] = draw(st.integers(1, 3))
        if options.get("grad", 3) < 3:  # what only early rounds use would never learn
            options["init"] = "zero" if options["init"] == "learned" else options["init"]
            options |= {"adapter_by": "count"} if adapter else {}
    return options


@given(options=repeat_options(), rounds=st.integers(1, 5))
def test_a_round_is_what_a_plain_loop_does(options: dict[str, Any], rounds: int) -> None:
    model = lively_model(small_spec(signature(options)))
    input_ids = torch.randint(53, (2, 7))
    seed = {"noise_seed": 7} if model.takes_noise_seed else {}
    assert model.takes_noise_seed == (options.get("init") == "noise")
    ours = model(input_ids, rounds=rounds, **seed)
    plain = plain_logits(model, input_ids, rounds, options)
    assert torch.allclose(ours, plain, atol=CLOSE)
    expected, found = gradients(model, plain), gradients(model, ours)
    for name, gradient in expected.items():
        scale = 1 + gradient.abs().max()
        assert (found[name] - gradient).abs().max() <= CLOSE * scale, name


def test_the_plain_loop_notices_what_is_left_out() -> None:
    """Each option, taken away from the loop by hand, changes logits or gradients."""
    every = {"adapter": "scale", "adapter_by": "count", "inject": "gate", "init": "zero", "grad": 1}
    model = lively_model(small_spec(signature(every)))
    input_ids = torch.randint(53, (2, 7))
    ours = model(input_ids, rounds=2)
    expected = gradients(model, ours)
    for name in every:
        fewer = {key: value for key, value in every.items() if key != name}
        plain = plain_logits(model, input_ids, 2, fewer)
        found = gradients(model, plain)
        same = all(torch.allclose(found[key], expected[key], atol=1e-4) for key in expected)
        assert not (torch.allclose(ours, plain, atol=1e-4) and same), name


@pytest.mark.parametrize("by", ["round", "count"])
@pytest.mark.parametrize("adapter", [adapter for adapter in ADAPTERS if adapter])
def test_adapters_start_as_the_identity(adapter: str, by: str) -> None:
    torch.manual_seed(3)
    bare = to_torch(small_spec("(A^3)B"))
    model = to_torch(small_spec(f"A^3{{adapter={adapter}, adapter_by={by}}}B"))
    model.load_state_dict(bare.state_dict(), strict=False)
    input_ids = torch.randint(53, (2, 7))
    for rounds in (1, 3, 5):
        assert torch.equal(model(input_ids, rounds=rounds), bare(input_ids, rounds=rounds))


@pytest.mark.parametrize("inject", ["gate", "concat"])
def test_injection_of_a_carried_state_starts_as_the_identity(inject: str) -> None:
    bare = to_torch(small_spec("(A^3)B"))
    model = to_torch(small_spec(f"A^3{{inject={inject}}}B"))
    model.load_state_dict(bare.state_dict(), strict=False)
    input_ids = torch.randint(53, (2, 7))
    assert torch.allclose(model(input_ids), bare(input_ids), atol=1e-6)


@pytest.mark.parametrize("inject", ["gate", "concat"])
def test_injection_into_another_state_starts_as_the_sum(inject: str) -> None:
    added = to_torch(small_spec("A^3{inject=add, init=zero}B"))
    model = to_torch(small_spec(f"A^3{{inject={inject}, init=zero}}B"))
    model.load_state_dict(added.state_dict(), strict=False)
    input_ids = torch.randint(53, (2, 7))
    assert torch.allclose(model(input_ids), added(input_ids), atol=1e-6)


def test_the_module_is_a_function_of_rounds_and_seed() -> None:
    model = lively_model(small_spec("P R^3{inject=add, init=noise, sample=uniform(1, 6)} C"))
    input_ids = torch.randint(53, (2, 7))
    told = {"rounds": 2, "noise_seed": 5}
    assert torch.equal(model.train()(input_ids, **told), model.eval()(input_ids, **told))
    assert torch.equal(model(input_ids), model(input_ids, rounds=3, noise_seed=0))
    assert not torch.equal(model(input_ids, noise_seed=1), model(input_ids))


def test_a_repeat_inside_a_repeat_has_one_set_of_adapters() -> None:
    model = to_torch(small_spec("(A^2{adapter=scale}B)^3{adapter=embed}"))
    own = {name: tuple(p.shape) for name, p in model.named_parameters() if "loop" in name}
    assert own == {"loop_AB.adapter.weight": (3, 24), "loop_A.adapter.weight": (2, 24)}


@pytest.mark.parametrize(
    ("options", "adapters"),
    [
        ("adapter=scale", 4),
        ("adapter=scale, skip=0.5", 4),
        ("adapter=scale, sample=uniform(1, 6)", 6),
        ("adapter=scale, sample=choice(1, 2)", 4),
        ("adapter=scale, sample=poisson_lognormal(9, 0.5)", 4),
    ],
)
def test_there_is_an_adapter_for_each_round_that_can_be_drawn(options: str, adapters: int) -> None:
    model = to_torch(small_spec(f"A^4{{{options}}}B"), device="meta")
    assert model.get_parameter("loop_A.adapter.weight").shape == (adapters, 24)
