"""``rinsc check``: reads models and says what they are. Imports no backend, and builds a
graph for adapters alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rinsc.cli.diagnostics import note
from rinsc.cli.model_options import NO_OPTIONS, ModelOptions
from rinsc.cli.output import print_json, print_result
from rinsc.cli.values import model_text, share_bindings
from rinsc.errors import UsageError, listed
from rinsc.verbs.models import is_run

if TYPE_CHECKING:
    from rinsc.spec import ModelSpec
    from rinsc.syntax import Signature

MAX_NAMES = 16  # of blocks, on one line


def check(
    *models: Annotated[str, Parameter(name="MODEL")],
    options: ModelOptions = NO_OPTIONS,
    json: bool = False,
) -> None:
    """Print the canonical spelling and the fingerprint of each model.

    Two models are the same exactly when their fingerprints are equal. Without dimensions the
    fingerprint is that of the signature alone; with a preset, dimensions or a TOML file it is that
    of the whole model, so compare like with like.

    Parameters
    ----------
    models
        Signatures such as '(A^3)B', TOML files, names of the zoo or run folders.
    json
        Print one JSON document: an object, of several models a list of them.
    """
    if not models:
        raise UsageError("usage", "no model is given", hint="rinsc check '(A^3)B'")
    models = tuple(map(model_text, models))
    exponents = share_bindings(options.set_, [options.signed(model) for model in models])
    found = [_describe(*pair, options) for pair in zip(models, exponents, strict=True)]
    if json:
        print_json(found if len(found) > 1 else found[0])
        return
    print_result("\n\n".join(_text(facts) for facts in found))


def _describe(model: str, exponents: Mapping[str, int], options: ModelOptions) -> dict[str, object]:
    """What there is to say about one model, as plain data."""
    from rinsc.syntax import (
        bind,
        canonical,
        expand,
        parse,
        schedule_fingerprint,
        to_text,
    )
    from rinsc.syntax.notes import notes_on, refuse_doubtful

    if options.are_given or model.endswith(".toml") or is_run(model):
        from rinsc.fingerprints import fingerprint

        spec = options.spec(model, exponents)
        signature, identity = spec.signature, fingerprint(spec)
        sizes: dict[str, int] | None = dict(spec.parts)
        heavy = _heavy_adapters(signature, spec)
    else:
        signature = bind(parse(model), exponents)
        if options.strict:
            refuse_doubtful(signature)
        identity, sizes = schedule_fingerprint(signature), None
        heavy = _heavy_adapters(signature, None)
    visits = [ref.letter for ref in expand(signature)]
    if heavy is not None:
        note(heavy)
    return {
        "model": model,
        "signature": to_text(signature),
        "canonical": canonical(signature),
        "fingerprint": identity,
        "fingerprint_of": "signature" if sizes is None else "model",
        "blocks": list(dict.fromkeys(visits)),
        "layers": sizes,
        "visits": len(visits),
        "notes": [*notes_on(signature), *([] if heavy is None else [heavy])],
    }


def _heavy_adapters(signature: Signature, spec: ModelSpec | None) -> str | None:
    """Words for adapters that are not light, at the dimensions given or else at the presets."""
    from rinsc.syntax.tree import repeats

    if not any(o.name == "adapter" for repeat in repeats(signature.body) for o in repeat.options):
        return None  # and there is no graph to build
    from rinsc.cost.adapters import adapter_share, heavy_at_presets, heavy_note
    from rinsc.graph import build_graph

    if spec is None:
        return heavy_at_presets(signature)
    return heavy_note(spec, adapter_share(build_graph(spec)))


def _text(facts: dict[str, object]) -> str:
    blocks, sizes = facts["blocks"], facts["layers"]
    assert isinstance(blocks, list)
    names = [f"{name}[{sizes[name]}]" if isinstance(sizes, dict) else name for name in blocks]
    of = "" if sizes is None else " (with dimensions)"
    rows = (
        ("signature", facts["signature"]),
        ("canonical", facts["canonical"]),
        ("fingerprint", f"{facts['fingerprint']}{of}"),
        ("blocks", f"{len(blocks)}: {listed(names, MAX_NAMES, between=' ')}"),
        ("visits", facts["visits"]),
    )
    return "\n".join(f"{name:<12} {value}" for name, value in rows)
