"""The log: what the receiver has been sent and what it took, for the tests to compare.

Each request has an entry, in the order of its outcome; a bulk request one for each event.  With a
file, an entry is written, unbuffered, before append() returns, and so before its answer leaves: not
even a SIGKILL makes the receiver forget what it has acknowledged.  A receiver that is started again
with the same file knows its old entries.
"""

import base64
import json


class Log:
    def __init__(self, path=None):
        self.entries = []
        self.ids = set()        # of the events that were accepted
        self.accepted = 0
        self.last_seq = 0
        self.file = None
        if path is not None:
            self.file = open(path, 'ab+', buffering=0)
            self._load()

    def _load(self):
        """Take over what a former receiver has written; a last line that was cut short is removed."""
        self.file.seek(0)
        content = self.file.read()
        whole = content.rfind(b'\n') + 1
        self.file.truncate(whole)
        for line in content[:whole].splitlines():
            self._count(json.loads(line))

    def append(self, request, event, accepted, status, fault):
        """event: None for a request without one; status: that of the answer, None if there is none;
        fault: the action of the rule that the request has met, or None."""
        entry = self._entry(request, event, accepted, status, fault)
        self._count(entry)
        if self.file is not None:
            self.file.write(json.dumps(entry).encode() + b'\n')

    def _count(self, entry):
        self.entries.append(entry)
        self.last_seq = entry['seq']
        if entry['accepted']:
            self.accepted += 1
            if entry['id'] is not None:
                self.ids.add(entry['id'])

    def _entry(self, request, event, accepted, status, fault):
        content = request.body if event is None else event.body
        body, is_base64 = _printable(content)
        route = request.route
        entry = {
            'seq': self.last_seq + 1, 'time': request.received, 'accepted': accepted, 'status': status,
            'fault': fault, 'method': request.method, 'path': request.path, 'query': request.query,
            'version': request.version, 'conn': request.conn, 'nth': request.nth,
            'pubsub': route.pubsub if route else None, 'topic': route.topic if route else None,
            'headers': request.headers, 'raw_headers': request.raw_headers,
            'body': body, 'body_is_base64': is_base64,
            'id': None, 'type': None, 'source': None, 'key': None, 'envelope': None,
            'metadata': route.metadata if route else None, 'entry_id': None, 'entry_index': None, 'error': None,
        }
        if event is not None:
            for name in ('id', 'type', 'source', 'key', 'envelope', 'metadata', 'entry_id', 'entry_index', 'error'):
                entry[name] = getattr(event, name)
        return entry

    def select(self, since, accepted, fields):
        """The entries after seq "since", of one kind and reduced to some fields if so wished."""
        if not self.entries:
            return []
        first = self.entries[0]['seq']
        found = self.entries[max(0, since + 1 - first):]
        if accepted is not None:
            found = [entry for entry in found if entry['accepted'] == accepted]
        if fields:
            found = [{name: entry.get(name) for name in fields} for entry in found]
        return found

    def clear(self):
        """Forget all entries; seq goes on, so that whoever follows the log is not misled."""
        self.entries.clear()
        self.ids.clear()
        self.accepted = 0
        if self.file is not None:
            self.file.truncate(0)


def _printable(content):
    """(text, whether it is base64)"""
    try:
        return content.decode(), False
    except UnicodeDecodeError:
        return base64.b64encode(content).decode(), True
