"""The stand-in for daprd: paths, token, single events, health and metadata, versions."""

import base64
import http.client
import json
import tempfile
import unittest

from receiver_case import CLOUDEVENT, JSON, KAFKA, Receiver, ReceiverCase, raw_post

TRACEPARENT = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'


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

    def test_bytes_that_are_no_utf8(self):
        self.publish(b'a\xe2\x82b', headers={'Content-Type': 'text/plain'})
        self.assertIn(r'"data":"a\ufffd\ufffdb"', self.last()['envelope'])
        self.publish(b'"a\xe2\x82b"')
        self.assertIn('"data":"a\ufffd\ufffdb"', self.last()['envelope'])

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
        later = self.publish(headers={**JSON, 'traceparent': '01' + TRACEPARENT[2:]})
        self.assertEqual(later[2]['traceparent'], TRACEPARENT)
        for answer in (self.publish(headers={**JSON, 'traceparent': 'nonsense'}), self.publish(pubsub='nope')):
            self.assertEqual(answer[2]['traceparent'], f'00-{"0" * 32}-{"0" * 16}-00')
            self.assertNotIn('tracestate', answer[2])

    def test_ttl(self):
        self.assertIn('expiration', self.envelope(query='?metadata.ttlInSeconds=60'))
        self.assertIn('expiration', self.envelope(query='?metadata.TTL=1m30s'))
        self.assertIn('expiration', self.envelope(query='?metadata.ttlInSeconds=0'))
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

    def test_raw_payload_empty(self):
        self.assertEqual(self.envelope(query='?metadata.rawPayload=')['data'], 1)

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
