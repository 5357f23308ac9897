"""``rinsc diff``: how two variants differ, in words and in figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter

from rinsc.cli.model_options import NO_OPTIONS, ModelOptions
from rinsc.cli.output import print_json, print_line, print_result_table
from rinsc.cli.values import ModelText, share_bindings
from rinsc.verbs.models import any_spec_like, is_run

if TYPE_CHECKING:
    from rinsc.spec import ModelSpec, TowersSpec

    Spec: TypeAlias = ModelSpec | TowersSpec


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
    from rinsc.spec import ModelSpec
    from rinsc.variants.diff import diff as compare
    from rinsc.variants.diff import diff_towers, difference_tables

    one, other = _specs(left, right, options)
    both = isinstance(one, ModelSpec) and isinstance(other, ModelSpec)
    result = compare(one, other) if both else diff_towers(one, other)  # type: ignore[arg-type]
    if json:
        print_json(result.as_dict())
        return
    for number, sentence in enumerate(result.words()):
        print_line(sentence, style="" if number else "bold")
    for table in difference_tables(result):
        print_line()
        print_result_table(table)


def _specs(left: str, right: str, options: ModelOptions) -> tuple[Spec, Spec]:
    """Both specs; where one alone has dimensions of its own, the other has them too."""
    exponents = share_bindings(options.set_, [left, right])
    strict = options.strict
    if _has_dimensions(right) and not _has_dimensions(left) and not options.are_given:
        spec = options.any_spec(right, exponents[1])
        return any_spec_like(spec, left, exponents[0], strict=strict), spec
    spec = options.any_spec(left, exponents[0])
    return spec, any_spec_like(spec, right, exponents[1], strict=strict)


def _has_dimensions(model: str) -> bool:
    return model.endswith(".toml") or is_run(model)
