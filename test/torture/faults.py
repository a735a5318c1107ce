"""The faults, drawn beforehand from the seed, and the threads that inject them.

There are four lanes, which run side by side, so that the server dies while the receiver hangs:
"server" (processes), "receiver", "topic" (one of them is in trouble), and "mild" (what belongs to
ordinary life).  In a lane, one fault
ends before the next begins.

Each fault leaves a Disturbance: what, and from when to when it was felt.  The checker uses them to
tell duplicates that have a reason from those that have none, and to know when to expect progress.
"""

import random
import re
import signal
import threading
import time
import urllib.parse
from dataclasses import dataclass

from load import POISON
from server import LAUNCHER, RELAY, WAL_WRITER, send_signal

# What a fault may do to the relay's bookkeeping, as the checker sees it.
CRASH = 'crash'             # the server loses its memory; a relay's tries may count as crashes
RESTART = 'restart'         # the relay goes and comes back in order, perhaps while answers are bad
ENDING = 'ending'           # the same while all else is well: what was answered in time comes once
OUTAGE = 'outage'           # connections to the receiver break, or the relay can't hear it in time
ANSWERS = 'answers'         # the receiver's answers are bad; its log says which
PAUSE = 'pause'             # the relay is kept from working
NONE = 'none'

# Fault: (effect, how often).  Methods of Injector have the same names.
SERVER_FAULTS = {
    'kill_relay': (CRASH, 4), 'term_relay': (RESTART, 3), 'terminate_relay': (RESTART, 2),
    'kill_launcher': (CRASH, 1), 'term_launcher': (NONE, 2), 'kill_backend': (CRASH, 2),
    'kill_postmaster': (CRASH, 3), 'kill_during_async': (CRASH, 4), 'restart_immediate': (CRASH, 2),
    'restart_fast': (RESTART, 2), 'restart_smart': (RESTART, 1), 'kill_relay_at_answer': (CRASH, 3),
    'freeze_relay': (OUTAGE, 2)}
RECEIVER_FAULTS = {
    'down': (OUTAGE, 3), 'kill_receiver': (OUTAGE, 2), 'hang': (ANSWERS, 3), 'reset_before': (ANSWERS, 2),
    'reset_after': (ANSWERS, 3), 'status': (ANSWERS, 6), 'broken_answer': (ANSWERS, 5), 'slow': (ANSWERS, 3),
    'endless': (ANSWERS, 1), 'freeze_receiver': (OUTAGE, 2)}
TOPIC_FAULTS = {'topic_fails': (ANSWERS, 4), 'topic_hangs': (ANSWERS, 2), 'topic_limited': (ANSWERS, 1)}
MILD_FAULTS = {
    'terminate_backend': (NONE, 3), 'cancel_relay': (NONE, 2), 'vacuum': (NONE, 2), 'vacuum_freeze': (NONE, 1),
    'vacuum_full': (PAUSE, 1), 'lock_table': (PAUSE, 2), 'reload': (NONE, 6), 'reload_bad': (NONE, 1),
    'disable': (PAUSE, 1), 'no_publisher': (RESTART, 1), 'key_scope': (RESTART, 2), 'retry_by_hand': (NONE, 3),
    'checkpoint': (NONE, 1)}

# Lane: (its faults, mean seconds between two of them)
LANES = {'server': (SERVER_FAULTS, 3.0), 'receiver': (RECEIVER_FAULTS, 1.5), 'topic': (TOPIC_FAULTS, 3.0),
         'mild': (MILD_FAULTS, 1.5)}

# In each cycle of so many seconds the last ones are quiet: then nothing excuses a stall or a duplicate.
CYCLE = 15
QUIET = 4

# What "reload" draws from.
SETTINGS = {
    'outbox.batch_size': (1, 7, 100, 1000), 'outbox.max_in_flight': (1, 3, 64, 256),
    'outbox.local_retry_times': (0, 1, 3), 'outbox.retry_batch_size': (1, 10, 100),
    'outbox.retry_backoff': (1, 2, 10), 'outbox.relay_memory': ('64kB', '1MB', '16MB'),
    'outbox.poll_interval': ('10ms', '1s'), 'outbox.breaker_threshold': (1, 5, 1000),
    'outbox.http_content_mode': ('binary', 'structured'), 'outbox.minimum_retry_interval': ('0', '300ms'),
    'outbox.cleaning_local_queue_expire_interval': ('100ms', '60s'),
    'outbox.published_expire_time': ('1s', '24h'), 'outbox.dapr_bulk': ('off', 'auto')}

# A server that starts with one of these has the default in its place; so none of the settings whose default
# would send events elsewhere.
BAD_SETTINGS = ({'outbox.batch_size': 'banana'}, {'outbox.http_url': 'ftp://127.0.0.1/'},
                {'outbox.retry_backoff': '-1'}, {'outbox.max_in_flight': '0'})

