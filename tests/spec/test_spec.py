"""Specs: what is accepted, what is refused, and that every mistake is named at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.errors import RinscError, SignatureError, SpecError
from rinsc.extras import zoo_dir
from rinsc.fingerprints import fingerprint
from rinsc.graph import build_graph
from rinsc.spec import ModelSpec, TowersSpec, model_spec, spec_to_toml
from rinsc.spec.presets import PRESETS
from rinsc.syntax import Signature, parse, substitute, to_text
from tests.specs import specs


@given(spec=specs())
def test_toml_reads_back_to_an_equal_spec(spec: ModelSpec, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("spec") / "spec.toml"
    path.write_text(spec_to_toml(spec))
    assert model_spec(path) == spec


def test_three_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_text('signature = "(A^3)B"\npreset = "tiny"\nheads = 3\nwitdh = 64\ncontext = "x"\n')
    with pytest.raises(SpecError) as caught:
        model_spec(path)
    assert str(caught.value).splitlines() == [
        "error[unknown-key]: 'witdh' is not a key of a spec",
        f"  at {path}: witdh",
        "  hint: did you mean 'width'?",
        "error[bad-type]: 'context' must be a whole number, not 'x'",
        f"  at {path}: context",
        "  hint: change 'context'",
        "error[does-not-divide]: heads = 3 does not divide width = 64",
        f"  at {path}: heads",
        "  hint: heads that divide it: 1, 2, 4",
        "error[does-not-divide]: kv_heads = 2 does not divide heads = 3",
        f"  at {path}: kv_heads",
        "  hint: kv_heads that divide it: 1, 3",
    ]


def test_a_mistake_in_the_signature_is_reported_with_the_others(tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_text('signature = "(A^3B"\npreset = "tini"\ncolour = 1\n')
    with pytest.raises(SpecError) as caught:
        model_spec(path)
    codes = [problem.code for problem in caught.value.problems]
    assert codes == ["unknown-preset", "unbalanced-parenthesis", "unknown-key"]


def test_a_signature_alone_is_a_signature_error() -> None:
    with pytest.raises(SignatureError):
        model_spec("A^0", preset="tiny")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"width": 0}, "bad-value"),
        ({"width": True}, "bad-type"),
        ({"width": 64.0}, "bad-type"),
        ({"width": 1 << 40}, "bad-value"),
        ({"kind": "lama"}, "unknown-kind"),
        ({"tied_embedding": 1}, "bad-type"),
        ({"norm_eps": 0.0}, "bad-value"),
        ({"norm_eps": float("nan")}, "bad-value"),
        ({"rope_theta": float("inf")}, "bad-value"),
        ({"heads": 5}, "does-not-divide"),
        ({"heads": 8, "kv_heads": 3}, "does-not-divide"),
        ({"layers": 1}, "layers-do-not-split"),
        ({"layers": 11, "strict": True}, "layers-do-not-split"),
        ({"preset": "huge"}, "unknown-preset"),
    ],
)
def test_impossible_values_are_refused(change: dict[str, Any], code: str) -> None:
    with pytest.raises(RinscError) as caught:
        model_spec("(A^3)B", **{"preset": "tiny", **change})
    assert caught.value.code == code
    assert caught.value.hint


def test_replacing_a_field_is_checked_too() -> None:
    with pytest.raises(SpecError):
        dataclasses.replace(model_spec("AB", preset="tiny"), heads=7)


def test_missing_dimensions_are_all_named() -> None:
    with pytest.raises(SpecError) as caught:
        model_spec("AB", width=64)
    messages = " ".join(problem.message for problem in caught.value.problems)
    for key in ("layers", "heads", "mlp_width", "vocab_size", "context"):
        assert f"'{key}' is not given" in messages
    assert "'width'" not in messages


def test_layers_that_do_not_divide_are_spread() -> None:
    assert model_spec("(A^3)BC", preset="tiny", layers=11).parts == {"A": 4, "B": 4, "C": 3}
    assert model_spec("(A^3)BC", preset="tiny", layers=12, strict=True).parts["A"] == 4


@pytest.mark.parametrize(
    ("text", "shows"),
    [
        (
            "A^2{adapter=lora(65)}B",
            "error[rank-above-width]: rank 65 is above the width of the model, 64\n"
            "  A^2{adapter=lora(65)}B\n      ^^^^^^^^^^^^^^^^\n  hint: write at most lora(64)",
        ),
        (
            "AB{kind=gpd}",
            "error[unknown-kind]: 'gpd' is not a layer kind\n"
            "  AB{kind=gpd}\n     ^^^^^^^^\n  hint: did you mean 'gpt'?",
        ),
        (
            "AB^3{grad=2}",
            "error[contradicting-options]: with grad=2, what comes before the loop would get no "
            "gradient\n  AB^3{grad=2}\n       ^^^^^^\n"
            "  hint: add inject=add, gate or concat, or remove 'grad'",
        ),
    ],
)
def test_options_that_cannot_be_are_refused_with_their_place(text: str, shows: str) -> None:
    with pytest.raises(SignatureError) as caught:
        model_spec(text, preset="tiny", width=64)
    assert str(caught.value) == shows


def test_options_in_a_file_are_refused_with_the_other_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_text('signature = "A^2{adapter=lora(99)}"\npreset = "tiny"\nheads = 3\n')
    with pytest.raises(SpecError) as caught:
        model_spec(path)
    codes = [problem.code for problem in caught.value.problems]
    assert codes == ["does-not-divide", "does-not-divide", "rank-above-width"]


def test_each_block_has_a_kind_and_says_what_it_ties() -> None:
    spec = model_spec("A{kind=gpt}BA{tie=mlp}", preset="tiny", layers=6)
    assert spec.block_kinds == {"A": "gpt", "B": "llama"}
    assert [own.tie for own in spec.block_options.values()] == ["mlp", None]


def test_a_default_option_is_the_same_as_none() -> None:
    plain, explicit = (model_spec(text, preset="tiny") for text in ("A^3B", "A^3{kv=own}B"))
    assert plain.parts == explicit.parts


def test_a_free_exponent_is_bound_in_python_and_in_toml(tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_text('signature = "A^rB"\npreset = "tiny"\nbind = { r = 3 }\n')
    assert model_spec(path) == model_spec("A^3B", preset="tiny")
    assert model_spec("A^rB", preset="tiny", bind={"r": 3}) == model_spec("A^3B", preset="tiny")
    assert model_spec(path, bind={"r": 2}).text == "A^2B"
    with pytest.raises(SignatureError, match="unbound-exponent"):
        model_spec("A^rB", preset="tiny")


def test_sizes_stand_for_the_layer_count() -> None:
    assert model_spec("A[5]B[2]", preset="tiny").layers == 7


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_sound(preset: str) -> None:
    assert model_spec("(A^3)B", preset=preset).width == PRESETS[preset]["width"]


def test_zoo_files_are_specs() -> None:
    files = sorted(zoo_dir().glob("*.toml"))
    assert files
    for path in files:
        spec: ModelSpec | TowersSpec = model_spec(path)
        specs = spec.specs if isinstance(spec, TowersSpec) else (spec,)
        assert all(tower.layers > 0 for tower in specs)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_file_ends_in_an_error_of_ours(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.mktemp("spec") / "spec.toml"
    path.write_bytes(content)
    with pytest.raises(SpecError):
        model_spec(path)


HOSTILE = [
    "x=" + "[" * 20_000,
    "layers=" + "9" * 5000,
    "layers=0x" + "f" * 8000,
    "signature='A'\npreset='tiny'\nrope_theta=1" + "0" * 400,
    "#" * 100_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_files_end_in_an_error_of_ours(tmp_path: Path, text: str) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    with pytest.raises(SpecError):
        model_spec(path)


def test_hostile_arguments_end_in_an_error_of_ours() -> None:
    with pytest.raises(SpecError):
        model_spec("AB", preset="tiny", layers=10**5000)
    with pytest.raises(SpecError):
        model_spec("a\0.toml")
    with pytest.raises(SpecError):
        ModelSpec(parse("A^rB"), 4, 16, 2, 2, 8, 16, 16)


@pytest.mark.parametrize("text", ["width = ", "\x00", "bind = 3\nsignature='A'\npreset='tiny'"])
def test_files_that_are_no_spec(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.toml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        model_spec(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="spec-not-readable"):
        model_spec(tmp_path / "nothing.toml")


def codes_and_keys(model: str, **dimensions: Any) -> list[str]:
    """Codes of the problems, with the key where one is missing."""
    with pytest.raises(RinscError) as caught:
        model_spec(model, **dimensions)
    return [
        str(problem.place) if problem.code == "missing-key" else problem.code
        for problem in caught.value.problems
    ]


def test_the_name_of_an_entry_of_the_zoo_stands_for_its_file() -> None:
    for path in zoo_dir().glob("*.toml"):
        assert model_spec(path.stem) == model_spec(path)
    assert model_spec("gpt2", context=8).context == 8


SOME = {"width": 8, "mlp_width": 8, "vocab_size": 8, "context": 8}


@pytest.mark.parametrize(
    ("model", "dimensions", "found"),
    [
        ("huginx", {}, ["unexpected-character"]),
        ("A[2]^rB[2]", {}, ["unbound-exponent"]),
        ("A[2]^rB[2]", {**SOME, "heads": 2}, ["unbound-exponent"]),
        ("A[2]^rB[2]", {"width": 8}, ["unbound-exponent", "heads", *list(SOME)[1:]]),
        ("A[2]B[2]", {"width": 8}, ["heads", *list(SOME)[1:]]),
        ("A[2]B[2]", SOME, ["heads"]),
        ("AB", {**SOME, "heads": 2}, ["layers"]),
        ("A^", {"preset": "tiny"}, ["bad-power"]),
    ],
)
def test_no_mistake_is_told_that_mending_the_others_mends(
    model: str, dimensions: dict[str, Any], found: list[str]
) -> None:
    assert codes_and_keys(model, **dimensions) == found


def test_a_signature_alone_has_the_dimensions_of_the_command_line() -> None:
    assert model_spec("(A^3)B") == model_spec("(A^3)B", preset="tiny")
    assert model_spec("(A^r)B", bind={"r": 2}, kind="gpt").width == model_spec("AB").width


@pytest.mark.parametrize("text", ["ABAB@3", "(A^2B)^2C", "image: A^2B, text: AC"])
def test_the_normal_form_is_worked_out_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spec keeps it, and every later stage reads it there."""
    worked_out: list[str] = []

    def counted(sig: Signature) -> Signature:
        worked_out.append(to_text(sig))
        return substitute(sig)

    monkeypatch.setattr("rinsc.syntax.normal.substitute", counted)
    spec = model_spec(text, preset="tiny", layers=24)
    build_graph(spec)
    fingerprint(spec)
    assert len(worked_out) == max(1, text.count(":")), worked_out
