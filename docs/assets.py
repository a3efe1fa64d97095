"""Fetch the scripts that saved widgets and formulas need, so that no page asks another host; --tests: axe-core."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
VENDOR = ROOT / "docs/_static/vendor"
TESTS = ROOT / "tests/browser/vendor"
# npm package -> its files that a page loads
PACKAGES = {
    "@jupyter-widgets/html-manager@1.0.14": ["dist/embed-amd.js", "dist/*.woff", "dist/*.woff2"],
    "mathjax@3.2.2": ["es5/tex-svg-full.js"],
    "requirejs@2.3.7": ["require.js"],
}
# looks at the explorers in the browser tests; it is no part of the site
CHECKER = "axe-core@4.14.1"


def fetch(package: str, patterns: list[str], into: Path) -> None:
    """Copy files out of one npm package, leaving its dependencies where they are."""
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as tar:
            for member in tar:
                name, content = PurePosixPath(member.name), tar.extractfile(member)
                if content and any(name.match(f"package/{pattern}") for pattern in patterns):
                    (into / name.name).write_bytes(content.read())


def main(args: list[str]) -> None:
    """Fill the vendor folder; the file that make waits for comes last."""
    if "--tests" in args:
        fetch(CHECKER, ["axe.min.js"], TESTS)
        return
    VENDOR.mkdir(parents=True, exist_ok=True)
    share = Path(sysconfig.get_path("data")) / "share" / "jupyter"
    shutil.copy(share / "nbextensions/anywidget/index.js", VENDOR / "anywidget.js")
    for package, patterns in reversed(PACKAGES.items()):
        fetch(package, patterns, VENDOR)


if __name__ == "__main__":
    main(sys.argv[1:])
