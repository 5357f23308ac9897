"""How exact an exported model is: a default, and blocks that are kept more exact than it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, cast

from rinsc.errors import Problem, UsageError, did_you_mean, nearest
from rinsc.formats import FORMATS, FloatType, names
from rinsc.scalars import plain

FLOAT_TYPES = cast("tuple[FloatType, ...]", names(arithmetic="floats"))
WEIGHT_ONLY_BITS = {
    name: cast("Literal[4, 8]", FORMATS[name].bits) for name in names(arithmetic="weights")
}
CAST_FORMATS = names(arithmetic="cast")  # floats of weights alone
PRECISIONS = names()
BLOCK_SIZES = (32, 128)  # weights with a scale of their own; the first is the default
KEPT_FORMATS = names(kept=True)
EMBEDDING_FORMATS = (*KEPT_FORMATS, *WEIGHT_ONLY_BITS)
EMBEDDING = "embedding"  # what the table is called, in texts and among the weights
SYMMETRIC = "symmetric"

_SMALL = [name for name in PRECISIONS if name not in FLOAT_TYPES]
_FEW_BITS = f"{', '.join(_SMALL[:-1])} or {_SMALL[-1]}"
_LETTER = re.compile("[A-Z][0-9]*")


@dataclass(frozen=True)
class Precision:
    """What matrices are stored as, and what is computed with.

    ``int8`` and ``int4`` store weights alone in few bits, ``block_size`` of them to a scale;
    ``int8-dynamic`` also brings activations to 8 bits, with a scale found at run time; ``fp8``
    stores weights alone as floats of 8 bits, which are fp32 again when a session loads. ``keep``
    maps letters of blocks to the float format that their matrices stay in. ``embedding`` is what
    the table of the token embedding is stored as; None is the default, see `table_format`. In
    ``int4`` each scale has a zero point, unless it is ``symmetric``. Raises `UsageError` for names
    that do not exist and for settings without a meaning.
    """

    name: str = "fp32"
    block_size: int = BLOCK_SIZES[0]
    keep: Mapping[str, str] = field(default_factory=dict, hash=False)
    embedding: str | None = None
    symmetric: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", dict(self.keep))
        object.__setattr__(self, "block_size", plain(self.block_size))
        if self.name not in PRECISIONS:
            hint = _nearest_name(str(self.name).lower())
            message = f"'{self.name}' is not a precision"
            raise UsageError("unknown-precision", message, hint=hint)
        problems = [
            *_block_size_problems(self),
            *_keep_problems(self),
            *_embedding_problems(self),
            *_symmetric_problems(self),
        ]
        if problems:
            raise UsageError.of(*problems)
        if self.embedding == self._default_table:
            object.__setattr__(self, "embedding", None)

    @property
    def float_type(self) -> FloatType:
        """The type of activations and caches, and of whatever is no matrix."""
        return self.name if self.name in FLOAT_TYPES else "fp32"

    @property
    def table_format(self) -> str:
        """What the table of the token embedding is stored as.

        In int8, int4 and fp8 it is in as few bits as the matrices by default. A tied head reads the
        same bits; where the table is in floats and the matrices are in codes, the head has a copy.
        """
        return self._default_table if self.embedding is None else self.embedding

    @property
    def is_calibrated(self) -> bool:
        """Whether weights are rounded by what they are multiplied with, where that is known."""
        return "int4" in (self.name, self.embedding)

    @property
    def _default_table(self) -> str:
        own = self.name in WEIGHT_ONLY_BITS or self.name in CAST_FORMATS
        return self.name if own else self.float_type

    @property
    def text(self) -> str:
        """The canonical spelling, which `parse_precision` reads: ``int4/128 fp16:A,B``."""
        sized = self.name in WEIGHT_ONLY_BITS and self.block_size != BLOCK_SIZES[0]
        terms = [f"{self.name}/{self.block_size}" if sized else self.name]
        if self.symmetric:
            terms.append(SYMMETRIC)
        for form in KEPT_FORMATS:
            letters = sorted(letter for letter, kept_form in self.keep.items() if kept_form == form)
            if letters:
                terms.append(f"{form}:{','.join(letters)}")
        if self.embedding is not None:
            terms.append(f"{self.embedding}:{EMBEDDING}")
        return " ".join(terms)

    def matrix_format(self, owner: str | None) -> str:
        """What matrices are stored as that belong to a block, or to the embedding (a tied head).

        None stands for those that belong to neither.
        """
        same_table = self.table_format in WEIGHT_ONLY_BITS or self.name in CAST_FORMATS
        if owner == EMBEDDING and same_table:
            return self.table_format
        return self.name if owner is None else self.keep.get(owner, self.name)

    def has_zero_points(self, bits: int) -> bool:
        """Whether scales of so many bits have them: in 8 bits they would gain nothing."""
        return bits == 4 and not self.symmetric


def parse_precision(
    text: str,
    *,
    block_size: int | None = None,
    keep: Iterable[str] = (),
    embedding: str | None = None,
    symmetric: bool = False,
) -> Precision:
    """The precision that ``text`` names, with what further options say.

    The text is a name, ``/32`` or ``/128`` behind it for the block size, and after spaces what
    else there is to say: ``int4/128 symmetric fp16:A,B int8:embedding``. The options add to it.
    Raises `UsageError`.
    """
    first, *terms = text.split() or [""]
    kept_terms = [term for term in terms if term != SYMMETRIC]
    name, slash, size = first.partition("/")
    if slash and block_size is not None:
        message = f"'{first}' and the block size {block_size} say the same thing twice"
        raise _usage_error("block-size", message, "say the block size once")
    if name in PRECISIONS and name not in WEIGHT_ONLY_BITS and (slash or block_size is not None):
        raise UsageError.of(_no_blocks(name))
    if slash:
        sizes = {str(size): size for size in BLOCK_SIZES}
        if name in PRECISIONS and size not in sizes:
            raise UsageError.of(_unknown_block_size(size))
        block_size = sizes.get(size)
    formats = _formats_of_blocks(
        kept_terms, keep, [] if embedding is None else [f"{embedding}:{EMBEDDING}"]
    )
    return Precision(
        name,
        BLOCK_SIZES[0] if block_size is None else block_size,
        embedding=formats.pop(EMBEDDING, None),
        keep=formats,
        symmetric=symmetric or SYMMETRIC in terms,
    )


def check_blocks(precision: Precision, letters: Collection[str]) -> None:
    """Raise `UsageError` where a kept block is none of the model's ``letters``."""
    problems = [
        Problem(
            "unknown-block",
            f"the model has no block '{letter}' to keep in {form}",
            hint=did_you_mean(letter, sorted(letters)),
        )
        for letter, form in precision.keep.items()
        if letter not in letters
    ]
    if problems:
        raise UsageError.of(*problems)


