"""What a proxy promises."""

from __future__ import annotations

import pickle

import numpy as np

from orca_core.proxies import PROXY_CATALOGUE, ProxyData, ProxySpec

_loaded: dict[str, tuple[ProxySpec, ProxyData]] = {}


class ProxyContract:
    """Checks of a `ProxySpec` that has a loader, and of the data that it returns.

    Attributes:
        spec: The proxy; its files must be there.
    """

    spec: ProxySpec

    def data(self) -> ProxyData:
        """The proxy's data, loaded once."""
        spec, data = _loaded.get(self.spec.name, (None, None))
        if data is None or spec is not self.spec:
            data = self.spec.load()
            _loaded[self.spec.name] = self.spec, data
        return data

    def test_an_entry_point_can_register_it(self) -> None:
        PROXY_CATALOGUE.check(self.spec)

    def test_samples_are_of_its_modality(self) -> None:
        inputs = self.data().inputs
        if self.spec.width is not None:
            expected = (len(self.data()), self.spec.width())
            assert np.shape(inputs) == expected, f"features must be of shape {expected}, but are of {np.shape(inputs)}"
        elif self.spec.modality == "text":
            assert all(type(text) is str for text in inputs), "inputs must be texts"
        else:
            images = np.asarray(inputs)
            height_and_width = images.shape[2:]
            assert images.shape == (len(self.data()), 3, *height_and_width[:2]), (
                f"images must be (n, 3, height, width), but are {images.shape}"
            )
            assert images.dtype in (np.float32, np.uint8), f"images must be float32 or bytes, but are {images.dtype}"
            assert images.dtype == np.uint8 or 0 <= images.min() < images.max() <= 1, "images must lie in [0, 1]"
            assert images.flags.c_contiguous, "images must be C-contiguous"

    def test_every_label_has_a_name_and_samples(self) -> None:
        data = self.data()
        counts = np.bincount(data.labels, minlength=len(data.label_names))
        assert len(counts) == len(data.label_names), f"labels must lie below {len(data.label_names)}, but reach {len(counts) - 1}"
        assert len(set(data.label_names)) == len(data.label_names), "label_names must be unique"
        alone = [name for name, count in zip(data.label_names, counts, strict=True) if count < 2]
        assert not alone, f"labels must have at least 2 samples each, since OTDD drops others, but {', '.join(alone)} have fewer"

    def test_spans_lie_in_their_texts(self) -> None:
        data = self.data()
        for text, (start, stop) in zip(data.inputs, data.spans or (), strict=data.spans is not None):
            assert 0 <= start < stop <= len(text), f"spans must lie in their texts, but ({start}, {stop}) does not lie in {text!r}"

    def test_it_is_the_same_each_time(self) -> None:
        data, again = self.data(), self.spec.load()
        assert np.array_equal(np.asarray(data.inputs), np.asarray(again.inputs)), "inputs must be the same each time they are loaded"
        assert np.array_equal(data.labels, again.labels), "labels must be the same each time they are loaded"

    def test_it_can_be_sent_to_a_worker(self) -> None:
        assert pickle.loads(pickle.dumps(self.spec)).digest() == self.spec.digest(), "the digest must survive pickling"
