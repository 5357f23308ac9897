"""``rinsc presets``: the dimensions that a preset stands for."""

from __future__ import annotations

from collections.abc import Mapping

from rinsc.cli.output import print_json, print_table
from rinsc.scalars import exact, rounded_count
from rinsc.spec.presets import PRESETS

SIGNATURE = "A"  # any other has as many parameters, unless it has adapters or layers of its own


def presets(*, json: bool = False) -> None:
    """Print the dimensions of each preset, and the parameters of a model with them.

    Parameters
    ----------
    json
        Print JSON.
    """
    rows = {name: preset_facts(name) for name in PRESETS}
    if json:
        print_json(rows)
        return
    heads = ("preset", *next(iter(rows.values())))
    print_table(heads, (preset_cells(name, facts) for name, facts in rows.items()))


def preset_facts(name: str) -> dict[str, int | bool]:
    """Every dimension of a preset, those left to defaults among them, and its parameters."""
    from rinsc.cost import stored_params
    from rinsc.graph import build_graph
    from rinsc.spec import model_spec

    spec = model_spec(SIGNATURE, preset=name)
    keys = dict.fromkeys(key for preset in PRESETS.values() for key in preset)
    return {key: getattr(spec, key) for key in keys} | {
        "parameters": stored_params(build_graph(spec))
    }


def preset_cells(name: str, facts: Mapping[str, int | bool]) -> tuple[str, ...]:
    """A row of the table, here and in the documentation."""
    return (name, *(_cell(key, value) for key, value in facts.items()))


def _cell(key: str, value: int | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return rounded_count(value) if key == "parameters" else exact(value)
