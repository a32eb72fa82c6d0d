"""Clips of things that fall, roll and collide, whose tracks are exact. Needs the extra `physics`."""

from pointloom.datasets.physics.config import PhysicsConfig
from pointloom.datasets.physics.film import FullClip, make_clip, make_full_clip
from pointloom.datasets.physics.obj import ModelBank

__all__ = ["FullClip", "ModelBank", "PhysicsConfig", "make_clip", "make_full_clip"]
