"""Write ``stories.tsx`` from a brief: a default story, one per option of each choice and one per flag."""

from collections.abc import Iterator

from componentforge.naming import pascal, unique
from componentforge.offline_llm.component_writer import header
from componentforge.offline_llm.tsx import indented, literal
from componentforge.schemas import ComponentBrief

__all__ = ["write_stories"]


def write_stories(brief: ComponentBrief) -> str:
    """Return the stories as TSX, in Storybook's component story format 3."""
    name = brief.component_name
    title = f"{brief.component_type.capitalize()}/{name}"
    lines = [
        *header(brief),
        'import type { Meta, StoryObj } from "@storybook/react";',
        "",
        f'import {{ {name} }} from "./component";',
        "",
        "const meta = {",
        *indented([f"title: {literal(title)},", f"component: {name},", 'tags: ["autodocs", "offline-model"],']),
        f"}} satisfies Meta<typeof {name}>;",
        "",
        "export default meta;",
        "",
        "type Story = StoryObj<typeof meta>;",
        "",
        "export const Default: Story = {};",
    ]
    taken = {"Default", "Story", name}
    for story, args in _variations(brief):
        lines += ["", f"export const {unique(story, taken)}: Story = {{ args: {{ {args} }} }};"]
    return "\n".join(lines) + "\n"


def _variations(brief: ComponentBrief) -> Iterator[tuple[str, str]]:
    for prop in brief.requirements.props:
        if prop.kind == "choice":
            for option in prop.options:
                yield pascal(f"{prop.name} {option}", fallback="Option"), f"{prop.name}: {literal(option)}"
        elif prop.kind == "flag":
            switched = str(not prop.default).lower()
            yield pascal(f"{prop.name} {switched}", fallback="Flag"), f"{prop.name}: {switched}"
