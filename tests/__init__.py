"""Tests of Windshift."""
