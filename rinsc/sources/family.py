"""What a family of foreign checkpoints is, and how any of them is read and written.

A Llama of two layers as the signature ``A``:

    config.json                     the spec
    hidden_size: 64                 width = 64
    num_key_value_heads: 2          kv_heads = 2
    attention_bias: true            decoder.qkv_bias = true, decoder.output_bias = true

    model.layers.1.mlp.up_proj.weight   A.1.up.weight
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from rinsc.errors import CheckpointError, Problem, SpecError, listed
from rinsc.fingerprints import fingerprint
from rinsc.graph import BlockGraph, Visit, build_graph
from rinsc.layers import trace_programs, weight_shapes
from rinsc.layers.weight_names import block_weights
from rinsc.sources.config_values import (
    LISTS,
    NUMBERS,
    Config,
    checkpoint_problem,
    function_name,
    is_number,
    read_function,
)
from rinsc.sources.stored import Array, Stored, pieces, stacked
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
        *("output_attentions", "output_hidden_states", "problem_type", "task_specific_params"),
        *("_attn_implementation_autoset", "attn_implementation", "cache_implementation"),
    )
)
Tensor = TypeVar("Tensor", bound=Array)


@dataclass(frozen=True)
class Family:
    """One kind of foreign checkpoint.

    ``dimensions`` are keys of a spec and what the config calls them; ``options`` are settings of
    the kind and what the config calls those. ``defaults`` are what a config without such a key
    means, None for what our spec makes of it. ``required`` are keys of the config with the one
    value that our ``kind`` computes, which is also what a config without the key means;
    ``settings`` are those of the kind that every model of the family has. ``ignored`` change no
    logits. ``more`` reads what a single key does not say: it gives keys of a spec, settings of the
    kind among them, and raises `SpecError`; ``more_config`` is its way back.

    ``frame`` and ``layer`` are our names of tensors and theirs, with ``{layer}`` for the number in
    the stack. Several of ours with one of theirs are its rows, one behind the other; those that are
    ``by_head`` take turns, a head of each. ``turned`` are stored as (in, out). What ends as
    ``computed`` says is no weight, nor are ``constants``. Files of a model without its head lack
    ``base`` in their names. ``signature`` says of a config how its model loops; its letters name
    blocks of the ``frame``.
    """

    model_type: str
    kind: str
    dimensions: Mapping[str, str]
    frame: Mapping[str, str]
    layer: Mapping[str, str]
    required: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    read_elsewhere: frozenset[str] = frozenset()  # keys that ``more`` reads
    more: Callable[[Config], dict[str, Any]] = field(default=lambda config: {})
    more_config: Callable[[ModelSpec], dict[str, Any]] = field(default=lambda spec: {})
    plain_kind: str | None = None  # of a model that sets nothing of the kind
    more_kinds: frozenset[str] = frozenset()  # that ``more`` may give
    by_head: frozenset[str] = frozenset()
    turned: frozenset[str] = frozenset()
    computed: tuple[str, ...] = (".rotary_emb.inv_freq",)
    constants: frozenset[str] = frozenset()
    signature: Callable[[Config], str] | None = None  # of a model that loops
    base: str = "model."

    @property
    def kinds(self) -> set[str]:
        return {self.kind, *filter(None, [self.plain_kind]), *self.more_kinds}


def spec_from_config(
    family: Family, config: Config, signature: str | Signature | None = None
) -> ModelSpec:
    """The spec of a foreign model, its stack as ``signature``: by default ``A``, or as it loops.

    Raises `SpecError` for a key that is missing, for a value that our kind does not compute, and
    for a key that is not known: nothing is left out in silence.
    """
    problems = list(config_problems(family, config))
    if problems:
        raise SpecError.of(*problems)
    values = spec_values(family, config)
    own = "A" if family.signature is None else family.signature(config)
    spec = model_spec(own if signature is None else signature, **values)
    if family.signature is not None and spec.parts.keys() != model_spec(own, **values).parts.keys():
        message = f"'{spec.text}' has other blocks than a {family.model_type}, which is '{own}'"
        hint = f"leave the signature out, or change the rounds of '{own}'"
        raise SpecError("other-blocks", message, hint=hint)
    if family.plain_kind is not None and not spec.settings.get(family.kind):
        return replace(spec, kind=family.plain_kind)
    return spec


def spec_values(family: Family, config: Config) -> dict[str, Any]:
    """What a config that is honoured says, under the keys of a spec."""
    settings: dict[str, Any] = dict(family.settings)
    for ours, theirs in family.options.items():
        value = _value(family, config, theirs)
        if value is not None:
            settings[ours] = read_function(value, theirs) if ours == "activation" else value
    more = family.more(config)
    settings |= more.pop("settings", {})
    values: dict[str, Any] = {"kind": family.kind, **more}
    if settings:
        values["settings"] = {values["kind"]: settings}
    for ours, theirs in family.dimensions.items():
        value = _value(family, config, theirs)
        if value is not None:
            values[ours] = value
    return values


def _value(family: Family, config: Config, key: str) -> Any:
    """What a config says, or means without saying it."""
    value = config.get(key)
    return family.defaults.get(key) if value is None else value


def config_from_spec(family: Family, spec: ModelSpec) -> dict[str, Any]:
    """The foreign config of a spec whose blocks are all of the family's kind, visited once each.

    Raises `SpecError` for another spec.
    """
    graph = build_graph(spec)
    kinds = {spec.kind, *(block.kind for block in graph.blocks.values())}
    visits = graph.visit_counts()
    loops = family.signature is None and any(count != 1 for count in visits.values())
    if len(kinds) != 1 or not kinds <= family.kinds or loops:
        message = f"'{spec.text}' is not a plain stack of {family.kind} layers"
        hint = "write each block once, as in AB"
        raise SpecError("not-a-plain-stack", message, hint=hint)
    own = stack_config(family, spec)
    signature = spec.signature if family.signature is None else None
    if fingerprint(spec_from_config(family, own, signature)) != fingerprint(spec):
        message = f"'{spec.text}' has other settings of {family.kind} than a {family.model_type}"
        hint = f"the family can say {', '.join([*family.settings, *family.options]) or 'none'}"
        raise SpecError("not-a-plain-stack", message, place="settings", hint=hint)
    return own


def stack_config(family: Family, spec: ModelSpec) -> dict[str, Any]:
    """The foreign config of a spec that is one of the family."""
    own = {theirs: getattr(spec, ours) for ours, theirs in family.dimensions.items()}
    settings = spec.settings_of(family.kind if spec.kind == family.plain_kind else spec.kind)
    own |= {theirs: getattr(settings, ours) for ours, theirs in family.options.items()}
    if "activation" in family.options:
        own[family.options["activation"]] = function_name(settings.activation)
    return own | {"model_type": family.model_type, **family.required, **family.more_config(spec)}


def stored_tensors(family: Family, graph: BlockGraph) -> dict[str, Stored]:
    """Their tensors by name, and which of ours each holds; layers are counted over the blocks."""
    names = [(ours, theirs, theirs) for ours, theirs in family.frame.items()]
    for index, prefix in enumerate(_layer_prefixes(graph)):
        for ours, theirs in family.layer.items():
            names.append((prefix + ours, theirs.format(layer=index), theirs))
    return _stored(family, graph, names)


def _stored(
    family: Family, graph: BlockGraph, names: Iterable[tuple[str, str, str]]
) -> dict[str, Stored]:
    """Names of ours that the graph has, theirs and its template, by theirs."""
    shapes = weight_shapes(graph)
    stored: dict[str, Stored] = {}
    for ours, theirs, template in names:
        if ours not in shapes:
            continue
        heads = graph.spec.heads if template in family.by_head else 1
        first = stored.setdefault(theirs, Stored((), (), heads, template in family.turned))
        own = (*first.shapes, tuple(shapes[ours]))
        stored[theirs] = replace(first, names=(*first.names, ours), shapes=own)
    return stored


def tensor_names(family: Family, graph: BlockGraph) -> dict[str, str]:
    """Their name of each of our tensors; layers are counted over the blocks in their order."""
    stored = stored_tensors(family, graph)
    return {ours: theirs for theirs, own in stored.items() for ours in own.names}


def tensors_by_our_names(
    family: Family, graph: BlockGraph, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A foreign checkpoint's tensors under our names; what one holds together is cut apart.

    Raises `CheckpointError` for tensors that are missing, that nothing takes, or of another shape,
    before one of them is read. A matrix that is tied may stand there again under its second name.
    """
    tied = family.frame.get("head.weight") if graph.spec.tied_embedding else None
    constants = {*family.constants, *([tied] if tied is not None else [])}
    constants |= {name for name in tensors if name.endswith(family.computed)}
    stored = stored_tensors(family, graph)
    if not any(name.startswith(family.base) for name in tensors):
        stored = {theirs.removeprefix(family.base): own for theirs, own in stored.items()}
    return fitting(stored, tensors, constants)


