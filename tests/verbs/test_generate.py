"""`rinsc.generate`: the texts of `rinsc generate`, from Python, whole or piece by piece."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rinsc
from rinsc import Sampling
from rinsc.backends.hf import causal_lm
from rinsc.backends.torch import load_weights
from rinsc.progress import SilentProgress
from tests.cli.command_line import run_cli
from tests.cli.conftest import corpus, onnx_file, run

__all__ = ["corpus", "onnx_file", "run"]  # fixtures

DRAWN = Sampling(temperature=0.9, top_k=20, seed=3)
WORDS = ("--temperature", "0.9", "--top-k", "20", "--seed", "3", "--max-new-tokens", "9")


def command(model: Path, *words: str) -> str:
    done = run_cli("generate", str(model), "--prompt", "On day", *words)
    assert done.status == 0, done.err
    return done.out


@pytest.mark.parametrize("rounds", [None, 1])
def test_texts_are_those_of_the_command(run: Path, onnx_file: Path, rounds: int | None) -> None:
    words = (*WORDS, *(() if rounds is None else ("--rounds", str(rounds))))
    more: dict[str, Any] = {"max_new_tokens": 9, "sampling": DRAWN, "rounds": rounds}
    module = rinsc.to_torch(rinsc.model_spec(run / "model.toml"))
    load_weights(module, run / "model.safetensors")
    lm: Any = causal_lm(module.graph.spec)
    lm.model.load_state_dict(module.state_dict())
    expected = command(run, *words)
    assert command(onnx_file, *words) == expected
    for model in (run, str(run), onnx_file, module, lm):
        file = None if isinstance(model, str | Path) else run / "tokenizer.json"
        made = rinsc.generate(model, "On day", tokenizer=file, **more)
        assert f"{made}\n" == expected


def test_pieces_add_up_to_the_text(run: Path) -> None:
    whole = rinsc.generate(run, "On day", max_new_tokens=8).text
    pieces = list(rinsc.generate(run, "On day", max_new_tokens=8))
    assert len(pieces) > 2
    assert "".join(pieces) == whole
    begun = rinsc.generate(run, "On day", max_new_tokens=8)
    assert next(iter(begun)) == pieces[0]
    assert begun.text == whole


def test_several_prompts_are_as_each_alone(run: Path) -> None:
    prompts = ("On day 3", "the river")
    made = rinsc.generate(run, prompts, max_new_tokens=5)
    alone = [rinsc.generate(run, prompt, max_new_tokens=5).text for prompt in prompts]
    assert list(made.texts) == alone
    assert str(made) == f"On day 3{alone[0]}\n\nthe river{alone[1]}"
    with pytest.raises(rinsc.RinscError, match="the texts of 2 prompts"):
        iter(made)


def test_what_you_should_know_is_told_once(run: Path) -> None:
    told = SilentProgress()
    made = rinsc.generate(
        run, "On", max_new_tokens=20, rounds=3, sampling=Sampling(top_k=2), progress=told
    )
    assert told.notes == []
    assert made.text == made.text
    idle, untrained, long = told.notes
    assert idle == "top_k has no effect at temperature 0; add temperature 0.8"
    assert "was trained at 2 at most" in untrained
    assert "exceed the context of 16" in long


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"prompts": ""}, "prompts is empty"),
        ({"prompts": []}, "prompts is empty"),
        ({"max_new_tokens": -1}, "max_new_tokens must be"),
        ({"chat": True, "raw": True}, "chat writes special tokens, and raw knows none"),
        ({"provider": "cpu"}, "provider is of ONNX models"),
        ({"rounds": {"Z": 1}}, "unknown-repeat"),
        ({"tokenizer": "nowhere.json"}, "name it with tokenizer"),
        ({"model": "nowhere"}, "there is no such file or folder"),
        ({"model": 3}, "this is no model: int"),
        ({"chat": True}, "leave chat out"),
    ],
)
def test_mistakes_are_told_at_once(run: Path, more: dict[str, Any], message: str) -> None:
    given = {"model": run, "prompts": "On", **more}
    with pytest.raises(rinsc.RinscError) as caught:
        rinsc.generate(given.pop("model"), given.pop("prompts"), **given)
    assert message in str(caught.value)


def test_a_module_needs_a_tokenizer() -> None:
    with pytest.raises(rinsc.RinscError, match="a module has no tokenizer"):
        rinsc.generate(rinsc.to_torch(rinsc.model_spec("AB")), "On")
