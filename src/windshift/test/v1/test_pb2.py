"""The messages of windshift/test/v1/test.proto, for generated code that imports them from here."""

# Written by `make generate`. Do not edit.

from windshift._gen.windshift.test.v1.test_pb2 import *
