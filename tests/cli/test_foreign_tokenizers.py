"""Runs with tokenizers that others made: every tool makes the ids that training saw.

What ids training saw is computed by the library tokenizers alone, from the tokenizer's file without
what it adds to a text.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import rinsc.backends.hf  # noqa: F401
from rinsc.data.tokenizer import load_tokenizer
from rinsc.evaluation.harness import _fast_tokenizer
from rinsc.training.opening import finished_run
from tests.cli.command_line import run_cli
from tests.test_decoders import byte_fallback, byte_level, metaspace_bpe, unigram, word_piece

TINY = ("--layers", "2", "--width", "16", "--heads", "2", "--kv-heads", "2", "--mlp-width", "24")
LINE = "the cat sat and and, don't! déjà 日本 🙂🙂 the the cat's hat <|im_start|> . ?\n"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]


@dataclass(frozen=True)
class Kind:
    """A tokenizer, and what its file does to a text besides."""

    make: Callable[[], Tokenizer]
    spoil: Callable[[Tokenizer], None]


def _id(tokenizer: Tokenizer, name: str) -> int:
    number = tokenizer.token_to_id(name)
    assert number is not None
    return int(number)


def _template(tokenizer: Tokenizer) -> None:
    ids = [(name, _id(tokenizer, name)) for name in SPECIAL[:2]]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|endoftext|>", special_tokens=ids
    )


def _truncated(tokenizer: Tokenizer) -> None:
    tokenizer.enable_truncation(7)


def _padded(tokenizer: Tokenizer) -> None:
    tokenizer.enable_padding(length=64, pad_token="<|pad|>")


def _bert(tokenizer: Tokenizer) -> None:
    sep, cls = (("[SEP]", _id(tokenizer, "[SEP]")), ("[CLS]", _id(tokenizer, "[CLS]")))
    tokenizer.post_processor = processors.BertProcessing(sep, cls)
    _truncated(tokenizer)


def _roberta(tokenizer: Tokenizer) -> None:
    end = ("<|endoftext|>", _id(tokenizer, "<|endoftext|>"))
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), processors.RobertaProcessing(end, end)]
    )


def _dropout(tokenizer: Tokenizer) -> None:
    tokenizer.model.dropout = 0.5


KINDS = {
    "byte level": Kind(byte_level, _roberta),
    "byte level, dropout": Kind(byte_level, _dropout),
    "metaspace": Kind(metaspace_bpe, _padded),
    "byte fallback": Kind(byte_fallback, _template),
    "unigram": Kind(unigram, _truncated),
    "word piece": Kind(word_piece, _bert),
}


@dataclass(frozen=True)
class Trained:
    """A run, its text, and the tokenizer before anything was added to it."""

    kind: str
    folder: Path
    plain: Tokenizer


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    kind = KINDS[request.param]
    folder = tmp_path_factory.mktemp("foreign")
    plain = kind.make()
    plain.add_special_tokens(SPECIAL)
    spoiled = Tokenizer.from_str(plain.to_str())
    kind.spoil(spoiled)
    (folder / "words").mkdir()
    spoiled.save(str(folder / "words" / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "chat_template": "{{ 1 }}", "pad_token": "<|pad|>"}
    (folder / "words" / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "words" / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "text.txt").write_text(LINE * 120)
    done = run_cli(
        *("train", "(A^2)B", *TINY, "--context", "160", "--data", f"text:{folder / 'text.txt'}"),
        *("--steps", "2", "--batch", "2", "--tokenizer", str(folder / "words")),
        *("-o", str(folder / "run")),
    )
    assert done.status == 0, done.err
    return Trained(request.param, folder, plain)


def seen(trained: Trained, text: str) -> list[int]:
    """The ids of a text as training has them."""
    ids: list[int] = trained.plain.encode(text, add_special_tokens=False).ids
    return ids


def test_every_tool_makes_the_ids_of_training(trained: Trained) -> None:
    run, text = trained.folder / "run", LINE * 9
    expected = seen(trained, text)
    assert len(expected) > 64
    hub = trained.folder / "hub"
    assert run_cli("compile", str(run), "--to", "hf", "-o", str(hub)).status == 0
    for folder in (run, hub):
        auto: Any = AutoTokenizer.from_pretrained(folder)
        assert auto(text)["input_ids"] == expected
        assert auto.encode(text) == expected
        assert (auto.eos_token, auto.pad_token) == ("<|im_end|>", "<|pad|>")
    own = finished_run(run).tokenizer()
    assert own.encode(text).tolist() == expected
    assert _fast_tokenizer(own)(text)["input_ids"] == expected
    assert Tokenizer.from_file(str(run / "tokenizer.json")).encode(text).ids == expected


def test_log_likelihoods_are_those_of_the_module_on_the_ids_of_training(trained: Trained) -> None:
    run = trained.folder / "run"
    text = "the cat sat and the hat"
    ids = torch.tensor([seen(trained, text)])
    with torch.no_grad():
        logits = finished_run(run).model(torch.device("cpu"))(ids)
        expected = logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).sum()
        model: Any = AutoModelForCausalLM.from_pretrained(run)
        auto: Any = AutoTokenizer.from_pretrained(run)
        inputs = auto(text, return_tensors="pt")
        loss = model(**inputs, labels=inputs["input_ids"]).loss
    torch.testing.assert_close(-loss * (ids.shape[1] - 1), expected)


def test_a_pipeline_continues_as_rinsc_does(trained: Trained) -> None:
    run = trained.folder / "run"
    generate = pipeline("text-generation", str(run))
    made = generate("the cat", max_new_tokens=6, do_sample=False, return_full_text=False)
    done = run_cli("generate", str(run), "--prompt", "the cat", "--max-new-tokens", "6", "--json")
    ids = seen(trained, "the cat")
    auto: Any = AutoModelForCausalLM.from_pretrained(run)
    whole = auto.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0].tolist()
    texts = trained.plain.decode(whole), trained.plain.decode(ids)
    assert texts[0] == texts[1] + json.loads(done.out)["text"]
    new = trained.plain.decode(whole[len(ids) :])
    assert made[0]["generated_text"].strip() == new.strip()


def test_documents_end_with_the_token_between_them(trained: Trained) -> None:
    record = json.loads((trained.folder / "run" / "data.json").read_text())["tokenizer"]
    own = load_tokenizer(trained.folder / "run")
    assert own.end_of_document == _id(trained.plain, "<|endoftext|>")
    parts = (LINE * 109, LINE * 11)  # nine tenths of one file, and on to the end of a line
    assert [record[f"{part}_tokens"] for part in ("train", "held_out")] == [
        len(seen(trained, text)) + 1 for text in parts
    ]


def test_templates_of_chats_travel(trained: Trained) -> None:
    run = trained.folder / "run"
    model = trained.folder / "onnx"
    done = run_cli("compile", str(run), "--to", "onnx", "--no-report", "-o", f"{model}/")
    assert done.status == 0, done.err
    hub = trained.folder / "hub2"
    assert run_cli("compile", str(run), "--to", "hf", "-o", str(hub)).status == 0
    message = [{"role": "user", "content": "the cat"}]
    text = "<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
    for folder in (run, hub, model):
        auto: Any = AutoTokenizer.from_pretrained(folder)
        chat = auto.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        assert chat == text
        assert json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
        if folder == hub or trained.kind != "byte fallback":
            continue
        chatted = run_cli(
            *("generate", str(folder), "--chat", "--prompt", "the cat", "--json"),
            *("--max-new-tokens", "4"),
        )
        plain = run_cli(
            *("generate", str(folder), "--prompt", text, "--json", "--max-new-tokens", "4"),
        )
        assert json.loads(chatted.out)["text"] == json.loads(plain.out)["text"], chatted.err


def test_special_tokens_of_a_prompt(trained: Trained) -> None:
    own = load_tokenizer(trained.folder / "run")
    start = _id(trained.plain, "<|im_start|>")
    assert start in own.encode("<|im_start|>user").tolist()
    assert start not in own.encode("<|im_start|>user", characters=True).tolist()


def test_a_run_of_0_4_keeps_its_ids_and_its_file(trained: Trained, tmp_path: Path) -> None:
    """Its record says nothing of special tokens, whose names were characters then."""
    run = tmp_path / "run"
    shutil.copytree(trained.folder / "run", run)
    shutil.copy(trained.folder / "words" / "tokenizer.json", run)
    old = Tokenizer.from_file(str(run / "tokenizer.json"))
    old.no_truncation()
    old.no_padding()
    old.encode_special_tokens = True
    record = json.loads((run / "data.json").read_text())
    del record["tokenizer"]["special_tokens"]
    record["tokenizer"]["sha256"] = hashlib.sha256(old.to_str(pretty=True).encode()).hexdigest()
    (run / "data.json").write_text(json.dumps(record))
    own = finished_run(run).tokenizer()
    if getattr(old.model, "dropout", None) is None:
        assert np.array_equal(own.encode(LINE), old.encode(LINE, add_special_tokens=False).ids)


def test_a_text_ends_where_a_tool_of_transformers_ends_it(trained: Trained) -> None:
    """The ids are those of the config, of `generate` in transformers and of GenAI's config."""
    run = trained.folder / "run"
    ends = [_id(trained.plain, name) for name in ("<|im_end|>", "<|endoftext|>")]
    if trained.plain.token_to_id("[SEP]") is not None:
        ends.append(_id(trained.plain, "[SEP]"))
    assert json.loads((run / "config.json").read_text())["eos_token_id"] == ends
    hub = trained.folder / "hub3"
    assert run_cli("compile", str(run), "--to", "hf", "-o", str(hub)).status == 0
    for name in ("config.json", "generation_config.json"):
        assert json.loads((hub / name).read_text())["eos_token_id"] == ends
    assert AutoModelForCausalLM.from_pretrained(run).generation_config.eos_token_id == ends
    done = run_cli(
        *("compile", str(run), "--to", "onnx", "--genai", "--stop-id", "9", "--no-report"),
        *("-o", str(trained.folder / "genai")),
    )
    if trained.kind in ("metaspace", "unigram", "word piece"):  # which the package reads otherwise
        assert done.err.startswith("error[unlike-tokenizer]: ")
        assert not (trained.folder / "genai").exists()
        return
    assert done.status == 0, done.err
    config = json.loads((trained.folder / "genai" / "genai_config.json").read_text())
    assert config["model"]["eos_token_id"] == sorted([*ends, 9])
    package = pytest.importorskip("onnxruntime_genai")
    theirs = package.Tokenizer(package.Model(str(trained.folder / "genai")))
    for text in (
        "the cat sat and",
        "don't! déjà 日本 🙂",
        "a  b\n\n c <|im_start|>user",
        "The END 123",
    ):
        assert theirs.encode(text).tolist() == seen(trained, text)
