"""Sphinx settings: the pages are the notebooks in nbs/, read through the local extension nbdev_reader."""

import os
import sys
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
settings = ConfigParser(delimiters=["="])
settings.read(HERE.parent / "settings.ini", encoding="utf-8")
settings = settings["DEFAULT"]

project, author, release = settings["title"], settings["author"], settings["version"]
extensions = [
    "myst_nb",
    "nbdev_reader",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_design",
    "sphinx_copybutton",
]
exclude_patterns = ["_proc", "**.ipynb_checkpoints", "jupyter_execute"]

# stored outputs are shown as they are (a test keeps them true); widgets have none, so their notebooks run when built,
# but not the tour, which scores six models: its strips are shown in their static form
nb_execution_mode = "force"
nb_execution_excludepatterns = ["0*", "1*", "2*", "3*", "4*", "50_*", "index*", "explanations/*"]
nb_execution_excludepatterns += [
    f"tutorials/{name}*" for name in ("score_", "train_", "results_", "building_", "gallery", "tour")
]
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3

autodoc_class_signature = "separated"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
default_role = "code"

html_theme = "furo"
html_title = project
# a page from disk may not fetch another one to quote from it
html_show_search_summary = False
html_static_path = [str(HERE / "_static")]
html_css_files = ["site.css"]
# saved widgets draw themselves with scripts of this site; MyST-NB's defaults ask a content network
nb_ipywidgets_js = {"vendor/require.js": {}, "widgets-local.js": {}}
mathjax_path = "vendor/tex-svg-full.js"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
