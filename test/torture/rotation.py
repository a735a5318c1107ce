"""The phase "rotation": secrets are rotated while events flow, the server crashes and stops, and the receiver is away.

Each request needs a signature, an access token and a client certificate that the receiver takes (owner.py).  Nothing may
be lost, and an event that was refused may not be refused for the same reason again: at the next try the relay
has looked at its files, or has another token.
"""

import dataclasses
import json
import os

import checker
from faults import CRASH, OUTAGE, RESTART, draw_schedule
from owner import Owner
from rig import Rig, prepared
from server import Receiver

SECONDS = 30
REFUSED = 401

LANES = {
    'server': ({'kill_relay': (CRASH, 2), 'term_relay': (RESTART, 2), 'kill_postmaster': (CRASH, 1),
                'restart_fast': (RESTART, 1)}, 5.0),
    'receiver': ({'down': (OUTAGE, 2), 'kill_receiver': (OUTAGE, 1)}, 5.0)}


class RotationRig(Rig):
    """With a receiver that wants to know who sends."""

    def __init__(self, options, directory, name, **more):
        super().__init__(options, directory, name, **more)
        secrets = os.path.join(directory, 'secrets')
        os.mkdir(secrets)
        self.owner = Owner(secrets, options.seed)
        self.receiver = Receiver(self.receiver.directory, 'http', '--credentials', self.owner.path('credentials'),
                                 '--tls-cert', self.owner.path('server.crt'), '--tls-key', self.owner.path('server.key'),
                                 '--tls-client-ca', self.owner.path('ca.crt'), scheme='https')
        self.settings.update(self.owner.settings())

    def publisher(self):
        return 'http'

    def check(self):
        evidence = dataclasses.replace(self.evidence(), refusals=self._refusals(), revoked_at=self.owner.revoked_at)
        report = checker.check(evidence)
        report.numbers.update({'refused': len(evidence.refusals),
                               **{f'done_{kind}': done for kind, done in self.owner.done.items()}})
        if not evidence.refusals or not all(self.owner.done.values()):
            report.found('nothing_was_rotated', 'or nothing was refused')
        return report

    def _refusals(self):
        """(time, id of the event)"""
        refusals = []
        for path in self.receiver.logs:
            with open(path, 'rb') as file:
                entries = [json.loads(line) for line in file if line.endswith(b'\n')]
            refusals += [(entry['time'], entry['headers'].get('webhook-id')) for entry in entries
                         if entry['status'] == REFUSED]
        return refusals


def rotation(options, directory):
    """Nothing is lost, and nothing refused twice."""
    with prepared(options, directory, 'rotation', make=RotationRig) as rig:
        rig.new_load(prefix='q', writers=4, administrators=0)
        rig.owner.start()
        rig.run(draw_schedule(options.seed, SECONDS, LANES), SECONDS)
        rig.owner.end()
        rig.drain()
        return rig.judge()
