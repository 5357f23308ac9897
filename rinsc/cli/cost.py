"""``rinsc cost``: what a model costs, and how long it may train for the price of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import Parameter

from rinsc.cli.model_options import NO_OPTIONS, ModelArgument, ModelOptions, spec_like
from rinsc.cli.output import note, print_json, print_line, print_table
from rinsc.cli.values import (
    Count,
    ModelText,
    RoundsOption,
    option_values,
    parse_rounds,
    share_bindings,
)
from rinsc.cost import ComputeMatch, CostReport, TowersReport
from rinsc.cost.adapters import share_text
from rinsc.errors import UsageError, listed, plural
from rinsc.formats import TrainingPrecision
from rinsc.graph import build_graph, resolve_rounds
from rinsc.ops import Causal
from rinsc.scalars import (
    exact,
    ratio,
    rounded_bytes,
    rounded_count,
    rounded_flops,
    share,
    short_text,
)
from rinsc.spec import ModelSpec, TowersSpec

DEFAULT_TOKENS = 1_000_000_000
DEFAULT_BATCH = 16


def cost(
    model: ModelArgument,
    /,
    *,
    options: ModelOptions = NO_OPTIONS,
    baseline: ModelText | None = None,
    tokens: Count = DEFAULT_TOKENS,
    batch_tokens: Count | None = None,
    seq: Count | None = None,
    batch: Count = DEFAULT_BATCH,
    rounds: RoundsOption = (),
    causal: Causal = "full",
    head: Annotated[bool, Parameter(negative="--no-head")] = True,
    recompute: bool = False,
    precision: TrainingPrecision = "fp32",
    json: bool = False,
) -> None:
    """Print parameters, FLOPs and bytes, and with a baseline the compute-matched plan.

    Parameters
    ----------
    baseline
        A signature at the same dimensions, a TOML file or a run folder to compare with; prints the
        plan as well.
    tokens
        Tokens that the baseline trains on; counts may be written as 3000, 3e6, 10M or 1B.
    batch_tokens
        Tokens in a training step; batch times seq if not given.
    seq
        Tokens in a sequence; the context if not given.
    batch
        Sequences in a training step.
    rounds
        Rounds of every repeat, as 3, or of one, as A=2; if not given, those written, and for
        training what is expected of those drawn.
    causal
        Count every pair of positions, or only those that are not masked.
    head
        Count the head.
    recompute
        Count the forward pass again, as training with checkpointed activations runs it.
    precision
        Of weights, activations and cache.
    json
        Print JSON with exact integers.
    """
    from rinsc.cost import FlopConvention, cost_report, match_compute, towers_report
    from rinsc.cost.adapters import heavy_note

    models = [model] if baseline is None else [model, baseline]
    exponents = share_bindings(options.set_, [options.signed(models[0]), *models[1:]])
    any_spec = options.any_spec(model, exponents[0])
    if isinstance(any_spec, TowersSpec):
        if baseline is not None:
            message = "--baseline compares models of one tower, and this has several"
            raise UsageError("several-towers", message, hint="compare the towers one by one")
        with option_values():
            towers = towers_report(
                any_spec,
                seq=seq,
                batch=batch,
                rounds=parse_rounds(rounds),
                convention=FlopConvention(causal, head, recompute),
                precision=precision,
            )
        if json:
            print_json(towers.as_dict())
        else:
            print_towers(towers)
        return
    spec = any_spec
    seq = spec.context if seq is None else seq
    convention = FlopConvention(causal, head, recompute)
    asked = parse_rounds(rounds)
    if baseline is not None and asked is not None:
        hint = "write the rounds into the signature"
        raise UsageError("usage", "--rounds does not go with --baseline", hint=hint)
    with option_values():
        report = cost_report(
            spec, seq=seq, batch=batch, rounds=asked, convention=convention, precision=precision
        )
    data: dict[str, Any] = report.as_dict()
    heavy = heavy_note(spec, report.adapter_share)
    if heavy is not None:
        note(heavy)
    other = plan = None
    if baseline is not None:
        other_spec = spec_like(spec, baseline, exponents[1], strict=options.strict)
        with option_values():
            other = cost_report(
                other_spec, seq=seq, batch=batch, convention=convention, precision=precision
            )
            plan = match_compute(
                other_spec,
                spec,
                tokens=tokens,
                batch_tokens=batch * seq if batch_tokens is None else batch_tokens,
                seq=seq,
                convention=convention,
            )
        data |= {"baseline": other.as_dict(), "plan": plan.as_dict()}
    if json:
        print_json(data)
        return

    print_report(report, spec)
    if other is not None and plan is not None:
        print_comparison(other, report)
        print_plan(other.signature, report.signature, plan)


def print_towers(report: TowersReport) -> None:
    """A column for each tower and one for all of them; shared blocks are stored once."""
    reports = list(report.towers.values())
    columns: list[CostReport | TowersReport] = [*reports, report]
    rows: list[tuple[str, Callable[[CostReport | TowersReport], int]]] = [
        ("parameters, stored", lambda each: each.stored_params),
        ("parameters, executed", lambda each: each.executed_params),
        ("layers, stored", lambda each: each.stored_layers),
        ("layers, executed", lambda each: each.executed_layers),
        ("forward FLOPs, a sequence each", lambda each: each.forward_flops),
        ("training FLOPs, a sequence each", lambda each: each.training_flops),
    ]
    print_line(report.signature, style="bold")
    if report.shared_blocks:
        print_line(f"shared by towers, stored once: {listed(report.shared_blocks, MAX_ROWS)}")
    print_line()
    print_table(
        ("totals", *report.towers, "all"),
        [(name, *(exact(count(each)) for each in columns)) for name, count in rows],
    )
    tokens = ", ".join(
        f"{name} {plural(each.seq, 'token')}" for name, each in report.towers.items()
    )
    print_line()
    print_line(f"sequences: {tokens}")
    print_line(f"FLOPs counted: {reports[0].convention.name}", style="dim")


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
    if spec.head_dim is not None:
        heads += f" of {spec.head_dim}"
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
