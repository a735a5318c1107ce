"""What is promised, looked at with every step: the watch knows what was really committed, sent and accepted.

The relay tells it what it does and cannot ask it anything.  An event a comes before b of its unit if both are of one
transaction and a has the smaller id, or if a was committed before b took its id: that is all that writers who wait for
each other can rely on.  Scheduled events have no such order, only "one of a unit at a time".
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Optional

from books import unit_of
from tables import DEAD, DISCARDED, FAILED, IN_PROGRESS, PENDING, PUBLISHED

SPILL_BOUND = 1000


class Broken(Exception):
    """A promise is."""


def require(condition, promise, *about):
    if not condition:
        raise Broken(f'{promise}: {", ".join(str(thing) for thing in about)}')


@dataclass
class Truth:
    """An event, as only the world knows it."""
    id: int
    xid: int
    topic: str
    key: Optional[str]
    scheduled: bool
    id_time: int                # counts steps
    commit_time: Optional[int] = None
    accepted: bool = False      # by the receiver, at least once
    known_at: Optional[int] = None  # a time: the relay was told so
    may_repeat: bool = False    # why it may be sent though the relay was told so: a crash, or a person asked
    dead: bool = False
    discarded: bool = False
    deleted: bool = False       # and the relay has seen it
    retried: bool = False
    passed: bool = False        # later ones were let go while it was dead or discarded: it has lost its place


def comes_before(a, b):
    if a.xid == b.xid:
        return a.id < b.id
    return a.commit_time is not None and a.commit_time < b.id_time


class Watch:
    def __init__(self, db):
        self.db = db
        self.truth = {}
        self.by_key = defaultdict(dict)     # events that were not accepted
        self.uncovered = {}                 # committed events that the position had not passed when last looked at
        self.in_flight = {}                 # id: unit
        self.counts = defaultdict(int)

    # What the world says

    def publishes(self, truth):
        self.truth[truth.id] = truth
        if truth.key is not None:
            self.by_key[truth.key][truth.id] = truth

    def commits(self, truths, now):
        for truth in truths:
            truth.commit_time = now
            self.uncovered[truth.id] = truth

    def forgets(self, event_id):
        """It is not in the database any more: pruned, rolled back, or lost with its transaction."""
        truth = self.truth.pop(event_id)
        self.uncovered.pop(event_id, None)
        self.by_key[truth.key].pop(event_id, None)

    def accepts(self, event_id):
        truth = self.truth.get(event_id)
        if truth is not None:
            truth.accepted = True
            self.by_key[truth.key].pop(event_id, None)

    def answers(self, event_id, now):
        """The relay is about to be told that the event was accepted."""
        truth = self.truth[event_id]
        truth.known_at, truth.may_repeat = now, False

    def loses(self):
        """The database crashed."""
        for event_id in [event_id for event_id in self.truth if event_id not in self.db.events]:
            self.forgets(event_id)

    def relay_ended(self, orderly):
        """What the relay knew counts only as far as the database still says so."""
        self.in_flight.clear()
        for truth in self.truth.values():
            if truth.id not in self.db.events:
                continue
            state = self.state(truth)
            truth.dead, truth.discarded, truth.deleted = state == DEAD, state == DISCARDED, False
            if truth.known_at is not None and state != PUBLISHED:
                require(not orderly or truth.may_repeat, 'settled, and will be sent again after an orderly end', truth)
                truth.may_repeat = True
            self.uncovered[truth.id] = truth

    def state(self, truth):
        """What the database says of an event, None for one that will be sent."""
        row = self.db.delivery.get(truth.id)
        if row is not None:
            return row.state
        return PUBLISHED if self.db.position.covers(truth) else None

    def prunes(self, event_id):
        """An event without a row."""
        require(self.truth[event_id].accepted, 'lost: pruned', self.truth[event_id])

    # What the relay does

    def open_before(self, relay, truth):
        """Events that have to be out of the way before this one is sent for the first time."""
        if truth.key is None or truth.scheduled or truth.accepted:
            return []
        unit = unit_of(truth, relay.scope)
        return [a for a in self.by_key[truth.key].values()
                if a.id != truth.id and unit_of(a, relay.scope) == unit and not a.scheduled and not a.passed
                and not a.discarded and not (a.dead and relay.policy == 'skip')
                and comes_before(a, truth) and a.id in self.db.events]

    def sends(self, relay, entry):
        truth = self.truth.get(entry.id)
        require(truth is not None, 'sent though it was rolled back', entry)
        require(truth.commit_time is not None and self.db.durable(truth.xid), 'sent before it was durable', entry)
        require(entry.id not in self.in_flight, 'sent twice at a time', entry)
        require(entry.unit is None or entry.unit not in self.in_flight.values(), 'two of a unit in flight', entry,
                self.in_flight)
        require(not truth.discarded, 'sent though it was discarded', entry)
        require(not truth.deleted, 'sent though it was deleted', entry)
        require(truth.known_at is None or truth.may_repeat, 'delivered again without a reason', entry, truth)
        self.counts['first' if not truth.accepted else 'again'] += 1
        for a in self.open_before(relay, truth):
            require(False, 'overtook an earlier event of its unit', entry, a, relay.entries.get(a.id))
        self.in_flight[entry.id] = entry.unit

    def takes(self, relay, row):
        """R2."""
        self.counts['taken'] += 1
        for a in self.open_before(relay, self.truth[row.id]):
            require(a.id in relay.entries, 'R2: taken before an earlier one', row, a)

    def cancels(self, entry):
        self.in_flight.pop(entry.id)

    def dies(self, relay, entry):
        self.counts['dead'] += 1
        self.truth[entry.id].dead = True

    def discards(self, event_id):
        self.counts['discarded'] += 1
        self.truth[event_id].discarded = True

    def retries(self, relay, event_id):
        self.counts['retried'] += 1
        truth = self.truth[event_id]
        truth.passed = truth.passed or truth.discarded or truth.dead and relay.policy == 'skip'
        truth.dead = truth.discarded = False
        truth.retried = truth.may_repeat = True

    def deletes(self, event_id):
        if event_id in self.truth:
            self.truth[event_id].deleted = True

    def committed(self, relay, changes, position):
        """A checkpoint."""
        self.counts['checkpoint'] += 1
        for table, event_id, row in changes:
            truth = self.truth.get(event_id)
            if table != 'delivery' or truth is None or event_id not in self.db.events:
                continue
            if row is None or row.state == PUBLISHED:
                read_again = row is None and truth.retried and not position.covers(truth)
                require(read_again or truth.accepted, 'written down as published, and was not', truth)
            elif row.state in (PENDING, IN_PROGRESS, FAILED) or row.state == DEAD and relay.policy == 'block':
                self.check_prefix(relay, truth)
        self.check_position(relay, position)
        self.check_wakers(relay)
        require(len(relay.entries) <= relay.limits.memory + 2 * relay.limits.batch, 'memory', len(relay.entries))

    def check_prefix(self, relay, truth):
        """R1."""
        if not truth.retried:
            for a in self.open_before(relay, truth):
                require(a.id in self.db.delivery, 'R1: a row, and an earlier event has none', truth, a)

    def check_position(self, relay, position):
        """What it passes is accounted for; what was settled, it has passed, or if too much is open a second later."""
        full = len(position.open) >= relay.limits.open
        for truth in list(self.uncovered.values()):
            row = self.db.delivery.get(truth.id)
            if truth.id not in self.db.events:
                del self.uncovered[truth.id]
            elif position.covers(truth):
                require(row is not None or truth.accepted, 'lost: the position passed it', truth, position)
                del self.uncovered[truth.id]
            elif truth.known_at is not None and not truth.may_repeat:
                require(full and truth.known_at > relay.now - SPILL_BOUND or row is not None,
                        'settled, and a crash would have it sent again', truth, position)

    def check_wakers(self, relay):
        """R5."""
        if relay.journal:
            return
        rows = defaultdict(list)
        for row in self.db.delivery.values():
            if row.key is not None and relay.blocks(row):
                require(row.id > relay.floor(relay.unit(row)), 'R7: an unsettled row below the floor', row)
        for row in self.db.delivery.values():
            if row.id not in relay.entries:
                if row.key is None and row.state in (PENDING, IN_PROGRESS, FAILED):
                    require(self.is_coming(relay, row), 'nobody brings it back', row)
                elif row.key is not None and relay.blocks(row):
                    rows[relay.unit(row)].append(row)
        for unit, waiting in rows.items():
            queue = relay.queues.get(unit)
            if queue is not None:
                for row in waiting:
                    require(queue.in_tail(row.id) or self.is_coming(relay, row), 'nobody brings it back', row, queue)
            elif unit not in relay.wanted and min(waiting).state != DEAD:
                require(any(self.is_coming(relay, row) for row in waiting), 'nobody brings them back', waiting)

    def is_coming(self, relay, row):
        """By a walk, at its time, or by the request with which its event was deleted."""
        if row.id not in self.db.events or relay.walking and row.id > relay.walked:
            return True
        lane = relay.lanes.get(row.topic)
        if lane and lane.tail and row.state == PENDING and row.id > lane.walked:
            return True
        return relay.is_due_row(row) and (row.next_at, row.id) > relay.due_cursor

    # When all is quiet

    def unfinished(self, relay, down):
        """Events that should have been sent by now, though these topics are down."""
        rows = self.db.delivery
        dead = [row for row in rows.values() if row.state == DEAD and relay.policy == 'block']
        left = []
        for truth in self.truth.values():
            if truth.id not in self.db.events or self.state(truth) in (PUBLISHED, DEAD, DISCARDED):
                continue
            unit = unit_of(truth, relay.scope)
            if unit is None or not any(unit_of(row, relay.scope) == unit and row.id < truth.id for row in dead):
                left.append(truth)
        waiting = {unit_of(truth, relay.scope) for truth in left if truth.topic in down}
        return [truth for truth in left if truth.topic not in down
                and (truth.key is None or unit_of(truth, relay.scope) not in waiting)]
