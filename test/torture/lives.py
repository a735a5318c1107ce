"""What operators and their observer have written (operators.py), as Lives to be judged (routes.py)."""

from faults import ENDING, PAUSE, Disturbance
from routes import Asked, Life, Snapshot, Version

NEW_RELAY = 2.0             # seconds until a destination that was added has a relay at work
NEVER = float('inf')


def read_lives(server):
    """All that were committed, in their order, default first."""
    settled = {}
    for what, event_id in server.execute('SELECT what, event_id::text FROM torture_settled'):
        settled.setdefault(what, set()).add(event_id)
    lives = {}
    _read_begin_and_end(server, lives, settled)
    _read_versions(server, lives)
    _read_changes(server, lives)
    _read_replays(server, lives, settled)
    return list(lives.values())


def _rows(server, table, *columns):
    """Of a table, in the order of the first two columns: times as numbers, what Python does not know as text."""
    def expression(column):
        if column.endswith('_at'):
            return f'extract(epoch FROM {column})::float'
        return f'{column}::text' if column in ('xid', 'begun', 'before', 'after') else column
    return server.execute(f"SELECT {', '.join(map(expression, columns))} FROM torture_{table} ORDER BY 1, 2")


def _read_begin_and_end(server, lives, settled):
    for number, name, destination, xid, added_at, begun, drop_asked_at, dropped_at, gone_at in _rows(
            server, 'life', 'life', 'name', 'destination', 'xid', 'added_at', 'begun', 'drop_asked_at', 'dropped_at',
            'gone_at'):
        life = lives[number] = Life(number, name, destination, xid and int(xid), added_at)
        if begun is not None:
            life.begun, life.kept = Snapshot(begun), settled.get(f'start {number}', set())
        if number > 0:
            life.disturbances.append(Disturbance('add', PAUSE, added_at, added_at + NEW_RELAY))
        if dropped_at is not None:
            life.drop_asked_at, life.dropped_at = drop_asked_at, dropped_at
            life.settled = settled.get(f'drop {number}', set())
            life.disturbances.append(Disturbance('drop', PAUSE, drop_asked_at))
        if gone_at is not None:
            life.silences.append(('sent_after_drop', gone_at, NEVER))


def _read_versions(server, lives):
    for number, version, topics, before, after, asked_at in _rows(
            server, 'version', 'life', 'version', 'topics', 'before', 'after', 'asked_at'):
        lives[number].versions.append(Version(version, topics, Snapshot(before), after and Snapshot(after), asked_at))


def _read_changes(server, lives):
    """Pauses, and settings that made a relay end in order."""
    for number, asked_at, paused_at, resumed_at in _rows(
            server, 'pause', 'life', 'asked_at', 'paused_at', 'resumed_at'):
        until = resumed_at or NEVER
        lives[number].disturbances.append(Disturbance('pause', PAUSE, asked_at, until))
        if paused_at is not None:
            lives[number].silences.append(('sent_while_paused', paused_at, until))
    for number, asked_at, held_at in _rows(server, 'settings', 'life', 'asked_at', 'held_at'):
        lives[number].disturbances.append(Disturbance('settings', ENDING, asked_at, held_at or NEVER))


def _read_replays(server, lives, settled):
    for replay, number, asked_at, done_at, version, pattern, count in _rows(
            server, 'replay', 'replay', 'life', 'asked_at', 'done_at', 'version', 'pattern', 'count'):
        lives[number].replays.append(Asked(asked_at, done_at, version, pattern, settled.get(f'replay {replay}', set()),
                                           count))
