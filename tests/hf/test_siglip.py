"""Two towers as folders for transformers: a `SiglipModel`, or the code of the model itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, SiglipModel, pipeline

import rinsc
from rinsc import HfForm, export, import_model
from rinsc.errors import RinscError
from rinsc.verbs.models import find_model
from tests.hf.test_standalone import run_without_rinsc
from tests.paired import (
    CAPTIONS,
    CONTEXT,
    inputs_of,
    paired_module,
    paired_run,
    save_pictures,
)
from tests.sources.checkpoints import pairs_of, siglip

DIAL = HfForm(dial=True)


def logits(model: Any, inputs: dict[str, torch.Tensor], **more: Any) -> torch.Tensor:
    with torch.no_grad():
        found = model(pixel_values=inputs["image"], input_ids=inputs["text"], **more)
    torch.testing.assert_close(found.logits_per_image, found.logits_per_text.t())
    per_text: torch.Tensor = found.logits_per_text
    return per_text


def processor_of(folder: Path) -> Any:
    auto: Any = AutoProcessor
    return auto.from_pretrained(folder, trust_remote_code=True)


def own_logits(module: Any, inputs: dict[str, torch.Tensor], rounds: Any = None) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module(**inputs, rounds=rounds)["logits"]
    return found


@pytest.mark.parametrize("rounds", [None, 1, 3, {"image.A": 2}])
@pytest.mark.parametrize(
    "signature",
    [
        "image: A, text: B",
        "image: A^2B, text: CD^2",
        "image: (AB)^2, text: BA",
        "image: A[1]B[1], text: A[1]C[1]",
    ],
)
def test_plain_towers_are_a_siglip_model_as_deep_as_what_runs(
    tmp_path: Path, signature: str, rounds: Any
) -> None:
    module = paired_module(signature)
    if rounds is not None and "image.A" not in dict(module.graph.dials()):
        rounds = None
    export(module, tmp_path / "out", HfForm(rounds))
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == ["SiglipModel"]
    assert "auto_map" not in config
    model: Any = AutoModel.from_pretrained(tmp_path / "out")
    assert type(model) is SiglipModel
    inputs = inputs_of(module)
    expected = own_logits(module, inputs, rounds)
    torch.testing.assert_close(logits(model, inputs), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


@pytest.mark.parametrize(
    "signature",
    [
        "image: A^2B, text: CD^2",
        "image: A^2{inject=add}, text: A",
        "image: A^3{adapter=lora(2)}B, text: C",
        "image: A^2B, text: A^3C",
    ],
)
def test_the_code_of_a_model_has_every_round(tmp_path: Path, signature: str) -> None:
    module = paired_module(signature)
    done = export(module, tmp_path / "out", DIAL)
    assert done.files.keys() == {
        tmp_path / "out" / name
        for name in (
            *("model.safetensors", "config.json", "modeling_rinsc.py", "checksums.json"),
            "preprocessor_config.json",
        )
    }
    model: Any = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in module.parameters())
    inputs = inputs_of(module)
    for rounds in (None, 1, 2):
        expected = own_logits(module, inputs, rounds)
        assert torch.equal(logits(model, inputs, rounds=rounds), expected)
    with torch.no_grad():
        outputs = module(**inputs)
        image = model.get_image_features(inputs["image"]).pooler_output
        text = model.get_text_features(inputs["text"]).pooler_output
    assert torch.equal(image, outputs["image"])
    assert torch.equal(text, outputs["text"])


@pytest.mark.parametrize("rounds", [{"A": 3}, "A=3", {"image.A": 1, "C": 2}, 2])
def test_rounds_are_said_as_everywhere(tmp_path: Path, rounds: Any) -> None:
    module = paired_module("image: A^2B, text: C^3")
    export(module, tmp_path / "out", HfForm(rounds, dial=True))
    model: Any = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)
    inputs = inputs_of(module)
    assert torch.equal(logits(model, inputs), own_logits(module, inputs, rounds))
    for asked in ({"A": 1}, {"image.A": 4, "C": 1}, {"text.C": 2}):
        assert torch.equal(logits(model, inputs, rounds=asked), own_logits(module, inputs, asked))
    for unknown in ({"Z": 1}, {"text.A": 1}):
        with pytest.raises(ValueError, match="do not fit"):
            logits(model, inputs, rounds=unknown)


def test_what_no_siglip_model_computes_becomes_code(tmp_path: Path) -> None:
    export(paired_module("image: A^2{inject=add}B, text: C"), tmp_path / "out", "hf")
    assert (tmp_path / "out/modeling_rinsc.py").is_file()
    config: Any = AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert config.model_type == "rinsc_siglip"


def test_such_a_folder_is_a_model_of_rinsc(tmp_path: Path) -> None:
    module = paired_module("image: A^2B, text: A^3C")
    export(module, tmp_path / "out", HfForm(3, dial=True))
    found = find_model(tmp_path / "out")
    again: Any = found.compiled()
    state = module.state_dict()
    assert all(torch.equal(again.state_dict()[name], state[name]) for name in state)
    assert found.spec == module.spec
    export(tmp_path / "out", tmp_path / "second", DIAL)
    config = json.loads((tmp_path / "second/config.json").read_text())
    assert config["rounds"] == {"image.A": 3, "text.A": 3}


def test_transformers_saves_and_loads_it_again(tmp_path: Path) -> None:
    module = paired_module("image: A^2B, text: A^3C")
    export(module, tmp_path / "out", DIAL)
    model: Any = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)
    model.save_pretrained(tmp_path / "again")
    again, info = AutoModel.from_pretrained(
        tmp_path / "again", trust_remote_code=True, output_loading_info=True
    )
    assert not any(info.values())
    inputs = inputs_of(module)
    assert torch.equal(logits(again, inputs, rounds=2), own_logits(module, inputs, 2))


def test_a_loss_and_its_gradients(tmp_path: Path) -> None:
    theirs = siglip()
    theirs.save_pretrained(tmp_path / "siglip")
    import_model(tmp_path / "siglip", tmp_path / "out")
    ours: Any = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)
    inputs = pairs_of(theirs)
    inputs["input_ids"] = inputs["input_ids"][:3]
    losses = [model(**inputs, return_loss=True).loss for model in (theirs, ours)]
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)
    for loss in losses:
        loss.backward()
    for one, other in (
        (theirs.logit_scale, ours.model.logit_scale),
        (theirs.vision_model.head.probe, ours.model.image.probe.weight),
        (theirs.text_model.embeddings.token_embedding.weight, ours.model.text.embedding.weight),
    ):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-4)


WITHOUT_RINSC = """
import sys, torch
sys.path.insert(0, "TESTS")
from hf.without_rinsc import NoRinsc
sys.meta_path.insert(0, NoRinsc())
from transformers import AutoModel, AutoProcessor
folder, given, found = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
images, texts = torch.load(given, weights_only=False)
inputs = processor(text=texts, images=images, padding="max_length", return_tensors="pt")
with torch.no_grad():
    outputs = [model(**inputs, rounds=rounds).logits_per_text for rounds in (None, 1, 3)]
