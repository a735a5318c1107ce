#!/usr/bin/python3
"""Plants errors in the evidence of a run without any, and sees that the checker finds each of them."""

import unittest

from checker import Arrival, Dead, Run, Truth, check, digest, payload_of
from faults import CRASH, ENDING, NONE, OUTAGE, Disturbance
from load import Journal
from payloads import find_token

KEYS = ('a', 'b', None)
EVENTS = 30
START = 1000.0


def clean_run():
    """Events 0, 1, 2 ... one a second, of keys a and b and of none, each received at once."""
    run = Run([], [])
    for n in range(EVENTS):
        key = KEYS[n % len(KEYS)]
        seq = n // len(KEYS) + 1 if key else None
        txn = f'w0.{n}'
        payload = f'{{"token": "{txn}"}}'
        run.truth.append(Truth(f'id {n}', txn, 'keyed', 'orders', key, seq, payload))
        run.arrivals.append(Arrival(START + n + 0.1, f'id {n}', 'orders', key, digest(payload.encode()), txn))
        run.journal[txn] = (Journal.COMMITTED, START + n)
    return run


def again(run, n, at, **changes):
    """Event n is received once more."""
    arrival = Arrival(**{**vars(run.arrivals[n]), 'time': at, **changes})
    run.arrivals.append(arrival)
    run.arrivals.sort(key=lambda arrival: arrival.time)
    return arrival


class CheckerTest(unittest.TestCase):
    def assert_found(self, run, **numbers):
        """These numbers, and no other failure."""
        report = check(run)
        self.assertEqual({name: report.numbers[name] for name in numbers}, numbers)
        self.assertEqual(sorted(report.failures()),
                         sorted(name for name in numbers if name in (*report.BROKEN, 'longest_stall_s')))

    def test_nothing_wrong(self):
        report = check(clean_run())
        self.assertEqual(report.failures(), [])
        self.assertEqual((report.numbers['committed'], report.numbers['delivered']), (EVENTS, EVENTS))

    def test_lost(self):
        run = clean_run()
        del run.arrivals[-2:]
        self.assert_found(run, lost=2)

    def test_invented(self):
        run = clean_run()
        run.journal['w0.7s'] = (Journal.ROLLED_BACK, None)
        again(run, 7, START + 7.2, event_id='rolled back', token='w0.7s')
        again(run, 7, START + 7.3, event_id='made up', token=None)
        self.assert_found(run, invented=2)

    def test_undone_by_a_crash(self):
        run = clean_run()
        del run.truth[20]
        self.assert_found(run, sent_before_durable=1)

    def test_before_commit(self):
        run = clean_run()
        run.arrivals[6].time -= 0.5
        self.assert_found(run, sent_before_durable=1)

    def test_before_due(self):
        run = clean_run()
        run.truth[5].due = START + 10
        self.assert_found(run, sent_before_due=1)

    def test_duplicate(self):
        run = clean_run()
        again(run, 8, START + 8.5)
        run.disturbances = [Disturbance('elsewhere', CRASH, START + 20, START + 21),
                            Disturbance('harmless', NONE, START + 8.3, START + 8.3)]
        self.assert_found(run, duplicates=1, duplicates_unexplained=1)

    def test_duplicate_with_reason(self):
        run = clean_run()
        again(run, 8, START + 8.5)
        run.disturbances = [Disturbance('kill', CRASH, START + 8.3, START + 8.4)]
        self.assert_found(run, duplicates=1, most_copies=2)

    def test_duplicate_that_was_read_late(self):
        run = clean_run()
        again(run, 8, START + 8.5)
        run.disturbances = [Disturbance('kill', CRASH, START + 6.5, START + 6.6)]
        self.assert_found(run, duplicates=1, duplicates_unexplained=1)
        run.late = 5.0
        self.assert_found(run, duplicates=1)

    def test_duplicate_after_a_bad_answer(self):
        run = clean_run()
        run.arrivals[8].fault = 'rst'
        again(run, 8, START + 8.5, fault=None)
        self.assert_found(run, duplicates=1)

    def test_id_used_again(self):
        run = clean_run()
        run.truth[8].times = 2
        again(run, 8, START + 8.5)
        self.assert_found(run, duplicates=0, committed=EVENTS + 1)

    def test_order(self):
        run = clean_run()
        first, second = run.arrivals[3], run.arrivals[6]
        first.time, second.time = second.time, first.time + 3
        run.arrivals[3], run.arrivals[6] = second, first
        self.assert_found(run, order_violations=1, order_steps_back=1)

    def test_step_back(self):
        run = clean_run()
        again(run, 3, START + 6.5)
        self.assert_found(run, duplicates_unexplained=1, order_steps_back=1, steps_back_unexplained=1)

    def test_step_back_with_reason(self):
        run = clean_run()
        again(run, 3, START + 6.5)
        again(run, 6, START + 6.6)
        run.disturbances = [Disturbance('down', OUTAGE, START + 6.3, START + 6.4)]
        self.assert_found(run, order_steps_back=1, duplicates=2)

    def test_step_back_after_a_new_start(self):
        run = clean_run()
        again(run, 6, START + 6.5)
        again(run, 3, START + 6.6)
        run.disturbances = [Disturbance('kill', CRASH, START + 6.2, START + 6.2)]
        self.assert_found(run, order_steps_back=1, duplicates=2, steps_back_unexplained=1)

    def test_overtaken_by_rows(self):
        run = clean_run()
        run.overtaken = [(START + 2, 'id 3', 'id 6'), (START + 4, 'id 3', 'id 6')]
        self.assert_found(run, overtaken_by_rows=1)

    def test_answered_in_time_at_the_end(self):
        run = clean_run()
        again(run, 8, START + 9)
        run.disturbances = [Disturbance('term', ENDING, START + 8.05, START + 8.1)]
        self.assert_found(run, duplicates=1, duplicates_unexplained=1)

    def test_taken_too_late_at_the_end(self):
        run = clean_run()
        again(run, 8, START + 9)
        run.disturbances = [Disturbance('term', ENDING, START + 7.9, START + 8)]
        self.assert_found(run, duplicates=1)

    def test_given_up(self):
        run = clean_run()
        run.given_up = {'id 3', 'id 29'}
        del run.arrivals[29]
        run.arrivals[3].time = START + 7
        run.arrivals.sort(key=lambda arrival: arrival.time)
        self.assert_found(run, given_up=2)

    def test_altered(self):
        for change in ({'hash': 'another'}, {'topic': 'stock'}, {'key': 'b'}):
            run = clean_run()
            vars(run.arrivals[3]).update(change)
            self.assert_found(run, altered=1)

    def test_dead_without_cause(self):
        run = clean_run()
        run.dead = [Dead('id 3', 'HTTP 500', START), Dead('id 4', 'the relay crashed 3 times', START + 51.5)]
        run.disturbances = [Disturbance('kill', CRASH, START + n, START + n) for n in (50, 51, 52)]
        self.assert_found(run, dead_without_cause=2)

    def test_dead_with_cause(self):
        run = clean_run()
        run.truth[3].mode = 'poison'
        run.dead = [Dead('id 3', 'HTTP 400', START), Dead('id 4', 'the relay crashed 3 times', START)]
        run.disturbances = [Disturbance('kill', CRASH, START + n, START + n) for n in (50, 51, 52)]
        self.assert_found(run, dead_with_cause=2)

    def test_unsettled(self):
        run = clean_run()
        run.unsettled = 4
        self.assert_found(run, unsettled=4)

    def test_stall(self):
        run = clean_run()
        for n in range(10, 20):
            run.arrivals[n].time = START + 20 + n / 100
        self.assert_found(run, longest_stall_s=10.0 + 10 / 100)

    def test_stall_with_reason(self):
        run = clean_run()
        for n in range(10, 20):
            run.arrivals[n].time = START + 20 + n / 100
        run.disturbances = [Disturbance('down', OUTAGE, START + 9, START + 19)]
        report = check(run)
        self.assertEqual(report.failures(), [])


