"""What the receiver listens on: a TCP port or a Unix socket.

Each can be closed, so that clients are refused, and opened again at the same place.
"""

import os
import socket

BACKLOG = 1024


class Listener:
    """A TCP port of an address that can be closed and opened again.

    While it is closed the port stays bound, so that clients are refused and nobody else gets it."""

    def __init__(self, loop, factory, port, tls=None, host='127.0.0.1'):
        self.loop = loop
        self.host = host
        self.factory = factory
        self.tls = tls
        self.server = None
        self.socket = self._bind(port)
        self.port = self.socket.getsockname()[1]

    def _bind(self, port):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self.host, port))
        return sock

    async def open(self):
        if self.server is None:
            self.server = await self.loop.create_server(self.factory, sock=self.socket, ssl=self.tls, backlog=BACKLOG)

    async def close(self):
        if self.server is not None:
            self.server.close()
            self.server = None
            self.socket = self._bind(self.port)


class UnixListener:
    """The same for a socket in the file system."""

    def __init__(self, loop, factory, path):
        self.loop = loop
        self.factory = factory
        self.path = path
        self.server = None

    async def open(self):
        if self.server is None:
            self.server = await self.loop.create_unix_server(self.factory, self.path, backlog=BACKLOG)

    async def close(self):
        if self.server is not None:
            self.server.close()
            self.server = None
            if os.path.exists(self.path):       # Python 3.13 has removed it
                os.unlink(self.path)
