"""The checker: from what was committed and what was received to numbers.

It reads no clock and asks no server: everything that it judges is in a Run, so that it can itself
be tested with planted errors (checker_test.py).

Which duplicate has a reason?  A copy of an event that was accepted before has one if the answer to
the former copy was spoilt (the receiver's log names the fault rule), or if between the two the
relay lost its memory, or its connections broke; or if the former copy was taken while the relay was
ending, too late for it to hear the answer; or if somebody has asked for it to be sent again.  Anything else
is the relay's own doing.

Each destination is judged by itself.  Of the events that were committed there are those that go there, those
that do not, and those of which nobody can tell, since the moment is not certain from which on they do.
"""

import base64
import bisect
import hashlib
import json
import urllib.parse
from collections import defaultdict
from dataclasses import dataclass, field

from faults import CRASH, ENDING, NONE, OUTAGE, RESTART
from load import BINARY, POISON, Journal
from payloads import canonical, exact_json, find_token

# Clocks are read a little before or after what they stand for.
SLACK = 0.25

# After a fault, the relay needs a moment: a new process, a probe, a request that times out.
RECOVERY = 1.5

# A relay that ends in order waits 200 ms for answers: what the receiver took until then, less what a busy
# machine adds, was answered in time.  After a second the relay is gone.
ANSWERED_IN_TIME = 0.1
GONE_AFTER = 1.0

# An event at which the relay crashed so often is set aside.
MAX_CRASHES = 3
CRASH_REASON = 'the relay crashed'

# The receiver may take for so long what a relay sent that is gone; a new one takes longer to start.
LAST_REQUEST = 0.1

# What was sent may be read so much later, and if the receiver was in trouble.
READ_LATE = 0.5
LAIN = 5.0

# The longest time without a delivery that passes, with the receiver up and something to send.
STALL_LIMIT = 5.0

EXAMPLES = 5


@dataclass
class Truth:
    """A committed event, as its writer recorded it."""
    event_id: str
    txn: str
    mode: str
    topic: str
    key: str = None
    seq: int = None
    payload: str = ''           # as text; bytes in hexadecimal digits
    due: float = None
    times: int = 1              # committed anew with the same id, once the first was pruned
    xid: int = None             # of its transaction; None: it is not known


@dataclass
class Arrival:
    """A request that the receiver took."""
    time: float
    event_id: str
    topic: str
    key: str
    hash: str                   # of the payload
    token: str
    fault: str = None           # the rule it met
    canonical: bool = False     # the hash is of the canonical form, since the receiver has rewritten it
    path: str = ''


@dataclass
class Dead:
    event_id: str
    reason: str
    created_at: float
    destination: int = 0


@dataclass
class Replay:
    """Somebody has asked for events to be sent again."""
    asked_at: float             # nothing was sent for its sake before that
    must: set                   # ids that have to arrive after that
    may: set                    # ids of which it explains one more copy, and the first of what is unwanted


@dataclass
class Run:
    """What happened at one destination."""
    truth: list
    arrivals: list                                  # in the order in which they were taken
    journal: dict = field(default_factory=dict)     # txn: (outcome, when COMMIT was sent)
    disturbances: list = field(default_factory=list)
    dead: list = field(default_factory=list)
    unsettled: int = 0                              # at the deadline, with all faults over
    load_end: float = float('inf')                  # no stall is looked for after that
    given_up: set = field(default_factory=set)      # ids that somebody discarded or deleted
    overtaken: list = field(default_factory=list)   # (time, id without a row, later id of its key with one)
    late: float = 0.0                               # so much later than it happened an arrival may be seen
    begin: float = 0.0                              # before that nothing was to be sent here
    unwanted: set = field(default_factory=set)      # ids of events that do not go here
    optional: set = field(default_factory=set)      # ... that may go here or not
    replays: list = field(default_factory=list)
    refusals: list = field(default_factory=list)    # (time, id) of tries that were refused for want of a good secret
    revoked_at: list = field(default_factory=list)  # when a secret was not taken any more, and the new one was there
    silences: list = field(default_factory=list)    # (what is broken otherwise, from, to): nothing may arrive


