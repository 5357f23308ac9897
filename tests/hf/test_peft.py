"""LoRA of PEFT on shared blocks: trained, saved, and folded into the matrices by our own merge."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from rinsc.backends.hf import RinscForCausalLM, merge_lora
from rinsc.errors import LoweringError, MissingExtraError
from rinsc.spec import ModelSpec
from tests.hf.models import CLOSE, ids, pair
from tests.hf.test_trainer import losses, trainer_of
from tests.hf.texts import rows
from tests.onnx.models import small_spec
from tests.torch.test_transformers import llama_reference, llama_spec

peft = pytest.importorskip("peft")
TARGETS = ["query", "value", "output", "gate", "down"]
RICH = "P(A^2{adapter=scale}B)^3{inject=add, init=noise}"


def with_lora(spec: ModelSpec | str, lively: bool = True, **given: Any) -> Any:
    model, _ = pair(spec)
    config = peft.LoraConfig(**({"r": 3, "target_modules": TARGETS, "lora_alpha": 5} | given))
    adapted = peft.get_peft_model(model, config)
    if lively:
        torch.manual_seed(1)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return adapted.eval()


def logits(model: Any, spec: ModelSpec, **given: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids(spec, 2, 9), **given).logits
    return found


def test_an_adapter_on_shared_blocks_trains_alone_and_reloads(tmp_path: Path) -> None:
    spec = small_spec("(A^3)B", vocab_size=300, context=32)
    adapted = peft.get_peft_model(pair(spec)[0], peft.LoraConfig(r=8, target_modules=TARGETS))
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    trainer = trainer_of(adapted, tmp_path, rows(16, 64), max_steps=60, learning_rate=2e-2)
    trainer.train()
    first, last = losses(trainer)[:5], losses(trainer)[-5:]
    assert sum(last) < sum(first) - 5 * 0.2
    after = adapted.state_dict()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)
    assert {name for name in after if "lora_B" in name} <= moved
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(pair(spec)[0], tmp_path / "adapter")
    assert torch.equal(logits(again.eval(), spec), logits(adapted.eval(), spec))
    merged = merge_lora(adapted)
    for rounds in (1, 3, 5):
        found = logits(merged, spec, rounds=rounds)
        assert torch.allclose(found, logits(adapted, spec, rounds=rounds), atol=CLOSE)


@pytest.mark.parametrize("signature", ["(A^3)B", RICH, "P(A^3)B[1]{tie=mlp}C{kind=hrm}"])
@pytest.mark.parametrize("given", [{}, {"use_rslora": True}, {"rank_pattern": {"query": 2}}])
def test_each_matrix_gets_its_adapter_once(
    tmp_path: Path, signature: str, given: dict[str, Any]
) -> None:
    spec = small_spec(signature)
    adapted = with_lora(spec, **given)
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    expected = {rounds: logits(adapted, spec, rounds=rounds) for rounds in (1, 2, 4)}
    merged: Any = merge_lora(adapted)
    assert type(merged) is RinscForCausalLM
    assert not any("lora" in name for name in merged.state_dict())
    for rounds, wanted in expected.items():
        assert torch.allclose(logits(merged, spec, rounds=rounds), wanted, atol=1e-4)
    plain, _ = pair(spec)
    assert not torch.allclose(logits(merged, spec), logits(plain, spec), atol=1e-2)
    left = adapted.state_dict()
    assert all(torch.equal(left[name], tensor) for name, tensor in before.items())
    merged.save_pretrained(tmp_path)
    again: Any = RinscForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again, spec), logits(merged, spec))


def test_an_adapter_of_a_table_of_its_own_is_folded_too() -> None:
    spec = small_spec("(A^3)B", tied_embedding=False)
    adapted = with_lora(spec, target_modules=["embedding", "head", "query"])
    assert torch.allclose(logits(merge_lora(adapted), spec), logits(adapted, spec), atol=1e-4)


def test_a_tied_table_is_refused_where_peft_changes_the_head() -> None:
    spec = small_spec("(A^3)B", tied_embedding=True)
    adapted = with_lora(spec, target_modules=["embedding"])
    with pytest.raises(LoweringError, match="head reads too"):
        merge_lora(adapted)
    before = logits(adapted, spec)
    merged = adapted.merge_and_unload()
    assert (logits(merged, spec) - before).abs().max() > 0.1


@pytest.mark.parametrize(
    ("given", "what"),
    [({"use_dora": True}, "plain LoRA"), ({"lora_bias": True}, "bias")],
)
def test_what_is_no_plain_product_is_refused(given: dict[str, Any], what: str) -> None:
    spec = small_spec("(A^3)B", kind="gpt")
    adapted = with_lora(spec, target_modules=["query", "output"], **given)
    with pytest.raises(LoweringError, match=what):
        merge_lora(adapted)


def test_adapters_that_are_several_merged_or_none_are_refused() -> None:
    adapted = with_lora("(A^3)B")
    adapted.add_adapter("other", peft.LoraConfig(r=2, target_modules=["query"]))
    adapted.base_model.set_adapter(["default", "other"])
    with pytest.raises(LoweringError, match="2 adapters are active"):
        merge_lora(adapted)
    merged = with_lora("(A^3)B")
    merged.merge_adapter()
    with pytest.raises(LoweringError, match="merged already"):
        merge_lora(merged)
    for other in (pair("(A^3)B")[0], object()):
        with pytest.raises(LoweringError, match="no adapter of PEFT"):
            merge_lora(other)
    scaled = peft.get_peft_model(
        pair("(A^3)B")[0],
        peft.IA3Config(target_modules=["query", "down"], feedforward_modules=["down"]),
    )
    with pytest.raises(LoweringError, match="LoRA"):
        merge_lora(scaled)


def test_a_matrix_that_stands_in_two_layers_is_refused() -> None:
    model, _ = pair("AB")
    model.model.B[0].query.weight = model.model.A[0].query.weight
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(LoweringError, match="shared-matrix"):
        merge_lora(adapted)


def test_a_merge_that_changes_logits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from peft.tuners.lora import Linear

    honest = Linear.get_delta_weight
    adapted = with_lora("(A^3)B")
    monkeypatch.setattr(Linear, "get_delta_weight", lambda *given: 2 * honest(*given))
    with pytest.raises(LoweringError, match="merge-differs"):
        merge_lora(adapted)


def test_replicas_of_peft_are_corrupted_by_its_merge_and_refused_by_ours() -> None:
    """Layers listed twice share a matrix and have an adapter each; its merge adds both to both."""
    reference: LlamaForCausalLM = llama_reference(llama_spec(kv_heads=2, tied=True))
    layers = reference.config.num_hidden_layers
    config = peft.LoraConfig(
        r=3,
        target_modules=["q_proj", "down_proj"],
        layer_replication=[[0, layers], [0, layers]],
        init_lora_weights=False,
    )
    adapted = peft.get_peft_model(reference, config).eval()
    with pytest.raises(LoweringError, match="no adapter of PEFT"):
        merge_lora(adapted)
    given = torch.arange(9)[None]
    with torch.no_grad():
        before = adapted(input_ids=given, use_cache=False).logits
        merged = adapted.merge_and_unload()
        after = merged(input_ids=given, use_cache=False).logits
    assert (before - after).abs().max() > 0.05 * before.abs().max()


def test_without_peft_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match="pip install peft"):
        merge_lora(object())


@pytest.mark.parametrize("tied", [True, False])
def test_all_linear_is_every_matrix_but_the_head(tied: bool) -> None:
    spec = small_spec("(A^3)B", tied_embedding=tied)
    adapted = with_lora(spec, target_modules="all-linear")
    adapters = {name for name, _ in adapted.named_modules() if name.endswith("lora_A")}
    assert any("model.A.0.query" in name for name in adapters)
    assert not any("head" in name or "embedding" in name for name in adapters)
    merged = logits(merge_lora(adapted), spec)
    torch.testing.assert_close(merged, logits(adapted, spec), atol=CLOSE, rtol=0)


@pytest.mark.parametrize("kind", ["llama", "gpt"])
@pytest.mark.parametrize("method", ["PromptTuningConfig", "PromptEncoderConfig"])
def test_a_soft_prompt_is_rows_before_the_text(tmp_path: Path, method: str, kind: str) -> None:
    """As tokens of a vocabulary that has so many rows more, whose rows are the prompt."""
    spec = small_spec("A^3B", tied_embedding=False, kind=kind)
    more = {"encoder_hidden_size": 8} if method == "PromptEncoderConfig" else {}
    config = getattr(peft, method)(task_type="CAUSAL_LM", num_virtual_tokens=3, **more)
    model, plain = pair(spec)
    adapted = peft.get_peft_model(model, config).eval()
    input_ids = ids(spec, 2, 6)
    adapted(input_ids=input_ids, labels=input_ids).loss.backward()
    trained = {name for name, each in adapted.named_parameters() if each.grad is not None}
    assert trained
    assert all("prompt_encoder" in name for name in trained)
    state, rows = plain.state_dict(), adapted.get_prompt(batch_size=1)[0].detach()
    for name in ("embedding.weight", "head.weight"):
        state[name] = torch.cat((state[name], rows))
    longer: Any = pair(replace(spec, vocab_size=spec.vocab_size + 3))[1]
    longer.load_state_dict(state)
    prompt = torch.arange(3).expand(2, 3) + spec.vocab_size
    with torch.no_grad():
        expected = longer(torch.cat((prompt, input_ids), dim=1))[..., : spec.vocab_size]
        found = adapted(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits
    assert torch.allclose(found, expected, atol=CLOSE)
    made = adapted.generate(input_ids=input_ids, max_new_tokens=1, do_sample=False, pad_token_id=0)
    assert torch.equal(made[:, -1], expected[:, -1].argmax(-1))
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(pair(spec)[0], tmp_path).eval()
    assert torch.equal(logits(again, spec), logits(adapted, spec))


def test_a_prefix_has_keys_for_each_visit(tmp_path: Path) -> None:
    spec = small_spec("A^3{adapter=scale}B")
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model, plain = pair(spec)
    adapted = peft.get_peft_model(model, config).eval()
    slots = plain.graph.executed_layers()
    (table,) = (each for each in adapted.parameters() if each.requires_grad)
    assert table.shape == (3, slots * 2 * spec.kv_heads * spec.head_size)
    input_ids = ids(spec, 2, 6)
    adapted(input_ids=input_ids, labels=input_ids).loss.backward()
    by_slot = table.grad.view(3, slots, -1).abs().sum((0, 2))
    assert (by_slot > 0).all()
    with pytest.raises(LoweringError, match="other-rounds"):
        adapted(input_ids=input_ids, rounds=2)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(pair(spec)[0], tmp_path).eval()
    assert torch.equal(logits(again, spec), logits(adapted, spec))
