"""Two towers of SigLIP as the ONNX files that others load, in ONNX Runtime against PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import rinsc
from rinsc import OnnxForm, export
from rinsc.backends.onnx.write import stream
from rinsc.backends.onnx.write.file import GRAPH_ALLOWANCE_BYTES
from rinsc.backends.onnx.write.published import published_models
from rinsc.backends.onnx.write.stream import write_models
from rinsc.errors import LoweringError, RinscError
from tests.paired import CONTEXT, inputs_of, paired_module, paired_run

SIGNATURES = (
    *("image: A, text: B", "image: A^2B, text: C^3", "image: A^2B, text: A^2C"),
    "image: A^3{inject=add}B, text: C^2{adapter=lora(2)}",
)
FORMS = {
    "fixed": OnnxForm(),
    "two": OnnxForm(2),
    "dynamic": OnnxForm("dynamic"),
    "gated": OnnxForm(3, gated=True),
}


def opened(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(str(path), options)


def results(session: Any, feed: dict[str, Any]) -> dict[str, Any]:
    names = [value.name for value in session.get_outputs()]
    outputs: dict[str, Any] = dict(zip(names, session.run(names, feed), strict=True))
    return outputs


def close(found: Any, expected: torch.Tensor) -> None:
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)


def last_states(module: Any, inputs: dict[str, torch.Tensor], rounds: Any) -> dict[str, Any]:
    """What the last norm of each tower gives, caught on its way."""
    caught: dict[str, torch.Tensor] = {}
    hooks = [
        getattr(module, name).final_norm.register_forward_hook(
            lambda _, __, state, name=name: caught.update({name: state})
        )
        for name in inputs
    ]
    with torch.no_grad():
        outputs: dict[str, Any] = module(**inputs, rounds=rounds)
    for hook in hooks:
        hook.remove()
    return outputs | {f"{name} state": state for name, state in caught.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("signature", SIGNATURES)
def test_the_files_give_what_the_module_gives(tmp_path: Path, signature: str, form: str) -> None:
    module = paired_module(signature)
    has_dials = any(module.graph.dials())
    if not has_dials and form != "fixed":
        pytest.skip("it has no rounds to choose from")
    done = export(module, tmp_path / "out", FORMS[form])
    names = {"vision_model", "text_model", "model"}
    assert {path.stem for path in done.files if path.suffix == ".onnx"} == names
    sessions = {name: opened(tmp_path / f"out/onnx/{name}.onnx") for name in names}
    inputs = inputs_of(module)
    vision, text = {"pixel_values": inputs["image"].numpy()}, {"input_ids": inputs["text"].numpy()}
    known = {"vision_model": vision, "text_model": text, "model": text | vision}
    written = {"two": 2, "gated": 3}.get(form)
    for rounds in (None, 1, 2, 3):
        dialled = {}
        for name, session in sessions.items():
            onnx.checker.check_model(str(tmp_path / f"out/onnx/{name}.onnx"), full_check=True)
            assert {value.name for value in session.get_inputs()} == known[name].keys()
            dials = session.get_overridable_initializers()
            assert bool(dials) is (has_dials and form in ("dynamic", "gated")) or name != "model"
            count = {value.name: np.array(rounds, np.int64) for value in dials if rounds}
            dialled[name] = results(session, known[name] | count)
        if rounds is not None and form in ("fixed", "two"):
            continue
        expected = last_states(module, inputs, written if rounds is None else rounds)
        for name, tower in (("vision_model", "image"), ("text_model", "text")):
            assert dialled[name].keys() == {"last_hidden_state", "pooler_output"}
            close(dialled[name]["pooler_output"], expected[tower])
            close(dialled[name]["last_hidden_state"], expected[f"{tower} state"])
        both = dialled["model"]
        close(both["logits_per_text"], expected["logits"])
        close(both["logits_per_image"], expected["logits"].t())
        for tower in ("image", "text"):
            normed = torch.nn.functional.normalize(expected[tower], dim=-1)
            close(both[f"{tower}_embeds"], normed)


def test_each_weight_is_once_in_a_file(tmp_path: Path) -> None:
    module = paired_module("image: A^2B, text: A^2C")
    export(module, tmp_path / "out", OnnxForm("dynamic"))
    for name in ("vision_model", "text_model", "model"):
        model = onnx.load(tmp_path / f"out/onnx/{name}.onnx")
        large = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) > 200]
        numbers = [onnx.numpy_helper.to_array(tensor).tobytes() for tensor in large]
        assert len(set(numbers)) == len(numbers) > 10
    total = sum(parameter.numel() for parameter in module.parameters())
    assert sum(int(np.prod(t.dims)) for t in model.graph.initializer) < total + 100


def test_a_text_of_another_length_is_refused(tmp_path: Path) -> None:
    module = paired_module("image: A, text: B")
    export(module, tmp_path / "out")
    session = opened(tmp_path / "out/onnx/text_model.onnx")
    with pytest.raises(Exception, match="Expected: 16"):
        session.run(None, {"input_ids": np.zeros((1, CONTEXT - 1), np.int64)})


def test_rounds_that_are_none_are_refused(tmp_path: Path) -> None:
    export(paired_module("image: A^2B, text: C"), tmp_path / "out", OnnxForm("dynamic"))
    session = opened(tmp_path / "out/onnx/vision_model.onnx")
    feed = {"pixel_values": np.zeros((1, 3, 12, 12), np.float32)}
    with pytest.raises(Exception, match="must be from 1 to"):
        session.run(None, feed | {"image_rounds_A": np.array(0, np.int64)})


def test_what_lies_beside_the_files(tmp_path: Path) -> None:
    module = paired_module("image: A^2B, text: C")
    done = export(paired_run(tmp_path / "run", module), tmp_path / "out/", OnnxForm(3))
    names = {str(path.relative_to(tmp_path / "out")) for path in done.files}
    assert names == {
        *(f"onnx/{name}.onnx" for name in ("vision_model", "text_model", "model")),
        *("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"),
    }
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["model_type"] == "siglip"
    assert config["vision_config"]["num_hidden_layers"] == 4  # three rounds of A, and B
    assert config["text_config"]["pad_token_id"] == config["text_config"]["eos_token_id"] == 1
    assert json.loads((tmp_path / "out/preprocessor_config.json").read_text()) == {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "SiglipProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": 12, "width": 12},
    }
    assert done.rounds == {"image.A": 3}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_a_file_is_the_protobuf_of_its_model(tmp_path: Path, precision: str) -> None:
    module = paired_module("image: A^2B, text: C")
    models = published_models(module, OnnxForm("dynamic", precision=precision))
    write_models({tmp_path / name: model for name, model in models.items()})
    for name, model in models.items():
        found, expected = onnx.load(tmp_path / name), onnx.ModelProto.FromString(model.to_bytes())
        for proto in (found, expected):
            kept = [p for p in proto.metadata_props if p.key != "rinsc.sha256"]
            del proto.metadata_props[:]
            proto.metadata_props.extend(sorted(kept, key=lambda p: p.key))
            tensors = sorted(proto.graph.initializer, key=lambda tensor: tensor.name)
            del proto.graph.initializer[:]
            proto.graph.initializer.extend(tensors)
            stored = {tensor.name for tensor in tensors}  # whose types stand there already
            values = [v for v in proto.graph.value_info if v.name not in stored]
            del proto.graph.value_info[:]
            proto.graph.value_info.extend(values)
        assert found == expected


def test_weights_beyond_a_protobuf_go_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = paired_module("image: A, text: B")
    export(module, tmp_path / "small")
    monkeypatch.setattr(stream, "PROTOBUF_LIMIT_BYTES", GRAPH_ALLOWANCE_BYTES + 30_000)
    done = export(module, tmp_path / "large")
    data = sorted(path.name for path in done.files if path.name.endswith("onnx_data"))
    assert data == ["model.onnx_data", "text_model.onnx_data", "vision_model.onnx_data"]
    config = json.loads((tmp_path / "large/config.json").read_text())
    settings = {"dtype": "fp32", "use_external_data_format": True}
    assert config["transformers.js_config"] == settings
    inputs = inputs_of(module)
    feed = {"pixel_values": inputs["image"].numpy(), "input_ids": inputs["text"].numpy()}
    small, large = (
        results(opened(tmp_path / f"{name}/onnx/model.onnx"), feed) for name in ("small", "large")
    )
    assert all(np.array_equal(small[name], large[name]) for name in small)


def test_one_file_is_what_a_towers_session_runs(tmp_path: Path) -> None:
    module = paired_module("image: A^2B, text: C^2")
    export(module, tmp_path / "both.onnx", OnnxForm("dynamic"))
    session = rinsc.TowersSession(tmp_path / "both.onnx", threads=1)
    inputs = inputs_of(module)
    for rounds in (None, 1, {"image.A": 3}):
        found = session.outputs({name: x.numpy() for name, x in inputs.items()}, rounds)
        with torch.no_grad():
            expected = module(**inputs, rounds=rounds)
        for name, value in found.items():
            close(value, expected[name])


@pytest.mark.parametrize(
    ("form", "code"),
    [
        (OnnxForm(cache=True), "several-towers"),
        (OnnxForm("dynamic", exit="kl:0.1"), "several-towers"),
        (OnnxForm({"image.Z": 2}), "unknown-repeat"),
        (OnnxForm(precision="int8", portable=True), "not-portable"),
    ],
)
def test_forms_that_towers_have_not(tmp_path: Path, form: OnnxForm, code: str) -> None:
    with pytest.raises(RinscError) as caught:
        export(paired_module("image: A^2B, text: C"), tmp_path / "out", form)
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_towers_that_nothing_compares_are_one_file(tmp_path: Path) -> None:
    spec = rinsc.towers_spec("image: A, text: B", preset="tiny")
    with pytest.raises(RinscError, match="names a folder"):
        export(spec, tmp_path / "out")
    with pytest.raises(LoweringError, match="no tower of pictures"):
        published_models(rinsc.to_torch(spec), OnnxForm())