def digest(content):
    return hashlib.sha256(content).hexdigest()


def expected_hash(event, is_canonical):
    """Of a committed event's payload, in the form in which it arrived."""
    if event.mode == BINARY:
        return digest(bytes.fromhex(event.payload))
    return digest(canonical(exact_json(event.payload)) if is_canonical else event.payload.encode())


def payload_of(entry):
    """(the payload's bytes, whether they are only the canonical form of it).

    From a request for one event they are those that were sent; the receiver decodes a request for
    several ones and writes each of them anew."""
    body = base64.b64decode(entry['body']) if entry['body_is_base64'] else entry['body'].encode()
    kind = entry['headers'].get('content-type', '')
    if entry['entry_index'] is not None or kind.startswith('application/cloudevents-batch+json'):
        envelope = exact_json(body.decode())
        if 'data_base64' in envelope:
            return base64.b64decode(envelope['data_base64']), False
        return canonical(envelope.get('data')), True
    if not kind.startswith('application/cloudevents+json'):
        return body, False
    for name in (b',"data":', b',"data_base64":'):
        start = body.find(name)
        if start >= 0:
            value = body[start + len(name):-1]
            return value if name == b',"data":' else base64.b64decode(value.strip(b'"')), False
    return b'', False


def read_arrivals(paths):
    """The arrivals of several processes of the receiver, one after the other."""
    arrivals = []
    for path in paths:
        with open(path, 'rb') as file:
            for line in file:
                if not line.endswith(b'\n'):
                    continue                        # it was killed while it wrote
                entry = json.loads(line)
                if entry['accepted']:
                    payload, is_canonical = payload_of(entry)
                    arrivals.append(Arrival(entry['time'], entry['id'], topic_of(entry), entry['key'],
                                            digest(payload), find_token(payload), entry['fault'], is_canonical,
                                            entry['path']))
    return arrivals


def topic_of(entry):
    """In mode dapr it is part of the path, otherwise an attribute: of the headers, or of the envelope."""
    if entry['topic'] is not None:
        return entry['topic']
    header = entry['headers'].get('ce-topic')
    if header is not None:
        return urllib.parse.unquote(header)
    try:
        return json.loads(entry['body'])['topic']
    except (ValueError, TypeError, KeyError):
        return None


class Report:
    """Numbers, and a few examples of what is wrong."""

    # Each of these has to be zero.
    BROKEN = ('lost', 'invented', 'sent_before_durable', 'sent_before_due', 'duplicates_unexplained',
              'order_violations', 'altered', 'dead_without_cause', 'unsettled', 'disk_was_never_full',
              'late_after_outage', 'attempts_of_outage', 'dead_of_outage', 'relay_was_idle',
              'good_topic_held_up', 'topic_not_back', 'stalled_by_open_transaction',
              'overtaken_by_rows', 'steps_back_unexplained', 'position_was_never_held',
              'changed', 'nobody_meddled', 'sent_after_truncate', 'nothing_was_damaged', 'restored_but_not_noted',
              'failed_by_upgrade', 'sent_again_beyond_bound', 'sent_unwanted', 'replay_forgot', 'replay_miscounted',
              'sent_while_paused', 'sent_after_drop', 'left_by_drop', 'nobody_changed_destinations',
              'refused_again', 'nothing_was_rotated')

    def __init__(self):
        self.numbers = {}
        self.examples = defaultdict(list)

    def count(self, name, number=0):
        self.numbers[name] = self.numbers.get(name, 0) + number

    def found(self, name, example):
        self.count(name, 1)
        if len(self.examples[name]) < EXAMPLES:
            self.examples[name].append(example)

    def add(self, other, name):
        """What is wrong at another destination, of that name, is wrong in all."""
        for number in (*self.BROKEN, 'delivered', 'duplicates', 'order_steps_back'):
            if other.numbers.get(number):
                self.count(number, other.numbers[number])
                examples = self.examples[number]
                examples += [f'{name}: {example}' for example in other.examples[number]][:EXAMPLES - len(examples)]
        for number in ('longest_stall_s', 'most_copies'):
            self.numbers[number] = max(self.numbers[number], other.numbers[number])
        self.numbers['watched_for_stalls_s'] += other.numbers['watched_for_stalls_s']

    def failures(self):
        failures = [name for name in self.BROKEN if self.numbers.get(name)]
        if self.numbers.get('longest_stall_s', 0) > STALL_LIMIT:
            failures.append('longest_stall_s')
        return failures

    def lines(self):
        for name, number in self.numbers.items():
            yield f'{name:30} {number}'
            for example in self.examples.get(name, ()):
                yield f'    {example}'


