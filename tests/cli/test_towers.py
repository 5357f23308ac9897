"""Commands given towers: what they print, and one clear error where one tower is wanted."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import rinsc
from tests.cli.command_line import run_cli

PAGE = Path(__file__).resolve().parents[2] / "docs" / "towers.md"
TOWERS = "image: A[2]^2B[1], text: A[2]C[1]^3"


def test_check_tells_towers_apart_by_what_they_share() -> None:
    status, out, err = run_cli("check", TOWERS)
    assert (status, err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert (rows["blocks"], rows["shared"], rows["visits"]) == ("3: A B C", "A", "7")
    same = "text: Q[2]R[1]^3, image: Q[2]QS[1]"
    status, out, _ = run_cli("check", TOWERS, same, "image: A^2B, text: D C^3", "--json")
    assert status == 0
    one, two, other = (each["fingerprint"] for each in json.loads(out))
    assert one == two != other
    status, out, _ = run_cli("check", TOWERS, "--layers", "3", "--json")
    assert status == 0
    assert json.loads(out)["layers"] == {"A": 2, "B": 1, "C": 1}


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "two.toml"
    path.write_text(
        """signature = "image: A^2B, text: A(CD)^3"
preset = "tiny"
[towers.image]
layers = 4
[towers.text]
layers = 6
context = 64
"""
    )
    return str(path)


def test_costs_and_drawings(file: str, tmp_path: Path) -> None:
    status, out, err = run_cli("cost", file, "--json", "--rounds", "text.CD=2")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert list(report["towers"]) == ["image", "text"]
    assert report["shared_blocks"] == ["A"]
    assert report["towers"]["text"]["rounds"] == {"CD": 2}
    status, out, err = run_cli("cost", file)
    assert (status, err) == (0, "")
    assert f"{report['stored_params']:,}" in out
    names = [str(tmp_path / f"two{ending}") for ending in (".svg", ".mmd", ".dot", ".json")]
    status, out, _ = run_cli("show", file, *(word for name in names for word in ("-o", name)))
    assert status == 0
    assert "shared by towers: A" in out
    assert all(Path(name).stat().st_size for name in names)
    status, out, _ = run_cli("cost", file, "--baseline", "A")
    assert status == 2


def test_compiled_files_run(file: str, tmp_path: Path) -> None:
    onnx, source = tmp_path / "two.onnx", tmp_path / "two.py"
    status, out, _ = run_cli(
        *("compile", file, "--to", "onnx", "-o", str(onnx), "--rounds", "dynamic", "--json")
    )
    assert status == 0
    assert json.loads(out)["rounds"] == {"image.A": 2, "text.CD": 3}
    session = rinsc.TowersSession(onnx)
    ids = {"image": np.zeros((1, 3), np.int64), "text": np.ones((2, 5), np.int64)}
    outputs = session.outputs(ids, rounds={"text.CD": 4})
    assert {name: each.shape for name, each in outputs.items()} == {
        "image": (1, 3, 512),
        "text": (2, 5, 512),
    }
    for wrong in ({"image": ids["image"]}, ids | {"sound": ids["text"]}):
        with pytest.raises(rinsc.RinscError, match="an input of each: image, text"):
            session.outputs(wrong)
    with pytest.raises(rinsc.RinscError, match="several"):
        rinsc.Session(onnx)
    status, _, _ = run_cli("compile", file, "--to", "torch", "-o", str(source))
    assert status == 0
    assert "class ImageModel(nn.Module):" in source.read_text()


def test_verify_holds(file: str) -> None:
    status, out, err = run_cli("verify", file, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["passed"]


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, "towers.md", "exec"), names)
    (toml,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    Path("two.toml").write_text(toml)
    assert rinsc.towers_spec("two.toml") == names["spec"]
    (commands,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    for command in commands.splitlines():
        status, _, err = run_cli(*shlex.split(command)[1:])
        assert status == 0, err


REFUSED = [
    ("compile", "TWO", "--to", "hf", "-o", "hf"),
    ("compile", "TWO", "--to", "onnx", "-o", "two.onnx", "--cache"),
    ("compile", "TWO", "--to", "onnx", "-o", "folder/"),
    ("compile", "TWO", "--to", "onnx", "-o", "two.onnx", "--overwrite"),
    ("compile", "TWO", "--to", "torch", "-o", "two.py", "--cache"),
    ("train", "TWO", "--data", "plays", "-o", "run"),
    ("diff", "TWO", "A"),
    ("diff", "A", "TWO"),
]


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_what_takes_one_tower_says_so(
    words: tuple[str, ...], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run_cli(*(file if word == "TWO" else word for word in words))
    assert status in (1, 2)
    assert out == ""
    assert err.startswith("error[several-towers]"), err
    assert err.count("error[") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["two.toml"]


def test_two_models_of_towers_are_compared(file: str) -> None:
    """Costs, the plan and the difference, against what each tower alone says."""
    base = "image: A[2]B[1], text: A[2]C[1]"
    status, out, err = run_cli("cost", TOWERS, "--baseline", base, "--pairs", "1k", "--json")
    assert (status, err) == (0, "")
    data = json.loads(out)
    plan, variant, baseline = data["plan"], data, data["baseline"]
    for side, report in (("variant", variant), ("baseline", baseline)):
        towers = report["towers"].values()
        assert plan[f"{side}_step_flops"] == 16 * sum(each["training_flops"] for each in towers)
    assert plan["baseline_pairs"] == 1000 // 16 * 16
    assert 0 <= plan["remainder_flops"] < plan["variant_step_flops"]
    assert run_cli("cost", TOWERS, "--baseline", base).out.count("pair") >= 3
    status, out, err = run_cli("diff", TOWERS, base, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert (found["same_model"], found["only_left"]) == (False, [])
    assert not found["towers"]["image"]["same_model"]
    assert found["left"]["parameters"] == found["right"]["parameters"] == variant["stored_params"]
    status, out, _ = run_cli("diff", TOWERS, "text: Q[2]R[1]^3, image: Q[2]QS[1]")
    assert status == 0
    assert "are the same model" in out.splitlines()[0]
    status, out, _ = run_cli("diff", "x: A, y: B", "x: A, y: A")
    assert status == 0
    assert "They share other blocks between their towers." in out
    status, _, err = run_cli("diff", file, "image: A, sound: B")
    assert (status, "unknown-tower" in err) == (1, True)


def test_memory_of_all_towers_counts_each_weight_once() -> None:
    spec = rinsc.towers_spec(TOWERS, preset="tiny")
    report = rinsc.cost_report(spec)
    weights = sum(p.numel() for p in rinsc.to_torch(spec).parameters())
    assert report.memory.weight_bytes == 4 * weights == report.memory.gradient_bytes
    activations = [tower.memory.activation_bytes for tower in report.towers.values()]
    assert report.memory.activation_bytes == sum(activations)


def test_notebooks_show_towers() -> None:
    spec = rinsc.towers_spec(TOWERS, preset="tiny")
    html = spec._repr_html_() + rinsc.cost_report(spec)._repr_html_()
    assert html.count("<p>image</p>") == html.count("<p>text</p>") == 1
    assert rinsc.build_graph(spec)._repr_svg_().startswith("<svg")
