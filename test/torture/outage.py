"""The phase "outage": the receiver is in trouble for a thousand topics at a time.

It answers 503 to all, does not answer at all, is gone and comes back, and at last does one after the
other without a pause.  Each time a backlog is there, and more is published meanwhile.  Each trouble
lasts long enough to be noticed in every way: by answers, by requests that were not answered in time,
by topics that are down.

No event may die of it, or lose more attempts than those of the tries that notice it: one less than
outbox.breaker_threshold.  Once the trouble is over, the first event has to arrive within a second, by
the clock of the receiver's log; and in the end all of them, in order.
"""

import time

import checker
from faults import ANSWERS, OUTAGE
from rig import Batch, disturbance, prepared

TOPICS = [f'outage-{n}' for n in range(1000)]
KEYS = 2
BACKLOG = 3                 # events of each topic when the trouble begins
MEANWHILE = 4               # ... and one of each so often during it
TROUBLE_SECONDS = 6.0       # more than two times the longest wait for an answer
FIRST_SECONDS = 1.0
THRESHOLD = 10

SETTINGS = {'outbox.request_timeout': '2s', 'outbox.breaker_threshold': THRESHOLD, 'outbox.local_retry_times': 1,
            'outbox.max_retry_times': 12}

# Attempts that were used up: the try that delivers an event is none.
ATTEMPTS = """
SELECT coalesce(sum(attempts - CASE WHEN state = 'published' THEN 1 ELSE 0 END), 0) FROM outbox_delivery
"""


def answers_503(receiver):
    receiver.faults([{'action': 'status', 'status': 503}])


def hangs(receiver):
    """Whatever it is asked, in the end it breaks the connection."""
    receiver.faults([{'match': {'path': ''}, 'action': 'hang', 'on_release': 'drop'}])


def is_gone(receiver):
    receiver.kill()


def is_well(receiver):
    if receiver.process is None:
        receiver.rules = []
        receiver.start()
    else:
        receiver.faults([])


TROUBLES = {'503': (ANSWERS, (answers_503,)), 'hangs': (ANSWERS, (hangs,)), 'restart': (OUTAGE, (is_gone,)),
            'in_turn': (OUTAGE, (answers_503, hangs, is_gone))}


def outage(options, directory):
    """A thousand topics, and trouble for all of them."""
    with prepared(options, directory, 'outage', settings=SETTINGS) as rig:
        load = rig.new_load(writers=0, hold=False, administrators=0)
        load.start()
        publisher = _Publisher(rig)
        publisher.publish()                     # failures count only when something has gone through
        rig.settle()
        recoveries = {}
        used = {}
        for name, (effect, steps) in TROUBLES.items():
            before = _attempts(rig)
            with disturbance(rig, name, effect):
                for number, step in enumerate(steps):
                    step(rig.receiver)
                    if number == 0:
                        publisher.publish(BACKLOG)
                    publisher.publish_for(TROUBLE_SECONDS)
                recoveries[name] = time.time()
                is_well(rig.receiver)
                if steps[-1] is is_gone:
                    recoveries[name] = time.time()      # it could not be reached before
            rig.settle()
            used[name] = _attempts(rig) - before
        rig.load_end = time.time()
        load.stop()
        rig.drain()
        report = rig.judge()
        _judge(rig, report, recoveries, used)
        return report


class _Publisher:
    """Publishes events of all topics, and numbers them."""

    def __init__(self, rig):
        self.rig = rig
        self.batches = 0
        self.events = 0             # of each topic

    def publish(self, each=1):
        self.rig.publish(f'b0.{self.batches}', Batch(TOPICS, each, KEYS, self.events + 1))
        self.batches += 1
        self.events += each

    def publish_for(self, seconds):
        """Publish now and then."""
        until = time.monotonic() + seconds
        for _ in range(MEANWHILE):
            self.publish()
            time.sleep(max(until - time.monotonic(), 0) / MEANWHILE)
        time.sleep(max(until - time.monotonic(), 0))


def _attempts(rig):
    """How many have been used up so far."""
    return rig.server.execute(ATTEMPTS)[0][0]


def _judge(rig, report, recoveries, used):
    """What the checker does not know."""
    arrivals = [arrival.time for arrival in checker.read_arrivals(rig.receiver.logs)]
    for name, recovered in recoveries.items():
        first = next((at for at in arrivals if at >= recovered), float('inf')) - recovered
        report.numbers[f'first_after_{name}_s'] = round(first, 3)
        if first > FIRST_SECONDS:
            report.found('late_after_outage', f'{name}: {first:.2f} s')
        report.numbers[f'attempts_of_{name}'] = used[name]
        if used[name] >= THRESHOLD:
            report.found('attempts_of_outage', f'{name}: {used[name]}')
    if rig.server.query('SELECT died FROM outbox_stats') != [(0,)]:
        report.found('dead_of_outage', 'says outbox_stats')
