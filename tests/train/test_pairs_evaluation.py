"""`rinsc eval` of two towers, against plain loops, scikit-learn and a pipeline of transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, top_k_accuracy_score
from transformers import pipeline

import rinsc
from rinsc.data.pairs import load_caption_tokenizer
from rinsc.errors import RinscError
from rinsc.progress import SilentProgress
from tests.cli.command_line import run_cli

COLOURS = {"red": (220, 30, 30), "green": (30, 190, 60), "blue": (40, 60, 220), "white": (240,) * 3}
SIDE = 8
TABLES: dict[str, Any] = {
    "image": {"kind": "siglip_image", "image_size": SIDE, "patch_size": 4},
    "text": {"kind": "siglip_text", "vocab_size": 300, "context": 8},
}
SIZES: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2, "mlp_width": 24}
STEPS = 60


def square(colour: str, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(-25, 26, (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(noise + COLOURS[colour], 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for number in range(160):
        colour = list(COLOURS)[number % 4]
        square(colour, number).save(folder / f"{number}.png")
        captions = f"a {colour} square\n" if number % 8 < 4 else f"a photo of {colour}\n"
        (folder / f"{number}.txt").write_text(captions)
    return folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    for number in range(40):
        colour = list(COLOURS)[number % 4]
        (folder / colour).mkdir(exist_ok=True)
        square(colour, 1000 + number).save(folder / colour / f"{number}.png")
    return folder


def trained(folder: Path, text: str, data: Path, steps: int = STEPS, context: int = 8) -> Path:
    tables = TABLES | {"text": TABLES["text"] | {"context": context}}
    spec = rinsc.towers_spec(text, towers=tables, **SIZES)
    settings = {"batch_sequences": 16, "learning_rate": 4e-3, "steps": steps, "eval_every": 1000}
    rinsc.train(
        spec, data=f"pairs:{data}", output=folder, settings=settings, progress=SilentProgress()
    )
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "recursive", "image: A^2B, text: CD", data)


def embedded(run: Path, rounds: int, pictures: Any, texts: list[str]) -> tuple[Any, Any]:
    """By the module itself, one picture and one text at a time."""
    module: Any = rinsc.to_torch(rinsc.model_spec(run / "model.toml")).eval()
    rinsc.load_weights(module, run / "model.safetensors")
    context = module.spec.towers["text"].context
    tokenizer = load_caption_tokenizer(run / "tokenizer.json", context)
    rows: dict[str, list[Any]] = {"image": [], "text": []}
    with torch.no_grad():
        for picture in pictures:
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
            out = module(image=pixels.float(), rounds={"image.A": rounds})["image"][0]
            rows["image"].append((out / out.norm()).numpy())
        for text in texts:
            ids = torch.from_numpy(tokenizer.encode([text]))
            out = module(text=ids)["text"][0]
            rows["text"].append((out / out.norm()).numpy())
    return np.stack(rows["image"]), np.stack(rows["text"])


def test_accuracy_is_that_of_the_plain_loop(run: Path, classes: Path, tmp_path: Path) -> None:
    """At each number of rounds; far above chance after seconds of training."""
    report = rinsc.evaluate(
        run,
        rounds="A=1..2",
        zero_shot=classes,
        templates=["a {} square", "a photo of {}"],
        output=tmp_path / "eval.svg",
        progress=SilentProgress(),
    )
    names = sorted(COLOURS)
    files = [file for name in names for file in sorted((classes / name).iterdir())]
    labels = [names.index(file.parent.name) for file in files]
    pictures = [Image.open(file).convert("RGB") for file in files]
    for row in report.rows:
        prompts = [text for name in names for text in (f"a {name} square", f"a photo of {name}")]
        images, texts = embedded(run, row.rounds["image.A"], pictures, prompts)
        weights = texts.reshape(4, 2, -1).mean(1)
        weights /= np.linalg.norm(weights, axis=-1, keepdims=True)
        assert row.zero_shot is not None
        assert row.zero_shot.value == accuracy_score(labels, (images @ weights.T).argmax(1))
        assert row.zero_shot.chance == 0.25
    assert report.rows[1].is_trained
    assert report.rows[1].zero_shot is not None
    assert report.rows[1].zero_shot.value > 0.7
    shown = report._repr_html_()
    assert "by chance" in shown
    assert f"{100 * report.rows[1].zero_shot.value:.2f} %" in shown
    facts = json.loads((tmp_path / "eval.json").read_text())
    assert facts["zero_shot"]["classes"] == names
    assert facts["rows"][1]["zero_shot"]["value"] == report.rows[1].zero_shot.value
    assert "by chance" in (tmp_path / "eval.svg").read_text()


def test_flops_of_a_pair_are_those_of_the_cost_report(run: Path) -> None:
    report = rinsc.evaluate(run, rounds=[1, 3], progress=SilentProgress())
    for row in report.rows:
        spec = rinsc.towers_spec("image: A^2B, text: CD", towers=TABLES, **SIZES)
        cost = rinsc.cost_report(spec, rounds=row.rounds, batch=1)
        assert row.flops_per_token == cost.forward_flops


def test_recall_is_that_of_scikit_learn_and_the_page_shows_it(run: Path, tmp_path: Path) -> None:
    report = rinsc.evaluate(
        run, rounds=2, retrieval=True, output=tmp_path / "e.png", progress=SilentProgress()
    )
    (row,) = report.rows
    assert row.retrieval is not None
    facts = json.loads((run / "data.json").read_text())["corpus"]
    pairs = rinsc.data.pairs.open_pairs(facts["name"], SIDE, progress=SilentProgress())
    captions = [pairs.captions(int(index))[0] for index in pairs.held_out]
    texts = sorted(set(captions))
    labels = [texts.index(caption) for caption in captions]
    pictures = [pairs.pixels(int(index)).transpose(1, 2, 0) for index in pairs.held_out]
    images, rows = embedded(run, 2, pictures, texts)
    for cutoff, share in row.retrieval.texts.items():
        expected = top_k_accuracy_score(labels, images @ rows.T, k=cutoff, labels=range(len(texts)))
        assert share.value == pytest.approx(expected)
    page = (tmp_path / "e.html").read_text()
    assert page.count("<img ") == len(pairs.held_out)
    assert report.page == str(tmp_path / "e.html")


def test_the_command_prints_accuracy_beside_chance(run: Path, tmp_path: Path, data: Path) -> None:
    """Names from a file, of the held-out pictures; each picture counts that is called so."""
    names = tmp_path / "names.txt"
    names.write_text("".join(f"a {colour} square\n" for colour in COLOURS))
    arguments = ("--rounds", "image.A=1..3", "--zero-shot", str(names), "--template", "{}")
    done = run_cli("eval", str(run), *arguments, "--retrieval", "-o", str(tmp_path / "e.svg"))
    assert done.status == 0, done.err
    assert "by chance      25.00 %" in done.out
    assert "FLOP/pair" in done.out
    assert "2 (trained)" in done.out
    assert "names.txt on pairs:" in done.out
    assert str(tmp_path / "e.html") in done.out


def test_a_verdict_is_of_pairs(run: Path, data: Path, tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", "image: AB, text: CD", data, steps=20)
    report = rinsc.evaluate(run, baseline=plain, progress=SilentProgress())
    assert report.verdict is not None
    assert report.verdict.one_round.rounds == {"image.A": 1}
    assert "training FLOPs" in report.verdict.text
    held_out = report.rows[0].quality.extent["pairs"]
    assert report.verdict.one_round.difference.blocks == held_out


def test_the_pipeline_of_transformers_says_the_same(
    data: Path, classes: Path, tmp_path: Path
) -> None:
    """Of the exported folder: the class of every picture. The pipeline fills texts up to 64 tokens
    whatever the model has."""
    run = trained(tmp_path / "run", "image: A^2B, text: CD", data, steps=30, context=64)
    rinsc.export(run, tmp_path / "hub", form="hf", progress=SilentProgress())
    labels = sorted(COLOURS)
    files = [file for name in labels for file in sorted((classes / name).iterdir())]
    pictures = [Image.open(file).convert("RGB") for file in files]
    images, texts = embedded(run, 2, pictures, [f"a {name} square" for name in labels])
    expected = [labels[index] for index in (images @ texts.T).argmax(1)]
    ours = rinsc.evaluate(
        run, rounds=2, zero_shot=classes, templates="a {} square", progress=SilentProgress()
    ).rows[0]
    classify: Any = pipeline("zero-shot-image-classification", model=str(tmp_path / "hub"))
    results = classify(pictures, candidate_labels=labels, hypothesis_template="a {} square")
    predicted = [result[0]["label"] for result in results]
    assert predicted == expected
    right = sum(label == file.parent.name for label, file in zip(predicted, files, strict=True))
    assert ours.zero_shot is not None
    assert ours.zero_shot.correct == right


REFUSED: Mapping[str, tuple[dict[str, Any], str]] = {
    "unknown class": ({"zero_shot": "LIST"}, "no held-out picture is called 'a pink square'"),
    "no set": ({"zero_shot": "emoji-groupes"}, "is no set of classes"),
    "no classes": ({"templates": ["{}"]}, "is about classes, and none are named"),
    "bad template": ({"zero_shot": "LIST", "templates": ["a photo"]}, "must have one {}"),
    "empty": ({"zero_shot": ""}, "names no classes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, run: Path, tmp_path: Path) -> None:
    settings, message = REFUSED[case]
    names = tmp_path / "names.txt"
    names.write_text("a red square\na pink square\n")
    own: dict[str, Any] = {
        key: str(names) if value == "LIST" else value for key, value in settings.items()
    }
    with pytest.raises(RinscError) as raised:
        rinsc.evaluate(run, progress=SilentProgress(), **own)
    assert message in str(raised.value)
    assert raised.value.problems[0].hint
