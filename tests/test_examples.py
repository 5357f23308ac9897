"""The examples: installed as a user would, then compiled, counted, trained and exported."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.torch import to_torch
from rinsc.cost import forward_flops
from rinsc.graph import build_graph
from rinsc.layers import layer_kind, trace_programs
from rinsc.spec import ModelSpec, kinds, model_spec, spec_to_toml
from tests.cli.command_line import run_cli

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
GATED = EXAMPLES / "gated-convolution"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as pip installs it, entry point and all."""
    folder = tmp_path_factory.mktemp("example")
    source = shutil.copytree(GATED, folder / "source")
    target = folder / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--target", str(target)]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    return target


@pytest.fixture
def package(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package on the path, and every cache that knows of kinds fresh before and after."""
    monkeypatch.syspath_prepend(str(installed))
    forget()
    yield
    forget()


def forget() -> None:
    kinds.registered.cache_clear()
    trace_programs.cache_clear()
    sys.modules.pop("gated_convolution", None)


def spec_of(signature: str, **settings: Any) -> ModelSpec:
    return model_spec(signature, preset="tiny", layers=4, kind="gated_convolution", **settings)


def by_hand(
    model: torch.nn.Module, input_ids: torch.Tensor, visits: list[str], kernel_size: int = 4
) -> torch.Tensor:
    """The model's layers as a loop over positions."""
    w = dict(model.named_parameters())
    x = w["embedding.weight"][input_ids]
    for place in visits:
        scale = w[f"{place}.norm.weight"]
        h = F.rms_norm(x, x.shape[-1:], scale, 1e-5)
        mixed = torch.zeros_like(h)
        for position in range(h.shape[1]):
            for step in range(min(position + 1, kernel_size)):
                tap = w[f"{place}.tap_{step}.weight"]
                mixed[:, position] += tap * h[:, position - step]
        gate = torch.sigmoid(h @ w[f"{place}.gate.weight"].T)
        x = x + (mixed * gate) @ w[f"{place}.output.weight"].T
    x = F.rms_norm(x, x.shape[-1:], w["final_norm.weight"], 1e-5)
    return x @ w["embedding.weight"].T


@pytest.mark.usefixtures("package")
def test_a_registered_kind_compiles_to_torch_and_onnx() -> None:
    model = to_torch(spec_of("(A^2)B")).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    input_ids = torch.randint(512, (2, 9), generator=torch.Generator().manual_seed(1))
    session = Session(to_onnx(model, rounds="dynamic"), threads=1)
    for rounds in (1, 2, 3):
        visits = ["A.0", "A.1"] * rounds + ["B.0", "B.1"]
        with torch.no_grad():
            found = model(input_ids, rounds=rounds)
            torch.testing.assert_close(found, by_hand(model, input_ids, visits), rtol=0, atol=1e-4)
        in_onnx = session.logits(input_ids.numpy(), rounds=rounds)
        np.testing.assert_allclose(in_onnx, found.numpy(), rtol=0, atol=1e-4)
    with torch.no_grad():
        others = by_hand(model, input_ids, ["A.0", "A.1", "B.0", "B.1"])
        assert (model(input_ids) - others).abs().max() > 1e-2


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("size", [1, 2, 6])
def test_a_registered_kind_has_a_setting_of_its_own(size: int, tmp_path: Path) -> None:
    file = tmp_path / "spec.toml"
    file.write_text(spec_to_toml(spec_of("(A^2)B", kernel_size=size)))
    assert f"[settings.gated_convolution]\nkernel_size = {size}\n" in file.read_text()
    spec = model_spec(file)
    model = to_torch(spec).eval()
    input_ids = torch.arange(22).reshape(2, 11)
    visits = ["A.0", "A.1"] * 2 + ["B.0", "B.1"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        found = model(input_ids)
        expected = by_hand(model, input_ids, visits, size)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    session = Session(to_onnx(model), threads=1)
    np.testing.assert_allclose(session.logits(input_ids.numpy()), found.numpy(), rtol=0, atol=1e-4)
    counted = json.loads(run_cli("cost", str(file), "--json").out)
    options = ("--kind", "gated_convolution", "--setting", f"kernel_size={size}")
    told = json.loads(run_cli("cost", "(A^2)B", "--layers", "4", *options, "--json").out)
    assert counted == told
    assert counted["stored_params"] == sum(p.numel() for p in model.parameters())


@pytest.mark.usefixtures("package")
def test_a_registered_kind_has_exact_costs() -> None:
    spec = spec_of("A{kind=llama}(B^3)")
    model = to_torch(spec, device="meta")
    input_ids = torch.zeros(1, 64, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(input_ids)
    assert forward_flops(build_graph(spec), 64).total == counter.get_total_flops()


@pytest.mark.usefixtures("package")
def test_a_registered_kind_trains() -> None:
    torch.manual_seed(0)
    model = to_torch(spec_of("(A^2)B"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens = torch.randint(512, (4, 17))
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.usefixtures("package")
def test_the_commands_of_the_example_run() -> None:
    text = (GATED / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ rinsc (.+)$", text, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        result = run_cli(*shlex.split(command))
        assert result.status == 0, result.err


@pytest.mark.usefixtures("package")
def test_names_of_registered_kinds_are_known() -> None:
    assert "gated_convolution" in kinds.kind_names()
    assert kinds.source_of_kind("gated_convolution").package == "gated-convolution"
    result = run_cli("check", "AB", "--kind", "gated_convolutoin")
    assert "did you mean 'gated_convolution'?" in result.err


def test_without_the_package_the_kind_is_unknown() -> None:
    forget()
    assert not kinds.is_kind("gated_convolution")


def test_the_example_is_as_short_as_it_says() -> None:
    lines = (GATED / "gated_convolution.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 30


def test_every_example_is_listed_and_installs_under_a_name_of_its_own() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    folders = [path.name for path in EXAMPLES.iterdir() if path.is_dir()]
    assert folders
    assert all(f"({name}/" in listed for name in folders)
    assert not set(kinds.KINDS) & {name.replace("-", "_") for name in folders}


def test_kinds_of_rinsc_need_no_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("entry points were looked up")

    monkeypatch.setattr(kinds, "registered", refuse)
    assert kinds.is_kind("llama")
    layer_kind("hrm_high")
