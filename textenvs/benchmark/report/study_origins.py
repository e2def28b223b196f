"""Where the numbers of a study come from: its designs, the versions, the hashes."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from textenvs.benchmark.report.blocks import Block, Table, Words
from textenvs.benchmark.report.study_tables import cells


def origins(configs: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    """Yield what each design is, and the versions and hashes that its cells were run with.

    Args:
        configs: `cell.json` of the cells.
    """
    if not configs:
        yield Words("The folder holds no cells, so versions and hashes are not known.", "soft")
        return
    designs: dict[str, str] = {}
    packages: Counter[tuple[str, str]] = Counter()
    hashes: Counter[tuple[str, str, str, str]] = Counter()
    for config in configs:
        design = _part(config, "design")
        name = str(design.pop("name", ""))
        designs.setdefault(name, json.dumps(design, ensure_ascii=False))
        packages.update((n, str(v)) for n, v in _part(config, "versions").items())
        environment = str(_part(config, "environment").get("id", ""))
        hashes.update((environment, name, *pair) for pair in _leaves(_part(config, "hashes")))
    yield Table(("design", "settings"), [cells(pair) for pair in designs.items()], "The designs")
    rows = [cells((*pair, str(count))) for pair, count in sorted(packages.items())]
    yield Table(("package", "version", "cells"), rows, "Versions")
    rows = [cells((*place, str(count))) for place, count in sorted(hashes.items())]
    header = ("environment", "design", "of", "hash", "cells")
    yield Table(header, rows, "Hashes of what went into the cells", folded=True)


def _part(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    return dict(found) if isinstance(found, dict) else {}


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, value) of what nested tables hold."""
    for name, value in tree.items():
        place = f"{path} / {name}" if path else str(name)
        if isinstance(value, dict):
            yield from _leaves(value, place)
        else:
            yield place, str(value)
