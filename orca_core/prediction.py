"""Fine-tuned models that take raw data and give answers: names of classes, or values in their own unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_core.config.knobs import TrialConfig
from orca_core.description import Description
from orca_core.errors import DataError, Fault
from orca_core.tasks.preparation import Preparation, Samples

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from orca_core.model.cross_modal import CrossModalModel


@dataclass(frozen=True)
class TunedModel:
    """A fine-tuned model.

    Args:
        model: The network alone, in eval mode, on the CPU: prepared inputs -> outputs; of a `reversed` trial, both from their end.
        config: Its trial.
        epoch: Fine-tuning epoch after which its weights were taken.
        computed: Whether the weights had to be computed again.
        preparation: How raw samples become inputs, and outputs answers; None of a folder that version 0.1 wrote.
        errors: Validation and test error and loss of that epoch, as in the trial's rows; empty if they are not known.

    Example:
        >>> model = load_model("my-model")                               # doctest: +SKIP
        >>> model.predict("new.csv")                                     # doctest: +SKIP
        array(['low', 'high'], dtype='<U4')
    """

    model: CrossModalModel
    config: TrialConfig
    epoch: int
    computed: bool = False
    preparation: Preparation | None = None
    errors: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        spec = self.config.task_spec
        lines = [f"TunedModel of {spec.name}, {spec.kind}, score {self.score}"]
        if self.preparation is not None:
            lines += [f"expects {self.preparation.inputs.expected}", f"answers with {self.preparation.answers.text}"]
        if self.errors:
            lines.append(f"epoch {self.epoch}: " + ", ".join(f"{name} {value:.4g}" for name, value in self.errors.items()))
        return "\n  ".join(lines)

    @property
    def expected(self) -> str:
        """What `predict` takes, as a phrase."""
        return self._preparation.inputs.expected

    @property
    def score(self) -> str:
        """Name of the score by which it was judged; an error, lower is better."""
        return self.config.task_spec.score_name(self.config.reference_data)

    @property
    def classes(self) -> tuple[str | int | float, ...]:
        """Names of the classes or labels, in the order of the columns of `predict_proba`; empty if it answers with values."""
        return self._preparation.answers.names if self._preparation.answers.kind in ("classification", "multilabel") else ()

    def __call__(self, data: Any, **options: Any) -> np.ndarray:
        """`predict`."""
        return self.predict(data, **options)

    def predict(self, data: Any, *, batch_size: int | None = None, device: str = "cpu", threads: int | None = None) -> np.ndarray:
        """Answers for raw data, as the task had it.

        Args:
            data: What `repr(model)` names: arrays or rows, or the path of a file or folder.
            batch_size: Number of samples at once; None = `finetune.eval_batch_size` of the trial. It may change the last bits.
            device: Device type, `cpu` or `cuda`.
            threads: CPU threads; None = as many as the trial had, with which outputs are the same, bit for bit.

        Returns:
            (n,) names of classes; (n, labels) 0 or 1; (n, values) or (n, channels, ...) values in their own unit.

        Raises:
            DataError: If the data is not what the model expects: shape, columns, categories, range.
        """
        return self.decode(self.outputs(data, batch_size=batch_size, device=device, threads=threads))

    def predict_proba(self, data: Any, *, batch_size: int | None = None, device: str = "cpu", threads: int | None = None) -> np.ndarray:
        """Probabilities for raw data; arguments as of `predict`.

        Returns:
            (n, classes) float64 that add up to 1, in the order of `classes`; (n, labels) or (n, channels, ...) of each label or position.

        Raises:
            DataError: If the model answers with values, or the data is not what it expects.
        """
        self._preparation.answers.check_probabilities()
        return self.probabilities(self.outputs(data, batch_size=batch_size, device=device, threads=threads))

    def decode(self, outputs: Tensor) -> np.ndarray:
        """Answers out of `outputs`, as `predict` returns them."""
        return self._preparation.answers.decode(outputs)

    def probabilities(self, outputs: Tensor) -> np.ndarray:
        """Probabilities out of `outputs`, as `predict_proba` returns them."""
        return self._preparation.answers.probabilities(outputs)

    def answer_names(self, number: int) -> tuple[str, ...]:
        """Names of the values that are answered for a sample, for the head of a table: of a class, `prediction`."""
        names = self._preparation.answers.names
        if self._preparation.answers.kind == "classification" or number == 1:
            return ("prediction",)
        return tuple(map(str, names)) if len(names) == number else tuple(f"prediction_{at}" for at in range(1, number + 1))

    def error(self, data: Any, answers: Any = None, *, batch_size: int | None = None, device: str = "cpu") -> float:
        """The task's score of the answers for raw data, as in the trial's rows: an error, lower is better.

        Args:
            data: As of `predict`.
            answers: (n, ...) true answers; None if the file holds them.
            batch_size, device: As of `predict`.

        Raises:
            DataError: If there are no true answers, or these or the data are not what the model expects.
        """
        samples = self._samples(data)
        if answers is None and (answers := samples.answers) is None:
            raise DataError(Fault("answers", "must be given, as the data holds none", Fault.ABSENT).text())
        return self.error_of(self.outputs(samples, batch_size=batch_size, device=device), answers)

    def error_of(self, outputs: Tensor, answers: Any) -> float:
        """The task's score of some outputs.

        Args:
            outputs: (n, ...) as of `outputs`.
            answers: (n, ...) true answers.
        """
        import torch

        from orca_core.finetuning.evaluation import evaluate
        from orca_core.scoring import SCORES
        from orca_core.settings import Settings

        known = self._preparation.answers
        targets = torch.from_numpy(known.encode(answers))
        if len(targets) != len(outputs):
            raise DataError(Fault("answers", f"must be as many as the {len(outputs)} samples", len(targets)).text())
        if targets.dim() > 1 and targets.shape != outputs.shape:
            try:
                targets = targets.reshape(outputs.shape)
            except RuntimeError:
                raise DataError(Fault("answers", f"must have the shape {tuple(outputs.shape)}", tuple(targets.shape)).text()) from None
        decode = known.scale if known.scale is not None and not known.scored_scaled else lambda values: values
        settings, score = Settings.of(self.config, "finetune"), SCORES[self.score]
        return evaluate(settings, outputs, targets, group=None, decode=decode, loss=lambda *_: torch.zeros(()), score=score)[1]

    def outputs(self, data: Any, *, batch_size: int | None = None, device: str = "cpu", threads: int | None = None) -> Tensor:
        """What the network returns for raw samples: (n, classes) logits or (n, ...) values, float32, before they become answers.

        Args:
            data: As of `predict`, or what `read` returned.
            batch_size, device, threads: As of `predict`.

        Raises:
            DataError: If the data is not what the model expects.
        """
        import torch

        from orca_core.tasks.reversal import from_end

        if batch_size is not None and batch_size < 1:
            raise DataError(Fault("batch_size", "must be at least 1", batch_size).text())
        if device.partition(":")[0] == "cuda" and not torch.cuda.is_available():
            raise DataError(Fault("device", "must be a device of this machine", device, "Take cpu.").text())
        inputs = self._preparation.inputs
        # Contiguous: on some processors other strides mean another order of sums.
        rows = torch.from_numpy(self._encode(self._samples(data))).contiguous()
        precision, size = self.config.precision, batch_size or self.config.finetune.eval_batch_size
        dtype = torch.float16 if precision == "fp16" else torch.bfloat16
        autocast = torch.autocast(device.partition(":")[0], dtype, enabled=precision != "fp32")
        model = self.model.to(device).eval()
        parts = []
        try:
            with _threads(threads or self.config.threads), torch.no_grad(), autocast:
                for part in rows.split(size):
                    prepared = part.to(device) if inputs.prepare is None else inputs.prepare(part.to(device))
                    if self.config.reversed:
                        answered = model.infer(from_end(prepared).contiguous()).float()
                        parts.append((from_end(answered) if answered.dim() == prepared.dim() else answered).cpu())
                        continue
                    parts.append(model.infer(prepared).float().cpu())
        finally:
            model.to("cpu")
        return torch.cat(parts)

    @property
    def _preparation(self) -> Preparation:
        if self.preparation is None:
            remedy = "Export it again: sweeper best NAME --export-model DIR. `.model` is the network alone."
            rule = "must say how raw data becomes inputs, but this folder was written by version 0.1, which did not keep that"
            raise DataError(Fault("model.json", rule, Fault.ABSENT, remedy).text())
        return self.preparation

    def _samples(self, data: Any) -> Samples:
        if isinstance(data, str | Path):
            path = Path(data).expanduser()
            return replace(self._preparation.inputs.read(path), source=path)
        return data if isinstance(data, Samples) else Samples(data)

    def _encode(self, samples: Samples) -> np.ndarray:
        """Raw samples as rows; an error names the file they come from."""
        try:
            return self._preparation.inputs.encode(samples.inputs)
        except DataError as error:
            source = "" if samples.source is None else str(samples.source)
            lines = str(error).splitlines()
            raise DataError("\n".join(line if source in line else f"{source}: {line}" for line in lines)) from None

    def read(self, path: str | Path) -> Samples:
        """The samples in a file or folder, as `predict` reads them: with true answers and names where it has them.

        Raises:
            DataError: If it cannot be read, or is of another format than the task's.
        """
        return self._samples(Path(path))

    def save(self, folder: str | Path) -> None:
        """Write it to a folder, for `load_model`: weights, and what `Description.write` says.

        Raises:
            OSError: If that cannot be written.
        """
        from safetensors.torch import save_file

        path = Path(folder).expanduser()
        path.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}, path / "model.safetensors")
        shapes = self.model.input_shape, self.model.output_shape
        Description(self.config, self.epoch, *shapes, self.preparation, self.errors).write(path)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Within: torch computes with so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
