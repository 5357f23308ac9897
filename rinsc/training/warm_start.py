"""Training that begins with the weights of another run: what is taken, block by block.

``A^3B`` into ``A^4B{adapter=linear}`` takes the embedding, A, B, the last norm and the head; the
adapters start as they would in a fresh model. Weights are all that is taken: the optimizer, the
schedule and the order of the text begin anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rinsc.backends.torch.memory import allocation_errors
from rinsc.data.tokenizer import load_tokenizer
from rinsc.errors import CheckpointError, Problem, RinscError, setting
from rinsc.graph import BlockGraph, build_graph
from rinsc.layers import layer_kind
from rinsc.layers.loops import loop_prefix
from rinsc.spec import ModelSpec, model_spec, spec_from_values, spec_to_toml
from rinsc.spec.model import dimensions, field_values
from rinsc.storage.files import file_digest, parse_toml, read_json
from rinsc.syntax import Signature, to_text
from rinsc.syntax.normal import letter_sizes
from rinsc.training.checkpoint import checkpoints
from rinsc.training.finished import FinishedRun
from rinsc.training.opening import trained_run
from rinsc.training.run_folder import RunFolder, overwriting

# Of these another value still fits the weights; a note says so.
MAY_DIFFER = ("vocab_size", "context", "tied_embedding", "norm_eps", "rope_theta")
HEAD, EMBEDDING = "head.weight", "embedding.weight"  # with a row for each token
RECORD_KEYS = {
    **{"path": str, "step": int, "signature": str, "model": str},
    **{"weights_sha256": str, "training_flops": int},
}


@dataclass(frozen=True)
class Takeover:
    """What became of each tensor, by name; ``notes`` are settings that differ from the source.

    A tensor of which some rows are taken, as adapters of more rounds and embeddings of other
    tokens, is in ``taken`` and, with its rows, in ``partly``.
    """

    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    left: tuple[str, ...]
    partly: Mapping[str, tuple[int, int]]
    notes: tuple[str, ...]
    tokens: str | None = None  # where rows of other tokens, or of unknown ones, were taken

    def lines(self) -> list[str]:
        """The report, a line for each kind that there is."""
        rows = [("taken", self.taken), ("fresh", self.fresh), ("left in the source", self.left)]
        lines = [f"{name}: {_in_words(tensors)}" for name, tensors in rows if tensors]
        for name, (rows_taken, rows_of) in self.partly.items():
            lines.append(f"of {name}: {rows_taken} of {rows_of} rows taken, the others are fresh")
        lines += [] if self.tokens is None else [self.tokens]
        return [*lines, *(f"other than in the source: {note}" for note in self.notes)]

    def facts(self) -> dict[str, object]:
        """The report as plain data."""
        return {
            "taken": list(self.taken),
            "fresh": list(self.fresh),
            "left": list(self.left),
            "partly": {name: list(rows) for name, rows in self.partly.items()},
            "notes": list(self.notes),
            "tokens": self.tokens,
        }


@dataclass(frozen=True)
class Source:
    """The weights that a run begins with; ``run`` is None where a begun run has them by itself."""

    path: str
    spec: ModelSpec
    record: Mapping[str, Any]
    run: FinishedRun | None


def source_of(run: FinishedRun, path: str | None = None) -> Source:
    """A trained run as a source; ``path`` is how it was named, for the record."""
    name = str(run.path) if path is None else path
    record = {
        "path": name,
        "step": run.steps,
        "signature": run.signature,
        "model": spec_to_toml(run.graph.spec),
        "weights_sha256": run.weights_digest,
        "training_flops": run.training_flops,
        "is_training_known": run.is_training_known,
        "tokenizer_sha256": run.tokenizer_sha256,
    }
    return Source(name, run.graph.spec, record, run)


def recorded_source(folder: RunFolder) -> Mapping[str, Any] | None:
    """What a begun run says of its source; None for a run from fresh weights.

    Raises CheckpointError where the record is damaged.
    """
    if not folder.source.exists():
        return None
    try:
        record = read_json(folder.source)
        if all(type(record[key]) is kind for key, kind in RECORD_KEYS.items()):
            _recorded_spec(record)
            return dict(record)
    except (OSError, ValueError, LookupError, TypeError, RinscError):
        pass
    message = "cannot read from which weights the run was begun"
    hint = "restore the file, or begin again with another folder"
    raise CheckpointError("cannot-read", message, place=str(folder.source), hint=hint)


def begun_source(folder: RunFolder) -> Source | None:
    """The source of a run that was begun, which has its own copy of the weights by now.

    None for a run from fresh weights, and where the copy is missing before the first checkpoint.
    """
    record = recorded_source(folder)
    has_weights = folder.initial_weights.exists() or checkpoints(folder.path) or folder.is_finished
    if record is None or not has_weights:
        return None
    return Source(str(record["path"]), _recorded_spec(record), record, None)


def _recorded_spec(record: Mapping[str, Any]) -> ModelSpec:
    return spec_from_values(parse_toml(record["model"]))


def require_initial_weights(folder: RunFolder, source: Source) -> None:
    """Raises CheckpointError where the run's copy of its first weights is missing or damaged."""
    try:
        if file_digest(folder.initial_weights) == source.record.get("initial_sha256"):
            return
    except OSError:
        pass
    message = f"the copy of the weights of {source.path} is damaged, and there is no checkpoint yet"
    hint = f"begin again with {overwriting()}"
    location = str(folder.initial_weights)
    raise CheckpointError("damaged-checkpoint", message, place=location, hint=hint)


