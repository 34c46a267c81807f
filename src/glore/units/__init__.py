"""Layers that let a network reason over the whole map: one paper a file, output shape equal to input shape."""

from glore.units.bottleneck import Bottleneck as Bottleneck
from glore.units.bottleneck import Bottleneck1d as Bottleneck1d
from glore.units.bottleneck import Bottleneck2d as Bottleneck2d
from glore.units.bottleneck import Bottleneck3d as Bottleneck3d
from glore.units.double_attention import DoubleAttention as DoubleAttention
from glore.units.double_attention import DoubleAttention1d as DoubleAttention1d
from glore.units.double_attention import DoubleAttention2d as DoubleAttention2d
from glore.units.double_attention import DoubleAttention3d as DoubleAttention3d
from glore.units.global_context import GlobalContext as GlobalContext
from glore.units.global_context import GlobalContext1d as GlobalContext1d
from glore.units.global_context import GlobalContext2d as GlobalContext2d
from glore.units.global_context import GlobalContext3d as GlobalContext3d
from glore.units.glore import GloRe as GloRe
from glore.units.glore import GloRe1d as GloRe1d
from glore.units.glore import GloRe2d as GloRe2d
from glore.units.glore import GloRe3d as GloRe3d
from glore.units.non_local import NonLocal as NonLocal
from glore.units.non_local import NonLocal1d as NonLocal1d
from glore.units.non_local import NonLocal2d as NonLocal2d
from glore.units.non_local import NonLocal3d as NonLocal3d
from glore.units.squeeze_excite import SqueezeExcite as SqueezeExcite
from glore.units.squeeze_excite import SqueezeExcite1d as SqueezeExcite1d
from glore.units.squeeze_excite import SqueezeExcite2d as SqueezeExcite2d
from glore.units.squeeze_excite import SqueezeExcite3d as SqueezeExcite3d
