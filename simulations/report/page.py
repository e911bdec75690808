"""Sections as one HTML file that needs nothing else, and fetches nothing."""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from simulations.report.charts import swatch
from simulations.report.looks import style_sheet
from simulations.report.section import Section


def page(title: str, sections: Sequence[Section], made: Sequence[tuple[str, str]]) -> str:
    """All text is escaped, and the page may run no script but its own: names come from files."""
    folder = files("simulations.report")
    script = (folder / "page.js").read_text(encoding="utf-8")
    style = style_sheet() + "\n" + (folder / "page.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("simulations", "report"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html.j2").render(
        title=title,
        sections=sections,
        made=made,
        swatch=swatch,
        style=Markup(style),
        script=Markup(script),
        script_hash=f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}",
    )
