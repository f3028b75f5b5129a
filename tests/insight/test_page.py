"""The pieces of a page: what they escape, what they draw, and whether everybody can see it."""

from __future__ import annotations

import itertools
import math
import re

import pytest

from featcache.insight.page.axes import N_MARKS, Mark, Scale, legend, spanning
from featcache.insight.page.bars import Bar, bars, dots
from featcache.insight.page.document import POLICY, Section, document
from featcache.insight.page.heat_map import heat_map
from featcache.insight.page.lines import Line, lines
from featcache.insight.page.markup import code, element, joined, name, shortened
from featcache.insight.page.pictures import Picture, picture_rows, pictures
from featcache.insight.page.scatter import Cloud, scatter
from featcache.insight.page.style import DARK, LIGHT, SERIES_DARK, SERIES_LIGHT, css
from featcache.insight.page.table import facts, table
from tests.insight.pages import Reader, read

HOSTILE = "</title><script>alert(1)</script>\"'&\u202egnp.exe\x1b[31m\udcff\n"
PIXEL = "data:image/png;base64,AAAA"


def shape(reader: Reader) -> list[tuple[str, set[str]]]:
    """The tags of a page with the names of their attributes."""
    return [(tag, {*attributes}) for tag, attributes in reader.tags]


def whole_page(said: str) -> str:
    """A page with every piece, in which everything from outside is the same text."""
    marks = [Mark(0), Mark(1)]
    line = [Line(said, [(1.0, 0.5), (2.0, 0.25)], mark) for mark in marks]
    body = joined(
        table([said, "#n"], [[name(said), 3]], caption=said),
        facts({said: said, "left out": None}),
        code(said),
        pictures([Picture(PIXEL, said, said), Picture("", said, name(said))], label=said),
        picture_rows([([Picture(PIXEL, said, said)] * 2, said)], label=said),
        lines(line, x_title=said, y_title=said, caption=said, alt=said),
        bars([Bar(said, 0.5, 0.4, 0.6, said)], x_title=said, caption=said, alt=said),
        dots([Bar(said, 0.5)], x_title=said, caption=said, alt=said),
        scatter(
            [Cloud(said, [(0, 0), (1, 2)], Mark(9)), Cloud("others", [(1, 1)], None)],
            x_title=said,
            y_title=said,
            caption=said,
            alt=said,
        ),
        heat_map(
            [[3, 1], [0, 4]],
            [said, said],
            row_title=said,
            column_title=said,
            caption=said,
            alt=said,
        ),
    )
    sections = [Section("one", said, body), Section("two", said, joined(said))]
    return document(said, element("p", said), sections=sections, about=said, made=said)


def test_no_text_from_outside_becomes_markup() -> None:
    hostile, plain = read(whole_page(HOSTILE)), read(whole_page("plain"))

    assert shape(hostile) == shape(plain)
    assert hostile.wrong == hostile.open == []
    assert not [tag for tag, _ in hostile.tags if tag in ("script", "iframe", "link", "object")]


def test_nothing_invisible_stays_in_a_page() -> None:
    page = whole_page(HOSTILE)

    assert all(c.isprintable() or c == "\n" for c in page)
    assert r"\u202egnp.exe\x1b[31m\udcff\n" in page
    page.encode()  # and it can be written


def test_a_page_forbids_scripts_and_requests_before_anything_else() -> None:
    page = whole_page("plain")

    head = read(page).tags[:4]
    assert [tag for tag, _ in head] == ["html", "head", "meta", "meta"]
    assert head[3][1] == {"http-equiv": "Content-Security-Policy", "content": POLICY}
    assert POLICY.startswith("default-src 'none';")
    assert not re.search(r"https?://|url\(|@import|\son\w+=", page)


def test_headings_stand_in_order_and_anchors_are_unique() -> None:
    reader = read(whole_page("plain"))

    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch(r"h[1-6]", tag)]
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a"]
    assert levels == [1, 2, 2]
    assert len(ids) == len(set(ids))
    assert links == ["#one", "#two"]


