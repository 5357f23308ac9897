"""Run by itself: loads exported folders where rinsc cannot be imported, and says what they give.

``python -I without_rinsc.py FOLDER``: below it a folder for each case, with ``given.pt`` beside the
model; what the model gives is written to ``found.pt``.
"""

from __future__ import annotations

import shutil
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any


class NoRinsc(MetaPathFinder):
    """Nothing of that name is found."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "rinsc":
            raise ModuleNotFoundError(f"no {name} here", name=name)


def outputs(model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Logits and tokens at every number of rounds, in every way of generating."""
    import torch

    ids, padded, mask = given["ids"], given["padded"], given["mask"]
    found: dict[str, Any] = {"layers": model.config.num_hidden_layers}
    greedy = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    ways: dict[str, dict[str, Any]] = {
        "dynamic": {},
        "static": {"cache_implementation": "static"},
        "uncached": {"use_cache": False},
        "beams": {"num_beams": 3},
    }
    for rounds in given["rounds"]:
        with torch.no_grad():
            found[f"logits {rounds}"] = model(ids, rounds=rounds).logits
            found[f"padded {rounds}"] = model(padded, attention_mask=mask, rounds=rounds).logits
        for name, way in ways.items():
            made = model.generate(ids, rounds=rounds, **greedy, **way)
            found[f"{name} {rounds}"] = made
        inputs = {"input_ids": ids, "rounds": rounds}
        found[f"flops {rounds}"] = model.floating_point_ops(inputs)
        counts = model.config.rounds_of(rounds)
        found[f"slots {rounds}"] = model.config.cache_slots(counts)
    model.train()
    for how in ("none", "visit"):
        model.set_checkpointing(how)
        model(ids, labels=ids).loss.backward()
        found[f"gradient {how}"] = model.get_input_embeddings().weight.grad.clone()
        model.zero_grad()
    found["visits"] = visits(model, ids)
    model.eval()
    with torch.no_grad():
        rows = model.get_input_embeddings()(padded)
        found["embeds"] = model(inputs_embeds=rows, attention_mask=mask).logits
        states = model(ids, output_hidden_states=True).hidden_states
        found |= {f"state {visit}": state for visit, state in enumerate(states)}
        found["features"] = model.base_model(ids).last_hidden_state
    if given["rounds"][-1] is not None:
        model.generation_config.rounds = 2
        found["config rounds"] = model.generate(ids, **greedy)
        found["over config rounds"] = model.generate(ids, rounds=1, **greedy)
        del model.generation_config.rounds
    found["plans"] = (model.tp_plan, model.fsdp_plan, sorted(model._no_split_modules))
    return found


def visits(model: Any, ids: Any) -> list[int]:
    """How often the block A, or R, runs in each of some training passes."""
    found, block = [], getattr(model.model, "A", None) or model.model.R
    for _ in range(8):
        calls: list[int] = []
        handle = block.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        model(ids, labels=ids)
        handle.remove()
        found.append(len(calls))
    return found


def in_one_graph(model: Any, ids: Any) -> Any:
    """Logits, compiled without a break in the graph."""
    import torch

    torch._dynamo.reset()
    compiled: Any = torch.compile(model, fullgraph=True, backend="eager")
    return compiled(ids).logits


def resized(case: Path, folder: Path, ids: Any) -> dict[str, Any]:
    """The model with 11 tokens more, saved to a folder, and what that folder gives."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(case, trust_remote_code=True)
    size = model.config.vocab_size + 11
    torch.manual_seed(0)
    model.resize_token_embeddings(size)
    model.save_pretrained(folder)
    again: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    logits = again(ids).logits
    return {
        "size": again.config.vocab_size,
        "logits": logits,
        "equal": torch.equal(model(ids).logits, logits),
        "flops": again.floating_point_ops({"input_ids": ids}),
    }


def trained(case: Path, given: dict[str, Any]) -> dict[str, Any]:
    """One step of the plain Trainer."""
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    model: Any = AutoModelForCausalLM.from_pretrained(case, trust_remote_code=True)
    before = model.get_input_embeddings().weight.detach().clone()
    rows = [{"input_ids": row, "labels": row} for row in given["ids"]]
    arguments = TrainingArguments(
        output_dir=str(case / "trained"),
        max_steps=1,
        per_device_train_batch_size=len(rows),
        use_cpu=True,
        report_to="none",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    loss = trainer.train().training_loss
    moved = not torch.equal(before, model.get_input_embeddings().weight)
    return {"loss": loss, "moved": moved}


def refused(folder: Path) -> str:
    """What is said of the config of one model beside the code of another."""
    from transformers import AutoConfig

    shutil.copytree(folder / "plain", folder / "mixed")
    shutil.copy(folder / "gpt" / "modeling_rinsc.py", folder / "mixed")
    try:
        AutoConfig.from_pretrained(folder / "mixed", trust_remote_code=True)
    except ValueError as error:
        return str(error)
    return "nothing"


def main(folder: Path) -> None:
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    for case in sorted(folder.iterdir()):
        given = torch.load(case / "given.pt")
        model: Any = AutoModelForCausalLM.from_pretrained(case, trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules.")
        found = outputs(model, given)
        model.save_pretrained(case / "again")
        again: Any = AutoModelForCausalLM.from_pretrained(case / "again", trust_remote_code=True)
        found["again"] = torch.equal(again(given["ids"]).logits, model(given["ids"]).logits)
        errors = []
        for wrong in ({"Z": 2}, 0, 5000):
            try:
                model(given["ids"], rounds=wrong)
            except ValueError as error:
                errors.append(str(error))
        found["errors"] = errors
        features: Any = AutoModel.from_pretrained(case, trust_remote_code=True)
        found["auto"] = features(given["ids"]).last_hidden_state
        if case.name == "plain":
            found["trained"] = trained(case, given)
            with torch.no_grad():
                found["one graph"] = in_one_graph(model, given["ids"])
        if case.name in ("plain", "window"):
            found["resized"] = resized(case, case / "resized", given["ids"])
        torch.save(found, case / "found.pt")
    torch.save(refused(folder), folder / "mixed" / "refused.pt")
    assert not any(name.partition(".")[0] == "rinsc" for name in sys.modules)


if __name__ == "__main__":
    sys.meta_path.insert(0, NoRinsc())
    main(Path(sys.argv[1]))
