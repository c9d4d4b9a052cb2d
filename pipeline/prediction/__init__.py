"""Photos of one's own, segmented with a finished model."""
