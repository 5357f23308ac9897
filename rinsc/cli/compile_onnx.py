"""``rinsc compile --to onnx``: a model, checked, built, written, and measured."""

from __future__ import annotations

import json as json_text
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rinsc.backends.onnx.contract import Key
from rinsc.cli.diagnostics import note
from rinsc.cli.numbers import rounded_bytes
from rinsc.cli.onnx_options import OnnxForm, OnnxOptions
from rinsc.cli.output import print_json, print_note
from rinsc.cli.quality_report import Report, counts_in_words, measure, print_report
from rinsc.cli.runs import run_trained_rounds
from rinsc.cli.values import option_values
from rinsc.errors import OutputError, RinscError, UsageError
from rinsc.storage.files import check_writable, parse_json, read_regular_text
from rinsc.storage.folders import temporary_folder

if TYPE_CHECKING:
    from rinsc.backends.onnx import OnnxModel, RoundsForm
    from rinsc.backends.torch import CompiledModule
    from rinsc.data.tokenizer import TokenIds
    from rinsc.spec import ModelSpec
    from rinsc.training.run_folder import RunFolder

NO_TABLE = "there is no table of the loss"


@dataclass(frozen=True)
class Request:
    """A model and where it is to be written; ``run`` is the model's, where it was trained."""

    spec: ModelSpec
    output: str
    rounds: RoundsForm
    cache: bool
    run: RunFolder | None
    weights: Path | None
    seed: int
    json: bool

    @property
    def path(self) -> Path:
        return Path(self.output)

    @property
    def is_folder(self) -> bool:
        """Whether a model folder is meant: by its name, or because it is there."""
        slashes = tuple(filter(None, ("/", os.sep, os.altsep)))
        return self.output.endswith(slashes) or self.path.is_dir() or not self.path.suffix

    @property
    def tokenizer(self) -> Path | None:
        """The run's, where there is one."""
        if self.run is None or not self.run.tokenizer.is_file():
            return None
        return self.run.tokenizer


def compile_onnx(request: Request, options: OnnxOptions) -> None:
    """Write the model's file or folder, say what it is and, of a run, how good it is."""
    form = options.form(request.rounds, cache=request.cache)
    _check_place(request, genai=options.genai)
    if options.held_out and (request.run is None or not request.is_folder):
        message = "--held-out puts text of a run into a model folder"
        raise UsageError("usage", message, hint="compile a run's folder, with -o model/")

    outline = form.outline(request.spec)
    if request.is_folder:
        _check_folder(request, outline, options)
    del outline
    measured = options.report and _is_worth_measuring(request.spec, form)
    text = _held_out(request, form, measured=measured or options.held_out)
    calibrate = _calibration(request, form, options)
    module = _module(request)
    with option_values():
        model = form.export(module, calibrate=calibrate)
    if request.run is not None:
        trained = run_trained_rounds(request.run, module.graph)
        model.metadata[Key.TRAINED] = json_text.dumps(dict(trained))
        if request.is_folder and request.tokenizer is None:
            note(
                f"the run has no tokenizer.json; rinsc generate {request.output} needs --tokenizer"
            )
    files = _write(request, model, text if options.held_out else None, options)
    _say_written(request, files)
    if request.run is None and request.weights is None:
        note("no weights were given; the model has fresh, untrained ones")
    facts, report = dict(model.metadata), None
    if measured and text is not None and request.run is not None:
        with _failure_as_note(), temporary_folder() as place:
            twin = None
            if form.precision.name != "fp32":
                twin = place / "fp32.onnx"
                form.export(module, "fp32").save(twin, external_data_over=0)
            del module, model  # sessions load the weights anew
            report = measure(files[0], facts, twin, text, request.run)
    _print_result(request, files, facts, report)


def _check_place(request: Request, *, genai: bool) -> None:
    """Raises for a name that cannot be written to, or that nothing of this kind goes to."""
    if request.is_folder:
        _check_no_run(request.path)
    elif genai:
        message = f"--genai writes a folder, and '{request.output}' is the name of a file"
        raise UsageError("usage", message, hint="write -o model/")
    else:
        check_writable(request.path)
    if genai and request.tokenizer is None:
        message = "--genai needs a tokenizer, and there is none without a run"
        raise UsageError("usage", message, hint="compile the folder of a run")


def _check_no_run(path: Path) -> None:
    from rinsc.training.run_folder import RunFolder

    there = RunFolder(path)
    own = (there.model_spec, there.config, there.data_record, there.metrics, there.result)
    if any(file.exists() for file in own):  # other names are those of model folders, too
        message = "the folder holds a training run; a model folder is one of its own"
        hint = f"choose another folder, or write a file: -o {path / 'model.onnx'}"
        raise OutputError("run-exists", message, place=str(path), hint=hint)


