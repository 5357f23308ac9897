"""Folders of transformers: each tensor once, reloads bit for bit, files of rinsc interchange."""

from __future__ import annotations

import copy
import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rinsc.backends.hf import RinscConfig, RinscForCausalLM, causal_lm
from rinsc.backends.hf.folder import write_standalone_folder
from rinsc.backends.torch import load_weights, save_weights, to_torch
from rinsc.errors import CheckpointError, LoweringError, SpecError
from rinsc.graph import build_graph, unroll
from rinsc.layers import weight_shapes
from rinsc.spec import ModelSpec
from tests.hf.models import CAUSAL, ids, pair
from tests.hf.test_hosted import RICH, causal
from tests.onnx.models import small_spec
from tests.specs import specs


@settings(max_examples=10)
@given(spec=specs(options=True, kinds=CAUSAL, max_visits=6).filter(causal))
def test_a_folder_reloads_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, spec: ModelSpec
) -> None:
    folder = tmp_path_factory.mktemp("model")
    model, _ = pair(spec)
    model.save_pretrained(folder)
    again: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert type(again) is RinscForCausalLM
    assert again.config.model_spec == spec
    ours = dict(model.named_parameters()) | dict(model.named_buffers())
    theirs = dict(again.named_parameters()) | dict(again.named_buffers())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    input_ids = ids(spec, 2, 9)
    assert torch.equal(model(input_ids).logits, again(input_ids).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_each_tensor_stands_once_on_disk(tmp_path: Path, tied: bool) -> None:
    model, plain = pair(small_spec(RICH, tied_embedding=tied))
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    expected = weight_shapes(plain.graph)
    assert shapes == {f"model.{name}": shape for name, shape in expected.items()}
    stored = (tmp_path / "model.safetensors").stat().st_size
    assert stored < 4 * sum(p.numel() for p in plain.parameters()) + 8 * 2**10


def test_a_file_of_save_weights_loads_by_from_pretrained(tmp_path: Path) -> None:
    model, plain = pair(RICH)
    model.config.save_pretrained(tmp_path)
    save_weights(plain, tmp_path / "model.safetensors")
    loaded: Any = RinscForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    again, report = loaded
    assert not any(report.values())
    input_ids = ids(plain.spec, 2, 9)
    assert torch.equal(again(input_ids).logits, plain(input_ids))


def test_a_file_of_save_pretrained_loads_by_load_weights(tmp_path: Path) -> None:
    model, plain = pair(RICH)
    model.save_pretrained(tmp_path)
    other = to_torch(plain.spec)
    load_weights(other, tmp_path / "model.safetensors")
    hosted = causal_lm(plain.spec).model
    load_weights(hosted, tmp_path / "model.safetensors")
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
        assert torch.equal(tensor, hosted.state_dict()[name])
    with pytest.raises(CheckpointError, match="another-model"):
        load_weights(to_torch(small_spec("AB")), tmp_path / "model.safetensors")


def test_weights_that_a_file_lacks_start_as_compiled(tmp_path: Path) -> None:
    """And those that it has are left alone, as are the tables that no file holds."""
    model, _ = pair("A^3{inject=concat, init=zero}B")  # whose injection starts as [I I]
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    lost = ["model.loop_A.inject.weight", "model.A.1.down.weight", "model.final_norm.weight"]
    kept = {name: tensor for name, tensor in tensors.items() if name not in lost}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again: Any = RinscForCausalLM.from_pretrained(tmp_path)
    found = again.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in kept.items())
    assert torch.equal(found[lost[0]], torch.eye(24).repeat(1, 2))
    assert 0 < found[lost[1]].std() < 0.02
    assert torch.equal(found[lost[2]], torch.ones(24))
    assert torch.equal(again.model.cos, model.model.cos)


def test_a_lower_precision_is_that_of_the_plain_module(tmp_path: Path) -> None:
    model, plain = pair(RICH)
    model.save_pretrained(tmp_path)
    again: Any = RinscForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    input_ids = ids(plain.spec, 2, 9)
    assert again(input_ids).logits.dtype == torch.bfloat16
    assert torch.equal(again(input_ids).logits, plain.bfloat16()(input_ids))


def test_the_config_says_what_tools_read(tmp_path: Path) -> None:
    spec = small_spec("P(A^3{kv=first}B)^2", kind="gpt")
    model = causal_lm(spec)
    config = model.config
    assert config.num_hidden_layers == build_graph(spec).executed_layers()
    assert (config.hidden_size, config.head_dim, config.vocab_size) == (24, 6, 53)
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 2)
    assert config.max_position_embeddings == spec.context
    assert config.tie_word_embeddings is spec.tied_embedding
    deeper = causal_lm(spec, rounds={"A": 5}).config
    assert deeper.num_hidden_layers == build_graph(spec).executed_layers({"A": 5, "AB": 2})
    deeper.save_pretrained(tmp_path)
    read = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(read, RinscConfig)
    assert (read.model_spec, read.rounds) == (spec, {"A": 5})
    assert read.to_json_string() == deeper.to_json_string()
    assert copy.deepcopy(read).model_spec == spec
    keys = json.loads((tmp_path / "config.json").read_text())["spec"]
    assert keys["signature"] == spec.text


def test_rounds_of_the_config_are_those_that_run() -> None:
    model, plain = pair("(A^3)B")
    model.config.rounds = 5
    input_ids = ids(plain.spec, 1, 6)
    assert torch.equal(model(input_ids, use_cache=False).logits, plain(input_ids, rounds=5))
    found = model(input_ids, rounds=2, use_cache=False).logits
    assert torch.equal(found, plain(input_ids, rounds=2))


