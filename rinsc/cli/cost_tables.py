"""The cost report for people: totals first, then where they come from."""

from __future__ import annotations

from rinsc.cli.numbers import exact, ratio, rounded_bytes, rounded_count, rounded_flops, share
from rinsc.cli.tables import print_line, print_table
from rinsc.cli.words import short_text
from rinsc.cost import ComputeMatch, CostReport
from rinsc.cost.adapters import share_text
from rinsc.graph import build_graph, resolve_rounds
from rinsc.spec import ModelSpec
from rinsc.syntax.problems import plural

MAX_ROWS = 24


def print_report(report: CostReport, spec: ModelSpec) -> None:
    """Header, totals, memory, FLOPs by part and by block, and the convention they follow."""
    print_line(report.signature, style="bold")
    print_line(_dimensions(spec))
    if report.rounds != resolve_rounds(build_graph(spec), None):
        asked = ", ".join(f"{name}={count}" for name, count in report.rounds.items())
        print_line(f"rounds {asked}")
    if report.drawn_repeats:
        print_line(f"expected rounds in training {_expected(report)}")
    print_line()
    print_table(("totals", "", "exact"), _totals(report))
    print_line()
    print_table((f"memory, {report.memory.precision}", "", "exact bytes"), _memory(report))
    print_line()
    forward = f"forward, {plural(report.seq, 'token')}"
    print_table(("part", "share", forward, "exact FLOPs"), _split(report, report.forward.by_part))
    print_line()
    print_table(("block", "parameters", "share", forward, "exact FLOPs"), _blocks(report))
    print_line()
    print_line(f"FLOPs counted: {report.convention.name}", style="dim")


def print_comparison(baseline: CostReport, variant: CostReport) -> None:
    """Variant beside baseline, with their ratio."""
    rows = [
        ("parameters, stored", baseline.stored_params, variant.stored_params, rounded_count),
        ("parameters, executed", baseline.executed_params, variant.executed_params, rounded_count),
        ("layers executed", baseline.executed_layers, variant.executed_layers, exact),
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
        (
            _activations(variant),
            baseline.memory.activation_bytes,
            variant.memory.activation_bytes,
            rounded_bytes,
        ),
    ]
    print_line()
    print_table(
        ("against the baseline", _name(baseline.signature), _name(variant.signature), "ratio"),
        [(name, show(left), show(right), ratio(right, left)) for name, left, right, show in rows],
    )


def print_plan(baseline: str, variant: str, plan: ComputeMatch) -> None:
    """Both runs of the compute-matched regime, and what is left over."""
    print_line()
    print_table(
        ("equal training FLOPs", _name(baseline), _name(variant)),
        [
            ("tokens", exact(plan.baseline_tokens), exact(plan.variant_tokens)),
            (
                f"steps of {plural(plan.batch_tokens, 'token', exact(plan.batch_tokens))}",
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
    print_line()
    left = f"{exact(plan.remainder_flops)} FLOPs"
    print_line(
        f"{_name(variant)} stops {left} short of {_name(baseline)}: less than a step.", style="dim"
    )


def _dimensions(spec: ModelSpec) -> str:
    head = "tied" if spec.tied_embedding else "untied"
    heads = plural(spec.heads, "head")
    if spec.kv_heads != spec.heads:
        heads += f" ({spec.kv_heads} for keys and values)"
    return (
        f"{spec.kind} · {plural(spec.layers, 'layer')} · width {spec.width} · {heads}"
        f" · mlp {spec.mlp_width}\n"
        f"vocabulary {exact(spec.vocab_size)}, {head} · context {exact(spec.context)}"
    )


def _totals(report: CostReport) -> list[tuple[str, str, str]]:
    def flops(name: str, number: int) -> tuple[str, str, str]:
        return name, rounded_flops(number), exact(number)

    def count(name: str, number: int) -> tuple[str, str, str]:
        return name, rounded_count(number), exact(number)

    adapters = [count(f"parameters, adapters ({_adapter_share(report)})", report.adapter_params)]
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


def _memory(report: CostReport) -> list[tuple[str, str, str]]:
    memory = report.memory
    rows = (
        ("weights", memory.weight_bytes),
        ("gradients", memory.gradient_bytes),
        ("optimizer (AdamW)", memory.optimizer_bytes),
        (_activations(report), memory.activation_bytes),
        ("key-value cache, per token", memory.kv_bytes_per_token),
    )
    return [(name, rounded_bytes(number), exact(number)) for name, number in rows]


def _activations(report: CostReport) -> str:
    return f"activations (estimate), {report.batch} x {plural(report.seq, 'token')}"


def _training(name: str, *reports: CostReport) -> str:
    """The name of a figure of training, which may be an expectation."""
    return f"{name}, expected" if any(report.drawn_repeats for report in reports) else name


def _expected(report: CostReport) -> str:
    """``A=2.5``, of the repeats that training draws."""
    return ", ".join(f"{name}={report.expected_rounds[name]:.6g}" for name in report.drawn_repeats)


def _adapter_share(report: CostReport) -> str:
    return share_text(report.adapter_share)


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
