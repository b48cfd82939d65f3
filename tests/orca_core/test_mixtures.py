"""Mixtures of proxies, and proxies of which the samples nearest to the target are used, or the farthest."""

from __future__ import annotations

import doctest
from dataclasses import replace

import numpy as np
import pytest
import torch
from trials import TINY_BODIES, small, tiny_bodies

from orca_core.alignment import choice
from orca_core.alignment.choice import choose, target_at_start, transport_distances
from orca_core.alignment.source import describe_features, source_features
from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.errors import ConfigError, DataError
from orca_core.model.cross_modal import build_embedder
from orca_core.pipeline import run_trial
from orca_core.proxies import Choice, ProxyData, ProxySpec, complete_name, find_proxy, mixtures, stands_for
from orca_core.settings import Settings
from orca_core.stages import stages_of
from orca_core.tasks import find_task
from orca_core.testing import ProxyContract

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _load_once():
    """Photographs and fractals are read and drawn once for all tests here; mixtures of them are made anew."""
    load, loaded = ProxySpec.load, {}

    def load_once(spec: ProxySpec) -> ProxyData:
        if spec.parts:
            return load(spec)
        return loaded[spec.name] if spec.name in loaded else loaded.setdefault(spec.name, load(spec))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProxySpec, "load", load_once)
        yield


@pytest.fixture(scope="module")
def swin():
    return random_body(find_body("mini-swin"), seed=0)


def features(name: str, body, *, samples: int = 200, seed: int = 0, target=None) -> tuple[torch.Tensor, torch.Tensor]:
    return source_features(find_proxy(name), body, samples=samples, seed=seed, device=CPU, target=target)


# ------------------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("photos*0.5+fractals*0.5", "fractals*0.5+photos*0.5"),
        ("photos*.50+fractals*5e-1", "fractals*0.5+photos*0.5"),
        ("fractals*0.9+photos+k:50*0.1", "fractals*0.9+photos+k:50*0.1"),
        ("photos*0.5+fractals*0.5+k:60+near:9+shuffled", "fractals*0.5+photos*0.5+k:60+near:9+shuffled"),
        ("noise-matched:(photos*0.5+fractals*0.5)+shuffled", "noise-matched:(fractals*0.5+photos*0.5)+shuffled"),
        ("noise-matched:photos*0.5+photos*0.5", "noise-matched:photos*0.5+photos*0.5"),
        ("photos*0.25+fractals*0.25+task:digits*0.5", "fractals*0.25+photos*0.25+task:digits*0.5"),
    ],
)
def test_a_mixture_has_one_spelling(written, name):
    assert find_proxy(written).name == name == find_proxy(name).name == complete_name(written, "photos")
    assert find_proxy(written).digest() == find_proxy(name).digest()
    assert stands_for(written, name)
    assert small("digits", proxy=written, align__epochs=1).proxy == name


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("photos*0.5+fractals", "A mixture is written photos"),
        ("photos*0.5", "must have two proxies or more in a mixture"),
        ("photos*0.6+fractals*0.6", r"add up to 1, but got '1\.2'\. In the same proportions: photos\*0\.5\+fractals\*0\.5"),
        ("photos*0+fractals*-1", r"(?s)but got 'photos\*0'.*but got 'fractals\*-1'"),
        ("photos*0.5+pydoc*0.5", "must mix proxies of one modality.*photos is of images; pydoc is of text"),
        ("photos*0.5+photos*0.5", "must name each proxy once"),
        ("photos*0.5+noise*0.5", "must mix proxies of data, but got 'noise'"),
        ("photoz*0.5+fractals*0.5", "Did you mean 'photos'"),
        ("photos+near:9*0.5+fractals*0.5", "must not choose by the target within a mixture"),
        ("noise-matched:(photos)", "must have a mixture in the parentheses"),
        ("photos+near:1", r"must end in \+near:N, with at least N = 2 samples"),
        ("photos+far:x", r"must end in \+far:N"),
        ("photos+near:9+far:3", "must choose once"),
        ("photos+near:9+k:3", r"write \+k:N before \+near:N"),
        ("photos+k:9+near:9", r"must choose fewer than the 9 samples of \+k:9"),
        ("photos+shuffled+near:9", r"permuted: photos\+near:9\+shuffled"),
    ],
)
def test_a_wrong_name_is_refused_with_the_right_grammar(written, message):
    with pytest.raises(ConfigError, match=message):
        find_proxy(written)


def test_contents_tell_proxies_apart():
    names = ("photos", "photos*0.5+fractals*0.5", "photos*0.4+fractals*0.6", "photos+near:9", "photos+far:9", "photos+near:8", "photos+k:9")
    names += ("noise-matched:photos+near:9", "photos*0.5+fractals*0.5+shuffled", "noise-matched:(photos*0.5+fractals*0.5)")
    assert len({find_proxy(name).digest() for name in names}) == len(names)


