"""Kafka on loopback: a node of its own with a topic, from the jars that tools/setup-real has fetched."""

import glob
import os
import shutil
import signal
import subprocess

from lib.nginx import free_port
from lib.wait import wait_until

TOPIC = 'bench'

PROPERTIES = """
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.quorum.voters=1@127.0.0.1:{controller}
log.dirs={directory}/data
"""


def _jars(stage):
    return sorted(glob.glob(os.path.join(stage.directory, 'cache', 'kafka-*')))[-1:]


class Kafka:
    NAME, LIBRARY, CLIENT = 'Kafka', 'outbox_kafka', 'librdkafka'
    SHARE = 1                       # of knobs.EVENTS, so that a run takes about a second

    @staticmethod
    def is_installed(stage):
        return bool(shutil.which('java') and _jars(stage) and os.path.exists(stage.program('bare_kafka')))

    def __init__(self, stage):
        self.stage = stage
        files = os.path.join(stage.directory, 'src', 'test', 'real', 'kafka')
        directory = os.path.join(stage.directory, 'kafka')
        os.mkdir(directory)
        port = free_port()
        self.servers = f'127.0.0.1:{port}'
        properties = f'{directory}/server.properties'
        self._log = f'{directory}/log'
        with open(f'{files}/server.properties', encoding='ascii') as common, \
                open(properties, 'w', encoding='ascii') as out:
            out.write(common.read() + PROPERTIES.format(port=port, controller=free_port(), directory=directory))
        java = ['java', '-Xmx512m', '-cp', _jars(stage)[0] + '/*']
        subprocess.run([*java, 'kafka.tools.StorageTool', 'format', '-t', 'tests-kafka-cluster-id', '-c', properties],
                       check=True, capture_output=True)
        with open(self._log, 'w', encoding='utf-8') as log:
            self._process = subprocess.Popen([*java, 'kafka.Kafka', properties], stdin=subprocess.DEVNULL, stdout=log,
                                             stderr=log, start_new_session=True)
        wait_until('Kafka', self._has_started, 120)
        subprocess.run(['/usr/bin/python3', f'{files}/client.py', self.servers, 'create', TOPIC, '1'], check=True)

    def _has_started(self):
        with open(self._log, encoding='utf-8') as log:
            return 'Kafka Server started' in log.read()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def settings(self):
        return f"outbox_kafka.bootstrap_servers = '{self.servers}'\n"

    def record(self, database, size):
        """The bare client takes the message from the broker."""

    def bare(self, count, window):
        """Send the last message of the topic so many times: seconds, and of CPU."""
        output = subprocess.run([self.stage.program('bare_kafka'), self.servers, TOPIC, str(count), str(window)],
                                check=True, capture_output=True, text=True).stdout
        return map(float, output.split())
