#!/usr/bin/python3
"""Proves that receiver.py keeps its promises, by talking to it over sockets.

Usage: /usr/bin/python3 test/receiver/receiver_test.py
"""

import base64
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import unittest

RECEIVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'receiver.py')
TIMEOUT = 10
JSON = {'Content-Type': 'application/json'}
CLOUDEVENT = {'Content-Type': 'application/cloudevents+json'}
TRACEPARENT = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
KAFKA = {'type': 'pubsub.kafka', 'capabilities': ['BULK_PUBSUB']}


def wait_for(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError('timed out')
        time.sleep(0.005)


class Receiver:
    """A receiver.py of our own."""

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
             '--ctl-port-file', self.path('ctl'), '--exit-with-parent', *self.options])
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


class DaprRouting(ReceiverCase):
    options = ('--mode', 'dapr', '--token', 'secret')

    def post(self, target, token='secret'):
        headers = {**JSON, 'dapr-api-token': token} if token else JSON
        return self.receiver.post(target, b'1', headers)

    def test_paths(self):
        for target, topic in (('t', 't'), ('a/b/c', 'a/b/c'), ('a%2Fb', 'a/b'), ('a//b', 'a/b'), ('t/', 't'),
                              ('a+b', 'a b'), ('a%2Bb', 'a+b'), ('a%20b', 'a b'), ('%C3%BC', 'ü'),
                              ('x/../y', 'y'), ('./z', 'z'), ('%2E%2E', '..'), ('%25', '%'), ('%2F', '/')):
            with self.subTest(target):
                self.assertEqual(self.post('/v1.0/publish/pubsub/' + target)[0], 204)
                self.assertEqual(self.last()['topic'], topic)
                self.assertEqual(json.loads(self.last()['envelope'])['topic'], topic)
                self.assertEqual(self.last()['path'], '/v1.0/publish/pubsub/' + target)

    def test_put_is_post(self):
        answer = self.receiver.request('PUT', '/v1.0/publish/pubsub/t', b'1', {'dapr-api-token': 'secret'})
        self.assertEqual(answer[0], 204)

    def test_no_route(self):
        for target in ('/v1.0/publish/pubsub', '/v1.0/publish/pubsub/', '/v1.0/publish//t', '/x', '/',
                       '/v1.0/publish/pubsub/..', '/v1.0/publish/pubsub/t/../../..'):
            with self.subTest(target):
                self.assert_error(self.post(target), 404, 'ERR_DIRECT_INVOKE', 'failed getting app id either'
                                  ' from the URL path or the header dapr-app-id')
        answer = self.receiver.request('GET', '/v1.0/publish/pubsub/t', headers={'dapr-api-token': 'secret'})
        self.assert_error(answer, 404, 'ERR_DIRECT_INVOKE')

    def test_bad_escape(self):
        self.assertEqual(self.post('/v1.0/publish/pubsub/%zz')[0], 400)

    def test_token_comes_before_the_route(self):
        for target in ('/v1.0/publish/pubsub/t', '/nowhere', '/v1.0/publish/nope/t'):
            for token in ('wrong', None):
                status, body, headers = self.post(target, token)
                self.assertEqual((status, body), (401, 'invalid api token\n'))
                self.assertEqual(headers['content-type'], 'text/plain; charset=utf-8')
                self.assertEqual(headers['x-content-type-options'], 'nosniff')
        self.assertEqual(self.receiver.request('GET', '/v1.0/metadata')[0], 401)
        self.assertEqual(self.receiver.request('GET', '/v1.0/healthz')[0], 204)
        self.assertEqual(self.receiver.request('GET', '/v1.0/healthz/outbound')[0], 204)

    def test_header_too_large(self):
        answer = self.receiver.raw_answer(raw_post(extra=b'X: ' + b'a' * 9000 + b'\r\n'))
        self.assertTrue(answer.startswith(b'HTTP/1.1 431 '), answer)

    def test_unknown_component(self):
        status, body, _ = self.post('/v1.0/publish/nope/t?metadata.k=v&other=1')
        self.assertEqual((status, body), (404,
            '{"errorCode":"ERR_PUBSUB_NOT_FOUND","message":"pubsub nope is not found","details":[{"@type":'
            '"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":{"k":"v"},'
            '"reason":"DAPR_PUBSUB_NOT_FOUND"}]}'))


