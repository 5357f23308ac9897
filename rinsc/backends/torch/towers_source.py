"""Several towers as one module: the sources of the towers merged into one file, and its class.

The source of each tower is a file of its own: classes of layers and blocks, and a ``Model``. What
two of them define alike stands once in the merged file; what differs gets the name of its tower:

    class LlamaBlock        class LlamaBlock          class LlamaBlock
    ROUNDS = {"A": 2}   +   ROUNDS = {"C": 3}    ->   IMAGE_ROUNDS, TEXT_ROUNDS
    class Model             class Model               class ImageModel, TextModel, Model

The last ``Model`` has a tower under each name, and one module for each block that they share.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from keyword import iskeyword

from torch import nn

from rinsc.backends.torch.blocks import block_classes, own_lines
from rinsc.backends.torch.emit import TAKES, emit_source
from rinsc.backends.torch.statements import (
    definition,
    indented,
    shape_text,
    statements,
    with_shape,
)
from rinsc.backends.torch.steps import takes_noise_seed
from rinsc.errors import LoweringError, listed
from rinsc.graph import BlockGraph, TowersGraph
from rinsc.graph.towers_graph import verified_towers
from rinsc.layers import trace_join, trace_programs
from rinsc.ops import Scalar

# Names of `forward`, and of what `to_torch` adds to the class.
RESERVED = frozenset(
    (
        *("self", "rounds", "noise_seed", "counts", "outputs", "tower_rounds"),
        *("source", "spec", "graph", "stored_name"),
    )
)
JOINED = frozenset(("logits", "with_logits", "logit_scale", "logit_bias"))
IMPORTS = {"collections.abc": {"Mapping"}, "typing": {"TypeAlias"}}

_ROUNDS = '''
# The repeats of each tower, whose rounds can be asked for.
REPEATS = {repeats}


def tower_rounds(rounds: Rounds) -> dict[str, Rounds]:
    """Rounds for each tower: one number for every repeat, or by names such as ``{example}``.

    A repeat that one tower alone has needs no tower in its name.
    """
    if not isinstance(rounds, Mapping):
        none = not any(REPEATS.values())
        return {{tower: rounds if own or none else None for tower, own in REPEATS.items()}}
    names = {{f"{{tower}}.{{repeat}}" for tower, own in REPEATS.items() for repeat in own}}
    asked: dict[str, dict[str, int]] = {{tower: {{}} for tower in REPEATS}}
    for name, count in rounds.items():
        having = [tower for tower, own in REPEATS.items() if name in own]
        full = f"{{having[0]}}.{{name}}" if len(having) == 1 else name
        if full not in names:
            raise ValueError(f"rounds {{rounds!r}} do not fit the repeats {{sorted(names)}}")
        tower, _, repeat = full.partition(".")
        asked[tower][repeat] = count
    return {{tower: own or None for tower, own in asked.items()}}
'''


def emit_towers(graph: TowersGraph, *, recomputing: bool = False) -> str:
    """One file that imports torch alone and defines a `Model` of all towers.

    It can make activations again in the backward pass where it is ``recomputing``.
    """
    graph = verified_towers(graph)
    _check_names(graph)
    files = {
        name: _File.of(emit_source(tower, recomputing=recomputing, relatives=graph.towers.values()))
        for name, tower in graph.towers.items()
    }
    renamed = _renamed(files)
    _check_shared_blocks(graph, renamed)
    chunks = [_header(graph, files)]
    written: set[str] = set()
    for name, file in files.items():
        for own, text in file.texts.items():
            new = renamed[name].get(own, own)
            if new not in written:
                written.add(new)
                chunks.append(_with_names(text, renamed[name]))
    if "Rounds" not in written:
        chunks.append("Rounds: TypeAlias = int | Mapping[str, int] | None")
    repeats = {name: [loop.name for loop in tower.dials()] for name, tower in graph.towers.items()}
    example = next((name for name, _ in graph.dials()), "image.A")
    chunks.append(_ROUNDS.format(repeats=json.dumps(repeats), example=example).strip("\n"))
    chunks.append(_model_class(graph))
    return "\n\n\n".join(chunks) + "\n"


@dataclass(frozen=True)
class _File:
    """An emitted file taken apart: what it imports, and what it defines, in order."""

    plain: tuple[str, ...]  # lines of imports
    names: Mapping[str, set[str]]  # that are imported from modules
    texts: Mapping[str, str]
    shapes: Mapping[str, str]  # of what is defined: equal where only comments differ

    @classmethod
    def of(cls, source: str) -> _File:
        lines = source.splitlines()
        plain: list[str] = []
        names: dict[str, set[str]] = {}
        texts, shapes = {}, {}
        for node in ast.parse(source).body[1:]:  # without the first line, which is a title
            if isinstance(node, ast.ImportFrom):
                names.setdefault(str(node.module), set()).update(a.name for a in node.names)
            elif isinstance(node, ast.Import):
                plain.append(ast.unparse(node))
            else:
                start = node.lineno - 1
                while lines[start - 1].startswith("#"):
                    start -= 1
                name = _defined(node)
                texts[name] = "\n".join(lines[start : node.end_lineno])
                shapes[name] = ast.dump(node)
        return cls(tuple(plain), names, texts, shapes)


def _defined(node: ast.stmt) -> str:
    """The one name that a statement of an emitted file defines; of an ``if``, its condition."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test)
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return node.name
    targets = [node.target] if isinstance(node, ast.AnnAssign) else []
    (target,) = node.targets if isinstance(node, ast.Assign) else targets
    assert isinstance(target, ast.Name)
    return target.id


