"""What can be set in the environment, with the default."""

import os


def _knob(name, default):
    return type(default)(os.environ.get('BENCH_' + name, default))


def settings():
    """What was set, as for a command line."""
    return ' '.join(f'{name}={value}' for name, value in sorted(os.environ.items()) if name.startswith('BENCH_'))


PAIRS = _knob('PAIRS', 5)                   # of a figure and its limit
EVENTS = _knob('EVENTS', 200000)            # pending, in the rows that drain them
SECONDS = _knob('SECONDS', 5.0)             # of each measurement that takes a set time
PAUSE_SECONDS = _knob('PAUSE_SECONDS', 10.0)    # before the first event after a pause; the goal says a minute
HELD_SECONDS = _knob('HELD_SECONDS', 60.0)  # of the row "held"; the goal says 600
HELD_RATE = _knob('HELD_RATE', 20000)       # events a second of the row "held"
OLD_EVENTS = _knob('OLD_EVENTS', 1000000)   # published and kept, in the row "old"; the goal says 5000000
BACKLOG = _knob('BACKLOG', 1000000)         # pending, in the row "backlog"
