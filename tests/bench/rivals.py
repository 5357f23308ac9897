"""The same weights in other packages: Hugging Face's Llama, and ONNX Runtime GenAI's model of it.

Both the folder that GenAI's own builder writes and its run are as that package has them: nothing
is changed but the number of threads.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.cache_utils import DynamicCache

from rinsc.backends.torch import CompiledModule
from rinsc.spec import ModelSpec
from tests.bench.decoders import prompt
from tests.bench.turns import Decoder

NAMES = {
    "attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def hugging_face(spec: ModelSpec, module: CompiledModule) -> Any:
    """Hugging Face's Llama with the weights of a module of one block, A."""
    settings: dict[str, Any] = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.width,
        "intermediate_size": spec.mlp_width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "max_position_embeddings": spec.context,
        "rms_norm_eps": spec.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_theta},
        "tie_word_embeddings": spec.tied_embedding,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "attn_implementation": "eager",
    }
    model: Any = LlamaForCausalLM(LlamaConfig(**settings))
    own = module.state_dict()
    named = {
        "model.embed_tokens.weight": own["embedding.weight"],
        "model.norm.weight": own["final_norm.weight"],
        "lm_head.weight": own["head.weight"],
    }
    for layer in range(spec.layers):
        for ours, theirs in NAMES.items():
            named[f"model.layers.{layer}.{theirs}.weight"] = own[f"A.{layer}.{ours}.weight"]
    model.load_state_dict(named)
    return model.eval()


def hugging_face_decoder(model: Any, context: int) -> Decoder:
    """A step of `generate` without what it does around the model: its cache, and the argmax."""
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        made = model(torch.from_numpy(prompt(context)), past_key_values=cache, use_cache=True)
    token: torch.Tensor = made.logits[:, -1:].argmax(-1)

    def decode() -> int:
        nonlocal token
        with torch.inference_mode():
            token = model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
        return int(token)

    return decode


def save_hugging_face(model: Any, folder: Path) -> None:
    """The folder that GenAI's builder reads; it wants a tokenizer, and any will do."""
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>"))
    wrapped: Any = PreTrainedTokenizerFast
    tokenizer = wrapped(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder)


def genai_folder(source: Path, folder: Path, precision: str) -> Path:
    """What the builder makes of a Hugging Face folder, set to one thread; ``int4/128`` is known."""
    name, _, block = precision.partition("/")
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-e", "cpu", "-p", name]
    command += ["-i", str(source), "-o", str(folder), "-c", str(folder / "cache")]
    if name != "fp32":
        command += ["--extra_options", f"block_size={block or 32}", "accuracy_level=4"]
    subprocess.run(command, capture_output=True, text=True, check=True)
    file = folder / "genai_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["model"]["decoder"]["session_options"]["intra_op_num_threads"] = 1
    file.write_text(json.dumps(settings), encoding="utf-8")
    return folder


def genai_decoder(folder: Path, context: int) -> Decoder:
    genai: Any = import_module("onnxruntime_genai")  # it has no types
    model = genai.Model(str(folder))
    settings = genai.GeneratorParams(model)
    settings.set_search_options(max_length=context + 512, do_sample=False)
    generator = genai.Generator(model, settings)
    generator.append_tokens(prompt(context).astype(np.int32))
    generator.generate_next_token()  # the prompt's own

    def decode() -> int:
        generator.generate_next_token()
        return int(generator.get_next_tokens()[0])

    return decode
