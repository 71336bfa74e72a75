"""The contract as a client in the field sees it: grpcio against the whole application and a real broker."""
