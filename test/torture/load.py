"""The load: writers that publish events in every kind of transaction.

A writer records what it publishes in torture_truth, in the same transaction: what is in that table
at the end was committed, and nothing else was, whatever crashed in between.  Besides, the Journal
knows of every transaction how it ended and when its COMMIT was sent, which tells apart what came
too early from what was made up.

A key's events are numbered.  Its number is in torture_key, whose row a writer locks for its
transaction: so that the numbers of a key are in the order of the commits.

Everything that a writer does is drawn from the seed: its n-th operation is the same in every run.
"""

import random
import threading
import time

import psycopg2

from bystanders import Administrator, Watcher
from payloads import make_bytes, make_json
from session import RECONNECT, Session

KEYS = 24
HOT_KEYS = 2                    # each with hundreds of events at a time, in one topic
TOPICS = ('orders', 'stock', 'a/b c', 'ünïcode')
REUSABLE_IDS = 200
LONG_SLEEPS = (0.3, 1.5)
POISON = 'poison'               # modes, by which the checker knows them
BINARY = 'binary'

# Operations of a writer (methods do_...), and how often.
MIX = {'autocommit': 30, 'transaction': 12, 'keyed': 30, 'insert': 6, 'savepoint': 8, 'rollback': 5, 'error': 2,
       'prepared': 5, 'long': 2, 'scheduled': 4, 'binary': 6, 'duplicate': 5, 'bulk': 0.4, 'hot': 1.5, 'poison': 0.3}

SCHEMA = f"""
CREATE TABLE torture_truth (
    event_id uuid PRIMARY KEY, txn text NOT NULL, mode text NOT NULL, topic text NOT NULL, key text, seq bigint,
    payload text NOT NULL, due timestamptz, times int NOT NULL DEFAULT 1, xid xid8 DEFAULT pg_current_xact_id());
CREATE TABLE torture_key (key text PRIMARY KEY, seq bigint NOT NULL);
INSERT INTO torture_key SELECT 'key ' || n, 0 FROM generate_series(1, {KEYS}) n;
INSERT INTO torture_key SELECT 'hot ' || n, 0 FROM generate_series(1, {HOT_KEYS}) n;
CREATE TABLE torture_given_up (event_id uuid PRIMARY KEY);
"""

# The payload as text: JSON as the server writes it, bytes in hexadecimal digits.
TRUTH = 'INSERT INTO torture_truth (event_id, txn, mode, topic, key, seq, payload, due) '

PUBLISH = (
    'WITH e AS MATERIALIZED ('
    '  SELECT outbox_publish(%(topic)s, %(payload)s::jsonb, %(key)s, deliver_after => %(due)s) id)'
    + TRUTH + 'SELECT id, %(txn)s, %(mode)s, %(topic)s, %(key)s, %(seq)s, %(payload)s::jsonb::text, %(due)s FROM e'
    ' RETURNING event_id')

PUBLISH_BYTES = (
    'WITH e AS MATERIALIZED (SELECT outbox_publish_bytes(%(topic)s, %(payload)s, \'application/octet-stream\') id)'
    + TRUTH + "SELECT id, %(txn)s, %(mode)s, %(topic)s, NULL, NULL, encode(%(payload)s, 'hex'), NULL FROM e"
    ' RETURNING event_id')

INSERT = (
    'WITH e AS (INSERT INTO outbox_event (topic, payload, key) VALUES (%(topic)s, %(payload)s, %(key)s)'
    ' RETURNING event_id, payload)'
    + TRUTH + 'SELECT event_id, %(txn)s, %(mode)s, %(topic)s, %(key)s, %(seq)s, payload::text, NULL FROM e'
    ' RETURNING event_id')

BULK = (
    'WITH e AS MATERIALIZED (SELECT n, p, outbox_publish(%(topic)s, p, %(key)s) id FROM ('
    "  SELECT n, jsonb_build_object('token', %(txn)s, 'n', n) p FROM generate_series(1, %(count)s) n ORDER BY n) s)"
    + TRUTH + 'SELECT id, %(txn)s, %(mode)s, %(topic)s, %(key)s, %(seq)s + n, p::text, NULL FROM e')

# Of many topics at a time, without a writer.
BATCH = (
    'WITH e AS MATERIALIZED (SELECT topic, k, n, p, outbox_publish(topic, p, k) id FROM ('
    "  SELECT topic, n, jsonb_build_object('token', %(txn)s, 'n', n) p,"
    "   CASE WHEN %(keys)s > 0 THEN 'k' || n %% greatest(%(keys)s, 1) END k"
    '  FROM generate_series(%(first)s, %(first)s + %(each)s - 1) n, unnest(%(topics)s) topic ORDER BY n, topic) s)'
    + TRUTH + "SELECT id, %(txn)s, 'batch', topic, k, CASE WHEN k IS NOT NULL THEN n END, p::text, NULL FROM e")

