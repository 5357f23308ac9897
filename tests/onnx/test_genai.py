"""ONNX Runtime GenAI against PyTorch, token for token, from the folders that rinsc writes."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rinsc.backends.onnx import OnnxModel, Session, to_onnx
from rinsc.backends.onnx.write.file import CONFIG_FILE
from rinsc.backends.onnx.write.genai import genai_files
from rinsc.backends.torch import CompiledModule
from rinsc.backends.torch.generating import generate_ids
from rinsc.data.corpora import load_corpus
from rinsc.data.tokenizer import BytePairTokenizer, train_tokenizer
from rinsc.errors import DataError, LoweringError, UsageError
from rinsc.graph import Rounds
from rinsc.sampling import Sampling
from rinsc.spec import ModelSpec
from tests.onnx.models import lively_model, small_spec, torch_logits

og: Any = pytest.importorskip("onnxruntime_genai")

TOKENS = 64
PROMPT = [5, 0, 7, 0, 9]  # the id 0 pads nothing
SEEDS = {"llama": 1, "gpt": 0, "ouro": 1, "decoder": 1}
MARGIN = 1e-3  # between the best logit and the next: no token is chosen by rounding
DOCS = Path(__file__).resolve().parents[2] / "docs"


def wide_spec(signature: str, **changes: Any) -> ModelSpec:
    """Heads of a width that the fused attention takes."""
    return small_spec(signature, **{"width": 32, "context": 80, **changes})


def eloquent_model(spec: ModelSpec, strength: float = 0.6) -> CompiledModule:
    """A module that says many different tokens, others at each number of rounds."""
    model = lively_model(spec, SEEDS[spec.kind])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.add_(strength * torch.randn_like(parameter))
    return model


def said(model: CompiledModule, rounds: Rounds = None, prompt: Sequence[int] = PROMPT) -> list[int]:
    """What PyTorch says without a cache, with no token chosen by rounding."""
    ids = generate_ids(model, prompt, TOKENS, sampling=Sampling(), rounds=rounds, cache=False)
    given = np.array([[*prompt, *ids[:-1]]])
    best = np.sort(torch_logits(model, given, rounds)[0, len(prompt) - 1 :], axis=-1)
    assert (best[:, -1] - best[:, -2]).min() > MARGIN
    assert len(set(ids)) > 7
    return ids


def unsaid(*texts: Sequence[int]) -> int:
    """An id that no text says, to end at."""
    return min(set(range(1, 53)) - set().union(*texts))


def write_folder(folder: Path, model: OnnxModel, stop_ids: Sequence[int]) -> Path:
    folder.mkdir(exist_ok=True)
    model.save(folder / "model.onnx")
    for name, data in genai_files(model, stop_ids=stop_ids).items():
        (folder / name).write_bytes(data)
    return folder


def generated(
    folder: Path,
    prompts: Sequence[Sequence[int]],
    depth: Mapping[str, int] | None = None,
    tokens: int = TOKENS,
    singly: bool = False,
) -> list[list[int]]:
    """What the package says after prompts of one length, given ``singly`` token by token."""
    model = og.Model(str(folder))
    params = og.GeneratorParams(model)
    length = len(prompts[0])
    params.set_search_options(max_length=length + tokens, batch_size=len(prompts))
    generator = og.Generator(model, params)
    held = {name: np.array(rounds, np.int64) for name, rounds in (depth or {}).items()}
    for name, rounds in held.items():
        generator.set_model_input(name, rounds)
    width = 1 if singly else length
    for start in range(0, length, width):
        generator.append_tokens(np.array([row[start : start + width] for row in prompts], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    rows = [generator.get_sequence(row).tolist() for row in range(len(prompts))]
    return [row[length:] for row in rows]


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize(
    ("signature", "kind"),
    [("(A^3)B", "llama"), ("(A^3)B", "gpt"), ("(A^3)B", "ouro"), ("A^6B", "llama")],
)
def test_fixed_rounds(signature: str, kind: str, portable: bool, tmp_path: Path) -> None:
    model = eloquent_model(wide_spec(signature, kind=kind))
    expected = said(model)
    exported = to_onnx(model, cache=True, portable=portable)
    folder = write_folder(tmp_path, exported, [unsaid(expected)])
    assert generated(folder, [PROMPT]) == [expected]


PRETRAINED: list[dict[str, Any]] = [
    {"pattern": "lgn", "window": 5, "score_cap": 3.0, "logit_cap": 4.0, "norm": "rms_from_one"},
    {"rotary_fraction": 0.5, "norms": "after", "width_norm": True, "qkv_bias": True},
    {"scaling": "yarn factor=4.0 original_max_position_embeddings=16", "score_scale": 0.2},
]


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("own", PRETRAINED, ids=lambda own: str(next(iter(own))))
def test_what_pretrained_families_add(own: dict[str, Any], portable: bool, tmp_path: Path) -> None:
    """Beyond the window, and of heads of which a part turns."""
    more: dict[str, Any] = {"kind": "decoder", "settings": {"decoder": own}, "head_dim": 32}
    model = eloquent_model(wide_spec("(A[3]^2)B[1]", **more))
    expected = said(model)
    exported = to_onnx(model, cache=True, portable=portable)
    folder = write_folder(tmp_path, exported, [unsaid(expected)])
    assert generated(folder, [PROMPT]) == [expected]


@pytest.mark.parametrize("kind", ["llama", "gpt", "ouro"])
def test_depth_of_one_file(kind: str, tmp_path: Path) -> None:
    model = eloquent_model(wide_spec("(A^3)B", kind=kind))
    expected = {rounds: said(model, rounds) for rounds in (1, 2, 3)}
    exported = to_onnx(model, cache=True, gated=True)
    folder = write_folder(tmp_path, exported, [unsaid(*expected.values())])
    depths = (-1, 0, 1, 2, 3, 4)
    found = {depth: generated(folder, [PROMPT], {"depth": depth})[0] for depth in depths}
    assert {depth: found[depth] for depth in expected} == expected
    assert found[-1] == found[0] == expected[1], "below 1 it runs as 1"
    assert found[4] == expected[3], "above the rounds that were written as those"
    for depth in (1, 2):
        assert found[depth] != expected[3], "a wrong depth says something else"


def test_an_unset_depth_is_an_error_of_the_package(tmp_path: Path) -> None:
    exported = to_onnx(eloquent_model(wide_spec("(A^3)B")), cache=True, gated=True)
    with pytest.raises(RuntimeError, match="Missing Input: depth"):
        generated(write_folder(tmp_path, exported, [1]), [PROMPT])


def beamed(folder: Path, beams: int, depth: int | None = None) -> list[int]:
    """What beam search says after the prompt."""
    model = og.Model(str(folder))
    params = og.GeneratorParams(model)
    length = len(PROMPT) + 20
    params.set_search_options(max_length=length, num_beams=beams, early_stopping=False)
    generator = og.Generator(model, params)
    held = np.array(depth or 0, np.int64)
    if depth is not None:
        generator.set_model_input("depth", held)
    generator.append_tokens(np.array([PROMPT], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    ids: list[int] = generator.get_sequence(0).tolist()
    return ids


def test_beams_below_the_written_depth(tmp_path: Path) -> None:
    """Caches of beams are copied, so that slots of skipped rounds must grow with the others."""
    model = eloquent_model(wide_spec("(A^3)B"))
    gated = write_folder(tmp_path / "gated", to_onnx(model, cache=True, gated=True), [0])
    differ = []
    for depth in (1, 2, 3):
        fixed = write_folder(tmp_path / str(depth), to_onnx(model, depth, cache=True), [0])
        expected = beamed(fixed, 3)
        assert beamed(gated, 3, depth) == expected
        differ.append(expected != beamed(fixed, 1))
    assert any(differ), "beams find other texts"


def test_each_repeat_has_its_depth(tmp_path: Path) -> None:
    model = eloquent_model(wide_spec("(A^2)(B^3)", layers=2))
    asked = [{"A": 1, "B": 3}, {"A": 2, "B": 1}, {"A": 2, "B": 2}]
    expected = [said(model, rounds) for rounds in asked]
    exported = to_onnx(model, cache=True, gated=True)
    folder = write_folder(tmp_path, exported, [unsaid(*expected)])
    for rounds, text in zip(asked, expected, strict=True):
        depths = {f"depth_{name}": count for name, count in rounds.items()}
        assert generated(folder, [PROMPT], depths) == [text]


@pytest.mark.parametrize("kv", ["first", "last"])
def test_rounds_that_share_slots(kv: str, tmp_path: Path) -> None:
    """An approximation, so that PyTorch behind the same cache says what is expected.

    Of livelier weights the approximation lets rounding errors grow from token to token.
    """
    model = eloquent_model(wide_spec(f"A^3{{kv={kv}}}B"), strength=0.3)
    expected = {
        rounds: generate_ids(model, PROMPT, TOKENS, sampling=Sampling(), rounds=rounds)
        for rounds in (1, 2, 3)
    }
    stop = unsaid(*expected.values())
    fixed = write_folder(tmp_path / "fixed", to_onnx(model, cache=True), [stop])
    assert generated(fixed, [PROMPT], singly=True) == [expected[3]]
    with pytest.raises(Exception, match="run token by token"):
        generated(fixed, [PROMPT])
    gated = write_folder(tmp_path / "gated", to_onnx(model, cache=True, gated=True), [stop])
    assert {
        d: generated(gated, [PROMPT], {"depth": d}, singly=True)[0] for d in expected
    } == expected
    assert expected[3] != generate_ids(model, PROMPT, TOKENS, sampling=Sampling(), cache=False)


@pytest.mark.parametrize("precision", ["int4", "int8", "int8-dynamic", "fp16"])
def test_precisions_say_what_a_session_says(precision: str, tmp_path: Path) -> None:
    model = eloquent_model(wide_spec("(A^3)B"))
    exported = to_onnx(model, cache=True, gated=True, precision=precision)
    session = Session(exported, threads=1)
    expected = {rounds: session.generate(PROMPT, TOKENS, rounds=rounds) for rounds in (1, 3)}
    folder = write_folder(tmp_path, exported, [unsaid(*expected.values())])
    assert {d: generated(folder, [PROMPT], {"depth": d})[0] for d in expected} == expected
    assert expected[3] != said(model), "few bits say something else"


@pytest.mark.parametrize(
    ("portable", "precision"), [(False, "fp32"), (False, "int4"), (True, "fp32")]
)
def test_a_batch_is_padded_on_the_right(portable: bool, precision: str, tmp_path: Path) -> None:
    model = eloquent_model(wide_spec("(A^3)B"))
    prompts = [PROMPT, [11, 4, 0], [0, 0, 3, 8]]
    exported = to_onnx(model, cache=True, portable=portable, precision=precision)
    expected = Session(exported, threads=1).generate(prompts, TOKENS)
    folder = write_folder(tmp_path, exported, [unsaid(*expected)])
    pad = json.loads((folder / CONFIG_FILE).read_text())["model"]["pad_token_id"]
    right = [[*prompt, *[pad] * (5 - len(prompt))] for prompt in prompts]
    left = [[*[pad] * (5 - len(prompt)), *prompt] for prompt in prompts]
    assert generated(folder, right) == expected
    assert generated(folder, left) != expected


def test_generation_ends_at_stop_ids_and_nowhere_else(tmp_path: Path) -> None:
    model = eloquent_model(wide_spec("(A^3)B"))
    exported = to_onnx(model, cache=True)
    expected = said(model)
    stop = expected[20]
    found = generated(write_folder(tmp_path, exported, [unsaid(expected), stop]), [PROMPT])
    assert found == [expected[: expected.index(stop)]]
    whole = generated(write_folder(tmp_path, exported, [unsaid(expected)]), [PROMPT], tokens=75)
    assert len(whole[0]) == 75 == model.spec.context - len(PROMPT)


@pytest.fixture(scope="module")
def plays() -> str:
    return load_corpus("plays").train[0].text[:20_000]


@pytest.fixture(scope="module")
def own(plays: str) -> BytePairTokenizer:
    return train_tokenizer([plays], 300)


@pytest.fixture(scope="module")
def tokenizer_folder(own: BytePairTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a tokenizer."""
    folder: Path = tmp_path_factory.mktemp("model")
    own.save(folder / "tokenizer.json")
    module = eloquent_model(wide_spec("(A^3)B", vocab_size=300))
    with torch.no_grad():  # as after training, the byte that no text holds is never said
        module.get_parameter("head.weight")[json.loads(own.to_json())["model"]["vocab"]["\xff"]] = 0
    model = to_onnx(module, cache=True, gated=True)
    model.save(folder / "model.onnx")
    for name, data in genai_files(model, folder / "tokenizer.json").items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def theirs(tokenizer_folder: Path) -> Any:
    return og.Tokenizer(og.Model(str(tokenizer_folder)))