class Spans:
    """Times from ... to ..., which may overlap."""

    def __init__(self, spans):
        self.starts = []
        self.ends = []
        for start, end in sorted(spans):
            if self.ends and start <= self.ends[-1]:
                self.ends[-1] = max(end, self.ends[-1])
            else:
                self.starts.append(start)
                self.ends.append(end)

    def touch(self, start, end):
        """Is any of it between these times?"""
        n = bisect.bisect_right(self.starts, end)
        return n > 0 and self.ends[n - 1] >= start

    def gaps(self, start, end):
        """The lengths of the parts between these times that are in no span."""
        n = bisect.bisect_right(self.ends, start)
        while start < end:
            free_until = min(end, self.starts[n]) if n < len(self.starts) else end
            if free_until > start:
                yield free_until - start
            start = self.ends[n] if n < len(self.starts) else end
            n += 1


class Excuses:
    """Replays, each of which explains one more copy of what it sends again: of an event, or of a unit of order."""

    def __init__(self, replays):
        self.replays = replays
        self.used = set()           # (number of the replay, event or unit)

    def excuse(self, what, event_id, time):
        """Is there a replay left by which this event may arrive now?  Then it is used up."""
        for number, replay in enumerate(self.replays):
            if replay.asked_at <= time and event_id in replay.may and (number, what) not in self.used:
                self.used.add((number, what))
                return True
        return False


def unsettling(disturbances, late):
    """The times of the faults that explain a second copy."""
    return Spans((d.start - SLACK, d.end + SLACK + late) for d in disturbances
                 if d.effect in (CRASH, RESTART, OUTAGE))


def too_late(disturbances):
    """The times in which a relay that ends in order does not wait for answers any more."""
    return Spans((d.start + ANSWERED_IN_TIME, d.end + GONE_AFTER) for d in disturbances if d.effect == ENDING)


def check(run):
    report = Report()
    truth = {event.event_id: event for event in run.truth}
    disturbed = unsettling(run.disturbances, run.late)
    report.count('committed', sum(event.times for event in run.truth))
    report.count('delivered', len({arrival.event_id for arrival in run.arrivals} & truth.keys()))
    for name in Report.BROKEN[:3]:
        report.count(name)
    check_origin(run, truth, report)
    check_copies(run, truth, disturbed, report)
    check_order(run, truth, report)
    check_overtaken(run, report)
    check_content(run, truth, report)
    check_replays(run, report)
    check_silences(run, disturbed, report)
    check_refusals(run, report)
    check_dead(run, truth, report)
    report.count('unsettled', run.unsettled)
    stall, watched = longest_stall(run, truth)
    report.numbers.update({'longest_stall_s': round(stall, 2), 'watched_for_stalls_s': round(watched, 1)})
    return report


def check_origin(run, truth, report):
    """Nothing lost, nothing invented, nothing too early."""
    arrived = set()
    for arrival in run.arrivals:
        if arrival.event_id in arrived:
            continue
        arrived.add(arrival.event_id)
        event = truth.get(arrival.event_id)
        outcome, asked_at = run.journal.get(event.txn if event else arrival.token, (Journal.ROLLED_BACK, None))
        if event is None:
            undone = outcome in (Journal.COMMITTED, Journal.IN_DOUBT)
            report.found('sent_before_durable' if undone else 'invented',
                         f'{arrival.event_id} of {arrival.token}, {outcome}, at {arrival.time:.3f}')
        elif asked_at is not None and arrival.time < asked_at - SLACK:
            report.found('sent_before_durable', f'{arrival.event_id} of {event.txn} ({event.mode}),'
                         f' {asked_at - arrival.time:.3f} s before COMMIT')
    report.count('given_up', len(run.given_up))
    for event_id in truth.keys() - arrived - run.given_up - run.unwanted - run.optional:
        event = truth[event_id]
        report.found('lost', f'{event_id} of {event.txn} ({event.mode}), key {event.key}, seq {event.seq}')
    report.count('sent_before_due')
    for arrival in run.arrivals:
        event = truth.get(arrival.event_id)
        if event and event.due is not None and arrival.time < event.due - SLACK:
            report.found('sent_before_due', f'{arrival.event_id}: {event.due - arrival.time:.3f} s')


