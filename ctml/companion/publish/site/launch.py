"""Where a notebook of the site runs without installing anything: Binder, and Colab with a copy that installs itself.

Invariant: no address is made up. `CTML_REPOSITORY` (`https://github.com/owner/name`) and `CTML_BRANCH` say where this
checkout is published, and the workflow that publishes the site sets them; without them there are no such links.
"""

import os
from urllib.parse import quote

import nbformat

from ctml.companion.pairing import read_source
from ctml.companion.project import Notebook

_GITHUB = "https://github.com/"
_INSTALL = """\
# Only where ctml is not at hand, as on Colab: fetch the whole checkout, whose claims and data sets this notebook uses.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("ctml") is None:
    branch = ["--depth", "1", "--branch", {branch!r}]
    subprocess.run(["git", "clone", "--quiet", *branch, {address!r}, "checkout"], check=True)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "-e", "checkout[notebooks,data,rl]"]
    subprocess.run(install, check=True)
    sys.path.insert(0, os.path.abspath("checkout"))
    os.chdir({folder!r})
"""


def repository() -> str:
    """Return the address at which this checkout is published, or nothing."""
    return os.environ.get("CTML_REPOSITORY", "").rstrip("/")


def launch_links(notebook: Notebook, page: str) -> str:
    """Return the links that run a notebook elsewhere, as HTML for a page; nothing where no repository is named."""
    if not repository():
        return ""
    copy = f"{'../' * page.count('/')}{alone_name(notebook)}"
    links = [f'<a href="{copy}" download>a copy that installs what it needs</a>, for Colab']
    if repository().startswith(_GITHUB):
        place, path = repository().removeprefix(_GITHUB), quote(f"notebooks/{notebook.name}.ipynb", safe="")
        address = f"https://mybinder.org/v2/gh/{place}/{quote(_branch(), safe='')}?labpath={path}"
        links.insert(0, f'<a href="{address}">on Binder</a>')
    return f'<p class="launch">Run it: {"; ".join(links)}.</p>'


def alone_name(notebook: Notebook) -> str:
    """Return where the copy of a notebook that runs alone lies on the site."""
    return f"alone/{notebook.name.replace('/', '_')}.ipynb"


def alone(notebook: Notebook) -> str:
    """Return the text of a notebook that first fetches and installs what it needs."""
    copy = read_source(notebook.source)
    folder = "/".join(("checkout/notebooks", notebook.paper)).rstrip("/")
    cell = _INSTALL.format(branch=_branch(), address=repository(), folder=folder)
    copy.cells.insert(1, nbformat.v4.new_code_cell(cell))
    return nbformat.writes(copy)


def _branch() -> str:
    return os.environ.get("CTML_BRANCH", "main")
