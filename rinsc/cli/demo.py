"""``rinsc demo``: the whole path once, step by step."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.onnx.contract import MODEL_FILE
from rinsc.backends.torch.generate import generate_ids
from rinsc.cli.cost import print_comparison, print_plan, print_report
from rinsc.cli.output import print_json, print_line, print_table, results_as_notes
from rinsc.cost import block_params, cost_report, match_compute
from rinsc.data.batches import TokenizedCorpus, cut_windows, tokenize
from rinsc.data.corpora import load_corpus
from rinsc.data.tokenizer import BytePairTokenizer, train_tokenizer
from rinsc.errors import LoweringError, plural
from rinsc.extras import require
from rinsc.graph import build_graph
from rinsc.graph.draw import FORMATS, tree_lines
from rinsc.objectives.next_token import held_out_windows, quality_against_rounds
from rinsc.plots import curve, draw_rounds, draw_training
from rinsc.progress import ShownProgress
from rinsc.sampling import Sampling
from rinsc.scalars import exact, rounded_flops
from rinsc.spec import ModelSpec, model_spec
from rinsc.storage.files import make_folder, write_atomically
from rinsc.training.compare import Contender, train_pair
from rinsc.training.config import TrainConfig
from rinsc.training.devices import fast_precision
from rinsc.training.metrics import read_metrics
from rinsc.training.progress import TrainingProgress
from rinsc.verification import LOGIT_LIMIT, dial_gaps

if TYPE_CHECKING:
    from rinsc.cost import ComputeMatch

QUICK_TOKENS = 1 << 16


def demo(
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o", "--out"))] = Path("runs/demo"),
    quick: bool = False,
    json: bool = False,
) -> None:
    """Train (A^3)B and AB at equal FLOPs, export to ONNX and compare.

    Parameters
    ----------
    output
        The run folder; everything that the demo writes stands there.
    quick
        A few steps only, to see the path and no result.
    json
        Print the result as JSON; the story goes to standard error.
    """
    require("torch", "safetensors", "onnx", "onnx_ir", "onnxruntime", "tokenizers", "matplotlib")

    settings = DemoSettings()
    if quick:
        settings = replace(settings, baseline_tokens=QUICK_TOKENS)
    with results_as_notes() if json else nullcontext():
        summary = run_demo(output, settings)
    if json:
        print_json(summary)


ROUNDS = (1, 2, 3, 4)
PROMPT = "HAMLET\nTo be, or not to be"
NEW_TOKENS = 60


@dataclass(frozen=True)
class DemoSettings:
    """What the demo trains: both variants at these dimensions and at equal training FLOPs."""

    variant: str = "(A^3)B"
    baseline: str = "AB"
    layers: int = 4
    width: int = 128
    heads: int = 4
    mlp_width: int = 352
    vocab_size: int = 1024
    context: int = 256
    batch_sequences: int = 8
    baseline_tokens: int = 1_600_000
    learning_rate: float = TrainConfig.learning_rate  # the default, tuned for neither side
    seed: int = 0

    def spec(self, signature: str) -> ModelSpec:
        return model_spec(
            signature,
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            mlp_width=self.mlp_width,
            vocab_size=self.vocab_size,
            context=self.context,
            tied_embedding=True,
        )

    @property
    def batch_tokens(self) -> int:
        return self.batch_sequences * self.context


def run_demo(folder: Path, settings: DemoSettings) -> dict[str, Any]:
    """Costs, training at equal FLOPs, ONNX with a depth dial, quality against rounds, text.

    What came out, in figures.
    """
    make_folder(folder)
    write_atomically(folder / "settings.json", json.dumps(asdict(settings), indent=2) + "\n")
    baseline, variant = settings.spec(settings.baseline), settings.spec(settings.variant)
    _heading(f"1. {settings.variant} and its baseline {settings.baseline}")
    plan = _costs(baseline, variant, settings, folder)
    _heading("2. Training both at equal FLOPs on Shakespeare's plays")
    corpus, tokenizer = _text(settings)
    left, right = _train(baseline, variant, plan, corpus, tokenizer, settings, folder)
    _heading("3. One ONNX file, rounds as an input")
    session = _export(right, corpus, folder)
    _heading("4. Quality against rounds, one checkpoint")
    quality = _rounds(right, corpus, folder)
    _heading("5. Text from both runtimes")
    _generate(right, session, tokenizer, settings, folder)
    _heading("6. Result")
    return _result(left, right, quality, folder)


def _heading(text: str) -> None:
    print_line()
    print_line(text, style="bold cyan")
    print_line()


def _costs(
    baseline: ModelSpec, variant: ModelSpec, settings: DemoSettings, folder: Path
) -> ComputeMatch:
    graph = build_graph(variant)
    counts = block_params(graph)
    write_atomically(folder / "variant.svg", FORMATS[".svg"](graph, counts))
    print_line("\n".join(tree_lines(graph, counts)))
    print_line()
    reports = [cost_report(spec, batch=settings.batch_sequences) for spec in (baseline, variant)]
    for report, spec in zip(reports, (baseline, variant), strict=True):
        print_report(report, spec)
        print_line()
    print_comparison(*reports)
    plan = match_compute(
        baseline, variant, tokens=settings.baseline_tokens, batch_tokens=settings.batch_tokens
    )
    print_plan(baseline.text, variant.text, plan)
    data = {
        "baseline": reports[0].as_dict(),
        "variant": reports[1].as_dict(),
        "plan": plan.as_dict(),
    }
    write_atomically(folder / "costs.json", json.dumps(data, indent=2) + "\n")
    return plan


def _text(settings: DemoSettings) -> tuple[TokenizedCorpus, BytePairTokenizer]:
    text = load_corpus("plays")
    tokenizer = train_tokenizer([part.text for part in text.train], settings.vocab_size)
    corpus = tokenize(text, tokenizer)
    megabytes = [
        sum(part.byte_count for part in side) / 1e6 for side in (text.train, text.held_out)
    ]
    print_line(
        f"{len(text.train)} plays to train on, {megabytes[0]:.2f} MB, {exact(len(corpus.train))} "
        f"tokens; {len(text.held_out)} held out, {megabytes[1]:.2f} MB"
    )
    return corpus, tokenizer


def _train(
    baseline: ModelSpec,
    variant: ModelSpec,
    plan: ComputeMatch,
    corpus: TokenizedCorpus,
    tokenizer: BytePairTokenizer,
    settings: DemoSettings,
    folder: Path,
) -> tuple[Contender, Contender]:
    config = TrainConfig(
        batch_sequences=settings.batch_sequences,
        sequence_length=settings.context,
        learning_rate=settings.learning_rate,
        precision=fast_precision("cpu"),
        seed=settings.seed,
    )
    shown = partial(TrainingProgress, progress=ShownProgress())
    sides = train_pair(baseline, variant, plan, corpus, tokenizer, config, folder, shown)
    for ran in (sides[1].folder.model_spec, sides[1].folder.config):  # the variant, as it ran
        write_atomically(folder / ran.name, ran.read_bytes())
    curves = [curve(side.spec.text, read_metrics(side.folder.metrics)) for side in sides]
    draw_training(curves, folder / "curves")
    for side in sides:
        print_line(
            f"{side.spec.text}: {side.result.bits_per_byte:.4f} bits per byte on "
            f"{side.result.held_out_words} after {exact(side.result.tokens)} tokens, "
            f"{side.result.seconds:.0f} s"
        )
    print_line(f"loss curves, on a sample of the held-out text: {folder / 'curves.png'}")
    return sides


def _export(side: Contender, corpus: TokenizedCorpus, folder: Path) -> Session:
    """Export with a dial, and hold the file to the PyTorch module's logits."""
    path = folder / MODEL_FILE
    to_onnx(side.model, rounds="dynamic").save(path)
    session = Session(path)
    windows = cut_windows(corpus.held_out, side.spec.context)
    gaps = dial_gaps(side.model, session, windows[:2, :-1].astype("int64"), ROUNDS)
    for rounds, gap in gaps.items():
        if not gap <= LOGIT_LIMIT:
            message = f"ONNX Runtime and PyTorch differ by {gap:.1e} at {plural(rounds, 'round')}"
            hint = "compare the forms of the model: rinsc verify"
            raise LoweringError("runtimes-differ", message, place=str(path), hint=hint)
    weights, file = side.folder.weights.stat().st_size, path.stat().st_size
    print_line(f"{path}: {exact(file)} bytes, weights alone {exact(weights)}")
    print_line()
    print_table(
        ("rounds", "ONNX Runtime against PyTorch: largest difference of logits", "limit"),
        [(str(rounds), f"{gap:.1e}", f"{LOGIT_LIMIT:.0e}") for rounds, gap in gaps.items()],
    )
    return session


