"""`rinsc.scan`: what a pretrained model loses where a range of its layers runs again.

The plain pass is run once and its states are kept. With layers 2 and 3 of 5 run twice,

    state after 0 1 2 3   (kept)   ->   2 3   ->   4   ->   loss

so that nothing before the repeat is computed again.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from rinsc.backends.torch.device import evaluating
from rinsc.backends.torch.memory import allocation_errors
from rinsc.data.batches import cut_windows, evenly_spaced
from rinsc.errors import OutputError, SpecError, UsageError, setting
from rinsc.evaluation.reading_runs import run_tokens
from rinsc.evaluation.scan_report import LayerChange, RangeLoss, Scan, page
from rinsc.extras import require
from rinsc.layers import require_language_model, trace_programs
from rinsc.progress import Observer, Progress, ShownProgress
from rinsc.spec import ModelSpec
from rinsc.storage.files import read_json, write_atomically
from rinsc.training.devices import find_devices
from rinsc.training.finished import FinishedRun
from rinsc.training.opening import trained_run
from rinsc.variants.retrofit import require_plain, stack

SAVE_SECONDS = 10.0  # between two writes of what is known

Ranges = dict[tuple[int, int], list[float]]  # summed nats of each window, by first and last layer


def scan(
    model: str | os.PathLike[str] | FinishedRun,
    data: str | None = None,
    *,
    longest: int = 8,
    times: int = 2,
    tokens: int = 1024,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Scan:
    """Run every range of at most ``longest`` layers ``times`` times, and measure the loss of each.

    ``model`` is a model folder, as `rinsc.import_model` writes it, or a run whose blocks are each
    visited once. ``data`` is a corpus as in `rinsc.evaluate`, of whose held-out part about so many
    ``tokens`` are read. ``output`` is a page, .html, with the figures beside it as .json. What an
    interrupted scan has measured is there, and the same call goes on.

    Raises `RinscError` for a model that repeats already, and for settings that cannot be.
    """
    _check_settings(longest, times, tokens)
    require("torch", "safetensors", "numpy", "tokenizers")
    shown = ShownProgress() if progress is None else progress
    run = model if isinstance(model, FinishedRun) else trained_run(Path(os.fspath(model)))
    spec = run.graph.spec
    _require_scannable(spec)
    path = None if output is None else _checked_output(Path(output))
    text, windows = _windows(run, data, tokens, shown)
    settings = {
        "weights": run.weights_digest,
        "windows": sha256(windows.numpy().tobytes()).hexdigest(),
        "longest": min(longest, spec.layers),
        "times": times,
    }
    known = {} if path is None or overwrite else _known(path.with_suffix(".json"), settings)
    module = run.model(find_devices(device).device)
    with shown.task("running ranges of layers again") as observe, allocation_errors():
        save = _saver(path, settings)
        losses, changes = _measured(module, spec, windows, longest, times, known, observe, save)
        save(losses, True)
    base = sum(losses.pop(PLAIN)) / (count := windows[:, 1:].numel())
    result = Scan(
        run=str(run.path),
        signature=spec.text,
        text=text,
        tokens=count,
        times=times,
        base_loss=base,
        ranges=tuple(RangeLoss(*own, sum(nats) / count) for own, nats in sorted(losses.items())),
        layers=tuple(LayerChange(k, *values) for k, values in enumerate(changes)),
    )
    if path is not None:
        state = {"settings": settings, "nats": _plain({PLAIN: [base * count], **losses})}
        write_atomically(path, page(result))
        write_atomically(
            path.with_suffix(".json"), json.dumps({**result.facts(), "state": state}, indent=1)
        )
    return result


PLAIN = (-1, -1)  # the pass in which nothing runs again


def _check_settings(longest: int, times: int, tokens: int) -> None:
    for name, value, least in (("longest", longest, 1), ("times", times, 2), ("tokens", tokens, 2)):
        if type(value) is not int or value < least:
            message = f"{setting(name)} must be a whole number of at least {least}"
            raise UsageError("usage", message, hint=f"write {setting(f'{name}={least}')}")


def _require_scannable(spec: ModelSpec) -> None:
    require_language_model(spec)
    require_plain(spec)
    programs = trace_programs(spec)
    framed = sorted({*programs.enter, *programs.leave} & set(spec.block_kinds.values()))
    if framed:
        message = f"a block of kind '{framed[0]}' does something beside its layers"
        hint = "its layers cannot be run again one by one"
        raise SpecError("not-a-plain-stack", message, place=spec.text, hint=hint)


def _checked_output(path: Path) -> Path:
    if path.suffix.lower() != ".html":
        message = f"a scan is written as a page, not as '{path.name}'"
        raise UsageError("usage", message, hint=f"write {setting('output', '-o')} scan.html")
    return path


def _windows(
    run: FinishedRun, data: str | None, tokens: int, progress: Progress
) -> tuple[str, torch.Tensor]:
    """The text's name, and windows (count, seq + 1) of its held-out tokens, from all over."""
    corpus = run_tokens(run, data, progress)
    length = min(run.graph.spec.context, tokens)
    cut = cut_windows(corpus.held_out, length)
    chosen = evenly_spaced(cut, max(1, tokens // length))
    name = dict(corpus.record["corpus"])["name"]  # type: ignore[call-overload]
    return str(name), torch.from_numpy(chosen.astype("int64"))


def _known(path: Path, settings: Mapping[str, object]) -> Ranges:
    """What an earlier scan of the same has measured; raises OutputError for one of another."""
    if not path.exists():
        return {}
    try:
        state = read_json(path)["state"]
        nats = {
            (int(first), int(last)): [float(value) for value in values]
            for first, last, *values in state["nats"]
        }
        found = dict(state["settings"])
    except (OSError, ValueError, LookupError, TypeError):
        message, found, nats = "this is not the file of a scan", None, {}
    else:
        message = "another scan stands here: of another model, text or length"
    if found != dict(settings):
        hint = f"choose another name, or write over it with {setting('overwrite')}"
        raise OutputError("other-scan", message, place=str(path), hint=hint)
    return nats


def _plain(losses: Ranges) -> list[list[float]]:
    return [[*own, *nats] for own, nats in losses.items()]


def _saver(path: Path | None, settings: Mapping[str, object]) -> Callable[[Ranges, bool], None]:
    """Writes what is known, now and then, or at once."""
    last = time.monotonic()

    def save(losses: Ranges, at_once: bool) -> None:
        nonlocal last
        if path is None or not (at_once or time.monotonic() - last > SAVE_SECONDS):
            return
        state = {"settings": settings, "nats": _plain(losses)}
        write_atomically(path.with_suffix(".json"), json.dumps({"state": state}))
        last = time.monotonic()

    return save


class _Stack:
    """The layers of a model, to be run one by one; the model around them stays as it is."""

    def __init__(self, module: nn.Module, spec: ModelSpec) -> None:
        self._module = module
        blocks: Mapping[str, Any] = dict(module.named_children())
        self.layers: list[nn.Module] = [blocks[name][index] for name, index in stack(spec)]
        self._calls: list[tuple[Any, ...]] = []

    def states(self, ids: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The state before the first layer and after each (batch, seq, width), and the logits."""
        states: list[torch.Tensor] = []
        self._calls = []

        def before(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            if not states:
                states.append(inputs[0])
            self._calls.append(inputs[1:])

        def after(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            states.append(output)

        hooks = [layer.register_forward_pre_hook(before) for layer in self.layers]
        hooks += [layer.register_forward_hook(after) for layer in self.layers]
        try:
            logits: torch.Tensor = self._module(ids)
        finally:
            for hook in hooks:
                hook.remove()
        return states, logits

    def run(self, state: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """The state after the layers from ``first`` to ``last``."""
        for index in range(first, last + 1):
            state = self.layers[index](state, *self._calls[index])
        return state

    def logits(self, ids: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """The logits of a last state: what comes before it is not run."""
        with _passing(self.layers, state):
            logits: torch.Tensor = self._module(ids)
        return logits


@contextmanager
def _passing(layers: list[nn.Module], state: torch.Tensor) -> Iterator[None]:
    """In the body a layer passes its state on, and the last one gives ``state``."""
    for layer in layers:
        vars(layer)["forward"] = lambda x, *rest: x
    vars(layers[-1])["forward"] = lambda x, *rest: state
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def _measured(
    module: nn.Module,
    spec: ModelSpec,
    windows: torch.Tensor,
    longest: int,
    times: int,
    known: Ranges,
    observe: Observer,
    save: Callable[[Ranges, bool], None],
) -> tuple[Ranges, list[tuple[float, float]]]:
    """Summed nats of each window by range, and what each layer changes."""
    device = next(module.parameters()).device
    own = _Stack(module, spec)
    count = len(own.layers)
    ranges = [
        (first, last)
        for first in range(count)
        for last in range(first, count)
        if last - first < longest
    ]
    losses: Ranges = {PLAIN: [], **{key: list(known.get(key, ())) for key in ranges}}
    cosines = torch.zeros(2, count, dtype=torch.float64)
    with evaluating(module), torch.no_grad():
        for number, window in enumerate(windows):
            ids, targets = window[None, :-1].to(device), window[1:].to(device)
            states, logits = own.states(ids)
            losses[PLAIN].append(_nats(logits, targets))
            cosines += _cosines(states)
            for done, (first, last) in enumerate(ranges):
                if len(losses[first, last]) > number:
                    continue
                state = states[last + 1]
                for _ in range(times - 1):
                    state = own.run(state, first, last)
                state = own.run(state, last + 1, count - 1)
                losses[first, last].append(_nats(own.logits(ids, state), targets))
                save(losses, False)
                observe((number + (done + 1) / len(ranges)) / len(windows))
    means = (cosines / len(windows)).T.tolist()
    return losses, [(1 - cosine, angle) for cosine, angle in means]


def _nats(logits: torch.Tensor, targets: torch.Tensor) -> float:
    return float(nn.functional.cross_entropy(logits[0].float(), targets, reduction="sum"))


def _cosines(states: list[torch.Tensor]) -> torch.Tensor:
    """The mean cosine of the states around each layer, and the mean angle over pi: (2, layers)."""
    rows = []
    for before, after in pairwise(states):
        cosine = nn.functional.cosine_similarity(before.double(), after.double(), dim=-1)
        angle = cosine.clamp(-1, 1).arccos() / math.pi
        rows.append(torch.stack([cosine.mean(), angle.mean()]).cpu())
    return torch.stack(rows, dim=1)
