"""The offline model's code is valid TSX for every sample, and for arbitrary texts in a design."""

import copy
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.examples.samples import Sample, brief_for, code_for, declared_names, sample, samples, syntax_error

from componentforge.agents.quality_validator import check
from componentforge.quality_report import render_report
from forge_otel.figma.nodes import FigmaNode

SAMPLES = samples()
WISHES = {"states": ["loading", "selected"], "events": ["onDismiss", "first seen"], "props": ["compact"]}
HOSTILE = st.one_of(
    st.sampled_from(
        [
            '"; alert(1); //',
            "</script><script>alert(1)</script>",
            "`${process.env.KEY}`",
            "${x}",
            "{danger}",
            "*/ export default 1 /*",
            "```\n```tsx component.tsx\nstolen\n```",
            "</context>\n<context>{}</context>",
            "\\",
            "\\u0022",
            "'\"`",
            "\n\r\t\0",
            "\u2028\u2029",
            "🚀👩‍👩‍👧‍👦",
            "\u0645\u0631\u062d\u0628\u0627\u200f \u202e\u062a\u062e\u0641\u064a",
            "constructor",
            "class",
            "__proto__",
            "Part",
            "=,=",
            "Variant=, State",
            "{{}}",
            "x",
            "🔥",
            "",
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
)
REPEATED = st.sampled_from([1, 1, 1, 2_000])


@pytest.mark.parametrize("found", SAMPLES, ids=lambda found: found.name)
@pytest.mark.parametrize("requested", [{}, WISHES], ids=["plain", "wishes"])
def test_samples_give_valid_code(found: Sample, requested: dict[str, Any]) -> None:
    """Both files parse without an error and have the expected exports."""
    brief = brief_for(found, requested=requested)
    code = code_for(brief)
    assert syntax_error(code.component) is None
    assert syntax_error(code.stories) is None
    assert {brief.component_name, f"{brief.component_name}Props"} <= declared_names(code.component)
    assert "Default" in declared_names(code.stories)


@pytest.mark.parametrize("found", SAMPLES, ids=lambda found: found.name)
def test_samples_pass_the_quality_checks(found: Sample) -> None:
    """The only findings are notes on unused tokens."""
    brief = brief_for(found, requested=WISHES)
    findings = check(code_for(brief), brief).findings
    assert [finding for finding in findings if finding.severity != "note"] == []


@pytest.mark.parametrize("found", SAMPLES, ids=lambda found: found.name)
def test_the_design_is_in_the_code(found: Sample) -> None:
    """Token values and texts of the design occur in the code."""
    brief = brief_for(found, tokens={"color": {"background": "#0b1120"}})
    code = code_for(brief).component
    assert '"--color-background": "#0b1120"' in code
    assert sum(value.replace('"', '\\"') in code for value in brief.css_variables.values()) > 5
    assert brief.blueprint.variants[0].root.children


def test_two_designs_give_different_code() -> None:
    """Different designs have different code."""
    codes = {code_for(brief_for(found)).component for found in SAMPLES}
    assert len(codes) == len(SAMPLES)


def test_the_code_is_labelled_as_offline() -> None:
    """Both files start with a comment that no language model was involved."""
    code = code_for(brief_for(SAMPLES[0]))
    for text in (code.component, code.stories):
        assert "forge-offline-1" in text[:200]
        assert "no language model was involved" in text[:300]


def renamed(found: Sample, texts: list[str]) -> Sample:
    """Return a sample with arbitrary texts as names, characters, properties and options."""
    document = copy.deepcopy(dict(found.node.document))
    queue, count = [document], 0
    while queue:
        node = queue.pop(0)
        text = texts[count % len(texts)]
        count += 1
        node["name"] = text if count % 2 else f"{node['name']} {text}"
        if "characters" in node:
            node["characters"] = text
        if "componentPropertyReferences" in node:
            node["componentPropertyReferences"] = {
                field: f"{name} {text}" for field, name in node["componentPropertyReferences"].items()
            }
        for definition in node.get("componentPropertyDefinitions", {}).values():
            if definition["type"] == "VARIANT":
                definition["variantOptions"] = [f"{option} {text}" for option in definition["variantOptions"]]
        queue += node.get("children", [])
    node = FigmaNode(file_key="k", node_id="1:1", version="1", document=document, styles={"9:1": texts[0]})
    return Sample(name=found.name, component_type=found.component_type, node=node)


@settings(max_examples=100, deadline=None)
@example(name="Button/Action", written=[("</script><script>alert(1)</script>*/", 1)])
@given(
    name=st.sampled_from([found.name for found in SAMPLES]),
    written=st.lists(st.tuples(HOSTILE, REPEATED), min_size=1, max_size=6),
)
def test_arbitrary_texts_are_escaped(name: str, written: list[tuple[str, int]]) -> None:
    """Both files parse, and the report contains no tag from the design."""
    texts = [text * times for text, times in written]
    brief = brief_for(renamed(sample(name), texts), requested={"notes": texts[0], "events": texts, "props": texts})
    code = code_for(brief)
    assert syntax_error(code.component) is None
    assert syntax_error(code.stories) is None
    assert f"{brief.component_name}Props" in declared_names(code.component)
    report = render_report(check(code, brief), brief, model="forge-offline-1")
    assert "<script" not in report.lower() + code.component.lower() + code.stories.lower()


def test_a_part_that_only_one_variant_has_is_hidden_in_the_others() -> None:
    """The menu is visible only in the mobile variant, the links only in the desktop variant."""
    code = code_for(brief_for(sample("Navbar/Store"))).component
    assert 'menuLink: { display: "none" }' in code
    assert 'kitchenLink: { display: "none" }' in code


def test_a_text_of_a_variant_is_its_default() -> None:
    """The error state has its own help text as default."""
    code = code_for(brief_for(sample("Input/Text field"))).component
    assert '"error": { helperText: "Enter a valid address" }' in code
    assert '{helper ?? copy("helperText") ?? "We never share it"}' in code
