"""Networks for others: as folders, on the Hugging Face hub, and once this is imported, by names `glore_…` in timm."""

from glore.hub.backbones import BACKBONES as BACKBONES
from glore.hub.card import Training as Training
from glore.hub.folders import from_pretrained as from_pretrained
from glore.hub.folders import push_to_hub as push_to_hub
from glore.hub.folders import save_pretrained as save_pretrained
from glore.hub.runs import save_run as save_run
