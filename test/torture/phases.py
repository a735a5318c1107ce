"""Runs that need a server of their own, or that nobody should do in between: see PHASES.

Each is a function of the options and a directory that returns a Report, or throws Skipped.  The
disturbance that a phase is about (the promotion, the dump) explains duplicates around it, and
nothing else does.
"""

import contextlib
import os
import time

from damage import damage
from destinations import destinations
from faults import CRASH
from hands import hands
from orderly import orderly
from outage import outage
from pauses import pauses
from restores import restores
from rig import disturbance, prepared
from rotation import rotation
from server import RELAY, TortureError, poll
from slow import slow
from tails import tails
from topics import topics
from upgrade import upgrade

LOAD_SECONDS = 5
FULL_SECONDS = 8
FULL_FREE = 8 << 20             # bytes that are left free at first, and then ever less
ADMINISTRATORS = 10
OPEN_STALL = 1.5                # seconds in which nothing arrives, on a busy machine
STANDBY_TIMEOUT = 60
RELAY_TIMEOUT = 10


class Skipped(Exception):
    """It can't be tried here; the reason."""


def promotion(options, directory):
    """The primary dies under load and its standby takes over.

    Replication is synchronous and so is every commit: otherwise what the primary has sent may be
    unknown to the standby, which no outbox can help."""
    settings = {'wal_level': 'replica', 'max_wal_senders': 4, 'hot_standby': 'on'}
    with prepared(options, directory, 'promotion', settings=settings) as rig:
        primary = rig.server
        standby = rig.new_server('standby')
        primary.base_backup(standby)
        standby.adopt(rig.settings)
        standby.start()
        poll(lambda: primary.query('SELECT 1 FROM pg_stat_replication'), STANDBY_TIMEOUT, 'the standby')
        rig.settings.update({'synchronous_standby_names': '*', 'synchronous_commit': 'on'})
        load = rig.new_load(prefix='p', allow_async=False)
        load.start()
        load.stopping.wait(LOAD_SECONDS)
        if standby.backends(RELAY):
            raise TortureError('a relay runs on the standby')
        with disturbance(rig, 'promotion', CRASH):
            primary.kill9()
            standby.promote()
            load.server = rig.server = rig.injector.server = standby
            rig.settings['synchronous_standby_names'] = ''
            standby.settings(rig.settings)
            standby.reload()
            standby.await_relay()
        load.stopping.wait(LOAD_SECONDS)
        rig.load_end = time.time()
        load.stop()
        rig.drain()
        return rig.judge()


def dump(options, directory):
    """A dump is taken while events are on their way in all states, and restored into a new cluster.

    The old server stops for good.  What the dump carries is delivered by the new one."""
    with prepared(options, directory, 'dump') as rig:
        old = rig.server
        load = rig.new_load(prefix='d')
        load.start()
        load.stopping.wait(LOAD_SECONDS)
        rig.receiver.faults([{'action': 'status', 'status': 503, 'every': 2}])
        load.stopping.wait(LOAD_SECONDS / 2)
        rig.load_end = time.time()
        rig.receiver.listen(False)
        load.stop()
        path = os.path.join(directory, 'dump.sql')
        with disturbance(rig, 'dump and restore', CRASH):
            old.dump(path)
            old.stop('fast')
            new = rig.new_server('restored')
            new.init(rig.settings)
            new.start()
            rig.server = new
            rig.receiver.listen(True)
            rig.receiver.faults([])
            new.restore(path)
            new.await_relay()
        rig.drain()
        return rig.judge()


def recreate(options, directory):
    """DROP EXTENSION while the relay is at work, and CREATE EXTENSION again.

    What is not delivered is gone with the tables, and must not arrive any more; what is published
    afterwards must."""
    with prepared(options, directory, 'recreate') as rig:
        for prefix in ('x', 'y', 'z'):
            load = rig.new_load(prefix=prefix)
            load.start()
            load.stopping.wait(LOAD_SECONDS / 2)
            load.stop()
            rig.drain()
            if prefix != 'z':
                _drop_at_work(rig)
                rig.server.execute('CREATE EXTENSION outbox')
                rig.server.await_relay()
        rig.load_end = time.time()
        return rig.judge()


