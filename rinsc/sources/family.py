"""What a family of foreign checkpoints is, and how any of them is read and written.

A Llama of two layers as the signature ``A``:

    config.json                     the spec
    hidden_size: 64                 width = 64
    num_key_value_heads: 2          kv_heads = 2
    hidden_act: "silu"              (required: our kind has no other)

    model.layers.1.mlp.up_proj.weight   A.1.up.weight
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from rinsc.errors import CheckpointError, Problem, SpecError, listed
from rinsc.graph import BlockGraph, build_graph
from rinsc.layers import weight_shapes
from rinsc.layers.weight_names import block_weights
from rinsc.spec import ModelSpec, model_spec
from rinsc.syntax.tree import Signature

MOST_NAMES = 4  # of tensors, in an error
DESCRIPTIONS = frozenset(  # keys that say where a config is from, or how text is made of it
    (
        *("_name_or_path", "architectures", "auto_map", "dtype", "model_type", "torch_dtype"),
        *("transformers_version", "transformers.js_config", "use_cache", "return_dict"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id"),
        *("cls_token_id", "mask_token_id", "_model_name_or_path", "is_llama_config"),
        *("chunk_size_feed_forward", "id2label", "label2id", "is_encoder_decoder"),
        *("output_attentions", "output_hidden_states", "problem_type"),
    )
)


class Array(Protocol):
    """What a tensor needs to have here: numpy, torch and lazily mapped ones do."""

    @property
    def shape(self) -> Any: ...


Tensor = TypeVar("Tensor", bound=Array)


@dataclass(frozen=True)
class Family:
    """One kind of foreign checkpoint.

    ``dimensions`` are keys of a spec and what the config calls them; ``defaults`` are what a config
    without such a key means, None for what our spec makes of it. ``required`` are keys of the
    config with the one value that our ``kind`` computes, which is also what a config without the
    key means; ``settings`` are those of the kind. ``ignored`` change no logits. ``more`` reads
    what a single key does not say: it gives keys of a spec, and raises `SpecError`; ``more_config``
    is its way back. ``frame`` and ``layer`` are our names of tensors and theirs, with ``{layer}``
    for the number in the stack.
    """

    model_type: str
    kind: str
    dimensions: Mapping[str, str]
    required: Mapping[str, object]
    frame: Mapping[str, str]
    layer: Mapping[str, str]
    defaults: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    read_elsewhere: frozenset[str] = frozenset()  # keys that ``more`` reads
    more: Callable[[Mapping[str, object]], dict[str, Any]] = field(default=lambda config: {})
    more_config: Callable[[ModelSpec], dict[str, Any]] = field(default=lambda spec: {})


def spec_from_config(
    family: Family, config: Mapping[str, object], signature: str | Signature = "A"
) -> ModelSpec:
    """The spec of a foreign model, its stack as ``signature``.

    Raises `SpecError` for a key that is missing, for a value that our kind does not compute, and
    for a key that is not known: nothing is left out in silence.
    """
    problems = [*_missing(family, config), *_unsupported(family, config), *_unknown(family, config)]
    if problems:
        raise SpecError.of(*problems)
    values: dict[str, Any] = {"kind": family.kind, **family.more(config)}
    if family.settings:
        values["settings"] = {family.kind: dict(family.settings)}
    for ours, theirs in family.dimensions.items():
        value = config.get(theirs, family.defaults.get(theirs))
        if value is not None:
            values[ours] = value
    return model_spec(signature, **values)


def config_from_spec(family: Family, spec: ModelSpec) -> dict[str, Any]:
    """The foreign config of a spec whose blocks are all of the family's kind, visited once each.

    Raises `SpecError` for another spec.
    """
    graph = build_graph(spec)
    kinds = {block.kind for block in graph.blocks.values()}
    visits = graph.visit_counts()
    kinds.add(spec.kind)  # of what comes before and after the blocks
    if kinds != {family.kind} or any(count != 1 for count in visits.values()):
        message = f"'{spec.text}' is not a plain stack of {family.kind} layers"
        hint = "write each block once, as in AB"
        raise SpecError("not-a-plain-stack", message, hint=hint)
    if dict(spec.settings.get(family.kind, {})) != dict(family.settings):
        message = f"'{spec.text}' has other settings of {family.kind} than a {family.model_type}"
        hint = f"its settings are {dict(family.settings)}"
        raise SpecError("not-a-plain-stack", message, place="settings", hint=hint)
    own = {theirs: getattr(spec, ours) for ours, theirs in family.dimensions.items()}
    return {
        "model_type": family.model_type,
        **own,
        **family.required,
        **family.more_config(spec),
    }


def tensor_names(family: Family, graph: BlockGraph) -> dict[str, str]:
    """Their name of each of our tensors; layers are counted over the blocks in their order."""
    names = {name: family.frame[name] for name in weight_shapes(graph) if name in family.frame}
    for index, prefix in enumerate(_layer_prefixes(graph)):
        for ours, theirs in family.layer.items():
            names[prefix + ours] = theirs.format(layer=index)
    return names


def tensors_by_our_names(
    family: Family, graph: BlockGraph, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A foreign checkpoint's tensors under our names.

    Raises `CheckpointError` for tensors that are missing, that nothing takes, or of another shape.
    A matrix that is tied may stand there again under its second name.
    """
    names, shapes = tensor_names(family, graph), weight_shapes(graph)
    problems = []
    for ours, theirs in names.items():
        if theirs not in tensors:
            problems.append(_problem("missing-tensor", f"'{theirs}' is not there"))
        elif tuple(tensors[theirs].shape) != tuple(shapes[ours]):
            message = f"'{theirs}' has the shape {tuple(tensors[theirs].shape)}"
            problems.append(_problem("other-shape", f"{message}, not {tuple(shapes[ours])}"))
    tied = family.frame.get("head.weight") if graph.spec.tied_embedding else None
    surplus = sorted(tensors.keys() - set(names.values()) - {tied})
    if surplus:
        named = listed([f"'{name}'" for name in surplus], MOST_NAMES)
        problems.append(_problem("surplus-tensor", f"nothing takes {named}"))
    if problems:
        raise CheckpointError.of(*problems[:MOST_NAMES])
    return {ours: tensors[theirs] for ours, theirs in names.items()}


