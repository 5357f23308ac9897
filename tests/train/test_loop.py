"""The trainer: it learns, it measures what it says, and it stops cleanly."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rinsc.backends.torch import CompiledModule, to_torch
from rinsc.backends.torch.weights import load_weights
from rinsc.cost import training_flops
from rinsc.cost.memory import Precision
from rinsc.errors import CheckpointError, DataError, RinscError, SpecError
from rinsc.spec import ModelSpec, model_spec
from rinsc.syntax import parse
from rinsc.train.batches import TokenizedCorpus, TrainingBatches, cut_windows, evenly_spaced
from rinsc.train.config import TrainConfig
from rinsc.train.evaluate import bits_per_byte
from rinsc.train.loop import TrainResult, train
from rinsc.train.metrics import Metrics, read_metrics
from rinsc.train.optimizer import build_optimizer
from rinsc.train.run_folder import RunFolder, open_run_folder, write_inputs
from rinsc.train.schedule import learning_rate


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.first_step = -1
        self.metrics: list[Metrics] = []
        self.result: TrainResult | None = None

    def started(self, config: TrainConfig, step: int) -> None:
        self.first_step = step

    def stepped(self, metrics: Metrics) -> None:
        self.metrics.append(metrics)

    def finished(self, result: TrainResult) -> None:
        self.result = result


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return open_run_folder(tmp_path / "run")


def _plain_training(model: nn.Module, tokens: TokenizedCorpus, config: TrainConfig) -> list[float]:
    """The same training written out plainly, with an unfused optimizer; returns the losses."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        foreach=False,
        fused=False,
    )
    windows = cut_windows(tokens.train, config.sequence_length)
    batches = TrainingBatches(windows, config.batch_sequences, config.seed)
    losses = []
    for step in range(config.steps):
        ids = torch.from_numpy(batches.batch(step))
        logits = model(ids[:, :-1])
        chosen = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])
        loss = -chosen.mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_equals_a_plain_loop(
    model: CompiledModule,
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
) -> None:
    torch.manual_seed(5)
    plain = to_torch(spec)
    expected = _plain_training(plain, tokens, config)
    train(model, spec, tokens, config, folder)
    losses = [metrics.loss_nats for metrics in read_metrics(folder.metrics)]
    assert losses == pytest.approx(expected, rel=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, plain.get_parameter(name), rtol=1e-3, atol=1e-5)


def test_the_plain_loop_can_disagree(
    model: CompiledModule,
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
) -> None:
    torch.manual_seed(5)
    expected = _plain_training(to_torch(spec), tokens, config)
    other = dataclasses.replace(config, betas=(0.9, 0.999))
    train(model, spec, tokens, other, folder)
    losses = [metrics.loss_nats for metrics in read_metrics(folder.metrics)]
    assert losses != pytest.approx(expected, rel=1e-4)


def test_the_metrics_say_what_happened(
    model: CompiledModule,
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
) -> None:
    seen = Recorder()
    result = train(model, spec, tokens, config, folder, observer=seen)
    assert seen.first_step == 0
    assert seen.result == result
    metrics = read_metrics(folder.metrics)
    assert metrics == seen.metrics
    assert [m.step for m in metrics] == [1, 2, 3, 4, 5, 6, 7]
    assert [m.step for m in metrics if m.bits_per_byte is not None] == [3, 6, 7]
    step_flops = training_flops(spec, 23, batch=3)
    assert [m.training_flops for m in metrics] == [step * step_flops for step in range(1, 8)]
    assert [m.tokens for m in metrics] == [step * 69 for step in range(1, 8)]
    assert result.training_flops == 7 * step_flops
    windows = cut_windows(tokens.held_out, 23)
    assert result.bits_per_byte == bits_per_byte(model, windows, tokens.token_bytes)
    sample = evenly_spaced(windows, config.eval_windows)
    assert metrics[-1].bits_per_byte == bits_per_byte(model, sample, tokens.token_bytes)
    assert metrics[-1].bits_per_byte != result.bits_per_byte


def test_the_run_folder_holds_the_trained_weights_and_the_result(
    model: CompiledModule,
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
) -> None:
    result = train(model, spec, tokens, config, folder)
    assert json.loads(folder.result.read_text()) == dataclasses.asdict(result)
    assert json.loads(folder.data_record.read_text()) == tokens.record
    loaded = to_torch(model_spec(folder.model_spec))
    load_weights(loaded, folder.weights)
    ids = torch.arange(20)[None]
    assert torch.equal(loaded(ids), model(ids))


