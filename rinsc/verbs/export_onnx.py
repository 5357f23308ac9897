"""The ONNX form of `rinsc.export`: a model, checked, built, written, and measured."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rinsc.backends.onnx.contract import MODEL_FILE, Key
from rinsc.backends.onnx.form import OnnxForm
from rinsc.backends.onnx.precision import Precision
from rinsc.errors import OutputError, RinscError, SpecError, UsageError, option_values, setting
from rinsc.extras import require
from rinsc.progress import Progress
from rinsc.scalars import rounded_bytes
from rinsc.storage.files import check_writable, parse_json
from rinsc.storage.folders import temporary_folder
from rinsc.text.tokenizer_files import (
    GENERATION_FILE,
    TOKENIZER_FILE,
    generation_config,
    read_declared,
    read_tokenizer_files,
    read_tokenizer_text,
    special_tokens,
    stop_ids,
)
from rinsc.verbs.forms import FRESH, Exported, in_place_of, onnx_facts, said_written
from rinsc.verbs.models import Model, own_rounds, run_trained_rounds
from rinsc.verbs.reports import measure, read_beginning

if TYPE_CHECKING:
    import numpy.typing as npt

    from rinsc.backends.onnx import OnnxModel
    from rinsc.backends.onnx.write.export import OnnxPlan
    from rinsc.backends.torch import CompiledModule
    from rinsc.data.pieces import TokenIds

NO_TABLE = "there is no table of the loss"


@dataclass(frozen=True)
class OnnxExport:
    """A model, where it is to be written, and how; see `rinsc.export`."""

    model: Model
    output: str
    form: OnnxForm
    progress: Progress
    calibrate: str | os.PathLike[str] | npt.ArrayLike | bool | None
    genai: bool
    stop_ids: tuple[int, ...]
    held_out: bool
    report: bool

    @property
    def path(self) -> Path:
        return Path(self.output)

    @property
    def is_folder(self) -> bool:
        """Whether a model folder is meant: by its name, or because it is there."""
        slashes = tuple(filter(None, ("/", os.sep, os.altsep)))
        return self.output.endswith(slashes) or self.path.is_dir() or not self.path.suffix

    @property
    def reads_text(self) -> bool:
        """Whether the model is one of language, which a loss on text and a tokenizer are of."""
        from rinsc.layers import require_language_model

        try:
            require_language_model(self.model.spec)
        except SpecError:
            return False
        return True

    @cached_property
    def plan(self) -> OnnxPlan:
        """What is to be written; raises UsageError where the model has no such form."""
        return self._plan(self.form)

    def _plan(self, form: OnnxForm) -> OnnxPlan:
        require("torch", "safetensors", "onnx_ir", "numpy")
        from rinsc.backends.onnx.write.export import plan_onnx
        from rinsc.graph import build_graph

        graph = build_graph(self.model.spec)
        if form.gated and not any(graph.dials()):
            name = setting("gated")
            message, hint = f"{name} is of repeats, and this model has none", f"leave {name} out"
            raise UsageError("usage", message, hint=hint)
        rounds = own_rounds(self.model.run) if form.rounds is None else form.rounds
        cache = form.cache or self.genai
        with option_values():
            return plan_onnx(graph, replace(form, rounds=rounds, cache=cache))

    def run(self, *, overwrite: bool) -> Exported:
        """Check everything, then write, then measure."""
        self._check_calibration()
        folder = self.path if self.is_folder else None
        plan = self.plan

        def facts() -> Mapping[str, str]:
            return onnx_facts(plan.metadata, genai=self.genai)

        with in_place_of(folder, facts, overwrite=overwrite):
            return self._export()

    def _export(self) -> Exported:
        self._check_path()
        if self.is_folder:
            self._check_folder()
        measured = self.report and self._is_worth_measuring()
        text = self._sample(measured=measured or self.held_out)
        calibrate = self._windows()
        module = self.model.compiled()
        model = self._written(module, self.plan, calibrate)
        run = self.model.run
        if run is not None:
            trained = run_trained_rounds(run, module.graph)
            model.metadata[Key.TRAINED] = json.dumps(dict(trained))
            if self.is_folder and self.model.tokenizer is None and self.reads_text:
                message = f"the run has no tokenizer.json; rinsc generate {self.output} needs"
                self.progress.note(f"{message} {setting('tokenizer')}")
        files = self._write(model, text if self.held_out else None)
        self._say_written(files)
        if not self.model.has_weights:
            self.progress.note(FRESH)
        metadata, quality = dict(model.metadata), None
        if measured and text is not None and run is not None:
            with self._failure_as_note(), temporary_folder() as folder:
                twin = None
                if self.form.precision.name != "fp32":
                    twin = folder / "fp32.onnx"
                    exact = replace(self.form, precision=Precision())
                    self._plan(exact).write(module).save(twin, external_data_over=0)
                del module, model  # sessions load the weights anew
                quality = measure(files[0], metadata, twin, text, run, self.progress)
        return Exported(
            self.path,
            {path: path.stat().st_size for path in files},
            self.plan.form,
            self.model.spec.text,
            parse_json(metadata[Key.ROUNDS]),
            metadata,
            quality,
        )

    def _written(
        self, module: CompiledModule, plan: OnnxPlan, calibrate: npt.ArrayLike | bool
    ) -> OnnxModel:
        from rinsc.backends.onnx.write.builder import Moments, no_moments

        moments: Moments = no_moments
        if calibrate is not False:
            moments = module.input_moments(None if calibrate is True else calibrate)
        with option_values():
            return plan.write(module, moments)

    def _check_calibration(self) -> None:
        if self.calibrate is None or self.form.precision.is_calibrated:
            return
        name = setting("calibrate")
        if self.calibrate is False:
            name = setting("calibrate=False", "--no-calibrate")
        message = f"{name} means nothing to '{self.form.precision.name}'"
        fits = f"{setting('precision')} int4"
        hint = f"it goes with {fits}; other precisions round each weight by itself"
        raise UsageError("usage", message, hint=hint)

    def _check_path(self) -> None:
        """Raises for a name that cannot be written to, or that nothing of this kind goes to."""
        if self.is_folder:
            _check_no_run(self.path)
        elif self.genai:
            name = setting("genai")
            message = f"{name} writes a folder, and '{self.output}' is the name of a file"
            raise UsageError("usage", message, hint=f"write {setting('to', '-o')} model/")
        else:
            check_writable(self.path)
        if self.genai and self.model.tokenizer is None:
            message = f"{setting('genai')} needs a tokenizer, and there is none without a run"
            raise UsageError("usage", message, hint="compile the folder of a run")
        if self.held_out and (self.model.run is None or not self.is_folder):
            where = setting("to", "with -o")
            message = f"{setting('held_out')} puts text of a run into a model folder"
            raise UsageError("usage", message, hint=f"compile a run's folder, {where} model/")

    def _check_folder(self) -> None:
        """Raises where the folder, or a file in it, cannot be written."""
        from rinsc.backends.onnx.write.file import HELD_OUT_FILE, OTHER_FILES, check_model_folder
        from rinsc.backends.onnx.write.genai import plan_genai

        names = {TOKENIZER_FILE, HELD_OUT_FILE, *OTHER_FILES}
        tokenizer = self.model.tokenizer
        if tokenizer is not None:
            names |= self._tokenizer_files(tokenizer).keys()
        if self.genai:
            with option_values():
                stops = self._stop_ids
                names |= plan_genai(self.plan.metadata, tokenizer, stop_ids=stops).files.keys()
        check_model_folder(self.path, names)

    def _is_worth_measuring(self) -> bool:
        """Whether there is something to compare: a precision, or rounds."""
        return self.form.precision.name != "fp32" or any(self.plan.source.dials())

    def _sample(self, *, measured: bool) -> str | None:
        """Held-out text of the run; None, and a note where it is missed, where there is none."""
        run = self.model.run
        if run is None or not run.model_spec.is_file():
            if measured and self.form.precision.name != "fp32":
                self.progress.note(f"{NO_TABLE}: only a run has held-out text")
            return None
        if not measured:
            return None
        if not self.reads_text:
            if self.held_out or self.form.precision.name != "fp32":
                self.progress.note("no held-out text: this model reads none")
            return None
        from rinsc.training.heldout import held_out_sample

        try:
            return held_out_sample(run)
        except RinscError as error:
            self.progress.note(f"no held-out text: {error.message} ({error.hint})")
            return None

    def _windows(self) -> npt.ArrayLike | bool:
        """Windows of the text by which weights are rounded: the one that is named, or a run's own.

        True stands for text that the model samples, which is taken, with a note, where there is no
        other; False where the precision or the weights have no use for any. Raises UsageError or
        DataError for a text that is asked for and cannot be read.
        """
        calibration, model = self.calibrate, self.model
        if not self.form.precision.is_calibrated or calibration is False:
            return False
        if isinstance(calibration, str | os.PathLike):
            return self._cut(self._encoded(Path(calibration)))
        if calibration is not None:
            return calibration
        if model.run is None:
            if model.has_weights and self.reads_text:
                message = (
                    "int4 is rounded by the model's own text; in Python, calibrate=ids takes yours"
                )
                self.progress.note(message)
            return model.has_weights
        if not self.reads_text:
            return True
        from rinsc.data.tokenizer import load_tokenizer
        from rinsc.training.heldout import run_text

        try:
            return self._cut(run_text(model.run, load_tokenizer(model.run.tokenizer)).train)
        except RinscError as error:
            hint = f"name a text with {setting('calibrate')}, or {error.hint}"
            self.progress.note(f"int4 is rounded by the model's own text: {error.message} ({hint})")
            return True

    def _encoded(self, path: Path) -> TokenIds:
        from rinsc.data.tokenizer import check_vocabulary, load_tokenizer

        option = setting("calibrate")
        if self.model.tokenizer is None:
            message = f"{option} needs a tokenizer, and there is none without a run"
            hint = "compile a run, or give token ids in Python"
            raise UsageError("usage", message, hint=hint)
        hint = f"name a text file with {option}"
        text = read_beginning(path, "there is no such text", hint)
        tokenizer = load_tokenizer(self.model.tokenizer)
        check_vocabulary(tokenizer, self.model.spec.vocab_size)
        return tokenizer.encode(text)

    def _cut(self, tokens: TokenIds) -> TokenIds:
        """Windows (windows, seq) from all over a text; raises DataError where it has no token."""
        from rinsc.backends.torch.calibration import ENOUGH_TOKENS
        from rinsc.data.batches import cut_windows, evenly_spaced

        length = max(1, min(self.model.spec.context, len(tokens) - 1))
        windows = cut_windows(tokens, length)
        return evenly_spaced(windows, -(-ENOUGH_TOKENS // length))[:, :length]

    def _write(self, model: OnnxModel, text: str | None) -> list[Path]:
        """Write what is asked for; the paths of all files, the model's first."""
        path, tokenizer = self.path, self.model.tokenizer
        if not self.is_folder:
            from rinsc.backends.onnx.integrity import data_files

            model.save(path)
            return [path, *sorted(data_files(path))]
        from rinsc.backends.onnx.write.file import HELD_OUT_FILE, write_model_folder
        from rinsc.backends.onnx.write.genai import genai_files

        files: dict[str, bytes] = {}
        if tokenizer is not None:
            files |= self._tokenizer_files(tokenizer)
        if text is not None:
            files[HELD_OUT_FILE] = text.encode("utf-8")
        if self.genai:
            with option_values():
                files |= genai_files(model, tokenizer, stop_ids=self._stop_ids)
        written = write_model_folder(model, path, files)
        for name in (TOKENIZER_FILE, HELD_OUT_FILE):
            if name not in files and (path / name).exists():
                self.progress.note(f"{path / name} stood there before; it is not of this model")
        return written

    def _tokenizer_files(self, tokenizer: Path) -> dict[str, bytes]:
        """The tokenizer's files and, where it does not say so itself, the ids that end a text."""
        vocab_size = self.model.spec.vocab_size
        files = dict(read_tokenizer_files(tokenizer, self.model.spec.context))
        text, declared = read_tokenizer_text(tokenizer), read_declared(tokenizer.parent)
        if self._stop_ids != special_tokens(text, declared).stop_ids:
            config = generation_config(self._stop_ids, vocab_size, vocab_size)
            files[GENERATION_FILE] = f"{json.dumps(config, indent=2)}\n".encode()
        return files

    @cached_property
    def _stop_ids(self) -> tuple[int, ...]:
        """The ids that are asked for, and those that the run and its tokenizer name."""
        from rinsc.generation import checked_request

        spec, tokenizer = self.model.spec, self.model.tokenizer
        with option_values():
            chosen = checked_request([0], 0, spec, self.stop_ids).stop_ids
        if tokenizer is None:
            return ()
        text, declared = read_tokenizer_text(tokenizer), read_declared(tokenizer.parent)
        ids = special_tokens(text, declared).stop_ids
        known = stop_ids(tokenizer.parent, ids, spec.vocab_size)
        return tuple(dict.fromkeys([*known, *sorted(chosen)]))

    @contextmanager
    def _failure_as_note(self) -> Iterator[None]:
        """The model is written: that it cannot be measured is no failure."""
        try:
            yield
        except RinscError as error:
            self.progress.note(f"{NO_TABLE}: {error.message} ({error.hint})")
        except OSError as error:
            self.progress.note(f"{NO_TABLE}: {error.strerror or type(error).__name__}")

    def _say_written(self, files: Sequence[Path]) -> None:
        if self.is_folder:
            self.progress.line(said_written(self.path, files))
            return
        size = rounded_bytes(sum(path.stat().st_size for path in files))
        self.progress.line(f"wrote {' and '.join(map(str, files))} ({size})")


def _check_no_run(path: Path) -> None:
    from rinsc.training.run_folder import RunFolder

    there = RunFolder(path)
    own = (there.model_spec, there.config, there.data_record, there.metrics, there.result)
    if any(file.exists() for file in own):  # other names are those of model folders, too
        message = "the folder holds a training run; a model folder is one of its own"
        file = f"{setting('path', '-o')} {path / MODEL_FILE}"
        hint = f"choose another folder, or write a file: {file}"
        raise OutputError("run-exists", message, place=str(path), hint=hint)
