"""
bulk: pending events in requests of up to 100, through Dapr's bulk API and as CloudEvents batches,
beside a bare libcurl loop that sends the same batches.

The goal holds for a machine on which the bare loop makes 50,000 single POSTs a second; it is scaled
by what the bare loop makes here, with each pair.
"""

from lib import knobs
from lib.cluster import Database
from lib.drain import Drain
from lib.nginx import Nginx
from lib.series import Goal, Series

CASES = [
    ('dapr bulk 256 B', {'publisher': 'dapr', 'dapr_bulk': 'on'}),
    ('http batches of 100, 256 B', {'publisher': 'http', 'http_batch_size': 100}),
]


def rate(cost):
    return cost.count / cost.seconds


def run(stage, cluster):
    with Nginx(stage) as receiver, Database(cluster) as database:
        singles = Drain(stage, database, receiver, 256, publisher='dapr', dapr_bulk='off').single_request()
        for name, settings in CASES:
            drain = Drain(stage, database, receiver, 256, capture=1000, **settings)
            single_rates = []
            series = Series(name, 'events/s', None, limit_name='bare libcurl loop',
                            note=f'{drain.events_per_request} events in the largest request')
            for _ in range(knobs.PAIRS):
                series.add(rate(drain.relay(knobs.EVENTS)), rate(drain.bare(knobs.EVENTS)))
                single_rates.append(rate(singles.bare(knobs.EVENTS // 4)))
            goal = 4 * sorted(single_rates)[len(single_rates) // 2]
            series.goal = Goal(f'>= {goal:,.0f} (4 x single POSTs)', lambda series, goal=goal: series.engine >= goal)
            yield series
