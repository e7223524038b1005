"""The tables of docs/adaptation.md, from docs/results/adaptation_ecg.json and adaptation_imu.json."""

from __future__ import annotations

from kept import load, percent, table

KEPT = (('adaptation_ecg', 'adaptation', 'VEB'),
        ('adaptation_imu', 'trained_without_weda', 'falls, wrist never seen'),
        ('adaptation_imu', 'trained_without_weda_alone', '... without teachers'),
        ('adaptation_imu', 'trained_without_weda_seed3', '... seed 3'),
        ('adaptation_imu', 'trained_without_weda_seed3_alone', '... seed 3, without teachers'),
        ('adaptation_imu', 'cross_validation', 'falls, known places'))
PARTS = (('', ''), ('chosen_on', ', chosen on'), ('all', ', all'))
HOSTILE = ('inverted', 'random', 'flooded')


def tables() -> str:
    """Return what feedback is worth, and what hostile feedback costs."""
    kept = [(title + who, result[part] if part else result)
            for name, key, title in KEPT for result in [load(name)[key]] for part, who in PARTS]
    kept = [(title, figures) for title, figures in kept if figures is not None]
    helps = [['20 feedbacks', 'subjects', 'sites', 'that learnt', 'false alarms', 'change',
              'recall %', 'change', 'others: recall', 'specificity', 'worst single: recall',
              'specificity']]
    hurts = [['hostile feedback', *(f'{who}: recall' for who in HOSTILE),
              *(f'{who}: worst site' for who in HOSTILE[:2]),
              *(f'{who}: false alarms' for who in HOSTILE[:2]),
              *(f'{who}: others\' {share}' for who in HOSTILE[:2]
                for share in ('recall', 'specificity'))]]
    return table(*helps, *(_helped(*row) for row in kept)) + '\n' + table(
        *hurts, *(_hurt(*row) for row in kept))


def _helped(title: str, f: dict) -> list[str]:
    return [title, str(f['subjects']), str(f['site_count']), str(f['sites_that_learnt']),
            f'{f["false_alarms_before"]} → {f["false_alarms_after"]}',
            f'{_share(f["false_alarms_change"])}{_between(f["false_alarms_change_interval"], 100)}',
            f'{percent(f["recall_before"])} → {percent(f["recall_after"])}',
            f'{f["recall_change"]:+.2f}{_between(f["recall_change_interval"], 1)}',
            *(f'{f[key][name]:+.2f}' for key in ('others_change', 'others_worst_subject')
              for name in ('recall', 'specificity'))]


def _hurt(title: str, f: dict) -> list[str]:
    return [title, *(f'{f["hostile_change"][who]:+.2f}' for who in HOSTILE),
            *(f'{f["hostile_worst_site"][who]:+.2f}' for who in HOSTILE[:2]),
            *(_share(f['hostile_false_alarms_change'][who]) for who in HOSTILE[:2]),
            *(f'{f["hostile_others_change"][who][name]:+.2f}' for who in HOSTILE[:2]
              for name in ('recall', 'specificity'))]


def _share(change: float | None) -> str:
    return '-' if change is None else f'{100 * change:+.0f} %'


def _between(interval: list[float] | None, scale: float) -> str:
    places = 0 if scale > 1 else 2
    return '' if interval is None else (f' ({scale * interval[0]:+.{places}f} .. '
                                        f'{scale * interval[1]:+.{places}f})')
