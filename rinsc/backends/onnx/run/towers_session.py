"""Running an exported model of several towers in ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rinsc.backends.onnx.contract import LOGITS, Key, dial_name, tower_port
from rinsc.backends.onnx.run.inputs import Dials, checked_input, checked_threads
from rinsc.backends.onnx.run.loading import ToldSession, any_metadata, load, place_of
from rinsc.backends.onnx.run.providers import ONLY_FATAL
from rinsc.errors import CheckpointError, RinscError, listed
from rinsc.extras import require
from rinsc.graph import Rounds, build_graph, tower_rounds
from rinsc.graph.towers_graph import dial_of
from rinsc.layers import model_input, model_output
from rinsc.spec import TowersSpec

if TYPE_CHECKING:
    from rinsc.backends.onnx.write.file import OnnxModel


class TowersSession:
    """An exported model of several towers, ready to run: an `OnnxModel`, its file or its folder.

    ``spec`` is the model's spec, ``rounds`` those that it was written with, by names such as
    ``image.A``. Raises as `Session`, and `CheckpointError` for a model of one tower.
    """

    def __init__(
        self,
        model: OnnxModel | str | os.PathLike[str],
        *,
        provider: str | None = None,
        threads: int | None = None,
    ) -> None:
        require("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = ONLY_FATAL
        options.intra_op_num_threads = 0 if threads is None else checked_threads(threads)
        location = place_of(model)
        session, _ = load(model, options, provider, location)
        self._session = ToldSession(session, location)
        metadata = self._session.get_modelmeta().custom_metadata_map
        spec, self.rounds = any_metadata(metadata, location)
        if not isinstance(spec, TowersSpec):
            hint = "open it with rinsc.Session"
            raise CheckpointError("one-tower", "the model has one tower", place=location, hint=hint)
        self.spec = spec
        self.graph = build_graph(spec)
        names = {value.name for value in self._session.get_inputs()}
        ports = {tower_port(n, model_input(tower).name) for n, tower in spec.towers.items()}
        outputs = {value.name: value.shape[-1] for value in self._session.get_outputs()}
        self._outputs = {n: model_output(tower) for n, tower in spec.towers.items()}
        sizes = {tower_port(n, name): size for n, (name, size) in self._outputs.items()}
        self._joint = [LOGITS] if spec.pairing is not None else []
        joint = [outputs.pop(name, None) for name in self._joint]
        if not ports <= names or outputs != sizes or not all(isinstance(x, str) for x in joint):
            message = "the model's inputs or outputs are not those of its spec"
            hint = "run models that rinsc exported, of this or an earlier version, and whole"
            raise CheckpointError("foreign-model", message, place=location, hint=hint)
        gated = metadata.get(Key.FORM) == "gated"
        self._dials: dict[str, Dials] = {}
        for name, tower in self.graph.towers.items():
            ports_of_loops = {
                loop.name: tower_port(name, dial_name(tower, loop.name, gated=gated))
                for loop in tower.dials()
            }
            present = {loop: port for loop, port in ports_of_loops.items() if port in names}
            written = {loop: self.rounds[dial_of(name, loop)] for loop in ports_of_loops}
            self._dials[name] = Dials(tower, present, written, gated, location)

    def outputs(
        self, inputs: Mapping[str, npt.ArrayLike], rounds: Rounds = None
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Logits of each tower by its name, for an input of each: token ids or patches.

        Towers of pictures and of texts give embeddings, and together the ``logits`` of every pair.
        Raises `GraphError` for rounds that no model of these towers runs, `LoweringError` for
        rounds that this file was not exported for, and `RinscError` for inputs that do not fit.
        """
        towers = self.spec.towers
        if not isinstance(inputs, Mapping) or set(inputs) != set(towers):
            names = listed([*towers], len(towers))
            message = f"a model of towers needs an input of each: {names}"
            raise RinscError("bad-input", message, hint="give them by the names of the towers")
        feed: dict[str, Any] = {}
        counts = None if rounds is None else tower_rounds(self.graph, rounds)
        for name, tower in towers.items():
            port = model_input(tower)
            feed[tower_port(name, port.name)] = checked_input(inputs[name], port, tower)
            feed |= self._dials[name].arrays(None if counts is None else counts[name])
        outputs = [tower_port(name, self._outputs[name][0]) for name in towers]
        results = self._session.run([*outputs, *self._joint], feed)
        return dict(zip([*towers, *self._joint], results, strict=True))
