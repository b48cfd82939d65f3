"""The probes by name: what each asks, where it comes from, what it needs, and what computes it. No torch here.

Another probe is one record in `PROBES` and one function, `measure(Reading) -> Iterator[Measured]`, see `orca_core.probing.reading`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from orca_core.config.knobs import TrialConfig

Moment = Literal["start", "aligned", "fine-tuned"]
"""A state of a trial's model: before any training, as fine-tuning starts (in trials that align or adapt), and fine-tuned."""

MOMENTS: tuple[Moment, ...] = get_args(Moment)

Refuse = Callable[[TrialConfig, str | None], str]


@dataclass(frozen=True)
class Probe:
    """One probe.

    Args:
        name: As in `probes: [...]`.
        question: The question that it answers, as a sentence.
        source: Where it comes from.
        measure: `"module:function"`, called with a `Reading`.
        moments: The states that it measures.
        by_layer: Whether it gives a number for each layer.
        needs_proxy: Whether it reads a proxy.
        unit: Of its values.
        needs: What a trial must have for it.
        cost: What it takes at each moment; passes of samples are shared between probes.
        version: Raised when its numbers change.
        refuses: From a trial and the name of its proxy, or None, to why this trial cannot have the probe; empty if it can.
    """

    name: str
    question: str
    source: str
    measure: str
    moments: tuple[Moment, ...]
    unit: str
    needs: str
    cost: str
    by_layer: bool = False
    needs_proxy: bool = False
    version: int = 1
    refuses: Refuse = lambda config, proxy: ""


def _without_layers(config: TrialConfig, proxy: str | None) -> str:
    return "the arm `none` has no layers" if config.body_spec.num_layers == 0 else ""


def _without_attention(config: TrialConfig, proxy: str | None) -> str:
    return f"{config.body_spec.name} has no attention" if config.body_spec.is_convolutional else _without_layers(config, proxy)


def _without_proxy(config: TrialConfig, proxy: str | None) -> str:
    from orca_core.proxies import find_proxy

    if config.body_spec.is_bodiless:
        return "a bodiless arm has no embedding of its own that reads a proxy"
    if proxy is None:
        return "the trial reads no proxy; `probes.proxy` names one for all trials"
    spec = find_proxy(proxy)
    if not spec.fits(config.body_spec.modality):
        return f"{proxy} is not of the modality of {config.body_spec.name}, {config.body_spec.modality}"
    if spec.chosen is not None:
        return f"the samples of {proxy} are chosen by the target; `probes.proxy` can name the proxy without the choice"
    return ""


def _without_samples(config: TrialConfig, proxy: str | None) -> str:
    from orca_core.proxies import find_proxy

    if reason := _without_proxy(config, proxy):
        return reason
    assert proxy is not None
    spec = find_proxy(proxy)
    if not spec.loader or spec.matched or spec.width is not None:
        return f"{proxy} consists of features, which a body's layers do not read"
    return f"the labels of {proxy} are shuffled" if any(part.shuffled for part in (spec, *(one for one, _ in spec.parts))) else ""


def _without_classes(config: TrialConfig, proxy: str | None) -> str:
    return "" if config.task_spec.kind == "classification" else "the task is no classification"


_CODE = "orca_core.probing"

PROBES: Mapping[str, Probe] = {
    probe.name: probe
    for probe in (
        Probe(
            "distance",
            "At which layers are the target's features close to the proxy's, and what brought them there: alignment or fine-tuning?",
            "the gap between modalities layer by layer: Huang et al. 2024, arXiv 2410.07167; the distance: Dowson & Landau 1982",
            f"{_CODE}.geometry:distances",
            MOMENTS,
            "`absolute`: squared feature units; `relative`: divided by the proxy's total variance at the layer",
            "a proxy and a body",
            "a pass of the proxy and of training samples",
            by_layer=True,
            needs_proxy=True,
            refuses=_without_proxy,
        ),
        Probe(
            "cka",
            "Which layers compute something else after fine-tuning than before, for the same inputs?",
            "Kornblith et al. 2019, arXiv 1905.00414",
            f"{_CODE}.geometry:similarities",
            ("fine-tuned",),
            "1: the same up to rotation and scale; 0: unrelated",
            "a body, or `attention-1`, `transformer-1`, `cnn`",
            "a second pass of training samples",
            by_layer=True,
            refuses=_without_layers,
        ),
        Probe(
            "effective-rank",
            "In how many directions do the features of a layer vary? A collapse is a low number.",
            "Roy & Vetterli 2007, EUSIPCO",
            f"{_CODE}.geometry:ranks",
            MOMENTS,
            "directions, from 1 to the smaller of width and samples - 1",
            "nothing",
            "a pass of training samples",
            by_layer=True,
        ),
        Probe(
            "weight-change",
            "Which parameters moved most, for their size: do LayerNorms?",
            "relative Frobenius norm of the change; the groups are those of `freezing`",
            f"{_CODE}.weights:changes",
            ("aligned", "fine-tuned"),
            "norm of the change over norm before it",
            "nothing",
            "milliseconds",
        ),
        Probe(
            "attention-entropy",
            "How spread out is attention at each layer? Uniform over k tokens it is ln k.",
            "Ghader & Monz 2017, arXiv 1710.03348",
            f"{_CODE}.attention:entropies",
            MOMENTS,
            "nats, from 0 to the logarithm of the number of keys",
            "attention: any body, `attention-1`, `transformer-1`",
            "a pass of training samples",
            by_layer=True,
            refuses=_without_attention,
        ),
        Probe(
            "noise",
            "How fast does the test error grow with noise on the inputs?",
            "Hendrycks & Dietterich 2019, arXiv 1903.12261 (the question)",
            f"{_CODE}.robustness:with_noise",
            ("fine-tuned",),
            "the task's score; `clean` is the same samples unchanged",
            "nothing",
            "four passes of test samples",
        ),
        Probe(
            "missing-channels",
            "How does the test error grow where input channels are missing?",
            "as `noise`",
            f"{_CODE}.robustness:with_missing_channels",
            ("fine-tuned",),
            "as `noise`",
            "inputs of several channels",
            "three passes of test samples",
        ),
        Probe(
            "scale",
            "How does the test error grow where inputs are larger or smaller than in training?",
            "as `noise`",
            f"{_CODE}.robustness:with_other_scale",
            ("fine-tuned",),
            "as `noise`",
            "nothing",
            "three passes of test samples",
        ),
        Probe(
            "nll",
            "How much probability does the model give to the right classes?",
            "Guo et al. 2017, arXiv 1706.04599",
            f"{_CODE}.calibration:likelihoods",
            ("fine-tuned",),
            "nats for each sample",
            "a classification",
            "a pass of validation and test samples",
            refuses=_without_classes,
        ),
        Probe(
            "ece",
            "Is the model as often right as it says?",
            "Guo et al. 2017, arXiv 1706.04599, 15 bins of equal width",
            f"{_CODE}.calibration:calibration_errors",
            ("fine-tuned",),
            "share of samples, from 0 to 1",
            "a classification",
            "as `nll`, and shared with it",
            refuses=_without_classes,
        ),
        Probe(
            "forgetting",
            "Does the body still tell the proxy's classes apart?",
            "Mensink et al. 2013 (nearest class mean), at `start` and `fine-tuned`",
            f"{_CODE}.forgetting:proxy_errors",
            ("start", "fine-tuned"),
            "share of the proxy's samples that are nearest to the mean of another class",
            "a proxy of texts or images and a body",
            "as `distance`, and shared with it",
            needs_proxy=True,
            refuses=_without_samples,
        ),
    )
}
"""Name -> probe."""
