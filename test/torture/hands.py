"""The phase "hands": people change events, which is refused, and truncate them, which is done.

Beside ordinary writers, some try to UPDATE events, and in session_replication_role = replica to UPDATE and
DELETE them.  Others TRUNCATE outbox_event while a backlog is there, with or without RESTART IDENTITY, publish
events in the same transaction in place of those that go, and commit or not; now and then there is a crash.

What the view showed as not published when it was truncated may be lost: it is in torture_given_up, written by
the same transaction.  All else must be delivered: what was published before, of which the relay has said that it
was delivered, and what came in the place of the others.  And nothing that went may be sent after that.
"""

import random
import time

import psycopg2

import checker
from faults import CRASH, PAUSE
from load import BATCH, Journal
from rig import SINGLE, disturbance, prepared
from server import RELAY
from session import Session

SECONDS = 16
CRASHES = 2
BEFORE = 3000               # events that are to be a backlog
AFTER = 20                  # that come in their place
KEYS = 5
COMMITS = 0.7
STILL_SENT = 1.0            # seconds after TRUNCATE in which a request may have been under way, on a busy machine

# So few that a backlog takes longer than that.
SETTINGS = {**SINGLE, 'outbox.max_in_flight': 3}

GIVE_UP = ("INSERT INTO torture_given_up SELECT event_id FROM outbox_events WHERE state <> 'published'"
           ' ON CONFLICT DO NOTHING RETURNING event_id::text')


class Meddler(Session):
    """Does to events what nobody should, and notes what was not refused."""

    ACTIONS = ("UPDATE outbox_event SET payload = NULL WHERE id IN ({some})",
               "UPDATE outbox_event SET metadata = '{{\"a\": 1}}' WHERE id IN ({some})")
    IN_REPLICA_ROLE = ('UPDATE outbox_event SET body = NULL WHERE id IN ({some})',
                       'DELETE FROM outbox_event WHERE id IN ({some})')
    SOME = 'SELECT id FROM outbox_event ORDER BY id DESC LIMIT 10'
    WAIT = 0.05

    def __init__(self, load, number):
        super().__init__(load, f'{load.prefix}meddler{number}')
        self.rng = random.Random(f'{load.seed}/{self.name}')
        self.refused = 0
        self.taken = []

    def work(self):
        replica = self.rng.random() < 0.5
        statement = self.rng.choice(self.IN_REPLICA_ROLE if replica else self.ACTIONS).format(some=self.SOME)
        self.cursor.execute('BEGIN')
        if replica:
            self.cursor.execute('SET LOCAL session_replication_role = replica')
        try:
            self.cursor.execute(statement)
            if self.cursor.rowcount > 0:
                self.taken.append(statement)
        except psycopg2.errors.ObjectNotInPrerequisiteState:
            self.refused += 1
        self.cursor.execute('COMMIT')
        self.load.stopping.wait(self.WAIT)


class Truncater(Session):
    """Replaces all events by others, or would have."""

    WAIT = (0.2, 1.0)

    def __init__(self, rig):
        super().__init__(rig.load, f'{rig.load.prefix}truncater')
        self.rig = rig
        self.rng = random.Random(f'{self.load.seed}/{self.name}')
        self.number = 0
        self.gone = {}              # event_id: when its TRUNCATE was committed; inf: it is not known to be

    def work(self):
        self.number += 1
        self._publish(f'b0.{self.number}', BEFORE)
        time.sleep(self.rng.uniform(0, 0.2))
        with disturbance(self.rig, 'truncate', PAUSE):
            self._replace()
        self.load.stopping.wait(self.rng.uniform(*self.WAIT))

    def _replace(self):
        self.cursor.execute('BEGIN')
        self.cursor.execute("SET LOCAL lock_timeout = '3s'")
        self.cursor.execute('LOCK TABLE outbox_event IN ACCESS EXCLUSIVE MODE')
        self.cursor.execute(GIVE_UP)
        given_up = [event_id for event_id, in self.cursor.fetchall()]
        self.cursor.execute('TRUNCATE outbox_event ' + self.rng.choice(('', 'RESTART IDENTITY')))
        if self.rng.random() < COMMITS:
            self.gone.update(dict.fromkeys(given_up, float('inf')))
            self._publish(f'c0.{self.number}', AFTER, end='COMMIT')
            self.gone.update(dict.fromkeys(given_up, time.time()))
        else:
            self._publish(f'd0.{self.number}', AFTER, end='ROLLBACK')

    def _publish(self, txn, each, end=None):
        self.load.journal.note(txn, Journal.ROLLED_BACK)
        self.cursor.execute(BATCH, {'txn': txn, 'topics': ['hands'], 'each': each, 'keys': KEYS,
                                    'first': self.number * (BEFORE + AFTER) + (0 if end is None else BEFORE)})
        if end != 'ROLLBACK':
            self.load.journal.note(txn, Journal.IN_DOUBT, time.time())
        if end:
            self.cursor.execute(end)


def hands(options, directory):
    """UPDATE, DELETE in replica role, and TRUNCATE beside a load."""
    with prepared(options, directory, 'hands', settings=SETTINGS) as rig:
        load = rig.new_load(prefix='h', hold=False, administrators=1)
        meddlers = [Meddler(load, number) for number in range(2)]
        truncater = Truncater(rig)
        load.sessions += [*meddlers, truncater]
        load.start()
        for number in range(CRASHES + 1):
            load.stopping.wait(SECONDS / (CRASHES + 1))
            if number < CRASHES:
                with disturbance(rig, 'kill_relay', CRASH):
                    rig.kill(RELAY)
        rig.load_end = time.time()
        load.stop()
        rig.drain()
        report = rig.judge()
        _judge(rig, report, meddlers, truncater)
        return report


def _judge(rig, report, meddlers, truncater):
    """What the checker does not know."""
    report.numbers['changes_refused'] = sum(meddler.refused for meddler in meddlers)
    report.numbers['truncated'] = len(truncater.gone)
    for statement in (statement for meddler in meddlers for statement in meddler.taken):
        report.found('changed', statement)
    if not report.numbers['changes_refused'] or not truncater.gone:
        report.found('nobody_meddled', 'no UPDATE was refused, or no event truncated')
    again = {event_id for event_id, in rig.server.execute(
        'SELECT event_id::text FROM torture_truth WHERE times > 1')}
    for arrival in checker.read_arrivals(rig.receiver.logs):
        gone_at = truncater.gone.get(arrival.event_id, float('inf'))
        if arrival.time > gone_at + STILL_SENT and arrival.event_id not in again:
            report.found('sent_after_truncate', f'{arrival.event_id}, {arrival.time - gone_at:.3f} s')
