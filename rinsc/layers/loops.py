"""What the rounds of a repeat do besides running its body, as programs over the operations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from rinsc.graph import Loop
from rinsc.layers.kind import forget_traces
from rinsc.layers.tracing import trace_programs
from rinsc.ops import (
    Add,
    Concat,
    Linear,
    Mul,
    Noise,
    Project,
    Row,
    Shape,
    Sub,
    Vector,
    ZerosLike,
)
from rinsc.ops.program import Builder, Program, Value, trace
from rinsc.spec import ModelSpec
from rinsc.syntax.settings import Adapter, RepeatOptions


@dataclass(frozen=True)
class LoopPrograms:
    """Programs round the body of a loop; None where there is nothing to do.

    ``start`` makes the state of the first round from the ``entry``, the state that the loop was
    given, and from ``seed``; ``before`` maps the state ``x`` of a round to what its body is given,
    knowing ``entry`` and the ``index`` of the adapter; ``after`` maps the body's input ``x`` and
    its result ``y`` to the round's result. States are (batch, seq, width), seed and index numbers.
    """

    start: Program | None = None
    before: Program | None = None
    after: Program | None = None

    @property
    def every(self) -> tuple[Program, ...]:
        return tuple(p for p in (self.start, self.before, self.after) if p is not None)


def loop_prefix(name: str) -> str:
    """Where the weights of a repeat stand: ``loop_A.``."""
    return f"loop_{name}."


def trace_loop(spec: ModelSpec, loop: Loop, *, cached: bool = False) -> LoopPrograms:
    """The programs of a loop in a model of this spec.

    In a pass that is ``cached``, and continues a sequence, noise is that of ``position_ids``.
    """
    if not loop.options.has_programs:
        return LoopPrograms()
    return _trace_loop(spec, loop.options, loop.adapters, cached)


@lru_cache(maxsize=256)
def _trace_loop(
    spec: ModelSpec, options: RepeatOptions, adapters: int, cached: bool
) -> LoopPrograms:
    state = trace_programs(spec).embed.outputs["x"].shape
    adapter = options.adapter
    return LoopPrograms(
        start=_start(spec, options, state, cached) if options.start != "carry" else None,
        before=_before(spec, options, adapters, state),
        after=_gate(spec, adapters, state) if adapter and adapter.kind == "gate" else None,
    )


forget_traces.append(_trace_loop.cache_clear)


def _start(spec: ModelSpec, options: RepeatOptions, state: Shape, cached: bool) -> Program:
    """The state before the first round."""

    def run(b: Builder, inputs: dict[str, Value]) -> dict[str, Value]:
        entry = inputs["entry"]
        with b.part("init"):
            if options.start == "noise":
                return {"x": b(Noise(), entry, *list(inputs.values())[1:])}
            x = b(ZerosLike(), entry)
            if options.start == "learned":
                x = b(Add(), x, b(Vector(spec.width, "normal"), entry, name="start"))
            return {"x": x}

    more: dict[str, Shape] = {"seed": ()} if options.start == "noise" else {}
    if more and cached:
        more["position_ids"] = ("batch", "seq")
    return trace({"entry": state, **more}, run)


def _before(spec: ModelSpec, options: RepeatOptions, adapters: int, state: Shape) -> Program | None:
    """Injection, then the adapter."""
    adapter = options.adapter if options.adapter and options.adapter.kind != "gate" else None

    def run(b: Builder, inputs: dict[str, Value]) -> dict[str, Value]:
        x = inputs["x"]
        if options.inject is not None:
            with b.part("inject"):
                x = _injected(b, x, inputs["entry"], options, spec)
        if adapter is not None:
            with b.part("adapter"):
                x = _adapted(b, x, inputs["index"], adapter, adapters, spec)
        return {"x": x}

    if options.inject is None and adapter is None:
        return None
    shapes: dict[str, Shape] = {"x": state}
    if options.inject is not None:
        shapes["entry"] = state
    if adapter is not None:
        shapes["index"] = ()
    return trace(shapes, run)


def _injected(b: Builder, x: Value, entry: Value, options: RepeatOptions, spec: ModelSpec) -> Value:
    """The state with the entry state seen again.

    Where the state starts as the entry itself, what is trained starts as the identity on the
    state; elsewhere as the sum, so that the entry is seen from the first step on.
    """
    carried = options.start == "carry"
    if options.inject == "add":
        return b(Add(), x, entry)
    if options.inject == "gate":
        gate = b(Vector(spec.width, "zeros" if carried else "ones"), x, name="inject")
        return b(Add(), x, b(Mul(), entry, gate))
    mix = Linear(spec.width, init="identity" if carried else "sum")
    return b(mix, b(Concat(), x, entry), name="inject")


def _adapted(
    b: Builder, x: Value, index: Value, adapter: Adapter, rows: int, spec: ModelSpec
) -> Value:
    """The state plus what the adapter of this round makes of it; nothing, at the start."""
    width = spec.width
    if adapter.kind == "embed":
        return b(Add(), x, b(Row(rows, (width,), "zeros"), index, name="adapter"))
    if adapter.kind == "scale":
        return b(Add(), x, b(Mul(), x, b(Row(rows, (width,), "zeros"), index, name="adapter")))
    if adapter.kind == "linear":
        matrix = b(Row(rows, (width, width), "zeros"), index, name="adapter")
        return b(Add(), x, b(Project(), x, matrix))
    rank = adapter.rank or 1
    if adapter.kind == "shared":
        low = b(Linear(rank), x, name="adapter_down")
        low = b(Mul(), low, b(Row(rows, (rank,), "ones"), index, name="adapter"))
        return b(Add(), x, b(Linear(width, init="zeros"), low, name="adapter_up"))
    down = b(Row(rows, (rank, width), "normal"), index, name="adapter_down")
    up = b(Row(rows, (width, rank), "zeros"), index, name="adapter_up")
    return b(Add(), x, b(Project(), b(Project(), x, down), up))


def _gate(spec: ModelSpec, adapters: int, state: Shape) -> Program:
    """The round's result, with the change that the round made scaled."""

    def run(b: Builder, inputs: dict[str, Value]) -> dict[str, Value]:
        x, y = inputs["x"], inputs["y"]
        with b.part("adapter"):
            gate = b(Row(adapters, (spec.width,), "zeros"), inputs["index"], name="adapter")
            return {"x": b(Add(), y, b(Mul(), b(Sub(), y, x), gate))}

    return trace({"x": state, "y": state, "index": ()}, run)
