"""Looking at streams, events and consumers, and managing them: what operators ask for."""