def test_training_learns(
    model: CompiledModule, spec: ModelSpec, tokens: TokenizedCorpus, folder: RunFolder
) -> None:
    windows = cut_windows(tokens.held_out, 29)
    before = bits_per_byte(model, windows, tokens.token_bytes)
    config = TrainConfig(steps=60, sequence_length=29, warmup_steps=5, learning_rate=1e-2)
    result = train(model, spec, tokens, config, folder)
    assert result.bits_per_byte < 0.75 * before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_rounds_are_trained_and_counted(
    model: CompiledModule,
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    precision: Precision,
) -> None:
    shallow = dataclasses.replace(config, rounds=1, precision=precision)
    result = train(model, spec, tokens, shallow, folder)
    assert result.training_flops == 7 * training_flops(spec, 23, batch=3, rounds=1)
    windows = cut_windows(tokens.held_out, 23)
    expected = bits_per_byte(model, windows, tokens.token_bytes, rounds=1, precision=precision)
    assert result.bits_per_byte == expected
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_blocks_are_compiled_only_when_asked(
    model: CompiledModule,
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr("rinsc.train.loop.compile_blocks", compiled.append)
    train(model, spec, tokens, config, folder)
    assert compiled == []
    again = open_run_folder(folder.path, overwrite=True)
    train(model, spec, tokens, dataclasses.replace(config, compile=True), again)
    assert compiled == [model]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_files(
    model: CompiledModule,
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
) -> None:
    class Spoiler(Recorder):
        def stepped(self, metrics: Metrics) -> None:
            if metrics.step == 5:
                with torch.no_grad():
                    model.get_parameter("final_norm.weight")[0] = torch.inf

    with pytest.raises(RinscError) as caught:
        train(model, spec, tokens, config, folder, observer=Spoiler())
    assert caught.value.code == "loss-not-finite"
    assert "step 6" in caught.value.message
    assert [m.step for m in read_metrics(folder.metrics)] == [1, 2, 3, 4, 5]
    assert folder.checkpoint.exists()
    assert not folder.result.exists()
    finite = [p.isfinite().all() for n, p in model.named_parameters() if n != "final_norm.weight"]
    assert all(finite)


def test_a_fresh_start_forgets_the_metrics_of_a_run_without_checkpoint(
    model: CompiledModule,
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
) -> None:
    folder.metrics.write_text('{"step": 1}\n{"st')
    train(model, spec, tokens, config, folder, resume=True)
    assert len(read_metrics(folder.metrics)) == 7


@pytest.mark.parametrize(
    ("what", "change"),
    [("model", {"signature": parse("AB")}), ("model", {"width": 56}), ("text", {}), ("text", None)],
    ids=["signature", "width", "tokenizer", "corpus"],
)
def test_a_run_without_checkpoint_is_not_resumed_as_another(
    model: CompiledModule,
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    what: str,
    change: dict[str, Any] | None,
) -> None:
    write_inputs(folder, spec, config, tokens.record)
    folder.metrics.write_text('{"step": 1}\n')
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    record = {**tokens.record, ("corpus" if change is None else "tokenizer"): "another"}
    text = tokens if what == "model" else dataclasses.replace(tokens, record=record)
    other = dataclasses.replace(spec, **(change or {}))
    with pytest.raises(CheckpointError) as caught:
        train(to_torch(other), other, text, config, folder, resume=True)
    assert [problem.code for problem in caught.value.problems] == ["foreign-checkpoint"]
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before


def test_what_does_not_fit_is_found_before_anything_is_written(
    model: CompiledModule,
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
) -> None:
    other = dataclasses.replace(spec, vocab_size=512)
    long = dataclasses.replace(config, sequence_length=30)
    with pytest.raises(SpecError) as caught:
        train(model, other, tokens, long, folder)
    codes = [problem.code for problem in caught.value.problems]
    assert codes == ["vocabulary-mismatch", "beyond-context"]
    short = dataclasses.replace(tokens, held_out=tokens.held_out[:10])
    with pytest.raises(DataError):
        train(model, spec, short, config, folder)
    flat = dataclasses.replace(spec, signature=parse("AB"))
    with pytest.raises(RinscError):
        train(model, flat, tokens, dataclasses.replace(config, rounds=2), folder)
    assert list(folder.path.iterdir()) == []


def test_norms_and_biases_do_not_decay() -> None:
    model = to_torch(
        model_spec(
            "AB",
            kind="gpt",
            layers=2,
            width=24,
            heads=2,
            kv_heads=2,
            mlp_width=31,
            vocab_size=300,
            context=8,
        )
    )
    decayed, others = build_optimizer(model, TrainConfig(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    chosen = {id(p) for p in others["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in chosen) == (name.endswith("bias") or "norm" in name), name
