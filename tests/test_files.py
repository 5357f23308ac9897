"""JSON and TOML as they are read: limits on size and depth, and one place that reads them."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rinsc
from rinsc.storage.files import MAX_DEPTH, MAX_TOML, parse_json, parse_toml, read_json
from rinsc.storage.weights_digest import is_damaged

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
HOME = Path(rinsc.__file__).parent


@given(VALUES)
def test_json_is_what_python_reads(value: Any) -> None:
    text = json.dumps(value)
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 10_000, 1_000_000])
@pytest.mark.parametrize("around", [("[", "]"), ('{"a":', "}")], ids=["list", "object"])
def test_deep_json_is_a_value_error(depth: int, around: tuple[str, str], tmp_path: Path) -> None:
    """One value inside so many others: the innermost is a number."""
    text = around[0] * depth + "1" + around[1] * depth
    path = tmp_path / "deep.json"
    path.write_text(text)
    if depth <= MAX_DEPTH:
        assert parse_json(text) == read_json(path)
        return
    with pytest.raises(ValueError, match="nest deeper than 64"):
        parse_json(text)
    with pytest.raises(ValueError, match="nest deeper than 64"):
        read_json(path)


@pytest.mark.parametrize("text", ["[", "[" * 100_000, "", "{'a': 1}", "9" * 5000, "\ud800"])
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # words of the library
        parse_json(text)
    with pytest.raises(ValueError):  # noqa: PT011
        parse_json(text.encode("utf-8", "surrogatepass"))


def test_a_file_beyond_the_limit_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    path.write_text(f'"{"a" * 100}"')
    assert read_json(path, 102) == "a" * 100
    with pytest.raises(ValueError, match="more than 101 bytes"):
        read_json(path, 101)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        read_json(pipe)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_toml_is_what_python_reads_unless_it_is_deep() -> None:
    text = "a = [1, [2, {b = 'c'}]]\n[d.e]\nf = 1.5\n"
    assert parse_toml(text) == tomllib.loads(text)
    for deep in (f"a = {'[' * 5000}", f"a = {'[' * 65}{']' * 65}", ".".join("a" * 70) + " = 1"):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_toml(deep)


def test_nothing_else_reads_json_or_toml() -> None:
    reads = re.compile(r"\b(json(_text)?|tomllib)\.loads?\(")
    own = [path for path in HOME.rglob("*.py") if reads.search(path.read_text(encoding="utf-8"))]
    # The text of weights_digest.py is part of folders that run without rinsc.
    assert sorted(path.name for path in own) == ["files.py", "weights_digest.py"]


@pytest.mark.parametrize("header", [b"[" * 100_000, b"5", b'{"a": ' * 100_000])
def test_a_header_of_weights_that_nests_is_damaged(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert is_damaged(path)


_DOTTED = "a." * 32_000 + "a = 1"
_COSTLY = {
    "a dotted key": _DOTTED,
    "a header": f"[{'a.' * 32_000}a]",
    "quoted parts": '"a" . ' * 10_000 + "a = 1",
    "inside a table": f"x = {{{_DOTTED}}}",
    "after an empty string": f'x = """"""\n{_DOTTED}',
    "after a string that ends in a quote": f'x = """a"""""\n{_DOTTED}',
    "after a string with an escape": f'x = "\\\\"\n{_DOTTED}',
    "after a literal string": f"x = '\\'\n{_DOTTED}",
    "after a comment": f'# "\n{_DOTTED}',
    "arrays": "x = " + "[" * 32_000 + "]" * 32_000,
    "tables": "x = " + "{a=" * 16_000 + "1" + "}" * 16_000,
    "many characters": "#" * (MAX_TOML + 1),
}


@pytest.mark.parametrize("text", _COSTLY.values(), ids=_COSTLY)
def test_a_costly_toml_is_refused_before_it_is_parsed(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tomllib, "loads", lambda text: pytest.fail("it was parsed"))
    with pytest.raises(ValueError, match=r"more than|deeper than"):
        parse_toml(text)


_TOML_VALUES = st.recursive(
    st.one_of(
        st.integers(),
        st.floats(allow_nan=False),
        st.booleans(),
        st.text("ab.[]{}=#,\n\"'\\ é", max_size=12),
    ),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text("ab.#[", min_size=1, max_size=4), _TOML_VALUES, max_size=4))
def test_dots_and_brackets_in_strings_do_not_count(values: dict[str, object]) -> None:
    def written(value: object) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(written, value))}]"
        if isinstance(value, float):
            return repr(value)
        return json.dumps(value)

    lines = [f"{json.dumps(key)} = {written(value)}" for key, value in values.items()]
    many = [f"list = {written(['a.b[' * 50] * 30)}"] if "list" not in values else []
    text = "\n".join(lines + many)
    assert parse_toml(text) == tomllib.loads(text)
