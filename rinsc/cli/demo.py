"""``rinsc demo``: the commands in a row, as you would give them, and what came of them."""

from __future__ import annotations

import json as json_module
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from rinsc.backends.onnx.contract import MODEL_FILE
from rinsc.cli.output import print_json, print_line, print_table, results_as_notes
from rinsc.errors import LoweringError, plural
from rinsc.extras import TO_TRAIN, require
from rinsc.scalars import exact
from rinsc.storage.files import make_folder, read_json, write_atomically

QUICK_TOKENS = 1 << 16
ROUNDS = (1, 2, 3, 4)
TEXT = (
    *("--prompt", "HAMLET\nTo be, or not to be", "--max-new-tokens", "60"),
    *("--temperature", "0.8", "--top-k", "50", "--seed", "0"),
)


def demo(
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o", "--out"))] = Path("runs/demo"),
    quick: bool = False,
    json: bool = False,
) -> None:
    """Train (A^3)B and AB at equal FLOPs, export to ONNX and compare.

    Parameters
    ----------
    output
        The run folder; everything that the demo writes stands there.
    quick
        A few steps only, to see the path and no result.
    json
        Print the result as JSON; the story goes to standard error.
    """
    require(*TO_TRAIN, "onnx", "onnx_ir", "onnxruntime", "matplotlib")
    settings = DemoSettings()
    if quick:
        settings = replace(settings, baseline_tokens=QUICK_TOKENS)
    with results_as_notes() if json else nullcontext():
        summary = run_demo(output, settings)
    if json:
        print_json(summary)