def _check_folder(request: Request, outline: OnnxModel, options: OnnxOptions) -> None:
    """Raises where the folder, or a file in it, cannot be written."""
    from rinsc.backends.onnx.write.file import HELD_OUT_FILE, OTHER_FILES, check_model_folder
    from rinsc.text.tokenizer_files import TOKENIZER_FILE

    names = {TOKENIZER_FILE, HELD_OUT_FILE, *OTHER_FILES}
    if request.tokenizer is not None:
        names |= _tokenizer_files(request, request.tokenizer, options).keys()
    if options.genai:
        names |= _genai_files(request, outline, options).keys()
    check_model_folder(request.path, names)


def _is_worth_measuring(spec: ModelSpec, form: OnnxForm) -> bool:
    """Whether there is something to compare: a precision, or rounds."""
    from rinsc.graph import build_graph

    return form.precision.name != "fp32" or any(build_graph(spec).dials())


def _held_out(request: Request, form: OnnxForm, *, measured: bool) -> str | None:
    """Held-out text of the run; None, and a note where it is missed, where there is none."""
    if request.run is None or not request.run.model_spec.is_file():
        if measured and form.precision.name != "fp32":
            note(f"{NO_TABLE}: only a run has held-out text")
        return None
    if not measured:
        return None
    from rinsc.training.heldout import held_out_sample

    try:
        return held_out_sample(request.run)
    except RinscError as error:
        note(f"no held-out text: {error.message} ({error.hint})")
        return None


def _calibration(request: Request, form: OnnxForm, options: OnnxOptions) -> TokenIds | bool:
    """Windows of the text by which weights are rounded: the one that is named, or a run's own.

    True stands for random tokens, which are taken, with a note, where there is no text; False
    where the precision or the weights have no use for any. Raises UsageError or DataError for a
    text that is asked for and cannot be read.
    """
    if not form.precision.is_calibrated or options.no_calibrate:
        return False
    if options.calibrate is not None:
        return _windows_of(request, _encoded(request, options.calibrate))
    if request.run is None:
        if request.weights is not None:
            note(
                "int4 is rounded by random tokens; in Python, to_onnx(..., calibrate=ids) by yours"
            )
        return request.weights is not None
    from rinsc.data.tokenizer import load_tokenizer
    from rinsc.training.heldout import run_text

    try:
        tokens = run_text(request.run, load_tokenizer(request.run.tokenizer)).train
        return _windows_of(request, tokens)
    except RinscError as error:
        hint = f"name a text with --calibrate, or {error.hint}"
        note(f"int4 is rounded by random tokens: {error.message} ({hint})")
        return True


def _encoded(request: Request, path: Path) -> TokenIds:
    from rinsc.cli.bench_text import read_beginning
    from rinsc.data.tokenizer import check_vocabulary, load_tokenizer

    if request.tokenizer is None:
        message = "--calibrate needs a tokenizer, and there is none without a run"
        raise UsageError("usage", message, hint="compile a run, or use to_onnx in Python")
    text = read_beginning(path, missing="there is no such text", option="--calibrate")
    tokenizer = load_tokenizer(request.tokenizer)
    check_vocabulary(tokenizer, request.spec.vocab_size)
    return tokenizer.encode(text)


