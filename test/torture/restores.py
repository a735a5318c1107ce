"""The phase "restores": events come from elsewhere while the relay is at work, in every way that there is.

Another server publishes, and sends nothing.  What it has is dumped and restored here, beside a load: in
session_replication_role = replica as some tools do, or in the ordinary role, table by table, or in one transaction
after a first one that a crash undid; and this server may crash right behind it.

Each event must arrive once, in its key's order, and outbox_check() must know how many there were.
"""

import os
import random
import threading
import time

from faults import CRASH
from load import SCHEMA, Journal
from rig import SINGLE, Batch, disturbance, prepared
from server import RELAY, poll

ROUNDS = 6
EACH = 400
KEYS = 7
IDS = 10 ** 9               # between those of one round and the next; a restored row keeps its id
ROLES = ('replica', 'origin')
PAUSE = 1                   # seconds for the load
TIMEOUT = 30


def restores(options, directory):
    """Restores beside a load."""
    with prepared(options, directory, 'restores', settings=SINGLE) as rig:
        source = make_source(rig)
        load = rig.new_load(prefix='r', administrators=0)
        load.start()
        rng = random.Random(options.seed)
        for number in range(ROUNDS):
            restore_round(rig, rng, source, number)
        rig.load_end = time.time()
        load.stop()
        rig.drain()
        noted = rig.server.execute('SELECT sum(events) FROM outbox_restore')[0][0]
        report = rig.judge()
        report.numbers['restored'] = int(noted or 0)
        if noted != ROUNDS * EACH:
            report.found('restored_but_not_noted', f'{noted} in place of {ROUNDS * EACH}')
        return report


def make_source(rig):
    """A server that publishes, and sends nothing."""
    source = rig.new_server('source')
    source.init({**rig.settings, 'outbox.enabled': 'off'})
    source.start()
    source.execute('CREATE EXTENSION outbox')
    source.execute(SCHEMA)
    return source


def restore_round(rig, rng, source, number):
    """Dump what the other server has, and restore it."""
    dump, truth = (os.path.join(rig.directory, f'restore.{number}.{kind}') for kind in ('sql', 'csv'))
    txn = f'b0.{number}'
    source.execute("SELECT setval('outbox_event_id_seq', %s)", (number + 1) * IDS)
    rig.publish(txn, Batch([f'restored-{number}'], EACH, KEYS), server=source)
    source.dump(dump, '-a', '-t', 'outbox_*')
    _leave_sequences_out(dump)
    source.execute(f"COPY torture_truth TO '{truth}'")
    rig.server.execute(f"COPY torture_truth FROM '{truth}'")
    rig.server.execute('UPDATE torture_truth SET xid = NULL WHERE txn = %s', txn)
    role = rng.choice(ROLES)
    whole = number % 2 == 1
    with disturbance(rig, 'restore', CRASH):
        if whole:
            _kill_restore(rig, dump, role)
        rig.journal.note(txn, Journal.COMMITTED, time.time())
        rig.server.restore(dump, role, whole)
        # for this server, they are the events of the transaction that restores them
        rig.server.execute('UPDATE torture_truth t SET xid = e.xid FROM outbox_event e'
                           ' WHERE e.event_id = t.event_id AND t.txn = %s', txn)
        if rng.random() < 0.5:
            rig.kill(RELAY)
    source.execute('TRUNCATE outbox_event, torture_truth')
    rig.load.stopping.wait(PAUSE)


def _leave_sequences_out(dump):
    """A dump sets them, which a database that publishes meanwhile must be spared: its ids would go back."""
    with open(dump, encoding='utf-8') as file:
        kept = [line for line in file if not line.startswith('SELECT pg_catalog.setval(')]
    with open(dump, 'w', encoding='utf-8') as file:
        file.writelines(kept)


def _kill_restore(rig, dump, role):
    """The server crashes when everything is restored but the end of the transaction."""
    path = dump + '.slow'
    with open(dump, encoding='utf-8') as file, open(path, 'w', encoding='utf-8') as slow:
        slow.write(file.read() + f'\nSELECT pg_sleep({TIMEOUT});\n')
    restore = threading.Thread(target=rig.server.restore, args=(path, role, True, False), daemon=True)
    restore.start()
    poll(lambda: rig.server.query("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), TIMEOUT,
         'the restore to come to its end')
    rig.kill(RELAY)
    restore.join()
