"""``rinsc data``: corpora that packages carry, and the cache of tokenized text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from rinsc.cli.output import print_json, print_json_list, print_result, print_table
from rinsc.cli.values import Count, option_values
from rinsc.errors import DataError, UsageError, plural
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
    from rinsc.data.pairs.sets import picture_sets

    entries = (*catalog().values(), *picture_sets().values())
    rows = [(entry, state(entry.name)) for entry in entries]
    if json:
        print_json_list({**asdict(entry), "state": status} for entry, status in rows)
        return
    heads = ("name", "text", "licence", "sha256", "state", "what")
    print_table(heads, (_row(entry, status) for entry, status in rows), left=(0, 2, 3, 4, 5))


def add(name: Annotated[str, Parameter(name="NAME")], /, *, json: bool = False) -> None:
    """Get a corpus out of its package, compare its sha256, and put it into the data folder.

    Then --data NAME trains on it. The data folder is RINSC_DATA, else one in your cache directory.
    "pictures" are all sets of pictures with captions, for --data pairs:pictures.

    Parameters
    ----------
    json
        Print what was added as JSON.
    """
    from rinsc.data.add import add as add_corpus
    from rinsc.data.corpora import added_folder, entry

    if name.partition("/")[0] == "pictures":
        _add_pictures(name, json)
        return
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


def _add_pictures(name: str, json: bool) -> None:
    """All sets; of several, those of Debian packages that are not installed are told and left."""
    from rinsc.data.corpora import added_folder
    from rinsc.data.pairs.add import add_pictures
    from rinsc.data.pairs.sets import chosen_sets
    from rinsc.progress import ShownProgress

    with option_values():
        sets = chosen_sets(name)
    progress = ShownProgress()
    rows: list[dict[str, Any]] = []
    for one in sets:
        try:
            added = add_pictures(one, progress)
        except DataError as error:
            if len(sets) == 1 or error.code not in ("package-not-installed", "not-debian"):
                raise
            progress.note(f"{one.name} is left out: {error.message}; {error.hint}")
            continue
        folder = str(added_folder(one.name))
        facts = {"licence": one.licence, "use": one.use, "folder": folder}
        rows.append({**asdict(added), **facts})
    if json:
        print_json_list(rows)
        return
    heads = ("set", "version", "pictures", "unseen", "licence", "sha256")
    table = [
        (
            *(row["name"], row["version"], exact(row["pictures"]), exact(row["unseen"])),
            *(row["licence"], row["sha256"][:SHOWN_DIGITS]),
        )
        for row in rows
    ]
    print_table(heads, table, left=(0, 1, 4, 5))


def prepare(
    name: Annotated[str, Parameter(name="NAME")],
    /,
    *,
    tokenizer: Path | None = None,
    vocab_size: Count | None = None,
    image_size: Count | None = None,
    json: bool = False,
) -> None:
    """Tokenize a corpus into the cache, or find it there, and print what it holds.

    Of pictures with captions (pairs:PATH) the pictures are decoded.

    Parameters
    ----------
    tokenizer
        A tokenizer.json, or a folder that holds one.
    vocab_size
        Learn a tokenizer of so many tokens from the text instead.
    image_size
        The side of decoded pictures, for pairs:PATH alone.
    json
        Print JSON.
    """
    if name.startswith("pairs:") or image_size is not None:
        _prepare_pairs(name, image_size, tokenizer is None and vocab_size is None, json)
        return
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


def _prepare_pairs(name: str, image_size: int | None, alone: bool, json: bool) -> None:
    if image_size is None or not alone:
        message = "pictures with captions take --image-size, and nothing else"
        raise UsageError("usage", message, hint=f"rinsc data prepare {quote(name)} --image-size 64")
    from rinsc.data.names import note_named
    from rinsc.data.pairs import open_pairs

    pairs = open_pairs(name, image_size)
    note_named(name)
    if json:
        print_json(pairs.record)
        return
    rows = [("left out", exact(pairs.skipped.count))]
    for part, indices in (("held out", pairs.held_out), ("training", pairs.train)):
        captions = sum(len(pairs.captions(int(index))) for index in indices)
        counts = plural(len(indices), "picture", exact(len(indices)))
        rows.insert(0, (part, f"{counts}, {plural(captions, 'caption', exact(captions))}"))
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
