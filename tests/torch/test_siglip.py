"""SigLIP's towers and what compares them, against `SiglipModel` of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import SiglipConfig, SiglipModel

from rinsc import RinscError, build_graph, cost_report, to_torch, towers_spec
from rinsc.backends.torch import CompiledTowers
from rinsc.cost import stored_params
from rinsc.cost.flops import training_flops
from rinsc.spec import TowersSpec

BOTH: dict[str, Any] = {"layers": 4, "width": 24, "heads": 3, "mlp_width": 40}
TABLES: dict[str, dict[str, Any]] = {
    "image": {"kind": "siglip_image", "image_size": 12, "patch_size": 4},
    "text": {"kind": "siglip_text", "vocab_size": 31, "context": 7},
}
TOLERANCE = 1e-4


def small_towers(text: str, **text_settings: Any) -> TowersSpec:
    tables = {**TABLES, "text": {**TABLES["text"], **text_settings}}
    return towers_spec(text, towers=tables, **BOTH)


def siglip(layers: int = 4, vocab_size: int = 31) -> Any:
    """A model of transformers with random weights, none of them 0."""
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40}
    config = SiglipConfig(
        text_config={
            **sizes,
            "num_hidden_layers": layers,
            "vocab_size": vocab_size,
            "max_position_embeddings": 7,
        },
        vision_config={**sizes, "num_hidden_layers": layers, "image_size": 12, "patch_size": 4},
    )
    torch.manual_seed(0)
    model: Any = SiglipModel(config)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.logit_scale.fill_(1.7)
        model.logit_bias.fill_(-3.0)
    return model


def layer_weights(layer: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """A layer of transformers under our names."""
    names = {
        **{"attention_norm": "layer_norm1", "mlp_norm": "layer_norm2"},
        **{"query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj"},
        **{"output": "self_attn.out_proj", "up": "mlp.fc1", "down": "mlp.fc2"},
    }
    state = layer.state_dict()
    return {
        f"{prefix}.{ours}.{kind}": state[f"{theirs}.{kind}"]
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
    }


def our_weights(model: Any, layers: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
    """The weights of transformers' model; ``layers`` says which layer of which tower each is."""
    image, text = model.vision_model, model.text_model
    query, key, value = image.head.attention.in_proj_weight.chunk(3)
    biases = image.head.attention.in_proj_bias.chunk(3)
    weights: dict[str, Any] = {
        "image.embedding.weight": image.embeddings.patch_embedding.weight,
        "image.embedding.bias": image.embeddings.patch_embedding.bias,
        "image.positions.weight": image.embeddings.position_embedding.weight,
        "image.probe.weight": image.head.probe,
        "image.pool_query.weight": query,
        "image.pool_key.weight": key,
        "image.pool_value.weight": value,
        "text.embedding.weight": text.embeddings.token_embedding.weight,
        "text.positions.weight": text.embeddings.position_embedding.weight,
        "logit_scale": model.logit_scale,
        "logit_bias": model.logit_bias,
    }
    for name, bias in zip(("query", "key", "value"), biases, strict=True):
        weights[f"image.pool_{name}.bias"] = bias
    modules = {
        "image.final_norm": image.post_layernorm,
        "image.pool_output": image.head.attention.out_proj,
        "image.pool_norm": image.head.layernorm,
        "image.pool_up": image.head.mlp.fc1,
        "image.pool_down": image.head.mlp.fc2,
        "text.final_norm": text.final_layer_norm,
        "text.head": text.head,
    }
    for name, module in modules.items():
        weights[f"{name}.weight"], weights[f"{name}.bias"] = module.weight, module.bias
    for prefix, (tower, index) in layers.items():
        own = (image if tower == "image" else text).encoder.layers[index]
        weights |= layer_weights(own, prefix)
    return weights


def twins(text: str, layers: Mapping[str, tuple[str, int]]) -> tuple[CompiledTowers, Any]:
    ours, theirs = to_torch(small_towers(text)).eval(), siglip()
    ours.load_state_dict(our_weights(theirs, layers))
    return ours, theirs


PLAIN = {
    f"{tower}.{block}.{index}": (tower, start + index)
    for tower, blocks in (("image", "AB"), ("text", "CD"))
    for start, block in zip((0, 2), blocks, strict=True)
    for index in range(2)
}


def inputs(batch: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(batch, 3, 12, 12), torch.randint(31, (batch, 7))


def test_both_towers_logits_and_gradients_are_those_of_siglip() -> None:
    ours, theirs = twins("image: AB, text: CD", PLAIN)
    pixels, ids = inputs()
    expected = theirs(input_ids=ids, pixel_values=pixels)
    found = ours(image=pixels, text=ids)
    for one, other in (
        (found["image"], expected.vision_model_output.pooler_output),
        (found["text"], expected.text_model_output.pooler_output),
        (found["logits"], expected.logits_per_text),
    ):
        torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=0)
    expected.logits_per_text.square().sum().backward()
    found["logits"].square().sum().backward()
    theirs_by_name = our_weights_of_gradients(theirs, PLAIN)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs_by_name[name], atol=1e-3, rtol=TOLERANCE)


def our_weights_of_gradients(
    model: Any, layers: Mapping[str, tuple[str, int]]
) -> dict[str, torch.Tensor]:
    """The gradients of transformers' model under our names."""
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    return our_weights(model, layers)