# An id that was used before: is it new here, since the first transaction did not commit?
REUSE = (
    TRUTH + 'SELECT event_id, %(txn)s, %(mode)s, topic, key, NULL, payload::text, NULL'
    ' FROM outbox_event WHERE event_id = %(id)s AND xid = pg_current_xact_id()'
    ' ON CONFLICT (event_id) DO UPDATE SET times = torture_truth.times + 1')


class Journal:
    """How every transaction ended: {name: (outcome, when COMMIT was sent)}."""

    COMMITTED = 'committed'
    ROLLED_BACK = 'rolled back'
    IN_DOUBT = 'in doubt'           # the connection broke during COMMIT

    def __init__(self):
        self.fates = {}             # assignments to a dict need no lock

    def note(self, txn, outcome, asked_at=None):
        self.fates[txn] = (outcome, asked_at)


class Writer(Session):
    def __init__(self, load, number):
        super().__init__(load, f'{load.prefix}{number}')
        self.number = 0             # of the operation
        self.rng = None
        self.txn = None
        self.reused = []            # (id, topic, payload) of earlier events

    def work(self):
        self.number += 1
        self.txn = f'{self.name}.{self.number}'
        self.rng = random.Random(f'{self.load.seed}/{self.txn}')
        operation = self.rng.choices(list(MIX), MIX.values())[0]
        asynchronous = self.load.all_async.is_set() or (self.load.allow_async and self.rng.random() < 0.3)
        self.cursor.execute(f"SET synchronous_commit = {'off' if asynchronous else 'on'}")
        self.load.journal.note(self.txn, Journal.ROLLED_BACK)       # until COMMIT is sent
        getattr(self, 'do_' + operation)(operation)
        self.load.stopping.wait(self.rng.uniform(0, self.load.pause))

    # --- pieces

    def begin(self):
        self.cursor.execute('BEGIN')

    def end(self, statement, *arguments):
        """Send what commits, and note how that went."""
        asked_at = time.time()
        self.load.journal.note(self.txn, Journal.IN_DOUBT, asked_at)
        try:
            self.cursor.execute(statement, *arguments)
        except psycopg2.Error:
            if not self.connection.closed:                           # the server said no
                self.load.journal.note(self.txn, Journal.ROLLED_BACK)
            raise
        self.load.journal.note(self.txn, Journal.COMMITTED, asked_at)

    def event(self, mode, **more):
        """Parameters of PUBLISH and INSERT."""
        token = more.pop('token', self.txn)
        return {'topic': self.rng.choice(self.load.topics), 'key': None, 'seq': None, 'due': None, 'txn': self.txn,
                'mode': mode, 'payload': make_json(self.rng, token, mode == POISON), **more}

    def publish(self, mode, **more):
        event = self.event(mode, **more)
        self.cursor.execute(INSERT if mode == 'insert' else PUBLISH, event)
        if event['key'] is None and event['due'] is None and mode != POISON:
            self.load.remember(self.cursor.fetchone()[0], event['topic'], event['payload'])

    def lock_key(self, key=None):
        """(key, its last number) of one that nobody else is writing to, or None."""
        if key is None:
            key = f'key {self.rng.randrange(KEYS) + 1}'
        self.cursor.execute('SELECT key, seq FROM torture_key WHERE key = %s FOR UPDATE SKIP LOCKED', (key,))
        return self.cursor.fetchone()

    def publish_keyed(self, mode, count):
        """Some events of one key, in a transaction that is open."""
        locked = self.lock_key()
        if locked is None:
            return
        key, seq = locked
        for _ in range(count):
            seq += 1
            self.publish(mode, key=key, seq=seq)
        self.cursor.execute('UPDATE torture_key SET seq = %s WHERE key = %s', (seq, key))

    def publish_any(self, mode):
        if self.rng.random() < 0.5:
            self.publish_keyed(mode, self.rng.randint(1, 3))
        else:
            self.publish(mode)

    # --- operations

    def do_autocommit(self, mode):
        event = self.event(mode)
        self.end(PUBLISH, event)
        self.load.remember(self.cursor.fetchone()[0], event['topic'], event['payload'])

    def do_transaction(self, mode):
        self.begin()
        for _ in range(self.rng.randint(1, 5)):
            self.publish_any(mode)
        self.end('COMMIT')

    def do_keyed(self, mode):
        self.begin()
        self.publish_keyed(mode, self.rng.randint(1, 4))
        self.end('COMMIT')

    def do_insert(self, mode):
        self.begin()
        self.publish_any(mode)
        self.end('COMMIT')

    def do_savepoint(self, mode):
        """Of three parts the second is rolled back; the third one is a subtransaction that stays."""
        self.begin()
        self.publish_any(mode)
        self.cursor.execute('SAVEPOINT a')
        lost = self.txn + 's'
        self.load.journal.note(lost, Journal.ROLLED_BACK)
        self.cursor.execute(PUBLISH, self.event(mode, token=lost))
        self.cursor.execute('ROLLBACK TO a')
        self.publish_any(mode)
        self.cursor.execute('RELEASE a')
        self.publish_any(mode)
        self.end('COMMIT')

    def do_rollback(self, mode):
        self.begin()
        self.publish_any(mode)
        self.load.stopping.wait(self.rng.uniform(0, 0.1))
        self.cursor.execute('ROLLBACK')

    def do_error(self, mode):
        """The statement that publishes fails as a whole, and the transaction with it."""
        self.begin()
        self.publish(mode)
        try:
            self.cursor.execute("SELECT outbox_publish('t', %s::jsonb), 1 / (n - 1) FROM generate_series(0, 1) n",
                                (make_json(self.rng, self.txn),))
        except psycopg2.errors.DivisionByZero:
            self.cursor.execute('COMMIT')

    def do_prepared(self, mode):
        """Its end is the Resolver's."""
        self.begin()
        self.publish_any(mode)
        self.publish_any(mode)
        commit = self.rng.random() < 0.7
        wait = self.rng.uniform(0.2, 2)
        try:
            self.cursor.execute('PREPARE TRANSACTION %s', (self.txn,))
        finally:                            # if that failed, nobody knows whether it is prepared
            self.load.to_resolve.append((time.monotonic() + wait, self.txn, commit))

    def do_long(self, mode):
        """It takes its ids early and commits late."""
        self.begin()
        self.publish_any(mode)
        self.load.stopping.wait(self.rng.uniform(*LONG_SLEEPS))
        self.publish_any(mode)
        self.end('COMMIT')

    def do_scheduled(self, mode):
        self.begin()
        self.cursor.execute("SELECT now() + %s * interval '1 second'", (self.rng.uniform(0.05, 3),))
        self.publish(mode, due=self.cursor.fetchone()[0])
        self.end('COMMIT')

    def do_binary(self, mode):
        self.end(PUBLISH_BYTES, {'topic': self.rng.choice(self.load.topics), 'payload': make_bytes(self.rng, self.txn),
                                 'txn': self.txn, 'mode': mode})

    def do_duplicate(self, mode):
        """Publish an id again: of an event that is there, or of one that was never committed."""
        if not self.load.reusable:
            return
        event_id, topic, payload = self.rng.choice(list(self.load.reusable))
        self.begin()
        self.cursor.execute('SET LOCAL lock_timeout = 1000')
        self.cursor.execute('SELECT outbox_publish(%s, %s::jsonb, event_id => %s)', (topic, payload, event_id))
        self.cursor.execute(REUSE, {'id': event_id, 'txn': self.txn, 'mode': mode})
        self.end('COMMIT')

    def do_bulk(self, mode):
        """Thousands in one statement, for one key in some cases."""
        self.begin()
        locked = self.lock_key() if self.rng.random() < 0.3 else None
        count = self.rng.randint(100, 300) if locked else self.rng.randint(1000, 3000)
        key, seq = locked or (None, None)
        self.cursor.execute(BULK, {'topic': self.rng.choice(self.load.topics), 'key': key, 'seq': seq, 'count': count,
                                   'txn': self.txn, 'mode': mode})
        if key is not None:
            self.cursor.execute('UPDATE torture_key SET seq = %s WHERE key = %s', (seq + count, key))
        self.end('COMMIT')

    def do_hot(self, mode):
        """Hundreds of events of a key that has many already."""
        self.begin()
        number = self.rng.randrange(HOT_KEYS)
        count = self.rng.randint(50, 400)
        locked = self.lock_key(f'hot {number + 1}')
        if locked is not None:
            key, seq = locked
            self.cursor.execute(BULK, {'topic': self.load.topics[number], 'key': key, 'seq': seq, 'count': count,
                                       'txn': self.txn, 'mode': mode})
            self.cursor.execute('UPDATE torture_key SET seq = %s WHERE key = %s', (seq + count, key))
        self.end('COMMIT')

    def do_poison(self, mode):
        """The receiver refuses it for good, as long as a rule tells it so."""
        self.begin()
        self.publish(mode)
        self.end('COMMIT')


