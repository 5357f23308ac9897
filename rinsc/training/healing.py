"""Healing: a retrofitted model learns to use its rounds, and follows the model that it was made of.

The loss of a target is the cross entropy, plus the KL divergence of the model from its source, both
in nats. The source runs frozen beside it, on the same tokens. Afterwards both are measured at each
number of rounds, before and after:

    rounds      before    after    KL before    KL after
         1      2.7580   2.7012       0.0000      0.0431
         2      2.9520   2.7105       0.2214      0.0612
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from rinsc.backends.hf import RinscForCausalLM, causal_lm
from rinsc.backends.torch import load_weights
from rinsc.backends.torch.device import autocast, evaluating
from rinsc.data.batches import NO_TARGET
from rinsc.errors import CheckpointError, SpecError, UsageError, setting
from rinsc.formats import TrainingPrecision
from rinsc.graph import rounds_in_words, rounds_up_to
from rinsc.layers.loops import loop_prefix
from rinsc.objectives.next_token import HeldOut, logits_of
from rinsc.scalars import signed
from rinsc.storage.files import write_atomically
from rinsc.training.config import TrainConfig
from rinsc.training.finished import FinishedRun
from rinsc.training.opening import trained_run
from rinsc.training.warm_start import Source

MOST_WINDOWS = 16  # of held-out text, in the report


@dataclass(frozen=True)
class Teacher:
    """The source of a retrofit, which is followed."""

    run: FinishedRun

    def model(self, device: torch.device) -> RinscForCausalLM:
        """With its weights, which do not learn."""
        model: Any = causal_lm(self.run.graph.spec, device=device)
        load_weights(model.model, self.run.weights)
        model.requires_grad_(requires_grad=False).eval()
        return cast(RinscForCausalLM, model)


def open_teacher(config: TrainConfig, spec: Any) -> Teacher | None:
    """The model that `TrainConfig.heal` names, None where it names none.

    Raises CheckpointError where nothing of the kind lies there, and SpecError for one of other
    tokens.
    """
    if not config.heal:
        return None
    if config.objective != "next_token":
        message = f"{setting('heal')} is about text, and the objective is {config.objective}"
        raise UsageError("usage", message, hint="leave it out")
    run = trained_run(Path(config.heal))
    if run.graph.spec.vocab_size != spec.vocab_size:
        message = f"the model has {spec.vocab_size} tokens, and the one that it follows has "
        message += str(run.graph.spec.vocab_size)
        hint = "follow the model that this one was made of"
        raise SpecError("other-tokenizer", message, place=config.heal, hint=hint)
    return Teacher(run)


def check_tokens(teacher: Teacher, data_record: Mapping[str, Any]) -> None:
    """Raises CheckpointError where the source reads text in other tokens than the run."""
    theirs, own = teacher.run.tokenizer_sha256, dict(data_record.get("tokenizer") or {})
    if theirs != own.get("sha256"):
        message = "the model that is followed has another tokenizer than this run"
        hint = f"begin with its retrofit ({setting('start_from', '--from')}), which brings it along"
        raise CheckpointError("other-tokenizer", message, place=str(teacher.run.path), hint=hint)


def follow(model: Any, teacher: RinscForCausalLM, weight: float) -> None:
    """In training, add ``weight`` times the KL divergence from the teacher to the model's loss."""

    def hook(module: nn.Module, args: Any, inputs: dict[str, Any], output: Any) -> Any:
        targets = inputs.get("shift_labels")
        if not module.training or targets is None:
            return output
        with torch.no_grad():
            known = {key: inputs[key] for key in ("input_ids", "position_ids") if key in inputs}
            theirs = teacher(**known, use_cache=False).logits
        nats = divergence(theirs, output.logits)[targets != NO_TARGET].sum()
        output["loss"] = output["loss"] + weight * nats / inputs["num_items_in_batch"]
        return output

    model.register_forward_hook(hook, with_kwargs=True)


def divergence(theirs: torch.Tensor, ours: torch.Tensor) -> torch.Tensor:
    """KL(theirs ‖ ours) in nats of each token (batch, seq), of logits (batch, seq, vocab_size)."""
    log_theirs, log_ours = (x.float().log_softmax(-1) for x in (theirs, ours))
    return nn.functional.kl_div(log_ours, log_theirs, reduction="none", log_target=True).sum(-1)


def freeze_all_but_repeats(model: Any) -> None:
    """Let nothing of an emitted module learn but what repeats own; raises SpecError where that is
    nothing."""
    graph = model.graph
    prefixes = tuple(loop_prefix(loop.name) for loop in graph.loops())
    names = {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
    if not prefixes or not names:
        message = f"the repeats of '{graph.spec.text}' own no weights that could learn"
        hint = "give one an adapter, as A^2{adapter=lora(8)}, or let every weight learn"
        raise SpecError("nothing-learns", message, place="learns", hint=hint)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)


