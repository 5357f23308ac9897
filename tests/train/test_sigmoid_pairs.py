"""The objective `sigmoid_pairs`: its loss, its costs, its runs, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import rinsc
from rinsc import RinscError, build_graph, towers_spec
from rinsc.cost.flops import training_flops, training_join_flops
from rinsc.data.pairs.captions import load_caption_tokenizer, train_caption_tokenizer
from rinsc.objectives.pair_loss import pair_loss
from rinsc.objectives.sigmoid_pairs import GROUP, retrieved
from rinsc.training.checkpoint import checkpoints, remove_checkpoints
from rinsc.training.config import TrainConfig
from rinsc.training.metrics import read_metrics
from rinsc.training.run_folder import RunFolder
from rinsc.training.schedules import Depths
from tests.cli.command_line import run_cli
from tests.torch.test_siglip import PLAIN, inputs, our_weights_of_gradients, twins

START = (torch.tensor([2.302585]), torch.tensor([-10.0]))
TINY: dict[str, Any] = {
    "image": {"kind": "siglip_image", "image_size": 8, "patch_size": 4},
    "text": {"kind": "siglip_text", "vocab_size": 300, "context": 6},
}
SIZES: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2, "mlp_width": 24}
SETTINGS: dict[str, Any] = {
    "steps": 6,
    "batch_sequences": 8,
    "eval_every": 3,
    "log_every": 1,
    "checkpoint_every": 2,
    "keep": 9,
    "learning_rate": 1e-3,
}


def backward(loss: Any) -> None:
    loss.backward()


def plain_loss(
    image: torch.Tensor,
    text: torch.Tensor,
    captions: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    """As the paper writes it: -log sigmoid of each logit, with its sign."""
    logits = F.normalize(text, dim=-1) @ F.normalize(image, dim=-1).T * scale.exp() + bias
    signs = 2 * (captions[:, None] == captions[None]).float() - 1
    return -F.logsigmoid(signs * logits).sum()


@given(
    pairs=st.integers(1, 9),
    chunk=st.integers(1, 10),
    kinds=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_loss_and_gradients_are_those_of_the_paper(
    pairs: int, chunk: int, kinds: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    captions = torch.randint(kinds, (pairs,), generator=generator)
    values = [torch.randn(pairs, 5, generator=generator) for _ in range(2)]
    values += [torch.randn(1, generator=generator), torch.randn(1, generator=generator)]
    sides = []
    for loss_of in (pair_loss, plain_loss):
        given_values = [value.clone().requires_grad_() for value in values]
        image, text, scale, bias = given_values
        named: dict[str, Any] = {"chunk": chunk} if loss_of is pair_loss else {}
        loss: Any = loss_of(image, text, captions, scale, bias, **named)
        (3 * loss).backward()
        sides.append([loss.detach(), *(value.grad for value in given_values)])
    for ours, expected in zip(*sides, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_the_loss_starts_where_siglip_does() -> None:
    """Of random unit vectors: 10 + 4.8e-5 · (N - 1) at width 768."""
    torch.manual_seed(0)
    for count in (2, 64, 512):
        image, text = torch.randn(count, 768), torch.randn(count, 768)
        loss = pair_loss(image, text, torch.arange(count), *START) / count
        assert abs(float(loss) - (10 + 4.8e-5 * (count - 1))) < 0.15


def test_loss_and_gradients_are_those_of_transformers() -> None:
    ours, theirs = twins("image: AB, text: CD", PLAIN)
    pixels, ids = inputs()
    expected = theirs(input_ids=ids, pixel_values=pixels, return_loss=True).loss
    found = ours(image=pixels, text=ids, with_logits=False)
    joined: Any = ours
    loss: Any = pair_loss(
        *(found["image"], found["text"], torch.arange(5), joined.logit_scale, joined.logit_bias)
    )
    torch.testing.assert_close(loss / 5, expected, atol=1e-4, rtol=1e-5)
    expected.backward()
    (loss / 5).backward()
    theirs_by_name = our_weights_of_gradients(theirs, PLAIN)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs_by_name[name], atol=1e-4, rtol=1e-4)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the most numbers of any tensor that is made."""

    most = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.most = max(self.most, tensor.numel())
        return result


