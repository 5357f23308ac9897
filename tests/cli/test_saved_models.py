"""Folders of ``save_pretrained``, of ``--to hf``, sharded and merged, where a run is welcome."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from rinsc.backends.hf import RinscForCausalLM, causal_lm, merge_lora
from rinsc.backends.torch import load_weights, to_torch
from rinsc.errors import CheckpointError
from rinsc.progress import SilentProgress
from rinsc.spec import model_spec
from rinsc.training.run_folder import RunFolder
from rinsc.training.saved_model import check_tokenizer_file
from tests.cli.command_line import run_cli
from tests.hf.models import pair
from tests.hf.texts import PAGE, tokenizer

FORMS = ["saved", "sharded", "exported", "merged", "unloaded", "half"]
ROUNDS = 5


def adapted(model: Any) -> Any:
    peft = pytest.importorskip("peft")
    with_lora = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query", "down"]))
    torch.manual_seed(1)
    for name, parameter in with_lora.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return with_lora.eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in every form, and an adapter of it in three."""
    place = tmp_path_factory.mktemp("folders")
    spec = model_spec("(A^3)B", preset="tiny", layers=4, vocab_size=300, context=64)
    model: Any = pair(spec)[0]
    model.config.rounds = {"A": ROUNDS}
    model.save_pretrained(place / "saved")
    model.save_pretrained(place / "sharded", max_shard_size="100KB")
    AutoModelForCausalLM.from_pretrained(place / "saved", dtype=torch.bfloat16).save_pretrained(
        place / "half"
    )
    words: Any = tokenizer()
    for name in ("saved", "sharded", "half"):
        words.save_pretrained(place / name)
    status, _, err = run_cli(
        *("compile", str(place / "saved"), "--to", "hf", "-o", str(place / "exported"))
    )
    assert status == 0, err
    lora = adapted(model)
    lora.save_pretrained(place / "adapter")
    merge_lora(lora).save_pretrained(place / "merged")
    lora.get_base_model().save_pretrained(place / "injected")
    shutil.copytree(place / "saved", place / "beside")
    shutil.copy(place / "adapter" / "adapter_config.json", place / "beside")
    lora.merge_and_unload().save_pretrained(place / "unloaded")
    for name in ("merged", "unloaded", "injected"):
        words.save_pretrained(place / name)
    return place


def reference(folder: Path) -> Any:
    model: Any = RinscForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


@pytest.mark.parametrize("form", FORMS)
def test_it_compiles_to_every_target(folders: Path, tmp_path: Path, form: str) -> None:
    ort = pytest.importorskip("onnxruntime")
    model, given = reference(folders / form), torch.arange(2, 22).view(2, 10)
    with torch.no_grad():
        expected, deep = model(given).logits, model(given, rounds=2).logits
    for output in ("model.onnx", "hub", "model.py"):
        to = {"model.onnx": "onnx", "hub": "hf", "model.py": "torch"}[output]
        status, _, err = run_cli(
            *("compile", str(folders / form), "--to", to, "-o", str(tmp_path / output))
        )
        assert status == 0, err
        assert "untrained" not in err
    session = ort.InferenceSession(tmp_path / "model.onnx")
    (logits,) = session.run(["logits"], {"input_ids": given.numpy()})
    assert torch.allclose(torch.from_numpy(logits), expected, atol=2e-4)
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "hub")
    assert again.config.rounds == {"A": ROUNDS}
    assert torch.allclose(again(given).logits, expected, atol=1e-5)
    assert (tmp_path / "hub" / "tokenizer.json").is_file()
    source: dict[str, Any] = {"__name__": "emitted"}
    exec((tmp_path / "model.py").read_text(encoding="utf-8"), source)
    emitted = source["Model"]()
    weights = folders / form
    index = weights / "model.safetensors.index.json"
    module = to_torch(model.config.model_spec)
    load_weights(module, index if index.exists() else weights / "model.safetensors")
    emitted.load_state_dict(module.state_dict())
    assert torch.allclose(emitted(given, rounds=2), deep, atol=1e-5)


@pytest.mark.parametrize("form", ["sharded", "exported", "merged"])
def test_it_generates_as_transformers_does(folders: Path, form: str) -> None:
    words: Any = AutoTokenizer.from_pretrained(folders / form)
    model = reference(folders / form)
    given = words("the river", return_tensors="pt")["input_ids"]
    for rounds, options in ((None, ()), (1, ("--rounds", "1"))):
        made = model.generate(
            given, max_new_tokens=6, do_sample=False, rounds=rounds, pad_token_id=0
        )
        status, out, err = run_cli(
            *("generate", str(folders / form), "--prompt", "the river", "--json"),
            *("--max-new-tokens", "6", *options),
        )
        assert status == 0, err
        new = words.decode(made[0, given.shape[1] :], skip_special_tokens=False)
        assert json.loads(out)["text"] == new
        assert "beyond" not in err


