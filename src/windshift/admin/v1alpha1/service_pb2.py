"""The messages of windshift/admin/v1alpha1/service.proto, for generated code that imports them from here."""

# Written by `make generate`. Do not edit.

from windshift._gen.windshift.admin.v1alpha1.service_pb2 import *
