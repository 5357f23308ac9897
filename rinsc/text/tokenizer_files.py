"""What the files of a tokenizer say: its special tokens, what ends a text, its chat template.

Every part of rinsc that writes or reads a folder with a ``tokenizer.json`` decides here which ids
end a text, and what the files of an export hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rinsc.errors import CheckpointError
from rinsc.storage.files import parse_json, read_regular, read_regular_text

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_FILES = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, TEMPLATE_FILE)
GENERATION_FILE = "generation_config.json"
# Where a model says which ids end a text: in `eos_token_id`, of GenAI below "model".
MODEL_CONFIGS = (GENERATION_FILE, "config.json", "genai_config.json")

END_OF_TEXT = "<|endoftext|>"  # of the tokenizers that are learned here
# What ends a document, where a vocabulary holds one of them as a special token.
ENDS_OF_DOCUMENT = (
    *(END_OF_TEXT, "<|end_of_text|>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
    *("<eos>", "</s>", "[SEP]"),
)
# What ends the turn of a chat, and with it what a model has to say.
ENDS_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|return|>")
PADDING = ("<pad>", "<|pad|>", "[PAD]", "<|padding|>")  # special tokens that fill a batch

MAX_CONFIG_BYTES = 1 << 24  # of the small files beside tokenizer.json
MAX_UNUSED_IDS = 1 << 17  # in a vocabulary; tables are as long as its largest id
MAX_GROWTH = 256  # characters that the replacements of a tokenizer make of one, all together


@dataclass(frozen=True)
class DeclaredTokens:
    """What stands beside a tokenizer.json: tokens by use, and the templates of chats.

    ``chat_template`` is the text of a Jinja template, or a list of named ones as transformers
    writes them.
    """

    eos_token: str | None = None
    bos_token: str | None = None
    pad_token: str | None = None
    unk_token: str | None = None
    sep_token: str | None = None
    cls_token: str | None = None
    mask_token: str | None = None
    chat_template: str | list[dict[str, str]] | None = None

    @property
    def template(self) -> str | None:
        """The template of a plain chat."""
        if isinstance(self.chat_template, list):
            named = {one["name"]: one["template"] for one in self.chat_template}
            return named.get("default")
        return self.chat_template

    @property
    def tokens(self) -> dict[str, str]:
        """The declared tokens by the names that transformers gives them."""
        values = {use: value for use, value in asdict(self).items() if use.endswith("_token")}
        return {use: value for use, value in values.items() if value is not None}


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that have a use: what stands between documents, ends a text, fills a batch."""

    end_of_document: int | None
    stop_ids: tuple[int, ...]
    padding: int | None

    @property
    def config_ids(self) -> dict[str, int | list[int]]:
        """The keys of a model's config; one id stands alone, as most tools expect."""
        values: dict[str, int | list[int]] = {}
        if self.stop_ids:
            several = len(self.stop_ids) > 1
            values["eos_token_id"] = list(self.stop_ids) if several else self.stop_ids[0]
        if self.padding is not None:
            values["pad_token_id"] = self.padding
        return values


def resolve(special: Mapping[str, int], declared: DeclaredTokens) -> SpecialTokens:
    """The ids with a use among the ``special`` tokens of a vocabulary, by their texts.

    The token between documents is the first known name, else the one that is declared to end a
    text. A text ends at the declared token, at the one between documents, at every other end of a
    document and at every end of a turn. What ends a text fills a batch where nothing else does.
    """
    ends = [special[name] for name in ENDS_OF_DOCUMENT if name in special]
    eos = None if declared.eos_token is None else special.get(declared.eos_token)
    turns = [special[name] for name in ENDS_OF_TURN if name in special]
    stops = list(dict.fromkeys([*([] if eos is None else [eos]), *ends, *turns]))
    pads = (declared.pad_token, *PADDING)
    padding = next((special[name] for name in pads if name is not None and name in special), None)
    end = ends[0] if ends else eos
    if padding is None and stops:
        padding = stops[0]
    return SpecialTokens(end, tuple(stops), padding)


