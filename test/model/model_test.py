#!/usr/bin/python3
"""The model of the relay: random steps with crashes, every promise checked with each; and the checks themselves.

    model_test.py                               a few seeds, and every mutant: what make check runs
    model_test.py --steps 1000000 --seed 1      one long run, or with --seeds as many
    model_test.py --mutant ForgottenTail        what a mistake looks like

When a promise breaks, the seed, the step and what happened last are printed, and with --about KEY only what happened
to events of that key.
"""

import argparse
import sys
import unittest

import mutants
from checks import Broken
from model import Relay
from world import World

# What make check runs, about 20 seconds with the mutants.  Many short lives find more than a few long ones.
STEPS = 4000
SEEDS = range(1, 301)

# A mutant that lives through so many of them is not found.
MUTANT_SEEDS = 300


class Failure(AssertionError):
    """A promise that broke, and how to see it again."""

    def __init__(self, seed, world, error):
        self.error = error
        super().__init__('\n'.join([*(' '.join(str(part) for part in note) for note in world.trace),
                                    f'seed {seed}, step {world.step_number}: {error}']))


def run(seed, steps, relay_class=Relay, trace=60, about=None):
    """Of the world that this seed draws; raises Failure."""
    world = World(seed, relay_class, trace, about)
    try:
        world.run(steps)
    except Broken as error:
        raise Failure(seed, world, error) from None
    return world


class ModelTest(unittest.TestCase):
    def test_promises(self):
        counts = dict.fromkeys(('first', 'again', 'taken', 'dead', 'retried', 'discarded', 'calm'), 0)
        for seed in SEEDS:
            world = run(seed, STEPS)
            for name in counts:
                counts[name] += world.watch.counts[name]
        for name, count in counts.items():
            self.assertGreater(count, 50, f'hardly ever: {name}')

    def test_mutants(self):
        """Is each deliberate mistake found?"""
        for mutant in mutants.ALL:
            with self.subTest(mutant.__name__), self.assertRaises(Failure):
                first = getattr(mutant, 'seed', 1)
                for seed in range(first, first + MUTANT_SEEDS):
                    run(seed, STEPS, mutant)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--steps', type=int)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--seeds', type=int, default=1)
    parser.add_argument('--trace', type=int, default=60, help='how much of what happened is printed')
    parser.add_argument('--about', help='print only what happened to events of this key')
    parser.add_argument('--mutant', help='a class of mutants.py')
    args = parser.parse_args()
    if args.steps is None and args.mutant is None:
        return unittest.main(argv=sys.argv[:1])
    relay_class = getattr(mutants, args.mutant) if args.mutant else Relay
    for seed in range(args.seed, args.seed + args.seeds):
        try:
            world = run(seed, args.steps or STEPS, relay_class, args.trace, args.about)
        except Failure as failure:
            sys.exit(str(failure))
        print(f'seed {seed}: {world.step_number} steps,', dict(world.watch.counts))
    return None


if __name__ == '__main__':
    main()
