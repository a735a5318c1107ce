"""The checker is checked: each mutant makes one deliberate mistake, and has to be caught.

A mutant is the extension with a patch, test/torture/mutants/NAME.patch.  The first lines of the patch,
which patch(1) passes over, tell what the checker has to find, in which phase if a few seconds of load and
crashes do not show it, and what the mistake is:

    expect: lost
    run: topics
    The relay passes over an event.

tools/torture --mutants stages a tree for each.  Each has to be found, under the right name; and in the
tree without a mistake nothing may be found, in any of these runs.  A patch that no longer fits the source is an error of
the staging; mend the patch then, with little context, so that it fits longer.
"""

import argparse
import dataclasses
import glob
import os

import phases
from faults import CRASH, LANES, Fault, draw_schedule
from rig import Rig
from server import TortureError

SECONDS = 12
PATCHES = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'mutants', '*.patch')
EXPECT = 'expect: '
RUN = 'run: '


@dataclasses.dataclass
class Mutant:
    name: str
    expected: str           # None: nothing
    run: str                # a phase; None: some seconds of load and crashes
    temp_config: str        # the configuration that finds its tree


def run_all(options, directory):
    """The exit status."""
    missed = []
    mutants = list(_mutants(options.mutants))
    runs = sorted({mutant.run or '' for mutant in mutants})
    clean = [Mutant(f'none.{run}', None, run or None, options.temp_config) for run in runs]
    for mutant in clean + mutants:
        subdirectory = os.path.join(directory, mutant.name)
        os.mkdir(subdirectory)
        changed = argparse.Namespace(**{**vars(options), 'temp_config': mutant.temp_config})
        report = (phases.PHASES[mutant.run] if mutant.run else _run)(changed, subdirectory)
        found = report.failures()
        caught = mutant.expected in found if mutant.expected else not found
        print(f"{mutant.name:12} {'ok' if caught else 'MISSED':8} {mutant.expected or '-'} ="
              f" {report.numbers.get(mutant.expected, 0)}; found: {', '.join(found) or 'nothing'}", flush=True)
        if not caught:
            missed.append(mutant.name)
    if missed:
        print(f"MISSED: {', '.join(missed)}; left in {directory}")
    return 1 if missed else 0


def _mutants(staged):
    """Of each patch."""
    for path in sorted(glob.glob(PATCHES)):
        name = os.path.basename(path).removesuffix('.patch')
        with open(path, encoding='utf-8') as file:
            expected, run = file.readline().strip(), file.readline().strip()
        if not expected.startswith(EXPECT):
            raise TortureError(f'{path} does not begin with "{EXPECT}"')
        run = run.removeprefix(RUN) if run.startswith(RUN) else None
        if run and run not in phases.PHASES:
            raise TortureError(f'{path}: there is no phase "{run}"')
        yield Mutant(name, expected.removeprefix(EXPECT), run, os.path.join(staged, name, 'temp.conf'))


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
