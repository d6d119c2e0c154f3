"""Find names in a tweet with an expert trained on WNUT17.

`python wnut17_empire_state.py RUN_FOLDER`
"""

import sys

from weft import predict

TWEET = (
    "@paulwalk It's the view from where I'm living for two weeks. Empire State Building=ESB. "
    "Pretty bad storm here last evening."
)

[answer] = predict(sys.argv[1], [TWEET])
for entity in answer["entities"]:
    place = f"characters {entity['start']}-{entity['end']}"
    print(f"{entity['type']}: {entity['text']}  ({place}, score {entity['score']:.2f})")
