"""The process: how it ends, what it keeps when it is killed, where it listens."""

import http.client
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import unittest

from receiver_case import RECEIVER, TIMEOUT, Receiver, raw_post, wait_for


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
