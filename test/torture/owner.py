"""Who owns the receiver and the secrets of both sides, and rotates them: signatures, certificates, tokens.

The receiver goes by a file (test/receiver/credentials.py), which is replaced at once.  A rotation goes as one should:
the receiver takes the old and the new for a while, and takes the new only when it is in the relay's files.  The relay may
not have looked at these yet: then it is refused, once.

The tokens' server is a part of this.  They live for a few seconds; they are revoked; and the server goes away.
"""

import base64
import http.server
import json
import os
import random
import subprocess
import threading
import time

CLIENTS = 10                # certificates that there are
TOKEN_SECONDS = 4           # that a token lives
GRACE = 1.0                 # ... and is taken for longer, since the relay counts from when it has it
FRESH = 1.5                 # a token that is revoked sooner is of no use to ask for another one
CLIENT = 'outbox'


def replace(path, text):
    """A new file in the place of the old one, which is there all the time."""
    with open(os.open(path + '.new', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 'w', encoding='utf-8') as file:
        file.write(text)
    os.rename(path + '.new', path)


def _openssl(*arguments):
    subprocess.run(['openssl', *arguments], check=True, capture_output=True)


class Certificates:
    """An authority, and what it has signed."""

    def __init__(self, directory):
        self.directory = directory
        _openssl('req', '-x509', '-nodes', '-days', '2', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1',
                 '-subj', '/CN=authority', '-keyout', self.path('ca.key'), '-out', self.path('ca.crt'))

    def path(self, name):
        return os.path.join(self.directory, name)

    def issue(self, name, subject):
        """Files NAME.crt and NAME.key."""
        replace(self.path(f'{name}.ext'), f'subjectAltName={subject}\n')
        _openssl('req', '-nodes', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-subj', f'/CN={name}',
                 '-keyout', self.path(f'{name}.key'), '-out', self.path(f'{name}.csr'))
        _openssl('x509', '-req', '-days', '2', '-in', self.path(f'{name}.csr'), '-CA', self.path('ca.crt'), '-CAkey',
                 self.path('ca.key'), '-CAcreateserial', '-extfile', self.path(f'{name}.ext'), '-out',
                 self.path(f'{name}.crt'))

    def read(self, name):
        with open(self.path(name), encoding='ascii') as file:
            return file.read()


class Owner(threading.Thread):
    """Rotates one thing after the other until it is told to end: at first each once."""

    KINDS = {'signature': 3, 'certificate': 3, 'revoke': 3, 'client_secret': 2, 'away': 1}
    WAIT = (0.2, 1.0)

    def __init__(self, directory, seed):
        super().__init__(name='owner', daemon=True)
        self.directory = directory
        self.rng = random.Random(f'{seed}/owner')
        self.certificates = Certificates(directory)
        self.certificates.issue('server', 'IP:127.0.0.1')
        for number in range(CLIENTS):
            self.certificates.issue(f'client-{number}', 'DNS:client')
        self.lock = threading.RLock()           # tokens are granted by other threads
        self.ending = threading.Event()
        self.number = 0
        self.secret = self.new_secret()
        self.client_secrets = ['secret-0']
        self.accepted = {'secrets': [self.secret], 'tokens': {}, 'clients': ['client-0']}
        self.granted_at = 0.0                   # the newest token
        self.revoked_at = []                    # when the receiver stopped to take something
        self.done = dict.fromkeys(self.KINDS, 0)
        self.error = None
        self.tell()
        replace(self.path('signatures'), self.secret)
        replace(self.path('client_secret'), self.client_secrets[0])
        self._replace_certificate('client-0')
        self.port = 0
        self.tokens = None
        self.open_tokens()

    def path(self, name):
        return os.path.join(self.directory, name)

    def new_secret(self):
        return 'whsec_' + base64.b64encode(self.rng.randbytes(32)).decode()

    def tell(self, **accepted):
        """The receiver takes this from now on."""
        with self.lock:
            self.accepted.update(accepted)
            replace(self.path('credentials'), json.dumps(self.accepted))

    def revoke(self, **accepted):
        """... and something else no longer."""
        self.revoked_at.append(time.time())
        self.tell(**accepted)

    def settings(self):
        """Of the relay."""
        return {'outbox.http_signature_secret_file': self.path('signatures'), 'outbox.http_content_mode': 'structured',
                'outbox.tls_ca_file': self.path('ca.crt'), 'outbox.tls_cert_file': self.path('used.crt'),
                'outbox.tls_key_file': self.path('used.key'), 'outbox.http_oauth_client_id': CLIENT,
                'outbox.http_oauth_token_url': f'http://127.0.0.1:{self.port}/token',
                'outbox.http_oauth_client_secret_file': self.path('client_secret')}

    # --- rotating

    def run(self):
        try:
            first = self.rng.sample(list(self.KINDS), len(self.KINDS))
            while not self.ending.wait(self.rng.uniform(*self.WAIT)):
                kind = first.pop() if first else self.rng.choices(list(self.KINDS), self.KINDS.values())[0]
                getattr(self, 'do_' + kind)()
                self.done[kind] += 1
        except Exception as error:          # raised again by end()
            self.error = error

    def end(self):
        self.ending.set()
        self.join()
        if self.error is not None:
            raise self.error

    def pause(self, longest):
        """Or not at all: then nobody has looked at a file that was replaced just now."""
        self.ending.wait(self.rng.choice((0, self.rng.uniform(0, longest))))

    def do_signature(self):
        """As docs/webhooks.md has it."""
        old, self.secret = self.secret, self.new_secret()
        replace(self.path('signatures'), f'{old}\n{self.secret}\n')
        self.pause(1.5)
        self.revoke(secrets=[self.secret])
        self.pause(0.5)
        replace(self.path('signatures'), self.secret)

    def do_certificate(self):
        """Of the two files one is there before the other."""
        self.number += 1
        name = f'client-{self.number % CLIENTS}'
        self.tell(clients=self.accepted['clients'] + [name])
        self._replace_certificate(name)
        self.pause(1.5)
        self.revoke(clients=[name])

    def _replace_certificate(self, name):
        replace(self.path('used.crt'), self.certificates.read(f'{name}.crt'))
        if self.is_alive():
            self.pause(0.3)
        replace(self.path('used.key'), self.certificates.read(f'{name}.key'))

    def do_revoke(self):
        """All tokens, of which the newest is not fresh any more."""
        while not self.ending.wait(0.05):
            with self.lock:
                if time.time() > self.granted_at + FRESH:
                    self.revoke(tokens={})
                    return

    def do_client_secret(self):
        self.number += 1
        self.client_secrets.append(f'secret-{self.number}')
        replace(self.path('client_secret'), self.client_secrets[-1])
        self.pause(1.0)
        self.client_secrets = self.client_secrets[-1:]

    def do_away(self):
        """For longer than some tokens live."""
        self.tokens.shutdown()
        self.tokens.server_close()
        self.ending.wait(self.rng.uniform(0.5, 1.5 * TOKEN_SECONDS))
        self.open_tokens()

    # --- tokens

    def open_tokens(self):
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers['Content-Length']))
                status, answer = owner.grant(self.headers['Authorization'])
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header('Content-Length', str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.tokens = http.server.ThreadingHTTPServer(('127.0.0.1', self.port), Handler)
        self.port = self.tokens.server_port
        threading.Thread(target=self.tokens.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True).start()

    def grant(self, authorization):
        """(status, answer): a token, if the client's secret is one of those that are good."""
        given = base64.b64decode(authorization.removeprefix('Basic ')).decode()
        if given not in [f'{CLIENT}:{secret}' for secret in self.client_secrets]:
            return 401, {'error': 'invalid_client'}
        token = os.urandom(8).hex()
        with self.lock:
            self.granted_at = time.time()
            self.tell(tokens={**self.accepted['tokens'], token: self.granted_at + TOKEN_SECONDS + GRACE})
        return 200, {'access_token': token, 'token_type': 'Bearer', 'expires_in': TOKEN_SECONDS}
