"""The client: futures on this side, bytes on the other."""
