"""What can be generated: the components of a Figma file."""

from dataclasses import dataclass

from forge_otel.figma.client import FigmaClient

__all__ = ["Offer", "offers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A component that can be generated."""

    figma_key: str
    node_id: str
    name: str
    component_type: str


async def offers(figma: FigmaClient, file_key: str) -> list[Offer]:
    """List the components and component sets of a file; a variant alone is not offered.

    Raises:
        NotFound, BadRequest, ServiceUnavailable: as `FigmaClient.node`.
    """
    # The whole file, because that is what generations read too: one call for all of them.
    answer = await figma.file(file_key)
    return [
        Offer(
            figma_key=file_key,
            node_id=node["id"],
            name=node["name"],
            component_type=node["name"].partition("/")[0].lower(),
        )
        for page in answer.body["document"]["children"]
        for node in page["children"]
        if node["type"] in {"COMPONENT", "COMPONENT_SET"}
    ]
