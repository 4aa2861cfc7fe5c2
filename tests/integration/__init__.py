"""Real processes over real TLS on loopback."""
