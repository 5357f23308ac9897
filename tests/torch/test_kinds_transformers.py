"""Layer kinds and sharing against the classes of transformers and torch, with weights copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    HrmTextConfig,
    HrmTextForCausalLM,
    SiglipConfig,
    SiglipForImageClassification,
)

from rinsc.backends.torch import CompiledModule, to_torch
from rinsc.cost import stored_params
from rinsc.graph import build_graph
from rinsc.sources.llama import LLAMA
from rinsc.spec import ModelSpec, model_spec
from tests.torch.test_transformers import llama_reference, randomise

TOLERANCE = 1e-4
DIMENSIONS: Mapping[str, Any] = {
    "width": 40,
    "heads": 4,
    "kv_heads": 4,
    "mlp_width": 61,
    "vocab_size": 83,
    "context": 37,
}
POST_NORM_NAMES = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "output": "attention.dense",
    "attention_norm": "attention.LayerNorm",
    "up": "ffn",
    "down": "ffn_output",
    "mlp_norm": "full_layer_layer_norm",
}


def token_ids(spec: ModelSpec) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(spec.vocab_size, (3, 29), generator=generator)


def copy_weights(model: CompiledModule, pairs: Mapping[str, torch.Tensor]) -> None:
    model.load_state_dict({name: tensor.detach().clone() for name, tensor in pairs.items()})


def gap(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert theirs.std() > 0.1
    return float((ours - theirs).abs().max())


def gradients_agree(
    model: nn.Module, reference: nn.Module, input_ids: torch.Tensor, pairs: Mapping[str, str]
) -> None:
    """Gradients of our tensors, by name, against those of the reference under its names."""
    generator = torch.Generator().manual_seed(8)
    ours, theirs = model(input_ids), reference(input_ids).logits
    weigh = torch.randn(ours.shape, generator=generator)
    (ours * weigh).sum().backward()
    (theirs * weigh).sum().backward()
    for name, other in pairs.items():
        expected = reference.get_parameter(other).grad
        found = model.get_parameter(name).grad
        assert expected is not None
        assert found is not None
        scale = float(expected.abs().max())
        assert scale > 0
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * max(1.0, scale))


# ALBERT: one layer for all, groups of layers, and what its ablation shares.


def albert_reference(layers: int, groups: int = 1, inner: int = 1) -> Any:
    config = AlbertConfig(
        vocab_size=83,
        embedding_size=24,
        hidden_size=40,
        num_hidden_layers=layers,
        num_hidden_groups=groups,
        inner_group_num=inner,
        num_attention_heads=4,
        intermediate_size=61,
        max_position_embeddings=37,
        type_vocab_size=1,
        layer_norm_eps=1e-6,
    )
    model: Any = AlbertForMaskedLM(config)
    model.eval()
    randomise(model)
    return model


def albert_spec(signature: str) -> ModelSpec:
    return model_spec(signature, kind="albert", embedding_width=24, norm_eps=1e-6, **DIMENSIONS)


def albert_weights(reference: Any, places: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """``places`` gives the reference's layer for each of ours: ``A.0.``."""
    embeddings, head = reference.albert.embeddings, reference.predictions
    mapping = reference.albert.encoder.embedding_hidden_mapping_in
    own = {
        "embedding.weight": embeddings.word_embeddings.weight,
        "token_type.weight": embeddings.token_type_embeddings.weight[0],
        "positions.weight": embeddings.position_embeddings.weight,
        "head_bias.weight": head.decoder.bias,
    }
    modules = {"embedding_norm": embeddings.LayerNorm, "widen": mapping}
    modules |= {"narrow": head.dense, "final_norm": head.LayerNorm}
    for place, layer in places.items():
        for ours, theirs in POST_NORM_NAMES.items():
            modules[f"{place}{ours}"] = layer.get_submodule(theirs)
    for name, module in modules.items():
        own[f"{name}.weight"], own[f"{name}.bias"] = module.weight, module.bias
    return own


def albert_layers(reference: Any) -> list[Any]:
    groups = reference.albert.encoder.albert_layer_groups
    return [layer for group in groups for layer in group.albert_layers]


