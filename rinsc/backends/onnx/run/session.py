"""Running an exported model in ONNX Runtime, with mistakes told before they reach it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Unpack, overload

import numpy as np
import numpy.typing as npt

from rinsc import generation
from rinsc.backends.onnx import contract
from rinsc.backends.onnx.precision import parse_precision
from rinsc.backends.onnx.run import loading
from rinsc.backends.onnx.run.buffers import CacheLayout, Past, Runtime, not_picklable
from rinsc.backends.onnx.run.continuation import Continuation, Decoding
from rinsc.backends.onnx.run.drafted import DraftedSequence
from rinsc.backends.onnx.run.inputs import (
    Dials,
    checked_input,
    checked_mask,
    checked_threads,
    dial_inputs,
)
from rinsc.backends.onnx.run.providers import ONLY_FATAL, provider_of
from rinsc.drafting import Drafting, Drafts, DraftSettings, checked_drafting, stream_chosen
from rinsc.errors import LoweringError, plural, setting
from rinsc.extras import require
from rinsc.formats import FORMATS
from rinsc.graph import (
    Rounds,
    RoundsWarning,
    beyond_training,
    build_graph,
    resolve_rounds,
    trained_rounds,
)
from rinsc.layers import model_input, model_output, require_language_model
from rinsc.sampling import Sampling

if TYPE_CHECKING:
    from rinsc.backends.onnx.write.file import OnnxModel


def row_logits(session: Session, rounds: Rounds) -> generation.RowLogits:
    """The logits of ``session`` after sequences, at these rounds.

    Without a cache in the model every token runs its whole row.
    """

    def run_step(
        ids: npt.NDArray[np.int64], past: Decoding | None, mask: npt.NDArray[np.int64] | None
    ) -> tuple[npt.NDArray[np.float32], Decoding]:
        if past is not None:
            return past(ids[:, 0]), past
        logits, present = session.step(ids, attention_mask=mask, rounds=rounds)
        return logits[:, -1], session.decoding(present)

    def whole(ids: Sequence[int]) -> npt.NDArray[np.float32]:
        last: npt.NDArray[np.float32] = session.logits([list(ids)], rounds)[0, -1]
        return last

    if session.has_cache:
        return generation.cached_rows(run_step, session.graph)
    return generation.whole_rows(whole, session.spec.context)


class Session:
    """An exported model, ready to run: an `OnnxModel`, its file, or the folder that holds it.

    ``spec`` is the model's spec; ``rounds`` those that it was written with, by repeat, and
    ``trained_rounds`` the most that it was trained at, ``tokenizer_sha256`` the digest of the
    tokenizer.json that was written beside it, if any. One thread at a time may use it. It runs on
    ``provider``, "cuda" or "cpu"; with None on the first of them that loads. With ``threads`` None
    the runtime takes every core. ``profile_folder`` switches the profiler on. Raises
    `CheckpointError` for a file that is damaged or was not exported by rinsc, `LoweringError` for
    a provider that does not load or that lacks the model's precision, and `MissingExtraError`
    without onnxruntime; warns (`ProviderWarning`) where CUDA is installed and does not load.

    >>> import rinsc
    >>> model = rinsc.to_torch(rinsc.model_spec("(A^3)B", preset="tiny"))
    >>> session = Session(rinsc.to_onnx(model, rounds="dynamic"))
    >>> session.logits([[1, 2, 3]], rounds=2).shape
    (1, 3, 512)
    """

    def __init__(
        self,
        model: OnnxModel | str | os.PathLike[str],
        *,
        provider: str | None = None,
        threads: int | None = None,
        profile_folder: Path | None = None,
    ) -> None:
        require("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = ONLY_FATAL
        options.intra_op_num_threads = 0 if threads is None else checked_threads(threads)
        if profile_folder is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile_folder / "profile")
        self._place = loading.place_of(model)
        session, size = loading.load(model, options, provider, self._place)
        self._session = loading.ToldSession(session, self._place)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.spec, self.rounds = loading.read_metadata(metadata, self._place)
        self.graph = build_graph(self.spec)
        loading.check_interface(self._session, self.graph, size, self._place)
        self.precision = metadata.get(contract.Key.PRECISION, "fp32")
        self.tokenizer_sha256 = metadata.get(contract.Key.TOKENIZER)
        self.trained_rounds = trained_rounds(self.graph) | loading.trained_record(metadata)
        inputs = self._session.get_inputs()
        self._input = model_input(self.spec)
        self._output, _ = model_output(self.spec)
        self._layout = CacheLayout.of(inputs)
        names = [value.name for value in inputs]
        self.has_cache = contract.MASK in names
        gated = metadata.get(contract.Key.FORM) == "gated"
        inputs_by_loop = dial_inputs(self.graph, names)
        self._dials = Dials(self.graph, inputs_by_loop, self.rounds, gated, self._place)
        outputs = [value.name for value in self._session.get_outputs()]
        self._used = {
            name: np.zeros((), np.int64) for name in outputs if name.startswith(contract.USED)
        }
        runtime = Runtime(
            self._session,
            self._layout,
            self.provider,
            self.spec.context,
            self.spec.vocab_size,
            self._used,
        )
        fused = metadata.get(contract.Key.OPERATORS) == "fused"
        self._continuation = Continuation(
            runtime, fused=fused, shares_slots=self.graph.shares_slots
        )
        self._continuation.in_place = fused and self._continuation.works_in_place(
            self._dials.settings(None), self._dials.arrays(None)
        )
        for count in self._used.values():
            count[...] = 0

    def __reduce__(self) -> NoReturn:
        raise not_picklable("a session")

    @property
    def provider(self) -> str:
        """What the session really runs on: "cuda" or "cpu"."""
        return provider_of(self._session)

    def logits(self, input_ids: npt.ArrayLike, rounds: Rounds = None) -> npt.NDArray[np.float32]:
        """Token ids (batch, seq), or what else the model takes, to logits, or what else it gives.

        Raises `GraphError` for rounds that no model of this signature runs, `LoweringError` for
        rounds that this file was not exported for, and `RinscError` for an input of another shape,
        for token ids that are out of range, and for more of them than the context.
        """
        if self.has_cache:
            return self.step(input_ids, rounds=rounds)[0]
        feed = {
            self._input.name: checked_input(input_ids, self._input, self.spec),
            **self._dials.arrays(rounds),
        }
        result: npt.NDArray[np.float32]
        result, *used = self._session.run([self._output, *self._used], feed)
        for count, ran in zip(self._used.values(), used, strict=True):
            count[...] = ran
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
            hint = f"export it with {setting('cache=True', '--cache')}"
            raise LoweringError("no-cache", message, place=self._place, hint=hint)
        if past is not None:
            self._require_own(past)
        before = 0 if past is None else past.length
        ids = checked_input(input_ids, self._input, self.spec, before=before)
        counts = {name: int(count) for name, count in self._dials.settings(rounds).items()}
        if past is None:
            past = self._continuation.empty(len(ids), counts, self._layout)
        if (past.batch, past.rounds) != (len(ids), counts):
            message = (
                f"the cache is of {plural(past.batch, 'sequence')} at rounds {dict(past.rounds)}, "
            )
            message += f"not of {len(ids)} at {counts}"
            hint = "start the sequences again, or go on with the rounds that they began with"
            raise LoweringError("another-cache", message, place=self._place, hint=hint)
        total = past.length + ids.shape[1]
        mask = checked_mask(attention_mask, total, past.mask, is_fixed=self._continuation.fused)
        return self._continuation.step(ids, mask, past, self._dials.arrays(rounds))

    def decoding(self, past: Past) -> Decoding:
        """What adds one token a call behind a cache of `step`, at its rounds, with less ado.

        Tokens are not checked. Raises `LoweringError` for a cache of another session.
        """
        self._require_own(past)
        return Decoding(self._continuation, past, self._dials.arrays(past.rounds or None))

    def _require_own(self, past: object) -> None:
        if not isinstance(past, Past) or past.owner is not self._layout:
            hint = "give back what this session's last step gave, or nothing at the start"
            message = "the cache was not made by this session"
            raise LoweringError("another-cache", message, place=self._place, hint=hint)

    def check_rounds(self, rounds: Rounds) -> None:
        """Raise what `logits` raises for rounds that this model cannot run."""
        self._dials.settings(rounds)

    @property
    def rounds_used(self) -> dict[str, int]:
        """Of repeats that may end early, the rounds that the last call took; 0 before the first.

        They are the most that any row and, with a cache, any token took.
        """
        return {name.removeprefix(contract.USED): int(count) for name, count in self._used.items()}

    @property
    def in_place(self) -> bool:
        """Whether the cache is appended to where it stands rather than copied at each token."""
        return self._continuation.in_place

    @overload
    def generate(
        self,
        prompt: generation.Prompt,
        max_new_tokens: int,
        **settings: Unpack[DraftSettings],
    ) -> list[int]: ...

    @overload
    def generate(
        self,
        prompt: Sequence[generation.Prompt],
        max_new_tokens: int,
        **settings: Unpack[DraftSettings],
    ) -> list[list[int]]: ...

    def generate(
        self,
        prompt: generation.Prompt | Sequence[generation.Prompt],
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop_ids: Sequence[int] = (),
        rounds: Rounds = None,
        draft_rounds: Rounds = None,
    ) -> list[int] | list[list[int]]:
        """The ``max_new_tokens`` ids that follow ``prompt``, or fewer, up to one of ``stop_ids``.

        Of a sequence of prompts, of any lengths, there is one list each: prompt i alone would be
        followed by the same ids with the seed ``seed + i``, unless rows share something in the
        model: the scale of 8-bit activations, or an early exit without a cache. A sequence that
        outgrows the context goes on as its last ``context`` ids, which is slow: each token runs all
        of them anew.
        Without a cache in the model every step runs the whole sequence. With ``draft_rounds`` one
        prompt is drafted at so many rounds and verified at ``rounds``, without loss: above
        temperature 0 it draws other ids of the same distribution.

        Raises `SpecError` for a model that does not predict the next token, `UsageError` for
        a prompt that is empty or longer than the context and for settings that are none, and what
        `logits` raises. Warns with `RoundsWarning`, once a session, at more rounds than trained.
        """
        sampling = Sampling(temperature, top_k, top_p, seed)
        request = self._request(prompt, max_new_tokens, stop_ids, rounds)
        steps = self.steps(request, sampling, rounds, draft_rounds)
        continued = generation.collected(steps, len(request.rows))
        return continued[0] if request.is_single else continued

    def stream(
        self,
        prompt: generation.Prompt,
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop_ids: Sequence[int] = (),
        rounds: Rounds = None,
        draft_rounds: Rounds = None,
    ) -> Iterator[int]:
        """The ids of `generate`, each as soon as it is chosen. Raises what `generate` raises."""
        sampling = Sampling(temperature, top_k, top_p, seed)
        request = self._request(prompt, max_new_tokens, stop_ids, rounds)
        steps = self.steps(request, sampling, rounds, draft_rounds)
        return generation.single_ids(steps, request)

    def steps(
        self,
        request: generation.Request,
        sampling: Sampling,
        rounds: Rounds = None,
        draft_rounds: Rounds = None,
        *,
        vocabulary: int | None = None,
        drafts: Drafts | None = None,
    ) -> Iterator[tuple[int | None, ...]]:
        """The ids chosen for every row, step by step, of the first ``vocabulary`` ids.

        See `stream_chosen`. Raises `LoweringError` for a model that cannot draft, and what
        `checked_drafting` raises.
        """
        drafting = None if draft_rounds is None else self.drafting(draft_rounds, rounds)
        return stream_chosen(
            row_logits(self, rounds),
            partial(self._drafted, rounds=rounds),
            *(request, sampling),
            context=self.spec.context,
            drafting=drafting,
            vocabulary=vocabulary,
            drafts=drafts,
        )

    def drafting(self, draft_rounds: Rounds, rounds: Rounds) -> Drafting:
        """How to draft, checked; raises `LoweringError` where this model cannot."""
        drafting = checked_drafting(self.graph, draft_rounds, rounds, self.rounds)
        self.check_rounds(rounds)
        reason, hint = self._why_no_drafts()
        if not reason and not self._layout.is_first_part(
            drafting.rounds, self._dials.settings(rounds)
        ):
            reason = "the cache of an inner repeat at fewer rounds does not stand in one piece"
            hint = "draft with 1 round of the repeat around it, or leave the inner one out"
        if reason:
            name = setting("draft_rounds")
            raise LoweringError("bad-draft", f"{name}: {reason}", place=self._place, hint=hint)
        return drafting

    def _why_no_drafts(self) -> tuple[str, str]:
        if not self.has_cache:
            return "the model has no cache", f"export it with {setting('cache=True', '--cache')}"
        if self._dials.gated or set(self._dials.inputs) != set(self.rounds):
            dial = setting("rounds='dynamic'", "--rounds dynamic")
            return "the model's rounds are fixed", f"export it with {dial}"
        if self._used:
            hint = "export it without an exit, or leave the drafts out"
            return "the model ends its rounds early, token by token", hint
        precision = parse_precision(self.precision)
        kinds = {FORMATS[name].arithmetic for name in (precision.name, precision.table_format)}
        if precision.float_type != "fp32" or not kinds <= {"floats", "cast"}:
            reason = f"in {self.precision} tokens run together are rounded otherwise than alone"
            return reason, "export it in fp32, or leave the drafts out"
        if not self.in_place or self.provider != "cpu":
            hint = "run it on the CPU, with fused operators (heads whose width divides by 8)"
            return "the cache is not appended to in place", hint
        return "", ""

    def _drafted(self, drafting: Drafting, rounds: Rounds) -> DraftedSequence:
        def begun(ids: Sequence[int]) -> tuple[npt.NDArray[np.float32], Past]:
            logits, past = self.step([list(ids)], rounds=rounds)
            return logits[0, -1], past

        def window(ids: Sequence[int]) -> npt.NDArray[np.float32]:
            return begun(ids)[0]

        few, full = (dict(self._dials.arrays(counts)) for counts in (drafting.rounds, rounds))
        return DraftedSequence(self._continuation, begun, window, drafting.rounds, few, full)

    _has_warned = False  # of more rounds than trained

    def _request(
        self,
        prompt: generation.Prompt | Sequence[generation.Prompt],
        new_tokens: int,
        stop_ids: Sequence[int],
        rounds: Rounds,
    ) -> generation.Request:
        """What is asked for, checked; more rounds than trained are told once."""
        require_language_model(self.spec)
        request = generation.checked_request(prompt, new_tokens, self.spec, stop_ids)
        counts = self.rounds if rounds is None else resolve_rounds(self.graph, rounds)
        message = beyond_training(counts, self.trained_rounds)
        if message is not None and not self._has_warned:
            self._has_warned = True
            warnings.warn(message, RoundsWarning, stacklevel=3)
        return request

    def finish_profile(self) -> Path:
        """End profiling; the file with the profile of every run since the session was made."""
        return Path(self._session.end_profiling())
