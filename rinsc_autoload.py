"""Auto classes of transformers know ``model_type: rinsc`` without an import of rinsc.

transformers has no way for a package to announce a model. PyTorch has one for packages, the entry
points ``torch.backends``, which it calls at the end of its own import; `announce` is one of them.
It stands beside the package, so that another folder of the name rinsc in the way of imports is
none of PyTorch's business. It imports nothing heavy and only watches for the module in which
transformers lists its configs, to add a name to that list; `rinsc.backends.hf` is imported when a
config of that name is read. Before torch is imported (``AutoConfig`` alone does not), and where
``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` is set, an ``import rinsc.backends.hf`` is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

LIST = "transformers.models.auto.configuration_auto"
ALIAS = "transformers.models.rinsc"  # where transformers looks for the config of that name
HOME = "rinsc.backends.hf"


def announce() -> None:
    """Watch for transformers; never fails, and does nothing twice."""
    with suppress(Exception):
        if any(isinstance(finder, _Watcher) for finder in sys.meta_path):
            return
        sys.meta_path.insert(0, _Watcher())
        if LIST in sys.modules:
            _add_name(sys.modules[LIST])


def _add_name(configs: ModuleType) -> None:
    with suppress(Exception):
        configs.CONFIG_MAPPING_NAMES.setdefault("rinsc", "RinscConfig")


class _Watcher(MetaPathFinder):
    """Finds the alias, and hears of the list when it is imported."""

    def __init__(self) -> None:
        self.asking = False

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == ALIAS:
            return ModuleSpec(ALIAS, _Alias())
        if name != LIST or self.asking:
            return None
        self.asking = True
        try:
            spec = find_spec(LIST)
        finally:
            self.asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Listed(spec.loader)
        return spec


class _Listed(Loader):
    """The loader of the list, and then the name added to it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # From here on everything is as if nobody had watched.
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        _add_name(module)


class _Alias(Loader):
    """A module with the names of `rinsc.backends.hf`."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        home = import_module(HOME)
        vars(module).update({name: getattr(home, name) for name in home.__all__})
