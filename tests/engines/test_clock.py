from __future__ import annotations

import pytest

from agenticlu.engines.clock import STALLED_S, EndpointClock


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_endpoint_is_stalled_when_it_is_asked_and_says_nothing_for_long() -> None:
    clock = Clock()
    pulse = EndpointClock(clock)
    assert pulse.health("a")["last_answer_s"] is None
    with pulse.request():
        clock.now += STALLED_S - 1
        with pulse.request():
            clock.now += 2
            found = pulse.health("a")
            assert (found["state"], found["in_flight"]) == ("stalled", 2)
            assert found["last_answer_s"] == STALLED_S + 1, "since it was first asked"
            pulse.note_answer()
        # It answered one of them: it works, though slowly.
        assert (pulse.health("a")["state"], pulse.health("a")["in_flight"]) == ("well", 1)
        clock.now += STALLED_S + 5
        found = pulse.health("a")
        assert (found["state"], found["last_answer_s"]) == ("stalled", STALLED_S + 5)
    clock.now += 10 * STALLED_S
    assert pulse.health("a")["state"] == "well", "an endpoint that nobody asks is not stalled"


def test_a_lost_line_is_no_answer() -> None:
    clock = Clock()
    pulse = EndpointClock(clock)

    def ask() -> None:
        with pulse.request():
            clock.now += 7
            raise OSError("lost")

    with pytest.raises(OSError, match="lost"):
        ask()
    assert pulse.health("a")["last_answer_s"] == 7.0
    assert not pulse.has_answered
    assert pulse.health("a")["in_flight"] == 0