class TestMixture(ProxyContract):
    """The contract of a proxy."""

    test_an_entry_point_can_register_it = None  # its name is a form
    spec = find_proxy("photos*0.25+fractals*0.75")


# --------------------------------------------------------------------------------------------------------------- mixtures


def test_the_examples_hold():
    for function, module in ((mixtures.apportion, mixtures), (transport_distances, choice)):
        for example in doctest.DocTestFinder().find(function, globs=vars(module)):
            assert doctest.DocTestRunner().run(example).failed == 0


def test_a_mixture_is_its_parts_by_their_shares_with_labels_of_their_own(swin):
    x, y = features("photos*0.25+fractals*0.75", swin)
    of_fractals, of_photos = features("fractals", swin, samples=150), features("photos", swin, samples=50)
    assert torch.equal(x, torch.cat([of_fractals[0], of_photos[0]]))
    assert torch.equal(y, torch.cat([of_fractals[1], of_photos[1] + 10]))  # there are ten systems of fractals
    assert not torch.equal(x, features("photos*0.25+fractals*0.75", swin, seed=1)[0])


def test_the_smallest_part_decides_how_large_a_mixture_is(swin):
    x, y = features("photos+k:20*0.5+fractals*0.5", swin, samples=5000)
    assert (len(x), int((y < 10).sum())) == (40, 20)
    with pytest.raises(DataError, match="must have a sample of each of its proxies"):
        features("photos*0.01+fractals*0.99", swin, samples=10)
    described = describe_features(find_proxy("photos+k:20*0.5+fractals*0.5+near:9"), find_body("mini-swin"))
    assert (described.classes, described.width) == (16, swin.body.geometry.width)


def test_a_mixture_is_loaded_with_the_samples_that_its_parts_are_cut_to():
    data = find_proxy("fractals+k:30*0.5+photos*0.5").load()
    assert np.unique(np.array([name.split(":")[0] for name in data.label_names])[data.labels], return_counts=True)[1].tolist() == [30, 30]


def test_suffixes_are_of_the_whole(swin):
    x, y = features("photos*0.5+fractals*0.5", swin)
    shuffled, matched = features("photos*0.5+fractals*0.5+shuffled", swin), features("noise-matched:(photos*0.5+fractals*0.5)", swin)
    assert torch.equal(shuffled[0], x)
    assert torch.equal(shuffled[1].sort().values, y.sort().values)
    assert set(shuffled[1][:100].tolist()) & set(range(10, 16)), "labels went from one proxy to the other"
    assert torch.equal(matched[1], y)
    assert matched[0].mean(0) == pytest.approx(x.mean(0), abs=1e-5)
    assert len(features("photos*0.5+fractals*0.5+k:30", swin)[0]) == 30


def test_proxies_of_ones_own_are_each_a_source(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(f"{name} {row},{row % 2}\n" for row in range(9)))
    spec = find_proxy(f"text:{tmp_path}/a.csv*0.5+text:{tmp_path}/b.csv*0.5+shuffled")
    assert [source.own_path for source in spec.sources()] == [f"{tmp_path}/a.csv", f"{tmp_path}/b.csv"]
    assert sorted(spec.load().inputs) == sorted(f"{name} {row}" for name in "ab" for row in range(9))
    assert find_proxy("photos").sources() == (find_proxy("photos"),)


# ------------------------------------------------------------------------------------------------------------------ choice


def test_distances_are_those_of_the_plan_worked_by_hand():
    """Two clusters 100 apart. Each source sample is paired with its own side: half of 3^2 there, half of 4^2 here; the nearest target of
    the sample in the middle is the right one, but the plan needs it on the left, where three target samples wait for a partner."""
    source = torch.tensor([[0.0], [0.0], [60.0], [100.0]])
    target = torch.tensor([[3.0], [3.0], [3.0], [104.0]])
    assert transport_distances(source, target) == pytest.approx([4.5, 4.5, 57**2 / 2, 8.0], rel=1e-6)
    assert choose(Choice("near", 3), source, target, "x").tolist() == [0, 1, 3]
    assert choose(Choice("far", 2), source, target, "x").tolist() == [2, 3]
    with pytest.raises(DataError, match="x: must choose fewer samples than there are, 4, but got 4"):
        choose(Choice("near", 4), source, target, "x")


def test_a_far_larger_source_is_paired_in_shares():
    """Every target sample receives from as many source samples: 6 of them for 2, so the three nearest of each, by hand."""
    source = torch.tensor([[-2.0], [-1.0], [0.0], [1.0], [2.0], [3.0]]) * 10
    target = torch.tensor([[-10.0], [20.0]])
    assert transport_distances(source, target) == pytest.approx([50, 0, 50, 50, 0, 50], abs=1e-6)


