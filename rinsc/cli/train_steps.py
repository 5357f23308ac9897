"""What ``rinsc train`` does one after the other, in one process or in several."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rinsc.cli.output import print_note
from rinsc.cli.runs import is_run
from rinsc.cli.values import share_bindings
from rinsc.errors import OutputError

if TYPE_CHECKING:
    from rinsc.backends.hf import RinscForCausalLM
    from rinsc.cli.model_options import ModelOptions
    from rinsc.data.batches import TokenizedCorpus
    from rinsc.data.documents import Source as Corpus
    from rinsc.data.tokenizer import BytePairTokenizer
    from rinsc.spec import ModelSpec
    from rinsc.training.config import TrainConfig
    from rinsc.training.devices import Devices
    from rinsc.training.result import TrainResult
    from rinsc.training.run_folder import RunFolder
    from rinsc.training.warm_start import Source

TOKENIZER_BYTES = 50_000_000  # of text that a tokenizer is learned from


def spec_for(source: Source, model: str, options: ModelOptions) -> ModelSpec:
    """The model at the dimensions of the source, but for those that are given.

    A file, a run folder and a preset have dimensions of their own.
    """
    from rinsc.syntax import bind, parse
    from rinsc.training.warm_start import spec_from

    if options.preset is not None or model.endswith(".toml") or is_run(model):
        return options.spec(model)
    (exponents,) = share_bindings(options.set_, [options.signed(model)])
    signature = bind(parse(model), exponents)
    return spec_from(source.spec, signature, strict=options.strict, **options.dimensions)


def finished(
    output: Path,
    spec: ModelSpec,
    config: TrainConfig,
    data: str,
    tokenizer: Path | None,
    place: Devices,
    begins_with: Source | None,
) -> TrainResult | None:
    """The result of this very run, where it is finished, as when a command is repeated until it
    succeeds; raises OutputError where the folder holds another one."""
    from rinsc.data.tokenizer import load_tokenizer
    from rinsc.training.result import finished_result
    from rinsc.training.resuming import another_run
    from rinsc.training.run_folder import RunFolder, begun_tokenizer

    folder = RunFolder(output)

    def find() -> TrainResult | None:
        words = None if tokenizer is None else load_tokenizer(tokenizer, begun_tokenizer(folder))
        found = finished_result(folder, spec, config, data, words, begins_with)
        if found is None and folder.is_finished:
            raise another_run(folder, spec, config, begins_with)
        return found

    return place.on_first(find)


def vocabulary_of(tokenizer: Path, source: Source | None) -> int:
    """How many tokens the file has, or the source where it fits its tokens; raises DataError."""
    from rinsc.data.tokenizer import load_tokenizer

    words = load_tokenizer(tokenizer)
    if source is not None and source.record.get("tokenizer_sha256") in (None, words.sha256):
        return max(words.vocab_size, source.spec.vocab_size)
    return words.vocab_size


def prepare_text(
    spec: ModelSpec,
    config: TrainConfig,
    data: str,
    tokenizer: Path | None,
    folder: RunFolder,
    place: Devices,
    begins_with: Source | None,
    *,
    goes_on: bool,
) -> tuple[TokenizedCorpus, BytePairTokenizer]:
    """The text and its tokenizer, once everything fits.

    The first process prepares the text; the others then find it prepared.
    """
    from rinsc.data.corpora import open_corpus
    from rinsc.data.tokenizer import tokenizer_from_state
    from rinsc.training.fits import check_fits, check_vocabulary
    from rinsc.training.resuming import require_same_run
    from rinsc.training.warm_start import check_source

    def prepare() -> str:
        corpus = open_corpus(data)
        words = _tokenizer(corpus, spec, folder, tokenizer, begins_with, resume=goes_on)
        if not goes_on:  # which has more to say of another model
            check_vocabulary(spec, words.vocab_size)
        text = _prepared(corpus, words)
        if goes_on:
            require_same_run(folder, spec, config, text.record, begins_with)
        elif begins_with is not None:
            check_source(begins_with.spec, spec, begins_with.path)
        check_fits(spec, text, config, place)
        return words.to_state()

    words = tokenizer_from_state(place.on_first(prepare))
    return _prepared(open_corpus(data), words), words


def take_over(
    folder: RunFolder,
    spec: ModelSpec,
    words: BytePairTokenizer,
    place: Devices,
    held: ExitStack,
    *,
    goes_on: bool,
    overwrite: bool,
) -> None:
    """The run folder is this run's alone as long as it is ``held``: from here on an old one may go,
    as this one can start."""
    from rinsc.training.run_folder import alone_in, open_run_folder

    def take() -> None:
        held.enter_context(alone_in(folder))
        if folder.is_begun and not (goes_on or overwrite):
            message = "another process began a run here in the meantime"
            hint = "give the command again: it goes on from the last checkpoint"
            raise OutputError("run-in-use", message, place=str(folder.path), hint=hint)
        open_run_folder(folder.path, overwrite=overwrite)
        if not (goes_on and folder.tokenizer.is_file()):
            words.save_folder(folder.path, spec.context)

    place.on_first(take)


def fresh_module(spec: ModelSpec, config: TrainConfig, place: Devices) -> RinscForCausalLM:
    """The fresh model."""
    import torch

    from rinsc.backends.hf import causal_lm
    from rinsc.backends.torch.memory import allocation_errors

    torch.manual_seed(config.seed)
    with allocation_errors():
        return causal_lm(spec, device=place.device)


def _prepared(corpus: Corpus, words: BytePairTokenizer) -> TokenizedCorpus:
    from rinsc.data.cache import prepare
    from rinsc.progress import PreparationProgress

    with PreparationProgress(corpus.name) as progress:
        return prepare(corpus, words, progress=progress)


def _tokenizer(
    corpus: Corpus,
    spec: ModelSpec,
    folder: RunFolder,
    given: Path | None,
    begins_with: Source | None,
    *,
    resume: bool,
) -> BytePairTokenizer:
    """The given one, that of the run that goes on or is begun with, or one learned here."""
    from rinsc.data.tokenizer import load_tokenizer
    from rinsc.training.run_folder import begun_tokenizer

    begun = begun_tokenizer(folder) if resume else None
    if given is not None:
        return load_tokenizer(given, begun)
    if resume and folder.data_record.exists() and folder.tokenizer.exists():
        return load_tokenizer(folder.tokenizer, begun)
    if begins_with is not None and begins_with.run is not None:
        return begins_with.run.tokenizer()
    return learned_tokenizer(corpus, spec.vocab_size)


def learned_tokenizer(corpus: Corpus, vocab_size: int) -> BytePairTokenizer:
    """One learned from the text, which is said to be smaller where the text gives no more."""
    from rinsc.data.corpora import training_texts
    from rinsc.data.tokenizer import train_tokenizer

    words = train_tokenizer(training_texts(corpus, TOKENIZER_BYTES), vocab_size)
    if words.vocab_size < vocab_size:
        print_note(
            f"note: the text gives {words.vocab_size} tokens, so {vocab_size - words.vocab_size} "
            f"of the vocabulary's {vocab_size} are never used"
        )
    return words


def run(
    module: RinscForCausalLM,
    text: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    place: Devices,
    track: tuple[str, ...],
    begins_with: Source | None,
    *,
    resume: bool,
) -> TrainResult:
    from rinsc.training.progress import TrainingProgress
    from rinsc.training.run import StoppedError, train

    spec = module.model.spec
    progress = TrainingProgress(spec.text, silent=not place.is_first)
    try:
        with progress:
            return train(
                *(module, spec, text, config, folder),
                observer=progress,
                resume=resume,
                devices=place,
                trackers=track,
                source=begins_with,
                report=progress.took_over,
            )
    except StoppedError as stop:
        if place.is_first:
            with suppress(OSError):  # a terminal that was closed
                print_note(
                    f"stopped after step {stop.step}, with a checkpoint: the same command goes on"
                )
        raise KeyboardInterrupt from None
