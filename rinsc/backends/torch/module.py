"""A spec as a PyTorch module: the emitted source is what runs."""

from __future__ import annotations

import itertools
import linecache
import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, Literal, TypeVar, cast, overload

import numpy.typing as npt
import torch
from torch import nn

from rinsc.backends.torch.calibration import Moments, calibration
from rinsc.backends.torch.device import TableKeeper, usable_device
from rinsc.backends.torch.emit import emit_source
from rinsc.backends.torch.memory import require_memory
from rinsc.backends.torch.steps import takes_noise_seed
from rinsc.backends.torch.towers_source import emit_towers, tower_class
from rinsc.graph import BlockGraph, TowersGraph, build_graph, require_graph, verified
from rinsc.graph.rounds import named_rounds
from rinsc.graph.towers_graph import named_tower_rounds, verified_towers
from rinsc.spec import ModelSpec, TowersSpec

_numbers = itertools.count()
Module = TypeVar("Module", bound=nn.Module)


class CompiledModule(TableKeeper):
    """What `to_torch` returns: the emitted `Model`, and what it was made from."""

    source: ClassVar[str]
    spec: ClassVar[ModelSpec]
    graph: ClassVar[BlockGraph]
    takes_noise_seed: ClassVar[bool]
    draws: Any = None  # of a model that draws in training
    checkpointing: Literal["none", "visit", "round"] = "none"  # of a `recomputing_module`

    def __call__(self, *inputs: Any, **settings: Any) -> Any:
        """As any module; rounds are checked, and may be said in every way of `rinsc.graph.Rounds`.

        Raises `GraphError` for those that the model cannot run.
        """
        if torch.compiler.is_compiling():  # the emitted code looks at them itself
            return super().__call__(*inputs, **settings)
        if len(inputs) > 1:
            first, rounds, *others = inputs
            inputs = (first, named_rounds(self.graph, rounds), *others)
        elif "rounds" in settings:
            settings["rounds"] = named_rounds(self.graph, settings["rounds"])
        return super().__call__(*inputs, **settings)

    def auxiliary_loss(self) -> torch.Tensor | float:
        """What layers added to the loss in the last training pass; add it to your own loss.

        Reading it ends it. It is 0 where no layer adds any, and outside of training. A training
        pass whose loss nobody has read is a `RuntimeError` of the next one.
        """
        return 0.0

    def input_moments(self, inputs: npt.ArrayLike | None) -> Moments:
        """What each matrix is multiplied with on ``inputs``, or on its own text; `calibration`."""
        return calibration(self, inputs)


class CompiledTowers(nn.Module):
    """What `to_torch` returns for towers: the emitted `Model`, and what it was made from.

    Each tower is an attribute of its name, a `CompiledModule` that also works alone.
    """

    source: ClassVar[str]
    spec: ClassVar[TowersSpec]
    graph: ClassVar[TowersGraph]
    takes_noise_seed: ClassVar[bool]

    def __call__(self, *, rounds: Any = None, **inputs: Any) -> Any:
        """As any module; raises `GraphError` for rounds that the towers cannot run."""
        if rounds is None or torch.compiler.is_compiling():
            return super().__call__(**inputs, rounds=rounds)
        return super().__call__(**inputs, rounds=named_tower_rounds(self.graph, rounds))

    def auxiliary_loss(self) -> torch.Tensor | float:
        """The sum of the losses that layers of every tower have added since it was read."""
        losses = [getattr(self, name).auxiliary_loss() for name in self.graph.towers]
        return sum(losses, start=0.0)

    def stored_name(self, name: str) -> str:
        """What a file calls a weight of ``state_dict``: blocks bear no tower, as several have them.

        ``image.A.0.query.weight`` is ``A.0.query.weight``; ``image.embedding.weight`` stays.
        """
        tower, _, rest = name.partition(".")
        if not rest:  # of what compares towers
            return name
        return rest if rest.partition(".")[0] in self.graph.towers[tower].blocks else name


@overload
def to_torch(
    spec: ModelSpec | BlockGraph, *, device: torch.device | str | None = None
) -> CompiledModule: ...


