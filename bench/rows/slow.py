"""
slow: a receiver that takes its time.  One request of a hundred is answered after 5 s; or each after
50 ms.  What could be reached is max_in_flight divided by the mean time of an answer.

Measured is the steady state: from when the first of the slow answers have come, until the last events
are about to be sent.  nginx draws those that are slow at random; the limit is computed from how many
there were.
"""

import collections
import time

from lib import knobs
from lib.cluster import Database
from lib.drain import Drain
from lib.nginx import Nginx
from lib.series import Series, ratio_at_least
from lib.wait import wait_until

IN_FLIGHT = 64
SLOW = 5            # seconds that one answer of a hundred takes
DELAY = 0.05        # seconds that each takes; the mean is the same
EXPECTED = IN_FLIGHT / DELAY

Mark = collections.namedtuple('Mark', 'time published slow')


def steady_state(drain, warm, seconds):
    """Marks at the begin and the end of it; all events are confirmed and settled afterwards."""
    first, last = int(warm * EXPECTED), int((warm + seconds) * EXPECTED)
    count = last + int(EXPECTED)
    database, receiver = drain.database, drain.receiver
    drain.load(count)
    before, requests = database.published(), receiver.requests()
    database.enable(True)
    marks = []
    for goal in first, last:
        wait_until(f'{goal} events', lambda goal=goal: database.published() - before >= goal, 10 * (warm + seconds))
        marks.append(Mark(time.monotonic(), database.published(), receiver.slow_answers()))
    database.await_settled(before + count)
    database.enable(False)
    drain.check(count, receiver.requests() - requests)
    database.empty()
    return marks


def rates(drain, warm, seconds, mean):
    """Events a second, and what could be reached; "mean" is a function of both marks."""
    begin, end = steady_state(drain, warm, seconds)
    return (end.published - begin.published) / (end.time - begin.time), IN_FLIGHT / mean(begin, end)


def mean_of_hundredth(begin, end):
    return SLOW * (end.slow - begin.slow) / (end.published - begin.published)


# name, what the receiver is told, the mean time of an answer, seconds until the state is steady, how many
# times BENCH_SECONDS a measurement takes
CASES = [
    ('1 % answered after 5 s', {'hundredth': SLOW}, mean_of_hundredth, SLOW + 1, 2),
    ('each answered after 50 ms', {'delay': DELAY}, lambda begin, end: DELAY, 1, 1),
]


def run(stage, cluster):
    with Database(cluster) as database:
        for name, delays, mean, warm, times in CASES:
            series = Series(name, 'events/s', ratio_at_least(0.9), limit_name='max_in_flight / mean time')
            with Nginx(stage, **delays) as receiver:
                drain = Drain(stage, database, receiver, 256, in_flight=IN_FLIGHT, publisher='dapr', dapr_bulk='off')
                for _ in range(knobs.PAIRS):
                    series.add(*rates(drain, warm, times * knobs.SECONDS, mean))
            yield series
