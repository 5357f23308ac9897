"""Drawn towers of SigLIP in ONNX Runtime and in transformers, against the module."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from transformers import AutoModel

import rinsc
from rinsc import HfForm, OnnxForm, export
from rinsc.progress import SilentProgress
from tests.strategies import layers_that_split, signatures


@st.composite
def paired_modules(draw: st.DrawFn) -> Any:
    """A module with random weights: any repeats and options in each tower."""
    texts = {
        "image": draw(signatures(max_visits=6, letters=("A", "B"), options=True, degrees=False)),
        "text": draw(signatures(max_visits=6, letters=("C", "D"), options=True, degrees=False)),
    }
    width = draw(st.sampled_from((4, 8)))
    towers: dict[str, dict[str, Any]] = {
        name: {"width": width, "mlp_width": 5, "layers": layers_that_split(text)}
        | {"heads": draw(st.sampled_from((1, 2)))}
        for name, text in texts.items()
    }
    side, patch = draw(st.sampled_from(((6, 3), (5, 2), (4, 4))))
    picture = {"image_size": side, "patch_size": patch, "channels": draw(st.sampled_from((1, 3)))}
    towers["image"] |= {"kind": "siglip_image", "settings": {"siglip_image": picture}}
    towers["text"] |= {"kind": "siglip_text", "vocab_size": 11, "context": draw(st.integers(1, 5))}
    spec = rinsc.towers_spec(f"image: {texts['image']}, text: {texts['text']}", towers=towers)
    torch.manual_seed(draw(st.integers(0, 9)))
    module: Any = rinsc.to_torch(spec).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.startswith("logit"):
                parameter.copy_(0.5 * torch.randn(parameter.shape))
    return module


def inputs_of(module: Any) -> dict[str, torch.Tensor]:
    image, text = module.spec.towers["image"], module.spec.towers["text"]
    own = image.settings_of("siglip_image")
    pixels = torch.randn(2, own.channels, own.image_size, own.image_size)
    return {"image": pixels, "text": torch.randint(11, (3, text.context))}


@settings(max_examples=8, phases=[Phase.generate])
@given(module=paired_modules())
def test_every_number_of_rounds_is_that_of_the_module(module: Any) -> None:
    inputs = inputs_of(module)
    feed = {"pixel_values": inputs["image"].numpy(), "input_ids": inputs["text"].numpy()}
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    dials = dict(module.graph.dials())
    with tempfile.TemporaryDirectory() as name:
        path, quiet = Path(name), SilentProgress()
        export(module, path / "onnx", OnnxForm("dynamic"), progress=quiet)
        export(module, path / "dial", HfForm(dial=True), progress=quiet)
        export(module, path / "hf", "hf", progress=quiet)
        session = onnxruntime.InferenceSession(str(path / "onnx/onnx/model.onnx"), options)
        own: Any = AutoModel.from_pretrained(path / "dial", trust_remote_code=True)
        either: Any = AutoModel.from_pretrained(path / "hf", trust_remote_code=True)
    inner = {value.name for value in session.get_overridable_initializers()}
    names = {f"{dial.replace('.', '_rounds_', 1)}": dial for dial in dials}
    assert inner == names.keys()
    named = {"pixel_values": inputs["image"], "input_ids": inputs["text"]}
    for rounds in (None, *((1, 2, 3) if dials else ())):
        more = {} if rounds is None else dict.fromkeys(inner, np.array(rounds, np.int64))
        (logits,) = session.run(["logits_per_text"], feed | more)
        with torch.no_grad():
            expected = module(**inputs, rounds=rounds)["logits"]
            close: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4}
            torch.testing.assert_close(torch.from_numpy(logits), expected, **close)
            torch.testing.assert_close(own(**named, rounds=rounds).logits_per_text, expected)
            if rounds is None:
                found = either(**named).logits_per_text
                torch.testing.assert_close(found, expected, **close)
