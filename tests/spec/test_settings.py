"""Settings that kinds have of their own: where they stand, what is refused, what files keep."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest

from rinsc.backends.torch import to_torch
from rinsc.cost import stored_params
from rinsc.errors import SpecError
from rinsc.fingerprints import fingerprint
from rinsc.graph import build_graph
from rinsc.layers import LayerKind, layer_kind, register_kind
from rinsc.ops import Add, Linear
from rinsc.ops.program import Builder, Value
from rinsc.spec import ModelSpec, model_spec, spec_from_values, spec_to_toml, towers_spec
from rinsc.spec.kinds import in_this_program
from rinsc.spec.reading import is_of


@dataclasses.dataclass(frozen=True)
class Bottleneck:
    """A setting of each type."""

    inner: int = 8
    slope: float = dataclasses.field(default=0.5, metadata={"least": 0})
    is_open: bool = False
    norm: Literal["none", "rms"] = "none"

    def __post_init__(self) -> None:
        if self.inner % 2:
            raise ValueError(f"inner must be even, not {self.inner}")


def layer(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    with b.part("mlp"):
        h = b(Linear(b.settings.inner), x, name="down")
        return b(Add(), x, b(Linear(spec.width), h, name="up"))


@pytest.fixture(autouse=True)
def bottleneck() -> Any:
    llama = layer_kind("llama")
    kind = LayerKind(llama.embed, layer, llama.head, settings=Bottleneck)
    register_kind("bottleneck", kind)
    yield
    del in_this_program["bottleneck"]


def spec_of(**values: Any) -> ModelSpec:
    return model_spec("A^2B", preset="tiny", **{"kind": "bottleneck", **values})


def test_a_setting_decides_shapes_and_counts() -> None:
    small, large = spec_of(), spec_of(inner=32)
    more = stored_params(build_graph(large)) - stored_params(build_graph(small))
    assert more == small.layers * 2 * small.width * (32 - 8)
    assert to_torch(large).state_dict()["A.0.down.weight"].shape == (32, 64)
    assert fingerprint(small) != fingerprint(large)
    assert fingerprint(small) == fingerprint(spec_of(slope=0.25))  # changes nothing


@pytest.mark.parametrize(
    "same",
    [
        {"inner": 32},
        {"settings": {"bottleneck": {"inner": 32}}},
        {"settings": {"bottleneck": {"inner": 32, "slope": 0.5, "norm": "none"}}},
    ],
)
def test_flat_keys_and_tables_say_the_same(same: dict[str, Any]) -> None:
    assert spec_of(**same) == spec_of(inner=32)
    assert hash(spec_of(**same)) == hash(spec_of(inner=32))


def test_toml_has_a_table_with_every_setting(tmp_path: Path) -> None:
    spec = spec_of(inner=32, norm="rms", is_open=True, slope=0)
    text = spec_to_toml(spec)
    table = text.partition("[settings.bottleneck]\n")[2]
    assert table == 'inner = 32\nslope = 0.0\nis_open = true\nnorm = "rms"\n'
    file = tmp_path / "spec.toml"
    file.write_text(text)
    assert model_spec(file) == spec
    assert model_spec(file, inner=64).settings_of("bottleneck").inner == 64
    other = model_spec(file, settings={"bottleneck": {"inner": 6}})
    assert other.settings_of("bottleneck") == Bottleneck(6, 0.0, True, "rms")


def test_blocks_of_another_kind_have_settings_too() -> None:
    spec = model_spec("AB{kind=bottleneck}", preset="tiny", inner=4)
    assert spec.settings_of("bottleneck").inner == 4
    assert "[settings.bottleneck]" in spec_to_toml(spec)


@pytest.mark.parametrize(
    ("values", "code", "place"),
    [
        ({"iner": 4}, "unknown-key", "iner"),
        ({"settings": {"bottleneck": {"iner": 4}}}, "unknown-key", "settings.bottleneck.iner"),
        ({"settings": {"bottleneck": {"inner": 4.5}}}, "bad-type", "settings.bottleneck.inner"),
        ({"settings": {"bottleneck": {"inner": 0}}}, "bad-value", "settings.bottleneck.inner"),
        ({"settings": {"bottleneck": {"norm": "l2"}}}, "bad-value", "settings.bottleneck.norm"),
        ({"settings": {"bottleneck": {"inner": 5}}}, "bad-value", "settings.bottleneck"),
        ({"settings": {"bottleneck": 5}}, "bad-type", "settings.bottleneck"),
        ({"settings": {"nothing": {}}}, "unknown-kind", "settings.nothing"),
        ({"settings": 5}, "bad-type", "settings"),
        ({"inner": "wide"}, "bad-type", "inner"),
        ({"slope": -1.0}, "bad-value", "slope"),
        ({"kind": "llama", "inner": 4}, "unknown-key", "inner"),
        ({"kind": "vit", "patch_width": 0}, "bad-value", "patch_width"),
    ],
)
def test_mistakes_name_the_table(values: dict[str, Any], code: str, place: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_of(**values)
    assert [(problem.code, problem.place) for problem in caught.value.problems] == [(code, place)]
    keys = {"signature": "A^2B", "preset": "tiny", "kind": "bottleneck", **values}
    with pytest.raises(SpecError) as caught:
        spec_from_values(keys, "spec.toml")
    assert caught.value.problems[0].place == f"spec.toml: {place}"


def test_every_mistake_is_told_at_once() -> None:
    tables = {"bottleneck": {"inner": 0, "slope": "steep"}, "vit": {"patch": 3}}
    with pytest.raises(SpecError) as caught:
        spec_of(heads=5, kv_heads=5, settings=tables)
    codes = [problem.code for problem in caught.value.problems]
    assert codes == ["bad-value", "bad-type", "unknown-key", "does-not-divide"]


@pytest.mark.parametrize(
    "settings",
    [
        5,
        dataclasses.make_dataclass("Thawed", [("inner", int, 3)]),
        dataclasses.make_dataclass("Bare", [("inner", int)], frozen=True),
        dataclasses.make_dataclass("Odd", [("inner", list[int], None)], frozen=True),
    ],
)
def test_a_kind_declares_a_frozen_dataclass_of_plain_values(settings: Any) -> None:
    llama = layer_kind("llama")
    with pytest.raises(TypeError, match="setting"):
        LayerKind(llama.embed, layer, llama.head, settings=settings)


FLAT = """signature = "AB"
layers = 2
width = 8
heads = 2
kv_heads = 2
mlp_width = 5
vocab_size = 13
context = 16
kind = "{kind}"
tied_embedding = false
norm_eps = 1e-05
rope_theta = 10000.0
embedding_width = 24
patch_width = 48
"""


@pytest.mark.parametrize("kind", ["llama", "albert", "vit"])
def test_files_of_older_versions_have_flat_keys(kind: str, tmp_path: Path) -> None:
    """0.5.0 and before wrote ``embedding_width`` and ``patch_width`` for every kind."""
    file = tmp_path / "spec.toml"
    file.write_text(FLAT.format(kind=kind))
    spec = model_spec(file)
    assert spec.settings_of("albert").embedding_width == 24
    assert spec.settings_of("vit").patch_width == 48
    assert is_of(file.read_text(), spec)
    assert not is_of(FLAT.format(kind=kind).replace("48", "47"), spec)


def test_head_dim_is_a_key() -> None:
    spec = model_spec("AB", preset="tiny", width=60, heads=7, kv_heads=7, head_dim=6)
    assert (spec.head_dim, spec.head_size) == (6, 6)
    assert "head_dim = 6\n" in spec_to_toml(spec)
    assert model_spec("AB", preset="tiny").head_size == 16
    assert "head_dim" not in spec_to_toml(model_spec("AB", preset="tiny"))
    shapes = {name: tuple(t.shape) for name, t in to_torch(spec).state_dict().items()}
    assert shapes["A.0.query.weight"] == (42, 60)
    assert shapes["A.0.output.weight"] == (60, 42)
    with pytest.raises(SpecError, match="head_dim"):
        model_spec("AB", preset="tiny", head_dim=0)


def test_towers_keep_the_settings_of_their_kinds(tmp_path: Path) -> None:
    own = {"image": {"kind": "vit", "patch_width": 48}, "text": {"kind": "bottleneck", "inner": 4}}
    spec = towers_spec("image: A, text: B", preset="tiny", towers=own)
    assert spec.towers["image"].settings_of("vit").patch_width == 48
    assert spec.towers["text"].settings_of("bottleneck").inner == 4
    file = tmp_path / "spec.toml"
    file.write_text(spec_to_toml(spec))
    assert "[towers.image.settings.vit]\npatch_width = 48\n" in file.read_text()
    assert towers_spec(file) == spec


def test_a_shared_block_has_the_same_settings_in_every_tower() -> None:
    own = {"one": {"inner": 4}, "two": {"inner": 6}}
    with pytest.raises(SpecError, match="settings") as caught:
        towers_spec("one: AB, two: AC", preset="tiny", kind="bottleneck", towers=own)
    assert caught.value.problems[0].code == "towers-differ"


def test_the_hint_of_an_unknown_setting_names_those_of_the_kinds() -> None:
    def hint(**values: Any) -> str:
        with pytest.raises(SpecError) as caught:
            model_spec("AB", preset="tiny", **values)
        return str(caught.value.problems[0].hint)

    assert hint(kind="decoder", windo=3) == "did you mean 'window'?"
    named = hint(kind="decoder", colour=3)
    assert named.startswith("settings of decoder: pattern, window, local_theta, ")
    assert "head_norm, " in named.partition("; keys of a spec: ")[0]
    assert hint(kind="llama", colour=3).startswith("one of: signature")