def check_copies(run, truth, disturbed, report):
    """Every further copy of an event needs a reason.  Who gave an event up may have it sent again."""
    late = too_late(run.disturbances)
    again = Excuses(run.replays)
    report.count('duplicates')
    report.count('duplicates_unexplained')
    former = {}
    copies = defaultdict(int)
    for arrival in run.arrivals:
        before = former.get(arrival.event_id)
        former[arrival.event_id] = arrival
        copies[arrival.event_id] += 1
        event = truth.get(arrival.event_id)
        if before is None and arrival.event_id in run.unwanted:
            if not again.excuse(arrival.event_id, arrival.event_id, arrival.time):
                report.found('sent_unwanted', f'{arrival.event_id} of topic {arrival.topic} at {arrival.time:.3f}')
            continue
        if before is None or (event and copies[arrival.event_id] <= event.times):
            continue
        report.count('duplicates', 1)
        if not (before.fault or arrival.fault or disturbed.touch(before.time, arrival.time)
                or late.touch(before.time, before.time) or arrival.event_id in run.given_up
                or again.excuse(arrival.event_id, arrival.event_id, arrival.time)):
            report.found('duplicates_unexplained', f'{arrival.event_id} ({event.mode if event else "?"}),'
                         f' {before.time:.3f} and {arrival.time:.3f}')
    report.numbers['most_copies'] = max(copies.values(), default=0)


def check_order(run, truth, report):
    """A key's events of one topic arrive by their numbers.  Copies may go back, but only once each time that the
    relay has lost its memory: it begins anew with the first that it does not know to be delivered; and once for each
    replay, from where on they are in order again.

    Nobody waits for what was given up, and if it was in flight then it may arrive later."""
    for name in ('order_violations', 'order_steps_back', 'steps_back_unexplained'):
        report.count(name)
    lost_memory = Spans((d.start - SLACK, d.end + LAST_REQUEST + run.late) for d in run.disturbances
                        if d.effect in (CRASH, RESTART, OUTAGE))
    again = Excuses(run.replays)
    highest = defaultdict(int)
    former = {}
    seen = set()
    for arrival in run.arrivals:
        event = truth.get(arrival.event_id)
        if event is None or event.seq is None:
            continue
        unit = event.topic, event.key
        is_first = arrival.event_id not in seen
        before, before_at = former.get(unit, (0, 0))
        report.count('order_steps_back', event.seq < before)
        expected = arrival.event_id in run.given_up or not is_first and (
            arrival.fault or lost_memory.touch(before_at, arrival.time))
        if event.seq < (highest[unit] if is_first else before) and not expected:
            if again.excuse(unit, arrival.event_id, arrival.time):
                highest[unit] = event.seq
            else:
                report.found('order_violations' if is_first else 'steps_back_unexplained',
                             f'{event.topic}, {event.key}: {event.seq} ({event.mode}) after'
                             f' {highest[unit] if is_first else before}, at {arrival.time:.3f}')
        seen.add(arrival.event_id)
        highest[unit] = max(event.seq, highest[unit])
        former[unit] = event.seq, arrival.time


def check_overtaken(run, report):
    """No event may have a row while an earlier one of its key, that goes here, was neither delivered nor has one."""
    first = {}
    for arrival in run.arrivals:
        first.setdefault(arrival.event_id, arrival.time)
    report.count('overtaken_by_rows')
    for seen_at, event_id, later in run.overtaken:
        if first.get(event_id, 0) > seen_at and event_id not in run.given_up | run.unwanted | run.optional:
            report.found('overtaken_by_rows', f'{event_id} by {later} at {seen_at:.3f}')


