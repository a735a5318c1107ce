"""
brokers: pending events, until all are settled, to a broker by a publisher of its own, beside a bare client of the same
library, or of none, that publishes the same message with the same window.  It needs what tools/setup-real installs; a
broker that is not there is left out.

The clock runs from the reload of outbox.enabled to the checkpoint that settles the last event; that of the bare client
from its first message to its last confirm.
"""

from lib import kafka, knobs, rabbitmq, wire
from lib.cluster import Cluster, Database
from lib.drain import Cost
from lib.process import cpu_seconds
from lib.series import NO_GOAL, Series, ratio_at_least

WINDOW = 1000
SETTINGS = """
shared_preload_libraries = 'outbox, {library}'
outbox.publisher = '{library}'
{library}.max_messages = {window}
"""


def relay(database, count, size):
    """What it costs to send so many events."""
    sql = database.sql
    database.publish(count, size)
    sql.run('CHECKPOINT')
    published = database.published()
    cpu = cpu_seconds(database.relay_pid)
    start = sql.value('SELECT clock_timestamp()')
    database.enable(True)
    database.await_settled(published + count)
    seconds = sql.number(f"SELECT extract(epoch FROM max(at) - '{start}') FROM outbox_progress")
    cpu = cpu_seconds(database.relay_pid) - cpu
    database.enable(False)
    database.empty()
    return Cost(count, seconds, cpu, 0)


def beside_bare(stage, broker):
    """The relay and a bare client, which send to this broker in turn."""
    count = int(knobs.EVENTS * broker.SHARE)
    name, limit = broker.NAME, f'bare {broker.CLIENT}'
    cluster = Cluster(stage, f'brokers_{broker.LIBRARY}',
                      more=SETTINGS.format(library=broker.LIBRARY, window=WINDOW) + broker.settings())
    try:
        with Database(cluster) as database:
            for size in (256, 1024):
                broker.record(database, size)
                relay(database, 1, size)        # a first answer has to wait for the connection
                rate = Series(f'{name}, {size} B', 'events/s', ratio_at_least(0.7), limit_name=limit)
                cost = Series(f'CPU an event, {name}, {size} B', 'us', NO_GOAL, limit_name=limit)
                for _ in range(knobs.PAIRS):
                    engine = relay(database, count, size)
                    seconds, cpu = broker.bare(count, WINDOW)
                    rate.add(count / engine.seconds, count / seconds)
                    cost.add(engine.cpu / count * 1e6, cpu / count * 1e6)
                yield rate
                yield cost
    finally:
        cluster.stop()


def run(stage, cluster):
    for kind in (rabbitmq.RabbitMQ, kafka.Kafka, wire.Nats, wire.Redis, wire.Mosquitto):
        if not kind.is_installed(stage):
            print(f'brokers: there is no {kind.NAME} here (tools/setup-real)', flush=True)
            continue
        with kind(stage) as broker:
            yield from beside_bare(stage, broker)
