"""A throw-away server with durable settings, and what the rows do with it."""

import os
import subprocess

from lib.psql import Session
from lib.wait import wait_until

SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{directory}'
fsync = on
synchronous_commit = on
full_page_writes = on
shared_buffers = '512MB'
max_wal_size = '16GB'
checkpoint_timeout = '1h'
max_connections = 50
max_worker_processes = 70
outbox.enabled = off
{more}
"""


class Cluster:
    """One server.  "preload" false: the same server without the extension."""

    def __init__(self, stage, name, more='', preload=True):
        self.bin = stage.bin
        self.directory = os.path.join(stage.directory, name)
        self._log = self.directory + '.log'
        subprocess.run([f'{self.bin}/initdb', '-D', self.directory, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8',
                        '--no-locale'], check=True, stdout=subprocess.DEVNULL)
        with open(f'{self.directory}/postgresql.conf', 'a', encoding='utf-8') as conf:
            if preload:
                with open(os.path.join(stage.directory, 'temp.conf'), encoding='utf-8') as staged:
                    conf.write(staged.read())
            settings = SETTINGS.format(directory=self.directory, more=more)
            conf.write(settings if preload else
                       ''.join(line for line in settings.splitlines(True) if not line.startswith('outbox.')))
        self._pg_ctl('start', '-l', self._log)
        with open(f'{self.directory}/postmaster.pid', encoding='ascii') as file:
            self.pid = int(file.readline())

    def _pg_ctl(self, *arguments):
        subprocess.run([f'{self.bin}/pg_ctl', '-D', self.directory, '-w', *arguments], check=True,
                       stdout=subprocess.DEVNULL)

    def stop(self):
        self._pg_ctl('stop', '-m', 'immediate')

    def connect(self, database='postgres'):
        return Session(f'{self.bin}/psql', self.directory, database)

    def conninfo(self, database):
        return f'host={self.directory} user=postgres dbname={database}'

    def pgbench(self, database, script, *arguments):
        """Run a script of transactions; returns what pgbench prints."""
        path = f'{self.directory}/pgbench.sql'
        with open(path, 'w', encoding='utf-8') as file:
            file.write(script)
        command = [f'{self.bin}/pgbench', '-n', '-M', 'prepared', '-f', path, '-h', self.directory, '-U', 'postgres',
                   *map(str, arguments), database]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def set(self, **settings):
        """Set outbox.* until the next call of reset()."""
        with self.connect() as sql:
            for name, value in settings.items():
                sql.run(f"ALTER SYSTEM SET outbox.{name} = '{value}'")
            self._reload(sql)

    def configure(self, **settings):
        """set(), and start all relays anew with it."""
        self.set(**settings)
        with self.connect() as sql:
            before = sql.value("SELECT clock_timestamp()")
            sql.run("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'outbox relay'")
            self._await_relays(sql, f"backend_start > '{before}'")

    def reset(self):
        with self.connect() as sql:
            sql.run('ALTER SYSTEM RESET ALL')
            self._reload(sql)

    @staticmethod
    def _reload(sql):
        sql.run('SELECT pg_reload_conf()')

    @staticmethod
    def _await_relays(sql, condition):
        wait_until('the relays', lambda: sql.is_true(
            f"count(*) FILTER (WHERE {condition}) = count(*) FROM pg_stat_activity "
            "WHERE backend_type = 'outbox relay'"))


class Database:
    """A new database with the extension, and a session in it."""

    def __init__(self, cluster, name='bench'):
        self.cluster = cluster
        self.name = name
        with cluster.connect() as sql:
            sql.run(f'DROP DATABASE IF EXISTS {name} WITH (FORCE)')
            sql.run(f'CREATE DATABASE {name}')
        self.sql = cluster.connect(name)
        self.sql.run('SET client_min_messages = warning')
        self.sql.run('CREATE EXTENSION outbox')
        self.await_relay()

    def close(self):
        self.sql.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def await_relay(self):
        self.relay_pid = wait_until('the relay', self._find_relay)

    def _find_relay(self):
        pid = self.sql.value("SELECT pid FROM outbox_relays WHERE datname = current_database() "
                             "AND state NOT IN ('starting', 'stopped')")
        return int(pid) if pid else None

    def configure(self, **settings):
        self.cluster.configure(**settings)
        self.await_relay()

    def enable(self, on):
        """Let relays send, or wait until they have stopped."""
        self.sql.run(f"ALTER SYSTEM SET outbox.enabled = {'on' if on else 'off'}")
        self.sql.run('SELECT pg_reload_conf()')
        if not on:
            wait_until('the relay to stop', lambda: self.sql.is_true(
                "state = 'disabled' FROM outbox_relays WHERE datname = current_database()"))

    def publish(self, count, size, topic='bench', keys=0):
        """Publish so many events with payloads of "size" bytes, in one transaction; keys take turns."""
        key = f"'key ' || n % {keys}" if keys else 'NULL'
        self.sql.run(f"""
            INSERT INTO outbox_event (topic, key, payload)
            SELECT '{topic}', {key}, {payload(size)} FROM generate_series(1, {count}) n""")

    def empty(self):
        """Forget the events, when all are settled."""
        self.sql.run('TRUNCATE outbox_event, outbox_delivery')

    def published(self):
        """The relay's counter, as of the last checkpoint."""
        return int(self.sql.value('SELECT coalesce((SELECT published FROM outbox_progress WHERE destination = 0 '
                                  'ORDER BY id DESC LIMIT 1), 0)'))

    def await_settled(self, published, seconds=300):
        """
        Wait until the relay has counted so many deliveries and the tables say that nothing is left.  When that was, the
        tables say as well: to look often would take CPU from the relay that a limit has for itself.
        """
        wait_until(f'{published} events to be published', lambda: self.published() >= published, seconds, pause=0.1)
        wait_until('the last checkpoint', lambda: self.backlog() == 0, seconds)

    def backlog(self):
        return int(self.sql.value('SELECT backlog FROM outbox_stats'))


def payload(size, n='n'):
    """SQL for a JSON object that is "size" bytes long; n is a number from 0 to a few million."""
    return f"""(rpad(format('{{"n": %s, "fill": "', 10000000 + {n}), {size - 2}, 'x') || '"}}')::jsonb"""
