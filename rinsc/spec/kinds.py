"""The layer kinds that a spec may name, and where each is described. One line a kind.

Other packages add kinds of their own by an entry point of the group "rinsc.spec.kinds", a running
program by `rinsc.register_kind`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

from rinsc.errors import GraphError, nearest

GROUP = "rinsc.spec.kinds"

KINDS: Mapping[str, str] = {
    "llama": "rinsc.layers.llama",
    "decoder": "rinsc.layers.decoder",
    "looped_decoder": "rinsc.layers.decoder:LOOPED",
    "gpt": "rinsc.layers.transformer:GPT",
    "transformer": "rinsc.layers.transformer",
    "albert": "rinsc.layers.albert",
    "vit": "rinsc.layers.transformer:VIT",
    "siglip": "rinsc.layers.siglip",
    "siglip_image": "rinsc.layers.siglip:IMAGE",
    "siglip_text": "rinsc.layers.siglip:TEXT",
    "huginn": "rinsc.layers.recurrent:HUGINN",
    "huginn_coda": "rinsc.layers.recurrent:HUGINN_CODA",
    "ouro": "rinsc.layers.recurrent:OURO",
    "hrm": "rinsc.layers.recurrent:HRM",
    "hrm_high": "rinsc.layers.recurrent:HRM_HIGH",
}

# Kinds of towers that begin and end in ways of their own, and the kind of their blocks.
LAYERS_OF: Mapping[str, str] = {"siglip_image": "siglip", "siglip_text": "siglip"}
# Dimensions that models of a kind have where nobody says others.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "siglip": {"norm_eps": 1e-6},
    "siglip_image": {"norm_eps": 1e-6, "vocab_size": 1},  # it reads no tokens
    "siglip_text": {"norm_eps": 1e-6},
}


def layers_kind(kind: str) -> str:
    """The kind of the blocks in a model of this kind, where they say none of their own.

    >>> layers_kind("siglip_text"), layers_kind("llama")
    ('siglip', 'llama')
    """
    return LAYERS_OF.get(kind, kind)


@dataclass(frozen=True)
class KindSource:
    """Where a kind is found: ``attribute`` of ``module``, which ``package`` brings.

    A kind that the running program has registered has no package.
    """

    module: str
    attribute: str
    package: str

    @property
    def owner(self) -> str:
        """Who can mend the kind, in words."""
        return f"the package '{self.package}'" if self.package else "the code"


# Kinds of the running program, `LayerKind` by name; `rinsc.layers.register_kind` fills it.
in_this_program: dict[str, object] = {}


def is_kind(name: object) -> bool:
    """Whether a layer kind has this name, here or in another package that is installed."""
    return name in KINDS or (
        isinstance(name, str) and (name in in_this_program or name in registered())
    )


def kind_names() -> tuple[str, ...]:
    """Every name of a layer kind: those of rinsc, then those of others."""
    others = {*registered(), *in_this_program}
    return (*KINDS, *(name for name in sorted(others) if name not in KINDS))


def unknown_kind_hint(name: str) -> str:
    """A hint for a name that no kind has."""
    close = nearest(name, kind_names())
    if close is not None:
        return f"did you mean '{close}'?"
    own = f"a kind of your own is registered with rinsc.register_kind('{name:.32}', kind)"
    return f"one of: {', '.join(kind_names())}; {own}"


def source_of_kind(name: str) -> KindSource:
    """Where the kind is found; one of rinsc wins over others of the same name, then one of the
    running program."""
    if name in KINDS:
        return _source(KINDS[name], "rinsc")
    if name in in_this_program:
        return KindSource("this program", name, "")
    return registered()[name]


def found_kind(name: str) -> object:
    """What the entry of a kind stands for, loaded: a `LayerKind`, unless a package is wrong.

    Raises `GraphError` for a kind of another package that cannot be loaded.
    """
    source = source_of_kind(name)
    if name in in_this_program and source.package == "":
        return in_this_program[name]
    if source.package == "rinsc":
        return getattr(import_module(source.module), source.attribute)
    if not name.isidentifier():
        raise broken_kind(name, source, "its name must be an identifier")
    try:
        return getattr(import_module(source.module), source.attribute)
    except Exception as error:  # whatever the code of a stranger raises
        raise broken_kind(name, source, f"{type(error).__name__}: {error}") from None


def broken_kind(name: str, source: KindSource, reason: str) -> GraphError:
    """The error for a kind of another package that cannot be used."""
    message = f"the layer kind '{name}' cannot be loaded from '{source.module}': {reason:.200}"
    hint = f"mend {source.owner} that registers it"
    if source.package:
        hint = f"mend or uninstall {source.owner}, which registers it"
    return GraphError("broken-kind", message, hint=hint)


@lru_cache(maxsize=1)
def registered() -> Mapping[str, KindSource]:
    """Kinds of other packages; of two with one name the package first in the alphabet wins."""
    from importlib.metadata import entry_points  # slow to load, and seldom needed

    entries = [
        (point.name, _source(point.value, point.dist.name if point.dist else "unknown"))
        for point in entry_points(group=GROUP)
    ]
    return dict(sorted(entries, key=lambda item: item[1].package, reverse=True))


def _source(value: str, package: str) -> KindSource:
    """``package.module``, which has ``KIND``, or ``package.module:NAME``."""
    module, _, attribute = value.partition(":")
    return KindSource(module.strip(), attribute.strip() or "KIND", package)
