"""TRL's trainer for supervised fine-tuning, on real text, padded and packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rinsc import draw_rounds
from rinsc.backends.hf import causal_lm
from tests.hf.test_trainer import CountVisits, losses
from tests.hf.texts import text, tokenizer
from tests.onnx.models import small_spec

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")


@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_falls(tmp_path: Path, packing: bool) -> None:
    # As long as a document.
    spec = small_spec("P(A^2)^2B^3{sample=uniform(1, 6)}", vocab_size=300, context=48)
    torch.manual_seed(0)
    model: Any = causal_lm(spec)
    lines = [line for line in text().splitlines() if len(line) > 20]
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path),
        max_steps=30,
        per_device_train_batch_size=4,
        learning_rate=5e-3,
        max_length=48,
        packing=packing,
        padding_free=False,
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        gradient_checkpointing=True,
        dataset_num_proc=None,
    )
    trainer = trl.SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"text": lines}),
        processing_class=tokenizer(),
    )
    count = CountVisits(model, "B")
    trainer.add_callback(count)
    trainer.train()
    # Every visit runs a second time in the backward pass.
    drawn = [2 * draw_rounds(spec, 0, step)["B"] for step in range(30)]
    assert count.steps == [[visits] for visits in drawn]
    found = losses(trainer)
    assert sum(found[-5:]) / 5 < found[0] - 0.5
