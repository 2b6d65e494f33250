"""Encoders behind one interface: from clips to features, so many a second.

Every encoder says its frame rate, its width, what it reads of a clip, and how it cuts long ones.
"""

from sinkscope.avsr.encoders.build import build_encoder
from sinkscope.avsr.encoders.encoder import Encoder
from sinkscope.avsr.encoders.tiny import TinyAudioEncoder, TinyVideoEncoder

__all__ = ["Encoder", "TinyAudioEncoder", "TinyVideoEncoder", "build_encoder"]
