"""What a head is worth: figures with intervals, comparison, tables and plots."""
