"""What /proc tells about processes."""

import os

TICKS = os.sysconf('SC_CLK_TCK')


def _stat(pid):
    """The fields of /proc/PID/stat from the state on."""
    with open(f'/proc/{pid}/stat', encoding='ascii', errors='replace') as file:
        return file.read().rpartition(')')[2].split()


def cpu_seconds(pid):
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS


def family_cpu_seconds(pid):
    """Of a process and its children, those that have ended included."""
    total = sum(int(field) for field in _stat(pid)[11:15])
    for child in filter(str.isdigit, os.listdir('/proc')):
        try:
            fields = _stat(child)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def rss_bytes(pid):
    """Without shared memory: buffers that a process has touched are not its own."""
    with open(f'/proc/{pid}/status', encoding='ascii') as file:
        fields = dict(line.split(':', 1) for line in file)
    return sum(int(fields[name].split()[0]) for name in ('RssAnon', 'RssFile')) * 1024
