"""mkdocs hooks: the README is the home page, benchmark results are pages, and links work as they do in the repository.

Pages link as files of the repository do, so that they can be read there too: `../benchmarks/results/x.md` from `docs/`.
A link to a file that is no page of the site leads to the repository. A link to a file that does not exist is a warning,
which `mkdocs build --strict` turns into an error.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
RESULTS = "benchmarks/results"
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?(\))")
log = logging.getLogger("mkdocs.hooks.links")


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside `docs/`: the README as `index.md`, and the results with their pictures."""
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))
    for path in sorted((ROOT / RESULTS).iterdir()):
        if path.suffix in (".md", ".png"):
            files.append(File.generated(config, f"{RESULTS}/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links between files of the repository into links of the site, or of the repository on the web."""
    own = _in_repository(page.file.src_uri)

    def site_link(match: re.Match[str]) -> str:
        before, link, anchor, after = match.groups(default="")
        if ":" in link or link.startswith("/"):
            return match.group()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(own), link))
        if not (ROOT / target).exists():
            log.warning(f"{own} links to {link}, which does not exist.")
        source = "index.md" if target == "README.md" else target.removeprefix("docs/")
        if files.get_file_from_path(source) is None:
            kind = "tree" if (ROOT / target).is_dir() else "blob"
            link = f"{config.extra['repository']}/{kind}/main/{target}"
        else:
            link = posixpath.relpath(source, posixpath.dirname(page.file.src_uri) or ".")
        return f"{before}{link}{anchor}{after}"

    return LINK.sub(site_link, markdown)


def _in_repository(source: str) -> str:
    """Where a page's source lies in the repository."""
    if source == "index.md":
        return "README.md"
    return source if source.startswith(RESULTS) else f"docs/{source}"
