"""Pages: one self-contained HTML file, for a report and for a page of pictures.

`document` is the page around its sections; `markup` writes and escapes elements; `style` is the
look. `table` and `pictures` are HTML, `lines`, `bars`, `scatter` and `heat_map` are inline SVG.
There is no script, and nothing is fetched: a rule in each page forbids both. No torch here.
"""
