"""Classes to tell pictures apart by: their names from a file, and the pictures that bear them.

A file is a plain text with a name a line, or JSON: a list of names, or an object with ``classes``
and, where you want your own, ``templates``:

    {"classes": ["cat", "dog"], "templates": ["a photo of a {}", "{}"]}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from rinsc.data.pairs import PicturePairs, canonical
from rinsc.errors import DataError, Problem, UsageError, did_you_mean, plural, setting, shown
from rinsc.storage.files import parse_json, read_regular_text

if TYPE_CHECKING:
    from rinsc.data.pairs.decoding import Pixels
    from rinsc.progress import Progress

# In the spirit of those of CLIP, for drawings as well as photographs; a choice of ours.
TEMPLATES = ("{}", "a photo of a {}", "a picture of a {}", "a drawing of a {}")
LIST_SUFFIXES = (".txt", ".json")
MOST_CLASSES = 100_000


class Labelled(Protocol):
    """Pictures of known classes; ``labels`` (pictures,) are indices of ``classes``."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> npt.NDArray[np.int64]: ...
    def __len__(self) -> int: ...
    def pixels(self, index: Any) -> Pixels: ...


@dataclass(frozen=True)
class ClassList:
    """Names of classes, and templates where the file has its own."""

    names: tuple[str, ...]
    templates: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairsOfClasses:
    """The pictures of some pairs whose label or caption is the name of a class."""

    name: str
    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    pairs: PicturePairs

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: Any) -> Pixels:
        return self.pairs.pixels(self.chosen[index])


def is_class_list(name: str) -> bool:
    """Whether the name is that of a file with names of classes, rather than of pictures."""
    return name.lower().endswith(LIST_SUFFIXES)


