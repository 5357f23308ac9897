"""Models with ONNX Runtime's own operators against portable ones, and both against PyTorch."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from rinsc.backends.onnx import OnnxModel, RoundsForm, Session, to_onnx
from rinsc.backends.onnx.run.buffers import Buffers, Past
from rinsc.backends.onnx.run.continuation import Continuation
from rinsc.backends.onnx.write.builder import shape_of
from rinsc.backends.torch import CompiledModule
from rinsc.backends.torch.generating import generate_ids
from rinsc.errors import LoweringError, RinscError
from rinsc.layers import layer_kind, trace_programs
from rinsc.layers.cached import cached_programs
from rinsc.layers.kind import Sides
from rinsc.ops import Activation, Add, Attention, Linear, MergeHeads, RMSNorm, SplitHeads
from rinsc.ops.program import Builder, Value
from rinsc.sampling import Sampling
from rinsc.spec import ModelSpec
from rinsc.spec.kinds import KINDS
from tests.onnx.models import all_nodes, lively_model, random_ids, small_spec, torch_logits
from tests.specs import specs

CAUSAL = [kind for kind in KINDS if layer_kind(kind).causal]
CLOSE = 1e-4
ROTATED: Any = {"width": 64}  # head width 16: rotary positions inside the fused attention
PLAIN: Any = {"width": 32}  # head width 8: outside

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


def fused_forms(
    model: CompiledModule, rounds: int | None
) -> dict[str, tuple[OnnxModel, int | None]]:
    """Every fused form that runs these rounds, and the rounds to ask it for."""
    made = {
        "fixed": (to_onnx(model, rounds, cache=True), None),
        "dial": (to_onnx(model, "dynamic", cache=True), rounds),
    }
    if rounds is not None:
        made["gated"] = (to_onnx(model, rounds + 1, cache=True, gated=True), rounds)
    return made


def stepped(
    session: Session, ids: Ids, mask: Ids, cuts: list[int], rounds: int | None
) -> tuple[Logits, Past]:
    """Logits of all tokens, in chunks that end at ``cuts``."""
    past, made, start = None, [], 0
    for end in [*cuts, ids.shape[1]]:
        logits, past = session.step(
            ids[:, start:end], past, attention_mask=mask[:, :end], rounds=rounds
        )
        made.append(logits)
        start = end
    assert past is not None
    return np.concatenate(made, axis=1), past


@st.composite
def masks(draw: st.DrawFn, batch: int, seq: int) -> Ids:
    """Padding at both ends, and holes."""
    rows = st.lists(st.integers(0, 1), min_size=seq, max_size=seq).filter(any)
    return np.array([draw(rows) for _ in range(batch)], np.int64)


@settings(max_examples=15)
@given(
    spec=specs(options=True, kinds=CAUSAL, max_visits=4, head_dims=(8, 16)),
    rounds=st.sampled_from([None, 1, 2]),
    cuts=st.lists(st.integers(1, 8), max_size=3, unique=True).map(sorted),
    mask=masks(3, 9),
    batch=st.integers(1, 3),
)
def test_every_fused_form_equals_the_portable_one(
    spec: ModelSpec, rounds: int | None, cuts: list[int], mask: Ids, batch: int
) -> None:
    assume(all(layer_kind(kind).causal for kind in spec.block_kinds.values()))
    model = lively_model(spec)
    shared = model.graph.shares_slots
    ids, mask = random_ids(spec, batch, 9), mask[:batch]
    if any(model.graph.dials()) or rounds is None:
        portable = Session(to_onnx(model, rounds, cache=True, portable=True), threads=1)
        expected, _ = stepped(portable, ids, mask, cuts, None)
        seen = mask.astype(bool)
        scale = 1 + np.abs(expected[seen]).max()
        for exported, asked in fused_forms(model, rounds).values():
            exported.check()
            session = Session(exported, threads=1)
            assert session.in_place or shared
            found, _ = stepped(session, ids, mask, cuts, asked)
            assert np.abs(found - expected)[seen].max() <= CLOSE * scale


@settings(max_examples=10)
@given(spec=specs(kinds=["llama", "ouro"], max_visits=6, head_dims=(16,)))
def test_the_fused_forms_agree_to_the_bit(spec: ModelSpec) -> None:
    model = lively_model(spec)
    ids = random_ids(spec, 2, 9)
    for rounds in [1, 2] if any(model.graph.dials()) else [None]:
        fixed, *others = (
            stepped(Session(exported, threads=1), ids, np.ones_like(ids), [5, 6, 7, 8], asked)[0]
            for exported, asked in fused_forms(model, rounds).values()
        )
        assert all(np.array_equal(fixed, other) for other in others)


@settings(max_examples=8)
@given(
    spec=specs(options=True, kinds=CAUSAL, max_visits=4), form=st.sampled_from([None, "dynamic"])
)
def test_portable_models_run_in_the_reference_evaluator(
    spec: ModelSpec, form: Literal["dynamic"] | None
) -> None:
    assume(all(layer_kind(kind).causal for kind in spec.block_kinds.values()))
    model = lively_model(spec)
    ids = random_ids(spec, 2, 5)
    exported = to_onnx(model, form, cache=True, portable=True)
    session = Session(exported, threads=1)
    expected, _ = stepped(session, ids, np.ones_like(ids), [4], None)
    evaluator = ReferenceEvaluator(onnx.load_from_string(exported.to_bytes()))
    feed = first_inputs(exported, {loop.name: loop.rounds for loop in session.graph.loops()})
    slots = [name for name in feed if name.startswith("past")]
    made = []
    first = 1 if model.graph.shares_slots else 4
    for start, end in ((0, first), *((i, i + 1) for i in range(first, 5))):
        mask = np.ones((2, end), np.int64)
        given_now = {"input_ids": ids[:, start:end], "attention_mask": mask}
        logits, *present = evaluator.run(None, feed | given_now)
        feed |= dict(zip(slots, present, strict=True))
        made.append(logits)
    scale = 1 + np.abs(expected).max()
    assert np.abs(np.concatenate(made, axis=1) - expected).max() <= CLOSE * scale


def first_inputs(exported: OnnxModel, rounds: dict[str, int]) -> dict[str, Any]:
    """Empty slots for two sequences, and the rounds."""
    sizes = {"batch": 2, "past": 0, **{f"rounds_{name}": n for name, n in rounds.items()}}
    made: dict[str, Any] = {}
    for value in exported.ir.graph.inputs:
        name = str(value.name)
        if name.startswith("past_key_values"):
            shape = [dim if isinstance(dim, int) else sizes[str(dim)] for dim in shape_of(value)]
            made[name] = np.zeros(shape, np.float32)
        elif name.startswith("rounds_"):
            made[name] = np.array(sizes[name])
    return made


def test_fused_operators_and_only_standard_ones() -> None:
    model = lively_model(small_spec(**ROTATED))
    for form in (None, "dynamic"):
        rounds: RoundsForm = None if form is None else "dynamic"
        fused, portable = (
            to_onnx(model, rounds, cache=True, portable=portable).ir for portable in (False, True)
        )
        assert {node.domain for node in all_nodes(portable.graph)} == {""}
        assert set(portable.graph.opset_imports) == {""}
        kinds = {node.op_type for node in all_nodes(fused.graph)}
        assert {"GroupQueryAttention", "SkipSimplifiedLayerNormalization"} <= kinds
        assert not kinds & {"RotaryEmbedding", "Attention", "Transpose"}


@pytest.mark.parametrize(("kind", "most"), [("llama", 11), ("gpt", 14), ("ouro", 13)])
def test_few_nodes_for_each_visit_of_a_layer(kind: str, most: int) -> None:
    def nodes(layers: int) -> int:
        spec = small_spec("A", kind=kind, layers=layers, **ROTATED)
        return len(all_nodes(to_onnx(lively_model(spec), cache=True).ir.graph))

    assert nodes(4) - nodes(3) <= most


@pytest.mark.filterwarnings("ignore::rinsc.graph.RoundsWarning")
@pytest.mark.parametrize(
    ("kind", "asked", "tokens"),
    [("llama", (1, 2, 3, 4), 256), ("gpt", (2,), 64), ("ouro", (3,), 64)],
)
def test_every_form_generates_what_pytorch_does_without_a_cache(
    kind: str, asked: tuple[int, ...], tokens: int
) -> None:
    model = lively_model(small_spec(kind=kind, context=300, **ROTATED))
    prompts = [[1, 2], [3, 4, 5, 6, 7]]
    for rounds in asked:
        expected = generate_ids(
            model, prompts, tokens, sampling=Sampling(), rounds=rounds, cache=False
        )
        for exported, dialled in fused_forms(model, rounds).values():
            session = Session(exported, threads=1)
            assert session.generate(prompts, tokens, rounds=dialled) == expected


def test_a_cache_that_cannot_be_appended_to_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively_model(small_spec(context=300, **ROTATED))
    exported = to_onnx(model, "dynamic", cache=True)
    in_place = Session(exported, threads=1)
    monkeypatch.setattr(Continuation, "works_in_place", lambda *given: False)
    copying = Session(exported, threads=1)
    assert (in_place.in_place, copying.in_place) == (True, False)
    assert copying.generate([1, 2], 280) == in_place.generate([1, 2], 280)


def test_the_check_at_the_start_sees_a_cache_that_is_not_appended_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exported = to_onnx(lively_model(small_spec(**ROTATED)), "dynamic", cache=True)
    run = Buffers.run

    def forgetful(self: Buffers, arrays: Any) -> Logits:
        logits = run(self, arrays)
        for value in self.values.values() if self.in_place else ():
            value.numpy()[:] = 0
        return logits

    monkeypatch.setattr(Buffers, "run", forgetful)
    assert not Session(exported, threads=1).in_place


def test_an_older_cache_can_be_continued_in_another_way() -> None:
    model = lively_model(small_spec(**ROTATED))
    session = Session(to_onnx(model, cache=True), threads=1)
    _, past = session.step([[1, 2, 3]])
    first, longer = session.step([[4]], past)
    other, _ = session.step([[5]], past)
    again, _ = session.step([[4]], past)
    after, _ = session.step([[6]], longer)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    whole = session.logits([[1, 2, 3, 4, 6]])
    np.testing.assert_allclose(after[0, 0], whole[0, -1], rtol=0, atol=CLOSE)


def test_room_is_made_as_it_is_needed() -> None:
    spec = small_spec(context=900, **PLAIN)
    session = Session(to_onnx(lively_model(spec), "dynamic", cache=True), threads=1)
    ids = random_ids(spec, 2, 801)
    expected, _ = session.step(ids)
    found, past = stepped(session, ids, np.ones_like(ids), [100, 250, 251, 600, 800], None)
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)
    assert past.values.capacity == spec.context


def test_mistakes() -> None:
    model = lively_model(small_spec(**ROTATED))
    session = Session(to_onnx(model, cache=True), threads=1)
    _, past = session.step([[1, 2, 3]], attention_mask=[[0, 1, 1]])
    with pytest.raises(RinscError, match="past tokens"):
        session.step([[1]], past, attention_mask=[[1, 1, 1, 1]])
    gated = Session(to_onnx(model, 3, cache=True, gated=True), threads=1)
    with pytest.raises(LoweringError, match="at most"):
        gated.step([[1]], rounds=4)
    with pytest.raises(LoweringError, match="most rounds"):
        to_onnx(model, "dynamic", gated=True)
    with pytest.raises(LoweringError, match="no operator"):
        to_onnx(model, cache=True, portable=True, precision="int4")


def test_head_widths_that_the_fused_operators_do_not_take() -> None:
    exported = to_onnx(lively_model(small_spec()), cache=True)
    assert exported.metadata["rinsc.operators"] == "standard"
    assert not Session(exported).in_place


@pytest.mark.parametrize("precision", ["fp16", "int8-dynamic", "int8", "int4", "int4/128 fp16:A"])
@pytest.mark.parametrize("slot", ["own", "first", "last"])
@pytest.mark.parametrize("form", ["fixed", "dial", "gated"])
def test_every_precision_in_every_form(precision: str, slot: str, form: str) -> None:
    """Steps behind a cache give what the same precision gives without one.

    Where rounds share slots the first token does; the others do not depend on where they are cut.
    """
    spec = small_spec(f"(A^2{{kv={slot}}})B", tied_embedding=True, **ROTATED)
    model = lively_model(spec)
    rounds: RoundsForm = "dynamic" if form == "dial" else 2
    gated = form == "gated"
    session = Session(
        to_onnx(model, rounds, cache=True, gated=gated, precision=precision), threads=1
    )
    ids = random_ids(spec, 1, 9)
    cuts = [8] if slot == "own" and precision != "int8-dynamic" else []
    found, past = stepped(session, ids, np.ones_like(ids), cuts, None)
    assert (past.batch, past.length) == (1, 9)
    uncached = Session(to_onnx(model, 2, precision=precision), threads=1)
    whole = uncached.logits(ids)
    if slot != "own":
        assert np.array_equal(stepped(session, ids, np.ones_like(ids), [3, 4], None)[0], found)
        found, whole = found[:, :1], uncached.logits(ids[:, :1])
    near = 0.05 if precision == "fp16" else 2e-3
    assert np.abs(found - whole).max() <= near * np.abs(whole).max()


def test_quantized_models_stay_near_and_fewer_bits_are_further() -> None:
    spec = small_spec("(A^2)B", **ROTATED)
    model = lively_model(spec)
    ids = random_ids(spec, 2, 9)
    exact = torch_logits(model, ids)
    apart = {
        precision: np.abs(Session(to_onnx(model, precision=precision)).logits(ids) - exact).mean()
        for precision in ("fp32", "fp16", "int8", "int4")
    }
    assert apart["fp32"] < apart["fp16"] < apart["int8"] < apart["int4"] < np.abs(exact).mean()


def test_a_cache_is_continued_by_its_session_at_its_rounds() -> None:
    model = lively_model(small_spec(**ROTATED))
    gated = Session(to_onnx(model, 3, cache=True, gated=True), threads=1)
    _, past = gated.step([[1, 2, 3]], rounds=1)
    expected, _ = gated.step([[4]], past, rounds=1)
    assert np.array_equal(gated.decoding(past)(np.array([4])), expected[:, 0])
    other = Session(to_onnx(model, 3, cache=True, gated=True), threads=1)
    with pytest.raises(LoweringError, match="another-cache"):
        other.decoding(past)
    decoding = gated.decoding(past)
    for _ in range(model.spec.context - 3):
        decoding(np.array([4]))
    with pytest.raises(RinscError, match="context-exceeded"):
        decoding(np.array([4]))


@dataclasses.dataclass(frozen=True)
class _Odd:
    """A way to use attention that the fused operator cannot take the place of."""

    twice: bool

    def layer(self, b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
        def heads(name: str) -> Value:
            return b(SplitHeads(spec.heads), b(Linear(spec.width), x, name=name))

        mixed = b(Attention(), *(heads(name) for name in ("query", "key", "value")))
        if self.twice:
            mixed = b(Add(), mixed, b(Activation("tanh"), mixed))
        else:
            mixed = b(Activation("tanh"), mixed)
        normed = b(RMSNorm(spec.norm_eps), b(Add(), heads("left"), heads("right")), name="norm")
        return b(Add(), x, b(MergeHeads(), b(Add(), mixed, normed)))


@pytest.mark.parametrize("twice", [False, True])
def test_kinds_whose_attention_cannot_be_fused(
    twice: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama = layer_kind("llama")
    odd = dataclasses.replace(llama, layer=_Odd(twice).layer)
    monkeypatch.setattr("rinsc.layers.tracing.layer_kind", lambda name: odd)
    trace_programs.cache_clear()
    cached_programs.cache_clear()
    try:
        spec = small_spec("A^2", norm_eps=2e-5 if twice else 3e-5, **ROTATED)
        model = lively_model(spec)
        exported = to_onnx(model, cache=True)
        assert exported.metadata["rinsc.operators"] == "standard"
        ids = random_ids(spec, 1, 6)
        found, _ = stepped(Session(exported, threads=1), ids, np.ones_like(ids), [4, 5], None)
        np.testing.assert_allclose(found, torch_logits(model, ids), rtol=0, atol=CLOSE)
    finally:
        trace_programs.cache_clear()
        cached_programs.cache_clear()