def open_source(path: str, folder: RunFolder, *, anew: bool = False) -> Source:
    """The run, finished or not, the checkpoint or the model that transformers saved in ``path``,
    to begin a run in ``folder`` with.

    Where that run was begun with it before, the source need not be there any more, unless it is
    begun ``anew``. Raises what `trained_run` raises, and CheckpointError where both folders are
    the same.
    """
    begun = None if anew else begun_source(folder)
    if begun is not None and is_named(begun.record, path):
        return begun
    run = trained_run(Path(path))
    if run.folder.path.resolve() == folder.path.resolve():
        message = "a run cannot begin with its own weights"
        hint = f"choose another {setting('output', '-o')}; to go on with a run, leave "
        hint += f"{setting('start_from', '--from')} out"
        raise CheckpointError("own-source", message, place=path, hint=hint)
    return source_of(run, path)


def spec_from(
    source: ModelSpec, signature: Signature, *, strict: bool = False, **own: Any
) -> ModelSpec:
    """``signature`` at the dimensions of the source, but for those that are given.

    Blocks keep their layers: new letters get as many as the largest block of the source.
    """
    chosen = {key: value for key, value in own.items() if value is not None}
    sizes = letter_sizes(signature)
    if "layers" not in chosen and None in sizes.values():
        largest = max(source.parts.values())
        sizes_of = (size or source.parts.get(name, largest) for name, size in sizes.items())
        chosen["layers"] = sum(sizes_of)
    values = {**field_values(source), **chosen}
    if "layers" not in chosen:
        del values["layers"]
    del values["signature"]
    return model_spec(to_text(signature), strict=strict, **values)


def check_source(source: ModelSpec, spec: ModelSpec, place: str) -> None:
    """Raises CheckpointError, a problem each, where weights of ``source`` do not fit ``spec``."""
    problems = []
    before, now = dimensions(source), dimensions(spec)
    for key in before:
        if key in ("layers", *MAY_DIFFER) or before[key] == now.get(key, before[key]):
            continue
        message = f"{key} is {now[key]}, and {before[key]} in the source"
        hint = "leave the dimensions out: they are those of the source"
        problems.append(Problem("other-dimensions", message, place=place, hint=hint))
    old, new = build_graph(source).blocks, build_graph(spec).blocks
    for name in old.keys() & new.keys():
        for key in ("kind", "tie"):
            if getattr(old[name], key) != getattr(new[name], key):
                message = f"block {name} has {key} {getattr(new[name], key)}, and "
                message += f"{getattr(old[name], key)} in the source"
                hint = "give the block another letter, so that it starts fresh"
                problems.append(Problem("other-block", message, place=place, hint=hint))
    if not old.keys() & new.keys():
        message = f"'{spec.text}' has no block of '{source.text}'"
        hint = "use the letters of the source for the blocks that continue"
        problems.append(Problem("nothing-to-take", message, place=place, hint=hint))
    if problems:
        raise CheckpointError.of(*problems)


@dataclass(frozen=True)
class TokenRows:
    """Of tokens that a model shares with its source: their rows in both, and what to say of it."""

    own: Sequence[int]
    theirs: Sequence[int]
    note: str | None = None


def token_rows(
    source: Source, spec: ModelSpec, data_record: Mapping[str, Any], folder: RunFolder
) -> TokenRows | None:
    """Which rows of the source stand for which tokens of the text that ``data_record`` is of.

    None for a model that takes no tokens.

    Where both have one tokenizer, or the source's is not known and has as many tokens, rows are
    the same; else a token keeps its row where the source has the same one. Raises CheckpointError
    where the run's own tokenizer is not in its folder.
    """
    assert source.run is not None
    if layer_kind(spec.kind).takes != "tokens":
        return None
    same = range(min(spec.vocab_size, source.spec.vocab_size))
    known_as = source.run.tokenizer_sha256
    sha256 = dict(data_record.get("tokenizer") or {}).get("sha256")
    if known_as is not None and known_as == sha256:
        return TokenRows(same, same)
    if known_as is None:
        note = "the source does not say which tokens it has: "
        if spec.vocab_size == source.spec.vocab_size:
            return TokenRows(same, same, f"{note}each id is taken to be the same one")
        return TokenRows((), (), f"{note}all start fresh")
    ours = load_tokenizer(folder.tokenizer) if folder.tokenizer.is_file() else None
    if ours is None or ours.sha256 != sha256:
        message = f"the tokenizer is not that of {source.path}, whose weights the run begins with"
        hint = "write the run's own into its folder before: tokenizer.save_folder(path, context)"
        raise CheckpointError("other-tokenizer", message, place=source.path, hint=hint)
    rows_by_token = source.run.tokenizer().token_keys
    own_rows = ours.token_keys.items()
    shared = {row: rows_by_token[key] for key, row in own_rows if key in rows_by_token}
    note = f"another tokenizer: {len(shared)} of {ours.vocab_size} tokens are the source's too"
    return TokenRows(list(shared), list(shared.values()), note)