def read_class_list(path: str | Path) -> ClassList:
    """The names in a file; raises DataError for none, and for what `checked_classes` refuses."""
    location = str(path)
    try:
        text = read_regular_text(Path(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = (getattr(error, "strerror", None) or "it is no text in UTF-8").lower()
        hint = "name a text file with a name a line, a JSON file, or a set such as emoji-groups"
        message = f"cannot read the names of classes: {reason}"
        raise DataError("cannot-read", message, place=location, hint=hint) from None
    if not location.lower().endswith(".json"):
        return ClassList(checked_classes(text.splitlines(), location))
    try:
        values = parse_json(text)
    except ValueError as error:
        message = f"this is not JSON: {error}"
        hint = 'write ["cat", "dog"], or {"classes": ["cat", "dog"], "templates": ["{}"]}'
        raise DataError("bad-classes", message, place=location, hint=hint) from None
    own = values if isinstance(values, dict) else {"classes": values}
    unknown = [key for key in own if key not in ("classes", "templates")]
    names, templates = own.get("classes"), own.get("templates", [])
    if unknown or not (_are_texts(names) and _are_texts(templates)):
        message = (
            f"the key {shown(str(unknown[0]))} is not known"
            if unknown
            else ("names and templates must be lists of texts")
        )
        hint = 'write ["cat", "dog"], or {"classes": ["cat", "dog"], "templates": ["{}"]}'
        raise DataError("bad-classes", message, place=location, hint=hint)
    return ClassList(checked_classes(names or (), location), checked_templates(templates))


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def checked_classes(names: Iterable[str], location: str) -> tuple[str, ...]:
    """The names without empty lines; raises DataError where there are fewer than two, or where two
    are one name to the model, which reads them without capitals and punctuation."""
    written = tuple(name.strip() for name in names if name.strip())
    by_name: dict[str, list[str]] = {}
    for name in written:
        by_name.setdefault(canonical(name), []).append(name)
    problems = [
        Problem(
            *("duplicate-class", f"the class {shown(same[0])} stands there {len(same)} times"),
            place=location,
            hint="keep one of: " + ", ".join(map(shown, dict.fromkeys(same))),
        )
        for same in by_name.values()
        if len(same) > 1
    ]
    if "" in by_name:
        message = f"the class {shown(by_name[''][0])} has no letters or digits"
        hint = "write a name in words"
        problems.insert(0, Problem("bad-classes", message, place=location, hint=hint))
    if len(written) < 2:
        message = f"there {'is only one class' if written else 'are no classes'} to choose from"
        hint = "write at least two names, a line each"
        problems = [Problem("too-few-classes", message, place=location, hint=hint)]
    if len(written) > MOST_CLASSES:
        message = f"there are {len(written):,} classes, and at most {MOST_CLASSES:,} are compared"
        problems = [Problem("bad-classes", message, place=location, hint="write fewer")]
    if problems:
        raise DataError.of(*problems[:8])
    return written


def checked_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """The templates; raises UsageError for one without a place for the name."""
    for template in templates:
        if template.count("{}") != 1:
            message = f"the template {shown(template)} must have one {{}}, for the name of a class"
            raise UsageError("bad-template", message, hint='write it as "a photo of a {}"')
    return tuple(templates)


def prompts(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every class in every template, those of one class together.

    >>> prompts(["cat", "dog"], ["{}", "a photo of a {}"])
    ['cat', 'a photo of a cat', 'dog', 'a photo of a dog']
    """
    return [template.replace("{}", name) for name in classes for template in templates]


def labelled_pictures(
    name: str, image_size: int, pairs: PicturePairs | None, progress: Progress
) -> tuple[Labelled, tuple[str, ...]]:
    """Pictures with classes, and the templates that a file brings.

    A built-in set such as emoji-groups, or a folder, brings pictures of its own; a list of names
    (see `is_class_list`) is of the held-out ``pairs``. Raises DataError and UsageError.
    """
    if not is_class_list(name):
        from rinsc.data.pairs import open_classes

        return merged(open_classes(name, image_size, progress=progress)), ()
    own = read_class_list(name)
    if pairs is None:
        message = f"'{name}' has names alone, and nothing says of which pictures"
        hint = f"name the pictures too: {setting('data', '--data')} pairs:PATH"
        raise UsageError("usage", message, hint=hint)
    return _pairs_of_classes(own.names, pairs, name), own.templates


@dataclass(frozen=True)
class MergedClasses:
    """Labelled pictures, in fewer classes."""

    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    pictures: Labelled

    @property
    def name(self) -> str:
        return self.pictures.name

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: Any) -> Pixels:
        return self.pictures.pixels(index)


def merged(pictures: Labelled) -> Labelled:
    """The pictures with classes as one whose names are one to the model: ``keycap: #`` and
    ``keycap: *``."""
    first: dict[str, int] = {}
    own = [first.setdefault(canonical(name), len(first)) for name in pictures.classes]
    if len(first) == len(own):
        return pictures
    classes = tuple(pictures.classes[own.index(number)] for number in range(len(first)))
    return MergedClasses(classes, np.array(own)[pictures.labels], pictures)


def _pairs_of_classes(names: tuple[str, ...], pairs: PicturePairs, location: str) -> PairsOfClasses:
    """The held-out pictures that bear one of the names; raises DataError for a name of none."""
    known = {canonical(name): index for index, name in enumerate(names)}
    chosen, labels, others = list[int](), list[int](), set[str]()
    for index in map(int, pairs.held_out):
        texts = [canonical(text) for text in (pairs.label(index), *pairs.captions(index)) if text]
        label = next((known[text] for text in texts if text in known), None)
        if label is None:
            others.update(texts)
            continue
        chosen.append(index)
        labels.append(label)
    unused = [name for index, name in enumerate(names) if index not in set(labels)]
    if unused:
        count = f"; {plural(len(unused) - 1, 'other')} neither" if len(unused) > 1 else ""
        message = f"no held-out picture is called {shown(unused[0])}{count}"
        hint = did_you_mean(canonical(unused[0]), sorted(others))
        raise DataError("unknown-class", message, place=location, hint=hint)
    return PairsOfClasses(
        f"{Path(location).name} on {pairs.name}", names, np.array(labels), np.array(chosen), pairs
    )


def commonest_share(labels: npt.NDArray[np.int64]) -> float:
    """The accuracy of saying the commonest class each time."""
    return float(np.bincount(labels).max() / len(labels))


def facts_of(pictures: Labelled, templates: Sequence[str]) -> Mapping[str, object]:
    """What was classified, as plain data."""
    return {
        "set": pictures.name,
        "pictures": len(pictures),
        "classes": list(pictures.classes),
        "templates": list(templates),
        "commonest_class": commonest_share(pictures.labels),
    }
