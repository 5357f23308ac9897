"""Specs of several towers: dimensions of each, what they share, files, fingerprints."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings

import rinsc
from rinsc import ModelSpec, RinscError, TowersSpec, fingerprint, model_spec, towers_spec
from rinsc.spec import spec_to_toml
from rinsc.spec.model import require_spec
from rinsc.spec.reading import towers_from_values
from rinsc.storage.files import parse_toml
from rinsc.syntax.parser import parse_towers
from tests.specs import tower_specs

Tables = dict[str, dict[str, object]]


def towers_of(text: str, towers: Tables | None = None, **dimensions: object) -> TowersSpec:
    given = {"preset": "tiny", **dimensions}
    return towers_spec(text, towers=towers, **given)  # type: ignore[arg-type]


@settings(max_examples=60)
@given(tower_specs())
def test_a_file_holds_the_whole_spec(spec: TowersSpec) -> None:
    text = spec_to_toml(spec)
    again = towers_from_values(parse_toml(text))
    assert again == spec
    assert spec_to_toml(again) == text
    assert fingerprint(again) == fingerprint(spec)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert hash(again) == hash(spec)


@settings(max_examples=40)
@given(tower_specs())
def test_each_tower_is_the_spec_of_its_signature_alone(spec: TowersSpec) -> None:
    for name, tower in spec.towers.items():
        assert isinstance(tower, ModelSpec)
        assert tower == model_spec(tower.text, **values_of(tower))  # type: ignore[arg-type]
        lonely = towers_of(f"{name}: {tower.text}", {name: values_of(tower)}, preset=None)
        assert lonely.towers == {name: tower}


def values_of(spec: ModelSpec) -> dict[str, object]:
    return {key: value for key, value in vars(spec).items() if key in spec.__match_args__[1:]}


@settings(max_examples=40)
@given(tower_specs(options=False))
def test_order_of_towers_and_letters_change_no_fingerprint(spec: TowersSpec) -> None:
    tables = {name: values_of(tower) for name, tower in spec.towers.items()}
    turned = ", ".join(reversed(spec.text.split(", ")))
    letters = str.maketrans("ABCDXY", "BCAYDX")
    same = towers_spec(turned.translate(letters), towers=tables)
    assert fingerprint(same) == fingerprint(spec)
    renamed = towers_spec(
        spec.text.replace("text:", "words:"),
        towers={"image": tables["image"], "words": tables["text"]},
    )
    assert fingerprint(renamed) != fingerprint(spec)


@settings(max_examples=40)
@given(tower_specs(options=False))
def test_shared_weights_are_part_of_the_fingerprint(spec: TowersSpec) -> None:
    assume(spec.shared_blocks)
    image, text = spec.text.split(", ")
    apart = f"{image}, {text.translate(str.maketrans('ABCD', 'EFGH'))}"
    tables = {name: values_of(tower) for name, tower in spec.towers.items()}
    assert fingerprint(towers_spec(apart, towers=tables)) != fingerprint(spec)


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("key", ["context", "vocab_size", "width"])
def test_dimensions_of_every_tower_are_part_of_the_fingerprint(tower: str, key: str) -> None:
    text = "image: A^2B, text: C^2D"
    assert fingerprint(towers_of(text, {tower: {key: 96}})) != fingerprint(towers_of(text))


def test_what_is_nearer_to_a_tower_wins(tmp_path: Path) -> None:
    path = tmp_path / "two.toml"
    path.write_text(
        """signature = "image: A^rB, text: CD"
preset = "tiny"
width = 32
context = 50
bind = { r = 2 }

[towers.image]
kind = "vit"
width = 48

