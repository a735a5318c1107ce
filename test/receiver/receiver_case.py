"""What all tests of the receiver need: a receiver of their own, and ways to talk to it.

Tests talk to it over sockets only, as the relay does: what is tested is what is on the wire, in the
log and in the control API, not how it comes about.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import unittest

RECEIVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'receiver.py')
TIMEOUT = 10
JSON = {'Content-Type': 'application/json'}
CLOUDEVENT = {'Content-Type': 'application/cloudevents+json'}
KAFKA = {'type': 'pubsub.kafka', 'capabilities': ['BULK_PUBSUB']}


def wait_for(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError('timed out')
        time.sleep(0.005)


class Receiver:
    """A receiver.py of our own."""

    stdout = None           # that of the tests

    def __init__(self, directory, *options):
        self.directory = directory
        self.options = options
        self.start()

    def start(self, port=0):
        for name in ('port', 'ctl'):
            if os.path.exists(self.path(name)):
                os.unlink(self.path(name))
        self.process = subprocess.Popen(
            [sys.executable, RECEIVER, '--port', str(port), '--port-file', self.path('port'),
             '--ctl-port-file', self.path('ctl'), '--exit-with-parent', *self.options], stdout=self.stdout)
        wait_for(lambda: all(os.path.exists(self.path(name)) for name in ('port', 'ctl')))
        self.port = self.read_port('port')
        self.ctl_port = self.read_port('ctl')

    def path(self, name):
        return os.path.join(self.directory, name)

    def read_port(self, name):
        with open(self.path(name), encoding='ascii') as file:
            return int(file.read())

    def stop(self):
        self.process.terminate()
        return self.process.wait(TIMEOUT)

    def kill(self):
        self.process.kill()
        self.process.wait(TIMEOUT)

    # --- the control API

    def control(self, method, what, content=None):
        conn = http.client.HTTPConnection('127.0.0.1', self.ctl_port, timeout=TIMEOUT)
        conn.request(method, '/__ctl/' + what, None if content is None else json.dumps(content))
        answer = conn.getresponse()
        body = answer.read()
        conn.close()
        if answer.status != 200:
            raise ValueError(body.decode())
        return json.loads(body)

    def log(self, query=''):
        return self.control('GET', 'log' + query)

    def accepted(self):
        return self.log('?accepted=1')

    def faults(self, *rules):
        return self.control('POST', 'faults', rules)

    def state(self, **state):
        return self.control('POST', 'state', state)

    def stats(self):
        return self.control('GET', 'stats')

    # --- the receiver as such

    def connect(self):
        return http.client.HTTPConnection('127.0.0.1', self.port, timeout=TIMEOUT)

    def request(self, method, target, body=None, headers=None, conn=None):
        """(status, body, headers in lower case)"""
        use = conn or self.connect()
        use.request(method, target, body, headers or {})
        answer = use.getresponse()
        content = answer.read().decode('utf-8', 'replace')
        if conn is None:
            use.close()
        return answer.status, content, {name.lower(): value for name, value in answer.getheaders()}

    def post(self, target, body=b'', headers=None, conn=None):
        return self.request('POST', target, body, headers, conn)

    def raw(self, data):
        """A socket that has sent data."""
        sock = socket.create_connection(('127.0.0.1', self.port), TIMEOUT)
        sock.sendall(data)
        return sock

    def raw_answer(self, data):
        """All that comes back until the receiver ends the connection."""
        with self.raw(data) as sock:
            return read_all(sock)


def read_all(sock):
    received = b''
    while piece := sock.recv(65536):
        received += piece
    return received


def read_some(sock, length):
    received = b''
    while len(received) < length:
        piece = sock.recv(65536)
        if not piece:
            break
        received += piece
    return received


def raw_post(target='/x', body=b'{}', extra=b''):
    return (b'POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s'
            % (target.encode(), extra, len(body), body))


class ReceiverCase(unittest.TestCase):
    """One receiver a class; emptied before each test."""

    options = ()

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.receiver = Receiver(cls.directory.name, *cls.options)

    @classmethod
    def tearDownClass(cls):
        cls.receiver.stop()
        cls.directory.cleanup()

    def setUp(self):
        self.receiver.control('POST', 'reset', {})
        self.receiver.state(listening=True)

    def last(self):
        return self.receiver.log()[-1]

    def publish(self, body=b'1', query='', headers=None, pubsub='pubsub', topic='t'):
        return self.receiver.post(f'/v1.0/publish/{pubsub}/{topic}{query}', body, headers or JSON)

    def envelope(self, *args, **options):
        status, content, _ = self.publish(*args, **options)
        self.assertEqual((status, content), (204, ''))
        return json.loads(self.last()['envelope'])

    def assert_error(self, answer, status, code, message=None, reason=None, resource=True, metadata=None):
        self.assertEqual(answer[0], status, answer)
        self.assertEqual(answer[2]['content-type'], 'application/json')
        error = json.loads(answer[1])
        self.assertEqual(error['errorCode'], code)
        if message is not None:
            self.assertEqual(error['message'], message)
        if reason is not None:
            self.assertEqual(error['details'][-1]['reason'], 'DAPR_PUBSUB_' + reason)
            self.assertEqual(len(error['details']), 2 if resource else 1)
        if metadata is not None:
            self.assertEqual(error['details'][-1]['metadata'], metadata)
        self.assertFalse(self.receiver.accepted())
