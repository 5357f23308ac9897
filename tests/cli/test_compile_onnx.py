"""``rinsc compile --to onnx`` of a run: the folder, the table of the loss, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.onnx.write import file as onnx_file_module
from rinsc.backends.onnx.write.matrices import blockwise
from rinsc.backends.torch import load_weights, to_torch
from rinsc.data.batches import cut_windows
from rinsc.data.corpora import load_corpus
from rinsc.data.tokenizer import load_tokenizer
from rinsc.objectives import next_token as evaluate
from rinsc.progress import ShownProgress
from rinsc.scalars import signed
from rinsc.spec import model_spec
from rinsc.training.run_folder import RunFolder
from rinsc.verbs.reports import MOST_ROWS, rounds_to_show
from tests.cli.command_line import Result, run_cli
from tests.cli.conftest import SIGNATURE, TINY

NAMES = [
    *("heldout.txt", "model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json")
]


def _compile(run: Path | str, output: Path | str, *more: str) -> Result:
    return run_cli("compile", str(run), "--to", "onnx", "-o", str(output), *more)


def _quality(result: Result) -> list[dict[str, Any]]:
    assert result.status == 0, result.err
    rows: list[dict[str, Any]] = json.loads(result.out)["quality"]["rows"]
    return rows


def test_the_folder_of_a_run(run: Path, corpus: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    words = ("--cache", "--rounds", "dynamic", "--precision", "int4", "--held-out")
    status, out, err = _compile(run, f"{folder}/", *words)
    assert status == 0, err
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    wrote, form = err.splitlines()
    assert wrote.startswith(f"wrote {folder}/ (")
    assert wrote.endswith("tokenizer.json, tokenizer_config.json, heldout.txt)")
    assert form == (
        "any rounds (2 if not given) · cache · fused operators · int4 · run by ONNX Runtime on cpu"
    )
    assert (folder / "tokenizer.json").read_bytes() == (run / "tokenizer.json").read_bytes()
    held_out = "".join(document.text for document in load_corpus(corpus).held_out)
    assert (folder / "heldout.txt").read_text() == held_out
    table = [line.split() for line in out.splitlines()]
    heads = "rounds fp32 bits/byte int4 bits/byte difference KL nats/token"
    assert " ".join(table[0]) == heads
    assert [line[0] for line in table[2:4]] == ["1", "2"]
    assert table[3][1] == "(trained)"
    assert out.splitlines()[-1].endswith("bytes")
    generated = run_cli("generate", str(folder), "--prompt", "On", "--max-new-tokens", "3")
    assert generated.status == 0, generated.err


@pytest.mark.parametrize("words", [("--cache",), ("--gated", "--rounds", "3"), ()])
def test_fp32_figures_are_those_of_torch(run: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    more = ("--precision", "int8", "--held-out", "--json", *words)
    rows = _quality(_compile(run, tmp_path / "m", *more))
    model = to_torch(model_spec(run / "model.toml"))
    load_weights(model, RunFolder(run).weights)
    tokenizer = load_tokenizer(tmp_path / "m" / "tokenizer.json")
    tokens = tokenizer.encode((tmp_path / "m" / "heldout.txt").read_text())
    windows = cut_windows(tokens, model.spec.context)
    held_out = evaluate.HeldOut(windows, tokenizer.token_bytes[windows])
    rounds = [1, 2, 3] if "--gated" in words else [2]
    assert [row["rounds"] for row in rows] == [{"A": each} for each in rounds]
    for each, row in zip(rounds, rows, strict=True):
        exact = evaluate.bits_per_byte(model, held_out, rounds=each)
        assert row["fp32_bits_per_byte"] == pytest.approx(exact, abs=1e-4)
        assert row["bits_per_byte"] == pytest.approx(exact, abs=0.05)
        assert row["bits_per_byte"] != row["fp32_bits_per_byte"]
        assert 0 < row["kl_nats_per_token"] < 0.01


def test_a_spoiled_matrix_shows(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--precision", "int8", "--rounds", "dynamic", "--json")
    sound = _quality(_compile(run, tmp_path / "a", *words))
    spoiled = []

    def spoil(whole: npt.NDArray[np.float32], *sizes: Any, name: str, **more: Any) -> Any:
        if name == "A.0.value":
            spoiled.append(name)
            whole = np.roll(whole, 1, axis=0)
        return blockwise(whole, *sizes, name=name, **more)

    monkeypatch.setattr("rinsc.backends.onnx.write.matrices.blockwise", spoil)
    found = _quality(_compile(run, tmp_path / "b", *words))
    assert spoiled
    for before, after in zip(sound, found, strict=True):
        assert after["fp32_bits_per_byte"] == before["fp32_bits_per_byte"]
        assert after["kl_nats_per_token"] > 10 * before["kl_nats_per_token"]


def test_fp32_is_compared_with_nothing(run: Path, tmp_path: Path) -> None:
    status, out, err = _compile(run, tmp_path / "m.onnx", "--rounds", "dynamic")
    assert status == 0, err
    assert out.splitlines()[0].split() == ["rounds", "fp32", "bits/byte"]
    assert len(out.splitlines()) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_blocks_and_what_is_kept_reach_the_model(run: Path, tmp_path: Path) -> None:
    words = ("--precision", "int4", "--block-size", "128", "--keep", "fp16:A", "--no-report")
    status, out, err = _compile(run, tmp_path / "m.onnx", *words)
    assert (status, out) == (0, "")
    assert "int4/128 fp16:A" in err
    assert "ONNX Runtime" not in err
    model = ir.load(tmp_path / "m.onnx")
    assert model.metadata_props["rinsc.precision"] == "int4/128 fp16:A"
    products = [node for node in model.graph if node.op_type == "MatMulNBits"]
    assert products
    assert all(node.attributes["block_size"].as_int() == 128 for node in products)


def test_int4_is_rounded_by_the_training_text_of_the_run(
    run: Path, corpus: str, tmp_path: Path
) -> None:
    """Or by a text that is named, or by none: each leads to codes of its own."""
    text = tmp_path / "text.txt"
    text.write_text("A text of other words, zebras and quartz. " * 40, encoding="utf-8")
    options = {
        "run": [],
        "run again": [],
        "named": ["--calibrate", str(text)],
        "none": ["--no-calibrate"],
    }
    codes = {}
    for name, words in options.items():
        file = tmp_path / f"{name}.onnx"
        done = _compile(run, file, "--precision", "int4", "--no-report", *words)
        assert done.status == 0, done.err
        assert "model's own text" not in done.err
        codes[name] = _codes(ir.load(file))
    assert codes["run"] == codes["run again"]
    assert len(set(codes.values())) == 3

    tokens = load_tokenizer(run / "tokenizer.json").encode(
        "".join(document.text for document in load_corpus(corpus).train)
    )
    spec = model_spec(run / "model.toml")
    module = to_torch(spec)
    load_weights(module, RunFolder(run).weights)
    count = (len(tokens) - 1) // spec.context
    chosen = min(count, 8192 // spec.context)
    windows = [
        tokens[start * spec.context :][: spec.context]
        for start in (number * count // chosen for number in range(chosen))
    ]
    by_hand = to_onnx(module, precision="int4", calibrate=np.stack(windows))
    assert _codes(by_hand.ir) == codes["run"]


def _codes(model: ir.Model) -> bytes:
    values = model.graph.initializers.items()
    found = [value.const_value for name, value in sorted(values) if name.endswith(".codes")]
    return b"".join(tensor.tobytes() for tensor in found if tensor is not None)


def test_a_text_that_is_missing_or_no_text(run: Path, tmp_path: Path) -> None:
    binary = tmp_path / "text.bin"
    binary.write_bytes(b"\xff\xfe\x00 no text")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    cases = {tmp_path / "missing.txt": "no-text", binary: "cannot-read", empty: "too-little-text"}
    for path, code in cases.items():
        words = ("--precision", "int4", "--calibrate", str(path))
        status, out, err = _compile(run, tmp_path / "m.onnx", *words)
        assert (status, out) == (1, "")
        assert err.startswith(f"error[{code}]: "), err
        assert "  hint: " in err
    assert not (tmp_path / "m.onnx").exists()
    status, _, err = _compile(SIGNATURE, tmp_path / "m.onnx", *TINY, *words)
    assert status == 2
    assert "--calibrate needs a tokenizer" in err


def test_a_run_without_its_text_is_rounded_by_random_tokens(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "data.json").unlink()
    status, _, err = _compile(copy, tmp_path / "m.onnx", "--precision", "int4", "--no-report")
    assert status == 0
    assert "note: int4 is rounded by the model's own text: the run does not say" in err


@pytest.mark.parametrize("embedding", ["int4", "int8", "fp16", "fp32"])
def test_the_embedding_is_stored_as_asked(run: Path, tmp_path: Path, embedding: str) -> None:
    words = ("--precision", "int4", "--embedding", embedding, "--no-report")
    done = _compile(run, tmp_path / "m.onnx", *words)
    assert done.status == 0, done.err
    model = ir.load(tmp_path / "m.onnx")
    expected = "int4" if embedding == "int4" else f"int4 {embedding}:embedding"
    assert model.metadata_props["rinsc.precision"] == expected
    gathers = [n for n in model.graph if n.op_type in ("Gather", "GatherBlockQuantized")]
    (table,) = [n for n in gathers if "embedding" in str(n.outputs[0].name)]
    assert (table.op_type == "GatherBlockQuantized") is embedding.startswith("int")


def test_portable_operators(run: Path, tmp_path: Path) -> None:
    assert _compile(run, tmp_path / "m", "--cache", "--portable", "--no-report").status == 0
    model = ir.load(tmp_path / "m" / "model.onnx")
    assert {node.domain for node in model.graph} == {""}


def test_a_folder_for_genai(run: Path, tmp_path: Path) -> None:
    result = _compile(run, tmp_path / "m", "--genai", "--gated", "--rounds", "3", "--no-report")
    assert result.status == 0, result.err
    assert "genai_config.json" in result.err
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert {"genai_config.json", "tokenizer_config.json", *NAMES} - {"heldout.txt"} <= names
    assert Session(tmp_path / "m").has_cache


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--precision", "int3"], "unknown-precision"),
        (["--precision", "int4/64"], "block-size"),
        (["--precision", "int4", "--block-size", "64"], "block-size"),
        (["--precision", "int4/32", "--block-size", "32"], "block-size"),
        (["--precision", "fp16", "--block-size", "32"], "block-size"),
        (["--block-size", "32"], "block-size"),
        (["--precision", "int4", "--keep", "fp16:Z"], "unknown-block"),
        (["--precision", "int4", "--keep", "fp16"], "keep"),
        (["--precision", "int4", "--keep", "fp16:A", "--keep", "fp32:A"], "keep"),
        (["--precision", "int4", "--portable"], "not-portable"),
        (["--precision", "int4", "--embedding", "int3"], "embedding"),
        (["--precision", "int4", "--embedding", "int8", "--keep", "fp16:embedding"], "keep"),
        (["--embedding", "int8"], "embedding"),
        (["--precision", "int8", "--symmetric"], "symmetric"),
        (["--precision", "int8", "--calibrate", "text.txt"], "usage"),
        (["--precision", "int8", "--no-calibrate"], "usage"),
        (["--precision", "int4", "--calibrate", "text.txt", "--no-calibrate"], "usage"),
        (["--gated", "--rounds", "dynamic"], "usage"),
        (["--genai", "--rounds", "dynamic"], "usage"),
        (["--genai", "-o", "m.onnx"], "usage"),
        (["-o", ""], "usage"),
    ],
)
def test_mistakes_are_told_before_the_model_is_built(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: str
) -> None:
    def too_early(*_: object, **__: object) -> None:
        raise AssertionError("the model was built")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rinsc.backends.torch.to_torch", too_early)
    output = [] if "-o" in words else ["-o", "m/"]
    status, out, err = run_cli("compile", str(run), "--to", "onnx", *output, *words)
    assert (status, out) == (2, "")
    assert err.startswith(f"error[{code}]: ")
    assert "  hint: " in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (["A^2", "--kind", "vit", "--patch-width", "12"], ["--cache"]),
        (["AB"], ["--gated"]),
        (["A^2"], ["--genai"]),
    ],
)
def test_models_that_have_no_such_form(tmp_path: Path, model: list[str], words: list[str]) -> None:
    place = tmp_path / "m"
    status, out, err = run_cli("compile", *model, "--to", "onnx", "-o", str(place), *words)
    assert (status, out) == (2, "")
    assert err.startswith("error[")
    assert not place.exists()


def test_pytorch_source_takes_none_of_it(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "m.py"
    words = ("--precision", "int4", "--keep", "fp16:A", "--no-report", "--genai")
    status, _, err = run_cli("compile", str(run), "--to", "torch", "-o", str(place), *words)
    assert status == 2
    assert "PyTorch source takes no --precision, --keep, --genai, --no-report" in err
    assert err.count("error[") == 1
    assert not place.exists()
    status, out, err = run_cli("compile", str(run), "--to", "torch", "-o", str(place), "--json")
    assert json.loads(out)["files"] == {str(place): place.stat().st_size}


def test_places_that_hold_something_else(run: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder" / "model.onnx").mkdir(parents=True)
    for place, code in (
        (run, "run-exists"),
        *((tmp_path / name, "cannot-write") for name in ("file", "file/", "file/below", "folder")),
    ):
        status, out, err = _compile(run, place)
        assert (status, out) == (1, "")
        assert err.startswith(f"error[{code}]: ")
    assert {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def failing(*_: object) -> bytes:
        raise failure

    assert _compile(run, tmp_path / "old", "--no-report").status == 0
    (tmp_path / "old" / "mine.txt").write_text("mine")
    old = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    monkeypatch.setattr(onnx_file_module, "_serialized", failing)
    for place in ("old", "new"):
        status, out, err = _compile(run, tmp_path / place)
        assert (status, out) == (1 if isinstance(failure, OSError) else 130, "")
        assert "no space left" in err or err == "interrupted\n"
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == old
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_model_that_cannot_be_measured_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "data.json").unlink()
    status, out, err = _compile(copy, tmp_path / "m", "--precision", "int4", "--held-out")
    assert (status, out) == (0, "")
    assert "note: no held-out text: the run does not say which text it was trained on" in err
    names = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert names == [name for name in NAMES if name != "heldout.txt"]
    status, out, err = _compile(run, tmp_path / "bf16", "--precision", "bf16")
    assert (status, out) == (0, "")
    assert "note: there is no table of the loss: onnxruntime" in err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status, out, err = _compile(run, tmp_path / "without", "--precision", "int4")
    assert (status, out) == (0, "")
    assert "note: there is no table of the loss: " in err
    assert "onnxruntime" in err


def test_a_signature_has_no_held_out_text(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "heldout.txt").write_text("of another model")
    status, out, err = _compile(SIGNATURE, folder, *TINY, "--precision", "int4")
    assert (status, out) == (0, "")
    assert "note: there is no table of the loss: only a run has held-out text" in err
    assert f"note: {folder / 'heldout.txt'} stood there before" in err
    assert (folder / "heldout.txt").read_text() == "of another model"


def test_rows_of_the_table() -> None:
    def shown(form: str, written: dict[str, int], **trained: int) -> list[dict[str, int]]:
        return rounds_to_show(form, written, written | trained)

    assert shown("fixed", {"A": 3}) == [{"A": 3}]
    assert shown("dynamic", {}) == [{}]
    assert shown("dynamic", {"A": 3}) == [{"A": each} for each in (1, 2, 3)]
    assert shown("dynamic", {"A": 3}, A=4) == [{"A": each} for each in (1, 2, 3, 4)]
    assert shown("gated", {"A": 3}, A=5) == [{"A": each} for each in (1, 2, 3)]
    many = shown("dynamic", {"A": 32}, A=20)
    assert [each["A"] for each in many] == [1, 2, 3, 4, 8, 16, 20, 32]
    assert len(many) == MOST_ROWS
    mixed = shown("gated", {"A": 2, "B": 4})
    assert {"A": 2, "B": 4} in mixed
    assert all(each["A"] <= 2 and each["B"] <= 4 for each in mixed)


def test_what_takes_long_is_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("rinsc.progress.time.monotonic", lambda: now)
    with ShownProgress().task("counting") as progress:
        progress(0.1)
        assert capsys.readouterr().err == ""
        now = 2.5
        progress(0.2)
        progress(0.3)
    assert capsys.readouterr().err == "counting …\n"


def test_a_difference_of_nothing_has_no_minus() -> None:
    assert [signed(each) for each in (-1e-9, 0.0, -6e-5, 2e-3)] == [
        *("+0.0000", "+0.0000", "-0.0001", "+0.0020"),
    ]
    assert signed(float("nan")) == "+nan"


@pytest.mark.parametrize("more", [(), ("--no-report",), ("--precision", "int4")], ids=" ".join)
def test_held_out_text_is_shipped_only_where_it_is_asked_for(
    run: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    folder = tmp_path / "m"
    assert _compile(run, folder, *more).status == 0
    text = "".join(document.text for document in load_corpus(_corpus(run)).held_out).encode()
    for path in folder.iterdir():
        assert text[:64] not in path.read_bytes()
    measured = run_cli("bench", str(folder), "--prompt-tokens", "2", "--new-tokens", "2")
    assert measured.status == 0
    assert "bits per byte are left out" in measured.err
    assert "--text" in measured.err
    assert "--held-out" in measured.err


def _corpus(run: Path) -> str:
    return str(json.loads((run / "data.json").read_text())["corpus"]["name"])


@pytest.mark.parametrize("args", [(SIGNATURE, "m/"), ("RUN", "m.onnx")])
def test_held_out_text_is_of_a_run_and_goes_into_a_folder(
    run: Path, tmp_path: Path, args: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = str(run) if args[0] == "RUN" else args[0]
    sizes = () if args[0] == "RUN" else TINY
    done = _compile(model, args[1], *sizes, "--held-out")
    assert (done.status, done.out) == (2, "")
    assert list(tmp_path.iterdir()) == []


FORMS = {
    "fixed": ("onnx", "--rounds", "2"),
    "three": ("onnx", "--rounds", "3"),
    "dynamic": ("onnx", "--rounds", "dynamic"),
    "cache": ("onnx", "--cache"),
    "int8": ("onnx", "--precision", "int8"),
    "genai": ("onnx", "--genai"),
    "hf": ("hf",),
    "hf at 3": ("hf", "--rounds", "3"),
}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *(("fixed", new) for new in FORMS),
        *(("hf", new) for new in ("fixed", "genai", "hf at 3")),
        *(("genai", new) for new in ("hf", "cache", "int8")),
    ],
)
def test_a_model_of_another_form_is_not_written_over(
    run: Path, tmp_path: Path, old: str, new: str
) -> None:
    folder = tmp_path / "m"

    def compile_(form: str, *more: str) -> Result:
        to, *words = FORMS[form]
        report = ("--no-report",) if to == "onnx" else ()
        return run_cli("compile", str(run), "--to", to, *words, *report, "-o", f"{folder}/", *more)

    assert compile_(old).status == 0
    assert compile_(old).status == 0  # the same command again
    (folder / "mine.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    if old == new:
        return
    refused = compile_(new)
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.startswith("error[other-form]: a model of another form stands here: ")
    assert "--overwrite" in refused.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    done = compile_(new, "--overwrite")
    assert done.status == 0, done.err
    names = {path.name for path in folder.iterdir()}
    assert ("model.onnx" in names) == (FORMS[new][0] == "onnx")
    assert ("modeling_rinsc.py" in names) == (FORMS[new][0] == "hf")
    assert ("genai_config.json" in names) == (new == "genai")
    assert (folder / "mine.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_what_was_to_be_written_over_is_back_where_that_fails(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "m"
    assert _compile(run, folder, "--no-report").status == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def failing(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_file_module, "_serialized", failing)
    assert _compile(run, folder, "--cache", "--overwrite").status == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_another_tool_s_model_is_not_written_over(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"of another tool")
    refused = _compile(run, folder, "--no-report")
    assert (refused.status, refused.out) == (1, "")
    assert (folder / "model.onnx").read_bytes() == b"of another tool"
