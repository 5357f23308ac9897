"""``rinsc check``: reads models and says what they are. Imports no backend, and builds a
graph for adapters alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rinsc.cli.model_options import NO_OPTIONS, ModelOptions
from rinsc.cli.output import note, print_json, print_result
from rinsc.cli.values import model_text, share_bindings
from rinsc.errors import UsageError, listed
from rinsc.verbs.models import is_run

if TYPE_CHECKING:
    from rinsc.spec import ModelSpec, TowersSpec
    from rinsc.syntax import NormalForm, Signature
    from rinsc.syntax.tree import Towers

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
    reports = [_describe(*pair, options) for pair in zip(models, exponents, strict=True)]
    if json:
        print_json(reports if len(reports) > 1 else reports[0])
        return
    print_result("\n\n".join(_text(facts) for facts in reports))


def _describe(model: str, exponents: Mapping[str, int], options: ModelOptions) -> dict[str, object]:
    """What there is to say about one model, as plain data."""
    from rinsc.syntax import bind, canonical, normal_form, parse, to_text
    from rinsc.syntax.parser import has_towers, parse_towers
    from rinsc.syntax.towers import bind_towers
    from rinsc.syntax.unexpected import notes_on, refuse_doubtful

    if has_towers(model) and not options.are_given:
        towers = bind_towers(parse_towers(model), exponents)
        return _describe_towers(towers, model, None)
    if options.are_given or model.endswith(".toml") or is_run(model):
        from rinsc.fingerprints import fingerprint
        from rinsc.spec import ModelSpec

        spec = options.any_spec(model, exponents)
        if not isinstance(spec, ModelSpec):
            return _describe_towers(spec.signature, model, spec)
        signature, form, identity = spec.signature, spec.normal, fingerprint(spec)
        sizes: dict[str, int] | None = dict(spec.parts)
        heavy = _heavy_adapters(signature, spec)
    else:
        signature = bind(parse(model), exponents)
        if options.strict:
            refuse_doubtful(signature)
        form, sizes = normal_form(signature), None
        identity = _schedule_fingerprint({"": form})
        heavy = _heavy_adapters(signature, None)
    visits = [ref.letter for ref in form.visits]
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


def _describe_towers(towers: Towers, model: str, spec: TowersSpec | None) -> dict[str, object]:
    """`_describe` of towers, with dimensions or without; several visit what is ``shared``."""
    from rinsc.syntax import normal_form, to_text
    from rinsc.syntax.canonical import canonical_towers
    from rinsc.syntax.towers import tower_signatures
    from rinsc.syntax.unexpected import notes_on

    trees = tower_signatures(towers)
    if spec is None:
        forms = {name: normal_form(tree) for name, tree in trees.items()}
        identity = _schedule_fingerprint(forms)
    else:
        from rinsc.fingerprints import fingerprint

        forms = {name: tower.normal for name, tower in spec.towers.items()}
        identity = fingerprint(spec)
    visits = {name: [ref.letter for ref in form.visits] for name, form in forms.items()}
    users: dict[str, list[str]] = {}
    for name, letters in visits.items():
        for letter in dict.fromkeys(letters):
            users.setdefault(letter, []).append(name)
    sizes = None if spec is None else {b: n for tower in spec.specs for b, n in tower.parts.items()}
    return {
        "model": model,
        "signature": to_text(towers),
        "canonical": canonical_towers(towers),
        "fingerprint": identity,
        "fingerprint_of": "signature" if spec is None else "model",
        "blocks": list(users),
        "shared": [block for block, names in users.items() if len(names) > 1],
        "layers": sizes,
        "visits": sum(map(len, visits.values())),
        "notes": [note for tree in trees.values() for note in notes_on(tree)],
    }


def _schedule_fingerprint(forms: Mapping[str, NormalForm]) -> str:
    """That of towers without dimensions, or of one signature under the name ''."""
    from rinsc.storage.files import short_digest
    from rinsc.syntax.identity import identity_of_towers

    return short_digest(identity_of_towers(forms, {}).text)


def _heavy_adapters(signature: Signature, spec: ModelSpec | None) -> str | None:
    """Words for adapters that are not light, at the dimensions given or else at the presets."""
    from rinsc.syntax.tree import repeats

    if not any(o.name == "adapter" for repeat in repeats(signature.body) for o in repeat.options):
        return None  # and there is no graph to build
    from rinsc.cost.params import adapter_share, heavy_at_presets, heavy_note
    from rinsc.graph import build_graph

    if spec is None:
        return heavy_at_presets(signature)
    return heavy_note(spec, adapter_share(build_graph(spec)))


def _text(facts: dict[str, object]) -> str:
    blocks, sizes = facts["blocks"], facts["layers"]
    assert isinstance(blocks, list)
    names = [f"{name}[{sizes[name]}]" if isinstance(sizes, dict) else name for name in blocks]
    common = facts.get("shared")
    assert isinstance(common, list | None)
    shared = [("shared", listed(common, MAX_NAMES, between=" "))] if common else []
    of = "" if sizes is None else " (with dimensions)"
    rows = (
        ("signature", facts["signature"]),
        ("canonical", facts["canonical"]),
        ("fingerprint", f"{facts['fingerprint']}{of}"),
        ("blocks", f"{len(blocks)}: {listed(names, MAX_NAMES, between=' ')}"),
        *shared,
        ("visits", facts["visits"]),
    )
    return "\n".join(f"{name:<12} {value}" for name, value in rows)
