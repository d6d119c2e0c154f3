"""What training and forwards cost as lines of Markdown. A part of readme.py."""

from result_files import read


def speed() -> list[str]:
    """Sentences on overhead and throughput, as far as they were measured."""
    lines = []
    overhead = read("overhead-cpu")
    for result in overhead["results"] if overhead else []:
        ratio = result["overhead"]
        lines.append(
            f"- Forward over the bare base ({result['precision']}, 32 x 64 tokens, CPU): one LoRA "
            f"{ratio['one LoRA']:.2f}x (PEFT {ratio['PEFT, one LoRA']:.2f}x), 25 experts in one batch "
            f"{ratio['25 experts in one batch']:.2f}x (PEFT {ratio['PEFT, 25 experts in one batch']:.2f}x); adding the "
            f"128th expert takes {result['load']['ratio']:.2f} times the 2nd."
        )
    throughput = read("throughput-cpu")
    for result in throughput["results"] if throughput else []:
        memory = result["peak_memory_mib"]
        lines.append(
            f"- Training on {result['task']} ({result['precision']}, CPU), real tokens a second: "
            f"{result['ratio_to_default']:.2f}x Trainer + PEFT by default, "
            f"{result['ratio_to_best']:.2f}x its best configuration; peak memory {memory['weft']:,.0f} MiB beside "
            f"{memory['default/sdpa']:,.0f}."
        )
    return lines


def cost() -> list[str]:
    """What the variants cost beside plain LoRA."""
    result = read("variants-cost-cpu")
    if result is None:
        return []
    rows = [row for row in result["results"] if row["recipe"] != "lora"]
    slowest = sorted(rows, key=lambda row: -row["step_over_lora"])[:3]
    said = ", ".join(f"{row['recipe']} {row['step_over_lora']:.2f}x" for row in slowest)
    return [
        f"- A training step of {len(rows)} variants beside plain LoRA's (CPU, {result['settings']['precision']}): the "
        f"slowest are {said}."
    ]


def mixture_speed() -> list[str]:
    """What a mixture's forward and step take."""
    result = read("mixture-speed-cpu")
    lines = []
    for goal in result["targets"][:3] if result else []:
        name = goal["goal"].replace("many", "25 experts, single pass")
        said = ", ".join(f"{at} {own['mixture']:.2f}x" for at, own in goal["numbers"].items())
        lines.append(f"- {name} (at most {goal['limit']}x asked): {said}.")
    return lines