class Resolver(Session):
    """Ends prepared transactions, as a transaction manager would: again and again until it is done."""

    def finished(self):
        return self.load.draining.is_set() and not self.load.to_resolve

    def work(self):
        waiting = self.load.to_resolve
        due = [item for item in list(waiting) if item[0] <= time.monotonic() or self.load.draining.is_set()]
        for item in due:
            self.resolve(*item[1:])
            waiting.remove(item)
        time.sleep(RECONNECT)

    def resolve(self, txn, commit):
        self.cursor.execute('SELECT 1 FROM pg_prepared_xacts WHERE gid = %s', (txn,))
        if not self.cursor.fetchall():
            return                          # PREPARE failed, or an earlier try did it
        if commit:
            self.load.journal.note(txn, Journal.COMMITTED, time.time())
        self.cursor.execute(f"{'COMMIT' if commit else 'ROLLBACK'} PREPARED %s", (txn,))


class Holder(Session):
    """Keeps one transaction open, with an event and an old snapshot, for as long as the server lets it."""

    number = 0

    def finished(self):
        return self.load.stopping.is_set()

    def work(self):
        self.number += 1
        txn = f'{self.name}.{self.number}'
        self.load.journal.note(txn, Journal.ROLLED_BACK)
        self.cursor.execute('BEGIN ISOLATION LEVEL REPEATABLE READ')
        self.cursor.execute(PUBLISH, {'topic': self.load.topics[0], 'key': None, 'seq': None, 'due': None, 'txn': txn,
                                      'mode': 'held', 'payload': make_json(random.Random(txn), txn)})
        while not (self.load.stopping.is_set() or self.load.paused.is_set()):
            self.cursor.execute('SELECT 1')
            self.load.stopping.wait(0.2)
        self.load.journal.note(txn, Journal.IN_DOUBT, time.time())
        self.cursor.execute('COMMIT')


