"""Deliberate mistakes: each is a relay with one rule broken, which the checks must find.

seed: of a world that finds it soon; others do as well.
"""

from dataclasses import replace

from memory import READY, Registry
from model import Relay
from tables import FAILED, IN_PROGRESS, PENDING, Position


class ForgottenTail(Relay):
    """A new event does not ask whether rows of its unit wait in the table."""
    def has_rows(self, unit):
        return False


class TailOfQueueForgotten(Relay):
    """What memory had no room for is not remembered in the unit's queue."""
    def cut(self):
        super().cut()
        for queue in self.queues.values():
            queue.tail = False


class TakenBeforeRead(Relay):
    """R2: a row is taken before the reader has come to its event."""
    seed = 94

    def may_take(self, row):
        return True


class FirstWindowOnly(Relay):
    """R2: rows wait for the reader only while it reads the window that the relay has found."""
    seed = 766

    def __init__(self, *args):
        super().__init__(*args)
        self.first = self.windows[0]

    def may_take(self, row):
        return self.first.exhausted or super().may_take(row)


class LaterWrittenFirst(Relay):
    """R1: an event gets a row while an earlier one of its unit is only in memory."""
    def close_journal(self):
        pass


class FollowerLetGo(Relay):
    """The next of a unit is sent while the first waits for its next try in the table."""
    def put_away_behind(self, gone):
        self.next_of(gone.unit)


class FollowerReady(Relay):
    """What waits behind the first of its unit is ready at once."""
    def enter(self, event, row=None, window=None):
        entry = super().enter(event, row, window)
        entry.state = READY
        return entry


class WronglyComplete(Relay):
    """A registry without room for a unit still says that it knows all."""
    def __init__(self, *args):
        super().__init__(*args)
        self.registry = ForgetfulRegistry(self.limits.registry)


class ForgetfulRegistry(Registry):
    def add(self, unit):
        if len(self.units) < self.room:
            self.units.add(unit)

    def walk_is_done(self):
        self.complete = True


class CompleteTooEarly(Relay):
    """The registry is complete before the walk has seen all rows."""
    def __init__(self, *args):
        super().__init__(*args)
        self.registry.complete = True


class LooksTooEarly(Relay):
    """The table is looked at while rows are in the journal."""
    def look_at_table(self):
        pass


class LateIsForgotten(Relay):
    """An event that comes late into a tail does not have its unit looked at."""
    seed = 69

    def read_window(self):
        self.seen_up_to = 0
        super().read_window()


class LateIntoTail(Relay):
    """An event that comes late goes into the tail, though the refills begin behind it."""
    seed = 51

    def read_event(self, event, window):
        queue = self.queues.get(self.unit(event))
        if queue is not None and queue.tail and event.deliver_after <= self.now:
            self.write_new_row(event, PENDING)
        else:
            super().read_event(event, window)


class RefillGivesUp(Relay):
    """A unit that is to be refilled while memory is full is not wanted any more."""
    def refill_wanted(self):
        super().refill_wanted()
        self.wanted.clear()


class CursorNeverBack(Relay):
    """A row that is due at once is written behind the cursor of what is due."""
    def due_again(self, row):
        pass


class DeletedTooEarly(Relay):
    """R3: the row of a published event is deleted though the position does not cover it."""
    seed = 8

    def settled_row(self, entry, position):
        return None


class PositionTooFar(Relay):
    """The position passes the first event that is not settled."""
    def position(self):
        position = super().position()
        linked = self.windows[0].linked
        return Position(position.lo, position.hi, min(linked)) if linked else position


class NeverSpilled(Relay):
    """R4: an event holds the position for as long as it likes."""
    def spill(self):
        pass


class StopForgets(Relay):
    """An orderly stop writes nothing down but the position."""
    def stop(self):
        self.checkpoint()


class NotFlushed(Relay):
    """An event is sent before its transaction is durable."""
    def read_window(self):
        flush, self.db.flush_transactions = self.db.flush_transactions, lambda xids: None
        try:
            super().read_window()
        finally:
            self.db.flush_transactions = flush


class RequestTooEarly(Relay):
    """A request is gone in a transaction of its own, before what it did is written down."""
    def serve_requests(self):
        super().serve_requests()
        self.db.commit([('request', number, None) for number in self.served])
        self.served.clear()


class ReviveForgotten(Relay):
    """The first of a unit is discarded, and nobody looks at what waited for it."""
    def revive(self, unit):
        pass


class ScheduledStays(Relay):
    """A scheduled event that has to wait for its unit does not count as unsettled."""
    def is_due_row(self, row):
        return row.state == FAILED or row.state == PENDING and row.next_at > 0


class CrashLeftover(Relay):
    """What was in progress at a crash is left to itself."""
    def walk_row(self, row):
        if row.state != IN_PROGRESS:
            super().walk_row(row)


