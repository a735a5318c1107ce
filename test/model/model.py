"""The relay's algorithm as plain data: what is read, kept, written down, taken back and sent, in which order.

The unit of order is (topic, key), or the key with scope 'all'.  These rules hold (the numbers as in the design):

R1  A checkpoint that writes an unsettled row of a unit has rows for all earlier unsettled events of it that are in
    memory: so after a crash the rows of a unit are a prefix of what is unsettled.
R2  A row is taken into memory only behind all earlier unsettled events of its unit, and only once the reader has come
    past its event: after a restart nobody else knows what has no row and comes back in front of it.
R3  A row of a published event is deleted if it only waited and the position covers the event; else it says so.
R4  An event that holds the position for a second gets a row, and stays in memory.
R6  The position passes events that are not settled, but not many, if something behind them is: they are open.  After
    a restart these are read first, and before that no row is taken.
R7  A unit that is read from its beginning is read from its floor on: an earlier read has found nothing unsettled up to
    there.  Whatever makes a row unsettled lowers the floor.

R5  Each unsettled row that is not in memory has one who brings it: it is in the tail of a queue, its unit is wanted, a
    row of its unit is due at a time that the cursor has not passed, the walk or that of its topic has yet to come, or
    the first of its unit is dead and waits for a person.

Topics that are down have rules of their own (lanes.py).

The table is only looked at while the journal is empty: what is in the journal is not in the table.

Each phase of a step is a method of Relay; the world calls them in the order of PHASES, and does anything between
two of them.  A watch (checks.py) is told of what is taken, sent and committed.
"""

from lanes import Lanes
from memory import BACKOFF, IN_FLIGHT, READY, Window
from tables import (DEAD, DELETE, DISCARD, DISCARDED, FAILED, IN_PROGRESS, PENDING, PUBLISHED, RETRY, RETRY_DEAD,
                    SCHEDULED, Row)

PHASES = ('time_out', 'wake', 'make_room', 'serve_requests', 'checkpoint', 'refill_wanted', 'read_due', 'walk_lanes',
          'walk', 'read_window', 'send', 'checkpoint')


