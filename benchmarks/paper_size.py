"""What the ten tasks of NAS-Bench-360 cost at their published sizes beside training: files, decoding, opening, inputs, evaluation, scores.

    python benchmarks/paper_size.py                        all ten, a table
    python benchmarks/paper_size.py --task cosmic psicov   those named
    python benchmarks/paper_size.py --against EARLIER      beside another checkout, with ratios
    python benchmarks/paper_size.py --part 0.2             with a fifth of the samples, on a busy machine

Random data in the published formats and shapes are written to a temporary folder: all samples of small data sets, a share of large
ones, from which times and sizes are scaled up. They pass through the loading code of the package, with one thread: `digest` reads the
files, `decode` is the first use on a node without that, `open` what each later process spends until it has the data, with its peak memory
above imports. `inputs` is what becomes of the stored rows of an epoch before the model sees them, `score` the score of validation and test
set together, once. All are CPU seconds; `beside` is evaluation, inputs and score.

Training and evaluation are counted on paper: operations of the published bodies by `torch.utils.flop_counter` on the meta device, which
needs no weights. They become seconds of a GPU by what was measured on an H100 in fp32 (docs/benchmarks.md). Small batches take longer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

MEASURED = {1: (134, (1, 512), 512), 2: (273, (3, 224, 224), None)}
"""By dimensions: samples a second that were trained in fp32 on an H100, the shape of their inputs, and how many tokens they became."""


class Paper(NamedTuple):
    """A task at its published size.

    Args:
        train, valid, test: Samples that pass the model in an epoch.
        shape: Of one input.
        outputs: Shape of one output.
        share: Of its samples that are written here.
        groups: Samples of validation and test that are scored as one, together; None if each is scored for itself.
    """

    train: int
    valid: int
    test: int
    shape: tuple[int, ...]
    outputs: tuple[int, ...]
    share: float = 1.0
    groups: int | None = None


PAPER = {
    "cifar100": Paper(40_000, 10_000, 10_000, (3, 32, 32), (100,), 0.5),
    "spherical": Paper(40_000, 10_000, 10_000, (3, 60, 60), (100,), 0.1),
    "ninapro": Paper(2638, 659, 659, (1, 16, 52), (18,)),
    "fsd50k": Paper(36_796, 71_000, 201_000, (1, 96, 102), (200,), 0.008, 14_401),
    "darcy": Paper(900, 100, 100, (3, 85, 85), (1, 85, 85), 0.15),
    "psicov": Paper(3356, 100, 150, (57, 512, 512), (1, 512, 512), 0.08),
    "cosmic": Paper(4347, 483, 420, (1, 128, 128), (1, 128, 128), 0.05),
    "ecg": Paper(261_000, 15_000, 15_000, (1, 1000), (4,), 0.5),
    "satellite": Paper(800_000, 100_000, 100_000, (1, 46), (24,), 0.5),
    "deepsea": Paper(71_750, 2490, 149_400, (4, 1000), (36,), 0.1),
}


# ------------------------------------------------------------------------------------------------------------------- on paper


def operations(shape: tuple[int, ...], tokens: int | None, is_dense: bool = False) -> tuple[float, float]:
    """Floating-point operations of one sample through embedder, published body and predictor: forward alone, and with the way back.

    Args:
        shape: Of the input.
        tokens: At most so many of a series for RoBERTa-base; None for Swin-B, which reads images of 224 x 224.
        is_dense: Whether the predictor is Swin's decoder.
    """
    import torch
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import RobertaConfig, RobertaModel, SwinConfig, SwinModel

    def counted(with_gradients: bool) -> float:
        counter = FlopCounterMode(display=False)
        with counter, torch.device("meta"), torch.set_grad_enabled(with_gradients):
            if tokens is None:
                sizes = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "num_channels": shape[0]}
                body = SwinModel(SwinConfig(image_size=224, **sizes), add_pooling_layer=False)
                read = body(torch.empty(1, shape[0], 224, 224)).last_hidden_state
                if is_dense:
                    read = nn.Conv2d(1024, 3072, 1)(read.transpose(1, 2).unflatten(2, (7, 7)))
            else:
                from orca_core.model.embedder import series_stride

                stride = series_stride(shape[1], tokens)
                embedded = nn.Conv1d(shape[0], 768, stride, stride)(torch.empty(1, *shape)).transpose(1, 2)
                body = RobertaModel(RobertaConfig(max_position_embeddings=514, attn_implementation="eager"), add_pooling_layer=False)
                read = body(inputs_embeds=embedded).last_hidden_state
            if with_gradients:
                read.sum().backward()
        return float(counter.get_total_flops())

    return counted(False), counted(True)


def on_paper(name: str) -> dict[str, float]:
    """Operations of a sample, and seconds of a GPU for training and evaluation of an epoch."""
    from orca_core.tasks import find_task

    spec, paper = find_task(f"nb360/{name}"), PAPER[name]
    tokens = spec.recipes["published"]["embedder"]["target_seq_len"] if spec.dims == 1 else None
    forward, trained = operations(paper.shape, tokens, spec.kind == "dense")
    a_second, shape, of_tokens = MEASURED[spec.dims]
    rate = a_second * operations(shape, of_tokens)[1]
    epoch, evaluation = paper.train * trained / rate, (paper.valid + paper.test) * forward / rate
    return {"gflop": forward / 1e9, "train_s": epoch, "evaluate_s": evaluation, "epochs": spec.recipes["published"]["finetune"]["epochs"]}


# ------------------------------------------------------------------------------------------------------------------- measured


def memory(name: str) -> float:
    """What Linux says of the memory of this process, in GiB: `VmRSS` now, `VmHWM` at most."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 2**20


