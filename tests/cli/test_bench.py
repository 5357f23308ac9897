"""``rinsc bench``: rows, JSON, picture, quality against torch's own, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rinsc.data.tokenizer import load_tokenizer
from rinsc.errors import GraphError
from rinsc.evaluation.quality import compare_quality
from rinsc.graph import build_graph, rounds_up_to, several_rounds
from rinsc.graph.rounds import MAX_SEVERAL as MOST
from rinsc.objectives.next_token import HeldOut, bits_per_byte
from rinsc.spec import model_spec
from rinsc.verbs.models import open_run, run_model
from tests.cli.command_line import Result, run_cli

Compile = Callable[..., Path]


@pytest.fixture(autouse=True)
def few_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rinsc.backends.onnx.run.benchmark.GENERATIONS", 3)


@pytest.fixture(scope="session")
def compiled(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Model folders of the run, each made once."""
    made: dict[tuple[str, ...], Path] = {}

    def compile_(*args: str) -> Path:
        if args not in made:
            folder = tmp_path_factory.mktemp("models") / "model"
            more = ("--held-out", "-o", str(folder))
            done = run_cli("compile", str(run), "--to", "onnx", *args, *more)
            assert done.status == 0, done.err
            made[args] = folder
        return made[args]

    return compile_


@pytest.fixture
def dial(compiled: Compile) -> Path:
    return compiled("--cache", "--rounds", "dynamic", "--no-report")


def bench(model: Path, *args: str) -> Result:
    return run_cli("bench", str(model), "--threads", "1", *args)


def facts(model: Path, *args: str) -> Any:
    done = bench(model, *args, "--json")
    assert done.status == 0, done.err
    return json.loads(done.out)


def copied(folder: Path, place: Path, *without: str) -> Path:
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns(*without))
    return place


def test_rows_as_json(dial: Path) -> None:
    found = facts(dial, "--rounds", "1..3", "--prompt-tokens", "6", "--new-tokens", "4")
    rows = found.pop("rows")
    held_out_bytes = found.pop("held_out_bytes")
    assert held_out_bytes > 100
    assert found == {
        "signature": "A^2B",
        "form": "dynamic",
        "exit": None,
        "written_rounds": {"A": 2},
        "provider": "cpu",
        "threads": 1,
        "precision": "fp32",
        "operators": "fused",
        "cache": "in place",
        "prompt_tokens": 6,
        "new_tokens": 4,
    }
    assert [row["rounds"] for row in rows] == [{"A": 1}, {"A": 2}, {"A": 3}]
    for row in rows:
        assert set(row) == {
            *("rounds", "tokens_per_second", "decode_ms_median", "decode_ms_p10"),
            *("first_token_ms_median", "memory_bytes", "bits_per_byte", "matmul_flops_per_token"),
            *("touched_bytes_per_token", "decoded_tokens", "generations"),
        }
        assert row["tokens_per_second"] * row["decode_ms_median"] == pytest.approx(1000)
        assert 0 < row["decode_ms_p10"] <= row["decode_ms_median"]
        assert row["first_token_ms_median"] > 0
        assert (row["decoded_tokens"], row["generations"]) == (8, 2)
    for name in ("matmul_flops_per_token", "touched_bytes_per_token"):
        one, two, three = (row[name] for row in rows)
        assert 0 < two - one == three - two


def test_flops_are_those_of_rinsc_cost(dial: Path, run: Path) -> None:
    (row,) = facts(dial, "--rounds", "2", "--prompt-tokens", "8", "--new-tokens", "8")["rows"]
    done = run_cli("cost", str(run), "--seq", "12", "--rounds", "2", "--json")
    assert row["matmul_flops_per_token"] == json.loads(done.out)["forward_flops_per_token"]


def test_bits_per_byte_are_those_of_torch(dial: Path, run: Path) -> None:
    rows = facts(dial, "--rounds", "1,3")["rows"]
    model, words = run_model(open_run(str(run))).eval(), load_tokenizer(dial / "tokenizer.json")

    def logits(ids: Any, rounds: Any) -> Any:
        with torch.no_grad():
            return model(torch.from_numpy(ids), rounds=rounds).numpy()

    tokens = words.encode((dial / "heldout.txt").read_text(encoding="utf-8"))
    windows = compare_quality(logits, None, (1,), tokens, words.token_bytes, 16).windows
    held_out = HeldOut(windows, words.token_bytes[windows])
    expected = [bits_per_byte(model, held_out, rounds=r) for r in (1, 3)]
    assert [row["bits_per_byte"] for row in rows] == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-4


