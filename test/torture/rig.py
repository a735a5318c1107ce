"""The rig: a server, a receiver, a load and its faults, and the stages that they go through.

A phase that wants to know exactly what it publishes does so in batches, in place of a load."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass

import checker
from faults import CRASH, Disturbance, Injector
from load import BATCH, SCHEMA, Journal, Load
from server import START_TIMEOUT, Receiver, Server, TortureError, poll, send_signal

DRAIN_TIMEOUT = 90

# Without shared requests, the receiver has soon taken what a relay sent that is gone; or crashes that come with
# much load would need longer to be over.
SINGLE = {'outbox.dapr_bulk': 'off'}

BASE_SETTINGS = {
    'restart_after_crash': 'on', 'max_connections': 40, 'max_prepared_transactions': 40, 'log_min_messages': 'info',
    'log_line_prefix': '%m [%p] %b ', 'log_statement': 'none', 'checkpoint_timeout': '30s', 'fsync': 'off',
    # What holds up the relay is in the log.
    'shared_preload_libraries': 'outbox, auto_explain', 'auto_explain.log_min_duration': '100ms',
    'auto_explain.log_analyze': 'on', 'auto_explain.log_timing': 'off', 'auto_explain.log_buffers': 'on',
    # Commits with synchronous_commit = off stay in memory, where a crash can find them.
    'wal_writer_delay': '10s', 'wal_writer_flush_after': '1GB', 'deadlock_timeout': '100ms',
    # Everything is tried again soon, and nothing dies of it.
    'outbox.local_failed_retry_interval': '100ms', 'outbox.failed_retry_interval': '300ms',
    'outbox.minimum_retry_interval': '300ms', 'outbox.max_retry_interval': '2s', 'outbox.max_retry_times': 1000000,
    'outbox.breaker_probe_interval': '200ms', 'outbox.request_timeout': '4s', 'outbox.connect_timeout': '1s'}

# How many are neither settled nor behind a dead event of their topic and key.
UNSETTLED = """
SELECT coalesce(sum(t.pending + t.scheduled), 0) - (
    SELECT count(*) FROM outbox_delivery b JOIN outbox_position USING (destination)
    WHERE b.state = 'pending' AND EXISTS (
        SELECT 1 FROM outbox_delivery d
        WHERE d.destination = b.destination AND d.topic = b.topic AND d.key = b.key AND d.id < b.id
        AND d.state = 'dead'))