@overload
def to_torch(
    spec: TowersSpec | TowersGraph, *, device: torch.device | str | None = None
) -> CompiledTowers: ...


def to_torch(
    spec: ModelSpec | BlockGraph | TowersSpec | TowersGraph,
    *,
    device: torch.device | str | None = None,
) -> CompiledModule | CompiledTowers:
    """The module of a spec, or of a graph rolled or unrolled, freshly initialised.

    ``module(input_ids, rounds=None)`` maps token ids (batch, seq) to logits (batch, seq,
    vocab_size); where a repeat starts from noise, ``noise_seed`` chooses it. In training mode,
    rounds and seed that you leave out are drawn; ``module.draws`` says for which step.
    ``module.source`` is the Python that runs, ``module.spec`` and ``module.graph``
    what it came from. The default ``device`` is that of ``with torch.device(…)`` or of
    ``torch.set_default_device``, and weights have torch's default dtype. On the device ``meta``
    nothing is allocated.

    Of towers it is one module with an input and an output for each: ``module(image=patches,
    text=ids, rounds={"image.A": 3})`` gives outputs by name, of those that get an input. A block
    that several towers share is one module.

    Raises `UsageError` for a device that PyTorch cannot use here and `LoweringError` for a model
    that memory cannot hold.

    >>> from rinsc import model_spec
    >>> model = to_torch(model_spec("(A^3)B", preset="tiny"))
    >>> model(torch.zeros(1, 8, dtype=torch.long), rounds=5).shape
    torch.Size([1, 8, 512])
    """
    if isinstance(spec, TowersSpec | TowersGraph):
        towers = spec if isinstance(spec, TowersGraph) else build_graph(spec)
        model_class: type[CompiledModule | CompiledTowers] = _towers_class(towers)
        graphs = list(towers.towers.values())
    else:
        graphs = [require_graph(spec)]
        model_class = _plain_class(graphs[0])
    device = usable_device(device)
    if device.type == "cpu":
        for graph in graphs:
            require_memory(graph)
    with device:
        return model_class()


def _plain_class(graph: BlockGraph) -> type[CompiledModule]:
    """The emitted class, a new one each time: torch.compile counts what it makes by class."""
    return emitted_class("Model", CompiledModule, _origin(graph), _plain_class)


def recomputing_module(spec: ModelSpec) -> CompiledModule:
    """As `to_torch`, with ``checkpointing`` to be set: activations of each visit, or of each round
    of the outermost repeats, are then made again in the backward pass."""
    graph = require_graph(spec)
    if torch.get_default_device().type == "cpu":
        require_memory(graph)
    return _recomputing_class(graph)()


def _recomputing_class(graph: BlockGraph) -> type[CompiledModule]:
    origin = {**_origin(graph), "source": emit_source(graph, recomputing=True)}
    return emitted_class("Model", CompiledModule, origin, _recomputing_class)


def recomputing_towers(spec: TowersSpec) -> CompiledTowers:
    """`recomputing_module` of several towers; each has its own ``checkpointing``."""
    graph = build_graph(spec)
    if torch.get_default_device().type == "cpu":
        for tower in graph.towers.values():
            require_memory(tower)
    return _recomputing_towers_class(graph)()


def _recomputing_towers_class(graph: TowersGraph) -> type[CompiledTowers]:
    return _class_of_towers(graph, _recomputing_towers_class, recomputing=True)


def _towers_class(graph: TowersGraph) -> type[CompiledTowers]:
    """The emitted class of towers, whose own classes are as those of models of one tower."""
    return _class_of_towers(graph, _towers_class, recomputing=False)


def _class_of_towers(
    graph: TowersGraph, maker: Callable[[Any], type[CompiledTowers]], *, recomputing: bool
) -> type[CompiledTowers]:
    origin = {
        "source": emit_towers(graph, recomputing=recomputing),
        "spec": graph.spec,
        "graph": graph,
        "takes_noise_seed": any(map(takes_noise_seed, graph.towers.values())),
    }
    towers = {tower_class(name): _origin(tower) for name, tower in graph.towers.items()}
    return emitted_class("Model", CompiledTowers, origin, maker, towers)


