"""`rinsc train RETROFIT --heal SOURCE`, against the same loss and the same step by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

import rinsc
from rinsc.backends.hf import causal_lm
from rinsc.errors import RinscError
from rinsc.objectives import Request, objective
from rinsc.progress import SilentProgress
from rinsc.training.config import TrainConfig
from rinsc.training.healing import follow, freeze_all_but_repeats
from rinsc.training.opening import finished_run
from rinsc.verbs.retrofit import retrofit
from tests.cli.command_line import run_cli
from tests.train.finished_runs import DIMENSIONS, HOW, write_excerpts

WEIGHT = 0.7
LAYERS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four layers, its retrofit, and the text."""
    base = tmp_path_factory.mktemp("healing")
    text = write_excerpts(base)
    done = run_cli(
        *("train", f"A[{LAYERS}]", *DIMENSIONS[2:], *HOW, "--data", f"text:{text}"),
        *("-o", str(base / "base"), "--vocab-size", "307", "--steps", "60"),
    )
    assert done.status == 0, done.err
    word = "P A^2{adapter=lora(2)} C"
    ranges = {"P": (0, 0), "A": (1, 2), "C": (3, 3)}
    retrofit(base / "base", base / "looped", word, layers=ranges, progress=SilentProgress())
    return base


def heal(folder: Path, output: Path, *more: str, steps: int = 30) -> Any:
    return run_cli(
        *("train", str(folder / "looped"), "--heal", str(folder / "base"), *HOW),
        *("--data", f"text:{folder / 'text'}", "-o", str(output), "--steps", str(steps), *more),
    )


def test_the_loss_is_cross_entropy_and_the_divergence_from_the_source() -> None:
    torch.manual_seed(0)
    spec = rinsc.model_spec("A^2B", preset="tiny", layers=2, vocab_size=40)
    model: Any = causal_lm(spec)
    teacher: Any = causal_lm(spec).requires_grad_(requires_grad=True)
    teacher.eval()
    ids, targets = torch.randint(40, (3, 9)), torch.randint(40, (3, 9))
    targets[1, 4:] = -100
    count = torch.tensor(17.0)  # of all ranks and parts
    batch = {"input_ids": ids, "labels": targets, "shift_labels": targets}
    follow(model, teacher, WEIGHT)
    loss = model.train()(**batch, num_items_in_batch=count)["loss"]
    loss.backward()
    ours, theirs = model.eval()(ids).logits, teacher(ids).logits.detach()
    kept = targets != -100
    nats = cross_entropy(ours[kept], targets[kept], reduction="sum")
    apart = (theirs.softmax(-1) * (log_softmax(theirs, -1) - log_softmax(ours, -1))).sum(-1)
    by_hand = (nats + WEIGHT * apart[kept].sum()) / count
    torch.testing.assert_close(loss, by_hand, atol=1e-5, rtol=1e-5)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    by_hand.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    plain = model.eval()(**batch, num_items_in_batch=count)["loss"]
    torch.testing.assert_close(plain, nats / count, atol=1e-5, rtol=1e-5)


def test_a_healed_run_reports_every_round(folder: Path, tmp_path: Path) -> None:
    done = heal(folder, tmp_path / "healed", "--rounds-schedule", "1@0,2@40%")
    assert done.status == 0, done.err
    report = json.loads((tmp_path / "healed" / "healing.json").read_text())
    config = TrainConfig(sequence_length=23)
    data: Any = objective("next_token")
    runs = [finished_run(folder / "base"), finished_run(tmp_path / "healed")]
    request = Request(
        f"text:{folder / 'text'}", runs[0].graph.spec, folder / "base" / "tokenizer.json"
    )
    corpus = data.open(request, data.prepare(request))
    windows = torch.from_numpy(data.held_out(corpus, config).spread(16).windows.astype("int64"))
    source, healed = (run.model(torch.device("cpu")).eval() for run in runs)
    assert [row["rounds"] for row in report["rows"]] == [{"A": 1}, {"A": 2}]
    with torch.no_grad():
        theirs = source(windows[:, :-1]).flatten(0, 1)
        targets = windows[:, 1:].flatten()
        assert report["source_loss"] == pytest.approx(
            float(cross_entropy(theirs, targets)), abs=1e-4
        )
        for row in report["rows"]:
            ours = healed(windows[:, :-1], rounds=row["rounds"]["A"]).flatten(0, 1)
            loss = float(cross_entropy(ours, targets))
            apart = kl_div(log_softmax(ours, -1), theirs.softmax(-1), reduction="sum") / len(
                targets
            )
            assert row["loss_after"] == pytest.approx(loss, abs=1e-4)
            assert row["kl_after"] == pytest.approx(float(apart), abs=1e-4)
    assert report["rows"][0]["loss_before"] == pytest.approx(report["source_loss"], abs=1e-5)
    assert report["rows"][0]["kl_before"] == pytest.approx(0, abs=1e-6)
    assert report["rows"][1]["loss_after"] < report["rows"][1]["loss_before"]
    assert "at 2 rounds the model is better than before" in done.err