def _drop_at_work(rig):
    """DROP EXTENSION while requests hang."""
    rig.receiver.faults([{'action': 'hang'}])
    rig.server.execute("SELECT outbox_publish('gone', '{}') FROM generate_series(1, 50)")
    poll(lambda: rig.server.query('SELECT 1 FROM outbox_relays WHERE in_flight > 0'), RELAY_TIMEOUT,
         'requests in flight')
    rig.server.execute('DROP EXTENSION outbox')
    poll(lambda: not rig.server.backends(RELAY), RELAY_TIMEOUT, 'the relay to leave')
    rig.receiver.faults([])


def administrators(options, directory):
    """Many transactions are open that discard, delete, retry or lock events, and there is no fault to blame."""
    with prepared(options, directory, 'administrators', settings={'outbox.batch_size': 100}) as rig:
        load = rig.new_load(prefix='a', writers=4, administrators=ADMINISTRATORS)
        load.start()
        load.stopping.wait(2 * LOAD_SECONDS)
        rig.load_end = time.time()
        load.stop()
        rig.drain()
        report = rig.judge()
        if report.numbers['longest_stall_s'] > OPEN_STALL:
            report.found('stalled_by_open_transaction', f"{report.numbers['longest_stall_s']} s")
        return report


class Ballast:
    """A file that fills a file system up to the last byte, and lets go of it."""

    def __init__(self, directory):
        self.path = os.path.join(directory, 'ballast')

    def fill(self, leave=0):
        """All but so many bytes."""
        room = os.statvfs(os.path.dirname(self.path))
        size = room.f_bavail * room.f_frsize - leave
        with contextlib.suppress(OSError), open(self.path, 'ab') as file:
            while size > 0:
                size -= file.write(b'\0' * min(size, 1 << 20))
                file.flush()

    def release(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def full(options, directory):
    """The disk is full again and again, for publishers, for the relay, for WAL."""
    disk = options.small_disk
    if disk is None:
        raise Skipped('there is no --small-disk: run make torture as root, which mounts one')
    settings = {'max_wal_size': '32MB', 'min_wal_size': '32MB', 'checkpoint_timeout': '30s'}
    with prepared(options, directory, 'full', settings=settings, data_directory=disk) as rig:
        ballast = Ballast(disk)
        load = rig.new_load(prefix='f')
        load.start()
        try:
            for turn in range(3):
                load.stopping.wait(1)
                with disturbance(rig, 'disk full', CRASH):
                    ballast.fill(leave=FULL_FREE >> (3 * turn))
                    load.stopping.wait(FULL_SECONDS / 2)
                    ballast.release()
                    _revive(rig)
        finally:
            ballast.release()
        rig.load_end = time.time()
        load.stop()
        rig.drain()
        report = rig.judge()
        report.numbers['disk_full_errors'] = load.errors.get('DiskFull', 0)
        if not report.numbers['disk_full_errors']:
            report.found('disk_was_never_full', 'no publisher got the error')
        return report


def _revive(rig):
    """A server that could not write WAL has stopped, or still tries to recover."""
    if rig.server.query('SELECT 1') is None:
        rig.server.kill9()
        rig.server.start()
    rig.server.await_relay()


PHASES = {'topics': topics, 'tails': tails, 'outage': outage, 'orderly': orderly, 'administrators': administrators,
          'hands': hands, 'damage': damage, 'restores': restores, 'upgrade': upgrade, 'pauses': pauses, 'slow': slow,
          'destinations': destinations, 'rotation': rotation,
          'promotion': promotion, 'dump': dump, 'recreate': recreate, 'full': full}
