"""One spec in every form, compared: what equals what, and by how much."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.flop_counter import FlopCounterMode

from rinsc.backends.onnx import Session, TowersSession, to_onnx
from rinsc.backends.torch import (
    CompiledModule,
    CompiledTowers,
    load_weights,
    save_weights,
    to_torch,
)
from rinsc.backends.torch.decoding import CachedModule, cached_module
from rinsc.cost import cost_report, forward_flops, stored_params, training_flops
from rinsc.cost.flops import training_join_flops
from rinsc.errors import LoweringError, SpecError, plural
from rinsc.graph import BlockGraph, Rounds, TowersGraph, build_graph, resolve_rounds, unroll
from rinsc.graph.towers_graph import dial_of
from rinsc.layers import model_input, model_output, require_language_model
from rinsc.ops import at_sizes
from rinsc.sampling import checked_seed
from rinsc.spec import ModelSpec, TowersSpec
from rinsc.spec.model import require_spec
from rinsc.spec.small import small_copy, small_towers
from rinsc.storage.folders import temporary_folder

LOGIT_LIMIT = 1e-4  # fp32 in two runtimes
ROUNDING_SLACK = 4  # times what rounding to fp32 changes, where that is more
EXACT = 0.0
# New token ids, the cache of those before and the mask of all, to logits and the cache.
Step: TypeAlias = Callable[..., tuple[Any, Any]]
MAX_LAYERS = 160  # executed by the small copy, at any rounds compared
MAX_TRACED_LAYERS = 512  # executed at full size, where only operations are counted


@dataclass(frozen=True)
class VerifyRow:
    """One comparison: ``value`` measures how far the two sides are apart, ``limit`` how far they
    may be."""

    left: str
    right: str
    measure: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.value <= self.limit  # False for NaN


def verify(spec: ModelSpec | TowersSpec, *, seed: int = 0) -> list[VerifyRow]:
    """Compile a small copy of the spec in every form and compare them on random tokens.

    Counts are compared at full size, on PyTorch's device without memory, unless the model executes
    more than `MAX_TRACED_LAYERS` layers; then they are the small copy's.
    The state of PyTorch's generator is left alone. Raises `LoweringError` for a schedule too long
    to be compared in reasonable time.

    >>> from rinsc import model_spec
    >>> all(row.passed for row in verify(model_spec("AB", preset="tiny")))
    True
    """
    if isinstance(spec, TowersSpec):
        return _verified_towers(spec, checked_seed(seed))
    spec, seed = require_spec(spec), checked_seed(seed)
    small = small_copy(spec)
    graph = build_graph(small)
    _require_short(graph)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
        torch.manual_seed(seed)
        model = to_torch(graph).eval()
        _spread(model)
        inputs = random_input(small, batch=2, seq=small.context - 3)
        return [
            *_torch_rows(model, inputs),
            *_onnx_rows(model, inputs),
            *_cached_rows(model, inputs),
            *(
                _count_rows(spec, "full size")
                if _can_be_traced(spec)
                else _count_rows(small, "small")
            ),
        ]


def _verified_towers(spec: TowersSpec, seed: int) -> list[VerifyRow]:
    """`verify` of towers: each against the module of its signature alone, and all in ONNX."""
    small = small_towers(spec)
    graph = build_graph(small)
    _require_short(graph)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
        torch.manual_seed(seed)
        model = to_torch(graph).eval()
        _spread(model)
        # Of different lengths: no tower may take the sizes of another.
        inputs = {
            name: random_input(tower, batch=2, seq=tower.context - 3 - index)
            for index, (name, tower) in enumerate(small.towers.items())
        }
        return [
            *_tower_rows(model, inputs),
            *_tower_onnx_rows(model, inputs),
            *_tower_count_rows(spec if _can_be_traced(spec) else small),
        ]


def _tower_rows(model: CompiledTowers, inputs: Mapping[str, torch.Tensor]) -> Iterator[VerifyRow]:
    with temporary_folder() as folder:
        path = folder / "weights.safetensors"
        save_weights(model, path)
        fresh = to_torch(model.graph).eval()
        load_weights(fresh, path)
    outputs, again = model(**inputs), fresh(**inputs)
    for name, tower in model.graph.towers.items():
        measure, _ = model_output(tower.spec)
        alone = to_torch(tower).eval()
        alone.load_state_dict(model.get_submodule(name).state_dict())
        for rounds in dialled_rounds(tower):
            named_rounds = (
                None if rounds is None else {dial_of(name, x.name): rounds for x in tower.dials()}
            )
            gap = _gap(
                model(**inputs, rounds=named_rounds)[name], alone(inputs[name], rounds=rounds)
            )
            left = f"torch, {name}, {_rounds_text(rounds)}"
            yield VerifyRow(left, "torch, its signature alone", measure, gap, EXACT)
        gap = _gap(outputs[name], again[name])
        left = f"torch, {name}, as written"
        yield VerifyRow(left, "torch, weights reloaded", measure, gap, EXACT)


def _tower_onnx_rows(
    model: CompiledTowers, inputs: Mapping[str, torch.Tensor]
) -> Iterator[VerifyRow]:
    arrays = {name: array.numpy() for name, array in inputs.items()}
    fixed = TowersSession(to_onnx(model))
    dial = TowersSession(to_onnx(model, rounds="dynamic"))
    counts: list[Rounds] = [None]
    if any(model.graph.dials()):
        counts += [r for r in (1, 2, 3, 4) if model.graph.executed_layers(r) <= MAX_LAYERS]
    for rounds in counts:
        expected = model(**inputs, rounds=rounds)
        sessions = {"ONNX, dial": dial} | ({"ONNX, unrolled": fixed} if rounds is None else {})
        for form, session in sessions.items():
            outputs = session.outputs(arrays, rounds=rounds)
            for name, array in expected.items():
                gap = _numpy_gap(array, outputs[name])
                left, measure = f"torch, {name}, {_rounds_text(rounds)}", "logits"
                if name not in inputs:  # of all towers together
                    left, limit = (
                        f"torch, {_rounds_text(rounds)}",
                        _joint_limit(model, inputs, rounds),
                    )
                else:
                    tower = cast(CompiledModule, model.get_submodule(name))
                    own_rounds = rounds if any(tower.graph.dials()) else None
                    limit = _limit(tower, inputs[name], own_rounds)
                    measure, _ = model_output(tower.spec)
                yield VerifyRow(left, form, measure, gap, limit)


def _joint_limit(
    model: CompiledTowers, inputs: Mapping[str, torch.Tensor], rounds: Rounds
) -> float:
    """`_limit` of what compares towers."""
    double = {n: x.double() if x.is_floating_point() else x for n, x in inputs.items()}
    exact = copy.deepcopy(model).double()(**double, rounds=rounds)["logits"]
    gap = _gap(model(**inputs, rounds=rounds)["logits"], exact)
    return max(LOGIT_LIMIT, ROUNDING_SLACK * gap)


def _tower_count_rows(spec: TowersSpec) -> Iterator[VerifyRow]:
    report = cost_report(spec)
    inputs = {
        name: random_input(tower, 1, tower.context, device="meta")
        for name, tower in spec.towers.items()
    }
    model = to_torch(spec, device="meta")
    written = {name: loop.rounds for name, loop in model.graph.dials()}
    for backward in (False, True):
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:
            outputs = model(**inputs, rounds=written)  # in training they would be drawn
            if backward:
                sum(output.sum() for output in outputs.values()).backward()
        if backward:  # as written, not in expectation over rounds that are drawn
            graphs = build_graph(spec).towers.values()
            counted = sum(
                training_flops(graph, graph.spec.context, rounds=resolve_rounds(graph, None))
                for graph in graphs
            ) + training_join_flops(spec, batch=1)
        else:
            counted = report.forward_flops
        gap = abs(counted - counter.get_total_flops())
        measure = "training FLOPs" if backward else "forward FLOPs"
        yield VerifyRow("counted", "traced by PyTorch", measure, gap, EXACT)
    count = sum(parameter.numel() for parameter in model.parameters())
    gap = abs(report.stored_params - count)
    yield VerifyRow("counted", "held by the module", "parameters", gap, EXACT)


def _require_short(graph: BlockGraph | TowersGraph) -> None:
    executed = graph.executed_layers()
    if executed > MAX_LAYERS:
        message = f"even small, this model executes {executed} layers; at most {MAX_LAYERS} can be"
        message += " compared in reasonable time"
        hint = "verify a signature of the same form with smaller powers or sizes"
        raise LoweringError("too-long-to-verify", message, hint=hint)


def dial_gaps(
    model: CompiledModule, session: Session, input_ids: npt.NDArray[np.int64], rounds: Iterable[int]
) -> dict[int, float]:
    """Largest difference of PyTorch's and ONNX Runtime's logits at each number of rounds."""
    model.eval()
    gaps = {}
    for count in rounds:
        with torch.no_grad():
            expected = model(torch.from_numpy(input_ids), rounds=count)
        gaps[count] = _numpy_gap(expected, session.logits(input_ids, rounds=count))
    return gaps


def random_input(
    spec: ModelSpec, batch: int, seq: int, *, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """An input of the model: random token ids (batch, seq), or numbers where it takes those."""
    port = model_input(spec)
    shape = at_sizes(port.shape, [("batch", batch), ("seq", seq)])
    if port.dtype == "int64":
        return torch.randint(spec.vocab_size, shape, device=device)
    return torch.randn(shape, device=device)


def dialled_rounds(graph: BlockGraph) -> list[Rounds]:
    """As written, and one to four rounds of every repeat, as far as that stays short."""
    if not any(graph.dials()):
        return [None]
    return [None, *(r for r in (1, 2, 3, 4) if graph.executed_layers(r) <= MAX_LAYERS)]


def _spread(model: CompiledModule | CompiledTowers) -> None:
    """Weights large enough for every block to move the logits."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def _torch_rows(model: CompiledModule, inputs: torch.Tensor) -> Iterator[VerifyRow]:
    graph = model.graph
    measure, _ = model_output(graph.spec)
    for rounds in dialled_rounds(graph):
        flat = to_torch(unroll(graph, rounds)).eval()
        flat.load_state_dict(model.state_dict())
        gap = _gap(model(inputs, rounds=rounds), flat(inputs))
        yield VerifyRow(f"torch, {_rounds_text(rounds)}", "torch, unrolled", measure, gap, EXACT)
    with temporary_folder() as folder:
        path = folder / "weights.safetensors"
        save_weights(model, path)
        fresh = to_torch(graph).eval()
        load_weights(fresh, path)
    gap = _gap(model(inputs), fresh(inputs))
    yield VerifyRow("torch, as written", "torch, weights reloaded", measure, gap, EXACT)


