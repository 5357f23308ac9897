"""The hosted form against the plain one: the same numbers, gradients and sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rinsc.backends.torch.decoding import hosted_class
from rinsc.backends.torch.emit import emit_source
from rinsc.errors import SpecError
from rinsc.graph import build_graph, unroll
from rinsc.layers import layer_kind
from rinsc.spec import ModelSpec, model_spec
from rinsc.spec.kinds import KINDS
from rinsc.syntax import parse
from rinsc.syntax.normal import stack_of
from tests.hf.models import CAUSAL, ids, pair
from tests.onnx.models import small_spec
from tests.specs import specs
from tests.torch.test_module import LONG, OPTIONS

RICH = "P(A^3{adapter=linear}B{tie=mlp})^2{inject=add, init=noise, grad=1}"


def causal(spec: ModelSpec) -> bool:
    return all(layer_kind(kind).causal for kind in spec.block_kinds.values())


@settings(max_examples=15)
@given(
    spec=specs(options=True, kinds=CAUSAL, max_visits=6).filter(causal),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_the_numbers_of_the_plain_form_bit_for_bit(
    spec: ModelSpec, seed: int, data: st.DataObject
) -> None:
    model, plain = pair(spec, seed)
    dials = [loop.name for loop in plain.graph.dials()]
    rounds = {name: data.draw(st.integers(1, 3), label=name) for name in dials} or None
    input_ids = ids(spec, 2, 11, seed)
    hosted = model.model(input_ids, torch.arange(11)[None], rounds=rounds)
    expected = plain(input_ids, rounds=rounds)
    assert torch.equal(hosted, expected)
    for logits in (hosted, expected):
        if logits.requires_grad:
            logits.square().sum().backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in model.model.named_parameters():
        if theirs[name].grad is None:
            assert parameter.grad is None, name
        else:
            assert torch.equal(parameter.grad, theirs[name].grad), name


def test_sabotage_other_positions_are_seen() -> None:
    model, plain = pair("(A^2)B")
    input_ids = ids(plain.spec, 2, 9)
    # Rotary attention knows distances alone: all positions moved are none moved.
    stretched = 2 * torch.arange(9)[None]
    assert not torch.allclose(model.model(input_ids, stretched), plain(input_ids), atol=1e-3)


def test_the_same_parameters_and_starts() -> None:
    from rinsc.backends.hf import causal_lm
    from rinsc.backends.torch import to_torch

    spec = small_spec(RICH)
    torch.manual_seed(3)
    plain = to_torch(spec).state_dict()
    torch.manual_seed(3)
    hosted = causal_lm(spec).model.state_dict()
    assert list(plain) == list(hosted)
    assert all(torch.equal(plain[name], hosted[name]) for name in plain)


def gradients(model: Any, input_ids: torch.Tensor, how: str, **named: Any) -> dict[str, Any]:
    model.zero_grad()
    model.set_checkpointing(how)
    model.train()
    model(input_ids, labels=input_ids, **named).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("how", ["visit", "round"])
@pytest.mark.parametrize("signature", [RICH, "A^3B", "AB", "A^4{init=noise, inject=concat}B"])
def test_checkpoints_change_no_gradient(how: str, signature: str) -> None:
    model, _ = pair(small_spec(signature))
    input_ids = ids(model.model.spec, 2, 9)
    plain = gradients(model, input_ids, "none")
    if model.draws is not None:
        model.draws.step = 0  # the noise of the first pass
    again = gradients(model, input_ids, how)
    for name, gradient in plain.items():
        assert gradient is None or torch.equal(gradient, again[name]), name


def test_checkpoints_run_what_they_say_twice() -> None:
    model, _ = pair("P(A^3)B")
    runs: dict[str, int] = {"P": 0, "A": 0, "B": 0}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            runs[name] += 1

        return hook

    for name in runs:
        model.model.get_submodule(name).register_forward_pre_hook(count(name))
    input_ids = ids(model.model.spec, 1, 5)
    for how, expected in {
        "none": {"P": 1, "A": 3, "B": 1},
        "visit": {"P": 2, "A": 6, "B": 2},
        "round": {"P": 1, "A": 6, "B": 1},
    }.items():
        runs |= dict.fromkeys(runs, 0)
        gradients(model, input_ids, how)
        assert runs == expected, how


def test_rounds_that_change_make_no_new_graph() -> None:
    """Blocks compiled one by one are traced in the first step alone."""
    model, plain = pair("A^3{adapter=scale}B")
    traced = []

    def backend(graph: Any, _: Any) -> Any:
        traced.append(graph)
        return graph.forward

    torch._dynamo.reset()
    for name in model.model.graph.blocks:
        model.model.get_submodule(name).compile(backend=backend)
    model.train().set_checkpointing("visit")
    input_ids = ids(plain.spec, 2, 9)
    made = []
    for rounds in (1, 2, 3, 5):
        model(input_ids, labels=input_ids, rounds=rounds).loss.backward()
        made.append(len(traced))
    assert 0 < made[0] == made[-1]
    expected = plain(input_ids, rounds=5)
    assert torch.allclose(model(input_ids, rounds=5).logits, expected, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", CAUSAL)
def test_the_source_stands_alone(kind: str) -> None:
    source = emit_source(build_graph(small_spec("A^3{kv=first}B", kind=kind)), hosted=True)
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(source))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= {"__future__", "collections", "math", "operator", "torch", "typing"}
    assert all(len(line) <= 100 for line in source.splitlines())


@pytest.mark.parametrize(
    ("text", "kind"),
    [(text, "llama") for text in ("AB", "((A^2)B)^2C", "AAB@2", LONG, *OPTIONS)]
    + [("A^3B", kind) for kind in CAUSAL],
)
def test_the_source_is_formatted_and_clean(text: str, kind: str, tmp_path: Path) -> None:
    layers = stack_of(parse(text), each=2)
    spec = model_spec(text, preset="tiny", kind=kind, layers=layers, tied_embedding=kind == "gpt")
    (tmp_path / "model.py").write_text(emit_source(build_graph(spec), hosted=True))
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--line-length", "100", str(tmp_path)]
    subprocess.run([*ruff, "format", "--check", "--diff", *options], check=True)
    rules = "E,F,I,N,UP,B,SIM,RET,C4,PIE"
    subprocess.run([*ruff, "check", "--select", rules, "--ignore", "N812", *options], check=True)


def test_an_unrolled_graph_is_hosted_as_well() -> None:
    _, plain = pair("(A^3)B")
    flat = hosted_class(unroll(plain.graph, 2))()
    flat.load_state_dict(plain.state_dict())
    input_ids = ids(plain.spec, 2, 7)
    expected = plain(input_ids, rounds=2)
    assert torch.allclose(flat(input_ids, torch.arange(7)[None]), expected, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in CAUSAL])
def test_models_that_predict_no_next_token_are_refused(kind: str) -> None:
    from rinsc.backends.hf import causal_lm

    with pytest.raises(SpecError, match="not-a-language-model"):
        causal_lm(small_spec("AB", kind=kind))
