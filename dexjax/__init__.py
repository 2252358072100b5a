"""dexjax: affordance-aware dexterous grasping in JAX: simulate, learn, generate, measure."""

__version__ = "0.1.0"