@pytest.mark.parametrize(
    ("signature", "reference", "places"),
    [
        ("A[1]^4", {"layers": 4}, ["A.0."]),
        ("A[1]^2B[1]^2", {"layers": 4, "groups": 2}, ["A.0.", "B.0."]),
        ("A[2]^3", {"layers": 3, "inner": 2}, ["A.0.", "A.1."]),
    ],
)
def test_albert_equals_that_of_transformers(
    signature: str, reference: dict[str, int], places: list[str]
) -> None:
    theirs, spec = albert_reference(**reference), albert_spec(signature)
    model = to_torch(spec)
    layers = albert_layers(theirs)
    copy_weights(model, albert_weights(theirs, dict(zip(places, layers, strict=True))))
    with torch.no_grad():
        assert gap(model(token_ids(spec)), theirs(token_ids(spec)).logits) < TOLERANCE


@pytest.mark.parametrize("tie", ["attention", "mlp"])
def test_albert_that_shares_one_half_equals_shared_modules(tie: str) -> None:
    theirs, spec = albert_reference(3, groups=3), albert_spec(f"A[3]{{tie={tie}}}")
    first, *others = albert_layers(theirs)
    shared = {"attention": ["attention"], "mlp": ["ffn", "ffn_output", "full_layer_layer_norm"]}
    for layer in others:
        for name in shared[tie]:
            setattr(layer, name, getattr(first, name))
    model = to_torch(spec)
    places = {f"A.layers.{index}.": layer for index, layer in enumerate((first, *others))}
    every = albert_weights(theirs, {**places, "A.tied.": first})
    copy_weights(model, {name: every[name] for name in model.state_dict()})
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for name, p in theirs.named_parameters() if "pooler" not in name
    )
    with torch.no_grad():
        assert gap(model(token_ids(spec)), theirs(token_ids(spec)).logits) < TOLERANCE


def test_another_group_of_albert_is_seen() -> None:
    theirs, spec = albert_reference(4, groups=2), albert_spec("A[1]^3B[1]")
    model = to_torch(spec)
    places = dict(zip(["A.0.", "B.0."], albert_layers(theirs), strict=True))
    copy_weights(model, albert_weights(theirs, places))
    with torch.no_grad():
        assert gap(model(token_ids(spec)), theirs(token_ids(spec)).logits) > 100 * TOLERANCE


ALBERTS = {"base": (768, 12, 12), "large": (1024, 16, 24), "xxlarge": (4096, 64, 12)}


@pytest.mark.parametrize("name", ALBERTS)
def test_albert_has_the_parameters_of_the_published_sizes(name: str) -> None:
    width, heads, layers = ALBERTS[name]
    config = AlbertConfig(
        hidden_size=width,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        intermediate_size=4 * width,
    )
    with torch.device("meta"):
        theirs: Any = AlbertForMaskedLM(config)
    spec = model_spec(
        f"A[1]^{layers}",
        kind="albert",
        width=width,
        heads=heads,
        mlp_width=4 * width,
        vocab_size=30000,
        context=512,
    )
    second_token_type = 128
    counted = sum(parameter.numel() for parameter in theirs.parameters())
    assert stored_params(build_graph(spec)) == counted - second_token_type


# Vision.


def vit_spec() -> ModelSpec:
    sizes = {**DIMENSIONS, "vocab_size": 11, "context": 12}
    return model_spec("A[2]B[1]", kind="vit", patch_width=48, norm_eps=1e-6, **sizes)


def siglip_reference(spec: ModelSpec) -> Any:
    config_class: Any = SiglipConfig
    config = config_class(
        vision_config={
            "hidden_size": spec.width,
            "intermediate_size": spec.mlp_width,
            "num_hidden_layers": spec.layers,
            "num_attention_heads": spec.heads,
            "image_size": 12,
            "patch_size": 4,
            "layer_norm_eps": spec.norm_eps,
            "vision_use_head": False,
        },
        num_labels=spec.vocab_size,
    )
    model: Any = SiglipForImageClassification(config)
    model.eval()
    randomise(model)
    return model


