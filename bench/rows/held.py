"""
held: events are published at a steady rate while one session holds a snapshot and another one a
writing transaction that has published as well.  The time is cut into ten parts (of a minute each, if
BENCH_HELD_SECONDS=600); each is compared with the first.

The delay of an event is from its insertion to the checkpoint that settled it, which is later than its
arrival; one event of a hundred is looked at.
"""

import subprocess
import time

from lib import knobs
from lib.cluster import Database, payload
from lib.nginx import Nginx
from lib.series import Goal, Series

CLIENTS = 4
EVENTS = 20         # in a transaction
PARTS = 10

TRANSACTION = f"""
\\set n random(1, 1000000)
SELECT count(outbox_publish('bench', {payload(256, ':n')})) FROM generate_series(1, {EVENTS});
"""

# The delays in each part: the first checkpoint that covers the event, as in view outbox_events.
DELAYS = """
    SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM s.at - e.created_at) * 1000)
    FROM (SELECT width_bucket(extract(epoch FROM created_at),
                              extract(epoch FROM min(created_at) OVER ()),
                              extract(epoch FROM max(created_at) OVER ()) + 0.001, {parts}) AS part, *
          FROM outbox_event WHERE id % 100 = 0) e
    CROSS JOIN LATERAL (SELECT c.at FROM outbox_progress c
        WHERE c.at >= e.created_at
        AND (pg_visible_in_snapshot(e.xid, c.lo)
             OR (e.id <= c.last_id AND pg_visible_in_snapshot(e.xid, c.hi)))
        AND (e.id = ANY (c.open)) IS NOT TRUE
        ORDER BY c.at LIMIT 1) s
    GROUP BY e.part ORDER BY e.part
"""


def start_writers(database, seconds):
    path = f'{database.cluster.directory}/held.sql'
    with open(path, 'w', encoding='utf-8') as file:
        file.write(TRANSACTION)
    return subprocess.Popen(
        [f'{database.cluster.bin}/pgbench', '-n', '-M', 'prepared', '-f', path, '-c', str(CLIENTS), '-j', '2',
         '-T', str(int(seconds)), '-R', str(knobs.HELD_RATE // EVENTS), '-h', database.cluster.directory,
         '-U', 'postgres', database.name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def published_per_second(database, writers):
    """How many events were published and settled in each part."""
    part = knobs.HELD_SECONDS / PARTS
    rates, before, since = [], database.published(), time.monotonic()
    for i in range(PARTS):
        time.sleep(max(since + part - time.monotonic(), 0))
        published, now = database.published(), time.monotonic()
        rates.append((published - before) / (now - since))
        before, since = published, now
    if writers.wait() != 0:
        raise RuntimeError('pgbench failed')
    return rates


def run(stage, cluster):
    with Nginx(stage) as receiver, Database(cluster) as database, cluster.connect(database.name) as reader, \
            cluster.connect(database.name) as writer:
        # a prune would leave one checkpoint a second, by which no delay can be told
        database.configure(publisher='dapr', dapr_endpoint=receiver.url, cleaning_expire_interval='1d')
        database.enable(True)
        requests = receiver.requests()
        reader.run('BEGIN ISOLATION LEVEL REPEATABLE READ')
        reader.run('SELECT count(*) FROM outbox_event')
        writer.run('BEGIN')
        writer.run("SELECT outbox_publish('bench', '{}')")
        rates = published_per_second(database, start_writers(database, knobs.HELD_SECONDS))
        writer.run('COMMIT')
        count = int(database.sql.value('SELECT count(*) FROM outbox_event'))
        database.await_settled(count)
        reader.run('COMMIT')
        if receiver.requests() - requests < 1:
            raise AssertionError('nothing was received')
        delays = [float(row[0]) for row in database.sql.rows(DELAYS.format(parts=PARTS))]
        database.enable(False)

    ticks = [f'{knobs.HELD_SECONDS * i / PARTS:g} s' for i in range(1, PARTS + 1)]
    throughput = Series('events settled, snapshot and transaction held', 'events/s',
                        Goal('each >= 0.95', lambda s: min(s.ratios) >= 0.95), limit_name='first part', ticks=ticks,
                        note=f'{knobs.HELD_RATE:,} events/s published for {knobs.HELD_SECONDS:g} s')
    for rate in rates:
        throughput.add(rate, rates[0])
    yield throughput
    delay = Series('delay meanwhile, p99', 'ms', Goal('each < 100 ms', lambda s: max(e for e, l in s.pairs) < 100),
                   ticks=ticks)
    for value in delays:
        delay.add(value)
    yield delay