class PayloadTest(unittest.TestCase):
    def entry(self, body, content_type, is_base64=False, index=None):
        return {'body': body, 'body_is_base64': is_base64, 'headers': {'content-type': content_type},
                'entry_index': index}

    def assert_payload(self, entry, payload, is_canonical=False):
        self.assertEqual(payload_of(entry), (payload, is_canonical))

    def test_binary_mode(self):
        self.assert_payload(self.entry('/wD+', 'application/octet-stream', True), b'\xff\x00\xfe')

    def test_envelope(self):
        body = '{"specversion":"1.0","type":"\\",\\"data\\":1","data":{"a": ",\\"data\\":"}}'
        self.assert_payload(self.entry(body, 'application/cloudevents+json'), b'{"a": ",\\"data\\":"}')

    def test_envelope_of_bytes(self):
        body = '{"specversion":"1.0","data_base64":"/wD+"}'
        self.assert_payload(self.entry(body, 'application/cloudevents+json'), b'\xff\x00\xfe')

    def test_rewritten(self):
        run = clean_run()
        run.truth[3].payload = '{"b": 1.50, "a": "<\\u00fc>"}'
        for number, altered in (('1.50', 0), ('1.5', 1)):
            body = f'{{"data":{{"a":"\\u003cü\\u003e","b":{number}}},"id":"id 3"}}'
            payload, is_canonical = payload_of(self.entry(body, 'application/json', index=0))
            vars(run.arrivals[3]).update(hash=digest(payload), canonical=is_canonical)
            self.assertTrue(is_canonical)
            self.assertEqual(check(run).numbers['altered'], altered)

    def test_rewritten_bytes(self):
        body = '{"specversion":"1.0","data_base64":"/wD+"}'
        self.assert_payload(self.entry(body, 'application/json', index=0), b'\xff\x00\xfe')

    def test_token(self):
        self.assertEqual(find_token(b'{"n": 1, "token": "w3.17s"}'), 'w3.17s')
        self.assertEqual(find_token(b'token=w3.17 \xff'), 'w3.17')
        self.assertIsNone(find_token(b'{"n": 1}'))


if __name__ == '__main__':
    unittest.main()