def measure(step: str, name: str, root: Path, cache: Path) -> dict[str, float]:
    """CPU seconds of the first use on a node, or of another process after that; scaled to the published size by the caller."""
    import torch

    from orca_core.scoring import SCORES
    from orca_core.scoring.groups import group_means
    from orca_core.tasks import find_task
    from orca_core.workbench import Workbench

    torch.set_num_threads(1)
    spec, paper, found = find_task(f"nb360/{name}"), PAPER[name], {}
    if name == "fsd50k":
        import transformers.audio_utils  # noqa: F401  # what loaders import is not what is measured
    with Workbench(root, cache).use():
        if step == "first":
            found["digest_s"] = seconds_of(spec.digest)
            return found | {"decode_s": seconds_of(spec.load)}
        before, loaded = memory("VmRSS"), []
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here
        found["open_s"] = seconds_of(lambda: loaded.append(spec.load()))
        found["open_gib"] = memory("VmHWM") - before
        data, draws = loaded[0], torch.Generator().manual_seed(0)
        rows = torch.from_numpy(data.train.x[:16])
        found["inputs_s"] = seconds_of(lambda: data.inputs(rows)) / len(rows)
        found["augment_s"] = 0.0 if data.augment is None else seconds_of(lambda: data.augment(rows, draws)) / len(rows)
    outputs, targets, group = scored(name, paper)
    cut = paper.groups and round(paper.groups * paper.valid / (paper.valid + paper.test))

    def score() -> None:
        for part in (slice(0, paper.valid), slice(paper.valid, None)):
            some = outputs[part], targets[part]
            SCORES[spec.score](*(some if cut is None else group_means(*some, group[part])))

    return found | {"score_s": min(seconds_of(score) for _ in range(2))}  # the first time it may import scikit-learn


