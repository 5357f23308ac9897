"""Adapters of PEFT folded into the stored matrices, each once, however often a block is visited."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from rinsc.backends.hf.model import RinscForCausalLM
from rinsc.errors import LoweringError, MissingExtraError
from rinsc.extras import why_not_importable

PROBE_ROWS, PROBE_TOKENS = 2, 16
CLOSE = 1e-3  # of the largest logit, in the precision of the weights at least fp32's


def merge_lora(peft_model: Any) -> RinscForCausalLM:
    """The model of a LoRA of PEFT, the adapter folded into copies of the matrices; PEFT's own
    model is left as it was.

    Raises `LoweringError` for what a stored matrix cannot hold: an adapter of another form than
    plain LoRA, a bias that the matrix has none of, several active adapters, one that is merged
    already, one on a table that the head reads as well, one on a matrix that several layers
    share. The logits of a probe before and after must agree, else it is such an error too.
    Raises `MissingExtraError` where peft is not installed.
    """
    reason = why_not_importable("peft")
    if reason is not None:
        message = "this needs the library peft" if not reason else f"peft: {reason}"
        raise MissingExtraError("missing-extra", message, hint="pip install peft")
    model = _base_model(peft_model)
    layers = dict(_lora_layers(model))
    if not layers:
        raise _refusal("no-adapter", "the model has no LoRA adapter", "give what PEFT returned")
    adapter = _one_adapter(peft_model)
    for name, layer in layers.items():
        _require_foldable(name, layer, adapter, tied=model.config.tie_word_embeddings)
    _require_owned(layers, model)
    merged = _folded(model, layers, adapter)
    _require_same_logits(peft_model, merged)
    return merged


def _base_model(peft_model: Any) -> RinscForCausalLM:
    from peft import PeftModel

    model = peft_model.get_base_model() if isinstance(peft_model, PeftModel) else None
    if not isinstance(model, RinscForCausalLM):
        message = "this is no adapter of PEFT on a RinscForCausalLM"
        hint = "give what peft.get_peft_model or PeftModel.from_pretrained returned for one"
        raise _refusal("not-a-lora", message, hint)
    return model


def _one_adapter(peft_model: Any) -> str:
    from peft import LoraConfig

    active = list(peft_model.active_adapters)
    if len(active) != 1:
        message = f"{len(active)} adapters are active"
        raise _refusal("several-adapters", message, "activate one: model.set_adapter(NAME)")
    config = peft_model.peft_config[active[0]]
    if not isinstance(config, LoraConfig):
        message = f"the adapter is {type(config).__name__}, not a LoRA"
        raise _refusal("not-a-lora", message, "keep it as an adapter of PEFT")
    if config.modules_to_save:
        message = f"the adapter replaces whole modules: {', '.join(config.modules_to_save)}"
        raise _refusal("not-a-lora", message, "keep it as an adapter of PEFT")
    return str(active[0])


def _lora_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    # A layer may stand under several names, which must not count as one.
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, LoraLayer):
            yield name, module


def _require_foldable(name: str, layer: Any, adapter: str, *, tied: bool) -> None:
    """Raises for an adapter that is more than a product added to one matrix."""
    base = layer.get_base_layer()
    reasons = {
        "on a table that the head reads too, without it": tied and isinstance(base, nn.Embedding),
        f"on a {type(base).__name__}": not isinstance(base, nn.Linear | nn.Embedding),
        "merged already": bool(layer.merged),
        "disabled": bool(layer.disable_adapters),
        "of another form than plain LoRA": adapter in layer.lora_variant,
        "a bias beside the matrix": layer.lora_bias.get(adapter, False),
    }
    for what, holds in reasons.items():
        if holds:
            message = f"the adapter of '{name}' cannot be folded: it is {what}"
            hint = "keep it as an adapter of PEFT, or train a plain LoRA of layers' matrices"
            raise _refusal("not-foldable", message, hint)


def _require_owned(layers: dict[str, Any], model: RinscForCausalLM) -> None:
    """Raises where a matrix with an adapter is read by another name as well."""
    readers: dict[int, set[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter):
            readers.setdefault(id(weight), set()).add(name)
    for name, layer in layers.items():
        names = {reader.removesuffix(".base_layer") for reader in readers[id(layer.weight)]}
        if names != {name}:
            message = f"'{sorted(names - {name})[0]}' reads the matrix of '{name}' as well"
            hint = "unroll the model first, so that each layer has a matrix of its own"
            raise _refusal("shared-matrix", message, hint)


def _folded(model: RinscForCausalLM, layers: dict[str, Any], adapter: str) -> RinscForCausalLM:
    """A new model with the weights of the old one, those with an adapter added to."""
    state = {}
    for key, tensor in model.state_dict().items():
        owner, _, own = key.rpartition(".")
        if ".lora_" in key:
            continue
        name = owner.removesuffix(".base_layer")
        layer = layers.get(name)
        if layer is not None and own == "weight" and _has(layer, adapter):
            delta = layer.get_delta_weight(adapter).to(torch.float32)
            tensor = (tensor.to(torch.float32) + delta).to(tensor.dtype)
        state[f"{name}.{own}"] = tensor.detach().clone()
    merged: Any = RinscForCausalLM(model.config)
    merged.to(device=model.device, dtype=model.dtype)
    merged.load_state_dict(state)
    merged.generation_config = model.generation_config
    folded: RinscForCausalLM = merged.train(model.training)
    return folded


def _has(layer: Any, adapter: str) -> bool:
    return adapter in layer.lora_A or adapter in layer.lora_embedding_A


def _require_same_logits(peft_model: Any, merged: RinscForCausalLM) -> None:
    config = merged.config
    offsets = torch.arange(PROBE_ROWS * PROBE_TOKENS).view(PROBE_ROWS, PROBE_TOKENS)
    seq = min(PROBE_TOKENS, config.max_position_embeddings)
    probe = (offsets[:, :seq] * 7919 % config.vocab_size).to(merged.device)
    before, after = (_logits(model, probe) for model in (peft_model, merged))
    apart = (before - after).abs().max().item()
    allowed = max(CLOSE, 8 * torch.finfo(merged.dtype).eps) * before.abs().max().item()
    if not apart <= allowed:
        message = f"logits before and after are {apart:.2g} apart, more than {allowed:.2g}"
        hint = "keep the adapter of PEFT, and report the model it was trained on"
        raise _refusal("merge-differs", message, hint)


def _logits(model: Any, probe: torch.Tensor) -> torch.Tensor:
    """Without dropout; the model trains on as before."""
    training = model.training
    model.eval()
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=probe, use_cache=False).logits.float()
    model.train(training)
    return logits


def _refusal(code: str, message: str, hint: str) -> LoweringError:
    return LoweringError(code, message, hint=hint)
