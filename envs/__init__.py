"""Tasks: each folder holds one environment family and registers itself under `dexjax.envs`."""
