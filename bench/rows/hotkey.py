"""
hotkey: a backlog of few keys, until all is settled, beside a bare loop with as many requests in flight
as there are keys: of one key, the next event goes out when the one before is answered.

CPU an event is that of the relay, beside the relay's for as many events of as many keys as it has
requests in flight and more.
"""

from lib import knobs
from lib.cluster import Database
from lib.drain import Drain
from lib.nginx import Nginx
from lib.series import Series, ratio_at_least, ratio_at_most

KEYS = (1, 10, 64)
MANY = 10000


def events(keys):
    """One key takes as long as its round trips."""
    return knobs.EVENTS // 8 if keys == 1 else knobs.EVENTS // 2


def run(stage, cluster):
    cpu = Series('CPU an event, 1 key', 'us', ratio_at_most(1.5), limit_name=f'{MANY} keys')
    with Nginx(stage) as receiver, Database(cluster) as database:
        drain = Drain(stage, database, receiver, 256, publisher='dapr', dapr_bulk='off')
        for keys in KEYS:
            series = Series(f'{keys} keys', 'events/s', ratio_at_least(0.5), limit_name=f'bare loop, {keys} in flight')
            count = events(keys)
            for _ in range(knobs.PAIRS):
                relay, bare = drain.relay(count, keys=keys), drain.bare(count, in_flight=keys)
                series.add(count / relay.seconds, count / bare.seconds)
                if keys == 1:
                    many = drain.relay(count, keys=MANY)
                    cpu.add(relay.cpu / count * 1e6, many.cpu / count * 1e6)
            yield series
        yield cpu
