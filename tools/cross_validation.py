"""Tables of cross-validation: figures are means over seeds, with the lowest and the highest."""

from __future__ import annotations

from collections.abc import Callable

from kept import count, load, percent, seeds, spread, table

NOTABLE = 10   # wrong VEB decisions from which a record is listed
SOURCES = {'sisfall': 'SisFall, waist', 'weda': 'WEDA-FALL, wrist'}
ECG, IMU = 'cross_validation_ecg', 'cross_validation_imu'


def figures() -> str:
    """Return the tables of unseen people, and of what INT4 costs."""
    return '\n'.join(table(*rows) for rows in (_beats(), _falls(), _costs()))


def _titled(title: str, name: str) -> str:
    """Return ``title``, with the number of seeds where there are several."""
    made = len(seeds(name))
    return f'{title}, {made} seeds' if made > 1 else title


def _beats() -> list[list[str]]:
    ecg = seeds(ECG)
    rows = [[_titled('ECG', ECG), 'annotated', 'INT4 Se %', 'PPV %', 'F1 %', 'FP32 Se %', 'PPV %',
             'F1 %']]
    for key, name in (('beat', 'R peaks within 150 ms'), ('beat_50ms', 'R peaks within 50 ms'),
                      ('veb', 'ventricular beats (VEB)')):
        rows.append([name, str(ecg[0]['int4'][key]['n'])]
                    + [spread([one[precision][key][part] for one in ecg], percent)
                       for precision in ('int4', 'fp32') for part in ('se', 'ppv', 'f1')])
    return rows


def _falls() -> list[list[str]]:
    imu, unseen = seeds(IMU), load('unseen_source_imu')
    rows = [[_titled('falls', IMU), 'network', 'falls', 'found', 'Se %', 'false alarms', 'hours',
             'per hour', 'at most (95 %)']]
    for precision in ('int4', 'fp32'):
        fall = [one[precision]['fall'] for one in imu]
        rows.append(_fall_row('unseen subjects', precision, fall))
        rows += [_fall_row(f'... {SOURCES[source]}', precision,
                           [one['sources'][source] for one in fall])
                 for source in fall[0]['sources']]
    return rows + [_fall_row(f'unseen source: {name}', 'int4',
                             [unseen[f'trained_without_{source}']['fall']])
                   for source, name in SOURCES.items()]


def _fall_row(name: str, precision: str, falls: list[dict]) -> list[str]:
    columns = {'falls': count, 'found': count, 'se': percent, 'false_alarms': count,
               'hours': _rate, 'false_alarms_per_hour': _rate,
               'false_alarms_per_hour_upper_95': _rate}
    return [name, precision.upper(), *(spread([fall[key] for fall in falls], form)
                                       for key, form in columns.items())]


def _rate(value: float) -> str:
    return f'{value:.2f}'


def _costs() -> list[list[str]]:
    """Return what four bits cost, INT4 beside FP32 of the same folds and seed."""

    def row(what: str, aim: str, name: str, form: Callable[[float], str],
            figure: Callable[[dict, dict], float]) -> list[str]:
        pairs = [figure(one['int4'], one['fp32']) for one in seeds(name)]
        return [what, aim, spread(pairs, form)]

    return [
        ['what INT4 costs', 'aim', 'measured'],
        row('R peaks (150 ms) found, % of those FP32 finds', '≥ 99.70', ECG, percent,
            lambda int4, fp32: int4['beat']['tp'] / fp32['beat']['tp']),
        row('VEB found, % of those FP32 finds', '≥ 99.70', ECG, percent,
            lambda int4, fp32: int4['veb']['tp'] / fp32['veb']['tp']),
        row('VEB F1, points more than FP32', '≥ -0.30', ECG, '{:+.2f}'.format,
            lambda int4, fp32: 100 * (int4['veb']['f1'] - fp32['veb']['f1'])),
        row('falls found, % of those FP32 finds', '≥ 99.70', IMU, percent,
            lambda int4, fp32: int4['fall']['found'] / fp32['fall']['found']),
        row('false alarms per hour more than FP32', '≤ 0.00', IMU, '{:+.2f}'.format,
            lambda int4, fp32: (int4['fall']['false_alarms_per_hour']
                                - fp32['fall']['false_alarms_per_hour']))]


def by_record() -> list[list[str]]:
    """Return VEB by record, INT4, counts being means over seeds."""
    heading = [_titled('record', ECG), 'VEB', 'found', 'missed', 'false', 'Se %', 'PPV %',
               'with fusion']
    made = seeds(ECG)
    records: dict[str, dict[str, float]] = {}
    for one in made:
        for r in one['int4']['recordings']:
            mean = records.setdefault(r['name'], dict.fromkeys(('n', 'tp', 'fn', 'fp', 'unclear'),
                                                               0.0))
            for key in mean:
                mean[key] += r['veb'][key] / len(made)
    order = sorted(records.items(), key=lambda item: -_wrong(item[1]))
    groups = [(name, [veb]) for name, veb in order if _wrong(veb) >= NOTABLE]
    rest = [veb for _, veb in order if _wrong(veb) < NOTABLE]
    rows = []
    for name, group in (*groups, (f'the other {len(rest)}', rest)):
        n, tp, fn, fp, unclear = (sum(veb[key] for veb in group)
                                  for key in ('n', 'tp', 'fn', 'fp', 'unclear'))
        rows.append([name, *map(count, (n, tp, fn, fp)), *(
            percent(tp / of) if of else '-' for of in (n, tp + fp, tp + fp + unclear))])
    return [heading, *rows]


def _wrong(veb: dict[str, float]) -> float:
    return veb['fp'] + veb['fn']


def by_activity() -> list[list[str]]:
    """Return missed falls and false alarms by what was done, INT4, as means over seeds."""
    made = seeds(IMU)
    counts: dict[tuple[str, str], list[int]] = {}
    for r in (r for one in made for r in one['int4']['recordings']):
        row = counts.setdefault((SOURCES[r['source']], r['label']), [0, 0])
        row[0] += r['is_fall'] and not r['found']
        row[1] += r['false_alarms']
    order = sorted(counts.items(), key=lambda item: (-sum(item[1]), item[0]))
    return [[_titled('source', IMU), 'what was done', 'falls missed', 'false alarms'],
            *([*what, *(count(number / len(made)) for number in row)] for what, row in order)]
