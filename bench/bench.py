#!/usr/bin/python3
"""
Measure the engine beside its limits.  Run by bench/run, which builds and stages:

    bench.py STAGE-DIRECTORY RESULT-DIRECTORY [ROW ...]

Each row is a module in rows/, which says what it measures and how.  Prints every series when it is
there; in the end RESULT-DIRECTORY has the table, and one plot a series.
"""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time

from lib import knobs, report
from lib.cluster import Cluster

ROWS = ('relay', 'relay-cost', 'bulk', 'dapr', 'hotkey', 'lanes', 'fanout', 'latency', 'publish', 'live', 'held', 'old', 'slow', 'backlog', 'idle', 'brokers')


class Stage:
    """The directory that the tree was staged in."""

    def __init__(self, directory):
        self.directory = directory
        self.bin = subprocess.run([os.environ['PG_CONFIG'], '--bindir'], check=True, capture_output=True,
                                  text=True).stdout.strip()
        self.version = subprocess.run([os.environ['PG_CONFIG'], '--version'], check=True, capture_output=True,
                                      text=True).stdout.strip()

    def program(self, name):
        return os.path.join(self.directory, name)


def run(stage, results, names):
    rows = []
    cluster = Cluster(stage, 'data')
    try:
        for name in names:
            started = time.monotonic()
            cluster.reset()
            row = importlib.import_module('rows.' + name.replace('-', '_'))
            with contextlib.closing(row.run(stage, cluster)) as measured:
                for series in measured:
                    rows.append((name, series))
                    print(report.line(name, series), flush=True)
                    report.plot(results, name, series)
            print(f'{name}: {time.monotonic() - started:.0f} s', flush=True)
    finally:
        cluster.stop()
        command = ' '.join(filter(None, [knobs.settings(), 'make bench',
                                         f'BENCH={",".join(names)}' if names != ROWS else '']))
        table = report.table(rows, command, stage.version)
        with open(os.path.join(results, 'table.md'), 'w', encoding='utf-8') as file:
            file.write(table)
        print('\n' + table)


def main():
    stage, results, *names = sys.argv[1:]
    unknown = set(names) - set(ROWS)
    if unknown:
        sys.exit(f'no such row: {", ".join(sorted(unknown))}; there are {", ".join(ROWS)}')
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))     # clean up, then
    run(Stage(stage), results, tuple(names) or ROWS)


if __name__ == '__main__':
    main()