FROM outbox_topics t
"""

DEAD = """
SELECT e.event_id::text, d.last_error, extract(epoch FROM e.created_at), d.destination
FROM outbox_delivery d JOIN outbox_event e USING (id) WHERE d.state = 'dead'
"""

TRUTH = """
SELECT event_id::text, txn, mode, topic, key, seq, payload, extract(epoch FROM due), times, xid::text
FROM torture_truth
"""


@dataclass
class Batch:
    """So many events of each topic.  Of a topic, they take turns among so many keys (0: none has one) and
    are numbered from "first" on."""
    topics: list
    each: int = 1
    keys: int = 0
    first: int = 1


class Rig:
    """One server, one receiver, and what is done to them."""

    def __init__(self, options, directory, name='main', settings=None, data_directory=None):
        self.options = options
        self.directory = directory
        self.name = name
        self.servers = []
        self.server = self.new_server(name, data_directory)
        receiver_directory = os.path.join(directory, f'receiver.{name}')
        os.mkdir(receiver_directory)
        self.receiver = Receiver(receiver_directory, options.publisher)
        self.settings = {**BASE_SETTINGS, **(settings or {})}
        self.journal = Journal()
        self.load = None
        self.injector = None
        self.dead = []
        self.unsettled = 0
        self.load_end = float('inf')
        self.late = 0.0
        self.report = None

    # --- set-up

    def new_server(self, name, directory=None):
        """One that is stopped at the end with the others."""
        server = Server(directory or self.directory, self.options.bindir, self.options.temp_config, name)
        self.servers.append(server)
        return server

    def set_up(self):
        self.receiver.start()
        self.settings.update({'outbox.publisher': self.publisher(), 'outbox.dapr_endpoint': self.receiver.url(),
                              'outbox.http_url': self.receiver.url() + '/{topic}', 'outbox.http_topic_slashes': 'on'})
        self.start_server()

    def publisher(self):
        return self.options.publisher

    def start_server(self):
        self.server.init(self.settings)
        self.server.start()
        self.server.execute('CREATE EXTENSION outbox')
        self.server.execute(SCHEMA)
        self.server.await_relay()

    def new_load(self, **options):
        self.load = Load(self.server, self.options.seed, self.journal, **options)
        self.injector = self.make_injector()
        self.injector.calm()
        return self.load

    def make_injector(self, receiver=None):
        return Injector(self.server, receiver or self.receiver, self.load, self.settings, self.directory)

    def publish(self, txn, *batches, server=None):
        """Publish all events of these batches in one transaction."""
        with contextlib.closing((server or self.server).connect('torture batch')) as connection:
            cursor = connection.cursor()
            cursor.execute('BEGIN')
            for batch in batches:
                cursor.execute(BATCH, {'txn': txn, **vars(batch)})
            self.journal.note(txn, Journal.COMMITTED, time.time())
            cursor.execute('COMMIT')

    def kill(self, backend_type, at_work=True):
        """Kill these processes, of which there is always one: the server crashes.  Then wait until such a process is
        there again, and a relay at work unless none can be."""
        pids = set(self.server.backends(backend_type))
        for pid in pids:
            send_signal(pid, signal.SIGKILL)
        poll(lambda: set(self.server.backends(backend_type)) - pids, START_TIMEOUT, f'another {backend_type}')
        if at_work:
            self.server.await_relay()

    # --- stages

    def run(self, schedule, duration):
        """Load and faults; at the end there are neither."""
        self.load.start()
        self.injector.run(schedule, duration)
        self.injector.calm()
        self.load_end = time.time()
        self.load.stop()

    def drain(self, timeout=DRAIN_TIMEOUT):
        """Everything has to be settled; then what is dead is sent again, and has to be delivered."""
        if not self.settle(timeout):
            timeout = 0
        self.dead = [checker.Dead(event_id, reason or '', float(created), destination)
                     for event_id, reason, created, destination in self.server.execute(DEAD)]
        self.let_pass()
        self.server.execute('SELECT outbox_retry_dead()')
        self.settle(timeout)
        self.unsettled = self.server.execute(
            "SELECT count(*) FROM outbox_events WHERE state NOT IN ('published', 'discarded', 'unrouted')")[0][0]

    def let_pass(self):
        """Nothing is refused any more."""
        self.receiver.faults([])

    def settle(self, timeout=DRAIN_TIMEOUT):
        """Wait for everything to be settled; False if it is not in time, which the checker reports as a number."""
        try:
            poll(lambda: self.server.query(UNSETTLED) == [(0,)], timeout, 'everything to be settled')
            return True
        except TortureError as error:
            print(f'# {error}', flush=True)
            return False

    def judge(self):
        """The Report.  The receiver has nothing more to do then."""
        self.report = self.check()
        self.report.numbers.update({
            'transactions': len(self.journal.fates), 'failed_statements': sum(self.load.errors.values()),
            'faults': len(self.injector.disturbances),
            'crashes': sum(d.effect == CRASH for d in self.injector.disturbances)})
        return self.report

    def check(self):
        return checker.check(self.evidence())

    def evidence(self):
        """All that the checker wants to know."""
        truth = [checker.Truth(*row[:7], None if row[7] is None else float(row[7]), row[8],
                               None if row[9] is None else int(row[9]))
                 for row in self.server.execute(TRUTH)]
        given_up = {event_id for event_id, in self.server.execute('SELECT event_id::text FROM torture_given_up')}
        self.receiver.kill()
        return checker.Run(truth, checker.read_arrivals(self.receiver.logs), self.journal.fates,
                           self.injector.disturbances, self.dead, self.unsettled, self.load_end, given_up,
                           self.load.overtaken, self.late)

    def clean_up(self):
        """Stop everything.  Unless all went well, leave what helps to find out."""
        if self.report is None or self.report.failures():
            self._save_disturbances()
            self._save_tables()
        self.receiver.kill()
        for server in self.servers:
            server.remove()

    def _save_disturbances(self):
        if self.injector is not None:
            with open(os.path.join(self.directory, f'{self.name}.disturbances'), 'w', encoding='utf-8') as file:
                file.writelines(f'{d.start:.3f} {d.end:.3f} {d.effect} {d.name}\n'
                                for d in self.injector.disturbances)

    def tables(self):
        """What helps to find out."""
        return 'outbox_event', 'outbox_delivery', 'outbox_progress', 'torture_truth'

    def _save_tables(self):
        for table in self.tables():
            path = os.path.join(self.directory, f'{self.name}.{table}.csv')
            try:
                self.server.execute(f"COPY {table} TO '{path}' CSV HEADER")
            except Exception as error:      # the server may be what is broken
                print(f'# {table} was not saved: {error}')


@contextlib.contextmanager
def disturbance(rig, name, effect):
    """Whatever happens inside is due to this."""
    found = Disturbance(name, effect, time.time())
    rig.injector.disturbances.append(found)
    yield found
    found.end = time.time()


@contextlib.contextmanager
def prepared(options, directory, name, make=Rig, **more):
    """A Rig, or what else is to be made, that is set up, and cleaned up in the end."""
    rig = make(options, directory, name, **more)
    try:
        rig.set_up()
        yield rig
    finally:
        rig.clean_up()
