"""Write golden_<hand>.npz: body positions of the released hands, for tests without their files.

Run from the repository root with ../shared present: python tests/hands/make_golden.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hand_references import (
    leap_reference,
    palm_frame_positions,
    random_postures,
    shadow_reference,
)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        references = {
            "shadow": (shadow_reference(Path(folder)), "robot0:palm"),
            "leap": (leap_reference(), "palm"),
        }
    for name, (model, palm) in references.items():
        qpos = random_postures(model, 40, seed=1).astype(np.float32)
        np.savez_compressed(
            Path(__file__).parent / f"golden_{name}.npz",
            qpos=qpos,  # rad
            position=palm_frame_positions(model, palm, qpos).astype(np.float32),  # m, palm frame
        )