def test_the_table(dial: Path) -> None:
    done = bench(dial)
    assert done.status == 0
    head, rule, *rest = done.out.splitlines()
    columns = "rounds tokens/s ms/token p10 first token memory bits/byte FLOP/token read/token"
    assert " ".join(head.split()) == columns
    assert set(rule) == {"─"}
    assert [line.split()[0] for line in rest[:2]] == ["1", "2"]
    below = " ".join(rest[2:])
    for word in ("cpu", "1 thread ", "fp32", "fused operators", "any rounds", "cache in place"):
        assert word in below
    assert "held-out text" in below
    assert "prompt 11 " in below  # the context of 16 has no room for more
    assert "shortened from 128 to 11 tokens: the context is 16" in done.err
    assert "add -o bench.png" in done.err


def test_a_model_that_ends_early(compiled: Compile) -> None:
    model = compiled("--rounds", "dynamic", "--exit", "kl:0.5", "--no-report")
    done = bench(model, "--prompt-tokens", "6")
    assert done.status == 0
    assert "\nends early at kl:0.5; FLOPs and bytes are of all rounds asked for\n" in done.out
    assert "shortened" not in done.err
    assert facts(model)["exit"] == "kl:0.5"


def test_the_default_is_what_the_model_can_run(compiled: Compile) -> None:
    cases = [
        (("--cache", "--rounds", "3", "--no-report"), [3], "fixed"),
        (("--cache", "--rounds", "3", "--gated", "--no-report"), [1, 2, 3], "gated"),
    ]
    for args, expected, form in cases:
        found = facts(compiled(*args))
        assert found["form"] == form
        assert [row["rounds"] for row in found["rows"]] == [{"A": count} for count in expected]


def test_by_default_no_repeat_runs_more_than_written(tmp_path: Path) -> None:
    args = ("--layers", "2", "--width", "16", "--heads", "2", "--vocab-size", "64", "--cache")
    for form in (("--rounds", "dynamic"), ("--rounds", "A=3", "--gated")):
        done = run_cli(
            "compile",
            "A^3B^2",
            *args,
            *form,
            "--to",
            "onnx",
            "-o",
            str(tmp_path / "m"),
            "--overwrite",
        )
        assert done.status == 0, done.err
        rows = facts(tmp_path / "m", "--new-tokens", "8")["rows"]
        expected = [{"A": 1, "B": 1}, {"A": 2, "B": 2}, {"A": 3, "B": 2}]
        assert [row["rounds"] for row in rows] == expected
        assert (
            bench(tmp_path / "m", "--new-tokens", "8").out.splitlines()[4].startswith("A=3, B=2 ")
        )


def test_a_model_without_a_cache_is_measured(compiled: Compile) -> None:
    model = compiled("--rounds", "dynamic", "--no-report")
    done = bench(model, "--rounds", "1,2")
    assert done.status == 0
    assert "compile it with --cache" in done.err
    assert " no cache " in done.out
    assert facts(model)["cache"] == "none"


def test_a_model_without_a_repeat(tmp_path: Path) -> None:
    args = ("--layers", "2", "--width", "16", "--heads", "2", "--vocab-size", "64")
    done = run_cli("compile", "AB", *args, "--to", "onnx", "--cache", "-o", str(tmp_path / "m"))
    assert done.status == 0, done.err
    done = bench(tmp_path / "m", "--rounds", "1", "--new-tokens", "8")
    assert done.status == 0
    assert done.out.splitlines()[2].startswith("- ")
    assert "bits/byte" not in done.out
    assert "bits per byte are left out: there is no held-out text" in done.err
    assert "--text" in done.err
    assert facts(tmp_path / "m", "--new-tokens", "8")["rows"][0]["bits_per_byte"] is None
    refused = bench(tmp_path / "m", "--rounds", "2")
    assert (refused.status, refused.out) == (2, "")
    assert "no repeat" in refused.err


@pytest.mark.parametrize("name", ["bench.png", "bench.SVG"])
def test_the_picture(dial: Path, name: str, tmp_path: Path) -> None:
    done = bench(dial, "--rounds", "1..4", "-o", str(tmp_path / name))
    assert done.status == 0
    assert "add -o" not in done.err
    assert done.err.endswith(f"wrote {tmp_path / name}\n")
    assert "trained at 2 at most" in done.err
    if name.endswith("png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (1200, 750)
    else:
        assert b"<svg" in (tmp_path / name).read_bytes()


def test_another_text(dial: Path, tmp_path: Path) -> None:
    text = tmp_path / "é.txt"
    text.write_text("The rain fell, and the river rose. " * 9, encoding="utf-8")
    assert facts(dial, "--text", str(text))["held_out_bytes"] in range(250, 315)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", [3]),
        ("1..4", [1, 2, 3, 4]),
        ("4,1,2,1", [1, 2, 4]),
        ("1..3, 8,2..4", [1, 2, 3, 4, 8]),
        (f"1..{MOST}", list(range(1, MOST + 1))),
    ],
)
def test_rounds_are_read(text: str, expected: list[int]) -> None:
    graph = build_graph(model_spec("A^2", preset="tiny"))
    assert several_rounds(graph, text) == [{"A": count} for count in expected]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, "cannot be") for text in ("", "a..b", "A=", "1..", "..4", "-1", "1.5", "٣")),
        *((text, "cannot be") for text in ("1,,2", "1...4", "1..2..3", "9" * 5000, "\x00")),
        ("5..1", "run backwards"),
        ("1..2000", f"more than {MOST}"),
        ("1..999999999", f"more than {MOST}"),
        ("1..20,30..50", f"more than {MOST}"),
        (",".join(map(str, range(1, 100))), f"more than {MOST}"),
    ],
)
def test_rounds_that_are_none(text: str, said: str) -> None:
    graph = build_graph(model_spec("A^2", preset="tiny"))
    with pytest.raises(GraphError, match=said) as caught:
        several_rounds(graph, text)
    assert caught.value.code == "bad-rounds"