def _rounds(side: Contender, corpus: TokenizedCorpus, folder: Path) -> dict[int, float]:
    held_out = held_out_windows(corpus, side.spec.context)
    quality = quality_against_rounds(side.model, held_out, ROUNDS)
    trained = next(loop.rounds for loop in build_graph(side.spec).loops())
    reports = {rounds: cost_report(side.spec, rounds=rounds) for rounds in ROUNDS}
    print_table(
        ("rounds", "bits per byte", "forward FLOPs per token"),
        [
            (
                f"{rounds}{' (as trained)' if rounds == trained else ''}",
                f"{bits:.4f}",
                rounded_flops(reports[rounds].forward_flops_per_token),
            )
            for rounds, bits in quality.items()
        ],
    )
    draw_rounds({side.spec.text: quality}, {side.spec.text: trained}, folder / "rounds")
    return quality


def _generate(
    side: Contender,
    session: Session,
    tokenizer: BytePairTokenizer,
    settings: DemoSettings,
    folder: Path,
) -> None:
    """The same prompt, seed and rule in both runtimes, as text and token for token."""
    prompt = tokenizer.encode(PROMPT).tolist()
    sampling = Sampling(temperature=0.8, top_k=50, seed=settings.seed)
    from_torch = generate_ids(side.model, prompt, NEW_TOKENS, sampling=sampling)
    from_onnx = session.generate(
        prompt,
        NEW_TOKENS,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        seed=sampling.seed,
    )
    texts = {"PyTorch": from_torch, "ONNX Runtime": from_onnx}
    written = []
    for name, ids in texts.items():
        written.append(f"[{name}]\n{PROMPT}{tokenizer.decode(ids)}\n")
        print_line(f"{name}:", style="bold")
        print_line(PROMPT + tokenizer.decode(ids))
        print_line()
    same = sum(a == b for a, b in zip(from_torch, from_onnx, strict=True))
    print_line(f"{same} of {NEW_TOKENS} tokens are the same")
    write_atomically(folder / "generated.txt", "\n".join(written))


