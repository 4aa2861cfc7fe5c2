"""Tests of the client wing."""
