"""Shapley values of games whose every coalition was measured: exact, by the full factorial.

A coalition is the set of the players that take part; its value is an error. The Shapley value of a player is what its joining changes,
averaged over all orders in which the players can join. The values of all players add up to the value of all minus that of none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

Coalition = frozenset[str]


def coalitions(players: Sequence[str]) -> list[Coalition]:
    """All 2^n coalitions of some players, by size, each size in the order of the players.

    >>> [sorted(one) for one in coalitions(["a", "b"])]
    [[], ['a'], ['b'], ['a', 'b']]
    """
    return [frozenset(chosen) for size in range(len(players) + 1) for chosen in combinations(players, size)]


def shapley_weights(player: str, players: Sequence[str]) -> dict[Coalition, float]:
    """Coalition -> its weight in the Shapley value of a player: with the player s! (n - 1 - s)! / n!, s being the number of the others in
    it; without the player, minus that.

    Reference:
        Shapley 1953, "A value for n-person games".
    """
    others = [other for other in players if other != player]
    weights: dict[Coalition, float] = {}
    for one in coalitions(others):
        weight = math.factorial(len(one)) * math.factorial(len(others) - len(one)) / math.factorial(len(players))
        weights[one | {player}], weights[one] = weight, -weight
    return weights


def main_effect_weights(player: str, players: Sequence[str]) -> dict[Coalition, float]:
    """Coalition -> its weight in the main effect of a player: the mean change by joining over all 2^(n-1) coalitions of the others, each
    counting the same, as an analysis of variance has it. Main effects do not add up to the gap if players interact."""
    others = [other for other in players if other != player]
    weight = 1 / 2 ** len(others)
    return {coalition: sign for one in coalitions(others) for coalition, sign in ((one | {player}, weight), (one, -weight))}


def first_in_weights(player: str, players: Sequence[str]) -> dict[Coalition, float]:
    """Coalition -> its weight in what a player changes alone, when none of the others takes part."""
    return {frozenset([player]): 1.0, frozenset(): -1.0}


def last_in_weights(player: str, players: Sequence[str]) -> dict[Coalition, float]:
    """Coalition -> its weight in what a player changes when all others take part."""
    return {frozenset(players): 1.0, frozenset(players) - {player}: -1.0}


def weigh(weights: Mapping[Coalition, float], values: Mapping[Coalition, float]) -> float:
    """The weighted sum of the values of coalitions.

    Raises:
        KeyError: If the value of a coalition is missing.
    """
    return math.fsum(weight * values[coalition] for coalition, weight in weights.items())


def shapley_values(values: Mapping[Coalition, float], players: Sequence[str]) -> dict[str, float]:
    """Player -> Shapley value.

    Args:
        values: Coalition -> value, of all 2^n coalitions.
        players: The players.

    Raises:
        KeyError: If the value of a coalition is missing.

    >>> game = {frozenset(): 10.0, frozenset("a"): 8.0, frozenset("b"): 10.0, frozenset("ab"): 4.0}
    >>> shapley_values(game, ["a", "b"])  # a: (-2 - 6) / 2; b: (0 - 4) / 2
    {'a': -4.0, 'b': -2.0}
    """
    return {player: weigh(shapley_weights(player, players), values) for player in players}


def atoms(arms: Sequence[Coalition], parts: Sequence[str]) -> list[tuple[str, ...]]:
    """The players that some arms tell apart: parts that are in exactly the same arms are one. Parts that are in all arms, or in none,
    are no players.

    Args:
        arms: The sets of parts of the arms.
        parts: All parts, in order.

    >>> atoms([frozenset(), frozenset("a"), frozenset("abc")], "abc")
    [('a',), ('b', 'c')]
    """
    found: dict[tuple[bool, ...], list[str]] = {}
    for part in parts:
        found.setdefault(tuple(part in arm for arm in arms), []).append(part)
    return [tuple(of_kind) for kind, of_kind in found.items() if any(kind) and not all(kind)]


def resolution_of(weights: Mapping[Coalition, float], step: float) -> float:
    """The resolution of a weighted sum of values that are multiples of a step, in the sense of `paired_t`: for a difference of two values
    the step itself."""
    return step * math.sqrt(math.fsum(weight**2 for weight in weights.values()) / 2)


def missing_coalitions(arms: Sequence[Coalition], players: Sequence[tuple[str, ...]]) -> Iterator[Coalition]:
    """The sets of parts that a full factorial over some players needs, and no arm has; parts that are in all arms are in these, too."""
    fixed = frozenset.intersection(*arms) if arms else frozenset()
    for one in coalitions(["+".join(player) for player in players]):
        parts = fixed | {part for player in players if "+".join(player) in one for part in player}
        if parts not in arms:
            yield parts
