"""ONNX models of several towers: equal to PyTorch, each weight once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from hypothesis import given, settings

from rinsc import RinscError, Session, TowersSpec, to_onnx, to_torch, towers_spec
from rinsc.backends.onnx import OnnxModel
from rinsc.backends.torch import CompiledTowers
from rinsc.layers import model_input, model_output
from rinsc.verification import random_input
from tests.onnx.models import TOLERANCE, all_graphs
from tests.specs import tower_specs

Arrays = dict[str, npt.NDArray[Any]]


def lively(spec: TowersSpec) -> CompiledTowers:
    torch.manual_seed(0)
    model = to_torch(spec).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def run(model: OnnxModel, inputs: Arrays) -> Arrays:
    session = onnxruntime.InferenceSession(model.to_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def fed(spec: TowersSpec, inputs: dict[str, torch.Tensor]) -> Arrays:
    return {
        f"{name}_{model_input(tower).name}": inputs[name].numpy()
        for name, tower in spec.towers.items()
    }


@settings(max_examples=20)
@given(tower_specs())
def test_onnx_runtime_gives_what_pytorch_does(spec: TowersSpec) -> None:
    model = lively(spec)
    # Batches and lengths of their own: no dimension may be taken for that of the other tower.
    sizes = {name: (1 + index, 4 + 3 * index) for index, name in enumerate(spec.towers)}
    inputs = {name: random_input(spec.towers[name], *size) for name, size in sizes.items()}
    dials = [name for name, _ in model.graph.dials()]
    dynamic = to_onnx(model, "dynamic")
    forms: list[tuple[OnnxModel, Any, Arrays]] = [(to_onnx(model), None, {})]
    for count in (1, 3):
        rounds = {name: count + place % 2 for place, name in enumerate(dials)}
        asked = {
            f"{tower}_rounds_{loop}": np.array(rounds[f"{tower}.{loop}"])
            for tower, _, loop in (name.partition(".") for name in dials)
        }
        forms.append((dynamic, rounds, asked))
    for exported, rounds, given_rounds in forms:
        exported.check()
        found = run(exported, {**fed(spec, inputs), **given_rounds})
        with torch.no_grad():
            expected = model(**inputs, rounds=rounds)
            exact = model.double()(
                **{n: x.double() if x.is_floating_point() else x for n, x in inputs.items()},
                rounds=rounds,
            )
            model.float()
        for name, output in expected.items():
            limit = max(TOLERANCE, 4 * float((output - exact[name]).abs().max()))
            port = f"{name}_{model_output(spec.towers[name])[0]}" if name in inputs else name
            assert np.abs(found[port] - output.numpy()).max() <= limit


def test_names_and_weights() -> None:
    spec = towers_spec(
        "image: A^2B, text: A(AC)^3", preset="tiny", towers={"text": {"context": 64}}
    )
    model = lively(spec)
    exported = to_onnx(model, "dynamic")
    graph = exported.ir.graph
    assert [value.name for value in graph.inputs] == [
        *("image_input_ids", "image_rounds_A", "text_input_ids", "text_rounds_AC"),
    ]
    assert [value.name for value in graph.outputs] == ["image_logits", "text_logits"]
    weights = {name for name in graph.initializers if not name.startswith("constants/")}
    stored = {model.stored_name(name) for name, _ in model.named_parameters()}
    assert {name for name in weights if name[0].isupper()} == {n for n in stored if n[0].isupper()}
    names = [value.name for each in all_graphs(graph) for node in each for value in node.outputs]
    assert len(names) == len(set(names))
    held = sum(parameter.nbytes for parameter in model.parameters())
    assert held <= exported.weight_bytes < 1.01 * held + 2**16
    assert exported.metadata["rinsc.rounds"] == '{"image.A": 2, "text.AC": 3}'


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4", "int8 fp16:C"])
def test_precisions_store_shared_blocks_once(precision: str) -> None:
    model = lively(towers_spec("image: A^2B, text: AC", preset="tiny"))
    alone = {
        name: to_onnx(getattr(model, name), precision=text, calibrate=False)
        for name, text in (("image", precision.partition(" ")[0]), ("text", precision))
    }
    together = to_onnx(model, precision=precision, calibrate=False)
    assert together.weight_bytes < 0.85 * sum(each.weight_bytes for each in alone.values())
    ids = {name: torch.randint(512, (2, 9)) for name in model.spec.towers}
    found = run(together, fed(model.spec, ids))
    for name, exported in alone.items():
        same = run(exported, {"input_ids": ids[name].numpy()})["logits"]
        assert np.array_equal(found[f"{name}_logits"], same)
    assert to_onnx(model, precision=precision).weight_bytes == together.weight_bytes


def test_forms_without_a_meaning_are_one_error() -> None:
    model = lively(towers_spec("image: A^2B, text: AC", preset="tiny"))
    mistakes: list[dict[str, Any]] = [
        {"cache": True},
        {"rounds": "dynamic", "exit": "state:0.1"},
        {"precision": "int4", "calibrate": np.zeros((1, 2), np.int64)},
    ]
    for settings_ in mistakes:
        with pytest.raises(RinscError) as caught:
            to_onnx(model, **settings_)
        assert [problem.code for problem in caught.value.problems] == ["several-towers"]
        assert caught.value.hint
    with pytest.raises(RinscError, match="has no block 'Z'"):
        to_onnx(model, precision="int8 fp16:Z")
    with pytest.raises(RinscError) as told:
        Session(to_onnx(model))
    assert told.value.code == "several-towers"
