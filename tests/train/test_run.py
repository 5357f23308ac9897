"""A training run: it learns, it measures what it says, and it stops cleanly."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from torch import nn

import rinsc
from rinsc.backends.hf import RinscForCausalLM
from rinsc.backends.torch import to_torch
from rinsc.backends.torch.weight_files import load_weights
from rinsc.cost import training_flops
from rinsc.data.batches import TokenizedCorpus
from rinsc.errors import CheckpointError, DataError, RinscError, SpecError
from rinsc.fingerprints import fingerprint
from rinsc.formats import TrainingPrecision
from rinsc.objectives.next_token import HeldOut, bits_per_byte, held_out_windows
from rinsc.spec import ModelSpec, model_spec
from rinsc.syntax import parse
from rinsc.training import run
from rinsc.training.checkpoint import checkpoints, is_whole
from rinsc.training.config import TrainConfig
from rinsc.training.devices import matrix_peak_flops
from rinsc.training.metrics import Metrics, read_metrics
from rinsc.training.run import train_module
from rinsc.training.run_folder import RunFolder, open_run_folder, read_pieces, write_inputs
from tests.train.plain import plain_training
from tests.train.runs import Recorder, differing, fresh, fresh_module, losses

CPU = torch.device("cpu")
DRAWN = "(A^5{skip=0.5, adapter=scale})B^2{sample=uniform(1, 3), inject=gate, init=noise}"


@pytest.mark.parametrize("text", ["(A^3)B", DRAWN], ids=["written", "drawn"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_is_a_plain_loop_to_the_last_bit(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    text: str,
    precision: TrainingPrecision,
) -> None:
    spec = dataclasses.replace(spec, signature=parse(text))
    config = dataclasses.replace(config, precision=precision)
    plain, model = fresh_module(spec), fresh(spec)
    expected = plain_training(plain, tokens, config)
    train_module(model, spec, tokens, config, folder)
    assert differing(model, plain) == []
    assert losses(folder) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_parts_of_a_batch_come_to_the_whole(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    precision: TrainingPrecision,
) -> None:
    config = dataclasses.replace(config, accumulate=3, precision=precision)
    plain, whole, model = fresh_module(spec), fresh_module(spec), fresh(spec)
    expected = plain_training(plain, tokens, config)
    plain_training(whole, tokens, dataclasses.replace(config, accumulate=1))
    result = train_module(model, spec, tokens, config, folder)
    assert losses(folder) == pytest.approx(expected, rel=1e-5)
    assert result.training_flops == 7 * training_flops(spec, 23, batch=3)
    limit = 1e-4 if precision == "fp32" else 3e-3  # beside a learning rate of 3e-3
    for name, weight in plain.named_parameters():
        found = model.model.get_parameter(name)
        torch.testing.assert_close(found, weight, rtol=0, atol=1e-5)
        torch.testing.assert_close(found, whole.get_parameter(name), rtol=0, atol=limit)


@pytest.mark.parametrize(
    "change",
    [{"betas": (0.9, 0.999)}, {"clip": 0.5}, {"weight_decay": 0.2}, {"seed": 1}],
    ids=lambda change: next(iter(change)),
)
def test_the_plain_loop_can_disagree(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    change: dict[str, Any],
) -> None:
    plain, model = fresh_module(spec), fresh(spec)
    plain_training(plain, tokens, config)
    train_module(model, spec, tokens, dataclasses.replace(config, **change), folder)
    assert len(differing(model, plain)) > 10


def test_the_metrics_say_what_happened(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    model, seen = fresh(spec), Recorder()
    result = train_module(model, spec, tokens, config, folder, observer=seen)
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
    assert result.epochs == 7 * 3 / ((len(tokens.train) - 1) // 23)
    held_out = held_out_windows(tokens, 23)
    assert result.bits_per_byte == bits_per_byte(model, held_out)
    assert metrics[-1].bits_per_byte == bits_per_byte(model, held_out.spread(config.eval_windows))
    assert metrics[-1].bits_per_byte != result.bits_per_byte
    assert result.loss_nats == metrics[-1].loss_nats


def test_the_floating_point_operations_are_those_of_the_trainer(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    drawn = dataclasses.replace(spec, signature=parse(DRAWN))
    for parts in (1, 3):
        settings = dataclasses.replace(config, accumulate=parts)
        run = open_run_folder(folder.path / str(parts))
        train_module(fresh(drawn), drawn, tokens, settings, run)
        metrics = read_metrics(run.metrics)
        for checkpoint in checkpoints(run.path):
            state = json.loads(checkpoint.trainer_state.read_text())
            exact = metrics[checkpoint.step - 1].training_flops
            assert abs(state["total_flos"] - exact) < parts * checkpoint.step


def test_speed_and_utilization_belong_together(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    train_module(fresh(spec), spec, tokens, config, folder)
    flops_per_token = training_flops(spec, 23, batch=3) / 69
    peak = matrix_peak_flops(CPU, "fp32")
    assert 1e8 < peak < 1e14
    for metrics in read_metrics(folder.metrics):
        assert metrics.seconds > 0
        assert 0 < metrics.tokens_per_second < math.inf
        assert metrics.model_flops_utilization == pytest.approx(
            metrics.tokens_per_second * flops_per_token / peak
        )
        assert metrics.tokens_per_second == pytest.approx(metrics.tokens / metrics.seconds)


def test_the_run_folder_holds_the_trained_weights_and_the_result(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    model = fresh(spec)
    result = train_module(model, spec, tokens, config, folder)
    facts = json.loads(folder.result.read_text())
    assert facts.items() >= dataclasses.asdict(result).items()
    params = sum(parameter.numel() for parameter in to_torch(spec).parameters())
    assert (facts["signature"], facts["seed"], facts["parameters"]) == ("(A^3)B", 0, params)
    assert facts["fingerprint"] == fingerprint(spec)
    assert facts["rinsc"] == rinsc.__version__
    assert facts["rounds"] == {"A": 3}
    assert (facts["steps"], facts["tokens"]) == (config.steps, config.steps * 3 * 23)
    assert facts["training_flops"] == config.steps * training_flops(spec, 23, batch=3)
    windows = (len(tokens.held_out) - 1) // 23
    assert (facts["held_out"], facts["held_out_windows"]) == ("whole", windows)
    assert facts["held_out_bytes"] == tokens.held_out_bytes[1 : windows * 23 + 1].sum()
    pieces = read_pieces(folder)
    assert pieces is not None
    assert len(pieces.totals) == windows
    assert int(pieces.sizes.sum()) == facts["held_out_bytes"]
    assert pieces.figure == pytest.approx(result.bits_per_byte, rel=1e-6)
    third = HeldOut(*(each[2:3] for each in vars(held_out_windows(tokens, 23)).values()))
    alone = bits_per_byte(model, third)
    assert pieces.totals[2] / pieces.sizes[2] == pytest.approx(alone, rel=1e-5)
    assert json.loads(folder.data_record.read_text()) == tokens.record
    loaded = to_torch(model_spec(folder.model_spec))
    load_weights(loaded, folder.weights)
    assert differing(loaded, model) == []
    again = RinscForCausalLM.from_pretrained(folder.path)
    assert differing(again, model) == []


def test_of_long_held_out_text_windows_from_all_over_are_read_at_the_end(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "FINAL_TOKENS", 3 * config.sequence_length + 1)
    model = fresh(spec)
    result = train_module(model, spec, tokens, config, folder)
    held_out = held_out_windows(tokens, config.sequence_length)
    assert len(held_out.windows) > 3
    assert result.bits_per_byte == bits_per_byte(model, held_out.spread(3))
    assert result.bits_per_byte != bits_per_byte(model, held_out)


def test_training_learns(spec: ModelSpec, tokens: TokenizedCorpus, folder: RunFolder) -> None:
    before = bits_per_byte(fresh_module(spec), held_out_windows(tokens, 29))
    config = TrainConfig(steps=60, sequence_length=29, warmup_steps=5, learning_rate=1e-2)
    result = train_module(fresh(spec), spec, tokens, config, folder)
    assert result.bits_per_byte < 0.75 * before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_rounds_are_trained_and_counted(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    precision: TrainingPrecision,
) -> None:
    model = fresh(spec)
    shallow = dataclasses.replace(config, rounds=1, precision=precision)
    result = train_module(model, spec, tokens, shallow, folder)
    assert result.training_flops == 7 * training_flops(spec, 23, batch=3, rounds=1)
    held_out = held_out_windows(tokens, 23)
    expected = bits_per_byte(model, held_out, rounds=1, precision=precision)
    assert result.bits_per_byte == expected
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_blocks_are_compiled_only_when_asked(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr("rinsc.training.run.compile_blocks", compiled.append)
    model, short = fresh(spec), dataclasses.replace(config, steps=1)
    train_module(model, spec, tokens, short, folder)
    assert compiled == []
    again = open_run_folder(folder.path, overwrite=True)
    train_module(model, spec, tokens, dataclasses.replace(short, compile=True), again)
    assert compiled == [model.model]


class Spoiler(Recorder):
    """Makes a weight infinite after a step."""

    def __init__(self, model: RinscForCausalLM, step: int) -> None:
        super().__init__()
        self._model, self._step = model, step

    def stepped(self, metrics: Metrics) -> None:
        if metrics.step == self._step:
            with torch.no_grad():
                self._model.get_parameter("model.final_norm.weight")[0] = torch.inf


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    model = fresh(spec)
    often = dataclasses.replace(config, checkpoint_every=4)
    with pytest.raises(RinscError) as caught:
        train_module(model, spec, tokens, often, folder, observer=Spoiler(model, 5))
    assert caught.value.code == "loss-not-finite"
    assert "step 6" in caught.value.message
    assert "step 4" in str(caught.value.hint)
    assert [m.step for m in read_metrics(folder.metrics)] == [1, 2, 3, 4, 5]
    (kept,) = checkpoints(folder.path)
    assert kept.step == 4
    assert is_whole(kept)
    assert not folder.result.exists()
    finite = [
        p.isfinite().all()
        for n, p in model.named_parameters()
        if not n.endswith("final_norm.weight")
    ]
    assert all(finite)
    expected = fresh(spec)
    train_module(expected, spec, tokens, often, open_run_folder(folder.path.with_name("whole")))
    resumed = fresh(spec)
    train_module(resumed, spec, tokens, often, folder, resume=True)
    assert differing(resumed, expected) == []


def test_a_learning_rate_beyond_reason_stops_the_run(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    wild = dataclasses.replace(config, learning_rate=1e30, warmup_steps=0, weight_decay=1e9)
    with pytest.raises(RinscError) as caught:
        train_module(fresh(spec), spec, tokens, wild, folder)
    assert caught.value.code == "loss-not-finite"
    assert "step 2" in caught.value.message
    assert "no checkpoint had been written yet" in str(caught.value.hint)
    assert checkpoints(folder.path) == []
    assert not folder.result.exists()


def test_a_fresh_start_forgets_the_metrics_of_a_run_without_checkpoint(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    folder.metrics.write_text('{"step": 1}\n{"st')
    train_module(fresh(spec), spec, tokens, config, folder, resume=True)
    assert len(read_metrics(folder.metrics)) == 7


@pytest.mark.parametrize(
    ("what", "change", "says"),
    [
        ("model", {"signature": parse("AB")}, "visited in another way"),
        ("model", {"signature": parse("A^3")}, "block A has 2 layers"),
        ("model", {"signature": parse("A^3"), "layers": 1}, "block B is gone"),
        ("model", {"width": 56}, "width is 56, not 28"),
        ("tokenizer", {}, ""),
        ("text", None, ""),
    ],
    ids=["schedule", "sizes", "blocks", "width", "tokenizer", "corpus"],
)
def test_a_run_does_not_go_on_as_another(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    what: str,
    change: dict[str, Any] | None,
    says: str,
) -> None:
    write_inputs(folder, spec, config, tokens.record)
    folder.metrics.write_text('{"step": 1}\n')
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    record = {**tokens.record, ("corpus" if change is None else "tokenizer"): "another"}
    text = tokens if what == "model" else dataclasses.replace(tokens, record=record)
    other = dataclasses.replace(spec, **(change or {}))
    with pytest.raises(CheckpointError) as caught:
        train_module(fresh(other), other, text, config, folder, resume=True)
    (problem,) = caught.value.problems
    assert problem.code == "foreign-checkpoint"
    assert says in problem.message
    assert problem.hint
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before


def test_a_run_does_not_go_on_with_other_settings(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    write_inputs(folder, spec, config, tokens.record)
    other = dataclasses.replace(config, optimizer="muon", accumulate=3)
    with pytest.raises(CheckpointError) as caught:
        train_module(fresh(spec), spec, tokens, other, folder, resume=True)
    assert {problem.code for problem in caught.value.problems} == {"other-settings"}
    assert [problem.message.split("'")[1] for problem in caught.value.problems] == [
        "accumulate",
        "optimizer",
    ]


@pytest.mark.parametrize(
    ("spec_change", "config_change", "error", "code"),
    [
        ({"vocab_size": 306}, {}, SpecError, "vocabulary-mismatch"),
        ({}, {"sequence_length": 30}, SpecError, "beyond-context"),
        ({"signature": parse("AB")}, {"rounds": 2}, RinscError, "unknown-repeat"),
        (
            {"signature": parse("AB")},
            {"rounds_schedule": ((0.0, 1), (0.5, 2))},
            RinscError,
            "unknown-repeat",
        ),
        ({"kind": "vit"}, {}, SpecError, "not-a-language-model"),
    ],
    ids=["vocabulary", "context", "rounds", "schedule", "kind"],
)
def test_what_does_not_fit_is_found_before_anything_is_written(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    spec_change: dict[str, Any],
    config_change: dict[str, Any],
    error: type[RinscError],
    code: str,
) -> None:
    other = dataclasses.replace(spec, **spec_change)
    settings = dataclasses.replace(config, **config_change)
    with pytest.raises(error) as caught:
        train_module(fresh(spec), other, tokens, settings, folder)
    assert caught.value.code == code
    assert caught.value.hint
    assert list(folder.path.iterdir()) == []


def test_too_little_text_is_found_before_anything_is_written(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    for part in ("train", "held_out"):
        short = dataclasses.replace(tokens, **{part: getattr(tokens, part)[:23]})
        with pytest.raises(DataError) as caught:
            train_module(fresh(spec), spec, short, config, folder)
        assert caught.value.code == "too-little-text"
    assert list(folder.path.iterdir()) == []
