"""Conditions under which a knob is read: what holds in a config, and how the docs say so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from orca_core.adapters.names import NONE
from orca_core.bodies.keep import ALL, NOTHING, kept_of_embedding
from orca_core.config.knobs import TrialConfig
from orca_core.corpora import objective_of
from orca_core.distances import find_distance
from orca_core.proxies import find_proxy


@dataclass(frozen=True, eq=False)
class Condition:
    """Something that holds in some configs.

    Args:
        text: For the docs, to follow "if"; empty for what always holds.
        holds: Whether it holds in a config.
        parts: The conditions that it is put together of; empty for one that looks at the config itself.
        needs: Whether it takes `all` of its parts, or `any`.
    """

    text: str
    holds: Callable[[TrialConfig], bool]
    parts: tuple[Condition, ...] = ()
    needs: Callable[[Iterable[bool]], bool] = all

    def __and__(self, other: Condition) -> Condition:
        text = _join(" and ", self.text, other.text)
        return Condition(text, lambda config: self.holds(config) and other.holds(config), (self, other))

    def __or__(self, other: Condition) -> Condition:
        text = _join(", or ", self.text, other.text) if self.text and other.text else ""
        return Condition(text, lambda config: self.holds(config) or other.holds(config), (self, other), any)

    def follows_from(self, facts: frozenset[Condition]) -> bool:
        """Whether it holds where, of the conditions without parts, those in `facts` hold and no other."""
        return self.needs(part.follows_from(facts) for part in self.parts) if self.parts else self in facts

    def leaves(self) -> Iterator[Condition]:
        """The conditions without parts that it comes from."""
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.leaves()


def _join(word: str, *texts: str) -> str:
    return word.join(dict.fromkeys(text for text in texts if text))


@cache
def objective_is(*names: str) -> Condition:
    """That the distance is one of some. One condition for all knobs that are read for the same distances: each config is asked once."""
    return Condition(f"`align.objective` is {' or '.join(names)}", lambda config: config.align.objective in names)


ALWAYS = Condition("", lambda config: True)

HAS_BODY = Condition("the arm is not bodiless", lambda config: not config.body_spec.is_bodiless)
HAS_LAYERS = Condition("`body.name` is not none", lambda config: config.body_spec.num_layers != 0)
PRETRAINED = Condition(
    "`body.weights` is pretrained or shuffled", lambda config: config.start_weights != "random" and not config.body_spec.is_bodiless
)
"""Bodiless arms do not read `body.weights`."""

KEEPS = Condition("`body.weights` is pretrained", lambda config: config.start_weights == "pretrained" and not config.body_spec.is_bodiless)
KEEPS_OF_EMBEDDING = Condition(
    "`body.keep` names embeddings or layernorm",
    lambda config: config.start_weights == "shuffled" or kept_of_embedding(config.body.keep) != NOTHING,
)

NO_EMBEDDER_FILE = Condition("`embedder.weights` is null", lambda config: config.embedder.weights is None)
EMBEDDING_DRAWN = Condition(
    "`body.weights` is random or shuffled, or `body.keep` lacks embeddings or layernorm",
    lambda config: config.start_weights != "pretrained" or kept_of_embedding(config.body.keep) != ALL,
)
PRETRAINED_HERE = PRETRAINED & Condition("the body is a mini body", lambda config: config.body_spec.pretrained_here)
BY_LABELS = Condition(
    "the objective of pretraining is labels",
    lambda config: config.body_spec.pretrained_here and objective_of(config.body_spec, config.pretrain.objective) == "labels",
)
READS_TOKENS = Condition(
    "the body reads text, or is none, attention-1 or transformer-1",
    lambda config: config.body_spec.modality != "images" and not config.body_spec.is_convolutional,
)
SHARED_ITS_KEYS = Condition(
    "",
    lambda config: (
        config.embedder.init == config.body.weights == "pretrained"
        and config.align.epochs > 0
        and config.body_spec.rows_before_third not in (0, None)
    ),
)
"""That version 0.1 stored another computation under the same id and keys: `embedder.init: reference` of an aligned BERT, say."""

IS_DECODER = Condition("the body is a decoder", lambda config: config.body_spec.is_decoder)

HAS_REFERENCE_FORM = Condition("the task has splits of the reference code", lambda config: bool(config.task_spec.reference))
IS_CLASSIFICATION = Condition("the task is a classification", lambda config: config.task_spec.kind == "classification")

ALIGNS = Condition("`align.epochs` > 0", lambda config: config.aligns)
READS_PROXY = Condition(
    "an `align.objective` that compares with the proxy is minimised (`align.epochs` > 0, or `align.weight` > 0 and the embedder trains in "
    "some phase), or `embedder.init` is matched, or `mix.share` > 0",
    lambda config: config.reads_proxy,
)
MATCHES = Condition("`embedder.init` is matched", lambda config: config.matches)
REPLACES_TOKENS = Condition("`mix.share` > 0 and embedder or body train in some phase", lambda config: config.mixes)
GATE_LEARNS = Condition("`mix.gate` is learned", lambda config: config.mix.gate == "learned")
ADAPTS = Condition("`adapt.epochs` > 0", lambda config: config.adapts)
NEEDS_TASK_LOSS = Condition(
    "`align.objective` is none or bilevel, or `align.agreement` is true, or `align.task_weight` or `align.label_entropy` is above 0",
    lambda config: config.needs_task_model,
)
HAS_CLASSES_OF_PROXY = Condition(
    "`align.objective` is a distance to the proxy", lambda config: find_distance(config.align.objective).compares == "proxy"
)
HAS_LABEL_ENTROPY = Condition("`align.label_entropy` > 0", lambda config: config.align.label_entropy > 0)
ALIGNS_BY_DISTANCE = Condition("`align.objective` is not none", lambda config: config.align.objective != "none")
ALIGNS_JOINTLY = Condition("`align.weight` > 0 and the embedder trains in some phase", lambda config: config.aligns_jointly)
CHOOSES_SAMPLES = Condition(
    "`proxy` chooses its samples by the target (`+near:N`, `+far:N`)",
    # The name first: each config of a plan asks, and finding a proxy may look at files.
    lambda config: (
        ("+near:" in config.proxy or "+far:" in config.proxy) and config.reads_proxy and find_proxy(config.proxy).chosen is not None
    ),
)
OWN_RATE = Condition("`align.lr_from` is own", lambda config: config.align.lr_from == "own")
RATE_OF_FINETUNING = Condition("`align.lr_from` is finetune", lambda config: config.align.lr_from == "finetune")
SAMPLES_BATCHES = Condition("`align.class_sampling` is batches", lambda config: config.align.class_sampling == "batches")
ALIGNS_BY_SGD = Condition("`align.optimizer` is sgd", lambda config: config.align_optimizer("optimizer") == "sgd")
ALIGNS_BY_ADAM = Condition("`align.optimizer` is adam or adamw", lambda config: config.align_optimizer("optimizer") != "sgd")

TUNES_BY_SGD = Condition("`finetune.optimizer` is sgd", lambda config: config.finetune.optimizer == "sgd")
TUNES_BY_ADAM = Condition("`finetune.optimizer` is adam or adamw", lambda config: config.finetune.optimizer != "sgd")
SCORES_CHUNKS = Condition("`finetune.scoring` is chunks", lambda config: config.finetune.scoring == "chunks")
ACCUMULATES = Condition("`finetune.accum` > 1", lambda config: config.finetune.accum > 1)
RATE_CHANGES = Condition(
    "`finetune.warmup_epochs` > 0 or `finetune.decay_epochs` is given",
    lambda config: config.finetune.warmup_epochs > 0 or config.finetune.decay_epochs is not None,
)
TRAINS_FEATURES = Condition("the embedder or a part of the body trains in some phase", lambda config: config.trains_features)
MIXES = Condition("`finetune.mixup.alpha` > 0", lambda config: config.finetune.mixup.alpha > 0)
SMOOTHS = Condition("`finetune.smooth.kind` is r3f or smart", lambda config: config.finetune.smooth.kind != "none")
SMOOTHS_BY_ASCENT = Condition("`finetune.smooth.kind` is smart", lambda config: config.finetune.smooth.kind == "smart")
TESTS_SOME_EPOCHS = Condition("`finetune.test` is best-and-last", lambda config: config.finetune.test != "each-epoch")
KEEPS_PREFIX = Condition(
    "the embedder is frozen in a phase in which a part of the body trains, and `finetune.mixout` is 0 and `finetune.compile` none",
    lambda config: (
        not config.finetune.mixout
        and config.finetune.compile == "none"
        and any("embedder" not in phase.train and phase.train != ("predictor",) for phase in config.phases)
    ),
)
POOLS_TOKENS = Condition("the task is not dense", lambda config: config.task_spec.kind != "dense")
NO_ADAPTER = Condition("`adapter` is none", lambda config: config.adapter == NONE)
