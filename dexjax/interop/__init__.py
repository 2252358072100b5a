"""Adapters through which trainers of other projects run on dexjax environments."""
