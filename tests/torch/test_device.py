"""A device that is not there is one error at every entry that takes one; it names those there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rinsc
from rinsc.backends.hf import causal_lm
from rinsc.errors import UsageError
from rinsc.training.devices import fast_precision, find_devices
from tests.cli.command_line import run_cli

SPEC = rinsc.model_spec("A^2B", preset="tiny", layers=2)
ENTRIES: dict[str, Callable[[Any], object]] = {
    "to_torch": lambda device: rinsc.to_torch(SPEC, device=device),
    "to_torch of a graph": lambda device: rinsc.to_torch(rinsc.build_graph(SPEC), device=device),
    "causal_lm": lambda device: causal_lm(SPEC, device=device),
    "fast_precision": fast_precision,
}
HAS_GPU = torch.accelerator.is_available()  # of whatever kind
MISSING = ["gpu", "tpu", "", "cuda:4097", "xla", "vulkan", "hpu", 3.5, 4097, np.int64(4097)]
MISSING += [] if HAS_GPU else ["cuda", "cuda:0", torch.device("cuda"), "xpu", "mps", 0]


def _require_one_error(error: UsageError) -> None:
    assert error.code == "no-device"
    assert len(error.problems) == 1
    assert error.hint is not None
    assert "cpu" in error.hint
    assert ("cuda" in error.hint) == torch.cuda.is_available()


@pytest.mark.parametrize("device", MISSING, ids=repr)
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_device_that_is_not_there_is_one_error(entry: str, device: Any) -> None:
    with pytest.raises(UsageError) as caught:
        ENTRIES[entry](device)
    _require_one_error(caught.value)


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
@pytest.mark.parametrize("entry", [rinsc.to_torch, causal_lm])
def test_so_is_one_that_a_context_names(entry: Callable[..., object]) -> None:
    with torch.device("cuda"), pytest.raises(UsageError) as caught:
        entry(SPEC)
    _require_one_error(caught.value)


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_so_is_one_that_training_asks_for() -> None:
    with pytest.raises(UsageError) as caught:
        find_devices("cuda")
    _require_one_error(caught.value)
    assert "meta" not in str(caught.value.hint), "nothing is trained there"


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_so_is_one_that_a_command_asks_for(tmp_path: Path) -> None:
    more = ("--preset", "tiny", "--data", "plays", "-o", str(tmp_path / "run"))
    done = run_cli("train", "A^2B", *more, "--device", "cuda")
    assert done.status == 2
    assert "error[no-device]" in done.err
    assert "available: cpu" in done.err


@pytest.mark.parametrize("device", ["cpu", "meta", torch.device("meta"), "cpu:0"], ids=repr)
@pytest.mark.parametrize("entry", [rinsc.to_torch, causal_lm])
def test_a_device_that_is_there_holds_the_weights(
    entry: Callable[..., torch.nn.Module], device: Any
) -> None:
    model = entry(SPEC, device=device)
    assert {weight.device.type for weight in model.parameters()} == {torch.device(device).type}
