"""The sections of a report, a file each: from the material to what stands in the page."""