def fitting(
    stored: Mapping[str, Stored],
    tensors: Mapping[str, Tensor],
    constants: Collection[str] = (),
) -> dict[str, Tensor]:
    """The ``tensors`` under our names, of which ``stored`` are theirs; raises `CheckpointError`
    where they are not."""
    problems = []
    for theirs, own in stored.items():
        if theirs not in tensors:
            problems.append(checkpoint_problem("missing-tensor", f"'{theirs}' is not there"))
        elif tuple(tensors[theirs].shape) != own.shape:
            message = f"'{theirs}' has the shape {tuple(tensors[theirs].shape)}"
            problems.append(checkpoint_problem("other-shape", f"{message}, not {own.shape}"))
    surplus = sorted(tensors.keys() - stored.keys() - set(constants))
    if surplus:
        named = listed([f"'{name}'" for name in surplus], MOST_NAMES)
        problems.append(checkpoint_problem("surplus-tensor", f"nothing takes {named}"))
    if problems:
        raise CheckpointError.of(*problems[:MOST_NAMES])
    ours: dict[str, Tensor] = {}
    for theirs, own in stored.items():
        ours |= pieces(own, tensors[theirs])
    return ours


def tensors_by_their_names(
    family: Family, graph: BlockGraph, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Our tensors under the names of a foreign checkpoint, together where it has them together."""
    stored = stored_tensors(family, graph)
    return {
        theirs: stacked(own, [tensors[name] for name in own.names])
        for theirs, own in stored.items()
    }


def executed_tensors(family: Family, graph: BlockGraph) -> dict[str, Stored]:
    """Which of our tensors each of theirs is made of, where each layer that runs is one of theirs:
    what is visited twice stands there twice.

    Raises `SpecError` for a graph whose loops do more than run their bodies, and for layers that
    are not those of the family.
    """
    reason = _why_not_plain(family, graph)
    if reason is not None:
        hint = "such a model has no form without the code that brings it"
        raise SpecError("not-a-plain-stack", f"'{graph.spec.text}' {reason}", hint=hint)
    names = [(ours, theirs, theirs) for ours, theirs in family.frame.items()]
    for index, layer in enumerate(_executed_layers(graph)):
        for own, theirs in family.layer.items():
            if own in layer:
                names.append((layer[own], theirs.format(layer=index), theirs))
    return _stored(family, graph, names)


def _why_not_plain(family: Family, graph: BlockGraph) -> str | None:
    kinds = {block.kind for block in graph.blocks.values()}
    layers = {own for layer in _executed_layers(graph) for own in layer}
    known = (
        layers <= family.layer.keys() if kinds <= family.kinds else layers == family.layer.keys()
    )
    if any(not isinstance(step, Visit) for step in graph.steps()):
        return "has rounds that do more than run their blocks again"
    if graph.spec.kind not in family.kinds:
        return f"is a {graph.spec.kind}, not a {family.kind}"
    if not known:
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


def config_problems(family: Family, config: Config) -> Iterator[Problem]:
    """Keys that are missing, that our kind does not compute, and that are not known."""
    yield from _missing(family, config)
    yield from _ill_typed(family, config)
    yield from _unsupported(family, config)
    yield from _unknown(family, config)


def _missing(family: Family, config: Config) -> Iterator[Problem]:
    for key in family.dimensions.values():
        if config.get(key) is None and key not in family.defaults:
            yield checkpoint_problem("missing-key", f"the config does not say '{key}'", key)


def _ill_typed(family: Family, config: Config) -> Iterator[Problem]:
    """Values that ``more`` could not read."""
    for key in sorted(family.read_elsewhere & (LISTS | NUMBERS) & config.keys()):
        value = config[key]
        sound, what = is_number(value), "a number above 0"
        if key in LISTS:
            sound, what = isinstance(value, list), "a list"
        if value is not None and not sound:
            yield checkpoint_problem(
                "bad-type", f"'{key}' is {value!r:.60}, and must be {what}", key
            )


def _unsupported(family: Family, config: Config) -> Iterator[Problem]:
    for key, value in family.required.items():
        own = config.get(key, value)
        if own != value:
            message = f"'{key}' is {own!r:.60}, and only {value!r} is computed"
            yield checkpoint_problem("unsupported-value", message, key)


def _unknown(family: Family, config: Config) -> Iterator[Problem]:
    known = {*family.dimensions.values(), *family.options.values(), *family.required}
    known |= family.ignored | family.read_elsewhere | DESCRIPTIONS
    for key in config.keys() - known:
        if config[key] not in (None, False, [], {}):
            message = f"the config has '{key}', which may change what is computed"
            yield checkpoint_problem("unknown-key", message, key)
