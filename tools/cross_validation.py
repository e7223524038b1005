"""Tables of cross-validation: the recipes that ship, and how far seeds of one network differ."""

from __future__ import annotations

from kept import count, load, percent, rate, seeds, spread, table

NOTABLE = 10   # wrong VEB decisions from which a record is listed
SOURCES = {'sisfall': 'SisFall, waist', 'weda': 'WEDA-FALL, wrist'}
ECG, IMU = 'cross_validation_ecg', 'cross_validation_imu'
BEATS = {'beat': 'R peaks within 150 ms', 'beat_50ms': 'R peaks within 50 ms',
         'veb': 'ventricular beats (VEB)'}
PARTS = {'se': 'Se %', 'ppv': 'PPV %', 'f1': 'F1 %', 'ppv_strict': 'PPV with fusion %'}
ALARMS = {'hours': rate, 'false_alarms': count, 'false_alarms_per_hour': rate,
          'false_alarms_per_hour_upper_95': rate}


def figures() -> str:
    """Return the tables of unseen people, and of what INT4 costs."""
    return '\n'.join(table(*rows) for rows in (_beats(), _falls(), _costs()))


def _beats() -> list[list[str]]:
    ecg = load(ECG)
    return [['ECG', 'annotated', 'INT4 Se %', 'PPV %', 'F1 %', 'FP32 Se %', 'PPV %', 'F1 %'],
            *([name, str(ecg['int4'][key]['n'])]
              + [percent(ecg[precision][key][part]) for precision in ('int4', 'fp32')
                 for part in ('se', 'ppv', 'f1')] for key, name in BEATS.items())]


def _falls() -> list[list[str]]:
    imu, unseen = load(IMU), load('unseen_source_imu')
    rows = [['falls', 'network', 'falls', 'found', 'Se %', 'false alarms', 'hours', 'per hour',
             'at most (95 %)']]
    for precision in ('int4', 'fp32'):
        fall = imu[precision]['fall']
        rows.append(_fall_row('unseen subjects', precision, fall))
        rows += [_fall_row(f'... {SOURCES[source]}', precision, one)
                 for source, one in fall['sources'].items()]
    return rows + [_fall_row(f'unseen source: {name}', 'int4',
                             unseen[f'trained_without_{source}']['fall'])
                   for source, name in SOURCES.items()]


def _fall_row(name: str, precision: str, fall: dict) -> list[str]:
    columns = {'falls': count, 'found': count, 'se': percent, 'false_alarms': count,
               'hours': rate, 'false_alarms_per_hour': rate,
               'false_alarms_per_hour_upper_95': rate}
    return [name, precision.upper(), *(form(fall[key]) for key, form in columns.items())]


def by_place() -> list[list[str]]:
    """Return the hours behind rates of false alarms by place: all, and of activities alone."""
    unseen = load('unseen_source_imu')
    groups = [('unseen subjects', load(IMU)['int4']['fall']['sources']),
              ('unseen source', {source: unseen[f'trained_without_{source}']['fall']
                                 for source in SOURCES})]
    rows = [['falls, INT4', 'hours', 'false alarms', 'per hour', 'at most (95 %)',
             'activities alone: hours', 'false alarms', 'per hour', 'at most (95 %)']]
    for title, sources in groups:
        for source, name in SOURCES.items():
            both = sources[source], sources[source]['activities']
            rows.append([f'{title}: {name}', *(form(fall[key]) for fall in both
                                               for key, form in ALARMS.items())])
    return rows


def _costs() -> list[list[str]]:
    """Return what four bits cost, INT4 beside FP32 of the same folds and seed."""
    ecg, fall = load(ECG), {precision: load(IMU)[precision]['fall']
                            for precision in ('int4', 'fp32')}
    more = (fall['int4']['false_alarms_per_hour'] - fall['fp32']['false_alarms_per_hour'])
    return [
        ['what INT4 costs', 'aim', 'measured'],
        ['R peaks (150 ms) found, % of those FP32 finds', '≥ 99.70', percent(_kept(ecg, 'beat'))],
        ['VEB found, % of those FP32 finds', '≥ 99.70', percent(_kept(ecg, 'veb'))],
        ['VEB F1, points more than FP32', '≥ -0.30', f'{_gain(ecg):+.2f}'],
        ['falls found, % of those FP32 finds', '≥ 99.70',
         percent(fall['int4']['found'] / fall['fp32']['found'])],
        ['false alarms per hour more than FP32', '≤ 0.00', f'{more:+.2f}']]


