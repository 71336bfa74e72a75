"""The messages of windshift/admin/v1alpha1/principals.proto, for generated code that imports them from here."""

# Written by `make generate`. Do not edit.

from windshift._gen.windshift.admin.v1alpha1.principals_pb2 import *
