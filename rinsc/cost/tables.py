"""The tables of a cost report, and of what compares two, as ``rinsc cost`` prints them."""

from __future__ import annotations

from collections.abc import Callable

from rinsc.cost.match import ComputeMatch, PairsMatch
from rinsc.cost.memory import MemoryReport
from rinsc.cost.params import share_text
from rinsc.cost.report import CostReport, TowersReport
from rinsc.errors import plural
from rinsc.scalars import (
    Table,
    exact,
    ratio,
    rounded_bytes,
    rounded_count,
    rounded_flops,
    share,
    short_text,
)
from rinsc.spec import ModelSpec

MAX_ROWS = 24


def dimensions_text(spec: ModelSpec) -> str:
    head = "tied" if spec.tied_embedding else "untied"
    heads = plural(spec.heads, "head")
    if spec.kv_heads != spec.heads:
        heads += f" ({spec.kv_heads} for keys and values)"
    if spec.head_dim is not None:
        heads += f" of {spec.head_dim}"
    return (
        f"{spec.kind} · {plural(spec.layers, 'layer')} · width {spec.width} · {heads}"
        f" · mlp {spec.mlp_width}\n"
        f"vocabulary {exact(spec.vocab_size)}, {head} · context {exact(spec.context)}"
    )


def report_tables(report: CostReport) -> list[Table]:
    """Totals, memory, FLOPs by part and by block."""
    forward = f"forward, {plural(report.seq, 'token')}"
    return [
        Table(("totals", "", "exact"), _totals(report)),
        memory_table(report.memory, _activations(report), "key-value cache, per token"),
        Table(("part", "share", forward, "exact FLOPs"), _split(report, report.forward.by_part)),
        Table(("block", "parameters", "share", forward, "exact FLOPs"), _blocks(report)),
    ]


def memory_table(memory: MemoryReport, activations: str, cache: str) -> Table:
    """Bytes of training, with words for whose activations and whose cache they are."""
    rows = (
        ("weights", memory.weight_bytes),
        ("gradients", memory.gradient_bytes),
        ("optimizer (AdamW)", memory.optimizer_bytes),
        (activations, memory.activation_bytes),
        (cache, memory.kv_bytes_per_token),
    )
    heads = (f"memory, {memory.precision}", "", "exact bytes")
    return Table(heads, [(name, rounded_bytes(number), exact(number)) for name, number in rows])


def towers_tables(report: TowersReport) -> list[Table]:
    """A column for each tower and one for all of them, and the memory of all; a column for what
    compares pictures with texts."""
    joins = [] if report.join is None else [report.join]
    columns = [*report.towers.values(), *joins, report]
    rows = [
        ("parameters, stored", "stored_params"),
        ("parameters, executed", "executed_params"),
        ("layers, stored", "stored_layers"),
        ("layers, executed", "executed_layers"),
        ("forward FLOPs, a sequence each", "forward_flops"),
        ("training FLOPs, a sequence each", "training_flops"),
    ]
    batch = next(iter(report.towers.values())).batch
    return [
        Table(
            ("totals", *report.towers, *["join"] * len(joins), "all"),
            [
                (name, *(exact(getattr(column, count, 0)) for column in columns))
                for name, count in rows
            ],
        ),
        memory_table(
            report.memory,
            f"activations (estimate), {batch} x a sequence each",
            "key-value cache, a token each",
        ),
    ]


def comparison_table(
    baseline: CostReport | TowersReport, variant: CostReport | TowersReport
) -> Table:
    """Variant beside baseline, with their ratio."""
    rows = [
        ("parameters, stored", baseline.stored_params, variant.stored_params, rounded_count),
        ("parameters, executed", baseline.executed_params, variant.executed_params, rounded_count),
        ("layers executed", baseline.executed_layers, variant.executed_layers, exact),
        *_compared_flops(baseline, variant),
        (
            "activations (estimate)",
            baseline.memory.activation_bytes,
            variant.memory.activation_bytes,
            rounded_bytes,
        ),
    ]
    if isinstance(variant, CostReport):
        rows[-1] = (_activations(variant), *rows[-1][1:])
    sides = ("baseline", "variant")  # towers begin alike, so that their start says little
    if isinstance(variant, CostReport):
        sides = (_name(baseline.signature), _name(variant.signature))
    return Table(
        ("against the baseline", *sides, "ratio"),
        [(name, show(left), show(right), ratio(right, left)) for name, left, right, show in rows],
    )


def _compared_flops(
    baseline: CostReport | TowersReport, variant: CostReport | TowersReport
) -> list[tuple[str, int, int, Callable[[int], str]]]:
    if isinstance(baseline, CostReport) and isinstance(variant, CostReport):
        return [
            (
                "forward FLOPs per token",
                baseline.forward_flops_per_token,
                variant.forward_flops_per_token,
                rounded_flops,
            ),
            (
                _training("training FLOPs per token", baseline, variant),
                baseline.training_flops_per_token,
                variant.training_flops_per_token,
                rounded_flops,
            ),
            (
                "cache per token",
                baseline.memory.kv_bytes_per_token,
                variant.memory.kv_bytes_per_token,
                rounded_bytes,
            ),
        ]
    return [
        ("forward FLOPs per pair", baseline.forward_flops, variant.forward_flops, rounded_flops),
        ("training FLOPs per pair", baseline.training_flops, variant.training_flops, rounded_flops),
    ]


