"""The phase "pauses": a process is stopped for longer than all time-outs, as on a virtual machine that is paused.

When the relay goes on, the answers of all that time lie in its sockets, or the receiver's in its own: an
event that the receiver took while the relay stood still may not be sent again.  While the receiver stands
still, requests are not answered in time, and may arrive twice.
"""

import signal
import time

from faults import OUTAGE, PAUSE
from rig import SINGLE, Batch, disturbance, prepared
from server import RELAY, poll, send_signal

# Who is stopped: the relay, the receiver, both
ROUNDS = ((True, False), (True, False), (False, True), (True, False), (True, True), (True, False))
SECONDS = 4.0               # longer than request_timeout and the second that the relay gives to a publisher
BETWEEN = 2.0               # seconds to come back to work
TOPICS = [f'pauses-{n}' for n in range(20)]
EACH = 60
SOME = 100                  # that are taken before the pause
KEYS = 10
TIMEOUT = 30

SETTINGS = {**SINGLE, 'outbox.request_timeout': '1s', 'outbox.connect_timeout': '1s', 'outbox.max_in_flight': 32}


def pauses(options, directory):
    """Processes stand still in the middle of their work."""
    with prepared(options, directory, 'pauses', settings=SETTINGS) as rig:
        load = rig.new_load(prefix='s', writers=4, administrators=0)
        load.start()
        met = 0
        for number, stopped in enumerate(ROUNDS):
            before = rig.receiver.accepted()
            rig.publish(f'b0.{number}', Batch(TOPICS, EACH, KEYS, number * EACH + 1))
            poll(lambda before=before: rig.receiver.accepted() >= before + SOME, TIMEOUT, 'the relay to be at work')
            _stop(rig, *stopped)
            met += rig.receiver.accepted() < before + EACH * len(TOPICS)
            load.stopping.wait(BETWEEN)
        rig.load_end = time.time()
        load.stop()
        rig.drain()
        report = rig.judge()
        report.numbers.update({'pauses': len(ROUNDS), 'pauses_at_work': met})
        if met < len(ROUNDS) // 2:
            report.found('relay_was_idle', f'{met} of {len(ROUNDS)} pauses met it at work')
        return report


def _stop(rig, relay, receiver):
    pids = rig.server.backends(RELAY) if relay else []
    pids += [rig.receiver.process.pid] if receiver else []
    with disturbance(rig, 'pause', OUTAGE if receiver else PAUSE):
        for pid in pids:
            send_signal(pid, signal.SIGSTOP)
        time.sleep(SECONDS)
        for pid in pids:
            send_signal(pid, signal.SIGCONT)
