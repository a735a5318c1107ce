"""The checker is checked: each mutant makes one deliberate mistake, and has to be caught.

A mutant is the extension with a patch, test/torture/mutants/NAME.patch.  The first lines of the patch,
which patch(1) passes over, tell what the checker has to find and what the mistake is:

    expect: lost
    The relay passes over an event.

tools/torture --mutants stages a tree for each.  Each has to be found, under the right name; and in the
tree without a mistake nothing may be found.  A patch that no longer fits the source is an error of
the staging; mend the patch then, with little context, so that it fits longer.
"""

import argparse
import glob
import os

from faults import CRASH, LANES, Fault, draw_schedule
from rig import Rig
from server import TortureError

SECONDS = 12
PATCHES = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'mutants', '*.patch')
EXPECT = 'expect: '


def run_all(options, directory):
    """The exit status."""
    missed = []
    for name, expected, temp_config in [('none', None, options.temp_config), *_mutants(options.mutants)]:
        subdirectory = os.path.join(directory, name)
        os.mkdir(subdirectory)
        report = _run(argparse.Namespace(**{**vars(options), 'temp_config': temp_config}), subdirectory)
        found = report.failures()
        caught = expected in found if expected else not found
        print(f"{name:12} {'ok' if caught else 'MISSED':8} {expected or '-'} = {report.numbers.get(expected, 0)};"
              f" found: {', '.join(found) or 'nothing'}", flush=True)
        if not caught:
            missed.append(name)
    if missed:
        print(f"MISSED: {', '.join(missed)}; left in {directory}")
    return 1 if missed else 0


def _mutants(staged):
    """Of each patch: its name, what it expects, and the configuration that finds its tree."""
    for path in sorted(glob.glob(PATCHES)):
        name = os.path.basename(path).removesuffix('.patch')
        with open(path, encoding='utf-8') as file:
            first = file.readline().strip()
        if not first.startswith(EXPECT):
            raise TortureError(f'{path} does not begin with "{EXPECT}"')
        yield name, first.removeprefix(EXPECT), os.path.join(staged, name, 'temp.conf')


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
