"""
fanout: what further destinations cost.

Pending events, until "default" has settled them, while 1 or 3 other destinations take them too, beside the same with
"default" alone.  All send to the same nginx, each by a relay of its own.  On a machine with few cores they share these:
so the goal is what is left for each of them, and the second figure says how many requests there are in all.

What each costs the publisher: 10,000 events by one INSERT, while relays of 1 or 3 others are there and disabled.  The
publisher writes an event once, however many destinations take it.
"""

import time

from lib import knobs
from lib.cluster import Database, payload
from lib.nginx import Nginx
from lib.series import NO_GOAL, Series, alternate, ratio_at_least, ratio_at_most
from lib.wait import wait_until

OTHERS = (1, 3)
SIZE = 256
INSERT = f"INSERT INTO outbox_event (topic, payload) SELECT 'bench', {payload(SIZE)} FROM generate_series(1, 10000) n"


class Fanout(Database):
    """A database with so many destinations besides "default" as a measurement wants."""

    def published(self, name='default'):
        return int(self.sql.value(f"SELECT published FROM outbox_stats WHERE destination = '{name}'"))

    def backlog(self):
        return int(self.sql.value('SELECT sum(backlog) FROM outbox_stats'))

    def _find_relay(self):
        pid = self.sql.value("SELECT pid FROM outbox_relays WHERE datname = current_database() "
                             "AND destination = 'default' AND state NOT IN ('starting', 'stopped')")
        return int(pid) if pid else None

    def enable(self, on):
        """Let relays send, or wait until all have stopped."""
        self.sql.run(f"ALTER SYSTEM SET outbox.enabled = {'on' if on else 'off'}")
        self.sql.run('SELECT pg_reload_conf()')
        if not on:
            wait_until('the relays to stop', lambda: self.sql.is_true(
                "bool_and(state = 'disabled') FROM outbox_relays WHERE datname = current_database()"))

    def have_others(self, count):
        """Have so many others, whose relays run and are disabled."""
        self.sql.run("SELECT outbox_drop_destination(name) FROM outbox_destinations WHERE name <> 'default'")
        self.sql.run(f"SELECT outbox_add_destination('other_' || n) FROM generate_series(1, {count}) n")
        wait_until('the relays', lambda: self.sql.is_true(
            f"count(*) = {count + 1} AND bool_and(state = 'disabled') FROM outbox_relays "
            "WHERE datname = current_database() AND pid IS NOT NULL"), 60)


def rates(database, count, others):
    """Events a second of "default", and of all destinations until the last of them is done."""
    database.have_others(others)
    database.publish(count, SIZE)
    database.sql.run('CHECKPOINT')
    before = database.published()
    start = time.monotonic()
    database.enable(True)
    wait_until('default', lambda: database.published() >= before + count, 300)
    first = time.monotonic() - start
    wait_until('all', lambda: database.backlog() == 0, 300)
    everything = time.monotonic() - start
    database.enable(False)
    database.empty()
    return count / first, count * (others + 1) / everything


def insert_ms(database, others):
    """
    The second of two, since relays have just been started.  Not kept, so that each meets tables and indexes of the
    same size.
    """
    database.have_others(others)
    for _ in range(2):
        database.sql.run('BEGIN')
        start = time.monotonic()
        database.sql.run(INSERT)
        seconds = time.monotonic() - start
        database.sql.run('ROLLBACK')
    return seconds * 1000


def run(stage, cluster):
    with Nginx(stage) as receiver, Fanout(cluster) as database:
        database.enable(False)
        database.configure(publisher='http', http_url=receiver.url + '/{topic}')
        count = knobs.EVENTS // 4
        rates(database, count // 10, 0)
        for others in OTHERS:
            name = f'default, of {others + 1} destinations'
            first = Series(name, 'events/s', ratio_at_least(0.8 / (others + 1)), limit_name='alone')
            everything = Series('... all of them', 'events/s', NO_GOAL, limit_name='alone')
            for _ in range(knobs.PAIRS):
                together, alone = rates(database, count, others), rates(database, count, 0)
                first.add(together[0], alone[0])
                everything.add(together[1], alone[1])
            yield first
            yield everything
            yield alternate(Series(f'10,000 by one INSERT, {others + 1} destinations', 'ms', ratio_at_most(1.1),
                                   limit_name='one'), knobs.PAIRS,
                            lambda others=others: insert_ms(database, others), lambda: insert_ms(database, 0))
