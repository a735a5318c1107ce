"""What the relay of the model has in memory: entries, queues of keys, windows, the registry of tails."""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Optional

from tables import Snapshot

# States of an entry
READY, WAITING, IN_FLIGHT, BACKOFF = 'ready', 'waiting', 'in flight', 'back-off'


@dataclass
class Limits:
    """Settings, far smaller than real ones, so that each limit is met all the time."""
    batch: int = 4              # new events, or due rows, that are read at once
    memory: int = 16            # entries; from here on nothing more is read
    in_flight: int = 4
    cut: int = 3                # a key keeps so many entries when memory is full
    refill: int = 4             # rows that a refill reads
    few: int = 1                # entries of a key that are few
    walk: int = 5               # rows that a step of the walk reads
    retry_dead: int = 3         # dead rows that a step retries
    registry: int = 4           # keys that the registry has room for
    local_tries: int = 1        # failures that are tried again from memory
    max_tries: int = 3          # failures of which an event is dead
    spill: int = 1000           # what holds the position so long gets a row
    open: int = 3               # events that the position passes though they are not settled
    timeout: int = 2000
    try_wait: int = 1000        # of a lane that is down
    local_wait: int = 100
    failed_wait: int = 3000
    crash_wait: int = 1500      # minimum_retry_interval


@dataclass
class Window:
    """Events that hi sees and lo does not.  They are read by id, up to the cursor.

    An event that was read, is not settled and has no row is linked: it holds the position.
    """
    lo: Snapshot
    hi: Snapshot
    cursor: int = 0
    exhausted: bool = False
    linked: set = field(default_factory=set)
    gone: int = 0               # the largest id that was settled, or has a row

    def contains(self, event):
        return self.hi.sees(event.xid) and not self.lo.sees(event.xid)


@dataclass
class Entry:
    """An event in memory."""
    id: int
    topic: str
    key: Optional[str]
    unit: object                # of order; None: no order
    state: str = READY
    attempts: int = 0
    tried: bool = False
    row: Optional[str] = None   # the state of its row, in the table or in the journal
    window: Optional[Window] = None
    read_at: int = 0
    until: int = 0              # in flight: the time-out; back-off: the next try


@dataclass
class KeyQueue:
    """The entries of a unit of order: the first one is active, the others wait, by id.

    An event that comes late, or is there before a scheduled one, has a smaller id than the active one and waits
    behind it all the same; so the active one's id says nothing of the others.
    tail: the table may have rows of this unit that are not in memory, all with ids larger than upto; and all that is
    known of the unit up to there is in memory.
    """
    ids: list = field(default_factory=list)
    tail: bool = False
    upto: int = 0

    def in_tail(self, event_id):
        """Does an event that is not in memory belong there?"""
        return self.tail and event_id > self.upto

    def insert(self, event_id):
        at = bisect_left(self.ids, event_id, lo=1) if self.ids else 0
        self.ids.insert(at, event_id)
        return at == 0


class Registry:
    """Units of which the table has unsettled rows that are not all in memory.

    A cache: one that is not complete knows nothing of a unit that is not in it.
    """

    def __init__(self, room):
        self.room = room
        self.units = set()
        self.complete = False
        self.overflowed = False

    def add(self, unit):
        if unit in self.units:
            return
        if len(self.units) < self.room:
            self.units.add(unit)
        else:
            self.complete = False
            self.overflowed = True

    def discard(self, unit):
        self.units.discard(unit)

    def walk_is_done(self):
        """All rows were seen: what is not here has no rows, unless there was no room for it."""
        self.complete = not self.overflowed
