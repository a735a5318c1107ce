"""A coordinator and workers of Citus on loopback, and the receiver that all relays send to."""

import contextlib
import glob
import json
import os
import signal
import socket
import sys

import psycopg2

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'torture'))

from server import Receiver, Server, poll, send_signal  # noqa: E402

HOST = '127.0.0.1'
TIMEOUT = 90

SETTINGS = {
    'shared_preload_libraries': 'citus,outbox', 'max_connections': 60, 'max_prepared_transactions': 60,
    'listen_addresses': HOST, 'log_line_prefix': '%m [%p] %b ', 'log_min_messages': 'info',
    'checkpoint_timeout': '30s', 'wal_level': 'logical',
    # It asks the server which versions there are, which does not look where the tree is staged.
    'citus.enable_version_checks': 'off',
    # What a killed coordinator leaves prepared on workers is finished soon.
    'citus.recover_2pc_interval': '1s', 'citus.shard_count': 8,
    'outbox.local_failed_retry_interval': '100ms', 'outbox.failed_retry_interval': '300ms',
    'outbox.minimum_retry_interval': '300ms', 'outbox.breaker_probe_interval': '200ms'}

# How long a commit record of the coordinator stays in memory.  A kill in that time finds transactions whose part on
# a worker would have been committed already, were it not for two-phase commit.
COMMIT_DELAY = 0.1
COORDINATOR_SETTINGS = {'fsync': 'on', 'commit_delay': int(COMMIT_DELAY * 1e6), 'commit_siblings': 0}


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


class Node(Server):
    """A server that the others reach by TCP."""

    def __init__(self, options, directory, name):
        super().__init__(directory, options.bindir, options.temp_config, name)
        self.port = free_port()

    def connect(self, name):
        connection = psycopg2.connect(host=self.sockets, port=self.port, user='postgres', dbname='postgres',
                                      application_name=name)
        connection.autocommit = True
        return connection

    def kill_all(self):
        """SIGKILL for each process at once: backends stop wherever they are, in the middle of a commit too."""
        postmaster = self.postmaster()
        pids = [postmaster]
        for path in glob.glob('/proc/[0-9]*/stat'):
            with contextlib.suppress(OSError), open(path, encoding='utf-8', errors='replace') as file:
                if int(file.read().rpartition(')')[2].split()[1]) == postmaster:
                    pids.append(int(path.split('/')[2]))
        for pid in pids:
            send_signal(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def session(self):
        with contextlib.closing(self.connect('citus control')) as connection:
            with connection.cursor() as cursor:
                yield cursor

    def error(self, *statements):
        """SQLSTATE and message of the first of these statements that fails, or None; they share a session."""
        with self.session() as cursor:
            try:
                for statement in statements:
                    cursor.execute(statement)
            except psycopg2.Error as error:
                return error.pgcode, error.diag.message_primary
        return None

    def run(self, *statements):
        """These statements in a session; returns the notices."""
        with self.session() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.connection.notices


class Cluster:
    """All nodes have Citus; add_worker() brings them together."""

    def __init__(self, options, directory, nworkers):
        self.directory = directory
        self.nodes = [Node(options, directory, name)
                      for name in ['coordinator', *(f'worker{n}' for n in range(1, nworkers + 1))]]
        self.coordinator = self.nodes[0]
        self.workers = self.nodes[1:]
        self.receiver = Receiver(directory, 'dapr')

    def start(self):
        self.receiver.start()
        for node in self.nodes:
            node.init({**SETTINGS, 'port': node.port, 'outbox.dapr_endpoint': self.receiver.url(),
                       'outbox.source': f'/{node.name}',
                       **(COORDINATOR_SETTINGS if node is self.coordinator else {})})
            node.start()
            node.execute('CREATE EXTENSION citus')
        self.coordinator.execute('SELECT citus_set_coordinator_host(%s, %s)', HOST, self.coordinator.port)

    def add_worker(self, node):
        self.coordinator.execute('SELECT citus_add_node(%s, %s)', HOST, node.port)

    def await_relays(self):
        for node in self.nodes:
            poll(lambda node=node: node.query("SELECT 1 FROM outbox.outbox_relays WHERE pid IS NOT NULL"
                                              " AND state NOT IN ('starting', 'stopped')"),
                 TIMEOUT, f'the relay of {node.name}')

    def settle(self):
        """Wait until no transaction is in doubt and every event is settled."""
        for node in self.nodes:
            poll(lambda node=node: node.query('SELECT count(*) FROM pg_prepared_xacts') == [(0,)],
                 TIMEOUT, f'the prepared transactions of {node.name} to end')
        for node in self.nodes:
            poll(lambda node=node: node.query('SELECT backlog FROM outbox.outbox_stats') == [(0,)],
                 TIMEOUT, f'the events of {node.name} to be settled')

    def taken(self, topic):
        """What the receiver has taken of a topic: (payload, source) of each event, by its id."""
        events = {}
        with open(self.receiver.logs[-1], encoding='utf-8') as log:
            for entry in map(json.loads, log):
                if entry['accepted'] and entry['topic'] == topic:
                    events[entry['id']] = json.loads(entry['envelope'])['data'], entry['source']
        return events

    def remove(self):
        for node in self.nodes:
            node.remove()
        self.receiver.kill()
