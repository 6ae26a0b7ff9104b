"""The quality validator detects each fault in otherwise good code."""

from collections.abc import Callable

import pytest
from tests.examples.samples import brief_for, code_for, sample

from componentforge.agents.code_generator import GeneratedCode
from componentforge.agents.quality_validator import check, validate_quality

BRIEF = brief_for(sample("Input/Text field"))
CODE = code_for(BRIEF)


def changed(component: Callable[[str], str] = str, stories: Callable[[str], str] = str) -> GeneratedCode:
    """Return good code with a change."""
    code = GeneratedCode(component=component(CODE.component), stories=stories(CODE.stories))
    assert code != CODE
    return code


def test_good_code_has_the_full_score() -> None:
    """Good code has no findings and uses every token."""
    quality = check(CODE, BRIEF)
    assert (quality.score, quality.findings) == (100, ())
    assert quality.used_tokens == quality.known_tokens == len(BRIEF.css_variables)


@pytest.mark.parametrize(
    ("code", "name", "severity", "words"),
    [
        (changed(lambda code: code.replace("var(--radius-corner)", "var(--made-up)")), "tokens", "error", "--made-up"),
        (changed(lambda code: code.replace("var(--radius-corner)", "8px")), "tokens", "note", "--radius-corner"),
        (changed(lambda code: code.replace('"var(--color-icon)"', '"#94a3b8"')), "colours", "warning", "1 colours"),
        (changed(lambda code: code.replace("showIcon", "other")), "props", "error", "showIcon"),
        (changed(lambda code: code.replace("{showIcon && (", "{(")), "props", "warning", "showIcon"),
        (
            changed(lambda code: code.replace("aria-invalid=", "data-invalid=")),
            "accessibility",
            "error",
            "aria-invalid",
        ),
        (changed(lambda code: code.replace("<label", "<span")), "accessibility", "error", "label"),
        (changed(lambda code: code.replace("function TextFieldInput", "function Other")), "export", "error", "export"),
        (changed(stories=lambda code: code.replace('"./component"', '"./other"')), "export", "error", "import"),
        (changed(stories=lambda code: code.replace('"focus"', '"error"')), "stories", "warning", "focus"),
        (changed(lambda code: code + "// x\n" * 20_000), "size", "warning", "kB"),
    ],
)
def test_a_fault_is_found(code: GeneratedCode, name: str, severity: str, words: str) -> None:
    """A fault gives one finding of its check and severity, and a lower score."""
    quality = check(code, BRIEF)
    found = [finding for finding in quality.findings if finding.check == name and finding.severity == severity]
    assert len(found) == 1
    assert words in found[0].message
    assert quality.score < 100


def test_a_name_in_a_comment_or_text_is_not_a_use() -> None:
    """A prop in a comment or string counts as unused."""
    code = changed(lambda code: code.replace("{showIcon && (", '{"showIcon" && ( // showIcon\n'))
    assert any("showIcon" in finding.message for finding in check(code, BRIEF).findings)


async def test_the_score_never_falls_below_zero() -> None:
    """Code with many faults has a score of zero."""
    quality = await validate_quality(GeneratedCode(component="", stories=""), BRIEF)
    assert quality.score == 0
