"""The package for tests of programs that use Windshift."""
