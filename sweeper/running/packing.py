"""How many trials share a GPU under `resources: {gpu: auto}`.

What a trial takes of a GPU's memory is measured, not estimated. Trials whose configs differ only in knobs that do not change their
memory are of one kind. As long as nothing is known of a kind, its trials hold a whole GPU each. Once one of them has trained an epoch of
its last phase, the others hold 1/n of one, where

    n = floor(total * (1 - MARGIN) / (peak + CONTEXT_BYTES)),

at most `resources.gpu_trials`. `peak` is the largest amount that the process of a trial of this kind has reserved, in this run or in
trials of any sweep that were completed earlier; `total` is the memory of the smallest GPU. A process is held to its share, so that a trial
that needs more runs out of memory itself. Then no more than half as many trials of its kind share a GPU, and it is started again from its
last stored state; if it had a whole GPU it has failed.

Shares decide when and where trials run, never what they compute: they are in no id and in no key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orca_core.config.paths import KNOBS
from orca_core.rows import EpochRow, Row

if TYPE_CHECKING:
    from sweeper.planning.trials import PlannedTrial
    from sweeper.results.workspace import Workspace
    from sweeper.space.file import Resources

MARGIN = 0.1
"""Share of a GPU's memory that is left free, as trials of one kind do not take exactly the same."""

CONTEXT_BYTES = 600 * 2**20
"""GPU memory that a process holds beside what its allocator has reserved: the context of CUDA with the code of its kernels."""

SAME_MEMORY = frozenset(
    {
        *("recipe", "method", "reference_behaviour", "reversed", "split_seed", "valid_share", "validation.folds", "validation.fold"),
        *("proxy", "body.weights", "body.keep", "embedder.init", "embedder.weights", "selection", "selection_ties", "threads", "seed"),
        *(f"pretrain.{name}" for name in ("fraction", "epochs", "corpus", "objective", "label_noise", "seed")),
        *(f"align.{name}" for name in ("epochs", "lr", "lr_from", "optimizer_from", "weight_decay", "momentum", "betas", "lr_steps")),
        *(f"align.{name}" for name in ("lr_schedule", "entropic_reg", "inner_lr", "warmup_epochs")),
        *(f"adapt.{name}" for name in ("epochs", "lr", "mask")),
        *(f"finetune.{name}" for name in ("epochs", "lr", "weight_decay", "momentum", "betas", "data_order", "test", "clip", "schedule")),
        *(f"finetune.{name}" for name in ("warmup_epochs", "decay_epochs", "dropout", "label_smoothing", "layer_decay", "reinit_top")),
        *(f"mix.{name}" for name in ("end_share", "epochs", "weight", "gate_epochs")),
    }
)
"""Knobs that hardly change what a trial takes of a GPU. A knob that is missing here costs a trial on a whole GPU for each of its values;
one that does not belong here costs an attempt that runs out of memory."""

KIND_COLUMNS = tuple(path.replace(".", "_") for path in KNOBS if path not in SAME_MEMORY)
"""The columns of `trials` that tell kinds of trials apart."""

Kind = tuple[Any, ...]
"""What trials that take the same GPU memory have in common: the values of `KIND_COLUMNS`."""


def kind_of(cells: Mapping[str, Any]) -> Kind:
    """The kind of a trial.

    Args:
        cells: Its canonical config by column, as in its row.
    """
    return tuple(tuple(value) if isinstance(value, list) else value for value in map(cells.get, KIND_COLUMNS))


def describe_share(share: float) -> str:
    """A share of a GPU as text: `a whole GPU`, `1/4 of a GPU`."""
    return "a whole GPU" if share >= 1 else f"1/{round(1 / share)} of a GPU"


