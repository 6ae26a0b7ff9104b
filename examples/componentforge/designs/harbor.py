"""Sample file "Harbor": eight components of a fictional online shop."""

from componentforge.designs.nodes import Node, NodeBuilder, Palette, Shadow, TextStyle
from componentforge.designs.sample_file import SampleComponent, SampleFile

__all__ = ["HARBOR"]

_PALETTE = Palette(
    family="Source Sans 3",
    colors={
        "teal/700": "#0f766e",
        "teal/800": "#115e59",
        "teal/50": "#f0fdfa",
        "amber/400": "#fbbf24",
        "amber/900": "#78350f",
        "rose/600": "#e11d48",
        "rose/50": "#fff1f2",
        "night/900": "#18181b",
        "night/500": "#71717a",
        "night/300": "#d4d4d8",
        "sand/0": "#fffefb",
        "sand/100": "#f5f3ef",
    },
    text_styles={
        "display": TextStyle(weight=700, size_px=22, line_px=28, tracking_px=-0.3),
        "title": TextStyle(weight=600, size_px=18, line_px=24),
        "text": TextStyle(weight=400, size_px=16, line_px=24),
        "strong": TextStyle(weight=600, size_px=16, line_px=24),
        "small": TextStyle(weight=400, size_px=13, line_px=18),
    },
    shadows={
        "lift": (Shadow(y_px=4, blur_px=12, opacity=0.08),),
        "sheet": (Shadow(y_px=24, blur_px=48, opacity=0.18), Shadow(y_px=2, blur_px=6, opacity=0.08)),
    },
)
_BUILD = NodeBuilder(_PALETTE)


def _solid_button(name: str, label: str, *, prop: str, stretch: bool = False) -> Node:
    return _BUILD.frame(
        name,
        _BUILD.text(f"{prop} label", label, style="strong", color="sand/0", prop=prop),
        padding=(10, 20),
        align=("CENTER", "CENTER"),
        fill="teal/700",
        radius=24,
        stretch=stretch,
    )


def _checkout_button() -> SampleComponent:
    variants: dict[str, Node] = {}
    for variant, fill, ink in (("Solid", "teal/700", "sand/0"), ("Soft", "teal/50", "teal/800")):
        for size, padding in (("Regular", (12, 24)), ("Compact", (6, 14))):
            variants[f"Variant={variant}, Size={size}"] = _BUILD.frame(
                "Root",
                _BUILD.text("Label", "Check out", style="strong", color=ink, prop="Label"),
                _BUILD.icon("Arrow icon", color=ink, size_px=20, shown_by="Show arrow"),
                gap=10,
                padding=padding,
                align=("CENTER", "CENTER"),
                fill=fill,
                radius=24,
                shadow="lift" if variant == "Solid" else None,
            )
    return SampleComponent(name="Button/Checkout", variants=variants)


def _product_card() -> SampleComponent:
    variants: dict[str, Node] = {}
    for arrangement in ("Vertical", "Horizontal"):
        upright = arrangement == "Vertical"
        copy = _BUILD.frame(
            "Details",
            _BUILD.text("Title", "Enamel mug", style="title", color="night/900", prop="Title"),
            _BUILD.text("Description", "350 ml, dishwasher safe", style="small", color="night/500", prop="Description"),
            _BUILD.frame(
                "Buy row",
                _BUILD.text("Price", "18,50 €", style="display", color="night/900", prop="Price"),
                _solid_button("Add button", "Add to cart", prop="Action"),
                gap=16,
                align=("SPACE_BETWEEN", "CENTER"),
                stretch=True,
            ),
            layout="VERTICAL",
            gap=8,
            padding=(16, 20),
            align=("MIN", "MIN"),
            stretch=True,
        )
        photo_size = (300, 220) if upright else (160, 160)
        variants[f"Layout={arrangement}"] = _BUILD.frame(
            "Root",
            _BUILD.shape("Product image", color="sand/100", width=photo_size[0], height=photo_size[1]),
            copy,
            layout="VERTICAL" if upright else "HORIZONTAL",
            align=("MIN", "MIN"),
            fill="sand/0",
            radius=20,
            shadow="lift",
            width=300 if upright else 520,
        )
    return SampleComponent(name="Card/Product", variants=variants)


def _review_card() -> SampleComponent:
    stars = [_BUILD.icon(f"Star icon {number}", color="amber/400", size_px=18) for number in range(1, 6)]
    root = _BUILD.frame(
        "Root",
        _BUILD.frame(
            "Reviewer",
            _BUILD.shape("Avatar", kind="ELLIPSE", color="teal/50", width=40, height=40),
            _BUILD.frame(
                "Who",
                _BUILD.text("Reviewer title", "Grace H.", style="strong", color="night/900", prop="Name"),
                _BUILD.text("Date", "3 days ago", style="small", color="night/500", prop="Date"),
                layout="VERTICAL",
                gap=2,
                align=("MIN", "MIN"),
            ),
            gap=12,
        ),
        _BUILD.frame("Rating", *stars, gap=2),
        _BUILD.text("Quote", "“Keeps tea warm for hours.”", style="text", color="night/900", prop="Quote"),
        layout="VERTICAL",
        gap=14,
        padding=(20, 24),
        align=("MIN", "MIN"),
        fill="sand/100",
        radius=20,
        width=360,
    )
    return SampleComponent(name="Card/Review", variants={"": root})


