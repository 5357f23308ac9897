"""The options of ``rinsc train`` that say how, rather than what."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from cyclopts import Group, Parameter

from rinsc.cli.values import Count, RoundsOption, Seed, parse_rounds, whole_count
from rinsc.cost.memory import Checkpointing
from rinsc.errors import UsageError
from rinsc.formats import TrainingPrecision

if TYPE_CHECKING:
    from rinsc.training.budget import Budget
    from rinsc.training.config import TrainConfig

MAX_WARMUP = 50
WARMUP_SHARE = 0.1
_BUDGET = re.compile(r"(?P<amount>\S+?)\s*(?P<unit>flops|tokens|steps)?", re.IGNORECASE)
_STAGE = re.compile(r"(?P<rounds>\d{1,4})@(?P<share>\d+(?:\.\d+)?)(?P<percent>%?)")


@Parameter(name="*", group=Group("Training"))
@dataclass(frozen=True)
class TrainOptions:
    """Settings of a run; each is a key of its ``train.toml``."""

    batch: Count = 16
    """Sequences in a step, over all devices."""

    seq: Count | None = None
    """Tokens in a sequence; the context if not given."""

    accumulate: Count = 1
    """Parts in which a step is computed."""

    lr: float = 2e-3
    """Highest learning rate."""

    warmup: int | None = None
    """Steps of warm-up; a tenth of the run, at most 50, if not given."""

    schedule: Literal["cosine", "wsd"] = "cosine"
    """Of the learning rate: half a cosine, or stable with a linear decay at the end."""

    decay_share: float = 0.2
    """Share of the steps over which wsd decays."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW, or Muon for the matrices of blocks and AdamW for the rest."""

    weight_decay: float = 0.1
    """Of matrices."""

    clip: float = 1.0
    """Largest norm of the gradient."""

    rounds: RoundsOption = ()
    """Rounds while training, of every repeat, as 3, or of one, as A=2; those written or drawn if
    not given."""

    rounds_schedule: str | None = None
    """Rounds of every repeat that grow over the run, as 1@0,2@30%,3@60%."""

    checkpointing: Checkpointing = "none"
    """Activations to recompute in the backward pass: those of a visit or of a round at a time."""

    precision: TrainingPrecision = "fp32"
    """Of matrix products."""

    compile: bool = False
    """Compile each block with torch.compile; needs a C++ compiler."""

    fast: bool = False
    """The fastest of these two that the device has: bf16 where it multiplies it in hardware, and
    compiled blocks where a compiler works."""

    packing: Literal["across", "documents"] = "across"
    """Whether attention and targets cross from one document into the next."""

    init_depth: Literal["executed", "stored"] = "executed"
    """Layers that the start of residual weights is scaled for."""

    lr_visits_power: float = 0.0
    """p: a block visited v times learns at v^-p of the rate."""

    seed: Seed = 0
    """Of the weights and the order of the text."""

    eval_every: Count | None = None
    """Steps between evaluations; 100 if not given."""

    checkpoint_every: Count | None = None
    """Steps between checkpoints; 200 if not given."""

    keep: Count = 2
    """Checkpoints that are kept."""

    def config(self, context: int, **given: object) -> TrainConfig:
        """The settings, without a budget yet; raises SpecError for bad values."""
        from rinsc.training.config import config_from_mapping

        values = {
            "batch_sequences": self.batch,
            "sequence_length": context if self.seq is None else self.seq,
            "accumulate": self.accumulate,
            "learning_rate": self.lr,
            "schedule": self.schedule,
            "decay_share": self.decay_share,
            "optimizer": self.optimizer,
            "weight_decay": self.weight_decay,
            "clip": self.clip,
            "rounds": parse_rounds(self.rounds),
            "rounds_schedule": parse_schedule(self.rounds_schedule),
            "checkpointing": self.checkpointing,
            "packing": self.packing,
            "init_depth": self.init_depth,
            "learning_rate_visits_power": self.lr_visits_power,
            "seed": self.seed,
            "keep": self.keep,
        }
        optional = {"eval_every": self.eval_every, "checkpoint_every": self.checkpoint_every}
        values |= {key: value for key, value in optional.items() if value is not None}
        return config_from_mapping(values | given)

    def warmup_steps(self, steps: int) -> int:
        asked = self.warmup
        return min(MAX_WARMUP, int(steps * WARMUP_SHARE)) if asked is None else asked


# Where the settings of a run are given, for errors.
OPTION_OF_SETTING = {
    **{each.name: "--" + each.name.replace("_", "-") for each in fields(TrainOptions)},
    "batch_sequences": "--batch",
    "sequence_length": "--seq",
    "learning_rate": "--lr",
    "warmup_steps": "--warmup",
    "learning_rate_visits_power": "--lr-visits-power",
}


def parse_budget(text: str) -> Budget:
    """``1e18``, ``1e18 flops``, ``6e9tokens``, ``1000 steps``; raises UsageError."""
    from rinsc.training.budget import Budget

    match = _BUDGET.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError("write a number, and flops, tokens or steps behind it")
        unit = (match["unit"] or "flops").lower()
        return Budget(whole_count(match["amount"]), unit)  # type: ignore[arg-type]
    except ValueError as error:
        message = f"--budget does not take '{text[:60]}': {error}"
        hint = "write --budget 1e18 for FLOPs, or 6e9tokens, or 1000steps"
        raise UsageError("usage", message, hint=hint) from None


def parse_schedule(text: str | None) -> tuple[tuple[float, int], ...]:
    """``1@0,2@30%`` as pairs of a share and rounds; raises UsageError."""
    if text is None:
        return ()
    stages = []
    for part in text.split(","):
        match = _STAGE.fullmatch(part.strip())
        if match is None:
            message = f"--rounds-schedule does not take '{part[:60]}'"
            hint = "write rounds and where they begin: 1@0,2@30%,3@60%"
            raise UsageError("usage", message, hint=hint)
        share = float(match["share"]) / (100 if match["percent"] else 1)
        if share >= 1:
            message = f"--rounds-schedule begins '{part.strip()[:60]}' after the end of the run"
            hint = "write a share of the run: 2@40% or 2@0.4"
            raise UsageError("usage", message, hint=hint)
        stages.append((share, int(match["rounds"])))
    return tuple(stages)


NO_TRAIN_OPTIONS = TrainOptions()
