"""torch.compile of whole models: what they compute, and the gradients that they leave on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch

from rinsc.backends.torch import to_torch
from tests.hf.models import CLOSE, ids, pair
from tests.onnx.models import small_spec

PARTLY_TRAINED = "P(A^2{grad=1,inject=add,init=noise}B)^2C"


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What was compiled, and a mode of gradients that was lost."""
    torch._dynamo.reset()
    yield
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("signature", ["A^3B", "(A^3{kv=last, adapter=scale}B)^2", PARTLY_TRAINED])
def test_a_model_of_transformers_compiles(signature: str) -> None:
    model, plain = pair(small_spec(signature, layers=8))
    input_ids = ids(plain.spec, 2, 7)
    compiled: Any = torch.compile(model, backend="eager")
    with torch.no_grad():
        assert (compiled(input_ids).logits - plain(input_ids)).abs().max() < CLOSE


def test_a_function_around_a_module_compiles() -> None:
    module = to_torch(small_spec("A^3B"))
    input_ids = ids(module.spec, 2, 7)

    def doubled(x: torch.Tensor) -> Any:
        return 2 * module(x)

    compiled: Any = torch.compile(doubled, backend="eager")
    with torch.no_grad():
        assert torch.allclose(compiled(input_ids), doubled(input_ids), atol=1e-6)


def test_gradients_stay_on() -> None:
    module = to_torch(small_spec(PARTLY_TRAINED, layers=8))
    input_ids = ids(module.spec, 2, 7)
    compiled: Any = torch.compile(module, backend="aot_eager")
    found = {}
    for name, each in (("plain", module), ("compiled", compiled)):
        module.zero_grad()
        module.draws.step = 0  # the same noise
        each(input_ids).sum().backward()
        every = dict(module.named_parameters())
        found[name] = {key: cast(torch.Tensor, every[key].grad).clone() for key in every}
    assert torch.is_grad_enabled()
    for key, gradient in found["plain"].items():
        assert torch.allclose(gradient, found["compiled"][key], atol=1e-4), key
