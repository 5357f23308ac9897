"""`rinsc import`, against the classes of transformers and the folders that they write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

import rinsc
from rinsc.errors import RinscError
from rinsc.sources import family_of, tensor_names, tensors_by_their_names
from rinsc.verbs.import_model import import_model
from rinsc.verbs.models import find_model
from tests.cli.command_line import run_cli
from tests.sources import checkpoints
from tests.sources.checkpoints import DIMENSIONS
from tests.sources.test_families import theirs_of


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    checkpoints.saved(folder, LlamaConfig(**DIMENSIONS))
    return folder


def logits(folder: Path, **more: Any) -> torch.Tensor:
    auto: Any = AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        result: torch.Tensor = model(torch.arange(30)[None] % 67, **more).logits
    return result


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_imported_model_has_the_logits_and_the_bits(
    tmp_path: Path, kind: Any, dtype: torch.dtype, cut: bool
) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    config, tensors, model = checkpoints.saved(source, kind(**DIMENSIONS))
    shutil.rmtree(source)
    size = "20KB" if cut else "1GB"
    model.to(dtype).save_pretrained(source, max_shard_size=size)
    assert (source / "model.safetensors.index.json").exists() is cut
    done = import_model(source, output, progress=rinsc.progress.SilentProgress())
    assert done.signature == "A"
    torch.testing.assert_close(logits(output), logits(source), atol=1e-4, rtol=1e-4)
    written = load_file(output / "model.safetensors")
    names = tensor_names(family_of(config), rinsc.build_graph(find_model(output).spec))
    assert {name.removeprefix("model.") for name in written} == names.keys()
    for ours, theirs in names.items():
        assert torch.equal(written[f"model.{ours}"], model.state_dict()[theirs]), ours
        assert written[f"model.{ours}"].dtype == dtype
    assert len(tensors) == len(names)


def test_a_recursive_signature_runs_the_same_weights_more_often(
    llama: Path, tmp_path: Path
) -> None:
    import_model(llama, tmp_path / "two", "A[2]^2B")
    import_model(llama, tmp_path / "one")
    once = logits(tmp_path / "two", rounds=1)
    torch.testing.assert_close(once, logits(tmp_path / "one"))
    assert (logits(tmp_path / "two") - once).abs().max() > 0.01


def test_files_beside_the_model_travel_along(llama: Path, tmp_path: Path) -> None:
    source = shutil.copytree(llama, tmp_path / "source")
    texts = {
        "tokenizer.json": json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}),
        "generation_config.json": json.dumps({"eos_token_id": 3, "temperature": 0.5}),
        "chat_template.jinja": "{{ messages }}",
    }
    for name, text in texts.items():
        (source / name).write_text(text)
    output = tmp_path / "output"
    import_model(source, output)
    assert {name: (output / name).read_text() for name in texts} == texts


def test_every_command_takes_what_was_imported(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    facts = json.loads(run_cli("import", str(llama), "-o", "made", "--json").out)
    assert facts["signature"] == "A"
    assert json.loads(run_cli("cost", "./made", "--json").out)["stored_params"] == 26688
    assert "3 layers" in run_cli("show", "./made").out
    run_cli("compile", "./made", "--to", "onnx", "-o", "made.onnx")
    session = rinsc.Session("made.onnx", threads=1)
    found = torch.from_numpy(session.logits((torch.arange(30)[None] % 67).numpy()))
    torch.testing.assert_close(found, logits(llama), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", ["phi3", "gpt_neox", "gpt2", "gemma2"])
def test_families_of_other_layouts_come_in_and_keep_their_bits(tmp_path: Path, case: str) -> None:
    """Tensors that are one in the file, in shards, with the bits of bfloat16."""
    source, output = tmp_path / "source", tmp_path / "output"
    theirs_of(case).to(torch.bfloat16).save_pretrained(source, max_shard_size="20KB")
    import_model(source, output, progress=rinsc.progress.SilentProgress())
    torch.testing.assert_close(logits(output), logits(source), atol=1e-4, rtol=1e-4)
    held = load_file(output / "model.safetensors")
    ours = {name.removeprefix("model."): value for name, value in held.items()}
    family = family_of(json.loads((source / "config.json").read_text()))
    back = tensors_by_their_names(family, rinsc.build_graph(find_model(output).spec), ours)
    files = [load_file(path) for path in source.glob("*.safetensors")]
    stored = {name: value for file in files for name, value in file.items()}
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], value) for name, value in stored.items())


def without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def with_config(**more: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text()) | more
        (folder / "config.json").write_text(json.dumps(values))

    return change


def with_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return write


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


def with_index(target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "elsewhere.safetensors")
        text = json.dumps({"weight_map": {"model.norm.weight": target}})
        (folder / "model.safetensors.index.json").write_text(text)

    return change


def with_code(folder: Path) -> None:
    text = json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}})
    (folder / "tokenizer_config.json").write_text(text)


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (without("config.json"), "not-a-checkpoint"),
        (without("model.safetensors"), "no-weights"),
        (with_config(model_type="mamba"), "unknown-family"),
        (with_config(model_type="rinsc"), "own-model"),
        (with_config(hidden_act="gelu_fast"), "unsupported-value"),
        (with_config(window_of_the_future=8), "unknown-key"),
        (as_pickle, "no-safetensors"),
        (cut_short, "weights-not-readable"),
        (with_tensors(lambda tensors: tensors.pop(NORM)), "missing-tensor"),
        (with_tensors(lambda t: t.update(more=torch.ones(2))), "surplus-tensor"),
        (with_tensors(lambda t: t.update({NORM: torch.ones(31)})), "other-shape"),
        (with_tensors(lambda t: t.update({NORM: torch.ones(32).long()})), "unknown-format"),
        (with_index("../../secret.safetensors"), "weights-not-readable"),
        (with_index("/etc/passwd"), "weights-not-readable"),
        (with_index(".."), "weights-not-readable"),
        (with_index("gone.safetensors"), "weights-not-readable"),
        (with_code, "foreign-code"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot-read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "cannot-read"),
    ],
)
def test_what_cannot_be_imported_is_one_error_and_leaves_nothing(
    llama: Path, tmp_path: Path, change: Callable[[Path], object], code: str
) -> None:
    source, output = shutil.copytree(llama, tmp_path / "source"), tmp_path / "output"
    change(source)
    with pytest.raises(RinscError) as caught:
        import_model(source, output)
    assert [problem.code for problem in caught.value.problems] == [code]
    assert all(problem.hint for problem in caught.value.problems)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_folder_is_not_written_over(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RinscError, match="something else"):
        import_model(llama, llama)
    with pytest.raises(RinscError, match="this is no folder"):
        import_model(tmp_path / "gone", tmp_path / "output")
    import_model(llama, tmp_path / "output")
    import_model(llama, tmp_path / "output", overwrite=True)
