"""Write the source folder below `.build/site-source` and let Sphinx make the site of it."""

import shutil
from pathlib import Path

from ctml.companion.files import write_atomically
from ctml.companion.project import Project, Refusal
from ctml.companion.publish.site import api, pages
from ctml.companion.publish.site.claims import claims_page
from ctml.companion.publish.site.gallery import gallery_page, panels
from ctml.companion.publish.site.launch import alone, alone_name, repository
from ctml.companion.publish.site.notebooks import FRAMES, frames, notebook_pages

EXTRA = "extra"  # what the site holds beside its pages, not read by Sphinx

_HERE = Path(__file__).parent


def build(project: Project, into: Path | None = None) -> Path:
    """Build the site in the folder `site` of `.build`, or of another folder, and return its first page.

    Raises:
        Refusal: when Sphinx is not installed, or has anything to complain of; its words stand on the error stream.
    """
    try:
        from sphinx.cmd.build import main as sphinx  # an extra of its own: the other commands work without it
    except ModuleNotFoundError as error:
        raise Refusal(f"the site needs {error.name}: pip install -e '.[notebooks,site]'") from error

    source, site, memory = ((into or project.build) / name for name in ("site-source", "site", "site-doctrees"))
    for folder in (source, site, memory):
        shutil.rmtree(folder, ignore_errors=True)
    write_source(project, source)
    options = ["-q", "-W", "--keep-going", "-b", "html", "-c", str(_HERE), "-d", str(memory)]
    if sphinx([*options, str(source), str(site)]):
        raise Refusal(f"the site in {site} has the faults named above.")
    if (source / EXTRA).is_dir():
        shutil.copytree(source / EXTRA, site, dirs_exist_ok=True)
    return site / "index.html"


def write_source(project: Project, source: Path) -> None:
    """Write what Sphinx reads: executed notebooks, their figures, and a page for everything around them."""
    made = notebook_pages(project)
    for page in made:
        write_atomically(source / f"{page.name}.ipynb", page.text.encode())
        figures = page.result.folder / "figures"
        shutil.copytree(figures, source / page.name / "figures", dirs_exist_ok=True)
        for name in (name for figure in page.result.manifest["figures"] for name in frames(page.result, figure)):
            write_atomically(source / EXTRA / FRAMES / page.name / name, (figures / name).read_bytes())
        if repository():
            write_atomically(source / EXTRA / alone_name(page.result.notebook), alone(page.result.notebook).encode())
    written = {
        "index": pages.index(project, made),
        "claims": claims_page(made),
        "gallery": gallery_page(made),
        **{name: (_HERE / "pages" / f"{name}.md").read_text(encoding="utf-8") for name in pages.WRITTEN},
        **pages.papers(project, made),
        **pages.how_to(project, made),
        **api.pages(project.root),
    }
    for name, text in written.items():
        write_atomically(source / f"{name}.md", text.encode())
    for picture in (_HERE / "pages").glob("*.svg"):
        shutil.copy(picture, source)
    for name, picture in panels(made).items():
        write_atomically(source / name, picture)
