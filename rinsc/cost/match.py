"""The compute-matched regime: how long a variant trains for the FLOPs of its baseline."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from rinsc.cost.counts import checked_counts, checked_sequence
from rinsc.cost.flops import PYTORCH, FlopConvention, training_flops
from rinsc.errors import SpecError, plural
from rinsc.graph import build_graph
from rinsc.graph.law import drawn_loops
from rinsc.spec import ModelSpec, TowersSpec
from rinsc.spec.model import require_spec
from rinsc.spec.towers import require_towers


@dataclass(frozen=True)
class _EqualFlops:
    """Steps of two runs of equal training FLOPs, and the FLOPs of a step of each."""

    baseline_steps: int
    baseline_step_flops: int
    variant_steps: int
    variant_step_flops: int
    in_expectation: bool = field(default=False, kw_only=True)

    @property
    def baseline_flops(self) -> int:
        return self.baseline_steps * self.baseline_step_flops

    @property
    def variant_flops(self) -> int:
        return self.variant_steps * self.variant_step_flops

    @property
    def remainder_flops(self) -> int:
        return self.baseline_flops - self.variant_flops

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON, products included."""
        return {
            **asdict(self),
            "baseline_flops": self.baseline_flops,
            "variant_flops": self.variant_flops,
            "remainder_flops": self.remainder_flops,
        }


@dataclass(frozen=True)
class ComputeMatch(_EqualFlops):
    """Two runs of equal training FLOPs: the variant falls short by ``remainder_flops``.

    The remainder is less than one step of the variant. The FLOPs of a step are expectations where
    training draws rounds; ``in_expectation`` says whether they do.
    """

    convention: str
    batch_tokens: int

    @property
    def baseline_tokens(self) -> int:
        return self.baseline_steps * self.batch_tokens

    @property
    def variant_tokens(self) -> int:
        return self.variant_steps * self.batch_tokens

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON, products included."""
        tokens = {"baseline_tokens": self.baseline_tokens, "variant_tokens": self.variant_tokens}
        return {**super().as_dict(), **tokens}


@dataclass(frozen=True)
class PairsMatch(_EqualFlops):
    """`ComputeMatch` of towers: a pair has one input for each of them.

    What compares the outputs of towers is not counted.
    """

    convention: str
    batch_pairs: int

    @property
    def baseline_pairs(self) -> int:
        return self.baseline_steps * self.batch_pairs

    @property
    def variant_pairs(self) -> int:
        return self.variant_steps * self.batch_pairs

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON, products included."""
        pairs = {"baseline_pairs": self.baseline_pairs, "variant_pairs": self.variant_pairs}
        return {**super().as_dict(), **pairs}


def match_towers(
    baseline: TowersSpec,
    variant: TowersSpec,
    *,
    pairs: int,
    batch_pairs: int,
    seq: int | None = None,
    convention: FlopConvention = PYTORCH,
) -> PairsMatch:
    """Steps of both runs, when the baseline trains on ``pairs`` in steps of ``batch_pairs``.

    A pair is a sequence for each tower, as long as its context or as ``seq``. Pairs beyond a whole
    step are dropped. Raises `SpecError` for anything but towers, for counts that are not positive,
    and for a budget that pays for no step.
    """
    pairs, batch_pairs = checked_counts(pairs=pairs, batch_pairs=batch_pairs)
    steps_flops = []
    for spec in (baseline, variant):
        flops = [
            training_flops(tower, seq or tower.context, batch=batch_pairs, convention=convention)
            for tower in require_towers(spec).specs
        ]
        steps_flops.append(sum(flops))
    steps = pairs // batch_pairs
    variant_steps = steps * steps_flops[0] // steps_flops[1]
    if variant_steps < 1:
        step = f"step of {plural(batch_pairs, 'pair')}"
        message = f"{plural(pairs, 'pair')} pay for no {step} of the variant"
        raise SpecError("budget-too-small", message, hint="give more pairs")
    towers = (*baseline.specs, *variant.specs)
    return PairsMatch(
        convention=convention.name,
        batch_pairs=batch_pairs,
        baseline_steps=steps,
        baseline_step_flops=steps_flops[0],
        variant_steps=variant_steps,
        variant_step_flops=steps_flops[1],
        in_expectation=any(any(drawn_loops(build_graph(tower))) for tower in towers),
    )


def match_compute(
    baseline: ModelSpec,
    variant: ModelSpec,
    *,
    tokens: int,
    batch_tokens: int,
    seq: int | None = None,
    convention: FlopConvention = PYTORCH,
) -> ComputeMatch:
    """Steps of both runs, when the baseline trains on ``tokens`` in steps of ``batch_tokens``.

    Sequences are ``seq`` tokens long, by default the baseline's context. Tokens beyond a whole
    step are dropped. Raises `SpecError` for counts that are not positive, a ``seq`` beyond a
    context, a step that is not whole sequences, and a budget that pays for no step.

    >>> from rinsc import model_spec
    >>> plain, recursive = model_spec("AB", preset="300m"), model_spec("(A^3)B", preset="300m")
    >>> plan = match_compute(plain, recursive, tokens=10**9, batch_tokens=2**19)
    >>> plan.baseline_steps, plan.variant_steps
    (1907, 993)
    """
    seq = require_spec(baseline).context if seq is None else seq
    for spec in (baseline, variant):
        seq = checked_sequence(require_spec(spec), seq)
    tokens, batch_tokens = checked_counts(tokens=tokens, batch_tokens=batch_tokens)
    if batch_tokens % seq:
        message = f"{plural(batch_tokens, 'token')} a step are not whole sequences of {seq}"
        hint = f"use a multiple of {seq}, such as {8 * seq}"
        raise SpecError("bad-batch", message, hint=hint)
    batch = batch_tokens // seq
    baseline_step = training_flops(baseline, seq, batch=batch, convention=convention)
    variant_step = training_flops(variant, seq, batch=batch, convention=convention)
    steps = tokens // batch_tokens
    variant_steps = steps * baseline_step // variant_step
    if variant_steps < 1:
        step = f"step of {plural(batch_tokens, 'token')}"
        message = f"{plural(tokens, 'token')} pay for no {step} of the variant"
        raise SpecError("budget-too-small", message, hint="give more tokens")
    return ComputeMatch(
        convention=convention.name,
        batch_tokens=batch_tokens,
        baseline_steps=steps,
        baseline_step_flops=baseline_step,
        variant_steps=variant_steps,
        variant_step_flops=variant_step,
        in_expectation=any(any(drawn_loops(build_graph(spec))) for spec in (baseline, variant)),
    )
