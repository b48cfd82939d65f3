"""Timeline of a sweep: which slot ran which stage when, what was reused, and which attempts were lost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.analysis.factors import Row
from sweeper.results.views import INTERRUPTED
from sweeper.show.figures.style import FAINT, INK, finish, label_panel, look, panels
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STAGES = ("pretrain", "source", "align", "adapt", "finetune")
"""The stages in the order in which a trial runs them."""

_LOOKS = {"pretrain": 0, "source": 1, "align": 2, "finetune": 3, "adapt": 4}
"""Numbers of the looks that stages have in all figures: the one that came last has the last."""

LOST = ("FAIL", INTERRUPTED)
"""How attempts end that are marked as lost."""

MAX_SLOTS = 64
"""Number of slots above which only these are drawn."""


@dataclass(frozen=True)
class Part:
    """A stage within an attempt.

    Args:
        stage: The stage.
        start, end: Hours since the sweep began.
    """

    stage: str
    start: float
    end: float


@dataclass(frozen=True)
class Attempt:
    """An attempt at a trial.

    Args:
        trial: The trial.
        slot: Its slot, from 0.
        start, end: Hours since the sweep began.
        parts: What it computed.
        status: How it ended.
        cause: Why, if it did not complete.
    """

    trial: str
    slot: int
    start: float
    end: float
    parts: tuple[Part, ...]
    status: str
    cause: str | None


@dataclass(frozen=True)
class Hours:
    """Hours of a stage.

    Args:
        computed: What the sweep computed.
        reused: What it would have computed more without reuse.
    """

    computed: float
    reused: float


@dataclass(frozen=True)
class Timeline:
    """What the figure shows.

    Args:
        title: Its title.
        slots: Name of the host of each slot.
        attempts: The attempts in the order of their start.
        hours: Stage -> hours computed and reused.
        taken_over: Number of finished trials that were taken over from other sweeps.
        caption: What is shown.
    """

    title: str
    slots: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    hours: Mapping[str, Hours]
    taken_over: int
    caption: str


def read(tables: FigureTables) -> Timeline:
    """The attempts of all trials.

    The tables say when an attempt began and ended, and how long each of its stages took, in their order; so stages are laid end to end from
    its start. Attempts that have not ended, and trials taken over from other sweeps, are no part of it. Slots are the fewest that hold all
    attempts of a host.

    Raises:
        NotInTablesError: If no attempt has ended.
    """
    own = [row for row in tables.attempts if not row.get("reused_from")]
    ended = [row for row in own if row.get("started_at") is not None and row.get("ended_at") is not None]
    if not ended:
        raise NotInTablesError("no attempt at a trial has ended")
    stages: dict[tuple[str, int, Any], list[Row]] = defaultdict(list)
    for row in tables.stages:
        stages[row["trial"], row["attempt"], row.get("run")].append(row)
    begin = min(row["started_at"] for row in ended)
    spans = [(_hours(row["started_at"] - begin), _hours(row["ended_at"] - begin), str(row.get("host") or "unknown")) for row in ended]
    places, slots = _find_slots(spans)
    attempts = tuple(
        Attempt(
            row["trial"],
            slot,
            start,
            end,
            _lay_out(stages[row["trial"], row["attempt"], row.get("run")], start, end),
            str(row["status"]),
            row.get("cause"),
        )
        for row, (start, end, _), slot in zip(ended, spans, places, strict=True)
    )
    taken_over = sum(row.get("status") == "COMPLETE" and bool(row.get("reused_from")) for row in tables.attempts)
    hours = {stage: _sum_hours(tables.stages, stage) for stage in STAGES}
    return Timeline("Timeline", slots, attempts, hours, taken_over, _caption(tables.name, attempts, hours, taken_over, len(slots)))


def _hours(delta: Any) -> float:
    return float(delta.total_seconds()) / 3600


def _find_slots(spans: Sequence[tuple[float, float, str]]) -> tuple[list[int], tuple[str, ...]]:
    """The slot of each span (start, end, host), in the order of their starts, and the host of each slot."""
    free_at: dict[str, list[float]] = {host: [] for host in sorted({host for _, _, host in spans})}
    lanes: list[int] = [0] * len(spans)
    for number in sorted(range(len(spans)), key=lambda number: spans[number][0]):
        start, end, host = spans[number]
        of_host = free_at[host]
        lane = next((lane for lane, free in enumerate(of_host) if free <= start), len(of_host))
        of_host[lane : lane + 1] = [end]
        lanes[number] = lane
    first: dict[str, int] = {}
    hosts: list[str] = []
    for host, of_host in free_at.items():
        first[host] = len(hosts)
        hosts += [host] * len(of_host)
    return [first[host] + lane for (_, _, host), lane in zip(spans, lanes, strict=True)], tuple(hosts)


def _lay_out(stages: Sequence[Row], start: float, end: float) -> tuple[Part, ...]:
    """The stages that an attempt computed, end to end; shortened together if they took longer than the attempt, by rounding or pauses."""
    ordered = sorted(
        stages, key=lambda row: (row.get("fold") is None, row.get("fold") or 0, STAGES.index(row["stage"]), row.get("phase") or 0)
    )
    total = sum(row["seconds"] or 0.0 for row in ordered) / 3600
    scale = min(1.0, (end - start) / total) if total > 0 else 1.0
    parts, at = [], start
    for row in ordered:
        length = (row["seconds"] or 0.0) / 3600 * scale
        if length > 0:
            parts.append(Part(row["stage"], at, at + length))
            at += length
    return tuple(parts)


def _order_of(row: Row) -> tuple[bool, int, int, int]:
    """Folds come before the final training, and stages in their order."""
    return row.get("fold") is None, row.get("fold") or 0, STAGES.index(row["stage"]), row.get("phase") or 0


def _sum_hours(stages: Sequence[Row], stage: str) -> Hours:
    rows = [row for row in stages if row["stage"] == stage]
    return Hours(sum(row["seconds"] or 0.0 for row in rows) / 3600, sum(row["saved_s"] or 0.0 for row in rows) / 3600)


def _caption(name: str, attempts: Sequence[Attempt], hours: Mapping[str, Hours], taken_over: int, slots: int) -> str:
    lost = Counter(attempt.cause or attempt.status.lower() for attempt in attempts if attempt.status in LOST)
    losses = ", ".join(f"{number} {cause}" for cause, number in sorted(lost.items())) or "none"
    computed, reused = sum(one.computed for one in hours.values()), sum(one.reused for one in hours.values())
    over = f" {taken_over} trials were taken over from other sweeps." if taken_over else ""
    drawn = f" The first {MAX_SLOTS} are drawn." if slots > MAX_SLOTS else ""
    return (
        f"{name}: {len(attempts)} attempts at trials in {slots} slots, by host, from the start of the first one.{drawn} Stages are laid"
        " end to end; pale: the rest of an attempt (loading, waiting, what was cut short)."
        f" Crosses: attempts that were lost, stopped or failed ({losses})."
        f" {format_hours(computed)} computed, {format_hours(reused)} saved by reuse.{over}"
    )


def format_hours(hours: float) -> str:
    """A time in the unit that suits it."""
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.1f} s"


# ------------------------------------------------------------------------------------------------------------------------ drawing


def draw(data: Timeline) -> Figure:
    """A lane for each slot, and below it the hours of each stage."""
    slots = min(len(data.slots), MAX_SLOTS)
    height = 0.7 + 0.2 * slots
    figure, (lanes, totals) = panels(["lanes", "totals"], data.title, width=8.0, height=(height + 1.5) / 2, ratios=[height, 1.5])
    unit, name = _choose_unit(max(attempt.end for attempt in data.attempts))
    _draw_lanes(lanes, data, slots, unit)
    label_panel(lanes, "", f"time since the start ({name})", "")
    unit, name = _choose_unit(max(one.computed + one.reused for one in data.hours.values()))
    _draw_totals(totals, data.hours, unit)
    label_panel(totals, "", f"computing time ({name})", "")
    for one in (lanes, totals):
        one.grid(visible=False)
        one.grid(axis="x")
    return finish(figure, [lanes, totals], data.caption)


def _choose_unit(hours: float) -> tuple[float, str]:
    """How many of a unit an hour has, and the unit's name, for times up to some hours."""
    return (1.0, "h") if hours >= 2 else (60.0, "min") if hours >= 1 / 30 else (3600.0, "s")


