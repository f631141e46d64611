"""Tables over finished runs; reads workdirs only."""
