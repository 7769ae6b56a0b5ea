"""Many episodes at different turns, in asyncio, behind one object."""