REAL = [
    "naïve café — “quotes” 日本語 🙂👩\u200d👩\u200d👧 e\u0301",
    "  lots   of  spaces \n\n\n  x\t\ttab\r\ny ",
    "don't we'll I'M 1234567 3.14 ² ½ \u0661\u0662",
    "<s></s><|endoftext|> \u00a0nbsp\u2003em \ufeff",
    "עברית हिन्दी ไทย",
    "",
]


def check_same(own: BytePairTokenizer, theirs: Any, text: str) -> None:
    ids = own.encode(text).astype(np.int32)
    assert theirs.encode(text).tolist() == ids.tolist()
    # The package says no special tokens.
    assert not len(ids) or theirs.decode(ids) == own.decode(ids, skip_special_tokens=True)


def test_real_text_is_encoded_alike(own: BytePairTokenizer, theirs: Any, plays: str) -> None:
    for text in [*REAL, plays]:
        check_same(own, theirs, text)


@settings(max_examples=100)
@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_text_is_encoded_alike(own: BytePairTokenizer, theirs: Any, text: str) -> None:
    check_same(own, theirs, text)


def test_a_text_is_streamed_in_whole_characters(own: BytePairTokenizer, theirs: Any) -> None:
    stream = theirs.create_stream()
    assert "".join(map(stream.decode, own.encode(REAL[0]).tolist())) == REAL[0]


