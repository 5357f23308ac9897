"""The plain Trainer of transformers with our class, on real text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainingArguments, pipeline

from rinsc import draw_rounds
from rinsc.backends.hf import RoundsCallback, causal_lm
from rinsc.cost import training_flops
from rinsc.spec import ModelSpec
from tests.hf.texts import rows, tokenizer
from tests.onnx.models import small_spec

SEQ = 16
SPEC = small_spec("(A^3)B", vocab_size=300, context=32)


class CountingTrainer(Trainer):
    """The Trainer counts 6 FLOPs for each stored parameter and token; the model knows better."""

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        model: Any = self.model
        flops: int = model.floating_point_ops(inputs)
        return flops


class KeepGradients(TrainerCallback):
    """What the optimizer is about to step with."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        parameters = given["model"].named_parameters()
        self.gradients = {name: parameter.grad.clone() for name, parameter in parameters}


def fresh(spec: ModelSpec = SPEC) -> Any:
    torch.manual_seed(0)
    return causal_lm(spec)


def trainer_of(model: Any, folder: Path, data: Any, trainer: Any = Trainer, **given: Any) -> Any:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "learning_rate": 3e-3,
        "per_device_train_batch_size": 4,
        "max_grad_norm": 1e9,
        "logging_steps": 1,
    }
    callbacks = given.pop("callbacks", None)
    arguments = TrainingArguments(**(settings | given))
    return trainer(model=model, args=arguments, train_dataset=data, callbacks=callbacks)


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def unlike_rows() -> list[dict[str, torch.Tensor]]:
    """Rows with unlike numbers of targets, where the average of averages is wrong."""
    made = []
    for number, row in enumerate(rows(SEQ, 8)):
        labels = row["labels"].clone()
        labels[: 2 * number] = -100
        made.append({"input_ids": row["input_ids"], "labels": labels})
    return made


def test_smoothed_labels_are_those_of_the_next_token(tmp_path: Path) -> None:
    model = fresh().eval()
    inputs = torch.utils.data.default_collate(rows(SEQ, 4))
    trainer = trainer_of(model, tmp_path, rows(SEQ, 4), label_smoothing_factor=0.1)
    with torch.no_grad():
        found = trainer.compute_loss(model, dict(inputs))
        logits = model(inputs["input_ids"]).logits[:, :-1].flatten(0, 1)
    targets = inputs["labels"][:, 1:].flatten()
    expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_accumulation_is_the_whole_batch(tmp_path: Path, checkpointing: bool) -> None:
    found = []
    for batch, steps in ((8, 1), (2, 4)):
        keep = KeepGradients()
        trainer = trainer_of(
            fresh(),
            tmp_path,
            unlike_rows(),
            callbacks=[keep],
            max_steps=1,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            gradient_checkpointing=checkpointing and steps > 1,
        )
        trainer.train()
        found.append((losses(trainer)[0], keep.gradients))
    (whole_loss, whole), (parts_loss, parts) = found
    assert parts_loss == pytest.approx(whole_loss, rel=1e-3)  # logs are rounded
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=1e-4)


