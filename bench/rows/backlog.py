"""
backlog: events of 1 KB are pending when the relay starts.  The memory of its process above that of an
idle one (its own and its file mappings; shared buffers are not its own), the largest of what was seen
while it worked; and the time from its start to the first event that the receiver has.
"""

import time

from lib import knobs
from lib.cluster import Database
from lib.nginx import Nginx
from lib.process import rss_bytes
from lib.series import NO_GOAL, Series, engine_at_most
from lib.wait import wait_until

MB = 1024 * 1024


def run(stage, cluster):
    memory = Series(f'{knobs.BACKLOG:,} x 1 KB: memory above idle', 'MB', engine_at_most(64, '64 MB'))
    first = Series('first delivery after the start', 's', engine_at_most(1, '1 s'))
    rate = Series('settled until all are', 'events/s', NO_GOAL)
    with Nginx(stage) as receiver, Database(cluster) as database:
        database.configure(publisher='dapr', dapr_endpoint=receiver.url, enabled='on')
        database.publish(100, 1024)
        database.await_settled(100)
        idle = rss_bytes(database.relay_pid)

        database.enable(False)
        for _ in range(0, knobs.BACKLOG, 100000):
            database.publish(100000, 1024)
        database.sql.run('CHECKPOINT')
        database.sql.run('ALTER SYSTEM SET outbox.enabled = on')
        requests = receiver.requests()
        start = time.monotonic()
        database.sql.run(f'SELECT pg_reload_conf(), pg_terminate_backend({database.relay_pid}, 10000)')
        # the sidecar is asked how it is, before the first event
        wait_until('the first event', lambda: receiver.requests() - requests > 5)
        first.add(time.monotonic() - start)
        database.await_relay()

        peak = idle
        while database.published() < knobs.BACKLOG:
            peak = max(peak, rss_bytes(database.relay_pid))
            time.sleep(0.1)
        database.await_settled(knobs.BACKLOG)
        rate.add(knobs.BACKLOG / (time.monotonic() - start))
        memory.add((peak - idle) / MB)
        database.enable(False)
    yield memory
    yield first
    yield rate