def _onnx_rows(model: CompiledModule, inputs: torch.Tensor) -> Iterator[VerifyRow]:
    graph = model.graph
    measure, _ = model_output(graph.spec)
    fixed = Session(to_onnx(model))
    gap = _numpy_gap(model(inputs), fixed.logits(inputs.numpy()))
    limit = _limit(model, inputs, None)
    yield VerifyRow("torch, as written", "ONNX, unrolled", measure, gap, limit)
    dial = Session(to_onnx(model, rounds="dynamic"))
    for rounds in dialled_rounds(graph):
        expected = model(inputs, rounds=rounds)
        gap = _numpy_gap(expected, dial.logits(inputs.numpy(), rounds=rounds))
        limit = _limit(model, inputs, rounds)
        yield VerifyRow(f"torch, {_rounds_text(rounds)}", "ONNX, dial", measure, gap, limit)


def _cached_rows(model: CompiledModule, inputs: torch.Tensor) -> Iterator[VerifyRow]:
    """Every form that continues sequences, however they are cut and batched; none without a cache.

    Where rounds share slots a cache is an approximation: PyTorch's, one token at a time, is what
    the others have to equal.
    """
    try:
        require_language_model(model.spec)
        cached = cached_module(model)
    except (SpecError, LoweringError):
        return
    dial = Session(to_onnx(model, rounds="dynamic", cache=True))
    for rounds in dialled_rounds(model.graph):
        limit, rounds_text = _limit(model, inputs, rounds), _rounds_text(rounds)
        if model.graph.shares_slots:
            left = f"torch, cached, token by token, {rounds_text}"
            run = partial(_of_arrays(cached), rounds=rounds)
            expected = _in_steps(run, inputs, singles=inputs.shape[1])
        else:
            left, expected = f"torch, {rounds_text}", model(inputs, rounds=rounds)
        forms: dict[str, Step] = {
            "torch, cached": _of_arrays(cached),
            "ONNX, cached, dial": dial.step,
        }
        if rounds is None:
            forms["ONNX, cached"] = Session(to_onnx(model, cache=True)).step
            forms["ONNX, cached, portable"] = Session(
                to_onnx(model, cache=True, portable=True)
            ).step
            forms["ONNX, cached, gated"] = Session(to_onnx(model, cache=True, gated=True)).step
        for form, step in forms.items():
            run = partial(step, rounds=rounds)
            gap = _gap(expected, _in_steps(run, inputs))
            yield VerifyRow(left, form, "logits", gap, limit)
            gap = _batch_gap(run, inputs, expected)
            yield VerifyRow(left, f"{form}, other batches", "logits", gap, limit)