class DaprSingle(ReceiverCase):
    options = ('--mode', 'dapr', '--max-body', '1000', '--components', json.dumps({
        'pubsub': {'type': 'pubsub.redis'}, 'kafka': KAFKA, 'ttl': {'type': 'x', 'capabilities': ['MESSAGE_TTL']},
        'scoped': {'type': 'x', 'allowed_topics': ['mine']}, 'gone': {'type': 'x', 'down': True}}))

    def test_generated_envelope(self):
        envelope = self.envelope(b'{"a":1}')
        self.assertTrue(envelope.pop('id') and envelope.pop('time'))
        self.assertEqual(envelope, {
            'data': {'a': 1}, 'datacontenttype': 'application/json', 'pubsubname': 'pubsub', 'source': 'relay',
            'specversion': '1.0', 'topic': 't', 'traceid': '', 'traceparent': '', 'tracestate': '',
            'type': 'com.dapr.event.sent'})

    def test_numbers_keep_their_spelling(self):
        for number in ('9007199254740993', '1.50', '1e400', '-0', '12345678901234567890.123', '1E5', '9' * 500):
            self.publish(b'{"z":0,"n":[%s]}' % number.encode())
            self.assertIn('"data":{"n":[%s],"z":0}' % number, self.last()['envelope'])

    def test_marshalled_as_go_does(self):
        self.publish('{"b": "<&>\u2028é", "a": "\\ud800", "a": "x\\ud83d\\ude00\\n"}'.encode())
        self.assertIn(r'"data":{"a":"x😀\n","b":"\u003c\u0026\u003e\u2028é"}', self.last()['envelope'])

    def test_data_by_content_type(self):
        for kind, body, name, data in (
                ('application/json', b'{bad', 'data', '{bad'),
                ('application/json', b'', 'data', ''),
                ('application/json', b'[1] trailing', 'data', [1]),
                ('Application/JSON; charset=utf-8', b'{"a":1}', 'data', {'a': 1}),
                ('text/plain', b'a\xffb', 'data', 'a\ufffdb'),
                ('application/foo+json', b'{"a":1}', 'data', '{"a":1}'),
                ('application/octet-stream', b'\0\xff', 'data_base64', base64.b64encode(b'\0\xff').decode())):
            with self.subTest(kind=kind, body=body):
                envelope = self.envelope(body, headers={'Content-Type': kind})
                self.assertEqual(envelope[name], data)
                self.assertEqual(envelope['datacontenttype'], kind)
        answer = self.receiver.raw_answer(raw_post('/v1.0/publish/pubsub/t', b'x', b'Connection: close\r\n'))
        self.assertTrue(answer.startswith(b'HTTP/1.1 204 '))
        self.assertEqual(json.loads(self.last()['envelope'])['datacontenttype'], 'text/plain')

    def test_deep_nesting(self):
        self.publish(b'[' * 450 + b']' * 450)
        self.assertEqual(len(self.receiver.accepted()), 1)

    def test_metadata_overrides(self):
        envelope = self.envelope(query='?metadata.cloudevent.id=i1&metadata.CloudEvent.Source=s&metadata.cloudevent'
                                 '.type=ty&metadata.cloudevent.subject=su&metadata.cloudevent.topic=no')
        self.assertEqual([envelope[name] for name in ('id', 'source', 'type', 'subject', 'topic')],
                         ['i1', 's', 'ty', 'su', 't'])
        entry = self.last()
        self.assertEqual((entry['id'], entry['source'], entry['type']), ('i1', 's', 'ty'))

    def test_metadata_parsing(self):
        self.publish(query='?metadata.a=1+2&metadata.a=3&metadata.b=%zz&metadata.c=1;2&Metadata.d=4&metadata.e=%26'
                     '&metadata.partitionKey=k')
        self.assertEqual(self.last()['metadata'], {'a': '1 2', 'e': '&', 'partitionKey': 'k'})
        self.assertEqual(self.last()['key'], 'k')

    def test_trace_context(self):
        headers = {**JSON, 'traceparent': TRACEPARENT, 'tracestate': 'a=b'}
        answer = self.publish(headers=headers)
        self.assertEqual((answer[2]['traceparent'], answer[2]['tracestate']), (TRACEPARENT, 'a=b'))
        envelope = json.loads(self.last()['envelope'])
        self.assertEqual((envelope['traceid'], envelope['traceparent'], envelope['tracestate']),
                         (TRACEPARENT, TRACEPARENT, 'a=b'))
        answer = self.publish(headers={**JSON, 'traceparent': 'nonsense'})
        self.assertNotIn('traceparent', answer[2])

    def test_ttl(self):
        self.assertIn('expiration', self.envelope(query='?metadata.ttlInSeconds=60'))
        self.assertIn('expiration', self.envelope(query='?metadata.TTL=1m30s'))
        self.assertNotIn('expiration', self.envelope(query='?metadata.ttl=soon'))
        self.assertNotIn('expiration', self.envelope(query='?metadata.ttl=60', pubsub='ttl'))

    def test_cloudevent_is_passed_through(self):
        body = {'id': 'i', 'source': None, 'myext': 'e', 'data': {'n': 1}, 'topic': 'other', 'partitionkey': 'k',
                'traceparent': TRACEPARENT}
        envelope = self.envelope(json.dumps(body).encode(), headers=CLOUDEVENT, query='?metadata.cloudevent.id=no')
        self.assertEqual([envelope[name] for name in ('id', 'source', 'myext', 'topic', 'pubsubname', 'type')],
                         ['i', 'Dapr', 'e', 't', 'pubsub', 'com.dapr.event.sent'])
        self.assertEqual((envelope['traceid'], envelope['traceparent']), ('', ''))
        self.assertNotIn('datacontenttype', envelope)
        self.assertEqual((self.last()['id'], self.last()['key']), ('i', 'k'))
        body['traceid'] = TRACEPARENT
        self.assertEqual(self.envelope(json.dumps(body).encode(), headers=CLOUDEVENT)['traceparent'], TRACEPARENT)
        self.assertNotIn('id', self.envelope(b'{}', headers=CLOUDEVENT))

    def test_bad_cloudevent(self):
        for body in (b'[1]', b'"x"', b'{', b'', b'7'):
            with self.subTest(body):
                self.assert_error(self.publish(body, headers=CLOUDEVENT), 500, 'ERR_PUBSUB_CLOUD_EVENTS_SER',
                                  'cannot create cloudevent', 'CLOUD_EVENT_CREATION')

    def test_null_cloudevent_drops_the_connection(self):
        with self.assertRaises(http.client.RemoteDisconnected):
            self.publish(b'null', headers=CLOUDEVENT)
        self.assertFalse(self.last()['accepted'])

    def test_raw_payload(self):
        self.publish(b'\x00\xff', '?metadata.rawPayload=T')
        entry = self.last()
        self.assertIsNone(entry['envelope'])
        self.assertEqual((entry['body'], entry['body_is_base64']), ('AP8=', True))
        self.receiver.control('POST', 'reset', {})
        self.assert_error(self.publish(query='?metadata.rawPayload=yes'), 400, 'ERR_PUBSUB_REQUEST_METADATA',
                          'failed deserializing metadata. Error: rawPayload value must be a valid boolean:'
                          " actual is 'yes'", 'METADATA_DESERIALIZATION', metadata={'rawPayload': 'yes'})

    def test_too_large(self):
        self.assertEqual(self.publish(b'"' + b'a' * 998 + b'"')[0], 204)
        self.receiver.control('POST', 'reset', {})
        message = 'error when publishing to topic t in pubsub pubsub: stream too large'
        self.assert_error(self.publish(b'a' * 1001), 500, 'ERR_PUBSUB_PUBLISH_MESSAGE', message, 'PUBLISH_MESSAGE',
                          metadata={'error': 'stream too large', 'topic': 't'})
        answer = self.receiver.raw_answer(b'POST /v1.0/publish/pubsub/t HTTP/1.1\r\nHost: x\r\n'
                                          b'Transfer-Encoding: chunked\r\n\r\n3e9\r\n')
        self.assertIn(b'stream too large', answer)

    def test_forbidden_topic(self):
        self.assert_error(self.publish(pubsub='scoped'), 403, 'ERR_PUBSUB_FORBIDDEN',
                          'topic t is not allowed for app id relay', 'FORBIDDEN')
        self.assertEqual(self.publish(pubsub='scoped', topic='mine')[0], 204)

    def test_component_gone(self):
        self.assert_error(self.publish(pubsub='gone'), 400, 'ERR_PUBSUB_NOT_FOUND', "pubsub 'gone' not found",
                          'TEST_NOT_FOUND')

    def test_component_error(self):
        self.receiver.faults({'component_error': 'boom', 'times': 1})
        status, body, _ = self.publish(topic='orders')
        resource = ('{"@type":"type.googleapis.com/google.rpc.ResourceInfo","description":"error when publishing to'
                    ' topic orders in pubsub pubsub: boom","owner":"","resource_name":"pubsub",'
                    '"resource_type":"pubsub"}')
        info = ('{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":'
                '{"error":"boom","topic":"orders"},"reason":"DAPR_PUBSUB_PUBLISH_MESSAGE"}')
        self.assertEqual((status, body), (500, '{"errorCode":"ERR_PUBSUB_PUBLISH_MESSAGE","message":"error when'
                         f' publishing to topic orders in pubsub pubsub: boom","details":[{resource},{info}]}}'))
        self.assertEqual((self.last()['accepted'], self.last()['error']), (False, 'boom'))
        self.assertEqual(self.publish(topic='orders')[0], 204)

    def test_state(self):
        def health(path):
            status, body, _ = self.receiver.request('GET', path)
            return status, json.loads(body)['errorCode'] if body else None

        self.assertEqual(health('/v1.0/healthz?appid=relay'), (204, None))
        self.assertEqual(health('/v1.0/healthz?appid=x'), (500, 'ERR_HEALTH_APPID_NOT_MATCH'))
        self.receiver.state(ready=False)
        self.assertEqual(health('/v1.0/healthz'), (500, 'ERR_HEALTH_NOT_READY'))
        self.assertEqual(health('/v1.0/healthz/outbound'), (500, 'ERR_OUTBOUND_HEALTH_NOT_READY'))
        self.receiver.state(outbound=True)
        self.assertEqual(health('/v1.0/healthz/outbound'), (204, None))
        self.receiver.state(ready=True, draining=True)
        self.assertEqual({self.publish()[0] for _ in range(3)}, {500, 404, 400})
        self.receiver.state(draining=False)
        self.assertEqual(self.publish()[0], 204)
        with self.assertRaises(ValueError):
            self.receiver.state(nonsense=1)

    def test_metadata_endpoint(self):
        metadata = json.loads(self.receiver.request('GET', '/v1.0/metadata')[1])
        self.assertEqual((metadata['id'], metadata['runtimeVersion']), ('relay', '1.18.3'))
        self.assertIn({'name': 'kafka', 'type': 'pubsub.kafka', 'version': 'v1', 'capabilities': ['BULK_PUBSUB']},
                      metadata['components'])


