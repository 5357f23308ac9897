"""Presets, completion, replaced signatures and names of corpora: what the page on the command line
says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rinsc.cli import COMMANDS
from rinsc.cli.presets import preset_cells, preset_facts
from rinsc.spec.presets import PRESETS, TOWER_PRESETS
from tests.cli.command_line import run_cli

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "command-line.md"


def presets_table() -> str:
    """The table of the page; ``python -m tests.cli.test_command_line_page`` writes it."""
    rows = [preset_cells(name, preset_facts(name)) for name in PRESETS]
    heads = ("preset", *preset_facts("tiny"))
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def test_the_presets_of_the_page_are_those_of_the_package() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition("<!-- presets -->\n")[2].partition("\n<!-- end -->")[0] == presets_table()


def test_presets_are_printed_with_every_dimension() -> None:
    shown = json.loads(run_cli("presets", "--json").out)
    assert list(shown) == [*PRESETS, *TOWER_PRESETS]
    for name in TOWER_PRESETS:
        cost = json.loads(run_cli("cost", "image: A, text: B", "--preset", name, "--json").out)
        told = sum(tower["parameters"] for tower in shown[name].values())
        assert cost["stored_params"] == told + 2  # of what compares the two
    for name in PRESETS:
        facts = shown[name]
        assert PRESETS[name].items() <= facts.items()
        cost = json.loads(run_cli("cost", "AB", "--preset", name, "--json").out)
        assert facts["parameters"] == cost["stored_params"]
        assert f"{facts['mlp_width']:,}" in run_cli("presets").out


BASH = """
source /dev/stdin <<'SCRIPT'
{script}
SCRIPT
complete() {{ :; }}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_rinsc rinsc "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ('rinsc ""', {name for name, _, _ in COMMANDS}),
        ("rinsc tr", {"train"}),
        ("rinsc zoo en", {"enumerate"}),
        ("rinsc check A --lay", {"--layers"}),
        ('rinsc compile A --to ""', {"torch", "onnx", "hf"}),
    ],
)
def test_bash_completes(words: str, found: set[str]) -> None:
    script = run_cli("completion", "bash").out
    done = subprocess.run(
        ["bash", "-c", BASH.format(script=script, words=words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert found <= set(done.stdout.split())
    if len(found) == 1:
        assert set(done.stdout.split()) == found


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script(shell: str) -> None:
    script = run_cli("completion", shell).out
    assert all(name in script for name, _, _ in COMMANDS)


def test_a_signature_replaces_that_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text('signature = "AB"\npreset = "tiny"\nlayers = 6\n')
    replaced = run_cli("check", str(path), "--signature", "A^rB", "--set", "r=3", "--json")
    facts = json.loads(replaced.out)
    assert (facts["signature"], facts["layers"]) == ("A^3B", {"A": 3, "B": 3})
    written = run_cli("check", "A^3B", "--preset", "tiny", "--layers", "6", "--json")
    assert facts["fingerprint"] == json.loads(written.out)["fingerprint"]
    of_zoo = json.loads(run_cli("cost", "tinyllama", "--signature", "A^2", "--json").out)
    assert of_zoo["signature"] == "A^2"
    assert (
        of_zoo["stored_params"]
        == json.loads(run_cli("cost", "tinyllama", "--json").out)["stored_params"]
    )
    for args in (("check", "A", "--signature", "B"), ("check", str(path), "--signature", "B^")):
        done = run_cli(*args)
        assert (done.status, done.out) in ((1, ""), (2, ""))


@pytest.mark.parametrize(
    ("name", "files", "kind"),
    [
        ("corpus", ("a.txt", "b.md"), "text"),
        ("corpus", ("a.jsonl",), "jsonl"),
        ("rows", ("a.parquet", "b.parquet"), "parquet"),
        ("a.txt", (), "text"),
        ("a.jsonl.gz", (), "jsonl"),
    ],
)
def test_a_path_in_place_of_a_corpus_gets_its_kind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    files: tuple[str, ...],
    kind: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if files:
        Path(name).mkdir()
    for file in files:
        (Path(name) / file).write_text("x")
    if not files:
        Path(name).write_text("x")
    done = run_cli("train", "A", "--data", name, "-o", "run")
    assert (done.status, done.out) == (1, "")
    assert f"write {kind}:{name}" in done.err


if __name__ == "__main__":
    before, mark, rest = PAGE.read_text(encoding="utf-8").partition("<!-- presets -->\n")
    after = rest[rest.index("<!-- end -->") :]
    PAGE.write_text(f"{before}{mark}{presets_table()}\n{after}", encoding="utf-8")
    sys.exit(0)