def _kept(one: dict, key: str) -> float:
    """Return the part that INT4 finds of what FP32 finds."""
    return one['int4'][key]['tp'] / one['fp32'][key]['tp']


def _gain(one: dict) -> float:
    """Return how many points of VEB F1 INT4 has more than FP32."""
    return 100 * (one['int4']['veb']['f1'] - one['fp32']['veb']['f1'])


def by_seed() -> list[list[str]]:
    """Return ECG figures, mean and range over seeds: without teachers, and of what ships."""
    alone, taught = seeds(f'{ECG}_seed'), seeds(f'{ECG}_taught')
    rows = [[f'ECG, {len(alone)} seeds', 'FP32', 'INT4', 'INT4 with teachers']]
    for key, name in BEATS.items():
        parts = {part: title for part, title in PARTS.items()
                 if key == 'veb' or part != 'ppv_strict'}
        rows += [[f'{name}: {title}',
                  *(spread([one[precision][key][part] for one in alone], percent)
                    for precision in ('fp32', 'int4')),
                  spread([one['int4'][key][part] for one in taught], percent)]
                 for part, title in parts.items()]
    rows += [[f'{name} found, % of those FP32 finds', '-',
              *(spread([_kept(one, key) for one in group], percent) for group in (alone, taught))]
             for key, name in (('beat', 'R peaks (150 ms)'), ('veb', 'VEB'))]
    return rows + [['VEB F1, points more than FP32', '-',
                    *(spread([_gain(one) for one in group], '{:+.2f}'.format)
                      for group in (alone, taught))]]


def as_shipped() -> list[list[str]]:
    """Return ECG figures of what ships, mean and range over seeds."""
    each = [load(ECG), *seeds(f'{ECG}_alike')]
    rows = [[f'ECG, as it ships, {len(each)} seeds', 'FP32', 'INT4']]
    rows += [[f'{name}: {title}', *(spread([one[precision][key][part] for one in each], percent)
                                    for precision in ('fp32', 'int4'))]
             for key, name in BEATS.items() for part, title in PARTS.items()
             if key == 'veb' or part != 'ppv_strict']
    rows += [[f'{name} found, % of those FP32 finds', '-',
              spread([_kept(one, key) for one in each], percent)]
             for key, name in (('beat', 'R peaks (150 ms)'), ('veb', 'VEB'))]
    return rows + [['VEB F1, points more than FP32', '-',
                    spread([_gain(one) for one in each], '{:+.2f}'.format)]]


def by_record() -> list[list[str]]:
    """Return VEB by record, INT4."""
    heading = ['record', 'VEB', 'found', 'missed', 'false', 'Se %', 'PPV %', 'with fusion']
    order = sorted(((r['name'], r['veb']) for r in load(ECG)['int4']['recordings']),
                   key=lambda item: -_wrong(item[1]))
    groups = [(name, [veb]) for name, veb in order if _wrong(veb) >= NOTABLE]
    rest = [veb for _, veb in order if _wrong(veb) < NOTABLE]
    rows = []
    for name, group in (*groups, (f'the other {len(rest)}', rest)):
        n, tp, fn, fp, unclear = (sum(veb[key] for veb in group)
                                  for key in ('n', 'tp', 'fn', 'fp', 'unclear'))
        rows.append([name, *map(count, (n, tp, fn, fp)), *(
            percent(tp / of) if of else '-' for of in (n, tp + fp, tp + fp + unclear))])
    return [heading, *rows]


