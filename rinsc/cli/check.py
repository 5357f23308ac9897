"""``rinsc check``: reads models and says what they are. Imports no backend, and builds a
graph for adapters alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from cyclopts import Parameter

from rinsc.cli.model_options import NO_OPTIONS, ModelOptions
from rinsc.cli.output import note, print_json, print_result
from rinsc.cli.values import model_text, share_bindings
from rinsc.errors import UsageError, listed
from rinsc.verbs.models import describe, is_run

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
    reports = [_facts(*pair, options) for pair in zip(models, exponents, strict=True)]
    for report in reports:
        if report.get("heavy"):
            note(str(report.pop("heavy")))
    if json:
        print_json(reports if len(reports) > 1 else reports[0])
        return
    print_result("\n\n".join(_text(facts) for facts in reports))


def _facts(model: str, exponents: Mapping[str, int], options: ModelOptions) -> dict[str, object]:
    """What there is to say about one model, as plain data."""
    from rinsc.syntax import bind, parse
    from rinsc.syntax.parser import has_towers, parse_towers
    from rinsc.syntax.towers import bind_towers
    from rinsc.syntax.unexpected import refuse_doubtful

    if options.are_given or model.endswith(".toml") or is_run(model):
        return {"model": model, **describe(options.any_spec(model, exponents))}
    if has_towers(model):
        return {"model": model, **describe(bind_towers(parse_towers(model), exponents))}
    signature = bind(parse(model), exponents)
    if options.strict:
        refuse_doubtful(signature)
    return {"model": model, **describe(signature)}


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
