"""How records leave the device; :mod:`.uplink` owns the thread, :mod:`.delivery` the rules."""
