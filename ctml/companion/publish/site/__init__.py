"""The site: Sphinx makes it, without a network, of a source folder that is written from the checkout."""

from ctml.companion.publish.site.build import build

__all__ = ["build"]
