"""
relay: pending events, until all are settled, beside a bare libcurl loop that sends the same bytes
with the same number of requests in flight.

Each event is a request of its own.  The clock runs from the reload of outbox.enabled to the
checkpoint that settles the last event.
"""

from lib import knobs
from lib.cluster import Database
from lib.drain import Drain
from lib.nginx import Nginx
from lib.series import Series, alternate, ratio_at_least

# name, size of the payload, over a unix socket?, settings
CASES = [
    ('dapr 256 B', 256, False, {'publisher': 'dapr', 'dapr_bulk': 'off'}),
    ('dapr 1 KB', 1024, False, {'publisher': 'dapr', 'dapr_bulk': 'off'}),
    ('dapr 256 B, unix socket', 256, True, {'publisher': 'dapr', 'dapr_bulk': 'off'}),
    ('dapr 1 KB, unix socket', 1024, True, {'publisher': 'dapr', 'dapr_bulk': 'off'}),
    ('http 256 B', 256, False, {'publisher': 'http'}),
    ('http 1 KB', 1024, False, {'publisher': 'http'}),
]


def rate(cost):
    return cost.count / cost.seconds


def run(stage, cluster):
    with Nginx(stage) as receiver, Database(cluster) as database:
        for name, size, unix, settings in CASES:
            drain = Drain(stage, database, receiver, size, unix=unix, **settings)
            yield alternate(Series(name, 'events/s', ratio_at_least(0.8), limit_name='bare libcurl loop'),
                            knobs.PAIRS, lambda: rate(drain.relay(knobs.EVENTS)),
                            lambda: rate(drain.bare(knobs.EVENTS)))
