"""
live: 4 writers as fast as they can, with the relay running, beside the same writers with the relay
disabled.

A writer's transaction is small and durable, as in "publish".  With the relay running, the backlog when
the writers end must not be more than the relay settles in a tenth of a second at their pace.
"""

import re

from lib import knobs
from lib.cluster import Database, payload
from lib.nginx import Nginx
from lib.series import Goal, Series, ratio_at_least

CLIENTS = 4

SCHEMA = """
CREATE TABLE booking (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account int, amount int,
    at timestamptz DEFAULT now());
"""

TRANSACTION = f"""
\\set account random(1, 10000)
BEGIN;
INSERT INTO booking (account, amount) VALUES (:account, 1);
SELECT outbox_publish('bench', {payload(256, ':account')});
COMMIT;
"""


def write(database):
    """Transactions, and how many of them a second."""
    output = database.cluster.pgbench(database.name, TRANSACTION, '-c', CLIENTS, '-j', 2, '-T', int(knobs.SECONDS))
    return (int(re.search(r'actually processed: (\d+)', output).group(1)),
            float(re.search(r'tps = ([\d.]+)', output).group(1)))


def run(stage, cluster):
    writers = Series(f'{CLIENTS} writers, relay running', 'transactions/s', ratio_at_least(0.85),
                     limit_name='relay disabled')
    backlog = Series('backlog when they end', 'events',
                     Goal('<= 0.1 s of writing', lambda s: s.engine <= 0.1 * writers.engine))
    with Nginx(stage) as receiver, Database(cluster) as database:
        database.sql.run(SCHEMA)
        database.configure(publisher='dapr', dapr_endpoint=receiver.url)
        for _ in range(knobs.PAIRS):
            before = database.published()
            database.enable(True)
            count, with_relay = write(database)
            left = database.backlog()
            database.await_settled(before + count)
            database.enable(False)
            database.empty()
            alone = write(database)[1]
            database.empty()
            writers.add(with_relay, alone)
            backlog.add(left)
    yield writers
    yield backlog
