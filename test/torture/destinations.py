"""The phase "destinations": they are added, altered, paused, resumed, dropped and replayed while all else goes on.

There are two receivers, each in trouble of its own: one of default, one of all others, each of which has a path
there.  The server crashes and stops, and events are restored from elsewhere.  Operators (operators.py) change
destinations meanwhile.  Each destination is judged by itself, from when it was added until it was dropped: all that it
takes has to arrive, nothing else may, each key in order, and no copy without a reason, of which a replay is one.
"""

import dataclasses
import itertools
import os
import random
import threading
import time

import checker
from faults import LANES, draw_schedule
from lives import read_lives
from operators import SCHEMA, TOPICS, Observer, Operator
from restores import make_source, restore_round
from rig import Rig, prepared
from server import Receiver, TortureError, poll

TURNS = 3
SECONDS = 11                # of a turn, in which there are faults
OPERATORS = 2
FIRST_OPERATOR = 90         # by which it differs from writers
PRUNED = 60

SETTINGS = {'max_worker_processes': 20, 'outbox.cleaning_expire_interval': '1s'}


def _without(lane, name):
    faults, pause = LANES[lane]
    return {fault: weight for fault, weight in faults.items() if fault != name}, pause


# A fault that needs a receiver belongs to the lanes of that one.  Administrators retry enough by hand.
SERVER_LANES = {'server': _without('server', 'kill_relay_at_answer'), 'mild': _without('mild', 'retry_by_hand')}
RECEIVER_LANES = {'receiver': LANES['receiver'], 'topic': LANES['topic']}

# That help to find out what was wrong, beside those of every rig.
OWN_TABLES = ('outbox_destination', 'outbox_filter', 'outbox_request', 'torture_life', 'torture_version',
              'torture_settings', 'torture_pause', 'torture_replay', 'torture_settled')

# How many of those that were dropped have left something.
LEFT = """
SELECT count(*) FROM torture_life l
WHERE l.dropped_at IS NOT NULL AND (
    EXISTS (SELECT 1 FROM outbox_delivery d WHERE d.destination = l.destination)
    OR EXISTS (SELECT 1 FROM outbox_progress d WHERE d.destination = l.destination)
    OR EXISTS (SELECT 1 FROM outbox_filter d WHERE d.destination = l.destination)
    OR EXISTS (SELECT 1 FROM outbox_request d WHERE d.destination = l.destination)
    OR EXISTS (SELECT 1 FROM outbox_destination d WHERE d.id = l.destination))
"""


