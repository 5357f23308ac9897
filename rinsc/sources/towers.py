"""Foreign checkpoints of two towers: a `Family` for each, and what compares them.

A SigLIP of transformers as ``image: A, text: B``:

    config.json                                     the spec
    vision_config: {hidden_size: 768, …}            towers.image: width = 768
    text_config: {vocab_size: 32000, …}             towers.text: vocab_size = 32000

    vision_model.encoder.layers.1.mlp.fc1.weight    A.1.up.weight
    text_model.embeddings.token_embedding.weight    text.embedding.weight
    logit_scale                                     logit_scale
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rinsc.errors import CheckpointError, Problem, SpecError
from rinsc.graph import BlockGraph, TowersGraph
from rinsc.layers import join_shapes
from rinsc.sources.config_values import checkpoint_problem
from rinsc.sources.family import (
    DESCRIPTIONS,
    Family,
    Tensor,
    config_problems,
    executed_tensors,
    fitting,
    spec_values,
    stack_config,
    stored_tensors,
)
from rinsc.sources.stored import Stored
from rinsc.spec import TowersSpec, towers_spec
from rinsc.syntax.parser import has_towers, parse_towers


@dataclass(frozen=True)
class TowersFamily:
    """One kind of foreign checkpoint of several towers.

    ``towers`` are the families of each, by the names that its towers have here; ``configs`` are the
    keys of the config that hold theirs. ``renamed`` gives the name that a tensor of this name has
    in today's files, of those that others wrote. ``ignored`` are keys that change no number.
    """

    model_type: str
    signature: str
    towers: Mapping[str, Family]
    configs: Mapping[str, str]
    renamed: Callable[[str], str]
    ignored: frozenset[str] = frozenset()


def towers_spec_from_config(
    family: TowersFamily, config: Mapping[str, object], signature: str | None = None
) -> TowersSpec:
    """The spec of a foreign model; raises `SpecError` as `spec_from_config` of one tower."""
    problems = list(_top_problems(family, config))
    towers: dict[str, dict[str, Any]] = {}
    for name, own in family.towers.items():
        key = family.configs[name]
        table = config.get(key)
        table = {} if table is None else table
        if not isinstance(table, Mapping):
            problems.append(checkpoint_problem("bad-type", f"'{key}' is no table", key))
            continue
        mistakes = list(config_problems(own, table))
        problems += [_below(problem, key) for problem in mistakes]
        if not mistakes:
            try:
                towers[name] = spec_values(own, table)
            except SpecError as error:
                problems += [_below(problem, key) for problem in error.problems]
    if problems:
        raise SpecError.of(*problems)
    text = family.signature if signature is None else signature
    if not has_towers(text) or parse_towers(text).signatures.keys() != family.towers.keys():
        message = f"the towers of such a checkpoint are {' and '.join(family.towers)}"
        raise _other_towers("other-towers", message, text, family)
    spec = towers_spec(text, towers=towers)
    letters = [set(tower.parts) for tower in spec.towers.values()]
    if set.intersection(*letters):
        message = "each tower of a checkpoint has layers of its own, and a letter is in both"
        raise _other_towers("shared-block", message, text, family)
    return spec


def _other_towers(code: str, message: str, text: str, family: TowersFamily) -> SpecError:
    hint = f"write for example '{family.signature}', with other letters in each tower"
    return SpecError(code, message, place=text, hint=hint)


def towers_tensors_by_our_names(
    family: TowersFamily, graph: TowersGraph, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A foreign checkpoint's tensors under the names of our files; raises `CheckpointError`."""
    named: dict[str, Tensor] = {}
    for old, tensor in tensors.items():
        name = family.renamed(old)
        if name in named:
            message = f"'{name}' is there twice, under two names"
            hint = "take a checkpoint that is whole and not mixed"
            raise CheckpointError("surplus-tensor", message, hint=hint)
        named[name] = tensor
    stored = {n: Stored((n,), (tuple(shape),)) for n, shape in join_shapes(graph.spec).items()}
    for tower, own in graph.towers.items():
        for theirs, held in stored_tensors(family.towers[tower], own).items():
            names = tuple(stored_name(tower, own, name) for name in held.names)
            stored[theirs] = replace(held, names=names)
    constants = {name for own in family.towers.values() for name in own.constants}
    return fitting(stored, named, constants)


def stored_name(tower: str, graph: BlockGraph, name: str) -> str:
    """The name in a file of a weight of a tower: those of blocks stand under their letters."""
    return name if name.partition(".")[0] in graph.blocks else f"{tower}.{name}"


def towers_config_from_graph(family: TowersFamily, graph: TowersGraph) -> dict[str, Any]:
    """The foreign config of towers, as deep as what they run at the rounds that are written.

    Raises `SpecError` for other towers than those of the family.
    """
    sides = _sides(family, graph)
    return {
        "model_type": family.model_type,
        **{
            family.configs[side]: stack_config(family.towers[side], own.spec)
            | {family.towers[side].dimensions["layers"]: own.executed_layers()}
            for side, (_, own) in sides.items()
        },
    }


def towers_names_from_graph(family: TowersFamily, graph: TowersGraph) -> dict[str, list[str]]:
    """Which weights of our files each of their tensors is made of; see `executed_tensors`."""
    names = {name: [name] for name in join_shapes(graph.spec)}
    for side, (tower, own) in _sides(family, graph).items():
        for theirs, held in executed_tensors(family.towers[side], own).items():
            names[theirs] = [stored_name(tower, own, name) for name in held.names]
    return names


def _sides(family: TowersFamily, graph: TowersGraph) -> dict[str, tuple[str, BlockGraph]]:
    """For each tower of the family, ours of its kind, and what it is called."""
    kinds = {own.kind: side for side, own in family.towers.items()}
    sides = {kinds.get(own.spec.kind, name): (name, own) for name, own in graph.towers.items()}
    if sides.keys() != family.towers.keys() or len(sides) != len(graph.towers):
        message = f"'{graph.spec.text}' has other towers than a {family.model_type}"
        hint = f"it has one of each kind: {', '.join(kinds)}"
        raise SpecError("not-a-plain-stack", message, hint=hint)
    return {side: sides[side] for side in family.towers}


def _top_problems(family: TowersFamily, config: Mapping[str, object]) -> Iterator[Problem]:
    known = {*family.configs.values(), *family.ignored}
    for key in config.keys() - known - DESCRIPTIONS:
        if config[key] not in (None, False):
            message = f"the config has '{key}', which may change what is computed"
            yield checkpoint_problem("unknown-key", message, key)


def _below(problem: Problem, key: str) -> Problem:
    """A problem of a table, said of the config that the table is in."""
    location = (problem.place or "config.json").replace("config.json: ", f"config.json: {key}.")
    return replace(problem, place=location)
