"""Networks of timm and torchvision, untrained and without their classifiers, their parameters named as the library names them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..config import RunConfig
from ..errors import ConfigError, UserError, nearest

FIXED = ("pretrained", "weights", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "num_classes", "in_chans",
         "features_only", "drop_path_rate", "stochastic_depth_prob")  # fmt: skip


def build(config: RunConfig, channels: int, side: int) -> nn.Module:
    """The network of timm/NAME or torchvision/NAME for images of `side` px; nothing is downloaded.

    Raises ConfigError for unknown names and arguments that the network refuses, UserError where the library is not installed.
    """
    library, name = known(config.backbone.name)
    return (_timm if library == "timm" else _torchvision)(config, name, channels, side)


def known(backbone: str) -> tuple[str, str]:
    """(library, NAME) of timm/NAME or torchvision/NAME. Raises as `build`."""
    library, _, name = backbone.partition("/")
    names = _names(library)
    if name not in names:
        few = nearest(name, names) if "did you mean" in nearest(name, names) else f"such as {', '.join(sorted(names)[:3])}"
        raise ConfigError("backbone.name", f"got {backbone}; {few} ({library} has {len(names):,})")
    return library, name


def _names(library: str) -> Sequence[str]:
    if library == "torchvision":
        from torchvision import models

        return models.list_models(module=models)
    try:
        import timm
    except ImportError:
        raise UserError('backbone.name: timm/NAME needs timm: pip install "contray[timm]"') from None
    return timm.list_models()


def options_of(config: RunConfig) -> dict[str, Any]:
    """backbone.timm.options or backbone.torchvision.options as arguments of the constructor. Raises ConfigError."""
    key = f"backbone.{config.backbone.name.partition('/')[0]}.options"
    found: dict[str, Any] = {}
    for word in config.parts[key.rpartition(".")[0]].options:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(key, f"got {word!r}, must be name=value, such as drop_rate=0.1")
        if name in FIXED:
            raise ConfigError(
                key,
                f"got {word!r}; networks are untrained, give one vector and have no classifier, and stochastic depth is backbone.drop_path",
            )
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found


def timm_arguments(config: RunConfig, channels: int, side: int) -> list[dict[str, Any]]:
    """Arguments to try one after the other: networks of one image size are told it, and transformers asked to take any."""
    drop_path = {"drop_path_rate": config.backbone.drop_path} if config.backbone.drop_path else {}
    base = {"num_classes": 0, "in_chans": channels, **drop_path}
    sizes = [{"img_size": side, "dynamic_img_size": True}, {"img_size": side}, {}]
    return [{**base, **size, **options_of(config)} for size in sizes]


def _timm(config: RunConfig, name: str, channels: int, side: int) -> nn.Module:
    import timm

    net, _ = first(
        config, lambda given: timm.create_model(name, pretrained=False, **given), timm_arguments(config, channels, side)
    )
    _drop_paths(net, config.backbone.drop_path, rescale=False)
    out_dim: Any = getattr(net, "head_hidden_size", None) or net.num_features
    cut: Any = (getattr(net, "pretrained_cfg", None) or {}).get("classifier") or ()
    return _finished(net, out_dim, (cut,) if isinstance(cut, str) else tuple(cut))


def torchvision_arguments(config: RunConfig, side: int) -> list[dict[str, Any]]:
    """Arguments to try one after the other: no dropout before a classifier that is not there, no auxiliary classifiers."""
    sized = [{"image_size": side}] if config.backbone.name.startswith("torchvision/vit_") else []
    tries = [*sized, {"aux_logits": False, "init_weights": True, "dropout": 0.0}, {"dropout": 0.0}, {}]
    return [{**each, **options_of(config)} for each in tries]


def _torchvision(config: RunConfig, name: str, channels: int, side: int) -> nn.Module:
    from torchvision import models

    net, _ = first(config, lambda given: models.get_model(name, weights=None, **given), torchvision_arguments(config, side))
    _drop_paths(net, config.backbone.drop_path, rescale=True)
    place = classifier_of(net)
    layer: Any = net.get_submodule(place)
    net.set_submodule(place, nn.Identity())
    with_channels(net, channels)
    return _finished(net, layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels, (place,))


def _finished(net: Any, out_dim: int, classifiers: tuple[str, ...]) -> nn.Module:
    """classifiers: names of what the library's own weights have besides."""
    net.out_dim, net.classifiers = out_dim, classifiers
    return net


def published(name: str, tag: str = "") -> dict[str, Any]:
    """Settings of the images that a library's own weights of timm/NAME or torchvision/NAME were trained on; tag: which of timm's, else its default ones."""
    library, own = known(name)
    if library == "torchvision":
        from torchvision import models

        about: Any = models.get_model_weights(own).DEFAULT.transforms()  # pyright: ignore[reportAttributeAccessIssue]
        return {"views.image.size": about.crop_size[0], "augment.mean": tuple(about.mean), "augment.std": tuple(about.std)}
    import timm

    about = timm.get_pretrained_cfg(f"{own}.{tag}" if tag else own)
    if about is None:
        return {"views.image.size": 224}
    return {"views.image.size": about.input_size[-1], "augment.mean": about.mean, "augment.std": about.std}


