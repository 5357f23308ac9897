"""A classifier of pictures as a model of transformers, with rinsc and without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)

import rinsc
from rinsc.backends.hf import image_classifier
from rinsc.errors import CheckpointError, RinscError, SpecError
from rinsc.progress import SilentProgress
from tests.cli.command_line import run_cli
from tests.hf.test_standalone import run_without_rinsc

DIMENSIONS: dict[str, Any] = {
    **{"kind": "vit", "layers": 2, "width": 16, "heads": 2, "kv_heads": 2, "mlp_width": 32},
    **{"context": 16, "vocab_size": 10},
}
AutoImageProcessor: Any = transformers.AutoImageProcessor  # which has no types
WITHOUT_RINSC = """
import sys
from importlib.abc import MetaPathFinder
class NoRinsc(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "rinsc":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, NoRinsc())
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
folder, given, found = sys.argv[1:]
images = torch.load(given)
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(list(images), return_tensors="pt")
logits = [model(**inputs, rounds=rounds).logits.detach() for rounds in (None, 1, 3)]
model.save_pretrained(found + ".saved")
again = AutoModelForImageClassification.from_pretrained(found + ".saved", trust_remote_code=True)
assert torch.equal(again(**inputs).logits, logits[0])
model.train()(**inputs, labels=torch.arange(len(images))).loss.backward()
assert not any(parameter.grad is None for parameter in model.parameters())
torch.save(logits, found)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("digits")
    settings = {"objective": "classify", "batch_sequences": 32, "learning_rate": 2e-2}
    trained = rinsc.train(
        rinsc.model_spec("A^2B", **DIMENSIONS, patch_width=4),
        data="digits",
        output=folder / "run",
        budget="150steps",
        settings=settings,
        device="cpu",
        progress=SilentProgress(),
    )
    rinsc.export(trained.path, folder / "hf", "hf", progress=SilentProgress())
    return folder


