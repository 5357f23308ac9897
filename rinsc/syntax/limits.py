"""How large a signature may be, so that no text costs unbounded time or memory."""

from __future__ import annotations

from typing import Final

MAX_TEXT: Final = 4096  # characters
MAX_NESTING: Final = 64  # parentheses deep, after degree substitution
MAX_LOOP_DEPTH: Final = 16  # repeats inside repeats, after degree substitution
MAX_VISITS: Final = 1024  # visits of blocks in the flat word, after degree substitution
MAX_DRAWN_VISITS: Final = 65_536  # the same at the most rounds that training can draw
MAX_ROUNDS: Final = 1024  # of one repeat, drawn or asked for at run time
MAX_CHOICES: Final = 64  # numbers in ``choice``
MAX_LAYER_VISITS: Final = 65_536  # layers written out where two models are compared
MAX_DEGREE: Final = 8
MAX_DIGITS: Final = 4  # of a power or a size
MAX_NAME: Final = 32  # characters of a letter with its digits, or of a lower-case name
MAX_NUMBER_TEXT: Final = 18  # characters of a number in an option
