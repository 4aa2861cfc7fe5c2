"""Tests of the manager wing."""
