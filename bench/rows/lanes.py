"""
lanes: topics in trouble, beside the same events with nothing else to do.

A bad topic: one topic's events, published in one transaction, until all are settled, while a backlog of another
one is answered 404.  That backlog is published first, so that the relay has to pass it.  "First" is the time until
the relay has counted the first good one.  Then single events, from commit to arrival: the longest while the backlog
is read and written down, for which those behind it have to wait, and the 99th percentile when that is done.

Slow topics: the same beside 49 topics, each with a backlog of which each event is answered after two seconds, and
has been once.  Those of them that are counted with the fast one's are less than a hundredth.

Many topics: events of 10,000 topics, three of which are answered 404.

Times of arrival are those of nginx's log, which knows milliseconds; the clock starts when the client has the
commit's answer.
"""

import time

from lib import knobs
from lib.cluster import Database, payload
from lib.drain import Drain
from lib.nginx import SLOW_SECONDS, Nginx
from lib.series import NO_GOAL, Series, engine_at_most, ratio_at_least
from lib.wait import wait_until

SLOW_TOPICS = 49
SLOW_EVENTS = 30            # of each, more than can be answered in the time of a measurement
TOPICS = 10000
DOWN = 3
SINGLE = 150                # events of which each is watched
PAUSE = 0.01                # seconds between two of them
FEW_PAIRS = (knobs.PAIRS + 1) // 2


def forget(database):
    database.enable(False)
    database.empty()
    database.enable(True)


def make_trouble(database, trouble, passed=True):
    """
    Publish a backlog of "bad" or "slow" topics, or none, and wait until the relay has met it; with "passed", until
    all of the bad one's has been read and written down.
    """
    if trouble == 'bad':
        count = knobs.EVENTS // 4
        database.publish(count, 256, topic='bad')
        wait_until('the topic to be down', lambda: database.sql.is_true(
            f"count(*) >= {count if passed else 1} FROM outbox_delivery WHERE topic = 'bad'"), 60)
    elif trouble == 'slow':
        before = database.published()
        database.sql.run(f"""
            INSERT INTO outbox_event (topic, payload)
            SELECT 'slow-' || n % {SLOW_TOPICS}, {payload(256)}
            FROM generate_series(1, {SLOW_TOPICS * SLOW_EVENTS}) n""")
        wait_until('slow answers', lambda: database.published() >= before + SLOW_TOPICS, 60)


def send(database, count, trouble):
    """(events a second, milliseconds until the first)"""
    make_trouble(database, trouble, passed=False)
    before = database.published()
    database.publish(count, 256, topic='good')
    committed = time.monotonic()
    wait_until('the first', lambda: database.published() > before, 60)
    first = time.monotonic()
    wait_until('all', lambda: database.published() >= before + count, 300)
    seconds = time.monotonic() - committed
    forget(database)
    return count / seconds, (first - committed) * 1000


def latencies(database, receiver, trouble, passed=True):
    """Milliseconds from commit to arrival, in ascending order."""
    make_trouble(database, trouble, passed)
    committed = {}
    for _ in range(SINGLE):
        event_id = database.sql.value("SELECT outbox_publish('watched', '{}')")
        committed[event_id] = time.time()
        time.sleep(PAUSE)
    wait_until('single events', lambda: committed.keys() <= receiver.arrivals().keys(), 60)
    arrivals = receiver.arrivals()
    forget(database)
    return sorted(max(arrivals[event_id] - at, 0) * 1000 for event_id, at in committed.items())


def p99(*arguments):
    return latencies(*arguments)[SINGLE * 99 // 100]


def send_many(database, count, down):
    """Events a second, of all topics but those that are down."""
    before = database.published()
    database.sql.run(f"""
        INSERT INTO outbox_event (topic, payload)
        SELECT CASE WHEN n % {TOPICS} < {down} THEN 'bad' ELSE 'topic' END || '-' || n % {TOPICS}, to_jsonb(n)
        FROM generate_series(1, {count}) n""")
    start = time.monotonic()
    goal = before + count - count // TOPICS * down
    wait_until('all', lambda: database.published() >= goal, 300)
    seconds = time.monotonic() - start
    forget(database)
    return (goal - before) / seconds


def beside_bad(database, receiver):
    count = knobs.EVENTS // 4
    rate = Series('a good topic beside a bad one', 'events/s', ratio_at_least(0.8), limit_name='alone')
    first = Series('... its first event', 'ms', engine_at_most(100, '100 ms'), limit_name='alone')
    behind = Series('... single ones while it is read, max', 'ms', NO_GOAL)
    late = Series('... then, p99', 'ms', engine_at_most(100, '100 ms'), limit_name='alone')
    send(database, count // 10, None)
    for _ in range(knobs.PAIRS):
        beside, alone = send(database, count, 'bad'), send(database, count, None)
        rate.add(beside[0], alone[0])
        first.add(beside[1], alone[1])
        behind.add(latencies(database, receiver, 'bad', False)[-1])
        late.add(p99(database, receiver, 'bad'), p99(database, receiver, None))
    return rate, first, behind, late


def beside_slow(database, receiver):
    count = knobs.EVENTS // 8
    name = f'a fast topic beside {SLOW_TOPICS} that take {SLOW_SECONDS} s'
    rate = Series(name, 'events/s', ratio_at_least(0.5), limit_name='alone')
    late = Series('... its single events, p99', 'ms', engine_at_most(100, '100 ms'), limit_name='alone')
    for _ in range(FEW_PAIRS):
        rate.add(send(database, count, 'slow')[0], send(database, count, None)[0])
        late.add(p99(database, receiver, 'slow'), p99(database, receiver, None))
    return rate, late


def many(database):
    count = max(knobs.EVENTS // 5 // TOPICS, 1) * TOPICS
    rate = Series(f'{TOPICS} topics, {DOWN} of them down', 'events/s', ratio_at_least(0.9), limit_name='all well')
    for _ in range(FEW_PAIRS):
        rate.add(send_many(database, count, DOWN), send_many(database, count, 0))
    return rate


def run(stage, cluster):
    with Nginx(stage) as receiver, Database(cluster) as database:
        Drain(stage, database, receiver, 256, publisher='http', http_content_mode='binary')
        database.enable(True)
        yield from beside_bad(database, receiver)
        yield from beside_slow(database, receiver)
        yield many(database)
