"""The table of a run, and a plot of every series."""

import os
import platform
import re
import subprocess

HEADINGS = ('row', 'series', 'unit', 'engine', 'limit', 'ratio', 'spread', 'goal', 'met')

PLOT = """
set terminal svg size 640,400 dynamic background '#ffffff' font 'sans-serif,12'
set output '{output}'
set title '{title}' noenhanced
set ylabel '{unit}' noenhanced
set xlabel '{xlabel}'
set yrange [0:*]
set xrange [0.5:{count}.5]
set key outside bottom center horizontal
set grid ytics
{xtics}
$data << END
{data}
END
plot {curves}
"""


def _figure(value):
    if value is None:
        return '-'
    if abs(value) >= 100:
        return f'{value:,.0f}'
    return f'{value:.2f}' if abs(value) >= 1 else f'{value:.3f}'


def _cells(row, series):
    ratios = series.ratios
    return (row, series.name, series.unit, _figure(series.engine), _figure(series.limit), _figure(series.ratio),
            f'{_figure(min(ratios))} .. {_figure(max(ratios))}' if ratios else '-',
            series.goal.text, series.verdict)


def line(row, series):
    """One series for the terminal, as soon as it is there."""
    cells = _cells(row, series)
    text = (f'{cells[0]:<10} {cells[1]:<38} {cells[3]:>9} {cells[2]} (limit {cells[4]}), '
            f'ratio {cells[5]} ({cells[6]}), goal {cells[7]}, met: {cells[8]}')
    return f'{text}\n{"":<11}{series.note}' if series.note else text


def machine():
    with open('/proc/cpuinfo', encoding='ascii') as file:
        model = re.search(r'model name\s*: (.*)', file.read()).group(1)
    return f'{os.cpu_count()} x {model}, {platform.system()} {platform.release()}'


def table(rows, command, version):
    """Markdown.  "rows": pairs of a row's name and a series."""
    lines = [f'`{command}` on {machine()}; {version}', '', '| ' + ' | '.join(HEADINGS) + ' |',
             '|' + '---|' * len(HEADINGS)]
    lines += ['| ' + ' | '.join(_cells(row, series)) + ' |' for row, series in rows]
    notes = [f'* {row}, {series.name}: {series.note}' for row, series in rows if series.note]
    return '\n'.join(lines + [''] + notes) + '\n'


def plot(directory, row, series):
    """One SVG: the engine beside its limit, pair by pair."""
    name = re.sub(r'[^a-z0-9]+', '-', f'{row} {series.name}'.lower()).strip('-')
    has_limit = series.limit is not None
    curves = ["$data using 1:2 with linespoints linewidth 2 title 'outbox'"]
    if has_limit:
        curves.append(f"$data using 1:3 with linespoints linewidth 2 title '{series.limit_name}'")
    data = [f'{i} {engine} {"" if limit is None else limit}' for i, (engine, limit) in enumerate(series.pairs, 1)]
    xtics = 'set xtics 1' if not series.ticks else \
        'set xtics (' + ', '.join(f'"{tick}" {i}' for i, tick in enumerate(series.ticks, 1)) + ')'
    script = PLOT.format(output=os.path.join(directory, name + '.svg'), title=f'{row}: {series.name}',
                         unit=series.unit, xlabel='' if series.ticks else 'pair', count=len(series.pairs),
                         xtics=xtics, data='\n'.join(data), curves=', '.join(curves))
    subprocess.run(['gnuplot', '-'], input=script, check=True, text=True)