def test_a_repeat_calls_the_layers_of_siglip_twice() -> None:
    ours, theirs = twins("image: A^2B, text: CD", PLAIN)
    pixels, ids = inputs()
    layers = theirs.vision_model.encoder.layers
    theirs.vision_model.encoder.layers = nn.ModuleList([*layers[:2], *layers[:2], *layers[2:]])
    expected = theirs(input_ids=ids, pixel_values=pixels).logits_per_text
    assert (
        expected - ours(image=pixels, text=ids, rounds={"image.A": 1})["logits"]
    ).abs().max() > 1e-2
    torch.testing.assert_close(
        ours(image=pixels, text=ids)["logits"], expected, atol=TOLERANCE, rtol=0
    )


def test_towers_share_a_block() -> None:
    layers = {
        **{
            f"{tower}.A.{index}": ("image", index)
            for tower in ("image", "text")
            for index in (0, 1)
        },
        **{f"image.B.{index}": ("image", 2 + index) for index in (0, 1)},
        **{f"text.C.{index}": ("text", 2 + index) for index in (0, 1)},
    }
    ours, theirs = twins("image: AB, text: AC", layers)
    own = theirs.text_model.encoder.layers
    theirs.text_model.encoder.layers = nn.ModuleList(
        [*theirs.vision_model.encoder.layers[:2], *own[2:]]
    )
    pixels, ids = inputs()
    expected = theirs(input_ids=ids, pixel_values=pixels).logits_per_text
    torch.testing.assert_close(
        ours(image=pixels, text=ids)["logits"], expected, atol=TOLERANCE, rtol=0
    )


def test_presets_have_the_parameters_of_siglip() -> None:
    spec = towers_spec("image: AB, text: CD", preset="siglip-b16")
    assert stored_params(build_graph(spec)) == 203_155_970
    for preset in ("siglip-l16", "siglip-so400m", "siglip-tiny"):
        towers = towers_spec("image: AB, text: CD", preset=preset)
        image, text = towers.specs
        sizes = [
            {
                "hidden_size": tower.width,
                "num_hidden_layers": tower.layers,
                "num_attention_heads": tower.heads,
                "intermediate_size": tower.mlp_width,
            }
            for tower in towers.specs
        ]
        own = image.settings_of("siglip_image")
        config = SiglipConfig(
            text_config={
                **sizes[1],
                "vocab_size": text.vocab_size,
                "max_position_embeddings": text.context,
            },
            vision_config={
                **sizes[0],
                "image_size": own.image_size,
                "patch_size": own.patch_size,
            },
        )
        with torch.device("meta"):
            theirs = SiglipModel(config)
        count = sum(parameter.numel() for parameter in theirs.parameters())
        assert stored_params(build_graph(towers)) == count


def test_costs_of_a_pair_are_those_that_pytorch_counts() -> None:
    spec = towers_spec("image: A^2B, text: CD", preset="siglip-tiny")
    model = to_torch(spec, device="meta")
    pixels = torch.zeros((6, 3, 32, 32), device="meta")
    ids = torch.zeros((6, 16), dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter:
        logits = model(image=pixels, text=ids, rounds=1)["logits"]
        forward = counter.get_total_flops()
        logits.sum().backward()
    assert forward == 6 * cost_report(spec, batch=6, rounds=1).forward_flops
    assert counter.get_total_flops() == training_flops(spec, 64, batch=6, rounds=1)
    b16 = cost_report(towers_spec("image: AB, text: CD", preset="siglip-b16"))
    giga = [round(report.forward_flops / 1e9, 2) for report in b16.towers.values()]
    assert giga == [35.42, 11.02]  # of SigLIP's B/16 at 224 px and 64 tokens


def test_weights_start_as_those_of_siglip() -> None:
    torch.manual_seed(0)
    model: Any = to_torch(
        towers_spec("image: AB, text: CD", preset="siglip-tiny", width=256, heads=4)
    )
    assert model.logit_scale.item() == pytest.approx(2.302585)
    assert model.logit_bias.item() == -10
    deviations = {
        "image.embedding.weight": (3 * 4 * 4) ** -0.5,
        "image.positions.weight": 256**-0.5,
        "image.A.0.query.weight": (2 / 512) ** 0.5,
        "image.A.0.up.weight": (2 / (256 + 384)) ** 0.5,
        "image.A.0.up.bias": 1e-6,
        "image.pool_down.bias": 1e-6,
        "image.probe.weight": (2 / 512) ** 0.5,
        "text.embedding.weight": 256**-0.5,
        "text.head.weight": 256**-0.5,
    }
    parameters = dict(model.named_parameters())
    for name, deviation in deviations.items():
        assert parameters[name].std().item() == pytest.approx(deviation, rel=0.15), name
    assert not parameters["image.A.0.query.bias"].any()
    assert not parameters["image.embedding.bias"].any()


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"image": {"patch_size": 13}}, "bad-value", "patch_size 13 is more than image_size 12"),
        ({"image": {"context": 8}}, "context-mismatch", "context is 8"),
        ({"text": {"width": 48, "heads": 6}}, "widths-differ", "24 numbers and those of text 48"),
    ],
)
def test_bad_towers_are_refused(changes: dict[str, dict[str, Any]], code: str, text: str) -> None:
    tables = {name: {**table, **changes.get(name, {})} for name, table in TABLES.items()}
    with pytest.raises(RinscError) as caught:
        towers_spec("image: AB, text: CD", towers=tables, **BOTH)
    assert [problem.code for problem in caught.value.problems] == [code]
    assert text in caught.value.message
    assert caught.value.hint
