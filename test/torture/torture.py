#!/usr/bin/python3
"""Try to break the promises of outbox: run it under load and faults, then count.

    torture.py --bindir DIR --temp-config FILE [--seed N] [--duration SECONDS] ...

`make torture` stages the tree and calls this.  A run has these stages:

    server.py       a server and a receiver of our own
    load.py         writers publish, and record what they commit; others are connected as well (bystanders.py)
    faults.py       meanwhile a schedule, drawn from the seed, of faults
    rig.py          the drain: all faults are over, and everything must be settled by a deadline;
                    then dead events are sent again, and everything must be delivered
    checker.py      what was committed against what was received
    phases.py       what needs a server of its own: topics in trouble, ends in order, promotion, a full disk ...

The same seed draws the same faults and the same operations of each writer; how they interleave is
up to the machine.  The exit status is 0 if every promise was kept, 1 if one was broken (the
directory with logs and tables is kept then), 2 if the tool itself could not go on.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import traceback

import broker
import mutants
import phases
from faults import draw_schedule
from rig import Rig


def main_run(options, directory):
    """Load and faults of all kinds, for as long as was asked for."""
    if options.destination:
        rig, schedule = broker.BrokerRig(options, directory), broker.schedule(options)
    else:
        rig, schedule = Rig(options, directory), draw_schedule(options.seed, options.duration)
    try:
        rig.set_up()
        rig.new_load(writers=options.writers, pause=options.pause)
        rig.run(schedule, options.duration)
        rig.drain()
        return rig.judge()
    finally:
        rig.clean_up()


def run_all(options, directory):
    """The runs that were asked for, by name."""
    runs = {'main': main_run, **{name: phase for name, phase in phases.PHASES.items() if name in options.phases}}
    if options.only_phases:
        del runs['main']
    reports = {}
    for name, run in runs.items():
        print(f'# {name}', flush=True)
        try:
            report = run(options, directory)
        except phases.Skipped as skipped:
            print(f'skipped: {skipped}', flush=True)
            continue
        reports[name] = report
        print('\n'.join(report.lines()), flush=True)
    return reports


def parse_options():
    parser = argparse.ArgumentParser(description='Try to break the promises of outbox.')
    parser.add_argument('--bindir', required=True, help="PostgreSQL's programs")
    parser.add_argument('--temp-config', default=os.environ.get('TEMP_CONFIG'),
                        help='settings by which a test server finds the extension')
    parser.add_argument('--seed', default='random')
    parser.add_argument('--duration', type=float, default=60, help='seconds of load and faults')
    parser.add_argument('--writers', type=int, default=6)
    parser.add_argument('--pause', type=float, default=0.04, help='longest pause of a writer, in seconds')
    parser.add_argument('--publisher', choices=('dapr', 'http'), help='default: drawn from the seed')
    parser.add_argument('--destination', choices=broker.NAMES, help='a real broker, in place of a receiver')
    parser.add_argument('--phases', default='', help=f'comma-separated, or "all": {", ".join(phases.PHASES)}')
    parser.add_argument('--mutants', metavar='DIR', help='see that each mutant is caught; their trees are staged in DIR')
    parser.add_argument('--only-phases', action='store_true', help='without the main run')
    parser.add_argument('--small-disk', help='a directory on a small file system of its own, for the phase "full"')
    parser.add_argument('--directory', help='where to work; it is kept (default: a new one in /tmp)')
    parser.add_argument('--report', help='write the numbers to this file, as JSON')
    parser.add_argument('--schedule', action='store_true', help='only show the faults that the seed draws')
    parser.add_argument('--keep', action='store_true', help='keep the directory of a run that passed')
    options = parser.parse_args()
    if options.seed == 'random':
        options.seed = random.randrange(10 ** 6)
    options.seed = int(options.seed)
    if options.publisher is None:
        options.publisher = random.Random(options.seed).choice(('dapr', 'http'))
    options.phases = list(phases.PHASES) if options.phases == 'all' else options.phases.split(',')
    unknown = set(options.phases) - set(phases.PHASES) - {''}
    if unknown:
        parser.error(f'no such phase: {", ".join(sorted(unknown))}; there are {", ".join(phases.PHASES)}')
    if options.destination and options.phases != ['']:
        parser.error('with a destination, there are no phases')
    return options


def clean_up(options, directory, status):
    """A directory of our own goes when all was well."""
    if status == 0 and not (options.keep or options.directory):
        shutil.rmtree(directory, ignore_errors=True)


def main():
    options = parse_options()
    if options.schedule:
        print('\n'.join(map(str, draw_schedule(options.seed, options.duration))))
        return 0
    directory = options.directory or tempfile.mkdtemp(prefix='outbox-torture.', dir='/tmp')
    print(f'SEED={options.seed} DURATION={options.duration:g} publisher={options.destination or options.publisher} in {directory}', flush=True)
    try:
        if options.mutants:
            status = mutants.run_all(options, directory)
            clean_up(options, directory, status)
            return status
        reports = run_all(options, directory)
    except Exception:
        traceback.print_exc()
        print(f'left in {directory}')
        return 2
    if options.report:
        with open(options.report, 'w', encoding='utf-8') as file:
            json.dump({name: report.numbers for name, report in reports.items()}, file)
    failures = [f'{name}: {failure}' for name, report in reports.items() for failure in report.failures()]
    if failures:
        print(f'BROKEN with SEED={options.seed}: {", ".join(failures)}; left in {directory}')
        return 1
    print(f'every promise was kept (SEED={options.seed})')
    clean_up(options, directory, 0)
    return 0


if __name__ == '__main__':
    sys.exit(main())
