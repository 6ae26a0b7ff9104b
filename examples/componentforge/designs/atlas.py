"""Sample file "Atlas": eight components of a fictional software product's design system."""

from componentforge.designs.nodes import Node, NodeBuilder, Palette, Shadow, TextStyle
from componentforge.designs.sample_file import SampleComponent, SampleFile

__all__ = ["ATLAS"]

_PALETTE = Palette(
    family="Inter",
    colors={
        "brand/600": "#2563eb",
        "brand/700": "#1d4ed8",
        "brand/50": "#eff6ff",
        "danger/600": "#dc2626",
        "danger/700": "#b91c1c",
        "danger/50": "#fef2f2",
        "success/700": "#15803d",
        "success/50": "#f0fdf4",
        "warning/700": "#b45309",
        "warning/50": "#fffbeb",
        "ink/900": "#0f172a",
        "ink/600": "#475569",
        "ink/400": "#94a3b8",
        "line/200": "#e2e8f0",
        "surface/0": "#ffffff",
        "surface/100": "#f1f5f9",
    },
    text_styles={
        "heading/lg": TextStyle(weight=700, size_px=20, line_px=28, tracking_px=-0.2),
        "heading/sm": TextStyle(weight=600, size_px=16, line_px=24),
        "body/md": TextStyle(weight=400, size_px=14, line_px=20),
        "label/md": TextStyle(weight=600, size_px=14, line_px=20),
        "caption": TextStyle(weight=500, size_px=12, line_px=16, tracking_px=0.4),
    },
    shadows={
        "elevation/1": (Shadow(y_px=1, blur_px=2, opacity=0.06), Shadow(y_px=1, blur_px=3, opacity=0.1)),
        "elevation/3": (Shadow(y_px=20, blur_px=25, opacity=0.1, spread_px=-5),),
    },
)
_BUILD = NodeBuilder(_PALETTE)


def _action_button() -> SampleComponent:
    looks = {"Primary": "brand", "Secondary": "surface", "Danger": "danger"}
    variants: dict[str, Node] = {}
    for variant, color in looks.items():
        for state in ("Default", "Hover", "Disabled"):
            secondary = color == "surface"
            resting, hovered = ("surface/0", "surface/100") if secondary else (f"{color}/600", f"{color}/700")
            ink = "ink/900" if secondary else "surface/0"
            variants[f"Variant={variant}, State={state}"] = _BUILD.frame(
                "Root",
                _BUILD.icon("Icon", color=ink, shown_by="Show icon"),
                _BUILD.text("Label", "Save changes", style="label/md", color=ink, prop="Label"),
                gap=8,
                padding=(10, 16),
                align=("CENTER", "CENTER"),
                fill=hovered if state == "Hover" else resting,
                stroke="line/200" if secondary else None,
                radius=8,
                shadow="elevation/1" if state != "Disabled" else None,
                opacity=0.45 if state == "Disabled" else 1,
            )
    return SampleComponent(name="Button/Action", variants=variants)


def _upload_button() -> SampleComponent:
    variants = {
        f"Size={size}": _BUILD.frame(
            "Root",
            _BUILD.icon("Upload icon", color="brand/600", size_px=icon_px),
            _BUILD.frame(
                "Copy",
                _BUILD.text("Label", "Upload a file", style=style, color="brand/600", prop="Label"),
                _BUILD.text("Hint", "PNG or PDF, up to 10 MB", style="caption", color="ink/600", prop="Hint"),
                layout="VERTICAL",
                gap=2,
                align=("MIN", "MIN"),
            ),
            gap=icon_px / 2,
            padding=(padding, padding * 2),
            fill="brand/50",
            stroke="brand/600",
            radius=12,
        )
        for size, icon_px, padding, style in (("Medium", 20, 12, "label/md"), ("Large", 28, 18, "heading/sm"))
    }
    return SampleComponent(
        name="Button/Upload",
        variants=variants,
    )