def _nearest_name(name: str) -> str:
    """A hint for an unknown name; one of another number of bits would be a guess."""
    close = nearest(name, PRECISIONS)
    if close is not None and re.sub(r"\D", "", close) == re.sub(r"\D", "", name):
        return f"did you mean '{close}'?"
    return f"one of: {', '.join(PRECISIONS)}"


def _formats_of_blocks(*sources: Iterable[str]) -> dict[str, str]:
    """The format of each kept letter, and of the embedding, from ``fp16:A,B`` once or more."""
    formats: dict[str, str] = {}
    for term in chain(*sources):
        form, colon, letters = (text.strip() for text in term.partition(":"))
        if not (form and colon and letters):
            message = f"'{term}' does not say which block to keep in which precision"
            hint = "write fp16:A, or fp16:A,B for two blocks"
            if nearest(term, [SYMMETRIC]) is not None:
                hint = f"did you mean '{SYMMETRIC}'?"
            raise _usage_error("keep", message, hint)
        for letter in map(str.strip, letters.split(",")):
            if formats.setdefault(letter, form) != form:
                what = "the embedding" if letter == EMBEDDING else f"block '{letter}'"
                message = f"{what} is kept in {formats[letter]} and in {form}"
                raise _usage_error("keep", message, "name each block once")
    return formats


def _block_size_problems(precision: Precision) -> list[Problem]:
    if precision.block_size not in BLOCK_SIZES:
        return [_unknown_block_size(precision.block_size)]
    if precision.name not in WEIGHT_ONLY_BITS and precision.block_size != BLOCK_SIZES[0]:
        return [_no_blocks(precision.name)]
    return []


def _keep_problems(precision: Precision) -> list[Problem]:
    if precision.keep and precision.name in FLOAT_TYPES:
        message = f"'{precision.name}' is a precision of floats: no block needs to be kept from it"
        return [Problem("keep", message, hint=f"keep blocks from {_FEW_BITS}")]
    problems = []
    for letter, form in precision.keep.items():
        if not _LETTER.fullmatch(letter):
            message = f"'{letter}' is not the letter of a block"
            problems.append(Problem("keep", message, hint="a letter is like A or B2"))
        if form not in KEPT_FORMATS:
            message = f"block '{letter}' cannot be kept in '{form}'"
            problems.append(Problem("keep", message, hint=did_you_mean(form, KEPT_FORMATS)))
    return problems


def _embedding_problems(precision: Precision) -> list[Problem]:
    stored = precision.embedding
    if stored in (None, precision._default_table):
        return []
    if stored not in EMBEDDING_FORMATS:
        message = f"the embedding cannot be stored in '{stored}'"
        return [Problem(EMBEDDING, message, hint=f"one of: {', '.join(EMBEDDING_FORMATS)}")]
    if precision.name in FLOAT_TYPES:
        message = f"'{precision.name}' is a precision of floats, and its embedding is in it too"
        hint = f"choose the embedding with {_FEW_BITS}"
        return [Problem(EMBEDDING, message, hint=hint)]
    return []


def _symmetric_problems(precision: Precision) -> list[Problem]:
    if not precision.symmetric or precision.name == "int4":
        return []
    message = f"'{precision.name}' has no zero points to leave out"
    return [Problem(SYMMETRIC, message, hint="leave 'symmetric' out; it goes with int4")]


def _unknown_block_size(size: object) -> Problem:
    sizes = " or ".join(map(str, BLOCK_SIZES))
    return Problem("block-size", f"'{size}' is not a block size", hint=f"it is {sizes}")


def _no_blocks(name: str) -> Problem:
    message = f"a block size means nothing to '{name}'"
    return Problem("block-size", message, hint=f"it goes with {' and '.join(WEIGHT_ONLY_BITS)}")


def _usage_error(code: str, message: str, hint: str) -> UsageError:
    return UsageError(code, message, hint=hint)