def plan_table(baseline: str, variant: str, plan: ComputeMatch | PairsMatch) -> Table:
    """Both runs of the compute-matched regime."""
    if isinstance(plan, ComputeMatch):
        noun, counts = "token", (plan.baseline_tokens, plan.variant_tokens)
        batch, sides = plan.batch_tokens, (_name(baseline), _name(variant))
    else:
        noun, counts = "pair", (plan.baseline_pairs, plan.variant_pairs)
        batch, sides = plan.batch_pairs, ("baseline", "variant")
    return Table(
        ("equal training FLOPs", *sides),
        [
            (f"{noun}s", *map(exact, counts)),
            (
                f"steps of {plural(batch, noun, exact(batch))}",
                exact(plan.baseline_steps),
                exact(plan.variant_steps),
            ),
            (
                "FLOPs a step, expected" if plan.in_expectation else "FLOPs a step",
                exact(plan.baseline_step_flops),
                exact(plan.variant_step_flops),
            ),
            ("FLOPs in all", exact(plan.baseline_flops), exact(plan.variant_flops)),
        ],
    )


def remainder_text(baseline: str, variant: str, plan: ComputeMatch | PairsMatch) -> str:
    """How far the variant stops from its baseline."""
    left = f"{exact(plan.remainder_flops)} FLOPs"
    if isinstance(plan, PairsMatch):
        return f"the variant stops {left} short of the baseline: less than a step."
    return f"{_name(variant)} stops {left} short of {_name(baseline)}: less than a step."


def expected_text(report: CostReport) -> str:
    """``A=2.5``, of the repeats that training draws."""
    return ", ".join(f"{name}={report.expected_rounds[name]:.6g}" for name in report.drawn_repeats)


def _totals(report: CostReport) -> list[tuple[str, str, str]]:
    def flops(name: str, number: int) -> tuple[str, str, str]:
        return name, rounded_flops(number), exact(number)

    def count(name: str, number: int) -> tuple[str, str, str]:
        return name, rounded_count(number), exact(number)

    percent = share_text(report.adapter_share)
    adapters = [count(f"parameters, adapters ({percent})", report.adapter_params)]
    return [
        count("parameters, stored", report.stored_params),
        *(adapters if report.adapter_params else []),
        count("parameters, executed", report.executed_params),
        ("layers, stored", "", exact(report.stored_layers)),
        ("layers, executed", "", exact(report.executed_layers)),
        flops("forward, per token", report.forward_flops_per_token),
        flops(_training("training, per token", report), report.training_flops_per_token),
        flops(f"forward, {plural(report.seq, 'token')}", report.forward_flops),
        flops(_training(f"training, {plural(report.seq, 'token')}", report), report.training_flops),
    ]


def _activations(report: CostReport) -> str:
    return f"activations (estimate), {report.batch} x {plural(report.seq, 'token')}"


def _training(name: str, *reports: CostReport) -> str:
    """The name of a figure of training, which may be an expectation."""
    return f"{name}, expected" if any(report.drawn_repeats for report in reports) else name


def _blocks(report: CostReport) -> list[tuple[str, ...]]:
    """What each block and each repeat owns and costs; what costs nothing may still own weights."""
    params = report.params_by_block
    rows: list[tuple[str, ...]] = [
        (name, exact(params[name]) if name in params else "", *rest)
        for name, *rest in _split(report, report.forward.by_block)
    ]
    free = [name for name in params if not report.forward.by_block.get(name) and params[name]]
    for name in free[:MAX_ROWS]:
        rows.append((name, exact(params[name]), "-", "0 FLOP", "0"))
    rest = free[MAX_ROWS:]
    if rest:
        owned = sum(params[name] for name in rest)
        rows.append((f"… {len(rest)} more", exact(owned), "-", "0 FLOP", "0"))
    return rows


def _split(report: CostReport, flops: dict[str, int]) -> list[tuple[str, str, str, str]]:
    """Largest first; what costs nothing is left out, and what follows many rows is summed."""
    rows = sorted(flops.items(), key=lambda item: -item[1])
    rest = rows[MAX_ROWS:]
    if rest:
        rows[MAX_ROWS:] = [(f"… {len(rest)} more", sum(number for _, number in rest))]
    return [
        (name, share(number, report.forward_flops), rounded_flops(number), exact(number))
        for name, number in rows
        if number
    ]


def _name(signature: str) -> str:
    """A signature short enough to head a column."""
    return short_text(signature, 18)
