"""
lanes: one topic's events, published in one transaction, until all are settled, while a backlog of another
topic is answered 404; beside the same events with nothing else to do.

The bad topic's backlog is published first, so that the relay has to pass it.  "First" is the time until the
relay has counted the first good one.
"""

import time

from lib import knobs
from lib.cluster import Database
from lib.drain import Drain
from lib.nginx import Nginx
from lib.series import Series, engine_at_most, ratio_at_least
from lib.wait import wait_until


def send(database, count, bad):
    """(events a second, milliseconds until the first)"""
    if bad:
        database.publish(bad, 256, topic='bad')
    before = database.published()
    if bad:
        wait_until('the topic to be down', lambda: database.sql.is_true(
            "EXISTS (SELECT FROM outbox_delivery WHERE topic = 'bad')"), 60)
    database.publish(count, 256, topic='good')
    committed = time.monotonic()
    wait_until('the first', lambda: database.published() > before, 60)
    first = time.monotonic()
    wait_until('all', lambda: database.published() >= before + count, 300)
    seconds = time.monotonic() - committed
    database.enable(False)
    database.empty()
    database.enable(True)
    return count / seconds, (first - committed) * 1000


def run(stage, cluster):
    count, bad = knobs.EVENTS // 4, knobs.EVENTS // 4
    rate = Series('a good topic beside a bad one', 'events/s', ratio_at_least(0.8), limit_name='alone')
    first = Series('... its first event', 'ms', engine_at_most(100, '100 ms'), limit_name='alone')
    with Nginx(stage) as receiver, Database(cluster) as database:
        Drain(stage, database, receiver, 256, publisher='http')
        database.enable(True)
        send(database, count // 10, 0)
        for _ in range(knobs.PAIRS):
            beside, alone = send(database, count, bad), send(database, count, 0)
            rate.add(beside[0], alone[0])
            first.add(beside[1], alone[1])
    yield rate
    yield first
