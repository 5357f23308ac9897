"""Classification of pictures: the same verbs, with the figures of its own objective."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rinsc
from rinsc.data.pictures import load_pictures
from rinsc.errors import DataError, SpecError, UsageError
from rinsc.objectives import objective
from rinsc.objectives.classify import Classified, as_patches, side_for
from rinsc.progress import SilentProgress
from rinsc.training.metrics import read_metrics
from rinsc.training.optimizer import build_optimizer
from rinsc.training.result import Trained
from rinsc.training.schedules import learning_rate
from tests.cli.command_line import run_cli
from tests.train.runs import TIMES

SIZES: dict[str, Any] = {"layers": 2, "width": 32, "heads": 2, "kv_heads": 2, "mlp_width": 64}
PORTS: dict[str, Any] = {"kind": "vit", "patch_width": 4, "context": 16, "vocab_size": 10}
SPEC = rinsc.model_spec("A^2B", **SIZES, **PORTS)
GROUPED = "(AB)^3{adapter=scale,inject=add}C"
SETTINGS = {
    **{"objective": "classify", "batch_sequences": 32, "learning_rate": 2e-2},
    **{"eval_every": 20, "checkpoint_every": 20, "log_every": 1, "warmup_steps": 20},
}


def train(output: Path, **more: Any) -> Trained:
    given = {"budget": "40steps", "settings": SETTINGS, "data": "digits", **more}
    return rinsc.train(SPEC, output=output, device="cpu", progress=SilentProgress(), **given)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    pytest.importorskip("sklearn")
    return train(tmp_path_factory.mktemp("digits") / "run", budget="300steps")


def test_digits_are_told_apart_after_seconds(run: Trained) -> None:
    assert run.result.accuracy > 0.5  # by chance it is 0.1
    figures = run.result.quality
    assert figures["low"] < figures["accuracy"] < figures["high"]
    facts = json.loads((run.path / "result.json").read_text())
    assert facts["accuracy"] == figures["accuracy"]
    assert "bits_per_byte" not in facts
    evaluated = [each for each in read_metrics(run.path / "metrics.jsonl") if each.quality]
    assert [each.step for each in evaluated] == list(range(20, 301, 20))
    assert {each.figure for each in evaluated} == {"accuracy"}


def test_a_loop_of_ten_lines_has_the_same_losses(tmp_path: Path) -> None:
    trained = train(tmp_path / "run", budget="6steps")
    config, data = trained.config, load_pictures("digits")
    patches = torch.from_numpy(as_patches(data.images[~data.is_held_out], 2))
    labels = torch.from_numpy(data.labels[~data.is_held_out])
    order = np.random.default_rng([0, 0]).permutation(len(labels))
    torch.manual_seed(0)
    module = rinsc.to_torch(SPEC)
    optimizer, losses = build_optimizer(module, module.graph, config), []
    for step in range(6):
        chosen = torch.from_numpy(order[32 * step : 32 * step + 32])
        loss = torch.nn.functional.cross_entropy(module(patches[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(module.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.step()
        losses.append(loss.item())
    logged = [each.loss_nats for each in read_metrics(trained.path / "metrics.jsonl")]
    np.testing.assert_allclose(logged, losses, rtol=1e-5)


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    short = {**SETTINGS, "checkpoint_every": 3}
    whole = train(tmp_path / "whole", budget="7steps", settings=short)
    broken = train(tmp_path / "broken", budget="7steps", settings=short)
    for name in ("model.safetensors", "result.json", "checksums.json"):
        (broken.path / name).unlink()
    again = train(broken.path, budget="7steps", settings=short)
    assert not again.was_finished
    assert train(broken.path, budget="7steps", settings=short).was_finished
    facts = {key: value for key, value in again.facts().items() if key not in (*TIMES, "run")}
    assert facts == {k: v for k, v in whole.facts().items() if k not in (*TIMES, "run")}
    one, other = (each.path / "model.safetensors" for each in (whole, again))
    assert one.read_bytes() == other.read_bytes()


def test_accuracy_by_rounds(run: Trained, tmp_path: Path) -> None:
    report = rinsc.evaluate(run.path, rounds=[1, 2, 3], device="cpu", output=tmp_path / "a.svg")
    by_rounds = [row.quality.figures["accuracy"] for row in report.rows]
    assert by_rounds[1] == run.result.accuracy
    data = load_pictures("digits")
    patches = torch.from_numpy(as_patches(data.images[data.is_held_out], 2))
    module = rinsc.to_torch(SPEC)
    rinsc.load_weights(module, run.path / "model.safetensors")
    with torch.no_grad():
        for count, accuracy in enumerate(by_rounds, 1):
            told = module(patches, rounds=count).argmax(-1).numpy()
            assert accuracy == pytest.approx((told == data.labels[data.is_held_out]).mean())
    assert "accuracy (higher is better)" in (tmp_path / "a.svg").read_text()
    shown = run_cli("eval", str(run.path), "--device", "cpu")
    assert "all 359 held-out pictures of digits" in shown.out
    with pytest.raises(UsageError, match="reads no text"):
        rinsc.evaluate(run.path, tasks=["next_line"], device="cpu")


def test_the_command_takes_its_size_from_the_data_and_exports(tmp_path: Path) -> None:
    folder, sizes = tmp_path / "run", [f"--{k.replace('_', '-')}={v}" for k, v in SIZES.items()]
    done = run_cli(
        *("train", "A^2B", *sizes, "--kind", "vit", "--objective", "classify", "--data", "digits"),
        *("--steps", "3", "--batch", "8", "--device", "cpu", "-o", str(folder)),
    )
    assert done.status == 0, done.err
    assert "accuracy" in done.out
    spec = rinsc.model_spec(folder / "model.toml")
    assert (spec.kind, spec.vocab_size, spec.context) == ("vit", 10, 16)
    model = tmp_path / "model.onnx"
    options = ("--to", "onnx", "--rounds", "dynamic", "-o", str(model))
    written = run_cli("compile", str(folder), *options)
    assert written.status == 0, written.err
    assert "text" not in written.err
    assert "token" not in written.err
    form = "--to", "onnx", "--precision", "int4", "-o", str(tmp_path / "int4") + "/"
    smaller = run_cli("compile", str(folder), *form)
    assert smaller.status == 0, smaller.err
    assert "note: no held-out text: this model reads none" in smaller.err
    assert smaller.err.count("note:") == 1
    source = run_cli("compile", str(folder), "--to", "torch", "-o", str(tmp_path / "model.py"))
    assert source.status == 0, source.err
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    patches = as_patches(load_pictures("digits").images[:5], 2)
    module = rinsc.to_torch(spec)
    rinsc.load_weights(module, folder / "model.safetensors")
    names = {each.name for each in session.get_inputs()}
    inputs = {"patches": patches, **{n: np.array(3, np.int64) for n in names - {"patches"}}}
    (logits,) = session.run(None, inputs)[:1]
    with torch.no_grad():
        expected = module(torch.from_numpy(patches), rounds=3).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_a_run_begins_with_the_weights_of_another(run: Trained, tmp_path: Path) -> None:
    deeper = rinsc.train(
        *("A^3B",),
        data="digits",
        output=tmp_path / "deeper",
        start_from=run.path,
        match="AB",
        budget="6steps",
        settings={**SETTINGS, "learning_rate": 1e-9},
        device="cpu",
        progress=SilentProgress(),
    )
    record = json.loads((deeper.path / "source.json").read_text())
    assert record["partly"] == {}
    assert record["fresh"] == record["left"] == []
    assert deeper.result.steps == 3  # of two thirds of the FLOPs a step of three visits pays
    at_three = rinsc.evaluate(run.path, rounds=3, device="cpu", progress=SilentProgress())
    assert deeper.result.accuracy == pytest.approx(at_three.rows[0].quality.figures["accuracy"])


def test_rounds_that_are_drawn(tmp_path: Path) -> None:
    drawn = rinsc.model_spec("A^3{skip=0.5}B", **SIZES, **PORTS)
    trained = rinsc.train(
        drawn,
        data="digits",
        output=tmp_path / "run",
        budget="8steps",
        settings=SETTINGS,
        device="cpu",
        progress=SilentProgress(),
    )
    metrics = read_metrics(trained.path / "metrics.jsonl")
    assert len({each.rounds["A"] for each in metrics if each.rounds}) > 1


def _kept_bytes(checkpointing: str) -> int:
    """Of the activations that a forward pass in training leaves for the backward pass."""
    spec = rinsc.model_spec("(AB)^3", **SIZES, **PORTS)
    model = objective("classify").module(spec, torch.device("cpu"))
    model.set_checkpointing(checkpointing)  # type: ignore[operator]
    own = {weight.data_ptr() for weight in model.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            sizes[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.rand(8, 16, 4), torch.zeros(8, dtype=torch.long))["loss"]
    return sum(sizes.values())


def test_activations_are_made_again_to_the_same_weights(tmp_path: Path) -> None:
    spec = rinsc.model_spec(GROUPED, **{**SIZES, "layers": 3}, **PORTS)
    weights = []
    for how in ("none", "visit", "round"):
        trained = rinsc.train(
            *(spec,),
            data="digits",
            output=tmp_path / how,
            budget="3steps",
            settings={**SETTINGS, "checkpointing": how},
            device="cpu",
            progress=SilentProgress(),
        )
        weights.append((trained.path / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] == weights[2]


def test_fewer_activations_are_kept() -> None:
    kept = {how: _kept_bytes(how) for how in ("none", "visit", "round")}
    assert kept["visit"] < 0.3 * kept["none"]
    assert kept["round"] < kept["visit"]


def test_a_baseline_of_pictures_has_a_verdict_in_accuracy(run: Trained, tmp_path: Path) -> None:
    baseline = rinsc.train(
        rinsc.model_spec("AB", **SIZES, **PORTS),
        data="digits",
        output=tmp_path / "baseline",
        budget="4steps",
        settings=SETTINGS,
        device="cpu",
        progress=SilentProgress(),
    )
    report = rinsc.evaluate(run.path, baseline=baseline.path, device="cpu", margin=0.01)
    assert report.verdict is not None
    assert report.baseline is not None
    difference = report.verdict.as_trained.difference
    assert difference.ours == run.result.accuracy
    assert difference.theirs == report.baseline.quality.figures["accuracy"]
    assert difference.blocks == 359
    assert difference.reading == "better"  # the baseline has hardly begun
    assert report.verdict.outcome == "undecided"
    assert "points of accuracy" in report.verdict.text
    fair = dataclasses.replace(report.verdict.one_round, ours=1, theirs=1, tolerance=0)
    assert dataclasses.replace(report.verdict, one_round=fair).outcome == "no regret"
    facts = report.facts()["verdict"]
    assert facts["noise"]["covered"] == ["pictures"]  # type: ignore[index]
    named = facts["comparisons"][1]  # type: ignore[index]
    assert named["accuracy"] - named["baseline_accuracy"] == pytest.approx(named["difference"])
    shown = run_cli("eval", str(run.path), "--baseline", str(baseline.path), "--device", "cpu")
    assert shown.status == 0, shown.err
    assert "difference in accuracy to AB, positive is better" in shown.out


def test_runs_of_two_objectives_are_not_compared(run: Trained, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The rain fell on the river. " * 400)
    other = rinsc.train(
        *("AB",),
        data=f"text:{text}",
        output=tmp_path / "text",
        budget="1steps",
        settings={"batch_sequences": 2, "sequence_length": 16},
        device="cpu",
        progress=SilentProgress(),
    )
    with pytest.raises(UsageError, match="learned classify, and its baseline next_token"):
        rinsc.evaluate(run.path, baseline=other.path, device="cpu")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"data": "cats"}, DataError, "no set of labelled pictures"),
        ({"spec": {"patch_width": 5}}, SpecError, "cannot be cut"),
        ({"spec": {"vocab_size": 7}}, SpecError, "10 classes"),
        ({"settings": {**SETTINGS, "sequence_length": 4}}, SpecError, "16 patches"),
        ({"spec": {"kind": "llama"}}, SpecError, "takes tokens"),
        ({"tokenizer": "tokenizer.json"}, UsageError, "reads no text"),
    ],
)
def test_what_does_not_fit_is_told_first(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    dimensions = {**SIZES, **PORTS, **change.get("spec", {})}
    if dimensions["kind"] == "llama":
        del dimensions["patch_width"]
    spec = rinsc.model_spec("A^2B", **dimensions)
    change = {key: value for key, value in change.items() if key != "spec"}
    given = {"data": "digits", "settings": SETTINGS, "budget": "2steps", **change}
    with pytest.raises(error, match=words):
        rinsc.train(spec, output=tmp_path / "run", device="cpu", progress=SilentProgress(), **given)
    assert not (tmp_path / "run").exists()


def test_pictures_of_a_file(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "p.npz", images=images, labels=np.arange(40) % 3)
    name = f"npz:{tmp_path / 'p.npz'}"
    found = objective("classify").dimensions(name)
    assert found == {"kind": "vit", "vocab_size": 3, "patch_width": 12, "context": 6}
    patches = as_patches(load_pictures(name).images, 2)
    for row in range(3):
        for column in range(2):
            own = images[7, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] / 255
            np.testing.assert_allclose(patches[7, 2 * row + column], own.ravel(), rtol=1e-6)
    for bad in ({"images": images}, {"images": images, "labels": np.arange(3)}):
        np.savez(tmp_path / "bad.npz", **bad)
        with pytest.raises(DataError):
            load_pictures(f"npz:{tmp_path / 'bad.npz'}")
    assert side_for(28, 28) == 4


def _idx(array: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    return gzip.compress(head + array.tobytes(), mtime=0)


def test_garments_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rinsc.data.pictures.FASHION", tmp_path)
    with pytest.raises(DataError, match="which is not installed") as caught:
        load_pictures("fashion")
    assert "apt-get install --no-install-recommends dataset-fashion-mnist" in str(caught.value)
    rng, images, labels = np.random.default_rng(0), [], []
    for part, count in (("train", 20), ("t10k", 6)):
        images.append(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        labels.append(rng.integers(0, 10, count, dtype=np.uint8))
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(_idx(images[-1]))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(_idx(labels[-1]))
    pictures = load_pictures("fashion")
    assert pictures.is_held_out.nonzero()[0].tolist() == [20, 21, 22, 23, 24, 25]
    np.testing.assert_allclose(pictures.images[..., 0], np.concatenate(images) / 255, rtol=1e-6)
    np.testing.assert_array_equal(pictures.labels, np.concatenate(labels))
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    for damage in (path.read_bytes()[:-9], b"words", _idx(labels[0])):
        path.write_bytes(damage)
        with pytest.raises(DataError):
            load_pictures("fashion")


def test_the_interval_holds_the_share_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1).binomial(50, 0.8, 4000)
    intervals = [Classified(0.0, int(right), 50).interval for right in draws]
    held = np.mean([low <= 0.8 <= high for low, high in intervals])
    assert 0.93 < held < 0.97
    assert Classified(0.0, 0, 9).interval[0] == 0
    assert Classified(0.0, 9, 9).interval[1] == 1
