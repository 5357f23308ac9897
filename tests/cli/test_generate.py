"""``rinsc generate``: streams, stop strings, several prompts, folders, and what it refuses."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import pytest

import rinsc.generation
import rinsc.sampling
from rinsc.backends.torch.generating import generate_ids
from rinsc.cli import main
from rinsc.data.tokenizer import load_tokenizer
from tests.cli.command_line import Result, run_cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["run", "onnx", "cached"], scope="session")
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in PyTorch, and in ONNX Runtime without and with a cache."""
    run: Path = request.getfixturevalue("run")
    if request.param == "run":
        return run
    folder = tmp_path_factory.mktemp("folder")
    shutil.copy(run / "tokenizer.json", folder)
    args = ("--rounds", "dynamic", *(["--cache"] if request.param == "cached" else []))
    done = run_cli("compile", str(run), "--to", "onnx", *args, "-o", str(folder / "model.onnx"))
    assert done.status == 0, done.err
    return folder


def generate(model: Path, *args: str, tokens: int = 10) -> Result:
    return run_cli("generate", str(model), *args, "--max-new-tokens", str(tokens))


def continued(model: Path, prompt: str, *args: str, tokens: int = 10) -> str:
    done = generate(model, "--prompt", prompt, "--json", *args, tokens=tokens)
    assert done.status == 0, done.err
    return str(json.loads(done.out)["text"])


def test_a_text_is_that_of_its_ids(model: Path, run: Path) -> None:
    from rinsc.sampling import Sampling
    from rinsc.verbs.models import open_run, run_model

    words = load_tokenizer(run / "tokenizer.json")
    sampling = Sampling(temperature=1.0, top_k=200, top_p=0.95, seed=4)
    prompt = words.encode("On day").tolist()
    ids = generate_ids(run_model(open_run(str(run))), prompt, 10, sampling=sampling, rounds=1)
    settings = ("--temperature", "1", "--top-k", "200", "--top-p", "0.95", "--seed", "4")
    found = generate(model, "--prompt", "On day", *settings, "--rounds", "1")
    assert found == (0, f"On day{words.decode(ids)}\n", found.err)
    assert continued(model, "On day", *settings, "--rounds", "1") == words.decode(ids)


def test_several_prompts_are_each_alone_with_the_next_seed(model: Path) -> None:
    prompts = ("On day 3", "O", "The rain é")
    args = ("--temperature", "1.5", "--seed")
    alone = [
        continued(model, prompt, *args, str(7 + place)) for place, prompt in enumerate(prompts)
    ]
    asked = [word for prompt in prompts for word in ("--prompt", prompt)]
    found = generate(model, *asked, *args, "7", "--json")
    pairs = zip(prompts, alone, strict=True)
    assert json.loads(found.out) == [{"prompt": prompt, "text": text} for prompt, text in pairs]
    printed = generate(model, *asked, *args, "7").out
    shown = [prompt + text for prompt, text in zip(prompts, alone, strict=True)]
    assert printed == "\n\n".join(shown) + "\n"


def test_a_text_ends_before_a_stop_string(model: Path) -> None:
    args = ("--temperature", "2", "--seed", "1")
    whole = continued(model, "On", *args)
    stop = whole[4:7]
    assert (
        continued(model, "On", *args, "--stop", "no such", "--stop", stop) == whole.split(stop)[0]
    )
    assert generate(model, "--prompt", "On", *args, "--stop", whole[0]).out == "On\n"


