"""
dapr: pending events to the real sidecar, one a request and by its bulk API, beside a bare libcurl loop
that sends the same bytes to the same sidecar.

It needs the sidecar of tools/build-daprd; without it the row is left out.
"""

import glob
import os

from lib import knobs
from lib.cluster import Database
from lib.daprd import Daprd
from lib.drain import Drain
from lib.series import Series, alternate, ratio_at_least

# name, how many events to see one full request, events of a run, settings
CASES = [
    ('daprd, 256 B', 1, knobs.EVENTS // 4, {'dapr_bulk': 'off'}),
    ('daprd bulk, 256 B', 1000, knobs.EVENTS, {'dapr_bulk': 'on'}),
]


def rate(cost):
    return cost.count / cost.seconds


def run(stage, cluster):
    binaries = glob.glob(os.path.join(stage.directory, 'cache', 'daprd-*'))
    if not binaries:
        print('dapr: there is no daprd here (tools/setup-real daprd)', flush=True)
        return
    with Daprd(stage, max(binaries)) as daprd, Database(cluster) as database:
        for name, capture, events, settings in CASES:
            drain = Drain(stage, database, daprd, 256, publisher='dapr', capture=capture, **settings)
            yield alternate(Series(name, 'events/s', ratio_at_least(0.9), limit_name='bare libcurl loop'),
                            knobs.PAIRS, lambda: rate(drain.relay(events)), lambda: rate(drain.bare(events)))
