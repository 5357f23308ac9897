"""What layers add to the loss, against loops that compute and add it by hand."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import rinsc
from rinsc import model_spec, to_torch
from rinsc.backends.torch import CompiledModule
from rinsc.errors import GraphError
from rinsc.layers import LayerKind, register_kind, trace_programs
from rinsc.layers.llama import KIND as LLAMA
from rinsc.layers.llama import embed, layer
from rinsc.ops import AuxiliaryLoss
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec
from rinsc.spec.kinds import in_this_program

EXPERTS = 3
BALANCE = 0.7
SIZES: dict[str, Any] = {
    "width": 16,
    "heads": 2,
    "mlp_width": 8,
    "vocab_size": 23,
    "context": 16,
    "layers": 2,
}


@pytest.fixture(autouse=True)
def kind() -> Iterator[None]:
    register_kind("router", example().KIND)
    yield
    del in_this_program["router"]


@cache
def example() -> Any:
    """The module of the example package."""
    path = Path(__file__).resolve().parents[1] / "examples" / "switch-router" / "switch_router.py"
    description = importlib.util.spec_from_file_location("switch_router", path)
    assert description is not None
    assert description.loader is not None
    module = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return module


def spec_of(signature: str, **more: Any) -> ModelSpec:
    settings = {"router": {"experts": EXPERTS, "balance": BALANCE}}
    return model_spec(signature, kind="router", settings=settings, **(SIZES | more))


def spread(model: Any) -> Any:
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape))
    return model


def ids(rows: int = 3, seq: int = 7) -> torch.Tensor:
    return torch.randint(0, 23, (rows, seq), generator=torch.Generator().manual_seed(2))


def balance_by_hand(model: Any) -> list[torch.Tensor]:
    """The loss of each visit of each layer, filled while the model runs: its router's input is
    caught by a hook, and equation 4 of the paper written out expert by expert."""
    losses: list[torch.Tensor] = []

    def after(module: Any, given: Any, logits: torch.Tensor) -> None:
        probabilities = torch.softmax(logits, -1).reshape(-1, EXPERTS)
        best = probabilities.argmax(-1)
        loss = torch.zeros(())
        for expert in range(EXPERTS):
            fraction = (best == expert).float().mean()
            loss = loss + fraction * probabilities[:, expert].mean()
        losses.append(BALANCE * EXPERTS * loss)

    for name, module in model.named_modules():
        if name.endswith("router"):
            module.register_forward_hook(after)
    return losses


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-6) for name in one)


def cross_entropy(model: Any, tokens: torch.Tensor) -> Any:
    logits = model(tokens)
    return F.cross_entropy(logits[:, :-1].reshape(-1, 23), tokens[:, 1:].reshape(-1))


@pytest.mark.parametrize("signature", ["(A^3)B", "A[2]{tie=attention}", "A^2{skip=0.0}B"])
def test_gradients_are_those_of_a_loop_that_adds_the_loss_itself(signature: str) -> None:
    ours = spread(to_torch(spec_of(signature))).train()
    by_hand = copy.deepcopy(ours)
    losses = balance_by_hand(by_hand)
    plain = cross_entropy(by_hand, ids())
    by_hand.auxiliary_loss()
    (plain + sum(losses)).backward()
    own = cross_entropy(ours, ids())
    auxiliary = ours.auxiliary_loss()
    (own + auxiliary).backward()
    torch.testing.assert_close(auxiliary, torch.stack(losses).sum())
    assert equal(gradients(ours), gradients(by_hand))
    alone = spread(to_torch(spec_of(signature))).train()
    cross_entropy(alone, ids()).backward()
    assert not equal(gradients(alone), gradients(by_hand))  # the loss is in them


def test_a_loss_that_is_forgotten_is_an_error() -> None:
    model = spread(to_torch(spec_of("A"))).train()
    cross_entropy(model, ids()).backward()
    with pytest.raises(RuntimeError, match=r"add module.auxiliary_loss\(\) to the loss"):
        model(ids())
    assert model.auxiliary_loss() > 0
    model(ids())


def test_nothing_is_kept_outside_of_training() -> None:
    model = spread(to_torch(spec_of("A")))
    expected = model.eval()(ids())
    assert model.auxiliary_loss() == 0.0
    with torch.no_grad():
        torch.testing.assert_close(model.train()(ids()), expected)
        model(ids())
    assert model.auxiliary_loss() == 0.0
    cross_entropy(model, ids())
    with torch.no_grad():
        model(ids())  # a second look in training takes nothing away
    assert model.auxiliary_loss() > 0
    cross_entropy(model, ids())
    model.eval()(ids())
    assert model.auxiliary_loss() == 0.0
    assert to_torch(model_spec("A", preset="tiny")).auxiliary_loss() == 0.0


def test_every_form_gives_the_logits_without_the_loss() -> None:
    rows = rinsc.verify(spec_of("(A^2)B"))
    assert all(row.passed for row in rows), [row for row in rows if not row.passed]


def test_no_exported_model_has_what_only_the_loss_needs() -> None:
    graph = rinsc.to_onnx(to_torch(spec_of("(A^2)B"))).ir.graph
    assert "TopK" in [node.op_type for node in graph]
    assert "ReduceMean" not in [node.op_type for node in graph]


def hosted(signature: str, **more: Any) -> Any:
    from rinsc.backends.hf import RinscForCausalLM, causal_lm

    model: RinscForCausalLM = causal_lm(spec_of(signature, **more))
    return spread(model).train()


@pytest.mark.parametrize("checkpointing", ["none", "visit", "round"])
def test_the_model_of_transformers_adds_it_to_its_loss(checkpointing: Any) -> None:
    model = hosted("(A^3)B")
    model.set_checkpointing(checkpointing)
    plain = spread(to_torch(spec_of("(A^3)B"))).train()
    loss = model(ids(), labels=ids()).loss
    loss.backward()
    expected = cross_entropy(plain, ids()) + plain.auxiliary_loss()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    own = {name.removeprefix("model."): grad for name, grad in gradients(model).items()}
    assert equal(own, gradients(plain))
    model(ids(), labels=ids())  # the next step runs


def test_a_step_of_several_parts_weighs_each_by_its_targets() -> None:
    """As the loss of the parts is divided by the targets of the step, so is what layers add."""
    model = hosted("A")
    labels = ids().clone()
    labels[0, 2:] = -100
    targets = (labels[:, 1:] != -100).sum()
    shares = [(labels[i : i + 1, 1:] != -100).sum() / targets for i in range(3)]
    total = 0.0
    for i in range(3):
        row = slice(i, i + 1)
        loss = model(ids()[row], labels=labels[row], num_items_in_batch=targets).loss
        loss.backward()
        total += float(loss.detach())
    plain = spread(to_torch(spec_of("A"))).train()
    expected = 0.0
    for i, share in enumerate(shares):
        row = slice(i, i + 1)
        logits = plain(ids()[row])[:, :-1].reshape(-1, 23)
        own = F.cross_entropy(logits, labels[row, 1:].reshape(-1), reduction="sum") / targets
        loss = own + share * plain.auxiliary_loss()
        loss.backward()
        expected += float(loss.detach())
    assert total == pytest.approx(expected, rel=1e-5)
    own_gradients = {n.removeprefix("model."): g for n, g in gradients(model).items()}
    assert equal(own_gradients, gradients(plain))


def test_the_trainer_of_transformers_trains_on_it(tmp_path: Any) -> None:
    """One step of two accumulated batches moves weights as a hand-written one does."""
    from transformers import Trainer, TrainingArguments

    model = hosted("A")
    by_hand = spread(to_torch(spec_of("A"))).train()
    rows = [{"input_ids": row, "labels": row} for row in ids(4)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        data_seed=1,
        disable_tqdm=True,
    )

    class InOrder(Trainer):
        def _get_train_sampler(self, *given: Any) -> Any:
            return torch.utils.data.SequentialSampler(rows)

    InOrder(model=model, args=arguments, train_dataset=rows).train()
    for part in (ids(4)[:2], ids(4)[2:]):
        loss = cross_entropy(by_hand, part) + by_hand.auxiliary_loss()
        (loss / 2).backward()
    for name, parameter in by_hand.named_parameters():
        moved = parameter.detach() - 0.1 * parameter.grad
        torch.testing.assert_close(
            model.get_parameter(f"model.{name}"), moved, rtol=1e-4, atol=1e-5
        )


def test_it_compiles() -> None:
    plain = spread(to_torch(spec_of("(A^2)B"))).train()
    compiled = copy.deepcopy(plain)
    run = torch.compile(compiled, backend="aot_eager")
    for _ in range(2):
        for model, forward in ((plain, plain), (compiled, run)):
            model.zero_grad()
            (cross_entropy(forward, ids()) + model.auxiliary_loss()).backward()
    assert equal(gradients(plain), gradients(compiled))


def test_rounds_without_gradients_add_none() -> None:
    model = spread(to_torch(spec_of("P R^3{inject=add, grad=1}"))).train()
    by_hand = copy.deepcopy(model)
    losses = balance_by_hand(by_hand)
    cross_entropy(by_hand, ids())
    by_hand.auxiliary_loss()
    cross_entropy(model, ids())
    loss = model.auxiliary_loss()
    torch.testing.assert_close(loss, torch.stack(losses).sum())
    loss.backward()
    assert len(losses) == 4
    assert model.R[0].router.weight.grad.abs().max() > 0


def test_a_loss_belongs_into_layers() -> None:
    def head(b: Builder, x: Value, spec: ModelSpec) -> Value:
        return LLAMA.head(b, b(AuxiliaryLoss(0.1), x, x), spec)

    register_kind("misplaced", LayerKind(embed, layer, head, LLAMA.sides))
    try:
        with pytest.raises(GraphError, match="adds to the loss outside of its layers"):
            trace_programs(model_spec("A", preset="tiny", kind="misplaced"))
    finally:
        del in_this_program["misplaced"]


def test_what_the_loss_is_made_of_may_look_ahead() -> None:
    """Means over tokens see later ones; the state does not depend on them."""
    model: CompiledModule = spread(to_torch(spec_of("A"))).eval()
    with torch.no_grad():
        whole, start = model(ids()), model(ids()[:, :4])
    torch.testing.assert_close(whole[:, :4], start)


def test_each_token_goes_through_the_expert_that_it_chose() -> None:
    model = spread(to_torch(spec_of("A[1]", layers=1))).eval()
    own = model.A[0]
    caught: list[torch.Tensor] = []
    own.mlp_norm.register_forward_hook(lambda module, given, h: caught.extend([*given, h]))
    with torch.no_grad():
        logits = model(ids())
        x, h = caught
        ups = own.up.weight.reshape(EXPERTS, 8, 16)
        downs = own.down.weight.reshape(16, EXPERTS, 8)
        for row in range(3):
            for token in range(7):
                state = h[row, token]
                gates = torch.softmax(own.router.weight @ state, 0)
                best = int(gates.argmax())
                expert = downs[:, best] @ torch.relu(ups[best] @ state)
                x[row, token] += gates[best] * expert
        torch.testing.assert_close(model.head(model.final_norm(x)), logits, rtol=1e-4, atol=1e-4)
