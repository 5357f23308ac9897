"""What a family of foreign checkpoints is, and how any of them is read and written.

A Llama of two layers as the signature ``A``:

    config.json                     the spec
    hidden_size: 64                 width = 64
    num_key_value_heads: 2          kv_heads = 2
    hidden_act: "silu"              (required: our kind has no other)

    model.layers.1.mlp.up_proj.weight   A.1.up.weight
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar

from rinsc.errors import CheckpointError, Problem, SpecError, listed
from rinsc.graph import BlockGraph, Visit, build_graph
from rinsc.layers import trace_programs, weight_shapes
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

    def __getitem__(self, rows: slice, /) -> Self: ...


Tensor = TypeVar("Tensor", bound=Array)


@dataclass(frozen=True)
class Share:
    """One of ``of`` equal shares of the rows of a tensor, as queries are of ``in_proj_weight``."""

    name: str
    index: int = 0
    of: int = 1

    def shape(self, own: Sequence[int]) -> tuple[int, ...]:
        """That of the whole tensor, where ``own`` is that of the share."""
        return (own[0] * self.of, *own[1:]) if self.of > 1 else tuple(own)

    def taken(self, tensor: Tensor) -> Tensor:
        """The share; the tensor itself where it is all of it."""
        rows = tensor.shape[0] // self.of if self.of > 1 else 0
        return tensor[self.index * rows : (self.index + 1) * rows] if self.of > 1 else tensor


@dataclass(frozen=True)
class Family:
    """One kind of foreign checkpoint.

    ``dimensions`` are keys of a spec and what the config calls them; ``defaults`` are what a config
    without such a key means, None for what our spec makes of it. ``required`` are keys of the
    config with the one value that our ``kind`` computes, which is also what a config without the
    key means; ``settings`` are those of the kind. ``ignored`` change no logits. ``more`` reads
    what a single key does not say: it gives keys of a spec, and raises `SpecError`; ``more_config``
    is its way back. ``frame`` and ``layer`` are our names of tensors and theirs, with ``{layer}``
    for the number in the stack. ``constants`` are tensors that hold what the config says already.
    """

    model_type: str
    kind: str
    dimensions: Mapping[str, str]
    required: Mapping[str, object]
    frame: Mapping[str, str | Share]
    layer: Mapping[str, str]
    constants: frozenset[str] = frozenset()
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
    problems = list(config_problems(family, config))
    if problems:
        raise SpecError.of(*problems)
    return model_spec(signature, **spec_values(family, config))


def spec_values(family: Family, config: Mapping[str, object]) -> dict[str, Any]:
    """What a config that is honoured says, under the keys of a spec."""
    values: dict[str, Any] = {"kind": family.kind, **family.more(config)}
    if family.settings:
        values["settings"] = {family.kind: dict(family.settings)}
    for ours, theirs in family.dimensions.items():
        value = config.get(theirs)
        value = family.defaults.get(theirs) if value is None else value
        if value is not None:
            values[ours] = value
    return values


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
    return stack_config(family, spec)


def stack_config(family: Family, spec: ModelSpec) -> dict[str, Any]:
    """The foreign config of a spec that is one of the family."""
    own = {theirs: getattr(spec, ours) for ours, theirs in family.dimensions.items()}
    return {
        "model_type": family.model_type,
        **own,
        **family.required,
        **family.more_config(spec),
    }


def tensor_names(family: Family, graph: BlockGraph) -> dict[str, str]:
    """Their name of each of our tensors; layers are counted over the blocks in their order."""
    return {ours: share.name for ours, share in tensor_shares(family, graph).items()}


def tensor_shares(family: Family, graph: BlockGraph) -> dict[str, Share]:
    """`tensor_names`, with what of the tensor is ours."""
    names = {name: family.frame[name] for name in weight_shapes(graph) if name in family.frame}
    for index, prefix in enumerate(_layer_prefixes(graph)):
        for ours, theirs in family.layer.items():
            names[prefix + ours] = theirs.format(layer=index)
    return {n: Share(whole) if isinstance(whole, str) else whole for n, whole in names.items()}


def tensors_by_our_names(
    family: Family, graph: BlockGraph, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A foreign checkpoint's tensors under our names.

    Raises `CheckpointError` for tensors that are missing, that nothing takes, or of another shape.
    A matrix that is tied may stand there again under its second name.
    """
    tied = family.frame.get("head.weight") if graph.spec.tied_embedding else None
    constants = {*family.constants, *([tied] if isinstance(tied, str) else [])}
    return fitting(tensor_shares(family, graph), weight_shapes(graph), tensors, constants)


