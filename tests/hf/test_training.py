"""What training needs of the model: loss, packing, accumulation, checkpoints, FLOPs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from rinsc.backends.hf import causal_lm
from rinsc.cost import training_flops
from rinsc.errors import SpecError
from rinsc.spec import ModelSpec
from tests.hf.models import CAUSAL, CLOSE, ids, pair
from tests.hf.test_hosted import causal
from tests.onnx.models import small_spec
from tests.specs import specs


def by_hand(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def test_the_loss_is_that_of_the_next_token() -> None:
    model, plain = pair("A^2B")
    input_ids = ids(plain.spec, 2, 9)
    labels = input_ids.clone()
    labels[0, :4] = -100
    expected = by_hand(plain(input_ids), labels)
    assert torch.allclose(model(input_ids, labels=labels).loss, expected)
    shifted = F.pad(labels, (0, 1), value=-100)[:, 1:]
    assert torch.allclose(model(input_ids, shift_labels=shifted).loss, expected)
    assert model(input_ids).loss is None
    logits = model(input_ids, labels=labels, return_dict=False)[1]
    assert torch.equal(logits, model(input_ids).logits)


def test_accumulation_is_the_whole_batch() -> None:
    """Parts of unlike numbers of targets, each divided by the targets of all."""
    model, plain = pair("A^2B")
    input_ids = ids(plain.spec, 4, 9)
    labels = input_ids.clone()
    labels[0, 2:] = -100
    labels[2, 5:] = -100
    items = (labels[:, 1:] != -100).sum()
    whole: Any = by_hand(plain(input_ids), labels)
    whole.backward()
    expected = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for start in (0, 2):
        part = slice(start, start + 2)
        model(input_ids[part], labels=labels[part], num_items_in_batch=items).loss.backward()
    for name, parameter in model.model.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], atol=1e-6), name
    model.zero_grad()
    for start in (0, 2):  # the sabotage: each part divided by its own
        part = slice(start, start + 2)
        (model(input_ids[part], labels=labels[part]).loss / 2).backward()
    wrong = model.model.embedding.weight.grad
    assert not torch.allclose(wrong, expected["embedding.weight"], atol=1e-6)


@pytest.mark.parametrize("kind", CAUSAL)
@pytest.mark.parametrize("padding", [0, 3])
def test_packed_documents_are_as_alone(kind: str, padding: int) -> None:
    model, plain = pair(small_spec("A^3B", kind=kind))
    lengths = [5, 1, 6]
    input_ids = ids(plain.spec, 2, 12)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    mask = None
    if padding:
        input_ids = F.pad(input_ids, (0, padding))
        positions = F.pad(positions, (0, padding))
        mask = (torch.arange(12 + padding) < 12).long().expand(2, -1)
    packed = model(input_ids, position_ids=positions, attention_mask=mask).logits[:, :12]
    alone = [plain(part) for part in torch.split(input_ids[:, :12], lengths, dim=1)]
    assert torch.allclose(packed, torch.cat(alone, 1), atol=CLOSE)
    in_a_row = model(input_ids[:, :12]).logits  # the sabotage: no boundaries
    assert not torch.allclose(in_a_row, torch.cat(alone, 1), atol=1e-3)


def test_rows_packed_in_other_ways() -> None:
    model, plain = pair("A^3{adapter=scale}B")
    input_ids = ids(plain.spec, 2, 9)
    positions = torch.tensor([[*range(9)], [*range(4), *range(5)]])
    mask = torch.ones(2, 9, dtype=torch.long)
    for attention_mask in (None, mask):
        found = model(input_ids, position_ids=positions, attention_mask=attention_mask).logits
        assert torch.allclose(found[0], plain(input_ids[:1])[0], atol=CLOSE)
        assert torch.allclose(found[1, 4:], plain(input_ids[1:, 4:])[0], atol=CLOSE)


def test_documents_with_tokens_left_out() -> None:
    model, plain = pair("A^3B")
    input_ids = ids(plain.spec, 2, 9)
    counts = torch.tensor([[0, 1, 0, 1, 1, 0, 1, 0, 1], [1, 1, 0, 1, 1, 1, 0, 1, 1]])
    positions = torch.tensor([[0, 0, 0, 1, 2, 0, 0, 0, 1], [*range(9)]])
    found = model(input_ids, position_ids=positions, attention_mask=counts).logits
    for document in ([1, 3, 4], [6, 8]):
        assert torch.allclose(found[:1, document], plain(input_ids[:1, document]), atol=CLOSE)
    alone = model(input_ids[1:], position_ids=positions[1:], attention_mask=counts[1:]).logits
    assert torch.allclose(found[1:, counts[1] == 1], alone[:, counts[1] == 1], atol=CLOSE)


def test_gradient_checkpointing_as_the_trainer_asks_for_it() -> None:
    model, _ = pair("A^3B")
    assert not model.is_gradient_checkpointing
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert model.model.checkpointing == "visit"
    model.gradient_checkpointing_disable()
    assert model.model.checkpointing == "none"
    model.set_checkpointing("round")
    model.gradient_checkpointing_enable()
    assert model.model.checkpointing == "round"
    input_ids = ids(model.model.spec, 2, 9)
    output = model.train()(input_ids, labels=input_ids, use_cache=True)
    assert output.past_key_values is None
    output.loss.backward()
    assert model.eval()(input_ids).past_key_values is not None
    with pytest.raises(SpecError, match="bad-checkpointing"):
        model.set_checkpointing("layer")


@settings(max_examples=10)
@given(
    spec=specs(options=True, kinds=CAUSAL, max_visits=6).filter(causal),
    rounds=st.integers(1, 3),
    seq=st.integers(2, 11),
)
def test_flops_are_those_that_pytorch_counts(spec: ModelSpec, rounds: int, seq: int) -> None:
    """Forward and backward on the device meta, where no fused kernel hides its products."""
    if "grad=" in spec.text:
        return  # what comes before such a repeat may get no gradient at all
    model: Any = causal_lm(spec, device="meta").train()
    asked = rounds if any(model.model.graph.dials()) else None
    input_ids = torch.zeros(3, seq, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(input_ids, labels=input_ids, rounds=asked).loss.backward()
    inputs: dict[str, Any] = {"input_ids": input_ids, "rounds": asked}
    assert model.floating_point_ops(inputs) == counter.get_total_flops()


def test_flops_follow_the_rounds_and_the_cost_report() -> None:
    spec = small_spec("(A^3)B")
    model: Any = causal_lm(spec, rounds=2)
    input_ids = torch.zeros(4, 9, dtype=torch.long)
    for rounds in (1, 2, 5):
        expected = training_flops(spec, 9, batch=4, rounds=rounds)
        assert model.floating_point_ops({"input_ids": input_ids, "rounds": rounds}) == expected
    expected = training_flops(spec, 9, batch=4, rounds=2)
    assert model.floating_point_ops({"input_ids": input_ids}) == expected
    six_n = 6 * model.num_parameters() * input_ids.numel()
    assert expected != six_n


def test_a_fresh_model_starts_as_compiled_and_trains() -> None:
    torch.manual_seed(0)
    model: Any = causal_lm(small_spec("A^3B")).train()
    residual = model.model.A[0].down.weight
    assert residual.std() < 0.6 * model.model.A[0].up.weight.std()  # scaled by the additions
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    input_ids = ids(model.model.spec, 4, 13)
    losses = []
    for step in range(30):
        loss = model(input_ids, labels=input_ids, rounds=1 + step % 3).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1


def test_the_backbone_and_the_head_are_the_model() -> None:
    """What tools compute a loss from: the state of `base_model`, times the head's matrix."""
    for tied in (True, False):
        for text in ("P(A^3{adapter=linear})B", "A^2{init=noise, inject=concat}B"):
            model: Any = causal_lm(small_spec(text, tied_embedding=tied)).eval()  # type: ignore[no-untyped-call]
            given = {"input_ids": ids(model.model.spec, 2, 9), "rounds": 2}
            given["attention_mask"] = torch.ones(2, 9).long().index_fill_(1, torch.tensor([0]), 0)
            state = model.base_model(**given, use_cache=False).last_hidden_state
            logits = state @ model.get_output_embeddings().weight.T
            torch.testing.assert_close(logits, model(**given, use_cache=False).logits)
