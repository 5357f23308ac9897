"""What the matrices of a module are multiplied with on a text: by that their rounding is chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from rinsc.backends.torch.device import TableKeeper, evaluating
from rinsc.errors import LoweringError, SpecError, UsageError, plural
from rinsc.graph import Rounds
from rinsc.layers import model_input

if TYPE_CHECKING:
    from rinsc.backends.torch import CompiledModule

Moments: TypeAlias = Callable[[str], npt.NDArray[np.float32] | None]

ENOUGH_TOKENS = 8192  # of a text: more gain little
OWN_WINDOW = 256  # tokens, or the context where it is shorter
MOMENT_BYTES = 1 << 30  # of moments held at once; a larger model runs the text several times
BATCH_TOKENS = 1024  # run at once
BATCH_LOGITS = 1 << 24


def calibration(module: CompiledModule, inputs: npt.ArrayLike | None = None) -> Moments:
    """The moments of a module's matrices over ``inputs``, or over what the model itself writes.

    A trained model writes much like the text that it was trained on. Models that predict no next
    token, and kinds without a cache, get random tokens. Patches cannot be made up so: without
    inputs nothing is known of those.
    """
    if inputs is None:
        if model_input(module.spec).dtype != "int64":
            return lambda name: None
        inputs = own_text(module)
    return Calibration(module, inputs)


def own_text(module: CompiledModule, tokens: int = ENOUGH_TOKENS) -> npt.NDArray[np.int64]:
    """About so many tokens (windows, seq), which the module samples after random first ones.

    They are random throughout where nothing can continue a sequence.
    """
    from rinsc.backends.torch import cached_module  # whose file imports this one

    spec = module.spec
    length = min(spec.context, OWN_WINDOW)
    random = np.random.default_rng(0).integers(0, spec.vocab_size, (-(-tokens // length), length))
    try:
        cached = cached_module(module).eval()
    except (LoweringError, SpecError):
        return random
    device = next(module.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    windows = []
    with torch.inference_mode():
        first = torch.from_numpy(random[:, :1]).to(device)
        cache_bytes = length * sum(slot.nbytes for slot in cached(first[:1])[1])
        rows = max(1, MOMENT_BYTES // max(1, cache_bytes))
        for start in range(0, len(first), rows):
            window, past = [first[start : start + rows]], None
            while len(window) < length:
                logits, past = cached(window[-1], past)
                chances = logits[:, -1].float().nan_to_num().softmax(dim=-1)
                window.append(torch.multinomial(chances, 1, generator=generator))
            windows.append(torch.cat(window, dim=1).cpu().numpy())
    return np.concatenate(windows)


class Calibration:
    """The moments of a module's matrices over ``inputs`` (sequences, seq), in float32.

    The moments of a matrix are sums of products of its input features, over tokens and over all
    visits of its block: (in_features, in_features). Call it with the name of a weight. They are
    measured when first asked for. Repeats run ``rounds``. Raises `UsageError` for inputs that
    the module does not take.
    """

    def __init__(self, module: TableKeeper, inputs: npt.ArrayLike, rounds: Rounds = None) -> None:
        self._module, self._rounds = module, rounds
        self._inputs = _checked(module, _array(inputs))
        self._known: dict[str, npt.NDArray[np.float32]] = {}
        self._groups = list(_groups(module))

    def __call__(self, name: str) -> npt.NDArray[np.float32] | None:
        if name not in self._known:
            group = next((names for names in self._groups if name in names), set())
            self._groups = [names for names in self._groups if names is not group]
            if group:
                self._known = _measured(self._module, self._inputs, self._rounds, group)
        return self._known.get(name)


def _array(inputs: npt.ArrayLike) -> npt.NDArray[Any]:
    """Raises `UsageError` where it cannot be one, as for windows of several lengths."""
    try:
        return np.asarray(inputs)
    except (ValueError, TypeError):
        message = "cannot calibrate: the inputs are no array"
        hint = "give windows of one length: (sequences, seq)"
        raise UsageError("calibration", message, hint=hint) from None


def _checked(module: TableKeeper, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Inputs in batches' type: token ids, or patches where the module takes those."""
    spec = module.spec
    takes = model_input(spec)
    ids = takes.dtype == "int64"
    width = takes.shape[-1]
    problem = None
    if inputs.ndim != len(takes.shape) or inputs.dtype.kind not in ("iu" if ids else "fiu"):
        shape = f"({', '.join(map(str, ('sequences', *takes.shape[1:])))})"
        problem = f"it takes {takes.dtype} {shape}, not {inputs.dtype} {inputs.shape}"
    elif inputs.size == 0:
        problem = "there are no inputs"
    elif not takes.has_positions and inputs.shape[1:] != takes.shape[1:]:
        problem = f"the pictures are {inputs.shape[1:]}, the model takes {takes.shape[1:]}"
    elif takes.has_positions and inputs.shape[1] > spec.context:
        problem = (
            f"the inputs have {plural(inputs.shape[1], 'token')} each, the context {spec.context}"
        )
    elif ids and not 0 <= inputs.min() <= inputs.max() < spec.vocab_size:
        problem = f"an id is {inputs.min()} or {inputs.max()}, of {spec.vocab_size} tokens"
    elif not ids and takes.has_positions and inputs.shape[2] != width:
        problem = f"the patches have {inputs.shape[2]} numbers, the model takes {width}"
    if problem is not None:
        hint = "give what the model is used on, as windows of a text in its token ids"
        raise UsageError("calibration", f"cannot calibrate: {problem}", hint=hint)
    return np.ascontiguousarray(inputs, np.int64 if ids else np.float32)


