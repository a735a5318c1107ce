"""The phase "slow": the server crashes beside an event that is not answered.

The position has to pass that event, since thousands are delivered meanwhile.  After the crash, only what was in flight
and what was settled in the last fraction of a second may be sent again: docs/guarantees.md promises three times
wal_writer_delay, which is short here.  The crash comes at different times after the slow event was read, since
the relay does something about it after a second.
"""

import threading
import time

import checker
from faults import ANSWERS, CRASH
from rig import Batch, disturbance, prepared
from server import poll

CRASH_AFTER = (0.4, 0.9, 1.3, 2.5)
EACH = 50                   # events of a transaction of the stream beside it
PAUSE = 0.02                # between two of them
WAL_WRITER_DELAY = 0.02
BOUND = 3 * WAL_WRITER_DELAY
BUSY = 0.25                 # what a busy machine adds
ENOUGH = 100                # events of the stream that are taken before a crash
TIMEOUT = 30

SETTINGS = {'wal_writer_delay': f'{round(1000 * WAL_WRITER_DELAY)}ms', 'wal_writer_flush_after': '1MB',
            'outbox.request_timeout': '30s'}


def slow(options, directory):
    """Crashes while an event is not answered."""
    with prepared(options, directory, 'slow', settings=SETTINGS) as rig:
        load = rig.new_load(writers=0, hold=False, administrators=0)
        load.start()
        crashes = [_round(rig, number, seconds) for number, seconds in enumerate(CRASH_AFTER)]
        rig.load_end = time.time()
        load.stop()
        rig.drain()
        report = rig.judge()
        _judge(rig, report, crashes)
        return report


class _Stream(threading.Thread):
    """Transactions one after the other, until the server is gone."""

    def __init__(self, rig, number):
        super().__init__(daemon=True)
        self.rig = rig
        self.number = number
        self.stopping = threading.Event()

    def run(self):
        n = 0
        while not self.stopping.wait(PAUSE):
            n += 1
            self.rig.publish(f'c{self.number}.{n}', Batch(['beside'], EACH))


def _round(rig, number, seconds):
    """The time of the crash."""
    with disturbance(rig, 'hang', ANSWERS):
        rig.receiver.faults([{'match': {'path': '/slow([?].*)?$'}, 'action': 'hang', 'on_release': 'drop'}])
        stream = _Stream(rig, number)
        stream.start()
        before = rig.receiver.accepted()
        poll(lambda: rig.receiver.accepted() >= before + ENOUGH, TIMEOUT, 'events beside it')
        rig.publish(f'b0.{number}', Batch(['slow']))
        time.sleep(seconds)
        stream.stopping.set()
        stream.join()
        with disturbance(rig, 'kill_postmaster', CRASH) as crash:
            rig.server.kill9()
        rig.receiver.faults([])
    rig.server.start()
    rig.server.await_relay()
    rig.settle()
    return crash.start


def _judge(rig, report, crashes):
    """Was any event sent again that was delivered too long before the crash in between?"""
    report.count('sent_again_beyond_bound')
    longest = 0.0
    former = {}
    for arrival in checker.read_arrivals(rig.receiver.logs):
        before = former.get(arrival.event_id)
        former[arrival.event_id] = arrival.time
        if before is None or arrival.topic == 'slow':
            continue
        age = max((at for at in crashes if at <= arrival.time), default=before) - before
        longest = max(longest, age)
        if age > BOUND + BUSY:
            report.found('sent_again_beyond_bound', f'{arrival.event_id}: delivered {age:.3f} s before the crash')
    report.numbers['longest_sent_again_s'] = round(longest, 3)