def digits() -> tuple[Any, Any]:
    """The held-out pictures (359, 8, 8) as scikit-learn has them, from 0 to 1, and labels."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return (loaded.images[4::5] / 16).astype(np.float32), loaded.target[4::5]


def logits_by_hand(run: Path, images: Any, rounds: int | None = None) -> torch.Tensor:
    """Of the run itself; each patch is cut out by its place."""
    module = rinsc.to_torch(rinsc.model_spec(run / "model.toml")).eval()
    rinsc.load_weights(module, run / "model.safetensors")
    patches = [
        [image[row : row + 2, column : column + 2].ravel() for row in (0, 2, 4, 6) for column in
         (0, 2, 4, 6)]
        for image in images
    ]  # fmt: skip
    with torch.no_grad():
        logits: torch.Tensor = module(torch.tensor(np.array(patches)), rounds=rounds)
    return logits


@pytest.mark.parametrize("name", ["hf", "run"])
def test_the_folder_gives_what_the_run_gives(run: Path, name: str, tmp_path: Path) -> None:
    images, labels = digits()
    model: Any = AutoModelForImageClassification.from_pretrained(run / name)
    processor: Any = AutoImageProcessor.from_pretrained(run / name)
    inputs = processor(list(images), return_tensors="pt")
    for rounds in (None, 1, 3):
        with torch.no_grad():
            logits = model(**inputs, rounds=rounds).logits
        torch.testing.assert_close(logits, logits_by_hand(run / "run", images, rounds))
    right = (model(**inputs).logits.argmax(-1).numpy() == labels).mean()
    assert right == pytest.approx(json.loads((run / "run/result.json").read_text())["accuracy"])
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again: Any = AutoModelForImageClassification.from_pretrained(tmp_path)
    other: Any = AutoImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(
        again(**other(list(images), return_tensors="pt")).logits, logits_of(model, inputs)
    )


def logits_of(model: Any, inputs: Any) -> torch.Tensor:
    logits: torch.Tensor = model(**inputs).logits
    return logits


def test_where_there_is_no_rinsc(run: Path, tmp_path: Path) -> None:
    images, _ = digits()
    torch.save(torch.from_numpy(images[:5]), tmp_path / "given.pt")
    script = tmp_path / "load.py"
    script.write_text(WITHOUT_RINSC)
    given, found = str(tmp_path / "given.pt"), str(tmp_path / "found.pt")
    run_without_rinsc(tmp_path, script, str(run / "hf"), given, found)
    for logits, rounds in zip(torch.load(found), (None, 1, 3), strict=True):
        torch.testing.assert_close(logits, logits_by_hand(run / "run", images[:5], rounds))


def test_the_pipeline_names_the_class(run: Path) -> None:
    from PIL import Image

    images, _ = digits()
    eighths = np.round(images[:20] * 255).astype(np.uint8)  # a picture has whole numbers
    expected = logits_by_hand(run / "run", eighths.astype(np.float32) / 255).softmax(-1)
    classify: Any = pipeline("image-classification", str(run / "hf"))  # asks to run no code
    for row, told in enumerate(classify([Image.fromarray(image) for image in eighths])):
        assert told[0]["label"] == str(int(expected[row].argmax()))
        assert told[0]["score"] == pytest.approx(float(expected[row].max()), abs=1e-5)


def test_the_trainer_trains_it(run: Path, tmp_path: Path) -> None:
    images, labels = digits()
    rows: list[dict[str, Any]] = [
        {"pixel_values": torch.from_numpy(image)[None], "labels": int(label)}
        for image, label in zip(images[:32], labels[:32], strict=True)
    ]
    model: Any = AutoModelForImageClassification.from_pretrained(run / "hf")
    pixels = torch.stack([row["pixel_values"] for row in rows])
    logits = logits_by_hand(run / "run", images[:32])
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[:32]))
    assert model(pixels, torch.tensor(labels[:32])).loss.item() == pytest.approx(loss.item())
    arguments = TrainingArguments(
        *(str(tmp_path),),
        max_steps=8,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    with torch.no_grad():
        assert model.eval()(pixels, torch.tensor(labels[:32])).loss < 0.95 * loss
    other: Any = AutoModelForImageClassification.from_pretrained(
        run / "hf", num_labels=3, ignore_mismatched_sizes=True
    )
    head = other.model.head.weight
    assert head.shape == (3, 16)
    assert 0.01 < head.std() < 0.03  # as the kind starts it
    assert torch.equal(
        other.model.A[0].query.weight,
        AutoModelForImageClassification.from_pretrained(run / "hf").model.A[0].query.weight,
    )


def test_pictures_of_all_sorts(run: Path) -> None:
    from PIL import Image

    processor: Any = AutoImageProcessor.from_pretrained(run / "hf")
    gray = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
    expected = torch.from_numpy(gray / 255).float()[None, None]
    color = np.repeat(gray[..., None], 3, axis=2)
    several = [
        gray, gray[None], gray[..., None], color, color.transpose(2, 0, 1), torch.tensor(gray),
        gray / 255, Image.fromarray(gray), Image.fromarray(color), gray[None, ..., None], [gray],
    ]  # fmt: skip
    for one in several:
        torch.testing.assert_close(processor(one, return_tensors="pt").pixel_values, expected)
    assert processor([gray, color], return_tensors="np").pixel_values.shape == (2, 1, 8, 8)
    larger = np.repeat(np.repeat(gray, 2, axis=0), 2, axis=1)
    for one in (larger, Image.fromarray(larger)):
        found = processor(one, return_tensors="pt").pixel_values
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 0.1


def test_the_commands_take_the_folder(run: Path, tmp_path: Path) -> None:
    own = json.loads((run / "run/result.json").read_text())["accuracy"]
    shown = run_cli("eval", str(run / "hf"), "--data", "digits", "--device", "cpu")
    assert shown.status == 0, shown.err
    assert f"{100 * own:.2f} %" in shown.out
    for form, name in (("onnx", "model.onnx"), ("hf", "hf"), ("torch", "model.py")):
        done = run_cli("compile", str(run / "hf"), "--to", form, "-o", str(tmp_path / name))
        assert done.status == 0, done.err
    weights = [(path / "model.safetensors").read_bytes() for path in (run / "hf", tmp_path / "hf")]
    assert weights[0] == weights[1]
    config = tmp_path / "hf/config.json"
    config.write_text(config.read_text().replace('"num_channels": 1', '"num_channels": 4'))
    with pytest.raises(CheckpointError, match="damaged-config"):
        AutoModelForImageClassification.from_pretrained(tmp_path / "hf")
    assert run_cli("eval", str(tmp_path / "hf"), "--data", "digits").status != 0


def test_pictures_of_colours_that_are_no_squares(tmp_path: Path) -> None:
    spec = rinsc.model_spec("A^2B", **DIMENSIONS, patch_width=12)
    model = image_classifier(spec, (4, 6, 3), labels=list("abcdefghij"))
    pixels = torch.rand(2, 3, 4, 6)
    patches = [
        [picture[:, row : row + 2, column : column + 2].permute(1, 2, 0).flatten()
         for row in (0, 2) for column in (0, 2, 4)]
        for picture in pixels
    ]  # fmt: skip
    expected = model.model(torch.stack([torch.stack(rows) for rows in patches]))
    torch.testing.assert_close(model(pixels).logits, expected)
    assert model.config.id2label[3] == "d"
    assert image_classifier(spec).config.image_size == [8, 8]  # 16 patches of 2 x 2 x 3
    with pytest.raises(RinscError, match="bad-picture"):
        model(torch.rand(2, 3, 6, 4))


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 7, 1), (32, 32, 1), (0, 8, 1)])
def test_pictures_that_do_not_fit(shape: tuple[int, int, int]) -> None:
    with pytest.raises(SpecError, match="patch-mismatch"):
        image_classifier(rinsc.model_spec("A^2B", **DIMENSIONS, patch_width=4), shape)


def test_what_takes_other_inputs_is_told(run: Path) -> None:
    with pytest.raises(SpecError, match="no-classifier"):
        image_classifier(rinsc.model_spec("A^2B", preset="tiny"))
    with pytest.raises(SpecError, match="not-a-language-model"):
        AutoModelForCausalLM.from_pretrained(run / "hf")
    odd = rinsc.model_spec("A^2B", **{**DIMENSIONS, "context": 12}, patch_width=4)
    with pytest.raises(SpecError, match="no square"):
        image_classifier(odd)
