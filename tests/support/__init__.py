"""What tests stand on: real servers, started and stopped by fixtures in conftest.py."""
