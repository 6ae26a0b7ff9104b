"""The quality report is a self-contained page that escapes every value."""

from html.parser import HTMLParser

from tests.examples.samples import brief_for, code_for, sample

from componentforge.agents.quality_validator import Finding, Quality, check
from componentforge.quality_report import render_report
from componentforge.schemas import Pattern

BRIEF = brief_for(sample("Input/Text field"))
GOOD = check(code_for(BRIEF), BRIEF)
VOID = {"meta", "link", "br", "img", "input"}


class Outline(HTMLParser):
    """Collects tags and attributes, and checks that tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record an opening tag."""
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that a closing tag matches the last opening tag."""
        assert self.open.pop() == tag


def outline(page: str) -> Outline:
    """Parse a page."""
    parsed = Outline()
    parsed.feed(page)
    assert parsed.open == []
    return parsed


def test_the_page_is_well_formed_and_accessible() -> None:
    """The page has a language, a title, one main heading, named regions, captions and column headers."""
    page = outline(render_report(GOOD, BRIEF, model="forge-offline-1"))
    assert page.tags.count("h1") == page.tags.count("main") == page.tags.count("title") == 1
    assert ("lang", "en") in page.attributes
    assert page.tags.count("caption") == page.tags.count("table") == 3
    assert ("scope", "col") in page.attributes


def test_the_page_loads_nothing() -> None:
    """The page has no script and no external URL."""
    page = outline(render_report(GOOD, BRIEF, model="forge-offline-1"))
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in {"src", "href"} or name.startswith("on")]


def test_the_offline_model_is_labelled() -> None:
    """The page names the model that wrote the code, and labels the offline model."""
    offline = render_report(GOOD, BRIEF, model="forge-offline-1")
    real = render_report(GOOD, BRIEF, model="gpt-4.1-mini")
    assert "No language model was involved" in offline
    assert "No language model was involved" not in real
    assert "gpt-4.1-mini" in real


def test_findings_are_listed() -> None:
    """The page has severity, check and message of each finding, and the score with its grade."""
    finding = Finding(check="props", severity="error", message="The prop <b>x</b> is missing.")
    page = render_report(Quality(score=65, findings=(finding,), used_tokens=1, known_tokens=2), BRIEF, model="m")
    assert "The prop &lt;b&gt;x&lt;/b&gt; is missing." in page
    assert 'class="score poor"' in page
    assert "1 of 2 custom properties are used" in page


def test_texts_are_escaped() -> None:
    """Names, values and reasons cannot add markup, not even in a style attribute."""
    evil = '"><script>alert(1)</script>'
    pattern = Pattern(id=evil, component_type="input", name="x", description="x", element="div")
    update = {"pattern": pattern, "css_variables": {f"--{evil}": f"#fff{evil}", "--ok": "#ffffff"}}
    brief = BRIEF.model_copy(
        update=update | {"blueprint": BRIEF.blueprint.model_copy(update={"name": evil + "x" * 10_000})}
    )
    page = outline(text := render_report(GOOD, brief, model=evil))
    assert "script" not in page.tags
    assert [value for name, value in page.attributes if name == "style"] == ["background:#ffffff"]
    assert len(text) < 20_000
