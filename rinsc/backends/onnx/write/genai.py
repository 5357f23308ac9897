"""The files by which ONNX Runtime GenAI generates from an exported model.

What they say is taken from the model itself: its metadata, and the inputs of its graph.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rinsc.backends.onnx import contract
from rinsc.backends.onnx.run.loading import read_metadata
from rinsc.backends.onnx.write.builder import shape_of
from rinsc.backends.onnx.write.file import CONFIG_FILE
from rinsc.backends.onnx.write.fusion import can_fuse
from rinsc.errors import DataError, LoweringError, plural, setting
from rinsc.generation import checked_request
from rinsc.graph import build_graph
from rinsc.spec import ModelSpec
from rinsc.storage.files import parse_json
from rinsc.text.tokenizer_files import (
    SpecialTokens,
    read_declared,
    special_tokens,
    tokenizer_files,
    vocabulary_size,
)
from rinsc.text.tokenizer_files import (
    stop_ids as known_stop_ids,
)

if TYPE_CHECKING:
    from rinsc.backends.onnx.write.file import OnnxModel


NEVER_IN_TEXT = "\xff"  # how a byte-level vocabulary writes the byte 0xFF, which UTF-8 never has


def genai_files(
    model: OnnxModel, tokenizer: Path | None = None, *, stop_ids: Sequence[int] = ()
) -> Mapping[str, bytes]:
    """Files, by name, that make the folder of ``model.onnx`` one that `onnxruntime_genai` loads.

    They are ``genai_config.json`` and, with a ``tokenizer`` (a file of the library tokenizers), the
    files of `rinsc.text.tokenizer_files`, with a template of chats where one stands beside it.
    Generation ends at each of ``stop_ids`` and at ``max_length``, by default the context. Where no
    stop ids are given they are those of the tokenizer and of the configs beside it. The package
    cannot do without a token that ends a text: where none is known it is the byte 0xFF of a
    byte-level tokenizer, which no text holds.

    The rounds of a gated model are set for each generator, before it is given tokens, and are those
    of the whole sequence::

        depth = numpy.array(2, numpy.int64)
        generator.set_model_input("depth", depth)

    Where several repeats are dials, each has its ``depth_<repeat>``. The package reads the array
    at each token and does not keep it alive: hold it as long as the generator, and leave it as it
    is. Unset, the package raises RuntimeError (``Missing Input: depth``). Nothing checks the
    number: below 1 it runs as 1, above the rounds that were written as those. Batches are padded
    on the right, as the package's own ``encode_batch`` does; on the left they give wrong tokens.
    The padding is the tokenizer's own, else an id that no token has, else what ends a text: no
    prompt of a batch may end with that. The package's texts end at a NUL character.

    Raises `LoweringError` for a model that the package cannot run (one without a cache, one with
    an input ``rounds_<repeat>``, a gated one of standard operators) and where no token can end a
    text; `UsageError` for stop ids that are none, and `DataError` for a tokenizer that cannot be
    read or has more tokens than the model.
    """
    plan = plan_genai(model.metadata, tokenizer, stop_ids=stop_ids)
    spec = plan.spec
    config = {
        "model": {
            "type": "decoder",
            "vocab_size": spec.vocab_size,
            "context_length": spec.context,
            "eos_token_id": plan.stop_ids,
            "pad_token_id": plan.stop_ids[0] if plan.padding is None else plan.padding,
            "decoder": _decoder(model, spec),
        },
        "search": {
            "do_sample": False,
            "max_length": spec.context,
            # Standard operators give a longer cache back.
            "past_present_share_buffer": _is_fused(model.metadata),
        },
    }
    return {CONFIG_FILE: _json(config), **plan.files}


@dataclass(frozen=True)
class GenaiPlan:
    """What the package is told of texts; ``files`` are those of the tokenizer."""

    spec: ModelSpec
    stop_ids: Sequence[int]
    padding: int | None
    files: Mapping[str, bytes]


def plan_genai(
    metadata: Mapping[str, str], tokenizer: Path | None = None, *, stop_ids: Sequence[int] = ()
) -> GenaiPlan:
    """Whatever can be wrong before there is a model; raises what `genai_files` raises."""
    spec, _ = read_metadata(metadata, "the model")
    _check_form(metadata, spec)
    stops = sorted(checked_request([0], 0, spec, stop_ids).stop_ids)
    files: Mapping[str, bytes] = {}
    padding: int | None = None
    if tokenizer is not None:
        text, content = _read_tokenizer(tokenizer, spec)
        _require_same_ids(tokenizer, content)
        declared = read_declared(tokenizer.parent)
        special = special_tokens(text, declared)
        known_ids = known_stop_ids(tokenizer.parent, special.stop_ids, spec.vocab_size)
        padding = _padding(special, vocabulary_size(text), spec)
        stops = stops or list(known_ids) or _never_in_text(content)
        files = tokenizer_files(text, declared, spec.context)
    if not stops:
        message = "ONNX Runtime GenAI needs a token that ends a text, and none is known"
        hint = f"name one: {setting('stop_ids=[ID]', '--stop-id ID')}"
        raise LoweringError("no-stop-token", message, hint=hint)
    return GenaiPlan(spec, stops, padding, files)


def _check_form(metadata: Mapping[str, str], spec: ModelSpec) -> None:
    """Raises `LoweringError` for a form that the package cannot run."""
    graph, form = build_graph(spec), metadata[contract.Key.FORM]
    dial = next((loop.name for loop in graph.dials()), None)
    if not parse_json(metadata[contract.Key.CACHE]):
        code, message = "no-cache", "ONNX Runtime GenAI needs a model with a cache"
        hint = f"export it with {setting('cache=True', '--cache')}"
    elif dial is not None and form == "dynamic":
        code, name = "rounds-are-a-loop", contract.dial_name(graph, dial, gated=False)
        message = f"ONNX Runtime GenAI cannot run a model whose rounds are the input '{name}'"
        hint = "export it with gated=True and the most rounds that are needed, or with fixed rounds"
    elif dial is not None and form == "gated" and not _is_fused(metadata):
        code = "gated-and-portable"
        message = "ONNX Runtime GenAI cannot run gated rounds of standard operators"
        hint = "leave out portable, or gated"
        if not can_fuse(spec):
            hint = "leave out gated; fused operators need heads whose width divides by 8"
    else:
        return
    raise LoweringError(code, message, hint=hint)


def _padding(special: SpecialTokens, tokens: int, spec: ModelSpec) -> int | None:
    """The id that fills a batch and that no text holds, where there is one.

    The package takes it for padding wherever it ends a row of a batch.
    """
    if special.padding is not None and special.padding not in special.stop_ids:
        return special.padding
    return tokens if tokens < spec.vocab_size else None


def _decoder(model: OnnxModel, spec: ModelSpec) -> Mapping[str, Any]:
    """What the package is to know of the graph; each slot of the cache is a layer to it."""
    inputs = {str(value.name): shape_of(value) for value in model.ir.graph.inputs}
    slots = [shape for name, shape in inputs.items() if name.startswith(contract.PAST)]
    if any(shape != slots[0] for shape in slots):
        message = "ONNX Runtime GenAI needs a cache of which all slots have one shape"
        hint = "give all blocks layer kinds with the same number of heads for keys and values"
        raise LoweringError("uneven-cache", message, hint=hint)
    _, kv_heads, _, head_dim = slots[0]
    return {
        "filename": contract.MODEL_FILE,
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "hidden_size": spec.width,
        "head_size": head_dim,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": len(slots) // 2,
        "inputs": {
            "input_ids": contract.IDS,
            "attention_mask": contract.MASK,
            "past_key_names": contract.slot_name(contract.PAST, "%d", 0),
            "past_value_names": contract.slot_name(contract.PAST, "%d", 1),
        },
        "outputs": {
            "logits": contract.LOGITS,
            "present_key_names": contract.slot_name(contract.PRESENT, "%d", 0),
            "present_value_names": contract.slot_name(contract.PRESENT, "%d", 1),
        },
    }


def _is_fused(metadata: Mapping[str, str]) -> bool:
    return metadata[contract.Key.OPERATORS] == "fused"


def _read_tokenizer(path: Path, spec: ModelSpec) -> tuple[str, Mapping[str, Any]]:
    """The file as it is and what it says; raises `DataError`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _tokenizer_error("cannot-read", "cannot read the tokenizer", path) from error
    try:
        text = data.decode("utf-8")
        content = parse_json(text)
        tokens = vocabulary_size(text)
        if not tokens:
            raise ValueError("it has no tokens")
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
    ) as error:
        message = "not the file of a tokenizer"
        raise _tokenizer_error("bad-tokenizer", message, path) from error
    if tokens > spec.vocab_size:
        message = f"the tokenizer has {plural(tokens, 'token')}, the model {spec.vocab_size}"
        raise _tokenizer_error("vocabulary-mismatch", message, path)
    return text, content