def test_by_default_not_all_of_many_rounds() -> None:
    assert rounds_up_to(3) == [1, 2, 3]
    assert rounds_up_to(12) == [1, 2, 4, 8, 12]
    assert rounds_up_to(32) == [1, 2, 4, 8, 16, 32]
    assert len(rounds_up_to(1024)) <= MOST


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--rounds", "0"), "from 1 to 1024"),
        (("--rounds", "1025"), "from 1 to 1024"),
        (("--rounds", "5..1"), "backwards"),
        (("--prompt-tokens", "0"), "at least 1"),
        (("--new-tokens", "-1"), "at least 1"),
        (("--prompt-tokens", "16"), "exceed the context of 16"),
        (("--prompt-tokens", "10", "--new-tokens", "7"), "exceed the context of 16"),
        (("--new-tokens", "999999999999"), "exceed the context of 16"),
        (("--threads", "0"), "from 1 to"),
        (("--threads", "1000000"), "from 1 to"),
        (("--provider", "tpu"), "tpu"),
        (("-o", "bench.pdf"), "written as .png or .svg"),
        (("-o", "nowhere/bench.png"), "cannot write"),
        (("--text", "nowhere.txt"), "no held-out text"),
    ],
)
def test_refused(dial: Path, args: tuple[str, ...], said: str) -> None:
    status, out, err = run_cli("bench", str(dial), *args)
    assert (status != 0, out) == (True, "")
    assert err.startswith("error[")
    assert err.count("error[") == 1
    assert said in err
    assert "hint: " in err


@pytest.mark.parametrize(("name", "content"), [("bad", b"\xff\xfe\x00"), ("short", b"a")])
def test_a_text_that_does_not_do(dial: Path, name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    status, out, err = bench(dial, "--text", str(tmp_path / name))
    assert (status, out) == (1, "")
    assert err.startswith("error[")
    assert name in err


def test_other_rounds_than_compiled_for(compiled: Compile) -> None:
    cases = [
        (("--cache", "--rounds", "3", "--no-report"), "compiled for 3 rounds, not 1"),
        (("--cache", "--rounds", "3", "--gated", "--no-report"), "at most 3 rounds, not 4"),
    ]
    for args, said in cases:
        status, out, err = bench(compiled(*args), "--rounds", "1..4")
        assert (status, out) == (2, "")
        assert said in err


def test_what_is_no_exported_model(tmp_path: Path, run: Path, dial: Path) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("*.onnx"))
    (tmp_path / "note.txt").write_text("hello")
    damaged = copied(dial, tmp_path / "damaged", "*.data")
    cases = {
        str(tmp_path / "run"): "rinsc compile",
        "(A^3)B": "neither a model folder",
        "": "neither a model folder",
        str(tmp_path): "neither a model folder",
        str(tmp_path / "note.txt"): "no ONNX model",
        str(damaged): "weights are missing",
    }
    for model, said in cases.items():
        status, out, err = run_cli("bench", model)
        assert (status, out) == (1, "")
        assert err.startswith("error[")
        assert said in err


def test_without_text_or_tokenizer(dial: Path, tmp_path: Path) -> None:
    for name in ("heldout.txt", "tokenizer.json"):
        model = copied(dial, tmp_path / name, name)
        done = bench(model, "--rounds", "1")
        assert done.status == 0
        assert "bits/byte" not in done.out
        assert f"{model / name}" in done.err
        assert "--held-out" in done.err or name == "tokenizer.json"
        picture = tmp_path / "bench.png"
        refused = bench(model, "-o", str(picture))
        assert (refused.status, refused.out) == (1, "")
        assert not picture.exists()


def test_interrupted(dial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rinsc.evaluation.quality.compare_quality", interrupted)
    done = bench(dial, "-o", str(tmp_path / "bench.png"))
    assert (done.status, done.out) == (130, "")
    assert done.err.endswith("interrupted\n")
    assert os.listdir(tmp_path) == []


def test_no_torch_is_needed(dial: Path) -> None:
    code = f"import sys; from rinsc.cli import main; main(['bench', {str(dial)!r}, '--json'])"
    code += "; print({'torch', 'matplotlib', 'onnx_ir', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
