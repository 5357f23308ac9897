"""Serve an exported model with plain ONNX Runtime: bytes in, bytes out, 20 lines."""

import sys

import numpy as np
import onnxruntime as ort

prompt, rounds = sys.argv[1:3] if len(sys.argv) > 2 else ("To be", "2")
model = ort.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
slots = [item for item in model.get_inputs() if item.name.startswith("past_key_values.")]
sizes = {"batch": 1, "past": 0, "rounds_A": int(rounds)}
past = {s.name: np.zeros([sizes.get(d, d) for d in s.shape], np.float32) for s in slots}
ids = np.array([list(prompt.encode())], np.int64)
mask = np.ones_like(ids)
generated = []
for _ in range(16):
    feed = {"input_ids": ids, "attention_mask": mask, "rounds_A": np.array(int(rounds)), **past}
    logits, *present = model.run(None, feed)
    past = {slot.name: value for slot, value in zip(slots, present, strict=True)}
    ids = logits[:, -1:].argmax(axis=-1)
    mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
    generated.append(int(ids[0, 0]))
print(generated, bytes(generated).decode(errors="replace"))
