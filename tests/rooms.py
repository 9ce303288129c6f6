"""Print how much of each room the tests reach: statements, and branches of those that have several ways; see make coverage.

python tests/rooms.py coverage.json
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

KINDS = ("covered_lines", "num_statements"), ("covered_branches", "num_branches")


def main(path: str) -> None:
    rooms: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, file in json.loads(Path(path).read_text(encoding="utf-8"))["files"].items():
        room = Path(name).parts[0] if len(Path(name).parts) > 1 else "scripts"
        for key, number in file["summary"].items():
            for place in (room, "all"):
                rooms[place][key] += number if isinstance(number, int) else 0
    print(f"{'room':<14}{'statements':>22}{'branches':>22}")
    for room in sorted(rooms, key=lambda name: (name == "all", name)):
        cells = []
        for covered, total in KINDS:
            reached, there = rooms[room][covered], rooms[room][total]
            cells.append(f"{reached:,} of {there:,} {reached / max(1, there):>4.0%}")
        print(f"{room:<14}" + "".join(cell.rjust(22) for cell in cells))


if __name__ == "__main__":
    main(*sys.argv[1:])
