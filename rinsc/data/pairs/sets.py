"""Sets of pictures that packages carry, and what each says of its pictures.

A reader yields a `Described` for each picture: the file, what it shows, words that go with it, and
the group it stands in. Of these its captions are made:

    grapes  ·  grapes, fruit, vine  ·  grapes, food & drink
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

from rinsc.data.corpora import Entry
from rinsc.data.names import data_error
from rinsc.data.pairs.captions import canonical
from rinsc.errors import did_you_mean
from rinsc.storage.files import parse_json, parse_toml

PICTURES = "pictures"  # the name of all sets together
# Files of a set in the data folder: lines of what is trained on, and of concepts that never are.
TRAINING, UNSEEN = "metadata.jsonl", "unseen.jsonl"
MOST_WORDS = 6  # that go with a picture, in a caption


@dataclass(frozen=True)
class PictureSet(Entry):
    """A set of the catalog; the pictures of a "style" are never trained on."""

    use: Literal["train", "style"] = "train"


@dataclass(frozen=True)
class Described:
    """A picture of a package: ``title`` is what it shows.

    ``group`` and ``subgroup`` are classes, in words. A ``variant`` is another one with a trait of
    its own, as the colour of a skin; it is no example of a class.
    """

    path: Path
    title: str
    words: tuple[str, ...] = ()
    group: str = ""
    subgroup: str = ""
    variant: bool = False

    @property
    def captions(self) -> list[str]:
        words = [word for word in dict.fromkeys(self.words) if word and word != self.title]
        found = [self.title]
        if words:
            found.append(", ".join([self.title, *words[:MOST_WORDS]]))
        if self.group:
            found.append(f"{self.title}, {self.group}")
        return list(dict.fromkeys(text.strip(", ") for text in found if text.strip(", ")))


Files: TypeAlias = Sequence[tuple[str, Path]]
Reader: TypeAlias = Callable[[Files], Iterator[Described]]


@cache
def picture_sets() -> Mapping[str, PictureSet]:
    """Every set by its name, ``pictures/openmoji``."""
    values = _catalog()["sets"]
    lists = ("files", "without")
    return {
        f"{PICTURES}/{name}": PictureSet(
            name=f"{PICTURES}/{name}",
            **{"without": (), **facts} | {key: tuple(facts.get(key, ())) for key in lists},
        )
        for name, facts in values.items()
    }


@cache
def unseen_concepts() -> tuple[str, ...]:
    """What is never trained on, in canonical words."""
    return tuple(map(canonical, _catalog()["unseen"]["concepts"]))


def chosen_sets(name: str) -> tuple[PictureSet, ...]:
    """The sets that ``pictures`` or ``pictures/SET`` names; raises DataError."""
    sets = picture_sets()
    if name == PICTURES:
        return tuple(sets.values())
    if name not in sets:
        hint = did_you_mean(name, (PICTURES, *sets))
        raise data_error("unknown-corpus", f"there is no set '{name:.80}' to add", None, hint)
    return (sets[name],)


def names_unseen(title: str) -> bool:
    """Whether a title names one of the `unseen_concepts`, as whole words, plural or not."""
    return _unseen_pattern().search(canonical(title)) is not None


@cache
def _unseen_pattern() -> re.Pattern[str]:
    names = "|".join(map(re.escape, unseen_concepts())) or r"(?!)"
    return re.compile(rf"\b(?:{names})(?:s|es)?\b")


@cache
def _catalog() -> Mapping[str, Any]:
    return parse_toml(Path(__file__).with_name("sets.toml").read_text(encoding="utf-8"))


def read_openmoji(files: Files) -> Iterator[Described]:
    """Drawings by their code, and a list of what each is."""
    known = {row["hexcode"]: row for row in parse_json(_one(files, "openmoji.json").read_bytes())}
    for name, path in files:
        row = known.get(PurePosixPath(name).stem)
        if row is None:
            continue
        tags = f"{row['tags']}, {row['openmoji_tags']}".split(",")
        yield Described(
            path,
            row["annotation"],
            tuple(tag.strip() for tag in tags),
            _group_words(row["group"]),
            row["subgroups"].replace("-", " "),
            bool(row["skintone"]),
        )


def read_emoji(files: Files) -> Iterator[Described]:
    """Pictures called by their code, whose names stand in emojibase."""
    facts = parse_json(_one(files, "groups.json").read_bytes())
    groups, subgroups = facts["groups"], facts["subgroups"]
    known: dict[str, Described] = {}
    for row in parse_json(_one(files, "data.json").read_bytes()):
        if "group" not in row:
            continue
        group = _group_words(groups[str(row["group"])])
        subgroup = subgroups[str(row["subgroup"])].replace("-", " ")
        tags = tuple(row.get("tags", ()))
        known[_code(row["hexcode"])] = Described(Path(), row["label"], tags, group, subgroup)
        for skin in row.get("skins", ()):
            one = Described(Path(), skin["label"], tags, group, subgroup, variant=True)
            known[_code(skin["hexcode"])] = one
    for name, path in files:
        found = known.get(_code(PurePosixPath(name).stem))
        if found is not None and path.suffix in (".png", ".webp"):
            yield Described(path, *list(vars(found).values())[1:])


def read_openclipart(files: Files) -> Iterator[Described]:
    """Drawings with a title and keywords inside; a title of very many says nothing of one."""
    texts = {name: path.read_text(encoding="utf-8", errors="replace") for name, path in files}
    titles = {name: _title(text) for name, text in texts.items()}
    counts = Counter(titles.values())
    for name, path in files:
        keys = tuple(_plain(key) for key in _KEYWORD.findall(texts[name]))
        keys = tuple(key for key in keys if key and key.lower() not in _NO_WORDS)
        folders = [folder.replace("_", " ") for folder in PurePosixPath(name).parts[:-1]]
        title = titles[name] if counts[titles[name]] <= MOST_ALIKE else ""
        title = title or _NUMBER.sub("", PurePosixPath(name).stem).replace("_", " ").strip()
        if canonical(title):
            yield Described(path, title, keys, " ".join(folders[-1:]))


def read_tuxpaint(files: Files) -> Iterator[Described]:
    """Pictures with a text beside them, whose first line is English."""
    texts = {name: path for name, path in files if name.endswith(".txt")}
    for name, path in files:
        text = texts.get(str(PurePosixPath(name).with_suffix(".txt")))
        if text is None or path.suffix == ".txt":
            continue
        line = text.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        folders = tuple(folder.lower() for folder in PurePosixPath(name).parts[:-1])
        if line.strip():
            yield Described(path, line.strip().removesuffix("."), (), " ".join(folders[-2:]))


READERS: Mapping[str, Reader] = {
    "openmoji": read_openmoji,
    "emoji": read_emoji,
    "openclipart": read_openclipart,
    "tuxpaint": read_tuxpaint,
}

MOST_ALIKE = 12  # pictures of one title
_TITLE = re.compile(r"<dc:title[^>]*>(.*?)</dc:title>", re.DOTALL)
_KEYWORD = re.compile(r"<rdf:li[^>]*>(.*?)</rdf:li>", re.DOTALL)
_MARKUP = re.compile(r"<[^>]*>")
_AUTHOR = re.compile(r"^clipart by [^-]* - ", re.IGNORECASE)
_NUMBER = re.compile(r"[_ ]*[0-9]+$")
_NO_WORDS = frozenset(("unsorted", "clip art", "clipart", "svg", "image", "media", "public domain"))


def _title(text: str) -> str:
    found = _TITLE.search(text)
    title = "" if found is None else _plain(found[1])
    return _NUMBER.sub("", _AUTHOR.sub("", title)).replace("_", " ").strip()


def _plain(markup: str) -> str:
    text = html.unescape(html.unescape(_MARKUP.sub("", markup)))  # some are escaped twice
    return " ".join(text.replace("_", " ").split())


def _group_words(key: str) -> str:
    """``food-drink`` as words; what is no class of things has none."""
    return "" if key.startswith("extras") or key == "component" else key.replace("-", " & ")


def _code(stem: str) -> str:
    """The code of an emoji, without the sign that it is to be shown in colour."""
    return "-".join(part for part in stem.lower().split("-") if part != "fe0f")


def _one(files: Files, ending: str) -> Path:
    return next(path for name, path in files if name.endswith(ending))


def row_of(described: Described, file_name: str) -> str:
    """A line of metadata."""
    facts: dict[str, object] = {"file_name": file_name, "captions": described.captions}
    if described.group and not described.variant:
        facts |= {"name": canonical(described.title), "group": described.group}
        facts |= {"subgroup": described.subgroup} if described.subgroup else {}
    return json.dumps(facts, ensure_ascii=False) + "\n"
