"""Waiting for a condition, with a deadline."""

import time

POLL_SECONDS = 0.02


def wait_until(what, condition, seconds=60, pause=POLL_SECONDS):
    """Poll until condition() is true, and return what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f'gave up waiting for {what}')
        time.sleep(pause)
