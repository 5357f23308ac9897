"""Every claim of every entry, at its published size and without a single weight allocated."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rinsc.backends.torch import to_torch
from rinsc.cost import training_flops_per_token
from rinsc.extras import zoo_dir
from rinsc.fingerprints import fingerprint
from rinsc.graph import build_graph
from rinsc.graph.towers_graph import towers_of
from rinsc.spec import ModelSpec, TowersSpec, model_spec, spec_to_toml, with_signature, with_towers
from rinsc.syntax import canonical, parse
from rinsc.syntax.canonical import canonical_towers
from rinsc.variants.zoo import claims, figures, zoo_entries, zoo_entry

NAMES = sorted(path.stem for path in zoo_dir().glob("*.toml"))

# The architectures that the zoo must not lose.
ESSENTIAL = {
    *("rins-a2b", "rins-a3b", "rins-a4b", "rins-skip", "rins-skip-adapters"),
    *(f"mobilellm-{size}-{way}" for size in ("125m", "350m") for way in ("immediate", "reverse")),
    *(f"mobilellm-{size}-repeat-all-over" for size in ("125m", "350m")),
    *("universal-transformer", "huginn", "relaxed-recursive-gemma", "ouro-1.4b", "ouro-2.6b"),
    *("albert-base", "albert-base-shared-attention", "albert-base-shared-mlp"),
    *(f"takase-kiyono-{way}" for way in ("sequence", "cycle", "cycle-rev")),
    *(f"mor-{way}" for way in ("middle-cycle", "cycle", "sequence", "middle-sequence")),
    *("etd", "retrofitted-recurrence", "hrm-text-l7h", "asura", "gpt2", "tinyllama", "siglip-b16"),
}


def one_tower(name: str) -> ModelSpec:
    spec = zoo_entry(name).spec
    assert isinstance(spec, ModelSpec)
    return spec


def test_the_zoo_holds_the_essential_architectures() -> None:
    assert set(NAMES) >= ESSENTIAL
    assert [entry.name for entry in zoo_entries()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_holds(name: str) -> None:
    entry = zoo_entry(name)
    found = figures(entry)
    assert [claim for claim in claims(entry, found) if not claim.holds] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_module_holds_the_parameters_that_are_counted(name: str) -> None:
    entry = zoo_entry(name)
    model = to_torch(entry.spec, device="meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    held = sum(parameter.numel() for parameter in model.parameters())
    assert held == figures(entry).parameters


@pytest.mark.parametrize("name", NAMES)
def test_the_spec_is_its_canonical_self(name: str) -> None:
    spec = zoo_entry(name).spec
    if isinstance(spec, TowersSpec):
        twin: ModelSpec | TowersSpec = with_towers(spec, canonical_towers(spec.signature))
    else:
        twin = replace(spec, signature=parse(canonical(spec.signature)))
    assert fingerprint(twin) == fingerprint(spec)


def test_no_two_entries_are_the_same_model() -> None:
    prints = [fingerprint(entry.spec) for entry in zoo_entries()]
    assert len(set(prints)) == len(prints)


def test_executed_layers_are_those_of_the_schedule() -> None:
    for entry in zoo_entries():
        graph = build_graph(entry.spec)
        visits = [v for tower in towers_of(graph).values() for v in tower.visits()]
        ran = sum(graph.blocks[v.block].layers * v.each for v in visits)
        assert ran == entry.expect.executed_layers


PLAIN = [
    *("etd", "mobilellm-125m-reverse", "mobilellm-350m-immediate", "mor-cycle"),
    *("rins-a2b", "rins-a3b", "rins-a4b", "tinyllama"),
]


@pytest.mark.parametrize("name", PLAIN)
def test_ratios_and_parameters_follow_from_the_dimensions(name: str) -> None:
    entry = zoo_entry(name)
    spec, found = one_tower(name), figures(entry)
    matrices, layer = llama_layer(spec)
    tables = spec.vocab_size * spec.width * (1 if spec.tied_embedding else 2)
    assert found.parameters == spec.layers * layer + tables + spec.width
    once = llama_flops(spec, matrices, spec.layers)
    assert found.cost_ratio == pytest.approx(
        llama_flops(spec, matrices, found.executed_layers) / once
    )


def llama_layer(spec: ModelSpec) -> tuple[int, int]:
    """Weights in the matrices of Llama's layer, and with its norms."""
    width, kv_width = spec.width, spec.kv_heads * spec.width // spec.heads
    matrices = 2 * width * width + 2 * width * kv_width + 3 * width * spec.mlp_width
    return matrices, matrices + 2 * width


