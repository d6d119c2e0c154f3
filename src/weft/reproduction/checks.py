"""Where the study's figures, held against each other, do not agree."""

from decimal import ROUND_HALF_UP

from weft.reproduction.figures import Address
from weft.reproduction.published import Study


def uneven_times(study: Study) -> dict[Address, str]:
    """Where seconds, divided by epochs and rounded as printed, are not the printed seconds per epoch."""
    found = {}
    for figure in study.figures():
        if figure.address.metric != "seconds_per_epoch":
            continue
        seconds, epochs = (
            study.figure(figure.address._replace(metric=metric)).value
            for metric in ("seconds", "epochs")
        )
        own = (seconds / epochs).quantize(figure.value, rounding=ROUND_HALF_UP)
        if own != figure.value:
            found[figure.address] = (
                f"{seconds} s in {epochs} epochs are {own} s per epoch, {figure.printed} is printed"
            )
    return found


def slower_with_lora(study: Study) -> dict[Address, str]:
    """Where LoRA took longer than full fine-tuning, in all or for an epoch."""
    found = {}
    for figure in study.figures():
        own = figure.address
        if own.method != "lora" or own.metric not in ("seconds", "seconds_per_epoch"):
            continue
        full = study.figure(own._replace(method="full"))
        if figure.value > full.value:
            found[own] = f"LoRA took {figure.printed} s, full fine-tuning {full.printed} s"
    return found
