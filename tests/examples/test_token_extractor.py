"""The token extractor reads tokens and variants of the sample designs."""

import copy
import re

import pytest
from tests.examples.samples import Sample, sample, samples

from componentforge.agents.token_extractor import extract, extract_tokens
from componentforge.tokens import css_variables
from forge_otel.figma.nodes import FigmaNode

PRICING = sample("Card/Pricing").node


def test_tokens_of_the_pricing_card() -> None:
    """The tokens of one design, checked by hand: every value once, named after its role."""
    assert css_variables(extract(PRICING).tokens) == {
        "--spacing-gap": "16px",
        "--spacing-padding-block": "24px",
        "--spacing-padding-inline": "24px",
        "--spacing-gap-features": "8px",
        "--spacing-padding-block-choose-button": "10px",
        "--spacing-padding-inline-choose-button": "16px",
        "--size-width": "280px",
        "--size-width-check-icon": "16px",
        "--size-height": "16px",
        "--color-background": "#ffffff",
        "--color-border": "#e2e8f0",
        "--color-text": "#0f172a",
        "--color-icon": "#15803d",
        "--color-text-feature-text-1": "#475569",
        "--color-background-choose-button": "#eff6ff",
        "--color-text-action-label": "#2563eb",
        "--color-border-featured": "#2563eb",
        "--color-background-featured": "#2563eb",
        "--color-text-featured": "#ffffff",
        "--border-outline": "1px solid var(--color-border)",
        "--border-outline-featured": "2px solid var(--color-border-featured)",
        "--radius-corner": "16px",
        "--radius-corner-choose-button": "8px",
        "--shadow-elevation": "0px 1px 2px 0px #0000000f, 0px 1px 3px 0px #0000001a",
        "--shadow-elevation-featured": "0px 20px 25px -5px #0000001a",
        "--typography-text": '600 16px/24px "Inter", sans-serif',
        "--typography-text-price": '700 20px/28px "Inter", sans-serif',
        "--typography-text-price-tracking": "-0.2px",
        "--typography-text-feature-text-1": '400 14px/20px "Inter", sans-serif',
        "--typography-text-action-label": '600 14px/20px "Inter", sans-serif',
    }


def test_tokens_keep_the_designers_style_names() -> None:
    """A token's description has the name of its Figma style."""
    tokens = extract(PRICING).tokens
    assert tokens["color"]["border"]["$description"] == "Figma style line/200"
    assert tokens["typography"]["text"]["$description"] == "Figma style heading/sm"


@pytest.mark.parametrize("found", samples(), ids=lambda found: found.name)
def test_every_reference_has_a_token(found: Sample) -> None:
    """Layers and tokens refer to all tokens, and to nothing else."""
    extraction = extract(found.node)
    variables = css_variables(extraction.tokens)
    texts = [extraction.blueprint.model_dump_json(), *variables.values()]
    assert {name for text in texts for name in re.findall(r"var\((--[a-z0-9-]+)\)", text)} == set(variables)


def test_opacity_of_a_paint_goes_into_the_colour() -> None:
    """A half-transparent fill becomes a colour with an alpha channel."""
    document = copy.deepcopy(PRICING.document)
    document["children"][0]["fills"][0]["opacity"] = 0.5
    node = FigmaNode(file_key="k", node_id="1:1", version="1", document=document)
    assert extract(node).tokens["color"]["background"]["$value"] == "#ffffff80"


def test_hidden_layers_and_paints_leave_no_token() -> None:
    """Hidden layers and paints have no token."""
    document = copy.deepcopy(PRICING.document)
    for variant in document["children"]:
        variant["fills"][0]["visible"] = False
        for child in variant["children"]:
            child["visible"] = False
    node = FigmaNode(file_key="k", node_id="1:1", version="1", document=document)
    extraction = extract(node)
    assert set(extraction.tokens["color"]) == {"border", "border-featured"}
    assert extraction.blueprint.variants[0].root.children == []


async def test_overrides() -> None:
    """The caller's tokens replace those of the design."""
    extraction = await extract_tokens(PRICING, {"color": {"background": "#000000"}})
    assert extraction.tokens["color"]["background"]["$value"] == "#000000"


def test_variants_keep_their_options() -> None:
    """The axes of a component set and the options of each variant are read from Figma's names."""
    blueprint = extract(sample("Button/Action").node).blueprint
    assert blueprint.axes == {
        "Variant": ["Primary", "Secondary", "Danger"],
        "State": ["Default", "Hover", "Disabled"],
    }
    assert blueprint.variants[5].options == {"Variant": "Secondary", "State": "Disabled"}
