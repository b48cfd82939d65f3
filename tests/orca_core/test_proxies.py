"""Every built-in proxy against the promises of `ProxyData`, and what is special in each."""

from __future__ import annotations

import doctest
from functools import lru_cache

import numpy as np
import pytest

from orca_core.errors import ConfigError
from orca_core.proxies import DEFAULT_PROXY, PROXIES, ProxyData, builtin, find_proxy, fractals
from orca_core.testing import ProxyContract

LOADED = [name for name, spec in PROXIES.items() if spec.loader and not spec.expects]


@lru_cache
def load(name: str) -> ProxyData:
    return PROXIES[name].load()


class TestProxies(ProxyContract):
    """Every built-in proxy that needs no files of its own."""

    test_an_entry_point_can_register_it = None  # they are built in

    @pytest.fixture(autouse=True, params=LOADED)
    def _spec(self, request):
        self.spec = PROXIES[request.param]


@pytest.mark.parametrize("name", LOADED)
def test_a_proxy_has_a_thousand_samples_and_images_are_of_32_pixels(name):
    data = load(name)
    assert len(data) >= 1000
    assert PROXIES[name].modality == "text" or data.inputs.shape[1:] == (3, 32, 32)


@pytest.mark.parametrize("name", LOADED)
def test_every_label_has_samples_enough_for_a_covariance(name):
    assert np.bincount(load(name).labels).min() >= 30


def test_the_defaults_fit_their_modality():
    assert all(PROXIES[name].fits(modality) for modality, name in DEFAULT_PROXY.items())


def test_noise_fits_every_body_and_has_nothing_to_load():
    noise = find_proxy("noise")
    assert noise.fits("text")
    assert noise.fits("images")
    assert noise.loader == ""


def test_noise_with_the_moments_of_a_proxy_fits_what_that_proxy_fits():
    matched = find_proxy("noise-matched:pydoc")
    assert (matched.fits("text"), matched.fits("images")) == (True, False)
    names = ("pydoc", "noise-matched:pydoc", "noise-matched:pydoc+shuffled", "noise-matched:pydoc+k:50", "noise", "noise-matched:photos")
    assert len({find_proxy(name).digest() for name in names}) == len(names)
    for name in ("noise-matched:noise", "noise-matched:noise-matched"):
        with pytest.raises(ConfigError, match="must name a proxy of data after noise-matched:"):
            find_proxy(name)


def test_noise_with_moments_of_ones_own_proxy_is_known_by_the_content_of_its_file(tmp_path):
    def digest(name: str, text: str) -> str:
        (tmp_path / name).write_text("text,label\n" + "".join(f"{text} {row},{'ab'[row % 2]}\n" for row in range(9)))
        return find_proxy(f"noise-matched:text:{tmp_path / name}").digest()

    assert digest("one.csv", "a cat") == digest("two.csv", "a cat") != digest("one.csv", "a dog")


def test_an_unknown_proxy_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="Did you mean 'photos'"):
        find_proxy("photo")


def test_pydoc_sentences_are_prose_and_stand_once():
    sentences = load("pydoc").inputs
    assert len(set(sentences)) == len(sentences)
    assert all(5 <= len(sentence.split()) <= 60 and "::=" not in sentence and ">>>" not in sentence for sentence in sentences)


def test_the_example_of_split_sentences_holds():
    finder = doctest.DocTestFinder().find(builtin.split_sentences, globs=vars(builtin))
    assert all(doctest.DocTestRunner().run(example).failed == 0 for example in finder)


def test_a_photo_crop_is_found_in_its_third_of_the_photograph():
    data = load("photos")
    photo = builtin._read_photo(PROXIES["photos"].files()[0])
    left = data.inputs[data.labels == data.label_names.index("china-left")][0]
    windows = np.lib.stride_tricks.sliding_window_view(photo[0, :, : photo.shape[2] // 3], (32, 32))
    assert (windows == left[0]).all(axis=(2, 3)).any()


def test_half_of_the_photo_crops_are_averages_of_larger_ones():
    # The mean of four bytes is a multiple of 1/4; of a single byte it is whole.
    whole = [bool(np.all(np.abs(crop * 255 - np.round(crop * 255)) < 1e-3)) for crop in load("photos").inputs]
    assert whole[:720] == [True] * 720
    assert not any(whole[720:])


def test_maps_of_the_fractals_contract():
    assert all(abs(scale) <= 0.71 for maps in fractals.SYSTEMS.values() for scale, _ in maps)


def test_unperturbed_corner_points_are_fixed():
    for scale, shift in fractals.SYSTEMS["sierpinski-triangle"]:
        corner = shift / (1 - scale)
        assert abs(corner) == pytest.approx(1)
