"""RabbitMQ on loopback: a node of its own with an exchange and a durable queue."""

import os
import signal
import subprocess

from lib.nginx import free_port
from lib.wait import wait_until

BIN = '/usr/lib/rabbitmq/bin'
USER, PASSWORD, EXCHANGE, QUEUE = 'bench', 'bench', 'amq.topic', 'bench'

CONFIG = """
listeners.tcp.1 = 127.0.0.1:{port}
default_user = {user}
default_pass = {password}
log.console = true
log.file = false
load_definitions = {directory}/definitions.json
"""

DEFINITIONS = """{{
"users": [{{"name": "{user}", "password": "{password}", "tags": ["administrator"]}}],
"vhosts": [{{"name": "/"}}],
"permissions": [{{"user": "{user}", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}}],
"queues": [{{"name": "{queue}", "vhost": "/", "durable": true, "auto_delete": false, "arguments": {{}}}}],
"bindings": [{{"source": "{exchange}", "vhost": "/", "destination": "{queue}", "destination_type": "queue",
"routing_key": "#", "arguments": {{}}}}]}}
"""


SETTINGS = """
outbox_rabbitmq.url = 'amqp://127.0.0.1:{port}'
outbox_rabbitmq.user = '{user}'
outbox_rabbitmq.password_file = '{file}'
outbox_rabbitmq.exchange = '{exchange}'
"""


class RabbitMQ:
    NAME, LIBRARY, CLIENT = 'RabbitMQ', 'outbox_rabbitmq', 'librabbitmq'
    SHARE = 0.25                    # of knobs.EVENTS, for it is slow

    @staticmethod
    def is_installed(stage):
        return os.path.exists(f'{BIN}/rabbitmq-server') and os.path.exists(stage.program('bare_rabbitmq'))

    def __init__(self, stage):
        self.stage = stage
        self.port = free_port()
        directory = os.path.join(stage.directory, 'rabbitmq')
        os.mkdir(directory)
        self._log = f'{directory}/log'
        names = {'user': USER, 'password': PASSWORD, 'queue': QUEUE, 'exchange': EXCHANGE,
                 'port': self.port, 'directory': directory}
        for file, text in (('rabbitmq.conf', CONFIG), ('definitions.json', DEFINITIONS), ('plugins', '[].\n'),
                           ('password', '{password}\n')):
            with open(f'{directory}/{file}', 'w', encoding='ascii', opener=self._private) as out:
                out.write(text.format(**names))
        self.password_file = f'{directory}/password'
        environment = dict(
            os.environ, HOME=directory, ERL_EPMD_ADDRESS='127.0.0.1', ERL_EPMD_PORT=str(free_port()),
            RUNNING_UNDER_SYSTEMD='true', RABBITMQ_CONF_ENV_FILE='/dev/null',
            RABBITMQ_CONFIG_FILE=f'{directory}/rabbitmq.conf', RABBITMQ_ENABLED_PLUGINS_FILE=f'{directory}/plugins',
            RABBITMQ_MNESIA_BASE=f'{directory}/mnesia', RABBITMQ_LOG_BASE=directory,
            RABBITMQ_NODENAME='bench@localhost', RABBITMQ_DIST_PORT=str(free_port()),
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}')
        with open(self._log, 'w', encoding='utf-8') as log:
            self._process = subprocess.Popen(
                ['sh', '-c', 'epmd -address 127.0.0.1 & until epmd -names >/dev/null 2>&1; do sleep 0.02; done; '
                 f'exec {BIN}/rabbitmq-server'],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        wait_until('RabbitMQ', self._has_started, 120)

    @staticmethod
    def _private(path, flags):
        return os.open(path, flags, 0o600)

    def _has_started(self):
        with open(self._log, encoding='utf-8') as log:
            return 'Server startup complete' in log.read()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def settings(self):
        return SETTINGS.format(port=self.port, user=USER, file=self.password_file, exchange=EXCHANGE)

    def record(self, database, size):
        """The bare client takes the message from the broker."""

    def bare(self, count, window):
        """Empty the queue, and publish a message of it so many times: seconds, and of CPU."""
        output = subprocess.run([self.stage.program('bare_rabbitmq'), str(self.port), USER, PASSWORD, EXCHANGE, QUEUE,
                                 str(count), str(window)], check=True, capture_output=True, text=True).stdout
        return map(float, output.split())
