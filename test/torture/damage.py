"""The phase "damage": events lose a part of their payload on disk, beside a load and crashes.

A part of a large value, which is kept outside of its row, is killed as soon as it is there (pg_surgery).  When it
is read, by whatever reads it next (new, scheduled, behind another one of its key, after a crash), the event must be
dead with that reason, or have been delivered before it was damaged.  It holds up its own key until somebody
gives it up, and nothing else.
"""

import contextlib
import random
import time

from faults import CRASH
from load import TRUTH, Journal
from rig import SINGLE, disturbance, prepared
from server import RELAY, TortureError

ROUNDS = 6
EACH = 12                   # large events of a round
DAMAGED = 0.5
KEYS = 4
REASON = 'cannot be read: '

LARGE = (
    'WITH e AS MATERIALIZED (SELECT p, outbox_publish(%(topic)s, p, %(key)s, deliver_after => %(due)s) id FROM ('
    "  SELECT jsonb_build_object('token', %(txn)s, 'n', %(seq)s, 'large', (SELECT jsonb_agg(md5(random()::text))"
    '   FROM generate_series(1, 500))) p) s)'
    + TRUTH + "SELECT id, %(txn)s, 'large', %(topic)s, %(key)s, %(seq)s, p::text, %(due)s FROM e"
    ' RETURNING event_id::text')

# All chunks that the last transaction of the session has made are those of one event.
CHUNKS = 'SELECT ctid::text FROM {toast} WHERE xmin = pg_current_xact_id()::xid AND chunk_seq = 1'


def damage(options, directory):
    """Values are damaged at work."""
    with prepared(options, directory, 'damage', settings=SINGLE) as rig:
        rig.server.execute('CREATE EXTENSION pg_surgery')
        load = rig.new_load(prefix='g', administrators=0)
        load.start()
        rng = random.Random(options.seed)
        damaged = set()
        for number in range(ROUNDS):
            damaged |= _round(rig, rng, number)
        rig.load_end = time.time()
        load.stop()
        dead = _give_up(rig, damaged)
        rig.drain()
        report = rig.judge()
        report.numbers.update({'damaged': len(damaged), 'damaged_and_dead': dead})
        if not dead:
            report.found('nothing_was_damaged', 'each was delivered before')
        return report


def _round(rig, rng, number):
    """The ids of those that were damaged."""
    damaged = set()
    due = rig.server.execute("SELECT now() + %s * interval '1 second'", rng.uniform(0.2, 0.6))[0][0]
    toast, = rig.server.execute(
        "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'outbox_event'::regclass")[0]
    with contextlib.closing(rig.server.connect('torture damage')) as connection:
        cursor = connection.cursor()
        for n in range(EACH):
            txn = f'b{number}.{n}'
            cursor.execute('BEGIN')
            key = {'key': f'k{n % KEYS}', 'seq': n + 1, 'due': None} if n % 3 else {'key': None, 'seq': None, 'due': due}
            cursor.execute(LARGE, {'txn': txn, 'topic': f'large-{number}', **key})
            event_id, = cursor.fetchone()
            cursor.execute(CHUNKS.format(toast=toast))
            chunk = cursor.fetchone()
            rig.journal.note(txn, Journal.COMMITTED, time.time())
            cursor.execute('COMMIT')
            if chunk is None:
                raise TortureError('a large value is not kept outside of its row')
            if rng.random() < DAMAGED:
                cursor.execute(f"SELECT heap_force_kill('{toast}', ARRAY[%s::tid])", chunk)
                damaged.add(event_id)
    if number % 2:
        rig.load.stopping.wait(rng.uniform(0, 0.5))
        with disturbance(rig, 'crash', CRASH):
            if rng.random() < 0.5:
                rig.kill(RELAY)
            else:
                rig.server.kill9()
                rig.server.start()
                rig.server.await_relay()
    else:
        rig.load.stopping.wait(1)
    return damaged


def _give_up(rig, damaged):
    """Give up those that are dead because they were damaged, until there are no more; how many?"""
    n = 0
    while rig.settle():
        found = [event_id for event_id, in rig.server.execute(
            'SELECT e.event_id::text FROM outbox_delivery d JOIN outbox_event e USING (id)'
            " WHERE d.state = 'dead' AND starts_with(d.last_error, %s)"
            ' AND NOT EXISTS (SELECT 1 FROM outbox_request r WHERE r.event = d.id)', REASON)]
        found = [event_id for event_id in found if event_id in damaged]
        if not found:
            break
        n += len(found)
        rig.server.execute('INSERT INTO torture_given_up SELECT unnest(%s::uuid[])', found)
        rig.server.execute('SELECT outbox_discard(id) FROM unnest(%s::uuid[]) id', found)
    return n
