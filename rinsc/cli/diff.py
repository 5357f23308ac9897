"""``rinsc diff``: how two variants differ, in words and in figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rinsc.cli.model_options import NO_OPTIONS, ModelOptions, spec_like
from rinsc.cli.output import print_json
from rinsc.cli.values import ModelText, share_bindings
from rinsc.verbs.models import is_run

if TYPE_CHECKING:
    from rinsc.spec import ModelSpec
    from rinsc.variants.diff import Difference

HEAD_WIDTH = 18  # of a signature over a column


def diff(
    left: Annotated[ModelText, Parameter(name="LEFT")],
    right: Annotated[ModelText, Parameter(name="RIGHT")],
    /,
    *,
    options: ModelOptions = NO_OPTIONS,
    json: bool = False,
) -> None:
    """Say how two models differ, or that they are the same model.

    Both are signatures such as '(A^3)B', TOML files, names of the zoo or run folders. A signature
    beside a file or a run folder takes the dimensions of that.

    Parameters
    ----------
    json
        Print JSON with exact integers.
    """
    from rinsc.variants.diff import diff as compare

    found = compare(*_specs(left, right, options))
    if json:
        print_json(found.as_dict())
        return
    _print(found)


def _specs(left: str, right: str, options: ModelOptions) -> tuple[ModelSpec, ModelSpec]:
    """Both specs; where one alone has dimensions of its own, the other has them too."""
    exponents = share_bindings(options.set_, [left, right])
    strict = options.strict
    if _has_dimensions(right) and not _has_dimensions(left) and not options.are_given:
        spec = options.spec(right, exponents[1])
        return spec_like(spec, left, exponents[0], strict=strict), spec
    spec = options.spec(left, exponents[0])
    return spec, spec_like(spec, right, exponents[1], strict=strict)


def _has_dimensions(model: str) -> bool:
    return model.endswith(".toml") or is_run(model)


def _print(found: Difference) -> None:
    from rinsc.cli.output import print_line, print_table
    from rinsc.cli.zoo import rounds_text
    from rinsc.errors import listed
    from rinsc.scalars import (
        exact,
        ratio,
        rounded_bytes,
        rounded_count,
        rounded_flops,
        short_text,
    )
    from rinsc.variants.diff import MAX_LISTED

    left, right = found.left, found.right
    for number, sentence in enumerate(found.words()):
        print_line(sentence, style="" if number else "bold")
    heads = [short_text(side.signature, HEAD_WIDTH) for side in (left, right)]
    print_line()
    print_table(
        ("", *heads),
        [
            ("fingerprint (with dimensions)", left.fingerprint, right.fingerprint),
            ("blocks", *(listed(side.blocks, MAX_LISTED) for side in (left, right))),
            ("layers run", left.schedule, right.schedule),
            ("dials", *(listed(side.dials, MAX_LISTED) or "-" for side in (left, right))),
            *((key, str(one), str(other)) for key, (one, other) in found.dimensions.items()),
        ],
        left=(0, 1, 2),
    )
    rows = [
        ("parameters", left.parameters, right.parameters, rounded_count),
        ("layers executed", left.executed_layers, right.executed_layers, exact),
        (
            "forward FLOPs per token",
            left.forward_flops_per_token,
            right.forward_flops_per_token,
            rounded_flops,
        ),
        (
            "training FLOPs per token",
            left.training_flops_per_token,
            right.training_flops_per_token,
            rounded_flops,
        ),
        ("cache per token", left.kv_bytes_per_token, right.kv_bytes_per_token, rounded_bytes),
    ]
    print_line()
    print_table(
        ("", *heads, "right over left"),
        [
            *((name, show(one), show(other), ratio(other, one)) for name, one, other, show in rows),
            (
                "expected rounds",
                rounds_text(left.expected_rounds),
                rounds_text(right.expected_rounds),
                "",
            ),
        ],
    )
