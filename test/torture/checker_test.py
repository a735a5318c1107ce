#!/usr/bin/python3
"""Plants errors in the evidence of a run without any, and sees that the checker finds each of them."""

import unittest

from checker import Arrival, Dead, Replay, Run, Truth, check, digest, payload_of
from faults import CRASH, ENDING, NONE, OUTAGE, Disturbance
from load import Journal
from payloads import find_token
from routes import Asked, Life, Snapshot, Version, matches

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

    def test_unwanted(self):
        run = clean_run()
        run.unwanted = {'id 3', 'id 4'}
        del run.arrivals[4]
        self.assert_found(run, sent_unwanted=1)

    def test_optional(self):
        run = clean_run()
        run.optional = {'id 3', 'id 4'}
        del run.arrivals[4]
        self.assert_found(run)

    def test_replay(self):
        run = clean_run()
        for n in (0, 3, 6):
            again(run, n, START + 9.5 + n / 100)
        run.replays = [Replay(START + 9.2, {'id 0', 'id 3', 'id 6'}, {'id 0', 'id 3', 'id 6'})]
        self.assert_found(run, duplicates=3, order_steps_back=1)

    def test_replay_of_what_was_unwanted(self):
        run = clean_run()
        run.unwanted = {'id 3', 'id 6'}
        run.arrivals[3].time = START + 9.5
        run.arrivals[6].time = START + 9.6
        run.arrivals.sort(key=lambda arrival: arrival.time)
        run.replays = [Replay(START + 9.4, {'id 3', 'id 6'}, {'id 3', 'id 6'})]
        self.assert_found(run)

    def test_replay_explains_one_copy(self):
        run = clean_run()
        again(run, 7, START + 9.5)
        again(run, 7, START + 9.6)
        run.replays = [Replay(START + 9.2, set(), {'id 7'})]
        self.assert_found(run, duplicates=2, duplicates_unexplained=1)

    def test_copy_before_the_replay(self):
        run = clean_run()
        again(run, 7, START + 9)
        run.replays = [Replay(START + 9.2, set(), {'id 7'})]
        self.assert_found(run, duplicates=1, duplicates_unexplained=1)

    def test_replay_that_goes_back_twice(self):
        run = clean_run()
        for n, at in ((0, 9.5), (3, 9.6), (0, 9.7)):
            again(run, n, START + at)
        run.replays = [Replay(START + 9.2, set(), {'id 0', 'id 3'})]
        self.assert_found(run, duplicates=3, duplicates_unexplained=1, order_steps_back=2, steps_back_unexplained=1)

    def test_new_event_in_the_middle_of_a_replay(self):
        run = clean_run()
        for n, at in ((0, 11.5), (3, 12.5)):
            again(run, n, START + at)
        run.replays = [Replay(START + 11.2, set(), {'id 0', 'id 3'})]
        self.assert_found(run, duplicates=2, order_steps_back=2, steps_back_unexplained=1)

    def test_forgotten_by_a_replay(self):
        run = clean_run()
        again(run, 3, START + 9.5)
        run.replays = [Replay(START + 9.2, {'id 3', 'id 4', 'id 5'}, {'id 3', 'id 4', 'id 5'})]
        run.given_up = {'id 5'}
        self.assert_found(run, replay_forgot=1)

    def test_refused_again(self):
        run = clean_run()
        run.refusals = [(START + at, event_id) for at, event_id in (
            (8.0, 'id 8'), (8.1, 'id 7'), (8.2, 'id 8'), (9.0, 'id 9'), (9.5, 'id 9'), (9.6, 'id 9'))]
        run.revoked_at = [START + 7, START + 8.5, START + 9.4]
        self.assert_found(run, refused_again=2)
        run.revoked_at += [START + 8.15, START + 9.55]
        self.assert_found(run)

    def test_silence(self):
        run = clean_run()
        run.silences = [('sent_while_paused', START + 9.2, START + 9.7), ('sent_after_drop', START + 27.4, START + 99)]
        self.assert_found(run, sent_after_drop=2)

    def test_silence_of_a_receiver_in_trouble(self):
        run = clean_run()
        run.silences = [('sent_after_drop', START + 27.4, START + 99)]
        run.disturbances = [Disturbance('freeze', OUTAGE, START + 27, START + 29)]
        self.assert_found(run)

    def test_wrong_at_another_destination(self):
        report, other = check(clean_run()), clean_run()
        del other.arrivals[-1:]
        report.add(check(other), 'audit')
        self.assertEqual(report.failures(), ['lost'])
        self.assertTrue(report.examples['lost'][0].startswith('audit: '))


