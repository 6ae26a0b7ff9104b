"""List the components of a Figma file that the service can generate."""

from dataclasses import dataclass

from forge_otel.figma.client import FigmaClient

__all__ = ["CatalogEntry", "list_components"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """A component or component set of a Figma file."""

    figma_key: str
    node_id: str
    name: str
    component_type: str


async def list_components(figma: FigmaClient, file_key: str) -> list[CatalogEntry]:
    """Return the components and component sets of a file; variants of a set are not listed on their own.

    Raises:
        NotFound, BadRequest, ServiceUnavailable: as `FigmaClient.node`.
    """
    # Generations read the whole file as well, so that both share one cached Figma call.
    response = await figma.file(file_key)
    return [
        CatalogEntry(
            figma_key=file_key,
            node_id=node["id"],
            name=node["name"],
            component_type=node["name"].partition("/")[0].lower(),
        )
        for page in response.body["document"]["children"]
        for node in page["children"]
        if node["type"] in {"COMPONENT", "COMPONENT_SET"}
    ]
