"""A PostgreSQL server of our own, and the receiver that its relay sends to.

Both can be killed at any moment and started again; what they have written is kept.  Nothing here
knows what is being tested.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

import psycopg2
import psycopg2.errors

POLL = 0.02
START_TIMEOUT = 60
STOP_TIMEOUT = 60

RELAY = 'outbox relay'
LAUNCHER = 'outbox launcher'
WAL_WRITER = 'walwriter'


class TortureError(Exception):
    """The tool itself can't go on: the server does not start, for one."""


def poll(condition, timeout, what):
    """Call condition() until it returns something true, and return that."""
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() > deadline
        value = condition()
        if value:
            return value
        if late:
            raise TortureError(f'timed out after {timeout} s waiting for {what}')
        time.sleep(POLL)


def literal(value):
    return "'" + str(value).replace("'", "''") + "'"


class Server:
    """One data directory.  It listens on a Unix socket only."""

    def __init__(self, directory, bindir, temp_config, name='main'):
        self.name = name
        self.bindir = bindir
        self.temp_config = temp_config
        self.data = os.path.join(directory, name)
        self.log = os.path.join(directory, name + '.log')
        # The path of a socket must be short, and tests run in deep directories.
        self.sockets = tempfile.mkdtemp(prefix='tort', dir='/tmp')

    def _run(self, program, *arguments, check=True):
        """Output goes to the log: a server keeps what it was started with, and would hold a pipe open."""
        with open(self.log, 'ab') as log:
            done = subprocess.run([os.path.join(self.bindir, program), *arguments], cwd=os.path.dirname(self.log),
                                  stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
        if check and done.returncode != 0:
            raise TortureError(f'{program} failed, see {self.log}')
        return done.returncode == 0

    def init(self, settings):
        self._run('initdb', '-D', self.data, '-A', 'trust', '-N', '-U', 'postgres', '--no-locale', '-E', 'UTF8')
        self.adopt(settings)

    def adopt(self, settings):
        """Configure a data directory, of initdb or of a base backup."""
        with open(self.temp_config, encoding='utf-8') as file:
            common = file.read()
        with open(os.path.join(self.data, 'postgresql.conf'), 'a', encoding='utf-8') as file:
            file.write(f"{common}\nlisten_addresses = ''\nunix_socket_directories = {literal(self.sockets)}\n"
                       "include 'torture.conf'\n")
        self.settings(settings)

    def settings(self, settings):
        """Write the settings, which count from the next start or reload on."""
        path = os.path.join(self.data, 'torture.conf')
        with open(path + '.tmp', 'w', encoding='utf-8') as file:
            file.writelines(f'{name} = {literal(value)}\n' for name, value in settings.items())
        os.rename(path + '.tmp', path)

    def start(self):
        """Also after a kill, where the old processes have to go before the new ones can come."""
        poll(self._try_start, START_TIMEOUT, f'the server to start, see {self.log}')

    def _try_start(self):
        if self._run('pg_ctl', '-D', self.data, '-w', '-t', str(START_TIMEOUT), 'start', check=False):
            return True
        self._run('pg_ctl', '-D', self.data, '-m', 'immediate', 'stop', check=False)
        return False

    def stop(self, mode, check=True):
        self._run('pg_ctl', '-D', self.data, '-w', '-t', str(STOP_TIMEOUT), '-m', mode, 'stop', check=check)

    def promote(self):
        self._run('pg_ctl', '-D', self.data, '-w', 'promote')

    def base_backup(self, standby):
        """Make the data directory of a standby that follows this server."""
        self._run('pg_basebackup', '-D', standby.data, '-h', self.sockets, '-U', 'postgres', '-c', 'fast', '-R')

    def dump(self, path, *options):
        self._run('pg_dump', '-h', self.sockets, '-U', 'postgres', *options, '-f', path, 'postgres')

    def restore(self, path, role='origin', whole=False, check=True):
        """In this session_replication_role; as a whole: in one transaction."""
        self._run('psql', '-X', '-q', '-h', self.sockets, '-U', 'postgres', '-v', 'ON_ERROR_STOP=1',
                  *(['-1'] if whole else []), '-c', f'SET session_replication_role = {role}', '-f', path, 'postgres',
                  check=check)

    def reload(self):
        self._run('pg_ctl', '-D', self.data, 'reload', check=False)

    def postmaster(self):
        """Its pid, or None."""
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            with open(os.path.join(self.data, 'postmaster.pid'), encoding='ascii') as file:
                return int(file.readlines()[0])
        return None

    def kill9(self):
        pid = self.postmaster()
        if pid is not None:
            send_signal(pid, signal.SIGKILL)

    def connect(self, name):
        """A session in autocommit mode; throws psycopg2.Error while the server is not there."""
        connection = psycopg2.connect(host=self.sockets, user='postgres', dbname='postgres', application_name=name,
                                      options='-c client_min_messages=error')
        connection.autocommit = True
        return connection

    def query(self, sql, *parameters):
        """Rows of one statement in a session of its own, or None if the server can't be asked."""
        try:
            with contextlib.closing(self.connect('torture control')) as connection:
                with connection.cursor() as cursor:
                    cursor.execute(sql, parameters or None)
                    return cursor.fetchall() if cursor.description else []
        except psycopg2.Error:
            return None

    def execute(self, sql, *parameters):
        """The same for what must not fail."""
        with contextlib.closing(self.connect('torture control')) as connection:
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters or None)
                return cursor.fetchall() if cursor.description else []

    def backends(self, backend_type):
        rows = self.query('SELECT pid FROM pg_stat_activity WHERE backend_type = %s ORDER BY pid', backend_type)
        return [pid for pid, in rows or ()]

    def await_relay(self, timeout=START_TIMEOUT):
        """Wait until the relay is at work."""
        poll(lambda: self.query("SELECT 1 FROM outbox_relays WHERE state NOT IN ('starting', 'stopped')"
                                ' AND datname = current_database() AND pid IS NOT NULL'),
             timeout, f'the relay, see {self.log}')

    def remove(self):
        self.stop('immediate', check=False)
        shutil.rmtree(self.sockets, ignore_errors=True)


