"""Timing in turns: who runs when, and what is counted."""

import time

import pytest

from ctml.timing import in_turns, median_seconds


def test_works_take_turns_and_the_first_turn_is_not_counted():
    order = []

    def work(name, seconds):
        order.append(name)
        time.sleep(
            seconds * (10 if order.count(name) == 1 else 1)
        )  # slow at first, as work that compiles or fills caches

    seen = in_turns({"short": lambda: work("short", 0.002), "long": lambda: work("long", 0.02)}, turns=3)
    assert order == ["short", "long"] * 4
    assert [len(times) for times in seen.values()] == [3, 3]
    assert 0.002 <= min(seen["short"]) < 0.02 <= min(seen["long"]) < 0.2


def test_the_clock_of_the_process_does_not_count_sleep():
    (seconds,) = in_turns({"asleep": lambda: time.sleep(0.05)}, turns=1, clock=time.process_time)["asleep"]
    assert seconds < 0.02


def test_the_median_is_over_the_turns_that_count():
    lengths = iter([0.5, 0.01, 0.2, 0.03])  # of them the first warms up

    def busy():
        end = time.process_time() + next(lengths)
        while time.process_time() < end:
            pass

    assert 0.03 <= median_seconds(busy, 3) < 0.1


def test_no_turn_is_refused():
    with pytest.raises(ValueError, match="turns=0: must be at least 1"):
        in_turns({}, turns=0)
