"""``rinsc presets``: the dimensions that a preset stands for."""

from __future__ import annotations

from collections.abc import Mapping

from rinsc.cli.output import print_json, print_line, print_table
from rinsc.scalars import exact, rounded_count
from rinsc.spec.presets import PRESETS, TOWER_PRESETS

TOWERS = "image: A, text: B"
SIGNATURE = "A"  # any other has as many parameters, unless it has adapters or layers of its own


def presets(*, json: bool = False) -> None:
    """Print the dimensions of each preset, and the parameters of a model with them.

    Parameters
    ----------
    json
        Print JSON.
    """
    rows = {name: preset_facts(name) for name in PRESETS}
    towers = {name: towers_facts(name) for name in TOWER_PRESETS}
    if json:
        print_json({**rows, **towers})
        return
    heads = ("preset", *next(iter(rows.values())))
    print_table(heads, (preset_cells(name, facts) for name, facts in rows.items()))
    print_line()
    of_towers = {
        f"{name}, {tower}": own for name, facts in towers.items() for tower, own in facts.items()
    }
    heads = ("towers", *next(iter(of_towers.values())))
    print_table(heads, (preset_cells(name, facts) for name, facts in of_towers.items()))


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


def towers_facts(name: str) -> dict[str, dict[str, int | bool]]:
    """The dimensions of each tower of a preset of two, and its parameters."""
    from rinsc.cost import stored_params
    from rinsc.graph import build_graph
    from rinsc.spec import towers_spec

    spec = towers_spec(TOWERS, preset=name)
    keys = ("layers", "width", "heads", "mlp_width", "vocab_size", "context")
    return {
        tower: {
            **{key: getattr(own, key) for key in keys},
            "image_size": getattr(own.settings_of(own.kind), "image_size", 0),
            "parameters": stored_params(build_graph(own)),
        }
        for tower, own in spec.towers.items()
    }


def preset_cells(name: str, facts: Mapping[str, int | bool]) -> tuple[str, ...]:
    """A row of the table, here and in the documentation."""
    return (name, *(_cell(key, value) for key, value in facts.items()))


def _cell(key: str, value: int | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return rounded_count(value) if key == "parameters" else exact(value)