def test_sabotage_a_model_deaf_to_the_number_of_items_is_seen(tmp_path: Path) -> None:
    model = fresh()
    model.accepts_loss_kwargs = False
    keep, whole = KeepGradients(), KeepGradients()
    given = {"max_steps": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    trainer_of(model, tmp_path, unlike_rows(), callbacks=[keep], **given).train()
    given = {"max_steps": 1, "per_device_train_batch_size": 8}
    trainer_of(fresh(), tmp_path, unlike_rows(), callbacks=[whole], **given).train()
    name = "model.embedding.weight"
    assert not torch.allclose(keep.gradients[name], whole.gradients[name], atol=1e-6)


def test_flops_of_a_run_are_those_of_the_cost_report(tmp_path: Path) -> None:
    trainer = trainer_of(fresh(), tmp_path, rows(SEQ, 8), CountingTrainer, max_steps=3)
    trainer.train()
    assert trainer.state.total_flos == 3 * training_flops(SPEC, SEQ, batch=4)
    plain = trainer_of(fresh(), tmp_path, rows(SEQ, 8), max_steps=3)
    plain.train()
    assert plain.state.total_flos < trainer.state.total_flos / 1.5  # reuse is not seen


def test_a_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    spec = small_spec("P(A^3{adapter=scale}B)^2", vocab_size=300, context=32)
    data = rows(SEQ, 24)
    given: dict[str, Any] = {"max_steps": 6, "save_steps": 3, "save_strategy": "steps"}
    whole = trainer_of(fresh(spec), tmp_path, data, **given)
    whole.train()
    again = trainer_of(fresh(spec), tmp_path / "again", data, **given)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    ours = load_file(tmp_path / "checkpoint-6" / "model.safetensors")
    theirs = load_file(tmp_path / "again" / "checkpoint-6" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert losses(whole)[3:] == losses(again)[3:]
    halfway = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    assert not torch.equal(halfway["model.embedding.weight"], ours["model.embedding.weight"])


def test_training_lowers_the_loss_and_the_pipeline_writes_text(tmp_path: Path) -> None:
    model = fresh()
    trainer = trainer_of(model, tmp_path, rows(SEQ, 64), max_steps=40)
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0] - 0.5
    words = tokenizer()
    model.save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    writer: Any = pipeline("text-generation", model=str(tmp_path / "model"), device="cpu")
    prompts = ["The model", "A block is"]
    asked = {"max_new_tokens": 6, "do_sample": False, "rounds": 2}
    together = writer(prompts, batch_size=2, **asked)
    for prompt, (made,) in zip(prompts, together, strict=True):
        given = words(prompt, return_tensors="pt")["input_ids"]
        found = model.eval().generate(given, pad_token_id=1, **asked)
        assert made["generated_text"] == words.decode(found[0], skip_special_tokens=True)
        assert len(made["generated_text"]) > len(prompt)


def test_an_evaluation_has_a_loss(tmp_path: Path) -> None:
    model, data = fresh(), rows(SEQ, 8)
    trainer = trainer_of(model, tmp_path, data, per_device_eval_batch_size=8)
    found = trainer.evaluate(data)["eval_loss"]
    batch = torch.stack([row["input_ids"] for row in data])
    assert found == pytest.approx(model(batch, labels=batch).loss.item(), rel=1e-5)


DRAWN = small_spec("A^5{skip=0.5}B", vocab_size=300, context=32)


class CountVisits(TrainerCallback):
    """How often a block runs in each part of each step."""

    def __init__(self, model: Any, name: str = "A") -> None:
        self.visits = 0
        self.parts: list[int] = []
        self.steps: list[list[int]] = []
        # A checkpoint stops before the end of what it runs again.
        model.model.get_submodule(name).register_forward_pre_hook(self._count)

    def _count(self, *given: Any) -> None:
        self.visits += 1

    def taken(self) -> int:
        """The visits since the last call."""
        visits, self.visits = self.visits, 0
        return visits

    def on_substep_end(self, *given: Any, **named: Any) -> None:
        self.parts.append(self.taken())

    def on_step_end(self, *given: Any, **named: Any) -> None:
        self.steps.append([*self.parts, self.taken()])
        self.parts.clear()


def drawn_steps(folder: Path, *, callback: bool, steps: int = 6, **given: Any) -> Any:
    model = fresh(DRAWN)
    count = CountVisits(model)
    callbacks = [count, *[RoundsCallback()] * callback]
    trainer = trainer_of(
        model, folder, rows(SEQ, 24), CountingTrainer, callbacks=callbacks, max_steps=steps, **given
    )
    trainer.train()
    return trainer, count.steps


def test_the_trainer_draws_rounds(tmp_path: Path) -> None:
    trainer, steps = drawn_steps(tmp_path, callback=False)
    expected = [draw_rounds(DRAWN, 0, step)["A"] for step in range(6)]
    assert steps == [[rounds] for rounds in expected]
    assert len(set(expected)) > 2
    flops = [training_flops(DRAWN, SEQ, batch=4, rounds=rounds) for rounds in expected]
    assert trainer.state.total_flos == sum(flops)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_parts_of_a_batch_run_the_rounds_of_their_step(tmp_path: Path, checkpointing: bool) -> None:
    given: dict[str, Any] = {
        "gradient_accumulation_steps": 3,
        "seed": 5,
        "gradient_checkpointing": checkpointing,
    }
    _, steps = drawn_steps(tmp_path, callback=True, per_device_train_batch_size=1, **given)
    expected = [draw_rounds(DRAWN, 5, step)["A"] for step in range(6)]
    times = 2 if checkpointing else 1
    assert steps == [[times * rounds] * 3 for rounds in expected]
    assert len(set(expected)) > 2


def test_a_resumed_run_draws_as_an_unbroken_one(tmp_path: Path) -> None:
    given: dict[str, Any] = {"save_steps": 3, "save_strategy": "steps"}
    whole, steps = drawn_steps(tmp_path, callback=True, **given)
    model = fresh(DRAWN)
    count = CountVisits(model)
    again = trainer_of(
        model, tmp_path / "b", rows(SEQ, 24), callbacks=[count, RoundsCallback()], max_steps=6
    )
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert count.steps == steps[3:]
    assert steps == [[draw_rounds(DRAWN, 42, step)["A"]] for step in range(6)]  # Trainer's seed
    for one, other in zip(whole.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_generation_evaluation_and_what_the_config_fixes_draw_nothing() -> None:
    model = fresh(DRAWN).train()
    count = CountVisits(model)
    given = torch.arange(6)[None]
    for cache in (True, False):
        model.generate(given, max_new_tokens=3, do_sample=False, use_cache=cache)
        assert count.taken() == 3 * 5
    model.eval()(given)
    assert count.taken() == 5
    model.train().config.rounds = 2
    model(given, labels=given)
    assert count.taken() == 2
    model(given, rounds=4)
    assert count.taken() == 4
    assert model.draws.step == 0
