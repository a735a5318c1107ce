"""The books of the relay: what is in memory, and what the next checkpoint writes.

Here are the rules about what must be written together (R1, R3, R4 in model.py), the position, and the one place where
entries enter and leave.
"""

from memory import READY, WAITING, Entry, KeyQueue, Registry, Window
from tables import DEAD, FAILED, IN_PROGRESS, PENDING, PUBLISHED, SCHEDULED, Position, Row


def unit_of(event, scope):
    if event.key is None:
        return None
    return event.key if scope == 'all' else (event.topic, event.key)


class Books:
    def __init__(self, db, limits, policy, scope, now, watch):
        self.db, self.limits, self.policy, self.scope, self.watch = db, limits, policy, scope, watch
        self.now = now
        self.entries = {}
        self.queues = {}
        self.registry = Registry(limits.registry)
        self.wanted = {}            # units to refill, as an ordered set
        self.journal = {}           # id: a Row to write, None to delete, or the Entry that was published
        self.served = []            # requests whose effects are in the journal
        position = db.position
        self.windows = [Window(position.lo, position.hi, position.last_id)]
        self.unread = sorted(position.open)     # R6
        self.opened = Window(position.lo, position.hi)  # what was read of these is linked here
        self.due_cursor = (0, 0)
        self.walked = 0             # the walk of the start has come to this id
        self.walking = True
        self.seen_up_to = 0         # the largest id that was read or walked
        self.retry_dead_cursor = 0
        self.floors = {}            # unit: R7

    # Small questions

    def unit(self, event):
        return unit_of(event, self.scope)

    def full(self):
        return len(self.entries) >= self.limits.memory

    def blocks(self, row):
        """Is it unsettled, so that what is behind it in its unit waits?"""
        return row.state in (PENDING, IN_PROGRESS, FAILED) or row.state == DEAD and self.policy == 'block'

    def may_take(self, row):
        """R2: only the reader knows what is in front of it."""
        event = self.db.events.get(row.id)
        return event is None or self.has_read(event)

    def may_take_rows(self):
        """R6."""
        return not self.unread and not self.full()

    def due_at(self, row):
        return row.updated_at + self.limits.crash_wait if row.state == IN_PROGRESS else row.next_at

    def is_due_row(self, row):
        """Is it looked for by its time?  (A pending one was retried by a person: there may be no room for it yet.)"""
        return row.state in (FAILED, SCHEDULED) or row.state == PENDING and row.next_at > 0

    def rows_of(self, unit):
        rows = [row for row in self.db.delivery.values()
                if row.key is not None and self.unit(row) == unit and self.blocks(row)]
        return sorted(rows)

    def rows_behind(self, unit, upto):
        return [row for row in self.rows_of(unit) if row.id > upto]

    def floor(self, unit):
        return self.floors.get(unit, 0)

    def row_of(self, event_id):
        """The row as it will be after the next checkpoint."""
        row = self.journal.get(event_id, self.db.delivery.get(event_id))
        return row if isinstance(row, Row) else None

    # Memory

    def enter(self, event, row=None, window=None):
        """An event comes into memory: with the row that it has, or linked to its window."""
        assert event.id not in self.entries
        entry = Entry(event.id, event.topic, event.key, self.unit(event), window=window, read_at=self.now)
        if row is not None:
            self.watch.takes(self, row)
            entry.attempts, entry.row = row.attempts, row.state
        if window is not None:
            window.linked.add(entry.id)
        self.entries[entry.id] = entry
        if entry.unit is not None:
            queue = self.queues.setdefault(entry.unit, KeyQueue())
            if not queue.insert(entry.id):
                entry.state = WAITING
                if entry.row == SCHEDULED:      # it counts as unsettled from now on
                    self.write_row(entry, PENDING)
        return entry

    def unlink(self, entry):
        if entry.window is not None:
            entry.window.linked.discard(entry.id)
            entry.window.gone = max(entry.window.gone, entry.id)
            entry.window = None

    def leave(self, entry):
        """The entry leaves memory; what waits behind it is not told yet."""
        self.unlink(entry)
        del self.entries[entry.id]
        if entry.unit is not None:
            self.queues[entry.unit].ids.remove(entry.id)

    def next_of(self, unit):
        """The first entry of the unit has left memory: the next one's turn, or the tail's."""
        queue = self.queues.get(unit)
        if queue is None:
            return
        if queue.ids:
            first = self.entries[queue.ids[0]]
            if first.state == WAITING:
                first.state = READY
            if queue.tail and len(queue.ids) <= self.limits.few:
                self.wanted[unit] = True
        else:
            del self.queues[unit]
            if queue.tail:
                self.wanted[unit] = True

    def put_away_behind(self, gone):
        """An entry has left for the table, and all that is behind it follows; those in front of it go on."""
        unit = gone.unit
        if unit is None:
            return
        self.registry.add(unit)
        queue = self.queues[unit]
        tail_in_front = queue.tail and queue.upto < gone.id
        queue.tail, queue.upto = True, min(queue.upto, gone.id - 1) if queue.tail else gone.id - 1
        for event_id in [event_id for event_id in queue.ids if event_id > gone.id]:
            self.put_into_tail(self.entries[event_id])
        if queue.ids:
            self.next_of(unit)
        else:
            del self.queues[unit]
            if tail_in_front:
                self.wanted[unit] = True

    def put_into_tail(self, entry):
        if entry.row is None:
            self.write_row(entry, PENDING)
        self.leave(entry)

    # The journal

    def write_row(self, entry, state, next_at=0):
        self.journal[entry.id] = Row(entry.id, entry.topic, entry.key, state, entry.attempts, next_at, self.now)
        entry.row = state
        self.unlink(entry)
        self.due_again(self.journal[entry.id])
        self.lower_floor(entry)

    def write_new_row(self, event, state, next_at=0):
        """A row of an event that is not in memory."""
        self.journal[event.id] = Row(event.id, event.topic, event.key, state, 0, next_at, self.now)
        self.due_again(self.journal[event.id])
        self.lower_floor(event)

    def lower_floor(self, event):
        """R7: the event will have an unsettled row."""
        unit = self.unit(event)
        if self.floor(unit) >= event.id:
            self.floors[unit] = event.id - 1

    def due_again(self, row):
        """The cursor of what is due must not have passed a row that is written now."""
        if self.is_due_row(row):
            self.due_cursor = min(self.due_cursor, (row.next_at, row.id - 1))

    def spill(self):
        """R4."""
        for entry in list(self.entries.values()):
            if entry.window is not None and self.now - entry.read_at >= self.limits.spill:
                self.spill_entry(entry)

    def spill_entry(self, entry):
        self.write_row(entry, PENDING if entry.state == WAITING else IN_PROGRESS)

    def close_journal(self):
        """R1: the earlier ones of a unit get rows as well."""
        for row in list(self.journal.values()):
            if isinstance(row, Row) and row.key is not None and self.blocks(row):
                for event_id in self.queues.get(self.unit(row), KeyQueue()).ids:
                    if event_id < row.id and self.entries[event_id].row is None:
                        self.spill_entry(self.entries[event_id])

    def position(self):
        """R6."""
        while len(self.windows) > 1 and self.windows[0].exhausted and not self.windows[0].linked:
            self.windows.pop(0)
        left_open = {*self.unread, *self.opened.linked}
        last = max((number for number, window in enumerate(self.windows) if window.gone), default=-1)
        for number, window in enumerate(self.windows):
            for event_id in sorted(window.linked):
                passed = number < last or number == last and event_id < window.gone
                if not passed or len(left_open) >= self.limits.open:
                    return Position(window.lo, window.hi, event_id - 1, frozenset(left_open))
                left_open.add(event_id)
        window = self.windows[-1]
        if window.exhausted:
            return Position(window.hi, window.hi, 0, frozenset(left_open))
        return Position(window.lo, window.hi, window.cursor, frozenset(left_open))

    def may_prune(self, event):
        """Of one without a row."""
        return self.db.position.lo.sees(event.xid) and event.id not in self.db.position.open

    def checkpoint(self):
        """Position, exceptions and what became of requests, in one transaction."""
        self.spill()
        self.close_journal()
        position = self.position()
        changes = [('delivery', event_id, self.settled_row(what, position) if isinstance(what, Entry) else what)
                   for event_id, what in self.journal.items()]
        changes += [('request', number, None) for number in self.served]
        if not changes and position == self.db.position:
            return
        self.db.commit(changes + [('progress', 0, position)])
        self.journal.clear()
        self.served.clear()
        self.watch.committed(self, changes, position)

    def settled_row(self, entry, position):
        """R3, of a published event; None: it needs no row."""
        event = self.db.events.get(entry.id)
        if entry.id not in self.db.delivery or event is None:
            return None
        if entry.attempts == 0 and position.covers(event):
            return None
        return Row(entry.id, entry.topic, entry.key, PUBLISHED, entry.attempts, 0, self.now)

    def look_at_table(self):
        """To be called before the table is looked at."""
        if self.journal or self.served:
            self.checkpoint()
