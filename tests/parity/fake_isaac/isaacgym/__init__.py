"""A stand-in for Isaac Gym: its tensor API over simple, exactly known motion. No physics."""
