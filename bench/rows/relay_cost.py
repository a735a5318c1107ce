"""
relay-cost: what an event costs on the database's side of the relay.

CPU: that of the relay process, less what the bare libcurl loop needs for the same requests; the limit
is a backend that reads the same rows.  WAL: all that is written from enabling the relay to the last
checkpoint, autovacuum being off.
"""

from lib import knobs
from lib.cluster import Database
from lib.drain import Drain
from lib.nginx import Nginx
from lib.process import cpu_seconds
from lib.series import Series, engine_at_most

COLUMNS = 'id, xid, event_id, topic, key, type, payload, body, content_type, metadata, traceparent, created_at, published_by'


def select_cost(database, count):
    """CPU microseconds a row of a session that reads the rows in batches, as text."""
    with database.cluster.connect(database.name) as sql:
        pid = int(sql.value('SELECT pg_backend_pid()'))
        sql.run(f"""DO $$ BEGIN FOR i IN 0 .. {count // 1000 - 1} LOOP
                PERFORM count(e::text) FROM (SELECT {COLUMNS} FROM outbox_event
                    WHERE id > (SELECT min(id) - 1 FROM outbox_event) + i * 1000 ORDER BY id LIMIT 1000) e;
            END LOOP; END $$""")
        return cpu_seconds(pid) / count * 1e6


def run(stage, cluster):
    count = knobs.EVENTS
    cpu = Series('CPU an event, dapr 256 B', 'us', engine_at_most(5, '5 us'), limit_name='select of the rows')
    wal = Series('WAL an event, dapr 256 B', 'bytes', engine_at_most(5, '5 bytes'))
    with Nginx(stage) as receiver, Database(cluster) as database:
        for table in 'outbox_event', 'outbox_delivery', 'outbox_progress':
            database.sql.run(f'ALTER TABLE {table} SET (autovacuum_enabled = off)')
        drain = Drain(stage, database, receiver, 256, publisher='dapr', dapr_bulk='off')
        for _ in range(knobs.PAIRS):
            drain.load(count)
            relay = drain.send(count)
            select = select_cost(database, count)
            database.empty()
            bare = drain.bare(count)
            cpu.add((relay.cpu - bare.cpu) / count * 1e6, select)
            wal.add(relay.wal / count)
    yield cpu
    yield wal