def llama_flops(spec: ModelSpec, matrices: int, layers: int) -> int:
    """Forward FLOPs of a token: 2 a weight, scores and mixing over the context, the head."""
    layer = 2 * matrices + 4 * spec.width * spec.context
    return layers * layer + 2 * spec.vocab_size * spec.width


def test_the_expected_cost_of_huginn_is_that_of_many_draws() -> None:
    spec = one_tower("huginn")
    draw = random.Random(0)
    rounds = [
        1 + poisson(math.exp(draw.gauss(math.log(32) - 0.125, 0.5)), draw) for _ in range(4000)
    ]
    width, context = spec.width, spec.context
    layer = 2 * (4 * width**2 + 3 * width * spec.mlp_width) + 4 * width * context
    mix, head = 4 * width**2, 2 * spec.vocab_size * width
    steps = [
        (4 + 4 * r) * layer
        + r * mix
        + head
        + 2 * ((4 + 4 * min(r, 8)) * layer + min(r, 8) * mix + head)
        for r in rounds
    ]
    drawn = sum(steps) / len(steps) / (3 * (8 * layer + head))
    assert figures(zoo_entry("huginn")).cost_ratio == pytest.approx(drawn, rel=0.02)
    assert sum(rounds) / len(rounds) == pytest.approx(33, abs=1)
    assert figures(zoo_entry("huginn")).expected_rounds["R"] == 33


def poisson(rate: float, draw: random.Random) -> int:
    arrivals, time = 0, draw.expovariate(1)
    while time < rate:
        arrivals, time = arrivals + 1, time + draw.expovariate(1)
    return arrivals


@pytest.mark.parametrize(
    ("key", "value"),
    [("parameters", 1), ("executed_layers", 7), ("cost_ratio", 3.0), ("max_adapter_share", 1e-6)],
)
def test_a_wrong_claim_is_seen(key: str, value: Any) -> None:
    entry = zoo_entry("rins-skip-adapters")
    wrong = replace(entry, expect=replace(entry.expect, **{key: value}))
    assert [claim.holds for claim in claims(wrong, figures(wrong))].count(False) == 1


@pytest.mark.parametrize("name", [name for name in NAMES if name != "siglip-b16"])
def test_the_cost_ratio_is_that_to_the_same_blocks_visited_once(name: str) -> None:
    own, found = one_tower(name), figures(zoo_entry(name))
    once = with_signature(own, found.baseline)
    assert list(once.parts.values()) == list(own.parts.values())
    assert [visit.each for visit in build_graph(once).visits()] == [1] * len(once.parts)
    flops = [training_flops_per_token(spec, spec.context) for spec in (own, once)]
    assert found.cost_ratio == flops[0] / flops[1]


def test_the_cost_ratio_of_towers_is_that_of_a_pair() -> None:
    found = figures(zoo_entry("siglip-b16"))
    assert (found.cost_ratio, found.baseline) == (1.0, "image: A[12], text: B[12]")


def test_other_comparisons_are_claims_that_name_what_they_compare_with() -> None:
    entry = zoo_entry("mor-middle-cycle")
    found = figures(entry)
    assert found.cost_ratio > 2
    (claim,) = (c for c in claims(entry, found) if "FLOPs" in c.name)
    assert claim.name == "training FLOPs against A[32]"
    assert claim.here == pytest.approx(1)


def test_every_entry_says_where_it_is_from() -> None:
    for entry in zoo_entries():
        assert entry.source.reference
        text = entry.path.read_text(encoding="utf-8")
        assert text.startswith("# ")
        for line in text.splitlines():
            if line.startswith("parameters ="):
                assert "#" in line, f"{entry.name}: where is the number of parameters from?"


def test_an_entry_is_a_spec_file() -> None:
    for entry in zoo_entries():
        assert model_spec(str(entry.path)) == entry.spec


def test_tables_of_the_zoo_do_not_reach_the_spec(tmp_path: Path) -> None:
    entry = zoo_entry("huginn")
    path = tmp_path / "copy.toml"
    path.write_text(spec_to_toml(entry.spec), encoding="utf-8")
    assert model_spec(path) == entry.spec
