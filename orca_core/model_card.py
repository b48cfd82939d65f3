"""The model card of an exported model: `README.md` with front matter, in the form of Hugging Face's hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orca_core.bodies.keep import ALL
from orca_core.config.knobs import TrialConfig
from orca_core.corpora import corpus_of
from orca_core.errors import OrcaError
from orca_core.identity import trial_id
from orca_core.proxies import find_proxy
from orca_core.tasks.preparation import Preparation


@dataclass(frozen=True)
class Evidence:
    """What a sweep knows of the arm that a model is of, beyond the model itself.

    Args:
        sweep: Name of the sweep.
        seeds: Number of the arm's trials.
        means: Column of errors -> its mean over them, and half the width of its 95 % interval, None for one seed.
        floor: The best model without a transformer on the same samples and its test error; None if it is not known.
        majority_error: Test error of a constant answer; None where that is not defined.
        samples: Numbers of validation and test samples, None if they are not known.
        versions: Of what computed the trial, by name.
        chosen_by: Column by which the model was chosen among the seeds.
    """

    sweep: str
    seeds: int
    means: Mapping[str, tuple[float, float | None]]
    floor: tuple[str, float] | None = None
    majority_error: float | None = None
    samples: tuple[int | None, int | None] = (None, None)
    versions: Mapping[str, str] = field(default_factory=dict)
    chosen_by: str = "valid_error"


def write_card(
    config: TrialConfig, epoch: int, score: str, preparation: Preparation | None, errors: Mapping[str, float], evidence: Evidence | None
) -> str:
    """The text of a model card: front matter, scores, how it is loaded, what it was made of and on what terms, its limits.

    Args:
        config: The trial.
        epoch: Fine-tuning epoch after which its weights were taken.
        score: Name of the score, an error.
        preparation: How raw samples become inputs, and outputs answers; None if that is not known.
        errors: Of that epoch, by column; empty if they are not known.
        evidence: What the sweep knows; None if the model comes from no sweep.
    """
    spec = config.task_spec
    parts = [_front_matter(config, score, errors), f"# A model of {spec.name}", f"{spec.summary.rstrip('.')}."]
    if preparation is not None:
        names = preparation.answers.names
        listed = f"\n- Names, in the order of its outputs: {', '.join(map(str, names))}" if names else ""
        parts.append(f"- Expects: {preparation.inputs.expected}\n- Answers with: {preparation.answers.text}{listed}")
    parts += ["## Scores", _scores(epoch, score, errors, evidence)]
    parts += ["## How to load it", _LOADING, "## How it was made", _making(config, evidence)]
    parts += ["## Data and licences", _licences(config), "## Limits", _limits(evidence)]
    return "\n\n".join(parts) + "\n"


def _front_matter(config: TrialConfig, score: str, errors: Mapping[str, float]) -> str:
    spec = config.task_spec
    meta: dict[str, Any] = {"library_name": "orca-sweeper", "license": "other", "license_name": "see-data-and-licences"}
    meta["tags"] = ["orca", "cross-modal-fine-tuning", spec.kind, f"{spec.dims}d"]
    if (base := _base_model(config.body.name)) is not None:
        meta["base_model"] = base
    if "test_error" in errors:
        metrics = [
            {"type": score, "name": f"{split} error ({score})", "value": errors[f"{split}_error"]}
            for split in ("test", "valid")
            if f"{split}_error" in errors
        ]
        result = {"task": {"type": spec.kind}, "dataset": {"name": spec.name, "type": spec.name}, "metrics": metrics}
        meta["model-index"] = [{"name": f"orca-{trial_id(config)}", "results": [result]}]
    return f"---\n{yaml.safe_dump(meta, sort_keys=False, allow_unicode=True)}---"


def _base_model(body: str) -> str | None:
    """The model of the hub that a body is, by its name; None for a folder and for a body that is pretrained here."""
    kind, _, name = body.partition(":")
    if kind not in ("hf", "timm") or name.startswith(("/", ".", "~")) or Path(name).exists():
        return None
    return name if kind == "hf" else f"timm/{name}"


def _scores(epoch: int, score: str, errors: Mapping[str, float], evidence: Evidence | None) -> str:
    rows: list[tuple[str, ...]] = [("This model", *(_number(errors.get(f"{split}_error")) for split in ("valid", "test")))]
    if evidence is not None:
        means = [_interval(evidence.means.get(f"{split}_error")) for split in ("valid", "test")]
        seeds = "1 seed" if evidence.seeds == 1 else f"{evidence.seeds} seeds, mean and 95 % interval"
        rows.append((f"Its arm in the sweep {evidence.sweep}: {seeds}", *means))
        if evidence.floor is not None:
            rows.append((f"Best model without a transformer: {evidence.floor[0]}", "", _number(evidence.floor[1])))
        if evidence.majority_error is not None:
            rows.append(("A constant answer", "", _number(evidence.majority_error)))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    text = f"The score is `{score}`, an error: lower is better. The weights are those after epoch {epoch} of fine-tuning.\n\n"
    text += f"| | Validation | Test |\n|---|---|---|\n{table}"
    if evidence is not None and evidence.seeds > 1:
        text += f"\n\nThis model is the seed with the lowest `{evidence.chosen_by}`, so that number flatters it; the arm's mean does not."
    if evidence is not None and evidence.floor is not None and evidence.floor[1] <= evidence.means.get("test_error", (0.0, None))[0]:
        text += f"\n\nThe arm is no better than {evidence.floor[0]}, which takes no transformer and no GPU."
    return text


_LOADING = """\
```python
import orca_core

model = orca_core.load_model("FOLDER")   # this folder; pip install orca-sweeper
model.predict(samples)                   # raw samples as described above: arrays, rows, or the path of a file
```

