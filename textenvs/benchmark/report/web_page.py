"""The report as one HTML file that needs nothing else: no script, no request, no network.

Everything but the drawings goes through the autoescape of the template; the drawings
escape their texts themselves. The content-security policy allows one style sheet, by its
hash, and images that stand in the file; whatever else a text might smuggle in stays dead.
"""

import base64
import hashlib
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from textenvs.benchmark.report.blocks import Page
from textenvs.benchmark.report.chart import Chart
from textenvs.benchmark.report.svg import chart_css, draw
from textenvs.rendering import visible

ASSETS = "assets/report"


def web_page(page: Page) -> str:
    """Return the HTML of a report."""
    sheet = page_css() + chart_css()
    digest = base64.b64encode(hashlib.sha256(sheet.encode("utf-8")).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    template = _templates().get_template("page.html.jinja")
    return template.render(page=page, sheet=Markup(sheet), policy=Markup(policy))


def page_css() -> str:
    """Return the style sheet of the page, without that of the charts."""
    return (resources.files("textenvs") / ASSETS / "page.css").read_text(encoding="utf-8")


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("textenvs", ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_spelled_out,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawn"] = _drawn
    return environment


def _spelled_out(value: Any) -> Any:
    """Spell out what a browser would act on; a name from a file can hold anything."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _drawn(chart: Chart) -> Markup:
    return Markup(draw(chart))