class AllPutAway(Relay):
    """An entry leaves for the table, and those in front of it as well."""
    seed = 74

    def put_away_behind(self, gone):
        front = [event_id for event_id in self.queues[gone.unit].ids if event_id < gone.id] if gone.unit else []
        for event_id in front:
            self.put_into_tail(self.entries[event_id])
        super().put_away_behind(gone)


class TailInFront(Relay):
    """An entry leaves for the table, and what the tail has in front of it is forgotten."""
    seed = 1376

    def put_away_behind(self, gone):
        wanted = gone.unit in self.wanted
        super().put_away_behind(gone)
        if not wanted and gone.unit not in self.queues:
            self.wanted.pop(gone.unit, None)


class UptoLast(Relay):
    """The tail is thought to begin behind the entry with the largest id, though the active one is out of order."""
    seed = 26

    def cut(self):
        super().cut()
        for queue in self.queues.values():
            queue.upto = max(queue.upto, *queue.ids)


class RefillSaysAll(Relay):
    """A refill that read as much as it may takes this for the end of the tail."""
    def has_tail(self, unit, upto):
        if unit in self.queues:
            self.registry.discard(unit)
            self.queues[unit].tail = False


class DiscardedInFlight(Relay):
    """What is discarded in flight is not cancelled, and the next one goes."""
    seed = 8

    def drop(self, entry):
        self.leave(entry)
        self.next_of(entry.unit)


class DeadForEver(Relay):
    """retry_dead does not remember which rows it has retried."""
    seed = 5452

    def retry_dead(self):
        self.retry_dead_cursor = 0
        return super().retry_dead()


class RegistryOfQueue(Relay):
    """A retried row has its unit put into the registry though it joins a queue: a hit that stands for nothing."""
    seed = 11

    def retry(self, row):
        super().retry(row)
        if self.unit(row) is not None:
            self.registry.add(self.unit(row))
        return True


class ScopeOfTopic(Relay):
    """With scope 'all', rows are asked for by topic and key."""
    def rows_of(self, unit):
        rows = super().rows_of(unit)
        return [row for row in rows if row.topic == rows[0].topic]


class LaneForgotten(Relay):
    """What leaves memory for its topic is not remembered in the lane."""
    def give_to_lane(self, lane, entry):
        tail, walked = lane.tail, lane.walked
        super().give_to_lane(lane, entry)
        lane.tail, lane.walked = tail, walked


class LaneTellsNobody(Relay):
    """L2: an event becomes a row of its lane, and those of its unit in other lanes are not told."""
    seed = 73

    def is_noted(self, unit):
        super().is_noted(unit)
        return True


class LaneWaitsForOther(Relay):
    """L3: a lane that is down reads nothing to try while it has anything in memory, though that waits for another."""
    seed = 462

    def can_try(self, topic):
        return any(entry.topic == topic for entry in self.entries.values())


class FloorStays(Relay):
    """R7: a row is written below the floor of its unit."""
    def lower_floor(self, event):
        pass


class OpenForgotten(Relay):
    """R6: the position passes one event more than it names."""
    def position(self):
        position = super().position()
        return position._replace(open=frozenset(sorted(position.open)[1:]))


class OpenForgottenUnread(Relay):
    """R6: what was open and is not read yet is not named again."""
    def position(self):
        position = super().position()
        return position._replace(open=position.open - {*self.unread})


class OpenPruned(Relay):
    """R6: a prune goes by what lo sees alone."""
    def may_prune(self, event):
        return self.db.position.lo.sees(event.xid)


class RowsBeforeOpen(Relay):
    """R6: rows are taken before what was open is read."""
    seed = 769

    def may_take_rows(self):
        return not self.full()


class OpenHoldsPosition(Relay):
    """R6: the position stays in front of what is not settled."""
    def position(self):
        limits = self.limits
        self.limits = replace(limits, open=0)
        position = super().position()
        self.limits = limits
        return position


ALL = [ForgottenTail, TailOfQueueForgotten, TakenBeforeRead, FirstWindowOnly, LaterWrittenFirst, FollowerLetGo,
       FollowerReady, WronglyComplete, CompleteTooEarly, LooksTooEarly, LateIsForgotten, LateIntoTail, RefillGivesUp,
       CursorNeverBack, DeletedTooEarly, PositionTooFar, NeverSpilled, StopForgets, NotFlushed, RequestTooEarly,
       ReviveForgotten, ScheduledStays, CrashLeftover, AllPutAway, TailInFront, UptoLast, RefillSaysAll,
       DiscardedInFlight, DeadForEver, RegistryOfQueue, ScopeOfTopic, LaneForgotten,
       LaneTellsNobody, LaneWaitsForOther, FloorStays, OpenForgotten, OpenForgottenUnread, OpenPruned,
       RowsBeforeOpen, OpenHoldsPosition]
