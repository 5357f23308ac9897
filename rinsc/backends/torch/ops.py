"""How each primitive operation reads in PyTorch: one entry an operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from rinsc import ops
from rinsc.ops.base import static
from rinsc.ops.program import Node

WIDTH = 80  # of a line of numbers
HOSTED_ARGS = 5  # of attention in a hosted model: query, key, value, mask, slots


@dataclass(frozen=True)
class TorchOp:
    """Source of an operation.

    ``call`` gives the expression from the arguments' expressions; ``module`` the line that makes
    what the operation owns, in ``__init__``; ``result`` the name a result takes when it needs a
    variable ("" = that of the first argument); ``helpers`` the functions of `helpers` it calls,
    or ``helpers_of`` where nodes differ.
    A ``loose`` expression (a sum, a product) is put in parentheses where a ``tight`` operation
    takes it for an argument.
    """

    call: Callable[[Node, list[str]], str]
    module: Callable[[Node], str] | None = None
    result: str = ""
    helpers: tuple[str, ...] = ()
    loose: bool = False
    tight: bool = False
    helpers_of: Callable[[Node], tuple[str, ...]] | None = None

    def called(self, node: Node) -> tuple[str, ...]:
        """The helpers that this node calls."""
        return self.helpers if self.helpers_of is None else self.helpers_of(node)


def _own(node: Node, args: list[str]) -> str:
    return f"self.{node.name}({args[0]})"


def _embedding(node: Node) -> str:
    op: Any = node.op
    return f"self.{node.name} = nn.Embedding({op.rows}, {op.width})"


def _positions(node: Node) -> str:
    op: Any = node.op
    return f"self.{node.name} = nn.Embedding({op.context}, {op.width})"


def _linear(node: Node) -> str:
    op: Any = node.op
    bias = "" if op.bias else ", bias=False"
    return f"self.{node.name} = nn.Linear({node.inputs[0].shape[-1]}, {op.out_features}{bias})"


def _patches(node: Node, args: list[str]) -> str:
    """Laid out as a sequence: a state that stays turned is copied by every norm."""
    return f"self.{node.name}({args[0]}).flatten(2).transpose(1, 2).contiguous()"


def _patch_convolution(node: Node) -> str:
    op: Any = node.op
    sizes = f"{node.inputs[0].shape[1]}, {op.out_features}, {op.size}, stride={op.size}"
    return f"self.{node.name} = nn.Conv2d({sizes})"


def _norm(class_name: str) -> Callable[[Node], str]:
    def line(node: Node) -> str:
        op: Any = node.op
        return f"self.{node.name} = nn.{class_name}({node.inputs[0].shape[-1]}, eps={op.eps!r})"

    return line


def _rms_norm(node: Node) -> str:
    op: Any = node.op
    return _norm("OffsetRMSNorm" if op.offset else "RMSNorm")(node).replace(
        "nn.OffsetRMSNorm", "OffsetRMSNorm"
    )


def _rotary_table(node: Node) -> str:
    op: Any = node.op
    if op.divisors is not None:
        return _scaled_table(node, cast=".to(torch.get_default_dtype())")
    arguments = f'"{op.function}", {op.context}, {op.head_dim}, {op.theta!r}'
    return f'self.register_buffer("{node.name}", rotary_table({arguments}), persistent=False)'


def _rotary_rows_table(node: Node) -> str:
    op: Any = node.op
    if op.divisors is not None:
        return _scaled_table(node)
    angles = f"rotary_angles({op.context}, {op.head_dim}, {op.theta!r})"
    return f'self.register_buffer("{node.name}", {angles}.{op.function}(), persistent=False)'


def _scaled_table(node: Node, cast: str = "") -> str:
    """A divisor a pair makes long lines, which are broken."""
    op: Any = node.op
    lines = ["angles = scaled_angles(", f"    {op.context}, {op.head_dim}, {op.theta!r},"]
    for divisors in (op.divisors, op.far) if op.far else (op.divisors,):
        numbers = ", ".join(f"{number:.9g}" for number in divisors)
        lines += [f"    {line}" for line in wrap(f"({numbers},),", WIDTH)]
    gain = f"{op.gain!r} * " if op.gain is not None else ""
    table = f"{gain}angles.{op.function}(){cast}"
    return "\n".join(
        [*lines, ")", f'self.register_buffer("{node.name}", {table}, persistent=False)']
    )


def _rows_of_sequence(node: Node, args: list[str]) -> str:
    op: Any = node.op
    length = f"{args[0]}.shape[1]"
    if op.far is not None:
        return f"near_or_far(self.{node.name}, {length}, {op.near})"
    return f"self.{node.name}[: {length}]"


def _table_helpers(node: Node) -> tuple[str, ...]:
    op: Any = node.op
    if op.divisors is None:
        return ("rotary_angles", "rotary_table")
    return ("scaled_angles", "near_or_far") if op.far else ("scaled_angles",)


def _row_helpers(node: Node) -> tuple[str, ...]:
    op: Any = node.op
    if op.divisors is None:
        return ("rotary_angles",)
    return ("scaled_angles", "near_or_far_rows") if op.far else ("scaled_angles",)


def _split_heads(node: Node, args: list[str]) -> str:
    """The number of heads is left open: under tensor parallelism a rank holds some of them."""
    head_dim = node.output.shape[3]
    return f"{args[0]}.unflatten(-1, (-1, {head_dim})).transpose(1, 2)"


def _attention(node: Node, args: list[str]) -> str:
    op: Any = node.op
    grouped = node.inputs[0].shape[1] != node.inputs[1].shape[1]
    scale = [f"scale={op.scale!r}"] if op.scale is not None else []
    if len(args) == HOSTED_ARGS and op.cap is not None:
        options = [f"window={op.window}"] * (op.window is not None) + scale
        return f"attend_capped({', '.join([*args, repr(op.cap), *options])})"
    if len(args) == HOSTED_ARGS:
        name, own = ("attend_near", [str(op.window)]) if op.window else ("attend", [])
        return f"{name}({', '.join([*args, *own, *['grouped=True'] * grouped, *scale])})"
    mask = args[3:]
    if op.cap is not None:
        options = ["causal=False"] * (not op.causal and not mask)
        options += [f"window={op.window}"] * (op.window is not None) + scale
        return f"capped_attention({', '.join([*args[:3], repr(op.cap), *mask, *options])})"
    if op.window is not None:
        options = ["causal=False"] * (not op.causal and not mask) + ["grouped=True"] * grouped
        options += scale
        return f"window_attention({', '.join([*args[:3], str(op.window), *mask, *options])})"
    options = ["is_causal=True"] * op.causal + ["enable_gqa=True"] * grouped + scale
    masks = [f"attn_mask={mask[0]}"] if mask else []
    return f"F.scaled_dot_product_attention({', '.join([*args[:3], *masks, *options])})"


def _attention_helpers(node: Node) -> tuple[str, ...]:
    op: Any = node.op
    hosted = len(node.inputs) == HOSTED_ARGS
    if op.cap is not None:
        return ("in_window", "capped_attention", *["attend_capped"] * hosted)
    attention = "attend_near" if hosted else "window_attention"
    return ("in_window", attention) if op.window else ()


def _rotary_rows(node: Node, args: list[str]) -> str:
    """In a hosted model the tables stay float32, and their rows take the type of the state."""
    op: Any = node.op
    rows = f"self.{node.name}[{args[0]}]"
    if op.far is not None:
        rows = f"near_or_far_rows(self.{node.name}, {args[0]}, {op.near})"
    return f"{rows}.to({args[1]}.dtype)" if len(args) > 1 else rows


def _rope(node: Node, args: list[str]) -> str:
    """Tables with a row for each sequence are the same for all its heads."""
    tables = args[1:]
    if len(node.inputs[1].shape) == 3:
        tables = [f"{table}.unsqueeze(1)" for table in tables]
    return f"{_rotation(node)}({', '.join([args[0], *tables])})"


def _rotation(node: Node) -> str:
    head, table = node.inputs[0].shape[-1], node.inputs[1].shape[-1]
    return "rotate" if head == 2 * static(table) else "rotate_first"


_ACTIVATIONS = {
    "silu": "F.silu({})",
    "gelu_tanh": 'F.gelu({}, approximate="tanh")',
    "gelu": "F.gelu({})",
    "relu": "F.relu({})",
    "sigmoid": "torch.sigmoid({})",
    "tanh": "torch.tanh({})",
    "exp": "torch.exp({})",
}


def _activation(node: Node, args: list[str]) -> str:
    op: Any = node.op
    return _ACTIVATIONS[op.function].format(args[0])


def _weight(node: Node) -> str:
    """A tensor that is read where it is used.

    PyTorch's counters fail at a module that gives back a part of a parameter without gradients.
    """
    return f"self.{node.name} = Weight({', '.join(map(str, node.params[0].shape))})"


def _row(node: Node, args: list[str]) -> str:
    op: Any = node.op
    return f"self.{node.name}.weight[min({args[0]}, {op.rows - 1})]"


def _unit_rms_norm(node: Node, args: list[str]) -> str:
    op: Any = node.op
    return f"F.rms_norm({args[0]}, ({node.output.shape[-1]},), eps={op.eps!r})"


def _scale(node: Node, args: list[str]) -> str:
    op: Any = node.op
    return f"{op.factor!r} * {args[0]}"


def _shift(node: Node, args: list[str]) -> str:
    op: Any = node.op
    return f"shift({args[0]}, {op.steps})"


def _auxiliary_loss(node: Node, args: list[str]) -> str:
    """The state, and a loss that is kept where there is a list for it."""
    op: Any = node.op
    return f"with_loss({args[0]}, {op.weight!r} * {args[1]}, {args[2]})" if args[2:] else args[0]


def _largest(node: Node, args: list[str]) -> str:
    op: Any = node.op
    return f"largest({args[0]}, {op.count})"


def _stretch(node: Node, args: list[str]) -> str:
    op: Any = node.op
    return f"{args[0]}.repeat_interleave({op.times}, dim=-1)"


TORCH_OPS: dict[type[ops.Op], TorchOp] = {
    ops.Embedding: TorchOp(_own, _embedding, result="x"),
    ops.Positions: TorchOp(
        lambda node, args: f"self.{node.name}.weight[: {args[0]}.shape[1]]", _positions, "positions"
    ),
    ops.RotaryTable: TorchOp(
        _rows_of_sequence, _rotary_table, result="angles", helpers_of=_table_helpers
    ),
    ops.Linear: TorchOp(_own, _linear, result="h"),
    ops.TiedLinear: TorchOp(
        lambda node, args: f"F.linear({args[0]}, self.{node.op.owner}.weight)",  # type: ignore[attr-defined]
        result="logits",
    ),
    ops.Project: TorchOp(lambda node, args: f"F.linear({', '.join(args)})", result="h"),
    ops.Row: TorchOp(_row, _weight, result="row", helpers=("Weight",)),
    ops.Vector: TorchOp(
        lambda node, args: f"self.{node.name}.weight", _weight, "vector", helpers=("Weight",)
    ),
    ops.RMSNorm: TorchOp(
        _own,
        _rms_norm,
        result="h",
        helpers_of=lambda node: ("OffsetRMSNorm",) if node.op.offset else (),  # type: ignore[attr-defined]
    ),
    ops.UnitRMSNorm: TorchOp(_unit_rms_norm, result="h"),
    ops.LayerNorm: TorchOp(_own, _norm("LayerNorm"), result="h"),
    ops.SplitHeads: TorchOp(_split_heads, tight=True),
    ops.MergeHeads: TorchOp(lambda node, args: f"{args[0]}.transpose(1, 2).flatten(2)", tight=True),
    ops.Rope: TorchOp(
        _rope, helpers_of=lambda node: ("rotate", *["rotate_first"] * (_rotation(node) != "rotate"))
    ),
    ops.Attention: TorchOp(_attention, result="mixed", helpers_of=_attention_helpers),
    ops.Activation: TorchOp(_activation),
    ops.Add: TorchOp(lambda node, args: " + ".join(args), loose=True, tight=True),
    ops.Sub: TorchOp(lambda node, args: " - ".join(args), loose=True, tight=True),
    ops.Mul: TorchOp(lambda node, args: " * ".join(args), result="h", loose=True, tight=True),
    ops.Scale: TorchOp(_scale, loose=True, tight=True),
    ops.Weigh: TorchOp(
        lambda node, args: f"{args[0]} * self.{node.name}.weight",
        _weight,
        helpers=("Weight",),
        loose=True,
        tight=True,
    ),
    ops.ZerosLike: TorchOp(lambda node, args: f"torch.zeros_like({args[0]})"),
    ops.Noise: TorchOp(
        lambda node, args: f"noise_like({', '.join(args)})", result="noise", helpers=("noise_like",)
    ),
    ops.Concat: TorchOp(lambda node, args: f"torch.cat(({', '.join(args)}), dim=-1)", result="h"),
    ops.Shift: TorchOp(_shift, helpers=("shift",)),
    ops.Append: TorchOp(
        lambda node, args: f"append({', '.join(args)})", result="seen", helpers=("append",)
    ),
    ops.PositionIds: TorchOp(
        lambda node, args: f"positions_of({', '.join(args)})",
        result="position_ids",
        helpers=("positions_of",),
    ),
    ops.VisibleKeys: TorchOp(
        lambda node, args: f"visible_keys({', '.join(args)})", helpers=("visible_keys",)
    ),
    ops.RotaryRows: TorchOp(
        _rotary_rows,
        _rotary_rows_table,
        result="angles",
        helpers_of=_row_helpers,
    ),
    ops.PositionRows: TorchOp(_own, _positions, "positions"),
    ops.Softmax: TorchOp(
        lambda node, args: f"{args[0]}.softmax(dim=-1)", result="gates", tight=True
    ),
    ops.Largest: TorchOp(_largest, result="chosen", helpers=("largest",)),
    ops.Stretch: TorchOp(_stretch, tight=True),
    ops.TokenMean: TorchOp(
        lambda node, args: f"{args[0]}.flatten(0, 1).mean(0)", result="mean", tight=True
    ),
    ops.AuxiliaryLoss: TorchOp(_auxiliary_loss, helpers=("with_loss",), tight=True),
    ops.PatchConvolution: TorchOp(
        _patches,
        _patch_convolution,
        result="x",
    ),
    ops.Probe: TorchOp(
        lambda node, args: f"self.{node.name}.weight.expand({args[0]}.shape[0], -1, -1)",
        _weight,
        result="probe",
        helpers=("Weight",),
    ),
    ops.AtPosition: TorchOp(
        lambda node, args: f"{args[0]}[:, {node.op.index}]",  # type: ignore[attr-defined]
        result="h",
        tight=True,
    ),
    ops.UnitLength: TorchOp(lambda node, args: f"F.normalize({args[0]}, dim=-1)"),
    ops.Dots: TorchOp(
        lambda node, args: f"{args[0]} @ {args[1]}.T", result="dots", loose=True, tight=True
    ),
    ops.Scalar: TorchOp(
        lambda node, args: f"self.{node.name}",
        lambda node: f"self.{node.name} = nn.Parameter(torch.empty(1))",
        result="number",
    ),
    ops.MeanPool: TorchOp(lambda node, args: f"{args[0]}.mean(1)", result="h", tight=True),
}