def test_embeddings_are_found() -> None:
    for tied in (True, False):
        model, _ = pair(small_spec("AB", tied_embedding=tied))
        embedding = model.get_input_embeddings()
        assert embedding is model.model.embedding
        head = model.get_output_embeddings()
        assert (head is embedding) is tied
        assert head.bias is None
        assert model.resize_token_embeddings(53) is embedding


def test_plans_name_what_is_there() -> None:
    model, _ = pair("P(A^3)B[1]{tie=mlp}C{kind=hrm}")
    names = {name for name, _ in model.named_modules()}
    for plan in (model.tp_plan, model.fsdp_plan):
        assert plan
        for pattern in plan:
            before, star, after = pattern.partition(".*")
            assert (f"{before}.0{after}" if star else before) in names, pattern
    assert model.tp_plan["model.A.*.query"] == "colwise"
    assert model.tp_plan["model.A.*.down"] == "rowwise"
    classes = {type(module).__name__ for module in model.modules()}
    assert model._no_split_modules <= classes
    assert "LlamaLayer" in model._no_split_modules


def test_a_config_without_a_model_and_a_rewritten_graph_are_refused() -> None:
    with pytest.raises(SpecError, match="no-spec"):
        RinscForCausalLM(RinscConfig())
    with pytest.raises(SpecError, match="unknown-key"):
        RinscConfig(spec={"signature": "AB", "preset": "tiny", "widht": 3})
    with pytest.raises(LoweringError, match="rewritten-graph"):
        causal_lm(unroll(build_graph(small_spec("A^3B")), 2))


def test_a_damaged_folder_is_found_by_our_class_and_by_its_own_code(tmp_path: Path) -> None:
    model, _ = pair("A^3B")
    write_standalone_folder(model, tmp_path, {})
    RinscForCausalLM.from_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for index in (20, 2000, len(whole) - 1):  # in the header, in its list of tensors, in a tensor
        content = bytearray(whole)
        content[index] ^= 0x40
        weights.write_bytes(bytes(content))
        with pytest.raises(CheckpointError, match="damaged") as caught:
            RinscForCausalLM.from_pretrained(tmp_path)
        assert str(weights) in str(caught.value)
    spec = spec_from_file_location("modeling_rinsc", tmp_path / "modeling_rinsc.py")
    assert spec
    assert spec.loader
    code = module_from_spec(spec)
    sys.modules[spec.name] = code
    try:
        spec.loader.exec_module(code)
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
            code.RinscForCausalLM.from_pretrained(tmp_path)
    finally:
        del sys.modules[spec.name]


@pytest.mark.parametrize("spec", [5, "AB", ["AB"], {5: "AB"}, {"signature": 5}, {}])
def test_a_config_whose_spec_is_none(tmp_path: Path, spec: object) -> None:
    config = {"model_type": "rinsc", "spec": spec}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SpecError) as caught:
        RinscConfig.from_pretrained(tmp_path)
    assert caught.value.hint


def test_a_signature_in_a_config_opens_no_file(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('signature = "AB"\npreset = "tiny"\n')
    for name in (str(own), "huginn"):
        with pytest.raises(SpecError):
            RinscConfig(spec={"signature": name, "preset": "tiny"})


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_config_names_no_code_of_the_hub(tmp_path: Path, key: str) -> None:
    spec = {"signature": "AB", "preset": "tiny"}
    values = {"model_type": "rinsc", "spec": spec, key: "someone/kernel"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert RinscConfig.from_pretrained(tmp_path)._attn_implementation != "someone/kernel"


def test_a_copy_is_a_model_of_its_own() -> None:
    model, plain = pair("A^3B")
    copied = copy.deepcopy(model)
    with torch.no_grad():
        model.model.embedding.weight.zero_()
    input_ids = ids(plain.spec, 1, 5)
    assert torch.equal(copied(input_ids).logits, plain(input_ids))


def test_a_folder_with_a_tokenizer_has_one(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    model, _ = pair("AB")
    model.save_pretrained(tmp_path)
    Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    assert AutoTokenizer.from_pretrained(tmp_path)("b")["input_ids"] == [1]


def test_tables_that_no_file_holds_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers leaves them as memory that nothing has written: here it is full of NaN."""
    model, _ = pair("A^3B")
    model.save_pretrained(tmp_path)
    allocate = torch.empty_like
    monkeypatch.setattr(
        torch, "empty_like", lambda *given, **named: allocate(*given, **named).fill_(torch.nan)
    )
    again: Any = RinscForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.model.cos, model.model.cos)
    monkeypatch.setattr(RinscForCausalLM, "_init_weights", lambda *_: None)
    without: Any = RinscForCausalLM.from_pretrained(tmp_path)
    assert without.model.cos.isnan().all()


def test_from_pretrained_takes_its_arguments_by_name_and_no_folder(tmp_path: Path) -> None:
    model, _ = pair("A^2B")
    model.save_pretrained(tmp_path)
    weights = model.state_dict()
    for again in (
        RinscForCausalLM.from_pretrained(pretrained_model_name_or_path=tmp_path),
        RinscForCausalLM.from_pretrained(
            pretrained_model_name_or_path=None, config=model.config, state_dict=weights
        ),
        RinscForCausalLM.from_pretrained(None, config=model.config, state_dict=weights),
    ):
        made = again.state_dict()
        assert made.keys() == weights.keys()
        assert all(torch.equal(made[name], weight) for name, weight in weights.items())