class DaprBulk(ReceiverCase):
    options = ('--mode', 'dapr', '--max-body', '2000', '--components', json.dumps({'pubsub': KAFKA}))

    @staticmethod
    def entry(entry_id, event=1, kind='application/json', **members):
        return {'entryId': entry_id, 'event': event, 'contentType': kind, **members}

    def bulk(self, *entries, query='', route='/v1.0/publish/bulk/pubsub/t'):
        return self.receiver.post(route + query, json.dumps(entries).encode(), JSON)

    def test_published(self):
        answer = self.bulk(self.entry('1', metadata={'cloudevent.id': 'a'}), self.entry('2', 'x', 'text/plain'),
                           self.entry('3', 'AP8=', 'application/octet-stream'), query='?metadata.k=v')
        self.assertEqual(answer[:2], (204, ''))
        first, second, third = self.receiver.accepted()
        self.assertEqual((first['entry_id'], first['entry_index'], first['id']), ('1', 0, 'a'))
        self.assertEqual(first['metadata'], {'k': 'v', 'cloudevent.id': 'a'})
        self.assertEqual(second['metadata'], {})
        self.assertEqual(json.loads(third['envelope'])['data_base64'], 'AP8=')
        self.assertEqual(self.bulk(self.entry('1'), route='/v1.0-alpha1/publish/bulk/pubsub/t')[0], 204)

    def test_nothing_to_publish(self):
        self.assertEqual(self.bulk()[0], 204)
        self.assertEqual(self.receiver.post('/v1.0/publish/bulk/pubsub/t', b'null')[0], 204)
        self.assertFalse(self.receiver.accepted())

    def test_numbers_lose_precision(self):
        for number, as_float64 in (('9007199254740993', '9007199254740992'), ('1.50', '1.5'), ('1e5', '100000'),
                                   ('123456789012345678901', '123456789012345680000'), ('1e21', '1e+21'),
                                   ('0.0000001', '1e-7'), ('-0', '-0'), ('0.000001', '0.000001'), ('7', '7')):
            with self.subTest(number):
                body = b'[{"entryId":"1","contentType":"application/json","event":{"n":%s}}]' % number.encode()
                self.assertEqual(self.receiver.post('/v1.0/publish/bulk/pubsub/t', body)[0], 204)
                self.assertEqual(self.last()['body'], '{"n":%s}' % as_float64)

    def test_refused_as_a_whole(self):
        unmarshal, envelope, events = 'UNMARSHAL_EVENTS', 'MARSHAL_ENVELOPE', 'MARSHAL_EVENTS'
        for entries, reason in (([7], unmarshal), ([self.entry(7)], unmarshal),
                                ([self.entry('1', metadata={'a': 1})], unmarshal),
                                ([self.entry('1', 5, 'text/plain')], envelope),
                                ([self.entry('1', 'x', 'application/foo')], envelope),
                                ([self.entry('1', '!', 'application/octet-stream')], envelope),
                                ([self.entry('1'), self.entry('1')], events), ([self.entry('')], events)):
            with self.subTest(entries):
                self.assert_error(self.bulk(*entries), 400, 'ERR_PUBSUB_EVENTS_SER', reason=reason)
        self.assert_error(self.bulk(self.entry('1', [], 'application/cloudevents+json')), 500,
                          'ERR_PUBSUB_CLOUD_EVENTS_SER')
        self.assert_error(self.bulk(self.entry('1', 'x' * 2000)), 400, 'ERR_PUBSUB_EVENTS_SER',
                          'error when unmarshaling the request for topic t pubsub pubsub: stream too large')
        self.assert_error(self.bulk(query='?metadata.rawPayload=x'), 400, 'ERR_PUBSUB_REQUEST_METADATA')
        self.assert_error(self.bulk(route='/v1.0/publish/bulk/nope/t'), 404, 'ERR_PUBSUB_NOT_FOUND')

    def test_failed_entries(self):
        entries = [self.entry(str(i), metadata={'cloudevent.id': f'e{i}'}) for i in range(4)]
        for rule, failed in (({'entry_ids': ['2']}, ['2']), ({'indexes': [0, 3]}, ['0', '3']),
                             ({'entry_regex': '[12]'}, ['1', '2']),
                             ({'component_error': 'scripted failure', 'match': {'id': 'e1'}}, ['1'])):
            with self.subTest(rule):
                self.receiver.control('POST', 'reset', {})
                self.receiver.faults(rule)
                status, body, headers = self.bulk(*entries)
                self.assertEqual(status, 500)
                self.assertEqual(headers['metadata.responsedata'], body)
                self.assertTrue(headers['metadata.error'].startswith('api error: code = Internal'))
                self.assertEqual(json.loads(body), {
                    'failedEntries': [{'entryId': entry, 'error': 'scripted failure'} for entry in failed],
                    'errorCode': 'ERR_PUBSUB_PUBLISH_MESSAGE'})
                self.assertEqual({entry['entry_id'] for entry in self.receiver.accepted()},
                                 {'0', '1', '2', '3'} - set(failed))

    def test_big_response_header(self):
        self.receiver.faults({'indexes': [0], 'pad': 110000})
        with self.receiver.raw(raw_post('/v1.0/publish/bulk/pubsub/t', json.dumps([self.entry('1')]).encode(),
                                        b'Connection: close\r\n')) as sock:
            head = read_all(sock).partition(b'\r\n\r\n')[0]
        self.assertGreater(max(map(len, head.split(b'\r\n'))), 100 * 1024)


