"""Bulk requests to the stand-in for daprd."""

import json

from receiver_case import JSON, KAFKA, ReceiverCase, raw_post, read_all


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
                                ([self.entry('1', '!', 'application/octet-stream')], envelope), ([None], envelope),
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
