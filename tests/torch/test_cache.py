"""Cached generation in PyTorch against the whole sequence at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rinsc.backends.torch import CompiledModule
from rinsc.backends.torch.decoding import CachedModule, cached_module
from rinsc.backends.torch.emit import emit_source
from rinsc.backends.torch.generating import generate_ids
from rinsc.errors import LoweringError, SpecError
from rinsc.layers import layer_kind
from rinsc.sampling import Sampling
from rinsc.spec import ModelSpec, model_spec
from tests.kinds import KINDS
from tests.onnx.models import lively_model, small_spec
from tests.specs import specs

CAUSAL = [kind for kind in KINDS if layer_kind(kind).causal]
CLOSE = 5e-5


def in_chunks(
    module: CachedModule, input_ids: torch.Tensor, chunks: list[int], **given: Any
) -> torch.Tensor:
    """Logits of all tokens, run in chunks of these lengths and then one by one."""
    mask = given.pop("attention_mask", None)
    past, made, start = None, [], 0
    while start < input_ids.shape[1]:
        end = start + (chunks.pop(0) if chunks else 1)
        seen = None if mask is None else mask[:, :end]
        logits, past = module(input_ids[:, start:end], past, seen, **given)
        made.append(logits)
        start = end
    return torch.cat(made, dim=1)


def own_slots(spec: ModelSpec) -> bool:
    return "kv=" not in spec.text


@settings(max_examples=15)
@given(
    spec=specs(options=True, kinds=CAUSAL, max_visits=6).filter(own_slots),
    chunks=st.lists(st.integers(1, 5), max_size=4),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_chunks_behind_a_cache_equal_the_whole(
    spec: ModelSpec, chunks: list[int], seed: int, data: st.DataObject
) -> None:
    if any(not layer_kind(kind).causal for kind in spec.block_kinds.values()):
        return
    model = lively_model(spec, seed)
    cached = cached_module(model)
    dials = [loop.name for loop in model.graph.dials()]
    rounds = {name: data.draw(st.integers(1, 3), label=name) for name in dials} or None
    input_ids = torch.randint(spec.vocab_size, (2, 14))
    with torch.no_grad():
        expected = model(input_ids, rounds=rounds)
        found = in_chunks(cached, input_ids, chunks, rounds=rounds)
    assert (found - expected).abs().max() <= CLOSE * (1 + expected.abs().max())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", CAUSAL)
def test_padding_on_either_side_changes_nothing(kind: str, side: str) -> None:
    model = lively_model(small_spec("P(A^2{adapter=scale}B)^2{inject=add, init=noise}", kind=kind))
    cached = cached_module(model)
    input_ids = torch.randint(1, 53, (2, 12))
    expected = model(input_ids)
    # Three positions of padding in the second sequence: in front, or after a prompt of six tokens.
    place = 0 if side == "left" else 6
    padded = torch.zeros(2, 15, dtype=torch.long)
    mask = torch.ones(2, 15, dtype=torch.long)
    mask[1, place : place + 3] = 0
    mask[0, 12:] = 0
    padded[0, :12] = input_ids[0]
    padded[1, mask[1] == 1] = input_ids[1]
    with torch.no_grad():
        found = in_chunks(cached, padded, [9], attention_mask=mask)
    assert torch.allclose(found[0, :12], expected[0], atol=CLOSE)
    assert torch.allclose(found[1, mask[1] == 1], expected[1], atol=CLOSE)


def test_a_forgotten_mask_is_seen() -> None:
    model = lively_model(small_spec("A^2B"))
    input_ids = torch.randint(1, 53, (1, 8))
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.long), input_ids], dim=1)
    found = in_chunks(cached_module(model), padded, [4])
    assert not torch.allclose(found[:, 2:], model(input_ids), atol=1e-3)


def one_at_a_time(model: CompiledModule, input_ids: torch.Tensor, slot: str) -> torch.Tensor:
    """What ``A^3{kv=slot}B`` means, with slots for every round: before each token, those of all
    rounds are set to the ones that are kept."""
    own = cached_module(lively_model(small_spec("A^3B")))
    own.load_state_dict(model.state_dict())
    made, past = [], None
    for index in range(input_ids.shape[1]):
        logits, every = own(input_ids[:, index : index + 1], past)
        kept = every[0:4] if slot == "first" else every[8:12]  # of two layers, keys and values
        past = [*kept, *kept, *kept, *every[12:]]
        made.append(logits)
    return torch.cat(made, dim=1)


@pytest.mark.parametrize("slot", ["first", "last"])
def test_rounds_that_share_slots_do_not_depend_on_cuts_and_batches(slot: str) -> None:
    model = lively_model(small_spec(f"A^3{{kv={slot}}}B"))
    cached = cached_module(model)
    input_ids = torch.randint(53, (2, 9))
    with torch.no_grad():
        expected = one_at_a_time(model, input_ids, slot)
        for chunks in ([9], [4], [1], [3, 5]):
            assert torch.allclose(in_chunks(cached, input_ids, chunks), expected, atol=CLOSE)
        assert torch.allclose(in_chunks(cached, input_ids[:1], [9]), expected[:1], atol=CLOSE)
        padded = torch.cat((torch.zeros(2, 3, dtype=torch.long), input_ids), dim=1)
        padded[1] = torch.cat((input_ids[1], torch.zeros(3, dtype=torch.long)))
        mask = torch.ones_like(padded)
        mask[0, :3] = mask[1, 9:] = 0
        found = in_chunks(cached, padded, [7], attention_mask=mask)
        assert torch.allclose(found[0, 3:], expected[0], atol=CLOSE)
        assert torch.allclose(found[1, :9], expected[1], atol=CLOSE)
        assert len(cached(input_ids)[1]) == 2 * 2 * 2  # keys and values of two blocks of two layers


@pytest.mark.parametrize("slot", ["first", "last"])
def test_shared_slots_are_exact_at_one_round_and_approximate_at_more(slot: str) -> None:
    model = lively_model(small_spec(f"A^3{{kv={slot}}}B"))
    cached, input_ids = cached_module(model), torch.randint(53, (2, 9))
    with torch.no_grad():
        one = in_chunks(cached, input_ids, [4], rounds=1)
        assert torch.allclose(one, model(input_ids, rounds=1), atol=CLOSE)
        approximate = in_chunks(cached, input_ids, [4])
        assert not torch.allclose(approximate, model(input_ids), atol=1e-3)


def test_a_slot_for_each_layer_of_each_visit() -> None:
    model = lively_model(small_spec("A[2]{each=2}(B[1]^3C[1]{reverse})^2", layers=4))
    _, past = cached_module(model)(torch.zeros(1, 5, dtype=torch.long))
    assert len(past) == 2 * (2 * 2 + 2 * (3 + 1))
    assert {tuple(each.shape) for each in past} == {(1, 2, 5, 6)}


def test_the_parameters_are_the_very_same() -> None:
    model = lively_model(small_spec("(A^3)B"))
    cached = cached_module(model)
    ours, theirs = dict(model.named_parameters()), dict(cached.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)


def test_the_modules_own_parameters_are_left_as_they_are_and_followed() -> None:
    model = lively_model(small_spec("(A^3)B"))
    model.requires_grad_(False)
    cached = cached_module(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.double()
    logits, _ = cached(torch.zeros(1, 4, dtype=torch.long))
    assert logits.dtype == torch.float64


def test_a_module_that_was_wrapped_has_no_cache_and_generates_without() -> None:
    model = lively_model(small_spec("(A^2)B"))
    expected = generate_ids(model, [1, 2], 9, sampling=Sampling(), cache=False)
    torch.nn.utils.parametrizations.weight_norm(model.get_submodule("A.0.query"))
    with pytest.raises(LoweringError, match="changed-module"):
        cached_module(model)
    assert generate_ids(model, [1, 2], 9, sampling=Sampling()) == expected


def test_a_mask_of_the_new_tokens_alone_is_refused() -> None:
    cached = cached_module(lively_model(small_spec("AB")))
    _, past = cached(torch.zeros(2, 7, dtype=torch.long))
    with pytest.raises(ValueError, match=r"attention_mask \(2, 1\), not \(2, 8\)"):
        cached(torch.zeros(2, 1, dtype=torch.long), past, torch.ones(2, 1))


def test_a_cache_of_other_rounds_is_refused() -> None:
    cached = cached_module(lively_model(small_spec("(A^3)B")))
    _, past = cached(torch.zeros(1, 4, dtype=torch.long), rounds=2)
    with pytest.raises(ValueError, match="the cache has 12 slots, not 16"):
        cached(torch.zeros(1, 1, dtype=torch.long), past, rounds=3)
    with pytest.raises(ValueError, match="exceed the context of 19"):
        cached(torch.zeros(1, 16, dtype=torch.long), past, rounds=2)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in CAUSAL])
def test_models_that_predict_no_next_token_have_no_cache(kind: str) -> None:
    model = lively_model(small_spec("AB", kind=kind))
    with pytest.raises(SpecError, match="not-a-language-model"):
        cached_module(model)


def test_a_layer_that_looks_back_by_a_shift_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from rinsc.layers import LayerKind, llama, trace_programs
    from rinsc.layers.cached import cached_programs
    from rinsc.ops import Add, Shift
    from rinsc.ops.program import Builder, Value

    def layer(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
        with b.part("mixing"):
            return b(Add(), x, b(Shift(1), x))

    monkeypatch.setattr("rinsc.layers.llama.KIND", LayerKind(llama.embed, layer, llama.head))
    trace_programs.cache_clear()
    cached_programs.cache_clear()
    try:
        with pytest.raises(LoweringError, match="no-cache"):
            emit_source(lively_graph(), cached=True)
    finally:
        trace_programs.cache_clear()
        cached_programs.cache_clear()


def lively_graph() -> Any:
    from rinsc.graph import build_graph

    return build_graph(model_spec("AB", preset="tiny"))


def test_sabotage_a_cache_that_forgets_is_seen() -> None:
    model: CompiledModule = lively_model(small_spec("A^2B"))
    cached = cached_module(model)
    input_ids = torch.randint(53, (1, 6))
    whole = model(input_ids)
    alone = torch.cat([cached(input_ids[:, i : i + 1])[0] for i in range(6)], dim=1)
    assert not torch.allclose(alone, whole, atol=1e-3)
