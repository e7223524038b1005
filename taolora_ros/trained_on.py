"""Whom a model was trained on, and whether a recording is of one of them.

Names repeat: U05 of one source is another person than U05 of the next. So the source counts, too,
the names of the folders that a file lies in, and is taken for the same where one name contains the
other, letters and digits alone, in either case: ``weda`` is also ``WEDA-FALL`` and ``my_weda``.
Where the source of a name is not known, on either side, the name alone decides: better to take a
stranger for somebody seen than the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from taolora_ros.recordings import Recording

SHORTEST = 3  # characters that a name must have to be looked for in another one
MANY = 15     # names of FIRST alone, from which a file without sources is one of these
# Model files had no sources at first; all were trained on these, whose names do not repeat.
FIRST = {
    'sisfall': frozenset((
        'SA01', 'SA02', 'SA04', 'SA05', 'SA07', 'SA08', 'SA09', 'SA11', 'SA12', 'SA13', 'SA15',
        'SA16', 'SA17', 'SA19', 'SA20', 'SA21', 'SA23', 'SE01', 'SE02', 'SE03', 'SE05', 'SE07',
        'SE08', 'SE09', 'SE11', 'SE12', 'SE14', 'SE15')),
    'weda': frozenset((
        'U01', 'U02', 'U04', 'U05', 'U06', 'U07', 'U09', 'U10', 'U11', 'U12', 'U14', 'U21', 'U22',
        'U24', 'U25', 'U27', 'U28', 'U29', 'U31')),
    'mitdb': frozenset((
        '101', '106', '108', '109', '112', '114', '115', '116', '118', '119', '122', '124', '201',
        '203', '205', '207', '208', '209', '215', '220', '223', '230'))}


@dataclass(frozen=True)
class TrainedOn:
    """Names of subjects (IMU) or records (ECG) by source, '' where the source is not known."""

    sources: dict[str, frozenset[str]] = field(default_factory=dict)

    @staticmethod
    def of(provenance: dict) -> TrainedOn:
        """Return what the ``provenance`` of a model file tells: ``subjects``, by ``sources``.

        Whom the file was ``quantized_on`` counts, too.
        """
        names = frozenset(provenance.get('subjects', ()))
        told = provenance.get('sources')
        if told is None:
            first = len(names) >= MANY and names <= frozenset().union(*FIRST.values())
            told = FIRST if first else {}
        sources = {source: names.intersection(listed) for source, listed in told.items()}
        sources[''] = names.difference(*sources.values())
        for source, also in provenance.get('quantized_on', {}).items():
            sources[source] = sources.get(source, frozenset()).union(also)
        return TrainedOn({source: listed for source, listed in sources.items() if listed})

    def named(self, name: str) -> tuple[str, ...]:
        """Return the sources in which somebody of that name was trained on."""
        return tuple(sorted(source for source, names in self.sources.items() if name in names))

    def includes(self, name: str, source: str) -> bool:
        """Return whether ``name`` of ``source`` was trained on, or may have been."""
        return any(same_source(source, other) for other in self.named(name))

    def has(self, recording: Recording) -> bool:
        """Return whether ``recording`` is of somebody trained on, or may be.

        Where noise was added the folder is that of the noise, not of whose signal it is.
        """
        noisy = recording.snr_db is not None
        places = ('',) if noisy else recording.folders or (recording.source,)
        return any(self.includes(person(recording), place) for place in places)


def person(recording: Recording) -> str:
    """Return whose signal it is: the noise stress test's '118e06' is record 118 with noise."""
    name = recording.subject
    return name.rpartition('e')[0] or name if recording.snr_db is not None else name


def same_source(one: str, other: str) -> bool:
    """Return whether two names may be of one source; one without letters and digits may be any."""
    short, long = sorted((_plain(one), _plain(other)), key=len)
    return not short or short == long or (len(short) >= SHORTEST and short in long)


def _plain(name: str) -> str:
    return ''.join(character for character in name.casefold() if character.isalnum())