def _of_arrays(cached: CachedModule) -> Step:
    """The module, given arrays as a session is."""

    def step(ids: Any, past: Any, *, attention_mask: Any, rounds: Rounds) -> tuple[Any, Any]:
        mask = None if attention_mask is None else torch.from_numpy(attention_mask)
        result: tuple[Any, Any] = cached(torch.from_numpy(ids), past, mask, rounds=rounds)
        return result

    return step


def _in_steps(
    step: Step, inputs: torch.Tensor, mask: torch.Tensor | None = None, *, singles: int = 3
) -> torch.Tensor:
    """Logits of all tokens: most of them at once, and the last ones one by one."""
    past, logits_of_parts, seq = None, [], inputs.shape[1]
    ends = sorted({seq - singles, *range(seq - singles + 1, seq + 1)} - {0})
    for start, end in pairwise([0, *ends]):
        visible = None if mask is None else mask[:, :end].numpy()
        logits, past = step(inputs[:, start:end].numpy(), past, attention_mask=visible)
        logits_of_parts.append(torch.as_tensor(logits))
    return torch.cat(logits_of_parts, dim=1)


def _batch_gap(step: Step, inputs: torch.Tensor, expected: torch.Tensor) -> float:
    """How far rows are from those expected when they run alone, and beside padding."""
    alone = _gap(expected[:1], _in_steps(step, inputs[:1]))
    padded, mask, cut = inputs.clone(), torch.ones_like(inputs), 2
    padded[1, cut:], mask[1, :cut] = inputs[1, :-cut], 0
    logits = _in_steps(step, padded, mask)
    first = _gap(expected[0], logits[0])
    return max(alone, first, _gap(expected[1, :-cut], logits[1, cut:]))


