"""Events: streams, publishing and consuming, without protobuf and without HTTP."""
