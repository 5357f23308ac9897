"""``rinsc data``: corpora that packages carry, and the cache of tokenized text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from rinsc.cli.output import print_json, print_json_list, print_result, print_table
from rinsc.cli.values import Count, option_values
from rinsc.errors import UsageError, plural
from rinsc.extras import require
from rinsc.scalars import exact, rounded_bytes

if TYPE_CHECKING:
    from rinsc.data.corpora import Added, Entry
    from rinsc.data.documents import Source
    from rinsc.data.tokenizer import BytePairTokenizer

SHOWN_DIGITS = 16


def list_(*, json: bool = False) -> None:
    """Print every corpus that has a name of its own, and which of them are here.

    Parameters
    ----------
    json
        Print one JSON document: a list of objects.
    """
    from rinsc.data.corpora import catalog, state

    rows = [(entry, state(entry.name)) for entry in catalog().values()]
    if json:
        print_json_list({**asdict(entry), "state": status} for entry, status in rows)
        return
    heads = ("name", "text", "licence", "sha256", "state", "what")
    print_table(heads, (_row(entry, status) for entry, status in rows), left=(0, 2, 3, 4, 5))


def add(name: Annotated[str, Parameter(name="NAME")], /, *, json: bool = False) -> None:
    """Get a corpus out of its package, compare its sha256, and put its text into the data folder.

    Then --data NAME trains on it. The data folder is RINSC_DATA, else one in your cache directory.

    Parameters
    ----------
    json
        Print what was added as JSON.
    """
    from rinsc.data.add import add as add_corpus
    from rinsc.data.corpora import added_folder, entry

    with option_values():
        corpus = entry(name)
    added: Added = add_corpus(corpus)
    folder = str(added_folder(name))
    if json:
        print_json({"name": name, "folder": folder, **asdict(added)})
        return
    rows = (
        ("corpus", f"{name}: {corpus.title}"),
        ("licence", corpus.licence),
        ("version", f"{corpus.package} {added.version}"),
        (
            "text",
            f"{exact(added.bytes)} bytes in {plural(added.files, 'file', exact(added.files))}",
        ),
        ("sha256", f"{added.sha256} as it must be"),
        ("folder", folder),
    )
    print_result("\n".join(f"{name:<9} {value}" for name, value in rows))


def prepare(
    name: Annotated[str, Parameter(name="NAME")],
    /,
    *,
    tokenizer: Path | None = None,
    vocab_size: Count | None = None,
    json: bool = False,
) -> None:
    """Tokenize a corpus into the cache, or find it there, and print what it holds.

    Parameters
    ----------
    tokenizer
        A tokenizer.json, or a folder that holds one.
    vocab_size
        Learn a tokenizer of so many tokens from the text instead.
    json
        Print JSON.
    """
    if (tokenizer is None) == (vocab_size is None):
        message = "give either --tokenizer or --vocab-size"
        raise UsageError("usage", message, hint="see rinsc data prepare --help")
    require("numpy", "tokenizers")
    from rinsc.data.cache import cache_key, prepare
    from rinsc.data.corpora import open_corpus
    from rinsc.data.names import note_named, tokens_folder
    from rinsc.progress import PreparationProgress

    source = open_corpus(name)
    note_named(name)
    chosen = _tokenizer(source, tokenizer, vocab_size)
    with PreparationProgress(name) as progress:
        tokens = prepare(source, chosen, progress=progress)
    folder = str(tokens_folder() / cache_key(source, chosen))
    if json:
        print_json({"folder": folder, **tokens.record})
        return
    held_out_bytes = int(tokens.held_out_bytes.sum())
    rows = (
        ("training", f"{exact(len(tokens.train))} tokens"),
        ("held out", f"{exact(len(tokens.held_out))} tokens, {exact(held_out_bytes)} bytes"),
        ("documents", exact(len(tokens.train_starts)) + " to train on"),
        ("folder", folder),
    )
    print_result("\n".join(f"{name:<10} {value}" for name, value in rows))


def _tokenizer(source: Source, path: Path | None, vocab_size: int | None) -> BytePairTokenizer:
    from rinsc.data.cache import learned_tokenizer
    from rinsc.data.tokenizer import load_tokenizer

    return learned_tokenizer(source, vocab_size or 0) if path is None else load_tokenizer(path)


def _row(entry: Entry, state: str) -> tuple[str, ...]:
    sha256 = entry.expected_sha256[:SHOWN_DIGITS]
    size = rounded_bytes(entry.bytes)
    return entry.name, size, entry.licence, sha256, state, f"{entry.title} ({entry.package})"


data = App(name="data", help="Corpora that packages carry, and the cache of tokenized text.")
for name, command in (("list", list_), ("add", add), ("prepare", prepare)):
    data.command(command, name=name)
