"""Who else is connected while the writers publish: administrators, and one who looks for broken rules."""

import random
import time

from session import RECONNECT, Session

# Of default: (id of an event that is not settled and has no row, id of a later one of its key that has one)
OVERTAKEN = """
    WITH p AS MATERIALIZED (SELECT lo, hi, last_id, open FROM outbox_progress WHERE destination = 0
        ORDER BY id DESC LIMIT 1),
    bare AS MATERIALIZED (
        SELECT e.id, e.event_id, e.topic, e.key
        FROM p CROSS JOIN LATERAL (
            SELECT * FROM outbox_event
            WHERE xid >= pg_snapshot_xmin(p.lo) AND NOT pg_visible_in_snapshot(xid, p.lo)
            AND NOT (id <= p.last_id AND pg_visible_in_snapshot(xid, p.hi))
            UNION ALL SELECT * FROM outbox_event WHERE id = ANY (p.open)) e
        WHERE e.key IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM outbox_delivery d WHERE d.destination = 0 AND d.id = e.id))
    SELECT b.event_id::text, l.event_id::text
    FROM bare b
    JOIN torture_truth earlier USING (event_id)
    CROSS JOIN LATERAL (
        SELECT d.id FROM outbox_delivery d
        WHERE d.destination = 0 AND d.topic = b.topic AND d.key = b.key AND d.id > b.id
        AND d.state IN ('pending', 'in_progress', 'failed') ORDER BY d.topic, d.key, d.id LIMIT 1) d
    JOIN outbox_event l ON l.id = d.id
    JOIN torture_truth later ON later.event_id = l.event_id
    WHERE earlier.seq < later.seq LIMIT 100"""


class Administrator(Session):
    """Does something to events that are on their way, and leaves the transaction open for seconds.

    Which events were discarded or deleted is in torture_given_up, written by the same transaction."""

    HOLD_SECONDS = (0.3, 3)
    COMMITS = 0.6
    SOME = 10

    # What is done, and how often.
    ACTIONS = {'discard': 3, 'delete': 2, 'retry': 2, 'retry_dead': 1, 'lock': 3}

    RECENT = 'SELECT id, event_id FROM outbox_event WHERE deliver_after IS NULL ORDER BY id DESC LIMIT 1 OFFSET %s'
    IN_TROUBLE = ("SELECT id, event_id FROM outbox_delivery JOIN outbox_event USING (id)"
                  " WHERE state IN ('pending', 'in_progress', 'failed') ORDER BY id LIMIT 1 OFFSET %s")
    GIVE_UP = 'INSERT INTO torture_given_up SELECT %s ON CONFLICT DO NOTHING'

    def __init__(self, load, number):
        super().__init__(load, f'{load.prefix}admin{number}')
        self.number = 0

    def work(self):
        self.number += 1
        rng = random.Random(f'{self.load.seed}/{self.name}.{self.number}')
        action = rng.choices(list(self.ACTIONS), self.ACTIONS.values())[0]
        found = self.find(self.IN_TROUBLE, rng) or self.find(self.RECENT, rng)
        if found is None:
            self.load.stopping.wait(RECONNECT)
            return
        self.cursor.execute('BEGIN')
        self.cursor.execute('SET LOCAL lock_timeout = 1000')
        getattr(self, 'do_' + action)(*found)
        until = time.monotonic() + rng.uniform(*self.HOLD_SECONDS)
        while time.monotonic() < until and not (self.load.stopping.is_set() or self.load.paused.is_set()):
            self.load.stopping.wait(RECONNECT)
        self.cursor.execute('COMMIT' if rng.random() < self.COMMITS else 'ROLLBACK')

    def find(self, query, rng):
        """(id, event_id) of an event, or None."""
        self.cursor.execute(query, (rng.randrange(2 * self.SOME),))
        return self.cursor.fetchone()

    def do_discard(self, _, event_id):
        self.cursor.execute(self.GIVE_UP, (event_id,))
        self.cursor.execute('SELECT outbox_discard(%s)', (event_id,))

    def do_delete(self, _, event_id):
        self.cursor.execute(self.GIVE_UP, (event_id,))
        self.cursor.execute('DELETE FROM outbox_event WHERE event_id = %s', (event_id,))

    def do_retry(self, _, event_id):
        self.cursor.execute('SELECT outbox_retry(%s)', (event_id,))

    def do_retry_dead(self, *_):
        self.cursor.execute('SELECT outbox_retry_dead()')

    def do_lock(self, number, _):
        self.cursor.execute('SELECT 1 FROM outbox_event WHERE id BETWEEN %s AND %s FOR UPDATE',
                            (number - self.SOME, number + self.SOME))


class Watcher(Session):
    """Looks for events that have a row though an earlier one of their key, which is not settled, has none.

    A crash would let them pass it.  The relay may know that the earlier one is settled before a checkpoint
    says so: whether it was is seen in the receiver's log, so that what is found is noted with its time."""

    PAUSE = 0.1

    def work(self):
        self.cursor.execute(OVERTAKEN)
        self.load.note_overtaken(self.cursor.fetchall())
        self.load.stopping.wait(self.PAUSE)
