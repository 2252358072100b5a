"""How far our physics and task are from PhysX and Isaac Gym, measured: probes, traces, gates."""