def _groups(module: TableKeeper) -> Iterator[set[str]]:
    """Names of matrices whose moments fit into `MOMENT_BYTES`, in the order of the module."""
    group: set[str] = set()
    size = 0
    for name, weight in module.state_dict().items():
        if weight.ndim != 2:
            continue
        needed = 4 * weight.shape[1] ** 2
        if group and size + needed > MOMENT_BYTES:
            yield group
            group, size = set(), 0
        group.add(name)
        size += needed
    if group:
        yield group


def _measured(
    module: TableKeeper, inputs: npt.NDArray[Any], rounds: Rounds, names: set[str]
) -> dict[str, npt.NDArray[np.float32]]:
    by_weight = {id(weight): name for name, weight in module.named_parameters() if name in names}
    sums: dict[str, torch.Tensor] = {}

    class Recorder(TorchFunctionMode):
        """Sees each product with a weight, that of a tied head too."""

        last: tuple[torch.Tensor, torch.Tensor] | None = None  # an input, and what it was added to

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            if func is F.linear and (name := by_weight.get(id(args[1]))) is not None:
                self.add(name, args[0])
            return func(*args, **(kwargs or {}))

        def add(self, name: str, x: torch.Tensor) -> None:
            if self.last is not None and self.last[0] is x:  # as of query, key and value
                shared = self.last[1]
                if sums.setdefault(name, shared) is shared:
                    return
            rows = x.flatten(0, -2).float()
            if name not in sums:
                sums[name] = rows.new_zeros(rows.shape[1], rows.shape[1])
            sums[name].addmm_(rows.T, rows)
            self.last = x, sums[name]

    device = next(module.parameters()).device
    tokens = min(BATCH_TOKENS, BATCH_LOGITS // module.spec.vocab_size)
    positions = inputs.shape[1] if model_input(module.spec).has_positions else module.spec.context
    step = max(1, tokens // positions)
    with torch.no_grad(), evaluating(module), Recorder():
        for start in range(0, len(inputs), step):
            module(torch.from_numpy(inputs[start : start + step]).to(device), rounds)
    arrays = {id(total): total.cpu().numpy() for total in sums.values()}
    return {name: arrays[id(total)] for name, total in sums.items()}
