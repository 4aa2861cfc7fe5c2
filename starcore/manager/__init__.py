"""The manager: the one public machine of a star. It relays, decides, and never unpickles."""