def siglip_weights(reference: Any, spec: ModelSpec) -> dict[str, torch.Tensor]:
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
    names = {ours: f"self_attn.{theirs}" for ours, theirs in names.items()}
    names |= {"attention_norm": "layer_norm1", "mlp_norm": "layer_norm2"}
    names |= {"up": "mlp.fc1", "down": "mlp.fc2"}
    vision = reference.vision_model
    patches = vision.embeddings.patch_embedding
    own = {
        "embedding.weight": patches.weight.flatten(1),
        "embedding.bias": patches.bias,
        "positions.weight": torch.zeros(spec.context, spec.width),
    }
    own["positions.weight"][:9] = vision.embeddings.position_embedding.weight.detach()
    modules = {"final_norm": vision.post_layernorm, "head": reference.classifier}
    for layer, place in zip(vision.encoder.layers, ["A.0", "A.1", "B.0"], strict=True):
        modules |= {f"{place}.{ours}": layer.get_submodule(name) for ours, name in names.items()}
    for name, module in modules.items():
        own[f"{name}.weight"], own[f"{name}.bias"] = module.weight, module.bias
    return own


def test_vit_equals_siglip_on_the_patches_of_an_image() -> None:
    spec = vit_spec()
    theirs, model = siglip_reference(spec), to_torch(spec)
    copy_weights(model, siglip_weights(theirs, spec))
    image = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(4))
    patches = F.unfold(image, kernel_size=4, stride=4).transpose(1, 2)
    with torch.no_grad():
        expected = theirs(image).logits
        assert gap(model(patches), expected) < TOLERANCE
        assert gap(model(patches.flip(1)), expected) > 100 * TOLERANCE


# HRM-Text: two stacks, the fast one looped with the embedding added in each round.

HRM_NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_gate": "self_attn.gate_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
HRM = "L[2]^4{inject=add, init=zero, grad=2} H[2]{kind=hrm_high}"


def hrm_pair(signature: str = HRM) -> tuple[CompiledModule, Any, dict[str, str]]:
    """Our model and theirs with the same weights, and the names of those, ours to theirs."""
    spec = model_spec(signature, kind="hrm", norm_eps=1e-6, **DIMENSIONS)
    config = HrmTextConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.width,
        intermediate_size=spec.mlp_width,
        num_hidden_layers=2,
        num_attention_heads=spec.heads,
        head_dim=spec.head_size,
        max_position_embeddings=spec.context,
        rms_norm_eps=spec.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
        H_cycles=1,
        L_cycles=4,
        L_bp_cycles=[2],
        prefix_lm=False,
    )
    theirs: Any = HrmTextForCausalLM(config)
    randomise(theirs)
    with torch.no_grad():
        for parameter in theirs.model.parameters():
            parameter.mul_(0.5)  # loops that amplify less keep the rounding of fp32 small
        theirs.model.z_L_init.zero_()  # frozen, as published
        theirs.model.embed_tokens.weight.mul_(0.02)
    names = {"embedding.weight": "model.embed_tokens.weight", "head.weight": "lm_head.weight"}
    for block in "LH":
        for index in range(2):
            for ours, other in HRM_NAMES.items():
                place = f"model.{block}_module.layers.{index}.{other}.weight"
                names[f"{block}.layers.{index}.{ours}.weight"] = place
    model = to_torch(spec)
    copy_weights(model, {ours: theirs.get_parameter(name) for ours, name in names.items()})
    return model, theirs, names


def test_hrm_equals_that_of_transformers_with_gradients_through_the_last_rounds() -> None:
    model, theirs, names = hrm_pair()
    input_ids = token_ids(model.spec)
    with torch.no_grad():
        assert gap(model(input_ids), theirs(input_ids).logits) < TOLERANCE
    gradients_agree(model, theirs, input_ids, names)


@pytest.mark.parametrize("grad", [1, 3])
def test_gradients_through_other_rounds_are_seen(grad: int) -> None:
    model, theirs, names = hrm_pair(HRM.replace("grad=2", f"grad={grad}"))
    with pytest.raises(AssertionError):
        gradients_agree(model, theirs, token_ids(model.spec), names)


def test_hrm_has_the_parameters_of_the_published_size() -> None:
    with torch.device("meta"):
        theirs: Any = HrmTextForCausalLM(HrmTextConfig(vocab_size=65536))
    spec = model_spec(
        "L[16]^3{inject=add, init=zero} H[16]{kind=hrm_high}",
        kind="hrm",
        width=1536,
        heads=12,
        mlp_width=4096,
        vocab_size=65536,
        context=2048,
    )
    frozen = theirs.model.z_L_init.numel()  # the zeros that the fast state starts from
    counted = sum(parameter.numel() for parameter in theirs.parameters())
    assert stored_params(build_graph(spec)) == counted - frozen


# The encoder layer of torch, made causal.


