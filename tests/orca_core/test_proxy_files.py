"""Proxies from files: what is read, whose features they become, the controls, and what is refused."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from proxy_writers import NEWS, write_cifar10, write_cifar100, write_conll, write_pictures

from orca_core.alignment.source import describe_features, source_features
from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, DataError
from orca_core.pipeline import run_trial
from orca_core.proxies import PROXIES, find_proxy
from orca_core.proxies.texts import to_iob2
from orca_core.rows import EpochRow, Row
from orca_core.stages import stages_of
from orca_core.tasks import find_task


@pytest.fixture
def root(tmp_path, use_data) -> Path:
    use_data(tmp_path)
    return tmp_path


def features_of(name: str, body: str, samples: int = 5000, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    loaded = random_body(find_body(body), seed=0)
    return source_features(find_proxy(name), loaded, samples=samples, seed=seed, device=torch.device("cpu"))


# Images


def test_cifar10_pixels_are_embedded_as_shares_of_255(root):
    pixels = write_cifar10(root)
    data = find_proxy("cifar10").load()
    assert (data.inputs == pixels).all()
    assert data.labels.tolist() == [0, 1, 2, 3] * 25
    features, labels = features_of("cifar10", "mini-swin")
    embedding = random_body(find_body("mini-swin"), seed=0).embedding
    with torch.no_grad():
        expected = embedding(torch.from_numpy(pixels).float() / 255)
    assert torch.allclose(features, expected, atol=1e-6)
    assert labels.tolist() == data.labels.tolist()


def test_cifar100_takes_fine_labels(root):
    write_cifar100(root)
    assert find_proxy("cifar100").load().labels.tolist() == [0, 2, 1, 2, 0, 1]


def test_tiny_imagenet_has_folders_with_images(root):
    write_pictures(root / "tiny-imagenet-200" / "train", below="images", suffix="JPEG")
    data = find_proxy("tiny-imagenet").load()
    assert data.inputs.shape == (12, 3, 64, 64)
    assert (data.label_names, data.labels.tolist()) == (("n01", "n02"), [0] * 6 + [1] * 6)


def test_pictures_of_a_folder_are_a_proxy(tmp_path):
    folder = write_pictures(tmp_path / "mine")
    data = find_proxy(f"images:{folder}?size=16").load()
    assert data.inputs.shape == (12, 3, 16, 16)
    assert data.labels.tolist() == [0] * 6 + [1] * 6
    moved = folder.rename(tmp_path / "other")
    write_pictures(tmp_path / "mine")
    assert find_proxy(f"images:{folder}").digest() == find_proxy(f"images:{moved}").digest()  # paths do not count
    assert find_proxy(f"images:{folder}").digest() != find_proxy(f"images:{folder}?size=16").digest()


def test_a_task_of_images_is_a_proxy(root):
    data, task = find_proxy("task:digits").load(), find_task("digits").load()
    assert data.inputs.shape == (len(task.train), 3, 8, 8)
    assert (data.inputs[:, 0] == data.inputs[:, 2]).all()
    assert data.inputs[5, 0] == pytest.approx(task.train.x[5, 0] / task.train.x.max(), abs=1e-6)
    assert (data.labels == task.train.y).all()
    for name in ("mnist1d", "darcy-mini"):
        with pytest.raises(ConfigError, match="must be task:NAME of a 2D classification"):
            find_proxy(f"task:{name}")


# Texts


def test_iob1_becomes_iob2():
    tagged = [("a", "I-LOC"), ("b", "B-LOC"), ("c", "I-LOC"), ("d", "I-PER"), ("e", "O")]
    assert [tag for _, tag in to_iob2(tagged)] == ["B-LOC", "B-LOC", "I-LOC", "B-PER", "O"]


def test_conll_words_are_samples_in_their_sentence(root):
    write_conll(root)
    data = find_proxy("conll2003").load()
    words = [data.inputs[i][slice(*data.spans[i])] for i in range(len(data))]
    assert words == ["EU", "rejects", "German", "call", "New", "York", "Paris", "and", "Blackburn"]
    tags = [data.label_names[label] for label in data.labels]
    assert tags == ["B-ORG", "O", "B-MISC", "O", "B-LOC", "I-LOC", "B-LOC", "O", "B-PER"]
    assert data.inputs[5] == "New York Paris and Blackburn"


def test_a_sentence_has_the_kind_that_it_has_most_of(root):
    write_conll(root, NEWS + "\nnothing NN O O\n")
    data = find_proxy("conll2003-sentences").load()
    assert [data.label_names[label] for label in data.labels] == ["MISC", "LOC", "O"]  # MISC before ORG
    assert data.inputs[0] == "EU rejects German call"


def test_the_feature_of_a_word_is_its_own_token_at_its_place(root):
    write_conll(root)
    features, _ = features_of("conll2003", "mini-roberta")
    loaded = random_body(find_body("mini-roberta"), seed=0)
    ids = loaded.tokenizer()(["New York Paris and Blackburn"], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        tokens = loaded.embedding.embeddings(input_ids=ids)[0]
    special = ids.shape[1] - 5  # whatever the tokenizer puts in front
    assert torch.allclose(features[4:9], tokens[special:] if special else tokens, atol=1e-6)


def test_a_word_beyond_what_the_body_reads_is_read_from_itself_on(root):
    write_conll(root, "".join(f"word{i} O\n" for i in range(400)) + "class I-ORG\n")
    features, labels = features_of("conll2003", "mini-roberta")
    loaded = random_body(find_body("mini-roberta"), seed=0)
    with torch.no_grad():
        ids = loaded.tokenizer()(["class"], return_tensors="pt")["input_ids"]
        expected = loaded.embedding.embeddings(input_ids=ids)[0, -1]
    assert torch.allclose(features[-1], expected, atol=1e-6)
    assert labels[-1] == 0


def test_texts_of_every_format_are_the_same(tmp_path):
    rows = [("one fish", "a"), ("two, fish", "b"), ("red fish", "a")]
    (tmp_path / "t.csv").write_text("label,text\n" + "".join(f'{label},"{text}"\n' for text, label in rows))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    for number, (text, label) in enumerate(rows):
        (tmp_path / "folder" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / label / f"{number}.txt").write_text(f"{text}\n")
    table, lines, folder = (find_proxy(f"text:{tmp_path / name}").load() for name in ("t.csv", "t.jsonl", "folder"))
    assert table.inputs == lines.inputs == [text for text, _ in rows]
    assert table.labels.tolist() == lines.labels.tolist() == [0, 1, 0]
    assert (folder.inputs, folder.labels.tolist()) == (["one fish", "red fish", "two, fish"], [0, 0, 1])
    (tmp_path / "t.conll").write_text(NEWS)
    assert len(find_proxy(f"text:{tmp_path / 't.conll'}").load()) == 9


def test_json_lines_may_have_the_other_names_of_their_columns(tmp_path):
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"sentence": text, "target": i % 2}) + "\n" for i, text in enumerate("abc")))
    proxy = find_proxy(f"text:{tmp_path / 't.jsonl'}").load()
    assert (proxy.inputs, proxy.label_names, proxy.labels.tolist()) == (["a", "b", "c"], ("0", "1"), [0, 1, 0])


def test_texts_that_look_like_numbers_or_missing_entries_stay_as_they_are(tmp_path):
    for texts in (["NA", "None"], ["5%", "6%"], ["2024-01-31", "2024-02-01"], ["1", "N/A"], [f"{'x' * 140_000}", "y"]):
        (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"{text},{text[:3]}\n" for text in texts))
        proxy = find_proxy(f"text:{tmp_path / 't.csv'}").load()
        assert list(proxy.inputs) == texts
        assert proxy.label_names == tuple(sorted({text[:3] for text in texts}))


def test_long_numbers_are_labels_of_their_own(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\na,1234567\nb,1234568\nc,1234567.0\n")
    proxy = find_proxy(f"text:{tmp_path / 't.csv'}").load()
    assert (proxy.labels.tolist(), proxy.label_names) == ([0, 1, 0], ("1234567", "1234568"))


def test_json_lines_may_begin_with_a_byte_order_mark_and_hold_any_separator(tmp_path):
    rows = [{"text": "one\u2028line", "label": "a"}, {"text": "two\x85lines", "label": "b"}]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "t.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert find_proxy(f"text:{tmp_path / 't.jsonl'}").load().inputs == [row["text"] for row in rows]


def test_words_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "t.conll").write_bytes(b"\xef\xbb\xbf" + NEWS.partition("\n\n")[2].replace("\n", "\r\n").encode())
    assert find_proxy(f"text:{tmp_path / 't.conll'}").load().inputs[0] == "EU rejects German call"


def test_all_broken_pictures_of_a_folder_are_told_but_not_endlessly(tmp_path):
    for number in range(30):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "ab"[number % 2] / f"{number:02}.png")
    spoilt = [tmp_path / "a/02.png", tmp_path / "b/17.png"]
    for place in spoilt:
        place.write_bytes(b"x")
    for find, name in ((find_proxy, "images:"), (find_task, "images:")):
        with pytest.raises(DataError) as error:
            find(f"{name}{tmp_path}?size=8").load()
        assert [line.partition(": must be a picture")[0] for line in str(error.value).splitlines()] == [str(place) for place in spoilt]
    for place in tmp_path.glob("a/*.png"):
        place.write_bytes(b"x")
    with pytest.raises(DataError) as error:
        find_proxy(f"images:{tmp_path}?size=8").load()
    assert len(str(error.value).splitlines()) == 10


def test_a_size_that_is_none_is_a_fault_of_the_proxy():
    with pytest.raises(ConfigError, match=r"^proxy: must end in \?size=N"):
        find_proxy("images:mine?size=x")


# Features


def test_features_are_taken_as_they_are_by_a_body_of_their_width(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4, 64)).astype("float32")
    np.savez(tmp_path / "f.npz", x=x, y=np.arange(30) % 3 + 5)
    features, labels = features_of(f"npz:{tmp_path / 'f.npz'}", "mini-roberta")
    assert features.numpy() == pytest.approx(x.mean(1), abs=1e-6)
    assert labels.tolist() == [i % 3 for i in range(30)]
    with pytest.raises(ConfigError, match=r"must be as wide as the tokens of mini-swin, 32, but got .*It holds features of width 64"):
        resolve_config({"task": "digits", "body": "mini-swin", "proxy": f"npz:{tmp_path / 'f.npz'}"})


def test_a_path_of_features_starts_from_the_working_folder_as_other_paths_do(tmp_path, use_data, monkeypatch):
    use_data(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    np.savez("f.npz", x=np.eye(6, 64, dtype="float32"), y=np.arange(6) % 2)
    assert find_proxy("npz:f.npz").load().labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_the_reference_features_need_a_body_of_their_width(root):
    np.save(root / "text_xs.npy", np.ones((6, 3, 64), "float32") * np.arange(6)[:, None, None])
    np.save(root / "text_ys.npy", np.array([0, 1, 2, 0, 1, 2]))
    features, labels = features_of("reference-text", "mini-roberta")
    assert features[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]
    np.save(root / "text_xs.npy", np.ones((6, 3, 65), "float32"))
    with pytest.raises(ConfigError, match="must be as wide as the tokens of mini-roberta, 64"):
        resolve_config({"task": "mnist1d", "proxy": "reference-text"})


def test_widths_known_beforehand_are_those_of_the_modules():
    for name in ("mini-roberta", "mini-swin"):
        assert find_body(name).width == random_body(find_body(name), seed=0).body.geometry.width


# Controls


def test_shuffled_permutes_labels_and_nothing_else():
    (features, labels), (same, shuffled) = features_of("photos", "mini-swin"), features_of("photos+shuffled", "mini-swin")
    assert torch.equal(features, same)
    assert not torch.equal(labels, shuffled)
    assert labels.bincount().tolist() == shuffled.bincount().tolist()
    assert not torch.equal(shuffled, features_of("photos+shuffled", "mini-swin", seed=1)[1])


def test_k_takes_so_many_samples_and_a_larger_number_has_the_smaller_ones():
    few, more = features_of("photos+k:20", "mini-swin")[0], features_of("photos+shuffled+k:50", "mini-swin")[0]
    assert (len(few), len(more)) == (20, 50)
    assert {tuple(row.tolist()) for row in few} <= {tuple(row.tolist()) for row in more}
    assert len(features_of("noise+k:30", "mini-swin")[0]) == 30


def test_controls_have_stages_of_their_own():
    base = {"task": "digits", "align.epochs": 1}
    keys = {
        name: [s.key for s in stages_of(resolve_config(base | {"proxy": name}))] for name in ("photos", "photos+shuffled", "photos+k:9")
    }
    assert len({tuple(of) for of in keys.values()}) == 3
    for wrong in ("photos+k:1", "photos+k:x", "photos+k:²", "photos+mixed", "photo+shuffled"):
        with pytest.raises(ConfigError):
            find_proxy(wrong)


# Trials, descriptions, faults


@pytest.mark.parametrize(("task", "proxy"), [("openml/187", "conll2003"), ("digits", "cifar10"), ("digits", "cifar10+shuffled+k:40")])
def test_a_trial_aligns_to_the_proxy(root, warm_store, quick, task, proxy):
    write_cifar10(root)
    write_conll(root, NEWS * 20)
    rows: list[Row] = []
    knobs = {"proxy": proxy, "align.epochs": 2, "align.class_samples": 8, "train_samples": 60, "finetune.epochs": 2}
    run_trial(quick(task, knobs), warm_store, rows.append)
    distances = [row.distance for row in rows if isinstance(row, EpochRow) and row.stage == "align"]
    assert len(distances) == 2
    assert all(np.isfinite(distances))


def test_features_are_described_without_pretraining(root):
    write_conll(root)
    write_cifar10(root)
    assert describe_features(find_proxy("conll2003"), find_body("mini-roberta")) == (9, 6, 64, 1.0)
    assert describe_features(find_proxy("cifar10+k:30"), find_body("mini-swin")) == (30, 4, 32, 64.0)
    found = describe_features(find_proxy("conll2003-sentences"), find_body("mini-roberta"))
    assert (found.samples, found.classes) == (2, 2)
    assert found.tokens >= 4.5  # four and five words


@pytest.mark.parametrize("name", [name for name, spec in PROXIES.items() if spec.expects])
def test_a_proxy_without_its_files_names_them(root, name):
    spec = find_proxy(name)
    for use in (spec.digest, spec.load, spec.check_files):
        with pytest.raises(DataError) as error:
            use()
        lines = str(error.value).splitlines()
        assert [line.partition(": must be an existing ")[0] for line in lines] == [str(file.find()) for file in spec.expects]


BROKEN = {
    "word alone": ("conll2003", lambda root: write_conll(root, "EU\n"), r"eng\.train: line 1: must have a word and its tag, but got 'EU'"),
    "another width": (
        "conll2003",
        lambda root: write_conll(root, NEWS.replace("call NN I-NP O", "call NN I-NP O B-PP").replace("and CC O O", "and CC O")),
        r"eng\.train: line 6: must have 4 columns like the first line, but got 'call NN I-NP O B-PP'\.\n"
        r".*eng\.train: line 11: must have 4 columns",
    ),
    "bytes": (
        "conll2003",
        lambda root: write_conll(root).write_bytes(NEWS.encode() + b"\ncaf\xe9 NN I-NP O\n"),
        r"eng\.train: line 14: must be UTF-8, but has the byte 0xe9\. Convert it: iconv",
    ),
    "pixels": (
        "cifar10",
        lambda root: (
            write_cifar10(root),
            (root / "cifar-10-batches-py/data_batch_1").write_bytes(pickle.dumps({"data": np.full((4, 192), 300), "labels": [0] * 4})),
        ),
        r"data_batch_1: data: must be pixels from 0 to 255, but got \(300\.0, 300\.0\)",
    ),
    "class": (
        "cifar10",
        lambda root: (
            write_cifar10(root),
            (root / "cifar-10-batches-py/data_batch_1").write_bytes(pickle.dumps({"data": np.ones((1, 192), "u1"), "labels": [10**12]})),
        ),
        r"data_batch_1: labels: must be whole numbers from 0 to 9, as published, but got \[1000000000000\]",
    ),
    "no sentence": ("conll2003", lambda root: write_conll(root, "\n\n"), r"eng\.train: must have sentences"),
    "empty": ("conll2003", lambda root: write_conll(root, ""), r"eng\.train: .*it is empty"),
    "code": (
        "cifar10",
        lambda root: (write_cifar10(root), (root / "cifar-10-batches-py/data_batch_3").write_bytes(pickle.dumps(eval))),
        r"data_batch_3: names builtins\.eval, which is refused",
    ),
    "squares": (
        "cifar10",
        lambda root: (
            write_cifar10(root),
            (root / "cifar-10-batches-py/data_batch_1").write_bytes(pickle.dumps({"data": np.zeros((4, 50), "uint8"), "labels": [0] * 4})),
        ),
        r"data_batch_1: data: must have rows of three square images",
    ),
    "no classes": (
        "tiny-imagenet",
        lambda root: (root / "tiny-imagenet-200/train").mkdir(parents=True),
        r"must have at least two folders <class>/images/",
    ),
    "rows": (
        "reference-text",
        lambda root: (np.save(root / "text_xs.npy", np.ones((4, 2, 8), "f")), np.save(root / "text_ys.npy", np.zeros(3, "i8"))),
        r"text_ys\.npy: must have the 4 rows of text_xs\.npy",
    ),
}


def test_a_table_with_tabs_and_a_header_is_read_as_one(tmp_path):
    """Not as words with their tags, of which one would be label."""
    (tmp_path / "t.tsv").write_text('\ufefflabel\tid\ttext\npos\t1\tA "quoted word\nneg\t2\tAnother one\n\n', encoding="utf-8")
    data = find_proxy(f"text:{tmp_path / 't.tsv'}").load()
    assert (data.inputs, data.label_names, data.labels.tolist()) == (['A "quoted word', "Another one"], ("neg", "pos"), [1, 0])
    headed = find_proxy(f"text:{tmp_path / 't.tsv'}").digest()
    (tmp_path / "t.tsv").write_text("EU\tB-ORG\nrejects\tO\n")
    words = find_proxy(f"text:{tmp_path / 't.tsv'}")
    assert words.load().inputs == ["EU rejects"] * 2
    assert words._label(has_content=True) == "proxy text .tsv orca_core.proxies.own:load_text 2"  # as before
    assert words.digest() != headed


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told(root, case):
    name, spoil, message = BROKEN[case]
    spoil(root)
    with pytest.raises(DataError, match=message):
        find_proxy(name).load()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", None, "must be an existing file or folder with texts"),
        ("t.csv", "text,label\n,b\n", "text: must have no missing entries, but got 1"),
        ("t.csv", "label\nb\n", "must have a column of texts and one of labels"),
        ("t.tsv", "text\tlabel\na b\tx\nc\n", "line 3: must have 2 columns, separated by tabs"),
        ("t.jsonl", '{"text": ' + "[" * 100000 + "\n", r"line 1: must be a mapping with text and label \(it is nested too deeply"),
        ("t.jsonl", '{"text": "a"}\n', r"line 1: must be a mapping with text and label \('label' is missing\)"),
        ("t.jsonl", "x\n", "line 1: must be a mapping with text and label"),
        ("t.jsonl", '{"text": null, "label": 1}\n', r"line 1: must be a mapping with text and label \(one of them is null\)"),
        ("t.jsonl", '{"text": "a"}\n\n["a", "b"]\n', "line 1: .*\n.*line 3: must be a mapping with text and label"),
    ],
)
def test_texts_that_do_not_serve_are_told(tmp_path, name, text, message):
    place = tmp_path / name
    if text is not None:
        place.write_text(text)
    with pytest.raises(DataError, match=rf"^{re.escape(str(place))}: {message}"):
        find_proxy(f"text:{place}").load()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((4, 8), "f")}, "y: must be in the file"),
        ({"x": np.ones(4, "f"), "y": np.arange(4)}, r"x: must be \(n, tokens, d\) float with n = 4, but got \(4,\)"),
        ({"x": np.ones((4, 8), "f"), "y": np.arange(5)}, r"y: must be \(n,\) labels, whole numbers with n = 4"),
    ],
)
def test_features_that_do_not_serve_are_told(tmp_path, arrays, message):
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(DataError, match=message):
        find_proxy(f"npz:{tmp_path / 'f.npz'}")
