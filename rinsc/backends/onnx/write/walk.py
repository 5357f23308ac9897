"""The steps of a block graph as ONNX nodes: visits and loops, the same for every form.

In goes a graph, out come nodes. The form decides what a repeat becomes:

    >>> import rinsc
    >>> model = rinsc.to_torch(rinsc.model_spec("(A^2)B", preset="tiny", layers=2))
    >>> def written(rounds, **form):
    ...     shown = ("Attention", "GroupQueryAttention", "If", "Loop", "Scan")
    ...     nodes = rinsc.to_onnx(model, rounds, **form).ir.graph
    ...     return [node.op_type for node in nodes if node.op_type in shown]

Rounds that are fixed are written out. All visits of a block read the same weights:

    >>> written(2)
    ['Attention', 'Attention', 'Attention']

A dial is a ``Loop``; with a cache a ``Scan`` over the slots of its rounds:

    >>> written("dynamic")
    ['Loop', 'Attention']
    >>> written("dynamic", cache=True)
    ['Scan', 'GroupQueryAttention']

In a gated model each round after the first stands in an ``If``:

    >>> written(2, gated=True, cache=True)
    ['GroupQueryAttention', 'If', 'GroupQueryAttention']
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from rinsc.backends.onnx.contract import rounds_of
from rinsc.backends.onnx.form import Exit, OnnxForm
from rinsc.backends.onnx.write.builder import BOOL, FLOAT, INT64, OpBuilder, make_value, shape_of
from rinsc.backends.onnx.write.cache import Packing, Slots, recorded, replayed
from rinsc.backends.onnx.write.fusion import FusedProgram
from rinsc.backends.onnx.write.ops import emit_program
from rinsc.backends.onnx.write.site import distribution_change, state_change
from rinsc.graph import BlockGraph, Loop, Visit
from rinsc.layers import BlockWeights, Programs, block_weights, loop_prefix, trace_loop
from rinsc.layers.cached import cache_inputs, cache_outputs
from rinsc.ops import Shape
from rinsc.ops.program import Program

Rest: TypeAlias = Callable[[ir.Value, Slots], ir.Value]  # from a state to the last one


def exit_loop(
    walk: Walk, loop: Loop, entry: ir.Value, slots: Slots, rest: Rest, when: Exit
) -> tuple[ir.Value, ir.Value, Slots]:
    """The state after the loop, the rounds that it ran, and the slots of what follows.

    ``rest`` runs what follows, which has to be run to know the distribution that a round leads to.
    With a cache all rounds share one slot, whose content is that of the last one run.
    """
    op = walk.op
    watches_output = when.measure == "kl"
    with op.scope(f"loop_{loop.name}"):
        x = walk.start(loop, entry)
        trip = make_value(op.scoped("round"), (), INT64)
        go_on = make_value(op.scoped("go_on"), (), BOOL)
        state = make_value(op.scoped("x"), shape_of(x), op.real)
        count = make_value(op.scoped("count"), (), INT64)
        past, later = list[ir.Value](), list[ir.Value]()
        inner = recorded(slots, past)
        with op.body() as nodes:
            after = walk.round(loop, entry, walk.adapter_index(loop, trip), state, inner)
            done = op.Add(trip, op.scalar(1), name=op.scoped("done"))
            carried, results = [state], [after]
            if watches_output:
                logits = walk.head(rest(after, recorded(slots, later)))
                before = make_value(op.scoped("before"), shape_of(logits), FLOAT)
                change = distribution_change(op, before, logits)
                carried.append(before)
                results.append(logits)
            else:
                change = state_change(op, state, after)
            limit = op.constant(f"exit/{when.text}", np.array(when.threshold, np.float32))
            changes = op.GreaterOrEqual(change, limit, shape=(), dtype=BOOL)
            first = op.Equal(trip, op.scalar(0), shape=(), dtype=BOOL)
            still = op.Or(first, changes, name=op.scoped("still"))
        slots_before = [
            make_value(op.scoped(f"present_{index}"), shape_of(value), op.real)
            for index, value in enumerate(past)
        ]
        body = ir.Graph(
            [trip, go_on, count, *carried, *slots_before],
            [still, done, *results, *inner.present],
            nodes=nodes,
            name=op.scoped("body"),
        )
        starts = [op.scalar(0), x, *([_nothing(walk, x, results[1])] if watches_output else [])]
        shapes = [shape_of(value) for value in (done, *results, *inner.present)]
        dtypes = [INT64, op.real, *[FLOAT] * (len(results) - 1), *[op.real] * len(past)]
        rounds = walk.rounds[loop.name]
        used, x, *others = op.many(
            "Loop", [rounds, None, *starts, *past], {"body": body}, shapes, dtypes
        )
        slots.present += others[len(results) - 1 :]
    if not watches_output:
        return x, used, slots
    again = iter(later)
    return x, used, Slots(lambda shape: next(again), slots.present)


def _nothing(walk: Walk, x: ir.Value, logits: ir.Value) -> ir.Value:
    """Logits before the first round, which nothing looks at."""
    op, shape = walk.op, shape_of(logits)
    sizes = op.Shape(x, start=0, end=2, shape=(2,), dtype=INT64)
    sizes_of_logits = op.Concat(sizes, op.ints(shape[-1]), axis=0, shape=(3,))
    zero = op.constant("no_logits", np.array(0, np.float32))
    return op.Expand(zero, sizes_of_logits, shape=shape)


@dataclass
class Walk:
    """The steps of a graph, one after the other, with what all of them share.

    ``layers`` are the programs of layers by block, in the form that is written; ``rounds`` the
    numbers that set the loops that are dials; ``sides`` what the embedding made;
    ``packing`` that of a fused model.
    """

    op: OpBuilder
    model: BlockGraph
    form: OnnxForm
    programs: Programs
    layers: Mapping[str, Sequence[Program]] | Mapping[str, Sequence[FusedProgram]]
    rounds: Mapping[str, ir.Value]
    sides: Mapping[str, ir.Value]
    packing: Packing | None
    sites: Counter[str] = field(init=False)
    visits: int = field(default=0)
    nesting: int = field(default=0)  # loops around
    used: dict[str, ir.Value] = field(default_factory=dict)  # rounds that ran, where they may end

    def __post_init__(self) -> None:
        self.sites = Counter(_sites(self.model, written_out=self.form.gated))

    def steps(self, graph: BlockGraph, x: ir.Value, slots: Slots, *, after: int = 0) -> ir.Value:
        """The state that leaves a graph, where ``x`` is that of the node ``after``."""
        states = {after: x}
        for index, wired in enumerate(islice(graph.wired(), after, None), after + 1):
            node, entry = wired.step, states[wired.entry]
            if isinstance(node, Visit):
                x = self.visit(node, entry, slots)
            elif self.form.exit is not None and not (node.fixed or self.nesting):
                rest = partial(self.steps, graph, after=index)
                x, used, slots = exit_loop(self, node, entry, slots, rest, self.form.exit)
                self.used[node.name] = used
            elif node.fixed or self.form.gated:
                x = self.rounds_written_out(node, entry, slots)
            else:
                repeat = self.scan if self.form.cache else self.loop
                x = repeat(node, entry, slots)
            states[index] = x
        return x

    def head(self, x: ir.Value) -> ir.Value:
        """The logits of the last state, or what else the head gives, in float32."""
        name, _ = self.programs.output
        output = emit_program(self.op, self.programs.head, {"x": x})[name]
        return output if self.op.real == FLOAT else self.op.Cast(output, to=FLOAT, dtype=FLOAT)

    def visit(self, visit: Visit, x: ir.Value, slots: Slots) -> ir.Value:
        """A block's layers in order; its visits are told apart where there are several."""
        self.visits += 1
        own = block_weights(self.model, visit.block)
        kind, layers = own.block.kind, range(own.block.layers)
        self.op.visit = self.visits
        with self.op.scope(f"visit_{self.visits}" if self.sites[visit.block] > 1 else ""):
            x = self.end(self.programs.enter.get(kind), visit.block, x)
            for index in reversed(layers) if visit.reverse else layers:
                for time in range(visit.each):
                    scope = f"time_{time + 1}" if visit.each > 1 else ""
                    x = self.layer(own, index, scope, x, slots)
            x = self.end(self.programs.leave.get(kind), visit.block, x)
        self.op.visit = 0
        return x

    def layer(
        self, own: BlockWeights, index: int, time: str, x: ir.Value, slots: Slots
    ) -> ir.Value:
        program = self.layers[own.block.name][index]
        past = {name: slots.take(program.inputs[name].shape) for name in cache_inputs(program)}
        with self.op.scope(time), self.op.scope(own.layer(index).removesuffix(".")):
            inputs = {**self.sides, **past, "x": x}
            prefix = partial(own.prefix, index)
            outputs = emit_program(self.op, program, inputs, prefix, self.packing)
        slots.present += [outputs[name] for name in cache_outputs(program)]
        return outputs["x"]

    def end(self, program: Program | None, block: str, x: ir.Value) -> ir.Value:
        """What a kind does where a visit starts or ends."""
        if program is None:
            return x
        with self.op.scope(block):
            inputs = {**self.sides, "x": x}
            return emit_program(self.op, program, inputs, lambda node: f"{block}.")["x"]

    def loop_program(
        self, program: Program | None, loop: Loop, **values: ir.Value
    ) -> ir.Value | None:
        """The state that one of a loop's programs makes; None without one."""
        if program is None:
            return None
        inputs = {name: values[name] for name in program.inputs}
        return emit_program(self.op, program, inputs, lambda node: loop_prefix(loop.name))["x"]

    def round(
        self, loop: Loop, entry: ir.Value, index: ir.Value | None, x: ir.Value, slots: Slots
    ) -> ir.Value:
        """One trip of a loop; ``index`` chooses the adapter, where there is one."""
        programs = trace_loop(self.model.spec, loop, cached=self.form.cache)
        others = {"entry": entry} if index is None else {"entry": entry, "index": index}
        changed = self.loop_program(programs.before, loop, x=x, **others)
        changed = x if changed is None else changed
        self.nesting += 1
        y = self.steps(loop.body, changed, slots)
        self.nesting -= 1
        after = self.loop_program(programs.after, loop, x=changed, y=y, **others)
        return y if after is None else after

    def start(self, loop: Loop, entry: ir.Value) -> ir.Value:
        """The state before the first round; noise is that of the seed 0."""
        program = trace_loop(self.model.spec, loop, cached=self.form.cache).start
        seed = {"seed": self.op.scalar(0)} if loop.options.start == "noise" else {}
        inputs = {"entry": entry, **self.sides, **seed}
        state = self.loop_program(program, loop, **inputs)
        return entry if state is None else state

    def adapter_index(self, loop: Loop, trip: ir.Value) -> ir.Value | None:
        """The number that chooses the adapter of a trip: its own, or that of the last."""
        adapter = loop.options.adapter
        if adapter is None or adapter.by == "round":
            return trip if adapter else None
        if loop.name in self.rounds:
            return self.op.Sub(self.rounds[loop.name], self.op.scalar(1))
        return self.op.scalar(loop.rounds - 1)

    def rounds_written_out(self, loop: Loop, entry: ir.Value, slots: Slots) -> ir.Value:
        """Every round of a loop; those that a dial may leave out stand in an ``If`` each."""
        slot = loop.options.cache
        shared: list[ir.Value] = []
        remaining: list[ir.Value] = []
        before = len(slots.present)
        with self.op.scope(f"loop_{loop.name}"):
            x = self.start(loop, entry)
            for number in range(loop.rounds):
                own = slots
                if slot != "own":
                    own = replayed(iter(shared)) if number else recorded(slots, shared)
                with self.op.scope(f"round_{number + 1}"):
                    if number == 0 or loop.fixed:
                        x = self.numbered_round(loop, entry, number, x, own)
                        first = own.present[before:] if slot == "own" else own.present
                    else:
                        skipped = {"own": None, "first": [], "last": remaining}[slot]
                        x = self.gated_round(loop, entry, number, x, own, first, skipped)
                if slot != "own" and (number == 0 or slot == "last"):
                    remaining = own.present
            slots.present += remaining
            return x

    def numbered_round(
        self, loop: Loop, entry: ir.Value, number: int, x: ir.Value, slots: Slots
    ) -> ir.Value:
        index = self.adapter_index(loop, self.op.scalar(number)) if loop.options.adapter else None
        return self.round(loop, entry, index, x, slots)

    def gated_round(
        self,
        loop: Loop,
        entry: ir.Value,
        number: int,
        x: ir.Value,
        slots: Slots,
        first: list[ir.Value],
        skipped: list[ir.Value] | None,
    ) -> ir.Value:
        """A round that runs where the rounds reach it; else state and slots stay as they were.

        ``skipped`` is what is present then, by default what was past; where it is empty, nobody
        reads what the round makes present, and it is left out. Where what is present must be
        longer, slots that nobody reads hold what the ``first`` round made.
        """
        op = self.op
        runs = op.Greater(self.rounds[loop.name], op.scalar(number), shape=(), dtype=BOOL)
        past: list[ir.Value] = []
        inner = recorded(slots, past)
        with op.body() as nodes:
            state = self.numbered_round(loop, entry, number, x, inner)
            results = [state, *inner.present[: None if skipped is None else len(skipped)]]
        then = ir.Graph([], results, nodes=nodes, name=op.scoped("run"))
        shapes = [shape_of(value) for value in results]
        if self.packing is None:  # the branches may differ: a runtime must not take them for equal
            length = op.scoped("length")
            shapes[1:] = [
                (*shape[:-2], f"{length}_{i}", shape[-1]) for i, shape in enumerate(shapes[1:])
            ]
        skip = self.same("same", [x, *(past if skipped is None else skipped)])
        if skipped is None and self.packing is not None:
            longer = self.same("longer", [x, *first])
            with op.body() as nodes:
                branches = {"then_branch": longer, "else_branch": skip}
                either = op.many("If", [self.packing.grows], branches, shapes)
            skip = ir.Graph([], either, nodes=nodes, name=op.scoped("skip"))
        branches = {"then_branch": then, "else_branch": skip}
        x, *present = op.many("If", [runs], branches, shapes)
        slots.present += present
        return x

    def same(self, name: str, values: Sequence[ir.Value]) -> ir.Graph:
        """The branch that gives these values as they are."""
        op = self.op
        with op.body() as nodes:
            same = [
                op.Identity(value, name=op.scoped(f"{name}_{index}"))
                for index, value in enumerate(values)
            ]
        return ir.Graph([], same, nodes=nodes, name=op.scoped(name))

    def scan(self, loop: Loop, entry: ir.Value, slots: Slots) -> ir.Value:
        """One ``Scan`` over the rounds' numbers and, where each has one, their cache slots."""
        op, rounds = self.op, self.rounds[loop.name]
        with op.scope(f"loop_{loop.name}"):
            x = self.start(loop, entry)
            numbers = op.Range(op.scalar(0), rounds, op.scalar(1), shape=("rounds",))
            shape = shape_of(x)
            state = make_value(op.scoped("x"), shape, op.real)
            number = make_value(op.scoped("round"), (), INT64)
            stacked: list[ir.Value] = []
            sliced: list[ir.Value] = []
            own = op.scoped("past")

            def take(slot_shape: Shape) -> ir.Value:
                if loop.options.cache != "own":
                    return slots.take(slot_shape)
                stacked.append(slots.take((rounds_of(loop.name), *slot_shape)))
                sliced.append(make_value(f"{own}_{len(sliced)}", slot_shape, op.real))
                return sliced[-1]

            inner = Slots(take)
            with op.body() as nodes:
                index = self.adapter_index(loop, number)
                result = self.round(loop, entry, index, state, inner)
            results = [result, *inner.present]
            body = ir.Graph([state, number, *sliced], results, nodes=nodes, name=op.scoped("body"))
            shapes = [shape, *((rounds_of(loop.name), *shape_of(v)) for v in inner.present)]
            x, *present = op.many(
                "Scan",
                [x, numbers, *stacked],
                {"body": body, "num_scan_inputs": 1 + len(stacked)},
                shapes,
            )
            if loop.options.cache != "own":
                which = op.scalar(0 if loop.options.cache == "first" else -1)
                present = [
                    op.Gather(value, which, axis=0, shape=shape_of(value)[1:]) for value in present
                ]
            slots.present += present
            return x

    def loop(self, loop: Loop, entry: ir.Value, slots: Slots) -> ir.Value:
        """One ``Loop``; its body reads weights and side values from the graph around it."""
        op = self.op
        with op.scope(f"loop_{loop.name}"):
            x = self.start(loop, entry)
            trip = make_value(op.scoped("round"), (), INT64)
            go_on = make_value(op.scoped("go_on"), (), BOOL)
            state = make_value(op.scoped("x"), shape_of(x), op.real)
            with op.body() as nodes:
                still = op.Identity(go_on, name=op.scoped("still"))
                result = self.round(loop, entry, self.adapter_index(loop, trip), state, slots)
            body = ir.Graph(
                [trip, go_on, state], [still, result], nodes=nodes, name=op.scoped("body")
            )
            return op.Loop(
                self.rounds[loop.name], None, x, body=body, shape=shape_of(x), dtype=op.real
            )


def _sites(graph: BlockGraph, *, written_out: bool) -> Iterator[str]:
    """Every place where a block is written out; a loop's body is there once, or once a round."""
    for node in graph.steps():
        if isinstance(node, Visit):
            yield node.block
        else:
            for _ in range(node.rounds if written_out else 1):
                yield from _sites(node.body, written_out=written_out)
