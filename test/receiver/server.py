"""The server: it owns all parts of the receiver, and decides what becomes of a request.

One process, one event loop, no thread, so nothing needs a lock.  Connections call it: look_at_head()
before they read a body, dispatch() when it is there, and the rest for its counters.
"""

import os
import ssl
import sys

from connection import Connection
from control import Control
from credentials import Credentials
from dapr import Daprd
from exchange import Exchange
from http_message import text_response
from listener import Listener, UnixListener
from log import Log
from plain_endpoint import PlainEndpoint
from printer import Printer
from rules import FaultScript


class Server:
    def __init__(self, options, loop):
        self.loop = loop
        self.endpoint = make_endpoint(options)
        self.log = Log(options.log)
        self.printer = Printer(sys.stdout) if options.print else None
        self.faults = FaultScript(self.endpoint, loop)
        self.control = Control(self)
        self.max_header = options.max_header
        self.max_body = options.max_body
        self.listeners = make_listeners(options, loop, lambda: Connection(self))
        self.control_listener = Listener(loop, lambda: Connection(self, control_only=True), options.ctl_port)
        self.listening = False
        self.connections = set()
        self.tasks = set()              # keeps them from being collected while they wait
        self.connections_made = 0
        self.requests = 0
        self.concurrent = 0
        self.max_concurrent = 0

    async def start(self, options):
        """Listen; a port file is written when clients can connect."""
        await self.control_listener.open()
        await self.set_listening(True)
        write_port(options.ctl_port_file, self.control_listener.port)
        for listener in self.listeners:
            if isinstance(listener, Listener):
                write_port(options.port_file, listener.port)
                if self.printer is not None:
                    self.printer.listening(f'{options.host}:{listener.port}')

    async def set_listening(self, listening):
        """Without listening, connections that are open end as well: a process that is down has none."""
        self.listening = listening
        for listener in self.listeners:
            await (listener.open() if listening else listener.close())
        if not listening:
            for conn in list(self.connections):
                if not (conn.control_only or (conn.request and conn.request.is_control)):
                    conn.drop()

    # --- requests

    def look_at_head(self, request):
        """What the head alone decides: a refusal, and a rule that strikes before the body is read."""
        if not request.is_control:
            request.refusal = self.endpoint.route(request)
            request.rule = self.faults.choose_by_head(request)

    def dispatch(self, request, conn):
        """Answer a request that has been read: at once, or in a task that has the connection then."""
        if request.is_control:
            conn.spawn(self._answer_control(request, conn))
        elif conn.control_only:
            conn.respond(text_response(404, 'control port\n'))
        else:
            exchange = Exchange(self, conn, request)
            if exchange.rule is None:
                exchange.settle()
            else:
                conn.spawn(exchange.run())

    async def _answer_control(self, request, conn):
        conn.respond(await self.control.handle(request, conn))

    # --- counters

    def connection_opened(self, conn):
        """The connection's number; those to the control port do not count."""
        self.connections.add(conn)
        if not conn.control_only:
            self.connections_made += 1
        return self.connections_made

    def connection_closed(self, conn):
        self.connections.discard(conn)

    def request_began(self, request):
        if not request.is_control:
            self.requests += 1
            self.concurrent += 1
            self.max_concurrent = max(self.max_concurrent, self.concurrent)

    def request_ended(self, request):
        if not request.is_control:
            self.concurrent -= 1

    def stats(self):
        return {'requests': self.requests, 'entries': len(self.log.entries), 'accepted': self.log.accepted,
                'refused': len(self.log.entries) - self.log.accepted, 'distinct_ids': len(self.log.ids),
                'last_seq': self.log.last_seq, 'concurrent': self.concurrent,
                'max_concurrent': self.max_concurrent, 'connections': self.connections_made,
                'open_connections': sum(not conn.control_only for conn in self.connections),
                'listening': self.listening}


def make_endpoint(options):
    if options.mode == 'http':
        return PlainEndpoint(Credentials(options.credentials) if options.credentials else None)
    return Daprd(options.app_id, options.token, options.components, options.profile)


def make_listeners(options, loop, factory):
    listeners = []
    if options.unix is not None:
        listeners.append(UnixListener(loop, factory, options.unix))
    if options.port is not None or options.unix is None:
        tls = None
        if options.tls_cert is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(options.tls_cert, options.tls_key)
            if options.tls_client_ca is not None:
                tls.load_verify_locations(options.tls_client_ca)
                tls.verify_mode = ssl.CERT_REQUIRED
        listeners.append(Listener(loop, factory, options.port or 0, tls, options.host))
    return listeners


def write_port(path, port):
    """All at once: who sees the file sees the number."""
    if path is None:
        return
    with open(path + '.tmp', 'w', encoding='ascii') as file:
        file.write(f'{port}\n')
    os.rename(path + '.tmp', path)
