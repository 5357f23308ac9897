"""The fingerprint of a spec: two specs are the same model exactly when it is equal."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

from rinsc.layers import Programs, trace_programs
from rinsc.ops.program import Program
from rinsc.spec import ModelSpec
from rinsc.spec.model import require_spec
from rinsc.storage.digests import short_digest
from rinsc.syntax import identity


def fingerprint(spec: ModelSpec) -> str:
    """Hash of the schedule of physical layers up to renaming, and of the traced operations.

    Operations carry every dimension that they depend on, so that a key which changes nothing (a
    rotary base where positions are learned) changes no fingerprint; nor do the names of parts.
    Raises `SpecError` for anything but a spec.
    """
    spec = require_spec(spec)
    programs = trace_programs(spec)
    frame = [_program_text(program) for program in (programs.embed, programs.head)]
    framed = [*programs.enter, *programs.leave]
    schedule = identity(spec.signature, spec.layers, spec.kind, framed)
    # A block is what its layers do, whatever the kind is called and whichever is the model's own.
    kinds = [block.kind or spec.kind for block in schedule.blocks]
    digests = {kind: _kind_digest(kind, programs) for kind in set(kinds)}
    blocks = [
        replace(block, kind=digests[kind])
        for block, kind in zip(schedule.blocks, kinds, strict=True)
    ]
    text = replace(schedule, blocks=tuple(blocks)).text
    return short_digest("\n".join([text, f"context {spec.context}", *frame]))


def _kind_digest(kind: str, programs: Programs) -> str:
    places = (programs.enter, programs.layer, programs.leave)
    return short_digest("\n".join(_program_text(p[kind]) if kind in p else "" for p in places))


def _program_text(program: Program) -> str:
    """Operations with their settings and wiring, values numbered in order."""
    numbers = {value: index for index, value in enumerate(program.inputs.values())}
    lines = [f"inputs {[value.shape for value in program.inputs.values()]}"]
    for node in program.nodes:
        wires = [numbers[value] for value in node.inputs]
        numbers[node.output] = len(numbers)
        settings = {f.name: getattr(node.op, f.name) for f in dataclasses.fields(node.op)}
        lines.append(f"{type(node.op).__name__} {settings} {wires}")
    lines.append(f"outputs {[numbers[value] for value in program.outputs.values()]}")
    return "; ".join(lines)
