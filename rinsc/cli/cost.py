"""``rinsc cost``: what a model costs, and how long it may train for the price of another."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from rinsc.cli.model_options import NO_OPTIONS, ModelArgument, ModelOptions
from rinsc.cli.output import note, print_json, print_line, print_result_table
from rinsc.cli.values import (
    Count,
    ModelText,
    RoundsOption,
    option_values,
    parse_rounds,
    share_bindings,
)
from rinsc.cost import ComputeMatch, CostReport, PairsMatch, TowersReport
from rinsc.cost.tables import (
    MAX_ROWS,
    comparison_table,
    dimensions_text,
    expected_text,
    plan_table,
    remainder_text,
    report_tables,
    towers_tables,
)
from rinsc.errors import UsageError, listed, plural
from rinsc.formats import TrainingPrecision
from rinsc.graph import build_graph, resolve_rounds
from rinsc.ops import Causal
from rinsc.spec import ModelSpec, TowersSpec
from rinsc.verbs.models import any_spec_like

DEFAULT_TOKENS = 1_000_000_000
DEFAULT_PAIRS = 100_000_000
DEFAULT_BATCH = 16


def cost(
    model: ModelArgument,
    /,
    *,
    options: ModelOptions = NO_OPTIONS,
    baseline: ModelText | None = None,
    tokens: Count = DEFAULT_TOKENS,
    pairs: Count = DEFAULT_PAIRS,
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
    pairs
        Of a model of towers: inputs of every tower, a pair, that the baseline trains on.
    batch_tokens
        Tokens in a training step; batch times seq if not given.
    seq
        Tokens in a sequence; the context if not given.
    batch
        Sequences, or pairs, in a training step.
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
    from rinsc.cost import FlopConvention, match_compute, match_towers
    from rinsc.cost.params import heavy_note

    models = [model] if baseline is None else [model, baseline]
    exponents = share_bindings(options.set_, [options.signed(models[0]), *models[1:]])
    spec = options.any_spec(model, exponents[0])
    counts = parse_rounds(rounds)
    if baseline is not None and counts is not None:
        hint = "write the rounds into the signature"
        raise UsageError("usage", "--rounds does not go with --baseline", hint=hint)
    convention = FlopConvention(causal, head, recompute)
    settings: dict[str, Any] = {
        **{"seq": seq, "batch": batch, "convention": convention, "precision": precision}
    }
    with option_values():
        report = _report(spec, rounds=counts, **settings)
    data = report.as_dict()
    if isinstance(spec, ModelSpec) and isinstance(report, CostReport):
        heavy = heavy_note(spec, report.adapter_share)
        if heavy is not None:
            note(heavy)
    other: CostReport | TowersReport | None = None
    plan: ComputeMatch | PairsMatch | None = None
    if baseline is not None:
        other_spec = any_spec_like(spec, baseline, exponents[1], strict=options.strict)
        with option_values():
            other = _report(other_spec, **settings)
            if isinstance(other_spec, TowersSpec) and isinstance(spec, TowersSpec):
                plan = match_towers(
                    *(other_spec, spec),
                    pairs=pairs,
                    batch_pairs=batch,
                    seq=seq,
                    convention=convention,
                )
            elif isinstance(other_spec, ModelSpec) and isinstance(spec, ModelSpec):
                length = spec.context if seq is None else seq
                plan = match_compute(
                    *(other_spec, spec),
                    tokens=tokens,
                    batch_tokens=batch * length if batch_tokens is None else batch_tokens,
                    seq=length,
                    convention=convention,
                )
        assert plan is not None
        data |= {"baseline": other.as_dict(), "plan": plan.as_dict()}
    if json:
        print_json(data)
        return
    if isinstance(spec, ModelSpec) and isinstance(report, CostReport):
        print_report(report, spec)
    elif isinstance(report, TowersReport):
        print_towers(report)
    if other is not None and plan is not None:
        print_comparison(other, report)
        print_plan(other.signature, report.signature, plan)


def _report(spec: ModelSpec | TowersSpec, **settings: Any) -> CostReport | TowersReport:
    from rinsc.cost import cost_report

    return cost_report(spec, **settings)


def print_towers(report: TowersReport) -> None:
    """A column for each tower and one for all of them; shared blocks are stored once."""
    print_line(report.signature, style="bold")
    if report.shared_blocks:
        print_line(f"shared by towers, stored once: {listed(report.shared_blocks, MAX_ROWS)}")
    for table in towers_tables(report):
        print_line()
        print_result_table(table)
    tokens = ", ".join(
        f"{name} {plural(tower.seq, 'token')}" for name, tower in report.towers.items()
    )
    print_line()
    print_line(f"sequences: {tokens}")
    if report.join is not None:
        pairs = plural(report.join.batch, "picture")
        print_line(f"join: each of {pairs} with each text of the batch, a pair's share")
    convention = next(iter(report.towers.values())).convention
    print_line(f"FLOPs counted: {convention.name}", style="dim")


def print_report(report: CostReport, spec: ModelSpec) -> None:
    """Header, totals, memory, FLOPs by part and by block, and the convention they follow."""
    print_line(report.signature, style="bold")
    print_line(dimensions_text(spec))
    if report.rounds != resolve_rounds(build_graph(spec), None):
        counts = ", ".join(f"{name}={count}" for name, count in report.rounds.items())
        print_line(f"rounds {counts}")
    if report.drawn_repeats:
        print_line(f"expected rounds in training {expected_text(report)}")
    for table in report_tables(report):
        print_line()
        print_result_table(table)
    print_line()
    print_line(f"FLOPs counted: {report.convention.name}", style="dim")


def print_comparison(
    baseline: CostReport | TowersReport, variant: CostReport | TowersReport
) -> None:
    """Variant beside baseline, with their ratio."""
    print_line()
    print_result_table(comparison_table(baseline, variant))


def print_plan(baseline: str, variant: str, plan: ComputeMatch | PairsMatch) -> None:
    """Both runs of the compute-matched regime, and what is left over."""
    print_line()
    print_result_table(plan_table(baseline, variant, plan))
    print_line()
    print_line(remainder_text(baseline, variant, plan), style="dim")
