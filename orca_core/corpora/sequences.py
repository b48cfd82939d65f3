"""Corpora for text bodies: sequences of word ids of the mini bodies' vocabulary.

A generated sequence is at most `LENGTH` symbols, then padding, as the tokeniser writes a sentence; symbol k is word `FIRST + k` of the
vocabulary. Every corpus is a fixed data set, drawn by a seed of its own with integers alone, so it is the same on every machine; which part
of it a body sees is drawn by `pretrain.seed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from orca_core.bodies.mini import SPECIAL_TOKENS, VOCABULARY, mini_tokenizer
from orca_core.corpora import CORPORA, Corpus
from orca_core.proxies import find_proxy
from orca_core.workbench import memoize

LENGTH = 32
"""Tokens of a sequence; longer sentences are cut."""

COUNT = 2000
"""Sequences of a generated corpus; pydoc has about 1700."""

PAD = SPECIAL_TOKENS.index("<pad>")
FIRST = len(SPECIAL_TOKENS)

BRACKETS = 16
NUMBERS, ITEMS = 100, 15
"""Of `sort` and `copy`: how many numbers or symbols there are to draw from, and how many are drawn."""

RULE, RING, CELLS_OF_A_SYMBOL, GENERATIONS = 110, 24, 4, 5
NOISE_CLASSES = 16
"""As many as pydoc has topics."""


@dataclass(frozen=True)
class Sequences:
    """A corpus for text bodies.

    Args:
        ids: (n, LENGTH) int64 word ids, `PAD` after the end.
        labels: (n,) int64 from 0; None without labels.
        num_labels: How many labels there are; 0 without labels.
    """

    ids: np.ndarray
    labels: np.ndarray | None = None
    num_labels: int = 0

    @property
    def is_word(self) -> np.ndarray:
        """(n, LENGTH) bool: false for padding."""
        return self.ids != PAD


@memoize(maxsize=4)
def load_sequences(corpus: Corpus) -> Sequences:
    """A corpus for text bodies; kept in the process between trials."""
    if corpus.name == "pydoc":
        data = find_proxy("pydoc").load()
        return Sequences(_encode(list(data.inputs)), data.labels, len(data.label_names))
    draws = np.random.Generator(np.random.PCG64(corpus.seed))
    if corpus.name == "noise":
        words = draws.integers(0, VOCABULARY - FIRST, (COUNT, LENGTH))
        return Sequences(_padded(list(words)), draws.integers(0, NOISE_CLASSES, COUNT), NOISE_CLASSES)
    return Sequences(_padded([_GENERATORS[corpus.name](draws) for _ in range(COUNT)]))


def dyck(draws: np.random.Generator) -> np.ndarray:
    """32 brackets that are balanced and properly nested: kind k opens with symbol 2k and closes with 2k + 1.

    At each place a bracket opens or closes with equal probability where both are possible; the kind of an opening one is drawn uniformly.
    k-Dyck of arXiv 2505.22308 and 2511.13945.
    """
    word: list[int] = []
    stack: list[int] = []
    while len(word) < LENGTH:
        must_close, may_close = len(stack) == LENGTH - len(word), bool(stack)
        if must_close or (may_close and draws.integers(2)):
            word.append(2 * stack.pop() + 1)
        else:
            stack.append(int(draws.integers(BRACKETS)))
            word.append(2 * stack[-1])
    return np.array(word)


def sort(draws: np.random.Generator) -> np.ndarray:
    """15 numbers below 100, the separator (symbol 100), and the numbers in ascending order (arXiv 2601.21725)."""
    numbers = draws.integers(0, NUMBERS, ITEMS)
    return np.concatenate([numbers, [NUMBERS], np.sort(numbers)])


def copy(draws: np.random.Generator) -> np.ndarray:
    """15 symbols out of 100, the separator (symbol 100), and the symbols again ("identity" of arXiv 2505.22308)."""
    symbols = draws.integers(0, NUMBERS, ITEMS)
    return np.concatenate([symbols, [NUMBERS], symbols])


def automata(draws: np.random.Generator) -> np.ndarray:
    """Five generations of the elementary cellular automaton 110 on a ring of 24 cells, the first drawn at random.

    Four neighbouring cells are one symbol of 0 to 15, the leftmost cell its highest bit. Rule 110 as in arXiv 2505.22308.
    """
    cells = draws.integers(0, 2, RING)
    rows = [cells]
    for _ in range(GENERATIONS - 1):
        rows.append(next_generation(rows[-1]))
    powers = 2 ** np.arange(CELLS_OF_A_SYMBOL)[::-1]
    return np.concatenate(rows).reshape(-1, CELLS_OF_A_SYMBOL) @ powers


def next_generation(cells: np.ndarray) -> np.ndarray:
    """The cells of a ring one generation later: bit (4 left + 2 own + right) of the rule's number (Wolfram 1983)."""
    neighbourhood = 4 * np.roll(cells, 1) + 2 * cells + np.roll(cells, -1)
    return RULE >> neighbourhood & 1


def bigram(draws: np.random.Generator) -> np.ndarray:
    """Words that follow each other as often as they do in pydoc, from the first word of a sentence to its end or the maximum length.

    Word by word a pair of neighbours in pydoc is drawn, uniformly among all that begin with the last word. So the corpus has the statistics
    of two neighbouring words, and nothing beyond.
    """
    firsts, followers = _neighbours()
    words = [int(firsts[draws.integers(len(firsts))])]
    while len(words) < LENGTH and len(after := followers.get(words[-1], firsts[:0])):
        word = int(after[draws.integers(len(after))])
        if word == PAD:
            break
        words.append(word)
    return np.array(words) - FIRST


@memoize(maxsize=1)
def _neighbours() -> tuple[np.ndarray, Mapping[int, np.ndarray]]:
    """The first words of pydoc's sentences; and of each word all that follow it, as often as they do, `PAD` standing for the end."""
    ids = load_sequences(CORPORA["pydoc"]).ids
    before, after = ids[:, :-1].ravel(), ids[:, 1:].ravel()
    return ids[:, 0], {int(word): after[before == word] for word in np.unique(before[before != PAD])}


_GENERATORS: Mapping[str, Callable[[np.random.Generator], np.ndarray]] = {
    "dyck": dyck,
    "sort": sort,
    "copy": copy,
    "automata": automata,
    "bigram": bigram,
}


def _encode(texts: list[str]) -> np.ndarray:
    encoded = mini_tokenizer()(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np")
    return np.asarray(encoded["input_ids"], dtype=np.int64)


def _padded(symbols: list[np.ndarray]) -> np.ndarray:
    """Symbols as padded sequences of word ids."""
    ids = np.full((len(symbols), LENGTH), PAD, dtype=np.int64)
    for row, found in zip(ids, symbols, strict=True):
        row[: len(found)] = FIRST + found
    return ids
