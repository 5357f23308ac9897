"""Several gloo processes on this machine that run named checks and report what each found."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.multiprocessing.spawn import start_processes

from rinsc.backends.torch.distributed_check import process_group

Check: TypeAlias = Callable[[Path], Any]
Found: TypeAlias = list[dict[str, Any]]  # by rank, by check; JSON

FAILED = "failed"
SMALLEST = 1e-3


def run_on_ranks(module: str, processes: int, folder: Path) -> Found:
    """What each of a module's ``CHECKS`` returned on each rank, in processes started once."""
    given = (module, processes, folder)
    start_processes(_work, given, processes, start_method="spawn")  # type: ignore[no-untyped-call]
    return [json.loads(_report(folder, rank).read_text()) for rank in range(processes)]


def found(results: Found, name: str) -> list[Any]:
    """What a check returned on each rank; where it raised, the test fails with the traceback."""
    values = [by_check[name] for by_check in results]
    for value in values:
        assert not (isinstance(value, dict) and FAILED in value), value[FAILED]
    return values


def _work(rank: int, module: str, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    checks: Mapping[str, Check] = import_module(module).CHECKS
    results = {}
    with process_group(folder, rank, processes):
        for name, check in checks.items():
            try:
                results[name] = check(folder)
            except Exception:
                results[name] = {FAILED: traceback.format_exc()}
    _report(folder, rank).write_text(json.dumps(results))


def _report(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.json"


def largest_gap(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> float:
    """Largest difference of tensors of the same names, relative to the largest of each tensor.

    Tensors that are nothing beside the others, as gradients of a key's bias, are held against
    those.
    """
    assert left.keys() == right.keys()
    sizes = {name: tensor.abs().max() for name, tensor in left.items()}
    least = SMALLEST * max(sizes.values())
    gaps = [(left[n] - right[n]).abs().max() / torch.maximum(sizes[n], least) for n in left]
    return float(torch.stack(gaps).nan_to_num(torch.inf).max())