def largest() -> Any:
    made: Any = Largest
    return made()


def test_no_tensor_is_larger_than_a_chunk_of_logits() -> None:
    image, text = (torch.randn(400, 4).requires_grad_() for _ in range(2))
    with largest() as seen:
        backward(pair_loss(image, text, torch.arange(400), *START, chunk=16))
    assert seen.most == 16 * 400
    with largest() as whole:
        backward(plain_loss(image, text, torch.arange(400), *START))
    assert whole.most == 400 * 400


@pytest.mark.parametrize("chunk", [7, 256])
def test_the_costs_of_the_loss_are_those_that_pytorch_counts(chunk: int) -> None:
    spec = towers_spec("image: AB, text: CD", preset="siglip-tiny")
    image, text = (torch.randn(24, 128).requires_grad_() for _ in range(2))
    with FlopCounterMode(display=False) as counter:
        backward(pair_loss(image, text, torch.arange(24), *START, chunk=chunk))
    assert counter.get_total_flops() == training_join_flops(spec, batch=24)


def test_retrieval_counts_equal_captions_as_right() -> None:
    torch.manual_seed(0)
    count = 2 * GROUP + 5
    rows = F.normalize(torch.randn(count, 32), dim=-1)
    labels = torch.arange(count)
    found = retrieved(rows, rows, labels, *START)
    assert (found.image_to_text, found.text_to_image) == (1.0, 1.0)
    assert found.pieces is not None
    assert found.pieces.figure == pytest.approx(found.figures["nats_per_pair"])
    turned = retrieved(rows, rows.roll(1, 0), labels, *START)
    assert (turned.image_to_text, turned.text_to_image) == (0.0, 0.0)
    assert turned.figures["nats_per_pair"] > found.figures["nats_per_pair"] + 5
    alike = retrieved(rows, rows.roll(1, 0), torch.zeros(count, dtype=torch.int64), *START)
    assert alike.image_to_text == 1.0
    groups = -(-count // GROUP)
    chosen = torch.arange(0, count, groups)
    expected = plain_loss(rows[chosen], rows[chosen], labels[chosen], *START)
    assert found.nats[chosen.numpy()].sum() == pytest.approx(float(expected), rel=1e-5)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Sixty pictures of a colour each, with its name."""
    folder = tmp_path_factory.mktemp("pictures")
    colours = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
    rows, random = [], np.random.default_rng(0)
    for index in range(60):
        name = list(colours)[index % 3]
        pixels = np.array(colours[name]) + random.integers(0, 50, (9, 9, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
        rows.append({"image": f"{index}.png", "caption": f"a {name} square, number {index}"})
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return f"pairs:{path}"


def test_a_run_counts_what_it_spends_and_goes_on_to_the_same_weights(
    pictures: str, tmp_path: Path
) -> None:
    spec = towers_spec("image: A^3{skip=0.4}B, text: A^2{skip=0.5}C", towers=TINY, **SIZES)
    trained = rinsc.train(spec, data=pictures, output=tmp_path / "whole", settings=SETTINGS)
    assert trained.config.objective == "sigmoid_pairs"
    figures = trained.result.quality
    assert list(figures) == ["nats_per_pair", "image_to_text", "text_to_image"]
    folder = RunFolder(tmp_path / "whole")
    metrics = read_metrics(folder.metrics)
    drawn = {tuple(dict(one.rounds or {})) for one in metrics}
    assert drawn == {("image.A", "text.A")}
    graph, spent = build_graph(spec), 0
    depths = Depths(spec, trained.config)
    for step in range(6):
        spent += training_flops(graph, 6, batch=8, rounds=depths.rounds(step))
        assert depths.rounds(step) == depths.shown_rounds(step)
    assert trained.result.training_flops == spent
    assert len({tuple(dict(one.rounds or {}).values()) for one in metrics}) > 1
    assert (folder.path / "tokenizer.json").is_file()
    # Broken off after four steps, and gone on with.
    half = RunFolder(tmp_path / "half")
    shutil.copytree(folder.path, half.path)
    for file in (half.result, half.weights):
        file.unlink()
    for checkpoint in checkpoints(half.path):
        if checkpoint.step > 4:
            shutil.rmtree(checkpoint.path)
    again = rinsc.train(spec, data=pictures, output=half.path, settings=SETTINGS)
    assert not again.was_finished
    one, other = load_file(folder.weights), load_file(half.weights)
    assert "logit_scale" in one
    assert "A.0.query.weight" in one
    assert all(torch.equal(one[name], other[name]) for name in one)
    module: Any = rinsc.to_torch(spec)
    rinsc.load_weights(module, folder.weights)
    assert module.logit_scale.item() != pytest.approx(2.302585, abs=1e-6)
    same = rinsc.train(spec, data=pictures, output=folder.path, settings=SETTINGS)
    assert same.was_finished
    remove_checkpoints(folder.path)


def test_a_match_gives_the_steps_of_equal_flops(pictures: str, tmp_path: Path) -> None:
    spec = towers_spec("image: A^2B, text: CD", towers=TINY, **SIZES)
    trained = rinsc.train(
        *(spec,),
        data=pictures,
        output=tmp_path / "run",
        settings={**SETTINGS, "steps": 12},
        match="image: AB, text: CD",
    )
    baseline = towers_spec("image: AB, text: CD", towers=TINY, **SIZES)
    paid = 12 * training_flops(baseline, 6, batch=8)
    one_step = training_flops(spec, 6, batch=8)
    assert trained.config.steps == paid // one_step < 12
    assert paid - one_step < trained.result.training_flops <= paid


@pytest.mark.parametrize(
    ("spec", "changes", "code"),
    [
        (towers_spec("image: A, text: B", preset="tiny"), {}, "no-pairs"),
        (rinsc.model_spec("AB", preset="siglip-tiny", kind="siglip_text"), {}, "no-pairs"),
        (None, {"accumulate": 2}, "parts-of-pairs"),
        (None, {"sequence_length": 7}, "beyond-context"),
        (None, {"objective": "next_token"}, "several-towers"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    spec: Any, changes: dict[str, Any], code: str, pictures: str, tmp_path: Path
) -> None:
    spec = spec or towers_spec("image: AB, text: CD", towers=TINY, **SIZES)
    with pytest.raises(RinscError) as caught:
        rinsc.train(spec, data=pictures, output=tmp_path / "run", settings={**SETTINGS, **changes})
    assert [problem.code for problem in caught.value.problems] == [code]
    assert caught.value.hint
    assert not (tmp_path / "run").exists()


def test_the_objective_follows_from_the_data() -> None:
    assert TrainConfig().objective == "next_token"


def test_a_tokenizer_of_ones_own_gives_the_size_of_the_vocabulary(
    pictures: str, tmp_path: Path
) -> None:
    captions = [f"a picture of the number {number}" for number in range(40)]
    train_caption_tokenizer(captions, 270, 6).save_folder(tmp_path)
    sizes = ("--layers", "2", "--width", "16", "--heads", "2", "--mlp-width", "24")
    command = (
        "train",
        "image: AB, text: CD",
        "--preset",
        "siglip-tiny",
        *sizes,
        "--data",
        pictures,
    )
    more = ("--tokenizer", str(tmp_path), "--steps", "1", "--batch", "4", "--device", "cpu")
    own = load_caption_tokenizer(tmp_path, 6)
    for given_size, expected in (((), own.vocab_size), (("--vocab-size", "300"), 300)):
        output = tmp_path / f"run{expected}"
        done = run_cli(*command, *more, *given_size, "-o", str(output))
        assert done.status == 0, done.err
        spec = rinsc.towers_spec(output / "model.toml")
        assert spec.towers["text"].vocab_size == expected
        saved = load_caption_tokenizer(output, 16)
        assert (
            saved.encode(captions) == load_caption_tokenizer(tmp_path, 16).encode(captions)
        ).all()
