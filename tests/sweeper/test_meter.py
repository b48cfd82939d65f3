"""GPU time is counted by what trials hold, not by slots."""

from __future__ import annotations

import math

import pytest

from sweeper.running.meter import GpuMeter


class Clock:
    """A clock that is set by hand, in hours."""

    def __init__(self) -> None:
        self.hour = 0.0

    def __call__(self) -> float:
        return self.hour * 3600


def test_hours_are_those_between_start_and_stop_times_the_share_of_a_gpu():
    meter = GpuMeter(clock := Clock())
    meter.start("a", 0.5)
    clock.hour = 2
    meter.start("b", 0.5)
    assert meter.hours == pytest.approx(1.0)
    clock.hour = 3
    meter.stop("a")  # after 3 hours
    clock.hour = 10
    meter.stop("b")  # after 8
    clock.hour = 20
    assert meter.hours == pytest.approx(0.5 * 11)


def test_pauses_do_not_count_and_repeated_calls_change_nothing():
    meter = GpuMeter(clock := Clock())
    meter.stop("a")
    for start, stop in ((0, 1), (5, 7)):
        clock.hour = start
        meter.start("a", 1.0)
        clock.hour = (start + stop) / 2
        meter.start("a", 1.0)
        clock.hour = stop
        meter.stop("a")
        meter.stop("a")
    assert meter.hours == pytest.approx(3.0)


def test_time_left_is_at_the_present_rate():
    meter = GpuMeter(clock := Clock())
    assert meter.seconds_until(1.0) == math.inf
    for trial in "abcd":
        meter.start(trial, 0.25)
    assert meter.seconds_until(1.0) == pytest.approx(3600)
    clock.hour = 0.5
    meter.stop("a")
    meter.stop("b")
    assert meter.seconds_until(1.0) == pytest.approx(3600), "half is used up, at half the rate from now on"
    clock.hour = 2.0
    assert meter.seconds_until(1.0) == 0.0


def test_without_gpus_there_is_nothing_to_count():
    meter = GpuMeter(clock := Clock())
    meter.start("a", 0.0)
    clock.hour = 5
    assert (meter.hours, meter.seconds_until(1.0)) == (0.0, math.inf)
