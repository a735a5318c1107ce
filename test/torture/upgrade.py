"""The phase "upgrade": the next version takes over under load, in this order or that one, and servers crash in between.

The next version is this tree with test/upgrade/next.patch, an installation of its own, whose files replace those
of the one that the server uses.  Then follow the restart and ALTER EXTENSION UPDATE, or the other way round with
an odd seed; in between, a crash.  The receiver fails now and then, so that events are in all states.

No statement may fail that does not when servers crash, and everything must be delivered.
"""

import argparse
import os
import re
import shutil
import subprocess

from faults import ANSWERS, CRASH, RESTART
from rig import SINGLE, disturbance, prepared
from server import RELAY, TortureError

NEXT = '1.1'
LOAD_SECONDS = 3

SERVES = 'SELECT ok FROM outbox_check() WHERE "check" = \'versions match\''

# What statements may fail of, since servers crash and stop, and transactions lock keys.
EXPECTED = {'OperationalError', 'InterfaceError', 'AdminShutdown', 'CrashShutdown', 'CannotConnectNow', 'DatabaseError',
            'LockNotAvailable', 'DeadlockDetected'}


def upgrade(options, directory):
    """To the next version, at work."""
    staged = os.path.join(directory, 'next')
    tree = os.path.join(os.path.dirname(options.temp_config), 'src')
    subprocess.run([os.path.join(tree, 'tools/stage'), staged, os.path.join(tree, 'test/upgrade/next.patch')],
                   stdin=subprocess.DEVNULL, check=True)
    installation, temp_config = _install(options.temp_config, directory)
    changed = argparse.Namespace(**{**vars(options), 'temp_config': temp_config})
    with prepared(changed, directory, 'upgrade', settings=SINGLE) as rig:
        load = rig.new_load(prefix='u', hold=False, administrators=0)
        load.start()
        load.stopping.wait(LOAD_SECONDS)
        with disturbance(rig, 'bad answers', ANSWERS):
            rig.receiver.faults([{'action': 'status', 'status': 500, 'every': 5}])
            _copy(os.path.join(staged, 'dest'), installation)
            for step in (_update, _restart) if options.seed % 2 else (_restart, _update):
                load.stopping.wait(LOAD_SECONDS)
                step(rig)
                load.stopping.wait(LOAD_SECONDS)
                with disturbance(rig, 'kill_relay', CRASH):
                    rig.kill(RELAY, at_work=step is not _update or rig.server.query(SERVES) == [(True,)])
            load.stopping.wait(LOAD_SECONDS)
            rig.receiver.faults([])
        rig.load_end = rig.injector.disturbances[-1].end
        load.stop()
        rig.drain()
        versions = rig.server.execute('SELECT version, extversion FROM outbox_library(), pg_extension'
                                      " WHERE extname = 'outbox'")
        report = rig.judge()
        if versions != [(NEXT, NEXT)]:
            raise TortureError(f'library and SQL have the versions {versions}')
        for name in sorted(set(load.errors) - EXPECTED):
            report.found('failed_by_upgrade', f'{load.errors[name]} statements: {name}')
        return report


def _install(temp_config, directory):
    """A copy of the installation that the settings name, and settings that name the copy."""
    with open(temp_config, encoding='utf-8') as file:
        settings = file.read()
    staged = re.search(r"^dynamic_library_path = '([^:']*/dest)/", settings, re.MULTILINE)
    if staged is None:
        raise TortureError(f'{temp_config} is not of tools/stage')
    installation = os.path.join(directory, 'installation')
    _copy(staged.group(1), installation)
    changed = os.path.join(directory, 'upgrade.conf')
    with open(changed, 'w', encoding='utf-8') as file:
        file.write(settings.replace(staged.group(1), installation))
    return installation, changed


def _copy(source, installation):
    """Replace files, as packages do: those that are open stay what they are."""
    def replace(path, target):
        shutil.copy(path, target + '.new')
        os.replace(target + '.new', target)
    shutil.copytree(source, installation, copy_function=replace, dirs_exist_ok=True)


def _restart(rig):
    with disturbance(rig, 'restart', RESTART):
        rig.server.stop('fast')
        rig.server.start()


def _update(rig):
    """The relay idles until it has the library for it."""
    with disturbance(rig, 'update', RESTART):
        rig.server.execute(f"ALTER EXTENSION outbox UPDATE TO '{NEXT}'")
