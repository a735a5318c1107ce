"""A connection: bytes become requests, and answers become bytes.

HTTP/1.1 with keep-alive, pipelining, chunked bodies and 100-continue.  A client's requests are
answered one after the other.  Either data_received() works on the input at once, or a task has the
connection ("busy": control requests and those that a fault rule has met) and the input waits until
the task is done.  An exception in a task is printed and ends the connection, nothing else.

What a request means is no matter of this file: the server (server.py) looks at its head, and when
the body is there, dispatches it.
"""

import asyncio
import socket
import struct
import traceback

from http_message import BadRequest, BodyTooLarge, LengthBody, Request, body_reader

LINGER_SECONDS = 0.5


def common_name(certificate):
    """Of a certificate as ssl.SSLSocket.getpeercert() has it; None if there is none."""
    subject = certificate.get('subject', ()) if certificate else ()
    return next((value for names in subject for name, value in names if name == 'commonName'), None)


class Connection(asyncio.Protocol):
    def __init__(self, server, control_only=False):
        self.server = server
        self.control_only = control_only
        self.buffer = bytearray()
        self.request = None     # the one that is being read or answered
        self.body = None        # reads the body of self.request
        self.busy = False       # a task has the connection
        self.lingering = False  # the last answer is out, and input is thrown away
        self.nth = 0            # requests so far
        self.id = 0
        self.peer = None        # the name in the client's certificate

    # --- callbacks of the event loop

    def connection_made(self, transport):
        self.transport = transport
        self.closed = self.server.loop.create_future()
        self.writable = asyncio.Event()
        self.writable.set()
        self.id = self.server.connection_opened(self)
        self.peer = common_name(transport.get_extra_info('peercert'))

    def connection_lost(self, exc):
        self.closed.set_result(None)
        self.writable.set()
        self._forget_request()
        self.server.connection_closed(self)

    def pause_writing(self):
        self.writable.clear()

    def resume_writing(self):
        self.writable.set()

    def data_received(self, data):
        if self.lingering:
            return
        self.buffer += data
        self._advance()

    # --- reading

    def _advance(self):
        """Work on the input as far as it goes."""
        try:
            while not self.busy and not self.is_closing():
                if self.request is None and not self._read_head():
                    return
                if not self.busy and not self._read_body():
                    return
        except BadRequest as error:
            self.respond(error.response)

    def _read_head(self):
        """False: it is not complete.  As _read_body()."""
        end = self.buffer.find(b'\r\n\r\n')
        size = len(self.buffer) if end < 0 else end + 4
        if size > self.server.max_header:
            raise BadRequest(431)
        if end < 0:
            return False
        head = bytes(self.buffer[:end])
        del self.buffer[:size]
        self.nth += 1
        self.request = Request(head, self.id, self.nth)
        self.request.peer = self.peer
        self.server.request_began(self.request)
        self._begin_body()
        return True

    def _begin_body(self):
        """Decide about the body from the head alone."""
        request = self.request
        self.server.look_at_head(request)
        self.body = body_reader(request, self.server.max_body)
        if request.rule is not None:
            self.spawn(self._begin_body_later(request.rule))
        else:
            self._invite_body()

    async def _begin_body_later(self, rule):
        self.transport.pause_reading()
        await asyncio.sleep(rule.delay_read)
        if not self.is_closing():
            self.transport.resume_reading()
            if rule.action != 'no_continue':
                self._invite_body()

    def _invite_body(self):
        """Tell a client that has asked to go on, unless it is refused: as a Go server does when the
        handler begins to read."""
        request = self.request
        if request.header('expect').lower() != '100-continue':
            return
        if request.refusal is not None or request.too_large:
            self.body = LengthBody(0)   # it will never be sent
            if request.refusal is not None:
                request.refusal.close = True
        elif not self.buffer:
            self.write(b'HTTP/1.1 100 Continue\r\n\r\n')

    def _read_body(self):
        request = self.request
        if not request.too_large:
            try:
                body = self.body.read(self.buffer)
            except BodyTooLarge:
                request.too_large = True
                body = b''
            if body is None:
                return False
            request.body = body
        self.server.dispatch(request, self)
        return True

    # --- tasks

    def spawn(self, coroutine):
        """Leave the connection to a task."""
        self.busy = True
        task = self.server.loop.create_task(coroutine)
        task.add_done_callback(self._task_done)
        self.server.tasks.add(task)

    def _task_done(self, task):
        self.server.tasks.discard(task)
        self.busy = False
        if task.cancelled():
            return
        if task.exception() is not None:
            traceback.print_exception(task.exception())
            self.drop()
        elif not self.is_closing():
            self._advance()

    # --- writing

    def respond(self, response):
        """Answer the present request."""
        request = self.request
        if request is not None and not request.keeps_alive:
            response.close = True
        unread = request is None or request.too_large
        if unread:
            response.close = True
        self.write(response.encode())
        self._forget_request()
        if unread:
            self._linger()
        elif response.close or response.silent_close:
            if response.close_delay:
                self.server.loop.call_later(response.close_delay, self.transport.close)
            else:
                self.transport.close()

    def _linger(self):
        """Close so that a client in the middle of its body has a chance to see the answer: data that
        nobody reads would turn the close into a reset."""
        self.lingering = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.server.loop.call_later(LINGER_SECONDS, self.transport.close)

    def write(self, data):
        if not self.is_closing():
            self.transport.write(data)

    async def drain(self):
        """Wait until the client has read so much that there is room for more."""
        await asyncio.sleep(0)
        await self.writable.wait()

    def drop(self):
        """End the connection in good manners, without a word more."""
        self._forget_request()
        self.transport.close()

    def reset(self):
        """End the connection with a RST."""
        self._forget_request()
        linger = struct.pack('ii', 1, 0)
        self.transport.get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    def is_closing(self):
        return self.lingering or self.transport.is_closing()

    def _forget_request(self):
        if self.request is not None:
            self.server.request_ended(self.request)
            self.request = None
