"""Who changes destinations, and who looks from when on a change holds.

What an operator does is in the tables of SCHEMA, written by the same transaction: so they say what was done, whatever
crashed in between.  When it takes effect is the relay's matter; an observer notes when it was first seen to have done
so, in a transaction that is on disk when it has committed, and with it the relay's own, which it has seen.
"""

import json
import random
import threading
import time

import psycopg2

from load import Journal, Writer
from session import Session

MOST = 4                        # destinations at a time, besides default
NAMES = ('alpha', 'beta', 'gamma', 'delta', 'epsilon')
TOPICS = ('orders', 'orders.paid', 'orders.paid.late', 'stock', 'stock.ünïcode')
PATTERNS = (['#'], ['orders.#'], ['orders.*'], ['#', '!orders.paid'], ['stock.#', 'orders'], ['*'], ['*.*'], [])
PATTERNS_OF_DEFAULT = (['#'], ['#'], ['#', '!orders.#'], ['stock.#'])
SETTINGS = {'http_content_mode': ('binary', 'structured'), 'max_in_flight': (3, 64), 'batch_size': (7, 1000),
            'relay_memory': ('64kB', '16MB'), 'local_retry_times': (0, 3), 'poll_interval': ('10ms', '1s')}

SCHEMA = """
CREATE TABLE torture_life (
    life int PRIMARY KEY, name text NOT NULL, destination int NOT NULL, xid xid8, added_at timestamptz NOT NULL,
    begun pg_snapshot, drop_asked_at timestamptz, dropped_at timestamptz, gone_at timestamptz);
CREATE TABLE torture_version (
    life int, version int, topics text[] NOT NULL, before pg_snapshot NOT NULL, after pg_snapshot,
    asked_at timestamptz NOT NULL, PRIMARY KEY (life, version));
CREATE TABLE torture_settings (life int, asked_at timestamptz NOT NULL, held_at timestamptz);
CREATE TABLE torture_pause (life int, asked_at timestamptz NOT NULL, paused_at timestamptz, resumed_at timestamptz);
CREATE TABLE torture_replay (
    replay serial PRIMARY KEY, life int, pattern text, asked_at timestamptz, version int NOT NULL, count bigint,
    request bigint, done_at timestamptz);
CREATE TABLE torture_settled (what text, event_id uuid);
INSERT INTO torture_life (life, name, destination, added_at) VALUES (0, 'default', 0, '-infinity');
INSERT INTO torture_version VALUES (0, 1, '{#}', '1:1:', '1:1:', '-infinity');

-- What is settled for a destination, as far as its position says so.
CREATE FUNCTION torture_settled_for(of int) RETURNS TABLE (event_id uuid, created_at timestamptz) LANGUAGE sql AS $$
    SELECT e.event_id, e.created_at
    FROM (SELECT lo, open FROM outbox_progress WHERE destination = $1 ORDER BY id DESC LIMIT 1) p
    JOIN outbox_event e ON pg_visible_in_snapshot(e.xid, p.lo) AND (e.id = ANY (p.open)) IS NOT TRUE
    WHERE NOT EXISTS (
        SELECT 1 FROM outbox_delivery d
        WHERE d.destination = $1 AND d.id = e.id AND d.state NOT IN ('published', 'discarded', 'expired'))
$$;
"""


