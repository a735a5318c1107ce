"""A psql that stays connected, fed through pipes."""

import subprocess
import tempfile


class SqlError(Exception):
    pass


class Session:
    """Statements go in, rows come back as lists of strings.  The first error ends the session."""

    MARK = '--- done ---'

    def __init__(self, psql, socket_dir, database):
        self._errors = tempfile.TemporaryFile(mode='w+')
        self._process = subprocess.Popen(
            [psql, '-X', '-q', '-A', '-t', '-F', '\t', '-v', 'ON_ERROR_STOP=1',
             '-h', socket_dir, '-U', 'postgres', database],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True)

    def rows(self, sql):
        self._process.stdin.write(f'{sql.rstrip().rstrip(";")};\n\\echo {self.MARK}\n')
        self._process.stdin.flush()
        result = []
        for line in self._process.stdout:
            line = line.rstrip('\n')
            if line == self.MARK:
                return result
            result.append(line.split('\t'))
        self._errors.seek(0)
        raise SqlError(f'{self._errors.read().strip()}\nin: {sql}')

    def run(self, sql):
        self.rows(sql)

    def value(self, sql):
        """The first column of the first row; None if there is no row."""
        result = self.rows(sql)
        return result[0][0] if result else None

    def number(self, sql):
        return float(self.value(sql))

    def is_true(self, sql):
        return self.value(f'SELECT {sql}') == 't'

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()