[source]
paper = "none"
"""
    )
    spec = towers_spec(path)
    assert model_spec(str(path)) == spec  # type: ignore[comparison-overlap]
    assert spec.text == "image: A^2B, text: CD"
    image, text = spec.towers.values()
    assert (image.kind, image.width, image.context) == ("vit", 48, 50)
    assert (text.kind, text.width, text.context) == ("llama", 32, 50)
    wide = towers_spec(path, towers={"text": {"context": 9}}, width=16)
    assert [tower.width for tower in wide.specs] == [16, 16]
    assert [tower.context for tower in wide.specs] == [50, 9]
    small = towers_of("image: A, text: B", {"text": {"preset": "small"}}, preset="tiny")
    assert [tower.width for tower in small.specs] == [64, 512]


UNKNOWN = ("unknown-preset", "towers.text: preset")
MISFIT = ("layers-mismatch", "towers.image: layers")
MISTAKES: list[tuple[str, Tables, dict[str, object], list[tuple[str, str | None]]]] = [
    (
        "image: A, text: B",
        {"image": {"width": -1, "colour": 3}, "text": {"kind": "lama"}},
        {"context": 0, "preset": None},
        [
            ("unknown-key", "towers.image: colour"),
            ("missing-key", "layers"),
            ("missing-key", "heads"),
            ("missing-key", "mlp_width"),
            ("missing-key", "vocab_size"),
            ("bad-value", "towers.image: width"),
            ("bad-value", "context"),
            ("missing-key", "width"),
            ("unknown-kind", "towers.text: kind"),
        ],
    ),
    ("image: A, text: B", {"imge": {}}, {}, [("unknown-key", "towers.imge")]),
    ("image: A, text: B", {"text": {"bind": {}}}, {}, [("unknown-key", "towers.text: bind")]),
    (
        "image: A, text: B",
        {"text": {"preset": "x"}},
        {},
        [("unknown-preset", "towers.text: preset")],
    ),
    ("image: A, text: B", {}, {"preset": "x"}, [("unknown-preset", "preset")]),
    ("AB", {"image": {}}, {}, [("not-towers", "towers")]),
    ("image: A^r, text: B", {}, {}, [("unbound-exponent", None)]),
    (
        "image: AB, text: AC",
        {"image": {"kind": "vit", "width": 32}},
        {},
        [("towers-differ", "towers.text: kind"), ("towers-differ", "towers.text: width")],
    ),
    (
        "image: ABC, text: AB",
        {},
        {},
        [("towers-differ", "towers.text: layers"), ("towers-differ", "towers.text: layers")],
    ),
    (
        "image: AB, text: AC",
        {"image": {"width": 32}, "text": {"context": 0}},
        {},
        [("bad-value", "towers.text: context"), ("towers-differ", "towers.text: width")],
    ),
    ("image: AB, text: AC", {"text": {"kind": "no"}}, {}, [("unknown-kind", "towers.text: kind")]),
    ("image: A[7]B[7], text: B", {"image": {"layers": 12}}, {}, [MISFIT]),
]


@pytest.mark.parametrize(("text", "tables", "given", "told"), MISTAKES)
def test_every_mistake_is_told_once_at_its_place(
    text: str, tables: Tables, given: dict[str, object], told: list[tuple[str, str | None]]
) -> None:
    with pytest.raises(RinscError) as caught:
        towers_of(text, tables, **given)
    assert sorted(map(str, [(p.code, p.place) for p in caught.value.problems])) == sorted(
        map(str, told)
    )
    assert all(problem.hint for problem in caught.value.problems)


def test_a_block_that_differs_names_block_towers_and_key() -> None:
    with pytest.raises(RinscError) as caught:
        towers_of("image: AB, text: A", {"image": {"layers": 24, "rope_theta": 3.0}})
    (problem,) = caught.value.problems
    for word in ("block A", "image", "text", "rope_theta is 3.0 in image and 10000.0 in text"):
        assert word in problem.message


def test_a_spec_of_towers_made_by_hand_is_checked() -> None:
    one, other = model_spec("AB", preset="tiny"), model_spec("AC", preset="tiny", width=32)
    with pytest.raises(RinscError, match="block A is in the towers image and text"):
        TowersSpec(parse_towers("image: AB, text: AC"), (one, other))
    with pytest.raises(RinscError, match="2 towers need as many model specs"):
        TowersSpec(parse_towers("image: AB, text: AC"), (one,))


def test_what_takes_one_tower_says_so() -> None:
    spec: Any = towers_of("image: A, text: B")
    takers: list[Callable[[], object]] = [
        lambda: rinsc.match_compute(spec, spec, tokens=1, batch_tokens=1),
        lambda: rinsc.unroll(rinsc.build_graph(spec)),
        lambda: require_spec(spec),
    ]
    for take in takers:
        with pytest.raises(RinscError) as caught:
            take()
        assert caught.value.code == "several-towers"
        assert "image, text" in caught.value.message
