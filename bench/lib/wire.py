"""Brokers whose protocols the relay speaks by itself, on loopback, and a bare client that sends the same bytes."""

import glob
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import threading

from lib.nginx import free_port
from lib.wait import wait_until

TOPIC = 'bench'


class Recorder:
    """A way to a port that keeps what went there on the latest connection."""

    def __init__(self, port):
        self._target = port
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port = self._listener.getsockname()[1]
        self.bytes = b''
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        try:
            while True:
                client = self._listener.accept()[0]
                self.bytes = b''
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()
        except OSError:
            pass                                # closed

    def _serve(self, client):
        with client, socket.create_connection(('127.0.0.1', self._target)) as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is client:
                        self.bytes += data
                    (server if source is client else client).sendall(data)

    def close(self):
        self._listener.close()


class WireBroker:
    """
    A server of one protocol.  NAME and LIBRARY are as in the table and of the publisher, PROGRAM is the server's,
    PROTOCOL what bare_wire calls it, MESSAGE matches where what was recorded goes from the login to the message, MORE
    are settings, and SHARE is how much of knobs.EVENTS is sent.
    """
    CLIENT, MORE, SHARE = 'socket', '', 0.5

    @classmethod
    def _program(cls):
        return shutil.which(cls.PROGRAM, path=os.environ['PATH'] + ':/usr/sbin')

    @classmethod
    def is_installed(cls, stage):
        module = os.path.join(stage.directory, 'dest', '**', cls.LIBRARY + '.so')
        return cls._program() is not None and glob.glob(module, recursive=True)

    def __init__(self, stage):
        self.stage = stage
        self.port = free_port()
        self.directory = os.path.join(stage.directory, self.PROTOCOL)
        os.mkdir(self.directory)
        with open(f'{self.directory}/log', 'wb') as log:
            self._process = subprocess.Popen([self._program(), *self.arguments()], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self.NAME, self._answers)
        self.prepare()

    def arguments(self):
        """The program's."""
        raise NotImplementedError

    def prepare(self):
        """Whatever it needs to have before anything is published."""

    def _answers(self):
        try:
            with socket.create_connection(('127.0.0.1', self.port)):
                return True
        except OSError:
            return False

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def _url(self, port):
        return f'{self.PROTOCOL}://127.0.0.1:{port}'

    def settings(self):
        return f"{self.LIBRARY}.url = '{self._url(self.port)}'\n{self.MORE}"

    def record(self, database, size):
        """See what the relay sends for one event of this size, and keep it for bare()."""
        recorder = Recorder(self.port)
        published = database.published()
        database.publish(1, size)
        self._event_id = database.sql.value('SELECT event_id FROM outbox_event')
        database.sql.run(f"ALTER SYSTEM SET {self.LIBRARY}.url = '{self._url(recorder.port)}'")
        database.enable(True)
        database.await_settled(published + 1)
        sent = recorder.bytes
        database.sql.run(f'ALTER SYSTEM RESET {self.LIBRARY}.url')
        database.enable(False)
        database.empty()
        recorder.close()
        at = re.search(self.MESSAGE, sent, re.S).start()
        for name, data in (('login', sent[:at]), ('message', sent[at:])):
            with open(f'{self.directory}/{name}', 'wb') as file:
                file.write(data)

    def bare(self, count, window):
        """Send what was recorded so many times: seconds, and of CPU."""
        output = subprocess.run(
            [self.stage.program('bare_wire'), str(self.port), self.PROTOCOL, f'{self.directory}/login',
             f'{self.directory}/message', self._event_id, str(count), str(window)],
            check=True, capture_output=True, text=True).stdout
        return map(float, output.split())


class Nats(WireBroker):
    NAME, LIBRARY, PROGRAM, PROTOCOL = 'NATS', 'outbox_nats', 'nats-server', 'nats'
    MESSAGE = rb'HPUB '

    def arguments(self):
        return ['-a', '127.0.0.1', '-p', str(self.port), '-js', '-sd', self.directory]

    def prepare(self):
        """A stream on disk, which does not look for duplicates further back than it has to."""
        stream = json.dumps({'name': 'BENCH', 'subjects': [TOPIC], 'storage': 'file', 'retention': 'limits',
                             'max_msgs': 100000, 'duplicate_window': 1000000000})
        with socket.create_connection(('127.0.0.1', self.port)) as connection:
            connection.sendall(b'CONNECT {"verbose":false}\r\nSUB answer 1\r\n'
                               b'PUB $JS.API.STREAM.CREATE.BENCH answer %d\r\n%s\r\n'
                               % (len(stream), stream.encode()))
            answer = b''
            while not answer.endswith(b'}\r\n') or b'MSG answer' not in answer:
                answer += connection.recv(65536)
        if b'"error"' in answer:
            raise AssertionError(answer)


class Redis(WireBroker):
    NAME, LIBRARY, PROGRAM, PROTOCOL = 'Redis', 'outbox_redis', 'redis-server', 'redis'
    MESSAGE = rb'\*\d+\r\n\$4\r\nXADD'
    MORE = 'outbox_redis.maxlen = 100000\n'

    def arguments(self):
        return ['--port', str(self.port), '--bind', '127.0.0.1', '--dir', self.directory, '--save', '',
                '--appendonly', 'yes', '--appendfsync', 'everysec']


class Mosquitto(WireBroker):
    NAME, LIBRARY, PROGRAM, PROTOCOL = 'MQTT', 'outbox_mqtt', 'mosquitto', 'mqtt'
    MESSAGE = rb'\x32[\x80-\xff]+[\0-\x7f]\0\x05bench'
    MORE = 'outbox_mqtt.no_subscriber = accept\n'

    def arguments(self):
        """
        By default the broker takes 20 unacknowledged messages from a client.  The relay keeps to that and the bare
        client does not, so that their windows would not be the same.
        """
        with open(f'{self.directory}/conf', 'w', encoding='ascii') as conf:
            conf.write(f'listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\n')
        return ['-c', f'{self.directory}/conf']
