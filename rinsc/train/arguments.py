"""The settings of a run as those of transformers' Trainer."""

from __future__ import annotations

import os

from transformers import TrainingArguments

from rinsc.train.config import TrainConfig
from rinsc.train.devices import Devices
from rinsc.train.run_folder import RunFolder

SCHEDULES = {"cosine": "cosine", "wsd": "warmup_stable_decay"}  # as transformers calls them
PROJECT = "rinsc"  # under which W&B (unless WANDB_PROJECT is set) and trackio keep runs


def training_arguments(
    config: TrainConfig, folder: RunFolder, devices: Devices, trackers: tuple[str, ...]
) -> TrainingArguments:
    """What the Trainer is told; what it is not told is overridden in `RinscTrainer`."""
    if "tensorboard" in trackers:  # the only place where its folder can be named
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder.tensorboard)
    if "wandb" in trackers:
        os.environ.setdefault("WANDB_PROJECT", PROJECT)
    parts = config.accumulate * devices.count
    arguments = TrainingArguments(
        output_dir=str(folder.path),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_sequences // parts,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        lr_scheduler_type=SCHEDULES[config.schedule],  # this and the next for trackers to show
        warmup_steps=config.warmup_steps,
        max_grad_norm=config.clip,
        seed=config.seed % 2**32,
        use_cpu=devices.device.type == "cpu",
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.checkpoint_every,
        eval_strategy="no",
        disable_tqdm=True,
        report_to=list(trackers) or "none",
        remove_unused_columns=False,
        use_cache=True,  # of the model that is saved; there is no cache in training
        project=PROJECT,
        run_name=folder.path.name,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # else one process would use all by DataParallel
    return arguments
