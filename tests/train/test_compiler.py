"""Whether torch.compile works is found out before a run depends on it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from rinsc.errors import RinscError
from rinsc.training.devices import require_compiler


def test_no_compiler_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def broken(function: Callable[..., object]) -> Callable[..., object]:
        def call(*_: object) -> None:
            raise TorchDynamoException("no working C++ compiler\nand much more")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(RinscError, match=r"no working C\+\+ compiler\n  hint: ") as caught:
        require_compiler("cpu")
    assert caught.value.code == "cannot-compile"


def test_a_compiler_that_works_is_not_complained_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    require_compiler("cpu")
