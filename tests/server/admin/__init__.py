"""Tests of what operators ask for."""