def seconds_of(work: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def scored(name: str, paper: Paper) -> tuple[Any, Any, Any]:
    """Random outputs and targets of validation and test set at published size, and what is scored as one."""
    import numpy as np
    import torch

    rng, n = np.random.default_rng(0), paper.valid + paper.test
    outputs = torch.from_numpy(rng.standard_normal((n, *paper.outputs), dtype="float32"))
    group = np.sort(rng.integers(0, paper.groups, n)) if paper.groups else None
    if name in ("fsd50k", "deepsea"):
        return outputs, torch.from_numpy((rng.random(outputs.shape, dtype="float32") < 0.02).astype("float32")), group
    if name == "cosmic":
        return outputs, (outputs + 2 * torch.randn_like(outputs) > 4).float(), group
    if name == "psicov":
        return outputs, 30 * torch.rand_like(outputs), group
    return outputs, torch.rand_like(outputs) if len(paper.outputs) > 1 else torch.from_numpy(rng.integers(0, paper.outputs[0], n)), group


def measured(name: str, root: Path, checkout: Path, share: float) -> dict[str, float]:
    """All steps for a share of the files that is written, by the code of a checkout; scaled to the published size."""
    paper, found = PAPER[name], {}
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(dir=root.parent) as cache:
        for step in ("first", "again"):
            command = [sys.executable, __file__, "--measure", step, name, str(root), cache]
            found |= json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
        found["decoded_gib"] = sum(file.stat().st_size for file in Path(cache).rglob("*.npy")) / 2**30
    found["decode_s"] -= found["open_s"]
    found["files_gib"] = sum(file.stat().st_size for file in root.rglob("*") if file.is_file()) / 2**30
    for key in ("digest_s", "decode_s", "open_s", "open_gib", "decoded_gib", "files_gib"):
        found[key] /= share
    passes = paper.train + paper.valid + paper.test
    found["inputs_s"] = found["inputs_s"] * passes + found["augment_s"] * paper.train
    return found


# ------------------------------------------------------------------------------------------------------------------- the table

COLUMNS = (
    ("files_gib", "files GiB", "{:.1f}"),
    ("decoded_gib", "decoded GiB", "{:.1f}"),
    ("digest_s", "digest s", "{:.1f}"),
    ("decode_s", "decode s", "{:.1f}"),
    ("open_s", "open s", "{:.1f}"),
    ("open_gib", "open GiB", "{:.1f}"),
    ("train_s", "train GPU s", "{:.0f}"),
    ("evaluate_s", "evaluate GPU s", "{:.0f}"),
    ("inputs_s", "inputs s", "{:.1f}"),
    ("score_s", "score s", "{:.2f}"),
    ("beside", "beside / train", "{:.2f}"),
    ("hours", "run GPU h", "{:.1f}"),
)
RATIOS = ("digest_s", "decode_s", "open_s", "inputs_s", "score_s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=list(PAPER), default=list(PAPER))
    parser.add_argument("--against", type=Path, help="another checkout, to compare with")
    parser.add_argument("--part", type=float, default=1.0, help="how many of the samples that are written otherwise")
    parser.add_argument("--folder", help="where the temporary files go")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        step, name, root, cache = asked.measure
        print(json.dumps(measure(step, name, Path(root), Path(cache))))
        return
    from paper_files import WRITERS

    here = Path(__file__).resolve().parents[1]
    print(" | ".join(["task", *(title for _, title, _ in COLUMNS)]), flush=True)
    for name in asked.task:
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            root = Path(folder, "data")
            root.mkdir()
            share = asked.part * PAPER[name].share
            WRITERS[name](root, share)
            found = measured(name, root, here, share) | on_paper(name)
            before = measured(name, root, asked.against.resolve(), share) if asked.against else None
        beside = found["evaluate_s"] + found["inputs_s"] + found["score_s"]
        found |= {"beside": beside / found["train_s"], "hours": found["epochs"] * (found["train_s"] + beside) / 3600}
        print(" | ".join([name, *(form.format(found[key]) for key, _, form in COLUMNS)]), flush=True)
        if before is not None:
            ratios = (f"{key.removesuffix('_s')} {before[key]:.2f} s, {before[key] / max(found[key], 1e-4):.2f} times" for key in RATIOS)
            print(f"    before: {'; '.join(ratios)}; open {before['open_gib']:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
