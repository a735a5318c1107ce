"""A thread of the load, with a session of its own that outlives crashes of the server."""

import threading
import time

import psycopg2

RECONNECT = 0.05            # seconds


class Session(threading.Thread):
    """A thread with a connection that it makes anew whenever it breaks."""

    def __init__(self, load, name):
        super().__init__(name=name, daemon=True)
        self.load = load
        self.connection = None
        self.cursor = None
        self.error = None           # what ended the thread, which nothing should

    def run(self):
        try:
            while not self.finished():
                if self.load.paused.is_set():
                    self.disconnect()
                    self.load.stopping.wait(RECONNECT)
                elif self.connected():
                    self.attempt()
        except Exception as error:      # reported by Load.stop()
            self.error = error
        finally:
            self.disconnect()

    def finished(self):
        return self.load.stopping.is_set()

    def connected(self):
        if self.connection is None or self.connection.closed:
            try:
                self.connection = self.load.server.connect(f'torture {self.name}')
                self.cursor = self.connection.cursor()
            except psycopg2.Error:
                self.load.stopping.wait(RECONNECT)
                return False
        return True

    def disconnect(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def attempt(self):
        try:
            self.work()
        except psycopg2.Error as error:
            self.load.count_error(error)
            self.recover()

    def recover(self):
        """End what is left of the transaction, or forget the connection."""
        try:
            self.cursor.execute('ROLLBACK')
        except psycopg2.Error:
            self.disconnect()
            time.sleep(RECONNECT)

    def work(self):
        raise NotImplementedError