def _windows_of(request: Request, tokens: TokenIds) -> TokenIds:
    """Windows (windows, seq) from all over a text; raises DataError where it has not one token."""
    from rinsc.backends.torch.calibration import ENOUGH_TOKENS
    from rinsc.data.batches import cut_windows, evenly_spaced

    length = max(1, min(request.spec.context, len(tokens) - 1))
    return evenly_spaced(cut_windows(tokens, length), -(-ENOUGH_TOKENS // length))[:, :length]


def _module(request: Request) -> CompiledModule:
    """The module with the weights that are asked for, or fresh ones."""
    import torch

    from rinsc.backends.torch import load_weights, to_torch
    from rinsc.backends.torch.weights import open_weights

    weights = request.weights
    if weights is None and request.run is not None:
        weights = request.run.weights
    if weights is not None:
        with open_weights(weights):
            pass  # a file that cannot be read is told before the model is built
    torch.manual_seed(request.seed)
    module = to_torch(request.spec)
    if weights is not None:
        load_weights(module, weights)
    return module


def _write(
    request: Request, model: OnnxModel, text: str | None, options: OnnxOptions
) -> list[Path]:
    """Write what is asked for; the paths of all files, the model's first."""
    path = request.path
    if not request.is_folder:
        from rinsc.backends.onnx.integrity import data_files

        model.save(path)
        return [path, *sorted(data_files(path))]
    from rinsc.backends.onnx.write.file import HELD_OUT_FILE, write_model_folder
    from rinsc.text.tokenizer_files import TOKENIZER_FILE

    files: dict[str, bytes] = {}
    if request.tokenizer is not None:
        files |= _tokenizer_files(request, request.tokenizer, options)
    if text is not None:
        files[HELD_OUT_FILE] = text.encode("utf-8")
    if options.genai:
        files |= _genai_files(request, model, options)
    written = write_model_folder(model, path, files)
    for name in (TOKENIZER_FILE, HELD_OUT_FILE):
        if name not in files and (path / name).exists():
            note(f"{path / name} stood there before; it is not of this model")
    return written


def _tokenizer_files(request: Request, tokenizer: Path, options: OnnxOptions) -> dict[str, bytes]:
    """The tokenizer's files and, where it does not say so itself, the ids that end a text."""
    from rinsc.text.tokenizer_files import (
        GENERATION_FILE,
        generation_config,
        read_declared,
        read_tokenizer_files,
        special_tokens,
    )

    files = dict(read_tokenizer_files(tokenizer, request.spec.context))
    text, declared = read_regular_text(tokenizer), read_declared(tokenizer.parent)
    stops = _stop_ids(request, tokenizer, options)
    if stops != special_tokens(text, declared).stop_ids:
        config = generation_config(stops, request.spec.vocab_size, request.spec.vocab_size)
        files[GENERATION_FILE] = f"{json_text.dumps(config, indent=2)}\n".encode()
    return files


def _stop_ids(request: Request, tokenizer: Path, options: OnnxOptions) -> tuple[int, ...]:
    """The ids that are asked for, and those that the run and its tokenizer name."""
    from rinsc.generation import checked_request
    from rinsc.text.tokenizer_files import read_declared, special_tokens, stop_ids

    with option_values():
        asked = checked_request([0], 0, request.spec, options.stop_id).stop_ids
    text, declared = read_regular_text(tokenizer), read_declared(tokenizer.parent)
    ids = special_tokens(text, declared).stop_ids
    known = stop_ids(tokenizer.parent, ids, request.spec.vocab_size)
    return tuple(dict.fromkeys([*known, *sorted(asked)]))


def _genai_files(request: Request, model: OnnxModel, options: OnnxOptions) -> Mapping[str, bytes]:
    from rinsc.backends.onnx.write.genai import genai_files

    tokenizer = request.tokenizer
    stops = () if tokenizer is None else _stop_ids(request, tokenizer, options)
    with option_values():
        return genai_files(model, tokenizer, stop_ids=stops)


@contextmanager
def _failure_as_note() -> Iterator[None]:
    """The model is written: that it cannot be measured is no failure of the command."""
    try:
        yield
    except RinscError as error:
        note(f"{NO_TABLE}: {error.message} ({error.hint})")
    except OSError as error:
        note(f"{NO_TABLE}: {error.strerror or type(error).__name__}")


def _say_written(request: Request, files: Sequence[Path]) -> None:
    size = rounded_bytes(sum(path.stat().st_size for path in files))
    if request.is_folder:
        names = ", ".join(path.name for path in files)
        print_note(f"wrote {request.path}{os.sep} ({size}: {names})")
    else:
        print_note(f"wrote {' and '.join(map(str, files))} ({size})")


def _print_result(
    request: Request, files: Sequence[Path], metadata: Mapping[str, str], report: Report | None
) -> None:
    """What was written, in a line, and the table; or both as JSON."""
    if request.json:
        document = {
            "files": {str(path): path.stat().st_size for path in files},
            "signature": metadata[Key.SIGNATURE],
            "form": metadata[Key.FORM],
            "rounds": parse_json(metadata[Key.ROUNDS]),
            "cache": parse_json(metadata[Key.CACHE]),
            "operators": metadata[Key.OPERATORS],
            "precision": metadata[Key.PRECISION],
            "exit": metadata[Key.EXIT] or None,
            "quality": None if report is None else report.facts(),
        }
        print_json(document)
        return
    print_note(_in_words(metadata, report))
    if report is not None:
        print_report(report)


def _in_words(metadata: Mapping[str, str], report: Report | None) -> str:
    """The model's form, operators and precision, and what it was run on, in one line."""
    counts: Mapping[str, int] = parse_json(metadata[Key.ROUNDS])
    written = counts_in_words(counts)
    rounds = {
        "fixed": f"{written} round{'s' * (written != '1')}",
        "dynamic": f"any rounds ({written} if not given)",
        "gated": f"up to {written} round{'s' * (written != '1')}",
    }
    words = [
        rounds[metadata[Key.FORM]] if counts else "no repeat",
        "cache" if metadata[Key.CACHE] == "true" else "no cache",
        f"{metadata[Key.OPERATORS]} operators",
        metadata[Key.PRECISION],
    ]
    if metadata[Key.EXIT]:
        words.append(f"ends early at {metadata[Key.EXIT]}")
    if report is not None:
        words.append(f"run by ONNX Runtime on {report.provider}")
    return " · ".join(words)