def fitting(
    shares: Mapping[str, Share],
    shapes: Mapping[str, Sequence[int]],
    tensors: Mapping[str, Tensor],
    constants: Collection[str] = (),
) -> dict[str, Tensor]:
    """The ``tensors`` under our names, of which ``shares`` are theirs and ``shapes`` what they must
    be; raises `CheckpointError` where they are not."""
    problems = []
    for ours, share in shares.items():
        expected = share.shape(shapes[ours])
        if share.name not in tensors:
            problems.append(_problem("missing-tensor", f"'{share.name}' is not there"))
        elif tuple(tensors[share.name].shape) != expected:
            message = f"'{share.name}' has the shape {tuple(tensors[share.name].shape)}"
            problems.append(_problem("other-shape", f"{message}, not {expected}"))
    surplus = sorted(tensors.keys() - {share.name for share in shares.values()} - set(constants))
    if surplus:
        named = listed([f"'{name}'" for name in surplus], MOST_NAMES)
        problems.append(_problem("surplus-tensor", f"nothing takes {named}"))
    if problems:
        raise CheckpointError.of(*list(dict.fromkeys(problems))[:MOST_NAMES])
    return {ours: share.taken(tensors[share.name]) for ours, share in shares.items()}


def tensors_by_their_names(
    family: Family, graph: BlockGraph, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Our tensors under the names of a foreign checkpoint."""
    return {theirs: tensors[ours] for ours, theirs in tensor_names(family, graph).items()}


def executed_names(family: Family, graph: BlockGraph) -> dict[str, list[str]]:
    """Which of our tensors each of theirs is made of, one below the other, where each layer that
    runs is one of theirs: what is visited twice stands there twice.

    Raises `SpecError` for a graph whose loops do more than run their bodies, and for layers that
    are not those of the family.
    """
    problem = _why_not_plain(family, graph)
    if problem is not None:
        hint = "such a model has no form without the code that brings it"
        raise SpecError("not-a-plain-stack", f"'{graph.spec.text}' {problem}", hint=hint)
    names: dict[str, list[str]] = {}
    shares = tensor_shares(family, graph)
    frame = {ours: share for ours, share in shares.items() if ours in family.frame}
    for ours, share in sorted(frame.items(), key=lambda item: item[1].index):
        names.setdefault(share.name, []).append(ours)
    for index, layer in enumerate(_executed_layers(graph)):
        for own, ours in layer.items():
            names[family.layer[own].format(layer=index)] = [ours]
    return names


def _why_not_plain(family: Family, graph: BlockGraph) -> str | None:
    kinds = {block.kind for block in graph.blocks.values()}
    layers = {own for layer in _executed_layers(graph) for own in layer}
    if any(not isinstance(step, Visit) for step in graph.steps()):
        return "has rounds that do more than run their blocks again"
    if graph.spec.kind != family.kind:
        return f"is a {graph.spec.kind}, not a {family.kind}"
    if layers != family.layer.keys():
        return f"has other layers than those of {family.model_type}: {', '.join(sorted(kinds))}"
    return None


def _executed_layers(graph: BlockGraph) -> Iterator[dict[str, str]]:
    """For each layer that runs, the names of its tensors within it and in the model."""
    programs = trace_programs(graph.spec)
    for visit in graph.visits():
        weights, block = block_weights(graph, visit.block), graph.blocks[visit.block]
        indices = range(block.layers)
        for index in reversed(indices) if visit.reverse else indices:
            names = {
                param.name: weights.prefix(index, node) + param.name
                for node in programs.layers[visit.block][index].nodes
                for param in node.params
            }
            yield from [names] * visit.each


def _layer_prefixes(graph: BlockGraph) -> Iterator[str]:
    for name, block in graph.blocks.items():
        weights = block_weights(graph, name)
        yield from (weights.layer(index) for index in range(block.layers))


def config_problems(family: Family, config: Mapping[str, object]) -> Iterator[Problem]:
    """Keys that are missing, that our kind does not compute, and that are not known."""
    yield from _missing(family, config)
    yield from _unsupported(family, config)
    yield from _unknown(family, config)


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
