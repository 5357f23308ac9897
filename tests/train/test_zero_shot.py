"""Zero-shot classes and retrieval: against scikit-learn and plain loops, and what is refused."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from rinsc.errors import RinscError
from rinsc.evaluation.classes import (
    checked_classes,
    checked_templates,
    is_class_list,
    merged,
    prompts,
    read_class_list,
)
from rinsc.evaluation.matching import CUTOFFS, class_rows, classified, retrieval, unit_rows
from rinsc.evaluation.pairs_page import PageEntry, page_text, png_bytes


def random_rows(count: int, seed: int = 0, width: int = 8) -> Any:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def zero_shot_weights(texts: Any, classes: int, templates: int) -> Any:
    """open_clip's algorithm (build_zero_shot_classifier), as its loop over classes."""
    weights = []
    for number in range(classes):
        embeddings = texts[number * templates : (number + 1) * templates]
        embeddings = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
        mean = embeddings.mean(axis=0)
        weights.append(mean / np.linalg.norm(mean))
    return np.stack(weights)


@pytest.mark.parametrize(("classes", "templates"), [(2, 1), (7, 3)])
def test_classes_are_those_of_open_clip_and_accuracy_that_of_scikit_learn(
    classes: int, templates: int
) -> None:
    texts, pictures = random_rows(classes * templates, 1), unit_rows(random_rows(300, 2))
    weights = class_rows(texts, classes)
    assert weights == pytest.approx(zero_shot_weights(texts, classes, templates), abs=1e-6)
    labels = np.random.default_rng(3).integers(0, classes, 300)
    share = classified(pictures, labels, weights)
    predicted = (pictures @ weights.T).argmax(axis=1)
    assert share.value == accuracy_score(labels, predicted)
    assert share.chance == 1 / classes
    low, high = share.interval
    assert low < share.value < high


@pytest.mark.parametrize("count", [6, 40, 1500])
def test_recall_of_texts_is_the_top_k_accuracy_of_scikit_learn(count: int) -> None:
    """Texts are distinct; several pictures may have one."""
    distinct = max(2, count // 2)
    text_of = np.concatenate(
        [np.arange(distinct), np.random.default_rng(0).integers(0, distinct, count - distinct)]
    )
    pictures, texts = unit_rows(random_rows(count, 4)), unit_rows(random_rows(distinct, 5))
    pictures = unit_rows(pictures + 0.5 * texts[text_of])
    result = retrieval(pictures, texts, text_of)
    for cutoff in CUTOFFS:
        if cutoff < distinct:  # scikit-learn warns where all are taken
            scores = pictures @ texts.T
            expected = top_k_accuracy_score(text_of, scores, k=cutoff, labels=range(distinct))
            assert result.texts[cutoff].value == pytest.approx(expected)
        assert result.texts[cutoff].chance == pytest.approx(min(cutoff / distinct, 1))
        hits = 0
        for number, text in enumerate(texts):
            order = np.argsort(-(pictures @ text))[:cutoff]
            hits += number in text_of[order]
        assert result.pictures[cutoff].correct == hits
        assert result.pictures[cutoff].count == distinct


def test_chance_is_what_random_vectors_reach() -> None:
    text_of = np.repeat(np.arange(20), 3)
    shares = [
        retrieval(unit_rows(random_rows(60, seed)), unit_rows(random_rows(20, 99 + seed)), text_of)
        for seed in range(60)
    ]
    for cutoff in CUTOFFS:
        for side in ("texts", "pictures"):
            values = [getattr(share, side)[cutoff].value for share in shares]
            chance = getattr(shares[0], side)[cutoff].chance
            assert np.mean(values) == pytest.approx(chance, abs=4 * np.std(values) / 60**0.5)


def test_equal_vectors_are_no_hits() -> None:
    """A model that makes one vector of everything gets nothing for it."""
    same = np.ones((6, 4), dtype=np.float32)
    result = retrieval(unit_rows(same), unit_rows(same), np.arange(6))
    assert result.texts[1].value == result.pictures[5].value == 0


@pytest.mark.parametrize(
    ("text", "suffix", "names"),
    [
        ("cat\n\n  wild dog \n", ".txt", ("cat", "wild dog")),
        ('["cat", "dog"]', ".json", ("cat", "dog")),
        ('{"classes": ["cat", "dog"], "templates": ["a {}!"]}', ".json", ("cat", "dog")),
    ],
)
def test_names_in_files(text: str, suffix: str, names: Sequence[str], tmp_path: Path) -> None:
    file = tmp_path / f"names{suffix}"
    file.write_text(text)
    own = read_class_list(file)
    assert own.names == names
    assert own.templates == (("a {}!",) if "templates" in text else ())
    assert is_class_list(str(file))
    assert not is_class_list("emoji-groups")


@pytest.mark.parametrize(
    ("text", "suffix", "message"),
    [
        ("", ".txt", "there are no classes"),
        ("[]", ".json", "there are no classes"),
        ("cat\n", ".txt", "only one class"),
        ("cat\ndog\nCat!\n", ".txt", "the class 'cat' stands there 2 times"),
        ("cat\n...\n", ".txt", "has no letters or digits"),
        ("[1, 2]", ".json", "must be lists of texts"),
        ('{"classes": ["a", "b"], "names": []}', ".json", "the key 'names' is not known"),
        ("{", ".json", "this is not JSON"),
        ('{"classes": ["a", "b"], "templates": ["a photo"]}', ".json", "must have one {}"),
    ],
)
def test_bad_lists_of_classes(text: str, suffix: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / f"names{suffix}"
    file.write_text(text)
    with pytest.raises(RinscError, match=re.escape(message)) as raised:
        read_class_list(file)
    assert raised.value.problems[0].hint


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RinscError, match="cannot read the names of classes"):
        read_class_list(tmp_path / "none.txt")


def test_prompts_stand_class_by_class() -> None:
    assert prompts(checked_classes(["a", "b"], ""), checked_templates(["{}", "x {}"])) == [
        *("a", "x a", "b", "x b")
    ]


def test_pictures_in_the_page_are_those_that_were_given() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7)).astype(np.uint8)
    read = np.array(Image.open(io.BytesIO(png_bytes(pixels))))
    assert (read.transpose(2, 0, 1) == pixels).all()


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href")]


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    """Whatever a caption or the name of a file holds."""
    evil = "</style><script>alert(1)</script>\"'<img src=http://x>"
    pixels = np.zeros((3, 2, 2), dtype=np.uint8)
    entries = [PageEntry(pixels, evil, evil, [("b", 0.5), (evil, 0.25)])]
    text = page_text(evil, [evil], entries)
    tags = _Tags(text)
    assert "script" not in tags.tags
    assert tags.tags.count("img") == 1
    assert all(address.startswith("data:image/png;base64,") for address in tags.addresses)
    assert "http:" not in re.sub(r"&lt;img src=http://x&gt;", "", text)
    assert entries[0].rank == 2
    assert "not the nearest" in text


def test_classes_of_one_canonical_name_are_one() -> None:
    class Pictures:
        name, classes, labels = "p", ("keycap: #", "dog", "keycap: *"), np.array([0, 1, 2, 2])

        def __len__(self) -> int:
            return 4

        def pixels(self, index: Any) -> Any:
            return index

    one: Any = merged(Pictures())
    assert one.classes == ("keycap: #", "dog")
    assert one.labels.tolist() == [0, 1, 0, 0]
    assert (len(one), one.pixels(3), one.name) == (4, 3, "p")
