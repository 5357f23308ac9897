"""What is wrong with the values of a spec: each alone, and together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from rinsc.errors import Problem, RinscError, did_you_mean
from rinsc.spec.kinds import is_kind, unknown_kind_hint
from rinsc.syntax import NormalForm, normal_form
from rinsc.syntax.bind import check_contradictions
from rinsc.syntax.tree import Call, Option, Signature, mentions, repeats
from rinsc.syntax.unexpected import refuse_doubtful

MAX_DIMENSION = 1 << 24  # no published model comes near; keeps a typing slip from allocating
MAX_REAL = 1e12
MAX_UNKNOWN = 16  # keys that are told one by one
HEADS = ("heads", "width")  # the first must divide the second
MAX_SHOWN = 40  # characters of a value in a message


def at_key(location: str | None, key: str) -> str:
    """Where a key stands: in a file, or among the arguments; of a long key, its beginning."""
    key = key if len(key) <= MAX_SHOWN else f"{key[: MAX_SHOWN - 3]}..."
    return key if location is None else f"{location}: {key}"


def unknown_keys(
    keys: Iterable[str],
    known: Collection[str],
    of: str,
    location: Callable[[str], str],
    hint_of: Callable[[str], str] | None = None,
) -> list[Problem]:
    """A problem for each key that is not ``known``, and one for all beyond `MAX_UNKNOWN`.

    ``of`` says what they are not a key of, ``location`` where a key stands, and ``hint_of`` what to
    do about one, by default to take a known key.
    """
    unknown = [key for key in keys if key not in known]
    problems = [
        Problem(
            "unknown-key",
            f"{shown(key)} is not a key of {of}",
            place=location(key),
            hint=(hint_of or partial(did_you_mean, names=known))(key[:MAX_SHOWN]),
        )
        for key in unknown[:MAX_UNKNOWN]
    ]
    if len(unknown) > MAX_UNKNOWN:
        message = f"{len(unknown) - MAX_UNKNOWN} more keys are not keys of {of}"
        every = f"one of: {', '.join(known)}"
        problems.append(Problem("unknown-key", message, place=location(unknown[-1]), hint=every))
    return problems


def value_problem(
    key: str, type_of_key: Any, value: object, location: str | None
) -> Problem | None:
    """A wrong type or an impossible value of one key."""
    fits = type(value) is type_of_key or (type_of_key is float and type(value) is int)
    if not fits:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        message = f"'{key}' must be {names.get(type_of_key, 'a signature')}, not {shown(value)}"
        return Problem("bad-type", message, place=at_key(location, key), hint=f"change '{key}'")
    if type_of_key is int and not 1 <= value <= MAX_DIMENSION:  # type: ignore[operator]
        message = f"'{key}' is {shown(value)}; it must be from 1 to {MAX_DIMENSION}"
        return Problem("bad-value", message, place=at_key(location, key), hint=f"change '{key}'")
    if type_of_key is float and not 0 < value <= MAX_REAL:  # type: ignore[operator]
        message = f"'{key}' is {shown(value)}; it must be above 0 and at most {MAX_REAL:.0e}"
        return Problem("bad-value", message, place=at_key(location, key), hint=f"change '{key}'")
    if key == "kind" and not is_kind(value):
        message = f"{shown(value)} is not a layer kind"
        hint = unknown_kind_hint(str(value)[:MAX_SHOWN])
        return Problem("unknown-kind", message, place=at_key(location, key), hint=hint)
    return None


def shown(value: object) -> str:
    """The value, or its beginning; Python refuses to write whole numbers of thousands of digits."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def combination_problems(
    sound: Mapping[str, Any], location: str | None, strict: bool = False
) -> tuple[list[Problem], NormalForm | None]:
    """Values that are right alone and impossible together, and the normal form of the signature.

    There is no normal form where the problems say why. ``strict`` counts layers that do not divide
    evenly as impossible, and letters that look like powers.
    """
    problems: list[Problem] = []
    form: NormalForm | None = None
    if strict and "signature" in sound:
        where = None if location is None else at_key(location, "signature")
        try:
            refuse_doubtful(sound["signature"])
        except RinscError as error:
            problems += [dataclasses.replace(problem, place=where) for problem in error.problems]
    pairs = [("kv_heads", "heads")] if "head_dim" in sound else [HEADS, ("kv_heads", "heads")]
    for small, large in pairs:
        if small in sound and large in sound and sound[large] % sound[small]:
            divisors = [n for n in range(1, 129) if sound[large] % n == 0 and n <= sound[large]]
            close = sorted(divisors, key=lambda n: abs(n - sound[small]))[:3]
            problems.append(
                Problem(
                    "does-not-divide",
                    f"{small} = {sound[small]} does not divide {large} = {sound[large]}",
                    place=at_key(location, small),
                    hint=f"{small} that divide it: {', '.join(map(str, sorted(close)))}",
                )
            )
    if "signature" in sound and "layers" in sound:
        try:
            check_contradictions(sound["signature"])
            form = normal_form(sound["signature"], sound["layers"], strict=strict)
        except RinscError as error:
            where = None if location is None else at_key(location, "layers")
            problems += [dataclasses.replace(problem, place=where) for problem in error.problems]
    if "signature" in sound:
        where = None if location is None else at_key(location, "signature")
        problems += _option_problems(sound["signature"], sound.get("width"), where)
    return problems, form


def _option_problems(sig: Signature, width: int | None, location: str | None) -> Iterator[Problem]:
    """Options of the signature that are wrong for what the spec says."""

    def problem(code: str, option: Option, message: str, hint: str) -> Problem:
        return Problem(code, message, sig.source, option.span, location, hint)

    for repeat in repeats(sig.body):
        for option in repeat.options:
            match option.value:
                case Call("lora" | "shared" as name, (int(rank),)) if width and rank > width:
                    message = f"rank {rank} is above the width of the model, {width}"
                    hint = f"write at most {name}({width})"
                    yield problem("rank-above-width", option, message, hint)
    for ref in mentions(sig.body):
        for option in ref.options:
            if option.name == "kind" and not is_kind(option.value):
                message = f"'{option.value}' is not a layer kind"
                hint = unknown_kind_hint(str(option.value))
                yield problem("unknown-kind", option, message, hint)