class Operator(Writer):
    """Adds, alters, pauses, resumes, drops and replays destinations, and publishes in between."""

    # What is done, and how often; of default nothing is altered but its topics, and it is never dropped.
    ACTIONS = {'add': 5, 'alter_topics': 5, 'alter_settings': 2, 'pause': 3, 'resume': 5, 'replay': 3, 'drop': 2}
    OF_DEFAULT = ('alter_topics', 'pause', 'resume', 'replay')
    WAIT = (0.1, 0.8)

    def __init__(self, load, number, url, numbers):
        super().__init__(load, number)
        self.url = url
        self.numbers = numbers          # of lives
        self.done = dict.fromkeys(self.ACTIONS, 0)

    def work(self):
        self.number += 1
        self.txn = f'{self.name}.{self.number}'
        self.rng = random.Random(f'{self.load.seed}/{self.txn}')
        self.load.journal.note(self.txn, Journal.ROLLED_BACK)
        self.cursor.execute('SELECT count(*) FROM torture_life WHERE dropped_at IS NULL')
        lives = self.cursor.fetchone()[0]
        action = 'add' if lives == 1 else self.rng.choices(list(self.ACTIONS), self.ACTIONS.values())[0]
        try:
            if action != 'add':
                self.change(action)
            elif lives <= MOST:
                self.add()
        except psycopg2.errors.DuplicateObject:
            self.cursor.execute('ROLLBACK')         # the other operator was faster
        self.load.stopping.wait(self.rng.uniform(*self.WAIT))

    def one(self, statement, *parameters):
        self.cursor.execute(statement, parameters)
        return self.cursor.fetchone()[0]

    # --- adding one

    def add(self):
        """With events of the same transaction, in some cases, before it and behind it."""
        life = next(self.numbers)
        name = self.rng.choice(NAMES)
        topics = self.rng.choice(PATTERNS)
        from_start = self.rng.random() < 0.25
        self.cursor.execute('BEGIN ISOLATION LEVEL ' + self.rng.choice(('READ COMMITTED', 'REPEATABLE READ')))
        self.cursor.execute("SET LOCAL lock_timeout = '3s'")
        if self.rng.random() < 0.7:
            self.publish_any('before')
            self.load.stopping.wait(self.rng.uniform(0, 0.3))
        before = self.one('SELECT pg_current_snapshot()')
        settings = {'publisher': 'http', 'http_url': f'{self.url}/{life}/{{topic}}', **self.draw_settings()}
        self.cursor.execute('SELECT outbox_add_destination(%s, %s::text[], %s, %s)',
                            (name, topics, json.dumps(settings), from_start))
        after = self.one('SELECT pg_current_snapshot()')
        self.cursor.execute(
            'INSERT INTO torture_life SELECT %s, %s, id, pg_current_xact_id(), clock_timestamp(), %s'
            ' FROM outbox_destination WHERE name = %s', (life, name, after if from_start else None, name))
        self.cursor.execute(
            'INSERT INTO torture_version VALUES (%s, 1, %s, %s, %s, clock_timestamp())',
            (life, topics, *(('1:1:', '1:1:') if from_start else (before, after))))
        if from_start:
            self.cursor.execute('INSERT INTO torture_settled SELECT %s, event_id FROM outbox_event', (f'start {life}',))
        if self.rng.random() < 0.5:
            self.publish_any('behind')
        self.finish('add')

    def draw_settings(self):
        return {name: self.rng.choice(SETTINGS[name]) for name in self.rng.sample(sorted(SETTINGS), 2)}

    def finish(self, action):
        """Commit, or have somebody else commit what is prepared."""
        if action == 'add' and self.rng.random() < 0.2:
            try:
                self.cursor.execute('PREPARE TRANSACTION %s', (self.txn,))
            finally:
                self.load.to_resolve.append((time.monotonic() + self.rng.uniform(0, 1), self.txn, True))
        else:
            self.end('COMMIT')
        self.done[action] += 1

    # --- changing one

    def change(self, action):
        """Whoever changes a destination has the row of its life locked."""
        self.cursor.execute('BEGIN')
        self.cursor.execute("SET LOCAL lock_timeout = '3s'")
        self.cursor.execute('SELECT life, name, destination FROM torture_life WHERE dropped_at IS NULL'
                            ' AND (life > 0 OR %s) ORDER BY life FOR UPDATE SKIP LOCKED', (action in self.OF_DEFAULT,))
        found = self.cursor.fetchall()
        if not found:
            self.cursor.execute('ROLLBACK')
            return
        getattr(self, 'do_' + action)(*self.rng.choice(found))
        if self.rng.random() < 0.2:
            self.publish_any(action)
        self.finish(action)

    def do_alter_topics(self, life, name, destination):
        """Whatever the position says is settled has been read with the topics of before."""
        topics = self.rng.choice(PATTERNS if life else PATTERNS_OF_DEFAULT)
        before = self.one('SELECT lo FROM outbox_progress WHERE destination = %s ORDER BY id DESC LIMIT 1', destination)
        self.cursor.execute('SELECT outbox_alter_destination(%s, topics => %s::text[])', (name, topics))
        self.cursor.execute(
            'INSERT INTO torture_version SELECT %s, max(version), %s, %s, NULL, clock_timestamp() FROM outbox_filter'
            ' WHERE destination = %s HAVING max(version) > 0 ON CONFLICT DO NOTHING',
            (life, topics, before, destination))

    def do_alter_settings(self, life, name, _):
        self.cursor.execute('INSERT INTO torture_settings VALUES (%s, clock_timestamp())', (life,))
        self.cursor.execute('SELECT outbox_alter_destination(%s, settings => %s)',
                            (name, json.dumps(self.draw_settings())))

    def do_pause(self, life, name, _):
        self.cursor.execute('INSERT INTO torture_pause SELECT %s, clock_timestamp() WHERE NOT EXISTS'
                            ' (SELECT 1 FROM torture_pause WHERE life = %s AND resumed_at IS NULL)', (life, life))
        self.cursor.execute('SELECT outbox_pause(%s)', (name,))

    def do_resume(self, life, name, _):
        self.cursor.execute('UPDATE torture_pause SET resumed_at = clock_timestamp()'
                            ' WHERE life = %s AND resumed_at IS NULL', (life,))
        self.cursor.execute('SELECT outbox_resume(%s)', (name,))

    def do_replay(self, life, name, destination):
        """Mostly of what is a few seconds old, or of some topics."""
        pattern = self.rng.choice((None, None, 'orders.#', 'stock', '*.*'))
        since = self.one('SELECT now() - %s::interval', self.rng.choice(('2 s', '5 s', '1 day')))
        replay = self.one(
            'INSERT INTO torture_replay (life, pattern, version) SELECT %s, %s, coalesce(max(version), 1)'
            ' FROM outbox_filter WHERE destination = %s RETURNING replay', life, pattern, destination)
        settled = f'replay {replay}'
        self.cursor.execute('INSERT INTO torture_settled SELECT %s, event_id FROM torture_settled_for(%s)'
                            ' WHERE created_at >= %s', (settled, destination, since))
        self.cursor.execute('UPDATE torture_replay SET asked_at = clock_timestamp() WHERE replay = %s', (replay,))
        count = self.one('SELECT outbox_replay(%s, %s, %s)', name, pattern, since)
        self.cursor.execute(
            'UPDATE torture_replay SET count = %s, request = (SELECT max(id) FROM outbox_request'
            " WHERE action = 'replay' AND xmin = pg_current_xact_id()::xid) WHERE replay = %s", (count, replay))
        # from here on nothing is pruned, but something may have been
        self.cursor.execute('DELETE FROM torture_settled s WHERE what = %s AND NOT EXISTS'
                            ' (SELECT 1 FROM outbox_event e WHERE e.event_id = s.event_id)', (settled,))

    def do_drop(self, life, name, destination):
        self.cursor.execute('UPDATE torture_life SET drop_asked_at = clock_timestamp() WHERE life = %s', (life,))
        self.cursor.execute('INSERT INTO torture_settled SELECT %s, event_id FROM torture_settled_for(%s)',
                            (f'drop {life}', destination))
        self.cursor.execute('SELECT outbox_drop_destination(%s)', (name,))
        self.cursor.execute('UPDATE torture_life SET dropped_at = clock_timestamp() WHERE life = %s', (life,))


