"""The services: from Protobuf to the domain and back. Nothing is decided here."""
