"""The database of the model: tables, transactions, snapshots, and a log of which a crash loses the end.

A commit is one record of the log: changes (table, key, value), value None for a deleted row.  What is
flushed survives a crash; of the rest a crash keeps any prefix.  Values are never changed in place.
Nothing here knows of the relay.
"""

from typing import NamedTuple, Optional

# States of a row of outbox_delivery
SCHEDULED, PENDING, IN_PROGRESS, FAILED = 'scheduled', 'pending', 'in_progress', 'failed'
PUBLISHED, DEAD, DISCARDED = 'published', 'dead', 'discarded'

# Requests of people
RETRY, DISCARD, RETRY_DEAD, DELETE = 'retry', 'discard', 'retry_dead', 'delete'


class Snapshot(NamedTuple):
    """Which transactions are seen: those before xmax, but for the ones that were running."""
    xmax: int
    xip: frozenset

    def sees(self, xid):
        return xid < self.xmax and xid not in self.xip


class Event(NamedTuple):
    id: int
    xid: int
    topic: str
    key: Optional[str]
    deliver_after: int          # a time; 0: at once


class Row(NamedTuple):
    """A row of outbox_delivery."""
    id: int
    topic: str
    key: Optional[str]
    state: str
    attempts: int
    next_at: int                # failed, scheduled: when it is due
    updated_at: int


class Request(NamedTuple):
    """What a person asks of the relay; id is the event's, None with RETRY_DEAD."""
    number: int
    kind: str
    id: Optional[int]


class Position(NamedTuple):
    """Settled: what lo sees, and what hi sees up to last_id, but for the ids that are open."""
    lo: Snapshot
    hi: Snapshot
    last_id: int
    open: frozenset = frozenset()

    def covers(self, event):
        return event.id not in self.open and (
            self.lo.sees(event.xid) or event.id <= self.last_id and self.hi.sees(event.xid))


class Database:
    """Tables as they are seen, tables as they are on disk, and the log between the two."""

    def __init__(self):
        start = Snapshot(1, frozenset())
        self.events, self.delivery, self.requests = {}, {}, {}
        self.progress = {0: Position(start, start, 0)}
        self.tables = {'event': self.events, 'delivery': self.delivery,
                       'request': self.requests, 'progress': self.progress}
        self.disk = {name: dict(table) for name, table in self.tables.items()}
        self.log = []           # records that are not flushed
        self.flushed = 0        # how many are
        self.next_xid = self.next_id = 1
        self.running = set()
        self.lsn_of = {}        # a transaction's commit record, while it is not flushed

    @property
    def position(self):
        return self.progress[0]

    def begin(self):
        xid = self.next_xid
        self.next_xid += 1
        self.running.add(xid)
        return xid

    def take_id(self):
        self.next_id += 1
        return self.next_id - 1

    def snapshot(self):
        return Snapshot(self.next_xid, frozenset(self.running))

    def commit(self, changes, xid=None, flush=False):
        """The changes are seen from now on; with flush, they and all before are durable."""
        self.apply(self.tables, changes)
        self.log.append(changes)
        if xid is not None:
            self.running.discard(xid)
            self.lsn_of[xid] = self.flushed + len(self.log)
        if flush:
            self.flush(self.flushed + len(self.log))

    def abort(self, xid):
        self.running.discard(xid)

    def durable(self, xid):
        return self.lsn_of.get(xid, 0) <= self.flushed

    def flush_transactions(self, xids):
        """Makes these commits durable, and so all that is before them in the log."""
        self.flush(max((self.lsn_of.get(xid, 0) for xid in xids), default=0))

    def flush(self, lsn):
        count = lsn - self.flushed
        if count <= 0:
            return
        for changes in self.log[:count]:
            self.apply(self.disk, changes)
        del self.log[:count]
        self.flushed = lsn
        self.lsn_of = {xid: at for xid, at in self.lsn_of.items() if at > lsn}

    def crash(self, kept):
        """Of what was not flushed, the first records survive; every open transaction is gone."""
        self.flush(self.flushed + kept)
        self.log.clear()
        self.lsn_of.clear()
        self.running.clear()
        for name, table in self.tables.items():
            table.clear()
            table.update(self.disk[name])

    @staticmethod
    def apply(tables, changes):
        for name, key, value in changes:
            if value is None:
                tables[name].pop(key, None)
            else:
                tables[name][key] = value
