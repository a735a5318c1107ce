"""
relay: pending events, until all are settled, beside a bare libcurl loop that sends the same bytes
with the same number of requests in flight.

The last one has requests signed (HMAC-SHA256), beside the same without.

Each event is a request of its own.  The clock runs from the reload of outbox.enabled to the
checkpoint that settles the last event.
"""

import os

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
        yield signed(Drain(stage, database, receiver, 256, publisher='http'), database)


def signed(drain, database):
    secret = os.path.join(database.cluster.directory, 'webhook.secret')
    with open(secret, 'w', encoding='ascii', opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write('whsec_' + 'A' * 32 + '\n')

    def relay(secret_file):
        database.configure(http_signature_secret_file=secret_file)
        return rate(drain.relay(knobs.EVENTS))

    return alternate(Series('http 256 B, signed', 'events/s', ratio_at_least(0.9), limit_name='the same, unsigned'),
                     knobs.PAIRS, lambda: relay(secret), lambda: relay(''))