def _search_input() -> SampleComponent:
    variants = {
        f"State={state}": _BUILD.frame(
            "Root",
            _BUILD.text("Label", "Search the shop", style="small", color="night/500", prop="Label"),
            _BUILD.frame(
                "Field",
                _BUILD.icon("Search icon", color=ink, size_px=20),
                _BUILD.text("Placeholder", "Mugs, lamps, knives…", style="text", color="night/500", prop="Placeholder"),
                gap=12,
                padding=(10, 18),
                fill="sand/0",
                stroke=border,
                stroke_px=2 if state == "Focus" else 1,
                radius=28,
                stretch=True,
            ),
            layout="VERTICAL",
            gap=4,
            align=("MIN", "MIN"),
            width=420,
        )
        for state, border, ink in (("Default", "night/300", "night/500"), ("Focus", "teal/700", "teal/700"))
    }
    return SampleComponent(name="Input/Search", variants=variants)


def _cart_modal() -> SampleComponent:
    lines = [
        _BUILD.frame(
            f"Line {number}",
            _BUILD.text(f"Line item {number}", item, style="text", color="night/900"),
            _BUILD.text(f"Line price {number}", price, style="strong", color="night/900"),
            gap=24,
            align=("SPACE_BETWEEN", "CENTER"),
            stretch=True,
        )
        for number, (item, price) in enumerate((("Enamel mug", "18,50 €"), ("Oak tray", "42,00 €")), start=1)
    ]
    root = _BUILD.frame(
        "Root",
        _BUILD.frame(
            "Header",
            _BUILD.text("Title", "Your cart", style="display", color="night/900", prop="Title"),
            _BUILD.frame(
                "Close button",
                _BUILD.icon("Close icon", color="night/500", size_px=20),
                padding=(8, 8),
                fill="sand/100",
                radius=20,
            ),
            gap=16,
            align=("SPACE_BETWEEN", "CENTER"),
            stretch=True,
        ),
        _BUILD.frame("Lines", *lines, layout="VERTICAL", gap=12, align=("MIN", "MIN"), stretch=True),
        _BUILD.frame(
            "Total",
            _BUILD.text("Total body", "Total with delivery", style="text", color="night/500", prop="Total text"),
            _BUILD.text("Total price", "65,40 €", style="display", color="night/900", prop="Total"),
            gap=24,
            align=("SPACE_BETWEEN", "CENTER"),
            stretch=True,
        ),
        _solid_button("Checkout button", "Go to checkout", prop="Action", stretch=True),
        layout="VERTICAL",
        gap=24,
        padding=(28, 32),
        align=("MIN", "MIN"),
        fill="sand/0",
        radius=28,
        shadow="sheet",
        width=480,
    )
    return SampleComponent(name="Modal/Cart", variants={"": root})


def _discount_badge() -> SampleComponent:
    tones = {"Sale": ("rose/600", "sand/0"), "Member": ("amber/400", "amber/900"), "New": ("teal/50", "teal/800")}
    variants = {
        f"Tone={tone}": _BUILD.frame(
            "Root",
            _BUILD.text("Label", "20 % off", style="strong", color=ink, prop="Label"),
            padding=(2, 8),
            fill=fill,
            radius=6,
        )
        for tone, (fill, ink) in tones.items()
    }
    return SampleComponent(name="Badge/Discount", variants=variants)


def _stock_badge() -> SampleComponent:
    looks = {"Available": ("teal/50", "teal/800"), "Sold out": ("rose/50", "rose/600")}
    variants = {
        f"Stock={stock}": _BUILD.frame(
            "Root",
            _BUILD.icon("Stock icon", color=ink, size_px=14),
            _BUILD.text("Label", "In stock" if stock == "Available" else "Sold out", style="small", color=ink),
            gap=4,
            padding=(4, 10),
            fill=fill,
            stroke=ink,
            radius=14,
        )
        for stock, (fill, ink) in looks.items()
    }
    return SampleComponent(name="Badge/Stock", variants=variants)


def _store_navbar() -> SampleComponent:
    variants: dict[str, Node] = {}
    for breakpoint_name, names in (("Desktop", ("Kitchen", "Lighting", "Textiles")), ("Mobile", ("Menu",))):
        desktop = breakpoint_name == "Desktop"
        links = [
            _BUILD.frame(
                f"{name} link",
                _BUILD.text(f"{name} text", name, style="text", color="night/900"),
                padding=(6, 10),
            )
            for name in names
        ]
        variants[f"Breakpoint={breakpoint_name}"] = _BUILD.frame(
            "Root",
            _BUILD.text("Brand name", "Harbor", style="display", color="teal/800", prop="Brand"),
            _BUILD.frame("Links", *links, gap=8),
            _BUILD.frame(
                "Cart button",
                _BUILD.icon("Cart icon", color="teal/800", size_px=20),
                _BUILD.text("Cart label", "Cart", style="strong", color="teal/800", prop="Action"),
                gap=8,
                padding=(8, 16),
                fill="teal/50",
                radius=20,
            ),
            gap=40 if desktop else 12,
            padding=(16, 40) if desktop else (12, 16),
            align=("SPACE_BETWEEN", "CENTER"),
            fill="sand/0",
            shadow="lift",
            width=1200 if desktop else 390,
        )
    return SampleComponent(name="Navbar/Store", variants=variants)


HARBOR = SampleFile(
    name="Harbor Commerce Kit",
    version="4311900268",
    last_modified="2026-10-02T15:04:41Z",
    palette=_PALETTE,
    pages={
        "Shop": (_checkout_button(), _product_card(), _review_card(), _discount_badge(), _stock_badge()),
        "Shell": (_search_input(), _cart_modal(), _store_navbar()),
    },
    descriptions={
        "Button/Checkout": "Leads to the checkout. Compact in tables only.",
        "Card/Product": "One product; horizontal in lists.",
        "Badge/Discount": "A short offer. Never more than one a product.",
        "Navbar/Store": "The header of every shop page.",
    },
)
