"""Huginn and Ouro against plain loops of PyTorch over the same weights, gradients included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import pytest
import torch
import torch.nn.functional as F

from rinsc.backends.torch import CompiledModule, to_torch
from rinsc.backends.torch.helpers import HELPERS
from rinsc.backends.torch.module import load_source
from rinsc.spec import model_spec
from tests.torch.test_transformers import randomise

Weights: TypeAlias = Mapping[str, torch.Tensor]
Reference: TypeAlias = Callable[[torch.Tensor, Weights], torch.Tensor]

TOLERANCE = 1e-4
THETA, EPS = 5003.0, 1e-6
WIDTH, HEADS, KV_HEADS = 40, 4, 2
HUGINN = "P[1] R[2]^4{inject=concat, init=noise, grad=2} C[1]{kind=huginn_coda}"
OURO = "A[2]^3"


def compiled(signature: str, kind: str) -> CompiledModule:
    spec = model_spec(
        signature,
        kind=kind,
        width=WIDTH,
        heads=HEADS,
        kv_heads=KV_HEADS,
        mlp_width=61,
        vocab_size=83,
        context=37,
        rope_theta=THETA,
        norm_eps=EPS,
    )
    model = to_torch(spec)
    randomise(model)
    return model


# The loops by hand. A place is where a layer's weights stand: "R.1.".


def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight


def turned(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions: the halves of a head are the parts of complex numbers."""
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[2]), THETA ** (-torch.arange(half) / half))
    number = torch.complex(x[..., :half], x[..., half:]) * torch.polar(angles * 0 + 1, angles)
    return torch.cat([number.real, number.imag], dim=-1)


def attend(h: torch.Tensor, w: Weights, place: str) -> torch.Tensor:
    def heads(name: str, count: int) -> torch.Tensor:
        made = F.linear(h, w[f"{place}{name}.weight"], w.get(f"{place}{name}.bias"))
        return made.view(*h.shape[:2], count, WIDTH // HEADS).transpose(1, 2)

    query, key, value = heads("query", HEADS), heads("key", KV_HEADS), heads("value", KV_HEADS)
    key, value = (each.repeat_interleave(HEADS // KV_HEADS, 1) for each in (turned(key), value))
    scores = turned(query) @ key.mT / (WIDTH // HEADS) ** 0.5
    scores = scores + torch.full(scores.shape[-2:], -torch.inf).triu(1)
    mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    return F.linear(mixed, w[f"{place}output.weight"])


def feed(h: torch.Tensor, w: Weights, place: str) -> torch.Tensor:
    gate, up, down = (w[f"{place}{name}.weight"] for name in ("gate", "up", "down"))
    return (F.silu(h @ gate.T) * (h @ up.T)) @ down.T


def huginn_layer(x: torch.Tensor, w: Weights, place: str) -> torch.Tensor:
    x = x + attend(rms(x, w[f"{place}attention_norm.weight"]), w, place)
    x = rms(x, w[f"{place}attention_sum_norm.weight"])
    x = x + feed(rms(x, w[f"{place}mlp_norm.weight"]), w, place)
    return rms(x, w[f"{place}mlp_sum_norm.weight"])


def huginn(input_ids: torch.Tensor, w: Weights) -> torch.Tensor:
    """Four rounds from noise, the entry state seen in each, the last two with gradients."""
    entry = huginn_layer(w["embedding.weight"][input_ids] * WIDTH**0.5, w, "P.0.")
    x = starting_noise(entry)
    for trip in range(4):
        with torch.set_grad_enabled(trip >= 2):
            x = torch.cat([x, entry], dim=-1) @ w["loop_R.inject.weight"].T
            x = huginn_layer(huginn_layer(x, w, "R.0."), w, "R.1.")
    x = rms(x, w["C.norm.weight"])
    return rms(huginn_layer(x, w, "C.layers.0."), w["final_norm.weight"]) @ w["head.weight"].T


def ouro(input_ids: torch.Tensor, w: Weights) -> torch.Tensor:
    """Three trips through two layers, each ending in the same norm."""
    x = w["embedding.weight"][input_ids]
    for _ in range(3):
        for place in ("A.layers.0.", "A.layers.1."):
            h = attend(rms(x, w[f"{place}attention_norm.weight"]), w, place)
            x = x + rms(h, w[f"{place}attention_output_norm.weight"])
            h = feed(rms(x, w[f"{place}mlp_norm.weight"]), w, place)
            x = x + rms(h, w[f"{place}mlp_output_norm.weight"])
        x = rms(x, w["A.norm.weight"])
    return x @ w["head.weight"].T


def starting_noise(x: torch.Tensor) -> torch.Tensor:
    names = load_source(f"import math\nimport torch\n{HELPERS['noise_like']}")
    made: torch.Tensor = names["noise_like"](x, 0)
    return made


def compare(model: CompiledModule, reference: Reference) -> tuple[float, float]:
    """Largest difference of the logits, and of the gradients relative to each one's largest."""
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(6)
    input_ids = torch.randint(83, (3, 29), generator=generator)
    noise = {"noise_seed": 0} if model.takes_noise_seed else {}  # in training it is drawn
    ours, theirs = model(input_ids, **noise), reference(input_ids, weights)
    assert theirs.std() > 0.1
    weigh = torch.randn(ours.shape, generator=generator)
    torch.autograd.backward((ours * weigh).sum())
    torch.autograd.backward((theirs * weigh).sum())
    worst = 0.0
    for name, parameter in model.named_parameters():
        found, expected = parameter.grad, weights[name].grad
        assert found is not None, name
        assert expected is not None, name
        assert expected.abs().max() > 0, name
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    return float((ours - theirs).detach().abs().max()), worst


CASES: Mapping[str, tuple[str, Reference]] = {
    "huginn": (HUGINN, huginn),
    "ouro": (OURO, ouro),
}


@pytest.mark.parametrize("kind", CASES)
def test_the_kind_equals_a_loop_by_hand(kind: str) -> None:
    signature, reference = CASES[kind]
    logits, gradients = compare(compiled(signature, kind), reference)
    assert logits < TOLERANCE
    assert gradients < TOLERANCE


@pytest.mark.parametrize(
    ("kind", "signature", "seen_in"),
    [
        ("huginn", HUGINN.replace("grad=2", "grad=3"), "gradients"),
        ("huginn", HUGINN.replace("^4", "^3"), "logits"),
        ("huginn", HUGINN.replace("init=noise", "init=zero"), "logits"),
        ("ouro", "A[2]^2", "logits"),
    ],
)
def test_another_loop_is_seen(kind: str, signature: str, seen_in: str) -> None:
    _, reference = CASES[kind]
    logits, gradients = compare(compiled(signature, kind), reference)
    assert (logits if seen_in == "logits" else gradients) > 100 * TOLERANCE
    assert seen_in == "logits" or logits < TOLERANCE


def test_a_norm_left_out_is_seen() -> None:
    def without_weight(input_ids: torch.Tensor, w: Weights) -> torch.Tensor:
        return ouro(input_ids, {**w, "A.norm.weight": torch.ones(WIDTH)})

    model, input_ids = compiled(OURO, "ouro"), torch.arange(58).view(2, 29)
    with torch.no_grad():
        theirs = without_weight(input_ids, dict(model.named_parameters()))
        assert (model(input_ids) - theirs).abs().max() > 100 * TOLERANCE
