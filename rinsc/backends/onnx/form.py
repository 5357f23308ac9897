"""What an exported model is to be, beside its graph and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from rinsc.backends.onnx.precision import Precision, parse_precision
from rinsc.errors import GraphError, LoweringError, UsageError, did_you_mean, setting
from rinsc.graph import BlockGraph, Rounds, plain_rounds
from rinsc.scalars import real

RoundsForm: TypeAlias = Rounds | Literal["dynamic"]
Measure: TypeAlias = Literal["kl", "state"]
TINY_FLOAT, LARGEST_FLOAT = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # normal numbers of float32


@dataclass(frozen=True)
class Exit:
    """When a repeat stops before its last round; the first round always runs.

    It stops after a round that, compared with the one before, changed by less than ``threshold``:
    ``kl``, the Kullback-Leibler divergence in nats of the distributions of the next token;
    ``state``, the norm of the state's change over the norm of the state. Of all tokens of a batch
    the one that changed most decides, padding and sequences that have ended among them.
    """

    measure: Measure
    threshold: float

    def __post_init__(self) -> None:
        if self.measure not in get_args(Measure):
            hint = did_you_mean(str(self.measure), get_args(Measure))
            message = f"'{self.measure}' is not a measure of change"
            raise UsageError("exit", message, hint=hint)
        threshold = real(self.threshold)
        # False for NaN.
        if threshold is None or not TINY_FLOAT <= threshold <= LARGEST_FLOAT:
            message = f"a threshold is a number above 0 that float32 holds, not {self.threshold}"
            raise UsageError("exit", message, hint="write kl:5e-4 or state:0.01")
        object.__setattr__(self, "threshold", float(threshold))

    @property
    def text(self) -> str:
        """What `parse_exit` reads: ``kl:0.0005``."""
        return f"{self.measure}:{self.threshold!r}"


def parse_exit(text: str) -> Exit:
    """The exit that ``kl:5e-4`` or ``state:0.01`` names. Raises `UsageError`."""
    measure, _, number = text.partition(":")
    try:
        threshold = float(number)
    except ValueError:
        message = f"'{text}' does not say when to stop"
        raise UsageError("exit", message, hint="write kl:5e-4 or state:0.01") from None
    return Exit(measure, threshold)  # type: ignore[arg-type]  # checked there


class FormSettings(TypedDict, total=False):
    """The fields of `OnnxForm` as keywords."""

    rounds: RoundsForm
    cache: bool
    portable: bool
    gated: bool
    precision: Precision | str
    exit: Exit | str | None


@dataclass(frozen=True, init=False)
class OnnxForm:
    """The form of an ONNX model: everything but its weights.

    ``rounds`` None, a number or a mapping by repeat writes that many rounds out; ``"dynamic"``
    makes the rounds of every repeat an input. With ``cache`` the model continues sequences.
    ``portable`` keeps to standard operators. ``gated`` writes the rounds out and lets an input
    choose how many of them run. ``precision`` is a `Precision` or its text, such as
    ``"int4 fp16:A"``. ``exit``, an `Exit` or its text, such as ``"kl:5e-4"``, ends the rounds of
    a repeat early.

    >>> OnnxForm("dynamic", cache=True, precision="int8").precision.text
    'int8'
    """

    rounds: RoundsForm
    cache: bool
    portable: bool
    gated: bool
    precision: Precision
    exit: Exit | None

    def __init__(
        self,
        rounds: RoundsForm = None,
        *,
        cache: bool = False,
        portable: bool = False,
        gated: bool = False,
        precision: Precision | str = "fp32",
        exit: Exit | str | None = None,
    ) -> None:
        chosen = parse_precision(precision) if isinstance(precision, str) else precision
        values: Mapping[str, Any] = {
            "rounds": rounds if rounds == "dynamic" else plain_rounds(rounds),
            "cache": bool(cache),
            "portable": bool(portable),
            "gated": bool(gated),
            "precision": chosen,
            "exit": parse_exit(exit) if isinstance(exit, str) else exit,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def name(self) -> Literal["fixed", "dynamic", "gated"]:
        """What becomes of the rounds. Raises `GraphError` for what says no rounds."""
        if not isinstance(self.rounds, str):
            return "gated" if self.gated else "fixed"
        if self.rounds != "dynamic":
            hint = "give a number, numbers by repeat, or 'dynamic'"
            raise GraphError("bad-rounds", f"'{self.rounds:.60}' says no rounds", hint=hint)
        if self.gated:
            message = "a gated model needs the most rounds that it can run"
            raise LoweringError("unknown-form", message, hint="give a number of rounds")
        return "dynamic"

    @property
    def count(self) -> Rounds:
        """The rounds that are written; None for those of the signature."""
        return None if isinstance(self.rounds, str) else self.rounds

    @property
    def fused(self) -> bool:
        """Whether ONNX Runtime's own operators are used."""
        return self.cache and not self.portable


def onnx_form(form: OnnxForm | RoundsForm, settings: FormSettings) -> OnnxForm:
    """A form, or one that is given as rounds and keywords; raises `UsageError` for both."""
    if form is None:
        return OnnxForm(**settings)
    twice = "rounds" in settings if not isinstance(form, OnnxForm) else bool(settings)
    if twice:
        message = f"the form and {', '.join(settings)} say the same thing twice"
        raise UsageError("usage", message, hint="set it in the form alone")
    return form if isinstance(form, OnnxForm) else OnnxForm(form, **settings)  # type: ignore[misc]  # no rounds there


def check_exit(graph: BlockGraph, when: Exit, *, cached: bool, dialled: bool) -> None:
    """Raise `LoweringError` where a model of this graph cannot stop early."""
    outer = [loop for loop in graph.steps() if loop in list(graph.dials())]
    if not dialled or not outer:
        message = "only rounds that are set at run time can end early"
        dial = setting("rounds='dynamic'", "--rounds dynamic")
        hint = f"ask for {dial} of a signature with a repeat"
        raise _refused(message, hint)
    if when.measure == "kl" and len(outer) > 1:
        message = "'kl' watches one repeat, and this signature has several in a row"
        raise _refused(message, "watch the state instead: state:0.01")
    if cached and any(loop.options.cache != "last" for loop in outer):
        message = "rounds that are left out would leave holes in their cache slots"
        hint = (
            "leave the cache out, or train a signature whose repeat shares one slot: A^3{kv=last}"
        )
        raise _refused(message, hint)


def _refused(message: str, hint: str) -> LoweringError:
    return LoweringError("no-early-exit", message, hint=hint)