def heads_of(name: str) -> int:
    """Heads of the attention of timm/NAME or torchvision/NAME, 0 where it has no blocks that tell."""
    library, own = known(name)
    with torch.device("meta"):
        if library == "torchvision":
            from torchvision import models

            blocks: Any = getattr(getattr(models.get_model(own, weights=None), "encoder", None), "layers", None)
            return getattr(getattr(blocks[0], "self_attention", None), "num_heads", 0) if blocks else 0
        import timm

        blocks = getattr(timm.create_model(own), "blocks", None)
        return getattr(getattr(blocks[0], "attn", None), "num_heads", 0) if blocks else 0


def pretrained(library: str, name: str) -> dict[str, torch.Tensor]:
    """The published weights of a network under the library's names, from its cache, else downloaded. Raises whatever hinders that."""
    if library == "torchvision":
        from torchvision import models

        return dict(models.get_model_weights(name).DEFAULT.get_state_dict(progress=False))  # pyright: ignore
    import timm

    return dict(timm.create_model(name, pretrained=True).state_dict())


def code(config: RunConfig, side: int) -> str:
    """Python that builds the network without contray, as `net`, ready for its weights; `load_file` reads them."""
    library, _, name = config.backbone.name.partition("/")
    plain = config.replace({"backbone.drop_path": 0})
    if library == "timm":
        import timm

        _, given = first(plain, lambda given: timm.create_model(name, **given), timm_arguments(plain, config.channels, side))
        lines = ["import timm", "from safetensors.torch import load_file", "", f"net = timm.create_model({_call(name, given)})"]
        return "\n".join(lines)
    from torchvision import models

    net, given = first(plain, lambda given: models.get_model(name, **given), torchvision_arguments(plain, side))
    lines = ["from safetensors.torch import load_file", "from torch import nn", "from torchvision.models import get_model", ""]
    lines += [f"net = get_model({_call(name, given)})", f'net.set_submodule("{classifier_of(net)}", nn.Identity())']
    if config.channels != 3:
        with_channels(net, config.channels)
        name, conv = next((name, layer) for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d))
        lines += [f'net.set_submodule("{name}", nn.{conv!r})']
    return "\n".join(lines)


def _call(name: str, given: dict[str, Any]) -> str:
    return ", ".join([f'"{name}"', *(f"{key}={value!r}" for key, value in given.items())])


def classifier_of(net: nn.Module) -> str:
    """The name of the last linear layer, or of the last convolution where there is none."""
    kinds = [[name for name, layer in net.named_modules() if isinstance(layer, kind)] for kind in (nn.Linear, nn.Conv2d)]
    return next(found[-1] for found in kinds if found)


def first(
    config: RunConfig, build: Callable[[dict[str, Any]], nn.Module], tries: list[dict[str, Any]]
) -> tuple[nn.Module, dict[str, Any]]:
    """The network of the first arguments that its constructor takes, and these. Raises ConfigError where it takes none."""
    name, said = config.backbone.name, ""
    for given in tries:
        try:
            return build(given), given
        except TypeError as error:
            said = str(error)
        except (AssertionError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            said = str(error) or type(error).__name__
            raise ConfigError("backbone.name", f"got {name}, which cannot be built with {_words(given)}: {said}") from None
    raise ConfigError("backbone.name", f"got {name}, which cannot be built with {_words(tries[-1])}: {said}")


def _words(given: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in given.items()) or "no arguments"


def _drop_paths(net: nn.Module, rate: float, rescale: bool) -> None:
    """Stochastic depth of none, or with `rescale` of `rate` at the layer that has most of it, where the library has rates of its own."""
    layers: list[Any] = [layer for layer in net.modules() if type(layer).__name__ in ("DropPath", "StochasticDepth")]
    key = {True: "p", False: "drop_prob"}[rescale]
    most = max((getattr(layer, key) for layer in layers), default=0.0)
    if rate and not most:
        raise ConfigError("backbone.drop_path", f"got {rate:g}, but this network has no stochastic depth; give 0")
    if rescale or not rate:
        for layer in layers:
            setattr(layer, key, getattr(layer, key) * rate / most if most else 0.0)


def with_channels(net: nn.Module, channels: int) -> None:
    """Give the first convolution another number of input channels, drawn anew."""
    conv: Any = next(layer for layer in net.modules() if isinstance(layer, nn.Conv2d))
    if channels != conv.in_channels:
        weight = torch.empty(conv.out_channels, channels, *conv.kernel_size)
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
        conv.weight, conv.in_channels = nn.Parameter(weight, conv.weight.requires_grad), channels
