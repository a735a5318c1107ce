"""A load of transactions, while shards are moved and nodes are killed: is there an event for each row, and a row
for each event?

One row is written on one node and one event is published in each transaction, in the three ways of docs/citus.md:
on the coordinator, behind outbox_citus_setup(); in a delegated function, where the row is; by a trigger on the
distributed table, where the row is as well.  Each way has a table, a topic of that name, and clients of its own.
"""

import contextlib
import itertools
import threading
import time

import psycopg2

from cluster import COMMIT_DELAY, HOST, TIMEOUT, poll

CLIENTS = 4                 # of each way
COORDINATOR_KILLS = 6
WORKER_KILLS = 2
BETWEEN = 60                # transactions of each way before the next kill

WAYS = {
    'killed_here': "BEGIN; INSERT INTO killed_here VALUES ({id});"
                   " SELECT outbox.outbox_publish('killed_here', '{id}'); COMMIT",
    'killed_call': 'SELECT killed_call({id})',
    'killed_trigger': 'INSERT INTO killed_trigger VALUES ({id})',
}

DEFINITIONS = (
    """CREATE FUNCTION killed_call(id bigint) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO killed_call VALUES (id);
        PERFORM outbox.outbox_publish('killed_call', to_jsonb(id));
    END
    $$""",
    "SELECT create_distributed_function('killed_call(bigint)', 'id', 'killed_call')",
    """CREATE FUNCTION killed_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM outbox.outbox_publish('killed_trigger', to_jsonb(NEW.id));
        RETURN NULL;
    END
    $$""",
    'SET citus.enable_unsafe_triggers = on',
    'CREATE TRIGGER publish AFTER INSERT ON killed_trigger FOR EACH ROW EXECUTE FUNCTION killed_trigger()')


class Load:
    def __init__(self, coordinator):
        self.coordinator = coordinator
        self.ids = itertools.count(1)
        self.done = dict.fromkeys(WAYS, 0)
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._work, args=(way,)) for way in WAYS for _ in range(CLIENTS)]

    def _work(self, way):
        """What becomes of a transaction that fails is not known, here or to any client."""
        while not self.stopping.is_set():
            try:
                with contextlib.closing(self.coordinator.connect('citus load')) as connection:
                    with connection.cursor() as cursor:
                        while not self.stopping.is_set():
                            cursor.execute(WAYS[way].format(id=next(self.ids)))
                            self.done[way] += 1
            except psycopg2.Error:
                self.stopping.wait(0.05)

    def start(self):
        for thread in self.threads:
            thread.start()

    def await_more(self):
        before = dict(self.done)
        poll(lambda: all(self.done[way] >= before[way] + BETWEEN for way in WAYS), TIMEOUT, 'the load to go on')

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def move_a_shard(cluster, table):
    """From the node that has the first one to another worker."""
    shard, port = cluster.coordinator.execute(
        'SELECT shardid, nodeport FROM citus_shards WHERE table_name = %s::regclass ORDER BY shardid', table)[0]
    target = next(worker.port for worker in cluster.workers if worker.port != port)
    cluster.coordinator.execute('SELECT citus_move_shard_placement(%s, %s, %s, %s, %s)',
                                shard, HOST, port, HOST, target)


def run(cluster):
    """Returns for each way (rows, events lost, events without a row, rows with two events)."""
    coordinator = cluster.coordinator
    for way in WAYS:
        coordinator.execute(f'CREATE TABLE {way} (id bigint PRIMARY KEY)')
        coordinator.execute(f"SELECT create_distributed_table('{way}', 'id', colocate_with => 'none')")
    coordinator.run(*DEFINITIONS)

    load = Load(coordinator)
    load.start()
    try:
        load.await_more()
        for way in WAYS:
            move_a_shard(cluster, way)
        victims = [coordinator] * COORDINATOR_KILLS
        victims[2:2] = cluster.workers[:WORKER_KILLS]
        for victim in victims:
            load.await_more()
            time.sleep(COMMIT_DELAY / 2)    # into the next commits
            victim.kill_all()
            victim.start()
    finally:
        load.stop()
    cluster.settle()

    found = {}
    for way in WAYS:
        rows = [row for row, in coordinator.execute(f'SELECT id FROM {way}')]
        events = [payload for payload, _ in cluster.taken(way).values()]
        found[way] = (len(rows), len(set(rows) - set(events)), len(set(events) - set(rows)),
                      len(events) - len(set(events)))
    return found