class Relay(Lanes):
    """A relay from its start to its end; what it leaves is in the tables."""

    # Reading new events

    def make_room(self):
        if self.full():
            self.cut()
            self.cut_lanes()

    def read_window(self):
        self.look_at_table()
        if self.full():
            return
        if self.unread:
            self.read_open()
            return
        window = self.windows[-1]
        if window.exhausted:
            window = Window(window.hi, self.db.snapshot())
            if window.lo == window.hi:
                return
            self.windows.append(window)
        events = sorted(event for event in self.db.events.values()
                        if event.id > window.cursor and window.contains(event))
        self.db.flush_transactions(event.xid for event in events)
        for event in events[:self.limits.batch]:
            if event.id not in self.db.delivery:
                self.read_event(event, window)
            window.cursor = event.id
            self.seen_up_to = max(self.seen_up_to, event.id)
        window.exhausted = len(events) <= self.limits.batch

    def read_open(self):
        """R6."""
        ids = self.unread[:self.limits.batch]
        events = [self.db.events[event_id] for event_id in ids if event_id in self.db.events]
        self.db.flush_transactions(event.xid for event in events)
        for event in events:
            if event.id not in self.db.delivery:
                self.read_event(event, self.opened)
        self.seen_up_to = max(self.seen_up_to, *ids)
        del self.unread[:len(ids)]

    def read_event(self, event, window):
        unit = self.unit(event)
        queue = self.queues.get(unit)
        if event.deliver_after > self.now:
            self.write_new_row(event, SCHEDULED, event.deliver_after)
        elif self.read_behind_lane(event):
            pass
        elif unit is None:
            self.enter(event, window=window)
        elif queue is not None:
            if queue.in_tail(event.id):
                self.write_new_row(event, PENDING)
            else:
                self.enter(event, window=window)
        elif self.has_rows(unit):
            self.write_new_row(event, PENDING)
            self.registry.add(unit)
            if event.id <= self.seen_up_to:     # it came late, and may be in front of what the unit waits for
                self.wanted[unit] = True
        else:
            self.enter(event, window=window)

    def has_rows(self, unit):
        """Of a unit that is not in memory."""
        if unit in self.registry.units or unit in self.wanted:
            return True
        return not self.registry.complete and bool(self.rows_behind(unit, self.floor(unit)))

    def cut(self):
        """Memory is full: units with many entries go on with a few of them, and a tail."""
        for unit, queue in self.queues.items():
            if len(queue.ids) > self.limits.cut:
                for event_id in queue.ids:
                    if self.entries[event_id].row is None:
                        self.spill_entry(self.entries[event_id])
                leaving = queue.ids[self.limits.cut:]
                for event_id in leaving:
                    self.leave(self.entries[event_id])
                queue.tail, queue.upto = True, leaving[0] - 1
                self.registry.add(unit)

    # Taking rows back

    def place(self, row):
        """A row that is due, not in memory: into its unit's queue by id, unless it belongs to the tail."""
        unit = self.unit(row)
        queue = self.queues.get(unit)
        if unit is None or queue is not None and not queue.in_tail(row.id):
            self.enter(row, row)
        elif queue is None:
            self.registry.add(unit)
            self.wanted[unit] = True

    def refill_wanted(self):
        self.look_at_table()
        for unit in list(self.wanted):
            if not self.may_take_rows():
                break
            del self.wanted[unit]
            self.refill(unit)

    def refill(self, unit):
        """Rows of the tail, by id, until one that has to wait."""
        queue = self.queues.get(unit)
        if queue is not None and not queue.tail:
            return
        upto = queue.upto if queue is not None else self.floor(unit)
        rows = self.rows_behind(unit, upto)[:self.limits.refill]
        if queue is None and rows:
            self.floors[unit] = rows[0].id - 1
        for row in rows:
            if row.id in self.entries:      # the active one, which may be out of order
                continue
            if row.state == DEAD or row.state != PENDING and self.due_at(row) > self.now:
                return self.has_tail(unit, upto)
            if self.full() or not self.may_take(row):
                return self.has_tail(unit, upto)
            if row.id in self.db.events:
                self.enter(row, row)
            upto = row.id
        if len(rows) == self.limits.refill:
            return self.has_tail(unit, upto)
        self.registry.discard(unit)
        if unit in self.queues:
            self.queues[unit].tail = False

    def has_tail(self, unit, upto):
        self.registry.add(unit)
        if unit in self.queues:
            self.queues[unit].tail, self.queues[unit].upto = True, upto

    def read_due(self):
        self.look_at_table()
        due = sorted((row.next_at, row.id) for row in self.db.delivery.values()
                     if self.is_due_row(row) and row.next_at <= self.now
                     and (row.next_at, row.id) > self.due_cursor)
        for next_at, event_id in due[:self.limits.batch]:
            if not self.may_take_rows():
                return
            self.due_cursor = (next_at, event_id)
            row = self.db.delivery[event_id]
            if event_id in self.entries or event_id not in self.db.events:
                continue
            if self.unit(row) is None:
                self.enter(row, row)
            elif row.state == SCHEDULED:
                self.take_scheduled(row)
            else:
                self.place(row)

    def take_scheduled(self, row):
        """At once if nothing of its unit is unsettled; else it waits, and counts as unsettled from now on."""
        unit = self.unit(row)
        if unit not in self.queues and not self.has_rows(unit):
            self.enter(row, row)
        else:
            self.journal[row.id] = row._replace(state=PENDING, updated_at=self.now)
            self.lower_floor(row)
            self.place(self.journal[row.id])

    def walk(self):
        """Once after the start, all rows by id."""
        if not self.walking or not self.may_take_rows():
            return
        self.look_at_table()
        rows = sorted(row for row in self.db.delivery.values() if row.id > self.walked)[:self.limits.walk]
        for row in rows:
            if self.full() or not self.may_take(row):
                return
            self.walked = row.id
            self.seen_up_to = max(self.seen_up_to, row.id)
            if row.id not in self.entries and row.id in self.db.events:
                self.walk_row(row)
        if len(rows) < self.limits.walk:
            self.walking = False
            self.registry.walk_is_done()

    def walk_row(self, row):
        unit = self.unit(row)
        if row.state == IN_PROGRESS:
            row = row._replace(state=FAILED, next_at=self.due_at(row))
            self.journal[row.id] = row
            self.due_again(row)
        if unit is None:
            if row.state == PENDING and self.lane(row.topic).tail:
                self.lane(row.topic).has_row(row.id)
            elif row.state == PENDING:
                self.enter(row, row)
        elif self.blocks(row) and unit not in self.queues:
            self.registry.add(unit)
            self.wanted[unit] = True

    # Requests of people

    def serve_requests(self):
        for number in sorted(self.db.requests):
            if number not in self.served:
                if not self.serve(self.db.requests[number]):
                    return
                self.served.append(number)

    def serve(self, request):
        """Is it done?  (Else it is served again by the next step.)"""
        if request.kind == RETRY_DEAD:
            return self.retry_dead()
        row = self.row_of(request.id)
        event = self.db.events.get(request.id)
        if request.kind == DELETE:
            self.forget(request.id)
        elif event is None:
            pass
        elif request.kind == DISCARD:
            self.discard(event, row)
        elif request.kind == RETRY and row is not None and request.id not in self.entries:
            return self.retry(row)
        return True

    def retry(self, row):
        if row.state not in (DEAD, DISCARDED, FAILED):
            return True
        self.watch.retries(self, row.id)
        if not self.has_read(self.db.events[row.id]):
            self.journal[row.id] = None     # it is read in its place
            return True
        self.journal[row.id] = row._replace(state=PENDING, attempts=0, next_at=self.now, updated_at=self.now)
        self.due_again(self.journal[row.id])
        self.lower_floor(row)
        unit = self.unit(row)
        if unit is not None and unit not in self.queues:
            self.registry.add(unit)
        return True

    def retry_dead(self):
        """Each dead row once, by id: one that dies again meanwhile is not retried for ever."""
        self.look_at_table()
        rows = sorted(row for row in self.db.delivery.values()
                      if row.state == DEAD and row.id > self.retry_dead_cursor)[:self.limits.retry_dead]
        for row in rows:
            if row.id in self.db.events and not self.retry(row):
                return False
            self.retry_dead_cursor = row.id
        if len(rows) == self.limits.retry_dead:
            return False
        self.retry_dead_cursor = 0
        return True

    def discard(self, event, row):
        entry = self.entries.get(event.id)
        if entry is None and self.is_settled(event, row):
            return              # too late
        self.watch.discards(event.id)
        if entry is not None:
            self.drop(entry)
        attempts = entry.attempts if entry else row.attempts if row else 0
        self.journal[event.id] = Row(event.id, event.topic, event.key, DISCARDED, attempts, 0, self.now)
        self.revive(self.unit(event))

    def is_settled(self, event, row):
        """Of an event that is not in memory: was it published, perhaps just now, or discarded?"""
        if row is not None:
            return row.state in (PUBLISHED, DISCARDED)
        return event.id in self.journal or self.has_read(event)

    def forget(self, event_id):
        """Its event was deleted by hand."""
        self.watch.deletes(event_id)
        row = self.row_of(event_id)
        entry = self.entries.get(event_id)
        if entry is not None:
            self.drop(entry)
        if event_id in self.db.delivery or event_id in self.journal:
            self.journal[event_id] = None
        if row is not None:
            self.revive(self.unit(row))

    def drop(self, entry):
        """It leaves memory whatever its state; an answer that still comes is not listened to."""
        if entry.state == IN_FLIGHT:
            self.watch.cancels(entry)
        self.leave(entry)
        self.next_of(entry.unit)

    def revive(self, unit):
        """Something of the unit is gone; its rows may have waited for that."""
        if unit is not None and unit not in self.queues:
            self.wanted[unit] = True

    def has_read(self, event):
        return event.id not in self.unread and any(
            window.lo.sees(event.xid) or window.contains(event) and event.id <= window.cursor
            for window in self.windows)

    # Sending, and what became of it

    def send(self):
        in_flight = sum(entry.state == IN_FLIGHT for entry in self.entries.values())
        for entry in self.entries.values():
            if in_flight >= self.limits.in_flight:
                break
            if entry.state == READY and self.may_send(entry):
                entry.state, entry.tried, entry.until = IN_FLIGHT, True, self.now + self.limits.timeout
                self.watch.sends(self, entry)
                in_flight += 1

    def may_send(self, entry):
        """A lane that is down tries one at a time, now and then."""
        lane = self.lane(entry.topic)
        return not lane.down or lane.try_at <= self.now and not any(
            other.state == IN_FLIGHT and other.topic == entry.topic for other in self.entries.values())

    def time_out(self):
        for entry in list(self.entries.values()):
            if entry.state == IN_FLIGHT and entry.until <= self.now:
                self.watch.cancels(entry)
                self.failed(entry)

    def wake(self):
        for entry in self.entries.values():
            if entry.state == BACKOFF and entry.until <= self.now:
                entry.state = READY

    def published(self, entry):
        self.lane(entry.topic).down = False
        if entry.row is not None:
            self.journal[entry.id] = entry
        self.leave(entry)
        self.next_of(entry.unit)

    def failed(self, entry):
        entry.attempts += 1
        if entry.attempts >= self.limits.max_tries:
            self.rejected(entry)
        elif entry.attempts <= self.limits.local_tries:
            entry.state, entry.until = BACKOFF, self.now + self.limits.local_wait
        else:
            self.write_row(entry, FAILED, self.now + self.limits.failed_wait)
            self.leave(entry)
            self.put_away_behind(entry)

    def rejected(self, entry):
        self.write_row(entry, DEAD)
        self.watch.dies(self, entry)
        self.leave(entry)
        if entry.unit is not None and self.policy == 'block':
            self.put_away_behind(entry)
        else:
            self.next_of(entry.unit)

    # The end

    def stop(self):
        """An orderly end: what was tried, and what something settled is behind, gets a row."""
        behind = False          # is there something settled in a later window?
        for window in reversed(self.windows):
            for event_id in sorted(window.linked):
                entry = self.entries[event_id]
                if behind or event_id < window.gone or entry.tried:
                    self.write_row(entry, PENDING)
            behind = behind or window.gone > 0
        for entry in self.entries.values():
            if entry.row in (IN_PROGRESS, FAILED, SCHEDULED) or entry.window is self.opened and entry.tried:
                self.write_row(entry, PENDING)
        self.checkpoint()
