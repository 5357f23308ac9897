"""What the options of repeats, visits and blocks say, as typed values with defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from rinsc.errors import SignatureError
from rinsc.syntax.options import effective
from rinsc.syntax.tree import BlockRef, Call, Option, Signature, mentions, options_text

AdapterKind: TypeAlias = Literal["linear", "shared", "lora", "scale", "embed", "gate"]
Inject: TypeAlias = Literal["add", "gate", "concat"]
Start: TypeAlias = Literal["carry", "zero", "noise", "learned"]
CacheSlot: TypeAlias = Literal["own", "first", "last"]
Tie: TypeAlias = Literal["attention", "mlp"]


@dataclass(frozen=True)
class Adapter:
    """A residual adapter of each round; ``rank`` is that of ``lora`` and ``shared``."""

    kind: AdapterKind
    rank: int | None
    by: Literal["round", "count"]


@dataclass(frozen=True)
class RepeatOptions:
    """How the rounds of a repeat run, beyond their number.

    ``skip`` and ``sample`` say how rounds are drawn in training; ``grad`` how many last rounds
    are back-propagated through (None: all); ``cache`` which cache slot a round uses; ``text`` is
    all of them as they are written.
    """

    skip: float = 0.0
    sample: Call | None = None
    adapter: Adapter | None = None
    inject: Inject | None = None
    start: Start = "carry"
    grad: int | None = None
    cache: CacheSlot = "own"
    text: str = ""

    @property
    def is_drawn(self) -> bool:
        """Whether training draws the number of rounds."""
        return self.skip > 0 or self.sample is not None

    @property
    def has_programs(self) -> bool:
        """Whether a round does more than run its body."""
        return self.adapter is not None or self.inject is not None or self.start != "carry"

    @property
    def keeps_its_loop(self) -> bool:
        """Whether its rounds, written out, are more than visits one after the other."""
        return self.has_programs or self.grad is not None or self.cache != "own"

    @property
    def owns_weights(self) -> bool:
        """Whether the repeat has trained tensors of its own, beside those of its blocks."""
        return (
            self.adapter is not None
            or self.inject in ("gate", "concat")
            or (self.start == "learned")
        )


@dataclass(frozen=True)
class VisitOptions:
    """How one visit runs the layers of its block: ``each`` of them so often, in place."""

    each: int = 1
    reverse: bool = False


@dataclass(frozen=True)
class BlockOptions:
    """What an option says of a block wherever it is visited: shared parts, a kind of its own."""

    tie: Tie | None = None
    kind: str | None = None


def repeat_options(options: tuple[Option, ...]) -> RepeatOptions:
    """The options of a repeat, which `check_options` has accepted."""
    written = effective(options)
    values = {option.name: option.value for option in written}
    sample = values.get("sample")
    return RepeatOptions(
        skip=float(cast(float, values.get("skip", 0.0))),
        sample=sample if isinstance(sample, Call) else None,
        adapter=_adapter(values),
        inject=cast("Inject | None", values.get("inject")),
        start=cast(Start, values.get("init", "carry")),
        grad=cast("int | None", values.get("grad")),
        cache=cast(CacheSlot, values.get("kv", "own")),
        text=options_text(written).strip("{}"),
    )


def visit_options(options: tuple[Option, ...]) -> VisitOptions:
    """The options of one mention of a block that hold for that visit alone."""
    values = {option.name: option.value for option in effective(options)}
    return VisitOptions(cast(int, values.get("each", 1)), values.get("reverse", False) is True)


def block_options(options: tuple[Option, ...]) -> BlockOptions:
    """The options of one mention of a block that hold for the block."""
    values = {option.name: option.value for option in effective(options)}
    return BlockOptions(
        cast("Tie | None", values.get("tie")), cast("str | None", values.get("kind"))
    )


def _adapter(values: Mapping[str, object]) -> Adapter | None:
    value = values.get("adapter")
    if value is None:
        return None
    by = cast(Literal["round", "count"], values.get("adapter_by", "round"))
    if isinstance(value, Call):
        return Adapter(cast(AdapterKind, value.name), cast(int, value.args[0]), by)
    return Adapter(cast(AdapterKind, value), None, by)


def letter_options(sig: Signature) -> dict[str, BlockOptions]:
    """The options of each letter as a block, in order of first mention; degree plays no part.

    Raises SignatureError (``conflicting-options``) where two mentions differ.
    """
    options: dict[str, BlockOptions] = {}
    for ref in mentions(sig.body):
        known = options.get(ref.letter, BlockOptions())
        if not ref.options:
            options.setdefault(ref.letter, known)
            continue
        here = block_options(ref.options)
        _check("tie", known.tie, here.tie, ref, sig)
        _check("kind", known.kind, here.kind, ref, sig)
        options[ref.letter] = BlockOptions(here.tie or known.tie, here.kind or known.kind)
    return options


def _check(name: str, known: str | None, here: str | None, ref: BlockRef, sig: Signature) -> None:
    if known is None or here is None or known == here:
        return
    (option,) = (option for option in ref.options if option.name == name)
    raise SignatureError(
        "conflicting-options",
        f"{ref.letter} has {name}={known} at an earlier mention and {name}={here} here",
        source=sig.source,
        span=option.span,
        hint=f"write {name} of a letter once",
    )