STATUSES = (500, 429, 403, 503, 404, 301)
BROKEN = ('garbage', 'half_response', 'partial', 'partialrst', 'badlen', 'chunkbad', 'http09', 'nolen')
ENDLESS = ('hugebody', 'hugehdr', 'flood1xx', 'slowhdr', 'slowbody')

LOCK_TIMEOUT_MS = 1000      # the held transaction would keep everybody waiting for ever
RELAY_BACK = 30             # seconds until a relay has to be at work again


@dataclass(frozen=True)
class Fault:
    at: float               # seconds after the start; later if the one before takes longer
    lane: str
    name: str
    effect: str
    length: float           # seconds, where that means something
    seed: int               # for what the fault itself draws

    def __str__(self):
        return f'{self.at:8.2f}  {self.lane:8} {self.name} ({self.length:.2f} s, {self.seed})'


@dataclass
class Disturbance:
    name: str
    effect: str
    start: float
    end: float = float('inf')


def draw_schedule(seed, duration, lanes=LANES):
    """The faults of a run.  The same seed and duration: the same faults."""
    schedule = []
    for lane, (faults, mean) in lanes.items():
        rng = random.Random(f'{seed}/{lane}')
        at = rng.uniform(0.5, mean)
        while at < duration:
            if at % CYCLE > CYCLE - QUIET:
                at += QUIET
                continue
            name = rng.choices(list(faults), [weight for _, weight in faults.values()])[0]
            schedule.append(Fault(at, lane, name, faults[name][0], rng.uniform(0.1, 1.5), rng.randrange(10 ** 6)))
            at += min(rng.expovariate(1 / mean), 4 * mean)
    return sorted(schedule, key=lambda fault: fault.at)


def poison_rules(mode):
    """The receiver refuses poison for good."""
    body = {'errorCode': 'ERR_PUBSUB_CLOUD_EVENTS_SER', 'message': POISON} if mode == 'dapr' else POISON
    return [{'match': {'data': f'"{POISON}"'}, 'action': 'status', 'status': 500 if mode == 'dapr' else 400,
             'body': body}]


