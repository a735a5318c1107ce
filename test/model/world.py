"""A world for the relay of the model: writers, a receiver, people, time and crashes, drawn from a seed."""

import random
from collections import deque

from checks import Truth, Watch, require
from memory import Limits
from model import PHASES, Relay
from tables import DEAD, DELETE, DISCARD, DISCARDED, PUBLISHED, RETRY, RETRY_DEAD, Database, Event, Request

TOPICS = ('t', 'u')
KEYS = ('a', 'b', 'c', 'd', 'e', None)
UNLOCKED = ('d', 'e')           # writers of these keys do not wait for each other

ACTIONS = {'phase': 60, 'publish': 18, 'commit': 9, 'roll_back': 1, 'answer': 14, 'pass_time': 10, 'ask': 2,
           'prune': 1, 'trouble': 0.6, 'stop': 0.3, 'crash': 0.6, 'kill': 0.2, 'calm': 0.15}

# So many steps of the relay, 200 ms each, and nothing is left to be sent.
CALM_ROUNDS = 300


class World:
    """about: a key; what happens to its events is noted, and nothing else."""

    def __init__(self, seed, relay_class=Relay, trace=60, about=None):
        self.random = random.Random(seed)
        self.relay_class = relay_class
        self.db = Database()
        self.watch = Watch(self.db)
        self.time, self.step_number = 1, 0
        self.transactions = {}          # xid: list of (Event, Truth)
        self.locks = {}                 # key: xid
        self.next_request = 1
        self.policy, self.scope = 'block', 'topic'
        self.trace = deque(maxlen=trace)
        self.about, self.seen = about, None
        self.mood = {}
        self.down = set()               # topics
        self.names, weights = zip(*ACTIONS.items())
        self.cumulative = [sum(weights[:n + 1]) for n in range(len(weights))]
        self.start()

    def run(self, steps):
        while self.step_number < steps:
            self.step()

    def step(self):
        self.step_number += 1
        name = self.random.choices(self.names, cum_weights=self.cumulative)[0]
        getattr(self, name)()
        if self.about:
            self.look(name)

    def note(self, *what):
        if not self.about or what[0] in ('start', 'crash'):
            self.trace.append((self.step_number, self.time, *what))

    def look(self, action):
        """Notes what has changed of the key that this is about."""
        relay, seen = self.relay, []
        for unit in (self.about, *((topic, self.about) for topic in TOPICS)):
            queue, rows = relay.queues.get(unit), relay.rows_of(unit)
            if queue or rows:
                seen.append((unit, 'memory', [(event_id, relay.entries[event_id].state) for event_id in queue.ids],
                             f'tail > {queue.upto}' if queue.tail else '') if queue else (unit,))
                seen.append(('table', [(row.id, row.state, row.next_at) for row in rows[:5]],
                             'wanted' if unit in relay.wanted else '',
                             'registered' if unit in relay.registry.units else ''))
        if seen != self.seen:
            self.seen = seen
            self.trace.append((self.step_number, self.time, action, *seen))

    def chance(self, share):
        return self.random.random() < share

    # The relay

    def start(self):
        draw = self.random.choice
        self.mood = {
            'bad': draw((0.05, 0.3, 0.6, 0.95)),        # answers that are none of success
            'refuse': draw((0.05, 0.5)),                # of these, for ever
            'hang': draw((0.0, 0.1)),
            'jump': draw((5, 50, 400)),
            'scheduled': draw((0.02, 0.25)),
            'keys': draw((KEYS, ('a', 'a', 'a', 'b', None), ('d', 'd', 'd', 'e', None)))}
        limits = Limits(batch=draw((1, 3, 6)), memory=draw((6, 12, 24)), in_flight=draw((1, 3, 6)), cut=draw((1, 3)),
                        refill=draw((1, 3, 5)), few=draw((0, 1, 2)), walk=draw((1, 3)), registry=draw((0, 2, 20)),
                        open=(0, 1, 3, 10)[self.step_number % 4])
        self.relay = self.relay_class(self.db, limits, self.policy, self.scope, self.time, self.watch)
        self.next_phase = PHASES.index('serve_requests')
        self.note('start', self.policy, self.scope, limits, self.db.position)

    def phase(self):
        name = PHASES[self.next_phase]
        self.next_phase = (self.next_phase + 1) % len(PHASES)
        self.relay.now = self.time
        before = self.picture()
        getattr(self.relay, name)()
        if self.picture() != before:
            self.note(name, *self.picture())

    def picture(self):
        relay = self.relay
        return (sorted(relay.journal), len(relay.entries), self.db.position.last_id)

    def stop(self):
        self.relay.now = self.time
        changes = self.chance(0.3)
        if self.chance(0.7):
            for event_id in list(self.watch.in_flight):
                self.answer_one(event_id)
        self.relay.stop()
        self.note('stop')
        self.end(changes, orderly=True)

    def kill(self):
        """The relay ends without having been asked to; the server goes on."""
        self.note('kill')
        self.end(self.chance(0.3))

    def crash(self):
        kept = self.random.randint(0, len(self.db.log))
        self.note('crash', 'kept', kept, 'of', len(self.db.log))
        self.db.crash(kept)
        self.watch.loses()
        self.transactions.clear()
        self.locks.clear()
        self.end(self.chance(0.3))

    def end(self, changes, orderly=False):
        """The relay is gone; what was in flight may have been accepted."""
        for event_id in self.watch.in_flight:
            if self.chance(0.5):
                self.watch.accepts(event_id)
        self.watch.relay_ended(orderly)
        for event_id in [event_id for event_id in self.db.delivery if event_id not in self.db.events]:
            require(any(request.id == event_id for request in self.db.requests.values()), 'a row without an event')
        if changes:
            self.policy = self.random.choice(('block', 'skip'))
            self.scope = self.random.choice(('topic', 'all'))
        self.start()

    # Writers

    def publish(self):
        if len(self.watch.truth) > 100:
            return
        if self.transactions and (len(self.transactions) >= 4 or self.chance(0.5)):
            xid = self.random.choice(list(self.transactions))
        else:
            xid = self.db.begin()
            self.transactions[xid] = []
        key = self.random.choice(self.mood['keys'])
        if key is not None and key not in UNLOCKED and self.locks.setdefault(key, xid) != xid:
            return
        topic = self.random.choice(TOPICS)
        after = self.time + self.random.randint(1, 4000) if self.chance(self.mood['scheduled']) else 0
        event = Event(self.db.take_id(), xid, topic, key, after)
        truth = Truth(event.id, xid, topic, key, after > 0, self.step_number)
        self.transactions[xid].append((event, truth))
        self.watch.publishes(truth)
        self.note('publish', event)

    def commit(self):
        if not self.transactions:
            return
        xid = self.random.choice(list(self.transactions))
        written = self.transactions.pop(xid)
        self.release(xid)
        self.db.commit([('event', event.id, event) for event, _ in written], xid, flush=self.chance(0.5))
        self.watch.commits([truth for _, truth in written], self.step_number)
        self.note('commit', xid, [event.id for event, _ in written])

    def roll_back(self):
        if not self.transactions:
            return
        xid = self.random.choice(list(self.transactions))
        for event, _ in self.transactions.pop(xid):
            self.watch.forgets(event.id)
        self.release(xid)
        self.db.abort(xid)
        self.note('roll back', xid)

    def release(self, xid):
        self.locks = {key: owner for key, owner in self.locks.items() if owner != xid}

    # The receiver

    def answer(self):
        if self.watch.in_flight:
            self.answer_one(self.random.choice(list(self.watch.in_flight)))

    def answer_one(self, event_id, hang=None):
        relay = self.relay
        relay.now = self.time
        entry = relay.entries.get(event_id)
        if self.chance(self.mood['hang'] if hang is None else hang):
            if self.chance(0.5):
                self.watch.accepts(event_id)
                self.note('hangs, accepted', event_id)
            return
        del self.watch.in_flight[event_id]
        if self.topic_of(event_id) in self.down:
            if entry is not None:
                relay.failed_with_topic(entry)
            self.note('failed with its topic', event_id)
        elif not self.chance(self.mood['bad']):
            self.watch.accepts(event_id)
            if entry is not None:
                self.watch.answers(event_id, self.time)
                relay.published(entry)
            self.note('published', event_id)
        elif entry is None:
            self.note('an answer that nobody waits for', event_id)
        elif self.chance(self.mood['refuse']):
            relay.rejected(entry)
            self.note('rejected', event_id)
        else:
            relay.failed(entry)
            self.note('failed', event_id)

    def topic_of(self, event_id):
        truth = self.watch.truth.get(event_id)
        return truth.topic if truth is not None else None

    def trouble(self):
        """A topic goes down, or is back."""
        self.down ^= {self.random.choice(TOPICS)}
        self.note('down', self.down)

    # Time, people, pruning

    def pass_time(self):
        self.time += self.random.randint(1, self.mood['jump'])

    def ask(self):
        """A person retries, discards or deletes."""
        kind = self.random.choices((RETRY, DISCARD, RETRY_DEAD, DELETE), (3, 3, 1, 1))[0]
        event_id = None
        if kind != RETRY_DEAD:
            rows = list(self.db.delivery)
            ids = rows if rows and self.chance(0.7) else list(self.db.events)
            if not ids:
                return
            event_id = self.random.choice(ids)
        self.request(kind, event_id)

    def request(self, kind, event_id):
        request = Request(self.next_request, kind, event_id)
        self.next_request += 1
        changes = [('request', request.number, request)]
        if kind == DELETE:
            changes.append(('event', event_id, None))
        self.db.commit(changes, flush=self.chance(0.5))
        self.note('ask', kind, event_id)

    def prune(self):
        """What the position has passed goes with the event, and so does what is published or discarded."""
        changes = []
        for event in self.db.events.values():
            row = self.db.delivery.get(event.id)
            if row is None and self.relay.may_prune(event):
                self.watch.prunes(event.id)
                changes.append(('event', event.id, None))
            elif row is not None and row.state in (PUBLISHED, DISCARDED) and event.id not in self.relay.journal:
                changes += [('event', event.id, None), ('delivery', event.id, None)]
        if changes:
            self.db.commit(changes, flush=self.chance(0.3))
        self.forget_pruned()

    def forget_pruned(self):
        """Only once no crash can bring it back."""
        gone = [truth.id for truth in self.watch.truth.values()
                if truth.commit_time is not None and truth.id not in self.db.events
                and truth.id not in self.db.disk['event'] and self.db.durable(truth.xid)
                and truth.id not in self.relay.entries]
        for event_id in gone:
            self.watch.forgets(event_id)

    def calm(self):
        """Writers end, the receiver accepts or refuses all, nobody crashes: this comes to an end, and soon."""
        refused = self.chance(0.25)
        self.mood['bad'] = self.mood['refuse'] = int(refused)
        self.note('calm', 'all are refused' if refused else '')
        while self.transactions:
            self.commit()
        if self.down:
            self.down = {self.random.choice(sorted(self.down))} if self.chance(0.5) else set()
        self.settle_down(refused)
        self.down.clear()
        self.settle_down(refused)
        if not refused:
            self.discard_dead()
            self.settle_down(refused)
        self.watch.counts['calm'] += 1

    def settle_down(self, refused):
        for _ in range(CALM_ROUNDS):
            for _ in PHASES:
                self.phase()
                self.step_number += 1
            for event_id in list(self.watch.in_flight):
                self.answer_one(event_id, hang=0)
            self.time += 200
            left = [] if refused else self.watch.unfinished(self.relay, self.down)
            if not left and not self.db.requests and (self.down or not self.watch.in_flight):
                break
        require(not left, 'stuck', *left[:3])
        require(not self.db.requests, 'a request that is never served', self.db.requests)

    def discard_dead(self):
        """So that what was behind them goes on, and the world does not fill up with it."""
        for row in list(self.db.delivery.values()):
            if row.state == DEAD:
                self.request(DISCARD, row.id)
