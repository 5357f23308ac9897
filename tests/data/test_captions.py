"""Captions as ids: what rinsc, transformers and the library tokenizers make of one file agrees."""

from __future__ import annotations

import json
import re
import shutil
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.data.pairs import canonical, caption_tokenizer_from_state, load_caption_tokenizer
from rinsc.data.pairs.captions import CaptionTokenizer, train_caption_tokenizer
from rinsc.errors import DataError

CONTEXT = 12
WORDS = ("a dog's life", "A DOG", "two cats_and dogs!", "caf\u00e9, cafe\u0301", "\u72ac a dog")
CAPTIONS = [f"{word} {other}" for word in WORDS for other in WORDS]


@pytest.fixture(scope="module")
def learned() -> CaptionTokenizer:
    return train_caption_tokenizer(CAPTIONS, 290, CONTEXT)


def plain(text: str) -> str:
    """What SigLIP's own code does, for ASCII."""
    text = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", text.lower()).strip()


@given(st.text(st.characters(max_codepoint=127)))
def test_canonical_text_of_ascii(text: str) -> None:
    assert canonical(text) == plain(text)


@given(st.text())
def test_the_file_makes_text_canonical_by_itself(learned: CaptionTokenizer, text: str) -> None:
    normalizer = learned._backend.normalizer
    assert normalizer.normalize_str(text) == canonical(text)
    assert canonical(canonical(text)) == canonical(text)


def test_composed_and_decomposed_letters_are_equal() -> None:
    assert canonical("caf\u00e9") == canonical("cafe\u0301")


def test_ids_end_and_are_filled_up(learned: CaptionTokenizer) -> None:
    rows = learned.encode(["a dog", "", "dogs " * 40])
    assert rows.shape == (3, CONTEXT)
    assert rows.dtype == np.int64
    assert (rows[:, -1] == 1).all()  # what SigLIP reads is always the end token
    assert (rows[1] == 1).all()
    assert (rows[2, :-1] != 1).all()
    assert learned.pad_id == learned.end_id == 1
    assert 256 < learned.vocab_size <= 290


def test_equal_captions_give_equal_tokenizers(learned: CaptionTokenizer) -> None:
    again = train_caption_tokenizer(iter(CAPTIONS), 290, CONTEXT)
    assert again.sha256 == learned.sha256
    assert caption_tokenizer_from_state(learned.to_state()).sha256 == learned.sha256


TEXTS = ["A Dog's life!", "", "two   cats_and\ndogs", "\u72ac " * 30, "caf\u00e9"]


def test_every_tool_makes_the_same_ids(learned: CaptionTokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import tokenizers

    learned.save_folder(tmp_path)
    ours = learned.encode(TEXTS)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    options = {"padding": "max_length", "truncation": True, "return_tensors": "np"}
    np.testing.assert_array_equal(theirs(TEXTS, **options)["input_ids"], ours)
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.model_max_length) == (1, 1, CONTEXT)
    assert theirs.decode(ours[0], skip_special_tokens=True) == "a dogs life"
    file = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    np.testing.assert_array_equal([one.ids for one in file.encode_batch(TEXTS)], ours)
    read = load_caption_tokenizer(tmp_path, CONTEXT)
    np.testing.assert_array_equal(read.encode(TEXTS), ours)
    np.testing.assert_array_equal(read.encode(["dogs " * 40]), learned.encode(["dogs " * 40]))
    shorter = load_caption_tokenizer(tmp_path / "tokenizer.json", 4)
    assert shorter.encode(TEXTS).shape == (len(TEXTS), 4)
    assert (shorter.encode(TEXTS)[:, -1] == 1).all()


