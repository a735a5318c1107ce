#!/usr/bin/python3
"""A Dapr application that subscribes, and writes down what its sidecar hands it.

    subscriber.py --port 8000 --log FILE --subscriptions '[{"pubsubname": "pubsub", "topic": "orders", "route": "/events"}]'

Needs Python 3 and nothing else.  The sidecar asks for the subscriptions when it starts, then posts
each event; what is answered with 200 is not handed out again.  In the log each event is a line of
JSON, written before it is acknowledged.
"""

import argparse
import base64
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def text_or_base64(body):
    try:
        return {'body': body.decode()}
    except UnicodeDecodeError:
        return {'body_base64': base64.b64encode(body).decode()}


class Application(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, options):
        super().__init__(('127.0.0.1', options.port), Handler)
        self.subscriptions = options.subscriptions.encode()
        self.log = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def take(self, path, headers, body):
        """What is one os.write() stays one line, whichever threads write."""
        entry = {'time': time.time(), 'path': path, 'headers': headers, **text_or_base64(body)}
        os.write(self.log, json.dumps(entry).encode() + b'\n')


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'   # so that connections are kept
    disable_nagle_algorithm = True
    wbufsize = -1                   # an answer is one packet

    def answer(self, body):
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(self.server.subscriptions if self.path == '/dapr/subscribe' else b'{}')

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        self.server.take(self.path, dict(self.headers), body)
        self.answer(b'{"status": "SUCCESS"}')

    def log_message(self, *arguments):
        pass


def main():
    parser = argparse.ArgumentParser(description='A Dapr application that writes down its events.')
    parser.add_argument('--port', type=int, required=True, help='on 127.0.0.1')
    parser.add_argument('--subscriptions', default='[]', metavar='JSON', help='as for GET /dapr/subscribe')
    parser.add_argument('--log', metavar='FILE', required=True, help='append a line for each event')
    application = Application(parser.parse_args())
    try:
        application.serve_forever()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == '__main__':
    main()