def special_ids(tokenizer: str) -> dict[str, int]:
    """The special tokens of a tokenizer.json, of this text; raises `CheckpointError`."""
    try:
        added = parse_json(tokenizer).get("added_tokens") or []
        special = {token["content"]: token["id"] for token in added if token.get("special")}
    except (ValueError, AttributeError, KeyError, TypeError):
        message = "the tokenizer.json is damaged"
        hint = "restore the file, or train the run again"
        raise CheckpointError("bad-tokenizer", message, hint=hint) from None
    return special


def special_tokens(tokenizer: str, declared: DeclaredTokens | None = None) -> SpecialTokens:
    """`resolve` for a tokenizer.json, of this text; raises `CheckpointError`."""
    return resolve(special_ids(tokenizer), declared or DeclaredTokens())


def read_declared(folder: Path) -> DeclaredTokens:
    """What the files beside a tokenizer.json declare; a file that cannot be read declares nothing.

    ``chat_template.jinja`` wins over a template in ``tokenizer_config.json``.
    """
    values: dict[str, Any] = {}
    config = {
        **_read_object(folder / "special_tokens_map.json"),
        **_read_object(folder / TOKENIZER_CONFIG_FILE),
    }
    for field in fields(DeclaredTokens):
        if field.name.endswith("_token") and (text := _token_text(config.get(field.name))):
            values[field.name] = text
    template = _read_text(folder / TEMPLATE_FILE) or _template(config.get("chat_template"))
    return DeclaredTokens(**values, chat_template=template)


def declared_stop_ids(folder: Path) -> list[int]:
    """The ids that the configs of a model in ``folder`` say end a text."""
    numbers: list[int] = []
    for name in MODEL_CONFIGS:
        config = _read_object(folder / name)
        inner = config.get("model")
        config = inner if name == "genai_config.json" and isinstance(inner, dict) else config
        value = config.get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        numbers += [number for number in ids if type(number) is int and number >= 0]
    return list(dict.fromkeys(numbers))


def stop_ids(folder: Path, of_tokenizer: Iterable[int], vocab_size: int) -> tuple[int, ...]:
    """The ids that end a text of the model in ``folder``: those of its tokenizer and its configs.

    Ids that the model does not have are left out.
    """
    ids = (*of_tokenizer, *declared_stop_ids(folder))
    return tuple(dict.fromkeys(number for number in ids if number < vocab_size))


def vocabulary_size(tokenizer: str) -> int:
    """One more than the largest id of a tokenizer.json, of this text.

    Raises ValueError and what else a text does that is no tokenizer.json.
    """
    return _size(parse_json(tokenizer))


def _size(content: Any) -> int:
    vocab = content["model"]["vocab"]
    ids = range(len(vocab)) if isinstance(vocab, list) else map(int, vocab.values())
    largest = max(ids, default=-1)
    added = (int(token["id"]) for token in content.get("added_tokens") or ())
    return 1 + max([largest, *added])


def check_claims(tokenizer: str) -> None:
    """Raises ValueError for a tokenizer.json, of this text, that would take more memory than it is
    worth: ids far beyond the tokens that it has, and replacements that make a text grow."""
    try:
        content = parse_json(tokenizer)
        vocab, added = content["model"]["vocab"], content.get("added_tokens") or ()
        largest = _size(content)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError("it has no vocabulary") from error
    if largest > len(vocab) + len(added) + MAX_UNUSED_IDS:
        raise ValueError(f"it has an id of {largest - 1} and {len(vocab)} tokens")
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        growth = 1
        for replacement in _replacements(content.get(part)):
            growth *= max(1, len(replacement))
            if growth > MAX_GROWTH:
                raise ValueError(f"its {part} makes more than {MAX_GROWTH} characters of one")


def _replacements(step: Any) -> Iterator[str]:
    """What the steps of a tokenizer put in the place of a text."""
    if isinstance(step, dict):
        if step.get("type") == "Replace" and isinstance(step.get("content"), str):
            yield step["content"]
        for inner in step.values():
            yield from _replacements(inner)
    elif isinstance(step, list):
        for inner in step:
            yield from _replacements(inner)


def generation_config(stops: tuple[int, ...], padding_from: int, vocab_size: int) -> dict[str, Any]:
    """What generation in transformers is told: the ids that end a text, and those without a token.

    A vocabulary may be padded: ids from ``padding_from`` on are never generated.
    """
    values: dict[str, Any] = {}
    if stops:
        values["eos_token_id"] = list(stops) if len(stops) > 1 else stops[0]
    if padding_from < vocab_size:
        values["suppress_tokens"] = list(range(padding_from, vocab_size))
    return values


