"""The report page of a self-learning run: one self-contained HTML file."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from pathlib import Path
from typing import Any

from metarlgym.datatypes import MetaRLGymError
from metarlgym.runtime.layout import LAYOUTS, PICTURE_MARK
from metarlgym.selflearning.experiment import Picture

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
img { max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; }
th { border-bottom: 1px solid #999; } pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .8rem; }
"""


def write_report(folder: Path, title: str, summary: dict[str, Any], pictures: list[Picture]) -> None:
    """Write `report.html`, and its figures as PNG files.

    Args:
        folder: target folder.
        title: title of the page.
        summary: contents of `summary.json`; `table` (a list of rows) is shown as a table.
        pictures: figures, in order.
    """
    remove_pictures(folder)
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if summary.get("table"):
        parts.append(f"{_table(summary['table'])}<p>Lists are over seeds; –: never, or nothing.</p>")
    for number, picture in enumerate(pictures, 1):
        png = io.BytesIO()
        picture.figure.savefig(png, dpi=130, format="png", metadata={"Creator": PICTURE_MARK.decode()})
        slug = re.sub(r"[^a-z0-9]+", "_", picture.title.lower()).strip("_")
        path = folder / f"{number}_{slug}.png"
        if path.exists():
            raise MetaRLGymError(f"{path} is in the way of a picture of the report: move it away and --resume.")
        path.write_bytes(png.getvalue())
        encoded = base64.b64encode(png.getvalue()).decode()
        parts.append(f"<h2>{html.escape(picture.title)}</h2><p>{html.escape(picture.text)}</p>")
        parts.append(f'<img alt="{html.escape(picture.title)}" src="data:image/png;base64,{encoded}">')
    shown = {name: value for name, value in summary.items() if name != "table"}
    parts.append(f"<h2>summary.json</h2><details><summary>all figures</summary><pre>{html.escape(_json(shown))}</pre>")
    parts.append("</details>")
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def remove_pictures(folder: Path) -> None:
    """Remove the figures of an earlier `write_report`."""
    tree = LAYOUTS["selflearn"]
    for picture in folder.glob("[0-9]*_*.png"):
        if not picture.is_symlink() and tree.owns_file(picture):
            picture.unlink()


def _table(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0])
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell(row[name]))}</td>" for name in names) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def cell(value: Any) -> str:
    """Format a value for a table."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(cell(each) for each in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)
