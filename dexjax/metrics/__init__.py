"""What is measured of episodes and grasps, and how it is shown."""
