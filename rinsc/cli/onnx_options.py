"""The options of ``rinsc compile`` that only an ONNX model can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from rinsc.errors import Problem, UsageError

if TYPE_CHECKING:
    from rinsc.backends.onnx.form import OnnxForm, RoundsForm


@Parameter(name="*", group=Group("ONNX"))
@dataclass(frozen=True)
class OnnxOptions:
    """As they are typed; `form` checks them against each other."""

    precision: str | None = None
    """fp32 (the default), fp16, bf16, int8-dynamic, int8 or int4; int4/128 with its block size."""

    block_size: int | None = None
    """Weights with a scale of their own in int8 and int4: 32 (the default) or 128."""

    keep: Annotated[tuple[str, ...], Parameter(show_default=False)] = ()
    """A block that stays more exact, as fp16:A; may be given again for another."""

    embedding: str | None = None
    """What the token embedding is stored as in few bits: int4, int8, fp16 or fp32; a tied head
    reads it too. int4 and int8 have it in their own bits if not given."""

    symmetric: bool = False
    """Leave out the zero points of int4: 2 % smaller, less exact; for runtimes without them."""

    calibrate: Path | None = None
    """A text, for int4: weights are rounded so that the model changes least on it. Of a run it is
    the training text if not given, else random tokens."""

    no_calibrate: bool = False
    """Round each weight of int4 by itself: faster, and far less exact."""

    portable: bool = False
    """Standard operators alone, for other runtimes than ONNX Runtime."""

    gated: bool = False
    """The rounds written out; the input depth says how many of them run."""

    exit: str | None = None
    """End the rounds of a dial early, as kl:5e-4 or state:0.01: once a further one changes less."""

    genai: bool = False
    """A model folder that onnxruntime-genai loads; it has a cache."""

    stop_id: Annotated[tuple[int, ...], Parameter(show_default=False)] = ()
    """A token id that ends a text, besides those of the tokenizer; may be given again."""

    report: Annotated[bool, Parameter(negative="--no-report")] = True
    """Print the loss on a run's held-out text, which takes some seconds."""

    held_out: Annotated[bool, Parameter(name="--held-out")] = False
    """Ship the first 64 KiB of the run's held-out text in the folder, for rinsc bench to read."""

    @property
    def given(self) -> list[str]:
        """The options that are not as they are by default."""
        values = {
            "--precision": self.precision is not None,
            "--block-size": self.block_size is not None,
            "--keep": self.keep,
            "--embedding": self.embedding is not None,
            "--symmetric": self.symmetric,
            "--calibrate": self.calibrate is not None,
            "--no-calibrate": self.no_calibrate,
            "--portable": self.portable,
            "--gated": self.gated,
            "--exit": self.exit is not None,
            "--genai": self.genai,
            "--stop-id": self.stop_id,
            "--no-report": not self.report,
            "--held-out": self.held_out,
        }
        return [name for name, value in values.items() if value]

    @property
    def settings(self) -> dict[str, Any]:
        """What `rinsc.export` takes beside the form."""
        if self.calibrate is not None and self.no_calibrate:
            message, hint = "--calibrate and --no-calibrate exclude each other", "leave one out"
            raise UsageError("usage", message, hint=hint)
        return {
            "calibrate": False if self.no_calibrate else self.calibrate,
            "genai": self.genai,
            "stop_ids": self.stop_id,
            "held_out": self.held_out,
            "report": self.report,
        }

    def form(self, rounds: RoundsForm, *, cache: bool) -> OnnxForm:
        """The form that is asked for; raises UsageError for options that exclude each other."""
        from rinsc.backends.onnx.form import OnnxForm
        from rinsc.backends.onnx.precision import parse_precision

        if rounds == "dynamic" and self.genai:
            message = "onnxruntime-genai cannot run the form of --rounds dynamic"
            hint = "with --gated --rounds 4 it runs up to 4 rounds; with --rounds 4, always 4"
            raise UsageError("usage", message, hint=hint)
        if rounds == "dynamic" and self.gated:
            message = "--gated needs a number of rounds, the most that are to be run"
            raise UsageError("usage", message, hint="write --gated --rounds 4")
        precision = parse_precision(
            "fp32" if self.precision is None else self.precision,
            block_size=self.block_size,
            keep=self.keep,
            embedding=self.embedding,
            symmetric=self.symmetric,
        )
        return OnnxForm(
            rounds,
            cache=cache,
            portable=self.portable,
            gated=self.gated,
            precision=precision,
            exit=self.exit,
        )

    def refuse(self, what: str, *, cache: bool = False, weights: Path | None = None) -> None:
        """Raises UsageError for options that mean nothing to another form."""
        problems = []
        if weights is not None:
            message = f"{what} holds no weights"
            hint = "leave --weights out; Model().load_state_dict takes them at run time"
            problems.append(Problem("usage", message, hint=hint))
        if cache:
            message = f"{what} continues sequences without --cache"
            problems.append(Problem("usage", message, hint="leave --cache out"))
        if self.given:
            message = f"{what} takes no {', '.join(self.given)}"
            hint = "write --to onnx, or leave that out"
            problems.append(Problem("usage", message, hint=hint))
        if problems:
            raise UsageError.of(*problems)


NO_ONNX_OPTIONS = OnnxOptions()
