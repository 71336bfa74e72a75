"""gRPC over libnghttp2 and asyncio: server, client, reflection and health."""