def _draw_totals(axes: Axes, hours: Mapping[str, Hours], unit: float) -> None:
    used = [stage for stage in STAGES if hours[stage].computed + hours[stage].reused > 0]
    for place, stage in enumerate(used):
        style, one = look(_LOOKS[stage]), hours[stage]
        axes.barh(place, unit * one.computed, facecolor=style.color, edgecolor=INK, hatch=style.hatch, height=0.65)
        label = "saved by reuse" if place == 0 else None
        axes.barh(
            place, unit * one.reused, left=unit * one.computed, height=0.65, facecolor="none", edgecolor=INK, linestyle="--", label=label
        )
    axes.set_yticks(range(len(used)), used)
    axes.set_ylim(len(used) - 0.4, -0.6)
    axes.set_xlim(0, 1.03 * unit * max(one.computed + one.reused for one in hours.values()) or 1)


def _add_spans(axes: Axes, spans: Sequence[tuple[int, float, float]], **options: Any) -> None:
    """Bars (slot, start, end), all as one shape: a sweep of thousands of trials is one of a few shapes, not thousands."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners = [
        ((start, slot - 0.4), (end, slot - 0.4), (end, slot + 0.4), (start, slot + 0.4), (start, slot - 0.4)) for slot, start, end in spans
    ]
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    axes.add_patch(PathPatch(Path([point for of_bar in corners for point in of_bar], codes * len(corners)), **options))


def _draw_lanes(axes: Axes, data: Timeline, slots: int, unit: float) -> None:
    shown = [attempt for attempt in data.attempts if attempt.slot < slots]
    whole = [(attempt.slot, unit * attempt.start, unit * attempt.end) for attempt in shown]
    _add_spans(axes, whole, facecolor=FAINT, alpha=0.35, linewidth=0)
    for stage in STAGES:
        parts = [(a.slot, unit * part.start, unit * part.end) for a in shown for part in a.parts if part.stage == stage]
        if parts:
            style = look(_LOOKS[stage])
            _add_spans(axes, parts, facecolor=style.color, edgecolor=INK, linewidth=0.3, hatch=style.hatch, label=stage)
    lost = [attempt for attempt in shown if attempt.status in LOST]
    if lost:
        axes.plot(
            [unit * one.end for one in lost],
            [one.slot for one in lost],
            "X",
            color=INK,
            markersize=6,
            linestyle="none",
            label="lost, stopped or failed",
        )
    hosts = list(dict.fromkeys(data.slots[:slots]))
    middles = [sum(n for n in range(slots) if data.slots[n] == host) / data.slots[:slots].count(host) for host in hosts]
    axes.set_yticks(middles, hosts)
    axes.set_ylim(slots - 0.4, -0.6)
    axes.set_xlim(0, 1.02 * unit * max(attempt.end for attempt in data.attempts) or 1)
    axes.tick_params(axis="y", length=0)