def tensors_by_their_names(
    family: Family, graph: BlockGraph, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Our tensors under the names of a foreign checkpoint."""
    return {theirs: tensors[ours] for ours, theirs in tensor_names(family, graph).items()}


def _layer_prefixes(graph: BlockGraph) -> Iterator[str]:
    for name, block in graph.blocks.items():
        weights = block_weights(graph, name)
        yield from (weights.layer(index) for index in range(block.layers))


def _missing(family: Family, config: Mapping[str, object]) -> Iterator[Problem]:
    for key in family.dimensions.values():
        if config.get(key) is None and key not in family.defaults:
            yield _problem("missing-key", f"the config does not say '{key}'", key)


def _unsupported(family: Family, config: Mapping[str, object]) -> Iterator[Problem]:
    for key, value in family.required.items():
        own = config.get(key, value)
        if own != value:
            message = f"'{key}' is {own!r:.60}, and only {value!r} is computed"
            yield _problem("unsupported-value", message, key)


def _unknown(family: Family, config: Mapping[str, object]) -> Iterator[Problem]:
    known = {*family.dimensions.values(), *family.required, *family.ignored}
    for key in config.keys() - known - family.read_elsewhere - DESCRIPTIONS:
        if config[key] not in (None, False):
            message = f"the config has '{key}', which may change what is computed"
            yield _problem("unknown-key", message, key)


def _problem(code: str, message: str, key: str | None = None) -> Problem:
    location = None if key is None else f"config.json: {key}"
    hint = "this checkpoint is of another architecture than the family"
    return Problem(code, message, place=location, hint=hint)
