"""`rinsc.export`: the files of `rinsc compile`, from Python, and what it gives back."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rinsc
from rinsc import HfForm, OnnxForm, TorchForm
from rinsc.backends.hf import RinscForCausalLM, causal_lm
from rinsc.progress import SilentProgress
from tests.cli.command_line import run_cli
from tests.cli.conftest import SIGNATURE, corpus, run

__all__ = ["corpus", "run"]  # fixtures

SIZES: dict[str, Any] = {
    **{"layers": 2, "width": 16, "heads": 2, "kv_heads": 1},
    **{"mlp_width": 24, "vocab_size": 270, "context": 16},
}


@pytest.fixture
def spec() -> rinsc.ModelSpec:
    return rinsc.model_spec(SIGNATURE, **SIZES)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Cells(HTMLParser):
    """The cells of tables; raises for tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] in ("td", "th"):
            self.cells.append(data)


@pytest.mark.parametrize(
    ("form", "words", "more"),
    [
        (OnnxForm("dynamic", cache=True), "onnx --rounds dynamic --cache", {}),
        (OnnxForm(precision="int8 fp16:A"), "onnx --precision int8 --keep fp16:A", {}),
        (OnnxForm(2, gated=True), "onnx --gated --rounds 2 --genai", {"genai": True}),
        (
            OnnxForm(precision="int4"),
            "onnx --precision int4 --no-calibrate --held-out --stop-id 7",
            {"calibrate": False, "held_out": True, "stop_ids": [7]},
        ),
        (HfForm(3), "hf --rounds 3", {}),
        ("hf", "hf", {}),
    ],
)
def test_a_run_becomes_what_the_command_writes(
    run: Path, tmp_path: Path, form: Any, words: str, more: dict[str, Any]
) -> None:
    to, *options = words.split()
    command = run_cli("compile", str(run), "--to", to, "-o", str(tmp_path / "one"), *options)
    assert command.status == 0, command.err
    done = rinsc.export(run, tmp_path / "two", form, progress=SilentProgress(), **more)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert {path.name: size for path, size in done.files.items()} == {
        name: len(content) for name, content in files(tmp_path / "two").items()
    }
    assert done.signature == SIGNATURE
    assert str(tmp_path / "two") in repr(done)


def test_the_quality_of_a_run_is_in_the_result(run: Path, tmp_path: Path) -> None:
    done = rinsc.export(str(run), tmp_path / "m", OnnxForm("dynamic", precision="int4"))
    assert done.quality is not None
    first, second = done.quality.quality.rows
    assert (first.rounds, second.rounds) == ({"A": 1}, {"A": 2})
    assert 0 < second.divergence_nats < 1
    cells = Cells(done._repr_html_()).cells
    assert f"{second.bits_per_byte:.4f}" in cells
    assert "2 (trained)" in cells
    without = rinsc.export(str(run), tmp_path / "n", OnnxForm("dynamic"), report=False)
    assert without.quality is None


def test_a_module_keeps_its_weights(spec: rinsc.ModelSpec, tmp_path: Path) -> None:
    torch.manual_seed(5)
    module, lm = rinsc.to_torch(spec).eval(), causal_lm(spec)
    ids = np.arange(12).reshape(2, 6)
    for number, model in enumerate((module, lm)):
        with torch.no_grad():
            given: Any = model(torch.from_numpy(ids))
        expected = (given if number == 0 else given.logits).numpy()
        silent = SilentProgress()
        rinsc.export(model, tmp_path / f"{number}.onnx", progress=silent)
        found = rinsc.Session(tmp_path / f"{number}.onnx").logits(ids)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        rinsc.export(model, tmp_path / f"hf{number}", "hf", progress=silent)
        again: Any = RinscForCausalLM.from_pretrained(tmp_path / f"hf{number}")
        with torch.no_grad():
            assert np.array_equal(again(torch.from_numpy(ids)).logits.numpy(), expected)
        assert silent.notes == []


def test_a_folder_that_transformers_saved(spec: rinsc.ModelSpec, tmp_path: Path) -> None:
    lm: Any = causal_lm(spec, rounds=3)
    lm.save_pretrained(tmp_path / "saved")
    done = rinsc.export(tmp_path / "saved", tmp_path / "m", progress=SilentProgress())
    assert done.rounds == {"A": 3}
    ids = np.arange(6)[None]
    expected = lm.eval()(torch.from_numpy(ids)).logits.detach().numpy()
    np.testing.assert_allclose(rinsc.Session(tmp_path / "m").logits(ids), expected, atol=1e-5)


def test_source_of_a_signature(tmp_path: Path) -> None:
    done = rinsc.export("A^3", tmp_path / "m.py", TorchForm(2), progress=SilentProgress())
    assert (tmp_path / "m.py").read_text().count("= self.A(") == 2
    assert done.size == (tmp_path / "m.py").stat().st_size


def test_fresh_weights_are_noted(
    spec: rinsc.ModelSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rinsc.export(spec, tmp_path / "m.onnx", seed=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"wrote {tmp_path / 'm.onnx'} (")
    assert lines[1].startswith("note: no weights were given")


@pytest.mark.parametrize(
    ("model", "form", "more", "message"),
    [
        ("spec", "tf", {}, "'tf' is no form of a model"),
        ("spec", "torch", {"genai": True, "held_out": True}, "takes no genai, held_out"),
        ("spec", "torch", {"weights": "x.safetensors"}, "leave weights out"),
        ("spec", "torch", {"overwrite": True}, "overwrite is about a model folder"),
        ("spec", OnnxForm(precision="int8"), {"calibrate": True}, "calibrate means nothing"),
        ("spec", OnnxForm(cache=True), {"genai": True}, "genai needs a tokenizer"),
        ("spec", "onnx", {"held_out": True}, "held_out puts text of a run"),
        ("spec", OnnxForm({"B": 2}), {}, "unknown-repeat"),
        (3, "onnx", {}, "this is no model: int"),
    ],
)
def test_mistakes_are_spelled_as_in_python(
    spec: rinsc.ModelSpec, tmp_path: Path, model: Any, form: Any, more: Any, message: str
) -> None:
    with pytest.raises(rinsc.RinscError) as caught:
        rinsc.export(spec if model == "spec" else model, tmp_path / "m", form, **more)
    assert message in str(caught.value)
    assert "--" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_onnx_form_and_keywords(spec: rinsc.ModelSpec) -> None:
    module = rinsc.to_torch(spec)
    form = OnnxForm("dynamic", cache=True, precision="int8", exit=None)
    by_form, by_keyword = (
        rinsc.to_onnx(module, form),
        rinsc.to_onnx(module, "dynamic", cache=True, precision="int8"),
    )
    assert by_form.to_bytes() == by_keyword.to_bytes()
    assert rinsc.to_onnx(module, rounds=3).metadata == rinsc.to_onnx(module, 3).metadata
    for given, more in ((form, {"cache": True}), (3, {"rounds": 2})):
        with pytest.raises(rinsc.RinscError, match="say the same thing twice"):
            rinsc.to_onnx(module, given, **more)
