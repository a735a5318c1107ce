#!/usr/bin/python3
"""The receiver that the tests relay to: a stand-in for daprd, or a plain HTTP endpoint.

    receiver.py --mode dapr --port 3500
    receiver.py --help

It needs Python 3 and nothing else, and runs as any user from anywhere.  A request passes through
these stages, each a file:

    listener.py         a port or a Unix socket that can refuse clients
    connection.py       bytes -> Request; keep-alive, chunked bodies, 100-continue
    dapr.py, plain_endpoint.py (with credentials.py)
                        route(): may the request come in?  prepare(): Request -> Publication, that is
                        the events it carries or the refusal it earns
    rules.py            picks at most one fault rule for the request; without one the answer is given
                        at once
    exchange.py         records in the log (log.py) what was taken, and only then answers; does what
                        the rule wants; has it shown if somebody looks on (printer.py)
    control.py          what tests ask and tell the receiver, under /__ctl/
    server.py           holds them together

Imports point downwards only: server; connection, exchange, control; dapr and its parts,
plain_endpoint, credentials; rules, log, printer; publication, http_message, golang, broken_answers.

What is recorded as accepted is what a broker would hold, whatever became of the answer: that is what
the tests compare with the committed events.  An entry reaches the log file before the first byte of
its answer leaves.

Brokers, subscribers, gRPC and resiliency policies are not modelled: script their errors with fault
rules.
"""

import argparse
import asyncio
import json
import os
import signal
import sys

from dapr import PROFILES
from server import Server

PARENT_CHECK_INTERVAL = 0.25


def parse_options(arguments):
    parser = argparse.ArgumentParser(description='The receiver that the tests relay to.')
    parser.add_argument('--mode', choices=('dapr', 'http'), required=True)
    parser.add_argument('--host', default='127.0.0.1', help='IPv4 address of this machine (default: 127.0.0.1)')
    parser.add_argument('--port', type=int, help='on --host; 0 = any (default, unless --unix is given)')
    parser.add_argument('--port-file', help='is written once the receiver listens')
    parser.add_argument('--ctl-port', type=int, default=0, help='serves only the control API (default: any)')
    parser.add_argument('--ctl-port-file')
    parser.add_argument('--unix', metavar='PATH', help='listen on a Unix socket')
    parser.add_argument('--tls-cert', help='serve https on --port')
    parser.add_argument('--tls-key')
    parser.add_argument('--tls-client-ca', help='clients have to show a certificate of this authority')
    parser.add_argument('--credentials', metavar='FILE',
                        help='mode http: what a request has to show, see credentials.py')
    parser.add_argument('--log', metavar='FILE', help='append each entry; entries of a former run are kept')
    parser.add_argument('--print', action='store_true', help='show what is published: each request and its answer')
    parser.add_argument('--max-body', type=int, help='bytes (default: 4 MiB as daprd, 1 GiB in mode http)')
    parser.add_argument('--max-header', type=int, help='bytes (default: 8 KiB as daprd, 64 KiB in mode http)')
    parser.add_argument('--exit-with-parent', action='store_true')
    dapr = parser.add_argument_group('mode dapr')
    dapr.add_argument('--token', help='the dapr-api-token that clients must send')
    dapr.add_argument('--app-id', default='relay')
    dapr.add_argument('--profile', choices=sorted(PROFILES), default='1.18', help='version of daprd')
    dapr.add_argument('--components', type=json.loads, metavar='JSON',
                      help='{NAME: {"type", "capabilities": [], "allowed_topics": [], "down": false}}')
    options = parser.parse_args(arguments)
    is_dapr = options.mode == 'dapr'
    if options.max_body is None:
        options.max_body = 4 << 20 if is_dapr else 1 << 30
    if options.max_header is None:
        options.max_header = 8192 if is_dapr else 65536
    return options


async def serve(options, parent):
    """Serve until SIGTERM, or until the parent has ended if that was asked for."""
    loop = asyncio.get_running_loop()
    stop = loop.create_future()
    loop.add_signal_handler(signal.SIGTERM, lambda: stop.done() or stop.set_result(None))
    await Server(options, loop).start(options)
    endings = {stop}
    if options.exit_with_parent:
        endings.add(loop.create_task(parent_gone(parent)))
    await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)


async def parent_gone(parent):
    """Wait for the parent's end; Python has no other way than to poll."""
    while os.getppid() == parent:
        await asyncio.sleep(PARENT_CHECK_INTERVAL)


def main():
    parent = os.getppid()
    # json recurses, and PostgreSQL lets payloads nest deeper than Python's default.
    sys.setrecursionlimit(10000)
    asyncio.run(serve(parse_options(sys.argv[1:]), parent))


if __name__ == '__main__':
    main()
