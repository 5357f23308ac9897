"""AdamW and Muon: which parameters each is for, which decay, and how fast each block learns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from rinsc.cost.params import visits_of_blocks
from rinsc.graph import BlockGraph, TowersGraph
from rinsc.graph.towers_graph import towers_of
from rinsc.layers import loop_prefix, trace_loop
from rinsc.ops import Row
from rinsc.training.config import TrainConfig

Group = dict[str, Any]


def build_optimizer(
    model: nn.Module, graph: BlockGraph | TowersGraph, config: TrainConfig
) -> torch.optim.Optimizer:
    """The optimizer of the emitted module ``model``; weight decay on matrices alone.

    With ``optimizer = "muon"`` the matrices of blocks follow Muon (its update scaled to the size of
    AdamW's, so that one learning rate serves both) and everything else AdamW.
    """
    groups = list(_groups(model, graph, config))
    matrices = [group for group in groups if group.pop("is_matrix")]
    others = [group for group in groups if not any(group is own for own in matrices)]
    if config.optimizer == "adamw" or not matrices:
        return _adamw(groups, config)
    muon = torch.optim.Muon(
        matrices,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return OptimizerPair(muon, _adamw(others, config))


def _adamw(groups: list[Group], config: TrainConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def _groups(
    model: nn.Module, graph: BlockGraph | TowersGraph, config: TrainConfig
) -> Iterator[Group]:
    """Parameters that are treated alike: matrices of blocks, by learning rate; what else decays;
    what does not."""
    vectors = vector_tables(graph)
    stored_name = getattr(model, "stored_name", str)  # of towers, without the name of the tower
    scales = learning_rate_scales(graph, config.learning_rate_visits_power)
    alike: dict[tuple[bool, bool, float], list[torch.Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            block = stored_name(name).partition(".")[0]
            decays = parameter.ndim >= 2 and name not in vectors
            is_matrix = parameter.ndim == 2 and block in graph.blocks
            alike[is_matrix, decays, scales.get(block, 1.0)].append(parameter)
    for (is_matrix, decays, scale), parameters in sorted(
        alike.items(), key=lambda item: item[0], reverse=True
    ):
        yield {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "lr": config.learning_rate * scale,
            "is_matrix": is_matrix,
        }


def learning_rate_scales(graph: BlockGraph | TowersGraph, power: float) -> dict[str, float]:
    """Share of the learning rate for each block: visits at the rounds written, to −``power``."""
    return {name: visits**-power for name, visits in visits_of_blocks(graph).items()}


def vector_tables(graph: BlockGraph | TowersGraph) -> set[str]:
    """Parameters that hold a vector for each adapter of a repeat: tables, but not matrices."""
    return {
        f"{name}.{loop_prefix(loop.name)}{param.name}".lstrip(".")
        for name, tower in towers_of(graph).items()
        for loop in tower.loops()
        for program in trace_loop(tower.spec, loop).every
        for node in program.nodes
        if isinstance(node.op, Row) and len(node.op.shape) < 2
        for param in node.params
    }


class OptimizerPair(torch.optim.Optimizer):
    """Two optimizers over different parameters, as one; its groups are theirs."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        self.optimizers = (first, second)
        super().__init__([*first.param_groups, *second.param_groups], {})
        self.adopt_groups()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.adopt_groups()

    def adopt_groups(self) -> None:
        """The very groups of both, so that a schedule which changes a rate reaches them; to be
        called where one of the two has loaded its state, and thereby made new groups."""
        first, second = self.optimizers
        self.param_groups = [*first.param_groups, *second.param_groups]


def each_optimizer(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizers of PyTorch behind one: those of a pair, or itself."""
    return list(optimizer.optimizers) if isinstance(optimizer, OptimizerPair) else [optimizer]


def each_state(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of the optimizers behind one, from the state dict of that one."""
    return list(state.get("optimizers", [state]))
