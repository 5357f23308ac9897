"""The options that every command with a model takes: what a signature cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Group, Parameter

from rinsc.cli.values import Count, ModelText, kind_settings, share_bindings
from rinsc.errors import UsageError, listed
from rinsc.spec.kinds import KINDS
from rinsc.spec.presets import DEFAULT_PRESET, PRESETS, TOWER_PRESETS
from rinsc.verbs.models import any_spec_like, find_run, is_run, is_signature, run_spec

if TYPE_CHECKING:
    from rinsc.spec import ModelSpec, TowersSpec

ModelArgument: TypeAlias = Annotated[
    ModelText,
    Parameter(
        name="MODEL",
        help="A signature such as '(A^3)B', a TOML file, the name of an entry of the zoo, or the "
        "folder of a run or of a model that transformers saved, which stands for its spec.",
    ),
]


@Parameter(name="*", group=Group("Model"))
@dataclass(frozen=True)
class ModelOptions:
    """Dimensions of a model; what is given here wins over the preset and the file."""

    preset: Annotated[
        str | None,
        Parameter(
            help=f"{', '.join((*PRESETS, *TOWER_PRESETS))}. For a signature the default is "
            f"{DEFAULT_PRESET}."
        ),
    ] = None

    set_: Annotated[tuple[str, ...], Parameter(name="--set", show_default=False)] = ()
    """The value of a free exponent, as r=3; may be given again for another."""

    signature: str | None = None
    """Another signature in place of that of MODEL, a TOML file or an entry of the zoo."""

    layers: Count | None = None
    """Physical layers of the whole stack."""

    width: Count | None = None
    """Width of the state."""

    heads: Count | None = None
    """Attention heads."""

    kv_heads: Count | None = None
    """Heads of keys and values."""

    mlp_width: Count | None = None
    """Inner width of the feed-forward part."""

    vocab_size: Count | None = None
    """Tokens in the vocabulary."""

    context: Count | None = None
    """Longest sequence in tokens."""

    kind: Annotated[str | None, Parameter(help=f"Layer kind: {', '.join(KINDS)}.")] = None

    tied_embedding: Annotated[bool | None, Parameter(negative="--untied-embedding")] = None
    """Whether the head uses the embedding's weights."""

    norm_eps: float | None = None
    """Added to the variance in norms."""

    rope_theta: float | None = None
    """Base of the rotary positions."""

    head_dim: Count | None = None
    """Width of a head, where it is not the width divided by the heads."""

    embedding_width: Count | None = None
    """Width of a factorised embedding (kind albert)."""

    patch_width: Count | None = None
    """Numbers in a patch (kind vit)."""

    setting: Annotated[tuple[str, ...], Parameter(name="--setting", show_default=False)] = ()
    """A setting of the kind, as kernel_size=5; may be given again for another."""

    strict: bool = False
    """Refuse layers that do not divide evenly over the blocks, and blocks named like powers."""

    @property
    def dimensions(self) -> dict[str, int | float | bool | str | None]:
        values = asdict(self)
        del values["preset"], values["set_"], values["strict"], values["signature"]
        del values["setting"]
        return values | kind_settings(self.setting)

    @property
    def are_given(self) -> bool:
        """Whether any of them says how large the model is."""
        values = (self.preset, self.signature, *self.dimensions.values())
        return any(value is not None for value in values)

    def names_vocabulary(self, model: str) -> bool:
        """Whether the size of the vocabulary is given: as an option, in a file or by a run."""
        from rinsc.spec.reading import read_toml
        from rinsc.syntax.parser import has_towers

        if self.vocab_size is not None:
            return True
        if model.endswith(".toml"):
            values = read_toml(Path(model))
            towers = values.get("towers")
            tables = towers.values() if isinstance(towers, Mapping) else ()
            return any("vocab_size" in one for one in (values, *tables) if isinstance(one, Mapping))
        return not (is_signature(model) or has_towers(model))

    def signed(self, model: str) -> str:
        """What says the signature of a model: itself, or what replaces that of a file."""
        is_replaced = self.signature is not None and model.endswith(".toml")
        return str(self.signature) if is_replaced else model

    def spec(self, model: str, exponents: Mapping[str, int] | None = None) -> ModelSpec:
        """`any_spec` of one tower; raises `UsageError` for several."""
        from rinsc.spec import ModelSpec

        spec = self.any_spec(model, exponents)
        if isinstance(spec, ModelSpec):
            return spec
        message = (
            f"this command takes a model of one tower, and this has {listed([*spec.towers], 8)}"
        )
        hint = "check, cost, show, verify and compile take towers; nothing trains them yet"
        raise UsageError("several-towers", message, place=spec.text, hint=hint)

    def any_spec(
        self, model: str, exponents: Mapping[str, int] | None = None
    ) -> ModelSpec | TowersSpec:
        """The spec of a signature, of towers, of a TOML file or of a run under these options.

        ``exponents`` are the model's share of `share_bindings`, where a command has several models.
        """
        from rinsc.spec import model_spec

        if self.signature is not None and not model.endswith(".toml"):
            message = "--signature replaces that of a TOML file, and MODEL is none"
            hint = f"give the signature as MODEL: '{self.signature}'"
            raise UsageError("usage", message, place=model, hint=hint)
        if exponents is None:
            (exponents,) = share_bindings(self.set_, [self.signed(model)])
        if is_run(model):
            if self.are_given:
                hint = "leave the dimensions out"
                message = "a run folder has dimensions of its own"
                raise UsageError("usage", message, place=model, hint=hint)
            return run_spec(find_run(model))
        preset = self.preset
        if preset is None and not model.endswith(".toml"):
            preset = DEFAULT_PRESET
        dimensions = self.dimensions
        if self.signature is not None:
            dimensions["signature"] = self.signature
        settings: Any = {"preset": preset, "bind": exponents, "strict": self.strict, **dimensions}
        return model_spec(model, **settings)


def spec_like(
    spec: ModelSpec, model: str, exponents: Mapping[str, int], *, strict: bool = False
) -> ModelSpec:
    """`any_spec_like` of one tower; raises `UsageError` for several."""
    from rinsc.spec import ModelSpec

    other = any_spec_like(spec, model, exponents, strict=strict)
    assert isinstance(other, ModelSpec)
    return other


NO_OPTIONS = ModelOptions()
