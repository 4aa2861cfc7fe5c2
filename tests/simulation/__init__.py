"""The seeded simulator: the three real cores under a virtual clock, over a network that cuts, stalls and forgets."""