def without_additions(tokenizer: str) -> str:
    """A tokenizer.json that adds nothing to a text by itself, which is how rinsc trains.

    Templates of a sequence, truncation, padding and the dropout of byte-pair merges are taken out,
    so that every tool makes the ids of it that training saw. A file that has none of them stays as
    it is. Raises ValueError and what else a text does that is no tokenizer.json.
    """
    content = parse_json(tokenizer)
    model = content["model"]
    processor = _without_templates(content.get("post_processor"))
    is_plain = (
        processor == content.get("post_processor")
        and content.get("truncation") is None
        and content.get("padding") is None
        and model.get("dropout") is None
    )
    if is_plain:
        return tokenizer
    content |= {"truncation": None, "padding": None, "post_processor": processor}
    if "dropout" in model:
        model["dropout"] = None
    return json.dumps(content, ensure_ascii=False, indent=2)


def tokenizer_files(tokenizer: str, declared: DeclaredTokens, context: int) -> Mapping[str, bytes]:
    """The files of a tokenizer by name, for every folder that other tools read.

    Raises `CheckpointError` for a text that is no tokenizer.json.
    """
    special = special_ids(tokenizer)
    resolved = resolve(special, declared)
    texts_by_id = {number: text for text, number in special.items()}
    values: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # all that it does stands in tokenizer.json
        "backend": "tokenizers",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    if resolved.end_of_document is not None:
        values["eos_token"] = texts_by_id[resolved.end_of_document]
    if resolved.padding is not None:
        values["pad_token"] = texts_by_id[resolved.padding]
    values |= {use: text for use, text in declared.tokens.items() if text in special}
    if declared.chat_template is not None:
        values["chat_template"] = declared.chat_template
    files = {
        TOKENIZER_FILE: _plain(tokenizer),
        TOKENIZER_CONFIG_FILE: json.dumps(values, indent=2, ensure_ascii=False) + "\n",
    }
    if declared.template is not None:
        files[TEMPLATE_FILE] = declared.template
    return {name: text.encode("utf-8") for name, text in files.items()}


def read_tokenizer_text(tokenizer: Path) -> str:
    """The text of a tokenizer.json; raises `CheckpointError` for what is none."""
    try:
        return read_regular_text(tokenizer)
    except (OSError, UnicodeDecodeError):
        message, hint = "the tokenizer.json cannot be read as text", "restore the file"
        location = str(tokenizer)
        raise CheckpointError("bad-tokenizer", message, place=location, hint=hint) from None


def read_tokenizer_files(tokenizer: Path, context: int) -> Mapping[str, bytes]:
    """`tokenizer_files` of a file, with what stands beside it; raises `CheckpointError`."""
    text = read_tokenizer_text(tokenizer)
    return tokenizer_files(text, read_declared(tokenizer.parent), context)


def _plain(tokenizer: str) -> str:
    try:
        return without_additions(tokenizer)
    except (ValueError, KeyError, TypeError, AttributeError):
        return tokenizer  # its special tokens could be read; what cannot be is told by its reader


def _without_templates(processor: Any) -> Any:
    """The part of a post-processor that adds no token: offsets of byte-level tokens."""
    if not isinstance(processor, dict):
        return None
    if processor.get("type") == "ByteLevel":
        return processor
    if processor.get("type") == "Sequence":
        parts = [item for item in processor.get("processors", ()) if _without_templates(item)]
        return {**processor, "processors": parts} if parts else None
    return None


def _token_text(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and text else None


def _template(value: Any) -> str | list[dict[str, str]] | None:
    if isinstance(value, str):
        return value or None
    if isinstance(value, list) and all(_is_named(item) for item in value):
        return value or None
    return None


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(key), str) for key in ("name", "template")
    )


def _read_text(path: Path) -> str | None:
    try:
        data = read_regular(path, MAX_CONFIG_BYTES + 1)
        return None if len(data) > MAX_CONFIG_BYTES else data.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(_read_text(path) or "null")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