def by_teachers() -> list[list[str]]:
    """Return falls of unseen people and sources, INT4 tuned without teachers and with them."""
    alone, taught, unseen = load('untaught_imu'), load(IMU), load('unseen_source_imu')
    second = load('second_draw_imu')
    draws = {'0': ({'cross_validation': alone['cross_validation'],
                    **{source: alone[f'trained_without_{source}'] for source in SOURCES}},
                   {'cross_validation': taught['int4'],
                    **{source: unseen[f'trained_without_{source}'] for source in SOURCES}}),
             '3': tuple({'cross_validation': second[f'{way}_cross_validation'],
                         **{source: second[f'{way}_without_{source}'] for source in SOURCES}}
                        for way in ('alone', 'taught'))}
    rows = [['falls, INT4, seed', 'falls', 'hours', 'alone: found', 'false alarms',
             'with teachers: found', 'false alarms']]
    for seed, ways in draws.items():
        for source, name in SOURCES.items():
            known = [way['cross_validation']['fall']['sources'][source] for way in ways]
            rows.append(_by_teachers(f'unseen subjects: {name}, {seed}', known))
        for source, name in SOURCES.items():
            rows.append(_by_teachers(f'unseen source: {name}, {seed}',
                                     [way[source]['fall'] for way in ways]))
    return rows


def by_run() -> list[list[str]]:
    """Return falls found by models of the same commands, run twice, INT4."""
    again, unseen = load('falls_again'), load('unseen_source_imu')
    rows = [['falls, INT4', 'falls', 'hours', 'first run: found', 'false alarms',
             'run again: found', 'false alarms']]
    known = [result['fall']['sources'] for result in (load(IMU)['int4'],
                                                      again['cross_validation_int4'])]
    rows += [_by_teachers(f'unseen subjects: {name}', [each[source] for each in known])
             for source, name in SOURCES.items()]
    return rows + [_by_teachers(f'unseen source: {name}', [
        each[f'trained_without_{source}']['fall'] for each in (unseen, again)])
        for source, name in SOURCES.items()]


def by_mining() -> list[list[str]]:
    """Return falls by networks with and without hard negatives mined, INT4."""
    rows = [['falls, INT4', 'drawn evenly: found', 'false alarms', 'half mined: found',
             'false alarms', 'falls gained', 'lost', 'p', 'by wearer',
             'recordings with fewer false alarms', 'more', 'p', 'by wearer']]
    for row in load('hard_negatives_imu')['rows']:
        kind = 'subjects' if row['judged'] == 'cross_validation' else 'source'
        pair = row['paired']
        rows.append([f'unseen {kind}: {SOURCES[row["source"]]}, '
                     + row['way'].replace('seed', 'seed ').replace('taught', '0 with teachers'),
                     *(count(row[how][key]) for how in ('even', 'mined')
                       for key in ('found', 'false_alarms')),
                     count(pair['falls_gained']), count(pair['falls_lost']),
                     *map(_chance, (pair['falls_p'], pair['falls_p_by_wearer'])),
                     count(pair['fewer_false']), count(pair['more_false']),
                     *map(_chance, (pair['false_p'], pair['false_p_by_wearer']))])
    return rows


def _chance(p: float) -> str:
    return '< 0.001' if p < 0.001 else f'{p:.3f}'


def _by_teachers(name: str, falls: list[dict]) -> list[str]:
    return [name, count(falls[0]['falls']), rate(falls[0]['hours']),
            *(count(each[key]) for each in falls for key in ('found', 'false_alarms'))]


def _wrong(veb: dict[str, float]) -> float:
    return veb['fp'] + veb['fn']


def by_activity() -> list[list[str]]:
    """Return missed falls and false alarms by what was done, INT4."""
    counts: dict[tuple[str, str], list[int]] = {}
    for r in load(IMU)['int4']['recordings']:
        row = counts.setdefault((SOURCES[r['source']], r['label']), [0, 0])
        row[0] += r['is_fall'] and not r['found']
        row[1] += r['false_alarms']
    order = sorted(counts.items(), key=lambda item: (-sum(item[1]), item[0]))
    return [['source', 'what was done', 'falls missed', 'false alarms'],
            *([*what, *map(count, row)] for what, row in order)]
