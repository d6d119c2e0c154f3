"""Let an expert trained on SWAG end a scene: `python swag_brass_band.py RUN_FOLDER`."""

import sys

from weft import predict

CONTEXT = "Members of the procession walk down the street holding small horn brass instruments."
CHOICES = [
    "A drum line passes by walking down the street playing their instruments.",
    "A drum line has heard approaching them.",
    "A drum line arrives and they're outside dancing and asleep.",
    "A drum line turns the lead singer watches the performance.",
]

[answer] = predict(sys.argv[1], [{"context": CONTEXT, "choices": CHOICES}])
for number, (choice, probability) in enumerate(zip(CHOICES, answer["probabilities"], strict=True)):
    print(f"{'>' if number == answer['label'] else ' '} {probability:.2f}  {choice}")
