"""Probes of trials: on every kind of body, without any effect on the trial, from the store, afterwards, and when they fail."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from body_families import FAMILIES, write_checkpoint
from trials import VALUES, compared, copy_pretraining, small, tiny_bodies

from orca_core.bodies import find_body
from orca_core.bodies.loading import checkpoint_body
from orca_core.config.knobs import TrialConfig
from orca_core.declarations import FINETUNE
from orca_core.keeping import shapes_of
from orca_core.pipeline import model_before_tuning, run_trial
from orca_core.probes_afterwards import probe_finished
from orca_core.probing import PROBES, ProbeRequest
from orca_core.probing import run as running
from orca_core.probing.attention import entropies_of
from orca_core.probing.finished import missing_states
from orca_core.probing.keys import ONLY_TRAINING, probes_of
from orca_core.probing.layers import layer_means
from orca_core.probing.run import KILLED
from orca_core.rows import ProbeRow, Row, TrialResult, row_from_json, row_to_json
from orca_core.store import Store
from orca_core.trial_stages import TrialStages

ALL = ProbeRequest(tuple(PROBES), samples=16)
SERIES, IMAGES = "npz:tiny/series.npz", "npz:tiny/images.npz"


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("probing")
    with tiny_bodies(folder):
        yield folder


def encoder(**knobs: Any) -> TrialConfig:
    return small(SERIES, body="hf:tiny/bert", **{"align__epochs": 1, **knobs})


def probed(config: TrialConfig, store: Store, request: ProbeRequest | None = ALL, **options) -> tuple[list[ProbeRow], TrialResult]:
    rows: list[Row] = []
    result = run_trial(config, store, rows.append, probes=request, **options)
    return [row for row in rows if isinstance(row, ProbeRow)], result


def values(rows: list[ProbeRow], probe: str, moment: str = "fine-tuned", **columns) -> list[float | None]:
    chosen = [row for row in rows if (row.probe, row.moment) == (probe, moment)]
    return [row.value for row in chosen if all(getattr(row, name) == value for name, value in columns.items())]


def untimed(rows: list[ProbeRow]) -> list[ProbeRow]:
    return sorted((replace(row, seconds=0.0, is_reused=False) for row in rows), key=repr)


def test_probes_change_nothing_of_the_trial(tmp_path: Path) -> None:
    """Rows, result and stages are equal, and nothing is drawn from the generators of the process."""
    found = []
    for name, request in (("without", None), ("with", ALL)):
        rows: list[Row] = []
        torch.manual_seed(0)
        result = run_trial(encoder(), Store(tmp_path / name), rows.append, probes=request)
        of_trial = [compared(row) for row in rows if not isinstance(row, ProbeRow)]
        stored = {str(entry.address) for entry in Store(tmp_path / name).entries() if entry.address.kind != "probe"}
        found.append((of_trial, result, stored, torch.random.get_rng_state().tolist()))
        assert any(isinstance(row, ProbeRow) for row in rows) == (request is not None)
    assert found[0] == found[1]


# -------------------------------------------------------------------------------------------------------- what is measured


@pytest.mark.parametrize(
    ("config", "layers", "without"),
    [
        ({"body": "hf:tiny/bert", "align__epochs": 1}, 2, {"forgetting", "missing-channels"}),
        ({"body": "hf:tiny/gpt2", "body__flip": True, "body__double": True}, 2, {"distance", "forgetting", "missing-channels"}),
        ({"task": IMAGES, "body": "mini-swin", "body__weights": "random", "align__epochs": 1}, 2, {"forgetting", "missing-channels"}),
        ({"task": IMAGES, "body": "cnn"}, 4, {"distance", "forgetting", "attention-entropy", "missing-channels"}),
        ({"body": "none"}, 0, {"distance", "forgetting", "attention-entropy", "cka", "missing-channels"}),
        ({"task": "openml/187", "body": "transformer-1"}, 1, {"distance", "forgetting"}),
        ({"task": "burgers-mini", "body": "hf:tiny/gpt2"}, 2, {"distance", "forgetting", "missing-channels", "nll", "ece"}),
    ],
    ids=["encoder", "decoder", "vision", "cnn", "none", "transformer-1", "dense"],
)
def test_every_kind_of_body(config: dict[str, Any], layers: int, without: set[str], tmp_path: Path) -> None:
    made = small(**{"task": SERIES, **config})
    rows, _ = probed(made, Store(tmp_path))
    assert {row.probe for row in rows if row.value is not None} == PROBES.keys() - without
    assert {row.reason for row in rows if row.value is None} <= {"the inputs have one channel."}
    assert set(probes_of(made, ALL).refused) == without - {"missing-channels"}
    moments = ["start", "aligned", "fine-tuned"] if made.aligns else ["start", "fine-tuned"]
    for moment in moments:
        assert [row.layer for row in rows if (row.probe, row.moment) == ("effective-rank", moment)] == list(range(layers + 1))
    if "attention-entropy" not in without:
        assert len(values(rows, "attention-entropy")) == layers
        assert all(0 <= value <= math.log(600) for value in values(rows, "attention-entropy"))
    assert [row_from_json(row_to_json(row)) for row in rows] == rows


def test_numbers_agree_with_those_of_the_trial(tmp_path: Path) -> None:
    """With as many samples as there are: the likelihood is the validation loss, the clean error the test error."""
    store = Store(tmp_path)
    rows, result = probed(encoder(), store, ProbeRequest(tuple(PROBES), samples=1000), keep="best")
    assert values(rows, "nll", split="valid") == [pytest.approx(result.valid_loss, rel=1e-5)]
    assert values(rows, "noise", setting="clean") == values(rows, "scale", setting="clean") == [pytest.approx(result.test_error)]
    before, after = dict(model_before_tuning(encoder(), store).named_parameters()), store.get(probes_of(encoder(), ALL).weights)
    names = [name for name in before if name.startswith("predictor.")]
    moved = sum((after.tensors[name] - before[name]).square().sum().item() for name in names)
    size = sum(before[name].square().sum().item() for name in names)
    assert values(rows, "weight-change", param_group="predictor") == [pytest.approx(math.sqrt(moved / size), rel=1e-4)]


def test_a_frozen_body_stays_what_it_was_and_forgets_nothing(tmp_path: Path, warm_store: Store) -> None:
    config = small(body="mini-roberta", proxy="pydoc", align__epochs=1, freezing="frozen-body")
    copy_pretraining(config, warm_store, Store(tmp_path))
    rows, _ = probed(config, Store(tmp_path))
    assert values(rows, "cka") == [pytest.approx(1, abs=1e-12)] * 2
    assert {values(rows, "weight-change", param_group=name)[0] for name in ("body", "attention", "qkv", "layernorm")} == {0.0}
    assert values(rows, "weight-change", param_group="embedder")[0] > 0
    assert values(rows, "weight-change", "aligned", param_group="embedder")[0] > 0
    assert values(rows, "forgetting") == values(rows, "forgetting", "start") != []
    by_layer = {moment: values(rows, "distance", moment, setting="absolute") for moment in ("start", "aligned", "fine-tuned")}
    assert [len(found) for found in by_layer.values()] == [3, 3, 3]  # texts are read by all layers
    assert by_layer["aligned"][0] < by_layer["start"][0]


def test_an_adapter_moves_and_the_body_in_it_does_not(tmp_path: Path) -> None:
    rows, _ = probed(encoder(adapter="lora", align__epochs=0), Store(tmp_path), ProbeRequest(("weight-change", "cka"), samples=8))
    assert values(rows, "weight-change", param_group="body") == [0.0]
    assert values(rows, "weight-change", param_group="adapter")[0] > 0
    assert values(rows, "cka")[-1] < 1


def test_layers_and_a_named_proxy(tmp_path: Path) -> None:
    """A trial without alignment has a distance to a proxy that is named; layers that a body lacks are passed over."""
    request = ProbeRequest(("distance", "effective-rank"), samples=8, layers=(0, 2, 7), proxy="noise")
    rows, _ = probed(encoder(align__epochs=0), Store(tmp_path), request)
    assert [row.layer for row in rows if row.probe == "effective-rank" and row.moment == "start"] == [0, 2]
    assert [row.setting for row in rows if row.probe == "distance" and row.moment == "start"] == ["absolute", "relative"]


QUICK = ("bert", "gpt2", "swin", "timm-vit")


@pytest.mark.parametrize("family", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name not in QUICK)])
def test_every_family_shows_its_attention_and_layers(family: str, tmp_path: Path) -> None:
    _, name = write_checkpoint(family, tmp_path)
    body = checkpoint_body(find_body(name), "").body
    length = body.geometry.side**2 if body.geometry.modality == "images" else 7
    tokens = torch.randn(3, length, body.geometry.width)
    found = entropies_of(body, iter([tokens]))
    assert list(found) == list(range(1, len(body.blocks) + 1))
    assert all(0 < value < math.log(length + 2) for value in found.values())
    with torch.no_grad():
        layers = layer_means(body, tokens)
    assert len(layers) == len(body.blocks) + 1
    assert all(len(layer) == 3 for layer in layers)
    configs = [module.config for module in body.modules() if hasattr(module, "config")]
    if configs and not family.startswith("timm"):  # the same weights by the library's own attention, which is a softmax
        for config in configs:
            config._attn_implementation = "eager"
        assert entropies_of(body, iter([tokens])) == pytest.approx(found, rel=1e-4)


# ---------------------------------------------------------------------------------------------------------------- keys, store


def test_keys_follow_what_is_read() -> None:
    def keys(config: TrialConfig, request: ProbeRequest = ALL) -> dict[tuple[str, str], str]:
        return {(stage.probe.name, stage.moment): stage.key for stage in probes_of(config, request).stages}

    usual = keys(encoder())
    assert len(set(usual.values())) == len(usual)
    faster = keys(encoder(finetune__lr=0.5))
    assert {moment for name, moment in usual if usual[name, moment] == faster[name, moment]} == {"start", "aligned"}
    longer = keys(encoder(align__epochs=2))
    assert {moment for name, moment in usual if usual[name, moment] == longer[name, moment]} == {"start"}
    assert not set(usual.values()) & set(keys(encoder(seed=1)).values())
    assert not set(usual.values()) & set(keys(encoder(), replace(ALL, samples=17)).values())
    some = keys(encoder(), replace(ALL, layers=(0, 1)))
    assert {name for name, moment in usual if usual[name, moment] != some[name, moment]} == {n for n, p in PROBES.items() if p.by_layer}
    named = keys(encoder(), replace(ALL, proxy="noise+k:9"))
    assert {name for name, moment in usual if usual[name, moment] != named[name, moment]} == {"distance"}
    assert keys(encoder(), replace(ALL, retry=True)) == usual


def test_what_only_training_reads_leaves_the_start_alone(tmp_path: Path) -> None:
    """Two trials that share the key of a start have the same model there."""
    known = {read.name for group in FINETUNE.groups.values() for read in group.reads}
    assert known >= ONLY_TRAINING
    states = []
    for config in [
        encoder(align__epochs=0),
        *(
            encoder(**{"align__epochs": 0, knob.replace(".", "__"): VALUES[knob][-1]})
            for knob in sorted(ONLY_TRAINING & VALUES.keys() - {"finetune.score_chunk", "finetune.fused"})
        ),
        encoder(align__epochs=0, finetune__fused=2, freezing="frozen-both"),
    ]:
        trial = TrialStages(config, Store(tmp_path), "cpu")
        states.append(trial.start_of_training(shapes_of(trial.load_data()), None, None).state_dict())
    assert all(torch.equal(state[name], value) for state in states for name, value in states[0].items())


def test_rows_come_from_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    first, _ = probed(encoder(), store)
    monkeypatch.setattr(running, "_measure_moment", None)
    again, _ = probed(encoder(), store)
    assert untimed(again) == untimed(first)
    assert all(row.is_reused for row in again)


def test_a_finished_trial_gets_the_same_rows(tmp_path: Path) -> None:
    """Of states that were kept, and of states that were not, which are computed again."""
    expected, _ = probed(encoder(), Store(tmp_path / "at once"))
    for keep in ("best", "none"):
        store = Store(tmp_path / keep)
        probed(encoder(), store, None, keep=keep)
        probes = probes_of(encoder(), ALL)
        assert missing_states(probes, store) == ({} if keep == "best" else {"fine-tuned": ["weights"]})
        assert untimed(list(probe_finished(probes, store))) == untimed(expected)
    for entry in store.entries():
        if entry.address.kind in ("align", "probe"):
            store.drop(entry.address)
    assert missing_states(probes, store) == {"aligned": ["align"], "fine-tuned": ["align", "weights"]}
    assert untimed(list(probe_finished(probes, store))) == untimed(expected)


def test_probes_of_a_trial_with_folds(tmp_path: Path) -> None:
    """Its final training has no validation part."""
    rows, result = probed(encoder(validation__folds=2, align__epochs=0), Store(tmp_path), replace(ALL, samples=1000))
    assert {row.split for row in rows if row.probe == "nll"} == {"test"}
    assert values(rows, "noise", setting="clean") == [pytest.approx(result.test_error)]


# ------------------------------------------------------------------------------------------------------------------- failures


def test_a_probe_that_fails_is_a_row_and_no_failure_of_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(PROBES["cka"], measure="orca_core.probing.geometry:no_such_function")
    monkeypatch.setattr("orca_core.probing.keys.PROBES", {**PROBES, "cka": broken})
    store = Store(tmp_path)
    rows, result = probed(encoder(), store, keep="best")
    assert result.test_error is not None
    (failed,) = (row for row in rows if row.probe == "cka")
    assert failed.value is None
    assert "no_such_function" in str(failed.reason)
    assert values(rows, "ece")
    monkeypatch.undo()
    assert (
        values(probed(encoder(), store)[0], "cka") == [pytest.approx(1, abs=0.1)] * 2
    )  # nothing was stored, so the next attempt measures it


def test_no_state_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running._States, "reading", lambda self, moment: 1 / 0)
    rows, result = probed(encoder(), Store(tmp_path), ProbeRequest(("ece", "cka")))
    assert [(row.probe, row.value, row.reason) for row in rows] == [
        (p, None, "ZeroDivisionError: division by zero") for p in ("ece", "cka")
    ]
    assert result.best_epoch > 0


def test_a_process_that_is_killed_at_a_probe_is_not_killed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, request = Store(tmp_path), ProbeRequest(("effective-rank",))

    class Killed(BaseException):
        """What no handler catches, as nothing runs any more in a process that is killed."""

    def die(moment: str, *_: Any) -> None:
        if moment == "fine-tuned":
            raise Killed

    with monkeypatch.context() as patch:
        measure = running._measure_moment
        patch.setattr(running, "_measure_moment", lambda moment, *more: die(moment) or measure(moment, *more))
        with pytest.raises(Killed):
            probed(encoder(), store, request, keep="best")
    rows, result = probed(encoder(), store, request)
    assert [row.reason for row in rows if row.moment == "fine-tuned"] == [KILLED]
    assert len(values(rows, "effective-rank", "start")) == 3
    assert result.best_epoch > 0
    rows = list(probe_finished(probes_of(encoder(), replace(request, retry=True)), store))
    assert len(values(rows, "effective-rank")) == 3


def test_an_interrupted_probe_is_measured_by_the_next_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C says nothing against a probe."""
    store, request = Store(tmp_path), ProbeRequest(("effective-rank",))

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(running, "_measure_moment", interrupt)
        with pytest.raises(KeyboardInterrupt):
            probed(encoder(), store, request, keep="best")
    rows, _ = probed(encoder(), store, request)
    assert {row.reason for row in rows} == {None}
    assert len(values(rows, "effective-rank", "start")) == 3


@pytest.mark.parametrize("name", ["noise+near:10", "noise+k:15+far:10"])
def test_samples_that_the_target_chooses_are_not_read(name: str) -> None:
    """A probe would draw others of the same proxy, or none."""
    for config, request in (
        (encoder(proxy=name), ProbeRequest(("distance", "ece"))),
        (encoder(), ProbeRequest(("distance", "ece"), proxy=name)),
    ):
        found = probes_of(config, request)
        assert {stage.probe.name for stage in found.stages} == {"ece"}
        assert "are chosen by the target" in found.refused["distance"]


def test_a_proxy_that_is_not_there(tmp_path: Path) -> None:
    rows, result = probed(encoder(), Store(tmp_path), ProbeRequest(("distance", "ece"), proxy="text:nowhere.txt"))
    assert {row.probe for row in rows} == {"distance", "ece"}
    assert all("nowhere.txt" in str(row.reason) for row in rows)
    assert result.best_epoch > 0
