"""`rinsc import` of a SigLIP, and the way back: the same bits, the same logits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Siglip2Config, SiglipModel

from rinsc import HfForm, export, import_model
from rinsc.errors import RinscError
from rinsc.verbs.models import find_model
from tests.cli.command_line import run_cli
from tests.sources.checkpoints import pairs_of, siglip
from tests.verbs.test_import_model import (
    as_pickle,
    cut_short,
    with_code,
    with_config,
    with_index,
    with_tensors,
    without,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("siglip")
    siglip().save_pretrained(path)
    return path


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_and_out_again_keeps_bits_and_logits(
    tmp_path: Path, dtype: torch.dtype, cut: bool
) -> None:
    model = siglip().to(dtype)
    model.save_pretrained(tmp_path / "in", max_shard_size="20KB" if cut else "1GB")
    assert (tmp_path / "in/model.safetensors.index.json").exists() is cut
    import_model(tmp_path / "in", tmp_path / "ours")
    stored = {tensor.dtype for tensor in load_file(tmp_path / "ours/model.safetensors").values()}
    assert stored == {dtype}
    export(tmp_path / "ours", tmp_path / "out", "hf")
    config = json.loads((tmp_path / "out/config.json").read_text())
    back = load_file(tmp_path / "out/model.safetensors")
    state = model.state_dict()
    assert back.keys() == state.keys()
    for name, tensor in back.items():
        assert torch.equal(tensor.to(dtype), state[name]), name
    again: Any = SiglipModel.from_pretrained(tmp_path / "out", dtype=torch.float32)
    inputs = pairs_of(again)
    with torch.no_grad():
        expected = model.float()(**inputs).logits_per_image
        torch.testing.assert_close(again(**inputs).logits_per_image, expected, atol=1e-4, rtol=1e-4)
    assert config["architectures"] == ["SiglipModel"]


def test_a_recursive_signature_runs_layers_again(folder: Path, tmp_path: Path) -> None:
    import_model(folder, tmp_path / "out", "image: A[1]^2B, text: C^2")
    module: Any = find_model(tmp_path / "out").compiled()
    model: Any = SiglipModel.from_pretrained(folder)
    inputs = pairs_of(model)
    named = {"image": inputs["pixel_values"], "text": inputs["input_ids"]}
    with torch.no_grad():
        expected = model(**inputs).logits_per_text
        once, as_written = module(**named, rounds=1)["logits"], module(**named)["logits"]
    torch.testing.assert_close(once, expected, atol=1e-4, rtol=1e-4)
    assert (as_written - once).abs().max() > 0.01


def test_files_beside_the_model_travel_along(folder: Path, tmp_path: Path) -> None:
    source = shutil.copytree(folder, tmp_path / "source")
    processor = {
        "image_processor_type": "SiglipImageProcessorFast",
        "size": {"height": 12, "width": 12},
        "resample": 2,
    }
    texts = {
        "tokenizer_config.json": json.dumps({"tokenizer_class": "SiglipTokenizer"}),
        "special_tokens_map.json": json.dumps({"eos_token": "</s>"}),
        "spiece.model": "bytes of sentencepiece",
        "preprocessor_config.json": json.dumps(processor),
    }
    for name, text in texts.items():
        (source / name).write_text(text)
    import_model(source, tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "out", "hf")
    for place in ("ours", "out"):
        assert {name: (tmp_path / place / name).read_text() for name in texts} == texts
    other = json.dumps(processor | {"size": {"height": 9, "width": 9}})
    (source / "preprocessor_config.json").write_text(other)  # it makes no pictures for this tower
    import_model(source, tmp_path / "second")
    written = json.loads((tmp_path / "second/preprocessor_config.json").read_text())
    assert written["size"] == {"height": 12, "width": 12}


def test_every_command_takes_what_was_imported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert json.loads(run_cli("import", str(folder), "-o", "made", "--json").out)["rounds"] == {}
    count = sum(parameter.numel() for parameter in siglip().parameters())
    assert json.loads(run_cli("cost", "./made", "--json").out)["stored_params"] == count
    assert "pairs joins image, text" in run_cli("show", "./made").out
    assert "image: A, text: B" in run_cli("check", "./made").out
    assert "are the same model" in run_cli("diff", "./made", "./made").out
    for to, target in (("hf", "hf"), ("onnx", "onnx/"), ("onnx", "both.onnx"), ("torch", "m.py")):
        done = run_cli("compile", "./made", "--to", to, "-o", target)
        assert done.status == 0, done.err
    for command in (["generate", "./made", "--prompt", "a"], ["retrofit", "./made", "-o", "more"]):
        done = run_cli(*command)
        assert done.status == 1
        assert "it has several towers" in done.err
    done = run_cli("compile", "./made", "--to", "hf", "--rounds", "dynamic", "-o", "hf")
    assert (done.status, "other form" in done.err) == (1, True)
    run_cli("compile", "./made", "--to", "hf", "--rounds", "dynamic", "-o", "hf", "--overwrite")
    assert (tmp_path / "hf/modeling_rinsc.py").exists()


NORM = "vision_model.post_layernorm.weight"
VISION, TEXT = "vision_config", "text_config"


def with_table(key: str, **more: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        values = json.loads((path / "config.json").read_text())
        values[key] |= more
        (path / "config.json").write_text(json.dumps(values))

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (with_config(**Siglip2Config().to_dict()), "unknown-family"),
        (with_config(model_type="siglip_vision_model"), "unknown-family"),
        (with_config(window=3), "unknown-key"),
        (with_table(TEXT, hidden_act="gelu"), "unsupported-value"),
        (with_table(VISION, some_new_key=3), "unknown-key"),
        (with_table(VISION, num_hidden_layers=2), "surplus-tensor"),
        (with_table(VISION, num_hidden_layers=4), "missing-tensor"),
        (with_table(VISION, intermediate_size=20), "other-shape"),
        (with_table(VISION, num_attention_heads=5), "does-not-divide"),
        (without("model.safetensors"), "no-weights"),
        (as_pickle, "no-safetensors"),
        (cut_short, "weights-not-readable"),
        (with_tensors(lambda tensors: tensors.pop(NORM)), "missing-tensor"),
        (with_tensors(lambda t: t.update(more=torch.ones(2))), "surplus-tensor"),
        (with_tensors(lambda t: t.update({NORM: torch.ones(25)})), "other-shape"),
        (with_tensors(lambda t: t.update({NORM: torch.ones(24).int()})), "unknown-format"),
        (with_index("../../secret.safetensors"), "weights-not-readable"),
        (with_code, "foreign-code"),
    ],
)
def test_what_cannot_be_imported_is_one_error_and_leaves_nothing(
    folder: Path, tmp_path: Path, change: Callable[[Path], object], code: str
) -> None:
    source, output = shutil.copytree(folder, tmp_path / "source"), tmp_path / "output"
    change(source)
    with pytest.raises(RinscError) as caught:
        import_model(source, output)
    assert {problem.code for problem in caught.value.problems} == {code}
    assert all(problem.hint for problem in caught.value.problems)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_folder_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RinscError, match="something else"):
        import_model(folder, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    import_model(folder, tmp_path / "output")
    import_model(folder, tmp_path / "output")
    with pytest.raises(RinscError, match="another form"):
        export(tmp_path / "output", tmp_path / "output", HfForm())
