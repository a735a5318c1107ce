"""The printer: requests and answers as somebody reads them, with no byte of an event changed."""

import json
import subprocess
import tempfile
import unittest

from printer import break_members
from receiver_case import CLOUDEVENT, JSON, Receiver


class BreakMembers(unittest.TestCase):
    def test_only_its_own_members_are_broken(self):
        text = '{"a": 1.50, "b": {"c": [1, 2], "d": "},\\\\\\""},"e": "{, ", "f": []}'
        broken = break_members(text)
        self.assertEqual(broken.splitlines(), [
            '{', '  "a": 1.50,', '  "b": {"c": [1, 2], "d": "},\\\\\\""},', '  "e": "{, ",', '  "f": []', '}'])
        self.assertEqual(json.loads(broken), json.loads(text))

    def test_what_is_cut_short(self):
        self.assertEqual(break_members('{"a": {"b": "c'), '{\n  "a": {"b": "c')


class Shown(Receiver):
    stdout = subprocess.PIPE

    def printed(self):
        """All that it has printed; it ends with that"""
        self.stop()
        with self.process.stdout as output:
            return output.read().decode()


class Printer(unittest.TestCase):
    def receiver(self, mode):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        receiver = Shown(directory.name, '--mode', mode, '--print')
        self.addCleanup(receiver.kill)
        return receiver

    def test_http(self):
        receiver = self.receiver('http')
        receiver.post('/events/orders?a=1', b'{"order": 1}', {'ce-id': '7', **JSON})
        receiver.faults({'status': 503})
        receiver.post('/events/orders', b'\xff\x00', {'Authorization': 'x'})
        port = receiver.port
        self.assertEqual(receiver.printed(), f"""\
listening on 127.0.0.1:{port}

POST /events/orders?a=1 HTTP/1.1
ce-id: 7
Content-Type: application/json

{{"order": 1}}
=> 204 No Content

POST /events/orders HTTP/1.1
Authorization: x

(2 bytes)
=> 503 Service Unavailable
""")

    def test_dapr(self):
        receiver = self.receiver('dapr')
        receiver.request('GET', '/v1.0/healthz')
        event = json.dumps({'specversion': '1.0', 'id': '7', 'source': '/s', 'type': 'orders',
                            'datacontenttype': 'application/json', 'data': {'order': 1}})
        receiver.post('/v1.0/publish/pubsub/orders', event.encode(), CLOUDEVENT)
        printed = receiver.printed()
        self.assertNotIn('healthz', printed)
        self.assertIn('\n{\n  "specversion": "1.0",\n  "id": "7",', printed)
        self.assertTrue(printed.endswith('  "data": {"order": 1}\n}\n=> 204 No Content\n'), printed)

    def test_a_terminal_is_not_told_what_to_do(self):
        receiver = self.receiver('http')
        receiver.post('/', b'\x1b[2J' + b'x' * 5000)
        printed = receiver.printed()
        self.assertNotIn('\x1b', printed)
        self.assertIn('\\x1b[2J', printed)
        self.assertIn('x ... (5004 bytes)\n', printed)