def test_every_picture_says_what_it_shows() -> None:
    reader = read(whole_page("plain"))

    for tag, attributes in reader.tags:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes.get("aria-label") or attributes["aria-hidden"] == "true"


def test_a_picture_from_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match="a page fetches nothing"):
        Picture("https://example.org/a.png", "a", "a")


def test_many_cells_of_a_matrix_take_little_room() -> None:
    n = 100
    counts = [[100 if i == j else (i + j) % 3 for j in range(n)] for i in range(n)]

    shown = heat_map(
        counts, [str(k) for k in range(n)], row_title="r", column_title="c", caption="", alt="m"
    )

    assert len(shown) < 200_000
    assert "<text" in shown
    assert ">0<" not in shown  # no names


def test_a_line_of_one_epoch_is_a_dot_and_lines_beyond_the_marks_still_draw() -> None:
    one = lines([Line("a", [(1, 0.5)], Mark(0))], x_title="x", y_title="y", caption="", alt="one")
    many = lines(
        [Line(f"{i}", [(1, i), (2, i)], Mark(i)) for i in range(N_MARKS + 3)],
        x_title="x",
        y_title="y",
        caption="",
        alt="many",
    )

    assert 'class="s0 dots"' in one
    assert "<ul" not in one  # a legend of one line says nothing
    assert many.count("<li>") == N_MARKS
    assert many.count("line dashed") >= N_MARKS // 2


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.8664, 0.8771), (-3.0, 250_000.0), (5.0, 5.0), (1e-9, 3e-9)]
)
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    scale = spanning([low, high], 0, 100)

    ticks = scale.ticks()

    assert 1 <= len(ticks) <= 12
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    assert all(0 <= scale(tick) <= 100 for tick in ticks)
    assert ticks == sorted(set(ticks))


def test_a_scale_takes_its_ends_to_its_ends() -> None:
    scale = Scale(1.0, 3.0, 10.0, 50.0)

    assert (scale(1.0), scale(2.0), scale(3.0)) == (10.0, 30.0, 50.0)
    assert scale.ticks(4) == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_a_long_name_is_cut_where_it_has_no_room_and_whole_in_its_title() -> None:
    long = "a_class_with_a_name_that_never_ends"

    shown = bars([Bar(long, 0.5)], x_title="recall", caption="", alt="bars")

    assert shortened(long, 8) == "a_class…"
    assert f"<title>{long}</title>" in shown
    assert shown.count(long) == 1


def test_marks_of_one_colour_differ_in_form() -> None:
    forms = {(Mark(i).stroke, Mark(i).is_second) for i in range(N_MARKS)}

    assert len(forms) == N_MARKS
    assert legend([(Mark(8), "a")], of_dots=True).count("squares") == 1


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


def linear(colour: str) -> list[float]:
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("colours", "series"), [(LIGHT, SERIES_LIGHT), (DARK, SERIES_DARK)])
def test_text_and_marks_have_contrast(colours: dict[str, str], series: tuple[str, ...]) -> None:
    for text in ("fg", "muted", "link", "mark"):
        for ground in ("bg", "raised"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for colour in series:
        assert contrast(colour, colours["bg"]) >= 3
    assert set(colours) <= set(re.findall(r"var\(--(\w+)\)", css()))


# Machado, Oliveira and Fernandes (2009), severity 1: how each kind of colour blindness sees.
SEEN = {
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.01182, 0.04294, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.3039),
    ),
}


def lab(colour: str, kind: str) -> tuple[float, float, float]:
    """CIE L*a*b* of a colour as somebody sees it."""
    rgb = linear(colour)
    r, g, b = (
        min(1.0, max(0.0, sum(w * c for w, c in zip(row, rgb, strict=True)))) for row in SEEN[kind]
    )
    x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("kind", SEEN)
@pytest.mark.parametrize("series", [SERIES_LIGHT, SERIES_DARK], ids=["light", "dark"])
def test_any_two_marks_differ_for_the_colour_blind(series: tuple[str, ...], kind: str) -> None:
    differences = [
        math.dist(lab(a, kind), lab(b, kind)) for a, b in itertools.combinations(series, 2)
    ]

    assert min(differences) > 12  # 2.3 is just noticeable
