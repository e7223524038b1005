"""Tables of operating points: of beats, of VEB, one by one and together, and of falls."""

from __future__ import annotations

import math

from cross_validation import BEATS
from kept import count, load, percent, spread
from operating_point_falls import as_rows

from taolora_ros.spec import ECG_BEATS

ECG, IMU = 'operating_point_ecg', 'operating_point_imu'


def by_bias() -> list[list[str]]:
    """Return what the operating point of heart beats decides."""
    told = load(ECG)
    heads = [f'{name} {part}' for name in ('150 ms', '50 ms', 'VEB') for part in ('Se %', 'PPV %')]
    rows = [['ECG, score 0.5 at a probability of', *heads, '150 ms, FP32: Se %', 'PPV %']]
    for int4, fp32 in zip(told['int4']['biases'], told['fp32']['biases']):
        rows.append([_probability(int4['bias']), *_parts(int4, *BEATS),
                     *_parts(fp32, 'beat')])
    return [*rows, ['chosen without the record',
                    *_parts(told['int4']['chosen_without'], *BEATS),
                    *_parts(told['fp32']['chosen_without'], 'beat')]]


def by_bias_and_seed() -> list[list[str]]:
    """Return the same of three networks, each taught by the two others, INT4."""
    told = load(ECG)
    each = [told[key] for key in ('int4', 'int4_seed1', 'int4_seed2')]
    heads = [f'{name} {part}' for name in ('150 ms', '50 ms', 'VEB') for part in ('Se %', 'PPV %')]
    return [[f'ECG, {len(each)} seeds, score 0.5 at', *heads], *(
        [_probability(rows[0]['bias']),
         *(spread([row[key][part] for row in rows], percent)
           for key in BEATS for part in ('se', 'ppv'))]
        for rows in zip(*(one['biases'] for one in each)))]


def by_veb_bias() -> list[list[str]]:
    """Return what the operating point of VEB decides: of seed 0, and of three seeds."""
    told = load(ECG)
    each = [told[key] for key in ('int4', 'int4_seed1', 'int4_seed2')]
    rows = [['VEB, INT4, score 0.5 at a probability of', 'Se %', 'PPV %', 'F1 %', 'found', 'false',
             '3 seeds: Se %', 'PPV %', 'F1 %']]
    points = [(_probability(some[0]['bias']), some)
              for some in zip(*(one['veb_biases'] for one in each))]
    points += [(f'chosen without the record, {name}', [one['veb_chosen_without'][rule]
                                                       for one in each])
               for rule, name in (('smaller', 'smaller of both'), ('f1', 'F1'))]
    for name, some in points:
        veb = [figures['veb'] for figures in some]
        rows.append([name, *(percent(veb[0][part]) for part in ('se', 'ppv', 'f1')),
                     str(veb[0]['tp']), str(veb[0]['fp']),
                     *(spread([one[part] for one in veb], percent)
                       for part in ('se', 'ppv', 'f1'))])
    return rows


def by_fall_point() -> list[list[str]]:
    """Return what the operating point of falls decides, of all and by source, INT4."""
    return as_rows(load(IMU))


def by_alike() -> list[list[str]]:
    """Return VEB judged one by one and together with those of their shape, by seed, INT4."""
    told = load(ECG)
    shipped = ECG_BEATS.bias[1]
    rows = [[f'VEB, INT4, score 0.5 at {_probability(shipped)}',
             'alone: Se %', 'PPV %', 'F1 %', 'found', 'false',
             'together: Se %', 'PPV %', 'F1 %', 'found', 'false']]
    for seed, key in enumerate(('int4', 'int4_seed1', 'int4_seed2')):
        pair = [next(row['veb'] for row in told[key][way] if row['bias'] == shipped)
                for way in ('veb_biases_alone', 'veb_biases')]
        rows.append([f'seed {seed}', *(
            form(veb[part]) for veb in pair for part, form in (
                ('se', percent), ('ppv', percent), ('f1', percent), ('tp', count),
                ('fp', count)))])
    return rows


def _probability(bias: float) -> str:
    """Return where a score is 0.5 with a bias."""
    return f'{1 / (1 + math.exp(bias)):.2f}'


def _parts(figures: dict, *keys: str) -> list[str]:
    return [percent(figures[key][part]) for key in keys for part in ('se', 'ppv')]
