#!/usr/bin/python3
"""minimise.py CONTROL DIRECTORY: put the smallest inputs that reach everything into DIRECTORY.

CONTROL is what libFuzzer's -merge_inner writes of them: two numbers and the files' names, a line
each; then lines "COV <file's number> <place in the code> ...", and others.  Places count, not how
often each was reached: that keeps the corpus small.  A file's name is the hash of its contents.
"""

import hashlib
import os
import shutil
import sys


def read_control(path):
    """The files, and for each the places that it reaches and no earlier one does."""
    with open(path, encoding='utf-8') as control:
        lines = control.read().split('\n')
    names = lines[2:2 + int(lines[0])]
    places = {}
    for line in lines[2 + len(names):]:
        words = line.split()
        if words[:1] == ['COV'] and len(words) > 2:
            places[names[int(words[1])]] = set(words[2:])
    return places


def main():
    control, directory = sys.argv[1:]
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    for name in read_control(control):
        with open(name, 'rb') as file:
            data = file.read()
        kept = os.path.join(directory, hashlib.sha1(data).hexdigest()[:16])
        with open(kept, 'wb') as file:
            file.write(data)


main()