class DaprProfiles(unittest.TestCase):
    def test_profiles(self):
        bulk = '/v1.0/publish/bulk/pubsub/t'
        for profile, version, oversize in (('1.16', '1.16', 500), ('1.13', '1.13', 400)):
            with self.subTest(profile), tempfile.TemporaryDirectory() as directory:
                receiver = Receiver(directory, '--mode', 'dapr', '--profile', profile, '--max-body', '10')
                self.addCleanup(receiver.stop)
                status, body, _ = receiver.post(bulk, b'[]')
                self.assertEqual((status, json.loads(body)['message']), (404, 'pubsub bulk is not found'))
                self.assertEqual(receiver.post(bulk.replace('v1.0', 'v1.0-alpha1'), b'[]')[0], 204)
                status, body, _ = receiver.post('/v1.0/publish/pubsub/t', b'x' * 11)
                self.assertEqual(status, oversize)
                self.assertIn('stream too large', body)
                metadata = json.loads(receiver.request('GET', '/v1.0/metadata')[1])
                self.assertTrue(metadata['runtimeVersion'].startswith(version))


class Protocol(ReceiverCase):
    options = ('--mode', 'http')

    def test_plain_endpoint(self):
        self.assertEqual(self.receiver.post('/any/path?q=1', b'hello')[:2], (204, ''))
        entry = self.last()
        self.assertEqual((entry['path'], entry['query'], entry['body']), ('/any/path', 'q=1', 'hello'))
        status, _, headers = self.receiver.request('GET', '/any')
        self.assertEqual((status, headers['allow']), (405, 'POST'))
        self.assertEqual(len(self.receiver.accepted()), 1)

    def test_cloudevents_attributes(self):
        self.receiver.post('/', b'x', {'ce-id': 'i%20d', 'ce-type': 't', 'ce-source': 's', 'ce-partitionkey': 'k'})
        binary = self.last()
        self.receiver.post('/', b'{"id":"i d","type":"t","source":"s","partitionkey":"k"}', CLOUDEVENT)
        structured = self.last()
        for entry in (binary, structured):
            self.assertEqual([entry[name] for name in ('id', 'type', 'source', 'key')], ['i d', 't', 's', 'k'])

    def test_headers_are_logged(self):
        self.receiver.raw_answer(raw_post(extra=b'X-A: 1\r\nx-a:2 \r\nConnection: close\r\n'))
        entry = self.last()
        self.assertEqual(entry['headers']['x-a'], '1')
        self.assertIn(['X-A', '1'], entry['raw_headers'])
        self.assertIn(['x-a', '2'], entry['raw_headers'])

    def test_keep_alive_and_pipelining(self):
        with self.receiver.raw(raw_post() * 3) as sock:
            read_some(sock, 3 * len(b'HTTP/1.1 204 No Content\r\n\r\n'))
        self.assertEqual([entry['nth'] for entry in self.receiver.log()], [1, 2, 3])
        self.assertEqual(len({entry['conn'] for entry in self.receiver.log()}), 1)

    def test_byte_by_byte(self):
        with self.receiver.raw(b'') as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in raw_post(body=b'12345'):
                sock.sendall(bytes([byte]))
            self.assertTrue(sock.recv(100).startswith(b'HTTP/1.1 204 '))
        self.assertEqual(self.last()['body'], '12345')

    def test_chunked(self):
        answer = self.receiver.raw_answer(
            b'POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n'
            b'3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n')
        self.assertTrue(answer.startswith(b'HTTP/1.1 204 '))
        self.assertEqual(self.last()['body'], 'abc0123456789')

    def test_expect_100(self):
        request = raw_post(body=b'late', extra=b'Expect: 100-continue\r\n')
        with self.receiver.raw(request[:-4]) as sock:
            self.assertEqual(sock.recv(100), b'HTTP/1.1 100 Continue\r\n\r\n')
            sock.sendall(b'late')
            self.assertTrue(sock.recv(100).startswith(b'HTTP/1.1 204 '))

    def test_malformed(self):
        for data in (b'nonsense\r\n\r\n', b'POST / HTTP/1.1\r\nNo colon\r\n\r\n', b'POST x HTTP/1.1\r\n\r\n',
                     b'POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n'):
            self.assertTrue(self.receiver.raw_answer(data).startswith(b'HTTP/1.1 400 '), data)

    def test_log_query(self):
        for number in range(3):
            self.receiver.post('/', b'%d' % number, {'ce-id': str(number)})
        first = self.receiver.log()[0]['seq']
        self.assertEqual(self.receiver.log(f'?since={first}&fields=id,body'),
                         [{'id': '1', 'body': '1'}, {'id': '2', 'body': '2'}])
        self.assertEqual(self.receiver.log('?accepted=0'), [])
        self.assertEqual(self.receiver.stats()['distinct_ids'], 3)

    def test_control_on_the_same_port(self):
        self.receiver.faults({'match': {'path': '.'}, 'status': 500})
        self.assertEqual(self.receiver.post('/x')[0], 500)
        self.assertEqual(self.receiver.request('GET', '/__ctl/stats')[0], 200)
        self.assertEqual(self.receiver.request('GET', '/__ctl/nonsense')[0], 404)

    def test_refused_and_back(self):
        conn = self.receiver.connect()
        self.receiver.post('/', conn=conn)
        self.receiver.state(listening=False)
        with self.assertRaises(ConnectionError):
            self.receiver.post('/', conn=conn)
        with self.assertRaises(ConnectionRefusedError):
            self.receiver.post('/')
        conn.close()
        self.receiver.state(listening=True)
        self.assertEqual(self.receiver.post('/')[0], 204)


