"""The checker is checked: a build with -DOUTBOX_MUTATION makes one kind of mistake at a time.

The variable OUTBOX_MUTATION in the server's environment names the mistake (src/mutation.h).  Each has
to be found, under the right name; and without a mistake nothing may be found.
"""

import os

from faults import CRASH, LANES, Fault, draw_schedule
from rig import Rig

VARIABLE = 'OUTBOX_MUTATION'
SECONDS = 12

# Mutation: what the checker has to say about it.
EXPECTED = {
    'none': None,
    'skip': 'lost',                         # the relay passes over an event
    'reorder': 'order_violations',          # an event does not wait for the one before it of its key
    'alter': 'altered',                     # a byte of a payload changes
    'early': 'sent_before_durable',         # events are sent before their commit is on disk
    'uncommitted': 'invented'}              # events are sent before their commit, rolled back ones too


def run_all(options, directory):
    """The exit status."""
    missed = []
    for mutation, expected in EXPECTED.items():
        os.environ[VARIABLE] = mutation
        subdirectory = os.path.join(directory, mutation)
        os.mkdir(subdirectory)
        report = _run(options, subdirectory)
        found = report.failures()
        caught = expected in found if expected else not found
        print(f"{mutation:10} {'ok' if caught else 'MISSED':8} {expected or '-'} = {report.numbers.get(expected, 0)};"
              f" found: {', '.join(found) or 'nothing'}", flush=True)
        if not caught:
            missed.append(mutation)
    if missed:
        print(f"MISSED: {', '.join(missed)}; left in {directory}")
    return 1 if missed else 0


def _run(options, directory):
    """Some seconds of load, a receiver with faults, and crashes while commits are not on disk."""
    schedule = draw_schedule(options.seed, SECONDS, {'receiver': LANES['receiver']})
    schedule += [Fault(at, 'server', 'kill_during_async', CRASH, 1.0, 0) for at in (2, 4.5, 7, 9.5)]
    rig = Rig(options, directory)
    try:
        rig.set_up()
        rig.new_load()
        rig.run(schedule, SECONDS)
        rig.drain()
        return rig.judge()
    finally:
        rig.clean_up()
