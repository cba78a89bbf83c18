"""Waiting for a condition, with a deadline.  Nothing here or in the tests sleeps for its own sake."""
import os
import threading
import time

# Seconds; generous for sanitizer builds on a loaded machine.
DEADLINE = float(os.environ.get("PANNIER_TEST_DEADLINE", 30))


def until(condition, what, deadline=DEADLINE):
    """The first true value of condition(); fails with `what` when the deadline passes."""
    pause = threading.Event()
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {what}")
        pause.wait(0.01)
