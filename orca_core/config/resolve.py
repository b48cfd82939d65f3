"""From what a user wrote to a complete config: recipes, defaults, and every broken rule at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from orca_core.adapters.names import NONE, adapter_faults, schedule_faults, spell_adapter
from orca_core.bodies import BODILESS, BodySpec, find_body
from orca_core.bodies.keep import ALL, kept_layers
from orca_core.config.faults import faults_of
from orca_core.config.knobs import OPTIMIZER_SETTINGS, TrialConfig, ValidationConfig
from orca_core.config.methods import Method, method_defaults
from orca_core.config.paths import KNOBS, flatten, nest, unknown_knobs
from orca_core.config.successor_faults import successor_faults
from orca_core.config.training_faults import training_faults
from orca_core.corpora import corpus_faults
from orca_core.datafiles.embedder_weights import check_weights_file
from orca_core.errors import ConfigError, DataError, Fault, nearest
from orca_core.freezing.schedule import Phase, bodiless_faults, parse_freezing
from orca_core.proxies import DEFAULT_PROXY, ProxySpec, complete_name, find_proxy
from orca_core.tasks import TaskSpec, find_task
from orca_core.tasks.published_style import PUBLISHED_STYLE, recipes_of

REFERENCE_BEHAVIOUR: Mapping[str, Any] = {
    "reference_data": True,
    "selection": "test",
    "selection_ties": "latest",
    "embedder.init": "reference",
    "align.label_gradient": "reference",
    "align.solver": "annealed",
    "align.l2_batches": "all",
    "align.class_sampling": "batches",
    "align.lr_from": "finetune",
    "align.optimizer_from": "finetune",
    "align.lr_schedule": "reference",
    "finetune.scoring": "chunks",
    "finetune.accumulation": "sum",
    "finetune.schedule": "reference",
}
"""What `reference_behaviour: true` is short for."""

_OWN_OF_ALIGNMENT = {
    "align.lr_from": ("align.lr",),
    "align.optimizer_from": tuple(f"align.{name}" for name in OPTIMIZER_SETTINGS),
}
"""Switches that `reference_behaviour` leaves alone where one of these knobs is given, as it would then not be read."""

_PUBLISHED_WIDTH = 768
"""Of the features that the reference stored: RoBERTa-base's."""


def resolve_config(overrides: Mapping[str, Any]) -> TrialConfig:
    """A complete config from a user's settings, nested or dotted.

    The task's recipe provides the defaults, then `method`, then `reference_behaviour`. With a mini body, a bodiless arm, or without a named
    body, the recipe is `laptop` if the task has it; with any other body, `published` or, if the task has none, `published-style`. The proxy
    defaults to the recipe's if the body can embed it, otherwise to the default of the body's modality. A bodiless arm reads no proxy.

    Raises:
        ConfigError: With all faults.
    """
    given = flatten(overrides)
    faults = unknown_knobs(given)
    given = {path: value for path, value in given.items() if path in KNOBS}
    spec = _checked("task", given, find_task, faults)
    of_recipe: dict[str, Any] = {}
    if spec is None:
        # The other knobs can still be checked, with stand-ins for the recipe's values; the model reports a missing task.
        values = {"body.name": "mini-swin", "proxy": "noise"} | _reference_behaviour(given) | given
    else:
        recipe, recipes = choose_recipe(spec, given), recipes_of(spec)
        of_recipe = flatten(recipes[recipe])
        wrong = unknown_knobs(of_recipe)
        faults += [Fault(fault.path, f"{fault.rule}, in the recipe {recipe} of {spec.name}", fault.value, fault.remedy) for fault in wrong]
        values = of_recipe | {"recipe": recipe} | _of_method(spec, of_recipe | given) | _reference_behaviour(given) | given
        if isinstance(values["recipe"], str) and values["recipe"] != recipe:
            faults.append(Fault("recipe", f"must be a recipe of {spec.name}", values["recipe"], nearest(values["recipe"], recipes)))
    _checked("embedder.weights", values, check_weights_file, faults)
    body = _checked("body.name", values, find_body, faults)
    if body is not None and spec is not None and not body.is_bodiless:
        otherwise = _default_proxy(of_recipe.get("proxy"), body)
        if isinstance(given.get("proxy"), str):
            given["proxy"] = complete_name(given["proxy"], otherwise)
        values["proxy"] = given.get("proxy", otherwise)
    proxy = _checked("proxy", values, find_proxy, faults) if "proxy" in given else None
    if body is None or body.is_bodiless:
        values.setdefault("proxy", "noise")  # a stand-in too: which proxy is the default depends on the body, and a bodiless arm has none
    elif proxy is not None and not proxy.fits(body.modality):
        fitting = f"{body.name} reads {body.modality}; omit the proxy, or take {DEFAULT_PROXY[body.modality]} or noise-matched."
        faults.append(Fault("proxy", f"must be a proxy of {body.modality}", given["proxy"], fitting))
    elif proxy is not None and proxy.width is not None:
        faults += _width_faults(proxy, body)
    config, more = _validate(values)
    faults += [fault for fault in more if fault.path not in {known.path for known in faults}]
    faults += _adapter_faults(values, body, faults)
    of_schedule = _schedule_faults(values, body, faults)
    faults += of_schedule + _layer_faults(config, body) + _validation_faults(config, spec)
    faults += _alignment_faults(config) + _keep_faults(config, body)
    if config is not None and spec is not None and body is not None and not of_schedule:
        faults += successor_faults(config) + training_faults(config) + _choice_faults(config, proxy)
    if config is not None and body is not None and body.pretrained_here:
        faults += corpus_faults(body, config.pretrain.corpus, config.pretrain.objective)
    if faults or config is None:
        raise ConfigError(faults)
    return config