def _article_card() -> SampleComponent:
    author = _BUILD.frame(
        "Author",
        _BUILD.shape("Avatar", kind="ELLIPSE", color="brand/50", width=32, height=32),
        _BUILD.text("Author name", "Ada Lovelace", style="caption", color="ink/600", prop="Author"),
        gap=8,
    )
    action = _BUILD.frame(
        "Read button",
        _BUILD.text("Action label", "Read more", style="label/md", color="brand/600", prop="Action"),
        padding=(8, 12),
        fill="brand/50",
        radius=6,
    )
    root = _BUILD.frame(
        "Root",
        _BUILD.shape("Cover image", color="surface/100", width=320, height=180),
        _BUILD.frame(
            "Content",
            _BUILD.text("Eyebrow", "ENGINEERING", style="caption", color="brand/600", prop="Eyebrow"),
            _BUILD.text("Title", "How we measure a pipeline", style="heading/lg", color="ink/900", prop="Title"),
            _BUILD.text(
                "Body",
                "One span for every agent shows where\na slow generation spends its time.",
                style="body/md",
                color="ink/600",
                prop="Body",
            ),
            _BUILD.frame("Footer", author, action, gap=24, align=("SPACE_BETWEEN", "CENTER"), stretch=True),
            layout="VERTICAL",
            gap=12,
            padding=(20, 20),
            align=("MIN", "MIN"),
            stretch=True,
        ),
        layout="VERTICAL",
        align=("MIN", "MIN"),
        fill="surface/0",
        stroke="line/200",
        radius=16,
        shadow="elevation/1",
        width=320,
    )
    return SampleComponent(name="Card/Article", variants={"": root})


def _pricing_card() -> SampleComponent:
    variants: dict[str, Node] = {}
    for plan, featured in (("Standard", False), ("Featured", True)):
        features = [
            _BUILD.frame(
                f"Feature {number}",
                _BUILD.icon("Check icon", color="success/700"),
                _BUILD.text(f"Feature text {number}", copy, style="body/md", color="ink/600"),
                gap=8,
            )
            for number, copy in enumerate(("Unlimited projects", "Shared token library", "Audit log"), start=1)
        ]
        variants[f"Plan={plan}"] = _BUILD.frame(
            "Root",
            _BUILD.text("Plan title", "Team", style="heading/sm", color="ink/900", prop="Title"),
            _BUILD.text("Price", "$24 per seat", style="heading/lg", color="ink/900", prop="Price"),
            _BUILD.frame("Features", *features, layout="VERTICAL", gap=8, align=("MIN", "MIN")),
            _BUILD.frame(
                "Choose button",
                _BUILD.text(
                    "Action label",
                    "Choose plan",
                    style="label/md",
                    color="surface/0" if featured else "brand/600",
                    prop="Action",
                ),
                padding=(10, 16),
                align=("CENTER", "CENTER"),
                fill="brand/600" if featured else "brand/50",
                radius=8,
                stretch=True,
            ),
            layout="VERTICAL",
            gap=16,
            padding=(24, 24),
            align=("MIN", "MIN"),
            fill="surface/0",
            stroke="brand/600" if featured else "line/200",
            stroke_px=2 if featured else 1,
            radius=16,
            shadow="elevation/3" if featured else "elevation/1",
            width=280,
        )
    return SampleComponent(name="Card/Pricing", variants=variants)


def _text_field() -> SampleComponent:
    borders = {"Default": "line/200", "Focus": "brand/600", "Error": "danger/600", "Disabled": "line/200"}
    variants = {
        f"State={state}": _BUILD.frame(
            "Root",
            _BUILD.text("Label", "Work email", style="label/md", color="ink/900", prop="Label"),
            _BUILD.frame(
                "Field",
                _BUILD.icon("Mail icon", color="ink/400", shown_by="Show icon"),
                _BUILD.text("Placeholder", "you@company.com", style="body/md", color="ink/400", prop="Placeholder"),
                gap=8,
                padding=(10, 12),
                fill="surface/100" if state == "Disabled" else "surface/0",
                stroke=border,
                stroke_px=2 if state in {"Focus", "Error"} else 1,
                radius=8,
                stretch=True,
            ),
            _BUILD.text(
                "Helper text",
                "Enter a valid address" if state == "Error" else "We never share it",
                style="caption",
                color="danger/600" if state == "Error" else "ink/600",
                prop="Helper",
            ),
            layout="VERTICAL",
            gap=6,
            align=("MIN", "MIN"),
            width=320,
            opacity=0.6 if state == "Disabled" else 1,
        )
        for state, border in borders.items()
    }
    return SampleComponent(name="Input/Text field", variants=variants)