def test_the_token_that_ends_a_text(own: BytePairTokenizer, tokenizer_folder: Path) -> None:
    config = json.loads((tokenizer_folder / CONFIG_FILE).read_text())
    assert config["model"]["eos_token_id"] == [own.end_of_document] == [0]
    assert own.decode([0]) == "<|endoftext|>"


def test_the_byte_that_no_text_holds_ends_a_text(plays: str, tmp_path: Path) -> None:
    own = train_tokenizer([plays], 300, end_of_text=None)
    own.save(tmp_path / "tokenizer.json")
    model = to_onnx(eloquent_model(wide_spec("(A^3)B", vocab_size=300)), cache=True)
    config = genai_files(model, tmp_path / "tokenizer.json")[CONFIG_FILE]
    (stop,) = json.loads(config)["model"]["eos_token_id"]
    assert own.decode([stop]) == "\N{REPLACEMENT CHARACTER}"
    assert own.token_bytes[stop] == 1
    every = "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x110000)]))
    assert stop not in set(own.encode(every).tolist())


def test_a_batch_is_filled_with_an_id_of_the_model(plays: str, tmp_path: Path) -> None:
    """With the tokenizer's own padding, an id without a token, or with what ends a text."""
    path = tmp_path / "tokenizer.json"
    train_tokenizer([plays], 300).save(path)
    content = json.loads(path.read_text())
    own = {**content["added_tokens"][0], "id": 300, "content": "<|pad|>"}
    for vocab_size, added, expected in ((304, [own], 300), (304, [], 300), (300, [], 0)):
        content["added_tokens"] = [*content["added_tokens"][:1], *added]
        path.write_text(json.dumps(content))
        model = to_onnx(eloquent_model(wide_spec("(A^3)B", vocab_size=vocab_size)), cache=True)
        folder = write_folder(tmp_path / f"{vocab_size}{len(added)}", model, [0])
        for name, data in genai_files(model, path).items():
            (folder / name).write_bytes(data)
        theirs = og.Tokenizer(og.Model(str(folder)))
        padded = theirs.encode_batch(["a thing", "a"]).as_numpy()
        assert padded[1, -1] == theirs.pad_token_id == expected
        prompts = [[row for row in rows if row != expected] for rows in padded.tolist()]
        said = generated(folder, padded.tolist(), tokens=6)
        alone = [generated(folder, [prompt], tokens=6)[0] for prompt in prompts]
        for row, found in zip(said, alone, strict=True):
            assert row[: len(found)] == found
            assert set(row[len(found) :]) <= {expected}
            assert theirs.decode(np.array(row, np.int32)) == theirs.decode(
                np.array(found, np.int32)
            )