PACKAGE = Path(sys.prefix) / "node/node_modules/@huggingface/transformers/dist"
SCRIPT = """
const [dist, folder, name, texts] = process.argv.slice(1);
const { AutoTokenizer, env } = await import(`${dist}/transformers.node.mjs`);
env.allowRemoteModels = false;
env.localModelPath = folder;
const tokenizer = await AutoTokenizer.from_pretrained(name);
const options = { padding: "max_length", truncation: true, return_tensor: false };
console.log(JSON.stringify(JSON.parse(texts).map((text) => tokenizer(text, options).input_ids)));
"""


@pytest.mark.skipif(
    shutil.which("node") is None or not PACKAGE.is_dir(), reason="there is no transformers.js"
)
def test_transformers_js_makes_the_same_ids(learned: CaptionTokenizer, tmp_path: Path) -> None:
    texts = [text for text in TEXTS if len(text) < 40]
    texts += [
        "\u0130stanbul \u03a3\u0391\u03a3",
        "a\u00a0b\u2003c",
        "\ufeffx",
        "\x1cq\x85z",
        "\U0001f44d ok",
    ]
    (tmp_path / "tokenizer").mkdir()
    learned.save_folder(tmp_path / "tokenizer")
    arguments = [str(PACKAGE), f"{tmp_path}/", "tokenizer", json.dumps(texts)]
    command = ["node", "--input-type=module", "-e", SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = np.array(json.loads(done.stdout))
    ours = learned.encode(texts)
    cut = ours[:, -2] != 1  # it cuts the end token off
    np.testing.assert_array_equal(rows[~cut], ours[~cut])
    np.testing.assert_array_equal(rows[:, :-1], ours[:, :-1])
    assert (~cut).sum() > 4


def test_a_tokenizer_of_ones_own(tmp_path: Path) -> None:
    """One as BERT has it: words, with a token at both ends, and its own padding."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog", "dogs"]
    model = models.WordLevel({name: row for row, name in enumerate(names)}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(names[:4])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_truncation(5)
    made.enable_padding(length=64)
    made.save(str(tmp_path / "tokenizer.json"))
    config = '{"eos_token": "[SEP]", "pad_token": "[PAD]"}'
    (tmp_path / "tokenizer_config.json").write_text(config)
    read = load_caption_tokenizer(tmp_path, 8)
    assert read.encode(["A Dog!", "dogs " * 20]).tolist() == [
        [2, 4, 5, 3, 0, 0, 0, 0],
        [2, 6, 6, 6, 6, 6, 6, 3],
    ]
    assert read.vocab_size == 7
    (tmp_path / "saved").mkdir()
    read.save_folder(tmp_path / "saved")
    saved = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert saved.encode("a dog").ids == [2, 4, 5, 3, 0, 0, 0, 0]


def test_a_tokenizer_that_ends_nothing_by_itself(tmp_path: Path) -> None:
    """The end token is added, and the saved file adds it too, behind what it adds itself."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    names = ["<pad>", "<s>", "</s>", "a", "dog"]
    model = models.WordLevel({name: row for row, name in enumerate(names)}, unk_token="a")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(names[:3])
    for template, first in ((None, []), ("<s> $A", [1])):
        if template is not None:
            made.post_processor = processors.TemplateProcessing(
                single=template, special_tokens=[("<s>", 1)]
            )
        made.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')
        read = load_caption_tokenizer(tmp_path, 6)
        expected = ([*first, 3, 4, 2] + [0] * 6)[:6]
        assert read.encode(["A dog"]).tolist() == [expected]
        read.save_folder(tmp_path)
        saved = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        assert saved.encode("a dog").ids == expected


@pytest.mark.parametrize("size", [0, 257, 1 << 17])
def test_a_size_that_cannot_be(size: int) -> None:
    with pytest.raises(DataError) as caught:
        train_caption_tokenizer(CAPTIONS, size, CONTEXT)
    assert caught.value.code == "bad-vocabulary-size"


@pytest.mark.parametrize("text", [None, "{}", "words"])
def test_a_tokenizer_that_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(DataError):
        load_caption_tokenizer(tmp_path, CONTEXT)
