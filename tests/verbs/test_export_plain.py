"""`rinsc compile --to llama`: plain models of transformers, loaded without any code of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

import rinsc
from rinsc.errors import RinscError
from rinsc.progress import SilentProgress
from rinsc.verbs.import_model import import_model
from rinsc.verbs.retrofit import retrofit
from tests.cli.command_line import run_cli
from tests.sources import checkpoints
from tests.sources.checkpoints import DIMENSIONS

IDS = torch.arange(30)[None] % 67
QUIET: dict[str, Any] = {"progress": SilentProgress()}
CONFIGS: list[Any] = [
    LlamaConfig(**DIMENSIONS),
    LlamaConfig(**DIMENSIONS, tie_word_embeddings=True, attention_bias=True),
    MistralConfig(**DIMENSIONS, sliding_window=9),
    Qwen2Config(**DIMENSIONS),
    Qwen3Config(**DIMENSIONS, head_dim=12),
    Phi3Config(**{**DIMENSIONS, "pad_token_id": 0}),
    Phi3Config(
        **{**DIMENSIONS, "pad_token_id": 0},
        rope_parameters={
            **{"rope_type": "default", "rope_theta": 50.0},
            "partial_rotary_factor": 0.5,
        },
    ),
    Gemma3TextConfig(
        **DIMENSIONS,
        head_dim=8,
        sliding_window=9,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=67, n_positions=40),
    GPTNeoXConfig(
        **{key: value for key, value in DIMENSIONS.items() if key != "num_key_value_heads"}
    ),
]


def logits(folder: Path, **more: Any) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        result: torch.Tensor = model(IDS, **more).logits
    return result


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
@pytest.mark.parametrize("word", ["P A^3 C", "(A^2C)^2{init=carry}"])
def test_the_class_of_transformers_gives_the_logits(tmp_path: Path, config: Any, word: str) -> None:
    checkpoints.saved(tmp_path / "hf", config)
    import_model(tmp_path / "hf", tmp_path / "base", **QUIET)
    retrofit(tmp_path / "base", tmp_path / "looped", word, **QUIET)
    done = rinsc.export(tmp_path / "looped", tmp_path / "plain", "llama", **QUIET)
    written = json.loads((tmp_path / "plain" / "config.json").read_text())
    # A Phi-3 that sets nothing of its own is a Llama.
    assert written["model_type"] in (config.model_type, "llama")
    assert not list((tmp_path / "plain").glob("*.py"))
    assert "auto_map" not in written
    expected = logits(tmp_path / "looped")
    torch.testing.assert_close(logits(tmp_path / "plain"), expected, atol=1e-4, rtol=1e-4)
    assert (expected - logits(tmp_path / "base")).abs().max() > 0.01
    again = rinsc.export(tmp_path / "looped", tmp_path / "one", rinsc.PlainForm(1), **QUIET)
    assert again.size < done.size
    torch.testing.assert_close(
        logits(tmp_path / "one"), logits(tmp_path / "hf"), atol=1e-4, rtol=1e-4
    )
    import_model(tmp_path / "one", tmp_path / "back", **QUIET)  # and in again, bit for bit
    one, back = (load_file(tmp_path / n / "model.safetensors") for n in ("base", "back"))
    assert one.keys() == back.keys()
    assert all(torch.equal(one[name], back[name]) for name in one)


def test_a_model_without_such_a_class_is_one_error(tmp_path: Path) -> None:
    words: list[tuple[str, dict[str, Any]]] = [
        ("A^2{adapter=lora(2)}B", {}),
        ("A^2{inject=add}B", {}),
        ("AB", {"kind": "transformer"}),
    ]
    for word, more in words:
        spec = rinsc.model_spec(word, preset="tiny", **more)
        with pytest.raises(RinscError, match="not-a-plain-stack"):
            rinsc.export(spec, tmp_path / "plain", "llama", **QUIET)
        assert not (tmp_path / "plain").exists()
    done = run_cli(
        *("compile", "A^2B", "--preset", "tiny", "--to", "llama", "--rounds", "dynamic"),
        *("-o", str(tmp_path / "plain")),
    )
    assert done.status != 0
    assert "rounds written out" in done.err


def test_what_stands_there_stays(tmp_path: Path) -> None:
    spec = rinsc.model_spec("A^2B", preset="tiny", layers=2)
    folder = tmp_path / "plain"
    rinsc.export(spec, folder, "llama", **QUIET)
    with pytest.raises(RinscError, match="a model stands here"):
        rinsc.export(spec, folder, "llama", **QUIET)
    rinsc.export(spec, folder, "llama", overwrite=True, **QUIET)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(RinscError, match="folder-taken"):
        rinsc.export(spec, folder, "llama", overwrite=True, **QUIET)
    assert (folder / "notes.txt").read_text() == "mine"
