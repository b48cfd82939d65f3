"""What the mini bodies can be pretrained on, and by which objective. No torch and no numpy here.

`pretrain.corpus` asks whether it matters *what* a body was pretrained on: text, or data without meaning that share one property with it
(nesting, order, repetition, a local rule, the statistics of neighbouring words), or nothing at all. All are made here, from what comes with
Python packages. Procedural data for language models: arXiv 2505.22308 (brackets, copying, cellular automata), 2601.21725 (brackets, sorting
and other algorithms), 2603.10055 (automata); for image models: 2511.13945 and, of fractals, Kataoka et al. 2020.

`orca_core.corpora.sequences` makes those for text bodies, `orca_core.corpora.images` those for image bodies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orca_core.bodies.spec import BodySpec
from orca_core.errors import Fault
from orca_core.proxies import find_proxy

OWN = "own"
"""The corpus, or the objective, that a body has by itself."""


@dataclass(frozen=True)
class Corpus:
    """One corpus, described without its data.

    Args:
        name: As written in a config.
        summary: One line for the docs.
        modalities: Of the bodies that can be pretrained on it.
        is_labelled: Whether its samples have labels.
        seed: Of the draws that generate it; one of its own, never changed.
        version: Raised when the code makes other data than before; 0 for a proxy data set, which has its own digest.
    """

    name: str
    summary: str
    modalities: tuple[str, ...]
    is_labelled: bool = False
    seed: int = 0
    version: int = 1

    def digest(self) -> str:
        """What it is known by in keys."""
        return f"{self.name} {self.version}" if self.version else find_proxy(self.name).digest()


CORPORA: Mapping[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        Corpus("pydoc", "sentences of Python's reference manual, labelled by topic", ("text",), is_labelled=True, version=0),
        Corpus("fractals", "fractals, labelled by function system", ("images",), is_labelled=True, version=0),
        Corpus("dyck", "balanced brackets of 16 kinds", ("text",), seed=2),
        Corpus("sort", "15 numbers, then the same in ascending order", ("text",), seed=3),
        Corpus("copy", "15 symbols, then the same again", ("text",), seed=4),
        Corpus("automata", "five generations of the elementary cellular automaton 110 on a ring of 24 cells", ("text",), seed=5),
        Corpus("bigram", "a walk by the frequencies with which one word follows another in pydoc", ("text",), seed=6),
        Corpus("noise", "words or pixels drawn uniformly, labels at random", ("text", "images"), is_labelled=True, seed=7),
    )
}
"""Every corpus by name."""

OBJECTIVES: Mapping[str, tuple[str, ...]] = {
    "masked": ("text",),
    "causal": ("text",),
    "labels": ("text", "images"),
    "denoise": ("text", "images"),
}
"""Every objective, and the modalities of the bodies that it fits."""

OWN_OBJECTIVE: Mapping[str, str] = {"text": "masked", "images": "labels"}
"""The objective that the mini bodies of a modality have by themselves."""


def own_corpus(body: BodySpec) -> str:
    """The corpus that a mini body has by itself."""
    (name,) = body.corpus
    return name


def corpus_of(body: BodySpec, name: str) -> Corpus:
    """The corpus that a config names for a mini body."""
    return CORPORA[own_corpus(body) if name == OWN else name]


def objective_of(body: BodySpec, name: str) -> str:
    """The objective that a config names for a mini body."""
    return OWN_OBJECTIVE[body.modality] if name == OWN else name


def corpus_faults(body: BodySpec, corpus: str, objective: str) -> list[Fault]:
    """Why a mini body cannot be pretrained on a corpus by an objective, both as a config names them."""
    faults = []
    chosen, aim = corpus_of(body, corpus), objective_of(body, objective)
    if body.modality not in chosen.modalities:
        fitting = ", ".join(name for name, known in CORPORA.items() if body.modality in known.modalities)
        rule = f"must be of {body.modality} for {body.name}"
        faults.append(Fault("pretrain.corpus", rule, corpus, f"Of {body.modality}: {fitting}."))
    if body.modality not in OBJECTIVES[aim]:
        fitting = ", ".join(name for name, modalities in OBJECTIVES.items() if body.modality in modalities)
        faults.append(Fault("pretrain.objective", f"must be one of {fitting} for {body.name}, which reads {body.modality}", objective))
    elif aim == "labels" and not chosen.is_labelled and not faults:
        labelled = ", ".join(name for name, known in CORPORA.items() if known.is_labelled and body.modality in known.modalities)
        faults.append(Fault("pretrain.objective", f"must not be labels: {chosen.name} has none", objective, f"With labels: {labelled}."))
    return faults
