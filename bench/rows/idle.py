"""
idle: 50 databases with the extension and nothing to do.  CPU time of all processes of the server, beside
a server without the extension that has the same databases.
"""

import time

from lib import knobs
from lib.cluster import Cluster
from lib.nginx import Nginx
from lib.process import family_cpu_seconds
from lib.series import Goal, Series
from lib.wait import wait_until

DATABASES = 50
SETTINGS = "outbox.enabled = on\noutbox.dapr_endpoint = '{}'"


def percent_of_a_core(pid, seconds):
    before, start = family_cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return 100 * (family_cpu_seconds(pid) - before) / (time.monotonic() - start)


def make(stage, name, preload, url):
    cluster = Cluster(stage, name, more=SETTINGS.format(url), preload=preload)
    with cluster.connect() as sql:
        for i in range(DATABASES):
            sql.run(f'CREATE DATABASE db{i}')
            if preload:
                with cluster.connect(f'db{i}') as other:
                    other.run('CREATE EXTENSION outbox')
        if preload:
            wait_until('the relays', lambda: sql.is_true(
                f"count(*) = {DATABASES} FROM pg_stat_activity WHERE backend_type = 'outbox relay'"))
        sql.run('CHECKPOINT')
    return cluster


def run(stage, cluster):
    series = Series(f'{DATABASES} databases', '% of a core',
                    Goal('<= 0.5 above', lambda s: s.engine - s.limit <= 0.5), limit_name='without the extension')
    with Nginx(stage) as receiver:
        with_extension = make(stage, 'idle', True, receiver.url)
        without = make(stage, 'plain', False, receiver.url)
        try:
            for _ in range(knobs.PAIRS):
                series.add(percent_of_a_core(with_extension.pid, knobs.SECONDS),
                           percent_of_a_core(without.pid, knobs.SECONDS))
        finally:
            with_extension.stop()
            without.stop()
    yield series