class Faults(ReceiverCase):
    options = ('--mode', 'http')

    def statuses(self, count, **headers):
        return [self.receiver.post('/', b'', headers)[0] for _ in range(count)]

    def accepted_count(self):
        return self.receiver.stats()['accepted']

    def test_when(self):
        self.receiver.faults({'status': 503, 'skip': 1, 'times': 2})
        self.assertEqual(self.statuses(5), [204, 503, 503, 204, 204])
        self.receiver.faults({'status': 503, 'every': 2})
        self.assertEqual(self.statuses(4), [204, 503, 204, 503])
        rule, = self.receiver.control('GET', 'faults')
        self.assertEqual((rule['seen'], rule['fired']), (4, 2))

    def test_match(self):
        post = self.receiver.post
        for match in ({'path': '^/a.*q=1'}, {'id': 'i'}, {'id': ['x', 'i']}, {'key': 'k'}, {'data': 'needle'},
                      {'method': 'POST', 'id': 'i', 'data': 'needle'}):
            with self.subTest(match):
                self.receiver.faults({'match': match, 'status': 500})
                headers = {'ce-id': 'i', 'ce-partitionkey': 'k'}
                self.assertEqual(post('/a/b?q=1', b'a needle', headers)[0], 500)
                self.assertEqual(post('/b', b'hay', {'ce-id': 'j'})[0], 204)

    def test_bad_rules_are_refused(self):
        for rule in ({'action': 'nonsense'}, {'nonsense': 1}, {'match': {'nonsense': 1}}, {'times': '1'}, 7,
                     {'match': {'path': '('}}, {'delay_read': 1, 'match': {'id': 'x'}}):
            with self.subTest(rule), self.assertRaises(ValueError):
                self.receiver.faults(rule)

    def test_status(self):
        self.receiver.faults({'status': 429, 'headers': {'Retry-After': '7'}, 'body': '<html>', 'times': 1},
                             {'status': 302, 'headers': {'Location': 'http://x/'}, 'times': 1},
                             {'status': 200, 'times': 1}, {'status': 500, 'body': {'a': 1}, 'taken': True})
        status, body, headers = self.receiver.post('/')
        self.assertEqual((status, body, headers['retry-after']), (429, '<html>', '7'))
        self.assertEqual(self.receiver.post('/')[2]['location'], 'http://x/')
        self.assertEqual(self.accepted_count(), 0)
        self.assertEqual(self.receiver.post('/')[0], 200)
        self.assertEqual(self.receiver.post('/')[1], '{"a": 1}')
        self.assertEqual(self.accepted_count(), 2)
        self.assertEqual([entry['status'] for entry in self.receiver.log()], [429, 302, 200, 500])

    def test_nul_body(self):
        self.receiver.faults({'action': 'nul_body', 'status': 503})
        answer = self.receiver.raw_answer(raw_post(extra=b'Connection: close\r\n'))
        self.assertIn(b'\x00', answer.partition(b'\r\n\r\n')[2])

    def test_broken_answers(self):
        for action, taken, prefix in (
                ('commit_then_drop', 1, b''), ('drop_before_commit', 0, b''),
                ('half_response', 0, b'HTTP/1.1 200 OK\r\nContent-Le'), ('partial', 1, b'HTTP/1.1 200 OK'),
                ('garbage', 0, b'\x00\xff'), ('http09', 0, b'hello'), ('badlen', 1, b'HTTP/1.1 200 OK'),
                ('chunkbad', 1, b'HTTP/1.1 200 OK')):
            with self.subTest(action):
                self.receiver.control('POST', 'reset', {})
                self.receiver.faults({'action': action})
                answer = self.receiver.raw_answer(raw_post())
                self.assertTrue(answer.startswith(prefix) and bool(answer) == bool(prefix), answer)
                self.assertEqual(self.accepted_count(), taken)
                self.assertEqual(self.last()['fault'], action)

    def test_taken_can_be_told(self):
        self.receiver.faults({'action': 'rst', 'taken': True})
        with self.assertRaises(ConnectionResetError):
            self.receiver.raw_answer(raw_post())
        self.assertEqual(self.accepted_count(), 1)

    def test_resets(self):
        for action, taken in (('rst', 0), ('partialrst', 1)):
            with self.subTest(action):
                self.receiver.control('POST', 'reset', {})
                self.receiver.faults({'action': action})
                with self.assertRaises(ConnectionResetError):
                    self.receiver.raw_answer(raw_post())
                self.assertEqual(self.accepted_count(), taken)

    def test_endless_answers(self):
        for action, length in (('hugebody', 3000000), ('hugehdr', 3000000), ('flood1xx', 1000000),
                               ('slowhdr', 40), ('slowbody', 60)):
            with self.subTest(action):
                self.receiver.faults({'action': action, 'interval': 0.001})
                with self.receiver.raw(raw_post()) as sock:
                    self.assertGreaterEqual(len(read_some(sock, length)), length)
        wait_for(lambda: self.receiver.stats()['concurrent'] == 0)

    def test_no_length(self):
        self.receiver.faults({'action': 'nolen'})
        with self.receiver.raw(raw_post()) as sock:
            self.assertTrue(read_some(sock, 20).endswith(b'\r\n\r\n{}'))
            sock.settimeout(0.05)
            with self.assertRaises(TimeoutError):
                sock.recv(1)

    def test_hang_and_release(self):
        for option, taken, answer in (('drop', 0, b''), ('answer', 1, b'HTTP/1.1 204 No Content\r\n\r\n')):
            with self.subTest(option):
                self.receiver.control('POST', 'reset', {})
                self.receiver.faults({'action': 'hang', 'on_release': option})
                with self.receiver.raw(raw_post()) as sock:
                    wait_for(self.receiver.log)
                    self.assertIsNone(self.last()['status'])
                    self.assertEqual(self.receiver.stats()['concurrent'], 1)
                    self.receiver.faults()
                    self.assertEqual(sock.recv(100), answer)
                self.assertEqual(self.accepted_count(), taken)

    def test_hang_of_a_client_that_leaves(self):
        self.receiver.faults({'action': 'hang', 'on_release': 'answer'})
        with self.receiver.raw(raw_post()):
            wait_for(self.receiver.log)
        wait_for(lambda: self.receiver.stats()['concurrent'] == 0)
        self.receiver.faults()
        self.assertEqual(self.accepted_count(), 0)

    def test_delays(self):
        self.receiver.faults({'delay_commit': 0.1, 'times': 1}, {'delay_response': 0.1, 'times': 1},
                             {'delay_read': 0.1, 'match': {'path': '/read'}})
        for target in ('/commit', '/response', '/read'):
            begin = time.monotonic()
            self.assertEqual(self.receiver.post(target)[0], 204)
            self.assertGreaterEqual(time.monotonic() - begin, 0.1)
        self.assertEqual(self.accepted_count(), 3)

    def test_taken_after_the_client_has_left(self):
        self.receiver.faults({'delay_commit': 0.1})
        self.receiver.raw(raw_post()).close()
        wait_for(self.receiver.accepted)

    def test_max_concurrent(self):
        self.receiver.faults({'action': 'hang'})
        socks = [self.receiver.raw(raw_post()) for _ in range(5)]
        wait_for(lambda: self.receiver.stats()['concurrent'] == 5)
        self.receiver.faults()
        for sock in socks:
            sock.close()
        self.assertEqual(self.receiver.stats()['max_concurrent'], 5)

    def test_close_after(self):
        for announce in (True, False):
            with self.subTest(announce):
                self.receiver.faults({'close_after': 2, 'announce': announce})
                with self.receiver.raw(raw_post() * 2) as sock:
                    answer = read_all(sock)
                self.assertEqual(answer.count(b'204 No Content'), 2)
                self.assertEqual(answer.count(b'Connection: close'), int(announce))

    def test_nth_request_of_a_connection(self):
        self.receiver.faults({'match': {'nth': 2}, 'action': 'drop_before_commit'})
        conn = self.receiver.connect()
        self.assertEqual(self.receiver.post('/', conn=conn)[0], 204)
        with self.assertRaises(http.client.RemoteDisconnected):
            self.receiver.post('/', conn=conn)
        conn.close()

    def test_continue_withheld(self):
        self.receiver.faults({'action': 'no_continue'})
        request = raw_post(body=b'late', extra=b'Expect: 100-continue\r\n')
        with self.receiver.raw(request[:-4]) as sock:
            sock.settimeout(0.05)
            with self.assertRaises(TimeoutError):
                sock.recv(1)
            sock.settimeout(TIMEOUT)
            sock.sendall(b'late')
            self.assertTrue(sock.recv(100).startswith(b'HTTP/1.1 204 '))

    def test_kill(self):
        victim = subprocess.Popen(['sleep', '60'])
        pid_file = self.receiver.path('pid')
        with open(pid_file, 'w', encoding='ascii') as file:
            file.write(f'{victim.pid}\nmore\n')
        self.receiver.faults({'kill_pid_from': pid_file})
        self.assertEqual(self.receiver.post('/')[0], 204)
        self.assertEqual(victim.wait(TIMEOUT), -9)
        self.assertEqual(self.accepted_count(), 1)

    def test_health_is_met_only_by_path(self):
        with tempfile.TemporaryDirectory() as directory:
            receiver = Receiver(directory, '--mode', 'dapr')
            self.addCleanup(receiver.stop)
            receiver.faults({'status': 503})
            self.assertEqual(receiver.request('GET', '/v1.0/healthz')[0], 204)
            self.assertEqual(receiver.post('/v1.0/publish/pubsub/t')[0], 503)
            receiver.faults({'status': 503, 'match': {'topic': 't', 'pubsub': 'pubsub'}})
            self.assertEqual(receiver.post('/v1.0/publish/pubsub/t')[0], 503)
            self.assertEqual(receiver.post('/v1.0/publish/pubsub/u')[0], 204)
            receiver.faults({'status': 503, 'match': {'path': 'healthz'}})
            self.assertEqual(receiver.request('GET', '/v1.0/healthz')[0], 503)


