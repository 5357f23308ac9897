"""`rinsc eval` of two towers that were exported or imported, against a loop over the module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rinsc import HfForm, evaluate, export, import_model
from rinsc.data.pairs import open_pairs
from rinsc.data.pairs.captions import load_caption_tokenizer
from rinsc.errors import RinscError
from tests.cli.command_line import run_cli
from tests.paired import CONTEXT, paired_module, paired_run, save_pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with captions, and a model as a run, with its code, and as a SigLIP."""
    path = tmp_path_factory.mktemp("saved")
    (path / "pictures").mkdir()
    pictures = save_pictures(path / "pictures", 60)
    words = ("red", "green", "blue", "small", "yellow")
    rows = [
        {"image": picture.name, "caption": f"a {words[n % 5]} {words[n // 5 % 5]} thing {n}"}
        for n, picture in enumerate(pictures)
    ]
    text = "\n".join(map(json.dumps, rows))
    (path / "pictures/data.jsonl").write_text(text)
    module = paired_module("image: A^2B, text: C")
    run = paired_run(path / "run", module)
    export(run, path / "dial", HfForm(dial=True))
    export(run, path / "siglip", HfForm(2))
    import_model(path / "siglip", path / "imported")
    return path


def recalls_by_hand(folder: Path, rounds: int) -> tuple[float, float]:
    """Recall@1 from texts and from pictures, of held-out pairs."""
    module = paired_module("image: A^2B, text: C")
    pairs = open_pairs(f"pairs:{folder / 'pictures/data.jsonl'}", 12)
    held_out = pairs.held_out
    tokenizer = load_caption_tokenizer(folder / "run", CONTEXT)
    ids = torch.from_numpy(tokenizer.encode([pairs.captions(i)[0] for i in held_out]))
    pixels = torch.from_numpy(np.asarray(pairs.pixels(held_out), np.float32)) / 127.5 - 1
    with torch.no_grad():
        logits = module(image=pixels, text=ids, rounds=rounds)["logits"]
    own = torch.arange(len(held_out))
    assert len(own) > 4
    text_found = (logits.argmax(0) == own).float().mean()
    return float(text_found), float((logits.argmax(1) == own).float().mean())


@pytest.mark.parametrize("name", ["dial", "imported"])
def test_a_saved_model_is_measured_as_its_module_is(folder: Path, name: str) -> None:
    data = f"pairs:{folder / 'pictures/data.jsonl'}"
    rounds: Any = [1, 2] if name == "dial" else None
    report = evaluate(folder / name, data=data, rounds=rounds)
    assert "saved model" in report.state
    for row, count in zip(report.rows, (1, 2) if rounds else (2,), strict=True):
        facts = row.facts()
        found = facts["image_to_text"], facts["text_to_image"]
        assert found == pytest.approx(recalls_by_hand(folder, count))


def test_what_a_saved_model_cannot_be_asked(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RinscError) as caught:
        evaluate(folder / "dial", retrieval=True)
    assert caught.value.code == "no-history"
    done = run_cli("generate", str(folder / "dial"), "--prompt", "a")
    assert done.status == 1
    assert "several towers" in done.err
    export(paired_module("image: A, text: B"), tmp_path / "bare", HfForm(dial=True))
    data = f"pairs:{folder / 'pictures/data.jsonl'}"
    with pytest.raises(RinscError, match="tokenizer"):
        evaluate(tmp_path / "bare", data=data)
