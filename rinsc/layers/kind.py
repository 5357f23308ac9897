"""What a layer kind is, and where the kind of a name is found."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Literal, TypeAlias, get_args

from rinsc.errors import Problem, SpecError
from rinsc.ops import Shape
from rinsc.ops.program import Builder, Value
from rinsc.scalars import real
from rinsc.spec import ModelSpec, TowersSpec
from rinsc.spec.kinds import broken_kind, found_kind, in_this_program, is_kind, source_of_kind
from rinsc.spec.pairing import embedding_width
from rinsc.spec.settings import declaration_problem, settings_types
from rinsc.syntax.tree import MAX_NAME

Sides: TypeAlias = dict[str, Value]  # made once from the input and given to every layer
Takes: TypeAlias = Literal["tokens", "patches", "pixels"]
Gives: TypeAlias = Literal["logits", "embedding"]
TAKES = get_args(Takes)
_NAME = re.compile(rf"[a-z][a-z0-9_]{{0,{MAX_NAME - 1}}}")  # as the notation writes names
Dtype: TypeAlias = Literal["int64", "float32"]
BlockFunction: TypeAlias = Callable[[Builder, Value, Sides, ModelSpec], Value]
SideFunction: TypeAlias = Callable[[Builder, Value, Value, ModelSpec], Sides]


def no_sides(b: Builder, inputs: Value, x: Value, spec: ModelSpec) -> Sides:
    """For layers that need nothing but the state."""
    return {}


@dataclass(frozen=True)
class NoSettings:
    """Of a kind that needs nothing but the dimensions of every model."""


@dataclass(frozen=True)
class PatchSettings:
    """Of a kind that takes patches: how many numbers one of them is."""

    patch_width: int = field(default=768, metadata={"small": 13})


@dataclass(frozen=True)
class LayerKind:
    """Short functions over the primitive operations.

    ``embed`` turns the input into the state (batch, seq, width). That is token ids (batch, seq),
    patches (batch, seq, patch_width), or pixels (batch, channels, image_size, image_size), of which
    the settings say the last three. ``sides`` makes from input and state the values that every
    layer is given, and may be several functions; ``layer`` maps state to state; ``head`` maps the
    last state to what the kind ``gives``: logits (batch, …, vocab_size), or an embedding (batch,
    width) that another tower's is compared with. ``enter`` and ``leave``, where a kind has them,
    run at the start and at the end of each visit of a block and own their weights once a block. A
    kind that ``sees_embedding`` has the first state of all as the side value ``embedded``. A kind
    that is not ``causal`` lets a position see later ones.
    Where it is the model's kind, matrices start normal with deviation ``init_std``. ``settings`` is
    a frozen dataclass of what the kind has beside the dimensions of every model; the functions read
    it as ``b.settings``, a spec holds its values in a table of the kind's name.
    """

    embed: Callable[[Builder, Value, ModelSpec], Value]
    layer: BlockFunction
    head: Callable[[Builder, Value, ModelSpec], Value]
    sides: SideFunction | tuple[SideFunction, ...] = no_sides
    enter: BlockFunction | None = None
    leave: BlockFunction | None = None
    takes: Takes = "tokens"
    gives: Gives = "logits"
    sees_embedding: bool = False
    causal: bool = True
    init_std: float = 0.02
    settings: type = NoSettings

    def __post_init__(self) -> None:
        functions = (self.embed, self.layer, self.head, *self.side_functions)
        ends = [end for end in (self.enter, self.leave) if end is not None]
        if not all(callable(function) for function in (*functions, *ends)):
            raise TypeError("embed, layer, head, sides, enter and leave must be functions")
        if self.takes not in TAKES:
            raise ValueError(f"takes must be one of {', '.join(TAKES)}, not {self.takes!r}")
        if self.gives not in get_args(Gives):
            raise ValueError(f"gives must be logits or embedding, not {self.gives!r}")
        if self.takes == "patches" and self.settings is NoSettings:
            object.__setattr__(self, "settings", PatchSettings)
        problem = declaration_problem(self.settings)
        if problem is not None:
            raise TypeError(problem)
        needed = {"patches": ("patch_width",), "pixels": ("channels", "image_size")}
        for key in needed.get(self.takes, ()):
            if key not in settings_types(self.settings):
                raise TypeError(f"a kind that takes {self.takes} needs a setting '{key}'")
        init_std = real(self.init_std)
        if init_std is None or not 0 < init_std < math.inf:
            raise ValueError(f"init_std must be a number above 0, not {self.init_std!r}")
        object.__setattr__(self, "init_std", float(init_std))

    @property
    def side_functions(self) -> tuple[SideFunction, ...]:
        """``sides`` as a tuple; what two kinds have in common runs once for both."""
        return self.sides if isinstance(self.sides, tuple) else (self.sides,)


@dataclass(frozen=True)
class ModelInput:
    """The one input of a model beside its dials."""

    name: str
    shape: Shape
    dtype: Dtype

    @property
    def has_positions(self) -> bool:
        """Whether it is as long as the sequence of states that is made of it."""
        return "seq" in self.shape


def layer_kind(name: str) -> LayerKind:
    """The kind that `rinsc.spec.kinds` or another package lists under ``name``.

    Raises `GraphError` for a kind of another package that cannot be used.
    """
    kind = found_kind(name)
    if not isinstance(kind, LayerKind):
        origin = source_of_kind(name)
        raise broken_kind(name, origin, f"'{origin.attribute}' is not a LayerKind")
    return kind


def register_kind(name: str, kind: LayerKind, *, replace: bool = False) -> LayerKind:
    """Make a layer kind known to this program under ``name``, which then stands wherever the name
    of a kind does: ``model_spec("A^3B", kind="mine", …)``, ``A{kind=mine}``, TOML files.

    It holds in this process: another one that loads such a model registers the kind too, or an
    installed package does so by an entry point. ``replace`` takes the place of a kind that this
    program has registered before; models that were made stay as they are. Returns the kind. Raises
    `SpecError` for a name that is taken or that the notation cannot write, and for anything but a
    `LayerKind`.

    >>> from rinsc.layers import layer_kind
    >>> register_kind("my_llama", layer_kind("llama")) is layer_kind("my_llama")
    True
    """
    problem = _registration_problem(name, kind, replace)
    if problem is not None:
        raise SpecError.of(problem)
    if in_this_program.get(name) is not kind:
        in_this_program[name] = kind
        for forget in forget_traces:
            forget()
    return kind


# What was traced of a kind is forgotten when another takes its name.
forget_traces: list[Callable[[], None]] = []


def _registration_problem(name: object, kind: object, replace: bool) -> Problem | None:
    if not isinstance(kind, LayerKind):
        message = f"a layer kind is a LayerKind, not {type(kind).__name__}"
        hint = "make one: rinsc.layers.LayerKind(embed=…, layer=…, head=…)"
        return Problem("bad-kind", message, hint=hint)
    if not isinstance(name, str) or not _NAME.fullmatch(name) or iskeyword(name):
        message = f"{name!r:.40} cannot be the name of a kind"
        hint = f"write lower case letters, digits and '_', at most {MAX_NAME}, as in 'my_kind'"
        return Problem("bad-kind-name", message, hint=hint)
    if name in in_this_program:
        if replace or in_this_program[name] is kind:
            return None
        message = f"this program has registered another kind '{name}'"
        return Problem("kind-taken", message, hint="choose another name, or give replace=True")
    if is_kind(name):
        message = f"there is a kind '{name}' of {source_of_kind(name).owner}"
        return Problem("kind-taken", message, hint="choose another name")
    return None


def takes_pictures(spec: ModelSpec | TowersSpec) -> bool:
    """Whether a model is given pictures cut into patches, as a classifier is."""
    if isinstance(spec, TowersSpec):
        return False
    return layer_kind(spec.kind).takes == "patches"


def model_input(spec: ModelSpec) -> ModelInput:
    """What a model of this spec is given."""
    if takes_pictures(spec):
        width = spec.settings_of(spec.kind).patch_width
        return ModelInput("patches", ("batch", "seq", width), "float32")
    if layer_kind(spec.kind).takes == "pixels":
        own = spec.settings_of(spec.kind)
        shape = ("batch", own.channels, own.image_size, own.image_size)
        return ModelInput("pixel_values", shape, "float32")
    return ModelInput("input_ids", ("batch", "seq"), "int64")


def model_output(spec: ModelSpec) -> tuple[str, int]:
    """What a model gives, ``logits`` or ``embedding``, and how many numbers a row of it has."""
    kind = layer_kind(spec.kind)
    return kind.gives, spec.vocab_size if kind.gives == "logits" else embedding_width(spec)


def fixed_length(spec: ModelSpec) -> int | None:
    """The one length of the sequences of a model that takes whole pictures; None of all others."""
    return None if model_input(spec).has_positions else spec.context


def require_language_model(spec: ModelSpec | TowersSpec) -> None:
    """Raises `SpecError` for a spec whose kinds cannot be trained on text or continue it."""
    if isinstance(spec, TowersSpec):
        raise _refused(spec, "it has several towers")
    for kind in dict.fromkeys((spec.kind, *spec.block_kinds.values())):
        if kind == spec.kind and layer_kind(kind).takes != "tokens":
            raise _refused(spec, f"kind '{kind}' takes {layer_kind(kind).takes}, not tokens")
        if not layer_kind(kind).causal:
            raise _refused(spec, f"layers of kind '{kind}' see the tokens that they would predict")


def _refused(spec: ModelSpec | TowersSpec, reason: str) -> SpecError:
    message = f"'{spec.text}' is no language model: {reason}"
    hint = "choose a kind that is causal and takes tokens, such as llama"
    return SpecError("not-a-language-model", message, place="kind", hint=hint)


def require_pictures(spec: ModelSpec | TowersSpec) -> None:
    """Raises SpecError for a model that does not take patches of pictures."""
    if not takes_pictures(spec):
        reason = "it has several towers"
        if not isinstance(spec, TowersSpec):
            reason = f"kind '{spec.kind}' takes {layer_kind(spec.kind).takes}"
        message = f"'{spec.text}' cannot classify pictures: {reason}"
        hint = "choose a kind that takes patches, such as vit"
        raise SpecError("no-classifier", message, place="kind", hint=hint)
