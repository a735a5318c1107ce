"""Which events have to go to a destination, by what people have said and when.

Nothing of the extension is used here: patterns of topics are understood once more, and moments are PostgreSQL's
snapshots.  Each version of a destination's patterns has two.  What is visible in "before" belongs to an earlier
version, what is not visible in "after" to this or a later one.  Of what is in between nobody can tell: the relay
may have read it before it knew.  The transaction that adds a destination counts as not visible.
"""

from dataclasses import dataclass, field

from checker import Replay


class Snapshot:
    """What pg_current_snapshot() shows: "xmin:xmax:xid,xid..."."""

    def __init__(self, text):
        xmin, xmax, running = text.split(':')
        self.xmin, self.xmax = int(xmin), int(xmax)
        self.running = {int(xid) for xid in running.split(',') if xid}

    def sees(self, xid):
        return xid < self.xmin or xid < self.xmax and xid not in self.running


def _words_match(words, pattern):
    if not pattern:
        return not words
    if pattern[0] == '#':
        return any(_words_match(words[n:], pattern[1:]) for n in range(len(words) + 1))
    return bool(words) and pattern[0] in ('*', words[0]) and _words_match(words[1:], pattern[1:])


def matches(topic, patterns):
    """Does one of them match, and none of those with ! in front?"""
    def match(pattern):
        return _words_match(topic.split('.'), pattern.split('.'))
    return (any(match(pattern) for pattern in patterns if not pattern.startswith('!'))
            and not any(match(pattern[1:]) for pattern in patterns if pattern.startswith('!')))


@dataclass
class Version:
    number: int
    topics: list
    before: Snapshot
    after: Snapshot             # None: it was never seen to hold
    asked_at: float = 0.0


@dataclass
class Asked:
    """A call of outbox_replay()."""
    asked_at: float
    done_at: float              # when it was seen to be done; None: it was not
    version: int                # the newest version then
    pattern: str                # None: every topic
    settled: set                # ids of what was settled then, and published since the time that was given
    count: int                  # what the call said


@dataclass
class Life:
    """A destination from when it was added until it was dropped."""
    number: int
    name: str
    destination: int = 0                            # its id
    xid: int = None                                 # the transaction that added it
    added_at: float = 0.0
    versions: list = field(default_factory=list)    # in their order
    replays: list = field(default_factory=list)
    silences: list = field(default_factory=list)
    disturbances: list = field(default_factory=list)
    kept: set = None                                # ids of all that there was, with which it began; None: it did not
    begun: Snapshot = None                          # what is not visible here came after them
    drop_asked_at: float = None                     # before that ...
    dropped_at: float = None
    settled: set = field(default_factory=set)       # ... ids of what was settled then

    def split(self, truth):
        """(ids that do not go here, ids of which nobody can tell)"""
        unwanted, optional = set(), set()
        answers = {}
        for event in truth:
            if event.times > 1 or event.xid is None:
                optional.add(event.event_id)
                continue
            known = event.xid, event.topic
            if known not in answers:
                answers[known] = {version is not None and matches(event.topic, version.topics)
                                  for version in self._possible(event.xid)}
            if answers[known] == {False}:
                unwanted.add(event.event_id)
            elif False in answers[known] or not self._has_to_arrive(event):
                optional.add(event.event_id)
        return unwanted, optional

    def _possible(self, xid):
        """The versions that may hold for this transaction; None: it may be too early for any."""
        for version in reversed(self.versions):
            is_own = xid == self.xid and version is self.versions[0]
            if version.before.sees(xid) and not is_own:
                continue
            yield version
            if is_own or version.after is not None and not version.after.sees(xid):
                return
        yield None

    def _has_to_arrive(self, event):
        """Of what it takes: was it there in time, and is it not too late?"""
        if self.dropped_at is not None and event.event_id not in self.settled:
            return False
        return self.kept is None or event.event_id in self.kept or not self.begun.sees(event.xid)

    def asked_again(self, truth):
        """The Replays."""
        return [self._replay(asked, truth) for asked in self.replays]

    def _replay(self, asked, truth):
        """The relay goes by the newest version when it serves it; and it may not come to that before it is dropped."""
        if self.dropped_at is not None and (asked.done_at is None or asked.done_at > self.drop_asked_at):
            settled = set()
        else:
            settled = asked.settled & self.settled if self.dropped_at is not None else asked.settled
        versions = [version for version in self.versions if version.number >= asked.version
                    and (version.number == asked.version or asked.done_at is None or version.asked_at < asked.done_at)]
        must, may = set(), set()
        answers = {}
        for event in truth:
            if event.topic not in answers:
                meant = asked.pattern is None or matches(event.topic, [asked.pattern])
                answers[event.topic] = {meant and matches(event.topic, version.topics) for version in versions}
            if True in answers[event.topic]:
                may.add(event.event_id)
                if False not in answers[event.topic] and event.event_id in settled:
                    must.add(event.event_id)
        return Replay(asked.asked_at, must, may)
