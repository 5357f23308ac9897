"""Which matrices of a layer are cut over devices, and along which side, read off its program.

Column-wise matrices keep some of their outputs on each device (heads, channels of the MLP);
row-wise ones take such a part and add up over the devices (Megatron-LM, arXiv 1909.08053,
section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from rinsc import ops
from rinsc.errors import LoweringError, plural
from rinsc.ops.program import Program, Value

Side: TypeAlias = Literal["column", "row"]
Origins: TypeAlias = frozenset[str]  # the column-wise matrices that a cut value comes from

WHOLE: Origins = frozenset()


def tensor_plan(program: Program, devices: int) -> dict[str, Side]:
    """The side of each matrix of a layer that is cut over ``devices``, by the operation's name.

    Raises `LoweringError` where heads or channels do not divide, and where no two matrices of the
    layer can be cut so that what lies between them stays on its device.
    """
    kept_whole: Origins = WHOLE
    while True:
        plan, misplaced = _attempt(program, kept_whole)
        if not misplaced:
            break
        kept_whole |= misplaced
    if "column" not in plan.values():
        message = "no matrices of this kind of layer can be cut over devices"
        hint = "leave the dimension 'tensor' out of the mesh and shard instead"
        raise LoweringError("not-tensor-parallel", message, hint=hint)
    _require_divisible(program, plan, devices)
    return plan


def _attempt(program: Program, kept_whole: Origins) -> tuple[dict[str, Side], Origins]:
    """A plan that cuts every matrix it may, and the matrices whose outputs then go astray."""
    plan: dict[str, Side] = {}
    origins: dict[Value, Origins] = {}
    for node in program.nodes:
        cut = WHOLE.union(*(origins.get(value, WHOLE) for value in node.inputs))
        if isinstance(node.op, ops.Linear):
            if cut:
                plan[node.name] = "row"
            elif node.name not in kept_whole:
                plan[node.name] = "column"
                origins[node.output] = frozenset({node.name})
        elif cut:
            split = [bool(origins.get(value)) for value in node.inputs]
            if not node.op.works_on_parts(split, *(value.shape for value in node.inputs)):
                return plan, cut
            origins[node.output] = cut
    astray = (origins.get(value, WHOLE) for value in program.outputs.values())
    return plan, WHOLE.union(*astray)


def _require_divisible(program: Program, plan: Mapping[str, Side], devices: int) -> None:
    sizes = {
        f"the outputs of '{node.name}'": node.op.out_features
        for node in program.nodes
        if isinstance(node.op, ops.Linear) and plan.get(node.name) == "column"
    }
    heads = {node.op.heads for node in program.nodes if isinstance(node.op, ops.SplitHeads)}
    sizes = {plural(count, "head"): count for count in sorted(heads)} | sizes
    for what, count in sizes.items():
        if count % devices:
            subject = what if what.startswith(str(count)) else f"{what}, {count},"
            message = f"{subject} cannot be divided over {devices} devices"
            hint = "choose a size of 'tensor' that divides heads, kv_heads and mlp_width"
            raise LoweringError("not-divisible", message, place="tensor", hint=hint)
