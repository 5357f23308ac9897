"""`rinsc scan`: the loss of each range that runs again, against a plain loop over the layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import rinsc
from rinsc.errors import RinscError
from rinsc.evaluation import scan as scanning
from rinsc.evaluation.scan import scan
from rinsc.evaluation.scan_report import Scan
from rinsc.progress import SilentProgress
from rinsc.training.opening import trained_run
from tests.cli.command_line import run_cli
from tests.train.finished_runs import DIMENSIONS, HOW, Runs, runs, write_excerpts

__all__ = ["runs"]
LAYERS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five layers in two blocks, and the text that it was trained on."""
    base = tmp_path_factory.mktemp("scan")
    text = write_excerpts(base)
    done = run_cli(
        *("train", "A[3]B[2]", *DIMENSIONS[2:], *HOW, "--data", f"text:{text}", "--steps", "40"),
        *("-o", str(base / "run"), "--vocab-size", "307"),
    )
    assert done.status == 0, done.err
    return base


def scanned(folder: Path, **more: Any) -> Scan:
    settings = {"data": f"text:{folder / 'text'}", "tokens": 90, "progress": SilentProgress()}
    return scan(folder / "run", **{**settings, **more})


def loop(folder: Path, order: list[int], windows: torch.Tensor) -> float:
    """Nats per token of the layers in this order."""
    model: Any = trained_run(folder / "run").model(torch.device("cpu")).eval()
    layers = [*model.A, *model.B]
    nats = []
    with torch.no_grad():
        for window in windows:
            x = model.embedding(window[None, :-1])
            cos, sin = model.cos[: len(window) - 1], model.sin[: len(window) - 1]
            for index in order:
                x = layers[index](x, cos, sin)
            logits = nn.functional.linear(model.final_norm(x), model.embedding.weight)[0]
            nats.append(nn.functional.cross_entropy(logits, window[1:], reduction="none"))
    return float(torch.cat(nats).mean())


def windows_of(folder: Path, tokens: int) -> torch.Tensor:
    run = trained_run(folder / "run")
    _, windows = scanning._windows(run, f"text:{folder / 'text'}", tokens, SilentProgress())
    return windows


@pytest.mark.parametrize("times", [2, 3])
def test_each_loss_is_that_of_a_plain_loop(folder: Path, times: int) -> None:
    result = scanned(folder, longest=3, times=times)
    windows = windows_of(folder, 90)
    assert len(windows) > 1
    assert result.base_loss == pytest.approx(loop(folder, list(range(LAYERS)), windows), abs=1e-5)
    spans = [(row.first, row.last) for row in result.ranges]
    assert spans == [(a, b) for a in range(LAYERS) for b in range(a, min(LAYERS, a + 3))]
    for row in result.ranges:
        again = list(range(row.first, row.last + 1)) * (times - 1)
        order = [*range(row.last + 1), *again, *range(row.last + 1, LAYERS)]
        assert row.loss == pytest.approx(loop(folder, order, windows), abs=1e-5), row
    assert len({round(row.loss, 6) for row in result.ranges}) > 5  # so that orders differ


def test_what_a_layer_changes(folder: Path) -> None:
    result = scanned(folder, longest=1)
    model: Any = trained_run(folder / "run").model(torch.device("cpu")).eval()
    states: list[Any] = []
    for layer in (*model.A, *model.B):
        layer.register_forward_hook(lambda m, x, y: states.append((x[0], y)))
    with torch.no_grad():
        for window in windows_of(folder, 90):
            model(window[None, :-1])
    for layer in result.layers:
        pairs = states[layer.layer :: LAYERS]
        before, after = (np.concatenate([p[k][0].double().numpy() for p in pairs]) for k in (0, 1))
        norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        cosines = (before * after).sum(1) / norms
        assert layer.influence == pytest.approx(1 - cosines.mean(), abs=1e-6)
        assert layer.angle == pytest.approx((np.arccos(cosines) / np.pi).mean(), abs=1e-6)