def _of_method(spec: TaskSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that `method` sets; none without a method, or for one that the model refuses."""
    name: Any = values.get("method")
    return method_defaults(name, spec.dims, spec.kind, values) if name in get_args(Method) else {}


def _reference_behaviour(given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that `reference_behaviour` sets; none if it is off."""
    if given.get("reference_behaviour") is not True:
        return {}
    return {path: value for path, value in REFERENCE_BEHAVIOUR.items() if not any(own in given for own in _OWN_OF_ALIGNMENT.get(path, ()))}


def choose_recipe(spec: TaskSpec, given: Mapping[str, Any]) -> str:
    """Name of the recipe that provides the defaults: the requested one, otherwise the one that suits the body, whatever its weights."""
    recipes = recipes_of(spec)
    asked = given.get("recipe")
    if isinstance(asked, str) and asked in recipes:
        return asked
    body = given.get("body.name")
    is_small = body is None or str(body).startswith("mini-") or str(body) in BODILESS
    suiting = ("laptop",) if is_small else ("published", PUBLISHED_STYLE)
    return next((name for name in suiting if name in recipes), next(iter(recipes)))


def _checked(path: str, values: Mapping[str, Any], find: Any, faults: list[Fault]) -> Any:
    """What `find` returns for a name, or None after adding its faults; a missing or mistyped name is left to the model."""
    if not isinstance(values.get(path), str):
        return None
    try:
        return find(values[path])
    except ConfigError as error:
        faults.extend(Fault(path, fault.rule, fault.value, fault.remedy) for fault in error.faults)
    except DataError as error:
        faults.append(Fault(path, str(error), Fault.ABSENT))
    return None


def _default_proxy(of_recipe: str | None, body: BodySpec) -> str:
    """The proxy of a trial that names none: the recipe's if the body can use it, else the default of the body's modality."""
    usable = of_recipe is not None and _serves(find_proxy(of_recipe), body)
    return of_recipe if usable and of_recipe is not None else DEFAULT_PROXY[body.modality]


def _serves(proxy: ProxySpec, body: BodySpec) -> bool:
    """Whether a recipe's proxy can be used with the body. For features whose file is missing, the published width counts."""
    if not proxy.fits(body.modality) or proxy.width is None:
        return proxy.fits(body.modality)
    try:
        return proxy.fits_width(body.width)
    except DataError:
        return body.width == _PUBLISHED_WIDTH


def _width_faults(proxy: ProxySpec, body: BodySpec) -> list[Fault]:
    """Faults of a proxy of features that are not as wide as the body's tokens."""
    try:
        if proxy.fits_width(body.width):
            return []
    except DataError as error:
        return [Fault("proxy", str(error), Fault.ABSENT)]
    assert proxy.width is not None
    remedy = f"It holds features of width {proxy.width()}; take a proxy that the body embeds."
    return [Fault("proxy", f"must be as wide as the tokens of {body.name}, {body.width}", proxy.name, remedy)]


def _validate(values: Mapping[str, Any]) -> tuple[TrialConfig | None, list[Fault]]:
    try:
        return TrialConfig.model_validate(nest(values)), []
    except ValidationError as error:
        return None, faults_of(error)


def _keep_faults(config: TrialConfig | None, body: BodySpec | None) -> list[Fault]:
    """Faults of `body.keep`."""
    if config is None or body is None or (keep := config.body.keep) == ALL:
        return []
    if body.is_bodiless:
        return [Fault("body.keep", f"must be {ALL} with {body.name}: nothing of it is pretrained", keep)]
    if body.num_layers is not None and kept_layers(keep) > body.num_layers:
        return [Fault("body.keep", f"must name at most the {body.num_layers} layers of {body.name}", keep)]
    return []


def _layer_faults(config: TrialConfig | None, body: BodySpec | None) -> list[Fault]:
    """Faults of knobs that count the body's layers."""
    if config is None or body is None or body.num_layers is None or body.is_bodiless or config.finetune.reinit_top <= body.num_layers:
        return []
    rule = f"must be at most the {body.num_layers} layers of {body.name}"
    return [Fault("finetune.reinit_top", rule, config.finetune.reinit_top)]


def _alignment_faults(config: TrialConfig | None) -> list[Fault]:
    """Faults of the joint form of alignment."""
    if config is None or not config.align.weight:
        return []
    if config.align.objective != "none":
        splits = {"align.gradient project": config.align.gradient == "project", "align.agreement": config.align.agreement}
        asked = [name for name, holds in splits.items() if holds]
        if not asked or config.finetune.compile == "none":
            return []
        rule = f"must be none with {' or '.join(asked)}: a compiled pass keeps nothing for a second gradient"
        return [Fault("finetune.compile", rule, config.finetune.compile)]
    remedy = "Fine-tuning minimises the task's loss anyway. Set align.weight to 0, or take another objective."
    return [Fault("align.weight", "must be 0 with align.objective none, which has no distance", config.align.weight, remedy)]


def _validation_faults(config: TrialConfig | None, spec: TaskSpec | None) -> list[Fault]:
    """Faults of the knobs that choose which rows validate."""
    if config is None or (config.valid_share is None and config.validation == ValidationConfig()):
        return []
    faults, (share, folds, fold) = [], (config.valid_share, config.validation.folds, config.validation.fold)
    if fold is not None and folds is None:
        faults.append(Fault("validation.fold", "must be null without validation.folds", fold, "Set validation.folds, too."))
    elif fold is not None and folds is not None and fold >= folds:
        faults.append(Fault("validation.fold", f"must be below validation.folds = {folds}", fold, "Folds are numbered from 0."))
    if share is not None and folds is not None:
        remedy = "Each fold validates once, so its share is 1 / validation.folds. Remove one of the two."
        faults.append(Fault("valid_share", "must be null with validation.folds", share, remedy))
    if config.is_cross_validated and config.selection == "test":
        remedy = "Folds choose the epoch on validation rows. Remove validation.folds, or set selection to valid."
        faults.append(Fault("selection", "must be valid with validation.folds", config.selection, remedy))
    path, value = ("valid_share", share) if share is not None else ("validation.folds", folds)
    if value is not None and spec is not None and config.reference_data and spec.reference:
        faults.append(Fault(path, "must be null with reference_data, which takes the reference's split", value))
    elif value is not None and spec is not None and spec.fixed_validation:
        faults.append(Fault(path, f"must be null for {spec.name}", value, f"{spec.fixed_validation}."))
    return faults


def _choice_faults(config: TrialConfig | None, proxy: ProxySpec | None) -> list[Fault]:
    """Faults of a proxy whose samples are chosen by the target."""
    if config is None or proxy is None or proxy.chosen is None or not config.reads_proxy:
        return []
    faults, (which, number) = [], proxy.chosen
    if number >= config.align.proxy_samples:
        rule = f"must choose fewer samples than align.proxy_samples, {config.align.proxy_samples}, which are drawn first"
        faults.append(Fault("proxy", rule, config.proxy))
    if config.matches:
        remedy = "The choice is by features as the embedder starts, and that start would be made from the choice. Take another start."
        faults.append(Fault("embedder.init", f"must not be matched with +{which}:N in the proxy", config.embedder.init, remedy))
    if config.is_cross_validated:
        remedy = f"The choice would see the rows that a fold holds out. Remove validation.folds, or take a proxy without +{which}:{number}."
        faults.append(Fault("validation.folds", f"must be null with +{which}:N in the proxy", config.validation.folds, remedy))
    return faults


def _adapter_faults(values: Mapping[str, Any], body: BodySpec | None, known: list[Fault]) -> list[Fault]:
    """Faults of the adapter's options, and of the adapter with the body; none while its name is one."""
    if any(fault.path.startswith("adapter") for fault in known):
        return []
    return adapter_faults(spell_adapter(values.get("adapter", NONE)), body)


def _schedule_faults(values: Mapping[str, Any], body: BodySpec | None, known: list[Fault]) -> list[Fault]:
    """Faults of the freezing schedule as a whole; none while its parts, or the epochs to fill, have faults of their own."""
    if any(fault.path.startswith(("freezing", "finetune.epochs")) for fault in known):
        return []
    freezing, epochs = (values.get(path, KNOBS[path].default) for path in ("freezing", "finetune.epochs"))
    is_bodiless = body is not None and body.is_bodiless
    layers = 10**6 if body is None or is_bodiless else body.num_layers  # any number is accepted where there are no layers to count
    try:
        listed = freezing if isinstance(freezing, str) else [Phase.model_validate(phase) for phase in freezing]
        phases = parse_freezing(listed, epochs, layers)
        if body is not None and is_bodiless:
            return bodiless_faults(body.name, phases)
        if not any(fault.path.startswith("adapter") for fault in known):
            return schedule_faults(spell_adapter(values.get("adapter", NONE)), phases)
    except ConfigError as error:
        return list(error.faults)
    return []