def _require_same_ids(path: Path, content: Mapping[str, Any]) -> None:
    """Raises `LoweringError` for a tokenizer of which the package makes other ids, or none.

    It reads byte-level pairs without a normalizer, and pairs with bytes for what is unknown.
    """
    pre, normalizer = content.get("pre_tokenizer"), content.get("normalizer")
    stages = pre.get("pretokenizers", [pre]) if isinstance(pre, Mapping) else []
    kinds = [stage.get("type") for stage in stages]
    last = stages[-1] if stages else {}
    if content["model"].get("type", "BPE") != "BPE":
        is_read = False
    elif "ByteLevel" in kinds:
        splits = last.get("use_regex", True) or "Split" in kinds
        is_read = normalizer is None and splits and not last.get("add_prefix_space", True)
    else:
        is_read = not stages
    if not is_read:
        message = "ONNX Runtime GenAI makes other ids than training of a text with this tokenizer"
        hint = f"leave {setting('genai')} out, or train with a byte-level tokenizer without a "
        hint += "normalizer"
        raise LoweringError("unlike-tokenizer", message, place=str(path), hint=hint)


def _never_in_text(tokenizer: Mapping[str, Any]) -> list[int]:
    """The id of the byte that no text holds; empty where the tokens are not made of bytes."""
    decoder = tokenizer.get("decoder")
    if not isinstance(decoder, Mapping) or decoder.get("type") != "ByteLevel":
        return []
    token = tokenizer["model"]["vocab"].get(NEVER_IN_TEXT)
    return [] if token is None else [token]


def _tokenizer_error(code: str, message: str, path: Path) -> DataError:
    hint = "name the tokenizer.json of the run that the model comes from"
    return DataError(code, message, place=str(path), hint=hint)


def _json(content: Mapping[str, Any]) -> bytes:
    return f"{json.dumps(content, indent=2)}\n".encode()