class DestinationsRig(Rig):
    """With a second receiver, and what was done to each of them."""

    def __init__(self, options, directory, name, **more):
        super().__init__(options, directory, name, **more)
        second = os.path.join(directory, 'receiver.second')
        os.mkdir(second)
        self.second = Receiver(second, 'http')
        self.of_server, self.of_first, self.of_second = [], [], []

    def set_up(self):
        self.second.start()
        super().set_up()
        self.server.execute(SCHEMA)

    def tables(self):
        return super().tables() + OWN_TABLES

    def let_pass(self):
        super().let_pass()
        self.second.faults([])

    def clean_up(self):
        self.second.kill()
        super().clean_up()

    def trouble(self, seed):
        """A turn of faults; at the end there are none."""
        injectors = [self._injector(self.receiver, self.of_server), self._injector(self.receiver, self.of_first),
                     self._injector(self.second, self.of_second)]
        self.injector = injectors[0]
        schedules = [draw_schedule(f'{seed}/{number}', SECONDS, RECEIVER_LANES if number else SERVER_LANES)
                     for number in range(len(injectors))]
        others = [threading.Thread(target=injector.run, args=(schedule, SECONDS), daemon=True)
                  for injector, schedule in zip(injectors[1:], schedules[1:])]
        for thread in others:
            thread.start()
        injectors[0].run(schedules[0], SECONDS)
        for thread in others:
            thread.join()
        for injector in injectors:
            if injector.errors:
                raise injector.errors[0]
            injector.calm()

    def _injector(self, receiver, disturbances):
        injector = self.make_injector(receiver)
        injector.disturbances = disturbances
        return injector

    # --- judging

    def check(self):
        """Of all destinations, each by what arrived there."""
        evidence = self.evidence()
        self.second.kill()
        arrivals = {}
        for arrival in checker.read_arrivals(self.second.logs):
            arrivals.setdefault(int(arrival.path.split('/')[1]), []).append(arrival)
        lives = read_lives(self.server)
        report = None
        for life in lives:
            run = self._run_of(life, evidence, arrivals.pop(life.number, []))
            found = checker.check(run)
            found.count('replay_miscounted')
            for asked, replay in zip(life.replays, run.replays):
                if asked.count < len(replay.must):
                    found.found('replay_miscounted', f'{asked.count}, not {len(replay.must)}, at {asked.asked_at:.3f}')
            if report is None:
                report = found
            else:
                report.add(found, f'{life.name} ({life.number})')
        for number, those in arrivals.items():
            report.found('sent_unwanted', f'{len(those)} to {number}, which was never committed')
        report.numbers.update({'destinations': len(lives),
                               'dropped': sum(life.dropped_at is not None for life in lives),
                               'versions': sum(len(life.versions) for life in lives),
                               'replays': sum(len(life.replays) for life in lives),
                               'pauses_seen': sum(what == 'sent_while_paused' for life in lives
                                                  for what, _, _ in life.silences)})
        return report

    def _run_of(self, life, evidence, arrivals):
        """What is to be known of a destination."""
        unwanted, optional = life.split(evidence.truth)
        return dataclasses.replace(
            evidence, unwanted=unwanted, optional=optional, replays=life.asked_again(evidence.truth),
            silences=life.silences, begin=life.added_at, arrivals=evidence.arrivals if life.number == 0 else arrivals,
            disturbances=life.disturbances + self.of_server + (self.of_second if life.number else self.of_first),
            dead=[dead for dead in evidence.dead if dead.destination == life.destination],
            unsettled=0 if life.number else evidence.unsettled, overtaken=[] if life.number else evidence.overtaken)


def destinations(options, directory):
    """They change, again and again."""
    with prepared(options, directory, 'destinations', make=DestinationsRig, settings=SETTINGS) as rig:
        source = make_source(rig)
        rng = random.Random(options.seed)
        load = rig.new_load(prefix='v', writers=4, administrators=1, topics=TOPICS)
        numbers = itertools.count(1)
        operators = [Operator(load, FIRST_OPERATOR + number, rig.second.url(), numbers) for number in range(OPERATORS)]
        observer = Observer(load)
        load.sessions += operators
        load.start()
        observer.start()
        for turn in range(TURNS):
            rig.trouble(f'{options.seed}/{turn}')
            if turn < TURNS - 1:
                restore_round(rig, rng, source, turn)
        rig.load_end = time.time()
        load.stop()
        _resume_all(rig.server)
        rig.drain()
        left = _wait_pruned(rig)
        observer.end()
        report = rig.judge()
        _judge(report, operators, left)
        return report


def _resume_all(server):
    server.execute('UPDATE torture_pause SET resumed_at = clock_timestamp() WHERE resumed_at IS NULL;'
                   ' SELECT outbox_resume(name) FROM outbox_destinations')


def _wait_pruned(rig):
    """How much is left of destinations that were dropped."""
    try:
        poll(lambda: rig.server.query(LEFT) == [(0,)], PRUNED, 'dropped destinations to be deleted')
        return 0
    except TortureError as error:
        print(f'# {error}', flush=True)
        return rig.server.execute(LEFT)[0][0]


def _judge(report, operators, left):
    """What the checker does not know."""
    report.count('left_by_drop', left)
    for action in Operator.ACTIONS:
        done = sum(operator.done[action] for operator in operators)
        report.numbers[f'done_{action}'] = done
        if not done:
            report.found('nobody_changed_destinations', action)