def send_signal(pid, number):
    """False if there is no such process (any more)."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


# The receiver keeps what it has received.  A garbage collection among so many objects would hold it up
# for a second, which the relay has to take for a failure.
WITHOUT_COLLECTOR = ('import gc, sys; gc.disable(); sys.path.insert(0, sys.argv.pop(1));'
                     ' import receiver; receiver.main()')


class Receiver:
    """test/receiver/receiver.py.  Each process writes a log of its own; "logs" has them in order."""

    def __init__(self, directory, mode, *options, scheme='http'):
        self.directory = directory
        self.mode = mode
        self.options = options
        self.scheme = scheme
        self.source = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'receiver')
        self.port = 0
        self.ctl_port = 0
        self.process = None
        self.logs = []
        self.rules = []

    def url(self):
        return f'{self.scheme}://127.0.0.1:{self.port}'

    def start(self):
        """On the same ports as before, with the same fault rules."""
        port_files = [os.path.join(self.directory, name) for name in ('port', 'ctl_port')]
        for path in port_files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self.logs.append(os.path.join(self.directory, f'receiver.{len(self.logs)}.log'))
        with open(os.path.join(self.directory, 'receiver.out'), 'ab') as output:
            self.process = subprocess.Popen(
                [sys.executable, '-c', WITHOUT_COLLECTOR, self.source, '--mode', self.mode,
                 '--log', self.logs[-1], '--exit-with-parent', '--port', str(self.port), '--port-file', port_files[0],
                 '--ctl-port', str(self.ctl_port), '--ctl-port-file', port_files[1], *self.options],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.port, self.ctl_port = (
            poll(lambda path=path: os.path.exists(path) and int(open(path, encoding='ascii').read()), START_TIMEOUT,
                 'the receiver to start')
            for path in port_files)
        if self.rules:
            self.faults(self.rules)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _control(self, what, content):
        connection = http.client.HTTPConnection('127.0.0.1', self.ctl_port, timeout=30)
        try:
            connection.request('POST', f'/__ctl/{what}', json.dumps(content))
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise TortureError(f'receiver: {what}: {answer.decode()}')
        finally:
            connection.close()

    def accepted(self):
        """How many events it has taken since it was started, each copy counted."""
        with urllib.request.urlopen(f'http://127.0.0.1:{self.ctl_port}/__ctl/stats', timeout=30) as response:
            return json.load(response)['accepted']

    def faults(self, rules):
        """Replace the rules; requests that hang are let go."""
        self.rules = rules
        self._control('faults', rules)

    def listen(self, yes):
        self._control('state', {'listening': yes})
