"""What is told of weights of timm's beside their names: their licence, and a trap of CLIP's."""

from __future__ import annotations

from featcache.backbones.timm_weights import TimmModel

# Parts of the names of licences that exclude commercial use.
_NON_COMMERCIAL = ("-nc-", "noncommercial", "non-commercial", "apple-amlr", "seer-license")
# CLIP weights of these were trained with QuickGELU; timm issues 1754 and 2031.
_QUICK = ("openai", "dfn", "metaclip")


def licence_notes(model: TimmModel) -> tuple[str, ...]:
    """Tell the licence of published weights, and warn of what people miss."""
    licence = model.published.license
    if licence is None or licence == "unknown":
        told = "the licence of these weights is not known to timm"
    elif any(part in licence.lower() for part in _NON_COMMERCIAL):
        told = f"warning: the licence of these weights is {licence}: not for commercial use"
    else:
        told = f"licence of the weights: {licence}"
    return (told, *quickgelu_notes(model))


def quickgelu_notes(model: TimmModel) -> tuple[str, ...]:
    """Warn of CLIP weights in a model of another activation than they were trained with."""
    from timm.models import get_pretrained_cfg, is_model_pretrained

    name, tag = model.architecture, model.published.tag or ""
    is_quick = tag.startswith(_QUICK) or any(f"_{part}" in tag for part in _QUICK)
    if "clip" not in name or "quickgelu" in name or not is_quick:
        return ()
    twin = f"{name.replace('clip', 'clip_quickgelu', 1)}.{tag}"
    has_twin = get_pretrained_cfg(twin) is not None and is_model_pretrained(twin)
    way_out = f" Use timm:{twin}." if has_twin else ""
    return (
        f"warning: CLIP weights {tag} were trained with QuickGELU, which {name} does not have: its "
        f"features are others than the authors'.{way_out}",
    )
