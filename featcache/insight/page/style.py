"""How a page looks: light and dark, on a phone and on paper. Colours are named once, here."""

from __future__ import annotations

from collections.abc import Mapping

# Derived from Okabe and Ito (2008): each has a contrast of 3:1 or more to the page, as WCAG 2.2
# 1.4.11 asks, and any two differ for the colour-blind too (tests/insight/test_page.py).
SERIES_LIGHT = (
    *("#0072B2", "#D55E00", "#00493A", "#A42BE0"),
    *("#5F1E00", "#B58A6A", "#1F9E89", "#4B4B66"),
)
SERIES_DARK = (
    *("#4AA3E0", "#FF7A2E", "#E6FBF4", "#B066FF"),
    *("#FFD9A0", "#A5694B", "#12B886", "#7C8794"),
)
N_COLOURS = len(SERIES_LIGHT)
LIGHT = {
    "bg": "#FFFFFF",
    "raised": "#F4F5F7",
    "fg": "#1B1B1F",
    "muted": "#55555F",
    "line": "#C9CAD2",
    "heat": "#052F5F",
    "link": "#0B5394",
    "mark": "#9A3400",
}
DARK = {
    "bg": "#16171A",
    "raised": "#222429",
    "fg": "#E8E8EC",
    "muted": "#A9A9B5",
    "line": "#44464E",
    "heat": "#8CC4F5",
    "link": "#8CC4F5",
    "mark": "#FFB088",
}

_RULES = """
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0 auto;padding:1rem;max-width:72rem;background:var(--bg);color:var(--fg);
font:1rem/1.5 system-ui,sans-serif;overflow-wrap:break-word}
h1{font-size:1.6rem;line-height:1.25;margin:.5rem 0}
h2{font-size:1.25rem;margin:2.5rem 0 .5rem;padding-top:.5rem;border-top:1px solid var(--line)}
h3{font-size:1.05rem;margin:1.5rem 0 .25rem}
p,ul,ol,dl{max-width:46rem}
a{color:var(--link)}
.lead{font-size:1.15rem}
.muted,figcaption,caption{color:var(--muted);font-size:.9rem}
.mark{color:var(--mark);font-weight:600}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1rem;padding:0;list-style:none}
dl{display:grid;grid-template-columns:minmax(8rem,max-content) 1fr;gap:.15rem 1rem}
@media(max-width:40rem){dl{grid-template-columns:1fr}dd+dt{margin-top:.4rem}}
dt{color:var(--muted)}
dd{margin:0;min-width:0}
pre{background:var(--raised);padding:.6rem .8rem;overflow-x:auto;max-width:100%}
code{font:.85rem/1.45 ui-monospace,monospace}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:.25rem 0}
th,td{padding:.3rem .7rem .3rem 0;text-align:left;vertical-align:top;
border-bottom:1px solid var(--line)}
th{font-weight:600}
.n{text-align:right;white-space:nowrap}
thead th{vertical-align:bottom;white-space:normal}
td .muted{font-size:.8rem}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr));gap:1rem}
figure{margin:.5rem 0;min-width:0}
figcaption{margin-top:.15rem}
svg{display:block;width:100%;height:auto;max-width:32rem}
svg text{font:11px system-ui,sans-serif;fill:var(--fg);unicode-bidi:isolate}
svg .small{font-size:9px}
svg .muted{fill:var(--muted);font-size:11px}
.grid-line{stroke:var(--line);stroke-width:1;fill:none}
.axis-line{stroke:var(--muted);stroke-width:1;fill:none}
.whisker{stroke:var(--fg);stroke-width:1;fill:none}
.rule{stroke:var(--fg);stroke-width:1;stroke-dasharray:5 3;fill:none}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.dashed{stroke-dasharray:6 3}
.dots{fill:none;stroke-width:5;stroke-linecap:round}
.squares{fill:none;stroke-width:5;stroke-linecap:square}
.cloud{stroke-width:3.2}
.others{stroke:var(--line)}
.heat{fill:var(--heat)}
svg text.on-heat{fill:var(--bg)}
.legend{display:flex;flex-wrap:wrap;gap:.1rem .9rem;padding:0;margin:.2rem 0;list-style:none;
font-size:.85rem}
.legend svg{display:inline-block;width:1.4em;height:.8em;vertical-align:baseline}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:.8rem;
padding:0;list-style:none;max-width:none}
.pictures.pairs{grid-template-columns:repeat(auto-fill,minmax(14rem,1fr))}
.pictures li{background:var(--raised);padding:.5rem;font-size:.85rem;min-width:0}
.pictures p{margin:.3rem 0 0}
.pictures .side{display:flex;gap:.5rem}
.pictures .side figure{flex:1;margin:0}
.pictures img{display:block;width:100%;max-width:8rem;height:auto;image-rendering:auto}
summary{cursor:pointer;color:var(--link)}
:focus-visible{outline:2px solid var(--link);outline-offset:2px}
@page{margin:14mm}
@media print{
body{max-width:none;padding:0;font-size:10pt}
nav,summary{display:none}
h2,h3{break-after:avoid}
figure,tr,.scroll,.pictures li{break-inside:avoid}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
.scroll{overflow:visible}
table{font-size:8pt}
td .muted{font-size:7pt}
th,td{padding-right:.5rem;overflow-wrap:anywhere}
.n{white-space:normal}
details::details-content{content-visibility:visible;block-size:auto}
}
"""


def css() -> str:
    """Write the style sheet. On paper the colours are the light ones."""
    light, dark = _named(LIGHT, SERIES_LIGHT), _named(DARK, SERIES_DARK)
    series = "".join(
        f".s{i}{{stroke:var(--s{i})}}.f{i}{{fill:var(--s{i})}}" for i in range(N_COLOURS)
    )
    on_screen = f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return f":root{{{light}}}{on_screen}{_RULES}{series}"


def _named(colours: Mapping[str, str], series: tuple[str, ...]) -> str:
    by_name = {**colours, **{f"s{i}": colour for i, colour in enumerate(series)}}
    return "".join(f"--{name}:{colour};" for name, colour in by_name.items())