def test_it_is_evaluated_on_a_text(folders: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    status, out, err = run_cli(
        *("eval", str(folders / "sharded"), "--data", f"text:{text}", "--windows", "3"),
        *("--rounds", f"{ROUNDS}", "--json", "-o", str(tmp_path / "eval.svg")),
    )
    assert status == 0, err
    (row,) = json.loads(out)["rows"]
    status, out, err = run_cli(
        *("eval", str(folders / "exported"), "--data", f"text:{text}", "--windows", "3"),
        *("--rounds", "1", "--json", "-o", str(tmp_path / "eval.svg")),
    )
    (other,) = json.loads(out)["rows"]
    assert row["rounds"] == {"A": ROUNDS}
    assert row["trained"]
    assert row["bits_per_byte"] != other["bits_per_byte"]
    from rinsc.evaluation.reading_runs import read_text
    from rinsc.training.opening import trained_run

    read = read_text(trained_run(folders / "sharded"), f"text:{text}", 3, SilentProgress())
    windows = torch.stack([torch.as_tensor(each) for each in read.held_out.windows]).long()
    assert windows.shape[0] == 3
    model = reference(folders / "saved")
    with torch.no_grad():
        logits = model(windows[:, :-1]).logits
    loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="sum")
    by_hand = loss.item() / math.log(2) / read.held_out.predicted_bytes
    assert row["bits_per_byte"] == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("command", ["cost", "check", "show"])
def test_it_stands_for_its_spec(folders: Path, command: str) -> None:
    status, out, err = run_cli(command, str(folders / "sharded"))
    assert status == 0, err
    assert "A" in out


@pytest.mark.parametrize("form", ["adapter", "beside", "injected"])
@pytest.mark.parametrize("command", ["onnx", "hf", "generate", "eval"])
def test_an_adapter_must_be_merged_first(
    folders: Path, tmp_path: Path, form: str, command: str
) -> None:
    arguments = {
        "onnx": ("compile", "--to", "onnx", "-o", str(tmp_path / "out.onnx")),
        "hf": ("compile", "--to", "hf", "-o", str(tmp_path / "out")),
        "generate": ("generate", "--prompt", "a"),
        "eval": ("eval", "--data", f"text:{PAGE}", "-o", str(tmp_path / "eval.svg")),
    }[command]
    status, out, err = run_cli(arguments[0], str(folders / form), *arguments[1:])
    assert (status, out) == (1, "")
    assert "error[unmerged-adapter]: " in err
    assert err.count("error[") == 1
    assert "merge_lora" in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_soft_prompt_is_refused_in_its_own_words(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = causal_lm(model_spec("AB", preset="tiny", layers=2))
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(model, config).save_pretrained(tmp_path)
    status, _, err = run_cli("generate", str(tmp_path), "--prompt", "a")
    assert status == 1
    assert "soft prompt cannot be merged" in err


def test_damaged_folders_are_one_error(folders: Path, tmp_path: Path) -> None:
    def refused(name: str, change: Any) -> str:
        shutil.copytree(folders / "sharded", tmp_path / name)
        change(tmp_path / name)
        status, out, err = run_cli(
            *("compile", str(tmp_path / name), "--to", "onnx", "-o", str(tmp_path / "x.onnx"))
        )
        assert (status, out) == (1, ""), err
        assert err.startswith("error[")
        assert err.count("error[") == 1
        assert "hint" in err
        assert not (tmp_path / "x.onnx").exists()
        return err.split("]")[0].removeprefix("error[")

    def edit(file: str, **changes: Any) -> Any:
        def change(folder: Path) -> None:
            values = json.loads((folder / file).read_text()) | changes
            (folder / file).write_text(json.dumps(values))

        return change

    index = "model.safetensors.index.json"
    shard = sorted(path.name for path in (folders / "sharded").glob("model-*"))[0]
    outside = {"model.embedding.weight": "../sharded/" + shard}
    assert refused("shard", lambda f: (f / shard).unlink()) == "weights-not-readable"
    assert refused("cut", lambda f: (f / shard).write_bytes(b"x")) == "weights-not-readable"
    assert refused("index", lambda f: (f / index).write_text("[]")) == "weights-not-readable"
    assert refused("outside", edit(index, weight_map=outside)) == "weights-not-readable"
    few = {"model.embedding.weight": shard}
    assert refused("few", edit(index, weight_map=few)) == "weights-of-another-model"
    assert refused("none", lambda f: (f / index).unlink()) == "no-weights"
    assert refused("other", edit("config.json", model_type="llama")) == "not-a-run"
    assert refused("spec", edit("config.json", spec=5)) == "bad-type"
    assert refused("rounds", edit("config.json", rounds={"Z": 2})) == "unknown-repeat"
    assert refused("text", edit("config.json", rounds="many")) == "bad-rounds"


@pytest.mark.parametrize(
    "command",
    [
        ("compile", "--to", "onnx", "-o", "x.onnx"),
        ("scan", "--data", f"text:{PAGE}", "-o", "scan.html"),
        ("retrofit", "A^2", "-o", "looped"),
        ("generate", "--prompt", "x"),
    ],
)
def test_a_model_of_transformers_is_to_be_imported(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text('{"model_type": "llama"}')
    name, *options = command
    status, _, err = run_cli(name, "./llama", *options)
    assert status == 1
    assert "rinsc import llama -o FOLDER" in err


def test_a_baseline_and_a_source_must_be_runs(folders: Path, tmp_path: Path) -> None:
    saved = str(folders / "saved")
    status, _, err = run_cli("eval", saved, "-o", str(tmp_path / "eval.svg"))
    assert (status, "no-history" in err) == (1, True)
    options = ("--data", f"text:{PAGE}", "-o", str(tmp_path / "eval.svg"))
    status, _, err = run_cli("eval", saved, "--baseline", saved, *options)
    assert (status, "no-history" in err) == (1, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("listed", ["[[[[", "5", "[1, 2]", "null"])
def test_a_damaged_list_of_digests_is_named(listed: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "checksums.json").write_text(listed)
    with pytest.raises(CheckpointError, match="list of digests") as caught:
        check_tokenizer_file(RunFolder(tmp_path))
    assert caught.value.problems[0].place == str(tmp_path / "checksums.json")
