"""Ways to run a backbone faster than eagerly; `trial` measures which of them pays."""