def _result(
    left: Contender, right: Contender, quality: dict[int, float], folder: Path
) -> dict[str, Any]:
    sides = (left, right)
    winner = min(sides, key=lambda side: side.result.bits_per_byte)
    print_table(
        ("variant", "bits per byte", "training FLOPs", "tokens", "epochs", "seconds", ""),
        [
            (
                side.spec.text,
                f"{side.result.bits_per_byte:.4f}",
                f"{side.result.training_flops:.4e}",
                exact(side.result.tokens),
                f"{side.result.epochs:.2f}",
                f"{side.result.seconds:.0f}",
                "won" if side is winner else "",
            )
            for side in sides
        ],
    )
    gap = abs(left.result.bits_per_byte - right.result.bits_per_byte)
    print_line()
    print_line(
        f"{winner.spec.text} won by {gap:.4f} bits per byte on "
        f"{winner.result.held_out_words} at "
        f"{winner.result.training_flops:.2e} training FLOPs: one seed, minutes of training."
    )
    summary = {
        "winner": winner.spec.text,
        "bits_per_byte": {side.spec.text: side.result.bits_per_byte for side in sides},
        "training_flops": {side.spec.text: side.result.training_flops for side in sides},
        "bits_per_byte_by_rounds": {str(rounds): bits for rounds, bits in quality.items()},
    }
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    print_line(f"Everything is in {folder}: configuration, weights, model.onnx, curves, text.")
    return {**summary, "folder": str(folder)}