def check_content(run, truth, report):
    """The payload byte for byte, topic and key."""
    report.count('altered')
    for arrival in run.arrivals:
        event = truth.get(arrival.event_id)
        if event is None:
            continue
        for what, sent, got in (('payload', expected_hash(event, arrival.canonical), arrival.hash),
                                ('topic', event.topic, arrival.topic), ('key', event.key, arrival.key)):
            if sent != got:
                report.found('altered', f'{arrival.event_id} ({event.mode}): {what} is {got!r}, was {sent!r}')
                break


def check_replays(run, report):
    """What was settled when somebody asked for it again has arrived once more."""
    last = {arrival.event_id: arrival.time for arrival in run.arrivals}
    report.count('replay_forgot')
    for replay in run.replays:
        for event_id in replay.must - run.given_up:
            if last.get(event_id, 0) < replay.asked_at:
                report.found('replay_forgot', f'{event_id}, asked for at {replay.asked_at:.3f}')


def check_silences(run, disturbed, report):
    """Where nobody may send anything, nothing arrives; but what was sent before may lie for a while."""
    for what, start, end in run.silences:
        report.count(what)
        for arrival in run.arrivals:
            lay = arrival.fault or disturbed.touch(start, arrival.time)
            if start + (LAIN if lay else READ_LATE) < arrival.time < end:
                report.found(what, f'{arrival.event_id} at {arrival.time:.3f}, not from {start:.3f} to {end:.3f}')


def check_refusals(run, report):
    """What was refused has better secrets at its next try, unless these were revoked meanwhile."""
    former = {}
    report.count('refused_again')
    for time, event_id in run.refusals:
        before = former.get(event_id)
        former[event_id] = time
        if before is not None and not any(before < revoked_at <= time for revoked_at in run.revoked_at):
            report.found('refused_again', f'{event_id} at {before:.3f} and {time:.3f}')


def check_dead(run, truth, report):
    """Poison dies, and what was in flight at enough crashes; nothing else."""
    report.count('dead_with_cause')
    report.count('dead_without_cause')
    crashes = [d for d in run.disturbances if d.effect == CRASH]
    for dead in run.dead:
        event = truth.get(dead.event_id)
        lived_through = sum(d.end >= dead.created_at for d in crashes)
        poisoned = event is not None and event.mode == POISON
        crashed = dead.reason.startswith(CRASH_REASON) and lived_through >= MAX_CRASHES
        if poisoned or crashed:
            report.count('dead_with_cause', 1)
        else:
            report.found('dead_without_cause', f'{dead.event_id}: {dead.reason}; {lived_through} crashes')


def longest_stall(run, truth):
    """(the longest time with nothing delivered, something to deliver, and no fault to blame;
    all such time, from one delivery to the next)"""
    waits = defaultdict(int)                        # time: change of the number of events that wait
    first = {}
    for arrival in run.arrivals:
        first.setdefault(arrival.event_id, arrival.time)
    for event in truth.values():
        asked_at = run.journal.get(event.txn, (None, None))[1]
        if asked_at is None or event.mode == POISON or event.event_id not in first:
            continue
        if event.event_id in run.unwanted or event.event_id in run.optional:
            continue
        ready = max(asked_at, event.due or 0, run.begin)
        if first[event.event_id] > ready:
            waits[ready] += 1
            waits[first[event.event_id]] -= 1
    blamed = Spans((d.start - SLACK, d.end + RECOVERY) for d in run.disturbances if d.effect != NONE)
    arrivals = {arrival.time for arrival in run.arrivals}
    longest = watched = 0.0
    waiting = 0
    since = None                                    # something waits, and nothing was delivered since then
    for moment in sorted(arrivals | waits.keys()):
        if moment > run.load_end:
            break
        if since is not None and moment in arrivals:
            for part in blamed.gaps(since, moment):
                longest = max(longest, part)
                watched += part
        waiting += waits.get(moment, 0)
        if waiting == 0:
            since = None
        elif since is None or moment in arrivals:
            since = moment
    return longest, watched
