"""The phase "tails": the relay is killed when it knows more than its last checkpoint.

Requests hang, more than the position may pass, and hold it back for a second.  Behind them in the same transaction,
events of one key are delivered, which nobody has written down.  Hundreds more of the key fill the memory, and are
answered so slowly that most of them become rows, to make room for what is behind them.  Then comes the crash.

The next relay finds the rows at once, but has to read again, a batch at a time, what comes before them.
No row may be taken, and no event have had a row, before an earlier one of its key.
"""

import signal
import time

from bystanders import OVERTAKEN
from checker import LAST_REQUEST
from faults import ANSWERS, CRASH
from rig import Batch, disturbance, prepared
from server import RELAY, poll, send_signal

ROUNDS = 5
HOLDERS = 300               # that hang; the position names up to 256 that it has passed
FILLER = 450                # events in front of the key's, more than two batches
DELIVERED = 10
DEEP = 700
SLOW = 0.1                  # seconds that one of them takes
ROWS = 100                  # that are there when the crash comes
TIMEOUT = 30

SETTINGS = {'outbox.batch_size': 200, 'outbox.max_in_flight': 2000}


def tails(options, directory):
    """Crashes with a hot key in memory, in the table and between the two."""
    with prepared(options, directory, 'tails', settings=SETTINGS) as rig:
        load = rig.new_load(writers=0, hold=False, administrators=0)
        load.start()
        held = sum([_round(rig, number) for number in range(ROUNDS)])
        rig.load_end = time.time()
        load.stop()
        rig.drain()
        report = rig.judge()
        report.numbers.update({'rounds': ROUNDS, 'rounds_with_position_held': held})
        if not held:
            report.found('position_was_never_held', 'a second was too short each time')
        return report


def _round(rig, number):
    """True if the position was still held back when the crash came."""
    holder, hot = f'holder-{number}', f'hot-{number}'
    with disturbance(rig, 'hang', ANSWERS):
        rig.receiver.faults([{'match': {'path': f'/{holder}([?].*)?$'}, 'action': 'hang', 'on_release': 'drop'},
                             {'match': {'path': f'/{hot}([?].*)?$'}, 'skip': DELIVERED, 'delay_response': SLOW}])
        before = rig.receiver.accepted()
        rig.publish(f'b0.{number}', Batch([holder], HOLDERS), Batch(['filler'], FILLER), Batch([hot], DELIVERED, keys=1))
        poll(lambda: rig.receiver.accepted() >= before + FILLER + DELIVERED, TIMEOUT, 'the first of the key')
        rig.publish(f'c0.{number}', Batch([hot], DEEP, keys=1, first=DELIVERED + 1),
                    Batch([f'behind-{number}']))
        poll(lambda: rig.server.execute('SELECT count(*) FROM outbox_delivery WHERE topic = %s', hot)[0][0] >= ROWS,
             TIMEOUT, 'rows of the key')
        rig.load.note_overtaken(rig.server.execute(OVERTAKEN))
        # A commit that is waited for: all WAL before it is on disk, too.
        rig.server.execute("SELECT pg_logical_emit_message(true, 'torture', '')")
        held = not rig.server.execute('SELECT 1 FROM outbox_delivery WHERE topic = %s', holder)
        with disturbance(rig, 'kill_relay', CRASH):
            for pid in rig.server.backends(RELAY):
                send_signal(pid, signal.SIGKILL)
            rig.server.kill9()
        rig.receiver.faults([])
    # What comes after this is a new relay's.
    time.sleep(2 * LAST_REQUEST)
    rig.server.start()
    rig.server.await_relay()
    rig.settle()
    return held