class Injector:
    """Runs a schedule against a server, its load and its receiver."""

    def __init__(self, server, receiver, load, settings, directory):
        self.server = server
        self.receiver = receiver
        self.load = load
        self.base_settings = settings
        self.pid_file = f'{directory}/relay.pid'
        self.disturbances = []
        self.stopping = threading.Event()
        self.rule_lock = threading.Lock()
        self.extra_rules = {}           # lane: rules
        self.errors = []

    # --- running

    def run(self, schedule, duration):
        """Inject what the schedule says; returns when the time is up and the last fault has ended."""
        started = time.monotonic()
        lanes = [threading.Thread(target=self._run_lane, args=(started, [f for f in schedule if f.lane == lane]),
                                  daemon=True)
                 for lane in {fault.lane for fault in schedule}]
        for lane in lanes:
            lane.start()
        while time.monotonic() < started + duration and not self.errors:
            self.stopping.wait(0.1)
        self.stopping.set()
        for lane in lanes:
            lane.join()
        if self.errors:
            raise self.errors[0]

    def _run_lane(self, started, faults):
        try:
            for fault in faults:
                self.stopping.wait(max(started + fault.at - time.monotonic(), 0))
                if self.stopping.is_set():
                    return
                self._inject(fault)
        except Exception as error:      # raised again by run()
            self.errors.append(error)

    def _inject(self, fault):
        disturbance = Disturbance(fault.name, fault.effect, time.time())
        self.disturbances.append(disturbance)
        getattr(self, fault.name)(fault, random.Random(fault.seed))
        disturbance.end = time.time()

    def calm(self):
        """Everything as it should be: settings, receiver, server."""
        self.server.settings(self.base_settings)
        self.server.reload()
        if self.receiver.process is None:
            self.receiver.start()
        self.receiver.listen(True)
        self.extra_rules.clear()
        self._set_rules()
        self._await_relay()

    def _await_relay(self):
        self.server.await_relay(RELAY_BACK)

    # --- server

    def _signal(self, backend_type, number):
        pids = self.server.backends(backend_type)
        if pids:
            send_signal(pids[0], number)

    def _crash_of(self, backend_type):
        self._signal(backend_type, signal.SIGKILL)
        self._await_relay()

    def kill_relay(self, fault, rng):
        self._crash_of(RELAY)

    def kill_launcher(self, fault, rng):
        self._crash_of(LAUNCHER)

    def kill_backend(self, fault, rng):
        """One of the writers' own."""
        rows = self.server.query("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'torture %'"
                                 ' AND pid <> pg_backend_pid() ORDER BY pid')
        if rows:
            send_signal(rng.choice(rows)[0], signal.SIGKILL)
        self._await_relay()

    def term_relay(self, fault, rng):
        self._signal(RELAY, signal.SIGTERM)
        self._await_relay()

    def terminate_relay(self, fault, rng):
        self.server.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = %s', RELAY)
        self._await_relay()

    def term_launcher(self, fault, rng):
        self._signal(LAUNCHER, signal.SIGTERM)

    def kill_postmaster(self, fault, rng):
        self.server.kill9()
        self.server.start()
        self._await_relay()

    def kill_during_async(self, fault, rng):
        """Commits that are visible and not on disk, then a crash: none of them may have been sent.

        The WAL writer is stopped meanwhile: it would write WAL out page by page, and what the system
        has been given survives the crash of a server."""
        wal_writers = self.server.backends(WAL_WRITER)
        for pid in wal_writers:
            send_signal(pid, signal.SIGSTOP)
        self.load.all_async.set()
        self.stopping.wait(fault.length)
        self.server.kill9()
        for pid in wal_writers:
            send_signal(pid, signal.SIGKILL)
        self.load.all_async.clear()
        self.server.start()
        self._await_relay()

    def _restart(self, mode):
        self.server.stop(mode)
        self.server.start()
        self._await_relay()

    def restart_immediate(self, fault, rng):
        self._restart('immediate')

    def restart_fast(self, fault, rng):
        self._restart('fast')

    def restart_smart(self, fault, rng):
        """A smart stop waits for sessions; they go, the relay's requests may hang."""
        if self.load.pause_all():
            self._restart('smart')
        self.load.resume()

    def kill_relay_at_answer(self, fault, rng):
        """The receiver has the event, the relay does not live to hear it."""
        pids = self.server.backends(RELAY)
        if not pids:
            return
        with open(self.pid_file, 'w', encoding='ascii') as file:
            file.write(f'{pids[0]}\n')
        self._set_rules('server', [{'action': 'pass', 'times': 1, 'skip': rng.randint(0, 20),
                                    'kill_pid_from': self.pid_file}])
        self.stopping.wait(fault.length)
        self._set_rules('server', [])
        self._await_relay()

    def freeze_relay(self, fault, rng):
        """It wakes up to answers that have come too late."""
        for pid in self.server.backends(RELAY):
            if send_signal(pid, signal.SIGSTOP):
                self.stopping.wait(2 * fault.length)
                send_signal(pid, signal.SIGCONT)
        self._await_relay()

    # --- receiver

    def _set_rules(self, lane=None, rules=None):
        """Poison comes first, so that what is refused is refused always."""
        with self.rule_lock:
            if lane is not None:
                self.extra_rules[lane] = rules
            rules = poison_rules(self.receiver.mode)
            for extra in self.extra_rules.values():
                rules = rules + extra
            if self.receiver.process is None:
                self.receiver.rules = rules         # it gets them when it is back
            else:
                self.receiver.faults(rules)

    def _misbehave(self, fault, rng, **rule):
        """Requests meet the rule for a while: all, or each n-th one."""
        if rng.random() < 0.6:
            rule['every'] = rng.randint(2, 5)
        self._set_rules('receiver', [rule])
        self.stopping.wait(fault.length)
        self._set_rules('receiver', [])

    def down(self, fault, rng):
        self.receiver.listen(False)
        self.stopping.wait(fault.length)
        self.receiver.listen(True)

    def kill_receiver(self, fault, rng):
        with self.rule_lock:
            self.receiver.kill()
        self.stopping.wait(fault.length)
        with self.rule_lock:
            self.receiver.start()

    def freeze_receiver(self, fault, rng):
        """The kernel goes on accepting connections for it."""
        with self.rule_lock:
            self.receiver.process.send_signal(signal.SIGSTOP)
            self.stopping.wait(2 * fault.length)
            self.receiver.process.send_signal(signal.SIGCONT)

    def hang(self, fault, rng):
        self._misbehave(fault, rng, action='hang', on_release=rng.choice(('drop', 'answer')))

    def reset_before(self, fault, rng):
        self._misbehave(fault, rng, action=rng.choice(('rst', 'drop_before_commit')))

    def reset_after(self, fault, rng):
        self._misbehave(fault, rng, **rng.choice(({'action': 'rst', 'taken': 1}, {'action': 'commit_then_drop'})))

    def status(self, fault, rng):
        status = rng.choice(STATUSES)
        headers = {'Retry-After': rng.choice(('1', '0', 'soon'))} if status in (429, 503) else {}
        if status == 301:
            headers['Location'] = self.receiver.url() + '/elsewhere'
        self._misbehave(fault, rng, action='status', status=status, body=f'scripted {status}', headers=headers)

    def broken_answer(self, fault, rng):
        self._misbehave(fault, rng, action=rng.choice(BROKEN))

    def endless(self, fault, rng):
        self._misbehave(fault, rng, action=rng.choice(ENDLESS))

    def slow(self, fault, rng):
        """Before or after the event is taken; sometimes longer than the relay waits."""
        self._misbehave(fault, rng, **{rng.choice(('delay_commit', 'delay_response')): rng.choice((0.05, 0.3, 1.5))})

    # --- one topic

    def _fail_topic(self, fault, rng, times_longer=3, **rule):
        """Whatever is published to a topic meets the rule."""
        segment = urllib.parse.quote(rng.choice(self.load.topics), safe='')
        path = f'/{re.escape(segment)}([?].*)?$'
        self._set_rules('topic', [{'match': {'path': path}, **rule}])
        self.stopping.wait(times_longer * fault.length)
        self._set_rules('topic', [])

    def topic_fails(self, fault, rng):
        status = rng.choice((403, 404, 500))
        code = {403: 'ERR_PUBSUB_FORBIDDEN', 404: 'ERR_PUBSUB_NOT_FOUND', 500: 'ERR_PUBSUB_PUBLISH_MESSAGE'}[status]
        self._fail_topic(fault, rng, action='status', status=status, body={'errorCode': code, 'message': 'this topic'})

    def topic_hangs(self, fault, rng):
        """Sometimes longer than the relay waits."""
        self._fail_topic(fault, rng, times_longer=5, action='hang', on_release=rng.choice(('drop', 'answer')))

    def topic_limited(self, fault, rng):
        self._fail_topic(fault, rng, action='status', status=429, headers={'Retry-After': '1'})

    # --- ordinary life

    def terminate_backend(self, fault, rng):
        rows = self.server.query("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'torture %'"
                                 ' AND pid <> pg_backend_pid() ORDER BY pid')
        if rows:
            self.server.query('SELECT pg_terminate_backend(%s)', rng.choice(rows)[0])

    def cancel_relay(self, fault, rng):
        self.server.query('SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = %s', RELAY)

    def _each_table(self, command):
        for table in ('outbox_event', 'outbox_delivery', 'outbox_progress'):
            self.server.query(command.format(table))

    def vacuum(self, fault, rng):
        self._each_table('VACUUM {}')

    def vacuum_freeze(self, fault, rng):
        self._each_table('VACUUM FREEZE {}')

    def vacuum_full(self, fault, rng):
        """Of the tables that the held transaction does not keep locked."""
        for table in ('outbox_delivery', 'outbox_progress'):
            self.server.query(f'VACUUM FULL {table}')

    def lock_table(self, fault, rng):
        table = rng.choice(('outbox_event', 'outbox_delivery', 'outbox_progress'))
        mode = rng.choice(('SHARE ROW EXCLUSIVE', 'ACCESS EXCLUSIVE'))
        self.server.query(f'BEGIN; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; LOCK TABLE {table} IN {mode} MODE;'
                          ' SELECT pg_sleep(%s); COMMIT', fault.length)

    def checkpoint(self, fault, rng):
        self.server.query('CHECKPOINT')

    def reload(self, fault, rng):
        """Some settings change, and stay until the next reload."""
        drawn = {name: rng.choice(SETTINGS[name]) for name in rng.sample(sorted(SETTINGS), rng.randint(1, 4))}
        if drawn.get('outbox.published_expire_time') == '1s':
            drawn.update({'outbox.cleaning_expire_interval': '300ms', 'outbox.delete_batch_count': 10})
        self._with_settings(drawn)

    def _with_settings(self, changed):
        self.server.settings({**self.base_settings, **changed})
        self.server.reload()

    def _for_a_while(self, fault, changed):
        self._with_settings(changed)
        self.stopping.wait(fault.length)
        self._with_settings({})

    def reload_bad(self, fault, rng):
        self._for_a_while(fault, rng.choice(BAD_SETTINGS))

    def disable(self, fault, rng):
        self._for_a_while(fault, {'outbox.enabled': 'off'})

    def no_publisher(self, fault, rng):
        """A library that is not there; what was in flight is sent again."""
        self._for_a_while(fault, {'outbox.publisher': 'no_such_library'})

    def key_scope(self, fault, rng):
        """For some time, a key has one order across topics."""
        self._for_a_while(fault, {'outbox.key_scope': 'all'})

    def retry_by_hand(self, fault, rng):
        self.server.query("SELECT outbox_retry(event_id) FROM outbox_events WHERE state = 'failed' LIMIT 20")
        self.server.query('SELECT outbox_retry_dead()')
