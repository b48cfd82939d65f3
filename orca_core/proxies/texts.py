"""Labelled texts out of files: columns of CoNLL, CSV, JSON lines, a folder for each label."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from orca_core.datafiles.expected import refuse
from orca_core.errors import DataError, Fault
from orca_core.proxies.spec import ProxyData

MOST_TOLD = 10
"""So many wrong lines of a file are told."""

Sentence = list[tuple[str, str]]
"""Words with their tags."""


def read_conll(place: Path) -> list[Sentence]:
    """The sentences of a file with a word a line: the word first, its tag last, sentences apart by an empty line.

    Tags of the form IOB1 become IOB2, in which every entity begins with B; others stay as they are. -DOCSTART- lines are left out.

    Raises:
        DataError: If a line has no tag, or there is no sentence.
    """
    sentences: list[Sentence] = [[]]
    for number, line in enumerate(place.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        columns = line.split()
        if not columns or columns[0] == "-DOCSTART-":
            sentences.append([])
        elif len(columns) < 2:
            refuse([Fault(f"line {number}", "must have a word and its tag", line, "Columns are separated by blanks.").text(str(place))])
        else:
            sentences[-1].append((columns[0], columns[-1]))
    sentences = [sentence for sentence in sentences if sentence]
    if not sentences:
        raise DataError(f"{place}: must have sentences, but has none.")
    if all(re.fullmatch(r"O|[BI]-.+", tag) for sentence in sentences for _, tag in sentence):
        sentences = [iob2(sentence) for sentence in sentences]
    return sentences


def iob2(sentence: Sentence) -> Sentence:
    """The tags I-X that begin an entity as B-X.

    >>> iob2([("EU", "I-ORG"), ("in", "O"), ("New", "I-LOC"), ("York", "I-LOC")])
    [('EU', 'B-ORG'), ('in', 'O'), ('New', 'B-LOC'), ('York', 'I-LOC')]
    """
    tagged, before = [], "O"
    for word, tag in sentence:
        begins = tag.startswith("I-") and tag[2:] != before[2:]
        tagged.append((word, f"B-{tag[2:]}" if begins else tag))
        before = tag
    return tagged


def tokens_of(sentences: list[Sentence]) -> ProxyData:
    """A sample for each word, with its tag, in the context of its sentence."""
    texts, spans, tags = [], [], []
    for sentence in sentences:
        text, at = " ".join(word for word, _ in sentence), 0
        for word, tag in sentence:
            texts.append(text)
            spans.append((at, at + len(word)))
            tags.append(tag)
            at += len(word) + 1
    return labelled(texts, tags, spans)


def sentences_of(sentences: list[Sentence]) -> ProxyData:
    """A sample for each sentence, with the kind of entity that it has most of, the first in the alphabet of equals; else O."""
    texts = [" ".join(word for word, _ in sentence) for sentence in sentences]
    return labelled(texts, [_main_kind(sentence) for sentence in sentences])


def _main_kind(sentence: Sentence) -> str:
    counts = Counter(tag[2:] for _, tag in sentence if tag.startswith("B-"))
    return min(counts, key=lambda kind: (-counts[kind], kind)) if counts else "O"


def labelled(texts: list[str], names: list[str], spans: list[tuple[int, int]] | None = None) -> ProxyData:
    """Texts and the names of their labels; ids in the order of the names."""
    import numpy as np

    known, ids = np.unique(np.array(names), return_inverse=True)
    return ProxyData(texts, ids.astype(np.int64), tuple(map(str, known)), spans)


def read_csv(place: Path) -> ProxyData:
    """A table with a header: texts are the column `text` or `sentence`, else the first; labels `label` or `target`, else the last."""
    from orca_core.tasks.tables import read_table, split_target

    rest, label = split_target(read_table(place), ("label", "target"))
    if not rest:
        refuse([Fault("", "must have a column of texts and one of labels", [label.name]).text(str(place))])
    named = [column for name in ("text", "sentence") for column in rest if column.name.lower() == name]
    text = named[0] if named else rest[0]
    for column in (text, label):
        if column.missing.any():
            refuse([Fault(column.name, "must have no missing entry", int(column.missing.sum())).text(str(place))])
    names = [str(value) if label.is_text else f"{value:.15g}" for value in label.values.tolist()]
    return labelled([str(value) for value in text.values.tolist()], names)


def read_jsonl(place: Path) -> ProxyData:
    """JSON lines, each a mapping with `text` and `label`, neither of them null."""
    texts, names, wrong = [], [], []
    # Not splitlines(): a text may hold other line separators of Unicode as they are.
    for number, line in enumerate(place.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text, name = row["text"], row["label"]
            if text is None or name is None:
                raise ValueError("null")
            texts.append(str(text))
            names.append(str(name))
        except (ValueError, KeyError, TypeError) as error:
            rule = f"must be a mapping with text and label ({type(error).__name__}: {error})"
            wrong.append(Fault(f"line {number}", rule, line).text(str(place)))
    refuse(wrong[:MOST_TOLD])
    if not texts:
        raise DataError(f"{place}: must have texts, but has none.")
    return labelled(texts, names)


def text_files(folder: Path) -> tuple[Path, ...]:
    """The .txt files in the folders of a folder, in the order of their names."""
    return tuple(sorted(place for place in folder.glob("*/*.txt") if not place.parent.name.startswith(".")))


def read_folder(folder: Path) -> ProxyData:
    """A folder for each label, with .txt files, each a text."""
    places = text_files(folder)
    texts = [" ".join(place.read_text(encoding="utf-8", errors="replace").split()) for place in places]
    return labelled(texts, [place.parent.name for place in places])
