"""The bytes that a relay sends, for the bare loop to send them again."""

import socket
import threading


class Capture:
    """A receiver that answers 204 to whatever comes and keeps the largest POST."""

    def __init__(self):
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.url = 'http://127.0.0.1:%d' % self._listener.getsockname()[1]
        self._posts = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        try:
            while True:
                connection = self._listener.accept()[0]
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        except OSError:
            pass                                # closed

    def _serve(self, connection):
        with connection, connection.makefile('rb') as stream:
            while head := self._read_head(stream):
                length = next((int(line.split(b':')[1]) for line in head.splitlines()
                               if line.lower().startswith(b'content-length:')), 0)
                body = stream.read(length)
                if head.startswith(b'POST '):
                    self._posts.append(head + body)
                connection.sendall(b'HTTP/1.1 204 No Content\r\n\r\n')

    @staticmethod
    def _read_head(stream):
        head = b''
        while not head.endswith(b'\r\n\r\n'):
            line = stream.readline()
            if not line:
                return b''
            head += line
        return head

    def largest(self):
        return max(self._posts, key=len)

    def close(self):
        self._listener.close()


def capture_request(database, path, events, size):
    """
    Have the relay send so many events to a Capture, as it is configured but for the address, and
    write the largest request to a file.  Returns how many events are in it.
    """
    capture = Capture()
    database.enable(False)
    database.configure(dapr_endpoint=capture.url, http_url=capture.url + '/v1.0/publish/pubsub/{topic}')
    database.publish(events, size)
    before = database.published()
    database.enable(True)
    database.await_settled(before + events)
    database.enable(False)
    database.empty()
    capture.close()
    request = capture.largest()
    with open(path, 'wb') as file:
        file.write(request)
    return request.count(b'"fill"')
