"""What tools ask of a causal model beside logits: embeddings, states, other vocabularies."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from transformers import AutoModelForCausalLM, CompileConfig, GenerationConfig, pipeline

from rinsc.backends.hf import RinscForCausalLM, RinscModel
from rinsc.backends.torch import load_weights, save_weights, to_torch
from rinsc.cost import training_flops
from rinsc.errors import GraphError, LoweringError, SpecError
from rinsc.spec import ModelSpec
from tests.hf.models import CAUSAL, CLOSE, greedy_by_hand, ids, pair
from tests.hf.test_hosted import RICH, causal
from tests.hf.texts import tokenizer
from tests.onnx.models import small_spec
from tests.specs import specs

GREEDY: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
KINDS = ["llama", "gpt", "hrm", "huginn", "ouro"]


def rows_of(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """Rows of the embedding's table, looked up by hand."""
    table: torch.Tensor = model.state_dict()["model.embedding.weight"]
    return table[input_ids]


def states_by_hooks(plain: Any, input_ids: torch.Tensor, **given: Any) -> list[torch.Tensor]:
    """What each visit of a block gives, in the order of visits."""
    states: list[torch.Tensor] = []

    def hook(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        states.append(output)

    blocks = [plain.get_submodule(name) for name in plain.graph.blocks]
    handles = [block.register_forward_hook(hook) for block in blocks]
    with torch.no_grad():
        plain(input_ids, **given)
    for handle in handles:
        handle.remove()
    return states


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_stand_in_for_ids(kind: str, tied: bool) -> None:
    model, plain = pair(small_spec("A^3{adapter=scale}B", kind=kind, tied_embedding=tied))
    input_ids = ids(plain.spec, 2, 9)
    embeds = rows_of(model, input_ids).requires_grad_()
    for rounds in (None, 2):
        output = model(inputs_embeds=embeds, rounds=rounds, use_cache=False)
        assert torch.equal(output.logits, plain(input_ids, rounds=rounds))
    (gradient,) = torch.autograd.grad(output.logits.sum(), embeds)
    assert gradient.abs().sum() > 0
    mask = torch.ones_like(input_ids)
    mask[0, :3] = 0
    padded = model(input_ids, attention_mask=mask).logits
    assert torch.equal(model(inputs_embeds=embeds, attention_mask=mask).logits, padded)


@pytest.mark.parametrize("signature", ["A^3B", "(A^3{kv=last}B)^2", "A^2{init=noise, inject=add}B"])
def test_generation_starts_from_embeddings(signature: str) -> None:
    model, plain = pair(small_spec(signature, layers=4))
    input_ids = ids(plain.spec, 2, 6)
    embeds = rows_of(model, input_ids)
    for more in ({}, {"num_beams": 2}, {"cache_implementation": "static"}):
        expected = model.generate(input_ids, **GREEDY, **more)[:, 6:]
        assert torch.equal(model.generate(inputs_embeds=embeds, **GREEDY, **more), expected)


def test_wrong_inputs_are_one_error() -> None:
    model, plain = pair("AB")
    input_ids = ids(plain.spec, 1, 4)
    embeds = rows_of(model, input_ids)
    for wrong in (
        {},
        {"input_ids": input_ids, "inputs_embeds": embeds},
        {"inputs_embeds": embeds[..., :-1]},
        {"inputs_embeds": embeds[0]},
        {"input_ids": input_ids[0]},
    ):
        with pytest.raises(SpecError, match="bad-inputs"):
            model(**wrong)


@settings(max_examples=12)
@given(spec=specs(options=True, kinds=CAUSAL, max_visits=6).filter(causal))
def test_a_state_for_each_visit(spec: ModelSpec) -> None:
    model, plain = pair(spec)
    input_ids = ids(spec, 2, 7)
    expected = states_by_hooks(plain, input_ids)
    assert len(expected) == sum(1 for _ in plain.graph.visits())
    first = rows_of(model, input_ids)
    if spec.kind == "gpt":
        first = first + plain.positions.weight[:7]
    with torch.no_grad():
        for given in ({}, {"use_cache": False}):
            output = model(input_ids, output_hidden_states=True, **given)
            assert len(output.hidden_states) == 1 + len(expected)
            if spec.kind in ("llama", "gpt"):  # others scale
                assert torch.equal(output.hidden_states[0], first)
            for state, wanted in zip(output.hidden_states[1:-1], expected[:-1], strict=True):
                assert torch.allclose(state, wanted, atol=CLOSE)
        head = model.get_output_embeddings().weight
        by_hand = F.linear(output.hidden_states[-1], head)
    assert torch.allclose(by_hand, output.logits, atol=CLOSE)


def test_states_follow_the_rounds_and_come_in_every_way() -> None:
    model, plain = pair(RICH)
    input_ids = ids(plain.spec, 2, 6)
    plain_logits = plain(input_ids, rounds=2)
    visits = {rounds: 1 + rounds * (rounds + 1) for rounds in (1, 2, 3)}
    for rounds, count in visits.items():
        output = model(input_ids, rounds=rounds, output_hidden_states=True)
        assert len(output.hidden_states) == 1 + count
    assert model(input_ids).hidden_states is None
    kept = model(input_ids, rounds=2, output_hidden_states=True, logits_to_keep=1)
    assert kept.hidden_states[-1].shape[1] == 6
    assert torch.allclose(kept.logits, plain_logits[:, -1:], atol=CLOSE)
    backbone = model.base_model(input_ids, rounds=2, output_hidden_states=True)
    assert torch.equal(backbone.hidden_states[-1], backbone.last_hidden_state)
    model.config.output_hidden_states = True
    assert len(model(input_ids, rounds=1).hidden_states) == 1 + visits[1]
    assert len(model(input_ids, rounds=1, return_dict=False)[-1]) == 1 + visits[1]
    assert model(input_ids, output_hidden_states=False).hidden_states is None


@pytest.mark.parametrize("how", ["none", "visit", "round"])
def test_states_have_gradients_where_they_are_made_again_too(how: Any) -> None:
    model, plain = pair("(A^2B)^2")
    model.train().set_checkpointing(how)
    input_ids = ids(plain.spec, 2, 6)
    output = model(input_ids, labels=input_ids, output_hidden_states=True)
    for state in output.hidden_states:
        state.retain_grad()
    output.loss.backward()
    assert all(state.grad.abs().sum() > 0 for state in output.hidden_states)


def test_states_of_each_token_that_is_generated() -> None:
    model, plain = pair("(A^3)B")
    input_ids = ids(plain.spec, 1, 4)
    made = model.generate(
        *(input_ids,), **GREEDY, rounds=2, output_hidden_states=True, return_dict_in_generate=True
    )
    expected = states_by_hooks(plain, made.sequences[:, :-1], rounds=2)
    assert [len(step) for step in made.hidden_states] == [4] * GREEDY["max_new_tokens"]
    for visit in range(2):
        found = torch.cat([step[1 + visit] for step in made.hidden_states], dim=1)
        assert torch.allclose(found, expected[visit], atol=CLOSE)


def test_features_of_a_pipeline(tmp_path: Path) -> None:
    spec = small_spec("A^3B", vocab_size=300, context=64, tied_embedding=False)
    model, _ = pair(spec)
    model.save_pretrained(tmp_path)
    words: Any = tokenizer()
    words.save_pretrained(tmp_path)
    extract: Any = pipeline("feature-extraction", model=str(tmp_path))
    found = torch.tensor(extract("the river"))
    with torch.no_grad():
        given = words("the river", return_tensors="pt")["input_ids"]
        expected = model(given, output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(found, expected, atol=CLOSE)


def test_head_masks_are_one_clear_error() -> None:
    model, plain = pair("AB")
    for each in (model, RinscModel(model.config)):
        each(ids(plain.spec, 1, 4), head_mask=None)
        with pytest.raises(LoweringError, match="no-head-mask"):
            each(ids(plain.spec, 1, 4), head_mask=torch.ones(2, 2))


def test_attention_weights_are_one_clear_error() -> None:
    model, plain = pair("AB")
    with pytest.raises(LoweringError, match="no-such-output") as caught:
        model(ids(plain.spec, 1, 4), output_attentions=True)
    assert "output_hidden_states" in str(caught.value)
    with pytest.raises(LoweringError, match="no-such-output"):
        model.generate(
            ids(plain.spec, 1, 4), **GREEDY, output_attentions=True, return_dict_in_generate=True
        )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [64, 40])
def test_another_vocabulary(tmp_path: Path, tied: bool, size: int) -> None:
    """Old rows give old logits; config, spec, costs and files are those of the new size."""
    model, plain = pair(small_spec("A^3B", tied_embedding=tied))
    input_ids = ids(plain.spec, 2, 7) % 40
    embedding = model.resize_token_embeddings(size)
    assert embedding is model.get_input_embeddings()
    assert embedding.weight.shape == model.get_output_embeddings().weight.shape == (size, 24)
    assert model.config.vocab_size == model.config.spec["vocab_size"] == size
    with torch.no_grad():
        logits = model(input_ids).logits
        common = min(size, 53)
        assert torch.allclose(logits[..., :common], plain(input_ids)[..., :common], atol=CLOSE)
    spec = model.config.model_spec
    assert spec == small_spec("A^3B", tied_embedding=tied, vocab_size=size)
    flops = model.floating_point_ops({"input_ids": input_ids})
    assert flops == training_flops(spec, 7, batch=2)
    assert model(input_ids, labels=input_ids).loss.isfinite()
    model.save_pretrained(tmp_path)
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.vocab_size == size
    assert torch.equal(again(input_ids).logits, logits)
    module = to_torch(spec)
    load_weights(module, tmp_path / "model.safetensors")
    assert torch.equal(module(input_ids), logits)
    save_weights(model.model, tmp_path / "ours.safetensors")
    load_weights(module, tmp_path / "ours.safetensors")
    assert (copy.deepcopy(model)(input_ids).logits == logits).all()


def test_new_rows_start_as_asked() -> None:
    model, _ = pair(small_spec("AB", tied_embedding=False))
    torch.manual_seed(0)
    model.resize_token_embeddings(4000, mean_resizing=False)
    for part in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert part.weight[53:].std().item() == pytest.approx(0.02, rel=0.02)
    model.resize_token_embeddings(np.int64(60))
    assert model.resize_token_embeddings(pad_to_multiple_of=16).weight.shape[0] == 64
    assert model.config.vocab_size == 64
    for wrong in (0, -3, True):
        with pytest.raises(SpecError, match="bad-count"):
            model.resize_token_embeddings(wrong)
    assert model.config.vocab_size == model.get_input_embeddings().weight.shape[0] == 64


@pytest.mark.parametrize("seed", [None, 3])
def test_rounds_of_a_generation_config(tmp_path: Path, seed: int | None) -> None:
    signature = "A^3B" if seed is None else "A^3{init=noise, inject=add}B"
    model, plain = pair(signature)
    input_ids = ids(plain.spec, 1, 5)
    noise = {} if seed is None else {"noise_seed": seed}
    expected = {
        rounds: model.generate(input_ids, **GREEDY, **noise, rounds=rounds).tolist()
        for rounds in (1, 3, 6)
    }
    assert expected[1] != expected[6]
    model.generation_config.rounds = {"A": 6}
    if seed is not None:
        model.generation_config.noise_seed = seed
    assert model.generate(input_ids, **GREEDY).tolist() == expected[6]
    assert model.generate(input_ids, **GREEDY, rounds=None).tolist() == expected[6]
    assert model.generate(input_ids, **GREEDY, rounds=1).tolist() == expected[1]
    own: Any = GenerationConfig(**GREEDY, rounds=3, **noise)  # type: ignore[no-untyped-call]
    assert model.generate(input_ids, own).tolist() == expected[3]
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["rounds"] == {"A": 6}
    again: Any = RinscForCausalLM.from_pretrained(tmp_path)
    assert again.generate(input_ids, **GREEDY).tolist() == expected[6]
    again.generation_config.rounds = 0
    with pytest.raises(GraphError, match="rounds"):
        again.generate(input_ids, **GREEDY)


@pytest.mark.parametrize(
    "rounds", [np.int64(2), torch.tensor(2), {"A": np.int32(2)}], ids=["numpy", "torch", "by name"]
)
def test_a_generation_config_of_other_numbers_is_saved(tmp_path: Path, rounds: Any) -> None:
    model, _ = pair("A^3B")
    model.generation_config.rounds = rounds
    model.generation_config.noise_seed = np.int64(0)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert saved["rounds"] in (2, {"A": 2})
    assert saved["noise_seed"] == 0


@pytest.mark.parametrize(
    ("signature", "layers"),
    [("A^3B", 4), ("(A^2{kv=last, adapter=scale}B)^2", 2), (RICH, 3), ("AB", 2)],
)
def test_one_graph_without_breaks(signature: str, layers: int) -> None:
    model, plain = pair(small_spec(signature, layers=layers))
    input_ids = ids(plain.spec, 2, 7)
    torch._dynamo.reset()
    compiled: Any = torch.compile(model, fullgraph=True, backend="eager")
    rounds: list[Any] = [None] if signature == "AB" else [None, 2]
    with torch.no_grad():
        for asked in rounds:
            for cached in (True, False):
                found = compiled(input_ids, rounds=asked, use_cache=cached)
                expected = plain(input_ids, rounds=asked)
                if cached and "kv=" in signature:  # then a round sees what others kept
                    expected = model(input_ids, rounds=asked, use_cache=True).logits
                assert torch.allclose(found.logits, expected, atol=CLOSE), (asked, cached)
        mask = torch.ones_like(input_ids)
        mask[1, :2] = 0
        states = compiled(input_ids, attention_mask=mask, output_hidden_states=True)
        assert torch.allclose(states.logits, model(input_ids, attention_mask=mask).logits)
    torch._dynamo.reset()


def test_generation_is_one_graph_a_token() -> None:
    """With a static cache every pass has the same shape, and its graph no breaks."""
    model, plain = pair(small_spec("(A^2{adapter=scale}B)^2", layers=4))
    input_ids = ids(plain.spec, 2, 6)
    config: Any = CompileConfig(backend="eager", fullgraph=True, mode="default")
    config._compile_all_devices = True
    torch._dynamo.reset()
    expected = greedy_by_hand(plain, input_ids, GREEDY["max_new_tokens"])
    made = model.generate(input_ids, **GREEDY, cache_implementation="static", compile_config=config)
    torch._dynamo.reset()
    assert torch.equal(made, expected)


def test_what_is_not_there_is_said() -> None:
    model, plain = pair("A^3B")
    with pytest.raises(LoweringError, match="no-paged-attention"):
        model.generate_batch([[1, 2, 3]])
    with pytest.raises(SpecError, match="fixed-tie"):
        model.config.tie_word_embeddings = not plain.spec.tied_embedding
    assert not model.is_activation_checkpointing
    model.gradient_checkpointing_enable()
    assert model.is_activation_checkpointing
    assert model.is_gradient_checkpointing


@pytest.mark.parametrize("signature", ["A^3B", RICH])
def test_an_export_takes_every_length_and_batch(signature: str) -> None:
    model, plain = pair(small_spec(signature, layers=4))
    input_ids = ids(plain.spec, 2, 7)
    batch, seq = torch.export.Dim("batch"), torch.export.Dim("seq", max=plain.spec.context)
    sizes = {0: batch, 1: seq}
    for mask in (None, torch.ones_like(input_ids)):
        given = {"input_ids": input_ids} | ({} if mask is None else {"attention_mask": mask})
        program = torch.export.export(model, (), given, dynamic_shapes=dict.fromkeys(given, sizes))
        for shape in ((3, 9), (1, 2), (2, plain.spec.context)):
            other = ids(plain.spec, *shape)
            inputs = dict.fromkeys(given, torch.ones_like(other)) | {"input_ids": other}
            found = program.module()(**inputs).logits
            assert torch.allclose(found, plain(other), atol=CLOSE)


def test_a_cache_that_would_be_lost_is_refused() -> None:
    model, plain = pair("A^3B")
    cache = model(ids(plain.spec, 1, 4), use_cache=True).past_key_values
    model.train().set_checkpointing("visit")
    with pytest.raises(LoweringError, match="no-cache"):
        model(ids(plain.spec, 1, 1), past_key_values=cache)
