"""Sections as Markdown: statements and tables."""

from collections.abc import Sequence

from simulations.report.section import Section
from simulations.report.tables import markdown, plain


def markdown_page(title: str, sections: Sequence[Section], made: Sequence[tuple[str, str]]) -> str:
    """The same words and numbers as on the page, without its charts."""
    parts = [f"# {plain(title)}\n"]
    for section in sections:
        parts.append(f"## {plain(section.title)}\n\n{plain(section.facts)}\n")
        words = [section.headline, *section.remarks]
        parts += [f"{plain(word)}\n" for word in words if word]
        said = [*section.statements, *section.others]
        parts += ["".join(f"- {plain(word)}\n" for word in said)] * bool(said)
        tables = [*section.overview, section.fairness, *section.details]
        parts += [markdown(table) for table in tables if table]
    parts.append("## How this was made\n")
    parts.append("".join(f"- {plain(term)}: {plain(words)}\n" for term, words in made))
    return "\n".join(parts)
