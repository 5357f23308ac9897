"""``rinsc compile``: a model as Python source, as ONNX, or as a folder for transformers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from rinsc.cli.model_options import NO_OPTIONS, ModelArgument, ModelOptions
from rinsc.cli.output import CommandProgress, print_json, print_line, print_note, print_table
from rinsc.cli.values import RoundsOption, Seed, parse_rounds
from rinsc.errors import Problem, UsageError, plural
from rinsc.scalars import exact
from rinsc.verbs.models import is_run

if TYPE_CHECKING:
    from rinsc.backends.onnx.form import OnnxForm, RoundsForm
    from rinsc.verbs.forms import Exported, HfForm, PlainForm, TorchForm
    from rinsc.verbs.reports import QualityReport


@Parameter(name="*", group=Group("ONNX"))
@dataclass(frozen=True)
class OnnxOptions:
    """As they are typed; `form` checks them against each other."""

    precision: str | None = None
    """fp32 (the default), fp16, bf16, fp8, int8-dynamic, int8 or int4; int4/128 with its
    block size."""

    block_size: int | None = None
    """Weights with a scale of their own in int8 and int4: 32 (the default) or 128."""

    keep: Annotated[tuple[str, ...], Parameter(show_default=False)] = ()
    """A block that stays more exact, as fp16:A; may be given again for another."""

    embedding: str | None = None
    """What the token embedding is stored as in few bits: int4, int8, fp16 or fp32; a tied head
    reads it too. int4, int8 and fp8 have it in their own if not given."""

    symmetric: bool = False
    """Leave out the zero points of int4: 2 % smaller, less exact; for runtimes without them."""

    calibrate: Path | None = None
    """A text, for int4: weights are rounded so that the model changes least on it. Of a run it is
    the training text if not given, else text that the model samples."""

    no_calibrate: bool = False
    """Round each weight of int4 by itself: faster, and far less exact."""

    portable: bool = False
    """Standard operators alone, for other runtimes than ONNX Runtime."""

    gated: bool = False
    """The rounds written out; the input depth says how many of them run."""

    exit: str | None = None
    """End the rounds of a dial early, as kl:5e-4 or state:0.01: once a further one changes less."""

    genai: bool = False
    """A model folder that onnxruntime-genai loads; it has a cache."""

    stop_id: Annotated[tuple[int, ...], Parameter(show_default=False)] = ()
    """A token id that ends a text, besides those of the tokenizer; may be given again."""

    report: Annotated[bool, Parameter(negative="--no-report")] = True
    """Print the loss on a run's held-out text, which takes some seconds."""

    held_out: Annotated[bool, Parameter(name="--held-out")] = False
    """Ship the first 64 KiB of the run's held-out text in the folder, for rinsc bench to read."""

    @property
    def changed(self) -> list[str]:
        """The options that are not as they are by default."""
        names = {"report": "--no-report"}
        typed = (f.name for f in fields(self) if getattr(self, f.name) != f.default)
        return [names.get(name, f"--{name.replace('_', '-')}") for name in typed]

    @property
    def settings(self) -> dict[str, Any]:
        """What `rinsc.export` takes beside the form."""
        if self.calibrate is not None and self.no_calibrate:
            message, hint = "--calibrate and --no-calibrate exclude each other", "leave one out"
            raise UsageError("usage", message, hint=hint)
        return {
            "calibrate": False if self.no_calibrate else self.calibrate,
            "genai": self.genai,
            "stop_ids": self.stop_id,
            "held_out": self.held_out,
            "report": self.report,
        }

    def form(self, rounds: RoundsForm, *, cache: bool) -> OnnxForm:
        """The form that is asked for; raises UsageError for options that exclude each other."""
        from rinsc.backends.onnx.form import OnnxForm
        from rinsc.backends.onnx.precision import parse_precision

        if rounds == "dynamic" and self.genai:
            message = "onnxruntime-genai cannot run the form of --rounds dynamic"
            hint = "with --gated --rounds 4 it runs up to 4 rounds; with --rounds 4, always 4"
            raise UsageError("usage", message, hint=hint)
        if rounds == "dynamic" and self.gated:
            message = "--gated needs a number of rounds, the most that are to be run"
            raise UsageError("usage", message, hint="write --gated --rounds 4")
        precision = parse_precision(
            "fp32" if self.precision is None else self.precision,
            block_size=self.block_size,
            keep=self.keep,
            embedding=self.embedding,
            symmetric=self.symmetric,
        )
        return OnnxForm(
            rounds,
            cache=cache,
            portable=self.portable,
            gated=self.gated,
            precision=precision,
            exit=self.exit,
        )

    def refuse(self, what: str, *, cache: bool = False, weights: Path | None = None) -> None:
        """Raises UsageError for options that mean nothing to another form."""
        problems = []
        if weights is not None:
            message = f"{what} holds no weights"
            hint = "leave --weights out; Model().load_state_dict takes them at run time"
            problems.append(Problem("usage", message, hint=hint))
        if cache:
            message = f"{what} continues sequences without --cache"
            problems.append(Problem("usage", message, hint="leave --cache out"))
        if self.changed:
            message = f"{what} takes no {', '.join(self.changed)}"
            hint = "write --to onnx, or leave that out"
            problems.append(Problem("usage", message, hint=hint))
        if problems:
            raise UsageError.of(*problems)


NO_ONNX_OPTIONS = OnnxOptions()


def compile_(
    model: ModelArgument,
    /,
    *,
    to: Literal["torch", "onnx", "hf", "llama"],
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
        For llama it is a folder of a class of transformers, such as Llama or Qwen3, without code: a
        layer that runs twice stands there twice.
        Two towers of SigLIP become a SiglipModel there, and three ONNX files for transformers.js.
    rounds
        Write so many rounds out, as 3, or A=2 for one repeat; dynamic makes them a run-time input.
        If not given: run-time in PyTorch, as the signature writes them in ONNX. For hf they are
        those that run where a pass asks for no others; of a SiglipModel those that are written out,
        and dynamic writes its code, too.
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
    from rinsc.verbs.forms import HfForm, PlainForm, TorchForm

    spec = options.any_spec(model)
    source = Path(model) if is_run(model) else spec
    written_out: RoundsForm = "dynamic" if rounds == ("dynamic",) else parse_rounds(rounds)
    plain = None if isinstance(written_out, str) else written_out

    def write(form: OnnxForm | TorchForm | HfForm | PlainForm, **settings: Any) -> Exported:
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
    elif to == "llama":
        onnx.refuse("a plain model of transformers", cache=cache)
        if written_out == "dynamic":
            message = "a plain model of transformers has its rounds written out"
            raise UsageError("usage", message, hint="write --rounds 2, or --to hf")
        done = write(PlainForm(plain))
    elif to == "hf":
        onnx.refuse("a model of transformers", cache=cache)
        done = write(HfForm(plain, dial=written_out == "dynamic"))
    else:
        done = write(onnx.form(written_out, cache=cache), **onnx.settings)
        if not json:
            print_note(done.words)
            if done.quality is not None:
                print_report(done.quality)
    if json:
        print_json(done.facts())


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
