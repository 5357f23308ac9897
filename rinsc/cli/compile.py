"""``rinsc compile``: a model as Python source, as ONNX, or as a folder for transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from rinsc.backends.onnx.contract import Key
from rinsc.cli.diagnostics import CommandProgress
from rinsc.cli.model_options import NO_OPTIONS, ModelArgument, ModelOptions
from rinsc.cli.onnx_options import NO_ONNX_OPTIONS, OnnxOptions
from rinsc.cli.output import print_json, print_line, print_note, print_table
from rinsc.cli.values import RoundsOption, Seed, parse_rounds
from rinsc.errors import plural
from rinsc.graph import rounds_in_words
from rinsc.storage.files import parse_json
from rinsc.units import exact
from rinsc.verbs.models import is_run

if TYPE_CHECKING:
    from rinsc.backends.onnx import OnnxForm, RoundsForm
    from rinsc.verbs.forms import Exported, HfForm, TorchForm
    from rinsc.verbs.quality import QualityReport


def compile_(
    model: ModelArgument,
    /,
    *,
    to: Literal["torch", "onnx", "hf"],
    output: Annotated[str, Parameter(name=("--output", "-o"))],
    options: ModelOptions = NO_OPTIONS,
    rounds: RoundsOption = (),
    cache: bool = False,
    weights: Path | None = None,
    seed: Seed = 0,
    onnx: OnnxOptions = NO_ONNX_OPTIONS,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Write a model as PyTorch source, as ONNX, or as a folder for Hugging Face transformers.

    Of a run that is exported at another precision, or with several rounds to choose from, the loss
    on the run's held-out text is printed: what a precision costs, and what a round is worth.

    Parameters
    ----------
    to
        The form to write.
    output
        The file to write. In ONNX a name without a suffix, or with a slash at its end, is that of
        a model folder: model.onnx, its weights and the run's tokenizer.
        For hf it is a folder that loads with trust_remote_code=True where there is no rinsc.
    rounds
        Write so many rounds out, as 3, or A=2 for one repeat; dynamic makes them a run-time input.
        If not given: run-time in PyTorch, as the signature writes them in ONNX. For hf they are
        those that run where a pass asks for no others.
    cache
        The form that continues sequences: it is given past keys and values, and gives them back.
    weights
        A safetensors file for onnx or hf; if not given, a run's own, else fresh ones.
    seed
        Of fresh weights.
    overwrite
        Write over a model folder of another form, whose files are then removed.
    json
        Print what was written, and the loss, as JSON.
    """
    from rinsc.verbs.export import export
    from rinsc.verbs.forms import HfForm, TorchForm

    spec = options.any_spec(model)
    source = Path(model) if is_run(model) else spec
    written_out: RoundsForm = "dynamic" if rounds == ("dynamic",) else parse_rounds(rounds)
    plain = None if isinstance(written_out, str) else written_out

    def write(form: OnnxForm | TorchForm | HfForm, **settings: Any) -> Exported:
        return export(
            *(source, output, form),
            weights=weights,
            seed=seed,
            overwrite=overwrite,
            progress=CommandProgress(),
            **settings,
        )

    if to == "torch":
        onnx.refuse("PyTorch source", weights=weights)
        done = write(TorchForm(plain, cache))
    elif to == "hf":
        onnx.refuse("a model of transformers", cache=cache)
        done = write(HfForm(plain))
    else:
        done = write(onnx.form(written_out, cache=cache), **onnx.settings)
        if not json:
            print_note(_in_words(done))
            if done.quality is not None:
                print_report(done.quality)
    if json:
        print_json(_facts(done, to))


def _facts(done: Exported, to: str) -> dict[str, object]:
    facts: dict[str, object] = {
        "files": {str(path): size for path, size in done.files.items()},
        "signature": done.signature,
    }
    if to != "torch":
        facts["rounds"] = done.rounds
    if to == "onnx":
        facts |= {
            "form": done.metadata[Key.FORM],
            "cache": parse_json(done.metadata[Key.CACHE]),
            "operators": done.metadata[Key.OPERATORS],
            "precision": done.metadata[Key.PRECISION],
            "exit": done.metadata[Key.EXIT] or None,
            "quality": None if done.quality is None else done.quality.facts(),
        }
    return facts


def _in_words(done: Exported) -> str:
    """The model's form, operators and precision, and what it was run on, in one line."""
    counts: Mapping[str, int] = done.rounds if isinstance(done.rounds, Mapping) else {}
    written, metadata = rounds_in_words(counts), done.metadata
    count = f"{written} round{'s' * (written != '1')}"
    rounds = {
        "fixed": count,
        "dynamic": f"any rounds ({written} if not given)",
        "gated": f"up to {count}",
    }
    words = [
        rounds[metadata[Key.FORM]] if counts else "no repeat",
        "cache" if metadata[Key.CACHE] == "true" else "no cache",
        f"{metadata[Key.OPERATORS]} operators",
        metadata[Key.PRECISION],
    ]
    if metadata[Key.EXIT]:
        words.append(f"ends early at {metadata[Key.EXIT]}")
    if done.quality is not None:
        words.append(f"run by ONNX Runtime on {done.quality.provider}")
    return " · ".join(words)


def print_report(report: QualityReport) -> None:
    """The table on standard output, and what it was measured on."""
    quality = report.quality
    print_table(*report.table)
    windows, tokens = quality.windows.shape
    print_line()
    print_line(
        f"on a sample of held-out text: {plural(windows, 'window')} of "
        f"{plural(tokens - 1, 'token')}, "
        f"{plural(quality.byte_count, 'byte', exact(quality.byte_count))}"
    )
