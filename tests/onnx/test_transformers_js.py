"""The three ONNX files of two towers in transformers.js, under Node, against PyTorch.

``make setup`` installs the package where npm is; elsewhere these tests are skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rinsc import OnnxForm, export
from rinsc.backends.onnx.write import stream
from rinsc.backends.onnx.write.file import GRAPH_ALLOWANCE_BYTES
from rinsc.data.pairs.captions import load_caption_tokenizer
from tests.paired import CAPTIONS, CONTEXT, paired_module, paired_run, save_pictures

SCRIPT = Path(__file__).with_name("transformers_js.mjs")
PACKAGE = Path(sys.prefix) / "node/node_modules/@huggingface/transformers"
NODE = shutil.which("node")

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="there is no node"),
    pytest.mark.skipif(
        not (PACKAGE / "dist/transformers.node.mjs").is_file(),
        reason=f"make setup installs @huggingface/transformers in {PACKAGE} where npm is",
    ),
]


def run_node(folder: Path, pictures: list[Path]) -> dict[str, Any]:
    """The config of the folder says which files are read."""
    job = {"texts": CAPTIONS, "images": list(map(str, pictures))}
    done = subprocess.run(
        [str(NODE), str(SCRIPT), str(PACKAGE), str(folder), json.dumps(job)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def array(tensor: dict[str, Any]) -> torch.Tensor:
    return torch.tensor(tensor["data"], dtype=torch.float64).reshape(tensor["dims"])


@pytest.mark.parametrize(
    ("form", "dtype", "tolerance"),
    [
        (OnnxForm(), "fp32", 1e-4),
        (OnnxForm("dynamic"), "fp32", 1e-4),
        (OnnxForm("dynamic", precision="int8"), "int8", 0.1),
        (OnnxForm(precision="fp16"), "fp16", 0.02),
        (OnnxForm("dynamic", precision="int4"), "q4", 0.5),
    ],
)
def test_transformers_js_gives_what_pytorch_gives(
    tmp_path: Path, form: OnnxForm, dtype: str, tolerance: float
) -> None:
    module = paired_module("image: A^2B, text: C^3")
    run = paired_run(tmp_path / "run", module)
    export(run, tmp_path / "siglip", form)
    pictures = save_pictures(tmp_path)
    names = {path.name for path in tmp_path.glob("siglip/onnx/model*")}
    assert names == {"model.onnx" if dtype == "fp32" else f"model_{dtype}.onnx"}
    found = run_node(tmp_path / "siglip", pictures)
    ids = load_caption_tokenizer(run, CONTEXT).encode(CAPTIONS)
    assert array(found["input_ids"]).tolist() == ids.tolist()
    pixels = array(found["pixel_values"]).float()
    with torch.no_grad():
        outputs = module(image=pixels, text=torch.from_numpy(ids))
    pooled = {"vision": outputs["image"], "text": outputs["text"]}
    for key, value in pooled.items():
        error = array(found[key]["pooler_output"]) - value
        assert error.abs().max() <= tolerance * value.abs().max()
    both = {name: array(value) for name, value in found["both"].items()}
    logits = outputs["logits"].double()
    close: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4}
    if dtype != "fp32":
        close = {"atol": 10 * tolerance, "rtol": tolerance}
    torch.testing.assert_close(both["logits_per_text"], logits, **close)
    torch.testing.assert_close(both["logits_per_image"], logits.t(), **close)
    for name, value in (("image_embeds", outputs["image"]), ("text_embeds", outputs["text"])):
        normed = torch.nn.functional.normalize(value.double(), dim=-1)
        torch.testing.assert_close(both[name], normed, atol=tolerance, rtol=tolerance)
    if dtype == "fp32":
        ranked = [CAPTIONS[index] for index in np.argsort(-logits[:, 0].numpy())]
        assert [row["label"] for row in found["ranking"]] == ranked


def test_weights_in_a_second_file_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = paired_module("image: A^2B, text: C")
    run, pictures = paired_run(tmp_path / "run", module), save_pictures(tmp_path, 1)
    export(run, tmp_path / "whole")
    monkeypatch.setattr(stream, "PROTOBUF_LIMIT_BYTES", GRAPH_ALLOWANCE_BYTES + 30_000)
    export(run, tmp_path / "apart")
    assert (tmp_path / "apart/onnx/model.onnx_data").is_file()
    found = [run_node(tmp_path / name, pictures) for name in ("whole", "apart")]
    assert found[0] == found[1]
