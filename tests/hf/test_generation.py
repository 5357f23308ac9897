"""Generation by transformers, against the whole sequence run again for every token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from rinsc.backends.torch.decoding import cached_module
from rinsc.backends.torch.generating import generate_ids
from rinsc.errors import GraphError, LoweringError, SpecError
from rinsc.sampling import Sampling
from rinsc.spec import ModelSpec
from tests.hf.models import CAUSAL, CLOSE, greedy_by_hand, ids, pair
from tests.onnx.models import small_spec

RICH = "P(A^2{adapter=scale}B)^3{inject=add, init=noise}"


def greedy(model: Any, input_ids: torch.Tensor, new: int = 7, **named: Any) -> Any:
    return model.generate(input_ids, max_new_tokens=new, do_sample=False, **named)


@pytest.mark.parametrize("rounds", [None, 1, 2, 5, {"A": 3}])
@pytest.mark.parametrize("cache", ["dynamic", "static", None])
def test_tokens_at_any_rounds_with_any_cache(rounds: Any, cache: str | None) -> None:
    model, plain = pair(RICH)
    input_ids = ids(plain.spec, 2, 5)
    expected = greedy_by_hand(plain, input_ids, 7, rounds=rounds)
    named = {"cache_implementation": cache} if cache else {"use_cache": False}
    found = greedy(model, input_ids, rounds=rounds, **named)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", CAUSAL)
def test_every_kind_generates_behind_a_cache(kind: str) -> None:
    model, plain = pair(small_spec("A^2B", kind=kind))
    input_ids = ids(plain.spec, 2, 4)
    assert torch.equal(greedy(model, input_ids), greedy_by_hand(plain, input_ids, 7))


@pytest.mark.parametrize("cache", ["dynamic", "static", None])
@pytest.mark.parametrize("kind", ["llama", "gpt"])
def test_rows_padded_on_the_left_are_as_alone(kind: str, cache: str | None) -> None:
    model, plain = pair(small_spec("A^3{adapter=scale}B", kind=kind))
    long, short = ids(plain.spec, 1, 6), ids(plain.spec, 1, 3, seed=2)
    padded = torch.cat((long, torch.cat((torch.zeros(1, 3, dtype=torch.long), short), 1)))
    mask = torch.ones_like(padded)
    mask[1, :3] = 0
    named = {"cache_implementation": cache} if cache else {"use_cache": False}
    found = greedy(model, padded, attention_mask=mask, rounds=4, pad_token_id=0, **named)
    assert torch.equal(found[:1], greedy_by_hand(plain, long, 7, rounds=4))
    assert torch.equal(found[1:, 3:], greedy_by_hand(plain, short, 7, rounds=4))


@pytest.mark.parametrize("way", [{}, {"use_cache": False}], ids=["cached", "uncached"])
def test_who_asks_for_eager_attention_gets_the_same(way: dict[str, Any]) -> None:
    model, plain = pair("A^3B")
    short = ids(plain.spec, 1, 3)
    padded = torch.cat((torch.zeros(1, 2, dtype=torch.long), short), 1)
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    model.set_attn_implementation("eager")
    found = greedy(model, padded, attention_mask=mask, pad_token_id=0, **way)
    assert torch.equal(found[:, 2:], greedy_by_hand(plain, short, 7))
    restarting = torch.tensor([[0, 1, 2, 0, 1]])
    packed = model(padded, attention_mask=torch.ones_like(padded), position_ids=restarting)
    model.set_attn_implementation("sdpa")
    assert torch.equal(packed.logits, model(padded, position_ids=restarting).logits)


def test_sabotage_a_forgotten_mask_is_seen() -> None:
    model, plain = pair("A^3B")
    short = ids(plain.spec, 1, 3)
    padded = torch.cat((torch.zeros(1, 4, dtype=torch.long), short), 1)
    whole = torch.ones_like(padded)
    with torch.no_grad():
        logits = model(padded, attention_mask=whole).logits[:, 4:]
    assert not torch.allclose(logits, plain(short), atol=1e-3)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize(
    "signature",
    [
        "A^3{kv=first}B",
        "A^3{kv=last}B",
        "(A^3{kv=last}B)^2{kv=first}",
        "(A^2{kv=first}B)^2{kv=last}",
    ],
)
def test_shared_slots_are_those_of_the_cached_form(signature: str, cache: str) -> None:
    """An approximation, so that the oracle is our own cached form; padded rows as well."""
    model, plain = pair(signature)
    for rounds in (1, 3):
        prompt = ids(plain.spec, 1, 5)
        expected = generate_ids(
            plain, prompt[0].tolist(), 7, rounds=rounds, sampling=Sampling(temperature=0.0)
        )
        found = greedy(model, prompt, rounds=rounds, cache_implementation=cache)
        assert found[0, 5:].tolist() == expected


@pytest.mark.parametrize("keep", ["first", "last"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_shared_slots_do_not_depend_on_cuts_and_batches(keep: str, cache: str) -> None:
    model, plain = pair(f"A^3{{kv={keep}}}B")
    prompt = ids(plain.spec, 2, 6)
    alone = [greedy(model, row[None], cache_implementation=cache)[0, 6:] for row in prompt]
    together = greedy(model, prompt, cache_implementation=cache)[:, 6:]
    assert torch.equal(together, torch.stack(alone))
    padded = torch.cat((torch.zeros(2, 3, dtype=torch.long), prompt), dim=1)
    mask = (torch.arange(9) >= 3).long().expand(2, 9)
    found = greedy(model, padded, attention_mask=mask, cache_implementation=cache)
    assert torch.equal(found[:, 9:], together)
    with torch.no_grad():
        whole = model(prompt, use_cache=True).logits
        part = model(prompt[:, :4], use_cache=True)
        rest = model(prompt[:, 4:], past_key_values=part.past_key_values).logits
        unsaid = model(prompt)
        shown = model(prompt, use_cache=True, output_hidden_states=True).hidden_states
        every = model(prompt, use_cache=False, output_hidden_states=True).hidden_states
    assert [state.shape for state in shown] == [state.shape for state in every]
    assert torch.allclose(torch.cat((part.logits, rest), dim=1), whole, atol=CLOSE)
    assert unsaid.past_key_values is None, "a whole pass, which is exact, is the default"
    assert torch.allclose(unsaid.logits, plain(prompt), atol=CLOSE)
    assert not torch.allclose(unsaid.logits, whole, atol=1e-3)


def test_caches_have_the_slots_that_are_used() -> None:
    model, plain = pair("P(A^2{kv=last}B)^3")
    config = model.config
    assert config.num_hidden_layers == plain.graph.executed_layers()
    for rounds in (1, 2, 5):
        cache: Any = DynamicCache(config=config.at_rounds(rounds))
        model(ids(plain.spec, 1, 4), past_key_values=cache, rounds=rounds)
        _, past = cached_module(plain)(ids(plain.spec, 1, 4), rounds=rounds)
        assert len(cache.layers) == len(past) // 2
        assert all(layer.get_seq_length() == 4 for layer in cache.layers)
    assert model.config is config


def test_beams_reorder_every_slot() -> None:
    """Beam search with the cache is beam search without; and it is no greedy search."""
    model, plain = pair("A^3{adapter=scale}B")
    input_ids = ids(plain.spec, 2, 4)
    named: dict[str, Any] = {"max_new_tokens": 8, "num_beams": 4, "do_sample": False, "rounds": 5}
    with_cache = model.generate(input_ids, **named)
    assert torch.equal(with_cache, model.generate(input_ids, use_cache=False, **named))
    assert torch.equal(
        with_cache, model.generate(input_ids, cache_implementation="static", **named)
    )
    assert not torch.equal(with_cache, greedy(model, input_ids, 8, rounds=5))


def test_sabotage_beams_with_one_slot_left_behind_are_seen(monkeypatch: Any) -> None:
    model, plain = pair("A^3{adapter=scale}B")
    input_ids = ids(plain.spec, 2, 4)
    named: dict[str, Any] = {"max_new_tokens": 12, "num_beams": 6, "do_sample": False}
    expected = model.generate(input_ids, **named)

    def forgetful(cache: Any, beams: torch.Tensor) -> None:
        for layer in cache.layers[1:]:
            layer.reorder_cache(beams)

    monkeypatch.setattr(DynamicCache, "reorder_cache", forgetful)
    assert not torch.equal(expected, model.generate(input_ids, **named))


def test_sampling_draws_the_same_tokens_with_and_without_a_cache() -> None:
    model, plain = pair("A^2B")
    input_ids = ids(plain.spec, 3, 4)
    drawn = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        named: dict[str, Any] = {"do_sample": True, "top_k": 9, "use_cache": use_cache}
        drawn.append(model.generate(input_ids, max_new_tokens=8, **named))
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], greedy(model, input_ids, 8))


def test_a_cache_goes_on_where_it_stopped() -> None:
    model, plain = pair("A^3B")
    input_ids = ids(plain.spec, 2, 12)
    for cache in (DynamicCache(config=model.config), StaticCache(model.config, max_cache_len=19)):
        parts = []
        for chunk in torch.split(input_ids, [5, 4, 1, 2], dim=1):
            parts.append(model(chunk, past_key_values=cache).logits)
        assert torch.allclose(torch.cat(parts, 1), plain(input_ids), atol=CLOSE)


def test_tokens_that_are_guessed_and_taken_back() -> None:
    """Speculation on repetitions of the prompt: every slot is cut where a guess was wrong."""
    model, plain = pair("P(A^2{adapter=scale}B)^3")
    input_ids = ids(plain.spec, 1, 4).repeat(1, 2)
    found = greedy(model, input_ids, 9, prompt_lookup_num_tokens=3, rounds=2)
    assert torch.equal(found, greedy_by_hand(plain, input_ids, 9, rounds=2))


def test_noise_of_a_seed() -> None:
    model, plain = pair("A^3{init=noise, inject=add}B")
    input_ids = ids(plain.spec, 2, 5)
    expected = greedy_by_hand(plain, input_ids, 6, noise_seed=7)
    assert torch.equal(greedy(model, input_ids, 6, noise_seed=7), expected)
    assert not torch.equal(model(input_ids, noise_seed=8).logits, model(input_ids).logits)


def test_logits_of_the_last_places_alone() -> None:
    model, plain = pair("A^2B")
    input_ids = ids(plain.spec, 2, 9)
    whole = plain(input_ids)
    assert torch.allclose(model(input_ids, logits_to_keep=2).logits, whole[:, -2:], atol=1e-6)
    places = torch.tensor([1, 4])
    assert torch.allclose(
        model(input_ids, logits_to_keep=places).logits, whole[:, places], atol=1e-6
    )


def test_what_cannot_be_run_is_one_clear_error() -> None:
    model, plain = pair("(A^3)B")
    input_ids = ids(plain.spec, 1, 5)
    with pytest.raises(GraphError, match="not a repeat"):
        greedy(model, input_ids, rounds={"X": 2})
    with pytest.raises(GraphError, match="bad-rounds"):
        model(input_ids, rounds=0)
    with pytest.raises(SpecError, match="beyond-context"):
        greedy(model, input_ids, 16)
    with pytest.raises(SpecError, match="beyond-context"):
        model(ids(plain.spec, 1, 20))
    cache = model(input_ids).past_key_values
    with pytest.raises(LoweringError, match="other-rounds"):
        model(input_ids[:, :1], past_key_values=cache, rounds=2)
    with pytest.raises(LoweringError, match="at_rounds"):
        greedy(model, input_ids, past_key_values=DynamicCache(config=model.config), rounds=4)
    with pytest.raises(LoweringError, match="no-such-output"):
        model(input_ids, output_attentions=True)


def test_the_config_counts_the_layers_of_the_rounds_it_has() -> None:
    config = pair("(A^3)B")[0].config
    before = config.num_hidden_layers
    config.rounds = 4
    assert config.num_hidden_layers == before + config.graph.blocks["A"].layers
    assert type(config).from_dict(config.to_dict()).num_hidden_layers == config.num_hidden_layers
    with pytest.raises(GraphError):
        config.rounds = {"X": 2}
    assert config.rounds == 4
    config.rounds = None
    assert config.num_hidden_layers == before


def test_a_model_that_looks_back_by_a_shift_generates_without_a_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rinsc.backends.torch.decoding import hosted_class
    from rinsc.layers import LayerKind, llama, trace_programs
    from rinsc.layers.cached import hosted_programs
    from rinsc.ops import Add, Shift
    from rinsc.ops.program import Builder, Value

    def layer(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
        x = llama.layer(b, x, sides, spec)
        with b.part("mixing"):
            return b(Add(), x, b(Shift(1), x))

    kind = LayerKind(llama.embed, layer, llama.head, llama.KIND.sides)
    monkeypatch.setattr("rinsc.layers.llama.KIND", kind)
    caches = (trace_programs, hosted_programs, hosted_class)
    for each in caches:
        each.cache_clear()
    try:
        model, plain = pair("A^11B")  # of which no other test keeps anything
        input_ids = ids(plain.spec, 1, 4)
        assert model(input_ids).past_key_values is None
        assert torch.equal(greedy(model, input_ids), greedy_by_hand(plain, input_ids, 7))
        with pytest.raises(LoweringError, match="no-mask"):
            model(input_ids, attention_mask=torch.tensor([[0, 1, 1, 1]]))
    finally:
        for each in caches:
            each.cache_clear()
