"""Cost of a fine-tuning epoch, compared with a bare PyTorch loop on the same model and data.

    python benchmarks/finetune.py [--body NAME] [--epochs N]

Both train the same mini-swin on `digits`: the same batches in the same order, AdamW, clipping, then loss and error on validation and test
set. Epochs alternate, and so does which of the two goes first, in one run on one thread. Reported are CPU seconds, median over epochs
without the first of each. With `--body none`, embedder and predictor alone, what the loop adds shows most.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import torch
from torch import nn

from orca_core import Store, TrialConfig, resolve_config
from orca_core.finetuning.loop import Finetuning
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pipeline import model_before_tuning
from orca_core.seeding import generator
from orca_core.settings import Settings
from orca_core.tasks import TaskData
from orca_core.trial_stages import load_data


class Bare:
    """The loop one would write by hand."""

    def __init__(self, config: TrialConfig, model: CrossModalModel, data: TaskData) -> None:
        self.config, self.model = config, model.requires_grad_(True)
        self.splits = [(torch.from_numpy(split.x), torch.from_numpy(split.y)) for split in (data.train, data.valid, data.test)]
        settings = config.finetune
        self.optimizer = torch.optim.AdamW(
            model.parameters(), settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )

    def run_epoch(self, epoch: int) -> float:
        settings = self.config.finetune
        x, y = self.splits[0]
        self.model.train()
        for batch in torch.randperm(len(y), generator=generator(self.config.seed, "data-order", epoch)).split(settings.batch_size):
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(x[batch]), y[batch])
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
            self.optimizer.step()
        self.model.eval()
        errors = []
        with torch.no_grad():
            for x, y in self.splits[1:]:
                logits = torch.cat([self.model(part) for part in x.split(settings.eval_batch_size)])
                nn.functional.cross_entropy(logits, y).item()
                errors.append((logits.argmax(1) != y).double().mean().item())
        return errors[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--body", default="mini-swin")
    parser.add_argument("--epochs", type=int, default=13)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    knobs = {"task": "digits", "body": asked.body, "finetune.epochs": asked.epochs, "align.epochs": 0, "finetune.clip": 1.0}
    config = resolve_config(knobs | {"finetune.warmup_epochs": 0, "finetune.decay_epochs": None})
    data = load_data(Settings.of(config, "finetune"))
    with tempfile.TemporaryDirectory() as folder:
        ours = Finetuning(Settings.of(config, "finetune"), model_before_tuning(config, Store(folder)), data, torch.device("cpu"))
        bare = Bare(config, model_before_tuning(config, Store(folder)), data)
    ours.start_phase(ours.settings)
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    loops = {"ours": lambda epoch: ours.run_epoch(epoch).valid_error, "bare": bare.run_epoch}
    for epoch in range(1, asked.epochs + 1):
        errors = {}
        for name in sorted(loops, reverse=epoch % 2 == 0):
            started = time.process_time()
            errors[name] = loops[name](epoch)
            seconds[name].append(time.process_time() - started)
        assert abs(errors["ours"] - errors["bare"]) < 1e-9, "the loops do not train the same"
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    ratio = statistics.median(a / b for a, b in zip(seconds["ours"][1:], seconds["bare"][1:], strict=True))
    print(f"an epoch: {medians['ours']:.4f} s here, {medians['bare']:.4f} s in the bare loop; ratio, median over epochs: {ratio:.3f}")


if __name__ == "__main__":
    main()