def _limit(model: CompiledModule, inputs: torch.Tensor, rounds: Rounds) -> float:
    """How far two runtimes may be apart: more where fp32 itself is far from fp64."""
    twin = copy.deepcopy(model).double()
    exact = twin(inputs.double() if inputs.is_floating_point() else inputs, rounds=rounds)
    return max(LOGIT_LIMIT, ROUNDING_SLACK * _gap(model(inputs, rounds=rounds), exact))


def _can_be_traced(spec: ModelSpec | TowersSpec) -> bool:
    graph = build_graph(spec)
    return max(graph.stored_layers, graph.executed_layers()) <= MAX_TRACED_LAYERS


def _count_rows(spec: ModelSpec, size: str) -> Iterator[VerifyRow]:
    left = f"counted, {size}"
    graph = build_graph(spec)
    seq = spec.context
    forward, both = (
        _traced_flops(spec, seq, backward=False),
        _traced_flops(spec, seq, backward=True),
    )
    gap = abs(forward_flops(graph, seq).total - forward)
    yield VerifyRow(left, "traced by PyTorch", "forward FLOPs", gap, EXACT)
    written = resolve_rounds(graph, None)  # not in expectation over rounds that are drawn
    gap = abs(training_flops(graph, seq, rounds=written) - both)
    yield VerifyRow(left, "traced by PyTorch", "training FLOPs", gap, EXACT)
    count = sum(parameter.numel() for parameter in to_torch(spec, device="meta").parameters())
    gap = abs(stored_params(graph) - count)
    yield VerifyRow(left, "held by the module", "parameters", gap, EXACT)


def _traced_flops(spec: ModelSpec, seq: int, *, backward: bool) -> int:
    model = to_torch(spec, device="meta")
    inputs = random_input(spec, 1, seq, device="meta")
    rounds = resolve_rounds(model.graph, None)  # which a model in training would draw
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        logits = model(inputs, rounds=rounds)
        if backward:
            logits.sum().backward()
    return int(counter.get_total_flops())


def _rounds_text(rounds: Rounds) -> str:
    if rounds is None:
        return "as written"
    return plural(rounds, "round") if isinstance(rounds, int) else f"{rounds} rounds"


def _gap(left: torch.Tensor, right: torch.Tensor) -> float:
    """Largest difference of two tensors; NaN where either holds one."""
    return float((left - right).abs().max())


def _numpy_gap(left: torch.Tensor, right: npt.NDArray[np.float32]) -> float:
    return float(np.abs(left.numpy() - right).max())