@torch.no_grad()
def take_weights(
    model: nn.Module, graph: BlockGraph, run: FinishedRun, tokens: TokenRows | None = None
) -> Takeover:
    """Fill an emitted module of ``graph`` with all that fits of a trained run.

    ``tokens`` are the rows of embedding and head; by default each id is the source's.
    What the run does not have stays as it is, so that fresh adapters change nothing. Raises what
    `check_source` raises, before anything is changed.
    """
    check_source(run.graph.spec, graph.spec, str(run.path))
    with allocation_errors():
        theirs = run.model(torch.device("cpu")).state_dict()
    own = model.state_dict(keep_vars=True)
    tied_before = (
        HEAD in own and HEAD not in theirs and own[HEAD].shape[1:] == theirs[EMBEDDING].shape[1:]
    )
    names = {name: name for name in own if name in theirs}
    if tied_before:
        names[HEAD] = EMBEDDING
    excluded = _changed_repeats(run.graph, graph)
    names_taken, partly = [], {}
    for name, source_name in names.items():
        tensor, source = own[name], theirs[source_name]
        if name.startswith(excluded) or tensor.shape[1:] != source.shape[1:]:
            continue
        if tokens is not None and name in (EMBEDDING, HEAD):
            rows = len(tokens.own)
            tensor.data[list(tokens.own)] = source[list(tokens.theirs)].to(tensor)
        else:  # adapters of more rounds, positions of more tokens
            rows = min(len(tensor), len(source))
            tensor.data[:rows].copy_(source[:rows])
        if rows:
            names_taken.append(name)
        if 0 < rows < len(tensor):
            partly[name] = rows, len(tensor)
    used = {names[name] for name in names_taken}
    return Takeover(
        tuple(names_taken),
        tuple(name for name in own if name not in names_taken),
        tuple(name for name in theirs if name not in used),
        partly,
        tuple(_notes(run.graph.spec, graph.spec)),
        None if tokens is None else tokens.note,
    )


def _changed_repeats(before: BlockGraph, now: BlockGraph) -> tuple[str, ...]:
    """Beginnings of the names of tensors that mean something else in the source."""
    old, new = ({loop.name: loop for loop in graph.loops()} for graph in (before, now))
    prefixes = []
    for name in old.keys() & new.keys():
        ours, theirs = new[name].options, old[name].options
        both = (ours.adapter, theirs.adapter)
        adapters = [adapter and (adapter.kind, adapter.by) for adapter in both]
        prefix = loop_prefix(name)
        prefixes += [f"{prefix}adapter"] if adapters[0] != adapters[1] else []
        prefixes += [f"{prefix}inject"] if ours.inject != theirs.inject else []
        prefixes += [f"{prefix}start"] if ours.start != theirs.start else []
    return tuple(prefixes)


def _notes(before: ModelSpec, now: ModelSpec) -> Iterable[str]:
    for key in MAY_DIFFER:
        old, new = getattr(before, key), getattr(now, key)
        if old != new:
            yield f"{key} is {new}, not {old}"


def _in_words(tensors: Iterable[str]) -> str:
    """``embedding, A (2 layers), B (2 layers), final_norm``: tensors by block and layer."""
    layers: dict[str, list[str]] = {}
    for name in tensors:
        owner, *inner = name.split(".")
        layer = next((word for word in inner if word.isdigit()), None)
        indices = layers.setdefault(_owner(owner, inner), [])
        if layer is not None and layer not in indices:
            indices.append(layer)
    return ", ".join(
        f"{owner} ({'layer' if len(own) == 1 else 'layers'} {_ranges(own)})" if own else owner
        for owner, own in layers.items()
    )


def _owner(owner: str, inner: list[str]) -> str:
    """A repeat's own tensors by what they are for: ``loop_A.adapter``."""
    return f"{owner}.{inner[0]}" if owner.startswith("loop_") and len(inner) > 1 else owner


def _ranges(layers: list[str]) -> str:
    """``1-3`` for the indices 0, 1 and 2."""
    numbers = sorted(int(layer) + 1 for layer in layers)
    if numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 1:
        return f"{numbers[0]}-{numbers[-1]}"
    return ", ".join(map(str, numbers))


def same_source(begun: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str | None:
    """How the source of a begun run and of a command differ, in words; None where they agree."""
    if begun is None and now is None:
        return None
    if begun is None:
        return "this run was begun from fresh weights"
    if now is None:
        return f"this run was begun from the weights of {begun['path']}"
    if begun["weights_sha256"] != now["weights_sha256"]:
        return f"this run was begun from other weights, those of {begun['path']}"
    return None


def is_named(record: Mapping[str, Any], path: str) -> bool:
    """Whether ``path`` names the source of a record."""
    name = str(record["path"])
    return name == path or Path(name).resolve() == Path(path).resolve()
