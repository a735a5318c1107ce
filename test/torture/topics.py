"""The phase "topics": two topics are in trouble and recover, beside one that is well.

They are refused, fail now and then, are not answered, or are limited; each has a backlog of many times
what stays in memory, in keys that are hot and without keys, and gets more while it waits.  Nothing crashes:
what the relay has written down and forgotten stays lost.

The good topic's events have to go on meanwhile.  Once the trouble is over, all has to be published in a
time in which topics with one request in flight could not have sent a tenth of it; and in order.
"""

import time
import urllib.parse

import checker
from faults import ANSWERS
from rig import DRAIN_TIMEOUT, Batch, disturbance, prepared

BAD = ('bad-1', 'bad-2')
GOOD = 'good'
KEYS = 20
BACKLOG = 1500              # events of each bad topic when its trouble begins, half of them without a key
MORE = 20                   # ... and again and again while it lasts
TROUBLE_SECONDS = 4.0
PAUSE = 0.2                 # between two good events
GOOD_SECONDS = 3.0          # that a good event may take on a busy machine
RECOVERED = {'delay_response': 0.04}    # how a bad topic is answered after its trouble
BACK_SECONDS = 30

SETTINGS = {'outbox.batch_size': 100, 'outbox.local_retry_times': 0, 'outbox.request_timeout': '2s'}

TROUBLES = {
    'refused': {'action': 'status', 'status': 403, 'body': {'errorCode': 'ERR_PUBSUB_FORBIDDEN', 'message': 'no'}},
    'chance': {'action': 'status', 'status': 500, 'every': 4,
               'body': {'errorCode': 'ERR_PUBSUB_PUBLISH_MESSAGE', 'message': 'now and then'}},
    'hangs': {'action': 'hang', 'on_release': 'drop'},
    'limited': {'action': 'status', 'status': 429, 'headers': {'Retry-After': '1'}}}


def rules(**rule):
    """For requests with an event of a bad topic, however it is sent."""
    names = '|'.join(urllib.parse.quote(topic) for topic in BAD)
    return [{'match': {'path': f'/({names})([?].*)?$'}, **rule}]


def topics(options, directory):
    """Bad ones beside a good one."""
    with prepared(options, directory, 'topics', settings=SETTINGS) as rig:
        load = rig.new_load(writers=0, hold=False, administrators=0)
        load.start()
        batches = _Batches(rig)
        batches.publish([*BAD, GOOD], 1)        # failures count only when something has gone through
        rig.settle()
        slow, back = {}, {}
        for name, trouble in TROUBLES.items():
            with disturbance(rig, name, ANSWERS):
                rig.receiver.faults(rules(**trouble))
                batches.publish(BAD, BACKLOG)
                until = time.monotonic() + TROUBLE_SECONDS
                while time.monotonic() < until:
                    batches.publish([GOOD], 1)
                    batches.publish(BAD, MORE)
                    time.sleep(PAUSE)
            rig.receiver.faults(rules(**RECOVERED))
            started = time.monotonic()
            if not rig.settle(BACK_SECONDS):
                slow[name] = rig.server.query('SELECT backlog FROM outbox_stats')[0][0]
                break
            back[name] = time.monotonic() - started
        rig.load_end = time.time()
        load.stop()
        rig.drain(DRAIN_TIMEOUT if not slow else 0)
        report = rig.judge()
        report.numbers.update({f'back_after_{name}_s': round(seconds, 2) for name, seconds in back.items()})
        for name, left in slow.items():
            report.found('topic_not_back', f'{name}: {left} events after {BACK_SECONDS} s')
        _judge_good(rig, report)
        return report


class _Batches:
    """Publishes events and numbers them."""

    def __init__(self, rig):
        self.rig = rig
        self.batches = 0
        self.first = 1

    def publish(self, names, each):
        """Half of them has no key."""
        for keys in (KEYS, 0):
            self.rig.publish(f'b{keys}.{self.batches}', Batch(list(names), -(-each // 2), keys, self.first))
            self.first += each
            self.batches += 1


def _judge_good(rig, report):
    """Has a good event come late?"""
    committed = {txn: asked_at for txn, (_, asked_at) in rig.journal.fates.items()}
    good = [arrival for arrival in checker.read_arrivals(rig.receiver.logs) if arrival.topic == GOOD]
    for trouble in rig.injector.disturbances:
        waited = [arrival.time - committed[arrival.token] for arrival in good
                  if trouble.start <= committed[arrival.token] <= trouble.end]
        report.numbers[f'longest_good_beside_{trouble.name}_s'] = round(max(waited), 3)
        for seconds in waited:
            if seconds > GOOD_SECONDS:
                report.found('good_topic_held_up', f'{trouble.name}: {seconds:.2f} s')
