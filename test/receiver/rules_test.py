"""The fault rules: whom they meet, and what they do to a request and its answer."""

import http.client
import subprocess
import tempfile
import time

from receiver_case import TIMEOUT, Receiver, ReceiverCase, raw_post, read_all, read_some, wait_for


class Rules(ReceiverCase):
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

    def test_header(self):
        self.receiver.faults({'match': {'header': 'x-a: 1'}, 'status': 418})
        for headers, status in (({'X-A': '1'}, 418), ({'X-A': '2'}, 204), ({}, 204)):
            self.assertEqual(self.receiver.post('/', headers=headers)[0], status)

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
