"""
latency: from the commit of an event to its arrival at the receiver, beside a POST of the same size
by a bare libcurl client on a kept connection.

Idle: one event at a time, the next one 20 ms after it arrived.  Then 1,000 events a second from eight
connections.  Then single events, each after a pause.  bench/latency.c is publisher, bare client and
receiver in one process, so that there is one clock; nginx's log knows milliseconds only.
"""

import os
import subprocess
import time

from lib import knobs
from lib.capture import capture_request
from lib.cluster import Database
from lib.nginx import free_port
from lib.series import NO_GOAL, Goal, Series, engine_at_most

EVENTS = 200        # in each measurement of the idle relay
PAUSE_MS = 20
RATE = 1000
PAUSES = 3


class Probe:
    """bench/latency.c; each command gives (p50, p99, max) in milliseconds."""

    def __init__(self, stage, database, request):
        self._request = request
        port = free_port()
        self.url = f'http://127.0.0.1:{port}'
        self._process = subprocess.Popen(
            [stage.program('latency'), str(port), database.cluster.conninfo(database.name)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _command(self, text):
        self._process.stdin.write(text + '\n')
        self._process.stdin.flush()
        return [float(field) / 1000 for field in self._process.stdout.readline().split()]

    def publish(self, count, pause_ms):
        return self._command(f'publish {count} {pause_ms}')

    def post(self, count, pause_ms):
        return self._command(f'post {count} {pause_ms} {self._request}')

    def publish_at_rate(self, count, rate):
        return self._command(f'publish-rate {count} {rate}')

    def post_at_rate(self, count, rate):
        return self._command(f'post-rate {count} {rate} {self._request}')

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._process.stdin.close()
        self._process.wait()


def measure(name, p99_goal, engine, limit):
    """Two series, of the medians and of the 99th percentiles."""
    p50 = Series(f'{name}, p50', 'ms', Goal('<= bare + 0.2 ms', lambda s: s.engine <= s.limit + 0.2),
                 limit_name='bare POST')
    p99 = Series(f'{name}, p99', 'ms', p99_goal, limit_name='bare POST')
    for _ in range(knobs.PAIRS):
        ours, bare = engine(), limit()
        p50.add(ours[0], bare[0])
        p99.add(ours[1], bare[1])
    return p50, p99


def after_pause(probe):
    series = Series(f'first after {knobs.PAUSE_SECONDS:g} idle s', 'ms', engine_at_most(5, '5 ms'),
                    limit_name='bare POST')
    for _ in range(PAUSES):
        time.sleep(knobs.PAUSE_SECONDS)
        ours = probe.publish(1, 0)[2]
        series.add(ours, probe.post(1, 0)[2])
    return series


def run(stage, cluster):
    request = os.path.join(stage.directory, 'request')
    with Database(cluster) as database:
        database.configure(publisher='dapr')
        capture_request(database, request, 1, 64)
        with Probe(stage, database, request) as probe:
            probe.post(1, 0)                    # it listens now
            database.configure(dapr_endpoint=probe.url)
            database.enable(True)
            probe.publish(20, 0)                # connections, plans
            yield from measure('idle', engine_at_most(1, '1 ms'), lambda: probe.publish(EVENTS, PAUSE_MS),
                               lambda: probe.post(EVENTS, PAUSE_MS))
            count = int(RATE * knobs.SECONDS)
            yield from measure(f'{RATE:,} a second', NO_GOAL, lambda: probe.publish_at_rate(count, RATE),
                               lambda: probe.post_at_rate(count, RATE))
            yield after_pause(probe)
        database.enable(False)
