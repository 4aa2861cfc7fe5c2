"""StarCore."""
