"""``rinsc cost``: what a model costs, and how long it may train for the price of another."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from rinsc.cli.diagnostics import note
from rinsc.cli.exponents import share_bindings
from rinsc.cli.model_options import NO_OPTIONS, ModelArgument, ModelOptions, spec_like
from rinsc.cli.output import print_json
from rinsc.cli.values import Count, ModelText, RoundsOption, option_values, parse_rounds
from rinsc.cost.memory import Precision
from rinsc.errors import Problem, UsageError
from rinsc.ops import Causal

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
    precision: Precision = "fp32",
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
    from rinsc.cost import FlopConvention, cost_report, match_compute
    from rinsc.cost.adapters import heavy_note

    models = [model] if baseline is None else [model, baseline]
    exponents = share_bindings(options.set_, [options.signed(models[0]), *models[1:]])
    spec = options.spec(model, exponents[0])
    seq = spec.context if seq is None else seq
    convention = FlopConvention(causal, head, recompute)
    asked = parse_rounds(rounds)
    if baseline is not None and asked is not None:
        hint = "write the rounds into the signature"
        raise UsageError(Problem("usage", "--rounds does not go with --baseline", hint=hint))
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
    from rinsc.cli.cost_tables import print_comparison, print_plan, print_report

    print_report(report, spec)
    if other is not None and plan is not None:
        print_comparison(other, report)
        print_plan(other.signature, report.signature, plan)
