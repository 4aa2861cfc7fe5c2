"""Peers with a valid certificate and no manners, against each of the three cores."""
