"""Generated clips whose tracks are exact."""

from pointloom.datasets.synthetic.config import LayeredConfig
from pointloom.datasets.synthetic.layered import cover_clip, make_clip
from pointloom.datasets.synthetic.textures import TextureBank

__all__ = ["LayeredConfig", "TextureBank", "cover_clip", "make_clip"]
