"""NAS-Bench-360 from small files in the real formats: what each loader makes of them, and two epochs of each task."""

from __future__ import annotations

import gzip
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from published import WRITERS, darcy
from scipy.io import loadmat, wavfile

from orca_core.config.resolve import resolve_config
from orca_core.errors import DataError
from orca_core.proxies import PROXIES
from orca_core.scoring import LOSSES, SCORES
from orca_core.tasks import TASKS, TaskData, find_task
from orca_core.tasks.nb360 import NB360_TASKS, fsd50k
from orca_core.tasks.nb360.images import DEVIATION, MEAN, crop_and_flip
from orca_core.tasks.preparation import from_json

NAMES = [spec.name for spec in NB360_TASKS]
SIZES = {  # of train, validation, test; and of train with reference_data, where validation is the test part
    "nb360/cifar100": (32, 8, 20, 40),
    "nb360/spherical": (32, 8, 20, 40),
    "nb360/ninapro": (36, 18, 18, 54),
    "nb360/darcy": (9, 1, 4, 10),
    "nb360/psicov": (3, 1, 2, 4),
    "nb360/cosmic": (5, 1, 3, 6),
    "nb360/fsd50k": (4, 6, 10, 7),
    "nb360/ecg": (128, 4, 4, None),
    "nb360/satellite": (40, 5, 15, 45),
    "nb360/deepsea": (24, 8, 12, 32),
}
SHAPES = {
    "nb360/cifar100": ((3, 8, 8), (4,)),
    "nb360/spherical": ((3, 12, 12), (4,)),
    "nb360/ninapro": ((1, 6, 12), (6,)),
    "nb360/darcy": ((3, 9, 9), (1, 9, 9)),
    "nb360/psicov": ((57, 64, 64), (1, 64, 64)),
    "nb360/cosmic": ((1, 128, 128), (1, 128, 128)),
    "nb360/fsd50k": ((1, 96, 102), (5,)),
    "nb360/ecg": ((1, 1000), (4,)),
    "nb360/satellite": ((1, 46), (5,)),
    "nb360/deepsea": ((4, 100), (5,)),
}
BY_SEED = {"nb360/cifar100", "nb360/spherical", "nb360/psicov", "nb360/cosmic", "nb360/fsd50k", "nb360/ecg", "nb360/satellite"}
"""Tasks whose training rows depend on `split_seed`; the files of the others carry their split."""


def rows_of(data: TaskData) -> list[np.ndarray]:
    return [array for part in (data.train, data.valid, data.test) for array in (part.x, part.y)]


# Every task


@pytest.mark.parametrize("name", NAMES)
def test_a_task_gives_arrays_of_the_promised_form(data, name):
    spec, loaded = find_task(name), find_task(name).load(0)
    assert (loaded.input_shape, loaded.output_shape) == SHAPES[name]
    assert tuple(len(part) for part in (loaded.train, loaded.valid, loaded.test)) == SIZES[name][:3]
    assert len(loaded.input_shape) == spec.dims + 1
    assert (loaded.num_classes is not None) == (spec.kind == "classification")
    for part in (loaded.train, loaded.valid, loaded.test):
        assert len(part.x) == len(part.y)
        assert (part.x.dtype, part.y.dtype) == (np.float32, np.int64 if spec.kind == "classification" else np.float32)
        assert np.isfinite(part.x).all()
        assert loaded.inputs(torch.from_numpy(part.x[:2])).shape[1:] == loaded.input_shape
        assert torch.isfinite(loaded.inputs(torch.from_numpy(part.x[:2]))).all()


