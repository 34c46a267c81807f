"""Tables to print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def aligned(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of the same columns below their names, the first column to the left and the others to the right."""
    columns = list(rows[0])
    lines = [dict(zip(columns, columns, strict=True)), *rows]
    widths = {name: max(len(line[name]) for line in lines) for name in columns}
    first = columns[0]
    return "\n".join(
        "  ".join([line[first].ljust(widths[first]), *(line[name].rjust(widths[name]) for name in columns[1:])])
        for line in lines
    )


def costs(rows: Sequence[Mapping[str, Any]]) -> str:
    """What `glore.measure.costs` tells of some networks."""
    told = []
    for row in rows:
        line = {
            "network": row["network"],
            "input": "×".join(map(str, (row["batch"], *row["size"]))),
            "parameters": f"{row['parameters']:,}",
            "M multiply-adds": f"{row['multiply_adds'] / 1e6:,.1f}",
        }
        for kind in ("forward", "step"):
            if f"{kind}_ms" in row:
                line |= {f"{kind} ms": f"{row[f'{kind}_ms']:.1f}", f"{kind} MiB": f"{row[f'{kind}_mib']:.0f}"}
        told.append(line)
    return aligned(told)