From the shell: `sweeper predict FOLDER FILE`. `model.json` has, for programs, what is said here. Loading runs no code of this folder; the
weights are safetensors."""


def _making(config: TrialConfig, evidence: Evidence | None) -> str:
    tuning = config.finetune
    aligned = f"{config.align.epochs} epochs with {config.proxy}, by {config.align.objective}" if config.align.epochs else "none"
    freezing = config.model_dump(mode="json")["freezing"]
    lines = [
        f"- Body: {config.body.name}" + ("" if config.body_spec.is_bodiless else f", weights {_start(config)}"),
        f"- Alignment of the embedder: {aligned}",
        f"- Fine-tuning: {tuning.epochs} epochs, {tuning.optimizer}, learning rate {tuning.lr:g}, batches of {tuning.batch_size}, "
        f"freezing {freezing}, adapter {config.adapter}",
        f"- Training samples: {'all' if config.train_samples is None else config.train_samples}; split {config.split_seed}, "
        f"seed {config.seed}; best epoch by {config.selection}",
        f"- Trial: {trial_id(config)}; every knob is in `model.json`",
    ]
    if evidence is not None and evidence.versions:
        lines.append(f"- Computed with {', '.join(f'{name} {version}' for name, version in evidence.versions.items())}")
    return "\n".join(lines)


def _start(config: TrialConfig) -> str:
    """What the body's weights started from."""
    kept = config.body.keep
    return config.start_weights + (f" in part ({kept})" if config.start_weights == "pretrained" and kept != ALL else "")


def _licences(config: TrialConfig) -> str:
    spec = config.task_spec
    lines = [f"- Task {spec.name}: {_terms(spec.licence, spec.source)}"]
    if config.align.epochs and config.proxy:
        lines.append(f"- Proxy {config.proxy}: {_terms_of_proxy(config.proxy)}")
    body = config.body_spec
    if body.pretrained_here and config.start_weights != "random":
        corpus = corpus_of(body, config.pretrain.corpus)
        made_of = corpus.name if not corpus.version else "pydoc" if corpus.name == "bigram" else ""
        terms = _terms_of_proxy(made_of) if made_of else _terms("Apache-2.0", "generated here")
        lines.append(f"- Pretraining of {body.name} on {corpus.name}: {terms}")
    elif not body.is_bodiless and config.start_weights != "random":
        lines.append(f"- Weights of {config.body.name}: on the terms of their publisher, whose page says which")
    return "\n".join([*lines, "", "These weights were made from all of them. Whether they may be passed on follows from the strictest."])


def _terms_of_proxy(name: str) -> str:
    try:
        proxy = find_proxy(name)
    except (OrcaError, OSError):  # files of the user's own that have moved since
        return _terms("", "")
    return _terms(proxy.licence, proxy.source)


def _terms(licence: str, source: str) -> str:
    return f"{licence or 'of your own, or not known here'}{f' ({source})' if source else ''}"


def _limits(evidence: Evidence | None) -> str:
    lines = ["- It was tested on samples of the same source as its training data, and is known to work there alone."]
    lines += _few_samples(evidence.samples if evidence is not None else (None, None))
    if evidence is not None and evidence.seeds == 1:
        lines.append("- One seed: how much of the score is luck is not known.")
    lines.append("- Samples far outside of the training range, and categories that training did not have, are refused rather than guessed.")
    lines.append("- It is a result of research on transfer between modalities, not a product: no decision on people should rest on it.")
    return "\n".join(lines)


def _few_samples(samples: Sequence[int | None]) -> list[str]:
    tested = samples[1]
    return (
        [] if tested is None else [f"- The test part has {tested} samples: a difference below {1 / tested:.2g} is less than one of them."]
    )


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.6g}"


def _interval(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return ""
    mean, half = found
    return f"{mean:.4g}" + ("" if half is None else f" ± {half:.2g}")