class Load:
    """All the writers."""

    def __init__(self, server, seed, journal, prefix='w', writers=6, pause=0.04, allow_async=True, hold=True,
                 administrators=3, topics=TOPICS):
        self.server = server
        self.seed = seed
        self.journal = journal
        self.prefix = prefix
        self.pause = pause
        self.topics = topics
        self.allow_async = allow_async
        self.stopping = threading.Event()       # writers end
        self.draining = threading.Event()       # the resolver ends when it has nothing left
        self.paused = threading.Event()         # nobody is connected
        self.all_async = threading.Event()      # every transaction has synchronous_commit = off
        self.to_resolve = []
        self.reusable = []
        self.errors = {}
        self.sessions = [Writer(self, n) for n in range(writers)]
        if hold:
            self.sessions.append(Holder(self, f'{prefix}hold0'))
        self.sessions += [Administrator(self, n) for n in range(administrators)]
        self.sessions.append(Watcher(self, f'{prefix}watch0'))
        self.overtaken = []                     # (time, event, later one of its key with a row), see Watcher
        self.resolver = Resolver(self, 'resolver')

    def remember(self, event_id, topic, payload):
        """An id that may be published again."""
        self.reusable = self.reusable[-REUSABLE_IDS:] + [(event_id, topic, payload)]

    def note_overtaken(self, found):
        """Pairs of ids that OVERTAKEN has just found."""
        self.overtaken += [(time.time(), earlier, later) for earlier, later in found]

    def count_error(self, error):
        name = type(error).__name__
        self.errors[name] = self.errors.get(name, 0) + 1

    def start(self):
        for session in (*self.sessions, self.resolver):
            session.start()

    def pause_all(self, deadline=30):
        """Everybody ends the transaction at hand and disconnects; False if that takes too long."""
        self.paused.set()
        until = time.monotonic() + deadline
        while any(session.connection is not None for session in (*self.sessions, self.resolver)):
            if time.monotonic() > until:
                return False
            time.sleep(RECONNECT)
        return True

    def resume(self):
        self.paused.clear()

    def stop(self):
        """Let all transactions end.  The server has to be up."""
        self.stopping.set()
        for session in self.sessions:
            session.join()
        self.draining.set()
        self.resolver.join()
        for session in (*self.sessions, self.resolver):
            if session.error is not None:
                raise session.error