def test_transformers_reads_the_tokenizer(own: BytePairTokenizer, tokenizer_folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    read = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    assert read.encode(REAL[0]) == own.encode(REAL[0]).tolist()
    assert read.model_max_length == 80


def test_the_config_is_that_of_the_model(tokenizer_folder: Path) -> None:
    config = json.loads((tokenizer_folder / CONFIG_FILE).read_text())
    model, decoder = config["model"], config["model"]["decoder"]
    assert (model["type"], model["vocab_size"], model["context_length"]) == ("decoder", 300, 80)
    assert (decoder["num_hidden_layers"], decoder["head_size"]) == (2 * 3 + 2, 8)
    assert (decoder["num_attention_heads"], decoder["num_key_value_heads"]) == (4, 2)
    assert config["search"]["past_present_share_buffer"] is True


def test_the_example_of_the_documentation_runs(
    tokenizer_folder: Path, own: BytePairTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (DOCS / "genai.md").read_text()
    (example,) = [
        code
        for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        if "onnxruntime_genai" in code
    ]
    monkeypatch.chdir(tokenizer_folder.parent)
    example = example.replace('"model"', repr(tokenizer_folder.name))
    names: dict[str, Any] = {}
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(example, "docs", "exec"), names)
    assert output.getvalue().startswith("To be, or not")
    prompt = own.encode("To be, or not").tolist()
    ids = Session(tokenizer_folder).generate(prompt, 64 - len(prompt), rounds=2)
    assert names["generator"].get_sequence(0).tolist() == [*prompt, *ids]


def test_models_that_the_package_cannot_run() -> None:
    model = eloquent_model(wide_spec("(A^3)B"))
    for exported, code in [
        (to_onnx(model), "no-cache"),
        (to_onnx(model, "dynamic", cache=True), "rounds-are-a-loop"),
        (to_onnx(model, cache=True, gated=True, portable=True), "gated-and-portable"),
        (to_onnx(model, cache=True), "no-stop-token"),
    ]:
        with pytest.raises(LoweringError, match=code) as caught:
            genai_files(exported)
        assert caught.value.hint
    for wrong in ([53], [-1], ["a"]):
        ids: Any = wrong
        with pytest.raises(UsageError, match="bad-token"):
            genai_files(to_onnx(model, cache=True), stop_ids=ids)


def test_slots_of_several_shapes() -> None:
    """As a layer kind with heads of its own would make them."""
    exported = to_onnx(eloquent_model(wide_spec("(A^3)B")), cache=True)
    slot = next(v for v in exported.ir.graph.inputs if v.name == "past_key_values.3.value")
    assert slot.shape is not None
    slot.shape[1] = 4
    with pytest.raises(LoweringError, match="uneven-cache"):
        genai_files(exported, stop_ids=[1])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "cannot-read"),
        (b"", "bad-tokenizer"),
        (b"[1]", "bad-tokenizer"),
        (b'{"model": {"vocab": {}}}', "bad-tokenizer"),
        (b'{"model": {"vocab": {"a": Infinity}}}', "bad-tokenizer"),
        (b'{"model": {"vocab": {"a": 53}}}', "vocabulary-mismatch"),
    ],
)
def test_tokenizers_that_are_none(text: bytes | None, code: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    if text is not None:
        path.write_bytes(text)
    exported = to_onnx(eloquent_model(wide_spec("AB")), cache=True)
    with pytest.raises(DataError, match=code) as caught:
        genai_files(exported, path)
    assert caught.value.hint


def test_a_tokenizer_without_bytes_needs_a_stop_id(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"vocab": {"a": 0, "\xff": 1}}, "decoder": None}))
    exported = to_onnx(eloquent_model(wide_spec("AB")), cache=True)
    with pytest.raises(LoweringError, match="no-stop-token"):
        genai_files(exported, path)
    files = genai_files(exported, path, stop_ids=[7])
    assert json.loads(files[CONFIG_FILE])["model"]["eos_token_id"] == [7]
    assert files["tokenizer.json"] == path.read_bytes()
