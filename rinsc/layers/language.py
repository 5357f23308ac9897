"""Which models continue a text: those that take tokens and see none that come later."""

from __future__ import annotations

from rinsc.errors import Problem, SpecError
from rinsc.layers.kind import layer_kind
from rinsc.spec import ModelSpec


def require_language_model(spec: ModelSpec) -> None:
    """Raises `SpecError` for a spec whose kinds cannot be trained on text or continue it."""
    for kind in dict.fromkeys((spec.kind, *spec.block_kinds.values())):
        if kind == spec.kind and layer_kind(kind).takes != "tokens":
            raise _refused(spec, f"kind '{kind}' takes {layer_kind(kind).takes}, not tokens")
        if not layer_kind(kind).causal:
            raise _refused(spec, f"layers of kind '{kind}' see the tokens that they would predict")


def _refused(spec: ModelSpec, reason: str) -> SpecError:
    message = f"'{spec.text}' is no language model: {reason}"
    hint = "choose a kind that is causal and takes tokens, such as llama"
    return SpecError(Problem("not-a-language-model", message, place="kind", hint=hint))