@dataclass(frozen=True)
class HealedRow:
    """Nats per token of held-out text, and the KL divergence from the source, before and after."""

    rounds: Mapping[str, int]
    before: float
    after: float
    kl_before: float
    kl_after: float


@dataclass(frozen=True)
class Healing:
    """What healing has changed, at each number of rounds; ``source_loss`` is that of the source."""

    source: str
    source_loss: float
    tokens: int
    rows: tuple[HealedRow, ...]

    @property
    def lines(self) -> list[str]:
        """A line for each number of rounds, and what became of the loss, against the source."""
        heads = ("rounds", "before", "after", "KL before", "KL after")
        rows = [
            (
                rounds_in_words(dict(row.rounds)) or "-",
                *(f"{x:.4f}" for x in (row.before, row.after, row.kl_before, row.kl_after)),
            )
            for row in self.rows
        ]
        lines = ["  ".join(f"{cell:>9}" for cell in row) for row in (heads, *rows)]
        lines += [f"loss in nats per token, of {self.tokens:,} held-out tokens"]
        last, first = self.rows[-1], self.rows[0]
        at = _at(last)
        moved = "better" if last.after < last.before else "no better"
        lines.append(f"{at} the model is {moved} than before ({signed(last.after - last.before)})")
        for row in (first, last) if len(self.rows) > 1 else (last,):
            against = "better" if row.after < self.source_loss else "no better"
            gap = signed(row.after - self.source_loss)
            lines.append(f"{_at(row)} it is {against} than {self.source} ({gap})")
        control = setting("control")
        return [*lines, f"compare with the source trained on the same tokens: {control}"]

    def facts(self) -> dict[str, object]:
        """The report as plain data."""
        return {
            "source": self.source,
            "source_loss": self.source_loss,
            "tokens": self.tokens,
            "rows": [
                {
                    "rounds": dict(row.rounds),
                    "loss_before": row.before,
                    "loss_after": row.after,
                    "kl_before": row.kl_before,
                    "kl_after": row.kl_after,
                }
                for row in self.rows
            ],
        }

    def save(self, path: Path) -> None:
        write_atomically(path, json.dumps(self.facts(), indent=1) + "\n")


def _at(row: HealedRow) -> str:
    words = rounds_in_words(dict(row.rounds))
    return f"at {words} round{'s' * (words != '1')}" if words else "as it is"


def healing_report(
    healed: FinishedRun,
    source: Source,
    teacher: Teacher,
    held_out: HeldOut,
    device: torch.device,
) -> Healing:
    """Measure a healed run, what it began with, and the source, on windows of held-out text."""
    windows = torch.from_numpy(held_out.spread(MOST_WINDOWS).windows.astype("int64"))
    precision = healed.config.precision
    theirs = teacher.model(device)
    own = healed.rounds
    counts = rounds_up_to(max(own.values())) if own else []
    every = [{name: min(n, cap) for name, cap in own.items()} for n in counts] or [{}]
    measured: list[list[tuple[float, float]]] = []
    for run in (source.run or trained_run(Path(source.path)), healed):
        model = run.model(device)
        pairs = [_measured(model, theirs, windows, rounds, precision) for rounds in every]
        measured.append(pairs)
    rows = [
        HealedRow(rounds, old[0], new[0], old[1], new[1])
        for rounds, old, new in zip(every, *measured, strict=True)
    ]
    loss, _ = _measured(theirs, theirs, windows, {}, precision)
    tokens = windows[:, 1:].numel()
    return Healing(str(teacher.run.path), loss, tokens, tuple(rows))


def _measured(
    model: nn.Module,
    teacher: nn.Module,
    windows: torch.Tensor,
    rounds: Mapping[str, int],
    precision: TrainingPrecision,
) -> tuple[float, float]:
    """Loss and KL divergence from the teacher, both as means over tokens."""
    device, nats, apart = next(model.parameters()).device, 0.0, 0.0
    with evaluating(model), torch.no_grad(), autocast(device, precision):
        for window in windows:
            ids, targets = window[None, :-1].to(device), window[1:].to(device)
            ours, theirs = (
                logits_of(model, ids, dict(rounds) or None),
                logits_of(teacher, ids, None),
            )
            nats += float(nn.functional.cross_entropy(ours[0], targets, reduction="sum"))
            apart += float(divergence(theirs, ours).sum())
    count = windows[:, 1:].numel()
    return nats / count, apart / count
