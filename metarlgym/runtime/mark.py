"""`COMPLETE`, the marker file that is written to a folder last and lists the files that the run wrote there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COMPLETE = "COMPLETE"


def recorded(folder: Path) -> dict[str, list[Any]]:
    """Size and hash of each file by relative path; empty without a marker or with one from an earlier version."""
    try:
        content = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return {}
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not all(isinstance(entry, list) and len(entry) == 2 for entry in files.values()):
        return {}
    return files
