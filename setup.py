"""Build script: every field comes from settings.ini."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(ROOT / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

# data/ lies beside the package in the repository and inside it in the wheel
folders = [path for path in (ROOT / "data").rglob("*") if path.is_dir() and any(path.iterdir())]
names = {"toksuite_nb.data": Path("data")} | {
    "toksuite_nb." + ".".join(path.relative_to(ROOT).parts): path.relative_to(ROOT) for path in folders
}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=cfg["keywords"].split(),
    packages=["toksuite_nb", *names],
    package_dir={"toksuite_nb": "toksuite_nb"} | {name: str(path) for name, path in names.items()},
    package_data={"toksuite_nb": ["py.typed"]} | {name: ["*"] for name in names},
    include_package_data=False,
    install_requires=cfg["requirements"].split(),
    extras_require={
        extra: cfg[f"{extra}_requirements"].split()
        for extra in ("models", "lab", "harness", "ray", "dev", "bench", "fuzz", "docs")
    },
    python_requires=">=" + cfg["min_python"],
    entry_points={"nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    zip_safe=False,
)
