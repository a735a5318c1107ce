"""What a request has to show: signatures, tokens, client certificates."""

import base64
import hashlib
import hmac
import json
import os
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from receiver_case import ReceiverCase

KEPT = tempfile.TemporaryDirectory()        # until the tests end
DIRECTORY = KEPT.name
FILE = os.path.join(DIRECTORY, 'credentials')
SECRETS = ['whsec_' + base64.b64encode(bytes([n]) * 24).decode() for n in range(2)]


def accept(**credentials):
    with open(FILE + '.new', 'w', encoding='utf-8') as file:
        json.dump(credentials, file)
    os.rename(FILE + '.new', FILE)


def signed(body, *secrets):
    """Headers of a request with this body."""
    signatures = [hmac.new(base64.b64decode(secret[6:]), b'id.1.' + body, hashlib.sha256).digest() for secret in secrets]
    return {'webhook-id': 'id', 'webhook-timestamp': '1',
            'webhook-signature': ' '.join('v1,' + base64.b64encode(each).decode() for each in signatures)}


class CredentialsTest(ReceiverCase):
    options = ('--mode', 'http', '--credentials', FILE)

    def setUp(self):
        accept()
        super().setUp()

    def assert_answer(self, status, body=b'x', headers=None):
        self.assertEqual(self.receiver.post('/', body, headers or {})[0], status)
        self.assertEqual(self.last()['accepted'], status == 204)

    def test_nothing(self):
        self.assert_answer(204)

    def test_signature(self):
        accept(secrets=SECRETS[:1])
        self.assert_answer(204, b'x', signed(b'x', SECRETS[0]))
        self.assert_answer(204, b'x', signed(b'x', SECRETS[1], SECRETS[0]))
        self.assert_answer(401, b'x', signed(b'x', SECRETS[1]))
        self.assert_answer(401, b'y', signed(b'x', SECRETS[0]))
        self.assert_answer(401)
        accept(secrets=SECRETS)
        self.assert_answer(204, b'x', signed(b'x', SECRETS[1]))

    def test_token(self):
        accept(tokens={'new': time.time() + 60, 'old': time.time() - 1})
        self.assert_answer(204, headers={'Authorization': 'Bearer new'})
        for header in ('Bearer old', 'Bearer none', 'Basic new', 'new'):
            self.assert_answer(401, headers={'Authorization': header})
        self.assertEqual(self.last()['status'], 401)


class ClientCertificateTest(ReceiverCase):
    options = ('--mode', 'http', '--credentials', FILE, '--tls-cert', f'{DIRECTORY}/one.crt',
               '--tls-key', f'{DIRECTORY}/one.key', '--tls-client-ca', f'{DIRECTORY}/one.crt')

    @classmethod
    def setUpClass(cls):
        subprocess.run(['openssl', 'req', '-x509', '-nodes', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1',
                        '-subj', '/CN=one', '-keyout', f'{DIRECTORY}/one.key', '-out', f'{DIRECTORY}/one.crt'],
                       check=True, capture_output=True)
        super().setUpClass()

    def post(self, with_certificate):
        context = ssl.create_default_context(cafile=f'{DIRECTORY}/one.crt')
        context.check_hostname = False
        if with_certificate:
            context.load_cert_chain(f'{DIRECTORY}/one.crt', f'{DIRECTORY}/one.key')
        try:
            with urllib.request.urlopen(f'https://127.0.0.1:{self.receiver.port}/', b'x', 10, context=context) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def test_certificate(self):
        accept(clients=['one'])
        self.assertEqual(self.post(True), 204)
        self.assertIsNone(self.post(False))
        accept(clients=['two'])
        self.assertEqual(self.post(True), 401)
