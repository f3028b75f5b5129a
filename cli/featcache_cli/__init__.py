"""The terminal of featcache: parse, call one library function, show."""
