"""What each request has to show, of a file that is read anew when another one is in its place.

It is JSON; what is not in it need not be shown:

    secrets     "whsec_..." of Standard Webhooks, one of which has to have signed
    tokens      {token: until when, in seconds since 1970}, of which one has to be in the header Authorization
    clients     names in the clients' certificates
"""

import base64
import hashlib
import hmac
import json
import os
import time


class Credentials:
    def __init__(self, path):
        self.path = path
        self.seen = None            # of the file that was read
        self.accepted = {}

    def problem(self, request):
        """Why the request is refused, or None."""
        self._follow()
        if 'clients' in self.accepted and request.peer not in self.accepted['clients']:
            return f'certificate of {request.peer} not accepted'
        if 'tokens' in self.accepted and not self._has_token(request.header('authorization')):
            return 'token not accepted'
        if 'secrets' in self.accepted and not any(_is_signed(request, secret) for secret in self.accepted['secrets']):
            return 'signature not accepted'
        return None

    def _follow(self):
        status = os.stat(self.path)
        seen = status.st_ino, status.st_mtime_ns
        if seen != self.seen:
            with open(self.path, encoding='utf-8') as file:
                self.accepted = json.load(file)
            self.seen = seen

    def _has_token(self, header):
        kind, _, token = header.partition(' ')
        return kind == 'Bearer' and self.accepted['tokens'].get(token, 0) > time.time()


def _is_signed(request, secret):
    signed = f"{request.header('webhook-id')}.{request.header('webhook-timestamp')}.".encode() + request.body
    digest = hmac.new(base64.b64decode(secret.removeprefix('whsec_')), signed, hashlib.sha256).digest()
    return 'v1,' + base64.b64encode(digest).decode() in request.header('webhook-signature').split(' ')
