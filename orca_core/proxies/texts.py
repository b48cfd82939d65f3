"""Labelled texts out of files: columns of CoNLL, CSV, JSON lines, a folder for each label."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from orca_core.datafiles.expected import refuse
from orca_core.datafiles.reading import read_text, reason
from orca_core.errors import DataError, Fault
from orca_core.proxies.spec import ProxyData

if TYPE_CHECKING:
    from orca_core.tasks.entries import Column

MAX_REPORTED = 10
"""Largest number of wrong lines to report."""

MAX_HEADER_BYTES = 1 << 12
"""Longest line that is taken for the names of columns."""

TEXTS, LABELS = ("text", "sentence"), ("label", "target")
"""Names of columns."""

Sentence = list[tuple[str, str]]
"""Words with their tags."""


def read_conll(path: Path) -> list[Sentence]:
    """The sentences of a file with one word per line: the word first, its tag last, an empty line between sentences.

    IOB1 tags become IOB2, in which every entity begins with B; other tags stay as they are. -DOCSTART- lines are left out.

    Raises:
        DataError: If a line has no tag, or not as many columns as the first, or there is no sentence; with the first such lines.
    """
    sentences: list[Sentence] = [[]]
    wrong: list[str] = []
    width = 0
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        columns = line.split()
        if not columns or columns[0] == "-DOCSTART-":
            sentences.append([])
            continue
        width = width or len(columns)
        if len(columns) < 2:
            wrong.append(Fault(f"line {number}", "must have a word and its tag", line, "Columns are separated by spaces.").text(str(path)))
        elif len(columns) != width:
            wrong.append(Fault(f"line {number}", f"must have {width} columns like the first line", line).text(str(path)))
        sentences[-1].append((columns[0], columns[-1]))
    refuse(wrong[:MAX_REPORTED])
    sentences = [sentence for sentence in sentences if sentence]
    if not sentences:
        raise DataError(f"{path}: must have sentences, but has none.")
    if all(re.fullmatch(r"O|[BI]-.+", tag) for sentence in sentences for _, tag in sentence):
        sentences = [to_iob2(sentence) for sentence in sentences]
    return sentences


def to_iob2(sentence: Sentence) -> Sentence:
    """The tags I-X that begin an entity as B-X.

    >>> to_iob2([("EU", "I-ORG"), ("in", "O"), ("New", "I-LOC"), ("York", "I-LOC")])
    [('EU', 'B-ORG'), ('in', 'O'), ('New', 'B-LOC'), ('York', 'I-LOC')]
    """
    tagged, before = [], "O"
    for word, tag in sentence:
        begins = tag.startswith("I-") and tag[2:] != before[2:]
        tagged.append((word, f"B-{tag[2:]}" if begins else tag))
        before = tag
    return tagged


def label_words(sentences: list[Sentence]) -> ProxyData:
    """A sample for each word, with its tag, in the context of its sentence."""
    texts, spans, tags = [], [], []
    for sentence in sentences:
        text, at = " ".join(word for word, _ in sentence), 0
        for word, tag in sentence:
            texts.append(text)
            spans.append((at, at + len(word)))
            tags.append(tag)
            at += len(word) + 1
    return number_labels(texts, tags, spans)


def label_sentences(sentences: list[Sentence]) -> ProxyData:
    """A sample for each sentence, with its most frequent kind of entity, on a tie the alphabetically first; O if it has none."""
    texts = [" ".join(word for word, _ in sentence) for sentence in sentences]
    return number_labels(texts, [_find_main_kind(sentence) for sentence in sentences])


def _find_main_kind(sentence: Sentence) -> str:
    counts = Counter(tag[2:] for _, tag in sentence if tag.startswith("B-"))
    return min(counts, key=lambda kind: (-counts[kind], kind)) if counts else "O"


def number_labels(texts: list[str], names: list[str], spans: list[tuple[int, int]] | None = None) -> ProxyData:
    """Texts and the names of their labels; ids in the order of the names."""
    import numpy as np

    known, ids = np.unique(np.array(names), return_inverse=True)
    return ProxyData(texts, ids.astype(np.int64), tuple(map(str, known)), spans)


def read_csv(path: Path) -> ProxyData:
    """A table with a header: texts from the column `text` or `sentence`, else the first; labels from `label` or `target`, else the last."""
    from orca_core.tasks.tables import read_table, split_target

    rest, label = split_target(read_table(path), LABELS)
    if not rest:
        refuse([Fault("", "must have a column of texts and one of labels", [label.name]).text(str(path))])
    named = [column for name in TEXTS for column in rest if column.name.lower() == name]
    text, label = _as_written(named[0] if named else rest[0]), _as_written(label)
    for column in (text, label):
        if column.missing.any():
            refuse([Fault(column.name, "must have no missing entries", int(column.missing.sum())).text(str(path))])
    names = [str(value) if label.is_text else f"{value:.15g}" for value in label.values.tolist()]
    return number_labels([str(value) for value in text.values.tolist()], names)


def _as_written(column: Column) -> Column:
    """The texts of a column, unless all of its entries are plain numbers."""
    return column if column.form == "number" and not column.missing.any() else column.as_text()


def is_tsv(path: Path) -> bool:
    """Whether a file's first line has the names of columns, separated by tabs, and among them those of a text and of a label.

    False for a file that cannot be read.
    """
    if path.suffix in (".csv", ".jsonl", ".json"):
        return False
    try:
        with path.open("rb") as file:
            names = file.readline(MAX_HEADER_BYTES).decode("utf-8-sig").strip().lower().split("\t")
    except (OSError, UnicodeDecodeError):
        return False
    return not set(names).isdisjoint(TEXTS) and not set(names).isdisjoint(LABELS)


def read_tsv(path: Path) -> ProxyData:
    """A table with a header whose columns are separated by tabs, and in which quotes have no meaning.

    Raises:
        DataError: If a row has not as many columns as the header, or an empty text or label; with the first such rows.
    """
    header, *lines = read_text(path).split("\n")
    names = header.strip().lower().split("\t")
    text_at, label_at = (next(at for at, name in enumerate(names) if name in known) for known in (TEXTS, LABELS))
    texts, labels, wrong = [], [], []
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != len(names) or not cells[text_at].strip() or not cells[label_at].strip():
            rule = f"must have {len(names)} columns, separated by tabs, of which text and label are not empty"
            wrong.append(Fault(f"line {number}", rule, line).text(str(path)))
            continue
        texts.append(cells[text_at])
        labels.append(cells[label_at].strip())
    refuse(wrong[:MAX_REPORTED])
    if not texts:
        raise DataError(f"{path}: must have texts, but has none.")
    return number_labels(texts, labels)


def read_jsonl(path: Path) -> ProxyData:
    """JSON lines, each a mapping with `text` (or `sentence`) and `label` (or `target`), neither of them null."""
    texts, names, wrong = [], [], []
    # Not splitlines(): a text may contain other line separators of Unicode.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text, name = (row[next((key for key in keys if key in row), keys[0])] for keys in (TEXTS, LABELS))
            if text is None or name is None:
                raise ValueError("one of them is null")
            texts.append(str(text))
            names.append(str(name))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            rule = f"must be a mapping with text and label ({_why(error)})"
            wrong.append(Fault(f"line {number}", rule, line).text(str(path)))
    refuse(wrong[:MAX_REPORTED])
    if not texts:
        raise DataError(f"{path}: must have texts, but has none.")
    return number_labels(texts, names)


def _why(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else reason(error)


def list_text_files(folder: Path) -> tuple[Path, ...]:
    """The .txt files in the subfolders of a folder, in the order of their names."""
    return tuple(sorted(path for path in folder.glob("*/*.txt") if not path.parent.name.startswith(".")))


def read_folder(folder: Path) -> ProxyData:
    """Texts from .txt files in a folder for each label."""
    paths = list_text_files(folder)
    texts = [" ".join(read_text(path).split()) for path in paths]
    return number_labels(texts, [path.parent.name for path in paths])