def _renamed(files: Mapping[str, _File]) -> dict[str, dict[str, str]]:
    """For each tower, new names of what differs between towers, and of what uses that."""
    differing = {"Model"}
    before: set[str] = set()
    while differing != before:
        before = set(differing)
        for name in {name for file in files.values() for name in file.texts}:
            having = [file for file in files.values() if name in file.texts]
            alike = len({file.shapes[name] for file in having}) == 1
            uses = any(_word(used).search(f.texts[name]) for f in having for used in before)
            if len(having) > 1 and not (alike and not uses):
                differing.add(name)
    used_names = {name for file in files.values() for name in file.texts} | {"Model", "REPEATS"}
    renamed: dict[str, dict[str, str]] = {}
    for tower, file in files.items():
        renamed[tower] = {}
        for name in file.texts:
            if name in differing:
                new = tower_class(tower) if name == "Model" else _own_name(tower, name)
                while new in used_names:
                    new += "_"
                used_names.add(new)
                renamed[tower][name] = new
    return renamed


def tower_class(tower: str) -> str:
    """The class of a tower in the emitted file: ``ImageModel``."""
    return _own_name(tower, "Model")


def _own_name(tower: str, name: str) -> str:
    """``ImageModel``, ``IMAGE_ROUNDS``, ``image_resolve_rounds``."""
    if name.isupper():
        return f"{tower.upper()}_{name}"
    if name[0].isupper():
        return tower.title().replace("_", "") + name
    return f"{tower}_{name}"


def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.]){re.escape(name)}\b")


def _with_names(text: str, names: Mapping[str, str]) -> str:
    for name, new in names.items():
        text = _word(name).sub(new, text)
    return text


def _check_names(graph: TowersGraph) -> None:
    """Towers become attributes and parameters, and their names classes."""
    names = list(graph.towers)
    classes = [tower_class(name) for name in names]
    reserved = RESERVED | (JOINED if graph.spec.pairing is not None else set())
    for name in names:
        is_taken = name in reserved or iskeyword(name) or hasattr(nn.Module, name)
        if is_taken or classes.count(tower_class(name)) > 1:
            message = f"a module cannot have a tower called '{name}'"
            raise LoweringError("name-taken", message, hint="give the tower another name")


def _check_shared_blocks(graph: TowersGraph, renamed: Mapping[str, Mapping[str, str]]) -> None:
    """Raises `LoweringError` for a shared block whose layers are not the same operations."""
    owners = graph.owners()
    for name, tower in graph.towers.items():
        for block, first in owners.items():
            if first == name or block not in tower.blocks:
                continue
            one, other = (_block_class(graph, tower, block, renamed) for tower in (first, name))
            layers = [_layer_keys(graph.towers[tower], block) for tower in (first, name)]
            if one != other or layers[0] != layers[1]:
                message = f"the layers of block {block} differ between {first} and {name}"
                hint = "give both towers the same dimensions, or two blocks"
                raise LoweringError("towers-differ", message, hint=hint)


def _layer_keys(tower: BlockGraph, block: str) -> list[tuple[object, ...]]:
    return [layer.key for layer in trace_programs(tower.spec).layers[block]]


def _block_class(
    graph: TowersGraph, tower: str, block: str, renamed: Mapping[str, Mapping[str, str]]
) -> str:
    own = graph.towers[tower]
    programs = trace_programs(own.spec).trained
    classes = block_classes(own, programs, relatives=graph.towers.values())
    name = f"{classes[block].name}Block"
    return renamed[tower].get(name, name)


