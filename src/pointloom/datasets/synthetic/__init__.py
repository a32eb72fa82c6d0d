"""Generated clips whose tracks are exact."""

from pointloom.datasets.synthetic.config import LayeredConfig
from pointloom.datasets.synthetic.layered import make_clip
from pointloom.datasets.synthetic.textures import TextureBank

__all__ = ["LayeredConfig", "TextureBank", "make_clip"]
