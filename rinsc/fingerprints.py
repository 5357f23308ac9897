"""The fingerprint of a spec: two specs are the same model exactly when it is equal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rinsc.layers import Programs, trace_join, trace_programs
from rinsc.ops.program import Program
from rinsc.spec import ModelSpec, TowersSpec
from rinsc.spec.kinds import layers_kind
from rinsc.spec.model import require_spec
from rinsc.storage.files import short_digest
from rinsc.syntax.identity import Identity, atoms_of, identity_of_towers


def fingerprint(spec: ModelSpec | TowersSpec) -> str:
    """Hash of the schedule of physical layers up to renaming, and of the traced operations.

    Operations carry every dimension that they depend on, so that a key which changes nothing (a
    rotary base where positions are learned) changes no fingerprint; nor do the names of parts.
    Of several towers it is that of all of them under their names, in whatever order.
    Raises `SpecError` for anything but a spec.

    >>> from rinsc import model_spec
    >>> one, other = model_spec("ABAB", preset="tiny"), model_spec("A^2", preset="tiny")
    >>> fingerprint(one) == fingerprint(other)
    True
    """
    if isinstance(spec, TowersSpec):
        return _of_towers(spec)
    spec = require_spec(spec)
    programs = trace_programs(spec)
    framed = [*programs.enter, *programs.leave]
    vary = _has_varying_kind(spec)
    layers = {"": _layer_kinds(spec)} if vary else None
    schedule = identity_of_towers({"": spec.normal}, {"": layers_kind(spec.kind)}, framed, layers)
    if vary:
        return short_digest("\n".join([schedule.text, *_frame(spec)]))
    # A block is what its layers do, whatever the kind is called and whichever is the model's own.
    kinds = [block.kind or layers_kind(spec.kind) for block in schedule.blocks]
    return short_digest("\n".join([_text(schedule, [spec] * len(kinds), kinds), *_frame(spec)]))


def _of_towers(spec: TowersSpec) -> str:
    programs = {name: trace_programs(tower) for name, tower in spec.towers.items()}
    framed = {kind for own in programs.values() for kind in (*own.enter, *own.leave)}
    vary = any(map(_has_varying_kind, spec.towers.values()))
    layers = {name: _layer_kinds(tower) for name, tower in spec.towers.items()} if vary else None
    schedule = identity_of_towers(
        {name: tower.normal for name, tower in spec.towers.items()},
        {name: layers_kind(tower.kind) for name, tower in spec.towers.items()},
        framed,
        layers,
    )
    frames = [f"{name}: {line}" for name, _ in schedule.words for line in _frame(spec.towers[name])]
    join = trace_join(spec)
    frames += [] if join is None else [f"{spec.pairing}: {_program_text(join)}"]
    if vary:
        return short_digest("\n".join([schedule.text, *frames]))
    owners: dict[int, ModelSpec] = {}  # of each atom: the first tower that has it
    for name, sequence in schedule.words:
        for atom in atoms_of(sequence):
            owners.setdefault(atom, spec.towers[name])
    kinds = [block.kind or "" for block in schedule.blocks]
    text = _text(schedule, [owners[atom] for atom in range(len(kinds))], kinds)
    return short_digest("\n".join([text, *frames]))


def _text(schedule: Identity, specs: Sequence[ModelSpec], kinds: Sequence[str]) -> str:
    """The schedule, with what layers do in place of the names of their kinds."""
    digests: dict[tuple[str, int], str] = {}
    for kind, own in zip(kinds, specs, strict=True):
        if (kind, id(own)) not in digests:
            digests[kind, id(own)] = _kind_digest(kind, own)
    blocks = [
        replace(block, kind=digests[kind, id(own)])
        for block, kind, own in zip(schedule.blocks, kinds, specs, strict=True)
    ]
    return replace(schedule, blocks=tuple(blocks)).text


def _frame(spec: ModelSpec) -> list[str]:
    """How long a sequence may be, and what stands before and after the blocks."""
    programs = trace_programs(spec)
    frame = [_program_text(program) for program in (programs.embed, programs.head)]
    return [f"context {spec.context}", *frame]


def _kind_digest(kind: str, spec: ModelSpec) -> str:
    """What blocks of a kind do whose layers are alike."""
    programs = trace_programs(spec)
    block = next(name for name, own in spec.block_kinds.items() if own == kind)
    return _layer_digest(kind, programs.layers[block][0], programs)


def _has_varying_kind(spec: ModelSpec) -> bool:
    """Whether layers of one kind differ."""
    programs = trace_programs(spec)
    kinds = {
        kind: [b for b, own in spec.block_kinds.items() if own == kind]
        for kind in set(spec.block_kinds.values())
    }
    return any(len(programs.distinct_layers(blocks)) > 1 for blocks in kinds.values())


def _layer_kinds(spec: ModelSpec) -> Mapping[str, Sequence[str]]:
    """What each layer does, by block; each digest stands for the kind of its layer."""
    programs = trace_programs(spec)
    return programs.rewritten(
        lambda block, layer: _layer_digest(spec.block_kinds[block], layer, programs)
    )


def _layer_digest(kind: str, layer: Program, programs: Programs) -> str:
    """What blocks of such layers do: at the start of a visit, in each layer, and at its end."""
    runs = (programs.enter.get(kind), layer, programs.leave.get(kind))
    return short_digest("\n".join(_program_text(run) if run else "" for run in runs))


def _program_text(program: Program) -> str:
    """Operations with their settings and wiring, values numbered in order."""
    numbers = {value: index for index, value in enumerate(program.inputs.values())}
    lines = [f"inputs {[value.shape for value in program.inputs.values()]}"]
    for node in program.nodes:
        wires = [numbers[value] for value in node.inputs]
        numbers[node.output] = len(numbers)
        every = {f.name: getattr(node.op, f.name) for f in dataclasses.fields(node.op)}
        # One that is None says nothing: an operation may get such a setting later.
        settings = {name: value for name, value in every.items() if value is not None}
        lines.append(f"{type(node.op).__name__} {settings} {wires}")
    lines.append(f"outputs {[numbers[value] for value in program.outputs.values()]}")
    return "; ".join(lines)
