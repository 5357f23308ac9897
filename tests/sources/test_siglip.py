"""The family siglip, against `SiglipModel` of transformers with random weights."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import Siglip2Config, SiglipConfig, SiglipModel

from rinsc.backends.hf.towers_folder import siglip_tensors
from rinsc.backends.torch import to_torch
from rinsc.cost import cost_report
from rinsc.errors import CheckpointError, SpecError
from rinsc.graph import build_graph
from rinsc.layers import join_shapes, weight_shapes
from rinsc.sources import (
    SIGLIP,
    family_of,
    towers_config_from_graph,
    towers_spec_from_config,
    towers_tensors_by_our_names,
)
from tests.sources.checkpoints import TEXT, VISION, pairs_of, siglip


def ours(model: Any, signature: str | None = None) -> Any:
    """The module of rinsc that a SigLIP becomes."""
    config = model.config.to_dict()
    spec = towers_spec_from_config(SIGLIP, config, signature)
    module: Any = to_torch(spec)
    tensors = towers_tensors_by_our_names(SIGLIP, module.graph, dict(model.state_dict()))
    module.load_state_dict({n: tensors[module.stored_name(n)] for n in module.state_dict()})
    return module.eval()


def compare(model: Any, module: Any) -> None:
    inputs = pairs_of(model)
    with torch.no_grad():
        expected = model(**inputs)
        outputs = module(image=inputs["pixel_values"], text=inputs["input_ids"])
    close: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(outputs["logits"], expected.logits_per_text, **close)
    pooled = expected.vision_model_output.pooler_output, expected.text_model_output.pooler_output
    for name, value in zip(("image", "text"), pooled, strict=True):
        torch.testing.assert_close(outputs[name], value, **close)
        assert value.std() > 0.1


@settings(max_examples=12)
@given(
    heads=st.tuples(st.sampled_from((1, 2, 3)), st.sampled_from((1, 2))),
    layers=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    side=st.sampled_from(((8, 4), (12, 3), (6, 6))),
    channels=st.sampled_from((1, 3)),
    width=st.sampled_from((6, 12)),
    text_width=st.sampled_from((6, 10)),
    eps=st.sampled_from((1e-6, 1e-2)),
    context=st.integers(1, 9),
)
def test_a_drawn_config_gives_its_logits_and_comes_back_bit_for_bit(
    heads: tuple[int, int],
    layers: tuple[int, int],
    side: tuple[int, int],
    channels: int,
    width: int,
    text_width: int,
    eps: float,
    context: int,
) -> None:
    vision = {
        "hidden_size": width,
        "intermediate_size": 5,
        "num_hidden_layers": layers[0],
        "num_attention_heads": heads[0],
        "num_channels": channels,
        "image_size": side[0],
        "patch_size": side[1],
        "layer_norm_eps": eps,
    }
    text = {
        "hidden_size": text_width,
        "intermediate_size": 7,
        "num_hidden_layers": layers[1],
        "num_attention_heads": heads[1],
        "vocab_size": 11,
        "max_position_embeddings": context,
        "projection_size": width,
        "layer_norm_eps": eps,
    }
    model = siglip(vision, text)
    module = ours(model)
    compare(model, module)
    config, tensors = siglip_tensors(module, None)
    assert SiglipConfig(**config).to_dict() == model.config.to_dict() | {
        "dtype": None,
        "architectures": None,
    }
    state = model.state_dict()
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)


def test_what_a_config_leaves_out_is_b16() -> None:
    spec = towers_spec_from_config(SIGLIP, {"model_type": "siglip"})
    graph = build_graph(spec)
    shapes = [shape for own in graph.towers.values() for shape in weight_shapes(own).values()]
    sizes = [torch.Size(shape).numel() for shape in (*shapes, *join_shapes(spec).values())]
    assert sum(sizes) == 203_155_970
    with torch.device("meta"):
        theirs = SiglipModel(SiglipConfig())
    assert sum(parameter.numel() for parameter in theirs.parameters()) == sum(sizes)


def test_the_most_used_checkpoint_drops_the_last_pixels() -> None:
    model = siglip({"image_size": 13})  # as so400m-patch14-384 does
    module = ours(model)
    assert module.spec.towers["image"].context == 9
    compare(model, module)
    with FlopCounterMode(display=False) as counter:
        pixels = torch.zeros(1, 3, 13, 13, device="meta")
        ids = torch.zeros(1, 7, dtype=torch.int64, device="meta")
        to_torch(module.spec, device="meta")(image=pixels, text=ids)
    assert counter.get_total_flops() == cost_report(module.spec, batch=1).forward_flops


def test_names_of_other_versions_are_known() -> None:
    model = siglip()
    graph = ours(model).graph
    expected = towers_tensors_by_our_names(SIGLIP, graph, dict(model.state_dict()))
    for rename in (
        lambda name: f"siglip.{name}",
        lambda name: name.replace("vision_model.", "vision_model.vision_model."),
        lambda name: name.replace("text_model.", "text_model.text_model."),
    ):
        tensors = {rename(name): tensor for name, tensor in model.state_dict().items()}
        tensors[rename("text_model.embeddings.position_ids")] = torch.arange(7)[None]
        again = towers_tensors_by_our_names(SIGLIP, graph, tensors)
        assert all(torch.equal(again[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("change", "code", "place"),
    [
        ({"text_config": {"hidden_act": "gelu"}}, "unsupported-value", "text_config.hidden_act"),
        ({"vision_config": {"vision_use_head": False}}, "unsupported-value", "vision_use_head"),
        ({"vision_config": {"image_size": [8, 12]}}, "unsupported-value", "image_size"),
        ({"vision_config": {"num_patches": 256}}, "unknown-key", "vision_config.num_patches"),
        ({"vision_config": {"model_type": "clip"}}, "unsupported-value", "model_type"),
        ({"text_config": {"window": 3}}, "unknown-key", "text_config.window"),
        ({"text_config": {"is_decoder": True}}, "unknown-key", "text_config.is_decoder"),
        ({"text_config": 3}, "bad-type", "text_config"),
        ({"text_config": {"hidden_size": "wide"}}, "bad-type", None),
        ({"text_config": {"projection_size": 5}}, "widths-differ", None),
        ({"projection_dim": 12}, "unknown-key", "projection_dim"),
    ],
)
def test_what_is_not_honoured_is_one_error(
    change: dict[str, Any], code: str, place: str | None
) -> None:
    config: dict[str, Any] = {"model_type": "siglip", "vision_config": VISION, "text_config": TEXT}
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(config.get(key), dict)
        config[key] = config[key] | value if both else value
    with pytest.raises(SpecError) as caught:
        towers_spec_from_config(SIGLIP, config)
    assert [problem.code for problem in caught.value.problems] == [code]
    assert place is None or str(caught.value.problems[0].place).endswith(place)


def test_keys_that_change_no_number_are_ignored_by_name() -> None:
    more = {"attention_dropout": 0.1, "top_k": 50, "tie_word_embeddings": True, "use_cache": None}
    text = TEXT | more
    config = {"model_type": "siglip", "vision_config": VISION, "text_config": text}
    plain = {"model_type": "siglip", "vision_config": VISION, "text_config": TEXT}
    assert towers_spec_from_config(SIGLIP, config) == towers_spec_from_config(SIGLIP, plain)


def test_models_that_look_alike_are_refused_with_a_reason() -> None:
    with pytest.raises(SpecError, match="NaFlex"):
        family_of(Siglip2Config().to_dict())
    with pytest.raises(SpecError, match="several towers"):
        family_of({"model_type": "siglip"})
    with pytest.raises(SpecError, match="pictures alone"):
        family_of({"model_type": "siglip_vision_model"})


@pytest.mark.parametrize(
    ("signature", "code"),
    [
        ("image: A, text: A", "shared-block"),
        ("picture: A, text: B", "other-towers"),
        ("AB", "other-towers"),
    ],
)
def test_towers_that_a_checkpoint_has_not(signature: str, code: str) -> None:
    layers = {key: VISION[key] for key in VISION.keys() & TEXT.keys()}
    with pytest.raises(SpecError) as caught:
        towers_spec_from_config(SIGLIP, siglip(text=layers).config.to_dict(), signature)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("name", "shape", "code"),
    [
        ("logit_bias", None, "missing-tensor"),
        ("vision_model.head.probe", None, "missing-tensor"),
        ("vision_model.head.attention.in_proj_weight", (71, 24), "other-shape"),
        ("text_model.head.weight", (24, 15), "other-shape"),
        ("vision_model.encoder.layers.3.mlp.fc1.bias", (21,), "surplus-tensor"),
        ("siglip.logit_bias", (1,), "surplus-tensor"),
    ],
)
def test_tensors_that_do_not_fit_are_one_error(
    name: str, shape: tuple[int, ...] | None, code: str
) -> None:
    model = siglip()
    tensors = dict(model.state_dict())
    if shape is None:
        del tensors[name]
    else:
        tensors[name] = torch.zeros(shape)
    graph = build_graph(towers_spec_from_config(SIGLIP, model.config.to_dict()))
    with pytest.raises(CheckpointError) as caught:
        towers_tensors_by_our_names(SIGLIP, graph, tensors)
    assert [problem.code for problem in caught.value.problems] == [code]


def test_a_recursive_model_has_a_config_of_what_runs() -> None:
    spec = ours(siglip(), "image: A[2]^3B, text: C").spec
    config = towers_config_from_graph(SIGLIP, build_graph(spec))
    assert config["vision_config"]["num_hidden_layers"] == 7
    assert config["text_config"]["num_hidden_layers"] == 2


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from((0, 2**40, 2**70, 0.5, float("nan"), "", "wide", "\x00")),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.sampled_from(("hidden_size", "a")), st.integers(), max_size=2),
)
KEYS = sorted({*VISION, *TEXT, "hidden_act", "layer_norm_eps", "vision_use_head", "new"})


@settings(max_examples=100)
@given(
    table=st.sampled_from(("vision_config", "text_config", None)),
    key=st.sampled_from((*KEYS, "vision_config", "text_config", "initializer_factor")),
    value=JUNK,
)
def test_whatever_a_config_holds_is_honoured_or_refused(
    table: str | None, key: str, value: Any
) -> None:
    config: dict[str, Any] = {
        "model_type": "siglip",
        "vision_config": dict(VISION),
        "text_config": dict(TEXT),
    }
    (config if table is None else config[table])[key] = value
    spec = None
    with contextlib.suppress(SpecError):
        spec = towers_spec_from_config(SIGLIP, config)
    if spec is None:
        return
    again = towers_config_from_graph(SIGLIP, build_graph(spec))
    for name in ("vision_config", "text_config"):
        own = config[name] if isinstance(config[name], dict) else {}
        for said, number in own.items():
            if said in again[name] and number is not None and not said.endswith("token_id"):
                side = number[0] if isinstance(number, list) else number
                assert again[name][said] == side, said
