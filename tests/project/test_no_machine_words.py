"""The repository says nothing of the machine it was written on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOME_PATH = re.compile(r"(?<![\w.~])/(?:home|Users|root)/\w")
INDEX_OPTION = re.compile(r"--(?:extra-)?index-url|--find-links|--trusted-host")
INDEX_HOST = re.compile(r"https?://[^/\s]*(?:registry|mirror|proxy|artifact|index|\.local|:\d)")


def test_no_file_names_this_machine() -> None:
    found = {
        str(path.relative_to(ROOT)): words
        for path in _text_files()
        if path != Path(__file__).resolve()
        and (words := _machine_words(path.read_text(encoding="utf-8", errors="ignore")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "data = '/home/ann/corpus'",
        "open('/Users/ann/x')",
        f"cd {ROOT}",
        "pip install --extra-index-url x",
        "https://mirror.example/simple",
        "http://127.0.0.1:8080",
    ],
)
def test_a_machine_word_is_found(text: str) -> None:
    assert _machine_words(text)


@pytest.mark.parametrize(
    "text", ["/tmp/x", "see https://example.org/home/paper", "~/data", "the root / the home"]
)
def test_other_words_pass(text: str) -> None:
    assert not _machine_words(text)


def _machine_words(text: str) -> list[str]:
    found = [
        match.group()
        for rule in (HOME_PATH, INDEX_OPTION, INDEX_HOST)
        for match in rule.finditer(text)
    ]
    if len(ROOT.parts) > 2 and str(ROOT) in text:
        found.append(str(ROOT))
    return found


def _text_files() -> list[Path]:
    """Files that git tracks or would track; every source file where there is no git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        folders = ("rinsc", "grammar", "zoo", "tests", "examples")
        paths = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    else:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:4096]]