def test_no_token_is_made_after_the_end(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    choose = rinsc.sampling.sample_next

    def counted(*args: Any) -> int:
        calls.append(args)
        return choose(*args)

    monkeypatch.setattr("rinsc.generation.sample_next", counted)
    stop = continued(model, "On", tokens=1)[:1]
    calls.clear()
    assert continued(model, "On", "--stop", stop, tokens=1000) == ""
    assert len(calls) == 1


def test_the_text_is_written_while_it_is_made(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interruption in the fifth token leaves the first four, and a line's end."""
    whole = run_cli("generate", str(model), "--prompt", "On", "--max-new-tokens", "4").out
    count = 0
    choose = rinsc.sampling.sample_next

    def interrupted(*args: Any) -> int:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        return choose(*args)

    monkeypatch.setattr("rinsc.generation.sample_next", interrupted)
    found = run_cli("generate", str(model), "--prompt", "On", "--max-new-tokens", "9")
    assert found.status == 130
    assert found.err.endswith("interrupted\n")
    assert found.out.endswith("\n")
    # What might become another character is not shown.
    assert whole.rstrip("\n").removesuffix("\ufffd") == found.out.rstrip("\n")


def test_interrupted_texts_stay(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = ("--prompt", "On", "--prompt", "The rain")
    whole = run_cli("generate", str(run), *prompts, "--max-new-tokens", "4").out
    steps = rinsc.generation.stream_tokens

    def interrupted(*args: Any) -> Iterator[list[int | None]]:
        yield from islice(steps(*args), 4)
        raise KeyboardInterrupt

    monkeypatch.setattr("rinsc.drafting.stream_tokens", interrupted)
    found = run_cli("generate", str(run), *prompts, "--max-new-tokens", "9")
    assert (found.status, found.out.replace("\ufffd", "")) == (130, whole.replace("\ufffd", ""))


def test_every_piece_is_flushed(run: Path) -> None:
    seen: list[str] = []

    class Flushed(io.StringIO):
        def flush(self) -> None:
            seen.append(self.getvalue())

    with redirect_stdout(Flushed()) as out:
        args = ["generate", str(run), "--prompt", "On", "--max-new-tokens", "6"]
        assert main(args) == 0
    distinct = list(dict.fromkeys(seen))
    assert len(distinct) >= 3
    assert all(out.getvalue().startswith(part) for part in distinct)


@pytest.mark.parametrize(("tokens", "noted"), [(1, False), (1000, True)])
def test_a_window_that_moves_is_told(model: Path, tokens: int, noted: bool) -> None:
    tokens = min(tokens, 30)  # the context has 16
    status, _, err = generate(model, "--prompt", "On", tokens=tokens)
    assert status == 0
    assert ("note: " in err) is noted
    assert ("exceed the context of 16" in err) is noted


def test_rounds_above_the_trained_ones_are_told(model: Path) -> None:
    for rounds, noted in (("2", False), ("3", True)):
        found = generate(model, "--prompt", "On", "--rounds", rounds, tokens=2)
        assert found.status == 0
        assert ("note: repeat 'A' runs 3 rounds and was trained at 2" in found.err) is noted
        assert "Warning" not in found.err


def test_the_rounds_that_a_run_was_told_are_the_trained_ones(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "checksums.json").unlink()  # as who changes a run on purpose has to
    config = folder / "train.toml"
    config.write_text(config.read_text() + "\nrounds = 4\n")
    assert "note:" not in generate(folder, "--prompt", "On", "--rounds", "4", tokens=2).err
    assert "note:" in generate(folder, "--prompt", "On", "--rounds", "5", tokens=2).err
    config.unlink()
    assert "note:" in generate(folder, "--prompt", "On", "--rounds", "4", tokens=2).err


def refused(args: Sequence[str], code: str, status: int) -> str:
    found = run_cli("generate", *args)
    assert (found.status, found.out) == (status, "")
    assert found.err.startswith(f"error[{code}]: ")
    assert found.err.count("error[") == 1
    return found.err


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--prompt", "On " * 50], "prompt-too-long"),
        (["--prompt", "On", "--prompt", "On " * 50], "prompt-too-long"),
        (["--prompt", "On", "--prompt", ""], "usage"),
        (["--prompt", "On", "--stop", ""], "bad-stop"),
        (["--prompt", "On", "--stop", "\udcff"], "usage"),
        (["--prompt", "On", "--top-p", "0"], "bad-sampling"),
        (["--prompt", "On", "--top-p", "1.5"], "bad-sampling"),
        (["--prompt", "On", "--top-p", "nan"], "bad-sampling"),
        (["--prompt", "On", "--top-p", "much"], "usage"),
        ([], "usage"),
    ],
)
def test_bad_arguments(model: Path, args: list[str], code: str) -> None:
    error = refused([str(model), *args], code, 2)
    assert ("prompt 2 of 2" in error) is (code == "prompt-too-long" and len(args) > 2)


def test_a_folder_of_neither_kind_is_told_of_both(tmp_path: Path) -> None:
    error = refused([str(tmp_path), "--prompt", "x"], "not-a-model", 1)
    assert "model.toml" in error
    assert "model.onnx" in error


def test_what_is_named_instead_of_a_model(run: Path, tmp_path: Path) -> None:
    cases = {
        str(tmp_path / "none"): "there is no such file or folder",
        "nothere": "there is no such file or folder",
        "": "there is no such file or folder",
        "x" * 5000: "there is no such file or folder",
        str(run / "model.toml"): "name the folder of the run or of the model",
        str(run / "model.safetensors"): "name the folder of the run or of the model",
        "(A^3)B": 'train it first: rinsc train "(A^3)B"',
    }
    for text, said in cases.items():
        assert said in refused([text, "--prompt", "x"], "not-a-model", 1)


def test_settings_without_effect_are_told(run: Path) -> None:
    words = ("--prompt", "On", "--top-p", "0.9")
    said = "note: --top-p has no effect at temperature 0; add --temperature 0.8\n"
    assert generate(run, *words, tokens=1).err == said
    assert "--top-k and --top-p have no" in generate(run, *words, "--top-k", "3", tokens=1).err
    assert "note" not in generate(run, *words, "--temperature", "0.8", tokens=1).err
    assert "note" not in generate(run, "--prompt", "On", tokens=1).err


def test_options_of_the_other_runtime(model: Path, run: Path) -> None:
    option = ["--provider", "cpu"] if model == run else ["--no-cache"]
    assert option[0] in refused([str(model), "--prompt", "On", *option], "usage", 2)


def test_the_rounds_that_were_used(run: Path, model: Path, tmp_path: Path) -> None:
    if model == run:
        args = ("--to", "onnx", "--rounds", "dynamic", "--exit", "state:1e6", "--no-report")
        done = run_cli("compile", str(run), *args, "-o", str(tmp_path / "early"))
        assert done.status == 0, done.err
        words = ("--prompt", "On", "--rounds", "4", "--json")
        found = json.loads(generate(tmp_path / "early", *words, tokens=2).out)
        assert found["rounds_used"] == {"A": 2}
    assert "rounds_used" not in json.loads(generate(model, "--prompt", "On", "--json").out)


def test_a_model_folder_without_a_tokenizer(model: Path, run: Path, tmp_path: Path) -> None:
    if model == run:
        return
    shutil.copy(model / "model.onnx", tmp_path)
    refused([str(tmp_path), "--prompt", "x"], "no-tokenizer", 2)
    words = ("--tokenizer", str(run / "tokenizer.json"))
    assert generate(tmp_path, "--prompt", "On", *words).out == generate(run, "--prompt", "On").out


def test_a_reader_that_goes_away_ends_it(run: Path) -> None:
    command = [sys.executable, "-m", "rinsc", "generate", str(run), "--prompt", "On"]
    script = '"$@" --max-new-tokens 2000 | head -c 1; exit "${PIPESTATUS[0]}"'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (141, "O")
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="session")
def ending(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """The model with a tokenizer whose second or a later drawn token after "On" ends a text.

    With it the id of that token, and the text before it.
    """
    from tokenizers import Tokenizer

    words = load_tokenizer(model / "tokenizer.json")
    folder = tmp_path_factory.mktemp("ending") / "model"
    shutil.copytree(model, folder)
    for name in ("config.json", "tokenizer_config.json", "checksums.json"):
        (folder / name).unlink(missing_ok=True)
    ids = drawn(model, "On", 8)
    place = next(i for i in range(1, 8) if ids[i] not in ids[:i])
    content = json.loads(words.to_json())
    names = {i: name for name, i in content["model"]["vocab"].items()}
    old, stop = names[ids[place]], ids[place]
    vocab = content["model"]["vocab"]
    vocab[old], vocab["<|endoftext|>"] = vocab["<|endoftext|>"], stop
    content["added_tokens"][0] |= {"id": stop}
    text = json.dumps(content)
    Tokenizer.from_str(text)
    (folder / "tokenizer.json").write_text(text)
    if (folder / "data.json").exists():
        (folder / "data.json").unlink()
    return folder, stop, words.decode(ids[:place])


DRAWN = ("--temperature", "2", "--seed", "1")


def drawn(model: Path, prompt: str, count: int) -> list[int]:
    """The ids that the model draws as with `DRAWN`."""
    words = load_tokenizer(model / "tokenizer.json")
    ids = words.encode(prompt).tolist()
    if (model / "model.onnx").exists():
        from rinsc.backends.onnx import Session

        return Session(model).generate(ids, count, temperature=2.0, seed=1)
    from rinsc.sampling import Sampling
    from rinsc.verbs.models import open_run, run_model

    sampling = Sampling(temperature=2.0, seed=1)
    return generate_ids(run_model(open_run(str(model))), ids, count, sampling=sampling)


def test_a_text_ends_at_the_token_that_ends_a_text(ending: tuple[Path, int, str]) -> None:
    folder, stop, before = ending
    found = generate(folder, "--prompt", "On", *DRAWN)
    assert found.out == f"On{before}\n", found.err
    whole = continued(folder, "On", *DRAWN, "--ignore-eos")
    assert whole.startswith(before)
    assert len(whole) > len(before)
    assert "<|endoftext|>" not in whole
    assert continued(folder, "On", *DRAWN, "--ignore-eos", "--stop-id", str(stop)) == before


def test_the_configs_beside_a_model_name_what_ends_a_text(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "checksums.json").unlink(missing_ok=True)
    ids = drawn(model, "On", 8)
    place = next(i for i in range(1, 8) if ids[i] not in ids[:i])
    words = load_tokenizer(model / "tokenizer.json")
    before = words.decode(ids[:place]).removesuffix("\ufffd")
    for name in ("generation_config.json", "config.json"):
        config = tmp_path / "model" / name
        old = config.read_bytes() if config.exists() else None
        config.write_text(json.dumps({"eos_token_id": [int(ids[place]), 10**9]}))
        assert continued(tmp_path / "model", "On", *DRAWN).removesuffix("\ufffd") == before
        config.unlink() if old is None else config.write_bytes(old)


def test_ids_without_a_token_are_never_generated(model: Path) -> None:
    import numpy as np

    from rinsc.drafting import stream_chosen
    from rinsc.generation import Request
    from rinsc.sampling import Sampling

    size = load_tokenizer(model / "tokenizer.json").vocab_size
    request, rising = Request(((1,), (2,)), 3), np.arange(size + 4.0)

    def logits(rows: Any, live: Any) -> list[Any]:
        return [rising for _ in live]

    def no_drafts(drafting: object) -> NoReturn:
        raise AssertionError

    steps = stream_chosen(
        logits,
        no_drafts,
        request,
        Sampling(),
        context=9,
        drafting=None,
        vocabulary=size,
    )
    assert list(steps) == [(size - 1, size - 1)] * 3


def test_a_tokenizer_without_a_template_and_options_that_exclude_each_other(run: Path) -> None:
    refused([str(run), "--prompt", "On", "--chat"], "no-chat-template", 1)
    refused([str(run), "--prompt", "On", "--chat", "--raw"], "usage", 2)
    refused([str(run), "--prompt", "On", "--stop-id", "9999"], "bad-token", 2)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 'a' * 10**11 }}", "memory"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "time"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{% if %}", "chat template cannot be used"),
        ("{{ raise_exception('no users here') }}", "no users here"),
    ],
)
def test_a_template_can_do_no_harm(
    run: Path, tmp_path: Path, template: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rinsc.verbs.chat.RENDER_SECONDS", 1)
    shutil.copy(run / "tokenizer.json", tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    words = ("--tokenizer", str(tmp_path / "tokenizer.json"))
    error = refused([str(run), "--prompt", "On", "--chat", *words], "bad-chat-template", 1)
    assert said in error


def test_a_padded_vocabulary(run: Path, tmp_path: Path) -> None:
    """It trains, ids without a token are not said, and a smaller one is an error."""
    import torch
    from safetensors.torch import load_file, save_file

    words, text = str(run / "tokenizer.json"), tmp_path / "text.txt"
    text.write_text("On day 3 the rain é came down.\n" * 300)
    size = load_tokenizer(run / "tokenizer.json").vocab_size
    sizes = (
        "--layers",
        "2",
        "--width",
        "16",
        "--heads",
        "2",
        "--kv-heads",
        "2",
        "--untied-embedding",
        "--mlp-width",
    )
    command = (
        *("train", "AB", *sizes, "24", "--context", "24", "--data", f"text:{text}"),
        *("--steps", "1", "--batch", "2", "--tokenizer", words),
    )
    few = run_cli(*command, "--vocab-size", str(size - 1), "-o", str(tmp_path / "few"))
    assert few.status != 0
    assert few.err.count("error[vocabulary-mismatch]") == 1
    assert not (tmp_path / "few").exists()
    taken = run_cli(*command, "-o", str(tmp_path / "taken"))
    assert taken.status == 0, taken.err
    assert f"vocab_size = {size}\n" in (tmp_path / "taken" / "model.toml").read_text()
    padded = tmp_path / "padded"
    done = run_cli(*command, "--vocab-size", str(size + 4), "-o", str(padded))
    assert done.status == 0, done.err
    weights = load_file(padded / "model.safetensors")
    (head,) = (name for name in weights if "head" in name)
    likely = torch.zeros_like(weights[head])
    weights[head] = likely.index_fill(0, torch.arange(size, size + 4), 1.0)
    save_file(weights, padded / "model.safetensors", metadata={"format": "pt"})
    assert run_cli("generate", str(padded), "--prompt", "On").status == 0
    assert run_cli("compile", str(padded), "--to", "hf", "-o", str(tmp_path / "hub")).status == 0
    config = json.loads((tmp_path / "hub" / "generation_config.json").read_text())
    assert config["suppress_tokens"] == [size, size + 1, size + 2, size + 3]


def test_drafts_change_no_text(model: Path) -> None:
    plain = continued(model, "On day", "--rounds", "3", tokens=40)
    done = generate(
        model, "--prompt", "On day", "--rounds", "3", "--draft-rounds", "1", "--json", tokens=40
    )
    if done.status != 0:
        assert "no cache" in done.err
        assert done.out == ""
        return
    said = json.loads(done.out)
    assert said["text"] == plain
    counts = said["drafts"]
    assert counts["drafted"] >= counts["accepted"] >= 0
    assert f"drafts: {counts['accepted']} of {counts['drafted']} accepted" in done.err
    stop = plain[12:15]
    asked = ("--rounds", "3", "--stop", stop, "--draft-rounds")
    assert continued(model, "On day", *asked, "1", tokens=40) == plain[: plain.index(stop)]
    mistakes = (("3", "equals"), ("4", "above"), ("0", "rounds"), ("one", "--draft-rounds 3"))
    for rounds, words in mistakes:
        refused = generate(model, "--prompt", "On day", *asked, rounds)
        assert refused.status == 2
        assert refused.err.count("error") == 1
        assert words in refused.err
