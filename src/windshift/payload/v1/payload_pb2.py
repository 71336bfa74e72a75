"""The messages of windshift/payload/v1/payload.proto, for generated code that imports them from here."""

# Written by `make generate`. Do not edit.

from windshift._gen.windshift.payload.v1.payload_pb2 import *
