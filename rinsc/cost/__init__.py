"""Exact parameters and FLOPs, memory of which activations are an estimate, and compute matching."""

from rinsc.cost.counts import RunCounts, expected_run_counts, run_counts
from rinsc.cost.flops import (
    PYTORCH,
    FlopConvention,
    FlopSplit,
    forward_flops,
    training_flops,
    training_flops_per_token,
)
from rinsc.cost.match import ComputeMatch, PairsMatch, match_compute, match_towers
from rinsc.cost.memory import MemoryReport, memory
from rinsc.cost.params import (
    adapter_params,
    block_params,
    executed_params,
    repeat_params,
    stored_params,
    visits_of_blocks,
)
from rinsc.cost.report import (
    CostReport,
    TowersReport,
    cost_report,
    expected_rounds,
)

__all__ = [
    "PYTORCH",
    "ComputeMatch",
    "CostReport",
    "FlopConvention",
    "FlopSplit",
    "MemoryReport",
    "PairsMatch",
    "RunCounts",
    "TowersReport",
    "adapter_params",
    "block_params",
    "cost_report",
    "executed_params",
    "expected_rounds",
    "expected_run_counts",
    "forward_flops",
    "match_compute",
    "match_towers",
    "memory",
    "repeat_params",
    "run_counts",
    "stored_params",
    "training_flops",
    "training_flops_per_token",
    "visits_of_blocks",
]
