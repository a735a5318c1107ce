"""Pending events are sent until all are settled; and the bare loop that does the same."""

import collections
import os
import shutil
import subprocess

from lib.capture import capture_request
from lib.process import cpu_seconds

# seconds, and what they cost: seconds of CPU of the sending process, bytes of WAL
Cost = collections.namedtuple('Cost', 'count seconds cpu wal')

# The relay asks Dapr's sidecar how it is; that also counts as requests.
OTHER_REQUESTS = 20


class Drain:
    """The same events, sent by the relay and by the bare loop."""

    def __init__(self, stage, database, receiver, size, *, in_flight=64, capture=1, unix=False, **settings):
        self.stage = stage
        self.database = database
        self.receiver = receiver
        self.size = size
        self.in_flight = in_flight
        self.unix = unix
        self._request = os.path.join(stage.directory, 'request')
        database.enable(False)
        database.configure(max_in_flight=in_flight, **settings)
        self.events_per_request = capture_request(database, self._request, capture, size)
        database.configure(
            dapr_endpoint=f'unix:{receiver.socket}' if unix else receiver.url,
            http_url=receiver.url + '/v1.0/publish/pubsub/{topic}')

    def single_request(self):
        """Keep the captured request from the next Drain."""
        self._request = shutil.copy(self._request, self._request + '-single')
        return self

    def load(self, count, keys=0):
        """Have so many events pending, of so many keys, and nothing of it still to be written to disk."""
        self.database.publish(count, self.size, keys=keys)
        self.database.sql.run('CHECKPOINT')

    def relay(self, count, keys=0):
        """Load, and let the relay send.  Counts only what the receiver has and the tables know."""
        self.load(count, keys)
        cost = self.send(count)
        self.database.empty()
        return cost

    def send(self, count):
        """What is pending; the relays are disabled before and after."""
        database, sql = self.database, self.database.sql
        database.await_relay()                  # another database may have had all of them started anew
        published = database.published()
        requests = self.receiver.requests()
        cpu = cpu_seconds(database.relay_pid)
        lsn = sql.value('SELECT pg_current_wal_insert_lsn()')
        start = sql.value('SELECT clock_timestamp()')
        database.enable(True)
        database.await_settled(published + count)
        seconds = sql.number(f"SELECT extract(epoch FROM max(at) - '{start}') FROM outbox_progress")
        wal = sql.number(f"SELECT pg_current_wal_insert_lsn() - '{lsn}'")
        cpu = cpu_seconds(database.relay_pid) - cpu
        database.enable(False)
        self.check(count, self.receiver.requests() - requests)
        return Cost(count, seconds, cpu, wal)

    def check(self, count, requests):
        """Has the receiver answered as many requests as that many events need, and are all published?"""
        wanted = -(-count // self.events_per_request)
        slack = OTHER_REQUESTS + (wanted // 2 if self.events_per_request > 1 else 0)
        if not wanted <= requests <= wanted + slack:
            raise AssertionError(f'{count} events were settled, but {requests} requests answered')
        exceptions = self.database.sql.number("SELECT count(*) FROM outbox_delivery WHERE state <> 'published'")
        if exceptions:
            raise AssertionError(f'{exceptions} events were not published')

    def bare(self, count, in_flight=None):
        """The same number of events in requests like the captured one; it ends at a status other than 2xx."""
        requests = max(count // self.events_per_request, 1)
        before = self.receiver.requests()
        command = [self.stage.program('bare'), self._request, self.receiver.url, str(requests),
                   str(in_flight or self.in_flight)]
        if self.unix:
            command.append(self.receiver.socket)
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        if self.receiver.requests() - before != requests:
            raise AssertionError('the receiver has not answered what the bare loop sent')
        seconds, cpu = map(float, output.split())
        return Cost(requests * self.events_per_request, seconds, cpu, 0)
