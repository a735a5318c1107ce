"""
old: pending events are sent from a table that keeps published ones, with the next part of them being
pruned meanwhile, beside an empty table.

Two databases of one server.  Before each run with old rows, outbox.published_expire_time is set so that
about as many of them are due for pruning as events are going to be published.  That needs a reload only:
the relays go on, as they do in production.
"""

from lib import knobs
from lib.cluster import Database
from lib.drain import Drain
from lib.nginx import Nginx
from lib.series import Series, ratio_at_least

SETTINGS = {'publisher': 'dapr', 'dapr_bulk': 'off'}
NO_PRUNING = {'published_expire_time': '1d', 'cleaning_expire_interval': '5min'}
LOAD = 100000       # old events that are published at a time


def fill(drain, count):
    """Have so many events published and kept."""
    for _ in range(0, count, LOAD):
        drain.load(LOAD)
        drain.send(LOAD)
    drain.database.sql.run('VACUUM ANALYZE')


def prune_upto(database, count):
    """Let what was published first expire, about so many of what is left."""
    age = database.sql.number(f"""
        SELECT extract(epoch FROM clock_timestamp() - min(p.at)) FROM outbox_progress p
        WHERE p.last_id > (SELECT min(id) + {count} FROM outbox_event)""")
    database.cluster.set(published_expire_time=f'{int(age)}s', cleaning_expire_interval='1s')


def run(stage, cluster):
    count = knobs.EVENTS
    with Nginx(stage) as receiver, Database(cluster, 'old') as old, Database(cluster, 'empty') as empty:
        with_old = Drain(stage, old, receiver, 256, **SETTINGS)
        fill(with_old, knobs.OLD_EVENTS)
        without = Drain(stage, empty, receiver, 256, **SETTINGS)
        series = Series(f'{knobs.OLD_EVENTS:,} published events kept, pruning', 'events/s', ratio_at_least(0.95),
                        limit_name='empty table')
        for _ in range(knobs.PAIRS):
            with_old.load(count)
            prune_upto(old, count)
            ours = with_old.send(count)
            cluster.set(**NO_PRUNING)
            limit = without.relay(count)
            series.add(count / ours.seconds, count / limit.seconds)
        pruned = int(old.sql.value('SELECT pruned FROM outbox_stats'))
        if pruned == 0:
            raise AssertionError('nothing was pruned meanwhile')
        kept = int(old.sql.value('SELECT count(*) FROM outbox_event'))
        series.note = f'{pruned:,} pruned meanwhile, {kept:,} kept in the end'
        yield series
