"""Write README.md from nbs/index.ipynb and its stored outputs; with --check, fail if it is out of date."""

from __future__ import annotations

import sys
from pathlib import Path

from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs/_ext"))
from nbdev_reader import read  # noqa: E402


def markdown() -> str:
    """The front page as Markdown, its links seen from the repository's root."""
    nb = read((ROOT / "nbs/index.ipynb").read_text(encoding="utf-8"))
    nb.cells = [cell for cell in nb.cells if "remove-cell" not in cell.metadata.get("tags", [])]
    nb.metadata["language_info"] = {"name": "python"}
    body, _ = MarkdownExporter().from_notebook_node(nb)
    body = body.replace("](images/", "](nbs/images/").replace("](tutorials/", "](nbs/tutorials/")
    body = body.replace("](explanations/", "](nbs/explanations/")
    return "<!-- made from nbs/index.ipynb by docs/readme.py -->\n\n" + body.strip() + "\n"


def main() -> int:
    """Write or compare."""
    readme = ROOT / "README.md"
    if "--check" not in sys.argv:
        readme.write_text(markdown(), encoding="utf-8")
        return 0
    current = readme.read_text(encoding="utf-8") == markdown()
    if not current:
        print("README.md is not what nbs/index.ipynb gives. Run `make readme` and commit it.")
    return int(not current)


if __name__ == "__main__":
    sys.exit(main())