@pytest.mark.parametrize("name", NAMES)
def test_reference_data_validates_on_the_test_part_and_trains_on_the_rest(data, name):
    loaded = find_task(name).load(0, reference=True)
    assert np.array_equal(loaded.valid.x, loaded.test.x)
    assert np.array_equal(loaded.valid.y, loaded.test.y, equal_nan=True)
    assert len(loaded.train) == SIZES[name][3] or name == "nb360/ecg"
    assert (loaded.input_shape, loaded.output_shape) == SHAPES[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_split_seed_alone_decides(data, name):
    first, again, other = (rows_of(find_task(name).load(seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, again, strict=True))
    same = all(a.shape == b.shape and np.array_equal(a, b, equal_nan=True) for a, b in zip(first, other, strict=True))
    assert same == (name not in BY_SEED)


@pytest.mark.parametrize("name", NAMES)
def test_two_epochs_train_with_and_without_reference_data(data, two_epochs, name):
    knobs = {"align.epochs": 1, "align.objective": "mmd", "align.class_samples": 4, "align.proxy_samples": 50}
    for reference in (False, True):
        training = two_epochs(name, {**knobs, "reference_data": reference})
        assert training.has_moved
        assert (training.result.valid_error == training.result.test_error) == reference or not reference


@pytest.mark.parametrize("name", NAMES)
def test_recipes_fit_the_task(name):
    spec = TASKS[name]
    assert {spec.loss} <= set(LOSSES)
    assert {spec.score, spec.score_name(True)} <= set(SCORES)
    laptop, published = spec.recipes["laptop"], spec.recipes["published"]
    assert PROXIES[laptop["proxy"]].fits({1: "text", 2: "images"}[spec.dims])
    assert published["proxy"] == {1: "reference-text", 2: "cifar10"}[spec.dims]
    assert published["body"]["name"].startswith("hf:")
    assert published["align"]["lr"] == pytest.approx(10 * published["finetune"]["lr"])
    for recipe in (laptop, published):
        assert recipe["finetune"]["decay_epochs"] >= recipe["finetune"]["epochs"]
        resolve_config({"task": name, "body": "mini-swin", **{key: part for key, part in recipe.items() if key not in ("body", "proxy")}})


@pytest.mark.parametrize(
    ("name", "knob", "value"),
    [
        ("cifar100", "finetune.accum", 32),
        ("ninapro", "align.epochs", 100),
        ("darcy", "finetune.weight_decay", 5e-3),
        ("psicov", "finetune.lr", 5e-6),
        ("psicov", "align.class_samples", 64),
        ("ecg", "embedder.target_seq_len", 64),
        ("satellite", "finetune.weight_decay", 3e-6),
        ("deepsea", "finetune.decay_epochs", 25),
    ],
)
def test_published_recipes_are_the_reference_yamls(name, knob, value):
    section, key = knob.split(".")
    assert TASKS[f"nb360/{name}"].recipes["published"][section][key] == value


# CIFAR-100, Spherical


def test_cifar_pixels_are_normalised_by_colour(data):
    with (data / "cifar-100-python" / "test").open("rb") as file:
        pixels = pickle.load(file)["data"]
    x = find_task("nb360/cifar100").load().test.x
    assert x[3, 2, 1, 5] == pytest.approx((pixels[3, 2 * 64 + 8 + 5] / 255 - MEAN[2]) / DEVIATION[2], rel=1e-5)


def test_every_class_is_in_the_validation_part(data):
    for name in ("nb360/cifar100", "nb360/spherical"):
        assert np.bincount(find_task(name).load().valid.y).tolist() == [2, 2, 2, 2]


def test_a_crop_is_the_image_shifted_and_what_comes_in_is_black():
    image = torch.arange(1.0, 10.0).view(1, 1, 3, 3).expand(200, 1, 3, 3)
    crops = crop_and_flip(image, torch.Generator().manual_seed(0), pad=1, fill=(-7.0,))
    framed = torch.full((5, 5), -7.0)
    framed[1:4, 1:4] = image[0, 0]
    possible = [framed[r : r + 3, c : c + 3] for r in range(3) for c in range(3)]
    possible += [crop.flip(1) for crop in possible]
    seen = {next(i for i, crop in enumerate(possible) if torch.equal(crop, got[0])) for got in crops}
    assert seen == set(range(18))


def test_colours_stay_with_their_image():
    batch = torch.randn(5, 3, 4, 4)
    flipped = crop_and_flip(batch, torch.Generator().manual_seed(1), pad=0, fill=(0.0, 0.0, 0.0))
    for before, after in zip(batch, flipped, strict=True):
        assert torch.allclose(after, before, atol=1e-6) or torch.allclose(after, before.flip(2), atol=1e-6)


# NinaPro, Satellite, DeepSEA


def test_ninapro_has_channels_as_rows(data):
    raw = np.load(data / "ninaPro" / "ninapro_val.npy")
    assert (find_task("nb360/ninapro").load().valid.x[:, 0] == raw.transpose(0, 2, 1)).all()


def test_ninapro_may_be_saved_as_objects(root):
    WRITERS["nb360/ninapro"](root)
    before = find_task("nb360/ninapro").load().test
    for name in ("ninapro_test", "label_test"):
        array = np.load(root / "ninaPro" / f"{name}.npy")
        np.save(root / "ninaPro" / f"{name}.npy", array.astype(object))
    after = find_task("nb360/ninapro").load().test
    assert (after.x == before.x).all()
    assert (after.y == before.y).all()


def test_satellite_classes_begin_at_zero_and_values_are_as_published(data):
    raw = np.load(data / "satellite_test.npy", allow_pickle=True)[()]
    test = find_task("nb360/satellite").load().test
    assert test.y.tolist() == (raw["label"] - 1).tolist()
    assert (test.x[:, 0] == raw["data"].astype("float32")).all()


def test_deepsea_has_bases_as_channels(data):
    raw = np.load(data / "deepsea_filtered.npz")
    loaded = find_task("nb360/deepsea").load()
    assert (loaded.valid.x == raw["x_val"].transpose(0, 2, 1)).all()
    assert (loaded.valid.y == raw["y_val"]).all()


# ECG: the records of the fixture have 1100 + 7 i points, their classes go round N, A, O, ~


def test_ecg_windows_of_train_are_cut_by_class_and_those_of_test_at_one_stride(data):
    loaded = find_task("nb360/ecg").load(0)
    records = {label: [100 + 7 * i for i in range(40) if i % 4 == label] for label in range(4)}  # where windows may begin
    by_class = {label: [math.ceil(n / stride) for n in records[label]] for label, stride in enumerate((500, 83, 250, 25))}
    counts = np.bincount(loaded.train.y, minlength=4)
    held_out = np.bincount(loaded.valid.y, minlength=4) + np.bincount(loaded.test.y, minlength=4)
    assert len(loaded.valid) == len(loaded.test) == 4  # four records each, of which each gives one window
    assert held_out.tolist() == [2, 2, 2, 2]
    for label in range(4):
        assert sum(by_class[label]) - 2 * max(by_class[label]) <= counts[label] <= sum(by_class[label]) - 2 * min(by_class[label])


def test_ecg_reference_cuts_the_test_part_by_class_too(data):
    from sklearn.model_selection import train_test_split

    _, test = train_test_split(np.arange(40), test_size=0.1, random_state=0)
    expected = sum(math.ceil((100 + 7 * i) / (500, 83, 250, 25)[i % 4]) for i in test)
    assert len(find_task("nb360/ecg").load(0, reference=True).test) == expected


def test_ecg_records_are_scaled_each_by_itself(data):
    with (data / "challenge2017.pkl").open("rb") as file:
        records = pickle.load(file)["data"]
    scaled = [((record - record.mean()) / record.std())[:1000].astype("float32") for record in records]
    for window in find_task("nb360/ecg").load(0).test.x[:, 0]:
        assert any(np.allclose(window, start, atol=1e-5) for start in scaled)


# Darcy


@pytest.mark.parametrize("version", ["v5", "v7.3"])
def test_darcy_takes_every_fifth_point_and_scales_point_by_point(root, version):
    darcy(root, version)
    loaded = find_task("nb360/darcy").load()
    assert [len(part) for part in (loaded.train, loaded.valid, loaded.test)] == [9, 1, 4]
    darcy(root, "v5")
    raw = loadmat(root / "piececonst_r421_N1024_smooth1.mat")
    coefficient, pressure = (raw[key][:, ::5, ::5].astype("float64") for key in ("coeff", "sol"))
    expected = (coefficient[9] - coefficient[:9].mean(0)) / (coefficient[:9].std(0, ddof=1) + 1e-5)
    assert loaded.valid.x[0, 0] == pytest.approx(expected, abs=1e-4)
    assert loaded.decode(torch.from_numpy(loaded.valid.y)).numpy()[:, 0] == pytest.approx(pressure[9:], rel=1e-4)


def test_darcy_coordinates_run_along_columns_and_rows(data):
    x = find_task("nb360/darcy").load().train.x
    assert x[4, 1, 3].tolist() == x[4, 2, :, 3].tolist() == np.linspace(0, 1, 9, dtype="float32").tolist()


# PSICOV: the window is 64, proteins have 30 to 70 residues


def test_psicov_inputs_are_row_and_column_copies_and_maps(data):
    loaded = find_task("nb360/psicov").load()
    with (data / "protein/psicov/features/psicov0.pkl").open("rb") as file:
        raw = pickle.load(file)
    inputs = loaded.inputs(torch.from_numpy(loaded.test.x))[0].numpy()
    assert inputs[2, 5 + 3, 5 + 7] == raw["ss"][1, 7]  # channel 2k: of the column's residue
    assert inputs[3, 5 + 3, 5 + 7] == raw["ss"][1, 3]  # channel 2k + 1: of the row's
    assert inputs[6 + 2 * 21 + 1, 5, 5 + 31] == raw["pssm"][0, 21]
    assert inputs[50, 5, 5 + 9] == raw["sa"][9]
    assert inputs[52, 5, 5 + 9] == raw["entropy"][9]
    assert inputs[56, 5 + 3, 5 + 7] == raw["potential"][3, 7]
    assert (inputs[:, :5] == 0).all()
    assert (inputs[:, :, 5 + 32 :] == 0).all()


def test_psicov_targets_are_distances_inside_the_protein_and_nan_outside(data):
    loaded = find_task("nb360/psicov").load()
    raw = np.load(data / "protein/psicov/distance/psicov0-cb.npy", allow_pickle=True)[2]
    y = loaded.test.y[0, 0]
    assert np.isnan(y[:5]).all()
    assert np.isnan(y[:, 37:]).all()
    assert y[5 + 3, 5 + 9] == pytest.approx(max(1.0, raw[3, 9]))
    floored = np.maximum(raw, 1.0)
    assert y[5 + 3, 5 + 3] == pytest.approx((floored[3, 2] + floored[3, 4]) / 2)
    assert y[5, 5] == pytest.approx(floored[0, 1])
    assert np.nanmax(loaded.train.y) == 16.0
    assert np.nanmax(loaded.test.y) > 16.0


def test_psicov_targets_stay_on_the_disk(data):
    """In memory they would take 4 GB at published size; a division into parts has files of its own."""
    loaded, again, other = (find_task("nb360/psicov").load(seed) for seed in (0, 0, 1))
    files = [[part.y.base.filename for part in (one.train, one.valid, one.test)] for one in (loaded, again, other)]
    assert files[0] == files[1]
    assert set(files[0]).isdisjoint(files[2])
    assert not np.array_equal(other.train.x, loaded.train.x)


def test_psicov_of_a_long_protein_sees_a_part_on_the_diagonal(data):
    part = next(part for part in (find_task("nb360/psicov").load().train, find_task("nb360/psicov").load().valid) if 3 in part.x)
    y = part.y[part.x[:, 0] == 3][0, 0]
    assert np.isfinite(y).sum() >= 59**2  # 64 less the padding at one end
    assert (np.isnan(y) == np.isnan(y).T).all()
    assert np.allclose(y, y.T, equal_nan=True)


def test_psicov_reference_scores_every_protein_for_as_long_as_the_first(data):
    loaded = find_task("nb360/psicov").load(0, reference=True)
    assert np.isnan(loaded.test.y[:, 0, 5 + 32 :]).all()  # the first has 32 residues
    assert (loaded.test.y[1, 0, 5 + 30 : 5 + 32, :37] == 100).all()  # padding behind the second, which has 30
    assert loaded.train.y.max() == 16.0


# Cosmic: odd images stand beside a sky.npy, whose entry k is k; the second has no plane of pixels to ignore


def test_cosmic_images_get_a_share_of_the_sky_and_lose_what_is_ignored(data):
    test = find_task("nb360/cosmic").load().test
    raw = [np.load(data / f"cosmic/npy_test/f435w/1000/{place}_j8x.npy") for place in ("with_sky/1", "without/2", "with_sky/3")]
    crops = [planes[:, 64:192, 64:192] for planes in raw]
    assert (test.x[1, 0] == crops[1][0]).all()
    for number, sky in ((0, 1.0), (2, 3.0)):
        added = test.x[number, 0] - crops[number][0]
        assert np.ptp(added) < 1e-4
        assert -0.9 * sky <= added.mean() <= 3 * sky
        assert (np.isnan(test.y[number, 0]) == (crops[number][2] != 0)).all()
    assert not np.isnan(test.y[1]).any()
    assert (test.y[1, 0] == crops[1][1]).all()


def test_cosmic_has_another_score_with_reference_data():
    assert TASKS["nb360/cosmic"].score_name(False) == "1-position-auroc"
    assert TASKS["nb360/cosmic"].score_name(True) == "1-position-auroc-of-signs"


# FSD50K: four, three and five clips of two chunks each


def test_fsd50k_trains_on_a_chunk_of_each_clip_and_evaluates_on_all(data):
    loaded = find_task("nb360/fsd50k").load()
    assert loaded.train.group is None
    assert loaded.test.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert loaded.test.y[4].tolist() == [0, 0, 1, 1, 0]  # clip 2: Rain, Speech


def test_fsd50k_spectrograms_are_those_of_a_centred_short_time_transform(data):
    from transformers.audio_utils import mel_filter_bank

    _, samples = wavfile.read(data / "chunks/val/1_0.wav")
    sound = torch.from_numpy(samples / 2**15)
    window = torch.hann_window(661, dtype=torch.float64)
    transform = torch.stft(sound, 1920, 220, 661, window, center=True, pad_mode="reflect", return_complex=True)
    filters = torch.from_numpy(mel_filter_bank(961, 96, 0.0, 11025.0, 22050, norm=None, mel_scale="htk"))
    decibels = 10 * (filters.T @ transform.abs().square()).clamp(min=1e-10).log10() + 75
    got = torch.from_numpy(find_task("nb360/fsd50k").load().valid.x[2, 0])
    assert torch.allclose(got[:, :101].double(), decibels - decibels.mean(), atol=0.01)
    assert (got[:, 101] == 0).all()


def test_fsd50k_spectrograms_are_to_the_bit_those_of_one_frame_after_the_other():
    from transformers.audio_utils import mel_filter_bank, power_to_db, spectrogram, window_function

    sound = np.random.default_rng(0).integers(-9000, 9000, 22050) / 2**15
    filters = mel_filter_bank(961, 96, 0.0, 11025.0, 22050, norm=None, mel_scale="htk")
    window = window_function(661, "hann", frame_length=1920)
    decibels = power_to_db(spectrogram(sound, window, 1920, 220, fft_length=1920, power=2.0, mel_filters=filters)) + 75
    got = fsd50k.make_mel_spectrogram()(sound)
    assert np.array_equal(got[:, :101], (decibels - decibels.mean()).astype("float32"))


def test_fsd50k_sounds_shorter_than_a_second_are_repeated(data):
    _, samples = wavfile.read(data / "chunks/tr/0_0.wav")
    sound = fsd50k._read_sound(data / "chunks/tr/0_0.wav")
    assert len(sound) == 22050
    assert (sound[9000:18000] * 2**15 == samples).all()


def test_masks_and_background_are_drawn_by_the_generator_alone():
    noise = np.full((1, 1, 20, 30), 10.0, dtype=np.float32)
    batch = torch.ones(400, 1, 20, 30)
    first, again = (fsd50k.MaskAndMix(noise)(batch, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert (batch == 1).all()
    mixed = first.flatten(1).max(1).values  # 1 + 9 a share of at most a half
    assert (mixed > 1).double().mean().item() == pytest.approx(0.75, abs=0.07)
    assert mixed.max() <= 5.5
    hidden = (first == 0).double()
    assert (hidden.flatten(1).sum(1) > 0).double().mean().item() == pytest.approx(0.5, abs=0.1)
    bands = (hidden[:, 0].mean(2) == 1).sum(1)  # two masks of at most 3 of 20 bands
    assert bands.max() <= 6


@pytest.mark.parametrize("numbers", [{"a": 0, "b": 2}, {"a": 0, "b": "1"}, {"a": 0, "b": None}, {"a": [0]}, {}, [0]])
def test_a_label_map_must_number_labels_from_zero(tmp_path, numbers):
    (tmp_path / "map.json").write_text(json.dumps(numbers))
    with pytest.raises(DataError, match=r"map\.json: must map labels to the numbers 0, 1 and so on, but got"):
        fsd50k._read_label_numbers(tmp_path / "map.json")


def test_a_cut_row_of_a_table_of_sounds_is_told_and_a_byte_order_mark_is_none_of_its_columns(tmp_path):
    table = tmp_path / "tr.csv"
    table.write_bytes(b'\xef\xbb\xbffiles,labels,ext\r\ndata/a.wav,"Bark,Rain",7\r\n')
    assert [(names, clip) for _, names, clip in fsd50k._read_rows(table)] == [(["Bark", "Rain"], "7")]
    table.write_text('files,labels,ext\ndata/a.wav,Bark,7\ndata/b.wav,"Bark,Ra')
    with pytest.raises(DataError, match=r"tr\.csv: row 2: must have an entry for each column, but got .*Is the file truncated\?"):
        fsd50k._read_rows(table)


def test_every_published_task_has_a_writer_here():
    published = {name for name, spec in TASKS.items() if spec.expects}
    assert set(WRITERS) == {name for name in published if not name.startswith("openml/") or name in ("openml/31", "openml/1464")}


# --------------------------------------------------------------------------------------------------------- raw samples of a model in use


def raw_test_part(name: str, root: Path) -> np.ndarray:
    """The samples of a task's test part as its files have them."""
    if name == "nb360/cifar100":
        return pickle.loads((root / "cifar-100-python" / "test").read_bytes())["data"].reshape(-1, 3, 8, 8)
    if name == "nb360/spherical":
        return pickle.loads(gzip.decompress((root / "s2_cifar100.gz").read_bytes()))["test"]["images"]
    if name == "nb360/ninapro":
        return np.load(root / "ninaPro" / "ninapro_test.npy")
    if name == "nb360/darcy":
        return loadmat(root / "piececonst_r421_N1024_smooth2.mat")["coeff"][:, ::5, ::5]
    return np.load(root / "deepsea_filtered.npz")["x_test"]


@pytest.mark.parametrize("name", ["nb360/cifar100", "nb360/spherical", "nb360/ninapro", "nb360/darcy", "nb360/deepsea"])
def test_raw_samples_become_the_rows_that_training_had(name, data):
    loaded = find_task(name).load(0)
    preparation = from_json(json.loads(json.dumps(loaded.preparation.to_json())))
    assert np.array_equal(preparation.inputs.encode(raw_test_part(name, data)), loaded.test.x)
    if loaded.decode is not None:
        outputs = torch.from_numpy(loaded.test.y)
        assert np.array_equal(preparation.answers.decode(outputs), loaded.decode(outputs).numpy())


def test_labels_and_classes_have_their_published_names(data):
    names = {name: find_task(name).load(0).preparation.answers.names for name in ("nb360/ecg", "nb360/satellite", "nb360/fsd50k")}
    assert names["nb360/ecg"] == ("N", "A", "O", "~")
    assert names["nb360/satellite"] == (1, 2, 3, 4, 5)
    numbers = json.loads((data / "chunks" / "lbl_map.json").read_text())
    assert [numbers[name] for name in names["nb360/fsd50k"]] == list(range(len(numbers)))
