"""
publish: what publishing costs the publisher, beside a plain INSERT into a copy of the table without
trigger and function.  The relay is disabled.

In bulk: 10,000 events in a transaction, by a statement each (a loop in the server), by one statement that
calls the function for each, and by one INSERT into outbox_event.  Small: a durable business transaction
(an UPDATE, an INSERT, an event) from 4 clients.  What the disk does then varies more from one second to the
next than publishing costs, hence many short pairs.
"""

import re
import time

from lib import knobs
from lib.cluster import Database, payload
from lib.series import Series, alternate, ratio_at_least, ratio_at_most

COUNT = 10000
CLIENTS = 4

SCHEMA = """
CREATE TABLE plain (LIKE outbox_event INCLUDING ALL);
CREATE SEQUENCE plain_event;
CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL);
INSERT INTO account SELECT n, 0 FROM generate_series(1, 10000) n;
CREATE TABLE booking (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account int, amount int,
    at timestamptz DEFAULT now());
"""

# ids that rise, as the extension's do, and cost nothing
EVENT_ID = "lpad(to_hex(nextval('plain_event')), 32, '0')::uuid"
INSERT = 'INSERT INTO plain (xid, event_id, topic, payload)'

BUSINESS = """
\\set account random(1, 10000)
BEGIN;
UPDATE account SET balance = balance + 1 WHERE id = :account;
INSERT INTO booking (account, amount) VALUES (:account, 1);
{event}
COMMIT;
"""


def transaction_ms(database, statement):
    """In a transaction, without the commit's flush, which both have to wait for."""
    database.sql.run('BEGIN')
    start = time.monotonic()
    database.sql.run(statement)
    seconds = time.monotonic() - start
    database.sql.run('COMMIT')
    return seconds * 1000


def transactions_per_second(database, event):
    output = database.cluster.pgbench(database.name, BUSINESS.format(event=event), '-c', CLIENTS, '-j', 2,
                                      '-T', max(round(knobs.SECONDS / 2), 1))
    return float(re.search(r'tps = ([\d.]+)', output).group(1))


def loop(statement):
    return f'DO $$ BEGIN FOR n IN 1 .. {COUNT} LOOP {statement}; END LOOP; END $$'


def run(stage, cluster):
    event = payload(256)
    values = f"pg_current_xact_id(), {EVENT_ID}, 'bench', {event}"
    with Database(cluster) as database:
        database.enable(False)
        database.sql.run(SCHEMA)
        cases = [
            ('10,000 by a statement each', loop(f"PERFORM outbox_publish('bench', {event})"),
             loop(f'{INSERT} VALUES ({values})')),
            ('10,000 by one SELECT',
             f"SELECT count(outbox_publish('bench', {event})) FROM generate_series(1, {COUNT}) n",
             f'{INSERT} SELECT {values} FROM generate_series(1, {COUNT}) n'),
            ('10,000 by one INSERT',
             f"INSERT INTO outbox_event (topic, payload) SELECT 'bench', {event} FROM generate_series(1, {COUNT}) n",
             f'{INSERT} SELECT {values} FROM generate_series(1, {COUNT}) n'),
        ]
        for name, publish, insert in cases:
            yield alternate(Series(name, 'ms', ratio_at_most(1.5), limit_name='plain INSERT'), 2 * knobs.PAIRS,
                            lambda: transaction_ms(database, publish), lambda: transaction_ms(database, insert))

        event = payload(256, ':account')
        values = f"pg_current_xact_id(), {EVENT_ID}, 'bench', {event}"
        yield alternate(Series(f'small transaction, {CLIENTS} clients', 'transactions/s', ratio_at_least(0.97),
                               limit_name='plain INSERT'), 4 * knobs.PAIRS,
                        lambda: transactions_per_second(database, f"SELECT outbox_publish('bench', {event});"),
                        lambda: transactions_per_second(database, f'{INSERT} VALUES ({values});'))
