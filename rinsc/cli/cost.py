"""``rinsc cost``: what a model costs, and how long it may train for the price of another."""

from __future__ import annotations

import json as json_text
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from rinsc.cli.model_options import NO_OPTIONS, ModelArgument, ModelOptions, spec_like
from rinsc.cli.values import Count, parse_rounds
from rinsc.errors import Problem, UsageError

if TYPE_CHECKING:
    from rinsc.cost import ComputeMatch

DEFAULT_TOKENS = 1_000_000_000
DEFAULT_BATCH = 16


def cost(
    model: ModelArgument,
    /,
    *,
    options: ModelOptions = NO_OPTIONS,
    baseline: str | None = None,
    tokens: Count = DEFAULT_TOKENS,
    batch_tokens: Count | None = None,
    seq: Count | None = None,
    batch: Count = DEFAULT_BATCH,
    rounds: Annotated[tuple[str, ...], Parameter(show_default=False)] = (),
    causal: Literal["full", "half"] = "full",
    head: Annotated[bool, Parameter(negative="--no-head")] = True,
    recompute: bool = False,
    precision: Literal["fp32", "bf16"] = "fp32",
    json: bool = False,
) -> None:
    """Print parameters, FLOPs and bytes, and with a baseline the compute-matched plan.

    Parameters
    ----------
    baseline
        A signature at the same dimensions, or a TOML file: compare with it and print the plan.
    tokens
        Tokens that the baseline trains on; counts may be written as 3000, 3e6, 10M or 1B.
    batch_tokens
        Tokens in a training step; batch times seq if not given.
    seq
        Tokens in a sequence; the context if not given.
    batch
        Sequences in a training step.
    rounds
        Rounds of every repeat, as 3, or of one, as A=2.
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

    spec = options.spec(model)
    seq = spec.context if seq is None else seq
    _require_positive(tokens=tokens, seq=seq, batch=batch)
    if seq > spec.context:
        message = f"--seq {seq} is beyond the context of {spec.context}"
        raise UsageError(Problem("usage", message, hint=f"shorten it, or give --context {seq}"))
    convention = FlopConvention(causal, head, recompute)
    asked = parse_rounds(rounds)
    if baseline is not None and asked is not None:
        hint = "write the rounds into the signature"
        raise UsageError(Problem("usage", "--rounds does not go with --baseline", hint=hint))
    report = cost_report(
        spec, seq=seq, batch=batch, rounds=asked, convention=convention, precision=precision
    )
    data: dict[str, Any] = report.as_dict()
    other = plan = None
    if baseline is not None:
        other_spec = spec_like(spec, baseline)
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
        data |= {"baseline": other.as_dict(), "plan": plan_data(plan)}
    if json:
        print(json_text.dumps(data, indent=2, ensure_ascii=False))
        return
    from rinsc.cli.cost_tables import print_comparison, print_plan, print_report

    print_report(report, spec, batch)
    if other is not None and plan is not None:
        print_comparison(other, report)
        print_plan(other.signature, report.signature, plan)


def plan_data(plan: ComputeMatch) -> dict[str, object]:
    """The plan as plain data, products included."""
    return {
        "convention": plan.convention,
        "batch_tokens": plan.batch_tokens,
        "baseline_steps": plan.baseline_steps,
        "baseline_tokens": plan.baseline_tokens,
        "baseline_step_flops": plan.baseline_step_flops,
        "baseline_flops": plan.baseline_flops,
        "variant_steps": plan.variant_steps,
        "variant_tokens": plan.variant_tokens,
        "variant_step_flops": plan.variant_step_flops,
        "variant_flops": plan.variant_flops,
        "remainder_flops": plan.remainder_flops,
    }


def _require_positive(**counts: int) -> None:
    problems = [
        Problem("usage", f"--{name} is {count}; it must be at least 1", hint="give a larger one")
        for name, count in counts.items()
        if count < 1
    ]
    if problems:
        raise UsageError(*problems)