def test_nothing_before_a_repeat_is_run_again() -> None:
    """At most 0.6 of the work of full passes, for ranges up to 8 of 30 layers."""
    spec = rinsc.model_spec(
        "A", preset="tiny", layers=30, width=24, heads=4, kv_heads=2, vocab_size=999, context=64
    )
    module: Any = rinsc.to_torch(spec)
    window = torch.randint(999, (1, 65))
    with FlopCounterMode(display=False) as counter:
        losses, _ = scanning._measured(
            *(module, spec, window, 8, 2, {}), lambda *state: None, lambda *state: None
        )
    spent = counter.get_total_flops()
    whole = 0
    for first, last in losses.keys() - {scanning.PLAIN}:
        copy = rinsc.model_spec("A", **{**rinsc_values(spec), "layers": 31 + last - first})
        whole += rinsc.cost_report(copy, seq=64).forward_flops
    assert len(losses) == 213
    assert spent <= 0.6 * whole


def rinsc_values(spec: rinsc.ModelSpec) -> dict[str, Any]:
    keys = ("width", "heads", "kv_heads", "mlp_width", "vocab_size", "context", "kind")
    return {key: getattr(spec, key) for key in keys}


def test_an_interrupted_scan_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scanned(folder, output=tmp_path / "whole.html")
    monkeypatch.setattr(scanning, "SAVE_SECONDS", 0.0)
    passes = 0
    nats = scanning._nats

    def counted(*arguments: Any) -> float:
        nonlocal passes
        passes += 1
        if passes == 20:
            raise KeyboardInterrupt
        return nats(*arguments)

    monkeypatch.setattr(scanning, "_nats", counted)
    with pytest.raises(KeyboardInterrupt):
        scanned(folder, output=tmp_path / "scan.html")
    assert not (tmp_path / "scan.html").exists()
    assert scanned(folder, output=tmp_path / "scan.html") == whole
    ranges, windows = len(whole.ranges), len(windows_of(folder, 90))
    assert passes < 20 + ranges * windows  # what was known was not measured again
    before = passes
    assert scanned(folder, output=tmp_path / "scan.html") == whole
    assert passes - before == windows
    pages = [(tmp_path / name).read_text("utf-8") for name in ("whole.html", "scan.html")]
    assert pages[0] == pages[1]
    with pytest.raises(RinscError, match="other-scan"):
        scanned(folder, output=tmp_path / "scan.html", times=3)
    assert scanned(folder, output=tmp_path / "scan.html", times=3, overwrite=True).times == 3


def test_the_command_and_its_page(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "<b>run & co"
    shutil.copytree(folder / "run", run)
    arguments = ("scan", str(run), "--data", f"text:{folder / 'text'}", "--tokens", "90")
    done = run_cli(*arguments, "-o", str(tmp_path / "scan.html"))
    assert done.status == 0, done.err
    assert "0 to 4" in done.out
    page = (tmp_path / "scan.html").read_text("utf-8")
    assert "<b>run" not in page
    assert page.count("</td>") > 30
    facts = json.loads((tmp_path / "scan.json").read_text("utf-8"))
    assert json.loads(run_cli(*arguments, "--json").out)["ranges"] == facts["ranges"]


def test_mistakes_are_one_error(folder: Path, runs: Runs, tmp_path: Path) -> None:
    base = ("scan", str(folder / "run"), "--data", f"text:{folder / 'text'}")
    (tmp_path / "scan.json").write_text("[]")
    for arguments, message in (
        ((*base, "--times", "1"), "at least 2"),
        ((*base, "--longest", "0"), "at least 1"),
        ((*base, "-o", "scan.svg"), "write -o scan.html"),
        ((*base, "-o", str(tmp_path / "scan.html")), "not the file of a scan"),
        (("scan", str(runs.recursive)), "recursive already"),
        (("scan", str(tmp_path)), "not-a-run"),
    ):
        done = run_cli(*arguments)
        assert done.status != 0
        assert message in " ".join(done.err.split())
        assert "Traceback" not in done.err