@dataclass(frozen=True)
class DemoSettings:
    """What the demo trains: both variants at these dimensions and at equal training FLOPs.

    Recursion pays, if it does, in models that are small for the tokens that they see. So these are
    as small as lets the baseline see 62 tokens for each parameter within minutes.
    """

    variant: str = "(A^3)B"
    baseline: str = "AB"
    data: str = "plays"
    layers: int = 2
    width: int = 48
    heads: int = 2
    mlp_width: int = 128
    vocab_size: int = 512
    context: int = 128
    batch: int = 16
    baseline_tokens: int = 5_000_000

    @property
    def dimensions(self) -> list[str]:
        """As options of a command."""
        keys = ("layers", "width", "heads", "mlp_width", "vocab_size", "context")
        options = [(f"--{key.replace('_', '-')}", str(getattr(self, key))) for key in keys]
        return [token for option in options for token in option]

    @property
    def training(self) -> list[str]:
        """What both are trained with, the learning rate by default, which is tuned for neither."""
        steps = self.baseline_tokens // (self.batch * self.context)
        return [
            *("--data", self.data, "--budget", f"{self.baseline_tokens}tokens"),
            *("--batch", str(self.batch), "--device", "cpu"),
            *("--eval-every", str(max(1, steps // 15)), "--overwrite"),
        ]


def run_demo(folder: Path, settings: DemoSettings) -> dict[str, Any]:
    """Costs, training at equal FLOPs, ONNX with a depth dial, quality against rounds, text.

    What came out, in figures.
    """
    make_folder(folder)
    _write(folder / "settings.json", asdict(settings))
    model, plain = settings.variant, settings.baseline
    sides = folder / "baseline", folder / "variant"
    baseline, variant, onnx = str(sides[0]), str(sides[1]), str(folder / MODEL_FILE)
    _heading(f"1. {model} and its baseline {plain}")
    dimensions = settings.dimensions
    _run("show", model, *dimensions, "-o", str(folder / "variant.svg"))
    tokens = ("--tokens", str(settings.baseline_tokens), "--batch", str(settings.batch))
    _run("cost", model, *dimensions, "--baseline", plain, *tokens)
    _heading(f"2. Training both at equal FLOPs on {settings.data}")
    with _one_thread():
        _run("train", plain, *dimensions, *settings.training, "-o", baseline)
        _run("train", model, *dimensions, *settings.training, "--match", plain, "-o", variant)
    _draw_curves(sides, folder)
    _heading("3. One ONNX file, rounds as an input")
    _run("compile", variant, "--to", "onnx", "--rounds", "dynamic", "-o", onnx)
    _compare_runtimes(sides[1], folder / MODEL_FILE)
    _heading("4. Quality against rounds, one checkpoint")
    rounds = (f"{ROUNDS[0]}..{ROUNDS[-1]}", "--baseline", baseline, "--device", "cpu")
    _run("eval", variant, "--rounds", *rounds, "-o", str(folder / "rounds.png"))
    _heading("5. Text from both runtimes")
    _run("generate", variant, *TEXT)
    _run("generate", onnx, *TEXT, "--tokenizer", str(sides[1] / "tokenizer.json"))
    _heading("6. Result")
    return _result({plain: sides[0], model: sides[1]}, folder)


def _heading(text: str) -> None:
    print_line()
    print_line(text, style="bold cyan")


def _run(*tokens: str) -> None:
    """Show a command and do what it does; raises its errors."""
    from rinsc.cli import app

    print_line()
    print_line(f"$ rinsc {shlex.join(tokens)}", style="bold")
    print_line()
    command, bound, _ = app().parse_args(tokens)
    command(*bound.args, **bound.kwargs)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Operations so small gain little from a second core, and are far slower where it is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write(path: Path, values: dict[str, Any]) -> None:
    write_atomically(path, json_module.dumps(values, indent=2) + "\n")


def _draw_curves(runs: tuple[Path, Path], folder: Path) -> None:
    from rinsc.plots import curve, draw_training
    from rinsc.spec import model_spec
    from rinsc.training.metrics import read_metrics

    curves = [
        curve(model_spec(run / "model.toml").text, read_metrics(run / "metrics.jsonl"))
        for run in runs
    ]
    draw_training(curves, folder / "curves")
    print_line()
    print_line(f"loss curves, on a sample of the held-out text: {folder / 'curves.png'}")


def _compare_runtimes(path: Path, model: Path) -> None:
    """Hold the file to the logits of the PyTorch module at each number of rounds."""
    import torch

    from rinsc.backends.onnx import Session
    from rinsc.training.opening import finished_run
    from rinsc.verification import LOGIT_LIMIT, dial_gaps, random_input

    run = finished_run(path)
    ids = random_input(run.graph.spec, 2, run.sequence_length).numpy()
    gaps = dial_gaps(run.model(torch.device("cpu")), Session(model), ids, ROUNDS)
    for rounds, gap in gaps.items():
        if not gap <= LOGIT_LIMIT:
            message = f"ONNX Runtime and PyTorch differ by {gap:.1e} at {plural(rounds, 'round')}"
            hint = "compare the forms of the model: rinsc verify"
            raise LoweringError("runtimes-differ", message, place=str(model), hint=hint)
    print_line()
    print_table(
        ("rounds", "ONNX Runtime against PyTorch: largest difference of logits", "limit"),
        [(str(rounds), f"{gap:.1e}", f"{LOGIT_LIMIT:.0e}") for rounds, gap in gaps.items()],
    )


def _result(runs: dict[str, Path], folder: Path) -> dict[str, Any]:
    results = {name: read_json(run / "result.json") for name, run in runs.items()}
    bits = {name: result["bits_per_byte"] for name, result in results.items()}
    flops = {name: result["training_flops"] for name, result in results.items()}
    best, last = sorted(bits, key=lambda name: bits[name])
    print_line()
    print_table(
        (
            *("variant", "bits per byte", "training FLOPs", "tokens", "a parameter", "epochs"),
            *("seconds", ""),
        ),
        [
            (
                *(name, f"{bits[name]:.4f}", f"{flops[name]:.4e}", exact(result["tokens"])),
                f"{result['tokens'] / result['parameters']:.0f}",
                *(f"{result['epochs']:.2f}", f"{result['seconds']:.0f}"),
                "won" if name == best else "",
            )
            for name, result in results.items()
        ],
    )
    print_line()
    print_line(
        f"{best} won by {bits[last] - bits[best]:.4f} bits per byte on held-out text at "
        f"{flops[best]:.2e} training FLOPs: one seed, minutes of training."
    )
    rows = read_json(folder / "rounds.json")["rows"]
    by_rounds = {str(max(row["rounds"].values())): row["bits_per_byte"] for row in rows}
    summary = {
        "winner": best,
        "bits_per_byte": bits,
        "training_flops": flops,
        "bits_per_byte_by_rounds": by_rounds,
    }
    _write(folder / "summary.json", summary)
    print_line(f"Everything is in {folder}: configuration, weights, model.onnx, curves, text.")
    return {**summary, "folder": str(folder)}