def _origin(graph: BlockGraph) -> dict[str, Any]:
    """What a `CompiledModule` says of itself."""
    return {
        "source": emit_source(graph),
        "spec": graph.spec,
        "graph": graph,
        "takes_noise_seed": takes_noise_seed(graph),
    }


def emitted_class(
    name: str,
    base: type[Module],
    origin: Mapping[str, Any],
    maker: Callable[[Any], type[Module]],
    towers: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> type[Module]:
    """The ``Model`` of the emitted ``origin["source"]`` as a class that also has what ``origin``
    says; its source is a module as long as the class lives.

    ``towers`` are the origins of classes of the file that are to be a `CompiledModule` each.

    ``maker``, a function of a module, makes the class of a graph: instances are pickled with the
    graph, and made anew by whoever loads them.
    """
    namespace = load_source(origin["source"])
    for inner, facts in towers.items():
        own_module = {"__module__": namespace["__name__"]}
        namespace[inner] = type(inner, (namespace[inner], CompiledModule), {**facts, **own_module})
    model_class = type(name, (namespace["Model"], base), dict(origin))
    weakref.finalize(model_class, _forget, namespace["__name__"]).atexit = False
    classes = {
        own.__name__: own
        for own in namespace.values()
        if isinstance(own, type) and own.__module__ == namespace["__name__"]
    }
    emitted = _Emitted(maker, origin["graph"], classes, weakref.ref(model_class))
    for own in (*classes.values(), model_class):
        setattr(own, "_emitted", emitted)  # noqa: B010
        setattr(own, "__reduce_ex__", _reduced)  # noqa: B010
    return cast(type[Module], model_class)


@dataclass(frozen=True, eq=False)
class _Emitted:
    """The classes of one emitted file, and the class of its model. A pickle holds how to make
    them."""

    maker: Callable[[Any], type]
    graph: BlockGraph | TowersGraph
    classes: Mapping[str, type]
    model: weakref.ref[type]

    def name_of(self, cls: type) -> str | None:
        """The name by which `named` gives the class; None for one that was derived from ours."""
        own = self.classes.get(cls.__name__) is cls
        return cls.__name__ if own else "" if self.model() is cls else None

    def named(self, name: str) -> type | None:
        return self.classes[name] if name else self.model()

    def __reduce__(self) -> tuple[Any, ...]:
        return _class_again, (self.maker, self.graph)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Emitted:
        return self


def _class_again(maker: Callable[[Any], type], graph: BlockGraph | TowersGraph) -> type:
    return maker(verified_towers(graph) if isinstance(graph, TowersGraph) else verified(graph))


def _reduced(self: Any, protocol: Any) -> tuple[Any, ...]:
    """An instance of an emitted class, which no other process can import."""
    reduced: tuple[Any, ...] = object.__reduce_ex__(self, max(2, protocol))  # type: ignore[assignment]
    emitted: _Emitted = type(self)._emitted
    name = emitted.name_of(type(self))
    return reduced if name is None else (_new, (emitted, name), *reduced[2:])


def _new(source: Any, name: str) -> Any:
    """An empty instance; what a pickle says of the classes has become the class of the model."""
    emitted: _Emitted = source if isinstance(source, _Emitted) else source._emitted
    own_class: Any = emitted.named(name)
    return own_class.__new__(own_class)


def load_source(source: str) -> dict[str, Any]:
    """Execute emitted source as a module, which torch.compile finds by its name; tracebacks and the
    debugger show its lines."""
    module = ModuleType(f"rinsc_model_{next(_numbers)}")
    filename = _filename(module.__name__)
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    sys.modules[module.__name__] = module
    exec(compile(source, filename, "exec"), vars(module))
    return vars(module)


def _filename(module: str) -> str:
    return f"<{module}>"


def _forget(module: str) -> None:
    sys.modules.pop(module, None)
    linecache.cache.pop(_filename(module), None)
