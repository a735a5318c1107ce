"""HTTP/1.1, and the plain endpoint behind it."""

import socket

from receiver_case import CLOUDEVENT, ReceiverCase, raw_post, read_some


class Http(ReceiverCase):
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