def test_the_chosen_are_the_nearest_and_keep_their_labels(swin):
    target = features("fractals", swin, seed=3)[0][:40] + 0.1
    pool_x, pool_y = features("photos", swin)
    distances = transport_distances(pool_x, target)
    near, far = (features(f"photos+{which}:30", swin, target=lambda: target) for which in ("near", "far"))
    order = distances.argsort()
    assert torch.equal(near[0], pool_x[order[:30].sort().values])
    assert torch.equal(near[1], pool_y[order[:30].sort().values])
    assert torch.equal(far[0], pool_x[order[-30:].sort().values])
    shuffled = features("photos+near:30+shuffled", swin, target=lambda: target)
    assert torch.equal(shuffled[0], near[0])
    assert shuffled[1].sort().values.tolist() == near[1].sort().values.tolist()
    assert shuffled[1].tolist() != near[1].tolist()
    matched = features("noise-matched:photos+near:30", swin, target=lambda: target)[0]
    assert matched.mean(0) == pytest.approx(near[0].mean(0), abs=1e-5)
    assert not torch.equal(matched, near[0])


def test_the_choice_sees_training_samples_alone_and_no_label():
    config = small("digits", body__weights="random", proxy="photos+near:10", align__epochs=1)
    settings, data = Settings.of(config, "source"), find_task("digits").load()
    embedder = build_embedder(settings, random_body(config.body_spec, seed=0), data.input_shape)
    blind = replace(
        data,
        train=replace(data.train, y=data.train.y[::-1].copy()),
        valid=replace(data.valid, x=data.valid.x * np.nan),
        test=replace(data.test, x=data.test.x * np.nan),
    )
    one, other = (target_at_start(embedder, of, seed=0, device=CPU) for of in (data, blind))
    assert torch.equal(one, other)
    assert len(one) == 500
    assert not torch.equal(one, target_at_start(embedder, data, seed=1, device=CPU))


def source_key(**knobs) -> str:
    config = small("digits", align__epochs=1, **knobs)
    return next(stage.key for stage in stages_of(config) if stage.kind == "source")


def test_the_key_of_the_source_has_the_target_where_it_chooses_by_it():
    others = ({"split_seed": 1}, {"train_samples": 24}, {"embedder__init": "random"}, {"valid_share": 0.3}, {"validation__folds": None})
    plain = [source_key(**other) for other in ({}, *others)]
    chosen = [source_key(proxy="noise+near:10", **other) for other in ({}, *others)]
    assert set(plain) == {plain[0]}
    assert len(set(chosen)) == len(chosen) - 1  # folds that are not given are the default
    assert source_key(proxy="noise+near:10", finetune__lr=0.1, align__lr=0.1) == chosen[0]


def test_a_choice_that_cannot_be_made_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match=r"proxy: must choose fewer samples than align\.proxy_samples, 20"):
        small("digits", proxy="photos+near:20", align__epochs=1)
    with pytest.raises(ConfigError, match=r"validation\.folds: must be null with \+near:N.*would see the rows that a fold holds out"):
        small("digits", proxy="photos+near:9", align__epochs=1, validation__folds=3)
    assert small("digits", proxy="photos+near:9", validation__folds=3).proxy == "photos+near:9"  # not read: nothing is aligned
    with pytest.raises(DataError, match="must choose fewer samples than there are, 1440"):
        find_proxy("photos+near:1440").load()


@pytest.mark.parametrize("family", ["mini-swin", "bert", "gpt2"])
def test_the_near_samples_of_a_mixture_are_nearer_than_the_far_ones(family, store, tmp_path):
    def unlabelled(proxy: str) -> float:
        rows = []
        more = {"align__proxy_samples": 120, "align__objective": "l2", "finetune__epochs": 1}
        config = small(proxy=proxy, body=body, body__weights="random", align__epochs=1, **more)
        run_trial(config, store, rows.append)
        return next(row.proxy_distance_unlabelled for row in rows if getattr(row, "proxy_distance_unlabelled", None) is not None)

    with tiny_bodies(tmp_path):
        body = family if family == "mini-swin" else f"hf:{TINY_BODIES[family]}"
        width = random_body(find_body(body), seed=0).body.geometry.width
        for seed in (0, 1):
            x = np.random.default_rng(seed).normal(seed, 1 + seed, (80, width)).astype("float32")
            np.savez(tmp_path / f"{seed}.npz", x=x, y=np.arange(80) % 3)
        mixed = f"npz:{tmp_path}/0.npz*0.5+npz:{tmp_path}/1.npz*0.5"
        near, drawn, far = (unlabelled(f"{mixed}+{suffix}") for suffix in ("near:40", "k:40", "far:40"))
    assert near < drawn < far
