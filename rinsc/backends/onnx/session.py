"""Running an exported model in ONNX Runtime, with mistakes told before they reach it."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rinsc.backends.onnx.inputs import checked_input, checked_mask
from rinsc.backends.onnx.past import CacheLayout, Past
from rinsc.errors import (
    CheckpointError,
    LoweringError,
    Problem,
    RinscError,
)
from rinsc.extras import require
from rinsc.graph import Rounds, build_graph, resolve_rounds
from rinsc.layers import model_input, require_language_model
from rinsc.sampling import CachedLogits, Sampling, continue_tokens
from rinsc.spec import ModelSpec, model_spec

if TYPE_CHECKING:
    from rinsc.backends.onnx.file import OnnxModel

ONLY_FATAL = 4  # severity: what fails is raised, so that logging it as well says it twice


class Session:
    """An exported model, ready to run on the CPU.

    ``spec`` is the model's spec; ``rounds`` those that it was written with, by repeat. With
    ``threads`` None the runtime takes every core. ``profile_folder`` switches the profiler on.
    Raises `CheckpointError` for a file that is damaged or was not exported by rinsc, and
    `MissingExtraError` without onnxruntime.
    """

    def __init__(
        self,
        model: OnnxModel | str | os.PathLike[str],
        *,
        threads: int | None = None,
        profile_folder: Path | None = None,
    ) -> None:
        require("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = ONLY_FATAL
        options.intra_op_num_threads = threads or 0
        if profile_folder is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile_folder / "profile")
        self._place = str(model) if isinstance(model, str | os.PathLike) else "the model"
        self._session = _load(model, options, self._place)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.spec, self.rounds = _read_metadata(metadata, self._place)
        self.graph = build_graph(self.spec)
        inputs = self._session.get_inputs()
        self._input = model_input(self.spec)
        self._layout = CacheLayout.of(inputs)
        names = [given.name for given in inputs]
        self.has_cache = "attention_mask" in names
        self._dials = {name[7:] for name in names if name.startswith("rounds_")}
        self._last: tuple[Rounds, dict[str, npt.NDArray[np.int64]]] | None = None

    def logits(self, input_ids: npt.ArrayLike, rounds: Rounds = None) -> npt.NDArray[np.float32]:
        """Token ids (batch, seq), or what else the model takes, to logits.

        Raises `GraphError` for rounds that no model of this signature runs, `LoweringError` for
        rounds that this file was not exported for, and `RinscError` for an input of another shape,
        for token ids that are out of range, and for more of them than the context.
        """
        if self.has_cache:
            return self.step(input_ids, rounds=rounds)[0]
        feed = {self._input.name: self._checked(input_ids), **self._dial_inputs(rounds)}
        result: npt.NDArray[np.float32]
        (result,) = self._session.run(None, feed)
        return result

    def step(
        self,
        input_ids: npt.ArrayLike,
        past: Past | None = None,
        *,
        attention_mask: npt.ArrayLike | None = None,
        rounds: Rounds = None,
    ) -> tuple[npt.NDArray[np.float32], Past]:
        """New token ids (batch, seq) behind a cache: their logits, and the cache with them.

        ``attention_mask`` (batch, past + seq) is 0 for padding, on either side. Rounds are those
        of the whole sequence. Raises `LoweringError` for a model without a cache and for rounds
        other than those of the cache, and what `logits` raises.
        """
        if not self.has_cache:
            message = "the model has no cache"
            hint = "export it with cache=True (--cache)"
            raise LoweringError(Problem("no-cache", message, place=self._place, hint=hint))
        if past is not None and (not isinstance(past, Past) or past.owner is not self._layout):
            hint = "give back what this session's last step gave, or nothing at the start"
            message = "the cache was not made by this session"
            raise LoweringError(Problem("another-cache", message, place=self._place, hint=hint))
        ids = self._checked(input_ids, 0 if past is None else past.length)
        counts = {name: int(count) for name, count in self._dial_settings(rounds).items()}
        past = self._layout.empty(self._layout, len(ids), counts) if past is None else past
        if (past.batch, past.rounds) != (len(ids), counts):
            message = f"the cache is of {past.batch} sequences at rounds {dict(past.rounds)}, "
            message += f"not of {len(ids)} at {counts}"
            hint = "start the sequences again, or go on with the rounds that they began with"
            raise LoweringError(Problem("another-cache", message, place=self._place, hint=hint))
        total = past.length + ids.shape[1]
        mask = checked_mask(attention_mask, (len(ids), total))
        arrays = {self._input.name: ids, "attention_mask": mask, **self._dial_inputs(rounds)}
        made = self._layout.run(self._session, arrays, past)
        return made[0].numpy(), self._layout.next(past, ids.shape[1], made[1:])

    def generate(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
        rounds: Rounds = None,
    ) -> list[int]:
        """The ``max_new_tokens`` ids that follow ``prompt``.

        Without a cache in the model every step runs the whole sequence.

        Raises `SpecError` for a model that does not predict the next token.
        """
        require_language_model(self.spec)

        def next_logits(ids: Sequence[int]) -> npt.NDArray[np.float32]:
            last: npt.NDArray[np.float32] = self.logits([list(ids)], rounds)[0, -1]
            return last

        def step(ids: Sequence[int], past: Past | None) -> tuple[npt.NDArray[np.float32], Past]:
            logits, present = self.step([list(ids)], past, rounds=rounds)
            return logits[0, -1], present

        source = CachedLogits(step) if self.has_cache else next_logits
        sampling = Sampling(temperature, top_k, seed)
        return continue_tokens(source, prompt, max_new_tokens, self.spec.context, sampling)

    def finish_profile(self) -> Path:
        """End profiling; the file with the profile of every run since the session was made."""
        return Path(self._session.end_profiling())

    def _dial_inputs(self, rounds: Rounds) -> dict[str, npt.NDArray[np.int64]]:
        """The inputs that set the rounds; the last ones are kept, since each token asks again."""
        asked = dict(rounds) if isinstance(rounds, Mapping) else rounds
        if self._last is None or not _same(self._last[0], asked):
            settings = self._dial_settings(asked).items()
            inputs = {f"rounds_{name}": np.array(count, np.int64) for name, count in settings}
            self._last = (asked, inputs)
        return self._last[1]

    def _dial_settings(self, rounds: Rounds) -> dict[str, int]:
        """Rounds of each repeat that has an input; the others have to be as exported."""
        if rounds is None:
            return {name: self.rounds[name] for name in self._dials}
        asked = resolve_rounds(self.graph, rounds)
        fixed = {name: count for name, count in asked.items() if name not in self._dials}
        if fixed and any(self.rounds.get(name) != count for name, count in fixed.items()):
            message = f"the model was exported for rounds {self.rounds}, and cannot run {asked}"
            hint = "export it with rounds='dynamic'"
            raise LoweringError(Problem("fixed-rounds", message, place=self._place, hint=hint))
        return {name: asked[name] for name in self._dials}

    def _checked(self, given: npt.ArrayLike, before: int = 0) -> npt.NDArray[Any]:
        """The input as an array that the model can run behind so many; raises `RinscError`."""
        array = checked_input(given, self._input, self.spec)
        if before + array.shape[1] > self.spec.context:
            message = (
                f"{before + array.shape[1]} positions exceed the context of {self.spec.context}"
            )
            raise RinscError(
                Problem("context-exceeded", message, hint="give the last of them only")
            )
        return array


def _same(left: Rounds, right: Rounds) -> bool:
    """Equal, and not only as numbers: ``True`` equals 1 and is no number of rounds."""
    return repr(left) == repr(right)


def _load(model: OnnxModel | str | os.PathLike[str], options: Any, place: str) -> Any:
    from onnxruntime import InferenceSession

    if isinstance(model, str | os.PathLike):
        source: str | bytes = str(model)
        if not Path(model).is_file():
            raise CheckpointError(
                Problem(
                    "no-such-file", "there is no such file", place=place, hint="export it first"
                )
            )
    else:
        source = model.to_bytes()
    try:
        return InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors have no base of their own
        reason = str(error).partition("\n")[0][:200]
        message = f"ONNX Runtime cannot load the model: {reason}"
        hint = "the file is damaged or not an ONNX model; export it again"
        raise CheckpointError(Problem("damaged-model", message, place=place, hint=hint)) from None


def _read_metadata(metadata: Mapping[str, str], place: str) -> tuple[ModelSpec, dict[str, int]]:
    try:
        values = tomllib.loads(metadata["rinsc.spec"])
        spec = model_spec(values.pop("signature"), **values)
        rounds = {
            str(name): int(count) for name, count in json.loads(metadata["rinsc.rounds"]).items()
        }
    except (KeyError, ValueError, TypeError, AttributeError, RinscError) as error:
        if isinstance(error, RinscError) and error.code == "unknown-kind":
            raise  # exported where a package was installed that is not here
        message = "the model does not say which spec it was exported from"
        hint = "run models that rinsc exported, of this or an earlier version"
        raise CheckpointError(Problem("foreign-model", message, place=place, hint=hint)) from None
    return spec, rounds
