"""The phase "orderly": the relay ends in order, or changes its publisher, again and again under load.

The receiver answers at once and no other fault is active.  So no event may arrive twice, but for one that
the receiver took too late: the relay waits 200 ms for answers, and no longer.  The checker knows the
copies of those by the times in the receiver's log (faults.ENDING).
"""

import itertools
import signal
import time

from faults import ENDING
from rig import Batch, disturbance, prepared
from server import RELAY, poll, send_signal

ENDS = 18
TOPICS = [f'orderly-{n}' for n in range(20)]
EACH = 60                   # events of a topic before each end, so that the relay is at work
SOME = 100                  # that are taken before the end
TIMEOUT = 30
KEYS = 10
ENOUGH = ENDS // 2          # ends that met the relay in the middle of its work

SETTINGS = {'outbox.max_in_flight': 32, 'outbox.dapr_bulk': 'off'}


def _terminate(rig):
    rig.server.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = %s', RELAY)


def _signal_twice(rig):
    for pid in rig.server.backends(RELAY):
        send_signal(pid, signal.SIGTERM)
        send_signal(pid, signal.SIGTERM)


def _restart(rig):
    rig.server.stop('fast')
    rig.server.start()


def _reload(rig, **changed):
    """Until the next one; that is not the end of the relay's process."""
    rig.server.settings({**rig.settings, **changed})
    rig.server.reload()


def _no_publisher(rig):
    _reload(rig, **{'outbox.publisher': 'no_such_library'})
    poll(lambda: rig.server.query("SELECT 1 FROM outbox_check() WHERE \"check\" = 'publisher configured' AND NOT ok"),
         TIMEOUT, 'the publisher to be gone')
    _reload(rig)


def _disable(rig):
    _reload(rig, **{'outbox.enabled': 'off'})
    poll(lambda: rig.server.query("SELECT 1 FROM outbox_relays WHERE state = 'disabled'"), TIMEOUT,
         'the relay to be disabled')
    _reload(rig)


def _other_settings(rig):
    """Of the publisher, which is made anew."""
    _reload(rig, **{'outbox.http_content_mode': 'structured', 'outbox.connect_timeout': '2s'})
    _reload(rig)


HOW = (_terminate, _no_publisher, _signal_twice, _other_settings, _restart, _disable)


def orderly(options, directory):
    """Many ends, and no duplicate."""
    with prepared(options, directory, 'orderly', settings=SETTINGS) as rig:
        load = rig.new_load(prefix='o', writers=4, administrators=0)
        load.start()
        met = 0
        for number, end in enumerate(itertools.islice(itertools.cycle(HOW), ENDS)):
            before = rig.receiver.accepted()
            rig.publish(f'b0.{number}', Batch(TOPICS, EACH, KEYS, number * EACH + 1))
            poll(lambda before=before: rig.receiver.accepted() >= before + SOME, TIMEOUT, 'the relay to be at work')
            with disturbance(rig, end.__name__.strip('_'), ENDING):
                end(rig)
            met += rig.receiver.accepted() < before + EACH * len(TOPICS)
            rig.server.await_relay()
        rig.load_end = time.time()
        load.stop()
        rig.drain()
        report = rig.judge()
        report.numbers['ends'] = ENDS
        report.numbers['ends_at_work'] = met
        if met < ENOUGH:
            report.found('relay_was_idle', f'{met} of {ENDS} ends met it at work')
        return report