class Observer(Session):
    """Notes what has taken effect."""

    WAIT = 0.05
    HAS_RELAY = 'SELECT 1 FROM outbox_relay_status() s WHERE s.destination_id = l.destination AND s.pid IS NOT NULL'

    NOTES = (
        # The relay has begun with a version: what comes now it reads with that.
        'UPDATE torture_version v SET after = pg_current_snapshot() FROM torture_life l, outbox_filter f'
        ' WHERE v.after IS NULL AND l.life = v.life AND l.dropped_at IS NULL'
        ' AND f.destination = l.destination AND f.version = v.version AND f.since IS NOT NULL',
        # It says that it is paused, and has not said so all the time.
        'UPDATE torture_pause p SET paused_at = clock_timestamp() FROM torture_life l, outbox_relay_status() s'
        ' WHERE p.paused_at IS NULL AND p.resumed_at IS NULL AND l.life = p.life AND s.destination_id = l.destination'
        " AND s.state = 'paused' AND s.since > p.asked_at",
        'UPDATE torture_replay r SET done_at = clock_timestamp() WHERE r.done_at IS NULL'
        ' AND NOT EXISTS (SELECT 1 FROM outbox_request q WHERE q.id = r.request)',
        # The relay of settings that have changed has ended.
        'UPDATE torture_settings c SET held_at = clock_timestamp() FROM torture_life l, outbox_relay_status() s'
        ' WHERE c.held_at IS NULL AND l.life = c.life AND s.destination_id = l.destination'
        ' AND s.started_at > c.asked_at',
        f'UPDATE torture_life l SET gone_at = clock_timestamp() WHERE l.dropped_at IS NOT NULL AND l.gone_at IS NULL'
        f' AND NOT EXISTS ({HAS_RELAY})')

    def __init__(self, load):
        super().__init__(load, f'{load.prefix}observer')
        self.ended = threading.Event()

    def finished(self):
        return self.ended.is_set()

    def work(self):
        for note in self.NOTES:
            self.cursor.execute(note)
        self.ended.wait(self.WAIT)

    def end(self):
        self.ended.set()
        self.join()
        if self.error is not None:
            raise self.error
