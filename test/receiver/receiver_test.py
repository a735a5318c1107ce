#!/usr/bin/python3
"""Proves that the receiver keeps its promises: runs all tests beside this file (*_test.py).

    /usr/bin/python3 test/receiver/receiver_test.py [-v] [-k PATTERN]

The options are those of `python3 -m unittest discover`; -k runs only tests whose name fits.
"""

import os
import sys
import unittest

if __name__ == '__main__':
    here = os.path.dirname(os.path.abspath(__file__))
    unittest.main(module=None, argv=[sys.argv[0], 'discover', '-s', here, '-p', '*_test.py', *sys.argv[1:]])
