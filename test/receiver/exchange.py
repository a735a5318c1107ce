"""An exchange: one request that has been read is taken, and answered as a rule wants it.

What is taken goes into the log first and is answered then; what is recorded as accepted is what a
broker would hold, whatever becomes of the answer.  Without a rule, settle() does all at once.  With
one, run() is a task, which may end long after its client has left: what it writes then is dropped.
"""

import asyncio
import os
import signal

from broken_answers import BROKEN_ANSWERS, ENDLESS_ANSWERS, RESET


class Exchange:
    def __init__(self, server, conn, request):
        """Of server it needs endpoint, faults, log and printer."""
        self.server = server
        self.conn = conn
        self.request = request
        self.publication = server.endpoint.prepare(request)
        self.rule = request.rule or server.faults.choose(request, self.publication)

    def settle(self):
        """The usual case: take and answer at once."""
        if self.publication.drop:
            self._record(False, None)
            self.conn.drop()
            return
        response = self._usual_response()
        self._record(True, response.status)
        self.conn.respond(response)

    def _usual_response(self):
        return self.publication.refusal or self.server.endpoint.answer(self.request, self.publication)

    def _record(self, taken, status):
        publication = self.publication
        fault = self.rule.action if self.rule else None
        may_take = taken and publication.refusal is None
        for event in publication.events or (None,):
            accepted = may_take and event is not None and event.error is None
            self.server.log.append(self.request, event, accepted, status, fault)
        if self.server.printer is not None:
            self.server.printer.show(self.request, status)

    async def run(self):
        """The other case: as the rule says."""
        rule = self.rule
        await asyncio.sleep(rule.delay_commit)
        if rule.action in BROKEN_ANSWERS:
            await self._answer_brokenly(BROKEN_ANSWERS[rule.action])
        elif rule.action in ENDLESS_ANSWERS:
            await self._answer_endlessly(ENDLESS_ANSWERS[rule.action])
        elif rule.action == 'hang':
            await self._hang()
        elif rule.action in ('status', 'nul_body'):
            response = rule.response()
            await self._answer(response, taken=200 <= response.status < 300)
        elif self.publication.drop:
            self.settle()
        else:
            rule.fail_events(self.publication.events)
            await self._answer(self._usual_response(), taken=True)

    async def _take(self, taken, status):
        """Everything that comes between taking the event and answering."""
        rule = self.rule
        self._record(rule.spec.get('taken', taken), status)
        if 'kill_pid_from' in rule.spec:
            _kill_pid_from(rule.spec['kill_pid_from'])
        await asyncio.sleep(rule.delay_response)

    async def _answer(self, response, taken):
        spec = self.rule.spec
        if self.request.nth >= spec.get('close_after', float('inf')):
            response.silent_close = True
            response.close = spec.get('announce', True)
            response.close_delay = spec.get('close_delay', 0)
        await self._take(taken, response.status)
        self.conn.respond(response)

    async def _answer_brokenly(self, broken):
        await self._take(broken.taken, broken.status)
        self.conn.write(broken.data)
        if broken.ending is None:
            await self.conn.closed
        elif self.conn.is_closing():
            return
        elif broken.ending == RESET:
            self.conn.reset()
        else:
            self.conn.drop()

    async def _answer_endlessly(self, endless):
        await self._take(endless.taken, endless.status)
        interval = self.rule.spec.get('interval', 0.3) if endless.drips else 0
        for piece in endless.pieces():
            if self.conn.is_closing():
                return
            self.conn.write(piece)
            await self.conn.drain()
            await asyncio.sleep(interval)

    async def _hang(self):
        released = self.server.faults.released
        await self._take(False, None)
        await asyncio.wait({released, self.conn.closed}, return_when=asyncio.FIRST_COMPLETED)
        if self.conn.is_closing():
            return
        if self.rule.spec.get('on_release', 'drop') == 'answer':
            self.rule = None
            self.settle()
        else:
            self.conn.drop()


def _kill_pid_from(path):
    with open(path, encoding='ascii') as file:
        pid = int(file.readline())
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass                            # somebody was faster