def _header(graph: TowersGraph, files: Mapping[str, _File]) -> str:
    names: dict[str, set[str]] = {}
    plain: set[str] = set()
    for file in files.values():
        plain.update(file.plain)
        for module, imported in (*file.names.items(), *IMPORTS.items()):
            names.setdefault(module, set()).update(imported)
    blocks, text = len(graph.blocks), graph.spec.text
    title = text if len(text) <= 60 else f"{text[:59]}…"
    counted = f"{len(files)} towers, {blocks} block{'s' * (blocks > 1)}"
    lines = [f"from {m} import {', '.join(sorted(n))}" for m, n in sorted(names.items())]
    is_torch = [f"{line} ".split()[1].partition(".")[0] == "torch" for line in lines]
    ours = [line for line, own in zip(lines, is_torch, strict=True) if own]
    future = "from __future__ import annotations"
    others = [x for x, own in zip(lines, is_torch, strict=True) if not own and x != future]
    stdlib = [*sorted(line for line in plain if " torch" not in line), *others]
    torch_lines = [*sorted(line for line in plain if " torch" in line), *ours]
    groups = [[f'"""{title}: {counted}."""'], [future], stdlib, torch_lines]
    return "\n\n".join("\n".join(group) for group in groups)


def _model_class(graph: TowersGraph) -> str:
    owners = graph.owners()
    init = ["super().__init__()"]
    init += [f"self.{name} = {tower_class(name)}()" for name in graph.towers]
    for name, tower in graph.towers.items():
        init += [
            f"self.{name}.{block} = self.{owners[block]}.{block}  # one block of both"
            for block in tower.blocks
            if owners[block] != name
        ]
    init += _join_init(graph)
    seeded = [name for name, tower in graph.towers.items() if takes_noise_seed(tower)]
    parameters = ["*", *(f"{name}: torch.Tensor | None = None" for name in graph.towers)]
    parameters += ["rounds: Rounds = None", *["noise_seed: int | None = None"] * bool(seeded)]
    pairing = graph.spec.pairing
    parameters += ["with_logits: bool = True"] if pairing is not None else []
    forward = ["counts = tower_rounds(rounds)", "outputs: dict[str, torch.Tensor] = {}"]
    for name in graph.towers:
        seed = ", noise_seed" if name in seeded else ""
        forward += [
            f"if {name} is not None:",
            f'    outputs["{name}"] = self.{name}({name}, counts["{name}"]{seed})',
        ]
    inputs = listed(list(graph.towers), len(graph.towers))
    forward += [
        "if not outputs:",
        f'    raise ValueError("give the input of at least one tower: {inputs}")',
    ]
    if pairing is not None:
        given = f"{pairing.image} is not None and {pairing.text} is not None"
        both = f'outputs["{pairing.image}"], outputs["{pairing.text}"]'
        forward += [f"if with_logits and {given}:", f'    outputs["logits"] = self.logits({both})']
    forward += ["return outputs"]
    body = [
        '"""The outputs of the towers that are given an input, by name.',
        "",
        *_ports(graph),
        '"""',
        "",
        "def __init__(self) -> None:",
        *indented(init),
        "",
        *definition("forward", parameters, "dict[str, torch.Tensor]"),
        *indented(forward),
        *_join_method(graph),
    ]
    return "class Model(nn.Module):\n" + "\n".join(indented(body)).replace("    \n", "\n")


def _join_init(graph: TowersGraph) -> Iterator[str]:
    """The lines of ``__init__`` that make and start the weights of the join."""
    join = trace_join(graph.spec)
    nodes = [] if join is None else [node for node in join.nodes if isinstance(node.op, Scalar)]
    yield from own_lines(nodes)
    for node in nodes:
        yield f"nn.init.constant_(self.{node.name}, {node.op.start!r})"  # type: ignore[attr-defined]


def _join_method(graph: TowersGraph) -> list[str]:
    """The method that compares the embeddings of pictures and of texts."""
    join = trace_join(graph.spec)
    if join is None:
        return []
    lines, results = statements(join, {name: name for name in join.inputs})
    shapes = ", ".join(f"{name} {shape_text(value)}" for name, value in join.inputs.items())
    return [
        "",
        *definition("logits", ["image: torch.Tensor", "text: torch.Tensor"], "torch.Tensor"),
        *indented(
            [
                f'"""Embeddings {shapes} to the logit of each pair."""',
                *lines,
                *with_shape(f"return {results['logits']}", join.outputs["logits"]),
            ]
        ),
    ]


def _ports(graph: TowersGraph) -> Iterator[str]:
    for name, tower in graph.towers.items():
        programs = trace_programs(tower.spec)
        (takes,) = [v for n, v in programs.embed.inputs.items() if n == programs.input.name]
        output, value = programs.output
        input_text = TAKES[programs.input.name]
        yield f"{name}: {input_text} {shape_text(takes)} to {output} {shape_text(value)}."
    join = trace_join(graph.spec)
    if join is not None:
        yield f"logits: of both embeddings {shape_text(join.outputs['logits'])}."