def _confirm_modal() -> SampleComponent:
    actions = [
        _BUILD.frame(
            f"{name} button",
            _BUILD.text(f"{name} label", copy, style="label/md", color=ink, prop=name),
            padding=(10, 16),
            align=("CENTER", "CENTER"),
            fill=fill,
            stroke=stroke,
            radius=8,
        )
        for name, copy, ink, fill, stroke in (
            ("Cancel", "Keep it", "ink/900", "surface/0", "line/200"),
            ("Confirm", "Delete project", "surface/0", "danger/600", None),
        )
    ]
    root = _BUILD.frame(
        "Root",
        _BUILD.frame(
            "Header",
            _BUILD.text("Title", "Delete this project?", style="heading/lg", color="ink/900", prop="Title"),
            _BUILD.frame("Close button", _BUILD.icon("Close icon", color="ink/600"), padding=(6, 6), radius=6),
            gap=16,
            align=("SPACE_BETWEEN", "CENTER"),
            stretch=True,
        ),
        _BUILD.text(
            "Body",
            "All of its components and reports are removed.\nThis cannot be undone.",
            style="body/md",
            color="ink/600",
            prop="Body",
        ),
        _BUILD.frame("Actions", *actions, gap=12, align=("MAX", "CENTER"), stretch=True),
        layout="VERTICAL",
        gap=20,
        padding=(24, 24),
        align=("MIN", "MIN"),
        fill="surface/0",
        radius=16,
        shadow="elevation/3",
        width=440,
    )
    return SampleComponent(name="Modal/Confirm", variants={"": root})


def _status_badge() -> SampleComponent:
    tones = {"Neutral": ("surface/100", "ink/600"), "Success": ("success/50", "success/700")}
    tones |= {"Warning": ("warning/50", "warning/700"), "Danger": ("danger/50", "danger/700")}
    variants = {
        f"Tone={tone}": _BUILD.frame(
            "Root",
            _BUILD.shape("Dot", kind="ELLIPSE", color=ink, width=6, height=6, shown_by="Show dot"),
            _BUILD.text("Label", "Deployed", style="caption", color=ink, prop="Label"),
            gap=6,
            padding=(2, 10),
            fill=fill,
            radius=999,
        )
        for tone, (fill, ink) in tones.items()
    }
    return SampleComponent(name="Badge/Status", variants=variants)


def _main_navbar() -> SampleComponent:
    links = [
        _BUILD.frame(
            f"{name} link",
            _BUILD.text(f"{name} text", name, style="label/md", color="brand/600" if number == 0 else "ink/600"),
            padding=(8, 12),
            fill="brand/50" if number == 0 else None,
            radius=6,
        )
        for number, name in enumerate(("Dashboard", "Projects", "Reports", "Settings"))
    ]
    root = _BUILD.frame(
        "Root",
        _BUILD.frame(
            "Brand",
            _BUILD.icon("Logo", color="brand/600", size_px=24),
            _BUILD.text("Brand name", "Atlas", style="heading/sm", color="ink/900", prop="Brand"),
            gap=8,
        ),
        _BUILD.frame("Links", *links, gap=4),
        _BUILD.frame(
            "Sign in button",
            _BUILD.text("Action label", "Sign in", style="label/md", color="surface/0", prop="Action"),
            padding=(8, 14),
            fill="brand/600",
            radius=8,
        ),
        gap=32,
        padding=(12, 24),
        align=("SPACE_BETWEEN", "CENTER"),
        fill="surface/0",
        stroke="line/200",
        shadow="elevation/1",
        width=960,
    )
    return SampleComponent(name="Navbar/Main", variants={"": root})


ATLAS = SampleFile(
    name="Atlas Design System",
    version="4290713355",
    last_modified="2026-09-14T08:31:07Z",
    palette=_PALETTE,
    pages={
        "Actions": (_action_button(), _upload_button(), _status_badge()),
        "Containers": (_article_card(), _pricing_card(), _confirm_modal()),
        "Forms and navigation": (_text_field(), _main_navbar()),
    },
    descriptions={
        "Button/Action": "Starts an action. Use one primary button a view.",
        "Card/Pricing": "Shows one plan; only one plan may be featured.",
        "Modal/Confirm": "Asks before an action that cannot be undone.",
        "Input/Text field": "A single line of text with a label and help.",
    },
)
