"""
brokers: pending events, until all are settled, to a broker by a publisher of its own, beside a bare client of the same
library that publishes the same message with the same window.  It needs what tools/setup-real installs; a broker that is
not there is left out.

The clock runs from the reload of outbox.enabled to the checkpoint that settles the last event; that of the bare client
from its first message to its last confirm.
"""

from lib import knobs, rabbitmq
from lib.cluster import Cluster, Database
from lib.drain import Cost
from lib.process import cpu_seconds
from lib.series import NO_GOAL, Series, ratio_at_least

WINDOW = 1000
SETTINGS = """
shared_preload_libraries = 'outbox, outbox_rabbitmq'
outbox.publisher = 'outbox_rabbitmq'
outbox_rabbitmq.url = 'amqp://127.0.0.1:{port}'
outbox_rabbitmq.user = '{user}'
outbox_rabbitmq.password_file = '{file}'
outbox_rabbitmq.exchange = '{exchange}'
outbox_rabbitmq.max_messages = {window}
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


def to_rabbitmq(stage):
    count = knobs.EVENTS // 4
    with rabbitmq.RabbitMQ(stage) as broker:
        cluster = Cluster(stage, 'brokers', more=SETTINGS.format(
            port=broker.port, user=rabbitmq.USER, file=broker.password_file, exchange=rabbitmq.EXCHANGE, window=WINDOW))
        try:
            with Database(cluster) as database:
                for size in (256, 1024):
                    rate = Series(f'RabbitMQ, {size} B', 'events/s', ratio_at_least(0.7), limit_name='bare librabbitmq')
                    cost = Series(f'CPU an event, RabbitMQ, {size} B', 'us', NO_GOAL, limit_name='bare librabbitmq')
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
    if not rabbitmq.is_installed():
        print('brokers: there is no RabbitMQ here (tools/setup-real rabbitmq)', flush=True)
        return
    yield from to_rabbitmq(stage)