def test_following_the_source_keeps_it_nearer(folder: Path, tmp_path: Path) -> None:
    for weight in ("0", "10"):
        assert heal(folder, tmp_path / weight, "--heal-weight", weight).status == 0
    reports = [json.loads((tmp_path / w / "healing.json").read_text()) for w in ("0", "10")]
    free, held = (report["rows"][0]["kl_after"] for report in reports)
    assert held < free


def test_the_control_is_the_source_on_the_same_tokens(folder: Path, tmp_path: Path) -> None:
    assert heal(folder, tmp_path / "healed").status == 0
    more = ("--control", "--rounds-schedule", "1@0,2@40%")
    assert heal(folder, tmp_path / "control", *more).status == 0
    plain = run_cli(
        *("train", f"A[{LAYERS}]", "--from", str(folder / "base"), *HOW),
        *("--data", f"text:{folder / 'text'}", "-o", str(tmp_path / "plain"), "--steps", "30"),
    )
    assert plain.status == 0, plain.err
    weights = [
        finished_run(tmp_path / name).model(torch.device("cpu")).state_dict()
        for name in ("control", "plain")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not (tmp_path / "control" / "healing.json").exists()
    judged = run_cli(
        "eval",
        str(tmp_path / "healed"),
        "--rounds",
        "1..2",
        "--baseline",
        str(tmp_path / "control"),
    )
    assert judged.status == 0, judged.err
    assert "those since the weights that both began with" in judged.out


def test_only_what_repeats_own_learns(folder: Path, tmp_path: Path) -> None:
    done = heal(folder, tmp_path / "healed", "--learns", "repeats")
    assert done.status == 0, done.err
    before = rinsc.to_torch(finished_run(tmp_path / "healed").graph.spec)
    rinsc.load_weights(before, folder / "looped" / "model.safetensors")
    after = finished_run(tmp_path / "healed").model(torch.device("cpu"))
    changed = {
        name
        for name, tensor in after.state_dict().items()
        if not torch.equal(tensor, before.state_dict()[name])
    }
    assert changed
    assert all("adapter" in name for name in changed)
    with pytest.raises(RinscError, match="nothing-learns"):
        freeze_all_but_repeats(rinsc.to_torch(rinsc.model_spec("A^2B", preset="tiny")))


def test_an_interrupted_healing_ends_with_the_same_bits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--checkpoint-every", "7")
    assert heal(folder, tmp_path / "whole", *more).status == 0
    step = nn.utils.clip_grad_norm_
    calls = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 19:
            raise KeyboardInterrupt
        return step(*arguments, **named)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", counted)
    assert heal(folder, tmp_path / "cut", *more).status != 0
    assert heal(folder, tmp_path / "cut", *more).status == 0
    one, other = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", "cut"))
    assert one == other
    reports = [(tmp_path / n / "healing.json").read_text() for n in ("whole", "cut")]
    assert reports[0] == reports[1]
    (tmp_path / "cut" / "healing.json").unlink()  # as of a run that was killed before its report
    assert heal(folder, tmp_path / "cut", *more).status == 0
    assert (tmp_path / "cut" / "healing.json").read_text() == reports[0]


def test_mistakes_are_one_error(folder: Path, tmp_path: Path) -> None:
    other = run_cli(
        *("train", "AB", *DIMENSIONS, *HOW, "--data", f"text:{folder / 'text'}"),
        *("-o", str(tmp_path / "other"), "--vocab-size", "299", "--steps", "2"),
    )
    assert other.status == 0, other.err
    text = ("--data", f"text:{folder / 'text'}", "-o", str(tmp_path / "run"), "--steps", "2")
    looped, base = str(folder / "looped"), str(folder / "base")
    for arguments, message in (
        (("train", looped, "--heal", str(tmp_path / "other")), "307 tokens, and the one"),
        (("train", looped, "--heal", str(tmp_path / "none")), "not the folder of a training run"),
        (("train", "A^2B", "--heal", base, "--vocab-size", "307"), "a model with the weights"),
        (("train", looped, "--control"), "about --heal"),
        (("train", looped, "--heal", base, "--heal-weight", "-1"), "at least 0"),
    ):
        done = run_cli(*arguments, *text, *HOW)
        assert done.status != 0
        assert message in " ".join(done.err.split()), done.err
        assert "Traceback" not in done.err
        assert not (tmp_path / "run").exists()
