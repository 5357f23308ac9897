"""The same model in small: its schedule and its kinds, with few layers and small dimensions."""

from __future__ import annotations

from dataclasses import fields, replace

from rinsc.spec.model import ModelSpec
from rinsc.spec.pairing import TEXT
from rinsc.spec.settings import KindSettings, implied_values, settings_class
from rinsc.spec.towers import TowersSpec
from rinsc.syntax.normal import parts_per_letter, stack_of
from rinsc.syntax.tree import (
    BlockRef,
    Call,
    Option,
    Signature,
    rewritten,
    with_repeat_options,
)


def small_copy(spec: ModelSpec) -> ModelSpec:
    """The same schedule, kinds and grouping of heads, with few layers and small dimensions."""
    group = min(spec.heads // spec.kv_heads, 4)
    kv_heads = min(spec.kv_heads, 2)
    width = group * kv_heads * 16  # heads as wide as fused operators take them
    signature = _shrunk(spec.signature, part_layers=2, rank=min(width, 3))
    two = stack_of(signature, each=2)
    settings = _small_settings(spec)
    implied = implied_values({"kind": spec.kind, "settings": settings})
    return replace(
        spec,
        signature=signature,
        layers=two if two <= spec.layers else stack_of(signature, each=1),
        width=width,
        heads=group * kv_heads,
        kv_heads=kv_heads,
        mlp_width=43,
        vocab_size=97,
        context=implied.get("context", 29),
        head_dim=None if spec.head_dim is None else 32,  # other than the width of each
        settings=settings,
    )


def small_towers(spec: TowersSpec) -> TowersSpec:
    """`small_copy` of every tower; a block that several share has one layer where it has to."""
    specs = [small_copy(tower) for tower in spec.specs]
    if any(stack_of(copy.signature, each=2) != copy.layers for copy in specs):
        specs = [replace(copy, layers=stack_of(copy.signature, each=1)) for copy in specs]
    if spec.pairing is not None:
        of_tower = dict(zip(spec.towers, specs, strict=True))
        of_tower[spec.pairing.text] = projected(
            of_tower[spec.pairing.text], of_tower[spec.pairing.image].width
        )
        specs = list(of_tower.values())
    trees = zip(spec.signature.towers, specs, strict=True)
    towers = tuple(replace(tower, signature=own.signature) for tower, own in trees)
    return TowersSpec(replace(spec.signature, towers=towers), tuple(specs))


def projected(text: ModelSpec, width: int) -> ModelSpec:
    """A tower of texts whose embeddings have this width."""
    tables = text.settings.plain
    tables[TEXT] = {**tables.get(TEXT, {}), "projection_width": width}
    return replace(text, settings=KindSettings(tables))


def _small_settings(spec: ModelSpec) -> KindSettings:
    """Every setting that has a ``small`` value in its metadata at that value, or at what that makes
    of its own value where it is a function."""
    tables = spec.settings.plain
    for kind in {spec.kind, *spec.block_kinds.values()}:
        declared = fields(settings_class(kind))
        own = spec.settings_of(kind)
        small = {f.name: f.metadata["small"] for f in declared if "small" in f.metadata}
        values = {n: v(getattr(own, n)) if callable(v) else v for n, v in small.items()}
        tables[kind] = {**tables.get(kind, {}), **values}
    return KindSettings(tables)


def _shrunk(sig: Signature, *, part_layers: int, rank: int) -> Signature:
    """The signature with no written size above ``part_layers`` for each of a letter's parts, and
    no rank of an adapter above ``rank``. Letters, rounds and all other options stay."""
    size = part_layers * parts_per_letter(sig)

    def smaller(ref: BlockRef) -> BlockRef:
        return ref if ref.size is None else replace(ref, size=min(ref.size, size))

    body = rewritten(sig.body, ref=smaller)
    return replace(sig, body=with_repeat_options(body, lambda option: _option(option, rank)))


def _option(option: Option, rank: int) -> Option:
    match option.value:
        case Call("lora" | "shared" as name, (int(written),)):
            return replace(option, value=Call(name, (min(written, rank),)))
    return option