def test_transformer_equals_the_encoder_of_torch() -> None:
    spec = model_spec("A[2]^2", kind="transformer", tied_embedding=True, **DIMENSIONS)
    torch.manual_seed(2)
    layer = nn.TransformerEncoderLayer(
        spec.width, spec.heads, spec.mlp_width, dropout=0.0, activation="relu", batch_first=True
    )
    encoder: Any = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    randomise(encoder)
    model = to_torch(spec)
    randomise(model)
    names = {"output": "self_attn.out_proj", "attention_norm": "norm1", "mlp_norm": "norm2"}
    names |= {"up": "linear1", "down": "linear2"}
    own = dict(model.state_dict())
    for index, theirs in enumerate(encoder.layers):
        for kind in ("weight", "bias"):
            parts = getattr(theirs.self_attn, f"in_proj_{kind}").chunk(3)
            for ours, tensor in zip(("query", "key", "value"), parts, strict=True):
                own[f"A.{index}.{ours}.{kind}"] = tensor
            for ours, name in names.items():
                own[f"A.{index}.{ours}.{kind}"] = getattr(theirs.get_submodule(name), kind)
    copy_weights(model, own)
    input_ids = token_ids(spec)
    mask = nn.Transformer.generate_square_subsequent_mask(29)
    with torch.no_grad():
        table = own["embedding.weight"]
        x = table[input_ids] * spec.width**0.5 + own["positions.weight"][:29]
        once = encoder(x, mask)
        twice = encoder(once, mask)
        assert gap(model(input_ids), twice @ table.T) < TOLERANCE
        assert gap(model(input_ids), once @ table.T) > 100 * TOLERANCE


# MobileLLM: Llama's layers listed more than once.

SHARINGS: Mapping[str, tuple[str, Callable[[list[Any]], list[Any]]]] = {
    "immediate": ("A[3]{each=2}", lambda layers: [x for x in layers for _ in range(2)]),
    "repeat all over": ("A[3]^2", lambda layers: layers * 2),
    "reverse": ("A[3] A{reverse}", lambda layers: layers + layers[::-1]),
}


def mobile_pair(
    signature: str, listed: Callable[[list[Any]], list[Any]]
) -> tuple[CompiledModule, Any, dict[str, str]]:
    spec = model_spec(signature, tied_embedding=True, **{**DIMENSIONS, "kv_heads": 2})
    theirs = llama_reference(spec)
    randomise(theirs)
    names = {"embedding.weight": "model.embed_tokens.weight"}
    names["final_norm.weight"] = "model.norm.weight"
    for index in range(3):
        for ours, other in LLAMA.layer.items():
            if ours.endswith(".bias"):
                continue
            names[f"A.{index}.{ours}"] = other.format(layer=index)
    model = to_torch(spec)
    copy_weights(model, {ours: theirs.get_parameter(other) for ours, other in names.items()})
    theirs.model.layers = nn.ModuleList(listed(list(theirs.model.layers)))
    theirs.config.num_hidden_layers = len(theirs.model.layers)
    theirs.config.use_cache = False
    return model, theirs, names | _renamed(listed)


def _renamed(listed: Callable[[list[Any]], list[Any]]) -> dict[str, str]:
    """Where the weights of the three layers stand once the list holds them more than once."""
    first = [listed([0, 1, 2]).index(index) for index in range(3)]
    return {
        f"A.{index}.{ours}": other.format(layer=place)
        for index, place in enumerate(first)
        for ours, other in LLAMA.layer.items()
        if not ours.endswith(".bias")
    }


@pytest.mark.parametrize("sharing", SHARINGS)
def test_mobile_llm_equals_llama_with_layers_listed_again(sharing: str) -> None:
    model, theirs, names = mobile_pair(*SHARINGS[sharing])
    input_ids = token_ids(model.spec)
    with torch.no_grad():
        assert gap(model(input_ids), theirs(input_ids).logits) < TOLERANCE
    gradients_agree(model, theirs, input_ids, names)


def test_another_sharing_is_seen() -> None:
    signature, _ = SHARINGS["immediate"]
    _, listed = SHARINGS["reverse"]
    model, theirs, _ = mobile_pair(signature, listed)
    input_ids = token_ids(model.spec)
    with torch.no_grad():
        assert gap(model(input_ids), theirs(input_ids).logits) > 100 * TOLERANCE
