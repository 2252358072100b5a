"""Hands: kinematics, keypoints, collision spheres, contact candidates and joint orders."""

from dexjax.hands.geometry import (
    CollisionSpheres,
    ContactCandidates,
    collision_spheres,
    contact_candidates,
)
from dexjax.hands.hand import KEYPOINT_NAMES, CollisionGeom, Hand, hand_names, load_hand
from dexjax.hands.kinematics import (
    actuated_to_joint,
    body_points,
    fingertip_jacobian,
    fingertips,
    forward_kinematics,
    grasp_centre,
    joint_to_actuated,
    keypoints,
    limits,
)

__all__ = [
    "KEYPOINT_NAMES",
    "CollisionGeom",
    "CollisionSpheres",
    "ContactCandidates",
    "Hand",
    "actuated_to_joint",
    "body_points",
    "collision_spheres",
    "contact_candidates",
    "fingertip_jacobian",
    "fingertips",
    "forward_kinematics",
    "grasp_centre",
    "hand_names",
    "joint_to_actuated",
    "keypoints",
    "limits",
    "load_hand",
]
