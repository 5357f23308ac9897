"""The model of transformers as one file that needs torch and transformers alone.

It is the emitted module, the facts of the model as constants, and the text of our own modules with
our imports taken out.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap

from rinsc.backends.hf.config import RinscConfig
from rinsc.backends.hf.facts_source import facts_source
from rinsc.backends.torch.emit import emit_source

PARTS = (
    "rinsc.storage.weights_digest",
    "rinsc.backends.hf.config",
    "rinsc.backends.hf.caching",
    "rinsc.backends.hf.starts",
    "rinsc.backends.hf.model",
)  # each after what it imports
WIDTH = 100

_TITLE = '''"""A recursive-depth language model for transformers, which rinsc compiled of:

{signature}

Load its folder with ``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)``;
``rounds``, an argument of a forward pass and of ``generate``, says how often repeats run.
"""

from __future__ import annotations
'''


def standalone_source(config: RinscConfig) -> str:
    """The file; the same for every config of one spec."""
    imports = _Imports()
    emitted = imports.without(emit_source(config.graph, hosted=True))
    facts = facts_source(config)
    imports.add("typing", "Any", "Literal", "TypeAlias")
    imports.add("collections.abc", "Mapping")
    own = [imports.without(_text(part)) for part in PARTS]
    title = _TITLE.format(signature=_wrapped(config.graph.spec.text))
    body = "\n\n\n".join(text.strip("\n") for text in (emitted, facts, *own))
    blank = "\n" * (1 + body.startswith(("class ", "def ", "@")))
    return f"{title}\n{imports.text()}{blank}{body}\n"


def _text(part: str) -> str:
    """Our own module, without the remarks that its type checker needs."""
    spec = find_spec(part)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(part)
    text = Path(spec.origin).read_text(encoding="utf-8")
    return re.sub(r"  # type: ignore\[[a-z, -]+\]", "", text)


def _wrapped(signature: str) -> str:
    """The signature as lines of a docstring."""
    lines = wrap(signature, WIDTH - 4, break_on_hyphens=False)
    return "\n".join(f"    {line}" for line in lines)


@dataclass
class _Imports:
    """What the parts import, gathered and sorted as a linter wants them."""

    whole: set[str] = field(default_factory=set)
    names: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, module: str, *names: str) -> None:
        self.names[module] |= set(names)

    def without(self, source: str) -> str:
        """The source below its docstring and its imports, which are taken over; ours are not."""
        lines = source.split("\n")
        statements = ast.parse(source).body
        imports = [each for each in statements if isinstance(each, ast.Import | ast.ImportFrom)]
        for each in imports:
            self._take(each)
        last = imports[-1].end_lineno or 0
        return "\n".join(lines[last:])

    def _take(self, statement: ast.Import | ast.ImportFrom) -> None:
        spelled = {f"{a.name} as {a.asname}" if a.asname else a.name for a in statement.names}
        if isinstance(statement, ast.Import):
            self.whole |= spelled
        elif statement.module not in (None, "__future__") and not _is_ours(str(statement.module)):
            self.names[str(statement.module)] |= spelled

    def text(self) -> str:
        """The lines: the standard library, then others."""
        return (
            "\n".join(self._section(standard=True))
            + "\n\n"
            + "\n".join(self._section(standard=False))
            + "\n"
        )

    def _section(self, *, standard: bool) -> Iterator[str]:
        for name in sorted(self.whole):
            if _is_standard(name) is standard:
                yield f"import {name}"
        for module in sorted(self.names):
            if _is_standard(module) is standard:
                yield from _from(module, sorted(self.names[module], key=_by_type))


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == "rinsc"


def _is_standard(module: str) -> bool:
    return re.split(r"[. ]", module)[0] in sys.stdlib_module_names


def _by_type(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return kind, name


def _from(module: str, names: Iterable[str]) -> list[str]:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH:
        return [line]
    return [f"from {module} import (", *(f"    {name}," for name in names), ")"]