class RoutesTest(unittest.TestCase):
    def life(self, *versions, **more):
        return Life(1, 'audit', versions=[
            Version(number, topics.split(), Snapshot(before), after and Snapshot(after), asked_at=float(number))
            for number, (topics, before, after) in enumerate(versions, 1)], **more)

    def assert_split(self, life, xids, topic='a.b'):
        """For each transaction: does its event go there (+), not (-), or can nobody tell (?)"""
        truth = [Truth(f'id {xid}', 't', 'm', topic, xid=int(xid)) for xid in xids]
        unwanted, optional = life.split(truth)
        self.assertEqual({xid: '-' if f'id {xid}' in unwanted else '?' if f'id {xid}' in optional else '+'
                          for xid in xids}, xids)

    def test_patterns(self):
        for topic, patterns, expected in (
                ('a', '#', True), ('a.b', 'a.#', True), ('a', 'a.#', True), ('ab', 'a.#', False), ('a.b', 'a.*', True),
                ('a.b.c', 'a.*', False), ('a', 'a.*', False), ('a.b.c', '#.c', True), ('a.b', '# !a.#', False),
                ('c', '# !a.#', True), ('a', '', False), ('a.x.b', 'a.#.b', True), ('a.b', '!a.b', False)):
            self.assertEqual(matches(topic, patterns.split()), expected, (topic, patterns))

    def test_snapshot(self):
        snapshot = Snapshot('10:20:10,15')
        self.assertEqual([xid for xid in (9, 10, 11, 15, 19, 20, 21) if snapshot.sees(xid)], [9, 11, 19])

    def test_beginning(self):
        life = self.life(('#', '10:20:10,15', '12:22:15'), xid=18)
        self.assert_split(life, {'9': '-', '10': '?', '13': '-', '15': '+', '18': '+', '20': '?', '22': '+'})

    def test_from_start(self):
        life = self.life(('#', '1:1:', '1:1:'), kept={'id 5'}, begun=Snapshot('10:10:'))
        self.assert_split(life, {'5': '+', '6': '?', '10': '+'})

    def test_versions(self):
        life = self.life(('#', '10:10:', '10:10:'), ('c', '20:20:', '30:30:'), xid=8)
        self.assert_split(life, {'9': '-', '10': '+', '19': '+', '20': '?', '29': '?', '30': '-'})

    def test_version_that_never_held(self):
        life = self.life(('#', '10:10:', '10:10:'), ('c', '20:20:', None), ('a.#', '25:25:', '30:30:'))
        self.assert_split(life, {'19': '+', '20': '?', '26': '?', '30': '+'})

    def test_altered_before_it_was_read(self):
        life = self.life(('#', '10:20:15', '10:20:15'), ('c', '10:20:15', '30:30:'), xid=15)
        self.assert_split(life, {'14': '-', '15': '?', '21': '?', '30': '-'})

    def test_dropped(self):
        life = self.life(('#', '10:10:', '10:10:'), dropped_at=5.0, drop_asked_at=4.0, settled={'id 12'})
        self.assert_split(life, {'9': '-', '12': '+', '13': '?'})

    def test_replays(self):
        truth = [Truth(f'id {topic}', 't', 'm', topic, xid=9) for topic in ('a', 'a.b', 'c')]
        settled = {'id a', 'id c', 'id a.b'}
        for pattern, done_at, must, may in (
                (None, 1.5, {'id a', 'id a.b', 'id c'}, {'id a', 'id a.b', 'id c'}), ('a.*', 1.5, {'id a.b'}, {'id a.b'}),
                (None, 2.5, {'id c'}, {'id a', 'id a.b', 'id c'}), (None, None, {'id c'}, {'id a', 'id a.b', 'id c'})):
            life = self.life(('#', '10:10:', '10:10:'), ('c', '10:10:', None),
                             replays=[Asked(1.2, done_at, 1, pattern, settled, 3)])
            replay, = life.asked_again(truth)
            self.assertEqual((replay.must, replay.may), (must, may), (pattern, done_at))

    def test_replay_before_a_drop(self):
        truth = [Truth('id a', 't', 'm', 'a', xid=9)]
        for done_at, must in ((3.5, {'id a'}), (4.5, set()), (None, set())):
            life = self.life(('#', '10:10:', '10:10:'), dropped_at=5.0, drop_asked_at=4.0, settled={'id a'},
                             replays=[Asked(1.2, done_at, 1, None, {'id a'}, 1)])
            self.assertEqual(life.asked_again(truth)[0].must, must)


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