torch.save((dict(inputs), outputs), found)
"""


def test_where_there_is_no_rinsc(tmp_path: Path) -> None:
    from PIL import Image

    module = paired_module("image: A^2B, text: A^3C")
    export(paired_run(tmp_path / "run", module), tmp_path / "out", DIAL)
    images = [Image.open(path).copy() for path in save_pictures(tmp_path)]
    torch.save((images, CAPTIONS), tmp_path / "given.pt")
    script = tmp_path / "load.py"
    script.write_text(WITHOUT_RINSC.replace("TESTS", str(Path(__file__).parents[1])))
    names = [str(tmp_path / name) for name in ("out", "given.pt", "found.pt")]
    run_without_rinsc(tmp_path, script, *names)
    inputs, outputs = torch.load(tmp_path / "found.pt", weights_only=False)
    assert inputs["input_ids"].shape == (len(CAPTIONS), CONTEXT)
    named = {"image": inputs["pixel_values"], "text": inputs["input_ids"]}
    for found, rounds in zip(outputs, (None, 1, 3), strict=True):
        assert torch.equal(found, own_logits(module, named, rounds))


def test_a_processor_makes_what_training_had(tmp_path: Path) -> None:
    from PIL import Image

    from rinsc.data.pairs.captions import load_caption_tokenizer

    run = paired_run(tmp_path / "run", paired_module("image: A, text: B"))
    export(run, tmp_path / "out", "hf")
    processor = processor_of(tmp_path / "out")
    (picture,) = save_pictures(tmp_path, 1)
    inputs = processor(
        text=CAPTIONS,
        images=Image.open(picture),
        padding="max_length",
        truncation=True,
        return_tensors="pt",
    )
    assert "attention_mask" not in inputs  # SigLIP has no mask
    expected = load_caption_tokenizer(run, CONTEXT).encode(CAPTIONS)
    assert inputs["input_ids"].tolist() == expected.tolist()
    assert inputs["input_ids"][1, -1] == 1  # padding
    pixels = torch.from_numpy(np.array(Image.open(picture))) / 255
    torch.testing.assert_close(
        inputs["pixel_values"][0], (pixels.permute(2, 0, 1) - 0.5) / 0.5, atol=1e-6, rtol=0
    )


def test_the_pipeline_of_transformers_ranks_as_the_model_does(tmp_path: Path) -> None:
    from PIL import Image

    module = paired_module("image: A^2B, text: C")
    export(paired_run(tmp_path / "run", module), tmp_path / "out", DIAL)
    task: Any = "zero-shot-image-classification"
    classify = pipeline(task, model=str(tmp_path / "out"), trust_remote_code=True)
    (picture,) = save_pictures(tmp_path, 1)
    image = Image.open(picture)
    found = classify(image, candidate_labels=CAPTIONS, hypothesis_template="{}")
    processor = processor_of(tmp_path / "out")
    inputs = processor(
        text=CAPTIONS, images=image, padding="max_length", truncation=True, return_tensors="pt"
    )
    own = own_logits(module, {"image": inputs["pixel_values"], "text": inputs["input_ids"]})[:, 0]
    ranked = [CAPTIONS[index] for index in own.argsort(descending=True)]
    assert [row["label"] for row in found] == ranked
    assert found[0]["score"] == pytest.approx(float(own.sigmoid().max()), rel=1e-4)


def test_texts_are_filled_up_to_the_context(tmp_path: Path) -> None:
    module = paired_module("image: A, text: B")
    export(module, tmp_path / "out", DIAL)
    model: Any = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)
    inputs = inputs_of(module)
    inputs["text"][:, 4:] = 1
    short, long = inputs["text"][:, :4], torch.nn.functional.pad(inputs["text"], (0, 9), value=1)
    expected = own_logits(module, inputs)
    for ids in (short, long):
        assert torch.equal(logits(model, inputs | {"text": ids}), expected)
    long[0, 20] = 5
    with pytest.raises(ValueError, match="context"):
        model.get_text_features(long)


def test_a_folder_of_another_form_is_not_written_over(tmp_path: Path) -> None:
    module = paired_module("image: A^2B, text: C")
    export(module, tmp_path / "out", "hf")
    export(module, tmp_path / "out", "hf")
    for form in (DIAL, HfForm(3)):
        with pytest.raises(RinscError) as caught:
            export(module, tmp_path / "out", form)
        assert caught.value.code == "other-form"
    export(module, tmp_path / "out", DIAL, overwrite=True)
    assert (tmp_path / "out/modeling_rinsc.py").is_file()
    (tmp_path / "out/thesis.txt").write_text("mine")
    with pytest.raises(RinscError, match="something else"):
        export(module, tmp_path / "out", DIAL)
    assert (tmp_path / "out/thesis.txt").read_text() == "mine"
    run = paired_run(tmp_path / "run", module)
    with pytest.raises(RinscError, match="training run"):
        export(module, run, "hf")


def test_towers_that_nothing_compares_have_no_folder(tmp_path: Path) -> None:
    spec = rinsc.towers_spec("image: A, text: B", preset="tiny")
    with pytest.raises(RinscError) as caught:
        export(spec, tmp_path / "out", "hf")
    assert caught.value.code == "several-towers"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:-4] + b"oops"
        ),
        lambda folder: (folder / "config.json").write_text(
            (folder / "config.json").read_text().replace('"image: A^2B', '"image: A^3B')
        ),
    ],
    ids=["weights", "spec"],
)
def test_damage_is_one_error_in_both_libraries(tmp_path: Path, damage: Any) -> None:
    module = paired_module("image: A^2B, text: C")
    export(module, tmp_path / "out", DIAL)
    damage(tmp_path / "out")
    with pytest.raises(RinscError, match=r"damaged|as they were written"):
        find_model(tmp_path / "out").compiled()
    with pytest.raises(ValueError, match=r"damaged|as it was written"):
        AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)


def test_code_that_a_run_names_does_not_travel(tmp_path: Path) -> None:
    run = paired_run(tmp_path / "run", paired_module("image: A, text: B"))
    path = run / "tokenizer_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}))
    for form in ("hf", "onnx", DIAL):
        export(run, tmp_path / str(form), form)
        assert json.loads((tmp_path / str(form) / path.name).read_text()) == values
    (run / "tokenizer.json").unlink()
    (run / "tokenizer.json").mkdir()
    with pytest.raises(RinscError, match="cannot be read"):
        export(run, tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()
