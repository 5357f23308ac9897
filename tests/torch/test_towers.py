"""Modules of several towers: each tower against the module of its signature alone."""

from __future__ import annotations

import pickle
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from safetensors import safe_open

from rinsc import RinscError, TowersSpec, load_weights, save_weights, to_torch, towers_spec
from rinsc.backends.torch import CompiledModule, CompiledTowers
from rinsc.cost import stored_params
from rinsc.verification import random_input
from tests.specs import tower_specs


def spread(model: CompiledTowers) -> CompiledTowers:
    """Weights that differ enough for every block to count."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def alone(model: CompiledTowers, name: str) -> CompiledModule:
    """The module of one signature with the weights of a tower."""
    tower: CompiledModule = getattr(model, name)
    module = to_torch(model.spec.towers[name])
    module.load_state_dict(tower.state_dict())
    return module.eval()


def inputs_of(spec: TowersSpec) -> dict[str, torch.Tensor]:
    return {name: random_input(tower, 2, 5) for name, tower in spec.towers.items()}


@settings(max_examples=25)
@given(tower_specs())
def test_each_tower_computes_what_its_signature_alone_does(spec: TowersSpec) -> None:
    model = spread(to_torch(spec))
    inputs = inputs_of(spec)
    dials = [name for name, _ in model.graph.dials()]
    for count in (None, 1, 2):
        rounds = None if count is None else dict.fromkeys(dials, count)
        outputs = model(**inputs, rounds=rounds)
        assert list(outputs) == list(spec.towers)
        for name, output in outputs.items():
            own = alone(model, name)
            same = own(inputs[name], rounds=count if any(own.graph.dials()) else None)
            assert torch.equal(output, same)
            (one,) = model(**{name: inputs[name]}, rounds=rounds).values()
            assert torch.equal(one, output)


@settings(max_examples=15)
@given(tower_specs(options=False))
def test_gradients_of_shared_blocks_add_up(spec: TowersSpec) -> None:
    assume(spec.shared_blocks)
    model = spread(to_torch(spec))
    inputs = inputs_of(spec)
    outputs = model(**inputs)
    sum(output.square().sum() for output in outputs.values()).backward()
    expected: dict[str, torch.Tensor] = {}
    for name in spec.towers:
        own = alone(model, name)
        own(inputs[name]).square().sum().backward()
        for path, parameter in own.named_parameters():
            stored = model.stored_name(f"{name}.{path}")
            assert parameter.grad is not None
            expected[stored] = expected.get(stored, torch.zeros(())) + parameter.grad
    found = {model.stored_name(path): p.grad for path, p in model.named_parameters()}
    assert found.keys() == expected.keys()
    for path, grad in found.items():
        torch.testing.assert_close(grad, expected[path], rtol=1e-4, atol=1e-5)


@settings(max_examples=15)
@given(tower_specs())
def test_weights_are_stored_once_and_read_again(spec: TowersSpec) -> None:
    model = spread(to_torch(spec))
    inputs = inputs_of(spec)
    expected = model(**inputs)
    for block in spec.shared_blocks:
        image, text = (model.get_submodule(f"{name}.{block}") for name in spec.towers)
        assert image is text
    path = Path(gettempdir()) / f"towers-{id(model)}.safetensors"
    try:
        save_weights(model, path)
        with safe_open(path, framework="pt") as file:
            held = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
        assert held == sum(parameter.numel() for parameter in model.parameters())
        for device in ("cpu", "meta"):
            fresh = to_torch(spec, device=device).eval()
            load_weights(fresh, path)
            for name, output in fresh(**inputs).items():
                assert torch.equal(output, expected[name])
    finally:
        path.unlink(missing_ok=True)
    again = pickle.loads(pickle.dumps(model))
    for name, output in again(**inputs).items():
        assert torch.equal(output, expected[name])


def test_the_source_stands_alone() -> None:
    spec = towers_spec(
        "image: A^2B, text: A(CD{each=2})^3{inject=add, init=zero}",
        preset="tiny",
        towers={"text": {"vocab_size": 99, "layers": 18}},
    )
    model = spread(to_torch(spec))
    namespace: dict[str, Any] = {"__name__": "alone"}
    exec(compile(model.source, "alone.py", "exec"), namespace)
    plain = namespace["Model"]().eval()
    plain.load_state_dict(model.state_dict())
    inputs = inputs_of(spec)
    for rounds in ({"text.CD": 2}, {"CD": 2, "image.A": 3}):
        for name, output in model(**inputs, rounds=rounds).items():
            assert torch.equal(output, plain(**inputs, rounds=rounds)[name])
    assert model.source.count("class LlamaBlock(") == 1
    assert max(map(len, model.source.splitlines())) <= 110
    for wrong in ({"B": 2}, {"text.A": 2}, {"image.A": 0}, 0):
        with pytest.raises(ValueError, match=r"do not fit the repeats"):
            plain(**inputs, rounds=wrong)
    with pytest.raises(ValueError, match="at least one tower: image, text"):
        model()


def test_weights_of_other_towers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(to_torch(towers_spec("image: AB, text: AC")), path)
    other = to_torch(towers_spec("image: AB, text: DC"))
    with pytest.raises(RinscError, match="belong to another model") as caught:
        load_weights(other, path)
    assert caught.value.code == "weights-of-another-model"


def test_names_that_a_module_needs_are_refused() -> None:
    for name in ("rounds", "train", "float", "spec", "lambda"):
        with pytest.raises(RinscError) as caught:
            to_torch(towers_spec(f"{name}: A, text: B"))
        assert caught.value.code == "name-taken"


def test_parameters_are_those_counted() -> None:
    spec = towers_spec("image: A^2B, text: A^3C", kind="gpt")
    model = to_torch(spec, device="meta")
    held = sum(parameter.numel() for parameter in model.parameters())
    apart = sum(stored_params(tower) for tower in model.graph.towers.values())
    shared = sum(parameter.numel() for parameter in model.get_submodule("image.A").parameters())
    assert held == apart - shared
