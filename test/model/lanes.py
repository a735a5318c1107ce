"""Topics that are down: what waits for them leaves memory, as whole units, and comes back by a walk over the topic.

L1  A unit whose first entry waits for its topic leaves memory with all of its entries, those of other topics too; the
    lane of the first one brings it back.
L2  A new event of a lane that has a tail becomes a row there.  Those of its unit in other lanes, which may be read
    before that row is written, know of it by the registry, or by the unit being wanted.
L3  A lane that is down tries an event now and then.  If it has none in memory but such that wait for others of their
    unit, which may be in other lanes that are down, it reads on until it finds one.
"""

from dataclasses import dataclass

from books import Books
from memory import READY, WAITING
from tables import PENDING


@dataclass
class Lane:
    """tail: the table may have rows of the topic, pending, that nobody else brings, all with ids above walked."""
    down: bool = False
    try_at: int = 0             # down: not before this time
    tail: bool = False
    walked: int = 0

    def has_row(self, event_id):
        self.walked = min(self.walked, event_id - 1) if self.tail else event_id - 1
        self.tail = True


class Lanes(Books):
    def __init__(self, *args):
        super().__init__(*args)
        self.lanes = {}

    def lane(self, topic):
        return self.lanes.setdefault(topic, Lane())

    def failed_with_topic(self, entry):
        """Nobody can tell whose fault it is: the lane is down, and tries another one first."""
        lane = self.lane(entry.topic)
        lane.down, lane.try_at = True, self.now + self.limits.try_wait
        entry.state = READY
        self.entries[entry.id] = self.entries.pop(entry.id)

    # Leaving memory

    def cut_lanes(self):
        for kept in range(self.limits.few, -1, -1):
            for topic, lane in self.lanes.items():
                if lane.down:
                    self.cut_lane(topic, lane, kept)
            if not self.full():
                break

    def cut_lane(self, topic, lane, kept):
        ready = [entry for entry in self.entries.values() if entry.topic == topic and entry.state == READY]
        for entry in ready[kept:]:
            unit = entry.unit
            ids = [entry.id] if unit is None else list(self.queues[unit].ids)
            for event_id in reversed(ids):
                self.give_to_lane(lane, self.entries[event_id])
            if unit is not None:
                del self.queues[unit]
                self.wanted.pop(unit, None)
                self.registry.add(unit)

    def give_to_lane(self, lane, entry):
        """L1."""
        if entry.row != PENDING:
            self.write_row(entry, PENDING)
        lane.has_row(entry.id)
        self.leave(entry)

    # New events

    def read_behind_lane(self, event):
        """L2; is it so?"""
        lane = self.lane(event.topic)
        unit = self.unit(event)
        queue = self.queues.get(unit)
        late = queue is not None and not queue.in_tail(event.id) and (queue.tail or event.id < max(queue.ids))
        if not lane.tail or late:
            return False
        self.write_new_row(event, PENDING)
        if unit is None:
            lane.has_row(event.id)
        elif queue is not None:
            if not queue.tail:
                queue.tail, queue.upto = True, event.id - 1
            self.registry.add(unit)
        elif self.is_noted(unit):
            lane.has_row(event.id)
        else:
            self.wanted[unit] = True
        return True

    def is_noted(self, unit):
        """Will others of the unit see that it has rows, though these are not written yet?"""
        self.registry.add(unit)
        return unit in self.registry.units or self.scope == 'topic'

    # Coming back

    def walk_lanes(self):
        for topic, lane in self.lanes.items():
            if lane.tail and self.may_take_rows() and not (lane.down and self.can_try(topic)):
                self.walk_lane(topic, lane)

    def can_try(self, topic):
        """L3."""
        return any(entry.topic == topic and entry.state != WAITING for entry in self.entries.values())

    def walk_lane(self, topic, lane):
        self.look_at_table()
        limit = 1 if lane.down else self.limits.walk
        rows = sorted(row for row in self.db.delivery.values()
                      if row.topic == topic and row.state == PENDING and row.id > lane.walked)[:limit]
        for row in rows:
            if self.full():
                return
            lane.walked = row.id
            if row.id not in self.entries and row.id in self.db.events:
                self.meet_row(row)
        lane.tail = len(rows) == limit

    def meet_row(self, row):
        unit = self.unit(row)
        if unit is None:
            self.enter(row, row)
            return
        queue = self.queues.get(unit)
        if queue is not None:
            queue.upto = min(queue.upto, row.id - 1) if queue.tail else row.id - 1
            queue.tail = True
        self.registry.add(unit)
        self.wanted[unit] = True
