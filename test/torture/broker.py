"""The run with a broker as the destination: load, and faults of the server and of the broker.

What arrived is what a consumer has read (consume.py).  The broker and the consumer belong to broker.pl, which knows
the real servers of the tests.  The receiver's faults have no meaning here; poison is delivered like all else.

The broker dies, ends in order, and hangs.  What it has confirmed must be there: each keeps it on disk, but for
Mosquitto, which forgets in a crash what it has not saved, and so only ends in order."""

import json
import os
import subprocess
import time

from faults import LANES, OUTAGE, Injector, draw_schedule
from rig import Rig
from server import TortureError

NAMES = ('rabbitmq', 'kafka', 'nats', 'redis', 'mqtt')
BROKER_FAULTS = {'broker_dies': (OUTAGE, 3), 'broker_ends': (OUTAGE, 2), 'broker_hangs': (OUTAGE, 2)}
FORGETFUL = ('mqtt',)

# A broker needs some seconds until it is there again.
BROKER_PAUSE = 15.0

# Of these a consumer does not hear when a message was stored.
UNTIMED = ('rabbitmq', 'mqtt')
LATE = 5.0

# Of a key one event goes at a time, and a broker is slower than a receiver.
DRAIN_TIMEOUT = 300

# With one place for all topics, and a consumer that may be late.
QUIET_FOR = 3.0
CAUGHT_UP = 60


class Broker:
    """What a Rig has in place of a receiver."""

    mode = 'broker'

    def __init__(self, directory, name):
        self.logs = [os.path.join(directory, 'consumed.log')]
        self.name = name
        self.process = None
        self.settings = None

    def start(self):
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'broker.pl')
        # where the tests' own modules have their servers
        directory = os.path.dirname(self.logs[0])
        environment = {**os.environ, **dict.fromkeys(('TESTDIR', 'TESTDATADIR', 'TESTLOGDIR'), directory)}
        with open(self.logs[0] + '.out', 'ab') as output:
            self.process = subprocess.Popen(['/usr/bin/perl', program, self.name, self.logs[0]], env=environment,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise TortureError(f'{self.name} did not start: see {self.logs[0]}.out')
        self.settings = {f'outbox_{self.name}.content_mode': 'structured', **json.loads(line)}

    def tell(self, *commands):
        for command in commands:
            self.process.stdin.write(command + '\n')
            self.process.stdin.flush()
            if self.process.stdout.readline() != 'done\n':
                raise TortureError(f'{self.name} did not {command}: see {self.logs[0]}.out')

    def kill(self):
        """Once the consumer has nothing more to read."""
        if self.process is None:
            return
        before = None
        end = time.monotonic() + CAUGHT_UP
        while time.monotonic() < end:
            size = os.path.exists(self.logs[0]) and os.path.getsize(self.logs[0])
            if size == before:
                break
            before = size
            time.sleep(QUIET_FOR)
        self.process.stdin.close()
        self.process.wait()
        self.process = None

    def listen(self, yes):
        """It always does: it is the broker that is told to end."""

    def faults(self, rules):
        """It has no rules."""


class BrokerInjector(Injector):
    def broker_dies(self, fault, rng):
        if self.receiver.name in FORGETFUL:
            return self.broker_ends(fault, rng)
        self.receiver.tell('kill')
        self.stopping.wait(fault.length)
        self.receiver.tell('start')

    def broker_ends(self, fault, rng):
        self.receiver.tell('stop')
        self.stopping.wait(fault.length)
        self.receiver.tell('start')

    def broker_hangs(self, fault, rng):
        self.receiver.tell('hang')
        self.stopping.wait(4 * fault.length)
        self.receiver.tell('go_on')


class BrokerRig(Rig):
    def __init__(self, options, directory):
        super().__init__(options, directory, name=options.destination)
        self.receiver = Broker(directory, options.destination)
        self.late = LATE if options.destination in UNTIMED else 0.0

    def set_up(self):
        self.receiver.start()
        library = f'outbox_{self.options.destination}'
        self.settings.update({**self.receiver.settings, 'outbox.publisher': library,
                              'shared_preload_libraries': f'outbox, {library}'})
        self.start_server()

    def drain(self, timeout=DRAIN_TIMEOUT):
        super().drain(timeout)

    def make_injector(self):
        return BrokerInjector(self.server, self.receiver, self.load, self.settings, self.directory)


def schedule(options):
    """The faults that the seed draws, without those of a receiver."""
    server_faults, pause = LANES['server']
    lanes = {'server': ({name: fault for name, fault in server_faults.items() if name != 'kill_relay_at_answer'}, pause),
             'broker': (BROKER_FAULTS, BROKER_PAUSE), 'mild': LANES['mild']}
    return draw_schedule(options.seed, options.duration, lanes)
