"""Layers of one block that differ, against transformers and against what sums must give."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, SmolLM3Config, SmolLM3ForCausalLM

from rinsc import fingerprint, to_torch, verify
from rinsc.backends.hf.facts import tp_plan
from rinsc.cost import block_params, cost_report, executed_params, forward_flops, memory
from rinsc.errors import GraphError, LoweringError, SpecError
from rinsc.graph import build_graph
from rinsc.layers import LayerKind, register_kind, trace_programs, weight_shapes
from rinsc.layers.kind import Sides
from rinsc.layers.llama import KIND as LLAMA
from rinsc.layers.llama import embed, head
from rinsc.layers.mixing import attention, gated_mlp, rotary_sides
from rinsc.ops import Activation, Add, Embedding, Linear, Mul, RMSNorm, Scale
from rinsc.ops.program import Builder, Value
from rinsc.sources.llama import LLAMA as LLAMA_FAMILY
from rinsc.spec import ModelSpec, model_spec
from rinsc.spec.kinds import in_this_program
from rinsc.variants.enumerate import variants
from tests.kinds import VARIED

TOLERANCE = 2e-5
SIZES: dict[str, Any] = {"width": 32, "heads": 4, "kv_heads": 2, "mlp_width": 45, "vocab_size": 67}


@pytest.fixture
def registered() -> Iterator[Any]:
    """Registers kinds that are gone after the test."""
    before = dict(in_this_program)

    def register(name: str, **functions: Any) -> str:
        register_kind(name, dataclasses.replace(LLAMA, **functions))
        return name

    yield register
    in_this_program.clear()
    in_this_program.update(before)


def randomised(model: Any) -> Any:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    return model.eval()


def gap(ours: Any, theirs: Any, **rounds: Any) -> float:
    ids = torch.randint(0, 67, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(ids).logits
        assert expected.std() > 0.1
        return float((ours(ids, **rounds) - expected).abs().max() / expected.std())


def smollm3() -> Any:
    config = SmolLM3Config(
        vocab_size=67,
        hidden_size=32,
        intermediate_size=45,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=40,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
        rope_parameters={"rope_theta": 500.0, "rope_type": "default"},
    )
    assert config.no_rope_layers == [1, 1, 1, 0, 1, 1]
    return randomised(SmolLM3ForCausalLM(config))


def with_weights_of_smollm3(spec: ModelSpec, theirs: Any) -> Any:
    ours = to_torch(spec)
    names = dict(LLAMA_FAMILY.frame) | {
        f"{prefix}{own}": other.format(layer=layer)
        for layer, prefix in enumerate(layer_prefixes(spec))
        for own, other in LLAMA_FAMILY.layer.items()
    }
    state = theirs.state_dict()
    ours.load_state_dict({name: state[names[name]] for name in ours.state_dict()})
    return ours.eval()


def layer_prefixes(spec: ModelSpec) -> list[str]:
    return [f"{block}.{index}." for block, size in spec.parts.items() for index in range(size)]


@pytest.mark.parametrize("signature", ["A[6]", "A[2]B[1]C[3]"])
def test_smollm3_has_no_rotation_in_every_fourth_layer(signature: str) -> None:
    """Over blocks of any size, as layers are counted along the stack."""
    settings = {"decoder": {"pattern": "gggn"}}
    more: dict[str, Any] = {
        "context": 40,
        "tied_embedding": True,
        "rope_theta": 500.0,
        "norm_eps": 1e-6,
    }
    spec = model_spec(signature, layers=6, kind="decoder", settings=settings, **SIZES, **more)
    assert gap(with_weights_of_smollm3(spec, smollm3()), smollm3()) < TOLERANCE
    settings = {"decoder": {"pattern": "ggng"}}
    other = model_spec(signature, layers=6, kind="decoder", settings=settings, **SIZES, **more)
    assert gap(with_weights_of_smollm3(other, smollm3()), smollm3()) > 0.01


def test_layers_that_are_visited_twice_stay_as_they_are() -> None:
    """Rotation belongs to the layer: the fourth has none in its second visit either."""
    settings = {"decoder": {"pattern": "gggn"}}
    more: dict[str, Any] = {
        "context": 40,
        "tied_embedding": True,
        "rope_theta": 500.0,
        "norm_eps": 1e-6,
    }
    spec = model_spec("A[1] R[4]^2 B[1]", kind="decoder", settings=settings, **SIZES, **more)
    theirs = smollm3()
    ours = with_weights_of_smollm3(spec, theirs)
    first, *middle, last = theirs.model.layers
    theirs.model.layers = torch.nn.ModuleList([first, *middle, *middle, last])
    theirs.config.num_hidden_layers = 10
    theirs.config.layer_types = ["full_attention"] * 10
    theirs.config.use_cache = False
    assert gap(ours, theirs) < TOLERANCE


def local_sides(b: Builder, input_ids: Value, x: Value, spec: ModelSpec) -> Sides:
    return rotary_sides(b, input_ids, x, spec, theta=100.0, prefix="local_")


def gemma_embed(b: Builder, input_ids: Value, spec: ModelSpec) -> Value:
    with b.part("embedding"):
        x = b(Embedding(spec.vocab_size, spec.width), input_ids, name="embedding")
        return b(Scale(spec.width**0.5), x)


def gemma_layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """Gemma 3: two local layers with a base of their own, then a global one."""
    is_local = b.stack_index % 3 < 2
    prefix = "local_" if is_local else ""
    rotary = {name: sides[prefix + name] for name in ("cos", "sin")}
    window = 5 if is_local else None
    with b.part("attention"):
        h = b(RMSNorm(spec.norm_eps), x, name="attention_norm")
        h = attention(b, h, spec, rotary=rotary, head_norm=True, window=window)
        x = b(Add(), x, b(RMSNorm(spec.norm_eps), h, name="attention_output_norm"))
    with b.part("mlp"):
        h = b(RMSNorm(spec.norm_eps), x, name="mlp_norm")
        gate = b(Activation("gelu_tanh"), b(Linear(spec.mlp_width), h, name="gate"))
        h = b(Mul(), gate, b(Linear(spec.mlp_width), h, name="up"))
        h = b(Linear(spec.width), h, name="down")
        return b(Add(), x, b(RMSNorm(spec.norm_eps), h, name="mlp_output_norm"))


GEMMA_LAYER = {
    "attention_norm": "input_layernorm",
    "attention_output_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_output_norm": "post_feedforward_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def test_gemma_3_has_windows_and_two_rotary_bases(registered: Any) -> None:
    config = Gemma3TextConfig(
        vocab_size=67,
        hidden_size=32,
        intermediate_size=45,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=5,
        max_position_embeddings=40,
        layer_types=[f"{'full' if i % 3 == 2 else 'sliding'}_attention" for i in range(5)],
        rope_parameters={
            "full_attention": {"rope_theta": 900.0, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 100.0, "rope_type": "default"},
        },
    )
    theirs = randomised(Gemma3ForCausalLM(config))
    kind = registered(
        "gemma", layer=gemma_layer, embed=gemma_embed, sides=(rotary_sides, local_sides)
    )
    more: dict[str, Any] = {
        "context": 40,
        "tied_embedding": True,
        "rope_theta": 900.0,
        "norm_eps": 1e-6,
    }
    spec = model_spec("A[2]B[3]", kind=kind, **SIZES, **more)
    state: dict[str, torch.Tensor] = theirs.state_dict()
    ours = to_torch(spec)

    def of_theirs(name: str) -> torch.Tensor:
        block, _, rest = name.partition(".")
        if block in spec.parts:
            index, operation, _ = rest.split(".")
            layer = int(index) + 2 * (block == "B")
            value = state[f"model.layers.{layer}.{GEMMA_LAYER[operation]}.weight"]
        else:
            frame = {"embedding": "model.embed_tokens", "final_norm": "model.norm"}
            value = state[f"{frame[block]}.weight"]
        return 1 + value if "norm" in name else value  # theirs are distances from 1

    ours.load_state_dict({name: of_theirs(name) for name in ours.state_dict()})
    assert gap(ours.eval(), theirs) < TOLERANCE
    assert "*[GemmaLayer1] * 2" in ours.source
    assert ours.source.count("class GemmaLayer") == 2


def mixed_layer(b: Builder, x: Value, sides: Sides, spec: ModelSpec) -> Value:
    """Attention in every other layer of a block alone, and products of two widths."""
    if b.index % 2:
        with b.part("attention"):
            h = b(RMSNorm(spec.norm_eps), x, name="attention_norm")
            x = b(Add(), x, attention(b, h, spec, rotary=sides))
    with b.part("mlp"):
        h = b(RMSNorm(spec.norm_eps), x, name="mlp_norm")
        width = spec.mlp_width + 3 * (b.index % 2)
        own = dataclasses.replace(spec, mlp_width=width)
        return b(Add(), x, gated_mlp(b, h, own))


@pytest.mark.parametrize("signature", ["(A[3]^2)B[2]", "A[3]{each=2} A{reverse} B[1]^3{kv=last}"])
def test_layers_without_attention_keep_no_slots(registered: Any, signature: str) -> None:
    spec = model_spec(signature, context=24, kind=registered("mixed", layer=mixed_layer), **SIZES)
    rows = verify(spec)
    assert all(row.passed for row in rows), [row for row in rows if not row.passed]
    graph = build_graph(spec)
    layers = graph.visit_counts()["A"], graph.visit_counts()["B"]
    attentions = layers[0] * 1 + (layers[1] if "R" not in signature and "[2]" in signature else 0)
    kept = memory(graph, 8).kv_bytes_per_token
    assert kept == attentions * 2 * 2 * 8 * 4  # keys and values of two heads of 8 floats


def test_costs_are_sums_over_the_layers(registered: Any) -> None:
    spec = model_spec(
        "(A[3]^2)B[2]", context=24, kind=registered("mixed", layer=mixed_layer), **SIZES
    )
    graph, model = build_graph(spec), to_torch(spec, device="meta")
    held = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert weight_shapes(graph) == held
    own = {block: sum(p.numel() for p in model.get_submodule(block).parameters()) for block in "AB"}
    assert block_params(graph) == own
    frame = sum(p.numel() for p in model.parameters()) - sum(own.values())
    assert executed_params(graph) == frame + 2 * own["A"] + own["B"]
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 16, dtype=torch.long, device="meta"))
    assert forward_flops(graph, 16).total == counter.get_total_flops()
    assert cost_report(spec).stored_params == sum(p.numel() for p in model.parameters())


def test_the_fingerprint_is_of_the_layers_in_order(registered: Any) -> None:
    def of(signature: str, pattern: str, **more: Any) -> str:
        settings = {"decoder": {"pattern": pattern, "window": 4}}
        return fingerprint(
            model_spec(signature, kind="decoder", settings=settings, context=24, **SIZES, **more)
        )

    assert of("A[4]", "gl") != of("A[4]", "lg") != of("A[4]", "gg") != of("A[4]", "gl")
    assert of("A[4]", "gl") == of("A[2]B[2]", "gl") == of("A[1]B[3]", "glgl") == of("A[4]", "glgl")
    assert of("A[4]", "gggg") == of("A[4]", "g")
    assert of("(A[2]B[2])^2", "gl") == of("A[4]^2", "gl") != of("A[2]^2B[2]^2", "gl")
    assert of("A[2]{each=2}", "gl") != of("A[2]{each=2}", "lg")
    assert of("A[2] A{reverse}", "gl") == of("ABBA", "gl", layers=2)
    tied = {of("A[2]{tie=mlp}", pattern) for pattern in ("gl", "lg", "gg")}
    assert len(tied) == 3
    # Two blocks of a letter each, or one block of both.
    local = "A[1]{kind=decoder}B[1]{kind=llama}"
    assert of(local, "lg") == of("A[2]", "lg")


def test_layers_that_share_a_part_must_have_it_alike(registered: Any) -> None:
    kind = registered("mixed", layer=mixed_layer)
    spec = model_spec("A[3]{tie=mlp}", context=24, kind=kind, **SIZES)
    with pytest.raises(GraphError, match="do not have the same weights in 'mlp'"):
        trace_programs(spec)


def test_only_a_layer_has_an_index() -> None:
    def numbered(b: Builder, x: Value, spec: ModelSpec) -> Value:
        return b(Scale(float(b.index)), head(b, x, spec))

    register_kind("numbered", LayerKind(embed, LLAMA.layer, numbered, LLAMA.sides))
    try:
        with pytest.raises(GraphError, match="only the function 'layer' of a kind has an index"):
            trace_programs(model_spec("A", preset="tiny", kind="numbered"))
    finally:
        del in_this_program["numbered"]


def test_variants_of_layers_that_differ_in_cost_are_not_enumerated(registered: Any) -> None:
    kind = registered("mixed", layer=mixed_layer)
    spec = model_spec("A[4]", context=24, kind=kind, **SIZES)
    with pytest.raises(SpecError, match="cost more or less by where they stand"):
        next(iter(variants(spec, 2, 3)))


def test_enumeration_keeps_what_differs_in_layers_alone() -> None:
    settings = {"decoder": {"pattern": "gl", "window": 4}}
    spec = model_spec("A[4]", kind="decoder", settings=settings, context=24, **SIZES)
    found = [variant.spec(spec) for variant in variants(spec, 2, 3)]
    prints = {fingerprint(own) for own in found}
    every = {
        fingerprint(model_spec(w, layers=4, kind="decoder", settings=settings, context=24, **SIZES))
        for w in ("A", "AA", "AB", "AAB", "ABA", "ABB")
    }
    assert every <= prints


def test_plans_for_devices_name_layers_that_differ() -> None:
    """A matrix that only some layers have is cut in those alone."""
    spec = model_spec("A[4]", kind=VARIED, context=24, **SIZES)
    plan = tp_plan(build_graph(spec))
    assert plan["A.*.query"] == "colwise"


def test_a_pattern_of_unknown_letters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="letters g, l, n, m, not 'x'"):
        model_spec("A", preset="tiny", kind="decoder", pattern="gx")


def test_towers_share_blocks_whose_layers_are_the_same_in_both() -> None:
    settings = {"decoder": {"pattern": "gl", "window": 2}}
    tower = {"kind": "decoder", "settings": settings}

    def towers(text: str) -> Any:
        return to_torch(model_spec(text, preset="tiny", towers={"one": tower, "two": tower}))

    model = towers("one: A[2]B[1], two: A[2]C[3]")
    assert model.one.A is model.two.A
    assert model.source.count("class DecoderLayer") == 2
    # A is global in one tower and local in the other.
    with pytest.raises(LoweringError, match="layers of block A differ between one and two"):
        towers("one: A[1]B[1], two: B[1]A[1]")
    ids = torch.zeros(1, 8, dtype=torch.long)
    assert model(one=ids)["one"].shape == (1, 8, 512)


def test_unread_values_of_other_kinds_change_no_class() -> None:
    """Block A has the rotary tables of B among its inputs in one tower, and not in the other."""
    model: Any = to_torch(
        model_spec(
            "one: A[1]{kind=gpt}B[1]{kind=llama}, two: A[1]{kind=gpt}C[1]",
            preset="tiny",
            towers={"one": {"kind": "gpt"}, "two": {"kind": "gpt"}},
        )
    )
    assert model.one.A is model.two.A
    assert "class GptLayer(" in model.source
