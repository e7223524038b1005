"""Find the files that come with the package: models, configuration, the demo's recording."""

from __future__ import annotations

from pathlib import Path

from taolora_ros.spec import SPECS

MODELS = tuple(spec.name for spec in SPECS.values())


def shipped(path: str) -> Path:
    """Return where ``path`` ('config/taolora.yaml') lies; raise ValueError when it is missing.

    In a source tree (also one linked to by ``--symlink-install`` or ``pip install -e``) that is
    the tree itself, otherwise ``share/taolora_ros`` of whatever prefix the package is in.
    """
    here = Path(__file__).resolve()
    places = [here.parents[1]] if (here.parents[1] / 'package.xml').exists() else []
    places += [parent / 'share' / 'taolora_ros' for parent in here.parents]
    for place in places:
        if (place / path).exists():
            return place / path
    raise ValueError(f'{path}: not among the files of this installation ({places[0]})')


def find_model(name: str) -> Path:
    """Return the file of a model given by path or by the name of one that is shipped.

    Raise ValueError, naming what there is, when there is no such file.
    """
    if name.endswith('.safetensors') or '/' in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise ValueError(f'{name!r}: no such file')
        return path
    try:
        return shipped(f'config/models/{name}.safetensors')
    except ValueError as error:
        raise ValueError(f'{name!r}: no model of that name is installed; shipped are '
                         f'{", ".join(MODELS)}; or give the path of a .safetensors file'
                         ) from error
