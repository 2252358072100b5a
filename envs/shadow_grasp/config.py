"""Configuration of the grasp task: what may be set from the command line, with its unit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dexjax.sim.physics import physics_preset
from dexjax.sim.scene import SceneConfig


@dataclass(frozen=True)
class ActionConfig:
    """How 24 numbers in [-1, 1] move the hand (servoed base)."""

    base_speed: tuple[float, float] = (0.8, 2.0)
    """Fastest motion of the base target, m/s and rad/s."""
    base_lead: tuple[float, float] = (0.05, 0.25)
    """How far the base target may run ahead of the hand, m and rad."""
    workspace: tuple[float, float] = (0.4, 0.6)
    """Base target stays within |x|, |y| <= first and 0 <= z <= second, m."""
    angle_limit: tuple[float, float] = (1.6, 0.9)
    """Largest base yaw, and pitch and roll, rad."""
    finger_smoothing: float = 0.3
    """Share of the way to the new finger target taken per step."""


@dataclass(frozen=True)
class RewardConfig:
    """Weights of the reward terms per control step (before `scale`)."""

    scale: float = 0.2
    """Factor on the whole reward."""
    reach_thumb: float = 0.12
    """Thumb tip near the object surface: exp(-d / 4 cm)."""
    reach_fingers: float = 0.045
    """Each other fingertip near the surface: exp(-d / 4 cm)."""
    reach_palm: float = 0.2
    """Grasp centre near the surface: exp(-d / 5 cm)."""
    touch_thumb: float = 0.1
    """Thumb in contact."""
    touch_finger: float = 0.04
    """Each other finger in contact."""
    grip: float = 0.1
    """Thumb and another finger in contact, grasp centre within 8 cm."""
    squeeze: float = 0.3
    """Opposing force of thumb and fingers, saturating at 4 N."""
    lift: float = 1.0
    """Height gained, up to the goal height, while gripping; overshoot is penalised."""
    approach_goal: float = 3.0
    """Closeness of object and goal, linear, while gripping."""
    velocity_to_goal: float = 0.4
    """Base velocity towards the goal while gripping, saturating at 0.3 m/s."""
    goal: float = 1.5
    """exp(-distance / 6 cm) while gripping and off the table."""
    success: float = 1.5
    """Object within the success radius; 0.3 of it without a grip."""
    action: float = 0.003
    """Penalty on the squared action."""
    object_speed: float = 0.01
    """Penalty where the object moves faster than 2 m/s."""


@dataclass(frozen=True)
class ResetConfig:
    """Where an episode starts."""

    object_xy: float = 0.04
    """Object position drawn from +- this around the origin, m."""
    hand_xy: float = 0.01
    """Grasp centre drawn from +- this around the origin, m."""
    hand_height: float = 0.28
    """Height of the grasp centre above the table, m."""
    hand_angle: float = 0.05
    """Base angles drawn from +- this, rad."""
    mass_range: tuple[float, float] = (1.0, 1.0)
    """Factor on the object's mass, drawn log-uniformly per episode."""
    friction_range: tuple[float, float] = (1.0, 1.0)
    """Friction coefficient of the object, drawn uniformly per episode."""


@dataclass(frozen=True)
class ReleaseConfig:
    """What the releases of UniDexGrasp's task differ in; for `variant` unidexgrasp only.

    UniDexGrasp++: the defaults. AffordDex: `align_yaw`. UniDexGrasp: `align_yaw` and
    `observe_target`; goal-conditioned also `reward` unidexgrasp.
    """

    reward: Literal["unidexgrasp++", "unidexgrasp", "unigrasptransformer"] = "unidexgrasp++"
    """Reward of which release; unidexgrasp is its goal-conditioned one."""
    target_grasps: str = ""
    """File of the objects' target grasps, see `envs.shadow_grasp.targets`; one is drawn for each
    episode, and how the object lay with it."""
    align_yaw: bool = False
    """The hand starts turned like the target grasp, and the policy sees and acts in that frame."""
    observe_target: bool = False
    """Show the hand's offset from the target grasp; zeros otherwise."""
    hold_distances: tuple[float, float] = (0.2, 0.04)
    """UniGraspTransformer: hand and palm closer to the object's surface than this hold it, m;
    (0.3, 0.06) in its settings for many objects."""


@dataclass(frozen=True)
class ShadowGraspConfig:
    """Reach for an object on a table, lift it and hold it at a goal."""

    variant: Literal["servo", "unidexgrasp"] = "servo"
    """Task definition: our own with a servoed base, or UniDexGrasp++'s."""
    physics: str = "fast"
    """Physics preset while training."""
    evaluation_physics: str = ""
    """Physics preset of evaluations; empty: `reference`, or `unidexgrasp` for that variant, whose
    control period (1/30 or 1/60 s) holds in every preset."""
    scene: SceneConfig = field(default_factory=SceneConfig)
    """Hand, base and table."""
    sampler: Literal["uniform", "failure"] = "uniform"
    """Objects of training episodes: all alike, or those that fail more often drawn more often."""
    episode_length: int = 90
    """Control steps of an episode."""
    goal_height: float = 0.2
    """Goal above the object's start, m."""
    success_radius: float = 0.05
    """Object origin counts as at the goal within this distance, m."""
    hold_seconds: float = 1.0
    """`success_held`: at the goal for all of the last seconds of the episode, s."""
    base_policy: Literal["none", "scripted", "policy"] = "scripted"
    """Base action to which the learned one is added."""
    base_checkpoint: str = ""
    """Run folder of the frozen policy where `base_policy` is policy."""
    object_features: str = ""
    """File of the objects' shape features, .npz with `names` (N,) and `features` (N, 64), where
    `variant` is unidexgrasp; none: zeros."""
    residual_scale: float = 1.0
    """Factor on the learned action where there is a base action."""
    action: ActionConfig = field(default_factory=ActionConfig)
    """Action mapping."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """Reward weights."""
    reset: ResetConfig = field(default_factory=ResetConfig)
    """Initial states."""
    release: ReleaseConfig = field(default_factory=ReleaseConfig)
    """Which release of UniDexGrasp's task, where `variant` is unidexgrasp."""

    @property
    def reference_physics(self) -> str:
        """Physics preset of evaluations where none is chosen."""
        return "reference" if self.variant == "servo" else "unidexgrasp"

    @property
    def control_dt(self) -> float:
        """Seconds of a control step, in every physics preset."""
        return physics_preset(self.reference_physics).control_dt