@dataclass
class Need:
    """What is known of the trials of one kind.

    Args:
        peak: Largest amount of GPU memory that one has reserved, in bytes; 0 if none was measured.
        most: Most trials on one GPU, since one ran out of memory beside more; None if none did.
    """

    peak: int = 0
    most: int | None = None

    def ran_out(self, share: float) -> None:
        """Take in that a trial ran out of memory with a share of a GPU, in (0, 1]."""
        most = max(1, round(1 / share) // 2)
        self.most = most if self.most is None else min(self.most, most)


class Packing:
    """Chooses the share of a GPU of each trial of a run.

    Args:
        resources: What a trial asks for; if `gpu` is a number, that is the share of all.
        needs: Kind -> what is known of it from earlier trials.
        total: Memory of the smallest GPU that earlier trials ran on, in bytes; 0 if unknown. It counts until a GPU of this run is known.

    Attributes:
        version: A number that changes whenever shares may.
    """

    def __init__(self, resources: Resources, needs: Mapping[Kind, Need] = {}, total: int = 0) -> None:
        self._resources = resources
        self._needs: dict[Kind, Need] = dict(needs)
        self._earlier_total, self._total = total, 0
        self._kinds: dict[str, Kind] = {}
        self._unfinished: Counter[Kind] = Counter()
        self.version = 0

    @classmethod
    def recall(cls, resources: Resources, workspace: Workspace) -> Packing:
        """With what the rows of all sweeps say of the memory of their trials."""
        if not resources.is_auto or not workspace.results.sweeps():
            return cls(resources)
        rows = workspace.sql(
            f"select {', '.join(KIND_COLUMNS)}, max(gpu_bytes) filter (status = 'COMPLETE') as peak, "
            "max(gpu_share) filter (cause = 'out-of-memory') as ran_out, min(gpu_total_bytes) as total "
            "from all_trials where device = 'cuda' group by all"
        ).rows()
        needs: dict[Kind, Need] = {}
        for row in rows:
            need = needs.setdefault(kind_of(row), Need())
            need.peak = max(need.peak, row["peak"] or 0)
            if row["ran_out"]:
                need.ran_out(row["ran_out"])
        return cls(resources, needs, min((row["total"] for row in rows if row["total"]), default=0))

    # --------------------------------------------------------------------------------------------------------------- shares

    def share(self, trial: PlannedTrial) -> float:
        """The share of a GPU that a trial asks for now, in [0, 1]."""
        return 1 / self._most(self._kind(trial)) if self._resources.is_auto else self._resources.most_gpu

    @property
    def smallest(self) -> float:
        """The smallest share that any trial asks for which has not ended."""
        if not self._resources.is_auto:
            return self._resources.most_gpu
        return 1 / max(map(self._most, self._unfinished), default=1)

    def measured_first(self, trials: Iterable[PlannedTrial]) -> list[PlannedTrial]:
        """Trials in their order, but the first of each kind of which nothing is known before all others.

        So each kind is measured while the machines are empty, rather than waiting for a GPU that others share to become free.
        """
        trials = list(trials)
        if not self._resources.is_auto:
            return trials
        seen = {kind for kind, need in self._needs.items() if need.peak}
        first = []
        for trial in trials:
            if (kind := self._kind(trial)) not in seen:
                seen.add(kind)
                first.append(trial)
        ids = {trial.id for trial in first}
        return first + [trial for trial in trials if trial.id not in ids]

    def _most(self, kind: Kind) -> int:
        """How many trials of a kind may share a GPU."""
        need, total = self._needs.get(kind), self._total or self._earlier_total
        if need is None or not need.peak or not total:
            return 1
        fits = int(total * (1 - MARGIN)) // (need.peak + CONTEXT_BYTES)
        return max(1, min(fits, self._resources.gpu_trials, need.most or fits))

    def _kind(self, trial: PlannedTrial) -> Kind:
        if trial.id not in self._kinds:
            self._kinds[trial.id] = kind_of(trial.cells())
        return self._kinds[trial.id]

    # -------------------------------------------------------------------------------------------------------------- what is seen

    def expect(self, trials: Iterable[PlannedTrial]) -> None:
        """Take in trials that are to run."""
        if self._resources.is_auto:
            self._unfinished.update(map(self._kind, trials))

    def end(self, trial: PlannedTrial) -> None:
        """Take in that a trial has ended for good."""
        if self._resources.is_auto:
            self._unfinished -= Counter([self._kind(trial)])
            self._kinds.pop(trial.id, None)

    def see(self, trial: PlannedTrial, rows: Iterable[Row], worker: Mapping[str, Any]) -> None:
        """Take in a report of a trial.

        Args:
            trial: The trial.
            rows: Its rows. Its memory counts only in the last phase of fine-tuning, as earlier ones may train less of the model.
            worker: What it tells of its process: `gpu_bytes`, `gpu_total_bytes`.
        """
        peak, total = worker.get("gpu_bytes"), worker.get("gpu_total_bytes")
        if not self._resources.is_auto or not peak or not total:
            return
        if not self._total or total < self._total:
            self._total, self.version = total, self.version + 1
        last = len(trial.config.phases) - 1
        if any(isinstance(row, EpochRow) and row.stage == "finetune" and row.phase == last for row in rows):
            need = self._needs.setdefault(self._kind(trial), Need())
            if peak > need.peak:
                need.peak, self.version = peak, self.version + 1

    def ran_out(self, trial: PlannedTrial, share: float) -> bool:
        """Take in that a trial ran out of memory with a share of a GPU. Returns whether it is to be started again, with a larger one."""
        if not self._resources.is_auto:
            return False
        self._needs.setdefault(self._kind(trial), Need()).ran_out(share)
        self.version += 1
        return share < 1

    # ------------------------------------------------------------------------------------------------------------ what is said

    @property
    def has_unmeasured(self) -> bool:
        """Whether there are trials that have not ended and of whose kind nothing is known."""
        return self._resources.is_auto and not all(map(self._is_measured, self._unfinished))

    def describe(self) -> str:
        """How many trials share a GPU, in a few words; empty if that is not chosen here."""
        if not self._resources.is_auto or not self._unfinished:
            return ""
        known = [self._most(kind) for kind in self._unfinished if self._is_measured(kind)]
        if not known:
            return "1 trial on a GPU until its memory is measured"
        low, high = min(known), max(known)
        text = f"{low} trial{'' if low == 1 else 's'} on a GPU" if low == high else f"{low} to {high} trials on a GPU"
        unknown = len(self._unfinished) - len(known)
        return text + (f", {unknown} kind{'' if unknown == 1 else 's'} of trials to be measured" if unknown else "")

    def _is_measured(self, kind: Kind) -> bool:
        return kind in self._needs and self._needs[kind].peak > 0