class Process(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)

    def receiver(self, *options):
        receiver = Receiver(self.directory.name, '--mode', 'http', *options)
        self.addCleanup(receiver.stop)
        return receiver

    def test_log_outlives_sigkill(self):
        log = os.path.join(self.directory.name, 'log')
        receiver = self.receiver('--log', log)
        receiver.post('/', b'1', {'ce-id': 'a'})
        receiver.kill()
        with open(log, 'a', encoding='ascii') as file:
            file.write('{"seq": 2, "torn')
        receiver.start(receiver.port)
        receiver.post('/', b'2', {'ce-id': 'b'})
        self.assertEqual([(entry['seq'], entry['id']) for entry in receiver.accepted()], [(1, 'a'), (2, 'b')])
        receiver.control('POST', 'reset', {})
        self.assertEqual(os.path.getsize(log), 0)

    def test_sigterm(self):
        receiver = self.receiver()
        receiver.faults({'action': 'hang'})
        with receiver.raw(raw_post()):
            wait_for(receiver.log)
            self.assertEqual(receiver.stop(), 0)

    def test_exits_with_parent(self):
        port_file = os.path.join(self.directory.name, 'port')
        shell = subprocess.Popen(['sh', '-c', '"$@" & echo $!; read line', 'sh', sys.executable, RECEIVER,
                                  '--mode', 'http', '--port-file', port_file, '--exit-with-parent'],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        pid = int(shell.stdout.readline())
        wait_for(lambda: os.path.exists(port_file))
        shell.kill()
        shell.communicate()
        wait_for(lambda: not is_alive(pid))

    def test_unix_socket(self):
        path = os.path.join(self.directory.name, 'socket')
        receiver = self.receiver('--unix', path)

        def post():
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                sock.sendall(raw_post())
                return sock.recv(100)

        self.assertTrue(post().startswith(b'HTTP/1.1 204 '))
        receiver.state(listening=False)
        with self.assertRaises(OSError):
            post()
        receiver.state(listening=True)
        self.assertTrue(post().startswith(b'HTTP/1.1 204 '))

    def test_https(self):
        cert, key = (os.path.join(self.directory.name, name) for name in ('cert', 'key'))
        subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes',
                        '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-days', '1',
                        '-keyout', key, '-out', cert], check=True, capture_output=True)
        receiver = self.receiver('--tls-cert', cert, '--tls-key', key)
        context = ssl.create_default_context(cafile=cert)
        conn = http.client.HTTPSConnection('localhost', receiver.port, timeout=TIMEOUT, context=context)
        self.addCleanup(conn.close)
        self.assertEqual(receiver.post('/', b'x', conn=conn)[0], 204)


def is_alive(pid):
    """Not even as a zombie that nobody reaps."""
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


if __name__ == '__main__':
    unittest.main()
